//! Answers to questions: what is known, in the form that clients see.

use std::collections::BTreeMap;
use std::ops::Bound;

use longshore_proto::api::{
    ClusterView, DrainView, JobVersion, JobView, ListJobs, ListNodes, ListTasks, NameNode,
    NameTask, NameVersion, NodeView, PAGE_MAX, Page, SpecView, TaskView,
};
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, Namespace, NodeName};
use longshore_proto::quantity::format_duration;
use longshore_proto::spec::{JobSpec, JobType, ReschedulePolicy};
use longshore_proto::state::{NodeStatus, TaskState};

use super::command::{no_job, no_task};
use super::eligibility::{how_to_prove, no_node};
use super::revise::no_version;
use super::state::{Job, Node, State, Task};
use super::{Cluster, drain, meaning};
use crate::time::Time;

impl Cluster {
    /// The cluster as a whole, but for its [tasks](State::count_tasks), which may be many. `payloads_refused` is the
    /// shell's count.
    pub fn cluster_view(&self, payloads_refused: u64) -> Result<ClusterView, ApiError> {
        let meta = &self.state.meta;
        let (Some(id), Some(leader)) = (meta.cluster, meta.leader) else {
            return Err(ApiError::new(ErrorCode::Unavailable, "the cluster has not begun yet")
                .hint("wait until a manager leads"));
        };
        let mut nodes: BTreeMap<String, u64> = BTreeMap::new();
        for node in self.state.nodes.values() {
            *nodes.entry(node.status.as_str().to_owned()).or_default() += 1;
        }
        let (warnings, mut alarms) = self.alarms();
        if meta.records_skipped > 0 {
            alarms.push(format!(
                "{} messages in the log were no records and were skipped; somebody else may write to it",
                meta.records_skipped
            ));
        }
        Ok(ClusterView {
            id,
            epoch: meta.epoch,
            leader,
            leader_name: meta.leader_name.clone(),
            manager_version: meta.leader_version.clone(),
            jobs: self.state.jobs.values().filter(|job| !job.status.is_terminal()).count() as u64,
            tasks: BTreeMap::new(),
            nodes,
            records_skipped: meta.records_skipped,
            payloads_refused,
            alarms,
            warnings,
            history: None,
        })
    }

    /// Tasks of one namespace, or of all.
    pub fn task_page(&self, namespace: Option<&Namespace>, list: &ListTasks) -> Page<TaskView> {
        // What follows a task is asked last, for it is the most to find out.
        let wanted = |id: &TaskId, task: &Task| {
            namespace.is_none_or(|namespace| task.job.namespace == *namespace)
                && list.job.as_ref().is_none_or(|job| task.job.name == *job)
                && list.node.as_ref().is_none_or(|node| task.node.as_ref() == Some(node))
                && (list.ended
                    || !task.state.is_terminal()
                    || list.given_up && self.what_follows(*id, task).is_some())
        };
        let tasks = &self.state.tasks;
        let found: Box<dyn Iterator<Item = (TaskId, &Task)>> = match self.among(namespace, list) {
            Some(ids) => Box::new(ids.filter_map(|id| Some((id, tasks.get(&id)?)))),
            None => {
                let after = list.after.map_or(Bound::Unbounded, Bound::Excluded);
                Box::new(tasks.range((after, Bound::Unbounded)).map(|(id, task)| (*id, task)))
            }
        };
        let found = found.filter(|(id, task)| wanted(id, task));
        page(found.map(|(id, task)| self.task_view(id, task)), list.limit)
    }

