//! One task's life on this machine: attempts, their ends, and what is said of them.
//!
//! ```text
//!            ┌───────────────────────────── another attempt ◄──────────────────────────────┐
//!            ▼                                                                             │
//! Unseen ► Waiting ► Looking ► Pulling ► Starting ► Running ──────────► (it ended) ► restart policy ► Ended
//!   │                                                  └──► Stopping ────► (it ended) ────────────────►┘
//!   └── what a list of containers says: adopted, ended while nobody looked, never created
//! ```
//!
//! A phase is what this process is about to do and is never stored; the record is, and from it and a list of
//! containers every phase is found again.

mod end;
mod health;
mod image;
mod report;
#[cfg(test)]
pub(super) use self::image::PULL_TRIES_MAX;

use longshore_proto::health::{Health, HealthReport};
use longshore_proto::id::{Revision, TaskId};
use longshore_proto::node::{Assignment, RunTask, TaskReport, Want, fencing_token};
use longshore_proto::spec::{Port, PullPolicy, RestartMode, RestartPolicy};
use longshore_proto::state::TaskState;

use crate::time::Now;

use super::backoff;
use super::context::Context;
use super::health::Checker;
use super::input::{Container, ContainerEnd, Failure, StartedContainer};
use super::labels::{self, Owner};
use super::record::TaskRecord;
use super::step::{Action, StartContainer};

/// How long a container may take to end when nothing says otherwise, in milliseconds.
pub(super) const STOP_GRACE_MS: u64 = 10_000;
/// How long after a stop or pull that came to nothing the next is tried, in milliseconds.
const RETRY_MS: u64 = 5_000;
/// Why tasks end when the worker leaves.
const LEAVING: &str = "its worker was shut down together with its tasks";

/// What this process is about to do with a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A list of containers must tell how it stands.
    Unseen,
    /// Its next attempt is minted and begins at this time.
    Waiting { until_ms: u64 },
    /// Its image is looked for on this machine.
    Looking,
    /// Its image is being fetched.
    Pulling,
    /// Its container is being created and started.
    Starting,
    /// Its container runs.
    Running,
    /// Its container was asked to end; the question is repeated at this time, if set.
    Stopping { again_at_ms: Option<u64> },
    /// It has ended, for good.
    Ended,
}

/// A task on this machine.
#[derive(Debug, Clone)]
pub(super) struct Task {
    record: TaskRecord,
    /// Whether the record differs from the stored one.
    changed: bool,
    pub(super) phase: Phase,
    /// When it was restarted, as far as that counts; before this process began, times are negative.
    restarts: Vec<i64>,
    /// The step in which its container was found to run.
    pub(super) known_since_step: u64,
    /// Whether a container of the newest attempt was created that has not been seen to run.
    pub(super) is_created: bool,
    /// A container of the newest attempt that ended before it was known to be this task's.
    early_end: Option<(String, ContainerEnd)>,
    /// When its container is asked for its health.
    checker: Checker,
    /// Why its container is to be ended, and the next attempt to begin: it is unhealthy.
    unhealthy: Option<String>,
}

impl Task {
    /// A task that was just assigned.
    pub(super) fn assigned(assignment: Assignment, attempt: u64, ctx: &Context) -> Self {
        let (run, stop) = match assignment.want {
            Want::Run(run) => (Some(run), ctx.leaving.then(|| LEAVING.to_owned())),
            Want::Stop { reason } => (None, Some(reason)),
        };
        let record = TaskRecord {
            task: assignment.task,
            revision: assignment.revision,
            run,
            stop,
            superseded: false,
            attempt,
            state: TaskState::Assigned,
            container_id: None,
            restarts_at_ms: Vec::new(),
            ports: Vec::new(),
            health: None,
            pulls_failed: 0,
            end: None,
        };
        Self {
            record,
            changed: true,
            phase: Phase::Unseen,
            restarts: Vec::new(),
            known_since_step: 0,
            is_created: false,
            early_end: None,
            checker: Checker::default(),
            unhealthy: None,
        }
    }

