//! What leaders decide of tasks that stand together: gangs, the displaced, those that move, and versions that are gone
//! back from.

use std::collections::BTreeSet;

use longshore_core::cluster::Settings;
use longshore_core::cluster::record::Fact;
use longshore_core::cluster::state::{State, Task};
use longshore_proto::api::RolledBack;
use longshore_proto::health::Health;
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, SpecName};
use longshore_proto::spec::{JobSpec, TaskSpec};
use longshore_proto::state::TaskState;

use super::{Violation, violated};

/// What is remembered of the record that is being looked at.
#[derive(Debug, Default)]
pub struct Groups {
    preempt_gap: Option<u8>,
    /// Parts of jobs that are placed all at once, of which something is placed now that takes nobody's place.
    gangs: BTreeSet<(JobKey, SpecName, u64)>,
    /// Tasks that are asked to end, but for those that are displaced.
    stopped: Vec<TaskId>,
    /// What happened, as often as it did.
    seen: Seen,
}

/// What happened, as often as it did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// Gangs that were placed.
    pub gangs: u64,
    /// Tasks that were displaced.
    pub displaced: u64,
    /// Tasks that moved.
    pub moved: u64,
    /// Tasks that were found unhealthy.
    pub ill: u64,
    /// Nodes that were drained.
    pub drained: u64,
    /// Versions that a leader went back from by itself.
    pub rolled_back: u64,
}

impl Groups {
    /// For a cluster that is run like this.
    pub fn new(settings: &Settings) -> Self {
        Self { preempt_gap: settings.preempt_gap, ..Self::default() }
    }

    /// What has happened so far.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// A record begins.
    pub fn begin(&mut self) {
        self.gangs.clear();
        self.stopped.clear();
    }

    /// A fact is about to be applied.
    pub fn fact(&mut self, state: &State, fact: &Fact) -> Result<(), Violation> {
        match fact {
            Fact::TaskPlaced { task: id, .. } => {
                let Some(task) = state.tasks.get(id) else { return Ok(()) };
                let is_gang = state.task_spec(task).is_some_and(|spec| spec.all_at_once);
                if is_gang && !takes_a_place(state, *id, task) {
                    let is_new =
                        self.gangs.insert((task.job.clone(), task.spec.clone(), task.version));
                    self.seen.gangs += u64::from(is_new);
                }
                self.seen.moved += u64::from(predecessor(state, *id, task).is_some());
            }
            Fact::TaskStopRequested { task: id, displaced_by: Some(by), .. } => {
                self.seen.displaced += 1;
                return self.displaced(state, *id, by);
            }
            Fact::TaskStopRequested { task, displaced_by: None, .. } => self.stopped.push(*task),
            Fact::TaskReported { report } => {
                let is_ill = report.health.is_some_and(|health| health.status == Health::Unhealthy);
                self.seen.ill += u64::from(is_ill);
            }
            Fact::NodeDrained { .. } => self.seen.drained += 1,
            Fact::JobSubmitted { version, job, rolled_back: Some(back), .. } => {
                self.seen.rolled_back += 1;
                return goes_back(state, *version, job, back);
            }
            _ => {}
        }
        Ok(())
    }

    /// A record was applied.
    pub fn end(&self, state: &State) -> Result<(), Violation> {
        for (job, spec, version) in &self.gangs {
            whole(state, job, spec, *version)?;
        }
        self.stopped.iter().try_for_each(|id| handed_over(state, *id))
    }

    /// P-1: a task is displaced only for one that waits and is more important by what the cluster is set to.
    fn displaced(&self, state: &State, id: TaskId, by: &JobKey) -> Result<(), Violation> {
        let priority =
            |job: &JobKey| state.jobs.get(job).and_then(|job| job.spec()).map(|spec| spec.priority);
        let victim = state.tasks.get(&id).and_then(|task| state.task_job_spec(task));
        let (Some(victim), Some(wanted)) = (victim, priority(by)) else {
            return violated("P-1", format!("task {id} is displaced by {by}, which is not there"));
        };
        let may = self.preempt_gap.is_some_and(|gap| victim.priority.saturating_add(gap) <= wanted);
        let waits = state.waiting.keys().any(|(_, _, job, ..)| job == by);
        if may && waits {
            return Ok(());
        }
        violated(
            "P-1",
            format!(
                "task {id} of priority {} is displaced by {by} of priority {wanted}, which waits: {waits}",
                victim.priority
            ),
        )
    }
}

