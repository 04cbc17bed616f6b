//! Tables, times and sentences for people. Everything here makes text; nothing prints.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table};
use jiff::Timestamp;
use longshore_proto::api::{ClusterView, JobView, NodeView, SpecView, TaskView};
use longshore_proto::event::Event;
use longshore_proto::id::TaskId;
use longshore_proto::quantity::{format_bytes, format_cpu};
use longshore_proto::spec::Resources;
use longshore_proto::state::{Eligibility, TaskState};

/// The spaces between two columns.
const GAP: u16 = 3;
/// How long a text in a table may be before it is cut, in characters; `wide` cuts nothing.
const TEXT_LENGTH_MAX: usize = 70;
/// Stands where there is nothing.
const NOTHING: &str = "-";

/// A time as RFC 3339 in UTC, to the millisecond.
pub(crate) fn time(ms: u64) -> String {
    let timestamp = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    timestamp.map_or_else(|| NOTHING.to_owned(), |timestamp| format!("{timestamp:.3}"))
}

/// This machine's time, in milliseconds since the Unix epoch; only ever shown, as an age.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// A span for people, in its two largest units: `1m30s`, `2d4h`.
pub(crate) fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if days >= 10 => format!("{days}d"),
        () if days > 0 => format!("{days}d{}h", hours % 24),
        () if hours > 0 => format!("{hours}h{}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m{}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

/// A task's state as it is shown: `unknown` when its node is silent, for an end is an end.
pub(crate) fn state_shown(task: &TaskView) -> &'static str {
    state_believed(task.state, task.silent)
}

/// The same of a state, and whether its node is silent.
pub(crate) fn state_believed(state: TaskState, silent: bool) -> &'static str {
    if silent && !state.is_terminal() { "unknown" } else { state.as_str() }
}

/// A task's name for people: `web.main.0`.
pub(crate) fn task_name(task: &TaskView) -> String {
    format!("{}.{}.{}", task.job, task.spec, task.slot)
}

/// How much of each id must be shown so that all differ: never less than what tells the time of their making.
pub(crate) fn id_length<'a>(ids: impl IntoIterator<Item = &'a TaskId>) -> usize {
    let mut texts: Vec<String> = ids.into_iter().map(TaskId::to_string).collect();
    texts.sort_unstable();
    let shared = texts.windows(2).map(|pair| match pair {
        [left, right] => left.bytes().zip(right.bytes()).take_while(|(a, b)| a == b).count(),
        _ => 0,
    });
    // Two more than needed, so that an id still stands alone when the next tasks come.
    shared.max().map_or(0, |shared| shared + 3).clamp(13, 36)
}

/// How a state or status is coloured.
fn style_of(word: &str) -> Style {
    match word {
        "running" | "ready" | "completed" | "ok" => AnsiColor::Green.on_default(),
        "failed" | "lost" | "fail" => AnsiColor::Red.on_default(),
        "pending" | "assigned" | "preparing" | "stopping" | "unknown" | "suspect" | "warn" => {
            AnsiColor::Yellow.on_default()
        }
        _ => Style::new(),
    }
}

/// Lines without borders, as other tools of this kind print them; the words of one column are coloured.
pub(crate) fn lines(heads: &[&str], rows: Vec<Vec<String>>, coloured: Option<usize>) -> String {
    let words: Vec<String> = rows
        .iter()
        .map(|row| coloured.and_then(|column| row.get(column).cloned()).unwrap_or_default())
        .collect();
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    if !heads.is_empty() {
        table.set_header(heads.iter().copied());
    }
    table.add_rows(rows.into_iter().map(|row| row.into_iter().map(|cell| one_line(&cell))));
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    let widths = table.column_max_content_widths();
    let skipped: usize = widths
        .iter()
        .take(coloured.unwrap_or(0))
        .map(|width| usize::from(*width) + usize::from(GAP))
        .sum();
    let heads_count = usize::from(!heads.is_empty());
    let mut text = String::new();
    for (number, line) in table.to_string().lines().enumerate() {
        let line = line.trim_end();
        let word = number.checked_sub(heads_count).and_then(|row| words.get(row));
        let parts = word.filter(|word| !word.is_empty()).and_then(|word| {
            let (before, rest) = line.split_at_checked(skipped)?;
            Some((before, word, rest.strip_prefix(word.as_str())?))
        });
        let _ = match parts {
            Some((before, word, after)) => {
                let style = style_of(word);
                writeln!(text, "{before}{style}{word}{style:#}{after}")
            }
            None => writeln!(text, "{line}"),
        };
    }
    text
}

