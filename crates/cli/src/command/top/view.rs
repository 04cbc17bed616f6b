//! How `top` looks: a header, the nodes, the tasks, the keys. Columns that do not fit are left out from the right.

use longshore_proto::quantity::{format_bytes, format_cpu};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

use super::model::{Focus, Model, NodeRow, TaskRow};
use crate::args::cluster::Sort;
use crate::pulling::progress;
use crate::table::one_line;

const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);
const QUIET: Style = Style::new().fg(Color::DarkGray);
const BAD: Style = Style::new().fg(Color::Red);

/// A column: its head, its width, what it is sorted by.
type Column = (&'static str, u16, Option<Sort>);

const NODE_COLUMNS: [Column; 9] = [
    ("NODE", 14, Some(Sort::Name)),
    ("STATUS", 9, None),
    ("TASKS", 5, Some(Sort::Pids)),
    ("CPU", 9, Some(Sort::Cpu)),
    ("MEMORY", 15, Some(Sort::Memory)),
    ("LOAD", 5, None),
    ("NET IN/OUT s", 15, Some(Sort::Network)),
    ("DISK", 16, Some(Sort::Disk)),
    ("PROBLEM", 60, None),
];

const TASK_COLUMNS: [Column; 7] = [
    ("TASK", 21, Some(Sort::Name)),
    ("NODE", 10, None),
    ("CPU", 6, Some(Sort::Cpu)),
    ("MEMORY", 15, Some(Sort::Memory)),
    ("PIDS", 4, Some(Sort::Pids)),
    ("NET IN/OUT s", 15, Some(Sort::Network)),
    ("DISK R/W s", 15, Some(Sort::Disk)),
];

/// Draws everything.
pub(super) fn view(model: &Model, frame: &mut Frame<'_>) {
    let nodes = model.shown_nodes();
    let pulls = model.pulls();
    let pull_lines = u16::try_from(pulls.len().min(3)).unwrap_or(0);
    let height = frame.area().height;
    // The nodes get what they need, up to a third; the tasks have the rest.
    let wanted = u16::try_from(nodes.len()).unwrap_or(u16::MAX).saturating_add(1);
    let nodes_height = wanted.min((height / 3).max(3));
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(pull_lines),
        Constraint::Length(nodes_height),
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(1),
    ]);
    let [top, pulling, above, _, below, bottom] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(header(model)), top);
    let pulling_lines: Vec<Line<'_>> = pulls
        .iter()
        .take(3)
        .map(|(node, pull)| {
            Line::from(one_line(&format!("pulling {} on {node}: {}", pull.image, progress(pull))))
        })
        .collect();
    frame.render_widget(Paragraph::new(pulling_lines), pulling);
    let rows = nodes.iter().map(|row| node_cells(row)).collect();
    list(model, frame, above, &NODE_COLUMNS, rows, Focus::Nodes);
    let rows = model.shown_tasks().iter().map(|row| task_cells(row)).collect();
    list(model, frame, below, &TASK_COLUMNS, rows, Focus::Tasks);
    frame.render_widget(Paragraph::new(footer(model)), bottom);
}

fn header(model: &Model) -> Vec<Line<'_>> {
    let mut first = vec![Span::styled("longshore top", HEAD)];
    if let Some(cluster) = &model.cluster {
        let id: String = cluster.id.to_string().chars().take(8).collect();
        first.push(Span::raw(format!(
            "  cluster {id}  epoch {}  jobs {}",
            cluster.epoch, cluster.jobs
        )));
    }
    if model.is_paused {
        first.push(Span::styled("  PAUSED", BAD));
    }
    let second = match (&model.problem, &model.cluster) {
        (Some(problem), _) => Line::styled(one_line(problem), BAD),
        (None, Some(cluster)) => {
            let some = |counts: Vec<(String, u64)>| {
                let counts = counts.into_iter().filter(|(_, count)| *count > 0);
                counts.map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
            };
            let nodes = cluster.nodes.iter().map(|(status, count)| (status.clone(), *count));
            let tasks = cluster.tasks.iter().map(|(state, count)| (state.to_string(), *count));
            let alarms = cluster.alarms.len();
            let mut line = vec![Span::raw(format!(
                "nodes: {}   tasks: {}",
                some(nodes.collect()),
                some(tasks.collect())
            ))];
            if alarms > 0 {
                line.push(Span::styled(format!("   {alarms} alarms: longshore status"), BAD));
            }
            Line::from(line)
        }
        (None, None) => Line::styled("waiting for the manager", QUIET),
    };
    vec![Line::from(first), second]
}

