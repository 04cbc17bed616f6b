//! The best node for a demand without anything that was found out about it before: what a change costs then does not
//! depend on how many demands there are.
//!
//! Whoever may be the best is judged as everybody else is, by the same figures; cells only say who need not be.
//!
//! | module | what lives there |
//! |---|---|
//! | [`level`] | where tasks are spread: the least crowded domains |

mod level;

use crate::cost::{Rank, dot};
use crate::filter::Verdict;
use crate::fleet::GroupId;
use crate::fleet::lanes::BLOCK;
use crate::index::Ground;
use crate::index::cells::{CELL, Cells, Kind};
use crate::index::columns::rounded_down;
use crate::index::judgement::Judgement;
use crate::index::kernel;
use crate::index::pools::Pooled;
use crate::index::view::{Pick, View};
use level::Crowding;

/// A search gives up after so much effort, or one for so many nodes, if that is more: where many are alike, or few of the
/// cheap ones can take the task, what a view remembers is quicker; but to make a view takes the longer the more nodes there
/// are. To pass by a node is the unit, and to look at one is so many.
const EFFORT_MIN: usize = 2048;
const LANES_PER_EFFORT: usize = 16;
const LOOK_EFFORT: usize = 4;
/// Of the cells whose bound is between the lowest and what the best node so far costs, the first part is looked through before
/// the others are thought of.
const NEAR: f32 = 0.25;
/// But of so few cells all are thought of at once.
const AT_ONCE_MAX: usize = 128;
/// So many of the cells that may have the best node are looked into in the order of their bounds: after that, hardly any is
/// left.
const CELLS_IN_ORDER: usize = 32;
/// So many of a cell are looked at in the order of what they seem to cost, before as many have been found as are asked for.
const IN_ORDER_MAX: usize = 4;
/// Nobody is searched for among more nodes than this that have no fresh measurement.
const STALE_MAX: usize = 64;
/// How many times as much as its rough cost a node may cost at most, and the other way round, with much to spare: a
/// rough cost is a sum of four products, each figure of which is within 2^-23 of what it should be.
const SLACK: f64 = 1.0 + 1.0 / (1 << 18) as f64;

/// What a search has found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(super) best: Option<Pick>,
    /// Whom [`Found::best`] beat; known only where it was asked for.
    pub(super) next: Option<Pick>,
}

/// What searches write down on their way, in memory that is there from the last one.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// What nobody in each patch of cells costs less than.
    bounds: Vec<f32>,
    /// The cells that may have the best node, each behind the bits of what nobody there costs less than (which are in the
    /// order of what they stand for).
    ahead: Vec<u64>,
    /// The rows of the least crowded domains, and about what everybody there costs.
    rows: Vec<u32>,
    costs: Vec<f32>,
}

/// Where a node stands, and what its costs are multiplied by for its points and for its domain.
#[derive(Debug, Clone, Copy)]
struct Standing {
    rank: Rank,
    weight: f64,
    apart: f64,
}

impl Standing {
    const NONE: Self = Self { rank: Rank::NONE, weight: 1.0, apart: 1.0 };

    fn cost(&self) -> f64 {
        self.rank.first
    }

    fn lane(&self) -> u32 {
        self.rank.key.lane
    }

    fn is_before(&self, other: &Self) -> bool {
        self.rank.order(&other.rank).is_lt()
    }

    fn pick(&self) -> Option<Pick> {
        let Self { apart, weight, .. } = *self;
        self.rank.key.is_some().then_some(Pick { lane: self.lane(), apart, weight })
    }
}

/// The best two nodes so far.
type Best = [Standing; 2];

/// A node is among the best two if it is before one of them.
fn add(best: &mut Best, one: Standing) {
    let [first, second] = best;
    if one.is_before(first) {
        *best = [one, *first];
    } else if one.is_before(second) {
        *second = one;
    }
}

