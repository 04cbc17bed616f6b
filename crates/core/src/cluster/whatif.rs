//! What would happen if: a change is made to a copy, and everything that is without a node then is placed there
//! by the same functions, in the same order, that would place it in truth.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::TaskId;
use longshore_proto::name::{Datacenter, JobKey, NodeName, SpecName};
use longshore_proto::node::TASKS_MAX_USUAL;
use longshore_proto::plan::{
    Displaced, LISTED_MAX, NODES_ADDED_MAX, Outlook, Placed, Unplaced, WhatIf,
};
use longshore_proto::spec::{ExchangeOrder, JobSpec, JobType, OnNodeLoss, Resources};
use longshore_proto::state::{Eligibility, NodeStatus};
use longshore_proto::validate;
use longshore_scheduler::plan::gang::{self, Short};
use longshore_scheduler::plan::preempt::{self, Wanted};
use longshore_scheduler::plan::size;
use longshore_scheduler::{Fleet, Machine, Policy, Scheduler};

use super::drain;
use super::meaning;
use super::place::Group;
use super::reconcile::same_container;
use super::room::displaceable;
use super::snapshot::{Part, Snapshot, Waiting, shown};

/// How long a reason may be, in characters: constraints that are not met are told with their text.
const REASON_LENGTH_MAX: usize = 500;

/// The order of placing, as of [`WaitingKey`](super::state::WaitingKey).
type Key = (Reverse<u8>, Reverse<u64>, JobKey, SpecName, u64);

/// A task that wants a node.
#[derive(Debug)]
struct Want {
    task: Option<TaskId>,
    from: Option<NodeName>,
    /// The task that goes on until this one is up, by its place; where it ends first, or there is none, nothing.
    succeeds: Option<usize>,
}

/// The tasks of a part that want a node.
#[derive(Debug, Default)]
struct Lot {
    part: usize,
    wants: Vec<Want>,
}

/// A change that is tried.
#[derive(Debug)]
struct Trial {
    snapshot: Snapshot,
    lots: BTreeMap<Key, Lot>,
    /// Tasks that have left their node, by their places.
    gone: BTreeSet<usize>,
    /// Those of them that go on until all is placed.
    lingering: Vec<usize>,
    placed: Vec<Placed>,
    placed_total: u64,
    /// Tasks that are displaced, by their places.
    displaced: Vec<usize>,
    /// Where each of them goes, if anywhere.
    moved: BTreeMap<TaskId, Option<NodeName>>,
    ended: u64,
    unplaced: Vec<Unplaced>,
    unplaced_total: u64,
}

impl Snapshot {
    /// What would happen if.
    ///
    /// # Errors
    /// The question names what does not exist, or breaks a rule.
    pub fn whatif(mut self, question: &WhatIf) -> Result<Outlook, ApiError> {
        // How often the job's tasks have begun anew is known before the jobs are taken apart.
        let submitted = match question {
            WhatIf::Submit { job } => Some(self.submitted(job)?),
            _ => None,
        };
        self.settle();
        let before = self.fleet.clone();
        let mut trial = Trial {
            snapshot: self,
            lots: BTreeMap::new(),
            gone: BTreeSet::new(),
            lingering: Vec::new(),
            placed: Vec::new(),
            placed_total: 0,
            displaced: Vec::new(),
            moved: BTreeMap::new(),
            ended: 0,
            unplaced: Vec::new(),
            unplaced_total: 0,
        };
        match question {
            WhatIf::Drain { nodes } => trial.drain(nodes)?,
            WhatIf::Lose { nodes } => trial.lose(nodes)?,
            WhatIf::Add { nodes, capacity, datacenter, labels } => {
                let datacenter = datacenter.clone().unwrap_or_else(Datacenter::standard);
                add(&mut trial.snapshot.fleet, *nodes, *capacity, &datacenter, labels)?;
            }
            WhatIf::Submit { .. } => submitted.into_iter().for_each(|job| trial.submit(job)),
        }
        for Waiting { task, part, .. } in std::mem::take(&mut trial.snapshot.waiting) {
            trial.want(part, Some(task), None);
        }
        trial.settle();
        trial.let_go();
        let base_log2 = before.base_log2().max(trial.snapshot.fleet.base_log2());
        let snapshot = &trial.snapshot;
        let displaced = |place: &usize| {
            let held = &snapshot.held[*place];
            let to = trial.moved.get(&held.task).cloned().flatten();
            Displaced { to, ..snapshot.parts[held.part].displaced(held.task, &held.node) }
        };
        Ok(Outlook {
            before: shown(&before, base_log2),
            after: shown(&snapshot.fleet, base_log2),
            displaced: trial.displaced.iter().take(LISTED_MAX).map(displaced).collect(),
            displaced_total: trial.displaced.len() as u64,
            placed: trial.placed,
            placed_total: trial.placed_total,
            ended_total: trial.ended,
            unplaced: trial.unplaced,
            unplaced_total: trial.unplaced_total,
        })
    }
}

