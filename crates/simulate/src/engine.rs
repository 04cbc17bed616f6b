//! Virtual time: jobs arrive, are placed as the manager places them, and end.
//!
//! What waits is placed by priority, then the largest first, then in the order of arrival. Arrivals are tried at once;
//! what did not fit is tried again once something has ended: with the next arrival or a second later, as one batch. The schedulers are
//! the real ones ([`longshore_scheduler::Scheduler`]); nothing about placement is written a second time here.
//!
//! A machine that fails loses its tasks: they wait again, and run their whole time anew.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use longshore_proto::constraint::Constraint;
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, JobName, Namespace, NodeName, SpecName};
use longshore_proto::spec::{Resources, SchedulerKind};
use longshore_proto::state::NodeStatus;
use longshore_scheduler::plan::{self, rebalance};
use longshore_scheduler::{Demand, Fleet, GroupId, Policy, Scheduler};
use uuid::Uuid;

use crate::machines::{self, Host};
use crate::measure::{Meter, Report};
use crate::random::Random;
use crate::workload::Job;

/// How often what waits is tried again, in milliseconds, once something has ended.
const RETRY_MS: u64 = 1000;
/// How many samples are taken of a run.
const SAMPLES: u64 = 240;

/// In which order tasks are placed that wait together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By priority, then the largest first: as the manager does.
    Largest,
    /// As they came.
    Arrival,
}

impl Order {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Largest, Self::Arrival];

    /// As it is written in options.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Largest => "largest",
            Self::Arrival => "arrival",
        }
    }
}

/// Machines that fail and return.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Failures {
    /// How long one machine stays up on average.
    pub up_ms: f64,
    /// How long it stays away on average.
    pub away_ms: f64,
}

/// Rebalancing while the simulation runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rebalance {
    /// How often.
    pub every_ms: u64,
    /// How many moves at most, and what they must save.
    pub bounds: rebalance::Bounds,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Who places.
    pub scheduler: SchedulerKind,
    /// In which order.
    pub order: Order,
    /// How long jobs arrive; what has not ended by then is left as it is.
    pub duration_ms: u64,
    /// How much of the beginning is not measured: the fleet is empty then.
    pub warm_up_ms: u64,
    /// Whether machines fail.
    pub failures: Option<Failures>,
    /// Whether tasks are moved while they run.
    pub rebalance: Option<Rebalance>,
    /// The seed of failures. The seed of the jobs is the workload's.
    pub seed: u64,
}

/// Runs jobs on machines. Jobs must come in the order of their arrival; those after the end are passed over.
pub fn run(hosts: &[Host], jobs: &[Job], settings: Settings) -> Report {
    let mut engine = Engine::new(hosts, jobs, settings);
    while engine.step() {}
    engine.finish()
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has not arrived.
    Unborn,
    /// It waits.
    Waiting { since_ms: u64 },
    /// It runs on a machine.
    Running { host: u32 },
    /// It has ended.
    Ended,
    /// It fits on no machine, not even on an empty one.
    Rejected,
}

/// Something that happens. Of things of one moment, what makes room comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A task has run its time, unless it was started anew since.
    Ended {
        task: u32,
        start: u32,
    },
    Returned {
        host: u32,
    },
    Failed {
        host: u32,
    },
    Arrived {
        job: u32,
    },
    Retry,
    Rebalance,
    Sample,
}

/// What waits and can be placed alike, in the order of placing: priority, size, number of the job.
type WaitingKey = (Reverse<u8>, Reverse<u64>, u32);

struct Engine<'a> {
    hosts: &'a [Host],
    host_of: BTreeMap<&'a NodeName, u32>,
    jobs: &'a [Job],
    /// The number of each job's first task.
    first_task: Vec<u32>,
    job_of: Vec<u32>,
    /// The group of each job's tasks, where tasks are moved.
    kin: Vec<Option<GroupId>>,
    settings: Settings,
    fleet: Fleet,
    scheduler: Scheduler,
    /// The machine that was picked last.
    last: Option<NodeName>,
    now_ms: u64,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    tasks: Vec<State>,
    /// How often each task was started.
    starts: Vec<u32>,
    on_host: Vec<BTreeSet<u32>>,
    waiting: BTreeMap<WaitingKey, VecDeque<u32>>,
    /// What has joined those that wait and was not tried yet.
    fresh: BTreeSet<WaitingKey>,
    retry_due: bool,
    random: Random,
    meter: Meter,
}

