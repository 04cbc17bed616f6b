//! The fast way to the same answer as [`crate::plain`]: nodes that are alike lie together, so that the best one is
//! searched for among few; and where that does not do, what was found out about a demand is kept, and mended where nodes
//! have changed since.
//!
//! ```text
//! fleet ──changes──► columns: a row of figures per node, in blocks of 64
//!                       │
//!                       ├──► cells: the same, rounded, nodes alike together: no demand is looked at, so a change
//!                       │    costs the same however many there are
//!                       │
//!                       ▼   for each demand that was seen lately and not only searched for
//!                    view: verdict per node, the best of each block, of 16 blocks, of each domain
//! ```
//!
//! Of each cell it is known what nobody in it costs less than, and a search looks only into those where that is not
//! above what the best so far costs: most often into two or three. It gives up where many nodes cost the same, or many
//! that are cheap cannot take the task, and is not begun where more than costs and room decides (the guard, ports, hosts
//! of one's own).
//!
//! Then the view tells. One that is used again looks only at nodes that have changed since it was used last: whether one
//! got better than the best of its block, or was the best and got worse. For a demand that was never seen, a summary of
//! each block says what nobody in it costs less than, and only blocks that may have the best are scanned.
//!
//! Nothing here decides: every figure that counts is computed by the functions that [`crate::plain`] uses, in the same
//! order of operations, and a property test asks both for the same node.
//!
//! | module | what lives there |
//! |---|---|
//! | [`columns`] | the figures that scans read |
//! | [`cells`] | nodes alike, kept together: where the best one is searched for |
//! | [`domains`] | the nodes of each domain that tasks are spread over, side by side |
//! | [`pools`] | whose cells those are: all nodes', or those of whom a profile lets through |
//! | [`mod@profile`] | what only labels and attributes decide: constraints, affinities, domains |
//! | [`kernel`] | what is computed for 64 nodes side by side |
//! | [`tree`] | the best of blocks, groups of blocks and domains |
//! | [`subject`] | what a view is of |
//! | [`judgement`] | how each node stands to one demand |
//! | [`race`] | many tasks of one demand, one after another |
//! | [`view`] | everything known about one demand: that, and which node is best |

mod cells;
mod columns;
mod domains;
mod judgement;
mod kernel;
mod pools;
mod profile;
mod race;
mod subject;
mod tree;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use fearless_simd::Level;
use longshore_proto::spec::SchedulerKind;

use crate::cost::Model;
use crate::cost::guard::Popular;
use crate::cost::points::Weights;
use crate::demand::Demand;
use crate::fleet::Fleet;
use crate::fleet::lanes::BLOCK;
use columns::Columns;
use pools::Pools;
use profile::{Profile, ProfileKey};
pub(crate) use race::Race;
use subject::{Company, Owned};
use view::{Notes, Path, View};

/// Views are forgotten, the longest unused first, when they hold more than this or are more than so many.
const VIEW_BYTES_MAX: usize = 128 << 20;
const VIEWS_MAX: usize = 4096;
/// Profiles are forgotten when there are more than this.
const PROFILES_MAX: usize = 256;

/// A demand that is asked for so often in a row, and once more for each block of nodes, is likely to be asked for again.
const IN_A_ROW_MIN: usize = 32;

/// What a view needs to look at.
#[derive(Debug)]
pub(crate) struct Ground<'f> {
    pub(crate) fleet: &'f Fleet,
    pub(crate) kind: SchedulerKind,
    /// Which vectors the processor has.
    pub(crate) level: Level,
    pub(crate) model: Option<&'static dyn Model>,
    pub(crate) columns: &'f Columns,
    pub(crate) weights: &'f Weights,
    pub(crate) popular: Option<&'f Popular>,
}

/// Everything that is kept for one policy.
#[derive(Debug)]
pub(crate) struct Index {
    kind: SchedulerKind,
    level: Level,
    columns: Columns,
    pools: Pools,
    /// What searches write down on their way.
    notes: Notes,
    /// For the guard alone: what it counts, and of which census.
    popular: Option<(u64, Popular)>,
    profiles: Vec<(ProfileKey, Arc<Profile>)>,
    views: Vec<View>,
    /// When each view was used last, by the count of uses.
    used: Vec<u64>,
    /// Views by the hash of their demand.
    by_hash: BTreeMap<u64, Vec<u32>>,
    clock: u64,
    view_bytes: usize,
    /// The view that was used last: where many tasks alike are placed, the next one is of the same.
    last: usize,
    /// How often it was used one time after another.
    in_a_row: usize,
}

