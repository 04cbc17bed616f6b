//! What nodes and tasks use, as workers tell it to whoever listens: figures that are worth nothing a minute later, so
//! they never pass through the log, and may be lost.
//!
//! A worker publishes them every [`METRICS_INTERVAL_MS`] by itself, and faster for as long as somebody asks for it
//! ([`MetricsWatch`]). Who wants rates takes the difference of two counters.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::id::{BootId, TaskId};
use crate::name::{JobName, Namespace, NodeName, SpecName};
use crate::spec::Resources;

/// How often a worker tells its figures when nobody asks, in milliseconds.
pub const METRICS_INTERVAL_MS: u64 = 30_000;
/// The shortest interval that is granted, in milliseconds.
pub const METRICS_INTERVAL_MS_MIN: u64 = 500;
/// How long a wish holds, in milliseconds; repeat it for as long as the figures are wanted.
pub const METRICS_WATCH_MS: u64 = 10_000;
/// The most tasks in one message; those of a node that has more come in several.
pub const METRICS_TASKS_MAX: usize = 1_000;

/// A wish for fresher figures for [`METRICS_WATCH_MS`], to all workers, on `metrics.watch`. The first ones come at once,
/// and so do those of each wish that names a node in `tasks_of` and wants them no faster than [`METRICS_INTERVAL_MS`]: once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsWatch {
    /// How often, in milliseconds.
    pub interval_ms: u64,
    /// The nodes whose tasks' figures are wanted as well; absent means all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks_of: Option<BTreeSet<NodeName>>,
}

/// What a node and its tasks use, on `node.<node>.metrics`. Each message stands for itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeMetrics {
    /// This run of the worker. Counters of a node begin anew with its machine, those of a task with its container.
    pub boot_id: BootId,
    /// When they were read, by the worker's clock, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The node's.
    pub node: NodeFigures,
    /// Those of its tasks that run; absent where only the node's were wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<TaskFigures>>,
    /// Images that are being pulled just now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pulls: Vec<PullFigures>,
}

/// What a node uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeFigures {
    /// What it offers.
    pub capacity: Resources,
    /// What is in use, by whomever.
    pub used: Resources,
    /// How many processes wanted to run, on average of the last minute.
    #[serde(default)]
    pub load_1m: f64,
    /// What has come in by its networks, but for those of containers, in bytes.
    #[serde(default)]
    pub received_bytes: u64,
    /// What has gone out by them, in bytes.
    #[serde(default)]
    pub sent_bytes: u64,
    /// How many containers of ours run.
    #[serde(default)]
    pub tasks_running: u32,
    /// Why the container runtime cannot be used, while it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_error: Option<String>,
}

/// What a task uses. What its node cannot tell is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFigures {
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
    /// The attempt whose container this is.
    pub attempt: u64,
    /// What its container uses.
    #[serde(flatten)]
    pub usage: Usage,
}

/// What a container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time since its start, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ns: Option<u64>,
    /// Processor time since the reading before, in thousandths of one core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Memory, without files that are only cached and were not used lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// How much memory it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// What has come in by its networks, in bytes; absent on the machine's own network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<u64>,
    /// What has gone out by them, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
    /// What was read from disks, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
    /// What was written to disks, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_bytes: Option<u64>,
    /// Its processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
}

/// How far a pull has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullFigures {
    /// The image.
    pub image: String,
    /// How much of what is known to be needed has been downloaded, in bytes.
    pub done_bytes: u64,
    /// How much is known to be needed, in bytes; grows while layers are being found.
    pub total_bytes: u64,
    /// What is being done: `waiting`, `downloading`, `unpacking`.
    pub step: PullStep,
}

/// What a pull does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullStep {
    /// It waits: for its turn, or for the registry.
    #[default]
    Waiting,
    /// Layers come.
    Downloading,
    /// All layers are here, and are being unpacked.
    Unpacking,
}

impl PullStep {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Downloading => "downloading",
            Self::Unpacking => "unpacking",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_told() {
        let figures = TaskFigures {
            task: TaskId(uuid::Uuid::from_u128(7)),
            namespace: Namespace::standard(),
            job: "web".parse().unwrap(),
            spec: "main".parse().unwrap(),
            slot: 0,
            attempt: 1,
            usage: Usage { pids: Some(3), ..Usage::default() },
        };
        let told = serde_json::to_value(&figures).unwrap();
        assert_eq!(told["pids"], 3);
        assert!(told.get("cpu_ns").is_none(), "{told}");
        assert_eq!(serde_json::from_value::<TaskFigures>(told).unwrap(), figures);
        let packed = crate::codec::encode(&figures);
        assert_eq!(crate::codec::decode::<TaskFigures>(&packed).unwrap(), figures);
    }
}
