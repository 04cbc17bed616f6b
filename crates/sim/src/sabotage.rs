//! The cluster, broken on purpose: for each checker a fault of the kind that it exists for.
//!
//! No production code knows of this. A broken variant lives in the model round the brains: a shell that speaks
//! before it has stored, a disk that forgets, a runtime that doubles; or a leader whose records say what a broken
//! brain would have decided.

use longshore_core::cluster::State;
use longshore_core::cluster::record::{Fact, Record};
use longshore_core::mint::Minter;
use longshore_proto::api::RolledBack;
use longshore_proto::node::TaskReport;
use longshore_proto::state::{Eligibility, NodeStatus, TaskState};

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sabotage {
    /// A manager whose append was fenced goes on as if its record stood there.
    IgnoreTheFence,
    /// A manager answers and assigns before its record is in the log.
    SpeakBeforeCommit,
    /// A manager says of reports that it has them in the log, and has not.
    AcknowledgeUnread,
    /// A manager's store loses the tasks of what it writes.
    StoreForgetsTasks,
    /// A manager leads without an election.
    ReignWithoutElection,
    /// A worker hears of assignments that nobody has decided.
    InventAssignments,
    /// A worker carries each start out twice, and its runtime gives one name to two containers.
    StartTwice,
    /// A leader records that a task went back.
    RecordBackwards,
    /// A leader places tasks on nodes that have no room.
    Overcommit,
    /// A leader creates a task too many.
    CreateTooMany,
    /// A leader declares a node lost that it hears.
    DeclareFalseDeath,
    /// A leader declares three nodes lost at once.
    LoseManyAtOnce,
    /// A worker's clock goes eight times too fast.
    HurryRestarts,
    /// A leader grants each command twice.
    GrantTwice,
    /// A worker hears neither changes nor hints after its first few.
    DeafWorker,
    /// The runtime lists a stranger's container with our labels.
    DisguiseStrangers,
    /// A worker stops a container of its own accord.
    StopUnasked,
    /// A manager never forgets who asked.
    ForgetAskers,
    /// A manager that opens the log goes on wherever that ends, though it has lost what the manager's store holds.
    LeadOverLostTail,
    /// A leader does not look at which record workers follow.
    TrustShortLog,
    /// A manager believes one of several servers as soon as it would believe the only one.
    BelieveOneServer,
    /// The lease carries no limit of life.
    LeaseWithoutEnd,
    /// A leader places tasks on nodes that are gone.
    PlaceOnLostNodes,
    /// The worker's runtime gives no grace.
    KillAtOnce,
    /// The worker delivers no reports.
    KeepReports,
    /// The runtime says that it has removed and stopped what it has not.
    PretendRemovals,
    /// No manager ever takes a free lease.
    NeverLead,
    /// A leader leaves out one of those that are placed all at once.
    PlaceHalfAGang,
    /// A leader displaces a task for its own job.
    DisplaceEquals,
    /// A leader stops a task that moves before its successor is up.
    HandOverEarly,
    /// A leader that has gone back from a version goes back from what it made, too.
    GoBackAgain,
    /// A worker holds it against a task that its runtime could not ask it.
    BlameTheUnknown,
    /// A leader calls a node drained that runs something.
    DrainedEarly,
    /// A leader takes silence for a proof that fenced tasks have ended.
    TrustSilence,
    /// A worker shows the same fencing token for every task.
    ReuseTokens,
    /// A manager takes a name that another one uses.
    ShareTheName,
    /// A leader publishes an event that nobody has decided.
    InventEvents,
    /// A leader publishes its events one after the other, whatever became of those before.
    PublishUnchained,
    /// A manager that follows stores some records without their events.
    ForgetEvents,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 39] = [
        Self::IgnoreTheFence,
        Self::SpeakBeforeCommit,
        Self::AcknowledgeUnread,
        Self::StoreForgetsTasks,
        Self::ReignWithoutElection,
        Self::InventAssignments,
        Self::StartTwice,
        Self::RecordBackwards,
        Self::Overcommit,
        Self::CreateTooMany,
        Self::DeclareFalseDeath,
        Self::LoseManyAtOnce,
        Self::HurryRestarts,
        Self::GrantTwice,
        Self::DeafWorker,
        Self::DisguiseStrangers,
        Self::StopUnasked,
        Self::ForgetAskers,
        Self::LeadOverLostTail,
        Self::TrustShortLog,
        Self::BelieveOneServer,
        Self::LeaseWithoutEnd,
        Self::PlaceOnLostNodes,
        Self::KillAtOnce,
        Self::KeepReports,
        Self::PretendRemovals,
        Self::NeverLead,
        Self::PlaceHalfAGang,
        Self::DisplaceEquals,
        Self::HandOverEarly,
        Self::GoBackAgain,
        Self::BlameTheUnknown,
        Self::DrainedEarly,
        Self::TrustSilence,
        Self::ReuseTokens,
        Self::ShareTheName,
        Self::InventEvents,
        Self::PublishUnchained,
        Self::ForgetEvents,
    ];

    /// The record that a leader with a broken brain would have written in the place of this one; `None` where it
    /// would have written the same.
    pub fn forge(self, bytes: &[u8], state: &State, rng: &mut fastrand::Rng) -> Option<Record> {
        let mut record = Record::decode(bytes).ok()?;
        let live = || state.tasks.iter().filter(|(_, task)| !task.state.is_terminal());
        match self {
            Self::RecordBackwards => {
                let (id, task) = live().find(|(_, task)| task.state == TaskState::Running)?;
                let node = state.nodes.get(task.node.as_ref()?)?;
                let report = TaskReport {
                    task: *id,
                    attempt: task.attempt,
                    state: TaskState::Preparing,
                    boot_id: node.facts.boot,
                    container_id: None,
                    exit_code: None,
                    reason: None,
                    ports: Default::default(),
                    health: None,
                    pulls_failed: 0,
                    at_ms: record.at_ms,
                };
                record.facts.push(Fact::TaskReported { report });
            }
            Self::Overcommit => {
                let full = state.fleet_room()?;
                let fact = record.facts.iter_mut().find_map(|fact| match fact {
                    Fact::TaskPlaced { node, .. } => Some(node),
                    _ => None,
                })?;
                *fact = full;
            }
            Self::CreateTooMany => {
                let (_, task) = live().find(|(_, task)| task.state == TaskState::Running)?;
                let mut minter = Minter::new(rng.u128(..).to_be_bytes(), record.at_ms);
                record.facts.push(Fact::TaskCreated {
                    task: minter.task_id(),
                    job: task.job.clone(),
                    spec: task.spec.clone(),
                    slot: task.slot,
                    version: task.version,
                    replaces: None,
                    failures: 0,
                });
            }
            Self::DeclareFalseDeath | Self::LoseManyAtOnce => {
                let most = if self == Self::LoseManyAtOnce { 3 } else { 1 };
                let ready = state.nodes.iter().filter(|(_, node)| node.status == NodeStatus::Ready);
                let names: Vec<_> = ready.map(|(name, _)| name.clone()).take(most).collect();
                if names.len() < most {
                    return None;
                }
                record.facts.extend(names.into_iter().map(|name| Fact::NodeStatusChanged {
                    name,
                    status: NodeStatus::Lost,
                    reason: "a broken brain says so".into(),
                }));
            }
            Self::GrantTwice => {
                let granted = record
                    .facts
                    .iter()
                    .find(|fact| matches!(fact, Fact::CommandGranted { .. }))?
                    .clone();
                record.facts.push(granted);
            }
            Self::PlaceOnLostNodes => {
                let (gone, _) =
                    state.nodes.iter().find(|(_, node)| node.status == NodeStatus::Lost)?;
                let fact = record.facts.iter_mut().find_map(|fact| match fact {
                    Fact::TaskPlaced { node, .. } => Some(node),
                    _ => None,
                })?;
                fact.clone_from(gone);
            }
            Self::PlaceHalfAGang => {
                let gang = |fact: &Fact| match fact {
                    Fact::TaskPlaced { task, .. } => {
                        let task = state.tasks.get(task).filter(|task| task.replaces.is_none());
                        let spec = task.and_then(|task| state.task_spec(task));
                        spec.is_some_and(|spec| spec.all_at_once && spec.instances > 1)
                    }
                    _ => false,
                };
                let left_out = record.facts.iter().position(gang)?;
                record.facts.remove(left_out);
                record.facts.iter().find(|fact| gang(fact))?;
            }
            Self::DisplaceEquals => {
                let (id, task) = live().find(|(_, task)| task.state == TaskState::Running)?;
                record.facts.push(Fact::TaskStopRequested {
                    task: *id,
                    reason: "a broken brain says so".into(),
                    displaced_by: Some(task.job.clone()),
                });
            }
            Self::DrainedEarly => {
                let runs =
                    |id| state.tasks.get(id).is_some_and(|task| task.state == TaskState::Running);
                let (name, _) = state.nodes.iter().find(|(_, node)| {
                    let drains = node.drain.as_ref().is_some_and(|drain| !drain.is_done);
                    drains && node.tasks.iter().any(runs)
                })?;
                record.facts.push(Fact::NodeDrained { name: name.clone() });
            }
            Self::TrustSilence => {
                let is_silent = |name| {
                    state.nodes.get(name).is_some_and(|node| node.status != NodeStatus::Ready)
                };
                let (id, _) = live().find(|(_, task)| {
                    task.state == TaskState::Running
                        && task.node.as_ref().is_some_and(is_silent)
                        && state.task_job_spec(task).is_some_and(|job| job.fence)
                })?;
                let reason = "a broken brain says so".into();
                record.facts.push(Fact::TaskLost { task: *id, reason });
            }
            Self::GoBackAgain => {
                let again = record.facts.iter().find_map(|fact| match fact {
                    Fact::JobSubmitted { version, job, actor, rolled_back: Some(back) } => {
                        Some(Fact::JobSubmitted {
                            version: version + 1,
                            job: job.clone(),
                            actor: actor.clone(),
                            rolled_back: Some(Box::new(RolledBack {
                                failed: *version,
                                ..RolledBack::clone(back)
                            })),
                        })
                    }
                    _ => None,
                });
                record.facts.push(again?);
            }
            Self::HandOverEarly => {
                let before = |id: &_| state.tasks.get(id).map(|task| task.state);
                let moving = live().filter(|(_, task)| task.state != TaskState::Running);
                let mut moving = moving.filter_map(|(_, task)| task.replaces);
                let task = moving.find(|id| before(id) == Some(TaskState::Running))?;
                let reason = "a broken brain says so".into();
                record.facts.push(Fact::TaskStopRequested { task, reason, displaced_by: None });
            }
            _ => return None,
        }
        Some(record)
    }
}

/// Where a broken brain would place what does not fit.
trait Room {
    fn fleet_room(&self) -> Option<longshore_proto::name::NodeName>;
}

impl Room for State {
    fn fleet_room(&self) -> Option<longshore_proto::name::NodeName> {
        // One that may be given tasks: what it has no room for is all that is wrong.
        let open = self.nodes.iter().filter(|(_, node)| {
            node.status == NodeStatus::Ready && node.eligibility == Eligibility::Open
        });
        let fullest = open.max_by_key(|(_, node)| node.tasks.len())?;
        (fullest.1.tasks.len() > 1).then(|| fullest.0.clone())
    }
}
