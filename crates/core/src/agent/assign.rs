//! What the manager wants: changes, whole sets, and the revisions that chain them.
//!
//! A change applies only to the revision that it names; anything else leads to a `sync`. What comes from
//! another cluster, or from before what was seen, changes nothing and raises an alarm: containers run on.

use std::collections::BTreeSet;

use longshore_proto::id::{ClusterId, Revision, TaskId};
use longshore_proto::node::{AssignDelta, Assignment};

use super::Agent;
use super::input::FullSet;
use super::step::{Action, Write};
use super::task::Task;

/// How long after a failed sync the next is tried, in milliseconds.
const SYNC_RETRY_MS: u64 = 1_000;
/// How long after a set from the past the next sync is tried, in milliseconds.
const STALE_RETRY_MS: u64 = 30_000;
/// How often an alarm is repeated at most, in milliseconds.
const ALARM_INTERVAL_MS: u64 = 60_000;

/// How the worker gets at the whole set.
#[derive(Debug, Clone, Default)]
pub(super) struct SyncState {
    /// Whether the leader knows this boot: before that it refuses.
    registered: bool,
    /// Our revision when the set that is under way was asked for.
    under_way: Option<Revision>,
    /// Whether another is wanted after it.
    again: bool,
    retry_at_ms: Option<u64>,
    alarmed_at_ms: Option<u64>,
}

impl SyncState {
    pub(super) fn is_registered(&self) -> bool {
        self.registered
    }

    pub(super) fn wakeup(&self) -> Option<u64> {
        if self.under_way.is_some() { None } else { self.retry_at_ms }
    }
}

impl Agent {
    /// The leader knows this boot.
    pub(super) fn registered(&mut self, cluster_id: ClusterId) {
        match self.ctx.cluster_id {
            None => {
                self.ctx.cluster_id = Some(cluster_id);
                self.ctx.writes.push(Write::Cluster(cluster_id));
                // Only now is it known which containers are ours.
                self.ctx.runtime.look_now(self.ctx.now_ms);
            }
            Some(ours) if ours != cluster_id => return self.alarm_other_cluster(cluster_id),
            Some(_) => {}
        }
        self.sync.registered = true;
        self.ctx.outbox.hurry(self.ctx.now_ms);
        self.want_sync();
    }

    /// A change of the set, or a hint.
    pub(super) fn delta(&mut self, delta: AssignDelta) {
        match self.ctx.cluster_id {
            // Not registered yet: the sync that follows brings everything.
            None => return,
            Some(ours) if ours != delta.cluster_id => {
                return self.alarm_other_cluster(delta.cluster_id);
            }
            Some(_) => {}
        }
        if delta.revision < self.revision {
            return self.alarm_past(delta.revision);
        }
        if delta.previous != self.revision {
            // With changes and our revision it is one that was seen already. Without changes it says: look.
            if delta.changes.is_empty() || delta.revision > self.revision {
                self.want_sync();
            }
            return;
        }
        for assignment in delta.changes {
            self.assign(assignment);
        }
        self.set_revision(delta.revision);
    }

    /// The whole set has come.
    pub(super) fn synced(&mut self, set: FullSet) {
        let asked_at = self.sync.under_way.take();
        if Some(set.cluster_id) != self.ctx.cluster_id {
            self.sync.retry_at_ms = Some(self.ctx.now_ms.saturating_add(STALE_RETRY_MS));
            return self.alarm_other_cluster(set.cluster_id);
        }
        if set.revision < self.revision {
            // Changes that came while it was under way make it old; otherwise the leader is behind.
            if asked_at.is_some_and(|at| at <= set.revision) {
                self.want_sync();
            } else {
                self.sync.retry_at_ms = Some(self.ctx.now_ms.saturating_add(STALE_RETRY_MS));
                self.alarm_past(set.revision);
            }
            return;
        }
        let members: BTreeSet<TaskId> =
            set.assignments.iter().map(|assignment| assignment.task).collect();
        for task in self.tasks.values_mut().filter(|task| !members.contains(&task.id())) {
            task.supersede();
        }
        for assignment in set.assignments {
            self.assign(assignment);
        }
        for known in set.known {
            // What waits to be delivered is told anyway.
            if let Some(task) = self.tasks.get_mut(&known.task)
                && !self.ctx.outbox.has(known.task)
            {
                task.remind(known, &mut self.ctx);
            }
        }
        self.set_revision(set.revision);
        self.answered = None;
        if !self.ctx.synced {
            self.ctx.synced = true;
            // Containers of unknown tasks may be judged from now on.
            self.ctx.runtime.look_now(self.ctx.now_ms);
        }
        if std::mem::take(&mut self.sync.again) {
            self.want_sync();
        }
    }

