//! A container runtime that fails, hangs, lies and loses containers.
//!
//! What it does is decided by the image: `steady` runs until it is stopped, `flaky` ends now and then, `batch`
//! ends well, `fail` and `unfit` end badly, `stubborn` must be killed, `missing` is not to be had. Once faults
//! have stopped, `flaky`, `fail` and `missing` are as good as any.

use std::collections::{BTreeMap, VecDeque};

use longshore_core::agent::labels::{CLUSTER, NODE, Owner};
use longshore_core::agent::{
    Container, ContainerChange, ContainerEnd, ContainerEvent, ContainerState, Failure, ImageFound,
    Input, StartContainer, StartedContainer,
};
use longshore_proto::id::ClusterId;
use longshore_proto::spec::PullPolicy;

use crate::check::Note;
use crate::fault::{Chaos, Fault};
use crate::manager::node_name;
use crate::sabotage::Sabotage;
use crate::time::{MS, Micros, SECOND};

/// For how long past events can be asked for.
const OVERLAP: Micros = 3 * SECOND;

/// What a worker asks of its runtime.
#[derive(Debug, Clone)]
pub enum Verb {
    /// Whether it answers.
    Version {
        /// The worker's count of looks.
        watch: u64,
    },
    /// Every container of this node.
    List {
        /// The ticket.
        ticket: u64,
    },
    /// An image.
    Pull {
        /// Which.
        image: String,
        /// When it is pulled.
        policy: PullPolicy,
    },
    /// Create and start.
    Start(Box<StartContainer>),
    /// End.
    Stop {
        /// Which container.
        container_id: String,
        /// How long it may take.
        grace_ms: u64,
    },
    /// Remove.
    Remove {
        /// Its id or name.
        container: String,
        /// How long it may take to end.
        grace_ms: u64,
    },
}

impl Verb {
    fn deadline(&self) -> Micros {
        match self {
            Self::Version { .. } => 10 * SECOND,
            Self::List { .. } => 30 * SECOND,
            Self::Pull { .. } | Self::Start(_) => 120 * SECOND,
            Self::Stop { grace_ms, .. } | Self::Remove { grace_ms, .. } => {
                60 * SECOND + grace_ms * MS
            }
        }
    }

    /// What the worker hears when it fails.
    fn failed(&self, failure: Failure) -> VerbAnswer {
        let reason = || "it failed".to_owned();
        VerbAnswer::Input(match self.clone() {
            Self::Version { watch } => {
                return VerbAnswer::Version { watch, result: Err(failure) };
            }
            Self::List { ticket } => Input::ObserveFailed { ticket, reason: reason() },
            Self::Pull { image, policy } => Input::Pulled { image, policy, result: Err(failure) },
            Self::Start(start) => {
                Input::Started { task: start.task, attempt: start.attempt, result: Err(failure) }
            }
            Self::Stop { container_id, .. } => {
                Input::Stopped { container_id, result: Err(failure) }
            }
            Self::Remove { container, .. } => Input::Removed { container, result: Err(failure) },
        })
    }
}

/// What the runtime answers.
#[derive(Debug, Clone)]
pub enum VerbAnswer {
    /// Whether it answers.
    Version {
        /// The worker's count of looks.
        watch: u64,
        /// Whether it answers.
        result: Result<(), Failure>,
    },
    /// For the brain.
    Input(Input),
}

/// A step of the runtime.
#[derive(Debug, Clone)]
pub enum Step {
    /// A verb arrives.
    Arrive(u64),
    /// A container that was created is started.
    Start(u64, String),
    /// A container ends by itself.
    End(String, u64, i64),
    /// A container that was asked to end ends, or is killed.
    Ended(String, u64),
    /// The answer of a verb is due.
    Deadline(u64),
}