impl<'a> Engine<'a> {
    fn new(hosts: &'a [Host], jobs: &'a [Job], settings: Settings) -> Self {
        let end_ms = settings.duration_ms;
        let jobs = &jobs[..jobs.partition_point(|job| job.arrives_ms < end_ms)];
        let mut first_task = Vec::with_capacity(jobs.len());
        let mut job_of: Vec<u32> = Vec::new();
        let mut events: BinaryHeap<Reverse<(u64, Event)>> = BinaryHeap::new();
        for (job, body) in (0..).zip(jobs) {
            first_task.push(u32::try_from(job_of.len()).unwrap_or(u32::MAX));
            job_of.extend(std::iter::repeat_n(job, body.lasts_ms.len()));
            events.push(Reverse((body.arrives_ms, Event::Arrived { job })));
        }
        events.push(Reverse((settings.warm_up_ms, Event::Sample)));
        let fleet = machines::fleet(hosts);
        let mut kin = vec![None; jobs.len()];
        if let Some(Rebalance { every_ms, .. }) = settings.rebalance {
            events.push(Reverse((every_ms.max(1), Event::Rebalance)));
            kin = (0..jobs.len()).map(group).collect();
        }
        let shapes = Meter::shapes(jobs, &job_of);
        let mut engine = Self {
            hosts,
            host_of: hosts.iter().map(|host| &host.name).zip(0..).collect(),
            jobs,
            first_task,
            kin,
            settings,
            fleet,
            scheduler: Scheduler::default(),
            last: None,
            now_ms: 0,
            events,
            tasks: vec![State::Unborn; job_of.len()],
            starts: vec![0; job_of.len()],
            job_of,
            on_host: vec![BTreeSet::new(); hosts.len()],
            waiting: BTreeMap::new(),
            fresh: BTreeSet::new(),
            retry_due: false,
            random: Random::new(settings.seed, 6),
            meter: Meter::new(settings.warm_up_ms, machines::capacity(hosts), shapes),
        };
        if let Some(Failures { up_ms, .. }) = settings.failures {
            for host in (0..).take(hosts.len()) {
                engine.after(up_ms, Event::Failed { host });
            }
        }
        engine
    }

