//! Decisions on what nodes say: joining, heartbeats and reports.

use longshore_proto::api::{LABEL_BYTES_MAX, LABELS_MAX};
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::{ClusterId, Revision};
use longshore_proto::name::NodeName;
use longshore_proto::node::{
    Heartbeat, MOUNT_PATHS_MAX, REPORTS_MAX, Register, Registered, Reports, ReportsCommitted,
};
use longshore_proto::state::{Eligibility, NodeStatus};

use super::assign::{self, Digest};
use super::changes::touch_slot;
use super::derived::machine;
use super::draft::Draft;
use super::effect::{Effect, Reply};
use super::eligibility::{DEADLINE_MS_MAX, how_to_prove, unproven};
use super::input::Ticket;
use super::record::{Fact, NodeFacts};
use super::state::Node;
use super::{Heard, Live, Settings};

/// After so many heartbeats in a row with another set at the same revision the node is told to ask anew. One
/// alone may only mean that a report and a heartbeat crossed.
const MISMATCHES_MAX: u32 = 3;

/// Decides whether a worker may join.
pub(super) fn register(
    draft: &mut Draft<'_>,
    live: &mut Live,
    settings: &Settings,
    ticket: Ticket,
    name: &NodeName,
    register: &Register,
) {
    let before = draft.state.nodes.get(name).map(|node| node.facts.boot);
    let reply = admit(draft, name, register).map(|cluster_id| {
        let mut heard = Heard::now(draft);
        // A goodbye that has overtaken this goes on to hold.
        let boot = draft.state.nodes.get(name).map(|node| node.facts.boot);
        heard.is_leaving = boot == before && live.nodes.get(name).is_some_and(|it| it.is_leaving);
        live.nodes.insert(name.clone(), heard);
        let revision = draft.state.nodes.get(name).map(|node| node.revision).unwrap_or_default();
        Registered {
            cluster_id,
            epoch: draft.state.meta.epoch,
            heartbeat_interval_ms: settings.heartbeat_interval_ms,
            revision,
        }
    });
    match &reply {
        Ok(_) => {
            live.claimed.remove(name);
            live.foreign.remove(name);
        }
        Err(refusal) if refusal.code == ErrorCode::NameTaken => {
            live.claimed.insert(name.clone(), draft.now.time);
        }
        Err(refusal) if refusal.code == ErrorCode::WrongCluster => {
            let theirs = register.cluster_id.map(|theirs| (theirs, draft.now.time));
            live.foreign.extend(theirs.map(|theirs| (name.clone(), theirs)));
        }
        Err(_) => {}
    }
    draft.effect(Effect::Answer { ticket, reply: Reply::Registered(reply) });
}

fn admit(
    draft: &mut Draft<'_>,
    name: &NodeName,
    register: &Register,
) -> Result<ClusterId, ApiError> {
    let cluster = draft.state.meta.cluster.ok_or_else(|| {
        ApiError::new(ErrorCode::Unavailable, "the cluster has no id yet")
            .hint("try again in a moment")
    })?;
    if register.cluster_id.is_some_and(|theirs| theirs != cluster) {
        return Err(ApiError::new(
            ErrorCode::WrongCluster,
            format!("this worker's data directory belongs to another cluster than {cluster}"),
        )
        .hint(
            "point the worker to its own cluster, or give it a fresh --data-dir to join this one",
        ));
    }
    let too_long = |map: &std::collections::BTreeMap<String, String>| {
        map.len() > LABELS_MAX
            || map
                .iter()
                .any(|(key, value)| key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX)
    };
    if too_long(&register.labels) || too_long(&register.attributes) {
        return Err(ApiError::new(ErrorCode::Invalid, "too many labels, or too long ones")
            .hint("use at most 128, each at most 512 bytes"));
    }
    let paths = &register.mount_paths;
    if paths.len() > MOUNT_PATHS_MAX || paths.iter().any(|path| path.len() > LABEL_BYTES_MAX) {
        return Err(ApiError::new(ErrorCode::Invalid, "too many paths to mount, or too long ones")
            .hint("allow at most 64, each at most 512 bytes; one folder may hold many"));
    }
    let facts = NodeFacts {
        id: register.node_id,
        boot: register.boot_id,
        datacenter: register.datacenter.clone(),
        labels: register.labels.clone(),
        attributes: register.attributes.clone(),
        capacity: register.capacity,
        tasks_max: register.tasks_max,
        mount_paths: register.mount_paths.clone(),
        version: register.version.clone(),
    };
    let present = draft.state.nodes.get(name);
    let same = present.is_some_and(|node| node.facts.id == facts.id);
    if let Some(node) = present
        && !same
        && matches!(node.status, NodeStatus::Ready | NodeStatus::Suspect)
    {
        return Err(ApiError::new(ErrorCode::NameTaken, format!("another worker is registered as {name}"))
            .hint("give this worker another --name; if the other one is gone for good, wait until the node is lost"));
    }
    if let Some(job) = present.filter(|_| !same).and_then(|node| unproven(draft.state, node)) {
        let text = format!(
            "another machine was {name}, and tasks of the fenced job {job} may still run there"
        );
        return Err(ApiError::new(ErrorCode::NameTaken, text).hint(how_to_prove(name)));
    }
    // A run of a worker never takes back that it leaves: its goodbye has overtaken this.
    let has_left = present.is_some_and(|node| {
        same && node.facts.boot == facts.boot && node.status == NodeStatus::Left
    });
    let known = present.is_some_and(|node| node.facts == facts && node.status == NodeStatus::Ready);
    if !known && !has_left {
        // Whoever had the name before is gone, and its tasks with it.
        let gone: Vec<_> = present
            .filter(|_| !same)
            .into_iter()
            .flat_map(|node| node.tasks.iter().copied())
            .collect();
        for task in gone {
            let reason = format!("another machine joined as {name}");
            draft.record(Fact::TaskLost { task, reason });
        }
        draft.record(Fact::NodeRegistered { name: name.clone(), node: facts });
    }
    Ok(cluster)
}

