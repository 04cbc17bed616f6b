//! The shell of a worker, as a state machine: what `crates/worker` does with tasks and sockets, step by step.
//!
//! It follows `driver.rs`, `session.rs`, `watch.rs` and `store.rs` of that crate: inputs that wait are handled
//! together, their writes are synced, and only then are their actions let go; every action has its answer; the
//! runtime's events are asked for before its list.

use std::collections::VecDeque;

use longshore_core::agent::{
    Action, Agent, ContainerEvent, Failure, FullSet, Held, Input, Settings, Writes,
};
use longshore_core::cluster::Reply;
use longshore_proto::error::ErrorCode;
use longshore_proto::id::{BootId, NodeId, TaskId};
use longshore_proto::node::{
    AssignDelta, Assignment, Heartbeat, Register, Reports, Sync, TASKS_MAX_USUAL, Want,
};
use longshore_proto::spec::Resources;
use longshore_proto::state::TaskState;

use crate::ask::{AskOutput, AskTimer, Asks};
use crate::check::Note;
use crate::disk::{Disk, WorkerContent};
use crate::fault::{Chaos, Fault};
use crate::manager::{node_name, uuid};
use crate::message::{Answer, Message, Question};
use crate::runtime::{Verb, VerbAnswer};
use crate::sabotage::Sabotage;
use crate::time::{Clock, MS, Micros, SECOND};

const BATCH_MAX: usize = 256;
const ASK_DEADLINE: Micros = 10 * SECOND;
const REGISTER_DELAY: Micros = SECOND;
const REGISTER_DELAY_MAX: Micros = 30 * SECOND;
const SYNC_TRIES: u32 = 5;
const WATCH_DELAY: Micros = 500 * MS;
const WATCH_DELAY_MAX: Micros = 10 * SECOND;
const PING_INTERVAL: Micros = 10 * SECOND;
const LEAVE_MARGIN: Micros = 30 * SECOND;

/// What wakes a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// The brain has something to do.
    Brain,
    /// A sign of life is due.
    Heartbeat,
    /// For a question.
    Ask(AskTimer),
    /// The registration is tried again.
    Register,
    /// The runtime is looked at.
    Watch(u64),
    /// A worker that leaves has waited long enough.
    LeaveEnds,
    /// A task that was asked how it does answers.
    Probed {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u64,
        /// What it answers.
        answer: Probed,
    },
}

/// What a probe says of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// It does its work.
    Well,
    /// It does not.
    Ill,
    /// The runtime could not ask.
    Unknown,
}

/// What a worker wants of the world.
#[derive(Debug)]
pub enum Output {
    /// Ask whoever leads.
    Ask(u64, Question),
    /// Tell whoever leads.
    Beat(Box<Heartbeat>),
    /// Ask the runtime.
    Runtime(Verb),
    /// Take the runtime's events from a moment ago on, under this number.
    Subscribe(u64),
    /// Wake me.
    Wake(Micros, Timer),
    /// A batch is being written; tell me when it is synced.
    Sync,
    /// The process ends by itself.
    Exit(&'static str),
}

/// What a worker works with in one step.
pub struct Context<'a> {
    /// Virtual time.
    pub now: Micros,
    /// Its disk.
    pub disk: &'a mut Disk<WorkerContent>,
    /// What it wants.
    pub out: &'a mut Vec<Output>,
    /// What the checkers should know.
    pub notes: &'a mut Vec<Note>,
    /// Chance, and what it breaks.
    pub chaos: &'a mut Chaos,
    /// What is broken on purpose.
    pub sabotage: Option<Sabotage>,
}

#[derive(Debug)]
enum Purpose {
    Register,
    Page,
    Reports { through: u64, told: Vec<(TaskId, u64, TaskState)> },
}

/// A whole set that is being read.
#[derive(Debug)]
struct Fetch {
    tries: u32,
    set: Option<FullSet>,
}

