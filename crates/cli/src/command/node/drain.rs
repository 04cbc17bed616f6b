//! `longshore node drain`: asks for it, and stays until nothing is left, telling what goes and what stays and why.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_bus::AskError;
use longshore_proto::api::{DrainNodes, DrainWait, NodeView};
use longshore_proto::name::NodeName;
use longshore_proto::state::NodeStatus;
use longshore_proto::subject::ApiVerb;
use tokio::time::Instant;

use super::refused;
use crate::args::node;
use crate::client::{Client, is_not_found};
use crate::failure::{Exit, Failure};
use crate::render::Printer;
use crate::signal;
use crate::table::{one_line, span};

/// How long between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long nothing may leave a node before it is told what is in the way, and how often that is told.
const STANDSTILL: Duration = Duration::from_secs(5);
/// How long the manager may be silent before the waiting is given up: longer than a restart takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Drains nodes.
pub(crate) async fn run(
    client: &Client,
    wish: &node::Drain,
    printer: Printer,
) -> Result<Exit, Failure> {
    let deadline_ms =
        wish.deadline.map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
    let asked = DrainNodes { names: wish.names.clone(), deadline_ms };
    if let Err(error) = client.change_nodes(ApiVerb::NodeDrain, &asked).await {
        return Err(refused(client, "drain", &wish.names, &error).await);
    }
    let names: Vec<&str> = wish.names.iter().map(NodeName::as_str).collect();
    if wish.detach {
        for name in &names {
            printer.data(&format!("{name}\n"))?;
        }
        printer.talk(&format!(
            "draining; `longshore node status {}` shows how far it is",
            names.join("|")
        ));
        return Ok(Exit::Done);
    }
    tokio::select! {
        outcome = watch(client, &wish.names, printer) => outcome,
        () = signal::interrupted() => {
            printer.talk(&format!(
                "no longer waiting; the drain goes on: `longshore node status NAME` shows it, \
                 `longshore node uncordon {}` calls it off", names.join(" ")
            ));
            Ok(Exit::Interrupted)
        }
    }
}

