//! How a roll-out goes: whether the new tasks have been up for long enough, when a version has failed, and the way back
//! from there.
//!
//! How long tasks are up each leader finds out by its own clock, which begins anew with each reign. What is known for
//! certain stands in the job: the last version that was reached. The way back needs no fact of its own: it is another
//! version of the job, which the leader stores by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use longshore_proto::api::{JobSubmitted, RolledBack};
use longshore_proto::codec;
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, SpecName};
use longshore_proto::permission::Role;
use longshore_proto::quantity::format_duration;
use longshore_proto::spec::{JobSpec, JobType, OnFailure, TaskSpec, UpdatePolicy};
use longshore_proto::state::TaskState;

use super::changes::Slots;
use super::draft::Draft;
use super::meaning;
use super::reconcile::same_container;
use super::record::{Audit, CommandAnswer, CommandKey, Fact, Hash};
use super::state::{Job, State, Task};
use crate::time::Time;

/// How much of a task's own reason is told, in characters: a container may say anything.
const REASON_LENGTH_MAX: usize = 300;

/// A part of a job, and how it is wanted now.
pub(super) type PartOf<'a> = (&'a JobKey, &'a JobSpec, &'a SpecName);

/// What is known of the roll-out of one part.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Whether there is one.
    is_under_way: bool,
    /// Of the tasks that are wanted now those that are not up, or not for long enough: which attempt that is about, and
    /// once they are up, when it is for long enough.
    settling: BTreeMap<TaskId, (u64, Option<Time>)>,
    /// The most tasks that were well so far.
    well_most: u32,
    /// When there were that many for the first time.
    progressed_at: Time,
}

impl Watch {
    /// Looks for the first time at a part of a version, in this reign.
    pub(super) fn begin(draft: &Draft<'_>, stored: &Job, of: PartOf<'_>) -> Self {
        let mut watch = Self { progressed_at: draft.now.time, ..Self::default() };
        watch.is_under_way = is_under_way(draft.state, stored, of);
        let (_, job, name) = of;
        let (policy, at_ms) = (meaning::update(job, job.spec(name)), draft.at_ms());
        let fresh = |task: &Task| {
            let since = task.started_at_ms.map(|started| at_ms.saturating_sub(started));
            task.is_up() && since.is_none_or(|since_ms| since_ms < policy.healthy_for_ms)
        };
        for id in stored.slots.get(name).into_iter().flat_map(BTreeMap::values).flatten() {
            let task = draft.state.tasks.get(id).filter(|task| watch.is_under_way && fresh(task));
            if let Some(task) = task.filter(|task| is_new(draft.state, stored, task, of)) {
                watch.settling.insert(*id, (task.attempt, None));
            }
        }
        watch
    }

    /// Whether the part is rolled out.
    pub(super) fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// Looks at slots whose tasks have changed, or have been up for long enough by now.
    pub(super) fn look(
        &mut self,
        draft: &Draft<'_>,
        stored: &Job,
        of: PartOf<'_>,
        numbers: &[u32],
    ) {
        if !self.is_under_way {
            return;
        }
        let (key, job, name) = of;
        let (state, now) = (&*draft.state, draft.now.time);
        let healthy_for_ms = meaning::update(job, job.spec(name)).healthy_for_ms;
        for id in numbers.iter().flat_map(|number| state.slot(key, name, *number)) {
            let Some(task) = state.tasks.get(id).filter(|task| is_new(state, stored, task, of))
            else {
                self.settling.remove(id);
                continue;
            };
            let well_at = match (task.is_up(), self.settling.get(id)) {
                (false, _) => None,
                (true, None) => continue,
                (true, Some((attempt, Some(at)))) if *attempt == task.attempt => Some(*at),
                (true, Some(_)) => Some(now + healthy_for_ms),
            };
            if well_at.is_some_and(|at| at <= now) {
                self.settling.remove(id);
            } else {
                self.settling.insert(*id, (task.attempt, well_at));
            }
        }
    }

    /// Whether a task that is up has not been so for long enough.
    pub(super) fn is_settling(&self, id: TaskId) -> bool {
        self.settling.contains_key(&id)
    }

    /// Notes how many are well now, and whether that is all.
    pub(super) fn note(&mut self, well: u32, is_whole: bool, now: Time) {
        if well > self.well_most {
            (self.well_most, self.progressed_at) = (well, now);
        }
        if is_whole {
            *self = Self::default();
        }
    }

