//! What is computed for 64 nodes side by side, with whatever vectors the processor has.
//!
//! Each lane goes through the same operations in the same order as [`crate::cost::dot`], and nothing is fused,
//! so the width of the vectors changes no bit of any result.

use fearless_simd::{
    Level, Select, Simd, SimdBase, SimdMask, dispatch, f32x16, f64x8, i32x16, mask64x8,
};

use crate::demand::{Amounts, DIMENSIONS};
use crate::fleet::lanes::BLOCK;
use crate::index::columns::{Block, Lane64, Room};

/// How many lanes one vector has.
const WIDTH: usize = 8;

/// The least costs of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Least {
    /// The least cost among the feasible nodes.
    pub(crate) least: f64,
    /// Which of them cost just that, as bits. None when none is feasible.
    pub(crate) ties: u64,
    /// The least cost among the others, and which cost just that.
    pub(crate) next: f64,
    pub(crate) next_ties: u64,
}

/// What a demand does to the costs of a block's nodes, by dimension.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Factors<'f> {
    /// The same to all of them.
    Alike(&'f [f64; DIMENSIONS]),
    /// To each its own.
    Each(&'f [Lane64; DIMENSIONS]),
}

/// The two least costs among the feasible nodes of a block; the second only where it is asked for. `weights` are
/// what points make of the costs, where there are any.
pub(crate) fn least_costs(
    level: Level,
    block: &Block,
    factors: Factors<'_>,
    weights: Option<&Lane64>,
    feasible: u64,
    with_next: bool,
) -> Least {
    match factors {
        Factors::Alike(factors) => {
            dispatch!(level, simd => {
                let factor = |r: usize, _| f64x8::splat(simd, factors[r]);
                least_costs_by(simd, block, factor, factors[2] != 0.0, weights, feasible, with_next)
            })
        }
        Factors::Each(factors) => {
            dispatch!(level, simd => {
                let factor = |r: usize, at| part(simd, &factors[r], at);
                least_costs_by(simd, block, factor, true, weights, feasible, with_next)
            })
        }
    }
}

/// Which nodes of a block lack a resource: for each dimension, as bits.
pub(crate) fn lacking(level: Level, block: &Block, wanted: &Amounts) -> [u64; DIMENSIONS] {
    dispatch!(level, simd => lacking_by(simd, block, wanted))
}

/// So many figures are looked at by one step.
pub(crate) const FEW: usize = HALF_WIDTH;

/// What nobody in each of many patches of cells costs less than, of the least figures in it, which are whole steps; gives the
/// least of them all. Each step has the factors of its owner.
pub(crate) fn bounds(
    level: Level,
    least: &[Vec<f32>; DIMENSIONS],
    factors: &[[f32; DIMENSIONS]],
    owners: &[u32],
    bounds: &mut [f32],
) -> f32 {
    dispatch!(level, simd => bounds_by(simd, least, factors, owners, bounds))
}

/// The same of 16 cells, and in which of them that is at most this, as bits.
pub(crate) fn few_bounds(
    level: Level,
    least: &[[f32; HALF_WIDTH]; DIMENSIONS],
    factors: &[f32; DIMENSIONS],
    most: f32,
) -> ([f32; HALF_WIDTH], u64) {
    dispatch!(level, simd => few_bounds_by(simd, least, factors, most))
}

/// About what each of 16 nodes of some rows costs, row by row, and the least two of these figures. `row` gives the figures
/// of a row and what the demand does to them.
pub(crate) fn costs_of_rows<'r>(
    level: Level,
    rows: &[u32],
    row: impl Fn(u32) -> (&'r [[f32; FEW]; DIMENSIONS], &'r [f32; DIMENSIONS]),
    costs: &mut [f32],
) -> [f32; 2] {
    dispatch!(level, simd => costs_of_rows_by(simd, rows, row, costs))
}

/// Calls with the place of each figure that is at most this; the figures are whole blocks of 64.
pub(crate) fn each_at_most(level: Level, figures: &[f32], most: f32, act: impl FnMut(usize)) {
    dispatch!(level, simd => each_at_most_by(simd, figures, most, act));
}

