//! Wanted against actual tasks, per job: what is missing is created, what is too much is stopped, what is gone
//! is replaced, what is outdated is exchanged one at a time, and the job's status follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, SpecName};
use longshore_proto::spec::{JobSpec, JobType, OnNodeLoss, ReschedulePolicy, TaskSpec};
use longshore_proto::state::{Eligibility, JobStatus, NodeStatus, TaskState};

use super::Live;
use super::command::stop_one;
use super::draft::Draft;
use super::record::Fact;
use super::state::Task;

/// A job that ended so long ago is forgotten, in milliseconds of the leader's clock.
const JOB_MEMORY_MS: u64 = 24 * 3_600_000;
/// A task that ran so long before it failed is no part of a row of failures, in milliseconds.
const STEADY_MS: u64 = 600_000;

/// What the present task of a slot means for the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// It counts, and may be stopped when there are too many.
    Kept {
        /// Whether it runs what is wanted now.
        current: bool,
        /// Whether it runs.
        running: bool,
    },
    /// It is ending, and its place is taken until it has.
    Stopping,
    /// It has completed, and that is what was wanted.
    Completed,
    /// It has failed, and nothing follows.
    Failed,
    /// It has ended, and its replacement waits until its time comes.
    Waiting,
    /// It is gone, and may be replaced.
    Vacant {
        /// The one that the next task replaces.
        replaces: Option<TaskId>,
        /// How many tasks in a row failed.
        failures: u32,
    },
}

/// What a job's parts add up to.
#[derive(Debug, Default)]
struct Tally {
    wanted: u32,
    live: u32,
    running: u32,
    completed: u32,
    failed: u32,
    waiting: u32,
}

/// Brings one job closer to what is wanted. False when the record is full and something is left to do.
pub(super) fn job(draft: &mut Draft<'_>, live: &mut Live, key: &JobKey) -> bool {
    let Some(job) = draft.state.jobs.get(key) else { return true };
    let Some(spec) = job.spec().map(Arc::clone) else { return true };
    let stop = job.stop_requested;
    let present: BTreeSet<SpecName> =
        job.slots.keys().cloned().chain(spec.specs.iter().map(|spec| spec.name.clone())).collect();
    let mut tally = Tally::default();
    let mut fits = true;
    for name in present {
        fits &= part(draft, live, key, &spec, &name, stop, &mut tally);
    }
    if fits {
        status(draft, key, spec.job_type, stop, &tally);
    }
    fits
}

