//! `--wait`: staying until a job runs, or has ended, or has stopped, and telling what changes meanwhile.
//!
//! What is told comes from the manager's lists, not from the events: an event may be lost, and the list has
//! the reason why a task waits. Events only say when it is worth looking again.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures_util::StreamExt;
use longshore_bus::{AskError, Subscription};
use longshore_proto::api::{JobView, ListTasks, TaskView};
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobName, SpecName};
use longshore_proto::spec::JobType;
use longshore_proto::state::{JobStatus, TaskState};
use longshore_proto::subject::{Pattern, Subject};
use tokio::time::Instant;

use crate::client::{Client, is_not_found};
use crate::failure::{Exit, Failure};
use crate::pulling::Pulling;
use crate::render::Printer;
use crate::signal;
use crate::table::{one_line, state_shown, task_name};

/// The shortest time between two looks.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// How long the next look waits when nothing happens: from the first to the last, doubling.
const LOOK_INTERVAL_FIRST: Duration = Duration::from_millis(200);
const LOOK_INTERVAL_LAST: Duration = Duration::from_secs(1);
/// How long the manager may be silent before the waiting is given up: longer than a restart takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// A service runs in full, or a batch job has ended.
    Done,
    /// Nothing of the job runs any more.
    Stopped,
}

/// Waits for a job at a version (0 for any). Gives the exit status that says how it went.
pub(crate) async fn for_job(
    client: &Client,
    printer: Printer,
    name: &JobName,
    version: u64,
    until: Until,
) -> Result<Exit, Failure> {
    tokio::select! {
        outcome = job_done(client, printer, name, version, until) => outcome,
        () = signal::interrupted() => {
            printer.talk(&match until {
                Until::Done => format!(
                    "no longer waiting; the job {name} goes on: `longshore job status {name}` shows it, \
                     `longshore stop {name}` stops it"
                ),
                Until::Stopped => format!("no longer waiting; the job {name} is being stopped all the same"),
            });
            Ok(Exit::Interrupted)
        }
    }
}

async fn job_done(
    client: &Client,
    printer: Printer,
    name: &JobName,
    version: u64,
    until: Until,
) -> Result<Exit, Failure> {
    let mut looks = Looks::start(client, printer, name).await;
    let mut watch = Watch::new(version);
    loop {
        let question = ListTasks { job: Some(name.clone()), ended: true, ..ListTasks::default() };
        // The job is looked at before its tasks, so that the tasks are never older than the verdict on them.
        if let Some(job) = looks.patiently(client.job(name).await)?
            && let Some(tasks) = looks.patiently(client.tasks(question).await)?
        {
            for change in watch.changes(&tasks) {
                printer.talk(&change);
            }
            looks.pulling.look(&tasks).await;
            if let Some(verdict) = verdict(&job, &tasks, version, until) {
                return told(printer, &job, verdict);
            }
        }
        looks.next().await;
    }
}

/// Waits until a task has ended.
pub(crate) async fn for_task_end(
    client: &Client,
    printer: Printer,
    id: TaskId,
    job: &JobName,
) -> Result<Exit, Failure> {
    let ended = async {
        let mut looks = Looks::start(client, printer, job).await;
        let mut watch = Watch::new(0);
        loop {
            if let Some(task) = looks.patiently(client.task(&id.to_string()).await)? {
                for change in watch.changes(std::slice::from_ref(&task)) {
                    printer.talk(&change);
                }
                if task.state.is_terminal() {
                    return Ok(Exit::Done);
                }
            }
            looks.next().await;
        }
    };
    tokio::select! {
        outcome = ended => outcome,
        () = signal::interrupted() => {
            printer.talk("no longer waiting; the task is being stopped all the same");
            Ok(Exit::Interrupted)
        }
    }
}

fn told(printer: Printer, job: &JobView, verdict: Verdict) -> Result<Exit, Failure> {
    let name = &job.name;
    match verdict {
        Verdict::Runs => printer.talk(&format!("{name} runs")),
        Verdict::Stopped => printer.talk(&format!("{name} has stopped")),
        Verdict::Completed => printer.talk(&format!("{name} has completed")),
        Verdict::Failed { code: Some(code), .. } if job.job_type == JobType::Batch => {
            printer.talk(&format!("{name} has failed with exit code {code}"));
            return Ok(Exit::Task(code));
        }
        Verdict::Failed { reason, .. } => {
            return Err(Failure::new(format!("{name} has failed"))
                .because(&reason)
                .hint(format!("`longshore ps -a --job {name}` shows its tasks")));
        }
        Verdict::Overtaken(how) => {
            return Err(Failure::new(format!("{name} {how} while it was waited for")));
        }
    }
    Ok(Exit::Done)
}

