//! Waiting tasks to nodes: in the order of priority, then the largest first.
//!
//! E-PVM places best when large tasks come first, so what waits is drained in that order and not in the order
//! of arrival. Tasks of one spec and version are alike: when one does not fit, none of them does, and the rest
//! of the group is not tried. Tasks that belong together are placed in one record, all or none.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use longshore_proto::codec;
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, SpecName};
use longshore_proto::spec::{JobSpec, TaskSpec};
use longshore_proto::state::TaskState;
use longshore_scheduler::plan::gang::{self, Short};
use longshore_scheduler::{Demand, GroupId, Placement, Policy, Reason, Unplaceable};

use super::derived::waiting_key;
use super::draft::Draft;
use super::drain;
use super::record::Fact;
use super::room::{self, Kept};
use super::state::{SlotTasks, State, WaitingKey};
use super::{Live, Settings};
use crate::time::Time;

/// How often a reason is told anew of which only the figures have changed, in milliseconds: what waits is looked
/// at whenever something ends, and the log is not for counting along.
const RETELL_MS: u64 = 10_000;

/// Why something waits, as it was told last.
#[derive(Debug, Clone)]
pub(super) struct Blocked {
    pub(super) at: Time,
    pub(super) reasons: Vec<Reason>,
}

/// Tasks that can be placed alike.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: (JobKey, SpecName),
    pub(super) job: Arc<JobSpec>,
    /// The spec's place in the job.
    place: usize,
    kin: GroupId,
    image: GroupId,
}

impl Group {
    /// The tasks of a part of a version of a job.
    pub(super) fn of(name: (JobKey, SpecName), job: Arc<JobSpec>) -> Option<Self> {
        let place = job.specs.iter().position(|spec| spec.name == name.1)?;
        let kin = GroupId::of_spec(&name.0, &name.1);
        let image = GroupId::of_image(&job.specs[place].image);
        Some(Self { name, job, place, kin, image })
    }

    pub(super) fn spec(&self) -> &TaskSpec {
        &self.job.specs[self.place]
    }

    pub(super) fn demand(&self) -> Demand<'_> {
        Demand::of_spec(&self.job, self.spec(), Some(self.kin), Some(self.image))
    }
}

/// What became of a group.
enum Outcome {
    /// Nothing of it waits any more.
    Placed,
    /// So many wait, together or each for itself.
    Blocked { waiting: usize, reason: String, reasons: Vec<Reason> },
    /// The record has no room for what is left.
    Full,
}

/// Places what fits, and sees to it that room is made for what may displace others. False when something was left
/// untried: the record is full, or a job is to be looked at first.
pub(super) fn waiting(draft: &mut Draft<'_>, live: &mut Live, settings: &Settings) -> bool {
    let mut kept = Kept::default();
    let tried = groups(draft, live, settings, &mut kept);
    kept.give_back(&mut draft.state.fleet);
    let waits = &draft.state.waiting;
    if waits.is_empty() {
        live.blocked.clear();
    }
    if !live.wishes.is_empty() {
        let names: BTreeSet<(&JobKey, &SpecName)> =
            waits.keys().map(|(_, _, job, spec, _)| (job, spec)).collect();
        live.wishes.retain(|(job, spec), _| names.contains(&(job, spec)));
    }
    tried
}

/// What became of one part that waits.
enum Tried {
    /// All that could be done for it.
    Yes,
    /// Nothing: its job is to be looked at first.
    No,
    /// No more can be tried with this record.
    Stop,
}

fn groups(draft: &mut Draft<'_>, live: &mut Live, settings: &Settings, kept: &mut Kept) -> bool {
    let mut tried = true;
    let mut last: Option<WaitingKey> = None;
    let mut followers = drain::followers(draft.state).into_iter().peekable();
    let mut coming = drain::coming(draft.state, live).into_iter().peekable();
    loop {
        // One after the other, as they stand then: many may wait, and a record has room for a few.
        let after = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let next = draft.state.waiting.range::<WaitingKey, _>((after, Bound::Unbounded)).next();
        let Some(key) = next.map(|(key, _)| key.clone()) else { return tried };
        while let Some((task, group, version)) =
            followers.next_if(|(_, group, _)| group.job.priority >= key.0.0)
        {
            if draft.is_full() {
                return false;
            }
            if group.spec().all_at_once && !takes_a_place(draft.state, task) {
                continue;
            }
            if is_looked_at(draft.state, live, &group, version) {
                let mut once = Some((task, 1));
                // Where it does not fit it has its turn with its part, and is told why.
                let _ = singly(draft, live, settings, &group, |_| once.take());
            } else {
                kept.keep_any(draft, live, settings, &group);
            }
        }
        while let Some(next) = coming.next_if(|next| next.job.priority >= key.0.0) {
            kept.keep_any(draft, live, settings, &next);
        }
        match group(draft, live, settings, kept, &key) {
            Tried::Yes => {}
            Tried::No => tried = false,
            Tried::Stop => return false,
        }
        last = Some(key);
    }
}

