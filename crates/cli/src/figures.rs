//! What tasks use just now, and how far their images have come: asked of their nodes, once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::select_all;
use longshore_proto::api::TaskView;
use longshore_proto::codec;
use longshore_proto::id::TaskId;
use longshore_proto::metrics::{
    METRICS_INTERVAL_MS, MetricsWatch, NodeMetrics, PullFigures, Usage,
};
use longshore_proto::name::NodeName;
use longshore_proto::permission::Role;
use longshore_proto::quantity::format_bytes;
use longshore_proto::state::TaskState;
use longshore_proto::subject::{NodeVerb, Pattern, Subject};
use tokio::time::Instant;

use crate::client::Client;
use crate::failure::Failure;
use crate::pulling::progress;
use crate::render::Printer;
use crate::table::one_line;

/// How long the nodes are waited for.
const WAIT_MAX: Duration = Duration::from_millis(1_500);
/// The most nodes that are asked; `top` is for more.
const NODES_MAX: usize = 16;

/// What was heard. Whoever did not answer in time is left out.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    tasks: BTreeMap<TaskId, Usage>,
    pulls: Vec<(NodeName, PullFigures)>,
}

impl Figures {
    /// Asks the nodes where these tasks run or prepare.
    pub(crate) async fn of(client: &Client, tasks: &[TaskView]) -> Self {
        let mut figures = Self::default();
        let mut missing: BTreeSet<NodeName> = tasks
            .iter()
            .filter(|task| !task.silent)
            .filter(|task| matches!(task.state, TaskState::Preparing | TaskState::Running))
            .filter_map(|task| task.node.clone())
            .collect();
        let bus = client.bus();
        if missing.is_empty() || missing.len() > NODES_MAX || bus.role() == Role::Observer {
            return figures;
        }
        let mut heard = Vec::new();
        for node in &missing {
            // Without figures there is less to tell, and nothing else.
            let pattern = Pattern::NodeOf(node.clone(), NodeVerb::Metrics);
            heard.extend(bus.subscribe(&pattern).await);
        }
        let mut heard = select_all(heard);
        // The first ones come at once, and others are not wanted.
        let wish =
            MetricsWatch { interval_ms: METRICS_INTERVAL_MS, tasks_of: Some(missing.clone()) };
        let _ = bus.publish(&Subject::MetricsWatch, &wish).await;
        let deadline = Instant::now() + WAIT_MAX;
        while !missing.is_empty()
            && let Ok(Some(incoming)) = tokio::time::timeout_at(deadline, heard.next()).await
        {
            let Some(Subject::Node { node, .. }) = incoming.subject else { continue };
            let Ok(told) = codec::decode::<NodeMetrics>(&incoming.payload) else { continue };
            if figures.take(&node, told, tasks) {
                missing.remove(&node);
            }
        }
        figures
    }

    /// Takes in what a node tells; whether that is all that is wanted of it.
    fn take(&mut self, node: &NodeName, told: NodeMetrics, tasks: &[TaskView]) -> bool {
        // Of its tasks, only those of this attempt: figures of the one before say nothing.
        let is_meant = |id: TaskId, attempt: u64| {
            tasks.iter().any(|task| (task.id, task.attempt) == (id, attempt))
        };
        let of_tasks = told.tasks.iter().flatten();
        self.tasks.extend(
            of_tasks
                .filter(|figures| is_meant(figures.task, figures.attempt))
                .map(|figures| (figures.task, figures.usage)),
        );
        self.pulls.retain(|(known, _)| known != node);
        let waits_for = |image: &str| {
            tasks.iter().any(|task| {
                task.state == TaskState::Preparing
                    && task.node.as_ref() == Some(node)
                    && task.image == image
            })
        };
        let pulls = told.pulls.into_iter().filter(|pull| waits_for(&pull.image));
        self.pulls.extend(pulls.map(|pull| (node.clone(), pull)));
        told.tasks.is_some()
    }

    /// What a task uses.
    pub(crate) fn usage(&self, task: TaskId) -> Option<&Usage> {
        self.tasks.get(&task)
    }

    /// The images that tasks wait for, and how far they have come.
    pub(crate) fn pulling(&self) -> impl Iterator<Item = &PullFigures> {
        self.pulls.iter().map(|(_, pull)| pull)
    }

    /// What a task uses, as rows of its table.
    pub(crate) fn rows(&self, task: TaskId) -> Vec<(&'static str, Option<String>)> {
        let Some(usage) = self.tasks.get(&task) else { return Vec::new() };
        let pair = |one: Option<u64>, other: Option<u64>, words: (&str, &str)| {
            let (one, other) = (format_bytes(one?), format_bytes(other?));
            Some(format!("{one} {}, {other} {}", words.0, words.1))
        };
        let memory = usage.memory_bytes.map(|used| match usage.memory_limit_bytes {
            Some(limit) => format!("{} of {}", format_bytes(used), format_bytes(limit)),
            None => format_bytes(used),
        });
        let cores = |millis: u64| format!("{}.{:02} cores", millis / 1_000, millis % 1_000 / 10);
        vec![
            ("cpu", usage.cpu_millis.map(cores)),
            ("memory", memory),
            ("network", pair(usage.received_bytes, usage.sent_bytes, ("in", "out"))),
            ("disk", pair(usage.read_bytes, usage.written_bytes, ("read", "written"))),
            ("processes", usage.pids.map(|count| count.to_string())),
        ]
    }

