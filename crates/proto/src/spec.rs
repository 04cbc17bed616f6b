//! What the user wants: a job with its task specs, in the form that travels and is stored.
//!
//! Units stand last in the names and values are integers; the forms for people (`"256MiB"`, `"30s"`)
//! belong to job files and flags (see [`crate::quantity`]). A spec that arrives may leave policies out;
//! [`JobSpec::resolve`] fills them in by the job's type, and only resolved specs are stored, so that a later
//! change of a default never changes a running job.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::{Datacenter, JobKey, JobName, Namespace, SpecName};

/// A job as submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The namespace it belongs to.
    #[serde(default)]
    pub namespace: Namespace,
    /// The job's name, unique in its namespace.
    pub name: JobName,
    /// Whether it runs for ever or to completion.
    #[serde(rename = "type", default)]
    pub job_type: JobType,
    /// Where it may run; empty means anywhere.
    #[serde(default)]
    pub datacenters: Vec<Datacenter>,
    /// 1 (least) to 100; waiting tasks are placed by it.
    #[serde(default = "JobSpec::default_priority")]
    pub priority: u8,
    /// What happens to tasks on a node that is lost.
    #[serde(default)]
    pub on_node_loss: OnNodeLoss,
    /// The scheduler that places its tasks; absent means the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<SchedulerKind>,
    /// Its parts; at least one.
    pub specs: Vec<TaskSpec>,
}

/// How long a job lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobType {
    /// Runs for ever; a task that is gone for good is replaced.
    #[default]
    Service,
    /// Runs to completion: exit code 0 is `completed`.
    Batch,
}

impl JobType {
    /// As it is written in job files and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Batch => "batch",
        }
    }
}

/// What happens to tasks on a node that is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnNodeLoss {
    /// They are replaced on other nodes at once.
    #[default]
    Replace,
    /// They are waited for; their slots stay taken until the node returns.
    Wait,
}

/// How a node is chosen for a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SchedulerKind {
    /// Least marginal opportunity cost (Amir et al., IEEE TPDS 11(7), 2000).
    #[default]
    Epvm,
    /// The feasible nodes in turn.
    RoundRobin,
}

impl SchedulerKind {
    /// As it is written in job files, flags and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Epvm => "epvm",
            Self::RoundRobin => "round-robin",
        }
    }
}

/// One part of a job: what one container is made from, and how many of them there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The part's name, unique in the job.
    pub name: SpecName,
    /// How many tasks are wanted, 1 to [`crate::validate::INSTANCES_MAX`].
    #[serde(default = "TaskSpec::default_instances")]
    pub instances: u32,
    /// The image reference.
    pub image: String,
    /// When the image is pulled.
    #[serde(default)]
    pub pull: PullPolicy,
    /// Replaces the image's entrypoint; absent means the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command; empty means the image's own.
    #[serde(default)]
    pub command: Vec<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What it needs of a node, which is also what it is limited to.
    #[serde(default)]
    pub resources: Resources,
    /// Ports that it publishes on its node.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// When and how often it is started again on its node; absent means the job type's usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPolicy>,
    /// What follows when the worker has given it up; absent means the job type's usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reschedule: Option<ReschedulePolicy>,
    /// How long it may take to end after the stop signal before it is killed, in milliseconds.
    #[serde(default = "TaskSpec::default_stop_grace_ms")]
    pub stop_grace_ms: u64,
}

/// An amount of a node's resources: wanted, committed, measured or offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of one core.
    pub cpu_millis: u64,
    /// Memory.
    pub memory_bytes: u64,
    /// Disk space.
    pub disk_bytes: u64,
}

impl Resources {
    /// Nothing at all.
    pub const ZERO: Self = Self { cpu_millis: 0, memory_bytes: 0, disk_bytes: 0 };

    /// The sum; stays at the largest number instead of wrapping.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
        }
    }

    /// The difference; stays at zero instead of wrapping.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_sub(other.disk_bytes),
        }
    }

    /// Whether `self` is at most `other` in every dimension.
    pub fn fits_in(self, other: Self) -> bool {
        self.cpu_millis <= other.cpu_millis
            && self.memory_bytes <= other.memory_bytes
            && self.disk_bytes <= other.disk_bytes
    }
}

