//! The one loop: inputs in, a record out, and effects against its receipt.
//!
//! While one record is on its way to the log, inputs queue up and become the next one, so throughput grows
//! with load. Where somebody waits for an answer, that one is decided and appended while the [disk](crate::landing) has
//! the one before; a lone record waits for nothing but itself, and one of few for the [others](crate::gather) that have just
//! been answered. Questions are answered between records, once all of them
//! have landed: what they see is committed.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State as Connection;
use longshore_bus::{ApiRequest, Bus};
use longshore_core::cluster::persist::write_meta;
use longshore_core::cluster::{
    Cluster, Command, Input, NodeCommand, Proposal, Queue, Step, Ticket,
};
use longshore_core::leadership::hearing::{APPEND_PATIENCE_MS, Hearing};
use longshore_core::leadership::log::{Appended, Applied};
use longshore_core::leadership::publish::Names;
use longshore_proto::api::{NameJob, NameTask, RestartJob, RollBackJob, ScaleJob, SubmitJob};
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::{ClusterId, CommandId};
use longshore_proto::name::{JobKey, NodeName, UserName};
use longshore_proto::node::AssignDelta;
use longshore_proto::permission::Role;
use longshore_proto::subject::{ApiVerb, Level, NodeVerb, Scope, Subject};
use longshore_proto::{ACTOR_HEADER, COMMAND_HEADER};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::error::ManagerError;
use crate::fullness::{self, Fullness};
use crate::gateway::{Arrival, Gateway, Part};
use crate::lease::Held;
use crate::log::Log;
use crate::members::Members;
use crate::outgoing::{Asked, Outbox, Outgoing, Waiting, answer_node};
use crate::past::Past;
use crate::query::{Desk, Question, answer_api, read_payload, unavailable};
use crate::store::{Batch, Store};
use crate::{Clock, Options, backup, events, keeper, seed};

/// The most inputs of each lane that are taken at once: enough to fill a record, few enough to stay responsive.
const INPUTS_MAX: usize = 2_048;
/// How many changes of nodes' sets wait to be told: what dozens of records decide, so that only a bus that does not move
/// makes one too many.
const DELTAS_WAITING_MAX: usize = 65_536;
/// The longest name that a client may give for who asks, in characters.
const ACTOR_LENGTH_MAX: usize = 128;

/// Everything that the loop carries.
struct Driver<'a> {
    cluster: &'a mut Cluster,
    log: &'a mut Log,
    store: &'a Arc<Store>,
    past: &'a Arc<Past>,
    gateway: Gateway,
    clock: Clock,
    queue: Queue,
    out: Outgoing<'a>,
    /// Managers that say that they stand by.
    standbys: mpsc::UnboundedReceiver<UserName>,
    /// How full everything is that the cluster is written to.
    fullness: Fullness,
    hearing: Hearing,
    /// Where the log was seen to end, beyond what was appended here until then.
    beyond: watch::Receiver<u64>,
}

