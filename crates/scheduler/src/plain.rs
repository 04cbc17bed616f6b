//! The plain way to the same answer as [`crate::Scheduler`]: look at every node, each time, with nothing
//! remembered. It says in the fewest words what is decided, and tests hold the fast way against it.

use std::collections::BTreeMap;

use longshore_proto::spec::SchedulerKind;

use crate::cost::guard::Popular;
use crate::cost::points::{self, POINTS_MAX, Weights};
use crate::cost::{self, Key, Rank, STALE_FACTOR, dot};
use crate::demand::Demand;
use crate::explain::{CostTerms, Explanation, Rejected, Unplaceable};
use crate::filter::{self, Verdict};
use crate::fleet::{Fleet, Node};
use crate::{Placement, Policy};

/// A candidate with everything that ranks it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'f> {
    pub(crate) node: &'f Node,
    pub(crate) rank: Rank,
    fresh: bool,
    /// The cost if nothing were measured anywhere.
    standing: f64,
    pub(crate) terms: CostTerms,
}

impl Candidate<'_> {
    pub(crate) fn cost(&self) -> f64 {
        self.terms.total()
    }
}

/// Finds a node for one task. Nothing is reserved: that is [`Fleet::reserve`], once the decision is a fact.
///
/// # Errors
///
/// [`Unplaceable`] says what stands in the way at each node when the task fits on none.
pub fn place(
    fleet: &Fleet,
    demand: &Demand<'_>,
    policy: Policy<'_>,
) -> Result<Placement, Box<Unplaceable>> {
    let mut rejected = Rejected::default();
    let mut feasible = Vec::new();
    for node in fleet.nodes() {
        let Some(lane) = fleet.lane(&node.name) else { continue };
        match filter::judge(fleet, lane, node, demand) {
            Verdict::FEASIBLE => feasible.push((lane, node)),
            verdict => rejected.count_in(verdict, demand),
        }
    }
    let nodes = u32::try_from(fleet.len()).unwrap_or(u32::MAX);
    if feasible.is_empty() {
        return Err(Box::new(Unplaceable { nodes, rejected }));
    }
    let count = u32::try_from(feasible.len()).unwrap_or(u32::MAX);
    let explained = |terms, runner_up| Explanation {
        policy: policy.kind(),
        nodes,
        feasible: count,
        rejected,
        terms,
        runner_up,
    };
    if let Policy::RoundRobin { last } = policy {
        let next = fleet.in_turn(last).find(|lane| feasible.iter().any(|(one, _)| one == lane));
        let node = next.and_then(|lane| fleet.at(lane)).unwrap_or(feasible[0].1);
        return Ok(Placement { node: node.name.clone(), explanation: explained(None, None) });
    }
    let candidates = score(fleet, &feasible, demand, policy.kind());
    let best = pick(&candidates, None).unwrap_or(candidates[0]);
    let next = pick(&candidates, Some(best.rank.key.lane));
    let runner_up = next.map(|next| (next.node.name.clone(), next.terms));
    let node = best.node.name.clone();
    Ok(Placement { node, explanation: explained(Some(best.terms), runner_up) })
}

/// Stage 2: what each candidate would cost.
pub(crate) fn score<'f>(
    fleet: &'f Fleet,
    feasible: &[(u32, &'f Node)],
    demand: &Demand<'_>,
    kind: SchedulerKind,
) -> Vec<Candidate<'f>> {
    let Some(model) = cost::model(kind) else { return Vec::new() };
    let base_log2 = fleet.base_log2();
    let weights = Weights::at(base_log2);
    let amounts = demand.amounts();
    let popular = (kind == SchedulerKind::EpvmGuard).then(|| Popular::of(fleet));
    let spread = spread_points(fleet, demand, feasible.iter().map(|(_, node)| *node));
    let least = spread.iter().copied().min().unwrap_or(0);
    let candidates = feasible.iter().zip(spread).map(|(&(lane, node), spread)| {
        let row = model.row(&node.load(), base_log2);
        let factors = model.factors(&node.capacity_amounts(), &amounts, base_log2);
        let fresh = node.is_fresh();
        let weight = weights.of(points::of_node(fleet, lane, node, demand));
        let apart = weights.of(spread - least);
        let penalty = if fresh { 1.0 } else { STALE_FACTOR };
        let adjusted = dot(&row.live, &factors) * penalty * weight;
        let committed = dot(&row.committed, &factors) * weight;
        let (first, second) = match &popular {
            Some(popular) => (popular.lost(node, &amounts), adjusted),
            None => (adjusted, committed),
        };
        let rank = Rank::new(kind, Key { first, second, tie: node.tie(), lane }, apart);
        let terms = cost::terms(&row.live, &factors, fresh, weight * apart);
        Candidate { node, rank, fresh, standing: committed * apart, terms }
    });
    candidates.collect()
}

