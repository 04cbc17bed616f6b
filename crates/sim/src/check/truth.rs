//! What the checkers know in common: the log, folded once more, and every record that ever stood in it.

use std::collections::BTreeMap;

use longshore_core::cluster::changes::Changes;
use longshore_core::cluster::record::{Hash, Record};
use longshore_core::cluster::state::{Meta, State};
use longshore_core::cluster::{Cluster, Identity, Settings};
use longshore_core::leadership::log::check_followed;
use longshore_proto::event::Event;
use longshore_proto::id::ManagerId;

use super::{Violation, violated};
use crate::jetstream::Bytes;
use crate::time::Micros;

/// The log as it truly is.
///
/// A log that has lost its end holds less than is true: what was committed stays so, until somebody goes on without
/// it.
#[derive(Debug)]
pub struct Truth {
    /// The state after the last record, before the fact that is being looked at.
    pub state: State,
    /// Each record's hash, by index.
    pub chains: BTreeMap<u64, Hash>,
    /// The hash of what each record writes, by index.
    pub writes: BTreeMap<u64, Hash>,
    /// When each record was decided, by its hash.
    decided: BTreeMap<[u8; 8], Micros>,
    follower: Cluster,
    /// Every record that ever was committed, by its hash, and its sequence.
    records: BTreeMap<[u8; 8], (Bytes, u64)>,
    /// Records that stood in a log which has lost its end, and follow only what was lost: who had not noticed yet has read
    /// them, and may be chosen.
    strays: BTreeMap<[u8; 8], (Bytes, u64)>,
    /// What stands once in the state of whoever reads the log to its end.
    stands: Meta,
    /// The records that stand in the stream, by sequence.
    places: BTreeMap<u64, Meta>,
}

impl Default for Truth {
    fn default() -> Self {
        Self {
            state: State::default(),
            chains: BTreeMap::new(),
            writes: BTreeMap::new(),
            decided: BTreeMap::new(),
            follower: follower(State::default()),
            records: BTreeMap::new(),
            strays: BTreeMap::new(),
            stands: Meta::default(),
            places: BTreeMap::new(),
        }
    }
}

impl Truth {
    /// When a record was decided.
    pub fn decided_at(&self, chain: Hash, now: Micros) -> Micros {
        self.decided.get(&short(chain)).copied().unwrap_or(now)
    }

    /// A record was decided.
    pub(super) fn proposed(&mut self, chain: Hash, now: Micros) {
        self.decided.insert(short(chain), now);
    }

    /// Whether a record follows what stands in the log.
    pub(super) fn stands_before(&self, record: &Record) -> bool {
        let mut state = State::default();
        state.meta = self.stands.clone();
        state.check_next(record).is_ok()
    }

    /// Whether workers follow what the log has lost, as it says itself.
    pub fn is_behind_workers(&self) -> bool {
        check_followed(&self.state).is_err()
    }

    /// Whether a record with this hash ever was committed.
    pub fn has_held(&self, chain: Hash) -> bool {
        self.records.contains_key(&short(chain))
    }

    /// The hash of the record at a place, in what stands in the log now.
    pub fn in_log(&self, index: u64) -> Option<Hash> {
        let (mut at, mut chain) = (self.stands.index, self.stands.chain);
        if chain == self.state.meta.chain {
            return self.chains.get(&index).copied();
        }
        while at > index {
            let (payload, _) = self.records.get(&short(chain))?;
            (at, chain) = (at - 1, Record::decode(payload).ok()?.previous);
        }
        (at == index).then_some(chain)
    }

    /// The facts of a record were applied: it is done. Gives its events.
    pub(super) fn sealed(
        &mut self,
        record: &Record,
        payload: &Bytes,
        sequence: u64,
        changes: &mut Changes,
    ) -> Result<Vec<Event>, Violation> {
        let chain = Hash::of(payload);
        self.at(sequence);
        self.state.meta.record_sequence = sequence;
        self.state.seal(record.index, chain, record.at_ms, changes);
        self.chains.insert(record.index, chain);
        let (writes, events) = match self.follower.follow(record, payload, sequence) {
            Ok(followed) => followed,
            Err(reason) => return violated("I-22", format!("record {}: {reason}", record.index)),
        };
        self.writes.insert(record.index, crate::manager::hash_writes(&writes));
        self.records.insert(short(chain), (payload.clone(), sequence));
        self.stands = self.state.meta.clone();
        self.places.insert(sequence, self.stands.clone());
        Ok(events)
    }

