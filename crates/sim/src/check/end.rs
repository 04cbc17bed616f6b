//! What must come about once faults stop: convergence, no orphans, a leader, no starvation, equal stores.

use std::collections::{BTreeMap, BTreeSet};

use longshore_core::cluster::state::{Job, Node, SlotTasks, State, Task};
use longshore_core::leadership::log::check_followed;
use longshore_proto::id::TaskId;
use longshore_proto::name::JobKey;
use longshore_proto::spec::{Port, Resources, TaskSpec};
use longshore_proto::state::{Eligibility, NodeStatus, TaskState};

use super::{Violation, violated};
use crate::disk::ManagerContent;
use crate::manager::node_name;

/// What runs where: task and attempt by machine.
pub type Running = BTreeMap<usize, BTreeSet<(TaskId, u64)>>;

/// E-1, E-2, E-4: whether everything is as it should be.
pub fn settled(state: &State, running: &Running) -> Result<(), Violation> {
    if let Err(broken) = check_followed(state) {
        return violated("E-1", broken.to_string());
    }
    for (key, job) in &state.jobs {
        converged(state, key, job)?;
    }
    for (worker, running) in running {
        no_orphans(state, *worker, running)?;
    }
    no_starvation(state)
}

/// E-1: a job has what it wants, or says why not.
fn converged(state: &State, key: &JobKey, job: &Job) -> Result<(), Violation> {
    let Some(spec) = job.spec() else { return violated("E-1", format!("{key} has no spec")) };
    for (name, slots) in &job.slots {
        // An instance that is to move has a successor that may wait for a place.
        let lives = |id: &TaskId| state.tasks.get(id).is_some_and(|task| !task.state.is_terminal());
        let live = slots.values().filter(|ids| ids.iter().any(lives)).count();
        let wanted = spec.spec(name).map_or(0, |spec| spec.instances as usize);
        if (job.stop_requested && live > 0) || live > wanted {
            return violated(
                "E-1",
                format!("{key} has {live} live instances of {name} and wants fewer"),
            );
        }
    }
    if job.stop_requested || job.status.is_terminal() {
        return Ok(());
    }
    for part in &spec.specs {
        let slots = job.slots.get(&part.name).into_iter().flat_map(BTreeMap::values);
        let is_settled = |ids: &&SlotTasks| {
            let tasks = ids.iter().filter_map(|id| state.tasks.get(id));
            // A move that came to nothing leaves an instance where it was, also when that has ended since.
            let runs =
                tasks.clone().any(|task| task.state == TaskState::Running && !task.is_to_stop());
            let latest =
                tasks.max_by_key(|task| (!task.state.is_terminal(), task.finished_at_ms()));
            runs || latest.is_some_and(|task| match task.state {
                TaskState::Completed | TaskState::Failed => task.version >= job.run_version,
                TaskState::Pending => job.blocked.contains_key(&part.name),
                _ => false,
            })
        };
        let settled = slots.filter(is_settled).count();
        if settled < part.instances as usize {
            return violated(
                "E-1",
                format!(
                    "{key}: {settled} of {} instances of {} are settled",
                    part.instances, part.name
                ),
            );
        }
    }
    Ok(())
}

/// E-2: the containers that run on a machine are the tasks that run on its node.
fn no_orphans(
    state: &State,
    worker: usize,
    running: &BTreeSet<(TaskId, u64)>,
) -> Result<(), Violation> {
    let node = state.nodes.get(&node_name(worker));
    let wanted: BTreeSet<(TaskId, u64)> = node
        .into_iter()
        .flat_map(|node| &node.tasks)
        .filter_map(|id| Some((*id, state.tasks.get(id)?)))
        .filter(|(_, task)| task.state == TaskState::Running)
        .map(|(id, task)| (id, task.attempt))
        .collect();
    if let Some((task, attempt)) = running.difference(&wanted).next() {
        return violated(
            "E-2",
            format!("n{worker} runs attempt {attempt} of task {task}, which it should not"),
        );
    }
    if let Some((task, attempt)) = wanted.difference(running).next() {
        return violated("E-2", format!("n{worker} does not run attempt {attempt} of task {task}"));
    }
    Ok(())
}

