//! The best of each block, of each group of blocks, and of each domain, mended where something changed.

use std::cmp::Ordering;
use std::ops::Range;

use crate::cost::Key;
use crate::index::best::{Best, Glance};
use crate::index::shape::{NOWHERE, Shape, number};

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
    fn of(key: &Key) -> Self {
        Self { second: key.second, tie: key.tie }
    }

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

    /// Gives the tree a shape's size. What it knows holds no more: each block is filled then, and [`Tree::finish`] says
    /// the rest, so that nothing need be wiped before.
    pub(crate) fn fit(&mut self, shape: &Shape) {
        self.blocks.resize(shape.blocks(), Best::NONE);
        self.glances.resize(shape.blocks(), Glance::NONE);
        self.firsts.resize(shape.blocks(), f64::INFINITY);
        self.rests.resize(shape.blocks(), Rest::of(&Key::NONE));
        self.group_firsts.resize(shape.groups(), f64::INFINITY);
        self.groups.resize(shape.groups(), Top::NONE);
        self.domains.resize(shape.domains(), Top::NONE);
        self.domain_firsts.resize(shape.domains(), f64::INFINITY);
        self.doubtful_groups.clear();
        self.doubtful_groups.resize(shape.groups().div_ceil(64), 0);
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
        let first = known.first();
        self.firsts[block] = first.first;
        self.rests[block] = Rest::of(&first);
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
            first = found.first().first;
            self.fill(block, found);
        }
        for block in 0..self.blocks.len() {
            if self.firsts[block] <= first && !self.blocks[block].is_certain() {
                let found = scan(block);
                first = less(found.first().first, first);
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
        self.blocks[block].touch(lane, &key);
        self.note(block);
        self.lift(shape, block);
    }

    /// What is known of a block has changed: where it is better, what is above it follows; where it was the first
    /// of its group and is worse, what was known of the group is a bound from now on.
    fn lift(&mut self, shape: &Shape, block: usize) {
        let bound = self.blocks[block].first();
        let at = shape.group_of(block);
        let group = &mut self.groups[at];
        if bound.is_before(&group.bound) {
            let top = Top { bound, block: number(block) };
            *group = top;
            self.group_firsts[at] = bound.first;
            unmark(&mut self.doubtful_groups, at);
            let domain = shape.domain_of_group(at);
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
            let group = shape.group_of(block);
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
        self.look_through_domain(shape, shape.domain_of_group(group));
    }

    fn look_through_group(&mut self, shape: &Shape, group: usize) {
        let top = self.first_of(shape.blocks_of(group));
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
        Top { bound: self.blocks[block].first(), block: number(block) }
    }

    fn look_through_domain(&mut self, shape: &Shape, domain: usize) {
        let top = self.first_of_groups(shape.groups_of(domain));
        self.set_domain(domain, top);
    }

    /// The first of a range of groups.
    fn first_of_groups(&self, groups: Range<usize>) -> Top {
        let firsts = &self.group_firsts[groups.clone()];
        let first = least(firsts);
        if first == f64::INFINITY {
            return Top::NONE;
        }
        let groups = &self.groups[groups];
        let order = |one: usize, other: usize| groups[one].bound.order(&groups[other].bound);
        groups[earliest(firsts, first, order)]
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
        let own = shape.group_of(block);
        loop {
            let top = self.first_without(shape, block);
            let first = top.block as usize;
            let Some(known) = self.blocks.get(first) else { return top.bound };
            if first == block {
                if known.knows_next() {
                    return top.bound;
                }
                self.fill(block, scan(block));
                continue;
            }
            let group = shape.group_of(first);
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

    /// The first of a block's domain as far as is known, were it not for the best of the block.
    fn first_without(&mut self, shape: &Shape, block: usize) -> Top {
        let next = self.blocks[block].next();
        let group = shape.group_of(block);
        let first = std::mem::replace(&mut self.firsts[block], next.first);
        let rest = std::mem::replace(&mut self.rests[block], Rest::of(&next));
        let mut top = self.first_of(shape.blocks_of(group));
        (self.firsts[block], self.rests[block]) = (first, rest);
        if top.block as usize == block {
            top.bound = next;
        }
        let first = std::mem::replace(&mut self.group_firsts[group], top.bound.first);
        let whole = std::mem::replace(&mut self.groups[group], top);
        let top = self.first_of_groups(shape.groups_of(shape.domain_of_group(group)));
        (self.group_firsts[group], self.groups[group]) = (first, whole);
        top
    }

    pub(crate) fn bytes(&self) -> usize {
        let of_block =
            size_of::<Best>() + size_of::<Glance>() + size_of::<f64>() + size_of::<Rest>();
        self.blocks.len() * of_block + (self.groups.len() + self.domains.len()) * size_of::<Top>()
    }
}
