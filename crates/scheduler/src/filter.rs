//! Stage 1, candidates: the nodes that a task could run on, and for each other node what stands in the way.
//!
//! Each filter is one small function that answers with a [`Reason`], and each reason has its sentence. They
//! are asked in a fixed order, and the first that removes a node counts it, so the counts add up to the
//! nodes removed. They judge by what is committed and on integers: no placement exceeds a node's capacity.

use std::path::Path;

pub use longshore_proto::explain::Reason;
use longshore_proto::spec::MountSource;
use longshore_proto::state::{Eligibility, NodeStatus};

use crate::demand::{Demand, Dimension};
use crate::fleet::{Fleet, Node};

/// The judgement of one node: what stands in the way, or nothing. A number, so that arrays of them are scanned
/// fast: 0 is none, then the reasons in their order, then a number for each constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict(pub(crate) u8);

/// From here on a verdict names the constraint that is not met. At most 32 constraints are allowed.
const CONSTRAINT_FIRST: u8 = 64;

impl Verdict {
    /// The node can take the task.
    pub(crate) const FEASIBLE: Self = Self(0);
    /// There is no node.
    pub(crate) const VACANT: Self = Self(u8::MAX);
    /// Every verdict about a node that a demand with so many constraints may get, but that it can take the task.
    pub(crate) fn refusals(constraints: usize) -> impl Iterator<Item = Self> {
        let reasons = Reason::ALL.into_iter().map(Self::of);
        let told_apart = usize::from(Self::VACANT.0 - CONSTRAINT_FIRST);
        reasons.chain((0..constraints.min(told_apart)).map(Self::of_constraint))
    }

    /// How many verdicts there are.
    pub(crate) const COUNT: usize = 256;
    /// How many there are of those that name no constraint, but for [`Self::VACANT`]: they come first.
    pub(crate) const WITHOUT_CONSTRAINT: usize = Reason::ALL.len() + 1;

    pub(crate) fn of(reason: Reason) -> Self {
        Self(reason as u8 + 1)
    }

    pub(crate) fn of_constraint(index: usize) -> Self {
        let most = u8::MAX - 1 - CONSTRAINT_FIRST;
        Self(CONSTRAINT_FIRST + u8::try_from(index).unwrap_or(most).min(most))
    }

    /// What stands in the way; `None` when nothing does, or there is no node.
    pub(crate) fn reason(self) -> Option<Reason> {
        if self == Self::VACANT {
            return None;
        }
        if self.constraint().is_some() {
            return Some(Reason::Constraint);
        }
        Reason::ALL.get(usize::from(self.0.checked_sub(1)?)).copied()
    }

    /// Which constraint is not met.
    pub(crate) fn constraint(self) -> Option<usize> {
        (self != Self::VACANT).then_some(())?;
        self.0.checked_sub(CONSTRAINT_FIRST).map(usize::from)
    }
}

/// Why this node cannot take this task; `None` when it can. The one judgement of feasibility.
pub fn reason_against(fleet: &Fleet, node: &Node, demand: &Demand<'_>) -> Option<Reason> {
    let lane = fleet.lane(&node.name)?;
    judge(fleet, lane, node, demand).reason()
}

/// Judges by every filter in turn: first what no task could change, then what this task says of itself, then
/// what is scarce.
pub(crate) fn judge(fleet: &Fleet, lane: u32, node: &Node, demand: &Demand<'_>) -> Verdict {
    if let Some(reason) = standing(node) {
        return Verdict::of(reason);
    }
    let stated = datacenter(node, demand).map(Verdict::of);
    let stated = stated.or_else(|| constraints(node, demand));
    if let Some(verdict) = stated.or_else(|| mounts(node, demand).map(Verdict::of)) {
        return verdict;
    }
    let scarce = own_kind(fleet, lane, demand).or_else(|| ports(node, demand));
    match scarce.or_else(|| resources(node, demand)) {
        Some(reason) => Verdict::of(reason),
        None => Verdict::FEASIBLE,
    }
}

