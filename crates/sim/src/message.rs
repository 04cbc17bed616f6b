//! Who there is, and what they say to each other over the bus.

use std::fmt;

use longshore_core::cluster::{Command, Reply};
use longshore_proto::error::ApiError;
use longshore_proto::id::CommandId;
use longshore_proto::node::{AssignDelta, Heartbeat, Register, Reports, Sync, SyncPage};

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// A manager.
    Manager(usize),
    /// A worker, and the machine that it runs on.
    Worker(usize),
    /// Somebody who submits and stops jobs.
    Client(usize),
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manager(number) => write!(f, "m{number}"),
            Self::Worker(number) => write!(f, "n{number}"),
            Self::Client(number) => write!(f, "c{number}"),
        }
    }
}

/// A request that wants an answer.
#[derive(Debug, Clone)]
pub enum Question {
    /// A worker wants to join.
    Register(Box<Register>),
    /// A worker wants a page of its set.
    Sync(Sync),
    /// A worker speaks of its tasks.
    Reports(Reports),
    /// A client wants something changed.
    Command {
        /// The id that a retry repeats.
        id: CommandId,
        /// What is asked.
        command: Command,
    },
}

/// An answer to a question.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Nobody listens.
    NoResponders,
    /// From the brain.
    Brain(Reply),
    /// A page of a set.
    Page(Result<SyncPage, ApiError>),
    /// The manager cannot decide anything just now.
    Unavailable,
}

/// A message on the bus.
#[derive(Debug, Clone)]
pub enum Message {
    /// A question. Every try has its own number, as each is answered on a subject of its own.
    Ask {
        /// Who asks.
        from: Process,
        /// The number of the try.
        number: u64,
        /// What is asked.
        question: Question,
    },
    /// A sign of life of a worker.
    Heartbeat {
        /// Which worker.
        from: usize,
        /// What it says.
        heartbeat: Box<Heartbeat>,
    },
    /// The leader tells a worker what changed.
    Assign(AssignDelta),
    /// An answer.
    Answer {
        /// The number of the try.
        number: u64,
        /// What is answered.
        answer: Answer,
    },
}

impl Message {
    /// What it is, in a word or two.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ask { question: Question::Register(_), .. } => "register",
            Self::Ask { question: Question::Sync(_), .. } => "sync",
            Self::Ask { question: Question::Reports(_), .. } => "reports",
            Self::Ask { question: Question::Command { .. }, .. } => "command",
            Self::Heartbeat { .. } => "heartbeat",
            Self::Assign(_) => "assign",
            Self::Answer { .. } => "answer",
        }
    }
}
