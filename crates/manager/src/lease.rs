//! Who tries to lead: one key in a bucket, with a limit of life.
//!
//! When it is taken and when it is lost is [`longshore_core::leadership::lease`]'s to say.
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
use longshore_core::leadership::lease::{
    LOOK_INTERVAL_MS, RENEW_INTERVAL_MS, Refused, Seen, TTL_MS, Waiting, is_stuck,
};
use longshore_core::time::Time;
use longshore_proto::codec;
use longshore_proto::id::ManagerId;
use longshore_proto::name::UserName;
use longshore_proto::subject::{lease_stream, lease_subject};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use crate::Clock;

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
    clock: Clock,
}

/// The lease, held; renewed in the background until it is dropped or lost.
#[derive(Debug)]
pub(crate) struct Held {
    lost: CancellationToken,
    stop: CancellationToken,
    clock: Clock,
    alive: watch::Sender<Time>,
    renewed: watch::Receiver<Time>,
    renewal: tokio::task::JoinHandle<Option<(Lease, u64)>>,
}

impl Lease {
    pub(crate) fn new(core: &Bus, identity: &Identity, store: Uuid, clock: Clock) -> Self {
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
            clock,
        }
    }

    /// Takes the lease if it is free. Else gives back what is needed to wait for it.
    pub(crate) async fn attempt(self) -> Result<Held, Self> {
        if let Ok(seen) = self.look().await
            && seen.is_free()
            && let Ok(sequence) = self.write(seen.sequence).await
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
        let mut waiting = Waiting::default();
        loop {
            let seen = self.look().await;
            if let Err(error) = &seen {
                debug!(%error, "the lease cannot be read");
            }
            let (seen, is_listed) = (seen.ok(), *listed.borrow());
            if let (true, false, Some(Seen { other: Some(other), .. })) = (is_listed, told, &seen) {
                if other.name == self.holder.name {
                    error!(leader = %other.name, "another manager has this one's name; give each a --name of its own, or neither can tell what the other knows");
                }
                info!(leader = %other.name, "another manager leads; this one stands by");
                told = true;
            }
            if waiting.look(seen.as_ref(), is_listed, self.clock.time())
                && let Some(seen) = seen
                && let Ok(sequence) = self.write(seen.sequence).await
            {
                if let Some(other) = seen.other {
                    warn!(leader = %other.name, "the leader has not renewed its lease; this manager takes it");
                }
                return self.hold(sequence);
            }
            tokio::time::sleep(Duration::from_millis(LOOK_INTERVAL_MS)).await;
        }
    }

    /// The sequence that a write must expect, and who else holds the lease.
    async fn look(&self) -> Result<Seen<Holder>, String> {
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
                Ok(Seen { sequence: message.sequence, other })
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                Ok(Seen { sequence: 0, other: None })
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn write(&self, expected: u64) -> Result<u64, jetstream::context::PublishError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        headers.insert(NATS_MESSAGE_TTL, format!("{}s", TTL_MS / 1_000));
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
        let clock = self.clock;
        let (alive, moved) = watch::channel(clock.time());
        let (renewals, renewed) = watch::channel(clock.time());
        let renewal =
            tokio::spawn(self.renew(sequence, lost.clone(), stop.clone(), moved, renewals));
        Held { lost, stop, clock, alive, renewed, renewal }
    }

    /// Renews until told to stop. Gives itself back with its last sequence, or nothing if it was lost.
    async fn renew(
        self,
        mut sequence: u64,
        lost: CancellationToken,
        stop: CancellationToken,
        moved: watch::Receiver<Time>,
        renewals: watch::Sender<Time>,
    ) -> Option<(Self, u64)> {
        let mut interval = tokio::time::interval(Duration::from_millis(RENEW_INTERVAL_MS));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut was_stuck = false;
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = stop.cancelled() => return Some((self, sequence)),
            }
            let stuck = is_stuck(*moved.borrow(), self.clock.time());
            // It may last as long as the log does not answer: it is told once.
            if std::mem::replace(&mut was_stuck, stuck) != stuck {
                if stuck {
                    warn!(
                        "this manager's loop does not move, as when it waits for the log or its disk; its lease is not renewed until it does"
                    );
                } else {
                    info!("this manager's loop moves again; its lease is renewed");
                }
            }
            if stuck {
                continue;
            }
            match self.write(sequence).await {
                Ok(renewed) => {
                    sequence = renewed;
                    renewals.send_replace(self.clock.time());
                }
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                    // Perhaps a renewal whose acknowledgement was lost; or the lease ended meanwhile.
                    match self.look().await.map(Refused::from) {
                        Ok(Refused::Ours(found)) => sequence = found,
                        Ok(Refused::Lost(other)) => {
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

/// Whether a lease is held for certain: its last renewal, which a majority of the servers has taken, is younger than it lasts.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    clock: Clock,
    renewed: watch::Receiver<Time>,
}

impl Standing {
    pub(crate) fn is_certain(&self) -> bool {
        self.clock.time() - *self.renewed.borrow() < TTL_MS
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

    /// Whether it is held for certain, as it goes on.
    pub(crate) fn standing(&self) -> Standing {
        Standing { clock: self.clock, renewed: self.renewed.clone() }
    }

    /// The driver has moved.
    pub(crate) fn moved(&self) {
        self.alive.send_replace(self.clock.time());
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
