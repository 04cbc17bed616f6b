//! What this node's operator lets tasks do beyond a hardened container.
//!
//! Nothing of it is open unless the worker was told so, and no job can open it: the worker judges each start anew,
//! whoever assigned the task, and before anything is fetched for it.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::container::{CAPABILITIES_USUAL, ContainerSpec, LOG_DRIVERS_USUAL, Network};
use longshore_proto::spec::{MountSource, TaskSpec};

/// How many processes and threads one container may have unless it, or its node, says otherwise.
pub const PIDS_MAX_USUAL: u32 = 1_024;

/// What a node's tasks may do; the default is a hardened container and no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Below which paths of the machine a task may mount: absolute ones.
    pub mount_paths: Vec<String>,
    /// Networks beyond the bridge and none; `host` among them opens the node's own.
    pub networks: BTreeSet<String>,
    /// Capabilities beyond the usual list, without `CAP_`.
    pub capabilities: BTreeSet<String>,
    /// Devices of the machine, by their paths.
    pub devices: BTreeSet<String>,
    /// Whether tasks may have graphics processors.
    pub gpus: bool,
    /// Log drivers beyond those that every node takes.
    pub log_drivers: BTreeSet<String>,
    /// Whether programs may gain privileges by set-user-id files.
    pub new_privileges: bool,
    /// Whether containers may be as mighty as the machine's root.
    pub privileged: bool,
    /// How many processes and threads one container may have at most.
    pub pids_max: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mount_paths: Vec::new(),
            networks: BTreeSet::new(),
            capabilities: BTreeSet::new(),
            devices: BTreeSet::new(),
            gpus: false,
            log_drivers: BTreeSet::new(),
            new_privileges: false,
            privileged: false,
            pids_max: PIDS_MAX_USUAL,
        }
    }
}

impl Policy {
    /// Whether the node allows such a task.
    ///
    /// Where a path that is to be mounted really leads only a look at the disk tells, when the container is made.
    ///
    /// # Errors
    /// Why not, and which option of the worker would open it.
    pub fn admit(&self, spec: &TaskSpec) -> Result<(), String> {
        self.admit_container(&spec.container)?;
        let bind = spec.mounts.iter().find_map(|mount| match &mount.source {
            MountSource::Bind { path } => Some(path),
            MountSource::Volume { .. } | MountSource::Tmpfs { .. } => None,
        });
        match bind {
            Some(path) if self.mount_paths.is_empty() => Err(format!(
                "its mount of {path} is refused: this node lends none of its files; start its worker with \
                 --allow-mount, or use a volume"
            )),
            _ => Ok(()),
        }
    }

    fn admit_container(&self, container: &ContainerSpec) -> Result<(), String> {
        let refuse = |what: String, option: &str| {
            Err(format!(
                "this node does not allow {what}; its operator opens it with `longshore worker {option}`, or run the \
                 task where that is allowed"
            ))
        };
        if container.privileged && !self.privileged {
            return refuse("privileged containers".into(), "--allow-privileged");
        }
        if container.new_privileges && !self.new_privileges {
            return refuse("new privileges".into(), "--allow-new-privileges");
        }
        let is_open = |name: &String| {
            CAPABILITIES_USUAL.contains(&name.as_str()) || self.capabilities.contains(name)
        };
        if let Some(name) = container.cap_add.iter().find(|name| !is_open(name)) {
            return refuse(format!("the capability {name}"), &format!("--allow-cap {name}"));
        }
        if let Some(device) =
            container.devices.iter().find(|device| !self.devices.contains(&device.host))
        {
            let path = &device.host;
            return refuse(format!("the device {path}"), &format!("--allow-device {path}"));
        }
        if container.gpus.is_some() && !self.gpus {
            return refuse("graphics processors".into(), "--allow-gpus");
        }
        let network = container.network.as_str();
        if !matches!(container.network, Network::Bridge | Network::None)
            && !self.networks.contains(network)
        {
            return refuse(format!("the network {network}"), &format!("--allow-network {network}"));
        }
        if let Some(log) = &container.log
            && !LOG_DRIVERS_USUAL.contains(&log.driver.as_str())
            && !self.log_drivers.contains(&log.driver)
        {
            let driver = &log.driver;
            return refuse(
                format!("the log driver {driver}"),
                &format!("--allow-log-driver {driver}"),
            );
        }
        if let Some(pids) = container.pids_max
            && pids > self.pids_max
        {
            return refuse(
                format!("{pids} processes in one container (its limit is {})", self.pids_max),
                &format!("--pids-max {pids}"),
            );
        }
        Ok(())
    }

