//! Wanted against actual tasks, per job: what is missing is created, what is too much is stopped, what is gone
//! is replaced, what is outdated is exchanged a few at a time, and the job's status follows.

use std::collections::BTreeSet;
use std::sync::Arc;

use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, SpecName};
use longshore_proto::spec::{ExchangeOrder, JobSpec, JobType, OnNodeLoss, TaskSpec};
use longshore_proto::state::{Eligibility, JobStatus, NodeStatus, TaskState};

use super::Live;
use super::changes::touch_slot;
use super::command::stop_one;
use super::draft::Draft;
use super::meaning::{self, Part, Reached, Slot, Vacancy};
use super::record::Fact;
use super::rollout::{self, Watch};
use super::state::{State, Task};

/// A job that ended so long ago is forgotten, in milliseconds of the leader's clock.
const JOB_MEMORY_MS: u64 = 24 * 3_600_000;

/// What a job's parts add up to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) wanted: u32,
    pub(super) live: u32,
    pub(super) running: u32,
    /// How many of the live ones are yet to be exchanged.
    pub(super) outdated: u32,
    pub(super) completed: u32,
    pub(super) failed: u32,
    pub(super) waiting: u32,
    /// Whether parts are being rolled out.
    is_rolled_out: bool,
    /// Whether the version has failed, and the job has another one now.
    is_rolled_back: bool,
}

/// How far a record had room for what a job needs, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// Nothing is left to do.
    Done,
    /// What was there is seen to; tasks are left to be created.
    Creating,
    /// Something else is left to do.
    Full,
}

/// Brings one job closer to what is wanted, after a look at those of its slots that have changed.
pub(super) fn job(
    draft: &mut Draft<'_>,
    live: &mut Live,
    key: &JobKey,
    changed: &BTreeSet<(SpecName, u32)>,
) -> Outcome {
    let Some(job) = draft.state.jobs.get(key) else {
        live.meanings.remove(key);
        live.rollouts.remove(key);
        return Outcome::Done;
    };
    let Some(spec) = job.spec().map(Arc::clone) else { return Outcome::Done };
    let stop = job.stop_requested;
    let present: BTreeSet<SpecName> =
        job.slots.keys().cloned().chain(spec.specs.iter().map(|spec| spec.name.clone())).collect();
    let mut meanings = live.meanings.remove(key).unwrap_or_default();
    let mut tally = Tally::default();
    let mut outcome = Outcome::Done;
    let mut due = None;
    for name in present {
        let slots = meaning::of_part(&mut meanings, &name);
        let numbers = changed.range((name.clone(), 0)..=(name.clone(), u32::MAX));
        let numbers = numbers.map(|(_, number)| *number).collect();
        let part = part(draft, live, (key, &spec, &name), numbers, stop, slots, &mut tally);
        // What is left of one part is not made good by the next.
        outcome = outcome.max(part);
        if tally.is_rolled_back {
            break;
        }
        let policy = meaning::update(&spec, spec.spec(&name));
        due = due.into_iter().chain(slots.watch.due(&policy, draft.now.time)).min();
    }
    live.meanings.insert(key.clone(), meanings);
    match due.filter(|_| !tally.is_rolled_back) {
        Some(due) => drop(live.rollouts.insert(key.clone(), due)),
        None => drop(live.rollouts.remove(key)),
    }
    if outcome == Outcome::Done && !tally.is_rolled_back {
        status(draft, key, spec.job_type, stop, &tally);
    }
    outcome
}

