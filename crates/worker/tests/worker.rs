//! A whole worker: real NATS, real Docker, and a leader played by the test.
//!
//! Needs `nats-server` (in `.tools/bin`, or on `PATH`) and a Docker daemon with the image
//! `longshore-busybox:1`; `scripts/setup` provides all of it.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and the place is told"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use longshore_bus::{Bus, Subscription, Tls};
use longshore_core::agent::labels::Owner;
use longshore_proto::api::Answer;
use longshore_proto::codec;
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::health::{Health, HealthCheck, Probe};
use longshore_proto::id::{ClusterId, NodeId, Revision, SessionId, TaskId};
use longshore_proto::name::{Datacenter, NodeName, Root, UserName};
use longshore_proto::node::{
    AssignDelta, Assignment, Heartbeat, Register, Registered, Reports, ReportsCommitted, RunTask,
    SyncPage, TaskReport, Want, set_digest,
};
use longshore_proto::permission::Role;
use longshore_proto::rpc::{CHUNK_BYTES_MAX, Chunk, ChunkBody, Credit, LogsRequest, WINDOW_CHUNKS};
use longshore_proto::spec::{Port, Protocol, PullPolicy, RestartMode, RestartPolicy, TaskSpec};
use longshore_proto::state::TaskState;
use longshore_proto::subject::{NodeVerb, Pattern, RpcVerb, Subject};
use longshore_worker::policy::Policy;
use longshore_worker::runtime::docker::Docker;
use longshore_worker::runtime::{ExecWish, Runtime};
use longshore_worker::store::Store;
use longshore_worker::{CapacityOverride, OnShutdown, Options, PORT_RANGE_USUAL, WorkerError};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const IMAGE: &str = "longshore-busybox:1";
const DEADLINE: Duration = Duration::from_secs(60);

