//! A model of JetStream: the stream that orders everything, the lease, who is there, the bucket of snapshots, and the
//! stream of events.
//!
//! It has the semantics that Longshore relies on and the surprises that real servers have: an append whose
//! acknowledgement is lost, the same message once more, a refusal without a cause, no answer while the servers
//! elect, a server that knows too little, a stream that is full, has lost its end, or is gone.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use longshore_core::cluster::persist::read_meta;
use longshore_core::cluster::state::Meta;
use longshore_core::leadership::log::Info;
use longshore_core::leadership::mend::{Head, Listed};
use longshore_core::leadership::publish::{End, Expected, Place};
use longshore_proto::event::Event;
use longshore_proto::id::ManagerId;
use longshore_proto::name::UserName;
use uuid::Uuid;

use crate::servers::Stream;
use crate::time::{Micros, SECOND};

/// The name of the log's stream.
pub const LOG: &str = "log";
/// For how long a message id is remembered.
const DUPLICATE_WINDOW: Micros = 120 * SECOND;
/// For how long the key of a manager's name is kept.
pub const NAME_TTL: Micros = 10 * SECOND;
/// The most messages of one answer to a reader.
const BATCH: usize = 64;

/// A message's bytes.
pub type Bytes = Rc<[u8]>;

/// What stands in the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The run of the process that holds it.
    pub manager: ManagerId,
    /// Its store.
    pub store: Uuid,
}

/// The state at one index, as a file in the bucket.
#[derive(Clone)]
pub struct Snapshot {
    /// What it is of.
    pub head: Head,
    /// The state by key.
    pub state: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The history up to it.
    pub history: BTreeMap<Place, Rc<Event>>,
}

/// An event as it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventMessage {
    /// The message id.
    pub id: String,
    /// The event's place in the history.
    pub place: Place,
    /// What must be the last before it; nothing where anything may be.
    pub expected: Option<Expected>,
}

impl Snapshot {
    /// What stands once in the state.
    pub fn meta(&self) -> Option<Meta> {
        read_meta(self.state.get(b"meta".as_slice())?).ok()
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot of {} at {}", self.head.index, self.head.stream_sequence)
    }
}

/// A question to JetStream.
#[derive(Debug, Clone)]
pub enum Request {
    /// When the log was made, and where it begins and ends.
    LogInfo,
    /// Make the log, unless it is there.
    LogMake,
    /// Append to the log.
    Append {
        /// The sequence that must be the last.
        expected: u64,
        /// The message id.
        id: u64,
        /// The record.
        payload: Bytes,
    },
    /// The message at a sequence.
    Get(u64),
    /// The last message.
    Last,
    /// Messages from a sequence on.
    Read(u64),
    /// Remove the messages before a sequence.
    Trim {
        /// The first that stays.
        before: u64,
    },
    /// Which snapshots are in the bucket.
    BucketList,
    /// The newest snapshot.
    BucketGet,
    /// Remove these snapshots and store another one; where none is named, that heals the log, and all but the newest go.
    BucketPut(Rc<Snapshot>, Option<Vec<Listed>>),
    /// Remove every snapshot but those like this one.
    BucketKeepOnly(Listed),
    /// Where the event stream ends.
    EventsEnd,
    /// Publish events; the last of them is acknowledged.
    Publish(Vec<EventMessage>),
    /// Who uses a name.
    NameLook(UserName),
    /// Say who uses a name.
    NameWrite {
        /// The name.
        name: UserName,
        /// The sequence that must be the last of its subject.
        expected: u64,
        /// The data directory; nothing gives the name up.
        store: Option<Uuid>,
        /// How long that is kept.
        ttl: Micros,
    },
    /// Who is there.
    Members,
    /// Who holds the lease.
    LeaseLook,
    /// Take, renew or give up the lease.
    LeaseWrite {
        /// The sequence that must be the last of its subject.
        expected: u64,
        /// How long it lives; nothing means for ever.
        ttl: Option<Micros>,
        /// Who; nothing gives it up.
        holder: Option<Holder>,
    },
}

impl Request {
    /// Which stream it is about.
    pub fn stream(&self) -> Stream {
        match self {
            Self::LogInfo
            | Self::LogMake
            | Self::Append { .. }
            | Self::Get(_)
            | Self::Last
            | Self::Read(_)
            | Self::Trim { .. } => Stream::Log,
            Self::BucketList | Self::BucketGet | Self::BucketPut(..) | Self::BucketKeepOnly(_) => {
                Stream::Snapshots
            }
            Self::EventsEnd | Self::Publish(_) => Stream::Events,
            Self::NameLook(_)
            | Self::NameWrite { .. }
            | Self::Members
            | Self::LeaseLook
            | Self::LeaseWrite { .. } => Stream::Lease,
        }
    }

