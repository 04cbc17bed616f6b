//! The best of each block, of each group of 64 blocks, and of each domain, mended where something changed.

use crate::cost::Key;
use crate::fleet::lanes::BLOCK;

/// How many blocks form a group.
const GROUP: usize = 64;

/// Which lanes form a block, which blocks a group, and which groups a domain. No block spans two domains.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// For shapes of several domains: the lanes in their order, and where each lane's block is.
    order: Option<Order>,
    /// The first block of each group, and the end.
    group_starts: Vec<u32>,
    /// The first group of each domain, and the end.
    domain_starts: Vec<u32>,
    group_of: Vec<u32>,
    domain_of: Vec<u32>,
}

/// Lanes in another order than their own.
#[derive(Debug, Clone)]
struct Order {
    lanes: Vec<u32>,
    /// The first place in `lanes` of each block, and the end.
    block_starts: Vec<u32>,
    /// The block of each lane; [`NOWHERE`] for lanes without a node, which are in no domain.
    block_of: Vec<u32>,
}

/// The block of lanes that are in none.
const NOWHERE: u32 = u32::MAX;

fn number(figure: usize) -> u32 {
    u32::try_from(figure).unwrap_or(u32::MAX)
}

impl Shape {
    /// One domain, and lanes in their own order.
    pub(crate) fn plain(blocks: usize) -> Self {
        let groups = blocks.div_ceil(GROUP).max(1);
        Self {
            order: None,
            group_starts: (0..=groups).map(|group| number((group * GROUP).min(blocks))).collect(),
            domain_starts: vec![0, number(groups)],
            group_of: (0..blocks).map(|block| number(block / GROUP)).collect(),
            domain_of: vec![0; groups],
        }
    }

    /// The lanes of each domain.
    pub(crate) fn of_domains(domains: &[Vec<u32>], lanes: usize) -> Self {
        let mut order =
            Order { lanes: Vec::new(), block_starts: vec![0], block_of: vec![NOWHERE; lanes] };
        let (mut group_starts, mut domain_starts) = (vec![0], vec![0]);
        let (mut group_of, mut domain_of) = (Vec::new(), Vec::new());
        for (domain, members) in (0..).zip(domains) {
            for group in members.chunks(GROUP * BLOCK) {
                for block in group.chunks(BLOCK) {
                    let at = number(order.block_starts.len() - 1);
                    block.iter().for_each(|lane| order.block_of[*lane as usize] = at);
                    order.lanes.extend(block);
                    order.block_starts.push(number(order.lanes.len()));
                    group_of.push(number(group_starts.len() - 1));
                }
                group_starts.push(number(order.block_starts.len() - 1));
                domain_of.push(domain);
            }
            domain_starts.push(number(group_starts.len() - 1));
        }
        Self { order: Some(order), group_starts, domain_starts, group_of, domain_of }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.group_of.len()
    }

    fn groups(&self) -> usize {
        self.domain_of.len()
    }

    fn domains(&self) -> usize {
        self.domain_starts.len() - 1
    }

    /// The block that a lane is in; none where domains count and the lane has no node.
    pub(crate) fn block_of(&self, lane: usize) -> Option<usize> {
        match &self.order {
            None => Some(lane / BLOCK),
            Some(order) => {
                Some(order.block_of[lane]).filter(|at| *at != NOWHERE).map(|at| at as usize)
            }
        }
    }

    /// The domain that a block is in.
    pub(crate) fn domain_of(&self, block: usize) -> usize {
        self.domain_of[self.group_of[block] as usize] as usize
    }

    /// Whether blocks hold lanes in their own order.
    pub(crate) fn is_in_order(&self) -> bool {
        self.order.is_none()
    }

    /// The lanes of a block where they are not in their own order.
    pub(crate) fn lanes(&self, block: usize) -> Option<&[u32]> {
        let order = self.order.as_ref()?;
        let (start, end) = (order.block_starts[block], order.block_starts[block + 1]);
        Some(&order.lanes[start as usize..end as usize])
    }
}

/// The best of blocks, groups and domains.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree {
    blocks: Vec<Key>,
    groups: Vec<Key>,
    domains: Vec<Key>,
    /// Blocks to scan again, and groups to look through again, as bits.
    dirty_blocks: Vec<u64>,
    dirty_groups: Vec<u64>,
}

fn mark(bits: &mut [u64], index: usize) {
    bits[index / 64] |= 1 << (index % 64);
}

/// Takes out the marked numbers, the lowest first.
fn take(bits: &mut [u64]) -> impl Iterator<Item = usize> {
    bits.iter_mut().enumerate().flat_map(|(word, bits)| {
        let mut left = std::mem::take(bits);
        std::iter::from_fn(move || {
            let bit = left.trailing_zeros() as usize;
            (left != 0).then(|| {
                left &= left - 1;
                word * 64 + bit
            })
        })
    })
}

