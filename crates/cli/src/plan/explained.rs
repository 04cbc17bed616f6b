//! Why a task is where it is, or waits.

use longshore_proto::explain::{CostTerms, Why};
use longshore_proto::plan::{Standing, TaskExplained};
use longshore_proto::quantity::{format_bytes, format_cpu};
use longshore_proto::spec::Resources;
use serde_json::{Value, json};

use super::{figure, part, resources_json, short_id, task_json};
use crate::table;

/// For people.
pub(crate) fn text(answer: &TaskExplained) -> String {
    let mut text = table::pairs(vec![
        ("task", Some(short_id(&answer.task))),
        ("part", Some(part(&answer.task))),
        ("priority", Some(answer.priority.to_string())),
        ("state", Some(table::state_believed(answer.state, answer.silent).to_owned())),
        ("node", answer.node.as_ref().map(ToString::to_string)),
        ("reason", answer.reason.clone()),
        ("placed there", answer.placement.clone()),
    ]);
    if let Some(why) = &answer.why {
        let winner = answer.node.iter().filter_map(|node| Some((node.to_string(), why.cost?)));
        let next = why.runner_up.iter().map(|next| (format!("{} (next)", next.node), next.cost));
        let rows: Vec<(String, Option<CostTerms>)> =
            winner.chain(next).map(|(node, cost)| (node, Some(cost))).collect();
        if !rows.is_empty() {
            text += &format!("\nas it was decided\n{}", costs(rows));
        }
    }
    if let Some(now) = &answer.now {
        text += &format!(
            "\nnow, by {}: {} of {} nodes could take it\n",
            now.scheduler.as_str(),
            now.feasible,
            now.nodes
        );
        let best = now.best.iter().map(|one| (one.node.to_string(), one.cost));
        if !now.best.is_empty() {
            text += &costs(best.collect());
        }
        if !now.removed_text.is_empty() {
            text += &format!("removed: {}\n", table::one_line(&now.removed_text));
        }
        for refused in &now.refused {
            text += &format!("  {} {}\n", refused.node, table::one_line(&refused.text));
        }
        if let Some(closest) = &now.closest {
            let (node, missing) = (&closest.node, amount(closest.missing));
            text += &format!("closest: {node}, where {missing} more would be enough\n");
        }
        for attribute in &now.spread_over_nothing {
            text += &format!("no node has {attribute}, so spreading over it means nothing\n");
        }
    }
    for seat in &answer.room {
        if seat.displaced.is_empty() {
            text += &format!("room on {} as soon as what is ending there has ended\n", seat.node);
        }
        for victim in &seat.displaced {
            text += &format!(
                "would displace {} ({}, priority {}) from {}\n",
                part(&victim.task),
                short_id(&victim.task),
                victim.priority,
                seat.node
            );
        }
    }
    text
}

fn costs(rows: Vec<(String, Option<CostTerms>)>) -> String {
    let row = |(node, cost): (String, Option<CostTerms>)| {
        let figures = cost.map(|cost| {
            let terms = [cost.cpu, cost.memory, cost.disk, cost.tasks, cost.stale_penalty];
            [cost.total()].into_iter().chain(terms).chain([cost.preference]).map(figure).collect()
        });
        let figures: Vec<String> = figures.unwrap_or_else(|| vec!["-".to_owned(); 7]);
        [node].into_iter().chain(figures).collect()
    };
    let heads = ["NODE", "COST", "CPU", "MEMORY", "DISK", "TASKS", "NOT MEASURED", "PREFERENCE"];
    table::lines(&heads, rows.into_iter().map(row).collect(), None)
}

/// What is not zero of an amount.
fn amount(amount: Resources) -> String {
    let parts = [
        (amount.cpu_millis, format!("{} cores", format_cpu(amount.cpu_millis))),
        (amount.memory_bytes, format!("{} of memory", format_bytes(amount.memory_bytes))),
        (amount.disk_bytes, format!("{} of disk space", format_bytes(amount.disk_bytes))),
    ];
    let parts: Vec<String> =
        parts.into_iter().filter(|(amount, _)| *amount > 0).map(|(_, text)| text).collect();
    parts.join(" and ")
}

/// For programs.
pub(crate) fn json(answer: &TaskExplained) -> Value {
    let seat = |seat: &longshore_proto::plan::Seat| {
        let displaced = seat
            .displaced
            .iter()
            .map(|victim| json!({ "task": task_json(&victim.task), "priority": victim.priority }));
        json!({ "node": seat.node.as_str(), "displaced": displaced.collect::<Vec<_>>() })
    };
    json!({
        "task": task_json(&answer.task),
        "priority": answer.priority,
        "state": table::state_believed(answer.state, answer.silent),
        "node": answer.node.as_ref().map(|node| node.as_str()),
        "reason": answer.reason,
        "placement": answer.placement,
        "decided": answer.why.as_ref().map(why_json),
        "now": answer.now.as_ref().map(standing_json),
        "room": answer.room.iter().map(seat).collect::<Vec<_>>(),
    })
}

fn why_json(why: &Why) -> Value {
    json!({
        "scheduler": why.scheduler.as_str(),
        "nodes": why.nodes,
        "feasible": why.feasible,
        "removed": why.removed.iter().map(|(reason, nodes)| (reason.as_str(), *nodes))
            .collect::<std::collections::BTreeMap<_, _>>(),
        "cost": why.cost.map(cost_json),
        "runner_up": why.runner_up.as_ref().map(|next| json!({
            "node": next.node.as_str(),
            "cost": cost_json(next.cost),
        })),
        "moved_from": why.moved_from.as_ref().map(|from| json!({
            "node": from.node.as_str(),
            "cost": from.cost,
            "cost_now": from.cost_now,
        })),
    })
}

