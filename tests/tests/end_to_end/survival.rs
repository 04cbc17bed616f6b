//! Programs that die and come back, and containers that do not notice.

use std::time::Duration;

use longshore_tests::{Cluster, IMAGE, always, eventually};
use rustix::process::Signal;
use serde_json::json;

use crate::SOON;
use crate::look::{running, sleeper, tasks, text, until};

#[tokio::test]
async fn a_killed_worker_adopts_its_containers_and_starts_no_second_copy() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    sleeper(&cli, "web", &["-n", "3"]).await;
    let docker = cluster.docker().await;
    let before = tasks(&cli, "web").await;
    let mut containers = docker.running().await;
    containers.sort();
    cluster.worker("w1").kill();
    assert_eq!(docker.running().await.len(), 3, "containers do not need their worker");
    cluster.start_worker("w1", &[]);
    // It can be told to do something new only after it has adopted what was there.
    sleeper(&cli, "next", &[]).await;
    always("each runs once, as before", Duration::from_secs(3), async || {
        let mut now = docker.running().await;
        now.sort();
        now.retain(|id| containers.contains(id));
        if now == containers { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    assert_eq!(docker.running().await.len(), 4);
    let after = tasks(&cli, "web").await;
    for (before, after) in before.iter().zip(&after) {
        for field in ["id", "container_id", "attempt", "state", "started_at"] {
            assert_eq!(before[field], after[field], "{field}");
        }
    }
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_keeps_its_containers_unless_told_otherwise() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let first = sleeper(&cli, "web", &[]).await;
    let docker = cluster.docker().await;
    cluster.worker("w1").signal(Signal::TERM);
    assert!(cluster.worker("w1").ended(SOON).await.success());
    assert_eq!(docker.running().await, [text(&first, "container_id")]);
    cluster.start_worker("w1", &["--on-shutdown", "stop"]);
    sleeper(&cli, "next", &[]).await;
    assert_eq!(running(&cli, "web").await["container_id"], first["container_id"]);
    assert_eq!(docker.running().await.len(), 2);
    cluster.worker("w1").signal(Signal::TERM);
    assert!(cluster.worker("w1").ended(SOON).await.success());
    // They have ended by then; Docker's list says so once it has taken their networks apart.
    eventually("none runs", SOON, async || {
        let running = docker.running().await;
        if running.is_empty() { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_container_that_died_while_its_worker_was_dead_is_noticed() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let first = sleeper(&cli, "web", &[]).await;
    cli.ok(&["run", "--type", "batch", "--name", "sum", IMAGE, "sh", "-c", "sleep 2; exit 0"])
        .await;
    running(&cli, "sum").await;
    let docker = cluster.docker().await;
    cluster.worker("w1").kill();
    docker.kill(&text(&first, "container_id")).await;
    eventually("the batch container has ended", SOON, async || {
        let running = docker.running().await;
        if running.is_empty() { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .await;
    cluster.start_worker("w1", &[]);
    let second = until(&cli, "web", "it was started again", |tasks| {
        tasks.iter().find(|task| task["state"] == "running" && task["attempt"] == 2).cloned()
    })
    .await;
    assert_eq!(second["id"], first["id"]);
    let sum = until(&cli, "sum", "its end is known", |tasks| {
        tasks.iter().find(|task| task["state"] == "completed").cloned()
    })
    .await;
    assert_eq!(
        (&sum["attempt"], &sum["exit_code"]),
        (&json!(1), &json!(0)),
        "it did not run twice"
    );
}

#[tokio::test]
async fn a_manager_that_is_killed_while_things_run_costs_nothing() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let web = sleeper(&cli, "web", &[]).await;
    let docker = cluster.docker().await;
    cli.ok(&["run", "--type", "batch", "--name", "sum", IMAGE, "sh", "-c", "sleep 3; exit 5"])
        .await;
    running(&cli, "sum").await;
    cluster.manager("m1").kill();
    // What happens meanwhile is kept by the worker until somebody answers.
    eventually("the batch container has ended", SOON, async || {
        let running = docker.running().await;
        if running.len() == 1 { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .await;
    cluster.start_manager("m1", &[]);
    cluster.answers().await;
    let end = until(&cli, "sum", "its first end is known", |tasks| {
        tasks.iter().find(|task| task["exit_code"] == 5).cloned()
    })
    .await;
    assert_eq!(end["job"], "sum");
    let after = running(&cli, "web").await;
    assert_eq!((&after["container_id"], &after["attempt"]), (&web["container_id"], &json!(1)));
    sleeper(&cli, "next", &[]).await;
}

#[tokio::test]
async fn waiting_goes_on_over_the_death_of_a_manager() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let words = [
        "run",
        "--type",
        "batch",
        "--restart",
        "never",
        "--name",
        "sum",
        "--wait",
        IMAGE,
        "sh",
        "-c",
        "sleep 4; exit 9",
    ];
    let mut waiting = cli.stay("waiting", &words);
    running(&cli, "sum").await;
    cluster.manager("m1").kill();
    cluster.start_manager("m1", &[]);
    assert_eq!(waiting.ended(SOON).await.code(), Some(9), "{}", waiting.log());
}

#[tokio::test]
async fn containers_run_on_while_nats_is_away_and_what_happened_is_told_later() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let web = sleeper(&cli, "web", &[]).await;
    let docker = cluster.docker().await;
    cluster.nats.kill();
    // A restart policy needs nobody but the worker.
    docker.kill(&text(&web, "container_id")).await;
    let second =
        eventually("it runs again", SOON, async || match docker.running().await.as_slice() {
            [id] if *id != text(&web, "container_id") => Ok(id.clone()),
            other => Err(format!("{other:?}")),
        })
        .await;
    // Even a worker that starts while NATS is away goes on with what it knows.
    cluster.worker("w1").kill();
    cluster.start_worker("w1", &[]);
    always("it runs on, once", Duration::from_secs(4), async || {
        let running = docker.running().await;
        if running == [second.clone()] { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .await;
    cluster.nats.restart().await;
    cluster.answers().await;
    let after = until(&cli, "web", "the second attempt is known", |tasks| {
        tasks.iter().find(|task| task["state"] == "running" && task["attempt"] == 2).cloned()
    })
    .await;
    assert_eq!((&after["id"], text(&after, "container_id")), (&web["id"], second));
}