fn group(
    draft: &mut Draft<'_>,
    live: &mut Live,
    settings: &Settings,
    kept: &mut Kept,
    key: &WaitingKey,
) -> Tried {
    let (_, _, job_key, spec_name, version) = key;
    let job = draft.state.jobs.get(job_key).and_then(|job| job.versions.get(version));
    let Some(job) = job.map(Arc::clone) else { return Tried::Yes };
    let name = (job_key.clone(), spec_name.clone());
    let Some(group) = Group::of(name, job).map(Arc::new) else { return Tried::Yes };
    if !is_looked_at(draft.state, live, &group, *version) {
        return Tried::No;
    }
    let speaks = speaks(draft.state, &group, *version);
    let outcome = if group.spec().all_at_once {
        together(draft, live, settings, &group, key)
    } else {
        let waiting = |state: &State| {
            let tasks = state.waiting.get(key)?;
            Some((*tasks.first()?, tasks.len()))
        };
        singly(draft, live, settings, &group, waiting)
    };
    match outcome {
        Outcome::Full => return Tried::Stop,
        _ if !speaks => {}
        Outcome::Placed => drop(live.wishes.remove(&group.name)),
        Outcome::Blocked { waiting, mut reason, reasons } => {
            let made = room::make(draft, live, settings, &group, waiting, kept);
            if made.coming > 0 {
                let coming = made.coming;
                reason += &format!("; room for {coming} is being made by tasks that are ending");
            }
            tell(draft, live, &group, reason, reasons, made.displaced > 0);
            if made.is_cut_short {
                return Tried::Stop;
            }
        }
    }
    Tried::Yes
}

/// Whether a version of a part is the newest of those that wait. While a part moves and changes, it may wait in two.
/// The newer one speaks for it, or they would take turns.
fn speaks(state: &State, group: &Group, version: u64) -> bool {
    let (key, part) = &group.name;
    let Some(job) = state.jobs.get(key) else { return true };
    let mut newer = job.versions.range(version + 1..);
    !newer.any(|(version, spec)| {
        let key = spec.spec(part).map(|part| waiting_key(key, spec, part, *version));
        key.is_some_and(|key| state.waiting.contains_key(&key))
    })
}

/// Whether the tasks of a group are wanted for certain: their job was looked at since it changed, or all that is left
/// to do is to create more of them. Those that are placed all at once must all be there.
fn is_looked_at(state: &State, live: &Live, group: &Group, version: u64) -> bool {
    let key = &group.name.0;
    !live.reconcile.contains_key(key)
        || (live.begun.contains(key)
            && !group.spec().all_at_once
            && state.jobs.get(key).is_some_and(|job| !job.stop_requested && job.version == version))
}

/// Places tasks alike one by one, as long as there are some and they fit. `waiting` gives the next one and how
/// many there are.
fn singly(
    draft: &mut Draft<'_>,
    live: &mut Live,
    settings: &Settings,
    group: &Group,
    mut waiting: impl FnMut(&State) -> Option<(TaskId, usize)>,
) -> Outcome {
    let demand = group.demand();
    let kind = group.job.scheduler.unwrap_or(settings.scheduler);
    while let Some((task, waiting)) = waiting(draft.state) {
        if draft.is_full() {
            return Outcome::Full;
        }
        let state = &*draft.state;
        let policy = Policy::new(kind, state.meta.round_robin_last.as_ref());
        match live.scheduler.place(&state.fleet, &demand, policy) {
            Ok(placement) => draft.record(placed(task, &placement, true)),
            Err(mut unplaceable) => {
                if is_news(told(live, state, group), &reasons(&unplaceable), draft.now.time) {
                    unplaceable.look_closer(&state.fleet, &demand);
                }
                let (reason, reasons) = (unplaceable.to_string(), reasons(&unplaceable));
                return Outcome::Blocked { waiting, reason, reasons };
            }
        }
    }
    Outcome::Placed
}