/// When to look again.
struct Looks {
    printer: Printer,
    job: JobName,
    client: Client,
    events: Option<Subscription>,
    pulling: Pulling,
    interval: Duration,
    looked_at: Instant,
    silent_since: Option<Instant>,
}

impl Looks {
    async fn start(client: &Client, printer: Printer, job: &JobName) -> Self {
        // Without events the looks alone suffice; they only come a little later.
        let events = client.bus().subscribe(&Pattern::Events).await.ok();
        Self {
            printer,
            job: job.clone(),
            client: client.clone(),
            events,
            pulling: Pulling::new(client),
            interval: LOOK_INTERVAL_FIRST,
            looked_at: Instant::now(),
            silent_since: None,
        }
    }

    /// Returns when something has happened to the job, or when enough time has passed. A look at a large
    /// job takes its time, and the pause after it grows with that.
    async fn next(&mut self) {
        let rest = (self.looked_at.elapsed() * 2).max(LOOK_INTERVAL_MIN);
        let timer = tokio::time::sleep(self.interval.max(rest));
        tokio::pin!(timer);
        let heard = loop {
            tokio::select! {
                () = &mut timer => break false,
                () = heard(&mut self.events, &self.client, &self.job) => break true,
                text = self.pulling.next() => self.printer.talk(&text),
            }
        };
        if heard {
            tokio::time::sleep(rest).await;
            self.interval = LOOK_INTERVAL_FIRST;
        } else {
            self.interval = (self.interval * 2).min(LOOK_INTERVAL_LAST);
        }
        self.looked_at = Instant::now();
    }

    /// Passes an answer on; `None` for one that did not come, as long as there is hope that the next will.
    fn patiently<T>(&mut self, answer: Result<T, AskError>) -> Result<Option<T>, Failure> {
        match answer {
            Ok(answer) => {
                if self.silent_since.take().is_some() {
                    self.printer.talk("the manager answers again");
                }
                Ok(Some(answer))
            }
            Err(AskError::NoResponders { .. } | AskError::TimedOut { .. })
                if self.silent_since.is_none_or(|since| since.elapsed() < PATIENCE) =>
            {
                if self.silent_since.is_none() {
                    self.silent_since = Some(Instant::now());
                    self.printer.talk("no manager answers; still waiting");
                }
                Ok(None)
            }
            Err(error) if is_not_found(&error) => {
                Err(Failure::new(format!("{} is no longer there", self.job)))
            }
            Err(error) => {
                Err(Failure::asked(format_args!("go on waiting for {}", self.job), &error)
                    .hint(format!("the job goes on; `longshore job status {}` shows it", self.job)))
            }
        }
    }
}

/// Returns at the next event of the job; never without events.
async fn heard(events: &mut Option<Subscription>, client: &Client, job: &JobName) {
    while let Some(subscription) = events {
        let Some(incoming) = subscription.next().await else { break };
        match incoming.subject {
            Some(
                Subject::TaskEvent { namespace, job: other, .. }
                | Subject::JobEvent { namespace, job: other, .. },
            ) if other == *job && namespace == *client.namespace() => return,
            _ => {}
        }
    }
    *events = None;
    std::future::pending::<()>().await;
}

/// What has been told of a job's tasks so far.
#[derive(Debug)]
struct Watch {
    version: u64,
    seen: Option<HashMap<TaskId, Told>>,
}