/// A NATS server for one test.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self::start_at(free.local_addr().unwrap().port())
    }

    fn start_at(port: u16) -> Self {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/nats-server");
        let program = if tool.exists() { tool } else { PathBuf::from("nats-server") };
        let child = Command::new(&program)
            .args(["-a", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start {}: {error}; run scripts/setup", program.display())
            });
        Self { child, port }
    }

    fn options(&self, role: Role, user: &str) -> longshore_bus::Options {
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
struct Known {
    index: u64,
    set: BTreeMap<TaskId, Assignment>,
    registers: Vec<Register>,
    reports: Vec<TaskReport>,
    heartbeats: Vec<Heartbeat>,
    refusal: Option<ApiError>,
}

/// A leader as the worker sees it.
struct Leader {
    bus: Bus,
    known: Arc<Mutex<Known>>,
    node: NodeName,
    cluster_id: ClusterId,
    answering: JoinHandle<()>,
}

impl Leader {
    async fn start(server: &Server, node: NodeName) -> Self {
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
                            .answer(worker, &Answer::new(1, Ok(ReportsCommitted { index: 1 })))
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

    async fn assign(&self, task: TaskId, want: Want) {
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

    async fn run(&self, script: &str, mode: RestartMode) -> TaskId {
        self.run_as(script, mode, |_| ()).await
    }

    async fn run_as(
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
            spec,
        };
        self.assign(task, Want::Run(Box::new(run))).await;
        task
    }

    /// Waits until something is so; on failure says what was known last.
    async fn until<T>(&self, what: &str, find: impl Fn(&Known) -> Option<T>) -> T {
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

    async fn reported(&self, task: TaskId, attempt: u64, state: TaskState) -> TaskReport {
        let found = |report: &&TaskReport| {
            report.task == task && (report.attempt, report.state) == (attempt, state)
        };
        self.until(&format!("{task} {attempt} {state}"), |known| {
            known.reports.iter().find(found).cloned()
        })
        .await
    }

    /// What was reported of a task, in order. A report whose answer was missed comes again, and counts once.
    fn history(&self, task: TaskId) -> Vec<(u64, TaskState)> {
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
struct Node {
    name: NodeName,
    data_dir: tempfile::TempDir,
    docker: Docker,
}

struct Running {
    cancel: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Node {
    fn new() -> Self {
        let name: NodeName = format!("test-{}", Uuid::new_v4().simple()).parse().unwrap();
        Self {
            docker: Docker::new(None, name.clone(), 2),
            name,
            data_dir: tempfile::tempdir().unwrap(),
        }
    }

    fn start(&self, server: &Server, on_shutdown: OnShutdown) -> Running {
        self.start_on(server, on_shutdown, None)
    }

    fn start_on(&self, server: &Server, on_shutdown: OnShutdown, socket: Option<&Path>) -> Running {
        let options = Options {
            bus: server.options(Role::Worker, self.name.as_str()),
            name: self.name.clone(),
            data_dir: self.data_dir.path().to_owned(),
            datacenter: Datacenter::standard(),
            labels: BTreeMap::new(),
            capacity: CapacityOverride::default(),
            tasks_max: 500,
            policy: Policy::default(),
            registry_auth: None,
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
            let docker = Docker::new(None, name, 2);
            for container in docker.list().await.unwrap_or_default() {
                let _ = docker.remove(container.id, 0).await;
            }
        };
        // A test's own runtime cannot be waited for from within.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = std::thread::spawn(move || runtime.block_on(clear)).join();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    /// Ends it without a word, wherever it is, and waits until its store is free.
    async fn kill(mut self, node: &Node) {
        self.task.abort();
        let _ = (&mut self.task).await;
        let start = tokio::time::Instant::now();
        while let Err(error) = Store::open(node.data_dir.path(), &node.name, NodeId(Uuid::new_v4()))
        {
            assert!(start.elapsed() < DEADLINE, "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(mut self) {
        self.cancel.cancel();
        tokio::time::timeout(DEADLINE, &mut self.task).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_is_stopped_and_everything_is_told() {
    let (server, node) = (Server::start(), Node::new());
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start(&server, OnShutdown::Keep);
    let task = leader.run("exec sleep 1000", RestartMode::Always).await;
    let running = leader.reported(task, 1, TaskState::Running).await;
    assert!(running.container_id.is_some());
    let revision = Revision { epoch: 1, index: 2 };
    let digest = set_digest([(&task, revision)]);
    let beat = leader
        .until("a heartbeat with the task", |known| {
            known.heartbeats.iter().find(|beat| beat.tasks_running == 1).cloned()
        })
        .await;
    assert_eq!((beat.revision, beat.digest, beat.runtime_error), (revision, digest, None));
    assert!(beat.capacity.memory_bytes > 0 && beat.used.memory_bytes > 0);
    leader
        .until("Docker's version among the attributes", |known| {
            known
                .registers
                .iter()
                .find(|register| register.attributes.contains_key("docker.version"))
                .map(drop)
        })
        .await;

    leader.assign(task, Want::Stop { reason: "job stopped".into() }).await;
    let stopped = leader.reported(task, 1, TaskState::Stopped).await;
    assert_eq!(stopped.reason.as_deref(), Some("job stopped"));
    leader
        .until("an empty set", |known| {
            known.heartbeats.last().filter(|beat| beat.digest == 0).map(drop)
        })
        .await;
    let wanted =
        [TaskState::Preparing, TaskState::Running, TaskState::Stopping, TaskState::Stopped];
    assert_eq!(leader.history(task), wanted.map(|state| (1, state)));
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_asked_for_its_health_in_every_way() {
    let (server, node) = (Server::start(), Node::new());
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start(&server, OnShutdown::Keep);
    // A server of the task's own: what it answers to `/up` depends on a file.
    let script =
        "mkdir /www; echo up > /www/up; httpd -p 8080 -h /www; touch /tmp/fine; exec sleep 1000";
    let checked = |probe: Probe| {
        let check = HealthCheck {
            interval_ms: 300,
            retries: 2,
            start_period_ms: 20_000,
            ..HealthCheck::usual(probe)
        };
        leader.run_as(script, RestartMode::Always, |spec| {
            spec.health = Some(check);
            spec.ports = vec![Port {
                host: Port::DYNAMIC,
                container: 8080,
                protocol: Protocol::Tcp,
                host_ip: Some("127.0.0.1".parse().unwrap()),
                name: Some("web".into()),
            }];
        })
    };
    let http = checked(Probe::Http { port: "web".into(), path: "/up".into() }).await;
    let tcp = checked(Probe::Tcp { port: "8080".into() }).await;
    let words = ["test", "-e", "/tmp/fine"].map(str::to_owned).to_vec();
    let exec = checked(Probe::Exec { command: words }).await;
    let found = |task: TaskId, attempt: u64, status: Health| {
        let leader = &leader;
        async move {
            let is_it = |report: &&TaskReport| {
                report.task == task
                    && report.attempt == attempt
                    && report.health.is_some_and(|health| health.status == status)
            };
            let what = format!("{task} {attempt} {status:?}");
            leader.until(&what, |known| known.reports.iter().find(is_it).cloned()).await
        }
    };
    let mut containers = Vec::new();
    for task in [http, tcp, exec] {
        containers.push(found(task, 1, Health::Healthy).await.container_id.unwrap());
    }
    // Each is broken in its own way, and started again with a container that is well.
    for (container, command) in
        containers.iter().zip(["rm /www/up", "killall httpd", "rm /tmp/fine"])
    {
        let wish = ExecWish {
            container_id: container.clone(),
            command: ["sh", "-c", command].map(str::to_owned).to_vec(),
            ..ExecWish::default()
        };
        let mut exec = node.docker.exec(wish).await.unwrap();
        while exec.output.next().await.is_some() {}
        assert_eq!(node.docker.exec_result(exec.id).await.unwrap(), Some(0), "{command}");
    }
    for (task, why) in [
        (http, "GET /up: status 404"),
        (tcp, "port 8080: connection refused"),
        (exec, "its check ended with code 1"),
    ] {
        let unhealthy = found(task, 1, Health::Unhealthy).await;
        assert_eq!(unhealthy.reason, Some(format!("unhealthy ({why})")));
        leader.reported(task, 2, TaskState::Preparing).await;
        found(task, 2, Health::Healthy).await;
    }
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_again_adopts_what_runs() {
    let (server, node) = (Server::start(), Node::new());
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start(&server, OnShutdown::Keep);
    let stays = leader.run("exec sleep 1000", RestartMode::Always).await;
    let goes = leader.run("exec sleep 1000", RestartMode::Never).await;
    leader.reported(stays, 1, TaskState::Running).await;
    let gone = leader.reported(goes, 1, TaskState::Running).await.container_id.unwrap();
    worker.end().await;
    let before = node.docker.list().await.unwrap();
    assert_eq!(before.len(), 2);
    // One container ends while nobody looks.
    node.docker.stop(gone, 0).await.unwrap();

    let worker = node.start(&server, OnShutdown::Keep);
    let failed = leader.reported(goes, 1, TaskState::Failed).await;
    assert_eq!(failed.exit_code, Some(137));
    leader
        .until("the boot is new", |known| {
            known
                .heartbeats
                .last()
                .filter(|beat| beat.boot_id == failed.boot_id && beat.tasks_running == 1)
                .map(drop)
        })
        .await;
    assert_eq!(
        node.docker.list().await.unwrap().len(),
        before.len(),
        "nothing was started a second time"
    );
    assert_eq!(leader.history(stays), [(1, TaskState::Preparing), (1, TaskState::Running)]);
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_nats_tasks_go_on_and_reports_are_held() {
    let (server, node) = (Server::start(), Node::new());
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start(&server, OnShutdown::Keep);
    let task = leader.run("exec sleep 1000", RestartMode::Always).await;
    let first = leader.reported(task, 1, TaskState::Running).await.container_id.unwrap();
    worker.end().await;

    let port = server.port;
    drop(server);
    node.docker.stop(first.clone(), 0).await.unwrap();
    // The next run knows nobody, and does what its store says.
    let nowhere = Server { child: Command::new("true").spawn().unwrap(), port };
    let worker = node.start(&nowhere, OnShutdown::Keep);
    let start = tokio::time::Instant::now();
    loop {
        let listed = node.docker.list().await.unwrap();
        let again = listed.iter().any(|container| {
            container.id != first
                && container.state == longshore_core::agent::ContainerState::Running
        });
        if again {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "the task was not started again: {listed:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(leader.history(task), [(1, TaskState::Preparing), (1, TaskState::Running)]);

    let server = Server::start_at(port);
    leader.reported(task, 2, TaskState::Running).await;
    let held = leader.reported(task, 2, TaskState::Preparing).await;
    assert_eq!(held.exit_code, Some(137));
    assert!(
        held.reason.unwrap().starts_with("attempt 1 exited with code 137 (killed); restart in")
    );
    worker.end().await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_stops_its_tasks_and_says_goodbye() {
    let (server, node) = (Server::start(), Node::new());
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start(&server, OnShutdown::Stop);
    let task = leader.run("exec sleep 1000", RestartMode::Always).await;
    leader.reported(task, 1, TaskState::Running).await;
    worker.end().await;
    let stopped = leader.reported(task, 1, TaskState::Stopped).await;
    assert_eq!(stopped.reason.as_deref(), Some("its worker was shut down together with its tasks"));
    leader
        .until("goodbye", |known| known.heartbeats.last().filter(|beat| beat.leaving).map(drop))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_at_any_moment_neither_doubles_nor_loses_a_task() {
    let (server, node) = (Server::start(), Node::new());
    let leader = Leader::start(&server, node.name.clone()).await;
    let mut tasks = Vec::new();
    // Each life is a little longer than the one before, so that each ends at another step of the way.
    for life_ms in (0..12u64).map(|life| 5 + life * 45) {
        let worker = node.start(&server, OnShutdown::Keep);
        tasks.push(leader.run("exec sleep 1000", RestartMode::Always).await);
        tokio::time::sleep(Duration::from_millis(life_ms)).await;
        worker.kill(&node).await;
    }
    let worker = node.start(&server, OnShutdown::Keep);
    for task in &tasks {
        let running =
            |report: &TaskReport| report.task == *task && report.state == TaskState::Running;
        leader
            .until(&format!("{task} runs"), |known| {
                known.reports.iter().find(|r| running(r)).map(drop)
            })
            .await;
    }
    let all = u32::try_from(tasks.len()).unwrap();
    leader
        .until("all run", |known| {
            known.heartbeats.last().filter(|beat| beat.tasks_running == all).map(drop)
        })
        .await;
    let listed = node.docker.list().await.unwrap();
    let owners: BTreeSet<TaskId> = listed
        .iter()
        .filter_map(|container| Owner::read(&container.labels))
        .map(|owner| owner.task)
        .collect();
    assert_eq!(listed.len(), tasks.len(), "one container for each task, and no other: {listed:#?}");
    assert_eq!(owners, tasks.iter().copied().collect());
    for task in &tasks {
        assert_eq!(
            leader.history(*task).last(),
            Some(&(1, TaskState::Running)),
            "nothing was held against it: {:#?}",
            leader
                .known
                .lock()
                .unwrap()
                .reports
                .iter()
                .filter(|r| r.task == *task)
                .collect::<Vec<_>>()
        );
    }
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_docker_is_away_nothing_is_judged_and_then_everything_is_seen() {
    let (server, node) = (Server::start(), Node::new());
    let leader = Leader::start(&server, node.name.clone()).await;
    let socket = node.data_dir.path().join("docker.sock");
    // Not there yet when the worker starts.
    let worker = node.start_on(&server, OnShutdown::Keep, Some(&socket));
    leader
        .until("Docker is missed", |known| {
            known
                .heartbeats
                .iter()
                .find_map(|beat| beat.runtime_error.clone())
                .filter(|e| e.contains("docker.sock"))
        })
        .await;
    let proxy = Proxy::start(&socket);
    let task = leader.run("exec sleep 1000", RestartMode::Always).await;
    let first = leader.reported(task, 1, TaskState::Running).await.container_id.unwrap();

    proxy.stop();
    let missed = leader.known.lock().unwrap().heartbeats.len();
    leader
        .until("Docker is missed again", |known| {
            known
                .heartbeats
                .iter()
                .skip(missed)
                .find(|beat| beat.runtime_error.is_some() && beat.tasks_running == 1)
                .map(drop)
        })
        .await;
    node.docker.stop(first, 0).await.unwrap();
    let other = leader.run("exec sleep 1000", RestartMode::Always).await;
    let revision = Revision { epoch: 1, index: leader.known.lock().unwrap().index };
    leader
        .until("the assignment is taken note of", |known| {
            known.heartbeats.last().filter(|b| b.revision == revision).map(drop)
        })
        .await;
    assert_eq!(leader.history(task), [(1, TaskState::Preparing), (1, TaskState::Running)]);
    let waits = leader.reported(other, 1, TaskState::Preparing).await.reason.unwrap();
    assert!(
        waits.starts_with("waiting for the container runtime: Docker does not answer"),
        "{waits}"
    );
    assert_eq!(leader.history(other), [(1, TaskState::Preparing)]);

    let _proxy = Proxy::start(&socket);
    leader.reported(task, 2, TaskState::Running).await;
    leader.reported(other, 1, TaskState::Running).await;
    leader
        .until("all is well", |known| {
            known
                .heartbeats
                .last()
                .filter(|beat| beat.runtime_error.is_none() && beat.tasks_running == 2)
                .map(drop)
        })
        .await;
    worker.end().await;
}

/// Stands between a worker and Docker, so that Docker can go away for one worker only.
struct Proxy {
    socket: PathBuf,
    accepting: JoinHandle<()>,
}

impl Proxy {
    fn start(socket: &Path) -> Self {
        let host = std::env::var("DOCKER_HOST")
            .unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
        let docker = PathBuf::from(host.trim_start_matches("unix://"));
        let listener = UnixListener::bind(socket).unwrap();
        let accepting = tokio::spawn(async move {
            // Dropped with this task, and with it every connection.
            let mut connections = JoinSet::new();
            while let Ok((mut worker, _)) = listener.accept().await {
                let docker = docker.clone();
                connections.spawn(async move {
                    let mut docker = UnixStream::connect(docker).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut worker, &mut docker).await;
                });
            }
        });
        Self { socket: socket.to_owned(), accepting }
    }

    fn stop(self) {
        std::fs::remove_file(&self.socket).unwrap();
        self.accepting.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_apart() {
    let (server, node) = (Server::start(), Node::new());
    let leader = Leader::start(&server, node.name.clone()).await;
    let taken = ApiError::new(ErrorCode::NameTaken, "another node has this name");
    leader.known.lock().unwrap().refusal = Some(taken);
    let worker = node.start(&server, OnShutdown::Keep);
    leader.until("two tries", |known| (known.registers.len() >= 2).then_some(())).await;
    leader.known.lock().unwrap().refusal = None;
    leader.until("it got in", |known| (!known.heartbeats.is_empty()).then_some(())).await;
    worker.end().await;

    let other = ApiError::new(ErrorCode::WrongCluster, "this node belongs to another cluster");
    leader.known.lock().unwrap().refusal = Some(other);
    let mut worker = node.start(&server, OnShutdown::Keep);
    let error =
        tokio::time::timeout(DEADLINE, &mut worker.task).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, WorkerError::WrongCluster { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_stream_with_credit_across_attempts() {
    let (server, node) = (Server::start(), Node::new());
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start(&server, OnShutdown::Keep);
    let script = "echo attempt $LONGSHORE_ATTEMPT; [ $LONGSHORE_ATTEMPT = 2 ]";
    let task = leader.run(script, RestartMode::OnFailure).await;
    leader.reported(task, 1, TaskState::Running).await;
    let (chunks, end) = read_logs(&server, &node.name, task, true).await;
    assert!(chunks.ends_with("attempt 2\n"), "{chunks:?}");
    assert_eq!(end, ChunkBody::End);
    leader.reported(task, 2, TaskState::Completed).await;
    let (chunks, _) = read_logs(&server, &node.name, task, false).await;
    assert_eq!(chunks, "attempt 2\n", "the newest ended container is kept");

    let (_, end) = read_logs(&server, &node.name, TaskId(Uuid::now_v7()), false).await;
    assert!(
        matches!(&end, ChunkBody::Failed(error) if error.code == ErrorCode::NotFound),
        "{end:?}"
    );

    let loud = leader
        .run(
            "i=0; while [ $i -lt 20000 ]; do echo line $i of many; i=$((i+1)); done",
            RestartMode::Never,
        )
        .await;
    leader.reported(loud, 1, TaskState::Completed).await;
    let (chunks, _) = read_logs(&server, &node.name, loud, false).await;
    assert_eq!(chunks.lines().count(), 20_000);
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_does_not_credit_gets_one_window() {
    let (server, node) = (Server::start(), Node::new());
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start(&server, OnShutdown::Keep);
    let bytes = 3_000_000;
    // Lines long enough for full chunks.
    let script = format!("yes $(head -c 1000 /dev/zero | tr '\\0' x) | head -c {bytes}");
    let task = leader.run(&script, RestartMode::Never).await;
    leader.reported(task, 1, TaskState::Completed).await;
    let (bus, mut out, session) = ask_logs(&server, &node.name, task, false).await;
    let (mut taken, mut sequence) = (0, 0);
    loop {
        // Long enough for a worker that would go on; one that waits sends nothing however long it is.
        let wait = if sequence < WINDOW_CHUNKS { DEADLINE } else { Duration::from_millis(300) };
        let Ok(incoming) = tokio::time::timeout(wait, out.next()).await else { break };
        let chunk: Chunk = codec::decode(&incoming.unwrap().payload).unwrap();
        sequence = chunk.sequence;
        let ChunkBody::Stdout(piece) = chunk.body else { panic!("{:?}", chunk.body) };
        assert!(piece.len() <= CHUNK_BYTES_MAX);
        taken += piece.len();
    }
    assert_eq!(sequence, WINDOW_CHUNKS);
    while taken < bytes {
        let credit = Credit { session, sequence, end: false };
        let subject = Subject::Rpc { node: node.name.clone(), verb: RpcVerb::Credit };
        bus.publish(&subject, &credit).await.unwrap();
        let incoming = tokio::time::timeout(DEADLINE, out.next()).await.unwrap().unwrap();
        let chunk: Chunk = codec::decode(&incoming.payload).unwrap();
        sequence = chunk.sequence;
        let ChunkBody::Stdout(piece) = chunk.body else { panic!("{:?}", chunk.body) };
        taken += piece.len();
    }
    assert_eq!(taken, bytes);
    worker.end().await;
}

/// Asks for a stream as an operator does.
async fn ask_logs(
    server: &Server,
    node: &NodeName,
    task: TaskId,
    follow: bool,
) -> (Bus, Subscription, SessionId) {
    let bus = Bus::connect(server.options(Role::Operator, "alice")).await.unwrap();
    let user: UserName = "alice".parse().unwrap();
    let session = SessionId(Uuid::new_v4());
    let out =
        bus.subscribe(&Pattern::OutSession(node.clone(), user.clone(), session)).await.unwrap();
    let request =
        LogsRequest { user, session, task, follow, tail: None, since_ms: None, timestamps: false };
    bus.publish(&Subject::Rpc { node: node.clone(), verb: RpcVerb::Logs }, &request).await.unwrap();
    (bus, out, session)
}

/// Reads a stream as an operator does.
async fn read_logs(
    server: &Server,
    node: &NodeName,
    task: TaskId,
    follow: bool,
) -> (String, ChunkBody) {
    let (bus, mut out, session) = ask_logs(server, node, task, follow).await;
    let (mut text, mut wanted) = (String::new(), 1);
    loop {
        let incoming = tokio::time::timeout(DEADLINE, out.next()).await.unwrap().unwrap();
        let chunk: Chunk = codec::decode(&incoming.payload).unwrap();
        assert_eq!(chunk.sequence, wanted, "no gap");
        wanted += 1;
        match chunk.body {
            ChunkBody::Stdout(bytes) | ChunkBody::Stderr(bytes) => {
                text.push_str(&String::from_utf8(bytes).unwrap())
            }
            end => return (text, end),
        }
        let credit = Credit { session, sequence: chunk.sequence, end: false };
        bus.publish(&Subject::Rpc { node: node.clone(), verb: RpcVerb::Credit }, &credit)
            .await
            .unwrap();
    }
}
