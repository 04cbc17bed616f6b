//! Drains: what a node runs moves elsewhere, and only when its worker says that nothing of ours is left there is the
//! node drained.
//!
//! A service's task gets a *successor* in its slot, which waits for a node like any other task and is placed by the
//! same functions in the same order; the task ends when the successor is up (see [`super::slot`]). A task that must end
//! before it starts elsewhere ends only while there is a place for it, which is kept until it has. Tasks of batch jobs
//! may finish, and those of jobs that wait for their nodes stay, until the deadline, if there is one: then everything
//! ends and is placed anew.
//!
//! What is begun is in the log, so that a drain goes on under another leader; only its deadline is counted anew.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use longshore_proto::api::{DRAIN_WAITS_MAX, DrainWait};
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, NodeName, SpecName};
use longshore_proto::plan::TaskRef;
use longshore_proto::spec::{ExchangeOrder, JobSpec, JobType, MigratePolicy, OnNodeLoss};
use longshore_proto::state::{NodeStatus, TaskState};
use longshore_scheduler::{Policy, Reason};

use super::command::stop_one;
use super::draft::Draft;
use super::place::{self, Blocked, Group};
use super::record::Fact;
use super::room::Kept;
use super::state::{Drain, Node, SlotTasks, State, Task};
use super::{Live, Settings};
use crate::time::Time;

/// How many tasks are looked at in one pass; the next one goes on where this one ended.
const LOOKED_AT_MAX: usize = 10_000;
/// For how many tasks that are ending places are kept; each is a search through the nodes.
const KEPT_MAX: usize = 1_000;
/// How long after a successor that came to nothing the next follows where its spec does not say, in milliseconds.
const RETRY_MS: u64 = 5_000;

/// What the leader knows of drains that is not in the log.
#[derive(Debug, Default)]
pub(super) struct Drains {
    /// When each was first seen in this reign, with the time of its record, which tells it from another of that node.
    since: BTreeMap<NodeName, (u64, Time)>,
    /// The last successor of a task that came to nothing, and when the next may follow.
    retry_at: BTreeMap<TaskId, (TaskId, Time)>,
    /// What was told last of why parts have no place elsewhere.
    told: BTreeMap<(NodeName, JobKey, SpecName), Blocked>,
    /// Where the next pass begins.
    next: Option<NodeName>,
}

impl Drains {
    /// How much is left until the deadline, in milliseconds; `None` where there is none, or another manager counts.
    pub(super) fn left_ms(&self, name: &NodeName, drain: &Drain, now: Time) -> Option<u64> {
        let (started_at_ms, since) = self.since.get(name)?;
        let deadline_ms = drain.deadline_ms.filter(|_| *started_at_ms == drain.started_at_ms)?;
        Some(deadline_ms.saturating_sub(now - *since))
    }
}

/// One look at everything that is draining.
#[derive(Default)]
struct Pass {
    looked_at: usize,
    /// How many of a part are on the move.
    moving: BTreeMap<(JobKey, SpecName), u32>,
    /// Parts that must end before they start elsewhere, and have no place there.
    blocked: BTreeMap<(JobKey, SpecName), (String, Vec<Reason>)>,
    /// Places of those that end before they start elsewhere: no two count on the same one.
    kept: Kept,
}

/// Notes which drains go on, and says which deadlines have come.
pub(super) fn look(draft: &mut Draft<'_>, live: &mut Live) {
    let draining = |node: &Node| node.drain.as_ref().is_some_and(|drain| !drain.is_done);
    let nodes = draft.state.nodes.iter().filter(|(_, node)| draining(node));
    let names: Vec<NodeName> = nodes.map(|(name, _)| name.clone()).collect();
    forget(live, draft.state, &names);
    for name in &names {
        due(draft, live, name);
    }
}

/// Moves on with every drain.
pub(super) fn tick(draft: &mut Draft<'_>, live: &mut Live, settings: &Settings) {
    let mut names: Vec<NodeName> = live.drains.since.keys().cloned().collect();
    if names.is_empty() {
        return;
    }
    if let Some(next) = live.drains.next.take() {
        let at = names.partition_point(|name| *name < next);
        names.rotate_left(at);
    }
    let mut pass = Pass::default();
    for group in coming(draft.state, live) {
        pass.kept.keep_any(draft, live, settings, &group);
    }
    for name in names {
        if pass.looked_at >= LOOKED_AT_MAX || draft.is_full() {
            live.drains.next = Some(name);
            break;
        }
        node(draft, live, settings, &name, &mut pass);
    }
    pass.kept.give_back(&mut draft.state.fleet);
}

