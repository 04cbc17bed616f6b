//! Stage 1, candidates: the nodes that a task could run on, and for each other node what stands in the way.
//!
//! Each filter is one small function that answers with a [`Reason`], and each reason has its sentence. They
//! are asked in a fixed order, and the first that removes a node counts it, so the counts add up to the
//! nodes removed. They judge by what is committed and on integers: no placement exceeds a node's capacity.

use longshore_proto::name::NodeName;
use longshore_proto::state::{Eligibility, NodeStatus};

use crate::explain::Rejected;
use crate::fleet::{Demand, Dimension, Fleet, Node};

/// Why a node cannot take a task. The order of the variants is the order in which filters are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The node has been silent for a while.
    Suspect,
    /// The node has been silent for too long.
    Lost,
    /// The node said goodbye.
    Left,
    /// An operator lets it take nothing new.
    Cordoned,
    /// An operator has its tasks moved off.
    Draining,
    /// The job may not run where the node stands.
    OtherDatacenter,
    /// A task of the node holds a port that is wanted.
    PortTaken,
    /// Too little cpu is free.
    Cpu,
    /// Too little memory is free.
    Memory,
    /// Too little disk space is free.
    Disk,
}

impl Reason {
    /// Every reason, in the order in which filters are asked.
    pub const ALL: [Self; 10] = [
        Self::Suspect,
        Self::Lost,
        Self::Left,
        Self::Cordoned,
        Self::Draining,
        Self::OtherDatacenter,
        Self::PortTaken,
        Self::Cpu,
        Self::Memory,
        Self::Disk,
    ];

    /// As it is written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Suspect => "suspect",
            Self::Lost => "lost",
            Self::Left => "left",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
            Self::OtherDatacenter => "other-datacenter",
            Self::PortTaken => "port-taken",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }

    /// The sentence that begins with a number of nodes: "1 is suspect", "2 lack memory".
    pub(crate) fn predicate(self, nodes: u32) -> &'static str {
        let one = nodes == 1;
        match self {
            Self::Suspect if one => "is suspect",
            Self::Suspect => "are suspect",
            Self::Lost if one => "is lost",
            Self::Lost => "are lost",
            Self::Left if one => "has left",
            Self::Left => "have left",
            Self::Cordoned if one => "is cordoned",
            Self::Cordoned => "are cordoned",
            Self::Draining if one => "is draining",
            Self::Draining => "are draining",
            Self::OtherDatacenter if one => "is in another datacenter",
            Self::OtherDatacenter => "are in another datacenter",
            Self::PortTaken if one => "has a port taken",
            Self::PortTaken => "have a port taken",
            Self::Cpu if one => "lacks cpu",
            Self::Cpu => "lack cpu",
            Self::Memory if one => "lacks memory",
            Self::Memory => "lack memory",
            Self::Disk if one => "lacks disk space",
            Self::Disk => "lack disk space",
        }
    }
}

/// Answers why a node cannot take a task, as far as this filter knows.
type Filter = fn(&Node, &Demand<'_>) -> Option<Reason>;

/// The filters in the order in which they are asked: first what no task could change, then what this task
/// says of itself, then what is scarce.
const FILTERS: [Filter; 7] = [status, eligibility, datacenter, ports, cpu, memory, disk];

/// The nodes that a task could run on, in the order of names.
pub(crate) struct Candidates<'f> {
    pub(crate) nodes: Vec<(&'f NodeName, &'f Node)>,
    pub(crate) rejected: Rejected,
}

pub(crate) fn candidates<'f>(fleet: &'f Fleet, demand: &Demand<'_>) -> Candidates<'f> {
    let mut candidates = Candidates { nodes: Vec::new(), rejected: Rejected::default() };
    for (name, node) in fleet.nodes() {
        match reason_against(node, demand) {
            None => candidates.nodes.push((name, node)),
            Some(reason) => candidates.rejected.count_in(reason, node, demand),
        }
    }
    candidates
}

/// Why this node cannot take this task; `None` when it can. The one judgement of feasibility.
pub fn reason_against(node: &Node, demand: &Demand<'_>) -> Option<Reason> {
    FILTERS.iter().find_map(|filter| filter(node, demand))
}

