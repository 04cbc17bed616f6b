//! Options of the verbs about jobs.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use longshore_proto::name::JobName;

use super::Format;
use crate::parse::{self, Moment};

/// `longshore job`
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Store a job file as a new version of its job, and run it
    Submit(Submit),
    /// List jobs
    Ls(Ls),
    /// Show how a job stands
    Status(Status),
    /// Stop jobs
    Stop(Stop),
}

/// `longshore job submit`
#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// The job file: TOML, or JSON when its name ends in .json; - reads standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Stay until it runs (service) or has ended (batch)
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `longshore job ls`
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Those of every namespace
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// The form of the list
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `longshore job status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The job
    pub(crate) name: JobName,
    /// Show the cluster as it was: an index of the log, how long ago (10m), or a time
    #[arg(long, value_name = "TIME|INDEX", value_parser = parse::moment)]
    pub(crate) at: Option<Moment>,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `longshore job stop`
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// The jobs
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<JobName>,
    /// Stay until every task has ended
    #[arg(long)]
    pub(crate) wait: bool,
}