fn least(keys: &[Key]) -> Key {
    let mut best = Key::NONE;
    for key in keys {
        if key.is_before(&best) {
            best = *key;
        }
    }
    best
}

fn range(starts: &[u32], index: usize) -> std::ops::Range<usize> {
    starts[index] as usize..starts[index + 1] as usize
}

impl Tree {
    /// Whether the tree has the shape's size; one that has not knows nothing.
    pub(crate) fn fits(&self, shape: &Shape) -> bool {
        self.blocks.len() == shape.blocks() && self.domains.len() == shape.domains()
    }

    /// A tree that knows nothing.
    pub(crate) fn clear(&mut self, shape: &Shape) {
        let refill = |keys: &mut Vec<Key>, count: usize| {
            keys.clear();
            keys.resize(count, Key::NONE);
        };
        refill(&mut self.blocks, shape.blocks());
        refill(&mut self.groups, shape.groups());
        refill(&mut self.domains, shape.domains());
        self.dirty_blocks.clear();
        self.dirty_blocks.resize(shape.blocks().div_ceil(64), 0);
        self.dirty_groups.clear();
        self.dirty_groups.resize(shape.groups().div_ceil(64), 0);
    }

    /// Sets the best of a block, of which [`Tree::finish`] hears later.
    pub(crate) fn fill(&mut self, block: usize, key: Key) {
        self.blocks[block] = key;
    }

    /// Looks through everything, after every block was filled.
    pub(crate) fn finish(&mut self, shape: &Shape) {
        for group in 0..self.groups.len() {
            self.groups[group] = least(&self.blocks[range(&shape.group_starts, group)]);
        }
        for domain in 0..self.domains.len() {
            self.domains[domain] = least(&self.groups[range(&shape.domain_starts, domain)]);
        }
    }

    /// The best of a block, as far as is known.
    pub(crate) fn best_of(&self, block: usize) -> &Key {
        &self.blocks[block]
    }

    /// A node has changed: its block is to be scanned again.
    pub(crate) fn doubt(&mut self, shape: &Shape, lane: usize) {
        if let Some(block) = shape.block_of(lane) {
            mark(&mut self.dirty_blocks, block);
        }
    }

    /// A node's key is now this; [`Key::NONE`] takes it out.
    pub(crate) fn touch(&mut self, shape: &Shape, lane: u32, key: Key) {
        let Some(block) = shape.block_of(lane as usize) else { return };
        let best = &mut self.blocks[block];
        if key.is_before(best) {
            let was = std::mem::replace(best, key).lane;
            self.lift(shape, block, was, key);
        } else if best.lane == lane && *best != key {
            mark(&mut self.dirty_blocks, block);
        }
    }

    /// Scans again what was the best and got worse.
    pub(crate) fn mend(&mut self, shape: &Shape, mut scan: impl FnMut(usize) -> Key) {
        let mut blocks = std::mem::take(&mut self.dirty_blocks);
        for block in take(&mut blocks) {
            let key = scan(block);
            let was = std::mem::replace(&mut self.blocks[block], key);
            if was != key {
                self.lift(shape, block, was.lane, key);
            }
        }
        self.dirty_blocks = blocks;
        let mut groups = std::mem::take(&mut self.dirty_groups);
        for group in take(&mut groups) {
            self.groups[group] = least(&self.blocks[range(&shape.group_starts, group)]);
            let domain = shape.domain_of[group] as usize;
            self.domains[domain] = least(&self.groups[range(&shape.domain_starts, domain)]);
        }
        self.dirty_groups = groups;
    }

    /// The best of a block has changed: the group's follows where it is better, or was this block's.
    fn lift(&mut self, shape: &Shape, block: usize, was: u32, key: Key) {
        let group = shape.group_of[block] as usize;
        let best = &mut self.groups[group];
        if key.is_before(best) {
            *best = key;
            let best = &mut self.domains[shape.domain_of[group] as usize];
            if key.is_before(best) {
                *best = key;
            }
        } else if best.lane == was {
            mark(&mut self.dirty_groups, group);
        }
    }

    /// The best of each domain.
    pub(crate) fn domains(&self) -> &[Key] {
        &self.domains
    }

    /// The best of a domain without one block, for which another key stands.
    pub(crate) fn domain_with(&self, shape: &Shape, block: usize, instead: Key) -> Key {
        let group = shape.group_of[block] as usize;
        let mut best = instead;
        let mut consider = |key: &Key| {
            if key.is_before(&best) {
                best = *key;
            }
        };
        let blocks = range(&shape.group_starts, group).filter(|other| *other != block);
        blocks.for_each(|other| consider(&self.blocks[other]));
        let groups = range(&shape.domain_starts, shape.domain_of[group] as usize);
        groups.filter(|other| *other != group).for_each(|other| consider(&self.groups[other]));
        best
    }

    pub(crate) fn bytes(&self) -> usize {
        (self.blocks.len() + self.groups.len() + self.domains.len()) * size_of::<Key>()
    }
}
