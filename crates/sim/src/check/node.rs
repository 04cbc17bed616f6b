//! What workers and their runtimes do: effects, identity, waits, gaps, strangers, stops, graces, bounds.

use std::collections::{BTreeMap, BTreeSet};

use longshore_core::cluster::record::Fact;
use longshore_proto::health::Health;
use longshore_proto::id::{ManagerId, Revision, TaskId};
use longshore_proto::name::NodeName;
use longshore_proto::node::{Assignment, Want};
use longshore_proto::state::{Mover, TaskState, is_legal_move};

use super::{Note, Truth, Violation, violated};
use crate::manager::{node_name, worker_of};
use crate::message::Process;
use crate::time::{MS, Micros, SECOND};
use crate::worker::Probed;

/// How long a worker may be behind although nothing stands between it and the leader.
const GAP_MAX: Micros = 45 * SECOND;
/// How much longer whoever asks to join may wait for each node that is given up before: one at a time (I-13).
const GIVEN_UP_AFTER: Micros = 10 * SECOND;
/// For how long a stop may come late that a worker asked for when it left.
const LEFT_MAX: Micros = 60 * SECOND;
/// The most questions that a worker may have open: a registration, a page, reports.
const QUESTIONS_MAX: usize = 4;

/// What the whole cluster looks like at a moment.
#[derive(Debug, Default)]
pub struct Look {
    /// Workers between which and the leader nothing stands: the leader's revision of their set, and theirs.
    pub clear: BTreeMap<usize, (Revision, Revision)>,
    /// Those of them that ask to join: they have noticed, and wait until the machine is given up that had their name.
    pub joining: BTreeSet<usize>,
    /// How many questions each worker has open.
    pub questions: BTreeMap<usize, usize>,
    /// How many askers each manager has forgotten.
    pub forgotten: BTreeMap<usize, usize>,
    /// The runs of the managers that lead, or believe so.
    pub leaders: Vec<ManagerId>,
    /// Whether the lease has no end.
    pub lease_is_endless: bool,
    /// Names under which two managers take part that hear JetStream.
    pub shared_names: BTreeSet<String>,
}

/// What is remembered of workers and containers.
#[derive(Debug, Default)]
pub struct Node {
    decided: BTreeMap<TaskId, BTreeSet<(Revision, bool)>>,
    revisions: BTreeMap<usize, Revision>,
    behind: BTreeMap<usize, (Micros, (Revision, Revision))>,
    created: BTreeMap<(TaskId, u64), usize>,
    homes: BTreeMap<TaskId, usize>,
    running: BTreeMap<TaskId, u64>,
    minted: BTreeMap<TaskId, u64>,
    ended: BTreeMap<TaskId, (u64, Micros)>,
    /// Workers that leave, and those that have left and run again: since when.
    leaving: BTreeMap<usize, Option<Micros>>,
    diskless: BTreeSet<usize>,
    /// Attempts whose start was said to have failed.
    disowned: BTreeSet<(TaskId, u64)>,
    /// How many bad answers in a row an attempt has given, since it last did well.
    bad_answers: BTreeMap<(TaskId, u64), u32>,
    /// Attempts that were called unhealthy: their workers may end them.
    ill: BTreeSet<(TaskId, u64)>,
}

impl Node {
    /// A fact was committed.
    pub fn fact(
        &mut self,
        fact: &Fact,
        revision: Revision,
        is_lossy: bool,
    ) -> Result<(), Violation> {
        let (task, stops) = match fact {
            Fact::TaskPlaced { task, .. } => (task, false),
            Fact::TaskStopRequested { task, .. } => (task, true),
            Fact::NodeDrained { name } if !is_lossy => return self.drained(name),
            _ => return Ok(()),
        };
        self.decided.entry(*task).or_default().insert((revision, stops));
        Ok(())
    }

    /// I-18: nothing of ours runs on a node that is drained, but what its runtime has said not to have started.
    fn drained(&self, name: &NodeName) -> Result<(), Violation> {
        let Process::Worker(worker) = worker_of(name) else { return Ok(()) };
        let left = self.running.iter().find(|(task, attempt)| {
            self.homes.get(*task) == Some(&worker) && !self.disowned.contains(&(**task, **attempt))
        });
        match left {
            Some((task, attempt)) if !self.diskless.contains(&worker) => violated(
                "I-18",
                format!(
                    "{name} is said to be drained, and attempt {attempt} of task {task} runs there"
                ),
            ),
            _ => Ok(()),
        }
    }

