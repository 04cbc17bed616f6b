//! The JetStream stream that orders everything.
//!
//! Every append names the sequence that it expects to be the last one, so that of two managers which both
//! believe they lead only one can write. A message that is not acknowledged in time has an unknown outcome:
//! the place where it should stand is read from the stream's leader, and tells.

use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::context::{GetStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, RawMessageErrorKind, Republish, StorageType, Stream,
};
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use futures_util::StreamExt;
use longshore_bus::Bus;
use longshore_core::cluster::Cluster;
use longshore_core::cluster::record::{Hash, RECORD_FORMAT, Record};
use longshore_proto::name::Root;
use longshore_proto::subject::{
    Pattern, Subject, event_stream, lease_stream, live_events, log_stream,
};
use tracing::{error, info, warn};

use crate::error::ManagerError;
use crate::store::Store;

/// How long an append may wait for its acknowledgement before the place in the log is looked at.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// The wait between two tries while the log cannot be reached.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// The largest message that the log takes: a record is at most half of it.
const MESSAGE_BYTES_MAX: i32 = 512 << 10;

/// How the streams are made.
#[derive(Debug, Clone)]
pub struct Streams {
    /// How many servers hold each stream.
    pub replicas: usize,
    /// How long events are kept.
    pub events_age_max: Duration,
    /// How many bytes of events are kept.
    pub events_bytes_max: u64,
}

/// The log.
#[derive(Debug)]
pub struct Log {
    context: jetstream::Context,
    stream: Stream,
    subject: String,
    /// The sequence that the next append expects to be the last.
    last: u64,
}

/// What became of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// The record stands at this sequence.
    At(u64),
    /// Something else stands in its place.
    Fenced,
}

impl Log {
    /// Opens the log, and makes the streams that are missing. A stream that is missing while the store has
    /// state is no empty cluster, and is not made.
    pub async fn open(core: &Bus, streams: &Streams, store: &Store) -> Result<Self, ManagerError> {
        let mut context = jetstream::new(core.client().clone());
        context.set_timeout(Duration::from_secs(5));
        wait_for_jetstream(&context).await?;
        let root = core.root();
        let name = log_stream(root);
        let stream = match context.get_stream(&name).await {
            Ok(stream) => {
                set_up(&context, log_config(root, streams)).await?;
                stream
            }
            Err(error) if is_missing(&error.kind()) => {
                if store.log_created()?.is_some() {
                    return Err(ManagerError::Diverged {
                        detail: format!(
                            "the stream {name} is gone, and the store holds a cluster that lived on it"
                        ),
                    });
                }
                info!(stream = %name, "making the log");
                set_up(&context, log_config(root, streams)).await?
            }
            Err(error) => return Err(stream_error(&name, &error)),
        };
        check_log_settings(&name, stream.cached_info().config.clone())?;
        set_up(&context, event_config(root, streams)).await?;
        set_up(&context, lease_config(root, streams)).await?;
        let created = stream.cached_info().created.to_string();
        match store.log_created()? {
            None => store.set_log_created(&created)?,
            Some(known) if known == created => {}
            Some(known) => {
                return Err(ManagerError::Diverged {
                    detail: format!(
                        "the stream {name} was created at {created}, and the store was built from one created at {known}"
                    ),
                });
            }
        }
        Ok(Self { context, stream, subject: Subject::Log.text(root), last: 0 })
    }

    /// Reads everything that the store has not seen, and applies it.
    pub async fn catch_up(
        &mut self,
        cluster: &mut Cluster,
        store: &Store,
    ) -> Result<(), ManagerError> {
        let known = cluster.state().meta.stream_sequence;
        let info = self
            .stream
            .get_info()
            .await
            .map_err(|error| ManagerError::Read { detail: error.to_string() })?;
        let end = info.state.last_sequence;
        if end < known {
            return Err(ManagerError::Diverged {
                detail: format!(
                    "the log ends at message {end}, and the store has applied message {known}"
                ),
            });
        }
        if known > 0 && end > 0 {
            self.check_tip(cluster, known).await?;
        }
        if end > known {
            self.read(cluster, store, known + 1, end).await?;
        }
        self.last = end;
        Ok(())
    }

