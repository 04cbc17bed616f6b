//! The event stream and the service as others see them.

use std::collections::BTreeSet;
use std::time::Instant;

use async_nats::header::NATS_EXPECTED_LAST_SEQUENCE;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use bytes::Bytes;
use futures_util::StreamExt;
use longshore_proto::codec;
use longshore_proto::event::Event;
use longshore_proto::permission::Role::{ManagerCore, Observer, Operator, Worker};
use longshore_proto::state::TaskState;
use longshore_proto::subject::{Pattern, Subject};
use longshore_proto::{TASK_HEADER, VERSION_HEADER};
use longshore_tests::played::Played;
use longshore_tests::{Api, Cluster, api, eventually};
use serde_json::Value;

use crate::SOON;

/// Everything in the event stream, once it holds as many events as the history.
async fn streamed(cluster: &Cluster, api: &Api) -> Vec<Event> {
    let core = cluster.bus(ManagerCore, "m2").await;
    let context = jetstream::new(core.client().clone());
    let wanted = api.history().await.unwrap().len() as u64;
    eventually("the stream holds the history", SOON, async || {
        let stream =
            context.get_stream("longshore-event").await.map_err(|error| error.to_string())?;
        let count = stream.cached_info().state.messages;
        if count < wanted {
            return Err(format!("{count} of {wanted}"));
        }
        let mut events = Vec::new();
        for sequence in 1..=count {
            let message =
                stream.get_raw_message(sequence).await.map_err(|error| error.to_string())?;
            let event: Event = codec::decode(&message.payload).unwrap();
            let subject = Subject::parse(core.root(), message.subject.as_str()).unwrap();
            assert_eq!(event.subject(), Some(subject), "each on its own subject");
            assert_eq!(message.headers.get(VERSION_HEADER).unwrap().as_str(), "1");
            let task = message.headers.get(TASK_HEADER).map(|value| value.as_str().to_owned());
            assert_eq!(task, event.task.map(|task| task.to_string()));
            events.push(event);
        }
        Ok(events)
    })
    .await
}

#[tokio::test]
async fn the_stream_is_the_history_in_order_whoever_published_it() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    for round in 0..3 {
        let name = format!("job-{round}");
        let mut job = api::batch(&name);
        job.specs[0].instances = 3;
        api.submit(&job).await.unwrap();
        for task in node.wanted_of(&name, 3).await {
            node.report(task, 1, TaskState::Running).await.unwrap();
            node.report(task, 1, TaskState::Completed).await.unwrap();
        }
        // Killed right after an answer: the events are still on their way.
        cluster.manager("m1").kill();
        cluster.start_manager("m1", &[]);
        cluster.answers().await;
    }
    let events = streamed(&cluster, &api).await;
    assert_eq!(events, api.history().await.unwrap(), "no gap, no doubling, no other order");
    let completed = events.iter().filter(|event| event.event_type == "task.completed").count();
    assert_eq!(completed, 9);
    let elected =
        events.iter().filter(|event| event.event_type == "cluster.leader-elected").count();
    assert_eq!(elected, 4);
}

#[tokio::test]
async fn what_a_server_lost_of_the_event_stream_is_published_again() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    for round in 0..3 {
        api.submit(&api::service(&format!("job-{round}"))).await.unwrap();
    }
    let before = streamed(&cluster, &api).await;
    // The stream is not synced for each event: a power cut may take the last ones, or all of them.
    cluster.nats.kill();
    let mut messages = cluster.folder().join("nats/store/jetstream");
    for part in ["CORE", "streams", "longshore-event", "msgs"] {
        messages.push(part);
    }
    std::fs::remove_dir_all(&messages).unwrap();
    cluster.nats.restart().await;
    let api = cluster.answers().await;
    assert_eq!(streamed(&cluster, &api).await, before, "by the same manager, which ran on");
    api.submit(&api::service("later")).await.unwrap();
    assert_eq!(streamed(&cluster, &api).await, api.history().await.unwrap());
}

