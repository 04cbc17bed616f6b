//! What nodes are told: changes of their set after a record, and the whole set page by page.

use longshore_proto::codec;
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::{ClusterId, Revision, TaskId};
use longshore_proto::name::NodeName;
use longshore_proto::node::{
    AssignDelta, Assignment, RunTask, Sync, SyncPage, TaskKnown, Want, set_digest,
};

use super::changes::Changes;
use super::effect::Effect;
use super::state::{Node, State};

/// A change of a set that is larger than this is not sent; the node is told to ask for the set instead.
const DELTA_BYTES_MAX: usize = 512 << 10;
/// A page of a set ends when it has reached this many bytes.
const PAGE_BYTES: usize = 256 << 10;
/// A page of a set ends when it has this many assignments.
const PAGE_ASSIGNMENTS: usize = 500;

/// The changes that nodes must hear of after a record.
pub(super) fn deltas(state: &State, revision: Revision, changes: &Changes) -> Vec<Effect> {
    let Some(cluster_id) = state.meta.cluster else { return Vec::new() };
    let delta = |(name, (previous, tasks)): (
        &NodeName,
        &(Revision, std::collections::BTreeSet<TaskId>),
    )| {
        let assignments = tasks.iter().filter_map(|id| assignment(state, *id)).collect();
        let mut delta =
            AssignDelta { cluster_id, previous: *previous, revision, changes: assignments };
        if codec::encoded_bytes(&delta) > DELTA_BYTES_MAX {
            delta = hint(cluster_id, revision);
        }
        Effect::Assign { node: name.clone(), delta }
    };
    // Who follows what this log has lost takes nothing from it.
    let follows = |name: &NodeName| state.nodes.get(name).is_none_or(|node| node.ahead.is_none());
    changes.sets.iter().filter(|(name, _)| follows(name)).map(delta).collect()
}

/// Tells a node that it should ask for its whole set.
pub(super) fn hint(cluster_id: ClusterId, revision: Revision) -> AssignDelta {
    AssignDelta { cluster_id, previous: Revision::UNCHAINED, revision, changes: Vec::new() }
}

/// What is wanted of a task that has a node and has not ended.
fn assignment(state: &State, id: TaskId) -> Option<Assignment> {
    let task = state.tasks.get(&id)?;
    let node = task.node.as_ref().filter(|_| !task.state.is_terminal())?;
    let want = match task.stop() {
        Some(reason) => Want::Stop { reason: reason.to_owned() },
        None => Want::Run(Box::new(RunTask {
            namespace: task.job.namespace.clone(),
            job: task.job.name.clone(),
            version: task.version,
            slot: task.slot,
            attempt_floor: task.attempt,
            epoch: state.task_job_spec(task)?.fence.then_some(task.created_index),
            node_labels: state
                .nodes
                .get(node)
                .map(|node| node.labels_set.clone())
                .unwrap_or_default(),
            spec: state.task_spec(task)?.clone(),
        })),
    };
    Some(Assignment { task: id, revision: task.revision, want })
}

/// The digest of a node's set, to compare with the one in its heartbeat; and what tells whether it still is that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest {
    /// When the set last changed by what was decided. It may have lost tasks since, which have ended, and got none.
    revision: Revision,
    /// How many tasks it has.
    tasks: usize,
    /// The digest.
    pub(super) value: u64,
}

impl Digest {
    /// That of a node's set; the one worked out before, while that is the same. Thousands of nodes say every two seconds
    /// what they run, and of most nothing has changed.
    pub(super) fn of(state: &State, node: &Node, before: Option<Self>) -> Self {
        let (revision, tasks) = (node.revision, node.tasks.len());
        let work_out = || Self { revision, tasks, value: digest(state, node) };
        let known = before.filter(|known| (known.revision, known.tasks) == (revision, tasks));
        let digest = known.unwrap_or_else(work_out);
        debug_assert_eq!(digest, work_out());
        digest
    }
}

fn digest(state: &State, node: &Node) -> u64 {
    set_digest(node.tasks.iter().filter_map(|id| Some((id, state.tasks.get(id)?.revision))))
}

impl State {
    /// One page of a node's set.
    pub fn sync_page(&self, name: &NodeName, sync: &Sync) -> Result<SyncPage, ApiError> {
        let unknown = || {
            ApiError::new(
                ErrorCode::NotRegistered,
                format!("node {name} is not registered with this id"),
            )
            .hint("register again")
        };
        let cluster_id = self.meta.cluster.ok_or_else(unknown)?;
        let node = self.nodes.get(name).ok_or_else(unknown)?;
        if node.facts.id != sync.node_id || node.facts.boot != sync.boot_id {
            return Err(unknown());
        }
        if let Some(ahead) = node.ahead {
            let text = format!(
                "node {name} follows revision {ahead}, which the log has lost; it goes on as it was told then"
            );
            return Err(ApiError::new(ErrorCode::Unavailable, text).hint(
                "an operator must choose what the cluster goes on from: see `longshore doctor`",
            ));
        }
        let mut page = SyncPage {
            cluster_id,
            revision: node.revision,
            count: node.tasks.len() as u64,
            assignments: Vec::new(),
            known: Vec::new(),
            end: true,
        };
        let mut bytes = 0;
        let after = sync.after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        for id in node.tasks.range((after, std::ops::Bound::Unbounded)) {
            if page.assignments.len() >= PAGE_ASSIGNMENTS || bytes >= PAGE_BYTES {
                page.end = false;
                break;
            }
            if let Some(assignment) = assignment(self, *id) {
                bytes += codec::encoded_bytes(&assignment);
                page.assignments.push(assignment);
                page.known.extend(self.tasks.get(id).map(|task| TaskKnown {
                    task: *id,
                    attempt: task.attempt,
                    state: task.state,
                }));
            }
        }
        Ok(page)
    }
}
