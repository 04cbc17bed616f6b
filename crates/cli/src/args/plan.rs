//! Options of the verbs that plan: why a task is where it is, what would happen if, which moves would pay.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use longshore_proto::name::{Datacenter, NodeName};
use longshore_proto::plan::{GAIN_USUAL, MOVES_MAX, MOVES_USUAL};

use super::Format;
use crate::parse::{self, Label, Machines};

/// `longshore explain`
#[derive(Debug, Args)]
#[command(
    after_help = "What was decided is told as it was kept then; what stands below `now` is worked out anew, for a task\nthat has a node as if it had none. Of a job, the task that waits is explained, or the only one."
)]
pub(crate) struct Explain {
    /// A task's id or its beginning, or a job's name
    #[arg(value_name = "ID|NAME")]
    pub(crate) name: String,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `longshore whatif`
#[derive(Debug, Subcommand)]
pub(crate) enum WhatIf {
    /// Nodes took nothing new and their tasks were moved off
    Drain(Nodes),
    /// Nodes were lost
    Lose(Nodes),
    /// There were more nodes
    Add(Add),
    /// A job file were submitted
    Submit(Submit),
}

/// `longshore whatif drain` and `longshore whatif lose`
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    /// The nodes
    #[arg(required = true, value_name = "NODE")]
    pub(crate) nodes: Vec<NodeName>,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `longshore whatif add`
#[derive(Debug, Args)]
pub(crate) struct Add {
    /// How many, and what each offers, such as 3xcpu=16,memory=64GiB,disk=1TiB
    #[arg(value_name = "COUNTxSHAPE", value_parser = parse::machines)]
    pub(crate) machines: Machines,
    /// Where they would stand [default: dc1]
    #[arg(long, value_name = "NAME")]
    pub(crate) datacenter: Option<Datacenter>,
    /// What would be said of them (repeat for more)
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::label)]
    pub(crate) label: Vec<Label>,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `longshore whatif submit`
#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// The job file: TOML, or JSON when its name ends in .json; - reads standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `longshore rebalance`
#[derive(Debug, Args)]
#[command(
    after_help = "Only running tasks of services move, and only without volumes and writable binds: each is started elsewhere\nfirst, and stopped where it is once it runs there and, where its health is asked for, is healthy."
)]
pub(crate) struct Rebalance {
    /// Only show which moves would pay
    #[arg(long)]
    pub(crate) plan: bool,
    /// At most so many moves
    #[arg(
        long, value_name = "COUNT", default_value_t = MOVES_USUAL,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MOVES_MAX)), allow_hyphen_values = true
    )]
    pub(crate) moves: u32,
    /// How many times cheaper it must be elsewhere, 1 or more
    #[arg(
        long, value_name = "FACTOR", default_value_t = GAIN_USUAL, value_parser = parse::gain,
        allow_hyphen_values = true
    )]
    pub(crate) gain: f64,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}
