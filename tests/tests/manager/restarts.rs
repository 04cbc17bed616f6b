//! What `kill -9` of the manager or of the server leaves: everything that was acknowledged, once.

use longshore_proto::permission::Role::Worker;
use longshore_proto::state::{JobStatus, TaskState};
use longshore_tests::load::Load;
use longshore_tests::played::Played;
use longshore_tests::{Cluster, api, eventually};

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

#[tokio::test]
async fn under_load_repeated_kills_of_the_manager_lose_and_double_nothing() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(cluster.api().await);
    for _ in 0..4 {
        load.goes_on(5).await;
        cluster.manager("m1").kill();
        cluster.start_manager("m1", &[]);
    }
    load.goes_on(5).await;
    let api = cluster.answers().await;
    load.ends_with_nothing_lost(&api).await;
    assert_eq!(api.status().await.unwrap().records_skipped, 0);
}

#[tokio::test]
async fn under_load_repeated_kills_of_the_server_lose_and_double_nothing() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(cluster.api().await);
    for _ in 0..3 {
        load.goes_on(5).await;
        cluster.nats.kill();
        cluster.nats.restart().await;
    }
    load.goes_on(5).await;
    let api = cluster.answers().await;
    load.ends_with_nothing_lost(&api).await;
    assert!(cluster.manager("m1").is_running());
}
