//! The figures of every node that scans read, in blocks of 64, so that one resource of 64 nodes lies together.

use fearless_simd::Level;

use crate::cost::{Model, Row};
use crate::demand::{Amounts, DIMENSIONS};
use crate::filter::{self, Verdict};
use crate::fleet::Fleet;
use crate::fleet::lanes::BLOCK;
use crate::index::{kernel, tree};

/// Where so few blocks have a node that may lack what is wanted, their nodes are looked at one by one; blocks need not be
/// kept up to date for that.
const SCARCE_FEW: usize = 4;
/// Where there are more than this, all nodes are judged instead of counted.
const SCARCE_MAX: usize = 64;

/// One figure of each node of a block.
pub(crate) type Lane64 = [f64; BLOCK];

/// The figures of one node, close together for whoever looks at it alone. What tells most of the time whether it is the best
/// lies in one line of the processor's caches, and what else may be asked in the next one.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Figures {
    /// What costs are made of, by what is used.
    pub(crate) live: [f64; DIMENSIONS],
    pub(crate) tie: u64,
    /// The class of its capacity.
    pub(crate) class: u32,
    /// What stands in the way of every task: its status and eligibility, or that there is no node.
    pub(crate) standing: Verdict,
    /// Whether it has no fresh measurement.
    pub(crate) is_stale: bool,
    /// At most what is free, in figures of half the size.
    pub(crate) room: Room,
    /// What is free.
    pub(crate) free: [f64; DIMENSIONS],
    /// What costs are made of, by what is committed alone.
    pub(crate) committed: [f64; DIMENSIONS],
}

impl Figures {
    fn vacant() -> Self {
        // Of nobody there is no least: only nodes are judged by any of it.
        let nobody = [f64::INFINITY; DIMENSIONS];
        Self {
            live: nobody,
            room: [f32::INFINITY; DIMENSIONS],
            free: nobody,
            committed: nobody,
            tie: u64::MAX,
            class: 0,
            standing: Verdict::VACANT,
            is_stale: false,
        }
    }

    fn of(fleet: &Fleet, lane: u32, model: Option<&dyn Model>) -> Self {
        let Some(node) = fleet.at(lane) else { return Self::vacant() };
        let load = node.load();
        let Row { live, committed } =
            model.map_or_else(Row::default, |model| model.row(&load, fleet.base_log2()));
        let free = load.free();
        Self {
            live,
            room: free.map(rounded_down),
            free,
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
    /// What stands in the way of every task.
    pub(crate) standing: [u8; BLOCK],
    pub(crate) tie: [u64; BLOCK],
}

/// What says enough of a block most of the time. Those of all blocks lie close together, for whoever goes through
/// them.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Summary {
    /// What nobody's share of a cost is below, of each dimension. It may be lower than need be; see
    /// [`Columns::tighten`].
    pub(crate) live_least: [f64; DIMENSIONS],
    /// The least that is free of each dimension: while it suffices, nobody's need be read.
    pub(crate) free_least: [f64; DIMENSIONS],
    /// Which nodes nothing stands in the way of, as bits.
    pub(crate) open: u64,
    /// Which nodes have no fresh measurement, as bits.
    pub(crate) stale: u64,
    /// On which nodes more is measured than was committed, as bits.
    pub(crate) measured: u64,
    /// Whether `live_least` may be lower than need be.
    is_loose: bool,
}

impl Summary {
    fn vacant() -> Self {
        let nobody = [f64::INFINITY; DIMENSIONS];
        let (live_least, free_least) = (nobody, nobody);
        Self { live_least, free_least, open: 0, stale: 0, measured: 0, is_loose: false }
    }
}

impl Block {
    fn vacant() -> Self {
        Self {
            live: [[f64::INFINITY; BLOCK]; DIMENSIONS],
            free: [[f64::INFINITY; BLOCK]; DIMENSIONS],
            standing: [Verdict::VACANT.0; BLOCK],
            tie: [u64::MAX; BLOCK],
        }
    }