impl Default for Resources {
    /// What a task gets that asks for nothing: a tenth of a core and 128 MiB.
    fn default() -> Self {
        Self { cpu_millis: 100, memory_bytes: 128 << 20, disk_bytes: 0 }
    }
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// When the node does not have it.
    #[default]
    IfMissing,
    /// Before every start.
    Always,
    /// Never: the node must have it.
    Never,
}

/// A container's port, published on its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// The port on the node, 1 to 65535.
    pub host: u16,
    /// The port in the container, 1 to 65535.
    pub container: u16,
    /// The transport.
    #[serde(default)]
    pub protocol: Protocol,
    /// The node's address that it is published on; absent means all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<std::net::IpAddr>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As Docker writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// When and how often the worker starts a task again on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// After which ends.
    pub mode: RestartMode,
    /// How many restarts are allowed within the window before the worker gives the task up.
    #[serde(default = "RestartPolicy::default_attempts")]
    pub attempts: u32,
    /// The window that restarts are counted in, in milliseconds.
    #[serde(default = "RestartPolicy::default_window_ms")]
    pub window_ms: u64,
    /// The wait before the first restart, in milliseconds; it doubles with each one in the window.
    #[serde(default = "RestartPolicy::default_delay_ms")]
    pub delay_ms: u64,
    /// The longest wait, in milliseconds.
    #[serde(default = "RestartPolicy::default_delay_ms_max")]
    pub delay_ms_max: u64,
}

/// After which ends a task is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    /// After none.
    Never,
    /// After every end but exit code 0.
    OnFailure,
    /// After every end.
    Always,
}

impl RestartPolicy {
    /// The mode with every figure as usual.
    pub fn usual(mode: RestartMode) -> Self {
        Self {
            mode,
            attempts: Self::default_attempts(),
            window_ms: Self::default_window_ms(),
            delay_ms: Self::default_delay_ms(),
            delay_ms_max: Self::default_delay_ms_max(),
        }
    }

    fn default_attempts() -> u32 {
        5
    }

    fn default_window_ms() -> u64 {
        600_000
    }

    fn default_delay_ms() -> u64 {
        1_000
    }

    fn default_delay_ms_max() -> u64 {
        300_000
    }
}

/// What follows when the worker has given a task up: a replacement, perhaps on another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReschedulePolicy {
    /// How many replacements in a row a slot may have that fail; absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// The wait before the first replacement, in milliseconds; it doubles with each in a row.
    pub delay_ms: u64,
    /// The longest wait, in milliseconds.
    pub delay_ms_max: u64,
}

impl JobSpec {
    /// The job's full name.
    pub fn key(&self) -> JobKey {
        JobKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// The spec with the given name.
    pub fn spec(&self, name: &SpecName) -> Option<&TaskSpec> {
        self.specs.iter().find(|spec| spec.name == *name)
    }

    /// Fills in every policy that was left out, by the job's type.
    #[must_use]
    pub fn resolve(mut self) -> Self {
        for spec in &mut self.specs {
            let (restart, reschedule) = match self.job_type {
                JobType::Service => (
                    RestartPolicy::usual(RestartMode::Always),
                    ReschedulePolicy { attempts: None, delay_ms: 5_000, delay_ms_max: 300_000 },
                ),
                JobType::Batch => (
                    RestartPolicy { attempts: 3, ..RestartPolicy::usual(RestartMode::OnFailure) },
                    ReschedulePolicy { attempts: Some(0), delay_ms: 5_000, delay_ms_max: 300_000 },
                ),
            };
            spec.restart.get_or_insert(restart);
            spec.reschedule.get_or_insert(reschedule);
        }
        self
    }

    fn default_priority() -> u8 {
        50
    }
}

impl TaskSpec {
    /// A spec that only says what to run; everything else as usual.
    pub fn new(name: SpecName, image: impl Into<String>) -> Self {
        Self {
            name,
            instances: 1,
            image: image.into(),
            pull: PullPolicy::default(),
            entrypoint: None,
            command: Vec::new(),
            env: BTreeMap::new(),
            resources: Resources::default(),
            ports: Vec::new(),
            restart: None,
            reschedule: None,
            stop_grace_ms: Self::default_stop_grace_ms(),
        }
    }

    fn default_instances() -> u32 {
        1
    }

    fn default_stop_grace_ms() -> u64 {
        10_000
    }
}
