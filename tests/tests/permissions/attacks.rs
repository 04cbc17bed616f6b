//! The ways round the matrix. NATS does not check that an asker may publish on the subject that it wants its
//! answer on, and JetStream answers to any: so each privileged answerer is asked to answer into what must not
//! be reached. All of it must fail, and the log must stand as it stood.

use std::time::Duration;

use async_nats::{RequestErrorKind, jetstream};
use futures_util::StreamExt;
use longshore_bus::Ask;
use longshore_proto::api::{Answer, ClusterView, Nothing};
use longshore_proto::codec;
use longshore_proto::node::Sync;
use longshore_proto::permission::Role::{Manager, ManagerCore, Observer, Operator, Worker};
use longshore_proto::subject::{ApiVerb, Scope, Subject};
use longshore_tests::played::{Me, Played};
use longshore_tests::{Api, Cluster, api, eventually};
use serde_json::json;

use crate::probe::{Act, Probe};

/// How the streams stand: last sequence and count of the log, and of the events.
type Standing = [(u64, u64); 2];

/// What must not be reached by an answer.
const TARGETS: [&str; 7] = [
    "longshore.v1.log",
    "longshore.v1.event.cluster.created",
    "$JS.API.STREAM.PURGE.longshore-log",
    "$JS.API.STREAM.DELETE.longshore-log",
    "$KV.longshore-lease.leader",
    "longshore.v1.node.w2.assign",
    "longshore.v1.api.write.default.job.stop",
];
/// What the server itself allows nobody to ask an answer on who may not publish there.
const ACKNOWLEDGEMENTS: [&str; 2] =
    ["$JS.ACK.longshore-log.c.1.1.1.1.1", "$JS.ACK._.x.longshore-log.c.1.1.1.1.1.t"];

/// Reads how the streams stand, by a manager's right.
async fn standing(cluster: &Cluster) -> Standing {
    let core = cluster.bus(ManagerCore, "m2").await;
    let context = jetstream::new(core.client().clone());
    let mut standing = [(0, 0); 2];
    for (place, stream) in standing.iter_mut().zip(["longshore-log", "longshore-event"]) {
        let state = context.get_stream(stream).await.unwrap().cached_info().state.clone();
        *place = (state.last_sequence, state.messages);
    }
    standing
}

/// A quiet cluster: a manager, a played worker with a task, and everything committed and published.
async fn quiet() -> (Cluster, Played, Standing) {
    let cluster = Cluster::start().await;
    let played = Played::join(cluster.bus(Worker, "w2").await).await.unwrap();
    let api = cluster.api().await;
    api.submit(&api::service("web")).await.unwrap();
    let task = played.wanted_count(1).await[0].task;
    played.report(task, 1, longshore_proto::state::TaskState::Running).await.unwrap();
    let history = api.history().await.unwrap();
    // The stream holds every event of the history: nothing more will come by itself.
    let standing =
        eventually("every event is in the stream", Duration::from_secs(20), async || {
            let standing = standing(&cluster).await;
            let wanted = history.len() as u64;
            if standing[1].1 == wanted {
                Ok(standing)
            } else {
                Err(format!("{standing:?}, not {wanted}"))
            }
        })
        .await;
    (cluster, played, standing)
}

/// Everything that was asked before has been judged and answered, as far as it ever will: the manager answers
/// each connection in order.
async fn settled(api: &Api) -> ClusterView {
    api.status().await.unwrap()
}