/// What is asked of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Which node is the best.
    Best,
    /// The same, with what a reason takes: the next one, and why others cannot take the task.
    Reason,
    /// How every node stands.
    All,
}

impl Index {
    pub(crate) fn new(kind: SchedulerKind) -> Self {
        Self {
            kind,
            level: Level::new(),
            columns: Columns::default(),
            pools: Pools::default(),
            notes: Notes::default(),
            popular: None,
            profiles: Vec::new(),
            views: Vec::new(),
            used: Vec::new(),
            by_hash: BTreeMap::new(),
            clock: 0,
            view_bytes: 0,
            last: 0,
            in_a_row: 0,
        }
    }

    /// What is asked about a demand, as the fleet stands now.
    pub(crate) fn view<'i>(
        &'i mut self,
        fleet: &'i Fleet,
        demand: &Demand<'_>,
        ask: Ask,
    ) -> (&'i mut View, Ground<'i>) {
        self.catch_up(fleet);
        let at = self.find(fleet, demand);
        self.in_a_row = if self.last == at { self.in_a_row + 1 } else { 0 };
        self.last = at;
        self.clock += 1;
        self.used[at] = self.clock;
        let view = &mut self.views[at];
        self.view_bytes -= view.bytes();
        if view.profile().generation() != fleet.generation() {
            view.set_profile(profile_of(&mut self.profiles, fleet, demand));
        }
        let path = view.path(fleet, self.kind);
        // To bring a view up to date pays where it is used again before much has changed.
        let pays = self.in_a_row > IN_A_ROW_MIN + fleet.lanes().len() / BLOCK;
        let popular = self.popular.as_ref().map(|(_, popular)| popular);
        let ground = ground(self.kind, self.level, fleet, &self.columns, popular);
        let mut is_searched = ask != Ask::All && !pays && view.is_sooner_searched(&ground, path);
        let mut lacking = None;
        if is_searched && ask == Ask::Reason {
            let amounts = demand.amounts();
            lacking = view
                .nodes()
                .is_countable()
                .then_some(())
                .and_then(|()| self.columns.count_lacking(self.level, fleet, &amounts));
            is_searched = lacking.is_some();
        }
        let mut is_found = false;
        if is_searched {
            let ground = self::ground(self.kind, self.level, fleet, &self.columns, popular);
            let pooled = self.pools.of(fleet, &self.columns, view.profile());
            is_found = view.find(&ground, pooled, &mut self.notes, lacking);
        }
        if !is_found {
            self.columns.catch_up_blocks(fleet);
            if path != Path::LookAtChanges {
                self.columns.tighten();
            }
        }
        let ground = self::ground(self.kind, self.level, fleet, &self.columns, popular);
        if !is_found {
            view.catch_up(&ground, path);
        }
        self.view_bytes += view.bytes();
        (view, ground)
    }

    /// Brings what all views share up to date.
    fn catch_up(&mut self, fleet: &Fleet) {
        self.columns.catch_up(fleet, crate::cost::model(self.kind));
        if self.kind == SchedulerKind::EpvmGuard {
            let census = fleet.census().generation() + fleet.generation();
            if self.popular.as_ref().is_none_or(|(known, _)| *known != census) {
                let popular = Popular::of(fleet);
                let same = self.popular.as_ref().is_some_and(|(_, known)| *known == popular);
                self.popular = Some((census, popular));
                if !same {
                    self.forget_all();
                }
            }
        }
    }

    /// The place of the demand's view, which is made when there is none.
    fn find(&mut self, fleet: &Fleet, demand: &Demand<'_>) -> usize {
        let company = Company::of(fleet, demand);
        if self.views.get(self.last).is_some_and(|view| view.is_of(demand, &company)) {
            return self.last;
        }
        let hash = subject::hash(demand, &company);
        if let Some(same) = self.by_hash.get(&hash) {
            let found = same.iter().find(|at| self.views[**at as usize].is_of(demand, &company));
            if let Some(at) = found {
                return *at as usize;
            }
        }
        let profile = self.profile(fleet, demand);
        let reused = self.make_room();
        let parent = self.parent(demand, &company);
        let at = self.views.len();
        let mut view = View::new(Owned::of(demand), company, hash, profile, reused);
        if let Some(parent) = parent {
            view.know_what(&self.views[parent]);
        }
        self.view_bytes += view.bytes();
        self.views.push(view);
        self.used.push(self.clock);
        self.by_hash.entry(hash).or_default().push(number(at));
        at
    }

    /// The view of the same demand without company: most of what it knows holds with company too.
    fn parent(&self, demand: &Demand<'_>, company: &Company) -> Option<usize> {
        if company.is_none() {
            return None;
        }
        let alone = Company::none();
        let same = self.by_hash.get(&subject::hash(demand, &alone))?;
        let found = same.iter().find(|at| self.views[**at as usize].is_of(demand, &alone));
        found.map(|at| *at as usize)
    }

    /// Forgets the view that was unused for longest while there is too much, and gives what is left of the last:
    /// memory that is there need not be asked for.
    fn make_room(&mut self) -> Option<View> {
        let mut forgotten = None;
        while self.view_bytes > VIEW_BYTES_MAX || self.views.len() >= VIEWS_MAX {
            let oldest = (0..self.used.len()).min_by_key(|at| self.used[*at])?;
            let view = self.views.swap_remove(oldest);
            self.used.swap_remove(oldest);
            self.view_bytes -= view.bytes();
            self.renumber(view.hash(), oldest, None);
            if let Some(moved) = self.views.get(oldest) {
                self.renumber(moved.hash(), self.views.len(), Some(oldest));
            }
            forgotten = Some(view);
        }
        forgotten
    }

    /// A view is found at another place from now on, or nowhere.
    fn renumber(&mut self, hash: u64, was: usize, now: Option<usize>) {
        let Some(same) = self.by_hash.get_mut(&hash) else { return };
        same.retain(|at| *at as usize != was);
        same.extend(now.map(number));
        if same.is_empty() {
            self.by_hash.remove(&hash);
        }
    }

    /// The profile of a demand, of the fleet's present generation.
    fn profile(&mut self, fleet: &Fleet, demand: &Demand<'_>) -> Arc<Profile> {
        if self.profiles.len() > PROFILES_MAX {
            let used = |profile: &Arc<Profile>| Arc::strong_count(profile) > 1;
            let generation = fleet.generation();
            self.profiles
                .retain(|(_, profile)| used(profile) && profile.generation() == generation);
        }
        profile_of(&mut self.profiles, fleet, demand)
    }

    fn forget_all(&mut self) {
        self.views.clear();
        self.used.clear();
        self.by_hash.clear();
        self.view_bytes = 0;
    }
}

/// What a view looks at.
fn ground<'f>(
    kind: SchedulerKind,
    level: Level,
    fleet: &'f Fleet,
    columns: &'f Columns,
    popular: Option<&'f Popular>,
) -> Ground<'f> {
    let (model, weights) = (crate::cost::model(kind), Weights::at(fleet.base_log2()));
    Ground { fleet, kind, level, model, columns, weights, popular }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// The profile of a demand, of the fleet's present generation.
fn profile_of(
    profiles: &mut Vec<(ProfileKey, Arc<Profile>)>,
    fleet: &Fleet,
    demand: &Demand<'_>,
) -> Arc<Profile> {
    let key = ProfileKey::of(demand);
    let at = profiles.iter().position(|(known, _)| *known == key);
    if let Some((_, known)) = at.and_then(|at| profiles.get(at))
        && known.generation() == fleet.generation()
    {
        return Arc::clone(known);
    }
    let made = Arc::new(Profile::of(fleet, demand));
    match at {
        Some(at) => profiles[at].1 = Arc::clone(&made),
        None => profiles.push((key, Arc::clone(&made))),
    }
    made
}
