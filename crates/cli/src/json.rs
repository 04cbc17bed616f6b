//! What `-o json` prints: stable names, units last in them, times as RFC 3339 in UTC, `null` for what is
//! absent. These structures are a contract of their own; the views of the wire may grow apart from them.

use std::collections::BTreeMap;

use longshore_proto::api::{
    ClusterView, DrainView, JobView, NodeView, RolledBack, SpecView, TaskView,
};
use longshore_proto::event::{self, Event, JobWants};
use longshore_proto::health::Health;
use longshore_proto::metrics::{PullFigures, Usage};
use longshore_proto::spec::{Port, Resources};
use serde::Serialize;

use crate::figures::Figures;
use crate::table::{state_shown, time};

/// A task.
#[derive(Debug, Serialize)]
pub(crate) struct Task<'a> {
    id: String,
    namespace: &'a str,
    job: &'a str,
    spec: &'a str,
    slot: u32,
    version: u64,
    /// `unknown` while the node is silent.
    state: &'a str,
    /// The last state that was heard of, whatever the node does.
    state_known: &'a str,
    attempt: u64,
    node: Option<&'a str>,
    container_id: Option<&'a str>,
    image: &'a str,
    ports: Vec<TaskPort<'a>>,
    health: Option<&'a str>,
    exit_code: Option<i64>,
    reason: Option<&'a str>,
    placement: Option<&'a str>,
    replaces: Option<String>,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
}

impl<'a> From<&'a TaskView> for Task<'a> {
    fn from(task: &'a TaskView) -> Self {
        Self {
            id: task.id.to_string(),
            namespace: task.namespace.as_str(),
            job: task.job.as_str(),
            spec: task.spec.as_str(),
            slot: task.slot,
            version: task.version,
            state: state_shown(task),
            state_known: task.state.as_str(),
            attempt: task.attempt,
            node: task.node.as_ref().map(|node| node.as_str()),
            container_id: task.container_id.as_deref(),
            image: &task.image,
            ports: task.ports.iter().map(TaskPort::from).collect(),
            health: task.health.map(Health::as_str),
            exit_code: task.exit_code,
            reason: task.reason.as_deref(),
            placement: task.placement.as_deref(),
            replaces: task.replaces.map(|id| id.to_string()),
            created_at: time(task.created_at_ms),
            started_at: task.started_at_ms.map(time),
            finished_at: task.finished_at_ms.map(time),
        }
    }
}

/// A task with what it uses just now, as far as its node has told.
#[derive(Debug, Serialize)]
pub(crate) struct TaskInUse<'a> {
    #[serde(flatten)]
    task: Task<'a>,
    /// `null` where nothing runs, or its node did not answer in time.
    usage: Option<&'a Usage>,
    /// How far its image has come, while it waits for it.
    pull: Option<&'a PullFigures>,
}

impl<'a> TaskInUse<'a> {
    pub(crate) fn new(task: &'a TaskView, figures: &'a Figures) -> Self {
        let pull = figures.pulling().find(|pull| pull.image == task.image);
        Self { task: Task::from(task), usage: figures.usage(task.id), pull }
    }
}

/// A port of a task.
#[derive(Debug, Serialize)]
struct TaskPort<'a> {
    name: Option<&'a str>,
    /// `null` while its worker has not chosen it yet.
    host: Option<u16>,
    container: u16,
    protocol: &'a str,
    host_ip: Option<String>,
}

impl<'a> From<&'a Port> for TaskPort<'a> {
    fn from(port: &'a Port) -> Self {
        Self {
            name: port.name.as_deref(),
            host: (!port.is_dynamic()).then_some(port.host),
            container: port.container,
            protocol: port.protocol.as_str(),
            host_ip: port.host_ip.map(|ip| ip.to_string()),
        }
    }
}

/// An amount of each resource; `null` where it is not known.
#[derive(Debug, Serialize)]
pub(crate) struct Amounts {
    cpu_millis: Option<u64>,
    memory_bytes: Option<u64>,
    disk_bytes: Option<u64>,
}

