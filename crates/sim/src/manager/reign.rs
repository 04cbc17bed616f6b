//! The reign: a manager that leads takes one turn after the other, as `driver.rs` does.

use std::rc::Rc;

use longshore_core::cluster::record::Hash;
use longshore_core::cluster::{Effect, Input, Proposal, Receipt, Reply, Step, Ticket};
use longshore_core::leadership::hearing::{APPEND_PATIENCE_MS, Hearing};
use longshore_core::leadership::log::{Appended, Applied, is_sure, outcome};
use longshore_core::time::Time;
use longshore_proto::id::{ClusterId, Revision};
use longshore_proto::node::{ReportsCommitted, Sync};
use longshore_proto::permission::Role;

use super::publish::Publishing;
use super::{
    ACK_TIMEOUT, Context, INPUTS_MAX, LANDING_MAX, Manager, Output, Pending, Phase, Purpose,
    READ_TIMEOUT, RETRY_DELAY, Timer, hash_writes, node_name, user, uuid, worker_of,
};
use crate::check::Note;
use crate::disk::ManagerBatch;
use crate::jetstream::{Bytes, Request, Response};
use crate::message::{Answer, Message, Process, Question};
use crate::sabotage::Sabotage;
use crate::time::{MS, Micros};

impl Manager {
    pub(super) fn begin_reign(&mut self, ctx: &mut Context<'_>) {
        let now = self.clock.read(ctx.now);
        let (cluster_id, seed) = (ClusterId(uuid(ctx.rng)), *uuid(ctx.rng).as_bytes());
        let Some(cluster) = &mut self.cluster else { return };
        if ctx.sabotage == Some(Sabotage::ReignWithoutElection) && cluster.state().meta.epoch > 0 {
            self.phase = Phase::Idle;
            self.listen(ctx);
            return self.turn_soon(ctx);
        }
        if let Step::Record(proposal) = cluster.begin_reign(cluster_id, now, seed) {
            ctx.notes.push(Note::Elected { manager: self.identity.manager });
            self.propose(*proposal, true, ctx);
        }
    }

    fn listen(&mut self, ctx: &mut Context<'_>) {
        self.listening = true;
        self.looked_at = self.position;
        self.hearing = Hearing::new(self.connections);
        self.check_soon(ctx);
        self.keep_from_now(ctx);
        self.publish_from_now(ctx);
        ctx.notes.push(Note::Listens { manager: self.identity.manager });
    }

    pub(super) fn turn_soon(&mut self, ctx: &mut Context<'_>) {
        let at = ctx.now + ctx.rng.u64(50..300);
        self.turn_by(at, ctx);
    }

    fn turn_by(&mut self, at: Micros, ctx: &mut Context<'_>) {
        if matches!(self.phase, Phase::Idle) && self.turn_at.is_none_or(|planned| at < planned) {
            self.turn_at = Some(at);
            ctx.out.push(Output::Wake(at, Timer::Turn));
        }
    }

    /// One turn of the loop. What has to wait for the disk has its turn when that has synced.
    pub(super) fn turn(&mut self, ctx: &mut Context<'_>) {
        let electing = self.landing.front().is_some_and(|pending| pending.electing);
        if !matches!(self.phase, Phase::Idle) || electing {
            return;
        }
        let landed = self.landing.is_empty();
        if landed {
            self.moved_at = ctx.now;
        }
        if self.cancelled
            || (self.queue.is_empty() && self.held.as_ref().is_some_and(|held| held.lost))
        {
            return if landed {
                self.end_reign(ctx)
            };
        }
        if self.landing.len() >= LANDING_MAX || !(landed || self.syncs.is_empty()) {
            return;
        }
        for (from, number, sync) in std::mem::take(&mut self.syncs) {
            self.answer_sync(from, number, &sync, ctx);
        }
        while self.queue.prompt().max(self.queue.reports()) < INPUTS_MAX {
            let Some(message) = self.gateway.pop_front() else { break };
            self.take(message, ctx);
        }
        // Where nobody waits for an answer, all that there is waits for the disk and becomes one record.
        if !landed && !self.queue.has_requests() {
            return;
        }
        self.queue.extend(self.hearing.look(self.connected, self.connections));
        let (now, seed) = (self.clock.read(ctx.now), *uuid(ctx.rng).as_bytes());
        let Some(cluster) = &mut self.cluster else { return };
        match cluster.propose(&mut self.queue, now, seed) {
            Step::Answers(effects) => {
                match self.landing.back_mut() {
                    Some(last) => last.after.extend(effects),
                    None => self.perform(effects, ctx),
                }
                self.next_turn(ctx);
            }
            Step::Record(proposal) => self.propose(*proposal, false, ctx),
        }
    }

