//! All cells in their order: those of one kind of nodes in that in which they lie on the curve. Cells that lie next to each
//! other there make a *patch* of at most 16, of which the same is known as of each of them: of thousands of cells only those
//! few need be asked whose patch may have the best node.

use fearless_simd::Level;

use super::{BEYOND, CELL, Cell, Kind, Point};
use crate::demand::DIMENSIONS;
use crate::index::kernel::{self, least_of_few, lesser};
use crate::index::number;

/// How many cells a patch has at most.
const PATCH: usize = kernel::FEW;
/// A patch with fewer is joined with a neighbour if they have not more than so many together.
const JOINED_BELOW: usize = 4;
const JOINED_MAX: usize = 12;
/// So many patches with numbers in a row are of one kind.
const ROW: usize = kernel::FEW;

/// Cells that lie next to each other on the curve.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Patch {
    /// The least figures of each cell. The cells come in order, and behind the last one [`BEYOND`].
    least: [[f32; PATCH]; DIMENSIONS],
    /// Where each cell begins on the curve.
    starts: [u64; PATCH],
    cells: [u32; PATCH],
    count: usize,
}

impl Patch {
    const EMPTY: Self = Self {
        least: [[BEYOND; PATCH]; DIMENSIONS],
        starts: [0; PATCH],
        cells: [u32::MAX; PATCH],
        count: 0,
    };

    fn cells(&self) -> &[u32] {
        &self.cells[..self.count]
    }

    /// The place of a cell that is here.
    fn slot_of(&self, cell: u32) -> usize {
        // Without a branch it is one comparison of vectors.
        let bit = |bits, (at, one): (usize, &u32)| bits | u32::from(*one == cell) << at;
        let bits = self.cells.iter().enumerate().fold(0, bit);
        bits.trailing_zeros() as usize % PATCH
    }

    /// The place of the cell to which a place on the curve belongs.
    fn slot_at(&self, code: u64) -> usize {
        let starts = self.starts.iter().enumerate();
        let is_before = |(at, start): (usize, &u64)| *start <= code && at < self.count;
        starts.map(|one| usize::from(is_before(one))).sum::<usize>().saturating_sub(1)
    }

    /// The least figures of one cell.
    fn least_of(&self, slot: usize) -> Point {
        self.least.map(|row| row[slot])
    }

    fn set_least(&mut self, slot: usize, least: &Point) {
        (0..DIMENSIONS).for_each(|r| self.least[r][slot] = least[r]);
    }

    /// Puts a cell before the one that has this place.
    fn insert(&mut self, slot: usize, start: u64, cell: u32, least: &Point) {
        let end = self.count;
        self.starts.copy_within(slot..end, slot + 1);
        self.cells.copy_within(slot..end, slot + 1);
        self.least.iter_mut().for_each(|row| row.copy_within(slot..end, slot + 1));
        (self.starts[slot], self.cells[slot], self.count) = (start, cell, end + 1);
        self.set_least(slot, least);
    }

    fn remove(&mut self, slot: usize) {
        let end = self.count;
        self.starts.copy_within(slot + 1..end, slot);
        self.cells.copy_within(slot + 1..end, slot);
        self.least.iter_mut().for_each(|row| row.copy_within(slot + 1..end, slot));
        self.count = end - 1;
        self.cells[end - 1] = u32::MAX;
        self.set_least(end - 1, &[BEYOND; DIMENSIONS]);
    }
}

/// The patches of the nodes of one kind.
#[derive(Debug)]
struct Group {
    kind: Kind,
    /// Where each patch begins on the curve, in this order, and which it is.
    order: Vec<(u64, u32)>,
    vacant: Vec<u32>,
}

/// All cells in their order.
#[derive(Debug, Default)]
pub(super) struct Atlas {
    cells: Vec<Cell>,
    vacant: Vec<u32>,
    patches: Vec<Patch>,
    /// The least figures of each patch, by dimension; [`BEYOND`] where there is none. They end with a whole block.
    least: [Vec<f32>; DIMENSIONS],
    groups: Vec<Group>,
    /// The group of each row of patches.
    owners: Vec<u32>,
}

