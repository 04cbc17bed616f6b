//! What the slots of a part of a job mean for its count, kept up to date from record to record.
//!
//! A part may have a hundred thousand slots, and a record changes some hundreds of them: only those are looked at
//! again, and the sums over all are kept. Whatever may change a meaning marks its slot: a fact about one of its
//! tasks, the loss of a node, the end of a wait. A new version of the job, or a new reign, begins with a look at
//! all of them. Builds with debug assertions compare each look with one at everything.

use std::collections::BTreeMap;

use longshore_proto::id::TaskId;
use longshore_proto::name::SpecName;
use longshore_proto::spec::{
    ExchangeOrder, JobSpec, JobType, ReschedulePolicy, TaskSpec, UpdatePolicy,
};
use longshore_proto::state::TaskState;

use super::Live;
use super::draft::Draft;
use super::reconcile::{Tally, same_container};
use super::rollout::{PartOf, Watch};
use super::state::{Job, State, Task};

/// A task that ran so long before it failed is no part of a row of failures, in milliseconds.
const STEADY_MS: u64 = 600_000;

/// What the present task of a slot means for the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// It counts, and may be stopped when there are too many.
    Kept {
        /// Whether it runs what is wanted now.
        current: bool,
        /// How far it has come.
        reached: Reached,
    },
    /// It runs, but not what is wanted now, and goes on until a successor is up: one is on its way, or has come to
    /// nothing and no other follows yet.
    Exchanging,
    /// It is ending, and its place is taken until it has.
    Stopping,
    /// It has completed, and that is what was wanted.
    Completed,
    /// It has failed, and nothing follows.
    Failed,
    /// It has ended, and its replacement waits until its time comes.
    Waiting,
    /// It is gone, and may be replaced.
    Vacant(Vacancy),
}

/// How far a task that is kept has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// It does not run yet.
    Idle,
    /// It runs, and has not been found healthy, though that is asked for.
    Running,
    /// It is up, and has not been so for as long as a roll-out asks for.
    Settling,
    /// It does its work.
    Up,
}

impl Reached {
    fn of(id: TaskId, task: &Task, watch: &Watch) -> Self {
        match task.state {
            _ if task.is_up() && watch.is_settling(id) => Self::Settling,
            _ if task.is_up() => Self::Up,
            TaskState::Running => Self::Running,
            _ => Self::Idle,
        }
    }

    fn is_running(self) -> bool {
        self != Self::Idle
    }
}

/// What is known of a place that may be filled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Vacancy {
    /// The task that the next one replaces.
    pub(super) replaces: Option<TaskId>,
    /// How many tasks in a row failed.
    pub(super) failures: u32,
}

/// A [`Slot`] in little room, for there are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kept { current: bool, reached: Reached },
    Exchanging,
    Stopping,
    Completed,
    Failed,
    Waiting,
    Vacant,
}

/// The slots of a part of a job.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// The job's version and run that they were looked at for.
    seen: Option<(u64, u64)>,
    /// How far they are exchanged.
    pub(super) watch: Watch,
    kinds: BTreeMap<u32, Kind>,
    vacant: BTreeMap<u32, Vacancy>,
    /// Those that are kept and do not run what is wanted now, and whether they run.
    outdated: BTreeMap<u32, bool>,
    /// How many of those do not run.
    outdated_idle: u32,
    /// How many are kept and run what is wanted now, or will.
    current: u32,
    /// How many of those run, and how many of them are up.
    current_running: u32,
    current_up: u32,
    exchanging: u32,
    stopping: u32,
    completed: u32,
    failed: u32,
    waiting: u32,
}

/// What the slots of a part of a job were found to mean. Most jobs have one part, so there is room for no more than
/// there are.
pub(super) fn of_part<'a>(parts: &'a mut Vec<(SpecName, Part)>, name: &SpecName) -> &'a mut Part {
    let known = parts.iter().position(|(of, _)| of == name);
    let place = known.unwrap_or_else(|| {
        parts.reserve_exact(1);
        parts.push((name.clone(), Part::default()));
        parts.len() - 1
    });
    &mut parts[place].1
}

impl Part {
    /// Whether this was looked at for a job as it is now.
    pub(super) fn is_of(&self, job: &Job) -> bool {
        self.seen == Some((job.version, job.run_version))
    }

    /// Begins with a job that is another than before.
    pub(super) fn begin(&mut self, draft: &Draft<'_>, job: &Job, of: PartOf<'_>) {
        let (seen, watch) = (Some((job.version, job.run_version)), Watch::begin(draft, job, of));
        *self = Self { seen, watch, ..Self::default() };
    }