/// The least of some whole numbers; none of nothing.
pub(crate) fn least_number(level: Level, figures: &[i32]) -> Option<i32> {
    dispatch!(level, simd => least_number_by(simd, figures))
}

/// Calls with the place of each figure that is just this.
pub(crate) fn each_equal(level: Level, figures: &[i32], one: i32, act: impl FnMut(usize)) {
    dispatch!(level, simd => each_equal_by(simd, figures, one, act));
}

/// Which of 64 figures are at most this, as bits.
pub(crate) fn at_most(level: Level, figures: &[f32; BLOCK], most: f32) -> u64 {
    dispatch!(level, simd => at_most_by(simd, figures, most))
}

/// The least of 64 figures, and which are just that, as bits.
pub(crate) fn lowest(level: Level, figures: &[f32; BLOCK]) -> (f32, u64) {
    dispatch!(level, simd => lowest_by(simd, figures))
}

/// So many blocks' rooms make a vector.
pub(crate) const ROOMS: usize = HALF_WIDTH / DIMENSIONS;

/// Calls with the number of each block in whose room something is at most this.
pub(crate) fn each_without_room(level: Level, room: &[Room], below: &Room, act: impl FnMut(usize)) {
    dispatch!(level, simd => each_without_room_by(simd, room, below, act));
}

/// About what each of 64 nodes costs, and which of these figures are at most this, as bits.
pub(crate) fn rough_costs(
    level: Level,
    live: &[[f32; BLOCK]; DIMENSIONS],
    factors: &[f32; DIMENSIONS],
    most: f32,
    costs: &mut [f32; BLOCK],
) -> u64 {
    dispatch!(level, simd => rough_costs_by(simd, live, factors, most, costs))
}

/// How many figures of half the size one vector has.
const HALF_WIDTH: usize = 16;

#[inline(always)]
fn half_part<S: Simd>(simd: S, figures: &[f32], at: usize) -> f32x16<S> {
    f32x16::from_slice(simd, &figures[at * HALF_WIDTH..(at + 1) * HALF_WIDTH])
}

#[inline(always)]
fn rough_cost<S: Simd>(
    rows: [f32x16<S>; DIMENSIONS],
    factors: &[f32x16<S>; DIMENSIONS],
) -> f32x16<S> {
    let [cpu, memory, disk, tasks] = rows;
    ((cpu * factors[0] + memory * factors[1]) + disk * factors[2]) + tasks * factors[3]
}

#[inline(always)]
fn bounds_by<S: Simd>(
    simd: S,
    least: &[Vec<f32>; DIMENSIONS],
    factors: &[[f32; DIMENSIONS]],
    owners: &[u32],
    bounds: &mut [f32],
) -> f32 {
    let [cpu, memory, disk, tasks] = least.each_ref().map(|row| row.as_chunks::<HALF_WIDTH>().0);
    let mut first = f32x16::splat(simd, f32::INFINITY);
    let rows = cpu.iter().zip(memory).zip(disk.iter().zip(tasks)).zip(owners);
    for ((((cpu, memory), (disk, tasks)), owner), bound) in rows.zip(bounds.as_chunks_mut().0) {
        let Some(factors) = factors.get(*owner as usize) else { continue };
        let factors = factors.map(|factor| f32x16::splat(simd, factor));
        let rows = [cpu, memory, disk, tasks].map(|row| f32x16::from_slice(simd, row));
        let cost = rough_cost(rows, &factors);
        *bound = cost.into();
        first = first.min(cost);
    }
    least_of_few(&first.into())
}

#[inline(always)]
fn few_bounds_by<S: Simd>(
    simd: S,
    least: &[[f32; HALF_WIDTH]; DIMENSIONS],
    factors: &[f32; DIMENSIONS],
    most: f32,
) -> ([f32; HALF_WIDTH], u64) {
    let factors = factors.map(|factor| f32x16::splat(simd, factor));
    let rows = least.each_ref().map(|row| f32x16::from_slice(simd, row));
    let costs = rough_cost(rows, &factors);
    (costs.into(), costs.simd_le(f32x16::splat(simd, most)).to_bitmask())
}

