//! What one record changed: which stored values must be written, which jobs must be looked at again, and
//! which nodes must hear of it.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::id::{Revision, TaskId};
use longshore_proto::name::{JobKey, NodeName, SpecName};

use super::record::CommandKey;
use super::state::Task;

/// The slots of a job whose tasks have changed. None of them: only the job as a whole has.
pub type Slots = BTreeSet<(SpecName, u32)>;

/// What one record changed.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Whether what stands once changed.
    pub meta: bool,
    /// Jobs to write, or to delete when they are gone.
    pub jobs: BTreeSet<JobKey>,
    /// Versions of jobs to write, or to delete when they are gone.
    pub versions: BTreeSet<(JobKey, u64)>,
    /// Tasks to write, or to delete when they are gone.
    pub tasks: BTreeSet<TaskId>,
    /// Nodes to write, or to delete when they are gone.
    pub nodes: BTreeSet<NodeName>,
    /// Commands to write, or to delete when they are gone.
    pub commands: BTreeSet<CommandKey>,
    /// Jobs whose wanted and actual tasks must be compared again, and which of their slots.
    pub reconcile: BTreeMap<JobKey, Slots>,
    /// Whether capacity became free, so that what waits may fit now.
    pub freed: bool,
    /// Nodes whose set of assignments changed: the revision before, and the tasks to tell of.
    pub sets: BTreeMap<NodeName, (Revision, BTreeSet<TaskId>)>,
}

impl Changes {
    pub(super) fn touch_job(&mut self, job: &JobKey) {
        self.jobs.insert(job.clone());
        self.reconcile.entry(job.clone()).or_default();
    }

    pub(super) fn touch_task(&mut self, id: TaskId, task: &Task) {
        self.tasks.insert(id);
        touch_slot(&mut self.reconcile, task);
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

/// A task's slot is to be looked at again.
pub(super) fn touch_slot(reconcile: &mut BTreeMap<JobKey, Slots>, task: &Task) {
    let slot = (task.spec.clone(), task.slot);
    match reconcile.get_mut(&task.job) {
        Some(slots) => {
            slots.insert(slot);
        }
        None => drop(reconcile.insert(task.job.clone(), Slots::from([slot]))),
    }
}
