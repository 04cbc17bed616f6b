//! Who tries to lead: one key in a bucket, with a limit of life.
//!
//! The lease only keeps two managers from fencing each other all the time. Whether a manager may write is
//! decided by the log alone, at each append.
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
use tracing::{debug, info, warn};
use uuid::Uuid;

/// How long a lease lives without renewal. Whole seconds, and at least one, by the server's rule.
const TTL: Duration = Duration::from_secs(4);
/// How often it is renewed.
const RENEW_INTERVAL: Duration = Duration::from_secs(1);
/// How often a manager that waits looks whether the lease is free.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
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

    /// Waits until the lease is free, and takes it.
    pub(crate) async fn acquire(self) -> Held {
        let mut told = false;
        loop {
            match self.look().await {
                Ok((sequence, None)) => {
                    if let Ok(sequence) = self.write(sequence).await {
                        return self.hold(sequence);
                    }
                }
                Ok((_, Some(other))) => {
                    if !told {
                        info!(leader = %other.name, "another manager leads; this one stands by");
                        told = true;
                    }
                }
                Err(error) => debug!(%error, "the lease cannot be read"),
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// The sequence that a write must expect, and who else holds the lease.
    async fn look(&self) -> Result<(u64, Option<Holder>), String> {
        let stream =
            self.context.get_stream(&self.stream).await.map_err(|error| error.to_string())?;
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
    pub(crate) async fn release(self) {
        self.stop.cancel();
        if let Ok(Some((lease, sequence))) = self.renewal.await
            && tokio::time::timeout(Duration::from_secs(2), lease.give_up(sequence)).await.is_err()
        {
            debug!("the lease was not given up in time; it ends by itself");
        }
    }
}
