//! How a task's container is made, beyond its image, its command and what it needs of a node: what `docker run`
//! has options for.
//!
//! Everything here is carried out by the worker. What could reach beyond the container (privileges, devices,
//! capabilities, networks of others) is granted only where the node's own operator has opened it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::name::LoginName;
use crate::platform::Platform;

/// How a container is made; the default is the hardened container that most tasks want.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// What its image is made for: only nodes of that platform get it; absent means whatever its node is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The login that its image's registry is asked with, one of those that its node holds under a name; absent means
    /// the node's own, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_login: Option<LoginName>,
    /// The folder that the command starts in; absent means the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// The user, as `name`, `uid`, `name:group` or `uid:gid`; absent means the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Labels of the container, for tools that look at containers. None begins with `longshore.`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The name that the container has for itself; absent means its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// What it is connected to.
    #[serde(default, skip_serializing_if = "Network::is_usual")]
    pub network: Network,
    /// Name servers, instead of the node's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// Domains that short names are looked up in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_search: Vec<String>,
    /// Names that are resolved without asking anybody.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, IpAddr>,
    /// What the promised cpu means.
    #[serde(default, skip_serializing_if = "CpuMode::is_usual")]
    pub cpu_mode: CpuMode,
    /// How much memory it keeps when the node runs short; at most the task's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_reservation_bytes: Option<u64>,
    /// How many processes and threads it may have; absent means the node's usual limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u32>,
    /// The size of `/dev/shm`; absent means Docker's 64 MiB. It counts as the task's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_bytes: Option<u64>,
    /// Limits of each process, by their names without `RLIMIT_`, in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Capabilities beyond the usual list, without `CAP_`; the node must allow them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// Capabilities of the usual list that it does without; `ALL` for none at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    /// Whether its programs may gain privileges by set-user-id files; the node must allow it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_privileges: bool,
    /// Whether it is as mighty as the node's root; the node must allow it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// Whether its file system, but for its mounts, is read-only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Devices of the node; the node must allow them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Graphics processors; the node must allow them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Gpus>,
    /// Whether a small init is its first process, which reaps what others leave behind.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub init: bool,
    /// The signal that asks it to end, as `SIGTERM`; absent means the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Where its output goes; absent means files on the node, at most 30 MB, which `longshore logs` reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogDriver>,
}

impl ContainerSpec {
    /// Whether nothing is unlike the usual container.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// What a container is connected to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// The node's bridge: it reaches out, and is reached at published ports.
    #[default]
    Bridge,
    /// Nothing.
    None,
    /// The node's own network; the node must allow it.
    Host,
    /// A network that was made on the node under this name; the node must allow it.
    Named(String),
}

impl Network {
    /// Whether it is the bridge.
    pub fn is_usual(&self) -> bool {
        *self == Self::Bridge
    }

    /// The network of that name: `bridge`, `none`, `host`, or a name of the node's.
    pub fn of(name: &str) -> Self {
        match name {
            "bridge" => Self::Bridge,
            "none" => Self::None,
            "host" => Self::Host,
            name => Self::Named(name.to_owned()),
        }
    }

    /// The name that Docker knows it by.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Bridge => "bridge",
            Self::None => "none",
            Self::Host => "host",
            Self::Named(name) => name,
        }
    }
}

/// What the cpu means that a task is promised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuMode {
    /// It is a limit, too: what the node has to spare stays idle.
    #[default]
    Quota,
    /// It is a share: what the node has to spare goes to whoever wants it, in proportion.
    Shares,
}

impl CpuMode {
    /// Whether it is the usual one.
    pub fn is_usual(&self) -> bool {
        *self == Self::Quota
    }
}

/// A limit of each process; the hard one is not below the soft one. -1 means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// What counts until the process raises it.
    pub soft: i64,
    /// How far it may raise it.
    pub hard: i64,
}

/// A device of the node in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its absolute path on the node.
    pub host: String,
    /// Its absolute path in the container; absent means the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// What may be done with it: some of `r` (read), `w` (write), `m` (make nodes).
    #[serde(default = "Device::usual_permissions")]
    pub permissions: String,
}

impl Device {
    /// Reading and writing.
    pub fn usual_permissions() -> String {
        "rw".to_owned()
    }
}

/// How many graphics processors a container gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gpus {
    /// All that the node has.
    All,
    /// So many, at least one.
    Count(u32),
}

/// Where a container's output goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDriver {
    /// Docker's name for it: `json-file`, `local` and `none` on every node, others where the node allows them.
    pub driver: String,
    /// Its options, as Docker knows them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// The log drivers that every node takes.
pub const LOG_DRIVERS_USUAL: [&str; 3] = ["json-file", "local", "none"];

/// The capabilities that a container has when nothing is said: Docker's list without raw sockets and device nodes.
pub const CAPABILITIES_USUAL: [&str; 12] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The capabilities that a container has in the end.
pub fn capabilities(spec: &ContainerSpec) -> Vec<String> {
    let dropped = |name: &str| spec.cap_drop.iter().any(|drop| drop == "ALL" || drop == name);
    let kept = CAPABILITIES_USUAL.into_iter().filter(|name| !dropped(name)).map(str::to_owned);
    let mut capabilities: Vec<String> = kept.chain(spec.cap_add.iter().cloned()).collect();
    capabilities.sort();
    capabilities.dedup();
    capabilities
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_container_takes_no_room_and_travels_as_nothing() {
        assert_eq!(serde_json::to_value(ContainerSpec::default()).unwrap(), serde_json::json!({}));
        let read: ContainerSpec = serde_json::from_str("{}").unwrap();
        assert!(read.is_usual());
        let read: Device = serde_json::from_str(r#"{"host": "/dev/kvm"}"#).unwrap();
        assert_eq!(read.permissions, "rw");
    }

    #[test]
    fn what_is_added_and_dropped_counts() {
        let wish = |add: &[&str], drop: &[&str]| {
            capabilities(&ContainerSpec {
                cap_add: add.iter().map(|name| (*name).to_owned()).collect(),
                cap_drop: drop.iter().map(|name| (*name).to_owned()).collect(),
                ..ContainerSpec::default()
            })
        };
        assert_eq!(wish(&[], &[]), CAPABILITIES_USUAL);
        assert_eq!(wish(&["NET_ADMIN"], &["ALL"]), ["NET_ADMIN"]);
        assert_eq!(wish(&["KILL"], &["ALL"]), ["KILL"]);
        assert_eq!(wish(&[], &["KILL"]).len(), 11);
    }

    #[test]
    fn networks_are_known_by_name() {
        for name in ["bridge", "none", "host", "backend"] {
            assert_eq!(Network::of(name).as_str(), name);
        }
        assert_eq!(Network::of("backend"), Network::Named("backend".into()));
    }
}
