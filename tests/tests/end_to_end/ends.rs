//! Exit codes, failures and their reasons, restarts, stops.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use longshore_bench::port::free_port;
use longshore_tests::{Cluster, IMAGE, eventually};
use serde_json::{Value, json};

use crate::SOON;
use crate::look::{running, sleeper, tasks, text, until};

#[tokio::test]
async fn a_batch_task_ends_the_waiting_with_its_own_exit_code() {
    let cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let run = ["run", "--type", "batch", "--restart", "never", "--wait", "--name"];
    let good = cli.run(&[&run[..], &["good", IMAGE, "true"]].concat()).await.exited(0);
    assert_eq!(good.stdout.lines().count(), 1, "the job's name alone is data: {good:?}");
    cli.run(&[&run[..], &["three", IMAGE, "sh", "-c", "exit 3"]].concat()).await.exited(3);
    assert_eq!(cli.json(&["job", "status", "good"]).await["status"], "completed");
    assert_eq!(cli.json(&["job", "status", "three"]).await["status"], "failed");
    let task = &tasks(&cli, "good").await[0];
    assert_eq!((&task["state"], &task["exit_code"]), (&json!("completed"), &json!(0)));
    assert!(task["finished_at"].is_string());
    let task = &tasks(&cli, "three").await[0];
    assert_eq!((&task["state"], &task["exit_code"]), (&json!("failed"), &json!(3)));
}

#[tokio::test]
async fn an_image_that_does_not_exist_is_a_visible_failure() {
    let cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let image = "no-such-image-anywhere:1";
    let words = [
        "run",
        "--type",
        "batch",
        "--pull",
        "never",
        "--restart",
        "never",
        "--name",
        "gone",
        "--wait",
        image,
    ];
    cli.run(&words).await.exited(125).told(image);
    let task = &tasks(&cli, "gone").await[0];
    assert_eq!(task["state"], "failed");
    assert!(text(task, "reason").contains(image), "{task}");
    // A service goes on trying, and says why it does not run.
    cli.ok(&["run", "--pull", "never", "--name", "trying", image]).await;
    let reason = until(&cli, "trying", "its reason is shown", |tasks| {
        tasks
            .iter()
            .find_map(|task| task["reason"].as_str())
            .filter(|r| r.contains(image))
            .map(str::to_owned)
    })
    .await;
    assert!(!reason.is_empty());
    cli.ok(&["stop", "--wait", "trying"]).await;
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_a_visible_failure() {
    let cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let words = [
        "run",
        "--type",
        "batch",
        "--restart",
        "never",
        "--name",
        "odd",
        "--wait",
        IMAGE,
        "/no/such/program",
    ];
    let outcome = cli.run(&words).await;
    assert!(matches!(outcome.code, Some(125..=127)), "{outcome:?}");
    let task = &tasks(&cli, "odd").await[0];
    assert_eq!(task["state"], "failed");
    assert!(text(task, "reason").contains("/no/such/program"), "{task}");
}

#[tokio::test]
async fn a_killed_container_is_started_again_as_the_next_attempt() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let first = sleeper(&cli, "web", &[]).await;
    let docker = cluster.docker().await;
    docker.kill(&text(&first, "container_id")).await;
    let second = until(&cli, "web", "the second attempt runs", |tasks| {
        tasks.iter().find(|task| task["state"] == "running" && task["attempt"] == 2).cloned()
    })
    .await;
    assert_eq!(second["id"], first["id"], "a restart on the node is the same task");
    assert_ne!(second["container_id"], first["container_id"]);
    assert_eq!(docker.running().await, [text(&second, "container_id")]);
}

#[tokio::test]
async fn restarts_back_off_and_end_in_a_failure_with_its_reason() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let file = format!(
        r#"
        name = "crash"
        type = "batch"
        [[task]]
        image = "{IMAGE}"
        command = ["sh", "-c", "echo attempt $LONGSHORE_ATTEMPT; exit 7"]
        restart = {{ mode = "on-failure", attempts = 2, delay = "1s", max_delay = "10s" }}
        "#
    );
    let start = Instant::now();
    cli.run_with_input(&["job", "submit", "--wait", "-"], Some(&file)).await.exited(7);
    // One second, then two (less a little jitter), lie between three attempts.
    assert!(start.elapsed() > Duration::from_millis(2_000), "{:?}", start.elapsed());
    let all = tasks(&cli, "crash").await;
    assert_eq!(all.len(), 1);
    assert_eq!(
        (&all[0]["state"], &all[0]["attempt"], &all[0]["exit_code"]),
        (&json!("failed"), &json!(3), &json!(7))
    );
    let reason = text(&all[0], "reason");
    assert!(reason.contains('7') && reason.contains("restart"), "{reason}");
    let events = cli.ok(&["events", "--job", "crash", "-o", "json"]).await;
    let starts = events.lines().filter(|line| line.contains("\"task.running\"")).count();
    assert_eq!(starts, 3, "each attempt is told: {events}");
    assert!(cluster.docker().await.running().await.is_empty());
}

