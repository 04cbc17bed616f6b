//! Moves: tasks that are better off elsewhere are started there first, and stopped where they are once they run
//! there (see [`super::slot`]).
//!
//! Which moves pay is [`rebalance`]'s answer on a copy of the fleet. They begin by an operator's word, or window by
//! window where the cluster is set to balance itself.

use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::explain::MovedFrom;
use longshore_proto::id::TaskId;
use longshore_proto::plan::{
    GAIN_USUAL, MOVES_MAX, MOVES_USUAL, Move, Rebalance, RebalancePlan, TaskRef,
};
use longshore_proto::spec::SchedulerKind;
use longshore_proto::state::TaskState;
use longshore_scheduler::filter;
use longshore_scheduler::plan::rebalance::{self, Bounds, Found, Movable};
use longshore_scheduler::{Demand, Fleet, GroupId, Policy};

use super::draft::Draft;
use super::place::Group;
use super::record::Fact;
use super::snapshot::{may_move, shown};
use super::state::State;
use super::{Live, Settings};

/// How many kinds of tasks are looked at when somebody asks for moves, and how often it is looked for the best node
/// for one of them.
const KINDS_MAX: usize = 256;
const LOOKS_MAX: usize = 1024;

/// The same where the cluster balances itself: everybody's decisions wait for it.
const KINDS_PER_WINDOW: usize = 64;
const LOOKS_PER_WINDOW: usize = 128;

/// How a cluster balances itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Balancing {
    /// At most so many moves are under way at once, and begin in one window.
    pub moves_max: usize,
    /// The window, in milliseconds.
    pub window_ms: u64,
    /// How many times cheaper it must be elsewhere.
    pub gain: f64,
}

impl Default for Balancing {
    fn default() -> Self {
        Self { moves_max: 5, window_ms: 60_000, gain: GAIN_USUAL }
    }
}

/// How much is asked for, within what is allowed.
pub(super) fn bounds(asked: &Rebalance) -> Result<Bounds, ApiError> {
    let moves = asked.moves_max.unwrap_or(MOVES_USUAL);
    if moves == 0 || moves > MOVES_MAX {
        return Err(ApiError::new(ErrorCode::Invalid, format!("moves_max is {moves}"))
            .hint(format!("use 1 to {MOVES_MAX}; ask again when they are done")));
    }
    let gain = asked.gain.unwrap_or(GAIN_USUAL);
    if !gain.is_finite() || gain < 1.0 {
        return Err(ApiError::new(ErrorCode::Invalid, format!("gain is {gain}"))
            .hint("use 1 or more: 2 moves a task when it costs half elsewhere"));
    }
    let moves_max = usize::try_from(moves).unwrap_or(usize::MAX);
    Ok(Bounds { moves_max, gain, kinds_max: KINDS_MAX, looks_max: LOOKS_MAX, nodes_skipped: 0 })
}

/// Begins the moves that pay. Gives those that have begun.
pub(super) fn start(draft: &mut Draft<'_>, live: &mut Live, bounds: Bounds) -> RebalancePlan {
    let state = &*draft.state;
    let base_log2 = state.fleet.base_log2();
    let before = shown(&state.fleet, base_log2);
    let mut fleet = state.fleet.clone();
    let found = search(state, &mut fleet, bounds);
    let mut plan = RebalancePlan { moves: Vec::new(), before, after: shown(&fleet, base_log2) };
    for one in found.moves {
        if let Some(successor) = begin(draft, live, &one)
            && let Some(task) = draft.state.tasks.get(&one.task)
        {
            let (namespace, job) = (task.job.namespace.clone(), task.job.name.clone());
            let task = TaskRef { id: Some(one.task), namespace, job, spec: task.spec.clone() };
            let rebalance::Move { from, to, cost_here, cost_there, .. } = one;
            let successor = Some(successor);
            plan.moves.push(Move { task, from, to, cost_here, cost_there, successor });
        }
    }
    plan
}

/// Looks for moves that pay, on a copy of the fleet. The tasks are read where they are: only those of the costliest
/// nodes are asked for.
fn search(state: &State, fleet: &mut Fleet, bounds: Bounds) -> Found {
    rebalance::plan(fleet, bounds, |node| {
        let tasks = state.nodes.get(node).into_iter().flat_map(|node| &node.tasks);
        tasks.filter_map(|id| movable(state, *id)).collect()
    })
}

