//! Options of the programs that stay: `manager` and `worker`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use longshore_proto::name::{Datacenter, NodeName, UserName};
use longshore_proto::node::TASKS_MAX_USUAL;
use longshore_proto::plan::{GAIN_USUAL, MOVES_MAX};
use longshore_proto::quantity;
use longshore_proto::spec::SchedulerKind;
use longshore_worker::policy::{PIDS_MAX_USUAL, Policy};
use longshore_worker::{CapacityOverride, Keeping};

use crate::parse::{self, Gap, Label, TimeOrOff};

/// The most networks that a worker keeps ready: Docker's bridge takes about a thousand containers.
const SANDBOXES_MAX: i64 = 500;

/// `longshore manager`
#[derive(Debug, Args)]
pub(crate) struct Manager {
    /// Where the manager keeps its state; one manager a folder
    #[arg(long, env = "LONGSHORE_DATA_DIR", value_name = "FOLDER")]
    pub(crate) data_dir: PathBuf,
    /// This manager's name, for people [default: that of its credentials, else manager]
    #[arg(long)]
    pub(crate) name: Option<UserName>,
    /// The credential file for the managers' account (log, lease, events)
    #[arg(long, env = "LONGSHORE_CORE_CREDS", value_name = "FILE")]
    pub(crate) core_creds: Option<PathBuf>,
    /// How nodes are chosen, unless a job says otherwise
    #[arg(long, value_enum, default_value_t)]
    pub(crate) scheduler: Scheduler,
    /// How many NATS servers keep each stream: 1, or 3 in a NATS cluster
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub(crate) replicas: u8,
    /// How long a node may be silent before it gets no new tasks
    #[arg(long, value_name = "TIME", default_value = "8s", value_parser = quantity::parse_duration)]
    pub(crate) suspect_after: Duration,
    /// How long a node may be silent before its tasks are replaced
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = quantity::parse_duration)]
    pub(crate) lost_after: Duration,
    /// After how many records a snapshot is made, and the log trimmed behind the one before
    #[arg(
        long, value_name = "COUNT", default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(10..)
    )]
    pub(crate) snapshot_records: u64,
    /// How long this manager keeps history, and how far back time travel goes
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = quantity::parse_duration)]
    pub(crate) history_age: Duration,
    /// About how many bytes of history this manager keeps
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = quantity::parse_bytes)]
    pub(crate) history_size: u64,
    /// Should the log contradict this manager's store: make the store the truth, and the log anew. What the store
    /// does not hold is lost: choose the manager with the highest index
    #[arg(long)]
    pub(crate) heal_log: bool,
    /// By how much a task must be more important than those that it may displace when it fits nowhere, 1 to 99;
    /// off lets none displace another
    #[arg(
        long, value_name = "GAP", default_value = "20", value_parser = parse::gap,
        allow_hyphen_values = true
    )]
    pub(crate) preempt_gap: Gap,
    /// Let the cluster balance itself: move tasks to where they cost less, now and then
    #[arg(long)]
    pub(crate) rebalance: bool,
    /// How often it looks for moves
    #[arg(
        long, value_name = "TIME", default_value = "1m", value_parser = quantity::parse_duration,
        requires = "rebalance", allow_hyphen_values = true
    )]
    pub(crate) rebalance_every: Duration,
    /// How many tasks may move at once
    #[arg(
        long, value_name = "COUNT", default_value_t = 5, requires = "rebalance",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MOVES_MAX)), allow_hyphen_values = true
    )]
    pub(crate) rebalance_moves: u32,
    /// How many times cheaper it must be elsewhere, 1 or more
    #[arg(
        long, value_name = "FACTOR", default_value_t = GAIN_USUAL, value_parser = parse::gain,
        requires = "rebalance", allow_hyphen_values = true
    )]
    pub(crate) rebalance_gain: f64,
    /// How large the log may be; NATS keeps this room for it. It is trimmed behind snapshots long before
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = quantity::parse_bytes)]
    pub(crate) log_size: u64,
    /// How long the event stream keeps events
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = quantity::parse_duration)]
    pub(crate) events_age: Duration,
    /// How many bytes of events the event stream keeps
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = quantity::parse_bytes)]
    pub(crate) events_size: u64,
}

