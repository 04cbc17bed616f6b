//! How a container is known again: its labels, and its name.
//!
//! The labels say whose container it is; the name is a formula, so that a container whose creation was
//! interrupted is found by the next try (the runtime refuses a second one of the same name).

use std::collections::BTreeMap;

use longshore_proto::id::{ClusterId, Revision, TaskId};
use longshore_proto::name::NodeName;
use longshore_proto::node::RunTask;
use longshore_proto::spec::Port;

/// The label that holds the cluster's id.
pub const CLUSTER: &str = "longshore.cluster";
/// The label that holds the node's name.
pub const NODE: &str = "longshore.node";
/// The label that holds the task's id.
pub const TASK: &str = "longshore.task";
/// The label that holds the attempt.
pub const ATTEMPT: &str = "longshore.attempt";
/// The label that holds the revision of the assignment that the container was made by.
pub const REVISION: &str = "longshore.revision";
/// The label that holds the job's namespace.
pub const NAMESPACE: &str = "longshore.namespace";
/// The label that holds the job's name.
pub const JOB: &str = "longshore.job";
/// The label that holds the name of the job's part.
pub const SPEC: &str = "longshore.spec";
/// The label that holds the ports on the node, in the order of the spec, where the worker has chosen some.
pub const PORTS: &str = "longshore.ports";
/// The label of a container that is no task's, but a network made beforehand for one.
pub const SANDBOX: &str = "longshore.sandbox";

/// Writes the [`PORTS`] label.
pub(super) fn write_ports(ports: &[Port]) -> String {
    ports.iter().map(|port| port.host.to_string()).collect::<Vec<_>>().join(",")
}

/// Reads the [`PORTS`] label back into a spec's ports. `None` where there is none, or it fits them not.
pub(super) fn read_ports(labels: &BTreeMap<String, String>, ports: &[Port]) -> Option<Vec<Port>> {
    let hosts: Vec<u16> =
        labels.get(PORTS)?.split(',').map(|host| host.parse().ok()).collect::<Option<_>>()?;
    let filled = ports.iter().zip(&hosts).map(|(port, host)| Port { host: *host, ..port.clone() });
    (hosts.len() == ports.len()).then(|| filled.collect())
}

/// What the labels of a container say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node.
    pub node: NodeName,
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: u64,
}

impl Owner {
    /// Reads a container's labels. `None` means that it is not ours.
    pub fn read(labels: &BTreeMap<String, String>) -> Option<Self> {
        Some(Self {
            cluster_id: labels.get(CLUSTER)?.parse().ok()?,
            node: labels.get(NODE)?.parse().ok()?,
            task: labels.get(TASK)?.parse().ok()?,
            attempt: labels.get(ATTEMPT)?.parse().ok()?,
        })
    }

    /// The labels of a container.
    pub fn labels(&self, revision: Revision, run: &RunTask) -> BTreeMap<String, String> {
        [
            (CLUSTER, self.cluster_id.to_string()),
            (NODE, self.node.to_string()),
            (TASK, self.task.to_string()),
            (ATTEMPT, self.attempt.to_string()),
            (REVISION, revision.to_string()),
            (NAMESPACE, run.namespace.to_string()),
            (JOB, run.job.to_string()),
            (SPEC, run.spec.name.to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }

    /// The name of the container.
    pub fn container_name(&self) -> String {
        let cluster = self.cluster_id.0.simple().to_string();
        let short = cluster.get(..8).unwrap_or(&cluster);
        format!("longshore-{short}-{}-{}", self.task, self.attempt)
    }
}
