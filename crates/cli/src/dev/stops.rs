//! How `longshore dev` is told to stop: once, and then at once.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// Programs such as `timeout` signal a process and its group, so that one wish arrives twice.
const ECHO: Duration = Duration::from_millis(500);

/// What has been asked so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stops {
    /// Stop what was started.
    pub(crate) first: CancellationToken,
    /// End at once.
    pub(crate) second: CancellationToken,
}

impl Stops {
    /// Listens to Ctrl-C, SIGTERM, and the end of the terminal, unless that is to be ignored (`nohup`).
    pub(crate) fn listen() -> Result<Self, Failure> {
        let problem = |error| Failure::new("cannot listen to signals").cause(&error);
        let hangup_counts =
            !ignores_hangup(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
        let mut interrupt = signal(SignalKind::interrupt()).map_err(problem)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(problem)?;
        let mut hangup =
            hangup_counts.then(|| signal(SignalKind::hangup())).transpose().map_err(problem)?;
        let stops = Self::default();
        let told = stops.clone();
        tokio::spawn(async move {
            let mut counts_from = Instant::now();
            for token in [told.first, told.second] {
                loop {
                    let hung_up = async {
                        match &mut hangup {
                            Some(hangup) => hangup.recv().await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hung_up => {}
                    }
                    if Instant::now() >= counts_from {
                        break;
                    }
                }
                token.cancel();
                counts_from = Instant::now() + ECHO;
            }
        });
        Ok(stops)
    }
}

/// Whether this process was started with SIGHUP ignored, by what the system says of it.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_respected() {
        assert!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("Name:\tx\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }
}
