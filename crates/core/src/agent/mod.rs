//! The worker's brain: what a node runs, from what its manager wants and what its runtime says.
//!
//! ```text
//!   manager ──► Registered, Delta, Synced ──┐                    ┌──► Writes ──► the worker's store
//!   runtime ──► Observed, Container, … ─────┼──► Agent::handle ──┤       │
//!   answers ──► ImageFetched, Started, … ───┤     (input, now)   └──► Held ◄── Stored (the receipt)
//!   time ─────► Timer ──────────────────────┘                           │
//!                                                                       ▼
//!                                    find, fetch, start, stop, remove, list, report, sync, alarm
//! ```
//!
//! How a shell drives it:
//!
//! 1. [`Agent::restore`] from what the store holds.
//! 2. For each input [`Agent::handle`]; split the [`Step`], store the writes, and only then release and
//!    perform the actions. The answers are inputs again.
//! 3. At [`Agent::next_wakeup`], [`Input::Timer`].
//!
//! What holds, whatever comes in whatever order: `(attempt, state)` of a task never goes back; an attempt is
//! stored before its container is created; a second attempt starts only when the first is known to have
//! ended; a task that has ended never runs again; containers of others are never touched; while the runtime
//! does not answer, nothing is judged dead; nothing is fetched for a task that the node does not allow; a worker that
//! has just begun starts no fenced task before the leader has said that it is still its own.

mod assign;
mod backoff;
mod context;
mod health;
mod image;
mod input;
pub mod labels;
mod outbox;
pub mod policy;
mod ports;
mod reconcile;
mod record;
mod runtime;
mod settings;
mod shelf;
mod step;
mod stock;
mod task;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use longshore_proto::id::{BootId, ClusterId, Revision, TaskId};
use longshore_proto::name::{JobName, Namespace, NodeName, SpecName};
use longshore_proto::node::set_digest;

pub use self::image::ImageWish;
pub use self::input::{
    Container, ContainerChange, ContainerEnd, ContainerEvent, ContainerState, Failure, FullSet,
    Input, StartedContainer,
};
pub use self::ports::PORT_RANGE_USUAL;
pub use self::record::{KeptContainer, Saved, StockRecord, TaskRecord, Tombstone};
pub use self::settings::{Keeping, Settings};
pub use self::step::{Action, Held, ProbeTask, StartContainer, Step, Stored, Write, Writes};
pub use self::stock::StockItem;

use crate::time::{Now, Time};

use self::assign::SyncState;
use self::context::Context;
use self::image::Errands;
use self::outbox::Outbox;
use self::ports::Ports;
use self::runtime::Runtime;
use self::shelf::Shelf;
use self::stock::Stock;
use self::task::{Phase, Task};

/// How many forgotten tasks are remembered, the newest of them. A message about one that is older would have
/// to be under way while thousands of tasks end here.
const TOMBSTONES_MAX: usize = 4_096;

/// The brain of one worker.
#[derive(Debug, Clone)]
pub struct Agent {
    tasks: BTreeMap<TaskId, Task>,
    tombstones: BTreeMap<TaskId, Tombstone>,
    tombstone_next: u64,
    revision: Revision,
    /// Since when what was reported is known, as it was answered last since the whole set was had: a leader that has
    /// forgotten that says so. After a start the whole set is had anyway.
    answered: Option<Revision>,
    sync: SyncState,
    /// Up to which place reports were answered in this run.
    delivered: Option<u64>,
    ctx: Context,
}

impl Agent {
    /// The brain of a worker that has just started, from what its store holds.
    pub fn restore(
        node: NodeName,
        boot_id: BootId,
        saved: Saved,
        settings: Settings,
        now: Now,
    ) -> Self {
        let mut ports = Ports::new(settings.ports);
        for record in saved.tasks.iter().filter(|record| !record.state.is_terminal()) {
            let fixed = record.run.iter().flat_map(|run| &run.spec.ports);
            ports.hold(record.task, record.ports.iter().chain(fixed));
        }
        let tombstone_next =
            saved.tombstones.iter().map(|tombstone| tombstone.sequence).max().unwrap_or(0) + 1;
        Self {
            tasks: saved
                .tasks
                .into_iter()
                .map(|record| (record.task, Task::restored(record, now)))
                .collect(),
            tombstones: saved
                .tombstones
                .into_iter()
                .map(|tombstone| (tombstone.task, tombstone))
                .collect(),
            tombstone_next,
            revision: saved.revision,
            answered: None,
            sync: SyncState::default(),
            delivered: None,
            ctx: Context {
                node,
                boot_id,
                cluster_id: saved.cluster_id,
                outbox: Outbox::restore(saved.reports, now.time.0),
                shelf: Shelf::restore(saved.kept, settings.keeping, now.wall_ms),
                stock: Stock::restore(saved.stock, &settings.keeping, now.time.0),
                keeping: settings.keeping,
                runtime: Runtime::new(),
                ports,
                policy: settings.policy,
                errands: Errands::default(),
                synced: false,
                leaving: false,
                now_ms: now.time.0,
                wall_ms: now.wall_ms,
                step: 0,
                writes: Vec::new(),
                actions: Vec::new(),
            },
        }
    }

