//! Options of the verbs about jobs.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use longshore_proto::name::JobName;

use super::Format;
use crate::parse::{self, Moment, PartOfJob};

/// `longshore job`
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Store a job file as a new version of its job, and run it
    Submit(Submit),
    /// List jobs
    Ls(Ls),
    /// Show how a job stands
    Status(Status),
    /// Say what a job file would change; nothing is changed
    Plan(Plan),
    /// Want another number of instances
    Scale(Scale),
    /// Show a job's versions, and what each changed
    History(History),
    /// Make a job what it was in an earlier version
    #[command(name = "rollback")]
    RollBack(RollBack),
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

/// `longshore job plan`
#[derive(Debug, Args)]
#[command(after_help = "Ends with 0 when nothing would change, and with 3 when something would.")]
pub(crate) struct Plan {
    /// The job file: TOML, or JSON when its name ends in .json; - reads standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Show the values of environment variables
    #[arg(long)]
    pub(crate) show_env: bool,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `longshore job scale`
#[derive(Debug, Args)]
#[command(
    after_help = "A job file that is submitted later counts again. `longshore stop JOB` is for none at all."
)]
pub(crate) struct Scale {
    /// The job; with the name of its part where it has more than one
    #[arg(value_name = "NAME[.PART]", value_parser = parse::part_of_job)]
    pub(crate) name: PartOfJob,
    /// How many instances
    #[arg(value_name = "COUNT", value_parser = parse::instances, allow_hyphen_values = true)]
    pub(crate) instances: u32,
    /// Stay until it runs (service) or has ended (batch)
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `longshore job history`
#[derive(Debug, Args)]
pub(crate) struct History {
    /// The job
    pub(crate) name: JobName,
    /// Show everything that this version says, instead of what each has changed
    #[arg(long = "version", value_name = "NUMBER")]
    pub(crate) of_version: Option<u64>,
    /// Show the values of environment variables
    #[arg(long)]
    pub(crate) show_env: bool,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `longshore job rollback`
#[derive(Debug, Args)]
#[command(after_help = "The earlier version comes again as the next one: history only grows.")]
pub(crate) struct RollBack {
    /// The job
    pub(crate) name: JobName,
    /// Which version it is to be like [default: the latest before the current one]
    #[arg(long, value_name = "VERSION")]
    pub(crate) to: Option<u64>,
    /// Stay until it runs (service) or has ended (batch)
    #[arg(long)]
    pub(crate) wait: bool,
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
