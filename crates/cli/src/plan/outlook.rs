//! What would happen if.

use std::collections::BTreeMap;

use longshore_proto::name::NodeName;
use longshore_proto::plan::Outlook;
use serde_json::{Value, json};

use super::{footing_json, footings, part, short_id, task_json};
use crate::table;

/// For people: what goes where is summed up, for it may be thousands.
pub(crate) fn text(answer: &Outlook) -> String {
    let mut text = footings(&answer.before, &answer.after);
    let mut flows: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    for one in &answer.placed {
        let from = one.from.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        *flows.entry((part(&one.task), from, one.to.to_string())).or_default() += 1;
    }
    if answer.placed_total > 0 {
        let rows = flows
            .into_iter()
            .map(|((part, from, to), tasks)| vec![part, tasks.to_string(), from, to]);
        let rows = table::lines(&["PART", "TASKS", "FROM", "TO"], rows.collect(), None);
        text += &format!("\n{} would get a node\n{rows}", tasks(answer.placed_total));
        more(&mut text, answer.placed_total, answer.placed.len());
    }
    if answer.displaced_total > 0 {
        // A manager of the version before does not say where they are.
        let told = |node: &Option<NodeName>, otherwise: &str| {
            node.as_ref().map_or_else(|| otherwise.to_owned(), ToString::to_string)
        };
        let rows = answer.displaced.iter().map(|victim| {
            let otherwise = if victim.node.is_some() { "(waits)" } else { "-" };
            let (from, to) = (told(&victim.node, "-"), told(&victim.to, otherwise));
            let (id, part) = (short_id(&victim.task), part(&victim.task));
            vec![id, part, victim.priority.to_string(), from, to]
        });
        let heads = ["ID", "PART", "PRIORITY", "FROM", "TO"];
        let rows = table::lines(&heads, rows.collect(), None);
        text += &format!("\n{} would be displaced\n{rows}", tasks(answer.displaced_total));
        more(&mut text, answer.displaced_total, answer.displaced.len());
    }
    if answer.ended_total > 0 {
        text += &format!("\n{} would end: fewer are wanted\n", tasks(answer.ended_total));
    }
    if answer.unplaced_total > 0 {
        let rows = answer.unplaced.iter().map(|one| {
            let part = match one.namespace.as_str() {
                "default" => format!("{}.{}", one.job, one.spec),
                namespace => format!("{namespace}/{}.{}", one.job, one.spec),
            };
            vec![part, one.tasks.to_string(), one.placed_now.to_string(), one.reason.clone()]
        });
        let heads = ["PART", "TASKS", "PLACED NOW", "REASON"];
        let rows = table::lines(&heads, rows.collect(), None);
        text += &format!("\n{} would have no node\n{rows}", tasks(answer.unplaced_total));
    } else {
        text += "\nno task would be without a node\n";
    }
    text
}

fn tasks(count: u64) -> String {
    if count == 1 { "1 task".to_owned() } else { format!("{count} tasks") }
}

fn more(text: &mut String, total: u64, listed: usize) {
    let more = total.saturating_sub(listed as u64);
    if more > 0 {
        *text += &format!("and {more} more\n");
    }
}

/// For programs.
pub(crate) fn json(answer: &Outlook) -> Value {
    let placed = answer.placed.iter().map(|one| {
        json!({
            "task": task_json(&one.task),
            "from": one.from.as_ref().map(|node| node.as_str()),
            "to": one.to.as_str(),
        })
    });
    let displaced = answer.displaced.iter().map(|victim| {
        json!({
            "task": task_json(&victim.task),
            "priority": victim.priority,
            "from": victim.node.as_ref().map(|node| node.as_str()),
            "to": victim.to.as_ref().map(|node| node.as_str()),
        })
    });
    let unplaced = answer.unplaced.iter().map(|one| {
        json!({
            "namespace": one.namespace.as_str(),
            "job": one.job.as_str(),
            "spec": one.spec.as_str(),
            "tasks": one.tasks,
            "placed_now": one.placed_now,
            "reason": one.reason,
        })
    });
    json!({
        "before": footing_json(&answer.before),
        "after": footing_json(&answer.after),
        "placed": placed.collect::<Vec<_>>(),
        "placed_total": answer.placed_total,
        "displaced": displaced.collect::<Vec<_>>(),
        "displaced_total": answer.displaced_total,
        "ended_total": answer.ended_total,
        "unplaced": unplaced.collect::<Vec<_>>(),
        "unplaced_total": answer.unplaced_total,
    })
}

#[cfg(test)]
mod tests {
    use longshore_proto::plan::{Displaced, Footing, Placed, TaskRef, Unplaced};
    use longshore_proto::spec::Resources;

    use super::*;

    fn sample() -> Outlook {
        let footing =
            Footing { nodes: 2, cost: 1.5, capacity: Resources::ZERO, free: Resources::ZERO };
        let task = TaskRef {
            id: None,
            namespace: "team-a".parse().unwrap(),
            job: "web".parse().unwrap(),
            spec: "main".parse().unwrap(),
        };
        let placed = |from: Option<&str>| Placed {
            task: task.clone(),
            from: from.map(|node| node.parse().unwrap()),
            to: "n2".parse().unwrap(),
        };
        Outlook {
            before: footing,
            after: Footing { nodes: 1, cost: 3.0, ..footing },
            placed: vec![placed(Some("n1")), placed(Some("n1")), placed(None)],
            placed_total: 5,
            displaced: [Some("n3"), None]
                .map(|to| Displaced {
                    task: task.clone(),
                    priority: 10,
                    node: Some("n2".parse().unwrap()),
                    to: to.map(|node| node.parse().unwrap()),
                })
                .into(),
            displaced_total: 2,
            ended_total: 1,
            unplaced: vec![Unplaced {
                namespace: task.namespace.clone(),
                job: task.job.clone(),
                spec: task.spec.clone(),
                tasks: 2,
                placed_now: 1,
                reason: "no node fits".into(),
            }],
            unplaced_total: 2,
        }
    }

    #[test]
    fn people_see_what_goes_where_in_sums() {
        let text = text(&sample());
        for part in [
            "before   2       1.50",
            "after    1       3.00",
            "5 tasks would get a node",
            "team-a/web.main   2       n1     n2",
            "and 2 more",
            "(new)   team-a/web.main   10         n2     n3",
            "(new)   team-a/web.main   10         n2     (waits)",
            "1 task would end: fewer are wanted",
            "team-a/web.main   2       1            no node fits",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\\n{text}");
        }
        let well = Outlook { unplaced: vec![], unplaced_total: 0, ..sample() };
        assert!(super::text(&well).ends_with("no task would be without a node\n"));
    }

    #[test]
    fn programs_see_each_task() {
        let value = json(&sample());
        assert_eq!(value["placed"][2]["from"], Value::Null);
        assert_eq!(value["placed"][0]["task"]["namespace"], "team-a");
        assert_eq!(value["unplaced"][0]["tasks"], 2);
        assert_eq!(
            (&value["displaced"][0]["from"], &value["displaced"][0]["to"]),
            (&json!("n2"), &json!("n3"))
        );
        assert_eq!(value["displaced"][1]["to"], Value::Null);
        assert_eq!(value["after"]["cost"], 3.0);
    }
}
