//! Where each node stands in the arrays that are scanned: a lane for life, in blocks of 64.
//!
//! Nodes of the same capacity share blocks, because a cost then has the same factors for the whole block.
//! A capacity that few nodes have would waste a block, so its first nodes share mixed blocks with others.
//! Where a node stands changes how fast it is found and never what is found.

use std::collections::BTreeMap;

use crate::demand::Amounts;

/// How many lanes a block has: the bits of a word.
pub(crate) const BLOCK: usize = 64;

/// So many nodes of a capacity go to mixed blocks before it gets a block of its own.
const MIXED_PER_CLASS: u32 = 8;

/// The nodes of one capacity.
#[derive(Debug, Clone)]
struct Class {
    id: u32,
    nodes: u32,
    in_mixed: u32,
    /// Whether it has blocks of its own: then it stays though it has no nodes, because its machines may come back.
    has_blocks: bool,
    /// Vacant lanes of the class's own blocks, the lowest last.
    vacant: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    /// The class that the block belongs to; `None` for a mixed one.
    owner: Option<u32>,
    /// How many of its nodes are of another class by now.
    strangers: u32,
}

/// Lanes, blocks and classes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lanes {
    classes: BTreeMap<Amounts, Class>,
    /// The capacity of each class, by its id; ids of classes that are gone are used again.
    capacities: Vec<Amounts>,
    unused_ids: Vec<u32>,
    /// The class of each lane's node.
    class_of: Vec<u32>,
    blocks: Vec<Block>,
    /// Vacant lanes of mixed blocks.
    vacant: Vec<u32>,
}

impl Lanes {
    /// How many lanes there are, vacant ones among them: a multiple of [`BLOCK`].
    pub(crate) fn len(&self) -> usize {
        self.class_of.len()
    }

    /// The class of the node on a lane.
    pub(crate) fn class(&self, lane: usize) -> u32 {
        self.class_of[lane]
    }

    /// The class of the node on each lane of a block.
    pub(crate) fn classes(&self, block: usize) -> &[u32] {
        &self.class_of[block * BLOCK..(block + 1) * BLOCK]
    }

    /// The class of every node of a block; `None` where there are several.
    pub(crate) fn block_class(&self, block: usize) -> Option<usize> {
        let Block { owner, strangers } = self.blocks[block];
        owner.filter(|_| strangers == 0).map(|class| class as usize)
    }

    /// The capacities of the classes, by class.
    pub(crate) fn capacities(&self) -> &[Amounts] {
        &self.capacities
    }

    /// A lane for a new node. True when a class came to be, so that what is kept by class is outdated.
    pub(super) fn take(&mut self, capacity: Amounts) -> (u32, bool) {
        let is_new = self.count_in(capacity);
        let (lane, class) = self.vacant_lane(capacity);
        self.class_of[lane as usize] = class;
        (lane, is_new)
    }

    /// A node has gone.
    pub(super) fn give_back(&mut self, lane: u32, capacity: Amounts) {
        let block = &mut self.blocks[lane as usize / BLOCK];
        let class = self.class_of[lane as usize];
        match block.owner {
            Some(owner) => {
                block.strangers -= u32::from(owner != class);
                // A class with blocks of its own stays, so its number still stands for it.
                let of_owner = &self.capacities[owner as usize];
                if let Some(class) = self.classes.get_mut(of_owner) {
                    class.vacant.push(lane);
                }
            }
            None => {
                self.vacant.push(lane);
                if let Some(class) = self.classes.get_mut(&capacity) {
                    class.in_mixed = class.in_mixed.saturating_sub(1);
                }
            }
        }
        self.count_out(capacity);
    }

    /// A node's capacity has changed; it stays where it is. True when a class came to be.
    pub(super) fn change(&mut self, lane: u32, before: Amounts, now: Amounts) -> bool {
        let is_new = self.count_in(now);
        let Some(class) = self.classes.get(&now).map(|class| class.id) else { return is_new };
        let block = &mut self.blocks[lane as usize / BLOCK];
        let old = std::mem::replace(&mut self.class_of[lane as usize], class);
        if let Some(owner) = block.owner {
            block.strangers += u32::from(owner != class);
            block.strangers -= u32::from(owner != old);
        }
        self.count_out(before);
        is_new
    }

    fn count_in(&mut self, capacity: Amounts) -> bool {
        let mut is_new = false;
        let class = self.classes.entry(capacity).or_insert_with(|| {
            is_new = true;
            let id = self.unused_ids.pop().unwrap_or_else(|| {
                self.capacities.push(capacity);
                u32::try_from(self.capacities.len() - 1).unwrap_or(u32::MAX)
            });
            self.capacities[id as usize] = capacity;
            Class { id, nodes: 0, in_mixed: 0, has_blocks: false, vacant: Vec::new() }
        });
        class.nodes += 1;
        is_new
    }

    fn count_out(&mut self, capacity: Amounts) {
        let Some(class) = self.classes.get_mut(&capacity) else { return };
        class.nodes -= 1;
        if class.nodes == 0 && !class.has_blocks {
            self.unused_ids.push(class.id);
            self.classes.remove(&capacity);
        }
    }

    fn vacant_lane(&mut self, capacity: Amounts) -> (u32, u32) {
        let Some(class) = self.classes.get_mut(&capacity) else { return (0, 0) };
        let id = class.id;
        if let Some(lane) = class.vacant.pop() {
            return (lane, id);
        }
        let own = class.in_mixed >= MIXED_PER_CLASS;
        if !own {
            class.in_mixed += 1;
        }
        if own || self.vacant.is_empty() {
            let first = self.class_of.len();
            self.class_of.resize(first + BLOCK, id);
            self.blocks.push(Block { owner: own.then_some(id), strangers: 0 });
            let lanes = (first..first + BLOCK).rev();
            let lanes = lanes.map(|lane| u32::try_from(lane).unwrap_or(u32::MAX));
            if own {
                class.has_blocks = true;
                class.vacant.extend(lanes);
            } else {
                self.vacant.extend(lanes);
            }
        }
        let vacant = if own { &mut class.vacant } else { &mut self.vacant };
        (vacant.pop().unwrap_or(0), id)
    }
}
