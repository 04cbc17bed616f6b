//! The fast way to the same answer as [`crate::plain`]: what was found out about a demand is kept, and mended
//! where nodes have changed since.
//!
//! ```text
//! fleet ──changes──► columns: a row of figures per node, in blocks of 64
//!                       │
//!                       ▼   for each demand that was seen lately
//!                    view: verdict per node, the best of each block, of 64 blocks, of each domain
//! ```
//!
//! A view that is used again looks only at nodes that have changed since it was used last: whether one got
//! better than the best of its block, or was the best and got worse. So a decision costs what has changed and
//! not what there is. A demand that was never seen is one scan over the columns.
//!
//! Nothing here decides: every figure is computed by the functions that [`crate::plain`] uses, in the same
//! order of operations, and a property test asks both for the same node.
//!
//! | module | what lives there |
//! |---|---|
//! | [`columns`] | the figures that scans read |
//! | [`profile`] | what only labels and attributes decide: constraints, affinities, domains |
//! | [`kernel`] | what is computed for 64 nodes side by side |
//! | [`tree`] | the best of blocks, groups of blocks and domains |
//! | [`view`] | everything known about one demand |

mod columns;
mod kernel;
mod profile;
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
use columns::Columns;
use profile::{Profile, ProfileKey};
use view::{Owned, View};

/// Views are forgotten, the longest unused first, when they hold more than this.
const VIEW_BYTES_MAX: usize = 128 << 20;
/// Profiles are forgotten when there are more than this.
const PROFILES_MAX: usize = 256;

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
    weights: Weights,
    /// For the guard alone: what it counts, and of which census.
    popular: Option<(u64, Popular)>,
    profiles: Vec<(ProfileKey, Arc<Profile>)>,
    views: Vec<View>,
    /// Views by the hash of their demand.
    by_hash: BTreeMap<u64, Vec<u32>>,
    clock: u64,
    view_bytes: usize,
}

impl Index {
    pub(crate) fn new(kind: SchedulerKind, fleet: &Fleet) -> Self {
        Self {
            kind,
            level: Level::new(),
            columns: Columns::default(),
            weights: Weights::new(fleet.base_log2()),
            popular: None,
            profiles: Vec::new(),
            views: Vec::new(),
            by_hash: BTreeMap::new(),
            clock: 0,
            view_bytes: 0,
        }
    }

    /// Everything about a demand, as the fleet stands now.
    pub(crate) fn view<'i>(
        &'i mut self,
        fleet: &'i Fleet,
        demand: &Demand<'_>,
    ) -> (&'i View, Ground<'i>) {
        self.catch_up(fleet);
        let at = self.find(fleet, demand);
        self.clock += 1;
        let ground = Ground {
            fleet,
            kind: self.kind,
            level: self.level,
            model: crate::cost::model(self.kind),
            columns: &self.columns,
            weights: &self.weights,
            popular: self.popular.as_ref().map(|(_, popular)| popular),
        };
        if let Some(view) = self.views.get_mut(at) {
            let stale_profile = view.profile().generation() != fleet.generation();
            if stale_profile {
                view.set_profile(profile(&mut self.profiles, fleet, demand));
            }
            self.view_bytes -= view.bytes();
            view.catch_up(&ground, self.clock);
            self.view_bytes += view.bytes();
        }
        (&self.views[at], ground)
    }

    /// Brings what all views share up to date.
    fn catch_up(&mut self, fleet: &Fleet) {
        if self.weights.base_log2() != fleet.base_log2() {
            self.weights = Weights::new(fleet.base_log2());
        }
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
        let company = view::Company::of(fleet, demand);
        let hash = view::hash(demand, &company);
        if let Some(same) = self.by_hash.get(&hash) {
            let found = same.iter().find(|at| self.views[**at as usize].is_of(demand, &company));
            if let Some(at) = found {
                return *at as usize;
            }
        }
        self.make_room(fleet);
        let profile = profile(&mut self.profiles, fleet, demand);
        let parent = self.parent(demand, &company);
        let owned = Owned::of(demand);
        let view = match parent.and_then(|at| self.views.get(at)) {
            Some(parent) => parent.child(owned, company, hash),
            None => View::new(owned, company, hash, profile),
        };
        let at = self.views.len();
        self.view_bytes += view.bytes();
        self.views.push(view);
        self.by_hash.entry(hash).or_default().push(u32::try_from(at).unwrap_or(u32::MAX));
        at
    }

    /// The view of the same demand without company: most of what it knows holds with company too.
    fn parent(&self, demand: &Demand<'_>, company: &view::Company) -> Option<usize> {
        if company.is_none() {
            return None;
        }
        let alone = view::Company::none();
        let same = self.by_hash.get(&view::hash(demand, &alone))?;
        let found = same.iter().find(|at| self.views[**at as usize].is_of(demand, &alone));
        found.map(|at| *at as usize)
    }

    /// Forgets the views that were unused for longest while there are too many.
    fn make_room(&mut self, fleet: &Fleet) {
        if self.profiles.len() > PROFILES_MAX {
            let used = |profile: &Arc<Profile>| Arc::strong_count(profile) > 1;
            let generation = fleet.generation();
            self.profiles
                .retain(|(_, profile)| used(profile) && profile.generation() == generation);
        }
        if self.view_bytes <= VIEW_BYTES_MAX {
            return;
        }
        let mut ages: Vec<u64> = self.views.iter().map(View::used_at).collect();
        ages.sort_unstable();
        let Some(bound) = ages.get(ages.len() / 2).copied() else { return };
        self.views.retain(|view| view.used_at() > bound);
        self.view_bytes = self.views.iter().map(View::bytes).sum();
        self.by_hash.clear();
        for (view, at) in self.views.iter().zip(0..) {
            self.by_hash.entry(view.hash()).or_default().push(at);
        }
    }

    fn forget_all(&mut self) {
        self.views.clear();
        self.by_hash.clear();
        self.view_bytes = 0;
    }
}

/// The profile of a demand, of the fleet's present generation.
fn profile(
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