#[tokio::test]
async fn an_answer_wanted_outside_an_inbox_is_withheld() {
    let (cluster, w2, before) = quiet().await;
    let api = cluster.api().await;
    let url = cluster.nats.url();
    let mut operator = Probe::connect(&url, &cluster.users, Operator, "alice").await;
    let mut worker = Probe::connect(&url, &cluster.users, Worker, "w1").await;
    let question = codec::encode(&Nothing {});
    let mine = Me::fresh();
    let sync = codec::encode(&Sync { node_id: mine.node_id, boot_id: mine.boot_id, after: None });
    let deltas = w2.deltas().len();
    for target in TARGETS {
        for subject in [
            "longshore.v1.api.read._.cluster.status",
            "longshore.v1.api.read._.task.list",
            "longshore.v1.api.write.default.job.submit",
            "longshore.v1.api.read.default.nonsense",
        ] {
            assert!(operator.publishes_with_reply(subject, target, &question).await, "{subject}");
        }
        for subject in [
            "longshore.v1.node.w1.sync",
            "longshore.v1.node.w1.register",
            "longshore.v1.node.w1.report",
        ] {
            assert!(worker.publishes_with_reply(subject, target, &sync).await, "{subject}");
        }
    }
    for target in ACKNOWLEDGEMENTS {
        let subject = "longshore.v1.api.read._.cluster.status";
        assert!(!operator.publishes_with_reply(subject, target, &question).await, "{target}");
        let subject = "longshore.v1.node.w1.sync";
        assert!(!worker.publishes_with_reply(subject, target, &sync).await, "{target}");
    }
    settled(&api).await;
    let log = cluster_log(&cluster);
    eventually(
        "the manager tells of every answer that it withheld",
        Duration::from_secs(20),
        async || {
            let told = std::fs::read_to_string(&log).unwrap().matches("was withheld").count();
            // Three api subjects and three of a node for each target; the fourth is no verb, and has no listener.
            let wanted = TARGETS.len() * 6;
            if told >= wanted { Ok(()) } else { Err(format!("{told} of {wanted}")) }
        },
    )
    .await;
    assert_eq!(standing(&cluster).await, before);
    assert_eq!(w2.deltas().len(), deltas, "nothing came on the other node's assign subject");
    assert_eq!(api.job("web").await.unwrap().specs[0].running, 1);
}

fn cluster_log(cluster: &Cluster) -> std::path::PathBuf {
    cluster.folder().join("manager-m1.log")
}

#[tokio::test]
async fn the_api_answers_into_no_workers_inbox() {
    let (cluster, _w2, before) = quiet().await;
    let api = cluster.api().await;
    let mut operator = Probe::connect(&cluster.nats.url(), &cluster.users, Operator, "bob").await;
    let question = codec::encode(&Nothing {});
    let target = "_INBOX.worker.w2.stolen.1";
    let subject = "longshore.v1.api.read._.cluster.status";
    assert!(operator.publishes_with_reply(subject, target, &question).await);
    settled(&api).await;
    let log = cluster_log(&cluster);
    eventually("the answer is withheld", Duration::from_secs(20), async || {
        let text = std::fs::read_to_string(&log).unwrap();
        if text.contains(target) { Ok(()) } else { Err("not told".to_owned()) }
    })
    .await;
    assert_eq!(standing(&cluster).await, before);
}

/// The second wall: a worker whose permissions were forgotten altogether is still in an account without
/// JetStream.
#[tokio::test]
async fn the_accounts_hold_where_permissions_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let root = longshore_proto::name::Root::standard();
    let users = longshore_tests::users::Users::everybody(&folder.path().join("creds"), &root);
    let conf = users.accounts_conf();
    let (head, rest) = conf.split_once("{ # worker w1\n").unwrap();
    let (key, rest) = rest.split_once("        permissions: {\n").unwrap();
    let (_, tail) = rest.split_once("\n        }\n").unwrap();
    let conf = format!("{head}{{ # worker w1\n{key}{tail}");
    let nats = longshore_tests::nats::Nats::start(&folder.path().join("nats"), &conf).await;
    let core = api::connect(&nats.url(), &users, ManagerCore, "m1").await;
    let context = jetstream::new(core.client().clone());
    let stream = context
        .create_stream(jetstream::stream::Config {
            name: "longshore-log".to_owned(),
            subjects: vec!["longshore.v1.log".to_owned()],
            ..Default::default()
        })
        .await
        .unwrap();
    context.publish("longshore.v1.log", "first".into()).await.unwrap().await.unwrap();

    let free = Probe::connect(&nats.url(), &users, Worker, "w1").await;
    for subject in [
        "longshore.v1.log",
        "$JS.API.STREAM.PURGE.longshore-log",
        "$JS.API.STREAM.INFO.longshore-log",
        "$JS.API.DIRECT.GET.longshore-log",
        "$JS.API.INFO",
    ] {
        // Nobody listens, or the server says that the account has no JetStream.
        match free.client.request(subject, "".into()).await {
            Err(error) => assert_eq!(error.kind(), RequestErrorKind::NoResponders, "{subject}"),
            Ok(answer) => {
                let answer = String::from_utf8_lossy(&answer.payload).into_owned();
                assert!(
                    answer.contains("JetStream not enabled for account"),
                    "{subject}: {answer}"
                );
            }
        }
    }
    let state = stream.get_info().await.unwrap().state;
    assert_eq!((state.last_sequence, state.messages), (1, 1));
}

