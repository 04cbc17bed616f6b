//! A worker that the test plays: it registers, sends heartbeats, takes in assignments and reports what the
//! test says, without any container.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use longshore_bus::{Ask, AskError, Bus};
use longshore_proto::codec;
use longshore_proto::id::{BootId, ClusterId, NodeId, Revision, TaskId};
use longshore_proto::name::NodeName;
use longshore_proto::node::{
    AssignDelta, Assignment, Heartbeat, Register, Registered, Reports, ReportsCommitted, Sync,
    SyncPage, TaskReport, Want, set_digest,
};
use longshore_proto::spec::Resources;
use longshore_proto::state::TaskState;
use longshore_proto::subject::{NodeVerb, Pattern, Subject};
use tokio::task::AbortHandle;
use uuid::Uuid;

use crate::eventually::eventually;

/// How long a question may wait.
const DEADLINE: Duration = Duration::from_secs(20);
/// How often a sign of life is sent.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A played worker, from its registration on.
#[derive(Debug)]
pub struct Played {
    bus: Bus,
    node: NodeName,
    me: Me,
    /// Which cluster it joined.
    pub cluster_id: ClusterId,
    set: Arc<Mutex<Set>>,
    answers: Arc<AtomicUsize>,
    tasks: Vec<AbortHandle>,
}

/// Who a played worker is.
#[derive(Debug, Clone, Copy)]
pub struct Me {
    /// Its data directory's id.
    pub node_id: NodeId,
    /// Its run.
    pub boot_id: BootId,
}

impl Me {
    /// Somebody new.
    pub fn fresh() -> Self {
        Self { node_id: NodeId(Uuid::new_v4()), boot_id: BootId(Uuid::new_v4()) }
    }
}

/// What it was told to do.
#[derive(Debug, Default)]
struct Set {
    revision: Revision,
    assignments: BTreeMap<TaskId, Assignment>,
    /// Every change as it came, for tests of the order.
    deltas: Vec<AssignDelta>,
}

/// What it offers.
pub const CAPACITY: Resources =
    Resources { cpu_millis: 4_000, memory_bytes: 8 << 30, disk_bytes: 100 << 30 };

/// The wish to join.
pub fn wish(me: Me) -> Register {
    Register {
        node_id: me.node_id,
        boot_id: me.boot_id,
        cluster_id: None,
        datacenter: "dc1".parse().unwrap(),
        labels: BTreeMap::new(),
        attributes: BTreeMap::new(),
        capacity: CAPACITY,
        tasks_max: 500,
        mount_paths: Vec::new(),
        version: "0.0.0-played".to_owned(),
    }
}

impl Played {
    /// Joins over a worker's connection, and sends heartbeats from then on.
    pub async fn join(bus: Bus) -> Result<Self, AskError> {
        Self::join_as(bus, Me::fresh()).await
    }

    /// Joins as somebody, perhaps somebody who was there before.
    pub async fn join_as(bus: Bus, me: Me) -> Result<Self, AskError> {
        let node = NodeName::from(bus.user().clone());
        let set: Arc<Mutex<Set>> = Arc::default();
        let pattern = Pattern::NodeOf(node.clone(), NodeVerb::Assign);
        let mut messages = bus.subscribe(&pattern).await.unwrap();
        let subject = Subject::Node { node: node.clone(), verb: NodeVerb::Register };
        let (_, registered): (u64, Registered) =
            bus.ask(&subject, &wish(me), Ask::read(DEADLINE)).await?;
        let mut played = Self {
            bus: bus.clone(),
            node: node.clone(),
            me,
            cluster_id: registered.cluster_id,
            set: Arc::clone(&set),
            answers: Arc::default(),
            tasks: Vec::new(),
        };
        let listener = tokio::spawn({
            let (bus, node, set) = (bus.clone(), node.clone(), Arc::clone(&set));
            async move {
                let _ = synchronise(&bus, &node, me, &set).await;
                while let Some(message) = messages.next().await {
                    let Ok(delta) = codec::decode::<AssignDelta>(&message.payload) else {
                        continue;
                    };
                    let follows = {
                        let mut set = set.lock().unwrap();
                        set.deltas.push(delta.clone());
                        let follows = set.revision == delta.previous;
                        if follows {
                            set.revision = delta.revision;
                            let changes = delta.changes.into_iter();
                            set.assignments.extend(changes.map(|change| (change.task, change)));
                        }
                        follows
                    };
                    if !follows {
                        let _ = synchronise(&bus, &node, me, &set).await;
                    }
                }
            }
        });
        played.tasks.push(listener.abort_handle());
        let inbox = bus.client().new_inbox();
        let mut heard = bus.client().subscribe(inbox.clone()).await.unwrap();
        let answers = Arc::clone(&played.answers);
        let ear = tokio::spawn(async move {
            while let Some(answer) = heard.next().await {
                // That nobody listens comes with a status.
                answers.fetch_add(usize::from(answer.status.is_none()), Ordering::Relaxed);
            }
        });
        played.tasks.push(ear.abort_handle());
        let heart = tokio::spawn(async move {
            let subject = Subject::Node { node, verb: NodeVerb::Heartbeat };
            loop {
                let heartbeat = {
                    let set = set.lock().unwrap();
                    let members = set.assignments.iter().map(|(task, a)| (task, a.revision));
                    Heartbeat {
                        node_id: me.node_id,
                        boot_id: me.boot_id,
                        revision: set.revision,
                        answered: None,
                        digest: set_digest(members),
                        capacity: CAPACITY,
                        used: Resources::ZERO,
                        tasks_running: 0,
                        runtime_error: None,
                        leaving: false,
                        drain_within_ms: None,
                        cluster_id: None,
                    }
                };
                // What is lost is sent again by the next beat.
                let _ = bus.publish_asking(&subject, &heartbeat, &inbox).await;
                tokio::time::sleep(HEARTBEAT).await;
            }
        });
        played.tasks.push(heart.abort_handle());
        Ok(played)
    }

