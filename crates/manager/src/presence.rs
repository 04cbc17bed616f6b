//! That this manager is there, under its name: one key in the lease's bucket, written again each second.
//!
//! A name means one data directory, since the log lists managers by name. Whoever comes to a name that another data
//! directory uses waits whether that one is still there: it is when its key moves, and then the newcomer ends. A process
//! that begins on the same data directory is the successor of one that is gone, by the directory's lock, and need not
//! wait. Each write expects the key as its writer left it, so that of two that begin at once, or of one that slept and
//! one that came meanwhile, one is refused: it noticed last, and ends.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_TTL};
use async_nats::jetstream;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use longshore_bus::Bus;
use longshore_proto::codec;
use longshore_proto::name::UserName;
use longshore_proto::subject::{lease_stream, member_subject};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::error::ManagerError;

/// How long the server keeps the key of one that is gone.
const TTL: Duration = Duration::from_secs(10);
/// How often it is written.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often one that waits looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long the last word may take.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What stands in the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sign {
    /// The data directory.
    store: String,
}

/// What is found in the key.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Nobody uses the name, or this data directory does; the sequence that a write must expect.
    Free(u64),
    /// Another data directory uses it, or did a moment ago.
    Taken(u64),
}

/// This manager, being there until it is dropped.
#[derive(Debug)]
pub(crate) struct Presence {
    claimed: watch::Receiver<bool>,
    stop: CancellationToken,
    task: AbortOnDropHandle<Option<ManagerError>>,
}

impl Presence {
    /// Begins to be there.
    pub(crate) fn start(core: &Bus, name: &UserName, store: Uuid) -> Self {
        let mut context = jetstream::new(core.client().clone());
        context.set_timeout(Duration::from_secs(2));
        let key = Key {
            context,
            stream: lease_stream(core.root()),
            subject: member_subject(core.root(), name),
            sign: Sign { store: store.to_string() },
            name: name.clone(),
        };
        let (claim, claimed) = watch::channel(false);
        let stop = CancellationToken::new();
        let task = AbortOnDropHandle::new(tokio::spawn(key.keep(claim, stop.clone())));
        Self { claimed, stop, task }
    }

    /// Whether the name is known to be this manager's.
    pub(crate) fn claimed(&self) -> watch::Receiver<bool> {
        self.claimed.clone()
    }

    /// Resolves when another manager has the name.
    pub(crate) async fn lost(&mut self) -> ManagerError {
        match (&mut self.task).await {
            Ok(Some(error)) => error,
            _ => ManagerError::Bug("nobody says any more that this manager is there"),
        }
    }

    /// Says that this manager is gone.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        if tokio::time::timeout(LAST_WORD, self.task).await.is_err() {
            debug!("it was not said in time that this manager is gone; its key ends by itself");
        }
    }
}

/// The key, and what this manager writes there.
#[derive(Debug)]
struct Key {
    context: jetstream::Context,
    stream: String,
    subject: String,
    sign: Sign,
    name: UserName,
}

impl Key {
    /// Claims the name, and keeps it until stopped; ends with an error when another manager has it.
    async fn keep(
        self,
        claim: watch::Sender<bool>,
        stop: CancellationToken,
    ) -> Option<ManagerError> {
        let claiming = tokio::select! {
            claimed = self.claim() => claimed,
            () = stop.cancelled() => return None,
        };
        let Some(mut sequence) = claiming else { return Some(self.taken()) };
        claim.send_replace(true);
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = stop.cancelled() => {
                    self.leave(sequence).await;
                    return None;
                }
            }
            match self.write(sequence).await {
                Ok(written) => sequence = written,
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                    // Perhaps our own, whose acknowledgement was lost; or the key has ended meanwhile.
                    match self.look().await {
                        Ok(Found::Free(found)) => sequence = found,
                        Ok(Found::Taken(_)) => return Some(self.taken()),
                        Err(error) => debug!(%error, "this manager's key cannot be read"),
                    }
                }
                Err(error) => debug!(%error, "this manager did not say that it is there"),
            }
        }
    }

    fn taken(&self) -> ManagerError {
        ManagerError::NameTaken { name: self.name.clone() }
    }

    /// Waits until the name is this manager's; `None` when another one is there under it.
    async fn claim(&self) -> Option<u64> {
        let mut seen = None;
        loop {
            match self.look().await {
                Ok(Found::Free(sequence)) => match self.write(sequence).await {
                    Ok(sequence) => return Some(sequence),
                    Err(error) => debug!(%error, "this manager did not say that it is there"),
                },
                Ok(Found::Taken(sequence)) => {
                    if seen.is_some_and(|seen| seen != sequence) {
                        return None;
                    }
                    if seen.is_none() {
                        warn!(
                            name = %self.name,
                            "a manager of this name with another data directory was here within the last {} s; waiting whether it still is",
                            TTL.as_secs()
                        );
                    }
                    seen = Some(sequence);
                }
                Err(error) => debug!(%error, "this manager's key cannot be read"),
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn look(&self) -> Result<Found, String> {
        let stream = self.context.get_stream_no_info(&self.stream).await;
        let stream = stream.map_err(|error| error.to_string())?;
        match stream.get_last_raw_message_by_subject(&self.subject).await {
            Ok(message) => {
                let gone = ["Nats-Marker-Reason", "KV-Operation"];
                let is_gone = gone.iter().any(|name| message.headers.get(*name).is_some());
                let sign: Option<Sign> = codec::decode(&message.payload).ok();
                // A manager of an older version says no more than that it is there.
                let is_free = is_gone || sign.is_some_and(|sign| sign == self.sign);
                let sequence = message.sequence;
                Ok(if is_free { Found::Free(sequence) } else { Found::Taken(sequence) })
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                Ok(Found::Free(0))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn write(&self, expected: u64) -> Result<u64, PublishError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_TTL, format!("{}s", TTL.as_secs()));
        self.publish(headers, codec::encode(&self.sign).into(), expected).await
    }

    /// Frees the name at once, for a successor on another data directory.
    async fn leave(&self, expected: u64) {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_TTL, "1s");
        headers.insert("KV-Operation", "DEL");
        if let Err(error) = self.publish(headers, Bytes::new(), expected).await {
            debug!(%error, "it was not said that this manager is gone; its key ends by itself");
        }
    }

    async fn publish(
        &self,
        mut headers: HeaderMap,
        payload: Bytes,
        expected: u64,
    ) -> Result<u64, PublishError> {
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        let sent = self.context.publish_with_headers(self.subject.clone(), headers, payload).await;
        Ok(sent?.await?.sequence)
    }
}
