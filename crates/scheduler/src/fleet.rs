//! Capacity and commitments of every node: the truth that the stages judge by.
//!
//! The fleet is told facts (a node joined, a task was placed or ended, a heartbeat came) and never refuses
//! one. Its truth is integers. What is derived from them for speed is kept by [`crate::Scheduler`], which reads
//! here what has changed; any history that leads to the same integers leads to the same decisions.
//!
//! | module | what lives there |
//! |---|---|
//! | [`node`] | one machine |
//! | `lanes` | where each node stands in the arrays that are scanned |
//! | `groups` | tasks counted by node: of one spec, of one image |
//! | `journal` | which nodes changed, in order |
//! | `pieces` | lists that are copied at once |

mod groups;
mod journal;
pub(crate) mod lanes;
pub mod node;
mod pieces;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use longshore_proto::name::NodeName;
use longshore_proto::spec::Resources;

use crate::cost::guard::Census;
use crate::demand::Demand;
pub use groups::GroupId;
pub(crate) use groups::Groups;
use groups::Mixer;
use journal::Change;
pub(crate) use journal::{IMAGE, Journal, KIN};
pub(crate) use lanes::Lanes;
pub use node::{Machine, Node};
use pieces::Pieces;

/// The smallest base of the exponentials.
const BASE_MIN: usize = 16;

/// The base for a fleet of this many nodes, as the power of two that it is.
fn base_log2(nodes: usize) -> u32 {
    nodes.max(BASE_MIN).next_power_of_two().ilog2()
}

/// A node that is not of the fleet while tasks hold something of it.
#[derive(Debug, Clone, PartialEq)]
struct Absent {
    node: Node,
    groups: BTreeMap<GroupId, u32>,
}

/// The lane of each node.
#[derive(Debug, Clone, Default)]
struct Directory {
    /// By name, in order.
    in_order: BTreeMap<NodeName, u32>,
    /// The same to look up: tasks come and go by the name of their node.
    finder: HashMap<NodeName, u32, BuildHasherDefault<Mixer>>,
}

/// Every node, and what the tasks that were placed hold of each.
///
/// A copy is made to plan on, while those who decide wait for it: it shares with the fleet what neither has changed
/// since.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    directory: Arc<Directory>,
    /// By lane; `None` where nobody stands.
    nodes: Pieces<Option<Node>>,
    lanes: Lanes,
    groups: Groups,
    /// Nodes that are not of the fleet (gone, or not yet told of) while tasks hold something of them: were
    /// it forgotten, a node that comes back could be promised twice.
    absent: BTreeMap<NodeName, Absent>,
    journal: Journal,
    census: Census,
    /// Counts what a single change cannot tell: nodes that join, leave or say other things of themselves.
    generation: u64,
    /// How many nodes have no fresh measurement.
    stale: usize,
}

impl PartialEq for Fleet {
    /// Whether both would decide alike: where nodes stand and what changed when does not count.
    fn eq(&self, other: &Self) -> bool {
        self.nodes().eq(other.nodes())
            && self
                .absent
                .values()
                .map(|absent| &absent.node)
                .eq(other.absent.values().map(|absent| &absent.node))
    }
}

impl Fleet {
    /// A node joined or changed. What its tasks hold, and its measurement, stay as they are.
    pub fn upsert(&mut self, name: &NodeName, machine: &Machine<'_>) {
        let Some(lane) = self.lane(name) else { return self.join(name, machine) };
        let Some(node) = self.node_mut(lane) else { return };
        let before = node.capacity_amounts();
        let mut reshaped = node.tell(machine);
        let now = node.capacity_amounts();
        if before != now {
            reshaped |= self.lanes.change(lane, before, now);
        }
        self.generation += u64::from(reshaped);
        self.changed(lane, [None; 2], 0);
    }

    fn join(&mut self, name: &NodeName, machine: &Machine<'_>) {
        let known = self.absent.remove(name);
        let known =
            known.unwrap_or_else(|| Absent { node: Node::unheard(name), groups: BTreeMap::new() });
        let mut node = known.node;
        node.tell(machine);
        let (lane, _) = self.lanes.take(node.capacity_amounts());
        for (group, count) in known.groups {
            self.groups.add(group, lane, count);
        }
        self.stale += usize::from(!node.is_fresh());
        self.nodes.lengthen(self.lanes.len());
        if let Some(vacant) = self.nodes.get_mut(lane) {
            *vacant = Some(node);
        }
        let directory = Arc::make_mut(&mut self.directory);
        directory.in_order.insert(name.clone(), lane);
        directory.finder.insert(name.clone(), lane);
        self.generation += 1;
        self.changed(lane, [None; 2], 0);
    }