#[inline(always)]
fn costs_of_rows_by<'r, S: Simd>(
    simd: S,
    rows: &[u32],
    row: impl Fn(u32) -> (&'r [[f32; FEW]; DIMENSIONS], &'r [f32; DIMENSIONS]),
    costs: &mut [f32],
) -> [f32; 2] {
    let mut least = f32x16::splat(simd, f32::INFINITY);
    let mut next = least;
    for (at, costs) in rows.iter().zip(costs.as_chunks_mut::<FEW>().0) {
        let (live, factors) = row(*at);
        let factors = factors.map(|factor| f32x16::splat(simd, factor));
        let cost = rough_cost(live.each_ref().map(|row| f32x16::from_slice(simd, row)), &factors);
        *costs = cost.into();
        (least, next) = (least.min(cost), next.min(least.max(cost)));
    }
    let first = least_of_few(&least.into());
    let is_first = least.simd_eq(f32x16::splat(simd, first));
    if is_first.to_bitmask().count_ones() > 1 {
        return [first; 2];
    }
    [first, least_of_few(&is_first.select(next, least).into())]
}

/// The least of 16 figures, by halves: many are compared at once so.
#[inline(always)]
pub(crate) fn least_of_few(figures: &[f32; FEW]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|at| lesser(figures[at], figures[at + 8]));
    let four: [f32; 4] = std::array::from_fn(|at| lesser(eight[at], eight[at + 4]));
    lesser(lesser(four[0], four[2]), lesser(four[1], four[3]))
}

#[inline(always)]
pub(crate) fn lesser(one: f32, other: f32) -> f32 {
    if other < one { other } else { one }
}

#[inline(always)]
fn each_at_most_by<S: Simd>(simd: S, figures: &[f32], most: f32, mut act: impl FnMut(usize)) {
    for (block, figures) in figures.as_chunks::<BLOCK>().0.iter().enumerate() {
        let mut bits = at_most_by(simd, figures, most);
        while bits != 0 {
            act(block * BLOCK + bits.trailing_zeros() as usize);
            bits &= bits - 1;
        }
    }
}

#[inline(always)]
fn least_number_by<S: Simd>(simd: S, figures: &[i32]) -> Option<i32> {
    let (chunks, rest) = figures.as_chunks::<FEW>();
    let most = i32x16::splat(simd, i32::MAX);
    let least = chunks.iter().fold(most, |least, chunk| least.min(i32x16::from_slice(simd, chunk)));
    let least = least.as_slice().iter().take(if chunks.is_empty() { 0 } else { FEW });
    least.chain(rest).copied().min()
}

#[inline(always)]
fn each_equal_by<S: Simd>(simd: S, figures: &[i32], one: i32, mut act: impl FnMut(usize)) {
    let (chunks, rest) = figures.as_chunks::<FEW>();
    let same = i32x16::splat(simd, one);
    for (at, chunk) in chunks.iter().enumerate() {
        let mut bits = i32x16::from_slice(simd, chunk).simd_eq(same).to_bitmask();
        while bits != 0 {
            act(at * FEW + bits.trailing_zeros() as usize);
            bits &= bits - 1;
        }
    }
    let before = chunks.len() * FEW;
    let rest = rest.iter().enumerate().filter(|(_, figure)| **figure == one);
    rest.for_each(|(at, _)| act(before + at));
}

#[inline(always)]
fn at_most_by<S: Simd>(simd: S, figures: &[f32; BLOCK], most: f32) -> u64 {
    let most = f32x16::splat(simd, most);
    let mut bits = 0;
    for at in 0..BLOCK / HALF_WIDTH {
        bits |= half_part(simd, figures, at).simd_le(most).to_bitmask() << (at * HALF_WIDTH);
    }
    bits
}

#[inline(always)]
fn lowest_by<S: Simd>(simd: S, figures: &[f32; BLOCK]) -> (f32, u64) {
    let parts: [f32x16<S>; BLOCK / HALF_WIDTH] =
        std::array::from_fn(|at| half_part(simd, figures, at));
    let least = parts[0].min(parts[1]).min(parts[2].min(parts[3]));
    let least = least_of_few(&least.into());
    (least, at_most_by(simd, figures, least))
}