/// What is ending because its node is drained, and is to start elsewhere only then, the most important first. Until it
/// has ended nothing waits in its place, and nothing less important may take the one that it ends for. Looked up anew each
/// time, so that a new leader knows the same.
pub(super) fn coming(state: &State, live: &Live) -> Vec<Arc<Group>> {
    let nodes = live.drains.since.keys().filter_map(|name| state.nodes.get(name));
    let tasks = nodes.filter(|node| node.drain.is_some()).flat_map(|node| &node.tasks);
    let mut coming: Vec<_> = tasks.filter_map(|id| coming_as(state, *id)).collect();
    coming.sort_by_key(|group| Reverse(group.job.priority));
    coming.truncate(KEPT_MAX);
    coming
}

/// Who waits for a node in the place of a task that had to end first because its node is drained, with the version of its
/// job, the most important first. They come before all else that is no more important: the place was theirs.
pub(super) fn followers(state: &State) -> Vec<(TaskId, Arc<Group>, u64)> {
    let mut followers = Vec::new();
    let mut is_any_drained = None;
    for ((_, _, key, spec, version), tasks) in &state.waiting {
        let job = state.jobs.get(key).and_then(|job| job.versions.get(version));
        let Some(job) = job.filter(|job| policy(job, spec).order == ExchangeOrder::StopFirst)
        else {
            continue;
        };
        // Where no node is nobody has made way, and those that wait may be very many.
        let look = || state.nodes.values().any(|node| node.drain.is_some());
        if !*is_any_drained.get_or_insert_with(look) {
            break;
        }
        let mut ids = tasks.iter().filter(|id| has_made_way(state, **id)).peekable();
        if ids.peek().is_some()
            && let Some(group) = Group::of((key.clone(), spec.clone()), Arc::clone(job))
        {
            let group = Arc::new(group);
            followers.extend(ids.map(|id| (*id, Arc::clone(&group), *version)));
        }
        if followers.len() >= KEPT_MAX {
            break;
        }
    }
    followers
}

/// Whether a task is in the place of one that was told to end on a node that is drained.
fn has_made_way(state: &State, id: TaskId) -> bool {
    let Some(task) = state.tasks.get(&id) else { return false };
    let slot = state.slot(&task.job, &task.spec, task.slot);
    let before = slot.iter().rfind(|other| **other != id);
    let before = before.and_then(|before| state.tasks.get(before)).filter(|task| task.is_to_stop());
    let node = before.and_then(|before| state.nodes.get(before.node.as_ref()?));
    node.is_some_and(|node| node.drain.is_some())
}

/// As what a task starts elsewhere once it has ended, if it does, and not before.
fn coming_as(state: &State, id: TaskId) -> Option<Arc<Group>> {
    let task = state.tasks.get(&id)?;
    if task.state.is_terminal() || !task.is_to_stop() {
        return None;
    }
    let job = state.jobs.get(&task.job).filter(|job| !job.stop_requested)?.spec()?;
    let goes_on = task.slot < job.spec(&task.spec)?.instances;
    let ends_first = policy(job, &task.spec).order == ExchangeOrder::StopFirst;
    let slot = state.slot(&task.job, &task.spec, task.slot);
    let has_other = slot.iter().any(|id| state.tasks.get(id).is_some_and(Task::is_wanted));
    if job.job_type != JobType::Service || !goes_on || !ends_first || has_other {
        return None;
    }
    Group::of((task.job.clone(), task.spec.clone()), Arc::clone(job)).map(Arc::new)
}

/// Forgets what was known of drains that are over.
fn forget(live: &mut Live, state: &State, names: &[NodeName]) {
    let drains = &mut live.drains;
    let goes_on = |name: &NodeName| names.binary_search(name).is_ok();
    drains.since.retain(|name, _| goes_on(name));
    drains.told.retain(|(name, ..), _| goes_on(name));
    drains.retry_at.retain(|id, _| state.tasks.get(id).is_some_and(Task::is_wanted));
}

