//! Decisions on requests that change something.

use longshore_proto::api::{JobStopped, TaskStopped};
use longshore_proto::codec;
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::{CommandId, TaskId};
use longshore_proto::name::{JobKey, Namespace, UserName};
use longshore_proto::permission::Role;
use longshore_proto::spec::{JobSpec, JobType};
use longshore_proto::state::JobStatus;
use longshore_proto::validate;

use super::draft::Draft;
use super::effect::{Effect, Reply};
use super::input::{Command, Ticket};
use super::record::{Audit, CommandAnswer, CommandKey, Fact, Hash};
use super::state::{State, Task};
use super::{Live, eligibility, moves, revise};

/// Decides on a command, or repeats the answer that it got before.
pub(super) fn decide(
    draft: &mut Draft<'_>,
    live: &mut Live,
    ticket: Ticket,
    (role, user): (Role, UserName),
    actor: Option<String>,
    id: CommandId,
    command: &Command,
) {
    let actor =
        actor.map_or_else(|| format!("{role}/{user}"), |said| format!("{role}/{user} ({said})"));
    let key = CommandKey { role, user, id };
    let request = Hash::of(&codec::encode(command));
    let reply = match known(draft, &key, request) {
        Some(answer) => answer,
        None => grant(draft, live, command, &actor).inspect(|answer| {
            let (verb, of) = command.told();
            let nodes = command.nodes().to_vec();
            let audit = Audit { actor: actor.clone(), verb: verb.to_owned(), of, nodes };
            let (answer, audit) = (answer.clone(), Some(audit));
            draft.record(Fact::CommandGranted { key, request, answer, audit });
        }),
    };
    // "There is no such job" is for the leader to say; that a spec is illegal anybody may.
    if reply.as_ref().is_err_and(|refusal| refusal.code != ErrorCode::Invalid) {
        draft.confirm();
    }
    draft.effect(Effect::Answer { ticket, reply: Reply::Command(reply) });
}

/// The answer to a command that was seen before, or that is too old to tell.
fn known(
    draft: &Draft<'_>,
    key: &CommandKey,
    request: Hash,
) -> Option<Result<CommandAnswer, ApiError>> {
    if let Some(command) = draft.state.commands.get(key) {
        if command.request == request {
            return Some(Ok(command.answer.clone()));
        }
        let error = ApiError::new(
            ErrorCode::CommandReused,
            format!("the command id {} was used for another request", key.id),
        )
        .hint(
            "make a fresh UUID v7 for each request, and repeat it only for a retry of the same one",
        );
        return Some(Err(error));
    }
    let Some(minted_at_ms) = key.id.minted_at_ms() else {
        let error =
            ApiError::new(ErrorCode::Invalid, format!("the command id {} is no UUID v7", key.id))
                .hint("make a fresh UUID v7 for each request");
        return Some(Err(error));
    };
    if minted_at_ms <= draft.state.commands_forgotten_ms() {
        let error = ApiError::new(
            ErrorCode::CommandReused,
            "the command id is older than what is remembered (24 hours), so the outcome is unknown",
        )
        .hint("look at what is there, then send the request with a fresh id if it is still wanted");
        return Some(Err(error));
    }
    None
}

fn grant(
    draft: &mut Draft<'_>,
    live: &mut Live,
    command: &Command,
    actor: &str,
) -> Result<CommandAnswer, ApiError> {
    match command {
        Command::SubmitJob(job) => submit(draft, job, actor),
        Command::StopJob(key) => stop_job(draft, key, actor),
        Command::ScaleJob { job, spec, instances } => {
            revise::scale(draft, job, spec.as_ref(), *instances, actor)
        }
        Command::RestartJob { job, spec } => revise::restart(draft, job, spec.as_ref(), actor),
        Command::RollBackJob { job, version } => revise::roll_back(draft, job, *version, actor),
        Command::StopTask { namespace, id } => stop_task(draft, namespace, id, actor),
        Command::RestartTask { namespace, id } => revise::restart_task(draft, namespace, id, actor),
        Command::Rebalance(asked) => {
            let bounds = moves::bounds(asked)?;
            Ok(CommandAnswer::Rebalanced(moves::start(draft, live, bounds)))
        }
        Command::Node(command) => eligibility::decide(draft, command, actor),
    }
}

fn submit(draft: &mut Draft<'_>, job: &JobSpec, actor: &str) -> Result<CommandAnswer, ApiError> {
    validate::job(job)?;
    let present = draft.state.jobs.get(&job.key()).and_then(|present| present.spec());
    let wanted = job.clone().resolve().following(present.map(|spec| &**spec));
    Ok(revise::store(draft, wanted, actor))
}

fn stop_job(draft: &mut Draft<'_>, key: &JobKey, actor: &str) -> Result<CommandAnswer, ApiError> {
    let Some(job) = draft.state.jobs.get(key) else {
        return Err(no_job(key));
    };
    let tasks_live = live_tasks(draft.state, key);
    // A service that has failed is still wanted, until somebody says that it is not.
    let is_service = job.spec().is_some_and(|spec| spec.job_type == JobType::Service);
    let is_wanted = !job.status.is_terminal() || is_service && job.status == JobStatus::Failed;
    if !job.stop_requested && is_wanted {
        draft.record(Fact::JobStopRequested { job: key.clone(), actor: actor.to_owned() });
    }
    Ok(CommandAnswer::JobStopped(JobStopped { name: key.name.clone(), tasks_live }))
}

