//! What tasks go through on a worker, and what it tells of them.

use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::health::{Health, HealthCheck, Probe};
use longshore_proto::id::{Revision, TaskId};
use longshore_proto::node::{TaskReport, Want, set_digest};
use longshore_proto::spec::{Port, Protocol, RestartMode};
use longshore_proto::state::TaskState;
use longshore_worker::runtime::{ExecWish, Runtime};
use longshore_worker::{OnShutdown, WorkerError};

use crate::leader::{DEADLINE, Leader, Node, Server};
use crate::proxy::{Deed, Proxy};

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

/// The daemon's time is what a launch takes, and everything that is asked of it while many start costs some.
#[tokio::test(flavor = "multi_thread")]
async fn a_launch_asks_docker_to_create_and_to_start_and_nothing_else() {
    const TASKS: usize = 4;
    let (server, node) = (Server::start(), Node::new());
    let socket = node.data_dir.path().join("docker.sock");
    let proxy = Proxy::start(&socket);
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start_on(&server, OnShutdown::Stop, Some(&socket));
    // It has looked round, and found what everything runs.
    let first = leader.run("exec sleep 1000", RestartMode::Never).await;
    leader.reported(first, 1, TaskState::Running).await;
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let calls = seen.clone();
    proxy.set(move |line| {
        calls.lock().unwrap().push(line.to_owned());
        Deed::Pass
    });
    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        tasks.push(leader.run("exec sleep 1000", RestartMode::Never).await);
    }
    for task in tasks {
        leader.reported(task, 1, TaskState::Running).await;
    }
    let seen = seen.lock().unwrap().clone();
    let count = |what: &str| seen.iter().filter(|line| line.contains(what)).count();
    assert_eq!((count("/containers/create?"), count("/start")), (TASKS, TASKS), "{seen:#?}");
    // Whether the image is there is asked once for all that come together, and the list by the clock alone.
    let usual = ["/containers/create?", "/start", "/images/", "/containers/json?", "/version"];
    let others = seen.iter().filter(|line| !usual.iter().any(|usual| line.contains(usual)));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());
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
