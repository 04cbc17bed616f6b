//! The cluster's state: the fold of the log.
//!
//! State changes in [`State::apply`] alone, in live running and on replay alike. `apply` is pure: no clock
//! (times come from the record), no randomness, no permission check, no decision. What can be derived from
//! the stored parts (the fleet, a job's slots, a node's tasks, what waits) is derived, kept up to date here,
//! and rebuilt when state is loaded.

mod job;
mod node;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use longshore_proto::alarm::Severity;
use longshore_proto::event::Event;
use longshore_proto::id::{Revision, TaskId};
use longshore_proto::name::{JobKey, NodeName, SpecName};
use longshore_proto::node::TaskReport;
use longshore_proto::spec::{JobSpec, TaskSpec};
use longshore_proto::state::{Eligibility, JobStatus, NodeStatus, TaskState};
use longshore_scheduler::Fleet;

use super::changes::{Changes, touch_slot};
use super::derived::note_ended;
pub use super::parts::{Command, Drain, Job, Meta, Node};
use super::persist::{self, Write};
use super::publish;
use super::record::{CommandKey, Fact, Hash, Record};
use super::shared_map::SharedMap;
pub use super::slot::SlotTasks;
use super::task::PackedWhy;
pub use super::task::Task;

/// How far the epoch moves on where a cluster goes on from a store that may have missed reigns: a backup, or a store that
/// an operator has chosen. Beyond all of them, so that no worker has seen a higher revision and takes its leader for an
/// old one.
pub const EPOCHS_RESTORED: u64 = 1_000;
/// How many reigns are remembered by when they began.
const REIGNS: usize = 8;
/// How long a command's answer is remembered, in milliseconds of the leader's clock.
pub const COMMAND_MEMORY_MS: u64 = 24 * 3_600_000;

/// Tasks that wait and can be placed alike, in the order of placing: priority, then the largest share of a
/// typical machine, then the job.
pub type WaitingKey = (Reverse<u8>, Reverse<u64>, JobKey, SpecName, u64);

/// Jobs by name. Each has a pointer of its own, so that a copy of the state is made at once and changing one job does
/// not copy its neighbours.
pub type Jobs = SharedMap<JobKey, Arc<Job>>;

/// Tasks by id: there may be a million of them.
pub type Tasks = SharedMap<TaskId, Task>;

/// Everything that a manager knows for certain.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// What stands once.
    pub meta: Meta,
    /// Jobs.
    pub jobs: Jobs,
    /// Tasks, the ended ones that are remembered among them.
    pub tasks: Tasks,
    /// Nodes.
    pub nodes: BTreeMap<NodeName, Node>,
    /// Commands that were granted lately.
    pub commands: BTreeMap<CommandKey, Command>,
    /// Commands by when their time to be remembered begins. Derived.
    pub(super) commands_by_time: BTreeSet<(u64, CommandKey)>,
    /// What nodes offer and have promised. Derived.
    pub fleet: Fleet,
    /// Tasks that wait for a node. Derived.
    pub waiting: BTreeMap<WaitingKey, BTreeSet<TaskId>>,
    /// Tasks that have ended, by the node that they were on, which may be gone. Derived.
    pub(super) ended_on: BTreeMap<NodeName, BTreeSet<TaskId>>,
}

/// Why a message of the log is not the next record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotNext {
    /// Its index is not the next one.
    #[error("its index is {found}, and {expected} was expected")]
    Index {
        /// What it is.
        found: u64,
        /// What it should be.
        expected: u64,
    },
    /// It does not follow the record before it.
    #[error("it does not follow the record before it")]
    Chain,
    /// Its epoch is over, or does not begin with an election.
    #[error("its epoch {found} does not follow {present}")]
    Epoch {
        /// What it is.
        found: u64,
        /// The present one.
        present: u64,
    },
}

/// From when on a command is remembered for a day: when it was granted, or when its client says it made the id,
/// whichever is later. Otherwise a client whose clock is ahead would make everybody else's ids look forgotten, once
/// its own is.
pub(super) fn remembered_from_ms(key: &CommandKey, granted_at_ms: u64) -> u64 {
    key.id.minted_at_ms().unwrap_or(0).max(granted_at_ms)
}