/// One part of a job.
fn part(
    draft: &mut Draft<'_>,
    live: &mut Live,
    key: &JobKey,
    job: &JobSpec,
    name: &SpecName,
    stop: bool,
    tally: &mut Tally,
) -> bool {
    let wanted_spec = job.spec(name);
    let wanted = if stop { 0 } else { wanted_spec.map_or(0, |spec| spec.instances) };
    lose(draft, key, job, name);
    if !exchange(draft, key, name) || !call_off(draft, key, name) {
        return false;
    }
    let mut slots = look(draft, live, key, job, name);

    let kept = |slots: &BTreeMap<u32, Slot>| {
        slots
            .iter()
            .filter(|(_, slot)| matches!(slot, Slot::Kept { .. }))
            .map(|(number, _)| *number)
            .collect::<Vec<_>>()
    };
    let filled = |slots: &BTreeMap<u32, Slot>| {
        let counts = |slot: &&Slot| !matches!(slot, Slot::Stopping | Slot::Vacant { .. });
        u32::try_from(slots.values().filter(counts).count()).unwrap_or(u32::MAX)
    };

    // Too many: the highest slots go first.
    let mut candidates = kept(&slots);
    while filled(&slots) > wanted {
        let Some(number) = candidates.pop() else { break };
        if draft.is_full() {
            return false;
        }
        let reason = if stop { "its job is stopping" } else { "fewer instances are wanted" };
        stop_slot(draft, key, name, number, reason, &mut slots);
    }

    // Outdated: what does not run yet at once, what runs one at a time, and only while nothing else moves.
    let outdated: Vec<(u32, bool)> = slots
        .iter()
        .filter_map(|(number, slot)| match slot {
            Slot::Kept { current: false, running } => Some((*number, *running)),
            _ => None,
        })
        .collect();
    for (number, running) in outdated {
        let settled = filled(&slots) == wanted
            && !slots.values().any(|slot| {
                matches!(slot, Slot::Stopping | Slot::Kept { current: true, running: false })
            });
        if !running || settled {
            if draft.is_full() {
                return false;
            }
            stop_slot(draft, key, name, number, "its spec has changed", &mut slots);
        }
    }

    // Too few: the lowest free slots are filled first. What is still ending is waited for, so that there are
    // never more than wanted and a replacement gets its predecessor's slot and ports.
    let version = draft.state.jobs.get(key).map_or(0, |job| job.version);
    let mut number = 0;
    let ending = slots.values().filter(|slot| matches!(slot, Slot::Stopping)).count();
    let mut missing = wanted
        .saturating_sub(filled(&slots))
        .saturating_sub(u32::try_from(ending).unwrap_or(u32::MAX));
    while missing > 0 {
        let (replaces, failures) = match slots.get(&number) {
            None => (None, 0),
            Some(Slot::Vacant { replaces, failures }) => (*replaces, *failures),
            Some(_) => {
                number += 1;
                continue;
            }
        };
        if draft.is_full() {
            return false;
        }
        let task = draft.minter.task_id();
        let (job, spec) = (key.clone(), name.clone());
        if let Some(replaced) = replaces {
            live.backoff.remove(&replaced);
        }
        draft.record(Fact::TaskCreated {
            task,
            job,
            spec,
            slot: number,
            version,
            replaces,
            failures,
        });
        live.place = true;
        slots.insert(number, Slot::Kept { current: true, running: false });
        missing -= 1;
        number += 1;
    }

    tally.wanted += wanted;
    for slot in slots.values() {
        match slot {
            Slot::Kept { running, .. } => {
                tally.live += 1;
                tally.running += u32::from(*running);
            }
            Slot::Stopping => tally.live += 1,
            Slot::Completed => tally.completed += 1,
            Slot::Failed => tally.failed += 1,
            Slot::Waiting => tally.waiting += 1,
            Slot::Vacant { .. } => {}
        }
    }
    true
}

/// Tasks on nodes that are gone are lost, unless the job waits for its nodes.
fn lose(draft: &mut Draft<'_>, key: &JobKey, job: &JobSpec, name: &SpecName) {
    for id in draft.state.living(key, name) {
        let Some(task) = draft.state.tasks.get(&id) else { continue };
        if draft.is_full() {
            return;
        }
        let Some(node) = &task.node else { continue };
        let Some(status) = draft.state.nodes.get(node).map(|node| node.status) else { continue };
        let gone = matches!(status, NodeStatus::Lost | NodeStatus::Left);
        // A task that is to end anyway is not waited for.
        if gone && (job.on_node_loss == OnNodeLoss::Replace || task.stop.is_some()) {
            let reason = format!("its node {node} is {}", status.as_str());
            draft.record(Fact::TaskLost { task: id, reason });
        }
    }
}

/// Tasks whose successor runs may end. False when the record is full.
fn exchange(draft: &mut Draft<'_>, key: &JobKey, name: &SpecName) -> bool {
    let slots = draft.state.jobs.get(key).and_then(|job| job.slots.get(name));
    let exchanged = slots
        .into_iter()
        .flat_map(BTreeMap::values)
        .filter(|ids| ids.len() > 1)
        .flat_map(|ids| draft.state.superseded(ids));
    for (id, successor) in exchanged.collect::<Vec<_>>() {
        if draft.is_full() {
            return false;
        }
        let node = draft.state.tasks.get(&successor).and_then(|task| task.node.clone());
        let on = node.map(|node| format!(" on {node}")).unwrap_or_default();
        stop_one(draft, id, format!("its successor{on} runs"));
    }
    true
}

