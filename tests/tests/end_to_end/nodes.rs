//! Nodes that die, return, or cannot use Docker.

use std::time::Duration;

use longshore_proto::state::NodeStatus;
use longshore_tests::proxy::Proxy;
use longshore_tests::{Cluster, always, eventually};
use serde_json::{Value, json};

use crate::SOON;
use crate::look::{running, sleeper, tasks, text, until};

#[tokio::test]
async fn a_dead_nodes_tasks_are_replaced_and_the_superseded_stop_when_it_returns() {
    let mut cluster = Cluster::start_with(&["--suspect-after", "4s", "--lost-after", "8s"]).await;
    cluster.start_worker("w1", &[]);
    cluster.node_is("w1", NodeStatus::Ready).await;
    let cli = cluster.cli();
    let first = sleeper(&cli, "web", &[]).await;
    let docker = cluster.docker().await;
    cluster.start_worker("w2", &[]);
    cluster.node_is("w2", NodeStatus::Ready).await;

    cluster.worker("w1").kill();
    cluster.node_is("w1", NodeStatus::Suspect).await;
    assert_eq!(tasks(&cli, "web").await.len(), 1, "a suspect node keeps its tasks");
    cluster.node_is("w1", NodeStatus::Lost).await;
    let second = running(&cli, "web").await;
    assert_eq!((&second["node"], &second["replaces"]), (&json!("w2"), &first["id"]));
    let lost = tasks(&cli, "web").await.into_iter().find(|task| task["id"] == first["id"]).unwrap();
    assert_eq!(lost["state"], "lost");
    assert_eq!(docker.running().await.len(), 2, "nobody can stop it while its worker is dead");

    cluster.start_worker("w1", &[]);
    cluster.node_is("w1", NodeStatus::Ready).await;
    eventually("the superseded container is stopped", SOON, async || {
        let running = docker.running().await;
        if running == [text(&second, "container_id")] {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    })
    .await;
    assert_eq!(running(&cli, "web").await["id"], second["id"]);
}

#[tokio::test]
async fn a_second_worker_of_a_living_nodes_name_is_refused_with_the_reason() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let web = sleeper(&cli, "web", &[]).await;
    let second = cluster.spawn_worker("w1", &cluster.folder().join("other-data"), &[], &[]);
    second.says("another worker is registered as w1", SOON).await;
    let docker = cluster.docker().await;
    always("the first keeps its container", Duration::from_secs(3), async || {
        let running = docker.running().await;
        if running == [text(&web, "container_id")] { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .await;
    assert_eq!(cli.json(&["node", "ls"]).await.as_array().unwrap().len(), 1);
    assert!(cluster.worker("w1").is_running());
}

#[tokio::test]
async fn a_worker_data_directory_that_another_worker_holds_is_a_clear_error() {
    let cluster = Cluster::with_workers(&["w1"]).await;
    let mut second = cluster.spawn_worker("w2", &cluster.data_dir("w1"), &[], &[]);
    let status = second.ended(SOON).await;
    assert_eq!(status.code(), Some(1), "{}", second.log());
    assert!(second.log().contains("--data-dir"), "{}", second.log());
}

#[tokio::test]
async fn a_docker_daemon_that_is_away_is_visible_and_costs_no_task() {
    let mut cluster = Cluster::start().await;
    let mut proxy = Proxy::start(&cluster.folder().join("docker.sock"));
    cluster.start_worker_on("w1", &proxy.host());
    cluster.node_is("w1", NodeStatus::Ready).await;
    let cli = cluster.cli();
    let web = sleeper(&cli, "web", &[]).await;
    let docker = cluster.docker().await;

    proxy.shut();
    eventually("the node says why it cannot run containers", SOON, async || {
        let node = cli.json(&["node", "status", "w1"]).await;
        if node["runtime_error"].is_string() { Ok(()) } else { Err(node.to_string()) }
    })
    .await;
    let node = cli.ok(&["node", "status", "w1"]).await;
    assert!(node.to_lowercase().contains("docker"), "people are told, too:\n{node}");
    let doctor = cli.run(&["doctor"]).await;
    assert!(doctor.stdout.contains("w1"), "{doctor:?}");
    always("the task keeps its state", Duration::from_secs(3), async || {
        let tasks = tasks(&cli, "web").await;
        let same = |task: &Value| task["state"] == "running" && task["attempt"] == 1;
        if tasks.len() == 1 && same(&tasks[0]) { Ok(()) } else { Err(format!("{tasks:?}")) }
    })
    .await;
    assert_eq!(docker.running().await, [text(&web, "container_id")]);
    // What is asked meanwhile waits, and runs when Docker is back.
    cli.ok(&[
        "run",
        "--name",
        "later",
        "--stop-grace",
        "1s",
        longshore_tests::IMAGE,
        "sleep",
        "1000000",
    ])
    .await;
    proxy.open();
    running(&cli, "later").await;
    eventually("the node is well again", SOON, async || {
        let node = cli.json(&["node", "status", "w1"]).await;
        if node["runtime_error"].is_null() { Ok(()) } else { Err(node.to_string()) }
    })
    .await;
    let after = running(&cli, "web").await;
    assert_eq!((&after["container_id"], &after["attempt"]), (&web["container_id"], &json!(1)));
    assert_eq!(docker.running().await.len(), 2);
}

#[tokio::test]
async fn a_container_that_dies_while_docker_cannot_be_reached_is_started_again_later() {
    let mut cluster = Cluster::start().await;
    let mut proxy = Proxy::start(&cluster.folder().join("docker.sock"));
    cluster.start_worker_on("w1", &proxy.host());
    cluster.node_is("w1", NodeStatus::Ready).await;
    let cli = cluster.cli();
    let web = sleeper(&cli, "web", &[]).await;
    let docker = cluster.docker().await;
    proxy.shut();
    docker.kill(&text(&web, "container_id")).await;
    proxy.open();
    until(&cli, "web", "the second attempt runs", |tasks| {
        tasks.iter().find(|task| task["state"] == "running" && task["attempt"] == 2).map(|_| ())
    })
    .await;
    assert_eq!(docker.running().await.len(), 1);
}

#[tokio::test]
async fn a_worker_whose_docker_is_away_at_its_start_waits_for_it() {
    let mut cluster = Cluster::start().await;
    let mut proxy = Proxy::start(&cluster.folder().join("docker.sock"));
    proxy.shut();
    cluster.start_worker_on("w1", &proxy.host());
    cluster.node_is("w1", NodeStatus::Ready).await;
    let cli = cluster.cli();
    eventually("the node says why it cannot run containers", SOON, async || {
        let node = cli.json(&["node", "status", "w1"]).await;
        if node["runtime_error"].is_string() { Ok(()) } else { Err(node.to_string()) }
    })
    .await;
    proxy.open();
    sleeper(&cli, "web", &[]).await;
}

#[tokio::test]
async fn tasks_spread_over_the_nodes_and_stay_in_their_datacenters() {
    let mut cluster = Cluster::start().await;
    cluster.start_worker("w1", &["--datacenter", "dc1"]);
    cluster.start_worker("w2", &["--datacenter", "dc2"]);
    cluster.node_is("w1", NodeStatus::Ready).await;
    cluster.node_is("w2", NodeStatus::Ready).await;
    let cli = cluster.cli();
    // Two of these are as many as one node takes.
    sleeper(&cli, "anywhere", &["-n", "4", "--cpus", "1.5"]).await;
    sleeper(&cli, "here", &["-n", "2", "--datacenter", "dc2"]).await;
    let anywhere = tasks(&cli, "anywhere").await;
    for node in ["w1", "w2"] {
        let there = anywhere.iter().filter(|task| task["node"] == node).count();
        assert_eq!(there, 2, "no node is given more than it has: {anywhere:?}");
    }
    assert!(tasks(&cli, "here").await.iter().all(|task| task["node"] == "w2"));
    cli.ok(&["run", "--name", "nowhere", "--datacenter", "dc9", longshore_tests::IMAGE]).await;
    let reason = until(&cli, "nowhere", "it waits with a reason", |tasks| {
        tasks.iter().find_map(|task| task["reason"].as_str()).map(str::to_owned)
    })
    .await;
    assert!(reason.contains("datacenter"), "{reason}");
}