/// A search under way.
#[derive(Debug)]
struct Search<'s> {
    ground: &'s Ground<'s>,
    nodes: &'s Judgement,
    cells: &'s Cells,
    with_next: bool,
    kin: Option<GroupId>,
    crowding: Option<Crowding<'s>>,
    /// Whether somebody in a least crowded domain can take the task, as far as is known: the others are measured by that.
    is_level_met: bool,
    /// Whether everybody in the least crowded domains has been looked at.
    is_level_done: bool,
    /// At least what points make of any cost, but for those that cells tell apart, and with those.
    weight_least: f64,
    weight_of_all: f64,
    /// Nobody whose rough cost is above this is among those that are asked for.
    most: f32,
    effort: usize,
    effort_max: usize,
    fresh: Best,
    stale: Best,
}

impl View {
    /// Whether the best node can be searched for.
    pub(super) fn is_searchable(&self, ground: &Ground<'_>) -> bool {
        ground.model.is_some() && ground.popular.is_none() && !self.nodes.looks_at_company()
    }

    /// Searches for the best node, and for the next one if that is asked for. `None` where it gives up.
    pub(super) fn search(
        &mut self,
        ground: &Ground<'_>,
        Pooled { cells, tells_apart, domains }: Pooled<'_>,
        notes: &mut Notes,
        with_next: bool,
    ) -> Option<Found> {
        let is_spread = !self.nodes.profile.shape().is_in_order();
        if cells.stale().len() > if is_spread { 0 } else { STALE_MAX } {
            return None;
        }
        if is_spread {
            self.hear_spread(ground);
        }
        self.nodes.fit_factors(ground);
        if let Some(domains) = domains {
            self.nodes.of_domains.fit(ground, &self.nodes.factors, domains.kinds());
        }
        self.nodes.of_cells.fit(ground, &self.nodes.factors, cells.kinds());
        let nodes = &self.nodes;
        let points = nodes.domain_points();
        let crowding = kernel::least_number(ground.level, points).map(|least| Crowding {
            points,
            least,
            apart_least: rounded_down(nodes.apart_min(ground)),
        });
        let mut search = Search {
            ground,
            nodes,
            cells,
            with_next,
            kin: nodes.company.kin.filter(|_| nodes.demand.anti_affinity > 0),
            crowding,
            is_level_met: false,
            is_level_done: false,
            weight_least: nodes.weight_least(ground, tells_apart),
            weight_of_all: nodes.weight_least(ground, false),
            most: f32::INFINITY,
            effort: 0,
            effort_max: EFFORT_MIN.max(ground.fleet.lanes().len() / LANES_PER_EFFORT),
            fresh: [Standing::NONE; 2],
            stale: [Standing::NONE; 2],
        };
        for lane in cells.stale() {
            search.look(*lane, ground.columns.node(*lane as usize).class, true);
        }
        if let Some(few) = nodes.profile.few() {
            few.iter().for_each(|lane| search.look_if_fresh(*lane));
        } else {
            search.look_at_level(domains, notes)?;
            if search.is_level_done && !search.is_level_met {
                return None;
            }
            search.sweep(notes)?;
        }
        if !search.is_level_sure() {
            return None;
        }
        let (fresh, stale) = (search.fresh, search.stale);
        let best = self.choose(ground, fresh[0].pick(), stale[0].pick());
        let next = best.filter(|_| with_next).and_then(|best| {
            if fresh[0].lane() == best.lane {
                self.choose(ground, fresh[1].pick(), stale[0].pick())
            } else {
                self.choose(ground, fresh[0].pick(), stale[1].pick())
            }
        });
        Some(Found { best, next })
    }
}