/// What a step leads to.
#[derive(Debug)]
pub enum Output {
    /// An answer for the worker's process of this incarnation.
    Answer(u64, VerbAnswer),
    /// An event for the stream of this incarnation and number.
    Event(u64, u64, ContainerEvent),
    /// The stream of this incarnation and number ends.
    EventsEnd(u64, u64),
    /// A later step.
    Later(Micros, Step),
}

#[derive(Debug)]
struct Call {
    incarnation: u64,
    verb: Verb,
}

#[derive(Debug, Clone)]
struct Made {
    name: String,
    labels: BTreeMap<String, String>,
    state: ContainerState,
    /// Counts starts, so that a planned end belongs to one of them.
    run: u64,
    image: String,
    grace_ms: u64,
    owner: Option<Owner>,
    /// Its start was said to have failed.
    disowned: bool,
    /// Since when it was asked to end, and the calls that wait for that.
    ending: Option<Micros>,
    waiting: Vec<u64>,
    /// Whether it is removed once it has ended.
    doomed: bool,
}

/// The runtime of one machine.
#[derive(Debug)]
pub struct Runtime {
    worker: usize,
    is_up: bool,
    hangs_until: Micros,
    calls: BTreeMap<u64, Call>,
    calls_made: u64,
    containers: BTreeMap<String, Made>,
    made: u64,
    recent: VecDeque<(Micros, ContainerEvent)>,
    subscriber: Option<(u64, u64)>,
    sabotage: Option<Sabotage>,
}

impl Runtime {
    /// A machine with two containers that are none of ours: one of somebody else, one of another cluster.
    pub fn new(worker: usize, sabotage: Option<Sabotage>) -> Self {
        let mut runtime = Self {
            worker,
            is_up: true,
            hangs_until: 0,
            calls: BTreeMap::new(),
            calls_made: 0,
            containers: BTreeMap::new(),
            made: 0,
            recent: VecDeque::new(),
            subscriber: None,
            sabotage,
        };
        let foreign = Owner {
            cluster_id: ClusterId(uuid::Uuid::from_u128(0xf)),
            node: node_name(worker),
            task: longshore_proto::id::TaskId(uuid::Uuid::from_u128(0xf)),
            attempt: 1,
        };
        let mut labels = BTreeMap::from([(NODE.to_owned(), foreign.node.to_string())]);
        runtime.add("stranger", labels.clone());
        labels.insert(CLUSTER.to_owned(), foreign.cluster_id.to_string());
        labels.insert(longshore_core::agent::labels::TASK.to_owned(), foreign.task.to_string());
        labels.insert(longshore_core::agent::labels::ATTEMPT.to_owned(), "1".to_owned());
        runtime.add("neighbour", labels);
        runtime
    }

    fn add(&mut self, name: &str, labels: BTreeMap<String, String>) {
        let made = Made {
            name: name.to_owned(),
            labels,
            state: ContainerState::Running,
            run: 0,
            image: "steady".to_owned(),
            grace_ms: 0,
            owner: None,
            disowned: false,
            ending: None,
            waiting: Vec::new(),
            doomed: false,
        };
        self.containers.insert(name.to_owned(), made);
    }

    /// Whose containers run here.
    pub fn running(&self) -> impl Iterator<Item = &Owner> {
        self.containers
            .values()
            .filter(|made| made.state == ContainerState::Running)
            .filter_map(|made| made.owner.as_ref())
    }

