//! Two managers: standing by, taking over, being fenced.

use std::time::{Duration, Instant};

use longshore_proto::permission::Role::Worker;
use longshore_proto::state::TaskState;
use longshore_tests::played::Played;
use longshore_tests::{Cluster, api};
use rustix::process::Signal;

use crate::SOON;

/// How long a cluster may be without a leader after a leader's death.
const TAKEOVER: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_second_manager_stands_by_and_takes_over_within_ten_seconds() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    cluster.start_manager("m2", &[]);
    cluster.manager("m2").says("this one stands by", SOON).await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    api.submit(&api::service("web")).await.unwrap();
    let task = node.wanted_count(1).await[0].task;
    node.report(task, 1, TaskState::Running).await.unwrap();
    let first = api.status().await.unwrap();

    cluster.manager("m1").kill();
    let start = Instant::now();
    api.submit(&api::service("second")).await.unwrap();
    assert!(start.elapsed() < TAKEOVER, "{:?}", start.elapsed());
    let second = api.status().await.unwrap();
    assert_eq!((second.id, second.epoch), (first.id, first.epoch + 1));
    let tasks = api.tasks("web").await.unwrap();
    assert_eq!((tasks.len(), tasks[0].id, tasks[0].state), (1, task, TaskState::Running));
    node.wanted_count(2).await;

    // The first comes back as the second, and takes over in its turn.
    cluster.start_manager("m1", &[]);
    cluster.manager("m1").says("this one stands by", SOON).await;
    assert_eq!(api.status().await.unwrap().leader, second.leader);
    cluster.manager("m2").kill();
    assert_eq!(api.submit(&api::service("third")).await.unwrap().version, 1);
    for name in ["web", "second", "third"] {
        assert_eq!(api.job(name).await.unwrap().version, 1);
    }
    assert_eq!(api.status().await.unwrap().records_skipped, 0);
}

#[tokio::test]
async fn a_leader_that_slept_is_fenced_and_steps_down() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    cluster.start_manager("m2", &[]);
    cluster.manager("m2").says("this one stands by", SOON).await;
    api.submit(&api::service("before")).await.unwrap();
    let first = api.status().await.unwrap();
    cluster.manager("m1").signal(Signal::STOP);
    cluster.manager("m2").says("this manager leads", SOON).await;
    api.submit(&api::service("during")).await.unwrap();
    cluster.manager("m1").signal(Signal::CONT);
    cluster.manager("m1").says("no longer leads", SOON).await;
    let after = api.status().await.unwrap();
    assert_eq!((after.epoch, after.records_skipped), (first.epoch + 1, 0));
    for name in ["before", "during"] {
        assert_eq!(api.job(name).await.unwrap().version, 1);
    }
    api.submit(&api::service("after")).await.unwrap();
    assert!(cluster.manager("m1").is_running() && cluster.manager("m2").is_running());
}

#[tokio::test]
async fn a_manager_that_is_told_to_stop_hands_over_at_once() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    cluster.start_manager("m2", &[]);
    cluster.manager("m2").says("this one stands by", SOON).await;
    cluster.manager("m1").signal(Signal::TERM);
    let status = cluster.manager("m1").ended(SOON).await;
    assert!(status.success(), "{}", cluster.manager("m1").log());
    let start = Instant::now();
    api.submit(&api::service("web")).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}