    fn set(&mut self, summary: &mut Summary, bit: usize, figures: &Figures) {
        let set = |bits: &mut u64, is: bool| *bits = *bits & !(1 << bit) | u64::from(is) << bit;
        set(&mut summary.open, figures.standing == Verdict::FEASIBLE);
        set(&mut summary.stale, figures.is_stale);
        set(&mut summary.measured, figures.live != figures.committed);
        self.tie[bit] = figures.tie;
        self.standing[bit] = figures.standing.0;
        for r in 0..DIMENSIONS {
            let before = std::mem::replace(&mut self.live[r][bit], figures.live[r]);
            let lowest = &mut summary.live_least[r];
            if figures.live[r] <= *lowest {
                *lowest = figures.live[r];
            } else if before <= *lowest {
                summary.is_loose = true;
            }
            let before = std::mem::replace(&mut self.free[r][bit], figures.free[r]);
            let least = &mut summary.free_least[r];
            if figures.free[r] <= *least {
                *least = figures.free[r];
            } else if before <= *least {
                *least = tree::least(&self.free[r]);
            }
        }
    }
}

/// What is free on a node, or the least that is in a block, of each dimension, rounded down.
pub(crate) type Room = [f32; DIMENSIONS];

/// The figures of every node.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    blocks: Vec<Block>,
    summaries: Vec<Summary>,
    /// The blocks whose summary may be lower than need be.
    loose: Vec<usize>,
    nodes: Vec<Figures>,
    /// At most the least that is free in each block, of each dimension; infinite behind the last one, so that they end
    /// with a whole vector. Raised where it is asked for.
    room: Vec<Room>,
    /// The blocks in which somebody may lack what was asked for last.
    scarce: Vec<usize>,
    /// How many lanes there are of each standing.
    standings: Vec<u32>,
    /// Up to where the fleet's journal was read.
    read: u64,
    base_log2: u32,
    /// The same of the blocks, which lag behind: searches do without them.
    blocks_read: u64,
    blocks_base_log2: u32,
}

impl Columns {
    pub(crate) fn block(&self, block: usize) -> &Block {
        &self.blocks[block]
    }

    pub(crate) fn summary(&self, block: usize) -> &Summary {
        &self.summaries[block]
    }

