//! What is said of a task to the manager: each step forward once, and again what was lost.

use longshore_proto::node::{TaskKnown, TaskReport};
use longshore_proto::state::{Mover, TaskState, is_legal_move};

use super::Task;
use crate::agent::context::Context;

impl Task {
    /// Says that a state was reached, if that is a step forward.
    pub(super) fn report(
        &mut self,
        ctx: &mut Context,
        state: TaskState,
        exit_code: Option<i64>,
        reason: Option<String>,
    ) {
        let floor = self.record.run.as_ref().map_or(0, |run| run.attempt_floor);
        if self.record.attempt == 0 {
            // An end before any attempt still needs a number that the manager has not seen yet.
            self.record_mut().attempt = floor.saturating_add(1);
        }
        let attempt = self.record.attempt;
        if !is_legal_move((attempt, self.record.state), (attempt, state), Mover::Worker) {
            return;
        }
        self.record_mut().state = state;
        if state.is_terminal() {
            ctx.ports.release(self.id());
        }
        self.tell(ctx, state, exit_code, reason);
    }

    /// Says again that it runs, because something else than its state has changed.
    pub(super) fn report_again(&mut self, ctx: &mut Context, reason: String) {
        if self.record.state == TaskState::Running {
            self.tell(ctx, TaskState::Running, None, Some(reason));
        }
    }

    /// The leader knows less than was delivered: it has lost that, and is told again.
    pub(in crate::agent) fn remind(&mut self, known: TaskKnown, ctx: &mut Context) {
        let (attempt, state) = (self.record.attempt, self.record.state);
        if !state.is_terminal()
            && is_legal_move((known.attempt, known.state), (attempt, state), Mover::Worker)
        {
            self.tell(ctx, state, None, None);
        }
    }

    /// Says how it stands. Of a superseded task nobody wants to hear.
    pub(super) fn tell(
        &mut self,
        ctx: &mut Context,
        state: TaskState,
        exit_code: Option<i64>,
        reason: Option<String>,
    ) {
        if self.record.superseded {
            return;
        }
        let runs = state == TaskState::Running;
        let attempt = self.record.attempt;
        let report = TaskReport {
            task: self.id(),
            attempt,
            state,
            boot_id: ctx.boot_id,
            container_id: self.record.container_id.clone(),
            exit_code,
            reason,
            ports: if runs { self.record.ports.clone() } else { Vec::new() },
            health: self.record.health.filter(|_| runs),
            pulls_failed: self.record.pulls_failed,
            at_ms: ctx.wall_ms,
        };
        let place = ctx.outbox.push(report.clone(), ctx.now_ms, &mut ctx.writes);
        if state.is_terminal() {
            self.record_mut().end = Some(Box::new((place, report)));
        }
    }
}
