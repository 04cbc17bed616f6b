//! A search where tasks are spread: who is in the *level*, that is in the least crowded domains, comes first.
//!
//! Where nodes lie together by domains, it is computed what everybody in the level costs, and cells need only say that
//! nobody elsewhere is as good. Where the level is most of the fleet, and where domains are few and large, cells are looked
//! through, and of each the nodes that are in the level.

use std::ops::Range;

use crate::filter::Verdict;
use crate::index::cells::{CELL, Cell};
use crate::index::domains::{Domains, ROW};
use crate::index::kernel;
use crate::index::view::search::{Notes, Search};

/// So many rows of nodes are gone through.
const ROWS_MAX: usize = 512;
/// Where the least crowded domains have no more nodes than this, each is looked at.
const LEVEL_FEW_MAX: usize = 128;
/// Of most domains not more rows are added to those.
const AT_ONCE: usize = 8;
/// Costs that are no further apart than so many times are about the same.
const ABOUT: f32 = 1.0 + 1.0 / (1 << 12) as f32;

/// How crowded domains are, where tasks are spread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crowding<'s> {
    pub(super) points: &'s [i32],
    pub(super) least: i32,
    /// At least what costs in any domain are multiplied by that is not among the least crowded.
    pub(super) apart_least: f32,
}

impl Search<'_> {
    /// What costs on a node are multiplied by for the domain that it is in.
    pub(super) fn apart(&self, lane: usize) -> f64 {
        let Some(Crowding { points, least, .. }) = self.crowding else { return 1.0 };
        let points = self.nodes.profile.domain(lane).map_or(least, |domain| points[domain]);
        self.ground.weights.of(points - least)
    }

    /// Looks for the best in the least crowded domains where they are not too many, and else at everybody in one of these
    /// where it is small: the others then need be looked at only where they may be as good.
    pub(super) fn look_at_level(
        &mut self,
        domains: Option<&Domains>,
        notes: &mut Notes,
    ) -> Option<()> {
        let Some(Crowding { points, least, .. }) = self.crowding else { return Some(()) };
        if let Some(domains) = domains {
            let Notes { rows, .. } = notes;
            rows.clear();
            kernel::each_equal(self.ground.level, points, least, |domain| {
                if rows.len() <= ROWS_MAX {
                    add_all(rows, domains.rows(domain));
                }
            });
            if rows.len() <= ROWS_MAX {
                self.is_level_done = true;
                return self.look_at_rows(domains, notes);
            }
        }
        let shape = self.nodes.profile.shape();
        let level = || (0..points.len()).filter(move |domain| points[*domain] == least);
        let mut nodes = 0;
        self.is_level_done = level().all(|domain| {
            nodes += shape.domain_lanes(domain).len();
            nodes <= LEVEL_FEW_MAX
        });
        let some = if self.is_level_done { usize::MAX } else { 1 };
        let lanes = level().take(some).map(|domain| shape.domain_lanes(domain));
        for lanes in lanes.filter(|lanes| lanes.len() <= LEVEL_FEW_MAX) {
            lanes.iter().for_each(|lane| self.look_if_fresh(*lane));
        }
        Some(())
    }

    /// Looks for the best in some rows.
    fn look_at_rows(&mut self, domains: &Domains, notes: &mut Notes) -> Option<()> {
        let (level, factors) = (self.ground.level, &self.nodes.of_domains.factors);
        let Notes { rows, costs, .. } = notes;
        let end = (rows.len() * ROW).next_multiple_of(CELL);
        costs.resize(costs.len().max(end), f32::INFINITY);
        let costs = &mut costs[..end];
        costs[rows.len() * ROW..].fill(f32::INFINITY);
        let least = domains.costs(level, rows, factors, costs);
        // Whoever seems to be the best most often is, and nobody who is not about as good need be thought of.
        let near = least[usize::from(self.with_next)] * ABOUT;
        for (above, most) in [(f32::NEG_INFINITY, near), (near, f32::INFINITY)] {
            if above > self.most {
                break;
            }
            kernel::each_at_most(level, costs, most.min(self.most), |at| {
                if costs[at] > above
                    && costs[at] <= self.most
                    && self.effort <= self.effort_max
                    && let Some(row) = rows.get(at / ROW)
                    && let Some(lane) = domains.lane(*row, at % ROW)
                {
                    self.look_if_fresh(lane);
                }
            });
        }
        (self.effort <= self.effort_max).then_some(())
    }

    /// Whether somebody in a least crowded domain can take the task: how crowded the others are is measured by that.
    pub(super) fn is_level_sure(&self) -> bool {
        let Some(Crowding { points, least, .. }) = self.crowding else { return true };
        let profile = &self.nodes.profile;
        let can = |lane: &u32| {
            let at = *lane as usize;
            let node = self.ground.columns.node(at);
            let is_open = node.standing == Verdict::FEASIBLE;
            is_open && profile.verdict(at) == Verdict::FEASIBLE.0 && self.nodes.has_room_at(node)
        };
        let mut level = (0..points.len()).filter(|domain| points[*domain] == least);
        self.is_level_met
            || level.any(|domain| profile.shape().domain_lanes(domain).iter().any(can))
    }

    /// Raises the rough costs of those who are in crowded domains. Those who have been looked at cost too much for everybody.
    pub(super) fn set_apart(
        &self,
        crowding: Crowding<'_>,
        cell: &Cell,
        bits: u64,
        costs: &mut [f32; CELL],
    ) {
        let Crowding { points, least, apart_least } = crowding;
        let level = if self.is_level_done { f32::INFINITY } else { 1.0 };
        let mut bits = bits;
        while bits != 0 {
            let slot = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let domain = self.nodes.profile.domain(cell.lane(slot) as usize);
            let is_crowded = domain.is_some_and(|domain| points[domain] != least);
            costs[slot] *= if is_crowded { apart_least } else { level };
        }
    }
}

/// Adds a few numbers in a row, as many at once as they are at most where they are few.
fn add_all(rows: &mut Vec<u32>, few: Range<u32>) {
    let end = rows.len() + few.len();
    for start in few.step_by(AT_ONCE) {
        rows.extend(std::array::from_fn::<u32, AT_ONCE, _>(|at| start + at as u32));
    }
    rows.truncate(end);
}
