//! That a manager is there, under its name, as `presence.rs` of the manager does: one key, written again each second.
//! It goes on for as long as the process runs, whatever else that does.

use super::{Context, Ended, Manager, Output, Phase, Purpose, Timer};
use crate::jetstream::{NAME_TTL, Request, Response};
use crate::sabotage::Sabotage;
use crate::time::{MS, Micros, SECOND};

const ANSWER_TIMEOUT: Micros = 2 * SECOND;
const WRITE_INTERVAL: Micros = SECOND;
const LOOK_AGAIN: Micros = 500 * MS;

/// What a manager knows of its name.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// Whether the name is this manager's.
    claimed: bool,
    /// The sequence that the next write must expect.
    sequence: u64,
    /// The sequence at which another data directory was seen under the name.
    seen: Option<u64>,
    /// Another manager has the name.
    lost: bool,
}

impl Manager {
    /// Whether it is there under its name, as far as it knows.
    pub fn is_present(&self) -> bool {
        self.presence.claimed && !self.presence.lost
    }

    /// The data directory.
    pub fn store(&self) -> uuid::Uuid {
        self.store
    }

    pub(super) fn look_for_name(&mut self, ctx: &mut Context<'_>) {
        let request = Request::NameLook(self.identity.name.clone());
        self.ask(request, ANSWER_TIMEOUT, Purpose::NameLook, ctx);
    }

    /// The log is open: it goes on once the name is this manager's.
    pub(super) fn await_name(&mut self, ctx: &mut Context<'_>) {
        if self.presence.claimed {
            return self.load(ctx);
        }
        self.phase = Phase::Claiming;
    }

    pub(super) fn name_seen(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        let found = match response {
            Some(Response::Name { sequence, store }) => {
                let shares = ctx.sabotage == Some(Sabotage::ShareTheName);
                let is_free = shares || store.is_none_or(|store| store == self.store);
                Some((sequence, is_free))
            }
            _ => None,
        };
        let presence = &mut self.presence;
        match (found, presence.claimed) {
            (Some((sequence, true)), false) => {
                presence.sequence = sequence;
                self.write_name(ctx);
            }
            (Some((sequence, true)), true) => {
                presence.sequence = sequence;
                self.write_name_later(WRITE_INTERVAL, ctx);
            }
            (Some((sequence, false)), false) => {
                // It is still there when its key moves.
                if presence.seen.is_some_and(|seen| seen != sequence) {
                    return self.name_lost(ctx);
                }
                presence.seen = Some(sequence);
                self.write_name_later(LOOK_AGAIN, ctx);
            }
            (Some((_, false)), true) => self.name_lost(ctx),
            (None, false) => self.write_name_later(LOOK_AGAIN, ctx),
            (None, true) => self.write_name_later(WRITE_INTERVAL, ctx),
        }
    }

    fn write_name_later(&self, wait: Micros, ctx: &mut Context<'_>) {
        ctx.out.push(Output::Wake(ctx.now + wait, Timer::Name));
    }

    /// It is time to write the key, or to look at it again.
    pub(super) fn name_due(&mut self, ctx: &mut Context<'_>) {
        if self.presence.claimed { self.write_name(ctx) } else { self.look_for_name(ctx) }
    }

    fn write_name(&mut self, ctx: &mut Context<'_>) {
        let request = self.name_write(Some(self.store), NAME_TTL);
        self.ask(request, ANSWER_TIMEOUT, Purpose::NameWrite, ctx);
    }

    fn name_write(&self, store: Option<uuid::Uuid>, ttl: Micros) -> Request {
        let (name, expected) = (self.identity.name.clone(), self.presence.sequence);
        Request::NameWrite { name, expected, store, ttl }
    }

    pub(super) fn name_written(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        let was_claimed = self.presence.claimed;
        match response {
            Some(Response::Stored { sequence, .. }) => {
                (self.presence.claimed, self.presence.sequence) = (true, sequence);
                self.write_name_later(WRITE_INTERVAL, ctx);
                if !was_claimed && matches!(self.phase, Phase::Claiming) {
                    self.load(ctx);
                }
            }
            // Perhaps its own, whose acknowledgement was lost; or the key has ended meanwhile.
            Some(Response::WrongLast) if was_claimed => self.look_for_name(ctx),
            _ if was_claimed => self.write_name_later(WRITE_INTERVAL, ctx),
            _ => self.write_name_later(LOOK_AGAIN, ctx),
        }
    }

    /// Another manager has the name: it ends in good order.
    fn name_lost(&mut self, ctx: &mut Context<'_>) {
        self.presence.lost = true;
        self.why = Ended::NameTaken;
        self.cancel(ctx);
    }

    /// Ends the process; frees the name at once for a successor.
    pub(super) fn exit(&mut self, ctx: &mut Context<'_>) {
        if self.is_present() {
            let request = self.name_write(None, SECOND);
            self.ask(request, ANSWER_TIMEOUT, Purpose::GiveUp, ctx);
        }
        ctx.out.push(Output::Exit(self.why));
    }
}
