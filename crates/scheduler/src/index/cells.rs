//! Nodes whose figures are alike, kept together, so that whoever looks for the least cost need look at few of them.
//!
//! The nodes of one capacity, and with as many points against them, lie in *cells* of at most 64, and each cell knows the
//! least of each figure in it: that gives a bound on what anybody in it costs, whatever the demand. Cells follow a curve
//! through the space of figures (Z-order: the bits of the figures in turn), so that what lies together there costs alike. A
//! change moves one node, however many demands there are; a cell that is full is split, and one that is nearly empty is
//! joined with its neighbour.
//!
//! All of it is in figures of half the size, rounded down. They only say who need not be looked at: whoever may be the
//! best is judged by the figures of [`crate::index::columns`].

use std::collections::BTreeSet;

use fearless_simd::Level;

use crate::demand::DIMENSIONS;
use crate::filter::Verdict;
use crate::fleet::Fleet;
use crate::index::columns::{Columns, Figures, rounded_down};
use crate::index::kernel;
use crate::index::profile::Profile;

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
const BEYOND: f32 = f32::MAX;

/// Where a point lies on the curve.
fn code(point: &Point) -> u64 {
    let one = 1.0_f32.to_bits();
    // Of a number that is not negative the bits are about its logarithm: eleven of them tell a doubling apart.
    let step = |figure: &f32| u64::from((figure.to_bits().saturating_sub(one) >> 12).min(0xffff));
    point.iter().fold(0, |code, figure| code << 1 | every_fourth(step(figure)))
}

/// The lowest 16 bits, three places between any two of them.
fn every_fourth(bits: u64) -> u64 {
    let bits = (bits | bits << 24) & 0x0000_00ff_0000_00ff;
    let bits = (bits | bits << 12) & 0x000f_000f_000f_000f;
    let bits = (bits | bits << 6) & 0x0303_0303_0303_0303;
    (bits | bits << 3) & 0x1111_1111_1111_1111
}

/// Nodes whose figures are alike.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(crate) struct Cell {
    /// The nodes come first, and behind them nobody.
    live: [[f32; CELL]; DIMENSIONS],
    lanes: [u32; CELL],
    nodes: usize,
    /// Where it begins on the curve.
    start: u64,
}

impl Cell {
    fn new(start: u64) -> Self {
        Self { live: [[BEYOND; CELL]; DIMENSIONS], lanes: [0; CELL], nodes: 0, start }
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
    group: u32,
    cell: u32,
    slot: u32,
}

const NOWHERE: Place = Place { group: u32::MAX, cell: u32::MAX, slot: 0 };

/// What the nodes of a group have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The class of their capacity.
    pub(crate) class: u32,
    /// The points against them that their labels and attributes decide, where those are told apart.
    pub(crate) points: i32,
}

/// The cells of the nodes of one kind.
#[derive(Debug)]
struct Group {
    kind: Kind,
    cells: Vec<Cell>,
    /// The least figures of each cell, by dimension; [`BEYOND`] behind the last one, so that they end with a whole block.
    least: [Vec<f32>; DIMENSIONS],
    /// Where each cell begins on the curve, in this order, and which it is.
    order: Vec<(u64, u32)>,
    vacant: Vec<u32>,
}

impl Group {
    fn new(kind: Kind) -> Self {
        let (cells, order, vacant) = (Vec::new(), Vec::new(), Vec::new());
        Self { kind, cells, least: Default::default(), order, vacant }
    }

    fn add(&mut self, start: u64) -> u32 {
        if let Some(cell) = self.vacant.pop() {
            self.cells[cell as usize] = Cell::new(start);
            return cell;
        }
        self.cells.push(Cell::new(start));
        let blocks = self.cells.len().div_ceil(CELL);
        self.least.iter_mut().for_each(|least| least.resize(blocks * CELL, BEYOND));
        u32::try_from(self.cells.len() - 1).unwrap_or(u32::MAX)
    }

    /// Where in the order the cell of a point is.
    fn position(&self, code: u64) -> usize {
        self.order.partition_point(|(start, _)| *start <= code).saturating_sub(1)
    }

    /// Where in the order a cell is.
    fn position_of(&self, cell: u32) -> usize {
        let start = self.cells[cell as usize].start;
        let first = self.order.partition_point(|(one, _)| *one < start);
        let among = self.order[first..].iter().position(|(_, one)| *one == cell);
        first + among.unwrap_or(0)
    }

    /// Nobody is in the cell any more.
    fn forget_least(&mut self, cell: u32) {
        self.least.iter_mut().for_each(|least| least[cell as usize] = BEYOND);
    }

    /// Somebody has gone who stood here.
    fn raise_least(&mut self, cell: u32, gone: &Point) {
        let Cell { live, .. } = &self.cells[cell as usize];
        for ((least, live), gone) in self.least.iter_mut().zip(live).zip(gone) {
            let least = &mut least[cell as usize];
            if *gone <= *least {
                *least = least_of(live);
            }
        }
    }