impl State {
    /// Whether a record is the next one. A message that is not is skipped, by all managers alike.
    pub fn check_next(&self, record: &Record) -> Result<(), NotNext> {
        let expected = self.meta.index + 1;
        if record.index != expected {
            return Err(NotNext::Index { found: record.index, expected });
        }
        if record.previous != self.meta.chain {
            return Err(NotNext::Chain);
        }
        let begins = record.facts.iter().any(|fact| matches!(fact, Fact::LeaderElected { .. }));
        let (found, present) = (record.epoch, self.meta.epoch);
        if found < present || (found == present) == begins {
            return Err(NotNext::Epoch { found, present });
        }
        Ok(())
    }

    /// Applies a record that somebody committed. Gives what must be written and its events.
    ///
    /// # Errors
    /// The message is not the next record; nothing was changed but the count of such messages.
    pub fn follow(
        &mut self,
        record: &Record,
        bytes: &[u8],
        stream_sequence: u64,
    ) -> Result<(Vec<Write>, Vec<Event>), NotNext> {
        self.meta.stream_sequence = stream_sequence;
        if let Err(reason) = self.check_next(record) {
            self.meta.records_skipped += 1;
            return Err(reason);
        }
        self.meta.record_sequence = stream_sequence;
        let revision = self.next_revision(record.epoch);
        let mut changes = Changes::default();
        let mut events = Vec::new();
        for (ordinal, fact) in record.facts.iter().enumerate() {
            self.apply(fact, revision, record.at_ms, &mut changes);
            let ordinal = u32::try_from(ordinal).unwrap_or(u32::MAX);
            events.extend(publish::event(self, fact, record.index, ordinal, record.at_ms));
        }
        self.seal(record.index, Hash::of(bytes), record.at_ms, &mut changes);
        Ok((persist::writes(self, &changes), events))
    }

    /// The revision of what the given record decides.
    pub fn next_revision(&self, epoch: u64) -> Revision {
        Revision { epoch, index: self.meta.index + 1 }
    }

    /// Whether a revision that a worker follows is of no record of this log, as far as reigns are remembered: no record of
    /// its index was written in its epoch, nor will be. What is of a past that was left by an operator's choice is none.
    pub(super) fn has_lost(&self, followed: Revision) -> bool {
        let next = self.meta.reigns.iter().find(|(epoch, _)| *epoch > followed.epoch);
        followed.epoch >= self.meta.restored_epoch
            && (followed >= self.next_revision(self.meta.epoch)
                || next.is_some_and(|(_, first)| followed.index >= *first))
    }

    /// Whether reports may be forgotten that a worker was told are known: a later reign began before that record, so the
    /// log has lost it.
    pub(super) fn has_forgotten(&self, answered: Revision) -> bool {
        let next = self.meta.reigns.iter().find(|(epoch, _)| *epoch > answered.epoch);
        answered.epoch > self.meta.epoch || next.is_some_and(|(_, first)| answered.index >= *first)
    }

    /// Up to when commands may have been forgotten, by when their ids were made, in milliseconds since the Unix
    /// epoch.
    pub fn commands_forgotten_ms(&self) -> u64 {
        let before = || self.meta.at_ms.saturating_sub(COMMAND_MEMORY_MS);
        self.meta.commands_forgotten_ms.unwrap_or_else(before)
    }

    /// A task's spec: that of the version it runs.
    pub fn task_spec(&self, task: &Task) -> Option<&TaskSpec> {
        self.jobs.get(&task.job)?.versions.get(&task.version)?.spec(&task.spec)
    }

    /// The job spec that a task runs.
    pub fn task_job_spec(&self, task: &Task) -> Option<&Arc<JobSpec>> {
        self.jobs.get(&task.job)?.versions.get(&task.version)
    }

    /// Whether a task must have ended, for certain, before another of its slot may start: its job is fenced as it is
    /// wanted now.
    pub(super) fn is_fenced(&self, task: &Task) -> bool {
        self.jobs.get(&task.job).and_then(|job| job.spec()).is_some_and(|job| job.fence)
    }

