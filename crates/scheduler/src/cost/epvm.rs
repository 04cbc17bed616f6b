//! Least marginal opportunity cost.
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
//! The resources are cpu, memory, disk and places for tasks. Choices of ours, and why:
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
//!   So it is picked only where it also beats the best measured node on committed figures alone, the doubling
//!   included. It still takes tasks once the others hold more than it does by `1 / log2(n)` of a node, so
//!   that the first worker heard after an election is not handed everything.

use std::sync::LazyLock;

use crate::cost::{BASE_LOG2_MAX, Load, Model, Row, share};
use crate::demand::{AMOUNT_MAX, Amounts, DIMENSIONS};

/// The highest utilisation that tells nodes apart.
const UTILISATION_MAX: f64 = 1.5;
/// A measurement is rounded to this part of the capacity.
const MEASURED_STEPS: u64 = 64;

/// The policy `epvm`.
#[derive(Debug)]
pub(crate) struct Epvm;

impl Model for Epvm {
    fn row(&self, load: &Load, base_log2: u32) -> Row {
        let powers = &POWERS[(base_log2 as usize).min(BASE_LOG2_MAX)];
        let Load { capacity, committed, expected, .. } = load;
        let mut row = Row::default();
        for r in 0..DIMENSIONS {
            let promised = share(committed[r], capacity[r]);
            row.committed[r] = power(base_log2, promised);
            let expected = steps(expected[r], capacity[r]);
            let measured = expected as f64 / MEASURED_STEPS as f64;
            row.live[r] = if measured > promised {
                powers[usize::try_from(expected).unwrap_or(STEPS_MAX).min(STEPS_MAX)]
            } else {
                row.committed[r]
            };
        }
        row
    }

    fn factors(&self, capacity: &Amounts, demand: &Amounts, base_log2: u32) -> [f64; DIMENSIONS] {
        let part = |r: usize| share(demand[r], capacity[r]) * f64::from(base_log2);
        std::array::from_fn(|r| libm::exp2(part(r).min(MAX_EXPONENT)) - 1.0)
    }
}

/// `n^utilisation`.
fn power(base_log2: u32, utilisation: f64) -> f64 {
    libm::exp2(utilisation.min(UTILISATION_MAX) * f64::from(base_log2))
}

/// The number of steps from which on they are not told apart.
const STEPS_MAX: usize = (UTILISATION_MAX * MEASURED_STEPS as f64) as usize;
/// `n^utilisation` for each number of steps, by the base: what is measured changes at each heartbeat.
static POWERS: LazyLock<Vec<[f64; STEPS_MAX + 1]>> = LazyLock::new(|| {
    let of_steps = |base_log2, steps| power(base_log2, steps as f64 / MEASURED_STEPS as f64);
    let of_base = |base_log2| std::array::from_fn(|steps| of_steps(base_log2, steps));
    (0..=BASE_LOG2_MAX).zip(0..).map(|(_, base_log2)| of_base(base_log2)).collect()
});

/// A demand far beyond the capacity fits nowhere, but its cost must stay finite to be compared.
const MAX_EXPONENT: f64 = 256.0;

/// The part of a capacity in steps, rounded to the nearest one.
pub(crate) fn steps(amount: u64, capacity: u64) -> u64 {
    debug_assert!(
        amount.max(capacity) <= AMOUNT_MAX,
        "clamped when it was read, so nothing overflows"
    );
    (amount * MEASURED_STEPS + capacity / 2).checked_div(capacity).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::plain::place;
    use crate::testing::{demand, join, name, resources};
    use crate::{Demand, Fleet, Policy};
    use longshore_proto::name::NodeName;
    use longshore_proto::spec::Resources;

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
        let tasks: BTreeMap<_, _> = fleet.nodes().map(|node| (&node.name, node.tasks)).collect();
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
