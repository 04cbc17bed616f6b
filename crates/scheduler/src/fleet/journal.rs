//! Which nodes changed, in order, for those who keep something derived: each reads on from where it stopped.

use std::collections::VecDeque;

use super::GroupId;

/// Readers further behind than this begin anew, which is then cheaper.
const KEPT_MIN: usize = 4096;

/// A node changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    /// Its lane.
    pub(crate) lane: u32,
    /// The groups whose count on the node changed with it: that of a kind comes first, and then that of an image.
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
    tags: VecDeque<[u32; 2]>,
    groups: VecDeque<([Option<GroupId>; 2], i32)>,
}

/// A part of a group's name, that is never 0.
fn tag(group: Option<GroupId>) -> Option<u32> {
    group.map(|group| group.0.get() as u32 | 1)
}

impl Journal {
    /// The number that the next change will have.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.lanes.len() as u64
    }

    /// What changed since that may have changed a group's count, each group in the place that changes name it in, and
    /// perhaps some more; `None` when that is not known any more.
    pub(crate) fn since_of(
        &self,
        number: u64,
        groups: [Option<GroupId>; 2],
    ) -> Option<impl Iterator<Item = Change>> {
        let skip = self.place(number)?;
        // Nobody has a tag that is even and not 0.
        let [one, other] = groups.map(|group| tag(group).unwrap_or(2));
        let changes = self.tags.range(skip..).zip(skip..);
        let found = changes.filter(move |(tags, _)| (tags[0] == one) | (tags[1] == other));
        Some(found.map(|(_, at)| {
            let (groups, by) = self.groups[at];
            Change { lane: self.lanes[at], groups, by }
        }))
    }

    /// The lanes of what changed since; `None` likewise.
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
        self.tags.push_back(groups.map(|group| tag(group).unwrap_or(0)));
        self.groups.push_back((groups, by));
        // Twice the bound before cutting to it, so that cutting costs nothing on average.
        let kept = KEPT_MIN.max(lanes / 4);
        if self.lanes.len() > 2 * kept {
            let gone = self.lanes.len() - kept;
            self.lanes.drain(..gone);
            self.tags.drain(..gone);
            self.groups.drain(..gone);
            self.first += gone as u64;
        }
    }
}
