//! History to the event stream: in order, from where the stream ends, whatever happened before.
//!
//! The history in the store is the truth and the stream can be rebuilt from it, so nothing is lost between a
//! commit and its publication: a new leader reads the last event in the stream and goes on from there. So does one
//! whose connection broke, for a server that died may have lost the last events that it had acknowledged: this stream
//! is not synced for each of them. How far the stream goes, and what is published next, is
//! [`longshore_core::leadership::publish`]'s to say.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{
    NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_LAST_SEQUENCE, NATS_MESSAGE_ID,
};
use async_nats::jetstream;
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::stream::RawMessageErrorKind;
use bytes::Bytes;
use longshore_bus::Bus;
use longshore_core::leadership::publish::{End, Expected, Names, Progress};
use longshore_proto::codec;
use longshore_proto::event::Event;
use longshore_proto::subject::{Pattern, Subject, event_stream};
use longshore_proto::{PROTOCOL_VERSION, TASK_HEADER, VERSION_HEADER};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::store::Store;

/// The wait before another try when the stream does not take them.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// The least time from one batch that takes all there is to the next one. A batch costs as much as the commit of a record,
/// on the same server: where one record follows the other, their events go together, while the first that come after a
/// silence leave at once.
const BATCH_INTERVAL: Duration = Duration::from_millis(10);

