//! How many machines a workload needs, and how full a fleet gets: tasks that come and never end.
//!
//! **Compaction** is Borg's measure of a scheduler (Verma et al., EuroSys 2015, section 5.1): the fewest machines that
//! still hold the workload when it is placed from scratch, found by taking machines away at random, with at most
//! 0.2 % of the tasks left waiting. It is told against the volume bound: the fewest machines of the same list
//! that have, together, as much of each resource as is wanted. No scheduler goes below that.
//!
//! **Filling** lets tasks come in the order of arrival until one in a hundred finds no room. What is unused then
//! of the resource that is used most was stranded by placement.

use std::cmp::Reverse;

use longshore_proto::constraint::Constraint;
use longshore_proto::name::NodeName;
use longshore_proto::spec::{Resources, SchedulerKind};
use longshore_scheduler::{Demand, Policy, Scheduler, plan};

use crate::engine::Order;
use crate::machines::{self, Host};
use crate::measure::parts;
use crate::random::Random;
use crate::workload::{self, Job, Workload};

/// What part of the tasks may be left waiting.
const PENDING_PART: f64 = 0.002;
/// At what part of rejected tasks a fleet counts as full.
const REJECTED_PART: f64 = 0.01;
/// How many tasks must have come before a part of them is one.
const TASKS_MIN: usize = 200;

/// What part of all machines' scarcest resource a compaction asks for: the worst scheduler must find room.
const WANTED_PART: f64 = 0.4;
/// What part of it is enough to fill all machines, whoever places.
const FILL_PART: f64 = 1.5;
/// What tells the order of machines that are taken away from other draws of the same seed.
const STREAM_OF_ORDER: u64 = 7;

/// What a seed makes of machines and a workload. `longshore simulate --compact` and the benchmark draw the same.
#[derive(Debug, Clone)]
pub struct Case {
    /// The machines, in a random order.
    pub hosts: Vec<Host>,
    /// The jobs that they should hold.
    pub wanted: Vec<Job>,
    /// As many as fill them.
    pub filling: Vec<Job>,
}

impl Case {
    /// Draws one.
    pub fn draw(hosts: &[Host], settings: workload::Settings) -> Self {
        let mut hosts = hosts.to_vec();
        Random::new(settings.seed, STREAM_OF_ORDER).shuffle(&mut hosts);
        let until = |part: f64| until_wanted(&hosts, Workload::new(settings, &hosts), part);
        let (wanted, filling) = (until(WANTED_PART), until(FILL_PART));
        Self { hosts, wanted, filling }
    }
}

/// How many machines were needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    /// The fewest machines that hold the tasks.
    pub machines: usize,
    /// The fewest that have as much of each resource as is wanted.
    pub bound: usize,
}

impl Compaction {
    /// By what part more machines were needed than the bound.
    pub fn excess(&self) -> f64 {
        self.machines as f64 / self.bound.max(1) as f64 - 1.0
    }
}

/// Jobs, each counted as all of its tasks, until so large a part of the machines' scarcest resource is wanted.
fn until_wanted(hosts: &[Host], jobs: impl Iterator<Item = Job>, part: f64) -> Vec<Job> {
    let whole = machines::capacity(hosts);
    let mut wanted = [0.0; 3];
    jobs.take_while(|job| {
        let goes_on = wanted.iter().all(|sum| *sum < part);
        for (sum, one) in wanted.iter_mut().zip(parts(job.resources, whole)) {
            *sum += one * job.lasts_ms.len() as f64;
        }
        goes_on
    })
    .collect()
}

/// How many of these machines are needed, taken from the beginning of the list. `None` when all of them are too few.
pub fn compaction(
    hosts: &[Host],
    jobs: &[Job],
    scheduler: SchedulerKind,
    order: Order,
) -> Option<Compaction> {
    let bound = volume_bound(hosts, jobs)?;
    let lots = in_order(jobs, order);
    let holds = |machines: usize| holds(&hosts[..machines], &lots, scheduler);
    if !holds(hosts.len()) {
        return None;
    }
    let (mut too_few, mut enough) = (bound.saturating_sub(1), hosts.len());
    while enough - too_few > 1 {
        let middle = too_few.midpoint(enough);
        if holds(middle) {
            enough = middle;
        } else {
            too_few = middle;
        }
    }
    Some(Compaction { machines: enough, bound })
}