#[tokio::test]
async fn a_worker_gets_no_answer_into_anothers_inbox() {
    let (cluster, w2, before) = quiet().await;
    let mut listener = Probe::connect(&cluster.nats.url(), &cluster.users, Worker, "w2").await;
    let mut inbox = listener.client.subscribe("_INBOX.worker.w2.stolen.>").await.unwrap();
    assert!(listener.judged().await.is_empty());
    let mut thief = Probe::connect(&cluster.nats.url(), &cluster.users, Worker, "w1").await;
    // It knows the other's ids, even.
    let me = w2.me();
    let sync = codec::encode(&Sync { node_id: me.node_id, boot_id: me.boot_id, after: None });
    assert!(
        thief
            .publishes_with_reply("longshore.v1.node.w1.sync", "_INBOX.worker.w2.stolen.1", &sync)
            .await
    );
    assert!(
        !thief
            .publishes_with_reply("longshore.v1.node.w2.sync", "_INBOX.worker.w1.stolen.1", &sync)
            .await,
        "it asks in another node's name"
    );
    let api = cluster.api().await;
    settled(&api).await;
    // What the manager sends after that comes after what it would have sent before.
    let log = cluster_log(&cluster);
    eventually("the answer is withheld", Duration::from_secs(20), async || {
        let text = std::fs::read_to_string(&log).unwrap();
        if text.contains("_INBOX.worker.w2.stolen.1") { Ok(()) } else { Err("not told".to_owned()) }
    })
    .await;
    let next = tokio::time::timeout(Duration::from_millis(300), inbox.next()).await;
    assert!(next.is_err(), "{next:?}");
    assert_eq!(standing(&cluster).await, before);
}

#[tokio::test]
async fn a_worker_cannot_read_anothers_assignments_by_its_own_sync() {
    let (cluster, w2, _) = quiet().await;
    let bus = cluster.bus(Worker, "w1").await;
    let me = w2.me();
    let question = Sync { node_id: me.node_id, boot_id: me.boot_id, after: None };
    let subject = Subject::Node {
        node: "w1".parse().unwrap(),
        verb: longshore_proto::subject::NodeVerb::Sync,
    };
    let answer: Result<(u64, longshore_proto::node::SyncPage), _> =
        bus.ask(&subject, &question, Ask::read(Duration::from_secs(5))).await;
    assert!(
        matches!(&answer, Err(longshore_bus::AskError::Refused(refusal))
            if refusal.code == longshore_proto::error::ErrorCode::NotRegistered),
        "{answer:?}"
    );
}

#[tokio::test]
async fn nobody_but_a_manager_reaches_jetstream_by_any_subject() {
    let (cluster, _w2, before) = quiet().await;
    let url = cluster.nats.url();
    for (role, name) in
        [(Manager, "m2"), (Worker, "w1"), (Operator, "alice"), (Observer, "billing")]
    {
        let mut probe = Probe::connect(&url, &cluster.users, role, name).await;
        // A consumer whose deliveries go where nobody may write.
        for target in TARGETS {
            let config = json!({
                "stream_name": "longshore-event",
                "config": {"deliver_subject": target, "deliver_policy": "all", "ack_policy": "none"},
            });
            for subject in [
                "$JS.API.CONSUMER.CREATE.longshore-event",
                "$JS.API.CONSUMER.CREATE.longshore-event.evil",
            ] {
                let reply = format!("_INBOX.{role}.{name}.x");
                let through = probe
                    .publishes_with_reply(subject, &reply, config.to_string().as_bytes())
                    .await;
                assert!(!through, "{role}: {subject} delivering to {target}");
            }
        }
        // Acknowledgements in the names of others: of the first form, and of the second.
        for (subject, payload) in [
            ("$JS.ACK.longshore-log.c.1.1.1.1.1", "+ACK"),
            ("$JS.ACK._.x.longshore-log.c.1.1.1.1.1.t", "+TERM"),
            ("$JS.ACK.longshore-event.c.1.1.1.1.1", "+NXT"),
        ] {
            for target in TARGETS {
                let through = probe.publishes_with_reply(subject, target, payload.as_bytes()).await;
                assert!(!through, "{role}: {subject} answered to {target}");
            }
        }
        // The event stream itself.
        for subject in [
            "longshore.v1.event.cluster.created",
            "longshore.v1.live.cluster.created",
            "longshore.v1.log",
        ] {
            assert_eq!(probe.refused(Act::Publish, &[subject]).await.len(), 1, "{role}: {subject}");
        }
    }
    assert_eq!(standing(&cluster).await, before);
}

