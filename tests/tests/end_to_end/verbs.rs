//! What each verb prints, for people and for programs.

use longshore_tests::cli::{fields, has_fields};
use longshore_tests::{Cluster, IMAGE, eventually};
use serde_json::{Value, json};

use crate::SOON;
use crate::look::{running, sleeper, tasks, text};

const TASK: [&str; 16] = [
    "id",
    "namespace",
    "job",
    "spec",
    "slot",
    "version",
    "state",
    "attempt",
    "node",
    "container_id",
    "image",
    "exit_code",
    "reason",
    "created_at",
    "started_at",
    "finished_at",
];
const NODE: [&str; 11] = [
    "name",
    "datacenter",
    "status",
    "eligibility",
    "labels",
    "capacity",
    "committed",
    "used",
    "tasks",
    "tasks_max",
    "mount_paths",
];
const JOB: [&str; 8] =
    ["namespace", "name", "type", "version", "status", "priority", "datacenters", "specs"];
const EVENT: [&str; 11] = [
    "index",
    "time",
    "type",
    "namespace",
    "job",
    "spec",
    "task",
    "node",
    "state",
    "attempt",
    "reason",
];

/// RFC 3339 in UTC, as `2026-01-02T03:04:05.678Z`.
fn is_time(value: &Value) -> bool {
    let Some(text) = value.as_str() else { return false };
    text.len() >= 20 && text.ends_with('Z') && text.as_bytes()[10] == b'T'
}

