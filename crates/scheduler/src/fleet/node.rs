//! One machine as the scheduler sees it: what it is, what it has, what it has promised.

use std::collections::BTreeMap;
use std::sync::Arc;

use longshore_proto::constraint::Attribute;
use longshore_proto::name::{Datacenter, NodeName};
use longshore_proto::spec::{Port, Protocol, Resources};
use longshore_proto::state::{Eligibility, NodeStatus};

use crate::cost::{Load, epvm};
use crate::demand::{Amounts, DIMENSIONS, Demand, amounts};

/// What is told of a machine when it joins or changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine<'a> {
    /// Where it stands.
    pub datacenter: &'a Datacenter,
    /// What its operator says of it.
    pub labels: &'a BTreeMap<String, String>,
    /// What its worker found out about it.
    pub attributes: &'a BTreeMap<String, String>,
    /// The folders below which tasks may mount.
    pub mount_paths: &'a [String],
    /// What the manager thinks of it.
    pub status: NodeStatus,
    /// Whether an operator lets it take new tasks.
    pub eligibility: Eligibility,
    /// What it offers.
    pub capacity: Resources,
    /// How many tasks it takes.
    pub tasks_max: u32,
}

/// A machine, with what it has and what it has promised. To be read; [`crate::Fleet`] alone changes it.
///
/// What each task changes that comes or goes stands first, in two lines of the processor's caches: of a large fleet hardly
/// any node is in them when its turn comes.
#[derive(Debug, Clone, PartialEq)]
#[repr(C, align(64))]
pub struct Node {
    /// What its tasks were promised.
    pub committed: Resources,
    /// What was promised since the last measurement, which cannot show in it yet.
    promised_since: Resources,
    /// What it offers.
    pub capacity: Resources,
    /// What is in use on it by whomever, smoothed; absent when stale or never heard.
    pub measured: Option<Resources>,
    /// The node's place in the fixed order that breaks ties.
    tie: u64,
    /// How many tasks hold something of it.
    pub tasks: u32,
    /// How many tasks it takes.
    pub tasks_max: u32,
    /// What the manager thinks of it.
    pub status: NodeStatus,
    /// Whether an operator lets it take new tasks.
    pub eligibility: Eligibility,
    /// Its name.
    pub name: NodeName,
    /// How many tasks hold each port: facts are not refused, so it may be more than one.
    ports: BTreeMap<(u16, Protocol), u32>,
    /// Where it stands.
    pub datacenter: Datacenter,
    /// What its operator says of it.
    pub labels: Arc<BTreeMap<String, String>>,
    /// What its worker found out about it.
    pub attributes: Arc<BTreeMap<String, String>>,
    /// The folders below which tasks may mount.
    pub mount_paths: Arc<[String]>,
}

impl Node {
    /// A node of which nothing but its name is known.
    pub(super) fn unheard(name: &NodeName) -> Self {
        Self {
            name: name.clone(),
            datacenter: Datacenter::standard(),
            labels: Arc::default(),
            attributes: Arc::default(),
            mount_paths: Arc::default(),
            status: NodeStatus::Left,
            eligibility: Eligibility::Open,
            capacity: Resources::ZERO,
            tasks_max: 0,
            committed: Resources::ZERO,
            tasks: 0,
            measured: None,
            promised_since: Resources::ZERO,
            ports: BTreeMap::new(),
            tie: permuted(name),
        }
    }

    /// What is not promised to any task yet.
    pub fn free(&self) -> Resources {
        self.capacity.saturating_sub(self.committed)
    }

    /// Whether a task of the node holds this port, on whichever address.
    pub fn holds_port(&self, host: u16, protocol: Protocol) -> bool {
        self.ports.contains_key(&(host, protocol))
    }

    /// How many tasks of the node hold this port: facts are not refused, so it may be more than one.
    pub(crate) fn port_holders(&self, host: u16, protocol: Protocol) -> u32 {
        self.ports.get(&(host, protocol)).copied().unwrap_or(0)
    }

    /// What the node has of an attribute.
    pub fn attribute(&self, attribute: &Attribute) -> Option<&str> {
        match attribute {
            Attribute::NodeName => Some(self.name.as_str()),
            Attribute::Datacenter => Some(self.datacenter.as_str()),
            Attribute::Label(key) => self.labels.get(key).map(String::as_str),
            Attribute::Machine(key) => self.attributes.get(key).map(String::as_str),
        }
    }

    /// Whether what is measured on it is known.
    pub(crate) fn is_fresh(&self) -> bool {
        self.measured.is_some()
    }