    /// The tasks among which those of a job or of a node are, in the order of their ids and behind the place that is asked
    /// for. `None` where a walk through all tasks is no longer: there may be a million of them, and whoever waits for a job
    /// asks every second.
    fn among(
        &self,
        namespace: Option<&Namespace>,
        list: &ListTasks,
    ) -> Option<Box<dyn Iterator<Item = TaskId> + '_>> {
        let state = &self.state;
        if let Some(name) = &list.job {
            let jobs: Vec<&Job> = match namespace {
                Some(namespace) => {
                    let key = JobKey { namespace: namespace.clone(), name: name.clone() };
                    state.jobs.get(&key).map(|job| &**job).into_iter().collect()
                }
                None => {
                    let named = state.jobs.iter().filter(|(key, _)| key.name == *name);
                    named.map(|(_, job)| &**job).collect()
                }
            };
            let slots: usize = jobs.iter().map(|job| job.slots_count()).sum();
            // A page of a walk takes as many steps as there are tasks to one of the job, times its length.
            let page = PAGE_MAX as usize;
            if slots.saturating_mul(slots) <= state.tasks.len().saturating_mul(page) {
                let slots = jobs.iter().flat_map(|job| job.slots.values());
                let ids = slots.flat_map(BTreeMap::values).flatten().copied();
                let mut ids: Vec<TaskId> =
                    ids.filter(|id| list.after.is_none_or(|after| *id > after)).collect();
                ids.sort_unstable();
                return Some(Box::new(ids.into_iter()));
            }
        }
        let name = list.node.as_ref()?;
        let place = (list.after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        // A node that was removed has no live ones, and those that ended there are known yet.
        let node = state.nodes.get(name);
        let live = node.into_iter().flat_map(move |node| node.tasks.range(place).copied());
        // One that has ended is shown where those are asked for, or where it is the last of its instance.
        let wants_ended = list.ended || list.given_up;
        let ended = state.ended_on.get(name).filter(|_| wants_ended);
        let ended = ended.into_iter().flat_map(move |ended| ended.range(place).copied());
        Some(Box::new(in_order(live, ended)))
    }

    /// One task.
    pub fn task_get(
        &self,
        namespace: Option<&Namespace>,
        name: &NameTask,
    ) -> Result<TaskView, ApiError> {
        let id = self.state.find_task(namespace, &name.id)?;
        let task = self.state.tasks.get(&id).ok_or_else(|| no_task(&name.id))?;
        Ok(self.task_view(id, task))
    }

    /// What a version of a job says.
    pub fn job_version(
        &self,
        namespace: &Namespace,
        asked: &NameVersion,
    ) -> Result<JobVersion, ApiError> {
        let key = JobKey { namespace: namespace.clone(), name: asked.name.clone() };
        let job = self.state.jobs.get(&key).ok_or_else(|| no_job(&key))?;
        let version = asked.version.unwrap_or(job.version);
        let spec = job.versions.get(&version).ok_or_else(|| no_version(&key, job, version))?;
        let versions = job.versions.keys().copied().collect();
        Ok(JobVersion { version, versions, job: JobSpec::clone(spec) })
    }

    /// Nodes.
    pub fn node_page(&self, list: &ListNodes, now: Time) -> Page<NodeView> {
        let after = list.after.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let found = self.state.nodes.range((after, Bound::Unbounded));
        page(found.map(|(name, node)| self.node_view(name, node, now)), list.limit)
    }

    /// One node.
    pub fn node_get(&self, name: &NameNode, now: Time) -> Result<NodeView, ApiError> {
        let node = self.state.nodes.get(&name.name).ok_or_else(|| no_node(&name.name))?;
        let mut view = self.node_view(&name.name, node, now);
        if let Some(drain) = &mut view.drain {
            drain.waits = drain::waits(&self.state, node);
        }
        Ok(view)
    }

