//! What the brain knows of the container runtime: whether it answers, and whether a list of everything has
//! been seen since it does.
//!
//! While it does not answer nothing is judged dead and nothing is started. A list carries a ticket: only the
//! newest one counts, and a container's absence counts only in a list that was asked for after the
//! container was known to run.

use std::collections::BTreeSet;

use longshore_proto::id::TaskId;

use super::step::Action;

/// How often everything is listed, in milliseconds, even when nothing seems to happen.
pub(super) const OBSERVE_INTERVAL_MS: u64 = 30_000;
/// How soon after a failed list, or a doubt, everything is listed again, in milliseconds.
pub(super) const OBSERVE_RETRY_MS: u64 = 1_000;

/// What is known of the runtime.
#[derive(Debug, Clone)]
pub(super) struct Runtime {
    error: Option<String>,
    /// Why the newest list could not be had.
    list_error: Option<String>,
    /// Whether a list has been seen since the runtime last came up.
    observed: bool,
    /// The ticket of the list that is under way.
    under_way: Option<u64>,
    observe_at_ms: u64,
    /// Whether something was not as thought since the newest list was asked for.
    doubted: bool,
    /// Whether a list was seen in this run while the cluster was known: from then on, containers that no
    /// record knows are in `strays`.
    pub(super) strays_known: bool,
    /// Tasks without a record that have a container.
    pub(super) strays: BTreeSet<TaskId>,
    /// How many of their containers ran when they were listed last.
    pub(super) strays_running: usize,
}

impl Runtime {
    pub(super) fn new() -> Self {
        Self {
            error: Some("the container runtime has not answered yet".into()),
            list_error: None,
            observed: false,
            under_way: None,
            observe_at_ms: 0,
            doubted: false,
            strays_known: false,
            strays: BTreeSet::new(),
            strays_running: 0,
        }
    }

    pub(super) fn up(&mut self, now_ms: u64) {
        self.error = None;
        self.observed = false;
        // A list that is under way began before the events were subscribed to, so it proves nothing.
        self.under_way = None;
        self.observe_at_ms = now_ms;
    }

    pub(super) fn down(&mut self, reason: String) {
        self.error = Some(reason);
        self.observed = false;
        self.under_way = None;
    }

    /// Something is not as thought: look again soon.
    pub(super) fn doubt(&mut self, now_ms: u64) {
        self.doubted = true;
        self.observe_at_ms = self.observe_at_ms.min(now_ms.saturating_add(OBSERVE_RETRY_MS));
    }

    /// Look again at once, whatever is under way.
    pub(super) fn look_now(&mut self, now_ms: u64) {
        self.under_way = None;
        self.observe_at_ms = now_ms;
    }

    /// Whether a list with this ticket counts.
    pub(super) fn listed(&mut self, ticket: u64, now_ms: u64) -> bool {
        if self.under_way != Some(ticket) {
            return false;
        }
        let wait_ms = if self.doubted { OBSERVE_RETRY_MS } else { OBSERVE_INTERVAL_MS };
        self.under_way = None;
        self.list_error = None;
        self.observed = true;
        self.observe_at_ms = now_ms.saturating_add(wait_ms);
        true
    }

    /// A list could not be had.
    pub(super) fn list_failed(&mut self, ticket: u64, now_ms: u64, reason: String) {
        if self.under_way == Some(ticket) {
            self.under_way = None;
            self.list_error = Some(reason);
            self.observe_at_ms = now_ms.saturating_add(OBSERVE_RETRY_MS);
        }
    }

    /// The list that is due now. The step's number is its ticket.
    pub(super) fn poll(&mut self, now_ms: u64, step: u64) -> Option<Action> {
        if self.error.is_some() || self.under_way.is_some() || self.observe_at_ms > now_ms {
            return None;
        }
        self.under_way = Some(step);
        self.doubted = false;
        Some(Action::ListContainers { ticket: step })
    }

    /// Whether containers may be started and stopped.
    pub(super) fn is_ready(&self) -> bool {
        self.error.is_none() && self.observed
    }

    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref().or(self.list_error.as_deref())
    }

    pub(super) fn wakeup(&self) -> Option<u64> {
        (self.error.is_none() && self.under_way.is_none()).then_some(self.observe_at_ms)
    }
}