/// A task as it may be moved; `None` when it may not.
fn movable(state: &State, id: TaskId) -> Option<Movable<'_>> {
    let task = state.tasks.get(&id)?;
    if task.state != TaskState::Running || task.is_to_stop() {
        return None;
    }
    let job = state.jobs.get(&task.job)?;
    let version = job.versions.get(&task.version)?;
    let spec = version.spec(&task.spec)?;
    let slot = state.slot(&task.job, &task.spec, task.slot).iter();
    let living = slot.filter_map(|id| state.tasks.get(id)).filter(|task| !task.state.is_terminal());
    if living.count() != 1 || !may_move(job, version, spec) {
        return None;
    }
    let kin = Some(GroupId::of_spec(&task.job, &task.spec));
    let image = Some(GroupId::of_image(&spec.image));
    Some(Movable { task: id, demand: Demand::of_spec(version, spec, kin, image) })
}

/// Begins a move, unless something has come in between.
fn begin(draft: &mut Draft<'_>, live: &mut Live, one: &rebalance::Move) -> Option<TaskId> {
    if draft.is_full() {
        return None;
    }
    let before = one.task;
    let task = draft.state.tasks.get(&before).filter(|task| task.state == TaskState::Running)?;
    let (version, slot, failures) = (task.version, task.slot, task.failures);
    let name = (task.job.clone(), task.spec.clone());
    let job = draft.state.task_job_spec(task)?.clone();
    let group = Group::of(name, job)?;
    let demand = group.demand();
    let fleet = &draft.state.fleet;
    let to = fleet.node(&one.to)?;
    if filter::reason_against(fleet, to, &demand).is_some() {
        return None;
    }
    let placement =
        live.scheduler.place(fleet, &demand, Policy::new(SchedulerKind::Epvm, None)).ok()?;
    let mut why = placement.explanation.why();
    if placement.node != one.to {
        (why.cost, why.runner_up) = (None, None);
    }
    why.moved_from =
        Some(MovedFrom { node: one.from.clone(), cost: one.cost_here, cost_now: one.cost_there });
    let successor = draft.minter.task_id();
    let (job, spec) = group.name.clone();
    let replaces = Some(before);
    draft.record(Fact::TaskCreated {
        task: successor,
        job,
        spec,
        slot,
        version,
        replaces,
        failures,
    });
    draft.record(Fact::TaskPlaced {
        task: successor,
        node: one.to.clone(),
        explanation: String::new(),
        why: Some(Box::new(why)),
    });
    live.moves.insert(successor);
    Some(successor)
}

/// Begins moves by itself, when it is time and the cluster is set to.
pub(super) fn tick(draft: &mut Draft<'_>, live: &mut Live, settings: &Settings) {
    let Some(balancing) = settings.balancing else { return };
    let due = live.balanced_at.max(live.elected_at) + balancing.window_ms;
    if draft.now.time < due || draft.is_full() {
        return;
    }
    live.balanced_at = draft.now.time;
    let tasks = &draft.state.tasks;
    live.moves.retain(|id| {
        tasks.get(id).is_some_and(|task| task.is_wanted() && task.state != TaskState::Running)
    });
    let moves_max = balancing.moves_max.saturating_sub(live.moves.len());
    if moves_max == 0 {
        return;
    }
    let bounds = Bounds {
        moves_max,
        gain: balancing.gain,
        kinds_max: KINDS_PER_WINDOW,
        looks_max: LOOKS_PER_WINDOW,
        nodes_skipped: live.balanced_nodes,
    };
    let state = &*draft.state;
    let found = search(state, &mut state.fleet.clone(), bounds);
    // Where nothing pays on the costliest nodes the next window looks at those after them, and begins anew at the end.
    let goes_on = found.moves.is_empty() && !found.is_complete;
    live.balanced_nodes = if goes_on { live.balanced_nodes + found.nodes } else { 0 };
    for one in &found.moves {
        begin(draft, live, one);
    }
}
