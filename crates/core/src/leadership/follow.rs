//! Following the log: which message is the next record, and which is skipped.
//!
//! What is no record, or not the next one, is skipped by all managers alike, counted, and raises an alarm. What
//! is skipped must stay a single stray message: a second record that continues a skipped one, or a message that
//! is missing, means that the log is not the one that the store was built from, and nothing goes on. Nor does
//! anything go on over a record that follows by its hash and cannot be read: a newer version has written it.

use longshore_proto::codec::DecodeError;
use longshore_proto::event::Event;

use super::log::Broken;
use crate::cluster::Cluster;
use crate::cluster::persist::{Write, write_meta};
use crate::cluster::record::{Hash, Place, RECORD_FORMAT, Record};

/// Applies messages of the log, in order.
#[derive(Debug, Default)]
pub struct Follower {
    /// The record that was skipped last: its index and hash.
    strange: Option<(u64, Hash)>,
}

/// What one message was.
#[derive(Debug)]
pub enum Followed {
    /// It was applied before.
    Known,
    /// The next record.
    Record {
        /// Its place.
        index: u64,
        /// What it changed.
        writes: Vec<Write>,
        /// Its events.
        events: Vec<Event>,
    },
    /// It is skipped: somebody else writes to the log.
    Skipped {
        /// What must be written all the same.
        write: Write,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a manager cannot go on over a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// The log is not the one that the store was built from.
    Broken(Broken),
    /// A record of a newer version.
    NewerFormat {
        /// Its format.
        found: u16,
    },
    /// A record that follows by its hash, and says what this version does not know.
    Unreadable {
        /// Its place.
        index: u64,
        /// What cannot be read.
        reason: DecodeError,
    },
}

impl Follower {
    /// Takes the message at a sequence.
    ///
    /// # Errors
    /// Nothing goes on from here, and nothing was changed.
    pub fn take(
        &mut self,
        cluster: &mut Cluster,
        sequence: u64,
        payload: &[u8],
    ) -> Result<Followed, Stopped> {
        let expected = cluster.state().meta.stream_sequence + 1;
        if sequence < expected {
            return Ok(Followed::Known);
        }
        if sequence > expected {
            return Err(Stopped::Broken(Broken::Gap { from: expected, to: sequence - 1 }));
        }
        match Record::decode(payload) {
            Ok(record) if record.format > RECORD_FORMAT => {
                Err(Stopped::NewerFormat { found: record.format })
            }
            Ok(record) => self.follow(cluster, &record, sequence, payload),
            // What follows the last record by its hash is the next one, and skipping it would be a lie.
            Err(reason) if is_next(cluster, payload) => {
                let index = cluster.state().meta.index + 1;
                Err(Stopped::Unreadable { index, reason })
            }
            Err(reason) => {
                let write = cluster.skip(sequence);
                Ok(Followed::Skipped { write, reason: format!("it is no record: {reason}") })
            }
        }
    }

    fn follow(
        &mut self,
        cluster: &mut Cluster,
        record: &Record,
        sequence: u64,
        payload: &[u8],
    ) -> Result<Followed, Stopped> {
        let continues = self
            .strange
            .is_some_and(|(index, hash)| record.index == index + 1 && record.previous == hash);
        if continues {
            return Err(Stopped::Broken(Broken::Contradicts { index: record.index }));
        }
        match cluster.follow(record, payload, sequence) {
            Ok((writes, events)) => {
                self.strange = None;
                Ok(Followed::Record { index: record.index, writes, events })
            }
            Err(reason) => {
                self.strange = Some((record.index, Hash::of(payload)));
                let reason = format!("it is not the next record: {reason}");
                Ok(Followed::Skipped { write: write_meta(&cluster.state().meta), reason })
            }
        }
    }
}

fn is_next(cluster: &Cluster, payload: &[u8]) -> bool {
    let meta = &cluster.state().meta;
    let next = Place { index: meta.index + 1, previous: meta.chain };
    Place::decode(payload).is_ok_and(|place| place == next)
}
