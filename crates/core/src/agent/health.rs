//! A task's health: when it is asked, and what its answers mean.

use longshore_proto::health::{Health, HealthCheck, HealthReport};

/// The health of one attempt, as this process asks for it. What was found is in the record.
#[derive(Debug, Clone, Default)]
pub(super) struct Checker {
    /// When the container was first known to run.
    since_ms: u64,
    /// When to ask next; absent while an answer is awaited, or nothing is to be asked.
    ask_at_ms: Option<u64>,
    /// Bad answers in a row that count.
    failures: u32,
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing new.
    Same,
    /// Another health than before.
    Changed(Health),
}

impl Checker {
    /// The container runs: the first question is asked after the interval, but within a second, so that what
    /// waits for the first good answer need not wait long.
    pub(super) fn begin(&mut self, check: &HealthCheck, now_ms: u64) {
        let first_ms = check.interval_ms.min(1_000);
        *self = Self {
            since_ms: now_ms,
            ask_at_ms: Some(now_ms.saturating_add(first_ms)),
            failures: 0,
        };
    }

    /// Nothing is asked any more.
    pub(super) fn end(&mut self) {
        self.ask_at_ms = None;
    }

    pub(super) fn ask_at_ms(&self) -> Option<u64> {
        self.ask_at_ms
    }

    /// The question that is due is asked now.
    pub(super) fn asked(&mut self) {
        self.ask_at_ms = None;
    }

    /// The runtime could not say: ask again.
    pub(super) fn unanswered(&mut self, check: &HealthCheck, now_ms: u64) {
        self.ask_at_ms = Some(now_ms.saturating_add(check.interval_ms));
    }

    /// Takes an answer.
    pub(super) fn answered(
        &mut self,
        check: &HealthCheck,
        known: Option<HealthReport>,
        is_good: bool,
        now_ms: u64,
    ) -> Finding {
        self.ask_at_ms = Some(now_ms.saturating_add(check.interval_ms));
        let known = known.map_or(Health::Starting, |report| report.status);
        if is_good {
            self.failures = 0;
            return if known == Health::Healthy {
                Finding::Same
            } else {
                Finding::Changed(Health::Healthy)
            };
        }
        let is_starting = known == Health::Starting
            && now_ms.saturating_sub(self.since_ms) < check.start_period_ms;
        if is_starting {
            return Finding::Same;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < check.retries || known == Health::Unhealthy {
            return Finding::Same;
        }
        Finding::Changed(Health::Unhealthy)
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::health::Probe;

    use super::*;

    fn check() -> HealthCheck {
        HealthCheck { start_period_ms: 5_000, ..HealthCheck::usual(Probe::Image) }
    }

    fn known(status: Health) -> Option<HealthReport> {
        Some(HealthReport { status, sequence: 1 })
    }

    #[test]
    fn bad_answers_count_only_after_the_start_period_or_the_first_good_one() {
        let (check, mut checker) = (check(), Checker::default());
        checker.begin(&check, 1_000);
        assert_eq!(checker.ask_at_ms(), Some(2_000));
        for _ in 0..10 {
            assert_eq!(checker.answered(&check, None, false, 5_999), Finding::Same);
        }
        for _ in 0..2 {
            assert_eq!(checker.answered(&check, None, false, 6_000), Finding::Same);
        }
        let unhealthy = Finding::Changed(Health::Unhealthy);
        assert_eq!(checker.answered(&check, None, false, 6_000), unhealthy);

        checker.begin(&check, 1_000);
        assert_eq!(checker.answered(&check, None, true, 1_500), Finding::Changed(Health::Healthy));
        for _ in 0..2 {
            assert_eq!(
                checker.answered(&check, known(Health::Healthy), false, 2_000),
                Finding::Same
            );
        }
        assert_eq!(checker.answered(&check, known(Health::Healthy), false, 2_000), unhealthy);
        assert_eq!(checker.ask_at_ms(), Some(12_000));
    }

    #[test]
    fn one_good_answer_forgives_the_bad_ones() {
        let (check, mut checker) = (check(), Checker::default());
        checker.begin(&check, 0);
        for _ in 0..3 {
            for _ in 0..2 {
                checker.answered(&check, known(Health::Healthy), false, 9_000);
            }
            assert_eq!(
                checker.answered(&check, known(Health::Healthy), true, 9_000),
                Finding::Same
            );
        }
    }
}
