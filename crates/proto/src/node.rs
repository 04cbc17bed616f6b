//! What workers and the manager say to each other: joining, heartbeats, assignments, reports.
//!
//! The node's name is not trusted from a payload: it is the token of the subject, which the NATS server
//! enforced. Payloads carry the node's id and boot so that two processes of one name are told apart.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::health::HealthReport;
use crate::id::{BootId, ClusterId, NodeId, Revision, TaskId};
use crate::name::{Datacenter, JobName, Namespace};
use crate::spec::{Port, Resources, TaskSpec};
use crate::state::TaskState;

/// A worker's wish to join, on `node.<node>.register`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// The id kept in the worker's data directory.
    pub node_id: NodeId,
    /// This run of the worker.
    pub boot_id: BootId,
    /// The cluster that the worker's data directory belongs to; absent on its first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<ClusterId>,
    /// Where it stands.
    pub datacenter: Datacenter,
    /// What the operator says of it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What the worker found out about its machine: `os`, `arch`, `kernel`, `docker.version`.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// What it offers.
    pub capacity: Resources,
    /// How many tasks it takes at once, whatever they ask for.
    #[serde(default = "tasks_max_usual")]
    pub tasks_max: u32,
    /// Its folders that tasks may bind-mount, with everything below them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mount_paths: Vec<String>,
    /// The worker's version.
    pub version: String,
}

/// How many tasks a node takes at once when nobody says otherwise. Container runtimes and kernels have limits of
/// their own (addresses of the bridge, processes, mounts), which resources alone do not show.
pub const TASKS_MAX_USUAL: u32 = 500;

/// The most folders that one node may offer for bind mounts.
pub const MOUNT_PATHS_MAX: usize = 64;

/// [`TASKS_MAX_USUAL`], for what was written before nodes said it.
pub fn tasks_max_usual() -> u32 {
    TASKS_MAX_USUAL
}

/// The answer to [`Register`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The cluster that the node is now part of.
    pub cluster_id: ClusterId,
    /// The leader's epoch.
    pub epoch: u64,
    /// How often the worker should send a heartbeat, in milliseconds, before jitter.
    pub heartbeat_interval_ms: u64,
    /// The revision of the node's set of assignments.
    pub revision: Revision,
}

/// A sign of life, on `node.<node>.heartbeat`. May be lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The id kept in the worker's data directory.
    pub node_id: NodeId,
    /// This run of the worker.
    pub boot_id: BootId,
    /// The revision of the newest assignments that the worker has stored.
    pub revision: Revision,
    /// [`set_digest`] of the worker's assignments.
    pub digest: u64,
    /// Since when what the worker has reported is known, as it was answered last; absent when it has had no answer since
    /// it last got its whole set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Revision>,
    /// What it offers.
    pub capacity: Resources,
    /// What is in use on the machine, by whomever.
    pub used: Resources,
    /// How many containers of ours run, or may run for all that is known.
    pub tasks_running: u32,
    /// Why the container runtime cannot be used, while it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_error: Option<String>,
    /// Whether the worker is about to leave: it gets no new tasks, and with `tasks_running` 0 it has left.
    #[serde(default)]
    pub leaving: bool,
    /// The worker is to end, and asks that what it runs be moved off within so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_within_ms: Option<u64>,
    /// The cluster that the worker belongs to; absent from workers of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<ClusterId>,
}

/// What the manager wants of one task on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The task.
    pub task: TaskId,
    /// When the manager decided this; a worker ignores a lower one.
    pub revision: Revision,
    /// What it wants.
    pub want: Want,
}

/// What the manager wants of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Want {
    /// That it runs.
    Run(Box<RunTask>),
    /// That it ends.
    Stop {
        /// Why, for people.
        reason: String,
    },
}

/// Everything a worker needs to run a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunTask {
    /// The job's namespace.
    pub namespace: Namespace,
    /// The job.
    pub job: JobName,
    /// The job's version that the spec is from.
    pub version: u64,
    /// The task's place among the instances of its spec, from 0.
    pub slot: u32,
    /// The worker counts attempts from above this.
    pub attempt_floor: u64,
    /// For a task of a fenced job: what its fencing tokens begin with, higher than that of every task of this instance
    /// before it ([`fencing_token`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// What an operator says of the node; stands before the labels that the worker was started with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_labels: BTreeMap<String, String>,
    /// What to run, resolved.
    pub spec: TaskSpec,
}

/// How many attempts of one task have fencing tokens.
const FENCED_ATTEMPTS: u64 = 1 << 16;

/// What a container shows to what it writes to: higher than that of every container of its instance before it,
/// whatever node that ran on. `None` when the task's are used up; its replacement has new ones.
pub fn fencing_token(epoch: u64, attempt: u64) -> Option<u64> {
    let first = epoch.checked_mul(FENCED_ATTEMPTS)?;
    (attempt < FENCED_ATTEMPTS).then(|| first.checked_add(attempt))?
}

/// A change of a node's set of assignments, on `node.<node>.assign`. May be lost: changes are chained, and
/// a worker whose revision is not `previous` asks for the whole set (`sync`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignDelta {
    /// The cluster that speaks.
    pub cluster_id: ClusterId,
    /// The revision that this change builds on.
    pub previous: Revision,
    /// The revision that it results in.
    pub revision: Revision,
    /// What changed. Nothing, after [`Revision::UNCHAINED`], is a hint to ask for the whole set.
    #[serde(default)]
    pub changes: Vec<Assignment>,
}