#[tokio::test]
async fn every_verb_prints_its_documented_json() {
    let mut cluster = Cluster::server().await;
    cluster.start_manager("m1", &[]);
    cluster.answers().await;
    cluster
        .start_worker("w1", &["--datacenter", "dc7", "--label", "rack=a", "--label", "disk=ssd"]);
    cluster.node_is("w1", longshore_proto::state::NodeStatus::Ready).await;
    let cli = cluster.cli();
    let task =
        sleeper(&cli, "web", &["--cpus", "0.5", "--memory", "64MiB", "--datacenter", "dc7"]).await;

    has_fields(&task, &TASK);
    assert_eq!(
        (&task["job"], &task["spec"], &task["slot"]),
        (&json!("web"), &json!("main"), &json!(0))
    );
    assert_eq!((&task["version"], &task["attempt"]), (&json!(1), &json!(1)));
    assert_eq!((&task["node"], &task["image"]), (&json!("w1"), &json!(IMAGE)));
    assert_eq!((&task["exit_code"], &task["finished_at"]), (&Value::Null, &Value::Null));
    assert!(is_time(&task["created_at"]) && is_time(&task["started_at"]), "{task}");
    assert_eq!(text(&task, "container_id").len(), 64);
    let id = text(&task, "id");
    assert_eq!(cli.json(&["status", &id]).await["id"], task["id"]);
    assert_eq!(
        cli.json(&["status", &id[..13]]).await["id"],
        task["id"],
        "a unique prefix is enough"
    );

    let nodes = cli.json(&["node", "ls"]).await;
    let node = &nodes[0];
    has_fields(node, &NODE);
    for amount in ["capacity", "committed", "used"] {
        assert_eq!(fields(&node[amount]), ["cpu_millis", "disk_bytes", "memory_bytes"]);
    }
    assert_eq!(
        node["capacity"],
        json!({"cpu_millis": 4000, "memory_bytes": 4_u64 << 30, "disk_bytes": 10_u64 << 30})
    );
    assert_eq!(
        node["committed"],
        json!({"cpu_millis": 500, "memory_bytes": 64 << 20, "disk_bytes": 0})
    );
    assert_eq!(
        (&node["name"], &node["datacenter"], &node["status"]),
        (&json!("w1"), &json!("dc7"), &json!("ready"))
    );
    assert_eq!((&node["eligibility"], &node["tasks"]), (&json!("open"), &json!(1)));
    assert_eq!(node["labels"], json!({"rack": "a", "disk": "ssd"}));
    eventually("the node's metrics are live", SOON, async || {
        let node = cli.json(&["node", "status", "w1"]).await;
        match node["used"]["memory_bytes"].as_u64() {
            Some(bytes) if bytes > 0 => Ok(()),
            _ => Err(node.to_string()),
        }
    })
    .await;

    let jobs = cli.json(&["job", "ls"]).await;
    has_fields(&jobs[0], &JOB);
    let job = cli.json(&["job", "status", "web"]).await;
    has_fields(&job, &JOB);
    assert_eq!(
        (&job["type"], &job["status"], &job["priority"]),
        (&json!("service"), &json!("running"), &json!(50))
    );
    assert_eq!(job["datacenters"], json!(["dc7"]));
    let spec = &job["specs"][0];
    assert_eq!(
        (&spec["name"], &spec["instances"], &spec["running"]),
        (&json!("main"), &json!(1), &json!(1))
    );
    assert_eq!(cli.json(&["status", "web"]).await["name"], "web");
    let status = cli.json(&["status"]).await;
    assert_eq!(status["tasks"], json!({"running": 1}), "{status}");
    assert_eq!(status["alarms"], json!([]));

    let events = cli.ok(&["events", "-o", "json"]).await;
    let events: Vec<Value> =
        events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in &events {
        has_fields(event, &EVENT);
        assert!(is_time(&event["time"]), "{event}");
    }
    let states: Vec<&str> = events
        .iter()
        .filter(|event| event["task"] == task["id"])
        .filter_map(|event| event["state"].as_str())
        .collect();
    assert_eq!((states.first(), states.last()), (Some(&"pending"), Some(&"running")), "{states:?}");

    // For people: tables that name the same things.
    for (words, wanted) in [
        (&["ps"][..], "running"),
        (&["ps", "-o", "wide"], IMAGE),
        (&["node", "ls"], "dc7"),
        (&["node", "status", "w1"], "rack"),
        (&["job", "ls"], "service"),
        (&["job", "status", "web"], "main"),
        (&["status"], "leader"),
        (&["events"], "task.running"),
        (&["completion", "bash"], "longshore"),
    ] {
        let printed = cli.ok(words).await;
        assert!(printed.contains(wanted), "{words:?} does not print {wanted:?}:\n{printed}");
    }
    let doctor = cli.json(&["doctor"]).await;
    let found: Vec<&str> =
        doctor.as_array().unwrap().iter().map(|f| f["level"].as_str().unwrap()).collect();
    assert!(found.iter().all(|level| *level != "fail"), "{doctor}");
}

#[tokio::test]
async fn logs_are_printed_and_followed() {
    let cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let script = "echo one; echo two >&2; echo three; while true; do sleep 1; echo more; done";
    cli.ok(&["run", "--name", "talk", "--stop-grace", "1s", "--wait", IMAGE, "sh", "-c", script])
        .await;
    let task = running(&cli, "talk").await;
    let printed = eventually("the first lines are there", SOON, async || {
        let outcome = cli.run(&["logs", "talk"]).await.succeeded();
        if outcome.stdout.contains("three") { Ok(outcome) } else { Err(format!("{outcome:?}")) }
    })
    .await;
    assert!(printed.stdout.starts_with("one\nthree\n"), "{printed:?}");
    assert!(printed.stderr.contains("two"), "stderr stays stderr: {printed:?}");
    // The last line may be of either stream: Docker reads them side by side.
    let last = cli.run(&["logs", "--tail", "1", &text(&task, "id")]).await.succeeded();
    let last = format!("{}{}", last.stdout, last.stderr);
    assert_eq!(last.lines().count(), 1, "{last:?}");
    let timed = cli.ok(&["logs", "--timestamps", "talk"]).await;
    let is_timed = |line: &str| line.starts_with("20") && line.contains("T") && line.contains("Z ");
    assert!(timed.lines().all(is_timed), "{timed:?}");

    let follower = cli.stay("follower", &["logs", "-f", "talk"]);
    eventually("what is written later is followed", SOON, async || {
        let more = follower.log().matches("more").count();
        if more >= 3 { Ok(()) } else { Err(follower.log()) }
    })
    .await;
    cli.ok(&["stop", "--wait", "talk"]).await;
    let mut follower = follower;
    let status = follower.ended(SOON).await;
    assert!(status.success(), "it ends with its task: {}", follower.log());
    // A task that has ended keeps its logs for a while.
    let outcome = cli.run(&["logs", "talk"]).await;
    assert!(outcome.stdout.starts_with("one\n"), "{outcome:?}");
}