impl From<Option<Resources>> for Amounts {
    fn from(resources: Option<Resources>) -> Self {
        Self {
            cpu_millis: resources.map(|amount| amount.cpu_millis),
            memory_bytes: resources.map(|amount| amount.memory_bytes),
            disk_bytes: resources.map(|amount| amount.disk_bytes),
        }
    }
}

/// A node.
#[derive(Debug, Serialize)]
pub(crate) struct Node<'a> {
    name: &'a str,
    id: String,
    datacenter: &'a str,
    status: &'a str,
    eligibility: &'a str,
    labels: &'a BTreeMap<String, String>,
    labels_set: &'a BTreeMap<String, String>,
    drain: Option<Drain<'a>>,
    attributes: &'a BTreeMap<String, String>,
    capacity: Amounts,
    committed: Amounts,
    used: Amounts,
    tasks: u64,
    tasks_max: u32,
    mount_paths: &'a [String],
    heard_ago_ms: Option<u64>,
    runtime_error: Option<&'a str>,
    worker_version: &'a str,
}

impl<'a> From<&'a NodeView> for Node<'a> {
    fn from(node: &'a NodeView) -> Self {
        Self {
            name: node.name.as_str(),
            id: node.id.to_string(),
            datacenter: node.datacenter.as_str(),
            status: node.status.as_str(),
            eligibility: node.eligibility.as_str(),
            labels: &node.labels,
            labels_set: &node.labels_set,
            drain: node.drain.as_ref().map(Drain::from),
            attributes: &node.attributes,
            capacity: Some(node.capacity).into(),
            committed: Some(node.committed).into(),
            used: node.used.into(),
            tasks: node.tasks,
            tasks_max: node.tasks_max,
            mount_paths: &node.mount_paths,
            heard_ago_ms: node.heard_ms_ago,
            runtime_error: node.runtime_error.as_deref(),
            worker_version: &node.worker_version,
        }
    }
}

/// How far a node is drained.
#[derive(Debug, Serialize)]
struct Drain<'a> {
    by: &'a str,
    started_at: String,
    deadline_ms: Option<u64>,
    left_ms: Option<u64>,
    overdue: bool,
    drained: bool,
    waits: Vec<DrainWait<'a>>,
}

/// Why a task is still on a node that is draining.
#[derive(Debug, Serialize)]
struct DrainWait<'a> {
    task: Option<String>,
    namespace: &'a str,
    job: &'a str,
    spec: &'a str,
    slot: u32,
    reason: &'a str,
}

impl<'a> From<&'a DrainView> for Drain<'a> {
    fn from(drain: &'a DrainView) -> Self {
        let wait = |wait: &'a longshore_proto::api::DrainWait| DrainWait {
            task: wait.task.id.map(|id| id.to_string()),
            namespace: wait.task.namespace.as_str(),
            job: wait.task.job.as_str(),
            spec: wait.task.spec.as_str(),
            slot: wait.slot,
            reason: &wait.reason,
        };
        Self {
            by: &drain.actor,
            started_at: time(drain.started_at_ms),
            deadline_ms: drain.deadline_ms,
            left_ms: drain.left_ms,
            overdue: drain.overdue,
            drained: drain.drained,
            waits: drain.waits.iter().map(wait).collect(),
        }
    }
}

/// A job.
#[derive(Debug, Serialize)]
pub(crate) struct Job<'a> {
    namespace: &'a str,
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    version: u64,
    status: &'a str,
    priority: u8,
    datacenters: Vec<&'a str>,
    specs: Vec<Spec<'a>>,
    created_at: String,
    rolled_back: Option<&'a RolledBack>,
}

/// A part of a job.
#[derive(Debug, Serialize)]
pub(crate) struct Spec<'a> {
    name: &'a str,
    image: &'a str,
    instances: u32,
    running: u32,
    starting: u32,
    pending: u32,
    completed: u32,
    failed: u32,
    outdated: u32,
}

impl<'a> From<&'a JobView> for Job<'a> {
    fn from(job: &'a JobView) -> Self {
        Self {
            namespace: job.namespace.as_str(),
            name: job.name.as_str(),
            kind: job.job_type.as_str(),
            version: job.version,
            status: job.status.as_str(),
            priority: job.priority,
            datacenters: job.datacenters.iter().map(|datacenter| datacenter.as_str()).collect(),
            specs: job.specs.iter().map(Spec::from).collect(),
            created_at: time(job.created_at_ms),
            rolled_back: job.rolled_back.as_ref(),
        }
    }
}

