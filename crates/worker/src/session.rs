//! What is said to the leader: the registration, the whole set, the reports; and what the leader says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::StreamExt;
use longshore_bus::{Ask, AskError, Bus};
use longshore_core::agent::{FullSet, Input};
use longshore_proto::codec;
use longshore_proto::error::ErrorCode;
use longshore_proto::id::{BootId, CommandId, NodeId};
use longshore_proto::name::NodeName;
use longshore_proto::node::{
    AssignDelta, Register, Registered, Reports, ReportsCommitted, Sync, SyncPage, TaskReport,
};
use longshore_proto::subject::{NodeVerb, Pattern, Subject};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use crate::driver::Message;
use crate::heard::Heard;

/// How long one question to the leader is tried.
const ASK_DEADLINE: Duration = Duration::from_secs(10);
/// The first wait before the registration is tried again; it doubles.
const REGISTER_DELAY: Duration = Duration::from_secs(1);
/// The longest wait before the registration is tried again.
const REGISTER_DELAY_MAX: Duration = Duration::from_secs(30);
/// How often a set that changes while it is read is begun anew.
const SYNC_TRIES: u32 = 5;

/// Who this worker is, on the bus.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) bus: Bus,
    pub(crate) node: NodeName,
    pub(crate) node_id: NodeId,
    pub(crate) boot_id: BootId,
    /// Whether the leader hears this worker.
    pub(crate) heard: Heard,
    /// Told when the leader does not know this boot (any more).
    pub(crate) unknown: Arc<Notify>,
    /// Payloads that could not be read.
    pub(crate) refused: Arc<AtomicU64>,
}

impl Session {
    pub(crate) fn subject(&self, verb: NodeVerb) -> Subject {
        Subject::Node { node: self.node.clone(), verb }
    }

