//! Machines that are taken down by plan, and fenced jobs whose machines are gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longshore_proto::container::Network;
use longshore_proto::state::NodeStatus;
use longshore_tests::api::service;
use longshore_tests::{Cluster, always, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::SOON;
use crate::look::{running, sleeper, tasks, text, until};

/// These containers talk to nobody, and start sooner for it.
const ALONE: &[&str] = &["--network", "none"];

/// What a container sees of its environment.
async fn environment(cluster: &mut Cluster, container: &str) -> Vec<String> {
    let docker = cluster.docker().await;
    docker.inspect(container).await.config.and_then(|config| config.env).unwrap_or_default()
}

async fn node(cluster: &Cluster, name: &str) -> Value {
    cluster.cli().json(&["node", "status", name]).await
}

#[tokio::test]
async fn a_node_is_drained_while_jobs_come_in_and_a_service_is_never_short() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    sleeper(&cli, "web", &["--network", "none", "--instances", "3"]).await;
    cluster.start_worker("w2", &[]);
    cluster.node_is("w2", NodeStatus::Ready).await;
    let docker = cluster.docker().await;
    let api = cluster.api().await;
    let foretold = cli.json(&["whatif", "drain", "w1"]).await;
    assert_eq!(foretold["placed_total"], 3, "{foretold}");

    let is_over = AtomicBool::new(false);
    let load = async {
        for number in 0..8 {
            if !is_over.load(Ordering::Relaxed) {
                let mut job = service(&format!("load-{number}"));
                job.specs[0].container.network = Network::None;
                api.submit(&job).await.unwrap();
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
    };
    let watch = async {
        let mut least = usize::MAX;
        while !is_over.load(Ordering::Relaxed) {
            // Docker first: what ran then and is not told of yet has a predecessor that ran, too.
            let running = docker.running().await;
            let web = tasks(&cli, "web").await;
            let ids: Vec<&str> =
                web.iter().filter_map(|task| task["container_id"].as_str()).collect();
            least = least.min(running.iter().filter(|id| ids.contains(&id.as_str())).count());
        }
        least
    };
    let drain = async {
        let outcome = cli.run(&["node", "drain", "w1", "--deadline", "10m"]).await.succeeded();
        is_over.store(true, Ordering::Relaxed);
        outcome
    };
    let (outcome, least, ()) = tokio::join!(drain, watch, load);
    assert_eq!(outcome.stdout, "w1\n");
    // How many were left at a look depends on how many of the load's came first, and how quickly they left.
    outcome.told(" left").told("w1 is drained");
    assert!(least >= 3, "{least} of 3 ran at one time");
    for task in tasks(&cli, "web").await.iter().filter(|task| task["state"] == "running") {
        assert_eq!(task["node"], "w2");
    }
    let shown = node(&cluster, "w1").await;
    assert_eq!((&shown["tasks"], &shown["drain"]["drained"]), (&json!(0), &json!(true)));
    assert!(cli.ok(&["node", "ls"]).await.contains("ready, drained"));
    let running = docker.running().await;
    for container in docker.all().await {
        let is_running = container.id.as_ref().is_some_and(|id| running.contains(id));
        let on = container.labels.unwrap_or_default().get("longshore.node").cloned();
        assert!(!is_running || on.as_deref() == Some("w2"), "one still runs on {on:?}");
    }
    cli.run(&["node", "uncordon", "w1"]).await.succeeded().told("w1 takes tasks again");
    assert_eq!(node(&cluster, "w1").await["eligibility"], "open");
    let events = cli.ok(&["events", "--node", "w1"]).await;
    assert!(events.contains("node.draining") && events.contains("node.drained"), "{events}");
}

#[tokio::test]
async fn a_drain_that_cannot_end_says_why_and_is_called_off() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let web = sleeper(&cli, "web", ALONE).await;
    let mut drain = cli.stay("drain", &["node", "drain", "w1"]);
    drain.says("web.main: its successor waits for a node: no node fits", SOON).await;
    let shown = cli.ok(&["node", "status", "w1"]).await;
    assert!(shown.contains("STILL HERE") && shown.contains("web.main.0"), "{shown}");
    cli.ok(&["node", "uncordon", "w1"]).await;
    assert_eq!(drain.ended(SOON).await.code(), Some(1), "{}", drain.log());
    assert!(drain.log().contains("the drain of w1 was called off"), "{}", drain.log());
    let docker = cluster.docker().await;
    assert_eq!(docker.running().await, [text(&web, "container_id")], "it is as it was");
    until(&cli, "web", "no successor is left", |tasks| {
        let live = tasks.iter().filter(|task| task["finished_at"].is_null());
        (live.count() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_is_to_end_has_its_tasks_moved_off_first() {
    let mut cluster = Cluster::start().await;
    cluster.start_worker("w1", &["--on-shutdown", "drain", "--drain-deadline", "1m"]);
    cluster.node_is("w1", NodeStatus::Ready).await;
    let cli = cluster.cli();
    let first = sleeper(&cli, "web", ALONE).await;
    cluster.start_worker("w2", &[]);
    cluster.node_is("w2", NodeStatus::Ready).await;
    cluster.worker("w1").signal(Signal::TERM);
    let status = cluster.worker("w1").ended(SOON).await;
    let log = cluster.worker("w1").log();
    assert!(status.success() && log.contains("everything has moved off"), "{log}");
    let second = running(&cli, "web").await;
    assert_eq!((&second["node"], &second["replaces"]), (&json!("w2"), &first["id"]));
    let docker = cluster.docker().await;
    assert_eq!(docker.running().await, [text(&second, "container_id")]);
    cluster.node_is("w1", NodeStatus::Left).await;
    cluster.start_worker("w1", &[]);
    cluster.node_is("w1", NodeStatus::Ready).await;
    assert_eq!(node(&cluster, "w1").await["eligibility"], "open", "the next run takes tasks");
}

#[tokio::test]
async fn a_fenced_task_waits_for_an_operators_word_and_its_successor_has_a_higher_token() {
    let mut cluster = Cluster::start_with(&["--suspect-after", "3s", "--lost-after", "6s"]).await;
    cluster.start_worker("w1", &[]);
    cluster.node_is("w1", NodeStatus::Ready).await;
    let cli = cluster.cli();
    let file = format!(
        "name = \"db\"\nfence = true\n[[task]]\nimage = \"{}\"\ncommand = [\"sleep\", \"1000000\"]\nstop_grace = \"1s\"\nnetwork = \"none\"\n",
        longshore_tests::IMAGE
    );
    cli.run_with_input(&["job", "submit", "--wait", "-"], Some(&file)).await.succeeded();
    let first = running(&cli, "db").await;
    let token = async |cluster: &mut Cluster, task: &Value| {
        let environment = environment(cluster, &text(task, "container_id")).await;
        let token = environment.iter().find_map(|one| one.strip_prefix("LONGSHORE_EPOCH="));
        token.unwrap_or_else(|| panic!("{environment:?}")).parse::<u64>().unwrap()
    };
    let first_token = token(&mut cluster, &first).await;
    cluster.worker("w1").kill();
    cluster.start_worker("w2", &[]);
    cluster.node_is("w2", NodeStatus::Ready).await;
    cluster.node_is("w1", NodeStatus::Lost).await;
    let docker = cluster.docker().await;
    always("nobody starts a second one", Duration::from_secs(5), async || {
        let running = docker.running().await;
        if running == [text(&first, "container_id")] { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .await;
    let shown = cli.ok(&["status", "db"]).await;
    let word = "longshore node confirm-lost w1";
    let task = cli.json(&["status", &text(&first, "id")]).await;
    assert!(text(&task, "reason").contains(word), "{task}\n{shown}");
    assert!(cli.ok(&["explain", &text(&first, "id")]).await.contains(word));
    cli.run(&["node", "rm", "w1"]).await.exited(1).told("which may still run there");

    // The operator makes sure, and says so.
    docker.kill(&text(&first, "container_id")).await;
    cli.run(&["node", "confirm-lost", "w1"]).await.succeeded().told("its fenced task is replaced");
    let second = until(&cli, "db", "it runs on the other node", |tasks| {
        tasks.iter().find(|task| task["state"] == "running" && task["node"] == "w2").cloned()
    })
    .await;
    assert_eq!(second["replaces"], first["id"]);
    assert!(token(&mut cluster, &second).await > first_token);
    cli.run(&["node", "rm", "w1"]).await.succeeded().told("w1 is forgotten");
    cluster.start_worker("w1", &[]);
    cluster.node_is("w1", NodeStatus::Ready).await;
    eventually("only the second runs", SOON, async || {
        let running = docker.running().await;
        if running == [text(&second, "container_id")] {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    })
    .await;
}
