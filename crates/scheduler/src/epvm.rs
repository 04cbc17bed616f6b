//! Stages 2 and 3 of E-PVM: score each candidate by its marginal opportunity cost, pick the least.
//!
//! Amir, Awerbuch, Barak, Borgstrom, Keren: *An Opportunity Cost Approach for Job Assignment in a Scalable
//! Computing Cluster*, IEEE TPDS 11(7), 2000. The cost of a node is the sum over its resources of
//! `n^utilisation`, where `n` is the number of machines, and a task goes where it makes the cost rise least:
//!
//! ```text
//! rise(task, node) = sum over r of  n^(u_r + wanted_r / capacity_r) - n^(u_r)
//!                  = sum over r of  n^(u_r) * (n^(wanted_r / capacity_r) - 1)
//! ```
//!
//! Choices of ours, and why:
//!
//! - `n` is the next power of two of the number of nodes, and at least 16: exponentials are rebuilt only
//!   when the fleet doubles, and small fleets still shy away from a resource that runs out.
//! - `u_r` is the larger of what is committed and what is measured, to which is added what was promised since
//!   the measurement: neither a burst of placements between two heartbeats nor a task that uses more than it
//!   said can overload a node. It is capped at 1.5, so that an absurd figure stays finite.
//! - Ties go to the node that has promised less, then by a fixed order: idle tasks do not show in what is
//!   measured, and would else pile up on one of two nodes that are busy alike.
//! - A measurement counts in 64ths of the capacity, so that noise in heartbeats changes no decision.
//! - A resource of which nothing is wanted, or of which there is none, adds nothing.
//! - A node without a fresh measurement is judged on what is committed, and its rise is doubled. That alone
//!   would not do: where the others are measured to be busy, it would win *because* its figure is missing.
//!   So it must also beat every measured candidate on committed figures alone, the doubling included; else
//!   it comes after all of them. It still takes tasks once the others hold more than it does by
//!   `1 / log2(n)` of a node, so that the first worker heard after an election is not handed everything.

use std::cmp::Ordering;

use longshore_proto::name::NodeName;
use longshore_proto::spec::Resources;

use crate::Choice;
use crate::explain::CostTerms;
use crate::fleet::{Demand, Dimension, Node};

/// The smallest base of the exponentials.
const BASE_MIN: usize = 16;
/// The highest utilisation that tells nodes apart.
const UTILISATION_MAX: f64 = 1.5;
/// A measurement is rounded to this part of the capacity.
const MEASURED_STEPS: u64 = 64;
/// By how much the rise of a node is multiplied that has no fresh measurement.
const STALE_FACTOR: f64 = 2.0;

/// The base for a fleet of this many nodes, as the power of two that it is.
pub(crate) fn base_log2(nodes: usize) -> u32 {
    nodes.max(BASE_MIN).next_power_of_two().ilog2()
}

/// `n^(u_r)` of one node, by [`Dimension`]: everything about its cost that no task changes.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Exponentials {
    base_log2: f64,
    /// By the larger of committed and measured.
    busiest: [f64; 3],
    /// By what is committed alone.
    committed: [f64; 3],
}

impl Exponentials {
    pub(crate) fn new(
        base_log2: u32,
        capacity: Resources,
        committed: Resources,
        expected: Option<Resources>,
    ) -> Self {
        let base_log2 = f64::from(base_log2);
        let power = |utilisation: f64| libm::exp2(utilisation.min(UTILISATION_MAX) * base_log2);
        let by_committed = Dimension::ALL.map(|r| share(r.of(committed), r.of(capacity)));
        let by_measured = Dimension::ALL
            .map(|r| expected.map_or(0.0, |expected| quantised(r.of(expected), r.of(capacity))));
        Self {
            base_log2,
            busiest: std::array::from_fn(|r| power(by_committed[r].max(by_measured[r]))),
            committed: by_committed.map(power),
        }
    }
}

/// The part of a capacity. None of nothing is nothing: such a dimension never adds to a cost.
fn share(amount: u64, capacity: u64) -> f64 {
    if capacity == 0 { 0.0 } else { amount as f64 / capacity as f64 }
}

/// The part of a capacity, rounded to the nearest step.
fn quantised(amount: u64, capacity: u64) -> f64 {
    if capacity == 0 {
        return 0.0;
    }
    let (amount, capacity) = (u128::from(amount), u128::from(capacity));
    let steps = (amount * u128::from(MEASURED_STEPS) + capacity / 2) / capacity;
    steps as f64 / MEASURED_STEPS as f64
}

/// A candidate and what it would cost.
pub(crate) struct Score<'f> {
    name: &'f NodeName,
    tie: u64,
    measured: bool,
    terms: CostTerms,
    /// The rise if nothing were measured anywhere, without any penalty.
    committed_cost: f64,
}