    /// Lets the next thing happen. False when there is none before the end.
    fn step(&mut self) -> bool {
        let Some(Reverse((at_ms, event))) = self.events.pop() else { return false };
        if at_ms >= self.settings.duration_ms {
            return false;
        }
        self.meter.advance(at_ms);
        self.now_ms = at_ms;
        self.handle(event);
        let more = self.events.peek().is_some_and(|Reverse((next_ms, _))| *next_ms == at_ms);
        if !more && !self.fresh.is_empty() {
            // Nobody who comes now goes before those for whom there is room again.
            if std::mem::take(&mut self.retry_due) {
                self.fresh = self.waiting.keys().copied().collect();
            }
            let fresh = std::mem::take(&mut self.fresh);
            self.place(fresh);
        }
        true
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Ended { task, start } => self.end(task, start),
            Event::Failed { host } => self.fail(host),
            Event::Returned { host } => self.come_back(host),
            Event::Arrived { job } => self.arrive(job),
            Event::Retry if self.retry_due => self.fresh = self.waiting.keys().copied().collect(),
            Event::Retry => {}
            Event::Rebalance => self.rebalance(),
            Event::Sample => {
                self.meter.sample(&self.fleet);
                let measured_ms = self.settings.duration_ms - self.settings.warm_up_ms;
                let next_ms = self.now_ms + (measured_ms / SAMPLES).max(1);
                self.events.push(Reverse((next_ms, Event::Sample)));
            }
        }
    }

    fn arrive(&mut self, job: u32) {
        let first = self.first_task[job as usize];
        let tasks = first..first + self.jobs[job as usize].lasts_ms.len() as u32;
        self.meter.arrived(tasks.len());
        self.wait(job, tasks);
    }

    /// Tasks of a job wait from now on.
    fn wait(&mut self, job: u32, tasks: impl Iterator<Item = u32>) {
        let key = self.key(job);
        let group = self.waiting.entry(key).or_default();
        for task in tasks {
            self.tasks[task as usize] = State::Waiting { since_ms: self.now_ms };
            group.push_back(task);
            self.meter.waiting += 1;
        }
        self.fresh.insert(key);
    }

    fn key(&self, job: u32) -> WaitingKey {
        let body = &self.jobs[job as usize];
        match self.settings.order {
            Order::Largest => (Reverse(body.priority), Reverse(plan::size(body.resources)), job),
            Order::Arrival => (Reverse(0), Reverse(0), job),
        }
    }

    /// Places what fits of these, in their order.
    fn place(&mut self, keys: BTreeSet<WaitingKey>) {
        // What is no smaller than something that found no room finds none either.
        let mut refused: Vec<(&[Constraint], Resources)> = Vec::new();
        for key in keys {
            let (_, _, job) = key;
            let body = &self.jobs[job as usize];
            let wanted = (body.constraints.as_slice(), body.resources);
            if refused.iter().any(|(same, least)| *same == wanted.0 && least.fits_in(wanted.1)) {
                continue;
            }
            let demand = self.demand(job);
            let Some(mut tasks) = self.waiting.remove(&key) else { continue };
            let policy = Policy::new(self.settings.scheduler, self.last.as_ref());
            let nodes = self.scheduler.place_alike(&mut self.fleet, &demand, policy, tasks.len());
            let names: Vec<NodeName> = nodes.into_iter().map(|node| node.name.clone()).collect();
            for (task, name) in tasks.drain(..names.len()).zip(&names) {
                self.start(task, name, demand.resources);
            }
            if let Some(name) = names.into_iter().next_back() {
                self.last = Some(name);
            }
            if !tasks.is_empty() {
                self.waiting.insert(key, tasks);
                refused.push(wanted);
                self.refuse(key);
            }
        }
    }

    fn demand(&self, job: u32) -> Demand<'a> {
        let body = &self.jobs[job as usize];
        let kin = self.kin[job as usize];
        Demand { constraints: &body.constraints, kin, ..Demand::of_resources(body.resources) }
    }

    /// A job found no room. One that would find none on empty machines never will.
    fn refuse(&mut self, key: WaitingKey) {
        let body = &self.jobs[key.2 as usize];
        let may = |host: &Host| {
            let constraints = &body.constraints;
            body.resources.fits_in(host.capacity)
                && host.tasks_max > 0
                && constraints.iter().all(|one| one.holds(host.attribute(&one.attribute)))
        };
        if self.hosts.iter().any(may) {
            return;
        }
        for task in self.waiting.remove(&key).into_iter().flatten() {
            self.tasks[task as usize] = State::Rejected;
            self.meter.rejected();
        }
    }

    /// A task runs on a machine, which the fleet knows already.
    fn start(&mut self, task: u32, name: &NodeName, resources: Resources) {
        let (job, index) = self.job_and_index(task);
        let Some(&host) = self.host_of.get(name) else { return };
        let State::Waiting { since_ms } = self.tasks[task as usize] else { return };
        self.on_host[host as usize].insert(task);
        self.tasks[task as usize] = State::Running { host };
        self.starts[task as usize] += 1;
        let lasts_ms = job.lasts_ms[index];
        if let Some(lasts_ms) = lasts_ms {
            let ended = Event::Ended { task, start: self.starts[task as usize] };
            self.events.push(Reverse((self.now_ms.saturating_add(lasts_ms), ended)));
        }
        self.meter.started(resources, since_ms, job.arrives_ms, lasts_ms);
    }

    fn job_and_index(&self, task: u32) -> (&'a Job, usize) {
        let job = self.job_of[task as usize] as usize;
        (&self.jobs[job], (task - self.first_task[job]) as usize)
    }

    fn end(&mut self, task: u32, start: u32) {
        if self.starts[task as usize] == start && self.vacate(task) {
            self.tasks[task as usize] = State::Ended;
            self.meter.ended += 1;
            self.retry();
        }
    }

    /// Takes a task off its machine. False when it is on none.
    fn vacate(&mut self, task: u32) -> bool {
        let State::Running { host } = self.tasks[task as usize] else { return false };
        let demand = self.demand(self.job_of[task as usize]);
        self.on_host[host as usize].remove(&task);
        self.fleet.release(&self.hosts[host as usize].name, &demand);
        self.meter.vacated(demand.resources);
        true
    }

    /// There is room again: what waits is tried soon.
    fn retry(&mut self) {
        if !self.waiting.is_empty() && !self.retry_due {
            self.retry_due = true;
            self.events.push(Reverse((self.now_ms + RETRY_MS, Event::Retry)));
        }
    }

    fn fail(&mut self, host: u32) {
        let Some(Failures { away_ms, .. }) = self.settings.failures else { return };
        let machine = &self.hosts[host as usize];
        for task in std::mem::take(&mut self.on_host[host as usize]) {
            if self.vacate(task) {
                // What was to be its end is not: the next start has another number.
                self.starts[task as usize] += 1;
                self.meter.restarted += 1;
                self.wait(self.job_of[task as usize], std::iter::once(task));
            }
        }
        self.fleet.upsert(&machine.name, &machine.machine(NodeStatus::Lost));
        self.meter.failed(machine.capacity);
        self.after(away_ms, Event::Returned { host });
    }

    fn come_back(&mut self, host: u32) {
        let Some(Failures { up_ms, .. }) = self.settings.failures else { return };
        let machine = &self.hosts[host as usize];
        self.fleet.upsert(&machine.name, &machine.machine(NodeStatus::Ready));
        self.meter.returned(machine.capacity);
        self.after(up_ms, Event::Failed { host });
        self.retry();
    }

    /// Something happens after a time that has no memory, with this mean.
    fn after(&mut self, mean_ms: f64, event: Event) {
        let after_ms = (mean_ms * self.random.exponential()).max(1.0) as u64;
        self.events.push(Reverse((self.now_ms.saturating_add(after_ms), event)));
    }

    fn rebalance(&mut self) {
        let Some(Rebalance { every_ms, bounds }) = self.settings.rebalance else { return };
        let movable = |task: &u32| rebalance::Movable {
            task: TaskId(Uuid::from_u128(u128::from(*task))),
            demand: self.demand(self.job_of[*task as usize]),
        };
        let tasks_on = |node: &NodeName| match self.host_of.get(node) {
            Some(host) => self.on_host[*host as usize].iter().map(movable).collect(),
            None => Vec::new(),
        };
        let found = rebalance::plan(&mut self.fleet.clone(), bounds, tasks_on);
        for one in found.moves {
            let task = one.task.0.as_u128() as u32;
            let Some(&host) = self.host_of.get(&one.to) else { continue };
            let demand = self.demand(self.job_of[task as usize]);
            self.on_host[self.host_of[&one.from] as usize].remove(&task);
            self.on_host[host as usize].insert(task);
            self.fleet.reserve(&one.to, &demand);
            self.fleet.release(&one.from, &demand);
            self.tasks[task as usize] = State::Running { host };
            self.meter.moves += 1;
        }
        self.retry();
        self.events.push(Reverse((self.now_ms + every_ms.max(1), Event::Rebalance)));
    }

    fn finish(mut self) -> Report {
        let end_ms = self.settings.duration_ms;
        self.meter.advance(end_ms);
        let tasks = std::mem::take(&mut self.tasks);
        for (task, state) in (0..).zip(tasks) {
            if let State::Waiting { since_ms } = state {
                let (job, index) = self.job_and_index(task);
                self.meter.still_waiting(since_ms, job.arrives_ms, job.lasts_ms[index]);
            }
        }
        self.meter.report(self.settings.scheduler)
    }
}

