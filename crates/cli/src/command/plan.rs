//! `longshore explain`, `longshore whatif` and `longshore rebalance`.

use longshore_proto::api::ListTasks;
use longshore_proto::plan::{Rebalance, WhatIf};
use longshore_proto::state::TaskState;

use super::job;
use crate::args::{Format, Global, plan};
use crate::client::{Client, Named};
use crate::failure::{Exit, Failure};
use crate::plan::{explained, outlook, rebalanced};
use crate::render::Printer;

/// Explains a task.
pub(crate) async fn explain(
    client: &Client,
    wish: &plan::Explain,
    printer: Printer,
) -> Result<Exit, Failure> {
    let word = &wish.name;
    let problem = |error| Failure::asked(format_args!("explain {word}"), &error);
    let id = match client.named(word).await? {
        Named::Task(task) => task.id,
        Named::Job(job) => {
            let question = ListTasks { job: Some(job.name.clone()), ..ListTasks::default() };
            let tasks = client.tasks(question).await.map_err(problem)?;
            let waiting = tasks.iter().find(|task| task.state == TaskState::Pending);
            match (waiting, tasks.as_slice()) {
                (Some(task), _) | (None, [task]) => task.id,
                (None, []) => {
                    return Err(Failure::new(format!("no task of {word} lives")).hint(format!(
                        "`longshore ps -a --job {word}` lists those that have ended"
                    )));
                }
                (None, tasks) => {
                    return Err(Failure::new(format!(
                        "{word} has {} tasks, and none waits",
                        tasks.len()
                    ))
                    .hint(format!("name one of them; `longshore ps --job {word}` lists them")));
                }
            }
        }
    };
    let answer = client.explain(&id.to_string()).await.map_err(problem)?;
    match wish.output {
        Format::Json => printer.json(&explained::json(&answer))?,
        Format::Table => printer.data(&explained::text(&answer))?,
    }
    Ok(Exit::Done)
}

/// Says what would happen if.
pub(crate) async fn whatif(
    global: &Global,
    wish: plan::WhatIf,
    printer: Printer,
) -> Result<Exit, Failure> {
    let (question, output) = match wish {
        plan::WhatIf::Drain(wish) => (WhatIf::Drain { nodes: wish.nodes }, wish.output),
        plan::WhatIf::Lose(wish) => (WhatIf::Lose { nodes: wish.nodes }, wish.output),
        plan::WhatIf::Add(wish) => {
            let labels = wish.label.into_iter().map(|label| (label.name, label.value)).collect();
            let (nodes, capacity) = (wish.machines.count, wish.machines.capacity);
            (WhatIf::Add { nodes, capacity, datacenter: wish.datacenter, labels }, wish.output)
        }
        plan::WhatIf::Submit(wish) => {
            let job = Box::new(job::read_spec(global, &wish.file)?);
            (WhatIf::Submit { job }, wish.output)
        }
    };
    let client = Client::connect(global, printer).await?;
    let answer = client
        .whatif(&question)
        .await
        .map_err(|error| Failure::asked("work out what would happen", &error))?;
    match output {
        Format::Json => printer.json(&outlook::json(&answer))?,
        Format::Table => printer.data(&outlook::text(&answer))?,
    }
    Ok(Exit::Done)
}

/// Shows which moves would pay, or begins them.
pub(crate) async fn rebalance(
    client: &Client,
    wish: &plan::Rebalance,
    printer: Printer,
) -> Result<Exit, Failure> {
    let asked = Rebalance { moves_max: Some(wish.moves), gain: Some(wish.gain) };
    let answer = if wish.plan {
        let answer = client.rebalance_plan(&asked).await;
        answer.map_err(|error| Failure::asked("plan moves", &error))?
    } else {
        let answer = client.rebalance(&asked).await;
        answer.map_err(|error| Failure::commanded("rebalance the cluster", &error))?
    };
    match wish.output {
        Format::Json => printer.json(&rebalanced::json(&answer))?,
        Format::Table => printer.data(&rebalanced::text(&answer))?,
    }
    match (answer.moves.len(), wish.plan) {
        (0, _) => printer.talk("no move pays"),
        (_, true) => {}
        (1, false) => printer.talk("1 task moves; `longshore ps` shows it"),
        (count, false) => printer.talk(&format!("{count} tasks move; `longshore ps` shows them")),
    }
    Ok(Exit::Done)
}
