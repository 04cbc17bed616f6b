//! What is asked of the cluster that takes a while to work out: it is answered from a copy, so that whoever asks
//! holds nobody up, and nothing that is tried changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use longshore_proto::api::NameTask;
use longshore_proto::error::ApiError;
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, Namespace, NodeName, SpecName};
use longshore_proto::plan::{self, Footing, Move, RebalancePlan, TaskRef};
use longshore_proto::spec::{ExchangeOrder, JobSpec, JobType, MountSource, OnNodeLoss, TaskSpec};
use longshore_proto::state::TaskState;
use longshore_scheduler::plan::preempt::{self, Occupant, Wanted};
use longshore_scheduler::plan::rebalance::{self, Bounds, Movable};
use longshore_scheduler::plan::{footing, ranking, spread_over_nothing, take_out};
use longshore_scheduler::{Demand, Fleet, Policy};

use super::drain;
use super::place::Group;
use super::reconcile::same_container;
use super::room::displaceable;
use super::slot;
use super::state::{Job, Jobs, SlotTasks, State, Task, Tasks};
use super::{Cluster, Settings};

/// How many of the best nodes, and of the others, an explanation lists.
const BEST_MAX: usize = 5;
const REFUSED_MAX: usize = 20;

/// A part of a version of a job.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) group: Group,
    pub(super) version: u64,
}

/// A version of a part of a job.
type VersionOf<'s> = (&'s JobKey, &'s SpecName, u64);

/// A task that has a node.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) task: TaskId,
    /// The place of its part in the snapshot.
    pub(super) part: usize,
    pub(super) slot: u32,
    /// The record that made it: of the tasks of a slot, later ones take the place of earlier ones.
    created_index: u64,
    pub(super) node: NodeName,
    pub(super) is_ending: bool,
    /// Whether it runs, and was not told to end.
    pub(super) is_running: bool,
    is_wanted: bool,
    /// Whether another task of its slot is to take its place. Known once [`Snapshot::settle`] has looked.
    pub(super) has_successor: bool,
    /// Whether it may be moved: see [`may_move`]. Once it is settled, not where it shares its slot with another.
    pub(super) is_movable: bool,
}

/// A task that waits for a node.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) task: TaskId,
    pub(super) part: usize,
    pub(super) slot: u32,
    created_index: u64,
    is_wanted: bool,
}

/// A copy of what plans are made of. Everybody's decisions wait while it is made, so it only takes what is copied at
/// once, and what follows from that is worked out later, by [`Snapshot::settle`].
#[derive(Debug)]
pub struct Snapshot {
    pub(super) settings: Settings,
    pub(super) fleet: Fleet,
    /// Jobs and tasks as they stand; given back once they were looked at.
    pub(super) jobs: Jobs,
    tasks: Tasks,
    pub(super) parts: Vec<Part>,
    pub(super) held: Vec<Held>,
    pub(super) waiting: Vec<Waiting>,
    /// How many instances of parts of batch jobs have completed.
    pub(super) completed: BTreeMap<(JobKey, SpecName), u32>,
    pub(super) round_robin_last: Option<NodeName>,
}

