//! The best node for a demand without anything that was found out about it before: what a change costs then does not
//! depend on how many demands there are.
//!
//! Whoever may be the best is judged as everybody else is, by the same figures; cells only say who need not be.

use crate::cost::{Key, dot};
use crate::filter::Verdict;
use crate::fleet::GroupId;
use crate::fleet::lanes::BLOCK;
use crate::index::Ground;
use crate::index::cells::{CELL, Cells, Kind, least_of};
use crate::index::judgement::Judgement;
use crate::index::kernel;
use crate::index::view::{Pick, View};

/// A search gives up after so much effort, or one for so many nodes, if that is more: where many are alike, or few of the
/// cheap ones can take the task, what a view remembers is quicker; but to make a view takes the longer the more nodes there
/// are. To pass by a node is the unit, and to look at one is so many.
const EFFORT_MIN: usize = 2048;
const LANES_PER_EFFORT: usize = 16;
const LOOK_EFFORT: usize = 4;
/// Where no more nodes than this can be the best, each is looked at.
const FEW_MAX: usize = 256;
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

/// The best two nodes so far.
#[derive(Debug, Clone, Copy)]
struct Best {
    keys: [Key; 2],
    weights: [f64; 2],
}

impl Best {
    const NONE: Self = Self { keys: [Key::NONE; 2], weights: [1.0; 2] };

    fn add(&mut self, key: Key, weight: f64) {
        if key.is_before(&self.keys[0]) {
            self.keys = [key, self.keys[0]];
            self.weights = [weight, self.weights[0]];
        } else if key.is_before(&self.keys[1]) {
            self.keys[1] = key;
            self.weights[1] = weight;
        }
    }

    fn pick(&self, at: usize) -> Option<Pick> {
        let (lane, weight) = (self.keys[at].lane, self.weights[at]);
        self.keys[at].is_some().then_some(Pick { lane, apart: 1.0, weight })
    }
}

/// Who is in the least crowded domains.
#[derive(Debug, Clone, Copy)]
struct Level<'s> {
    points: &'s [i32],
    least: i32,
}

/// A search under way.
#[derive(Debug)]
struct Search<'s> {
    ground: &'s Ground<'s>,
    nodes: &'s Judgement,
    cells: &'s Cells,
    with_next: bool,
    kin: Option<GroupId>,
    /// Where tasks of its kind are spread: only those are looked at.
    level: Option<Level<'s>>,
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
        (cells, tells_apart): (&Cells, bool),
        bounds: &mut Vec<Vec<f32>>,
        with_next: bool,
    ) -> Option<Found> {
        let is_spread = !self.nodes.profile.shape().is_in_order();
        if cells.stale().len() > if is_spread { 0 } else { STALE_MAX } {
            return None;
        }
        if is_spread {
            self.hear(ground);
        }
        self.nodes.fit_factors(ground);
        self.nodes.fit_rough_factors(ground, cells);
        let nodes = &self.nodes;
        let points = nodes.domain_points();
        let level = points.iter().min().map(|least| Level { points, least: *least });
        let mut search = Search {
            ground,
            nodes,
            cells,
            with_next,
            kin: nodes.company.kin.filter(|_| nodes.demand.anti_affinity > 0),
            level,
            weight_least: nodes.weight_least(ground, tells_apart),
            weight_of_all: nodes.weight_least(ground, false),
            most: f32::INFINITY,
            effort: 0,
            effort_max: EFFORT_MIN.max(ground.fleet.lanes().len() / LANES_PER_EFFORT),
            fresh: Best::NONE,
            stale: Best::NONE,
        };
        for lane in cells.stale() {
            search.look(*lane, ground.columns.node(*lane as usize).class, true);
        }
        let is_done = search.look_at_few();
        if !is_done || level.is_some() {
            let (least, group, cell) = cells.bounds(ground.level, &nodes.rough_factors, bounds);
            if !is_done {
                search.sweep(bounds, group, cell)?;
            }
            // Whoever is in a more crowded domain must be behind.
            let apart = f64::from(least) / SLACK * search.weight_least * nodes.apart_min(ground);
            if level.is_some() && apart <= search.last().first {
                return None;
            }
        }
        let (fresh, stale) = (search.fresh, search.stale);
        let best = self.choose(ground, fresh.pick(0), stale.pick(0));
        let next = best.filter(|_| with_next).and_then(|best| {
            if fresh.pick(0).is_some_and(|one| one.lane == best.lane) {
                self.choose(ground, fresh.pick(1), stale.pick(0))
            } else {
                self.choose(ground, fresh.pick(0), stale.pick(1))
            }
        });
        Some(Found { best, next })
    }
}

