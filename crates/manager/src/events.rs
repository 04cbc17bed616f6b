//! History to the event stream: in order, from where the stream ends, whatever happened before.
//!
//! The history in the store is the truth and the stream can be rebuilt from it, so nothing is lost between a
//! commit and its publication: a new leader reads the last event in the stream and goes on from there. So does one
//! whose connection broke, for a server that died may have lost the last events that it had acknowledged: this stream
//! is not synced for each of them. Where the cluster has gone on from a past that others had left, as a restored backup
//! does, the stream may hold events of that past with the same indexes: message ids tell them apart.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::stream::RawMessageErrorKind;
use bytes::Bytes;
use longshore_bus::Bus;
use longshore_proto::api::ListEvents;
use longshore_proto::codec;
use longshore_proto::event::Event;
use longshore_proto::id::{ClusterId, ManagerId};
use longshore_proto::subject::{Pattern, event_stream};
use longshore_proto::{PROTOCOL_VERSION, TASK_HEADER, VERSION_HEADER};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::store::Store;

/// How many events are on their way at once.
const BATCH: u32 = 256;
/// The wait before another try when the stream does not take them.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// A place in history.
type Place = (u64, u32);

/// What the ids of a cluster's events are made from.
#[derive(Debug)]
pub(crate) struct Names {
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// Where it has gone on from a past that others had left: the index of the first record then, and the manager that
    /// wrote it; the first time first.
    pub(crate) restorations: Vec<(u64, ManagerId)>,
}

impl Names {
    /// The restoration that an index comes after.
    fn restoration(&self, index: u64) -> Option<(u64, ManagerId)> {
        self.restorations.iter().copied().rfind(|(first, _)| *first <= index)
    }

    /// The message id of the event in a place: the same whoever publishes it, and another one than that of an event in the
    /// same place of a past that was left.
    fn id(&self, (index, ordinal): Place) -> String {
        let cluster = self.cluster;
        match self.restoration(index) {
            Some((_, manager)) => format!("{cluster}-{manager}-{index}-{ordinal}"),
            None => format!("{cluster}-{index}-{ordinal}"),
        }
    }

    /// After which place to go on, where the stream ends with an event in some place under some id. Where that is one of a
    /// past that was left, nothing of what came since is known to be there.
    fn after(&self, end: Place, id: Option<&str>) -> Place {
        match self.restoration(end.0) {
            Some((first, _)) if id != Some(self.id(end).as_str()) => {
                (first.saturating_sub(1), u32::MAX)
            }
            _ => end,
        }
    }
}

/// Where the stream ends.
#[derive(Debug, Default)]
struct End {
    /// The place to go on after; `None` while it has no event.
    at: Option<Place>,
    /// The sequence of its last message.
    sequence: u64,
}

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
    // Where the stream ends must be looked up: at first, and whenever the server may be another one.
    let (mut at, mut is_lost, mut has_looked) = (None, true, false);
    let mut sequence = 0;
    let oldest_ms = now_ms.saturating_sub(u64::try_from(age_max.as_millis()).unwrap_or(u64::MAX));
    loop {
        if is_lost || connections.has_changed().unwrap_or(false) {
            connections.mark_unchanged();
            is_lost = true;
            match end_of_stream(&context, &core, &names).await {
                // Behind what is known to be told, something may be missing even if the stream goes further: a broken
                // connection loses the middle of a batch. What is told twice is one message to the stream.
                Ok(end) => {
                    at = if has_looked { at.min(end.at) } else { end.at };
                    sequence = end.sequence;
                    (is_lost, has_looked) = (false, true);
                }
                Err(error) => {
                    debug!(%error, "the event stream cannot be read yet");
                    tokio::time::sleep(RETRY_DELAY).await;
                    continue;
                }
            }
        }
        committed.mark_unchanged();
        let reader = Arc::clone(&store);
        let list = ListEvents { after: at, limit: Some(BATCH), ..ListEvents::default() };
        let page = tokio::task::spawn_blocking(move || reader.events(None, &list)).await;
        let (events, more) = match page {
            Ok(Ok(page)) => page,
            Ok(Err(error)) => {
                warn!(%error, "the history cannot be read; events are not published");
                tokio::time::sleep(RETRY_DELAY).await;
                continue;
            }
            Err(_) => return,
        };
        if let Some(last) = events.last().map(|event| (event.index, event.ordinal)) {
            let due = events.iter().filter(|event| event.at_ms >= oldest_ms);
            let messages = messages(&core, &names, due);
            match send(&context, messages, sequence).await {
                Ok(end) => sequence = end,
                Err(error) => {
                    warn!(%error, "the event stream does not take events; trying again until it does");
                    tokio::time::sleep(RETRY_DELAY).await;
                    continue;
                }
            }
            at = Some(last);
        }
        if !more {
            tokio::select! {
                changed = committed.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                Ok(()) = connections.changed() => is_lost = true,
            }
        }
    }
}

