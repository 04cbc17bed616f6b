//! The JetStream stream that orders everything.
//!
//! Every append names the sequence that it expects to be the last one, so that of two managers which both
//! believe they lead only one can write. A message that is not acknowledged in time has an unknown outcome:
//! the place where it should stand is read from the stream's leader, and tells.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Info, RawMessageErrorKind, Stream};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use longshore_bus::Bus;
use longshore_core::cluster::Cluster;
use longshore_core::leadership::log::{
    self as judge, Appended, Applied, DOUBT_OF_ONE_MS, DOUBT_OF_SEVERAL_MS, Doubt,
    LOOK_INTERVAL_MS, Verdict, outcome,
};
use longshore_core::time::Time;
use longshore_proto::subject::{Subject, log_stream};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::Clock;
use crate::error::{Broken, ManagerError};
use crate::follow::Follower;
use crate::store::Store;
use crate::streams::{
    Streams, check_log_settings, event_config, find, is_missing, lease_config, log_config, set_up,
    set_up_events, wait_for_jetstream,
};

/// How long an append may wait for its acknowledgement before the place in the log is looked at.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// The wait between two tries while the log cannot be reached.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// How long a reader of the log may be silent, though there is more to read, before another one is made.
const READ_PATIENCE: Duration = Duration::from_secs(5);
/// The room that a log has at least when it is opened, in bytes: some of the largest records.
const ROOM_BYTES: i64 = 1 << 20;
/// The most messages that are applied and stored together while following, and the most bytes.
const FOLLOWED_MAX: usize = 512;
const FOLLOWED_BYTES_MAX: usize = 4 << 20;

/// The log.
#[derive(Debug)]
pub struct Log {
    context: jetstream::Context,
    stream: Stream,
    subject: String,
    look: Look,
    /// Why the log takes no record, in words, while it does not.
    trouble: watch::Sender<Option<&'static str>>,
    /// What was read or written here: the next append expects it to be the last.
    position: watch::Sender<Applied>,
    /// When the last append, or look, was sent that has shown that the log ends with what was applied here.
    known_at: Option<Time>,
}

/// A look at the stream from beside the one who reads and writes it.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    context: jetstream::Context,
    stream: String,
    created: String,
    doubt: Doubt,
    clock: Clock,
}

/// A reader of the log, from some message on and for ever.
pub(crate) struct Tail {
    messages: pull::Ordered,
}

/// A message of the log: where it stands, and its bytes.
pub(crate) type Message = (u64, Bytes);

