//! What is published for anybody: the facts of the log, in a form that stays stable for services outside.

use serde::{Deserialize, Serialize};

use crate::constraint::Constraint;
use crate::id::TaskId;
use crate::name::{Datacenter, JobName, Namespace, NodeName, SpecName};
use crate::spec::{JobSpec, Resources, TaskSpec};
use crate::state::TaskState;
use crate::subject::{CLUSTER_CHANGES, JOB_CHANGES, NODE_CHANGES, Subject};

/// What the types of events begin with that say who asked for what. They are history, and nobody else's business:
/// they are not published, and listed only for who asks for them.
pub const AUDIT: &str = "audit.";

/// A committed fact, as it is published on the event subjects and listed by `longshore events`.
///
/// Readers deduplicate by `(index, ordinal)`: the same event may be published again after a change of
/// leader, always with the same pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The index of the record in the log.
    pub index: u64,
    /// The place of the event in its record.
    pub ordinal: u32,
    /// When the leader committed it, by its clock, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What happened: `task.running`, `job.submitted`, `node.lost`, `cluster.leader-elected`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The namespace it happened in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// The job it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobName>,
    /// The part of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<SpecName>,
    /// The task it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The node it happened on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The state that was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The task's attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// The exit code of the attempt that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which version of a job; with `job.submitted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Who asked for it, when somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// What the job asks of nodes; with `job.submitted`, unless the job was only scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wants: Option<JobWants>,
    /// The nodes that something was asked about; with who asked for what, where it is about nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeName>,
}

/// What a job asks of nodes, so that whoever keeps events knows how the cluster was used: for accounts, and to run
/// the same again in a simulation. Nothing of what its tasks are made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobWants {
    /// 1 (least) to 100.
    pub priority: u8,
    /// Where it may run; empty means anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub datacenters: Vec<Datacenter>,
    /// Its parts.
    pub specs: Vec<SpecWants>,
}

/// What each task of a part of a job asks of its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecWants {
    /// The part's name.
    pub name: SpecName,
    /// How many tasks are wanted.
    pub instances: u32,
    /// What each of them holds of its node.
    pub resources: Resources,
    /// What a node must be to get one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
}

impl From<&JobSpec> for JobWants {
    fn from(job: &JobSpec) -> Self {
        let wants = |spec: &TaskSpec| SpecWants {
            name: spec.name.clone(),
            instances: spec.instances,
            resources: spec.resources,
            constraints: spec.constraints.clone(),
        };
        Self {
            priority: job.priority,
            datacenters: job.datacenters.clone(),
            specs: job.specs.iter().map(wants).collect(),
        }
    }
}

impl Event {
    /// An event of which nothing is known yet but its place, its time and what kind it is.
    pub fn bare(index: u64, ordinal: u32, at_ms: u64, event_type: impl Into<String>) -> Self {
        Self {
            index,
            ordinal,
            at_ms,
            event_type: event_type.into(),
            namespace: None,
            job: None,
            spec: None,
            task: None,
            node: None,
            state: None,
            attempt: None,
            exit_code: None,
            reason: None,
            version: None,
            actor: None,
            wants: None,
            nodes: Vec::new(),
        }
    }

    /// The subject that the event is published on. `None` for an event of a newer version.
    pub fn subject(&self) -> Option<Subject> {
        let known =
            |list: &[&'static str], text: &str| list.iter().copied().find(|item| *item == text);
        match self.event_type.split_once('.')? {
            ("task", state) => Some(Subject::TaskEvent {
                namespace: self.namespace.clone()?,
                job: self.job.clone()?,
                spec: self.spec.clone()?,
                state: TaskState::parse(state)?,
            }),
            ("job", change) => Some(Subject::JobEvent {
                namespace: self.namespace.clone()?,
                job: self.job.clone()?,
                change: known(&JOB_CHANGES, change)?,
            }),
            ("node", change) => Some(Subject::NodeEvent {
                node: self.node.clone()?,
                change: known(&NODE_CHANGES, change)?,
            }),
            ("cluster", change) => {
                Some(Subject::ClusterEvent { change: known(&CLUSTER_CHANGES, change)? })
            }
            _ => None,
        }
    }
}
