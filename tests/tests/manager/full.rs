//! What fills is told of in time, and is kept from filling up.

use async_nats::jetstream;
use async_nats::jetstream::object_store;
use longshore_bus::{Ask, AskError};
use longshore_proto::api::{JobSubmitted, SubmitJob};
use longshore_proto::name::Namespace;
use longshore_proto::permission::Role::{ManagerCore, Worker};
use longshore_proto::state::TaskState;
use longshore_proto::subject::{ApiVerb, Scope};
use longshore_tests::played::Played;
use longshore_tests::{Api, Cluster, api, eventually};
use std::time::Duration;

use crate::SOON;

const LOG_BYTES: u64 = 128 << 10;
const SMALL: [&str; 2] = ["--log-size", "128KiB"];

/// The managers' own account, as a manager has it.
async fn core(cluster: &Cluster) -> jetstream::Context {
    jetstream::new(cluster.bus(ManagerCore, "m2").await.client().clone())
}

async fn log_bytes(core: &jetstream::Context) -> u64 {
    core.get_stream("longshore-log").await.unwrap().cached_info().state.bytes
}

/// Lets the bucket of snapshots take nothing, or everything again.
async fn shut_bucket(core: &jetstream::Context, shut: bool) {
    let name = "OBJ_longshore-snapshot";
    if core.get_stream(name).await.is_err() {
        let bucket = "longshore-snapshot".to_owned();
        let config = object_store::Config { bucket, ..object_store::Config::default() };
        core.create_object_store(config).await.unwrap();
    }
    let mut config = core.get_stream(name).await.unwrap().cached_info().config.clone();
    config.max_message_size = if shut { 1 } else { -1 };
    core.update_stream(config).await.unwrap();
}

/// Submits a job, once.
async fn submit(api: &Api, name: &str) -> Result<JobSubmitted, AskError> {
    let question = SubmitJob { job: api::service(name) };
    let scope = Scope::Namespace(Namespace::standard());
    let ask = Ask::write(api::command_id(), Duration::from_secs(5));
    api.ask(scope, ApiVerb::JobSubmit, &question, ask).await
}

/// Submits jobs until the log is so full, in percent. Gives their number.
async fn fill(core: &jetstream::Context, api: &Api, from: usize, percent: u64) -> usize {
    for count in from..from + 500 {
        if log_bytes(core).await * 100 >= LOG_BYTES * percent {
            return count;
        }
        submit(api, &format!("job-{count}")).await.unwrap();
    }
    panic!("500 jobs, and the log has {} bytes", log_bytes(core).await);
}

#[tokio::test]
async fn a_log_that_fills_is_made_shorter_before_anybody_notices() {
    let cluster = Cluster::start_with(&SMALL).await;
    let (api, core) = (cluster.api().await, core(&cluster).await);
    fill(&core, &api, 0, 55).await;
    eventually("it is trimmed behind a snapshot", SOON, async || {
        let bytes = log_bytes(&core).await;
        if bytes * 100 < LOG_BYTES * 20 { Ok(()) } else { Err(format!("{bytes} bytes")) }
    })
    .await;
    let history = api.history().await.unwrap();
    assert_eq!(api::alarm_states(&history), [""; 0]);
    cluster.cli().run(&["doctor"]).await.succeeded();
}

