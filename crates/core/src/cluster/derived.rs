//! What of the state is derived from what is stored: the fleet, a job's slots, a node's tasks, what waits. Kept
//! up to date by [`State::apply`], and rebuilt here when state is loaded.

use std::cmp::Reverse;
use std::sync::Arc;

use longshore_proto::id::TaskId;
use longshore_proto::name::NodeName;
use longshore_proto::state::{Eligibility, TaskState};
use longshore_scheduler::plan::size;
use longshore_scheduler::{Demand, Fleet, GroupId, Machine};

use super::record::NodeFacts;
use super::state::{Node, State, Task, WaitingKey, remembered_from_ms};

impl State {
    /// Rebuilds everything that is derived from the stored parts.
    pub(super) fn derive_all(&mut self) {
        self.fleet = Fleet::default();
        self.waiting.clear();
        self.share_names();
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
        let mut ids: Vec<(u64, TaskId)> =
            self.tasks.iter().map(|(id, task)| (task.created_index, *id)).collect();
        ids.sort_unstable();
        for (_, id) in ids {
            self.derive_task(id);
        }
    }

    /// Tasks name their job, part and node by the text that those have: what was read from a store has one of its
    /// own for each, which would be a hundred bytes a task.
    fn share_names(&mut self) {
        for task in self.tasks.values_mut() {
            if let Some((key, job)) = self.jobs.get_key_value(&task.job) {
                task.job = key.clone();
                let spec = job.versions.get(&task.version).and_then(|spec| spec.spec(&task.spec));
                if let Some(spec) = spec {
                    task.spec = spec.name.clone();
                }
            }
            let known =
                |name: &NodeName| self.nodes.get_key_value(name).map(|(name, _)| name.clone());
            if let Some(name) = task.node.as_ref().and_then(known) {
                task.node = Some(name);
            }
            if let Some((runner_up, name)) = task.why.as_mut().and_then(|why| {
                let runner_up = why.runner_up.as_mut()?;
                let name = known(&runner_up.node)?;
                Some((runner_up, name))
            }) {
                runner_up.node = name;
            }
        }
    }

    pub(super) fn derive_node(&mut self, name: &NodeName) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.labels.clone_from(&node.facts.labels);
            node.labels.extend(node.labels_set.clone());
            self.fleet.upsert(name, &machine(node, node.eligibility));
        }
    }

    pub(super) fn derive_task(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else { return };
        let (job, spec, slot) = (task.job.clone(), task.spec.clone(), task.slot);
        let (node, state) = (task.node.clone(), task.state);
        if let Some(key) = self.waiting_key(task) {
            self.waiting.entry(key).or_default().insert(id);
        }
        if let Some(job) = self.jobs.get_mut(&job).map(Arc::make_mut) {
            // Most slots never have another task: a list of one takes a quarter of the usual first room.
            let new = || Vec::with_capacity(1);
            job.slots.entry(spec).or_default().entry(slot).or_insert_with(new).push(id);
        }
        if let Some(name) = node
            && state.holds_resources()
        {
            self.with_demand(id, |fleet, demand| fleet.reserve(&name, demand));
            if let Some(node) = self.nodes.get_mut(&name) {
                node.tasks.insert(id);
            }
        }
    }

    /// Where a task stands among those that wait; `None` when it does not wait.
    pub(super) fn waiting_key(&self, task: &Task) -> Option<WaitingKey> {
        if task.state != TaskState::Pending {
            return None;
        }
        let job = self.task_job_spec(task)?;
        let spec = job.spec(&task.spec)?;
        Some((
            Reverse(job.priority),
            Reverse(size(spec.resources)),
            task.job.clone(),
            task.spec.clone(),
            task.version,
        ))
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
