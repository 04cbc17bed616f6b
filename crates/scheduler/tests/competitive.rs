//! The paper's claim: jobs placed as they come, without a look ahead, load no machine much more than the best
//! assignment that knows them all.
//!
//! Machines and jobs are few, so that the best assignment is found by trying them all. The load of a fleet is the
//! largest part of any resource of any machine that is in use. Two bounds are held:
//!
//! | bound on the load | where from |
//! |---|---|
//! | `log_a(machines * resources / (1 - c))` | the proof of Aspnes et al. (STOC 1993), with our base `a` |
//! | `(1 + log2 machines) * best` | what its O(log n) means, for loads that the base tells apart |
//!
//! The proof, short: let `P` be the largest part of a machine that one job takes, and the potential the sum of
//! `a^load` over all machines and resources. Each job raises it by no more than it would on its machine in the best
//! assignment, which is at most `a^(load in the end) * (a^part - 1)` for each resource, and `a^part - 1 <= part *
//! (a^P - 1) / P`. Added up, the potential rises by no more than `c = best * (a^P - 1) / P` times what it is in the
//! end; so in the end it is at most `machines * resources / (1 - c)`, and no single `a^load` exceeds the whole.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use std::collections::BTreeMap;

use longshore_proto::name::{Datacenter, NodeName};
use longshore_proto::spec::Resources;
use longshore_proto::state::{Eligibility, NodeStatus};
use longshore_scheduler::{Demand, Fleet, Machine, Policy, Scheduler};
use proptest::prelude::*;

/// How many tasks a machine takes: so many that their number never counts.
const TASKS_MAX: u32 = 1_000_000;
/// Cpu, memory, places for tasks.
const RESOURCES: f64 = 3.0;

/// Cpu and memory, in units that are told to the fleet as thousands.
type Amounts = [u64; 2];

fn resources([cpu, memory]: Amounts) -> Resources {
    Resources { cpu_millis: cpu * 1000, memory_bytes: memory * 1000, disk_bytes: 0 }
}

fn fleet(machines: &[Amounts]) -> Fleet {
    let mut fleet = Fleet::default();
    for (number, capacity) in machines.iter().enumerate() {
        let name: NodeName = format!("m{number}").parse().unwrap();
        let machine = Machine {
            datacenter: &Datacenter::standard(),
            labels: &BTreeMap::new(),
            attributes: &BTreeMap::new(),
            mount_paths: &[],
            status: NodeStatus::Ready,
            eligibility: Eligibility::Open,
            capacity: resources(*capacity),
            tasks_max: TASKS_MAX,
        };
        fleet.upsert(&name, &machine);
        fleet.set_measured(&name, Some(Resources::ZERO));
    }
    fleet
}

/// The load when jobs are placed as they come; `None` when one found no room.
fn online(machines: &[Amounts], jobs: &[Amounts], policy: Policy<'_>) -> Option<f64> {
    let mut fleet = fleet(machines);
    let mut scheduler = Scheduler::default();
    for job in jobs {
        let demand = Demand::of_resources(resources(*job));
        let node = scheduler.pick(&fleet, &demand, policy)?.name.clone();
        fleet.reserve(&node, &demand);
    }
    let part = |used: u64, of: u64| used as f64 / of as f64;
    let loads = fleet.nodes().map(|node| {
        part(node.committed.cpu_millis, node.capacity.cpu_millis)
            .max(part(node.committed.memory_bytes, node.capacity.memory_bytes))
    });
    loads.reduce(f64::max)
}

/// The least load of any assignment of all jobs.
fn best(machines: &[Amounts], jobs: &[Amounts]) -> f64 {
    fn search(
        machines: &[Amounts],
        jobs: &[Amounts],
        used: &mut [Amounts],
        load: f64,
        best: &mut f64,
    ) {
        let Some((job, rest)) = jobs.split_first() else {
            *best = load;
            return;
        };
        for at in 0..machines.len() {
            let before = used[at];
            used[at] = [before[0] + job[0], before[1] + job[1]];
            let part = |r: usize| used[at][r] as f64 / machines[at][r] as f64;
            let load = load.max(part(0)).max(part(1));
            // What is no better already will not become so.
            if load < *best {
                search(machines, rest, used, load, best);
            }
            used[at] = before;
        }
    }
    let mut least = f64::INFINITY;
    search(machines, jobs, &mut vec![[0; 2]; machines.len()], 0.0, &mut least);
    least
}

/// The largest part of any machine that one job takes.
fn largest_part(machines: &[Amounts], jobs: &[Amounts]) -> f64 {
    let part = |job: &Amounts, machine: &Amounts| {
        (job[0] as f64 / machine[0] as f64).max(job[1] as f64 / machine[1] as f64)
    };
    let parts = jobs.iter().flat_map(|job| machines.iter().map(move |machine| part(job, machine)));
    parts.fold(0.0, f64::max)
}

/// What the proof allows; `None` where it says nothing.
fn proven(machines: &[Amounts], jobs: &[Amounts], best: f64) -> Option<f64> {
    let base = 16.0_f64;
    let largest = largest_part(machines, jobs);
    let c = best * (base.powf(largest) - 1.0) / largest;
    (c < 1.0).then(|| (machines.len() as f64 * RESOURCES / (1.0 - c)).log(base))
}

/// What is allowed of a load that the base tells apart from none.
fn logarithmic(machines: &[Amounts], best: f64) -> f64 {
    (1.0 + (machines.len() as f64).log2()) * best
}

fn machines() -> impl Strategy<Value = Vec<Amounts>> {
    proptest::collection::vec([60u64..=240, 60u64..=240], 2..=4)
}

fn jobs(most: u64) -> impl Strategy<Value = Vec<Amounts>> {
    proptest::collection::vec([1u64..=most, 1u64..=most], 1..=9)
}

proptest! {
    #[test]
    fn the_load_is_within_what_is_proven(machines in machines(), jobs in jobs(12)) {
        let best = best(&machines, &jobs);
        if let (Some(load), Some(most)) = (online(&machines, &jobs, Policy::Epvm), proven(&machines, &jobs, best)) {
            prop_assert!(load <= most + 1e-9, "{load} where the best is {best} and the bound {most}");
        }
    }

    #[test]
    fn the_load_is_within_a_logarithm_of_the_best(machines in machines(), jobs in jobs(60)) {
        let best = best(&machines, &jobs);
        if let Some(load) = online(&machines, &jobs, Policy::Epvm) && best >= 0.1 {
            let most = logarithmic(&machines, best);
            prop_assert!(load <= most, "{load} where the best is {best} and the bound {most}");
        }
    }
}

#[test]
fn who_packs_breaks_the_logarithm() {
    // That the bound is worth something shows in a policy that does not keep it.
    let machines = [[100, 100]; 4];
    let jobs = [[10, 10]; 8];
    let (best, packed) =
        (best(&machines, &jobs), online(&machines, &jobs, Policy::Binpack).unwrap());
    assert!((best - 0.2).abs() < 1e-9);
    assert!(packed > logarithmic(&machines, best), "{packed}");
    let spread = online(&machines, &jobs, Policy::Epvm).unwrap();
    assert!((spread - best).abs() < 1e-9, "tasks alike on machines alike are dealt out: {spread}");
}