/// Only a node that is heard, and that an operator has left open, takes tasks.
pub(crate) fn standing(node: &Node) -> Option<Reason> {
    match (node.status, node.eligibility) {
        (NodeStatus::Suspect, _) => Some(Reason::Suspect),
        (NodeStatus::Lost, _) => Some(Reason::Lost),
        (NodeStatus::Left, _) => Some(Reason::Left),
        (NodeStatus::Ready, Eligibility::Cordoned) => Some(Reason::Cordoned),
        (NodeStatus::Ready, Eligibility::Draining) => Some(Reason::Draining),
        (NodeStatus::Ready, Eligibility::Open) => None,
    }
}

/// A task runs only where its job may.
pub(crate) fn datacenter(node: &Node, demand: &Demand<'_>) -> Option<Reason> {
    let anywhere = demand.datacenters.is_empty();
    (!anywhere && !demand.datacenters.contains(&node.datacenter)).then_some(Reason::OtherDatacenter)
}

/// Every constraint holds.
fn constraints(node: &Node, demand: &Demand<'_>) -> Option<Verdict> {
    let broken = demand
        .constraints
        .iter()
        .position(|constraint| !constraint.holds(node.attribute(&constraint.attribute)));
    broken.map(Verdict::of_constraint)
}

/// A folder of the node is mounted only where the worker allows it. The worker judges again, with links
/// resolved.
pub(crate) fn mounts(node: &Node, demand: &Demand<'_>) -> Option<Reason> {
    let refused = demand.mounts.iter().any(|mount| match &mount.source {
        MountSource::Bind { path } => {
            !node.mount_paths.iter().any(|allowed| Path::new(path).starts_with(allowed))
        }
        MountSource::Volume { .. } | MountSource::Tmpfs { .. } => false,
    });
    refused.then_some(Reason::Mount)
}

/// With distinct hosts, one task of a kind a node.
pub(crate) fn own_kind(fleet: &Fleet, lane: u32, demand: &Demand<'_>) -> Option<Reason> {
    let kin = demand.kin.filter(|_| demand.distinct_hosts)?;
    (fleet.groups().count(kin, lane) > 0).then_some(Reason::OwnKind)
}

/// A port of a node goes to one task. Addresses are not told apart: "all of them" overlaps with each, and
/// names of one machine may mean the same address, so a refusal too many is the safe error.
pub(crate) fn ports(node: &Node, demand: &Demand<'_>) -> Option<Reason> {
    let taken = node.holds_any_port()
        && demand.ports.iter().any(|port| node.holds_port(port.host, port.protocol));
    taken.then_some(Reason::PortTaken)
}

fn resources(node: &Node, demand: &Demand<'_>) -> Option<Reason> {
    let (free, wanted) = (node.free_amounts(), demand.amounts());
    Dimension::ALL.into_iter().find(|r| lacks(free[*r as usize], wanted[*r as usize])).map(lack_of)
}

/// Whether the demand would exceed what is free. A task that wants nothing of a resource fits even where
/// more is committed than there is (as when a disk shrank): it makes nothing worse.
pub(crate) fn lacks(free: f64, wanted: u64) -> bool {
    wanted > 0 && wanted as f64 > free
}

