//! A running task's health: when it is asked for, and what an answer changes.

use longshore_proto::container::Network;
use longshore_proto::health::{HealthCheck, HealthReport};

use super::{Phase, Task};
use crate::agent::context::Context;
use crate::agent::health::Finding;
use crate::agent::input::Failure;
use crate::agent::step::{Action, ProbeTask};

impl Task {
    pub(super) fn check(&self) -> Option<HealthCheck> {
        self.record.run.as_ref().and_then(|run| run.spec.health.clone())
    }

    /// Asks for its health.
    pub(super) fn probe(&mut self, ctx: &mut Context) {
        if !ctx.runtime.is_ready() {
            return;
        }
        let (Some(check), Some(run), Some(container_id)) =
            (self.check(), &self.record.run, self.record.container_id.clone())
        else {
            return self.checker.end();
        };
        let chosen = &self.record.ports;
        ctx.actions.push(Action::ProbeTask(Box::new(ProbeTask {
            task: self.record.task,
            attempt: self.record.attempt,
            container_id,
            check,
            ports: if chosen.is_empty() { run.spec.ports.clone() } else { chosen.clone() },
            is_on_host_network: run.spec.container.network == Network::Host,
        })));
        self.checker.asked();
    }

    /// Its health was told.
    pub(in crate::agent) fn probed(
        &mut self,
        ctx: &mut Context,
        attempt: u64,
        result: &Result<(), Failure>,
    ) {
        let Some(check) = self.check() else { return };
        if self.phase != Phase::Running || attempt != self.record.attempt {
            return;
        }
        let why = match result {
            Ok(()) => None,
            Err(Failure::Refused(why) | Failure::Forbidden(why)) => Some(why.as_str()),
            // Nothing is known, so that nothing is held against it.
            Err(Failure::RuntimeAway) => return self.checker.unanswered(&check, ctx.now_ms),
        };
        let known = self.record.health;
        let finding = self.checker.answered(&check, known, why.is_none(), ctx.now_ms);
        let Finding::Changed(status) = finding else { return };
        let sequence = known.map_or(0, |known| known.sequence) + 1;
        self.record_mut().health = Some(HealthReport { status, sequence });
        match why {
            Some(why) => {
                let reason = format!("unhealthy ({why})");
                self.report_again(ctx, reason.clone());
                self.unhealthy = Some(reason);
            }
            None => self.report_again(ctx, status.as_str().to_owned()),
        }
    }
}