fn standing_json(now: &Standing) -> Value {
    let best = now
        .best
        .iter()
        .map(|one| json!({ "node": one.node.as_str(), "cost": one.cost.map(cost_json) }));
    let refused = now.refused.iter().map(
        |one| json!({ "node": one.node.as_str(), "reason": one.reason.as_str(), "text": one.text }),
    );
    json!({
        "scheduler": now.scheduler.as_str(),
        "nodes": now.nodes,
        "feasible": now.feasible,
        "removed": now.removed.iter().map(|(reason, nodes)| (reason.as_str(), *nodes))
            .collect::<std::collections::BTreeMap<_, _>>(),
        "removed_text": now.removed_text,
        "best": best.collect::<Vec<_>>(),
        "refused": refused.collect::<Vec<_>>(),
        "closest": now.closest.as_ref().map(|closest| json!({
            "node": closest.node.as_str(),
            "missing": resources_json(closest.missing),
        })),
        "spread_over_nothing": now.spread_over_nothing,
    })
}

fn cost_json(cost: CostTerms) -> Value {
    json!({
        "total": cost.total(),
        "cpu": cost.cpu,
        "memory": cost.memory,
        "disk": cost.disk,
        "tasks": cost.tasks,
        "stale_penalty": cost.stale_penalty,
        "preference": cost.preference,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use longshore_proto::explain::{Reason, RunnerUp};
    use longshore_proto::id::TaskId;
    use longshore_proto::plan::{Candidate, Displaced, Refused, Seat, Shortage, TaskRef};
    use longshore_proto::spec::SchedulerKind;
    use longshore_proto::state::TaskState;
    use uuid::Uuid;

    use super::*;

    fn task(number: u128, job: &str) -> TaskRef {
        TaskRef {
            id: Some(TaskId(Uuid::from_u128(number))),
            namespace: Default::default(),
            job: job.parse().unwrap(),
            spec: "main".parse().unwrap(),
        }
    }

    fn sample() -> TaskExplained {
        let cost = CostTerms { cpu: 1.0, memory: 0.5, ..CostTerms::default() };
        TaskExplained {
            task: task(1, "web"),
            priority: 90,
            state: TaskState::Pending,
            silent: false,
            node: None,
            reason: Some("no node fits".into()),
            why: Some(Why {
                scheduler: SchedulerKind::Epvm,
                nodes: 2,
                feasible: 2,
                removed: BTreeMap::new(),
                unmet: vec![],
                cost: Some(cost),
                runner_up: Some(RunnerUp { node: "n2".parse().unwrap(), cost }),
                moved_from: None,
            }),
            placement: None,
            now: Some(Standing {
                scheduler: SchedulerKind::Epvm,
                nodes: 2,
                feasible: 1,
                removed: BTreeMap::from([(Reason::Cpu, 1)]),
                removed_text: "1 lacks cpu".into(),
                best: vec![Candidate { node: "n1".parse().unwrap(), cost: Some(cost) }],
                refused: vec![Refused {
                    node: "n2".parse().unwrap(),
                    reason: Reason::Cpu,
                    text: "lacks cpu: 1 of 2 cores wanted are free".into(),
                }],
                closest: Some(Shortage {
                    node: "n2".parse().unwrap(),
                    missing: Resources { cpu_millis: 1_000, ..Resources::ZERO },
                }),
                spread_over_nothing: vec!["label.rack".into()],
            }),
            room: vec![
                Seat { node: "n2".parse().unwrap(), displaced: vec![] },
                Seat {
                    node: "n1".parse().unwrap(),
                    displaced: vec![Displaced {
                        task: task(2, "low"),
                        priority: 10,
                        node: None,
                        to: None,
                    }],
                },
            ],
        }
    }

    #[test]
    fn people_are_told_all_of_it() {
        let text = text(&sample());
        for part in [
            "n2 (next)   1.50   1.00   0.50",
            "now, by epvm: 1 of 2 nodes could take it",
            "n1     1.50   1.00   0.50     0      0       0              1.00",
            "removed: 1 lacks cpu\n  n2 lacks cpu: 1 of 2 cores wanted are free",
            "closest: n2, where 1 cores more would be enough",
            "no node has label.rack, so spreading over it means nothing",
            "room on n2 as soon as what is ending there has ended",
            "would displace low.main (00000000-0000-0000-0000-000000000002, priority 10) from n1",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }

    #[test]
    fn programs_find_every_figure() {
        let value = json(&sample());
        assert_eq!(value["decided"]["runner_up"]["cost"]["total"], 1.5);
        assert_eq!(value["now"]["removed"], json!({ "cpu": 1 }));
        assert_eq!(value["now"]["closest"]["missing"]["cpu_millis"], 1_000);
        assert_eq!(value["room"][1]["displaced"][0]["task"]["job"], "low");
        assert_eq!(value["node"], Value::Null);
    }

    #[test]
    fn what_a_silent_node_last_said_of_a_task_is_not_taken_for_true() {
        let answer = TaskExplained { state: TaskState::Running, silent: true, ..sample() };
        assert!(text(&answer).contains("unknown") && json(&answer)["state"] == "unknown");
        let ended = TaskExplained { state: TaskState::Failed, ..answer };
        assert_eq!(json(&ended)["state"], "failed", "an end is an end");
    }
}
