//! Which lanes form a block, which blocks a group, and which groups a domain.

use std::ops::Range;

use crate::fleet::lanes::BLOCK;

/// How many blocks form a group, at least.
const GROUP_MIN: usize = 16;

/// How many blocks form a group, of so many: whoever looks for the first looks through the groups and through one of
/// them, which is least where both are as many.
fn group_size(blocks: usize) -> usize {
    blocks.isqrt().max(GROUP_MIN)
}

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
        let size = group_size(blocks);
        let groups = blocks.div_ceil(size).max(1);
        Self {
            order: None,
            group_starts: (0..=groups).map(|group| number((group * size).min(blocks))).collect(),
            domain_starts: vec![0, number(groups)],
            group_of: (0..blocks).map(|block| number(block / size)).collect(),
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
            let size = group_size(members.len().div_ceil(BLOCK));
            for group in members.chunks(size * BLOCK) {
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

    pub(super) fn groups(&self) -> usize {
        self.domain_of.len()
    }

    pub(super) fn domains(&self) -> usize {
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
        self.domain_of_group(self.group_of(block))
    }

    /// The domain that a lane is in, where lanes are not in their own order.
    pub(crate) fn ordered_domain_of(&self, lane: usize) -> Option<usize> {
        self.order.as_ref()?;
        Some(self.domain_of(self.block_of(lane)?))
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

    /// The group that a block is in.
    pub(super) fn group_of(&self, block: usize) -> usize {
        self.group_of[block] as usize
    }

    /// The blocks of a group.
    pub(super) fn blocks_of(&self, group: usize) -> Range<usize> {
        range(&self.group_starts, group)
    }

    /// The domain that a group is in.
    pub(super) fn domain_of_group(&self, group: usize) -> usize {
        self.domain_of[group] as usize
    }

    /// The groups of a domain.
    pub(super) fn groups_of(&self, domain: usize) -> Range<usize> {
        range(&self.domain_starts, domain)
    }
}

fn range(starts: &[u32], index: usize) -> Range<usize> {
    starts[index] as usize..starts[index + 1] as usize
}