impl Search<'_> {
    /// Whoever comes after this is not asked for.
    fn last(&self) -> &Standing {
        &self.fresh[usize::from(self.with_next)]
    }

    /// Looks at one node that nothing stands in the way of, of a class of capacity; all of those without a fresh
    /// measurement count, and of the others the best.
    fn look(&mut self, lane: u32, class: u32, of_stale: bool) {
        self.effort += 1;
        let (at, nodes, ground) = (lane as usize, self.nodes, self.ground);
        if nodes.profile.allowed(at / BLOCK) >> (at % BLOCK) & 1 == 0 {
            return;
        }
        self.effort += LOOK_EFFORT - 1;
        let node = ground.columns.node(at);
        let Some(factors) = nodes.factors.get(class as usize) else { return };
        // Most are behind without what lies further away.
        let cost = dot(&node.live, factors);
        if !of_stale && cost * self.weight_of_all > self.last().cost() {
            return;
        }
        if !nodes.has_room_at(node) {
            return;
        }
        let apart = self.apart(at);
        self.is_level_met |= apart == 1.0;
        let weight = nodes.weight_now(ground, lane, self.kin);
        let key = nodes.key_weighing(ground, at, node, weight);
        let one = Standing { rank: Rank::new(ground.kind, key, apart), weight, apart };
        if of_stale {
            return add(&mut self.stale, one);
        }
        if one.is_before(self.last()) && self.fresh.iter().all(|known| known.lane() != lane) {
            add(&mut self.fresh, one);
            let most = self.last().cost() / self.weight_least * SLACK;
            self.most = (most as f32).next_up() + f32::MIN_POSITIVE;
        }
    }

    fn look_if_fresh(&mut self, lane: u32) {
        let node = self.ground.columns.node(lane as usize);
        if node.standing == Verdict::FEASIBLE && !node.is_stale {
            self.look(lane, node.class, false);
        }
    }

    /// The bound up to which cells are looked into.
    fn most_of_cells(&self) -> f32 {
        match self.crowding {
            Some(Crowding { apart_least, .. }) if self.is_level_done => self.most / apart_least,
            _ => self.most,
        }
    }

    /// Looks through all cells whose bound is not too high, those with the lowest ones first.
    fn sweep(&mut self, notes: &mut Notes) -> Option<()> {
        let level = self.ground.level;
        let (factors, most) = (&self.nodes.of_cells.factors, self.most_of_cells());
        let found = self.cells.bounds(level, factors, most, &mut notes.bounds);
        // Who is the best where most is promised says who else need be looked at.
        let Some((least, first)) = found else { return Some(()) };
        if least > self.most_of_cells() {
            return Some(());
        }
        self.look_into(first)?;
        let (mut above, most) = (f32::NEG_INFINITY, self.most_of_cells());
        if most.is_finite() && self.cells.len() > AT_ONCE_MAX {
            // Of very many that may be as good those that promise most say that hardly any other is.
            let near = least + (most - least) * NEAR;
            self.look_between(notes, first, (above, near))?;
            above = near;
        }
        if above < self.most_of_cells() {
            self.look_between(notes, first, (above, self.most_of_cells()))?;
        }
        Some(())
    }

    /// Looks through the cells whose bound is above the one figure and not above the other, but for the first one.
    fn look_between(
        &mut self,
        notes: &mut Notes,
        first: u32,
        (above, most): (f32, f32),
    ) -> Option<()> {
        let Notes { bounds, ahead, .. } = notes;
        let (cells, level, factors) = (self.cells, self.ground.level, &self.nodes.of_cells.factors);
        ahead.clear();
        kernel::each_at_most(level, bounds, most, |patch| {
            cells.each_within(level, patch, factors, most, |bound, cell| {
                if bound > above && cell != first {
                    ahead.push(u64::from(bound.to_bits()) << 32 | u64::from(cell));
                }
            });
        });
        for _ in 0..CELLS_IN_ORDER {
            let Some(at) = (0..ahead.len()).min_by_key(|at| ahead[*at]) else { return Some(()) };
            let (_, cell) = halves(ahead.swap_remove(at));
            self.look_into(cell)?;
            let most = self.most_of_cells();
            ahead.retain(|one| halves(*one).0 <= most);
        }
        for (bound, cell) in ahead.drain(..).map(halves) {
            if bound <= self.most_of_cells() {
                self.look_into(cell)?;
            }
        }
        Some(())
    }

    fn look_into(&mut self, cell: u32) -> Option<()> {
        let Some((cell, group)) = self.cells.cell(cell) else { return Some(()) };
        let group = group as usize;
        let nodes = self.nodes;
        let Some(factors) = nodes.of_cells.factors.get(group) else { return Some(()) };
        let Some(Kind { class, .. }) = nodes.of_cells.kinds.get(group).copied() else {
            return Some(());
        };
        let level = self.ground.level;
        let mut costs = [0.0; CELL];
        let mut bits = cell.within(level, factors, self.most, &mut costs);
        if let Some(crowding) = self.crowding {
            self.set_apart(crowding, cell, bits, &mut costs);
            bits &= kernel::at_most(level, &costs, self.most);
        }
        // Whoever seems to be the best most often is: then hardly any other need be looked at.
        let mut in_order = 0;
        while self.most == f32::INFINITY && bits != 0 && in_order < IN_ORDER_MAX {
            let lowest = kernel::lowest(level, &costs).1 & bits;
            let slot = if lowest == 0 { bits } else { lowest }.trailing_zeros() as usize;
            self.look(cell.lane(slot), class, false);
            costs[slot] = f32::INFINITY;
            (bits, in_order) = (bits & !(1 << slot), in_order + 1);
        }
        if in_order > 0 {
            bits &= kernel::at_most(level, &costs, self.most);
        }
        while bits != 0 {
            let slot = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            if costs[slot] <= self.most {
                self.look(cell.lane(slot), class, false);
            }
        }
        (self.effort <= self.effort_max).then_some(())
    }
}

