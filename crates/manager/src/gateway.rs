//! Messages to arrivals, and answers back: the edge where bytes become values.
//!
//! A payload that does not decode gets an error reply, a count and a line in the log, and never stops
//! anything. Who a node is comes from the subject, which the NATS server enforced, never from a payload.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use longshore_bus::{Api, ApiRequest, Bus, Incoming};
use longshore_proto::api::{Answer, Nothing};
use longshore_proto::codec::{self, DecodeError};
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::name::NodeName;
use longshore_proto::node::{Heartbeat, Register, Reports, Sync};
use longshore_proto::permission::Role;
use longshore_proto::subject::{ApiVerb, Level, NodeVerb, Pattern, Subject};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::warn;

use crate::VERSION;
use crate::error::ManagerError;
use crate::lease::Standing;

/// How many arrivals of each lane may wait for the driver before the subscriptions are no longer read.
const QUEUE: usize = 8_192;

/// Something that came in and could be read.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A request to the api; its payload is read by the driver, which knows the verb.
    Api(ApiRequest),
    /// A worker wants to join.
    Register(NodeRequest, Box<Register>),
    /// A worker wants its set.
    Sync(NodeRequest, Sync),
    /// A sign of life.
    Heartbeat(NodeName, Box<Heartbeat>),
    /// What a worker says of its tasks.
    Reports(NodeRequest, Reports),
}

impl Arrival {
    /// Whether it waits its turn among the reports.
    fn waits(&self) -> bool {
        match self {
            Self::Reports(..) => true,
            Self::Heartbeat(_, heartbeat) => heartbeat.leaving,
            _ => false,
        }
    }
}

/// A node's message that wants an answer.
#[derive(Debug)]
pub(crate) struct NodeRequest {
    pub(crate) node: NodeName,
    incoming: Incoming,
}

impl NodeRequest {
    /// Answers into the inbox of the node's own worker, or not at all.
    pub(crate) async fn answer<T: Serialize>(&self, answer: &T) {
        let owns = |role, user: &longshore_proto::name::UserName| {
            role == Role::Worker && user.as_str() == self.node.as_str()
        };
        self.incoming.answer(owns, answer).await;
    }
}

/// What a manager is just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// It decides.
    Leader,
    /// It follows.
    Standby,
}

/// Everything that listens, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// Everything but reports and goodbyes.
    prompt: mpsc::Receiver<Arrival>,
    /// Reports, which may be thousands a second, and goodbyes, which must not overtake them.
    reports: mpsc::Receiver<Arrival>,
    refused: Arc<AtomicU64>,
    listeners: JoinSet<()>,
}

