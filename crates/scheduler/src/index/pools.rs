//! In which cells the best node for a demand is searched for: those of all nodes, or those of the nodes that its profile
//! lets through.
//!
//! Where the tasks of a profile are many, the nodes that they may run on get full and the others stay empty, or the
//! other way round: who cannot take the task, or is disliked, would then be looked at first, and all of them.

use std::sync::Arc;

use crate::fleet::Fleet;
use crate::fleet::lanes::BLOCK;
use crate::index::cells::Cells;
use crate::index::columns::Columns;
use crate::index::profile::Profile;

/// So many profiles have cells of their own, those that were asked for last.
const POOLS_MAX: usize = 8;
/// A profile that is asked for so often, and once more for each block of nodes, gets its own: to put every node into
/// them takes that long.
const ASKED_MIN: usize = 16;
/// Cells that are behind by so many changes, and one more for so many nodes, are given up: as long as it takes to hear
/// of them, a view looks at everything.
const BEHIND_MAX: usize = 64;
const LANES_PER_CHANGE: usize = 32;

/// The nodes that a profile lets through.
#[derive(Debug)]
struct Pool {
    profile: Arc<Profile>,
    cells: Option<Cells>,
    asked: usize,
}

/// Every node, and those that the profiles let through that were asked for last.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    everybody: Cells,
    /// The one that was asked for last comes first.
    own: Vec<Pool>,
}

impl Pools {
    /// Where to search for the best node of a profile, and whether its cells tell labels apart.
    pub(crate) fn of(
        &mut self,
        fleet: &Fleet,
        columns: &Columns,
        profile: &Arc<Profile>,
    ) -> (&Cells, bool) {
        let tells_apart = profile.has_verdicts() || profile.has_points();
        if tells_apart && profile.few().is_none() && self.ask(fleet, columns, profile) {
            // It comes first now.
            if let Some(cells) = self.own.first().and_then(|pool| pool.cells.as_ref()) {
                return (cells, true);
            }
        }
        self.everybody.catch_up(fleet, columns, None);
        (&self.everybody, false)
    }

    /// Whether a profile has its own, which then comes first and is up to date.
    fn ask(&mut self, fleet: &Fleet, columns: &Columns, profile: &Arc<Profile>) -> bool {
        match self.own.iter().position(|pool| Arc::ptr_eq(&pool.profile, profile)) {
            Some(at) => self.own[..=at].rotate_right(1),
            None => {
                self.own.retain(|pool| pool.profile.generation() == fleet.generation());
                self.own.truncate(POOLS_MAX - 1);
                let pool = Pool { profile: Arc::clone(profile), cells: None, asked: 0 };
                self.own.insert(0, pool);
            }
        }
        let Some(Pool { cells, asked, .. }) = self.own.first_mut() else { return false };
        *asked += 1;
        let lanes = fleet.lanes().len();
        let most = BEHIND_MAX + lanes / LANES_PER_CHANGE;
        let is_near =
            |cells: &Cells| cells.behind(fleet).is_some_and(|changes| changes <= most as u64);
        match cells {
            Some(known) if is_near(known) => {}
            Some(_) => (*cells, *asked) = (None, 0),
            None if *asked > ASKED_MIN + lanes / BLOCK => *cells = Some(Cells::default()),
            None => {}
        }
        let Some(cells) = cells else { return false };
        cells.catch_up(fleet, columns, Some(profile));
        true
    }
}