#[tokio::test]
async fn a_log_that_cannot_be_trimmed_warns_alarms_and_keeps_the_rest_for_what_nodes_report() {
    let mut cluster = Cluster::server().await;
    let core = core(&cluster).await;
    shut_bucket(&core, true).await;
    cluster.start_manager("m1", &SMALL);
    let api = cluster.answers().await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    api.submit(&api::service("web")).await.unwrap();
    let task = node.wanted_count(1).await[0].task;
    let cli = cluster.cli();

    let count = fill(&core, &api, 0, 71).await;
    let says = async |verb: &'static str, code: i32, text: &'static str| {
        eventually(&format!("{verb} says {text:?}"), SOON, async || {
            let said = cli.run(&[verb]).await;
            let says = said.code == Some(code) && said.stdout.contains(text);
            if says { Ok(()) } else { Err(format!("{said:#?}")) }
        })
        .await;
    };
    says("status", 0, "warning: the log is 7").await;
    says("doctor", 0, "the log is 7").await;
    let count = fill(&core, &api, count, 86).await;
    says("status", 0, "alarm: the log is 8").await;
    says("doctor", 1, "raise --log-size").await;
    fill(&core, &api, count, 95).await;
    let refusal =
        eventually("commands are refused", SOON, async || match submit(&api, "too-much").await {
            Err(AskError::Refused(refusal)) => Ok(refusal),
            other => Err(format!("{other:?}")),
        })
        .await;
    assert!(refusal.code.is_retryable(), "{refusal:?}");
    assert!(refusal.message.contains("the log is 9"), "{refusal:?}");
    assert!(refusal.message.contains("New commands are refused"), "{refusal:?}");
    let said = cli.run(&["--timeout", "1s", "stop", "web"]).await;
    said.exited(1).told("New commands are refused");
    cluster.manager("m1").says("New commands", SOON).await;
    // What keeps the cluster alive is written all the same.
    for state in [TaskState::Preparing, TaskState::Running] {
        node.report(task, 1, state).await.unwrap();
    }
    assert_eq!(api.tasks("web").await.unwrap()[0].state, TaskState::Running);

    shut_bucket(&core, false).await;
    eventually("what was refused is granted again", SOON, async || {
        submit(&api, "too-much").await.map_err(|error| error.to_string())
    })
    .await;
    says("doctor", 0, "ok").await;
    let history = api.history().await.unwrap();
    let states = api::alarm_states(&history);
    assert_eq!(states, ["warning", "alarm", "critical", "over"], "{history:#?}");
}

#[tokio::test]
async fn a_bucket_of_snapshots_that_does_not_answer_is_told_of_until_it_does() {
    let mut cluster = Cluster::start().await;
    // A refused question is one without an answer, as it is where the bucket's servers are away.
    let accounts = cluster.folder().join("nats/accounts.conf");
    let usual = std::fs::read_to_string(&accounts).unwrap();
    let shut = usual.replace("STREAM.INFO.OBJ_longshore-snapshot", "STREAM.INFO.nothing");
    assert_ne!(shut, usual);
    let cli = cluster.cli();
    cli.run(&["doctor"]).await.succeeded();
    for (conf, code, text) in
        [(shut, 1, "the bucket of snapshots has not answered"), (usual, 0, "ok")]
    {
        cluster.nats.kill();
        std::fs::write(&accounts, conf).unwrap();
        cluster.nats.restart().await;
        eventually(&format!("doctor says {text:?}"), 4 * SOON, async || {
            let said = cli.run(&["doctor"]).await;
            let says = said.code == Some(code) && said.stdout.contains(text);
            if says { Ok(()) } else { Err(format!("{said:#?}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_limit_below_what_is_in_the_log_loses_nothing_and_keeps_nobody_from_leading() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    for count in 0..20 {
        submit(&api, &format!("job-{count}")).await.unwrap();
    }
    cluster.manager("m1").kill();
    let core = core(&cluster).await;
    let before = core.get_stream("longshore-log").await.unwrap().cached_info().state.clone();
    assert!(before.bytes > 2_000);
    cluster.start_manager("m1", &["--log-size", "1KiB"]);
    cluster.manager("m1").says("this manager leads", SOON).await;
    submit(&api, "another").await.unwrap();
    let after = core.get_stream("longshore-log").await.unwrap().cached_info().state.clone();
    assert_eq!(after.first_sequence, before.first_sequence);
    assert!(after.last_sequence > before.last_sequence);
    let history = api.history().await.unwrap();
    assert_eq!(history.iter().filter(|event| event.event_type == "job.submitted").count(), 21);
}
