//! What holds for the worker's brain whatever comes in whatever order.
//!
//! A small world of a manager, a Docker and a crash-prone worker is driven by random choices. After each
//! step the rules are checked; at the end the faults stop, and everything must settle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use longshore_proto::id::{Revision, TaskId};
use longshore_proto::node::{AssignDelta, Assignment, TaskReport, Want};
use longshore_proto::spec::RestartMode;
use longshore_proto::state::TaskState;
use proptest::prelude::*;

use super::labels::Owner;
use super::tests::{Bench, cluster, exit, id, labels_of, policy, rev, run_task};
use super::*;

/// How many tasks there are to choose from: few, so that they are met again and again.
const TASKS: u8 = 4;
/// The container that belongs to somebody else.
const STRANGER: &str = "stranger";

#[derive(Debug, Clone)]
struct Made {
    name: String,
    labels: BTreeMap<String, String>,
    state: ContainerState,
}

struct World {
    bench: Bench,
    /// By id.
    docker: BTreeMap<String, Made>,
    docker_up: bool,
    events: VecDeque<Input>,
    actions: Vec<Action>,
    /// Starts that Docker may still carry out although it said that they failed.
    late_starts: Vec<String>,
    containers_made: u64,
    wanted: BTreeMap<TaskId, Assignment>,
    index: u64,
    /// Newest report of each task, in the order of writing.
    told: BTreeMap<TaskId, (u64, TaskState, u32)>,
    ended: BTreeSet<TaskId>,
    trace: Vec<String>,
}

impl World {
    fn new() -> Self {
        let mut docker = BTreeMap::new();
        let mut labels = labels_of(1, 1);
        labels.insert(labels::CLUSTER.into(), "00000000-0000-0000-0000-000000000007".into());
        let stranger = Made { name: STRANGER.into(), labels, state: ContainerState::Running };
        docker.insert(STRANGER.to_owned(), stranger);
        Self {
            bench: Bench::new(Saved::default()),
            docker,
            docker_up: false,
            events: VecDeque::new(),
            actions: Vec::new(),
            late_starts: Vec::new(),
            containers_made: 0,
            wanted: BTreeMap::new(),
            index: 1,
            told: BTreeMap::new(),
            ended: BTreeSet::new(),
            trace: Vec::new(),
        }
    }

    fn input(&mut self, input: Input) {
        self.trace.push(format!("{} ms: {input:?}", self.bench.now.time.0));
        let (writes, actions) = self.bench.step(input);
        for write in &writes {
            if let Write::Report { report, .. } = write {
                self.check_report(report);
            }
        }
        for action in actions {
            self.trace.push(format!("    {action:?}"));
            self.check_action(&action);
            self.actions.push(action);
        }
        let (now, wakeup) = (self.bench.now.time, self.bench.agent.next_wakeup());
        assert!(
            wakeup.is_none_or(|at| at > now),
            "a timer that is due would spin: {wakeup:?}{}",
            self.story()
        );
    }

    fn check_report(&mut self, report: &TaskReport) {
        let new = (report.attempt, report.state, report.pulls_failed);
        if let Some(old) = self.told.insert(report.task, new) {
            let again = old == new && new.1.is_terminal();
            assert!(
                new > old || again,
                "{} went from {old:?} to {new:?}{}",
                report.task,
                self.story()
            );
        }
        if report.state.is_terminal() {
            self.ended.insert(report.task);
        }
    }

    fn check_action(&self, action: &Action) {
        match action {
            Action::StartContainer(start) => {
                let stored =
                    self.bench.saved().tasks.into_iter().find(|record| record.task == start.task);
                let stored = stored.map(|record| record.attempt);
                assert_eq!(stored, Some(start.attempt), "started before stored{}", self.story());
                assert!(
                    !self.ended.contains(&start.task),
                    "ran again after its end{}",
                    self.story()
                );
            }
            Action::RemoveStock { .. } => {
                // All tasks here have one image.
                let needs = |record: &TaskRecord| {
                    !record.state.is_terminal()
                        && record.run.is_some()
                        && !self.ended.contains(&record.task)
                };
                let needed = self.bench.saved().tasks.into_iter().find(needs);
                assert!(needed.is_none(), "{needed:?} needs its image{}", self.story());
            }
            Action::StopContainer { container_id: container, .. }
            | Action::RemoveContainer { container, .. } => {
                assert_ne!(container, STRANGER, "touched a stranger{}", self.story());
            }
            _ => {}
        }
    }