impl<'a> From<&'a SpecView> for Spec<'a> {
    fn from(spec: &'a SpecView) -> Self {
        Self {
            name: spec.name.as_str(),
            image: &spec.image,
            instances: spec.instances,
            running: spec.running,
            starting: spec.starting,
            pending: spec.pending,
            completed: spec.completed,
            failed: spec.failed,
            outdated: spec.outdated,
        }
    }
}

/// The cluster.
#[derive(Debug, Serialize)]
pub(crate) struct Cluster<'a> {
    id: String,
    epoch: u64,
    leader: String,
    leader_name: Option<&'a str>,
    manager_version: &'a str,
    jobs: u64,
    tasks: BTreeMap<&'a str, u64>,
    nodes: &'a BTreeMap<String, u64>,
    records_skipped: u64,
    payloads_refused: u64,
    alarms: &'a [String],
    warnings: &'a [String],
    history: Option<History>,
}

/// How far back history reaches.
#[derive(Debug, Serialize)]
pub(crate) struct History {
    from_index: u64,
    from_time: String,
    joined_index: Option<u64>,
}

impl<'a> From<&'a ClusterView> for Cluster<'a> {
    fn from(cluster: &'a ClusterView) -> Self {
        Self {
            id: cluster.id.to_string(),
            epoch: cluster.epoch,
            leader: cluster.leader.to_string(),
            leader_name: cluster.leader_name.as_ref().map(|name| name.as_str()),
            manager_version: &cluster.manager_version,
            jobs: cluster.jobs,
            tasks: cluster.tasks.iter().map(|(state, count)| (state.as_str(), *count)).collect(),
            nodes: &cluster.nodes,
            records_skipped: cluster.records_skipped,
            payloads_refused: cluster.payloads_refused,
            alarms: &cluster.alarms,
            warnings: &cluster.warnings,
            history: cluster.history.as_ref().map(|history| History {
                from_index: history.from_index,
                from_time: time(history.from_ms),
                joined_index: history.joined_index,
            }),
        }
    }
}

/// An event.
#[derive(Debug, Serialize)]
pub(crate) struct EventLine<'a> {
    index: u64,
    ordinal: u32,
    time: String,
    #[serde(rename = "type")]
    kind: &'a str,
    namespace: Option<&'a str>,
    job: Option<&'a str>,
    spec: Option<&'a str>,
    task: Option<String>,
    node: Option<&'a str>,
    state: Option<&'a str>,
    attempt: Option<u64>,
    exit_code: Option<i64>,
    reason: Option<&'a str>,
    /// Not there but with `job.submitted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    actor: Option<&'a str>,
    /// Not there at all where nothing is asked of nodes: most lines are of other things.
    #[serde(skip_serializing_if = "Option::is_none")]
    wants: Option<Wants<'a>>,
    /// Not there but with who asked for what of nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<&'a str>,
}

/// What a job asks of nodes.
#[derive(Debug, Serialize)]
pub(crate) struct Wants<'a> {
    priority: u8,
    datacenters: Vec<&'a str>,
    specs: Vec<SpecWants<'a>>,
}

/// What each task of a part of a job asks of its node.
#[derive(Debug, Serialize)]
pub(crate) struct SpecWants<'a> {
    name: &'a str,
    instances: u32,
    resources: Resources,
    /// As people write them.
    constraints: Vec<String>,
}

impl<'a> From<&'a JobWants> for Wants<'a> {
    fn from(wants: &'a JobWants) -> Self {
        let spec = |spec: &'a event::SpecWants| SpecWants {
            name: spec.name.as_str(),
            instances: spec.instances,
            resources: spec.resources,
            constraints: spec.constraints.iter().map(ToString::to_string).collect(),
        };
        Self {
            priority: wants.priority,
            datacenters: wants.datacenters.iter().map(|name| name.as_str()).collect(),
            specs: wants.specs.iter().map(spec).collect(),
        }
    }
}

