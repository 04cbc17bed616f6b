//! What the tasks of one slot mean together.
//!
//! A slot stands for one instance. Usually one of its tasks lives; while an instance moves, two do: its
//! predecessor, which goes on until the successor is up, and the successor, which is made in the same slot and
//! names the one it replaces. So a start-first exchange needs no slot of its own, and when the successor comes
//! to nothing the predecessor has never ceased to be the slot's task.

use longshore_proto::health::Health;
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, SpecName};
use longshore_proto::state::TaskState;

use super::state::{State, Task, Tasks};

/// The tasks of one slot, in the order of their making. Most slots only ever have one, which needs no list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotTasks {
    /// One.
    One([TaskId; 1]),
    /// Several, or none.
    Several(Vec<TaskId>),
}

impl Default for SlotTasks {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl std::ops::Deref for SlotTasks {
    type Target = [TaskId];

    fn deref(&self) -> &[TaskId] {
        match self {
            Self::One(one) => one,
            Self::Several(several) => several,
        }
    }
}

impl<'a> IntoIterator for &'a SlotTasks {
    type Item = &'a TaskId;
    type IntoIter = std::slice::Iter<'a, TaskId>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl SlotTasks {
    /// Adds one that is newer than the others.
    pub(super) fn push(&mut self, id: TaskId) {
        match self {
            Self::Several(several) if several.is_empty() => *self = Self::One([id]),
            Self::Several(several) => several.push(id),
            Self::One([one]) => *self = Self::Several(vec![*one, id]),
        }
    }

    /// Adds one in its place by age, whichever is told of first.
    pub(super) fn insert<A: Ord>(&mut self, id: TaskId, age: impl Fn(&TaskId) -> A) {
        self.push(id);
        if let Self::Several(several) = self {
            several.sort_by_key(age);
        }
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, id: TaskId) {
        let rest: Vec<TaskId> = self.iter().copied().filter(|other| *other != id).collect();
        *self = match rest.as_slice() {
            [one] => Self::One([*one]),
            _ => Self::Several(rest),
        };
    }
}

/// The task that a slot stands for, of its tasks in the order of their making: the latest that is up, else the
/// latest that is to be, else the latest that is ending, else the one that ended last.
pub(super) fn current(tasks: &Tasks, ids: &[TaskId]) -> Option<TaskId> {
    if let [only] = ids {
        return tasks.contains_key(only).then_some(*only);
    }
    let rank = |(place, id): (usize, &TaskId)| {
        let task = tasks.get(id)?;
        let (class, ended_at_ms) = match task.state {
            _ if task.state.is_terminal() => (0, task.finished_at_ms()),
            _ if task.is_to_stop() => (1, None),
            _ if task.is_up() => (3, None),
            _ => (2, None),
        };
        Some(((class, ended_at_ms, place), *id))
    };
    ids.iter().enumerate().filter_map(rank).max().map(|(_, id)| id)
}

impl State {
    /// The task that a slot stands for: see [`current`].
    pub(super) fn current(&self, ids: &[TaskId]) -> Option<TaskId> {
        current(&self.tasks, ids)
    }

    /// The tasks of a slot whose successor is up, each with it: they have been exchanged and may end.
    pub(super) fn superseded(&self, ids: &[TaskId]) -> Vec<(TaskId, TaskId)> {
        let wanted = |id: &TaskId| self.tasks.get(id).is_some_and(Task::is_wanted);
        let Some(current) = self.current(ids).filter(wanted) else { return Vec::new() };
        if !self.tasks.get(&current).is_some_and(Task::is_up) {
            return Vec::new();
        }
        let before = ids.iter().copied().take_while(|id| *id != current);
        before.filter(wanted).map(|id| (id, current)).collect()
    }

    /// The tasks of one slot, in the order of their making.
    pub(super) fn slot(&self, job: &JobKey, spec: &SpecName, slot: u32) -> &[TaskId] {
        let slots = self.jobs.get(job).and_then(|job| job.slots.get(spec));
        slots.and_then(|slots| slots.get(&slot)).map_or(&[], |ids| ids)
    }

    /// Whether a task is the one that its slot stands for.
    pub(super) fn is_current(&self, id: TaskId) -> bool {
        let slot = |task: &Task| self.current(self.slot(&task.job, &task.spec, task.slot));
        self.tasks.get(&id).and_then(slot) == Some(id)
    }

    /// Why a task was put where it is, for people.
    pub(super) fn placement(&self, task: &Task) -> Option<String> {
        let Some(why) = task.why() else { return task.placement_text().map(str::to_owned) };
        let spec = self.task_spec(task);
        Some(why.sentence(|place| {
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            let constraint = spec.and_then(|spec| spec.constraints.get(place));
            constraint.map(ToString::to_string).unwrap_or_default()
        }))
    }
}

impl Task {
    /// Whether it runs and, where its health is asked for, is healthy.
    pub(super) fn is_up(&self) -> bool {
        self.state == TaskState::Running
            && self.health.is_none_or(|health| health.status == Health::Healthy)
    }

    /// Whether it lives and nobody told it to end.
    pub(super) fn is_wanted(&self) -> bool {
        !self.state.is_terminal() && !self.is_to_stop()
    }
}
