//! The runtime seam against a real Docker: every verb, and the failures that it must tell apart.
//!
//! Needs a Docker daemon with the image `longshore-busybox:1`; `scripts/setup` provides both. Each test has a
//! node name of its own, so that tests do not see each other's containers, and clears up what it made.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and the place is told"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::query_parameters::RemoveVolumeOptions;
use futures_util::StreamExt;
use longshore_core::agent::labels::Owner;
use longshore_core::agent::{
    ContainerChange, ContainerEnd, ContainerState, ImageWish, StartContainer,
};
use longshore_proto::id::{ClusterId, Revision, TaskId};
use longshore_proto::name::NodeName;
use longshore_proto::node::RunTask;
use longshore_proto::spec::{Mount, MountSource, Port, Protocol, PullPolicy, TaskSpec};
use longshore_worker::policy::Policy;
use longshore_worker::runtime::docker::Docker;
use longshore_worker::runtime::{LogsWish, Runtime, RuntimeError};
use uuid::Uuid;

const IMAGE: &str = "longshore-busybox:1";
/// Longer than any healthy daemon takes for one step, even under load.
const DEADLINE: Duration = Duration::from_secs(60);

struct Bench {
    docker: Docker,
    node: NodeName,
    cluster_id: ClusterId,
}

impl Bench {
    fn new() -> Self {
        Self::allowing(Policy::default())
    }

    /// With what tasks may do beyond a hardened container.
    fn allowing(policy: Policy) -> Self {
        let node: NodeName = format!("test-{}", Uuid::new_v4().simple()).parse().unwrap();
        let docker = Docker::new(None, node.clone(), longshore_worker::probe::cores())
            .with_policy(policy)
            .with_variables([("node.label.rack".to_owned(), "r1".to_owned())]);
        Self { docker, node, cluster_id: ClusterId(Uuid::new_v4()) }
    }

    fn start(&self, script: &str) -> StartContainer {
        let mut spec = TaskSpec::new("main".parse().unwrap(), IMAGE);
        spec.command = ["sh", "-c", script].map(str::to_owned).to_vec();
        spec.env = BTreeMap::from([("COLOUR".to_owned(), "blue".to_owned())]);
        spec.pull = PullPolicy::Never;
        let run = RunTask {
            namespace: "default".parse().unwrap(),
            job: "web".parse().unwrap(),
            version: 1,
            slot: 3,
            attempt_floor: 0,
            epoch: None,
            node_labels: BTreeMap::new(),
            spec,
        };
        self.start_of(run, 1)
    }

    fn start_of(&self, run: RunTask, attempt: u64) -> StartContainer {
        let task = TaskId(Uuid::now_v7());
        let owner = Owner { cluster_id: self.cluster_id, node: self.node.clone(), task, attempt };
        StartContainer {
            task,
            attempt,
            name: owner.container_name(),
            labels: owner.labels(Revision { epoch: 1, index: 2 }, &run),
            run,
        }
    }

    async fn state(&self, container_id: &str) -> Option<ContainerState> {
        let listed = self.docker.list().await.unwrap();
        listed
            .into_iter()
            .find(|container| container.id == container_id)
            .map(|container| container.state)
    }

    async fn ended(&self, container_id: &str) -> ContainerEnd {
        eventually(|| async {
            match self.state(container_id).await {
                Some(ContainerState::Ended(end)) => Ok(end),
                other => Err(other),
            }
        })
        .await
    }
}

impl Drop for Bench {
    /// Clears up, whether the test has passed or not.
    fn drop(&mut self) {
        let node = self.node.clone();
        finally(async move {
            let docker = Docker::new(None, node, 2);
            for container in docker.list().await.unwrap_or_default() {
                let _ = docker.remove(container.id, 0).await;
            }
        });
    }
}

/// Clears up from within a `drop`: a test's own runtime cannot be waited for there.
fn finally(clear: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _ = std::thread::spawn(move || runtime.block_on(clear)).join();
}