/// A successor that has no node yet ends when its predecessor may stay where it is after all. False when the record is
/// full.
fn call_off(draft: &mut Draft<'_>, key: &JobKey, name: &SpecName) -> bool {
    let state = &*draft.state;
    let may_stay = |id: TaskId| {
        let task = state.tasks.get(&id).filter(|task| task.is_wanted());
        let node = task.and_then(|task| state.nodes.get(task.node.as_ref()?));
        node.is_some_and(|node| node.eligibility != Eligibility::Draining)
    };
    let is_idle = |id: &TaskId| {
        let task = state.tasks.get(id).filter(|task| task.state == TaskState::Pending);
        task.and_then(|task| task.replaces).is_some_and(may_stay)
    };
    let slots = state.jobs.get(key).and_then(|job| job.slots.get(name));
    let paired = slots.into_iter().flat_map(BTreeMap::values).filter(|ids| ids.len() > 1);
    for id in paired.flatten().copied().filter(is_idle).collect::<Vec<_>>() {
        if draft.is_full() {
            return false;
        }
        stop_one(draft, id, "its predecessor stays where it is".to_owned());
    }
    true
}

/// What the slots of a part mean.
fn look(
    draft: &Draft<'_>,
    live: &mut Live,
    key: &JobKey,
    job: &JobSpec,
    name: &SpecName,
) -> BTreeMap<u32, Slot> {
    let state = &*draft.state;
    let Some(stored) = state.jobs.get(key) else { return BTreeMap::new() };
    let Some(slots) = stored.slots.get(name) else { return BTreeMap::new() };
    let wanted = job.spec(name);
    let mut meanings = BTreeMap::new();
    for (number, ids) in slots {
        let current = state.current(ids);
        let Some((id, task)) = current.and_then(|id| Some((id, state.tasks.get(&id)?))) else {
            continue;
        };
        let current = wanted.is_some_and(|wanted| {
            state.task_spec(task).is_some_and(|has| same_container(has, wanted))
        });
        // What waits to be placed all at once must be of one version, or it would never be whole.
        let current = current
            && !(task.state == TaskState::Pending
                && task.version != stored.version
                && wanted.is_some_and(|wanted| wanted.all_at_once));
        let of_this_run = task.version >= stored.run_version;
        let meaning = match task.state {
            _ if !task.state.is_terminal() && task.stop.is_some() => Slot::Stopping,
            TaskState::Pending
            | TaskState::Assigned
            | TaskState::Preparing
            | TaskState::Running
            | TaskState::Stopping => Slot::Kept {
                current: current && of_this_run,
                running: task.state == TaskState::Running,
            },
            TaskState::Completed if job.job_type == JobType::Batch && current && of_this_run => {
                Slot::Completed
            }
            // That it had to go is not its fault, however it went.
            _ if task.displaced_by.is_some() => {
                Slot::Vacant { replaces: Some(id), failures: task.failures }
            }
            TaskState::Completed | TaskState::Failed if current && of_this_run => {
                let policy = wanted.and_then(|wanted| wanted.reschedule.as_ref());
                follow(draft, live, id, task, policy)
            }
            TaskState::Lost => Slot::Vacant { replaces: Some(id), failures: task.failures },
            TaskState::Stopped | TaskState::Completed | TaskState::Failed => {
                Slot::Vacant { replaces: None, failures: 0 }
            }
        };
        meanings.insert(*number, meaning);
    }
    meanings
}

/// What follows a task that its worker has given up.
fn follow(
    draft: &Draft<'_>,
    live: &mut Live,
    id: TaskId,
    task: &Task,
    policy: Option<&ReschedulePolicy>,
) -> Slot {
    let Some(policy) = policy else { return Slot::Failed };
    let ran_ms = match (task.started_at_ms, task.finished_at_ms) {
        (Some(started), Some(finished)) => finished.saturating_sub(started),
        _ => 0,
    };
    let before = if ran_ms >= STEADY_MS { 0 } else { task.failures };
    if policy.attempts.is_some_and(|attempts| before >= attempts) {
        return Slot::Failed;
    }
    let due = *live.backoff.entry(id).or_insert_with(|| {
        let doubled = policy.delay_ms.saturating_mul(1u64.checked_shl(before).unwrap_or(u64::MAX));
        draft.now.time + doubled.min(policy.delay_ms_max)
    });
    if draft.now.time < due {
        Slot::Waiting
    } else {
        Slot::Vacant { replaces: Some(id), failures: before.saturating_add(1) }
    }
}

