//! Docker restarted, killed, suspended and with a full disk; and the worker's own disk full. For that a daemon is started
//! that belongs to the test alone, with its data in memory. It needs root and `dockerd`; where there is none, the tests
//! say so and pass.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bollard::query_parameters::{ImportImageOptions, RemoveContainerOptionsBuilder};
use futures_util::StreamExt;
use longshore_core::agent::ContainerState;
use longshore_proto::container::Network;
use longshore_proto::id::TaskId;
use longshore_proto::spec::RestartMode;
use longshore_proto::state::TaskState;
use longshore_worker::runtime::Runtime;
use longshore_worker::runtime::docker::Docker;
use longshore_worker::{OnShutdown, WorkerError};

use crate::leader::{DEADLINE, IMAGE, Leader, Node, Server};

/// A folder in memory, which goes with the test.
pub(crate) struct Memory {
    folder: tempfile::TempDir,
}

impl Memory {
    /// `None` for who may not mount.
    pub(crate) fn mount(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self { folder })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all the room that is left.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut filler = std::fs::File::create(&path).unwrap();
        // Ever smaller pieces, to the last page.
        for size in [1 << 20, 4 << 10] {
            while filler.write_all(&vec![7; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// A Docker daemon of the test's own.
struct Daemon {
    memory: Memory,
    live_restore: bool,
    child: Option<Child>,
}

impl Daemon {
    /// `None`, with a word, where that cannot be.
    async fn start(live_restore: bool) -> Option<Self> {
        let is_there = Command::new("unshare")
            .args(["--net", "dockerd", "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        let memory = is_there.then(|| Memory::mount(200)).flatten();
        let Some(memory) = memory else {
            say("no daemon of one's own on this machine (it needs dockerd, and root): not tried");
            return None;
        };
        let mut daemon = Self { memory, live_restore, child: None };
        daemon.begin().await;
        lend_image(&daemon.client()).await;
        Some(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.memory.path().join("docker.sock")
    }

    fn client(&self) -> bollard::Docker {
        let socket = format!("unix://{}", self.socket().display());
        bollard::Docker::connect_with_host(&socket).unwrap()
    }

    async fn begin(&mut self) {
        let folder = self.memory.path();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        // In a network of its own: without a bridge it would remove the one of this machine's Docker.
        let mut command = Command::new("unshare");
        command
            .args(["--net", "dockerd", "--data-root"])
            .arg(folder.join("data"))
            .arg("--exec-root")
            .arg(folder.join("exec"))
            .arg("--pidfile")
            .arg(folder.join("pid"))
            .arg(format!("--host=unix://{}", self.socket().display()))
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
            .stdout(Stdio::null())
            .stderr(log);
        if self.live_restore {
            command.arg("--live-restore");
        }
        // What a daemon leaves that was killed: the numbers of processes that are no more, or are somebody else's.
        for left in ["pid", "exec/containerd/containerd.pid"] {
            let _ = std::fs::remove_file(folder.join(left));
        }
        self.child = Some(command.spawn().unwrap());
        let start = std::time::Instant::now();
        while !self.socket().exists() || self.client().ping().await.is_err() {
            let log = || std::fs::read_to_string(self.memory.path().join("log")).unwrap();
            assert!(start.elapsed() < DEADLINE, "{}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Ends it, with its word or without.
    fn end(&mut self, signal: &str) {
        self.signal(signal);
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
    }
}

impl Drop for Daemon {
    /// Clears up, whether the test has passed or not: a test's own runtime cannot be waited for in a `drop`.
    fn drop(&mut self) {
        if self.child.is_none() {
            return;
        }
        self.signal("-CONT");
        let client = self.client();
        let clear = async move {
            let all = bollard::query_parameters::ListContainersOptionsBuilder::default().all(true);
            let options = || Some(RemoveContainerOptionsBuilder::default().force(true).build());
            for container in client.list_containers(Some(all.build())).await.unwrap_or_default() {
                let _ = client.remove_container(&container.id.unwrap_or_default(), options()).await;
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = std::thread::spawn(move || runtime.block_on(clear)).join();
        self.end("-TERM");
    }
}

/// Gives a daemon the image that Docker of this machine has.
pub(crate) async fn lend_image(to: &bollard::Docker) {
    let ours = bollard::Docker::connect_with_defaults().unwrap();
    let mut image = ours.export_image(IMAGE);
    let mut bytes = Vec::new();
    while let Some(piece) = image.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    let body = bollard::body_full(bytes.into());
    let mut load = to.import_image(ImportImageOptions::default(), body, None);
    while let Some(step) = load.next().await {
        step.unwrap();
    }
}

#[expect(clippy::print_stderr, reason = "why a test did nothing is for whoever reads its output")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// A task without a network: the daemon has none.
pub(crate) async fn run(leader: &Leader, mode: RestartMode) -> TaskId {
    let change = |spec: &mut longshore_proto::spec::TaskSpec| {
        spec.container.network = Network::None;
        if let Some(restart) = &mut spec.restart {
            restart.attempts = 100;
            restart.delay_ms_max = 500;
        }
    };
    leader.run_as("exec sleep 1000", mode, change).await
}

/// Waits until Docker answers the worker, or does not, with so many tasks running.
pub(crate) async fn runtime_is(leader: &Leader, error: Option<&str>, running: u32) {
    let what = format!("Docker's state {error:?}");
    leader
        .until(&what, |known| {
            let beat = known.heartbeats.last()?;
            let is_so = match (error, &beat.runtime_error) {
                (None, None) => true,
                (Some(part), Some(text)) => text.contains(part),
                _ => false,
            };
            (is_so && beat.tasks_running == running).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_may_hang_and_with_live_restore_be_restarted_and_killed_under_tasks() {
    let Some(mut daemon) = Daemon::start(true).await else { return };
    let (server, node) = (Server::start(), Node::new());
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start_on(&server, OnShutdown::Keep, Some(&daemon.socket()));
    let task = run(&leader, RestartMode::Always).await;
    let container = leader.reported(task, 1, TaskState::Running).await.container_id.unwrap();

    daemon.signal("-STOP");
    runtime_is(&leader, Some("is the daemon hung?"), 1).await;
    daemon.signal("-CONT");
    runtime_is(&leader, None, 1).await;

    for signal in ["-TERM", "-KILL"] {
        daemon.end(signal);
        runtime_is(&leader, Some("does not answer"), 1).await;
        daemon.begin().await;
        runtime_is(&leader, None, 1).await;
    }
    assert_eq!(leader.history(task), [(1, TaskState::Preparing), (1, TaskState::Running)]);
    let listed = Docker::new(Some(daemon.socket().display().to_string()), node.name.clone(), 2);
    let listed = listed.list().await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&listed[0].id, listed[0].state), (&container, ContainerState::Running));
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_live_restore_what_docker_took_down_is_judged_by_its_policy_and_never_doubled() {
    let Some(mut daemon) = Daemon::start(false).await else { return };
    let (server, node) = (Server::start(), Node::new());
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start_on(&server, OnShutdown::Keep, Some(&daemon.socket()));
    let service = run(&leader, RestartMode::Always).await;
    leader.reported(service, 1, TaskState::Running).await;
    let once = run(&leader, RestartMode::Never).await;
    leader.reported(once, 1, TaskState::Running).await;
    for (signal, attempt) in [("-TERM", 2), ("-KILL", 3)] {
        daemon.end(signal);
        daemon.begin().await;
        leader.reported(service, attempt, TaskState::Running).await;
        runtime_is(&leader, None, 1).await;
        let docker = Docker::new(Some(daemon.socket().display().to_string()), node.name.clone(), 2);
        let listed = docker.list().await.unwrap();
        let running =
            listed.iter().filter(|container| container.state == ContainerState::Running).count();
        assert_eq!(running, 1, "{listed:?}");
    }
    let failed = leader.reported(once, 1, TaskState::Failed).await;
    assert!(
        failed.reason.as_ref().is_some_and(|why| why.contains("exited with code")),
        "{failed:?}"
    );
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_dockers_is_the_reason_that_is_told_until_there_is_room() {
    let Some(daemon) = Daemon::start(false).await else { return };
    let (server, node) = (Server::start(), Node::new());
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start_on(&server, OnShutdown::Keep, Some(&daemon.socket()));
    runtime_is(&leader, None, 0).await;
    let filler = daemon.memory.fill();
    let task = run(&leader, RestartMode::Always).await;
    leader
        .until("the reason", |known| {
            let full = "the disk that Docker uses on this node is full";
            let is_it = |why: &String| why.contains(full);
            let mut reports = known.reports.iter().filter(|report| report.task == task);
            reports.find(|report| report.reason.as_ref().is_some_and(is_it)).map(drop)
        })
        .await;
    std::fs::remove_file(filler).unwrap();
    runtime_is(&leader, None, 1).await;
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_own_disk_is_full_ends_in_words_and_takes_everything_on_when_there_is_room()
{
    let Some(memory) = Memory::mount(200) else {
        say("no disk of one's own on this machine (it needs root): not tried");
        return;
    };
    let (server, mut node) = (Server::start(), Node::new());
    node.data_dir = tempfile::tempdir_in(memory.path()).unwrap();
    let leader = Leader::start(&server, node.name.clone()).await;
    let mut worker = node.start(&server, OnShutdown::Keep);
    let first = leader.run("exec sleep 1000", RestartMode::Always).await;
    let container = leader.reported(first, 1, TaskState::Running).await.container_id;
    let filler = memory.fill();
    let mut later = Vec::new();
    let ended = loop {
        // The store has some room of its own.
        later.push(leader.run("exec sleep 1000", RestartMode::Always).await);
        let wait = Duration::from_millis(200);
        if let Ok(ended) = tokio::time::timeout(wait, &mut worker.task).await {
            break ended.unwrap();
        }
        assert!(later.len() < 50, "it goes on without a disk");
    };
    let Err(error @ WorkerError::Store(_)) = ended else { panic!("{ended:?}") };
    assert!(error.to_string().contains("full"), "{error}");
    let listed = node.docker.list().await.unwrap();
    let runs = |id: &Option<String>| {
        let mut all = listed.iter();
        all.any(|found| Some(&found.id) == id.as_ref() && found.state == ContainerState::Running)
    };
    assert!(runs(&container), "{listed:?}");
    // Still full: the next start says so before it joins.
    let mut worker = node.start(&server, OnShutdown::Keep);
    let ended = tokio::time::timeout(Duration::from_secs(5), &mut worker.task).await;
    let Err(error @ WorkerError::Store(_)) = ended.unwrap().unwrap() else { panic!("it joins") };
    assert!(error.to_string().contains("free, and the worker's store needs"), "{error}");
    drop(worker);
    std::fs::remove_file(filler).unwrap();
    let worker = node.start(&server, OnShutdown::Keep);
    for task in &later {
        leader
            .until(&format!("{task} runs"), |known| {
                let is_it = |report: &&longshore_proto::node::TaskReport| {
                    report.task == *task && report.state == TaskState::Running
                };
                known.reports.iter().find(is_it).map(drop)
            })
            .await;
    }
    assert_eq!(leader.history(first), [(1, TaskState::Preparing), (1, TaskState::Running)]);
    worker.end().await;
}
