//! What `top` knows, how it is ordered, and what keys do to it. Nothing here asks or prints.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use longshore_proto::api::{ClusterView, NodeView};
use longshore_proto::id::{BootId, TaskId};
use longshore_proto::metrics::{
    METRICS_TASKS_MAX, NodeFigures, NodeMetrics, PullFigures, TaskFigures,
};
use longshore_proto::name::NodeName;
use longshore_proto::state::{Eligibility, NodeStatus};

use crate::args::cluster::Sort;

/// Figures that are older than this are no longer shown, in milliseconds.
pub(super) const STALE_MS: u64 = 40_000;

/// Which list the arrow keys move in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Focus {
    /// The nodes.
    Nodes,
    /// The tasks.
    #[default]
    Tasks,
}

/// Bytes a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rates {
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) read: u64,
    pub(super) written: u64,
}

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NodeRow {
    pub(super) name: NodeName,
    /// How it stands, as the manager knows it; absent for a node of which only figures are known.
    pub(super) status: Option<(NodeStatus, Eligibility)>,
    pub(super) tasks: u64,
    /// The last figures, and when they came by this program's clock.
    pub(super) figures: Option<(u64, NodeFigures)>,
    pub(super) rates: Rates,
    pub(super) pulls: Vec<PullFigures>,
    at_ms: u64,
    boot_id: Option<BootId>,
    /// How many times it was heard.
    pub(super) heard: u64,
}

/// A task that runs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TaskRow {
    pub(super) node: NodeName,
    pub(super) figures: TaskFigures,
    pub(super) rates: Rates,
    at_ms: u64,
    heard_ms: u64,
}

impl TaskRow {
    /// The task's name.
    pub(super) fn name(&self) -> String {
        let figures = &self.figures;
        let name = format!("{}.{}.{}", figures.job, figures.spec, figures.slot);
        if figures.namespace.as_str() == "default" {
            name
        } else {
            format!("{}/{name}", figures.namespace)
        }
    }
}

/// What a key asks for that the model cannot do itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// The end.
    Leave,
    /// Nothing more.
    Nothing,
}

/// A key, as far as it means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Character(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Tab,
    Enter,
    Escape,
    Backspace,
    Interrupt,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) cluster: Option<ClusterView>,
    /// Why the manager's answers are missing.
    pub(super) problem: Option<String>,
    nodes: BTreeMap<NodeName, NodeRow>,
    tasks: BTreeMap<TaskId, TaskRow>,
    pub(super) sort: Sort,
    pub(super) is_reversed: bool,
    pub(super) filter: String,
    /// Whether keys are letters of the filter.
    pub(super) is_typing: bool,
    pub(super) is_paused: bool,
    pub(super) focus: Focus,
    /// The places of the cursors, in the nodes and in the tasks.
    cursors: (usize, usize),
}

impl Model {
    pub(super) fn new(sort: Sort, filter: String) -> Self {
        Self { sort, filter, ..Self::default() }
    }

    /// Takes a node's figures in, at a moment of this program's clock.
    pub(super) fn heard(&mut self, name: NodeName, message: NodeMetrics, now_ms: u64) {
        if self.is_paused {
            return;
        }
        let node = self.nodes.entry(name.clone()).or_insert_with(|| NodeRow::new(name.clone()));
        let is_same_boot = node.boot_id == Some(message.boot_id);
        let span_ms = if is_same_boot { message.at_ms.saturating_sub(node.at_ms) } else { 0 };
        // Several messages of one reading have the same time; the first one tells the rates.
        if let Some((_, before)) = &node.figures
            && span_ms > 0
        {
            let rate = |before, now| per_second(Some(before), Some(now), span_ms);
            node.rates = Rates {
                received: rate(before.received_bytes, message.node.received_bytes),
                sent: rate(before.sent_bytes, message.node.sent_bytes),
                ..Rates::default()
            };
        }
        node.heard += 1;
        node.at_ms = message.at_ms;
        node.boot_id = Some(message.boot_id);
        node.tasks = u64::from(message.node.tasks_running);
        node.figures = Some((now_ms, message.node));
        node.pulls = message.pulls;
        let Some(tasks) = message.tasks else { return };
        if tasks.len() < METRICS_TASKS_MAX {
            // All of them: what is not among them runs no more.
            let there: Vec<TaskId> = tasks.iter().map(|figures| figures.task).collect();
            self.tasks.retain(|id, row| row.node != name || there.contains(id));
        }
        for figures in tasks {
            let before = self.tasks.get(&figures.task);
            let rates = before
                .filter(|before| is_same_boot && before.figures.attempt == figures.attempt)
                .map_or_else(Rates::default, |before| {
                    let span_ms = message.at_ms.saturating_sub(before.at_ms);
                    let (then, now) = (&before.figures.usage, &figures.usage);
                    Rates {
                        received: per_second(then.received_bytes, now.received_bytes, span_ms),
                        sent: per_second(then.sent_bytes, now.sent_bytes, span_ms),
                        read: per_second(then.read_bytes, now.read_bytes, span_ms),
                        written: per_second(then.written_bytes, now.written_bytes, span_ms),
                    }
                });
            let row = TaskRow {
                node: name.clone(),
                rates,
                at_ms: message.at_ms,
                heard_ms: now_ms,
                figures,
            };
            self.tasks.insert(row.figures.task, row);
        }
    }

