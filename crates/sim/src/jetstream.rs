//! A model of JetStream: the stream that orders everything, and the lease.
//!
//! It has the semantics that Longshore relies on and the surprises that real servers have: an append whose
//! acknowledgement is lost, the same message once more, a refusal without a cause, no answer while the servers
//! elect, a stream that is full.

use std::collections::BTreeMap;
use std::rc::Rc;

use longshore_proto::id::ManagerId;
use uuid::Uuid;

use crate::time::{Micros, SECOND};

/// For how long a message id is remembered.
const DUPLICATE_WINDOW: Micros = 120 * SECOND;
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

/// A question to JetStream.
#[derive(Debug, Clone)]
pub enum Request {
    /// When the log was created, and its last sequence.
    LogInfo,
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
    /// Messages from a sequence on.
    Read(u64),
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

/// JetStream's answer.
#[derive(Debug, Clone)]
pub enum Response {
    /// To [`Request::LogInfo`].
    Info {
        /// When the stream was created.
        created: u64,
        /// Its last sequence.
        last: u64,
    },
    /// The message was stored.
    Stored {
        /// Where.
        sequence: u64,
        /// Whether it was stored before.
        duplicate: bool,
    },
    /// Another sequence is the last.
    WrongLast,
    /// The servers cannot answer just now, or the stream is full.
    Refused,
    /// To [`Request::Get`].
    Message(Option<Bytes>),
    /// To [`Request::Read`]: messages with their sequences.
    Messages(Vec<(u64, Bytes)>),
    /// To [`Request::LeaseLook`].
    Lease {
        /// The last sequence of its subject.
        sequence: u64,
        /// Who holds it.
        holder: Option<Holder>,
    },
}

#[derive(Debug)]
struct Lease {
    sequence: u64,
    holder: Option<Holder>,
    ends: Option<Micros>,
}

/// The servers.
#[derive(Debug)]
pub struct JetStream {
    created: u64,
    log: Vec<Bytes>,
    ids: BTreeMap<u64, (u64, Micros)>,
    lease: Option<Lease>,
    lease_sequence: u64,
    /// Whether the log takes nothing more.
    pub is_full: bool,
    /// Refuse the next append although its expectation is right, as servers under load do.
    pub refuse_next: bool,
    /// Tell everybody that the lease is free, or theirs: for the proof that the log alone is the fence.
    pub lease_lies: bool,
}

impl Default for JetStream {
    fn default() -> Self {
        Self {
            created: 1,
            log: Vec::new(),
            ids: BTreeMap::new(),
            lease: None,
            lease_sequence: 0,
            is_full: false,
            refuse_next: false,
            lease_lies: false,
        }
    }
}

impl JetStream {
    /// The log's messages, the first has sequence 1.
    pub fn log(&self) -> &[Bytes] {
        &self.log
    }

    /// The servers lose the newest messages: their disks were not synced. Gives how many.
    pub fn lose_tail(&mut self, lost: usize) -> usize {
        let left = self.log.len().saturating_sub(lost);
        let lost = self.log.len() - left;
        self.log.truncate(left);
        let last = left as u64;
        self.ids.retain(|_, (sequence, _)| *sequence <= last);
        lost
    }

    /// Whether the lease stands without a limit of life.
    pub fn lease_is_endless(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.holder.is_some() && lease.ends.is_none())
    }

    /// Answers a question.
    pub fn answer(&mut self, request: Request, now: Micros) -> Response {
        self.expire(now);
        match request {
            Request::LogInfo => {
                Response::Info { created: self.created, last: self.log.len() as u64 }
            }
            Request::Append { expected, id, payload } => self.append(expected, id, payload, now),
            Request::Get(sequence) => Response::Message(self.message(sequence)),
            Request::Read(from) => {
                let from = usize::try_from(from.saturating_sub(1)).unwrap_or(usize::MAX);
                let messages = self.log.iter().enumerate().skip(from).take(BATCH);
                Response::Messages(
                    messages.map(|(at, bytes)| (at as u64 + 1, Rc::clone(bytes))).collect(),
                )
            }
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

    fn append(&mut self, expected: u64, id: u64, payload: Bytes, now: Micros) -> Response {
        self.ids.retain(|_, (_, at)| *at + DUPLICATE_WINDOW > now);
        if let Some((sequence, _)) = self.ids.get(&id) {
            return Response::Stored { sequence: *sequence, duplicate: true };
        }
        if self.is_full {
            return Response::Refused;
        }
        if expected != self.log.len() as u64 || std::mem::take(&mut self.refuse_next) {
            return Response::WrongLast;
        }
        self.log.push(payload);
        let sequence = self.log.len() as u64;
        self.ids.insert(id, (sequence, now));
        Response::Stored { sequence, duplicate: false }
    }

    fn message(&self, sequence: u64) -> Option<Bytes> {
        let at = usize::try_from(sequence.checked_sub(1)?).ok()?;
        self.log.get(at).map(Rc::clone)
    }

    /// The last sequence of the lease's subject: nothing stands there once its message has ended.
    fn lease_last(&self) -> u64 {
        self.lease.as_ref().map_or(0, |lease| lease.sequence)
    }

    fn expire(&mut self, now: Micros) {
        if self.lease.as_ref().and_then(|lease| lease.ends).is_some_and(|ends| ends <= now) {
            self.lease = None;
        }
    }
}