    /// When to look again though nothing happens.
    pub(super) fn due(&self, policy: &UpdatePolicy, now: Time) -> Option<Time> {
        let settled = self.settling.values().filter_map(|(_, at)| *at);
        let goes_back = self.is_under_way && policy.on_failure == OnFailure::Rollback;
        let deadline = goes_back.then(|| self.progressed_at + policy.progress_deadline_ms);
        settled.chain(deadline.filter(|at| *at > now)).min()
    }

    /// Those of its slots that are to be looked at by now.
    pub(super) fn due_slots(&self, state: &State, now: Time) -> Slots {
        let due = self.settling.iter().filter(|(_, (_, at))| at.is_some_and(|at| at <= now));
        let tasks = due.filter_map(|(id, _)| state.tasks.get(id));
        tasks.map(|task| (task.spec.clone(), task.slot)).collect()
    }

    /// Why the version has failed, if it has: one of its tasks was given up, or no other one has come up for too long.
    pub(super) fn failure(
        &self,
        draft: &Draft<'_>,
        stored: &Job,
        of: PartOf<'_>,
        numbers: &[u32],
        policy: &UpdatePolicy,
    ) -> Option<String> {
        if !self.is_under_way || policy.on_failure != OnFailure::Rollback {
            return None;
        }
        let (key, _, name) = of;
        let (state, now) = (&*draft.state, draft.now.time);
        let ids = numbers.iter().flat_map(|number| state.slot(key, name, *number));
        let tasks = || ids.clone().filter_map(|id| Some((id, state.tasks.get(id)?)));
        if let Some((id, task)) = tasks().find(|(_, task)| is_given_up(state, stored, task, of)) {
            let reason = told_of(task);
            return Some(format!("task {id} of {name} has come to nothing{reason}"));
        }
        if now < self.progressed_at + policy.progress_deadline_ms {
            return None;
        }
        let deadline = format_duration(policy.progress_deadline_ms);
        let waits = self.settling.keys().find_map(|id| Some((id, state.tasks.get(id)?)));
        let waits =
            waits.map(|(id, task)| format!(": task {id} is {}{}", task.state, told_of(task)));
        Some(format!("no more of {name} has come up for {deadline}{}", waits.unwrap_or_default()))
    }

    /// The manager hears its nodes since then: that nothing came up before says nothing.
    pub(super) fn heard_from(&mut self, at: Time) {
        self.progressed_at = self.progressed_at.max(at);
    }
}

/// Whether tasks of a part are exchanged for those of another version, or a version is still to be reached.
fn is_under_way(state: &State, stored: &Job, (_, job, name): PartOf<'_>) -> bool {
    if job.job_type == JobType::Batch || stored.version == stored.run_version {
        return false;
    }
    if stored.reached.is_some_and(|reached| reached < stored.version) {
        return true;
    }
    let Some(wanted) = job.spec(name) else { return false };
    // Tasks are many, and their versions few.
    let mut differs: BTreeMap<u64, bool> = BTreeMap::new();
    let ids = stored.slots.get(name).into_iter().flat_map(BTreeMap::values).flatten();
    let live = ids.filter_map(|id| state.tasks.get(id)).filter(|task| !task.state.is_terminal());
    live.into_iter().any(|task| {
        *differs.entry(task.version).or_insert_with(|| {
            let has = stored.versions.get(&task.version);
            has.is_none_or(|has| {
                has.fence != job.fence
                    || has.spec(name).is_none_or(|has| !same_container(has, wanted))
            })
        })
    })
}

/// Whether a task is one of what is wanted now, and to be.
fn is_new(state: &State, stored: &Job, task: &Task, (_, job, name): PartOf<'_>) -> bool {
    task.is_wanted() && meaning::is_wanted(state, stored, task, (job, job.spec(name)))
}

/// Whether a task of the version, or of one that differs in the count alone, was given up by its node. What had to go, or
/// was told to, has not failed.
fn is_given_up(state: &State, stored: &Job, task: &Task, (_, job, name): PartOf<'_>) -> bool {
    let has = || stored.versions.get(&task.version);
    matches!(task.state, TaskState::Failed | TaskState::Completed)
        && !task.is_to_stop()
        && stored.reached.is_some_and(|reached| task.version > reached)
        && meaning::is_wanted(state, stored, task, (job, job.spec(name)))
        && has().is_some_and(|has| is_same_but_for_counts(has, job))
}