    /// Takes in what the manager says of the nodes, which is all there are.
    pub(super) fn listed(&mut self, cluster: ClusterView, nodes: Vec<NodeView>) {
        if self.is_paused {
            return;
        }
        self.problem = None;
        self.cluster = Some(cluster);
        let mut known = std::mem::take(&mut self.nodes);
        for node in nodes {
            let mut row =
                known.remove(&node.name).unwrap_or_else(|| NodeRow::new(node.name.clone()));
            row.status = Some((node.status, node.eligibility));
            row.tasks = node.tasks;
            self.nodes.insert(node.name, row);
        }
        self.tasks.retain(|_, row| self.nodes.contains_key(&row.node));
    }

    /// Forgets figures that nobody renews.
    pub(super) fn expire(&mut self, now_ms: u64) {
        if self.is_paused {
            return;
        }
        let is_fresh = |heard_ms: u64| now_ms.saturating_sub(heard_ms) <= STALE_MS;
        self.tasks.retain(|_, row| is_fresh(row.heard_ms));
        for row in self.nodes.values_mut() {
            row.figures = row.figures.take().filter(|(heard_ms, _)| is_fresh(*heard_ms));
        }
    }

    pub(super) fn nodes_count(&self) -> usize {
        self.nodes.len()
    }

    /// Nodes that are said to be there: whether each was heard so many times.
    pub(super) fn all_heard(&self, times: u64) -> bool {
        let mut ready = self
            .nodes
            .values()
            .filter(|row| row.status.is_some_and(|(status, _)| status == NodeStatus::Ready));
        ready.all(|row| row.heard >= times)
    }

    /// The nodes that are shown, in order.
    pub(super) fn shown_nodes(&self) -> Vec<&NodeRow> {
        // With the cursor in the nodes the filter is theirs; else it is the tasks'.
        let is_filtered = self.focus == Focus::Nodes;
        let matches = |row: &&NodeRow| !is_filtered || row.name.as_str().contains(&self.filter);
        let mut rows: Vec<&NodeRow> = self.nodes.values().filter(matches).collect();
        rows.sort_by(|a, b| {
            let key = |row: &NodeRow| -> u64 {
                let used = row.figures.as_ref().map(|(_, figures)| figures.used);
                match self.sort {
                    Sort::Cpu => used.map_or(0, |used| used.cpu_millis),
                    Sort::Memory => used.map_or(0, |used| used.memory_bytes),
                    Sort::Disk => used.map_or(0, |used| used.disk_bytes),
                    Sort::Network => row.rates.received + row.rates.sent,
                    Sort::Pids => row.tasks,
                    Sort::Name => 0,
                }
            };
            self.ordered(key(b).cmp(&key(a))).then_with(|| self.by_name(a.name.cmp(&b.name)))
        });
        rows
    }

    /// The tasks that are shown, in order.
    pub(super) fn shown_tasks(&self) -> Vec<&TaskRow> {
        let is_filtered = self.focus == Focus::Tasks && !self.filter.is_empty();
        let chosen = (self.focus == Focus::Nodes).then(|| self.chosen_node()).flatten();
        let matches = |row: &&TaskRow| {
            let is_of_node = chosen.as_ref().is_none_or(|node| row.node == *node);
            is_of_node
                && (!is_filtered
                    || row.name().contains(&self.filter)
                    || row.node.as_str().contains(&self.filter)
                    || row.figures.task.to_string().starts_with(&self.filter))
        };
        let mut rows: Vec<&TaskRow> = self.tasks.values().filter(matches).collect();
        rows.sort_by(|a, b| {
            let key = |row: &TaskRow| -> u64 {
                let (usage, rates) = (&row.figures.usage, &row.rates);
                match self.sort {
                    Sort::Cpu => usage.cpu_millis.unwrap_or(0),
                    Sort::Memory => usage.memory_bytes.unwrap_or(0),
                    Sort::Network => rates.received + rates.sent,
                    Sort::Disk => rates.read + rates.written,
                    Sort::Pids => usage.pids.unwrap_or(0),
                    Sort::Name => 0,
                }
            };
            let names = |row: &TaskRow| {
                let figures = &row.figures;
                (figures.namespace.clone(), figures.job.clone(), figures.spec.clone(), figures.slot)
            };
            self.ordered(key(b).cmp(&key(a)))
                .then_with(|| self.by_name(names(a).cmp(&names(b))))
                .then_with(|| a.figures.task.cmp(&b.figures.task))
        });
        rows
    }