    fn next_turn(&mut self, ctx: &mut Context<'_>) {
        if !self.gateway.is_empty() || !self.queue.is_empty() {
            return self.turn_soon(ctx);
        }
        let Some(cluster) = &self.cluster else { return };
        let at = self.clock.when(cluster.next_wakeup(), ctx.now);
        let at = at.max(ctx.now + ctx.rng.u64(50..300));
        self.turn_by(at, ctx);
    }

    fn propose(&mut self, proposal: Proposal, electing: bool, ctx: &mut Context<'_>) {
        let bytes: Bytes = Rc::from(proposal.bytes());
        let index = proposal.index();
        let manager = self.identity.manager;
        ctx.notes.push(Note::Proposed { manager, index, hash: Hash::of(&bytes) });
        let mut payload = Rc::clone(&bytes);
        let events = proposal.events().to_vec();
        let proposal = Some(proposal);
        let (writes, after) = (Vec::new(), Vec::new());
        let mut pending = Pending { index, bytes, proposal, writes, events, electing, after };
        if let (Some(sabotage), Some(cluster)) = (ctx.sabotage, &mut self.cluster)
            && !electing
        {
            if sabotage == Sabotage::SpeakBeforeCommit
                && let Some(proposal) = pending.proposal.take()
            {
                cluster.appended(self.position.sequence + 1);
                pending.writes = proposal.writes(cluster.state());
                if let Ok(effects) = proposal.release(&Receipt::durable(index)) {
                    self.perform(effects, ctx);
                }
            } else if let Some(rogue) = sabotage.forge(&pending.bytes, cluster.state(), ctx.rng) {
                payload = Rc::from(rogue.encode());
            }
        }
        self.appends += 1;
        self.refusing = false;
        let (id, sent_at) = (ctx.rng.u64(..), Time::default());
        let (looking, answer) = (false, None);
        let pending = Box::new(pending);
        self.phase = Phase::Appending { pending, id, payload, sent_at, looking, answer };
        ctx.out
            .push(Output::Wake(ctx.now + APPEND_PATIENCE_MS * MS, Timer::Patience(self.appends)));
        self.append(ctx);
    }

    pub(super) fn append(&mut self, ctx: &mut Context<'_>) {
        let now = self.clock.read(ctx.now).time;
        let sure = is_sure(self.known_at, now);
        let tip = self.position.tip().filter(|_| !sure);
        let Phase::Appending { id, payload, sent_at, looking, answer, .. } = &mut self.phase else {
            return;
        };
        (*sent_at, *looking, *answer) = (now, tip.is_some(), None);
        let expected = self.position.sequence;
        let request = Request::Append { expected, id: *id, payload: Rc::clone(payload) };
        self.ask(request, ACK_TIMEOUT, Purpose::Append, ctx);
        match tip {
            Some(tip) => self.ask(Request::Get(tip), ACK_TIMEOUT, Purpose::Beside, ctx),
            None if !sure => self.known_at = Some(now),
            None => {}
        }
    }

    /// What stands where this manager stands was looked at beside the append.
    pub(super) fn beside_known(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        let Phase::Appending { looking, answer, sent_at, .. } = &mut self.phase else { return };
        *looking = false;
        let (answer, sent_at) = (answer.take(), *sent_at);
        if let Some(Response::Message(found)) = response {
            match self.position.check(found.as_deref()) {
                Ok(()) => self.known_at = Some(sent_at),
                Err(broken) => return self.broken(broken, ctx),
            }
        }
        if let Some(answer) = answer {
            self.append_answered(answer, ctx);
        }
    }

    pub(super) fn append_answered(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        let Phase::Appending { looking, answer, .. } = &mut self.phase else { return };
        if *looking {
            *answer = Some(response);
            return;
        }
        match response {
            Some(Response::Stored { sequence, duplicate: false })
                if is_sure(self.known_at, self.clock.read(ctx.now).time) =>
            {
                self.appended(sequence, ctx);
            }
            _ => {
                let place = self.position.sequence + 1;
                self.ask(Request::Get(place), READ_TIMEOUT, Purpose::Place, ctx);
            }
        }
    }

