//! Room for what is more important: a task that fits nowhere may displace less important ones.
//!
//! Which ones is [`preempt`]'s answer, the cheapest set; here they are told to end. What is ending counts as
//! gone, so that nobody is displaced twice for the same wish, and as long as it ends, the room that it leaves is
//! kept: nothing less important is placed there in between. None of this is stored. A new leader finds the same
//! tasks ending and comes to the same end.

use std::collections::BTreeSet;
use std::sync::Arc;

use longshore_proto::name::NodeName;
use longshore_proto::spec::{JobSpec, TaskSpec};
use longshore_proto::state::TaskState;
use longshore_scheduler::plan::preempt::{self, Occupant, Wanted};
use longshore_scheduler::{Fleet, GroupId, Policy};

use super::draft::Draft;
use super::place::Group;
use super::record::Fact;
use super::state::State;
use super::{Live, Settings};
use crate::time::Time;

/// How long after a search for room the same tasks are not searched room for again, in milliseconds: it looks at
/// every node and its tasks.
const LOOK_AGAIN_MS: u64 = 5_000;

/// How many nodes' tasks one search looks at while everybody's decisions wait for it. Where that is not enough, the
/// next pass goes on from there. Tests get by with clusters of few nodes.
pub(super) const NODES_MAX: usize = if cfg!(test) { 8 } else { 1_024 };

/// Where room is being made for a group.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    nodes: Vec<NodeName>,
    /// The version of the job that it was looked for.
    job: Arc<JobSpec>,
    looked_at: Time,
    /// Where a search has stopped that goes on with the next pass, and how many nodes it has looked at so far.
    stopped_at: Option<NodeName>,
    looked: usize,
    /// Where it has found seats so far that are too few: those that belong together need all of theirs at once.
    found: Vec<NodeName>,
}

/// What came of a wish for room.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// For how many there will be room.
    pub(super) coming: usize,
    /// How many tasks were told to end for it now.
    pub(super) displaced: usize,
    /// Whether the record is full and more has to be told to end.
    pub(super) is_cut_short: bool,
}

/// Room that is kept during one pass, so that nothing less important takes it.
#[derive(Debug, Default)]
pub(super) struct Kept(Vec<(NodeName, Arc<Group>)>);

impl Kept {
    /// Keeps a place for a task of a group, if there is one.
    pub(super) fn keep_any(
        &mut self,
        draft: &mut Draft<'_>,
        live: &mut Live,
        settings: &Settings,
        group: &Arc<Group>,
    ) {
        let state = &*draft.state;
        let kind = group.job.scheduler.unwrap_or(settings.scheduler);
        let policy = Policy::new(kind, state.meta.round_robin_last.as_ref());
        if let Ok(placement) = live.scheduler.place(&state.fleet, &group.demand(), policy) {
            self.keep(&mut draft.state.fleet, &placement.node, group);
        }
    }

    pub(super) fn keep(&mut self, fleet: &mut Fleet, node: &NodeName, group: &Arc<Group>) {
        fleet.reserve(node, &group.demand());
        self.0.push((node.clone(), Arc::clone(group)));
    }

    /// Gives back what was kept from so many on.
    fn give_back_from(&mut self, fleet: &mut Fleet, from: usize) {
        for (node, group) in self.0.drain(from..) {
            fleet.release(&node, &group.demand());
        }
    }

    /// Gives everything back.
    pub(super) fn give_back(mut self, fleet: &mut Fleet) {
        self.give_back_from(fleet, 0);
    }
}

/// The highest priority that may be displaced for another; `None` when nothing may.
pub(super) fn displaceable(settings: &Settings, priority: u8) -> Option<u8> {
    settings.preempt_gap.and_then(|gap| priority.checked_sub(gap)).filter(|most| *most > 0)
}

