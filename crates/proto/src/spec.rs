//! What the user wants: a job with its task specs, in the form that travels and is stored.
//!
//! Units stand last in the names and values are integers; the forms for people (`"256MiB"`, `"30s"`)
//! belong to job files and flags (see [`crate::quantity`]). A spec that arrives may leave policies out;
//! [`JobSpec::resolve`] fills them in by the job's type, and only resolved specs are stored, so that a later
//! change of a default never changes a running job.

mod policy;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::constraint::{Attribute, Constraint};
use crate::container::ContainerSpec;
use crate::health::HealthCheck;
use crate::name::{Datacenter, JobKey, JobName, Namespace, SpecName};
use crate::platform::Platform;

pub use self::policy::{
    ExchangeOrder, MigratePolicy, OnFailure, ReschedulePolicy, RestartMode, RestartPolicy,
    UpdatePolicy,
};

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
    /// Whether of each instance at most one container runs at any time, whatever becomes of nodes: a task on a node
    /// that is gone is replaced only after a proof that it has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fence: bool,
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
    /// The emptiest node.
    Spread,
    /// The fullest node that it fits on.
    Binpack,
    /// The formula of "Build an Orchestrator in Go" (T. Boring, Manning 2024), for comparison.
    Lieb,
    /// The node where the fewest places for later tasks are lost; among those, as [`Self::Epvm`].
    EpvmGuard,
}

impl SchedulerKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Epvm, Self::RoundRobin, Self::Spread, Self::Binpack, Self::Lieb, Self::EpvmGuard];

    /// As it is written in job files, flags and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Epvm => "epvm",
            Self::RoundRobin => "round-robin",
            Self::Spread => "spread",
            Self::Binpack => "binpack",
            Self::Lieb => "lieb",
            Self::EpvmGuard => "epvm-guard",
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
    /// How it goes where its node is to be emptied; absent means [`MigratePolicy::usual`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrate: Option<MigratePolicy>,
    /// How its tasks are exchanged for those of a newer version; absent means [`UpdatePolicy::usual`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdatePolicy>,
    /// How long it may take to end after the stop signal before it is killed, in milliseconds.
    #[serde(default = "TaskSpec::default_stop_grace_ms")]
    pub stop_grace_ms: u64,
    /// What a node must be to get a task at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// What a node had better be, or had better not be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affinities: Vec<Affinity>,
    /// What its tasks are spread over evenly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spread: Vec<Spread>,
    /// How much each task of this spec that a node already has counts against the node, 0 to 100 (see
    /// [`Affinity::weight`]); absent means the job type's usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anti_affinity: Option<u8>,
    /// Whether no node gets two tasks of this spec.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub distinct_hosts: bool,
    /// Whether its tasks are placed all together or not at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_at_once: bool,
    /// What of the node, or of its memory, stands in the container's file system.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// How its containers are made, beyond that.
    #[serde(default, skip_serializing_if = "ContainerSpec::is_usual")]
    pub container: ContainerSpec,
    /// How the worker finds out whether a task does its work; absent means that running is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// How often an operator has had its tasks begin anew. The leader counts: what a submit says is not heeded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// What a node had better be, or had better not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// What is looked at.
    #[serde(rename = "match")]
    pub constraint: Constraint,
    /// From 1 (hardly) to 100: a node that matches wins over one that does not, unless it is fuller by more than
    /// so many per cent of a node; 100 is worth as much as one whole node of load. From -1 to -100: the same the
    /// other way round.
    pub weight: i8,
}

/// Something that tasks are spread over evenly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// Nodes with the same value are one place; those without a value are one, too.
    pub attribute: Attribute,
    /// 1 to 100: how much each task counts that a place has more than the emptiest one (see
    /// [`Affinity::weight`]).
    #[serde(default = "Spread::default_weight")]
    pub weight: u8,
}

impl Spread {
    /// Spread with the usual weight.
    pub fn usual(attribute: Attribute) -> Self {
        Self { attribute, weight: Self::default_weight() }
    }

    fn default_weight() -> u8 {
        50
    }
}

