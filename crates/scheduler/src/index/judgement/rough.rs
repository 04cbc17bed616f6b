//! What a demand does to the costs of nodes alike, with what points make of it, in figures of half the size: for searches.

use crate::demand::DIMENSIONS;
use crate::index::Ground;
use crate::index::cells::Kind;
use crate::index::columns::rounded_down;

/// What a demand does to costs, by kinds of nodes.
#[derive(Debug, Default)]
pub(crate) struct RoughFactors {
    pub(crate) kinds: Vec<Kind>,
    pub(crate) factors: Vec<[f32; DIMENSIONS]>,
}

impl RoughFactors {
    /// Finds out what it does to the nodes of each kind, of what it does to those of each class of capacity.
    pub(crate) fn fit(
        &mut self,
        ground: &Ground<'_>,
        of_class: &[[f64; DIMENSIONS]],
        kinds: impl Iterator<Item = Kind> + Clone,
    ) {
        if kinds.clone().eq(self.kinds.iter().copied()) {
            return;
        }
        self.kinds = kinds.collect();
        let rough = |Kind { class, points }: &Kind| {
            let weight = ground.weights.of(*points);
            let factors = of_class.get(*class as usize).copied().unwrap_or_default();
            factors.map(|factor| rounded_down(factor * weight))
        };
        self.factors = self.kinds.iter().map(rough).collect();
    }

    /// It does something else now.
    pub(crate) fn forget(&mut self) {
        self.kinds.clear();
    }
}
