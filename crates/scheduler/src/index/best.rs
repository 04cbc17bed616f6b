//! The best two of one block, and what tells at a glance that a node stays behind them.

use crate::cost::Key;

/// How many nodes of a block are known in their order.
const KNOWN: usize = 2;

/// The nodes of a block that come first, in their order, and what is known of the others: each stands behind those, and
/// costs at least the bound. While one is known, it is the best of the block; with none, only a scan can tell.
///
/// The bound is most often what the third one costs. So whoever is taken, and is a little costlier from then on, often
/// stays one of those that are known. It is rounded down to half a figure, so that all of this is one line of memory:
/// there are many blocks, and what is known of each is read at most changes in it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(align(64))]
pub(crate) struct Best {
    firsts: [f64; KNOWN],
    seconds: [f64; KNOWN],
    ties: [u64; KNOWN],
    lanes: [u32; KNOWN],
    bound: f32,
}

/// The largest figure of half the size that is not above this one.
fn rounded_down(figure: f64) -> f32 {
    let rounded = figure as f32;
    if f64::from(rounded) > figure { rounded.next_down() } else { rounded }
}

impl Best {
    pub(crate) const NONE: Self = Self {
        firsts: [f64::INFINITY; KNOWN],
        seconds: [f64::INFINITY; KNOWN],
        ties: [u64::MAX; KNOWN],
        lanes: [u32::MAX; KNOWN],
        bound: f32::INFINITY,
    };

    /// A block of which it is known only that nobody in it costs less.
    pub(crate) fn bounded(first: f64) -> Self {
        Self { bound: rounded_down(first), ..Self::NONE }
    }

    fn key(&self, at: usize) -> Key {
        Key {
            first: self.firsts[at],
            second: self.seconds[at],
            tie: self.ties[at],
            lane: self.lanes[at],
        }
    }

    fn set(&mut self, at: usize, key: &Key) {
        self.firsts[at] = key.first;
        self.seconds[at] = key.second;
        self.ties[at] = key.tie;
        self.lanes[at] = key.lane;
    }

    /// Takes another node of the block into account, where those that are not are behind the bound.
    pub(crate) fn add(&mut self, key: &Key) {
        if key.is_before(&self.key(KNOWN - 1)) {
            self.insert(key);
        } else {
            self.bound_by(key.first);
        }
    }

    /// Somebody who is not known costs this.
    pub(crate) fn bound_by(&mut self, first: f64) {
        self.bound = self.bound.min(rounded_down(first));
    }

    /// Whether as many nodes are known as can be.
    pub(crate) fn is_full(&self) -> bool {
        self.lanes[KNOWN - 1] != u32::MAX
    }

    /// Whether it is known which node is the best, if any is.
    pub(super) fn is_certain(&self) -> bool {
        self.lanes[0] != u32::MAX || self.bound == f32::INFINITY
    }

    /// Whether it is known which node comes after the best, if any does.
    pub(super) fn knows_next(&self) -> bool {
        self.is_full() || self.bound == f32::INFINITY
    }

    /// Nobody of the block stands before this.
    pub(super) fn first(&self) -> Key {
        self.key_or_bound(0)
    }

    /// Nobody but the best stands before this.
    pub(super) fn next(&self) -> Key {
        self.key_or_bound(1)
    }

    fn key_or_bound(&self, at: usize) -> Key {
        if self.lanes[at] != u32::MAX || self.bound == f32::INFINITY {
            self.key(at)
        } else {
            Key { first: f64::from(self.bound), second: 0.0, tie: 0, lane: u32::MAX }
        }
    }

    /// What whoever is not known costs at least.
    fn bound(&self) -> f64 {
        f64::from(self.bound)
    }

    /// Whoever costs more than this stays one of the others. It may be a little more than the bound, which is rounded:
    /// among those that cost the same, somebody may come before one that is known.
    pub(crate) fn reach(&self) -> f64 {
        let known = self.firsts.iter().zip(&self.lanes).filter(|(_, lane)| **lane != u32::MAX);
        known.fold(self.bound(), |reach, (first, _)| reach.max(*first))
    }

