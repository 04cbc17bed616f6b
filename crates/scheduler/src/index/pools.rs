//! In which cells the best node for a demand is searched for: those of all nodes, or those of the nodes that its profile
//! lets through.
//!
//! Where the tasks of a profile are many, the nodes that they may run on get full and the others stay empty, or the
//! other way round: who cannot take the task, or is disliked, would then be looked at first, and all of them. Where tasks
//! are spread over many domains, the nodes of each lie together besides.

use std::sync::Arc;

use crate::fleet::Fleet;
use crate::fleet::lanes::BLOCK;
use crate::index::cells::Cells;
use crate::index::columns::Columns;
use crate::index::domains::Domains;
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
    domains: Option<Domains>,
    asked: usize,
}

/// Where to search for the best node of a profile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pooled<'p> {
    pub(crate) cells: &'p Cells,
    /// Whether they tell labels apart.
    pub(crate) tells_apart: bool,
    /// The same nodes by the domains that tasks are spread over, where those of each lie together.
    pub(crate) domains: Option<&'p Domains>,
}

/// Every node, and those that the profiles let through that were asked for last.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    everybody: Cells,
    /// The one that was asked for last comes first.
    own: Vec<Pool>,
}

impl Pools {
    /// Where to search for the best node of a profile.
    pub(crate) fn of(
        &mut self,
        fleet: &Fleet,
        columns: &Columns,
        profile: &Arc<Profile>,
    ) -> Pooled<'_> {
        let tells_apart = profile.has_verdicts() || profile.has_points();
        let is_apart = Domains::are_worth_it(fleet, profile);
        if (tells_apart || is_apart) && profile.few().is_none() {
            let pool = self.ask(fleet, profile);
            if pool.is_frequent(fleet) {
                if tells_apart {
                    let cells = pool.cells.get_or_insert_default();
                    cells.catch_up(fleet, columns, Some(profile));
                }
                if is_apart {
                    let domains = pool.domains.get_or_insert_default();
                    domains.catch_up(fleet, columns, profile);
                }
            }
        }
        let Self { everybody, own } = self;
        let pool = own.first().filter(|pool| Arc::ptr_eq(&pool.profile, profile));
        let domains = pool.and_then(|pool| pool.domains.as_ref());
        if let Some(cells) = pool.and_then(|pool| pool.cells.as_ref()) {
            return Pooled { cells, tells_apart, domains };
        }
        everybody.catch_up(fleet, columns, None);
        Pooled { cells: everybody, tells_apart: false, domains }
    }

    /// The pool of a profile, which comes first then.
    fn ask(&mut self, fleet: &Fleet, profile: &Arc<Profile>) -> &mut Pool {
        match self.own.iter().position(|pool| Arc::ptr_eq(&pool.profile, profile)) {
            Some(at) => self.own[..=at].rotate_right(1),
            None => {
                self.own.retain(|pool| pool.profile.generation() == fleet.generation());
                self.own.truncate(POOLS_MAX - 1);
                let profile = Arc::clone(profile);
                self.own.insert(0, Pool { profile, cells: None, domains: None, asked: 0 });
            }
        }
        &mut self.own[0]
    }
}

impl Pool {
    /// Whether it is asked for so often that it is worth being kept up to date; what is too far behind is given up.
    fn is_frequent(&mut self, fleet: &Fleet) -> bool {
        let lanes = fleet.lanes().len();
        let most = (BEHIND_MAX + lanes / LANES_PER_CHANGE) as u64;
        let is_far = |behind: Option<u64>| behind.is_none_or(|changes| changes > most);
        self.asked += 1;
        if self.cells.as_ref().is_some_and(|cells| is_far(cells.behind(fleet)))
            || self.domains.as_ref().is_some_and(|domains| is_far(domains.behind(fleet)))
        {
            (self.cells, self.domains, self.asked) = (None, None, 0);
        }
        self.asked > ASKED_MIN + lanes / BLOCK
    }
}