    /// Whether it only asks what is in the log.
    pub fn reads_log(&self) -> bool {
        matches!(self, Self::LogInfo | Self::Get(_) | Self::Last | Self::Read(_))
    }
}

/// JetStream's answer.
#[derive(Debug, Clone)]
pub enum Response {
    /// To [`Request::LogInfo`] and [`Request::LogMake`]; nothing, where there is no such stream.
    Info(Option<Info>),
    /// The message was stored.
    Stored {
        /// Where.
        sequence: u64,
        /// Whether it was stored before.
        duplicate: bool,
    },
    /// Another sequence is the last.
    WrongLast,
    /// The servers cannot answer just now, or the stream is full or gone.
    Refused,
    /// To [`Request::Get`].
    Message(Option<Bytes>),
    /// To [`Request::Last`].
    Last(Option<Bytes>),
    /// To [`Request::Read`]: messages with their sequences.
    Messages(Vec<(u64, Bytes)>),
    /// It is done.
    Done,
    /// To [`Request::BucketList`]: the newest first.
    Bucket(Vec<Listed>),
    /// To [`Request::EventsEnd`].
    EventsEnd(End),
    /// To [`Request::BucketGet`].
    Snapshot(Option<Rc<Snapshot>>),
    /// To [`Request::NameLook`].
    Name {
        /// The last sequence of its subject.
        sequence: u64,
        /// The data directory.
        store: Option<Uuid>,
    },
    /// To [`Request::Members`].
    Members(Vec<UserName>),
    /// To [`Request::LeaseLook`].
    Lease {
        /// The last sequence of its subject.
        sequence: u64,
        /// Who holds it.
        holder: Option<Holder>,
    },
}

/// What is written under a name.
#[derive(Debug)]
struct NameKey {
    sequence: u64,
    store: Option<Uuid>,
    ends: Micros,
}

#[derive(Debug)]
struct Lease {
    sequence: u64,
    holder: Option<Holder>,
    ends: Option<Micros>,
}

/// The stream of the log.
#[derive(Debug, Default)]
struct Log {
    created: u64,
    /// The sequence of the first message, or of the next one if there is none.
    first: u64,
    messages: VecDeque<Bytes>,
    ids: BTreeMap<u64, (u64, Micros)>,
    /// Where it began before it was last trimmed, and where it ended then.
    trimmed: (u64, u64),
}

impl Log {
    fn last(&self) -> u64 {
        self.first + self.messages.len() as u64 - 1
    }

    fn get(&self, sequence: u64) -> Option<&Bytes> {
        let at = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        self.messages.get(at)
    }

    /// A message, as far as a server has it that knows so much.
    fn get_known(&self, sequence: u64, knows: u64) -> Option<Bytes> {
        self.get(sequence).filter(|_| sequence <= knows).map(Rc::clone)
    }

    fn info(&self, knows: u64) -> Info {
        let (before, last) = self.trimmed;
        // Who does not know of a message does not know either that it, or what was before it, was removed since.
        let first = if knows < last { before } else { self.first };
        Info { created: self.created.to_string(), first, last: knows.min(self.last()) }
    }
}

/// The stream of events.
#[derive(Debug, Default)]
struct Events {
    messages: Vec<EventMessage>,
    ids: BTreeMap<String, (u64, Micros)>,
    /// What was stored since somebody last asked.
    fresh: Vec<EventMessage>,
}

impl Events {
    fn end(&self) -> End {
        let last = self.messages.last();
        let event = last.map(|message| (message.place, Some(message.id.clone())));
        End { sequence: self.messages.len() as u64, event, is_replicated: false }
    }

    fn ends_with(&self, expected: Option<&Expected>) -> bool {
        match expected {
            Some(Expected::Sequence(last)) => *last == self.messages.len() as u64,
            Some(Expected::Message(id)) => {
                self.messages.last().is_some_and(|message| message.id == *id)
            }
            None => true,
        }
    }