    /// Looks at some slots; if the job is another than before, these must be all.
    pub(super) fn look(
        &mut self,
        draft: &Draft<'_>,
        live: &mut Live,
        of: PartOf<'_>,
        numbers: &[u32],
    ) {
        let Some(job) = draft.state.jobs.get(of.0) else { return };
        for number in numbers {
            self.set(*number, meaning(draft, live, job, of, (*number, &self.watch)));
        }
        if cfg!(debug_assertions) {
            self.check(draft, live, job, of);
        }
    }

    /// Nothing that changes a meaning may have forgotten to mark its slot.
    fn check(&self, draft: &Draft<'_>, live: &mut Live, job: &Job, of: PartOf<'_>) {
        for number in job.slots.get(of.2).into_iter().flat_map(BTreeMap::keys) {
            let (known, found) = (
                self.kinds.get(number).copied(),
                meaning(draft, live, job, of, (*number, &self.watch)),
            );
            let found = found.map(Kind::from);
            // The end of a wait is noticed by the next look at the clock.
            let is_due = matches!(
                (known, found),
                (Some(Kind::Waiting), Some(Kind::Vacant))
                    | (Some(Kind::Exchanging), Some(Kind::Kept { current: false, .. }))
            );
            assert!(
                known == found || is_due,
                "slot {number} of {:?}: {known:?}, not {found:?}",
                of.2
            );
        }
    }

    /// How many are well: up, and of a batch job completed.
    pub(super) fn well(&self) -> u32 {
        self.current_up + self.completed
    }

    /// Whether all that are wanted are well, and nothing else is there.
    pub(super) fn is_whole(&self, wanted: u32) -> bool {
        self.well() == wanted && self.filled() + self.stopping == wanted
    }

    /// How many count towards what is wanted.
    pub(super) fn filled(&self) -> u32 {
        self.kept() + self.completed + self.failed + self.waiting
    }

    /// How many are ending.
    pub(super) fn stopping(&self) -> u32 {
        self.stopping
    }

    fn kept(&self) -> u32 {
        self.current + self.outdated_count() + self.exchanging
    }

    fn outdated_count(&self) -> u32 {
        u32::try_from(self.outdated.len()).unwrap_or(u32::MAX)
    }

    /// How many are under way: ending, on their way up or not well, missing, or, of a service, given up.
    pub(super) fn under_way(&self, wanted: u32, job_type: JobType) -> u32 {
        let given_up = match job_type {
            JobType::Service => self.waiting + self.failed,
            JobType::Batch => 0,
        };
        let missing = wanted.saturating_sub(self.filled() + self.stopping);
        self.stopping + (self.current - self.current_up) + self.exchanging + given_up + missing
    }

    /// Whether something that is outdated does not run.
    pub(super) fn has_outdated_idle(&self) -> bool {
        self.outdated_idle > 0
    }

    /// The first from a number on that is outdated, and whether it runs.
    pub(super) fn next_outdated(&self, from: u32) -> Option<(u32, bool)> {
        self.outdated.range(from..).next().map(|(number, running)| (*number, *running))
    }

    /// The last before a number that is kept.
    pub(super) fn last_kept(&self, before: u32) -> Option<u32> {
        let mut kinds = self.kinds.range(..before).rev();
        let is_kept = |kind: &Kind| matches!(kind, Kind::Kept { .. } | Kind::Exchanging);
        kinds.find(|(_, kind)| is_kept(kind)).map(|(number, _)| *number)
    }

    /// The first place that may be filled.
    pub(super) fn first_free(&self) -> (u32, Vacancy) {
        let count = u32::try_from(self.kinds.len()).unwrap_or(u32::MAX);
        let is_dense = self.kinds.last_key_value().is_none_or(|(last, _)| *last + 1 == count);
        let unused = if is_dense {
            count
        } else {
            let numbers = (0..).zip(self.kinds.keys());
            numbers.take_while(|(place, number)| place == *number).count() as u32
        };
        match self.vacant.first_key_value() {
            Some((vacant, vacancy)) if *vacant < unused => (*vacant, *vacancy),
            _ => (unused, Vacancy::default()),
        }
    }

    /// Notes what a slot means.
    pub(super) fn set(&mut self, number: u32, slot: Option<Slot>) {
        let before = match slot {
            Some(slot) => self.kinds.insert(number, slot.into()),
            None => self.kinds.remove(&number),
        };
        if let Some(before) = before {
            self.uncount(number, before);
        }
        match slot {
            None => {}
            Some(Slot::Kept { current: true, reached }) => {
                self.current += 1;
                self.current_running += u32::from(reached.is_running());
                self.current_up += u32::from(reached == Reached::Up);
            }
            Some(Slot::Kept { current: false, reached }) => {
                self.outdated.insert(number, reached.is_running());
                self.outdated_idle += u32::from(!reached.is_running());
            }
            Some(Slot::Exchanging) => self.exchanging += 1,
            Some(Slot::Stopping) => self.stopping += 1,
            Some(Slot::Completed) => self.completed += 1,
            Some(Slot::Failed) => self.failed += 1,
            Some(Slot::Waiting) => self.waiting += 1,
            Some(Slot::Vacant(vacancy)) => drop(self.vacant.insert(number, vacancy)),
        }
    }

