//! How an attempt ends: what is cleared away, what follows by the restart policy, and how that is put into words.

use longshore_proto::quantity::{format_bytes, format_duration};
use longshore_proto::state::TaskState;

use super::{Phase, Task, signed};
use crate::agent::backoff::{self, Verdict};
use crate::agent::context::Context;
use crate::agent::input::ContainerEnd;
use crate::agent::labels::Owner;

impl Task {
    pub(super) fn attempt_failed(&mut self, ctx: &mut Context, reason: &str) {
        self.give_up_attempt(ctx);
        self.attempt_over(ctx, None, false, &format!("could not start: {reason}"));
    }

    /// This node will never run it, so that no restart can help: another node may.
    pub(super) fn forbidden(&mut self, ctx: &mut Context, reason: &str) {
        self.give_up_attempt(ctx);
        self.phase = Phase::Ended;
        let (state, reason) = match self.record.stop.clone() {
            Some(stop) => (TaskState::Stopped, stop),
            None => (TaskState::Failed, format!("could not start: {reason}")),
        };
        self.report(ctx, state, None, Some(reason));
    }

    /// Clears away what was made for an attempt that could not start.
    fn give_up_attempt(&mut self, ctx: &mut Context) {
        if self.is_created || self.phase == Phase::Starting {
            self.clear_away(ctx);
        }
        if !self.record.ports.is_empty() {
            // One of them may be held by a stranger: the next attempt gets others.
            self.record_mut().ports = Vec::new();
            ctx.ports.release(self.id());
            let fixed = self.record.run.iter().flat_map(|run| &run.spec.ports);
            ctx.ports.hold(self.record.task, fixed);
        }
    }

    pub(super) fn end_without_container(&mut self, ctx: &mut Context) {
        if self.is_created {
            self.clear_away(ctx);
        }
        self.phase = Phase::Ended;
        let reason = self.record.stop.clone();
        self.report(ctx, TaskState::Stopped, None, reason);
    }

    /// Removes whatever was created for the attempt: it may even start late, so that the next one waits, and has its grace.
    fn clear_away(&mut self, ctx: &mut Context) {
        let Some(cluster_id) = ctx.cluster_id else { return };
        let (task, attempt) = (self.record.task, self.record.attempt);
        let owner = Owner { cluster_id, node: ctx.node.clone(), task, attempt };
        ctx.remove(owner.container_name(), Some(task), self.grace_ms());
    }

    /// The attempt has ended: what follows is the stop that was wanted, or what the policy says.
    pub(super) fn attempt_over(
        &mut self,
        ctx: &mut Context,
        exit_code: Option<i64>,
        is_clean: bool,
        what: &str,
    ) {
        if self.is_to_end() {
            self.phase = Phase::Ended;
            let reason = self.record.stop.clone();
            self.report(ctx, TaskState::Stopped, exit_code, reason);
            return;
        }
        let (policy, attempt, seed) = (self.policy(), self.record.attempt, self.seed());
        let now_ms = signed(ctx.now_ms);
        let verdict = backoff::judge(&policy, &mut self.restarts, is_clean, now_ms, seed);
        let unix_ms = |at: &i64| ctx.wall_ms.saturating_sub(now_ms.abs_diff(*at));
        let restarts_at_ms = self.restarts.iter().map(unix_ms).collect();
        self.record_mut().restarts_at_ms = restarts_at_ms;
        let (state, reason) = match verdict {
            Verdict::Completed => (TaskState::Completed, what.to_owned()),
            Verdict::Failed => (TaskState::Failed, what.to_owned()),
            Verdict::GivenUp => {
                let (count, window) = (self.restarts.len(), format_duration(policy.window_ms));
                let plural = if count == 1 { "" } else { "s" };
                (
                    TaskState::Failed,
                    format!("gave up after {count} restart{plural} in {window}: {what}"),
                )
            }
            Verdict::Restart { delay_ms } => {
                let delay = format_duration(delay_ms);
                let reason = format!("attempt {attempt} {what}; restart in {delay}");
                return self.mint(ctx, ctx.now_ms.saturating_add(delay_ms), exit_code, reason);
            }
        };
        self.phase = Phase::Ended;
        self.report(ctx, state, exit_code, Some(reason));
    }

    pub(super) fn describe(&self, end: ContainerEnd) -> String {
        let Some(code) = end.exit_code else {
            return "lost its container: it was removed from outside, or the runtime lost it"
                .into();
        };
        if end.out_of_memory {
            let limit = self.record.run.as_ref().map_or(0, |run| run.spec.resources.memory_bytes);
            return format!(
                "exited with code {code} (out of memory; its limit is {})",
                format_bytes(limit)
            );
        }
        if end.network_lost {
            return format!(
                "exited with code {code} (killed by the worker: the sandbox that held its network had ended)"
            );
        }
        let meaning = match code {
            126 => " (its command cannot be executed)",
            127 => " (its command was not found)",
            134 => " (aborted)",
            137 => " (killed)",
            139 => " (segmentation fault)",
            143 => " (terminated)",
            _ => "",
        };
        format!("exited with code {code}{meaning}")
    }
}