impl Atlas {
    /// Begins a group, with one cell.
    pub(super) fn begin(&mut self, kind: Kind) -> u32 {
        let group = number(self.groups.len());
        self.groups.push(Group { kind, order: Vec::new(), vacant: Vec::new() });
        let patch = self.add_patch(group, Patch::EMPTY);
        self.groups[group as usize].order.push((0, patch));
        let cell = self.add(Cell::new(0, u64::MAX, patch));
        self.patches[patch as usize].insert(0, 0, cell, &[BEYOND; DIMENSIONS]);
        group
    }

    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> + Clone {
        self.groups.iter().map(|group| group.kind)
    }

    /// How many cells there are.
    pub(super) fn len(&self) -> usize {
        self.cells.len() - self.vacant.len()
    }

    pub(super) fn cell(&self, cell: u32) -> &Cell {
        &self.cells[cell as usize]
    }

    pub(super) fn cell_mut(&mut self, cell: u32) -> &mut Cell {
        &mut self.cells[cell as usize]
    }

    /// A cell with its group; none behind the last one.
    pub(super) fn get(&self, cell: u32) -> Option<(&Cell, u32)> {
        let cell = self.cells.get(cell as usize)?;
        Some((cell, self.owner(cell.patch)))
    }

    fn owner(&self, patch: u32) -> u32 {
        self.owners[patch as usize / ROW]
    }

    /// The cell of a group to which a place on the curve belongs.
    pub(super) fn cell_of(&self, group: u32, code: u64) -> u32 {
        let order = &self.groups[group as usize].order;
        let after = order.partition_point(|(start, _)| *start <= code);
        let patch = &self.patches[order[after.saturating_sub(1)].1 as usize];
        patch.cells[patch.slot_at(code)]
    }

    fn add(&mut self, new: Cell) -> u32 {
        if let Some(cell) = self.vacant.pop() {
            self.cells[cell as usize] = new;
            return cell;
        }
        self.cells.push(new);
        number(self.cells.len() - 1)
    }

    fn add_patch(&mut self, group: u32, new: Patch) -> u32 {
        let Group { vacant, .. } = &mut self.groups[group as usize];
        if vacant.is_empty() {
            let first = self.patches.len();
            self.owners.push(group);
            vacant.extend((first..first + ROW).rev().map(number));
            self.patches.resize(first + ROW, Patch::EMPTY);
            let end = (first + ROW).next_multiple_of(CELL);
            self.least.iter_mut().for_each(|least| least.resize(end, BEYOND));
        }
        let patch = vacant.pop().unwrap_or(u32::MAX);
        self.patches[patch as usize] = new;
        patch
    }

    /// Which cell comes before one, and which after it.
    pub(super) fn neighbours(&self, cell: u32) -> [Option<u32>; 2] {
        let at = self.cell(cell).patch;
        let patch = &self.patches[at as usize];
        let slot = patch.slot_of(cell);
        let before = slot.checked_sub(1).and_then(|before| patch.cells().get(before));
        let after = patch.cells().get(slot + 1);
        if before.is_some() && after.is_some() {
            return [before.copied(), after.copied()];
        }
        let (order, position) = (&self.groups[self.owner(at) as usize].order, self.position_of(at));
        let beside = |at: usize| order.get(at).map(|(_, one)| self.patches[*one as usize].cells());
        let last = || beside(position.wrapping_sub(1)).and_then(<[u32]>::last);
        let first = || beside(position + 1).and_then(<[u32]>::first);
        [before.or_else(last).copied(), after.or_else(first).copied()]
    }

    /// Where in the order of its group a patch is.
    fn position_of(&self, patch: u32) -> usize {
        let order = &self.groups[self.owner(patch) as usize].order;
        let start = self.patches[patch as usize].starts[0];
        let first = order.partition_point(|(one, _)| *one < start);
        let among = order[first..].iter().position(|(_, one)| *one == patch);
        first + among.unwrap_or(0)
    }

    /// Divides a cell: from this place on, the curve belongs to a new one, with nobody in it.
    pub(super) fn divide(&mut self, cell: u32, start: u64) -> u32 {
        if self.patches[self.cell(cell).patch as usize].count == PATCH {
            self.split_patch(self.cell(cell).patch);
        }
        let Cell { patch, end, .. } = *self.cell(cell);
        let new = self.add(Cell::new(start, end, patch));
        self.cell_mut(cell).end = start;
        let patch = &mut self.patches[patch as usize];
        patch.insert(patch.slot_of(cell) + 1, start, new, &[BEYOND; DIMENSIONS]);
        new
    }