    pub(crate) fn node(&self, lane: usize) -> &Figures {
        &self.nodes[lane]
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// How many lanes there are of each standing, by verdict.
    pub(crate) fn standings(&self) -> &[u32] {
        &self.standings
    }

    /// Notes the blocks in which somebody may not have what is wanted.
    fn find_scarce(&mut self, level: Level, wanted: &Amounts) {
        // Whoever wants nothing lacks nothing.
        let below = wanted.map(|amount| match amount {
            0 => f32::NEG_INFINITY,
            _ => (amount as f32).next_up(),
        });
        let Self { scarce, room, .. } = self;
        scarce.clear();
        kernel::each_without_room(level, room, &below, |block| scarce.push(block));
    }

    /// How many of the nodes that nothing else stands in the way of lack what is wanted, each counted for the first
    /// dimension that it lacks. `None` where they are in so many blocks that all nodes are sooner judged.
    pub(crate) fn count_lacking(
        &mut self,
        level: Level,
        fleet: &Fleet,
        wanted: &Amounts,
    ) -> Option<[u32; DIMENSIONS]> {
        let mut counts = [0; DIMENSIONS];
        self.find_scarce(level, wanted);
        if self.scarce.len() <= SCARCE_FEW {
            for at in self.scarce.iter().copied() {
                let nodes = &self.nodes[at * BLOCK..(at + 1) * BLOCK];
                let mut least = [f32::INFINITY; DIMENSIONS];
                for node in nodes {
                    let Figures { free, room, .. } = node;
                    least = std::array::from_fn(|r| least[r].min(room[r]));
                    if node.standing == Verdict::FEASIBLE
                        && let Some(lack) =
                            (0..DIMENSIONS).find(|r| filter::lacks(free[*r], wanted[*r]))
                    {
                        counts[lack] += 1;
                    }
                }
                self.room[at] = least;
            }
            return Some(counts);
        }
        self.catch_up_blocks(fleet);
        self.find_scarce(level, wanted);
        for at in self.scarce.iter().copied() {
            let mut open = self.summaries[at].open;
            let lacking = kernel::lacking(level, &self.blocks[at], wanted);
            for (count, lacking) in counts.iter_mut().zip(lacking) {
                *count += (open & lacking).count_ones();
                open &= !lacking;
            }
        }
        (self.scarce.len() <= SCARCE_MAX).then_some(counts)
    }

    /// Computes anew the figures of the nodes that have changed.
    pub(crate) fn catch_up(&mut self, fleet: &Fleet, model: Option<&dyn Model>) {
        let end = fleet.journal().end();
        let is_base_new = self.base_log2 != fleet.base_log2();
        if self.read == end && !is_base_new {
            return;
        }
        let lanes = fleet.lanes().len();
        if self.nodes.len() < lanes {
            let new = u32::try_from(lanes - self.nodes.len()).unwrap_or(u32::MAX);
            self.nodes.resize_with(lanes, Figures::vacant);
            self.standings.resize(Verdict::COUNT, 0);
            self.standings[usize::from(Verdict::VACANT.0)] += new;
            let blocks = (lanes / BLOCK).next_multiple_of(kernel::ROOMS);
            self.room.resize(blocks, [f32::INFINITY; DIMENSIONS]);
        }
        let changed = fleet.journal().lanes_since(self.read).filter(|_| !is_base_new);
        match changed {
            Some(lanes) => lanes.for_each(|lane| self.refresh(fleet, lane, model)),
            None => (0..).take(lanes).for_each(|lane| self.refresh(fleet, lane, model)),
        }
        (self.read, self.base_log2) = (end, fleet.base_log2());
    }

    fn refresh(&mut self, fleet: &Fleet, lane: u32, model: Option<&dyn Model>) {
        let figures = Figures::of(fleet, lane, model);
        let node = &mut self.nodes[lane as usize];
        self.standings[usize::from(node.standing.0)] -= 1;
        self.standings[usize::from(figures.standing.0)] += 1;
        *node = figures;
        for (least, room) in self.room[lane as usize / BLOCK].iter_mut().zip(figures.room) {
            *least = least.min(room);
        }
    }

    /// Brings the blocks to where the figures of single nodes are.
    pub(crate) fn catch_up_blocks(&mut self, fleet: &Fleet) {
        let is_base_new = self.blocks_base_log2 != self.base_log2;
        if self.blocks_read == self.read && !is_base_new {
            return;
        }
        let lanes = self.nodes.len();
        if self.blocks.len() < lanes / BLOCK {
            self.blocks.resize_with(lanes / BLOCK, Block::vacant);
            self.summaries.resize_with(lanes / BLOCK, Summary::vacant);
        }
        let changed = fleet.journal().lanes_since(self.blocks_read).filter(|_| !is_base_new);
        match changed {
            Some(lanes) => lanes.for_each(|lane| self.refresh_block(lane as usize)),
            None => (0..lanes).for_each(|lane| self.refresh_block(lane)),
        }
        (self.blocks_read, self.blocks_base_log2) = (self.read, self.base_log2);
    }

    fn refresh_block(&mut self, lane: usize) {
        let at = lane / BLOCK;
        let summary = &mut self.summaries[at];
        let was_loose = summary.is_loose;
        self.blocks[at].set(summary, lane % BLOCK, &self.nodes[lane]);
        if summary.is_loose && !was_loose {
            self.loose.push(at);
        }
        self.room[at] = summary.free_least.map(rounded_down);
    }

    /// Raises what nobody's share of a cost is below where a node has got costlier: before it is gone by.
    pub(crate) fn tighten(&mut self) {
        for at in self.loose.drain(..) {
            let (summary, block) = (&mut self.summaries[at], &self.blocks[at]);
            summary.is_loose = false;
            for (lowest, live) in summary.live_least.iter_mut().zip(&block.live) {
                *lowest = tree::least(live);
            }
        }
    }
}

/// The largest figure of half the size that is not above this one, but for those that are beyond all such figures.
pub(crate) fn rounded_down(figure: f64) -> f32 {
    let rounded = figure.min(f64::from(f32::MAX)) as f32;
    if f64::from(rounded) > figure { rounded.next_down() } else { rounded }
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
