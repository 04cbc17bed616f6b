//! The shell of a manager, as a state machine: what `crates/manager` does with tasks and sockets, step by step.
//!
//! ```text
//! Opening ► Reading ► Attempting ► Standing ► Reading ► Appending ► Idle ─┐
//!    ▲                      └────────────────────┘          ▲            │ a record
//!  Ending ◄── fenced, or the lease is another's ────────────┴────────────┘
//! ```
//!
//! While the next record is decided and appended, as somebody waits for its answer, those before may still be landing: on their
//! way to the disk.
//!
//! | module | what lives there |
//! |---|---|
//! | [`follow`](self) | opening the log, reading it, standing by |
//! | [`lease`](self) | waiting for the lease, renewing it, giving it up |
//! | [`reign`](self) | the loop of who leads |
//! | [`keep`](self) | snapshots and the trimmed log, and who stands by |
//! | [`publish`](self) | the history to the event stream |
//! | [`presence`](self) | that it is there, under its name |
//! | [`mend`](self) | joining from a snapshot, and healing the log |
//!
//! It follows the files of that crate in everything that can matter: what is awaited, what has which limit, what is
//! refused meanwhile, in which order things are stored and told. What can be concluded without waiting is
//! [`longshore_core::leadership`]'s to say, to both.

mod follow;
mod keep;
mod lease;
mod mend;
mod presence;
mod publish;
mod reign;

use std::collections::{BTreeMap, VecDeque};

use longshore_core::cluster::persist::Write;
use longshore_core::cluster::record::Hash;
use longshore_core::cluster::{
    Cluster, Effect, Identity, Proposal, Queue, Settings, State, Ticket,
};
use longshore_core::leadership::follow::Follower;
use longshore_core::leadership::hearing::Hearing;
use longshore_core::leadership::lease::Waiting;
use longshore_core::leadership::log::{Applied, Doubt};
use longshore_core::leadership::mend::Listed;
use longshore_core::time::Time;
use longshore_proto::event::Event;
use longshore_proto::id::ManagerId;
use longshore_proto::name::{NodeName, UserName};
use longshore_proto::node::Sync;
use uuid::Uuid;

use crate::check::Note;
use crate::disk::{Disk, ManagerContent};
use crate::jetstream::{Bytes, Request, Response};
use crate::message::{Message, Process};
use crate::sabotage::Sabotage;
use crate::time::{Clock, MS, Micros, SECOND};

const ACK_TIMEOUT: Micros = 2 * SECOND;
const READ_TIMEOUT: Micros = 5 * SECOND;
const RETRY_DELAY: Micros = 250 * MS;
const INPUTS_MAX: usize = 2_048;
/// The most records that are on their way to the disk.
const LANDING_MAX: usize = 2;
const GATEWAY_MAX: usize = 8_192;

/// What wakes a manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// The loop takes its next turn.
    Turn,
    /// A question to JetStream is given up.
    Timeout(u64),
    /// What failed is tried again.
    Retry,
    /// The lease is looked at, by this opening of the log.
    Look(u64),
    /// The tail of the log is read on.
    Tail(u64),
    /// The end of the log is compared with what was applied.
    Check(u64),
    /// The lease is renewed.
    Renew(u64),
    /// Who stands by is looked at, by this opening of the log.
    Members(u64),
    /// A snapshot that was not stored is tried again, by this opening of the log.
    Keep(u64),
    /// Events that were not published are tried again, by this opening of the log.
    Publish(u64),
    /// The key of its name is due, for as long as the process runs.
    Name,
    /// What is broken is looked at again, by this opening of the log.
    Mend(u64),
    /// An append has had no outcome for too long.
    Patience(u64),
}

/// What a manager wants of the world.
#[derive(Debug)]
pub enum Output {
    /// Ask JetStream.
    Ask(u64, Request),
    /// Say something to a process.
    Send(Process, Message),
    /// Wake me.
    Wake(Micros, Timer),
    /// So many batches are being written; tell me when they are synced.
    Sync(usize),
    /// The process ends by itself.
    Exit(Ended),
}

