//! What managers and workers say to each other.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::health::{Health, HealthReport};
use longshore_proto::id::{BootId, ClusterId, NodeId, Revision, TaskId};
use longshore_proto::metrics::{
    MetricsWatch, NodeFigures, NodeMetrics, PullFigures, PullStep, TaskFigures, Usage,
};
use longshore_proto::name::{Namespace, Root};
use longshore_proto::node::{
    AssignDelta, Assignment, Heartbeat, Register, Registered, Reports, ReportsCommitted, RunTask,
    Sync, SyncPage, TaskKnown, TaskReport, Want,
};
use longshore_proto::spec::{Port, Resources};
use longshore_proto::state::TaskState;
use longshore_proto::subject::{NodeVerb, Subject};

use crate::samples::{CAPACITY, job, port, uuid};
use crate::{Examples, ok};

pub(crate) fn nodes(examples: &mut Examples) {
    let node = || "n1".parse().unwrap();
    let title = |verb: NodeVerb| {
        let subject = Subject::Node { node: node(), verb }.text(&Root::standard());
        format!("{} (`{subject}`)", verb.as_str())
    };
    let (node_id, boot_id) = (NodeId(uuid(2)), BootId(uuid(4)));
    let revision = Revision { epoch: 3, index: 12 };

    examples.heading(&title(NodeVerb::Register));
    let register = Register {
        node_id,
        boot_id,
        cluster_id: None,
        datacenter: "dc1".parse().unwrap(),
        labels: BTreeMap::from([("rack".to_owned(), "r1".to_owned())]),
        attributes: BTreeMap::from([("os".to_owned(), "linux".to_owned())]),
        capacity: CAPACITY,
        tasks_max: 500,
        mount_paths: vec!["/srv/data".into()],
        version: "0.1.0".into(),
    };
    examples.message("Request:", &register);
    let registered = Registered {
        cluster_id: ClusterId(uuid(1)),
        epoch: 3,
        heartbeat_interval_ms: 2_000,
        revision,
    };
    examples.message("Answer:", &ok(registered));

    examples.heading(&title(NodeVerb::Heartbeat));
    let heartbeat = Heartbeat {
        node_id,
        boot_id,
        revision,
        digest: 0x1122_3344_5566_7788,
        answered: Some(revision),
        capacity: CAPACITY,
        used: Resources { cpu_millis: 350, memory_bytes: 2 << 30, disk_bytes: 40 << 30 },
        tasks_running: 2,
        runtime_error: None,
        leaving: false,
        drain_within_ms: None,
        cluster_id: None,
    };
    examples.message("Payload (answered, where that is wanted, with `{}`):", &heartbeat);

    examples.heading(&title(NodeVerb::Metrics));
    let usage = Usage {
        cpu_ns: Some(12_500_000_000),
        cpu_millis: Some(250),
        memory_bytes: Some(40 << 20),
        memory_limit_bytes: Some(256 << 20),
        received_bytes: Some(120_000),
        sent_bytes: Some(3_400_000),
        read_bytes: Some(0),
        written_bytes: Some(8_192),
        pids: Some(3),
    };
    let figures = TaskFigures {
        task: TaskId(uuid(7)),
        namespace: Namespace::standard(),
        job: "web".parse().unwrap(),
        spec: "main".parse().unwrap(),
        slot: 0,
        attempt: 2,
        usage,
    };
    let metrics = NodeMetrics {
        boot_id,
        at_ms: 1_763_800_002_000,
        node: NodeFigures {
            capacity: CAPACITY,
            used: Resources { cpu_millis: 350, memory_bytes: 2 << 30, disk_bytes: 40 << 30 },
            load_1m: 0.25,
            received_bytes: 52_000_000,
            sent_bytes: 9_000_000,
            tasks_running: 1,
            runtime_error: None,
        },
        tasks: Some(vec![figures]),
        pulls: vec![PullFigures {
            image: "nginx:1.27".into(),
            done_bytes: 12 << 20,
            total_bytes: 30 << 20,
            step: PullStep::Downloading,
        }],
    };
    examples.message("Payload (no answer):", &metrics);
    examples
        .heading(&format!("metrics.watch (`{}`)", Subject::MetricsWatch.text(&Root::standard())));
    let wish = MetricsWatch { interval_ms: 2_000, tasks_of: None };
    examples.message("Payload (no answer): everything, every two seconds", &wish);
    let one = BTreeSet::from(["n1".parse().unwrap()]);
    let wish = MetricsWatch { interval_ms: 2_000, tasks_of: Some(one) };
    examples.message("Payload (no answer): the tasks of one node only", &wish);

    examples.heading(&title(NodeVerb::Assign));
    let run = RunTask {
        namespace: Namespace::standard(),
        job: "web".parse().unwrap(),
        version: 1,
        slot: 0,
        attempt_floor: 0,
        epoch: None,
        node_labels: BTreeMap::new(),
        spec: job().resolve().specs[0].clone(),
    };
    let run = Assignment { task: TaskId(uuid(7)), revision, want: Want::Run(Box::new(run)) };
    let stop = Assignment {
        task: TaskId(uuid(8)),
        revision,
        want: Want::Stop { reason: "its job is stopping".into() },
    };
    let delta = AssignDelta {
        cluster_id: ClusterId(uuid(1)),
        previous: Revision { epoch: 3, index: 9 },
        revision,
        changes: vec![run.clone(), stop],
    };
    examples.message("Payload (no answer):", &delta);

    examples.heading(&title(NodeVerb::Sync));
    examples.message("Request:", &Sync { node_id, boot_id, after: None });
    let page = SyncPage {
        cluster_id: ClusterId(uuid(1)),
        revision,
        count: 1,
        assignments: vec![run],
        known: vec![TaskKnown { task: TaskId(uuid(7)), attempt: 2, state: TaskState::Running }],
        end: true,
    };
    examples.message("Answer:", &ok(page));

    examples.heading(&title(NodeVerb::Report));
    let report = TaskReport {
        task: TaskId(uuid(7)),
        attempt: 2,
        state: TaskState::Preparing,
        boot_id,
        container_id: None,
        exit_code: Some(137),
        reason: Some("attempt 1 exited with code 137 (killed); restart in 1s".into()),
        ports: vec![Port { name: Some("web".into()), ..port(20_123) }],
        health: Some(HealthReport { status: Health::Healthy, sequence: 1 }),
        pulls_failed: 0,
        at_ms: 1_763_800_002_000,
    };
    let waits = TaskReport {
        exit_code: None,
        reason: Some("nginx:1.27: its registry does not answer; trying again, 2 of 6".into()),
        health: None,
        pulls_failed: 1,
        ..report.clone()
    };
    examples.message("Request:", &Reports { node_id, boot_id, reports: vec![report, waits] });
    examples.message("Answer:", &ok(ReportsCommitted { epoch: 3, index: 13 }));
}
