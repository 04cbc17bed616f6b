//! The examples of docs/protocol.md, made from the types and compared with the document: one for each message.
//! They are golden messages, too: when one changes, the wire has changed, and other versions must still read
//! it. `UPDATE_DOCS=1 cargo test -p longshore-proto --test protocol` writes them anew.

#![expect(clippy::unwrap_used, reason = "a failed example is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use longshore_proto::api::{
    Answer, BackupMade, BackupPart, ClusterView, DrainNodes, DrainView, DrainWait, HistoryView,
    JobStopped, JobSubmitted, JobView, LabelNode, ListEvents, ListJobs, ListNodes, ListTasks,
    NameJob, NameNode, NameNodes, NameTask, NodeGone, NodeView, NodesChanged, Nothing, Page,
    ReadBackup, RemoveNode, SpecView, SubmitJob, TaskStopped, TaskView,
};
use longshore_proto::codec::{decode, encode};
use longshore_proto::constraint::Attribute;
use longshore_proto::container::{
    ContainerSpec, CpuMode, Device, Gpus, LogDriver, Network, Ulimit,
};
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::event::{Event, JobWants};
use longshore_proto::explain::{CostTerms, Reason, RunnerUp, Why};
use longshore_proto::health::{Health, HealthCheck, HealthReport, Probe};
use longshore_proto::id::{BootId, ClusterId, ManagerId, NodeId, Revision, SessionId, TaskId};
use longshore_proto::metrics::{
    MetricsWatch, NodeFigures, NodeMetrics, PullFigures, PullStep, TaskFigures, Usage,
};
use longshore_proto::name::{Namespace, NodeName, Root, UserName};
use longshore_proto::node::{
    AssignDelta, Assignment, Heartbeat, Register, Registered, Reports, ReportsCommitted, RunTask,
    Sync, SyncPage, TaskKnown, TaskReport, Want,
};
use longshore_proto::plan::{
    self, Candidate, Displaced, Footing, Outlook, Rebalance, RebalancePlan, Refused, Shortage,
    Standing, TaskExplained, TaskRef, Unplaced, WhatIf,
};
use longshore_proto::rpc::{
    Chunk, ChunkBody, CopyFromRequest, CopyToRequest, Credit, ExecRequest, FileKind, FileStat,
    ForwardRequest, Input, InputBody, LogsRequest, TerminalSize,
};
use longshore_proto::spec::{
    Affinity, JobSpec, JobType, Mount, MountSource, Port, Protocol, Resources, SchedulerKind,
    Spread, TaskSpec,
};
use longshore_proto::state::{Eligibility, JobStatus, NodeStatus, TaskState};
use longshore_proto::subject::{ApiVerb, NodeVerb, RpcVerb, Scope, Subject};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

const BEGIN: &str = "<!-- examples: begin -->";
const END: &str = "<!-- examples: end -->";

/// The document in the making.
struct Examples {
    text: String,
}

impl Examples {
    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.text, "\n### {text}\n");
    }

    fn message<T>(&mut self, what: &str, message: &T)
    where
        T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let bytes = encode(message);
        assert_eq!(&decode::<T>(&bytes).unwrap(), message, "{what} is read back");
        let json = serde_json::to_string(message).unwrap();
        let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let _ = writeln!(self.text, "{what}\n\n```json\n{json}\n```\n\n```msgpack\n{hex}\n```\n");
    }
}

fn uuid(low: u128) -> Uuid {
    Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0000 + low)
}

fn port(host: u16) -> Port {
    Port { host, container: 80, protocol: Protocol::Tcp, host_ip: None, name: None }
}

fn job() -> JobSpec {
    let mut spec = TaskSpec::new("main".parse().unwrap(), "nginx:1.27");
    spec.instances = 2;
    spec.env = BTreeMap::from([("MODE".to_owned(), "fast".to_owned())]);
    spec.ports = vec![port(8080)];
    JobSpec {
        datacenters: vec!["dc1".parse().unwrap()],
        ..JobSpec::new("web".parse().unwrap(), JobType::Service, spec)
    }
}

