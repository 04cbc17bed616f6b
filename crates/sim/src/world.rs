//! The whole cluster in one thread: every process, the bus, JetStream, disks and runtimes, in virtual time.
//!
//! Events are taken in the order of their time; everything else follows from the seed. A process that is
//! suspended takes nothing until it goes on, and then finds its timers first and what lay in its sockets after
//! them, as real ones do.

use std::collections::{BTreeMap, BTreeSet};

use longshore_core::agent::ContainerEvent;
use longshore_core::cluster::Settings;
use longshore_proto::spec::Resources;

use crate::ask::AskOutput;
use crate::check::{Checks, Note, Violation, end, node::Look, violated};
use crate::client::{self, Client};
use crate::disk::{Disk, ManagerContent, WorkerContent};
use crate::fault::{Chaos, Fault};
use crate::jetstream::{JetStream, Request, Response};
use crate::manager::{self, Manager, node_name, uuid};
use crate::message::{Answer, Message, Process, Question};
use crate::runtime::{self, Runtime, Verb, VerbAnswer};
use crate::sabotage::Sabotage;
use crate::time::{Clock, MS, Micros, SECOND};
use crate::trace::Trace;
use crate::worker::{self, Worker};

/// By when somebody leads again once faults have stopped.
const LEADER_WITHIN: Micros = 15 * SECOND;
/// By when everything has settled once faults have stopped. What fails of its own accord is given up within this.
const SETTLED_WITHIN: Micros = 240 * SECOND;
/// For how long nothing is written once everything has settled.
const QUIET_FOR: Micros = 20 * SECOND;

/// How large a run is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Managers.
    pub managers: usize,
    /// Workers.
    pub workers: usize,
    /// Clients.
    pub clients: usize,
    /// For how long things break.
    pub chaos: Micros,
    /// Whether the log loses its tail; then only safety is judged.
    pub loses_tail: bool,
}

