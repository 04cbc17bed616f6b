//! The load generator of the benchmark, at a size for tests: real workers without containers.

use std::time::Duration;

use longshore_bench::load::{Place, Workers};
use longshore_proto::permission::Role::Worker;
use longshore_proto::state::{JobStatus, NodeStatus, TaskState};
use longshore_tests::{Api, Cluster, api, eventually};

use crate::SOON;

const WORKERS: usize = 20;
const TASKS: u32 = 200;

/// Waits until every node is ready and was heard within a time.
async fn all_are_heard(api: &Api, within: Duration) {
    eventually("every node is ready and heard", SOON, async || {
        let nodes = api.nodes().await.map_err(|error| error.to_string())?;
        let heard = nodes.iter().filter(|node| {
            let lately = node.heard_ms_ago.is_some_and(|ms| u128::from(ms) < within.as_millis());
            lately && node.status == NodeStatus::Ready
        });
        let heard = heard.count();
        if heard == WORKERS { Ok(()) } else { Err(format!("{heard} of {WORKERS}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_workers_run_two_hundred_tasks_and_come_back_when_nats_was_away() {
    let (mut cluster, names) = Cluster::start_for_many(WORKERS).await;
    let api = cluster.api().await;
    let place = Place {
        url: cluster.nats.url(),
        root: cluster.users.root().clone(),
        data: cluster.folder().join("workers"),
    };
    let users = names.iter().map(|name| cluster.users.credentials(Worker, name));
    let mut workers = Workers::start(&place, users).unwrap();
    all_are_heard(&api, SOON).await;

    let mut job = api::service("web");
    job.specs[0].instances = TASKS;
    job.specs[0].resources.memory_bytes = 64 << 20;
    api.submit(&job).await.unwrap();
    eventually("the job runs", SOON, async || match api.job("web").await {
        Ok(job) if job.status == JobStatus::Running => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!((workers.running(), workers.started()), (u64::from(TASKS), u64::from(TASKS)));
    assert!(workers.first_start(&job.name).is_some());
    let nodes = api.nodes().await.unwrap();
    assert!(nodes.iter().all(|node| node.tasks == 10), "spread over all: {nodes:?}");

    cluster.nats.kill();
    cluster.nats.restart().await;
    let api = cluster.answers().await;
    all_are_heard(&api, Duration::from_secs(3)).await;
    let running = api.status().await.unwrap().tasks.get(&TaskState::Running).copied();
    assert_eq!(running, Some(u64::from(TASKS)));
    assert_eq!(workers.started(), u64::from(TASKS), "nothing was started anew");

    api.stop_job("web").await.unwrap();
    eventually("nothing runs", SOON, async || match workers.running() {
        0 => Ok(()),
        running => Err(format!("{running} run")),
    })
    .await;
    assert!(workers.fallen().is_none() && workers.alive() == WORKERS);
    workers.end().await.unwrap();
}

#[tokio::test]
async fn thousands_of_tasks_are_listed_and_counted_beside_the_loop() {
    // More than a question may look through while everybody's decisions wait.
    const MANY: u32 = 6_000;
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let mut job = api::service("web");
    job.specs[0].instances = MANY;
    api.submit(&job).await.unwrap();
    eventually("every task is there", SOON, async || {
        let tasks = api.status().await.map_err(|error| error.to_string())?.tasks;
        let pending = tasks.get(&TaskState::Pending).copied().unwrap_or(0);
        if pending == u64::from(MANY) { Ok(()) } else { Err(format!("{tasks:?}")) }
    })
    .await;
    let view = api.job("web").await.unwrap();
    assert_eq!((view.specs[0].pending, view.specs[0].instances), (MANY, MANY));
    assert!(api.job("none").await.is_err());
    let cli = cluster.cli();
    let listed = cli.json(&["job", "ls"]).await;
    assert_eq!((&listed[0]["name"], listed.as_array().unwrap().len()), (&"web".into(), 1));
    let tasks = cli.json(&["ps"]).await;
    assert_eq!(tasks.as_array().unwrap().len(), MANY as usize);
}
