//! Options of the verbs about tasks: `run`, `stop`, `ps`, `status`, `logs`, `exec`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use longshore_proto::constraint::Constraint;
use longshore_proto::name::{Datacenter, JobName, NodeName};
use longshore_proto::quantity;
use longshore_proto::spec::{Affinity, JobType, Mount, Port, PullPolicy, RestartPolicy, Spread};

use super::container::Container;
use super::{Format, WideFormat};
use crate::parse::{self, Moment, Variable};

/// `longshore run`
#[derive(Debug, Args)]
#[command(
    override_usage = "longshore run [OPTIONS] IMAGE [COMMAND]...",
    after_help = "Without --wait, the command returns as soon as the job is stored. With --wait it stays until every \
                  instance runs (service) or has ended (batch), and ends with the task's own exit code (batch), \
                  or 125 when Longshore failed."
)]
pub(crate) struct Run {
    /// Whether it runs for ever or to completion
    #[arg(long = "type", value_enum, default_value_t)]
    pub(crate) kind: Kind,
    /// The job's name [default: the image's name and four random digits]
    #[arg(long)]
    pub(crate) name: Option<JobName>,
    /// Cores of each instance, as 0.5 or 500m [default: 0.1]
    #[arg(long, value_name = "CORES", value_parser = quantity::parse_cpu_millis, allow_hyphen_values = true)]
    pub(crate) cpus: Option<u64>,
    /// Memory of each instance, as 256MiB [default: 128MiB]
    #[arg(long, value_name = "SIZE", value_parser = quantity::parse_bytes, allow_hyphen_values = true)]
    pub(crate) memory: Option<u64>,
    /// Disk space of each instance, as 1GiB [default: 0]
    #[arg(long, value_name = "SIZE", value_parser = quantity::parse_bytes, allow_hyphen_values = true)]
    pub(crate) disk: Option<u64>,
    /// How many instances
    #[arg(
        short = 'n', long, value_name = "COUNT", default_value = "1",
        value_parser = parse::instances, allow_hyphen_values = true
    )]
    pub(crate) instances: u32,
    /// Set an environment variable; a name alone takes its value from this environment
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = parse::variable)]
    pub(crate) env: Vec<Variable>,
    /// Publish a container's port on its node; without HOST the node chooses one (repeat for more)
    #[arg(short, long, value_name = "[NAME=][[IP:]HOST:]CONTAINER[/udp]", value_parser = parse::publish)]
    pub(crate) publish: Vec<Port>,
    /// When a task is started again on its node: never, on-failure, on-failure:N or always [default: always for a
    /// service, on-failure:3 for a batch]
    #[arg(long, value_name = "WHEN", value_parser = parse::restart)]
    pub(crate) restart: Option<RestartPolicy>,
    /// A datacenter that it may run in (repeat for more) [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) datacenter: Vec<Datacenter>,
    /// What a node must be, such as 'label.rack in r1, r2', 'attribute.kernel version >= 5.10' or
    /// 'node.name matches ^web-[0-9]+$' (repeat for more; all must hold)
    #[arg(long, value_name = "CONSTRAINT")]
    pub(crate) constraint: Vec<Constraint>,
    /// What a node had better be, with a weight of 1 to 100, or had better not be, with -1 to -100, such as
    /// 'label.disk = ssd@50' (repeat for more)
    #[arg(long, value_name = "CONSTRAINT@WEIGHT", value_parser = parse::affinity)]
    pub(crate) affinity: Vec<Affinity>,
    /// What to spread the instances over, such as node.datacenter or label.rack:30 (repeat for more) [default
    /// weight: 50]
    #[arg(long, value_name = "ATTRIBUTE[:WEIGHT]", value_parser = parse::spread)]
    pub(crate) spread: Vec<Spread>,
    /// Give no node two instances
    #[arg(long)]
    pub(crate) distinct_hosts: bool,
    /// Mount a path of the node (which its worker must allow) or, by a name, a volume (repeat for more)
    #[arg(short = 'v', long, value_name = "SOURCE:TARGET[:ro]", value_parser = parse::mount)]
    pub(crate) mount: Vec<Mount>,
    /// 1 (least) to 100: what is placed first when not everything fits
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=100), allow_hyphen_values = true)]
    pub(crate) priority: u8,
    /// When the image is pulled
    #[arg(long, value_enum, default_value_t)]
    pub(crate) pull: Pull,
    /// Replace the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// How long it may take to end after the stop signal before it is killed
    #[arg(
        long, value_name = "TIME", default_value = "10s",
        value_parser = quantity::parse_duration, allow_hyphen_values = true
    )]
    pub(crate) stop_grace: Duration,
    /// Stay until it runs (service) or has ended (batch)
    #[arg(long)]
    pub(crate) wait: bool,
    /// How the container is made
    #[command(flatten)]
    pub(crate) container: Container,
    /// The image, and the command to run in it instead of its own
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE [COMMAND]")]
    pub(crate) words: Vec<String>,
}