/// Says that a deadline has come.
fn due(draft: &mut Draft<'_>, live: &mut Live, name: &NodeName) {
    let Some(drain) = draft.state.nodes.get(name).and_then(|node| node.drain.as_ref()) else {
        return;
    };
    let now = draft.now.time;
    let since = live.drains.since.entry(name.clone()).or_insert((drain.started_at_ms, now));
    if since.0 != drain.started_at_ms {
        *since = (drain.started_at_ms, now);
    }
    let is_due = drain.deadline_ms.is_some_and(|deadline_ms| now - since.1 >= deadline_ms);
    if is_due && !drain.is_overdue {
        draft.record(Fact::NodeDrainOverdue { name: name.clone() });
    }
}

/// Moves on with one node.
fn node(
    draft: &mut Draft<'_>,
    live: &mut Live,
    settings: &Settings,
    name: &NodeName,
    pass: &mut Pass,
) {
    let Some(node) = draft.state.nodes.get(name) else { return };
    let is_overdue = node.drain.as_ref().is_some_and(|drain| drain.is_overdue);
    if node.tasks.is_empty() {
        // That no task is left in the books is not enough: its worker must have seen the last container end.
        let is_empty = match node.status {
            NodeStatus::Ready => live.nodes.get(name).is_some_and(|heard| heard.is_empty),
            NodeStatus::Left => true,
            NodeStatus::Suspect | NodeStatus::Lost => false,
        };
        if is_empty {
            draft.record(Fact::NodeDrained { name: name.clone() });
        }
        return;
    }
    for id in node.tasks.iter().copied().collect::<Vec<_>>() {
        if draft.is_full() {
            return;
        }
        pass.looked_at += 1;
        match Standing::of(draft.state, id) {
            None | Some(Standing::Ending) => {}
            Some(_) if is_overdue => {
                stop_one(
                    draft,
                    id,
                    format!("its node {name} is drained, and the deadline has come"),
                );
            }
            Some(Standing::Idle) => stop_one(draft, id, format!("its node {name} is drained")),
            Some(Standing::JobWaits | Standing::MayFinish | Standing::Moving(_)) => {}
            Some(Standing::StartFirst) => start_first(draft, live, id, pass),
            Some(Standing::StopFirst) => stop_first(draft, live, settings, name, id, pass),
        }
    }
}

/// How a task stands to the drain of its node.
enum Standing {
    /// It was told to end.
    Ending,
    /// Its job waits for its nodes.
    JobWaits,
    /// It is a batch task that runs, and would lose what it has done.
    MayFinish,
    /// It does no work yet, so that nothing is lost by ending it.
    Idle,
    /// Another task of its slot is to take its place, or it takes another's: this one is waited for.
    Moving(TaskId),
    /// It is to end once its successor is up.
    StartFirst,
    /// It is to end before it starts elsewhere.
    StopFirst,
}

impl Standing {
    /// `None` for a task that has ended.
    fn of(state: &State, id: TaskId) -> Option<Self> {
        let task = state.tasks.get(&id).filter(|task| !task.state.is_terminal())?;
        if task.is_to_stop() {
            return Some(Self::Ending);
        }
        let job = state.jobs.get(&task.job)?.spec()?;
        let wanted =
            |other: &&TaskId| **other != id && state.tasks.get(other).is_some_and(Task::is_wanted);
        let other = state.slot(&task.job, &task.spec, task.slot).iter().find(wanted);
        if let Some(other) = other {
            // A successor that is not up is of no use here, and its predecessor goes on.
            let is_idle_successor = task.replaces == Some(*other) && !task.is_up();
            return Some(if is_idle_successor { Self::Idle } else { Self::Moving(*other) });
        }
        Some(if job.on_node_loss == OnNodeLoss::Wait {
            Self::JobWaits
        } else if matches!(task.state, TaskState::Assigned | TaskState::Preparing) {
            Self::Idle
        } else if job.job_type == JobType::Batch {
            Self::MayFinish
        } else if policy(job, &task.spec).order == ExchangeOrder::StopFirst {
            Self::StopFirst
        } else {
            Self::StartFirst
        })
    }
}

/// How the tasks of a part move: those of a fenced job never start before they have ended.
pub(super) fn policy(job: &JobSpec, spec: &SpecName) -> MigratePolicy {
    let policy = job.spec(spec).and_then(|spec| spec.migrate);
    let policy = policy.unwrap_or_else(MigratePolicy::usual);
    let order = if job.fence { ExchangeOrder::StopFirst } else { policy.order };
    MigratePolicy { order, ..policy }
}