/// The fewest machines, from the beginning of the list, with as much of each resource as is wanted.
fn volume_bound(hosts: &[Host], jobs: &[Job]) -> Option<usize> {
    let tasks = |job: &Job| job.lasts_ms.len() as u128;
    let wanted = |of: fn(Resources) -> u64| {
        jobs.iter().map(|job| u128::from(of(job.resources)) * tasks(job)).sum::<u128>()
    };
    let dimensions: [fn(Resources) -> u64; 3] =
        [|one| one.cpu_millis, |one| one.memory_bytes, |one| one.disk_bytes];
    let fewest = |of: fn(Resources) -> u64| {
        let (wanted, mut sum) = (wanted(of), 0);
        let mut sums = hosts.iter().map(|host| {
            sum += u128::from(of(host.capacity));
            sum
        });
        if wanted == 0 { Some(0) } else { sums.position(|sum| sum >= wanted).map(|at| at + 1) }
    };
    dimensions.into_iter().try_fold(0, |most, of| Some(most.max(fewest(of)?)))
}

/// Tasks alike.
#[derive(Debug, Clone, Copy)]
struct Lot<'a> {
    resources: Resources,
    constraints: &'a [Constraint],
    tasks: usize,
}

impl<'a> Lot<'a> {
    fn of(job: &'a Job) -> Self {
        let Job { resources, ref constraints, ref lasts_ms, .. } = *job;
        Self { resources, constraints, tasks: lasts_ms.len() }
    }
}

/// What every job wants, in the order of placing.
fn in_order(jobs: &[Job], order: Order) -> Vec<Lot<'_>> {
    let mut lots: Vec<Lot<'_>> = jobs.iter().map(Lot::of).collect();
    if order == Order::Largest {
        lots.sort_by_key(|lot| Reverse(plan::size(lot.resources)));
    }
    lots
}

/// Places tasks that never end.
struct Filling<'a> {
    fleet: longshore_scheduler::Fleet,
    scheduler: Scheduler,
    kind: SchedulerKind,
    last: Option<NodeName>,
    /// What found no room: what is no smaller finds none either, now or later.
    refused: Vec<(&'a [Constraint], Resources)>,
    placed: Resources,
}

impl<'a> Filling<'a> {
    fn new(hosts: &[Host], kind: SchedulerKind) -> Self {
        Self {
            fleet: machines::fleet(hosts),
            scheduler: Scheduler::default(),
            kind,
            last: None,
            refused: Vec::new(),
            placed: Resources::ZERO,
        }
    }

    /// Places tasks. Gives how many found room.
    fn place(&mut self, lot: Lot<'a>) -> usize {
        let Lot { resources, constraints, tasks } = lot;
        let known = |(same, least): &(&[Constraint], Resources)| {
            *same == constraints && least.fits_in(resources)
        };
        if self.refused.iter().any(known) {
            return 0;
        }
        let demand = Demand { constraints, ..Demand::of_resources(resources) };
        let policy = Policy::new(self.kind, self.last.as_ref());
        let nodes = self.scheduler.place_alike(&mut self.fleet, &demand, policy, tasks);
        for _ in &nodes {
            self.placed = self.placed.saturating_add(resources);
        }
        if nodes.len() < tasks {
            self.refused.push((constraints, resources));
        }
        if let Some(node) = nodes.last() {
            self.last = Some(node.name.clone());
        }
        nodes.len()
    }
}

