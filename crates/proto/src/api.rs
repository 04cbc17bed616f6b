//! What clients ask of the manager, and its answers.
//!
//! A request's subject says what is asked ([`crate::subject::ApiVerb`]), its payload carries one of the
//! structures here, and the answer is an [`Answer`]: `ok` or `error`, beside the index of the log that it
//! reflects. A request that changes something carries the id of its command in a header; a repeated id gets
//! the first answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::ApiError;
use crate::event::{AUDIT, Event};
use crate::health::Health;
use crate::id::{ClusterId, ManagerId, NodeId, TaskId};
use crate::name::{Datacenter, JobName, Namespace, NodeName, SpecName, UserName};
use crate::node::tasks_max_usual;
use crate::plan::TaskRef;
use crate::spec::{JobSpec, JobType, Port, Resources};
use crate::state::{Eligibility, JobStatus, NodeStatus, TaskState};

/// Every answer of the manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer<T> {
    /// The index of the log that the answer reflects.
    pub index: u64,
    /// The answer, when the request was granted.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub ok: Option<T>,
    /// The refusal, when it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}

fn none<T>() -> Option<T> {
    None
}

impl<T> Answer<T> {
    /// An answer from a result.
    pub fn new(index: u64, result: Result<T, ApiError>) -> Self {
        match result {
            Ok(ok) => Self { index, ok: Some(ok), error: None },
            Err(error) => Self { index, ok: None, error: Some(error) },
        }
    }
}

/// The most items that one page of a list has.
pub const PAGE_MAX: u32 = 500;

/// Asks for nothing in particular (`cluster.status`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

/// Asks for a job to be stored as a new version and run (`job.submit`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmitJob {
    /// The job.
    pub job: JobSpec,
}

/// A submit that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSubmitted {
    /// The job's namespace.
    pub namespace: Namespace,
    /// The job.
    pub name: JobName,
    /// The version that was stored: the one before, when nothing differs.
    pub version: u64,
}

/// Names a job (`job.get`, `job.stop`); the namespace is the subject's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameJob {
    /// The job.
    pub name: JobName,
}

/// Asks for another number of instances (`job.scale`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleJob {
    /// The job.
    pub name: JobName,
    /// Which part of it; may be left out where there is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<SpecName>,
    /// How many are wanted, 1 to [`crate::validate::INSTANCES_MAX`].
    pub instances: u32,
}

/// Asks for a job's tasks to begin anew, by its way of changing them (`job.restart`); a job that has ended or was
/// stopped is run again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartJob {
    /// The job.
    pub name: JobName,
    /// Only this part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<SpecName>,
}

/// Asks for an earlier version of a job to be its next (`job.rollback`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollBackJob {
    /// The job.
    pub name: JobName,
    /// Which version; absent means the latest before the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// Asks what a job was told to be (`job.version`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameVersion {
    /// The job.
    pub name: JobName,
    /// Which version; absent means the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// A version of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobVersion {
    /// Which one.
    pub version: u64,
    /// All that are remembered, the oldest first.
    pub versions: Vec<u64>,
    /// What it says, with everything that a submit may leave out.
    pub job: JobSpec,
}

/// A stop that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStopped {
    /// The job.
    pub name: JobName,
    /// How many of its tasks have not ended yet.
    pub tasks_live: u64,
}

/// Names a task by its id or a unique prefix of it (`task.get`, `task.stop`, `task.restart`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameTask {
    /// The id or its beginning, in lower case, with or without hyphens.
    pub id: String,
}

/// A task's stop or restart that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStopped {
    /// The task.
    pub id: TaskId,
    /// Its job.
    pub job: JobName,
    /// Its part of the job.
    pub spec: SpecName,
    /// How many instances of that part are wanted from now on: after a stop one fewer.
    pub instances: u32,
}

/// Asks for tasks (`task.list`), ordered by id: the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListTasks {
    /// Only this job's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobName>,
    /// Only those on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Whether those that have ended are wanted too.
    #[serde(default)]
    pub ended: bool,
    /// Of those that have ended, whether the ones are wanted that were given up by their nodes while something is still
    /// to run in their place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
    /// Only those after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<TaskId>,
    /// At most so many; at most [`PAGE_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Asks for jobs (`job.list`), ordered by namespace and name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListJobs {
    /// Only those after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<(Namespace, JobName)>,
    /// At most so many; at most [`PAGE_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Asks for nodes (`node.list`), ordered by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListNodes {
    /// Only those after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<NodeName>,
    /// At most so many; at most [`PAGE_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Names a node (`node.get`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameNode {
    /// The node.
    pub name: NodeName,
}

/// The most nodes that one request names.
pub const NODES_NAMED_MAX: usize = 250;

