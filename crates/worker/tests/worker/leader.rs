//! A NATS server, a leader played by the test, and a worker that can be ended and started again.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use futures_util::StreamExt;
use longshore_bus::{Bus, Tls};
use longshore_core::agent::labels;
use longshore_proto::api::Answer;
use longshore_proto::codec;
use longshore_proto::error::ApiError;
use longshore_proto::id::{ClusterId, NodeId, Revision, TaskId};
use longshore_proto::name::{Datacenter, NodeName, Root, UserName};
use longshore_proto::node::{
    AssignDelta, Assignment, Heartbeat, Register, Registered, Reports, ReportsCommitted, RunTask,
    SyncPage, TaskReport, Want,
};
use longshore_proto::permission::Role;
use longshore_proto::spec::{PullPolicy, RestartMode, RestartPolicy, TaskSpec};
use longshore_proto::state::TaskState;
use longshore_proto::subject::{NodeVerb, Pattern, Subject};
use longshore_worker::policy::Policy;
use longshore_worker::runtime::docker::Docker;
use longshore_worker::store::Store;
use longshore_worker::{
    CapacityOverride, Keeping, OnShutdown, Options, PORT_RANGE_USUAL, WorkerError,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const IMAGE: &str = "longshore-busybox:1";
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// How long clearing up may take, after whatever has gone wrong.
const CLEARING_DEADLINE: Duration = Duration::from_secs(30);

/// A NATS server for one test.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn start() -> Self {
        loop {
            if let Some(server) = Self::launch(rand::random_range(PORT_RANGE_USUAL)) {
                return server;
            }
        }
    }

    pub(crate) fn start_at(port: u16) -> Self {
        Self::launch(port).unwrap_or_else(|| panic!("the port {port} was taken meanwhile"))
    }

    /// Starts it, and stays until it is ready. `None` when it ends instead, since its port is somebody else's: whoever
    /// waited for a server there would wait for ever.
    fn launch(port: u16) -> Option<Self> {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/nats-server");
        let program = if tool.exists() { tool } else { PathBuf::from("nats-server") };
        let child = Command::new(&program)
            .args(["-a", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start {}: {error}; run scripts/setup", program.display())
            });
        let mut server = Self { child, port };
        let mut log = BufReader::new(server.child.stderr.take().unwrap());
        let (mut line, mut before) = (String::new(), String::new());
        while log.read_line(&mut line).unwrap() > 0 {
            if line.contains("Server is ready") {
                // Stays open: a server that cannot write its log ends.
                server.child.stderr = Some(log.into_inner());
                return Some(server);
            }
            before.push_str(&line);
            line.clear();
        }
        assert!(before.contains("address already in use"), "the NATS server ended: {before}");
        None
    }

    pub(crate) fn options(&self, role: Role, user: &str) -> longshore_bus::Options {
        longshore_bus::Options {
            servers: format!("nats://127.0.0.1:{}", self.port),
            root: Root::standard(),
            role,
            user: user.parse().unwrap(),
            credentials: None,
            tls: Tls::default(),
            wait_for_server: true,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the leader knows.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) index: u64,
    pub(crate) set: BTreeMap<TaskId, Assignment>,
    pub(crate) registers: Vec<Register>,
    pub(crate) reports: Vec<TaskReport>,
    pub(crate) heartbeats: Vec<Heartbeat>,
    pub(crate) refusal: Option<ApiError>,
}

/// A leader as the worker sees it.
pub(crate) struct Leader {
    pub(crate) bus: Bus,
    pub(crate) known: Arc<Mutex<Known>>,
    pub(crate) node: NodeName,
    pub(crate) cluster_id: ClusterId,
    pub(crate) answering: JoinHandle<()>,
}