#[tokio::test]
async fn a_service_whose_task_is_given_up_gets_another() {
    let cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let words =
        ["run", "--name", "web", "--restart", "never", IMAGE, "sh", "-c", "sleep 1; exit 1"];
    cli.ok(&words).await;
    let (first, second) = until(&cli, "web", "a replacement is there", |tasks| {
        let first = tasks.iter().find(|task| task["state"] == "failed")?;
        let second = tasks.iter().find(|task| task["replaces"] == first["id"])?;
        Some((first.clone(), second.clone()))
    })
    .await;
    assert_eq!((&first["slot"], &first["exit_code"]), (&second["slot"], &json!(1)));
    cli.ok(&["stop", "--wait", "web"]).await;
}

#[tokio::test]
async fn a_stop_is_polite_first_and_a_kill_after_the_grace() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    // One that ends when it is asked to, one that does not listen.
    let polite = "trap 'exit 0' TERM; while true; do sleep 0.1; done";
    let deaf = "trap '' TERM; while true; do sleep 0.1; done";
    cli.ok(&[
        "run",
        "--name",
        "polite",
        "--stop-grace",
        "30s",
        "--wait",
        IMAGE,
        "sh",
        "-c",
        polite,
    ])
    .await;
    cli.ok(&["run", "--name", "deaf", "--stop-grace", "3s", "--wait", IMAGE, "sh", "-c", deaf])
        .await;
    let start = Instant::now();
    cli.ok(&["stop", "--wait", "polite"]).await;
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "it was not waited for its grace: {:?}",
        start.elapsed()
    );
    let start = Instant::now();
    cli.ok(&["stop", "--wait", "deaf"]).await;
    assert!(
        start.elapsed() >= Duration::from_secs(3),
        "killed before its grace: {:?}",
        start.elapsed()
    );
    for name in ["polite", "deaf"] {
        assert_eq!(tasks(&cli, name).await[0]["state"], "stopped");
        assert_eq!(cli.json(&["job", "status", name]).await["status"], "stopped");
    }
    assert!(cluster.docker().await.running().await.is_empty());
}

#[tokio::test]
async fn stopping_one_task_lowers_the_count_and_says_so() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    sleeper(&cli, "web", &["-n", "3"]).await;
    let victim = text(&tasks(&cli, "web").await[1], "id");
    let outcome = cli.run(&["stop", "--wait", &victim]).await.succeeded();
    assert!(
        format!("{}{}", outcome.stdout, outcome.stderr).contains('2'),
        "the new count is told: {outcome:?}"
    );
    let live: Vec<Value> = cli.json(&["ps"]).await.as_array().unwrap().clone();
    assert_eq!(live.len(), 2);
    assert!(live.iter().all(|task| task["id"] != victim.as_str()));
    assert_eq!(cli.json(&["job", "status", "web"]).await["specs"][0]["instances"], 2);
    assert_eq!(cluster.docker().await.running().await.len(), 2);
}

#[tokio::test]
async fn a_port_that_somebody_else_has_is_a_visible_reason_until_it_is_free() {
    let cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let port = free_port();
    let foreign = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let publish = format!("{port}:8080");
    cli.ok(&[
        "run",
        "--name",
        "web",
        "--stop-grace",
        "1s",
        "-p",
        &publish,
        IMAGE,
        "sleep",
        "1000000",
    ])
    .await;
    let reason = until(&cli, "web", "its reason names the port", |tasks| {
        let reasons = tasks.iter().filter_map(|task| task["reason"].as_str());
        reasons.filter(|reason| reason.contains(&port.to_string())).map(str::to_owned).next()
    })
    .await;
    assert!(reason.contains("port"), "{reason}");
    drop(foreign);
    running(&cli, "web").await;
    // The next task that wants the same port waits for a node where it is free.
    cli.ok(&["run", "--name", "second", "-p", &publish, IMAGE, "sleep", "1000000"]).await;
    eventually("the second waits", SOON, async || {
        let tasks = tasks(&cli, "second").await;
        let reason = tasks[0]["reason"].as_str().unwrap_or_default();
        if tasks[0]["state"] == "pending" && reason.contains("port") {
            Ok(())
        } else {
            Err(format!("{tasks:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_task_that_fits_nowhere_waits_with_its_reason() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    cli.ok(&[
        "run",
        "--name",
        "big",
        "--memory",
        "6GiB",
        "--stop-grace",
        "1s",
        IMAGE,
        "sleep",
        "1000000",
    ])
    .await;
    let reason = until(&cli, "big", "it waits with a reason", |tasks| {
        let waiting = tasks.iter().find(|task| task["state"] == "pending")?;
        waiting["reason"].as_str().map(str::to_owned)
    })
    .await;
    assert!(reason.contains("memory"), "{reason}");
    cluster.start_worker("w2", &["--capacity", "cpu=4,memory=8GiB,disk=10GiB"]);
    assert_eq!(running(&cli, "big").await["node"], "w2");
}
