//! Everything that the manager's brain wants done, and the receipt without which nothing is.

use longshore_proto::error::ApiError;
use longshore_proto::event::Event;
use longshore_proto::name::NodeName;
use longshore_proto::node::{AssignDelta, Registered, ReportsCommitted};

use super::changes::Changes;
use super::input::Ticket;
use super::persist::{Write, writes};
use super::record::CommandAnswer;
use super::state::State;

/// Something to be done by the shell.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Answer a request.
    Answer {
        /// Which one.
        ticket: Ticket,
        /// With what.
        reply: Reply,
    },
    /// Tell a node what changed in its set. May be lost.
    Assign {
        /// Which node.
        node: NodeName,
        /// What changed.
        delta: AssignDelta,
    },
}

/// The answer to an input.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To a command.
    Command(Result<CommandAnswer, ApiError>),
    /// To a worker that wants to join.
    Registered(Result<Registered, ApiError>),
    /// To reports.
    Reports(Result<ReportsCommitted, ApiError>),
    /// To a barrier: it is passed.
    Barrier,
}

/// Proof that a record is in the log and in this manager's own store.
///
/// The shell makes one after both, and nowhere else. It cannot be copied, and [`Proposal::release`] takes it.
#[derive(Debug)]
pub struct Receipt {
    index: u64,
}

impl Receipt {
    /// To be called when the record of this index is in the log and in the store, synced.
    pub fn durable(index: u64) -> Self {
        Self { index }
    }
}

/// What became of some inputs.
#[derive(Debug)]
pub enum Step {
    /// Nothing to record: known answers, refusals that no record could change, hints. They may be acted on at
    /// once, because they hold even if another manager leads by now.
    Answers(Vec<Effect>),
    /// A record to commit; its effects are sealed until then.
    Record(Box<Proposal>),
}

/// A record that is not committed yet, with everything that follows from it.
#[derive(Debug)]
pub struct Proposal {
    pub(super) index: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) changes: Changes,
    pub(super) events: Vec<Event>,
    pub(super) effects: Vec<Effect>,
}

impl Proposal {
    /// The record's place in the log.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The record's bytes, to be appended to the log.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What must be written to the store, together with the record's bytes, in one batch.
    pub fn writes(&self, state: &State) -> Vec<Write> {
        writes(state, &self.changes)
    }

    /// The record's events, for the history; they are published from there, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Gives out the effects, against the receipt for this record.
    ///
    /// # Errors
    /// Gives the proposal back when the receipt is for another record: a bug in the shell.
    pub fn release(self, receipt: &Receipt) -> Result<Vec<Effect>, Box<Self>> {
        if receipt.index != self.index {
            return Err(Box::new(self));
        }
        Ok(self.effects)
    }
}