/// Attempt, state and reason, as they were told last.
type Told = (u64, &'static str, Option<String>);

impl Watch {
    fn new(version: u64) -> Self {
        Self { version, seen: None }
    }

    /// What has changed since the last look, a sentence each.
    fn changes(&mut self, tasks: &[TaskView]) -> Vec<String> {
        let first = self.seen.is_none();
        let seen = self.seen.get_or_insert_default();
        let mut told = Vec::new();
        for task in tasks {
            let now = (task.attempt, state_shown(task), task.reason.clone());
            // What an older version left behind is no news, and where any version counts, what had ended before.
            let before = self.version == 0 || task.version < self.version;
            let old = first && before && task.state.is_terminal();
            if seen.get(&task.id) != Some(&now) {
                if !old {
                    told.push(sentence(task));
                }
                seen.insert(task.id, now);
            }
        }
        told
    }
}

fn sentence(task: &TaskView) -> String {
    let mut text = format!("{}: {}", task_name(task), state_shown(task));
    if let Some(node) = &task.node {
        text.push_str(&format!(" on {node}"));
    }
    if task.attempt > 1 {
        text.push_str(&format!(", attempt {}", task.attempt));
    }
    // The reason mostly tells the code.
    let told =
        |code: &i64| task.reason.as_ref().is_some_and(|text| text.contains(&code.to_string()));
    if let Some(code) = task.exit_code.filter(|code| task.state.is_terminal() && !told(code)) {
        text.push_str(&format!(", exit code {code}"));
    }
    if let Some(reason) = &task.reason {
        text.push_str(&format!(" ({})", one_line(reason)));
    }
    text
}

/// How the waiting ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// Every instance of a service runs.
    Runs,
    /// A batch job completed.
    Completed,
    /// A batch job failed, with a task's exit code or without.
    Failed { code: Option<u8>, reason: String },
    /// It has stopped, and that was wanted.
    Stopped,
    /// Somebody else did something to it.
    Overtaken(&'static str),
}

/// Whether the waiting is over; `None` to go on.
fn verdict(job: &JobView, tasks: &[TaskView], version: u64, until: Until) -> Option<Verdict> {
    if until == Until::Stopped {
        let ended = job.status.is_terminal() && tasks.iter().all(|task| task.state.is_terminal());
        return ended.then_some(Verdict::Stopped);
    }
    // A higher version is somebody's later word (`stop TASK` makes one, too): the job is waited for as it is.
    if job.version < version {
        return None;
    }
    if let Some(back) = job.rolled_back.as_ref().filter(|back| back.failed >= version) {
        return Some(Verdict::Failed { code: None, reason: back.to_string() });
    }
    match (job.job_type, job.status) {
        (_, JobStatus::Stopping) => Some(Verdict::Overtaken("is being stopped")),
        (_, JobStatus::Stopped) => Some(Verdict::Overtaken("was stopped")),
        (_, JobStatus::Completed) => Some(Verdict::Completed),
        (_, JobStatus::Failed) => Some(failed(tasks, version)),
        (JobType::Service, JobStatus::Running) => {
            let silent = tasks.iter().any(|task| task.silent && !task.state.is_terminal());
            // A service that has come up stays `running` while more instances of it are on their way.
            let whole = job.specs.iter().all(|spec| spec.running >= spec.instances);
            (whole && !silent).then_some(Verdict::Runs)
        }
        (_, JobStatus::Pending | JobStatus::Running) => None,
    }
}

/// The exit code of the first task that failed for good with one that is not 0.
fn failed(tasks: &[TaskView], version: u64) -> Verdict {
    // Of each slot only the last task counts: those before it were replaced. Ids sort by their making.
    let mut last: BTreeMap<(&SpecName, u32), &TaskView> = BTreeMap::new();
    for task in tasks.iter().filter(|task| task.version >= version) {
        let slot = last.entry((&task.spec, task.slot)).or_insert(task);
        if task.id > slot.id {
            *slot = task;
        }
    }
    let mut failed: Vec<&TaskView> =
        last.into_values().filter(|task| task.state == TaskState::Failed).collect();
    failed.sort_by_key(|task| (task.finished_at_ms, task.id));
    let code = failed.iter().filter_map(|task| task.exit_code).find(|code| *code != 0);
    let reason = failed.iter().find_map(|task| task.reason.clone()).unwrap_or_default();
    // A code that no process can have is none.
    Verdict::Failed { code: code.and_then(|code| u8::try_from(code).ok()), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_proto::api::RolledBack;

    use crate::json::tests::{job, task};

    fn ended(number: u128, slot: u32, code: Option<i64>, finished_at_ms: u64) -> TaskView {
        TaskView {
            slot,
            exit_code: code,
            finished_at_ms: Some(finished_at_ms),
            reason: Some(format!("reason {number}")),
            ..task(number, TaskState::Failed)
        }
    }

    #[test]
    fn a_service_is_waited_for_until_it_runs() {
        let mut service = job(JobType::Service, JobStatus::Pending);
        assert_eq!(verdict(&service, &[], 1, Until::Done), None);
        service.status = JobStatus::Running;
        assert_eq!(verdict(&service, &[], 1, Until::Done), None, "one of two runs");
        service.specs[0].running = 2;
        assert_eq!(verdict(&service, &[], 1, Until::Done), Some(Verdict::Runs));
        assert_eq!(verdict(&service, &[], 2, Until::Done), None, "the version is not there yet");
        let silent = TaskView { silent: true, ..task(1, TaskState::Running) };
        assert_eq!(verdict(&service, &[silent], 1, Until::Done), None);
        service.status = JobStatus::Stopping;
        assert!(matches!(verdict(&service, &[], 1, Until::Done), Some(Verdict::Overtaken(_))));
    }

    #[test]
    fn a_version_that_was_rolled_back_has_failed_and_what_came_of_that_is_waited_for() {
        let mut service = job(JobType::Service, JobStatus::Running);
        (service.version, service.specs[0].running) = (3, 2);
        let reason = "task 7 of main has come to nothing".to_owned();
        service.rolled_back = Some(RolledBack { failed: 2, to: 1, reason });
        let Some(Verdict::Failed { code: None, reason }) = verdict(&service, &[], 2, Until::Done)
        else {
            panic!("it has failed");
        };
        assert!(reason.contains("back to version 1") && reason.contains("task 7"), "{reason}");
        assert_eq!(verdict(&service, &[], 3, Until::Done), Some(Verdict::Runs));
    }

    #[test]
    fn a_batch_job_gives_the_first_code_that_is_not_zero() {
        let batch = job(JobType::Batch, JobStatus::Failed);
        let tasks = [ended(1, 0, Some(3), 20), ended(2, 1, Some(4), 10), ended(3, 2, None, 5)];
        let expected = Verdict::Failed { code: Some(4), reason: "reason 3".into() };
        assert_eq!(verdict(&batch, &tasks, 1, Until::Done), Some(expected));
        assert_eq!(
            verdict(&job(JobType::Batch, JobStatus::Running), &[], 1, Until::Done),
            None,
            "it has not ended"
        );
        assert_eq!(
            verdict(&job(JobType::Batch, JobStatus::Completed), &tasks, 1, Until::Done),
            Some(Verdict::Completed)
        );
    }

    #[test]
    fn what_was_replaced_or_is_of_another_version_does_not_count() {
        let batch = job(JobType::Batch, JobStatus::Failed);
        let other = TaskView { version: 0, ..ended(9, 5, Some(9), 1) };
        let tasks = [ended(1, 0, Some(3), 10), ended(2, 0, Some(4), 20), other];
        let expected = Verdict::Failed { code: Some(4), reason: "reason 2".into() };
        assert_eq!(verdict(&batch, &tasks, 1, Until::Done), Some(expected));
    }

    #[test]
    fn without_a_code_the_fault_is_not_the_tasks() {
        let batch = job(JobType::Batch, JobStatus::Failed);
        for code in [None, Some(0), Some(-1), Some(4000)] {
            let verdict = verdict(&batch, &[ended(1, 0, code, 1)], 1, Until::Done);
            assert_eq!(verdict, Some(Verdict::Failed { code: None, reason: "reason 1".into() }));
        }
        let failure =
            told(Printer, &batch, Verdict::Failed { code: None, reason: "no image".into() });
        assert_eq!(failure.unwrap_err().told().unwrap().0, "web has failed: no image");
    }

    #[test]
    fn each_change_is_told_once_with_its_reason() {
        let mut watch = Watch::new(2);
        let old = TaskView { version: 1, ..task(1, TaskState::Stopped) };
        let mut new = TaskView { version: 2, ..task(2, TaskState::Pending) };
        new.reason = Some("1 node: not enough memory".into());
        let tasks = [old, new.clone()];
        assert_eq!(watch.changes(&tasks), ["web.main.0: pending (1 node: not enough memory)"]);
        assert!(watch.changes(&tasks).is_empty());
        new.state = TaskState::Running;
        new.node = Some("n1".parse().unwrap());
        new.attempt = 2;
        new.reason = None;
        assert_eq!(watch.changes(&[new]), ["web.main.0: running on n1, attempt 2"]);
    }

    #[test]
    fn stopped_means_that_every_task_has_ended() {
        let mut stopping = job(JobType::Service, JobStatus::Stopping);
        assert_eq!(verdict(&stopping, &[], 0, Until::Stopped), None);
        stopping.status = JobStatus::Stopped;
        let ending = [task(1, TaskState::Stopping)];
        assert_eq!(verdict(&stopping, &ending, 0, Until::Stopped), None);
        let ended = [task(1, TaskState::Stopped)];
        assert_eq!(verdict(&stopping, &ended, 0, Until::Stopped), Some(Verdict::Stopped));
    }
}