    fn publish(&mut self, messages: Vec<EventMessage>, now: Micros) -> Response {
        self.ids.retain(|_, (_, at)| *at + DUPLICATE_WINDOW > now);
        let mut response = Response::Refused;
        for message in messages {
            let last = self.messages.len() as u64;
            response = match self.ids.get(&message.id) {
                Some((sequence, _)) => Response::Stored { sequence: *sequence, duplicate: true },
                None if !self.ends_with(message.expected.as_ref()) => Response::WrongLast,
                None => {
                    self.ids.insert(message.id.clone(), (last + 1, now));
                    self.fresh.push(message.clone());
                    self.messages.push(message);
                    Response::Stored { sequence: last + 1, duplicate: false }
                }
            };
        }
        response
    }
}

/// The servers.
#[derive(Debug, Default)]
pub struct JetStream {
    log: Option<Log>,
    logs_made: u64,
    lease: Option<Lease>,
    lease_sequence: u64,
    names: BTreeMap<UserName, NameKey>,
    names_written: u64,
    bucket: Vec<Rc<Snapshot>>,
    events: Events,
    /// Whether the log takes nothing more.
    pub is_full: bool,
    /// Refuse the next append although its expectation is right, as servers under load do.
    pub refuse_next: bool,
    /// Tell everybody that the lease is free, or theirs: for the proof that the log alone is the fence.
    pub lease_lies: bool,
    /// Answer the next question about the log from what a server knew a while ago: up to this sequence.
    pub knows: Option<u64>,
    /// How often the log was trimmed.
    pub trims: u64,
}

impl JetStream {
    /// The sequence of the log's last message; 0 where there is none.
    pub fn last(&self) -> u64 {
        self.log.as_ref().map_or(0, Log::last)
    }

    /// The message at a sequence.
    pub fn message(&self, sequence: u64) -> Option<Bytes> {
        self.log.as_ref()?.get(sequence).map(Rc::clone)
    }

    /// The servers lose the newest messages: their disks were not synced.
    pub fn lose_tail(&mut self, lost: usize) {
        let Some(log) = &mut self.log else { return };
        let left = log.messages.len().saturating_sub(lost);
        log.messages.truncate(left);
        let last = log.last();
        log.trimmed.1 = log.trimmed.1.min(last);
        log.ids.retain(|_, (sequence, _)| *sequence <= last);
    }

    /// Somebody deletes the log, and restores it whole: it says another time at which it was made. Nobody does that to one in
    /// which nothing ever was: whoever has made that refuses, because it may be what is left of a cluster.
    pub fn make_log_anew(&mut self) {
        if let Some(log) = self.log.as_mut().filter(|log| log.last() > 0) {
            self.logs_made += 1;
            log.created = self.logs_made;
        }
    }

    /// The servers lose everything.
    pub fn lose_all(&mut self) {
        (self.log, self.bucket, self.events) = (None, Vec::new(), Events::default());
    }

    /// The server loses the newest events, which it does not sync one by one.
    pub fn lose_events(&mut self, lost: usize) {
        let left = self.events.messages.len().saturating_sub(lost);
        self.events.messages.truncate(left);
        self.events.ids.retain(|_, (sequence, _)| *sequence <= left as u64);
    }

    /// The message ids of the events that the stream holds.
    pub fn events(&self) -> impl Iterator<Item = &str> {
        self.events.messages.iter().map(|message| message.id.as_str())
    }

    /// The events that were stored since this was last asked for.
    pub fn fresh_events(&mut self) -> Vec<EventMessage> {
        std::mem::take(&mut self.events.fresh)
    }