impl Snapshot {
    /// A job as it would be stored.
    fn submitted(&self, job: &JobSpec) -> Result<JobSpec, ApiError> {
        validate::job(job)?;
        let present = self.jobs.get(&job.key()).and_then(|present| present.spec());
        Ok(job.clone().resolve().following(present.map(|spec| &**spec)))
    }
}

impl Trial {
    fn drain(&mut self, nodes: &[NodeName]) -> Result<(), ApiError> {
        let nodes = self.known(nodes)?;
        for node in &nodes {
            self.tell(node, None, Some(Eligibility::Draining));
        }
        for place in self.on(&nodes) {
            let held = &self.snapshot.held[place];
            let group = &self.snapshot.parts[held.part].group;
            let order = drain::policy(&group.job, &group.name.1).order;
            if held.is_ending {
                continue;
            }
            if held.has_successor {
                self.leave(place, false);
            } else if group.job.job_type == JobType::Service && order == ExchangeOrder::StartFirst {
                self.linger(place);
            } else {
                self.leave(place, true);
            }
        }
        Ok(())
    }

    /// A task wants another node, and ends only when all is placed.
    fn linger(&mut self, place: usize) {
        if self.gone.insert(place) {
            self.lingering.push(place);
            let held = &self.snapshot.held[place];
            let (part, task, node) = (held.part, held.task, held.node.clone());
            self.want(part, Some(task), Some(node));
        }
    }

    /// Whether a task goes on until its successor, one of another part, is up.
    fn starts_first(&self, place: usize, part: usize) -> bool {
        let group = &self.snapshot.parts[part].group;
        let order = meaning::update(&group.job, Some(group.spec())).order;
        self.snapshot.held[place].is_running && order == ExchangeOrder::StartFirst
    }

    /// A task is exchanged for one of another part, and ends once that has a node.
    fn exchange(&mut self, place: usize, part: usize) {
        if self.gone.insert(place) {
            let held = &self.snapshot.held[place];
            let (task, from) = (Some(held.task), Some(held.node.clone()));
            self.want_of(part, Want { task, from, succeeds: Some(place) });
        }
    }

    /// What has lingered ends.
    fn let_go(&mut self) {
        for place in std::mem::take(&mut self.lingering) {
            self.release(place);
        }
    }

    fn lose(&mut self, nodes: &[NodeName]) -> Result<(), ApiError> {
        let nodes = self.known(nodes)?;
        for node in &nodes {
            self.tell(node, Some(NodeStatus::Lost), None);
        }
        for place in self.on(&nodes) {
            let held = &self.snapshot.held[place];
            let part = &self.snapshot.parts[held.part];
            if held.is_ending && !part.group.job.fence {
                self.leave(place, false);
            } else if part.group.job.fence {
                let reason = "its job is fenced, and waits for a proof that it has ended there \
                              (`longshore node confirm-lost`)";
                self.lack(held.part, 1, 1, reason.to_owned());
            } else if part.group.job.on_node_loss == OnNodeLoss::Wait {
                let reason = "its job waits for nodes that are lost".to_owned();
                self.lack(held.part, 1, 1, reason);
            } else {
                self.leave(place, true);
            }
        }
        Ok(())
    }