#[tokio::test]
async fn an_observers_read_is_answered_in_its_own_account_whatever_it_names() {
    let (cluster, _w2, before) = quiet().await;
    let url = cluster.nats.url();
    let mut observer = Probe::connect(&url, &cluster.users, Observer, "billing").await;
    let mut alice = Probe::connect(&url, &cluster.users, Operator, "alice").await;
    let mut stolen = alice.client.subscribe("_INBOX.operator.alice.stolen").await.unwrap();
    assert!(alice.judged().await.is_empty());
    let reads = [
        ("$JS.API.DIRECT.GET.longshore-event", r#"{"seq":1}"#),
        ("$JS.API.DIRECT.GET.longshore-event", r#"{"seq":1,"batch":10}"#),
        ("$JS.API.DIRECT.GET.longshore-event", r#"{"seq":999999}"#),
        ("$JS.API.DIRECT.GET.longshore-event", "{nonsense"),
        ("$JS.API.DIRECT.GET.longshore-event.longshore.v1.event.cluster.created", ""),
        ("longshore.v1.api.read._.cluster.status", ""),
    ];
    for target in TARGETS.into_iter().chain(["_INBOX.operator.alice.stolen"]) {
        for (subject, payload) in reads {
            assert!(
                observer.publishes_with_reply(subject, target, payload.as_bytes()).await,
                "{subject}"
            );
        }
    }
    // The reads work where they should: the observer hears the answer in its own inbox.
    let answer = observer
        .client
        .request("$JS.API.DIRECT.GET.longshore-event", r#"{"seq":1}"#.into())
        .await
        .unwrap();
    assert!(codec::decode::<longshore_proto::event::Event>(&answer.payload).is_ok());
    let answer = observer
        .client
        .request("longshore.v1.api.read._.cluster.status", codec::encode(&Nothing {}).into())
        .await
        .unwrap();
    let answer: Answer<ClusterView> = codec::decode(&answer.payload).unwrap();
    assert!(answer.ok.is_some(), "{answer:?}");
    settled(&cluster.api().await).await;
    assert_eq!(standing(&cluster).await, before);
    let next = tokio::time::timeout(Duration::from_millis(300), stolen.next()).await;
    assert!(next.is_err(), "{next:?}");
}

/// The services' own questions (`$SRV.PING`) are answered by the client library, which looks at no reply
/// subject: what that can reach is what the manager's user may publish on, and no more.
#[tokio::test]
async fn the_services_own_answers_reach_neither_log_nor_stream() {
    let (cluster, w2, before) = quiet().await;
    let mut operator = Probe::connect(&cluster.nats.url(), &cluster.users, Operator, "alice").await;
    for target in TARGETS {
        for subject in ["$SRV.PING", "$SRV.INFO", "$SRV.STATS.longshore"] {
            assert!(operator.publishes_with_reply(subject, target, b"").await, "{subject}");
        }
    }
    let api = cluster.api().await;
    settled(&api).await;
    assert_eq!(standing(&cluster).await, before);
    // Whatever came to the other node was no assignment.
    assert_eq!(w2.wanted().len(), 1);
    let status: ClusterView = api
        .ask(Scope::Cluster, ApiVerb::ClusterStatus, &Nothing {}, Ask::read(Duration::from_secs(5)))
        .await
        .unwrap();
    assert_eq!((status.records_skipped, status.alarms.len()), (0, 0), "{status:?}");
}
