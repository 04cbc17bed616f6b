//! What happens when a worker, NATS or Docker goes away and comes back.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use longshore_core::agent::labels::Owner;
use longshore_proto::id::{Revision, TaskId};
use longshore_proto::node::TaskReport;
use longshore_proto::spec::RestartMode;
use longshore_proto::state::TaskState;
use longshore_worker::OnShutdown;
use longshore_worker::runtime::Runtime;

use crate::leader::{DEADLINE, Leader, Node, Server};
use crate::proxy::Proxy;

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