/// Waits for a state; on failure says what was seen last.
async fn eventually<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(
    look: impl Fn() -> F,
) -> T {
    let start = tokio::time::Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if start.elapsed() > DEADLINE => panic!("after {DEADLINE:?} still {seen:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn refusal<T: std::fmt::Debug>(result: Result<T, RuntimeError>) -> String {
    match result {
        Err(RuntimeError::Refused(reason)) => reason,
        other => panic!("a refusal was expected: {other:?}"),
    }
}

#[tokio::test]
async fn the_daemon_says_who_it_is() {
    let info = Bench::new().docker.version().await.unwrap();
    assert!(!info.version.is_empty());
    assert!(info.root.is_some());
}

#[tokio::test]
async fn a_container_lives_its_life() {
    let bench = Bench::new();
    let mut events = bench.docker.events(now_s());
    let start = bench.start("exec sleep 1000");
    let started = bench.docker.start(start.clone()).await.unwrap();
    assert_eq!(started.ended, None);
    let id = started.container_id;

    let listed = bench.docker.list().await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((listed[0].id.clone(), listed[0].state), (id.clone(), ContainerState::Running));
    assert_eq!(Owner::read(&listed[0].labels), Owner::read(&start.labels));

    let end = bench.docker.stop(id.clone(), 1_000).await.unwrap();
    assert!(matches!(end.exit_code, Some(137 | 143)), "{end:?}");
    assert_eq!(
        bench.docker.stop(id.clone(), 1_000).await.unwrap(),
        end,
        "stopping twice is stopping once"
    );
    assert_eq!(bench.state(&id).await, Some(ContainerState::Ended(end)));

    bench.docker.remove(id.clone(), 0).await.unwrap();
    bench.docker.remove(id.clone(), 0).await.unwrap();
    assert_eq!(bench.docker.list().await.unwrap(), vec![]);
    assert_eq!(bench.docker.stop(id.clone(), 1_000).await.unwrap(), ContainerEnd::default());

    let mut seen = Vec::new();
    while seen.last() != Some(&ContainerChange::Destroyed) {
        let event = tokio::time::timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(event.container_id, id);
        assert_eq!(Owner::read(&event.labels), Owner::read(&start.labels));
        seen.push(event.change);
    }
    assert_eq!(
        seen,
        [ContainerChange::Started, ContainerChange::Died(end), ContainerChange::Destroyed]
    );
}

#[tokio::test]
async fn events_of_a_moment_ago_are_seen_again() {
    let bench = Bench::new();
    let since = now_s();
    let started = bench.docker.start(bench.start("exit 7")).await.unwrap();
    bench.ended(&started.container_id).await;
    let mut events = bench.docker.events(since);
    let died = loop {
        let event = tokio::time::timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
        if let ContainerChange::Died(end) = event.change {
            break end;
        }
    };
    assert_eq!(died, ContainerEnd::exited(7));
}

#[tokio::test]
async fn what_it_is_made_from_reaches_the_container() {
    let bench = Bench::new();
    let script = "echo $COLOUR $LONGSHORE_SLOT $LONGSHORE_ATTEMPT $LONGSHORE_JOB; echo oops >&2; \
                  cat /proc/self/status | grep -E 'NoNewPrivs|CapBnd'";
    let start = bench.start(script);
    let id = bench.docker.start(start).await.unwrap().container_id;
    assert_eq!(bench.ended(&id).await.exit_code, Some(0));

    let wish = LogsWish {
        container_id: id.clone(),
        follow: false,
        tail: None,
        since_ms: None,
        timestamps: false,
    };
    let (mut out, mut err) = (String::new(), String::new());
    for chunk in bench.docker.logs(wish.clone()).collect::<Vec<_>>().await {
        let chunk = chunk.unwrap();
        let text = String::from_utf8_lossy(&chunk.bytes).into_owned();
        if chunk.is_error { err.push_str(&text) } else { out.push_str(&text) }
    }
    assert_eq!(err, "oops\n");
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], "blue 3 1 web");
    // Neither NET_RAW (bit 13) nor MKNOD (bit 27), and nothing beyond the list.
    assert!(out.contains("CapBnd:\t00000000a00405fb"), "{out}");
    assert!(out.contains("NoNewPrivs:\t1"), "{out}");

    let later = LogsWish { since_ms: Some((now_s() + 3_600) * 1_000), ..wish.clone() };
    assert_eq!(bench.docker.logs(later).collect::<Vec<_>>().await.len(), 0);
    let before = LogsWish { since_ms: Some((now_s() - 3_600) * 1_000), ..wish.clone() };
    assert_ne!(bench.docker.logs(before).collect::<Vec<_>>().await.len(), 0);

    let tail = LogsWish { tail: Some(1), timestamps: true, ..wish };
    let chunks: Vec<_> = bench.docker.logs(tail).collect().await;
    let text = String::from_utf8_lossy(&chunks[0].as_ref().unwrap().bytes).into_owned();
    assert_eq!(chunks.len(), 1);
    assert!(text.starts_with("20") && text.contains('T'), "{text}");
}

#[tokio::test]
async fn logs_are_followed_to_the_end() {
    let bench = Bench::new();
    let id =
        bench.docker.start(bench.start("echo one; sleep 1; echo two")).await.unwrap().container_id;
    let wish =
        LogsWish { container_id: id, follow: true, tail: None, since_ms: None, timestamps: false };
    let all: Vec<_> =
        tokio::time::timeout(DEADLINE, bench.docker.logs(wish).collect()).await.unwrap();
    let text: String = all
        .iter()
        .map(|chunk| String::from_utf8_lossy(&chunk.as_ref().unwrap().bytes).into_owned())
        .collect();
    assert_eq!(text, "one\ntwo\n");
}

