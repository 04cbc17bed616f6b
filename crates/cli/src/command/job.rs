//! `longshore job`: submit, list, look at, stop.

use std::io::Read as _;
use std::path::Path;

use longshore_proto::api::{JobStopped, JobView, ListTasks, TaskView};
use longshore_proto::name::{JobName, Namespace};
use longshore_proto::spec::{JobSpec, JobType};

use crate::args::{Format, Global, job};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::figures::Figures;
use crate::jobfile::{self, Language};
use crate::json;
use crate::render::Printer;
use crate::several::Several;
use crate::table::{self, Detail};
use crate::wait::{self, Until};

/// The largest job file: far more than any job that passes the rules.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a job file and submits it.
pub(crate) async fn submit(
    global: &Global,
    wish: &job::Submit,
    printer: Printer,
) -> Result<Exit, Failure> {
    let spec = read_spec(global, &wish.file)?;
    let job_type = spec.job_type;
    let outcome = async {
        let client = Client::connect(global, printer).await?.in_namespace(spec.namespace.clone());
        submit_spec(&client, spec, wish.wait, printer).await
    };
    with_task_code(outcome.await, wish.wait, job_type)
}

/// Reads a job file of the namespace that the options say.
pub(crate) fn read_spec(global: &Global, path: &Path) -> Result<JobSpec, Failure> {
    let spec = read_file(path, &global.namespace())?;
    if global.namespace.as_ref().is_some_and(|namespace| *namespace != spec.namespace) {
        return Err(Failure::new(format!(
            "the job file says the namespace {}, and the options say {}",
            spec.namespace,
            global.namespace()
        ))
        .hint("say it in one place, or the same in both"));
    }
    Ok(spec)
}

fn read_file(path: &Path, namespace: &Namespace) -> Result<JobSpec, Failure> {
    let shown = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
    };
    read.map_err(|error| {
        Failure::new(format!("cannot read the job file {shown}"))
            .cause(&error)
            .hint("give the path of a TOML or JSON file, or - for standard input")
    })?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::new(format!("the job file {shown} has more than 1 MiB"))
            .hint("move bulky values into the image"));
    }
    jobfile::read(&text, Language::of(path, &text), namespace)
        .map_err(|failure| failure.within(format_args!("the job file {shown} is not accepted")))
}

/// Submits a job, prints its name, and waits for it if that is wanted.
pub(crate) async fn submit_spec(
    client: &Client,
    spec: JobSpec,
    wait: bool,
    printer: Printer,
) -> Result<Exit, Failure> {
    let name = spec.name.clone();
    let submitted = client
        .submit_job(spec)
        .await
        .map_err(|error| Failure::commanded(format_args!("submit the job {name}"), &error))?;
    printer.line(submitted.name.as_str())?;
    printer.talk(&format!("version {} of {} is stored", submitted.version, submitted.name));
    if !wait {
        return Ok(Exit::Done);
    }
    wait::for_job(client, printer, &name, submitted.version, Until::Done).await
}

/// Waiting for a batch job gives its task's exit code; where there is none because Longshore failed, 125.
pub(crate) fn with_task_code(
    outcome: Result<Exit, Failure>,
    wait: bool,
    job_type: JobType,
) -> Result<Exit, Failure> {
    match outcome {
        Err(failure) if wait && job_type == JobType::Batch && failure.status() == Exit::Failed => {
            Err(failure.exit(Exit::NoTaskCode))
        }
        other => other,
    }
}

/// Lists jobs.
pub(crate) async fn list(
    client: &Client,
    wish: &job::Ls,
    printer: Printer,
) -> Result<Exit, Failure> {
    let jobs = client
        .jobs(wish.all_namespaces)
        .await
        .map_err(|error| Failure::asked("list the jobs", &error))?;
    match wish.output {
        Format::Json => printer.json(&jobs.iter().map(json::Job::from).collect::<Vec<_>>())?,
        Format::Table => printer.data(&table::jobs(&jobs, table::now_ms(), wish.all_namespaces))?,
    }
    Ok(Exit::Done)
}

