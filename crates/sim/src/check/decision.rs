//! What leaders decide: moves of tasks, capacity, counts, deaths of nodes, placements, bounds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use longshore_core::cluster::changes::Changes;
use longshore_core::cluster::record::{Fact, Hash, Record};
use longshore_core::cluster::state::{SlotTasks, State};
use longshore_core::cluster::{Settings, invariant};
use longshore_proto::id::{ManagerId, NodeId, TaskId};
use longshore_proto::name::{JobKey, NodeName};
use longshore_proto::spec::Resources;
use longshore_proto::state::{Eligibility, Mover, NodeStatus, TaskState, is_legal_move};

use super::{Truth, Violation, violated};
use crate::manager::{node_name, worker_of};
use crate::message::Process;
use crate::time::{MS, Micros, SECOND};

/// How many tasks a slot may remember: the present one, the ended, and one that is being made.
const SLOT_TASKS_MAX: usize = 6;
/// For how long it counts that another machine has asked for a node's name.
const CLAIM_WINDOW: Micros = 61 * SECOND;
/// For how long it is known when a heartbeat arrived: longer than a decision is on its way.
const HEARD_WINDOW: Micros = 120 * SECOND;
/// The window of the brake.
const BRAKE_WINDOW: Micros = 10 * SECOND;

/// What is remembered of decisions.
#[derive(Debug)]
pub struct Decision {
    lost_after: Micros,
    suspect_after: Micros,
    /// When heartbeats arrived: what came after a decision does not count for it.
    heard: BTreeMap<(ManagerId, usize), VecDeque<Micros>>,
    spoke: BTreeMap<(ManagerId, usize), Micros>,
    elected: BTreeMap<ManagerId, Micros>,
    claimed: BTreeMap<(ManagerId, usize), Micros>,
    lost: VecDeque<Micros>,
    decided: Micros,
    touched: BTreeSet<NodeName>,
}

impl Decision {
    /// For a cluster that is run like this.
    pub fn new(settings: &Settings) -> Self {
        Self {
            // Clocks may go wrong by a hundredth.
            lost_after: settings.lost_after_ms * MS / 100 * 98,
            // What arrives while a record is on its way is taken in only after it.
            suspect_after: settings.suspect_after_ms * MS / 100 * 102 + 6 * SECOND,
            heard: BTreeMap::new(),
            spoke: BTreeMap::new(),
            elected: BTreeMap::new(),
            claimed: BTreeMap::new(),
            lost: VecDeque::new(),
            decided: 0,
            touched: BTreeSet::new(),
        }
    }

    /// A manager begins to lead.
    pub fn elected(&mut self, manager: ManagerId, now: Micros) {
        self.elected.insert(manager, now);
    }

    /// A sign of life has reached a leader: a heartbeat, or a report.
    pub fn heard(&mut self, (manager, node): (ManagerId, usize), beats: bool, now: Micros) {
        if beats {
            let heard = self.heard.entry((manager, node)).or_default();
            heard.push_back(now);
            while heard.front().is_some_and(|at| *at + HEARD_WINDOW < now) {
                heard.pop_front();
            }
        }
        self.spoke.insert((manager, node), now);
    }

    /// A machine has asked a leader for a node's name. If that is another one, the node is gone, whoever else is silent.
    pub fn claimed(
        &mut self,
        state: &State,
        (manager, node): (ManagerId, usize),
        node_id: NodeId,
        now: Micros,
    ) {
        let known = state.nodes.get(&node_name(node));
        if known.is_some_and(|known| known.facts.id != node_id) {
            self.claimed.insert((manager, node), now);
        } else {
            // That it asks to join is a sign of life as good as any.
            self.spoke.insert((manager, node), now);
        }
    }

    fn is_claimed(&self, manager: ManagerId, name: &NodeName) -> bool {
        let Process::Worker(node) = worker_of(name) else { return false };
        self.claimed
            .get(&(manager, node))
            .is_some_and(|at| self.decided.saturating_sub(*at) < CLAIM_WINDOW)
    }

    /// A record begins.
    pub fn begin(&mut self, truth: &Truth, chain: Hash, now: Micros) {
        self.decided = truth.decided_at(chain, now);
        self.touched.clear();
    }

