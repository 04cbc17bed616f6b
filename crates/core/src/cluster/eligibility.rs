//! What operators say of nodes: whether they take new tasks, what they are like, and that one will not return.
//!
//! A request that names several nodes changes all of them or none. What follows from it is for others to do: a
//! draining node is emptied by [`super::drain`], and what is lost with a node is replaced by [`super::reconcile`].

use longshore_proto::api::{
    DrainNodes, LABEL_BYTES_MAX, LABELS_MAX, LabelNode, NODES_NAMED_MAX, NodeGone, NodesChanged,
    RemoveNode,
};
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobName, NodeName};
use longshore_proto::spec::OnNodeLoss;
use longshore_proto::state::{Eligibility, NodeStatus};

use super::draft::Draft;
use super::input::NodeCommand;
use super::record::{CommandAnswer, Fact};
use super::state::{Node, State};

/// The longest deadline of a drain, in milliseconds: a year.
pub(super) const DEADLINE_MS_MAX: u64 = 365 * 24 * 3_600_000;
/// The most tasks that are lost with a node that is removed: they are told in one record.
const LOST_TOGETHER_MAX: usize = 500;

/// Decides on a request about nodes.
pub(super) fn decide(
    draft: &mut Draft<'_>,
    command: &NodeCommand,
    actor: &str,
) -> Result<CommandAnswer, ApiError> {
    let actor = actor.to_owned();
    match command {
        NodeCommand::Cordon(asked) => change(draft, &asked.names, |name, node| {
            let fact = || Fact::NodeCordoned { name: name.clone(), actor: actor.clone() };
            (node.eligibility != Eligibility::Cordoned).then(fact)
        }),
        NodeCommand::Uncordon(asked) => change(draft, &asked.names, |name, node| {
            let fact = || Fact::NodeUncordoned { name: name.clone(), actor: actor.clone() };
            (node.eligibility != Eligibility::Open).then(fact)
        }),
        NodeCommand::Drain(asked) => drain(draft, asked, &actor),
        NodeCommand::Label(asked) => label(draft, asked, actor),
        NodeCommand::ConfirmLost(asked) => {
            confirm_lost(draft, &asked.name, actor).map(CommandAnswer::NodeGone)
        }
        NodeCommand::Remove(asked) => remove(draft, asked, actor).map(CommandAnswer::NodeGone),
    }
}

fn change(
    draft: &mut Draft<'_>,
    names: &[NodeName],
    fact: impl Fn(&NodeName, &Node) -> Option<Fact>,
) -> Result<CommandAnswer, ApiError> {
    if names.is_empty() || names.len() > NODES_NAMED_MAX {
        let text = format!("{} nodes are named", names.len());
        let hint = format!("name 1 to {NODES_NAMED_MAX} at once");
        return Err(ApiError::new(ErrorCode::Invalid, text).hint(hint));
    }
    let mut facts = Vec::new();
    for name in names {
        facts.extend(fact(name, known(draft.state, name)?).map(|fact| (name.clone(), fact)));
    }
    facts.sort_by(|(one, _), (other, _)| one.cmp(other));
    facts.dedup_by(|(one, _), (other, _)| one == other);
    let mut changed = Vec::new();
    for (name, fact) in facts {
        draft.record(fact);
        changed.push(name);
    }
    Ok(CommandAnswer::NodesChanged(NodesChanged { names: changed }))
}

fn known<'a>(state: &'a State, name: &NodeName) -> Result<&'a Node, ApiError> {
    state.nodes.get(name).ok_or_else(|| no_node(name))
}

/// The refusal that there is no such node.
pub(super) fn no_node(name: &NodeName) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no node {name}"))
        .hint("`longshore node ls` lists the nodes")
}

fn drain(
    draft: &mut Draft<'_>,
    asked: &DrainNodes,
    actor: &str,
) -> Result<CommandAnswer, ApiError> {
    let deadline_ms = asked.deadline_ms;
    if deadline_ms.is_some_and(|ms| ms > DEADLINE_MS_MAX) {
        return Err(ApiError::new(ErrorCode::Invalid, "the deadline is too far away")
            .hint("use at most a year, or leave it out: then nothing is cut short"));
    }
    change(draft, &asked.names, |name, node| {
        let same =
            |drain: &super::state::Drain| drain.deadline_ms == deadline_ms && !drain.by_worker;
        let fact = || Fact::NodeDrainRequested {
            name: name.clone(),
            deadline_ms,
            by_worker: false,
            actor: actor.to_owned(),
        };
        (!node.drain.as_ref().is_some_and(same)).then(fact)
    })
}

