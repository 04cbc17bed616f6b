//! A task and its image: looked for, fetched, and what follows when it cannot be had.
//!
//! Nothing of this is a start, so that the restart policy has no say. What may pass by itself (a registry that does not
//! answer) is tried again with a back-off, and the task says so; after some tries it is given up, because another node may fare
//! better. What does not pass (no such image, a refused login) gives it up at once.

use longshore_proto::node::RunTask;
use longshore_proto::spec::PullPolicy;
use longshore_proto::state::TaskState;

use super::{Phase, RETRY_MS, Task};
use crate::agent::backoff;
use crate::agent::context::Context;
use crate::agent::image::ImageWish;
use crate::agent::input::Failure;

/// How many times in a row an image is tried to be had before the task is given up.
pub(in crate::agent) const PULL_TRIES_MAX: u32 = 6;

impl Task {
    /// Looks for its image, when the node allows the task.
    pub(super) fn look_for_image(&mut self, ctx: &mut Context) {
        let Some(run) = &self.record.run else { return };
        if let Err(reason) = ctx.policy.admit(&run.spec) {
            return self.forbidden(ctx, &reason);
        }
        ctx.look_for(ImageWish::of(&run.spec));
        self.phase = Phase::Looking;
    }

    /// A look that it may be waiting for was answered: with the image's id, where it is here.
    pub(in crate::agent) fn image_looked_for(
        &mut self,
        ctx: &mut Context,
        wish: &ImageWish,
        result: &Result<Option<String>, Failure>,
    ) {
        let Some(run) = self.waits_for(Phase::Looking, wish) else { return };
        match (result, run.spec.pull) {
            (Ok(Some(_)), PullPolicy::IfMissing | PullPolicy::Never) => self.image_is_here(ctx),
            (Ok(None), PullPolicy::Never) => {
                let reason = format!(
                    "image {} is not on this node, and its pull policy is never; pull it by hand or change the policy",
                    wish.image
                );
                self.forbidden(ctx, &reason);
            }
            (Ok(found), _) => {
                ctx.fetch(wish, found.as_deref());
                self.phase = Phase::Pulling;
            }
            (Err(failure), _) => self.has_no_image(ctx, failure),
        }
    }

    /// A fetch that it may be waiting for was answered.
    pub(in crate::agent) fn image_fetched(
        &mut self,
        ctx: &mut Context,
        wish: &ImageWish,
        result: &Result<(), Failure>,
    ) {
        if self.waits_for(Phase::Pulling, wish).is_none() {
            return;
        }
        match result {
            Ok(()) => self.image_is_here(ctx),
            Err(failure) => self.has_no_image(ctx, failure),
        }
    }

    fn waits_for(&self, phase: Phase, wish: &ImageWish) -> Option<&RunTask> {
        self.record.run.as_deref().filter(|run| self.phase == phase && wish.is_of(&run.spec))
    }

    fn image_is_here(&mut self, ctx: &mut Context) {
        if self.may_start(ctx) {
            self.start(ctx);
        } else {
            self.phase = Phase::Waiting { until_ms: ctx.now_ms };
        }
    }

    fn has_no_image(&mut self, ctx: &mut Context, failure: &Failure) {
        match failure {
            Failure::RuntimeAway => {
                ctx.runtime.doubt(ctx.now_ms);
                self.phase = Phase::Waiting { until_ms: ctx.now_ms.saturating_add(RETRY_MS) };
            }
            Failure::Refused(reason) => self.try_image_again(ctx, reason),
            Failure::Forbidden(reason) => self.forbidden(ctx, reason),
        }
    }

    fn try_image_again(&mut self, ctx: &mut Context, reason: &str) {
        let failed = self.record.pulls_failed.saturating_add(1);
        if failed >= PULL_TRIES_MAX {
            return self.forbidden(ctx, &format!("{reason} (tried {failed} times)"));
        }
        self.record_mut().pulls_failed = failed;
        self.phase = Phase::Waiting { until_ms: self.image_tried_at(ctx).unwrap_or(ctx.now_ms) };
        if self.record.state == TaskState::Preparing {
            let next = failed + 1;
            let reason = format!("{reason}; trying again, {next} of {PULL_TRIES_MAX}");
            self.tell(ctx, TaskState::Preparing, None, Some(reason));
        }
    }

    /// When its image is tried to be had again, where that has failed.
    pub(super) fn image_tried_at(&self, ctx: &Context) -> Option<u64> {
        let before = self.record.pulls_failed.checked_sub(1)?;
        Some(ctx.now_ms.saturating_add(backoff::pull_delay_ms(before, self.seed())))
    }
}