    /// The message that the store applied last must still be the one that stands there.
    async fn check_tip(&self, cluster: &Cluster, sequence: u64) -> Result<(), ManagerError> {
        let Some(payload) = self.message(sequence).await? else { return Ok(()) };
        // A message that was skipped has no record to compare; the chain shows with the next one.
        let Ok(record) = Record::decode(&payload) else { return Ok(()) };
        let meta = &cluster.state().meta;
        if record.index == meta.index && Hash::of(&payload) != meta.chain {
            return Err(ManagerError::Diverged {
                detail: format!(
                    "record {} in the log is not the one that the store has applied",
                    meta.index
                ),
            });
        }
        Ok(())
    }

    async fn read(
        &self,
        cluster: &mut Cluster,
        store: &Store,
        from: u64,
        end: u64,
    ) -> Result<(), ManagerError> {
        info!(from, end, "reading the log");
        let read_error = |detail: String| ManagerError::Read { detail };
        let consumer = self
            .stream
            .create_consumer(pull::OrderedConfig {
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
                ..pull::OrderedConfig::default()
            })
            .await
            .map_err(|error| read_error(error.to_string()))?;
        let mut messages =
            consumer.messages().await.map_err(|error| read_error(error.to_string()))?;
        loop {
            let next = tokio::time::timeout(Duration::from_secs(30), messages.next()).await;
            let message = match next {
                Ok(Some(message)) => message.map_err(|error| read_error(error.to_string()))?,
                Ok(None) => return Err(read_error("the reader ended early".into())),
                Err(_) => return Err(read_error("nothing came for 30 s".into())),
            };
            let sequence =
                message.info().map_err(|error| read_error(error.to_string()))?.stream_sequence;
            follow(cluster, store, sequence, &message.payload)?;
            if sequence >= end {
                return Ok(());
            }
        }
    }

    /// Appends a record, and stays until its outcome is known: however long the bus is away.
    ///
    /// # Errors
    /// Only what no waiting mends.
    pub async fn append(&mut self, id: &str, bytes: &[u8]) -> Result<Appended, ManagerError> {
        let payload = Bytes::copy_from_slice(bytes);
        let mut complained = false;
        loop {
            let message = PublishMessage::build()
                .payload(payload.clone())
                .message_id(id)
                .expected_last_sequence(self.last);
            let publish =
                async { self.context.send_publish(self.subject.clone(), message).await?.await };
            match tokio::time::timeout(ACK_TIMEOUT, publish).await {
                // A duplicate is not taken for stored: its place is looked at.
                Ok(Ok(ack)) if !ack.duplicate => {
                    self.last = ack.sequence;
                    return Ok(Appended::At(ack.sequence));
                }
                Ok(Err(error)) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    return Err(ManagerError::Bug("a record is larger than the server takes"));
                }
                Ok(Err(error)) => {
                    if !complained && error.kind() != PublishErrorKind::WrongLastSequence {
                        warn!(%error, "the log does not take a record; trying again until it does");
                        complained = true;
                    }
                }
                Ok(Ok(_)) | Err(_) => {}
            }
            // The outcome is unknown, or the log has moved on. What stands in the record's place tells.
            match self.message(self.last + 1).await {
                Ok(Some(found)) if found == payload => {
                    self.last += 1;
                    return Ok(Appended::At(self.last));
                }
                Ok(Some(_)) => return Ok(Appended::Fenced),
                Ok(None) => {}
                Err(error) => {
                    if !complained {
                        warn!(%error, "the log cannot be reached; trying again until it can");
                        complained = true;
                    }
                }
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    /// The payload at a sequence, from the stream's leader; `None` when there is none.
    async fn message(&self, sequence: u64) -> Result<Option<Bytes>, ManagerError> {
        match self.stream.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(message.payload)),
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                _ => Err(ManagerError::Read { detail: error.to_string() }),
            },
        }
    }
}

/// Applies one message of the log, or skips it.
fn follow(
    cluster: &mut Cluster,
    store: &Store,
    sequence: u64,
    payload: &[u8],
) -> Result<(), ManagerError> {
    match Record::decode(payload) {
        Ok(record) if record.format > RECORD_FORMAT => {
            Err(ManagerError::NewerFormat { found: record.format, known: RECORD_FORMAT })
        }
        Ok(record) => match cluster.follow(&record, payload, sequence) {
            Ok((writes, events)) => store.commit(record.index, payload, writes, &events),
            Err(reason) => {
                error!(sequence, %reason, "a message in the log is not the next record and is skipped; somebody else writes to the log");
                store.commit_skip(longshore_core::cluster::persist::write_meta(
                    &cluster.state().meta,
                ))
            }
        },
        Err(reason) => {
            error!(sequence, %reason, "a message in the log is no record and is skipped; somebody else writes to the log");
            store.commit_skip(cluster.skip(sequence))
        }
    }
}

