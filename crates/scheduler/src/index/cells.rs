//! Nodes whose figures are alike, kept together, so that whoever looks for the least cost need look at few of them.
//!
//! The nodes of one capacity, and with as many points against them, lie in *cells* of at most 64, and each cell knows the
//! least of each figure in it: that gives a bound on what anybody in it costs, whatever the demand. Cells follow a curve
//! through the space of figures, so that what lies together there costs alike, and those that are neighbours on it know the
//! same of all of them. A change moves one node, however many demands there are; a cell that is full is split, and one
//! that is nearly empty is joined with its neighbour.
//!
//! All of it is in figures of half the size, rounded down. They only say who need not be looked at: whoever may be the
//! best is judged by the figures of [`crate::index::columns`].
//!
//! | module | what lives there |
//! |---|---|
//! | [`atlas`] | the cells in their order, and what is known of those that are neighbours |
//! | [`curve`] | that order |

mod atlas;
mod curve;

use std::collections::BTreeSet;

use fearless_simd::Level;

use crate::demand::DIMENSIONS;
use crate::filter::Verdict;
use crate::fleet::Fleet;
use crate::index::columns::{Columns, Figures, rounded_down};
use crate::index::profile::Profile;
use crate::index::{kernel, number};
use atlas::Atlas;
use curve::code;

/// How many nodes a cell has at most.
pub(crate) const CELL: usize = 64;
/// A cell with fewer is joined with a neighbour if they have not more than so many together.
const JOINED_BELOW: usize = 16;
const JOINED_MAX: usize = 48;
/// Where a full cell is split, each side gets at least so many.
const SPLIT_MIN: usize = 8;

/// What costs are made of.
type Point = [f32; DIMENSIONS];

/// What stands where nobody is: beyond everybody, and still a number when it is multiplied by nothing.
pub(crate) const BEYOND: f32 = f32::MAX;

/// Nodes whose figures are alike.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(crate) struct Cell {
    /// The nodes come first, and behind them nobody.
    live: [[f32; CELL]; DIMENSIONS],
    lanes: [u32; CELL],
    nodes: usize,
    /// Where it begins on the curve, and before where it ends.
    start: u64,
    end: u64,
    /// The patch that it belongs to.
    patch: u32,
}

impl Cell {
    fn new(start: u64, end: u64, patch: u32) -> Self {
        let live = [[BEYOND; CELL]; DIMENSIONS];
        Self { live, lanes: [0; CELL], nodes: 0, start, end, patch }
    }

    /// Takes everybody out.
    fn emptied(&mut self) -> Self {
        let Self { start, end, patch, .. } = *self;
        std::mem::replace(self, Self::new(start, end, patch))
    }

    /// Whether a place on the curve belongs to it; of the very last one it may say that it does not.
    fn reaches(&self, code: u64) -> bool {
        (self.start..self.end).contains(&code)
    }

    fn point(&self, slot: usize) -> Point {
        std::array::from_fn(|r| self.live[r][slot])
    }

    fn set(&mut self, slot: usize, point: &Point) {
        (0..DIMENSIONS).for_each(|r| self.live[r][slot] = point[r]);
    }

    /// Which of its nodes may cost no more than this, as bits, and about what each costs.
    pub(crate) fn within(
        &self,
        level: Level,
        factors: &Point,
        most: f32,
        costs: &mut [f32; CELL],
    ) -> u64 {
        let bits = kernel::rough_costs(level, &self.live, factors, most, costs);
        bits & u64::MAX.checked_shl(self.nodes as u32).map_or(u64::MAX, |beyond| !beyond)
    }

    pub(crate) fn lane(&self, slot: usize) -> u32 {
        self.lanes[slot]
    }
}

/// Where a node is.
#[derive(Debug, Clone, Copy)]
struct Place {
    cell: u32,
    slot: u32,
}

const NOWHERE: Place = Place { cell: u32::MAX, slot: 0 };

