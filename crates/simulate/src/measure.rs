//! What comes of a run, in figures.
//!
//! | figure | meaning |
//! |---|---|
//! | used | what is promised to tasks, as a part of what the machines have that are up; the mean over time |
//! | stranded | what is free and of no use: for each of 32 typical tasks, what is free on machines where that task does not fit; the mean over the 32. It is the measure of fragmentation of Weng et al., *Beware of Fragmentation* (USENIX ATC 2023) |
//! | fullest | how full the fullest resource is on all but one machine in a hundred: what is left for bursts |
//! | wait | from a task's arrival, or the failure of its machine, to its start. Those that wait at the end count with what they have waited so far |
//! | slowdown | from arrival to end over the time it runs; tasks of less than ten seconds count as of ten ("bounded slowdown"). Those that have not ended count as if they ran on undisturbed |
//!
//! Means over time and waits begin with the end of the warm-up.

use longshore_proto::spec::{Resources, SchedulerKind};
use longshore_proto::state::NodeStatus;
use longshore_scheduler::Fleet;

use crate::workload::Job;

/// How many typical tasks tell what is stranded.
const SHAPES: usize = 32;
/// Tasks that run for less count as if they ran so long, in milliseconds.
const BOUND_MS: u64 = 10_000;

/// What came of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Who placed.
    pub scheduler: SchedulerKind,
    /// How many tasks arrived: the sum of the four below.
    pub arrived: u64,
    /// How many have ended.
    pub ended: u64,
    /// How many run at the end.
    pub running: u64,
    /// How many wait at the end.
    pub waiting: u64,
    /// How many would fit on no machine, were it empty.
    pub rejected: u64,
    /// How many machines failed.
    pub failures: u64,
    /// How many tasks lost their machine and ran anew.
    pub restarted: u64,
    /// How many tasks were moved while they ran.
    pub moves: u64,
    /// Cores.
    pub cpu: Share,
    /// Memory.
    pub memory: Share,
    /// Disk; nothing where machines have none.
    pub disk: Share,
    /// How full the fullest resource is on all but one machine in a hundred.
    pub fullest: f64,
    /// What part of the tasks did not wait at all.
    pub at_once: f64,
    /// How long tasks waited.
    pub waits: Waits,
    /// How much longer tasks took than they run.
    pub slowdown: Slowdown,
    /// How things went over time.
    pub samples: Vec<Sample>,
}

/// Parts of all that there is of a resource, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Share {
    /// What is promised to tasks.
    pub used: f64,
    /// What is free and of no use to a typical task.
    pub stranded: f64,
}

/// How long tasks waited, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Waits {
    /// The mean.
    pub mean_ms: f64,
    /// Half of them waited no longer.
    pub p50_ms: u64,
    /// Nine of ten waited no longer.
    pub p90_ms: u64,
    /// 99 of a hundred waited no longer.
    pub p99_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

/// How much longer tasks took than they run.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Slowdown {
    /// The mean.
    pub mean: f64,
    /// 99 of a hundred had less.
    pub p99: f64,
}

/// How things stood at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When, in milliseconds since the beginning.
    pub at_ms: u64,
    /// Cores.
    pub cpu: Share,
    /// Memory.
    pub memory: Share,
    /// Disk.
    pub disk: Share,
    /// How full the fullest resource is on all but one machine in a hundred.
    pub fullest: f64,
    /// How many tasks wait.
    pub waiting: u64,
}

/// Counts while a run goes on.
#[derive(Debug)]
pub(crate) struct Meter {
    warm_up_ms: u64,
    shapes: Vec<Resources>,
    now_ms: u64,
    capacity: Resources,
    committed: Resources,
    arrived: u64,
    running: u64,
    rejected: u64,
    failures: u64,
    pub(crate) ended: u64,
    pub(crate) waiting: u64,
    pub(crate) restarted: u64,
    pub(crate) moves: u64,
    /// The sum over time of what part is used, in milliseconds.
    used_ms: [f64; 3],
    waits_ms: Vec<u64>,
    slowdowns: Vec<f64>,
    samples: Vec<Sample>,
}