/// Names nodes (`node.cordon`, `node.uncordon`): all of them are changed, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameNodes {
    /// The nodes, 1 to [`NODES_NAMED_MAX`].
    pub names: Vec<NodeName>,
}

/// Asks for everything that nodes run to be moved elsewhere (`node.drain`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainNodes {
    /// The nodes, 1 to [`NODES_NAMED_MAX`].
    pub names: Vec<NodeName>,
    /// After so long what is left is ended, in milliseconds; absent means that nothing is cut short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// Changes what an operator says of a node (`node.label`); a label of the operator's stands before one of the same
/// name that the worker states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelNode {
    /// The node.
    pub name: NodeName,
    /// Labels to set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Labels of the operator's to take away.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub remove: BTreeSet<String>,
}

/// The most labels of a node, of the worker's and the operator's together, and the longest of either, in bytes.
pub const LABELS_MAX: usize = 128;
/// The longest name or value of a label, in bytes.
pub const LABEL_BYTES_MAX: usize = 512;

/// Asks for a node to be forgotten that will not return (`node.remove`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveNode {
    /// The node.
    pub name: NodeName,
    /// Whether it is forgotten even though it is heard.
    #[serde(default)]
    pub force: bool,
}

/// Nodes were changed as asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesChanged {
    /// Those that are different now; the others were like that already.
    pub names: Vec<NodeName>,
}

/// A node is gone, by an operator's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeGone {
    /// The node.
    pub name: NodeName,
    /// How many of its tasks were lost by it.
    pub tasks_lost: u64,
}

/// Asks for events (`event.list`), oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEvents {
    /// Only this job's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobName>,
    /// Only those after this place in the history, as `(index, ordinal)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<(u64, u32)>,
    /// At most so many; at most [`PAGE_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Whether the newest are wanted instead of the first after `after`.
    #[serde(default)]
    pub newest: bool,
    /// Only those of this task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Only those on this node, or that were asked about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Only those of this type (`task.failed`), or of every type that begins with it and a dot (`task`).
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// Only those at this time or later, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Only those before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Whether those are wanted that say who asked for what, instead of all others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
}

impl ListEvents {
    /// Whether an event is one that is asked for, wherever it stands.
    pub fn fits(&self, event: &Event) -> bool {
        let of_type = |wanted: &String| {
            let rest = event.event_type.strip_prefix(wanted.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let of_node =
            |node: &NodeName| event.node.as_ref() == Some(node) || event.nodes.contains(node);
        self.job.as_ref().is_none_or(|job| event.job.as_ref() == Some(job))
            && self.node.as_ref().is_none_or(of_node)
            && self.task.is_none_or(|task| event.task == Some(task))
            && self.event_type.as_ref().is_none_or(of_type)
            && self.audit == event.event_type.starts_with(AUDIT)
            && self.since_ms.is_none_or(|since| event.at_ms >= since)
            && self.until_ms.is_none_or(|until| event.at_ms < until)
    }
}

/// A backup that was made and can be read (`backup.make`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupMade {
    /// The index of the log that it reflects.
    pub index: u64,
    /// Its length.
    pub bytes: u64,
}

/// Asks for a part of the backup that was made last (`backup.read`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadBackup {
    /// Which one: the index that it reflects.
    pub index: u64,
    /// From which byte on.
    pub offset: u64,
}

/// A part of a backup; empty at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPart {
    /// Its bytes.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// A task as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// The task.
    pub id: TaskId,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its job.
    pub job: JobName,
    /// Its part of the job.
    pub spec: SpecName,
    /// Its place among the instances of its spec, from 0.
    pub slot: u32,
    /// The job's version that it runs.
    pub version: u64,
    /// The last known state.
    pub state: TaskState,
    /// Whether its node is silent, so that the state may no longer be true.
    #[serde(default)]
    pub silent: bool,
    /// The worker's count of starts.
    pub attempt: u64,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Its image.
    pub image: String,
    /// Its ports; one that its worker chooses has the number 0 until it has chosen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Its health, where it is asked for and it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// The exit code of the attempt that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Why it is as it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it was put where it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<String>,
    /// The task that it replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<TaskId>,
    /// When it was made, in milliseconds since the Unix epoch, as all times here.
    pub created_at_ms: u64,
    /// When its container last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at_ms: Option<u64>,
}

/// A job as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: JobName,
    /// How long it lives.
    #[serde(rename = "type")]
    pub job_type: JobType,
    /// The current version.
    pub version: u64,
    /// How it stands.
    pub status: JobStatus,
    /// 1 (least) to 100.
    pub priority: u8,
    /// Where it may run; empty means anywhere.
    pub datacenters: Vec<Datacenter>,
    /// Its parts.
    pub specs: Vec<SpecView>,
    /// When it was first submitted.
    pub created_at_ms: u64,
    /// Why the cluster made this version by itself, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<RolledBack>,
}