    fn uncount(&mut self, number: u32, before: Kind) {
        match before {
            Kind::Kept { current: true, reached } => {
                self.current -= 1;
                self.current_running -= u32::from(reached.is_running());
                self.current_up -= u32::from(reached == Reached::Up);
            }
            Kind::Kept { current: false, reached } => {
                self.outdated.remove(&number);
                self.outdated_idle -= u32::from(!reached.is_running());
            }
            Kind::Exchanging => self.exchanging -= 1,
            Kind::Stopping => self.stopping -= 1,
            Kind::Completed => self.completed -= 1,
            Kind::Failed => self.failed -= 1,
            Kind::Waiting => self.waiting -= 1,
            Kind::Vacant => drop(self.vacant.remove(&number)),
        }
    }

    /// Adds what there is to a job's tally.
    pub(super) fn add_to(&self, tally: &mut Tally) {
        let outdated_running = self.outdated_count() - self.outdated_idle;
        tally.live += self.kept() + self.stopping;
        tally.running += self.current_running + outdated_running + self.exchanging;
        tally.outdated += self.outdated_count() + self.exchanging;
        tally.completed += self.completed;
        tally.failed += self.failed;
        tally.waiting += self.waiting;
    }
}

impl From<Slot> for Kind {
    fn from(slot: Slot) -> Self {
        match slot {
            Slot::Kept { current, reached } => Self::Kept { current, reached },
            Slot::Exchanging => Self::Exchanging,
            Slot::Stopping => Self::Stopping,
            Slot::Completed => Self::Completed,
            Slot::Failed => Self::Failed,
            Slot::Waiting => Self::Waiting,
            Slot::Vacant(_) => Self::Vacant,
        }
    }
}

/// What a slot means; nothing when it has no task.
fn meaning(
    draft: &Draft<'_>,
    live: &mut Live,
    stored: &Job,
    (_, job, name): PartOf<'_>,
    (number, watch): (u32, &Watch),
) -> Option<Slot> {
    let state = &*draft.state;
    let ids = stored.slots.get(name)?.get(&number)?;
    let wanted = job.spec(name);
    let id = state.current(ids)?;
    let task = state.tasks.get(&id)?;
    let is_wanted = is_wanted(state, stored, task, (job, wanted));
    Some(match task.state {
        _ if !task.state.is_terminal() && task.is_to_stop() => Slot::Stopping,
        TaskState::Pending
        | TaskState::Assigned
        | TaskState::Preparing
        | TaskState::Running
        | TaskState::Stopping
            if !is_wanted && is_exchanging(draft, live, id, (stored, job, wanted)) =>
        {
            Slot::Exchanging
        }
        TaskState::Pending
        | TaskState::Assigned
        | TaskState::Preparing
        | TaskState::Running
        | TaskState::Stopping => {
            Slot::Kept { current: is_wanted, reached: Reached::of(id, task, watch) }
        }
        TaskState::Completed if job.job_type == JobType::Batch && is_wanted => Slot::Completed,
        // That it had to go is not its fault, however it went.
        _ if task.displaced_by().is_some() => {
            Slot::Vacant(Vacancy { replaces: Some(id), failures: task.failures })
        }
        TaskState::Completed | TaskState::Failed if is_wanted => {
            let policy = wanted.and_then(|wanted| wanted.reschedule.as_ref());
            follow(draft, live, id, task, policy)
        }
        TaskState::Lost => Slot::Vacant(Vacancy { replaces: Some(id), failures: task.failures }),
        TaskState::Stopped | TaskState::Completed | TaskState::Failed => {
            Slot::Vacant(Vacancy::default())
        }
    })
}

/// Whether a task is of what is wanted now.
pub(super) fn is_wanted(
    state: &State,
    stored: &Job,
    task: &Task,
    (job, wanted): (&JobSpec, Option<&TaskSpec>),
) -> bool {
    let Some(wanted) = wanted else { return false };
    let is_same = state.task_spec(task).is_some_and(|has| same_container(has, wanted));
    // A container that was started without a fencing token never gets one.
    let has_token = state.task_job_spec(task).is_some_and(|has| has.fence == job.fence);
    // What waits has nothing to lose: it is what is wanted now, or makes room for that. And what waits to be placed all
    // at once must be of one version, or it would never be whole.
    let is_placed = task.state != TaskState::Pending
        || task.version == stored.version
        || !wanted.all_at_once && is_placed_alike(state, task, (job, wanted));
    is_same && has_token && is_placed && task.version >= stored.run_version
}