    /// Tells the fleet that a node has another standing.
    fn tell(
        &mut self,
        node: &NodeName,
        status: Option<NodeStatus>,
        eligibility: Option<Eligibility>,
    ) {
        let Some(known) = self.snapshot.fleet.node(node).cloned() else { return };
        let machine = Machine {
            datacenter: &known.datacenter,
            labels: &known.labels,
            attributes: &known.attributes,
            mount_paths: &known.mount_paths,
            status: status.unwrap_or(known.status),
            eligibility: eligibility.unwrap_or(known.eligibility),
            capacity: known.capacity,
            tasks_max: known.tasks_max,
        };
        self.snapshot.fleet.upsert(node, &machine);
    }

    fn known(&self, nodes: &[NodeName]) -> Result<BTreeSet<NodeName>, ApiError> {
        if nodes.is_empty() {
            return Err(ApiError::new(ErrorCode::Invalid, "no node is named").hint("name some"));
        }
        match nodes.iter().find(|node| self.snapshot.fleet.node(node).is_none()) {
            Some(node) => {
                Err(ApiError::new(ErrorCode::NotFound, format!("there is no node {node}"))
                    .hint("`longshore node ls` lists the nodes"))
            }
            None => Ok(nodes.iter().cloned().collect()),
        }
    }

    /// The places of the tasks on some nodes.
    fn on(&self, nodes: &BTreeSet<NodeName>) -> Vec<usize> {
        let held = self.snapshot.held.iter().enumerate();
        held.filter(|(_, held)| nodes.contains(&held.node)).map(|(place, _)| place).collect()
    }

    fn submit(&mut self, job: JobSpec) {
        let (key, job) = (job.key(), Arc::new(job));
        // What there is of each part, by slot: tasks with a node by their places, and those that wait.
        let mut present: BTreeMap<SpecName, BTreeMap<u32, Present>> = BTreeMap::new();
        let held = self.snapshot.held.iter().enumerate();
        for (place, held) in held.filter(|(_, held)| !held.is_ending) {
            let (of, spec) = &self.snapshot.parts[held.part].group.name;
            if *of == key {
                let slots = present.entry(spec.clone()).or_default();
                slots.insert(held.slot, Present::Held(place));
            }
        }
        let (of_job, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.snapshot.waiting)
            .into_iter()
            .partition(|waiting| self.snapshot.parts[waiting.part].group.name.0 == key);
        self.snapshot.waiting = others;
        for Waiting { task, part, slot, .. } in of_job {
            let spec = self.snapshot.parts[part].group.name.1.clone();
            present.entry(spec).or_default().insert(slot, Present::Waiting(task, part));
        }
        let version = self.snapshot.parts.iter().map(|part| part.version).max().unwrap_or(0) + 1;
        for spec in &job.specs {
            let name = (key.clone(), spec.name.clone());
            let completed = self.snapshot.completed.get(&name).copied().unwrap_or(0);
            let Some(group) = Group::of(name, Arc::clone(&job)) else {
                continue;
            };
            self.snapshot.parts.push(Part { group, version });
            let new = self.snapshot.parts.len() - 1;
            let mut missing = spec.instances.saturating_sub(completed);
            for (_, one) in present.remove(&spec.name).unwrap_or_default() {
                let part = match &one {
                    Present::Held(place) => self.snapshot.held[*place].part,
                    Present::Waiting(_, part) => *part,
                };
                let present = &self.snapshot.parts[part].group;
                let stays = same_container(present.spec(), spec) && present.job.fence == job.fence;
                match one {
                    _ if missing == 0 => self.end(one),
                    Present::Held(_) if stays => missing -= 1,
                    Present::Held(place) if self.starts_first(place, new) => {
                        missing -= 1;
                        self.exchange(place, new);
                    }
                    Present::Held(place) => {
                        missing -= 1;
                        self.leave(place, false);
                        let held = &self.snapshot.held[place];
                        let (task, from) = (held.task, held.node.clone());
                        self.want(new, Some(task), Some(from));
                    }
                    Present::Waiting(task, _) => {
                        missing -= 1;
                        self.want(new, Some(task), None);
                    }
                }
            }
            (0..missing).for_each(|_| self.want(new, None, None));
        }
        for one in present.into_values().flat_map(BTreeMap::into_values) {
            self.end(one);
        }
    }