    /// Takes out a cell with nobody in it; what belonged to it belongs to the one before it.
    pub(super) fn remove(&mut self, cell: u32, before: u32) {
        let Cell { patch: at, end, .. } = *self.cell(cell);
        self.cell_mut(before).end = end;
        self.vacant.push(cell);
        let (group, position) = (self.owner(at), self.position_of(at));
        let Group { order, vacant, .. } = &mut self.groups[group as usize];
        let patch = &mut self.patches[at as usize];
        patch.remove(patch.slot_of(cell));
        if patch.count == 0 {
            order.remove(position);
            vacant.push(at);
            return self.note_least(at);
        }
        order[position].0 = patch.starts[0];
        if patch.count < JOINED_BELOW {
            self.join_patch(group, position);
        } else {
            self.note_least(at);
        }
    }

    /// Halves a patch.
    fn split_patch(&mut self, patch: u32) {
        let (group, position) = (self.owner(patch), self.position_of(patch));
        let whole = &mut self.patches[patch as usize];
        let mut upper = Patch::EMPTY;
        for (to, from) in (PATCH / 2..PATCH).enumerate() {
            upper.insert(to, whole.starts[from], whole.cells[from], &whole.least_of(from));
        }
        (PATCH / 2..PATCH).rev().for_each(|slot| whole.remove(slot));
        let start = upper.starts[0];
        let upper = self.add_patch(group, upper);
        self.groups[group as usize].order.insert(position + 1, (start, upper));
        self.adopt(upper);
        self.note_least(patch);
    }

    /// Joins a patch with a neighbour, if they have room together.
    fn join_patch(&mut self, group: u32, position: usize) {
        let Group { order, vacant, .. } = &mut self.groups[group as usize];
        let count = |at: usize| {
            order.get(at).map_or(PATCH, |(_, patch)| self.patches[*patch as usize].count)
        };
        let (before, after) = (count(position.wrapping_sub(1)), count(position + 1));
        if count(position) + before.min(after) > JOINED_MAX {
            let (_, patch) = order[position];
            return self.note_least(patch);
        }
        // The later one goes into the earlier one.
        let goes = if before <= after { position } else { position + 1 };
        let (_, gone) = order.remove(goes);
        let (_, stays) = order[goes - 1];
        vacant.push(gone);
        let moved = std::mem::replace(&mut self.patches[gone as usize], Patch::EMPTY);
        let into = &mut self.patches[stays as usize];
        for slot in 0..moved.count {
            into.insert(into.count, moved.starts[slot], moved.cells[slot], &moved.least_of(slot));
        }
        self.note_least(gone);
        self.adopt(stays);
    }

    /// Tells the cells of a patch where they are now.
    fn adopt(&mut self, patch: u32) {
        for cell in self.patches[patch as usize].cells() {
            self.cells[*cell as usize].patch = patch;
        }
        self.note_least(patch);
    }

    /// Notes the least figures of a patch.
    fn note_least(&mut self, patch: u32) {
        let of_cells = &self.patches[patch as usize].least;
        for (least, of_cells) in self.least.iter_mut().zip(of_cells) {
            least[patch as usize] = least_of_few(of_cells);
        }
    }

    /// Nobody is in the cell any more.
    pub(super) fn forget_least(&mut self, cell: u32) {
        let at = self.cell(cell).patch;
        let patch = &mut self.patches[at as usize];
        patch.set_least(patch.slot_of(cell), &[BEYOND; DIMENSIONS]);
        self.note_least(at);
    }

    /// Somebody has gone who stood here.
    pub(super) fn raise_least(&mut self, cell: u32, gone: &Point) {
        let Cell { live, patch: at, .. } = &self.cells[cell as usize];
        let patch = &mut self.patches[*at as usize];
        let slot = patch.slot_of(cell);
        let rows = patch.least.iter_mut().zip(&mut self.least).zip(live).zip(gone);
        for (((of_cells, least), live), gone) in rows {
            if *gone > of_cells[slot] {
                continue;
            }
            of_cells[slot] = least_of(live);
            let least = &mut least[*at as usize];
            if *gone <= *least {
                *least = least_of_few(of_cells);
            }
        }
    }