    /// A node is no longer of the fleet. What its tasks hold is remembered until they release it.
    pub fn remove(&mut self, name: &NodeName) {
        let Some(lane) = self.lane(name) else { return };
        let directory = Arc::make_mut(&mut self.directory);
        directory.in_order.remove(name);
        directory.finder.remove(name);
        let Some(mut node) = self.nodes.get_mut(lane).and_then(Option::take) else { return };
        self.stale -= usize::from(!node.is_fresh());
        self.lanes.give_back(lane, node.capacity_amounts());
        if node.tasks > 0 {
            node.forget_measured();
            let groups = self.groups.take_lane(lane);
            self.absent.insert(name.clone(), Absent { node, groups });
        }
        self.generation += 1;
        self.changed(lane, [None; 2], 0);
    }

    /// A heartbeat said what is in use on a node; `None` means that the last one is too old to go by.
    ///
    /// Heartbeats are smoothed (each counts for half of the figure, so that one spike does not move tasks
    /// about), and the cost function rounds to a 64th of the capacity, so that noise changes nothing. The
    /// first figure after none is taken as it is. A node that is not of the fleet is passed over. What is derived
    /// hears of it only where the rounded figure changes.
    pub fn set_measured(&mut self, name: &NodeName, measured: Option<Resources>) {
        let Some(lane) = self.lane(name) else { return };
        let Some(node) = self.node_mut(lane) else { return };
        let was_fresh = node.is_fresh();
        if node.measure(measured) {
            let is_fresh = node.is_fresh();
            self.stale = self.stale + usize::from(was_fresh) - usize::from(is_fresh);
            self.changed(lane, [None; 2], 0);
        }
    }

    /// A task was placed on a node. It is a fact and never refused, even where the node is not known.
    pub fn reserve(&mut self, name: &NodeName, demand: &Demand<'_>) {
        let Some(lane) = self.lane(name) else {
            self.census.add(demand.resources, 1);
            let absent = self
                .absent
                .entry(name.clone())
                .or_insert_with(|| Absent { node: Node::unheard(name), groups: BTreeMap::new() });
            absent.node.reserve(demand);
            for group in [demand.kin, demand.image].into_iter().flatten() {
                *absent.groups.entry(group).or_insert(0) += 1;
            }
            return;
        };
        self.reserve_on(lane, demand, 1);
    }

    /// So many tasks alike were placed on the node of a lane.
    pub(crate) fn reserve_on(&mut self, lane: u32, demand: &Demand<'_>, tasks: u32) {
        self.census.add(demand.resources, tasks);
        if let Some(node) = self.node_mut(lane) {
            (0..tasks).for_each(|_| node.reserve(demand));
        }
        let groups = [demand.kin, demand.image];
        for group in groups.into_iter().flatten() {
            self.groups.add(group, lane, tasks);
        }
        self.changed(lane, groups, i32::try_from(tasks).unwrap_or(i32::MAX));
    }

    /// A task that was placed on a node holds nothing any more. Takes back one [`Fleet::reserve`] of the
    /// same demand.
    pub fn release(&mut self, name: &NodeName, demand: &Demand<'_>) {
        self.census.subtract(demand.resources);
        let groups = [demand.kin, demand.image];
        let Some(lane) = self.lane(name) else {
            let Some(absent) = self.absent.get_mut(name) else { return };
            absent.node.release(demand);
            for group in groups.into_iter().flatten() {
                if let Entry::Occupied(mut held) = absent.groups.entry(group) {
                    *held.get_mut() -= 1;
                    if *held.get() == 0 {
                        held.remove();
                    }
                }
            }
            if absent.node.tasks == 0 {
                self.absent.remove(name);
            }
            return;
        };
        if let Some(node) = self.node_mut(lane) {
            node.release(demand);
        }
        for group in groups.into_iter().flatten() {
            self.groups.subtract(group, lane);
        }
        self.changed(lane, groups, -1);
    }

    /// How many groups of tasks are counted: those that have a task on a node of the fleet.
    pub fn groups_counted(&self) -> usize {
        self.groups.len()
    }

