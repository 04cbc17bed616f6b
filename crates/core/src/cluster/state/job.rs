//! What facts about jobs change: their versions, and how much of their past is remembered.

use std::collections::BTreeMap;
use std::sync::Arc;

use longshore_proto::api::RolledBack;
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, SpecName};
use longshore_proto::spec::JobSpec;
use longshore_proto::state::JobStatus;

use super::{Job, State};
use crate::cluster::changes::Changes;
use crate::cluster::rollout;

/// How many ended tasks a slot remembers besides the current one.
const ENDED_TASKS_PER_SLOT: usize = 4;
/// How many versions a job remembers besides those that tasks still run.
const VERSIONS_PER_JOB: usize = 10;

impl State {
    pub(super) fn apply_submit(
        &mut self,
        version: u64,
        spec: &Arc<JobSpec>,
        rolled_back: Option<&RolledBack>,
        at_ms: u64,
        changes: &mut Changes,
    ) {
        let key = spec.key();
        if !self.jobs.contains_key(&key) {
            self.jobs.insert(key.clone(), Arc::new(Job::new(version, at_ms)));
        }
        let is_whole = rollout::goes_back(spec) && rollout::is_whole(self, &key, at_ms);
        let Some(job) = self.jobs.get_mut(&key).map(Arc::make_mut) else { return };
        if job.stop_requested || job.status.is_terminal() {
            (job.run_version, job.reached) = (version, None);
        } else if is_whole {
            job.reached = Some(job.version);
        }
        job.rolled_back = rolled_back.cloned();
        job.version = version;
        job.versions.insert(version, Arc::clone(spec));
        job.stop_requested = false;
        job.status = JobStatus::Pending;
        job.changed_at_ms = at_ms;
        job.blocked.clear();
        // What waits must say why anew.
        changes.freed = true;
        changes.versions.insert((key.clone(), version));
        self.prune_versions(&key, changes);
        changes.touch_job(&key);
    }

    pub(super) fn apply_scale(
        &mut self,
        key: &JobKey,
        version: u64,
        spec: &SpecName,
        instances: u32,
        changes: &mut Changes,
    ) {
        let Some(job) = self.jobs.get_mut(key).map(Arc::make_mut) else { return };
        let Some(current) = job.spec() else { return };
        let mut scaled = JobSpec::clone(current);
        for candidate in scaled.specs.iter_mut().filter(|candidate| candidate.name == *spec) {
            candidate.instances = instances;
        }
        job.versions.insert(version, Arc::new(scaled));
        if job.reached == Some(job.version) {
            job.reached = Some(version);
        }
        job.version = version;
        changes.versions.insert((key.clone(), version));
        self.prune_versions(key, changes);
    }

    pub(super) fn apply_forget(&mut self, key: &JobKey, changes: &mut Changes) {
        let Some(job) = self.jobs.remove(key) else { return };
        for task in job.slots.values().flat_map(BTreeMap::values).flatten() {
            self.forget_task(*task, changes);
        }
        changes.versions.extend(job.versions.keys().map(|version| (key.clone(), *version)));
        changes.touch_job(key);
    }

    /// Forgets a task that has ended.
    fn forget_task(&mut self, id: TaskId, changes: &mut Changes) {
        changes.tasks.insert(id);
        let Some(node) = self.tasks.remove(&id).and_then(|task| task.node) else { return };
        if let Some(ended) = self.ended_on.get_mut(&node) {
            ended.remove(&id);
            if ended.is_empty() {
                self.ended_on.remove(&node);
            }
        }
    }

    pub(super) fn prune_slot(
        &mut self,
        job: &JobKey,
        spec: &SpecName,
        slot: u32,
        changes: &mut Changes,
    ) {
        let slots = self.jobs.get(job).and_then(|job| job.slots.get(spec));
        let held = slots.and_then(|slots| slots.get(&slot)).map_or(0, |ids| ids.len());
        if held <= ENDED_TASKS_PER_SLOT + 1 {
            return;
        }
        let Some(ids) = self
            .jobs
            .get_mut(job)
            .map(Arc::make_mut)
            .and_then(|job| job.slots.get_mut(spec))
            .and_then(|slots| slots.get_mut(&slot))
        else {
            return;
        };
        let mut forgotten = Vec::new();
        while ids.len() > ENDED_TASKS_PER_SLOT + 1 {
            let ended =
                |id: &TaskId| self.tasks.get(id).is_none_or(|task| task.state.is_terminal());
            let Some(oldest) = ids.iter().copied().find(ended) else { break };
            ids.remove(oldest);
            forgotten.push(oldest);
        }
        forgotten.into_iter().for_each(|id| self.forget_task(id, changes));
    }

    fn prune_versions(&mut self, key: &JobKey, changes: &mut Changes) {
        let Some(job) = self.jobs.get_mut(key).map(Arc::make_mut) else { return };
        if job.versions.len() <= VERSIONS_PER_JOB {
            return;
        }
        // However many tasks there are, they are of few versions.
        let mut used: Vec<u64> = Vec::new();
        let tasks = job.slots.values().flat_map(BTreeMap::values).flatten();
        for task in tasks.filter_map(|id| self.tasks.get(id)) {
            if !used.contains(&task.version) {
                used.push(task.version);
            }
        }
        let (current, reached) = (job.version, job.reached);
        while job.versions.len() > VERSIONS_PER_JOB {
            let oldest = job.versions.keys().copied().find(|version| {
                ![Some(current), reached].contains(&Some(*version)) && !used.contains(version)
            });
            let Some(oldest) = oldest else { return };
            job.versions.remove(&oldest);
            changes.versions.insert((key.clone(), oldest));
        }
    }
}
