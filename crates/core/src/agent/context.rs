//! What every task of the worker shares while one input is handled, and what the step gathers.

use std::collections::BTreeSet;

use longshore_proto::id::{BootId, ClusterId, TaskId};
use longshore_proto::name::NodeName;
use longshore_proto::spec::PullPolicy;

use super::outbox::Outbox;
use super::policy::Policy;
use super::ports::Ports;
use super::runtime::Runtime;
use super::settings::Keeping;
use super::shelf::{Moment, Shelf};
use super::step::{Action, Write};
use super::stock::Stock;

/// Everything but the tasks.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) node: NodeName,
    pub(super) boot_id: BootId,
    pub(super) cluster_id: Option<ClusterId>,
    pub(super) outbox: Outbox,
    pub(super) shelf: Shelf,
    pub(super) stock: Stock,
    pub(super) keeping: Keeping,
    pub(super) runtime: Runtime,
    pub(super) ports: Ports,
    /// What tasks may do here.
    pub(super) policy: Policy,
    /// The images that are being made available, so that many tasks wait for one pull.
    pub(super) pulls: BTreeSet<(String, u8)>,
    /// Whether the worker is to leave.
    pub(super) leaving: bool,
    /// The monotonic time of the input that is being handled, in milliseconds.
    pub(super) now_ms: u64,
    /// Its wall-clock time, in milliseconds since the Unix epoch.
    pub(super) wall_ms: u64,
    /// Counts inputs.
    pub(super) step: u64,
    pub(super) writes: Vec<Write>,
    pub(super) actions: Vec<Action>,
}

impl Context {
    /// Wants an image; asks for it unless that is under way.
    pub(super) fn pull(&mut self, image: &str, policy: PullPolicy) {
        if self.pulls.insert((image.to_owned(), policy_key(policy))) {
            self.actions.push(Action::PullImage { image: image.to_owned(), policy });
        }
    }

    /// A pull was answered.
    pub(super) fn pulled(&mut self, image: &str, policy: PullPolicy) {
        self.pulls.remove(&(image.to_owned(), policy_key(policy)));
    }

    /// Keeps an ended container for its logs.
    pub(super) fn keep(&mut self, task: TaskId, attempt: u64, container_id: String) {
        let at = Moment { step: self.step, now_ms: self.now_ms, wall_ms: self.wall_ms };
        self.shelf.keep(task, attempt, container_id, at, &mut self.writes);
    }

    /// Wants a container gone before the task starts again.
    pub(super) fn remove(&mut self, container: String, task: Option<TaskId>, grace_ms: u64) {
        self.shelf.remove(container, task, grace_ms, self.now_ms);
    }
}

fn policy_key(policy: PullPolicy) -> u8 {
    match policy {
        PullPolicy::IfMissing => 0,
        PullPolicy::Always => 1,
        PullPolicy::Never => 2,
    }
}
