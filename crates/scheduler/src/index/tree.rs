//! The best of each block, of each group of 64 blocks, and of each domain, mended where something changed.

use std::ops::Range;

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

/// The best of one block, and what is known of the others in it.
///
/// `best` is what its node stands at. Every other node stands at `next` or behind it: either some node is just
/// there, or `next` has no lane and is a bound. While `best` is not behind `next`, it is the best of the block;
/// else only a scan can tell, and `next` is a bound on what the scan will find.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Best {
    pub(crate) best: Key,
    pub(crate) next: Key,
}

impl Best {
    pub(crate) const NONE: Self = Self { best: Key::NONE, next: Key::NONE };

    /// A block of which it is known only that nobody in it costs less.
    pub(crate) fn bounded(first: f64) -> Self {
        let next = Key { first, second: 0.0, tie: 0, lane: u32::MAX };
        Self { best: Key::NONE, next }
    }

    /// The best of a block of which nothing else is known.
    pub(crate) fn only(best: Key) -> Self {
        Self { best, next: best.as_bound() }
    }

    /// Takes another node of the block into account.
    pub(crate) fn add(&mut self, key: Key) {
        if key.is_before(&self.best) {
            self.next = std::mem::replace(&mut self.best, key);
        } else if key.is_before(&self.next) {
            self.next = key;
        }
    }

    /// Whether it is known which node is the best.
    fn is_certain(&self) -> bool {
        !self.next.is_before(&self.best)
    }

    /// Whether it is known which node comes after the best, if any does.
    fn knows_next(&self) -> bool {
        self.next.is_some() || self.next.first == f64::INFINITY
    }

    /// Nobody of the block stands before this.
    fn bound(&self) -> &Key {
        if self.is_certain() { &self.best } else { &self.next }
    }

    /// A node stands here now; [`Key::NONE`] takes it out.
    fn touch(&mut self, lane: u32, key: Key) {
        if lane == self.best.lane {
            self.best = key;
            if !self.is_certain() && self.next.is_some() {
                // What was next is the best, and nobody else stood before it.
                self.best = self.next;
                self.next = self.best.as_bound();
            }
        } else if key.is_before(self.bound()) {
            if self.is_certain() {
                self.next = self.best;
            }
            self.best = key;
        } else if key.is_before(&self.next) {
            self.next = key;
        } else if lane == self.next.lane && key != self.next {
            self.next = self.next.as_bound();
        }
    }
}

/// The best of blocks, groups and domains.
///
/// Where the best of a block is in doubt, its bound stands for it, and the block is scanned only when that bound
/// comes first in its domain: most doubts are never looked into.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    blocks: Vec<Best>,
    /// The bound of each block, by what decides first and next, each close together.
    firsts: Vec<f64>,
    seconds: Vec<f64>,
    ties: Vec<u64>,
    groups: Vec<Top>,
    domains: Vec<Top>,
    /// Groups and domains to look through again, as bits.
    dirty_groups: Vec<u64>,
    dirty_domains: Vec<u64>,
}

/// The first of several blocks.
#[derive(Debug, Clone, Copy)]
struct Top {
    bound: Key,
    block: u32,
}

impl Top {
    const NONE: Self = Self { bound: Key::NONE, block: NOWHERE };
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

/// How many figures are compared side by side: one after another, each would wait for the one before.
const WIDTH: usize = 8;

fn less(one: f64, other: f64) -> f64 {
    if one < other { one } else { other }
}

/// The least of some figures, none of which is NaN.
pub(crate) fn least(figures: &[f64]) -> f64 {
    let (chunks, rest) = figures.as_chunks::<WIDTH>();
    let mut least = [f64::INFINITY; WIDTH];
    for chunk in chunks {
        least.iter_mut().zip(chunk).for_each(|(least, figure)| *least = less(*figure, *least));
    }
    rest.iter().chain(&least).fold(f64::INFINITY, |least, figure| less(*figure, least))
}

/// The least of some figures, of those beside which another figure is this.
fn least_where(beside: &[f64], this: f64, figures: &[f64]) -> f64 {
    let (chunks, rest) = figures.as_chunks::<WIDTH>();
    let (beside, beside_rest) = beside.as_chunks::<WIDTH>();
    let only = |beside: f64, figure: f64| if beside == this { figure } else { f64::INFINITY };
    let mut least = [f64::INFINITY; WIDTH];
    for (chunk, beside) in chunks.iter().zip(beside) {
        for i in 0..WIDTH {
            least[i] = less(only(beside[i], chunk[i]), least[i]);
        }
    }
    let rest = rest.iter().zip(beside_rest).map(|(figure, beside)| only(*beside, *figure));
    rest.chain(least).fold(f64::INFINITY, |least, figure| less(figure, least))
}

fn range(starts: &[u32], index: usize) -> Range<usize> {
    starts[index] as usize..starts[index + 1] as usize
}

impl Tree {
    /// Whether the tree has the shape's size; one that has not knows nothing.
    pub(crate) fn fits(&self, shape: &Shape) -> bool {
        self.blocks.len() == shape.blocks() && self.domains.len() == shape.domains()
    }