/// What it is called when there is too little of a dimension.
pub(crate) fn lack_of(dimension: Dimension) -> Reason {
    match dimension {
        Dimension::Cpu => Reason::Cpu,
        Dimension::Memory => Reason::Memory,
        Dimension::Disk => Reason::Disk,
        Dimension::Tasks => Reason::Tasks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plain::place;
    use crate::testing::{demand, join, join_as, join_with, name, port, resources};
    use crate::{GroupId, Policy};
    use longshore_proto::name::Datacenter;
    use longshore_proto::spec::{Mount, Protocol, Resources};

    /// What the fleet says to a task that fits nowhere.
    fn refusal(fleet: &Fleet, demand: &Demand<'_>) -> String {
        let mut refused = place(fleet, demand, Policy::Epvm).unwrap_err();
        refused.look_closer(fleet, demand);
        refused.to_string()
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
    fn a_port_that_the_worker_chooses_is_in_nobodys_way() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 4));
        let any = [port(longshore_proto::spec::Port::DYNAMIC)];
        for _ in 0..3 {
            let wanted = Demand { ports: &any, ..demand(1, 1) };
            assert!(place(&fleet, &wanted, Policy::Epvm).is_ok());
            fleet.reserve(&name("n1"), &wanted);
        }
        fleet.release(&name("n1"), &Demand { ports: &any, ..demand(1, 1) });
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
            assert_eq!(reason_against(&fleet, node, &wanted), Some(reason));
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
    fn a_constraint_that_is_not_met_is_named() {
        let mut fleet = Fleet::default();
        join_with(&mut fleet, "n1", resources(4, 4), &[("disk", "ssd")]);
        join_with(&mut fleet, "n2", resources(4, 4), &[("disk", "hdd"), ("rack", "r1")]);
        join(&mut fleet, "n3", resources(4, 4));
        let constraints =
            ["label.disk = ssd", "label.rack exists"].map(|text| text.parse().unwrap());
        assert_eq!(
            refusal(&fleet, &Demand { constraints: &constraints, ..demand(1, 1) }),
            "no node fits: of 3 nodes, 3 do not meet a constraint (label.disk = ssd: 2; \
             label.rack exists: 1)"
        );
        let first = &constraints[..1];
        let wanted = Demand { constraints: first, ..demand(1, 1) };
        assert_eq!(place(&fleet, &wanted, Policy::Epvm).unwrap().node, name("n1"));
    }

    #[test]
    fn a_folder_is_mounted_only_where_the_worker_allows_it() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 4));
        let of = |source| Mount { target: "/data".to_owned(), source, read_only: false };
        let bind = [of(MountSource::Bind { path: "/srv/data".to_owned() })];
        let volume = [of(MountSource::Volume { name: "data".to_owned() })];
        let wanted = Demand { mounts: &bind, ..demand(1, 1) };
        let sentence = "no node fits: of 1 node, 1 does not allow a mount";
        assert_eq!(refusal(&fleet, &wanted), sentence);
        assert!(place(&fleet, &Demand { mounts: &volume, ..wanted }, Policy::Epvm).is_ok());
        let node = fleet.node(&name("n1")).unwrap().clone();
        for (allowed, fits) in [("/srv", true), ("/srv/da", false), ("/srv/data/more", false)] {
            let machine = crate::Machine {
                datacenter: &node.datacenter,
                labels: &node.labels,
                attributes: &node.attributes,
                mount_paths: &[allowed.to_owned()],
                status: node.status,
                eligibility: node.eligibility,
                capacity: node.capacity,
                tasks_max: node.tasks_max,
            };
            fleet.upsert(&name("n1"), &machine);
            assert_eq!(place(&fleet, &wanted, Policy::Epvm).is_ok(), fits, "{allowed}");
        }
    }

    #[test]
    fn distinct_hosts_take_one_of_a_kind_each() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(8, 8));
        join(&mut fleet, "n2", resources(4, 4));
        let job = longshore_proto::name::JobKey {
            namespace: longshore_proto::name::Namespace::standard(),
            name: "web".parse().unwrap(),
        };
        let kin = Some(GroupId::of_spec(&job, &"main".parse().unwrap()));
        let wanted = Demand { kin, distinct_hosts: true, ..demand(1, 1) };
        for node in ["n1", "n2"] {
            let placed = place(&fleet, &wanted, Policy::Epvm).unwrap().node;
            assert_eq!(placed, name(node));
            fleet.reserve(&placed, &wanted);
        }
        let sentence = "no node fits: of 2 nodes, 2 have a task of this kind already";
        assert_eq!(refusal(&fleet, &wanted), sentence);
        assert!(place(&fleet, &demand(1, 1), Policy::Epvm).is_ok(), "others do not mind");
    }

    #[test]
    fn a_node_takes_so_many_tasks_and_no_more() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 4));
        (0..1000).for_each(|_| fleet.reserve(&name("n1"), &demand(0, 0)));
        let sentence = "no node fits: of 1 node, 1 takes no more tasks";
        assert_eq!(refusal(&fleet, &demand(0, 0)), sentence);
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
