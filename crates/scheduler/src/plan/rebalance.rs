//! Rebalancing: which tasks would be better off elsewhere, so much that moving them pays.
//!
//! The rule is the paper's (Amir et al., IEEE TPDS 11(7), 2000; jobs whose length is not known): move a task when
//! it would cost less than half elsewhere of what it costs where it is. Half is the default, and the cost of
//! moving: `gain` says how many times cheaper it must be. Costs are those of E-PVM with the task's own
//! preferences; that of the present node is what it would be to put the task there if it were nowhere.
//!
//! Moves are proposed greedily, the largest saving first, each on the fleet as it is after those before it.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

use longshore_proto::id::TaskId;
use longshore_proto::name::NodeName;
use longshore_proto::spec::{Resources, SchedulerKind};

use super::{cost, take_out};
use crate::demand::Demand;
use crate::filter;
use crate::fleet::{Fleet, GroupId, Node};
use crate::{Policy, Scheduler, plain};

/// A task that may be moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Movable<'a> {
    /// The task.
    pub task: TaskId,
    /// Where it is.
    pub node: &'a NodeName,
    /// What it wants of a node.
    pub demand: Demand<'a>,
}

/// A move that pays.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    /// The task.
    pub task: TaskId,
    /// Where it is.
    pub from: NodeName,
    /// Where it would go.
    pub to: NodeName,
    /// What it costs where it is.
    pub cost_here: f64,
    /// What it would cost there.
    pub cost_there: f64,
}

impl Move {
    /// What is saved.
    pub fn saving(&self) -> f64 {
        self.cost_here - self.cost_there
    }
}

/// How much is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// At most so many moves.
    pub moves_max: usize,
    /// How many times cheaper it must be elsewhere.
    pub gain: f64,
    /// How many kinds of tasks are looked at, those on the costliest nodes first.
    pub kinds_max: usize,
}

/// Tasks alike on one node: looking at one of them is enough.
struct Kind<'a> {
    demand: Demand<'a>,
    node: &'a NodeName,
    /// The next to go stands last.
    tasks: Vec<TaskId>,
}