/// What the nodes of a group have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The class of their capacity.
    pub(crate) class: u32,
    /// The points against them that their labels and attributes decide, where those are told apart.
    pub(crate) points: i32,
}

/// The cells of all nodes that nothing stands in the way of, or of those that a profile lets through.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    atlas: Atlas,
    /// The groups of each class of capacity, with their points.
    of_class: Vec<Vec<(i32, u32)>>,
    /// By lane.
    places: Vec<Place>,
    /// The lanes of those who have no fresh measurement, who are in no cell.
    stale: BTreeSet<u32>,
    /// Up to where the fleet's journal was read.
    read: u64,
    base_log2: u32,
}

impl Cells {
    /// Moves the nodes that have changed. `profile` says who is let through and what their labels count, where that is
    /// told apart.
    pub(crate) fn catch_up(&mut self, fleet: &Fleet, columns: &Columns, profile: Option<&Profile>) {
        let end = fleet.journal().end();
        let is_base_new = self.base_log2 != fleet.base_log2();
        if self.read == end && !is_base_new {
            return;
        }
        let lanes = fleet.lanes().len();
        let changed = fleet.journal().lanes_since(self.read).filter(|_| !is_base_new);
        let is_known = changed.is_some();
        if !is_known {
            *self = Self::default();
        }
        self.places.resize(lanes, NOWHERE);
        let mut set = |lane: u32| {
            let points = match profile {
                Some(profile) => profile.points_if_allowed(lane as usize),
                None => Some(0),
            };
            self.set(lane, columns.node(lane as usize), points);
        };
        match changed {
            Some(changed) => changed.for_each(set),
            None => (0..).take(lanes).for_each(&mut set),
        }
        (self.read, self.base_log2) = (end, fleet.base_log2());
    }

    /// How many changes it has not heard of; `None` where it would begin anew.
    pub(crate) fn behind(&self, fleet: &Fleet) -> Option<u64> {
        let is_known = self.base_log2 == fleet.base_log2();
        let changes = fleet.journal().lanes_since(self.read).filter(|_| is_known);
        changes.map(|_| fleet.journal().end() - self.read)
    }