/// Publishes what the history holds, for as long as it is polled. `committed` tells of new records.
pub(crate) async fn publish(
    core: Bus,
    store: Arc<Store>,
    names: Names,
    age_max: Duration,
    now_ms: u64,
    mut committed: watch::Receiver<u64>,
) {
    let context = jetstream::new(core.client().clone());
    let mut connections = core.connections();
    let mut progress = Progress::new(names);
    let oldest_ms = now_ms.saturating_sub(u64::try_from(age_max.as_millis()).unwrap_or(u64::MAX));
    loop {
        if connections.has_changed().unwrap_or(false) {
            connections.mark_unchanged();
            progress.lose();
        }
        if progress.is_lost() {
            match end_of_stream(&context, &core).await {
                Ok(end) => progress.found(&end),
                Err(error) => {
                    debug!(%error, "the event stream cannot be read yet");
                    tokio::time::sleep(RETRY_DELAY).await;
                    continue;
                }
            }
        }
        committed.mark_unchanged();
        let begun_at = Instant::now();
        let reader = Arc::clone(&store);
        let (after, limit) = (progress.after(), progress.batch());
        let page = tokio::task::spawn_blocking(move || reader.events_after(after, limit)).await;
        let (events, more) = match page {
            Ok(Ok(page)) => page,
            Ok(Err(error)) => {
                warn!(%error, "the history cannot be read; events are not published");
                tokio::time::sleep(RETRY_DELAY).await;
                continue;
            }
            Err(_) => return,
        };
        if let Some(last) = events.last().map(|(event, _)| (event.index, event.ordinal)) {
            let due = events.into_iter().filter(|(event, _)| event.at_ms >= oldest_ms);
            let messages = messages(&core, &progress, due);
            let count = messages.len() as u64;
            match send(&context, messages, progress.acknowledges_each()).await {
                Ok(Sent::Last { sequence, duplicate }) => {
                    progress.published(last, count, sequence, duplicate);
                }
                Ok(Sent::Refused) => {
                    debug!("the event stream goes on otherwise than was known; looking again");
                    progress.refused();
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                Err(error) => {
                    warn!(%error, "the event stream does not take events; trying again until it does");
                    progress.lose();
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
            if progress.is_lost() {
                continue;
            }
        }
        if !more {
            tokio::select! {
                changed = committed.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                Ok(()) = connections.changed() => progress.lose(),
            }
            tokio::time::sleep_until(begun_at + BATCH_INTERVAL).await;
        }
    }
}

/// Where the stream ends.
async fn end_of_stream(context: &jetstream::Context, core: &Bus) -> Result<End, String> {
    let stream =
        context.get_stream(event_stream(core.root())).await.map_err(|error| error.to_string())?;
    // What has aged away is no longer there, and counts.
    let sequence = stream.cached_info().state.last_sequence;
    let is_replicated = stream.cached_info().config.num_replicas > 1;
    let subject = Pattern::Events.text(core.root());
    match stream.get_last_raw_message_by_subject(&subject).await {
        Ok(message) => {
            let event = codec::decode::<Event>(&message.payload).inspect_err(|error| {
                warn!(%error, "the last event of the stream cannot be read; the whole history is published again");
            });
            let id = message.headers.get(NATS_MESSAGE_ID).map(|id| id.as_str().to_owned());
            let event = event.ok().map(|event| ((event.index, event.ordinal), id));
            Ok(End { sequence: sequence.max(message.sequence), event, is_replicated })
        }
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {
            Ok(End { sequence, event: None, is_replicated })
        }
        Err(error) => Err(error.to_string()),
    }
}

/// An event on its way to the stream.
#[derive(Debug)]
struct Outgoing {
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
}

/// What became of a batch.
#[derive(Debug)]
enum Sent {
    /// The last message is there.
    Last { sequence: u64, duplicate: bool },
    /// Something else than was expected was the last before it.
    Refused,
}

fn messages(
    core: &Bus,
    progress: &Progress,
    events: impl Iterator<Item = (Event, Bytes)>,
) -> Vec<Outgoing> {
    type Known = (Event, Bytes, Subject);
    let known: Vec<Known> = events
        .filter_map(|(event, payload)| event.subject().map(|subject| (event, payload, subject)))
        .collect();
    let places = known.iter().map(|(event, ..)| (event.index, event.ordinal));
    let messages = progress.messages(places);
    let message = |((event, payload, subject), (id, expected)): (Known, (String, Expected))| {
        let mut headers = HeaderMap::new();
        headers.insert(VERSION_HEADER, PROTOCOL_VERSION.to_string().as_str());
        headers.insert(NATS_MESSAGE_ID, id);
        match expected {
            Expected::Sequence(last) => {
                headers.insert(NATS_EXPECTED_LAST_SEQUENCE, last.to_string());
            }
            Expected::Message(last) => headers.insert(NATS_EXPECTED_LAST_MESSAGE_ID, last),
        }
        if let Some(task) = event.task {
            headers.insert(TASK_HEADER, task.to_string().as_str());
        }
        let subject = subject.text(core.root());
        Outgoing { subject, headers, payload }
    };
    known.into_iter().zip(messages).map(message).collect()
}

/// Publishes a batch. Only the last one asks for an acknowledgement, unless each must be acknowledged: where each says
/// which message is before it, all are there when the last is, and an acknowledgement costs more than the event.
async fn send(
    context: &jetstream::Context,
    messages: Vec<Outgoing>,
    acknowledges_each: bool,
) -> Result<Sent, String> {
    let client = context.client();
    let silent = if acknowledges_each { 0 } else { messages.len().saturating_sub(1) };
    let mut acknowledgements = Vec::with_capacity(messages.len() - silent);
    for (number, message) in messages.into_iter().enumerate() {
        if number < silent {
            let Outgoing { subject, headers, payload } = message;
            let sent = client.publish_with_headers(subject, headers, payload).await;
            sent.map_err(|error| error.to_string())?;
        } else {
            acknowledgements.push(ask(context, message).await?);
        }
    }
    let mut last = Sent::Last { sequence: 0, duplicate: false };
    for acknowledgement in acknowledgements {
        last = match acknowledgement.await {
            Ok(ack) => Sent::Last { sequence: ack.sequence, duplicate: ack.duplicate },
            Err(error) => match error.kind() {
                PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId => {
                    return Ok(Sent::Refused);
                }
                _ => return Err(error.to_string()),
            },
        };
    }
    Ok(last)
}

/// Publishes an event, and gives what its acknowledgement comes by.
async fn ask(context: &jetstream::Context, message: Outgoing) -> Result<PublishAckFuture, String> {
    let Outgoing { subject, headers, payload } = message;
    let sent = context.publish_with_headers(subject, headers, payload).await;
    sent.map_err(|error| error.to_string())
}
