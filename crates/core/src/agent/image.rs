//! Images that tasks need: which are looked for and fetched just now, so that many tasks share one errand.
//!
//! What a fetch will bring is noted in the store before it begins: a worker that dies between a fetch's end and its note would
//! else take the image for one that was here before, and never remove it. An image that is here already and is fetched anew
//! (its tag may move) is noted by its id, where it was ours: without its tag nobody else knows it.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::name::LoginName;
use longshore_proto::platform::Platform;
use longshore_proto::spec::TaskSpec;

use super::context::Context;
use super::input::Failure;
use super::step::Action;
use super::stock::StockItem;

/// An image as a task needs it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageWish {
    /// The reference.
    pub image: String,
    /// What it is made for; absent means whatever the runtime takes by itself.
    pub platform: Option<Platform>,
    /// The login that its registry is asked with; absent means the node's own.
    pub login: Option<LoginName>,
}

impl ImageWish {
    /// What a task needs.
    pub fn of(spec: &TaskSpec) -> Self {
        Self {
            image: spec.image.clone(),
            platform: spec.container.platform.clone(),
            login: spec.container.registry_login.clone(),
        }
    }

    /// Whether a task needs just this.
    pub(super) fn is_of(&self, spec: &TaskSpec) -> bool {
        let container = &spec.container;
        (&self.image, &self.platform, &self.login)
            == (&spec.image, &container.platform, &container.registry_login)
    }
}

/// The errands that are under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Errands {
    looks: BTreeSet<ImageWish>,
    fetches: BTreeMap<ImageWish, Fetch>,
}

/// A fetch that is under way. Two of them may be for one image: with two logins, or for two platforms.
#[derive(Debug, Clone)]
struct Fetch {
    /// What it brings.
    item: StockItem,
    /// What has that name now and is ours, by its id: it loses the name if the tag has moved on.
    before: Option<StockItem>,
    /// Whether none was here when it began.
    was_missing: bool,
    /// Whether the image is noted as ours for no other reason than this.
    owns_note: bool,
}

impl Errands {
    /// The images that fetches are about: until they are over nobody can say which of them may go.
    pub(super) fn images(&self) -> impl Iterator<Item = &StockItem> {
        self.fetches.values().flat_map(|fetch| fetch.before.iter().chain([&fetch.item]))
    }
}

impl Context {
    /// Looks for an image, unless that is under way.
    pub(super) fn look_for(&mut self, wish: ImageWish) {
        if self.errands.looks.insert(wish.clone()) {
            self.actions.push(Action::FindImage(wish));
        }
    }

    /// A look was answered.
    pub(super) fn looked_for(&mut self, wish: &ImageWish) {
        self.errands.looks.remove(wish);
    }

    /// Fetches an image, unless that is under way; `found` is the id of the one that has its name here.
    pub(super) fn fetch(&mut self, wish: &ImageWish, found: Option<&str>) {
        if self.errands.fetches.contains_key(wish) {
            return;
        }
        let item = StockItem::image(&wish.image);
        let (was_missing, is_noted) = (found.is_none(), self.stock.has(&item));
        let before = found.filter(|_| is_noted).map(|id| StockItem::Image(id.to_owned()));
        if was_missing {
            self.stock.brought(item.clone(), self.wall_ms, &mut self.writes);
        }
        if let Some(before) = before.clone() {
            self.stock.brought(before, self.wall_ms, &mut self.writes);
        }
        // A note of a run that died meanwhile holds for nothing when the image is not here. (With a platform, another's may be.)
        let is_left_over = is_noted
            && wish.platform.is_none()
            && !self.stock.has_come(&item)
            && self.errands.fetches.values().all(|other| other.item != item);
        let owns_note = was_missing && (!is_noted || is_left_over);
        let fetch = Fetch { item, before, was_missing, owns_note };
        self.errands.fetches.insert(wish.clone(), fetch);
        self.actions.push(Action::FetchImage(wish.clone()));
    }

    /// A fetch was answered.
    pub(super) fn fetched(&mut self, wish: &ImageWish, result: &Result<(), Failure>) {
        let Some(fetch) = self.errands.fetches.remove(wish) else { return };
        let mut others = self.errands.fetches.values_mut().filter(|it| it.item == fetch.item);
        match result {
            // It is here now, and ours: whatever else fails after this.
            Ok(()) => {
                others.for_each(|other| other.owns_note = false);
                self.stock.came(&fetch.item);
            }
            Err(Failure::Refused(_) | Failure::Forbidden(_)) if fetch.owns_note => {
                match others.find(|other| other.was_missing) {
                    // It may still come.
                    Some(other) => other.owns_note = true,
                    // It is not here: whoever brings it by hand after this is its owner.
                    None => self.stock.forget(&fetch.item, &mut self.writes),
                }
            }
            // What became of it is not known.
            Err(_) => {}
        }
    }
}