impl<'a> From<&'a Event> for EventLine<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            index: event.index,
            ordinal: event.ordinal,
            time: time(event.at_ms),
            kind: &event.event_type,
            namespace: event.namespace.as_ref().map(|namespace| namespace.as_str()),
            job: event.job.as_ref().map(|job| job.as_str()),
            spec: event.spec.as_ref().map(|spec| spec.as_str()),
            task: event.task.map(|task| task.to_string()),
            node: event.node.as_ref().map(|node| node.as_str()),
            state: event.state.as_deref(),
            attempt: event.attempt,
            exit_code: event.exit_code,
            reason: event.reason.as_deref(),
            version: event.version,
            actor: event.actor.as_deref(),
            wants: event.wants.as_ref().map(Wants::from),
            nodes: event.nodes.iter().map(|node| node.as_str()).collect(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use longshore_proto::id::{ClusterId, ManagerId, NodeId, TaskId};
    use longshore_proto::spec::JobType;
    use longshore_proto::state::{Eligibility, JobStatus, NodeStatus, TaskState};
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;

    pub(crate) fn task(number: u128, state: TaskState) -> TaskView {
        TaskView {
            id: TaskId(Uuid::from_u128(number)),
            namespace: "default".parse().unwrap(),
            job: "web".parse().unwrap(),
            spec: "main".parse().unwrap(),
            slot: 0,
            version: 1,
            state,
            silent: false,
            attempt: 1,
            node: None,
            container_id: None,
            image: "busybox:1".into(),
            ports: vec![],
            health: None,
            exit_code: None,
            reason: None,
            placement: None,
            replaces: None,
            created_at_ms: 1_700_000_000_123,
            started_at_ms: None,
            finished_at_ms: None,
        }
    }

    pub(crate) fn job(job_type: JobType, status: JobStatus) -> JobView {
        JobView {
            namespace: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
            job_type,
            version: 1,
            status,
            priority: 50,
            datacenters: vec!["dc1".parse().unwrap()],
            specs: vec![SpecView {
                name: "main".parse().unwrap(),
                image: "busybox:1".into(),
                instances: 2,
                running: 1,
                pending: 1,
                completed: 0,
                failed: 0,
                starting: 0,
                outdated: 0,
            }],
            created_at_ms: 1_700_000_000_000,
            rolled_back: None,
        }
    }

    pub(crate) fn node(name: &str) -> NodeView {
        NodeView {
            name: name.parse().unwrap(),
            id: NodeId(Uuid::from_u128(9)),
            datacenter: "dc1".parse().unwrap(),
            status: NodeStatus::Ready,
            eligibility: Eligibility::Open,
            labels: BTreeMap::from([("rack".to_owned(), "a".to_owned())]),
            labels_set: BTreeMap::new(),
            drain: None,
            attributes: BTreeMap::new(),
            capacity: Resources { cpu_millis: 4000, memory_bytes: 8 << 30, disk_bytes: 100 << 30 },
            committed: Resources { cpu_millis: 500, memory_bytes: 1 << 30, disk_bytes: 0 },
            used: None,
            tasks: 2,
            tasks_max: 500,
            mount_paths: vec!["/srv/data".into()],
            heard_ms_ago: Some(700),
            runtime_error: None,
            worker_version: "0.1.0".into(),
        }
    }

    #[test]
    fn a_task_reads_as_documented() {
        let mut view = task(7, TaskState::Running);
        assert_eq!(
            serde_json::to_value(Task::from(&view)).unwrap(),
            json!({
                "id": "00000000-0000-0000-0000-000000000007",
                "namespace": "default", "job": "web", "spec": "main", "slot": 0, "version": 1,
                "state": "running", "state_known": "running", "attempt": 1, "node": null,
                "container_id": null, "image": "busybox:1", "ports": [], "health": null, "exit_code": null, "reason": null,
                "placement": null, "replaces": null,
                "created_at": "2023-11-14T22:13:20.123Z", "started_at": null, "finished_at": null,
            })
        );
        view.silent = true;
        let value = serde_json::to_value(Task::from(&view)).unwrap();
        assert_eq!(
            (&value["state"], &value["state_known"]),
            (&json!("unknown"), &json!("running"))
        );
        view.state = TaskState::Completed;
        assert_eq!(serde_json::to_value(Task::from(&view)).unwrap()["state"], "completed");
    }

    #[test]
    fn a_node_reads_as_documented() {
        assert_eq!(
            serde_json::to_value(Node::from(&node("n1"))).unwrap(),
            json!({
                "name": "n1", "id": "00000000-0000-0000-0000-000000000009", "datacenter": "dc1",
                "status": "ready", "eligibility": "open", "labels": {"rack": "a"}, "labels_set": {}, "drain": null, "attributes": {},
                "capacity": {"cpu_millis": 4000, "memory_bytes": 8_589_934_592_u64, "disk_bytes": 107_374_182_400_u64},
                "committed": {"cpu_millis": 500, "memory_bytes": 1_073_741_824, "disk_bytes": 0},
                "used": {"cpu_millis": null, "memory_bytes": null, "disk_bytes": null},
                "tasks": 2, "tasks_max": 500, "mount_paths": ["/srv/data"], "heard_ago_ms": 700, "runtime_error": null, "worker_version": "0.1.0",
            })
        );
    }

    #[test]
    fn a_job_reads_as_documented() {
        assert_eq!(
            serde_json::to_value(Job::from(&job(JobType::Service, JobStatus::Pending))).unwrap(),
            json!({
                "namespace": "default", "name": "web", "type": "service", "version": 1,
                "status": "pending", "priority": 50, "datacenters": ["dc1"],
                "specs": [{
                    "name": "main", "image": "busybox:1", "instances": 2, "running": 1, "starting": 0, "pending": 1,
                    "completed": 0, "failed": 0, "outdated": 0,
                }],
                "rolled_back": null,
                "created_at": "2023-11-14T22:13:20.000Z",
            })
        );
    }

    #[test]
    fn an_event_reads_as_documented() {
        let event = Event {
            index: 7,
            ordinal: 1,
            at_ms: 1_700_000_000_000,
            event_type: "task.running".into(),
            namespace: Some("default".parse().unwrap()),
            job: Some("web".parse().unwrap()),
            spec: Some("main".parse().unwrap()),
            task: Some(TaskId(Uuid::from_u128(7))),
            node: Some("n1".parse().unwrap()),
            state: Some("running".into()),
            attempt: Some(2),
            exit_code: None,
            reason: None,
            version: None,
            actor: None,
            wants: None,
            nodes: Vec::new(),
        };
        assert_eq!(
            serde_json::to_value(EventLine::from(&event)).unwrap(),
            json!({
                "index": 7, "ordinal": 1, "time": "2023-11-14T22:13:20.000Z", "type": "task.running",
                "namespace": "default", "job": "web", "spec": "main",
                "task": "00000000-0000-0000-0000-000000000007", "node": "n1", "state": "running",
                "attempt": 2, "exit_code": null, "reason": null, "actor": null,
            })
        );
    }

    #[test]
    fn the_cluster_reads_as_documented() {
        let cluster = ClusterView {
            id: ClusterId(Uuid::from_u128(1)),
            epoch: 3,
            leader: ManagerId(Uuid::from_u128(2)),
            leader_name: Some("m1".parse().unwrap()),
            manager_version: "0.1.0".into(),
            jobs: 1,
            tasks: BTreeMap::from([(TaskState::Running, 2)]),
            nodes: BTreeMap::from([("ready".to_owned(), 1)]),
            records_skipped: 0,
            payloads_refused: 0,
            alarms: vec![],
            warnings: vec![],
            history: None,
        };
        let value: Value = serde_json::to_value(Cluster::from(&cluster)).unwrap();
        assert_eq!(value["tasks"], json!({"running": 2}));
        assert_eq!(value["nodes"], json!({"ready": 1}));
        assert_eq!((&value["alarms"], &value["warnings"]), (&json!([]), &json!([])));
        assert_eq!(value["leader_name"], json!("m1"));
        let names: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(
            names,
            [
                "alarms",
                "epoch",
                "history",
                "id",
                "jobs",
                "leader",
                "leader_name",
                "manager_version",
                "nodes",
                "payloads_refused",
                "records_skipped",
                "tasks",
                "warnings"
            ]
        );
    }
}