/// Waits until JetStream answers; a server that says it has none is an error.
async fn wait_for_jetstream(context: &jetstream::Context) -> Result<(), ManagerError> {
    let mut tries = 0u32;
    loop {
        match context.query_account().await {
            Ok(_) => return Ok(()),
            Err(error) => {
                let detail = error.to_string();
                let said_no = matches!(
                    error.kind(),
                    jetstream::context::AccountErrorKind::JetStream(_)
                        | jetstream::context::AccountErrorKind::JetStreamUnavailable
                );
                tries += 1;
                // A server that has just started says for a moment that it has none.
                if said_no && tries >= 5 || tries >= 40 {
                    return Err(ManagerError::NoJetStream { detail });
                }
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}

/// Makes a stream, or changes its settings in place: never by deleting it.
async fn set_up(context: &jetstream::Context, config: Config) -> Result<Stream, ManagerError> {
    let name = config.name.clone();
    if let Err(error) = context.create_or_update_stream(config).await {
        return Err(stream_error(&name, &error));
    }
    context.get_stream(&name).await.map_err(|error| stream_error(&name, &error))
}

fn stream_error(stream: &str, error: &dyn std::fmt::Display) -> ManagerError {
    ManagerError::Stream { stream: stream.to_owned(), detail: error.to_string() }
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn check_log_settings(name: &str, config: Config) -> Result<(), ManagerError> {
    let refuse = |setting| Err(ManagerError::StreamSetting { stream: name.to_owned(), setting });
    if config.allow_rollup {
        return refuse("allow_rollup_hdrs: false");
    }
    if config.allow_direct {
        return refuse("allow_direct: false");
    }
    if !config.deny_delete {
        return refuse("deny_delete: true");
    }
    if config.discard != DiscardPolicy::New {
        return refuse("discard: new");
    }
    Ok(())
}

fn log_config(root: &Root, streams: &Streams) -> Config {
    Config {
        name: log_stream(root),
        description: Some("Longshore: the log of records. Only managers write here.".into()),
        subjects: vec![Subject::Log.text(root)],
        storage: StorageType::File,
        // A full log refuses; it never drops its head.
        discard: DiscardPolicy::New,
        num_replicas: streams.replicas,
        max_message_size: MESSAGE_BYTES_MAX,
        deny_delete: true,
        allow_direct: false,
        duplicate_window: Duration::from_secs(120),
        ..Config::default()
    }
}

fn event_config(root: &Root, streams: &Streams) -> Config {
    Config {
        name: event_stream(root),
        description: Some(
            "Longshore: committed events, for anybody. It can be rebuilt from the log.".into(),
        ),
        subjects: vec![Pattern::Events.text(root)],
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        num_replicas: streams.replicas,
        max_age: streams.events_age_max,
        max_bytes: i64::try_from(streams.events_bytes_max).unwrap_or(i64::MAX),
        max_message_size: MESSAGE_BYTES_MAX,
        deny_delete: true,
        allow_direct: true,
        republish: Some(Republish {
            source: Pattern::Events.text(root),
            destination: live_events(root),
            headers_only: false,
        }),
        duplicate_window: Duration::from_secs(120),
        ..Config::default()
    }
}

fn lease_config(root: &Root, streams: &Streams) -> Config {
    Config {
        name: lease_stream(root),
        description: Some(
            "Longshore: who tries to lead. Safety rests on the log, not on this.".into(),
        ),
        subjects: vec![format!("$KV.{root}-lease.>")],
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        num_replicas: streams.replicas,
        max_messages_per_subject: 1,
        max_message_size: 16 << 10,
        allow_message_ttl: true,
        // The server sets it with the markers; the same here, so that an update finds nothing to change.
        allow_rollup: true,
        subject_delete_marker_ttl: Some(Duration::from_secs(1)),
        deny_delete: true,
        allow_direct: false,
        // A lease that was somehow written without its own limit still ends.
        max_age: Duration::from_secs(30),
        duplicate_window: Duration::from_secs(30),
        ..Config::default()
    }
}