/// A container that uses every word.
fn particular_container() -> ContainerSpec {
    ContainerSpec {
        platform: Some("linux/amd64".parse().unwrap()),
        registry_login: Some("team".parse().unwrap()),
        working_dir: Some("/app".into()),
        user: Some("1000:1000".into()),
        labels: BTreeMap::from([("team".to_owned(), "${job.name}".to_owned())]),
        hostname: Some("web-${task.index}".into()),
        network: Network::Named("backend".into()),
        dns: vec!["9.9.9.9".parse().unwrap()],
        dns_search: vec!["example.org".into()],
        hosts: BTreeMap::from([("db".to_owned(), "10.0.0.1".parse().unwrap())]),
        cpu_mode: CpuMode::Shares,
        memory_reservation_bytes: Some(64 << 20),
        pids_max: Some(200),
        shm_bytes: Some(1 << 20),
        ulimits: BTreeMap::from([("nofile".to_owned(), Ulimit { soft: 1024, hard: 4096 })]),
        cap_add: vec!["NET_ADMIN".into()],
        cap_drop: vec!["ALL".into()],
        new_privileges: true,
        privileged: true,
        read_only: true,
        devices: vec![Device {
            host: "/dev/kvm".into(),
            container: Some("/dev/vm".into()),
            permissions: "rw".into(),
        }],
        gpus: Some(Gpus::Count(1)),
        init: true,
        stop_signal: Some("SIGQUIT".into()),
        log: Some(LogDriver {
            driver: "local".into(),
            options: BTreeMap::from([("max-size".to_owned(), "1m".to_owned())]),
        }),
    }
}

/// A job that uses every word for placement, mounts and the container.
fn particular_job() -> JobSpec {
    let mut job = job();
    job.scheduler = Some(SchedulerKind::EpvmGuard);
    for spec in &mut job.specs {
        spec.constraints = vec!["attribute.kernel version >= 5.10".parse().unwrap()];
        spec.affinities =
            vec![Affinity { constraint: "label.disk in ssd, nvme".parse().unwrap(), weight: 30 }];
        spec.spread = vec![Spread::usual(Attribute::Label("rack".into()))];
        spec.anti_affinity = Some(20);
        spec.distinct_hosts = true;
        spec.ports = vec![Port { name: Some("web".into()), ..port(Port::DYNAMIC) }];
        spec.container = particular_container();
        spec.health = Some(HealthCheck {
            start_period_ms: 30_000,
            ..HealthCheck::usual(Probe::Http { port: "web".into(), path: "/healthz".into() })
        });
        spec.all_at_once = true;
        let mount = |target: &str, source, read_only| Mount {
            target: target.to_owned(),
            source,
            read_only,
        };
        spec.mounts = vec![
            mount("/etc/app", MountSource::Bind { path: "/srv/data/app".into() }, true),
            mount("/var/lib/app", MountSource::Volume { name: "app".into() }, false),
            mount("/tmp", MountSource::Tmpfs { size_bytes: Some(64 << 20) }, false),
        ];
    }
    job
}

fn task_view() -> TaskView {
    TaskView {
        id: TaskId(uuid(7)),
        namespace: Namespace::standard(),
        job: "web".parse().unwrap(),
        spec: "main".parse().unwrap(),
        slot: 0,
        version: 1,
        state: TaskState::Running,
        silent: false,
        attempt: 1,
        node: Some("n1".parse().unwrap()),
        container_id: Some("4c01db0b339c".into()),
        image: "nginx:1.27".into(),
        ports: vec![Port { name: Some("web".into()), ..port(20_123) }],
        health: Some(Health::Healthy),
        exit_code: None,
        reason: None,
        placement: Some("the only feasible of 1 nodes".into()),
        replaces: None,
        created_at_ms: 1_763_800_000_000,
        started_at_ms: Some(1_763_800_000_450),
        finished_at_ms: None,
    }
}

