//! What Docker's list says of sandboxes: which there are, and which containers of tasks have joined them. And how it is
//! that a container joins one.

use std::collections::BTreeMap;

use bollard::models::{ContainerCreateBody, ContainerSummary};
use longshore_core::agent::labels;
use longshore_proto::id::{ClusterId, TaskId};

/// What a list of containers says of sandboxes.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// By id: the name, and whether it runs.
    pub(super) sandboxes: BTreeMap<String, (String, bool)>,
    /// Containers of tasks that have joined one, and have not ended.
    pub(super) users: Vec<User>,
}

/// A container of a task that has joined a sandbox, and has not ended.
#[derive(Debug)]
pub(super) struct User {
    pub(super) container_id: String,
    pub(super) task: TaskId,
    pub(super) sandbox: String,
    pub(super) runs: bool,
}

impl Listed {
    /// Reads what a list says of a cluster's.
    pub(super) fn read(found: &[ContainerSummary], cluster: ClusterId) -> Self {
        let mut listed = Self::default();
        let cluster = cluster.to_string();
        for summary in found {
            let (Some(id), Some(labels)) = (&summary.id, &summary.labels) else { continue };
            if labels.get(labels::CLUSTER) != Some(&cluster) {
                continue;
            }
            let state = summary.state.map(|state| state.to_string()).unwrap_or_default();
            let runs = matches!(state.as_str(), "running" | "paused" | "restarting" | "stopping");
            if labels.contains_key(labels::SANDBOX) {
                let name = summary.names.iter().flatten().next();
                let name = name.map(|name| name.trim_start_matches('/').to_owned());
                listed.sandboxes.insert(id.clone(), (name.unwrap_or_default(), runs));
                continue;
            }
            let mode = summary.host_config.as_ref().and_then(|it| it.network_mode.as_deref());
            let sandbox = joined(mode);
            let task = labels.get(labels::TASK).and_then(|task| task.parse().ok());
            if let (Some(sandbox), Some(task), true) = (sandbox, task, runs || state == "created") {
                listed.users.push(User {
                    container_id: id.clone(),
                    task,
                    sandbox: sandbox.to_owned(),
                    runs,
                });
            }
        }
        listed
    }

    /// The ids of the sandboxes that a task's container has joined, and those of the others.
    pub(super) fn by_use(self) -> (Vec<String>, Vec<String>) {
        let Self { sandboxes, users } = self;
        let is_used = |id: &String| users.iter().any(|user| user.sandbox == *id);
        sandboxes.into_keys().partition(is_used)
    }
}

/// How Docker names the network of another container.
const NETWORK_OF: &str = "container:";
/// A name for one that is to be made.
pub(super) fn new_name(cluster: ClusterId) -> String {
    let cluster = cluster.0.simple().to_string();
    let number = uuid::Uuid::new_v4().simple().to_string();
    let short = |text: &str, length: usize| text.get(..length).unwrap_or(text).to_owned();
    format!("longshore-{}-sandbox-{}", short(&cluster, 8), short(&number, 12))
}

/// The sandbox that a container has joined.
pub(super) fn joined(network_mode: Option<&str>) -> Option<&str> {
    network_mode?.strip_prefix(NETWORK_OF)
}

/// Puts a container that is to be made into a sandbox's network.
pub(super) fn join(body: &mut ContainerCreateBody, sandbox: &str) {
    // Docker refuses any that is said besides.
    body.exposed_ports = None;
    let config = body.host_config.get_or_insert_default();
    config.port_bindings = None;
    config.network_mode = Some(format!("{NETWORK_OF}{sandbox}"));
}
