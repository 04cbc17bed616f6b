//! Options of the verbs about nodes.

use clap::{Args, Subcommand};
use longshore_proto::name::NodeName;

use super::{Format, WideFormat};
use crate::parse::{self, Moment};

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
