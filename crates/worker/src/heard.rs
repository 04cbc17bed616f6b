//! Whether the leader hears this worker: its heartbeats want an answer, and where none comes for a while, another NATS
//! server is tried.
//!
//! A NATS server that is cut off from the others keeps its connections, and those who stay on it are heard by nobody, or by a
//! manager that can commit nothing any more. Such a manager does not answer: only one does whose lease was renewed a moment ago, for
//! which it takes a majority of the servers. A leader of an older version answers no heartbeats, and is not missed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::connection::State as Connection;
use futures_util::StreamExt;
use longshore_bus::Bus;
use longshore_proto::node::Registered;
use tokio::time::Instant;
use tracing::{info, warn};

/// The interval of heartbeats where the leader does not say one.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// After how many heartbeats without an answer the leader is missed: with the usual interval before the node is suspect.
const HEARTBEATS_MAX: u32 = 3;
/// How long the next servers have: who leads answers the first question at once.
const NEXT_WAIT: Duration = Duration::from_secs(3);
/// How many have no longer than that, so that each of three is tried before this node is lost.
const NEXT_MAX: u32 = 2;
/// After how long, at most, another one is tried, where all were tried in vain: nobody may lead just now.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// The wait before the answers are listened to again.
const LISTEN_DELAY: Duration = Duration::from_secs(1);

/// What is known of being heard.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    state: Arc<Mutex<State>>,
    /// Where answers are wanted.
    inbox: String,
}

#[derive(Debug)]
struct State {
    /// When the leader last answered, or a server was left.
    since: Instant,
    /// Whether it is known to answer, or is asked to take this node in.
    is_awaited: bool,
    /// How many servers were left since it answered.
    left: u32,
    /// How long it may be silent.
    silence_max: Duration,
}

impl State {
    fn new(now: Instant) -> Self {
        let silence_max = HEARTBEAT_INTERVAL * HEARTBEATS_MAX;
        Self { since: now, is_awaited: false, left: 0, silence_max }
    }

    /// The leader has said something; whether it is known to answer heartbeats.
    fn answered(&mut self, now: Instant, is_awaited: bool) {
        (self.since, self.is_awaited, self.left) = (now, is_awaited, 0);
    }

    /// For how long it may be silent.
    fn wait(&self) -> Duration {
        match self.left.checked_sub(NEXT_MAX + 1) {
            None if self.left == 0 => self.silence_max,
            None => NEXT_WAIT,
            Some(more) => self
                .silence_max
                .saturating_mul(1 << more.min(4))
                .min(WAIT_MAX.max(self.silence_max)),
        }
    }

    /// Whether it is time to try another server.
    fn is_over(&mut self, now: Instant) -> bool {
        if !self.is_awaited || now.duration_since(self.since) < self.wait() {
            return false;
        }
        (self.since, self.left) = (now, self.left + 1);
        true
    }
}

/// How often the leader wants a heartbeat.
pub(crate) fn heartbeat_interval(registered: &Registered) -> Duration {
    match registered.heartbeat_interval_ms {
        0 => HEARTBEAT_INTERVAL,
        ms => Duration::from_millis(ms),
    }
}

impl Heard {
    /// Nothing is known yet.
    pub(crate) fn new(bus: &Bus) -> Self {
        let state = Arc::new(Mutex::new(State::new(Instant::now())));
        Self { state, inbox: bus.client().new_inbox() }
    }

    /// Where answers to heartbeats are wanted.
    pub(crate) fn inbox(&self) -> &str {
        &self.inbox
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leader is asked to take this node in.
    pub(crate) fn asks(&self) {
        self.state().is_awaited = true;
    }

    /// The leader has taken this node in; nobody knows yet whether it answers heartbeats.
    pub(crate) fn taken_in(&self, registered: &Registered) {
        let mut state = self.state();
        state.silence_max = heartbeat_interval(registered).saturating_mul(HEARTBEATS_MAX);
        state.answered(Instant::now(), false);
    }

    /// Takes note of the answers, for ever.
    pub(crate) async fn listen(self, bus: Bus) {
        loop {
            match bus.client().subscribe(self.inbox.clone()).await {
                Ok(mut answers) => {
                    while let Some(answer) = answers.next().await {
                        // That nobody listens is told by the server, with a status.
                        if answer.status.is_none() {
                            self.state().answered(Instant::now(), true);
                        }
                    }
                }
                Err(error) => warn!("{error}; trying again"),
            }
            tokio::time::sleep(LISTEN_DELAY).await;
        }
    }

    /// Tries another server where no answer comes, for ever.
    pub(crate) async fn watch(self, bus: Bus) {
        loop {
            // Not all at once.
            tokio::time::sleep(LOOK_INTERVAL.mul_f64(rand::random_range(1.0..4.0))).await;
            // A connection that is broken is mended already.
            let is_connected = bus.client().connection_state() == Connection::Connected;
            if !is_connected || !self.state().is_over(Instant::now()) || !bus.has_choice().await {
                continue;
            }
            warn!(
                "no manager that leads answers by way of this NATS server, which may be cut off from the others; trying another \
                 one, and tasks run on meanwhile"
            );
            if bus.change_server().await {
                info!("connected to another NATS server");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_is_known_to_answer_is_missed_and_ever_more_patiently() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut state = State::new(start);
        assert!(!state.is_over(after(100)), "none has answered yet");
        state.answered(after(100), true);
        assert!(!state.is_over(after(105)));
        let mut at = 100;
        for wait in [6, 3, 3, 6, 12, 24, 48, 60, 60] {
            at += wait;
            assert!(!state.is_over(after(at - 1)) && state.is_over(after(at)), "{wait} s");
        }
        state.answered(after(at), true);
        assert!(state.is_over(after(at + 6)), "anew");
        state.answered(after(at + 7), false);
        assert!(
            !state.is_over(after(999)),
            "an older leader takes nodes in and answers no heartbeat"
        );
        // One who wants a heartbeat every minute answers no more often.
        state.silence_max = Duration::from_secs(180);
        state.answered(after(1_000), true);
        assert!(!state.is_over(after(1_179)) && state.is_over(after(1_180)));
    }
}
