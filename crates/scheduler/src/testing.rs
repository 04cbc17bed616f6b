//! Short forms for the unit tests of this crate: machines in whole cores and GiB.

use longshore_proto::name::{Datacenter, NodeName};
use longshore_proto::spec::{Port, Protocol, Resources};
use longshore_proto::state::{Eligibility, NodeStatus};

use crate::{Demand, Fleet};

pub(crate) fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

pub(crate) fn resources(cores: u64, memory_gib: u64) -> Resources {
    Resources { cpu_millis: cores * 1000, memory_bytes: memory_gib << 30, disk_bytes: 0 }
}

pub(crate) fn demand(cores: u64, memory_gib: u64) -> Demand<'static> {
    Demand { resources: resources(cores, memory_gib), datacenters: &[], ports: &[] }
}

pub(crate) fn port(host: u16) -> Port {
    Port { host, container: 80, protocol: Protocol::Tcp, host_ip: None }
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
    fleet.upsert(&name(node), &Datacenter::standard(), status, eligibility, capacity);
}
