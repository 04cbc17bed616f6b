//! A job's versions through the command line: planned, scaled, restarted, looked back at, rolled back.

use longshore_proto::id::TaskId;
use longshore_proto::permission::Role::Worker;
use longshore_proto::state::TaskState;
use longshore_tests::cli::Cli;
use longshore_tests::played::Played;
use longshore_tests::{Cluster, eventually};
use serde_json::Value;

use crate::SOON;

fn file(image: &str, instances: u32) -> String {
    format!(
        "name = \"web\"\n[[task]]\nimage = \"{image}\"\ninstances = {instances}\nenv = {{ TOKEN = \"{image}\" }}\n\
         update = {{ healthy_for = \"1s\" }}\n"
    )
}

/// Plays the node: what it is told to end ends, what it is told to run runs, until the job has so many tasks of an image.
async fn settled(cli: &Cli, node: &Played, image: &str, count: usize) -> Vec<TaskId> {
    eventually("the job is as it is wanted", SOON, async || {
        let tasks = cli.json(&["ps", "--job", "web"]).await;
        let tasks = tasks.as_array().unwrap();
        let mut settled = Vec::new();
        for task in tasks {
            let id: TaskId = task["id"].as_str().unwrap().parse().unwrap();
            let is_wanted = node.wanted().iter().any(|wanted| wanted.task == id);
            match task["state"].as_str().unwrap() {
                "running" if is_wanted => settled.push((id, task["image"] == image)),
                "assigned" if is_wanted => {
                    node.report(id, 1, TaskState::Running).await.unwrap();
                }
                _ if node.unwanted().contains(&id) => {
                    node.report(id, 1, TaskState::Stopped).await.unwrap();
                }
                _ => {}
            }
        }
        let is_whole = tasks.len() == count && settled.len() == count;
        if is_whole && settled.iter().all(|(_, is_of_image)| *is_of_image) {
            Ok(settled.iter().map(|(id, _)| *id).collect())
        } else {
            Err(format!("{tasks:#?}"))
        }
    })
    .await
}

#[tokio::test]
async fn a_job_is_planned_scaled_restarted_and_rolled_back() {
    let cluster = Cluster::start().await;
    let cli = cluster.cli();
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    let plan = async |file: &str| cli.run_with_input(&["job", "plan", "-"], Some(file)).await;

    assert!(plan(&file("x:1", 2)).await.exited(3).stdout.starts_with("web is new\n"));
    cli.run_with_input(&["job", "submit", "-"], Some(&file("x:1", 2))).await.succeeded();
    let first = settled(&cli, &node, "x:1", 2).await;
    plan(&file("x:1", 2)).await.exited(0).told("nothing would change");

    let told = plan(&file("x:2", 2)).await.exited(3).stdout;
    for line in
        ["~ main.image: x:1 -> x:2", "~ main.env.TOKEN: changed", "2 tasks would get a node"]
    {
        assert!(told.contains(line), "{line:?} is missing in {told}");
    }
    let version = cli.json(&["job", "status", "web"]).await["version"].clone();
    assert_eq!(version, 1, "a plan changes nothing");

    cli.run(&["job", "scale", "web", "3"]).await.succeeded().told("version 2 of web");
    let three = settled(&cli, &node, "x:1", 3).await;
    assert!(first.iter().all(|id| three.contains(id)), "those that ran stay");
    cli.run(&["job", "scale", "web.main", "0"]).await.exited(1).told("instances is 0");
    cli.run(&["job", "scale", "web.side", "2"]).await.exited(1).told("has no part side");

    cli.run(&["restart", &three[0].to_string()]).await.succeeded().told("takes its place");
    let after = settled_without(&cli, &node, &three[..1]).await;
    assert!(three[1..].iter().all(|id| after.contains(id)), "the others stay");
    cli.run(&["restart", "web"]).await.succeeded().told("version 3 of web");
    let renewed = settled_without(&cli, &node, &after).await;
    assert_eq!(renewed.len(), 3);

    cli.run_with_input(&["job", "submit", "-"], Some(&file("x:2", 3))).await.succeeded();
    settled(&cli, &node, "x:2", 3).await;
    let history = cli.json(&["job", "history", "web"]).await;
    let versions = history.as_array().unwrap();
    let fields = |version: usize| {
        let changes = versions[version - 1]["changes"].as_array().unwrap().iter();
        changes.map(|change| change["field"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((fields(2), fields(3)), (vec!["main.instances"], vec!["main.restarts"]));
    assert_eq!(fields(4), ["main.env.TOKEN", "main.image"]);
    assert_eq!(versions[3]["changes"][0]["after"], "(hidden)");
    assert_eq!(
        (&versions[3]["current"], &versions[0]["changes"]),
        (&Value::Bool(true), &Value::Null)
    );
    assert!(versions.iter().all(|version| version["submitted_at"].is_string()));
    assert!(versions[1]["actor"].as_str().unwrap().starts_with("operator/"));
    let said = cli.ok(&["job", "history", "web", "--version", "1", "--show-env"]).await;
    assert!(said.contains("main.env.TOKEN") && said.contains("x:1"), "{said}");
    cli.run(&["job", "history", "web", "--version", "9"]).await.exited(1).told("remembered: 1, 2");

    cli.run(&["job", "rollback", "web"]).await.succeeded().told("version 5 of web");
    settled(&cli, &node, "x:1", 3).await;
    cli.run(&["job", "rollback", "web", "--to", "5"]).await.exited(1).told("is now");
    cli.run(&["job", "rollback", "web", "--to", "4"]).await.succeeded();
    settled(&cli, &node, "x:2", 3).await;
    let audit = cli.ok(&["events", "--audit"]).await;
    for verb in ["job.scale", "job.restart", "job.rollback", "task.restart"] {
        assert!(audit.contains(verb), "{verb} is missing in {audit}");
    }
}

/// The job's three tasks run, and none of these is among them.
async fn settled_without(cli: &Cli, node: &Played, gone: &[TaskId]) -> Vec<TaskId> {
    eventually("those tasks have been followed by others", SOON, async || {
        let now = settled(cli, node, "x:1", 3).await;
        if now.iter().any(|id| gone.contains(id)) { Err(format!("{now:?}")) } else { Ok(now) }
    })
    .await
}
