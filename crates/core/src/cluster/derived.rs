//! What of the state is derived from what is stored: the fleet, a job's slots, a node's tasks, what waits. Kept
//! up to date by [`State::apply`], and rebuilt here when state is loaded.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, NodeName};
use longshore_proto::spec::{JobSpec, TaskSpec};
use longshore_proto::state::{Eligibility, TaskState};
use longshore_scheduler::plan::size;
use longshore_scheduler::{Demand, Fleet, GroupId, Machine};

use super::place::Group;
use super::record::NodeFacts;
use super::state::{Node, State, Task, WaitingKey, remembered_from_ms};

impl State {
    /// Rebuilds everything that is derived from the stored parts.
    pub(super) fn derive_all(&mut self) {
        self.fleet = Fleet::default();
        self.waiting.clear();
        self.ended_on.clear();
        let by_time = self
            .commands
            .iter()
            .map(|(key, command)| (remembered_from_ms(key, command.at_ms), key.clone()));
        self.commands_by_time = by_time.collect();
        for job in self.jobs.values_mut() {
            Arc::make_mut(job).slots.clear();
        }
        for node in self.nodes.values_mut() {
            node.tasks.clear();
        }
        let names: Vec<NodeName> = self.nodes.keys().cloned().collect();
        for name in &names {
            self.derive_node(name);
        }
        self.derive_tasks();
    }

    /// Tasks of a part mostly lie together: what they share is looked up once for all of them.
    fn derive_tasks(&mut self) {
        let tasks = std::mem::take(&mut self.tasks);
        let mut rest = tasks.iter().peekable();
        while let Some((_, first)) = rest.peek().copied() {
            let name = (first.job.clone(), first.spec.clone());
            let version = self.task_job_spec(first).map(Arc::clone);
            let group = version.and_then(|version| Group::of(name, version));
            let waiting = self.part_waiting_key(first);
            let job = self.jobs.get_mut(&first.job).map(Arc::make_mut);
            let mut slots = job.map(|job| job.slots.entry(first.spec.clone()).or_default());
            let is_alike = |task: &Task| {
                (task.version, &task.job, &task.spec) == (first.version, &first.job, &first.spec)
            };
            while let Some((id, task)) = rest.next_if(|(_, task)| is_alike(task)) {
                if let Some(slots) = &mut slots {
                    let age = |id: &TaskId| tasks.get(id).map(|task| (task.created_index, *id));
                    slots.entry(task.slot).or_default().insert(*id, age);
                }
                if task.state == TaskState::Pending
                    && let Some(key) = &waiting
                {
                    self.waiting.entry(key.clone()).or_default().insert(*id);
                }
                let Some(name) = &task.node else { continue };
                if task.state.is_terminal() {
                    note_ended(&mut self.ended_on, name, *id);
                }
                if !task.state.holds_resources() {
                    continue;
                }
                if let Some(group) = &group {
                    self.fleet.reserve(name, &group.demand());
                }
                if let Some(node) = self.nodes.get_mut(name) {
                    node.tasks.insert(*id);
                }
            }
        }
        self.tasks = tasks;
    }

    pub(super) fn derive_node(&mut self, name: &NodeName) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.labels.clone_from(&node.facts.labels);
            node.labels.extend(node.labels_set.clone());
            self.fleet.upsert(name, &machine(node, node.offered()));
        }
    }

    /// Takes in a task that was just made, and waits for a node.
    pub(super) fn derive_task(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else { return };
        let (job, spec, slot) = (task.job.clone(), task.spec.clone(), task.slot);
        if let Some(key) = self.waiting_key(task) {
            self.waiting.entry(key).or_default().insert(id);
        }
        if let Some(job) = self.jobs.get_mut(&job).map(Arc::make_mut) {
            job.slots.entry(spec).or_default().entry(slot).or_default().push(id);
        }
    }

    /// Where a task stands among those that wait; `None` when it does not wait.
    pub(super) fn waiting_key(&self, task: &Task) -> Option<WaitingKey> {
        if task.state == TaskState::Pending { self.part_waiting_key(task) } else { None }
    }

    /// Where those of a task's part and version that wait stand.
    fn part_waiting_key(&self, task: &Task) -> Option<WaitingKey> {
        let job = self.task_job_spec(task)?;
        let spec = job.spec(&task.spec)?;
        Some(waiting_key(&task.job, job, spec, task.version))
    }

    pub(super) fn with_demand(&mut self, id: TaskId, act: impl FnOnce(&mut Fleet, &Demand<'_>)) {
        let Some(task) = self.tasks.get(&id) else { return };
        let Some(job) = self.jobs.get(&task.job).and_then(|job| job.versions.get(&task.version))
        else {
            return;
        };
        let Some(spec) = job.spec(&task.spec) else { return };
        let kin = GroupId::of_spec(&task.job, &task.spec);
        let image = GroupId::of_image(&spec.image);
        let demand = Demand::of_spec(job, spec, Some(kin), Some(image));
        act(&mut self.fleet, &demand);
    }
}

/// Takes in a task that has ended on a node.
pub(super) fn note_ended(
    ended_on: &mut BTreeMap<NodeName, BTreeSet<TaskId>>,
    node: &NodeName,
    id: TaskId,
) {
    match ended_on.get_mut(node) {
        Some(ended) => drop(ended.insert(id)),
        None => drop(ended_on.insert(node.clone(), BTreeSet::from([id]))),
    }
}

/// Where tasks of a part and a version stand while they wait.
pub(super) fn waiting_key(
    job: &JobKey,
    spec: &JobSpec,
    part: &TaskSpec,
    version: u64,
) -> WaitingKey {
    (Reverse(spec.priority), Reverse(size(part.resources)), job.clone(), part.name.clone(), version)
}

/// A node as the scheduler is told of it.
pub(super) fn machine(node: &Node, eligibility: Eligibility) -> Machine<'_> {
    let NodeFacts { datacenter, attributes, capacity, tasks_max, mount_paths, .. } = &node.facts;
    Machine {
        datacenter,
        labels: &node.labels,
        attributes,
        mount_paths,
        status: node.status,
        eligibility,
        capacity: *capacity,
        tasks_max: *tasks_max,
    }
}