fn job_view() -> JobView {
    JobView {
        namespace: Namespace::standard(),
        name: "web".parse().unwrap(),
        job_type: JobType::Service,
        version: 1,
        status: JobStatus::Running,
        priority: 50,
        datacenters: vec!["dc1".parse().unwrap()],
        specs: vec![SpecView {
            name: "main".parse().unwrap(),
            image: "nginx:1.27".into(),
            instances: 2,
            running: 2,
            pending: 0,
            completed: 0,
            failed: 0,
        }],
        created_at_ms: 1_763_800_000_000,
    }
}

const CAPACITY: Resources =
    Resources { cpu_millis: 4_000, memory_bytes: 8 << 30, disk_bytes: 100 << 30 };

fn node_view() -> NodeView {
    NodeView {
        name: "n1".parse().unwrap(),
        id: NodeId(uuid(2)),
        datacenter: "dc1".parse().unwrap(),
        status: NodeStatus::Ready,
        eligibility: Eligibility::Open,
        labels: BTreeMap::from([("rack".to_owned(), "r1".to_owned())]),
        labels_set: BTreeMap::new(),
        drain: None,
        attributes: BTreeMap::from([("os".to_owned(), "linux".to_owned())]),
        capacity: CAPACITY,
        committed: Resources { cpu_millis: 200, memory_bytes: 256 << 20, disk_bytes: 0 },
        used: Some(Resources { cpu_millis: 350, memory_bytes: 2 << 30, disk_bytes: 40 << 30 }),
        tasks: 2,
        tasks_max: 500,
        mount_paths: vec!["/srv/data".into()],
        heard_ms_ago: Some(420),
        runtime_error: None,
        worker_version: "0.1.0".into(),
    }
}

/// A node with a label of an operator's, which is draining.
fn draining_view() -> NodeView {
    let task = TaskRef {
        id: Some(TaskId(uuid(7))),
        namespace: Namespace::standard(),
        job: "web".parse().unwrap(),
        spec: "main".parse().unwrap(),
    };
    NodeView {
        eligibility: Eligibility::Draining,
        labels_set: BTreeMap::from([("rack".to_owned(), "r1".to_owned())]),
        drain: Some(DrainView {
            actor: "operator/alice".into(),
            started_at_ms: 1_763_800_000_000,
            deadline_ms: Some(600_000),
            left_ms: Some(580_000),
            overdue: false,
            drained: false,
            waits: vec![DrainWait {
                task,
                slot: 0,
                reason: "its successor on n2 is preparing".into(),
            }],
        }),
        ..node_view()
    }
}

fn event() -> Event {
    Event {
        index: 12,
        ordinal: 0,
        at_ms: 1_763_800_000_450,
        event_type: "task.running".into(),
        namespace: Some(Namespace::standard()),
        job: Some("web".parse().unwrap()),
        spec: Some("main".parse().unwrap()),
        task: Some(TaskId(uuid(7))),
        node: Some("n1".parse().unwrap()),
        state: Some("running".into()),
        attempt: Some(1),
        exit_code: None,
        reason: None,
        actor: None,
        wants: None,
    }
}

fn ok<T>(value: T) -> Answer<T> {
    Answer::new(12, Ok(value))
}