/// Shows a job.
pub(crate) async fn status(
    client: &Client,
    wish: &job::Status,
    printer: Printer,
) -> Result<Exit, Failure> {
    let (name, client) = (&wish.name, client.at(wish.at.clone()));
    let problem = |error| Failure::asked(format_args!("show the job {name}"), &error);
    let view = client.job(name).await.map_err(problem)?;
    match wish.output {
        Format::Json => printer.json(&json::Job::from(&view))?,
        Format::Table => {
            let tasks = show(&client, &view, printer).await?;
            if wish.at.is_none() {
                Figures::print_pulls_of(&client, tasks, printer).await?;
            }
        }
    }
    Ok(Exit::Done)
}

/// Shows a job and its tasks, with the whole reason why each is as it is; gives the tasks.
pub(super) async fn show(
    client: &Client,
    job: &JobView,
    printer: Printer,
) -> Result<Vec<TaskView>, Failure> {
    printer.data(&table::job(job))?;
    let question =
        ListTasks { job: Some(job.name.clone()), given_up: true, ..ListTasks::default() };
    let tasks = client
        .tasks(question)
        .await
        .map_err(|error| Failure::asked(format_args!("list the tasks of {}", job.name), &error))?;
    if !tasks.is_empty() {
        let shown_at_ms = client.shown_at_ms().await;
        let shown_at_ms =
            shown_at_ms.map_err(|error| Failure::asked("find when that was", &error))?;
        let shown = table::tasks(&tasks, shown_at_ms, Detail::Reasons);
        printer.data(&format!("\n{shown}"))?;
    }
    Ok(tasks)
}

/// Stops jobs.
pub(crate) async fn stop(
    client: &Client,
    wish: &job::Stop,
    printer: Printer,
) -> Result<Exit, Failure> {
    let mut several = Several::new(printer);
    let mut stopping = Vec::new();
    for name in &wish.names {
        let stopped = client
            .stop_job(name)
            .await
            .map_err(|error| Failure::commanded(format_args!("stop the job {name}"), &error));
        if let Some(stopped) = several.take(stopped) {
            tell_stopped(&stopped, printer);
            stopping.push(name);
        }
    }
    if wish.wait {
        for name in stopping {
            if !several.waited(wait_stopped(client, printer, name).await) {
                break;
            }
        }
    }
    several.end()
}

/// Says that a job was told to stop.
pub(crate) fn tell_stopped(stopped: &JobStopped, printer: Printer) {
    let name = &stopped.name;
    printer.talk(&match stopped.tasks_live {
        0 => format!("the job {name} is stopped"),
        1 => format!("the job {name} is stopping: 1 task is told to end"),
        count => format!("the job {name} is stopping: {count} tasks are told to end"),
    });
}

/// Waits until a job has stopped.
pub(crate) async fn wait_stopped(
    client: &Client,
    printer: Printer,
    name: &JobName,
) -> Result<Exit, Failure> {
    wait::for_job(client, printer, name, 0, Until::Stopped).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_waiting_for_a_batch_job_ends_with_125() {
        let status = |wait, job_type, failure: Failure| {
            with_task_code(Err(failure), wait, job_type).unwrap_err().status()
        };
        let failure = || Failure::new("no manager");
        assert_eq!(status(true, JobType::Batch, failure()), Exit::NoTaskCode);
        assert_eq!(status(false, JobType::Batch, failure()), Exit::Failed);
        assert_eq!(status(true, JobType::Service, failure()), Exit::Failed);
        assert_eq!(status(true, JobType::Batch, failure().exit(Exit::Usage)), Exit::Usage);
        assert_eq!(status(true, JobType::Batch, Failure::ReaderGone), Exit::Done);
        let code = with_task_code(Ok(Exit::Task(3)), true, JobType::Batch).unwrap();
        assert_eq!(code, Exit::Task(3));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let failure =
            read_file(Path::new("/nowhere/job.toml"), &Namespace::standard()).unwrap_err();
        assert!(
            failure.told().unwrap().0.starts_with("cannot read the job file /nowhere/job.toml: ")
        );
    }

    #[test]
    fn a_file_that_is_wrong_is_named_with_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job.toml");
        std::fs::write(&path, "name = \"web\"\ntask = [{ image = \"x\", memory = \"-1\" }]\n")
            .unwrap();
        let failure = read_file(&path, &Namespace::standard()).unwrap_err();
        let text = failure.told().unwrap().0;
        assert!(text.contains("job.toml is not accepted") && text.contains("line 2"), "{text}");
    }
}