/// How nodes are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scheduler {
    /// Least marginal opportunity cost
    #[default]
    Epvm,
    /// The feasible nodes in turn
    RoundRobin,
    /// The emptiest node
    Spread,
    /// The fullest node that it fits on
    Binpack,
    /// The formula of "Build an Orchestrator in Go", for comparison
    Lieb,
    /// Where the fewest places for later tasks are lost, then as epvm
    EpvmGuard,
}

impl From<Scheduler> for SchedulerKind {
    fn from(scheduler: Scheduler) -> Self {
        match scheduler {
            Scheduler::Epvm => Self::Epvm,
            Scheduler::RoundRobin => Self::RoundRobin,
            Scheduler::Spread => Self::Spread,
            Scheduler::Binpack => Self::Binpack,
            Scheduler::Lieb => Self::Lieb,
            Scheduler::EpvmGuard => Self::EpvmGuard,
        }
    }
}

/// `longshore worker`
#[derive(Debug, Args)]
pub(crate) struct Worker {
    /// The node's name, unique in the cluster [default: that of the credentials]
    #[arg(long)]
    pub(crate) name: Option<NodeName>,
    /// Where the worker keeps its state; one worker a folder
    #[arg(long, env = "LONGSHORE_DATA_DIR", value_name = "FOLDER")]
    pub(crate) data_dir: PathBuf,
    /// Where the node stands
    #[arg(long, value_name = "NAME", default_value = "dc1")]
    pub(crate) datacenter: Datacenter,
    /// What to say of the node (repeat for more)
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::label)]
    pub(crate) label: Vec<Label>,
    /// What the node offers; what is left out is the machine's own
    #[arg(long, value_name = "cpu=CORES,memory=SIZE,disk=SIZE", value_parser = parse::capacity)]
    pub(crate) capacity: Option<CapacityOverride>,
    /// How many tasks the node takes at once, whatever they ask for
    #[arg(
        long, value_name = "N", default_value_t = TASKS_MAX_USUAL,
        value_parser = clap::value_parser!(u32).range(1..), allow_hyphen_values = true
    )]
    pub(crate) tasks_max: u32,
    /// Logins for registries: a file as `docker login` writes it, for this user's eyes alone
    #[arg(long, env = "LONGSHORE_REGISTRY_AUTH", value_name = "FILE")]
    pub(crate) registry_auth: Option<PathBuf>,
    /// How many networks to keep ready, so that tasks without published ports start faster (Docker only)
    #[arg(
        long, value_name = "N", default_value_t = 0,
        value_parser = clap::value_parser!(u16).range(0..=SANDBOXES_MAX)
    )]
    pub(crate) sandboxes: u16,
    /// Logins for registries that tasks name: a folder with a file of that name each, as --registry-auth takes one
    #[arg(long, env = "LONGSHORE_REGISTRY_LOGINS", value_name = "FOLDER")]
    pub(crate) registry_logins: Option<PathBuf>,
    /// The ports that the node gives to tasks that leave the choice to it
    #[arg(long, value_name = "FIRST-LAST", value_parser = parse::port_range)]
    pub(crate) ports: Option<RangeInclusive<u16>>,
    /// How long what is over stays
    #[command(flatten)]
    pub(crate) keep: Keep,
    /// What tasks may do beyond a hardened container
    #[command(flatten)]
    pub(crate) allow: Allow,
    /// What happens to its containers when the worker is told to stop
    #[arg(long, value_enum, default_value_t)]
    pub(crate) on_shutdown: OnShutdown,
    /// With --on-shutdown drain: after how long what has not moved off is stopped
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = quantity::parse_duration)]
    pub(crate) drain_deadline: Duration,
}