fn stop_task(
    draft: &mut Draft<'_>,
    namespace: &Namespace,
    id: &str,
    actor: &str,
) -> Result<CommandAnswer, ApiError> {
    let (id, task) = live_task(draft.state, namespace, id)?;
    let Some(job) = draft.state.jobs.get(&task.job) else { return Err(no_job(&task.job)) };
    let instances =
        job.spec().and_then(|spec| spec.spec(&task.spec)).map_or(0, |spec| spec.instances);
    let left = instances.saturating_sub(u32::from(!task.is_to_stop()));
    if !task.is_to_stop() && !job.stop_requested {
        let others: u32 = job.spec().map_or(0, |job| {
            job.specs.iter().filter(|s| s.name != task.spec).map(|s| s.instances).sum()
        });
        let version = job.version + 1;
        if left + others == 0 {
            draft.record(Fact::JobStopRequested { job: task.job.clone(), actor: actor.to_owned() });
        } else {
            draft.record(Fact::JobScaled {
                job: task.job.clone(),
                version,
                spec: task.spec.clone(),
                instances: left,
                actor: actor.to_owned(),
            });
        }
        // While it moves, its slot has two.
        for id in draft.state.slot(&task.job, &task.spec, task.slot).to_vec() {
            stop_one(draft, id, format!("stopped by {actor}"));
        }
    }
    let (job, spec) = (task.job.name, task.spec);
    Ok(CommandAnswer::TaskStopped(TaskStopped { id, job, spec, instances: left }))
}

/// A task that has not ended.
pub(super) fn live_task(
    state: &State,
    namespace: &Namespace,
    id: &str,
) -> Result<(TaskId, Task), ApiError> {
    let id = state.find_task(Some(namespace), id)?;
    let task = state.tasks.get(&id).cloned().ok_or_else(|| no_task(&id.to_string()))?;
    if task.state.is_terminal() {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!("task {id} has already ended: {}", task.state),
        ));
    }
    Ok((id, task))
}

/// Asks a task to end: its node if it has one, at once if not.
pub(super) fn stop_one(draft: &mut Draft<'_>, id: TaskId, reason: String) {
    let Some(task) = draft.state.tasks.get(&id) else { return };
    if task.state.is_terminal() || task.is_to_stop() {
        return;
    }
    let fact = if task.node.is_none() {
        Fact::TaskWithdrawn { task: id, reason }
    } else {
        Fact::TaskStopRequested { task: id, reason, displaced_by: None }
    };
    draft.record(fact);
}

fn live_tasks(state: &State, key: &JobKey) -> u64 {
    let ids = state
        .jobs
        .get(key)
        .into_iter()
        .flat_map(|job| job.slots.values())
        .flat_map(|slots| slots.values())
        .flatten();
    ids.filter(|id| state.tasks.get(id).is_some_and(|task| !task.state.is_terminal())).count()
        as u64
}

pub(super) fn no_job(key: &JobKey) -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        format!("there is no job {} in namespace {}", key.name, key.namespace),
    )
    .hint("`longshore job ls` lists the jobs; --namespace chooses another namespace")
}

pub(super) fn no_task(id: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no task whose id begins with {id:?}"))
        .hint("`longshore ps -a` lists the tasks, the ended ones too")
}

impl State {
    /// Finds a task by its id or a unique beginning of it, with or without hyphens.
    pub fn find_task(&self, namespace: Option<&Namespace>, id: &str) -> Result<TaskId, ApiError> {
        let digits: String = id.chars().filter(|c| *c != '-').collect();
        let legal = !digits.is_empty()
            && digits.len() <= 32
            && digits.chars().all(|c| c.is_ascii_hexdigit());
        if !legal {
            return Err(ApiError::new(
                ErrorCode::Invalid,
                format!("{id:?} is no task id nor the beginning of one"),
            )
            .hint("an id is made of hexadecimal digits, as `longshore ps` shows them"));
        }
        let digits = digits.to_ascii_lowercase();
        let bound = |fill: char| {
            let text: String = digits.chars().chain(std::iter::repeat(fill)).take(32).collect();
            uuid::Uuid::try_parse(&text).map(TaskId)
        };
        let (Ok(low), Ok(high)) = (bound('0'), bound('f')) else { return Err(no_task(id)) };
        let mut found = self
            .tasks
            .range(low..=high)
            .filter(|(_, task)| namespace.is_none_or(|namespace| task.job.namespace == *namespace));
        match (found.next(), found.next()) {
            (Some((id, _)), None) => Ok(*id),
            (Some(_), Some(_)) => Err(ApiError::new(
                ErrorCode::Ambiguous,
                format!("{id:?} is the beginning of more than one task id"),
            )
            .hint("give more of its digits")),
            _ => Err(no_task(id)),
        }
    }
}
