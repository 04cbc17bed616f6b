//! What one record changed: which stored values must be written, which jobs must be looked at again, and
//! which nodes must hear of it.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::id::{Revision, TaskId};
use longshore_proto::name::{JobKey, NodeName};

use super::record::CommandKey;

/// What one record changed.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Whether what stands once changed.
    pub meta: bool,
    /// Jobs to write, or to delete when they are gone.
    pub jobs: BTreeSet<JobKey>,
    /// Tasks to write, or to delete when they are gone.
    pub tasks: BTreeSet<TaskId>,
    /// Nodes to write, or to delete when they are gone.
    pub nodes: BTreeSet<NodeName>,
    /// Commands to write, or to delete when they are gone.
    pub commands: BTreeSet<CommandKey>,
    /// Jobs whose wanted and actual tasks must be compared again.
    pub reconcile: BTreeSet<JobKey>,
    /// Whether capacity became free, so that what waits may fit now.
    pub freed: bool,
    /// Nodes whose set of assignments changed: the revision before, and the tasks to tell of.
    pub sets: BTreeMap<NodeName, (Revision, BTreeSet<TaskId>)>,
}

impl Changes {
    pub(super) fn touch_job(&mut self, job: &JobKey) {
        self.jobs.insert(job.clone());
        self.reconcile.insert(job.clone());
    }

    pub(super) fn touch_task(&mut self, task: TaskId, job: &JobKey) {
        self.tasks.insert(task);
        self.reconcile.insert(job.clone());
    }

    pub(super) fn touch_node(&mut self, node: &NodeName) {
        self.nodes.insert(node.clone());
        self.freed = true;
    }

    pub(super) fn touch_set(&mut self, node: &NodeName, before: Revision, task: Option<TaskId>) {
        let (_, tasks) = self.sets.entry(node.clone()).or_insert((before, BTreeSet::new()));
        tasks.extend(task);
    }
}