/// How a manager is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name is m and this number.
    pub name: usize,
    /// How the cluster is run.
    pub settings: Settings,
    /// After how many records a snapshot is made.
    pub snapshot_records: u64,
    /// For how long it must be told that the log is broken before that is believed.
    pub doubt_ms: u64,
    /// Whether an operator has chosen this manager's store as the truth.
    pub chosen: bool,
}

/// Why a manager's process ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Told,
    /// Its disk is full.
    DiskFull,
    /// Its store, or a record, cannot be read.
    Unreadable,
    /// The log and its store do not fit together, and it could not mend that.
    Broken,
    /// The bucket of snapshots cannot be used.
    Bucket,
    /// Another manager has its name.
    NameTaken,
}

/// What a manager works with in one step.
pub struct Context<'a> {
    /// Virtual time.
    pub now: Micros,
    /// Its disk.
    pub disk: &'a mut Disk<ManagerContent>,
    /// What it wants.
    pub out: &'a mut Vec<Output>,
    /// What the checkers should know.
    pub notes: &'a mut Vec<Note>,
    /// Chance.
    pub rng: &'a mut fastrand::Rng,
    /// What is broken on purpose.
    pub sabotage: Option<Sabotage>,
}

/// Why a question was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Open,
    LookBefore,
    Acquire,
    End { applied: Applied },
    Tip { applied: Applied },
    Read,
    Tail,
    NameLook,
    NameWrite,
    Check { applied: Applied },
    CheckTip { applied: Applied },
    CheckBefore { applied: Applied, before: Applied },
    Append,
    Beside,
    Place,
    Below { sequence: u64 },
    EndAfter,
    TipAfter,
    Renew(u64),
    LookAfter(u64),
    GiveUp,
    Members,
    Keep,
    Shared,
    Cut,
    Events,
    Mend,
}

/// What whoever is about to lead knows of the snapshots.
#[derive(Debug, Default)]
struct Shared {
    /// Since when that is asked for.
    since: Micros,
    /// Whether it is known, or was asked for in vain for long enough.
    is_told: bool,
    /// The newest one.
    newest: Option<Listed>,
}

impl Shared {
    fn asked_for(since: Micros) -> Self {
        Self { since, ..Self::default() }
    }
}

#[derive(Debug)]
enum Phase {
    Opening,
    Marking,
    /// Waiting until its name is its own.
    Claiming,
    /// Catching up with the log; once caught up, it leads if it holds the lease.
    Reading {
        end: u64,
        next: u64,
    },
    /// Taking the lease if it is free.
    Attempting,
    /// Following the log, and watching the lease.
    Standing,
    Appending {
        pending: Box<Pending>,
        id: u64,
        payload: Bytes,
        /// When it was last sent.
        sent_at: Time,
        /// The look beside it has no answer yet.
        looking: bool,
        /// It has one, or none in time, which waits for that of the look.
        answer: Option<Option<Response>>,
    },
    Idle,
    /// It leads no longer, and waits until what it was writing is on the disk.
    Ending,
    /// The log and the store do not fit together.
    Mending(mend::Mending),
}

/// A record on its way.
#[derive(Debug)]
struct Pending {
    index: u64,
    bytes: Bytes,
    /// Its effects; gone already where a broken driver has let them go.
    proposal: Option<Proposal>,
    /// Its writes, of a broken driver.
    writes: Vec<Write>,
    events: Vec<Event>,
    /// Whether it begins the reign.
    electing: bool,
    /// What was decided without a record while this one was the last.
    after: Vec<Effect>,
}

/// A lease that is held.
#[derive(Debug)]
struct Held {
    /// Tells renewals of one reign from those of another.
    reign: u64,
    sequence: u64,
    lost: bool,
}

