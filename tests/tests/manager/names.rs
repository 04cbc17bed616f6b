//! Two managers of one name: the log lists managers by name, so a name must mean one data directory.

use std::time::{Duration, Instant};

use longshore_tests::{Cluster, api};
use rustix::process::Signal;

use crate::SOON;

const SAID: &str = "another manager named";

#[tokio::test]
async fn a_second_manager_of_a_name_refuses_to_start_whatever_the_first_one_does() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    cluster.start_standby("m2", &[]).await;
    let before = api.status().await.unwrap();
    assert_eq!(before.leader_name.as_ref().map(|name| name.as_str()), Some("m1"));
    // One leads, and one stands by.
    for name in ["m1", "m2"] {
        let mut second = cluster.spawn_manager(name, &cluster.folder().join("elsewhere"), &[]);
        let status = second.ended(SOON).await;
        assert_eq!(status.code(), Some(1), "{}", second.log());
        assert!(second.log().contains(SAID), "{}", second.log());
        assert!(second.log().contains("or stop the other one"), "{}", second.log());
    }
    assert_eq!(api.status().await.unwrap().epoch, before.epoch, "the leader leads on");
    assert!(cluster.manager("m1").is_running() && cluster.manager("m2").is_running());
    let said = cluster.cli().ok(&["status"]).await;
    assert!(said.contains("m1 (epoch"), "{said}");
    let said = cluster.cli().ok(&["doctor"]).await;
    assert!(said.contains("leader m1 (epoch"), "{said}");
}

#[tokio::test]
async fn a_successor_begins_at_once_on_its_own_data_and_soon_on_other() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    api.submit(&api::service("before")).await.unwrap();
    cluster.manager("m1").kill();
    let start = Instant::now();
    cluster.start_manager("m1", &[]);
    cluster.manager("m1").says("this manager leads", SOON).await;
    api.submit(&api::service("after")).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    // With another data directory it cannot know whether its predecessor is gone until its key has ended.
    cluster.manager("m1").kill();
    let elsewhere = cluster.folder().join("elsewhere");
    cluster.start_manager_on("m1", &elsewhere, &[]);
    cluster.manager("m1").says("waiting whether it still is", SOON).await;
    api.submit(&api::service("again")).await.unwrap();
    assert_eq!(api.job("before").await.unwrap().version, 1);
}

#[tokio::test]
async fn a_manager_that_slept_while_its_name_was_taken_ends_and_says_why() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    cluster.start_standby("m2", &[]).await;
    cluster.manager("m2").signal(Signal::STOP);
    let mut second = cluster.spawn_manager("m2", &cluster.folder().join("elsewhere"), &[]);
    second.says("waiting whether it still is", SOON).await;
    // The log of both is one file, and the sleeper's words are there already.
    longshore_tests::eventually("the second one has the name", SOON, async || {
        let count = second.log().matches("this one stands by").count();
        if count >= 2 { Ok(()) } else { Err(format!("{count}")) }
    })
    .await;
    cluster.manager("m2").signal(Signal::CONT);
    let status = cluster.manager("m2").ended(SOON).await;
    assert_eq!(status.code(), Some(1), "{}", second.log());
    assert!(second.log().contains(SAID), "{}", second.log());
    assert!(second.is_running());
    api.submit(&api::service("web")).await.unwrap();
}