    fn story(&self) -> String {
        format!("\n{}\n", self.trace.join("\n"))
    }

    // The manager.

    fn change(&mut self, task: TaskId, want: Option<Want>, lose: bool) {
        let previous = rev(self.index);
        self.index += 1;
        let revision = rev(self.index);
        let changes = match want {
            Some(want) => {
                let assignment = Assignment { task, revision, want };
                self.wanted.insert(task, assignment.clone());
                vec![assignment]
            }
            None => {
                self.wanted.remove(&task);
                vec![]
            }
        };
        if !lose {
            self.input(Input::Delta(AssignDelta {
                cluster_id: cluster(),
                previous,
                revision,
                changes,
            }));
        }
    }

    fn full_set(&self) -> Input {
        let assignments = self.wanted.values().cloned().collect();
        Input::Synced(FullSet {
            cluster_id: cluster(),
            revision: rev(self.index),
            assignments,
            known: vec![],
        })
    }

    // Docker.

    fn end(&mut self, container_id: &str, code: i64) {
        let Some(found) = self.docker.get_mut(container_id) else { return };
        if found.state == ContainerState::Running {
            found.state = ContainerState::Ended(exit(code));
            let labels = found.labels.clone();
            self.event(container_id, labels, ContainerChange::Died(exit(code)));
        }
    }

    fn event(
        &mut self,
        container_id: &str,
        labels: BTreeMap<String, String>,
        change: ContainerChange,
    ) {
        if self.docker_up {
            let event = ContainerEvent { container_id: container_id.to_owned(), labels, change };
            self.events.push_back(Input::Container(event));
        }
    }

    fn create(&mut self, start: &StartContainer) -> String {
        let there = self.docker.iter().find(|(_, found)| found.name == start.name);
        if let Some((container_id, _)) = there {
            return container_id.clone();
        }
        self.containers_made += 1;
        let container_id = format!("c{}", self.containers_made);
        let made = Made {
            name: start.name.clone(),
            labels: start.labels.clone(),
            state: ContainerState::Created,
        };
        self.docker.insert(container_id.clone(), made);
        container_id
    }

    fn launch(&mut self, container_id: &str) {
        let Some(found) = self.docker.get(container_id).cloned() else { return };
        if found.state != ContainerState::Created {
            return;
        }
        let task = Owner::read(&found.labels).map(|owner| owner.task);
        let twin = self.docker.values().find(|other| {
            other.state == ContainerState::Running
                && other.name != STRANGER
                && Owner::read(&other.labels).map(|owner| owner.task) == task
        });
        assert!(twin.is_none(), "{twin:?} runs beside {found:?}{}", self.story());
        if let Some(found) = self.docker.get_mut(container_id) {
            found.state = ContainerState::Running;
        }
        self.event(container_id, found.labels, ContainerChange::Started);
    }

    fn remove(&mut self, container: &str) {
        let container_id =
            self.docker.iter().find(|(key, found)| *key == container || found.name == container);
        if let Some(container_id) = container_id.map(|(key, _)| key.clone()) {
            self.end(&container_id, 137);
            if let Some(gone) = self.docker.remove(&container_id) {
                self.event(&container_id, gone.labels, ContainerChange::Destroyed);
            }
        }
    }

