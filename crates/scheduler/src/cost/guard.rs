//! The fragmentation guard: how many future tasks a placement leaves without room.
//!
//! E-PVM spreads, and so leaves every node with a little room, in which large tasks find none (Borg, EuroSys
//! 2015, section 3.2). The guard asks first how many copies of the commonest tasks of this cluster the node
//! could take before and after, weighted by how common and how large they are, and leaves only what is left
//! alike to E-PVM. The idea is that of Weng et al., *Beware of Fragmentation* (USENIX ATC 2023).

use std::collections::BTreeMap;

use longshore_proto::spec::Resources;

use crate::demand::{Amounts, DIMENSIONS, amounts};
use crate::fleet::{Fleet, Node};

/// How many of the commonest kinds of tasks are looked at.
const KINDS_MAX: usize = 32;
/// Losses are told apart in steps of this part of what a node could lose at all.
const STEPS: f64 = 64.0;

/// The commonest kinds of tasks, and how much each weighs.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Popular {
    kinds: Vec<(Amounts, f64)>,
}

/// How many tasks there are of each size. Kept by the fleet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Census {
    counts: BTreeMap<[u64; 3], u64>,
    /// Rises when a kind becomes so much commoner or rarer that [`Popular`] may differ.
    generation: u64,
}

impl Census {
    pub(crate) fn add(&mut self, resources: Resources, tasks: u32) {
        let count = self.counts.entry(key(resources)).or_insert(0);
        let before = count.checked_ilog2();
        *count += u64::from(tasks);
        self.generation += u64::from(count.checked_ilog2() != before);
    }

    pub(crate) fn subtract(&mut self, resources: Resources) {
        let key = key(resources);
        let Some(count) = self.counts.get_mut(&key) else { return };
        self.generation += u64::from(count.is_power_of_two());
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&key);
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
}

fn key(resources: Resources) -> [u64; 3] {
    [resources.cpu_millis, resources.memory_bytes, resources.disk_bytes]
}

impl Popular {
    /// The commonest kinds. How common a kind is counts by powers of two, so that this seldom changes.
    pub(crate) fn of(fleet: &Fleet) -> Self {
        let most = largest(fleet);
        let weigh = |(kind, count): (&[u64; 3], &u64)| {
            let [cpu_millis, memory_bytes, disk_bytes] = *kind;
            let wanted = amounts(Resources { cpu_millis, memory_bytes, disk_bytes }, 1);
            let share = |r: usize| crate::cost::share(wanted[r], most[r]);
            let size = (0..DIMENSIONS).map(share).fold(0.0, f64::max);
            let common = 2_f64.powi(i32::try_from(count.ilog2()).unwrap_or(i32::MAX));
            (wanted, size * common)
        };
        let mut kinds: Vec<(Amounts, f64)> = fleet.census().counts.iter().map(weigh).collect();
        kinds.sort_by(|(one, one_weight), (other, other_weight)| {
            other_weight.total_cmp(one_weight).then_with(|| one.cmp(other))
        });
        kinds.truncate(KINDS_MAX);
        Self { kinds }
    }

    /// What of the room for the commonest tasks is lost when a node takes a task, in whole steps.
    pub(crate) fn lost(&self, node: &Node, demand: &Amounts) -> f64 {
        self.lost_of(node.free_amounts(), demand)
    }

    /// The same, of what is free.
    pub(crate) fn lost_of(&self, free: [f64; DIMENSIONS], demand: &Amounts) -> f64 {
        let left: [f64; DIMENSIONS] = std::array::from_fn(|r| free[r] - demand[r] as f64);
        let (mut lost, mut whole) = (0.0, 0.0);
        for (wanted, weight) in &self.kinds {
            let (before, after) = (copies(free, wanted), copies(left, wanted));
            lost += weight * (before - after);
            whole += weight;
        }
        if whole == 0.0 { 0.0 } else { (lost / whole * STEPS).floor() }
    }
}

/// How many tasks of a kind fit.
fn copies(free: [f64; DIMENSIONS], wanted: &Amounts) -> f64 {
    let mut least = f64::INFINITY;
    for r in 0..DIMENSIONS {
        if wanted[r] > 0 {
            least = least.min((free[r] / wanted[r] as f64).floor());
        }
    }
    least.max(0.0)
}

/// The largest capacity of the fleet in each dimension: what sizes are told by.
fn largest(fleet: &Fleet) -> Amounts {
    let mut most = [0; DIMENSIONS];
    for node in fleet.nodes() {
        let capacity = node.capacity_amounts();
        for r in 0..DIMENSIONS {
            most[r] = most[r].max(capacity[r]);
        }
    }
    most
}