impl Leader {
    pub(crate) async fn start(server: &Server, node: NodeName) -> Self {
        let bus = Bus::connect(server.options(Role::Manager, "m1")).await.unwrap();
        let known = Arc::new(Mutex::new(Known { index: 1, ..Known::default() }));
        let cluster_id = ClusterId(Uuid::new_v4());
        let mut streams = Vec::new();
        for verb in [NodeVerb::Register, NodeVerb::Sync, NodeVerb::Report, NodeVerb::Heartbeat] {
            streams.push(bus.subscribe(&Pattern::Node(verb)).await.unwrap());
        }
        let mut questions = futures_util::stream::select_all(streams);
        let shared = known.clone();
        let answering = tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                let Some(Subject::Node { verb, .. }) = question.subject else { continue };
                let payload = question.payload.clone();
                let worker = |role: Role, _: &UserName| role == Role::Worker;
                match verb {
                    NodeVerb::Register => {
                        let answer = {
                            let mut known = shared.lock().unwrap();
                            known.registers.push(codec::decode(&payload).unwrap());
                            let registered = Registered {
                                cluster_id,
                                epoch: 1,
                                heartbeat_interval_ms: 200,
                                revision: Revision { epoch: 1, index: known.index },
                            };
                            Answer::new(1, known.refusal.clone().map_or(Ok(registered), Err))
                        };
                        question.answer(worker, &answer).await;
                    }
                    NodeVerb::Sync => {
                        let page = {
                            let known = shared.lock().unwrap();
                            SyncPage {
                                cluster_id,
                                revision: Revision { epoch: 1, index: known.index },
                                count: known.set.len() as u64,
                                assignments: known.set.values().cloned().collect(),
                                known: Vec::new(),
                                end: true,
                            }
                        };
                        question.answer(worker, &Answer::new(1, Ok(page))).await;
                    }
                    NodeVerb::Report => {
                        {
                            let mut known = shared.lock().unwrap();
                            for report in codec::decode::<Reports>(&payload).unwrap().reports {
                                if report.state.is_terminal() {
                                    known.set.remove(&report.task);
                                }
                                known.reports.push(report);
                            }
                        }
                        question
                            .answer(
                                worker,
                                &Answer::new(1, Ok(ReportsCommitted { index: 1, epoch: 1 })),
                            )
                            .await;
                    }
                    _ => {
                        let heartbeat = codec::decode(&payload).unwrap();
                        shared.lock().unwrap().heartbeats.push(heartbeat);
                    }
                }
            }
        });
        Self { bus, known, node, cluster_id, answering }
    }

    pub(crate) async fn assign(&self, task: TaskId, want: Want) {
        let delta = {
            let mut known = self.known.lock().unwrap();
            let previous = Revision { epoch: 1, index: known.index };
            known.index += 1;
            let revision = Revision { epoch: 1, index: known.index };
            let assignment = Assignment { task, revision, want };
            known.set.insert(task, assignment.clone());
            AssignDelta {
                cluster_id: self.cluster_id,
                previous,
                revision,
                changes: vec![assignment],
            }
        };
        let subject = Subject::Node { node: self.node.clone(), verb: NodeVerb::Assign };
        self.bus.publish(&subject, &delta).await.unwrap();
    }

    pub(crate) async fn run(&self, script: &str, mode: RestartMode) -> TaskId {
        self.run_as(script, mode, |_| ()).await
    }

    pub(crate) async fn run_as(
        &self,
        script: &str,
        mode: RestartMode,
        change: impl FnOnce(&mut TaskSpec),
    ) -> TaskId {
        let task = TaskId(Uuid::now_v7());
        let mut spec = TaskSpec::new("main".parse().unwrap(), IMAGE);
        spec.command = ["sh", "-c", script].map(str::to_owned).to_vec();
        spec.pull = PullPolicy::Never;
        spec.stop_grace_ms = 1_000;
        spec.restart = Some(RestartPolicy { delay_ms: 50, ..RestartPolicy::usual(mode) });
        change(&mut spec);
        let run = RunTask {
            namespace: "default".parse().unwrap(),
            job: "web".parse().unwrap(),
            version: 1,
            slot: 0,
            attempt_floor: 0,
            epoch: None,
            node_labels: BTreeMap::new(),
            spec,
        };
        self.assign(task, Want::Run(Box::new(run))).await;
        task
    }

    /// Waits until something is so; on failure says what was known last.
    pub(crate) async fn until<T>(&self, what: &str, find: impl Fn(&Known) -> Option<T>) -> T {
        let start = tokio::time::Instant::now();
        loop {
            {
                let known = self.known.lock().unwrap();
                if let Some(found) = find(&known) {
                    return found;
                }
                let waited = start.elapsed();
                let (reports, beat) = (&known.reports, known.heartbeats.last());
                assert!(
                    waited < DEADLINE,
                    "{what}: not after {waited:?}; reports {reports:#?}, heartbeat {beat:?}"
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn reported(
        &self,
        task: TaskId,
        attempt: u64,
        state: TaskState,
    ) -> TaskReport {
        let found = |report: &&TaskReport| {
            report.task == task && (report.attempt, report.state) == (attempt, state)
        };
        self.until(&format!("{task} {attempt} {state}"), |known| {
            known.reports.iter().find(found).cloned()
        })
        .await
    }

    /// What was reported of a task, in order. A report whose answer was missed comes again, and counts once.
    pub(crate) fn history(&self, task: TaskId) -> Vec<(u64, TaskState)> {
        let known = self.known.lock().unwrap();
        let mut history: Vec<_> = known
            .reports
            .iter()
            .filter(|report| report.task == task)
            .map(|report| (report.attempt, report.state))
            .collect();
        history.dedup();
        history
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

/// A worker that can be ended and started again.
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) data_dir: tempfile::TempDir,
    pub(crate) docker: Docker,
    pub(crate) keeping: Keeping,
    pub(crate) sandboxes: usize,
}

pub(crate) struct Running {
    pub(crate) cancel: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), WorkerError>>,
}

impl Node {
    pub(crate) fn new() -> Self {
        let name: NodeName = format!("test-{}", Uuid::new_v4().simple()).parse().unwrap();
        Self {
            docker: Docker::new(None, name.clone(), 2),
            name,
            data_dir: tempfile::tempdir().unwrap(),
            keeping: Keeping::default(),
            sandboxes: 0,
        }
    }

    pub(crate) fn start(&self, server: &Server, on_shutdown: OnShutdown) -> Running {
        self.start_on(server, on_shutdown, None)
    }

    pub(crate) fn start_on(
        &self,
        server: &Server,
        on_shutdown: OnShutdown,
        socket: Option<&Path>,
    ) -> Running {
        let options = Options {
            bus: server.options(Role::Worker, self.name.as_str()),
            name: self.name.clone(),
            data_dir: self.data_dir.path().to_owned(),
            datacenter: Datacenter::standard(),
            labels: BTreeMap::new(),
            capacity: CapacityOverride::default(),
            tasks_max: 500,
            policy: Policy::default(),
            keeping: self.keeping,
            registry_auth: None,
            sandboxes: self.sandboxes,
            registry_logins: None,
            ports: PORT_RANGE_USUAL,
            on_shutdown,
            docker: socket.map(|socket| socket.display().to_string()),
        };
        let cancel = CancellationToken::new();
        Running { task: tokio::spawn(longshore_worker::run(options, cancel.clone())), cancel }
    }
}

impl Drop for Node {
    /// Clears up, whether the test has passed or not.
    fn drop(&mut self) {
        let name = self.name.clone();
        let clear = async move {
            let Ok(docker) = bollard::Docker::connect_with_defaults() else { return };
            let label = format!("{}={name}", labels::NODE);
            let filters = HashMap::from([("label", vec![label])]);
            let all = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
            for found in docker.list_containers(Some(all)).await.unwrap_or_default() {
                let force = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
                let _ = docker.remove_container(&found.id.unwrap_or_default(), Some(force)).await;
            }
        };
        // A test's own runtime cannot be waited for from within.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cleared = async { tokio::time::timeout(CLEARING_DEADLINE, clear).await };
        // What hangs here must not hide why the test has failed.
        let _ = std::thread::spawn(move || runtime.block_on(cleared)).join();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    /// Ends it without a word, wherever it is, and waits until its store is free.
    pub(crate) async fn kill(mut self, node: &Node) {
        self.task.abort();
        let ended = tokio::time::timeout(DEADLINE, &mut self.task).await;
        assert!(ended.is_ok(), "the worker's task does not end when it is aborted");
        let start = tokio::time::Instant::now();
        while let Err(error) = Store::open(node.data_dir.path(), &node.name, NodeId(Uuid::new_v4()))
        {
            assert!(start.elapsed() < DEADLINE, "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn end(mut self) {
        self.cancel.cancel();
        tokio::time::timeout(DEADLINE, &mut self.task).await.unwrap().unwrap().unwrap();
    }
}
