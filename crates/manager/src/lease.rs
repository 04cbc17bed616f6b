//! Who tries to lead: one key in a bucket, with a limit of life.
//!
//! The lease only keeps two managers from fencing each other all the time. Whether a manager may write is
//! decided by the log alone, at each append.
//!
//! A manager that waits judges by its own monotonic clock: a lease whose sequence has not moved for
//! [`PATIENCE`] is taken, by a write that expects just that sequence, so a renewal in the last moment wins.
//! The server's limit of life is only the broom behind it: it counts whole seconds and sweeps late.
//!
//! It is written by raw publishes that carry both the limit of life and the expected sequence of the subject:
//! the client library's key-value helper drops the limit on some paths, and a lease without one never ends.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_TTL};
use async_nats::jetstream;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use longshore_bus::Bus;
use longshore_core::cluster::Identity;
use longshore_proto::codec;
use longshore_proto::id::ManagerId;
use longshore_proto::name::UserName;
use longshore_proto::subject::{lease_stream, lease_subject};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

/// How long the server keeps a lease that is not renewed. Whole seconds, by the server's rule.
const TTL: Duration = Duration::from_secs(4);
/// How often it is renewed.
const RENEW_INTERVAL: Duration = Duration::from_millis(500);
/// How long a manager that waits watches a lease that does not move before it takes it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one waits that the log does not list yet. Whoever heals a log must know who may know more, so a manager
/// is recorded before it leads; only where no leader is there to do that, it leads all the same.
const PATIENCE_UNLISTED: Duration = Duration::from_secs(15);
/// How often a manager that waits looks at the lease.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// A driver that has not moved for so long is stuck, and must not keep others from leading.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// What stands in the lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    /// The run of the process that holds it.
    manager: ManagerId,
    /// Its name, for people.
    name: UserName,
    /// Its data directory: a process that has the same one, locked, is its successor.
    store: String,
}

/// The lease, before it is held.
#[derive(Debug)]
pub(crate) struct Lease {
    context: jetstream::Context,
    stream: String,
    subject: String,
    holder: Holder,
}

/// The lease, held; renewed in the background until it is dropped or lost.
#[derive(Debug)]
pub(crate) struct Held {
    lost: CancellationToken,
    stop: CancellationToken,
    alive: watch::Sender<Instant>,
    renewal: tokio::task::JoinHandle<Option<(Lease, u64)>>,
}

impl Lease {
    pub(crate) fn new(core: &Bus, identity: &Identity, store: Uuid) -> Self {
        let holder = Holder {
            manager: identity.manager,
            name: identity.name.clone(),
            store: store.to_string(),
        };
        let mut context = jetstream::new(core.client().clone());
        context.set_timeout(Duration::from_secs(2));
        Self {
            context,
            stream: lease_stream(core.root()),
            subject: lease_subject(core.root()),
            holder,
        }
    }

    /// Takes the lease if it is free. Else gives back what is needed to wait for it.
    pub(crate) async fn attempt(self) -> Result<Held, Self> {
        if let Ok((sequence, None)) = self.look().await
            && let Ok(sequence) = self.write(sequence).await
        {
            return Ok(self.hold(sequence));
        }
        Err(self)
    }

