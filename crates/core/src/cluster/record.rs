//! The log: records of facts, each chained to the one before by a hash.
//!
//! A *fact* is what the log stores and what state is folded from; an *event* is what a fact looks like to
//! the world outside (see [`super::publish`]). Facts are decisions and observations, never instructions to
//! decide again: replay needs no scheduler, no clock and no randomness.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use longshore_proto::alarm::Severity;
use longshore_proto::api::{
    JobStopped, JobSubmitted, NodeGone, NodesChanged, RolledBack, TaskStopped,
};
use longshore_proto::codec::{self, DecodeError};
use longshore_proto::explain::Why;
use longshore_proto::id::{BootId, ClusterId, CommandId, ManagerId, NodeId, Revision, TaskId};
use longshore_proto::name::{Datacenter, JobKey, NodeName, SpecName, UserName};
use longshore_proto::node::{TaskReport, tasks_max_usual};
use longshore_proto::permission::Role;
use longshore_proto::plan::RebalancePlan;
use longshore_proto::spec::{JobSpec, Resources};
use longshore_proto::state::{JobStatus, NodeStatus};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The version of the records' format. A manager refuses to lead over a log with a newer one.
pub const RECORD_FORMAT: u16 = 1;

/// The largest record, in bytes: one message, far below the servers' usual `max_payload`.
pub const RECORD_BYTES_MAX: usize = 256 << 10;

/// One transaction: all of its facts happen, or none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The format, [`RECORD_FORMAT`].
    pub format: u16,
    /// Its place in the log, counted from 1.
    pub index: u64,
    /// The reign that it was written in.
    pub epoch: u64,
    /// The manager that wrote it.
    pub manager: ManagerId,
    /// The hash of the record before; zeros before the first.
    pub previous: Hash,
    /// When it was written, by the leader's wall clock, never falling, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What happened, in order.
    pub facts: Vec<Fact>,
}

impl Record {
    /// The bytes that are appended to the log.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a record. Its bytes come from the managers' own account, but a message there may still be
    /// somebody's mistake.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }
}

/// Where a message says that it stands in the log, whether or not the rest of it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its place, counted from 1.
    pub index: u64,
    /// The hash of the record before.
    pub previous: Hash,
}

impl Place {
    /// Reads no more of a message than this.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }
}

