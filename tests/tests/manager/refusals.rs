//! What cannot be read or granted gets an answer, and stops nothing.

use std::collections::BTreeMap;

use async_nats::{HeaderMap, Request};
use futures_util::StreamExt;
use longshore_bus::{Ask, AskError, Bus};
use longshore_proto::api::{Answer, ClusterView, JobSubmitted, Nothing, Page, SubmitJob, TaskView};
use longshore_proto::codec;
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::{ClusterId, CommandId, ManagerId};
use longshore_proto::name::Namespace;
use longshore_proto::permission::Role::{Manager, Operator, Worker};
use longshore_proto::subject::{ApiVerb, Level, NodeVerb, Scope, Subject};
use longshore_proto::{COMMAND_HEADER, name::Root};
use longshore_tests::{Api, Cluster, api, eventually};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use crate::SOON;

/// Payloads that are no message of ours, each with what is wrong with it.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let submit = codec::encode(&SubmitJob { job: api::service("web") });
    let mut random = Vec::new();
    while random.len() < 300 {
        random.extend(Uuid::new_v4().into_bytes());
    }
    let deep = [vec![0x91; 5_000], vec![0xc0]].concat();
    let many = [vec![0xdd, 0, 1, 0, 1], vec![0x80; 65_537]].concat();
    // One string, almost as large as the server lets through with our headers.
    let large = [vec![0xdb, 0, 0x0f, 0xf0, 0], vec![b'x'; 0x0f_f000]].concat();
    vec![
        ("empty", vec![]),
        ("random", random),
        ("truncated", submit[..submit.len() / 2].to_vec()),
        ("with a tail", [submit, vec![0]].concat()),
        ("deep", deep),
        ("many", many),
        ("large", large),
        ("a length that lies", vec![0xdf, 0xff, 0xff, 0xff, 0xff]),
        ("a marker that is never used", vec![0xc1]),
        ("another shape", codec::encode(&json!([1, 2, {"a": "b"}]))),
        ("text", b"{\"name\": \"web\"}".to_vec()),
    ]
}

/// Sends bytes as they are, and reads the answer.
async fn send(bus: &Bus, subject: String, payload: Vec<u8>) -> Answer<serde_json::Value> {
    let mut headers = HeaderMap::new();
    headers.insert(COMMAND_HEADER, Uuid::now_v7().to_string());
    let request = Request::new().payload(payload.into()).headers(headers).timeout(Some(SOON));
    let message = bus.client().send_request(subject.clone(), request).await;
    let message = message.unwrap_or_else(|error| panic!("{subject}: {error}"));
    codec::decode(&message.payload).unwrap_or_else(|error| panic!("{subject}: {error}"))
}

fn refusal(answer: Answer<serde_json::Value>) -> ApiError {
    assert_eq!(answer.ok, None);
    answer.error.unwrap()
}

#[tokio::test]
async fn what_an_older_leader_does_not_know_is_told_as_that() {
    let cluster = Cluster::server().await;
    let bus = cluster.bus(Manager, "m1").await;
    let mut older =
        longshore_bus::Api::start(&bus, "0.0.9", &[ApiVerb::JobStop], true).await.unwrap();
    let status = ClusterView {
        id: ClusterId(Uuid::from_u128(1)),
        epoch: 1,
        leader: ManagerId(Uuid::from_u128(2)),
        leader_name: Some("m1".parse().unwrap()),
        manager_version: "0.0.9".into(),
        jobs: 0,
        tasks: BTreeMap::new(),
        nodes: BTreeMap::new(),
        records_skipped: 0,
        payloads_refused: 0,
        alarms: vec![],
        warnings: vec![],
        history: None,
    };
    let answering = async {
        while let Some(request) = older.next().await {
            request.answer(&Answer::new(1, Ok(status.clone()))).await;
        }
    };
    let cli = cluster.cli();
    tokio::select! {
        said = cli.run(&["--timeout", "2s", "job", "scale", "web", "3"]) => {
            said.exited(1).told("m1 leads, and does not know job.scale: it is of another version (0.0.9)");
        }
        () = answering => panic!("the listener ended"),
    }
}

#[tokio::test]
async fn a_malformed_payload_on_any_subject_is_refused_and_counted_and_stops_nothing() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    let before = api.status().await.unwrap();
    let root = Root::standard();
    let (operator, worker) = (cluster.bus(Operator, "bob").await, cluster.bus(Worker, "w1").await);
    let mut sent = 0;
    for (what, payload) in malformed() {
        for verb in ApiVerb::ALL {
            let scope = Scope::Namespace(Namespace::standard());
            let subject = Subject::Api { scope, verb }.text(&root);
            let refusal = refusal(send(&operator, subject, payload.clone()).await);
            assert_eq!(refusal.code, ErrorCode::Invalid, "{what} on {}", verb.as_str());
            assert!(refusal.hint.is_some(), "{what}: {refusal:?}");
            sent += 1;
        }
        for verb in [NodeVerb::Register, NodeVerb::Sync, NodeVerb::Report] {
            let subject = Subject::Node { node: "w1".parse().unwrap(), verb }.text(&root);
            let refusal = refusal(send(&worker, subject, payload.clone()).await);
            assert_eq!(refusal.code, ErrorCode::Invalid, "{what} on {}", verb.as_str());
            sent += 1;
        }
        let beat = Subject::Node { node: "w1".parse().unwrap(), verb: NodeVerb::Heartbeat };
        worker.client().publish(beat.text(&root), payload.into()).await.unwrap();
        sent += 1;
    }
    worker.flush().await;
    let after: ClusterView = eventually("every payload is counted", SOON, async || {
        let status = api.status().await.map_err(|error| error.to_string())?;
        if status.payloads_refused == sent {
            Ok(status)
        } else {
            Err(format!("{status:?}, not {sent}"))
        }
    })
    .await;
    assert!(cluster.manager("m1").is_running());
    assert_eq!((after.epoch, after.leader), (before.epoch, before.leader));
    api.submit(&api::service("web")).await.unwrap();
}