/// Only a node that is heard takes tasks.
fn status(node: &Node, _: &Demand<'_>) -> Option<Reason> {
    match node.status {
        NodeStatus::Ready => None,
        NodeStatus::Suspect => Some(Reason::Suspect),
        NodeStatus::Lost => Some(Reason::Lost),
        NodeStatus::Left => Some(Reason::Left),
    }
}

/// Only a node that an operator has left open takes tasks.
fn eligibility(node: &Node, _: &Demand<'_>) -> Option<Reason> {
    match node.eligibility {
        Eligibility::Open => None,
        Eligibility::Cordoned => Some(Reason::Cordoned),
        Eligibility::Draining => Some(Reason::Draining),
    }
}

/// A task runs only where its job may.
fn datacenter(node: &Node, demand: &Demand<'_>) -> Option<Reason> {
    let anywhere = demand.datacenters.is_empty();
    (!anywhere && !demand.datacenters.contains(&node.datacenter)).then_some(Reason::OtherDatacenter)
}

/// A port of a node goes to one task. Addresses are not told apart: "all of them" overlaps with each, and
/// names of one machine may mean the same address, so a refusal too many is the safe error.
fn ports(node: &Node, demand: &Demand<'_>) -> Option<Reason> {
    let taken = demand.ports.iter().any(|port| node.holds_port(port.host, port.protocol));
    taken.then_some(Reason::PortTaken)
}

fn cpu(node: &Node, demand: &Demand<'_>) -> Option<Reason> {
    lacks(node, demand, Dimension::Cpu).then_some(Reason::Cpu)
}

fn memory(node: &Node, demand: &Demand<'_>) -> Option<Reason> {
    lacks(node, demand, Dimension::Memory).then_some(Reason::Memory)
}

fn disk(node: &Node, demand: &Demand<'_>) -> Option<Reason> {
    lacks(node, demand, Dimension::Disk).then_some(Reason::Disk)
}

