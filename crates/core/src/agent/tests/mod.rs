//! Decisions of the worker's brain: one input, and exactly the writes and actions that it leads to.

mod adopting;
mod assigning;
mod health;
mod image;
mod living;
mod ports;
mod stock;

use std::collections::BTreeMap;

use longshore_proto::id::{BootId, ClusterId, Revision, TaskId};
use longshore_proto::node::{AssignDelta, Assignment, RunTask, TaskReport, Want};
use longshore_proto::spec::{RestartMode, RestartPolicy, TaskSpec};
use longshore_proto::state::TaskState;
use uuid::Uuid;

use super::labels::Owner;
use super::*;

pub(super) const START_WALL_MS: u64 = 1_700_000_000_000;

pub(super) fn cluster() -> ClusterId {
    ClusterId(Uuid::from_u128(0xc1_0000_0000_0000_0000_0000_0000_0000))
}

pub(super) fn node() -> NodeName {
    "n1".parse().unwrap()
}

pub(super) fn boot() -> BootId {
    BootId(Uuid::from_u128(0xb1))
}

pub(super) fn id(number: u128) -> TaskId {
    TaskId(Uuid::from_u128(number))
}

pub(super) fn rev(index: u64) -> Revision {
    Revision { epoch: 1, index }
}

/// A policy whose first wait is long enough to be seen.
pub(super) fn policy(mode: RestartMode, attempts: u32) -> RestartPolicy {
    RestartPolicy { mode, attempts, window_ms: 600_000, delay_ms: 1_000, delay_ms_max: 60_000 }
}

pub(super) fn run_task(restart: RestartPolicy) -> RunTask {
    let mut spec = TaskSpec::new("main".parse().unwrap(), "busybox:1");
    spec.restart = Some(restart);
    RunTask {
        namespace: "default".parse().unwrap(),
        job: "web".parse().unwrap(),
        version: 1,
        slot: 0,
        attempt_floor: 0,
        epoch: None,
        node_labels: BTreeMap::new(),
        spec,
    }
}

pub(super) fn wants_run(number: u128, index: u64, restart: RestartPolicy) -> Assignment {
    Assignment {
        task: id(number),
        revision: rev(index),
        want: Want::Run(Box::new(run_task(restart))),
    }
}

pub(super) fn wants_stop(number: u128, index: u64) -> Assignment {
    Assignment {
        task: id(number),
        revision: rev(index),
        want: Want::Stop { reason: "job stopped".into() },
    }
}

pub(super) fn owner(number: u128, attempt: u64) -> Owner {
    Owner { cluster_id: cluster(), node: node(), task: id(number), attempt }
}

pub(super) fn labels_of(number: u128, attempt: u64) -> BTreeMap<String, String> {
    owner(number, attempt).labels(rev(1), &run_task(policy(RestartMode::Always, 5)))
}

pub(super) fn container(number: u128, attempt: u64, state: ContainerState) -> Container {
    Container { id: container_id(number, attempt), labels: labels_of(number, attempt), state }
}

pub(super) fn container_id(number: u128, attempt: u64) -> String {
    format!("container-{number}-{attempt}")
}

pub(super) fn exit(code: i64) -> ContainerEnd {
    ContainerEnd::exited(code)
}

pub(super) fn died(number: u128, attempt: u64, code: i64) -> Input {
    Input::Container(ContainerEvent {
        container_id: container_id(number, attempt),
        labels: labels_of(number, attempt),
        change: ContainerChange::Died(exit(code)),
    })
}

/// What every task here runs.
pub(super) fn busybox() -> ImageWish {
    ImageWish { image: "busybox:1".into(), platform: None, login: None }
}

pub(super) fn looked_for(result: Result<Option<String>, Failure>) -> Input {
    Input::ImageLookedFor { wish: busybox(), result }
}

pub(super) fn refused(reason: &str) -> Failure {
    Failure::Refused(reason.to_owned())
}

/// An agent with a clock, a store, and the actions of its last step.
pub(super) struct Bench {
    pub(super) agent: Agent,
    pub(super) now: Now,
    pub(super) store: BTreeMap<String, Write>,
    /// The store as it was synced last: what a loss of power leaves of it.
    synced: BTreeMap<String, Write>,
}

