//! What leaves the brain: writes first, actions after them.
//!
//! A [`Step`] is split into its [`Writes`] and its [`Held`] actions. The actions come out only against a
//! [`Stored`] receipt, and the receipt only out of the writes, so that a shell that acts before it has
//! stored does not compile. The shell's store is the one caller of [`Writes::stored`].

use std::collections::BTreeMap;

use longshore_proto::health::HealthCheck;
use longshore_proto::id::{ClusterId, Revision, TaskId};
use longshore_proto::node::{RunTask, TaskReport};
use longshore_proto::spec::Port;

use super::image::ImageWish;
use super::record::{KeptContainer, StockRecord, TaskRecord, Tombstone};
use super::stock::StockItem;

/// What one input led to.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the writes must be stored and the actions done"]
pub struct Step {
    number: u64,
    writes: Vec<Write>,
    actions: Vec<Action>,
}

impl Step {
    pub(super) fn new(number: u64, writes: Vec<Write>, actions: Vec<Action>) -> Self {
        Self { number, writes, actions }
    }

    /// The two halves: what must be stored, and what may be done once it is.
    pub fn split(self) -> (Writes, Held) {
        (
            Writes { number: self.number, writes: self.writes },
            Held { number: self.number, actions: self.actions },
        )
    }
}

/// What must be in the worker's store, as one atomic batch, before anything of the step is done.
#[derive(Debug)]
#[must_use = "the step's actions stay held until these are stored"]
pub struct Writes {
    number: u64,
    writes: Vec<Write>,
}

impl Writes {
    /// The writes, in order.
    pub fn as_slice(&self) -> &[Write] {
        &self.writes
    }

    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Whether they have to outlast a loss of power before anything of the step is done.
    pub fn must_be_synced(&self) -> bool {
        self.writes.iter().any(Write::must_be_synced)
    }

    /// Says that the writes are on disk. Only a store says so, after its sync has returned; where none of them must be
    /// synced, once it will write nothing that comes later before them.
    pub fn stored(self) -> Stored {
        Stored { number: self.number }
    }
}

/// The proof that a step's writes are on disk.
#[derive(Debug)]
pub struct Stored {
    number: u64,
}

/// Actions that wait for their step's receipt.
#[derive(Debug)]
#[must_use = "actions that are not released never happen"]
pub struct Held {
    number: u64,
    actions: Vec<Action>,
}

impl Held {
    /// Hands out the actions.
    ///
    /// # Panics
    /// When the receipt is another step's: the shell has mixed up its steps, and going on could start what
    /// was never stored.
    pub fn release(self, receipt: Stored) -> Vec<Action> {
        assert_eq!(self.number, receipt.number, "the receipt belongs to another step");
        self.actions
    }
}

/// One change of the worker's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The cluster that the data directory belongs to from now on.
    Cluster(ClusterId),
    /// The revision of the newest assignments.
    Revision(Revision),
    /// A task as it is now; replaces what was there.
    Task(TaskRecord),
    /// The task is forgotten.
    TaskForgotten(TaskId),
    /// What is remembered of a forgotten task.
    Tombstone(Tombstone),
    /// A tombstone has become too old to matter.
    TombstoneDropped(TaskId),
    /// A report that is to be delivered.
    Report {
        /// Its place in the order of delivery.
        sequence: u64,
        /// The report.
        report: TaskReport,
    },
    /// The report with this place was delivered, or gave way to a newer one of its task.
    ReportDropped(u64),
    /// An ended container that is kept for its logs.
    Kept(KeptContainer),
    /// The kept container with this place is on its way out.
    KeptDropped(u64),
    /// Something that was brought onto the machine, with when it was needed last; replaces what was there.
    Stock(StockRecord),
    /// It is gone, or not ours.
    StockDropped(StockItem),
}

impl Write {
    /// Whether it has to outlast a loss of power before anything of its step is done. That a report was delivered need not:
    /// it is delivered once more, and changes nothing.
    pub fn must_be_synced(&self) -> bool {
        !matches!(self, Self::ReportDropped(_))
    }
}

/// Something that the shell must do. Each one that names a result as its answer gets exactly one, whatever
/// happens: the shell gives every call a deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Look whether the image is on this machine. Answer: [`super::Input::ImageLookedFor`].
    FindImage(ImageWish),
    /// Fetch the image from its registry, whether or not it is here. Answer: [`super::Input::ImageFetched`].
    FetchImage(ImageWish),
    /// Create the container and start it. Answer: [`super::Input::Started`].
    StartContainer(Box<StartContainer>),
    /// Ask the container to end, wait out the grace, then kill it. Answer: [`super::Input::Stopped`].
    StopContainer {
        /// The container.
        container_id: String,
        /// How long it may take to end by itself, in milliseconds.
        grace_ms: u64,
    },
    /// Remove a container, ending it first where it runs. Answer: [`super::Input::Removed`].
    RemoveContainer {
        /// Its id or its name.
        container: String,
        /// How long it may take to end by itself before it is killed, in milliseconds.
        grace_ms: u64,
    },
    /// Ask a task whether it does its work. Answer: [`super::Input::Probed`].
    ProbeTask(Box<ProbeTask>),
    /// List every container with the labels of this cluster and node, whatever its state. Answer:
    /// [`super::Input::Observed`] or [`super::Input::ObserveFailed`], with the same ticket.
    ListContainers {
        /// Tells lists apart.
        ticket: u64,
    },
    /// Look how full the disk is that the runtime uses. Answer: [`super::Input::DiskMeasured`].
    MeasureDisk,
    /// Remove an image or a volume, unless any container uses it. Answer: [`super::Input::StockRemoved`].
    RemoveStock {
        /// What.
        item: StockItem,
        /// Why: for people.
        why: String,
    },
    /// Deliver reports. Answer: [`super::Input::ReportsAcked`] or [`super::Input::ReportsFailed`].
    SendReports {
        /// The place of the last of them.
        through: u64,
        /// The reports, oldest first.
        reports: Vec<TaskReport>,
    },
    /// Ask the leader for the whole set. Answer: [`super::Input::Synced`] or [`super::Input::SyncFailed`].
    RequestSync,
    /// Tell the operator, loudly.
    Alarm(String),
}

/// A question about a task's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeTask {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: u64,
    /// Its container.
    pub container_id: String,
    /// What is asked, and how long the answer may take.
    pub check: HealthCheck,
    /// The task's ports, with those that were chosen for it.
    pub ports: Vec<Port>,
    /// Whether it shares the node's own network.
    pub is_on_host_network: bool,
}

/// Everything that a container is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartContainer {
    /// The task.
    pub task: TaskId,
    /// The attempt; it was stored before this action came out.
    pub attempt: u64,
    /// The container's name, the same for the same attempt: a container of this name with these labels is
    /// the one that an earlier run of the worker created, and is adopted.
    pub name: String,
    /// The labels, by which the container is known again.
    pub labels: BTreeMap<String, String>,
    /// What to run.
    pub run: RunTask,
}