    fn lower_least(&mut self, cell: u32, point: &Point) {
        for (least, figure) in self.least.iter_mut().zip(point) {
            let least = &mut least[cell as usize];
            *least = if *figure < *least { *figure } else { *least };
        }
    }
}

/// The least of 64 figures.
pub(crate) fn least_of(figures: &[f32; CELL]) -> f32 {
    let mut least = [BEYOND; 16];
    for chunk in figures.as_chunks::<16>().0 {
        for (least, figure) in least.iter_mut().zip(chunk) {
            *least = if *figure < *least { *figure } else { *least };
        }
    }
    least.into_iter().fold(BEYOND, |least, figure| if figure < least { figure } else { least })
}

/// The cells of all nodes that nothing stands in the way of, or of those that a profile lets through.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    groups: Vec<Group>,
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
    pub(crate) fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.groups.iter().map(|group| group.kind)
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
        let of_group = &mut self.groups[group as usize];
        if place.group == group
            && of_group.order.get(of_group.position(code)).is_some_and(|one| one.1 == place.cell)
        {
            let cell = &mut of_group.cells[place.cell as usize];
            let before = cell.point(place.slot as usize);
            cell.set(place.slot as usize, &point);
            of_group.raise_least(place.cell, &before);
            return of_group.lower_least(place.cell, &point);
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
        let new = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        same.push((kind.points, new));
        self.groups.push(Group::new(kind));
        new
    }

    fn put(&mut self, group: u32, lane: u32, point: &Point, code: u64) {
        let of_group = &mut self.groups[group as usize];
        if of_group.order.is_empty() {
            let cell = of_group.add(0);
            of_group.order.push((0, cell));
        }
        let mut position = of_group.position(code);
        if of_group.cells[of_group.order[position].1 as usize].nodes == CELL {
            self.split(group, position);
            position = self.groups[group as usize].position(code);
        }
        let cell = self.groups[group as usize].order[position].1;
        self.push(group, cell, lane, point);
    }

    /// Puts a node into a cell that has room.
    fn push(&mut self, group: u32, cell: u32, lane: u32, point: &Point) {
        let of_group = &mut self.groups[group as usize];
        let into = &mut of_group.cells[cell as usize];
        let slot = into.nodes;
        into.set(slot, point);
        into.lanes[slot] = lane;
        into.nodes += 1;
        of_group.lower_least(cell, point);
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        self.places[lane as usize] = Place { group, cell, slot };
    }

    /// Takes a node out of its cell; the last of the cell takes its place.
    fn take(&mut self, place: Place) {
        let Some(of_group) = self.groups.get_mut(place.group as usize) else { return };
        let cell = &mut of_group.cells[place.cell as usize];
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
        of_group.raise_least(place.cell, &taken);
        if last < JOINED_BELOW {
            self.join(place.group, place.cell);
        }
    }

    /// Joins a cell with a neighbour, if they have room together.
    fn join(&mut self, group: u32, cell: u32) {
        let of_group = &mut self.groups[group as usize];
        let position = of_group.position_of(cell);
        let nodes = |at: usize| {
            of_group.order.get(at).map_or(CELL, |(_, cell)| of_group.cells[*cell as usize].nodes)
        };
        let (before, after) = (nodes(position.wrapping_sub(1)), nodes(position + 1));
        let own = of_group.cells[cell as usize].nodes;
        if own + before.min(after) > JOINED_MAX {
            return;
        }
        let other = if before <= after { position - 1 } else { position + 1 };
        // The later one goes into the earlier one, which then reaches as far.
        let (stays, goes) = (position.min(other), position.max(other));
        let (_, into) = of_group.order[stays];
        let (_, gone) = of_group.order.remove(goes);
        let moved = std::mem::replace(&mut of_group.cells[gone as usize], Cell::new(0));
        of_group.forget_least(gone);
        of_group.vacant.push(gone);
        for slot in 0..moved.nodes {
            self.push(group, into, moved.lanes[slot], &moved.point(slot));
        }
    }

    /// Splits a full cell where its codes differ first, if that leaves enough on each side.
    fn split(&mut self, group: u32, position: usize) {
        let of_group = &mut self.groups[group as usize];
        let (start, cell) = of_group.order[position];
        let full = std::mem::replace(&mut of_group.cells[cell as usize], Cell::new(start));
        of_group.forget_least(cell);
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
        let upper_start = slots[cut].0;
        let upper = of_group.add(upper_start);
        of_group.order.insert(position + 1, (upper_start, upper));
        for (at, (_, slot)) in slots.into_iter().enumerate() {
            let into = if at < cut { cell } else { upper };
            self.push(group, into, full.lanes[slot], &full.point(slot));
        }
    }

    /// What nobody in each cell costs less than, by group; gives the least of all, and in which group and cell it is.
    pub(crate) fn bounds(
        &self,
        level: Level,
        factors: &[Point],
        bounds: &mut Vec<Vec<f32>>,
    ) -> (f32, usize, usize) {
        bounds.resize_with(self.groups.len(), Vec::new);
        let mut first = (f32::INFINITY, 0, 0);
        for (at, (group, bounds)) in self.groups.iter().zip(bounds.iter_mut()).enumerate() {
            bounds.resize(group.least[0].len(), 0.0);
            let Some(factors) = factors.get(at) else { continue };
            let least = kernel::bounds(level, &group.least, factors, bounds);
            if least < first.0 {
                first = (least, at, 0);
            }
        }
        if let Some(bounds) = bounds.get(first.1) {
            let blocks = bounds.as_chunks::<CELL>().0.iter().enumerate();
            let of_least = |(at, bounds)| match kernel::at_most(level, bounds, first.0) {
                0 => None,
                bits => Some(at * CELL + bits.trailing_zeros() as usize),
            };
            first.2 = { blocks }.find_map(of_least).unwrap_or(0);
        }
        first
    }

    /// A cell of a group; none behind the last one.
    pub(crate) fn cell(&self, group: usize, cell: usize) -> Option<&Cell> {
        self.groups.get(group)?.cells.get(cell)
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
        let free = [1.0; DIMENSIONS];
        Figures { live, free, committed: live, tie: 0, class, standing, is_stale }
    }

    /// Every node that is expected is where it is looked for, with what nobody in its cell is below, and nobody else is.
    fn check(cells: &Cells, expected: &BTreeMap<u32, Figures>) {
        let mut found = 0;
        for group in &cells.groups {
            assert!(group.order.is_sorted_by_key(|(start, _)| *start));
            assert_eq!(group.order.len() + group.vacant.len(), group.cells.len());
            for (_, at) in &group.order {
                let cell = &group.cells[*at as usize];
                found += cell.nodes;
                for slot in 0..CELL {
                    let point = cell.point(slot);
                    if slot >= cell.nodes {
                        assert_eq!(point, [BEYOND; DIMENSIONS]);
                        continue;
                    }
                    let node = &expected[&cell.lanes[slot]];
                    assert_eq!(
                        (node.class, node.live.map(rounded_down)),
                        (group.kind.class, point)
                    );
                    let place = cells.places[cell.lanes[slot] as usize];
                    assert_eq!((place.cell, place.slot as usize), (*at, slot));
                    assert_eq!(cells.groups[place.group as usize].kind, group.kind);
                }
                for r in 0..DIMENSIONS {
                    let least = cell.live[r].iter().copied().fold(BEYOND, f32::min);
                    assert_eq!(group.least[r][*at as usize], least);
                }
            }
            for at in &group.vacant {
                assert!((0..DIMENSIONS).all(|r| group.least[r][*at as usize] == BEYOND));
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
            prop_assert!(cells.groups.iter().all(|group| group.order.len() <= 1), "all are joined");
        }
    }

    #[test]
    fn nodes_alike_fill_cells_and_others_lie_apart() {
        let mut cells = Cells::default();
        cells.places.resize(LANES as usize, NOWHERE);
        for lane in 0..LANES {
            let live = [if lane % 2 == 0 { 1.0 } else { 8.0 }, 1.0, 1.0, 1.0];
            cells.set(lane, &node(0, live, Verdict::FEASIBLE, false), Some(0));
        }
        let group = &cells.groups[0];
        assert!(group.order.len() <= LANES as usize / (CELL / 2) + 1, "{}", group.order.len());
        let is_of_one_kind = |(_, cell): &&(u64, u32)| {
            let cell = &group.cells[*cell as usize];
            (1..cell.nodes).all(|slot| cell.point(slot) == cell.point(0))
        };
        assert_eq!(group.order.iter().filter(is_of_one_kind).count(), group.order.len());
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
        let mut bounds = Vec::new();
        let (first, group, cell) = cells.bounds(Level::new(), &factors, &mut bounds);
        assert_eq!(bounds[group][cell], first);
        let mut costs = [0.0; CELL];
        for (group, bounds) in bounds.iter().enumerate() {
            for (at, bound) in bounds.iter().enumerate() {
                let Some(cell) = cells.cell(group, at) else { continue };
                assert!(cell.nodes == 0 || *bound >= first);
                let bits = cell.within(Level::new(), &factors[group], f32::INFINITY, &mut costs);
                assert_eq!(bits.count_ones() as usize, cell.nodes);
                assert!(costs[..cell.nodes].iter().all(|cost| cost >= bound));
            }
        }
    }
}
