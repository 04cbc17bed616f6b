//! History, the cluster as it was, and who asked for what.

use longshore_bus::Ask;
use longshore_proto::api::{ListTasks, Page, TaskView};
use longshore_proto::name::Namespace;
use longshore_proto::permission::Role::Worker;
use longshore_proto::state::TaskState;
use longshore_proto::subject::{ApiVerb, Scope, Subject};
use longshore_tests::played::Played;
use longshore_tests::{Api, Cluster, api, eventually};
use serde_json::Value;

use crate::SOON;

/// The tasks as of a moment, and the index that the answer reflects.
async fn tasks_at(api: &Api, at: &str) -> (u64, Vec<TaskView>) {
    let scope = Scope::Namespace(Namespace::standard());
    let subject = Subject::Api { scope, verb: ApiVerb::TaskList };
    let mut ask = Ask::read(SOON);
    ask.at = Some(at.to_owned());
    let (index, page): (u64, Page<TaskView>) =
        api.bus().ask(&subject, &ListTasks::default(), ask).await.unwrap();
    (index, page.items)
}

#[tokio::test]
async fn the_cluster_is_shown_as_it_was() {
    let mut cluster = Cluster::start_with(&["--snapshot-records", "10"]).await;
    let api = cluster.api().await;
    let cli = cluster.cli();
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    api.submit(&api::service("web")).await.unwrap();
    let task = node.wanted_count(1).await[0].task;
    node.report(task, 1, TaskState::Running).await.unwrap();
    let history = api.history().await.unwrap();
    let running = history.iter().find(|event| event.event_type == "task.running").unwrap();
    api.stop_job("web").await.unwrap();
    node.report(task, 1, TaskState::Stopped).await.unwrap();
    for count in 0..25 {
        api.submit(&api::batch(&format!("job-{count}"))).await.unwrap();
    }
    cluster.start_standby("m2", &[]).await;
    // By index and by time, from journal and snapshots, whichever manager answers.
    for _ in 0..6 {
        let (index, tasks) = tasks_at(&api, &running.index.to_string()).await;
        assert_eq!((index, tasks.len()), (running.index, 1), "{tasks:?}");
        assert_eq!((tasks[0].id, tasks[0].state), (task, TaskState::Running));
        let (index, tasks) = tasks_at(&api, &(running.index - 1).to_string()).await;
        assert_eq!(index, running.index - 1);
        assert_ne!(tasks[0].state, TaskState::Running);
        assert!(tasks_at(&api, &format!("@{}", running.at_ms)).await.0 >= running.index);
    }
    let at = running.index.to_string();
    let ps = cli.json(&["ps", "--at", &at]).await;
    assert_eq!(ps[0]["state"], "running");
    assert_eq!(cli.json(&["job", "status", "web", "--at", &at]).await["status"], "running");
    assert_eq!(cli.json(&["node", "ls", "--at", &at]).await[0]["name"], "w1");
    assert_eq!(cli.json(&["node", "ls", "--at", "1"]).await, Value::Array(vec![]));
    cli.run(&["ps", "--at", "2222-01-31T12:00:00Z"]).await.exited(2).told("is yet to come");
    // Ages are those of that moment, however long ago it is by now.
    let age = async |words: &[&str]| {
        let shown = cli.ok(&[&["ps", "-a", "--job", "web"], words].concat()).await;
        let mut lines = shown.lines();
        let column = lines.next().unwrap().rfind("AGE").unwrap();
        lines.next().unwrap()[column..].split_whitespace().next().unwrap().to_owned()
    };
    let then = age(&["--at", &at]).await;
    eventually("the task grows older", SOON, async || {
        let now = age(&[]).await;
        if now == then { Err(now) } else { Ok(()) }
    })
    .await;
    assert_eq!(age(&["--at", &at]).await, then);
    cli.run(&["ps", "--at", "999999"]).await.exited(1).told("history reaches");
    cli.run(&["ps", "--at", "yesterday"]).await.exited(2).told("2026-01-31T12:00:00Z");
    cli.run(&["job", "status", "job-3", "--at", &at]).await.exited(1).told("no job job-3");

    let diff = cli.ok(&["diff", "--from", &at]).await;
    assert!(diff.contains("~ job web status: running -> stopped"), "{diff}");
    assert!(diff.contains("+ job job-24 ") && diff.contains("state: running -> stopped"), "{diff}");
    let nothing = cli.run(&["diff", "--from", &at, "--to", &at]).await.succeeded();
    assert_eq!(nothing.told("nothing differs").stdout, "");
}

