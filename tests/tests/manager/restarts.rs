//! What `kill -9` of the manager or of the server leaves: everything that was acknowledged, once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use longshore_bus::Ask;
use longshore_proto::api::{JobSubmitted, SubmitJob};
use longshore_proto::name::Namespace;
use longshore_proto::permission::Role::Worker;
use longshore_proto::state::{JobStatus, TaskState};
use longshore_proto::subject::{ApiVerb, Scope};
use longshore_tests::played::Played;
use longshore_tests::{Api, Cluster, api, eventually};

use crate::SOON;

#[tokio::test]
async fn a_killed_manager_knows_everything_it_acknowledged_and_goes_on() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    let mut web = api::service("web");
    web.specs[0].instances = 3;
    api.submit(&web).await.unwrap();
    let wanted = node.wanted_count(3).await;
    node.report(wanted[0].task, 1, TaskState::Running).await.unwrap();
    node.report(wanted[1].task, 4, TaskState::Running).await.unwrap();
    api.submit(&api::batch("sum")).await.unwrap();
    api.stop_job("sum").await.unwrap();
    let before = (api.status().await.unwrap(), api.tasks("web").await.unwrap());
    cluster.manager("m1").kill();

    cluster.start_manager("m1", &[]);
    let after = cluster.answers().await;
    let status = after.status().await.unwrap();
    assert_eq!((status.id, status.epoch), (before.0.id, before.0.epoch + 1));
    assert_ne!(status.leader, before.0.leader, "it is another process");
    let mut tasks = after.tasks("web").await.unwrap();
    for task in &mut tasks {
        task.silent = false;
    }
    assert_eq!(tasks, before.1);
    assert!(matches!(
        after.job("sum").await.unwrap().status,
        JobStatus::Stopping | JobStatus::Stopped
    ));
    // The node was not told of anything new, and both go on where they were.
    node.report(wanted[2].task, 1, TaskState::Running).await.unwrap();
    eventually("all three run", SOON, async || {
        let job = after.job("web").await.map_err(|error| error.to_string())?;
        if job.specs[0].running == 3 { Ok(()) } else { Err(format!("{job:?}")) }
    })
    .await;
    web.specs[0].instances = 4;
    assert_eq!(after.submit(&web).await.unwrap().version, 2);
    let again = node.wanted_count(4).await;
    assert!(wanted.iter().all(|old| again.iter().any(|new| new.task == old.task)), "{again:?}");
}

/// Submits jobs one after another for as long as it is wanted, each retried with its own id until it is
/// acknowledged. Gives what was acknowledged.
async fn submit_all_along(api: Api, done: Arc<AtomicBool>) -> BTreeMap<String, u64> {
    let mut acknowledged = BTreeMap::new();
    while !done.load(Ordering::Relaxed) {
        let name = format!("job-{}", acknowledged.len());
        let job = api::service(&name);
        let scope = Scope::Namespace(Namespace::standard());
        let ask = Ask::write(api::command_id(), 2 * SOON);
        let answer: JobSubmitted =
            api.ask(scope, ApiVerb::JobSubmit, &SubmitJob { job }, ask).await.unwrap();
        acknowledged.insert(name, answer.version);
    }
    acknowledged
}

/// Every acknowledged job is known, once; the history in order, without a gap.
async fn nothing_is_lost(api: &Api, acknowledged: &BTreeMap<String, u64>) {
    assert!(
        acknowledged.len() >= 10,
        "only {} jobs: the test has shown nothing",
        acknowledged.len()
    );
    for (name, version) in acknowledged {
        assert_eq!(*version, 1, "{name} was submitted once");
        assert_eq!(api.job(name).await.unwrap().version, 1, "{name}");
    }
    let history = api.history().await.unwrap();
    let submits = history.iter().filter(|event| event.event_type == "job.submitted").count();
    assert_eq!(submits, acknowledged.len(), "each submit is one event");
    let places: Vec<(u64, u32)> =
        history.iter().map(|event| (event.index, event.ordinal)).collect();
    assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
}

#[tokio::test]
async fn under_load_repeated_kills_of_the_manager_lose_and_double_nothing() {
    let mut cluster = Cluster::start().await;
    let done = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(submit_all_along(cluster.api().await, Arc::clone(&done)));
    let api = cluster.api().await;
    for _ in 0..4 {
        let jobs = api.status().await.unwrap().jobs;
        eventually("the load goes on", SOON, async || {
            let now = api.status().await.map_err(|error| error.to_string())?.jobs;
            if now >= jobs + 5 { Ok(()) } else { Err(format!("{now} jobs")) }
        })
        .await;
        cluster.manager("m1").kill();
        cluster.start_manager("m1", &[]);
        cluster.answers().await;
    }
    done.store(true, Ordering::Relaxed);
    let acknowledged = load.await.unwrap();
    nothing_is_lost(&api, &acknowledged).await;
    assert_eq!(api.status().await.unwrap().records_skipped, 0);
}

#[tokio::test]
async fn under_load_repeated_kills_of_the_server_lose_and_double_nothing() {
    let mut cluster = Cluster::start().await;
    let done = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(submit_all_along(cluster.api().await, Arc::clone(&done)));
    let api = cluster.api().await;
    for _ in 0..3 {
        let jobs = api.status().await.unwrap().jobs;
        eventually("the load goes on", SOON, async || {
            let now = api.status().await.map_err(|error| error.to_string())?.jobs;
            if now >= jobs + 5 { Ok(()) } else { Err(format!("{now} jobs")) }
        })
        .await;
        cluster.nats.kill();
        cluster.nats.restart().await;
        cluster.answers().await;
    }
    done.store(true, Ordering::Relaxed);
    let acknowledged = load.await.unwrap();
    nothing_is_lost(&api, &acknowledged).await;
    assert!(cluster.manager("m1").is_running());
}