/// Names and values, one a line; what has no value is left out.
pub(crate) fn pairs(rows: Vec<(&str, Option<String>)>) -> String {
    let rows = rows.into_iter().filter_map(|(name, value)| Some(vec![name.to_owned(), value?]));
    lines(&[], rows.collect(), Some(1))
}

/// The leader's name; a manager of the first version tells its id alone.
pub(crate) fn leader(cluster: &ClusterView) -> String {
    cluster.leader_name.as_ref().map_or_else(|| cluster.leader.to_string(), ToString::to_string)
}

/// A text from elsewhere, made safe to stand in one line of a terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn cut(text: &str) -> String {
    let mut kept: String = text.chars().take(TEXT_LENGTH_MAX).collect();
    if kept.len() < text.len() {
        kept.push('…');
    }
    kept
}

fn or_nothing(value: Option<impl ToString>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), |value| value.to_string())
}

/// How much is told of each task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// What fits in a line.
    Brief,
    /// That, and the whole reason.
    Reasons,
    /// Everything.
    Wide,
}

/// Tasks.
pub(crate) fn tasks(tasks: &[TaskView], now_ms: u64, detail: Detail) -> String {
    let wide = detail == Detail::Wide;
    let id_length = id_length(tasks.iter().map(|task| &task.id));
    let mut heads = vec!["ID", "TASK", "STATE", "NODE", "IMAGE", "AGE"];
    if wide {
        heads.extend(["VERSION", "ATTEMPT", "EXIT", "CONTAINER", "PORTS"]);
    }
    heads.push("REASON");
    let rows = tasks.iter().map(|task| {
        let mut row = vec![
            task.id.to_string().chars().take(id_length).collect(),
            task_name(task),
            state_shown(task).to_owned(),
            or_nothing(task.node.as_ref()),
            task.image.clone(),
            span(now_ms.saturating_sub(task.created_at_ms)),
        ];
        if wide {
            row.extend([
                task.version.to_string(),
                task.attempt.to_string(),
                or_nothing(task.exit_code),
                or_nothing(
                    task.container_id.as_ref().map(|id| id.chars().take(12).collect::<String>()),
                ),
                or_nothing(Some(ports(task)).filter(|text| !text.is_empty())),
            ]);
        }
        let reason = task.reason.clone().unwrap_or_default();
        row.push(if detail == Detail::Brief { cut(&reason) } else { reason });
        row
    });
    lines(&heads, rows.collect(), Some(2))
}