/// Takes in a sign of life.
pub(super) fn heartbeat(
    draft: &mut Draft<'_>,
    live: &mut Live,
    name: &NodeName,
    heartbeat: &Heartbeat,
) {
    let Some(cluster) = draft.state.meta.cluster else { return };
    let tell = |draft: &mut Draft<'_>, revision| {
        if draft.state.nodes.get(name).is_some_and(|node| node.ahead.is_some()) {
            return;
        }
        draft.effect(Effect::Assign { node: name.clone(), delta: assign::hint(cluster, revision) });
    };
    // Another cluster's worker that stayed connected does not ask to join, and tells its own log alone.
    if let Some(theirs) = heartbeat.cluster_id.filter(|theirs| *theirs != cluster) {
        live.foreign.insert(name.clone(), (theirs, draft.now.time));
    }
    let Some(node) = draft.state.nodes.get(name) else {
        // Its sync will be refused, and then it registers.
        let revision = draft.revision;
        return tell(draft, revision);
    };
    if (node.facts.id, node.facts.boot) != (heartbeat.node_id, heartbeat.boot_id) {
        return unknown(draft, cluster, name, heartbeat);
    }
    let before = live.nodes.get(name);
    let (revision, status) = (node.revision, node.status);
    let has_left = status == NodeStatus::Left || before.is_some_and(|before| before.is_leaving);
    if !heartbeat.leaving && has_left {
        // It was said before the goodbye, which has overtaken it.
        return;
    }
    let known = before.and_then(|before| before.digest);
    let digest = (heartbeat.revision == revision).then(|| Digest::of(draft.state, node, known));
    let differs = heartbeat.revision > revision
        || digest.is_some_and(|digest| digest.value != heartbeat.digest);
    let resized = node.facts.capacity != heartbeat.capacity;

    // A worker follows what was committed, and nothing else. Should this manager only not know yet that it was overtaken,
    // what it says of that comes to nothing.
    let is_ahead = node.ahead.is_none() && draft.state.has_lost(heartbeat.revision);

    // What was decided since the heartbeat before may be on its way still. A node that was not heard in this reign may
    // have missed the end of the last.
    let expected = before.map_or(revision, |before| before.revision);
    let mut heard = Heard::now(draft);
    heard.is_leaving = heartbeat.leaving;
    heard.revision = revision;
    heard.digest = digest;
    heard.used = Some(heartbeat.used);
    heard.runtime_error.clone_from(&heartbeat.runtime_error);
    heard.mismatches = if differs { before.map_or(0, |before| before.mismatches) + 1 } else { 0 };
    heard.is_empty = heartbeat.revision == revision
        && !differs
        && node.tasks.is_empty()
        && heartbeat.tasks_running == 0
        && heartbeat.runtime_error.is_none();
    // Its set says how far its tasks are known, and it reports what is not.
    let is_forgotten = heartbeat.answered.is_some_and(|at| draft.state.has_forgotten(at));
    let is_behind = heard.mismatches >= MISMATCHES_MAX || heartbeat.revision < expected;
    if (is_behind || is_forgotten) && !is_ahead {
        heard.mismatches = 0;
        tell(draft, revision);
    }
    live.nodes.insert(name.clone(), heard);
    draft.state.fleet.set_measured(name, Some(heartbeat.used));
    if is_ahead {
        let (name, revision) = (name.clone(), heartbeat.revision);
        draft.record(Fact::NodeAhead { name, revision });
    }

    if heartbeat.leaving {
        if heartbeat.tasks_running > 0 {
            // Its containers are being stopped, and must not be replaced where they are.
            exclude(draft, name);
        } else if status != NodeStatus::Left {
            let reason = "its worker said goodbye".to_owned();
            draft.record(Fact::NodeStatusChanged {
                name: name.clone(),
                status: NodeStatus::Left,
                reason,
            });
            touch_tasks(draft, live, name);
        }
        return;
    }
    if let Some(deadline_ms) = heartbeat.drain_within_ms
        && draft.state.nodes.get(name).is_some_and(|node| node.drain.is_none())
    {
        draft.record(Fact::NodeDrainRequested {
            name: name.clone(),
            deadline_ms: Some(deadline_ms.min(DEADLINE_MS_MAX)),
            by_worker: true,
            actor: "its worker, which is to end".to_owned(),
        });
    }
    let offered = draft.state.nodes.get(name).map(Node::offered);
    let excluded =
        draft.state.fleet.node(name).is_some_and(|known| Some(known.eligibility) != offered);
    if excluded {
        // It has registered since, and stays after all: what the state says counts again.
        draft.state.derive_node(name);
        draft.changes.freed = true;
    }
    if status != NodeStatus::Ready {
        let reason = match draft.state.nodes.get(name) {
            Some(node) if node.is_confirmed_lost => {
                "it is heard again, though an operator had said that it had stopped: fenced tasks may have run twice"
            }
            _ => "it is heard again",
        };
        let reason = reason.to_owned();
        draft.record(Fact::NodeStatusChanged {
            name: name.clone(),
            status: NodeStatus::Ready,
            reason,
        });
        touch_tasks(draft, live, name);
        if status != NodeStatus::Suspect {
            tell(draft, revision);
        }
    }
    if resized {
        draft.record(Fact::NodeResized { name: name.clone(), capacity: heartbeat.capacity });
    }
}