/// Leads until cancelled, fenced, or unable to go on.
#[expect(clippy::too_many_arguments, reason = "they are the parts that this loop joins, each once")]
pub(crate) async fn reign(
    cluster: &mut Cluster,
    log: &mut Log,
    store: &Arc<Store>,
    past: &Arc<Past>,
    bus: &Bus,
    core: &Bus,
    held: &Held,
    clock: Clock,
    options: &Options,
    cancel: &CancellationToken,
) -> Result<(), ManagerError> {
    // The first record fences every leader before; nothing is heard until it is committed.
    let step = cluster.begin_reign(ClusterId(Uuid::new_v4()), clock.now(), seed());
    let Step::Record(proposal) = step else {
        return Err(ManagerError::Bug("a reign began without a record"));
    };
    let (watcher, fullness) = fullness::Watcher::new(
        core.clone(),
        log.look(),
        options.data_dir.clone(),
        options.events_age_max,
        clock,
    );
    let (outbox, told) = Outbox::new(DELTAS_WAITING_MAX);
    let (seen_beyond, beyond) = watch::channel(0);
    let mut driver = Driver {
        cluster,
        log,
        store,
        past,
        gateway: Gateway::silent(),
        clock,
        queue: Queue::default(),
        out: Outgoing::new(store, held, outbox),
        standbys: mpsc::unbounded_channel().1,
        fullness,
        hearing: Hearing::new(*bus.connections().borrow()),
        beyond,
    };
    driver.commit(*proposal, cancel).await?;
    driver.out.settle().await?;
    let meta = &driver.cluster.state().meta;
    let names = Names::of(meta).ok_or(ManagerError::Bug("a reign began without a cluster"))?;
    info!(cluster = %names.cluster(), epoch = meta.epoch, index = meta.index, "this manager leads");
    driver.gateway = Gateway::start(bus, Some(held.standing())).await?;
    let publisher = events::publish(
        core.clone(),
        Arc::clone(store),
        names,
        options.events_age_max,
        clock.now().wall_ms,
        driver.out.commits(),
    );
    // All of them work for as long as this manager leads, and end with the reign.
    let mut beside = JoinSet::new();
    beside.spawn(publisher);
    beside.spawn(assign(bus.clone(), told));
    let shared = keeper::Shared {
        core: core.clone(),
        look: driver.log.look(),
        relieve: driver.fullness.relieve.clone(),
    };
    let keeper = keeper::keep(Arc::clone(store), options.keeping.clone(), clock, Some(shared));
    beside.spawn(keeper);
    beside.spawn(watcher.watch());
    let (seen, standbys) = mpsc::unbounded_channel();
    driver.standbys = standbys;
    let members = Members::new(core, options.name.clone(), Arc::clone(store));
    beside.spawn(async move { members.watch(seen).await });
    let guard = driver.log.look().watch(driver.log.position(), seen_beyond);
    let ended = tokio::select! {
        ended = driver.lead(bus, held, cancel) => ended,
        broken = guard => Err(broken),
        // A leader without its publisher, say, would seem well, and nobody would hear of anything any more.
        Some(part) = beside.join_next() => {
            error!(panicked = part.is_err(), "a part of this manager works no longer");
            Err(ManagerError::Bug("a part of what a leader does has ended"))
        }
    };
    driver.dismiss().await;
    // What comes next begins with what the store holds.
    store.settled().await;
    ended
}

/// Tells nodes what changed, in order. What is lost is asked for.
async fn assign(bus: Bus, mut told: mpsc::Receiver<(NodeName, AssignDelta)>) {
    while let Some((node, delta)) = told.recv().await {
        let subject = Subject::Node { node, verb: NodeVerb::Assign };
        if let Err(error) = bus.publish(&subject, &delta).await {
            warn!(%error, "a node was not told of a change; it will ask");
        }
    }
}