    pub(super) fn place_known(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        let Phase::Appending { payload, .. } = &self.phase else { return };
        let place = self.position.sequence + 1;
        let found = match response {
            Some(Response::Message(found)) => found,
            _ => None,
        };
        match outcome(place, found.as_deref(), payload) {
            Some(Appended::At(sequence)) => match self.position.tip() {
                Some(tip) => {
                    self.ask(Request::Get(tip), READ_TIMEOUT, Purpose::Below { sequence }, ctx);
                }
                None => self.appended(sequence, ctx),
            },
            Some(Appended::Fenced) if ctx.sabotage == Some(Sabotage::IgnoreTheFence) => {
                self.appended(place, ctx);
            }
            Some(Appended::Fenced) => self.end_reign(ctx),
            None => ctx.out.push(Output::Wake(ctx.now + RETRY_DELAY, Timer::Retry)),
        }
    }

    /// A record that was on its way for long stands in its place: on what?
    pub(super) fn below_known(
        &mut self,
        sequence: u64,
        response: Option<Response>,
        ctx: &mut Context<'_>,
    ) {
        if !matches!(self.phase, Phase::Appending { .. }) {
            return;
        }
        let Some(Response::Message(found)) = response else {
            return ctx.out.push(Output::Wake(ctx.now + RETRY_DELAY, Timer::Retry));
        };
        match self.position.check(found.as_deref()) {
            Err(broken) => self.broken(broken, ctx),
            Ok(()) => self.appended(sequence, ctx),
        }
    }

    /// Before an append is tried again: a log that has lost what this manager knows of must not take the record.
    pub(super) fn try_again(&mut self, ctx: &mut Context<'_>) {
        self.ask(Request::LogInfo, READ_TIMEOUT, Purpose::EndAfter, ctx);
    }

    pub(super) fn end_after(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        if !matches!(self.phase, Phase::Appending { .. }) {
            return;
        }
        let applied = self.position;
        if let Some(Response::Info(info)) = response {
            match (self.judge(info.as_ref(), applied, ctx), applied.tip()) {
                (Some(Err(broken)), _) => return self.broken(broken, ctx),
                (Some(Ok(_)), Some(tip)) => {
                    return self.ask(Request::Get(tip), READ_TIMEOUT, Purpose::TipAfter, ctx);
                }
                _ => {}
            }
        }
        if self.doubt.is_open() {
            return ctx.out.push(Output::Wake(ctx.now + RETRY_DELAY, Timer::Retry));
        }
        self.append(ctx);
    }

    pub(super) fn tip_after(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        if !matches!(self.phase, Phase::Appending { .. }) {
            return;
        }
        if let Some(Response::Message(found)) = response
            && let Err(broken) = self.position.check(found.as_deref())
        {
            return self.broken(broken, ctx);
        }
        self.append(ctx);
    }

