//! What every task of the worker shares while one input is handled, and what the step gathers.

use longshore_proto::id::{BootId, ClusterId, TaskId};
use longshore_proto::name::NodeName;

use super::image::Errands;
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
    /// The images that are looked for and fetched.
    pub(super) errands: Errands,
    /// Whether the leader's whole set was seen in this run.
    pub(super) synced: bool,
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
