//! Plans through the command line: gangs, displacing, moves, explanations, and what would happen if.

use longshore_proto::permission::Role::Worker;
use longshore_proto::state::TaskState;
use longshore_tests::cli::Cli;
use longshore_tests::played::Played;
use longshore_tests::{Cluster, eventually};
use serde_json::{Value, json};

use crate::SOON;

/// A job file of one part; a played worker offers 4 cores.
fn job(name: &str, instances: u32, cpus: u32, more: &str) -> String {
    format!(
        "name = \"{name}\"\n{more}\n[[task]]\nimage = \"x:1\"\ninstances = {instances}\ncpus = {cpus}\nmemory = \"64MiB\"\n"
    )
}

async fn submit(cli: &Cli, file: &str) {
    cli.run_with_input(&["job", "submit", "-"], Some(file)).await.succeeded();
}

async fn tasks(cli: &Cli, job: &str) -> Vec<Value> {
    cli.json(&["ps", "--job", job]).await.as_array().unwrap().clone()
}

/// Waits for something in the tasks of a job.
async fn until<T>(cli: &Cli, job: &str, what: &str, found: impl Fn(&[Value]) -> Option<T>) -> T {
    eventually(what, SOON, async || {
        let tasks = tasks(cli, job).await;
        found(&tasks).ok_or_else(|| format!("{tasks:#?}"))
    })
    .await
}

fn reason(tasks: &[Value]) -> Option<String> {
    tasks.iter().find_map(|task| task["reason"].as_str()).map(str::to_owned)
}

