//! Moves: tasks that are better off elsewhere are started there first, and stopped where they are once they run
//! there (see [`super::slot`]).
//!
//! Which moves pay is [`rebalance`](longshore_scheduler::plan::rebalance)'s answer on a copy of the fleet. They
//! begin by an operator's word, or window by window where the cluster is set to balance itself.

use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::explain::MovedFrom;
use longshore_proto::id::TaskId;
use longshore_proto::plan::{GAIN_USUAL, MOVES_MAX, MOVES_USUAL, Move, Rebalance, RebalancePlan};
use longshore_proto::spec::SchedulerKind;
use longshore_proto::state::TaskState;
use longshore_scheduler::Policy;
use longshore_scheduler::filter;
use longshore_scheduler::plan::rebalance::Bounds;

use super::draft::Draft;
use super::place::Group;
use super::record::Fact;
use super::snapshot::Snapshot;
use super::{Live, Settings};

/// How many kinds of tasks are looked at in one search for moves.
pub(super) const KINDS_MAX: usize = 256;

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
    Ok(Bounds { moves_max, gain, kinds_max: KINDS_MAX })
}

/// Begins the moves that pay. Gives those that have begun.
pub(super) fn start(
    draft: &mut Draft<'_>,
    live: &mut Live,
    settings: &Settings,
    bounds: Bounds,
) -> RebalancePlan {
    let mut plan = Snapshot::of(draft.state, settings).rebalance(bounds);
    plan.moves.retain_mut(|one| {
        one.successor = begin(draft, live, one);
        one.successor.is_some()
    });
    plan
}

/// Begins a move, unless something has come in between.
fn begin(draft: &mut Draft<'_>, live: &mut Live, one: &Move) -> Option<TaskId> {
    if draft.is_full() {
        return None;
    }
    let before = one.task.id?;
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
    if moves_max > 0 {
        let bounds = Bounds { moves_max, gain: balancing.gain, kinds_max: KINDS_MAX };
        start(draft, live, settings, bounds);
    }
}