/// One part of a job.
fn part(
    draft: &mut Draft<'_>,
    live: &mut Live,
    (key, job, name): (&JobKey, &JobSpec, &SpecName),
    changed: Vec<u32>,
    stop: bool,
    slots: &mut Part,
    tally: &mut Tally,
) -> Outcome {
    let wanted_spec = job.spec(name);
    let wanted = if stop { 0 } else { wanted_spec.map_or(0, |spec| spec.instances) };
    let Some(stored) = draft.state.jobs.get(key) else { return Outcome::Done };
    let is_known = slots.is_of(stored);
    let numbers: Vec<u32> = match stored.slots.get(name) {
        Some(all) if !is_known => all.keys().copied().collect(),
        _ => changed,
    };
    if !is_known {
        slots.begin(draft, stored, (key, job, name));
    }
    slots.watch.look(draft, stored, (key, job, name), &numbers);
    let fits = lose(draft, key, job, name, &numbers)
        && exchange(draft, key, name, &numbers, &slots.watch)
        && call_off(draft, (key, job, name), &numbers);
    if !fits {
        return Outcome::Full;
    }
    slots.look(draft, live, (key, job, name), &numbers);
    let policy = meaning::update(job, wanted_spec);
    slots.watch.note(slots.well(), slots.is_whole(wanted), draft.now.time);
    // Whoever does not hear the nodes does not hear either that something comes up.
    let heard_from = live.bus_lost_at.map(|_| draft.now.time).or(live.bus_back_at);
    heard_from.into_iter().for_each(|from| slots.watch.heard_from(from));
    if let Some(stored) = draft.state.jobs.get(key).filter(|_| !stop)
        && let Some(why) = slots.watch.failure(draft, stored, (key, job, name), &numbers, &policy)
        && let Some(back) = rollout::way_back(stored)
    {
        if draft.is_full() {
            return Outcome::Full;
        }
        rollout::roll_back(draft, key, back, why);
        tally.is_rolled_back = true;
        return Outcome::Done;
    }

    // Too many: the highest slots go first.
    let mut candidate = (slots.filled() > wanted).then(|| slots.last_kept(u32::MAX)).flatten();
    while slots.filled() > wanted {
        let Some(number) = candidate else { break };
        if draft.is_full() {
            return Outcome::Full;
        }
        let reason = if stop { "its job is stopping" } else { "fewer instances are wanted" };
        stop_slot(draft, key, name, number, reason, slots);
        candidate = slots.last_kept(number);
    }

    // Outdated: what does not run yet at once, what runs only while few enough are under way.
    let mut next = slots.next_outdated(0);
    while let Some((number, running)) = next {
        let has_turn =
            slots.filled() <= wanted && slots.under_way(wanted, job.job_type) < policy.parallel;
        if !running || has_turn {
            if draft.is_full() {
                return Outcome::Full;
            }
            if running && policy.order == ExchangeOrder::StartFirst {
                start_successor(draft, live, (key, job, name), number, slots);
                next = number.checked_add(1).and_then(|from| slots.next_outdated(from));
                continue;
            }
            let reason = why_exchanged(draft.state, key, name, number, wanted_spec);
            stop_slot(draft, key, name, number, reason, slots);
        } else if !slots.has_outdated_idle() {
            break;
        }
        next = number.checked_add(1).and_then(|from| slots.next_outdated(from));
    }

    // Too few: the lowest free slots are filled first. What is still ending is waited for, so that there are
    // never more than wanted and a replacement gets its predecessor's slot and ports.
    let version = draft.state.jobs.get(key).map_or(0, |job| job.version);
    let mut missing = wanted.saturating_sub(slots.filled()).saturating_sub(slots.stopping());
    while missing > 0 {
        if draft.is_full() {
            return Outcome::Creating;
        }
        let (number, Vacancy { replaces, failures }) = slots.first_free();
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
        slots.set(number, Some(Slot::Kept { current: true, reached: Reached::Idle }));
        missing -= 1;
    }

    tally.wanted += wanted;
    tally.is_rolled_out |= slots.watch.is_under_way();
    slots.add_to(tally);
    Outcome::Done
}

