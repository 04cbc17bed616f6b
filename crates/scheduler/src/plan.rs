//! Plans: what would have to happen, worked out before anything does.
//!
//! | module | what lives there |
//! |---|---|
//! | [`gang`] | tasks that are placed all together or not at all |
//! | [`preempt`] | which tasks would have to go so that a more important one fits |
//! | [`rebalance`] | which tasks would be better off elsewhere |
//! | [`ranking`] | how every node stands to one task: the best with their costs, the others with what is in the way |
//!
//! Everything here is a pure function of a fleet. Whoever asks hands in the tasks: the fleet knows what they
//! hold, and not whose it is.

pub mod gang;
pub mod preempt;
pub mod ranking;
pub mod rebalance;

use longshore_proto::constraint::Attribute;
use longshore_proto::name::NodeName;
use longshore_proto::spec::{Resources, Spread};
use longshore_proto::state::NodeStatus;

use crate::cost::{Model, epvm::Epvm};
use crate::demand::Demand;
use crate::filter;
use crate::fleet::{Fleet, Node};

/// How large something is that is made of several resources: its largest share of a machine with 16 cores, 64
/// GiB of memory and 1 TiB of disk, in millionths. The machine only fixes the rates between the resources.
pub fn size(resources: Resources) -> u64 {
    let share = |wanted: u64, whole: u64| {
        u64::try_from(u128::from(wanted) * 1_000_000 / u128::from(whole)).unwrap_or(u64::MAX)
    };
    share(resources.cpu_millis, 16_000)
        .max(share(resources.memory_bytes, 64 << 30))
        .max(share(resources.disk_bytes, 1 << 40))
}

/// How a fleet stands as a whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Footing {
    /// How many nodes are heard.
    pub nodes: u32,
    /// What they cost together by E-PVM, above what they would cost empty.
    pub cost: f64,
    /// What the nodes offer that take new tasks.
    pub capacity: Resources,
    /// What of that is promised to nobody.
    pub free: Resources,
}

/// How a fleet stands as a whole. Costs are told at the given base (see [`Fleet::base_log2`]), so that those of
/// two fleets of different sizes can be compared.
pub fn footing(fleet: &Fleet, base_log2: u32) -> Footing {
    let mut footing =
        Footing { nodes: 0, cost: 0.0, capacity: Resources::ZERO, free: Resources::ZERO };
    for node in fleet.nodes().filter(|node| node.status == NodeStatus::Ready) {
        footing.nodes += 1;
        footing.cost += cost(node, base_log2);
        if filter::standing(node).is_none() {
            footing.capacity = footing.capacity.saturating_add(node.capacity);
            footing.free = footing.free.saturating_add(node.free());
        }
    }
    footing
}

/// What a node costs, above what it would cost empty.
fn cost(node: &Node, base_log2: u32) -> f64 {
    let [cpu, memory, disk, tasks] = Epvm.row(&node.load(), base_log2).live.map(|part| part - 1.0);
    ((cpu + memory) + disk) + tasks
}

/// Takes a task off a node, and what it is taken to use out of what is measured there. Otherwise the node would
/// look as busy without the task as with it.
pub fn take_out(fleet: &mut Fleet, from: &NodeName, demand: &Demand<'_>) {
    let expected = fleet.node(from).filter(|node| node.is_fresh()).map(Node::expected_amounts);
    fleet.release(from, demand);
    if let Some([cpu_millis, memory_bytes, disk_bytes, _]) = expected {
        let expected = Resources { cpu_millis, memory_bytes, disk_bytes };
        // A first measurement is taken as it is; a further one would be smoothed.
        fleet.set_measured(from, None);
        fleet.set_measured(from, Some(expected.saturating_sub(demand.resources)));
    }
}

/// What of a wish to spread means nothing here, because no node has a value for it: all nodes are then one
/// place, and tasks are put as if the wish were not there.
pub fn spread_over_nothing<'a>(fleet: &Fleet, spread: &'a [Spread]) -> Vec<&'a Attribute> {
    let wishes = spread.iter().map(|spread| &spread.attribute);
    wishes
        .filter(|attribute| {
            !fleet.is_empty() && fleet.nodes().all(|node| node.attribute(attribute).is_none())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{demand, join, join_as, join_with, name, resources};
    use longshore_proto::state::Eligibility;

    #[test]
    fn only_nodes_that_take_tasks_count_as_room() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 8));
        join_as(&mut fleet, "n2", resources(4, 8), NodeStatus::Ready, Eligibility::Draining);
        join_as(&mut fleet, "n3", resources(4, 8), NodeStatus::Lost, Eligibility::Open);
        assert_eq!(footing(&fleet, 4).cost, 0.0, "an empty fleet costs nothing");
        for node in ["n1", "n2", "n3"] {
            fleet.reserve(&name(node), &demand(2, 2));
        }
        let footing = footing(&fleet, 4);
        assert_eq!((footing.nodes, footing.free), (2, resources(2, 6)));
        // 16^0.5 - 1 for cpu, 16^0.25 - 1 for memory, and next to nothing for one of a thousand tasks.
        assert!((footing.cost - 8.0).abs() < 0.01, "{footing:?}");
    }

    #[test]
    fn a_wish_to_spread_over_what_no_node_has_is_found() {
        let mut fleet = Fleet::default();
        let wishes = ["label.rack", "label.row", "node.datacenter"]
            .map(|text| Spread::usual(text.parse().unwrap()));
        assert!(spread_over_nothing(&fleet, &wishes).is_empty(), "nothing is known yet");
        join(&mut fleet, "n1", resources(4, 8));
        join_with(&mut fleet, "n2", resources(4, 8), &[("rack", "r1")]);
        let unknown = spread_over_nothing(&fleet, &wishes);
        assert_eq!(unknown, [&wishes[1].attribute]);
    }
}