    /// A node stands here now; [`Key::NONE`] takes it out.
    pub(super) fn touch(&mut self, lane: u32, key: &Key) {
        if lane == self.lanes[0] {
            self.set(0, &self.key(1));
            self.set(1, &Key::NONE);
        } else if lane == self.lanes[1] {
            self.set(1, &Key::NONE);
        }
        let last = if self.is_full() { 1 } else { 0 };
        // Before one that is known it is before all who are not; else the bound alone tells.
        if key.first < self.bound()
            || self.lanes[last] != u32::MAX && key.is_before(&self.key(last))
        {
            self.insert(key);
        } else if key.is_some() {
            self.bound_by(key.first);
        }
    }

    /// Puts a node in its place; whoever is last goes to those behind the bound.
    fn insert(&mut self, key: &Key) {
        if self.is_full() {
            let gone = if key.is_before(&self.key(1)) { self.firsts[1] } else { key.first };
            self.bound_by(gone);
        }
        if key.is_before(&self.key(0)) {
            self.set(1, &self.key(0));
            self.set(0, key);
        } else if key.is_before(&self.key(1)) {
            self.set(1, key);
        }
    }
}

/// What of a [`Best`] tells that a node of its block stays behind: so little that that of all blocks stays at hand.
#[derive(Debug, Clone, Copy)]
#[repr(align(16))]
pub(crate) struct Glance {
    /// See [`Best::reach`].
    reach: f64,
    /// The lanes that are known, to be looked at more closely.
    known: [u32; KNOWN],
}

impl Glance {
    pub(super) const NONE: Self = Self { reach: f64::INFINITY, known: [u32::MAX; KNOWN] };

    pub(super) fn of(best: &Best) -> Self {
        Self { reach: best.reach(), known: best.lanes }
    }

    /// Whether a node is among those that are known.
    pub(crate) fn knows(&self, lane: u32) -> bool {
        lane == self.known[0] || lane == self.known[1]
    }

    /// Whether a node that is not among them may come to be.
    pub(crate) fn may_let_in(&self, first: f64) -> bool {
        first <= self.reach
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(first: f64, lane: u32) -> Key {
        Key { first, second: 0.0, tie: u64::from(lane) + 1, lane }
    }

    /// Nodes that change at random, with what is known of them after each change.
    #[test]
    fn what_is_known_is_true_and_the_others_stand_behind_the_bound() {
        const NODES: usize = 8;
        let mut state = 1_u64;
        let mut roll = |sides: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % sides
        };
        let mut keys = [Key::NONE; NODES];
        let mut best = Best::NONE;
        let (mut certain, mut scans) = (0, 0);
        for step in 0..100_000 {
            let lane = u32::try_from(roll(NODES as u64)).unwrap();
            let gone = roll(8) == 0;
            let now = if gone { Key::NONE } else { key(roll(12) as f64 / 10.0, lane) };
            let glance = Glance::of(&best);
            let stays_behind = !glance.knows(lane) && !glance.may_let_in(now.first);
            let before = best;
            keys[lane as usize] = now;
            best.touch(lane, &now);
            if stays_behind {
                assert_eq!(best, before, "step {step}: it told so at a glance");
            }
            let mut sorted = keys;
            sorted.sort_by(Key::order);
            let known = best.lanes.iter().take_while(|lane| **lane != u32::MAX).count();
            assert!((0..known).all(|at| best.key(at) == sorted[at]), "step {step}: {best:?}");
            assert!(sorted[known].first >= best.bound(), "step {step}: {best:?} of {sorted:?}");
            assert!(!sorted[0].is_before(&best.first()), "step {step}: {best:?} of {sorted:?}");
            if best.is_certain() {
                certain += 1;
                assert_eq!(best.first(), sorted[0], "step {step}");
                assert!(!best.knows_next() || best.next() == sorted[1], "step {step}");
            } else if roll(2) == 0 {
                scans += 1;
                best = Best::NONE;
                keys.iter().filter(|key| key.is_some()).for_each(|key| best.add(key));
            }
        }
        assert!(certain > 50_000 && scans > 100, "{certain} {scans}");
    }
}