impl Bench {
    pub(super) fn new(saved: Saved) -> Self {
        let now = Now { time: Time(1_000), wall_ms: START_WALL_MS };
        Self {
            agent: Agent::restore(node(), boot(), saved, Settings::default(), now),
            now,
            store: BTreeMap::new(),
            synced: BTreeMap::new(),
        }
    }

    /// An agent that is registered, has an empty set at revision 1.1, and sees an empty Docker.
    pub(super) fn ready() -> Self {
        Self::with(Settings::default())
    }

    /// The same, with settings of its operator.
    pub(super) fn with(settings: Settings) -> Self {
        let mut bench = Self::new(Saved::default());
        bench.agent = Agent::restore(node(), boot(), Saved::default(), settings, bench.now);
        bench.join();
        bench.sync(1, vec![]);
        bench.up(vec![]);
        bench
    }

    pub(super) fn join(&mut self) -> (Vec<Write>, Vec<Action>) {
        self.step(Input::Registered { cluster_id: cluster() })
    }

    pub(super) fn sync(
        &mut self,
        index: u64,
        assignments: Vec<Assignment>,
    ) -> (Vec<Write>, Vec<Action>) {
        self.step(Input::Synced(FullSet {
            cluster_id: cluster(),
            revision: rev(index),
            assignments,
            known: vec![],
        }))
    }

    pub(super) fn delta(
        &mut self,
        previous: u64,
        index: u64,
        changes: Vec<Assignment>,
    ) -> (Vec<Write>, Vec<Action>) {
        self.step(Input::Delta(AssignDelta {
            cluster_id: cluster(),
            previous: rev(previous),
            revision: rev(index),
            changes,
        }))
    }

    /// The runtime comes up and shows these containers.
    pub(super) fn up(&mut self, containers: Vec<Container>) -> (Vec<Write>, Vec<Action>) {
        let (_, actions) = self.step(Input::RuntimeUp);
        let ticket = ticket(&actions);
        self.step(Input::Observed { ticket, containers })
    }

    /// The slow tick comes round and shows these containers.
    pub(super) fn look(&mut self, containers: Vec<Container>) -> (Vec<Write>, Vec<Action>) {
        let (_, actions) = self.later(runtime::OBSERVE_INTERVAL_MS);
        let ticket = ticket(&actions);
        self.step(Input::Observed { ticket, containers })
    }

    pub(super) fn later(&mut self, ms: u64) -> (Vec<Write>, Vec<Action>) {
        self.now.time = self.now.time + ms;
        self.now.wall_ms += ms;
        self.step(Input::Timer)
    }

    pub(super) fn step(&mut self, input: Input) -> (Vec<Write>, Vec<Action>) {
        let (writes, held) = self.agent.handle(input, self.now).split();
        let list = writes.as_slice().to_vec();
        for write in &list {
            self.keep(write);
        }
        if writes.must_be_synced() {
            self.synced.clone_from(&self.store);
        }
        (list, held.release(writes.stored()))
    }

    /// The machine loses power: what was not synced is gone from the store.
    pub(super) fn lose_power(&mut self) {
        self.store.clone_from(&self.synced);
    }

    fn keep(&mut self, write: &Write) {
        let (key, stays) = match write {
            Write::Cluster(_) => ("cluster".to_owned(), true),
            Write::Revision(_) => ("revision".to_owned(), true),
            Write::Task(record) => (format!("task {}", record.task), true),
            Write::TaskForgotten(task) => (format!("task {task}"), false),
            Write::Tombstone(tombstone) => (format!("tombstone {}", tombstone.task), true),
            Write::TombstoneDropped(task) => (format!("tombstone {task}"), false),
            Write::Report { sequence, .. } => (format!("report {sequence:08}"), true),
            Write::ReportDropped(sequence) => (format!("report {sequence:08}"), false),
            Write::Kept(kept) => (format!("kept {:08}", kept.sequence), true),
            Write::KeptDropped(sequence) => (format!("kept {sequence:08}"), false),
            Write::Stock(record) => (format!("stock {}", record.item), true),
            Write::StockDropped(item) => (format!("stock {item}"), false),
        };
        if stays {
            drop(self.store.insert(key, write.clone()))
        } else {
            drop(self.store.remove(&key))
        }
    }