/// A worker's wish for its whole set, page by page, on `node.<node>.sync`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {
    /// The id kept in the worker's data directory.
    pub node_id: NodeId,
    /// This run of the worker.
    pub boot_id: BootId,
    /// Give what comes after this task; absent for the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<TaskId>,
}

/// One page of a node's set, ordered by task id. A page whose revision differs from the first page's
/// restarts the sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncPage {
    /// The cluster that speaks.
    pub cluster_id: ClusterId,
    /// The revision of the set.
    pub revision: Revision,
    /// How many assignments the whole set has.
    pub count: u64,
    /// This page's.
    pub assignments: Vec<Assignment>,
    /// Where the leader sees this page's tasks. A worker that has reported more tells it again: what was
    /// acknowledged is lost where the cluster goes on from an older backup. Absent from managers of before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<TaskKnown>,
    /// Whether this is the last page.
    pub end: bool,
}

/// Where the leader sees a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskKnown {
    /// The task.
    pub task: TaskId,
    /// The worker's count of starts.
    pub attempt: u64,
    /// The state reached in that attempt.
    pub state: TaskState,
}

/// What a worker says of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task.
    pub task: TaskId,
    /// The worker's count of starts.
    pub attempt: u64,
    /// The state reached in that attempt.
    pub state: TaskState,
    /// The run of the worker that saw it.
    pub boot_id: BootId,
    /// The container, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// The exit code of the attempt that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its ports with those that the worker has chosen; empty where there was nothing to choose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Its health, where it is asked for and it runs. A report of the state that is known, with a higher sequence,
    /// says that the health has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthReport>,
    /// How many times its image could not be had in this attempt. A report of a task that is known to prepare, with a
    /// higher count, says that it goes on trying, and why.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pulls_failed: u32,
    /// When, by the worker's clock, in milliseconds since the Unix epoch. Shown, never compared.
    pub at_ms: u64,
}

/// Reports that were held until they could be delivered, oldest first, on `node.<node>.report`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reports {
    /// The id kept in the worker's data directory.
    pub node_id: NodeId,
    /// This run of the worker.
    pub boot_id: BootId,
    /// The reports; at most [`REPORTS_MAX`].
    pub reports: Vec<TaskReport>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// The most reports in one message.
pub const REPORTS_MAX: usize = 256;

/// The answer to [`Reports`]: they are in the log, or were known already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportsCommitted {
    /// The index of the record after which they are known.
    pub index: u64,
    /// The epoch of the leader that says so; 0 from a manager of before.
    #[serde(default)]
    pub epoch: u64,
}

impl ReportsCommitted {
    /// Since when they are known, where the leader has said it.
    pub fn revision(self) -> Option<Revision> {
        (self.epoch > 0).then_some(Revision { epoch: self.epoch, index: self.index })
    }
}

/// A digest of a set of assignments, the same whatever their order, to notice two sets that differ.
/// It guards against loss and bugs, not against an attacker.
pub fn set_digest<'a>(assignments: impl IntoIterator<Item = (&'a TaskId, Revision)>) -> u64 {
    assignments.into_iter().fold(0, |digest, (task, revision)| {
        let (high, low) = task.0.as_u64_pair();
        let mut mixed = high;
        for word in [low, revision.epoch, revision.index] {
            mixed = mix(mixed ^ word);
        }
        digest ^ mixed
    })
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): spreads every bit over all others.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_sees_members_and_revisions_but_not_order() {
        let (a, b) = (TaskId(uuid::Uuid::from_u128(1)), TaskId(uuid::Uuid::from_u128(2)));
        let (r1, r2) = (Revision { epoch: 1, index: 1 }, Revision { epoch: 1, index: 2 });
        assert_eq!(set_digest([(&a, r1), (&b, r2)]), set_digest([(&b, r2), (&a, r1)]));
        assert_ne!(set_digest([(&a, r1), (&b, r2)]), set_digest([(&a, r2), (&b, r1)]));
        assert_ne!(set_digest([(&a, r1)]), set_digest([(&a, r1), (&b, r1)]));
        assert_eq!(set_digest([]), 0);
    }

    #[test]
    fn a_fencing_token_rises_with_each_attempt_and_each_task() {
        let tokens = [(7, 1), (7, 2), (7, 65_535), (8, 0), (8, 1)];
        let tokens = tokens.map(|(epoch, attempt)| fencing_token(epoch, attempt).unwrap());
        assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
        assert_eq!(tokens[0], 458_753);
        assert_eq!(fencing_token(7, 65_536), None, "it would be that of another task");
        assert_eq!(fencing_token(u64::MAX, 1), None);
    }

    #[test]
    fn a_report_of_before_has_neither_ports_nor_health() {
        let report = serde_json::json!({
            "task": "00000000-0000-0000-0000-000000000001",
            "attempt": 1,
            "state": "running",
            "boot_id": "00000000-0000-0000-0000-000000000002",
            "at_ms": 3,
        });
        let report: TaskReport = serde_json::from_value(report).unwrap();
        assert_eq!((report.ports, report.health), (vec![], None));
    }

    #[test]
    fn a_worker_of_before_takes_the_usual_number_and_lends_nothing() {
        let wish = serde_json::json!({
            "node_id": "00000000-0000-0000-0000-000000000001",
            "boot_id": "00000000-0000-0000-0000-000000000002",
            "datacenter": "dc1",
            "capacity": { "cpu_millis": 1, "memory_bytes": 2, "disk_bytes": 3 },
            "version": "0.1.0",
        });
        let register: Register = serde_json::from_value(wish).unwrap();
        assert_eq!((register.tasks_max, register.mount_paths), (500, vec![]));
    }
}