/// Something that stands in a container's file system and is not of its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where in the container: an absolute path.
    pub target: String,
    /// What stands there.
    pub source: MountSource,
    /// Whether the container may only read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// What is mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountSource {
    /// A file or folder of the node, below a path that its operator has allowed.
    Bind {
        /// The absolute path on the node.
        path: String,
    },
    /// A volume that the container runtime keeps on the node, made when it is not there. It stays when the task
    /// has ended.
    Volume {
        /// Its name, the same for every task on the node.
        name: String,
    },
    /// A part of the container's memory, gone with the container.
    Tmpfs {
        /// Its largest size; absent means as large as the container's memory allows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size_bytes: Option<u64>,
    },
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
    /// The port on the node, 1 to 65535, or [`Port::DYNAMIC`].
    pub host: u16,
    /// The port in the container, 1 to 65535.
    pub container: u16,
    /// The transport.
    #[serde(default)]
    pub protocol: Protocol,
    /// The node's address that it is published on; absent means all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<std::net::IpAddr>,
    /// What `${port.NAME}` and health checks know it by, unique in its spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Port {
    /// The port on the node where the worker is to take a free one of its own range.
    pub const DYNAMIC: u16 = 0;

    /// Whether the worker takes a free port of its own range.
    pub fn is_dynamic(&self) -> bool {
        self.host == Self::DYNAMIC
    }

    /// What it is known by: its name, or else the container's port.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.container.to_string())
    }
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

impl JobSpec {
    /// A job of one part in the standard namespace; everything else as usual.
    pub fn new(name: JobName, job_type: JobType, spec: TaskSpec) -> Self {
        Self {
            namespace: Namespace::standard(),
            name,
            job_type,
            datacenters: Vec::new(),
            priority: Self::default_priority(),
            on_node_loss: OnNodeLoss::default(),
            fence: false,
            scheduler: None,
            specs: vec![spec],
        }
    }

    /// The job's full name.
    pub fn key(&self) -> JobKey {
        JobKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// The spec with the given name.
    pub fn spec(&self, name: &SpecName) -> Option<&TaskSpec> {
        self.specs.iter().find(|spec| spec.name == *name)
    }

    /// Fills in every policy that was left out, by the job's type, and what follows from what was said: a platform
    /// is a constraint.
    #[must_use]
    pub fn resolve(mut self) -> Self {
        for spec in &mut self.specs {
            let (restart, reschedule, anti_affinity) = match self.job_type {
                JobType::Service => (
                    RestartPolicy::usual(RestartMode::Always),
                    ReschedulePolicy { attempts: None, delay_ms: 5_000, delay_ms_max: 300_000 },
                    // A node that fails should not take the whole service with it.
                    100,
                ),
                JobType::Batch => (
                    RestartPolicy { attempts: 3, ..RestartPolicy::usual(RestartMode::OnFailure) },
                    ReschedulePolicy { attempts: Some(0), delay_ms: 5_000, delay_ms_max: 300_000 },
                    0,
                ),
            };
            spec.restart.get_or_insert(restart);
            spec.reschedule.get_or_insert(reschedule);
            spec.anti_affinity.get_or_insert(anti_affinity);
            let platform = spec.container.platform.as_ref().map(Platform::constraint);
            if let Some(constraint) = platform.filter(|wish| !spec.constraints.contains(wish)) {
                spec.constraints.push(constraint);
            }
        }
        self
    }

    /// Takes over what a job's versions do not say anew: how often its tasks have begun anew.
    #[must_use]
    pub fn following(mut self, present: Option<&Self>) -> Self {
        for spec in &mut self.specs {
            let before = present.and_then(|present| present.spec(&spec.name));
            spec.restarts = before.map_or(0, |before| before.restarts);
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
            migrate: None,
            update: None,
            stop_grace_ms: Self::default_stop_grace_ms(),
            constraints: Vec::new(),
            affinities: Vec::new(),
            spread: Vec::new(),
            anti_affinity: None,
            distinct_hosts: false,
            all_at_once: false,
            mounts: Vec::new(),
            container: ContainerSpec::default(),
            health: None,
            restarts: 0,
        }
    }

    fn default_instances() -> u32 {
        1
    }

    fn default_stop_grace_ms() -> u64 {
        10_000
    }
}

#[cfg(test)]
mod tests;
