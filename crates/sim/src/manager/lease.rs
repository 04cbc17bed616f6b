//! The lease, as `lease.rs` of the manager does. When it is taken and lost is the core's to say.

use longshore_core::leadership::lease::{
    LOOK_INTERVAL_MS, RENEW_INTERVAL_MS, Refused, Seen, TTL_MS, Waiting, is_stuck,
};

use super::{ACK_TIMEOUT, Context, Held, Manager, Output, Phase, Purpose, Shared, Timer};
use crate::jetstream::{Holder, Request, Response};
use crate::sabotage::Sabotage;
use crate::time::{MS, Micros};

impl Manager {
    /// Takes the lease if it is free, before anything else.
    pub(super) fn attempt(&mut self, ctx: &mut Context<'_>) {
        self.phase = Phase::Attempting;
        self.ask(Request::LeaseLook, ACK_TIMEOUT, Purpose::LookBefore, ctx);
    }

    /// Begins to wait for the lease.
    pub(super) fn wait_for_lease(&mut self, ctx: &mut Context<'_>) {
        self.waiting_for_lease = Waiting::default();
        self.look_soon(ctx);
    }

    fn look_soon(&self, ctx: &mut Context<'_>) {
        ctx.out.push(Output::Wake(ctx.now + LOOK_INTERVAL_MS * MS, Timer::Look(self.opened)));
    }

    fn waits_for_lease(&self) -> bool {
        let waits = matches!(self.phase, Phase::Attempting | Phase::Standing) || self.heals();
        waits && self.held.is_none()
    }

    pub(super) fn look(&mut self, ctx: &mut Context<'_>) {
        if self.waits_for_lease() {
            self.ask(Request::LeaseLook, ACK_TIMEOUT, Purpose::LookBefore, ctx);
        }
    }

    fn seen(&self, response: Option<Response>) -> Option<Seen<Holder>> {
        let Some(Response::Lease { sequence, holder }) = response else { return None };
        Some(Seen { sequence, other: holder.filter(|holder| holder.store != self.store) })
    }

    pub(super) fn looked(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        if !self.waits_for_lease() {
            return;
        }
        let (seen, now) = (self.seen(response), self.clock.read(ctx.now).time);
        let is_attempt = matches!(self.phase, Phase::Attempting);
        let takes = if is_attempt {
            seen.as_ref().is_some_and(Seen::is_free)
        } else {
            let is_listed = self.heals() || self.is_listed();
            self.waiting_for_lease.look(seen.as_ref(), is_listed, now)
        };
        match seen.filter(|_| takes && ctx.sabotage != Some(Sabotage::NeverLead)) {
            Some(seen) => {
                let request = self.lease_write(seen.sequence, ctx.sabotage);
                self.ask(request, ACK_TIMEOUT, Purpose::Acquire, ctx);
            }
            None if is_attempt => self.stand(ctx),
            None => self.look_soon(ctx),
        }
    }

    fn lease_write(&self, expected: u64, sabotage: Option<Sabotage>) -> Request {
        let ttl: Option<Micros> =
            (sabotage != Some(Sabotage::LeaseWithoutEnd)).then_some(TTL_MS * MS);
        let holder = Holder { manager: self.identity.manager, store: self.store };
        Request::LeaseWrite { expected, ttl, holder: Some(holder) }
    }

    pub(super) fn acquired(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        if !self.waits_for_lease() {
            return;
        }
        let Some(Response::Stored { sequence, .. }) = response else {
            return match self.phase {
                Phase::Attempting => self.stand(ctx),
                _ => self.look_soon(ctx),
            };
        };
        self.reigns += 1;
        self.held = Some(Held { reign: self.reigns, sequence, lost: false });
        self.moved_at = ctx.now;
        self.shared = Shared::asked_for(ctx.now);
        ctx.out.push(Output::Wake(ctx.now + RENEW_INTERVAL_MS * MS, Timer::Renew(self.reigns)));
        if self.heals() {
            return self.heal_on(ctx);
        }
        if !self.tail_syncing {
            self.catch_up(ctx);
        }
    }

    fn renew_soon(reign: u64, ctx: &mut Context<'_>) {
        ctx.out.push(Output::Wake(ctx.now + RENEW_INTERVAL_MS * MS, Timer::Renew(reign)));
    }

    pub(super) fn renew(&mut self, reign: u64, ctx: &mut Context<'_>) {
        let Some(held) = self.held.as_ref().filter(|held| held.reign == reign && !held.lost) else {
            return;
        };
        let (moved, now) = (self.clock.read(self.moved_at).time, self.clock.read(ctx.now).time);
        if is_stuck(moved, now) {
            return Self::renew_soon(reign, ctx);
        }
        let request = self.lease_write(held.sequence, ctx.sabotage);
        self.ask(request, ACK_TIMEOUT, Purpose::Renew(reign), ctx);
    }

    pub(super) fn renewed(
        &mut self,
        reign: u64,
        response: Option<Response>,
        ctx: &mut Context<'_>,
    ) {
        let Some(held) = self.held.as_mut().filter(|held| held.reign == reign) else { return };
        match response {
            Some(Response::WrongLast) => {
                let purpose = Purpose::LookAfter(reign);
                return self.ask(Request::LeaseLook, ACK_TIMEOUT, purpose, ctx);
            }
            Some(Response::Stored { sequence, .. }) => held.sequence = sequence,
            _ => {}
        }
        Self::renew_soon(reign, ctx);
    }

    pub(super) fn looked_after(
        &mut self,
        reign: u64,
        response: Option<Response>,
        ctx: &mut Context<'_>,
    ) {
        let seen = self.seen(response);
        let Some(held) = self.held.as_mut().filter(|held| held.reign == reign) else { return };
        match seen.map(Refused::from) {
            Some(Refused::Ours(sequence)) => held.sequence = sequence,
            Some(Refused::Lost(_)) => {
                held.lost = true;
                return self.turn_soon(ctx);
            }
            None => {}
        }
        Self::renew_soon(reign, ctx);
    }

    /// Gives the lease up, if it is held.
    pub(super) fn release(&mut self, ctx: &mut Context<'_>) {
        match self.held.take() {
            Some(held) if !held.lost => {
                let (expected, ttl) = (held.sequence, Some(crate::time::SECOND));
                let request = Request::LeaseWrite { expected, ttl, holder: None };
                self.ask(request, ACK_TIMEOUT, Purpose::GiveUp, ctx);
            }
            _ if self.cancelled => self.exit(ctx),
            _ => {}
        }
    }
}
