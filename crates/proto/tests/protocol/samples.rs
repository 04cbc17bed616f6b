//! The jobs, tasks, nodes and events that the examples are made of.

use std::collections::BTreeMap;

use longshore_proto::api::{DrainView, DrainWait, JobView, NodeView, SpecView, TaskView};
use longshore_proto::constraint::Attribute;
use longshore_proto::container::{
    ContainerSpec, CpuMode, Device, Gpus, LogDriver, Network, Ulimit,
};
use longshore_proto::event::Event;
use longshore_proto::health::{Health, HealthCheck, Probe};
use longshore_proto::id::{NodeId, TaskId};
use longshore_proto::name::Namespace;
use longshore_proto::plan::TaskRef;
use longshore_proto::spec::{
    Affinity, JobSpec, JobType, Mount, MountSource, Port, Protocol, Resources, SchedulerKind,
    Spread, TaskSpec,
};
use longshore_proto::state::{Eligibility, JobStatus, NodeStatus, TaskState};
use uuid::Uuid;

pub(crate) fn uuid(low: u128) -> Uuid {
    Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0000 + low)
}

pub(crate) fn port(host: u16) -> Port {
    Port { host, container: 80, protocol: Protocol::Tcp, host_ip: None, name: None }
}

pub(crate) fn job() -> JobSpec {
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
pub(crate) fn particular_container() -> ContainerSpec {
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
pub(crate) fn particular_job() -> JobSpec {
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

pub(crate) fn task_view() -> TaskView {
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

pub(crate) fn job_view() -> JobView {
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
            starting: 0,
            outdated: 0,
        }],
        created_at_ms: 1_763_800_000_000,
        rolled_back: None,
    }
}

pub(crate) const CAPACITY: Resources =
    Resources { cpu_millis: 4_000, memory_bytes: 8 << 30, disk_bytes: 100 << 30 };

pub(crate) fn node_view() -> NodeView {
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
pub(crate) fn draining_view() -> NodeView {
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

pub(crate) fn event() -> Event {
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
        version: None,
        actor: None,
        wants: None,
        nodes: Vec::new(),
    }
}