/// A manager's process.
#[derive(Debug)]
pub struct Manager {
    number: usize,
    /// Its machine's clocks.
    pub clock: Clock,
    identity: Identity,
    settings: Settings,
    store: Uuid,
    phase: Phase,
    cluster: Option<Cluster>,
    listening: bool,
    refusing: bool,
    hearing: Hearing,
    connections: u64,
    gateway: VecDeque<Message>,
    queue: Queue,
    waiting: BTreeMap<Ticket, (Process, u64)>,
    /// Records that were appended and are being written, in order.
    landing: VecDeque<Pending>,
    /// Questions about sets that wait until all of them have landed: whose, the number, and what.
    syncs: Vec<(Process, u64, Sync)>,
    tickets: u64,
    appends: u64,
    /// What it has read or written of the log.
    position: Applied,
    /// When the last append was sent that is known to stand on what was applied here.
    known_at: Option<Time>,
    /// Where it stood, as a leader, when it last looked.
    looked_at: Applied,
    doubt_ms: u64,
    doubt: Doubt,
    follower: Follower,
    missing_since: Option<Micros>,
    /// Whether an operator has chosen its store as the truth.
    chosen: bool,
    keeping: keep::Keeping,
    shared: Shared,
    publishing: publish::Publishing,
    held: Option<Held>,
    waiting_for_lease: Waiting,
    /// Whether what was read of the tail is being written.
    tail_syncing: bool,
    /// Counts openings of the log, so that timers of an earlier one mean nothing.
    opened: u64,
    reigns: u64,
    moved_at: Micros,
    asked: BTreeMap<u64, Purpose>,
    asks: u64,
    turn_at: Option<Micros>,
    connected: bool,
    cancelled: bool,
    presence: presence::Presence,
    /// Why it ends, once it is to.
    why: Ended,
}

impl Manager {
    /// A process that has just begun.
    pub fn start(
        number: usize,
        clock: Clock,
        options: Options,
        connected: bool,
        ctx: &mut Context<'_>,
    ) -> Self {
        let identity = Identity {
            manager: ManagerId(uuid(ctx.rng)),
            name: user(&format!("m{}", options.name)),
            version: "sim".into(),
        };
        let mut manager = Self {
            number,
            clock,
            identity,
            settings: options.settings,
            store: ctx.disk.content().id,
            phase: Phase::Opening,
            cluster: None,
            listening: false,
            refusing: false,
            hearing: Hearing::new(0),
            connections: 0,
            gateway: VecDeque::new(),
            queue: Queue::default(),
            waiting: BTreeMap::new(),
            landing: VecDeque::new(),
            syncs: Vec::new(),
            tickets: 0,
            appends: 0,
            position: Applied::default(),
            known_at: None,
            looked_at: Applied::default(),
            doubt: Doubt::new(options.doubt_ms),
            follower: Follower::default(),
            missing_since: None,
            doubt_ms: options.doubt_ms,
            chosen: options.chosen,
            keeping: keep::Keeping::every(options.snapshot_records),
            shared: Shared::default(),
            publishing: publish::Publishing::default(),
            held: None,
            waiting_for_lease: Waiting::default(),
            tail_syncing: false,
            opened: 0,
            reigns: 0,
            moved_at: ctx.now,
            asked: BTreeMap::new(),
            asks: 0,
            turn_at: None,
            connected,
            cancelled: false,
            presence: presence::Presence::default(),
            why: Ended::Told,
        };
        manager.look_for_name(ctx);
        manager.open(ctx);
        manager
    }

    /// This run of the process.
    pub fn id(&self) -> ManagerId {
        self.identity.manager
    }

    /// Whether it hears heartbeats, as a leader or standing by.
    pub fn hears_heartbeats(&self) -> bool {
        self.listening || matches!(self.phase, Phase::Standing)
    }

    /// Whether it waits for the lease, or follows.
    pub fn stands_by(&self) -> bool {
        matches!(self.phase, Phase::Standing)
    }

    /// Whether it hears what is said to a leader.
    pub fn is_listening(&self) -> bool {
        self.listening
    }

