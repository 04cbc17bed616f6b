//! A node whose network is cut: for a moment, which nobody may notice, and for longer.

use std::time::Duration;

use longshore_proto::state::NodeStatus;
use longshore_tests::{Cluster, Island, always, eventually};
use serde_json::json;

use crate::SOON;
use crate::look::{running, sleeper, text};

#[tokio::test]
async fn a_node_that_is_cut_off_runs_on_and_comes_back_as_one_copy() {
    let mut cluster = Cluster::start().await;
    let island = Island::start(cluster.nats.port());
    cluster.start_worker_in(&island, "w1", &[]);
    cluster.node_is("w1", NodeStatus::Ready).await;
    let cli = cluster.cli();
    let first = sleeper(&cli, "web", &[]).await;
    let docker = cluster.docker().await;
    let container = text(&first, "container_id");
    let api = cluster.api().await;

    // Shorter than a node may be silent: nothing happens at all.
    island.cut();
    tokio::time::sleep(Duration::from_secs(5)).await;
    island.heal();
    always("nothing happens", Duration::from_secs(6), async || {
        let nodes = api.nodes().await.map_err(|error| error.to_string())?;
        let running = docker.running().await;
        let quiet = nodes[0].status == NodeStatus::Ready && running == [container.clone()];
        if quiet { Ok(()) } else { Err(format!("{nodes:?} {running:?}")) }
    })
    .await;
    assert_eq!(running(&cli, "web").await["id"], first["id"]);

    // Longer: the task is replaced elsewhere, and its container runs on until its node hears of it.
    cluster.start_worker("w2", &[]);
    cluster.node_is("w2", NodeStatus::Ready).await;
    island.cut();
    cluster.node_is("w1", NodeStatus::Lost).await;
    let second = running(&cli, "web").await;
    assert_eq!((&second["node"], &second["replaces"]), (&json!("w2"), &first["id"]));
    assert!(docker.running().await.contains(&container), "time alone proves nothing");
    let said = cli.ok(&["doctor"]).await;
    assert!(said.contains("1 lost"), "{said}");
    let log = cluster.worker("w1").log();
    assert!(log.contains("the connection to NATS broke; reconnecting until it is back"), "{log}");
    let tries = log.matches("NATS cannot be reached").count();
    assert!((1..=2).contains(&tries), "told now and then, not with each try: {log}");
    let connections = island.connections();
    island.heal();
    cluster.node_is("w1", NodeStatus::Ready).await;
    eventually("the superseded container is stopped", SOON, async || {
        let running = docker.running().await;
        let wanted = [text(&second, "container_id")];
        if running == wanted { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .await;
    assert_eq!(running(&cli, "web").await["id"], second["id"]);
    let made = island.connections() - connections;
    assert!(made <= 2, "{made} connections to come back with one");
}
