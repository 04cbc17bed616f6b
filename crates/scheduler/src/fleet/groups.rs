//! Groups of tasks that are counted by node: those of one spec (its own kind), and those of one image.

use std::collections::{BTreeMap, HashMap};

use longshore_proto::name::{JobKey, SpecName};

use super::Finder;

/// A group, by number. Numbers differ from manager to manager and decide nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupId(pub(crate) u32);

/// Every group, and how many of its tasks each lane's node has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Groups {
    kin: BTreeMap<JobKey, BTreeMap<SpecName, GroupId>>,
    images: BTreeMap<String, GroupId>,
    counts: Vec<Finder<u32, u32>>,
}

impl Groups {
    pub(super) fn kin(&mut self, job: &JobKey, spec: &SpecName) -> GroupId {
        if let Some(known) = self.find_kin(job, spec) {
            return known;
        }
        let id = self.mint();
        self.kin.entry(job.clone()).or_default().insert(spec.clone(), id);
        id
    }

    pub(super) fn find_kin(&self, job: &JobKey, spec: &SpecName) -> Option<GroupId> {
        self.kin.get(job)?.get(spec).copied()
    }

    pub(super) fn image(&mut self, image: &str) -> GroupId {
        if let Some(known) = self.find_image(image) {
            return known;
        }
        let id = self.mint();
        self.images.insert(image.to_owned(), id);
        id
    }

    pub(super) fn find_image(&self, image: &str) -> Option<GroupId> {
        self.images.get(image).copied()
    }

    fn mint(&mut self) -> GroupId {
        let id = GroupId(u32::try_from(self.counts.len()).unwrap_or(u32::MAX));
        self.counts.push(Finder::default());
        id
    }

    /// How many tasks of the group the node on a lane has.
    pub(crate) fn count(&self, group: GroupId, lane: u32) -> u32 {
        self.counts.get(group.0 as usize).and_then(|counts| counts.get(&lane)).copied().unwrap_or(0)
    }

    /// Whether the group has no task anywhere.
    pub(crate) fn is_empty(&self, group: GroupId) -> bool {
        self.counts.get(group.0 as usize).is_none_or(HashMap::is_empty)
    }

    /// The lanes that have tasks of the group, with how many, in no order that could be relied on.
    pub(crate) fn members(&self, group: GroupId) -> impl Iterator<Item = (u32, u32)> {
        let counts = self.counts.get(group.0 as usize).into_iter().flatten();
        counts.map(|(lane, count)| (*lane, *count))
    }

    pub(super) fn add(&mut self, group: GroupId, lane: u32, tasks: u32) {
        if let Some(counts) = self.counts.get_mut(group.0 as usize) {
            *counts.entry(lane).or_insert(0) += tasks;
        }
    }

    pub(super) fn subtract(&mut self, group: GroupId, lane: u32) {
        let Some(counts) = self.counts.get_mut(group.0 as usize) else { return };
        if let Some(count) = counts.get_mut(&lane) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&lane);
            }
        }
    }

    /// Takes a lane out of every group, and gives what it was counted for.
    pub(super) fn take_lane(&mut self, lane: u32) -> BTreeMap<GroupId, u32> {
        let taken = self
            .counts
            .iter_mut()
            .zip(0..)
            .filter_map(|(counts, id)| counts.remove(&lane).map(|count| (GroupId(id), count)));
        taken.collect()
    }
}