    /// A task just ends.
    fn end(&mut self, one: Present) {
        self.ended += 1;
        if let Present::Held(place) = one {
            self.leave(place, false);
        }
    }

    /// A task leaves its node, and may want another one.
    fn leave(&mut self, place: usize, wants: bool) {
        if !self.gone.insert(place) {
            return;
        }
        let held = &self.snapshot.held[place];
        let (part, task, node) = (held.part, held.task, held.node.clone());
        self.release(place);
        if wants {
            self.want(part, Some(task), Some(node));
        }
    }

    fn want(&mut self, part: usize, task: Option<TaskId>, from: Option<NodeName>) {
        self.want_of(part, Want { task, from, succeeds: None });
    }

    fn want_of(&mut self, part: usize, want: Want) {
        let Part { group, version } = &self.snapshot.parts[part];
        let (job, spec) = group.name.clone();
        let size = size(group.spec().resources);
        let key = (Reverse(group.job.priority), Reverse(size), job, spec, *version);
        let lot = self.lots.entry(key).or_default();
        lot.part = part;
        lot.wants.push(want);
    }

    /// Places what wants a node, the most important first, until nothing is left that could be.
    fn settle(&mut self) {
        let by_node = self.snapshot.by_node();
        let mut scheduler = Scheduler::default();
        while let Some((_, Lot { part, wants })) = self.lots.pop_first() {
            let together = self.snapshot.parts[part].group.spec().all_at_once;
            let (beside, wants): (Vec<Want>, Vec<Want>) =
                wants.into_iter().partition(|want| want.succeeds.is_some());
            let (gang, singles): (Vec<Want>, Vec<Want>) =
                wants.into_iter().partition(|want| together && want.from.is_none());
            let (mut left, mut reason) = self.place(&mut scheduler, part, singles);
            if left.is_empty() {
                (left, reason) = self.place_gang(&mut scheduler, part, gang);
            } else {
                left.extend(gang);
            }
            let left = self.displace(&by_node, part, left);
            if !left.is_empty() {
                let placed_now = left.iter().filter(|want| want.from.is_some()).count();
                self.lack(part, left.len(), placed_now, reason);
            }
            self.roll_out(&mut scheduler, &by_node, part, beside);
        }
    }

    /// Places successors beside the tasks that they follow, as many at a time as the part allows: those end before the next ones
    /// have their turn. A successor that waits for room is under way, too, so the rest may never have their turn.
    fn roll_out(
        &mut self,
        scheduler: &mut Scheduler,
        by_node: &BTreeMap<NodeName, Vec<usize>>,
        part: usize,
        beside: Vec<Want>,
    ) {
        let group = &self.snapshot.parts[part].group;
        let parallel = meaning::update(&group.job, Some(group.spec())).parallel as usize;
        let (mut rest, mut waiting) = (VecDeque::from(beside), Vec::new());
        let mut reason;
        loop {
            let next = rest.len().min(parallel.saturating_sub(waiting.len()));
            waiting.extend(rest.drain(..next));
            let followed: Vec<usize> = waiting.iter().filter_map(|want| want.succeeds).collect();
            (waiting, reason) = self.place(scheduler, part, waiting);
            waiting = self.displace(by_node, part, waiting);
            let stays: BTreeSet<usize> = waiting.iter().filter_map(|want| want.succeeds).collect();
            if stays.len() == followed.len() {
                break;
            }
            for place in followed.into_iter().filter(|place| !stays.contains(place)) {
                self.release(place);
            }
        }
        if let tasks @ 1.. = waiting.len() + rest.len() {
            self.lack(part, tasks, tasks, format!("beside what runs, which goes on: {reason}"));
        }
    }

