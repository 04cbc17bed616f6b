//! `longshore diff`: what differs between two moments. Each line is one thing: `+` is new, `-` is gone, `~` changed.

use std::collections::BTreeMap;

use longshore_proto::api::{JobView, ListTasks, NodeView, TaskView};
use serde::Serialize;

use crate::args::{Format, cluster::Diff};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::render::Printer;
use crate::table;

/// Prints what differs.
pub(crate) async fn run(client: &Client, wish: &Diff, printer: Printer) -> Result<Exit, Failure> {
    let before = look(&client.at(Some(wish.from.clone()))).await?;
    let after = look(&client.at(wish.to.clone())).await?;
    let changes = changes(&before, &after);
    match wish.output {
        Format::Json => printer.json(&changes)?,
        Format::Table if changes.is_empty() => printer.talk("nothing differs"),
        Format::Table => {
            for change in &changes {
                printer.line(&change.line())?;
            }
        }
    }
    Ok(Exit::Done)
}

/// What is compared of a thing, by its field.
type Fields = BTreeMap<&'static str, String>;
/// Things by kind and name.
type Things = BTreeMap<(&'static str, String), Fields>;

async fn look(client: &Client) -> Result<Things, Failure> {
    let problem = |error| Failure::asked("look at the cluster at that moment", &error);
    let jobs = client.jobs(false).await.map_err(problem)?;
    let question = ListTasks { ended: true, ..ListTasks::default() };
    let tasks = client.tasks(question).await.map_err(problem)?;
    let nodes = client.nodes().await.map_err(problem)?;
    Ok(things(&jobs, &tasks, &nodes))
}

fn things(jobs: &[JobView], tasks: &[TaskView], nodes: &[NodeView]) -> Things {
    let nodes = nodes.iter().map(|node| {
        let fields = Fields::from([
            ("status", node.status.as_str().to_owned()),
            ("datacenter", node.datacenter.to_string()),
            ("worker", node.worker_version.clone()),
        ]);
        (("node", node.name.to_string()), fields)
    });
    let jobs = jobs.iter().map(|job| {
        let specs = job.specs.iter();
        let wanted: Vec<String> =
            specs.map(|spec| format!("{}={}", spec.name, spec.instances)).collect();
        let fields = Fields::from([
            ("version", job.version.to_string()),
            ("status", job.status.as_str().to_owned()),
            ("instances", wanted.join(",")),
        ]);
        (("job", job.name.to_string()), fields)
    });
    let tasks = tasks.iter().map(|task| {
        let mut fields = Fields::from([
            ("of", table::task_name(task)),
            ("state", task.state.as_str().to_owned()),
            ("attempt", task.attempt.to_string()),
            ("version", task.version.to_string()),
        ]);
        fields.extend(task.node.iter().map(|node| ("node", node.to_string())));
        (("task", task.id.to_string()), fields)
    });
    nodes.chain(jobs).chain(tasks).collect()
}

/// One thing that differs.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change {
    /// `job`, `node` or `task`.
    kind: &'static str,
    /// Its name or id.
    name: String,
    /// `new`, `gone` or `changed`.
    change: &'static str,
    /// What was there; empty for what is new.
    before: Fields,
    /// What is there; empty for what is gone.
    after: Fields,
}

fn changes(before: &Things, after: &Things) -> Vec<Change> {
    let mut all: Vec<&(&str, String)> = before.keys().chain(after.keys()).collect();
    all.sort_unstable();
    all.dedup();
    let change = |key: &(&'static str, String)| {
        let (kind, name) = key.clone();
        let (change, old, new) = match (before.get(key), after.get(key)) {
            (Some(old), Some(new)) if old == new => return None,
            (Some(old), Some(new)) => ("changed", old.clone(), new.clone()),
            (Some(old), None) => ("gone", old.clone(), Fields::new()),
            (None, new) => ("new", Fields::new(), new.cloned().unwrap_or_default()),
        };
        Some(Change { kind, name, change, before: old, after: new })
    };
    all.into_iter().filter_map(change).collect()
}

impl Change {
    fn line(&self) -> String {
        let said = |fields: &Fields| {
            let parts: Vec<String> =
                fields.iter().map(|(field, value)| format!("{field}={value}")).collect();
            parts.join(" ")
        };
        let (mark, text) = match self.change {
            "new" => ("+", said(&self.after)),
            "gone" => ("-", said(&self.before)),
            _ => {
                let fields = self.before.keys().chain(self.after.keys());
                let mut fields: Vec<&str> = fields.copied().collect();
                fields.sort_unstable();
                fields.dedup();
                let moved = fields.into_iter().filter_map(|field| {
                    let (old, new) = (self.before.get(field), self.after.get(field));
                    let shown =
                        |value: Option<&String>| value.map_or("-", String::as_str).to_owned();
                    (old != new).then(|| format!("{field}: {} -> {}", shown(old), shown(new)))
                });
                let moved = moved.collect::<Vec<_>>().join(", ");
                // An id alone tells nobody which task it is.
                let of = self.after.get("of").map(|of| format!("({of}) "));
                ("~", format!("{}{moved}", of.unwrap_or_default()))
            }
        };
        table::one_line(&format!("{mark} {} {} {text}", self.kind, self.name))
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::spec::JobType;
    use longshore_proto::state::{JobStatus, TaskState};

    use super::*;
    use crate::json::tests::{job, node, task};

    #[test]
    fn what_is_new_gone_and_changed_is_one_line_each() {
        let old_job = job(JobType::Service, JobStatus::Running);
        let new_job = JobView { version: old_job.version + 1, ..old_job.clone() };
        let (old_task, new_task) = (task(1, TaskState::Running), task(2, TaskState::Pending));
        let before = things(std::slice::from_ref(&old_job), &[old_task], &[node("n1")]);
        let after = things(std::slice::from_ref(&new_job), &[new_task], &[node("n1")]);
        let lines: Vec<String> = changes(&before, &after).iter().map(Change::line).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        let version = format!("version: {} -> {}", old_job.version, new_job.version);
        assert_eq!(lines[0], format!("~ job {} {version}", old_job.name));
        assert!(lines[1].starts_with("- task ") && lines[2].starts_with("+ task "), "{lines:?}");
        assert_eq!(changes(&after, &after), vec![]);
        let (old, new) = (task(1, TaskState::Running), task(1, TaskState::Failed));
        let of = table::task_name(&new);
        let lines =
            changes(&things(&[], &[old], &[]), &things(&[], std::slice::from_ref(&new), &[]));
        let line = format!("~ task {} ({of}) state: running -> failed", new.id);
        assert_eq!(lines.iter().map(Change::line).collect::<Vec<_>>(), [line]);
    }
}