/// How long a job lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Runs for ever: a task that is gone for good is replaced
    #[default]
    Service,
    /// Runs to completion: exit code 0 is `completed`
    Batch,
}

impl From<Kind> for JobType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Service => Self::Service,
            Kind::Batch => Self::Batch,
        }
    }
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pull {
    /// When the node does not have it
    #[default]
    IfMissing,
    /// Before every start
    Always,
    /// Never: the node must have it
    Never,
}

impl From<Pull> for PullPolicy {
    fn from(pull: Pull) -> Self {
        match pull {
            Pull::IfMissing => Self::IfMissing,
            Pull::Always => Self::Always,
            Pull::Never => Self::Never,
        }
    }
}

/// `longshore stop`
#[derive(Debug, Args)]
#[command(after_help = "Stopping a task lowers the count of its job by one: it is not replaced.")]
pub(crate) struct Stop {
    /// A job's name, or a task's id or its beginning
    #[arg(required = true, value_name = "NAME|ID")]
    pub(crate) names: Vec<String>,
    /// Stay until everything has ended
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `longshore restart`
#[derive(Debug, Args)]
#[command(
    after_help = "A task is stopped, and a new one takes its place on the node that is best then. The tasks of a job \
                  are exchanged one after the other, as for any other change; a job that has ended is run again."
)]
pub(crate) struct Restart {
    /// A job's name, with the name of a part for that alone, or a task's id or its beginning
    #[arg(required = true, value_name = "NAME[.PART]|ID")]
    pub(crate) names: Vec<String>,
    /// Stay until the jobs that were named run again (service) or have ended (batch)
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `longshore ps`
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Show all tasks that have ended, and not only those that failed with something still to run in their place
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only those of this job
    #[arg(long, value_name = "NAME")]
    pub(crate) job: Option<JobName>,
    /// Only those on this node
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<NodeName>,
    /// Show the cluster as it was: an index of the log, how long ago (10m), or a time
    #[arg(long, value_name = "TIME|INDEX", value_parser = parse::moment)]
    pub(crate) at: Option<Moment>,
    /// The form of the list
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: WideFormat,
}

/// `longshore status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// A job's name, or a task's id or its beginning; nothing means the cluster
    #[arg(value_name = "NAME|ID")]
    pub(crate) name: Option<String>,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `longshore logs`
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// A job's name, or a task's id or its beginning
    #[arg(value_name = "NAME|ID")]
    pub(crate) name: String,
    /// Go on with what is yet to come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only so many lines from the end
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<u32>,
    /// Only what was written since: how long ago (10m), or a time
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    pub(crate) since: Option<u64>,
    /// Begin each line with the time that it was written at
    #[arg(long)]
    pub(crate) timestamps: bool,
}

/// `longshore exec`
#[derive(Debug, Args)]
#[command(
    override_usage = "longshore exec [OPTIONS] NAME|ID COMMAND...",
    after_help = "Ends with the command's own exit code, or 125 when Longshore failed. A shell: longshore exec -it ID sh"
)]
pub(crate) struct Exec {
    /// Let the command read what this program reads
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set an environment variable; a name alone takes its value from this environment
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = parse::variable)]
    pub(crate) env: Vec<Variable>,
    /// Who runs it, as name, uid, name:group or uid:gid [default: the container's own user]
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Where it begins [default: the container's own folder]
    #[arg(short, long, value_name = "FOLDER")]
    pub(crate) workdir: Option<String>,
    /// A task's id or its beginning, or the name of a job that has one task, and the command
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_name = "NAME|ID COMMAND")]
    pub(crate) words: Vec<String>,
}
