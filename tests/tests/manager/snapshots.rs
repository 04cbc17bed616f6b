//! Snapshots, the log that is trimmed behind them, and who joins from there.

use std::time::Duration;

use async_nats::jetstream;
use longshore_proto::permission::Role::{ManagerCore, Worker};
use longshore_proto::state::TaskState;
use longshore_tests::played::Played;
use longshore_tests::{Api, Cluster, api, eventually};

use crate::SOON;

const OFTEN: [&str; 2] = ["--snapshot-records", "20"];

/// The first and last message of the log.
async fn log_ends(cluster: &Cluster) -> (u64, u64) {
    let core = cluster.bus(ManagerCore, "m2").await;
    let stream = jetstream::new(core.client().clone()).get_stream("longshore-log").await.unwrap();
    let state = &stream.cached_info().state;
    (state.first_sequence, state.last_sequence)
}

/// Submits jobs until the log has lost its beginning.
async fn until_trimmed(cluster: &Cluster, api: &Api) -> usize {
    for count in 0..200 {
        api.submit(&api::service(&format!("job-{count}"))).await.unwrap();
        if count % 20 == 19 && log_ends(cluster).await.0 > 1 {
            return count + 1;
        }
    }
    panic!("200 jobs, and the log still begins at {:?}", log_ends(cluster).await);
}

#[tokio::test]
async fn a_new_manager_joins_from_a_snapshot_and_the_tail_of_a_trimmed_log() {
    let mut cluster = Cluster::start_with(&OFTEN).await;
    let api = cluster.api().await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    let mut web = api::service("web");
    web.specs[0].instances = 3;
    api.submit(&web).await.unwrap();
    let task = node.wanted_of("web", 3).await[0];
    node.report(task, 1, TaskState::Running).await.unwrap();
    let count = until_trimmed(&cluster, &api).await;
    cluster.start_manager("m2", &OFTEN);
    cluster.manager("m2").says("joining from a snapshot", SOON).await;
    cluster.manager("m2").says("this one stands by", SOON).await;
    let before = (api.status().await.unwrap(), api.tasks("web").await.unwrap());
    cluster.manager("m1").kill();
    api.submit(&api::service("after")).await.unwrap();
    // It joined with all of this short history.
    let history = api.status().await.unwrap().history.unwrap();
    assert_eq!(history.from_index, 1);
    assert!(history.joined_index.unwrap() > 20, "{history:?}");
    let said = cluster.cli().ok(&["doctor"]).await;
    assert!(said.contains("history") && said.contains("(index 1)"), "{said}");
    let status = api.status().await.unwrap();
    assert_eq!((status.id, status.epoch), (before.0.id, before.0.epoch + 1));
    assert_eq!(status.jobs, count as u64 + 2);
    assert_eq!(api.tasks("web").await.unwrap(), before.1);
    // Who was away while the log was trimmed takes over a snapshot, too.
    for count in 0..100 {
        api.submit(&api::service(&format!("more-{count}"))).await.unwrap();
    }
    eventually("the log is trimmed further", SOON, async || {
        let (first, last) = log_ends(&cluster).await;
        if first > 100 { Ok(()) } else { Err(format!("{first} to {last}")) }
    })
    .await;
    // Of those that were removed nothing is left: each of the two has a name, and its content.
    let core = cluster.bus(ManagerCore, "m2").await;
    let bucket = jetstream::new(core.client().clone()).get_stream("OBJ_longshore-snapshot").await;
    let state = bucket.unwrap().cached_info().state.clone();
    assert!((2..=4).contains(&state.subjects_count), "{state:?}");
    cluster.start_manager("m1", &OFTEN);
    cluster.manager("m1").says("joining from a snapshot", SOON).await;
    cluster.manager("m1").says("this one stands by", SOON).await;
    cluster.manager("m2").kill();
    api.submit(&api::service("last")).await.unwrap();
    assert_eq!(api.status().await.unwrap().jobs, count as u64 + 103);
    assert_eq!(api.tasks("web").await.unwrap(), before.1);
}

#[tokio::test]
async fn history_ends_by_policy_and_time_travel_with_it() {
    let options = [&OFTEN[..], &["--history-size", "1KiB"]].concat();
    let cluster = Cluster::start_with(&options).await;
    let api = cluster.api().await;
    let cli = cluster.cli();
    until_trimmed(&cluster, &api).await;
    let oldest = eventually("the oldest events are forgotten", SOON, async || {
        let index = api.history().await.map_err(|error| error.to_string())?[0].index;
        if index > 1 { Ok(index) } else { Err("all are there".to_owned()) }
    })
    .await;
    assert!(oldest > 20, "{oldest}");
    let said = cli.run(&["ps", "--at", "1"]).await.exited(1);
    said.told("history reaches from index");
    cli.ok(&["ps", "--at", &oldest.to_string()]).await;
    tokio::time::timeout(Duration::from_secs(5), api.status()).await.unwrap().unwrap();
}
