//! Figures that no machine has: none of anything, more in use than there is, numbers near the end of what a word
//! holds. None of it may panic, place beyond a capacity, or make the fast way and the plain way differ.
//!
//! Where figures come in as floating point, which could be infinite or no number at all, they are made whole at once:
//! the worker's probe does it for what is measured, `proto`'s quantities for what people write.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use std::collections::BTreeMap;

use longshore_proto::name::{Datacenter, NodeName};
use longshore_proto::spec::{Resources, SchedulerKind, Spread};
use longshore_proto::state::{Eligibility, NodeStatus};
use longshore_scheduler::{Demand, Fleet, Machine, Policy, Scheduler, plain};
use proptest::prelude::*;
use proptest::sample::select;

/// The largest figure that is told from larger ones (see the scheduler's `demand`).
const TOLD_APART: u64 = 1 << 52;

const KINDS: [SchedulerKind; 6] = [
    SchedulerKind::Epvm,
    SchedulerKind::EpvmGuard,
    SchedulerKind::RoundRobin,
    SchedulerKind::Spread,
    SchedulerKind::Binpack,
    SchedulerKind::Lieb,
];

fn figure() -> impl Strategy<Value = u64> {
    prop_oneof![
        select(vec![
            0,
            1,
            2,
            63,
            64,
            1000,
            TOLD_APART - 1,
            TOLD_APART,
            TOLD_APART + 1,
            u64::MAX - 1,
            u64::MAX
        ]),
        0..5000u64,
        any::<u64>(),
    ]
}

fn resources() -> impl Strategy<Value = Resources> {
    (figure(), figure(), figure()).prop_map(|(cpu_millis, memory_bytes, disk_bytes)| Resources {
        cpu_millis,
        memory_bytes,
        disk_bytes,
    })
}

/// What a task may ask for: validation refuses more.
fn wanted() -> impl Strategy<Value = Resources> {
    let amount = || prop_oneof![select(vec![0, 1, 1000, 1 << 50]), 0..5000u64];
    (amount(), amount(), amount()).prop_map(|(cpu_millis, memory_bytes, disk_bytes)| Resources {
        cpu_millis,
        memory_bytes,
        disk_bytes,
    })
}

#[derive(Debug, Clone)]
struct Host {
    capacity: Resources,
    tasks_max: u32,
    measured: Vec<Option<Resources>>,
}

fn host() -> impl Strategy<Value = Host> {
    let measured = proptest::collection::vec(proptest::option::of(resources()), 0..3);
    let tasks_max = select(vec![0, 1, 500, u32::MAX]);
    (resources(), tasks_max, measured).prop_map(|(capacity, tasks_max, measured)| Host {
        capacity,
        tasks_max,
        measured,
    })
}

fn name(number: usize) -> NodeName {
    format!("n{number}").parse().unwrap()
}

fn told(host: &Host, act: impl FnOnce(&Machine<'_>)) {
    act(&Machine {
        datacenter: &Datacenter::standard(),
        labels: &BTreeMap::new(),
        attributes: &BTreeMap::new(),
        mount_paths: &[],
        status: NodeStatus::Ready,
        eligibility: Eligibility::Open,
        capacity: host.capacity,
        tasks_max: host.tasks_max,
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn absurd_figures_are_lived_with(
        hosts in proptest::collection::vec(host(), 0..12),
        tasks in proptest::collection::vec((wanted(), select(KINDS.to_vec()), any::<bool>()), 1..40),
        later in proptest::collection::vec((0..12usize, host()), 0..6),
    ) {
        let mut fleet = Fleet::default();
        for (number, host) in hosts.iter().enumerate() {
            told(host, |machine| fleet.upsert(&name(number), machine));
            host.measured.iter().for_each(|figure| fleet.set_measured(&name(number), *figure));
        }
        let mut scheduler = Scheduler::default();
        let spread = [Spread::usual("label.none".parse().unwrap())];
        let mut changes = later.iter();
        for (at, (resources, kind, spreads)) in tasks.iter().enumerate() {
            if at % 5 == 4 && let Some((number, host)) = changes.next() {
                // A machine that shrinks, grows or joins under its tasks.
                told(host, |machine| fleet.upsert(&name(*number), machine));
                host.measured.iter().for_each(|figure| fleet.set_measured(&name(*number), *figure));
            }
            let demand = Demand {
                spread: if *spreads { &spread } else { &[] },
                ..Demand::of_resources(*resources)
            };
            let policy = Policy::new(*kind, None);
            let placed = scheduler.place(&fleet, &demand, policy);
            prop_assert_eq!(&placed, &plain::place(&fleet, &demand, policy));
            match placed {
                Ok(placement) => {
                    let explanation = placement.explanation;
                    prop_assert!(explanation.terms.is_none_or(|terms| terms.total().is_finite()));
                    prop_assert!(!explanation.to_string().contains("NaN"), "{}", explanation);
                    let before = fleet.node(&placement.node).unwrap().clone();
                    fleet.reserve(&placement.node, &demand);
                    let node = fleet.node(&placement.node).unwrap();
                    // What was wanted fits; what was not may have been too much before.
                    let fits = |wanted: u64, used: u64, of: u64| wanted == 0 || used <= of;
                    prop_assert!(fits(resources.cpu_millis, node.committed.cpu_millis, node.capacity.cpu_millis));
                    prop_assert!(fits(resources.memory_bytes, node.committed.memory_bytes, node.capacity.memory_bytes));
                    prop_assert!(fits(resources.disk_bytes, node.committed.disk_bytes, node.capacity.disk_bytes));
                    prop_assert!(node.tasks <= node.tasks_max, "{:?}", before);
                }
                Err(refused) => {
                    prop_assert_eq!(refused.rejected.total() as usize, fleet.len());
                    prop_assert!(!refused.to_string().is_empty());
                }
            }
        }
    }
}