/// Whether the demand would exceed what is free. A task that wants nothing of a resource fits even where
/// more is committed than there is (as when a disk shrank): it makes nothing worse.
fn lacks(node: &Node, demand: &Demand<'_>, dimension: Dimension) -> bool {
    let wanted = dimension.of(demand.resources);
    wanted > 0 && wanted > dimension.of(node.free())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{demand, join, join_as, name, port, resources};
    use crate::{Policy, place};
    use longshore_proto::name::Datacenter;
    use longshore_proto::spec::{Protocol, Resources};

    /// What the fleet says to a task that fits nowhere.
    fn refusal(fleet: &Fleet, demand: &Demand<'_>) -> String {
        place(fleet, demand, Policy::Epvm).unwrap_err().to_string()
    }

    #[test]
    fn a_node_that_is_not_ready_takes_nothing() {
        for (status, sentence) in [
            (NodeStatus::Suspect, "no node fits: of 1 node, 1 is suspect"),
            (NodeStatus::Lost, "no node fits: of 1 node, 1 is lost"),
            (NodeStatus::Left, "no node fits: of 1 node, 1 has left"),
        ] {
            let mut fleet = Fleet::default();
            join_as(&mut fleet, "n1", resources(4, 4), status, Eligibility::Open);
            assert_eq!(refusal(&fleet, &demand(1, 1)), sentence);
        }
    }

    #[test]
    fn a_node_that_is_not_open_takes_nothing() {
        for (eligibility, sentence) in [
            (Eligibility::Cordoned, "no node fits: of 1 node, 1 is cordoned"),
            (Eligibility::Draining, "no node fits: of 1 node, 1 is draining"),
        ] {
            let mut fleet = Fleet::default();
            join_as(&mut fleet, "n1", resources(4, 4), NodeStatus::Ready, eligibility);
            assert_eq!(refusal(&fleet, &demand(1, 1)), sentence);
        }
    }

    #[test]
    fn a_task_stays_in_its_datacenters() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 4));
        join(&mut fleet, "n2", resources(4, 4));
        let elsewhere: [Datacenter; 2] = ["dc2".parse().unwrap(), "dc3".parse().unwrap()];
        let refused = Demand { datacenters: &elsewhere, ..demand(1, 1) };
        let sentence = "no node fits: of 2 nodes, 2 are in another datacenter";
        assert_eq!(refusal(&fleet, &refused), sentence);
        let here = [Datacenter::standard(), elsewhere[0].clone()];
        assert!(place(&fleet, &Demand { datacenters: &here, ..refused }, Policy::Epvm).is_ok());
    }

    #[test]
    fn a_port_goes_to_one_task_whatever_the_address() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 4));
        let local = longshore_proto::spec::Port {
            host_ip: Some("127.0.0.1".parse().unwrap()),
            ..port(8080)
        };
        let first = [local, port(9090)];
        fleet.reserve(&name("n1"), &Demand { ports: &first, ..demand(1, 1) });
        let second = [port(80), port(8080), port(9090)];
        assert_eq!(
            refusal(&fleet, &Demand { ports: &second, ..demand(1, 1) }),
            "no node fits: of 1 node, 1 has a port taken (8080/tcp, 9090/tcp)"
        );
        let other = [longshore_proto::spec::Port { protocol: Protocol::Udp, ..port(8080) }];
        assert!(place(&fleet, &Demand { ports: &other, ..demand(1, 1) }, Policy::Epvm).is_ok());
    }

    #[test]
    fn what_is_committed_decides_to_the_last_unit() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", Resources { disk_bytes: 10 << 30, ..resources(4, 4) });
        join(&mut fleet, "n2", resources(2, 1));
        fleet.reserve(&name("n1"), &demand(3, 2));
        fleet.set_measured(&name("n1"), Some(resources(4, 4)));
        assert_eq!(place(&fleet, &demand(1, 2), Policy::Epvm).unwrap().node, name("n1"));
        for (reason, more) in [
            (Reason::Cpu, Resources { cpu_millis: 1001, ..resources(0, 2) }),
            (Reason::Memory, Resources { memory_bytes: (2 << 30) + 1, ..resources(1, 0) }),
            (Reason::Disk, Resources { disk_bytes: (10 << 30) + 1, ..resources(1, 2) }),
        ] {
            let node = fleet.node(&name("n1")).unwrap();
            let wanted = Demand { resources: more, ..demand(0, 0) };
            assert_eq!(reason_against(node, &wanted), Some(reason));
        }
        assert_eq!(
            refusal(&fleet, &demand(3, 1)),
            "no node fits: of 2 nodes, 2 lack cpu (most free: 2 of 3 cores wanted)"
        );
        assert_eq!(
            refusal(&fleet, &demand(1, 3)),
            "no node fits: of 2 nodes, 2 lack memory (most free: 2GiB of 3GiB wanted)"
        );
        let wanted = Resources { disk_bytes: 11 << 30, ..resources(1, 1) };
        assert_eq!(
            refusal(&fleet, &Demand { resources: wanted, ..demand(0, 0) }),
            "no node fits: of 2 nodes, 2 lack disk space (most free: 10GiB of 11GiB wanted)"
        );
    }

    #[test]
    fn who_wants_nothing_of_a_resource_is_not_refused_for_it() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 4));
        let wanted = Resources { disk_bytes: 1, ..resources(1, 1) };
        fleet.reserve(&name("n1"), &Demand { resources: wanted, ..demand(0, 0) });
        assert!(place(&fleet, &demand(1, 1), Policy::Epvm).is_ok());
    }

    #[test]
    fn the_first_filter_that_removes_a_node_counts_it() {
        let mut fleet = Fleet::default();
        join_as(&mut fleet, "n1", resources(0, 0), NodeStatus::Lost, Eligibility::Cordoned);
        join_as(&mut fleet, "n2", resources(0, 0), NodeStatus::Ready, Eligibility::Cordoned);
        join(&mut fleet, "n3", resources(0, 0));
        let rejected = place(&fleet, &demand(1, 1), Policy::Epvm).unwrap_err().rejected;
        let counts: Vec<(Reason, u32)> = rejected.iter().collect();
        assert_eq!(counts, [(Reason::Lost, 1), (Reason::Cordoned, 1), (Reason::Cpu, 1)]);
        assert_eq!(rejected.total(), 3);
    }

    #[test]
    fn every_reason_stands_once_and_in_order() {
        assert!(Reason::ALL.is_sorted());
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{} is a counter's index", reason.as_str());
        }
    }
}