    /// A worker or its runtime did something.
    pub fn note(&mut self, truth: &Truth, note: &Note, now: Micros) -> Result<(), Violation> {
        match note {
            Note::WorkerStarted { worker, revision } => {
                self.revisions.insert(*worker, *revision);
                // What the run before has asked its runtime for may still come.
                if let Some(again @ None) = self.leaving.get_mut(worker) {
                    *again = Some(now);
                }
            }
            Note::Revision { worker, revision } => self.revision(*worker, *revision)?,
            Note::Told { worker, assignments } => self.told(*worker, assignments)?,
            Note::Reported { report, .. } => {
                let minted = self.minted.entry(report.task).or_default();
                *minted = (*minted).max(report.attempt);
                if report.health.is_some_and(|health| health.status == Health::Unhealthy) {
                    self.found_ill(truth, report.task, report.attempt)?;
                }
            }
            Note::Probed { task, attempt, answer } => match answer {
                Probed::Well => drop(self.bad_answers.remove(&(*task, *attempt))),
                Probed::Ill => *self.bad_answers.entry((*task, *attempt)).or_default() += 1,
                Probed::Unknown => {}
            },
            Note::Delivered { worker, told } => delivered(truth, *worker, told)?,
            Note::DiskLost { worker } => {
                self.diskless.insert(*worker);
            }
            Note::Leaves { worker } => {
                self.leaving.insert(*worker, None);
            }
            Note::Created { worker, task, attempt } => self.created(*worker, *task, *attempt)?,
            Note::Started { worker, task, attempt, .. } => {
                self.waited(truth, *worker, *task, *attempt, now)?;
                self.started(*task, *attempt)?;
            }
            Note::Disowned { task, attempt } => {
                self.disowned.insert((*task, *attempt));
            }
            Note::AskedToEnd { worker, task, attempt, disowned: false } => {
                self.stop(truth, *worker, *task, *attempt, now)?;
            }
            Note::Ended { task, attempt, disowned, .. } => {
                if self.running.get(task) == Some(attempt) {
                    self.running.remove(task);
                }
                if !disowned {
                    self.ended.insert(*task, (*attempt, now));
                }
            }
            Note::Destroyed { task, attempt, .. } => drop(self.created.remove(&(*task, *attempt))),
            Note::Killed { worker, task, waited_ms, grace_ms } => {
                grace(*worker, *task, *waited_ms, *grace_ms)?;
            }
            Note::TouchedStranger { worker, container } => {
                return violated(
                    "I-19",
                    format!("n{worker} has touched the container {container} of somebody else"),
                );
            }
            _ => {}
        }
        Ok(())
    }

    /// I-5: a worker's revision never falls.
    fn revision(&mut self, worker: usize, revision: Revision) -> Result<(), Violation> {
        match self.revisions.insert(worker, revision) {
            Some(before) if before > revision => {
                violated("I-5", format!("n{worker} went from revision {before} back to {revision}"))
            }
            _ => Ok(()),
        }
    }

    /// I-5: what a worker is told was decided and committed before.
    fn told(&self, worker: usize, assignments: &[Assignment]) -> Result<(), Violation> {
        for assignment in assignments {
            let stops = matches!(assignment.want, Want::Stop { .. });
            let decided = self
                .decided
                .get(&assignment.task)
                .is_some_and(|decided| decided.contains(&(assignment.revision, stops)));
            if !decided {
                return violated(
                    "I-5",
                    format!(
                        "n{worker} was told of task {} at revision {}, which nobody has committed",
                        assignment.task, assignment.revision
                    ),
                );
            }
        }
        Ok(())
    }

    /// I-6: a task has containers on one node, and one for each attempt.
    fn created(&mut self, worker: usize, task: TaskId, attempt: u64) -> Result<(), Violation> {
        if let Some(other) = self.created.insert((task, attempt), worker) {
            return violated(
                "I-6",
                format!(
                    "attempt {attempt} of task {task} has a container on n{other} and another on n{worker}"
                ),
            );
        }
        match self.homes.insert(task, worker) {
            Some(home) if home != worker => {
                violated("I-6", format!("task {task} has containers on n{home} and on n{worker}"))
            }
            _ => Ok(()),
        }
    }

    /// I-6: one attempt of a task runs at a time.
    fn started(&mut self, task: TaskId, attempt: u64) -> Result<(), Violation> {
        match self.running.insert(task, attempt) {
            Some(before) => violated(
                "I-6",
                format!("attempt {attempt} of task {task} has started while attempt {before} runs"),
            ),
            None => Ok(()),
        }
    }

    /// I-14: the wait before a restart is at least what the policy says, a tenth and a clock's error less.
    fn waited(
        &self,
        truth: &Truth,
        worker: usize,
        task: TaskId,
        attempt: u64,
        now: Micros,
    ) -> Result<(), Violation> {
        if self.diskless.contains(&worker) {
            return Ok(());
        }
        let Some((before, at)) = self.ended.get(&task) else { return Ok(()) };
        let spec = truth.state.tasks.get(&task).and_then(|task| truth.state.task_spec(task));
        let Some(policy) = spec.and_then(|spec| spec.restart.as_ref()) else { return Ok(()) };
        let least = policy.delay_ms * MS / 100 * 88;
        let waited = now - at;
        if attempt == before + 1 && waited < least {
            return violated(
                "I-14",
                format!(
                    "attempt {attempt} of task {task} started {} ms after the one before, and its policy waits {} ms",
                    waited / MS,
                    policy.delay_ms
                ),
            );
        }
        Ok(())
    }