/// What a task says of itself.
fn told_of(task: &Task) -> String {
    let reason = task.reason().map(|reason| {
        let cut: String = reason.chars().take(REASON_LENGTH_MAX).collect();
        format!(": {cut}")
    });
    reason.unwrap_or_default()
}

/// Whether two versions of a job differ at most in how many instances they want.
fn is_same_but_for_counts(one: &JobSpec, other: &JobSpec) -> bool {
    let without_counts = |job: &JobSpec| {
        let specs = job.specs.iter().map(|spec| TaskSpec { instances: 0, ..spec.clone() });
        JobSpec { specs: specs.collect(), ..job.clone() }
    };
    one == other || without_counts(one) == without_counts(other)
}

/// Whether any part of a job goes back when it fails.
pub(super) fn goes_back(job: &JobSpec) -> bool {
    let policies = job.specs.iter().filter_map(|spec| spec.update);
    job.job_type == JobType::Service
        && policies.into_iter().any(|policy| policy.on_failure == OnFailure::Rollback)
}

/// Whether all tasks of a job as it is wanted are up, and have been for long enough by the log's time.
pub(super) fn is_whole(state: &State, key: &JobKey, at_ms: u64) -> bool {
    let Some(stored) = state.jobs.get(key) else { return false };
    let Some(job) = stored.spec() else { return false };
    job.specs.iter().all(|spec| {
        let of = (key, &**job, &spec.name);
        let policy = meaning::update(job, Some(spec));
        let is_well = |task: &&Task| {
            let since = task.started_at_ms.map(|started| at_ms.saturating_sub(started));
            task.is_up()
                && since.is_some_and(|since_ms| since_ms >= policy.healthy_for_ms)
                && is_new(state, stored, task, of)
        };
        let slots = stored.slots.get(&spec.name).into_iter().flat_map(BTreeMap::values);
        let tasks = slots.filter_map(|ids| state.tasks.get(&state.current(ids)?));
        tasks.filter(is_well).count() >= spec.instances as usize
    })
}

/// The version to go back to, and what it says. Who has scaled the job since is heeded: the counts are those of now. There
/// is none where the version is that one again already: nobody goes back and forth between two that fail.
pub(super) fn way_back(stored: &Job) -> Option<(u64, JobSpec)> {
    let reached = stored.reached.filter(|reached| *reached < stored.version)?;
    let current = stored.spec()?;
    let mut back = JobSpec::clone(stored.versions.get(&reached)?).following(Some(current));
    let since: Vec<&Arc<JobSpec>> = stored.versions.range(reached..).map(|(_, job)| job).collect();
    for (before, after) in since.iter().zip(since.iter().skip(1)) {
        if !is_same_but_for_counts(before, after) {
            continue;
        }
        for part in &mut back.specs {
            let count = |job: &JobSpec| job.spec(&part.name).map(|spec| spec.instances);
            if let Some(instances) = count(after).filter(|now| Some(*now) != count(before)) {
                part.instances = instances;
            }
        }
    }
    (!is_same_but_for_counts(&back, current)).then_some((reached, back))
}

/// Goes back, as if somebody had asked for it.
pub(super) fn roll_back(
    draft: &mut Draft<'_>,
    key: &JobKey,
    (to, job): (u64, JobSpec),
    why: String,
) {
    let Some(failed) = draft.state.jobs.get(key).map(|stored| stored.version) else { return };
    let Some(user) = draft.state.meta.leader_name.clone() else { return };
    let version = failed + 1;
    let actor = format!("{}/{user} (version {failed} has failed)", Role::Manager);
    let back = RolledBack { failed, to, reason: why };
    let of = format!("{}/{}, {back}", key.namespace, key.name);
    let verb = "job.rollback".to_owned();
    let audit = Audit { actor: actor.clone(), verb, of, nodes: Vec::new() };
    let (job, rolled_back) = (Arc::new(job), Some(Box::new(back)));
    draft.record(Fact::JobSubmitted { version, job, actor, rolled_back });
    let id = draft.minter.command_id();
    let JobKey { namespace, name } = key.clone();
    draft.record(Fact::CommandGranted {
        key: CommandKey { role: Role::Manager, user, id },
        request: Hash::of(&codec::encode(&audit)),
        answer: CommandAnswer::Submitted(JobSubmitted { namespace, name, version }),
        audit: Some(audit),
    });
}
