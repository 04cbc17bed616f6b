//! What enters the brain: what the manager says, what the runtime says, results of actions, and time.

use std::collections::BTreeMap;

use longshore_proto::id::{ClusterId, Revision, TaskId};
use longshore_proto::node::{AssignDelta, Assignment, TaskKnown};

use super::image::ImageWish;
use super::stock::StockItem;

/// Something that happened outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The leader knows this boot of the worker: after the start, and again after each reconnect.
    Registered {
        /// The cluster that the node is part of.
        cluster_id: ClusterId,
    },
    /// A change of the set, or a hint to look.
    Delta(AssignDelta),
    /// The whole set.
    Synced(FullSet),
    /// The whole set could not be had.
    SyncFailed,
    /// The runtime answers and its events are subscribed to; events before this moment may be lost.
    RuntimeUp,
    /// The runtime does not answer, or its events have broken off.
    RuntimeDown {
        /// Why, for the operator.
        reason: String,
    },
    /// Every container of ours, as of some moment after the list was asked for.
    Observed {
        /// The ticket of [`super::Action::ListContainers`].
        ticket: u64,
        /// The containers.
        containers: Vec<Container>,
    },
    /// The list could not be had.
    ObserveFailed {
        /// The ticket of [`super::Action::ListContainers`].
        ticket: u64,
        /// Why, for the operator.
        reason: String,
    },
    /// Something happened to a container. May come late, twice, or for containers of others.
    Container(ContainerEvent),
    /// The answer to [`super::Action::FindImage`].
    ImageLookedFor {
        /// The image.
        wish: ImageWish,
        /// Its id where it is here, made for the platform that is meant.
        result: Result<Option<String>, Failure>,
    },
    /// The answer to [`super::Action::FetchImage`].
    ImageFetched {
        /// The image.
        wish: ImageWish,
        /// `Refused` where trying again may help, `Forbidden` where it does not.
        result: Result<(), Failure>,
    },
    /// The answer to [`super::Action::StartContainer`].
    Started {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u64,
        /// The container.
        result: Result<StartedContainer, Failure>,
    },
    /// The answer to [`super::Action::StopContainer`].
    Stopped {
        /// The container.
        container_id: String,
        /// How it ended, as far as known; a container that no longer exists counts as stopped.
        result: Result<ContainerEnd, Failure>,
    },
    /// The answer to [`super::Action::RemoveContainer`].
    Removed {
        /// Its id or name, as in the action.
        container: String,
        /// A container that no longer exists counts as removed.
        result: Result<(), Failure>,
    },
    /// The answer to [`super::Action::ProbeTask`].
    Probed {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u64,
        /// Why the answer was not a good one: for people. Where the runtime does not answer, nothing is known.
        result: Result<(), Failure>,
    },
    /// The answer to [`super::Action::MeasureDisk`].
    DiskMeasured {
        /// How full the disk is, in per cent.
        used_percent: u8,
    },
    /// The answer to [`super::Action::RemoveStock`].
    StockRemoved {
        /// What.
        item: StockItem,
        /// What no longer exists counts as removed; `Forbidden` says that it is not ours.
        result: Result<(), Failure>,
    },
    /// The reports up to this place are in the log.
    ReportsAcked {
        /// The place that [`super::Action::SendReports`] named.
        through: u64,
        /// Since when they are known there, where the leader has said it.
        known: Option<Revision>,
    },
    /// The reports could not be delivered, as far as known.
    ReportsFailed,
    /// The worker is to leave: every task is ended and reported `stopped`, and nothing starts any more.
    Leave,
    /// [`super::Agent::next_wakeup`] has come.
    Timer,
}

/// The whole set of a node's assignments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullSet {
    /// The cluster that speaks.
    pub cluster_id: ClusterId,
    /// The revision of the set.
    pub revision: Revision,
    /// Every assignment.
    pub assignments: Vec<Assignment>,
    /// Where the leader sees the tasks.
    pub known: Vec<TaskKnown>,
}

/// A container as the runtime lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id.
    pub id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it runs.
    pub state: ContainerState,
}

/// Whether a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// It was created and has never been started.
    Created,
    /// It runs (or is paused).
    Running,
    /// It has ended.
    Ended(ContainerEnd),
}

/// How a container ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContainerEnd {
    /// The exit code; absent when the container is gone and nobody saw it end.
    pub exit_code: Option<i64>,
    /// Whether the kernel killed it for its memory.
    pub out_of_memory: bool,
    /// Whether the worker killed it because the sandbox that held its network had ended.
    pub network_lost: bool,
}

impl ContainerEnd {
    /// It ended with a code, and there is no more to say of it.
    pub const fn exited(code: i64) -> Self {
        Self { exit_code: Some(code), out_of_memory: false, network_lost: false }
    }
}

/// Something that happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The runtime's id.
    pub container_id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What happened.
    pub change: ContainerChange,
}

/// What happened to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerChange {
    /// It started.
    Started,
    /// It ended.
    Died(ContainerEnd),
    /// It was removed.
    Destroyed,
}

/// A container that was started, or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedContainer {
    /// The runtime's id.
    pub container_id: String,
    /// Set when an earlier run of the worker had started this very attempt, and it has ended since.
    pub ended: Option<ContainerEnd>,
}

/// Why an action failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The runtime did not answer: the outcome is unknown, and nothing is held against the task.
    RuntimeAway,
    /// The runtime refused, or a deadline passed while it answered others: for people.
    Refused(String),
    /// This node does not do such a thing, however often it is tried: for people.
    Forbidden(String),
}