/// Tasks on nodes that are gone are lost, unless the job waits for its nodes. False when the record is full.
fn lose(
    draft: &mut Draft<'_>,
    key: &JobKey,
    job: &JobSpec,
    name: &SpecName,
    numbers: &[u32],
) -> bool {
    for number in numbers {
        for id in draft.state.slot(key, name, *number).to_vec() {
            let Some(task) = draft.state.tasks.get(&id) else { continue };
            let Some(node) = &task.node else { continue };
            let known = draft.state.nodes.get(node).filter(|_| !task.state.is_terminal());
            let Some(known) = known else { continue };
            let status = known.status;
            // Silence is no proof that a task has ended, however long it lasts.
            let gone = matches!(status, NodeStatus::Lost | NodeStatus::Left)
                && (!job.fence || known.has_stopped());
            // A task that is to end anyway is not waited for.
            if gone && (job.on_node_loss == OnNodeLoss::Replace || task.is_to_stop()) {
                if draft.is_full() {
                    return false;
                }
                let reason = format!("its node {node} is {}", status.as_str());
                draft.record(Fact::TaskLost { task: id, reason });
            }
        }
    }
    true
}

/// Tasks whose successor runs, and has done so for long enough, may end. False when the record is full.
fn exchange(
    draft: &mut Draft<'_>,
    key: &JobKey,
    name: &SpecName,
    numbers: &[u32],
    watch: &Watch,
) -> bool {
    let slots = numbers.iter().map(|number| draft.state.slot(key, name, *number));
    let exchanged = slots.filter(|ids| ids.len() > 1).flat_map(|ids| draft.state.superseded(ids));
    let exchanged = exchanged.filter(|(_, successor)| !watch.is_settling(*successor));
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

/// Starts what is wanted now beside a task that runs what was wanted before, which ends once it is up.
fn start_successor(
    draft: &mut Draft<'_>,
    live: &mut Live,
    (key, job, name): (&JobKey, &JobSpec, &SpecName),
    number: u32,
    slots: &mut Part,
) {
    let state = &*draft.state;
    let Some(stored) = state.jobs.get(key) else { return };
    let Some(id) = state.current(state.slot(key, name, number)) else { return };
    let of = (&**stored, job, job.spec(name));
    let failures = meaning::failed_successor(state, id, of)
        .map_or(0, |(_, last)| last.failures.saturating_add(1));
    let version = stored.version;
    let task = draft.minter.task_id();
    let (job, spec) = (key.clone(), name.clone());
    draft.record(Fact::TaskCreated {
        task,
        job,
        spec,
        slot: number,
        version,
        replaces: Some(id),
        failures,
    });
    live.backoff.remove(&id);
    live.place = true;
    slots.set(number, Some(Slot::Exchanging));
}

/// A successor that is not up ends when it is not what is wanted any more, and one that has no node yet when its
/// predecessor is, and may stay where it is after all. False when the record is full.
fn call_off(
    draft: &mut Draft<'_>,
    (key, job, name): (&JobKey, &JobSpec, &SpecName),
    numbers: &[u32],
) -> bool {
    let state = &*draft.state;
    let Some(stored) = state.jobs.get(key) else { return true };
    let is_wanted = |task: &Task| meaning::is_wanted(state, stored, task, (job, job.spec(name)));
    let may_stay = |id: TaskId| {
        let task = state.tasks.get(&id).filter(|task| task.is_wanted() && is_wanted(task));
        let node = task.and_then(|task| state.nodes.get(task.node.as_ref()?));
        node.is_some_and(|node| node.eligibility != Eligibility::Draining)
    };
    let reason = |id: &TaskId| {
        let task = state.tasks.get(id).filter(|task| task.is_wanted() && !task.is_up())?;
        let before = task.replaces?;
        if !is_wanted(task) && state.tasks.get(&before).is_some_and(Task::is_wanted) {
            Some("its spec has changed")
        } else {
            let is_idle = task.state == TaskState::Pending && may_stay(before);
            is_idle.then_some("its predecessor stays where it is")
        }
    };
    let slots = numbers.iter().map(|number| state.slot(key, name, *number));
    let paired = slots.filter(|ids| ids.len() > 1).flatten();
    for (id, reason) in paired.filter_map(|id| Some((*id, reason(id)?))).collect::<Vec<_>>() {
        if draft.is_full() {
            return false;
        }
        stop_one(draft, id, reason.to_owned());
    }
    true
}

/// Whether two versions of a spec make the same container. How many there are and where they may run is no
/// part of it: a change of that is for tasks to come.
pub(super) fn same_container(one: &TaskSpec, other: &TaskSpec) -> bool {
    // Every field is named, so that a later one is not forgotten.
    let TaskSpec {
        name,
        instances: _,
        image,
        pull,
        entrypoint,
        command,
        env,
        resources,
        ports,
        restart,
        reschedule: _,
        migrate: _,
        update: _,
        stop_grace_ms,
        constraints: _,
        affinities: _,
        spread: _,
        anti_affinity: _,
        distinct_hosts: _,
        all_at_once: _,
        mounts,
        container,
        health,
        restarts,
    } = one;
    *name == other.name
        && *image == other.image
        && *pull == other.pull
        && *entrypoint == other.entrypoint
        && *command == other.command
        && *env == other.env
        && *resources == other.resources
        && *ports == other.ports
        && *restart == other.restart
        && *stop_grace_ms == other.stop_grace_ms
        && *mounts == other.mounts
        && *container == other.container
        && *health == other.health
        && *restarts == other.restarts
}

/// Why the task of a slot makes way for another.
fn why_exchanged(
    state: &State,
    key: &JobKey,
    name: &SpecName,
    number: u32,
    wanted: Option<&TaskSpec>,
) -> &'static str {
    let task = state.current(state.slot(key, name, number)).and_then(|id| state.tasks.get(&id));
    let has = task.and_then(|task| state.task_spec(task));
    let is_restart = has.zip(wanted).is_some_and(|(has, wanted)| {
        let again = || TaskSpec { restarts: wanted.restarts, ..has.clone() };
        has.restarts != wanted.restarts && same_container(&again(), wanted)
    });
    if is_restart { "its job is restarted" } else { "its spec has changed" }
}