/// A SHA-256 hash.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Each record has one, and so has what is stored with it: digit by digit through a formatter takes longer.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let text: String = self
            .0
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 0xf])
            .map(|digit| char::from(DIGITS[usize::from(digit)]))
            .collect();
        f.write_str(&text)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for Hash {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        let mut hash = [0u8; 32];
        if text.len() != 64 {
            return Err("a hash has 64 hexadecimal digits");
        }
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| "a hash is hexadecimal")?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| "a hash is hexadecimal")?;
        }
        Ok(Self(hash))
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fact {
    /// The cluster began: the first fact of the first record.
    ClusterCreated {
        /// Its id.
        cluster: ClusterId,
    },
    /// A manager began to lead: the first fact of each epoch.
    LeaderElected {
        /// Which one.
        manager: ManagerId,
        /// Its name, for people.
        name: UserName,
        /// Its version.
        version: String,
    },
    /// A manager stands by that belongs to the cluster from now on: it may lead, and know of records that the others
    /// do not.
    ManagerJoined {
        /// Its name.
        name: UserName,
    },
    /// A command was granted; the same id gets the same answer for 24 hours.
    CommandGranted {
        /// Whose command, and which.
        key: CommandKey,
        /// The hash of what was asked.
        request: Hash,
        /// The answer.
        answer: CommandAnswer,
        /// Who asked, and for what; absent in records of the first version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        audit: Option<Audit>,
    },
    /// What an operator should know of began, is worse or better, or is over.
    AlarmChanged {
        /// What it is about (`log`, `silence`): one alarm each.
        about: String,
        /// How bad it is now.
        severity: Severity,
        /// In words, with what to do.
        text: String,
    },
    /// A job was submitted, or scaled: a new version.
    JobSubmitted {
        /// The version that this made.
        version: u64,
        /// The job, resolved.
        job: Arc<JobSpec>,
        /// Who asked.
        actor: String,
        /// Why the leader itself did, where a version has failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rolled_back: Option<Box<RolledBack>>,
    },
    /// A job is to stop.
    JobStopRequested {
        /// Which one.
        job: JobKey,
        /// Who asked.
        actor: String,
    },
    /// One of a job's parts wants another number of instances: a new version that changes nothing else.
    JobScaled {
        /// Which job.
        job: JobKey,
        /// The version that this made.
        version: u64,
        /// Which part.
        spec: SpecName,
        /// How many from now on.
        instances: u32,
        /// Who asked.
        actor: String,
    },
    /// A job as a whole stands differently.
    JobStatusChanged {
        /// Which one.
        job: JobKey,
        /// How it stands now.
        status: JobStatus,
    },
    /// The tasks of a part wait for a node, for a reason that has not been told yet.
    PlacementBlocked {
        /// Which job.
        job: JobKey,
        /// Which part.
        spec: SpecName,
        /// Why nothing fits.
        reason: String,
    },
    /// A job that ended long ago was forgotten; its history stays.
    JobForgotten {
        /// Which one.
        job: JobKey,
    },
    /// A task is wanted.
    TaskCreated {
        /// The task.
        task: TaskId,
        /// Its job.
        job: JobKey,
        /// Its part of the job.
        spec: SpecName,
        /// Its place among the instances.
        slot: u32,
        /// The job's version that it runs.
        version: u64,
        /// The task that it replaces.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaces: Option<TaskId>,
        /// How many tasks in a row failed in this slot before it.
        #[serde(default)]
        failures: u32,
    },
    /// A task was given a node.
    TaskPlaced {
        /// The task.
        task: TaskId,
        /// Its node.
        node: NodeName,
        /// Why this one, as it was kept by versions of before.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        explanation: String,
        /// Why this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<Box<Why>>,
    },
    /// A placed task is to end.
    TaskStopRequested {
        /// The task.
        task: TaskId,
        /// Why, for people.
        reason: String,
        /// The more important job that needs its place: the task is replaced, and its end is no failure.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        displaced_by: Option<JobKey>,
    },
    /// A task that had no node yet ended.
    TaskWithdrawn {
        /// The task.
        task: TaskId,
        /// Why, for people.
        reason: String,
    },
    /// A node spoke of a task.
    TaskReported {
        /// What it said.
        report: TaskReport,
    },
    /// A task is gone with its node.
    TaskLost {
        /// The task.
        task: TaskId,
        /// Why, for people.
        reason: String,
    },
    /// A node joined, came back, or began a new run.
    NodeRegistered {
        /// Its name.
        name: NodeName,
        /// What it said of itself.
        node: NodeFacts,
    },
    /// A node's capacity changed.
    NodeResized {
        /// Its name.
        name: NodeName,
        /// What it offers now.
        capacity: Resources,
    },
    /// The manager thinks differently of a node.
    NodeStatusChanged {
        /// Its name.
        name: NodeName,
        /// What it thinks now.
        status: NodeStatus,
        /// Why, for people.
        reason: String,
    },
    /// A node takes no new tasks from now on; a drain of it is called off.
    NodeCordoned {
        /// Its name.
        name: NodeName,
        /// Who asked.
        actor: String,
    },
    /// A node takes new tasks again; a drain of it is called off.
    NodeUncordoned {
        /// Its name.
        name: NodeName,
        /// Who asked.
        actor: String,
    },
    /// What a node runs is to move elsewhere.
    NodeDrainRequested {
        /// Its name.
        name: NodeName,
        /// After so long what is left is ended, in milliseconds of the leader's own clock.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline_ms: Option<u64>,
        /// Whether its own worker asked, because it is to end: its next run is open again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_worker: bool,
        /// Who asked.
        actor: String,
    },
    /// Tasks of a part must end on a draining node before they start elsewhere, and there is no place for them.
    NodeDrainBlocked {
        /// The node's name.
        name: NodeName,
        /// Which job.
        job: JobKey,
        /// Which part.
        spec: SpecName,
        /// Why nothing fits.
        reason: String,
    },
    /// The deadline of a drain has come.
    NodeDrainOverdue {
        /// The node's name.
        name: NodeName,
    },
    /// Nothing of ours runs on a draining node any more.
    NodeDrained {
        /// Its name.
        name: NodeName,
    },
    /// An operator says something else of a node.
    NodeLabelled {
        /// Its name.
        name: NodeName,
        /// Labels that are set.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        set: BTreeMap<String, String>,
        /// Labels that are taken away.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        remove: BTreeSet<String>,
        /// Who asked.
        actor: String,
    },
    /// A node that is silent has stopped, and nothing of ours runs there any more: an operator's word.
    NodeConfirmedLost {
        /// Its name.
        name: NodeName,
        /// Who said so.
        actor: String,
    },
    /// A node's worker follows a revision that no record of this log has: the log has lost records.
    NodeAhead {
        /// Its name.
        name: NodeName,
        /// What it follows.
        revision: Revision,
    },
    /// A node was forgotten.
    NodeRemoved {
        /// Its name.
        name: NodeName,
        /// Who asked.
        actor: String,
    },
}