impl Meter {
    pub(crate) fn new(warm_up_ms: u64, capacity: Resources, shapes: Vec<Resources>) -> Self {
        Self {
            warm_up_ms,
            shapes,
            now_ms: 0,
            capacity,
            committed: Resources::ZERO,
            arrived: 0,
            running: 0,
            rejected: 0,
            failures: 0,
            ended: 0,
            waiting: 0,
            restarted: 0,
            moves: 0,
            used_ms: [0.0; 3],
            waits_ms: Vec::new(),
            slowdowns: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// Typical tasks: evenly from all of them.
    pub(crate) fn shapes(jobs: &[Job], job_of: &[u32]) -> Vec<Resources> {
        let step = (job_of.len() / SHAPES).max(1);
        let evenly = job_of.iter().step_by(step).take(SHAPES);
        evenly.map(|job| jobs[*job as usize].resources).collect()
    }

    /// Nothing has changed since the last moment until this one.
    pub(crate) fn advance(&mut self, to_ms: u64) {
        let from_ms = self.now_ms.max(self.warm_up_ms);
        let for_ms = to_ms.saturating_sub(from_ms) as f64;
        let used = parts(self.committed, self.capacity);
        for (sum, used) in self.used_ms.iter_mut().zip(used) {
            *sum += used * for_ms;
        }
        self.now_ms = to_ms;
    }

    pub(crate) fn arrived(&mut self, tasks: usize) {
        self.arrived += tasks as u64;
    }

    pub(crate) fn rejected(&mut self) {
        self.rejected += 1;
        self.waiting -= 1;
    }

    pub(crate) fn started(
        &mut self,
        resources: Resources,
        since_ms: u64,
        arrived_ms: u64,
        lasts_ms: Option<u64>,
    ) {
        self.waiting -= 1;
        self.running += 1;
        self.committed = self.committed.saturating_add(resources);
        self.waited(since_ms, arrived_ms, lasts_ms);
    }

    /// A task waits at the end of the run.
    pub(crate) fn still_waiting(&mut self, since_ms: u64, arrived_ms: u64, lasts_ms: Option<u64>) {
        self.waited(since_ms, arrived_ms, lasts_ms);
    }

    fn waited(&mut self, since_ms: u64, arrived_ms: u64, lasts_ms: Option<u64>) {
        if since_ms < self.warm_up_ms {
            return;
        }
        self.waits_ms.push(self.now_ms - since_ms);
        if let Some(lasts_ms) = lasts_ms {
            let took_ms = self.now_ms - arrived_ms + lasts_ms;
            let slowdown = took_ms as f64 / lasts_ms.max(BOUND_MS) as f64;
            self.slowdowns.push(slowdown.max(1.0));
        }
    }

    /// A task has left its machine.
    pub(crate) fn vacated(&mut self, resources: Resources) {
        self.running -= 1;
        self.committed = self.committed.saturating_sub(resources);
    }

    pub(crate) fn failed(&mut self, capacity: Resources) {
        self.failures += 1;
        self.capacity = self.capacity.saturating_sub(capacity);
    }

    pub(crate) fn returned(&mut self, capacity: Resources) {
        self.capacity = self.capacity.saturating_add(capacity);
    }

    pub(crate) fn sample(&mut self, fleet: &Fleet) {
        let used = parts(self.committed, self.capacity);
        let stranded = stranded(fleet, &self.shapes, self.capacity);
        let share = |r: usize| Share { used: used[r], stranded: stranded[r] };
        self.samples.push(Sample {
            at_ms: self.now_ms,
            cpu: share(0),
            memory: share(1),
            disk: share(2),
            fullest: fullest(fleet),
            waiting: self.waiting,
        });
    }

    pub(crate) fn report(mut self, scheduler: SchedulerKind) -> Report {
        let measured_ms = self.now_ms.saturating_sub(self.warm_up_ms).max(1) as f64;
        let count = self.samples.len().max(1) as f64;
        let mean = |of: fn(&Sample) -> f64| self.samples.iter().map(of).sum::<f64>() / count;
        let used = self.used_ms.map(|sum| sum / measured_ms);
        let share = |used: f64, stranded: f64| Share { used, stranded };
        let cpu = share(used[0], mean(|sample| sample.cpu.stranded));
        let memory = share(used[1], mean(|sample| sample.memory.stranded));
        let disk = share(used[2], mean(|sample| sample.disk.stranded));
        let fullest = mean(|sample| sample.fullest);
        self.waits_ms.sort_unstable();
        self.slowdowns.sort_by(f64::total_cmp);
        let waits = self.waits_ms.len().max(1) as f64;
        let not_at_all = self.waits_ms.partition_point(|wait_ms| *wait_ms == 0);
        let at = |part: f64| quantile(&self.waits_ms, part).unwrap_or(0);
        Report {
            scheduler,
            arrived: self.arrived,
            ended: self.ended,
            running: self.running,
            waiting: self.waiting,
            rejected: self.rejected,
            failures: self.failures,
            restarted: self.restarted,
            moves: self.moves,
            cpu,
            memory,
            disk,
            fullest,
            at_once: if self.waits_ms.is_empty() { 1.0 } else { not_at_all as f64 / waits },
            waits: Waits {
                mean_ms: self.waits_ms.iter().map(|wait_ms| *wait_ms as f64).sum::<f64>() / waits,
                p50_ms: at(0.5),
                p90_ms: at(0.9),
                p99_ms: at(0.99),
                max_ms: at(1.0),
            },
            slowdown: Slowdown {
                mean: mean_of(&self.slowdowns).unwrap_or(1.0),
                p99: quantile(&self.slowdowns, 0.99).unwrap_or(1.0),
            },
            samples: self.samples,
        }
    }
}

fn mean_of(figures: &[f64]) -> Option<f64> {
    (!figures.is_empty()).then(|| figures.iter().sum::<f64>() / figures.len() as f64)
}

/// The least figure that so large a part of them does not exceed.
pub(crate) fn quantile<T: Copy>(sorted: &[T], part: f64) -> Option<T> {
    let rank = libm::ceil(part * sorted.len() as f64) as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Cores, memory and disk as parts of a whole; nothing of nothing is nothing.
pub(crate) fn parts(of: Resources, whole: Resources) -> [f64; 3] {
    let part = |of: u64, whole: u64| if whole == 0 { 0.0 } else { of as f64 / whole as f64 };
    [
        part(of.cpu_millis, whole.cpu_millis),
        part(of.memory_bytes, whole.memory_bytes),
        part(of.disk_bytes, whole.disk_bytes),
    ]
}

/// What of the capacity is free and of no use to typical tasks.
fn stranded(fleet: &Fleet, shapes: &[Resources], capacity: Resources) -> [f64; 3] {
    let mut sum = [0.0; 3];
    for node in fleet.nodes().filter(|node| node.status == NodeStatus::Ready) {
        let free = node.free();
        let shut = shapes.iter().filter(|shape| !shape.fits_in(free)).count();
        let weight = shut as f64 / shapes.len().max(1) as f64;
        for (sum, part) in sum.iter_mut().zip(parts(free, capacity)) {
            *sum += weight * part;
        }
    }
    sum
}

/// How full the fullest resource is on all but one machine in a hundred.
fn fullest(fleet: &Fleet) -> f64 {
    let ready = fleet.nodes().filter(|node| node.status == NodeStatus::Ready);
    let full = ready.map(|node| parts(node.committed, node.capacity));
    let mut full: Vec<f64> = full.map(|parts| parts.into_iter().fold(0.0, f64::max)).collect();
    full.sort_by(f64::total_cmp);
    quantile(&full, 0.99).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::{self, Mix};
    use longshore_scheduler::Demand;

    fn resources(cores: u64, gib: u64) -> Resources {
        Resources { cpu_millis: cores * 1000, memory_bytes: gib << 30, disk_bytes: 0 }
    }

    #[test]
    fn what_is_free_where_nothing_fits_is_stranded() {
        let mut hosts = Mix::Google2011.hosts(2, 1);
        hosts.iter_mut().for_each(|host| host.capacity = resources(10, 10));
        let mut fleet = machines::fleet(&hosts);
        let whole = machines::capacity(&hosts);
        let shapes = [resources(1, 1), resources(4, 4)];
        assert_eq!(stranded(&fleet, &shapes, whole), [0.0; 3]);
        // 8 cores and no memory are free on the first: nothing fits there. The second is as good as before.
        fleet.reserve(&hosts[0].name, &Demand::of_resources(resources(2, 10)));
        assert_eq!(stranded(&fleet, &shapes, whole), [0.4, 0.0, 0.0]);
        assert_eq!(fullest(&fleet), 1.0);
        // 2 cores and 2 GiB on the second: room for one of the two kinds.
        fleet.reserve(&hosts[1].name, &Demand::of_resources(resources(8, 8)));
        let [cpu, memory, disk] = stranded(&fleet, &shapes, whole);
        assert!((cpu - 0.45).abs() < 1e-12 && (memory - 0.05).abs() < 1e-12 && disk == 0.0);
    }

    #[test]
    fn quantiles_are_figures_that_were_seen() {
        let sorted: Vec<u64> = (1..=100).collect();
        assert_eq!(quantile(&sorted, 0.5), Some(50));
        assert_eq!(quantile(&sorted, 0.99), Some(99));
        assert_eq!(quantile(&sorted, 1.0), Some(100));
        assert_eq!(quantile(&sorted[..1], 0.5), Some(1));
        assert_eq!(quantile::<u64>(&[], 0.5), None);
    }
}
