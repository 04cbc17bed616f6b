//! The restart policy: what follows when an attempt has ended, and how long to wait; and how long after a pull that failed.

use longshore_proto::id::TaskId;
use longshore_proto::spec::{RestartMode, RestartPolicy};

/// The most restarts whose times are remembered for one task. A policy that allows more within its window
/// never gives the task up; without this bound a task without delay could fill the worker's memory.
const RESTARTS_MAX: usize = 1_000;

/// The first and the longest wait before an image is tried to be had again, in milliseconds.
const PULL_DELAY_MS: u64 = 5_000;
const PULL_DELAY_MS_MAX: u64 = 300_000;

/// What follows the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The task has done its work.
    Completed,
    /// The policy allows no restart after this end.
    Failed,
    /// The policy allows restarts, and they are used up.
    GivenUp,
    /// Another attempt, after this wait.
    Restart { delay_ms: u64 },
}

/// Judges the end of an attempt and, where a restart follows, counts it. Times are monotonic; those of an
/// earlier run of the worker are negative.
pub(super) fn judge(
    policy: &RestartPolicy,
    restarts: &mut Vec<i64>,
    clean: bool,
    now_ms: i64,
    seed: u64,
) -> Verdict {
    match policy.mode {
        RestartMode::Never | RestartMode::OnFailure if clean => return Verdict::Completed,
        RestartMode::Never => return Verdict::Failed,
        RestartMode::OnFailure | RestartMode::Always => {}
    }
    forgive(policy, restarts, now_ms);
    let used = restarts.len();
    let allowed = usize::try_from(policy.attempts).unwrap_or(usize::MAX);
    if allowed == 0 {
        return Verdict::Failed;
    }
    if used >= allowed {
        return Verdict::GivenUp;
    }
    if used >= RESTARTS_MAX {
        restarts.remove(0);
    }
    restarts.push(now_ms);
    Verdict::Restart { delay_ms: delay_ms(policy, used, seed) }
}

/// Forgets the restarts that have left the window.
fn forgive(policy: &RestartPolicy, restarts: &mut Vec<i64>, now_ms: i64) {
    let window_ms = i64::try_from(policy.window_ms).unwrap_or(i64::MAX);
    restarts.retain(|at| now_ms.saturating_sub(*at) < window_ms);
}

/// The wait before the restart that follows `used` others in the window: doubled with each, capped, and
/// spread by a tenth either way so that tasks that died together do not come back together.
pub(super) fn delay_ms(policy: &RestartPolicy, used: usize, seed: u64) -> u64 {
    let doubled = u32::try_from(used)
        .ok()
        .and_then(|used| 1u64.checked_shl(used))
        .map_or(u64::MAX, |factor| policy.delay_ms.saturating_mul(factor));
    // Where even the first wait is 0, so is every other.
    let delay = if policy.delay_ms == 0 { 0 } else { doubled.min(policy.delay_ms_max) };
    delay - delay / 10 + seed % (delay / 5 + 1)
}

/// The wait after `before` other pulls of an image have failed and one more: from 5 seconds on, doubled with each.
pub(super) fn pull_delay_ms(before: u32, seed: u64) -> u64 {
    let pulls = RestartPolicy {
        delay_ms: PULL_DELAY_MS,
        delay_ms_max: PULL_DELAY_MS_MAX,
        ..RestartPolicy::usual(RestartMode::Always)
    };
    delay_ms(&pulls, usize::try_from(before).unwrap_or(usize::MAX), seed)
}

/// A number for the spread that looks random and is always the same for the same attempt.
pub(super) fn seed(task: TaskId, attempt: u64) -> u64 {
    let (high, low) = task.0.as_u64_pair();
    // The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    let mut x = (high ^ low.rotate_left(32) ^ attempt).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(mode: RestartMode) -> RestartPolicy {
        RestartPolicy { mode, attempts: 2, window_ms: 10_000, delay_ms: 1_000, delay_ms_max: 3_000 }
    }

    #[test]
    fn the_mode_decides_about_clean_ends() {
        let mut restarts = Vec::new();
        assert_eq!(
            judge(&policy(RestartMode::Never), &mut restarts, true, 0, 0),
            Verdict::Completed
        );
        assert_eq!(judge(&policy(RestartMode::Never), &mut restarts, false, 0, 0), Verdict::Failed);
        assert_eq!(
            judge(&policy(RestartMode::OnFailure), &mut restarts, true, 0, 0),
            Verdict::Completed
        );
        assert!(restarts.is_empty());
        assert!(matches!(
            judge(&policy(RestartMode::Always), &mut restarts, true, 0, 0),
            Verdict::Restart { .. }
        ));
    }

    #[test]
    fn restarts_are_counted_within_the_window() {
        let mut restarts = Vec::new();
        let policy = policy(RestartMode::OnFailure);
        assert!(matches!(judge(&policy, &mut restarts, false, 0, 0), Verdict::Restart { .. }));
        assert!(matches!(judge(&policy, &mut restarts, false, 9_000, 0), Verdict::Restart { .. }));
        assert_eq!(judge(&policy, &mut restarts, false, 9_999, 0), Verdict::GivenUp);
        assert!(matches!(judge(&policy, &mut restarts, false, 10_000, 0), Verdict::Restart { .. }));
    }

    #[test]
    fn a_policy_without_attempts_fails_at_once() {
        let none = RestartPolicy { attempts: 0, ..policy(RestartMode::Always) };
        assert_eq!(judge(&none, &mut Vec::new(), true, 0, 0), Verdict::Failed);
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit_with_a_tenth_either_way() {
        let policy = policy(RestartMode::Always);
        for (used, plain) in [
            (0, 1_000),
            (1, 2_000),
            (2, 3_000),
            (3, 3_000),
            (63, 3_000),
            (64, 3_000),
            (5_000, 3_000),
        ] {
            for number in 0..50 {
                let delay = delay_ms(&policy, used, seed(TaskId(Default::default()), number));
                assert!(
                    (plain - plain / 10..=plain + plain / 10).contains(&delay),
                    "{used}: {delay}"
                );
            }
        }
        assert_eq!(delay_ms(&RestartPolicy { delay_ms: 0, ..policy }, 64, 7), 0);
    }

    #[test]
    fn the_spread_differs_between_attempts_and_is_the_same_for_one() {
        let task = TaskId(Default::default());
        assert_eq!(seed(task, 1), seed(task, 1));
        assert_ne!(seed(task, 1) % 100, seed(task, 2) % 100);
    }

    #[test]
    fn memory_is_bounded_where_the_policy_is_not() {
        let endless =
            RestartPolicy { attempts: u32::MAX, delay_ms: 0, ..policy(RestartMode::Always) };
        let mut restarts = Vec::new();
        for _ in 0..3 * RESTARTS_MAX {
            assert!(matches!(judge(&endless, &mut restarts, false, 5, 0), Verdict::Restart { .. }));
        }
        assert_eq!(restarts.len(), RESTARTS_MAX);
    }
}
