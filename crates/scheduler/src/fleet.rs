//! Capacity and commitments of every node, as the filters and the cost function see them.
//!
//! The fleet is told facts (a node joined, a task was placed or ended, a heartbeat came) and never refuses
//! one. Its truth is integers; the exponentials that E-PVM needs are derived from them, cached on each node
//! and computed anew at each change, so that no error ever accumulates and any history that leads to the
//! same integers leads to the same decisions.

use std::collections::BTreeMap;

use longshore_proto::name::{Datacenter, NodeName};
use longshore_proto::spec::{Port, Protocol, Resources};
use longshore_proto::state::{Eligibility, NodeStatus};

use crate::epvm::{self, Exponentials};

/// What one task wants of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand<'a> {
    /// What it will hold of the node for as long as it lives.
    pub resources: Resources,
    /// Where it may run; empty means anywhere.
    pub datacenters: &'a [Datacenter],
    /// The ports that it publishes on the node.
    pub ports: &'a [Port],
}

/// One of the resources that are judged alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dimension {
    Cpu,
    Memory,
    Disk,
}

impl Dimension {
    /// Every dimension, in the order in which costs are added up.
    pub(crate) const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Disk];

    /// The figure of this dimension.
    pub(crate) fn of(self, resources: Resources) -> u64 {
        match self {
            Self::Cpu => resources.cpu_millis,
            Self::Memory => resources.memory_bytes,
            Self::Disk => resources.disk_bytes,
        }
    }
}

/// A machine, with what it has and what it has promised. To be read; [`Fleet`] alone changes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it stands.
    pub datacenter: Datacenter,
    /// What the manager thinks of it.
    pub status: NodeStatus,
    /// Whether an operator lets it take new tasks.
    pub eligibility: Eligibility,
    /// What it offers.
    pub capacity: Resources,
    /// What its tasks were promised.
    pub committed: Resources,
    /// What is in use on it by whomever, smoothed; absent when stale or never heard.
    pub measured: Option<Resources>,
    /// What was promised since the last measurement, which cannot show in it yet.
    promised_since: Resources,
    /// How many tasks hold something of it.
    pub tasks: u32,
    /// How many tasks hold each port: facts are not refused, so it may be more than one.
    ports: BTreeMap<(u16, Protocol), u32>,
    /// The node's place in the fixed order that breaks ties.
    tie: u64,
    exponentials: Exponentials,
}

impl Node {
    /// A node of which nothing but its name is known.
    fn unheard(name: &NodeName) -> Self {
        Self {
            datacenter: Datacenter::standard(),
            status: NodeStatus::Left,
            eligibility: Eligibility::Open,
            capacity: Resources::ZERO,
            committed: Resources::ZERO,
            measured: None,
            promised_since: Resources::ZERO,
            tasks: 0,
            ports: BTreeMap::new(),
            tie: permuted(name),
            exponentials: Exponentials::default(),
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

    pub(crate) fn tie(&self) -> u64 {
        self.tie
    }

    pub(crate) fn exponentials(&self) -> &Exponentials {
        &self.exponentials
    }

    fn reserve(&mut self, demand: &Demand<'_>) {
        self.committed = self.committed.saturating_add(demand.resources);
        self.promised_since = self.promised_since.saturating_add(demand.resources);
        self.tasks = self.tasks.saturating_add(1);
        for port in demand.ports {
            let holders = self.ports.entry((port.host, port.protocol)).or_insert(0);
            *holders = holders.saturating_add(1);
        }
    }

    fn release(&mut self, demand: &Demand<'_>) {
        self.committed = self.committed.saturating_sub(demand.resources);
        self.promised_since = self.promised_since.saturating_sub(demand.resources);
        self.tasks = self.tasks.saturating_sub(1);
        for port in demand.ports {
            let key = (port.host, port.protocol);
            if let Some(holders) = self.ports.get_mut(&key) {
                *holders -= 1;
                if *holders == 0 {
                    self.ports.remove(&key);
                }
            }
        }
    }

    fn refresh(&mut self, base_log2: u32) {
        let expected = self.measured.map(|measured| measured.saturating_add(self.promised_since));
        self.exponentials = Exponentials::new(base_log2, self.capacity, self.committed, expected);
    }
}

/// Every node, and what the tasks that were placed hold of each.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleet {
    nodes: BTreeMap<NodeName, Node>,
    /// Nodes that are not of the fleet (gone, or not yet told of) while tasks hold something of them: were
    /// it forgotten, a node that comes back could be promised twice.
    absent: BTreeMap<NodeName, Node>,
    /// The base of the exponentials, as the power of two that it is.
    base_log2: u32,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { nodes: BTreeMap::new(), absent: BTreeMap::new(), base_log2: epvm::base_log2(0) }
    }
}

