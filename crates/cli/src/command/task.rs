//! `longshore ps` and `longshore stop`.

use longshore_proto::api::{ListTasks, TaskStopped};
use longshore_proto::name::JobName;

use super::job;
use crate::args::WideFormat;
use crate::args::task::{Ps, Stop};
use crate::client::{Client, is_id_beginning, is_not_found, nothing_named};
use crate::failure::{Exit, Failure};
use crate::json;
use crate::render::Printer;
use crate::several::Several;
use crate::table::{self, Detail};
use crate::wait;

/// Lists tasks.
pub(crate) async fn list(client: &Client, wish: Ps, printer: Printer) -> Result<Exit, Failure> {
    let client = client.at(wish.at);
    let question = ListTasks {
        job: wish.job,
        node: wish.node,
        ended: wish.all,
        given_up: true,
        ..ListTasks::default()
    };
    let tasks =
        client.tasks(question).await.map_err(|error| Failure::asked("list the tasks", &error))?;
    match wish.output {
        WideFormat::Json => {
            printer.json(&tasks.iter().map(json::Task::from).collect::<Vec<_>>())?
        }
        WideFormat::Table | WideFormat::Wide => {
            let wide = wish.output == WideFormat::Wide;
            let detail = if wide { Detail::Wide } else { Detail::Brief };
            // Ages are those of the moment that is shown.
            let shown_at_ms = client.shown_at_ms().await;
            let shown_at_ms =
                shown_at_ms.map_err(|error| Failure::asked("find when that was", &error))?;
            printer.data(&table::tasks(&tasks, shown_at_ms, detail))?;
        }
    }
    Ok(Exit::Done)
}

/// What was told to stop.
enum Stopping {
    Job(JobName),
    Task(TaskStopped),
}

/// Stops jobs by name, tasks by id.
pub(crate) async fn stop(client: &Client, wish: &Stop, printer: Printer) -> Result<Exit, Failure> {
    let mut several = Several::new(printer);
    let mut stopping = Vec::new();
    for word in &wish.names {
        stopping.extend(several.take(stop_one(client, word, printer).await));
    }
    if wish.wait {
        for stopped in stopping {
            let ended = match stopped {
                Stopping::Job(name) => job::wait_stopped(client, printer, &name).await,
                Stopping::Task(task) => {
                    wait::for_task_end(client, printer, task.id, &task.job).await
                }
            };
            if !several.waited(ended) {
                break;
            }
        }
    }
    several.end()
}

async fn stop_one(client: &Client, word: &str, printer: Printer) -> Result<Stopping, Failure> {
    if let Ok(name) = word.parse::<JobName>() {
        match client.stop_job(&name).await {
            Ok(stopped) => {
                job::tell_stopped(&stopped, printer);
                return Ok(Stopping::Job(name));
            }
            Err(error) if is_not_found(&error) => {}
            Err(error) => {
                return Err(Failure::commanded(format_args!("stop the job {name}"), &error));
            }
        }
    }
    if !is_id_beginning(word) {
        return Err(nothing_named(word));
    }
    match client.stop_task(word).await {
        Ok(stopped) => {
            printer.talk(&told(&stopped));
            Ok(Stopping::Task(stopped))
        }
        Err(error) if is_not_found(&error) => Err(nothing_named(word)),
        Err(error) => Err(Failure::commanded(format_args!("stop the task {word}"), &error)),
    }
}

/// Stopping a task has a consequence that must be said.
fn told(stopped: &TaskStopped) -> String {
    let TaskStopped { id, job, spec, instances } = stopped;
    match instances {
        0 => format!("the task {id} is stopping; {job}.{spec} now wants no instance"),
        1 => format!(
            "the task {id} is stopping; {job}.{spec} now wants 1 instance, one fewer than before"
        ),
        count => {
            format!(
                "the task {id} is stopping; {job}.{spec} now wants {count} instances, one fewer than before"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::id::TaskId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn stopping_a_task_says_that_the_count_falls() {
        let stopped = |instances| TaskStopped {
            id: TaskId(Uuid::from_u128(1)),
            job: "web".parse().unwrap(),
            spec: "main".parse().unwrap(),
            instances,
        };
        assert!(told(&stopped(0)).ends_with("web.main now wants no instance"));
        assert!(
            told(&stopped(2)).ends_with("web.main now wants 2 instances, one fewer than before")
        );
    }
}
