//! The nodes of each domain that tasks are spread over side by side, so that a search which is for few domains alone
//! computes what everybody there costs: cells know nothing of domains, and of a cell that looks cheap most nodes are in
//! others.
//!
//! Of the nodes of a domain those alike lie in rows of at most 16. A node has its place for as long as labels and
//! capacities stay as they are, so a change writes four figures. As in [`crate::index::cells`] they are of half the size,
//! rounded down, and only say who need not be looked at.

use std::ops::Range;

use fearless_simd::Level;

use crate::demand::DIMENSIONS;
use crate::filter::Verdict;
use crate::fleet::Fleet;
use crate::index::cells::{BEYOND, Kind};
use crate::index::columns::{Columns, Figures, rounded_down};
use crate::index::kernel;
use crate::index::profile::Profile;
use crate::index::tree::{NOWHERE, number};

/// How many nodes a row has at most.
pub(crate) const ROW: usize = kernel::FEW;
/// Domains of more rows than this lie as everybody does: what everybody there costs takes too long to compute.
const ROWS_EACH_MAX: usize = 64;

/// The figures of nodes alike of one domain. Where nobody is, or nobody who counts, stands [`BEYOND`].
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Row {
    live: [[f32; ROW]; DIMENSIONS],
}

/// The nodes that a profile lets through, domain by domain.
#[derive(Debug, Default)]
pub(crate) struct Domains {
    rows: Vec<Row>,
    /// Which kind the nodes of each row are of.
    owners: Vec<u32>,
    kinds: Vec<Kind>,
    /// The nodes of the rows; [`NOWHERE`] where there is none.
    lanes: Vec<u32>,
    /// The first row of each domain, and the end.
    starts: Vec<u32>,
    /// The place of each lane in `lanes`; [`NOWHERE`] for those that are in none.
    places: Vec<u32>,
    /// Up to where the fleet's journal was read.
    read: u64,
    base_log2: u32,
}

impl Domains {
    /// Whether a profile has domains, and these are so small that it is soon computed what everybody in one costs.
    pub(crate) fn are_worth_it(fleet: &Fleet, profile: &Profile) -> bool {
        let nodes_each = fleet.len() / profile.domains().max(1);
        !profile.shape().is_in_order() && nodes_each.div_ceil(ROW) <= ROWS_EACH_MAX
    }

    /// How many changes it has not heard of; `None` where it would begin anew.
    pub(crate) fn behind(&self, fleet: &Fleet) -> Option<u64> {
        let is_known = self.base_log2 == fleet.base_log2();
        let changes = fleet.journal().lanes_since(self.read).filter(|_| is_known);
        changes.map(|_| fleet.journal().end() - self.read)
    }

    /// Writes down the figures of the nodes that have changed.
    pub(crate) fn catch_up(&mut self, fleet: &Fleet, columns: &Columns, profile: &Profile) {
        let end = fleet.journal().end();
        let is_base_new = self.base_log2 != fleet.base_log2();
        if self.read == end && !is_base_new {
            return;
        }
        let changed = fleet.journal().lanes_since(self.read).filter(|_| !is_base_new);
        let is_done = changed
            .is_some_and(|mut lanes| lanes.all(|lane| self.set(lane, columns.node(lane as usize))));
        if !is_done {
            *self = Self::of(fleet, columns, profile);
        }
        (self.read, self.base_log2) = (end, fleet.base_log2());
    }

    /// Puts every node where it belongs.
    fn of(fleet: &Fleet, columns: &Columns, profile: &Profile) -> Self {
        let mut new = Self { places: vec![NOWHERE; fleet.lanes().len()], ..Self::default() };
        for domain in 0..profile.domains() {
            new.starts.push(number(new.rows.len()));
            let lanes = profile.shape().domain_lanes(domain).iter();
            let mut lanes: Vec<(u32, u32)> = lanes
                .filter_map(|lane| {
                    let points = profile.points_if_allowed(*lane as usize)?;
                    let class = columns.node(*lane as usize).class;
                    Some((new.kind(Kind { class, points }), *lane))
                })
                .collect();
            lanes.sort_unstable();
            for alike in lanes.chunk_by(|(one, _), (other, _)| one == other) {
                alike.chunks(ROW).for_each(|row| new.push(row));
            }
        }
        new.starts.push(number(new.rows.len()));
        for lane in 0..number(new.places.len()) {
            new.set(lane, columns.node(lane as usize));
        }
        new
    }

    /// The number of a kind.
    fn kind(&mut self, kind: Kind) -> u32 {
        let known = self.kinds.iter().position(|one| *one == kind);
        number(known.unwrap_or_else(|| {
            self.kinds.push(kind);
            self.kinds.len() - 1
        }))
    }

    /// Adds a row of nodes of one kind.
    fn push(&mut self, nodes: &[(u32, u32)]) {
        let end = self.lanes.len();
        self.rows.push(Row { live: [[BEYOND; ROW]; DIMENSIONS] });
        self.owners.extend(nodes.first().map(|(kind, _)| *kind));
        self.lanes.resize(end + ROW, NOWHERE);
        for (at, (_, lane)) in (end..).zip(nodes) {
            self.lanes[at] = *lane;
            self.places[*lane as usize] = number(at);
        }
    }

    /// A node stands here now. False where its place is none of its kind.
    fn set(&mut self, lane: u32, node: &Figures) -> bool {
        let Some(place) = self.places.get(lane as usize).copied() else { return false };
        if place == NOWHERE {
            return true;
        }
        let (row, slot) = (place as usize / ROW, place as usize % ROW);
        let counts = node.standing == Verdict::FEASIBLE && !node.is_stale;
        for (figures, live) in self.rows[row].live.iter_mut().zip(node.live) {
            figures[slot] = if counts { rounded_down(live) } else { BEYOND };
        }
        !counts || self.kinds[self.owners[row] as usize].class == node.class
    }

