//! The bus and JetStream: who hears whom, how long it takes, what is lost on the way, and connections that break.

use longshore_core::cluster::state::Meta;

use super::{Checked, Event, Link, Place, World};
use crate::check::Note;
use crate::disk::ManagerContent;
use crate::fault::Fault;
use crate::jetstream::{Request, Response};
use crate::manager::Manager;
use crate::message::{Answer, Message, Process, Question};
use crate::servers::Answering;
use crate::time::{MS, Micros, SECOND};
use crate::worker::Worker;

/// How many messages a server does not know that is behind.
const BEHIND: u64 = 2;

impl World {
    /// A sign of life counts as heard once it is on the leader's machine.
    pub(super) fn note_arrival(&mut self, process: Process, event: &Event) -> Checked {
        let (Process::Manager(number), Event::Deliver(_, message)) = (process, event) else {
            return Ok(());
        };
        let listening = self.managers[number].process.as_ref().filter(|place| place.is_listening());
        let Some(manager) = listening.map(Manager::id) else { return Ok(()) };
        let note = match message {
            Message::Heartbeat { from, heartbeat } => Note::Heard {
                manager,
                node: *from,
                from: (heartbeat.node_id, heartbeat.boot_id),
                beats: true,
                leaves: heartbeat.leaving,
            },
            Message::Ask { from: Process::Worker(node), question, .. } => match question {
                Question::Register(register) => {
                    Note::Claimed { manager, node: *node, node_id: register.node_id }
                }
                Question::Reports(reports) => {
                    let from = (reports.node_id, reports.boot_id);
                    Note::Heard { manager, node: *node, from, beats: false, leaves: false }
                }
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        self.notes(&[note])
    }

    pub(super) fn latency(&mut self) -> Micros {
        self.chaos.rng.u64(100..3 * MS)
    }

    pub(super) fn sync_time(&mut self) -> Micros {
        if self.chaos.strikes(Fault::SlowDisk) {
            return self.chaos.rng.u64(SECOND..6 * SECOND);
        }
        self.chaos.rng.u64(300..8 * MS)
    }

    pub(super) fn link(&self, process: Process) -> Option<&Link> {
        match process {
            Process::Manager(number) => self.managers.get(number).map(|place| &place.link),
            Process::Worker(number) => self.workers.get(number).map(|place| &place.link),
            Process::Client(_) => None,
        }
    }

    pub(super) fn link_mut(&mut self, process: Process) -> Option<&mut Link> {
        match process {
            Process::Manager(number) => self.managers.get_mut(number).map(|place| &mut place.link),
            Process::Worker(number) => self.workers.get_mut(number).map(|place| &mut place.link),
            Process::Client(_) => None,
        }
    }

    pub(super) fn can_talk(&self, process: Process) -> bool {
        self.bus_up && self.link(process).is_none_or(|link| link.is_up && link.has_session)
    }

    /// The server that a process is connected to; nothing of a client, which has one of the majority.
    fn home(&self, process: Process) -> Option<usize> {
        self.link(process).map(|link| link.home)
    }

    /// Whether no server between two processes is cut off from the other's.
    pub(super) fn share_servers(&self, one: Process, other: Process) -> bool {
        self.servers.connect(self.home(one), self.home(other))
    }

    /// Whether JetStream answers a manager from all that was committed.
    pub(super) fn has_jetstream(&self, manager: usize) -> bool {
        let process = Process::Manager(manager);
        let serves = self.home(process).is_some_and(|home| self.servers.serve(home, self.now));
        self.jetstream_up && self.can_talk(process) && serves
    }

    /// Everybody who hears what is said to the leader.
    pub(super) fn listeners(&self) -> Vec<Process> {
        let listening = |place: &Place<Manager, ManagerContent>| {
            place.process.as_ref().is_some_and(Manager::is_listening)
        };
        let numbers = self.managers.iter().enumerate().filter(|(_, place)| listening(place));
        numbers
            .map(|(number, _)| Process::Manager(number))
            .filter(|process| self.link(*process).is_none_or(|link| link.has_session))
            .collect()
    }

    /// Everybody who hears heartbeats.
    pub(super) fn hearing(&self) -> Vec<Process> {
        let hearing = |place: &Place<Manager, ManagerContent>| {
            place.process.as_ref().is_some_and(Manager::hears_heartbeats)
        };
        let numbers = self.managers.iter().enumerate().filter(|(_, place)| hearing(place));
        numbers
            .map(|(number, _)| Process::Manager(number))
            .filter(|process| self.link(*process).is_none_or(|link| link.has_session))
            .collect()
    }

    pub(super) fn ask(&mut self, from: Process, number: u64, question: Question) {
        let mut listeners = self.listeners();
        if !self.can_talk(from) {
            return;
        }
        listeners.retain(|listener| self.share_servers(from, *listener));
        if listeners.is_empty() {
            let answer = Message::Answer { number, answer: Answer::NoResponders };
            let wait = self.latency();
            return self.after(wait, Event::Deliver(from, answer));
        }
        if matches!(question, Question::Command { .. }) {
            // One of a group.
            let one = self.chaos.rng.usize(0..listeners.len());
            listeners = vec![listeners[one]];
        }
        for leader in listeners {
            let message = Message::Ask { from, number, question: question.clone() };
            self.send(from, leader, message);
        }
    }

    pub(super) fn send(&mut self, from: Process, to: Process, message: Message) {
        let is_cut = self.cuts.contains(&(from, to)) || !self.share_servers(from, to);
        if is_cut || self.chaos.strikes(Fault::MessageLost) {
            return;
        }
        if self.chaos.strikes(Fault::MessageTwice) {
            let wait = self.latency();
            self.depart(from, wait, Event::Deliver(to, message.clone()));
        }
        let wait = if self.chaos.strikes(Fault::MessageLate) {
            self.chaos.rng.u64(20 * MS..12 * SECOND)
        } else {
            self.latency()
        };
        self.depart(from, wait, Event::Deliver(to, message));
    }

    /// Something leaves a process; while it cannot, its client keeps some of it.
    pub(super) fn depart(&mut self, from: Process, wait: Micros, event: Event) {
        if self.can_talk(from) {
            return self.after(wait, event);
        }
        if self.chaos.rng.bool()
            && let Some(link) = self.link_mut(from)
        {
            link.held.push(event);
        }
    }

    pub(super) fn deliver(&mut self, to: Process, message: Message) -> Checked {
        if !self.can_talk(to) {
            return Ok(());
        }
        self.note_arrival(to, &Event::Deliver(to, message.clone()))?;
        match to {
            Process::Manager(number) => {
                self.manager(number, |process, ctx| process.message(message, ctx))
            }
            Process::Worker(number) if number < self.workers.len() => {
                self.worker(number, |process, ctx| process.message(message, ctx))
            }
            Process::Worker(_) => Ok(()),
            Process::Client(number) => {
                let Message::Answer { number: try_number, answer } = message else { return Ok(()) };
                let mut out = Vec::new();
                let (client, now) = (&mut self.clients[number], self.now);
                let rng = &mut self.chaos.rng;
                let outcome = client.answer(try_number, answer, now, rng, &mut out);
                self.client_out(number, out);
                self.outcome(outcome)
            }
        }
    }

    pub(super) fn question(
        &mut self,
        from: usize,
        incarnation: u64,
        ask: u64,
        mut request: Request,
    ) -> Checked {
        if !self.bus_up {
            return Ok(());
        }
        let home = self.home(Process::Manager(from)).unwrap_or_default();
        let stale = match self.servers.answering(home, request.stream(), self.now) {
            Answering::Truly => None,
            Answering::Stale(end) if request.reads_log() => {
                self.chaos.counts.count(Fault::AnsweredStale);
                Some(end)
            }
            // What would be committed is not, and nobody says so.
            Answering::Stale(_) | Answering::Never => return Ok(()),
        };
        let mut is_asked = true;
        if let Request::Publish(messages) = &mut request
            && self.chaos.strikes(Fault::EventsDropped)
        {
            let first = self.chaos.rng.usize(0..messages.len());
            let end = self.chaos.rng.usize(first + 1..=messages.len());
            // Nobody answers where the one is lost that asks.
            is_asked = end < messages.len();
            messages.drain(first..end);
        }
        let response = if self.jetstream_up {
            self.jetstream.refuse_next = matches!(request, Request::Append { .. })
                && self.chaos.strikes(Fault::RefusedWrongly);
            let is_behind = self.server_behind && request.reads_log() && self.chaos.rng.bool();
            let behind = is_behind.then(|| self.jetstream.last().saturating_sub(BEHIND));
            self.jetstream.knows = stale.or(behind);
            let (before, trims) = (self.jetstream.last(), self.jetstream.trims);
            let heals = match &request {
                Request::BucketPut(snapshot, None) => snapshot.meta(),
                _ => None,
            };
            let response = self.jetstream.answer(request, self.now);
            if self.jetstream.trims > trims {
                self.chaos.counts.count(Fault::LogTrimmed);
            }
            if let Some(meta) = heals {
                self.healed(&meta)?;
            }
            if self.jetstream.last() > before
                && let Some(payload) = self.jetstream.message(before + 1)
            {
                self.appended_at = self.now;
                self.records += 1;
                self.trace.record(&payload);
                self.checks.appended(&payload, before + 1, self.now)?;
            }
            for message in self.jetstream.fresh_events() {
                self.checks.event_stored(&message)?;
            }
            response
        } else if self.chaos.rng.bool() {
            Response::Refused
        } else {
            return Ok(());
        };
        if !is_asked || self.chaos.strikes(Fault::AcknowledgementLost) {
            return Ok(());
        }
        let wait = self.latency();
        self.after(wait, Event::Response { to: from, incarnation, ask, response });
        Ok(())
    }

    /// A manager has put a snapshot into the bucket that the log is to go on from.
    fn healed(&mut self, meta: &Meta) -> Checked {
        self.trace.say(|| format!("the log goes on from record {}", meta.index));
        self.chaos.counts.count(Fault::Healed);
        let may_lose = self.chaos.counts.of(Fault::ManagerDiskLost) > 0;
        let behind = meta.stream_sequence + 1..=self.jetstream.last();
        let left = behind.filter(|sequence| self.jetstream.message(*sequence).is_some());
        self.checks.healed(meta, may_lose, left)?;
        self.operator.healed(self.now);
        Ok(())
    }

    pub(super) fn sever(&mut self, process: Process) {
        let wait = self.chaos.rng.u64(2 * SECOND..6 * SECOND);
        let Some(link) = self.link_mut(process) else { return };
        link.is_up = false;
        link.serial += 1;
        let serial = link.serial;
        self.after(wait, Event::SessionBreaks(process, serial));
    }

    pub(super) fn restore(&mut self, process: Process) {
        let wait = self.chaos.rng.u64(50 * MS..2 * SECOND);
        let Some(link) = self.link_mut(process) else { return };
        if link.is_up && link.has_session {
            return;
        }
        link.is_up = true;
        link.serial += 1;
        let serial = link.serial;
        if link.has_session {
            return self.release_held(process);
        }
        self.after(wait, Event::SessionBegins(process, serial));
    }

    pub(super) fn release_held(&mut self, process: Process) {
        let Some(link) = self.link_mut(process) else { return };
        for event in std::mem::take(&mut link.held) {
            let wait = self.latency();
            self.after(wait, event);
        }
    }

    pub(super) fn session_breaks(&mut self, process: Process, serial: u64) -> Checked {
        let bus_up = self.bus_up;
        let Some(link) = self.link_mut(process) else { return Ok(()) };
        if link.serial != serial {
            return Ok(());
        }
        let is_back = link.is_up && bus_up;
        self.end_session(process)?;
        if is_back {
            // It was suspended while the connection was broken, and connects again now.
            self.restore(process);
        }
        Ok(())
    }

    pub(super) fn end_session(&mut self, process: Process) -> Checked {
        if let Some(link) = self.link_mut(process) {
            link.has_session = false;
        }
        match process {
            Process::Manager(number) => {
                self.manager(number, |process, ctx| process.connection(false, ctx))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn session_begins(&mut self, process: Process, serial: u64) -> Checked {
        let (bus_up, home) = (self.bus_up, self.servers.pick(&mut self.chaos.rng));
        let Some(link) = self.link_mut(process) else { return Ok(()) };
        if link.serial != serial || !link.is_up || !bus_up {
            return Ok(());
        }
        (link.has_session, link.home) = (true, home);
        self.release_held(process);
        match process {
            Process::Manager(number) => {
                self.manager(number, |process, ctx| process.connection(true, ctx))
            }
            Process::Worker(number) => self.worker(number, Worker::connected),
            Process::Client(_) => Ok(()),
        }
    }
}