    /// A fact is about to be applied.
    pub fn fact(&mut self, state: &State, fact: &Fact, record: &Record) -> Result<(), Violation> {
        moves(state, fact)?;
        match fact {
            Fact::TaskPlaced { task, node, .. } => {
                identity(state, *task)?;
                placement(state, *task, node)?;
                self.touched.insert(node.clone());
            }
            Fact::NodeStatusChanged { name, status: NodeStatus::Lost, .. } => {
                self.death(name, record.manager)?;
                self.brake(state, name, record.manager)?;
            }
            Fact::NodeResized { name, .. } | Fact::NodeRegistered { name, .. } => {
                self.touched.insert(name.clone());
            }
            _ => {}
        }
        Ok(())
    }

    /// A record was applied.
    pub fn end(&self, state: &State, changes: &Changes) -> Result<(), Violation> {
        for node in &self.touched {
            capacity(state, node)?;
        }
        for job in &changes.jobs {
            count(state, job)?;
            history(state, job)?;
        }
        Ok(())
    }

    /// I-12: no node is lost while its heartbeats arrive, nor within the wait after an election.
    fn death(&self, name: &NodeName, manager: ManagerId) -> Result<(), Violation> {
        let Process::Worker(node) = worker_of(name) else { return Ok(()) };
        let since = |at: Option<&Micros>| at.map(|at| self.decided.saturating_sub(*at));
        let heard = self.heard.get(&(manager, node));
        let last = heard.and_then(|heard| heard.iter().rev().find(|at| **at <= self.decided));
        if let Some(since) = since(last)
            && since < self.lost_after
        {
            return violated(
                "I-12",
                format!("{name} was declared lost, and was heard {} ms before", since / MS),
            );
        }
        if let Some(since) = since(self.elected.get(&manager))
            && since < self.lost_after
        {
            return violated(
                "I-12",
                format!("{name} was declared lost {} ms after an election", since / MS),
            );
        }
        Ok(())
    }

    /// I-13: at most one node in twenty within ten seconds, and none while most of five or more are silent.
    fn brake(
        &mut self,
        state: &State,
        name: &NodeName,
        manager: ManagerId,
    ) -> Result<(), Violation> {
        let present: Vec<&NodeName> = state
            .nodes
            .iter()
            .filter(|(_, node)| matches!(node.status, NodeStatus::Ready | NodeStatus::Suspect))
            .map(|(name, _)| name)
            .collect();
        // Some of them fell in this very window.
        let window = BRAKE_WINDOW / 100 * 98;
        while self.lost.front().is_some_and(|at| at + window <= self.decided) {
            self.lost.pop_front();
        }
        let nodes = present.len() + self.lost.len();
        self.lost.push_back(self.decided);
        if self.lost.len() > (nodes / 20).max(1) {
            return violated(
                "I-13",
                format!("{} of {nodes} nodes were declared lost within 10 s", self.lost.len()),
            );
        }
        let silent = present
            .iter()
            .filter(|name| match worker_of(name) {
                Process::Worker(_) if self.is_claimed(manager, name) => false,
                Process::Worker(node) => self
                    .spoke
                    .get(&(manager, node))
                    .is_none_or(|at| self.decided.saturating_sub(*at) >= self.suspect_after),
                _ => false,
            })
            .count();
        let believed = self.is_claimed(manager, name);
        if present.len() >= 5 && silent * 2 > present.len() && !believed {
            return violated(
                "I-13",
                format!("a node was declared lost while {silent} of {} were silent", present.len()),
            );
        }
        Ok(())
    }
}

/// I-7: tasks move as the table of moves allows.
fn moves(state: &State, fact: &Fact) -> Result<(), Violation> {
    if let Fact::TaskReported { report } = fact {
        let known = state.tasks.get(&report.task);
        if known.is_some_and(|task| task.is_news(report)) {
            return Ok(());
        }
        let from = known.map(|task| (task.attempt, task.state));
        let to = (report.attempt, report.state);
        return violated("I-7", format!("task {} goes from {from:?} to {to:?}", report.task));
    }
    let (id, to) = match fact {
        Fact::TaskPlaced { task, .. } => (task, TaskState::Assigned),
        Fact::TaskWithdrawn { task, .. } => (task, TaskState::Stopped),
        Fact::TaskLost { task, .. } => (task, TaskState::Lost),
        _ => return Ok(()),
    };
    let Some(task) = state.tasks.get(id) else {
        return violated("I-7", format!("a record moves task {id}, which is not there"));
    };
    let from = (task.attempt, task.state);
    let to = (task.attempt, to);
    if is_legal_move(from, to, Mover::Manager) {
        Ok(())
    } else {
        violated("I-7", format!("task {id} goes from {from:?} to {to:?}"))
    }
}

