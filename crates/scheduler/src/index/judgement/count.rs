//! How many nodes can take the task, and why the others cannot: what a reason says of them.

use crate::demand::{DIMENSIONS, Dimension};
use crate::explain::Rejected;
use crate::filter::{self, Verdict};
use crate::index::Ground;
use crate::index::judgement::Judgement;

impl Judgement {
    /// Whether it can be told who can take the task, and why the others cannot, without judging each.
    pub(crate) fn is_countable(&self) -> bool {
        !self.profile.has_verdicts() && !self.looks_at_company()
    }

    /// Counts that. `lacking` says how many lack what is wanted; see [`Columns::count_lacking`].
    ///
    /// [`Columns::count_lacking`]: crate::index::columns::Columns::count_lacking
    pub(crate) fn count(&mut self, ground: &Ground<'_>, lacking: [u32; DIMENSIONS]) {
        let counts = self.counted.get_or_insert_with(|| Box::new([0; Verdict::COUNT]));
        // There are none of an empty fleet.
        let standings = ground.columns.standings();
        let vacant = usize::from(Verdict::VACANT.0);
        for (count, of) in counts.iter_mut().zip(standings).take(Verdict::WITHOUT_CONSTRAINT) {
            *count = *of;
        }
        counts[vacant] = standings.get(vacant).copied().unwrap_or(0);
        for (r, lacking) in Dimension::ALL.into_iter().zip(lacking) {
            counts[usize::from(Verdict::of(filter::lack_of(r)).0)] += lacking;
            counts[usize::from(Verdict::FEASIBLE.0)] -= lacking;
        }
        (self.is_counted, self.lanes) = (true, ground.fleet.lanes().len());
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