    /// Folds one fact of the record that is being made or replayed.
    pub fn apply(&mut self, fact: &Fact, revision: Revision, at_ms: u64, changes: &mut Changes) {
        match fact {
            Fact::ClusterCreated { cluster } => {
                self.meta.cluster = Some(*cluster);
                self.meta.managers_known = true;
                self.meta.commands_forgotten_ms = Some(0);
            }
            Fact::ManagerJoined { name } => {
                self.meta.managers.insert(name.clone());
            }
            Fact::AlarmChanged { about, severity: Severity::Over, .. } => {
                self.meta.alarms.remove(about);
            }
            Fact::AlarmChanged { about, severity, text } => {
                self.meta.alarms.insert(about.clone(), (*severity, text.clone()));
            }
            Fact::LeaderElected { manager, name, version } => {
                // A replay from further back sees by the epoch what its store did not know.
                let skipped = revision.epoch.saturating_sub(self.meta.epoch) > EPOCHS_RESTORED;
                let goes_on = std::mem::take(&mut self.meta.is_restored) || skipped;
                self.meta.epoch = revision.epoch;
                let forgotten = (self.meta.reigns.len() + 1).saturating_sub(REIGNS);
                self.meta.reigns.drain(..forgotten);
                self.meta.reigns.push((revision.epoch, revision.index));
                self.meta.leader = Some(*manager);
                self.meta.leader_name = Some(name.clone());
                self.meta.managers.insert(name.clone());
                self.meta.leader_version.clone_from(version);
                if goes_on {
                    self.meta.restored_epoch = revision.epoch;
                    self.meta.restorations.push((revision.index, *manager));
                    // Higher than whatever they have seen, so that each asks for its set, and says what that lacks.
                    let mut were_ahead = Vec::new();
                    for (name, node) in &mut self.nodes {
                        node.revision = revision;
                        were_ahead.extend(node.ahead.take().map(|_| name.clone()));
                        changes.touch_node(name);
                    }
                    were_ahead.iter().for_each(|name| self.derive_node(name));
                }
            }
            Fact::CommandGranted { key, request, answer, .. } => {
                let command = Command { request: *request, answer: answer.clone(), at_ms };
                self.commands_by_time.insert((remembered_from_ms(key, at_ms), key.clone()));
                self.commands.insert(key.clone(), command);
                changes.commands.insert(key.clone());
                self.forget_commands(at_ms, changes);
            }
            Fact::JobSubmitted { version, job, rolled_back, .. } => {
                self.apply_submit(*version, job, rolled_back.as_deref(), at_ms, changes);
            }
            Fact::JobStopRequested { job, .. } => {
                if let Some(job) = self.jobs.get_mut(job).map(Arc::make_mut) {
                    job.stop_requested = true;
                }
                changes.touch_job(job);
            }
            Fact::JobScaled { job, version, spec, instances, .. } => {
                self.apply_scale(job, *version, spec, *instances, changes);
                changes.touch_job(job);
            }
            Fact::JobStatusChanged { job, status } => {
                if let Some(job) = self.jobs.get_mut(job).map(Arc::make_mut) {
                    job.status = *status;
                    job.changed_at_ms = at_ms;
                    if *status == JobStatus::Running && job.reached.is_some() {
                        job.reached = Some(job.version);
                    }
                }
                changes.touch_job(job);
            }
            Fact::PlacementBlocked { job, spec, reason } => {
                if let Some(job) = self.jobs.get_mut(job).map(Arc::make_mut) {
                    job.blocked.insert(spec.clone(), reason.clone());
                }
                changes.touch_job(job);
            }
            Fact::JobForgotten { job } => self.apply_forget(job, changes),
            Fact::TaskCreated { task, job, spec, slot, version, replaces, failures } => {
                // By the names that the job has: what was read from the log has texts of its own.
                let names = self.jobs.get_key_value(job).map(|(job, stored)| {
                    let part = stored.spec().and_then(|of| of.spec(spec));
                    (job.clone(), part.map_or(spec, |part| &part.name).clone())
                });
                let names = names.unwrap_or_else(|| (job.clone(), spec.clone()));
                let mut created = Task::new(names, *slot, *version, revision, at_ms);
                (created.replaces, created.failures) = (*replaces, *failures);
                changes.touch_task(*task, &created);
                self.tasks.insert(*task, created);
                self.derive_task(*task);
                self.prune_slot(job, spec, *slot, changes);
            }
            Fact::TaskPlaced { task, node, explanation, why } => {
                self.apply_place(*task, node, revision, changes);
                if let Some(stored) = self.tasks.get_mut(task) {
                    let text = Some(explanation.clone()).filter(|text| !text.is_empty());
                    stored.set_rare(|rare| rare.placement = text);
                    stored.why = why.as_deref().map(PackedWhy::pack);
                }
            }
            Fact::TaskStopRequested { task, reason, displaced_by } => {
                if let Some(stored) = self.tasks.get_mut(task) {
                    stored.set_rare(|rare| {
                        rare.stop = Some(reason.clone());
                        rare.displaced_by.clone_from(displaced_by);
                    });
                    stored.revision = revision;
                    changes.touch_task(*task, stored);
                    if let Some(node) = stored.node.clone() {
                        self.touch_node_set(&node, revision, Some(*task), changes);
                    }
                }
            }
            Fact::TaskWithdrawn { task, reason } => {
                self.end_task(*task, TaskState::Stopped, Some(reason), at_ms, changes);
            }
            Fact::TaskReported { report } => self.apply_report(report, at_ms, changes),
            Fact::TaskLost { task, reason } => {
                let node = self.tasks.get(task).and_then(|task| task.node.clone());
                self.end_task(*task, TaskState::Lost, Some(reason), at_ms, changes);
                if let Some(node) = node {
                    self.touch_node_set(&node, revision, None, changes);
                }
            }
            Fact::NodeRegistered { name, node } => {
                self.apply_register(name, node, revision, changes);
            }
            Fact::NodeResized { name, capacity } => {
                if let Some(node) = self.nodes.get_mut(name) {
                    node.facts.capacity = *capacity;
                }
                self.derive_node(name);
                changes.touch_node(name);
            }
            Fact::NodeStatusChanged { name, status, .. } => {
                if let Some(node) = self.nodes.get_mut(name) {
                    node.status = *status;
                    node.is_confirmed_lost &= *status == NodeStatus::Lost;
                }
                self.derive_node(name);
                changes.touch_node(name);
            }
            Fact::NodeConfirmedLost { name, .. } => {
                if let Some(node) = self.nodes.get_mut(name) {
                    node.status = NodeStatus::Lost;
                    node.is_confirmed_lost = true;
                    for task in node.tasks.iter().filter_map(|id| self.tasks.get(id)) {
                        touch_slot(&mut changes.reconcile, task);
                    }
                }
                self.derive_node(name);
                changes.touch_node(name);
            }
            Fact::NodeAhead { name, revision } => {
                if let Some(node) = self.nodes.get_mut(name) {
                    node.ahead = Some(*revision);
                }
                self.derive_node(name);
                changes.touch_node(name);
            }
            Fact::NodeCordoned { name, .. } => {
                self.apply_eligibility(name, Eligibility::Cordoned, None, changes);
            }
            Fact::NodeUncordoned { name, .. } => {
                self.apply_eligibility(name, Eligibility::Open, None, changes);
            }
            Fact::NodeDrainRequested { name, deadline_ms, by_worker, actor } => {
                let is_cordoned = self
                    .nodes
                    .get(name)
                    .is_some_and(|node| node.eligibility == Eligibility::Cordoned);
                let drain = Drain {
                    deadline_ms: *deadline_ms,
                    by_worker: *by_worker,
                    was_cordoned: *by_worker && is_cordoned,
                    actor: actor.clone(),
                    started_at_ms: at_ms,
                    is_overdue: false,
                    is_done: false,
                    blocked: Vec::new(),
                };
                self.apply_eligibility(name, Eligibility::Draining, Some(drain), changes);
            }
            Fact::NodeDrainBlocked { name, job, spec, reason } => {
                self.apply_drain(name, changes, |drain| {
                    drain.blocked.retain(|(of, part, _)| (of, part) != (job, spec));
                    drain.blocked.push((job.clone(), spec.clone(), reason.clone()));
                });
            }
            Fact::NodeDrainOverdue { name } => {
                self.apply_drain(name, changes, |drain| drain.is_overdue = true);
            }
            Fact::NodeDrained { name } => self.apply_drain(name, changes, |drain| {
                drain.is_done = true;
                drain.blocked.clear();
            }),
            Fact::NodeLabelled { name, set, remove, .. } => {
                if let Some(node) = self.nodes.get_mut(name) {
                    node.labels_set.retain(|label, _| !remove.contains(label));
                    node.labels_set.extend(set.clone());
                }
                self.derive_node(name);
                changes.touch_node(name);
            }
            Fact::NodeRemoved { name, .. } => {
                self.nodes.remove(name);
                self.fleet.remove(name);
                changes.touch_node(name);
            }
        }
    }

