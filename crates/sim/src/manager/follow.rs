//! Following the log and standing by, as `log.rs`, `follow.rs`, `standby.rs` and `lease.rs` do.

use longshore_core::cluster::persist;
use longshore_core::cluster::record::{Hash, Record};
use longshore_core::cluster::{Cluster, State};

use super::{
    ACK_TIMEOUT, CHECK_INTERVAL, Context, Held, LEASE_PATIENCE, LEASE_TTL, LOOK_INTERVAL, Manager,
    Output, Phase, Purpose, READ_TIMEOUT, RENEW_INTERVAL, RETRY_DELAY, STUCK_AFTER, Timer,
    hash_writes, node_name,
};
use crate::check::Note;
use crate::disk::ManagerBatch;
use crate::jetstream::{Bytes, Holder, Request, Response};
use crate::message::Message;
use crate::sabotage::Sabotage;
use crate::time::{MS, Micros};

impl Manager {
    // Opening the log.

    pub(super) fn open(&mut self, ctx: &mut Context<'_>) {
        self.opened += 1;
        self.phase = Phase::Opening;
        self.ask(Request::LogInfo, READ_TIMEOUT, Purpose::Open, ctx);
    }

    pub(super) fn opened(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        if !matches!(self.phase, Phase::Opening) {
            return;
        }
        let Some(Response::Info { created, .. }) = response else {
            return ctx.out.push(Output::Wake(ctx.now + RETRY_DELAY, Timer::Retry));
        };
        match ctx.disk.content().log_created {
            None => {
                if ctx.disk.begin(ManagerBatch::LogCreated(created)) {
                    self.phase = Phase::Marking;
                    ctx.out.push(Output::Sync(1));
                } else {
                    ctx.out.push(Output::Exit("its disk is full"));
                }
            }
            Some(known) if known == created => self.load(ctx),
            Some(_) => ctx.out.push(Output::Exit("the log is another one")),
        }
    }

    pub(super) fn load(&mut self, ctx: &mut Context<'_>) {
        let pairs = ctx.disk.content().state.iter();
        match State::load(pairs.map(|(key, value)| Ok((key.into(), value.into())))) {
            Ok(state) => {
                let (identity, settings) = (self.identity.clone(), self.settings.clone());
                self.cluster = Some(Cluster::new(identity, settings, state));
            }
            Err(_) => return ctx.out.push(Output::Exit("its store cannot be read")),
        }
        self.catch_up(ctx);
    }

    // Catching up.

    fn catch_up(&mut self, ctx: &mut Context<'_>) {
        self.phase = Phase::Reading { end: 0, next: 0 };
        self.ask(Request::LogInfo, READ_TIMEOUT, Purpose::End, ctx);
    }