    /// What it knows, while it leads and nothing is under way.
    pub fn settled_state(&self) -> Option<&State> {
        let settled =
            matches!(self.phase, Phase::Idle) && self.landing.is_empty() && self.listening;
        self.cluster.as_ref().filter(|_| settled).map(Cluster::state)
    }

    /// How many wait for an answer although nothing is under way: none, unless somebody was forgotten.
    pub fn forgotten(&self) -> usize {
        let idle =
            matches!(self.phase, Phase::Idle) && self.landing.is_empty() && self.queue.is_empty();
        if idle { self.waiting.len() } else { 0 }
    }

    /// Takes a message from the bus.
    pub fn message(&mut self, message: Message, ctx: &mut Context<'_>) {
        if !self.listening {
            return self.overhear(&message, ctx);
        }
        if self.refusing {
            return self.refuse(message, ctx);
        }
        if self.gateway.len() < GATEWAY_MAX {
            self.gateway.push_back(message);
        }
        self.turn_soon(ctx);
    }

    /// The connection to the bus breaks, or is back.
    pub fn connection(&mut self, connected: bool, ctx: &mut Context<'_>) {
        self.connections += u64::from(connected && !self.connected);
        self.connected = connected;
        self.publish(ctx);
        self.turn_soon(ctx);
    }

    /// It is told to end in good order.
    pub fn cancel(&mut self, ctx: &mut Context<'_>) {
        self.cancelled = true;
        match self.phase {
            Phase::Idle => self.turn_soon(ctx),
            // The outcome stays unknown; the next start reads it from the log.
            Phase::Appending { .. } => self.end_reign(ctx),
            Phase::Ending => {}
            _ => self.exit(ctx),
        }
    }

    /// A timer fires.
    pub fn timer(&mut self, timer: Timer, ctx: &mut Context<'_>) {
        match timer {
            Timer::Turn => {
                if self.turn_at.is_some_and(|at| at <= ctx.now) {
                    self.turn_at = None;
                    self.turn(ctx);
                }
            }
            Timer::Timeout(ask) => {
                if let Some(purpose) = self.asked.remove(&ask) {
                    self.answered(purpose, None, ctx);
                }
            }
            Timer::Retry => match &self.phase {
                Phase::Opening if self.missing_since.is_some() => self.find_log(ctx),
                Phase::Opening => self.open(ctx),
                Phase::Reading { .. } => self.read_on(ctx),
                Phase::Appending { .. } => self.try_again(ctx),
                _ => {}
            },
            Timer::Look(opened) if opened == self.opened => self.look(ctx),
            Timer::Tail(opened) if opened == self.opened => self.read_tail(ctx),
            Timer::Check(opened) if opened == self.opened => self.check_now(ctx),
            Timer::Members(opened) if opened == self.opened => self.look_for_members(ctx),
            Timer::Keep(opened) if opened == self.opened => self.keep(ctx),
            Timer::Publish(opened) if opened == self.opened => self.publish_again(ctx),
            Timer::Mend(opened) if opened == self.opened => self.mend(ctx),
            Timer::Look(_)
            | Timer::Tail(_)
            | Timer::Check(_)
            | Timer::Members(_)
            | Timer::Keep(_)
            | Timer::Publish(_)
            | Timer::Mend(_) => {}
            Timer::Name => self.name_due(ctx),
            Timer::Renew(reign) => self.renew(reign, ctx),
            Timer::Patience(append) => {
                if append == self.appends && matches!(self.phase, Phase::Appending { .. }) {
                    self.refusing = true;
                    for message in std::mem::take(&mut self.gateway) {
                        self.refuse(message, ctx);
                    }
                }
            }
        }
    }

    /// JetStream answers.
    pub fn response(&mut self, ask: u64, response: Response, ctx: &mut Context<'_>) {
        if let Some(purpose) = self.asked.remove(&ask) {
            self.answered(purpose, Some(response), ctx);
        }
    }

