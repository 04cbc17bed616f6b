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

/// How much is asked for, and how much time may be spent on it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// At most so many moves.
    pub moves_max: usize,
    /// How many times cheaper it must be elsewhere.
    pub gain: f64,
    /// How many kinds of tasks are looked at, those on the costliest nodes first.
    pub kinds_max: usize,
    /// How often it is looked for the best node for a task, in all: each costs about as much as placing one.
    pub looks_max: usize,
    /// How many of the costliest nodes are passed over: those that were looked at before, in vain.
    pub nodes_skipped: usize,
}

/// What a search has found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Moves that pay, in the order in which they were worked out.
    pub moves: Vec<Move>,
    /// How many nodes were looked at.
    pub nodes: usize,
    /// Whether these were the last ones.
    pub is_complete: bool,
}

/// Tasks alike on one node: looking at one of them is enough.
struct Kind<'a> {
    demand: Demand<'a>,
    node: NodeName,
    /// The next to go stands last.
    tasks: Vec<TaskId>,
}

/// Proposes moves. The fleet is worked on and left as it would be after them: hand in a copy. `tasks_on` gives the
/// tasks of a node that may be moved.
///
/// A task goes only where there is room for it while it still holds its present place, so that it can be
/// started there before it is stopped here. Nodes that are not open, or have no fresh measurement, are
/// neither left nor entered: what is wrong with them is not for this to mend.
///
/// What it costs to search is bounded by the bounds, but for one look at what each node costs.
pub fn plan<'a>(
    fleet: &mut Fleet,
    bounds: Bounds,
    tasks_on: impl FnMut(&NodeName) -> Vec<Movable<'a>>,
) -> Found {
    let (mut kinds, nodes, is_complete) = kinds_on_the_costliest(fleet, bounds, tasks_on);
    // The best of each kind, and how many moves had been made when it was worked out: one that stands first and is
    // of now is the best of all.
    let mut scheduler = Scheduler::default();
    let mut heap: BinaryHeap<Entry> = BinaryHeap::new();
    let mut looks = 0;
    for (index, kind) in kinds.iter().enumerate().take(bounds.looks_max) {
        looks += 1;
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
            take_out(fleet, &kind.node, &kind.demand);
            fleet.reserve(&best.to, &kind.demand);
            still_there.push((best.from.clone(), kind.demand));
            kind.tasks.pop();
            moves.push(best);
        }
        if looks == bounds.looks_max {
            break;
        }
        looks += 1;
        let again = best_move(&mut scheduler, fleet, &kinds[index], bounds.gain);
        heap.extend(again.map(|best| Entry { best, index, after: moves.len() }));
    }
    Found { moves, nodes, is_complete }
}

/// The kinds of tasks on the costliest nodes, as many as are looked at, how many nodes they are of, and whether there
/// are no more.
fn kinds_on_the_costliest<'a>(
    fleet: &Fleet,
    bounds: Bounds,
    mut tasks_on: impl FnMut(&NodeName) -> Vec<Movable<'a>>,
) -> (Vec<Kind<'a>>, usize, bool) {
    let base_log2 = fleet.base_log2();
    let counting = fleet.nodes().filter(|node| counts(node)).enumerate();
    let mut costliest: BinaryHeap<Costly<'_>> =
        counting.map(|(place, node)| Costly { cost: cost(node, base_log2), place, node }).collect();
    for _ in 0..bounds.nodes_skipped.min(costliest.len()) {
        costliest.pop();
    }
    let mut kinds: Vec<Kind<'a>> = Vec::new();
    let mut nodes = 0;
    while kinds.len() < bounds.kinds_max {
        let Some(Costly { node, .. }) = costliest.pop() else { break };
        nodes += 1;
        let mut known: BTreeMap<(Option<GroupId>, [u64; 3]), Kind<'a>> = BTreeMap::new();
        let mut alone = Vec::new();
        for Movable { task, demand } in tasks_on(&node.name) {
            let Resources { cpu_millis, memory_bytes, disk_bytes } = demand.resources;
            let key = (demand.kin, [cpu_millis, memory_bytes, disk_bytes]);
            let new = || Kind { demand, node: node.name.clone(), tasks: Vec::new() };
            if demand.kin.is_some() {
                known.entry(key).or_insert_with(new).tasks.push(task);
            } else {
                alone.push(Kind { tasks: vec![task], ..new() });
            }
        }
        let mut of_node: Vec<Kind<'a>> = known.into_values().chain(alone).collect();
        for kind in &mut of_node {
            kind.tasks.sort_unstable_by_key(|task| Reverse(*task));
        }
        of_node.sort_by(|one, other| one.tasks.cmp(&other.tasks));
        kinds.extend(of_node);
    }
    kinds.truncate(bounds.kinds_max);
    (kinds, nodes, costliest.is_empty())
}