impl Driver<'_> {
    async fn lead(
        &mut self,
        bus: &Bus,
        held: &Held,
        cancel: &CancellationToken,
    ) -> Result<(), ManagerError> {
        let lost = held.lost();
        let connections = bus.connections();
        loop {
            // A disk that does not answer keeps the lease from being renewed, whatever else goes on.
            if self.out.landing.is_empty() {
                held.moved();
            }
            // However much waits to be decided on.
            if cancel.is_cancelled() {
                return self.out.settle().await;
            }
            if lost.is_cancelled() {
                self.out.settle().await?;
                return Err(lease_lost());
            }
            if self.out.is_asked() {
                self.out.settle().await?;
                for asked in self.out.asked() {
                    self.answer(asked);
                }
            }
            while self.out.landing.is_full() {
                self.out.land().await?;
            }
            let wakeup = self.cluster.next_wakeup();
            let wait = Duration::from_millis(wakeup - self.clock.time());
            if self.queue.is_empty() {
                tokio::select! {
                    landed = self.out.land() => {
                        landed?;
                        continue;
                    }
                    () = cancel.cancelled() => continue,
                    () = lost.cancelled() => continue,
                    arrival = self.gateway.next() => match arrival {
                        Some(arrival) => self.take(arrival),
                        None => return Err(ManagerError::Bug("nothing listens any more")),
                    },
                    Some(name) = self.standbys.recv() => {
                        self.queue.push(Input::ManagerSeen { name });
                    }
                    Some(alarm) = self.fullness.alarms.recv() => self.queue.push(alarm),
                    Ok(()) = self.beyond.changed() => self.check_end().await?,
                    () = tokio::time::sleep(wait) => {}
                }
            }
            // Counted by what is taken: questions are answered at once and leave nothing in the queue, and a stream of
            // them must not keep decisions waiting.
            for _ in self.queue.prompt()..INPUTS_MAX {
                let Some(arrival) = self.gateway.prompt() else { break };
                self.take(arrival);
            }
            for _ in self.queue.reports()..INPUTS_MAX {
                let Some(arrival) = self.gateway.reports() else { break };
                self.take(arrival);
            }
            while let Ok(name) = self.standbys.try_recv() {
                self.queue.push(Input::ManagerSeen { name });
            }
            while let Ok(alarm) = self.fullness.alarms.try_recv() {
                self.queue.push(alarm);
            }
            // Where nobody waits for an answer, all that there is waits for the disk and becomes one record: it costs less
            // than two, and whoever comes next finds the way free.
            if !self.out.landing.is_empty() && !self.queue.has_requests() {
                tokio::select! {
                    landed = self.out.land() => landed?,
                    () = cancel.cancelled() => {}
                    () = lost.cancelled() => {}
                    Some(arrival) = self.gateway.next_prompt(), if self.queue.prompt() < INPUTS_MAX => {
                        self.take(arrival);
                    }
                }
                continue;
            }
            if self.out.landing.is_empty()
                && self.queue.has_requests()
                && let Some(until) = self.out.gather(Instant::now())
            {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = cancel.cancelled() => {}
                    () = lost.cancelled() => {}
                    Some(arrival) = self.gateway.next_prompt(), if self.queue.prompt() < INPUTS_MAX => {
                        self.take(arrival);
                    }
                }
                continue;
            }
            let connected = bus.client().connection_state() == Connection::Connected;
            self.queue.extend(self.hearing.look(connected, *connections.borrow()));
            match self.cluster.propose(&mut self.queue, self.clock.now(), seed()) {
                Step::Answers(effects) => self.out.decided(effects),
                Step::Record(proposal) => self.commit(*proposal, cancel).await?,
            }
        }
    }

    /// A leader that has nothing to write would else not notice that another one writes.
    async fn check_end(&mut self) -> Result<(), ManagerError> {
        let end = *self.beyond.borrow_and_update();
        // Nothing of this manager's is on its way just now, and what it has appended is known to stand.
        if end > self.log.position().borrow().sequence {
            self.out.settle().await?;
            return Err(ManagerError::Fenced { by: "another manager writes to the log".into() });
        }
        Ok(())
    }

    /// Appends a record, and sends it on to the store. Its effects go once it has landed there.
    async fn commit(
        &mut self,
        proposal: Proposal,
        cancel: &CancellationToken,
    ) -> Result<(), ManagerError> {
        let index = proposal.index();
        let id = Uuid::new_v4().to_string();
        let mut refusing = false;
        let mut told = None;
        let mut trouble = self.log.trouble();
        // What is to be stored is worked out while the record is on its way. All of it but the place in the stream, which
        // is known when it has arrived.
        let mut batch = None;
        let sequence = {
            let append = self.log.append(&id, proposal.bytes());
            tokio::pin!(append);
            let patience = tokio::time::sleep(Duration::from_millis(APPEND_PATIENCE_MS));
            tokio::pin!(patience);
            let sent = tokio::task::yield_now();
            tokio::pin!(sent);
            loop {
                tokio::select! {
                    biased;
                    appended = &mut append => match appended? {
                        Appended::At(sequence) => break sequence,
                        Appended::Fenced => {
                            return Err(ManagerError::Fenced { by: "its record stands in the place of ours".into() });
                        }
                    },
                    // What the record before means does not wait for this one.
                    landed = self.out.land() => landed?,
                    // The outcome stays unknown here; the next start reads it from the log.
                    () = cancel.cancelled() => {
                        return Err(ManagerError::Fenced { by: "stopped while the log did not answer".into() });
                    }
                    () = &mut sent, if batch.is_none() => {
                        batch = Some(to_store(&proposal, self.cluster));
                    }
                    () = &mut patience, if !refusing => {
                        error!("the log does not answer; requests are refused until it does");
                        refusing = true;
                    }
                    Ok(()) = trouble.changed() => {
                        let words = *trouble.borrow_and_update();
                        if let Some(words) = words.filter(|_| words != told) {
                            error!("requests are refused until the log takes records again: {words}");
                            (refusing, told) = (true, Some(words));
                        }
                    }
                    Some(arrival) = self.gateway.next(), if refusing => {
                        let words = trouble.borrow().unwrap_or("NATS does not acknowledge");
                        let refusal = format!("the log cannot be written just now: {words}");
                        refuse(arrival, index, &unavailable(&refusal));
                    }
                }
            }
        };
        if refusing {
            info!("the log takes records again");
            self.hearing.refused();
        }
        self.cluster.appended(sequence);
        self.fullness.appended(proposal.bytes().len());
        self.log.reached(Applied::of(&self.cluster.state().meta));
        let mut batch = batch.unwrap_or_else(|| to_store(&proposal, self.cluster));
        batch.write(write_meta(&self.cluster.state().meta));
        self.out.landing.take(proposal, batch);
        Ok(())
    }

    /// Takes in one arrival: questions are answered as soon as they can be, everything else becomes an input.
    fn take(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Heartbeat(node, heartbeat) => {
                self.queue.push(Input::Heartbeat { node, heartbeat })
            }
            Arrival::Register(request, register) => {
                let node = request.node.clone();
                let ticket = self.out.ticket(Waiting::Node(request));
                self.queue.push(Input::Register { ticket, node, register });
            }
            Arrival::Reports(request, reports) => {
                let node = request.node.clone();
                let ticket = self.out.ticket(Waiting::Node(request));
                self.queue.push(Input::Reports { ticket, node, reports });
            }
            Arrival::Sync(request, sync) => self.ask(Asked::Sync(request, sync)),
            Arrival::Api(request) => match request.subject.clone() {
                Some(Subject::Api { scope, verb }) if verb.level() == Level::Read => {
                    let question = Question { request, scope, verb };
                    if let Some(moment) = question.moment() {
                        let refused = self.gateway.refused();
                        let part = Part::Leader;
                        question.answer_from(self.past, self.store, refused, part, moment);
                    } else {
                        self.ask(Asked::Question(question));
                    }
                }
                Some(Subject::LeaderRead { scope, verb }) => {
                    let question = Question { request, scope, verb };
                    let ticket = self.out.ticket(Waiting::Question(question));
                    self.queue.push(Input::Barrier { ticket });
                }
                Some(Subject::Api { verb: ApiVerb::BackupMake, .. }) => {
                    backup::make(request, self.store, self.gateway.refused(), self.out.index());
                }
                Some(Subject::Api { verb: ApiVerb::BackupRead, .. }) => {
                    backup::read(request, self.store, self.gateway.refused());
                }
                Some(Subject::Api { scope, verb }) => self.command(request, scope, verb),
                _ => {
                    let refusal =
                        ApiError::new(ErrorCode::Invalid, "the subject names no legal namespace")
                            .hint("a namespace is made of a-z, 0-9 and '-'; '_' means the cluster");
                    answer_api::<()>(request, self.out.index(), Err(refusal));
                }
            },
        }
    }

    /// Answers a question as soon as everything has landed that the state holds.
    fn ask(&mut self, asked: Asked) {
        if self.out.landing.is_empty() { self.answer(asked) } else { self.out.ask_later(asked) }
    }

    fn answer(&self, asked: Asked) {
        let index = self.cluster.state().meta.index;
        let question = match asked {
            Asked::Sync(request, sync) => {
                // Inputs that wait are older than this question, and may change its answer; it is asked again
                // when they do, because the revision has moved then.
                let page = self.cluster.state().sync_page(&request.node, &sync);
                return answer_node(request, index, page);
            }
            // Somebody else leads, or has led, and this manager has not noticed yet.
            Asked::Question(question) if question.index_min() > index => {
                return question.refuse(index);
            }
            Asked::Question(question) | Asked::Certain(question) => question,
        };
        let desk = Desk {
            cluster: self.cluster,
            store: self.store,
            refused: self.gateway.refused(),
            part: Part::Leader,
            now: self.clock.time(),
        };
        desk.answer(question);
    }

    fn command(&mut self, request: ApiRequest, scope: Scope, verb: ApiVerb) {
        if let Some(refusal) = self.fullness.refusal() {
            let refusal = unavailable(&refusal);
            return answer_api::<()>(request, self.out.index(), Err(refusal));
        }
        match self.read_command(&request, scope, verb) {
            Ok(make) => {
                let ticket = self.out.ticket(Waiting::Api(request));
                self.queue.push(make(ticket));
            }
            Err(refusal) => answer_api::<()>(request, self.out.index(), Err(refusal)),
        }
    }

    fn read_command(
        &self,
        request: &ApiRequest,
        scope: Scope,
        verb: ApiVerb,
    ) -> Result<impl FnOnce(Ticket) -> Input + use<>, ApiError> {
        let Some((role, user)) = request.asker() else {
            return Err(ApiError::new(
                ErrorCode::Invalid,
                "the answer is wanted on no inbox of a client",
            ));
        };
        let id = request.header(COMMAND_HEADER).and_then(|id| id.parse().ok()).ok_or_else(|| {
            ApiError::new(ErrorCode::Invalid, format!("the header {COMMAND_HEADER} holds no command id"))
                .hint("send a fresh UUID v7 with each request that changes something, and the same one with its retries")
        })?;
        let actor = request
            .header(ACTOR_HEADER)
            .map(|actor| actor.chars().take(ACTOR_LENGTH_MAX).collect());
        if let Some(command) = self.read_cluster_command(request, verb)? {
            return Ok(command_input(role, user, actor, id, command));
        }
        let Scope::Namespace(namespace) = scope else {
            return Err(ApiError::new(
                ErrorCode::Invalid,
                "this verb needs a namespace in its subject",
            ));
        };
        let command = match verb {
            ApiVerb::JobSubmit => {
                let SubmitJob { job } = read_payload(self.gateway.refused(), request)?;
                if job.namespace != namespace {
                    return Err(ApiError::new(
                        ErrorCode::Invalid,
                        format!(
                            "the job is of namespace {}, and the subject of {namespace}",
                            job.namespace
                        ),
                    )
                    .hint("send it on the subject of its own namespace"));
                }
                Command::SubmitJob(Box::new(job))
            }
            ApiVerb::JobStop => {
                let NameJob { name } = read_payload(self.gateway.refused(), request)?;
                Command::StopJob(JobKey { namespace, name })
            }
            ApiVerb::JobScale => {
                let ScaleJob { name, spec, instances } =
                    read_payload(self.gateway.refused(), request)?;
                Command::ScaleJob { job: JobKey { namespace, name }, spec, instances }
            }
            ApiVerb::JobRestart => {
                let RestartJob { name, spec } = read_payload(self.gateway.refused(), request)?;
                Command::RestartJob { job: JobKey { namespace, name }, spec }
            }
            ApiVerb::JobRollBack => {
                let RollBackJob { name, version } = read_payload(self.gateway.refused(), request)?;
                Command::RollBackJob { job: JobKey { namespace, name }, version }
            }
            ApiVerb::TaskStop => {
                let NameTask { id } = read_payload(self.gateway.refused(), request)?;
                Command::StopTask { namespace, id }
            }
            ApiVerb::TaskRestart => {
                let NameTask { id } = read_payload(self.gateway.refused(), request)?;
                Command::RestartTask { namespace, id }
            }
            _ => return Err(ApiError::new(ErrorCode::Invalid, "this verb changes nothing")),
        };
        Ok(command_input(role, user, actor, id, command))
    }

    /// Reads a command about the cluster or its nodes; `None` for one about a namespace.
    fn read_cluster_command(
        &self,
        request: &ApiRequest,
        verb: ApiVerb,
    ) -> Result<Option<Command>, ApiError> {
        let refused = self.gateway.refused();
        Ok(Some(match verb {
            ApiVerb::RebalanceStart => Command::Rebalance(read_payload(refused, request)?),
            ApiVerb::NodeCordon => {
                Command::Node(NodeCommand::Cordon(read_payload(refused, request)?))
            }
            ApiVerb::NodeUncordon => {
                Command::Node(NodeCommand::Uncordon(read_payload(refused, request)?))
            }
            ApiVerb::NodeDrain => {
                Command::Node(NodeCommand::Drain(read_payload(refused, request)?))
            }
            ApiVerb::NodeLabel => {
                Command::Node(NodeCommand::Label(read_payload(refused, request)?))
            }
            ApiVerb::NodeConfirmLost => {
                Command::Node(NodeCommand::ConfirmLost(read_payload(refused, request)?))
            }
            ApiVerb::NodeRemove => {
                Command::Node(NodeCommand::Remove(read_payload(refused, request)?))
            }
            _ => return Ok(None),
        }))
    }

    /// Tells everybody who waits to try again: elsewhere, or later.
    async fn dismiss(&mut self) {
        let refusal = unavailable("this manager no longer leads");
        self.gateway.close();
        while let Some(arrival) = self.gateway.waiting() {
            refuse(arrival, 0, &refusal);
        }
        self.out.dismiss(&refusal).await;
    }
}

fn lease_lost() -> ManagerError {
    ManagerError::Fenced { by: "the lease is held by another manager".into() }
}

/// What is to be stored of a record.
fn to_store(proposal: &Proposal, cluster: &Cluster) -> Batch {
    let mut batch = Batch::default();
    let writes = proposal.writes(cluster.state());
    batch.record(proposal.index(), proposal.bytes().to_vec(), writes, proposal.events());
    batch
}

fn command_input(
    role: Role,
    user: UserName,
    actor: Option<String>,
    id: CommandId,
    command: Command,
) -> impl FnOnce(Ticket) -> Input {
    move |ticket| Input::Command { ticket, role, user, actor, id, command }
}

/// Refuses an arrival that cannot be granted just now.
pub(crate) fn refuse(arrival: Arrival, index: u64, refusal: &ApiError) {
    match arrival {
        Arrival::Api(request) => answer_api::<()>(request, index, Err(refusal.clone())),
        Arrival::Register(request, _)
        | Arrival::Sync(request, _)
        | Arrival::Reports(request, _) => {
            answer_node::<()>(request, index, Err(refusal.clone()));
        }
        Arrival::Heartbeat(..) => {}
    }
}
