//! A Docker daemon on its worst days: it hangs, for one container or for all; it cuts calls; it answers nonsense.
//!
//! A proxy on its socket does all that.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use longshore_core::agent::labels::Owner;
use longshore_core::agent::{
    ContainerChange, ContainerEnd, ContainerState, ImageWish, StartContainer, StartedContainer,
};
use longshore_proto::id::{ClusterId, Revision, TaskId};
use longshore_proto::node::RunTask;
use longshore_proto::spec::{PullPolicy, TaskSpec};
use longshore_worker::runtime::docker::Docker;
use longshore_worker::runtime::{Runtime, RuntimeError};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::leader::{DEADLINE, IMAGE};
use crate::proxy::{Deed, Proxy};

/// As many containers as a busy node has.
const CONTAINERS: usize = 50;

struct Bench {
    _folder: tempfile::TempDir,
    proxy: Proxy,
    docker: Docker,
    owner: Owner,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let proxy = Proxy::start(&socket);
        let node: longshore_proto::name::NodeName =
            format!("test-{}", Uuid::new_v4().simple()).parse().unwrap();
        let docker = Docker::new(Some(socket.display().to_string()), node.clone(), 2);
        let owner = Owner {
            cluster_id: ClusterId(Uuid::new_v4()),
            node,
            task: TaskId(Uuid::now_v7()),
            attempt: 1,
        };
        Self { _folder: folder, proxy, docker, owner }
    }

    fn start(&self) -> StartContainer {
        let mut spec = TaskSpec::new("main".parse().unwrap(), IMAGE);
        spec.command = ["sleep", "1000"].map(str::to_owned).to_vec();
        spec.pull = PullPolicy::Never;
        let run = RunTask {
            namespace: "default".parse().unwrap(),
            job: "web".parse().unwrap(),
            version: 1,
            slot: 0,
            attempt_floor: 0,
            epoch: None,
            node_labels: std::collections::BTreeMap::new(),
            spec,
        };
        StartContainer {
            task: self.owner.task,
            attempt: self.owner.attempt,
            name: self.owner.container_name(),
            labels: self.owner.labels(Revision { epoch: 1, index: 2 }, &run),
            run,
        }
    }
}

impl Drop for Bench {
    /// Clears up, whether the test has passed or not: a test's own runtime cannot be waited for in a `drop`.
    fn drop(&mut self) {
        let node = self.owner.node.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let clear = async move {
            let docker = Docker::new(None, node, 2);
            for container in docker.list().await.unwrap_or_default() {
                let _ = docker.remove(container.id, 0).await;
            }
        };
        let _ = std::thread::spawn(move || runtime.block_on(clear)).join();
    }
}

/// What Docker lists: containers that were killed, so that a closer look is due at each.
fn killed(number: usize) -> Value {
    json!({
        "Id": format!("c{number}"), "Labels": {"longshore.node": "n1"}, "State": "exited",
        "Status": "Exited (137) 3 minutes ago",
    })
}

#[tokio::test]
async fn a_container_that_hangs_hides_no_other() {
    let bench = Bench::new();
    for hangs in [|line: &str| line.contains("/containers/c7/"), |_: &str| true] {
        bench.proxy.set(move |line| {
            if line.contains("/containers/json") {
                let all: Vec<Value> = (0..CONTAINERS).map(killed).collect();
                return Deed::Answer(200, Value::from(all).to_string());
            }
            if hangs(line) {
                return Deed::Hang;
            }
            let state = json!({"Status": "exited", "ExitCode": 137, "OOMKilled": true});
            Deed::Answer(200, json!({"Id": "c", "State": state}).to_string())
        });
        let start = Instant::now();
        let listed = bench.docker.list().await.unwrap();
        // A manager calls a node suspect that is silent for eight seconds.
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
        assert_eq!(listed.len(), CONTAINERS);
        for container in listed {
            let is_seen = !hangs(&format!("GET /containers/{}/json", container.id));
            let end = ContainerEnd {
                exit_code: Some(137),
                out_of_memory: is_seen,
                ..ContainerEnd::default()
            };
            assert_eq!(container.state, ContainerState::Ended(end), "{}", container.id);
        }
    }
}