#[tokio::test]
async fn events_of_records_that_follow_each_other_are_published_together() {
    const COMMANDS: u64 = 200;
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let start = Instant::now();
    for at in 0..COMMANDS {
        // One after the other: each is a record of its own.
        api.submit(&api::service(&format!("job-{at}"))).await.unwrap();
    }
    let elapsed_ms = start.elapsed().as_millis();
    let core = cluster.bus(ManagerCore, "m2").await;
    let context = jetstream::new(core.client().clone());
    let stream = context.get_stream("longshore-event").await.unwrap();
    let from_the_beginning = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::All,
        ..pull::OrderedConfig::default()
    };
    let mut messages =
        stream.create_consumer(from_the_beginning).await.unwrap().messages().await.unwrap();
    let (mut batches, mut records) = (0, BTreeSet::new());
    let last = format!("job-{}", COMMANDS - 1);
    let read = tokio::time::timeout(SOON, async {
        loop {
            let message = messages.next().await.unwrap().unwrap();
            let event: Event = codec::decode(&message.payload).unwrap();
            if event.job.is_some() {
                records.insert(event.index);
                let headers = message.headers.as_ref().unwrap();
                // The first of a batch names a sequence, the others the message before them.
                batches += u128::from(headers.get(NATS_EXPECTED_LAST_SEQUENCE).is_some());
            }
            if event.job.is_some_and(|job| job.as_str() == last) {
                return;
            }
        }
    });
    read.await.unwrap();
    assert!(records.len() as u64 >= COMMANDS);
    assert!(batches >= 1);
    // Begun at least 10 ms apart, but for the one that was due before and the one that was left behind the last answer.
    let most = elapsed_ms / 10 + 3;
    assert!(batches <= most, "{batches} batches in {elapsed_ms} ms");
}

#[tokio::test]
async fn operators_and_observers_hear_the_events_as_they_happen() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let mut ears = Vec::new();
    for (role, name) in [(Operator, "bob"), (Observer, "billing")] {
        let bus = cluster.bus(role, name).await;
        ears.push(bus.subscribe(&Pattern::Events).await.unwrap());
        bus.flush().await;
    }
    api.submit(&api::service("web")).await.unwrap();
    for mut ear in ears {
        let heard = tokio::time::timeout(SOON, async {
            loop {
                let message = ear.next().await.unwrap();
                let event: Event = codec::decode(&message.payload).unwrap();
                assert_eq!(event.subject(), message.subject);
                let id = message.header("Nats-Msg-Id").unwrap();
                assert!(id.ends_with(&format!("-{}-{}", event.index, event.ordinal)), "{id}");
                if event.event_type == "job.submitted" {
                    return event;
                }
            }
        });
        let heard = heard.await.unwrap();
        assert_eq!(heard.job.unwrap().as_str(), "web");
        assert!(heard.actor.unwrap().starts_with("operator/alice"));
    }
}

#[tokio::test]
async fn the_api_is_a_service_that_nats_tools_find() {
    let cluster = Cluster::start().await;
    let bus = cluster.bus(Operator, "alice").await;
    let ask = async |verb: &str| -> Value {
        let subject = format!("$SRV.{verb}.longshore");
        let message = bus.client().request(subject, Bytes::new()).await.unwrap();
        serde_json::from_slice(&message.payload).unwrap()
    };
    assert_eq!(ask("PING").await["name"], "longshore");
    let info = ask("INFO").await;
    let endpoints = info["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), longshore_proto::subject::ApiVerb::ALL.len() + 1);
    let submit = endpoints.iter().find(|endpoint| endpoint["name"] == "job-submit").unwrap();
    assert_eq!(submit["subject"], "longshore.v1.api.write.*.job.submit");
    cluster.api().await.status().await.unwrap();
    let stats = ask("STATS").await;
    let status = stats["endpoints"].as_array().unwrap().iter();
    let mut status = status.filter(|endpoint| endpoint["name"] == "cluster-status");
    assert!(status.next().unwrap()["num_requests"].as_u64().unwrap() >= 1, "{stats}");
}