impl Snapshot {
    pub(super) fn of(state: &State, settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
            fleet: state.fleet.clone(),
            jobs: state.jobs.clone(),
            tasks: state.tasks.clone(),
            parts: Vec::new(),
            held: Vec::new(),
            waiting: Vec::new(),
            completed: BTreeMap::new(),
            round_robin_last: state.meta.round_robin_last.clone(),
        }
    }

    /// Looks at every task.
    fn gather(&mut self) {
        let jobs = std::mem::take(&mut self.jobs);
        let tasks = std::mem::take(&mut self.tasks);
        let mut parts: BTreeMap<VersionOf<'_>, Option<(usize, bool)>> = BTreeMap::new();
        let mut last = None;
        // In the order in which tasks lie, which is that of their making: those of a part mostly lie together.
        for (id, task) in &tasks {
            if task.state.is_terminal() {
                continue;
            }
            let name = (&task.job, &task.spec, task.version);
            let known = match last {
                Some((same, known)) if same == name => known,
                _ => {
                    *parts.entry(name).or_insert_with(|| self.part(&jobs, (name.0, name.1), name.2))
                }
            };
            last = Some((name, known));
            let Some((part, may_move)) = known else { continue };
            let Task { slot, created_index, .. } = *task;
            let (id, is_wanted) = (*id, task.is_wanted());
            match &task.node {
                Some(node) => self.held.push(Held {
                    task: id,
                    part,
                    slot,
                    created_index,
                    node: node.clone(),
                    is_ending: task.is_to_stop() || task.state == TaskState::Stopping,
                    is_running: task.state == TaskState::Running && !task.is_to_stop(),
                    is_wanted,
                    has_successor: false,
                    is_movable: may_move && task.state == TaskState::Running && !task.is_to_stop(),
                }),
                None => {
                    let waiting = Waiting { task: id, part, slot, created_index, is_wanted };
                    self.waiting.push(waiting);
                }
            }
        }
        self.completed = completed(&jobs, &tasks);
    }

    /// Looks at every task, puts them in the order of their jobs, parts and slots, and finds out which of one slot
    /// stand for each other.
    pub(super) fn settle(&mut self) {
        self.gather();
        let mut by_name: Vec<usize> = (0..self.parts.len()).collect();
        by_name.sort_by_key(|part| &self.parts[*part].group.name);
        // Versions of one part share their slots, and so their rank.
        let mut ranks = vec![0; self.parts.len()];
        for pair in by_name.windows(2) {
            let is_same = self.parts[pair[0]].group.name == self.parts[pair[1]].group.name;
            ranks[pair[1]] = ranks[pair[0]] + usize::from(!is_same);
        }
        self.held.sort_by_key(|held| (ranks[held.part], held.slot, held.created_index));
        self.waiting.sort_by_key(|waiting| (ranks[waiting.part], waiting.slot));
        // Of each slot: how many live, and which of those that are wanted was made last.
        let mut slots: BTreeMap<(usize, u32), (usize, u64)> = BTreeMap::new();
        let held = self.held.iter();
        let held = held.map(|held| (held.part, held.slot, held.created_index, held.is_wanted));
        let waiting = self.waiting.iter();
        let waiting = waiting.map(|one| (one.part, one.slot, one.created_index, one.is_wanted));
        for (part, slot, created_index, is_wanted) in held.chain(waiting) {
            let (living, newest) = slots.entry((ranks[part], slot)).or_default();
            *living += 1;
            if is_wanted {
                *newest = created_index.max(*newest);
            }
        }
        for held in &mut self.held {
            let (living, newest) =
                slots.get(&(ranks[held.part], held.slot)).copied().unwrap_or_default();
            held.has_successor = newest > held.created_index;
            held.is_movable &= living == 1;
        }
    }

    /// Takes in a part of a version, and whether its tasks may be moved.
    fn part(
        &mut self,
        jobs: &Jobs,
        (key, name): (&JobKey, &SpecName),
        version: u64,
    ) -> Option<(usize, bool)> {
        let job = jobs.get(key)?;
        let spec = job.versions.get(&version)?;
        let group = Group::of((key.clone(), name.clone()), Arc::clone(spec))?;
        let may_move = may_move(job, spec, group.spec());
        self.parts.push(Part { group, version });
        Some((self.parts.len() - 1, may_move))
    }

    /// Which moves would pay.
    pub fn rebalance(mut self, bounds: Bounds) -> RebalancePlan {
        self.settle();
        let base_log2 = self.fleet.base_log2();
        let before = shown(&self.fleet, base_log2);
        let by_node = self.by_node();
        let tasks_on = |node: &NodeName| {
            let held = by_node.get(node).into_iter().flatten().map(|place| &self.held[*place]);
            let movable = held.filter(|held| held.is_movable);
            let movable = movable.map(|held| Movable {
                task: held.task,
                demand: self.parts[held.part].group.demand(),
            });
            movable.collect()
        };
        let moves = rebalance::plan(&mut self.fleet, bounds, tasks_on).moves;
        let parts: BTreeMap<TaskId, usize> =
            self.held.iter().map(|held| (held.task, held.part)).collect();
        let moves = moves.into_iter().filter_map(|one| {
            let part = &self.parts[*parts.get(&one.task)?];
            Some(Move {
                task: part.task(Some(one.task)),
                from: one.from,
                to: one.to,
                cost_here: one.cost_here,
                cost_there: one.cost_there,
                successor: None,
            })
        });
        let moves = moves.collect();
        RebalancePlan { moves, before, after: shown(&self.fleet, base_log2) }
    }

    /// What would have to go from where so that so many more of a part fit, and what is ending there already.
    fn room(&self, part: usize, wanted: usize) -> Vec<plan::Seat> {
        let group = &self.parts[part].group;
        let Some(most) = displaceable(&self.settings, group.job.priority) else {
            return Vec::new();
        };
        let by_node = self.by_node();
        let find = |node: &NodeName| self.occupants(by_node.get(node), &BTreeSet::new());
        let demand = group.demand();
        let anywhere = Wanted::anywhere(wanted, Some(most));
        let seats = preempt::seats(&self.fleet, &demand, anywhere, find).seats;
        if group.spec().all_at_once && seats.len() < wanted {
            return Vec::new();
        }
        let parts: BTreeMap<TaskId, usize> =
            self.held.iter().map(|held| (held.task, held.part)).collect();
        let displaced = |task: TaskId, node: &NodeName| {
            let part = &self.parts[*parts.get(&task)?];
            Some(part.displaced(task, node))
        };
        let seat = |seat: preempt::Seat| {
            let victims = seat.victims.into_iter();
            let displaced = victims.filter_map(|task| displaced(task, &seat.node)).collect();
            plan::Seat { node: seat.node, displaced }
        };
        seats.into_iter().take(plan::SEATS_MAX).map(seat).collect()
    }

    /// The places of the tasks that each node has.
    pub(super) fn by_node(&self) -> BTreeMap<NodeName, Vec<usize>> {
        let mut by_node: BTreeMap<NodeName, Vec<usize>> = BTreeMap::new();
        for (place, held) in self.held.iter().enumerate() {
            match by_node.get_mut(&held.node) {
                Some(places) => places.push(place),
                None => drop(by_node.insert(held.node.clone(), vec![place])),
            }
        }
        by_node
    }

    /// Tasks by their places, without those that are gone.
    pub(super) fn occupants(
        &self,
        places: Option<&Vec<usize>>,
        gone: &BTreeSet<usize>,
    ) -> Vec<Occupant<'_>> {
        let places = places.into_iter().flatten().filter(|place| !gone.contains(place));
        let occupant = |place: &usize| {
            let held = &self.held[*place];
            let group = &self.parts[held.part].group;
            let demand = group.demand();
            Occupant {
                task: held.task,
                priority: group.job.priority,
                is_ending: held.is_ending,
                resources: demand.resources,
                ports: &group.spec().ports,
                kin: demand.kin,
            }
        };
        places.map(occupant).collect()
    }
}