    /// Somebody has come who stands here.
    pub(super) fn lower_least(&mut self, cell: u32, point: &Point) {
        let at = self.cell(cell).patch;
        let patch = &mut self.patches[at as usize];
        let slot = patch.slot_of(cell);
        for ((of_cells, least), figure) in patch.least.iter_mut().zip(&mut self.least).zip(point) {
            let (of_cell, least) = (&mut of_cells[slot], &mut least[at as usize]);
            (*of_cell, *least) = (lesser(*of_cell, *figure), lesser(*least, *figure));
        }
    }

    /// Every cell, with its kind. All that is known of them must hold.
    #[cfg(test)]
    pub(super) fn check(&self) -> Vec<(Kind, u32)> {
        let mut all = Vec::new();
        for (number, group) in (0..).zip(&self.groups) {
            let mut end = 0;
            for (start, patch) in &group.order {
                assert_eq!(self.owner(*patch), number);
                let (at, patch) = (*patch as usize, &self.patches[*patch as usize]);
                assert!((1..=PATCH).contains(&patch.count) && patch.starts[0] == *start);
                for (slot, cell) in patch.cells().iter().enumerate() {
                    let Cell { start, end: ends, patch: of, live, .. } = self.cell(*cell);
                    assert_eq!((*start, patch.starts[slot], *of as usize), (end, end, at));
                    assert_eq!(patch.least_of(slot), live.each_ref().map(least_of));
                    all.push((group.kind, *cell));
                    end = *ends;
                }
                for r in 0..DIMENSIONS {
                    let least = patch.least[r].iter().copied().fold(BEYOND, f32::min);
                    assert_eq!(self.least[r][at], least);
                    assert!(patch.least[r][patch.count..].iter().all(|least| *least == BEYOND));
                }
            }
            assert_eq!(end, u64::MAX);
            for patch in &group.vacant {
                assert!(self.least.iter().all(|least| least[*patch as usize] == BEYOND));
            }
        }
        let patches = |group: &Group| group.order.len() + group.vacant.len();
        assert_eq!(self.groups.iter().map(patches).sum::<usize>(), self.patches.len());
        assert_eq!(all.len() + self.vacant.len(), self.cells.len());
        all
    }

    /// What nobody in each patch costs less than, by what the demand does to the costs of each group. Gives the least that
    /// is known of any cell, and which it is; `None` where nobody is or everybody costs more than this.
    pub(super) fn bounds(
        &self,
        level: Level,
        factors: &[Point],
        most: f32,
        bounds: &mut Vec<f32>,
    ) -> Option<(f32, u32)> {
        bounds.resize(self.least[0].len(), f32::INFINITY);
        let mut least = kernel::bounds(level, &self.least, factors, &self.owners, bounds);
        if least > most {
            return None;
        }
        let mut first: Option<(f32, u32)> = None;
        // Most often it is in the patch of which the least is known, and hardly any other then is as low.
        for _ in 0..2 {
            let known = first.map_or(f32::INFINITY, |(least, _)| least);
            kernel::each_at_most(level, bounds, least, |patch| {
                self.each_within(level, patch, factors, known, |bound, cell| {
                    if first.is_none_or(|(known, _)| bound < known) {
                        first = Some((bound, cell));
                    }
                });
            });
            least = first?.0;
        }
        first
    }

    /// Calls with each cell of a patch in which somebody may cost no more than this, and with what nobody there costs less
    /// than.
    pub(super) fn each_within(
        &self,
        level: Level,
        patch: usize,
        factors: &[Point],
        most: f32,
        mut act: impl FnMut(f32, u32),
    ) {
        let Some(owner) = self.owners.get(patch / ROW) else { return };
        let patch = &self.patches[patch];
        let Some(factors) = factors.get(*owner as usize) else { return };
        let (bounds, mut bits) = kernel::few_bounds(level, &patch.least, factors, most);
        while bits != 0 {
            let slot = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            // Behind the last cell is nobody, however much everybody may cost.
            if slot < patch.count {
                act(bounds[slot], patch.cells[slot]);
            }
        }
    }
}

/// The least of 64 figures.
fn least_of(figures: &[f32; CELL]) -> f32 {
    let mut least = [BEYOND; PATCH];
    for chunk in figures.as_chunks::<PATCH>().0 {
        for (least, figure) in least.iter_mut().zip(chunk) {
            *least = lesser(*least, *figure);
        }
    }
    least_of_few(&least)
}