/// What a node says of itself when it joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The id kept in its data directory.
    pub id: NodeId,
    /// This run of its worker.
    pub boot: BootId,
    /// Where it stands.
    pub datacenter: Datacenter,
    /// What its worker was told to say of it.
    pub labels: BTreeMap<String, String>,
    /// What its worker found out about the machine.
    pub attributes: BTreeMap<String, String>,
    /// What it offers.
    pub capacity: Resources,
    /// How many tasks it takes at once, whatever they ask for.
    #[serde(default = "tasks_max_usual")]
    pub tasks_max: u32,
    /// Its folders that tasks may bind-mount, with everything below them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mount_paths: Vec<String>,
    /// Its worker's version.
    pub version: String,
}

/// Whose command, and which.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CommandKey {
    /// The asker's role.
    pub role: Role,
    /// The asker's name.
    pub user: UserName,
    /// The id that the asker chose.
    pub id: CommandId,
}

/// Who asked for something, and what, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The NATS identity, and in brackets what the program says of itself.
    pub actor: String,
    /// The verb, as in its subject.
    pub verb: String,
    /// What it was about.
    pub of: String,
    /// The nodes that it was about: all of them, where `of` names some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeName>,
}

/// The answer to a command that was granted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommandAnswer {
    /// To `job.submit`.
    Submitted(JobSubmitted),
    /// To `job.stop`.
    JobStopped(JobStopped),
    /// To `task.stop`.
    TaskStopped(TaskStopped),
    /// To `rebalance.start`.
    Rebalanced(RebalancePlan),
    /// To `node.cordon`, `node.uncordon`, `node.drain` and `node.label`.
    NodesChanged(NodesChanged),
    /// To `node.remove` and `node.confirm-lost`.
    NodeGone(NodeGone),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a node said of itself before it said how many tasks it takes and what it lends.
    #[derive(Serialize)]
    struct Before {
        id: NodeId,
        boot: BootId,
        datacenter: Datacenter,
        labels: BTreeMap<String, String>,
        attributes: BTreeMap<String, String>,
        capacity: Resources,
        version: String,
    }

    #[test]
    fn a_node_of_before_takes_the_usual_number_of_tasks_and_lends_nothing() {
        let before = Before {
            id: NodeId(uuid::Uuid::from_u128(1)),
            boot: BootId(uuid::Uuid::from_u128(2)),
            datacenter: Datacenter::standard(),
            labels: Default::default(),
            attributes: Default::default(),
            capacity: Resources::default(),
            version: "0.1.0".into(),
        };
        let facts: NodeFacts = codec::decode(&codec::encode(&before)).unwrap();
        assert_eq!((facts.tasks_max, facts.mount_paths), (500, vec![]));
    }

    /// A granted command before it told who asked.
    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    enum FactBefore {
        CommandGranted { key: CommandKey, request: Hash, answer: CommandAnswer },
    }

    #[test]
    fn a_command_of_before_has_no_audit() {
        let key = CommandKey {
            role: Role::Operator,
            user: "alice".parse().unwrap(),
            id: CommandId(uuid::Uuid::from_u128(3)),
        };
        let stopped = JobStopped { name: "web".parse().unwrap(), tasks_live: 1 };
        let (request, answer) = (Hash::of(b"x"), CommandAnswer::JobStopped(stopped));
        let before =
            FactBefore::CommandGranted { key: key.clone(), request, answer: answer.clone() };
        let fact: Fact = codec::decode(&codec::encode(&before)).unwrap();
        assert_eq!(fact, Fact::CommandGranted { key, request, answer, audit: None });
    }

    /// A placement as it was recorded before the reason was kept in parts.
    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    enum PlacementBefore {
        TaskPlaced { task: TaskId, node: NodeName, explanation: String },
        TaskStopRequested { task: TaskId, reason: String },
    }

    #[test]
    fn placements_and_stops_of_before_are_read_with_what_they_said() {
        let (task, node) = (TaskId(uuid::Uuid::from_u128(7)), "n1".parse::<NodeName>().unwrap());
        let explanation = "the only feasible of 1 node".to_owned();
        let before = PlacementBefore::TaskPlaced {
            task,
            node: node.clone(),
            explanation: explanation.clone(),
        };
        let read: Fact = codec::decode(&codec::encode(&before)).unwrap();
        assert_eq!(read, Fact::TaskPlaced { task, node, explanation, why: None });
        let before = PlacementBefore::TaskStopRequested { task, reason: "x".into() };
        let read: Fact = codec::decode(&codec::encode(&before)).unwrap();
        let reason = "x".to_owned();
        assert_eq!(read, Fact::TaskStopRequested { task, reason, displaced_by: None });
    }

    #[test]
    fn a_hash_is_read_back_from_its_text() {
        let hash = Hash::of(b"longshore");
        assert_eq!(Hash::try_from(hash.to_string()), Ok(hash));
        assert!(Hash::try_from("xyz".to_owned()).is_err());
    }
}