/// The points against each node for the domain that it is in.
fn spread_points<'f>(
    fleet: &Fleet,
    demand: &Demand<'_>,
    nodes: impl Iterator<Item = &'f Node>,
) -> Vec<i32> {
    let mut counts: Vec<BTreeMap<Option<&str>, i64>> = vec![BTreeMap::new(); demand.spread.len()];
    if let Some(kin) = demand.kin {
        for (lane, tasks) in fleet.groups().members(kin) {
            let Some(node) = fleet.at(lane) else { continue };
            for (counts, spread) in counts.iter_mut().zip(demand.spread) {
                *counts.entry(node.attribute(&spread.attribute)).or_insert(0) += i64::from(tasks);
            }
        }
    }
    let of_node = |node: &Node| {
        let each = demand.spread.iter().zip(&counts).map(|(spread, counts)| {
            let count = counts.get(&node.attribute(&spread.attribute)).copied().unwrap_or(0);
            i64::from(spread.weight) * count
        });
        i32::try_from(each.sum::<i64>()).unwrap_or(i32::MAX - POINTS_MAX)
    };
    nodes.map(of_node).collect()
}

/// Stage 3: the cheapest, where a node that is not measured must also beat the best measured one on committed
/// figures alone.
pub(crate) fn pick<'f>(candidates: &[Candidate<'f>], but: Option<u32>) -> Option<Candidate<'f>> {
    let best = |fresh: bool| {
        let of_kind =
            candidates.iter().filter(|one| one.fresh == fresh && Some(one.rank.key.lane) != but);
        of_kind.min_by(|one, other| one.rank.order(&other.rank)).copied()
    };
    match (best(true), best(false)) {
        (Some(fresh), Some(stale)) if stale.cost() < fresh.standing => Some(stale),
        (Some(fresh), _) => Some(fresh),
        (None, stale) => stale,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{demand, join, join_as, name, resources};
    use longshore_proto::name::NodeName;
    use longshore_proto::state::{Eligibility, NodeStatus};

    fn next(fleet: &Fleet, last: Option<&str>) -> NodeName {
        let last = last.map(name);
        place(fleet, &demand(1, 1), Policy::RoundRobin { last: last.as_ref() }).unwrap().node
    }

    #[test]
    fn nodes_take_turns_by_name_and_begin_again() {
        let mut fleet = Fleet::default();
        for node in ["n2", "n1", "n4"] {
            join(&mut fleet, node, resources(4, 4));
        }
        assert_eq!(next(&fleet, None), name("n1"));
        assert_eq!(next(&fleet, Some("n1")), name("n2"));
        assert_eq!(next(&fleet, Some("n2")), name("n4"));
        assert_eq!(next(&fleet, Some("n4")), name("n1"));
    }

    #[test]
    fn a_node_that_is_gone_still_marks_the_turn() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 4));
        join(&mut fleet, "n4", resources(4, 4));
        assert_eq!(next(&fleet, Some("n3")), name("n4"));
        assert_eq!(next(&fleet, Some("n9")), name("n1"));
    }

    #[test]
    fn who_cannot_take_the_task_is_skipped() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 4));
        join(&mut fleet, "n2", resources(0, 4));
        join_as(&mut fleet, "n3", resources(4, 4), NodeStatus::Suspect, Eligibility::Open);
        assert_eq!(next(&fleet, Some("n1")), name("n1"), "the only one comes again");
        join(&mut fleet, "n4", resources(4, 4));
        assert_eq!(next(&fleet, Some("n1")), name("n4"));
    }

    #[test]
    fn load_is_not_looked_at() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 4));
        join(&mut fleet, "n2", resources(4, 4));
        fleet.reserve(&name("n1"), &demand(3, 3));
        assert_eq!(next(&fleet, Some("n2")), name("n1"));
    }
}