#[tokio::test]
async fn what_is_larger_than_a_message_may_be_is_not_even_sent() {
    let cluster = Cluster::start().await;
    let bus = cluster.bus(Operator, "bob").await;
    let subject = Subject::Api { scope: Scope::Cluster, verb: ApiVerb::JobList }.text(bus.root());
    let sent = bus.client().request(subject, vec![0; (1 << 20) + 1].into()).await;
    assert!(sent.unwrap_err().to_string().contains("max payload"));
    cluster.answers().await;
}

#[tokio::test]
async fn an_unknown_verb_has_no_responders() {
    let cluster = Cluster::start().await;
    let bus = cluster.bus(Operator, "bob").await;
    for subject in [
        "longshore.v1.api.read.default.job.frobnicate",
        "longshore.v1.api.write.default.job.get",
        "longshore.v1.api.read.default.job.submit",
        "longshore.v1.api.admin._.cluster.status",
        "longshore.v1.api.read.default.job",
        "longshore.v1.api.read.a.b.job.get",
    ] {
        let asked = bus.client().request(subject, codec::encode(&Nothing {}).into()).await;
        let kind = asked.unwrap_err().kind();
        assert_eq!(kind, async_nats::RequestErrorKind::NoResponders, "{subject}");
    }
}

#[tokio::test]
async fn illegal_names_are_refused_wherever_they_stand() {
    let cluster = Cluster::start().await;
    let bus = cluster.bus(Operator, "bob").await;
    for scope in ["Team", "a_b", &"n".repeat(300), "-a"] {
        let subject = format!("longshore.v1.api.read.{scope}.job.list");
        let refusal = refusal(send(&bus, subject, codec::encode(&Nothing {})).await);
        assert_eq!(refusal.code, ErrorCode::Invalid, "{refusal}");
    }
    let submit = "longshore.v1.api.write.default.job.submit";
    let spec = json!({"name": "main", "image": "x:1"});
    for name in ["a.b", "", "A", "a b", "*", ">", &"n".repeat(300), "a\nb", "-a", "é"] {
        for job in [
            json!({"job": {"name": name, "specs": [spec]}}),
            json!({"job": {"name": "web", "specs": [{"name": name, "image": "x:1"}]}}),
            json!({"job": {"name": "web", "namespace": name, "specs": [spec]}}),
            json!({"job": {"name": "web", "datacenters": [name], "specs": [spec]}}),
        ] {
            let refusal = refusal(send(&bus, submit.to_owned(), codec::encode(&job)).await);
            assert_eq!(refusal.code, ErrorCode::Invalid, "{job}");
        }
        let question = codec::encode(&json!({"name": name}));
        for subject in ["read.default.job.get", "write.default.job.stop", "read._.node.get"] {
            let subject = format!("longshore.v1.api.{subject}");
            let refusal = refusal(send(&bus, subject, question.clone()).await);
            assert_eq!(refusal.code, ErrorCode::Invalid, "{name:?}");
        }
    }
    let api = cluster.api().await;
    assert_eq!(api.status().await.unwrap().jobs, 0);
    assert!(api.job("web").await.is_err());
}