    /// Whether it is in a reign.
    pub(super) fn leads(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Appending { .. } | Phase::Storing { .. })
    }

    pub(super) fn known(&self) -> u64 {
        self.cluster.as_ref().map_or(0, |cluster| cluster.state().meta.stream_sequence)
    }

    /// Whether the log has lost what was applied.
    fn is_shortened(&self, last: u64, known: u64, ctx: &mut Context<'_>) -> bool {
        let shortened = last < known && ctx.sabotage != Some(Sabotage::LeadOverLostTail);
        if shortened {
            ctx.out.push(Output::Exit("the log ends before the store"));
        }
        shortened
    }

    pub(super) fn end_known(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        if !matches!(self.phase, Phase::Reading { next: 0, .. }) {
            return;
        }
        let Some(Response::Info { last, .. }) = response else {
            return ctx.out.push(Output::Exit("the log cannot be read"));
        };
        let known = self.known();
        if self.is_shortened(last, known, ctx) {
            return;
        }
        self.phase = Phase::Reading { end: last, next: known + 1 };
        if known > 0 && last >= known {
            self.ask(Request::Get(known), READ_TIMEOUT, Purpose::Tip, ctx);
        } else {
            self.read_on(ctx);
        }
    }

    pub(super) fn tip_known(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        let Some(Response::Message(payload)) = response else {
            return ctx.out.push(Output::Exit("the log cannot be read"));
        };
        let differs = payload.is_some_and(|payload| {
            let Ok(record) = Record::decode(&payload) else { return false };
            self.cluster.as_ref().is_some_and(|cluster| {
                let meta = &cluster.state().meta;
                record.index == meta.index && Hash::of(&payload) != meta.chain
            })
        });
        if differs && ctx.sabotage != Some(Sabotage::LeadOverLostTail) {
            return ctx.out.push(Output::Exit("the log contradicts the store"));
        }
        self.read_on(ctx);
    }

    pub(super) fn read_on(&mut self, ctx: &mut Context<'_>) {
        let Phase::Reading { end, next } = self.phase else { return };
        if next == 0 {
            return;
        }
        if next <= end {
            return self.ask(Request::Read(next), READ_TIMEOUT, Purpose::Read, ctx);
        }
        self.last = end;
        if self.held.is_some() {
            self.begin_reign(ctx);
        } else {
            self.phase = Phase::Attempting;
            self.ask(Request::LeaseLook, ACK_TIMEOUT, Purpose::LookBefore, ctx);
        }
    }

    pub(super) fn read(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        let Phase::Reading { end, next } = self.phase else { return };
        let Some(Response::Messages(messages)) = response else {
            return ctx.out.push(Output::Wake(ctx.now + RETRY_DELAY, Timer::Retry));
        };
        let messages: Vec<_> = messages.into_iter().filter(|(at, _)| *at <= end).collect();
        let at = messages.last().map_or(next, |(sequence, _)| sequence + 1);
        if self.apply(messages, ctx) {
            self.phase = Phase::Reading { end, next: at };
        }
    }

    /// Applies messages, and writes what they changed as one batch. False when nothing is written.
    fn apply(&mut self, messages: Vec<(u64, Bytes)>, ctx: &mut Context<'_>) -> bool {
        let Some(cluster) = &mut self.cluster else { return false };
        let mut batch = Vec::new();
        for (sequence, payload) in messages {
            if sequence != cluster.state().meta.stream_sequence + 1 {
                continue;
            }
            let record = Record::decode(&payload).ok();
            let followed = record.and_then(|record| {
                Some((cluster.follow(&record, &payload, sequence).ok()?.0, record))
            });
            match followed {
                Some((writes, record)) => {
                    ctx.notes.push(Note::Applied {
                        manager: self.identity.manager,
                        index: record.index,
                        chain: cluster.state().meta.chain,
                        writes: hash_writes(&writes),
                    });
                    batch.extend(writes);
                }
                // Whatever is not the next record is skipped, by all alike.
                None => batch.push(persist::write_meta(&cluster.state().meta)),
            }
        }
        if ctx.sabotage == Some(Sabotage::StoreForgetsTasks) {
            batch.retain(|write| !write.key.starts_with(b"task/"));
        }
        if batch.is_empty() {
            ctx.out.push(Output::Wake(ctx.now + RETRY_DELAY, Timer::Retry));
            return false;
        }
        if !ctx.disk.begin(ManagerBatch::State(batch)) {
            ctx.out.push(Output::Exit("its disk is full"));
            return false;
        }
        ctx.out.push(Output::Sync(1));
        true
    }

    // Standing by.

    fn stand(&mut self, ctx: &mut Context<'_>) {
        self.phase = Phase::Standing;
        self.still = None;
        self.tail_syncing = false;
        ctx.out.push(Output::Wake(ctx.now + LOOK_INTERVAL, Timer::Look(self.opened)));
        ctx.out.push(Output::Wake(ctx.now + CHECK_INTERVAL, Timer::Check(self.opened)));
        self.read_tail(ctx);
    }

    /// A node's sign of life, heard while another manager leads.
    pub(super) fn overhear(&mut self, message: &Message, ctx: &mut Context<'_>) {
        let now = self.clock.read(ctx.now).time;
        if let (Phase::Standing, Message::Heartbeat { from, heartbeat }, Some(cluster)) =
            (&self.phase, message, &mut self.cluster)
        {
            cluster.overhear(&node_name(*from), heartbeat, now);
        }
    }

    pub(super) fn read_tail(&mut self, ctx: &mut Context<'_>) {
        if matches!(self.phase, Phase::Standing) && !self.tail_syncing {
            self.ask(Request::Read(self.known() + 1), READ_TIMEOUT, Purpose::Tail, ctx);
        }
    }

    pub(super) fn tail(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        if !matches!(self.phase, Phase::Standing) || self.tail_syncing {
            return;
        }
        match response {
            Some(Response::Messages(messages)) if !messages.is_empty() => {
                self.tail_syncing = self.apply(messages, ctx);
            }
            _ => self.tail_soon(ctx),
        }
    }

    pub(super) fn tail_synced(&mut self, ctx: &mut Context<'_>) {
        self.tail_syncing = false;
        if self.held.is_some() { self.catch_up(ctx) } else { self.tail_soon(ctx) }
    }

    fn tail_soon(&mut self, ctx: &mut Context<'_>) {
        let wait = ctx.rng.u64(20 * MS..400 * MS);
        ctx.out.push(Output::Wake(ctx.now + wait, Timer::Tail(self.opened)));
    }

    /// The end of the log, looked at once a second by leader and standby alike.
    pub(super) fn checked(
        &mut self,
        known: u64,
        response: Option<Response>,
        ctx: &mut Context<'_>,
    ) {
        if let Some(Response::Info { last, .. }) = response
            && (self.leads() || matches!(self.phase, Phase::Standing))
            && self.is_shortened(last, known, ctx)
        {
            return;
        }
        ctx.out.push(Output::Wake(ctx.now + CHECK_INTERVAL, Timer::Check(self.opened)));
    }

    // The lease.

    pub(super) fn look(&mut self, ctx: &mut Context<'_>) {
        if matches!(self.phase, Phase::Standing) && self.held.is_none() {
            self.ask(Request::LeaseLook, ACK_TIMEOUT, Purpose::LookBefore, ctx);
        }
    }

    pub(super) fn looked(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        let is_attempt = matches!(self.phase, Phase::Attempting);
        if !is_attempt && !matches!(self.phase, Phase::Standing) || self.held.is_some() {
            return;
        }
        let take = match response {
            Some(Response::Lease { sequence, holder }) => {
                let is_free = holder.is_none_or(|holder| holder.store == self.store);
                let is_still = match self.still {
                    Some((seen, since)) if seen == sequence => {
                        ctx.now.saturating_sub(since) >= LEASE_PATIENCE
                    }
                    _ => {
                        self.still = Some((sequence, ctx.now));
                        false
                    }
                };
                (is_free || is_still && !is_attempt).then_some(sequence)
            }
            // While the bus is away nobody can renew: that silence is not the leader's.
            _ => {
                self.still = None;
                None
            }
        };
        match take.filter(|_| ctx.sabotage != Some(Sabotage::NeverLead)) {
            Some(sequence) => {
                let request = self.lease_write(sequence, ctx.sabotage);
                self.ask(request, ACK_TIMEOUT, Purpose::Acquire, ctx);
            }
            None if is_attempt => self.stand(ctx),
            None => ctx.out.push(Output::Wake(ctx.now + LOOK_INTERVAL, Timer::Look(self.opened))),
        }
    }

    fn lease_write(&self, expected: u64, sabotage: Option<Sabotage>) -> Request {
        let ttl: Option<Micros> =
            (sabotage != Some(Sabotage::LeaseWithoutEnd)).then_some(LEASE_TTL);
        let holder = Holder { manager: self.identity.manager, store: self.store };
        Request::LeaseWrite { expected, ttl, holder: Some(holder) }
    }

    pub(super) fn acquired(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        let is_attempt = matches!(self.phase, Phase::Attempting);
        if !is_attempt && !matches!(self.phase, Phase::Standing) || self.held.is_some() {
            return;
        }
        let Some(Response::Stored { sequence, .. }) = response else {
            if is_attempt {
                return self.stand(ctx);
            }
            return ctx.out.push(Output::Wake(ctx.now + LOOK_INTERVAL, Timer::Look(self.opened)));
        };
        self.reigns += 1;
        self.held = Some(Held { reign: self.reigns, sequence, lost: false });
        self.moved_at = ctx.now;
        ctx.out.push(Output::Wake(ctx.now + RENEW_INTERVAL, Timer::Renew(self.reigns)));
        if !self.tail_syncing {
            self.catch_up(ctx);
        }
    }

    pub(super) fn renew(&mut self, reign: u64, ctx: &mut Context<'_>) {
        let Some(held) = self.held.as_ref().filter(|held| held.reign == reign && !held.lost) else {
            return;
        };
        if ctx.now.saturating_sub(self.moved_at) > STUCK_AFTER {
            return ctx.out.push(Output::Wake(ctx.now + RENEW_INTERVAL, Timer::Renew(reign)));
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
        ctx.out.push(Output::Wake(ctx.now + RENEW_INTERVAL, Timer::Renew(reign)));
    }

    pub(super) fn looked_after(
        &mut self,
        reign: u64,
        response: Option<Response>,
        ctx: &mut Context<'_>,
    ) {
        let store = self.store;
        let Some(held) = self.held.as_mut().filter(|held| held.reign == reign) else { return };
        if let Some(Response::Lease { sequence, holder }) = response {
            if holder.is_none_or(|holder| holder.store == store) {
                held.sequence = sequence;
            } else {
                held.lost = true;
                return self.turn_soon(ctx);
            }
        }
        ctx.out.push(Output::Wake(ctx.now + RENEW_INTERVAL, Timer::Renew(reign)));
    }
}