fn operated_nodes(examples: &mut Examples, title: &dyn Fn(ApiVerb, Scope) -> String) {
    let n1: NodeName = "n1".parse().unwrap();
    let names = vec![n1.clone(), "n2".parse().unwrap()];
    let changed = || ok(NodesChanged { names: vec![n1.clone()] });
    for verb in [ApiVerb::NodeCordon, ApiVerb::NodeUncordon] {
        examples.heading(&title(verb, Scope::Cluster));
        examples.message("Request:", &NameNodes { names: names.clone() });
        examples.message("Answer, when `n2` was like that already:", &changed());
    }
    examples.heading(&title(ApiVerb::NodeDrain, Scope::Cluster));
    examples.message("Request:", &DrainNodes { names, deadline_ms: Some(600_000) });
    examples.message("Answer:", &changed());

    examples.heading(&title(ApiVerb::NodeLabel, Scope::Cluster));
    let asked = LabelNode {
        name: n1.clone(),
        set: BTreeMap::from([("rack".to_owned(), "r1".to_owned())]),
        remove: BTreeSet::from(["disk".to_owned()]),
    };
    examples.message("Request:", &asked);
    examples.message("Answer:", &changed());

    examples.heading(&title(ApiVerb::NodeConfirmLost, Scope::Cluster));
    examples.message("Request:", &NameNode { name: n1.clone() });
    examples.message("Answer:", &ok(NodeGone { name: n1.clone(), tasks_lost: 1 }));

    examples.heading(&title(ApiVerb::NodeRemove, Scope::Cluster));
    examples.message("Request:", &RemoveNode { name: n1.clone(), force: false });
    examples.message("Answer:", &ok(NodeGone { name: n1.clone(), tasks_lost: 2 }));
}

fn api(examples: &mut Examples) {
    let subject = |scope: Scope, verb| Subject::Api { scope, verb }.text(&Root::standard());
    let own = || Scope::Namespace(Namespace::standard());
    let title = |verb: ApiVerb, scope| format!("{} (`{}`)", verb.as_str(), subject(scope, verb));

    examples.heading(&title(ApiVerb::ClusterStatus, Scope::Cluster));
    examples.message("Request:", &Nothing {});
    let view = ClusterView {
        id: ClusterId(uuid(1)),
        epoch: 3,
        leader: ManagerId(uuid(3)),
        leader_name: Some("m1".parse().unwrap()),
        manager_version: "0.1.0".into(),
        jobs: 1,
        tasks: BTreeMap::from([(TaskState::Running, 2)]),
        nodes: BTreeMap::from([("ready".to_owned(), 1)]),
        records_skipped: 0,
        payloads_refused: 0,
        alarms: vec![],
        warnings: vec!["the log is 71 % full (728MiB of 1GiB)".into()],
        history: Some(HistoryView {
            from_index: 1,
            from_ms: 1_763_800_000_000,
            joined_index: Some(9),
        }),
    };
    examples.message("Answer:", &ok(view));

    examples.heading(&title(ApiVerb::JobSubmit, own()));
    examples.message("Request:", &SubmitJob { job: job() });
    examples.message(
        "Request, with what may be said of where tasks run and what is mounted:",
        &SubmitJob { job: particular_job() },
    );
    let submitted =
        JobSubmitted { namespace: Namespace::standard(), name: "web".parse().unwrap(), version: 1 };
    examples.message("Answer:", &ok(submitted));
    let refusal = ApiError::new(ErrorCode::Invalid, "specs.main.instances is 0")
        .hint("use 1 to 100000; stop the job to have none");
    examples.message("Refusal:", &Answer::<JobSubmitted>::new(12, Err(refusal)));

    examples.heading(&title(ApiVerb::JobStop, own()));
    examples.message("Request:", &NameJob { name: "web".parse().unwrap() });
    examples.message("Answer:", &ok(JobStopped { name: "web".parse().unwrap(), tasks_live: 2 }));

    examples.heading(&title(ApiVerb::JobGet, own()));
    examples.message("Request:", &NameJob { name: "web".parse().unwrap() });
    examples.message("Answer:", &ok(job_view()));

    examples.heading(&title(ApiVerb::JobList, own()));
    examples.message("Request:", &ListJobs { after: None, limit: Some(100) });
    examples.message("Answer:", &ok(Page { items: vec![job_view()], more: false }));

    examples.heading(&title(ApiVerb::TaskStop, own()));
    examples.message("Request:", &NameTask { id: "01970000".into() });
    let stopped = TaskStopped {
        id: TaskId(uuid(7)),
        job: "web".parse().unwrap(),
        spec: "main".parse().unwrap(),
        instances: 1,
    };
    examples.message("Answer:", &ok(stopped));

    examples.heading(&title(ApiVerb::TaskGet, own()));
    examples.message("Request:", &NameTask { id: "01970000".into() });
    examples.message("Answer:", &ok(task_view()));

    examples.heading(&title(ApiVerb::TaskList, own()));
    let list = ListTasks {
        job: Some("web".parse().unwrap()),
        ended: true,
        limit: Some(100),
        ..ListTasks::default()
    };
    examples.message("Request:", &list);
    examples.message("Answer:", &ok(Page { items: vec![task_view()], more: false }));

    examples.heading(&title(ApiVerb::NodeGet, Scope::Cluster));
    examples.message("Request:", &NameNode { name: "n1".parse().unwrap() });
    examples.message("Answer:", &ok(node_view()));
    examples.message("Answer, of a node that is draining:", &ok(draining_view()));

    examples.heading(&title(ApiVerb::NodeList, Scope::Cluster));
    examples.message("Request:", &ListNodes::default());
    examples.message("Answer:", &ok(Page { items: vec![node_view()], more: false }));

    examples.heading(&title(ApiVerb::EventList, own()));
    examples.message(
        "Request:",
        &ListEvents {
            after: Some((11, 3)),
            limit: Some(100),
            node: Some("n1".parse().unwrap()),
            event_type: Some("task.running".into()),
            since_ms: Some(1_763_800_000_000),
            ..ListEvents::default()
        },
    );
    examples.message("Answer:", &ok(Page { items: vec![event()], more: false }));

    examples.heading(&title(ApiVerb::BackupMake, Scope::Cluster));
    examples.message("Request:", &Nothing {});
    examples.message("Answer:", &ok(BackupMade { index: 4_711, bytes: 52_000 }));

    examples.heading(&title(ApiVerb::BackupRead, Scope::Cluster));
    examples.message("Request:", &ReadBackup { index: 4_711, offset: 51_996 });
    examples.message("Answer:", &ok(BackupPart { bytes: vec![1, 2, 3, 4] }));
}