    /// H-1: bad answers in a row, as many as its check says, make a task unhealthy.
    fn found_ill(&mut self, truth: &Truth, id: TaskId, attempt: u64) -> Result<(), Violation> {
        self.ill.insert((id, attempt));
        let spec = truth.state.tasks.get(&id).and_then(|task| truth.state.task_spec(task));
        let Some(check) = spec.and_then(|spec| spec.health.as_ref()) else { return Ok(()) };
        let bad = self.bad_answers.get(&(id, attempt)).copied().unwrap_or(0);
        if bad < check.retries {
            return violated(
                "H-1",
                format!(
                    "attempt {attempt} of task {id} is called unhealthy after {bad} bad answers of {}",
                    check.retries
                ),
            );
        }
        Ok(())
    }

    /// I-20: a container that runs is asked to end only for a reason that was committed.
    fn stop(
        &self,
        truth: &Truth,
        worker: usize,
        id: TaskId,
        attempt: u64,
        now: Micros,
    ) -> Result<(), Violation> {
        let known = truth.state.tasks.get(&id);
        if self.ill.contains(&(id, attempt)) {
            return Ok(());
        }
        let wanted = known.is_some_and(|task| {
            !task.is_to_stop()
                && !task.state.is_terminal()
                && task.attempt <= attempt
                && self.minted.get(&id).is_none_or(|minted| *minted <= attempt)
        });
        let leaves = match self.leaving.get(&worker) {
            Some(None) => true,
            Some(Some(again)) => now - *again < LEFT_MAX,
            None => false,
        };
        if wanted && !leaves {
            return violated(
                "I-20",
                format!(
                    "n{worker} stops attempt {attempt} of task {id}, and nobody has decided that"
                ),
            );
        }
        Ok(())
    }

    /// I-16, I-21, I-24: what only time or a count can break.
    pub fn tick(&mut self, look: &Look, now: Micros) -> Result<(), Violation> {
        if look.lease_is_endless {
            return violated("I-24", "the lease has no limit of life");
        }
        for (manager, forgotten) in &look.forgotten {
            if *forgotten > 0 {
                return violated(
                    "I-21",
                    format!("m{manager} remembers {forgotten} askers that were answered"),
                );
            }
        }
        for (worker, questions) in &look.questions {
            if *questions > QUESTIONS_MAX {
                return violated("I-21", format!("n{worker} has {questions} open questions"));
            }
        }
        self.behind.retain(|worker, _| look.clear.contains_key(worker));
        for (worker, revisions) in &look.clear {
            let (wanted, has) = revisions;
            if wanted == has {
                self.behind.remove(worker);
                continue;
            }
            let (since, before) = self.behind.entry(*worker).or_insert((now, *revisions));
            if before != revisions {
                (*since, *before) = (now, *revisions);
            }
            let given_up_before =
                if look.joining.contains(worker) { look.questions.len() } else { 0 };
            if now - *since > GAP_MAX + given_up_before as Micros * GIVEN_UP_AFTER {
                return violated(
                    "I-16",
                    format!(
                        "n{worker} has revision {has} and its leader {wanted}, for {} s",
                        (now - *since) / SECOND
                    ),
                );
            }
        }
        Ok(())
    }
}

/// I-2: what a worker need not hold any longer is in the log.
fn delivered(
    truth: &Truth,
    worker: usize,
    told: &[(TaskId, u64, TaskState)],
) -> Result<(), Violation> {
    for (id, attempt, state) in told {
        let Some(task) = truth.state.tasks.get(id) else { continue };
        let known = (task.attempt, task.state);
        if task.node == Some(node_name(worker))
            && is_legal_move(known, (*attempt, *state), Mover::Worker)
        {
            return violated(
                "I-2",
                format!(
                    "n{worker} was told that {state} of task {id}, attempt {attempt}, is in the log, which says {known:?}"
                ),
            );
        }
    }
    Ok(())
}

/// I-29: nothing is killed before its grace is over.
fn grace(
    worker: usize,
    task: Option<TaskId>,
    waited_ms: u64,
    grace_ms: u64,
) -> Result<(), Violation> {
    if waited_ms < grace_ms {
        return violated(
            "I-29",
            format!(
                "n{worker} killed task {task:?} after {waited_ms} ms of its {grace_ms} ms of grace"
            ),
        );
    }
    Ok(())
}