impl Part {
    /// A task of this part.
    pub(super) fn task(&self, id: Option<TaskId>) -> TaskRef {
        let (key, spec) = &self.group.name;
        let (namespace, job) = (key.namespace.clone(), key.name.clone());
        TaskRef { id, namespace, job, spec: spec.clone() }
    }

    /// A task of this part that would have to go from its node.
    pub(super) fn displaced(&self, task: TaskId, node: &NodeName) -> plan::Displaced {
        plan::Displaced {
            task: self.task(Some(task)),
            priority: self.group.job.priority,
            node: Some(node.clone()),
            to: None,
        }
    }
}

/// How a fleet stands, as it is told.
pub(super) fn shown(fleet: &Fleet, base_log2: u32) -> Footing {
    let found = footing(fleet, base_log2);
    Footing { nodes: found.nodes, cost: found.cost, capacity: found.capacity, free: found.free }
}

/// How many instances of parts of batch jobs have completed, and are nobody's place any more.
fn completed(jobs: &Jobs, tasks: &Tasks) -> BTreeMap<(JobKey, SpecName), u32> {
    let mut completed = BTreeMap::new();
    for (key, job) in jobs {
        if job.spec().is_none_or(|spec| spec.job_type != JobType::Batch) {
            continue;
        }
        for (name, slots) in &job.slots {
            let has_completed = |ids: &&SlotTasks| {
                let mut all = ids.iter().filter_map(|id| tasks.get(id));
                let current = slot::current(tasks, ids).and_then(|id| tasks.get(&id));
                all.all(|task| task.state.is_terminal())
                    && current.is_some_and(|task| {
                        task.state == TaskState::Completed && task.version >= job.run_version
                    })
            };
            let count = slots.values().filter(has_completed).count();
            if count > 0 {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                completed.insert((key.clone(), name.clone()), count);
            }
        }
    }
    completed
}

