//! Time as a value.

use std::ops::{Add, Sub};

/// A point on this process's monotonic clock, in milliseconds since some start. Points of two processes, or
/// of two runs, cannot be compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Add<u64> for Time {
    type Output = Self;
    fn add(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }
}

impl Sub for Time {
    type Output = u64;
    fn sub(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What a shell says of time with each input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock: for every wait and every comparison.
    pub time: Time,
    /// The wall clock, in milliseconds since the Unix epoch: for showing, never compared with another
    /// machine's.
    pub wall_ms: u64,
}
