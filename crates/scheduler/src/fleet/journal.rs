//! Which nodes changed, in order, for those who keep something derived: each reads on from where it stopped.

use std::collections::VecDeque;

use super::GroupId;

/// Readers further behind than this begin anew, which is then cheaper.
const KEPT_MIN: usize = 4096;
/// So many tags are compared side by side.
const CHUNK: usize = 16;
/// In which place changes name the group of a kind, and that of an image.
pub(crate) const KIN: usize = 0;
pub(crate) const IMAGE: usize = 1;

/// A node changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    /// Its lane.
    pub(crate) lane: u32,
    /// The groups whose count on the node changed with it, each in its place: see [`KIN`] and [`IMAGE`].
    pub(crate) groups: [Option<GroupId>; 2],
    /// More than zero where tasks came, less where one ended, and 0 for none.
    pub(crate) by: i32,
}

/// The latest changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal {
    /// The number of the first change that is kept.
    first: u64,
    /// The lane of each change, close together: most readers ask for nothing else.
    lanes: VecDeque<u32>,
    /// A part of the name of each group, for those who look for changes of one among many others.
    tags: [VecDeque<u32>; 2],
    groups: VecDeque<([Option<GroupId>; 2], i32)>,
}

/// A part of a group's name, that is never 0.
fn tag(group: Option<GroupId>) -> Option<u32> {
    group.map(|group| group.0.get() as u32 | 1)
}

/// Calls with the place of each tag, from one place on, that is this one: they are few, so that whole chunks are passed by.
fn each_of(tags: &VecDeque<u32>, skip: usize, one: u32, mut act: impl FnMut(usize)) {
    let (first, second) = tags.as_slices();
    let parts = [
        (skip, first.get(skip..).unwrap_or(&[])),
        (skip.max(first.len()), &second[skip.saturating_sub(first.len())..]),
    ];
    for (start, part) in parts {
        for (chunk, start) in part.chunks(CHUNK).zip((start..).step_by(CHUNK)) {
            if chunk.iter().fold(false, |any, tag| any | (*tag == one)) {
                let same = chunk.iter().zip(start..).filter(|(tag, _)| **tag == one);
                same.for_each(|(_, at)| act(at));
            }
        }
    }
}

impl Journal {
    /// The number that the next change will have.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.lanes.len() as u64
    }

    /// Calls with the lane of each change since of the count of a group, which changes name in this place, and with how many
    /// of its tasks came. False when that is not known any more.
    pub(crate) fn each_since_of(
        &self,
        number: u64,
        (place, group): (usize, GroupId),
        mut act: impl FnMut(u32, i32),
    ) -> bool {
        let Some(skip) = self.place(number) else { return false };
        each_of(&self.tags[place], skip, tag(Some(group)).unwrap_or(0), |at| {
            let (groups, by) = self.groups[at];
            if groups[place] == Some(group) {
                act(self.lanes[at], by);
            }
        });
        true
    }

    /// The lanes of what changed since; `None` when that is not known any more.
    pub(crate) fn lanes_since(&self, number: u64) -> Option<impl Iterator<Item = u32>> {
        Some(self.lanes.range(self.place(number)?..).copied())
    }

    fn place(&self, number: u64) -> Option<usize> {
        let skip = usize::try_from(number.checked_sub(self.first)?).ok()?;
        (skip <= self.lanes.len()).then_some(skip)
    }

    pub(super) fn push(&mut self, change: Change, lanes: usize) {
        let Change { lane, groups, by } = change;
        self.lanes.push_back(lane);
        for (tags, group) in self.tags.iter_mut().zip(groups) {
            tags.push_back(tag(group).unwrap_or(0));
        }
        self.groups.push_back((groups, by));
        // Twice the bound before cutting to it, so that cutting costs nothing on average.
        let kept = KEPT_MIN.max(lanes / 4);
        if self.lanes.len() > 2 * kept {
            let gone = self.lanes.len() - kept;
            self.lanes.drain(..gone);
            self.tags.iter_mut().for_each(|tags| drop(tags.drain(..gone)));
            self.groups.drain(..gone);
            self.first += gone as u64;
        }
    }
}