async fn submit(api: &Api, change: impl FnOnce(&mut longshore_proto::spec::JobSpec)) -> ApiError {
    let mut job = api::service("web");
    change(&mut job);
    match api.submit(&job).await {
        Err(AskError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn impossible_jobs_are_refused_with_field_and_cure() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let refusals = [
        ("instances", submit(&api, |job| job.specs[0].instances = 0).await),
        ("instances", submit(&api, |job| job.specs[0].instances = 1_000_000).await),
        ("memory_bytes", submit(&api, |job| job.specs[0].resources.memory_bytes = 0).await),
        ("memory_bytes", submit(&api, |job| job.specs[0].resources.memory_bytes = u64::MAX).await),
        ("cpu_millis", submit(&api, |job| job.specs[0].resources.cpu_millis = u64::MAX).await),
        ("image", submit(&api, |job| job.specs[0].image = "no image".into()).await),
        ("specs", submit(&api, |job| job.specs.clear()).await),
        ("priority", submit(&api, |job| job.priority = 101).await),
        ("job", submit(&api, |job| job.specs[0].command = vec!["x".repeat(70_000)]).await),
    ];
    for (field, refusal) in refusals {
        assert_eq!(refusal.code, ErrorCode::Invalid);
        assert!(refusal.message.contains(field) && refusal.hint.is_some(), "{field}: {refusal:?}");
    }
    let other: Result<JobSubmitted, AskError> = api
        .ask(
            Scope::Namespace("team-a".parse().unwrap()),
            ApiVerb::JobSubmit,
            &SubmitJob { job: api::service("web") },
            Ask::write(api::command_id(), SOON),
        )
        .await;
    assert!(matches!(other, Err(AskError::Refused(_))), "another namespace than the subject's");
    assert!(api.job("web").await.is_err(), "nothing was stored");
    assert!(
        matches!(api.stop_job("web").await, Err(AskError::Refused(r)) if r.code == ErrorCode::NotFound)
    );
    assert!(
        matches!(api.stop_task("00").await, Err(AskError::Refused(r)) if r.code == ErrorCode::NotFound)
    );
    assert!(
        matches!(api.stop_task("xyz").await, Err(AskError::Refused(r)) if r.code == ErrorCode::Invalid)
    );
}

#[tokio::test]
async fn the_most_instances_that_a_job_may_have_are_taken_and_the_manager_stays_responsive() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    let mut job = api::service("many");
    job.specs[0].instances = 100_000;
    job.specs[0].resources.cpu_millis = 10;
    api.submit(&job).await.unwrap();
    let start = std::time::Instant::now();
    api.status().await.unwrap();
    assert!(start.elapsed() < std::time::Duration::from_secs(2), "{:?}", start.elapsed());
    let first: Page<TaskView> = eventually("its first tasks are there", SOON, async || {
        let question = longshore_proto::api::ListTasks { limit: Some(10), ..Default::default() };
        let page: Result<Page<TaskView>, AskError> =
            api.ask(Scope::Cluster, ApiVerb::TaskList, &question, Ask::read(SOON)).await;
        match page {
            Ok(page) if page.items.len() == 10 && page.more => Ok(page),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(first.items[0].job.as_str(), "many");
    api.stop_job("many").await.unwrap();
    assert!(cluster.manager("m1").is_running());
}

#[tokio::test]
async fn a_repeated_command_gets_the_first_answer_and_a_reused_id_is_refused() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let id = api::command_id();
    let first = api.submit_as(&api::service("web"), id).await.unwrap();
    let mut changed = api::service("web");
    changed.specs[0].instances = 2;
    assert_eq!(api.submit(&changed).await.unwrap().version, 2);
    assert_eq!(
        api.submit_as(&api::service("web"), id).await.unwrap(),
        first,
        "not a third version"
    );
    assert_eq!(api.job("web").await.unwrap().version, 2);
    let reused = api.submit_as(&changed, id).await;
    assert!(
        matches!(&reused, Err(AskError::Refused(r)) if r.code == ErrorCode::CommandReused),
        "{reused:?}"
    );
    // Another user's same id is another command.
    let bob = Api::new(cluster.bus(Operator, "bob").await);
    assert_eq!(bob.submit_as(&api::service("other"), id).await.unwrap().version, 1);
    let history = api.history().await.unwrap();
    let submits = history.iter().filter(|event| event.event_type == "job.submitted").count();
    assert_eq!(submits, 3);
}

#[tokio::test]
async fn a_command_without_a_fresh_id_is_refused() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let refused = api.submit_as(&api::service("web"), CommandId(Uuid::new_v4())).await;
    assert!(
        matches!(&refused, Err(AskError::Refused(r)) if r.code == ErrorCode::Invalid),
        "{refused:?}"
    );
    let scope = Scope::Namespace(Namespace::standard());
    let bare: Result<JobSubmitted, AskError> = api
        .ask(scope, ApiVerb::JobSubmit, &SubmitJob { job: api::service("web") }, Ask::read(SOON))
        .await;
    assert!(
        matches!(bare, Err(AskError::Refused(r)) if r.code == ErrorCode::Invalid && r.hint.is_some())
    );
    assert!(api.job("web").await.is_err());
}

/// Fields that a newer client may send are ignored; ones that may be left out may be.
#[tokio::test]
async fn unknown_fields_are_ignored_and_optional_ones_may_be_left_out() {
    #[derive(Serialize)]
    struct Newer {
        job: serde_json::Value,
        from_the_future: Vec<u8>,
    }
    let cluster = Cluster::start().await;
    let bus = cluster.bus(Operator, "bob").await;
    let job = json!({"name": "web", "specs": [{"name": "main", "image": "x:1", "shiny": true}]});
    let newer = Newer { job, from_the_future: vec![1, 2, 3] };
    let subject =
        Subject::Api { scope: Scope::Namespace(Namespace::standard()), verb: ApiVerb::JobSubmit };
    assert_eq!(ApiVerb::JobSubmit.level(), Level::Write);
    let answer = send(&bus, subject.text(bus.root()), codec::encode(&newer)).await;
    assert_eq!(answer.ok.unwrap()["version"], 1);
}