/// Stage 2: what each candidate would cost.
pub(crate) fn score<'f>(
    candidates: &[(&'f NodeName, &'f Node)],
    demand: &Demand<'_>,
) -> Vec<Score<'f>> {
    candidates.iter().map(|(name, node)| score_one(name, node, demand)).collect()
}

fn score_one<'f>(name: &'f NodeName, node: &'f Node, demand: &Demand<'_>) -> Score<'f> {
    let exponentials = node.exponentials();
    let factors = Dimension::ALL.map(|r| {
        let part = share(r.of(demand.resources), r.of(node.capacity));
        libm::exp2(part * exponentials.base_log2) - 1.0
    });
    let rise = |powers: &[f64; 3]| CostTerms {
        cpu: powers[0] * factors[0],
        memory: powers[1] * factors[1],
        disk: powers[2] * factors[2],
        stale_penalty: 0.0,
    };
    let mut terms = rise(&exponentials.busiest);
    let measured = node.measured.is_some();
    if !measured {
        terms.stale_penalty = terms.total() * (STALE_FACTOR - 1.0);
    }
    let committed_cost = rise(&exponentials.committed).total();
    Score { name, tie: node.tie(), measured, terms, committed_cost }
}

/// Stage 3: the cheapest, and the one that would have been next.
pub(crate) fn pick(scores: &[Score<'_>]) -> Option<Choice> {
    // What a node that is not measured must beat, not to win for the want of a figure.
    let bar = scores
        .iter()
        .filter(|score| score.measured)
        .map(|score| score.committed_cost)
        .fold(f64::INFINITY, f64::min);
    let (mut best, mut next): (Option<&Score<'_>>, Option<&Score<'_>>) = (None, None);
    for score in scores {
        if best.is_none_or(|best| score.order(best, bar).is_lt()) {
            next = best.replace(score);
        } else if next.is_none_or(|next| score.order(next, bar).is_lt()) {
            next = Some(score);
        }
    }
    best.map(|best| Choice {
        node: best.name.clone(),
        terms: Some(best.terms),
        runner_up: next.map(|next| (next.name.clone(), next.terms.total())),
    })
}

impl Score<'_> {
    /// Which of the two is picked first.
    fn order(&self, other: &Self, bar: f64) -> Ordering {
        let trusted = |score: &Self| score.measured || score.terms.total() < bar;
        (trusted(other).cmp(&trusted(self)))
            .then_with(|| self.terms.total().total_cmp(&other.terms.total()))
            .then_with(|| self.committed_cost.total_cmp(&other.committed_cost))
            .then_with(|| self.tie.cmp(&other.tie))
            .then_with(|| self.name.cmp(other.name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::testing::{demand, join, name, resources};
    use crate::{Fleet, Policy, place};

    /// Nodes of 16 cores and 64 GiB, measured to be idle.
    fn idle(nodes: &[&str]) -> Fleet {
        let mut fleet = Fleet::default();
        for node in nodes {
            join(&mut fleet, node, resources(16, 64));
            fleet.set_measured(&name(node), Some(Resources::ZERO));
        }
        fleet
    }

    fn picked(fleet: &Fleet, demand: &Demand<'_>) -> NodeName {
        place(fleet, demand, Policy::Epvm).unwrap().node
    }

    #[test]
    fn the_base_is_the_next_power_of_two_and_at_least_16() {
        let bases = [0, 1, 16, 17, 32, 33, 1000].map(base_log2);
        assert_eq!(bases, [4, 4, 4, 5, 5, 6, 10]);
    }

    #[test]
    fn a_cost_has_the_same_bits_everywhere() {
        let mut fleet = idle(&["n1"]);
        fleet.reserve(&name("n1"), &demand(5, 7));
        let terms = place(&fleet, &demand(3, 9), Policy::Epvm).unwrap().explanation.terms.unwrap();
        assert_eq!(
            [terms.cpu, terms.memory, terms.disk].map(f64::to_bits),
            [0x3ff9f203eb9c91d5, 0x3fe4a9f0456f57ad, 0]
        );
    }

    #[test]
    fn the_emptier_node_is_picked() {
        let mut fleet = idle(&["n1", "n2", "n3"]);
        fleet.reserve(&name("n1"), &demand(4, 4));
        fleet.reserve(&name("n3"), &demand(1, 1));
        assert_eq!(picked(&fleet, &demand(1, 1)), name("n2"));
    }

    #[test]
    fn the_resource_that_runs_out_weighs_most() {
        let mut fleet = idle(&["n1", "n2"]);
        fleet.reserve(&name("n1"), &demand(8, 0));
        fleet.reserve(&name("n2"), &demand(0, 32));
        assert_eq!(picked(&fleet, &demand(1, 16)), name("n1"), "memory is short on n2");
        assert_eq!(picked(&fleet, &demand(4, 1)), name("n2"), "cpu is short on n1");
    }

    #[test]
    fn tasks_alike_spread_evenly_over_nodes_alike() {
        let mut fleet = idle(&["n1", "n2", "n3", "n4", "n5"]);
        for _ in 0..20 {
            let node = picked(&fleet, &demand(1, 2));
            fleet.reserve(&node, &demand(1, 2));
        }
        let tasks: BTreeMap<_, _> = fleet.nodes().map(|(name, node)| (name, node.tasks)).collect();
        assert!(tasks.values().all(|&tasks| tasks == 4), "{tasks:?}");
    }

    #[test]
    fn a_measured_load_counts_where_it_is_more_than_was_promised() {
        let mut fleet = idle(&["n1", "n2"]);
        fleet.reserve(&name("n1"), &demand(2, 2));
        assert_eq!(picked(&fleet, &demand(1, 1)), name("n2"));
        for _ in 0..8 {
            fleet.set_measured(&name("n2"), Some(resources(12, 2)));
        }
        assert_eq!(picked(&fleet, &demand(1, 1)), name("n1"));
    }

    #[test]
    fn idle_tasks_spread_over_nodes_that_are_busy_alike() {
        let mut fleet = idle(&["n1", "n2"]);
        for round in 0..6 {
            for node in ["n1", "n2"] {
                fleet.set_measured(&name(node), Some(resources(8, 32)));
            }
            let node = picked(&fleet, &demand(1, 1));
            fleet.reserve(&node, &demand(1, 1));
            let tasks = |node| fleet.node(&name(node)).unwrap().tasks;
            assert!(tasks("n1").abs_diff(tasks("n2")) <= 1, "after {round}");
        }
    }

    #[test]
    fn a_burst_between_two_heartbeats_is_added_to_what_is_measured() {
        let mut fleet = idle(&["n1", "n2"]);
        for _ in 0..8 {
            fleet.set_measured(&name("n1"), Some(resources(8, 8)));
            fleet.set_measured(&name("n2"), Some(resources(10, 8)));
        }
        let burst: Vec<_> = std::iter::repeat_with(|| {
            let node = picked(&fleet, &demand(1, 1));
            fleet.reserve(&node, &demand(1, 1));
            node
        })
        .take(6)
        .collect();
        assert!(burst.iter().any(|node| *node == name("n2")), "{burst:?}");
    }

    #[test]
    fn noise_in_a_measurement_changes_no_decision() {
        let mut fleet = idle(&["n1", "n2"]);
        let before = place(&fleet, &demand(1, 1), Policy::Epvm);
        let noise = Resources { cpu_millis: 100, memory_bytes: 400 << 20, disk_bytes: 0 };
        fleet.set_measured(&before.as_ref().unwrap().node, Some(noise));
        assert_eq!(place(&fleet, &demand(1, 1), Policy::Epvm), before);
    }

    #[test]
    fn a_node_that_is_not_measured_never_wins_for_the_want_of_a_figure() {
        for stale in ["n1", "n2"] {
            let heard = if stale == "n1" { "n2" } else { "n1" };
            for cores in 0..=16 {
                let mut fleet = idle(&["n1", "n2"]);
                fleet.set_measured(&name(stale), None);
                fleet.set_measured(&name(heard), Some(resources(2 * cores, 64)));
                assert_eq!(picked(&fleet, &demand(1, 1)), name(heard), "{cores} cores busy");
            }
        }
    }

    #[test]
    fn a_node_that_is_not_measured_takes_tasks_once_the_others_hold_much_more() {
        let mut fleet = idle(&["n1", "n2"]);
        fleet.set_measured(&name("n1"), None);
        fleet.reserve(&name("n2"), &demand(4, 16));
        assert_eq!(picked(&fleet, &demand(1, 1)), name("n2"), "a quarter more is borne");
        fleet.reserve(&name("n2"), &demand(1, 4));
        assert_eq!(picked(&fleet, &demand(1, 1)), name("n1"));
    }

    #[test]
    fn absurd_figures_stay_finite() {
        let mut fleet = idle(&["n1"]);
        fleet
            .set_measured(&name("n1"), Some(Resources { cpu_millis: u64::MAX, ..Resources::ZERO }));
        let terms =
            place(&fleet, &demand(16, 64), Policy::Epvm).unwrap().explanation.terms.unwrap();
        assert!(terms.total().is_finite());
    }
}