/// What nobody in a cell costs less than, and which it is.
fn halves(ahead: u64) -> (f32, u32) {
    (f32::from_bits((ahead >> 32) as u32), ahead as u32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use longshore_proto::constraint::Constraint;
    use longshore_proto::name::{JobKey, Namespace};
    use longshore_proto::spec::{Affinity, Resources, SchedulerKind, Spread};

    use crate::index::{Ask, Index};
    use crate::testing::{demand, join, join_with, name, port, resources};
    use crate::{Demand, Fleet, GroupId, Policy, plain};

    /// So many measured nodes, of which no two are loaded alike.
    fn fleet(nodes: u64) -> Fleet {
        let mut fleet = Fleet::default();
        for node in 0..nodes {
            let named = format!("n{node}");
            let zone = if node % 2 == 0 { "a" } else { "b" };
            join_with(&mut fleet, &named, resources(1000, 1000), &[("zone", zone)]);
            fleet.set_measured(&name(&named), Some(Resources::ZERO));
            fleet.reserve(&name(&named), &demand(node * 7 % nodes, node * 13 % nodes));
        }
        fleet
    }

    /// The node that is found by a search; `None` where there was none.
    fn found(fleet: &Fleet, demand: &Demand<'_>, kind: SchedulerKind, ask: Ask) -> Option<String> {
        let mut index = Index::new(kind);
        let (view, _) = index.view(fleet, demand, ask);
        let found = view.found?;
        let best = found.best?;
        let next = plain::place(fleet, demand, Policy::new(kind, None)).unwrap();
        let next = next.explanation.runner_up.map(|(name, _)| name);
        let second = found.next.and_then(|next| next.name(fleet).cloned());
        assert_eq!(second, next.filter(|_| ask == Ask::Reason));
        best.name(fleet).map(ToString::to_string)
    }

    #[test]
    fn the_best_is_searched_for_where_costs_and_room_decide() {
        let fleet = fleet(400);
        for kind in [SchedulerKind::Epvm, SchedulerKind::Spread, SchedulerKind::Binpack] {
            for ask in [Ask::Best, Ask::Reason] {
                let wanted = demand(3, 5);
                let placed = plain::place(&fleet, &wanted, Policy::new(kind, None)).unwrap();
                assert_eq!(found(&fleet, &wanted, kind, ask), Some(placed.node.to_string()));
            }
        }
        let spread = [Spread::usual("label.zone".parse().unwrap())];
        let apart = Demand { spread: &spread, ..demand(3, 5) };
        assert!(found(&fleet, &apart, SchedulerKind::Epvm, Ask::Best).is_some());
    }

    #[test]
    fn costs_beyond_figures_of_half_the_size_keep_nobody_out() {
        // With so many nodes as many points as there can be make more of a cost than such a figure holds.
        let nodes = 4_200;
        let mut fleet = Fleet::default();
        for node in 0..nodes {
            let named = name(&format!("n{node}"));
            // The larger ones cost less, and are told of after the others.
            let capacity = resources(500 + 500 * (node % 2), 500 + 500 * (node % 2));
            join_with(&mut fleet, named.as_str(), capacity, &[("zone", "a")]);
            fleet.set_measured(&named, Some(Resources::ZERO));
            fleet.reserve(&named, &demand(node * 7 % 350, node * 13 % 350));
        }
        let constraint: Constraint = "label.zone exists".parse().unwrap();
        let disliked = Affinity { constraint, weight: -100 };
        let affinities = vec![disliked; 10];
        let mut index = Index::new(SchedulerKind::Epvm);
        // Asked so often, what all are disliked by gets cells of its own.
        for size in 1..120 {
            let wanted = Demand { affinities: &affinities, ..demand(size, 121 - size) };
            let (view, ground) = index.view(&fleet, &wanted, Ask::Best);
            let best = view.pick(&ground).unwrap();
            let placed = plain::place(&fleet, &wanted, Policy::Epvm).unwrap().node;
            assert_eq!(best.name(&fleet), Some(&placed), "{size}");
        }
    }

    #[test]
    fn a_node_of_a_crowded_domain_is_found_where_it_is_the_best() {
        let mut fleet = fleet(400);
        for node in (0..400).step_by(2) {
            fleet.reserve(&name(&format!("n{node}")), &demand(300, 300));
        }
        let job = JobKey { namespace: Namespace::standard(), name: "web".parse().unwrap() };
        let kin = Some(GroupId::of_spec(&job, &"main".parse().unwrap()));
        for weight in [1, 50] {
            let spread = [Spread { attribute: "label.zone".parse().unwrap(), weight }];
            let apart = Demand { spread: &spread, kin, ..demand(3, 5) };
            let mut zones = BTreeSet::new();
            for _ in 0..12 {
                fleet.reserve(&name("n399"), &apart);
                let placed = plain::place(&fleet, &apart, Policy::Epvm).unwrap().node;
                for ask in [Ask::Best, Ask::Reason] {
                    let found = found(&fleet, &apart, SchedulerKind::Epvm, ask);
                    assert_eq!(found, Some(placed.to_string()), "weight {weight}");
                }
                zones.insert(fleet.node(&placed).unwrap().labels["zone"].clone());
            }
            // All tasks of its kind are in zone b, where more is free: that decides if each counts for little.
            assert_eq!(zones.contains("b"), weight == 1, "weight {weight}: {zones:?}");
        }
    }

    #[test]
    fn whoever_lacks_room_is_counted_in_few_blocks_and_in_many() {
        let mut fleet = fleet(800);
        let mut index = Index::new(SchedulerKind::Epvm);
        let full = demand(1000, 1000);
        let mut check = |fleet: &Fleet, lacking: u32| {
            let wanted = demand(3, 5);
            let explanation = plain::place(fleet, &wanted, Policy::Epvm).unwrap().explanation;
            let (view, _) = index.view(fleet, &wanted, Ask::Reason);
            assert!(view.found.is_some(), "it is searched for");
            assert_eq!(view.rejected(), explanation.rejected);
            assert_eq!((view.feasible(), explanation.feasible), (800 - lacking, 800 - lacking));
        };
        check(&fleet, 0);
        for nodes in [1, 3, 700, 2, 790] {
            // Of one block, of several, and of all; and after many have got room again.
            let some: Vec<String> = (0..nodes).map(|node| format!("n{node}")).collect();
            some.iter().for_each(|node| fleet.reserve(&name(node), &full));
            check(&fleet, nodes);
            check(&fleet, nodes);
            some.iter().for_each(|node| fleet.release(&name(node), &full));
            check(&fleet, 0);
        }
    }

    #[test]
    fn a_view_is_made_where_more_decides_or_all_are_asked_for() {
        let fleet = fleet(400);
        let ports = [port(80)];
        let with_port = Demand { ports: &ports, ..demand(3, 5) };
        assert_eq!(found(&fleet, &with_port, SchedulerKind::Epvm, Ask::Best), None);
        assert_eq!(found(&fleet, &demand(3, 5), SchedulerKind::EpvmGuard, Ask::Best), None);
        assert_eq!(found(&fleet, &demand(3, 5), SchedulerKind::Epvm, Ask::All), None);
    }

    #[test]
    fn a_search_gives_up_among_too_many_alike() {
        let mut fleet = Fleet::default();
        for node in 0..2000 {
            let node = format!("n{node}");
            join(&mut fleet, &node, resources(1000, 1000));
            fleet.set_measured(&name(&node), Some(Resources::ZERO));
        }
        assert_eq!(found(&fleet, &demand(3, 5), SchedulerKind::Epvm, Ask::Best), None);
    }
}