/// E-4: nothing waits that fits somewhere. What is placed all at once may wait although some of it would fit.
fn no_starvation(state: &State) -> Result<(), Violation> {
    for ids in state.waiting.values() {
        let Some((id, task)) = ids.first().and_then(|id| Some((*id, state.tasks.get(id)?))) else {
            continue;
        };
        let Some(spec) = state.task_spec(task).filter(|spec| !spec.all_at_once) else { continue };
        if let Some((name, _)) = state.nodes.iter().find(|(_, node)| fits(state, node, task, spec))
        {
            return violated("E-4", format!("task {id} waits, and fits on {name}"));
        }
    }
    Ok(())
}

fn fits(state: &State, node: &Node, task: &Task, spec: &TaskSpec) -> bool {
    let there = || {
        let tasks = node.tasks.iter().filter_map(|id| state.tasks.get(id));
        tasks.filter_map(|task| Some((task, state.task_spec(task)?)))
    };
    let held = there().fold(Resources::ZERO, |sum, (_, spec)| sum.saturating_add(spec.resources));
    let is_taken = |port: &Port| {
        let ports = there().flat_map(|(_, spec)| &spec.ports);
        ports.into_iter().any(|other| (other.host, other.protocol) == (port.host, port.protocol))
    };
    let is_kin = |other: &Task| (&other.job, &other.spec) == (&task.job, &task.spec);
    node.status == NodeStatus::Ready
        && node.eligibility == Eligibility::Open
        && held.saturating_add(spec.resources).fits_in(node.facts.capacity)
        && !spec.ports.iter().any(is_taken)
        && !(spec.distinct_hosts && there().any(|(other, _)| is_kin(other)))
}

/// I-3: a manager's store reads back as the state of its last record.
pub fn store(number: usize, content: &ManagerContent, truth: &State) -> Result<(), Violation> {
    let pairs = content.state.iter().map(|(key, value)| Ok((key.into(), value.into())));
    let loaded = match State::load(pairs) {
        Ok(loaded) => loaded,
        Err(error) => return violated("I-3", format!("m{number}'s store cannot be read: {error}")),
    };
    super::decision::whole(&loaded)?;
    if loaded.meta.index == truth.meta.index && loaded.dump() != truth.dump() {
        return violated(
            "I-3",
            format!("m{number}'s store differs from the log at record {}", truth.meta.index),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use longshore_core::cluster::record::{Fact, NodeFacts};
    use longshore_proto::id::{BootId, NodeId, Revision};
    use longshore_proto::name::Datacenter;
    use longshore_proto::spec::{JobSpec, JobType};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_task_that_waits_although_it_fits_is_noticed() {
        let mut state = State::default();
        let job = JobSpec::new(
            "j".parse().unwrap(),
            JobType::Service,
            TaskSpec::new("s".parse().unwrap(), "steady:1"),
        );
        let (key, task) = (job.key(), TaskId(Uuid::from_u128(1)));
        let node = |capacity| NodeFacts {
            id: NodeId(Uuid::from_u128(2)),
            boot: BootId(Uuid::from_u128(3)),
            datacenter: Datacenter::standard(),
            labels: BTreeMap::new(),
            attributes: BTreeMap::new(),
            capacity,
            tasks_max: 10,
            mount_paths: Vec::new(),
            version: String::new(),
        };
        let small = Resources { cpu_millis: 1, memory_bytes: 1, disk_bytes: 0 };
        let large = Resources { cpu_millis: 9_000, memory_bytes: 1 << 40, disk_bytes: 1 << 40 };
        let mut apply = |fact: Fact| {
            state.apply(&fact, Revision { epoch: 1, index: 1 }, 0, &mut Default::default());
            no_starvation(&state)
        };
        let registered = |name: usize, capacity| Fact::NodeRegistered {
            name: node_name(name),
            node: node(capacity),
        };
        let (job, actor) = (Arc::new(job), String::new());
        apply(Fact::JobSubmitted { version: 1, job, actor, rolled_back: None }).unwrap();
        apply(registered(0, small)).unwrap();
        let created = Fact::TaskCreated {
            task,
            job: key,
            spec: "s".parse().unwrap(),
            slot: 0,
            version: 1,
            replaces: None,
            failures: 0,
        };
        apply(created).unwrap();
        let violation = apply(registered(1, large)).unwrap_err();
        assert_eq!(violation.id, "E-4");
    }
}