/// A worker's process.
#[derive(Debug)]
pub struct Worker {
    number: usize,
    /// Its machine's clocks.
    pub clock: Clock,
    agent: Agent,
    boot_id: BootId,
    node_id: NodeId,
    register: Register,
    inbox: VecDeque<Input>,
    storing: Option<(Vec<Writes>, Vec<Held>)>,
    asks: Asks<Purpose>,
    fetch: Option<Fetch>,
    registered: bool,
    registering: bool,
    unknown: bool,
    register_delay: Micros,
    heartbeat_at: Micros,
    watch_delay: Micros,
    watch: u64,
    subscribed: bool,
    brain_at: Option<Micros>,
    leaving: bool,
    /// Whether it is to leave once what it handles is stored.
    leaves_next: bool,
}

impl Worker {
    /// A process that has just begun.
    pub fn start(
        number: usize,
        clock: Clock,
        capacity: Resources,
        connected: bool,
        ctx: &mut Context<'_>,
    ) -> Self {
        let boot_id = BootId(uuid(&mut ctx.chaos.rng));
        let content = ctx.disk.content();
        let node_id = NodeId(content.node_id);
        let saved = content.saved.clone();
        let now = clock.read(ctx.now);
        let register = Register {
            node_id,
            boot_id,
            cluster_id: saved.cluster_id,
            datacenter: longshore_proto::name::Datacenter::standard(),
            labels: Default::default(),
            attributes: Default::default(),
            capacity,
            tasks_max: TASKS_MAX_USUAL,
            mount_paths: Vec::new(),
            version: "sim".into(),
        };
        let agent = Agent::restore(node_name(number), boot_id, saved, Settings::default(), now);
        ctx.notes.push(Note::WorkerStarted { worker: number, revision: agent.revision() });
        let mut worker = Self {
            number,
            clock,
            agent,
            boot_id,
            node_id,
            register,
            inbox: VecDeque::new(),
            storing: None,
            asks: Asks::default(),
            fetch: None,
            registered: false,
            registering: false,
            unknown: false,
            register_delay: REGISTER_DELAY,
            heartbeat_at: 0,
            watch_delay: WATCH_DELAY,
            watch: 0,
            subscribed: false,
            brain_at: None,
            leaving: false,
            leaves_next: false,
        };
        worker.look_at_runtime(ctx);
        if connected {
            worker.register_now(ctx);
        }
        worker
    }

    /// Its brain, for the checkers.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Whether the leader has taken this boot in.
    pub fn is_registered(&self) -> bool {
        self.registered
    }

    /// Whether it asks to be taken in.
    pub fn is_joining(&self) -> bool {
        self.registering
    }

    /// Whether it is about to leave.
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// How many questions are open.
    pub fn questions(&self) -> usize {
        self.asks.open()
    }

    /// Takes a message from the bus.
    pub fn message(&mut self, message: Message, ctx: &mut Context<'_>) {
        match message {
            Message::Assign(delta) => {
                if ctx.sabotage == Some(Sabotage::DeafWorker) && self.agent.revision().index > 8 {
                    return;
                }
                let delta = match ctx.sabotage {
                    Some(Sabotage::InventAssignments) => invent(delta, &mut ctx.chaos.rng),
                    Some(Sabotage::ReuseTokens) => reuse_tokens(delta),
                    _ => delta,
                };
                ctx.notes
                    .push(Note::Told { worker: self.number, assignments: delta.changes.clone() });
                self.input(Input::Delta(delta), ctx);
            }
            Message::Answer { number, answer } => {
                let mut out = Vec::new();
                let done = self.asks.answer(number, answer, ctx.now, &mut out);
                pass(out, ctx);
                self.answered(done, ctx);
            }
            Message::Ask { .. } | Message::Heartbeat { .. } => {}
        }
    }

    /// The connection to the bus is (back) there.
    pub fn connected(&mut self, ctx: &mut Context<'_>) {
        self.unknown = true;
        self.register_if_unknown(ctx);
    }

    /// It is told to end together with its tasks.
    pub fn leave(&mut self, ctx: &mut Context<'_>) {
        if self.leaving {
            return;
        }
        // Its loop takes one thing after the other.
        self.leaves_next = self.storing.is_some();
        if self.leaves_next {
            return;
        }
        self.leaving = true;
        self.beat(ctx);
        let grace = self.agent.grace_ms_max() * MS;
        ctx.out.push(Output::Wake(ctx.now + grace + LEAVE_MARGIN, Timer::LeaveEnds));
        self.input(Input::Leave, ctx);
    }

