//! Options of `run` about how a container is made, under the names that `docker run` has for them.

use std::net::IpAddr;

use clap::{Args, ValueEnum};
use longshore_proto::container::{
    ContainerSpec, CpuMode, Device, Gpus, LogDriver, Network, Ulimit,
};
use longshore_proto::name::LoginName;
use longshore_proto::platform::Platform;
use longshore_proto::quantity;

use crate::parse::{self, Label};

/// How a container is made.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Options of the container")]
pub(crate) struct Container {
    /// What the image is made for, as linux/arm64: only nodes of that platform get it [default: whatever the node is]
    #[arg(long, value_name = "OS/PROCESSOR")]
    pub(crate) platform: Option<Platform>,
    /// The login that the image's registry is asked with: a name of those that the node holds [default: the node's own]
    #[arg(long, value_name = "NAME")]
    pub(crate) registry_login: Option<LoginName>,
    /// The folder that the command starts in
    #[arg(short = 'w', long, value_name = "FOLDER")]
    pub(crate) workdir: Option<String>,
    /// The user, as name, uid, name:group or uid:gid
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Label the container (repeat for more)
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = parse::label)]
    pub(crate) label: Vec<Label>,
    /// The name that the container has for itself
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// bridge, none, or host or a network of the node's, which its worker must allow [default: bridge]
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<String>,
    /// A name server to ask instead of the node's (repeat for more)
    #[arg(long, value_name = "IP")]
    pub(crate) dns: Vec<IpAddr>,
    /// A domain that short names are looked up in (repeat for more)
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) dns_search: Vec<String>,
    /// A name that is resolved without asking anybody (repeat for more)
    #[arg(long, value_name = "NAME:IP", value_parser = parse::host)]
    pub(crate) add_host: Vec<(String, IpAddr)>,
    /// What the cpu means: a limit too (quota), or a share of what is wanted (shares)
    #[arg(long, value_enum, default_value_t)]
    pub(crate) cpu_mode: Cpu,
    /// How much memory it keeps when the node runs short
    #[arg(long, value_name = "SIZE", value_parser = quantity::parse_bytes)]
    pub(crate) memory_reservation: Option<u64>,
    /// How many processes and threads it may have [default: 1024, or what the node says]
    #[arg(long, value_name = "N")]
    pub(crate) pids_limit: Option<u32>,
    /// The size of /dev/shm [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = quantity::parse_bytes)]
    pub(crate) shm_size: Option<u64>,
    /// A limit of each process (repeat for more)
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = parse::ulimit)]
    pub(crate) ulimit: Vec<(String, Ulimit)>,
    /// A capability beyond the usual ones, which the worker must allow (repeat for more)
    #[arg(long, value_name = "NAME", value_parser = parse::capability)]
    pub(crate) cap_add: Vec<String>,
    /// A capability that it does without, or ALL (repeat for more)
    #[arg(long, value_name = "NAME", value_parser = parse::capability)]
    pub(crate) cap_drop: Vec<String>,
    /// Let programs gain privileges by set-user-id files, which the worker must allow
    #[arg(long)]
    pub(crate) new_privileges: bool,
    /// Make it as mighty as the node's root, which the worker must allow
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Make its file system read-only, but for its mounts
    #[arg(long)]
    pub(crate) read_only: bool,
    /// A device of the node, which the worker must allow (repeat for more)
    #[arg(long, value_name = "PATH[:PATH][:rwm]", value_parser = parse::device)]
    pub(crate) device: Vec<Device>,
    /// Graphics processors, which the worker must allow
    #[arg(long, value_name = "all|N", value_parser = parse::gpus)]
    pub(crate) gpus: Option<Gpus>,
    /// Make a small init its first process
    #[arg(long)]
    pub(crate) init: bool,
    /// The signal that asks it to end, as SIGTERM
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Where its output goes: json-file, local, none, or one that the worker allows [default: json-file]
    #[arg(long, value_name = "NAME")]
    pub(crate) log_driver: Option<String>,
    /// An option of the log driver (repeat for more)
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::label)]
    pub(crate) log_opt: Vec<Label>,
}

/// What the cpu means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cpu {
    /// It is a limit, too
    #[default]
    Quota,
    /// It is a share
    Shares,
}

impl From<Container> for ContainerSpec {
    fn from(wish: Container) -> Self {
        let pairs = |labels: Vec<Label>| labels.into_iter().map(|label| (label.name, label.value));
        let options = pairs(wish.log_opt);
        let log = match wish.log_driver {
            Some(driver) => Some(LogDriver { driver, options: options.collect() }),
            None if options.len() > 0 => {
                Some(LogDriver { driver: "json-file".into(), options: options.collect() })
            }
            None => None,
        };
        Self {
            platform: wish.platform,
            registry_login: wish.registry_login,
            working_dir: wish.workdir,
            user: wish.user,
            labels: pairs(wish.label).collect(),
            hostname: wish.hostname,
            network: wish.network.as_deref().map(Network::of).unwrap_or_default(),
            dns: wish.dns,
            dns_search: wish.dns_search,
            hosts: wish.add_host.into_iter().collect(),
            cpu_mode: match wish.cpu_mode {
                Cpu::Quota => CpuMode::Quota,
                Cpu::Shares => CpuMode::Shares,
            },
            memory_reservation_bytes: wish.memory_reservation,
            pids_max: wish.pids_limit,
            shm_bytes: wish.shm_size,
            ulimits: wish.ulimit.into_iter().collect(),
            cap_add: wish.cap_add,
            cap_drop: wish.cap_drop,
            new_privileges: wish.new_privileges,
            privileged: wish.privileged,
            read_only: wish.read_only,
            devices: wish.device,
            gpus: wish.gpus,
            init: wish.init,
            stop_signal: wish.stop_signal,
            log,
        }
    }
}
