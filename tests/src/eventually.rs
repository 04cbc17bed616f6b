//! Waiting for a state, with a deadline and the last state seen in the failure.

use std::time::{Duration, Instant};

/// The wait between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Looks again and again until the look succeeds. The error of a look says what was seen instead.
///
/// # Panics
/// At the deadline, with what was seen last.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    let mut seen = "nothing: the first look did not return".to_owned();
    loop {
        let left = within.saturating_sub(start.elapsed());
        match tokio::time::timeout(left, look()).await {
            Ok(Ok(found)) => return found,
            Ok(Err(other)) => seen = other,
            Err(_) => {}
        }
        // A look that never waits is not ended by the timeout: the clock is.
        assert!(start.elapsed() < within, "{what}: not within {within:?}; last seen: {seen}");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Looks again and again for a while: the look must succeed each time. For what must not happen.
///
/// # Panics
/// At the first look that fails, with what was seen.
pub async fn always(
    what: &str,
    during: Duration,
    mut look: impl AsyncFnMut() -> Result<(), String>,
) {
    let start = Instant::now();
    while start.elapsed() < during {
        if let Err(seen) = look().await {
            panic!("{what}: broken after {:?}: {seen}", start.elapsed());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    #[tokio::test]
    #[should_panic(expected = "it rains: not within 200ms; last seen: sun")]
    async fn a_look_that_never_succeeds_ends_at_the_deadline_with_what_it_saw() {
        eventually("it rains", SHORT, async || Err::<(), _>("sun".to_owned())).await;
    }

    #[tokio::test]
    #[should_panic(expected = "it rains: not within 200ms; last seen: nothing")]
    async fn a_look_that_never_returns_ends_at_the_deadline() {
        eventually("it rains", SHORT, async || std::future::pending::<Result<(), String>>().await)
            .await;
    }

    #[tokio::test]
    #[should_panic(expected = "it stays dry: broken after")]
    async fn what_must_hold_all_the_time_is_looked_at_all_the_time() {
        let start = Instant::now();
        always("it stays dry", SHORT * 2, async || {
            if start.elapsed() < SHORT { Ok(()) } else { Err("rain".to_owned()) }
        })
        .await;
    }
}
