//! The best of each block, of each group of 16 blocks, and of each domain, mended where something changed.

use std::cmp::Ordering;
use std::ops::Range;

use crate::cost::Key;
use crate::fleet::lanes::BLOCK;

/// How many blocks form a group.
const GROUP: usize = 16;

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
pub(super) const NOWHERE: u32 = u32::MAX;

pub(super) fn number(figure: usize) -> u32 {
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

    /// The domain that a lane is in, where lanes are not in their own order.
    pub(crate) fn ordered_domain_of(&self, lane: usize) -> Option<usize> {
        self.order.as_ref()?;
        Some(self.domain_of(self.block_of(lane)?))
    }

    /// The lanes of a domain, where they are not in their own order.
    pub(crate) fn domain_lanes(&self, domain: usize) -> &[u32] {
        let Some(order) = &self.order else { return &[] };
        let block = |groups: usize| self.group_starts[groups] as usize;
        let groups = range(&self.domain_starts, domain);
        let lane = |blocks: usize| order.block_starts[blocks] as usize;
        &order.lanes[lane(block(groups.start))..lane(block(groups.end))]
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

/// What of a [`Best`] tells that a node of its block stays behind: so little that that of all blocks stays at hand.
#[derive(Debug, Clone, Copy)]
#[repr(align(16))]
pub(crate) struct Glance {
    /// What decides first about whoever comes after the best.
    pub(crate) next_first: f64,
    /// The lanes that it is known of, to be looked at more closely.
    pub(crate) best: u32,
    pub(crate) next: u32,
}

impl Glance {
    const NONE: Self = Self { next_first: f64::INFINITY, best: u32::MAX, next: u32::MAX };

    fn of(known: &Best) -> Self {
        Self { next_first: known.next.first, best: known.best.lane, next: known.next.lane }
    }
}

/// The best of blocks, groups and domains.
///
/// Where the best of a block is in doubt, or which block of a group comes first, a bound stands for it, and it is
/// looked into only when that bound comes first of all: most doubts never are.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    blocks: Vec<Best>,
    glances: Vec<Glance>,
    /// What decides first about the bound of each block, of each group and of each domain, close together.
    firsts: Vec<f64>,
    /// What decides about blocks whose firsts are the same, as they are where nodes and tasks are alike.
    rests: Vec<Rest>,
    group_firsts: Vec<f64>,
    domain_firsts: Vec<f64>,
    groups: Vec<Top>,
    domains: Vec<Top>,
    /// Groups of whose first only a bound is known, as bits.
    doubtful_groups: Vec<u64>,
}

/// What decides about a bound among equals: see [`Key`].
#[derive(Debug, Clone, Copy)]
struct Rest {
    second: f64,
    tie: u64,
}

impl Rest {
    fn order(&self, other: &Self) -> Ordering {
        self.second.total_cmp(&other.second).then_with(|| self.tie.cmp(&other.tie))
    }
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

fn unmark(bits: &mut [u64], index: usize) {
    bits[index / 64] &= !(1 << (index % 64));
}

fn is_marked(bits: &[u64], index: usize) -> bool {
    bits[index / 64] >> (index % 64) & 1 == 1
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
pub(crate) fn least_where(beside: &[f64], this: f64, figures: &[f64]) -> f64 {
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

/// Which of those whose figure is this is the earliest; some figure is.
fn earliest(firsts: &[f64], this: f64, order: impl Fn(usize, usize) -> Ordering) -> usize {
    let mut earliest = None;
    for (chunk, start) in firsts.chunks(WIDTH).zip((0..).step_by(WIDTH)) {
        // Side by side first: most often it is one of many.
        if !chunk.iter().fold(false, |any, first| any | (*first == this)) {
            continue;
        }
        for (at, _) in chunk.iter().enumerate().filter(|(_, first)| **first == this) {
            let at = start + at;
            earliest = Some(earliest.filter(|one| order(*one, at).is_le()).unwrap_or(at));
        }
    }
    earliest.unwrap_or(0)
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
        self.glances.clone_from(&other.glances);
        self.rests.clone_from(&other.rests);
        self.firsts.clone_from(&other.firsts);
        self.group_firsts.clone_from(&other.group_firsts);
        self.groups.clone_from(&other.groups);
        self.domains.clone_from(&other.domains);
        self.domain_firsts.clone_from(&other.domain_firsts);
        self.doubtful_groups.clone_from(&other.doubtful_groups);
    }

    /// A tree that knows nothing.
    pub(crate) fn clear(&mut self, shape: &Shape) {
        fn refill<T: Clone>(all: &mut Vec<T>, count: usize, one: T) {
            all.clear();
            all.resize(count, one);
        }
        refill(&mut self.blocks, shape.blocks(), Best::NONE);
        refill(&mut self.glances, shape.blocks(), Glance::NONE);
        refill(&mut self.firsts, shape.blocks(), f64::INFINITY);
        let last = Rest { second: f64::INFINITY, tie: u64::MAX };
        refill(&mut self.rests, shape.blocks(), last);
        refill(&mut self.group_firsts, shape.groups(), f64::INFINITY);
        refill(&mut self.groups, shape.groups(), Top::NONE);
        refill(&mut self.domains, shape.domains(), Top::NONE);
        refill(&mut self.domain_firsts, shape.domains(), f64::INFINITY);
        refill(&mut self.doubtful_groups, shape.groups().div_ceil(64), 0);
    }

    /// Sets what is known of a block, of which [`Tree::finish`] hears later.
    pub(crate) fn fill(&mut self, block: usize, best: Best) {
        self.blocks[block] = best;
        self.note(block);
    }

    /// Puts what is asked of a block most often where it is close together.
    fn note(&mut self, block: usize) {
        let known = &self.blocks[block];
        self.glances[block] = Glance::of(known);
        let Key { first, second, tie, .. } = *known.bound();
        self.firsts[block] = first;
        self.rests[block] = Rest { second, tie };
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

    /// What tells at a glance that a node of a block stays behind.
    pub(crate) fn glance(&self, block: usize) -> &Glance {
        &self.glances[block]
    }

    /// A node's key is now this; [`Key::NONE`] takes it out.
    pub(crate) fn touch(&mut self, shape: &Shape, lane: u32, key: Key) {
        if let Some(block) = shape.block_of(lane as usize) {
            self.touch_in(shape, block, lane, key);
        }
    }

    /// The same, of a node whose block is known.
    pub(crate) fn touch_in(&mut self, shape: &Shape, block: usize, lane: u32, key: Key) {
        self.blocks[block].touch(lane, key);
        self.note(block);
        self.lift(shape, block);
    }

    /// What is known of a block has changed: where it is better, what is above it follows; where it was the first
    /// of its group and is worse, what was known of the group is a bound from now on.
    fn lift(&mut self, shape: &Shape, block: usize) {
        let bound = *self.blocks[block].bound();
        let at = shape.group_of[block] as usize;
        let group = &mut self.groups[at];
        if bound.is_before(&group.bound) {
            let top = Top { bound, block: number(block) };
            *group = top;
            self.group_firsts[at] = bound.first;
            unmark(&mut self.doubtful_groups, at);
            let domain = shape.domain_of[at] as usize;
            if bound.is_before(&self.domains[domain].bound) {
                self.set_domain(domain, top);
            }
        } else if group.block as usize == block {
            mark(&mut self.doubtful_groups, at);
        }
    }

    /// Makes sure of the first of a domain. True when it was sure before.
    pub(crate) fn make_sure(
        &mut self,
        shape: &Shape,
        domain: usize,
        mut scan: impl FnMut(usize) -> Best,
    ) -> bool {
        let mut was_sure = true;
        loop {
            let block = self.domains[domain].block as usize;
            let Some(known) = self.blocks.get(block) else { return was_sure };
            let group = shape.group_of[block] as usize;
            if !is_marked(&self.doubtful_groups, group) {
                if known.is_certain() {
                    return was_sure;
                }
                self.fill(block, scan(block));
            }
            was_sure = false;
            self.look_through(shape, group);
        }
    }

    /// Looks through a group, and through its domain.
    fn look_through(&mut self, shape: &Shape, group: usize) {
        unmark(&mut self.doubtful_groups, group);
        self.look_through_group(shape, group);
        self.look_through_domain(shape, shape.domain_of[group] as usize);
    }

    fn look_through_group(&mut self, shape: &Shape, group: usize) {
        let top = self.first_of(range(&shape.group_starts, group));
        self.group_firsts[group] = top.bound.first;
        self.groups[group] = top;
    }

    /// The first of a range of blocks.
    fn first_of(&self, blocks: Range<usize>) -> Top {
        let firsts = &self.firsts[blocks.clone()];
        let first = least(firsts);
        if first == f64::INFINITY {
            return Top::NONE;
        }
        let rests = &self.rests[blocks.clone()];
        let at = earliest(firsts, first, |one, other| rests[one].order(&rests[other]));
        let block = blocks.start + at;
        Top { bound: *self.blocks[block].bound(), block: number(block) }
    }

    fn look_through_domain(&mut self, shape: &Shape, domain: usize) {
        let groups = range(&shape.domain_starts, domain);
        let firsts = &self.group_firsts[groups.clone()];
        let first = least(firsts);
        let top = if first == f64::INFINITY {
            Top::NONE
        } else {
            let groups = &self.groups[groups];
            let order = |one: usize, other: usize| groups[one].bound.order(&groups[other].bound);
            groups[earliest(firsts, first, order)]
        };
        self.set_domain(domain, top);
    }

    fn set_domain(&mut self, domain: usize, top: Top) {
        self.domain_firsts[domain] = top.bound.first;
        self.domains[domain] = top;
    }

    /// The best of a domain, or the bound of it: see [`Tree::make_sure`].
    pub(crate) fn domain(&self, domain: usize) -> &Key {
        &self.domains[domain].bound
    }

    /// What decides first about each domain.
    pub(crate) fn domain_firsts(&self) -> &[f64] {
        &self.domain_firsts
    }

    /// Looks away from a domain's best: another stands for it while `act` looks.
    pub(crate) fn with_domain<T>(
        &mut self,
        domain: usize,
        instead: Key,
        act: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let top = self.domains[domain];
        self.set_domain(domain, Top { bound: instead, block: NOWHERE });
        let found = act(self);
        self.set_domain(domain, top);
        found
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
            let Some(known) = self.blocks.get(first) else { return top.bound };
            let group = shape.group_of[first] as usize;
            // What was found of the block's own group was looked for just now.
            if group == own || !is_marked(&self.doubtful_groups, group) {
                if known.is_certain() {
                    return top.bound;
                }
                self.fill(first, scan(first));
            }
            self.look_through(shape, group);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let of_block =
            size_of::<Best>() + size_of::<Glance>() + size_of::<f64>() + size_of::<Rest>();
        self.blocks.len() * of_block + (self.groups.len() + self.domains.len()) * size_of::<Top>()
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
