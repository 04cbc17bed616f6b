//! Short forms for the unit tests of this crate: machines in whole cores and GiB.

use std::collections::BTreeMap;

use longshore_proto::id::TaskId;
use longshore_proto::name::{Datacenter, NodeName};
use longshore_proto::spec::{Port, Protocol, Resources};
use longshore_proto::state::{Eligibility, NodeStatus};

use crate::{Demand, Fleet, Machine};

pub(crate) fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

pub(crate) fn resources(cores: u64, memory_gib: u64) -> Resources {
    Resources { cpu_millis: cores * 1000, memory_bytes: memory_gib << 30, disk_bytes: 0 }
}

pub(crate) fn demand(cores: u64, memory_gib: u64) -> Demand<'static> {
    Demand::of_resources(resources(cores, memory_gib))
}

pub(crate) fn task(number: u128) -> TaskId {
    format!("{number:032x}").parse().unwrap()
}

pub(crate) fn port(host: u16) -> Port {
    Port { host, container: 80, protocol: Protocol::Tcp, host_ip: None, name: None }
}

/// A node that takes tasks, in the standard datacenter.
pub(crate) fn join(fleet: &mut Fleet, node: &str, capacity: Resources) {
    join_as(fleet, node, capacity, NodeStatus::Ready, Eligibility::Open);
}

pub(crate) fn join_as(
    fleet: &mut Fleet,
    node: &str,
    capacity: Resources,
    status: NodeStatus,
    eligibility: Eligibility,
) {
    let (datacenter, none) = (Datacenter::standard(), BTreeMap::new());
    let machine = Machine {
        datacenter: &datacenter,
        labels: &none,
        attributes: &none,
        mount_paths: &[],
        status,
        eligibility,
        capacity,
        tasks_max: 1000,
    };
    fleet.upsert(&name(node), &machine);
}

/// A node with labels.
pub(crate) fn join_with(
    fleet: &mut Fleet,
    node: &str,
    capacity: Resources,
    labels: &[(&str, &str)],
) {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let (datacenter, none) = (Datacenter::standard(), BTreeMap::new());
    let machine = Machine {
        datacenter: &datacenter,
        labels: &labels.iter().map(own).collect(),
        attributes: &none,
        mount_paths: &[],
        status: NodeStatus::Ready,
        eligibility: Eligibility::Open,
        capacity,
        tasks_max: 1000,
    };
    fleet.upsert(&name(node), &machine);
}
