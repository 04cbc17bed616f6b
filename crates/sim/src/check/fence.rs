//! Fenced jobs: of each instance one container at most, and tokens that only rise.

use std::collections::{BTreeMap, BTreeSet};

use longshore_core::cluster::record::Fact;
use longshore_core::cluster::state::{State, Task};
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, SpecName};

use super::{Note, Truth, Violation, violated};

/// One instance of a job's part.
type Instance = (JobKey, SpecName, u32);

/// What is remembered of fenced jobs.
#[derive(Debug, Default)]
pub struct Fence {
    /// The containers that run, and what they are of.
    running: BTreeMap<(TaskId, u64), Instance>,
    /// The newest token of each instance.
    tokens: BTreeMap<Instance, (u64, TaskId)>,
    /// Tasks that began to run, or were given up, while nothing was fenced, and those of a version without a fence that
    /// were given up later: those of before and after may run beside them.
    released: BTreeSet<TaskId>,
    /// Attempts whose start was said to have failed.
    disowned: BTreeSet<(TaskId, u64)>,
    replaced: u64,
}

impl Fence {
    /// A fact is about to be applied.
    pub fn fact(&mut self, state: &State, fact: &Fact) {
        let Fact::TaskLost { task: id, .. } = fact else { return };
        let Some(task) = state.tasks.get(id) else { return };
        // What was handed out without a fence a worker begins on its own; an operator's word cannot take that back.
        let was_fenced = state.task_job_spec(task).is_some_and(|job| job.fence);
        if !was_fenced || !is_fenced_now(state, task) {
            self.released.insert(*id);
        } else if task
            .node
            .as_ref()
            .and_then(|node| state.nodes.get(node))
            .is_some_and(|node| node.is_confirmed_lost)
        {
            self.replaced += 1;
        }
    }

    /// How often a fenced task was replaced on an operator's word.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// A runtime did something.
    pub fn note(&mut self, truth: &Truth, note: &Note) -> Result<(), Violation> {
        match note {
            Note::Started { task, attempt, token, .. } => {
                self.started(truth, *task, *attempt, *token)?;
            }
            Note::Ended { task, attempt, .. } | Note::Destroyed { task, attempt, .. } => {
                self.running.remove(&(*task, *attempt));
            }
            Note::Disowned { task, attempt } => {
                self.disowned.insert((*task, *attempt));
            }
            _ => {}
        }
        Ok(())
    }

    /// I-10: one runs at most, and shows more than any before it.
    fn started(
        &mut self,
        truth: &Truth,
        id: TaskId,
        attempt: u64,
        token: Option<u64>,
    ) -> Result<(), Violation> {
        let known = truth.state.tasks.get(&id);
        let Some(task) = known.filter(|_| !self.released.contains(&id)) else { return Ok(()) };
        let instance = (task.job.clone(), task.spec.clone(), task.slot);
        if !is_fenced_now(&truth.state, task) {
            self.released.insert(id);
            return Ok(());
        }
        let fenced = truth.state.task_job_spec(task).is_some_and(|job| job.fence);
        if fenced {
            let (job, spec, slot) = &instance;
            let other = self.running.iter().find(|(of, other)| {
                **other == instance
                    && !self.released.contains(&of.0)
                    && !self.disowned.contains(*of)
            });
            if let Some(((other, before), _)) = other {
                return violated(
                    "I-10",
                    format!(
                        "attempt {attempt} of task {id} has started, and attempt {before} of task {other} runs for the \
                         same instance {slot} of {job}.{spec}, which is fenced"
                    ),
                );
            }
            // An attempt whose container was gone before its worker saw it begin is begun again, as the same.
            let last = self.tokens.get(&instance).copied();
            let rises = token.is_some_and(|token| {
                last.is_none_or(|(last, of)| token > last || (token, id) == (last, of))
            });
            if !rises {
                return violated(
                    "I-10",
                    format!(
                        "attempt {attempt} of task {id} shows the token {token:?}, and instance {slot} of {job}.{spec} \
                         has shown {last:?} before"
                    ),
                );
            }
            self.tokens.extend(token.map(|token| (instance.clone(), (token, id))));
        }
        self.running.insert((id, attempt), instance);
        Ok(())
    }
}

/// Whether a task must have ended before another takes its place: its job is fenced as it is wanted now.
fn is_fenced_now(state: &State, task: &Task) -> bool {
    state.jobs.get(&task.job).and_then(|job| job.spec()).is_some_and(|job| job.fence)
}
