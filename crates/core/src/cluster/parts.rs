//! What the cluster's state is made of, and stored as: what stands once, jobs, nodes and commands. (A task is in
//! [`task`](super::task).)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use longshore_proto::alarm::Severity;
use longshore_proto::api::RolledBack;
use longshore_proto::id::{ClusterId, ManagerId, Revision, TaskId};
use longshore_proto::name::{JobKey, NodeName, SpecName, UserName};
use longshore_proto::spec::JobSpec;
use longshore_proto::state::{Eligibility, JobStatus, NodeStatus};
use serde::{Deserialize, Serialize};

use super::record::{CommandAnswer, Hash, NodeFacts};
use super::slot::SlotTasks;

/// What stands once in a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The cluster's id; absent before the first record.
    pub cluster: Option<ClusterId>,
    /// The present reign.
    pub epoch: u64,
    /// The epochs of the last reigns, and the index of each one's first record; the newest last. Absent in what was
    /// stored before this was kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reigns: Vec<(u64, u64)>,
    /// The epoch with which the cluster last went on from what an operator had chosen, or 0: what workers follow of
    /// earlier ones may be of the past that was left.
    #[serde(default)]
    pub restored_epoch: u64,
    /// Who leads.
    pub leader: Option<ManagerId>,
    /// The leader's name.
    pub leader_name: Option<UserName>,
    /// The leader's version.
    pub leader_version: String,
    /// The last record that was applied.
    pub index: u64,
    /// Its hash.
    pub chain: Hash,
    /// Its time.
    pub at_ms: u64,
    /// The sequence in the stream of the last message that was read, a record or not.
    pub stream_sequence: u64,
    /// The sequence in the stream of the last record. 0 in what was stored before this was kept, and where the log was
    /// healed since.
    #[serde(default)]
    pub record_sequence: u64,
    /// Messages in the log that were no valid record.
    pub records_skipped: u64,
    /// The node that got the last task by round-robin.
    pub round_robin_last: Option<NodeName>,
    /// The managers that belong to the cluster: each was recorded before it could lead.
    #[serde(default)]
    pub managers: BTreeSet<UserName>,
    /// Whether that list is complete: absent where the cluster began before it was kept.
    #[serde(default)]
    pub managers_known: bool,
    /// The newest of the command ids that were forgotten, by when its client made it, in milliseconds since the
    /// Unix epoch. What is newer and not remembered was never granted, whatever clocks say. Absent in what was
    /// stored before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands_forgotten_ms: Option<u64>,
    /// What an operator should know of, by what it is about: how bad it is, and in words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub alarms: BTreeMap<String, (Severity, String)>,
    /// Whether it goes on from a past that others have left: what nodes were told, and what they have said, may be
    /// forgotten here. The next reign asks all of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_restored: bool,
    /// Where it has gone on from such a past, the first time first: the index of the first record then, and the manager
    /// that wrote it. Events of the same indexes may have been published before, of the past that was left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restorations: Vec<(u64, ManagerId)>,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its versions, the current one among them. Stored by themselves: see [`persist`](super::persist).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<u64, Arc<JobSpec>>,
    /// The current version.
    pub version: u64,
    /// The version that the present run began with: what ended before it does not count.
    pub run_version: u64,
    /// How it stands.
    pub status: JobStatus,
    /// Whether it is to stop.
    pub stop_requested: bool,
    /// Why tasks of a part wait.
    pub blocked: BTreeMap<SpecName, String>,
    /// When it was first submitted.
    pub created_at_ms: u64,
    /// When it last changed its status.
    pub changed_at_ms: u64,
    /// The last version of the present run whose tasks were all up, where that is known: what a roll-out that fails goes
    /// back to. While it is not the current one, a roll-out is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<u64>,
    /// Why the leader made the current version by itself, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<RolledBack>,
    /// Its tasks by part and slot, oldest first. Derived.
    #[serde(skip)]
    pub slots: BTreeMap<SpecName, BTreeMap<u32, SlotTasks>>,
}

impl Job {
    /// One that has no version yet.
    pub(super) fn new(version: u64, at_ms: u64) -> Self {
        Self {
            versions: BTreeMap::new(),
            version,
            run_version: version,
            status: JobStatus::Pending,
            stop_requested: false,
            blocked: BTreeMap::new(),
            created_at_ms: at_ms,
            changed_at_ms: at_ms,
            reached: None,
            rolled_back: None,
            slots: BTreeMap::new(),
        }
    }

    /// The current version's spec.
    pub fn spec(&self) -> Option<&Arc<JobSpec>> {
        self.versions.get(&self.version)
    }
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What it says of itself.
    pub facts: NodeFacts,
    /// What the manager thinks of it.
    pub status: NodeStatus,
    /// Whether it takes new tasks.
    pub eligibility: Eligibility,
    /// What an operator says of it; stands before what its worker says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels_set: BTreeMap<String, String>,
    /// How far it is drained, while it is draining.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Whether an operator has said that it has stopped, since it was last heard.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_confirmed_lost: bool,
    /// What its worker follows, where no record of this log has that: the log has lost records. It takes nothing from
    /// this log's leaders, and is told nothing, until an operator has chosen what the cluster goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<Revision>,
    /// When its set of assignments last changed.
    pub revision: Revision,
    /// What is said of it, by its worker and by operators. Derived.
    #[serde(skip)]
    pub labels: BTreeMap<String, String>,
    /// Its tasks that have not ended. Derived.
    #[serde(skip)]
    pub tasks: BTreeSet<TaskId>,
}

impl Node {
    /// Whether it takes new tasks, as the scheduler is told.
    pub(super) fn offered(&self) -> Eligibility {
        if self.ahead.is_some() { Eligibility::Draining } else { self.eligibility }
    }

    /// Whether nothing of ours runs there for certain: its worker has said so as its last word, or an operator has.
    pub(super) fn has_stopped(&self) -> bool {
        self.status == NodeStatus::Left || self.is_confirmed_lost
    }
}

/// How far a node is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// After so long what is left is ended, in milliseconds; a new leader counts anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Whether its own worker asked, because it is to end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_worker: bool,
    /// Whether the node was cordoned when its worker asked: it is so again when the worker is back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_cordoned: bool,
    /// Who asked.
    pub actor: String,
    /// When it began.
    pub started_at_ms: u64,
    /// Whether the deadline has come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_overdue: bool,
    /// Whether nothing of ours runs there any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_done: bool,
    /// Why tasks that must end before they start elsewhere have no place there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<(JobKey, SpecName, String)>,
}

/// A command that was granted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// The hash of what was asked.
    pub request: Hash,
    /// The answer.
    pub answer: CommandAnswer,
    /// When it was granted.
    pub at_ms: u64,
}