    /// Carries out one action. `fate`: 0 fails before it had an effect, 1 fails after, others work.
    fn perform(&mut self, action: Action, fate: u8) {
        let away = !self.docker_up;
        let failure = || if away { Failure::RuntimeAway } else { Failure::Refused("no".into()) };
        let fails = away || fate <= 1;
        match action {
            Action::FindImage(wish) => {
                let is_here = fate.is_multiple_of(2);
                let result =
                    if fails { Err(failure()) } else { Ok(is_here.then(|| "sha256:1".to_owned())) };
                self.input(Input::ImageLookedFor { wish, result });
            }
            Action::FetchImage(wish) => {
                let result = if fails { Err(failure()) } else { Ok(()) };
                self.input(Input::ImageFetched { wish, result });
            }
            Action::StartContainer(start) => {
                let (task, attempt) = (start.task, start.attempt);
                let result = if fails {
                    if fate == 1 {
                        let container_id = self.create(&start);
                        self.late_starts.push(container_id);
                    }
                    Err(failure())
                } else {
                    let container_id = self.create(&start);
                    self.launch(&container_id);
                    let ended = match self.docker.get(&container_id).map(|found| found.state) {
                        Some(ContainerState::Ended(end)) => Some(end),
                        _ => None,
                    };
                    Ok(StartedContainer { container_id, ended })
                };
                self.input(Input::Started { task, attempt, result });
            }
            Action::StopContainer { container_id, .. } => {
                if !fails || fate == 1 {
                    self.end(&container_id, 143);
                }
                let end = match self.docker.get(&container_id).map(|found| found.state) {
                    Some(ContainerState::Ended(end)) => end,
                    _ => ContainerEnd::default(),
                };
                let result = if fails { Err(failure()) } else { Ok(end) };
                self.input(Input::Stopped { container_id, result });
            }
            Action::RemoveContainer { container, .. } => {
                if !fails || fate == 1 {
                    self.remove(&container);
                }
                let result = if fails { Err(failure()) } else { Ok(()) };
                self.input(Input::Removed { container, result });
            }
            Action::ProbeTask(probe) => {
                let result = if fails { Err(failure()) } else { Ok(()) };
                let (task, attempt) = (probe.task, probe.attempt);
                self.input(Input::Probed { task, attempt, result });
            }
            Action::ListContainers { ticket } => {
                if fails {
                    return self.input(Input::ObserveFailed { ticket, reason: "no".into() });
                }
                let list = |(key, found): (&String, &Made)| Container {
                    id: key.clone(),
                    labels: found.labels.clone(),
                    state: found.state,
                };
                let containers = self.docker.iter().map(list).collect();
                self.input(Input::Observed { ticket, containers });
            }
            Action::SendReports { through, reports } => {
                if fate == 0 {
                    return self.input(Input::ReportsFailed);
                }
                for report in reports.iter().filter(|report| report.state.is_terminal()) {
                    self.wanted.remove(&report.task);
                }
                let input = if fate == 1 {
                    Input::ReportsFailed
                } else {
                    Input::ReportsAcked { through, known: None }
                };
                self.input(input);
            }
            Action::RequestSync => {
                let input = if fate == 0 { Input::SyncFailed } else { self.full_set() };
                self.input(input);
            }
            // Full or not, so that images come and go under the tasks.
            Action::MeasureDisk => {
                self.input(Input::DiskMeasured { used_percent: if fails { 99 } else { 10 } });
            }
            Action::RemoveStock { item, .. } => {
                let result = if fails { Err(failure()) } else { Ok(()) };
                self.input(Input::StockRemoved { item, result });
            }
            Action::Alarm(_) => {}
        }
    }

    fn runtime(&mut self, up: bool) {
        self.docker_up = up;
        if up {
            self.input(Input::RuntimeUp);
        } else {
            self.events.clear();
            self.input(Input::RuntimeDown { reason: "away".into() });
        }
    }

    fn crash(&mut self, carried_out: u8, power_is_lost: bool) {
        // What was under way may be carried out all the same; nobody hears the answer.
        for action in std::mem::take(&mut self.actions) {
            if carried_out == 0 || !self.docker_up {
                continue;
            }
            match action {
                Action::StartContainer(start) => {
                    let container_id = self.create(&start);
                    if carried_out == 1 {
                        self.launch(&container_id)
                    } else {
                        self.late_starts.push(container_id)
                    }
                }
                Action::StopContainer { container_id, .. } => self.end(&container_id, 143),
                Action::RemoveContainer { container, .. } => self.remove(&container),
                _ => {}
            }
        }
        self.events.clear();
        self.trace.push("---- the worker starts again".into());
        if power_is_lost {
            self.trace.push("---- after a loss of power".into());
            self.bench.lose_power();
        }
        self.bench.restart();
        self.join();
    }

    fn join(&mut self) {
        self.input(Input::Registered { cluster_id: cluster() });
        if self.docker_up {
            self.input(Input::RuntimeUp);
        }
    }

    fn pass(&mut self, ms: u64) {
        self.bench.now.time = self.bench.now.time + ms;
        self.bench.now.wall_ms += ms;
        self.input(Input::Timer);
    }

