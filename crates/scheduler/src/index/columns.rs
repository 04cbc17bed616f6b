//! The figures of every node that scans read, in blocks of 64, so that one resource of 64 nodes lies together.

use crate::cost::{Model, Row};
use crate::demand::{Amounts, DIMENSIONS};
use crate::filter::{self, Verdict};
use crate::fleet::Fleet;
use crate::fleet::lanes::BLOCK;

/// One figure of each node of a block.
pub(crate) type Lane64 = [f64; BLOCK];

/// The figures of one node, close together for whoever looks at it alone.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Figures {
    /// What costs are made of, by what is used.
    pub(crate) live: [f64; DIMENSIONS],
    /// What is free.
    pub(crate) free: [f64; DIMENSIONS],
    /// What costs are made of, by what is committed alone.
    pub(crate) committed: [f64; DIMENSIONS],
    pub(crate) tie: u64,
    /// The class of its capacity.
    pub(crate) class: u32,
    /// What stands in the way of every task: its status and eligibility, or that there is no node.
    pub(crate) standing: Verdict,
    /// Whether it has no fresh measurement.
    pub(crate) is_stale: bool,
}

impl Figures {
    fn vacant() -> Self {
        let nothing = [0.0; DIMENSIONS];
        Self {
            live: nothing,
            // Nobody's room is never too little: only nodes are judged by it.
            free: [f64::INFINITY; DIMENSIONS],
            committed: nothing,
            tie: u64::MAX,
            class: 0,
            standing: Verdict::VACANT,
            is_stale: false,
        }
    }

    fn of(fleet: &Fleet, lane: u32, model: Option<&dyn Model>) -> Self {
        let Some(node) = fleet.at(lane) else { return Self::vacant() };
        let Row { live, committed } =
            model.map_or_else(Row::default, |model| model.row(node, fleet.base_log2()));
        Self {
            live,
            free: node.free_amounts(),
            committed,
            tie: node.tie(),
            class: fleet.lanes().class(lane as usize),
            standing: filter::standing(node).map_or(Verdict::FEASIBLE, Verdict::of),
            is_stale: !node.is_fresh(),
        }
    }
}

/// The figures of the nodes of one block, each kind together for whoever scans.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// What costs are made of, by what is used.
    pub(crate) live: [Lane64; DIMENSIONS],
    /// What is free.
    pub(crate) free: [Lane64; DIMENSIONS],
    /// The least that is free of each dimension: while it suffices, nobody's need be read.
    pub(crate) free_least: [f64; DIMENSIONS],
    /// What stands in the way of every task.
    pub(crate) standing: [u8; BLOCK],
    /// Which nodes nothing of that stands in the way of, as bits.
    pub(crate) open: u64,
    /// Which nodes have no fresh measurement, as bits.
    pub(crate) stale: u64,
    /// On which nodes more is measured than was committed, as bits.
    pub(crate) measured: u64,
    pub(crate) tie: [u64; BLOCK],
}

impl Block {
    fn vacant() -> Self {
        Self {
            live: [[0.0; BLOCK]; DIMENSIONS],
            free: [[f64::INFINITY; BLOCK]; DIMENSIONS],
            free_least: [f64::INFINITY; DIMENSIONS],
            standing: [Verdict::VACANT.0; BLOCK],
            open: 0,
            stale: 0,
            measured: 0,
            tie: [u64::MAX; BLOCK],
        }
    }

    fn set(&mut self, bit: usize, figures: &Figures) {
        let set = |bits: &mut u64, is: bool| *bits = *bits & !(1 << bit) | u64::from(is) << bit;
        set(&mut self.open, figures.standing == Verdict::FEASIBLE);
        set(&mut self.stale, figures.is_stale);
        set(&mut self.measured, figures.live != figures.committed);
        self.tie[bit] = figures.tie;
        self.standing[bit] = figures.standing.0;
        for r in 0..DIMENSIONS {
            self.live[r][bit] = figures.live[r];
            let before = std::mem::replace(&mut self.free[r][bit], figures.free[r]);
            let least = &mut self.free_least[r];
            if figures.free[r] <= *least {
                *least = figures.free[r];
            } else if before <= *least {
                *least = self.free[r].iter().copied().fold(f64::INFINITY, f64::min);
            }
        }
    }
}

/// The figures of every node.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    blocks: Vec<Block>,
    nodes: Vec<Figures>,
    /// Up to where the fleet's journal was read.
    read: u64,
    base_log2: u32,
}

impl Columns {
    pub(crate) fn block(&self, block: usize) -> &Block {
        &self.blocks[block]
    }

    pub(crate) fn node(&self, lane: usize) -> &Figures {
        &self.nodes[lane]
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Computes anew what has changed.
    pub(crate) fn catch_up(&mut self, fleet: &Fleet, model: Option<&dyn Model>) {
        let end = fleet.journal().end();
        if self.read == end && self.base_log2 == fleet.base_log2() {
            return;
        }
        let lanes = fleet.lanes().len();
        if self.nodes.len() < lanes {
            self.blocks.resize_with(lanes / BLOCK, Block::vacant);
            self.nodes.resize_with(lanes, Figures::vacant);
        }
        let changes =
            fleet.journal().since(self.read).filter(|_| self.base_log2 == fleet.base_log2());
        self.base_log2 = fleet.base_log2();
        match changes {
            Some(changes) => changes.for_each(|change| self.refresh(fleet, change.lane, model)),
            None => (0..lanes).zip(0..).for_each(|(_, lane)| self.refresh(fleet, lane, model)),
        }
        self.read = end;
    }

    fn refresh(&mut self, fleet: &Fleet, lane: u32, model: Option<&dyn Model>) {
        let at = lane as usize;
        let figures = Figures::of(fleet, lane, model);
        self.blocks[at / BLOCK].set(at % BLOCK, &figures);
        self.nodes[at] = figures;
    }
}

/// The factors of a demand on nodes of each class.
pub(crate) fn factors(
    fleet: &Fleet,
    model: Option<&dyn Model>,
    demand: &Amounts,
) -> Vec<[f64; DIMENSIONS]> {
    let base_log2 = fleet.base_log2();
    let of_class = |capacity: &Amounts| {
        model.map_or([0.0; DIMENSIONS], |model| model.factors(capacity, demand, base_log2))
    };
    fleet.lanes().capacities().iter().map(of_class).collect()
}
