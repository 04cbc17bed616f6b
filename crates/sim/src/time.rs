//! Virtual time, and the clocks of machines, which disagree.

use longshore_core::time::{Now, Time};

/// A point in virtual time, in microseconds since the run began.
pub type Micros = u64;

/// A millisecond of virtual time.
pub const MS: Micros = 1_000;
/// A second of virtual time.
pub const SECOND: Micros = 1_000_000;

/// The true wall clock when a run begins, in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// One machine's clocks.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// When this run of the process began.
    pub started: Micros,
    /// How fast its monotonic clock goes, in millionths.
    pub rate_ppm: u64,
    /// How far its wall clock is off, in milliseconds.
    pub skew_ms: i64,
}

impl Clock {
    /// What the process reads.
    pub fn read(&self, now: Micros) -> Now {
        let elapsed = now.saturating_sub(self.started);
        let time = elapsed.saturating_mul(self.rate_ppm) / 1_000_000 / MS;
        // Not zero: zero means "at once" to the core.
        Now { time: Time(time + 1), wall_ms: wall_ms(now).saturating_add_signed(self.skew_ms) }
    }

    /// When the process's monotonic clock will show a time; never before `now`.
    pub fn when(&self, time: Time, now: Micros) -> Micros {
        let elapsed = time.0.saturating_mul(MS).saturating_mul(1_000_000) / self.rate_ppm.max(1);
        self.started.saturating_add(elapsed).max(now)
    }
}

/// The true wall clock, in milliseconds since the Unix epoch.
pub fn wall_ms(now: Micros) -> u64 {
    EPOCH_MS + now / MS
}