/// Whether the tasks of a part of a version of a job may be moved for the sake of balance. What is about to be
/// replaced or stopped is not worth it. A batch task would lose what it has done; what a task has written to its
/// node stays behind; a job that waits for its nodes wants to be where it is; and no balance is worth a gap to one
/// whose tasks end before they start elsewhere.
pub(super) fn may_move(job: &Job, version: &JobSpec, spec: &TaskSpec) -> bool {
    let policy = drain::policy(version, &spec.name);
    let keeps_data = |spec: &TaskSpec| {
        spec.mounts.iter().any(|mount| match mount.source {
            MountSource::Volume { .. } => true,
            MountSource::Bind { .. } => !mount.read_only,
            MountSource::Tmpfs { .. } => false,
        })
    };
    let present = job.spec().filter(|present| present.fence == version.fence);
    let wanted = present.and_then(|present| present.spec(&spec.name));
    !job.stop_requested
        && version.job_type == JobType::Service
        && version.on_node_loss == OnNodeLoss::Replace
        && policy.order == ExchangeOrder::StartFirst
        && !keeps_data(spec)
        && wanted.is_some_and(|wanted| same_container(spec, wanted))
}

/// A task that is being explained: what is known at once, and a copy to work out the rest.
#[derive(Debug)]
pub struct Explaining {
    known: plan::TaskExplained,
    /// What it is of, unless it has ended.
    of: Option<(JobKey, SpecName, u64)>,
    snapshot: Snapshot,
}

impl Cluster {
    /// A copy of what plans are made of.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.state, &self.settings)
    }

    /// How much may be moved, of what was asked for.
    pub fn rebalance_bounds(&self, asked: &plan::Rebalance) -> Result<Bounds, ApiError> {
        super::moves::bounds(asked)
    }

    /// Begins to explain a task: [`Explaining::finish`] takes a while, and needs nothing of this.
    pub fn explain(
        &self,
        namespace: Option<&Namespace>,
        name: &NameTask,
    ) -> Result<Explaining, ApiError> {
        let view = self.task_get(namespace, name)?;
        let task = self.state.tasks.get(&view.id);
        let of = task
            .filter(|task| !task.state.is_terminal())
            .map(|task| (task.job.clone(), task.spec.clone(), task.version));
        let known = plan::TaskExplained {
            task: TaskRef {
                id: Some(view.id),
                namespace: view.namespace,
                job: view.job,
                spec: view.spec,
            },
            priority: task
                .and_then(|task| self.state.task_job_spec(task))
                .map_or(0, |job| job.priority),
            state: view.state,
            silent: view.silent,
            node: view.node,
            reason: view.reason,
            why: task.and_then(Task::why),
            placement: view.placement,
            now: None,
            room: Vec::new(),
        };
        Ok(Explaining { known, of, snapshot: self.snapshot() })
    }
}

impl Explaining {
    /// Looks at every node.
    pub fn finish(self) -> plan::TaskExplained {
        let Self { mut known, of, mut snapshot } = self;
        let Some((job, spec, version)) = of else { return known };
        // Only one that waits may displace others.
        let jobs = snapshot.jobs.clone();
        if known.state == TaskState::Pending {
            snapshot.gather();
        }
        let Some((part, _)) = snapshot.part(&jobs, (&job, &spec), version) else { return known };
        let group = &snapshot.parts[part].group;
        let demand = group.demand();
        if let Some(node) = &known.node {
            take_out(&mut snapshot.fleet, node, &demand);
        }
        let kind = group.job.scheduler.unwrap_or(snapshot.settings.scheduler);
        let policy = Policy::new(kind, snapshot.round_robin_last.as_ref());
        known.now = Some(standing(&snapshot.fleet, &demand, policy));
        if known.state == TaskState::Pending {
            let alike = |waiting: &&Waiting| snapshot.parts[waiting.part].group.name == group.name;
            let together = group.spec().all_at_once;
            let wanted = if together { snapshot.waiting.iter().filter(alike).count() } else { 1 };
            known.room = snapshot.room(part, wanted);
        }
        known
    }
}

fn standing(fleet: &Fleet, demand: &Demand<'_>, policy: Policy<'_>) -> plan::Standing {
    let found = ranking::of(fleet, demand, policy, BEST_MAX, REFUSED_MAX);
    let best = found.best.into_iter();
    let refused = found.refused.into_iter();
    let nothing = spread_over_nothing(fleet, demand.spread);
    plan::Standing {
        scheduler: policy.kind(),
        nodes: found.nodes,
        feasible: found.feasible,
        removed: found.rejected.iter().collect(),
        removed_text: found.rejected.to_string(),
        best: best.map(|one| plan::Candidate { node: one.node, cost: one.terms }).collect(),
        refused: refused
            .map(|one| plan::Refused { node: one.node, reason: one.reason, text: one.text })
            .collect(),
        closest: found.closest.map(|one| plan::Shortage { node: one.node, missing: one.missing }),
        spread_over_nothing: nothing.into_iter().map(ToString::to_string).collect(),
    }
}