#[tokio::test]
async fn history_is_searched_and_says_who_asked_for_what() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let cli = cluster.cli().with("USER", "carol");
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    api.submit(&api::service("web")).await.unwrap();
    let task = node.wanted_count(1).await[0].task;
    node.report(task, 1, TaskState::Running).await.unwrap();
    cli.ok(&["stop", "web"]).await;
    node.report(task, 1, TaskState::Stopped).await.unwrap();

    let types = async |words: &[&str]| -> Vec<String> {
        let text = cli.ok(&[&["events", "-o", "json"], words].concat()).await;
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    };
    let of_task = ["task.pending", "task.assigned", "task.running", "task.stopped"];
    assert_eq!(types(&["--type", "task"]).await, of_task);
    assert_eq!(types(&["--type", "task.running"]).await, ["task.running"]);
    assert_eq!(types(&["--task", &task.to_string()[..13]]).await, of_task);
    let on_node = types(&["--node", "w1"]).await;
    assert_eq!(on_node, ["node.registered", "task.assigned", "task.running", "task.stopped"]);
    assert!(types(&["--since", "1h", "--type", "job"]).await.contains(&"job.submitted".into()));
    assert_eq!(types(&["--until", "1h"]).await, Vec::<String>::new());
    assert_eq!(types(&["--until", "2020-01-01T00:00:00Z"]).await, Vec::<String>::new());
    assert!(types(&[]).await.iter().all(|kind| !kind.starts_with("audit.")));

    let audit = cli.ok(&["events", "--audit"]).await;
    let lines: Vec<&str> = audit.lines().collect();
    assert_eq!(lines.len(), 2, "{audit}");
    assert!(
        lines[0].contains("audit.job.submit") && lines[0].contains("by=operator/alice"),
        "{audit}"
    );
    assert!(
        lines[1].contains("audit.job.stop") && lines[1].contains("by=operator/alice (carol)"),
        "{audit}"
    );
    assert!(lines[1].contains("default/web"), "{audit}");
    assert_eq!(types(&["--audit", "--type", "audit.job.stop"]).await, ["audit.job.stop"]);
    // A whole kind, with or without the word that all of them begin with.
    let both = ["audit.job.submit", "audit.job.stop"];
    for kind in ["audit", "audit.job", "job"] {
        assert_eq!(types(&["--audit", "--type", kind]).await, both, "{kind}");
    }
    assert_eq!(types(&["--audit", "--type", "job.stop"]).await, ["audit.job.stop"]);

    // What is cut short, finds nothing or cannot be meant is told.
    cli.run(&["events", "-n", "2"]).await.succeeded().told("the newest 2; older ones fit, too");
    let none = cli.run(&["events", "--type", "task.fail"]).await.succeeded();
    assert_eq!(none.told("no event fits; types are such as task.failed").stdout, "");
    cli.run(&["events", "--job", "nobody", "--all"]).await.succeeded().told("no event fits");
    let turned = cli.run(&["events", "--since", "1h", "--until", "2h"]).await;
    turned.exited(2).told("--since is the earlier of the two");

    // What was asked about a node or a task is found by it.
    let other = Played::join(cluster.bus(Worker, "w2").await).await.unwrap();
    cli.ok(&["node", "cordon", "w1", "w2"]).await;
    cli.ok(&["node", "uncordon", "w2"]).await;
    assert_eq!(types(&["--audit", "--node", "w1"]).await, ["audit.node.cordon"]);
    let of_both = ["audit.node.cordon", "audit.node.uncordon"];
    assert_eq!(types(&["--audit", "--node", "w2"]).await, of_both);
    assert_eq!(types(&["--node", "w2", "--type", "audit"]).await, Vec::<String>::new());
    api.submit(&api::service("api")).await.unwrap();
    let id = other.wanted_count(1).await[0].task.to_string();
    cli.ok(&["stop", &id]).await;
    assert_eq!(types(&["--audit", "--task", &id]).await, ["audit.task.stop"]);
    assert_eq!(types(&["--audit", "--job", "web"]).await, both);
    cli.run(&["events", "--audit", "-f"]).await.exited(2).told("cannot be used with");
}