impl Size {
    /// What a seed chooses.
    pub fn of(rng: &mut fastrand::Rng) -> Self {
        Self {
            managers: [1, 2, 3, 3, 5][rng.usize(0..5)],
            workers: if rng.u8(0..4) == 0 { rng.usize(12..40) } else { rng.usize(2..12) },
            clients: rng.usize(1..4),
            chaos: rng.u64(30 * SECOND..120 * SECOND),
            loses_tail: rng.u8(0..16) == 0,
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Deliver(Process, Message),
    Question { from: usize, incarnation: u64, ask: u64, request: Request },
    Response { to: usize, incarnation: u64, ask: u64, response: Response },
    Manager { number: usize, incarnation: u64, timer: manager::Timer },
    ManagerSynced { number: usize, incarnation: u64, batches: usize },
    Worker { number: usize, incarnation: u64, timer: worker::Timer },
    WorkerSynced { number: usize, incarnation: u64 },
    Client { number: usize, timer: client::Timer },
    Runtime { number: usize, step: runtime::Step },
    RuntimeAnswer { number: usize, incarnation: u64, answer: VerbAnswer },
    RuntimeTells { number: usize, incarnation: u64, watch: u64, event: ContainerEvent },
    RuntimeBreaksOff { number: usize, incarnation: u64, watch: u64 },
    Start(Process),
    Resume(Process),
    SessionBreaks(Process, u64),
    SessionBegins(Process, u64),
    Fault(Fault, Micros),
    Heal(Fault, usize, usize),
    Tick,
    Calm,
}

/// A process's connection to the bus.
#[derive(Debug)]
struct Link {
    is_up: bool,
    has_session: bool,
    serial: u64,
    /// What it wanted to say while it could not.
    held: Vec<Event>,
}

impl Link {
    fn new() -> Self {
        Self { is_up: true, has_session: true, serial: 0, held: Vec::new() }
    }
}

/// What is common to the processes of managers and workers.
struct Place<P, D: crate::disk::Content> {
    process: Option<P>,
    incarnation: u64,
    disk: Disk<D>,
    rate_ppm: u64,
    skew_ms: i64,
    paused: bool,
    deferred: Vec<Event>,
    link: Link,
}

impl<P, D: crate::disk::Content> Place<P, D> {
    fn new(disk: Disk<D>, rng: &mut fastrand::Rng) -> Self {
        Self {
            process: None,
            incarnation: 0,
            disk,
            rate_ppm: rng.u64(995_000..1_005_000),
            skew_ms: rng.i64(-600_000..600_000),
            paused: false,
            deferred: Vec::new(),
            link: Link::new(),
        }
    }

    fn clock(&self, now: Micros) -> Clock {
        Clock { started: now, rate_ppm: self.rate_ppm, skew_ms: self.skew_ms }
    }

    /// The process is no more. Gives how many batches were being written, and how many of them survive.
    fn kill(&mut self, rng: &mut fastrand::Rng) -> (usize, usize) {
        self.process = None;
        self.incarnation += 1;
        self.paused = false;
        self.deferred.clear();
        self.link.held.clear();
        let kept = rng.usize(0..3);
        let pending = self.disk.crash(kept);
        (pending, kept.min(pending))
    }
}

/// The whole cluster.
pub struct World {
    now: Micros,
    events: BTreeMap<(Micros, u64), Event>,
    sequence: u64,
    /// Chance and faults.
    pub chaos: Chaos,
    size: Size,
    settings: Settings,
    sabotage: Option<Sabotage>,
    managers: Vec<Place<Manager, ManagerContent>>,
    workers: Vec<Place<Worker, WorkerContent>>,
    runtimes: Vec<Runtime>,
    capacity: Vec<Resources>,
    clients: Vec<Client>,
    jetstream: JetStream,
    jetstream_up: bool,
    bus_up: bool,
    cuts: BTreeSet<(Process, Process)>,
    checks: Checks,
    /// What happened.
    pub trace: Trace,
    calm_at: Option<Micros>,
    settled_at: Option<Micros>,
    appended_at: Micros,
    is_over: bool,
}

type Checked = Result<(), Violation>;

impl World {
    /// The cluster of a seed, before anything has happened.
    pub fn new(seed: u64, sabotage: Option<Sabotage>, trace: Trace) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut size = Size::of(&mut rng);
        size.loses_tail |= sabotage == Some(Sabotage::LeadOverLostTail);
        let settings = Settings::default();
        let managers = (0..size.managers).map(|_| {
            let content = ManagerContent { id: uuid(&mut rng), ..ManagerContent::default() };
            Place::new(Disk::with(content), &mut rng)
        });
        let managers: Vec<_> = managers.collect();
        let workers: Vec<_> = (0..size.workers)
            .map(|_| {
                let content = WorkerContent { node_id: uuid(&mut rng), ..WorkerContent::default() };
                Place::new(Disk::with(content), &mut rng)
            })
            .collect();
        let capacity = (0..size.workers)
            .map(|_| Resources {
                cpu_millis: rng.u64(4..24) * 100,
                memory_bytes: rng.u64(4..24) * (64 << 20),
                disk_bytes: 1 << 30,
            })
            .collect();
        let mut world = Self {
            now: 0,
            events: BTreeMap::new(),
            sequence: 0,
            chaos: Chaos::new(rng),
            size,
            checks: Checks::new(&settings),
            settings,
            sabotage,
            managers,
            workers,
            runtimes: (0..size.workers).map(|number| Runtime::new(number, sabotage)).collect(),
            capacity,
            clients: (0..size.clients).map(Client::new).collect(),
            jetstream: JetStream::default(),
            jetstream_up: true,
            bus_up: true,
            cuts: BTreeSet::new(),
            trace,
            calm_at: None,
            settled_at: None,
            appended_at: 0,
            is_over: false,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for number in 0..self.size.managers {
            let at = self.chaos.rng.u64(0..SECOND);
            self.at(at, Event::Start(Process::Manager(number)));
        }
        for number in 0..self.size.workers {
            let at = self.chaos.rng.u64(0..3 * SECOND);
            self.at(at, Event::Start(Process::Worker(number)));
        }
        for number in 0..self.size.clients {
            let at = self.chaos.rng.u64(SECOND..6 * SECOND);
            self.at(at, Event::Client { number, timer: client::Timer::Next });
        }
        for (at, fault, lasts) in self.chaos.plan(self.size.chaos) {
            self.at(at, Event::Fault(fault, lasts));
        }
        if self.size.loses_tail {
            self.at(self.size.chaos / 2, Event::Fault(Fault::TailLost, 0));
        }
        self.at(self.size.chaos, Event::Calm);
        self.at(SECOND, Event::Tick);
    }

    /// How large this run is.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Virtual time.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// How many steps were taken.
    pub fn steps(&self) -> u64 {
        self.trace.steps()
    }

    /// How many records the log has.
    pub fn records(&self) -> usize {
        self.jetstream.log().len()
    }

    /// Takes steps until the run is over.
    ///
    /// # Errors
    /// The first property that does not hold.
    pub fn run(&mut self) -> Checked {
        while !self.is_over {
            let Some(((now, _), event)) = self.events.pop_first() else { break };
            self.now = now;
            self.trace.step(now, || describe(&event));
            self.step(event)?;
        }
        self.checks.finish()?;
        for (number, place) in self.managers.iter().enumerate() {
            end::store(number, place.disk.content(), &self.checks.truth.state)?;
        }
        self.trace.fold(self.chaos.rng.u64(..));
        Ok(())
    }

    fn at(&mut self, at: Micros, event: Event) {
        self.sequence += 1;
        self.events.insert((at.max(self.now), self.sequence), event);
    }

    fn after(&mut self, wait: Micros, event: Event) {
        self.at(self.now + wait, event);
    }

    fn step(&mut self, event: Event) -> Checked {
        if let Some(process) = self.suspended(&event) {
            self.note_arrival(process, &event)?;
            match process {
                Process::Manager(number) => self.managers[number].deferred.push(event),
                Process::Worker(number) => self.workers[number].deferred.push(event),
                Process::Client(_) => {}
            }
            return Ok(());
        }
        match event {
            Event::Deliver(to, message) => self.deliver(to, message),
            Event::Question { from, incarnation, ask, request } => {
                self.question(from, incarnation, ask, request)
            }
            Event::Response { to, incarnation, ask, response } => {
                let place = &self.managers[to];
                if place.incarnation != incarnation || !self.can_talk(Process::Manager(to)) {
                    return Ok(());
                }
                self.manager(to, |process, ctx| process.response(ask, response, ctx))
            }
            Event::Manager { number, incarnation, timer } => {
                if self.managers[number].incarnation != incarnation {
                    return Ok(());
                }
                self.manager(number, |process, ctx| process.timer(timer, ctx))
            }
            Event::ManagerSynced { number, incarnation, batches } => {
                let place = &mut self.managers[number];
                if place.incarnation != incarnation {
                    return Ok(());
                }
                for _ in 0..batches {
                    place.disk.synced();
                }
                self.manager(number, Manager::synced)
            }
            Event::Worker { number, incarnation, timer } => {
                if self.workers[number].incarnation != incarnation {
                    return Ok(());
                }
                self.worker(number, |process, ctx| process.timer(timer, ctx))
            }
            Event::WorkerSynced { number, incarnation } => {
                let place = &mut self.workers[number];
                if place.incarnation != incarnation {
                    return Ok(());
                }
                place.disk.synced();
                self.worker(number, Worker::synced)
            }
            Event::Client { number, timer } => self.client(number, timer),
            Event::Runtime { number, step } => {
                let mut notes = Vec::new();
                let now = self.now;
                let out = self.runtimes[number].step(step, now, &mut self.chaos, &mut notes);
                self.notes(&notes)?;
                self.runtime_out(number, out);
                Ok(())
            }
            Event::RuntimeAnswer { number, incarnation, answer } => {
                if self.workers[number].incarnation != incarnation {
                    return Ok(());
                }
                self.worker(number, |process, ctx| process.runtime(answer, ctx))
            }
            Event::RuntimeTells { number, incarnation, watch, event } => {
                if self.workers[number].incarnation != incarnation {
                    return Ok(());
                }
                self.worker(number, |process, ctx| process.event(watch, event, ctx))
            }
            Event::RuntimeBreaksOff { number, incarnation, watch } => {
                if self.workers[number].incarnation != incarnation {
                    return Ok(());
                }
                self.worker(number, |process, ctx| process.events_ended(watch, ctx))
            }
            Event::Start(process) => self.start(process),
            Event::Resume(process) => {
                self.resume(process);
                Ok(())
            }
            Event::SessionBreaks(process, serial) => self.session_breaks(process, serial),
            Event::SessionBegins(process, serial) => self.session_begins(process, serial),
            Event::Fault(fault, lasts) => self.fault(fault, lasts),
            Event::Heal(fault, one, other) => {
                self.heal(fault, one, other);
                Ok(())
            }
            Event::Tick => self.tick(),
            Event::Calm => {
                self.calm();
                Ok(())
            }
        }
    }

    /// The suspended process that an event is for.
    fn suspended(&self, event: &Event) -> Option<Process> {
        let process = match event {
            Event::Deliver(to, _) => *to,
            Event::Response { to, .. } => Process::Manager(*to),
            Event::Manager { number, .. } | Event::ManagerSynced { number, .. } => {
                Process::Manager(*number)
            }
            Event::Worker { number, .. }
            | Event::WorkerSynced { number, .. }
            | Event::RuntimeAnswer { number, .. }
            | Event::RuntimeTells { number, .. }
            | Event::RuntimeBreaksOff { number, .. } => Process::Worker(*number),
            Event::SessionBreaks(process, _) | Event::SessionBegins(process, _) => *process,
            _ => return None,
        };
        let paused = match process {
            Process::Manager(number) => self.managers.get(number)?.paused,
            Process::Worker(number) => self.workers.get(number)?.paused,
            Process::Client(_) => false,
        };
        paused.then_some(process)
    }

    /// A sign of life counts as heard once it is on the leader's machine.
    fn note_arrival(&mut self, process: Process, event: &Event) -> Checked {
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
            },
            Message::Ask { from: Process::Worker(node), question, .. } => match question {
                Question::Register(register) => {
                    Note::Claimed { manager, node: *node, node_id: register.node_id }
                }
                Question::Reports(reports) => {
                    let from = (reports.node_id, reports.boot_id);
                    Note::Heard { manager, node: *node, from, beats: false }
                }
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        self.notes(&[note])
    }

    // Processes.

    fn start(&mut self, process: Process) -> Checked {
        let now = self.now;
        let bus_up = self.bus_up;
        if let Some(link) = self.link_mut(process) {
            link.has_session = bus_up && link.is_up;
        }
        let connected = self.can_talk(process);
        match process {
            Process::Manager(number) => {
                let place = &mut self.managers[number];
                if place.process.is_some() {
                    return Ok(());
                }
                let clock = place.clock(now);
                let (mut out, mut notes) = (Vec::new(), Vec::new());
                let mut ctx = manager::Context {
                    now,
                    disk: &mut place.disk,
                    out: &mut out,
                    notes: &mut notes,
                    rng: &mut self.chaos.rng,
                    sabotage: self.sabotage,
                };
                let settings = self.settings.clone();
                let started = Manager::start(number, clock, settings, connected, &mut ctx);
                place.process = Some(started);
                self.notes(&notes)?;
                self.manager_out(number, out)
            }
            Process::Worker(number) => {
                let place = &mut self.workers[number];
                if place.process.is_some() {
                    return Ok(());
                }
                let clock = place.clock(now);
                let (mut out, mut notes) = (Vec::new(), Vec::new());
                let mut ctx = worker::Context {
                    now,
                    disk: &mut place.disk,
                    out: &mut out,
                    notes: &mut notes,
                    rng: &mut self.chaos.rng,
                    sabotage: self.sabotage,
                };
                let capacity = self.capacity[number];
                let started = Worker::start(number, clock, capacity, connected, &mut ctx);
                place.process = Some(started);
                self.notes(&notes)?;
                self.worker_out(number, out)
            }
            Process::Client(_) => Ok(()),
        }
    }

    fn manager(
        &mut self,
        number: usize,
        act: impl FnOnce(&mut Manager, &mut manager::Context<'_>),
    ) -> Checked {
        let place = &mut self.managers[number];
        let Some(mut process) = place.process.take() else { return Ok(()) };
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let mut ctx = manager::Context {
            now: self.now,
            disk: &mut place.disk,
            out: &mut out,
            notes: &mut notes,
            rng: &mut self.chaos.rng,
            sabotage: self.sabotage,
        };
        act(&mut process, &mut ctx);
        place.process = Some(process);
        self.notes(&notes)?;
        self.manager_out(number, out)
    }

    fn worker(
        &mut self,
        number: usize,
        act: impl FnOnce(&mut Worker, &mut worker::Context<'_>),
    ) -> Checked {
        let place = &mut self.workers[number];
        let Some(mut process) = place.process.take() else { return Ok(()) };
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let mut ctx = worker::Context {
            now: self.now,
            disk: &mut place.disk,
            out: &mut out,
            notes: &mut notes,
            rng: &mut self.chaos.rng,
            sabotage: self.sabotage,
        };
        act(&mut process, &mut ctx);
        place.process = Some(process);
        self.notes(&notes)?;
        self.worker_out(number, out)
    }

    fn notes(&mut self, notes: &[Note]) -> Checked {
        for note in notes {
            self.trace.note(note);
            self.checks.note(note, self.now)?;
        }
        Ok(())
    }

    fn manager_out(&mut self, number: usize, out: Vec<manager::Output>) -> Checked {
        let incarnation = self.managers[number].incarnation;
        for output in out {
            match output {
                manager::Output::Ask(ask, request) => {
                    if self.chaos.strikes(Fault::QuestionLost) {
                        continue;
                    }
                    let wait = if self.chaos.strikes(Fault::QuestionLate) {
                        self.chaos.rng.u64(2 * SECOND..9 * SECOND)
                    } else {
                        self.latency()
                    };
                    let event = Event::Question { from: number, incarnation, ask, request };
                    self.depart(Process::Manager(number), wait, event);
                }
                manager::Output::Send(to, message) => {
                    self.send(Process::Manager(number), to, message);
                }
                manager::Output::Wake(at, timer) => {
                    self.at(at, Event::Manager { number, incarnation, timer });
                }
                manager::Output::Sync(batches) => {
                    let wait = self.sync_time();
                    self.after(wait, Event::ManagerSynced { number, incarnation, batches });
                }
                manager::Output::Exit(why) => {
                    self.trace.say(|| format!("m{number} ends: {why}"));
                    self.kill(Process::Manager(number));
                    let wait = self.chaos.rng.u64(SECOND..3 * SECOND);
                    self.after(wait, Event::Start(Process::Manager(number)));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn worker_out(&mut self, number: usize, out: Vec<worker::Output>) -> Checked {
        let incarnation = self.workers[number].incarnation;
        let from = Process::Worker(number);
        for output in out {
            match output {
                worker::Output::Ask(try_number, question) => {
                    self.ask(from, try_number, question);
                }
                worker::Output::Beat(heartbeat) => {
                    for leader in self.hearing() {
                        let heartbeat = heartbeat.clone();
                        let message = Message::Heartbeat { from: number, heartbeat };
                        self.send(from, leader, message);
                    }
                }
                worker::Output::Runtime(verb) => self.call(number, incarnation, verb),
                worker::Output::Subscribe(watch) => {
                    let out = self.runtimes[number].subscribe(incarnation, watch, self.now);
                    self.runtime_out(number, out);
                }
                worker::Output::Wake(at, timer) => {
                    self.at(at, Event::Worker { number, incarnation, timer });
                }
                worker::Output::Sync => {
                    let wait = self.sync_time();
                    self.after(wait, Event::WorkerSynced { number, incarnation });
                }
                worker::Output::Exit(why) => {
                    self.trace.say(|| format!("n{number} ends: {why}"));
                    self.kill(from);
                    let wait = self.chaos.rng.u64(SECOND..5 * SECOND);
                    self.after(wait, Event::Start(from));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn call(&mut self, number: usize, incarnation: u64, verb: Verb) {
        let now = self.now;
        let out = self.runtimes[number].call(incarnation, verb, &mut self.chaos, now);
        self.runtime_out(number, out);
    }

    fn runtime_out(&mut self, number: usize, out: Vec<runtime::Output>) {
        for output in out {
            let wait = self.chaos.rng.u64(100..2 * MS);
            match output {
                runtime::Output::Answer(incarnation, answer) => {
                    self.after(wait, Event::RuntimeAnswer { number, incarnation, answer });
                }
                runtime::Output::Event(incarnation, watch, event) => {
                    self.after(wait, Event::RuntimeTells { number, incarnation, watch, event });
                }
                runtime::Output::EventsEnd(incarnation, watch) => {
                    self.after(wait, Event::RuntimeBreaksOff { number, incarnation, watch });
                }
                runtime::Output::Later(at, step) => self.at(at, Event::Runtime { number, step }),
            }
        }
    }

    fn client(&mut self, number: usize, timer: client::Timer) -> Checked {
        let now = self.now;
        let mut out = Vec::new();
        let outcome = match timer {
            client::Timer::Next => {
                if self.calm_at.is_some() {
                    return Ok(());
                }
                let client = &mut self.clients[number];
                if client.questions() < 4 {
                    client.next(now, &mut self.chaos.rng, &mut out);
                }
                let wait = client::pause(&mut self.chaos.rng);
                self.after(wait, Event::Client { number, timer: client::Timer::Next });
                None
            }
            client::Timer::Ask(timer) => {
                self.clients[number].timer(timer, now, &mut self.chaos.rng, &mut out)
            }
        };
        self.client_out(number, out);
        self.outcome(outcome)
    }

    fn client_out(&mut self, number: usize, out: Vec<AskOutput>) {
        for output in out {
            match output {
                AskOutput::Try(try_number, question) => {
                    self.ask(Process::Client(number), try_number, question);
                }
                AskOutput::Wake(at, timer) => {
                    let timer = client::Timer::Ask(timer);
                    self.at(at, Event::Client { number, timer });
                }
            }
        }
    }

    fn outcome(&mut self, outcome: Option<client::Outcome>) -> Checked {
        let Some(outcome) = outcome else { return Ok(()) };
        self.trace.say(|| format!("answered {}: {:?}", outcome.id, outcome.granted));
        self.checks.answered(outcome.id, outcome.granted.as_ref())
    }

    // The bus.

    fn latency(&mut self) -> Micros {
        self.chaos.rng.u64(100..3 * MS)
    }

    fn sync_time(&mut self) -> Micros {
        if self.chaos.strikes(Fault::SlowDisk) {
            return self.chaos.rng.u64(SECOND..6 * SECOND);
        }
        self.chaos.rng.u64(300..8 * MS)
    }

    fn link(&self, process: Process) -> Option<&Link> {
        match process {
            Process::Manager(number) => self.managers.get(number).map(|place| &place.link),
            Process::Worker(number) => self.workers.get(number).map(|place| &place.link),
            Process::Client(_) => None,
        }
    }

    fn link_mut(&mut self, process: Process) -> Option<&mut Link> {
        match process {
            Process::Manager(number) => self.managers.get_mut(number).map(|place| &mut place.link),
            Process::Worker(number) => self.workers.get_mut(number).map(|place| &mut place.link),
            Process::Client(_) => None,
        }
    }

    fn can_talk(&self, process: Process) -> bool {
        self.bus_up && self.link(process).is_none_or(|link| link.is_up && link.has_session)
    }

    /// Everybody who hears what is said to the leader.
    fn listeners(&self) -> Vec<Process> {
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
    fn hearing(&self) -> Vec<Process> {
        let hearing = |place: &Place<Manager, ManagerContent>| {
            place.process.as_ref().is_some_and(Manager::hears_heartbeats)
        };
        let numbers = self.managers.iter().enumerate().filter(|(_, place)| hearing(place));
        numbers
            .map(|(number, _)| Process::Manager(number))
            .filter(|process| self.link(*process).is_none_or(|link| link.has_session))
            .collect()
    }

    fn ask(&mut self, from: Process, number: u64, question: Question) {
        let mut listeners = self.listeners();
        if !self.can_talk(from) {
            return;
        }
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

    fn send(&mut self, from: Process, to: Process, message: Message) {
        if self.cuts.contains(&(from, to)) || self.chaos.strikes(Fault::MessageLost) {
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
    fn depart(&mut self, from: Process, wait: Micros, event: Event) {
        if self.can_talk(from) {
            return self.after(wait, event);
        }
        if self.chaos.rng.bool()
            && let Some(link) = self.link_mut(from)
        {
            link.held.push(event);
        }
    }

    fn deliver(&mut self, to: Process, message: Message) -> Checked {
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

    fn question(&mut self, from: usize, incarnation: u64, ask: u64, request: Request) -> Checked {
        if !self.bus_up {
            return Ok(());
        }
        let response = if self.jetstream_up {
            self.jetstream.refuse_next = matches!(request, Request::Append { .. })
                && self.chaos.strikes(Fault::RefusedWrongly);
            let before = self.jetstream.log().len();
            let response = self.jetstream.answer(request, self.now);
            if let Some(payload) = self.jetstream.log().get(before) {
                let payload = std::rc::Rc::clone(payload);
                self.appended_at = self.now;
                self.trace.record(&payload);
                self.checks.appended(&payload, before as u64 + 1, self.now)?;
            }
            response
        } else if self.chaos.rng.bool() {
            Response::Refused
        } else {
            return Ok(());
        };
        if self.chaos.strikes(Fault::AcknowledgementLost) {
            return Ok(());
        }
        let wait = self.latency();
        self.after(wait, Event::Response { to: from, incarnation, ask, response });
        Ok(())
    }

    fn sever(&mut self, process: Process) {
        let wait = self.chaos.rng.u64(2 * SECOND..6 * SECOND);
        let Some(link) = self.link_mut(process) else { return };
        link.is_up = false;
        link.serial += 1;
        let serial = link.serial;
        self.after(wait, Event::SessionBreaks(process, serial));
    }

    fn restore(&mut self, process: Process) {
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

    fn release_held(&mut self, process: Process) {
        let Some(link) = self.link_mut(process) else { return };
        for event in std::mem::take(&mut link.held) {
            let wait = self.latency();
            self.after(wait, event);
        }
    }

    fn session_breaks(&mut self, process: Process, serial: u64) -> Checked {
        let Some(link) = self.link_mut(process) else { return Ok(()) };
        if link.serial != serial {
            return Ok(());
        }
        self.end_session(process)
    }

    fn end_session(&mut self, process: Process) -> Checked {
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

    fn session_begins(&mut self, process: Process, serial: u64) -> Checked {
        let bus_up = self.bus_up;
        let Some(link) = self.link_mut(process) else { return Ok(()) };
        if link.serial != serial || !link.is_up || !bus_up {
            return Ok(());
        }
        link.has_session = true;
        self.release_held(process);
        match process {
            Process::Manager(number) => {
                self.manager(number, |process, ctx| process.connection(true, ctx))
            }
            Process::Worker(number) => self.worker(number, Worker::connected),
            Process::Client(_) => Ok(()),
        }
    }

    // Faults.

    fn kill(&mut self, process: Process) {
        let (pending, kept) = match process {
            Process::Manager(number) => self.managers[number].kill(&mut self.chaos.rng),
            Process::Worker(number) => self.workers[number].kill(&mut self.chaos.rng),
            Process::Client(_) => return,
        };
        if kept > 0 {
            self.chaos.counts.count(Fault::WriteUnasked);
        }
        if pending > kept {
            self.chaos.counts.count(Fault::WriteTorn);
        }
    }

    fn pause(&mut self, process: Process, lasts: Micros) {
        match process {
            Process::Manager(number) => self.managers[number].paused = true,
            Process::Worker(number) => self.workers[number].paused = true,
            Process::Client(_) => return,
        }
        self.after(lasts, Event::Resume(process));
    }

    fn resume(&mut self, process: Process) {
        let deferred = match process {
            Process::Manager(number) => {
                self.managers[number].paused = false;
                std::mem::take(&mut self.managers[number].deferred)
            }
            Process::Worker(number) => {
                self.workers[number].paused = false;
                std::mem::take(&mut self.workers[number].deferred)
            }
            Process::Client(_) => return,
        };
        let is_timer =
            |event: &Event| matches!(event, Event::Manager { .. } | Event::Worker { .. });
        let (timers, others): (Vec<_>, Vec<_>) = deferred.into_iter().partition(is_timer);
        for event in timers {
            self.at(self.now, event);
        }
        for event in others {
            let wait = self.chaos.rng.u64(400..2 * MS);
            self.after(wait, event);
        }
    }

    fn fault(&mut self, fault: Fault, lasts: Micros) -> Checked {
        self.trace.say(|| format!("fault: {fault} for {} ms", lasts / MS));
        self.chaos.counts.count(fault);
        let manager = self.chaos.rng.usize(0..self.size.managers);
        let worker = self.chaos.rng.usize(0..self.size.workers);
        let (m, w) = (Process::Manager(manager), Process::Worker(worker));
        let mut other = 0;
        match fault {
            Fault::ManagerKilled => {
                self.kill(m);
                self.after(lasts, Event::Start(m));
            }
            Fault::ManagerPaused => {
                // The leader is the one whose absence matters.
                let leader = self.listeners().first().copied().unwrap_or(m);
                self.pause(leader, lasts);
            }
            Fault::ManagerEnded => {
                let leader = self.listeners().first().copied().unwrap_or(m);
                if let Process::Manager(number) = leader {
                    self.manager(number, Manager::cancel)?;
                }
            }
            Fault::ManagerCutOff => self.sever(m),
            Fault::ManagerDiskFull => self.managers[manager].disk.is_full = true,
            Fault::ManagerDiskLost => {
                self.kill(m);
                let content =
                    ManagerContent { id: uuid(&mut self.chaos.rng), ..ManagerContent::default() };
                self.managers[manager].disk = Disk::with(content);
                self.after(lasts, Event::Start(m));
            }
            Fault::ClockJumps => {
                let by = self.chaos.rng.i64(-60 * 3_600_000..60 * 3_600_000);
                let skew = &mut self.managers[manager].skew_ms;
                *skew = skew.saturating_add(by);
                let skew = *skew;
                if let Some(process) = &mut self.managers[manager].process {
                    process.clock.skew_ms = skew;
                }
            }
            Fault::WorkerKilled => {
                self.kill(w);
                self.after(lasts, Event::Start(w));
            }
            Fault::WorkerPaused => self.pause(w, lasts),
            Fault::WorkerCutOff => self.sever(w),
            Fault::WorkerDiskFull => self.workers[worker].disk.is_full = true,
            Fault::WorkerDiskLost => {
                self.kill(w);
                let content = WorkerContent {
                    node_id: uuid(&mut self.chaos.rng),
                    ..WorkerContent::default()
                };
                self.workers[worker].disk = Disk::with(content);
                self.notes(&[Note::DiskLost { worker }])?;
                self.after(lasts, Event::Start(w));
            }
            Fault::WorkerLeaves => {
                self.notes(&[Note::Leaves { worker }])?;
                self.worker(worker, Worker::leave)?;
            }
            Fault::MachineReboots | Fault::RuntimeDown => {
                let reboots = fault == Fault::MachineReboots;
                if reboots {
                    self.kill(w);
                    self.after(lasts, Event::Start(w));
                }
                let ends = reboots || self.chaos.rng.bool();
                let mut notes = Vec::new();
                let out = self.runtimes[worker].down(ends, &mut notes);
                self.notes(&notes)?;
                self.runtime_out(worker, out);
            }
            Fault::RuntimeHangs => self.runtimes[worker].hang(self.now + lasts),
            Fault::ContainerLost => {
                let mut notes = Vec::new();
                let now = self.now;
                let out = self.runtimes[worker].lose_one(&mut self.chaos, now, &mut notes);
                self.notes(&notes)?;
                self.runtime_out(worker, out);
            }
            Fault::PairCut => {
                self.cuts.insert((m, w));
                self.cuts.insert((w, m));
                other = worker;
            }
            Fault::BusDown => {
                self.bus_up = false;
                for process in self.everybody() {
                    if let Some(link) = self.link_mut(process) {
                        link.serial += 1;
                        link.held.clear();
                    }
                    let serial = self.link(process).map_or(0, |link| link.serial);
                    self.after(0, Event::SessionBreaks(process, serial));
                }
            }
            Fault::JetStreamDown => self.jetstream_up = false,
            Fault::LogFull => self.jetstream.is_full = true,
            Fault::LeaseDoubled => self.jetstream.lease_lies = true,
            Fault::CrowdCutOff => {
                for number in 0..self.size.workers {
                    if self.chaos.rng.u8(0..4) > 0 {
                        self.sever(Process::Worker(number));
                    }
                }
            }
            Fault::TailLost => {
                let lost = self.chaos.rng.usize(1..6);
                self.jetstream.lose_tail(lost);
                let settings = self.settings.clone();
                self.checks.truncated(self.jetstream.log(), &settings, self.now)?;
            }
            _ => {}
        }
        let target = match fault {
            Fault::WorkerCutOff
            | Fault::WorkerDiskFull
            | Fault::MachineReboots
            | Fault::RuntimeDown => worker,
            _ => manager,
        };
        self.after(lasts, Event::Heal(fault, target, other));
        Ok(())
    }

    fn heal(&mut self, fault: Fault, target: usize, other: usize) {
        match fault {
            Fault::ManagerCutOff => self.restore(Process::Manager(target)),
            Fault::ManagerDiskFull => self.managers[target].disk.is_full = false,
            Fault::WorkerCutOff => self.restore(Process::Worker(target)),
            Fault::WorkerDiskFull => self.workers[target].disk.is_full = false,
            Fault::MachineReboots | Fault::RuntimeDown => self.runtimes[target].up(),
            Fault::PairCut => {
                let (m, w) = (Process::Manager(target), Process::Worker(other));
                self.cuts.remove(&(m, w));
                self.cuts.remove(&(w, m));
            }
            Fault::BusDown => {
                self.bus_up = true;
                for process in self.everybody() {
                    self.restore(process);
                }
            }
            Fault::JetStreamDown => self.jetstream_up = true,
            Fault::LogFull => self.jetstream.is_full = false,
            Fault::LeaseDoubled => self.jetstream.lease_lies = false,
            Fault::CrowdCutOff => {
                for number in 0..self.size.workers {
                    self.restore(Process::Worker(number));
                }
            }
            _ => {}
        }
    }

    fn everybody(&self) -> Vec<Process> {
        let managers = (0..self.size.managers).map(Process::Manager);
        managers.chain((0..self.size.workers).map(Process::Worker)).collect()
    }

    /// Faults stop: everything that was broken is whole again.
    fn calm(&mut self) {
        self.trace.say(|| "calm: nothing breaks any more".into());
        self.chaos.stop();
        self.calm_at = Some(self.now);
        self.jetstream_up = true;
        self.jetstream.is_full = false;
        self.jetstream.lease_lies = false;
        self.cuts.clear();
        self.bus_up = true;
        for number in 0..self.size.workers {
            self.runtimes[number].up();
            self.runtimes[number].hang(self.now);
            self.workers[number].disk.is_full = false;
        }
        for number in 0..self.size.managers {
            self.managers[number].disk.is_full = false;
        }
        for process in self.everybody() {
            self.restore(process);
            self.resume(process);
            self.after(SECOND, Event::Start(process));
        }
    }

    // What is looked at once a second.

    fn tick(&mut self) -> Checked {
        let look = self.look();
        self.checks.tick(&look, self.now)?;
        let tasks: Vec<_> = self.checks.truth.state.tasks.keys().copied().collect();
        for client in &mut self.clients {
            client.tasks_seen = (0..3)
                .filter_map(|_| self.chaos.rng.choice(&tasks))
                .map(ToString::to_string)
                .collect();
        }
        self.after(SECOND, Event::Tick);
        let Some(calm_at) = self.calm_at else { return Ok(()) };
        let calm_for = self.now - calm_at;
        if self.size.loses_tail {
            self.is_over = calm_for >= LEADER_WITHIN;
            return Ok(());
        }
        let leads = self.managers.iter().any(|place| {
            place.process.as_ref().is_some_and(|process| process.settled_state().is_some())
        });
        if !leads && calm_for >= LEADER_WITHIN && self.settled_at.is_none() {
            let elected = self
                .managers
                .iter()
                .any(|place| place.process.as_ref().is_some_and(Manager::is_listening));
            if !elected {
                return violated("E-3", "nobody leads 15 s after the last fault");
            }
        }
        let asked = self.clients.iter().all(|client| client.questions() == 0);
        let settled = match end::settled(&self.checks.truth.state, &self.running()) {
            Ok(()) if leads && asked => Ok(()),
            Ok(()) => violated("E-1", "a client still waits for an answer"),
            Err(violation) => Err(violation),
        };
        match (settled, self.settled_at) {
            (Err(violation), _) if calm_for >= SETTLED_WITHIN => return Err(violation),
            (Err(_), _) => self.settled_at = None,
            (Ok(()), None) => self.settled_at = Some(self.now),
            (Ok(()), Some(at)) if self.now - at >= QUIET_FOR => {
                if self.appended_at > at {
                    // What was settled has moved on by itself: it must settle anew.
                    self.settled_at = Some(self.now);
                    if calm_for >= SETTLED_WITHIN {
                        return violated(
                            "E-1",
                            "the log goes on being written though all is settled",
                        );
                    }
                    return Ok(());
                }
                self.trace.settled(at - calm_at);
                self.is_over = true;
            }
            (Ok(()), Some(_)) => {}
        }
        Ok(())
    }

    fn running(&self) -> end::Running {
        let owners = |runtime: &Runtime| {
            runtime.running().map(|owner| (owner.task, owner.attempt)).collect()
        };
        self.runtimes.iter().map(owners).enumerate().collect()
    }

    fn look(&self) -> Look {
        let mut look =
            Look { lease_is_endless: self.jetstream.lease_is_endless(), ..Look::default() };
        for (number, place) in self.managers.iter().enumerate() {
            if let Some(process) = &place.process {
                look.forgotten.insert(number, process.forgotten());
                look.leaders.extend(process.is_listening().then(|| process.id()));
            }
        }
        let leaders = self.listeners();
        let leader = match leaders.as_slice() {
            [Process::Manager(number)] => Some(*number),
            _ => None,
        };
        for (number, place) in self.workers.iter().enumerate() {
            let Some(process) = &place.process else { continue };
            look.questions.insert(number, process.questions());
            let Some(leader) = leader else { continue };
            let (m, w) = (Process::Manager(leader), Process::Worker(number));
            let clear = self.can_talk(m)
                && self.can_talk(w)
                && !self.cuts.contains(&(m, w))
                && !place.paused
                && !self.managers[leader].paused
                && process.is_registered()
                && self.jetstream_up
                && !self.jetstream.is_full;
            let state = self.managers[leader].process.as_ref().and_then(Manager::settled_state);
            let node = state.and_then(|state| state.nodes.get(&node_name(number)));
            if let (true, Some(node)) = (clear, node) {
                look.clear.insert(number, (node.revision, process.agent().revision()));
            }
        }
        look
    }
}

/// What an event is, for people.
fn describe(event: &Event) -> String {
    match event {
        Event::Deliver(to, message) => format!("{} to {to}", message.kind()),
        other => {
            let mut text = format!("{other:?}");
            text.truncate(text.floor_char_boundary(300));
            text
        }
    }
}