    fn at(&mut self, sequence: u64) {
        self.state.meta.stream_sequence = sequence;
    }

    /// A record follows what the log has lost, and not what stands in it.
    pub(super) fn strayed(&mut self, payload: &Bytes, sequence: u64) {
        self.strays.insert(short(Hash::of(payload)), (payload.clone(), sequence));
        self.skipped(sequence);
    }

    /// A message is no record that follows: everybody skips it.
    pub(super) fn skipped(&mut self, sequence: u64) {
        self.at(sequence);
        self.state.meta.records_skipped += 1;
        self.follower.skip(sequence);
        self.stands.stream_sequence = sequence;
        self.stands.records_skipped += 1;
        self.places.insert(sequence, self.stands.clone());
    }

    /// The log has lost everything behind a sequence.
    pub(super) fn cut(&mut self, last: u64) {
        self.places.retain(|sequence, _| *sequence <= last);
        self.stands =
            self.places.last_key_value().map(|(_, meta)| meta.clone()).unwrap_or_default();
    }

    /// The records up to one, with their sequences, the first one first.
    pub(super) fn past(&self, tip: Hash) -> Result<Vec<(Bytes, u64)>, Violation> {
        let mut records = Vec::new();
        let mut chain = tip;
        while chain != Hash::default() {
            let known = self.records.get(&short(chain)).or_else(|| self.strays.get(&short(chain)));
            let Some((payload, sequence)) = known else {
                return violated("I-22", format!("record {chain} was never committed"));
            };
            records.push((payload.clone(), *sequence));
            let Ok(record) = Record::decode(payload) else { break };
            chain = record.previous;
        }
        records.reverse();
        Ok(records)
    }

    /// The records are told once more.
    pub(super) fn forget(&mut self) {
        self.state = State::default();
        self.follower = follower(State::default());
        self.chains.clear();
        self.writes.clear();
        self.places.clear();
    }

    /// They are told, up to what stands in the log: messages that were skipped among them count as before.
    pub(super) fn resume(&mut self, skipped: u64, sequence: u64) {
        self.state.meta.records_skipped = skipped;
        self.at(sequence);
        self.follower = follower(self.state.clone());
        self.stands = self.state.meta.clone();
        self.places.insert(sequence, self.stands.clone());
    }

    /// How many messages were skipped in what stands in the log, and where it ends.
    pub(super) fn standing(&self) -> (u64, u64) {
        (self.stands.records_skipped, self.stands.stream_sequence)
    }

    /// Whether what stands in the log has gone on from what stands once in a state: the record after it is younger than the
    /// place where it goes on. Else that record would be lost by going on there.
    pub(super) fn goes_on_from(&self, meta: &Meta) -> bool {
        let next =
            self.chains.get(&(meta.index + 1)).and_then(|next| self.records.get(&short(*next)));
        self.stands.index > meta.index
            && self.chains.get(&meta.index) == Some(&meta.chain)
            && next.is_some_and(|(_, sequence)| *sequence > meta.stream_sequence)
    }

    /// The log goes on behind the state of a manager, with this standing once in it.
    pub(super) fn healed(&mut self, meta: &Meta) -> Result<(), Violation> {
        if meta.index != self.state.meta.index || meta.chain != self.state.meta.chain {
            return violated(
                "I-3",
                format!("the log was healed with another record {}", meta.index),
            );
        }
        self.state.meta = meta.clone();
        self.follower = follower(self.state.clone());
        self.stands = meta.clone();
        self.places = BTreeMap::from([(meta.stream_sequence, meta.clone())]);
        Ok(())
    }
}

fn short(hash: Hash) -> [u8; 8] {
    let text = hash.to_string();
    let mut short = [0; 8];
    for (byte, digits) in short.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
    }
    short
}

fn follower(state: State) -> Cluster {
    let identity = Identity {
        manager: ManagerId(uuid::Uuid::nil()),
        #[expect(clippy::expect_used, reason = "a word is a legal name")]
        name: "truth".parse().expect("a legal name"),
        version: String::new(),
    };
    Cluster::new(identity, Settings::default(), state)
}