    /// A timer fires.
    pub fn timer(&mut self, timer: Timer, ctx: &mut Context<'_>) {
        if ctx.sabotage == Some(Sabotage::StopUnasked)
            && timer == Timer::Heartbeat
            && ctx.chaos.rng.u8(0..16) == 0
        {
            return self.input(Input::Leave, ctx);
        }
        match timer {
            Timer::Brain => {
                if self.brain_at.is_some_and(|at| at <= ctx.now) {
                    self.brain_at = None;
                    self.input(Input::Timer, ctx);
                }
            }
            Timer::Heartbeat => {
                if self.registered && self.heartbeat_at <= ctx.now {
                    self.beat(ctx);
                }
            }
            Timer::Ask(timer) => {
                let mut out = Vec::new();
                let done = self.asks.timer(timer, ctx.now, &mut ctx.chaos.rng, &mut out);
                pass(out, ctx);
                self.answered(done, ctx);
            }
            Timer::Register => self.register_now(ctx),
            Timer::Probed { task, attempt, answer } => {
                ctx.notes.push(Note::Probed { task, attempt, answer });
                let blames = ctx.sabotage == Some(Sabotage::BlameTheUnknown);
                let result = match answer {
                    Probed::Well => Ok(()),
                    Probed::Unknown if blames => Err(Failure::Refused("nobody knows".into())),
                    Probed::Ill => Err(Failure::Refused("it is ill".into())),
                    Probed::Unknown => Err(Failure::RuntimeAway),
                };
                self.input(Input::Probed { task, attempt, result }, ctx);
            }
            Timer::Watch(watch) => {
                if watch == self.watch {
                    ctx.out.push(Output::Runtime(Verb::Version { watch: self.watch }));
                }
            }
            Timer::LeaveEnds => ctx.out.push(Output::Exit("left without having seen all ends")),
        }
    }

    /// The runtime answers a verb.
    pub fn runtime(&mut self, answer: VerbAnswer, ctx: &mut Context<'_>) {
        let input = match answer {
            VerbAnswer::Version { watch, result } => {
                if watch == self.watch {
                    self.watched(result, ctx);
                }
                return;
            }
            VerbAnswer::Input(input) => input,
        };
        self.input(input, ctx);
    }

    /// The runtime tells of a container, in the stream of this number.
    pub fn event(&mut self, watch: u64, event: ContainerEvent, ctx: &mut Context<'_>) {
        if watch == self.watch {
            self.input(Input::Container(event), ctx);
        }
    }

    /// The runtime's stream of events has broken off.
    pub fn events_ended(&mut self, watch: u64, ctx: &mut Context<'_>) {
        if watch == self.watch {
            self.runtime_down(ctx);
        }
    }

    /// What was being written is synced.
    pub fn synced(&mut self, ctx: &mut Context<'_>) {
        if let Some((writes, held)) = self.storing.take() {
            self.perform(writes, held, ctx);
            self.work(ctx);
            if self.leaves_next && self.storing.is_none() {
                self.leave(ctx);
            }
        }
    }

    // The loop.

    fn input(&mut self, input: Input, ctx: &mut Context<'_>) {
        self.inbox.push_back(input);
        self.work(ctx);
    }

