//! The worker: the shell round [`longshore_core::agent`].
//!
//! ```text
//!   NATS ──► session (register, sync, assignments, reports) ──┐              ┌──► store (fjall), then
//!   Docker ─► watch (events, lists) ──────────────────────────┼──► driver ───┤
//!   time ─────────────────────────────────────────────────────┘  (the brain) └──► Docker, NATS
//!   NATS ──► rpc (logs, commands, files, ports for operators) ──► Docker
//! ```
//!
//! | module | what lives there |
//! |---|---|
//! | `driver` | the loop: input → brain → store → actions |
//! | `beside` | what runs beside it: what has ended, and what waits for the disk |
//! | `session` | what is said to the leader: register, sync, reports |
//! | `heard` | whether it hears that, and another NATS server where it does not |
//! | `watch` | whether the runtime answers, and its events |
//! | `health` | questions to tasks whether they do their work |
//! | `rpc` | what operators ask: `logs`, commands in containers (`exec`), `files`, connections to ports (`forward`); answered by `out`, and what they send is taken by `input` |
//! | `metrics` | what node and tasks use, told to whoever listens, as `usage` reads it |
//! | [`runtime`] | the seam to the container runtime, and Docker |
//! | [`store`] | what survives the process |
//! | [`probe`] | what the machine has and what is in use; `disk` is asked beside, because it may hang |
//!
//! A worker's end, planned or not, leaves its containers running ([`OnShutdown::Keep`]); the next start
//! adopts them.

mod beside;
mod disk;
mod driver;
mod exec;
mod files;
mod forward;
mod health;
mod heard;
mod input;
mod logs;
mod metrics;
mod out;
pub mod probe;
mod rpc;
pub mod runtime;
mod session;
pub mod store;
mod usage;
mod watch;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use longshore_bus::ConnectError;
use longshore_proto::id::ClusterId;
use longshore_proto::name::{Datacenter, NodeName};
use tokio_util::sync::CancellationToken;

pub use longshore_core::agent::{Keeping, PORT_RANGE_USUAL, policy};

use crate::policy::Policy;
pub use crate::probe::CapacityOverride;
use crate::runtime::Runtime;
use crate::runtime::docker::Docker;
use crate::store::StoreError;

/// What a worker needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// How to reach the bus.
    pub bus: longshore_bus::Options,
    /// The node's name.
    pub name: NodeName,
    /// Where the worker keeps what must survive its process.
    pub data_dir: PathBuf,
    /// Where the node stands.
    pub datacenter: Datacenter,
    /// What the operator says of the node.
    pub labels: BTreeMap<String, String>,
    /// What the node offers, where that is not what is measured.
    pub capacity: CapacityOverride,
    /// How many tasks the node takes at once, whatever they ask for.
    pub tasks_max: u32,
    /// What tasks may do beyond a hardened container.
    pub policy: Policy,
    /// How long what is over stays on the machine.
    pub keeping: Keeping,
    /// The file with logins for registries, as `docker login` writes it.
    pub registry_auth: Option<PathBuf>,
    /// The folder with logins for registries that tasks name: a file of that name each, in the same form.
    pub registry_logins: Option<PathBuf>,
    /// The ports that tasks get which leave the choice to the node.
    pub ports: RangeInclusive<u16>,
    /// What becomes of the containers when the worker is told to end.
    pub on_shutdown: OnShutdown,
    /// How many networks are kept ready for tasks that publish no ports; 0 for none.
    pub sandboxes: usize,
    /// Docker's socket; absent means `DOCKER_HOST`, or the usual place.
    pub docker: Option<String>,
}

/// What becomes of the containers when the worker is told to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnShutdown {
    /// They run on, and the next start adopts them: for upgrades.
    #[default]
    Keep,
    /// The manager is asked to move the tasks off, for so long; what is left then is stopped: for machines that go
    /// away while others take over.
    Drain(Duration),
    /// They are stopped, and the node says goodbye: for machines that go away.
    Stop,
}

/// Why a worker ended that was not told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The bus refuses this client, or is of no use.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The data directory belongs to another cluster.
    #[error(
        "the data directory {data_dir} belongs to another cluster ({reason}); give the worker an empty one, or point \
         it at its own cluster's NATS server and root"
    )]
    WrongCluster {
        /// The data directory.
        data_dir: PathBuf,
        /// What the manager says, or which two clusters they are.
        reason: String,
    },
    /// A part of the worker has panicked: a bug.
    #[error(
        "the worker's {part} has broken down, which is a bug; its containers run on: start it again and report this"
    )]
    Broken {
        /// Which.
        part: &'static str,
    },
}

impl WorkerError {
    fn other_cluster(data_dir: PathBuf, ours: ClusterId, theirs: ClusterId) -> Self {
        Self::WrongCluster { data_dir, reason: format!("{ours}, and the manager's is {theirs}") }
    }
}

/// Runs a worker on this machine's Docker until it is told to end, or cannot go on.
pub async fn run(options: Options, cancel: CancellationToken) -> Result<(), WorkerError> {
    let labels = options.labels.iter();
    let labels = labels.map(|(key, value)| (format!("node.label.{key}"), value.clone()));
    let datacenter = ("node.datacenter".to_owned(), options.datacenter.to_string());
    let docker = Docker::new(options.docker.clone(), options.name.clone(), probe::cores())
        .with_policy(options.policy.clone())
        .with_registry_auth(options.registry_auth.clone())
        .with_sandboxes(options.sandboxes)
        .with_registry_logins(options.registry_logins.clone())
        .with_variables(labels.chain([datacenter]));
    run_with(options, Arc::new(docker), cancel).await
}

/// Runs a worker on any runtime.
pub async fn run_with(
    options: Options,
    runtime: Arc<dyn Runtime>,
    cancel: CancellationToken,
) -> Result<(), WorkerError> {
    driver::Driver::start(options, runtime).await?.run(cancel).await
}