    /// Notes that a whole record was applied.
    pub fn seal(&mut self, index: u64, chain: Hash, at_ms: u64, changes: &mut Changes) {
        self.meta.index = index;
        self.meta.chain = chain;
        self.meta.at_ms = at_ms;
        changes.meta = true;
    }

    fn apply_place(
        &mut self,
        id: TaskId,
        node: &NodeName,
        revision: Revision,
        changes: &mut Changes,
    ) {
        self.leave_waiting(id, changes);
        self.with_demand(id, |fleet, demand| fleet.reserve(node, demand));
        // By the name that the node has: what was read from the log has a text of its own.
        let known = self.nodes.get_key_value(node).map_or(node, |(name, _)| name).clone();
        if let Some(task) = self.tasks.get_mut(&id) {
            task.node = Some(known);
            task.state = TaskState::Assigned;
            task.revision = revision;
            task.set_rare(|rare| rare.reason = None);
            changes.touch_task(id, task);
        }
        if let Some(node) = self.nodes.get_mut(node) {
            node.tasks.insert(id);
        }
        self.meta.round_robin_last = Some(node.clone());
        self.touch_node_set(node, revision, Some(id), changes);
    }

    fn apply_report(&mut self, report: &TaskReport, at_ms: u64, changes: &mut Changes) {
        let Some(task) = self.tasks.get_mut(&report.task) else { return };
        if !task.is_news(report) {
            return;
        }
        let has_moved = (task.attempt, task.state) != (report.attempt, report.state);
        task.health = report.health;
        task.attempt = report.attempt;
        if let Some(id) = report.container_id.as_deref() {
            task.container = Some(id.into());
        }
        let has_started = report.state == TaskState::Running && has_moved;
        if has_started {
            task.started_at_ms = Some(at_ms);
        }
        task.set_rare(|rare| {
            rare.exit_code = report.exit_code.or(rare.exit_code);
            let prepares = report.state == TaskState::Preparing;
            rare.pulls_failed = if prepares { report.pulls_failed } else { 0 };
            if has_started {
                rare.ports.clone_from(&report.ports);
            }
        });
        if report.state.is_terminal() {
            self.end_task(report.task, report.state, report.reason.as_ref(), at_ms, changes);
        } else {
            task.state = report.state;
            task.set_rare(|rare| rare.reason.clone_from(&report.reason));
            changes.touch_task(report.task, task);
        }
    }