impl Fleet {
    /// A node joined or changed. What its tasks hold, and its measurement, stay as they are.
    pub fn upsert(
        &mut self,
        name: &NodeName,
        datacenter: &Datacenter,
        status: NodeStatus,
        eligibility: Eligibility,
        capacity: Resources,
    ) {
        let joined = !self.nodes.contains_key(name);
        let known = self.absent.remove(name);
        let node = self
            .nodes
            .entry(name.clone())
            .or_insert_with(|| known.unwrap_or_else(|| Node::unheard(name)));
        node.datacenter = datacenter.clone();
        node.status = status;
        node.eligibility = eligibility;
        node.capacity = capacity;
        node.refresh(self.base_log2);
        if joined {
            self.rebase();
        }
    }

    /// A node is no longer of the fleet. What its tasks hold is remembered until they release it.
    pub fn remove(&mut self, name: &NodeName) {
        let Some(mut node) = self.nodes.remove(name) else { return };
        if node.tasks > 0 {
            node.measured = None;
            self.absent.insert(name.clone(), node);
        }
        self.rebase();
    }

    /// A heartbeat said what is in use on a node; `None` means that the last one is too old to go by.
    ///
    /// Heartbeats are smoothed (each counts for half of the figure, so that one spike does not move tasks
    /// about), and the cost function rounds to a 64th of the capacity, so that noise changes nothing. The
    /// first figure after none is taken as it is. A node that is not of the fleet is passed over.
    pub fn set_measured(&mut self, name: &NodeName, measured: Option<Resources>) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.measured = match (node.measured, measured) {
            (Some(before), Some(now)) => Some(Resources {
                cpu_millis: before.cpu_millis.midpoint(now.cpu_millis),
                memory_bytes: before.memory_bytes.midpoint(now.memory_bytes),
                disk_bytes: before.disk_bytes.midpoint(now.disk_bytes),
            }),
            (None, now) => now,
            (Some(_), None) => None,
        };
        node.promised_since = Resources::ZERO;
        node.refresh(self.base_log2);
    }

    /// A task was placed on a node. It is a fact and never refused, even where the node is not known.
    pub fn reserve(&mut self, name: &NodeName, demand: &Demand<'_>) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.reserve(demand);
            node.refresh(self.base_log2);
        } else {
            let absent = self.absent.entry(name.clone());
            absent.or_insert_with(|| Node::unheard(name)).reserve(demand);
        }
    }

    /// A task that was placed on a node holds nothing any more. Takes back one [`Fleet::reserve`] of the
    /// same demand.
    pub fn release(&mut self, name: &NodeName, demand: &Demand<'_>) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.release(demand);
            node.refresh(self.base_log2);
        } else if let Some(node) = self.absent.get_mut(name) {
            node.release(demand);
            if node.tasks == 0 {
                self.absent.remove(name);
            }
        }
    }

    /// The node of this name.
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// Every node, in the order of names.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, &Node)> {
        self.nodes.iter()
    }

    /// How many nodes there are, whatever their status.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node at all.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Computes every exponential anew when the number of nodes has passed a power of two.
    ///
    /// There is no hysteresis on purpose: the base must follow from the nodes there are, not from the
    /// order in which they came.
    fn rebase(&mut self) {
        let base_log2 = epvm::base_log2(self.nodes.len());
        if base_log2 != self.base_log2 {
            self.base_log2 = base_log2;
            for node in self.nodes.values_mut() {
                node.refresh(base_log2);
            }
        }
    }
}