#[tokio::test]
async fn events_are_followed_as_they_happen() {
    let cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let follower = cli.stay("events", &["events", "-f", "-o", "json"]);
    follower.says("node.registered", SOON).await;
    cli.ok(&["run", "--type", "batch", "--name", "sum", "--wait", IMAGE, "true"]).await;
    follower.says("job.completed", SOON).await;
    let log = follower.log();
    let lines: Vec<Value> =
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of_task: Vec<&str> = lines
        .iter()
        .filter(|event| event["job"] == "sum")
        .filter_map(|event| event["type"].as_str())
        .collect();
    for wanted in
        ["job.submitted", "task.pending", "task.assigned", "task.running", "task.completed"]
    {
        assert_eq!(
            of_task.iter().filter(|kind| **kind == wanted).count(),
            1,
            "{wanted} in {of_task:?}"
        );
    }
    let indexes: Vec<u64> = lines.iter().map(|event| event["index"].as_u64().unwrap()).collect();
    assert!(indexes.is_sorted(), "{indexes:?}");
}

#[tokio::test]
async fn a_job_file_with_several_parts_runs_in_full() {
    let cluster = Cluster::with_workers(&["w1", "w2"]).await;
    let cli = cluster.cli();
    let file = format!(
        r#"
        name = "shop"
        priority = 70
        scheduler = "round-robin"
        [[task]]
        name = "web"
        image = "{IMAGE}"
        command = ["sleep", "1000000"]
        instances = 3
        stop_grace = "1s"
        [[task]]
        name = "cache"
        image = "{IMAGE}"
        command = ["sleep", "1000000"]
        memory = "64MiB"
        stop_grace = "1s"
        "#
    );
    cli.run_with_input(&["job", "submit", "--wait", "-"], Some(&file)).await.succeeded();
    let job = cli.json(&["job", "status", "shop"]).await;
    assert_eq!((&job["status"], &job["priority"]), (&json!("running"), &json!(70)));
    let tasks = tasks(&cli, "shop").await;
    assert_eq!(tasks.iter().filter(|task| task["spec"] == "web").count(), 3);
    for node in ["w1", "w2"] {
        assert!(tasks.iter().any(|task| task["node"] == node), "both nodes get some: {tasks:?}");
    }
    // The same file again changes nothing; another count is another version.
    cli.run_with_input(&["job", "submit", "--wait", "-"], Some(&file)).await.succeeded();
    assert_eq!(cli.json(&["job", "status", "shop"]).await["version"], 1);
    let fewer = file.replace("instances = 3", "instances = 1");
    cli.run_with_input(&["job", "submit", "--wait", "-"], Some(&fewer)).await.succeeded();
    crate::look::until(&cli, "shop", "one web is left", |tasks| {
        let live = |task: &&Value| task["spec"] == "web" && task["finished_at"].is_null();
        (tasks.iter().filter(live).count() == 1).then_some(())
    })
    .await;
    cli.ok(&["job", "stop", "--wait", "shop"]).await;
    assert_eq!(cli.json(&["job", "status", "shop"]).await["status"], "stopped");
    assert_eq!(cli.json(&["ps"]).await, json!([]));
}
