//! Decisions that make a job's next version out of one that is there: another count, the same once more, an earlier
//! one again; and a task that makes way for one that begins anew.
//!
//! None of them needs a fact of its own: the log has a version of a job, or a task that is to end, and the reconciler
//! does what follows from that.

use std::sync::Arc;

use longshore_proto::api::{JobSubmitted, TaskStopped};
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, Namespace, SpecName};
use longshore_proto::spec::JobSpec;
use longshore_proto::state::TaskState;
use longshore_proto::validate;

use super::command::{live_task, no_job, stop_one};
use super::draft::Draft;
use super::record::{CommandAnswer, Fact};
use super::state::Job;

/// Stores a job as it is wanted from now on; the version that is there, when nothing differs and it still runs.
pub(super) fn store(draft: &mut Draft<'_>, job: JobSpec, actor: &str) -> CommandAnswer {
    let key = job.key();
    let present = draft.state.jobs.get(&key);
    let version = match present {
        Some(present)
            if !has_ended(present) && present.spec().is_some_and(|spec| **spec == job) =>
        {
            present.version
        }
        _ => {
            let version = present.map_or(1, |present| present.version + 1);
            let (job, actor) = (Arc::new(job), actor.to_owned());
            draft.record(Fact::JobSubmitted { version, job, actor, rolled_back: None });
            version
        }
    };
    submitted(key, version)
}

/// Another number of instances of one part.
pub(super) fn scale(
    draft: &mut Draft<'_>,
    key: &JobKey,
    spec: Option<&SpecName>,
    instances: u32,
    actor: &str,
) -> Result<CommandAnswer, ApiError> {
    let (job, current) = current(draft, key)?;
    if has_ended(job) {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!("the job {} is {}", key.name, job.status.as_str()),
        )
        .hint(format!("`longshore restart {}` runs it again, as it was", key.name)));
    }
    let spec = match (spec, current.specs.as_slice()) {
        (Some(spec), _) => part(current, spec)?,
        (None, [only]) => only.name.clone(),
        (None, parts) => {
            let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
            return Err(ApiError::new(
                ErrorCode::Ambiguous,
                format!("the job {} has the parts {}", key.name, names.join(", ")),
            )
            .hint(format!(
                "name one of them: {}.{}",
                key.name,
                names.first().unwrap_or(&"")
            )));
        }
    };
    let mut scaled = JobSpec::clone(current);
    for part in scaled.specs.iter_mut().filter(|part| part.name == spec) {
        part.instances = instances;
    }
    validate::job(&scaled)?;
    let version = job.version + u64::from(scaled != **current);
    if version != job.version {
        let (job, actor) = (key.clone(), actor.to_owned());
        draft.record(Fact::JobScaled { job, version, spec, instances, actor });
    }
    Ok(submitted(key.clone(), version))
}

/// The same once more: its tasks are exchanged as for any other change, and one that has ended is run again.
pub(super) fn restart(
    draft: &mut Draft<'_>,
    key: &JobKey,
    spec: Option<&SpecName>,
    actor: &str,
) -> Result<CommandAnswer, ApiError> {
    let (_, current) = current(draft, key)?;
    let only = spec.map(|spec| part(current, spec)).transpose()?;
    let mut again = JobSpec::clone(current);
    for part in &mut again.specs {
        let is_meant = only.as_ref().is_none_or(|only| part.name == *only);
        part.restarts = part.restarts.wrapping_add(u32::from(is_meant));
    }
    Ok(store(draft, again, actor))
}