    /// Whose containers are here, whatever their state.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.containers.values().filter_map(|made| made.owner.as_ref())
    }

    /// A worker's process asks for something.
    pub fn call(
        &mut self,
        incarnation: u64,
        verb: Verb,
        chaos: &mut Chaos,
        now: Micros,
    ) -> Vec<Output> {
        self.calls_made += 1;
        let call = self.calls_made;
        let deadline = now + verb.deadline();
        self.calls.insert(call, Call { incarnation, verb });
        let latency = chaos.rng.u64(MS..20 * MS);
        vec![
            Output::Later(now + latency, Step::Arrive(call)),
            Output::Later(deadline, Step::Deadline(call)),
        ]
    }

    /// A worker's process takes the events from a moment ago on.
    pub fn subscribe(&mut self, incarnation: u64, watch: u64, now: Micros) -> Vec<Output> {
        self.subscriber = Some((incarnation, watch));
        self.recent.retain(|(at, _)| *at + OVERLAP > now);
        self.recent
            .iter()
            .map(|(_, event)| Output::Event(incarnation, watch, event.clone()))
            .collect()
    }

    /// The daemon goes away. Its containers run on, or end with it.
    pub fn down(&mut self, containers_end: bool, notes: &mut Vec<Note>) -> Vec<Output> {
        self.is_up = false;
        let mut out = Vec::new();
        for (_, call) in std::mem::take(&mut self.calls) {
            out.push(Output::Answer(call.incarnation, call.verb.failed(Failure::RuntimeAway)));
        }
        if let Some((incarnation, watch)) = self.subscriber.take() {
            out.push(Output::EventsEnd(incarnation, watch));
        }
        if containers_end {
            let ids: Vec<String> = self.containers.keys().cloned().collect();
            for id in ids {
                let Some(made) = self.containers.get_mut(&id) else { continue };
                if made.owner.is_none() || made.state != ContainerState::Running {
                    continue;
                }
                made.state = ContainerState::Ended(ContainerEnd {
                    exit_code: Some(255),
                    out_of_memory: false,
                });
                made.run += 1;
                made.ending = None;
                note_end(self.worker, made, notes);
            }
        }
        for made in self.containers.values_mut() {
            made.waiting.clear();
        }
        out
    }

    /// The daemon is back.
    pub fn up(&mut self) {
        self.is_up = true;
    }

    /// It answers nobody until a time.
    pub fn hang(&mut self, until: Micros) {
        self.hangs_until = until;
    }

    /// Somebody removes a container of ours by force.
    pub fn lose_one(
        &mut self,
        chaos: &mut Chaos,
        now: Micros,
        notes: &mut Vec<Note>,
    ) -> Vec<Output> {
        let ours: Vec<String> = self
            .containers
            .iter()
            .filter(|(_, made)| made.owner.is_some() && made.state == ContainerState::Running)
            .map(|(id, _)| id.clone())
            .collect();
        let Some(id) = chaos.rng.choice(ours) else { return Vec::new() };
        let mut out = Vec::new();
        self.end(&id, 137, now, chaos, notes, &mut out);
        self.destroy(&id, now, chaos, notes, &mut out);
        out
    }

    /// Takes a step.
    pub fn step(
        &mut self,
        step: Step,
        now: Micros,
        chaos: &mut Chaos,
        notes: &mut Vec<Note>,
    ) -> Vec<Output> {
        let mut out = Vec::new();
        if let Step::Deadline(call) = step {
            if let Some(call) = self.calls.remove(&call) {
                let failure = match call.verb {
                    Verb::Version { .. } | Verb::List { .. } => Failure::RuntimeAway,
                    _ => Failure::Refused("took too long".into()),
                };
                if let Verb::Start(start) = &call.verb {
                    self.disown(&start.name);
                }
                out.push(Output::Answer(call.incarnation, call.verb.failed(failure)));
            }
            return out;
        }
        let by_hand = matches!(step, Step::Arrive(_) | Step::Start(..));
        if by_hand && self.hangs_until > now {
            out.push(Output::Later(self.hangs_until + chaos.rng.u64(1..1_000), step));
            return out;
        }
        match step {
            Step::Arrive(call) => self.arrive(call, now, chaos, notes, &mut out),
            Step::Start(call, id) => self.started(call, &id, now, chaos, notes, &mut out),
            Step::End(id, run, code) => {
                if self.containers.get(&id).is_some_and(|made| made.run == run)
                    && (chaos.is_on() || code == 0 || !self.is_flaky(&id))
                {
                    self.end(&id, code, now, chaos, notes, &mut out);
                }
            }
            Step::Ended(id, run) => {
                let Some(made) = self.containers.get(&id).filter(|made| made.run == run) else {
                    return out;
                };
                let code = if made.image.starts_with("stubborn") { 137 } else { 143 };
                let asked = made.ending.unwrap_or(now);
                if code == 137 && !made.disowned {
                    notes.push(Note::Killed {
                        worker: self.worker,
                        task: made.owner.as_ref().map(|owner| owner.task),
                        waited_ms: (now - asked) / MS,
                        grace_ms: made.grace_ms,
                    });
                }
                self.end(&id, code, now, chaos, notes, &mut out);
            }
            Step::Deadline(_) => {}
        }
        out
    }

    fn is_flaky(&self, id: &str) -> bool {
        self.containers.get(id).is_some_and(|made| made.image.starts_with("flaky"))
    }

    fn disown(&mut self, name: &str) {
        for made in self.containers.values_mut().filter(|made| made.name == name) {
            made.disowned = true;
        }
    }

    fn arrive(
        &mut self,
        number: u64,
        now: Micros,
        chaos: &mut Chaos,
        notes: &mut Vec<Note>,
        out: &mut Vec<Output>,
    ) {
        let Some(call) = self.calls.get(&number) else { return };
        let (incarnation, verb) = (call.incarnation, call.verb.clone());
        if !self.is_up {
            self.calls.remove(&number);
            out.push(Output::Answer(incarnation, verb.failed(Failure::RuntimeAway)));
            return;
        }
        let answer = match &verb {
            Verb::Version { watch } => VerbAnswer::Version { watch: *watch, result: Ok(()) },
            Verb::List { ticket } => {
                VerbAnswer::Input(Input::Observed { ticket: *ticket, containers: self.list() })
            }
            Verb::Pull { image, policy } => {
                let is_missing = image.starts_with("missing") && chaos.is_on()
                    || chaos.strikes(Fault::PullFails);
                let result = if is_missing {
                    Err(Failure::Refused("no such image".into()))
                } else {
                    Ok(ImageFound::Fetched)
                };
                let (image, policy) = (image.clone(), *policy);
                VerbAnswer::Input(Input::Pulled { image, policy, result })
            }
            Verb::Start(start) => return self.create(number, start, now, chaos, notes, out),
            Verb::Stop { container_id, grace_ms } => {
                return self.stop(number, container_id, *grace_ms, now, chaos, notes, out);
            }
            Verb::Remove { container, grace_ms } => {
                return self.remove(number, container, *grace_ms, now, chaos, notes, out);
            }
        };
        self.calls.remove(&number);
        out.push(Output::Answer(incarnation, answer));
    }

    fn list(&self) -> Vec<Container> {
        let ours = self.containers.values().find_map(|made| made.owner.as_ref());
        let state = |made: &Made| Container {
            id: String::new(),
            labels: made.labels.clone(),
            state: made.state,
        };
        self.containers
            .iter()
            .map(|(id, made)| {
                let mut container = Container { id: id.clone(), ..state(made) };
                if let (Some(Sabotage::DisguiseStrangers), None, Some(ours)) =
                    (self.sabotage, &made.owner, ours)
                {
                    let cluster = ours.cluster_id.to_string();
                    container.labels.insert(CLUSTER.to_owned(), cluster);
                }
                container
            })
            .collect()
    }

    fn create(
        &mut self,
        number: u64,
        start: &StartContainer,
        now: Micros,
        chaos: &mut Chaos,
        notes: &mut Vec<Note>,
        out: &mut Vec<Output>,
    ) {
        if chaos.strikes(Fault::CreateFails) {
            return self.answer(
                number,
                |verb| verb.failed(Failure::Refused("cannot create".into())),
                out,
            );
        }
        let known = self.containers.iter().find(|(_, made)| made.name == start.name);
        let known = known.filter(|_| self.sabotage != Some(Sabotage::StartTwice));
        let id = match known {
            Some((id, made)) => {
                let (id, state) = (id.clone(), made.state);
                if let ContainerState::Ended(end) = state {
                    let started = StartedContainer { container_id: id, ended: Some(end) };
                    return self.answer_started(number, Ok(started), out);
                }
                if state == ContainerState::Running {
                    let started = StartedContainer { container_id: id, ended: None };
                    return self.answer_started(number, Ok(started), out);
                }
                id
            }
            None => {
                self.made += 1;
                let id = format!("n{}-{}", self.worker, self.made);
                let owner = Owner::read(&start.labels);
                let made = Made {
                    name: start.name.clone(),
                    labels: start.labels.clone(),
                    state: ContainerState::Created,
                    run: 0,
                    image: start.run.spec.image.clone(),
                    grace_ms: start.run.spec.stop_grace_ms,
                    owner: owner.clone(),
                    disowned: false,
                    ending: None,
                    waiting: Vec::new(),
                    doomed: false,
                };
                self.containers.insert(id.clone(), made);
                if let Some(owner) = owner {
                    notes.push(Note::Created {
                        worker: self.worker,
                        task: owner.task,
                        attempt: owner.attempt,
                    });
                }
                id
            }
        };
        if chaos.strikes(Fault::StartFails) {
            self.disown(&start.name);
            return self.answer(
                number,
                |verb| verb.failed(Failure::Refused("cannot start".into())),
                out,
            );
        }
        if chaos.strikes(Fault::AnswerLost) {
            // The daemon's answer breaks off, and it goes on.
            self.answer(number, |verb| verb.failed(Failure::RuntimeAway), out);
        } else if chaos.strikes(Fault::StartLies) {
            self.disown(&start.name);
            self.answer(
                number,
                |verb| verb.failed(Failure::Refused("said to have failed".into())),
                out,
            );
        }
        let latency = chaos.rng.u64(20 * MS..300 * MS);
        out.push(Output::Later(now + latency, Step::Start(number, id)));
    }

    fn started(
        &mut self,
        number: u64,
        id: &str,
        now: Micros,
        chaos: &mut Chaos,
        notes: &mut Vec<Note>,
        out: &mut Vec<Output>,
    ) {
        let worker = self.worker;
        let Some(made) = self.containers.get_mut(id) else {
            return self.answer_started(
                number,
                Err(Failure::Refused("the container is gone".into())),
                out,
            );
        };
        if !self.is_up {
            return;
        }
        if made.state == ContainerState::Created {
            made.state = ContainerState::Running;
            made.run += 1;
            let (run, image) = (made.run, made.image.clone());
            if let Some(owner) = made.owner.clone() {
                notes.push(Note::Started { worker, task: owner.task, attempt: owner.attempt });
            }
            let end = match image.split(':').next() {
                Some("batch") => Some((chaos.rng.u64(SECOND..20 * SECOND), 0)),
                Some("fail") if chaos.is_on() => Some((chaos.rng.u64(SECOND..5 * SECOND), 1)),
                Some("unfit") => {
                    Some((chaos.rng.u64(SECOND..5 * SECOND), i64::from(chaos.is_on())))
                }
                Some("flaky") if chaos.is_on() && chaos.rng.u8(..) < 100 => {
                    Some((chaos.rng.u64(2 * SECOND..40 * SECOND), 1))
                }
                _ => None,
            };
            if let Some((after, code)) = end {
                out.push(Output::Later(now + after, Step::End(id.to_owned(), run, code)));
            }
            self.tell(id, ContainerChange::Started, now, chaos, out);
        }
        let ended = match self.containers.get(id).map(|made| made.state) {
            Some(ContainerState::Ended(end)) => Some(end),
            _ => None,
        };
        let started = StartedContainer { container_id: id.to_owned(), ended };
        self.answer_started(number, Ok(started), out);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a verb with its parameters and its surroundings"
    )]
    fn stop(
        &mut self,
        number: u64,
        container_id: &str,
        grace_ms: u64,
        now: Micros,
        chaos: &mut Chaos,
        notes: &mut Vec<Note>,
        out: &mut Vec<Output>,
    ) {
        if chaos.strikes(Fault::StopFails) {
            return self.answer(
                number,
                |verb| verb.failed(Failure::Refused("cannot stop".into())),
                out,
            );
        }
        let end = match self.containers.get(container_id).map(|made| made.state) {
            Some(ContainerState::Running) => {
                if self.sabotage == Some(Sabotage::PretendRemovals) {
                    ContainerEnd { exit_code: Some(143), out_of_memory: false }
                } else {
                    return self.ask_to_end(number, container_id, grace_ms, now, chaos, notes, out);
                }
            }
            Some(ContainerState::Ended(end)) => end,
            Some(ContainerState::Created) | None => ContainerEnd::default(),
        };
        let container_id = container_id.to_owned();
        self.answer(
            number,
            |_| VerbAnswer::Input(Input::Stopped { container_id, result: Ok(end) }),
            out,
        );
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a verb with its parameters and its surroundings"
    )]
    fn remove(
        &mut self,
        number: u64,
        container: &str,
        grace_ms: u64,
        now: Micros,
        chaos: &mut Chaos,
        notes: &mut Vec<Note>,
        out: &mut Vec<Output>,
    ) {
        let id = self
            .containers
            .iter()
            .find(|(id, made)| *id == container || made.name == container)
            .map(|(id, _)| id.clone());
        let id = id.filter(|_| self.sabotage != Some(Sabotage::PretendRemovals));
        let Some(id) = id else {
            let container = container.to_owned();
            return self.answer(
                number,
                |_| VerbAnswer::Input(Input::Removed { container, result: Ok(()) }),
                out,
            );
        };
        if chaos.strikes(Fault::RemoveFails) {
            return self.answer(
                number,
                |verb| verb.failed(Failure::Refused("cannot remove".into())),
                out,
            );
        }
        if let Some(made) = self.containers.get_mut(&id)
            && made.state == ContainerState::Running
        {
            made.doomed = true;
            return self.ask_to_end(number, &id, grace_ms, now, chaos, notes, out);
        }
        if self.containers.get(&id).is_some_and(|made| made.owner.is_none()) {
            notes.push(Note::TouchedStranger { worker: self.worker, container: id.clone() });
        }
        self.destroy(&id, now, chaos, notes, out);
        let container = container.to_owned();
        self.answer(
            number,
            |_| VerbAnswer::Input(Input::Removed { container, result: Ok(()) }),
            out,
        );
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a verb with its parameters and its surroundings"
    )]
    fn ask_to_end(
        &mut self,
        number: u64,
        id: &str,
        grace_ms: u64,
        now: Micros,
        chaos: &mut Chaos,
        notes: &mut Vec<Note>,
        out: &mut Vec<Output>,
    ) {
        let worker = self.worker;
        let Some(made) = self.containers.get_mut(id) else { return };
        made.waiting.push(number);
        match &made.owner {
            None => notes.push(Note::TouchedStranger { worker, container: id.to_owned() }),
            Some(owner) if made.ending.is_none() => notes.push(Note::AskedToEnd {
                worker,
                task: owner.task,
                attempt: owner.attempt,
                disowned: made.disowned,
            }),
            Some(_) => {}
        }
        let grace = if self.sabotage == Some(Sabotage::KillAtOnce) { 0 } else { grace_ms * MS };
        made.ending.get_or_insert(now);
        let by_itself = if made.image.starts_with("stubborn") {
            grace
        } else {
            chaos.rng.u64(10 * MS..1_500 * MS).min(grace)
        };
        let run = made.run;
        out.push(Output::Later(now + by_itself, Step::Ended(id.to_owned(), run)));
    }

    /// A container ends.
    fn end(
        &mut self,
        id: &str,
        code: i64,
        now: Micros,
        chaos: &mut Chaos,
        notes: &mut Vec<Note>,
        out: &mut Vec<Output>,
    ) {
        let worker = self.worker;
        let Some(made) = self.containers.get_mut(id) else { return };
        if made.state != ContainerState::Running {
            return;
        }
        let end = ContainerEnd { exit_code: Some(code), out_of_memory: false };
        made.state = ContainerState::Ended(end);
        made.run += 1;
        made.ending = None;
        note_end(worker, made, notes);
        let (waiting, doomed) = (std::mem::take(&mut made.waiting), made.doomed);
        self.tell(id, ContainerChange::Died(end), now, chaos, out);
        if doomed {
            self.destroy(id, now, chaos, notes, out);
        }
        for number in waiting {
            self.answer(
                number,
                |verb| match verb.clone() {
                    Verb::Stop { container_id, .. } => {
                        VerbAnswer::Input(Input::Stopped { container_id, result: Ok(end) })
                    }
                    Verb::Remove { container, .. } => {
                        VerbAnswer::Input(Input::Removed { container, result: Ok(()) })
                    }
                    other => other.failed(Failure::RuntimeAway),
                },
                out,
            );
        }
    }

    fn destroy(
        &mut self,
        id: &str,
        now: Micros,
        chaos: &mut Chaos,
        notes: &mut Vec<Note>,
        out: &mut Vec<Output>,
    ) {
        self.tell(id, ContainerChange::Destroyed, now, chaos, out);
        if let Some(owner) = self.containers.remove(id).and_then(|made| made.owner) {
            notes.push(Note::Destroyed {
                worker: self.worker,
                task: owner.task,
                attempt: owner.attempt,
            });
        }
    }

    fn tell(
        &mut self,
        id: &str,
        change: ContainerChange,
        now: Micros,
        chaos: &mut Chaos,
        out: &mut Vec<Output>,
    ) {
        let Some(made) = self.containers.get(id) else { return };
        let labels = made.labels.clone();
        let event = ContainerEvent { container_id: id.to_owned(), labels, change };
        if !self.is_up {
            return;
        }
        self.recent.push_back((now, event.clone()));
        self.recent.retain(|(at, _)| *at + OVERLAP > now);
        let Some((incarnation, watch)) = self.subscriber else { return };
        if chaos.strikes(Fault::EventLost) {
            return;
        }
        out.push(Output::Event(incarnation, watch, event.clone()));
        if chaos.strikes(Fault::EventTwice) {
            out.push(Output::Event(incarnation, watch, event));
        }
    }

    fn answer(
        &mut self,
        number: u64,
        make: impl FnOnce(&Verb) -> VerbAnswer,
        out: &mut Vec<Output>,
    ) {
        if let Some(call) = self.calls.remove(&number) {
            out.push(Output::Answer(call.incarnation, make(&call.verb)));
        }
    }

    fn answer_started(
        &mut self,
        number: u64,
        result: Result<StartedContainer, Failure>,
        out: &mut Vec<Output>,
    ) {
        self.answer(
            number,
            |verb| match verb {
                Verb::Start(start) => VerbAnswer::Input(Input::Started {
                    task: start.task,
                    attempt: start.attempt,
                    result,
                }),
                other => other.failed(Failure::RuntimeAway),
            },
            out,
        );
    }
}

fn note_end(worker: usize, made: &Made, notes: &mut Vec<Note>) {
    if let Some(owner) = &made.owner {
        notes.push(Note::Ended {
            worker,
            task: owner.task,
            attempt: owner.attempt,
            disowned: made.disowned,
        });
    }
}
