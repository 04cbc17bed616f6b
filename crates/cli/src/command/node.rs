//! `longshore node`: list, look at.

use longshore_proto::api::ListTasks;

use crate::args::{Format, WideFormat, node};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::json;
use crate::render::Printer;
use crate::table;

/// Lists nodes.
pub(crate) async fn list(
    client: &Client,
    wish: &node::Ls,
    printer: Printer,
) -> Result<Exit, Failure> {
    let nodes = client.at(wish.at.clone()).nodes().await;
    let nodes = nodes.map_err(|error| Failure::asked("list the nodes", &error))?;
    match wish.output {
        WideFormat::Json => {
            printer.json(&nodes.iter().map(json::Node::from).collect::<Vec<_>>())?
        }
        WideFormat::Table => printer.data(&table::nodes(&nodes, false))?,
        WideFormat::Wide => printer.data(&table::nodes(&nodes, true))?,
    }
    Ok(Exit::Done)
}

/// Shows a node and its tasks.
pub(crate) async fn status(
    client: &Client,
    wish: &node::Status,
    printer: Printer,
) -> Result<Exit, Failure> {
    let name = &wish.name;
    let problem = |error| Failure::asked(format_args!("show the node {name}"), &error);
    let node = client.node(name).await.map_err(problem)?;
    match wish.output {
        Format::Json => printer.json(&json::Node::from(&node))?,
        Format::Table => {
            printer.data(&table::node(&node))?;
            let question = ListTasks { node: Some(name.clone()), ..ListTasks::default() };
            let tasks = client.tasks(question).await.map_err(problem)?;
            if !tasks.is_empty() {
                printer.data(&format!("\n{}", table::tasks(&tasks, table::now_ms(), false)))?;
            }
        }
    }
    Ok(Exit::Done)
}