#[tokio::test]
async fn an_end_that_docker_cannot_explain_does_not_hold_up_the_others() {
    let bench = Bench::new();
    let died = |number: usize, code: &str| {
        let attributes = json!({"exitCode": code, "longshore.node": "n1"});
        let actor = json!({"ID": format!("c{number}"), "Attributes": attributes});
        json!({"Type": "container", "Action": "die", "Actor": actor}).to_string()
    };
    bench.proxy.set(move |line| {
        if line.contains("/events") {
            let events: Vec<String> = (0..CONTAINERS / 2)
                .map(|number| died(number, "137"))
                .chain((CONTAINERS / 2..CONTAINERS).map(|number| died(number, "3")))
                .collect();
            return Deed::Answer(200, events.join("\n"));
        }
        Deed::Hang
    });
    let start = Instant::now();
    let seen: Vec<_> = bench.docker.events(0).take(CONTAINERS).collect().await;
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let seen: Vec<_> = seen.into_iter().map(Result::unwrap).collect();
    let ids: Vec<_> = seen.iter().map(|event| event.container_id.clone()).collect();
    assert_eq!(ids, (0..CONTAINERS).map(|number| format!("c{number}")).collect::<Vec<_>>());
    let code = |code| ContainerChange::Died(ContainerEnd::exited(code));
    assert_eq!((seen[0].change, seen[CONTAINERS - 1].change), (code(137), code(3)));
}

#[tokio::test]
async fn a_daemon_that_takes_calls_and_does_not_answer_is_away() {
    let bench = Bench::new();
    bench.proxy.set(|_| Deed::Hang);
    let asked = tokio::time::timeout(DEADLINE, bench.docker.version()).await.unwrap();
    let Err(RuntimeError::Away(reason)) = asked else { panic!("{asked:?}") };
    assert!(reason.contains("is the daemon hung?"), "{reason}");
}

#[tokio::test]
async fn nonsense_is_refused_and_nothing_is_believed_to_be_gone() {
    let bench = Bench::new();
    for body in ["[{", "{}", "\"yes\"", ""] {
        bench.proxy.set(move |_| Deed::Answer(200, body.to_owned()));
        let listed = bench.docker.list().await;
        assert!(listed.is_err(), "{body}: {listed:?}");
    }
    bench.proxy.set(|_| Deed::Answer(500, json!({"message": "something broke"}).to_string()));
    let listed = bench.docker.list().await;
    let Err(RuntimeError::Refused(reason)) = listed else { panic!("{listed:?}") };
    assert_eq!(reason, "listing failed: something broke");
}

#[tokio::test]
async fn a_full_disk_is_told_as_such() {
    let bench = Bench::new();
    let full = json!({"message": "mkdir /var/lib/docker/overlay2/x: no space left on device"});
    bench.proxy.set(move |_| Deed::Answer(500, full.to_string()));
    let image = ImageWish { image: "busybox:1".into(), platform: None, login: None };
    for refused in [
        bench.docker.start(bench.start()).await.map(drop),
        bench.docker.fetch_image(image.clone()).await,
    ] {
        let Err(RuntimeError::Refused(reason)) = refused else { panic!("{refused:?}") };
        assert!(reason.contains("the disk that Docker uses on this node is full"), "{reason}");
    }
}

#[tokio::test]
async fn a_call_whose_answer_is_lost_is_never_done_twice() {
    let bench = Bench::new();
    for lost in ["/containers/create", "/start"] {
        bench.proxy.set(move |line| {
            let is_it = line.starts_with("POST") && line.contains(lost);
            if is_it { Deed::LoseAnswer } else { Deed::Pass }
        });
        let started = bench.docker.start(bench.start()).await;
        assert!(matches!(started, Err(RuntimeError::Away(_))), "{lost}: {started:?}");
    }
    bench.proxy.set(|_| Deed::Pass);
    let StartedContainer { container_id, ended } = bench.docker.start(bench.start()).await.unwrap();
    assert_eq!(ended, None);
    let listed = bench.docker.list().await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&listed[0].id, listed[0].state), (&container_id, ContainerState::Running));

    bench.proxy.set(|line| if line.starts_with("DELETE") { Deed::LoseAnswer } else { Deed::Pass });
    let removed = bench.docker.remove(container_id.clone(), 0).await;
    assert!(matches!(removed, Err(RuntimeError::Away(_))), "{removed:?}");
    bench.proxy.set(|_| Deed::Pass);
    bench.docker.remove(container_id, 0).await.unwrap();
    assert_eq!(bench.docker.list().await.unwrap(), vec![]);
}