fn label(
    draft: &mut Draft<'_>,
    asked: &LabelNode,
    actor: String,
) -> Result<CommandAnswer, ApiError> {
    let LabelNode { name, set, remove } = asked;
    let node = known(draft.state, name)?;
    let bad = |text: &String| text.len() > LABEL_BYTES_MAX || text.contains(char::is_control);
    if let Some(label) = set.keys().find(|label| label.is_empty() || bad(label)) {
        let text = format!("{label:?} cannot be the name of a label");
        return Err(ApiError::new(ErrorCode::Invalid, text)
            .hint("use 1 to 512 bytes, all of them printable"));
    }
    if let Some((label, _)) = set.iter().find(|(_, value)| bad(value)) {
        let text = format!("the value of the label {label} is too long, or cannot be printed");
        return Err(ApiError::new(ErrorCode::Invalid, text).hint("use at most 512 bytes"));
    }
    if let Some(label) = remove.iter().find(|label| set.contains_key(*label)) {
        let text = format!("the label {label} is to be set and taken away");
        return Err(ApiError::new(ErrorCode::Invalid, text).hint("say one of the two"));
    }
    let stated = |label: &&String| {
        node.facts.labels.contains_key(*label) && !node.labels_set.contains_key(*label)
    };
    if let Some(label) = remove.iter().find(stated) {
        let text = format!("the label {label} of {name} is stated by its worker");
        return Err(ApiError::new(ErrorCode::Conflict, text).hint(format!(
            "start the worker without `--label {label}=…`, or set another value here, which stands before it"
        )));
    }
    let after = node.labels.keys().chain(set.keys()).filter(|label| !remove.contains(*label));
    if after.collect::<std::collections::BTreeSet<_>>().len() > LABELS_MAX {
        return Err(ApiError::new(
            ErrorCode::Invalid,
            format!("{name} would have too many labels"),
        )
        .hint("use at most 128"));
    }
    let same = set.iter().all(|(label, value)| node.labels_set.get(label) == Some(value))
        && !remove.iter().any(|label| node.labels_set.contains_key(label));
    let mut names = Vec::new();
    if !same {
        // What is not set need not be taken away: the log keeps nothing of it, however much is named.
        let set = set.clone();
        let remove =
            remove.iter().filter(|label| node.labels_set.contains_key(*label)).cloned().collect();
        draft.record(Fact::NodeLabelled { name: name.clone(), set, remove, actor });
        names.push(name.clone());
    }
    Ok(CommandAnswer::NodesChanged(NodesChanged { names }))
}

fn remove(draft: &mut Draft<'_>, asked: &RemoveNode, actor: String) -> Result<NodeGone, ApiError> {
    let RemoveNode { name, force } = asked;
    let node = known(draft.state, name)?;
    if matches!(node.status, NodeStatus::Ready | NodeStatus::Suspect) && !force {
        let text = format!("node {name} is {}", node.status.as_str());
        return Err(ApiError::new(ErrorCode::Conflict, text).hint(format!(
            "drain it (`longshore node drain {name}`) and stop its worker first; --force forgets it at once: its \
             tasks are replaced, and its worker, if it runs on, stops their containers and joins as a new node"
        )));
    }
    if let (NodeStatus::Ready | NodeStatus::Suspect, Some(ahead)) = (node.status, node.ahead) {
        let text = format!("node {name} follows revision {ahead}, of which the log has no record");
        return Err(ApiError::new(ErrorCode::Conflict, text).hint(format!(
            "its worker would join again with what it follows. Stop it, move its data directory away and start it \
             again; or stop it for good, and `longshore node rm {name}` once the node is lost"
        )));
    }
    if let Some(job) = unproven(draft.state, node) {
        let text =
            format!("node {name} has tasks of the fenced job {job}, which may still run there");
        return Err(ApiError::new(ErrorCode::Conflict, text).hint(how_to_prove(name)));
    }
    let tasks: Vec<TaskId> = node.tasks.iter().copied().collect();
    if tasks.len() > LOST_TOGETHER_MAX {
        let text = format!("node {name} has {} tasks, too many to lose in one record", tasks.len());
        return Err(ApiError::new(ErrorCode::Conflict, text)
            .hint("drain it first, or stop its worker and wait until its tasks are replaced"));
    }
    let tasks_lost = tasks.len() as u64;
    for task in tasks {
        draft.record(Fact::TaskLost { task, reason: format!("its node {name} was removed") });
    }
    draft.record(Fact::NodeRemoved { name: name.clone(), actor });
    Ok(NodeGone { name: name.clone(), tasks_lost })
}

/// Takes an operator's word that a silent node has stopped: what is fenced may be replaced.
fn confirm_lost(
    draft: &mut Draft<'_>,
    name: &NodeName,
    actor: String,
) -> Result<NodeGone, ApiError> {
    let node = known(draft.state, name)?;
    if node.status == NodeStatus::Ready {
        let text = format!("node {name} is heard, so that it has not stopped");
        return Err(ApiError::new(ErrorCode::Conflict, text)
            .hint(format!("`longshore node drain {name}` moves off what it runs")));
    }
    let is_news = !node.is_confirmed_lost && node.status != NodeStatus::Left;
    // What is not fenced was lost with the node; one that is only suspect is lost by this very word.
    let is_lost_now = node.status == NodeStatus::Suspect;
    let is_lost = |id: &&TaskId| {
        let job = draft.state.tasks.get(id).and_then(|task| {
            let job = draft.state.jobs.get(&task.job)?.spec()?;
            Some((job, task.is_to_stop()))
        });
        job.is_some_and(|(job, is_ending)| {
            (job.fence || is_lost_now) && (is_ending || job.on_node_loss == OnNodeLoss::Replace)
        })
    };
    let tasks_lost = node.tasks.iter().filter(is_lost).count() as u64;
    if is_news {
        draft.record(Fact::NodeConfirmedLost { name: name.clone(), actor });
    }
    Ok(NodeGone { name: name.clone(), tasks_lost })
}

/// A fenced job that has a task on a node of which nobody knows whether it has stopped.
pub(super) fn unproven<'a>(state: &'a State, node: &'a Node) -> Option<&'a JobName> {
    if node.has_stopped() {
        return None;
    }
    let tasks = node.tasks.iter().filter_map(|id| state.tasks.get(id));
    tasks.into_iter().find(|task| state.is_fenced(task)).map(|task| &task.job.name)
}

/// What an operator can do for a fenced job whose node is silent.
pub(super) fn how_to_prove(name: &NodeName) -> String {
    format!(
        "make sure that the machine has stopped, or that its containers have, and then say so: \
         `longshore node confirm-lost {name}`"
    )
}