async fn watch(client: &Client, names: &[NodeName], printer: Printer) -> Result<Exit, Failure> {
    let mut left: Vec<(NodeName, Told)> =
        names.iter().map(|name| (name.clone(), Told::default())).collect();
    left.sort_by(|(one, _), (other, _)| one.cmp(other));
    left.dedup_by(|(one, _), (other, _)| one == other);
    let mut silent_since: Option<Instant> = None;
    loop {
        let mut still = Vec::new();
        for (name, mut told) in left {
            match client.node_of_leader(&name).await {
                Ok(view) => {
                    if silent_since.take().is_some() {
                        printer.talk("the manager answers again");
                    }
                    for line in told.news(&view, Instant::now()) {
                        printer.talk(&line);
                    }
                    match &view.drain {
                        Some(drain) if drain.drained => printer.data(&format!("{name}\n"))?,
                        Some(_) => still.push((name, told)),
                        None => {
                            return Err(Failure::new(format!(
                                "the drain of {name} was called off"
                            ))
                            .hint(format!(
                                "`longshore events --node {name} --audit` says by whom"
                            )));
                        }
                    }
                }
                Err(AskError::NoResponders { .. } | AskError::TimedOut { .. })
                    if silent_since.is_none_or(|since| since.elapsed() < PATIENCE) =>
                {
                    if silent_since.is_none() {
                        silent_since = Some(Instant::now());
                        printer.talk("no manager answers; still waiting");
                    }
                    still.push((name, told));
                }
                Err(error) if is_not_found(&error) => {
                    return Err(Failure::new(format!("the node {name} was removed meanwhile")));
                }
                Err(error) => {
                    return Err(Failure::asked(format_args!("go on waiting for {name}"), &error)
                        .hint(format!(
                            "the drain goes on; `longshore node status {name}` shows it"
                        )));
                }
            }
        }
        if still.is_empty() {
            return Ok(Exit::Done);
        }
        left = still;
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// What has been told of one node so far.
#[derive(Debug, Default)]
struct Told {
    tasks: Option<u64>,
    is_over: bool,
    still_since: Option<Instant>,
    waits: Vec<String>,
}

impl Told {
    /// What is new, a sentence each.
    fn news(&mut self, view: &NodeView, now: Instant) -> Vec<String> {
        let Some(drain) = &view.drain else { return Vec::new() };
        let name = &view.name;
        if drain.drained {
            return vec![format!("{name} is drained")];
        }
        let mut news = Vec::new();
        if self.tasks != Some(view.tasks) {
            self.tasks = Some(view.tasks);
            self.still_since = Some(now);
            let deadline = drain.left_ms.map(|ms| format!(", {} until the deadline", span(ms)));
            news.push(match view.tasks {
                0 => format!(
                    "{name}: no tasks left; waiting for its worker to see the last container end"
                ),
                1 => format!("{name}: 1 task left{}", deadline.unwrap_or_default()),
                tasks => format!("{name}: {tasks} tasks left{}", deadline.unwrap_or_default()),
            });
        }
        if drain.overdue && !self.is_over {
            self.is_over = true;
            news.push(format!("{name}: the deadline has come; what is left is ended"));
        }
        let since = *self.still_since.get_or_insert(now);
        if now.duration_since(since) >= STANDSTILL {
            let waits = in_the_way(view, &drain.waits);
            self.still_since = Some(now);
            if waits != self.waits {
                news.extend(waits.iter().map(|wait| format!("{name}: {wait}")));
                self.waits = waits;
            }
        }
        news
    }
}

/// What keeps a node from being drained, parts of jobs together.
fn in_the_way(view: &NodeView, waits: &[DrainWait]) -> Vec<String> {
    let mut parts: BTreeMap<(String, &str), usize> = BTreeMap::new();
    for wait in waits {
        let part = format!("{}.{}", wait.task.job, wait.task.spec);
        *parts.entry((part, &wait.reason)).or_default() += 1;
    }
    let mut lines: Vec<String> = parts
        .into_iter()
        .map(|((part, reason), count)| match count {
            1 => format!("{part}: {}", one_line(reason)),
            count => format!("{count} of {part}: {}", one_line(reason)),
        })
        .collect();
    match view.status {
        NodeStatus::Ready => {}
        NodeStatus::Suspect | NodeStatus::Lost => lines.push(format!(
            "it is {}: nobody knows what still runs there. When it will not return, `longshore node rm {}`",
            view.status.as_str(),
            view.name
        )),
        NodeStatus::Left => lines.push("its worker has left".to_owned()),
    }
    lines.extend(view.runtime_error.iter().map(|error| {
        format!("its container runtime cannot be asked what runs: {}", one_line(error))
    }));
    lines
}

#[cfg(test)]
mod tests {
    use longshore_proto::api::DrainView;
    use longshore_proto::plan::TaskRef;
    use longshore_proto::state::Eligibility;

    use super::*;
    use crate::json::tests::node;

    fn wait(reason: &str) -> DrainWait {
        let task = TaskRef {
            id: None,
            namespace: "default".parse().unwrap(),
            job: "web".parse().unwrap(),
            spec: "main".parse().unwrap(),
        };
        DrainWait { task, slot: 0, reason: reason.to_owned() }
    }

    fn draining(tasks: u64, waits: Vec<DrainWait>) -> NodeView {
        let drain = DrainView {
            actor: "operator/alice".into(),
            started_at_ms: 0,
            deadline_ms: Some(600_000),
            left_ms: Some(590_000),
            overdue: false,
            drained: false,
            waits,
        };
        NodeView { tasks, eligibility: Eligibility::Draining, drain: Some(drain), ..node("n1") }
    }

    #[test]
    fn what_leaves_is_told_at_once_and_what_stays_when_nothing_leaves() {
        let (start, mut told) = (Instant::now(), Told::default());
        let later = |seconds| start + Duration::from_secs(seconds);
        let waits = || {
            vec![wait("its turn has not come"), wait("its turn has not come"), wait("no node fits")]
        };
        let view = draining(3, waits());
        assert_eq!(told.news(&view, start), ["n1: 3 tasks left, 9m50s until the deadline"]);
        assert_eq!(told.news(&view, later(4)), [""; 0]);
        let stays = ["n1: web.main: no node fits", "n1: 2 of web.main: its turn has not come"];
        let mut news = told.news(&view, later(5));
        news.sort_by_key(String::len);
        assert_eq!(news, stays);
        assert_eq!(told.news(&view, later(11)), [""; 0], "it is told once");
        assert_eq!(told.news(&draining(2, waits()), later(12)).len(), 1);
        let mut over = draining(0, vec![]);
        if let Some(drain) = &mut over.drain {
            drain.overdue = true;
        }
        let news = told.news(&over, later(13));
        assert!(
            news[0].contains("its worker to see") && news[1].contains("deadline has come"),
            "{news:?}"
        );
        over.status = NodeStatus::Lost;
        let news = told.news(&over, later(20));
        assert!(news[0].contains("longshore node rm n1"), "{news:?}");
        if let Some(drain) = &mut over.drain {
            drain.drained = true;
        }
        assert_eq!(told.news(&over, later(21)), ["n1 is drained"]);
    }
}