    /// What is open, as attributes of the node, so that jobs can ask for it in their constraints.
    pub fn attributes(&self) -> BTreeMap<String, String> {
        let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(",");
        let flag = |is_open: bool| if is_open { "true".to_owned() } else { String::new() };
        [
            ("allow.networks", list(&self.networks)),
            ("allow.capabilities", list(&self.capabilities)),
            ("allow.devices", list(&self.devices)),
            ("allow.log-drivers", list(&self.log_drivers)),
            ("allow.gpus", flag(self.gpus)),
            ("allow.new-privileges", flag(self.new_privileges)),
            ("allow.privileged", flag(self.privileged)),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::container::{Device, Gpus, LogDriver};
    use longshore_proto::spec::Mount;

    use super::*;

    fn task(container: ContainerSpec) -> TaskSpec {
        let mut spec = TaskSpec::new("main".parse().unwrap(), "busybox:1");
        spec.container = container;
        spec
    }

    fn wishes() -> Vec<(&'static str, ContainerSpec)> {
        let usual = ContainerSpec::default;
        let device = Device { host: "/dev/kvm".into(), container: None, permissions: "rw".into() };
        let log = LogDriver { driver: "syslog".into(), options: BTreeMap::new() };
        vec![
            ("--allow-privileged", ContainerSpec { privileged: true, ..usual() }),
            ("--allow-new-privileges", ContainerSpec { new_privileges: true, ..usual() }),
            (
                "--allow-cap NET_ADMIN",
                ContainerSpec { cap_add: vec!["NET_ADMIN".into()], ..usual() },
            ),
            ("--allow-device /dev/kvm", ContainerSpec { devices: vec![device], ..usual() }),
            ("--allow-gpus", ContainerSpec { gpus: Some(Gpus::All), ..usual() }),
            ("--allow-network host", ContainerSpec { network: Network::Host, ..usual() }),
            (
                "--allow-network db",
                ContainerSpec { network: Network::Named("db".into()), ..usual() },
            ),
            ("--allow-log-driver syslog", ContainerSpec { log: Some(log), ..usual() }),
            ("--pids-max 2000", ContainerSpec { pids_max: Some(2_000), ..usual() }),
        ]
    }

    #[test]
    fn nothing_is_open_unless_the_worker_says_so() {
        for (option, wish) in wishes() {
            let reason = Policy::default().admit(&task(wish)).unwrap_err();
            assert!(reason.contains(option), "{option}: {reason}");
        }
        assert_eq!(Policy::default().attributes(), BTreeMap::new());
        Policy::default().admit(&task(ContainerSpec::default())).unwrap();
    }

    #[test]
    fn what_the_worker_opens_is_open_and_shows() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let open = Policy {
            mount_paths: Vec::new(),
            networks: names(&["db", "host"]),
            capabilities: names(&["NET_ADMIN"]),
            devices: names(&["/dev/kvm"]),
            gpus: true,
            log_drivers: names(&["syslog"]),
            new_privileges: true,
            privileged: true,
            pids_max: 2_000,
        };
        for (option, wish) in wishes() {
            open.admit(&task(wish)).unwrap_or_else(|reason| panic!("{option}: {reason}"));
        }
        assert_eq!(open.attributes().get("allow.networks").map(String::as_str), Some("db,host"));
        assert_eq!(open.attributes().len(), 7);
    }

    #[test]
    fn every_network_has_its_own_door() {
        let one = Policy { networks: ["db".to_owned()].into(), ..Policy::default() };
        let wish = |network| task(ContainerSpec { network, ..ContainerSpec::default() });
        one.admit(&wish(Network::Named("db".into()))).unwrap();
        assert!(one.admit(&wish(Network::Host)).is_err());
        one.admit(&wish(Network::None)).unwrap();
    }
    #[test]
    fn a_node_that_lends_nothing_says_so() {
        let mut spec = task(ContainerSpec::default());
        let mount = |source| Mount { target: "/data".into(), source, read_only: true };
        spec.mounts = vec![
            mount(MountSource::Volume { name: "cache".into() }),
            mount(MountSource::Tmpfs { size_bytes: None }),
        ];
        Policy::default().admit(&spec).unwrap();
        spec.mounts.push(mount(MountSource::Bind { path: "/srv/a".into() }));
        let reason = Policy::default().admit(&spec).unwrap_err();
        assert!(reason.contains("/srv/a") && reason.contains("--allow-mount"), "{reason}");
        // What is below a lent path is looked at where the disk is.
        let lends = Policy { mount_paths: vec!["/srv".into()], ..Policy::default() };
        lends.admit(&spec).unwrap();
    }
}