/// Makes room for so many tasks of a group that fit nowhere, all of them if they belong together.
pub(super) fn make(
    draft: &mut Draft<'_>,
    live: &mut Live,
    settings: &Settings,
    group: &Arc<Group>,
    waiting: usize,
    kept: &mut Kept,
) -> Made {
    let mut made = Made::default();
    // What it is worth now, whatever it was worth when its tasks were made.
    let present = draft.state.jobs.get(&group.name.0).and_then(|job| job.spec());
    let priority = present.map_or(group.job.priority, |present| present.priority);
    let Some(most) = displaceable(settings, priority).filter(|_| waiting > 0) else {
        return made;
    };
    let (demand, first) = (group.demand(), kept.0.len());
    let before = live.wishes.get(&group.name).cloned();
    let mut nodes: Vec<NodeName> = Vec::new();
    for node in before.iter().flat_map(|wish| &wish.nodes).take(waiting) {
        let occupants = occupants(draft.state, node);
        if preempt::is_coming(&draft.state.fleet, &demand, node, occupants) {
            kept.keep(&mut draft.state.fleet, node, group);
            nodes.push(node.clone());
        }
    }
    let now = draft.now.time;
    let is_due = before.as_ref().is_none_or(|wish| {
        now >= wish.looked_at + LOOK_AGAIN_MS
            || now > wish.looked_at && wish.stopped_at.is_some()
            || !Arc::ptr_eq(&wish.job, &group.job)
    });
    let missing = waiting - nodes.len();
    let mut looked_at = before.as_ref().map_or(now, |wish| wish.looked_at);
    let (mut stopped_at, mut looked, mut found) =
        before.map_or((None, 0, Vec::new()), |wish| (wish.stopped_at, wish.looked, wish.found));
    if missing > 0 && is_due {
        looked_at = now;
        let state = &*draft.state;
        let find = |node: &NodeName| occupants(state, node);
        let wanted = Wanted {
            seats: missing,
            priority_max: Some(most),
            nodes_max: NODES_MAX,
            after: stopped_at.as_ref(),
            besides: &found,
        };
        let search = preempt::seats(&state.fleet, &demand, wanted, find);
        looked = if stopped_at.is_some() { looked + search.nodes } else { search.nodes };
        let goes_on = search.seats.len() < missing && looked < state.fleet.len();
        stopped_at = search.stopped_at.filter(|_| goes_on);
        let seats = search.seats;
        found.clear();
        if group.spec().all_at_once && seats.len() < missing {
            if stopped_at.is_some() {
                let nodes: BTreeSet<NodeName> = seats.into_iter().map(|seat| seat.node).collect();
                found.extend(nodes);
            }
            kept.give_back_from(&mut draft.state.fleet, first);
            nodes.clear();
        } else {
            let (job, spec) = group.name.clone();
            let by = format!("displaced by {job}.{spec} of priority {priority}");
            'seats: for seat in seats {
                for task in seat.victims {
                    if draft.is_full() {
                        made.is_cut_short = true;
                        break 'seats;
                    }
                    let (reason, displaced_by) = (by.clone(), Some(job.clone()));
                    draft.record(Fact::TaskStopRequested { task, reason, displaced_by });
                    made.displaced += 1;
                }
                kept.keep(&mut draft.state.fleet, &seat.node, group);
                nodes.push(seat.node);
            }
        }
    }
    made.coming = nodes.len();
    if made.is_cut_short {
        // What was told to end is ending; the next record looks again at what else must.
        live.wishes.remove(&group.name);
    } else {
        let job = Arc::clone(&group.job);
        let wish = Wish { nodes, job, looked_at, stopped_at, looked, found };
        live.wishes.insert(group.name.clone(), wish);
    }
    made
}

/// The tasks that hold something of a node.
fn occupants<'a>(state: &'a State, node: &NodeName) -> Vec<Occupant<'a>> {
    let tasks = state.nodes.get(node).into_iter().flat_map(|node| &node.tasks);
    let occupant = |id| {
        let task = state.tasks.get(id)?;
        let job = state.task_job_spec(task)?;
        let spec: &TaskSpec = job.spec(&task.spec)?;
        Some(Occupant {
            task: *id,
            priority: job.priority,
            is_ending: task.is_to_stop() || task.state == TaskState::Stopping,
            resources: spec.resources,
            ports: &spec.ports,
            kin: Some(GroupId::of_spec(&task.job, &task.spec)),
        })
    };
    tasks.filter_map(occupant).collect()
}
