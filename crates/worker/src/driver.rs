//! The loop: an input to the brain, its writes to the store, and only then its actions.
//!
//! Inputs that wait are handled together, so that many of them cost one sync of the disk. Actions run beside
//! the loop, in lanes of their own, and their answers come back as inputs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use longshore_bus::{Bus, ConnectError};
use longshore_core::agent::{
    Action, Agent, Input, LogSource, RunningTask, Settings, StockItem, Write, Writes,
};
use longshore_core::time::{Now, Time};
use longshore_proto::id::{BootId, ClusterId, NodeId, TaskId};
use longshore_proto::name::NodeName;
use longshore_proto::node::{Heartbeat, Register, Registered};
use longshore_proto::platform::PLATFORM_ATTRIBUTE;
use longshore_proto::subject::NodeVerb;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch as channel};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use crate::beside::{blocking, forget_ended};
use crate::health;
use crate::heard::{Heard, heartbeat_interval};
use crate::metrics;
use crate::probe::{self, Probe};
use crate::rpc;
use crate::runtime::{Runtime, RuntimeError, RuntimeInfo};
use crate::session::Session;
use crate::store::Store;
use crate::watch::watch;
use crate::{OnShutdown, Options, WorkerError};

/// How many messages may wait for the loop.
const INBOX_MAX: usize = 1_024;
/// How many inputs are handled with one sync of the disk.
const BATCH_MAX: usize = 256;
/// How many containers are started at once: so many a core, within these bounds. A start is mostly waiting for others'
/// processes; where the machine does other work too, fewer get less than their part of it.
const STARTS_PER_CORE: usize = 4;
const STARTS: (usize, usize) = (16, 64);
/// How many containers are ended or removed at once: it is mostly waiting.
const ENDS_MAX: usize = 64;
/// How many tasks are asked for their health at once.
const PROBES_MAX: usize = 32;
/// How long a leaving worker waits for its containers beyond their grace.
const LEAVE_MARGIN: Duration = Duration::from_secs(30);
/// How long a leaving worker waits for its last reports to be answered.
const LEAVE_REPORTS: Duration = Duration::from_secs(5);
/// How long a draining worker waits for the manager beyond the deadline and the grace of its containers.
const DRAIN_MARGIN: Duration = Duration::from_secs(10);
/// How often it says what it waits for, and of how many tasks.
const DRAIN_TELL_INTERVAL: Duration = Duration::from_secs(10);
const DRAIN_TOLD_MAX: usize = 10;
/// Beyond any wait of ours.
const FAR_AWAY: Duration = Duration::from_secs(365 * 24 * 3_600);

/// What reaches the loop.
#[derive(Debug)]
pub(crate) enum Message {
    /// For the brain.
    Input(Input),
    /// The bus is there.
    Connected(Bus),
    /// The bus will never be there.
    ConnectFailed(ConnectError),
    /// The leader has taken this boot in.
    Registered(Registered),
    /// The data directory is another cluster's.
    WrongCluster(String),
    /// The runtime said who it is.
    RuntimeInfo(RuntimeInfo),
    /// The size of the runtime's disk is known, and this is its version.
    RuntimeDisk(RuntimeInfo),
    /// Somebody wants a task's logs.
    LogsOf(TaskId, oneshot::Sender<Option<LogSource>>),
    /// Somebody wants to know what runs.
    StandingOf(oneshot::Sender<Standing>),
}

/// What runs here.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) tasks: Vec<RunningTask>,
    /// Why the container runtime cannot be used, while it cannot.
    pub(crate) runtime_error: Option<String>,
}

/// A worker at work.
pub(crate) struct Driver {
    agent: Agent,
    store: Store,
    runtime: Arc<dyn Runtime>,
    session: Option<Session>,
    registered: Option<Registered>,
    register: channel::Sender<Register>,
    unknown: Arc<Notify>,
    probe: Probe,
    node: NodeName,
    node_id: NodeId,
    boot_id: BootId,
    data_dir: PathBuf,
    on_shutdown: OnShutdown,
    leaving: bool,
    /// Until when the worker waits for its tasks to be moved off, once it was told to end.
    drain_until: Option<Instant>,
    /// Keeps ready what the runtime can, once the cluster is known.
    tending: Option<AbortOnDropHandle<()>>,
    started_at: Instant,
    heartbeat_at: Instant,
    inbox: mpsc::Receiver<Message>,
    to_inbox: mpsc::Sender<Message>,
    /// Everything that runs beside the loop; ends with it.
    beside: JoinSet<()>,
    starts: Arc<Semaphore>,
    ends: Arc<Semaphore>,
    probes: Arc<Semaphore>,
}