fn plans(examples: &mut Examples) {
    let subject = |scope: Scope, verb| Subject::Api { scope, verb }.text(&Root::standard());
    let own = Scope::Namespace(Namespace::standard());
    let title = |verb: ApiVerb, scope| format!("{} (`{}`)", verb.as_str(), subject(scope, verb));
    let task = |id: Option<u128>, job: &str| TaskRef {
        id: id.map(|id| TaskId(uuid(id))),
        namespace: Namespace::standard(),
        job: job.parse().unwrap(),
        spec: "main".parse().unwrap(),
    };
    let (n1, n2): (NodeName, NodeName) = ("n1".parse().unwrap(), "n2".parse().unwrap());
    let cost = CostTerms { cpu: 0.25, memory: 0.5, tasks: 0.125, ..CostTerms::default() };
    let why = Why {
        scheduler: SchedulerKind::Epvm,
        nodes: 3,
        feasible: 2,
        removed: BTreeMap::from([(Reason::Constraint, 1)]),
        unmet: vec![(0, 1)],
        cost: Some(cost),
        runner_up: Some(RunnerUp { node: n2.clone(), cost: CostTerms { cpu: 0.5, ..cost } }),
        moved_from: None,
    };

    examples.heading(&title(ApiVerb::TaskExplain, own));
    examples.message("Request:", &NameTask { id: "01970000".into() });
    let placed = TaskExplained {
        task: task(Some(7), "web"),
        priority: 50,
        state: TaskState::Running,
        node: Some(n1.clone()),
        reason: None,
        placement: Some(why.sentence(|_| "label.rack = r1".to_owned())),
        why: Some(why),
        now: Some(Standing {
            scheduler: SchedulerKind::Epvm,
            nodes: 3,
            feasible: 1,
            removed: BTreeMap::from([(Reason::Constraint, 1), (Reason::Cpu, 1)]),
            removed_text: "1 does not meet a constraint (label.rack = r1: 1), 1 lacks cpu (most \
                           free: 0.2 of 0.5 cores wanted)"
                .into(),
            best: vec![Candidate { node: n1.clone(), cost: Some(cost) }],
            refused: vec![Refused {
                node: n2.clone(),
                reason: Reason::Cpu,
                text: "lacks cpu: 0.2 of 0.5 cores wanted are free".into(),
            }],
            closest: Some(Shortage {
                node: n2.clone(),
                missing: Resources { cpu_millis: 300, memory_bytes: 0, disk_bytes: 0 },
            }),
            spread_over_nothing: vec![],
        }),
        room: vec![],
    };
    examples.message("Answer:", &ok(placed));
    let displaced = || Displaced { task: task(Some(9), "low"), priority: 10 };
    let waiting = TaskExplained {
        task: task(Some(8), "web"),
        priority: 50,
        state: TaskState::Pending,
        node: None,
        reason: Some("no node has joined yet".into()),
        placement: None,
        why: None,
        now: None,
        room: vec![plan::Seat { node: n2.clone(), displaced: vec![displaced()] }],
    };
    examples.message("Answer of a task that waits, with what would be displaced:", &ok(waiting));

    examples.heading(&title(ApiVerb::ClusterWhatIf, Scope::Cluster));
    examples.message("Request:", &WhatIf::Drain { nodes: vec![n1.clone()] });
    examples.message("Request:", &WhatIf::Lose { nodes: vec![n1.clone(), n2.clone()] });
    let add = WhatIf::Add {
        nodes: 3,
        capacity: CAPACITY,
        datacenter: Some("dc2".parse().unwrap()),
        labels: BTreeMap::from([("rack".to_owned(), "r1".to_owned())]),
    };
    examples.message("Request:", &add);
    examples.message("Request:", &WhatIf::Submit { job: Box::new(job()) });
    let before = Footing {
        nodes: 2,
        cost: 1.5,
        capacity: CAPACITY,
        free: Resources { cpu_millis: 500, memory_bytes: 1 << 30, disk_bytes: 1 << 30 },
    };
    let after = Footing { nodes: 1, cost: 2.5, ..before };
    let outlook = Outlook {
        before,
        after,
        placed: vec![plan::Placed {
            task: task(Some(7), "web"),
            from: Some(n1.clone()),
            to: n2.clone(),
        }],
        placed_total: 1,
        displaced: vec![displaced()],
        displaced_total: 1,
        ended_total: 0,
        unplaced: vec![Unplaced {
            namespace: Namespace::standard(),
            job: "low".parse().unwrap(),
            spec: "main".parse().unwrap(),
            tasks: 1,
            placed_now: 1,
            reason: "no node fits: of 2 nodes, 1 is draining, 1 lacks cpu".into(),
        }],
        unplaced_total: 1,
    };
    examples.message("Answer:", &ok(outlook));

    let asked = Rebalance { moves_max: Some(10), gain: Some(2.0) };
    let plan = |successor: Option<u128>| RebalancePlan {
        moves: vec![plan::Move {
            task: task(Some(7), "web"),
            from: n1.clone(),
            to: n2.clone(),
            cost_here: 3.0,
            cost_there: 1.0,
            successor: successor.map(|id| TaskId(uuid(id))),
        }],
        before: after,
        after: before,
    };
    examples.heading(&title(ApiVerb::RebalancePlan, Scope::Cluster));
    examples.message("Request:", &asked);
    examples.message("Answer:", &ok(plan(None)));
    operated_nodes(examples, &title);

    examples.heading(&title(ApiVerb::RebalanceStart, Scope::Cluster));
    examples.message("Request:", &asked);
    examples.message("Answer:", &ok(plan(Some(10))));
}

