//! Each role against each kind of subject. The table is written by hand, not derived from the code that the
//! server's configuration is made from: two ways to the same rights, and a difference fails.

use std::collections::BTreeSet;

use longshore_proto::permission::Role::{self, Manager, ManagerCore, Observer, Operator, Worker};
use longshore_tests::Cluster;

use crate::probe::{Act, Probe};

/// Nobody.
const NOBODY: &[Role] = &[];
/// The users that try: one of each role, and what they are called.
const USERS: [(Role, &str); 5] = [
    (ManagerCore, "m1"),
    (Manager, "m1"),
    (Worker, "w1"),
    (Operator, "alice"),
    (Observer, "billing"),
];

/// Who may publish on what. The worker that tries is w1.
fn publish() -> Vec<(String, &'static [Role])> {
    let mut table: Vec<(String, &'static [Role])> = Vec::new();
    let mut add = |roles: &'static [Role], subjects: &[&str]| {
        table.extend(subjects.iter().map(|subject| ((*subject).to_owned(), roles)));
    };
    // Questions and commands.
    add(
        &[Operator],
        &[
            "longshore.v1.api.read._.job.list",
            "longshore.v1.api.read.default.job.get",
            "longshore.v1.api.read._.node.list",
            "longshore.v1.api.read._.event.list",
            "longshore.v1.api.read.default.cluster.status",
            "longshore.v1.api.write.default.job.submit",
            "longshore.v1.api.write.team-a.job.stop",
            "longshore.v1.api.write.default.task.stop",
            "longshore.v1.api.write.default.task.restart",
            "longshore.v1.api.read.default.job.version",
            "longshore.v1.api.write.default.job.rollback",
            "longshore.v1.api.admin._.node.drain",
            "longshore.v1.node.w1.rpc.logs",
            "longshore.v1.node.w1.rpc.copy-from",
            "longshore.v1.node.w1.rpc.copy-to",
            "longshore.v1.node.w2.rpc.forward",
            "longshore.v1.node.w2.rpc.credit",
            "longshore.v1.metrics.watch",
            "$SRV.PING",
            "$SRV.INFO.longshore",
            "$SRV.STATS.longshore.x",
        ],
    );
    add(&[Operator, Observer], &["longshore.v1.api.read._.cluster.status"]);
    // What nodes say, and what they are told.
    add(
        &[Worker],
        &[
            "longshore.v1.node.w1.register",
            "longshore.v1.node.w1.sync",
            "longshore.v1.node.w1.heartbeat",
            "longshore.v1.node.w1.report",
            "longshore.v1.node.w1.metrics",
            "longshore.v1.node.w1.out.alice.s1",
        ],
    );
    add(
        NOBODY,
        &[
            "longshore.v1.node.w2.register",
            "longshore.v1.node.w2.sync",
            "longshore.v1.node.w2.heartbeat",
            "longshore.v1.node.w2.report",
            "longshore.v1.node.w2.metrics",
            "longshore.v1.node.w2.out.alice.s1",
            "longshore.v1.node.w1.out.alice",
            "longshore.v1.node.w1.elsewhere",
        ],
    );
    add(&[Manager], &["longshore.v1.node.w1.assign", "longshore.v1.node.w2.assign"]);
    // The log, the events, the lease, the snapshots.
    add(
        &[ManagerCore],
        &[
            "longshore.v1.log",
            "longshore.v1.event.task.default.web.main.running",
            "longshore.v1.event.job.default.web.submitted",
            "longshore.v1.event.node.w1.lost",
            "longshore.v1.event.cluster.created",
            "$KV.longshore-lease.leader",
            "$O.longshore-snapshot.C.x",
            "$JS.ACK.longshore-log.c.1.1.1.1.1",
            "$JS.ACK.x.y.longshore-log.c.1.1.1.1.1.t",
            "$JS.FC.longshore-log.c.x",
            "$JS.API.INFO",
        ],
    );
    add(
        NOBODY,
        &[
            "longshore.v1.log.x",
            "longshore.v1.live.task.default.web.main.running",
            "longshore.v2.log",
            "other.v1.log",
            "$KV.longshore-lease.other",
            "$KV.other.leader",
            "$SYS.REQ.SERVER.PING",
            "$SYS.REQ.ACCOUNT.CORE.INFO",
            "$SRV.NEVER",
            "_INBOX.x.y",
            "_INBOX",
            "anything",
        ],
    );
    for stream in
        ["longshore-log", "longshore-event", "KV_longshore-lease", "OBJ_longshore-snapshot"]
    {
        for verb in [
            "STREAM.CREATE.{}",
            "STREAM.UPDATE.{}",
            "STREAM.INFO.{}",
            "STREAM.MSG.GET.{}",
            "CONSUMER.CREATE.{}",
            "CONSUMER.CREATE.{}.c",
            "CONSUMER.CREATE.{}.c.longshore.v1.log",
            "CONSUMER.INFO.{}.c",
            "CONSUMER.DELETE.{}.c",
            "CONSUMER.MSG.NEXT.{}.c",
        ] {
            table.push((format!("$JS.API.{}", verb.replace("{}", stream)), &[ManagerCore]));
        }
        for verb in [
            "STREAM.DELETE.{}",
            "STREAM.MSG.DELETE.{}",
            "STREAM.SNAPSHOT.{}",
            "STREAM.RESTORE.{}",
            "STREAM.LEADER.STEPDOWN.{}",
            "STREAM.PEER.REMOVE.{}",
            "CONSUMER.DURABLE.CREATE.{}.c",
            "CONSUMER.NAMES.{}",
            "CONSUMER.PAUSE.{}.c",
        ] {
            table.push((format!("$JS.API.{}", verb.replace("{}", stream)), NOBODY));
        }
        // The log is trimmed behind a snapshot, and old snapshots go.
        let trims = matches!(stream, "longshore-log" | "OBJ_longshore-snapshot");
        let purge: &[Role] = if trims { &[ManagerCore] } else { NOBODY };
        table.push((format!("$JS.API.STREAM.PURGE.{stream}"), purge));
        // History is read directly by observers, and snapshots by managers; the log and the lease by nobody,
        // because a direct read may be old.
        let direct: (&[Role], &[Role]) = match stream {
            "longshore-event" => (&[Observer], &[Observer]),
            "OBJ_longshore-snapshot" => (NOBODY, &[ManagerCore]),
            _ => (NOBODY, NOBODY),
        };
        table.push((format!("$JS.API.DIRECT.GET.{stream}"), direct.0));
        table.push((format!("$JS.API.DIRECT.GET.{stream}.x"), direct.1));
    }
    for verb in [
        "STREAM.LIST",
        "STREAM.NAMES",
        "STREAM.CREATE.evil",
        "STREAM.DELETE.evil",
        "META.LEADER.STEPDOWN",
    ] {
        table.push((format!("$JS.API.{verb}"), NOBODY));
    }
    // Answers: only a manager gives any, and only to those who may ask.
    table.extend([
        ("_INBOX.worker.w1.a.b".to_owned(), &[Manager][..]),
        ("_INBOX.operator.alice.a".to_owned(), &[Manager]),
        ("_R_.abc".to_owned(), &[Manager]),
        ("_INBOX.manager.m1.a".to_owned(), NOBODY),
        ("_INBOX.manager-core.m1.a".to_owned(), NOBODY),
        ("_INBOX.observer.billing.a".to_owned(), NOBODY),
    ]);
    table
}