/// I-6: a task is bound to one node for ever.
fn identity(state: &State, id: TaskId) -> Result<(), Violation> {
    match state.tasks.get(&id).and_then(|task| task.node.as_ref()) {
        Some(node) => violated("I-6", format!("task {id} is placed again, and was on {node}")),
        None => Ok(()),
    }
}

/// I-28: a task is placed on a node that takes tasks.
fn placement(state: &State, id: TaskId, name: &NodeName) -> Result<(), Violation> {
    let takes = state.nodes.get(name).is_some_and(|node| {
        node.status == NodeStatus::Ready
            && node.eligibility == Eligibility::Open
            && node.ahead.is_none()
    });
    if takes {
        Ok(())
    } else {
        violated("I-28", format!("task {id} is placed on {name}, which takes none"))
    }
}

/// I-8: no node promises more than it has, and the books are right.
fn capacity(state: &State, name: &NodeName) -> Result<(), Violation> {
    let Some(node) = state.nodes.get(name) else { return Ok(()) };
    let held = node
        .tasks
        .iter()
        .filter_map(|id| state.task_spec(state.tasks.get(id)?))
        .fold(Resources::ZERO, |sum, spec| sum.saturating_add(spec.resources));
    let booked = state.fleet.node(name).map_or(Resources::ZERO, |node| node.committed);
    if held != booked {
        return violated("I-8", format!("{name} holds {held:?}, and its books say {booked:?}"));
    }
    let specs = node.tasks.iter().filter_map(|id| state.task_spec(state.tasks.get(id)?));
    let mut ports = BTreeSet::new();
    for port in specs.flat_map(|spec| &spec.ports).filter(|port| !port.is_dynamic()) {
        if !ports.insert((port.host, format!("{:?}", port.protocol))) {
            return violated("I-8", format!("{name} has promised port {} twice", port.host));
        }
    }
    if !held.fits_in(node.facts.capacity) {
        return violated(
            "I-8",
            format!("{name} has promised {held:?} of {:?}", node.facts.capacity),
        );
    }
    Ok(())
}

/// I-9: no more live instances than wanted, but for those that were asked to end; and of one instance at most two
/// tasks, while it moves.
fn count(state: &State, key: &JobKey) -> Result<(), Violation> {
    let Some(job) = state.jobs.get(key) else { return Ok(()) };
    for (name, slots) in &job.slots {
        let live = |ids: &SlotTasks| {
            let tasks = ids.iter().filter_map(|id| state.tasks.get(id));
            tasks.filter(|task| !task.state.is_terminal() && !task.is_to_stop()).count()
        };
        let instances = slots.values().filter(|ids| live(ids) > 0).count();
        let most = slots.values().map(live).max().unwrap_or(0);
        let specs = job.versions.values().filter_map(|spec| spec.spec(name));
        let wanted = specs.map(|spec| spec.instances as usize).max().unwrap_or(0);
        if instances > wanted {
            return violated(
                "I-9",
                format!("{key}: {instances} instances of {name} live, and {wanted} are wanted"),
            );
        }
        if most > 2 || slots.values().any(|ids| live(ids) == 2 && !moves_on(state, ids)) {
            return violated("I-9", format!("{key}: an instance of {name} has {most} live tasks"));
        }
    }
    Ok(())
}

/// Whether one of a slot's live tasks takes the place of another one.
fn moves_on(state: &State, ids: &[TaskId]) -> bool {
    let live = |id: &TaskId| {
        state.tasks.get(id).is_some_and(|task| !task.state.is_terminal() && !task.is_to_stop())
    };
    ids.iter()
        .filter(|id| live(id))
        .filter_map(|id| state.tasks.get(id)?.replaces)
        .any(|before| live(&before))
}

/// I-21: history stays bounded.
fn history(state: &State, key: &JobKey) -> Result<(), Violation> {
    let Some(job) = state.jobs.get(key) else { return Ok(()) };
    let longest =
        job.slots.values().flat_map(BTreeMap::values).map(|ids| ids.len()).max().unwrap_or(0);
    if longest > SLOT_TASKS_MAX {
        return violated("I-21", format!("a slot of {key} remembers {longest} tasks"));
    }
    Ok(())
}

/// Everything that the core itself can check of a state, for the end of a run.
pub fn whole(state: &State) -> Result<(), Violation> {
    match invariant::check(state).first() {
        Some(violation) => violated("I-8", format!("{violation:?}")),
        None => Ok(()),
    }
}