fn events(examples: &mut Examples) {
    let subject = event().subject().unwrap().text(&Root::standard());
    examples.heading(&format!("A task event (`{subject}`)"));
    examples.message("Payload:", &event());
    let stopped = Event {
        index: 14,
        event_type: "job.stopping".into(),
        spec: None,
        task: None,
        node: None,
        state: None,
        attempt: None,
        actor: Some("operator/alice".into()),
        ..event()
    };
    let subject = stopped.subject().unwrap().text(&Root::standard());
    examples.heading(&format!("A job event (`{subject}`)"));
    examples.message("Payload:", &stopped);
    let submitted = Event {
        index: 10,
        event_type: "job.submitted".into(),
        reason: Some("version 1".into()),
        wants: Some(JobWants::from(&particular_job())),
        ..stopped.clone()
    };
    let subject = submitted.subject().unwrap().text(&Root::standard());
    examples.heading(&format!("A job event that says what is asked of nodes (`{subject}`)"));
    examples.message("Payload:", &submitted);
    let lost = Event {
        index: 15,
        event_type: "node.lost".into(),
        namespace: None,
        job: None,
        state: Some("lost".into()),
        reason: Some("silent for 15 s".into()),
        actor: None,
        node: Some("n1".parse().unwrap()),
        ..stopped
    };
    let subject = lost.subject().unwrap().text(&Root::standard());
    examples.heading(&format!("A node event (`{subject}`)"));
    examples.message("Payload:", &lost);
    let elected = Event {
        index: 16,
        event_type: "cluster.leader-elected".into(),
        node: None,
        state: None,
        reason: Some("manager m1, version 0.1.0, epoch 4".into()),
        ..lost
    };
    let alarm = Event {
        index: 17,
        event_type: "cluster.alarm".into(),
        state: Some("warning".into()),
        reason: Some("the log is 71 % full (728MiB of 1GiB)".into()),
        ..elected.clone()
    };
    for (what, event) in [("A cluster event", elected), ("An alarm", alarm)] {
        let subject = event.subject().unwrap().text(&Root::standard());
        examples.heading(&format!("{what} (`{subject}`)"));
        examples.message("Payload:", &event);
    }
}

