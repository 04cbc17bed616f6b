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
    /// The groups whose count on the node changed with it, and by how much.
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
    groups: VecDeque<([Option<GroupId>; 2], i32)>,
}

impl Journal {
    /// The number that the next change will have.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.lanes.len() as u64
    }

    /// What changed since; `None` when that is not known any more.
    pub(crate) fn since(&self, number: u64) -> Option<impl Iterator<Item = Change>> {
        let skip = self.place(number)?;
        let changes = self.lanes.range(skip..).zip(self.groups.range(skip..));
        Some(changes.map(|(lane, (groups, by))| Change { lane: *lane, groups: *groups, by: *by }))
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
        self.groups.push_back((groups, by));
        // Twice the bound before cutting to it, so that cutting costs nothing on average.
        let kept = KEPT_MIN.max(lanes / 4);
        if self.lanes.len() > 2 * kept {
            let gone = self.lanes.len() - kept;
            self.lanes.drain(..gone);
            self.groups.drain(..gone);
            self.first += gone as u64;
        }
    }
}