    /// Takes over what another tree knows, in the memory that is there.
    pub(crate) fn copy(&mut self, other: &Self) {
        self.blocks.clone_from(&other.blocks);
        self.firsts.clone_from(&other.firsts);
        self.seconds.clone_from(&other.seconds);
        self.ties.clone_from(&other.ties);
        self.groups.clone_from(&other.groups);
        self.domains.clone_from(&other.domains);
        self.dirty_groups.clone_from(&other.dirty_groups);
        self.dirty_domains.clone_from(&other.dirty_domains);
    }

    /// A tree that knows nothing.
    pub(crate) fn clear(&mut self, shape: &Shape) {
        fn refill<T: Clone>(all: &mut Vec<T>, count: usize, one: T) {
            all.clear();
            all.resize(count, one);
        }
        refill(&mut self.blocks, shape.blocks(), Best::NONE);
        refill(&mut self.firsts, shape.blocks(), f64::INFINITY);
        refill(&mut self.seconds, shape.blocks(), f64::INFINITY);
        refill(&mut self.ties, shape.blocks(), u64::MAX);
        refill(&mut self.groups, shape.groups(), Top::NONE);
        refill(&mut self.domains, shape.domains(), Top::NONE);
        refill(&mut self.dirty_groups, shape.groups().div_ceil(64), 0);
        refill(&mut self.dirty_domains, shape.domains().div_ceil(64), 0);
    }

    /// Sets what is known of a block, of which [`Tree::finish`] hears later.
    pub(crate) fn fill(&mut self, block: usize, best: Best) {
        self.blocks[block] = best;
        self.note(block, *best.bound());
    }

    fn note(&mut self, block: usize, bound: Key) {
        self.firsts[block] = bound.first;
        self.seconds[block] = bound.second;
        self.ties[block] = bound.tie;
    }

    /// Scans, where all lanes are one domain, the blocks of which only a bound is known, if they may be the first.
    pub(crate) fn settle(&mut self, mut scan: impl FnMut(usize) -> Best) {
        let mut first = least(&self.firsts);
        if first == f64::INFINITY {
            return;
        }
        // The lowest bound first: what is found there spares looking at most of the others.
        if let Some(block) = self.firsts.iter().position(|one| *one == first)
            && !self.blocks[block].is_certain()
        {
            let found = scan(block);
            first = found.bound().first;
            self.fill(block, found);
        }
        for block in 0..self.blocks.len() {
            if self.firsts[block] <= first && !self.blocks[block].is_certain() {
                let found = scan(block);
                first = less(found.bound().first, first);
                self.fill(block, found);
            }
        }
    }

    /// Looks through everything, after every block was filled.
    pub(crate) fn finish(&mut self, shape: &Shape) {
        for group in 0..self.groups.len() {
            self.look_through_group(shape, group);
        }
        for domain in 0..self.domains.len() {
            self.look_through_domain(shape, domain);
        }
    }

    /// The best of a block as far as is known, and the bound of the others.
    pub(crate) fn block(&self, block: usize) -> &Best {
        &self.blocks[block]
    }

    /// A node's key is now this; [`Key::NONE`] takes it out.
    pub(crate) fn touch(&mut self, shape: &Shape, lane: u32, key: Key) {
        let Some(block) = shape.block_of(lane as usize) else { return };
        let known = &mut self.blocks[block];
        known.touch(lane, key);
        self.lift(shape, block);
    }

    /// Scans what is in doubt and would come first.
    pub(crate) fn mend(&mut self, shape: &Shape, mut scan: impl FnMut(usize) -> Best) {
        let mut groups = std::mem::take(&mut self.dirty_groups);
        for group in take(&mut groups) {
            self.look_through_group(shape, group);
            mark(&mut self.dirty_domains, shape.domain_of[group] as usize);
        }
        self.dirty_groups = groups;
        let mut domains = std::mem::take(&mut self.dirty_domains);
        for domain in take(&mut domains) {
            loop {
                self.look_through_domain(shape, domain);
                let block = self.domains[domain].block as usize;
                if self.blocks.get(block).is_none_or(Best::is_certain) {
                    break;
                }
                self.fill(block, scan(block));
                self.look_through_group(shape, shape.group_of[block] as usize);
            }
        }
        self.dirty_domains = domains;
    }

