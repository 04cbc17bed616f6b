//! A container runtime that fails, hangs, lies and loses containers.
//!
//! What it does is decided by the image: `steady` runs until it is stopped, `flaky` ends now and then, `batch`
//! ends well, `fail` and `unfit` end badly, `stubborn` must be killed, `missing` is not to be had. Once faults
//! have stopped, `flaky`, `fail` and `missing` are as good as any.

mod container;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use longshore_core::agent::labels::{CLUSTER, NODE, Owner};
use longshore_core::agent::{
    Container, ContainerEnd, ContainerEvent, ContainerState, Failure, ImageWish, Input,
    StartContainer, StartedContainer,
};
use longshore_proto::id::ClusterId;

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
    /// Whether an image is here.
    FindImage(ImageWish),
    /// An image, from its registry.
    FetchImage(ImageWish),
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
            Self::Version { .. } | Self::FindImage(_) => 10 * SECOND,
            Self::List { .. } => 30 * SECOND,
            Self::FetchImage(_) | Self::Start(_) => 120 * SECOND,
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
            Self::FindImage(wish) => Input::ImageLookedFor { wish, result: Err(failure) },
            Self::FetchImage(wish) => Input::ImageFetched { wish, result: Err(failure) },
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
    /// A container that was created is started, by the daemon of this number: what one was about to do dies with it.
    Start(u64, String, u64),
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

/// What a runtime works with in one step.
pub struct Context<'a> {
    /// Virtual time.
    pub now: Micros,
    /// Chance, and what it breaks.
    pub chaos: &'a mut Chaos,
    /// What the checkers should know.
    pub notes: &'a mut Vec<Note>,
    /// What it leads to.
    pub out: &'a mut Vec<Output>,
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
    /// What it shows to what it writes to, of a fenced job.
    token: Option<u64>,
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
    /// Counts the daemons of this machine.
    daemon: u64,
    hangs_until: Micros,
    calls: BTreeMap<u64, Call>,
    calls_made: u64,
    containers: BTreeMap<String, Made>,
    /// The images that were fetched.
    images: BTreeSet<String>,
    made: u64,
    recent: VecDeque<(Micros, ContainerEvent)>,
    subscriber: Option<(u64, u64)>,
    ended_at: Micros,
    sabotage: Option<Sabotage>,
}

impl Runtime {
    /// A machine with two containers that are none of ours: one of somebody else, one of another cluster.
    pub fn new(worker: usize, sabotage: Option<Sabotage>) -> Self {
        let mut runtime = Self {
            worker,
            is_up: true,
            daemon: 0,
            hangs_until: 0,
            calls: BTreeMap::new(),
            calls_made: 0,
            containers: BTreeMap::new(),
            images: BTreeSet::new(),
            made: 0,
            recent: VecDeque::new(),
            subscriber: None,
            ended_at: 0,
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
            token: None,
            disowned: false,
            ending: None,
            waiting: Vec::new(),
            doomed: false,
        };
        self.containers.insert(name.to_owned(), made);
    }

    /// When a container last ended by itself.
    pub fn ended_at(&self) -> Micros {
        self.ended_at
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
    pub fn call(&mut self, incarnation: u64, verb: Verb, ctx: &mut Context<'_>) {
        self.calls_made += 1;
        let call = self.calls_made;
        let deadline = ctx.now + verb.deadline();
        self.calls.insert(call, Call { incarnation, verb });
        let latency = ctx.chaos.rng.u64(MS..20 * MS);
        ctx.out.push(Output::Later(ctx.now + latency, Step::Arrive(call)));
        ctx.out.push(Output::Later(deadline, Step::Deadline(call)));
    }

    /// A worker's process takes the events from a moment ago on.
    pub fn subscribe(&mut self, incarnation: u64, watch: u64, ctx: &mut Context<'_>) {
        self.subscriber = Some((incarnation, watch));
        self.recent.retain(|(at, _)| *at + OVERLAP > ctx.now);
        let recent = self.recent.iter();
        ctx.out.extend(recent.map(|(_, event)| Output::Event(incarnation, watch, event.clone())));
    }

    /// The daemon goes away. Its containers run on, or end with it.
    pub fn down(&mut self, containers_end: bool, ctx: &mut Context<'_>) {
        self.is_up = false;
        self.daemon += 1;
        for (_, call) in std::mem::take(&mut self.calls) {
            ctx.out.push(Output::Answer(call.incarnation, call.verb.failed(Failure::RuntimeAway)));
        }
        if let Some((incarnation, watch)) = self.subscriber.take() {
            ctx.out.push(Output::EventsEnd(incarnation, watch));
        }
        if containers_end {
            let ids: Vec<String> = self.containers.keys().cloned().collect();
            for id in ids {
                let Some(made) = self.containers.get_mut(&id) else { continue };
                if made.owner.is_none() || made.state != ContainerState::Running {
                    continue;
                }
                made.state = ContainerState::Ended(ContainerEnd::exited(255));
                made.run += 1;
                made.ending = None;
                container::note_end(self.worker, made, ctx);
            }
        }
        for made in self.containers.values_mut() {
            made.waiting.clear();
        }
    }

    /// The daemon is back.
    pub fn up(&mut self) {
        self.is_up = true;
    }

    /// It answers nobody until a time.
    pub fn hang(&mut self, until: Micros) {
        self.hangs_until = until;
    }

    /// Somebody removes all containers of ours by force.
    pub fn lose_all(&mut self, ctx: &mut Context<'_>) {
        let ours = self.containers.iter().filter(|(_, made)| made.owner.is_some());
        for id in ours.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.end(&id, 137, ctx);
            self.destroy(&id, ctx);
        }
    }