fn footer(model: &Model) -> Line<'_> {
    if model.is_typing {
        return Line::from(format!("filter: {}_   enter keeps it, esc drops it", model.filter));
    }
    let mut text = format!(
        "q quit  s sort: {}{}  / filter  space pause  tab {}",
        model.sort.as_str(),
        if model.is_reversed { " (r: up)" } else { " (r: down)" },
        match model.focus {
            Focus::Nodes => "tasks",
            Focus::Tasks => "nodes",
        },
    );
    if !model.filter.is_empty() {
        text.push_str(&format!("  showing: {}", model.filter));
    }
    Line::styled(text, QUIET)
}

fn list(
    model: &Model,
    frame: &mut Frame<'_>,
    area: Rect,
    columns: &[Column],
    rows: Vec<Vec<String>>,
    focus: Focus,
) {
    // Whole columns only: half a figure is another figure.
    let mut room = area.width;
    let fitting = columns
        .iter()
        .take_while(|(_, width, _)| {
            let fits = *width <= room;
            room = room.saturating_sub(width + 1);
            fits
        })
        .count();
    let columns = &columns[..fitting];
    let heads = columns.iter().map(|(head, _, sort)| {
        let style = if *sort == Some(model.sort) { HEAD.fg(Color::Cyan) } else { HEAD };
        Cell::from(*head).style(style)
    });
    let empty = rows.is_empty();
    let rows = rows.into_iter().map(|cells| Row::new(cells.into_iter().take(fitting)));
    let widths = columns.iter().map(|(_, width, _)| Constraint::Length(*width));
    let table = Table::new(rows, widths)
        .header(Row::new(heads))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(model.cursor(focus).filter(|_| !empty));
    frame.render_stateful_widget(table, area, &mut state);
}

pub(super) fn node_cells(row: &NodeRow) -> Vec<String> {
    let status = match &row.status {
        Some((status, eligibility)) if eligibility.as_str() == "open" => status.as_str().to_owned(),
        Some((_, eligibility)) => eligibility.as_str().to_owned(),
        None => "-".to_owned(),
    };
    let mut cells = vec![row.name.to_string(), status, row.tasks.to_string()];
    match &row.figures {
        Some((_, figures)) => {
            let (used, capacity) = (figures.used, figures.capacity);
            cells.extend([
                format!("{}/{}", cores(used.cpu_millis), format_cpu(capacity.cpu_millis)),
                of(used.memory_bytes, Some(capacity.memory_bytes)),
                format!("{:.2}", figures.load_1m),
                pair(row.rates.received, row.rates.sent),
                of(used.disk_bytes, Some(capacity.disk_bytes)),
                figures.runtime_error.as_deref().map(one_line).unwrap_or_default(),
            ]);
        }
        None => cells.extend(["-", "-", "-", "-", "-", ""].map(str::to_owned)),
    }
    cells
}

pub(super) fn task_cells(row: &TaskRow) -> Vec<String> {
    let usage = &row.figures.usage;
    let or_nothing = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rates = &row.rates;
    vec![
        row.name(),
        row.node.to_string(),
        or_nothing(usage.cpu_millis.map(cores)),
        or_nothing(usage.memory_bytes.map(|bytes| of(bytes, usage.memory_limit_bytes))),
        or_nothing(usage.pids.map(|pids| pids.to_string())),
        or_nothing(usage.received_bytes.map(|_| pair(rates.received, rates.sent))),
        or_nothing(usage.read_bytes.map(|_| pair(rates.read, rates.written))),
    ]
}