fn stop_slot(
    draft: &mut Draft<'_>,
    key: &JobKey,
    name: &SpecName,
    number: u32,
    reason: &str,
    slots: &mut Part,
) {
    let ids = draft.state.slot(key, name, number).to_vec();
    for id in &ids {
        stop_one(draft, *id, reason.to_owned());
    }
    let tasks = &draft.state.tasks;
    let ended = ids.iter().all(|id| tasks.get(id).is_none_or(|task| task.state.is_terminal()));
    let meaning = if ended { Slot::Vacant(Vacancy::default()) } else { Slot::Stopping };
    slots.set(number, Some(meaning));
}

/// How the job stands as a whole.
fn status(draft: &mut Draft<'_>, key: &JobKey, job_type: JobType, stop: bool, tally: &Tally) {
    let Some(present) = draft.state.jobs.get(key).map(|job| job.status) else { return };
    let status = if stop {
        if tally.live == 0 { JobStatus::Stopped } else { JobStatus::Stopping }
    } else {
        match job_type {
            // What still runs as it was does not make a change done, nor what has just come up.
            JobType::Service
                if tally.running >= tally.wanted && tally.outdated == 0 && !tally.is_rolled_out =>
            {
                JobStatus::Running
            }
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
            JobType::Batch
                if tally.running + tally.completed >= tally.wanted && tally.outdated == 0 =>
            {
                JobStatus::Running
            }
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
    for task in due.filter_map(|(id, _)| state.tasks.get(id)) {
        touch_slot(&mut live.reconcile, task);
    }
    let due: Vec<JobKey> =
        live.rollouts.iter().filter(|(_, at)| **at <= now).map(|(job, _)| job.clone()).collect();
    for job in due {
        live.rollouts.remove(&job);
        let parts = live.meanings.get(&job).into_iter().flatten();
        let slots =
            parts.flat_map(|(_, part)| part.watch.due_slots(state, now)).collect::<Vec<_>>();
        live.reconcile.entry(job).or_default().extend(slots);
    }
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
        // Should it come again, it begins at its first version, and nothing of before may be taken for it.
        live.meanings.remove(&job);
        draft.record(Fact::JobForgotten { job });
    }
}