/// Places tasks that belong together: all in this record, or none. A task in the place of one that had a node is
/// of a gang that stands already, and is placed by itself.
fn together(
    draft: &mut Draft<'_>,
    live: &mut Live,
    settings: &Settings,
    group: &Group,
    key: &WaitingKey,
) -> Outcome {
    let single = |state: &State| {
        let tasks = state.waiting.get(key)?.iter().copied();
        let singles: Vec<TaskId> = tasks.filter(|id| takes_a_place(state, *id)).collect();
        Some((*singles.first()?, singles.len()))
    };
    match singly(draft, live, settings, group, single) {
        Outcome::Placed => {}
        other => return other,
    }
    let waiting = draft.state.waiting.get(key);
    let tasks: Vec<TaskId> = waiting.into_iter().flatten().copied().collect();
    if tasks.is_empty() {
        return Outcome::Placed;
    }
    let (known, wanted) = members(draft.state, group);
    if known < wanted {
        let reason = format!(
            "they are placed all at once, and {known} of {wanted} are there; the others come when those before \
             them have ended"
        );
        return Outcome::Blocked { waiting: 0, reason, reasons: Vec::new() };
    }
    let demand = group.demand();
    let kind = group.job.scheduler.unwrap_or(settings.scheduler);
    let last = draft.state.meta.round_robin_last.clone();
    let (before, now) = (told(live, draft.state, group).cloned(), draft.now.time);
    let news = |unplaceable: &Unplaceable| is_news(before.as_ref(), &reasons(unplaceable), now);
    let fleet = &mut draft.state.fleet;
    let turn = (kind, last.as_ref());
    let found = gang::place(&mut live.scheduler, fleet, &demand, turn, tasks.len(), news);
    let placements = match found {
        Ok(placements) => placements,
        Err(Short { fit, unplaceable }) => {
            let (waiting, reasons) = (tasks.len(), reasons(&unplaceable));
            let reason = format!(
                "{fit} of {waiting} would fit, and they are placed all at once; {unplaceable}"
            );
            return Outcome::Blocked { waiting, reason, reasons };
        }
    };
    let facts = |with_reason| -> (Vec<Fact>, usize) {
        let each = tasks.iter().zip(&placements);
        let facts: Vec<Fact> =
            each.map(|(task, placement)| placed(*task, placement, with_reason)).collect();
        let bytes = facts.iter().map(codec::encoded_bytes).sum();
        (facts, bytes)
    };
    let (mut chosen, mut bytes) = facts(true);
    if !draft.has_room(bytes) && !draft.is_empty() {
        // The next record begins with them.
        live.gang_waits = true;
        return Outcome::Full;
    }
    if !draft.has_room(bytes) {
        (chosen, bytes) = facts(false);
    }
    if !draft.has_room(bytes) {
        let reason = format!("{} tasks are more than can be placed all at once", tasks.len());
        return Outcome::Blocked { waiting: 0, reason, reasons: Vec::new() };
    }
    for fact in chosen {
        draft.record(fact);
    }
    Outcome::Placed
}

/// Whether a task is in the place of one that had a node in this run of its job.
fn takes_a_place(state: &State, id: TaskId) -> bool {
    let Some(task) = state.tasks.get(&id) else { return false };
    let run_version = state.jobs.get(&task.job).map_or(0, |job| job.run_version);
    let before = state.slot(&task.job, &task.spec, task.slot).iter().filter(|other| **other != id);
    before
        .filter_map(|id| state.tasks.get(id))
        .any(|other| other.node.is_some() && other.version >= run_version)
}

/// How many instances of a part are there, placed or waiting, and how many there are to be.
fn members(state: &State, group: &Group) -> (usize, usize) {
    let (key, name) = &group.name;
    let Some(job) = state.jobs.get(key) else { return (0, 0) };
    let wanted = job.spec().and_then(|spec| spec.spec(name)).map_or(0, |spec| spec.instances);
    let counts = |ids: &SlotTasks| {
        let current = state.current(ids).and_then(|id| state.tasks.get(&id));
        current.is_some_and(|task| match task.state {
            TaskState::Completed | TaskState::Failed => task.version >= job.run_version,
            _ => task.is_wanted(),
        })
    };
    let slots = job.slots.get(name).into_iter().flat_map(BTreeMap::values);
    (slots.filter(|ids| counts(ids)).count(), wanted as usize)
}

fn placed(task: TaskId, placement: &Placement, with_reason: bool) -> Fact {
    let why = with_reason.then(|| Box::new(placement.explanation.why()));
    Fact::TaskPlaced { task, node: placement.node.clone(), explanation: String::new(), why }
}

/// Tells why a group waits, when that is news.
fn tell(
    draft: &mut Draft<'_>,
    live: &mut Live,
    group: &Group,
    reason: String,
    reasons: Vec<Reason>,
    has_displaced: bool,
) {
    let now = draft.now.time;
    if !has_displaced && !is_news(told(live, draft.state, group), &reasons, now) {
        return;
    }
    live.blocked.insert(group.name.clone(), Blocked { at: now, reasons });
    let (job, spec) = group.name.clone();
    let present = draft.state.jobs.get(&job).and_then(|job| job.blocked.get(&spec));
    if present != Some(&reason) {
        draft.record(Fact::PlacementBlocked { job, spec, reason });
    }
}

/// What was told last of why a group waits, if it still stands.
fn told<'a>(live: &'a Live, state: &State, group: &Group) -> Option<&'a Blocked> {
    let (job, spec) = &group.name;
    let stands = state.jobs.get(job).is_some_and(|job| job.blocked.contains_key(spec));
    live.blocked.get(&group.name).filter(|_| stands)
}

/// Whether a reason is worth telling.
pub(super) fn is_news(before: Option<&Blocked>, reasons: &[Reason], now: Time) -> bool {
    before.is_none_or(|before| before.reasons != reasons || now >= before.at + RETELL_MS)
}

pub(super) fn reasons(unplaceable: &Unplaceable) -> Vec<Reason> {
    unplaceable.rejected.iter().map(|(reason, _)| reason).collect()
}
