//! Options of the verbs about nodes.

use clap::{Args, Subcommand};
use longshore_proto::name::NodeName;

use super::{Format, WideFormat};

/// `longshore node`
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// List nodes
    Ls(Ls),
    /// Show how a node stands
    Status(Status),
}

/// `longshore node ls`
#[derive(Debug, Args)]
pub(crate) struct Ls {
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