    /// The node of this name.
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.at(self.lane(name)?)
    }

    /// Every node, in the order of names.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = &Node> {
        self.directory.in_order.values().filter_map(|lane| self.at(*lane))
    }

    /// How many nodes there are, whatever their status.
    pub fn len(&self) -> usize {
        self.directory.in_order.len()
    }

    /// Whether there is no node at all.
    pub fn is_empty(&self) -> bool {
        self.directory.in_order.is_empty()
    }

    /// The base of the exponentials, as the power of two that it is: the next one of the number of nodes.
    /// There is no hysteresis on purpose: it follows from the nodes there are, not from how they came.
    pub fn base_log2(&self) -> u32 {
        base_log2(self.len())
    }

    /// The node on a lane.
    pub(crate) fn at(&self, lane: u32) -> Option<&Node> {
        self.nodes.get(lane)?.as_ref()
    }

    pub(crate) fn lane(&self, name: &NodeName) -> Option<u32> {
        self.directory.finder.get(name).copied()
    }

    fn node_mut(&mut self, lane: u32) -> Option<&mut Node> {
        self.nodes.get_mut(lane)?.as_mut()
    }

    /// Nodes by name from after the given one to the end, and then from the beginning.
    pub(crate) fn in_turn(&self, after: Option<&NodeName>) -> impl Iterator<Item = u32> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let in_order = &self.directory.in_order;
        let rest = in_order.range::<NodeName, _>((from, Unbounded));
        let again = after.map(|after| in_order.range::<NodeName, _>(..=after));
        rest.chain(again.into_iter().flatten()).map(|(_, lane)| *lane)
    }

    pub(crate) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    pub(crate) fn groups(&self) -> &Groups {
        &self.groups
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(crate) fn census(&self) -> &Census {
        &self.census
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether some node has no fresh measurement.
    pub(crate) fn has_stale(&self) -> bool {
        self.stale > 0
    }

    fn changed(&mut self, lane: u32, groups: [Option<GroupId>; 2], by: i32) {
        self.journal.push(Change { lane, groups, by }, self.lanes.len());
    }
}
#[cfg(test)]
mod tests {
    use longshore_proto::spec::Protocol;

    use super::node::permuted;
    use super::*;
    use crate::demand::AMOUNT_MAX;
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
    fn what_costs_are_judged_by_grows_as_the_node_does() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 4));
        let absurd = Resources {
            cpu_millis: u64::MAX,
            memory_bytes: AMOUNT_MAX - 3,
            disk_bytes: u64::MAX / 3,
        };
        for measured in [None, Some(resources(1, 1)), Some(absurd)] {
            fleet.set_measured(&name("n1"), measured);
            for demand in [demand(1, 2), Demand::of_resources(absurd), demand(0, 0)] {
                let mut load = fleet.node(&name("n1")).unwrap().load();
                load.add(&demand.amounts());
                fleet.reserve(&name("n1"), &demand);
                assert_eq!(fleet.node(&name("n1")).unwrap().load(), load);
            }
        }
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
    fn a_heartbeat_that_says_what_is_known_changes_nothing_that_is_derived() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(64, 64));
        fleet.set_measured(&name("n1"), Some(resources(8, 8)));
        let is_heard = |fleet: &mut Fleet, millis: u64| {
            let before = fleet.journal.end();
            let figure = Resources { cpu_millis: millis, ..resources(0, 8) };
            fleet.set_measured(&name("n1"), Some(figure));
            fleet.journal.end() > before
        };
        assert!(!is_heard(&mut fleet, 8_000) && !is_heard(&mut fleet, 8_300));
        assert_eq!(fleet.node(&name("n1")).unwrap().measured.unwrap().cpu_millis, 8_150);
        assert!(is_heard(&mut fleet, 9_000), "8.575 cores are nearer to nine 64ths");
        fleet.reserve(&name("n1"), &demand(1, 1));
        assert!(is_heard(&mut fleet, 8_575), "what was promised counts as in use until now");
        fleet.set_measured(&name("n1"), None);
        assert!(is_heard(&mut fleet, 8_575), "it was not known");
    }

    #[test]
    fn the_order_of_ties_is_fixed_and_not_that_of_names() {
        let mut names: Vec<NodeName> = (0..8).map(|i| name(&format!("n{i}"))).collect();
        names.sort_by_key(permuted);
        let order: Vec<&str> = names.iter().map(NodeName::as_str).collect();
        assert_eq!(order, ["n0", "n5", "n7", "n3", "n4", "n6", "n2", "n1"]);
    }
}