    fn task_view(&self, id: TaskId, task: &Task) -> TaskView {
        let spec = self.state.task_spec(task);
        let on_silent_node =
            task.node.as_ref().and_then(|node| self.state.nodes.get(node)).is_some_and(|node| {
                matches!(node.status, NodeStatus::Suspect | NodeStatus::Lost | NodeStatus::Left)
            });
        let blocked = || {
            let job = self.state.jobs.get(&task.job)?;
            (task.state == TaskState::Pending).then(|| job.blocked.get(&task.spec).cloned())?
        };
        let stopping = || {
            let stop = task.stop()?;
            (!task.state.is_terminal()).then(|| format!("stopping: {stop}"))
        };
        let unproven = || {
            let name = task.node.as_ref()?;
            let node = self.state.nodes.get(name)?;
            let waits = node.status == NodeStatus::Lost
                && !task.state.is_terminal()
                && self.state.is_fenced(task);
            waits.then(|| {
                format!(
                    "its node {name} is lost and its job is fenced: it is replaced when {name} says that it has ended, \
                     or an operator: {}",
                    how_to_prove(name)
                )
            })
        };
        let told = || match (task.reason(), self.what_follows(id, task)) {
            (Some(reason), Some(follows)) => Some(format!("{reason}; {follows}")),
            (reason, follows) => reason.map(str::to_owned).or(follows),
        };
        TaskView {
            id,
            namespace: task.job.namespace.clone(),
            job: task.job.name.clone(),
            spec: task.spec.clone(),
            slot: task.slot,
            version: task.version,
            state: task.state,
            silent: on_silent_node && !task.state.is_terminal(),
            attempt: task.attempt,
            node: task.node.clone(),
            container_id: task.container_id(),
            image: spec.map(|spec| spec.image.clone()).unwrap_or_default(),
            ports: if task.ports().is_empty() {
                spec.map(|spec| spec.ports.clone()).unwrap_or_default()
            } else {
                task.ports().to_vec()
            },
            health: task.health.map(|health| health.status),
            exit_code: task.exit_code(),
            reason: unproven().or_else(told).or_else(stopping).or_else(blocked),
            placement: self.state.placement(task),
            replaces: task.replaces,
            created_at_ms: task.created_at_ms,
            started_at_ms: task.started_at_ms,
            finished_at_ms: task.finished_at_ms(),
        }
    }

    /// What follows a task that its node has given up while something is to run in its place.
    fn what_follows(&self, id: TaskId, task: &Task) -> Option<String> {
        if !matches!(task.state, TaskState::Failed | TaskState::Completed) {
            return None;
        }
        let job = self.state.jobs.get(&task.job).filter(|job| !job.stop_requested)?;
        let is_service = job.spec()?.job_type == JobType::Service;
        let goes_on = is_service || task.state == TaskState::Failed && !job.status.is_terminal();
        if !goes_on || task.version < job.run_version {
            return None;
        }
        let spec = job.spec()?.spec(&task.spec).filter(|spec| task.slot < spec.instances)?;
        let ids = self.state.slot(&task.job, &task.spec, task.slot);
        let current = self.state.current(ids)?;
        let of = (&**job, &**job.spec()?, Some(spec));
        let stands = || {
            current == id
                || meaning::failed_successor(&self.state, current, of)
                    .is_some_and(|(last, _)| last == id)
        };
        if !stands() {
            return None;
        }
        Some(match (meaning::next_try(task, spec.reschedule.as_ref()), &spec.reschedule) {
            (Some((delay_ms, _)), _) => {
                format!("another one follows after {}", format_duration(delay_ms))
            }
            (None, Some(ReschedulePolicy { attempts: Some(attempts @ 1..), .. })) => {
                format!("none follows: `reschedule` allows {attempts} in a row")
            }
            (None, _) => "none follows: `reschedule` allows none".to_owned(),
        })
    }

    fn node_view(&self, name: &NodeName, node: &Node, now: Time) -> NodeView {
        let heard = self.live.nodes.get(name);
        NodeView {
            name: name.clone(),
            id: node.facts.id,
            datacenter: node.facts.datacenter.clone(),
            status: node.status,
            eligibility: node.eligibility,
            labels: node.labels.clone(),
            labels_set: node.labels_set.clone(),
            drain: node.drain.as_ref().map(|drain| DrainView {
                actor: drain.actor.clone(),
                started_at_ms: drain.started_at_ms,
                deadline_ms: drain.deadline_ms,
                left_ms: self.live.drains.left_ms(name, drain, now),
                overdue: drain.is_overdue,
                drained: drain.is_done,
                waits: Vec::new(),
            }),
            attributes: node.facts.attributes.clone(),
            capacity: node.facts.capacity,
            committed: self
                .state
                .fleet
                .node(name)
                .map(|node| node.committed)
                .unwrap_or(longshore_proto::spec::Resources::ZERO),
            used: heard.and_then(|heard| heard.used),
            tasks: node.tasks.len() as u64,
            tasks_max: node.facts.tasks_max,
            mount_paths: node.facts.mount_paths.clone(),
            heard_ms_ago: heard.map(|heard| now - heard.at),
            runtime_error: heard.and_then(|heard| heard.runtime_error.clone()),
            worker_version: node.facts.version.clone(),
        }
    }
}