    /// Waits until the lease is free or does not move any more, and takes it.
    ///
    /// `listed` says whether the log lists this manager.
    pub(crate) async fn acquire(self, listed: watch::Receiver<bool>) -> Held {
        let mut told = false;
        let mut still: Option<(u64, Instant)> = None;
        loop {
            match self.look().await {
                Ok((sequence, other)) => {
                    let since = match still {
                        Some((seen, since)) if seen == sequence => since,
                        _ => {
                            still = Some((sequence, Instant::now()));
                            Instant::now()
                        }
                    };
                    let patience = match (*listed.borrow(), &other) {
                        (true, None) => Duration::ZERO,
                        (true, Some(_)) => PATIENCE,
                        (false, _) => PATIENCE_UNLISTED,
                    };
                    if let (true, false, Some(other)) = (*listed.borrow(), told, &other) {
                        if other.name == self.holder.name {
                            error!(leader = %other.name, "another manager has this one's name; give each a --name of its own, or neither can tell what the other knows");
                        }
                        info!(leader = %other.name, "another manager leads; this one stands by");
                        told = true;
                    }
                    if since.elapsed() >= patience
                        && let Ok(sequence) = self.write(sequence).await
                    {
                        if let Some(other) = other {
                            warn!(leader = %other.name, "the leader has not renewed its lease; this manager takes it");
                        }
                        return self.hold(sequence);
                    }
                }
                Err(error) => {
                    // While the bus is away nobody can renew: that silence is not the leader's.
                    still = None;
                    debug!(%error, "the lease cannot be read");
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// The sequence that a write must expect, and who else holds the lease.
    async fn look(&self) -> Result<(u64, Option<Holder>), String> {
        let stream = self
            .context
            .get_stream_no_info(&self.stream)
            .await
            .map_err(|error| error.to_string())?;
        match stream.get_last_raw_message_by_subject(&self.subject).await {
            Ok(message) => {
                // What ends by its limit leaves a marker without a payload for a moment.
                let holder: Option<Holder> = codec::decode(&message.payload).ok();
                let other = holder.filter(|holder| holder.store != self.holder.store);
                Ok((message.sequence, other))
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok((0, None)),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn write(&self, expected: u64) -> Result<u64, jetstream::context::PublishError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        headers.insert(NATS_MESSAGE_TTL, format!("{}s", TTL.as_secs()));
        let payload = codec::encode(&self.holder).into();
        let ack = self
            .context
            .publish_with_headers(self.subject.clone(), headers, payload)
            .await?
            .await?;
        Ok(ack.sequence)
    }

    /// Ends the lease at once, for a clean handover: what stands afterwards names nobody.
    async fn give_up(&self, expected: u64) {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        headers.insert(NATS_MESSAGE_TTL, "1s");
        let publish = async {
            self.context
                .publish_with_headers(self.subject.clone(), headers, bytes::Bytes::new())
                .await?
                .await
        };
        if let Err(error) = publish.await {
            debug!(%error, "the lease was not given up; it ends by itself");
        }
    }

    fn hold(self, sequence: u64) -> Held {
        let (lost, stop) = (CancellationToken::new(), CancellationToken::new());
        let (alive, moved) = watch::channel(Instant::now());
        let renewal = tokio::spawn(self.renew(sequence, lost.clone(), stop.clone(), moved));
        Held { lost, stop, alive, renewal }
    }

    /// Renews until told to stop. Gives itself back with its last sequence, or nothing if it was lost.
    async fn renew(
        self,
        mut sequence: u64,
        lost: CancellationToken,
        stop: CancellationToken,
        moved: watch::Receiver<Instant>,
    ) -> Option<(Self, u64)> {
        let mut interval = tokio::time::interval(RENEW_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = stop.cancelled() => return Some((self, sequence)),
            }
            if moved.borrow().elapsed() > STUCK_AFTER {
                warn!("the manager's loop does not move; its lease is not renewed");
                continue;
            }
            match self.write(sequence).await {
                Ok(renewed) => sequence = renewed,
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                    // Perhaps a renewal whose acknowledgement was lost; or the lease ended meanwhile.
                    match self.look().await {
                        Ok((found, None)) => sequence = found,
                        Ok((_, Some(other))) => {
                            warn!(leader = %other.name, "another manager holds the lease now");
                            lost.cancel();
                            return None;
                        }
                        Err(error) => debug!(%error, "the lease cannot be read"),
                    }
                }
                Err(error) => debug!(%error, "the lease was not renewed"),
            }
        }
    }
}

impl Drop for Held {
    /// Whoever holds no handle any more does not renew either.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Held {
    /// Resolves when another manager holds the lease.
    pub(crate) fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// The driver has moved.
    pub(crate) fn moved(&self) {
        self.alive.send_replace(Instant::now());
    }

    /// Stops to renew, and gives the lease up.
    pub(crate) async fn release(mut self) {
        self.stop.cancel();
        if let Ok(Some((lease, sequence))) = (&mut self.renewal).await
            && tokio::time::timeout(Duration::from_secs(2), lease.give_up(sequence)).await.is_err()
        {
            debug!("the lease was not given up in time; it ends by itself");
        }
    }
}