    pub(crate) fn holds_any_port(&self) -> bool {
        !self.ports.is_empty()
    }

    pub(crate) fn tie(&self) -> u64 {
        self.tie
    }

    pub(crate) fn capacity_amounts(&self) -> Amounts {
        amounts(self.capacity, self.tasks_max)
    }

    pub(crate) fn committed_amounts(&self) -> Amounts {
        amounts(self.committed, self.tasks)
    }

    /// What will be in use as far as is known: what is measured and what was promised since.
    pub(crate) fn expected_amounts(&self) -> Amounts {
        self.measured.map_or([0; DIMENSIONS], |measured| {
            amounts(measured.saturating_add(self.promised_since), 0)
        })
    }

    /// What it has and holds, as costs are judged by it.
    pub(crate) fn load(&self) -> Load {
        Load {
            capacity: self.capacity_amounts(),
            committed: self.committed_amounts(),
            expected: self.expected_amounts(),
            is_fresh: self.is_fresh(),
        }
    }

    /// What is expected in steps of the capacity, as costs tell it apart.
    fn expected_steps(&self) -> [u64; DIMENSIONS] {
        let (expected, capacity) = (self.expected_amounts(), self.capacity_amounts());
        std::array::from_fn(|r| epvm::steps(expected[r], capacity[r]))
    }

    /// What is free of each dimension: see [`Load::free`].
    pub(crate) fn free_amounts(&self) -> [f64; DIMENSIONS] {
        self.load().free()
    }

    /// Takes over what is told. True when it changed what constraints look at.
    pub(super) fn tell(&mut self, machine: &Machine<'_>) -> bool {
        let Machine { datacenter, labels, attributes, mount_paths, .. } = *machine;
        let changed = self.datacenter != *datacenter
            || *self.labels != *labels
            || *self.attributes != *attributes
            || *self.mount_paths != *mount_paths;
        if changed {
            self.datacenter.clone_from(datacenter);
            self.labels = Arc::new(labels.clone());
            self.attributes = Arc::new(attributes.clone());
            self.mount_paths = mount_paths.into();
        }
        self.status = machine.status;
        self.eligibility = machine.eligibility;
        self.capacity = machine.capacity;
        self.tasks_max = machine.tasks_max;
        changed
    }

    /// Takes over what a heartbeat said. True when costs change with it: most heartbeats say what is known.
    pub(super) fn measure(&mut self, measured: Option<Resources>) -> bool {
        let before = (self.is_fresh(), self.expected_steps());
        self.measured = match (self.measured, measured) {
            (Some(before), Some(now)) => Some(Resources {
                cpu_millis: before.cpu_millis.midpoint(now.cpu_millis),
                memory_bytes: before.memory_bytes.midpoint(now.memory_bytes),
                disk_bytes: before.disk_bytes.midpoint(now.disk_bytes),
            }),
            (None, now) => now,
            (Some(_), None) => None,
        };
        self.promised_since = Resources::ZERO;
        before != (self.is_fresh(), self.expected_steps())
    }

    pub(super) fn forget_measured(&mut self) {
        self.measured = None;
    }

    pub(super) fn reserve(&mut self, demand: &Demand<'_>) {
        self.committed = self.committed.saturating_add(demand.resources);
        self.promised_since = self.promised_since.saturating_add(demand.resources);
        self.tasks = self.tasks.saturating_add(1);
        for Port { host, protocol, .. } in demand.ports.iter().filter(|port| !port.is_dynamic()) {
            let holders = self.ports.entry((*host, *protocol)).or_insert(0);
            *holders = holders.saturating_add(1);
        }
    }

    pub(super) fn release(&mut self, demand: &Demand<'_>) {
        self.committed = self.committed.saturating_sub(demand.resources);
        self.promised_since = self.promised_since.saturating_sub(demand.resources);
        self.tasks = self.tasks.saturating_sub(1);
        for Port { host, protocol, .. } in demand.ports.iter().filter(|port| !port.is_dynamic()) {
            let key = (*host, *protocol);
            if let Some(holders) = self.ports.get_mut(&key) {
                *holders -= 1;
                if *holders == 0 {
                    self.ports.remove(&key);
                }
            }
        }
    }
}

/// A name's place in a fixed pseudo-random order, so that ties do not always fill the first node by name.
///
/// FNV-1a, then the finaliser of splitmix64: names differ in their last characters, which FNV alone would
/// carry into the low bits only.
pub(super) fn permuted(name: &NodeName) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in name.as_str().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
