//! When the lease is taken, and when it is lost.
//!
//! The lease only keeps two managers from fencing each other all the time. Whether a manager may write is
//! decided by the log alone, at each append.
//!
//! A manager that waits judges by its own monotonic clock: a lease whose sequence has not moved for
//! [`PATIENCE_MS`] is taken, by a write that expects just that sequence, so a renewal in the last moment wins.
//! The server's limit of life is only the broom behind it: it counts whole seconds and sweeps late.

use crate::time::Time;

/// How long the server keeps a lease that is not renewed, in milliseconds. Whole seconds, by the server's rule.
pub const TTL_MS: u64 = 4_000;
/// How often it is renewed, in milliseconds.
pub const RENEW_INTERVAL_MS: u64 = 500;
/// How long a manager that waits watches a lease that does not move before it takes it, in milliseconds.
pub const PATIENCE_MS: u64 = 2_000;
/// How long one waits that the log does not list yet, in milliseconds. Whoever heals a log must know who may know
/// more, so a manager is recorded before it leads; only where no leader is there to do that, it leads all the same.
pub const PATIENCE_UNLISTED_MS: u64 = 15_000;
/// How often a manager that waits looks at the lease, in milliseconds.
pub const LOOK_INTERVAL_MS: u64 = 200;
/// A driver that has not moved for so long is stuck, and must not keep others from leading, in milliseconds.
pub const STUCK_AFTER_MS: u64 = 10_000;

/// The lease as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<H> {
    /// The last sequence of its subject: what a write must expect.
    pub sequence: u64,
    /// Who holds it, if somebody else does.
    pub other: Option<H>,
}

impl<H> Seen<H> {
    /// Whether a manager that has only looked once may take it.
    pub fn is_free(&self) -> bool {
        self.other.is_none()
    }
}

/// A manager that waits for the lease.
#[derive(Debug, Clone, Default)]
pub struct Waiting {
    /// The sequence as it was seen last, and since when it has not moved.
    still: Option<(u64, Time)>,
}

impl Waiting {
    /// Looks. Nothing was seen where the lease could not be read: while the bus is away nobody can renew, and that
    /// silence is not the leader's. Gives whether to take the lease now; `listed` says whether the log lists this
    /// manager.
    pub fn look<H>(&mut self, seen: Option<&Seen<H>>, listed: bool, now: Time) -> bool {
        let Some(seen) = seen else {
            self.still = None;
            return false;
        };
        let since = match self.still {
            Some((sequence, since)) if sequence == seen.sequence => since,
            _ => now,
        };
        self.still = Some((seen.sequence, since));
        let patience_ms = match (listed, &seen.other) {
            (true, None) => 0,
            (true, Some(_)) => PATIENCE_MS,
            (false, _) => PATIENCE_UNLISTED_MS,
        };
        now - since >= patience_ms
    }
}

/// Whether a leader whose loop moved last at `moved` must let its lease end.
pub fn is_stuck(moved: Time, now: Time) -> bool {
    now - moved > STUCK_AFTER_MS
}

/// What a leader makes of a renewal that was refused, from another look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused<H> {
    /// Perhaps a renewal whose acknowledgement was lost, or the lease ended meanwhile: it goes on from this sequence.
    Ours(u64),
    /// Another manager holds it.
    Lost(H),
}

impl<H> Refused<H> {
    /// From what was seen.
    pub fn from(seen: Seen<H>) -> Self {
        match seen.other {
            None => Self::Ours(seen.sequence),
            Some(other) => Self::Lost(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sequence: u64, other: Option<&'static str>) -> Seen<&'static str> {
        Seen { sequence, other }
    }

    #[test]
    fn a_free_lease_is_taken_at_once_and_another_s_only_when_it_does_not_move() {
        let mut waiting = Waiting::default();
        assert!(waiting.look(Some(&seen(0, None)), true, Time(1)));
        assert!(!waiting.look(Some(&seen(5, Some("m1"))), true, Time(1_000)));
        assert!(!waiting.look(Some(&seen(5, Some("m1"))), true, Time(2_999)));
        assert!(!waiting.look(Some(&seen(6, Some("m1"))), true, Time(3_100)), "it was renewed");
        assert!(waiting.look(Some(&seen(6, Some("m1"))), true, Time(5_100)));
    }

    #[test]
    fn silence_of_the_bus_is_not_the_leader_s() {
        let mut waiting = Waiting::default();
        assert!(!waiting.look(Some(&seen(5, Some("m1"))), true, Time(1_000)));
        assert!(!waiting.look::<&str>(None, true, Time(2_000)));
        assert!(!waiting.look(Some(&seen(5, Some("m1"))), true, Time(3_500)));
        assert!(waiting.look(Some(&seen(5, Some("m1"))), true, Time(5_500)));
    }

    #[test]
    fn who_is_not_listed_waits_to_be_even_where_nobody_leads() {
        let mut waiting = Waiting::default();
        assert!(!waiting.look(Some(&seen(0, None)), false, Time(1_000)));
        assert!(!waiting.look(Some(&seen(0, None)), false, Time(15_999)));
        assert!(waiting.look(Some(&seen(0, None)), false, Time(16_000)));
    }

    #[test]
    fn a_refused_renewal_is_lost_only_to_somebody_else() {
        assert_eq!(Refused::from(seen(7, None)), Refused::Ours(7));
        assert_eq!(Refused::from(seen(7, Some("m1"))), Refused::Lost("m1"));
        assert!(!is_stuck(Time(1_000), Time(11_000)));
        assert!(is_stuck(Time(1_000), Time(11_001)));
    }
}