/// Who may hear what.
fn subscribe() -> Vec<(String, &'static [Role])> {
    let mut table: Vec<(String, &'static [Role])> = Vec::new();
    let mut add = |roles: &'static [Role], subjects: &[&str]| {
        table.extend(subjects.iter().map(|subject| ((*subject).to_owned(), roles)));
    };
    add(
        &[Manager],
        &[
            "longshore.v1.api.read.>",
            "longshore.v1.api.write.*.job.submit",
            "longshore.v1.api.admin._.node.drain",
            "longshore.v1.node.*.register",
            "longshore.v1.node.*.sync",
            "longshore.v1.node.*.heartbeat",
            "longshore.v1.node.*.report",
            "longshore.v1.node.w1.report",
            "$SRV.PING",
            "$SRV.INFO.longshore.x",
            "_INBOX.manager.m1.>",
        ],
    );
    add(
        &[Worker],
        &[
            "longshore.v1.node.w1.assign",
            "longshore.v1.node.w1.rpc.logs",
            "longshore.v1.node.w1.rpc.*",
            "_INBOX.worker.w1.>",
        ],
    );
    add(&[Worker], &["longshore.v1.metrics.watch"]);
    add(
        &[Operator, Observer],
        &[
            "longshore.v1.event.>",
            "longshore.v1.event.task.default.web.*.running",
            "longshore.v1.node.*.metrics",
            "longshore.v1.node.w2.metrics",
        ],
    );
    add(
        &[Operator],
        &[
            "longshore.v1.node.*.out.alice.*",
            "longshore.v1.node.w1.out.alice.s1",
            "_INBOX.operator.alice.>",
        ],
    );
    add(&[Observer], &["_INBOX.observer.billing.>"]);
    add(&[ManagerCore], &["_INBOX.manager-core.m1.>"]);
    add(
        NOBODY,
        &[
            ">",
            "*",
            "*.>",
            "longshore.>",
            "longshore.v1.>",
            "longshore.v1.*.>",
            "longshore.v1.log",
            "longshore.v1.live.>",
            "longshore.v1.node.>",
            "longshore.v1.node.w2.assign",
            "longshore.v1.node.*.assign",
            "longshore.v1.node.w2.rpc.logs",
            "longshore.v1.node.w2.rpc.copy-to",
            "longshore.v1.node.w2.rpc.forward",
            "longshore.v1.node.*.rpc.*",
            "longshore.v1.node.*.out.bob.*",
            "longshore.v1.node.*.out.*.*",
            "_INBOX.>",
            "_INBOX.*.*.>",
            "_INBOX.operator.*.>",
            "_INBOX.operator.bob.>",
            "_INBOX.worker.w2.>",
            "_INBOX.worker.*.x",
            "_INBOX.manager.m2.>",
            "_INBOX.manager-core.m2.>",
            "_INBOX.observer.other.>",
            "_R_.>",
            "$JS.>",
            "$JS.API.>",
            "$JS.ACK.>",
            "$JS.EVENT.ADVISORY.>",
            "$KV.>",
            "$KV.longshore-lease.leader",
            "$O.>",
            "$SYS.>",
            "$SYS.ACCOUNT.CORE.>",
        ],
    );
    table
}