    fn work(&mut self, ctx: &mut Context<'_>) {
        while self.storing.is_none() && !self.inbox.is_empty() {
            let mut now = self.clock.read(ctx.now);
            if ctx.sabotage == Some(Sabotage::HurryRestarts) {
                now.time.0 *= 8;
            }
            let inputs: Vec<Input> = (0..BATCH_MAX).map_while(|_| self.inbox.pop_front()).collect();
            let (writes, held): (Vec<Writes>, Vec<Held>) =
                inputs.into_iter().map(|input| self.agent.handle(input, now).split()).unzip();
            ctx.notes.push(Note::Revision { worker: self.number, revision: self.agent.revision() });
            let batch: Vec<_> = writes.iter().flat_map(Writes::as_slice).cloned().collect();
            for write in &batch {
                if let longshore_core::agent::Write::Report { report, .. } = write {
                    ctx.notes.push(Note::Reported { worker: self.number, report: report.clone() });
                }
            }
            if batch.is_empty() {
                self.perform(writes, held, ctx);
            } else if ctx.disk.begin(batch) {
                self.storing = Some((writes, held));
                ctx.out.push(Output::Sync);
            } else {
                return ctx.out.push(Output::Exit("its disk is full"));
            }
        }
        let at = self.agent.next_wakeup().map(|at| {
            let scale = if ctx.sabotage == Some(Sabotage::HurryRestarts) { 8 } else { 1 };
            self.clock.when(longshore_core::time::Time(at.0 / scale), ctx.now) + MS
        });
        if let Some(at) = at
            && self.brain_at.is_none_or(|planned| at < planned)
        {
            self.brain_at = Some(at);
            ctx.out.push(Output::Wake(at, Timer::Brain));
        }
        if self.leaving && self.agent.is_quiet() && self.agent.is_told() {
            // The goodbye says that nothing runs here any more.
            let heartbeat = self.heartbeat();
            ctx.out.push(Output::Beat(Box::new(heartbeat)));
            ctx.out.push(Output::Exit("has left"));
        }
    }

    fn perform(&mut self, writes: Vec<Writes>, held: Vec<Held>, ctx: &mut Context<'_>) {
        for (writes, held) in writes.into_iter().zip(held) {
            for action in held.release(writes.stored()) {
                self.act(action, ctx);
            }
        }
    }

    fn act(&mut self, action: Action, ctx: &mut Context<'_>) {
        match action {
            Action::SendReports { through, reports } => {
                if ctx.sabotage == Some(Sabotage::KeepReports) {
                    let known = None;
                    return self.inbox.push_back(Input::ReportsAcked { through, known });
                }
                let (node_id, boot_id) = (self.node_id, self.boot_id);
                let told = reports
                    .iter()
                    .map(|report| (report.task, report.attempt, report.state))
                    .collect();
                let question = Question::Reports(Reports { node_id, boot_id, reports });
                self.ask(Purpose::Reports { through, told }, question, ctx);
            }
            Action::RequestSync => {
                self.fetch = Some(Fetch { tries: SYNC_TRIES, set: None });
                self.fetch_page(ctx);
            }
            Action::Alarm(text) => ctx.notes.push(Note::Alarm { worker: self.number, text }),
            Action::FindImage(wish) => ctx.out.push(Output::Runtime(Verb::FindImage(wish))),
            Action::FetchImage(wish) => ctx.out.push(Output::Runtime(Verb::FetchImage(wish))),
            Action::StartContainer(start) => {
                ctx.notes.push(Note::Starts { worker: self.number, task: start.task });
                if ctx.sabotage == Some(Sabotage::StartTwice) {
                    ctx.out.push(Output::Runtime(Verb::Start(start.clone())));
                }
                ctx.out.push(Output::Runtime(Verb::Start(start)));
            }
            Action::StopContainer { container_id, grace_ms } => {
                ctx.out.push(Output::Runtime(Verb::Stop { container_id, grace_ms }));
            }
            Action::RemoveContainer { container, grace_ms } => {
                ctx.out.push(Output::Runtime(Verb::Remove { container, grace_ms }));
            }
            Action::ProbeTask(probe) => {
                let (task, attempt) = (probe.task, probe.attempt);
                let strikes = |ctx: &mut Context<'_>, fault| ctx.chaos.strikes(fault);
                let answer = match (strikes(ctx, Fault::ProbeFails), strikes(ctx, Fault::ProbeLost))
                {
                    (false, false) => Probed::Well,
                    (true, false) => Probed::Ill,
                    (_, true) => Probed::Unknown,
                };
                let wait = ctx.chaos.rng.u64(MS..probe.check.timeout_ms.max(2) * MS);
                ctx.out.push(Output::Wake(ctx.now + wait, Timer::Probed { task, attempt, answer }));
            }
            Action::ListContainers { ticket } => {
                ctx.out.push(Output::Runtime(Verb::List { ticket }));
            }
            // Disks are modelled as stores, not as room for images.
            Action::MeasureDisk => {
                self.inbox.push_back(Input::DiskMeasured { used_percent: 0 });
            }
            Action::RemoveStock { item, .. } => {
                self.inbox.push_back(Input::StockRemoved { item, result: Ok(()) });
            }
        }
    }