    fn ordered(&self, order: Ordering) -> Ordering {
        if self.is_reversed { order.reverse() } else { order }
    }

    fn by_name(&self, order: Ordering) -> Ordering {
        if self.sort == Sort::Name { self.ordered(order) } else { order }
    }

    /// Images that are being pulled, with their nodes.
    pub(super) fn pulls(&self) -> Vec<(&NodeName, &PullFigures)> {
        self.nodes.values().flat_map(|row| row.pulls.iter().map(|pull| (&row.name, pull))).collect()
    }

    /// The node that the cursor is on.
    pub(super) fn chosen_node(&self) -> Option<NodeName> {
        self.shown_nodes().get(self.cursors.0).map(|row| row.name.clone())
    }

    /// Where a list's cursor is.
    pub(super) fn cursor(&self, list: Focus) -> Option<usize> {
        (self.focus == list).then_some(match list {
            Focus::Nodes => self.cursors.0,
            Focus::Tasks => self.cursors.1,
        })
    }

    /// Does what a key means.
    pub(super) fn key(&mut self, key: Key) -> Wish {
        match key {
            Key::Interrupt => return Wish::Leave,
            Key::Character(letter) if self.is_typing => self.filter.push(letter),
            Key::Backspace if self.is_typing => drop(self.filter.pop()),
            Key::Enter if self.is_typing => self.is_typing = false,
            Key::Escape if self.is_typing || !self.filter.is_empty() => {
                self.is_typing = false;
                self.filter.clear();
            }
            Key::Character('q') | Key::Escape => return Wish::Leave,
            Key::Character('s') => self.sort = self.sort.next(),
            Key::Character('r') => self.is_reversed = !self.is_reversed,
            Key::Character(' ' | 'p') => self.is_paused = !self.is_paused,
            Key::Character('/') => self.is_typing = true,
            Key::Tab => {
                self.focus = match self.focus {
                    Focus::Nodes => Focus::Tasks,
                    Focus::Tasks => Focus::Nodes,
                }
            }
            Key::Up | Key::Character('k') => self.move_by(-1),
            Key::Down | Key::Character('j') => self.move_by(1),
            Key::PageUp => self.move_by(-10),
            Key::PageDown => self.move_by(10),
            Key::Home => self.move_by(isize::MIN),
            Key::End => self.move_by(isize::MAX),
            Key::Character(_) | Key::Enter | Key::Backspace => {}
        }
        self.move_by(0);
        Wish::Nothing
    }

    fn move_by(&mut self, steps: isize) {
        let last = match self.focus {
            Focus::Nodes => self.shown_nodes().len(),
            Focus::Tasks => self.shown_tasks().len(),
        }
        .saturating_sub(1);
        let cursor = match self.focus {
            Focus::Nodes => &mut self.cursors.0,
            Focus::Tasks => &mut self.cursors.1,
        };
        *cursor = cursor.saturating_add_signed(steps).min(last);
    }
}

impl NodeRow {
    fn new(name: NodeName) -> Self {
        Self {
            name,
            status: None,
            tasks: 0,
            figures: None,
            rates: Rates::default(),
            pulls: Vec::new(),
            at_ms: 0,
            boot_id: None,
            heard: 0,
        }
    }
}

/// The rate of a counter; nothing where it went back or is not known.
fn per_second(before: Option<u64>, now: Option<u64>, span_ms: u64) -> u64 {
    let moved = before.zip(now).and_then(|(before, now)| now.checked_sub(before)).unwrap_or(0);
    moved.saturating_mul(1_000).checked_div(span_ms).unwrap_or(0)
}

#[cfg(test)]
pub(super) mod tests {
    use longshore_proto::metrics::{PullStep, Usage};
    use longshore_proto::spec::Resources;
    use uuid::Uuid;

    use super::*;

    pub(in super::super) fn task(number: u128, job: &str, cpu_millis: u64) -> TaskFigures {
        TaskFigures {
            task: TaskId(Uuid::from_u128(number)),
            namespace: "default".parse().unwrap(),
            job: job.parse().unwrap(),
            spec: "main".parse().unwrap(),
            slot: 0,
            attempt: 1,
            usage: Usage {
                cpu_ns: Some(1),
                cpu_millis: Some(cpu_millis),
                memory_bytes: Some(64 << 20),
                memory_limit_bytes: Some(128 << 20),
                received_bytes: Some(1_000),
                sent_bytes: Some(2_000),
                read_bytes: Some(0),
                written_bytes: Some(4_096),
                pids: Some(3),
            },
        }
    }