async fn compare(act: Act, table: &[(String, &'static [Role])]) {
    let cluster = Cluster::server().await;
    let subjects: Vec<&str> = table.iter().map(|(subject, _)| subject.as_str()).collect();
    let mut wrong = Vec::new();
    for (role, name) in USERS {
        let mut probe = Probe::connect(&cluster.nats.url(), &cluster.users, role, name).await;
        let refused = probe.refused(act, &subjects).await;
        let known: BTreeSet<String> =
            subjects.iter().map(|subject| subject.to_lowercase()).collect();
        assert!(refused.is_subset(&known), "{:?}", refused.difference(&known));
        for (subject, roles) in table {
            let (may, did) = (roles.contains(&role), !refused.contains(&subject.to_lowercase()));
            if may != did {
                let word = if may { "is refused" } else { "is let through" };
                wrong.push(format!("{role} {name} {word}: {act:?} {subject}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn each_role_publishes_on_its_own_subjects_and_on_no_other() {
    let table = publish();
    assert!(table.len() * USERS.len() >= 400, "only {} cases", table.len() * USERS.len());
    compare(Act::Publish, &table).await;
}

#[tokio::test]
async fn each_role_hears_its_own_subjects_and_no_other() {
    compare(Act::Subscribe, &subscribe()).await;
}

#[tokio::test]
async fn who_has_no_key_or_a_strangers_key_does_not_get_in() {
    let cluster = Cluster::server().await;
    let stranger = longshore_bus::Credentials::generate(Worker, "w1".parse().unwrap()).unwrap();
    for credentials in [None, Some(stranger)] {
        let root = cluster.users.root().clone();
        let options =
            longshore_tests::api::options(&cluster.nats.url(), &root, Worker, "w1", credentials);
        let refused = longshore_bus::Bus::connect(options).await;
        assert!(matches!(refused, Err(longshore_bus::ConnectError::Refused { .. })), "{refused:?}");
    }
}