    fn appended(&mut self, sequence: u64, ctx: &mut Context<'_>) {
        if std::mem::take(&mut self.refusing) {
            self.hearing.refused();
        }
        let Some(cluster) = &mut self.cluster else { return };
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Appending { mut pending, payload, sent_at, .. } => {
                self.known_at = Some(sent_at);
                if payload != pending.bytes {
                    // A forged record: this process reads what it wrote, as everybody does.
                    return self.end_reign(ctx);
                }
                cluster.appended(sequence);
                self.position = Applied::of(&cluster.state().meta);
                let mut writes = match &pending.proposal {
                    Some(proposal) => proposal.writes(cluster.state()),
                    None => pending.writes.clone(),
                };
                ctx.notes.push(Note::Applied {
                    manager: self.identity.manager,
                    index: pending.index,
                    chain: Hash::of(&pending.bytes),
                    writes: hash_writes(&writes),
                });
                if ctx.sabotage == Some(Sabotage::StoreForgetsTasks) {
                    writes.retain(|write| !write.key.starts_with(b"task/"));
                }
                let records = vec![(pending.index, Rc::clone(&pending.bytes))];
                let events = std::mem::take(&mut pending.events);
                self.landing.push_back(*pending);
                self.write(vec![ManagerBatch::Records { writes, records, events }], ctx);
                self.turn_soon(ctx);
            }
            other => self.phase = other,
        }
    }

    /// The oldest record that was being written is on the disk.
    pub(super) fn landed(&mut self, ctx: &mut Context<'_>) {
        let Some(pending) = self.landing.pop_front() else { return };
        self.moved_at = ctx.now;
        let receipt = Receipt::durable(pending.index);
        if let Some(Ok(effects)) = pending.proposal.map(|proposal| proposal.release(&receipt)) {
            self.perform(effects, ctx);
        }
        self.perform(pending.after, ctx);
        if pending.electing {
            self.listen(ctx);
        }
        self.keep(ctx);
        self.publish(ctx);
        self.turn_soon(ctx);
    }

    fn perform(&mut self, effects: Vec<Effect>, ctx: &mut Context<'_>) {
        for effect in effects {
            match effect {
                Effect::Assign { node, delta } => {
                    ctx.out.push(Output::Send(worker_of(&node), Message::Assign(delta)));
                }
                Effect::Answer { ticket, reply } => {
                    let asker = if ctx.sabotage == Some(Sabotage::ForgetAskers) {
                        self.waiting.get(&ticket).copied()
                    } else {
                        self.waiting.remove(&ticket)
                    };
                    if let Some((asker, number)) = asker {
                        let answer = Answer::Brain(reply);
                        ctx.out.push(Output::Send(asker, Message::Answer { number, answer }));
                    }
                }
            }
        }
    }

    /// Takes one arrival.
    fn take(&mut self, message: Message, ctx: &mut Context<'_>) {
        match message {
            Message::Heartbeat { from, mut heartbeat } => {
                if ctx.sabotage == Some(Sabotage::TrustShortLog) {
                    heartbeat.revision = Revision::default();
                }
                self.queue.push(Input::Heartbeat { node: node_name(from), heartbeat });
            }
            Message::Ask { from, number, question } => {
                let node = match from {
                    Process::Worker(worker) => node_name(worker),
                    _ => node_name(0),
                };
                if let Question::Sync(sync) = question {
                    if self.landing.is_empty() {
                        return self.answer_sync(from, number, &sync, ctx);
                    }
                    return self.syncs.push((from, number, sync));
                }
                self.tickets += 1;
                let ticket = Ticket(self.tickets);
                self.waiting.insert(ticket, (from, number));
                self.queue.push(match question {
                    Question::Register(register) => Input::Register { ticket, node, register },
                    Question::Reports(reports)
                        if ctx.sabotage == Some(Sabotage::AcknowledgeUnread)
                            && ctx.rng.u8(0..8) == 0 =>
                    {
                        self.waiting.remove(&ticket);
                        let index = 0;
                        let reply = Reply::Reports(Ok(ReportsCommitted { index, epoch: 0 }));
                        let answer = Answer::Brain(reply);
                        drop(reports);
                        ctx.out.push(Output::Send(from, Message::Answer { number, answer }));
                        return;
                    }
                    Question::Reports(reports) => Input::Reports { ticket, node, reports },
                    Question::Command { id, command } => Input::Command {
                        ticket,
                        role: Role::Operator,
                        user: user(&from.to_string()),
                        actor: None,
                        id,
                        command,
                    },
                    Question::Sync(_) => return,
                });
            }
            Message::Assign(_) | Message::Answer { .. } => {}
        }
    }

    fn answer_sync(&self, from: Process, number: u64, sync: &Sync, ctx: &mut Context<'_>) {
        let (Process::Worker(worker), Some(cluster)) = (from, &self.cluster) else { return };
        let answer = Answer::Page(cluster.state().sync_page(&node_name(worker), sync));
        ctx.out.push(Output::Send(from, Message::Answer { number, answer }));
    }

    /// Refuses an arrival while nothing can be committed.
    pub(super) fn refuse(&self, message: Message, ctx: &mut Context<'_>) {
        if let Message::Ask { from, number, .. } = message {
            let answer = Answer::Unavailable;
            ctx.out.push(Output::Send(from, Message::Answer { number, answer }));
        }
    }

    /// Leads no longer: drops what is not committed, tells who waits, gives the lease back once what it was writing is
    /// on the disk, and begins anew.
    pub(super) fn end_reign(&mut self, ctx: &mut Context<'_>) {
        self.leave_reign(ctx);
        self.phase = Phase::Ending;
        self.reign_ended(ctx);
    }

    pub(super) fn reign_ended(&mut self, ctx: &mut Context<'_>) {
        if ctx.disk.is_writing() {
            self.phase = Phase::Ending;
            return;
        }
        self.phase = Phase::Opening;
        self.release(ctx);
        if !self.cancelled {
            self.open(ctx);
        }
    }

    /// Drops what is not committed, and tells who waits.
    pub(super) fn leave_reign(&mut self, ctx: &mut Context<'_>) {
        self.listening = false;
        self.refusing = false;
        self.cluster = None;
        self.queue.clear();
        self.gateway.clear();
        self.turn_at = None;
        self.landing.clear();
        let waiting = std::mem::take(&mut self.waiting).into_values();
        let syncs = std::mem::take(&mut self.syncs).into_iter();
        for (asker, number) in waiting.chain(syncs.map(|(from, number, _)| (from, number))) {
            let answer = Answer::Unavailable;
            ctx.out.push(Output::Send(asker, Message::Answer { number, answer }));
        }
        self.asked.retain(|_, purpose| matches!(purpose, Purpose::NameLook | Purpose::NameWrite));
        self.publishing = Publishing::default();
    }
}