/// A node by what it costs: the costliest is the greatest, and among equals the first by name.
struct Costly<'f> {
    cost: f64,
    place: usize,
    node: &'f Node,
}

impl Ord for Costly<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.cost.total_cmp(&other.cost).then_with(|| other.place.cmp(&self.place))
    }
}

impl PartialOrd for Costly<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Costly<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Costly<'_> {}

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
    let (task, demand, from) = (*kind.tasks.last()?, &kind.demand, &kind.node);
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

    const BOUNDS: Bounds =
        Bounds { moves_max: 10, gain: 2.0, kinds_max: 100, looks_max: 1000, nodes_skipped: 0 };

    /// Tasks by their node.
    type Tasks = Vec<(NodeName, Movable<'static>)>;

    /// Tasks of a core and 4 GiB on `n1`.
    fn crowd(fleet: &mut Fleet, tasks: u128) -> Tasks {
        let (from, demand) = (name("n1"), demand(1, 4));
        let one = |number| {
            fleet.reserve(&from, &demand);
            (from.clone(), Movable { task: task(number), demand })
        };
        (1..=tasks).map(one).collect()
    }

    fn plan(
        fleet: &mut Fleet,
        tasks: &[(NodeName, Movable<'static>)],
        bounds: Bounds,
    ) -> Vec<Move> {
        let on = |node: &NodeName| {
            tasks.iter().filter(|(on, _)| on == node).map(|(_, task)| *task).collect()
        };
        super::plan(fleet, bounds, on).moves
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
            for number in 9..=16 {
                fleet.reserve(&name("n2"), &demand(1, 4));
                tasks.push((name("n2"), Movable { task: task(number), demand: demand(1, 4) }));
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
        let big = Movable { task: task(99), demand: demand(6, 24) };
        fleet.reserve(&name("n1"), &big.demand);
        tasks.push((name("n1"), big));
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
            (n1, Movable { task: task(1), demand: demand(9, 9) }),
            (n2.clone(), Movable { task: task(2), demand: demand(5, 5) }),
            (n2, Movable { task: task(3), demand: demand(4, 4) }),
        ];
        for (node, Movable { demand, .. }) in &tasks {
            fleet.reserve(node, demand);
        }
        let held = fleet.clone();
        for one in plan(&mut fleet, &tasks, Bounds { gain: 1.1, ..BOUNDS }) {
            let demand = tasks.iter().find(|(_, task)| task.task == one.task).unwrap().1.demand;
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

    #[test]
    fn a_search_looks_at_no_more_than_it_may_and_the_next_goes_on_from_there() {
        let names: Vec<String> = (0..50).map(|number| format!("n{number:02}")).collect();
        let mut fleet = fleet(&names.iter().map(String::as_str).collect::<Vec<_>>());
        // The higher the number the costlier the node, and on each a task that is better off elsewhere.
        for (node, gib) in names.iter().zip(1..) {
            fleet.reserve(&name(node), &demand(1, gib));
            fleet.reserve(&name(node), &demand(1, 1));
        }
        let search = |bounds: Bounds| {
            let mut asked = Vec::new();
            let found = super::plan(&mut fleet.clone(), bounds, |node| {
                asked.push(node.to_string());
                let number = node.as_str()[1..].parse().unwrap();
                vec![Movable { task: task(number), demand: demand(1, 1) }]
            });
            assert_eq!(found.nodes, asked.len());
            assert_eq!(found.is_complete, bounds.nodes_skipped + asked.len() >= 50);
            (asked, found.moves.len())
        };
        let few = Bounds { kinds_max: 3, gain: 1.0, ..BOUNDS };
        assert_eq!(search(few).0, ["n49", "n48", "n47"]);
        assert_eq!(search(Bounds { nodes_skipped: 3, ..few }).0, ["n46", "n45", "n44"]);
        assert_eq!(search(Bounds { nodes_skipped: 50, ..few }).0, [""; 0]);
        // Of the three one look each finds a move, and a fourth is needed before a second can be made.
        let moves = |looks_max| search(Bounds { looks_max, ..few }).1;
        assert_eq!([0, 2, 3].map(moves), [0, 1, 1]);
        assert!(moves(10) > 1);
    }
}