/// A sign of life of a worker that is not the one that the log knows under a node's name: another run of it, or another
/// process. It was refused; or it is about to register; or it had, and the log has lost that. Then it is to notice.
fn unknown(draft: &mut Draft<'_>, cluster: ClusterId, name: &NodeName, heartbeat: &Heartbeat) {
    let Some(node) = draft.state.nodes.get(name) else { return };
    let same = node.facts.id == heartbeat.node_id;
    if !same && node.status == NodeStatus::Ready {
        // While the node that is known is heard, no other gets in.
        return;
    }
    let is_left_alone = same && node.ahead.is_some();
    if draft.state.has_lost(heartbeat.revision) {
        // It would take a hint for older than what it follows.
        if node.ahead.is_none() {
            let (name, revision) = (name.clone(), heartbeat.revision);
            draft.record(Fact::NodeAhead { name, revision });
        }
    } else if !is_left_alone {
        let delta = assign::hint(cluster, draft.revision);
        draft.effect(Effect::Assign { node: name.clone(), delta });
    }
}

/// Takes in what a node says of its tasks. What is late, doubled or not its business changes nothing, and is
/// answered all the same: the node need not hold it any longer. But that a task is unknown, or has no node yet, is
/// believed only once a record is committed: it may be a later leader's.
pub(super) fn reports(
    draft: &mut Draft<'_>,
    live: &mut Live,
    ticket: Ticket,
    name: &NodeName,
    message: &Reports,
) {
    let Revision { epoch, index } = draft.revision;
    let registered =
        draft.state.nodes.get(name).is_some_and(|node| node.facts.id == message.node_id);
    let reply = if !registered {
        Err(ApiError::new(
            ErrorCode::NotRegistered,
            format!("node {name} is not registered with this id"),
        )
        .hint("register again"))
    } else if message.reports.len() > REPORTS_MAX {
        Err(ApiError::new(ErrorCode::Invalid, "too many reports in one message")
            .hint("send at most 256"))
    } else {
        for report in &message.reports {
            let Some(task) = draft.state.tasks.get(&report.task).filter(|task| task.node.is_some())
            else {
                draft.confirm();
                continue;
            };
            if task.node.as_ref() == Some(name) && task.is_news(report) {
                draft.record(Fact::TaskReported { report: report.clone() });
            }
        }
        if let Some(heard) = live.nodes.get_mut(name) {
            heard.at = draft.now.time;
        }
        Ok(ReportsCommitted { index, epoch })
    };
    draft.effect(Effect::Answer { ticket, reply: Reply::Reports(reply) });
}

/// A node that is about to leave gets no new tasks. This is no fact: if it stays after all, it registers, and its next
/// heartbeat says so.
fn exclude(draft: &mut Draft<'_>, name: &NodeName) {
    if let Some(node) = draft.state.nodes.get(name) {
        draft.state.fleet.upsert(name, &machine(node, Eligibility::Draining));
    }
}

/// The slot of every task on a node is looked at again.
pub(super) fn touch_tasks(draft: &Draft<'_>, live: &mut Live, name: &NodeName) {
    let tasks = draft.state.nodes.get(name).into_iter().flat_map(|node| &node.tasks);
    for task in tasks.filter_map(|id| draft.state.tasks.get(id)) {
        touch_slot(&mut live.reconcile, task);
    }
}

impl Heard {
    fn now(draft: &Draft<'_>) -> Self {
        Self {
            at: draft.now.time,
            revision: Revision::default(),
            used: None,
            runtime_error: None,
            digest: None,
            mismatches: 0,
            is_empty: false,
            is_leaving: false,
        }
    }
}