/// P-2: what belongs together is placed in one record, or not at all.
fn whole(state: &State, job: &JobKey, spec: &SpecName, version: u64) -> Result<(), Violation> {
    let waits = |id: &TaskId| {
        state.tasks.get(id).is_some_and(|task| {
            task.state == TaskState::Pending
                && !task.is_to_stop()
                && !takes_a_place(state, *id, task)
        })
    };
    let mut left = state
        .waiting
        .iter()
        .filter(|((_, _, of, part, at), _)| of == job && part == spec && *at == version)
        .flat_map(|(_, ids)| ids);
    match left.find(|id| waits(id)) {
        Some(id) => violated(
            "P-2",
            format!("{job}.{spec} is placed all at once, and task {id} of it was left waiting"),
        ),
        None => Ok(()),
    }
}

/// P-4: a leader goes back by itself from a version that was never up, to one that was, and only if that is another one: not
/// while its job stops, and not back and forth.
fn goes_back(
    state: &State,
    version: u64,
    back: &JobSpec,
    said: &RolledBack,
) -> Result<(), Violation> {
    let key = back.key();
    let Some(job) = state.jobs.get(&key) else {
        return violated("P-4", format!("{key} is rolled back, and is not there"));
    };
    let what_runs = |job: &JobSpec| {
        let specs =
            job.specs.iter().map(|spec| TaskSpec { instances: 0, restarts: 0, ..spec.clone() });
        JobSpec { specs: specs.collect(), ..job.clone() }
    };
    let is_of = |version: &u64| {
        job.versions.get(version).is_some_and(|job| what_runs(job) == what_runs(back))
    };
    let was_up = job.reached == Some(said.to) && said.to < said.failed;
    if version == job.version + 1
        && said.failed == job.version
        && was_up
        && is_of(&said.to)
        && !is_of(&said.failed)
        && !job.stop_requested
    {
        return Ok(());
    }
    violated(
        "P-4",
        format!("{key} of version {} goes {said}; it was {:?}", job.version, job.reached),
    )
}

/// P-3: a task that moves goes on until its successor is up; unless its node's drain has a deadline, and that has come.
fn handed_over(state: &State, id: TaskId) -> Result<(), Violation> {
    let Some(task) = state.tasks.get(&id).filter(|task| task.state == TaskState::Running) else {
        return Ok(());
    };
    let node = task.node.as_ref().and_then(|node| state.nodes.get(node));
    if node.and_then(|node| node.drain.as_ref()).is_some_and(|drain| drain.is_overdue) {
        return Ok(());
    }
    let early = slot(state, task).iter().filter(|other| **other != id).find(|other| {
        state.tasks.get(other).is_some_and(|other| {
            other.replaces == Some(id)
                && !other.state.is_terminal()
                && !other.is_to_stop()
                && !is_up(other)
        })
    });
    match early {
        Some(successor) => violated(
            "P-3",
            format!("task {id} is asked to end, and {successor}, which replaces it, is not up"),
        ),
        None => Ok(()),
    }
}

fn is_up(task: &Task) -> bool {
    task.state == TaskState::Running
        && task.health.is_none_or(|health| health.status == Health::Healthy)
}

fn slot<'a>(state: &'a State, task: &Task) -> &'a [TaskId] {
    let slots = state.jobs.get(&task.job).and_then(|job| job.slots.get(&task.spec));
    slots.and_then(|slots| slots.get(&task.slot)).map_or(&[], |ids| ids)
}

/// The task that goes on while this one takes its place.
fn predecessor(state: &State, id: TaskId, task: &Task) -> Option<TaskId> {
    let before = task.replaces.filter(|before| *before != id)?;
    state.tasks.get(&before).is_some_and(|before| !before.state.is_terminal()).then_some(before)
}

/// Whether a task is in the place of one that had a node in this run of its job: of a gang that stands already.
fn takes_a_place(state: &State, id: TaskId, task: &Task) -> bool {
    let run = state.jobs.get(&task.job).map_or(0, |job| job.run_version);
    slot(state, task)
        .iter()
        .filter(|other| **other != id)
        .filter_map(|other| state.tasks.get(other))
        .any(|other| other.node.is_some() && other.version >= run)
}
