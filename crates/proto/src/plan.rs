//! Plans as they are asked for and answered: why a task is where it is, what a balanced cluster would look like,
//! and what would happen if. None of these questions changes anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::explain::{CostTerms, Reason, Why};
use crate::id::TaskId;
use crate::name::{Datacenter, JobName, Namespace, NodeName, SpecName};
use crate::spec::{JobSpec, Resources, SchedulerKind};
use crate::state::TaskState;

/// The most tasks that an answer lists one by one; beside the list stands how many there are.
pub const LISTED_MAX: usize = 500;
/// The most places that an explanation lists.
pub const SEATS_MAX: usize = 50;
/// The most moves that one request starts.
pub const MOVES_MAX: u32 = 100;
/// How many times cheaper it must be elsewhere, unless said otherwise: the bound of the E-PVM paper.
pub const GAIN_USUAL: f64 = 2.0;
/// How many moves a plan has, unless said otherwise.
pub const MOVES_USUAL: u32 = 20;
/// The most nodes that a question may add.
pub const NODES_ADDED_MAX: u32 = 10_000;

/// Why a task is where it is, or waits, and how it stands now (`task.explain`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskExplained {
    /// The task.
    pub task: TaskRef,
    /// 1 (least) to 100.
    pub priority: u8,
    /// Where it stands.
    pub state: TaskState,
    /// Whether its node is silent, so that the state may no longer be true.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub silent: bool,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Why it is as it is, for people: of a task that waits, what is in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it was put where it is, as it was decided then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<String>,
    /// How every node stands to it now: for a task that has a node as if it had none. Absent for one that has
    /// ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Standing>,
    /// For a task that waits: what would be displaced for it, and what is ending already. At most [`SEATS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub room: Vec<Seat>,
}

/// How every node stands to one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// How its node is picked.
    pub scheduler: SchedulerKind,
    /// How many nodes there are.
    pub nodes: u32,
    /// On how many of them it could run.
    pub feasible: u32,
    /// How many are removed for each reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub removed: BTreeMap<Reason, u32>,
    /// The same for people, with figures; empty when none is removed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub removed_text: String,
    /// The best, the one that would be picked first.
    pub best: Vec<Candidate>,
    /// Some of the others, in the order of names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refused>,
    /// The node where the least is missing, when it is only room that is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closest: Option<Shortage>,
    /// What it is to be spread over and no node has, so that the wish means nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spread_over_nothing: Vec<String>,
}

/// A node that could take a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The node.
    pub node: NodeName,
    /// What it would cost there; absent when the scheduler knows no cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostTerms>,
}

/// A node that cannot take a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The node.
    pub node: NodeName,
    /// What is in the way first.
    pub reason: Reason,
    /// The same for people: "lacks memory: 512MiB of 2GiB wanted are free".
    pub text: String,
}

/// How much more must be free on a node for a task to fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// The node.
    pub node: NodeName,
    /// How much of each is missing.
    pub missing: Resources,
}

/// Room for one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Where.
    pub node: NodeName,
    /// What would have to go first; nothing, where it is enough that what is ending ends.
    pub displaced: Vec<Displaced>,
}

/// A task that would have to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Displaced {
    /// The task.
    pub task: TaskRef,
    /// How important it is.
    pub priority: u8,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Where it would run then (`cluster.whatif`); absent where it would wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeName>,
}

/// Which task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRef {
    /// Its id; absent for one that does not exist yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<TaskId>,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its job.
    pub job: JobName,
    /// Its part of the job.
    pub spec: SpecName,
}

/// How much is to be moved at most (`rebalance.plan`, `rebalance.start`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rebalance {
    /// At most so many moves; [`MOVES_USUAL`] unless said, at most [`MOVES_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves_max: Option<u32>,
    /// How many times cheaper it must be elsewhere; [`GAIN_USUAL`] unless said, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain: Option<f64>,
}

/// Moves that pay, planned or started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RebalancePlan {
    /// The moves, the largest saving first.
    pub moves: Vec<Move>,
    /// How the cluster stands.
    pub before: Footing,
    /// How it would stand after the moves.
    pub after: Footing,
}

/// One move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// The task.
    pub task: TaskRef,
    /// Where it is.
    pub from: NodeName,
    /// Where it would go.
    pub to: NodeName,
    /// What it costs where it is.
    pub cost_here: f64,
    /// What it would cost there.
    pub cost_there: f64,
    /// The task that takes its place, once the move has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<TaskId>,
}

/// How the cluster stands as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Footing {
    /// How many nodes are heard.
    pub nodes: u32,
    /// What they cost together by E-PVM, above what they would cost empty. Figures of one answer can be compared.
    pub cost: f64,
    /// What the nodes offer that take new tasks.
    pub capacity: Resources,
    /// What of that is promised to nobody.
    pub free: Resources,
}

/// A question of what would happen (`cluster.whatif`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhatIf {
    /// These nodes took nothing new and their tasks were moved off.
    Drain {
        /// Which ones.
        nodes: Vec<NodeName>,
    },
    /// These nodes were lost.
    Lose {
        /// Which ones.
        nodes: Vec<NodeName>,
    },
    /// There were more nodes.
    Add {
        /// How many, 1 to [`NODES_ADDED_MAX`].
        nodes: u32,
        /// What each offers.
        capacity: Resources,
        /// Where they stand; absent means the usual datacenter.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        datacenter: Option<Datacenter>,
        /// Their labels.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        labels: BTreeMap<String, String>,
    },
    /// This job were submitted.
    Submit {
        /// The job.
        job: Box<JobSpec>,
    },
}

/// What would happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outlook {
    /// How the cluster stands.
    pub before: Footing,
    /// How it would stand.
    pub after: Footing,
    /// Tasks that would get a node, those that have one now among them; at most [`LISTED_MAX`].
    pub placed: Vec<Placed>,
    /// How many there are.
    pub placed_total: u64,
    /// Tasks that would be displaced by more important ones; they stand in the other lists, too. At most
    /// [`LISTED_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub displaced: Vec<Displaced>,
    /// How many there are.
    #[serde(default)]
    pub displaced_total: u64,
    /// Tasks that would just end: fewer instances are wanted.
    #[serde(default)]
    pub ended_total: u64,
    /// What would have no node, and why; at most [`LISTED_MAX`].
    pub unplaced: Vec<Unplaced>,
    /// How many tasks would have no node.
    #[serde(default)]
    pub unplaced_total: u64,
}

/// A task that would get a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The task.
    pub task: TaskRef,
    /// Where it is; absent for one that waits, or does not exist yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<NodeName>,
    /// Where it would go.
    pub to: NodeName,
}

/// Tasks alike that would have no node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unplaced {
    /// Their namespace.
    pub namespace: Namespace,
    /// Their job.
    pub job: JobName,
    /// Their part of the job.
    pub spec: SpecName,
    /// How many.
    pub tasks: u64,
    /// How many of them have a node now.
    pub placed_now: u64,
    /// Why, for people.
    pub reason: String,
}
