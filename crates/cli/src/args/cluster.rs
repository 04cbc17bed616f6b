//! Options of the verbs about the cluster as a whole.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use clap_complete::Shell;
use longshore_proto::api::PAGE_MAX;
use longshore_proto::name::{JobName, NodeName};
use longshore_proto::quantity;

use super::Format;
use crate::parse::{self, Moment};

/// `longshore top`
#[derive(Debug, Args)]
#[command(
    after_help = "Keys: q leaves, s changes what the lists are sorted by, r turns the order, / filters, space pauses, \
                  tab goes to the nodes, where the arrow keys choose the one whose tasks are shown."
)]
pub(crate) struct Top {
    /// Print the figures once, for scripts and programs
    #[arg(long)]
    pub(crate) once: bool,
    /// The form of the figures that are printed once
    #[arg(short, long, value_enum, default_value_t, requires = "once")]
    pub(crate) output: Format,
    /// How often figures are wanted; 500ms is the shortest
    #[arg(
        long, value_name = "TIME", default_value = "2s",
        value_parser = quantity::parse_duration, allow_hyphen_values = true
    )]
    pub(crate) interval: Duration,
    /// What the lists are sorted by
    #[arg(long, value_enum, default_value_t)]
    pub(crate) sort: Sort,
    /// Only tasks whose name, node or id has this
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
}

/// What the lists are ordered by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// Processor time
    #[default]
    Cpu,
    /// Memory
    Memory,
    /// Bytes over the network
    Network,
    /// Bytes from and to disks
    Disk,
    /// Processes and threads
    Pids,
    /// Names
    Name,
}

impl Sort {
    const ALL: [Self; 6] =
        [Self::Cpu, Self::Memory, Self::Network, Self::Disk, Self::Pids, Self::Name];

    /// As it is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Network => "network",
            Self::Disk => "disk",
            Self::Pids => "pids",
            Self::Name => "name",
        }
    }

    /// The one that follows, the first after the last.
    pub(crate) fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// `longshore events`
#[derive(Debug, Args)]
#[command(after_help = "Events of the nodes and of the cluster belong to every namespace.")]
pub(crate) struct Events {
    /// Go on with what is yet to happen
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only those of this job
    #[arg(long, value_name = "NAME")]
    pub(crate) job: Option<JobName>,
    /// Only those of this task: its id, or the beginning of it
    #[arg(long, value_name = "ID")]
    pub(crate) task: Option<String>,
    /// Only those on this node; with --audit those that were asked about it
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<NodeName>,
    /// Only those of this type, such as task.failed, or of all that begin with it, such as task; with --audit of this verb,
    /// such as job.stop, or of all that begin with it
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) event_type: Option<String>,
    /// Only those since: how long ago (10m), or a time
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    pub(crate) since: Option<u64>,
    /// Only those before: how long ago (10m), or a time
    #[arg(long, value_name = "TIME", value_parser = parse::time, conflicts_with = "follow")]
    pub(crate) until: Option<u64>,
    /// Who asked for what, instead of what happened
    #[arg(long, conflicts_with = "follow")]
    pub(crate) audit: bool,
    /// Those of every namespace
    #[arg(short = 'A', long, conflicts_with = "job")]
    pub(crate) all_namespaces: bool,
    /// All that the managers remember, and not only the newest
    #[arg(long, conflicts_with = "number")]
    pub(crate) all: bool,
    /// How many of the past
    #[arg(
        short = 'n', long, value_name = "COUNT", default_value_t = 50,
        value_parser = clap::value_parser!(u32).range(0..=i64::from(PAGE_MAX))
    )]
    pub(crate) number: u32,
    /// The form: a line each, whichever
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `longshore diff`
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The earlier moment: an index of the log, how long ago (10m), or a time
    #[arg(long, value_name = "TIME|INDEX", value_parser = parse::moment)]
    pub(crate) from: Moment,
    /// The later moment [default: now]
    #[arg(long, value_name = "TIME|INDEX", value_parser = parse::moment)]
    pub(crate) to: Option<Moment>,
    /// The form of the differences
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `longshore backup`
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The file to write; it must not be there yet
    pub(crate) file: PathBuf,
}

/// `longshore restore`
#[derive(Debug, Args)]
#[command(
    after_help = "Start the manager on the folder afterwards, on a NATS server without a cluster: it goes on where the \
                  backup ends. Workers keep what they run, and report it."
)]
pub(crate) struct Restore {
    /// The file that `longshore backup` has written
    pub(crate) file: PathBuf,
    /// Where the manager will keep its state; it must hold no cluster yet
    #[arg(long, env = "LONGSHORE_DATA_DIR", value_name = "FOLDER")]
    pub(crate) data_dir: PathBuf,
}

/// `longshore doctor`
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The form of the findings
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `longshore completion`
#[derive(Debug, Args)]
#[command(
    after_help = "For bash: longshore completion bash > ~/.local/share/bash-completion/completions/longshore"
)]
pub(crate) struct Completion {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}