/// How the tasks of a part are exchanged: those of a batch job and of a fenced one never start before the ones before them
/// have ended.
pub(super) fn update(job: &JobSpec, wanted: Option<&TaskSpec>) -> UpdatePolicy {
    let policy = wanted.and_then(|spec| spec.update).unwrap_or_else(UpdatePolicy::usual);
    let is_batch = job.job_type == JobType::Batch;
    UpdatePolicy {
        order: if job.fence || is_batch { ExchangeOrder::StopFirst } else { policy.order },
        ..policy
    }
}

/// Whether a task that runs, and is not what is wanted, has a successor under way, or waits until another one follows
/// those that came to nothing.
fn is_exchanging(
    draft: &Draft<'_>,
    live: &mut Live,
    id: TaskId,
    (stored, job, wanted): (&Job, &JobSpec, Option<&TaskSpec>),
) -> bool {
    let state = &*draft.state;
    let Some(task) = state.tasks.get(&id).filter(|task| task.state == TaskState::Running) else {
        return false;
    };
    if wanted.is_none() || update(job, wanted).order == ExchangeOrder::StopFirst {
        return false;
    }
    let others = state.slot(&task.job, &task.spec, task.slot).iter().filter(|other| **other != id);
    if others.filter_map(|other| state.tasks.get(other)).any(Task::is_wanted) {
        return true;
    }
    let Some((_, last)) = failed_successor(state, id, (stored, job, wanted)) else { return false };
    let policy = wanted.and_then(|wanted| wanted.reschedule.as_ref());
    let Some((delay_ms, _)) = next_try(last, policy) else { return true };
    let due = *live.backoff.entry(id).or_insert_with(|| draft.now.time + delay_ms);
    draft.now.time < due
}

/// The last successor of a task, if it was of what is wanted now and has come to nothing.
pub(super) fn failed_successor<'a>(
    state: &'a State,
    id: TaskId,
    (stored, job, wanted): (&Job, &JobSpec, Option<&TaskSpec>),
) -> Option<(TaskId, &'a Task)> {
    let task = state.tasks.get(&id)?;
    let slot = state.slot(&task.job, &task.spec, task.slot).iter().rev();
    let mut others = slot.filter_map(|other| Some((*other, state.tasks.get(other)?)));
    let last = others.find(|(_, other)| other.replaces == Some(id));
    last.filter(|(_, last)| {
        matches!(last.state, TaskState::Failed | TaskState::Completed)
            && is_wanted(state, stored, last, (job, wanted))
    })
}

/// Whether a task is placed as one of what is wanted would be, how many of them there may be.
fn is_placed_alike(state: &State, task: &Task, (job, wanted): (&JobSpec, &TaskSpec)) -> bool {
    let (Some(has_job), Some(has)) = (state.task_job_spec(task), state.task_spec(task)) else {
        return false;
    };
    #[rustfmt::skip]
    let JobSpec {
        namespace: _, name: _, job_type: _, on_node_loss: _, fence: _, specs: _,
        datacenters, priority, scheduler,
    } = job;
    let of_one = |spec: &TaskSpec| TaskSpec { instances: 0, ..spec.clone() };
    (datacenters, priority, scheduler)
        == (&has_job.datacenters, &has_job.priority, &has_job.scheduler)
        && (has == wanted || of_one(has) == of_one(wanted))
}

/// What follows a task that its worker has given up.
fn follow(
    draft: &Draft<'_>,
    live: &mut Live,
    id: TaskId,
    task: &Task,
    policy: Option<&ReschedulePolicy>,
) -> Slot {
    let Some((delay_ms, before)) = next_try(task, policy) else { return Slot::Failed };
    let due = *live.backoff.entry(id).or_insert_with(|| draft.now.time + delay_ms);
    if draft.now.time < due {
        Slot::Waiting
    } else {
        Slot::Vacant(Vacancy { replaces: Some(id), failures: before.saturating_add(1) })
    }
}

/// How long after the end of a task that its worker has given up another one follows, in milliseconds, and how many before
/// that one came to nothing in a row; `None` if none follows.
pub(super) fn next_try(task: &Task, policy: Option<&ReschedulePolicy>) -> Option<(u64, u32)> {
    let policy = policy?;
    let ran_ms = match (task.started_at_ms, task.finished_at_ms()) {
        (Some(started), Some(finished)) => finished.saturating_sub(started),
        _ => 0,
    };
    let before = if ran_ms >= STEADY_MS { 0 } else { task.failures };
    if policy.attempts.is_some_and(|attempts| before >= attempts) {
        return None;
    }
    let doubled = policy.delay_ms.saturating_mul(1u64.checked_shl(before).unwrap_or(u64::MAX));
    Some((doubled.min(policy.delay_ms_max), before))
}
