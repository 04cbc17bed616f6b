//! How many nodes can take the task, and why the others cannot: what a reason says of them.

use crate::demand::Dimension;
use crate::explain::Rejected;
use crate::filter::{self, Verdict};
use crate::fleet::lanes::BLOCK;
use crate::index::Ground;
use crate::index::judgement::Judgement;
use crate::index::kernel;

/// Where more blocks than this have a node without room, all nodes are judged instead of counted.
const CLOSER_MAX: usize = 64;

impl Judgement {
    /// Counts who can take the task and why the others cannot, without judging each. False where that needs a closer
    /// look.
    pub(crate) fn count(&mut self, ground: &Ground<'_>) -> bool {
        if self.profile.has_verdicts() || self.looks_at_company() {
            return false;
        }
        let counts = self.counted.get_or_insert_with(|| Box::new([0; Verdict::COUNT]));
        counts.iter_mut().zip(ground.columns.standings()).for_each(|(all, of)| *all = *of);
        let mut closer = 0;
        ground.columns.without_room(ground.level, &self.demand.amounts, |at| {
            closer += 1;
            if closer > CLOSER_MAX {
                return;
            }
            let mut open = ground.columns.summary(at).open;
            let block = ground.columns.block(at);
            let lacking = kernel::lacking(ground.level, block, &self.demand.amounts);
            for (r, lacking) in Dimension::ALL.into_iter().zip(lacking) {
                let lack = (open & lacking).count_ones();
                counts[usize::from(Verdict::of(filter::lack_of(r)).0)] += lack;
                counts[usize::from(Verdict::FEASIBLE.0)] -= lack;
                open &= !lacking;
            }
        });
        (self.is_counted, self.lanes) = (closer <= CLOSER_MAX, ground.columns.len() * BLOCK);
        self.is_counted
    }

    /// From now on what was judged counts again.
    pub(crate) fn take_back_count(&mut self) {
        (self.is_counted, self.lanes) = (false, self.verdicts.len());
    }

    fn counts(&self) -> &[u32; Verdict::COUNT] {
        self.counted.as_ref().filter(|_| self.is_counted).unwrap_or(&self.counts)
    }

    /// How many nodes can take the task.
    pub(crate) fn feasible(&self) -> u32 {
        self.counts()[usize::from(Verdict::FEASIBLE.0)]
    }

    /// Why the others cannot.
    pub(crate) fn rejected(&self) -> Rejected {
        let mut rejected = Rejected::default();
        if self.feasible() as usize + self.counts()[usize::from(Verdict::VACANT.0)] as usize
            == self.lanes
        {
            return rejected;
        }
        for verdict in Verdict::refusals(self.profile.constraints()) {
            let count = self.counts()[usize::from(verdict.0)];
            if count > 0 {
                rejected.add(verdict, count, |index| self.profile.text(index));
            }
        }
        rejected
    }
}