    // What is said to the leader.

    fn ask(&mut self, purpose: Purpose, question: Question, ctx: &mut Context<'_>) {
        let mut out = Vec::new();
        self.asks.ask(purpose, question, ASK_DEADLINE, ctx.now, &mut ctx.chaos.rng, &mut out);
        pass(out, ctx);
    }

    fn register_now(&mut self, ctx: &mut Context<'_>) {
        self.registering = true;
        self.unknown = false;
        let question = Question::Register(Box::new(self.register.clone()));
        self.ask(Purpose::Register, question, ctx);
    }

    fn register_if_unknown(&mut self, ctx: &mut Context<'_>) {
        if self.unknown && !self.registering {
            self.register_delay = REGISTER_DELAY;
            self.register_now(ctx);
        }
    }

    fn answered(&mut self, done: Option<(Purpose, Option<Answer>)>, ctx: &mut Context<'_>) {
        let Some((purpose, answer)) = done else { return };
        match purpose {
            Purpose::Register => {
                if let Some(Answer::Brain(Reply::Registered(Ok(registered)))) = answer {
                    self.registering = false;
                    self.registered = true;
                    self.register.cluster_id = Some(registered.cluster_id);
                    self.beat(ctx);
                    self.input(Input::Registered { cluster_id: registered.cluster_id }, ctx);
                    return self.register_if_unknown(ctx);
                }
                if let Some(Answer::Brain(Reply::Registered(Err(refusal)))) = &answer
                    && refusal.code == ErrorCode::WrongCluster
                {
                    return ctx.out.push(Output::Exit("its data directory is another cluster's"));
                }
                // Half the wait at least, and spread.
                let wait = ctx.chaos.rng.u64(self.register_delay / 2..self.register_delay);
                self.register_delay = (self.register_delay * 2).min(REGISTER_DELAY_MAX);
                ctx.out.push(Output::Wake(ctx.now + wait, Timer::Register));
            }
            Purpose::Page => self.page(answer, ctx),
            Purpose::Reports { through, told } => match answer {
                Some(Answer::Brain(Reply::Reports(Ok(committed)))) => {
                    ctx.notes.push(Note::Delivered { worker: self.number, told });
                    let known = committed.revision();
                    self.input(Input::ReportsAcked { through, known }, ctx);
                }
                answer => {
                    self.note_unknown(answer.as_ref());
                    self.input(Input::ReportsFailed, ctx);
                    self.register_if_unknown(ctx);
                }
            },
        }
    }

    fn note_unknown(&mut self, answer: Option<&Answer>) {
        let Some(Answer::Brain(Reply::Reports(Err(refusal))) | Answer::Page(Err(refusal))) = answer
        else {
            return;
        };
        self.unknown |= refusal.code == ErrorCode::NotRegistered;
    }

    fn fetch_page(&mut self, ctx: &mut Context<'_>) {
        let Some(fetch) = &self.fetch else { return };
        let after = fetch.set.as_ref().and_then(|set| set.assignments.last()).map(|last| last.task);
        let (node_id, boot_id) = (self.node_id, self.boot_id);
        self.ask(Purpose::Page, Question::Sync(Sync { node_id, boot_id, after }), ctx);
    }

