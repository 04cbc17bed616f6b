//! Stage 2, score: what it costs to put a task on a node, by each policy that knows a cost.
//!
//! Every policy here is a [`Model`]: what a node's cost is made of before the task (a [`Row`], kept for each
//! node and computed anew at each change) times what the task does to it (factors, the same for all nodes of one
//! capacity). A score is then four multiplications and three additions, whatever the policy:
//!
//! ```text
//! cost(task, node) = sum over r of  row_r(node) * factor_r(task, capacity of the node)
//! ```
//!
//! Preferences (affinities, anti-affinity, the image) are counted in **points**: 100 points are worth one whole
//! node of load. They multiply the cost by `base^(points / 100)`, so that 30 points against a node are
//! made up for by 30 % less load, whatever the size of the task and of the fleet.
//!
//! | module | what lives there |
//! |---|---|
//! | [`epvm`] | least rise of opportunity cost |
//! | [`level`] | `spread`, `binpack` and the book's `lieb` |
//! | [`guard`] | how many future tasks a placement leaves without room |
//! | [`points`] | preferences |

pub(crate) mod epvm;
pub(crate) mod guard;
pub(crate) mod level;
pub(crate) mod points;

use std::cmp::Ordering;

use longshore_proto::spec::SchedulerKind;

use crate::demand::{AMOUNT_MAX, Amounts, DIMENSIONS};
use crate::explain::CostTerms;

/// By how much the cost of a node is multiplied that has no fresh measurement.
pub(crate) const STALE_FACTOR: f64 = 2.0;

/// The largest base there can be, as the power of two that it is: a lane is a number of 32 bits.
pub(crate) const BASE_LOG2_MAX: usize = 32;

/// What a node has and holds, as costs are judged by it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    pub(crate) capacity: Amounts,
    pub(crate) committed: Amounts,
    /// What will be in use as far as is known: what is measured and what was promised since.
    pub(crate) expected: Amounts,
    /// Whether what is measured is known.
    pub(crate) is_fresh: bool,
}

impl Load {
    /// What is free of each dimension; below zero where more is promised than there is. Exact as floating
    /// point, because no figure passes [`AMOUNT_MAX`].
    pub(crate) fn free(&self) -> [f64; DIMENSIONS] {
        let exact = |figure: u64| {
            debug_assert!(figure <= AMOUNT_MAX, "clamped when it was read");
            figure as f64
        };
        std::array::from_fn(|r| exact(self.capacity[r]) - exact(self.committed[r]))
    }

    /// Takes one more task, as the node does that it is of.
    pub(crate) fn add(&mut self, wanted: &Amounts) {
        let add = |held: &mut u64, wanted: u64| *held = (*held + wanted).min(AMOUNT_MAX);
        let [resources @ .., _] = self.expected.as_mut_slice() else { return };
        if self.is_fresh {
            // Places for tasks are promised and not measured.
            resources.iter_mut().zip(wanted).for_each(|(held, wanted)| add(held, *wanted));
        }
        self.committed.iter_mut().zip(wanted).for_each(|(held, wanted)| add(held, *wanted));
    }
}

/// What of a node's cost no task changes, by dimension.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Row {
    /// By the larger of what is committed and what is measured.
    pub(crate) live: [f64; DIMENSIONS],
    /// By what is committed alone.
    pub(crate) committed: [f64; DIMENSIONS],
}

/// A policy as a cost. Costs are never negative.
pub(crate) trait Model: std::fmt::Debug + Sync {
    /// What of a node's cost no task changes.
    fn row(&self, load: &Load, base_log2: u32) -> Row;

    /// What a task does to it, on nodes of one capacity.
    fn factors(&self, capacity: &Amounts, demand: &Amounts, base_log2: u32) -> [f64; DIMENSIONS];
}

/// The model of a policy; round-robin has none.
pub(crate) fn model(kind: SchedulerKind) -> Option<&'static dyn Model> {
    match kind {
        SchedulerKind::Epvm | SchedulerKind::EpvmGuard => Some(&epvm::Epvm),
        SchedulerKind::Spread => Some(&level::Spread),
        SchedulerKind::Binpack => Some(&level::Binpack),
        SchedulerKind::Lieb => Some(&level::Lieb),
        SchedulerKind::RoundRobin => None,
    }
}

