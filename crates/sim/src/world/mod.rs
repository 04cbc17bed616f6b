//! The whole cluster in one thread: every process, the bus, JetStream, disks and runtimes, in virtual time.
//!
//! Events are taken in the order of their time; everything else follows from the seed. A process that is
//! suspended takes nothing until it goes on, and then finds its timers first and what lay in its sockets after
//! them, as real ones do.
//!
//! | module | what lives there |
//! |---|---|
//! | [`process`](self) | processes start, take steps, and what they want is done |
//! | [`bus`](self) | the bus and JetStream between them |
//! | [`faults`](self) | what breaks, and how it is mended |
//! | [`operator`](self) | who mends what no program may mend by itself |
//! | [`ending`](self) | what is looked at once a second, and whether all has settled |

mod bus;
mod ending;
mod faults;
mod operator;
mod process;

use std::collections::{BTreeMap, BTreeSet};

use longshore_core::agent::ContainerEvent;
use longshore_core::cluster::{Balancing, Settings};
use longshore_core::leadership::log::{DOUBT_OF_ONE_MS, DOUBT_OF_SEVERAL_MS};
use longshore_proto::spec::Resources;

use crate::check::{Checks, Violation, end};
use crate::client::{self, Client};
use crate::disk::{Disk, ManagerContent, WorkerContent};
use crate::fault::{Chaos, Fault};
use crate::jetstream::{JetStream, Request, Response};
use crate::manager::{self, Manager, uuid};
use crate::message::{Message, Process};
use crate::runtime::{self, Runtime, VerbAnswer};
use crate::sabotage::Sabotage;
use crate::servers::Servers;
use crate::time::{Clock, MS, Micros, SECOND};
use crate::trace::Trace;
use crate::worker::{self, Worker};

/// By when somebody leads again once faults have stopped.
const LEADER_WITHIN: Micros = 15 * SECOND;
/// The same, where a log that has lost something must be healed first, an operator's patience included.
const LEADER_AFTER_LOSS_WITHIN: Micros = 60 * SECOND;
/// By when everything has settled once faults have stopped and no container ends by itself any more. A roll-out may take most
/// of it: of eight tasks one after the other, each of which takes ten seconds to stop and counts when it was up for ten, and
/// back again.
const SETTLED_WITHIN: Micros = 300 * SECOND;
/// For how long nothing is written once everything has settled.
const QUIET_FOR: Micros = 20 * SECOND;

/// What the log loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loses {
    /// Nothing.
    Nothing,
    /// The time that it was made: it is deleted, and restored whole.
    Age,
    /// Its newest records, which were not synced.
    Tail,
    /// Everything, and the snapshots with it.
    All,
}

impl Loses {
    /// Whether there is less in it than before.
    pub fn records(self) -> bool {
        matches!(self, Self::Tail | Self::All)
    }
}

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
    /// What the log loses, in the midst of it.
    pub loses: Loses,
    /// How many servers hold the streams: one that is behind is doubted for longer where there are several.
    pub servers: usize,
    /// After how many records a snapshot is made, and the log trimmed behind it.
    pub snapshot_records: u64,
}

impl Size {
    /// What a seed chooses.
    pub fn of(rng: &mut fastrand::Rng) -> Self {
        Self {
            managers: [1, 2, 3, 3, 5][rng.usize(0..5)],
            workers: if rng.u8(0..4) == 0 { rng.usize(12..40) } else { rng.usize(2..12) },
            clients: rng.usize(1..4),
            chaos: rng.u64(30 * SECOND..120 * SECOND),
            loses: match rng.u8(0..20) {
                0 => Loses::Tail,
                1 => Loses::All,
                2 => Loses::Age,
                _ => Loses::Nothing,
            },
            servers: [1, 3][rng.usize(0..2)],
            snapshot_records: rng.u64(10..60),
        }
    }
}