/// Proposes moves. The fleet is worked on and left as it would be after them: hand in a copy.
///
/// A task goes only where there is room for it while it still holds its present place, so that it can be
/// started there before it is stopped here. Nodes that are not open, or have no fresh measurement, are
/// neither left nor entered: what is wrong with them is not for this to mend.
pub fn plan(fleet: &mut Fleet, tasks: &[Movable<'_>], bounds: Bounds) -> Vec<Move> {
    let base_log2 = fleet.base_log2();
    let mut costs: BTreeMap<&NodeName, f64> = BTreeMap::new();
    let mut kinds: Vec<Kind<'_>> = Vec::new();
    let mut known: BTreeMap<(&NodeName, Option<GroupId>, [u64; 3]), usize> = BTreeMap::new();
    for Movable { task, node, demand } in tasks {
        let Some(on) = fleet.node(node).filter(|node| counts(node)) else { continue };
        costs.entry(node).or_insert_with(|| cost(on, base_log2));
        let Resources { cpu_millis, memory_bytes, disk_bytes } = demand.resources;
        let key = (*node, demand.kin, [cpu_millis, memory_bytes, disk_bytes]);
        match known.get(&key).filter(|_| demand.kin.is_some()) {
            Some(&kind) => kinds[kind].tasks.push(*task),
            None => {
                known.insert(key, kinds.len());
                kinds.push(Kind { demand: *demand, node, tasks: vec![*task] });
            }
        }
    }
    for kind in &mut kinds {
        kind.tasks.sort_unstable_by_key(|task| Reverse(*task));
    }
    let costliness = |kind: &Kind<'_>| costs.get(kind.node).copied().unwrap_or(0.0);
    kinds.sort_by(|one, other| {
        costliness(other).total_cmp(&costliness(one)).then_with(|| one.tasks.cmp(&other.tasks))
    });
    kinds.truncate(bounds.kinds_max);

    // The best of each kind, and how many moves had been made when it was worked out: one that stands first and is
    // of now is the best of all.
    let mut scheduler = Scheduler::default();
    let mut heap: BinaryHeap<Entry> = BinaryHeap::new();
    for (index, kind) in kinds.iter().enumerate() {
        let best = best_move(&mut scheduler, fleet, kind, bounds.gain);
        heap.extend(best.map(|best| Entry { best, index, after: 0 }));
    }
    let mut moves: Vec<Move> = Vec::new();
    let mut still_there: Vec<(NodeName, Demand<'_>)> = Vec::new();
    while moves.len() < bounds.moves_max {
        let Some(Entry { best, index, after }) = heap.pop() else { break };
        if after == moves.len() {
            let kind = &mut kinds[index];
            if !has_room(fleet, &best.to, &kind.demand, &still_there) {
                continue;
            }
            take_out(fleet, kind.node, &kind.demand);
            fleet.reserve(&best.to, &kind.demand);
            still_there.push((best.from.clone(), kind.demand));
            kind.tasks.pop();
            moves.push(best);
        }
        let again = best_move(&mut scheduler, fleet, &kinds[index], bounds.gain);
        heap.extend(again.map(|best| Entry { best, index, after: moves.len() }));
    }
    moves
}

/// Whether a node is one that rebalancing may touch.
fn counts(node: &Node) -> bool {
    filter::standing(node).is_none() && node.is_fresh()
}

/// The best move of one task of a kind, if any pays.
fn best_move(
    scheduler: &mut Scheduler,
    fleet: &mut Fleet,
    kind: &Kind<'_>,
    gain: f64,
) -> Option<Move> {
    let (task, demand, from) = (*kind.tasks.last()?, &kind.demand, kind.node);
    take_out(fleet, from, demand);
    let found = elsewhere(scheduler, fleet, demand, from);
    fleet.reserve(from, demand);
    let (to, cost_here, cost_there) = found?;
    let pays = cost_here > cost_there && cost_here >= gain * cost_there;
    pays.then(|| Move { task, from: from.clone(), to, cost_here, cost_there })
}

/// The best node for a task that was taken out, unless that is the one it was on: what it costs on either.
fn elsewhere(
    scheduler: &mut Scheduler,
    fleet: &Fleet,
    demand: &Demand<'_>,
    from: &NodeName,
) -> Option<(NodeName, f64, f64)> {
    let to = scheduler.pick(fleet, demand, Policy::Epvm)?;
    if to.name == *from || !counts(to) {
        return None;
    }
    // The two alone, so that what they have in common does not count.
    let pair = [fleet.node(from)?, to].map(|node| Some((fleet.lane(&node.name)?, node)));
    let pair: Vec<(u32, &Node)> = pair.into_iter().flatten().collect();
    let costs = plain::score(fleet, &pair, demand, SchedulerKind::Epvm);
    let [here, there] = costs.as_slice() else { return None };
    Some((to.name.clone(), here.cost(), there.cost()))
}

/// Whether a node has room while the tasks that are to leave it are still there.
fn has_room(
    fleet: &mut Fleet,
    node: &NodeName,
    demand: &Demand<'_>,
    still_there: &[(NodeName, Demand<'_>)],
) -> bool {
    let here: Vec<&Demand<'_>> =
        still_there.iter().filter(|(on, _)| on == node).map(|(_, held)| held).collect();
    for held in &here {
        fleet.reserve(node, held);
    }
    let refused = fleet.node(node).and_then(|node| filter::reason_against(fleet, node, demand));
    for held in &here {
        fleet.release(node, held);
    }
    refused.is_none()
}

/// A move that is thought of.
struct Entry {
    best: Move,
    index: usize,
    after: usize,
}

impl Ord for Entry {
    /// The largest saving is the greatest, and among equals the oldest task.
    fn cmp(&self, other: &Self) -> Ordering {
        (self.best.saving().total_cmp(&other.best.saving()))
            .then_with(|| other.best.task.cmp(&self.best.task))
            .then_with(|| other.index.cmp(&self.index))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{demand, join, name, resources, task};

    fn fleet(nodes: &[&str]) -> Fleet {
        let mut fleet = Fleet::default();
        for node in nodes {
            join(&mut fleet, node, resources(16, 64));
            fleet.set_measured(&name(node), Some(Resources::ZERO));
        }
        fleet
    }

    const BOUNDS: Bounds = Bounds { moves_max: 10, gain: 2.0, kinds_max: 100 };

    /// Tasks of a core and 4 GiB on `n1`.
    fn crowd(fleet: &mut Fleet, tasks: u128) -> Vec<Movable<'static>> {
        let from: &'static NodeName = Box::leak(Box::new(name("n1")));
        let demand = demand(1, 4);
        let one = |number| {
            fleet.reserve(from, &demand);
            Movable { task: task(number), node: from, demand }
        };
        (1..=tasks).map(one).collect()
    }

    #[test]
    fn a_crowded_node_is_relieved_until_moving_no_longer_pays() {
        let mut fleet = fleet(&["n1", "n2"]);
        let tasks = crowd(&mut fleet, 12);
        let before = super::super::footing(&fleet, 4).cost;
        let moves = plan(&mut fleet, &tasks, BOUNDS);
        // Base 16: half the cost is a quarter of a node less load.
        assert_eq!(moves.len(), 4, "{moves:#?}");
        assert!(moves.iter().all(|one| one.to == name("n2")));
        assert!(moves.is_sorted_by(|one, other| one.saving() >= other.saving()));
        for one in &moves {
            assert!(one.cost_here >= 2.0 * one.cost_there, "{one:?}");
        }
        let after = super::super::footing(&fleet, 4).cost;
        assert!(after < before * 0.6, "{before} to {after}");
        assert_eq!(plan(&mut fleet, &[], BOUNDS), []);
    }

    #[test]
    fn nothing_is_moved_between_nodes_alike_however_busy_they_are() {
        for measured in [0, 8, 16] {
            let mut fleet = fleet(&["n1", "n2"]);
            let mut tasks = crowd(&mut fleet, 8);
            let other: &'static NodeName = Box::leak(Box::new(name("n2")));
            for number in 9..=16 {
                fleet.reserve(other, &demand(1, 4));
                tasks.push(Movable { task: task(number), node: other, demand: demand(1, 4) });
            }
            for node in ["n1", "n2"] {
                for _ in 0..4 {
                    fleet.set_measured(&name(node), Some(resources(measured, 0)));
                }
            }
            let gain = Bounds { gain: 1.05, ..BOUNDS };
            assert_eq!(plan(&mut fleet, &tasks, gain), [], "{measured} cores busy");
        }
    }

    #[test]
    fn the_most_a_call_may_move_is_kept_and_the_dearest_goes_first() {
        let mut fleet = fleet(&["n1", "n2", "n3"]);
        let mut tasks = crowd(&mut fleet, 8);
        let big = Movable { task: task(99), demand: demand(6, 24), ..tasks[0] };
        fleet.reserve(big.node, &big.demand);
        tasks.push(big);
        let moves = plan(&mut fleet, &tasks, Bounds { moves_max: 1, ..BOUNDS });
        assert_eq!(moves.iter().map(|one| one.task).collect::<Vec<_>>(), [task(99)]);
    }

    #[test]
    fn room_that_is_only_made_by_a_move_is_not_used_by_the_next() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(10, 64));
        join(&mut fleet, "n2", resources(10, 64));
        join(&mut fleet, "n3", resources(40, 256));
        for node in ["n1", "n2", "n3"] {
            fleet.set_measured(&name(node), Some(Resources::ZERO));
        }
        let (n1, n2) = (name("n1"), name("n2"));
        let tasks = [
            Movable { task: task(1), node: &n1, demand: demand(9, 9) },
            Movable { task: task(2), node: &n2, demand: demand(5, 5) },
            Movable { task: task(3), node: &n2, demand: demand(4, 4) },
        ];
        for Movable { node, demand, .. } in &tasks {
            fleet.reserve(node, demand);
        }
        let held = fleet.clone();
        for one in plan(&mut fleet, &tasks, Bounds { gain: 1.1, ..BOUNDS }) {
            let demand = tasks.iter().find(|task| task.task == one.task).unwrap().demand;
            let node = held.node(&one.to).unwrap();
            assert_eq!(filter::reason_against(&held, node, &demand), None, "{one:?}");
        }
    }

    #[test]
    fn nodes_that_are_closed_or_not_measured_are_left_alone() {
        let mut fleet = fleet(&["n1", "n2"]);
        let tasks = crowd(&mut fleet, 12);
        fleet.set_measured(&name("n2"), None);
        assert_eq!(plan(&mut fleet.clone(), &tasks, BOUNDS), []);
        fleet.set_measured(&name("n2"), Some(Resources::ZERO));
        fleet.set_measured(&name("n1"), None);
        assert_eq!(plan(&mut fleet, &tasks, BOUNDS), []);
    }
}
