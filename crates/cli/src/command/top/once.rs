//! `top --once`: the figures of one moment, as a table or as JSON.

use std::time::Duration;

use longshore_proto::metrics::{NodeFigures, PullFigures, TaskFigures};
use serde::Serialize;
use tokio::time::Instant;

use super::Source;
use super::model::{Model, NodeRow, TaskRow};
use super::view::{node_cells, task_cells};
use crate::args::Format;
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::pulling::progress;
use crate::render::Printer;
use crate::table;

/// How long nodes are waited for: two readings, which rates need, of nodes that answer.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How far the two readings are apart.
const INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn run(
    client: &Client,
    mut source: Source,
    model: &mut Model,
    format: Format,
    printer: Printer,
) -> Result<Exit, Failure> {
    let problem = |error| Failure::asked("list the nodes", &error);
    let cluster = client.cluster().await.map_err(problem)?;
    model.listed(cluster, client.nodes().await.map_err(problem)?);
    source.watch(INTERVAL, model).await?;
    let deadline = Instant::now() + WAIT_MAX;
    while !model.all_heard(2) {
        match tokio::time::timeout_at(deadline, source.next()).await {
            Ok(Some((node, figures))) => {
                let now_ms = source.now_ms();
                model.heard(node, figures, now_ms);
            }
            Ok(None) => return Err(Failure::new("the connection to NATS was closed")),
            Err(_) => break,
        }
    }
    let (nodes, tasks) = (model.shown_nodes(), model.shown_tasks());
    match format {
        Format::Json => printer.json(&Once {
            nodes: nodes.into_iter().map(Node::from).collect(),
            tasks: tasks.into_iter().map(Task::from).collect(),
        })?,
        Format::Table => {
            let heads = [
                "NODE",
                "STATUS",
                "TASKS",
                "CPU",
                "MEMORY",
                "LOAD",
                "NET IN/OUT s",
                "DISK",
                "PROBLEM",
            ];
            let rows = nodes.into_iter().map(node_cells).collect();
            printer.data(&table::lines(&heads, rows, Some(1)))?;
            for (node, pull) in model.pulls() {
                printer.line(&format!("pulling {} on {node}: {}", pull.image, progress(pull)))?;
            }
            let heads = ["TASK", "NODE", "CPU", "MEMORY", "PIDS", "NET IN/OUT s", "DISK R/W s"];
            let rows: Vec<_> = tasks.into_iter().map(task_cells).collect();
            if !rows.is_empty() {
                printer.data(&format!("\n{}", table::lines(&heads, rows, None)))?;
            }
        }
    }
    Ok(Exit::Done)
}

/// What `-o json` prints.
#[derive(Serialize)]
struct Once<'a> {
    nodes: Vec<Node<'a>>,
    tasks: Vec<Task<'a>>,
}

#[derive(Serialize)]
struct Node<'a> {
    name: &'a str,
    status: Option<&'a str>,
    /// Absent for a node that was not heard.
    figures: Option<&'a NodeFigures>,
    received_bytes_per_s: u64,
    sent_bytes_per_s: u64,
    pulls: &'a [PullFigures],
}

impl<'a> From<&'a NodeRow> for Node<'a> {
    fn from(row: &'a NodeRow) -> Self {
        Self {
            name: row.name.as_str(),
            status: row.status.map(|(status, _)| status.as_str()),
            figures: row.figures.as_ref().map(|(_, figures)| figures),
            received_bytes_per_s: row.rates.received,
            sent_bytes_per_s: row.rates.sent,
            pulls: &row.pulls,
        }
    }
}

#[derive(Serialize)]
struct Task<'a> {
    #[serde(flatten)]
    figures: &'a TaskFigures,
    node: &'a str,
    received_bytes_per_s: u64,
    sent_bytes_per_s: u64,
    read_bytes_per_s: u64,
    written_bytes_per_s: u64,
}

impl<'a> From<&'a TaskRow> for Task<'a> {
    fn from(row: &'a TaskRow) -> Self {
        Self {
            figures: &row.figures,
            node: row.node.as_str(),
            received_bytes_per_s: row.rates.received,
            sent_bytes_per_s: row.rates.sent,
            read_bytes_per_s: row.rates.read,
            written_bytes_per_s: row.rates.written,
        }
    }
}