/// Whether two versions of a spec make the same container. How many there are and where they may run is no
/// part of it: a change of that is for tasks to come.
pub(super) fn same_container(one: &TaskSpec, other: &TaskSpec) -> bool {
    // Specs are small, so a copy is cheaper than a comparison field by field that a later field would be
    // forgotten in.
    let of_container = |spec: &TaskSpec| TaskSpec {
        instances: 0,
        constraints: Vec::new(),
        affinities: Vec::new(),
        spread: Vec::new(),
        anti_affinity: None,
        distinct_hosts: false,
        all_at_once: false,
        reschedule: None,
        migrate: None,
        ..spec.clone()
    };
    one == other || of_container(one) == of_container(other)
}

fn stop_slot(
    draft: &mut Draft<'_>,
    key: &JobKey,
    name: &SpecName,
    number: u32,
    reason: &str,
    slots: &mut BTreeMap<u32, Slot>,
) {
    let ids = draft.state.slot(key, name, number).to_vec();
    for id in &ids {
        stop_one(draft, *id, reason.to_owned());
    }
    let tasks = &draft.state.tasks;
    let ended = ids.iter().all(|id| tasks.get(id).is_none_or(|task| task.state.is_terminal()));
    let meaning = if ended { Slot::Vacant { replaces: None, failures: 0 } } else { Slot::Stopping };
    slots.insert(number, meaning);
}

/// How the job stands as a whole.
fn status(draft: &mut Draft<'_>, key: &JobKey, job_type: JobType, stop: bool, tally: &Tally) {
    let Some(present) = draft.state.jobs.get(key).map(|job| job.status) else { return };
    let status = if stop {
        if tally.live == 0 { JobStatus::Stopped } else { JobStatus::Stopping }
    } else {
        match job_type {
            JobType::Service if tally.running >= tally.wanted => JobStatus::Running,
            JobType::Service if tally.failed > 0 && tally.live + tally.waiting == 0 => {
                JobStatus::Failed
            }
            JobType::Service if tally.running == 0 => JobStatus::Pending,
            // One task that restarts does not make a service that has come up pending again.
            JobType::Service => present,
            JobType::Batch
                if tally.live + tally.waiting == 0
                    && tally.completed + tally.failed >= tally.wanted =>
            {
                if tally.failed == 0 {
                    JobStatus::Completed
                } else {
                    JobStatus::Failed
                }
            }
            JobType::Batch if tally.running + tally.completed >= tally.wanted => JobStatus::Running,
            JobType::Batch if present == JobStatus::Running => JobStatus::Running,
            JobType::Batch => JobStatus::Pending,
        }
    };
    if status != present {
        draft.record(Fact::JobStatusChanged { job: key.clone(), status });
    }
}

/// What only time makes due: replacements whose wait is over, and jobs that ended long ago.
pub(super) fn tick(draft: &mut Draft<'_>, live: &mut Live) {
    let now = draft.now.time;
    let state = &*draft.state;
    live.backoff.retain(|id, _| state.is_current(*id));
    let due = live.backoff.iter().filter(|(_, at)| **at <= now);
    live.reconcile.extend(due.filter_map(|(id, _)| Some(state.tasks.get(id)?.job.clone())));
    let at_ms = draft.at_ms();
    let old = |job: &super::state::Job| {
        job.status.is_terminal() && job.changed_at_ms.saturating_add(JOB_MEMORY_MS) < at_ms
    };
    let forgotten: Vec<JobKey> = draft
        .state
        .jobs
        .iter()
        .filter(|(_, job)| old(job))
        .map(|(key, _)| key.clone())
        .take(100)
        .collect();
    for job in forgotten {
        draft.record(Fact::JobForgotten { job });
    }
}
