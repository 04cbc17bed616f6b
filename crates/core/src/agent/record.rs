//! What the worker stores: the forms that outlive its process.
//!
//! Fields are never removed or retyped; a new one has a default, so that a newer worker reads what an older
//! one stored.

use longshore_proto::health::HealthReport;
use longshore_proto::id::{ClusterId, Revision, TaskId};
use longshore_proto::node::{RunTask, TaskReport};
use longshore_proto::spec::Port;
use longshore_proto::state::TaskState;
use serde::{Deserialize, Serialize};

use super::stock::StockItem;

/// Everything that the store holds, as [`super::Agent::restore`] takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// The cluster that the data directory belongs to.
    pub cluster_id: Option<ClusterId>,
    /// The revision of the newest assignments.
    pub revision: Revision,
    /// The tasks.
    pub tasks: Vec<TaskRecord>,
    /// Undelivered reports by their place.
    pub reports: Vec<(u64, TaskReport)>,
    /// Ended containers that are kept for their logs.
    pub kept: Vec<KeptContainer>,
    /// Forgotten tasks.
    pub tombstones: Vec<Tombstone>,
    /// What was brought onto the machine.
    pub stock: Vec<StockRecord>,
}

/// A task as the store holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// The task.
    pub task: TaskId,
    /// The revision of its newest assignment.
    pub revision: Revision,
    /// What to run; absent for a task whose stop was the first thing heard of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Box<RunTask>>,
    /// Why it is to end, once it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
    /// Whether the leader's whole set no longer has it: it is ended without a word and forgotten.
    #[serde(default)]
    pub superseded: bool,
    /// The newest attempt; 0 before the first.
    #[serde(default)]
    pub attempt: u64,
    /// The state that was reached in that attempt.
    pub state: TaskState,
    /// The container of that attempt, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// When it was restarted, as far as that still counted, in milliseconds since the Unix epoch: the one
    /// place where this machine's wall clock matters, because monotonic time starts anew with the process.
    /// Where the clock was set back, restarts count longer; where it was set forward, they are forgiven.
    #[serde(default)]
    pub restarts_at_ms: Vec<u64>,
    /// Its ports, once those were chosen that are dynamic; empty where there is nothing to choose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// What was found of the newest attempt's health, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthReport>,
    /// How many times its image could not be had in the newest attempt.
    #[serde(default)]
    pub pulls_failed: u32,
    /// Its last report, once it has ended, with its place among the undelivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Box<(u64, TaskReport)>>,
}

/// What is remembered of a task that was forgotten, so that a message that was under way meanwhile does not
/// run it a second time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Its place in the order of forgetting.
    pub sequence: u64,
    /// The task.
    pub task: TaskId,
    /// The newest attempt.
    pub attempt: u64,
    /// Its last report; absent for one that was superseded, which may be assigned anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<TaskReport>,
}

/// An ended container that is kept for its logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptContainer {
    /// Its place in the order of ending.
    pub sequence: u64,
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: u64,
    /// The runtime's id.
    pub container_id: String,
    /// When it ended, as far as known, in milliseconds since the Unix epoch; 0 where nobody noted it.
    #[serde(default)]
    pub ended_at_ms: u64,
}

/// Something that was brought onto the machine for tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockRecord {
    /// What it is.
    pub item: StockItem,
    /// When a task needed it last, to about an hour, in milliseconds since the Unix epoch.
    pub used_at_ms: u64,
}

#[cfg(test)]
mod tests {
    use longshore_proto::codec::{decode, encode};

    use super::*;

    /// A task as the store held it before workers chose ports and asked for health.
    #[derive(Serialize)]
    struct Before {
        task: TaskId,
        revision: Revision,
        attempt: u64,
        state: TaskState,
    }

    #[test]
    fn a_record_of_before_has_neither_ports_nor_health() {
        let before = Before {
            task: TaskId(uuid::Uuid::from_u128(1)),
            revision: Revision { epoch: 1, index: 2 },
            attempt: 3,
            state: TaskState::Running,
        };
        let record: TaskRecord = decode(&encode(&before)).unwrap();
        assert_eq!((record.attempt, record.ports, record.health), (3, vec![], None));
        assert_eq!(record.pulls_failed, 0);
    }
}
