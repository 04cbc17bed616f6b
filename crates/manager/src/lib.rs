//! The manager: the shell round `core::cluster`. It decides nothing; it carries.
//!
//! ```text
//!   bus ──► gateway ──► driver ──► Cluster::propose ──► log (append, fenced) ──► store (fjall, synced)
//!            ▲            │                                                        │ receipt
//!            └── answers ◄┴──────────────── effects ◄──────── Proposal::release ◄──┘
//!                                                             store's history ──► events (published in order)
//! ```
//!
//! | module | what lives there |
//! |---|---|
//! | [`streams`] | the streams in the managers' account, and their settings |
//! | [`log`] | the JetStream stream that orders everything |
//! | [`follow`] | what others committed, into memory and the own store |
//! | [`lease`] | who tries to lead |
//! | [`store`] | this manager's own disk: state, journal, history |
//! | [`gateway`] | messages to inputs, effects to messages |
//! | [`standby`] | following, ready to lead |
//! | [`driver`] | the one loop of who leads |
//! | [`query`] | answers to questions, whoever leads |
//! | [`events`] | history to the event stream |

mod driver;
pub mod error;
mod events;
pub mod follow;
mod gateway;
mod lease;
pub mod log;
mod query;
mod standby;
pub mod store;
pub mod streams;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use longshore_bus::Bus;
use longshore_core::cluster::{Cluster, Identity, Settings};
use longshore_core::time::{Now, Time};
use longshore_proto::id::ManagerId;
use longshore_proto::name::UserName;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

pub use error::ManagerError;

/// This version, as it is told to others.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The wait before another try of what passes by itself.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// How a manager is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The connection to everybody.
    pub bus: longshore_bus::Options,
    /// The connection to the managers' own account; `None` uses the first one (a server without accounts).
    pub core: Option<longshore_bus::Options>,
    /// Where this manager keeps its store.
    pub data_dir: PathBuf,
    /// This manager's name.
    pub name: UserName,
    /// How the cluster is run.
    pub settings: Settings,
    /// How many NATS servers hold each stream: 1, or 3 in a NATS cluster.
    pub replicas: usize,
    /// How long the event stream keeps events.
    pub events_age_max: Duration,
    /// How many bytes of events the event stream keeps.
    pub events_bytes_max: u64,
}

/// Runs a manager until it is cancelled, or cannot go on.
///
/// # Errors
/// A store that cannot be used, a bus that refuses it, or a log that contradicts the store. What heals by
/// waiting is waited for.
pub async fn run(options: Options, cancel: CancellationToken) -> Result<(), ManagerError> {
    let store = Arc::new(store::Store::open(&options.data_dir)?);
    let connect = async {
        let bus = Bus::connect(options.bus.clone()).await?;
        let core = match options.core.clone() {
            Some(core) => Bus::connect(core).await?,
            None => bus.clone(),
        };
        Ok::<_, ManagerError>((bus, core))
    };
    let (bus, core) = tokio::select! {
        connected = connect => connected?,
        () = cancel.cancelled() => return Ok(()),
    };
    if options.core.is_none() {
        warn!(
            "managers and everybody else share one NATS account: the cluster is open; `longshore auth init` closes it"
        );
    }
    let streams = streams::Streams {
        replicas: options.replicas,
        events_age_max: options.events_age_max,
        events_bytes_max: options.events_bytes_max,
    };
    let clock = Clock::start();
    let identity = Identity {
        manager: ManagerId(Uuid::new_v4()),
        name: options.name.clone(),
        version: VERSION.to_owned(),
    };
    let mut complaint = String::new();
    while !cancel.is_cancelled() {
        match turn(&options, &identity, &streams, &store, &bus, &core, clock, &cancel).await {
            Ok(()) => complaint.clear(),
            Err(ManagerError::Fenced { by }) => {
                info!(%by, "this manager no longer leads; what it had not committed is dropped");
            }
            Err(error) if error.passes() => {
                let told = error.to_string();
                if told != complaint {
                    warn!("{told}; trying again until it is");
                    complaint = told;
                }
                tokio::select! {
                    () = tokio::time::sleep(RETRY_DELAY) => {}
                    () = cancel.cancelled() => {}
                }
            }
            Err(error) => return Err(error),
        }
    }
    bus.flush().await;
    info!("the manager has stopped");
    Ok(())
}

/// Stands by, and leads when it is this manager's turn; until it is cancelled, fenced, or unable to go on.
#[expect(
    clippy::too_many_arguments,
    reason = "they are what one run of the process has, each once"
)]
async fn turn(
    options: &Options,
    identity: &Identity,
    streams: &streams::Streams,
    store: &Arc<store::Store>,
    bus: &Bus,
    core: &Bus,
    clock: Clock,
    cancel: &CancellationToken,
) -> Result<(), ManagerError> {
    let mut log = tokio::select! {
        opened = log::Log::open(core, streams, store) => opened?,
        () = cancel.cancelled() => return Ok(()),
    };
    let lease = lease::Lease::new(core, identity, store.id());
    let state = store.load()?;
    let mut cluster = Cluster::new(identity.clone(), options.settings.clone(), state);
    let standing = standby::stand_by(&mut cluster, &mut log, store, bus, lease, clock, cancel);
    let Some(held) = standing.await? else { return Ok(()) };
    let reign = driver::reign(
        &mut cluster,
        &mut log,
        store,
        bus,
        core,
        &held,
        clock,
        options.events_age_max,
        cancel,
    );
    let ended = reign.await;
    held.release().await;
    ended
}

/// The one clock of the process.
#[derive(Debug, Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn now(self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { time: self.time(), wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) }
    }

    fn time(self) -> Time {
        // Not zero: zero means "at once" to the core.
        Time(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1))
    }
}

/// The one source of randomness of the process.
fn seed() -> [u8; 16] {
    Uuid::new_v4().into_bytes()
}