impl Search<'_> {
    /// Whoever comes after this is not asked for.
    fn last(&self) -> &Key {
        &self.fresh.keys[usize::from(self.with_next)]
    }

    /// Looks at one node that nothing stands in the way of, of a class of capacity; all of those without a fresh
    /// measurement count, and of the others the best.
    fn look(&mut self, lane: u32, class: u32, of_stale: bool) {
        self.effort += 1;
        let (at, nodes, ground) = (lane as usize, self.nodes, self.ground);
        let profile = &nodes.profile;
        if profile.allowed(at / BLOCK) >> (at % BLOCK) & 1 == 0 {
            return;
        }
        if let Some(Level { points, least }) = self.level
            && profile.domain(at).is_none_or(|domain| points[domain] != least)
        {
            return;
        }
        self.effort += LOOK_EFFORT - 1;
        let node = ground.columns.node(at);
        if !nodes.has_room_at(node) {
            return;
        }
        // What follows lies further away, and most are behind without it.
        let Some(factors) = nodes.factors.get(class as usize) else { return };
        if !of_stale && dot(&node.live, factors) * self.weight_of_all > self.last().first {
            return;
        }
        let weight = nodes.weight_now(ground, lane, self.kin);
        let key = nodes.key_weighing(ground, at, node, weight);
        if of_stale {
            return self.stale.add(key, weight);
        }
        if key.is_before(self.last()) {
            self.fresh.add(key, weight);
            let most = self.last().first / self.weight_least * SLACK;
            self.most = (most as f32).next_up() + f32::MIN_POSITIVE;
        }
    }

    /// Looks at all who can be the best, where they are few. False where they are not.
    fn look_at_few(&mut self) -> bool {
        let profile = &self.nodes.profile;
        if let Some(few) = profile.few() {
            few.iter().for_each(|lane| self.look_if_fresh(*lane));
            return true;
        }
        let Some(Level { points, least }) = self.level else { return false };
        let shape = profile.shape();
        let crowd = || (0..points.len()).filter(move |domain| points[*domain] == least);
        let mut nodes = 0;
        for domain in crowd() {
            nodes += shape.domain_lanes(domain).len();
            if nodes > FEW_MAX {
                return false;
            }
        }
        for domain in crowd() {
            shape.domain_lanes(domain).iter().for_each(|lane| self.look_if_fresh(*lane));
        }
        true
    }

    fn look_if_fresh(&mut self, lane: u32) {
        let node = self.ground.columns.node(lane as usize);
        if node.standing == Verdict::FEASIBLE && !node.is_stale {
            self.look(lane, node.class, false);
        }
    }

    /// Looks through all cells whose bound is not too high, that with the lowest one first.
    fn sweep(&mut self, bounds: &[Vec<f32>], group: usize, cell: usize) -> Option<()> {
        let first = (group, cell);
        self.look_into(group, cell)?;
        for (group, bounds) in bounds.iter().enumerate() {
            for (block, bounds) in bounds.as_chunks::<CELL>().0.iter().enumerate() {
                let mut bits = kernel::at_most(self.ground.level, bounds, self.most);
                while bits != 0 {
                    let bit = bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    let cell = block * CELL + bit;
                    if bounds[bit] <= self.most && (group, cell) != first {
                        self.look_into(group, cell)?;
                    }
                }
            }
        }
        Some(())
    }

    fn look_into(&mut self, group: usize, cell: usize) -> Option<()> {
        let Some(cell) = self.cells.cell(group, cell) else { return Some(()) };
        let nodes = self.nodes;
        let Some(factors) = nodes.rough_factors.get(group) else { return Some(()) };
        let Some(Kind { class, .. }) = nodes.rough_kinds.get(group).copied() else {
            return Some(());
        };
        let mut costs = [0.0; CELL];
        let mut bits = cell.within(self.ground.level, factors, self.most, &mut costs);
        if self.most == f32::INFINITY {
            // Most often it is the one that seems to be: then hardly any other need be looked at.
            let first = least_of(&costs);
            let slot = costs.iter().position(|cost| *cost == first).unwrap_or(0);
            if bits >> slot & 1 == 1 {
                self.look(cell.lane(slot), class, false);
                bits &= !(1 << slot);
            }
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

#[cfg(test)]
mod tests {
    use longshore_proto::spec::{Resources, SchedulerKind, Spread};

    use crate::index::{Ask, Index};
    use crate::testing::{demand, join, join_with, name, port, resources};
    use crate::{Demand, Fleet, Policy, plain};

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