    /// Who it is.
    pub fn me(&self) -> Me {
        self.me
    }

    /// How many of its heartbeats were answered.
    pub fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// What it was told to run and has not been told to stop.
    pub fn wanted(&self) -> Vec<Assignment> {
        let set = self.set.lock().unwrap();
        set.assignments.values().filter(|a| matches!(a.want, Want::Run(_))).cloned().collect()
    }

    /// What it was told to stop.
    pub fn unwanted(&self) -> Vec<TaskId> {
        let set = self.set.lock().unwrap();
        let stops = set.assignments.values().filter(|a| matches!(a.want, Want::Stop { .. }));
        stops.map(|assignment| assignment.task).collect()
    }

    /// The changes that came, as they came.
    pub fn deltas(&self) -> Vec<AssignDelta> {
        self.set.lock().unwrap().deltas.clone()
    }

    /// Waits until it is told to run so many tasks, and gives them.
    pub async fn wanted_count(&self, count: usize) -> Vec<Assignment> {
        let what = format!("{} is told to run {count} tasks", self.node);
        eventually(&what, DEADLINE, async || {
            let wanted = self.wanted();
            if wanted.len() == count { Ok(wanted) } else { Err(format!("{wanted:?}")) }
        })
        .await
    }

    /// Waits until it is told to run so many tasks of a job, and gives their ids.
    pub async fn wanted_of(&self, job: &str, count: usize) -> Vec<TaskId> {
        let what = format!("{} is told to run {count} tasks of {job}", self.node);
        eventually(&what, DEADLINE, async || {
            let of_job = |assignment: &Assignment| match &assignment.want {
                Want::Run(run) => run.job.as_str() == job,
                Want::Stop { .. } => false,
            };
            let wanted: Vec<TaskId> =
                self.wanted().iter().filter(|a| of_job(a)).map(|a| a.task).collect();
            if wanted.len() == count { Ok(wanted) } else { Err(format!("{wanted:?}")) }
        })
        .await
    }

    /// Reports a state of a task, and waits until it is committed.
    pub async fn report(
        &self,
        task: TaskId,
        attempt: u64,
        state: TaskState,
    ) -> Result<ReportsCommitted, AskError> {
        let report = TaskReport {
            task,
            attempt,
            state,
            boot_id: self.me.boot_id,
            container_id: Some("c0ffee".to_owned()),
            exit_code: state.is_terminal().then_some(0),
            reason: None,
            ports: Vec::new(),
            health: None,
            pulls_failed: 0,
            at_ms: 1_700_000_000_000,
        };
        self.report_all(vec![report]).await
    }

    /// Sends reports as they are, and waits until they are committed.
    pub async fn report_all(&self, reports: Vec<TaskReport>) -> Result<ReportsCommitted, AskError> {
        let Me { node_id, boot_id } = self.me;
        let subject = Subject::Node { node: self.node.clone(), verb: NodeVerb::Report };
        let message = Reports { node_id, boot_id, reports };
        self.bus.ask(&subject, &message, Ask::read(DEADLINE)).await.map(|(_, answer)| answer)
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Asks for the whole set.
async fn synchronise(bus: &Bus, node: &NodeName, me: Me, set: &Mutex<Set>) -> Result<(), AskError> {
    let subject = Subject::Node { node: node.clone(), verb: NodeVerb::Sync };
    let mut whole: BTreeMap<TaskId, Assignment> = BTreeMap::new();
    loop {
        let after = whole.last_key_value().map(|(task, _)| *task);
        let question = Sync { node_id: me.node_id, boot_id: me.boot_id, after };
        let (_, page): (u64, SyncPage) = bus.ask(&subject, &question, Ask::read(DEADLINE)).await?;
        whole.extend(page.assignments.into_iter().map(|a| (a.task, a)));
        if page.end {
            let mut set = set.lock().unwrap();
            set.revision = page.revision;
            set.assignments = whole;
            return Ok(());
        }
    }
}