#[inline(always)]
fn each_without_room_by<S: Simd>(simd: S, room: &[Room], below: &Room, mut act: impl FnMut(usize)) {
    let below = f32x16::from_slice(simd, [*below; ROOMS].as_flattened());
    for (at, rooms) in room.as_chunks::<ROOMS>().0.iter().enumerate() {
        let mut bits = f32x16::from_slice(simd, rooms.as_flattened()).simd_le(below).to_bitmask();
        while bits != 0 {
            let block = bits.trailing_zeros() as usize / DIMENSIONS;
            act(at * ROOMS + block);
            bits &= u64::MAX << ((block + 1) * DIMENSIONS);
        }
    }
}

#[inline(always)]
fn rough_costs_by<S: Simd>(
    simd: S,
    live: &[[f32; BLOCK]; DIMENSIONS],
    factors: &[f32; DIMENSIONS],
    most: f32,
    costs: &mut [f32; BLOCK],
) -> u64 {
    let factors = factors.map(|factor| f32x16::splat(simd, factor));
    let most = f32x16::splat(simd, most);
    let mut bits = 0;
    for (at, costs) in costs.as_chunks_mut().0.iter_mut().enumerate() {
        let rows = live.each_ref().map(|row| half_part(simd, row, at));
        let cost = rough_cost(rows, &factors);
        *costs = cost.into();
        bits |= cost.simd_le(most).to_bitmask() << (at * HALF_WIDTH);
    }
    bits
}

#[inline(always)]
fn part<S: Simd>(simd: S, figures: &Lane64, at: usize) -> f64x8<S> {
    f64x8::from_slice(simd, &figures[at * WIDTH..(at + 1) * WIDTH])
}

#[inline(always)]
fn least_costs_by<S: Simd>(
    simd: S,
    block: &Block,
    factor: impl Fn(usize, usize) -> f64x8<S>,
    with_disk: bool,
    weights: Option<&Lane64>,
    feasible: u64,
    with_next: bool,
) -> Least {
    let [cpu, memory, disk, tasks] = &block.live;
    let nothing = f64x8::splat(simd, f64::INFINITY);
    let mut costs = [nothing; BLOCK / WIDTH];
    for (at, entry) in costs.iter_mut().enumerate() {
        let risen = |r: usize, row: &Lane64| part(simd, row, at) * factor(r, at);
        let mut cost = risen(0, cpu) + risen(1, memory);
        // What is not wanted would add a zero.
        if with_disk {
            cost += risen(2, disk);
        }
        cost += risen(3, tasks);
        if let Some(weights) = weights {
            cost *= part(simd, weights, at);
        }
        let can = mask64x8::from_bitmask(simd, feasible >> (at * WIDTH) & 0xff);
        *entry = can.select(cost, nothing);
    }
    let (least, ties) = least_of(simd, &costs);
    let (mut next, mut next_ties) = (f64::INFINITY, 0);
    if with_next {
        for (at, cost) in costs.iter_mut().enumerate() {
            let taken = mask64x8::from_bitmask(simd, ties >> (at * WIDTH) & 0xff);
            *cost = taken.select(nothing, *cost);
        }
        (next, next_ties) = least_of(simd, &costs);
        next_ties &= feasible & !ties;
    }
    Least { least, ties: ties & feasible, next, next_ties }
}

/// The least cost, and where it is, as bits.
#[inline(always)]
fn least_of<S: Simd>(simd: S, costs: &[f64x8<S>; BLOCK / WIDTH]) -> (f64, u64) {
    let halves = [costs[0].min(costs[1]), costs[2].min(costs[3])];
    let others = [costs[4].min(costs[5]), costs[6].min(costs[7])];
    let least = halves[0].min(halves[1]).min(others[0].min(others[1]));
    let least = least.as_slice().iter().copied().fold(f64::INFINITY, f64::min);
    let (same, mut ties) = (f64x8::splat(simd, least), 0);
    for (at, cost) in costs.iter().enumerate() {
        ties |= cost.simd_eq(same).to_bitmask() << (at * WIDTH);
    }
    (least, ties)
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
