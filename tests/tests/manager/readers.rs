//! Readers of streams: those that stall, and those that are left behind; and the lease's own key.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use longshore_proto::name::Root;
use longshore_proto::permission::Role::{ManagerCore, Worker};
use longshore_proto::state::NodeStatus;
use longshore_proto::subject::lease_subject;
use longshore_tests::played::Played;
use longshore_tests::{Cluster, api, eventually};
use rustix::process::Signal;
use serde_json::Value;

use crate::SOON;

#[tokio::test]
async fn a_reader_that_stalls_is_cut_off_alone_and_then_reads_on_from_where_it_was() {
    const COUNT: u32 = 20_000;
    // As in our configuration, but sooner full.
    let change = |conf: String| {
        assert!(conf.contains("max_pending: 64MB") && conf.contains("write_deadline: \"10s\""));
        conf.replace("max_pending: 64MB", "max_pending: 1MB")
            .replace("write_deadline: \"10s\"", "write_deadline: \"1s\"")
    };
    let mut cluster = Cluster::server_made(Root::standard(), |_| {}, change).await;
    cluster.start_manager("m1", &[]);
    let api = cluster.answers().await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    let reader = cluster.cli().stay("reader", &["events", "-f", "--all", "-o", "json"]);
    reader.says("cluster.created", SOON).await;
    reader.signal(Signal::STOP);
    let mut job = api::service("large");
    job.specs[0].instances = COUNT;
    // What nobody has room for waits, and each of them is an event.
    job.specs[0].resources.cpu_millis = 1_000_000;
    api.submit(&job).await.unwrap();
    eventually("the server cuts it off", Duration::from_secs(90), async || {
        let log = cluster.nats.log();
        if log.contains("Slow Consumer") { Ok(()) } else { Err(format!("{} bytes", log.len())) }
    })
    .await;
    // Nobody else suffers.
    let start = Instant::now();
    api.submit(&api::service("small")).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    node.wanted_of("small", 1).await;
    assert_eq!(api.nodes().await.unwrap()[0].status, NodeStatus::Ready);
    assert!(!cluster.manager("m1").log().contains("some were dropped"));

    reader.signal(Signal::CONT);
    // A job as large as that takes turns with others, so that its last tasks come later.
    eventually("all tasks are there", Duration::from_secs(120), async || {
        let view = api.job("large").await.map_err(|error| error.to_string())?;
        let pending = view.specs[0].pending;
        if pending == COUNT { Ok(()) } else { Err(format!("{pending} tasks")) }
    })
    .await;
    let wanted = api.history().await.unwrap().len();
    assert!(wanted > COUNT as usize, "each is an event: {wanted}");
    let read = eventually("it has read everything", Duration::from_secs(120), async || {
        let log = reader.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let places: Vec<_> =
            lines.map(|event| (event["index"].as_u64(), event["ordinal"].as_u64())).collect();
        if places.len() >= wanted {
            Ok(places)
        } else {
            Err(format!("{} of {wanted}", places.len()))
        }
    })
    .await;
    let distinct: BTreeSet<_> = read.iter().collect();
    assert_eq!(read.len(), distinct.len(), "each once");
    // It learns of it: its own talk says so.
    assert!(reader.log().contains("the connection to NATS broke"), "it is told");
}

#[tokio::test]
async fn reconnects_leave_no_consumers_behind_and_every_reader_reads_on() {
    let mut cluster = Cluster::start().await;
    cluster.start_standby("m2", &[]).await;
    let api = cluster.api().await;
    let core = cluster.bus(ManagerCore, "m2").await;
    let context = jetstream::new(core.client().clone());
    let consumers = async || {
        let mut count = 0;
        for stream in ["longshore-log", "longshore-event", "KV_longshore-lease"] {
            let stream = context.get_stream(stream).await.map_err(|error| error.to_string())?;
            count += stream.cached_info().state.consumer_count;
        }
        Ok::<_, String>(count)
    };
    for round in 0..10 {
        if round % 2 == 0 {
            cluster.nats.kill();
            cluster.nats.restart().await;
        } else {
            cluster.manager("m2").kill();
            cluster.start_manager("m2", &[]);
        }
        api.submit(&api::service(&format!("job-{round}"))).await.unwrap();
    }
    // One reader for each manager that follows; what a killed one had ends by itself within seconds.
    let consumers = &consumers;
    eventually("one consumer a reader", Duration::from_secs(60), async || {
        match consumers().await? {
            0..=1 => Ok(()),
            many => Err(format!("{many} consumers")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_follower_whose_reader_dies_with_the_server_makes_another() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    cluster.start_standby("m2", &[]).await;
    cluster.nats.kill();
    cluster.nats.restart().await;
    cluster.answers().await;
    api.submit(&api::service("after")).await.unwrap();
    let index = api.history().await.unwrap().last().unwrap().index;
    // It is asked as the only one who answers: nobody leads, and it must know by itself.
    cluster.manager("m1").signal(Signal::STOP);
    eventually("it knows what was committed", SOON, async || {
        let job = api.job("after").await.map_err(|error| error.to_string())?;
        let status = api.status().await.map_err(|error| error.to_string())?;
        if job.version == 1 && index > 0 { Ok(status) } else { Err(format!("{job:?}")) }
    })
    .await;
    cluster.manager("m1").signal(Signal::CONT);
}

#[tokio::test]
async fn the_lease_has_its_limit_of_life_however_it_was_taken() {
    let mut cluster = Cluster::start().await;
    let core = cluster.bus(ManagerCore, "m2").await;
    let context = jetstream::new(core.client().clone());
    let subject = lease_subject(core.root());
    let has_limit = async |what: &str| {
        eventually(&format!("the lease {what} has a limit"), SOON, async || {
            let stream = context.get_stream("KV_longshore-lease").await;
            let stream = stream.map_err(|error| error.to_string())?;
            let lease = stream.get_last_raw_message_by_subject(&subject).await;
            let lease = lease.map_err(|error| error.to_string())?;
            if lease.payload.is_empty() {
                return Err("nobody holds it".to_owned());
            }
            match lease.headers.get("Nats-TTL") {
                Some(limit) if limit.as_str() == "4s" => Ok(()),
                other => panic!("{what}: {other:?}"),
            }
        })
        .await;
    };
    let gone = async || {
        eventually("the lease has ended", SOON, async || {
            let stream = context.get_stream("KV_longshore-lease").await;
            let stream = stream.map_err(|error| error.to_string())?;
            match stream.get_last_raw_message_by_subject(&subject).await {
                Ok(lease) if !lease.payload.is_empty() => Err(format!("{lease:?}")),
                _ => Ok(()),
            }
        })
        .await;
    };
    has_limit("of the first leader").await;
    cluster.manager("m1").kill();
    gone().await;
    cluster.start_manager("m1", &[]);
    has_limit("that was taken after another had run out").await;
    cluster.manager("m1").signal(Signal::TERM);
    cluster.manager("m1").ended(SOON).await;
    gone().await;
    cluster.start_manager("m1", &[]);
    has_limit("that was taken after another was given up").await;
    cluster.nats.kill();
    cluster.nats.restart().await;
    cluster.answers().await;
    has_limit("over a restart of the server").await;
}