    /// Takes in one input.
    pub fn handle(&mut self, input: Input, now: Now) -> Step {
        debug_assert!(now.time.0 >= self.ctx.now_ms, "monotonic time went back");
        let now_ms = now.time.0;
        self.ctx.now_ms = now_ms;
        self.ctx.wall_ms = now.wall_ms;
        self.ctx.step += 1;
        match input {
            Input::Registered { cluster_id } => self.registered(cluster_id),
            Input::Delta(delta) => self.delta(delta),
            Input::Synced(set) => self.synced(set),
            Input::SyncFailed => self.sync_failed(),
            Input::RuntimeUp => self.ctx.runtime.up(now_ms),
            Input::RuntimeDown { reason } => self.ctx.runtime.down(reason),
            Input::Observed { ticket, containers } => self.observed(ticket, &containers),
            Input::ObserveFailed { ticket, reason } => {
                self.ctx.runtime.list_failed(ticket, now_ms, reason)
            }
            Input::Container(event) => self.container_event(&event),
            Input::ImageLookedFor { wish, result } => {
                self.ctx.looked_for(&wish);
                for task in self.tasks.values_mut() {
                    task.image_looked_for(&mut self.ctx, &wish, &result);
                }
            }
            Input::ImageFetched { wish, result } => {
                self.ctx.fetched(&wish, &result);
                for task in self.tasks.values_mut() {
                    task.image_fetched(&mut self.ctx, &wish, &result);
                }
            }
            Input::Started { task, attempt, result } => {
                if let Some(task) = self.tasks.get_mut(&task) {
                    task.started(&mut self.ctx, attempt, result);
                }
            }
            Input::Stopped { container_id, result } => {
                let stopping = |task: &&mut Task| {
                    matches!(task.phase, Phase::Stopping { .. })
                        && task.record().container_id.as_ref() == Some(&container_id)
                };
                if let Some(task) = self.tasks.values_mut().find(stopping) {
                    task.stopped(&mut self.ctx, &result);
                }
            }
            Input::Probed { task, attempt, result } => {
                if let Some(task) = self.tasks.get_mut(&task) {
                    task.probed(&mut self.ctx, attempt, &result);
                }
            }
            Input::Removed { container, result } => {
                self.ctx.shelf.removed(&container, &result, now_ms)
            }
            Input::DiskMeasured { used_percent } => self.disk_measured(used_percent),
            Input::StockRemoved { item, result } => self.stock_removed(&item, &result),
            Input::ReportsAcked { through, known } => {
                let through = self.ctx.outbox.acked(through, now_ms, &mut self.ctx.writes);
                self.delivered = self.delivered.max(Some(through));
                self.known_since(known);
            }
            Input::ReportsFailed => self.ctx.outbox.failed(now_ms),
            Input::Leave => {
                self.ctx.leaving = true;
                self.tasks.values_mut().for_each(Task::leave);
            }
            Input::Timer => {}
        }
        self.settle();
        Step::new(
            self.ctx.step,
            std::mem::take(&mut self.ctx.writes),
            std::mem::take(&mut self.ctx.actions),
        )
    }

    /// Everything that is due, whatever the input was.
    fn settle(&mut self) {
        for task in self.tasks.values_mut() {
            task.advance(&mut self.ctx);
        }
        self.forget();
        for task in self.tasks.values_mut() {
            if task.take_changed() {
                self.ctx.writes.push(Write::Task(task.record().clone()));
            }
        }
        if self.ctx.runtime.is_ready() {
            self.ctx.shelf.poll(self.ctx.now_ms, &mut self.ctx.actions);
            self.ctx.actions.extend(self.ctx.stock.poll(self.ctx.now_ms));
        }
        self.ctx.actions.extend(self.ctx.runtime.poll(self.ctx.now_ms, self.ctx.step));
        if self.sync.is_registered() {
            self.ctx.actions.extend(self.ctx.outbox.poll(self.ctx.now_ms));
        }
        self.poll_sync();
    }

    /// Forgets the tasks whose end is told, or that nobody wants to hear of.
    fn forget(&mut self) {
        let over: Vec<TaskId> = self
            .tasks
            .values()
            .filter(|task| task.is_forgettable(self.delivered))
            .map(Task::id)
            .collect();
        for id in over {
            let Some(task) = self.tasks.remove(&id) else { continue };
            self.ctx.ports.release(id);
            let tombstone = Tombstone {
                sequence: self.tombstone_next,
                task: id,
                attempt: task.record().attempt,
                end: task.into_end_report(),
            };
            self.tombstone_next += 1;
            self.ctx.writes.push(Write::TaskForgotten(id));
            self.ctx.writes.push(Write::Tombstone(tombstone.clone()));
            self.tombstones.insert(id, tombstone);
        }
        while self.tombstones.len() > TOMBSTONES_MAX
            && let Some(oldest) =
                self.tombstones.values().min_by_key(|tombstone| tombstone.sequence)
        {
            let oldest = oldest.task;
            self.tombstones.remove(&oldest);
            self.ctx.writes.push(Write::TombstoneDropped(oldest));
        }
    }

