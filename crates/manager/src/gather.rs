//! Whether the next record is worth a short wait.
//!
//! Who is answered asks again, a little later. Where records follow each other at once, those who ask fall into two groups,
//! and each of them waits for the records of both; and a record takes the manager and the NATS server as much time as
//! several commands do. So where some few waited for an answer when records landed, the next record waits until as many
//! have come. It does so for a moment only, and where that is in vain more often than not, no more are expected than had
//! come.

use std::time::Duration;

use tokio::time::Instant;

/// How many who wait are few. Of more, each of two groups is large enough for what a record costs by itself to count little,
/// and to wait for others would only leave log and disk idle.
const FEW_MAX: usize = 16;
/// How long after records have landed others may still come back: longer than an answer and the question after it take
/// on a machine or within a rack.
const RETURN: Duration = Duration::from_millis(2);
/// How long the first of them waits for the others: about as long as a record takes.
const WAIT: Duration = Duration::from_millis(1);
/// How many waits in vain, less those that were not, make it expect less.
const VAIN_MAX: u32 = 3;
/// After how many landings it is tried whether one more comes in time.
const PATIENCE: u32 = 16;

/// What the next record waits for.
#[derive(Debug)]
pub(crate) struct Gathering {
    /// How many requests.
    wanted: usize,
    /// By when the first of them must have come.
    first_by: Instant,
    /// When the wait for the others ends, since that has come.
    until: Option<Instant>,
    /// How many are seen to come in time, and the landings since that was tried.
    usual: usize,
    landings: u32,
    vain: u32,
}

impl Gathering {
    /// Nothing has landed yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { wanted: 0, first_by: now, until: None, usual: FEW_MAX, landings: 0, vain: 0 }
    }

    /// Records have landed for which, and behind which, so many waited for an answer.
    pub(crate) fn landed(&mut self, waiting: usize, now: Instant) {
        self.landings += 1;
        if self.landings >= PATIENCE {
            (self.landings, self.usual) = (0, FEW_MAX.min(self.usual + 1));
        }
        let wanted = if waiting <= FEW_MAX { waiting.min(self.usual) } else { 0 };
        (self.wanted, self.first_by, self.until) = (wanted, now + RETURN, None);
    }

    /// Until when the next record should wait for others, where so many requests have come; `None` where it should not.
    pub(crate) fn wait(&mut self, came: usize, now: Instant) -> Option<Instant> {
        if came >= self.wanted {
            if self.until.is_some() {
                self.vain = self.vain.saturating_sub(1);
            }
        } else if self.until.is_some_and(|until| now >= until) {
            self.vain += 1;
            if self.vain >= VAIN_MAX {
                (self.vain, self.landings, self.usual) = (0, 0, came);
            }
        } else if self.until.is_some() || now < self.first_by {
            return Some(*self.until.get_or_insert(now + WAIT));
        }
        (self.wanted, self.until) = (0, None);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_waits_for_those_who_were_answered_and_not_for_more() {
        let start = Instant::now();
        let first = start + WAIT / 2;
        let mut gathering = Gathering::new(start);
        assert_eq!(gathering.wait(1, start), None, "nobody was answered");
        gathering.landed(10, start);
        assert_eq!(gathering.wait(1, first), Some(first + WAIT));
        assert_eq!(gathering.wait(9, start + WAIT), Some(first + WAIT));
        assert_eq!(gathering.wait(10, start + WAIT), None);
        assert_eq!(gathering.wait(1, start + WAIT), None, "once for each landing");
        gathering.landed(1, start);
        assert_eq!(gathering.wait(1, first), None, "who is alone never waits");
        gathering.landed(FEW_MAX + 1, start);
        assert_eq!(gathering.wait(1, first), None, "of many nobody waits");
        gathering.landed(10, start);
        assert_eq!(
            gathering.wait(1, start + RETURN),
            None,
            "who comes late has nobody to wait for"
        );
    }

    /// One comes back at once where ten were answered; whether it waits.
    fn in_vain(gathering: &mut Gathering, came: usize) -> bool {
        let start = Instant::now();
        gathering.landed(10, start);
        let Some(until) = gathering.wait(came, start) else { return false };
        assert_eq!(until, start + WAIT);
        assert_eq!(gathering.wait(came, until), None, "for a moment only");
        true
    }

    #[test]
    fn who_waits_in_vain_expects_less_and_then_tries_again() {
        let mut gathering = Gathering::new(Instant::now());
        for _ in 0..VAIN_MAX {
            assert!(in_vain(&mut gathering, 3));
        }
        for _ in 1..PATIENCE {
            assert!(!in_vain(&mut gathering, 3));
        }
        assert!(in_vain(&mut gathering, 3), "now and then for one more");
        assert!(!in_vain(&mut gathering, 4));
    }

    #[test]
    fn a_wait_in_vain_now_and_then_changes_nothing() {
        let mut gathering = Gathering::new(Instant::now());
        for _ in 0..100 {
            assert!(in_vain(&mut gathering, 9));
            let start = Instant::now();
            gathering.landed(10, start);
            assert!(gathering.wait(1, start).is_some());
            assert_eq!(gathering.wait(10, start), None);
        }
    }

    #[test]
    fn those_who_ask_independently_of_each_other_seldom_wait() {
        let mut gathering = Gathering::new(Instant::now());
        let waits = (0..1_000).filter(|_| in_vain(&mut gathering, 1)).count();
        assert!(waits < 250, "{waits}");
    }
}
