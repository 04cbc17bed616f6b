//! The figures of every node that scans read, in blocks of 64, so that one resource of 64 nodes lies together.

use crate::cost::{Model, Row};
use crate::demand::{Amounts, DIMENSIONS};
use crate::filter::{self, Verdict};
use crate::fleet::Fleet;
use crate::fleet::lanes::BLOCK;

/// One figure of each node of a block.
pub(crate) type Lane64 = [f64; BLOCK];

/// The figures of one block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// What costs are made of, by what is used.
    pub(crate) live: [Lane64; DIMENSIONS],
    /// What costs are made of, by what is committed alone.
    pub(crate) committed: [Lane64; DIMENSIONS],
    /// What is free.
    pub(crate) free: [Lane64; DIMENSIONS],
    /// The least that is free of each dimension: while it suffices, nobody's need be read.
    pub(crate) free_least: [f64; DIMENSIONS],
    /// What stands in the way of every task: a node's status and eligibility, or that there is none.
    pub(crate) standing: [u8; BLOCK],
    /// Which nodes nothing of that stands in the way of, as bits.
    pub(crate) open: u64,
    /// Which nodes have no fresh measurement, as bits.
    pub(crate) stale: u64,
    pub(crate) tie: [u64; BLOCK],
}

impl Block {
    fn vacant() -> Self {
        let zeros = [[0.0; BLOCK]; DIMENSIONS];
        Self {
            live: zeros,
            committed: zeros,
            // Nobody's room is never too little: only nodes are judged by it.
            free: [[f64::INFINITY; BLOCK]; DIMENSIONS],
            free_least: [f64::INFINITY; DIMENSIONS],
            standing: [Verdict::VACANT.0; BLOCK],
            open: 0,
            stale: 0,
            tie: [u64::MAX; BLOCK],
        }
    }
}

impl Block {
    fn set_free(&mut self, bit: usize, free: [f64; DIMENSIONS]) {
        for (r, free) in free.into_iter().enumerate() {
            let before = std::mem::replace(&mut self.free[r][bit], free);
            let least = &mut self.free_least[r];
            if free <= *least {
                *least = free;
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
    /// Up to where the fleet's journal was read.
    read: u64,
    base_log2: u32,
}

impl Columns {
    pub(crate) fn block(&self, block: usize) -> &Block {
        &self.blocks[block]
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
        let blocks = fleet.lanes().len() / BLOCK;
        if self.blocks.len() < blocks {
            self.blocks.resize_with(blocks, Block::vacant);
        }
        let changes =
            fleet.journal().since(self.read).filter(|_| self.base_log2 == fleet.base_log2());
        self.base_log2 = fleet.base_log2();
        match changes {
            Some(changes) => changes.for_each(|change| self.refresh(fleet, change.lane, model)),
            None => (0..fleet.lanes().len()).zip(0..).for_each(|(_, lane)| {
                self.refresh(fleet, lane, model);
            }),
        }
        self.read = end;
    }

    fn refresh(&mut self, fleet: &Fleet, lane: u32, model: Option<&dyn Model>) {
        let (at, bit) = (lane as usize / BLOCK, lane as usize % BLOCK);
        let Some(block) = self.blocks.get_mut(at) else { return };
        let Some(node) = fleet.at(lane) else {
            block.standing[bit] = Verdict::VACANT.0;
            block.set_free(bit, [f64::INFINITY; DIMENSIONS]);
            block.open &= !(1 << bit);
            block.stale &= !(1 << bit);
            return;
        };
        let standing = filter::standing(node).map_or(Verdict::FEASIBLE, Verdict::of);
        block.standing[bit] = standing.0;
        let open = standing == Verdict::FEASIBLE;
        block.open = block.open & !(1 << bit) | u64::from(open) << bit;
        block.stale = block.stale & !(1 << bit) | u64::from(!node.is_fresh()) << bit;
        block.tie[bit] = node.tie();
        let Row { live, committed } =
            model.map_or_else(Row::default, |model| model.row(node, self.base_log2));
        for r in 0..DIMENSIONS {
            block.live[r][bit] = live[r];
            block.committed[r][bit] = committed[r];
        }
        block.set_free(bit, node.free_amounts());
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