impl Gateway {
    /// Begins to listen. A leader hears everything; who stands by hears questions that change nothing, and the
    /// nodes' signs of life.
    ///
    /// Nodes are told that a leader hears them while its lease stands for certain, and by nobody else.
    pub(crate) async fn start(bus: &Bus, standing: Option<Standing>) -> Result<Self, ManagerError> {
        let part = if standing.is_some() { Part::Leader } else { Part::Standby };
        let (to_prompt, prompt) = mpsc::channel(QUEUE);
        let (to_reports, reports) = mpsc::channel(QUEUE);
        let refused = Arc::new(AtomicU64::new(0));
        let mut listeners = JoinSet::new();
        let node_verbs: &[NodeVerb] = match part {
            Part::Leader => {
                &[NodeVerb::Register, NodeVerb::Sync, NodeVerb::Heartbeat, NodeVerb::Report]
            }
            Part::Standby => &[NodeVerb::Heartbeat],
        };
        for &verb in node_verbs {
            let mut messages = bus.subscribe(&Pattern::Node(verb)).await?;
            let (to_prompt, to_reports) = (to_prompt.clone(), to_reports.clone());
            let (refused, standing) = (Arc::clone(&refused), standing.clone());
            listeners.spawn(async move {
                while let Some(incoming) = messages.next().await {
                    let arrival = read(incoming, &refused, standing.as_ref()).await;
                    let Some(arrival) = arrival else { continue };
                    let lane = if arrival.waits() { &to_reports } else { &to_prompt };
                    if lane.send(arrival).await.is_err() {
                        return;
                    }
                }
            });
        }
        let leads = part == Part::Leader;
        let verbs: Vec<ApiVerb> =
            ApiVerb::ALL.into_iter().filter(|verb| leads || verb.level() == Level::Read).collect();
        let mut api = Api::start(bus, VERSION, &verbs, leads).await?;
        listeners.spawn(async move {
            while let Some(request) = api.next().await {
                if to_prompt.send(Arrival::Api(request)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { prompt, reports, refused, listeners })
    }

    /// A gateway that hears nothing: before the first record of a reign is committed.
    pub(crate) fn silent() -> Self {
        let ((_, prompt), (_, reports)) = (mpsc::channel(1), mpsc::channel(1));
        Self { prompt, reports, refused: Arc::default(), listeners: JoinSet::new() }
    }

    /// The next arrival; `None` when something of it listens no more.
    pub(crate) async fn next(&mut self) -> Option<Arrival> {
        tokio::select! {
            biased;
            Some(arrival) = self.prompt.recv() => Some(arrival),
            Some(arrival) = self.reports.recv() => Some(arrival),
            // One of them alone would be missed by nobody here, and its askers would wait in vain.
            Some(_) = self.listeners.join_next() => None,
            else => None,
        }
    }

    /// The next arrival that is neither a report nor a goodbye; `None` when nothing listens any more.
    pub(crate) async fn next_prompt(&mut self) -> Option<Arrival> {
        self.prompt.recv().await
    }

    /// An arrival that waits already and is neither a report nor a goodbye.
    pub(crate) fn prompt(&mut self) -> Option<Arrival> {
        self.prompt.try_recv().ok()
    }

    /// A report or a goodbye that waits already.
    pub(crate) fn reports(&mut self) -> Option<Arrival> {
        self.reports.try_recv().ok()
    }

    /// Anything that waits already.
    pub(crate) fn waiting(&mut self) -> Option<Arrival> {
        self.prompt().or_else(|| self.reports())
    }

    /// Stops to listen. What has arrived already can still be taken.
    pub(crate) fn close(&mut self) {
        self.listeners.abort_all();
    }

    /// The count of payloads that could not be read.
    pub(crate) fn refused(&self) -> &Arc<AtomicU64> {
        &self.refused
    }
}

/// The refusal of a payload that cannot be read.
pub(crate) fn unreadable(error: &DecodeError) -> ApiError {
    ApiError::new(ErrorCode::Invalid, error.to_string())
        .hint("docs/protocol.md describes every payload, with an example")
}

async fn read(
    incoming: Incoming,
    refused: &AtomicU64,
    standing: Option<&Standing>,
) -> Option<Arrival> {
    let Some(Subject::Node { node, verb }) = incoming.subject.clone() else {
        refused.fetch_add(1, Ordering::Relaxed);
        warn!(
            subject = incoming.subject_text(),
            "a message on a subject with an illegal node name was ignored"
        );
        return None;
    };
    let decoded = match verb {
        NodeVerb::Register => decode(&incoming).map(|register| Kind::Register(Box::new(register))),
        NodeVerb::Sync => decode(&incoming).map(Kind::Sync),
        NodeVerb::Heartbeat => {
            decode(&incoming).map(|heartbeat| Kind::Heartbeat(Box::new(heartbeat)))
        }
        NodeVerb::Report => decode(&incoming).map(Kind::Reports),
        NodeVerb::Assign | NodeVerb::Metrics => return None,
    };
    let request = NodeRequest { node, incoming };
    match decoded {
        Ok(Kind::Register(register)) => Some(Arrival::Register(request, register)),
        Ok(Kind::Sync(sync)) => Some(Arrival::Sync(request, sync)),
        Ok(Kind::Heartbeat(heartbeat)) => {
            if standing.is_some_and(Standing::is_certain) && request.incoming.wants_answer() {
                request.answer(&Answer::new(0, Ok(Nothing {}))).await;
            }
            Some(Arrival::Heartbeat(request.node, heartbeat))
        }
        Ok(Kind::Reports(reports)) => Some(Arrival::Reports(request, reports)),
        Err(error) => {
            refused.fetch_add(1, Ordering::Relaxed);
            warn!(subject = request.incoming.subject_text(), %error, "a payload cannot be read and is refused");
            if request.incoming.wants_answer() {
                request.answer(&Answer::<()>::new(0, Err(unreadable(&error)))).await;
            }
            None
        }
    }
}

enum Kind {
    Register(Box<Register>),
    Sync(Sync),
    Heartbeat(Box<Heartbeat>),
    Reports(Reports),
}

fn decode<T: DeserializeOwned>(incoming: &Incoming) -> Result<T, DecodeError> {
    codec::decode(&incoming.payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_listener_that_ends_is_noticed_though_others_listen() {
        let ((_to_prompt, prompt), (_to_reports, reports)) = (mpsc::channel(1), mpsc::channel(1));
        let mut listeners = JoinSet::new();
        listeners.spawn(std::future::pending());
        let mut gateway = Gateway { prompt, reports, refused: Arc::default(), listeners };
        let waits = futures_util::FutureExt::now_or_never(gateway.next());
        assert!(waits.is_none(), "{waits:?}");
        gateway.listeners.spawn(async {});
        assert!(gateway.next().await.is_none());
    }
}