/// How many of a part are on the move: have a successor that is not up yet, or, where they end first, live and are not
/// up. A slot whose task has ended stands still: it is not wanted any more, failed for good, or waits for another try.
fn moving(state: &State, key: &JobKey, spec: &SpecName, order: ExchangeOrder) -> u32 {
    let slots = state.jobs.get(key).and_then(|job| job.slots.get(spec));
    let task = |id: &TaskId| state.tasks.get(id);
    let moves = |ids: &&SlotTasks| match order {
        ExchangeOrder::StartFirst => {
            ids.len() > 1 && ids.iter().filter_map(task).filter(|task| task.is_wanted()).count() > 1
        }
        ExchangeOrder::StopFirst => {
            let current = state.current(ids).and_then(|id| state.tasks.get(&id));
            current
                .is_some_and(|task| !(task.state.is_terminal() || task.is_wanted() && task.is_up()))
        }
    };
    let count = slots.into_iter().flat_map(BTreeMap::values).filter(moves).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Whether one more of a part may move now. If so, it counts.
fn takes_turn(state: &State, task: &Task, pass: &mut Pass) -> bool {
    let Some(job) = state.jobs.get(&task.job).and_then(|job| job.spec()) else {
        return false;
    };
    let policy = policy(job, &task.spec);
    let count = pass
        .moving
        .entry((task.job.clone(), task.spec.clone()))
        .or_insert_with(|| moving(state, &task.job, &task.spec, policy.order));
    let may = *count < policy.parallel;
    *count += u32::from(may);
    may
}

/// Wants a successor, unless the last one has just come to nothing.
fn start_first(draft: &mut Draft<'_>, live: &mut Live, id: TaskId, pass: &mut Pass) {
    let state = &*draft.state;
    let Some(task) = state.tasks.get(&id) else { return };
    let Some(job) = state.jobs.get(&task.job) else { return };
    let mut failures = 0;
    if let Some((last, before)) = last_successor(state, task, id)
        && matches!(before.state, TaskState::Failed | TaskState::Completed)
    {
        let reschedule = state.task_spec(before).and_then(|spec| spec.reschedule.as_ref());
        let delay_ms = reschedule.map_or(RETRY_MS, |policy| {
            let factor = 1u64.checked_shl(before.failures).unwrap_or(u64::MAX);
            policy.delay_ms.saturating_mul(factor).min(policy.delay_ms_max)
        });
        let now = draft.now.time;
        let retry = live.drains.retry_at.entry(id).or_insert((last, now + delay_ms));
        if retry.0 != last {
            *retry = (last, now + delay_ms);
        }
        if now < retry.1 {
            return;
        }
        failures = before.failures.saturating_add(1);
    }
    if !takes_turn(state, task, pass) {
        return;
    }
    let (version, slot) = (job.version, task.slot);
    let (job, spec) = (task.job.clone(), task.spec.clone());
    let successor = draft.minter.task_id();
    let replaces = Some(id);
    draft.record(Fact::TaskCreated {
        task: successor,
        job,
        spec,
        slot,
        version,
        replaces,
        failures,
    });
    live.place = true;
}

/// The last successor of a task.
fn last_successor<'a>(state: &'a State, task: &Task, id: TaskId) -> Option<(TaskId, &'a Task)> {
    let slot = state.slot(&task.job, &task.spec, task.slot).iter().rev();
    let known = slot.filter_map(|other| Some((*other, state.tasks.get(other)?)));
    known.into_iter().find(|(_, other)| other.replaces == Some(id))
}

