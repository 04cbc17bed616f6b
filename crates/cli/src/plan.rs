//! What plans and explanations look like, for people and with `-o json`. Everything here makes text or values;
//! nothing prints.
//!
//! | module | what is shown |
//! |---|---|
//! | [`explained`] | why a task is where it is, or waits |
//! | [`outlook`] | what would happen if |
//! | [`rebalanced`] | moves that pay |

pub(crate) mod explained;
pub(crate) mod outlook;
pub(crate) mod rebalanced;

use longshore_proto::plan::{Footing, TaskRef};
use longshore_proto::quantity::{format_bytes, format_cpu};
use longshore_proto::spec::Resources;
use serde_json::{Value, json};

use crate::table;

/// A task's part for people: `web.main`, with its namespace where that is not the usual one.
fn part(task: &TaskRef) -> String {
    match task.namespace.as_str() {
        "default" => format!("{}.{}", task.job, task.spec),
        namespace => format!("{namespace}/{}.{}", task.job, task.spec),
    }
}

/// A task's id for people, as far as it tells one task from another made at about the same time.
fn short_id(task: &TaskRef) -> String {
    task.id.map_or_else(|| "(new)".to_owned(), |id| id.to_string())
}

fn task_json(task: &TaskRef) -> Value {
    json!({
        "id": task.id.map(|id| id.to_string()),
        "namespace": task.namespace.as_str(),
        "job": task.job.as_str(),
        "spec": task.spec.as_str(),
    })
}

fn resources_json(amount: Resources) -> Value {
    json!({
        "cpu_millis": amount.cpu_millis,
        "memory_bytes": amount.memory_bytes,
        "disk_bytes": amount.disk_bytes,
    })
}

fn footing_json(footing: &Footing) -> Value {
    json!({
        "nodes": footing.nodes,
        "cost": footing.cost,
        "capacity": resources_json(footing.capacity),
        "free": resources_json(footing.free),
    })
}

/// Two states of the cluster beside each other.
fn footings(before: &Footing, after: &Footing) -> String {
    let row = |name: &str, footing: &Footing| {
        let (free, capacity) = (footing.free, footing.capacity);
        vec![
            name.to_owned(),
            footing.nodes.to_string(),
            figure(footing.cost),
            format!("{}/{}", format_cpu(free.cpu_millis), format_cpu(capacity.cpu_millis)),
            format!("{}/{}", format_bytes(free.memory_bytes), format_bytes(capacity.memory_bytes)),
            format!("{}/{}", format_bytes(free.disk_bytes), format_bytes(capacity.disk_bytes)),
        ]
    };
    let heads = ["", "NODES", "COST", "CPU FREE", "MEMORY FREE", "DISK FREE"];
    table::lines(&heads, vec![row("before", before), row("after", after)], None)
}

/// A cost with two digits that say something.
fn figure(cost: f64) -> String {
    longshore_proto::explain::Cost(cost).to_string()
}