    /// How far the images have come that tasks wait for, a line each.
    pub(crate) fn pulls(&self) -> Vec<String> {
        let line = |(node, pull): &(NodeName, PullFigures)| {
            format!("pulling {} on {node}: {}", one_line(&pull.image), progress(pull))
        };
        self.pulls.iter().map(line).collect()
    }

    /// Prints those lines below what was printed before; nothing where nothing is pulled.
    pub(crate) fn print_pulls(&self, printer: Printer) -> Result<(), Failure> {
        match self.pulls() {
            lines if lines.is_empty() => Ok(()),
            lines => printer.data(&format!("\n{}\n", lines.join("\n"))),
        }
    }

    /// Asks for these tasks and prints. Where none waits for its image, nobody is asked.
    pub(crate) async fn print_pulls_of(
        client: &Client,
        mut tasks: Vec<TaskView>,
        printer: Printer,
    ) -> Result<(), Failure> {
        tasks.retain(|task| task.state == TaskState::Preparing);
        Self::of(client, &tasks).await.print_pulls(printer)
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::id::BootId;
    use longshore_proto::metrics::{NodeFigures, PullStep, TaskFigures};

    use super::*;
    use crate::json::TaskInUse;
    use crate::json::tests::task;

    fn told(tasks: Vec<TaskFigures>, pulls: Vec<PullFigures>) -> NodeMetrics {
        let boot_id = BootId(uuid::Uuid::from_u128(4));
        NodeMetrics { boot_id, at_ms: 1, node: NodeFigures::default(), tasks: Some(tasks), pulls }
    }

    fn on_n1(state: TaskState) -> (TaskView, NodeName) {
        let node: NodeName = "n1".parse().unwrap();
        (TaskView { node: Some(node.clone()), ..task(7, state) }, node)
    }

    #[test]
    fn figures_are_those_of_the_attempt_that_is_shown() {
        let (view, node) = on_n1(TaskState::Running);
        let figures = TaskFigures {
            task: view.id,
            namespace: view.namespace.clone(),
            job: view.job.clone(),
            spec: view.spec.clone(),
            slot: 0,
            attempt: view.attempt,
            usage: Usage {
                cpu_millis: Some(120),
                memory_bytes: Some(64 << 20),
                memory_limit_bytes: Some(128 << 20),
                pids: Some(3),
                ..Usage::default()
            },
        };
        let message = told(vec![figures], vec![]);
        let mut heard = Figures::default();
        assert!(heard.take(&node, message.clone(), std::slice::from_ref(&view)));
        let wanted = [
            ("cpu", Some("0.12 cores".to_owned())),
            ("memory", Some("64MiB of 128MiB".to_owned())),
            ("network", None),
            ("disk", None),
            ("processes", Some("3".to_owned())),
        ];
        assert_eq!(heard.rows(view.id), wanted);
        let shown = serde_json::to_value(TaskInUse::new(&view, &heard)).unwrap();
        assert_eq!(shown["id"], view.id.to_string());
        assert_eq!(shown["usage"]["memory_bytes"], 64 << 20, "{shown}");
        assert_eq!(shown["pull"], serde_json::Value::Null, "{shown}");
        let later = TaskView { attempt: 2, ..view.clone() };
        let mut heard = Figures::default();
        assert!(heard.take(&node, message.clone(), &[later]));
        assert_eq!(heard.rows(view.id), []);
        // Somebody else asked for the node's own alone.
        assert!(!heard.take(&node, NodeMetrics { tasks: None, ..message }, &[view]));
    }

    #[test]
    fn a_pull_is_told_where_a_task_waits_for_it() {
        let (view, node) = on_n1(TaskState::Preparing);
        let pull = |image: &str| PullFigures {
            image: image.to_owned(),
            done_bytes: 15 << 20,
            total_bytes: 30 << 20,
            step: PullStep::Downloading,
        };
        let message = told(vec![], vec![pull(&view.image), pull("other:1")]);
        let mut heard = Figures::default();
        heard.take(&node, message.clone(), std::slice::from_ref(&view));
        heard.take(&node, message.clone(), std::slice::from_ref(&view));
        assert_eq!(heard.pulls(), ["pulling busybox:1 on n1: downloading 50 % (15MiB of 30MiB)"]);
        let shown = serde_json::to_value(TaskInUse::new(&view, &heard)).unwrap();
        assert_eq!(shown["usage"], serde_json::Value::Null, "{shown}");
        assert_eq!(shown["pull"]["done_bytes"], 15 << 20, "{shown}");
        let runs = TaskView { state: TaskState::Running, ..view };
        let mut heard = Figures::default();
        heard.take(&node, message, &[runs]);
        assert_eq!(heard.pulls(), [""; 0]);
    }
}