    /// Registers now, after each reconnect, and whenever the leader does not know this boot.
    pub(crate) async fn stay_registered(
        self,
        register: watch::Receiver<Register>,
        driver: mpsc::Sender<Message>,
    ) {
        let mut connections = self.bus.connections();
        // The count of the first connection may come late, and is no reconnect.
        let first = connections.wait_for(|count| *count > 0);
        let _ = tokio::time::timeout(REGISTER_DELAY, first).await;
        loop {
            connections.mark_unchanged();
            self.heard.asks();
            let message = self.register(&register).await;
            if let Message::Registered(registered) = &message {
                self.heard.taken_in(registered);
            }
            if driver.send(message).await.is_err() {
                return;
            }
            tokio::select! {
                changed = connections.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    info!("connected again; announcing this node anew");
                }
                () = self.unknown.notified() => {}
            }
        }
    }

    /// Tries until the leader has taken this node in, or says that it never will.
    async fn register(&self, register: &watch::Receiver<Register>) -> Message {
        let mut delay = REGISTER_DELAY;
        loop {
            let question = register.borrow().clone();
            let ask = Ask::write(CommandId(Uuid::now_v7()), ASK_DEADLINE);
            let asked = self
                .bus
                .ask::<_, Registered>(&self.subject(NodeVerb::Register), &question, ask)
                .await;
            match asked {
                Ok((_, registered)) => return Message::Registered(registered),
                Err(AskError::Refused(refusal)) => match refusal.code {
                    ErrorCode::WrongCluster => return Message::WrongCluster(refusal.message),
                    ErrorCode::NameTaken => error!(
                        node = %self.node,
                        "the manager refuses this node: {refusal}. If its predecessor is gone, this node gets in \
                         as soon as that one is given up; if this is another machine, give it another --name. \
                         Trying again"
                    ),
                    _ => error!("the manager refuses this node: {refusal}; trying again"),
                },
                Err(error) => warn!("{error}; trying again, and tasks run on meanwhile"),
            }
            tokio::time::sleep(delay.mul_f64(rand::random_range(0.5..1.0))).await;
            delay = (delay * 2).min(REGISTER_DELAY_MAX);
        }
    }

    /// Fetches the whole set, page by page, from one revision.
    pub(crate) async fn fetch_set(&self) -> Input {
        for _ in 0..SYNC_TRIES {
            match self.fetch_pages().await {
                Ok(Some(set)) => {
                    debug!(revision = %set.revision, tasks = set.assignments.len(), "read the whole set");
                    return Input::Synced(set);
                }
                Ok(None) => debug!("the set changed while it was read; reading it again"),
                Err(error) => {
                    self.note(&error, "the set of assignments was not read");
                    return Input::SyncFailed;
                }
            }
        }
        Input::SyncFailed
    }

    /// `None` when the pages are not of one revision.
    async fn fetch_pages(&self) -> Result<Option<FullSet>, AskError> {
        let mut set: Option<FullSet> = None;
        loop {
            let after = set.as_ref().and_then(|set| set.assignments.last()).map(|last| last.task);
            let question = Sync { node_id: self.node_id, boot_id: self.boot_id, after };
            let ask = Ask::read(ASK_DEADLINE);
            let (_, page) =
                self.bus.ask::<_, SyncPage>(&self.subject(NodeVerb::Sync), &question, ask).await?;
            let so_far = set.get_or_insert_with(|| FullSet {
                cluster_id: page.cluster_id,
                revision: page.revision,
                assignments: Vec::new(),
                known: Vec::new(),
            });
            if so_far.revision != page.revision || so_far.cluster_id != page.cluster_id {
                return Ok(None);
            }
            let is_stuck = page.assignments.is_empty() && !page.end;
            so_far.assignments.extend(page.assignments);
            so_far.known.extend(page.known);
            if page.end {
                let complete =
                    u64::try_from(so_far.assignments.len()).is_ok_and(|count| count == page.count);
                return Ok(set.filter(|_| complete));
            }
            if is_stuck {
                return Ok(None);
            }
        }
    }

    /// Delivers reports.
    pub(crate) async fn deliver(&self, through: u64, reports: Vec<TaskReport>) -> Input {
        let message = Reports { node_id: self.node_id, boot_id: self.boot_id, reports };
        let ask = Ask::write(CommandId(Uuid::now_v7()), ASK_DEADLINE);
        let subject = self.subject(NodeVerb::Report);
        match self.bus.ask::<_, ReportsCommitted>(&subject, &message, ask).await {
            Ok((_, committed)) => Input::ReportsAcked { through, known: committed.revision() },
            Err(error) => {
                self.note(&error, "reports are held until they can be delivered");
                Input::ReportsFailed
            }
        }
    }

    /// Takes note of a question that was not answered as hoped.
    fn note(&self, error: &AskError, what: &str) {
        match error {
            AskError::Refused(refusal) if refusal.code == ErrorCode::NotRegistered => {
                info!("the leader does not know this node yet; registering");
                self.unknown.notify_one();
            }
            error => warn!("{what}: {error}"),
        }
    }

    /// Passes the leader's changes on, for ever.
    pub(crate) async fn listen(self, driver: mpsc::Sender<Message>) {
        let pattern = Pattern::NodeOf(self.node.clone(), NodeVerb::Assign);
        loop {
            match self.bus.subscribe(&pattern).await {
                Ok(mut changes) => {
                    while let Some(incoming) = changes.next().await {
                        let Some(delta) = self.read::<AssignDelta>(&incoming.payload, "assign")
                        else {
                            continue;
                        };
                        if driver.send(Message::Input(Input::Delta(delta))).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => warn!("{error}; trying again"),
            }
            tokio::time::sleep(REGISTER_DELAY).await;
        }
    }

    /// Reads a payload; one that cannot be read is counted, logged and forgotten.
    pub(crate) fn read<T: DeserializeOwned>(&self, payload: &[u8], what: &str) -> Option<T> {
        codec::decode(payload)
            .inspect_err(|error| {
                let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
                warn!(what, refused, "{error}; it is ignored");
            })
            .ok()
    }
}