    /// What is known of a block has changed: the group's first follows where it is better, or was this block.
    fn lift(&mut self, shape: &Shape, block: usize) {
        let bound = *self.blocks[block].bound();
        self.note(block, bound);
        let at = shape.group_of[block] as usize;
        let group = &mut self.groups[at];
        if bound.is_before(&group.bound) {
            *group = Top { bound, block: number(block) };
            mark(&mut self.dirty_domains, shape.domain_of[at] as usize);
        } else if group.block as usize == block {
            mark(&mut self.dirty_groups, at);
        }
    }

    fn look_through_group(&mut self, shape: &Shape, group: usize) {
        self.groups[group] = self.first_of(range(&shape.group_starts, group));
    }

    /// The first of a range of blocks.
    fn first_of(&self, blocks: Range<usize>) -> Top {
        let firsts = &self.firsts[blocks.clone()];
        let first = least(firsts);
        if first == f64::INFINITY {
            return Top::NONE;
        }
        let is_alone = firsts.iter().map(|one| u32::from(*one == first)).sum::<u32>() == 1;
        let at = if is_alone {
            firsts.iter().position(|one| *one == first).unwrap_or(0)
        } else {
            let seconds = &self.seconds[blocks.clone()];
            let second = least_where(firsts, first, seconds);
            let mut top = (u64::MAX, 0);
            for (at, tie) in self.ties[blocks.clone()].iter().enumerate() {
                if firsts[at] == first && seconds[at] == second && *tie <= top.0 {
                    top = (*tie, at);
                }
            }
            top.1
        };
        let block = blocks.start + at;
        Top { bound: *self.blocks[block].bound(), block: number(block) }
    }

    fn look_through_domain(&mut self, shape: &Shape, domain: usize) {
        let mut top = Top::NONE;
        for group in &self.groups[range(&shape.domain_starts, domain)] {
            if group.bound.is_before(&top.bound) {
                top = *group;
            }
        }
        self.domains[domain] = top;
    }

    /// The best of a domain.
    pub(crate) fn domain(&self, domain: usize) -> &Key {
        &self.domains[domain].bound
    }

    /// The best of a domain but for the best of one of its blocks.
    pub(crate) fn domain_without(
        &mut self,
        shape: &Shape,
        block: usize,
        mut scan: impl FnMut(usize) -> Best,
    ) -> Key {
        if !self.blocks[block].knows_next() {
            let known = scan(block);
            self.fill(block, known);
        }
        let instead = Top { bound: self.blocks[block].next, block: NOWHERE };
        let own = shape.group_of[block] as usize;
        let groups = range(&shape.domain_starts, shape.domain_of[own] as usize);
        loop {
            let mut top = instead;
            let mut consider = |other: Top| {
                if other.bound.is_before(&top.bound) {
                    top = other;
                }
            };
            let first = std::mem::replace(&mut self.firsts[block], f64::INFINITY);
            consider(self.first_of(range(&shape.group_starts, own)));
            self.firsts[block] = first;
            for group in groups.clone().filter(|group| *group != own) {
                consider(self.groups[group]);
            }
            let first = top.block as usize;
            if self.blocks.get(first).is_none_or(Best::is_certain) {
                return top.bound;
            }
            self.fill(first, scan(first));
            self.look_through_group(shape, shape.group_of[first] as usize);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.blocks.len() * (size_of::<Best>() + size_of::<f64>())
            + (self.groups.len() + self.domains.len()) * size_of::<Top>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(first: f64, lane: u32) -> Key {
        Key { first, second: 0.0, tie: u64::from(lane), lane }
    }

    /// Nodes that change at random, with what is known of them after each change.
    #[test]
    fn what_is_certain_is_true_and_what_is_not_has_a_bound() {
        let mut state = 1_u64;
        let mut roll = |sides: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % sides
        };
        let mut keys = [Key::NONE; 6];
        let mut known = Best::NONE;
        let mut certain = 0;
        for step in 0..100_000 {
            let lane = u32::try_from(roll(6)).unwrap();
            let gone = roll(8) == 0;
            let now = if gone { Key::NONE } else { key(roll(12) as f64, lane) };
            keys[lane as usize] = now;
            known.touch(lane, now);
            let mut sorted = keys;
            sorted.sort_by(Key::order);
            assert!(!sorted[0].is_before(known.bound()), "step {step}: {known:?} of {sorted:?}");
            if known.is_certain() {
                certain += 1;
                assert_eq!(known.best, sorted[0], "step {step}");
                if known.knows_next() {
                    assert_eq!(known.next, sorted[1], "step {step}: {known:?}");
                }
            } else if roll(2) == 0 {
                known = Best::NONE;
                keys.iter().filter(|key| key.is_some()).for_each(|key| known.add(*key));
            }
        }
        assert!(certain > 50_000, "{certain}");
    }
}