    /// A task gives back what it holds of its node.
    fn release(&mut self, place: usize) {
        let held = &self.snapshot.held[place];
        let demand = self.snapshot.parts[held.part].group.demand();
        self.snapshot.fleet.release(&held.node, &demand);
    }

    /// Places tasks alike, each for itself. Gives those that do not fit, and why.
    fn place(
        &mut self,
        scheduler: &mut Scheduler,
        part: usize,
        wants: Vec<Want>,
    ) -> (Vec<Want>, String) {
        let snapshot = &mut self.snapshot;
        let group = &snapshot.parts[part].group;
        let demand = group.demand();
        let kind = group.job.scheduler.unwrap_or(snapshot.settings.scheduler);
        let policy = Policy::new(kind, snapshot.round_robin_last.as_ref());
        let nodes = scheduler.place_alike(&mut snapshot.fleet, &demand, policy, wants.len());
        let nodes: Vec<NodeName> = nodes.into_iter().map(|node| node.name.clone()).collect();
        let last = nodes.last().or(snapshot.round_robin_last.as_ref()).cloned();
        let mut reason = String::new();
        if nodes.len() < wants.len() {
            let policy = Policy::new(kind, last.as_ref());
            if let Err(mut unplaceable) = scheduler.place(&snapshot.fleet, &demand, policy) {
                unplaceable.look_closer(&snapshot.fleet, &demand);
                reason = unplaceable.to_string();
            }
        }
        snapshot.round_robin_last = last;
        let mut wants = wants.into_iter();
        for (node, want) in nodes.into_iter().zip(wants.by_ref()) {
            self.list(part, want, node);
        }
        (wants.collect(), reason)
    }

    /// Places tasks together. Gives all of them when they do not fit, and why.
    fn place_gang(
        &mut self,
        scheduler: &mut Scheduler,
        part: usize,
        wants: Vec<Want>,
    ) -> (Vec<Want>, String) {
        let snapshot = &mut self.snapshot;
        let group = &snapshot.parts[part].group;
        let demand = group.demand();
        let kind = group.job.scheduler.unwrap_or(snapshot.settings.scheduler);
        let turn = (kind, snapshot.round_robin_last.as_ref());
        let fleet = &mut snapshot.fleet;
        match gang::place(scheduler, fleet, &demand, turn, wants.len(), |_| true) {
            Ok(placements) => {
                for (want, placement) in wants.into_iter().zip(placements) {
                    let demand = self.snapshot.parts[part].group.demand();
                    self.snapshot.fleet.reserve(&placement.node, &demand);
                    self.list(part, want, placement.node);
                }
                (Vec::new(), String::new())
            }
            Err(Short { fit, unplaceable }) => {
                let all = wants.len();
                let reason = format!(
                    "{fit} of {all} would fit, and they are placed all at once; {unplaceable}"
                );
                (wants, reason)
            }
        }
    }