    /// What the store holds.
    pub(super) fn saved(&self) -> Saved {
        let mut saved = Saved::default();
        for write in self.store.values().cloned() {
            match write {
                Write::Cluster(cluster_id) => saved.cluster_id = Some(cluster_id),
                Write::Revision(revision) => saved.revision = revision,
                Write::Task(record) => saved.tasks.push(record),
                Write::Tombstone(tombstone) => saved.tombstones.push(tombstone),
                Write::Report { sequence, report } => saved.reports.push((sequence, report)),
                Write::Kept(kept) => saved.kept.push(kept),
                Write::Stock(record) => saved.stock.push(record),
                other => panic!("{other:?} is never kept"),
            }
        }
        saved
    }

    /// The worker's process ends without a word and starts again.
    pub(super) fn restart(&mut self) {
        let saved = self.saved();
        self.now = Now { time: Time(0), wall_ms: self.now.wall_ms + 500 };
        self.agent = Agent::restore(node(), boot(), saved, Settings::default(), self.now);
    }

    /// Takes a task to `running` in its first attempt.
    pub(super) fn running(restart: RestartPolicy) -> Self {
        let mut bench = Self::ready();
        bench.delta(1, 2, vec![wants_run(1, 2, restart)]);
        bench.pulled();
        bench.started(1, 1);
        bench.deliver();
        bench
    }

    /// The image is here.
    pub(super) fn pulled(&mut self) -> (Vec<Write>, Vec<Action>) {
        self.step(looked_for(Ok(Some("sha256:1".into()))))
    }

    /// The image is not here.
    pub(super) fn missing(&mut self) -> (Vec<Write>, Vec<Action>) {
        self.step(looked_for(Ok(None)))
    }

    /// The answer to a fetch.
    pub(super) fn fetched(&mut self, result: Result<(), Failure>) -> (Vec<Write>, Vec<Action>) {
        self.step(Input::ImageFetched { wish: busybox(), result })
    }

    pub(super) fn started(&mut self, number: u128, attempt: u64) -> (Vec<Write>, Vec<Action>) {
        let container =
            StartedContainer { container_id: container_id(number, attempt), ended: None };
        self.step(Input::Started { task: id(number), attempt, result: Ok(container) })
    }

    /// Lets every report be sent and acknowledged, and gives them.
    pub(super) fn deliver(&mut self) -> Vec<TaskReport> {
        let mut delivered = Vec::new();
        loop {
            let (_, actions) = self.later(outbox::GATHER_MS);
            let Some((through, reports)) = actions.into_iter().find_map(|action| match action {
                Action::SendReports { through, reports } => Some((through, reports)),
                _ => None,
            }) else {
                return delivered;
            };
            delivered.extend(reports);
            self.step(Input::ReportsAcked { through, known: None });
        }
    }

    /// The task's record in the store.
    pub(super) fn record(&self, number: u128) -> Option<&TaskRecord> {
        match self.store.get(&format!("task {}", id(number)))? {
            Write::Task(record) => Some(record),
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn ticket(actions: &[Action]) -> u64 {
    actions
        .iter()
        .find_map(|action| match action {
            Action::ListContainers { ticket } => Some(*ticket),
            _ => None,
        })
        .unwrap_or_else(|| panic!("no list was asked for: {actions:?}"))
}

/// The reports among the writes, in short.
pub(super) fn reports(writes: &[Write]) -> Vec<(u64, TaskState, Option<i64>, String)> {
    let short = |write: &Write| match write {
        Write::Report { report, .. } => {
            let reason = report.reason.clone().unwrap_or_default();
            Some((report.attempt, report.state, report.exit_code, reason))
        }
        _ => None,
    };
    writes.iter().filter_map(short).collect()
}

pub(super) fn remove(container: String, grace_ms: u64) -> Action {
    Action::RemoveContainer { container, grace_ms }
}