/// That the cluster has gone back to an earlier version of a job by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// The version that has failed.
    pub failed: u64,
    /// The one that it went back to.
    pub to: u64,
    /// Because of which task, and why.
    pub reason: String,
}

impl fmt::Display for RolledBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { failed, to, reason } = self;
        write!(f, "back to version {to}, because version {failed} has failed: {reason}")
    }
}

/// A part of a job as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecView {
    /// Its name.
    pub name: SpecName,
    /// Its image.
    pub image: String,
    /// How many are wanted.
    pub instances: u32,
    /// How many run.
    pub running: u32,
    /// How many wait for a node.
    pub pending: u32,
    /// How many have a node and are on their way up.
    #[serde(default)]
    pub starting: u32,
    /// How many completed.
    pub completed: u32,
    /// How many failed for good and were not replaced.
    pub failed: u32,
    /// How many of those that run are of an older version that is still to be exchanged.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub outdated: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// A node as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: NodeName,
    /// Its id.
    pub id: NodeId,
    /// Where it stands.
    pub datacenter: Datacenter,
    /// What the manager thinks of it.
    pub status: NodeStatus,
    /// Whether it takes new tasks.
    pub eligibility: Eligibility,
    /// What is said of it, by its worker or an operator.
    pub labels: BTreeMap<String, String>,
    /// Those of its labels that an operator has set here, and not the worker.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels_set: BTreeMap<String, String>,
    /// How far it is drained, while it is draining.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainView>,
    /// What its worker found out about the machine.
    pub attributes: BTreeMap<String, String>,
    /// What it offers.
    pub capacity: Resources,
    /// What its tasks were promised.
    pub committed: Resources,
    /// What is in use, by whomever, as last heard; absent before the first heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Resources>,
    /// How many tasks it has that have not ended.
    pub tasks: u64,
    /// How many tasks it takes at once, whatever they ask for.
    #[serde(default = "tasks_max_usual")]
    pub tasks_max: u32,
    /// Its folders that tasks may bind-mount, with everything below them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mount_paths: Vec<String>,
    /// How long ago it was last heard by this manager, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_ms_ago: Option<u64>,
    /// Why the container runtime cannot be used, while it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_error: Option<String>,
    /// The worker's version.
    pub worker_version: String,
}

/// How far a node is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    /// Who asked for it.
    pub actor: String,
    /// When it began.
    pub started_at_ms: u64,
    /// After how long what is left is ended, in milliseconds; absent means that nothing is cut short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// How much of that is left; known to the leader alone, which counts anew when it is elected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
    /// Whether the deadline has come.
    #[serde(default)]
    pub overdue: bool,
    /// Whether it is drained: nothing of ours runs there any more, by its worker's own word.
    pub drained: bool,
    /// What is still there, and why; at most [`DRAIN_WAITS_MAX`], and only where one node is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<DrainWait>,
}

/// The most tasks of which an answer says why they are still there.
pub const DRAIN_WAITS_MAX: usize = 100;

/// Why a task is still on a node that is draining.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainWait {
    /// The task.
    pub task: TaskRef,
    /// Its place among the instances of its spec.
    pub slot: u32,
    /// Why, for people.
    pub reason: String,
}

/// The cluster as a whole (`cluster.status`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster's id, minted in the first record of its log.
    pub id: ClusterId,
    /// The leader's epoch.
    pub epoch: u64,
    /// The leader: this run of its process.
    pub leader: ManagerId,
    /// The leader's name; absent in answers of the first version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_name: Option<UserName>,
    /// The leader's version.
    pub manager_version: String,
    /// Jobs that have not come to their end.
    pub jobs: u64,
    /// Tasks by state.
    pub tasks: BTreeMap<TaskState, u64>,
    /// Nodes by status.
    pub nodes: BTreeMap<String, u64>,
    /// Messages in the log that were no record of ours and were skipped by all managers.
    pub records_skipped: u64,
    /// Payloads that could not be read, since this manager started.
    pub payloads_refused: u64,
    /// What an operator should look at now.
    pub alarms: Vec<String>,
    /// What an operator should look at soon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// How far back the history of the manager that answers reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryView>,
}

/// How far back a manager's history reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryView {
    /// The index of the log of its oldest event.
    pub from_index: u64,
    /// When that happened, in milliseconds since the Unix epoch.
    pub from_ms: u64,
    /// The index that the manager joined at, from a snapshot: it has of the events before only what came with that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_index: Option<u64>,
}

/// A list of events.
pub type EventPage = Page<Event>;
