//! A record in the making: facts are applied to memory as they are decided, so that decisions of one record
//! see each other; nothing leaves before the record is committed.

use longshore_proto::codec;
use longshore_proto::event::Event;
use longshore_proto::id::Revision;

use super::changes::Changes;
use super::effect::{Effect, Proposal, Reply, Step};
use super::input::Ticket;
use super::record::{Fact, Hash, RECORD_BYTES_MAX, RECORD_FORMAT, Record};
use super::state::State;
use super::{Identity, publish};
use crate::mint::Minter;
use crate::time::Now;

/// Facts beyond this many bytes wait for the next record. What one more input is decided to be may go beyond it, by a
/// job of 64 KiB or by the nodes and labels of one command, some 200 KiB: the log takes messages of 512 KiB.
const FULL_BYTES: usize = RECORD_BYTES_MAX - (96 << 10);

/// What requests and signs of life may take of a record, in bytes. The shares fill it together, so that none keeps the others waiting; and
/// where nobody asks for much, as while many tasks start, records are short, so that who asks does not wait long for
/// the one under way.
pub(super) const PROMPT_BYTES: usize = FULL_BYTES - REPORT_BYTES - 2 * PASS_BYTES;
/// What reports may take of a record, in bytes.
pub(super) const REPORT_BYTES: usize = 32 << 10;
/// What is due by itself may take of a record, in bytes: first whatever is, and then once more tasks that wait for a
/// node.
pub(super) const PASS_BYTES: usize = 16 << 10;

/// While somebody asks, reports and what is due by itself have this part of their shares; and where the requests have more
/// than that, as much as those. Whoever asks for little does not wait for records full of what others have to say, and
/// whoever asks for much keeps nobody waiting.
pub(super) const BESIDE_PARTS: usize = 5;

/// How long after a request that lasts, in milliseconds: whoever asks now and then meets the record that is under way when
/// the next request comes, and waits for that one, too.
pub(super) const ASKED_MS: u64 = 1_000;

/// A record in the making.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) state: &'a mut State,
    pub(super) now: Now,
    pub(super) minter: Minter,
    pub(super) revision: Revision,
    pub(super) changes: Changes,
    at_ms: u64,
    bytes: usize,
    /// What the present share ends at, in bytes.
    share_end: usize,
    facts: Vec<Fact>,
    events: Vec<Event>,
    effects: Vec<Effect>,
    /// Whether a record is wanted even if nothing happened.
    barrier: bool,
}

impl<'a> Draft<'a> {
    pub(super) fn new(state: &'a mut State, epoch: u64, now: Now, seed: [u8; 16]) -> Self {
        let at_ms = now.wall_ms.max(state.meta.at_ms);
        let revision = state.next_revision(epoch);
        Self {
            state,
            now,
            minter: Minter::new(seed, at_ms),
            revision,
            changes: Changes::default(),
            at_ms,
            bytes: 0,
            share_end: FULL_BYTES,
            facts: Vec::new(),
            events: Vec::new(),
            effects: Vec::new(),
            barrier: false,
        }
    }

    /// The record's time.
    pub(super) fn at_ms(&self) -> u64 {
        self.at_ms
    }

    /// Begins a share of the record, of so many bytes.
    pub(super) fn begin_share(&mut self, bytes: usize) {
        self.share_end = FULL_BYTES.min(self.bytes + bytes);
    }

    /// Begins a share beside what was decided on requests; see [`BESIDE_PARTS`].
    pub(super) fn begin_share_beside(&mut self, requests: usize, is_asked: bool, bytes: usize) {
        let beside = if is_asked { requests.max(bytes / BESIDE_PARTS) } else { bytes };
        self.begin_share(bytes.min(beside));
    }

    /// How many bytes the facts have that are decided.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the share of the record, or all of it, has no room for another decision.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.share_end
    }

    /// Whether nothing has been decided yet.
    pub(super) fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// Whether facts of so many bytes fit, with room for what surrounds them.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes <= RECORD_BYTES_MAX - (8 << 10)
    }

    /// Decides a fact.
    pub(super) fn record(&mut self, fact: Fact) {
        self.bytes += codec::encoded_bytes(&fact);
        self.state.apply(&fact, self.revision, self.at_ms, &mut self.changes);
        let ordinal = u32::try_from(self.facts.len()).unwrap_or(u32::MAX);
        self.events.extend(publish::event(
            self.state,
            &fact,
            self.revision.index,
            ordinal,
            self.at_ms,
        ));
        self.facts.push(fact);
    }

    /// Wants something done, once the record is committed.
    pub(super) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Wants an answer once a record is committed, be it an empty one: only who leads can do that.
    pub(super) fn barrier(&mut self, ticket: Ticket) {
        self.barrier = true;
        self.effect(Effect::Answer { ticket, reply: Reply::Barrier });
    }

    /// Makes the answers of this step wait for a record, be it an empty one: they rest on what the state does
    /// *not* hold. A manager that was overtaken and does not know it yet would be wrong about that, and cannot
    /// commit anything.
    pub(super) fn confirm(&mut self) {
        self.barrier = true;
    }

    /// Closes the record.
    pub(super) fn finish(mut self, identity: &Identity) -> Step {
        if self.facts.is_empty() && !self.barrier {
            return Step::Answers(self.effects);
        }
        let record = Record {
            format: RECORD_FORMAT,
            index: self.revision.index,
            epoch: self.revision.epoch,
            manager: identity.manager,
            previous: self.state.meta.chain,
            at_ms: self.at_ms,
            facts: self.facts,
        };
        let bytes = record.encode();
        self.state.seal(record.index, Hash::of(&bytes), record.at_ms, &mut self.changes);
        self.effects.extend(super::assign::deltas(self.state, self.revision, &self.changes));
        Step::Record(Box::new(Proposal {
            index: record.index,
            bytes,
            changes: self.changes,
            events: self.events,
            effects: self.effects,
        }))
    }
}