/// A task's ports as `docker ps` shows them: `web=20123->80/tcp`.
fn ports(task: &TaskView) -> String {
    let shown = task.ports.iter().map(|port| {
        let name = port.name.as_ref().map(|name| format!("{name}=")).unwrap_or_default();
        let ip = match port.host_ip {
            Some(std::net::IpAddr::V6(ip)) => format!("[{ip}]:"),
            Some(ip) => format!("{ip}:"),
            None => String::new(),
        };
        let host = if port.is_dynamic() { "?".to_owned() } else { port.host.to_string() };
        format!("{name}{ip}{host}->{}/{}", port.container, port.protocol.as_str())
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// One task, with everything that is known of it, and what it uses just now.
pub(crate) fn task(task: &TaskView, figures: Vec<(&str, Option<String>)>) -> String {
    let mut rows = vec![
        ("task", Some(task_name(task))),
        ("state", Some(state_shown(task).to_owned())),
        ("health", task.health.map(|health| health.as_str().to_owned())),
        ("last known", (state_shown(task) != task.state.as_str()).then(|| task.state.to_string())),
        ("reason", task.reason.clone()),
        ("id", Some(task.id.to_string())),
        ("namespace", Some(task.namespace.to_string())),
        ("version", Some(task.version.to_string())),
        ("attempt", Some(task.attempt.to_string())),
        ("node", task.node.as_ref().map(ToString::to_string)),
        ("placement", task.placement.clone()),
        ("image", Some(task.image.clone())),
        ("ports", Some(ports(task)).filter(|text| !text.is_empty())),
        ("container", task.container_id.clone()),
        ("exit code", task.exit_code.map(|code| code.to_string())),
        ("replaces", task.replaces.map(|id| id.to_string())),
        ("created", Some(time(task.created_at_ms))),
        ("started", task.started_at_ms.map(time)),
        ("finished", task.finished_at_ms.map(time)),
    ];
    rows.extend(figures);
    pairs(rows)
}

/// Jobs.
pub(crate) fn jobs(jobs: &[JobView], now_ms: u64, all_namespaces: bool) -> String {
    let mut heads = vec!["NAME", "STATUS", "TYPE", "VERSION", "PRIORITY", "TASKS", "AGE"];
    if all_namespaces {
        heads.insert(0, "NAMESPACE");
    }
    let rows = jobs.iter().map(|job| {
        let mut row = vec![
            job.name.to_string(),
            job.status.as_str().to_owned(),
            job.job_type.as_str().to_owned(),
            job.version.to_string(),
            job.priority.to_string(),
            counts(&job.specs),
            span(now_ms.saturating_sub(job.created_at_ms)),
        ];
        if all_namespaces {
            row.insert(0, job.namespace.to_string());
        }
        row
    });
    lines(&heads, rows.collect(), Some(if all_namespaces { 2 } else { 1 }))
}

/// How many tasks run of those that are wanted, and how many have ended.
pub(crate) fn counts(specs: &[SpecView]) -> String {
    let sum =
        |count: fn(&SpecView) -> u32| specs.iter().map(|spec| u64::from(count(spec))).sum::<u64>();
    let mut text = format!("{}/{} running", sum(|spec| spec.running), sum(|spec| spec.instances));
    let rest = [
        (sum(|spec| spec.starting), "starting"),
        (sum(|spec| spec.pending), "pending"),
        (sum(|spec| spec.completed), "completed"),
        (sum(|spec| spec.failed), "failed"),
        (sum(|spec| spec.outdated), "of an older version"),
    ];
    for (count, what) in rest.into_iter().filter(|(count, _)| *count > 0) {
        let _ = write!(text, ", {count} {what}");
    }
    text
}

/// One job with its parts.
pub(crate) fn job(job: &JobView) -> String {
    let datacenters: Vec<&str> = job.datacenters.iter().map(|name| name.as_str()).collect();
    let datacenters =
        if datacenters.is_empty() { "all".to_owned() } else { datacenters.join(", ") };
    let head = pairs(vec![
        ("job", Some(job.name.to_string())),
        ("status", Some(job.status.as_str().to_owned())),
        ("namespace", Some(job.namespace.to_string())),
        ("type", Some(job.job_type.as_str().to_owned())),
        ("version", Some(job.version.to_string())),
        ("priority", Some(job.priority.to_string())),
        ("datacenters", Some(datacenters)),
        ("created", Some(time(job.created_at_ms))),
        ("rolled back", job.rolled_back.as_ref().map(|back| one_line(&back.to_string()))),
    ]);
    let rows = job.specs.iter().map(|spec| {
        let on_their_way = [spec.instances, spec.running, spec.starting, spec.pending];
        let numbers = on_their_way.into_iter().chain([spec.outdated, spec.completed, spec.failed]);
        let names = [spec.name.to_string(), spec.image.clone()];
        names.into_iter().chain(numbers.map(|number| number.to_string())).collect()
    });
    let heads = [
        "SPEC",
        "IMAGE",
        "INSTANCES",
        "RUNNING",
        "STARTING",
        "PENDING",
        "OUTDATED",
        "COMPLETED",
        "FAILED",
    ];
    format!("{head}\n{}", lines(&heads, rows.collect(), None))
}

/// Nodes.
pub(crate) fn nodes(nodes: &[NodeView], wide: bool) -> String {
    let mut heads = vec!["NAME", "STATUS", "DATACENTER", "TASKS", "CPU", "MEMORY", "DISK"];
    if wide {
        heads.extend(["CPU USED", "MEMORY USED", "HEARD", "VERSION", "LABELS"]);
    }
    heads.push("PROBLEM");
    let rows = nodes.iter().map(|node| {
        let (committed, capacity) = (node.committed, node.capacity);
        let mut row = vec![
            node.name.to_string(),
            node_status(node),
            node.datacenter.to_string(),
            node.tasks.to_string(),
            format!("{}/{}", format_cpu(committed.cpu_millis), format_cpu(capacity.cpu_millis)),
            format!(
                "{}/{}",
                format_bytes(committed.memory_bytes),
                format_bytes(capacity.memory_bytes)
            ),
            format!("{}/{}", format_bytes(committed.disk_bytes), format_bytes(capacity.disk_bytes)),
        ];
        if wide {
            row.extend([
                or_nothing(node.used.map(|used| format_cpu(used.cpu_millis))),
                or_nothing(node.used.map(|used| format_bytes(used.memory_bytes))),
                or_nothing(node.heard_ms_ago.map(|ms| format!("{} ago", span(ms)))),
                node.worker_version.clone(),
                labels(node),
            ]);
        }
        let problem = node.runtime_error.clone().unwrap_or_default();
        row.push(if wide { problem } else { cut(&problem) });
        row
    });
    lines(&heads, rows.collect(), Some(1))
}

fn node_status(node: &NodeView) -> String {
    match node.eligibility {
        Eligibility::Open => node.status.as_str().to_owned(),
        _ => format!("{}, {}", node.status.as_str(), eligibility(node)),
    }
}

/// Whether a node takes tasks; one that is drained still counts as draining.
fn eligibility(node: &NodeView) -> &'static str {
    match &node.drain {
        Some(drain) if drain.drained => "drained",
        _ => node.eligibility.as_str(),
    }
}

fn labels(node: &NodeView) -> String {
    let labels: Vec<String> =
        node.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    labels.join(",")
}

/// Labels with whose word they are.
fn labels_by_source(node: &NodeView) -> String {
    let label = |(name, value): (&String, &String)| {
        let by = if node.labels_set.contains_key(name) { " (set by an operator)" } else { "" };
        format!("{name}={value}{by}")
    };
    node.labels.iter().map(label).collect::<Vec<_>>().join(", ")
}

/// How far a node is drained.
fn drain(node: &NodeView) -> Option<String> {
    let drain = node.drain.as_ref()?;
    let mut text = format!("since {}, by {}", time(drain.started_at_ms), drain.actor);
    match (drain.deadline_ms, drain.left_ms) {
        _ if drain.drained => {}
        _ if drain.overdue => text.push_str("; the deadline has come"),
        (Some(_), Some(left_ms)) => {
            let _ = write!(text, "; {} until the deadline", span(left_ms));
        }
        (Some(deadline_ms), None) => {
            let _ = write!(text, "; the deadline is {}", span(deadline_ms));
        }
        (None, _) => text.push_str("; without a deadline"),
    }
    Some(text)
}

/// What is still on a node that is draining, and why.
pub(crate) fn drain_waits(node: &NodeView) -> String {
    let waits = node.drain.iter().flat_map(|drain| &drain.waits);
    let rows = waits.map(|wait| {
        let task = format!("{}.{}.{}", wait.task.job, wait.task.spec, wait.slot);
        vec![task, wait.reason.clone()]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() { String::new() } else { lines(&["STILL HERE", "WHY"], rows, None) }
}

/// One node, with everything that is known of it.
pub(crate) fn node(node: &NodeView) -> String {
    let amount = |amount: Resources| {
        format!(
            "{} cores, {} memory, {} disk",
            format_cpu(amount.cpu_millis),
            format_bytes(amount.memory_bytes),
            format_bytes(amount.disk_bytes)
        )
    };
    let attributes: Vec<String> =
        node.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs(vec![
        ("node", Some(node.name.to_string())),
        ("status", Some(node.status.as_str().to_owned())),
        ("eligibility", Some(eligibility(node).to_owned())),
        ("drain", drain(node)),
        ("problem", node.runtime_error.clone()),
        ("id", Some(node.id.to_string())),
        ("datacenter", Some(node.datacenter.to_string())),
        ("labels", Some(labels_by_source(node)).filter(|text| !text.is_empty())),
        ("attributes", Some(attributes.join(", ")).filter(|text| !text.is_empty())),
        ("capacity", Some(amount(node.capacity))),
        ("committed", Some(amount(node.committed))),
        ("used", node.used.map(amount)),
        ("tasks", Some(format!("{} of at most {}", node.tasks, node.tasks_max))),
        ("may mount", Some(node.mount_paths.join(", ")).filter(|text| !text.is_empty())),
        ("heard", node.heard_ms_ago.map(|ms| format!("{} ago", span(ms)))),
        ("worker", Some(node.worker_version.clone())),
    ])
}

/// An event as one line.
pub(crate) fn event(event: &Event) -> String {
    let mut text = format!("{} {:<22}", time(event.at_ms), one_line(&event.event_type));
    let mut add = |part: String| {
        let _ = write!(text, " {}", one_line(&part));
    };
    if let Some(job) = &event.job {
        match &event.spec {
            Some(spec) => add(format!("{job}.{spec}")),
            None => add(job.to_string()),
        }
    }
    if let Some(task) = event.task {
        add(format!("task={task}"));
    }
    if let Some(node) = &event.node {
        add(format!("node={node}"));
    }
    if let Some(attempt) = event.attempt {
        add(format!("attempt={attempt}"));
    }
    if let Some(code) = event.exit_code {
        add(format!("exit={code}"));
    }
    if let Some(actor) = &event.actor {
        add(format!("by={actor}"));
    }
    if let Some(reason) = &event.reason {
        add(format!("({reason})"));
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use longshore_proto::spec::JobType;
    use longshore_proto::state::{JobStatus, TaskState};
    use uuid::Uuid;

    use super::*;
    use crate::json::tests as sample;

    /// What a reader without colours sees.
    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn tasks_stand_in_columns_without_borders() {
        let mut waiting = sample::task(1, TaskState::Pending);
        waiting.reason = Some("no node\nhas 2 cores".into());
        let mut running = sample::task(2, TaskState::Running);
        running.node = Some("n1".parse().unwrap());
        let text = tasks(&[waiting, running], 1_700_000_090_123, Detail::Brief);
        assert!(text.contains('\u{1b}'), "states are coloured");
        assert_eq!(
            plain(&text),
            "\
ID                                     TASK         STATE     NODE   IMAGE       AGE     REASON
00000000-0000-0000-0000-000000000001   web.main.0   pending   -      busybox:1   1m30s   no node has 2 cores
00000000-0000-0000-0000-000000000002   web.main.0   running   n1     busybox:1   1m30s
"
        );
    }

    #[test]
    fn an_empty_list_still_has_its_heads() {
        assert_eq!(plain(&tasks(&[], 0, Detail::Brief)).lines().count(), 1);
    }

    #[test]
    fn jobs_and_nodes_say_what_matters() {
        let text = plain(&jobs(&[sample::job(JobType::Service, JobStatus::Pending)], 0, false));
        assert!(
            text.contains("web    pending   service   1         50         1/2 running, 1 pending"),
            "{text}"
        );
        let text = plain(&nodes(&[sample::node("n1")], false));
        assert!(
            text.contains("n1     ready    dc1          2       0.5/4   1GiB/8GiB   0B/100GiB"),
            "{text}"
        );
    }

    #[test]
    fn ids_are_shown_as_long_as_they_must_be() {
        let id = |number: u128| TaskId(Uuid::from_u128(number));
        assert_eq!(id_length([&id(1 << 120), &id(2 << 120)]), 13);
        assert_eq!(id_length([&id(1), &id(2)]), 36);
        let middle = [
            &id(0x0190_a5d2_1c3f_7000_8000_0000_0000_0000),
            &id(0x0190_a5d2_1c3f_7100_8000_0000_0000_0000),
        ];
        assert_eq!(id_length(middle), 18);
        assert_eq!(id_length([]), 13);
    }

    #[test]
    fn spans_have_their_two_largest_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (90, "1m30s"),
            (3661, "1h1m"),
            (90_000, "1d1h"),
            (864_000, "10d"),
        ] {
            assert_eq!(span(seconds * 1000), text);
        }
    }

    #[test]
    fn what_comes_from_elsewhere_cannot_steer_the_terminal() {
        assert_eq!(one_line("a\u{1b}[2Jb\nc"), "a [2Jb c");
    }

    #[test]
    fn an_event_is_one_line() {
        let text = event(&Event {
            index: 1,
            ordinal: 0,
            at_ms: 1_700_000_000_000,
            event_type: "task.failed".into(),
            namespace: None,
            job: Some("web".parse().unwrap()),
            spec: Some("main".parse().unwrap()),
            task: None,
            node: Some("n1".parse().unwrap()),
            state: Some("failed".into()),
            attempt: Some(2),
            exit_code: Some(3),
            reason: Some("it\nended".into()),
            version: None,
            actor: None,
            wants: None,
            nodes: Vec::new(),
        });
        assert_eq!(
            text,
            "2023-11-14T22:13:20.000Z task.failed            web.main node=n1 attempt=2 exit=3 (it ended)"
        );
    }
}