#[tokio::test]
async fn a_gang_waits_whole_and_is_placed_whole() {
    let cluster = Cluster::start().await;
    let cli = cluster.cli();
    let one = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    submit(&cli, &(job("mpi", 3, 2, "") + "all_at_once = true\n")).await;
    let reason = until(&cli, "mpi", "the gang says why it waits", reason).await;
    assert!(reason.starts_with("2 of 3 would fit, and they are placed all at once"), "{reason}");
    assert_eq!(one.wanted().len(), 0);
    let text = cli.ok(&["explain", "mpi"]).await;
    assert!(text.contains("2 of 3 would fit"), "{text}");
    let two = Played::join(cluster.bus(Worker, "w2").await).await.unwrap();
    until(&cli, "mpi", "all are placed", |tasks| {
        tasks.iter().all(|task| task["node"].is_string()).then_some(())
    })
    .await;
    eventually("both are told", SOON, async || {
        let told = one.wanted().len() + two.wanted().len();
        if told == 3 { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
    cli.run_with_input(
        &["job", "submit", "-"],
        Some(&(job("large", 301, 1, "") + "all_at_once = true\n")),
    )
    .await
    .exited(1)
    .told("at most 300 tasks");
}

#[tokio::test]
async fn who_is_displaced_is_explained_before_and_said_after() {
    let mut cluster = Cluster::start_with(&["--preempt-gap", "off"]).await;
    let cli = cluster.cli();
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    submit(&cli, &job("low", 2, 2, "priority = 10")).await;
    let low = node.wanted_of("low", 2).await;
    for task in &low {
        node.report(*task, 1, TaskState::Running).await.unwrap();
    }
    let file = job("high", 1, 2, "priority = 90");
    let whatif = |cli: Cli, file: String| async move {
        let outcome =
            cli.run_with_input(&["whatif", "submit", "-", "-o", "json"], Some(&file)).await;
        serde_json::from_str::<Value>(&outcome.succeeded().stdout).unwrap()
    };
    let outlook = whatif(cli.clone(), file.clone()).await;
    assert_eq!((&outlook["displaced_total"], &outlook["unplaced_total"]), (&json!(0), &json!(1)));
    submit(&cli, &file).await;
    until(&cli, "high", "it waits", reason).await;
    assert_eq!(cli.json(&["explain", "high"]).await["room"], json!([]));

    // The same with the switch on: what is foretold is what happens.
    cli.ok(&["stop", "high"]).await;
    cluster.manager("m1").kill();
    cluster.start_manager("m1", &["--preempt-gap", "50"]);
    cluster.answers().await;
    let outlook = whatif(cli.clone(), file.clone()).await;
    assert_eq!((&outlook["displaced_total"], &outlook["placed_total"]), (&json!(1), &json!(1)));
    assert_eq!(outlook["unplaced"][0]["job"], "low");
    let near = whatif(cli.clone(), job("near", 1, 2, "priority = 59")).await;
    assert_eq!(near["displaced_total"], 0);
    submit(&cli, &file).await;
    let ending = until(&cli, "low", "one is told to end", |tasks| {
        let ending = tasks.iter().find(|task| task["reason"].is_string())?;
        Some((ending["id"].clone(), ending["reason"].as_str()?.to_owned()))
    })
    .await;
    assert_eq!(ending.1, "stopping: displaced by default/high.main of priority 90");
    let explained = cli.json(&["explain", "high"]).await;
    assert_eq!(explained["room"][0], json!({ "node": "w1", "displaced": [] }));
    assert!(explained["reason"].as_str().unwrap().contains("room for 1 is being made"));
    let unwanted = eventually("its node is told to end it", SOON, async || {
        node.unwanted().first().copied().ok_or_else(|| "nothing".to_owned())
    })
    .await;
    assert_eq!(ending.0, json!(unwanted.to_string()));
    node.report(unwanted, 1, TaskState::Stopped).await.unwrap();
    node.wanted_of("high", 1).await;
    let waiting = until(&cli, "low", "its successor waits", |tasks| {
        tasks.iter().find(|task| task["replaces"] == ending.0).cloned()
    })
    .await;
    assert_eq!(waiting["state"], "pending");
}

#[tokio::test]
async fn moves_are_planned_and_then_made_successor_first() {
    let cluster = Cluster::start().await;
    let cli = cluster.cli();
    let one = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    submit(&cli, &job("web", 4, 1, "")).await;
    for task in one.wanted_of("web", 4).await {
        one.report(task, 1, TaskState::Running).await.unwrap();
    }
    let two = Played::join(cluster.bus(Worker, "w2").await).await.unwrap();
    let plan = eventually("the empty node is measured and a move pays", SOON, async || {
        let plan = cli.json(&["rebalance", "--plan", "--moves", "1"]).await;
        if plan["moves"] == json!([]) { Err(plan.to_string()) } else { Ok(plan) }
    })
    .await;
    assert!(plan["after"]["cost"].as_f64() < plan["before"]["cost"].as_f64(), "{plan}");
    assert!(plan["moves"][0]["saving"].as_f64().unwrap() > 0.0);
    assert_eq!(plan["moves"][0]["successor"], Value::Null);
    assert_eq!(tasks(&cli, "web").await.len(), 4, "a plan changes nothing");
    let text = cli.ok(&["rebalance", "--plan", "--moves", "1"]).await;
    assert!(text.contains("web.main") && text.contains("SAVING"), "{text}");

    let begun = cli.json(&["rebalance", "--moves", "1"]).await;
    let (moved, successor) = (&begun["moves"][0]["task"]["id"], &begun["moves"][0]["successor"]);
    let there = two.wanted_of("web", 1).await[0];
    assert_eq!(successor, &json!(there.to_string()));
    assert_eq!(one.unwanted(), [], "it goes on until its successor runs");
    two.report(there, 1, TaskState::Running).await.unwrap();
    let ended = eventually("its node is told to end it", SOON, async || {
        one.unwanted().first().copied().ok_or_else(|| "nothing".to_owned())
    })
    .await;
    assert_eq!(moved, &json!(ended.to_string()));
    one.report(ended, 1, TaskState::Stopped).await.unwrap();
    let left = tasks(&cli, "web").await;
    assert_eq!(left.len(), 4);
    let successor = left.iter().find(|task| task["id"] == *successor).unwrap();
    let placement = successor["placement"].as_str().unwrap();
    assert!(placement.starts_with("moved from w1 to balance the cluster"), "{placement}");
    let explained = cli.json(&["explain", &there.to_string()]).await;
    assert_eq!(explained["decided"]["moved_from"]["node"], "w1");
}

#[tokio::test]
async fn what_would_happen_is_told_and_nothing_is_changed() {
    let cluster = Cluster::start().await;
    let cli = cluster.cli();
    let _one = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    let _two = Played::join(cluster.bus(Worker, "w2").await).await.unwrap();
    submit(&cli, &job("web", 5, 1, "")).await;
    until(&cli, "web", "all are placed", |tasks| {
        let placed = tasks.iter().filter(|task| task["node"].is_string()).count();
        (placed == 5).then_some(())
    })
    .await;
    let index = cli.json(&["events", "-n", "1"]).await["index"].clone();
    let drained = cli.json(&["whatif", "drain", "w1"]).await;
    let on_one = tasks(&cli, "web").await.iter().filter(|task| task["node"] == "w1").count() as u64;
    assert_eq!(drained["placed_total"].as_u64().unwrap(), 4 - (5 - on_one));
    assert_eq!(drained["unplaced_total"], 1);
    let reason = drained["unplaced"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("1 is draining") && reason.contains("lacks cpu"), "{reason}");
    let lost = cli.json(&["whatif", "lose", "w1", "w2"]).await;
    assert_eq!((&lost["unplaced_total"], &lost["after"]["nodes"]), (&json!(5), &json!(0)));
    let added = cli.json(&["whatif", "add", "2xcpu=8,memory=16GiB", "--datacenter", "dc2"]).await;
    assert_eq!((&added["unplaced_total"], &added["after"]["nodes"]), (&json!(0), &json!(4)));
    let text = cli.ok(&["whatif", "drain", "w1"]).await;
    for part in ["before", "after", "web.main", "w1", "w2", "1 task would have no node"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    cli.run(&["whatif", "drain", "w9"]).await.exited(1).told("there is no node w9");
    cli.run(&["whatif", "add", "2xcpu=8"]).await.exited(2).told("at least cpu and memory");
    cli.run(&["explain", "web"]).await.exited(1).told("name one of them");
    cli.run(&["rebalance", "--gain", "0.5"]).await.exited(2).told("--gain");
    assert_eq!(cli.json(&["events", "-n", "1"]).await["index"], index, "nothing happened");
}

#[tokio::test]
async fn the_scheduler_is_the_clusters_unless_the_job_names_one() {
    let cluster = Cluster::start_with(&["--scheduler", "binpack"]).await;
    let cli = cluster.cli();
    let _one = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    for (name, more, scheduler) in [
        ("usual", "", "binpack"),
        ("turns", "scheduler = \"round-robin\"", "round-robin"),
        ("paper", "scheduler = \"epvm\"", "epvm"),
    ] {
        submit(&cli, &job(name, 1, 1, more)).await;
        let explained = cli.json(&["explain", name]).await;
        assert_eq!(explained["decided"]["scheduler"], scheduler);
        assert_eq!(explained["now"]["scheduler"], scheduler);
        assert_eq!(explained["now"]["best"][0]["node"], "w1");
    }
}