#[tokio::test]
async fn a_container_of_the_same_attempt_is_adopted_not_doubled() {
    let bench = Bench::new();
    let start = bench.start("exec sleep 1000");
    let first = bench.docker.start(start.clone()).await.unwrap();
    let second = bench.docker.start(start).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(bench.docker.list().await.unwrap().len(), 1);

    let start = bench.start("exit 4");
    let id = bench.docker.start(start.clone()).await.unwrap().container_id;
    bench.ended(&id).await;
    let again = bench.docker.start(start).await.unwrap();
    assert_eq!(again.ended, Some(ContainerEnd::exited(4)), "and never run twice");
}

#[tokio::test]
async fn a_strangers_container_is_not_taken_over() {
    let (ours, theirs) = (Bench::new(), Bench::new());
    let start = ours.start("exec sleep 1000");
    let mut stranger = theirs.start("exec sleep 1000");
    stranger.name = start.name.clone();
    let id = theirs.docker.start(stranger).await.unwrap().container_id;
    let reason = refusal(ours.docker.start(start.clone()).await);
    assert!(reason.contains("a container that is not ours has the name"), "{reason}");
    // What is cleared away after a start that failed is looked for by its name.
    ours.docker.remove(start.name, 0).await.unwrap();
    assert_eq!(theirs.state(&id).await, Some(ContainerState::Running));
    assert_eq!(ours.docker.list().await.unwrap(), vec![]);
}

#[tokio::test]
async fn images_are_found_or_refused_in_words() {
    let bench = Bench::new();
    let wish = |image: &str| ImageWish { image: image.to_owned(), platform: None, login: None };
    let found = bench.docker.find_image(wish(IMAGE)).await.unwrap();
    assert!(found.is_some_and(|id| id.starts_with("sha256:")));
    let missing = "longshore-no-such-image:1".to_owned();
    assert_eq!(bench.docker.find_image(wish(&missing)).await.unwrap(), None);
    // Whether or not there is a registry in reach, the image is named.
    let unreachable = "localhost:9/longshore-no-such-image:1";
    let reason = refusal(bench.docker.fetch_image(wish(unreachable)).await);
    assert!(reason.contains("longshore-no-such-image:1"), "{reason}");
    assert!(reason.contains("cannot be reached"), "{reason}");

    let mut start = bench.start("exit 0");
    start.run.spec.image = missing;
    let reason = refusal(bench.docker.start(start).await);
    assert!(reason.contains("is not on this node"), "{reason}");
}

#[tokio::test]
async fn a_taken_port_is_named_and_a_free_one_is_published() {
    let bench = Bench::new();
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut start = bench.start("exec sleep 1000");
    start.run.spec.ports = vec![Port {
        host: port,
        container: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
        name: None,
    }];
    let reason = refusal(bench.docker.start(start.clone()).await);
    assert_eq!(
        reason,
        format!("port {port}/tcp is taken on this node by another container or program")
    );
    drop(taken);
    bench.docker.remove(start.name.clone(), 0).await.unwrap();
    let id = bench.docker.start(start).await.unwrap().container_id;
    assert_eq!(bench.state(&id).await, Some(ContainerState::Running));
}

/// A volume that goes with the test.
struct Volume(String);

impl Drop for Volume {
    fn drop(&mut self) {
        let name = self.0.clone();
        finally(async move {
            let Ok(docker) = bollard::Docker::connect_with_defaults() else { return };
            let _ = docker.remove_volume(&name, None::<RemoveVolumeOptions>).await;
        });
    }
}

fn mount(target: &str, source: MountSource, read_only: bool) -> Mount {
    Mount { target: target.to_owned(), source, read_only }
}