    /// When [`Input::Timer`] is wanted, by [`Now::time`]. `None` while only other inputs can change anything.
    pub fn next_wakeup(&self) -> Option<Time> {
        let tasks = self.tasks.values().filter_map(|task| task.wakeup(&self.ctx)).min();
        let is_ready = self.ctx.runtime.is_ready();
        let removals = if is_ready { self.ctx.shelf.wakeup() } else { None };
        let stock = is_ready.then(|| self.ctx.stock.wakeup());
        let reports = if self.sync.is_registered() { self.ctx.outbox.wakeup() } else { None };
        [tasks, removals, stock, reports, self.ctx.runtime.wakeup(), self.sync.wakeup()]
            .into_iter()
            .flatten()
            .min()
            .map(Time)
    }

    /// The cluster that the worker belongs to, once it has joined one.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.ctx.cluster_id
    }

    /// The revision of the newest assignments.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Since when what was reported is known, as it was answered last since the whole set was had.
    pub fn answered(&self) -> Option<Revision> {
        self.answered
    }

    /// The digest of the assignments that have not ended as far as the leader knows.
    pub fn digest(&self) -> u64 {
        let live = self.tasks.values().filter(|task| !task.record().superseded);
        set_digest(live.map(|task| (&task.record().task, task.revision())))
    }

    /// How many containers of ours run, or may run for all that is known: what is being started or has not been looked
    /// at counts, and so does what is left over from tasks that are forgotten.
    pub fn tasks_running(&self) -> u32 {
        let tasks = self.tasks.values().filter(|task| task.may_run()).count();
        u32::try_from(tasks + self.ctx.runtime.strays_running).unwrap_or(u32::MAX)
    }

    /// The tasks that have not ended, by their names for people.
    pub fn tasks_left(&self) -> Vec<String> {
        self.tasks.values().filter(|task| task.phase != Phase::Ended).map(Task::name).collect()
    }

    /// Why the runtime cannot be used, while it cannot.
    pub fn runtime_error(&self) -> Option<&str> {
        self.ctx.runtime.error()
    }

    /// Where a task's logs are. `None` for a task that this worker never had, or has long forgotten.
    pub fn logs_of(&self, task: TaskId) -> Option<LogSource> {
        let live = self.tasks.get(&task);
        if live.is_none() && !self.tombstones.contains_key(&task) {
            return None;
        }
        let not_ended = live.filter(|task| task.phase != Phase::Ended);
        let running = not_ended.and_then(|task| task.record().container_id.clone());
        let kept = || self.ctx.shelf.kept_of(task).map(|kept| kept.container_id.clone());
        Some(LogSource { container_id: running.or_else(kept), goes_on: not_ended.is_some() })
    }

    /// The tasks whose containers run, as far as known.
    pub fn running(&self) -> Vec<RunningTask> {
        let running = self.tasks.values().filter(|task| task.runs()).map(Task::record);
        let running = running.filter_map(|record| {
            let (run, container_id) = (record.run.as_deref()?, record.container_id.clone()?);
            Some(RunningTask {
                task: record.task,
                namespace: run.namespace.clone(),
                job: run.job.clone(),
                spec: run.spec.name.clone(),
                slot: run.slot,
                attempt: record.attempt,
                container_id,
            })
        });
        running.collect()
    }

    /// The longest that a container of this worker may take to end by itself, in milliseconds.
    pub fn grace_ms_max(&self) -> u64 {
        self.tasks.values().map(Task::grace_ms).max().unwrap_or(0)
    }

    /// After [`Input::Leave`]: whether every task has ended, as far as one can tell.
    pub fn is_quiet(&self) -> bool {
        self.ctx.leaving && self.tasks.values().all(|task| task.phase == Phase::Ended)
    }

    /// Whether every report has been answered.
    pub fn is_told(&self) -> bool {
        self.ctx.outbox.is_empty()
    }
}

/// A task whose container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningTask {
    /// The task.
    pub task: TaskId,
    /// The job's namespace.
    pub namespace: Namespace,
    /// The job.
    pub job: JobName,
    /// The part of the job.
    pub spec: SpecName,
    /// The task's place among the instances of its spec, from 0.
    pub slot: u32,
    /// The attempt.
    pub attempt: u64,
    /// The container.
    pub container_id: String,
}

/// Where a task's logs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSource {
    /// The container that runs, or the newest that has ended and is kept; absent where there is none.
    pub container_id: Option<String>,
    /// Whether there may be more: from this container, or from that of a later attempt.
    pub goes_on: bool,
}