/// Cores with two digits, so that a column does not jump.
fn cores(millis: u64) -> String {
    format!("{}.{:02}", millis / 1_000, millis % 1_000 / 10)
}

fn of(bytes: u64, whole: Option<u64>) -> String {
    match whole {
        Some(whole) => format!("{}/{}", brief(bytes), brief(whole)),
        None => brief(bytes),
    }
}

fn pair(one: u64, other: u64) -> String {
    format!("{}/{}", brief(one), brief(other))
}

/// Bytes without a fraction where that is of no interest.
fn brief(bytes: u64) -> String {
    format_bytes(bytes).replace("iB", "")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use longshore_proto::api::ClusterView;
    use longshore_proto::id::{ClusterId, ManagerId};
    use longshore_proto::state::TaskState;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use uuid::Uuid;

    use super::super::model::tests::{message, task};
    use super::super::model::{Key, Model};
    use super::*;

    fn cluster() -> ClusterView {
        ClusterView {
            id: ClusterId(Uuid::from_u128(0x1234_5678 << 96)),
            epoch: 3,
            leader: ManagerId(Uuid::from_u128(2)),
            leader_name: None,
            manager_version: "0.1.0".into(),
            jobs: 2,
            tasks: BTreeMap::from([(TaskState::Pending, 1), (TaskState::Running, 2)]),
            nodes: BTreeMap::from([("ready".to_owned(), 1)]),
            records_skipped: 0,
            payloads_refused: 0,
            alarms: vec![],
            warnings: vec![],
            history: None,
        }
    }

    fn model() -> Model {
        let mut model = Model::new(Sort::Cpu, String::new());
        model.listed(cluster(), vec![crate::json::tests::node("n1")]);
        for at_ms in [1_000, 3_000] {
            let tasks = vec![task(1, "web", 250), task(2, "database", 1_500)];
            model.heard("n1".parse().unwrap(), message(at_ms, tasks), at_ms);
        }
        model
    }

    fn drawn(model: &Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view(model, frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = buffer.content().chunks(usize::from(width)).map(|cells| {
            let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
            line.trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    #[test]
    fn it_fits_a_small_terminal() {
        let shown = drawn(&model(), 80, 12);
        let wanted = "\
longshore top  cluster 12345678  epoch 3  jobs 2
nodes: 1 ready   tasks: 1 pending, 2 running
pulling nginx:1.27 on n1: downloading 40 % (12MiB of 30MiB)
NODE           STATUS    TASKS CPU       MEMORY          LOAD  NET IN/OUT s
n1             ready     2     1.25/4    3G/8G           1.50  9.7K/0B

TASK                  NODE       CPU    MEMORY          PIDS NET IN/OUT s
database.main.0       n1         1.50   64M/128M        3    0B/0B
web.main.0            n1         0.25   64M/128M        3    0B/0B


q quit  s sort: cpu (r: down)  / filter  space pause  tab nodes";
        assert_eq!(shown, wanted, "\n{shown}\n");
    }

    #[test]
    fn a_wide_terminal_shows_more_and_a_tiny_one_does_not_break() {
        let mut model = model();
        assert!(drawn(&model, 140, 30).contains("DISK R/W s"));
        for (width, height) in [(1, 1), (10, 3), (20, 5), (300, 100)] {
            drawn(&model, width, height);
        }
        model.key(Key::Character(' '));
        model.key(Key::Character('/'));
        model.key(Key::Character('w'));
        let shown = drawn(&model, 80, 24);
        assert!(shown.contains("PAUSED") && shown.contains("filter: w_"), "{shown}");
        assert!(!shown.contains("database"), "{shown}");
    }
}