    fn choose(&mut self, (verb, a, b): (u8, u8, u8)) {
        let task = id(u128::from(a % TASKS) + 1);
        match verb {
            0..=2 if !self.ended.contains(&task) => {
                let mode = [RestartMode::Never, RestartMode::OnFailure, RestartMode::Always]
                    [usize::from(b % 3)];
                let want = Want::Run(Box::new(run_task(policy(mode, u32::from(b % 4)))));
                let lose = b > 200;
                self.change(task, Some(want), lose);
            }
            3 if self.wanted.contains_key(&task) => {
                self.change(task, Some(Want::Stop { reason: "asked".into() }), b > 200);
            }
            // The manager gives a task up: only a whole set tells.
            4 => self.change(task, None, true),
            5 => {
                let revision = Revision { epoch: 1, index: self.index };
                let hint = AssignDelta {
                    cluster_id: cluster(),
                    previous: revision,
                    revision,
                    changes: vec![],
                };
                self.input(Input::Delta(hint));
            }
            6..=11 if !self.actions.is_empty() => {
                let action = self.actions.remove(usize::from(a) % self.actions.len());
                self.perform(action, b % 8);
            }
            12..=14 if !self.events.is_empty() => {
                let place = usize::from(a) % self.events.len();
                if let Some(event) = self.events.get(place).cloned() {
                    // Some come twice.
                    if b < 200 {
                        self.events.remove(place);
                    }
                    self.input(event);
                }
            }
            15..=16 => {
                let running: Vec<String> =
                    self.docker.keys().filter(|key| *key != STRANGER).cloned().collect();
                if !running.is_empty() {
                    let container_id = running[usize::from(a) % running.len()].clone();
                    if b > 240 {
                        self.remove(&container_id)
                    } else {
                        self.end(&container_id, i64::from(b % 3))
                    }
                }
            }
            17 => self.runtime(b > 80),
            18 if b < 100 => self.crash(a % 3, b < 50),
            19 if !self.late_starts.is_empty() => {
                let container_id = self.late_starts.remove(usize::from(a) % self.late_starts.len());
                self.launch(&container_id);
            }
            20..=23 => self.pass(u64::from(a) * u64::from(b)),
            _ => {}
        }
    }

    /// The faults stop: everything that was asked is done, until nothing is left but the slow tick.
    fn settle(&mut self) {
        for container_id in std::mem::take(&mut self.late_starts) {
            self.launch(&container_id);
        }
        self.runtime(true);
        self.input(Input::Registered { cluster_id: cluster() });
        for _ in 0..2_000 {
            while let Some(event) = self.events.pop_front() {
                self.input(event);
            }
            if let Some(action) = self.actions.pop() {
                self.perform(action, 7);
            } else if self.bench.now.time.0 > 20_000_000 {
                return;
            } else {
                self.pass(11_000);
            }
        }
    }

    fn check_settled(&self) {
        for (container_id, found) in self.docker.iter().filter(|(key, _)| *key != STRANGER) {
            let task = Owner::read(&found.labels).map(|owner| owner.task);
            let wanted = task.is_some_and(|task| {
                matches!(self.wanted.get(&task), Some(Assignment { want: Want::Run(_), .. }))
            });
            let runs = found.state == ContainerState::Running;
            assert!(!runs || wanted, "{container_id} {found:?} is an orphan{}", self.story());
        }
        for (task, assignment) in &self.wanted {
            let runs = self.docker.values().any(|found| {
                found.state == ContainerState::Running
                    && Owner::read(&found.labels).is_some_and(|owner| owner.task == *task)
            });
            let wants_run = matches!(assignment.want, Want::Run(_));
            assert_eq!(runs, wants_run, "{task} has come to rest wrongly{}", self.story());
        }
        assert!(self.docker.contains_key(STRANGER));
    }
}

proptest! {
    #[test]
    fn no_order_of_events_breaks_a_promise(
        choices in proptest::collection::vec((0u8..24, any::<u8>(), any::<u8>()), 1..250),
    ) {
        let mut world = World::new();
        world.join();
        world.runtime(true);
        for choice in choices {
            world.choose(choice);
        }
        world.settle();
        world.check_settled();
    }
}
