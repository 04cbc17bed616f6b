//! Options of the verbs about nodes.

use std::time::Duration;

use clap::{Args, Subcommand};
use longshore_proto::name::NodeName;

use super::{Format, WideFormat};
use crate::parse::{self, LabelChange, Moment};

/// `longshore node`
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// List nodes
    Ls(Ls),
    /// Show how a node stands
    Status(Status),
    /// Give nodes no new tasks; what they have runs on
    Cordon(Nodes),
    /// Let nodes take tasks again; drains of them are called off
    Uncordon(Nodes),
    /// Move what nodes run elsewhere, and wait until nothing is left
    Drain(Drain),
    /// Set labels of a node (NAME=VALUE), or take them away (NAME-)
    Label(LabelNode),
    /// Forget a node that will not return; its tasks are replaced
    Rm(Rm),
    /// Say that a silent node has stopped, so that its tasks of fenced jobs may be replaced
    ConfirmLost(ConfirmLost),
}

/// `longshore node confirm-lost`
#[derive(Debug, Args)]
#[command(
    after_help = "A task of a fenced job is replaced only after a proof that it has ended. A machine that is silent gives \
                  none: say it only when you know that the machine is off, or that its containers have ended."
)]
pub(crate) struct ConfirmLost {
    /// The node
    pub(crate) name: NodeName,
}

/// `longshore node cordon` and `longshore node uncordon`
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    /// The nodes
    #[arg(required = true, value_name = "NODE")]
    pub(crate) names: Vec<NodeName>,
}

/// `longshore node drain`
#[derive(Debug, Args)]
#[command(
    after_help = "Tasks of services are started elsewhere first, and end here when their successors run; batch tasks may \
                  finish. At the deadline everything that is left ends, and is placed anew. Without one nothing is cut \
                  short. `longshore node uncordon` calls a drain off."
)]
pub(crate) struct Drain {
    /// The nodes
    #[arg(required = true, value_name = "NODE")]
    pub(crate) names: Vec<NodeName>,
    /// After how long what is left is ended, such as 10m
    #[arg(long, value_name = "TIME", value_parser = longshore_proto::quantity::parse_duration)]
    pub(crate) deadline: Option<Duration>,
    /// Do not wait until the nodes are drained
    #[arg(short, long)]
    pub(crate) detach: bool,
}

/// `longshore node label`
#[derive(Debug, Args)]
#[command(
    after_help = "A label that is set here stands before one of the same name that the worker was started with, which \
                  shows again when this one is taken away."
)]
pub(crate) struct LabelNode {
    /// The node
    pub(crate) name: NodeName,
    /// What is said of it (NAME=VALUE), or no longer said of it (NAME-)
    #[arg(required = true, value_name = "NAME=VALUE|NAME-", value_parser = parse::label_change)]
    pub(crate) changes: Vec<LabelChange>,
}

/// `longshore node rm`
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// The node
    pub(crate) name: NodeName,
    /// Even if it is heard: its tasks are replaced, and its worker stops their containers and joins as a new node
    #[arg(long)]
    pub(crate) force: bool,
}

/// `longshore node ls`
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Show the cluster as it was: an index of the log, how long ago (10m), or a time
    #[arg(long, value_name = "TIME|INDEX", value_parser = parse::moment)]
    pub(crate) at: Option<Moment>,
    /// The form of the list
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: WideFormat,
}

/// `longshore node status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The node
    pub(crate) name: NodeName,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}