    /// What was being written is synced.
    pub fn synced(&mut self, ctx: &mut Context<'_>) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Marking => self.await_name(ctx),
            Phase::Reading { end, next, .. } => {
                self.phase = Phase::Reading { end, next };
                self.read_on(ctx);
            }
            Phase::Standing => {
                self.phase = Phase::Standing;
                self.tail_synced(ctx);
            }
            Phase::Ending => self.reign_ended(ctx),
            mending @ Phase::Mending(_) => {
                self.phase = mending;
                self.mend_synced(ctx);
            }
            other => {
                self.phase = other;
                self.landed(ctx);
            }
        }
    }

    fn ask(&mut self, request: Request, timeout: Micros, purpose: Purpose, ctx: &mut Context<'_>) {
        self.asks += 1;
        self.asked.insert(self.asks, purpose);
        ctx.out.push(Output::Ask(self.asks, request));
        ctx.out.push(Output::Wake(ctx.now + timeout, Timer::Timeout(self.asks)));
    }

    fn answered(&mut self, purpose: Purpose, response: Option<Response>, ctx: &mut Context<'_>) {
        match purpose {
            Purpose::Open => self.opened(response, ctx),
            Purpose::LookBefore => self.looked(response, ctx),
            Purpose::Acquire => self.acquired(response, ctx),
            Purpose::End { applied } => self.end_known(applied, response, ctx),
            Purpose::Tip { applied } => self.tip_known(applied, response, ctx),
            Purpose::Read => self.read(response, ctx),
            Purpose::Tail => self.tail(response, ctx),
            Purpose::Check { applied } => self.checked(applied, response, ctx),
            Purpose::CheckTip { applied } => self.tip_checked(applied, response, ctx),
            Purpose::CheckBefore { applied, before } => {
                self.before_checked(applied, before, response, ctx);
            }
            Purpose::EndAfter => self.end_after(response, ctx),
            Purpose::TipAfter => self.tip_after(response, ctx),
            Purpose::NameLook => self.name_seen(response, ctx),
            Purpose::NameWrite => self.name_written(response, ctx),
            Purpose::Members => self.members_known(response, ctx),
            Purpose::Keep => self.kept(response, ctx),
            Purpose::Shared => self.shared_told(response, ctx),
            Purpose::Cut => self.cut(response, ctx),
            Purpose::Events => self.published(response, ctx),
            Purpose::Mend => self.mend_answered(response, ctx),
            Purpose::Append => self.append_answered(response, ctx),
            Purpose::Beside => self.beside_known(response, ctx),
            Purpose::Place => self.place_known(response, ctx),
            Purpose::Below { sequence } => self.below_known(sequence, response, ctx),
            Purpose::Renew(reign) => self.renewed(reign, response, ctx),
            Purpose::LookAfter(reign) => self.looked_after(reign, response, ctx),
            Purpose::GiveUp => {
                if self.cancelled {
                    self.exit(ctx);
                }
            }
        }
    }
}

/// The name of a worker's node.
pub fn node_name(number: usize) -> NodeName {
    #[expect(clippy::expect_used, reason = "a letter and a number are a legal name")]
    format!("n{number}").parse().expect("a legal name")
}

/// The worker of a node.
pub fn worker_of(node: &NodeName) -> Process {
    let number = node.as_str().get(1..).and_then(|number| number.parse().ok());
    Process::Worker(number.unwrap_or(usize::MAX))
}

fn user(name: &str) -> UserName {
    #[expect(clippy::expect_used, reason = "a letter and a number are a legal name")]
    name.parse().expect("a legal name")
}

/// A random id.
pub fn uuid(rng: &mut fastrand::Rng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid()
}

/// What a record writes, as one number.
pub fn hash_writes(writes: &[Write]) -> Hash {
    let mut bytes = Vec::new();
    for Write { key, value } in writes {
        bytes.extend_from_slice(key);
        bytes.push(0);
        bytes.extend_from_slice(value.as_deref().unwrap_or_default());
        bytes.push(u8::from(value.is_some()));
    }
    Hash::of(&bytes)
}
