//! A stream with a node that goes both ways: a command, files, a connection to a port.
//!
//! Nothing of it can be asked for again, so that a gap ends it. A worker answers each credit when it has nothing else to
//! say; where it is known to do that, its silence ends a session too.

use std::time::Duration;

use futures_util::StreamExt;
use longshore_bus::{BusError, Subscription};
use longshore_proto::codec;
use longshore_proto::error::ApiError;
use longshore_proto::id::SessionId;
use longshore_proto::name::NodeName;
use longshore_proto::rpc::{
    CREDIT_TIMEOUT_MS, Chunk, ChunkBody, Credit, Input, InputBody, WINDOW_CHUNKS,
};
use longshore_proto::state::NodeStatus;
use longshore_proto::subject::{Pattern, RpcVerb, Subject};
use serde::Serialize;
use tokio::time::Instant;
use tracing::warn;

use crate::client::Client;
use crate::command::logs::silent_node;
use crate::failure::Failure;
use crate::stream::{Creditor, Sequence, Taken};

/// How long a node may take to begin.
const START_MAX: Duration = Duration::from_secs(15);
/// How often the manager is asked for the node while nothing comes.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a worker that answers credits may be silent.
const LIFE_MAX: Duration = Duration::from_millis(CREDIT_TIMEOUT_MS);

/// Why a session ended before its end.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The node has never answered; how it stands, as far as the manager knows.
    Silent(String),
    /// The worker says why.
    Refused(ApiError),
    /// It broke off.
    Off(String),
    /// The bus does not take messages.
    Bus(BusError),
}

impl Broken {
    /// In words: what cannot be done when the worker refuses it, and what broke off.
    pub(crate) fn failure(self, node: &NodeName, cannot: &str, what: &str) -> Failure {
        match self {
            Self::Silent(status) => silent_node(node, &status),
            Self::Refused(refusal) => {
                Failure::new(format!("cannot {cannot} on {node}")).refused(&refusal)
            }
            Self::Off(why) => Failure::new(format!("{what} on {node} broke off")).because(&why),
            Self::Bus(error) => error.into(),
        }
    }
}

/// A stream with a node.
pub(crate) struct Session {
    client: Client,
    node: NodeName,
    id: SessionId,
    chunks: Subscription,
    creditor: Creditor,
    sequence: Sequence,
    /// Pieces of input that were sent, and that have been taken.
    sent: u64,
    taken: u64,
    is_started: bool,
    /// Whether the worker is known to answer credits.
    answers_credits: bool,
    opened_at: Instant,
    heard_at: Instant,
}

impl Session {
    /// Asks a node for a stream. Workers of before this version answer no credits of commands; what only newer ones
    /// have is answered by all that have it.
    pub(crate) async fn open<T: Serialize>(
        client: &Client,
        node: NodeName,
        verb: RpcVerb,
        id: SessionId,
        request: &T,
    ) -> Result<Self, BusError> {
        let bus = client.bus();
        let pattern = Pattern::OutSession(node.clone(), bus.user().clone(), id);
        // Listening comes first: one connection keeps the order of what is sent on it.
        let chunks = bus.subscribe(&pattern).await?;
        let creditor = Creditor::start(bus.clone(), node.clone(), id);
        bus.publish(&Subject::Rpc { node: node.clone(), verb }, request).await?;
        Ok(Self {
            client: client.clone(),
            node,
            id,
            chunks,
            creditor,
            sequence: Sequence::default(),
            sent: 0,
            taken: 0,
            is_started: false,
            answers_credits: verb != RpcVerb::Exec,
            opened_at: Instant::now(),
            heard_at: Instant::now(),
        })
    }

    /// Whether it has begun, and there is room for another piece of input.
    pub(crate) fn may_send(&self) -> bool {
        self.is_started && self.sent - self.taken < WINDOW_CHUNKS
    }

    /// Sends a piece of input, for which there must be room.
    pub(crate) async fn send(&mut self, body: InputBody) -> Result<(), Broken> {
        self.sent += 1;
        let input = Input { session: self.id, sequence: self.sent, body };
        let subject = Subject::Rpc { node: self.node.clone(), verb: RpcVerb::Input };
        self.client.bus().publish(&subject, &input).await.map_err(Broken::Bus)
    }

    /// The next chunk that says something; `None` at the end. What it says counts as taken when the next one is
    /// waited for. May be given up at any time without losing a chunk.
    pub(crate) async fn next(&mut self) -> Result<Option<ChunkBody>, Broken> {
        self.creditor.taken(self.sequence.last);
        if self.sequence.ended {
            return Ok(None);
        }
        loop {
            let incoming = match tokio::time::timeout(SILENCE_MAX, self.chunks.next()).await {
                Ok(Some(incoming)) => incoming,
                Ok(None) => return Err(off("the connection to NATS was closed")),
                Err(_) => {
                    self.silence().await?;
                    continue;
                }
            };
            let chunk = match codec::decode::<Chunk>(&incoming.payload) {
                Ok(chunk) => chunk,
                Err(error) => {
                    warn!(%error, "a piece of the stream that cannot be read");
                    continue;
                }
            };
            match self.sequence.take(chunk.sequence) {
                Taken::Again => continue,
                Taken::Next => {}
                Taken::After(_) => return Err(off("a part of it was lost on the way")),
                Taken::Anew => return Err(off("the worker has started anew")),
            }
            self.heard_at = Instant::now();
            match chunk.body {
                ChunkBody::Taken(sequence) => {
                    self.answers_credits |= self.is_started && sequence == self.taken;
                    self.taken = self.taken.max(sequence.min(self.sent));
                    self.is_started = true;
                    self.creditor.taken(self.sequence.last);
                    return Ok(Some(ChunkBody::Taken(sequence)));
                }
                ChunkBody::End => {
                    self.sequence.ended = true;
                    return Ok(None);
                }
                ChunkBody::Failed(refusal) => {
                    self.sequence.ended = true;
                    return Err(Broken::Refused(refusal));
                }
                body => {
                    self.is_started = true;
                    return Ok(Some(body));
                }
            }
        }
    }

    /// Tells the node that no more is wanted, unless it has ended by itself.
    pub(crate) async fn close(self) {
        let Self { client, node, id, sequence, creditor, .. } = self;
        drop(creditor);
        if sequence.ended {
            return;
        }
        let credit = Credit { session: id, sequence: sequence.last, end: true };
        let subject = Subject::Rpc { node, verb: RpcVerb::Credit };
        if client.bus().publish(&subject, &credit).await.is_ok() {
            client.bus().flush().await;
        }
    }

    /// Nothing came for a while: that is all right for what is quiet on a node that lives.
    async fn silence(&self) -> Result<(), Broken> {
        let status = self.client.node(&self.node).await.ok().map(|node| node.status);
        let told = status.map_or("unknown to the manager", NodeStatus::as_str);
        if !self.is_started && self.opened_at.elapsed() >= START_MAX {
            return Err(Broken::Silent(told.to_owned()));
        }
        if matches!(status, Some(NodeStatus::Lost | NodeStatus::Left)) {
            return Err(off(&format!("the node {} is {told}", self.node)));
        }
        if self.is_started && self.answers_credits && self.heard_at.elapsed() >= LIFE_MAX {
            return Err(off(&format!("the worker of {} does not know of it any more", self.node)));
        }
        Ok(())
    }
}

fn off(why: &str) -> Broken {
    Broken::Off(why.to_owned())
}