/// Ends a task, if there is a place for it elsewhere.
fn stop_first(
    draft: &mut Draft<'_>,
    live: &mut Live,
    settings: &Settings,
    node: &NodeName,
    id: TaskId,
    pass: &mut Pass,
) {
    let Some(task) = draft.state.tasks.get(&id) else { return };
    let part = (task.job.clone(), task.spec.clone());
    if !pass.blocked.contains_key(&part) {
        let job = draft.state.jobs.get(&part.0).and_then(|job| job.spec().cloned());
        let group = job.and_then(|job| Group::of(part.clone(), job));
        let Some(group) = group.map(Arc::new) else { return };
        let state = &*draft.state;
        let kind = group.job.scheduler.unwrap_or(settings.scheduler);
        let policy = Policy::new(kind, state.meta.round_robin_last.as_ref());
        match live.scheduler.place(&state.fleet, &group.demand(), policy) {
            Ok(placement) => {
                let Some(task) = state.tasks.get(&id) else { return };
                // What is not up serves nobody, and need not wait.
                if !task.is_up() || takes_turn(state, task, pass) {
                    stop_one(draft, id, format!("its node {node} is drained"));
                    pass.kept.keep(&mut draft.state.fleet, &placement.node, &group);
                }
                return;
            }
            Err(mut unplaceable) => {
                unplaceable.look_closer(&state.fleet, &group.demand());
                let found = (unplaceable.to_string(), place::reasons(&unplaceable));
                pass.blocked.insert(part.clone(), found);
            }
        }
    }
    let Some((reason, reasons)) = pass.blocked.get(&part) else { return };
    let key = (node.clone(), part.0.clone(), part.1.clone());
    let now = draft.now.time;
    if place::is_news(live.drains.told.get(&key), reasons, now) {
        let reasons = reasons.clone();
        live.drains.told.insert(key, Blocked { at: now, reasons });
        let drain = draft.state.nodes.get(node).and_then(|node| node.drain.as_ref());
        let is_known = drain.is_some_and(|drain| {
            drain
                .blocked
                .iter()
                .any(|(job, spec, text)| (job, spec) == (&part.0, &part.1) && text == reason)
        });
        if !is_known {
            let (job, spec) = part;
            let (name, reason) = (node.clone(), reason.clone());
            draft.record(Fact::NodeDrainBlocked { name, job, spec, reason });
        }
    }
}

/// Why tasks are still on a node that is draining.
pub(super) fn waits(state: &State, node: &Node) -> Vec<DrainWait> {
    let Some(drain) = node.drain.as_ref().filter(|drain| !drain.is_done) else { return Vec::new() };
    let wait = |id: &TaskId| {
        let task = state.tasks.get(id)?;
        let reason = why_here(state, drain, *id, task)?;
        let (namespace, job) = (task.job.namespace.clone(), task.job.name.clone());
        let task_ref = TaskRef { id: Some(*id), namespace, job, spec: task.spec.clone() };
        Some(DrainWait { task: task_ref, slot: task.slot, reason })
    };
    node.tasks.iter().filter_map(wait).take(DRAIN_WAITS_MAX).collect()
}

fn why_here(state: &State, drain: &Drain, id: TaskId, task: &Task) -> Option<String> {
    let until = match drain.deadline_ms {
        Some(_) => "it is ended at the deadline",
        None => "without a deadline nothing ends it",
    };
    let job = state.jobs.get(&task.job)?.spec()?;
    let policy = policy(job, &task.spec);
    let turn = || {
        let (parallel, name) = (policy.parallel, format!("{}.{}", task.job.name, task.spec));
        format!("its turn has not come: {parallel} of {name} may move at once (`migrate.parallel`)")
    };
    Some(match Standing::of(state, id)? {
        Standing::Ending => {
            format!("it is ending: {}", task.stop().unwrap_or("it was told to"))
        }
        Standing::Idle => "it does not run yet, and is about to end".to_owned(),
        Standing::JobWaits => {
            format!("its job waits for its nodes (`on_node_loss = \"wait\"`); {until}")
        }
        Standing::MayFinish => format!("a batch task may finish; {until}"),
        Standing::Moving(other) => {
            let other_task = state.tasks.get(&other)?;
            let blocked = || {
                let reason = state.jobs.get(&task.job)?.blocked.get(&task.spec)?;
                Some(format!("its successor waits for a node: {reason}"))
            };
            match (&other_task.node, other_task.state) {
                (None, _) => {
                    blocked().unwrap_or_else(|| "its successor waits for a node".to_owned())
                }
                (Some(at), TaskState::Running) if !other_task.is_up() => {
                    format!("its successor runs on {at}, and is not healthy yet")
                }
                (Some(at), reached) => format!("its successor on {at} is {reached}"),
            }
        }
        Standing::StartFirst => match last_successor(state, task, id) {
            Some((_, last)) if last.state == TaskState::Failed => {
                let why = last.reason().unwrap_or("it gave no reason");
                format!("its last successor failed ({why}); another follows")
            }
            _ => turn(),
        },
        Standing::StopFirst => {
            let of_part =
                |(of, spec, _): &&(JobKey, SpecName, String)| (of, spec) == (&task.job, &task.spec);
            match drain.blocked.iter().find(of_part) {
                Some((.., reason))
                    if moving(state, &task.job, &task.spec, policy.order) < policy.parallel =>
                {
                    format!(
                        "it must end here before it starts elsewhere, and has no place there: {reason}"
                    )
                }
                _ => turn(),
            }
        }
    })
}