impl Size {
    /// For how long it must be told that the log is broken before a manager believes it.
    pub fn doubt(&self) -> Micros {
        MS * if self.servers > 1 { DOUBT_OF_SEVERAL_MS } else { DOUBT_OF_ONE_MS }
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
    SwitchOn(usize),
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
    /// The server that it is connected to.
    home: usize,
    /// What it wanted to say while it could not.
    held: Vec<Event>,
}

impl Link {
    fn new() -> Self {
        Self { is_up: true, has_session: true, serial: 0, home: 0, held: Vec::new() }
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
    /// Whether an operator has chosen its store as the truth.
    chosen: bool,
    /// A manager's name is m and this number.
    name: usize,
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
            chosen: false,
            name: 0,
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
    server_behind: bool,
    servers: Servers,
    bus_up: bool,
    /// Whether somebody runs a second manager under a name that another one has.
    has_namesake: bool,
    cuts: BTreeSet<(Process, Process)>,
    checks: Checks,
    /// What happened.
    pub trace: Trace,
    calm_at: Option<Micros>,
    records: usize,
    operator: operator::Operator,
    /// When all had settled, and how long before that something last happened that is not the cluster's doing.
    settled_at: Option<(Micros, Micros)>,
    appended_at: Micros,
    /// When the last question arrives that is late.
    late_until: Micros,
    is_over: bool,
}

type Checked = Result<(), Violation>;

impl World {
    /// The cluster of a seed, before anything has happened.
    pub fn new(seed: u64, sabotage: Option<Sabotage>, trace: Trace) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut size = Size::of(&mut rng);
        if matches!(sabotage, Some(Sabotage::LeadOverLostTail | Sabotage::TrustShortLog)) {
            size.loses = Loses::Tail;
        }
        if sabotage == Some(Sabotage::BelieveOneServer) {
            (size.loses, size.servers) = (Loses::Nothing, 3);
        }
        if sabotage == Some(Sabotage::ShareTheName) {
            size.loses = Loses::Nothing;
        }
        let settings = settings(&mut rng);
        // One more is for a second one under a name that another one has.
        let managers = (0..=size.managers).map(|name| {
            let content = ManagerContent { id: uuid(&mut rng), ..ManagerContent::default() };
            Place { name, ..Place::new(Disk::with(content), &mut rng) }
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
        let servers = Servers::new(size.servers, &mut rng);
        let mut world = Self {
            now: 0,
            events: BTreeMap::new(),
            sequence: 0,
            chaos: Chaos::new(rng),
            size,
            checks: Checks::new(&settings, size.doubt()),
            settings,
            sabotage,
            managers,
            workers,
            runtimes: (0..size.workers).map(|number| Runtime::new(number, sabotage)).collect(),
            capacity,
            // The last one is the operator's.
            clients: (0..=size.clients).map(|number| Client::new(number, size.workers)).collect(),
            jetstream: JetStream::default(),
            jetstream_up: true,
            server_behind: false,
            servers,
            bus_up: true,
            has_namesake: false,
            cuts: BTreeSet::new(),
            trace,
            calm_at: None,
            records: 0,
            operator: operator::Operator::default(),
            settled_at: None,
            appended_at: 0,
            late_until: 0,
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
        match self.size.loses {
            Loses::Nothing => {}
            Loses::Age => self.at(self.size.chaos / 2, Event::Fault(Fault::LogRestored, 0)),
            Loses::Tail => self.at(self.size.chaos / 2, Event::Fault(Fault::TailLost, 0)),
            Loses::All => self.at(self.size.chaos / 2, Event::Fault(Fault::LogLost, 0)),
        }
        // What finds these is rare, and must be there to be found.
        let needed = match self.sabotage {
            Some(Sabotage::BelieveOneServer) => Some(Fault::ServerBehind),
            Some(Sabotage::ShareTheName) => Some(Fault::NameTwice),
            _ => None,
        };
        if let Some(fault) = needed {
            self.at(self.size.chaos / 2, Event::Fault(fault, 15 * SECOND));
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
        self.records
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
        self.count_decisions();
        self.checks.finish()?;
        for (number, place) in self.managers.iter().enumerate() {
            end::store(number, place.disk.content(), &self.checks.truth.state)?;
            self.checks.history(number, place.disk.content())?;
        }
        self.trace.fold(self.chaos.rng.u64(..));
        Ok(())
    }

    fn count_decisions(&mut self) {
        let seen = self.checks.seen();
        let counts = &mut self.chaos.counts;
        counts.count_many(Fault::GangPlaced, seen.gangs);
        counts.count_many(Fault::Displaced, seen.displaced);
        counts.count_many(Fault::Moved, seen.moved);
        counts.count_many(Fault::RolledBackAlone, seen.rolled_back);
        counts.count_many(Fault::FoundIll, seen.ill);
        counts.count_many(Fault::Drained, seen.drained);
        counts.count_many(Fault::FencedReplaced, self.checks.fenced_replaced());
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
                self.runtime(number, |runtime, ctx| runtime.step(step, ctx))
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
            Event::SwitchOn(worker) => self.switch_on(worker),
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
}

/// How the cluster is run: with displacing for any difference, for a large one or for none; and in some runs it
/// balances itself, often enough for a short run.
fn settings(rng: &mut fastrand::Rng) -> Settings {
    let balancing = Balancing { moves_max: 3, window_ms: 8_000, gain: 1.3 };
    Settings {
        preempt_gap: [None, Some(1), Some(20), Some(20)][rng.usize(0..4)],
        balancing: (rng.u8(0..3) == 0).then_some(balancing),
        ..Settings::default()
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