#[tokio::test]
async fn what_a_task_mounts_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap().to_str().unwrap().to_owned();
    std::fs::write(folder.path().join("word"), "lent").unwrap();
    // For a daemon whose root is somebody else here.
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), everybody).unwrap();
    let volume = Volume(format!("longshore-test-{}", Uuid::new_v4().simple()));
    let bench = Bench::allowing(Policy { mount_paths: vec![root.clone()], ..Policy::default() });
    let bind = || MountSource::Bind { path: root.clone() };
    let named = || MountSource::Volume { name: volume.0.clone() };
    let mut start = bench.start(
        "grep -q lent /lent/word && ! touch /lent/no 2>/dev/null && touch /ours/yes && echo kept > /cache/word && \
         df -k /scratch | grep -q '  1024  ' && touch /scratch/yes",
    );
    start.run.spec.mounts = vec![
        mount("/lent", bind(), true),
        mount("/ours", bind(), false),
        mount("/cache", named(), false),
        mount("/scratch", MountSource::Tmpfs { size_bytes: Some(1 << 20) }, false),
    ];
    let id = bench.docker.start(start).await.unwrap().container_id;
    assert_eq!(bench.ended(&id).await.exit_code, Some(0));
    assert!(folder.path().join("yes").exists());

    // The volume outlives its task.
    bench.docker.remove(id, 0).await.unwrap();
    let mut again = bench.start("grep -q kept /cache/word");
    again.run.spec.mounts = vec![mount("/cache", named(), true)];
    let id = bench.docker.start(again).await.unwrap().container_id;
    assert_eq!(bench.ended(&id).await.exit_code, Some(0));
    bench.docker.remove(id, 0).await.unwrap();
}

#[tokio::test]
async fn a_path_that_is_not_lent_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap().to_str().unwrap().to_owned();
    std::os::unix::fs::symlink("/etc", folder.path().join("way-out")).unwrap();
    let bench = Bench::allowing(Policy { mount_paths: vec![root.clone()], ..Policy::default() });
    for (path, problem) in [
        ("/etc".to_owned(), format!("this node lends only what is below {root}")),
        (format!("{root}/way-out"), "which is a link, is refused".to_owned()),
        (format!("{root}/none"), "there is no such file or folder on this node".to_owned()),
    ] {
        let mut start = bench.start("exit 0");
        start.run.spec.mounts = vec![mount("/x", MountSource::Bind { path }, false)];
        let reason = refusal(bench.docker.start(start).await);
        assert!(reason.contains(&problem), "{reason}");
    }
    let stingy = Bench::new();
    let mut start = stingy.start("exit 0");
    start.run.spec.mounts = vec![mount("/x", MountSource::Bind { path: root }, false)];
    let Err(RuntimeError::Forbidden(reason)) = stingy.docker.start(start).await else {
        panic!("no restart can help");
    };
    assert!(reason.contains("start its worker with --allow-mount"), "{reason}");
    assert_eq!(bench.docker.list().await.unwrap(), vec![], "nothing was made");
}

#[tokio::test]
async fn a_command_that_is_not_there_is_told() {
    let bench = Bench::new();
    let mut start = bench.start("");
    start.run.spec.command = vec!["/no/such/program".to_owned()];
    let reason = refusal(bench.docker.start(start).await);
    assert!(reason.contains("its command was not found in the image"), "{reason}");
}

#[tokio::test]
async fn running_out_of_memory_is_seen() {
    let bench = Bench::new();
    // A shell variable that doubles for ever.
    let mut start = bench.start("x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done");
    start.run.spec.resources.memory_bytes = 16 << 20;
    let mut events = bench.docker.events(now_s());
    let id = bench.docker.start(start).await.unwrap().container_id;
    let end = bench.ended(&id).await;
    assert_eq!(
        end,
        ContainerEnd { exit_code: Some(137), out_of_memory: true, ..ContainerEnd::default() }
    );
    let died = loop {
        let event = tokio::time::timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
        if let ContainerChange::Died(end) = event.change {
            break end;
        }
    };
    assert_eq!(died, end);
}

#[tokio::test]
async fn a_container_that_runs_is_ended_with_grace_before_it_is_removed() {
    let bench = Bench::new();
    let mut events = bench.docker.events(now_s());
    let start = bench.start("trap 'exit 5' TERM; echo ready; while true; do sleep 0.1; done");
    let id = bench.docker.start(start).await.unwrap().container_id;
    // A signal that comes before the trap is set would be ignored by process 1.
    let wish = LogsWish {
        container_id: id.clone(),
        follow: true,
        tail: None,
        since_ms: None,
        timestamps: false,
    };
    tokio::time::timeout(DEADLINE, bench.docker.logs(wish).next()).await.unwrap().unwrap().unwrap();
    bench.docker.remove(id, 30_000).await.unwrap();
    let died = loop {
        let event = tokio::time::timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
        if let ContainerChange::Died(end) = event.change {
            break end;
        }
    };
    assert_eq!(died.exit_code, Some(5), "it had its say");
}

#[tokio::test]
async fn an_absent_daemon_is_told_with_its_address() {
    let docker = Docker::new(Some("/run/longshore-no-such.sock".into()), "n1".parse().unwrap(), 1);
    for error in [docker.version().await.unwrap_err(), docker.list().await.map(drop).unwrap_err()] {
        let RuntimeError::Away(text) = error else { panic!("{error:?}") };
        assert!(text.contains("/run/longshore-no-such.sock"), "{text}");
    }
}
