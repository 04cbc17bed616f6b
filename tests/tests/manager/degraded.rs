//! A log that takes no records: requests are refused in words, nothing is half done, and it goes on by itself.

use std::time::Duration;

use async_nats::jetstream;
use longshore_bus::{Ask, AskError};
use longshore_proto::api::{JobSubmitted, SubmitJob};
use longshore_proto::name::Namespace;
use longshore_proto::permission::Role::{ManagerCore, Worker};
use longshore_proto::state::TaskState;
use longshore_proto::subject::{ApiVerb, Scope};
use longshore_tests::played::Played;
use longshore_tests::{Cluster, api, eventually};

use crate::SOON;

/// Lets the log hold so many bytes; -1 is no limit.
async fn limit(cluster: &Cluster, bytes: impl FnOnce(u64) -> i64) {
    let core = cluster.bus(ManagerCore, "m2").await;
    let context = jetstream::new(core.client().clone());
    let stream = context.get_stream("longshore-log").await.unwrap();
    let info = stream.cached_info();
    let mut config = info.config.clone();
    config.max_bytes = bytes(info.state.bytes);
    context.update_stream(config).await.unwrap();
}

#[tokio::test]
async fn a_full_log_refuses_in_words_and_goes_on_by_itself_when_there_is_room() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    api.submit(&api::service("web")).await.unwrap();
    let task = node.wanted_count(1).await[0].task;
    node.report(task, 1, TaskState::Running).await.unwrap();
    // Less than a record: trimming makes no room either.
    limit(&cluster, |_| 100).await;

    // What is under way waits; what comes now is refused, and may be asked again with the same id.
    let (waits, refused) = (api::command_id(), api::command_id());
    let ask = async |name: &str, id, deadline| -> Result<JobSubmitted, AskError> {
        let question = SubmitJob { job: api::service(name) };
        let scope = Scope::Namespace(Namespace::standard());
        api.ask(scope, ApiVerb::JobSubmit, &question, Ask::write(id, deadline)).await
    };
    let short = Duration::from_millis(500);
    ask("under-way", waits, short).await.unwrap_err();
    let error = eventually("requests are refused", SOON, async || {
        match ask("second", refused, short).await {
            Err(AskError::Refused(refusal)) => Ok(refusal),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(error.code.is_retryable() && error.message.contains("the log is full"), "{error:?}");
    assert!(error.hint.is_some());
    eventually("doctor says so", SOON, async || {
        let said = cluster.cli().run(&["doctor", "--timeout", "500ms"]).await.exited(1);
        let wanted = "the leader cannot write: the log cannot be written just now: the log is full";
        if said.stdout.contains(wanted) { Ok(()) } else { Err(said.stdout) }
    })
    .await;
    assert!(cluster.manager("m1").is_running());

    limit(&cluster, |_| -1).await;
    for (name, id) in [("under-way", waits), ("second", refused)] {
        assert_eq!(ask(name, id, SOON).await.unwrap().version, 1, "once, and no more");
        assert_eq!(api.job(name).await.unwrap().version, 1);
    }
    assert_eq!(api.tasks("web").await.unwrap()[0].state, TaskState::Running);
    let history = api.history().await.unwrap();
    let submits = history.iter().filter(|event| event.event_type == "job.submitted").count();
    assert_eq!(submits, 3, "{history:?}");
}