    /// What the nodes of each group have in common.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = Kind> + Clone {
        self.atlas.kinds()
    }

    /// How many cells there are.
    pub(crate) fn len(&self) -> usize {
        self.atlas.len()
    }

    /// Nodes that nothing stands in the way of but that they have no fresh measurement.
    pub(crate) fn stale(&self) -> &BTreeSet<u32> {
        &self.stale
    }

    /// A node stands here now, with so many points against it; `None` where it counts for nobody.
    fn set(&mut self, lane: u32, node: &Figures, points: Option<i32>) {
        let points = points.filter(|_| node.standing == Verdict::FEASIBLE);
        if points.is_some() && node.is_stale {
            self.stale.insert(lane);
        } else {
            self.stale.remove(&lane);
        }
        let place = self.places[lane as usize];
        let Some(points) = points.filter(|_| !node.is_stale) else { return self.take(place) };
        let point = node.live.map(rounded_down);
        let group = self.group(Kind { class: node.class, points });
        let code = code(&point);
        if self.atlas.get(place.cell).is_some_and(|(cell, of)| of == group && cell.reaches(code)) {
            let cell = self.atlas.cell_mut(place.cell);
            let before = cell.point(place.slot as usize);
            cell.set(place.slot as usize, &point);
            self.atlas.raise_least(place.cell, &before);
            return self.atlas.lower_least(place.cell, &point);
        }
        self.take(place);
        self.put(group, lane, &point, code);
    }

    /// The group of a kind, which is made where there is none.
    fn group(&mut self, kind: Kind) -> u32 {
        let class = kind.class as usize;
        if self.of_class.len() <= class {
            self.of_class.resize(class + 1, Vec::new());
        }
        let same = &mut self.of_class[class];
        if let Some((_, group)) = same.iter().find(|(points, _)| *points == kind.points) {
            return *group;
        }
        let new = self.atlas.begin(kind);
        same.push((kind.points, new));
        new
    }

    fn put(&mut self, group: u32, lane: u32, point: &Point, code: u64) {
        let mut cell = self.atlas.cell_of(group, code);
        if self.atlas.cell(cell).nodes == CELL {
            self.split(cell);
            cell = self.atlas.cell_of(group, code);
        }
        self.push(cell, lane, point);
    }

    /// Puts a node into a cell that has room.
    fn push(&mut self, cell: u32, lane: u32, point: &Point) {
        let into = self.atlas.cell_mut(cell);
        let slot = into.nodes;
        into.set(slot, point);
        into.lanes[slot] = lane;
        into.nodes += 1;
        self.atlas.lower_least(cell, point);
        self.places[lane as usize] = Place { cell, slot: number(slot) };
    }

    /// Takes a node out of its cell, if it is in one; the last of the cell takes its place.
    fn take(&mut self, place: Place) {
        if place.cell == NOWHERE.cell {
            return;
        }
        let cell = self.atlas.cell_mut(place.cell);
        let (slot, last) = (place.slot as usize, cell.nodes - 1);
        let taken = cell.point(slot);
        self.places[cell.lanes[slot] as usize] = NOWHERE;
        if slot != last {
            let (moved, point) = (cell.lanes[last], cell.point(last));
            cell.set(slot, &point);
            cell.lanes[slot] = moved;
            self.places[moved as usize] = place;
        }
        cell.set(last, &[BEYOND; DIMENSIONS]);
        cell.nodes = last;
        self.atlas.raise_least(place.cell, &taken);
        if last < JOINED_BELOW {
            self.join(place.cell);
        }
    }

    /// Joins a cell with a neighbour, if they have room together.
    fn join(&mut self, cell: u32) {
        let [before, after] = self.atlas.neighbours(cell);
        let nodes = |cell: Option<u32>| cell.map_or(CELL, |cell| self.atlas.cell(cell).nodes);
        let least = nodes(before).min(nodes(after));
        if nodes(Some(cell)) + least > JOINED_MAX {
            return;
        }
        // The later one goes into the earlier one, which then reaches as far.
        let is_later = nodes(before) == least;
        let (stays, goes) = if is_later { (before, Some(cell)) } else { (Some(cell), after) };
        let (Some(stays), Some(goes)) = (stays, goes) else { return };
        let moved = self.atlas.cell_mut(goes).emptied();
        self.atlas.remove(goes, stays);
        for slot in 0..moved.nodes {
            self.push(stays, moved.lanes[slot], &moved.point(slot));
        }
    }

    /// Splits a full cell where its codes differ first, if that leaves enough on each side.
    fn split(&mut self, cell: u32) {
        let full = self.atlas.cell_mut(cell).emptied();
        self.atlas.forget_least(cell);
        let mut slots: [(u64, usize); CELL] =
            std::array::from_fn(|slot| (code(&full.point(slot)), slot));
        slots.sort_unstable();
        let differ = slots[0].0 ^ slots[CELL - 1].0;
        let bit = differ.checked_ilog2().unwrap_or(0);
        let low = slots.partition_point(|(code, _)| (code ^ slots[0].0) >> bit & 1 == 0);
        let is_even = differ != 0 && (SPLIT_MIN..=CELL - SPLIT_MIN).contains(&low);
        let mut cut = if is_even { low } else { CELL / 2 };
        // Those of one code stay together where they can: they are looked for by it.
        while cut > 1 && cut < CELL && slots[cut - 1].0 == slots[cut].0 && differ != 0 {
            cut += 1;
        }
        if cut == CELL {
            cut = slots.partition_point(|(code, _)| *code < slots[CELL - 1].0);
        }
        let cut = if differ == 0 { CELL / 2 } else { cut };
        let upper = self.atlas.divide(cell, slots[cut].0);
        for (at, (_, slot)) in slots.into_iter().enumerate() {
            let into = if at < cut { cell } else { upper };
            self.push(into, full.lanes[slot], &full.point(slot));
        }
    }

    /// What nobody in each patch of cells costs less than, by what the demand does to the costs of each group. Gives the
    /// least that is known of any cell, and which it is; `None` where nobody is or everybody costs more than this.
    pub(crate) fn bounds(
        &self,
        level: Level,
        factors: &[Point],
        most: f32,
        bounds: &mut Vec<f32>,
    ) -> Option<(f32, u32)> {
        self.atlas.bounds(level, factors, most, bounds)
    }

    /// Calls with each cell of a patch in which somebody may cost no more than this, and with what nobody there costs less
    /// than.
    pub(crate) fn each_within(
        &self,
        level: Level,
        patch: usize,
        factors: &[Point],
        most: f32,
        act: impl FnMut(f32, u32),
    ) {
        self.atlas.each_within(level, patch, factors, most, act);
    }

    /// A cell with its group; none behind the last one.
    pub(crate) fn cell(&self, cell: u32) -> Option<(&Cell, u32)> {
        self.atlas.get(cell)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const LANES: u32 = 300;

    /// A node of a class whose figures are this, open and measured unless it is said otherwise.
    fn node(class: u32, live: [f64; DIMENSIONS], standing: Verdict, is_stale: bool) -> Figures {
        let (free, room) = ([1.0; DIMENSIONS], [1.0; DIMENSIONS]);
        Figures { live, free, room, committed: live, tie: 0, class, standing, is_stale }
    }

    /// Every node that is expected is where it is looked for, with what nobody in its cell is below, and nobody else is.
    fn check(cells: &Cells, expected: &BTreeMap<u32, Figures>) {
        let mut found = 0;
        for (kind, cell) in cells.atlas.check() {
            let in_cell = cells.atlas.cell(cell);
            found += in_cell.nodes;
            for slot in 0..CELL {
                let point = in_cell.point(slot);
                if slot >= in_cell.nodes {
                    assert_eq!(point, [BEYOND; DIMENSIONS]);
                    continue;
                }
                let lane = in_cell.lanes[slot];
                let node = &expected[&lane];
                assert_eq!((node.class, node.live.map(rounded_down)), (kind.class, point));
                let Place { cell: at, slot: place } = cells.places[lane as usize];
                assert_eq!((at, place), (cell, number(slot)));
            }
        }
        assert_eq!(found, expected.len());
    }

    proptest! {
        #[test]
        fn every_node_is_in_one_cell_that_knows_the_least_of_its_figures(
            steps in proptest::collection::vec(
                (0..LANES, 0..2_u32, 0..12_u32, 0..12_u32, 0..10_u8), 1..2000
            )
        ) {
            let mut cells = Cells::default();
            cells.places.resize(LANES as usize, NOWHERE);
            let mut expected = BTreeMap::new();
            for (lane, class, cpu, memory, act) in steps {
                let live = [f64::from(cpu).exp2(), f64::from(memory) / 3.0, 0.0, 1.0];
                let standing = if act == 0 { Verdict::VACANT } else { Verdict::FEASIBLE };
                let node = node(class, live, standing, act == 1);
                cells.set(lane, &node, Some(0));
                if act > 1 {
                    expected.insert(lane, node);
                } else {
                    expected.remove(&lane);
                }
                prop_assert_eq!(cells.stale.contains(&lane), act == 1);
            }
            check(&cells, &expected);
            for lane in expected.keys().copied().collect::<Vec<u32>>() {
                cells.set(lane, &node(0, [1.0; DIMENSIONS], Verdict::VACANT, false), Some(0));
            }
            check(&cells, &BTreeMap::new());
            let groups = cells.kinds().count();
            prop_assert!(cells.atlas.check().len() <= groups, "all are joined");
        }
    }

    #[test]
    fn thousands_of_nodes_come_and_go() {
        let (lanes, mut cells, mut expected) = (6_000, Cells::default(), BTreeMap::new());
        cells.places.resize(lanes as usize, NOWHERE);
        // Each is somewhere else; those of later rounds come to where there are many already.
        for (round, by) in [(0, 7), (1, 13), (2, 31)] {
            for lane in (0..lanes).filter(|lane| lane % 3 == round || round == 2) {
                let figure = |by: u32| f64::from(1 + lane * by % 997) / 7.0;
                let node = node(0, [figure(by), figure(17), 1.0, 2.0], Verdict::FEASIBLE, false);
                cells.set(lane, &node, Some(0));
                expected.insert(lane, node);
            }
            check(&cells, &expected);
        }
        assert!(cells.atlas.check().len() > 100);
        // In another order, for 77 and 6,000 have no common factor.
        for lane in (0..lanes).map(|at| at * 77 % lanes) {
            cells.set(lane, &node(0, [1.0; DIMENSIONS], Verdict::VACANT, false), Some(0));
            expected.remove(&lane);
            if lane % 500 == 0 {
                check(&cells, &expected);
            }
        }
        check(&cells, &BTreeMap::new());
        assert_eq!(cells.atlas.check().len(), 1, "all are joined");
    }

    #[test]
    fn nodes_alike_fill_cells_and_others_lie_apart() {
        let mut cells = Cells::default();
        cells.places.resize(LANES as usize, NOWHERE);
        for lane in 0..LANES {
            let live = [if lane % 2 == 0 { 1.0 } else { 8.0 }, 1.0, 1.0, 1.0];
            cells.set(lane, &node(0, live, Verdict::FEASIBLE, false), Some(0));
        }
        let all = cells.atlas.check();
        assert!(all.len() <= LANES as usize / (CELL / 2) + 1, "{}", all.len());
        for (_, cell) in all {
            let cell = cells.atlas.cell(cell);
            assert!((1..cell.nodes).all(|slot| cell.point(slot) == cell.point(0)));
        }
    }

    #[test]
    fn bounds_are_below_what_anybody_costs() {
        let mut cells = Cells::default();
        cells.places.resize(LANES as usize, NOWHERE);
        for lane in 0..LANES {
            let figure = |by: u32| f64::from(1 + lane * by % 97) / 7.0;
            let live = [figure(31), figure(17), figure(53), figure(71)];
            cells.set(lane, &node(lane % 3, live, Verdict::FEASIBLE, false), Some(0));
        }
        let factors = [[0.3, 0.1, 0.0, 0.7], [0.2, 0.9, 0.4, 0.1], [0.0, 0.0, 1e-9, 0.5]];
        let (level, mut bounds) = (Level::new(), Vec::new());
        let (first, best) = cells.bounds(level, &factors, f32::INFINITY, &mut bounds).unwrap();
        let (mut costs, mut nodes, mut asked) = ([0.0; CELL], 0, Vec::new());
        for (patch, of_patch) in bounds.iter().enumerate() {
            cells.each_within(level, patch, &factors, f32::INFINITY, |bound, cell| {
                assert!(of_patch <= &bound && first <= bound, "{of_patch} {first} {bound}");
                asked.push(cell);
                let (cell, group) = cells.cell(cell).unwrap();
                let factors = &factors[group as usize];
                let bits = cell.within(level, factors, f32::INFINITY, &mut costs);
                assert_eq!(bits.count_ones() as usize, cell.nodes);
                assert!(costs[..cell.nodes].iter().all(|cost| *cost >= bound));
                nodes += cell.nodes;
            });
        }
        assert_eq!(nodes, LANES as usize);
        assert!(asked.contains(&best));
        asked.sort_unstable();
        asked.dedup();
        assert_eq!(asked.len(), cells.atlas.check().len(), "each cell once");
    }
}