    /// What the nodes of each kind have in common.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = Kind> + Clone {
        self.kinds.iter().copied()
    }

    /// The rows of a domain.
    pub(crate) fn rows(&self, domain: usize) -> Range<u32> {
        self.starts[domain]..self.starts[domain + 1]
    }

    /// About what everybody in some rows costs, row by row, and the least two of these figures.
    pub(crate) fn costs(
        &self,
        level: Level,
        rows: &[u32],
        factors: &[[f32; DIMENSIONS]],
        costs: &mut [f32],
    ) -> [f32; 2] {
        let row = |row: u32| {
            let factors = factors.get(self.owners[row as usize] as usize);
            (&self.rows[row as usize].live, factors.unwrap_or(&[0.0; DIMENSIONS]))
        };
        kernel::costs_of_rows(level, rows, row, costs)
    }

    /// The node of a place in a row, if there is one.
    pub(crate) fn lane(&self, row: u32, slot: usize) -> Option<u32> {
        self.lanes.get(row as usize * ROW + slot).copied().filter(|lane| *lane != NOWHERE)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use longshore_proto::spec::{Resources, SchedulerKind, Spread};
    use longshore_proto::state::{Eligibility, NodeStatus};

    use super::*;
    use crate::Demand;
    use crate::cost::{dot, model};
    use crate::index::columns;
    use crate::testing::{demand, join_as, join_with, name, resources};

    /// Everybody who is let through and counts is in one row of its domain, with about what it costs, and nobody else is.
    fn check(fleet: &Fleet, wanted: &Demand<'_>, domains: &mut Domains, columns: &mut Columns) {
        let (model, level) = (model(SchedulerKind::Epvm), Level::new());
        let profile = Profile::of(fleet, wanted);
        columns.catch_up(fleet, model);
        domains.catch_up(fleet, columns, &profile);
        let factors = columns::factors(fleet, model, &wanted.amounts());
        let rough: Vec<[f32; DIMENSIONS]> =
            domains.kinds().map(|kind| factors[kind.class as usize].map(rounded_down)).collect();
        for domain in 0..profile.domains() {
            let rows: Vec<u32> = domains.rows(domain).collect();
            let mut costs = vec![f32::NAN; rows.len() * ROW];
            let least = domains.costs(level, &rows, &rough, &mut costs);
            let mut found = BTreeSet::new();
            for (at, rough) in costs.iter().copied().enumerate() {
                let lane = domains.lane(rows[at / ROW], at % ROW);
                let Some(lane) = lane.filter(|lane| {
                    let node = columns.node(*lane as usize);
                    node.standing == Verdict::FEASIBLE && !node.is_stale
                }) else {
                    assert!(rough > 1e30, "nobody counts there: {rough}");
                    continue;
                };
                let node = columns.node(lane as usize);
                let cost = dot(&node.live, &factors[node.class as usize]);
                let rough = f64::from(rough);
                assert!(rough <= cost * (1.0 + 1e-6) && rough >= cost * (1.0 - 1e-6));
                assert!(found.insert(lane), "each once");
            }
            let expected = profile.shape().domain_lanes(domain).iter().copied().filter(|lane| {
                let node = columns.node(*lane as usize);
                let counts = node.standing == Verdict::FEASIBLE && !node.is_stale;
                counts && profile.points_if_allowed(*lane as usize).is_some()
            });
            assert_eq!(found, expected.collect());
            costs.extend([f32::INFINITY; 2]);
            costs.sort_by(f32::total_cmp);
            assert_eq!(Some(&least[..]), costs.get(..2));
        }
    }

    #[test]
    fn everybody_has_a_place_in_its_domain_whatever_changes() {
        let (mut fleet, nodes) = (Fleet::default(), 300);
        let join = |fleet: &mut Fleet, node: u64, cores: u64| {
            let (rack, side) = ((node % 7).to_string(), (node % 2).to_string());
            let labels = [("rack", rack.as_str()), ("side", side.as_str())];
            join_with(fleet, &format!("n{node}"), resources(cores, 100), &labels);
        };
        let (spread, bound) =
            ([Spread::usual("label.rack".parse().unwrap())], ["label.side = 0".parse().unwrap()]);
        let all = Demand { spread: &spread, ..demand(3, 5) };
        let some = Demand { constraints: &bound, ..all };
        for node in 0..nodes {
            join(&mut fleet, node, 100 + node % 3);
            fleet.set_measured(&name(&format!("n{node}")), Some(Resources::ZERO));
        }
        let mut known = [all, some].map(|wanted| (wanted, Domains::default(), Columns::default()));
        for step in 0..200 {
            let node = step * 77 % nodes;
            let (named, generation) = (format!("n{node}"), fleet.generation());
            match step % 6 {
                0 | 1 => fleet.reserve(&name(&named), &demand(step % 40, step % 30)),
                2 => fleet.set_measured(&name(&named), Some(resources(step % 90, 1))),
                // Of another capacity that is known.
                3 => join(&mut fleet, node, 100 + step % 2),
                4 => fleet.set_measured(&name(&named), None),
                _ => join_as(
                    &mut fleet,
                    &named,
                    resources(100, 100),
                    NodeStatus::Ready,
                    Eligibility::Draining,
                ),
            }
            for (wanted, domains, columns) in &mut known {
                if fleet.generation() != generation {
                    // Labels were taken from it, so the profile is another one.
                    *domains = Domains::default();
                }
                check(&fleet, wanted, domains, columns);
            }
        }
        fleet.remove(&name("n1"));
        for (wanted, _, columns) in &mut known {
            check(&fleet, wanted, &mut Domains::default(), columns);
        }
    }
}