/// Where the stream ends.
async fn end_of_stream(
    context: &jetstream::Context,
    core: &Bus,
    names: &Names,
) -> Result<End, String> {
    let stream =
        context.get_stream(event_stream(core.root())).await.map_err(|error| error.to_string())?;
    let subject = Pattern::Events.text(core.root());
    match stream.get_last_raw_message_by_subject(&subject).await {
        Ok(message) => {
            let event: Option<Event> = codec::decode(&message.payload).ok();
            let id = message.headers.get(NATS_MESSAGE_ID).map(|id| id.as_str());
            let at = event.map(|event| names.after((event.index, event.ordinal), id));
            Ok(End { at, sequence: message.sequence })
        }
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(End::default()),
        Err(error) => Err(error.to_string()),
    }
}

/// An event on its way to the stream.
#[derive(Debug, Clone)]
struct Outgoing {
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
}

fn messages<'a>(
    core: &Bus,
    names: &Names,
    events: impl Iterator<Item = &'a Event>,
) -> Vec<Outgoing> {
    let message = |event: &Event| {
        let subject = event.subject()?.text(core.root());
        let mut headers = HeaderMap::new();
        headers.insert(VERSION_HEADER, PROTOCOL_VERSION.to_string().as_str());
        headers.insert(NATS_MESSAGE_ID, names.id((event.index, event.ordinal)));
        if let Some(task) = event.task {
            headers.insert(TASK_HEADER, task.to_string().as_str());
        }
        Some(Outgoing { subject, headers, payload: codec::encode(event).into() })
    };
    events.filter_map(message).collect()
}

/// Publishes events after the message of a sequence, and gives the sequence of the last one.
///
/// Only the last one asks for an acknowledgement: its sequence tells whether all before it were stored, and an
/// acknowledgement of each costs more than the event. Where the sequence is another one, because some were lost, were
/// there already, or somebody else wrote as well, each is published again and must be acknowledged; the server stores
/// it once.
async fn send(
    context: &jetstream::Context,
    messages: Vec<Outgoing>,
    sequence: u64,
) -> Result<u64, String> {
    let expected = sequence + messages.len() as u64;
    let Some((last, others)) = messages.split_last() else { return Ok(sequence) };
    let client = context.client();
    for Outgoing { subject, headers, payload } in others.iter().cloned() {
        let sent = client.publish_with_headers(subject, headers, payload).await;
        sent.map_err(|error| error.to_string())?;
    }
    let acknowledged =
        ask(context, last.clone()).await?.await.map_err(|error| error.to_string())?;
    if acknowledged.sequence == expected && !acknowledged.duplicate {
        return Ok(expected);
    }
    let (mut acknowledgements, mut end) = (Vec::new(), sequence);
    for message in messages {
        acknowledgements.push(ask(context, message).await?);
    }
    for acknowledgement in acknowledgements {
        let acknowledged = acknowledgement.await.map_err(|error| error.to_string())?;
        end = end.max(acknowledged.sequence);
    }
    Ok(end)
}

/// Publishes an event, and gives what its acknowledgement comes by.
async fn ask(context: &jetstream::Context, message: Outgoing) -> Result<PublishAckFuture, String> {
    let Outgoing { subject, headers, payload } = message;
    let sent = context.publish_with_headers(subject, headers, payload).await;
    sent.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn names(restorations: &[(u64, u128)]) -> Names {
        let restorations = restorations.iter();
        Names {
            cluster: ClusterId(Uuid::from_u128(1)),
            restorations: restorations
                .map(|(first, manager)| (*first, ManagerId(Uuid::from_u128(*manager))))
                .collect(),
        }
    }

    #[test]
    fn ids_tell_pasts_apart_and_nothing_else() {
        let (never, once, twice) = (names(&[]), names(&[(101, 7)]), names(&[(101, 7), (201, 8)]));
        assert_eq!(never.id((5, 2)), "00000000-0000-0000-0000-000000000001-5-2");
        assert_eq!(once.id((100, 0)), never.id((100, 0)), "what all pasts have in common");
        assert_ne!(once.id((101, 0)), never.id((101, 0)));
        assert_eq!(twice.id((200, 0)), once.id((200, 0)), "whoever publishes it, and when");
        assert_ne!(twice.id((201, 0)), once.id((201, 0)));
        assert_ne!(
            names(&[(101, 9)]).id((150, 0)),
            once.id((150, 0)),
            "one backup, restored twice"
        );
    }

    #[test]
    fn events_go_on_where_the_past_was_left_whatever_the_stream_holds_of_it() {
        let (never, once, twice) = (names(&[]), names(&[(101, 7)]), names(&[(101, 7), (201, 8)]));
        let after = |names: &Names, end, told: &Names| names.after(end, Some(&told.id(end)));
        assert_eq!(after(&never, (150, 3), &never), (150, 3));
        assert_eq!(never.after((150, 3), None), (150, 3));
        assert_eq!(after(&once, (90, 3), &never), (90, 3), "of the past that all have in common");
        assert_eq!(after(&once, (150, 3), &never), (100, u32::MAX), "of the past that was left");
        assert_eq!(once.after((150, 3), None), (100, u32::MAX));
        assert_eq!(after(&once, (150, 3), &once), (150, 3));
        assert_eq!(after(&twice, (150, 3), &once), (150, 3));
        assert_eq!(after(&twice, (250, 3), &once), (200, u32::MAX));
        assert_eq!(after(&twice, (150, 3), &never), (100, u32::MAX));
    }
}