    pub(in super::super) fn message(at_ms: u64, tasks: Vec<TaskFigures>) -> NodeMetrics {
        let resources =
            |cpu_millis, memory_bytes| Resources { cpu_millis, memory_bytes, disk_bytes: 40 << 30 };
        NodeMetrics {
            boot_id: BootId(Uuid::from_u128(4)),
            at_ms,
            node: NodeFigures {
                capacity: resources(4_000, 8 << 30),
                used: resources(1_250, 3 << 30),
                load_1m: 1.5,
                received_bytes: at_ms * 10,
                sent_bytes: 0,
                tasks_running: u32::try_from(tasks.len()).unwrap(),
                runtime_error: None,
            },
            tasks: Some(tasks),
            pulls: vec![PullFigures {
                image: "nginx:1.27".into(),
                done_bytes: 12 << 20,
                total_bytes: 30 << 20,
                step: PullStep::Downloading,
            }],
        }
    }

    fn names(model: &Model) -> Vec<String> {
        model.shown_tasks().iter().map(|row| row.name()).collect()
    }

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    #[test]
    fn counters_become_rates_unless_they_begin_anew() {
        let mut model = Model::new(Sort::Cpu, String::new());
        model.heard(node("n1"), message(1_000, vec![task(1, "web", 10)]), 0);
        let mut later = task(1, "web", 20);
        later.usage.received_bytes = Some(5_000);
        model.heard(node("n1"), message(3_000, vec![later.clone()]), 2_000);
        assert_eq!(model.shown_tasks()[0].rates.received, 2_000);
        assert_eq!(model.shown_nodes()[0].rates.received, 10_000);
        // Another container: its counters are others.
        let restarted = TaskFigures { attempt: 2, ..later };
        model.heard(node("n1"), message(4_000, vec![restarted]), 3_000);
        assert_eq!(model.shown_tasks()[0].rates, Rates::default());
        // The task has ended; then the node is silent.
        model.heard(node("n1"), message(5_000, vec![]), 4_000);
        assert!(model.shown_tasks().is_empty());
        model.expire(4_000 + STALE_MS + 1);
        assert_eq!(model.shown_nodes()[0].figures, None);
    }

    #[test]
    fn keys_sort_filter_pause_and_leave() {
        let mut model = Model::new(Sort::Cpu, String::new());
        let tasks = vec![task(1, "web", 10), task(2, "db", 30), task(3, "cache", 20)];
        model.heard(node("n1"), message(1_000, tasks), 0);
        assert_eq!(names(&model), ["db.main.0", "cache.main.0", "web.main.0"]);
        model.key(Key::Character('r'));
        assert_eq!(names(&model), ["web.main.0", "cache.main.0", "db.main.0"]);
        model.key(Key::Character('r'));
        for _ in 0..5 {
            model.key(Key::Character('s'));
        }
        assert_eq!(model.sort, Sort::Name);
        assert_eq!(names(&model), ["cache.main.0", "db.main.0", "web.main.0"]);

        for letter in "/we".chars() {
            model.key(Key::Character(letter));
        }
        assert_eq!(names(&model), ["web.main.0"]);
        assert_eq!(model.key(Key::Character('q')), Wish::Nothing, "a letter while one types");
        model.key(Key::Backspace);
        model.key(Key::Enter);
        assert!(!model.is_typing && model.filter == "we");
        assert_eq!(model.key(Key::Escape), Wish::Nothing, "the filter goes first");
        assert_eq!(names(&model).len(), 3);

        model.key(Key::Character(' '));
        model.heard(node("n2"), message(2_000, vec![task(4, "new", 1)]), 1_000);
        assert_eq!(names(&model).len(), 3, "paused");
        model.key(Key::Character(' '));
        model.heard(node("n2"), message(2_000, vec![task(4, "new", 1)]), 1_000);
        assert_eq!(names(&model).len(), 4);
        assert_eq!(model.key(Key::Character('q')), Wish::Leave);
        assert_eq!(model.key(Key::Interrupt), Wish::Leave);
    }

    #[test]
    fn the_cursor_stays_in_the_list_and_chooses_the_node_whose_tasks_are_shown() {
        let mut model = Model::new(Sort::Name, String::new());
        model.heard(node("n1"), message(1_000, vec![task(1, "web", 10)]), 0);
        model.heard(node("n2"), message(1_000, vec![task(2, "db", 30)]), 0);
        model.key(Key::Tab);
        assert_eq!(names(&model), ["web.main.0"]);
        model.key(Key::Down);
        assert_eq!(names(&model), ["db.main.0"]);
        model.key(Key::PageDown);
        assert_eq!(model.cursor(Focus::Nodes), Some(1));
        model.key(Key::Home);
        assert_eq!(model.chosen_node(), Some(node("n1")));
        model.key(Key::Tab);
        assert_eq!(names(&model).len(), 2);
    }
}