    /// Displaces less important tasks for tasks that fit nowhere. Gives those for which even that is not enough.
    fn displace(
        &mut self,
        by_node: &BTreeMap<NodeName, Vec<usize>>,
        part: usize,
        mut wants: Vec<Want>,
    ) -> Vec<Want> {
        let snapshot = &self.snapshot;
        let group = &snapshot.parts[part].group;
        let Some(most) = displaceable(&snapshot.settings, group.job.priority) else { return wants };
        if wants.is_empty() {
            return wants;
        }
        let find = |node: &NodeName| snapshot.occupants(by_node.get(node), &self.gone);
        let demand = group.demand();
        let anywhere = Wanted::anywhere(wants.len(), Some(most));
        let seats = preempt::seats(&snapshot.fleet, &demand, anywhere, find).seats;
        if group.spec().all_at_once && seats.len() < wants.len() {
            return wants;
        }
        let places: BTreeMap<TaskId, usize> = seats
            .iter()
            .flat_map(|seat| by_node.get(&seat.node).into_iter().flatten())
            .map(|place| (snapshot.held[*place].task, *place))
            .collect();
        let left = wants.split_off(seats.len().min(wants.len()));
        for (want, seat) in wants.into_iter().zip(seats) {
            for victim in seat.victims.iter().filter_map(|task| places.get(task)) {
                self.displaced.push(*victim);
                self.moved.insert(self.snapshot.held[*victim].task, None);
                self.leave(*victim, true);
            }
            let demand = self.snapshot.parts[part].group.demand();
            self.snapshot.fleet.reserve(&seat.node, &demand);
            self.list(part, want, seat.node);
        }
        left
    }

    fn list(&mut self, part: usize, want: Want, to: NodeName) {
        self.placed_total += 1;
        if let Some(moved) = want.task.and_then(|task| self.moved.get_mut(&task)) {
            *moved = Some(to.clone());
        }
        if self.placed.len() < LISTED_MAX {
            let task = self.snapshot.parts[part].task(want.task);
            self.placed.push(Placed { task, from: want.from, to });
        }
    }

    /// Notes that tasks have no node.
    fn lack(&mut self, part: usize, tasks: usize, placed_now: usize, mut reason: String) {
        if let Some((cut, _)) = reason.char_indices().nth(REASON_LENGTH_MAX) {
            reason.truncate(cut);
            reason.push('…');
        }
        self.unplaced_total += tasks as u64;
        let (key, spec) = self.snapshot.parts[part].group.name.clone();
        let (tasks, placed_now) = (tasks as u64, placed_now as u64);
        let same = |one: &&mut Unplaced| {
            (&one.namespace, &one.job, &one.spec) == (&key.namespace, &key.name, &spec)
                && one.reason == reason
        };
        if let Some(known) = self.unplaced.iter_mut().find(same) {
            known.tasks += tasks;
            known.placed_now += placed_now;
            return;
        }
        if self.unplaced.len() == LISTED_MAX {
            return;
        }
        let JobKey { namespace, name: job } = key;
        self.unplaced.push(Unplaced { namespace, job, spec, tasks, placed_now, reason });
    }
}

/// What there is of an instance.
#[derive(Debug, Clone, Copy)]
enum Present {
    /// A task with a node, by its place.
    Held(usize),
    /// A task that waits, and its part.
    Waiting(TaskId, usize),
}

/// Adds nodes alike, each measured and idle.
fn add(
    fleet: &mut Fleet,
    nodes: u32,
    capacity: Resources,
    datacenter: &Datacenter,
    labels: &BTreeMap<String, String>,
) -> Result<(), ApiError> {
    if nodes == 0 || nodes > NODES_ADDED_MAX {
        return Err(ApiError::new(ErrorCode::Invalid, format!("{nodes} nodes cannot be added"))
            .hint(format!("use 1 to {NODES_ADDED_MAX}")));
    }
    let machine = Machine {
        datacenter,
        labels,
        attributes: &BTreeMap::new(),
        mount_paths: &[],
        status: NodeStatus::Ready,
        eligibility: Eligibility::Open,
        capacity,
        tasks_max: TASKS_MAX_USUAL,
    };
    let names = (1..).filter_map(|number: u32| format!("new-{number}").parse::<NodeName>().ok());
    let mut free = Vec::new();
    for name in names {
        if fleet.node(&name).is_none() {
            free.push(name);
        }
        if free.len() == nodes as usize {
            break;
        }
    }
    for name in free {
        fleet.upsert(&name, &machine);
        fleet.set_measured(&name, Some(Resources::ZERO));
    }
    Ok(())
}