/// How long what is over stays on a worker's machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "How long what is over stays on the machine")]
pub(crate) struct Keep {
    /// How many ended containers are kept for their logs, the newest of each task
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) keep_ended: usize,
    /// How long each of them is kept
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = quantity::parse_duration)]
    pub(crate) keep_ended_for: Duration,
    /// How long an image that the worker pulled is kept when no task needs it; off: until the disk is too full
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse::time_or_off)]
    pub(crate) keep_images_for: TimeOrOff,
    /// How long a volume that was made for tasks is kept when no task needs it; off: for ever
    #[arg(long, value_name = "TIME", default_value = "off", value_parser = parse::time_or_off)]
    pub(crate) keep_volumes_for: TimeOrOff,
    /// From how full a disk on images go as soon as no task needs them, and then ended containers, in per cent
    #[arg(
        long, value_name = "PERCENT", default_value_t = 85,
        value_parser = clap::value_parser!(u8).range(1..=101), allow_hyphen_values = true
    )]
    pub(crate) disk_full_at: u8,
}

impl From<Keep> for Keeping {
    fn from(keep: Keep) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            ended_max: keep.keep_ended,
            ended_ms: ms(keep.keep_ended_for),
            images_ms: keep.keep_images_for.0.map(ms),
            volumes_ms: keep.keep_volumes_for.0.map(ms),
            disk_percent_max: keep.disk_full_at,
        }
    }
}

/// What a worker lets tasks do beyond a hardened container; nothing, unless said.
#[derive(Debug, Args)]
#[command(next_help_heading = "What tasks may do beyond a hardened container")]
pub(crate) struct Allow {
    /// Let tasks mount what is below this path of the machine (repeat for more) [default: nothing]
    #[arg(long, value_name = "PATH", value_parser = parse::lent_path)]
    pub(crate) allow_mount: Vec<String>,
    /// Let tasks join this network of the machine: its name, or host (repeat for more)
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_network: Vec<String>,
    /// Let tasks add this capability (repeat for more)
    #[arg(long, value_name = "NAME", value_parser = parse::capability)]
    pub(crate) allow_cap: Vec<String>,
    /// Let tasks use this device of the machine (repeat for more)
    #[arg(long, value_name = "PATH", value_parser = parse::lent_path)]
    pub(crate) allow_device: Vec<String>,
    /// Let tasks use graphics processors
    #[arg(long)]
    pub(crate) allow_gpus: bool,
    /// Let tasks use this log driver (repeat for more) [always: json-file, local, none]
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_log_driver: Vec<String>,
    /// Let programs in containers gain privileges by set-user-id files
    #[arg(long)]
    pub(crate) allow_new_privileges: bool,
    /// Let containers be as mighty as this machine's root
    #[arg(long)]
    pub(crate) allow_privileged: bool,
    /// How many processes and threads one container may have at most
    #[arg(
        long, value_name = "N", default_value_t = PIDS_MAX_USUAL,
        value_parser = clap::value_parser!(u32).range(1..), allow_hyphen_values = true
    )]
    pub(crate) pids_max: u32,
}

impl From<Allow> for Policy {
    fn from(allow: Allow) -> Self {
        Self {
            mount_paths: allow.allow_mount,
            networks: allow.allow_network.into_iter().collect(),
            capabilities: allow.allow_cap.into_iter().collect(),
            devices: allow.allow_device.into_iter().collect(),
            gpus: allow.allow_gpus,
            log_drivers: allow.allow_log_driver.into_iter().collect(),
            new_privileges: allow.allow_new_privileges,
            privileged: allow.allow_privileged,
            pids_max: allow.pids_max,
        }
    }
}

/// What happens to containers when their worker is told to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnShutdown {
    /// They run on, and the next start adopts them: for upgrades
    #[default]
    Keep,
    /// Their tasks are moved off first, for --drain-deadline at most: for machines that go away while others take over
    Drain,
    /// They are stopped, and the node says goodbye: for machines that go away
    Stop,
}

impl OnShutdown {
    /// The same for the worker, with the deadline of a drain.
    pub(crate) fn within(self, deadline: Duration) -> longshore_worker::OnShutdown {
        match self {
            Self::Keep => longshore_worker::OnShutdown::Keep,
            Self::Drain => longshore_worker::OnShutdown::Drain(deadline),
            Self::Stop => longshore_worker::OnShutdown::Stop,
        }
    }
}