    /// Reports were answered: they are known since then.
    pub(super) fn known_since(&mut self, known: Option<Revision>) {
        match (self.answered, known) {
            (_, None) => {}
            // Another leader. What the one before had answered may have been lost with it: the whole set tells.
            (Some(before), Some(known)) if before.epoch != known.epoch => self.want_sync(),
            (_, Some(known)) => self.answered = Some(known),
        }
    }

    /// The whole set could not be had.
    pub(super) fn sync_failed(&mut self) {
        self.sync.under_way = None;
        self.sync.again = false;
        self.sync.retry_at_ms = Some(self.ctx.now_ms.saturating_add(SYNC_RETRY_MS));
    }

    /// Asks again when a failed sync is due.
    pub(super) fn poll_sync(&mut self) {
        if self.sync.wakeup().is_some_and(|at| at <= self.ctx.now_ms) {
            self.want_sync();
        }
    }

    fn want_sync(&mut self) {
        if !self.sync.registered {
            return;
        }
        if self.sync.under_way.is_some() {
            self.sync.again = true;
            return;
        }
        self.sync.retry_at_ms = None;
        self.sync.under_way = Some(self.revision);
        self.ctx.actions.push(Action::RequestSync);
    }

    fn set_revision(&mut self, revision: Revision) {
        if revision != self.revision {
            self.revision = revision;
            self.ctx.writes.push(Write::Revision(revision));
        }
    }

    /// Takes one assignment.
    fn assign(&mut self, assignment: Assignment) {
        let id = assignment.task;
        if let Some(task) = self.tasks.get_mut(&id) {
            task.assign(assignment);
            return;
        }
        let mut attempt = 0;
        if let Some(tombstone) = self.tombstones.get(&id) {
            if let Some(end) = &tombstone.end {
                // It has ended, and the leader had acknowledged that: a message from before.
                if !self.ctx.outbox.has(id) {
                    self.ctx.outbox.push(end.clone(), self.ctx.now_ms, &mut self.ctx.writes);
                }
                return;
            }
            // Above every attempt that anybody may know of.
            attempt = tombstone.attempt.saturating_add(1);
            self.tombstones.remove(&id);
            self.ctx.writes.push(Write::TombstoneDropped(id));
        }
        let mut task = Task::assigned(assignment, attempt, &self.ctx);
        let fixed = task.record().run.iter().flat_map(|run| &run.spec.ports);
        self.ctx.ports.hold(id, fixed);
        if self.ctx.runtime.strays_known && !self.ctx.runtime.strays.contains(&id) {
            task.begin(&mut self.ctx);
        } else {
            // There may be a container of it: from before the worker lost its disk, for one.
            self.ctx.runtime.doubt(self.ctx.now_ms);
        }
        self.tasks.insert(id, task);
    }

    fn alarm_other_cluster(&mut self, theirs: ClusterId) {
        self.alarm(format!(
            "a manager of cluster {theirs} speaks to this worker, which belongs to another; nothing is changed. \
             If the cluster was made anew, give the worker an empty data directory"
        ));
    }

    fn alarm_past(&mut self, theirs: Revision) {
        let ours = self.revision;
        self.alarm(format!(
            "a manager speaks of revision {theirs}, but {ours} was seen before; nothing is changed. \
             Either a manager that no longer leads has spoken, which passes, or the log was set back"
        ));
    }

    fn alarm(&mut self, text: String) {
        let now_ms = self.ctx.now_ms;
        if self.sync.alarmed_at_ms.is_some_and(|at| now_ms.saturating_sub(at) < ALARM_INTERVAL_MS) {
            return;
        }
        self.sync.alarmed_at_ms = Some(now_ms);
        self.ctx.actions.push(Action::Alarm(text));
    }
}