/// An earlier version again, as the next one.
pub(super) fn roll_back(
    draft: &mut Draft<'_>,
    key: &JobKey,
    version: Option<u64>,
    actor: &str,
) -> Result<CommandAnswer, ApiError> {
    let (job, current) = current(draft, key)?;
    let wanted = match version {
        Some(version) if version == job.version => {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("version {version} is what the job {} is now", key.name),
            )
            .hint(format!("`longshore job history {}` shows the others", key.name)));
        }
        Some(version) => job.versions.get(&version).ok_or_else(|| no_version(key, job, version))?,
        None => {
            // One that differs in more than how often its tasks have begun anew.
            let differs =
                |spec: &&Arc<JobSpec>| JobSpec::clone(spec).following(Some(current)) != **current;
            let earlier = job.versions.range(..job.version).rev().map(|(_, spec)| spec);
            earlier.into_iter().find(differs).ok_or_else(|| {
                ApiError::new(
                    ErrorCode::Conflict,
                    format!("the job {} has no earlier version that differs", key.name),
                )
                .hint("submit a job file that says what it is to be")
            })?
        }
    };
    let again = JobSpec::clone(wanted).following(Some(current));
    Ok(store(draft, again, actor))
}

/// A new task in the place of one.
pub(super) fn restart_task(
    draft: &mut Draft<'_>,
    namespace: &Namespace,
    id: &str,
    actor: &str,
) -> Result<CommandAnswer, ApiError> {
    let (id, task) = live_task(draft.state, namespace, id)
        .map_err(|error| match error.code {
            ErrorCode::Conflict => error.hint(
                "`longshore restart JOB` starts again what has ended of a job, and `longshore ps --job JOB` shows \
                 what runs in its place",
            ),
            _ => error,
        })?;
    let (job, current) = current(draft, &task.job)?;
    if job.stop_requested {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!("the job {} is stopping", task.job.name),
        )
        .hint(format!("`longshore restart {}` runs it again", task.job.name)));
    }
    if task.state == TaskState::Pending {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!("task {id} waits for a node: there is nothing yet to begin anew"),
        )
        .hint(format!("`longshore explain {id}` says what it waits for")));
    }
    let ids = draft.state.slot(&task.job, &task.spec, task.slot);
    let follows = |other: &&TaskId| {
        let other = draft.state.tasks.get(other);
        other.is_some_and(|other| other.replaces == Some(id) && !other.state.is_terminal())
    };
    // It ends by itself, once that one is up.
    if let Some(successor) = ids.iter().find(follows) {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!("task {id} is being replaced already, by {successor}"),
        )
        .hint(format!("`longshore status {successor}` shows how far that is")));
    }
    let instances = current.spec(&task.spec).map_or(0, |spec| spec.instances);
    stop_one(draft, id, format!("restarted by {actor}"));
    let (job, spec) = (task.job.name.clone(), task.spec.clone());
    Ok(CommandAnswer::TaskStopped(TaskStopped { id, job, spec, instances }))
}

/// There is no such version of a job any more, or never was.
pub(super) fn no_version(key: &JobKey, job: &Job, version: u64) -> ApiError {
    let known: Vec<String> = job.versions.keys().map(u64::to_string).collect();
    ApiError::new(
        ErrorCode::NotFound,
        format!("there is no version {version} of the job {}", key.name),
    )
    .hint(format!("these are remembered: {}", known.join(", ")))
}

fn current<'a>(
    draft: &'a Draft<'_>,
    key: &JobKey,
) -> Result<(&'a Job, &'a Arc<JobSpec>), ApiError> {
    let job = draft.state.jobs.get(key).ok_or_else(|| no_job(key))?;
    let spec = job.spec().ok_or_else(|| no_job(key))?;
    Ok((job, spec))
}

fn part(job: &JobSpec, spec: &SpecName) -> Result<SpecName, ApiError> {
    if job.spec(spec).is_some() {
        return Ok(spec.clone());
    }
    let names: Vec<&str> = job.specs.iter().map(|part| part.name.as_str()).collect();
    Err(ApiError::new(ErrorCode::NotFound, format!("the job {} has no part {spec}", job.name))
        .hint(format!("it has {}", names.join(", "))))
}

fn has_ended(job: &Job) -> bool {
    job.stop_requested || job.status.is_terminal()
}

fn submitted(key: JobKey, version: u64) -> CommandAnswer {
    CommandAnswer::Submitted(JobSubmitted { namespace: key.namespace, name: key.name, version })
}