/// Whether machines hold the tasks, but for a few.
fn holds(hosts: &[Host], lots: &[Lot<'_>], kind: SchedulerKind) -> bool {
    let tasks: usize = lots.iter().map(|lot| lot.tasks).sum();
    let pending_max = (tasks as f64 * PENDING_PART) as usize;
    let mut filling = Filling::new(hosts, kind);
    let mut pending = 0;
    lots.iter().all(|lot| {
        pending += lot.tasks - filling.place(*lot);
        pending <= pending_max
    })
}

/// What part of cores, memory and disk is unused once one task in a hundred finds no room. `None` when the jobs
/// end before.
pub fn unused_when_full(
    hosts: &[Host],
    jobs: &[Job],
    scheduler: SchedulerKind,
) -> Option<[f64; 3]> {
    let lots = in_order(jobs, Order::Arrival);
    // After each one it may be full.
    let tasks =
        lots.iter().flat_map(|lot| std::iter::repeat_n(Lot { tasks: 1, ..*lot }, lot.tasks));
    let mut filling = Filling::new(hosts, scheduler);
    let mut rejected = 0;
    let full = tasks.zip(1..).any(|(task, come)| {
        rejected += 1 - filling.place(task);
        come >= TASKS_MIN && rejected as f64 > come as f64 * REJECTED_PART
    });
    full.then(|| parts(filling.placed, machines::capacity(hosts)).map(|used| 1.0 - used))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::Mix;
    use crate::workload::{Settings, Source};

    fn resources(cores: u64, gib: u64) -> Resources {
        Resources { cpu_millis: cores * 1000, memory_bytes: gib << 30, disk_bytes: 0 }
    }

    fn hosts(count: usize, capacity: Resources) -> Vec<Host> {
        let mut hosts = Mix::Google2011.hosts(count, 1);
        hosts.iter_mut().for_each(|host| host.capacity = capacity);
        hosts
    }

    fn job(resources: Resources, tasks: usize) -> Job {
        let lasts_ms = vec![None; tasks];
        Job { arrives_ms: 0, priority: 50, resources, constraints: vec![], lasts_ms }
    }

    #[test]
    fn machines_are_counted_against_what_is_wanted() {
        let hosts = hosts(20, resources(10, 10));
        // Six cores at a time: one on a machine, and 60 cores are six machines' worth.
        let jobs = [job(resources(6, 1), 10)];
        let found = compaction(&hosts, &jobs, SchedulerKind::Epvm, Order::Arrival).unwrap();
        assert_eq!(found, Compaction { machines: 10, bound: 6 });
        assert!((found.excess() - 2.0 / 3.0).abs() < 1e-12);
        let fine = [job(resources(1, 2), 25)];
        let found = compaction(&hosts, &fine, SchedulerKind::Binpack, Order::Arrival).unwrap();
        assert_eq!(found, Compaction { machines: 5, bound: 5 });
        let too_many = [job(resources(6, 1), 30)];
        assert_eq!(compaction(&hosts, &too_many, SchedulerKind::Epvm, Order::Largest), None);
    }

    #[test]
    fn spreading_small_tasks_first_costs_machines_and_the_largest_first_does_not() {
        let hosts = hosts(60, resources(10, 10));
        let jobs = [job(resources(1, 1), 40), job(resources(10, 10), 4)];
        let needed = |kind, order| compaction(&hosts, &jobs, kind, order).unwrap().machines;
        assert_eq!(needed(SchedulerKind::Epvm, Order::Largest), 8);
        assert_eq!(needed(SchedulerKind::Binpack, Order::Arrival), 8);
        // One small task on each of the first forty: the large ones need four more.
        assert_eq!(needed(SchedulerKind::Epvm, Order::Arrival), 44);
    }

    #[test]
    fn a_fleet_is_full_when_one_in_a_hundred_finds_no_room() {
        let hosts = hosts(100, resources(10, 10));
        let jobs = [job(resources(3, 1), 1000)];
        let [cpu, memory, disk] = unused_when_full(&hosts, &jobs, SchedulerKind::Spread).unwrap();
        assert!((cpu - 0.1).abs() < 1e-9 && (memory - 0.7).abs() < 1e-9, "{cpu}, {memory}");
        assert_eq!(disk, 1.0);
        let few = [job(resources(3, 1), 300)];
        assert_eq!(unused_when_full(&hosts, &few, SchedulerKind::Spread), None);
    }

    #[test]
    fn no_scheduler_goes_below_the_bound() {
        let hosts = Mix::Google2011.hosts(60, 1);
        let settings = Settings { source: Source::Synthetic, load: 1.0, constrained: 0.0, seed: 1 };
        let jobs = until_wanted(&hosts, Workload::new(settings, &hosts), 0.5);
        for kind in SchedulerKind::ALL {
            for order in [Order::Arrival, Order::Largest] {
                let found = compaction(&hosts, &jobs, kind, order).unwrap();
                assert!(found.machines >= found.bound && found.bound >= 15, "{found:?}");
            }
        }
    }
}