    /// Somebody removes a container of ours by force.
    pub fn lose_one(&mut self, ctx: &mut Context<'_>) {
        let ours: Vec<String> = self
            .containers
            .iter()
            .filter(|(_, made)| made.owner.is_some() && made.state == ContainerState::Running)
            .map(|(id, _)| id.clone())
            .collect();
        let Some(id) = ctx.chaos.rng.choice(ours) else { return };
        self.end(&id, 137, ctx);
        self.destroy(&id, ctx);
    }

    /// Takes a step.
    pub fn step(&mut self, step: Step, ctx: &mut Context<'_>) {
        if let Step::Deadline(call) = step {
            if let Some(call) = self.calls.remove(&call) {
                let failure = match call.verb {
                    Verb::Version { .. } | Verb::List { .. } => Failure::RuntimeAway,
                    _ => Failure::Refused("took too long".into()),
                };
                if let Verb::Start(start) = &call.verb {
                    self.disown(&start.name, ctx);
                }
                ctx.out.push(Output::Answer(call.incarnation, call.verb.failed(failure)));
            }
            return;
        }
        let by_hand = matches!(step, Step::Arrive(_) | Step::Start(..));
        if by_hand && self.hangs_until > ctx.now {
            ctx.out.push(Output::Later(self.hangs_until + ctx.chaos.rng.u64(1..1_000), step));
            return;
        }
        match step {
            Step::Arrive(call) => self.arrive(call, ctx),
            Step::Start(call, id, daemon) if daemon == self.daemon => self.started(call, &id, ctx),
            Step::End(id, run, code) => {
                if self.containers.get(&id).is_some_and(|made| made.run == run)
                    && (ctx.chaos.is_on() || code == 0 || !self.is_flaky(&id))
                {
                    self.ended_at = ctx.now;
                    self.end(&id, code, ctx);
                }
            }
            Step::Ended(id, run) => {
                let Some(made) = self.containers.get(&id).filter(|made| made.run == run) else {
                    return;
                };
                let code = if made.image.starts_with("stubborn") { 137 } else { 143 };
                let asked = made.ending.unwrap_or(ctx.now);
                if code == 137 && !made.disowned {
                    ctx.notes.push(Note::Killed {
                        worker: self.worker,
                        task: made.owner.as_ref().map(|owner| owner.task),
                        waited_ms: (ctx.now - asked) / MS,
                        grace_ms: made.grace_ms,
                    });
                }
                self.end(&id, code, ctx);
            }
            Step::Start(..) | Step::Deadline(_) => {}
        }
    }

    fn is_flaky(&self, id: &str) -> bool {
        self.containers.get(id).is_some_and(|made| made.image.starts_with("flaky"))
    }

    fn arrive(&mut self, number: u64, ctx: &mut Context<'_>) {
        let Some(call) = self.calls.get(&number) else { return };
        let (incarnation, verb) = (call.incarnation, call.verb.clone());
        if !self.is_up {
            self.calls.remove(&number);
            ctx.out.push(Output::Answer(incarnation, verb.failed(Failure::RuntimeAway)));
            return;
        }
        let answer = match &verb {
            Verb::Version { watch } => VerbAnswer::Version { watch: *watch, result: Ok(()) },
            Verb::List { ticket } => {
                VerbAnswer::Input(Input::Observed { ticket: *ticket, containers: self.list() })
            }
            Verb::FindImage(wish) => {
                let id =
                    self.images.contains(&wish.image).then(|| format!("sha256:{}", wish.image));
                VerbAnswer::Input(Input::ImageLookedFor { wish: wish.clone(), result: Ok(id) })
            }
            Verb::FetchImage(wish) => {
                let result = if wish.image.starts_with("missing") && ctx.chaos.is_on() {
                    Err(Failure::Forbidden("no such image".into()))
                } else if ctx.chaos.strikes(Fault::PullFails) {
                    Err(Failure::Refused("the registry does not answer".into()))
                } else {
                    self.images.insert(wish.image.clone());
                    Ok(())
                };
                VerbAnswer::Input(Input::ImageFetched { wish: wish.clone(), result })
            }
            Verb::Start(start) => return self.create(number, start, ctx),
            Verb::Stop { container_id, grace_ms } => {
                return self.stop(number, container_id, *grace_ms, ctx);
            }
            Verb::Remove { container, grace_ms } => {
                return self.remove(number, container, *grace_ms, ctx);
            }
        };
        self.calls.remove(&number);
        ctx.out.push(Output::Answer(incarnation, answer));
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

    fn answer(
        &mut self,
        number: u64,
        make: impl FnOnce(&Verb) -> VerbAnswer,
        ctx: &mut Context<'_>,
    ) {
        if let Some(call) = self.calls.remove(&number) {
            ctx.out.push(Output::Answer(call.incarnation, make(&call.verb)));
        }
    }

    fn answer_started(
        &mut self,
        number: u64,
        result: Result<StartedContainer, Failure>,
        ctx: &mut Context<'_>,
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
            ctx,
        );
    }
}