/// A name's place in a fixed pseudo-random order, so that ties do not always fill the first node by name.
///
/// FNV-1a, then the finaliser of splitmix64: names differ in their last characters, which FNV alone would
/// carry into the low bits only.
fn permuted(name: &NodeName) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in name.as_str().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{demand, join, name, port, resources};

    #[test]
    fn a_node_that_changes_keeps_what_its_tasks_hold() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 8));
        let ports = [port(80)];
        let demand = Demand { ports: &ports, ..demand(1, 2) };
        fleet.reserve(&name("n1"), &demand);
        fleet.set_measured(&name("n1"), Some(resources(2, 2)));
        join(&mut fleet, "n1", resources(8, 8));
        let node = fleet.node(&name("n1")).unwrap();
        assert_eq!((node.committed, node.tasks), (resources(1, 2), 1));
        assert_eq!(node.measured, Some(resources(2, 2)));
        assert_eq!(node.free(), resources(7, 6));
        assert!(node.holds_port(80, Protocol::Tcp) && !node.holds_port(80, Protocol::Udp));
    }

    #[test]
    fn a_node_that_comes_back_still_owes_what_its_tasks_hold() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 8));
        fleet.reserve(&name("n1"), &demand(3, 2));
        fleet.remove(&name("n1"));
        assert!(fleet.is_empty());
        join(&mut fleet, "n1", resources(4, 8));
        assert_eq!(fleet.node(&name("n1")).unwrap().committed, resources(3, 2));
        fleet.remove(&name("n1"));
        fleet.release(&name("n1"), &demand(3, 2));
        assert_eq!(fleet, Fleet::default(), "nothing is kept for ever");
    }

    #[test]
    fn a_task_may_be_told_of_before_its_node() {
        let mut fleet = Fleet::default();
        fleet.reserve(&name("n1"), &demand(3, 2));
        join(&mut fleet, "n1", resources(4, 8));
        assert_eq!(fleet.node(&name("n1")).unwrap().free(), resources(1, 6));
        fleet.release(&name("n2"), &demand(3, 2));
        assert_eq!(fleet.len(), 1);
    }

    #[test]
    fn a_port_is_free_again_when_its_last_holder_ends() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 8));
        let ports = [port(80)];
        let demand = Demand { ports: &ports, ..demand(1, 1) };
        fleet.reserve(&name("n1"), &demand);
        fleet.reserve(&name("n1"), &demand);
        fleet.release(&name("n1"), &demand);
        assert!(fleet.node(&name("n1")).unwrap().holds_port(80, Protocol::Tcp));
        fleet.release(&name("n1"), &demand);
        assert!(!fleet.node(&name("n1")).unwrap().holds_port(80, Protocol::Tcp));
    }

    #[test]
    fn heartbeats_are_smoothed_until_one_is_missing() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(16, 16));
        let mut hear = |figure| {
            fleet.set_measured(&name("n1"), figure);
            fleet.node(&name("n1")).unwrap().measured
        };
        assert_eq!(hear(Some(resources(8, 0))), Some(resources(8, 0)));
        assert_eq!(hear(Some(resources(0, 8))), Some(resources(4, 4)));
        assert_eq!(hear(None), None);
        assert_eq!(hear(Some(resources(1, 1))), Some(resources(1, 1)));
    }

    #[test]
    fn the_order_of_ties_is_fixed_and_not_that_of_names() {
        let mut names: Vec<NodeName> = (0..8).map(|i| name(&format!("n{i}"))).collect();
        names.sort_by_key(permuted);
        let order: Vec<&str> = names.iter().map(NodeName::as_str).collect();
        assert_eq!(order, ["n0", "n5", "n7", "n3", "n4", "n6", "n2", "n1"]);
    }
}
