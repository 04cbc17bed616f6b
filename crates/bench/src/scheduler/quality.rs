//! How well tasks are packed, in machines and in capacity that nobody can use.

use longshore_proto::name::NodeName;
use longshore_proto::spec::Resources;
use longshore_scheduler::{Demand, Policy, Scheduler, plan};
use longshore_simulate::machines::{self, Host, Mix};
use longshore_simulate::workload::{Shapes, Source};

use crate::Failure;
use crate::report::{Figure, progress};

/// How many machines there are to fill.
const MACHINES: usize = 400;
/// How much of them the tasks take together.
const LOAD: f64 = 0.6;
/// What part of the tasks may be left waiting, as in Borg's measure of a cell's compaction.
const WAITING_PART: f64 = 0.002;
/// Each figure is the mean over so many seeds.
const SEEDS: u64 = 3;

/// Machines and what runs on them.
#[derive(Debug, Clone, Copy)]
struct Cell {
    mix: Mix,
    source: Source,
}

const REAL: Cell = Cell { mix: Mix::Alibaba2023, source: Source::Alibaba2023 };
const SYNTHETIC: Cell = Cell { mix: Mix::Google2011, source: Source::Synthetic };

/// What of the machines tasks take together, of the scarcer resource.
fn volume(tasks: Resources, machines: Resources) -> f64 {
    let part = |tasks: u64, machines: u64| tasks as f64 / machines.max(1) as f64;
    part(tasks.cpu_millis, machines.cpu_millis).max(part(tasks.memory_bytes, machines.memory_bytes))
}

fn sum(sizes: &[Resources]) -> Resources {
    sizes.iter().fold(Resources::ZERO, |sum, size| sum.saturating_add(*size))
}

impl Cell {
    fn hosts(self, seed: u64) -> Vec<Host> {
        self.mix.hosts(MACHINES, seed)
    }

    /// Tasks in the order of their arrival, until they take their part of the machines.
    fn tasks(self, hosts: &[Host], seed: u64) -> Vec<Resources> {
        let capacity = machines::capacity(hosts);
        let mut taken = Resources::ZERO;
        let enough = |size: &Resources| {
            taken = taken.saturating_add(*size);
            volume(taken, capacity) < LOAD
        };
        Shapes::new(self.source, hosts, seed).take_while(enough).collect()
    }
}

/// Places tasks one after another; how many find no room.
fn waiting(hosts: &[Host], tasks: &[Resources], policy: Policy<'_>, most: usize) -> usize {
    let mut fleet = machines::fleet(hosts);
    let mut scheduler = Scheduler::default();
    let mut waiting = 0;
    for size in tasks {
        let demand = Demand::of_resources(*size);
        let node: Option<NodeName> =
            scheduler.pick(&fleet, &demand, policy).map(|node| node.name.clone());
        match node {
            Some(node) => fleet.reserve(&node, &demand),
            None => waiting += 1,
        }
        if waiting > most {
            break;
        }
    }
    waiting
}

/// How many machines are needed above the least that the volume of the tasks allows, in per cent.
fn above_volume(
    cell: Cell,
    policy: Policy<'_>,
    largest_first: bool,
    seed: u64,
) -> Result<f64, Failure> {
    let hosts = cell.hosts(seed);
    let mut tasks = cell.tasks(&hosts, seed);
    let total = sum(&tasks);
    if largest_first {
        // As the manager takes what waits.
        tasks.sort_by_key(|size| std::cmp::Reverse(plan::size(*size)));
    }
    let holds = |machines: usize| volume(total, machines::capacity(&hosts[..machines])) <= 1.0;
    let bound =
        (1..=hosts.len()).find(|machines| holds(*machines)).ok_or("more tasks than machines")?;
    let most = (tasks.len() as f64 * WAITING_PART) as usize;
    let suffices = |machines: usize| waiting(&hosts[..machines], &tasks, policy, most) <= most;
    let (mut too_few, mut enough) = (bound - 1, hosts.len());
    if !suffices(enough) {
        return Err("all machines together are too few".into());
    }
    while enough - too_few > 1 {
        let middle = too_few.midpoint(enough);
        *(if suffices(middle) { &mut enough } else { &mut too_few }) = middle;
    }
    Ok((enough as f64 / bound as f64 - 1.0) * 100.0)
}

/// What of the scarcer resource is free when one task of a hundred has found no room, in per cent.
fn stranded(cell: Cell, policy: Policy<'_>, seed: u64) -> f64 {
    let hosts = cell.hosts(seed);
    let capacity = machines::capacity(&hosts);
    let mut fleet = machines::fleet(&hosts);
    let mut scheduler = Scheduler::default();
    let (mut taken, mut came, mut refused) = (Resources::ZERO, 0_usize, 0_usize);
    for size in Shapes::new(cell.source, &hosts, seed) {
        let demand = Demand::of_resources(size);
        came += 1;
        let node = scheduler.pick(&fleet, &demand, policy).map(|node| node.name.clone());
        match node {
            Some(node) => {
                fleet.reserve(&node, &demand);
                taken = taken.saturating_add(size);
            }
            None => refused += 1,
        }
        if refused * 100 >= came && refused > 0 {
            break;
        }
    }
    (1.0 - volume(taken, capacity)) * 100.0
}

/// Everything about quality.
pub(super) fn measure() -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    let mean = |of: &dyn Fn(u64) -> Result<f64, Failure>| -> Result<f64, Failure> {
        let all = (1..=SEEDS).map(of).collect::<Result<Vec<f64>, Failure>>()?;
        Ok(all.iter().sum::<f64>() / all.len() as f64)
    };
    let cases = [
        ("real shapes, in order of arrival, with the guard", REAL, Policy::EpvmGuard, false, 5.0),
        (
            "synthetic mix, in order of arrival, with the guard",
            SYNTHETIC,
            Policy::EpvmGuard,
            false,
            9.0,
        ),
        ("real shapes, batch", REAL, Policy::Epvm, true, 2.0),
        ("synthetic mix, batch", SYNTHETIC, Policy::Epvm, true, 2.0),
    ];
    for (text, cell, policy, largest_first, most) in cases {
        let above = mean(&|seed| above_volume(cell, policy, largest_first, seed))?;
        let packed = mean(&|seed| above_volume(cell, Policy::Binpack, false, seed))?;
        progress(&format!(
            "machines above the volume bound, {text}: {above:.1} %, binpack {packed:.1} %"
        ));
        let figure =
            Figure::alone(format!("scheduler/machines above the volume bound, {text}"), above, "%");
        let figure = Figure {
            limit: Some(packed),
            ratio: Some((100.0 + packed) / (100.0 + above)),
            ..figure
        };
        figures.push(figure.at_most(most));
    }
    let small = Cell { mix: Mix::Google2011, source: Source::Google2019 };
    for (text, cell, policy) in [
        ("small tasks", small, Policy::Epvm),
        ("real shapes, with the guard", REAL, Policy::EpvmGuard),
    ] {
        let part = mean(&|seed| Ok(stranded(cell, policy, seed)))?;
        progress(&format!("stranded at 1 % rejects, {text}: {part:.1} %"));
        let figure =
            Figure::alone(format!("scheduler/stranded capacity at 1 % rejects, {text}"), part, "%");
        figures.push(figure.at_most(5.0));
    }
    Ok(figures)
}
