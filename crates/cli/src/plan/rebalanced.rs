//! Moves that pay.

use longshore_proto::plan::RebalancePlan;
use serde_json::{Value, json};

use super::{figure, footing_json, footings, part, short_id, task_json};
use crate::table;

/// For people.
pub(crate) fn text(answer: &RebalancePlan) -> String {
    let mut text = footings(&answer.before, &answer.after);
    if !answer.moves.is_empty() {
        let rows = answer.moves.iter().map(|one| {
            vec![
                short_id(&one.task),
                part(&one.task),
                one.from.to_string(),
                one.to.to_string(),
                figure(one.cost_here),
                figure(one.cost_there),
                figure(one.cost_here - one.cost_there),
            ]
        });
        let heads = ["ID", "PART", "FROM", "TO", "COST HERE", "COST THERE", "SAVING"];
        text += &format!("\n{}", table::lines(&heads, rows.collect(), None));
    }
    text
}

/// For programs.
pub(crate) fn json(answer: &RebalancePlan) -> Value {
    let moves = answer.moves.iter().map(|one| {
        json!({
            "task": task_json(&one.task),
            "from": one.from.as_str(),
            "to": one.to.as_str(),
            "cost_here": one.cost_here,
            "cost_there": one.cost_there,
            "saving": one.cost_here - one.cost_there,
            "successor": one.successor.map(|id| id.to_string()),
        })
    });
    json!({
        "moves": moves.collect::<Vec<_>>(),
        "before": footing_json(&answer.before),
        "after": footing_json(&answer.after),
    })
}
