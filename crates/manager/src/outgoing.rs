//! What leaves a leader: answers to whoever waits, and what nodes are told. All of it against records that have landed.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;
use longshore_bus::ApiRequest;
use longshore_core::cluster::record::CommandAnswer;
use longshore_core::cluster::{Effect, Reply, Ticket};
use longshore_proto::api::Answer;
use longshore_proto::error::ApiError;
use longshore_proto::event::Event;
use longshore_proto::name::NodeName;
use longshore_proto::node::{AssignDelta, Sync};
use serde::Serialize;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::error::ManagerError;
use crate::gateway::NodeRequest;
use crate::gather::Gathering;
use crate::landing::Landing;
use crate::lease::Held;
use crate::query::Question;
use crate::store::Store;

/// Somebody who waits for what is decided.
#[derive(Debug)]
pub(crate) enum Waiting {
    Api(ApiRequest),
    Node(NodeRequest),
    /// A question that the barrier stands before.
    Question(Question),
}

/// A question that is answered from the state, once all of that has landed.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A node's set of assignments.
    Sync(NodeRequest, Sync),
    /// What any manager may answer that has seen as much as the asker.
    Question(Question),
    /// What has passed the barrier: this manager leads for certain.
    Certain(Question),
}

/// Everything that leaves, until it may.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) landing: Landing,
    /// The index of the last record that has landed.
    committed: watch::Sender<u64>,
    held: &'a Held,
    waiting: BTreeMap<Ticket, Waiting>,
    /// How many of those who wait are no nodes.
    askers: usize,
    gathering: Gathering,
    tickets: u64,
    /// Questions that arrived while records were on their way, or had to pass a barrier.
    asked: Vec<Asked>,
    outbox: Outbox,
}

/// What nodes are to be told, in order.
#[derive(Debug)]
pub(crate) struct Outbox {
    sender: mpsc::Sender<(NodeName, AssignDelta)>,
    has_overflowed: bool,
}

impl Outbox {
    /// One for a reign, and what comes out of it.
    pub(crate) fn new(room: usize) -> (Self, mpsc::Receiver<(NodeName, AssignDelta)>) {
        let (sender, receiver) = mpsc::channel(room);
        (Self { sender, has_overflowed: false }, receiver)
    }

    /// Tells a node. What has no room is lost, as it may be on the bus, and the node asks for it.
    fn tell(&mut self, node: NodeName, delta: AssignDelta) {
        match self.sender.try_send((node, delta)) {
            Err(TrySendError::Full((node, _))) => {
                if !std::mem::replace(&mut self.has_overflowed, true) {
                    warn!(%node, "changes wait to be told to nodes by the thousand; nodes that miss some will ask");
                }
            }
            // Closed: the reign is over, and nobody needs to be told.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
        }
    }
}

impl<'a> Outgoing<'a> {
    /// Nothing yet.
    pub(crate) fn new(store: &Arc<Store>, held: &'a Held, outbox: Outbox) -> Self {
        Self {
            landing: Landing::new(store),
            committed: watch::Sender::new(0),
            held,
            waiting: BTreeMap::new(),
            askers: 0,
            gathering: Gathering::new(Instant::now()),
            tickets: 0,
            asked: Vec::new(),
            outbox,
        }
    }

    /// The index of the last record that has landed.
    pub(crate) fn index(&self) -> u64 {
        *self.committed.borrow()
    }

    /// The same, as it moves.
    pub(crate) fn commits(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    /// Somebody waits for a decision.
    pub(crate) fn ticket(&mut self, waiting: Waiting) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.askers += usize::from(!matches!(waiting, Waiting::Node(_)));
        self.waiting.insert(ticket, waiting);
        ticket
    }

    /// Until when the next record should wait for others, where all that wait for an answer are yet to be decided on.
    pub(crate) fn gather(&mut self, now: Instant) -> Option<Instant> {
        self.gathering.wait(self.askers, now)
    }

    /// Somebody asks about a state of which not all has landed.
    pub(crate) fn ask_later(&mut self, asked: Asked) {
        self.asked.push(asked);
    }

    /// Whether questions wait until everything has landed.
    pub(crate) fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The questions that wait.
    pub(crate) fn asked(&mut self) -> Vec<Asked> {
        std::mem::take(&mut self.asked)
    }

    /// Waits until records have landed, for ever where none is on its way, and lets go what follows from them. Whoever
    /// does not wait to the end loses nothing.
    pub(crate) async fn land(&mut self) -> Result<(), ManagerError> {
        let landed = self.landing.landed().await?;
        self.held.moved();
        self.gathering.landed(self.askers, Instant::now());
        for landed in landed {
            landed.events().iter().for_each(tell);
            let index = landed.index();
            let effects = landed.release()?;
            self.committed.send_replace(index);
            self.perform(effects);
        }
        Ok(())
    }

    /// Waits until everything that was appended has landed.
    pub(crate) async fn settle(&mut self) -> Result<(), ManagerError> {
        while !self.landing.is_empty() {
            self.land().await?;
        }
        Ok(())
    }

    /// Lets go what was decided without a record, or keeps it until that has landed on which it rests.
    pub(crate) fn decided(&mut self, effects: Vec<Effect>) {
        if let Some(effects) = self.landing.hold(effects) {
            self.perform(effects);
        }
    }