    /// A task from the store.
    pub(super) fn restored(record: TaskRecord, now: Now) -> Self {
        let phase = if record.state.is_terminal() { Phase::Ended } else { Phase::Unseen };
        let age_ms = |at: &u64| signed(now.wall_ms.saturating_sub(*at));
        let restarts =
            record.restarts_at_ms.iter().map(|at| signed(now.time.0) - age_ms(at)).collect();
        Self {
            record,
            changed: false,
            phase,
            restarts,
            known_since_step: 0,
            is_created: false,
            early_end: None,
            checker: Checker::default(),
            unhealthy: None,
        }
    }

    pub(super) fn record(&self) -> &TaskRecord {
        &self.record
    }

    fn record_mut(&mut self) -> &mut TaskRecord {
        self.changed = true;
        &mut self.record
    }

    /// Whether the record is to be stored; says so once.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn id(&self) -> TaskId {
        self.record.task
    }

    pub(super) fn revision(&self) -> Revision {
        self.record.revision
    }

    /// Whether a container of it runs, as far as known.
    pub(super) fn runs(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Stopping { .. })
    }

    /// Whether a container of it runs, or may run for all that is known.
    pub(super) fn may_run(&self) -> bool {
        self.runs() || matches!(self.phase, Phase::Unseen | Phase::Starting)
    }

    /// What it is called for people: `web.main.0`.
    pub(super) fn name(&self) -> String {
        match &self.record.run {
            Some(run) => format!("{}.{}.{}", run.job, run.spec.name, run.slot),
            None => self.record.task.to_string(),
        }
    }

    /// Whether it is over and nobody needs its record any more, given up to where reports were answered.
    pub(super) fn is_forgettable(&self, delivered: Option<u64>) -> bool {
        let told =
            self.record.end.as_ref().is_none_or(|end| delivered.is_some_and(|to| end.0 <= to));
        self.phase == Phase::Ended && (self.record.superseded || told)
    }

    /// How long its container may take to end by itself.
    pub(super) fn grace_ms(&self) -> u64 {
        self.record.run.as_ref().map_or(STOP_GRACE_MS, |run| run.spec.stop_grace_ms)
    }

    // What the manager wants.

    /// Takes an assignment that is not older than the one it has.
    pub(super) fn assign(&mut self, assignment: Assignment) {
        if assignment.revision < self.record.revision {
            return;
        }
        let record = self.record_mut();
        record.revision = assignment.revision;
        record.superseded = false;
        match assignment.want {
            Want::Run(run) => record.run = Some(run),
            Want::Stop { reason } => {
                // A stop is never taken back, and the first reason is the one that counts.
                record.stop.get_or_insert(reason);
            }
        }
    }

    /// The whole set no longer has it.
    pub(super) fn supersede(&mut self) {
        if !self.record.superseded {
            self.record_mut().superseded = true;
        }
    }

    /// The worker leaves.
    pub(super) fn leave(&mut self) {
        if self.record.stop.is_none() {
            self.record_mut().stop = Some(LEAVING.to_owned());
        }
    }

    pub(super) fn is_to_end(&self) -> bool {
        self.record.superseded || self.record.stop.is_some()
    }

    // What it does when nobody has to be waited for.

    /// Takes the next step that is due.
    pub(super) fn advance(&mut self, ctx: &mut Context) {
        match self.phase {
            Phase::Waiting { .. } | Phase::Looking | Phase::Pulling if self.is_to_end() => {
                self.end_without_container(ctx)
            }
            Phase::Waiting { until_ms } if until_ms <= ctx.now_ms && self.may_start(ctx) => {
                self.look_for_image(ctx)
            }
            Phase::Running
                if (self.is_to_end() || self.unhealthy.is_some()) && ctx.runtime.is_ready() =>
            {
                self.stop(ctx)
            }
            Phase::Running if self.checker.ask_at_ms().is_some_and(|at| at <= ctx.now_ms) => {
                self.probe(ctx)
            }
            Phase::Stopping { again_at_ms: Some(at) }
                if at <= ctx.now_ms && ctx.runtime.is_ready() =>
            {
                self.stop(ctx);
            }
            _ => {}
        }
    }

    /// When it has something to do by itself.
    pub(super) fn wakeup(&self, ctx: &Context) -> Option<u64> {
        match self.phase {
            Phase::Waiting { until_ms } if self.may_start(ctx) => Some(until_ms),
            Phase::Stopping { again_at_ms } if ctx.runtime.is_ready() => again_at_ms,
            Phase::Running => self.checker.ask_at_ms().filter(|_| ctx.runtime.is_ready()),
            _ => None,
        }
    }

    fn may_start(&self, ctx: &Context) -> bool {
        let run = self.record.run.as_ref();
        // While this worker did not run, an operator may have said that nothing of it does, and a fenced task been
        // replaced: only the leader knows.
        let may_be_replaced = !ctx.synced && run.is_some_and(|run| run.epoch.is_some());
        ctx.runtime.is_ready()
            && !may_be_replaced
            && !ctx.shelf.blocks(self.id())
            && !run.is_some_and(|run| ctx.stock.is_leaving_from(&run.spec))
    }

    fn stop(&mut self, ctx: &mut Context) {
        let Some(container_id) = self.record.container_id.clone() else {
            // A running container without an id cannot be; a list will tell.
            self.look_again(ctx);
            return;
        };
        let reason = self.record.stop.clone().or_else(|| self.unhealthy.clone());
        self.report(ctx, TaskState::Stopping, None, reason);
        self.checker.end();
        self.phase = Phase::Stopping { again_at_ms: None };
        ctx.actions.push(Action::StopContainer { container_id, grace_ms: self.grace_ms() });
    }

    fn look_again(&mut self, ctx: &mut Context) {
        self.phase = Phase::Unseen;
        ctx.runtime.doubt(ctx.now_ms);
    }

    // Attempts.

    /// Begins its first attempt, or ends it when there is to be none.
    pub(super) fn begin(&mut self, ctx: &mut Context) {
        if self.is_to_end() {
            return self.end_without_container(ctx);
        }
        let Some(run) = &self.record.run else { return };
        let image = &run.spec.image;
        let reason = match run.spec.pull {
            _ if !ctx.runtime.is_ready() => match ctx.runtime.error() {
                Some(error) => format!("waiting for the container runtime: {error}"),
                None => "waiting for a look at the container runtime".to_owned(),
            },
            PullPolicy::IfMissing => format!("pulling {image} unless it is here"),
            PullPolicy::Always => format!("pulling {image}"),
            PullPolicy::Never => format!("looking for {image}, which is never pulled"),
        };
        self.mint(ctx, ctx.now_ms, None, reason);
    }

    /// Mints the next attempt: above all that are known, and above the floor.
    fn mint(&mut self, ctx: &mut Context, until_ms: u64, exit_code: Option<i64>, reason: String) {
        let floor = self.record.run.as_ref().map_or(0, |run| run.attempt_floor);
        let record = self.record_mut();
        record.attempt = record.attempt.max(floor).saturating_add(1);
        record.state = TaskState::Assigned;
        record.container_id = None;
        record.health = None;
        record.pulls_failed = 0;
        self.is_created = false;
        self.early_end = None;
        self.unhealthy = None;
        self.report(ctx, TaskState::Preparing, exit_code, Some(reason));
        self.phase = Phase::Waiting { until_ms };
    }

    /// Goes on with an attempt that was minted before and whose container does not run, though it may have
    /// been created. Its wait begins anew: when an earlier run of the worker began it nobody knows.
    pub(super) fn resume(&mut self, ctx: &Context) {
        let policy = self.policy();
        let delay_ms = match self.restarts.len().checked_sub(1) {
            Some(before) => backoff::delay_ms(&policy, before, self.seed()),
            None => 0,
        };
        let restart_at_ms = ctx.now_ms.saturating_add(delay_ms);
        let until_ms = self.image_tried_at(ctx).unwrap_or(restart_at_ms);
        self.phase = Phase::Waiting { until_ms };
    }

    /// Takes over an attempt that the runtime knows and the record does not: the worker's disk was lost.
    pub(super) fn take_over(&mut self, attempt: u64) {
        let record = self.record_mut();
        record.attempt = attempt;
        record.state = TaskState::Assigned;
        record.container_id = None;
    }

    fn seed(&self) -> u64 {
        backoff::seed(self.record.task, self.record.attempt)
    }

    fn policy(&self) -> RestartPolicy {
        self.record
            .run
            .as_ref()
            .and_then(|run| run.spec.restart.clone())
            // Stored specs are resolved, so this is for a manager that forgot to.
            .unwrap_or_else(|| RestartPolicy::usual(RestartMode::OnFailure))
    }

    // What the runtime says.

    fn start(&mut self, ctx: &mut Context) {
        let (Some(cluster_id), Some(mut run)) =
            (ctx.cluster_id, self.record.run.as_deref().cloned())
        else {
            return;
        };
        let is_fenced = |epoch| fencing_token(epoch, self.record.attempt).is_some();
        if !run.epoch.is_none_or(is_fenced) {
            return self.forbidden(
                ctx,
                "this task has no fencing tokens left; its replacement has new ones",
            );
        }
        if let Err(reason) = self.choose_ports(ctx, &mut run) {
            return self.attempt_failed(ctx, &reason);
        }
        let owner = Owner {
            cluster_id,
            node: ctx.node.clone(),
            task: self.record.task,
            attempt: self.record.attempt,
        };
        let mut labels = owner.labels(self.record.revision, &run);
        if !self.record.ports.is_empty() {
            labels.insert(labels::PORTS.to_owned(), labels::write_ports(&self.record.ports));
        }
        ctx.stock.volumes_of(&run.spec, ctx.wall_ms, &mut ctx.writes);
        ctx.actions.push(Action::StartContainer(Box::new(StartContainer {
            task: owner.task,
            attempt: owner.attempt,
            name: owner.container_name(),
            labels,
            run,
        })));
        self.phase = Phase::Starting;
    }

    /// Fills in the ports that the worker chooses: those of the attempt before, where they still fit.
    fn choose_ports(&mut self, ctx: &mut Context, run: &mut RunTask) -> Result<(), String> {
        if !run.spec.ports.iter().any(Port::is_dynamic) {
            return Ok(());
        }
        let fits = |(chosen, wish): (&Port, &Port)| {
            *chosen == Port { host: chosen.host, ..wish.clone() }
                && (wish.is_dynamic() || wish.host == chosen.host)
        };
        let is_chosen = self.record.ports.len() == run.spec.ports.len()
            && self.record.ports.iter().zip(&run.spec.ports).all(fits);
        if !is_chosen {
            let chosen = ctx.ports.choose(self.id(), &run.spec.ports, self.seed())?;
            self.record_mut().ports = chosen;
        }
        run.spec.ports.clone_from(&self.record.ports);
        Ok(())
    }

    /// Takes the ports over that a container has which this record knows nothing of: the worker's disk was lost.
    pub(super) fn take_over_ports(&mut self, ctx: &mut Context, container: &Container) {
        let Some(run) = self.record.run.as_deref().filter(|_| self.record.ports.is_empty()) else {
            return;
        };
        if let Some(ports) = labels::read_ports(&container.labels, &run.spec.ports) {
            ctx.ports.hold(self.id(), &ports);
            self.record_mut().ports = ports;
        }
    }

    /// Its start was answered.
    pub(super) fn started(
        &mut self,
        ctx: &mut Context,
        attempt: u64,
        result: Result<StartedContainer, Failure>,
    ) {
        if attempt != self.record.attempt || self.phase != Phase::Starting {
            // An event was faster, or the attempt is over: what runs now and is not wanted shows in the
            // next list.
            return;
        }
        match result {
            Ok(StartedContainer { container_id, ended: None }) => {
                self.found_running(ctx, container_id)
            }
            Ok(StartedContainer { container_id, ended: Some(end) }) => {
                self.found_ended(ctx, container_id, end);
            }
            Err(Failure::RuntimeAway) => self.look_again(ctx),
            Err(Failure::Refused(reason)) => {
                self.attempt_failed(ctx, &reason);
            }
            Err(Failure::Forbidden(reason)) => self.forbidden(ctx, &reason),
        }
    }

    /// Its container runs.
    pub(super) fn found_running(&mut self, ctx: &mut Context, container_id: String) {
        self.known_since_step = ctx.step;
        self.is_created = false;
        if self.record.container_id.as_ref() != Some(&container_id) {
            self.record_mut().container_id = Some(container_id);
        }
        self.phase = Phase::Running;
        if let Some(check) = self.check() {
            self.checker.begin(&check, ctx.now_ms);
            let starting = HealthReport { status: Health::Starting, sequence: 1 };
            if self.record.health.is_none() {
                self.record_mut().health = Some(starting);
            }
        }
        if self.record.state == TaskState::Stopping && !self.is_to_end() {
            // The worker that was ending it for its health went down meanwhile.
            self.unhealthy
                .get_or_insert_with(|| "unhealthy when the worker was started anew".to_owned());
        }
        self.report(ctx, TaskState::Running, None, None);
        let early_end = self.early_end.take();
        if let Some((container_id, end)) = early_end
            && self.record.container_id.as_ref() == Some(&container_id)
        {
            self.container_ended(ctx, end);
        }
    }

    /// Its container ran, and has ended.
    pub(super) fn found_ended(
        &mut self,
        ctx: &mut Context,
        container_id: String,
        end: ContainerEnd,
    ) {
        self.early_end = Some((container_id.clone(), end));
        self.found_running(ctx, container_id);
    }

    /// Some container of its attempt has ended, and it is not known yet whether that is its own.
    pub(super) fn set_early_end(&mut self, container_id: String, end: ContainerEnd) {
        self.early_end = Some((container_id, end));
    }

    /// Its container, which ran, has ended.
    pub(super) fn container_ended(&mut self, ctx: &mut Context, end: ContainerEnd) {
        if let Some(container_id) = self.record.container_id.clone() {
            ctx.keep(self.id(), self.record.attempt, container_id);
        }
        self.checker.end();
        match self.unhealthy.take() {
            // However well it took its end.
            Some(why) => {
                let what = format!("was {why}, and was ended");
                self.attempt_over(ctx, end.exit_code, false, &what);
            }
            None => {
                let what = self.describe(end);
                self.attempt_over(ctx, end.exit_code, end.exit_code == Some(0), &what);
            }
        }
    }

    /// Its stop was answered.
    pub(super) fn stopped(&mut self, ctx: &mut Context, result: &Result<ContainerEnd, Failure>) {
        match result {
            Ok(end) => self.container_ended(ctx, *end),
            Err(Failure::RuntimeAway) => self.look_again(ctx),
            Err(Failure::Refused(_) | Failure::Forbidden(_)) => {
                let again_at_ms = Some(ctx.now_ms.saturating_add(RETRY_MS));
                self.phase = Phase::Stopping { again_at_ms };
            }
        }
    }

    /// Its last report, when it was told to end or ended by itself.
    pub(super) fn into_end_report(self) -> Option<TaskReport> {
        self.record.end.map(|end| end.1)
    }
}

/// Monotonic time as a number that may lie before the process.
fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
