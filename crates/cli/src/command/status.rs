//! `longshore status`: how the cluster stands; or a job, or a task.

use longshore_proto::api::{ClusterView, NodeView};
use longshore_proto::permission::Role;

use crate::args::{Format, task::Status};
use crate::client::{Client, Named};
use crate::failure::{Exit, Failure};
use crate::figures::Figures;
use crate::json;
use crate::render::Printer;
use crate::table;

/// Shows what is asked for.
pub(crate) async fn run(client: &Client, wish: &Status, printer: Printer) -> Result<Exit, Failure> {
    let Some(word) = &wish.name else {
        return cluster(client, wish.output, printer).await;
    };
    match (client.named(word).await?, wish.output) {
        (Named::Job(job), Format::Json) => printer.json(&json::Job::from(&job))?,
        (Named::Task(task), Format::Json) => {
            let figures = Figures::of(client, std::slice::from_ref(&*task)).await;
            printer.json(&json::TaskInUse::new(&task, &figures))?;
        }
        (Named::Task(task), Format::Table) => {
            let figures = Figures::of(client, std::slice::from_ref(&*task)).await;
            printer.data(&table::task(&task, figures.rows(task.id)))?;
            figures.print_pulls(printer)?;
        }
        (Named::Job(job), Format::Table) => {
            let tasks = super::job::show(client, &job, printer).await?;
            Figures::print_pulls_of(client, tasks, printer).await?;
        }
    }
    Ok(Exit::Done)
}

async fn cluster(client: &Client, format: Format, printer: Printer) -> Result<Exit, Failure> {
    let problem = |error| Failure::asked("show the cluster", &error);
    // The leader alone knows what is alarming; without one, what another manager knows is better than nothing.
    let cluster = match client.cluster_of_leader().await {
        Ok(cluster) => cluster,
        Err(error) => {
            let known = client.cluster().await.map_err(problem)?;
            printer.failure(&problem(error));
            printer.talk("what follows is what another manager knows");
            known
        }
    };
    match format {
        Format::Json => printer.json(&json::Cluster::from(&cluster))?,
        Format::Table => {
            let nodes = if client.bus().role() == Role::Observer {
                Vec::new()
            } else {
                client.nodes().await.map_err(problem)?
            };
            printer.data(&overview(&cluster, &nodes))?;
        }
    }
    Ok(Exit::Done)
}

fn overview(cluster: &ClusterView, nodes: &[NodeView]) -> String {
    let counts = |counts: Vec<(String, u64)>| {
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        let parts: Vec<String> = counts.map(|(name, count)| format!("{count} {name}")).collect();
        if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
    };
    let tasks = cluster.tasks.iter().map(|(state, count)| (state.to_string(), *count)).collect();
    let by_status = cluster.nodes.iter().map(|(status, count)| (status.clone(), *count)).collect();
    let some = |count: u64| (count > 0).then(|| count.to_string());
    let head = table::pairs(vec![
        ("cluster", Some(cluster.id.to_string())),
        ("leader", Some(format!("{} (epoch {})", table::leader(cluster), cluster.epoch))),
        ("manager", Some(cluster.manager_version.clone())),
        ("nodes", Some(counts(by_status))),
        ("jobs", Some(format!("{} live", cluster.jobs))),
        ("tasks", Some(counts(tasks))),
        ("records skipped", some(cluster.records_skipped)),
        ("payloads refused", some(cluster.payloads_refused)),
    ]);
    let told = |word: &str, all: &[String]| -> String {
        all.iter().map(|text| format!("{word}: {}\n", table::one_line(text))).collect()
    };
    let alarms = told("alarm", &cluster.alarms) + &told("warning", &cluster.warnings);
    let nodes =
        if nodes.is_empty() { String::new() } else { format!("\n{}", table::nodes(nodes, false)) };
    format!("{head}{alarms}{nodes}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use longshore_proto::id::{ClusterId, ManagerId};
    use longshore_proto::state::TaskState;
    use uuid::Uuid;

    use super::*;
    use crate::json::tests::node;

    #[test]
    fn the_overview_shows_counts_alarms_and_nodes() {
        let cluster = ClusterView {
            id: ClusterId(Uuid::from_u128(1)),
            epoch: 3,
            leader: ManagerId(Uuid::from_u128(2)),
            leader_name: Some("m1".parse().unwrap()),
            manager_version: "0.1.0".into(),
            jobs: 1,
            tasks: BTreeMap::from([
                (TaskState::Pending, 1),
                (TaskState::Running, 2),
                (TaskState::Lost, 0),
            ]),
            nodes: BTreeMap::from([("ready".to_owned(), 1)]),
            records_skipped: 0,
            payloads_refused: 4,
            alarms: vec!["the log was written to by somebody else".into()],
            warnings: vec!["the log is 71 % full".into()],
            history: None,
        };
        let text = overview(&cluster, &[node("n1")]);
        let text = anstream::adapter::strip_str(&text).to_string();
        assert!(text.contains("tasks              1 pending, 2 running\n"), "{text}");
        assert!(
            text.contains("payloads refused   4\n") && !text.contains("records skipped"),
            "{text}"
        );
        assert!(text.contains("alarm: the log was written to by somebody else\n"), "{text}");
        assert!(text.contains("warning: the log is 71 % full\n"), "{text}");
        assert!(text.contains("leader             m1 (epoch 3)\n"), "{text}");
        let unnamed = ClusterView { leader_name: None, ..cluster };
        assert!(overview(&unnamed, &[]).contains(&unnamed.leader.to_string()));
        assert!(text.contains("\nn1 "), "{text}");
    }
}