/// The group of a job's tasks, as the fleet counts them.
fn group(job: usize) -> Option<GroupId> {
    let name = JobName::try_from(format!("job-{job}")).ok()?;
    let spec = SpecName::try_from("main").ok()?;
    Some(GroupId::of_spec(&JobKey { namespace: Namespace::standard(), name }, &spec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::Mix;
    use crate::workload::{self, Source, Workload};

    fn bounds(moves_max: usize) -> rebalance::Bounds {
        let (kinds_max, looks_max) = (100, usize::MAX);
        rebalance::Bounds { moves_max, gain: 2.0, kinds_max, looks_max, nodes_skipped: 0 }
    }

    const SETTINGS: Settings = Settings {
        scheduler: SchedulerKind::Epvm,
        order: Order::Largest,
        duration_ms: 3_600_000,
        warm_up_ms: 600_000,
        failures: None,
        rebalance: None,
        seed: 1,
    };

    fn resources(cores: u64) -> Resources {
        Resources { cpu_millis: cores * 1000, memory_bytes: cores << 30, disk_bytes: 0 }
    }

    fn hosts(cores: &[u64]) -> Vec<Host> {
        let mut hosts = Mix::Google2011.hosts(cores.len(), 1);
        hosts.iter_mut().zip(cores).for_each(|(host, cores)| host.capacity = resources(*cores));
        hosts
    }

    fn job(arrives_s: u64, priority: u8, cores: u64, lasts_s: &[u64]) -> Job {
        let lasts_ms = lasts_s.iter().map(|seconds| Some(seconds * 1000)).collect();
        let resources = resources(cores);
        Job { arrives_ms: arrives_s * 1000, priority, resources, constraints: vec![], lasts_ms }
    }

    fn drawn(source: Source, hosts: &[Host], load: f64) -> Vec<Job> {
        let settings = workload::Settings { source, load, constrained: 0.06, seed: 1 };
        let until = |job: &Job| job.arrives_ms < SETTINGS.duration_ms;
        Workload::new(settings, hosts).take_while(until).collect()
    }

    /// Steps through a run, and looks at the books after each step.
    fn stepped(hosts: &[Host], jobs: &[Job], settings: Settings) -> Report {
        let mut engine = Engine::new(hosts, jobs, settings);
        while engine.step() {
            for (host, tasks) in hosts.iter().zip(&engine.on_host) {
                let node = engine.fleet.node(&host.name).unwrap();
                assert!(node.committed.fits_in(node.capacity), "{} is over capacity", host.name);
                assert_eq!(node.tasks as usize, tasks.len());
            }
            let waiting: usize = engine.waiting.values().map(VecDeque::len).sum();
            assert_eq!(waiting as u64, engine.meter.waiting);
        }
        engine.finish()
    }

    #[test]
    fn every_task_is_somewhere_and_no_machine_holds_more_than_it_has() {
        let failures = Some(Failures { up_ms: 2_000_000.0, away_ms: 300_000.0 });
        let bounds = bounds(5);
        let rebalance = Some(Rebalance { every_ms: 300_000, bounds });
        for scheduler in SchedulerKind::ALL {
            for (failures, rebalance) in [(None, None), (failures, rebalance)] {
                let hosts = Mix::Google2011.hosts(12, 1);
                let jobs = drawn(Source::Synthetic, &hosts, 1.1);
                let settings = Settings { scheduler, failures, rebalance, ..SETTINGS };
                let report = stepped(&hosts, &jobs, settings);
                let tasks: usize = jobs.iter().map(|job| job.lasts_ms.len()).sum();
                assert_eq!(report.arrived, tasks as u64);
                let Report { ended, running, waiting, rejected, .. } = report;
                assert_eq!(report.arrived, ended + running + waiting + rejected, "{scheduler:?}");
                assert!(ended > 0 && waiting > 0, "{report:?}");
                assert_eq!(report.restarted > 0, failures.is_some());
            }
        }
    }

    #[test]
    fn the_same_settings_give_the_same_report() {
        let hosts = Mix::Google2019.hosts(30, 1);
        let jobs = drawn(Source::Alibaba2023, &hosts, 0.9);
        for scheduler in SchedulerKind::ALL {
            let failures = Some(Failures { up_ms: 9e6, away_ms: 3e5 });
            let settings = Settings { scheduler, failures, ..SETTINGS };
            let text = |seed| format!("{:?}", run(&hosts, &jobs, Settings { seed, ..settings }));
            assert_eq!(text(1), text(1));
            assert_ne!(text(1), text(2));
        }
    }

    #[test]
    fn what_waits_is_placed_by_priority_and_then_the_largest_first() {
        let hosts = hosts(&[4]);
        let jobs = [
            job(0, 50, 4, &[1000]),
            job(1, 50, 1, &[100]),
            job(2, 50, 3, &[100]),
            job(3, 90, 2, &[100]),
        ];
        let waits = |order| {
            let settings = Settings { order, warm_up_ms: 0, ..SETTINGS };
            run(&hosts, &jobs, settings).waits
        };
        // At 1001 s the two cores of the highest priority, and the one that is left beside them; at 1102 s the
        // three. In the order of arrival the three wait no longer than the one: only the two wait on.
        let largest = waits(Order::Largest);
        assert_eq!((largest.max_ms, largest.p50_ms), (1_100_000, 998_000));
        let arrival = waits(Order::Arrival);
        assert_eq!((arrival.max_ms, arrival.p50_ms), (1_099_000, 999_000));
    }

    #[test]
    fn waiting_and_slowdown_are_told_in_figures_that_can_be_checked_by_hand() {
        let hosts = hosts(&[2]);
        // The second waits 100 s for the first, and is tried again within a second.
        let jobs = [job(0, 50, 2, &[100]), job(0, 50, 2, &[100])];
        let report = run(&hosts, &jobs, Settings { warm_up_ms: 0, ..SETTINGS });
        assert_eq!((report.arrived, report.ended, report.waits.max_ms), (2, 2, 101_000));
        assert!((report.at_once - 0.5).abs() < 1e-9);
        assert!((report.slowdown.mean - (1.0 + 2.01) / 2.0).abs() < 1e-9, "{report:?}");
        let busy = 200.0 / 3600.0;
        assert!((report.cpu.used - busy).abs() < 1e-9, "{report:?}");
    }

    #[test]
    fn what_fits_nowhere_is_rejected_and_what_has_no_end_stays() {
        let hosts = hosts(&[2, 4]);
        let forever = Job { lasts_ms: vec![None; 2], ..job(0, 50, 2, &[]) };
        let jobs = [forever, job(1, 50, 5, &[10, 10]), job(2, 50, 4, &[10])];
        let report = run(&hosts, &jobs, SETTINGS);
        let Report { arrived, running, waiting, rejected, ended, .. } = report;
        assert_eq!((arrived, running, waiting, rejected, ended), (5, 2, 1, 2, 0));
    }

    #[test]
    fn a_machine_that_fails_loses_its_tasks_and_they_run_anew() {
        let hosts = hosts(&[4, 4]);
        let jobs = [job(0, 50, 1, &[1800; 8])];
        let failures = Some(Failures { up_ms: 600_000.0, away_ms: 60_000.0 });
        let report = stepped(&hosts, &jobs, Settings { failures, warm_up_ms: 0, ..SETTINGS });
        assert!(report.failures > 0 && report.restarted > 0, "{report:?}");
        assert_eq!(report.ended + report.running + report.waiting, 8);
        let calm = stepped(&hosts, &jobs, Settings { warm_up_ms: 0, ..SETTINGS });
        assert!(calm.slowdown.mean < report.slowdown.mean);
    }

    #[test]
    fn rebalancing_evens_out_what_binpack_has_piled_up() {
        let hosts = hosts(&[8, 8]);
        let jobs = [job(0, 50, 1, &[4000; 8])];
        let bounds = bounds(2);
        let rebalance = Some(Rebalance { every_ms: 300_000, bounds });
        let packed = Settings { scheduler: SchedulerKind::Binpack, ..SETTINGS };
        assert_eq!(run(&hosts, &jobs, packed).fullest, 1.0);
        let report = stepped(&hosts, &jobs, Settings { rebalance, ..packed });
        assert!(report.moves > 0 && report.fullest < 0.9, "{report:?}");
        assert_eq!(report.waits.max_ms, 0);
    }
}
