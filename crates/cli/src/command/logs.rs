//! `longshore logs`: what tasks write, straight from their nodes.

mod stream;

use std::collections::BTreeMap;

use futures_util::stream::{FuturesUnordered, StreamExt};
use longshore_proto::api::{ListTasks, TaskView};
use longshore_proto::name::NodeName;

use crate::args::task::Logs;
use crate::client::{Client, Named};
use crate::failure::{Exit, Failure};
use crate::render::Printer;
use crate::signal;
use crate::table::{state_shown, task_name};
use stream::{Output, Stream};

/// How many tasks of a job are shown at once.
const TASKS_MAX: usize = 32;

/// Prints the logs of a task, or of every task of a job.
pub(crate) async fn run(client: &Client, wish: &Logs, printer: Printer) -> Result<Exit, Failure> {
    let tasks = match client.named(&wish.name).await? {
        Named::Task(task) => vec![*task],
        Named::Job(job) => {
            let question =
                ListTasks { job: Some(job.name.clone()), ended: true, ..ListTasks::default() };
            let tasks = client.tasks(question).await.map_err(|error| {
                Failure::asked(format_args!("list the tasks of {}", job.name), &error)
            })?;
            let tasks = worth_showing(tasks);
            if tasks.is_empty() {
                return Err(Failure::new(format!("the job {} has no task yet", job.name))
                    .hint(format!("`longshore job status {}` shows why", job.name)));
            }
            tasks
        }
    };
    if tasks.len() > TASKS_MAX {
        return Err(Failure::new(format!(
            "the job {} has {} tasks, and at most {TASKS_MAX} are shown at once",
            wish.name,
            tasks.len()
        ))
        .hint(format!("name one of those that `longshore ps --job {}` lists", wish.name)));
    }
    let several = tasks.len() > 1;
    let (placed, waiting): (Vec<TaskView>, Vec<TaskView>) =
        tasks.into_iter().partition(|task| task.node.is_some());
    if placed.is_empty() {
        return Err(waiting.first().map_or_else(|| Failure::new("there is no task"), no_node));
    }
    for task in &waiting {
        printer.talk(&format!("{} has no node yet, and so no logs", task_name(task)));
    }
    let mut streams = FuturesUnordered::new();
    for task in placed {
        let output = Output::new(printer, several.then(|| task_name(&task)));
        streams.push(follow(client, task, wish, output));
    }
    let mut outcome = Ok(Exit::Done);
    while let Some(ended) = streams.next().await {
        match ended {
            Ok(exit) => outcome = outcome.and(Ok(exit)),
            Err(Failure::ReaderGone) => return Err(Failure::ReaderGone),
            Err(failure) => match outcome {
                // One of several streams that fails is told now, and the others go on.
                Ok(_) => outcome = Err(failure),
                Err(_) => drop(printer.failure(&failure)),
            },
        }
    }
    outcome
}

/// Of each slot the task that is there, or was last.
fn worth_showing(tasks: Vec<TaskView>) -> Vec<TaskView> {
    let mut slots: BTreeMap<(String, u32), TaskView> = BTreeMap::new();
    for task in tasks {
        // They come ordered by id, so that a later one replaces an earlier one.
        slots.insert((task.spec.to_string(), task.slot), task);
    }
    let live = slots.values().any(|task| !task.state.is_terminal());
    slots.into_values().filter(|task| !live || !task.state.is_terminal()).collect()
}

fn no_node(task: &TaskView) -> Failure {
    let failure = Failure::new(format!(
        "{} is {} and has no node, and so no logs",
        task_name(task),
        state_shown(task)
    ));
    match &task.reason {
        Some(reason) => failure.because(reason),
        None => failure,
    }
}

async fn follow(
    client: &Client,
    task: TaskView,
    wish: &Logs,
    mut output: Output,
) -> Result<Exit, Failure> {
    let Some(node) = task.node.clone() else { return Err(no_node(&task)) };
    let mut stream = Stream::open(client, &node, &task, wish).await?;
    let outcome = tokio::select! {
        outcome = stream.print(&mut output) => outcome,
        () = signal::interrupted() => Ok(()),
    };
    stream.close().await;
    match outcome {
        Ok(()) => Ok(Exit::Done),
        Err(failure) => Err(failure),
    }
}

/// What is said of a node that does not answer.
pub(crate) fn silent_node(node: &NodeName, status: &str) -> Failure {
    Failure::new(format!("the node {node} does not answer (it is {status})"))
        .hint(format!("`longshore node status {node}` shows it; is its worker running?"))
}

#[cfg(test)]
mod tests {
    use longshore_proto::state::TaskState;

    use super::*;
    use crate::json::tests::task;

    #[test]
    fn of_each_slot_the_last_task_counts_and_the_living_come_first() {
        let ended = task(1, TaskState::Failed);
        let running = task(2, TaskState::Running);
        let other = TaskView { slot: 1, ..task(3, TaskState::Completed) };
        let shown = worth_showing(vec![ended.clone(), running.clone(), other.clone()]);
        assert_eq!(shown, [running]);
        let shown = worth_showing(vec![ended.clone(), other.clone()]);
        assert_eq!(shown, [ended, other]);
    }

    #[test]
    fn a_task_without_a_node_says_why() {
        let mut waiting = task(1, TaskState::Pending);
        waiting.reason = Some("no node has 2 cores".into());
        let failure = no_node(&waiting);
        assert_eq!(
            failure.told().unwrap().0,
            "web.main.0 is pending and has no node, and so no logs: no node has 2 cores"
        );
    }
}