impl Log {
    /// Opens the log, and makes the streams that are missing. A stream that is missing while the store has
    /// state is no empty cluster, and is not made.
    pub async fn open(core: &Bus, streams: &Streams, store: &Store) -> Result<Self, ManagerError> {
        let context = context(core);
        let name = log_stream(core.root());
        let known = store.log_created()?;
        wait_for_jetstream(&context, &name, known.is_some()).await?;
        let restored = store.is_restored()?;
        let bound = known.is_some() || store.must_join()? || restored;
        // A store that was restored wants none, and whoever makes the log looks again.
        let doubt = Duration::from_millis(if bound && !restored { doubt_ms(streams) } else { 0 });
        let asked_at = Instant::now();
        let mut complained = false;
        let found = loop {
            match find(&context, &name).await? {
                None if asked_at.elapsed() < doubt => {
                    if !std::mem::replace(&mut complained, true) {
                        warn!(
                            "there is no stream {name}, says a NATS server, and this manager's store comes from one; it is asked \
                             again for {} s before that is believed",
                            doubt.as_secs()
                        );
                    }
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                found => break found,
            }
        };
        match found {
            None if bound => return Err(Broken::Gone { stream: name }.into()),
            None => info!(stream = %name, "making the log"),
            Some(stream) => {
                let Info { created, state, .. } = stream.cached_info();
                let created = created.to_string();
                if restored && state.last_sequence > 0 {
                    return Err(ManagerError::LogInUse { stream: name });
                }
                if known.as_ref().is_none_or(|known| *known == created) {
                    if known.is_none() && bound && state.last_sequence == 0 {
                        return Err(Broken::Empty { stream: name }.into());
                    }
                } else {
                    let known = known.unwrap_or_default();
                    return Err(Broken::Replaced { stream: name, created, known }.into());
                }
            }
        }
        let log = Self::make(core, streams).await?;
        store.set_log_created(&log.look.created)?;
        Ok(log)
    }

    /// Makes the streams that are missing, whatever was there before, and changes settings in place.
    pub(crate) async fn make(core: &Bus, streams: &Streams) -> Result<Self, ManagerError> {
        let (context, root) = (context(core), core.root());
        let mut config = log_config(root, streams);
        if let Some(present) = find(&context, &config.name).await? {
            config.max_bytes = roomy(present.cached_info().state.bytes, config.max_bytes);
        }
        let stream = set_up(&context, config).await?;
        check_log_settings(&log_stream(root), stream.cached_info().config.clone())?;
        set_up_events(&context, event_config(root, streams)).await?;
        set_up(&context, lease_config(root, streams)).await?;
        let look = Look {
            context: context.clone(),
            stream: log_stream(root),
            created: stream.cached_info().created.to_string(),
            doubt: Doubt::new(doubt_ms(streams)),
            clock: Clock::start(),
        };
        let (subject, position) = (Subject::Log.text(root), watch::Sender::new(Applied::default()));
        let trouble = watch::Sender::new(None);
        Ok(Self { context, stream, subject, look, trouble, position, known_at: None })
    }

    /// What the server says of the log; `None` when there is none.
    pub(crate) async fn told(core: &Bus) -> Result<Option<judge::Info>, ManagerError> {
        let found = find(&context(core), &log_stream(core.root())).await?;
        Ok(found.map(|stream| ends(stream.cached_info())))
    }

    /// The last message of the log; `None` when there is none, or no log.
    pub(crate) async fn tip(core: &Bus) -> Result<Option<Bytes>, ManagerError> {
        let Some(stream) = find(&context(core), &log_stream(core.root())).await? else {
            return Ok(None);
        };
        if stream.cached_info().state.messages == 0 {
            return Ok(None);
        }
        let last = stream.get_raw_message(stream.cached_info().state.last_sequence).await;
        last.map(|message| Some(message.payload))
            .map_err(|error| ManagerError::Read { detail: error.to_string() })
    }

    /// What stands in the log at a sequence; `None` when nothing does, or there is no log.
    pub(crate) async fn message_at(
        core: &Bus,
        sequence: u64,
    ) -> Result<Option<Bytes>, ManagerError> {
        match find(&context(core), &log_stream(core.root())).await? {
            Some(stream) => message(&stream, sequence).await,
            None => Ok(None),
        }
    }

    /// When this log's stream was created, as the server says it.
    pub(crate) fn created_at(&self) -> String {
        self.look.created.clone()
    }

    /// The sequence of the last message.
    pub(crate) async fn end(&self) -> Result<u64, ManagerError> {
        self.look.end(Applied::default(), Applied::default).await.or_else(|error| match error {
            ManagerError::Broken(Broken::Begins { end, .. }) => Ok(end),
            error => Err(error),
        })
    }

    /// Whether it holds nothing, and would go on behind a message.
    pub(crate) async fn is_cut_behind(&self, end: u64) -> Result<bool, ManagerError> {
        let info = self.look.info().await?;
        Ok(info.is_some_and(|info| info.state.messages == 0 && info.state.last_sequence == end))
    }

    /// Reads everything that the store has not seen, and applies it.
    pub async fn catch_up(
        &mut self,
        cluster: &mut Cluster,
        follower: &mut Follower<'_>,
    ) -> Result<(), ManagerError> {
        let applied = Applied::of(&cluster.state().meta);
        let known = applied.sequence;
        let mut end = self.end_after(applied).await?;
        if end > known {
            info!(from = known + 1, end, "reading the log");
            let mut tail = self.tail(known + 1).await?;
            while cluster.state().meta.stream_sequence < end {
                match tokio::time::timeout(READ_PATIENCE, tail.next()).await {
                    Ok(Ok(messages)) => follower.apply(cluster, messages).await?,
                    Ok(Err(error)) => {
                        warn!(%error, "the log is read on by another reader");
                        tokio::time::sleep(RETRY_DELAY).await;
                        tail = self.tail(cluster.state().meta.stream_sequence + 1).await?;
                    }
                    Err(_) => {
                        // What was told of may have been lost since.
                        end = self.end_after(Applied::of(&cluster.state().meta)).await?;
                        tail = self.tail(cluster.state().meta.stream_sequence + 1).await?;
                    }
                }
            }
        }
        self.reached(Applied::of(&cluster.state().meta));
        Ok(())
    }

    /// Where the log ends, after a check that it still is what was applied.
    ///
    /// # Errors
    /// What is broken is an error that passes until it was told for long enough.
    pub(crate) async fn check(&mut self, applied: Applied) -> Result<u64, ManagerError> {
        self.look.check(applied, || applied).await
    }

    /// The same, until it is told without doubt.
    async fn end_after(&mut self, applied: Applied) -> Result<u64, ManagerError> {
        loop {
            match self.look.check(applied, || applied).await {
                Err(error) if self.look.doubt.is_open() && error.passes() => {
                    debug!(%error, "the log is asked for again");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                told => return told,
            }
        }
    }

    /// Notes what was applied of what was appended here.
    pub(crate) fn reached(&self, applied: Applied) {
        self.position.send_replace(applied);
    }

    /// A look at the stream that can be taken elsewhere.
    pub(crate) fn look(&self) -> Look {
        self.look.clone()
    }

    /// What was read or written here, as it moves.
    pub(crate) fn position(&self) -> watch::Receiver<Applied> {
        self.position.subscribe()
    }

    /// Why the log takes no record, while it does not.
    pub(crate) fn trouble(&self) -> watch::Receiver<Option<&'static str>> {
        self.trouble.subscribe()
    }

    /// A reader from a message on.
    pub(crate) async fn tail(&self, from: u64) -> Result<Tail, ManagerError> {
        let read_error = |detail: String| ManagerError::Read { detail };
        let mut tries = 0u32;
        loop {
            let config = pull::OrderedConfig {
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
                ..pull::OrderedConfig::default()
            };
            let made = match self.stream.create_consumer(config).await {
                Ok(consumer) => consumer.messages().await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match made {
                Ok(messages) => return Ok(Tail { messages }),
                Err(detail) if self.look.info().await?.is_none() => {
                    return Err(read_error(detail));
                }
                Err(detail) => {
                    tries += 1;
                    if tries == 1 || tries.is_multiple_of(40) {
                        warn!(%detail, "the log cannot be read; trying again until it can");
                    }
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    /// Appends a record, and stays until its outcome is known: however long the bus is away.
    ///
    /// # Errors
    /// Only what no waiting mends: the log has lost what was in it, or a bug.
    pub async fn append(&mut self, id: &str, bytes: &[u8]) -> Result<Appended, ManagerError> {
        let payload = Bytes::copy_from_slice(bytes);
        let last = self.position.borrow().sequence;
        let mut complained = false;
        loop {
            let sent_at = self.look.clock.time();
            let message = PublishMessage::build()
                .payload(payload.clone())
                .message_id(id)
                .expected_last_sequence(last);
            let publish =
                async { self.context.send_publish(self.subject.clone(), message).await?.await };
            // Where nothing was appended for a while, what it stands on is looked at beside it: a lone record then waits
            // for one round trip and not for two.
            let known = judge::is_sure(self.known_at, sent_at);
            let applied = *self.position.borrow();
            let look = async { if known { Ok(()) } else { self.look.check_tip(applied).await } };
            let (published, looked) = tokio::join!(
                tokio::time::timeout(ACK_TIMEOUT, publish),
                tokio::time::timeout(ACK_TIMEOUT, look)
            );
            match looked {
                Ok(Ok(())) if !known => self.known_at = Some(sent_at),
                Ok(Err(error @ ManagerError::Broken(_))) => return Err(error),
                _ => {}
            }
            let is_silent = published.is_err();
            match published {
                // A duplicate is not taken for stored: its place is looked at.
                Ok(Ok(ack))
                    if !ack.duplicate && judge::is_sure(self.known_at, self.look.clock.time()) =>
                {
                    self.trouble.send_replace(None);
                    self.known_at = Some(sent_at);
                    return Ok(Appended::At(ack.sequence));
                }
                Ok(Err(error)) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    return Err(ManagerError::Bug("a record is larger than the server takes"));
                }
                Ok(Err(error)) if error.kind() != PublishErrorKind::WrongLastSequence => {
                    self.trouble.send_replace(Some(told(&error)));
                    if !complained {
                        warn!(
                            error = &error as &dyn std::error::Error,
                            "the log does not take a record; trying again until it does"
                        );
                        complained = true;
                    }
                }
                _ => {}
            }
            // The outcome is unknown, or the log has moved on. What stands in the record's place tells.
            let found = self.message(last + 1).await;
            if is_silent {
                let words = if matches!(found, Ok(None)) { UNSTORED } else { SLOW };
                self.trouble.send_replace(Some(words));
            }
            match found {
                Ok(found) => {
                    let appended = outcome(last + 1, found.as_deref(), &payload);
                    // Where this manager was away, or the record on its way, for long, others may have written a log that
                    // was cut to its old length: the record then stands on what is not this manager's.
                    let applied = *self.position.borrow();
                    let below = match appended {
                        Some(Appended::At(_)) => self.look.check_tip(applied).await,
                        _ => Ok(()),
                    };
                    match (appended, below) {
                        (Some(appended), Ok(())) => {
                            self.trouble.send_replace(None);
                            self.known_at = Some(sent_at);
                            return Ok(appended);
                        }
                        (_, Err(error @ ManagerError::Broken(_))) => return Err(error),
                        _ => {}
                    }
                }
                Err(error) => {
                    if !complained {
                        warn!(%error, "the log cannot be reached; trying again until it can");
                        complained = true;
                    }
                }
            }
            tokio::time::sleep(RETRY_DELAY).await;
            // A log that has lost what this manager knows of must not take the record, though others may have written
            // on it until it is as long as before. So while that is in doubt nothing is tried.
            let applied = *self.position.borrow();
            loop {
                match self.check(applied).await {
                    Err(error @ ManagerError::Broken(_)) => return Err(error),
                    Err(_) if self.look.doubt.is_open() => tokio::time::sleep(RETRY_DELAY).await,
                    _ => break,
                }
            }
        }
    }

    /// The payload at a sequence, from the stream's leader; `None` when there is none.
    async fn message(&self, sequence: u64) -> Result<Option<Bytes>, ManagerError> {
        message(&self.stream, sequence).await
    }
}

async fn message<I>(stream: &Stream<I>, sequence: u64) -> Result<Option<Bytes>, ManagerError> {
    match stream.get_raw_message(sequence).await {
        Ok(message) => Ok(Some(message.payload)),
        Err(error) => match error.kind() {
            RawMessageErrorKind::NoMessageFound => Ok(None),
            _ => Err(ManagerError::Read { detail: error.to_string() }),
        },
    }
}

/// What is told of a log that does not acknowledge.
const SLOW: &str = "NATS does not acknowledge: it is away, or its disk or network is slow";

/// The same, where the server answers questions meanwhile, and has nothing in the record's place.
const UNSTORED: &str = "NATS answers and does not store: its disk is full, broken or very slow; a server whose disk was full \
                        stores again only when there is room and it has been restarted";

/// Why the log takes no record, in words for whoever is refused.
fn told(error: &PublishError) -> &'static str {
    use jetstream::ErrorCode as Code;
    const FULL: [Code; 6] = [
        Code::STREAM_STORE_FAILED,
        Code::STORAGE_RESOURCES_EXCEEDED,
        Code::ACCOUNT_RESOURCES_EXCEEDED,
        Code::INSUFFICIENT_RESOURCES,
        Code::MEMORY_RESOURCES_EXCEEDED,
        Code::STREAM_MAX_STREAM_BYTES_EXCEEDED,
    ];
    let said = std::error::Error::source(error).and_then(|said| said.downcast_ref());
    match (said, error.kind()) {
        (Some(said), _) if FULL.contains(&jetstream::Error::error_code(said)) => {
            "the log is full: give the stream, its account or the NATS server's disk more room; it then goes on by itself"
        }
        (_, PublishErrorKind::StreamNotFound) => {
            "no NATS server leads the log: too few of them are up, or they are electing one"
        }
        (_, PublishErrorKind::TimedOut) => SLOW,
        _ => "NATS refuses the record: the manager's log says why",
    }
}

/// How large the log may be that has so many bytes already: as the operator wants it, but never too small for what a
/// leader must append before it can make the log shorter.
fn roomy(used_bytes: u64, wanted_bytes: i64) -> i64 {
    let used = i64::try_from(used_bytes).unwrap_or(i64::MAX);
    if wanted_bytes <= 0 || used.saturating_add(ROOM_BYTES) <= wanted_bytes {
        return wanted_bytes;
    }
    used.saturating_add(used / 4).saturating_add(ROOM_BYTES)
}

/// For how long a broken log must be told before that is believed.
fn doubt_ms(streams: &Streams) -> u64 {
    if streams.replicas > 1 { DOUBT_OF_SEVERAL_MS } else { DOUBT_OF_ONE_MS }
}

/// What a server says of the log's stream, for the core.
fn ends(info: &Info) -> judge::Info {
    judge::Info {
        created: info.created.to_string(),
        first: info.state.first_sequence,
        last: info.state.last_sequence,
    }
}

fn context(core: &Bus) -> jetstream::Context {
    let mut context = jetstream::new(core.client().clone());
    context.set_timeout(Duration::from_secs(5));
    context
}

impl Look {
    /// See [`Log::check`]. `now` says what is applied when the answer is there.
    async fn check(
        &mut self,
        applied: Applied,
        now: impl Fn() -> Applied,
    ) -> Result<u64, ManagerError> {
        let told = match self.end(applied, now).await {
            Ok(end) => Ok(end),
            Err(ManagerError::Broken(broken)) => Err(broken),
            Err(error) => return Err(error),
        };
        match self.doubt.judge(told, self.clock.time()) {
            Ok(end) => {
                self.check_tip(applied).await?;
                Ok(end)
            }
            Err(Verdict::Believed(broken)) => Err(broken.into()),
            Err(Verdict::Doubted { broken, is_new }) => {
                if is_new {
                    warn!(
                        "{broken}, says a NATS server; it is asked again before that is believed"
                    );
                }
                Err(ManagerError::Read { detail: broken.to_string() })
            }
        }
    }

    /// The record that was applied last must still be the one that stands there.
    async fn check_tip(&self, applied: Applied) -> Result<(), ManagerError> {
        let Some(tip) = applied.tip() else { return Ok(()) };
        let stream = self.context.get_stream_no_info(&self.stream).await;
        let stream = stream.map_err(|error| ManagerError::Read { detail: error.to_string() })?;
        let found = message(&stream, tip).await?;
        Ok(applied.check(found.as_deref())?)
    }

    /// Where the log ends, as it is told now.
    async fn end(&self, known: Applied, now: impl Fn() -> Applied) -> Result<u64, ManagerError> {
        let info = self.info().await?.map(|info| ends(&info));
        let (known, applied) = (known.sequence, now().sequence);
        Ok(judge::end(&self.stream, info.as_ref(), &self.created, known, applied)?)
    }

    /// What the server says of the log; `None` when it says that there is none.
    pub(crate) async fn info(&self) -> Result<Option<Info>, ManagerError> {
        match self.context.get_stream(&self.stream).await {
            Ok(stream) => Ok(Some(stream.cached_info().clone())),
            Err(error) if is_missing(&error.kind()) => Ok(None),
            Err(error) => Err(ManagerError::Read { detail: error.to_string() }),
        }
    }

    /// Removes the messages before one.
    pub(crate) async fn trim(&self, before: u64) -> Result<(), ManagerError> {
        let read_error = |detail: String| ManagerError::Read { detail };
        let Some(info) = self.info().await? else {
            return Err(Broken::Gone { stream: self.stream.clone() }.into());
        };
        if info.state.first_sequence >= before {
            return Ok(());
        }
        let stream = self.context.get_stream(&self.stream).await;
        let stream = stream.map_err(|error| read_error(error.to_string()))?;
        let purged = stream.purge().sequence(before).await;
        let purged = purged.map_err(|error| read_error(error.to_string()))?.purged;
        info!(purged, before, "the log is trimmed behind a snapshot");
        Ok(())
    }

    /// Looks again and again whether the log still is what was applied, as that moves. Ends with what is broken, and tells
    /// where the log ends when that is beyond what was applied.
    pub(crate) async fn watch(
        mut self,
        position: watch::Receiver<Applied>,
        beyond: watch::Sender<u64>,
    ) -> ManagerError {
        // Where it stood at the look before. What was written since may stand on a log that was cut, and written by
        // others to its old length: then the newest record is where it should be, and the one before is not.
        let mut before = *position.borrow();
        loop {
            tokio::time::sleep(Duration::from_millis(LOOK_INTERVAL_MS)).await;
            // Read before the question: what is written meanwhile only makes the log longer at its end. At its beginning it
            // may have been trimmed as far as is applied when the answer is there.
            let applied = *position.borrow();
            let checked = match self.check(applied, || *position.borrow()).await {
                Ok(end) => {
                    if end > position.borrow().sequence {
                        beyond.send_replace(end);
                    }
                    self.check_tip(before).await
                }
                Err(error) => Err(error),
            };
            match checked {
                Err(error @ ManagerError::Broken(_)) => return error,
                Ok(()) => before = applied,
                Err(error) => debug!(%error, "the log cannot be looked at"),
            }
        }
    }
}

impl Tail {
    /// The next messages: waits for one, and takes along what is there already.
    pub(crate) async fn next(&mut self) -> Result<Vec<Message>, String> {
        let mut messages = Vec::new();
        let mut bytes = 0;
        let mut next = self.messages.next().await;
        loop {
            let message = next.ok_or("the reader ended")?.map_err(|error| error.to_string())?;
            let sequence = message.info().map_err(|error| error.to_string())?.stream_sequence;
            bytes += message.payload.len();
            messages.push((sequence, message.message.payload));
            if messages.len() >= FOLLOWED_MAX || bytes >= FOLLOWED_BYTES_MAX {
                return Ok(messages);
            }
            match self.messages.next().now_or_never() {
                Some(more) => next = more,
                None => return Ok(messages),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_larger_than_wanted_keeps_room_for_its_leader() {
        let gib = 1 << 30;
        assert_eq!(roomy(0, gib), gib);
        assert_eq!(roomy(100 << 20, gib), gib);
        assert_eq!(roomy(5 << 30, 0), 0, "no limit is no limit");
        for used in [1 << 30, 5 << 30, (1 << 30) - 1] {
            let limit = u64::try_from(roomy(used, gib)).unwrap();
            assert!(limit > used + used / 8, "{used}: {limit}");
            assert!(used * 100 / limit >= 50, "{used}: it is made shorter at once");
        }
    }
}