    fn page(&mut self, answer: Option<Answer>, ctx: &mut Context<'_>) {
        let Some(mut fetch) = self.fetch.take() else { return };
        let page = match answer {
            Some(Answer::Page(Ok(page))) => page,
            answer => {
                self.note_unknown(answer.as_ref());
                self.input(Input::SyncFailed, ctx);
                return self.register_if_unknown(ctx);
            }
        };
        let so_far = fetch.set.get_or_insert_with(|| FullSet {
            cluster_id: page.cluster_id,
            revision: page.revision,
            assignments: Vec::new(),
            known: Vec::new(),
        });
        let same = so_far.revision == page.revision && so_far.cluster_id == page.cluster_id;
        let stuck = page.assignments.is_empty() && !page.end;
        so_far.assignments.extend(page.assignments);
        so_far.known.extend(page.known);
        let complete = so_far.assignments.len() as u64 == page.count;
        if same && page.end && complete {
            if let Some(set) = fetch.set {
                ctx.notes
                    .push(Note::Told { worker: self.number, assignments: set.assignments.clone() });
                self.input(Input::Synced(set), ctx);
            }
        } else if same && !page.end && !stuck {
            self.fetch = Some(fetch);
            self.fetch_page(ctx);
        } else if fetch.tries > 1 {
            self.fetch = Some(Fetch { tries: fetch.tries - 1, set: None });
            self.fetch_page(ctx);
        } else {
            self.input(Input::SyncFailed, ctx);
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            node_id: self.node_id,
            boot_id: self.boot_id,
            revision: self.agent.revision(),
            digest: self.agent.digest(),
            answered: self.agent.answered(),
            capacity: self.register.capacity,
            used: Resources::ZERO,
            tasks_running: self.agent.tasks_running(),
            runtime_error: self.agent.runtime_error().map(str::to_owned),
            leaving: self.leaving,
            drain_within_ms: None,
            cluster_id: self.agent.cluster_id(),
        }
    }

    fn beat(&mut self, ctx: &mut Context<'_>) {
        if !self.registered {
            return;
        }
        self.heartbeat_at = ctx.now + ctx.chaos.rng.u64(1_800 * MS..2_200 * MS);
        ctx.out.push(Output::Wake(self.heartbeat_at, Timer::Heartbeat));
        let heartbeat = self.heartbeat();
        ctx.out.push(Output::Beat(Box::new(heartbeat)));
    }

    // The runtime.

    fn look_at_runtime(&mut self, ctx: &mut Context<'_>) {
        self.watch += 1;
        ctx.out.push(Output::Runtime(Verb::Version { watch: self.watch }));
    }

    fn watched(&mut self, result: Result<(), Failure>, ctx: &mut Context<'_>) {
        match result {
            Ok(()) => {
                if !self.subscribed {
                    self.subscribed = true;
                    self.watch_delay = WATCH_DELAY;
                    ctx.out.push(Output::Subscribe(self.watch));
                    self.input(Input::RuntimeUp, ctx);
                }
                ctx.out.push(Output::Wake(ctx.now + PING_INTERVAL, Timer::Watch(self.watch)));
            }
            Err(_) => self.runtime_down(ctx),
        }
    }

    fn runtime_down(&mut self, ctx: &mut Context<'_>) {
        self.watch += 1;
        self.subscribed = false;
        let wait = ctx.chaos.rng.u64(self.watch_delay / 2..self.watch_delay);
        self.watch_delay = (self.watch_delay * 2).min(WATCH_DELAY_MAX);
        ctx.out.push(Output::Wake(ctx.now + wait, Timer::Watch(self.watch)));
        let reason = "the runtime does not answer".to_owned();
        self.input(Input::RuntimeDown { reason }, ctx);
    }
}

fn pass(asked: Vec<AskOutput>, ctx: &mut Context<'_>) {
    ctx.out.extend(asked.into_iter().map(|output| match output {
        AskOutput::Try(number, question) => Output::Ask(number, question),
        AskOutput::Wake(at, timer) => Output::Wake(at, Timer::Ask(timer)),
    }));
}

fn reuse_tokens(mut delta: AssignDelta) -> AssignDelta {
    for assignment in &mut delta.changes {
        if let Want::Run(run) = &mut assignment.want {
            run.epoch = run.epoch.map(|_| 1);
        }
    }
    delta
}

fn invent(mut delta: AssignDelta, rng: &mut fastrand::Rng) -> AssignDelta {
    let invented: Vec<Assignment> = delta
        .changes
        .iter()
        .filter(|assignment| matches!(assignment.want, Want::Run(_)))
        .map(|assignment| Assignment { task: TaskId(uuid(rng)), ..assignment.clone() })
        .collect();
    delta.changes.extend(invented);
    delta
}