    /// Whether the lease stands without a limit of life.
    pub fn lease_is_endless(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.holder.is_some() && lease.ends.is_none())
    }

    /// Answers a question.
    pub fn answer(&mut self, request: Request, now: Micros) -> Response {
        self.expire(now);
        let last = self.last();
        let knows = self.knows.take().map_or(last, |knows| knows.min(last));
        match request {
            Request::LogInfo => Response::Info(self.log.as_ref().map(|log| log.info(knows))),
            Request::LogMake => {
                let log = self.log.get_or_insert_with(|| {
                    self.logs_made += 1;
                    Log { created: self.logs_made, first: 1, ..Log::default() }
                });
                Response::Info(Some(log.info(u64::MAX)))
            }
            Request::Append { expected, id, payload } => self.append(expected, id, payload, now),
            Request::Get(sequence) => match &self.log {
                Some(log) => Response::Message(log.get_known(sequence, knows)),
                None => Response::Refused,
            },
            Request::Last => {
                Response::Last(self.log.as_ref().and_then(|log| log.get_known(knows, knows)))
            }
            Request::Read(from) => match &self.log {
                Some(log) => {
                    let from = from.max(log.first);
                    let skipped = usize::try_from(from - log.first).unwrap_or(usize::MAX);
                    let known = usize::try_from((knows + 1).saturating_sub(from)).unwrap_or(BATCH);
                    let messages = log.messages.iter().skip(skipped).take(BATCH.min(known));
                    Response::Messages((from..).zip(messages.map(Rc::clone)).collect())
                }
                None => Response::Refused,
            },
            Request::Trim { before } => {
                let Some(log) = &mut self.log else { return Response::Refused };
                log.trimmed = (log.first, log.last());
                while log.first < before && log.messages.pop_front().is_some() {
                    log.first += 1;
                }
                self.trims += 1;
                Response::Done
            }
            Request::BucketList => Response::Bucket(self.listed()),
            Request::BucketGet => {
                let newest = self.bucket.iter().max_by(|one, other| {
                    Listed::from(&one.head).compare(&Listed::from(&other.head))
                });
                Response::Snapshot(newest.map(Rc::clone))
            }
            Request::BucketPut(snapshot, removed) => {
                let mut removed =
                    removed.unwrap_or_else(|| self.listed().into_iter().skip(1).collect());
                // One that was stored before has the same name.
                removed.push((&snapshot.head).into());
                self.bucket.retain(|there| !removed.contains(&(&there.head).into()));
                self.bucket.push(snapshot);
                Response::Done
            }
            Request::BucketKeepOnly(kept) => {
                self.bucket.retain(|snapshot| Listed::from(&snapshot.head) == kept);
                Response::Done
            }
            Request::EventsEnd => Response::EventsEnd(self.events.end()),
            Request::Publish(messages) => self.events.publish(messages, now),
            Request::NameLook(name) => {
                let key = self.names.get(&name);
                Response::Name {
                    sequence: key.map_or(0, |key| key.sequence),
                    store: key.and_then(|key| key.store),
                }
            }
            Request::NameWrite { name, expected, store, ttl } => {
                if self.names.get(&name).map_or(0, |key| key.sequence) != expected {
                    return Response::WrongLast;
                }
                self.names_written += 1;
                let key = NameKey { sequence: self.names_written, store, ends: now + ttl };
                self.names.insert(name, key);
                Response::Stored { sequence: self.names_written, duplicate: false }
            }
            Request::Members => Response::Members(self.names.keys().cloned().collect()),
            Request::LeaseLook => {
                let holder = self.lease.as_ref().and_then(|lease| lease.holder.clone());
                let holder = holder.filter(|_| !self.lease_lies);
                Response::Lease { sequence: self.lease_last(), holder }
            }
            Request::LeaseWrite { expected, ttl, holder } => {
                if expected != self.lease_last() && !self.lease_lies {
                    return Response::WrongLast;
                }
                self.lease_sequence += 1;
                let ends = ttl.map(|ttl| now + ttl);
                self.lease = Some(Lease { sequence: self.lease_sequence, holder, ends });
                Response::Stored { sequence: self.lease_sequence, duplicate: false }
            }
        }
    }

    fn listed(&self) -> Vec<Listed> {
        let mut listed: Vec<Listed> =
            self.bucket.iter().map(|snapshot| (&snapshot.head).into()).collect();
        listed.sort_unstable_by(|one, other| other.compare(one));
        listed
    }

    fn append(&mut self, expected: u64, id: u64, payload: Bytes, now: Micros) -> Response {
        let Some(log) = &mut self.log else { return Response::Refused };
        log.ids.retain(|_, (_, at)| *at + DUPLICATE_WINDOW > now);
        if let Some((sequence, _)) = log.ids.get(&id) {
            return Response::Stored { sequence: *sequence, duplicate: true };
        }
        if self.is_full {
            return Response::Refused;
        }
        if expected != log.last() || std::mem::take(&mut self.refuse_next) {
            return Response::WrongLast;
        }
        log.messages.push_back(payload);
        let sequence = log.last();
        log.ids.insert(id, (sequence, now));
        Response::Stored { sequence, duplicate: false }
    }

    /// The last sequence of the lease's subject: nothing stands there once its message has ended.
    fn lease_last(&self) -> u64 {
        self.lease.as_ref().map_or(0, |lease| lease.sequence)
    }

    fn expire(&mut self, now: Micros) {
        if self.lease.as_ref().and_then(|lease| lease.ends).is_some_and(|ends| ends <= now) {
            self.lease = None;
        }
        self.names.retain(|_, key| key.ends > now);
    }
}
