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
//! | [`members`], [`presence`] | who is there, so that the log lists it; that a name means one data directory |
//! | [`standby`] | following, ready to lead |
//! | [`driver`] | the one loop of who leads |
//! | [`gather`] | whether the next record is worth a short wait |
//! | [`landing`] | records of the log on their way to the own disk, while the next is decided |
//! | [`outgoing`] | who waits for the leader, and what leaves it against landed records |
//! | [`query`] | answers to questions, whoever leads |
//! | [`history`] | events and their indexes |
//! | [`past`] | the cluster as it was |
//! | [`snapshot`], [`points`], [`bucket`] | the state at one index as a file; where such files are kept here, and in NATS |
//! | [`keeper`] | snapshots, the trimmed log and the end of history by policy |
//! | [`fullness`] | how full log, streams and disk are: alarms, and refusals in time |
//! | [`mend`] | joining from a snapshot, and healing the log |
//! | [`backup`] | everything in one file, and back |
//! | [`events`] | history to the event stream |

mod backup;
mod bucket;
mod driver;
pub mod error;
mod events;
pub mod follow;
mod fullness;
mod gateway;
mod gather;
mod history;
mod keeper;
pub mod landing;
mod lease;
pub mod log;
mod members;
mod mend;
mod outgoing;
mod past;
pub mod points;
mod presence;
mod query;
pub mod snapshot;
mod standby;
pub mod store;
pub mod streams;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use longshore_bus::Bus;
use longshore_core::cluster::{Cluster, Identity, Settings, State};
use longshore_core::time::{Now, Time};
use longshore_proto::id::ManagerId;
use longshore_proto::name::UserName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use uuid::Uuid;

pub use backup::restore;
pub use error::ManagerError;
pub use keeper::Keeping;
use presence::Presence;

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
    /// What is kept of snapshots and history, and on how many NATS servers: 1, or 3 in a NATS cluster.
    pub keeping: Keeping,
    /// Whether an operator has chosen this manager's store as the truth, should the log contradict it.
    pub heal_log: bool,
    /// How many bytes the log may have; NATS keeps so much room for it.
    pub log_bytes_max: u64,
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
    let (store, state) = store::Store::open_sound(&options.data_dir)?;
    let store = Arc::new(store);
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
    let identity = Identity {
        manager: ManagerId(Uuid::new_v4()),
        name: options.name.clone(),
        version: VERSION.to_owned(),
    };
    let past = past::Past::new(&identity, &store);
    let mut presence = Presence::start(&core, &identity.name, store.id());
    let manager = Manager { bus, core, store, past, identity, options, clock: Clock::start() };
    let mut loaded = Some(state);
    let mut heal = manager.options.heal_log;
    let mut complaint = String::new();
    while !cancel.is_cancelled() {
        let turn = cancel.child_token();
        let claimed = presence.claimed();
        let mut part = Box::pin(manager.part(loaded.take(), &mut heal, claimed, &turn));
        let mut ended = tokio::select! {
            ended = &mut part => ended,
            error = presence.lost() => {
                // In good order: whoever waits for an answer is sent elsewhere, and the lease is given up.
                turn.cancel();
                if let Err(error) = part.await {
                    warn!("{error}");
                }
                return Err(error);
            }
        };
        drop(part);
        if let Err(ManagerError::Broken(broken)) = ended {
            let mending = Box::pin(manager.mend(broken, heal));
            ended = tokio::select! {
                mended = mending => mended,
                () = cancel.cancelled() => break,
            };
        }
        match ended {
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
    presence.end().await;
    let bus = manager.bus;
    bus.flush().await;
    info!("the manager has stopped");
    Ok(())
}

/// Everything that a manager has for as long as it runs.
struct Manager {
    bus: Bus,
    core: Bus,
    store: Arc<store::Store>,
    past: Arc<past::Past>,
    identity: Identity,
    options: Options,
    clock: Clock,
}

impl Manager {
    /// Stands by, and then leads, until cancelled, fenced or unable to go on. `heal` says whether an operator has chosen
    /// this manager's store as the truth; that is over once log and store fit together.
    async fn part(
        &self,
        loaded: Option<State>,
        heal: &mut bool,
        mut claimed: watch::Receiver<bool>,
        cancel: &CancellationToken,
    ) -> Result<(), ManagerError> {
        let Self { bus, core, store, past, identity, options, clock } = self;
        let streams = self.streams();
        let mut log = tokio::select! {
            opened = log::Log::open(core, &streams, store) => opened?,
            () = cancel.cancelled() => return Ok(()),
        };
        tokio::select! {
            claimed = claimed.wait_for(|claimed| *claimed) => drop(claimed),
            () = cancel.cancelled() => return Ok(()),
        }
        let state = match loaded {
            Some(state) => state,
            None => store.load()?,
        };
        let mut cluster = Cluster::new(identity.clone(), options.settings.clone(), state);
        let keeper = keeper::keep(Arc::clone(store), options.keeping.clone(), *clock, None);
        let keeper = AbortOnDropHandle::new(tokio::spawn(keeper));
        let standing = standby::stand_by(
            &mut cluster,
            &mut log,
            store,
            past,
            bus,
            self.lease(),
            core,
            options.keeping.replicas,
            heal,
            *clock,
            cancel,
        );
        let Some(held) = standing.await? else { return Ok(()) };
        drop(keeper);
        if held.lost().is_cancelled() {
            // Another one has taken it while this one read on: it stands by again, and fences nobody.
            return Ok(());
        }
        let reign = driver::reign(
            &mut cluster,
            &mut log,
            store,
            past,
            bus,
            core,
            &held,
            *clock,
            options,
            cancel,
        )
        .await;
        held.release().await;
        reign
    }

    async fn mend(&self, broken: error::Broken, heal: bool) -> Result<(), ManagerError> {
        let mender = mend::Mender {
            core: &self.core,
            store: &self.store,
            streams: &self.streams(),
            keeping: &self.options.keeping,
            name: &self.options.name,
            chosen: heal || self.store.is_restored()?,
            clock: self.clock,
        };
        Box::pin(mender.mend(broken, self.lease())).await
    }

    fn lease(&self) -> lease::Lease {
        lease::Lease::new(&self.core, &self.identity, self.store.id(), self.clock)
    }

    fn streams(&self) -> streams::Streams {
        streams::Streams {
            replicas: self.options.keeping.replicas,
            log_bytes_max: self.options.log_bytes_max,
            events_age_max: self.options.events_age_max,
            events_bytes_max: self.options.events_bytes_max,
        }
    }
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