impl State {
    /// How many tasks are in each state.
    pub fn count_tasks(&self) -> BTreeMap<TaskState, u64> {
        let mut counts = BTreeMap::new();
        for task in self.tasks.values() {
            *counts.entry(task.state).or_default() += 1;
        }
        counts
    }

    /// How many tasks a look at a job goes through, or nearly.
    pub fn tasks_of(&self, job: &JobKey) -> usize {
        self.jobs.get(job).map_or(0, |job| job.slots_count())
    }

    /// A copy of the jobs and tasks, made at once, to look at beside the loop.
    pub fn copy_of_jobs(&self) -> Self {
        let (meta, jobs, tasks) = (self.meta.clone(), self.jobs.clone(), self.tasks.clone());
        Self { meta, jobs, tasks, ..Self::default() }
    }

    /// Jobs of one namespace, or of all.
    pub fn job_page(&self, namespace: Option<&Namespace>, list: &ListJobs) -> Page<JobView> {
        let after = list.after.clone().map(|(namespace, name)| JobKey { namespace, name });
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = self
            .jobs
            .range((after, Bound::Unbounded))
            .filter(|(key, _)| namespace.is_none_or(|namespace| key.namespace == *namespace));
        page(found.filter_map(|(key, job)| self.job_view(key, job)), list.limit)
    }

    /// One job.
    pub fn job_get(&self, key: &JobKey) -> Result<JobView, ApiError> {
        let job = self.jobs.get(key).ok_or_else(|| no_job(key))?;
        self.job_view(key, job).ok_or_else(|| no_job(key))
    }

    fn job_view(&self, key: &JobKey, job: &Job) -> Option<JobView> {
        let present = job.spec()?;
        let specs = present.specs.iter().map(|spec| {
            let latest = job
                .slots
                .get(&spec.name)
                .into_iter()
                .flat_map(BTreeMap::values)
                .filter_map(|ids| self.current(ids));
            let latest: Vec<&Task> = latest
                .filter_map(|id| self.tasks.get(&id))
                .filter(|task| task.version >= job.run_version || !task.state.is_terminal())
                .collect();
            let states: Vec<TaskState> = latest.iter().map(|task| task.state).collect();
            let is_outdated = |task: &&&Task| {
                let of = (&**present, Some(spec));
                // What is of the present version is wanted, and need not be compared.
                task.state == TaskState::Running
                    && task.version != job.version
                    && !meaning::is_wanted(self, job, task, of)
            };
            let count = |wanted: &[TaskState]| {
                u32::try_from(states.iter().filter(|state| wanted.contains(state)).count())
                    .unwrap_or(u32::MAX)
            };
            SpecView {
                name: spec.name.clone(),
                image: spec.image.clone(),
                instances: spec.instances,
                running: count(&[TaskState::Running]),
                pending: count(&[TaskState::Pending]),
                starting: count(&[TaskState::Assigned, TaskState::Preparing]),
                completed: count(&[TaskState::Completed]),
                failed: count(&[TaskState::Failed]),
                outdated: u32::try_from(latest.iter().filter(is_outdated).count())
                    .unwrap_or(u32::MAX),
            }
        });
        Some(JobView {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            job_type: present.job_type,
            version: job.version,
            status: job.status,
            priority: present.priority,
            datacenters: present.datacenters.clone(),
            specs: specs.collect(),
            created_at_ms: job.created_at_ms,
            rolled_back: job.rolled_back.clone(),
        })
    }
}

impl Job {
    fn slots_count(&self) -> usize {
        self.slots.values().map(BTreeMap::len).sum()
    }
}

/// The items of two iterators that are in order, in order.
fn in_order<T: Ord>(
    one: impl Iterator<Item = T>,
    other: impl Iterator<Item = T>,
) -> impl Iterator<Item = T> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(first), Some(second)) if second < first => other.next(),
        (None, _) => other.next(),
        _ => one.next(),
    })
}

/// The first items, as many as were asked for and are allowed, and whether there are more.
fn page<T>(mut items: impl Iterator<Item = T>, limit: Option<u32>) -> Page<T> {
    let limit = limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX) as usize;
    let taken: Vec<T> = items.by_ref().take(limit).collect();
    Page { items: taken, more: items.next().is_some() }
}