    /// Ends a task: gives back what it held and takes it out of what is derived.
    fn end_task(
        &mut self,
        id: TaskId,
        state: TaskState,
        reason: Option<&String>,
        at_ms: u64,
        changes: &mut Changes,
    ) {
        let Some(task) = self.tasks.get(&id) else { return };
        if task.state.is_terminal() {
            return;
        }
        let (node, held) = (task.node.clone(), task.state.holds_resources());
        self.leave_waiting(id, changes);
        if let Some(node) = &node {
            if held {
                self.with_demand(id, |fleet, demand| fleet.release(node, demand));
                changes.freed = true;
            }
            if let Some(node) = self.nodes.get_mut(node) {
                node.tasks.remove(&id);
            }
            note_ended(&mut self.ended_on, node, id);
        }
        if let Some(task) = self.tasks.get_mut(&id) {
            task.state = state;
            task.set_rare(|rare| {
                rare.reason = reason.cloned();
                rare.finished_at_ms = Some(at_ms);
            });
            changes.touch_task(id, task);
        }
    }

    /// A task no longer waits. When it was the last of its kind, there is no reason left to tell.
    fn leave_waiting(&mut self, id: TaskId, changes: &mut Changes) {
        let Some(key) = self.tasks.get(&id).and_then(|task| self.waiting_key(task)) else { return };
        let Some(group) = self.waiting.get_mut(&key) else { return };
        group.remove(&id);
        if group.is_empty() {
            self.waiting.remove(&key);
            let (_, _, job, spec, _) = key;
            // Looked at first: whatever asks to change a job copies it while a plan is made.
            if self.jobs.get(&job).is_some_and(|stored| stored.blocked.contains_key(&spec))
                && let Some(stored) = self.jobs.get_mut(&job).map(Arc::make_mut)
            {
                stored.blocked.remove(&spec);
                changes.jobs.insert(job);
            }
        }
    }

    fn forget_commands(&mut self, at_ms: u64, changes: &mut Changes) {
        while let Some((from_ms, key)) = self.commands_by_time.first().cloned() {
            if from_ms.saturating_add(COMMAND_MEMORY_MS) >= at_ms {
                break;
            }
            self.commands_by_time.remove(&(from_ms, key.clone()));
            self.commands.remove(&key);
            let forgotten_ms = key.id.minted_at_ms().unwrap_or(0).max(self.commands_forgotten_ms());
            self.meta.commands_forgotten_ms = Some(forgotten_ms);
            changes.commands.insert(key);
        }
    }
}