    /// Whoever waited for an answer that is there now.
    fn answered(&mut self, ticket: Ticket) -> Option<Waiting> {
        let waiting = self.waiting.remove(&ticket)?;
        self.askers -= usize::from(!matches!(waiting, Waiting::Node(_)));
        Some(waiting)
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        let index = self.index();
        for effect in effects {
            match effect {
                Effect::Assign { node, delta } => self.outbox.tell(node, delta),
                Effect::Answer { ticket, reply } => match (self.answered(ticket), reply) {
                    (Some(Waiting::Api(request)), Reply::Command(reply)) => match reply {
                        Ok(CommandAnswer::Submitted(answer)) => grant(request, index, Ok(answer)),
                        Ok(CommandAnswer::JobStopped(answer)) => grant(request, index, Ok(answer)),
                        Ok(CommandAnswer::TaskStopped(answer)) => grant(request, index, Ok(answer)),
                        Ok(CommandAnswer::Rebalanced(answer)) => grant(request, index, Ok(answer)),
                        Ok(CommandAnswer::NodesChanged(answer)) => {
                            grant(request, index, Ok(answer))
                        }
                        Ok(CommandAnswer::NodeGone(answer)) => grant(request, index, Ok(answer)),
                        Err(refusal) => grant::<()>(request, index, Err(refusal)),
                    },
                    (Some(Waiting::Node(request)), Reply::Registered(reply)) => {
                        let answer = Answer::new(index, reply);
                        send(async move { request.answer(&answer).await });
                    }
                    (Some(Waiting::Node(request)), Reply::Reports(reply)) => {
                        let answer = Answer::new(index, reply);
                        send(async move { request.answer(&answer).await });
                    }
                    (Some(Waiting::Question(question)), Reply::Barrier) => {
                        self.asked.push(Asked::Certain(question));
                    }
                    (_, reply) => error!(?ticket, ?reply, "an answer without its asker: a bug"),
                },
            }
        }
    }

    /// Tells everybody who waits to try again: elsewhere, or later.
    pub(crate) async fn dismiss(&mut self, refusal: &ApiError) {
        let refused = || Answer::<()>::new(0, Err(refusal.clone()));
        // What was decided may be in the log, though it is not known here.
        let left_open = || Answer::<()>::new(0, Err(refusal.clone().outcome_unknown()));
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Api(request) => request.answer(&left_open()).await,
                Waiting::Question(Question { request, .. }) => request.answer(&refused()).await,
                Waiting::Node(request) => request.answer(&refused()).await,
            }
        }
        for asked in self.asked() {
            match asked {
                Asked::Sync(request, _) => request.answer(&refused()).await,
                Asked::Question(question) | Asked::Certain(question) => {
                    question.request.answer(&refused()).await
                }
            }
        }
    }
}

/// Answers a node without waiting until the bus has taken it.
pub(crate) fn answer_node<T: Serialize + Send + std::marker::Sync + 'static>(
    request: NodeRequest,
    index: u64,
    result: Result<T, ApiError>,
) {
    let answer = Answer::new(index, result);
    tokio::spawn(async move { request.answer(&answer).await });
}

/// Answers whoever asked for what was decided.
fn grant<T: Serialize + Send + std::marker::Sync + 'static>(
    request: ApiRequest,
    index: u64,
    result: Result<T, ApiError>,
) {
    let answer = Answer::new(index, result);
    send(async move { request.answer(&answer).await });
}

/// Sends a small answer without waiting until the bus has taken it: at once where it has room, as nearly always, and else
/// beside. A task for each would be one more turn for it to wait, on another thread.
fn send(answering: impl Future<Output = ()> + Send + 'static) {
    let mut answering = answering.boxed();
    if (&mut answering).now_or_never().is_none() {
        tokio::spawn(answering);
    }
}

/// Tells of what an operator looks for in the leader's log: alarms, and nodes that come and go.
fn tell(event: &Event) {
    let reason = event.reason.as_deref().unwrap_or_default();
    let node = event.node.as_ref().map_or("", |node| node.as_str());
    match (event.event_type.as_str(), event.state.as_deref()) {
        ("cluster.alarm", Some("over")) => info!("an alarm is over: {reason}"),
        ("cluster.alarm", Some("warning")) => warn!("{reason}"),
        ("cluster.alarm", _) => error!("{reason}"),
        ("node.suspect", _) => warn!(node, "a node is suspect: {reason}"),
        ("node.lost", _) => {
            error!(node, "a node is lost, and its tasks are gone with it: {reason}")
        }
        ("node.registered", _) => info!(node, "a node has joined: {reason}"),
        ("node.ready" | "node.left", Some(state)) => info!(node, "a node is {state}: {reason}"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::id::{ClusterId, Revision};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_nodes_are_told_keeps_its_order_and_takes_no_more_than_its_room() {
        let (mut outbox, mut told) = Outbox::new(2);
        for index in 1..=3 {
            let revision = Revision { epoch: 1, index };
            let cluster_id = ClusterId(Uuid::nil());
            let previous = Revision::UNCHAINED;
            let delta = AssignDelta { cluster_id, previous, revision, changes: Vec::new() };
            outbox.tell("n1".parse().unwrap(), delta);
        }
        assert!(outbox.has_overflowed);
        let indexes: Vec<u64> = std::iter::from_fn(|| told.try_recv().ok())
            .map(|(_, delta)| delta.revision.index)
            .collect();
        assert_eq!(indexes, [1, 2]);
    }
}