fn nodes(examples: &mut Examples) {
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
        capacity: CAPACITY,
        used: Resources { cpu_millis: 350, memory_bytes: 2 << 30, disk_bytes: 40 << 30 },
        tasks_running: 2,
        runtime_error: None,
        leaving: false,
        drain_within_ms: None,
    };
    examples.message("Payload (no answer):", &heartbeat);

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
    examples.message("Answer:", &ok(ReportsCommitted { index: 13 }));
}

fn rpc(examples: &mut Examples) {
    let root = Root::standard();
    let title = |verb: RpcVerb| {
        let subject = Subject::Rpc { node: "n1".parse().unwrap(), verb }.text(&root);
        format!("{} (`{subject}`)", verb.as_str())
    };
    let session = SessionId(Uuid::from_u128(0x936d_a01f_9abd_4d9d_80c7_02af_85c8_22a8));
    examples.heading(&title(RpcVerb::Logs));
    let request = LogsRequest {
        user: "alice".parse().unwrap(),
        session,
        task: TaskId(uuid(7)),
        follow: true,
        tail: Some(10),
        since_ms: Some(1_763_800_000_000),
        timestamps: false,
    };
    examples.message("Request (answered by the stream):", &request);
    examples.heading(&title(RpcVerb::Exec));
    let exec = ExecRequest {
        user: "alice".parse().unwrap(),
        session: SessionId(uuid(9)),
        task: TaskId(uuid(7)),
        command: vec!["sh".into(), "-l".into()],
        env: BTreeMap::from([("TERM".to_owned(), "xterm".to_owned())]),
        run_as: Some("root".into()),
        working_dir: Some("/tmp".into()),
        terminal: Some(TerminalSize { columns: 80, rows: 24 }),
        stdin: true,
    };
    examples.message("Request (the answer is a stream of chunks):", &exec);
    let taken = Chunk { sequence: 2, body: ChunkBody::Taken(1) };
    examples.message("A chunk that says which input has been taken:", &taken);
    let exit = Chunk { sequence: 3, body: ChunkBody::Exit(0) };
    examples.message("The chunk before the last:", &exit);

    examples.heading(&title(RpcVerb::CopyFrom));
    let (user, task): (UserName, _) = ("alice".parse().unwrap(), TaskId(uuid(7)));
    let copy = CopyFromRequest {
        user: user.clone(),
        session,
        task,
        path: "/etc/hosts".into(),
        follow_link: true,
    };
    examples.message("Request (the answer is a stream of chunks):", &copy);
    let found = FileStat { path: "/etc/hosts".into(), kind: FileKind::File, size_bytes: 174 };
    let found = Chunk { sequence: 1, body: ChunkBody::Found(Some(found)) };
    examples.message("The first chunk; the bytes of a tar archive follow:", &found);

    examples.heading(&title(RpcVerb::CopyTo));
    let copy = CopyToRequest { user: user.clone(), session, task, path: "/srv/new".into() };
    examples.message("Request (the answer is a stream of chunks):", &copy);
    let found = Chunk { sequence: 1, body: ChunkBody::Found(None) };
    examples.message("The first chunk, where nothing has that path yet:", &found);

    examples.heading(&title(RpcVerb::Forward));
    examples.message(
        "Request (the answer is a stream of chunks):",
        &ForwardRequest { user, session, task, port: 80 },
    );
    let end = Chunk { sequence: 4, body: ChunkBody::OutputEnd };
    examples.message("The task writes no more:", &end);

    examples.heading(&title(RpcVerb::Input));
    let input = |sequence, body| Input { session: SessionId(uuid(9)), sequence, body };
    examples.message("Bytes:", &input(1, InputBody::Bytes(b"ls\r".to_vec())));
    let size = TerminalSize { columns: 120, rows: 40 };
    examples.message("Another size of the terminal:", &input(2, InputBody::Size(size)));
    examples.message("The end of the input:", &input(3, InputBody::End));

    examples.heading(&title(RpcVerb::Credit));
    examples.message("Payload (no answer):", &Credit { session, sequence: 32, end: false });
    let out = Subject::Out { node: "n1".parse().unwrap(), user: "alice".parse().unwrap(), session };
    examples.heading(&format!("chunks (`{}`)", out.text(&root)));
    examples
        .message("Output:", &Chunk { sequence: 1, body: ChunkBody::Stdout(b"hello\n".to_vec()) });
    examples.message("The end:", &Chunk { sequence: 2, body: ChunkBody::End });
}

#[test]
fn the_document_shows_every_message_as_it_is_on_the_wire() {
    let mut examples = Examples { text: String::new() };
    for (title, write) in [
        ("The api", api as fn(&mut Examples)),
        ("Plans", plans),
        ("Events", events),
        ("Nodes", nodes),
        ("Streams from a worker", rpc),
    ] {
        let _ = writeln!(examples.text, "\n## Examples: {title}");
        write(&mut examples);
    }
    for verb in ApiVerb::ALL {
        assert!(
            examples.text.contains(&format!("### {} (", verb.as_str())),
            "{} has no example",
            verb.as_str()
        );
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (head, rest) =
        document.split_once(BEGIN).expect("the document has a place for the examples");
    let (present, tail) = rest.split_once(END).expect("the document has an end of the examples");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}\n{}{END}{tail}", examples.text)).unwrap();
        return;
    }
    for (shown, made) in present.trim().lines().zip(examples.text.trim().lines()) {
        assert_eq!(shown, made, "docs/protocol.md differs; UPDATE_DOCS=1 writes it anew");
    }
    assert_eq!(present.trim().lines().count(), examples.text.trim().lines().count());
}