impl Driver {
    /// Opens the store and begins to look at the runtime and for the bus.
    pub(crate) async fn start(
        options: Options,
        runtime: Arc<dyn Runtime>,
    ) -> Result<Self, WorkerError> {
        let data_dir = options.data_dir.clone();
        let name = options.name.clone();
        let opened = blocking("store", move || {
            let (store, node_id) = Store::open(&data_dir, &name, NodeId(Uuid::new_v4()))?;
            let saved = store.load()?;
            Ok::<_, WorkerError>((store, node_id, saved))
        });
        let (store, node_id, saved) = opened.await??;
        let boot_id = BootId(Uuid::new_v4());
        let (folder, stated) = (options.data_dir.clone(), options.capacity);
        let probe = blocking("probe", move || Probe::new(folder, stated)).await?;
        let register = Register {
            node_id,
            boot_id,
            cluster_id: saved.cluster_id,
            datacenter: options.datacenter,
            labels: options.labels,
            attributes: probe::attributes()
                .into_iter()
                .chain(options.policy.attributes())
                .collect(),
            capacity: probe.capacity(),
            tasks_max: options.tasks_max,
            mount_paths: options.policy.mount_paths.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        info!(
            node = %options.name, %node_id, data_dir = %options.data_dir.display(),
            tasks = saved.tasks.len(), reports_held = saved.reports.len(), capacity = ?register.capacity,
            "the worker starts"
        );
        let (to_inbox, inbox) = mpsc::channel(INBOX_MAX);
        let mut beside = JoinSet::new();
        beside.spawn(watch(runtime.clone(), to_inbox.clone()));
        beside.spawn(connect(options.bus, to_inbox.clone()));
        let settings =
            Settings { ports: options.ports, policy: options.policy, keeping: options.keeping };
        let cores = usize::try_from(probe::cores()).unwrap_or(1);
        let starts = cores.saturating_mul(STARTS_PER_CORE).clamp(STARTS.0, STARTS.1);
        Ok(Self {
            agent: Agent::restore(
                options.name.clone(),
                boot_id,
                saved,
                settings,
                now_at(Duration::ZERO),
            ),
            store,
            runtime,
            session: None,
            registered: None,
            register: channel::Sender::new(register),
            unknown: Arc::new(Notify::new()),
            probe,
            node: options.name,
            node_id,
            boot_id,
            data_dir: options.data_dir,
            on_shutdown: options.on_shutdown,
            leaving: false,
            drain_until: None,
            tending: None,
            started_at: Instant::now(),
            heartbeat_at: Instant::now(),
            inbox,
            to_inbox,
            beside,
            starts: Arc::new(Semaphore::new(starts)),
            ends: Arc::new(Semaphore::new(ENDS_MAX)),
            probes: Arc::new(Semaphore::new(PROBES_MAX)),
        })
    }

    /// Works until told to end.
    pub(crate) async fn run(mut self, cancel: CancellationToken) -> Result<(), WorkerError> {
        let mut leave_at: Option<Instant> = None;
        let mut tell_at = Instant::now();
        if let Some(cluster) = self.agent.cluster_id() {
            self.tend(cluster);
        }
        loop {
            let wakeup =
                self.agent.next_wakeup().map(|at| self.started_at + Duration::from_millis(at.0));
            let far_away = Instant::now() + FAR_AWAY;
            forget_ended(&mut self.beside)?;
            let mut inputs = Vec::new();
            tokio::select! {
                biased;
                () = cancel.cancelled(), if leave_at.is_none() && self.drain_until.is_none() => match self.on_shutdown {
                    OnShutdown::Drain(deadline) => {
                        let grace = Duration::from_millis(self.agent.grace_ms_max());
                        // The manager counts the deadline, and what it ends then has its grace.
                        let patience = deadline.saturating_add(grace).saturating_add(DRAIN_MARGIN);
                        info!(
                            tasks = self.agent.tasks_left().len(), ?deadline,
                            "the worker ends when its tasks have moved off, or at the deadline"
                        );
                        self.drain_until = Some(Instant::now() + patience.min(FAR_AWAY));
                        tell_at = Instant::now() + DRAIN_TELL_INTERVAL;
                        self.heartbeat(false).await;
                    }
                    OnShutdown::Keep => {
                        info!(tasks_running = self.agent.tasks_running(), "the worker ends; its containers run on");
                        return Ok(());
                    }
                    OnShutdown::Stop => {
                        leave_at = Some(self.leave().await);
                        inputs.push(Input::Leave);
                    }
                },
                () = tokio::time::sleep_until(self.drain_until.unwrap_or(far_away)), if self.is_draining() => {
                    warn!(tasks = self.agent.tasks_left().len(), "the deadline has come, and not everything has moved off");
                    leave_at = Some(self.leave().await);
                    inputs.push(Input::Leave);
                }
                () = tokio::time::sleep_until(tell_at), if self.is_draining() => {
                    tell_at = Instant::now() + DRAIN_TELL_INTERVAL;
                    self.tell_draining();
                    continue;
                }
                () = tokio::time::sleep_until(leave_at.unwrap_or(far_away)), if leave_at.is_some() => {
                    warn!(
                        tasks_running = self.agent.tasks_running(), reports_held = !self.agent.is_told(),
                        "leaving without having seen everything end; what is held is told at the next start"
                    );
                    break;
                }
                () = tokio::time::sleep_until(self.heartbeat_at), if self.registered.is_some() => {
                    self.heartbeat(false).await;
                    continue;
                }
                message = self.inbox.recv() => {
                    // The loop holds a sender itself, so that there is always a next message.
                    let mut next = message;
                    while let Some(message) = next.take() {
                        inputs.extend(self.take(message)?);
                        if inputs.len() < BATCH_MAX {
                            next = self.inbox.try_recv().ok();
                        }
                    }
                }
                () = tokio::time::sleep_until(wakeup.unwrap_or(far_away)) => inputs.push(Input::Timer),
            }
            self.handle(inputs).await?;
            if self.is_draining()
                && self.agent.tasks_left().is_empty()
                && self.agent.tasks_running() == 0
            {
                info!("everything has moved off");
                leave_at = Some(self.leave().await);
                self.handle(vec![Input::Leave]).await?;
            }
            if leave_at.is_some() && self.agent.is_quiet() {
                if self.agent.is_told() {
                    break;
                }
                leave_at = leave_at.map(|at| at.min(Instant::now() + LEAVE_REPORTS));
            }
        }
        // No sign of life may come after the goodbye, which says that nothing runs here any more.
        self.beside.shutdown().await;
        self.heartbeat(true).await;
        if let Some(session) = &self.session {
            session.bus.flush().await;
        }
        // What the runtime has in hand meanwhile it may bring to an end: nobody else would take it away.
        if let Some(cluster) = self.agent.cluster_id()
            && let Err(error) = self.runtime.clear(cluster).await
        {
            warn!("{error}; what is left of the sandboxes goes at the worker's next start");
        }
        info!("the worker has left");
        Ok(())
    }

    /// Whether the worker waits for its tasks to be moved off.
    fn is_draining(&self) -> bool {
        self.drain_until.is_some() && !self.leaving
    }

    /// Begins to leave: gives until when what is left may take.
    async fn leave(&mut self) -> Instant {
        let grace = Duration::from_millis(self.agent.grace_ms_max());
        info!(
            tasks_running = self.agent.tasks_running(),
            ?grace,
            "the worker ends; stopping its containers"
        );
        // Said first, so that what is stopped here is not replaced here.
        self.leaving = true;
        self.heartbeat(false).await;
        Instant::now() + grace.saturating_add(LEAVE_MARGIN).min(FAR_AWAY)
    }

    /// Says what a worker that is to end waits for.
    fn tell_draining(&self) {
        let left = self.agent.tasks_left();
        let shown: Vec<&str> = left.iter().map(String::as_str).take(DRAIN_TOLD_MAX).collect();
        let manager = match self.registered {
            Some(_) => "`longshore node status` says why each is still here",
            None => "no leader has taken this node in, so that nobody moves them",
        };
        info!(tasks = left.len(), "waiting for {} to move off; {manager}", shown.join(", "));
    }

    /// What a message means for the brain.
    fn take(&mut self, message: Message) -> Result<Option<Input>, WorkerError> {
        match message {
            Message::Input(input) => return Ok(Some(input)),
            Message::Connected(bus) => self.connected(bus),
            Message::ConnectFailed(error) => return Err(error.into()),
            Message::WrongCluster(reason) => {
                return Err(WorkerError::WrongCluster { data_dir: self.data_dir.clone(), reason });
            }
            Message::Registered(registered) => {
                let theirs = registered.cluster_id;
                if let Some(ours) = self.agent.cluster_id()
                    && ours != theirs
                {
                    return Err(WorkerError::other_cluster(self.data_dir.clone(), ours, theirs));
                }
                info!(cluster = %theirs, epoch = registered.epoch, "the leader has taken this node in");
                self.register.send_modify(|register| register.cluster_id = Some(theirs));
                self.registered = Some(registered);
                self.tend(theirs);
                self.heartbeat_at = Instant::now();
                return Ok(Some(Input::Registered { cluster_id: theirs }));
            }
            Message::RuntimeInfo(mut info) => {
                let (disk, inbox) = (self.probe.disk(), self.to_inbox.clone());
                self.beside.spawn(async move {
                    if let Some(root) = info.root.take() {
                        disk.look_at_beside(root.into()).await;
                    }
                    // The loop has ended: so does this.
                    let _ = inbox.send(Message::RuntimeDisk(info)).await;
                });
            }
            Message::RuntimeDisk(info) => {
                let capacity = self.probe.capacity();
                let is_news = self.register.send_if_modified(|register| {
                    let version = ("docker.version".to_owned(), info.version);
                    let platform = info.platform;
                    let platform =
                        platform.map(|is| (PLATFORM_ATTRIBUTE.to_owned(), is.to_string()));
                    let before = register.clone();
                    register.attributes.extend([version].into_iter().chain(platform));
                    register.capacity = capacity;
                    *register != before
                });
                if is_news && self.registered.is_some() {
                    self.unknown.notify_one();
                }
            }
            Message::LogsOf(task, answer) => {
                // Whoever asked may have gone meanwhile.
                let _ = answer.send(self.agent.logs_of(task));
            }
            Message::StandingOf(answer) => {
                let runtime_error = self.agent.runtime_error().map(str::to_owned);
                let _ = answer.send(Standing { tasks: self.agent.running(), runtime_error });
            }
        }
        Ok(None)
    }

    /// Lets the runtime keep ready what it can for this cluster's tasks.
    fn tend(&mut self, cluster: ClusterId) {
        if self.tending.is_none() {
            let runtime = self.runtime.clone();
            let tending = tokio::spawn(async move { runtime.tend(cluster).await });
            self.tending = Some(AbortOnDropHandle::new(tending));
        }
    }

    /// The bus is there: begin to listen, then register.
    fn connected(&mut self, bus: Bus) {
        let heard = Heard::new(&bus);
        self.beside.spawn(heard.clone().listen(bus.clone()));
        self.beside.spawn(heard.clone().watch(bus.clone()));
        let session = Session {
            bus,
            node: self.node.clone(),
            node_id: self.node_id,
            boot_id: self.boot_id,
            heard,
            unknown: self.unknown.clone(),
            refused: Arc::default(),
        };
        self.beside.spawn(session.clone().listen(self.to_inbox.clone()));
        self.beside.spawn(rpc::serve(session.clone(), self.runtime.clone(), self.to_inbox.clone()));
        self.beside.spawn(metrics::publish(
            session.clone(),
            self.runtime.clone(),
            self.to_inbox.clone(),
            self.probe.another(),
        ));
        self.beside.spawn(
            session.clone().stay_registered(self.register.subscribe(), self.to_inbox.clone()),
        );
        self.session = Some(session);
    }

    /// Brain, store, actions: in this order.
    async fn handle(&mut self, inputs: Vec<Input>) -> Result<(), WorkerError> {
        if inputs.is_empty() {
            return Ok(());
        }
        let now = now_at(self.started_at.elapsed());
        let (steps, held): (Vec<Writes>, Vec<_>) =
            inputs.into_iter().map(|input| self.agent.handle(input, now).split()).unzip();
        for write in steps.iter().flat_map(Writes::as_slice) {
            tell(write);
        }
        let receipts = if steps.iter().all(Writes::is_empty) {
            self.store.commit(steps)?
        } else {
            let store = self.store.clone();
            blocking("store", move || store.commit(steps)).await??
        };
        for (held, receipt) in held.into_iter().zip(receipts) {
            for action in held.release(receipt) {
                self.perform(action);
            }
        }
        Ok(())
    }

    /// Carries an action out, beside the loop.
    fn perform(&mut self, action: Action) {
        let runtime = self.runtime.clone();
        match action {
            Action::FindImage(wish) => {
                self.answer_with(None, async move {
                    let result = runtime.find_image(wish.clone()).await.map_err(Into::into);
                    Input::ImageLookedFor { wish, result }
                });
            }
            Action::FetchImage(wish) => {
                self.answer_with(None, async move {
                    let result = runtime.fetch_image(wish.clone()).await.map_err(Into::into);
                    Input::ImageFetched { wish, result }
                });
            }
            Action::StartContainer(start) => {
                // Not the whole of it: its environment may hold secrets.
                info!(
                    task = %start.task, attempt = start.attempt, image = start.run.spec.image, container = start.name,
                    "starting {}/{}.{}", start.run.namespace, start.run.job, start.run.slot
                );
                self.answer_with(Some(self.starts.clone()), async move {
                    let (task, attempt) = (start.task, start.attempt);
                    let result = runtime.start(*start).await.map_err(Into::into);
                    Input::Started { task, attempt, result }
                });
            }
            Action::StopContainer { container_id, grace_ms } => {
                info!(container = short(&container_id), grace_ms, "stopping");
                self.answer_with(Some(self.ends.clone()), async move {
                    let result = runtime.stop(container_id.clone(), grace_ms).await;
                    if let Err(error) = &result {
                        warn!(container_id, "{error}; trying again");
                    }
                    Input::Stopped { container_id, result: result.map_err(Into::into) }
                });
            }
            Action::RemoveContainer { container, grace_ms } => {
                debug!(container, grace_ms, "removing");
                self.answer_with(Some(self.ends.clone()), async move {
                    let result = runtime.remove(container.clone(), grace_ms).await;
                    if let Err(error) = &result {
                        warn!(container, "{error}; trying again");
                    }
                    Input::Removed { container, result: result.map_err(Into::into) }
                });
            }
            Action::ProbeTask(probe) => {
                self.answer_with(Some(self.probes.clone()), async move {
                    let (task, attempt) = (probe.task, probe.attempt);
                    let result = health::ask(&*runtime, *probe).await;
                    Input::Probed { task, attempt, result }
                });
            }
            Action::ListContainers { ticket } => {
                self.answer_with(None, async move {
                    match runtime.list().await {
                        Ok(containers) => Input::Observed { ticket, containers },
                        Err(error) => {
                            warn!("the containers cannot be listed: {error}");
                            Input::ObserveFailed { ticket, reason: error.to_string() }
                        }
                    }
                });
            }
            Action::MeasureDisk => {
                let disk = self.probe.disk();
                self.answer_with(None, async move {
                    Input::DiskMeasured { used_percent: disk.read().await.percent() }
                });
            }
            Action::RemoveStock { item, why } => {
                let cluster = self.agent.cluster_id();
                self.answer_with(Some(self.ends.clone()), async move {
                    let result = match &item {
                        StockItem::Image(image) => runtime.remove_image(image.clone()).await,
                        StockItem::Volume(name) => match cluster {
                            Some(cluster) => runtime.remove_volume(name.clone(), cluster).await,
                            None => Err(RuntimeError::Forbidden(
                                "this worker belongs to no cluster yet".to_owned(),
                            )),
                        },
                    };
                    match &result {
                        Ok(()) => info!("removed the {item}: {why}"),
                        Err(error) => info!("the {item} stays ({why}): {error}"),
                    }
                    Input::StockRemoved { item, result: result.map_err(Into::into) }
                });
            }
            Action::SendReports { through, reports } => {
                let Some(session) = self.session.clone() else { return };
                self.answer_with(None, async move { session.deliver(through, reports).await });
            }
            Action::RequestSync => {
                let Some(session) = self.session.clone() else { return };
                self.answer_with(None, async move { session.fetch_set().await });
            }
            Action::Alarm(text) => error!("ALARM: {text}"),
        }
    }

    /// Runs beside the loop, in a lane where there is one, and puts the answer into the inbox.
    fn answer_with(
        &mut self,
        lane: Option<Arc<Semaphore>>,
        work: impl Future<Output = Input> + Send + 'static,
    ) {
        let inbox = self.to_inbox.clone();
        self.beside.spawn(async move {
            let _place = match lane {
                Some(lane) => lane.acquire_owned().await.ok(),
                None => None,
            };
            let answer = work.await;
            // The loop has ended: so does everything beside it.
            let _ = inbox.send(Message::Input(answer)).await;
        });
    }

    /// Says that the node lives, or that it is leaving; the last time, waits until it is said.
    async fn heartbeat(&mut self, last: bool) {
        let (Some(session), Some(registered)) = (&self.session, &self.registered) else { return };
        let interval = heartbeat_interval(registered);
        // For the next time: this one tells what it answered last.
        let disk = self.probe.disk();
        self.beside.spawn(async move {
            disk.read().await;
        });
        // A tenth either way, so that a thousand workers do not speak at once.
        self.heartbeat_at = Instant::now() + interval.mul_f64(rand::random_range(0.9..1.1));
        let heartbeat = Heartbeat {
            node_id: self.node_id,
            boot_id: self.boot_id,
            revision: self.agent.revision(),
            digest: self.agent.digest(),
            answered: self.agent.answered(),
            capacity: self.probe.capacity(),
            used: self.probe.used(),
            tasks_running: self.agent.tasks_running(),
            runtime_error: self.agent.runtime_error().map(str::to_owned),
            leaving: self.leaving || last,
            drain_within_ms: match self.on_shutdown {
                OnShutdown::Drain(deadline) if self.is_draining() => {
                    Some(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX))
                }
                _ => None,
            },
            cluster_id: self.agent.cluster_id(),
        };
        let (bus, subject) = (session.bus.clone(), session.subject(NodeVerb::Heartbeat));
        let heard = session.heard.clone();
        let send = async move {
            if let Err(error) = bus.publish_asking(&subject, &heartbeat, heard.inbox()).await {
                debug!("{error}");
            }
        };
        if last {
            send.await;
        } else {
            // A full queue must not hold up the loop.
            self.beside.spawn(send);
        }
    }
}

/// Looks for the bus for as long as it takes.
async fn connect(options: longshore_bus::Options, driver: mpsc::Sender<Message>) {
    let message = match Bus::connect(options).await {
        Ok(bus) => Message::Connected(bus),
        Err(error) => Message::ConnectFailed(error),
    };
    // The loop has ended: so does this.
    let _ = driver.send(message).await;
}

/// Tells the operator what a step has decided.
fn tell(write: &Write) {
    match write {
        Write::Report { report, .. } => info!(
            task = %report.task, attempt = report.attempt, exit_code = report.exit_code,
            container = report.container_id.as_deref().map(short),
            "task {}{}", report.state, report.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
        ),
        Write::TaskForgotten(task) => debug!(%task, "task forgotten"),
        Write::Cluster(cluster) => {
            info!(%cluster, "the data directory belongs to this cluster from now on")
        }
        Write::Revision(revision) => debug!(%revision, "assignments changed"),
        _ => {}
    }
}

/// A container id as people know it.
fn short(container_id: &str) -> &str {
    container_id.get(..12).unwrap_or(container_id)
}

fn now_at(elapsed: Duration) -> Now {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { time: Time(millis(elapsed)), wall_ms: millis(wall) }
}