/// A sum in the one order in which costs are added up.
pub(crate) fn dot(row: &[f64; DIMENSIONS], factors: &[f64; DIMENSIONS]) -> f64 {
    ((row[0] * factors[0] + row[1] * factors[1]) + row[2] * factors[2]) + row[3] * factors[3]
}

/// The part of a capacity. None of nothing is nothing: such a dimension never adds to a cost.
pub(crate) fn share(amount: u64, capacity: u64) -> f64 {
    if capacity == 0 { 0.0 } else { amount as f64 / capacity as f64 }
}

/// What each part of a cost is, for people. `weight` is what the points make of it.
pub(crate) fn terms(
    row: &[f64; DIMENSIONS],
    factors: &[f64; DIMENSIONS],
    is_fresh: bool,
    weight: f64,
) -> CostTerms {
    let mut terms = CostTerms {
        cpu: row[0] * factors[0],
        memory: row[1] * factors[1],
        disk: row[2] * factors[2],
        tasks: row[3] * factors[3],
        stale_penalty: 0.0,
        preference: weight,
    };
    if !is_fresh {
        terms.stale_penalty = (STALE_FACTOR - 1.0) * dot(row, factors);
    }
    terms
}

/// Where a candidate stands among the others: less is better, by each figure in turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Key {
    /// What decides. Infinite for a node that cannot take the task.
    pub(crate) first: f64,
    /// What decides among equals.
    pub(crate) second: f64,
    /// The fixed order that breaks ties.
    pub(crate) tie: u64,
    /// The node's lane; only two nodes of one tie, which do not come up, are told apart by it.
    pub(crate) lane: u32,
}

impl Key {
    /// Nobody.
    pub(crate) const NONE: Self =
        Self { first: f64::INFINITY, second: f64::INFINITY, tie: u64::MAX, lane: u32::MAX };

    /// Nobody in particular, who stands there or behind.
    pub(crate) fn as_bound(&self) -> Self {
        Self { lane: u32::MAX, ..*self }
    }

    /// Whether it stands for a node at all.
    pub(crate) fn is_some(&self) -> bool {
        self.lane != u32::MAX
    }

    /// Which of the two is picked first.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        // Costs are never NaN nor negative, so the plain comparison is a total one, and a fast one.
        if self.first < other.first {
            return Ordering::Less;
        }
        if self.first > other.first {
            return Ordering::Greater;
        }
        (self.second.total_cmp(&other.second))
            .then_with(|| self.tie.cmp(&other.tie))
            .then_with(|| self.lane.cmp(&other.lane))
    }

    /// Whether this one is picked before the other.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        self.order(other).is_lt()
    }
}

/// A candidate's place once it is known how crowded its part of the fleet is (see [`crate::demand::Demand::spread`]).
///
/// Within one part all costs are multiplied alike, so the order of keys holds there; between parts the product
/// decides, and keys only where products are equal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rank {
    pub(crate) first: f64,
    second: f64,
    pub(crate) key: Key,
}

impl Rank {
    /// Nobody's.
    pub(crate) const NONE: Self = Self { first: f64::INFINITY, second: 0.0, key: Key::NONE };

    /// The rank of a key in a part of the fleet whose costs are multiplied by `apart`.
    pub(crate) fn new(kind: SchedulerKind, key: Key, apart: f64) -> Self {
        match kind {
            SchedulerKind::EpvmGuard => Self { first: key.first, second: key.second * apart, key },
            _ => Self { first: key.first * apart, second: 0.0, key },
        }
    }

    /// Whether this one is picked before the other.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        // As with keys: most often this tells.
        if self.first < other.first {
            return Ordering::Less;
        }
        if self.first > other.first {
            return Ordering::Greater;
        }
        (self.first.total_cmp(&other.first))
            .then_with(|| self.second.total_cmp(&other.second))
            .then_with(|| self.key.order(&other.key))
    }
}
