//! The tasks of a cluster by id: the one collection that may hold a million of anything.
//!
//! Each task has an allocation of its own, so that the tree holds ids and pointers only: its nodes are half empty
//! where ids rise, as they do, and a task in each empty place would take as much memory again.

use std::collections::BTreeMap;
use std::collections::btree_map::Iter;
use std::ops::RangeBounds;

use longshore_proto::id::TaskId;

use super::state::Task;

type Pair<'a> = (&'a TaskId, &'a Task);

/// Tasks by id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tasks(BTreeMap<TaskId, Box<Task>>);

impl Tasks {
    /// A task.
    pub fn get(&self, id: &TaskId) -> Option<&Task> {
        self.0.get(id).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: &TaskId) -> Option<&mut Task> {
        self.0.get_mut(id).map(Box::as_mut)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Task> {
        self.0.values_mut().map(Box::as_mut)
    }

    pub(super) fn insert(&mut self, id: TaskId, task: Task) {
        self.0.insert(id, Box::new(task));
    }

    pub(super) fn remove(&mut self, id: &TaskId) {
        self.0.remove(id);
    }

    /// Whether there is such a task.
    pub fn contains_key(&self, id: &TaskId) -> bool {
        self.0.contains_key(id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, by id.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&TaskId, &Task)> {
        self.into_iter()
    }

    /// The ids, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &TaskId> {
        self.0.keys()
    }

    /// The tasks, in the order of their ids.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Task> {
        self.0.values().map(Box::as_ref)
    }

    /// Those in a range of ids.
    pub fn range(
        &self,
        range: impl RangeBounds<TaskId>,
    ) -> impl DoubleEndedIterator<Item = (&TaskId, &Task)> {
        self.0.range(range).map(unboxed)
    }
}

impl FromIterator<(TaskId, Box<Task>)> for Tasks {
    fn from_iter<I: IntoIterator<Item = (TaskId, Box<Task>)>>(tasks: I) -> Self {
        // Built at once the tree has full nodes.
        Self(tasks.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a Tasks {
    type Item = Pair<'a>;
    type IntoIter =
        std::iter::Map<Iter<'a, TaskId, Box<Task>>, fn((&'a TaskId, &'a Box<Task>)) -> Pair<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(unboxed)
    }
}

impl std::ops::Index<&TaskId> for Tasks {
    type Output = Task;

    /// # Panics
    /// There is no such task.
    fn index(&self, id: &TaskId) -> &Task {
        &self.0[id]
    }
}

#[expect(clippy::borrowed_box, reason = "it is what the tree's iterators give")]
fn unboxed<'a>((id, task): (&'a TaskId, &'a Box<Task>)) -> Pair<'a> {
    (id, task)
}
