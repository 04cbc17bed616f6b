//! A server that is away at the start, goes away later, or hangs.

use std::time::Duration;

use longshore_proto::permission::Role::Worker;
use longshore_proto::state::{NodeStatus, TaskState};
use longshore_tests::played::Played;
use longshore_tests::{Cluster, always, api, eventually};

use crate::SOON;

/// Longer than a node may be silent before it is lost, in these tests.
const OUTAGE: Duration = Duration::from_secs(9);
const PATIENCE: [&str; 4] = ["--suspect-after", "4s", "--lost-after", "8s"];

#[tokio::test]
async fn a_manager_waits_for_a_server_that_is_away_at_its_start() {
    let mut cluster = Cluster::server().await;
    cluster.nats.kill();
    cluster.start_manager("m1", &[]);
    cluster.manager("m1").says("trying again until one does", SOON).await;
    assert!(cluster.manager("m1").is_running());
    cluster.nats.restart().await;
    let api = cluster.answers().await;
    api.submit(&api::service("web")).await.unwrap();
}

/// A cluster with a task that runs on a played node, the outage itself, and what must be true afterwards.
async fn survives(outage: impl AsyncFnOnce(&mut Cluster)) {
    let mut cluster = Cluster::start_with(&PATIENCE).await;
    let api = cluster.api().await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    api.submit(&api::service("web")).await.unwrap();
    let task = node.wanted_count(1).await[0].task;
    node.report(task, 1, TaskState::Running).await.unwrap();
    let before = api.status().await.unwrap();

    outage(&mut cluster).await;

    let after = cluster.answers().await;
    let status = after.status().await.unwrap();
    assert_eq!(status.id, before.id);
    // Silence that the manager itself was cut off for proves nothing: no node is given up for it.
    always("w1 is not lost", Duration::from_secs(4), async || {
        let nodes = after.nodes().await.map_err(|error| error.to_string())?;
        if nodes[0].status == NodeStatus::Lost { Err(format!("{nodes:?}")) } else { Ok(()) }
    })
    .await;
    eventually("w1 is ready", SOON, async || {
        let nodes = after.nodes().await.map_err(|error| error.to_string())?;
        if nodes[0].status == NodeStatus::Ready { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .await;
    let tasks = after.tasks("web").await.unwrap();
    assert_eq!(tasks.len(), 1, "nothing was replaced: {tasks:?}");
    assert_eq!((tasks[0].id, tasks[0].state), (task, TaskState::Running));
    after.submit(&api::service("second")).await.unwrap();
    node.wanted_count(2).await;
    let history = after.history().await.unwrap();
    assert!(history.iter().all(|event| event.event_type != "node.lost"), "{history:?}");
    assert!(cluster.manager("m1").is_running());
}

#[tokio::test]
async fn a_server_that_dies_and_comes_back_costs_no_node_and_no_task() {
    survives(async |cluster| {
        cluster.nats.kill();
        tokio::time::sleep(OUTAGE).await;
        cluster.nats.restart().await;
    })
    .await;
}

#[tokio::test]
async fn a_server_that_hangs_and_comes_back_costs_no_node_and_no_task() {
    survives(async |cluster| {
        cluster.nats.pause();
        tokio::time::sleep(OUTAGE).await;
        cluster.nats.resume();
    })
    .await;
}

#[tokio::test]
async fn reports_during_an_outage_are_delivered_after_it() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    api.submit(&api::batch("sum")).await.unwrap();
    let task = node.wanted_count(1).await[0].task;
    cluster.nats.kill();
    let report = tokio::spawn(async move {
        node.report(task, 1, TaskState::Completed).await.unwrap();
    });
    cluster.nats.restart().await;
    report.await.unwrap();
    let api = cluster.answers().await;
    assert_eq!(api.tasks("sum").await.unwrap()[0].state, TaskState::Completed);
}
