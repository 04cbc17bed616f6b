//! What is computed for 64 nodes side by side, with whatever vectors the processor has.
//!
//! Each lane goes through the same operations in the same order as [`crate::cost::dot`], and nothing is fused,
//! so the width of the vectors changes no bit of any result.

use fearless_simd::{Level, Select, Simd, SimdBase, SimdMask, dispatch, f64x8, mask64x8};

use crate::demand::{Amounts, DIMENSIONS};
use crate::fleet::lanes::BLOCK;
use crate::index::columns::{Block, Lane64};

/// How many lanes one vector has.
const WIDTH: usize = 8;

/// The least cost among the feasible nodes of a block, and which of them cost just that, as bits. No bits when
/// none is feasible.
pub(crate) fn least_cost(
    level: Level,
    block: &Block,
    factors: &[f64; DIMENSIONS],
    feasible: u64,
) -> (f64, u64) {
    dispatch!(level, simd => least_cost_by(simd, block, factors, feasible))
}

/// Which nodes of a block lack a resource: for each dimension, as bits.
pub(crate) fn lacking(level: Level, block: &Block, wanted: &Amounts) -> [u64; DIMENSIONS] {
    dispatch!(level, simd => lacking_by(simd, block, wanted))
}

#[inline(always)]
fn part<S: Simd>(simd: S, figures: &Lane64, at: usize) -> f64x8<S> {
    f64x8::from_slice(simd, &figures[at * WIDTH..(at + 1) * WIDTH])
}

#[inline(always)]
fn least_cost_by<S: Simd>(
    simd: S,
    block: &Block,
    factors: &[f64; DIMENSIONS],
    feasible: u64,
) -> (f64, u64) {
    let [cpu, memory, disk, tasks] = &block.live;
    let nothing = f64x8::splat(simd, f64::INFINITY);
    let (mut costs, mut least) = ([nothing; BLOCK / WIDTH], nothing);
    for (at, entry) in costs.iter_mut().enumerate() {
        let mut cost = part(simd, cpu, at) * factors[0] + part(simd, memory, at) * factors[1];
        // What is not wanted would add a zero.
        if factors[2] != 0.0 {
            cost += part(simd, disk, at) * factors[2];
        }
        cost += part(simd, tasks, at) * factors[3];
        let can = mask64x8::from_bitmask(simd, feasible >> (at * WIDTH) & 0xff);
        *entry = can.select(cost, nothing);
        least = least.min(*entry);
    }
    let least = least.as_slice().iter().copied().fold(f64::INFINITY, f64::min);
    let (same, mut ties) = (f64x8::splat(simd, least), 0);
    for (at, cost) in costs.iter().enumerate() {
        ties |= cost.simd_eq(same).to_bitmask() << (at * WIDTH);
    }
    (least, ties & feasible)
}

#[inline(always)]
fn lacking_by<S: Simd>(simd: S, block: &Block, wanted: &Amounts) -> [u64; DIMENSIONS] {
    let mut lacking = [0; DIMENSIONS];
    for ((lacking, free), wanted) in lacking.iter_mut().zip(&block.free).zip(wanted) {
        if *wanted == 0 {
            continue;
        }
        let wanted = f64x8::splat(simd, *wanted as f64);
        for at in 0..BLOCK / WIDTH {
            let lacks = wanted.simd_gt(part(simd, free, at));
            *lacking |= lacks.to_bitmask() << (at * WIDTH);
        }
    }
    lacking
}
