//! What must always hold: one function a property, and a table of them. Tests and simulations check them after
//! every step; a violation is a value with ids.
//!
//! | property | source |
//! |---|---|
//! | [`capacity`] | I-8: no node promises more than it has, but for one that shrank; nothing leaks |
//! | [`count`] | I-9: no more live tasks than wanted, those that are ending aside |
//! | [`derived`] | what is derived equals what is rebuilt from the stored parts |
//! | [`bounds`] | I-21: history per slot stays bounded |

use std::collections::BTreeMap;

use longshore_proto::name::{JobKey, NodeName, SpecName};
use longshore_proto::spec::Resources;
use longshore_proto::state::TaskState;

use super::state::State;

/// A property that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A node has promised more than it offers.
    Overcommitted {
        /// The node.
        node: NodeName,
        /// What its tasks hold.
        held: Resources,
        /// What it offers.
        capacity: Resources,
    },
    /// The fleet's books differ from what the tasks say.
    Books {
        /// The node.
        node: NodeName,
        /// What its tasks hold.
        held: Resources,
        /// What the fleet says.
        booked: Resources,
    },
    /// A part of a job has more live tasks than are wanted.
    TooMany {
        /// The job.
        job: JobKey,
        /// The part.
        spec: SpecName,
        /// How many live.
        live: usize,
        /// How many are wanted.
        wanted: usize,
    },
    /// A slot has more live tasks than one and its successor.
    Crowded {
        /// The job.
        job: JobKey,
        /// How many live.
        live: usize,
    },
    /// Something derived differs from what it is derived from.
    Derived(&'static str),
    /// A slot remembers too much.
    History {
        /// The job.
        job: JobKey,
        /// How many tasks its longest slot has.
        tasks: usize,
    },
}

/// Everything that does not hold.
pub fn check(state: &State) -> Vec<Violation> {
    let mut violations = capacity(state);
    violations.extend(count(state));
    violations.extend(derived(state));
    violations.extend(bounds(state));
    violations
}

/// No node promises more than it has, and the books are right.
pub fn capacity(state: &State) -> Vec<Violation> {
    let mut held: BTreeMap<&NodeName, Resources> = BTreeMap::new();
    for task in state.tasks.values().filter(|task| task.state.holds_resources()) {
        let (Some(node), Some(spec)) = (&task.node, state.task_spec(task)) else { continue };
        let sum = held.entry(node).or_insert(Resources::ZERO);
        *sum = sum.saturating_add(spec.resources);
    }
    let mut violations = Vec::new();
    for (name, node) in &state.nodes {
        let held = held.get(name).copied().unwrap_or(Resources::ZERO);
        let booked = state.fleet.node(name).map_or(Resources::ZERO, |node| node.committed);
        if held != booked {
            violations.push(Violation::Books { node: name.clone(), held, booked });
        }
        if !held.fits_in(node.facts.capacity) {
            violations.push(Violation::Overcommitted {
                node: name.clone(),
                held,
                capacity: node.facts.capacity,
            });
        }
    }
    violations
}

/// No more slots with live tasks than wanted, but for those that were asked to end; and in a slot at most two,
/// of which the later replaces the other.
pub fn count(state: &State) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (key, job) in &state.jobs {
        for (name, slots) in &job.slots {
            let mut live = 0;
            for ids in slots.values() {
                let wanted: Vec<_> = ids
                    .iter()
                    .filter_map(|id| {
                        Some((id, state.tasks.get(id).filter(|task| task.is_wanted())?))
                    })
                    .collect();
                live += usize::from(!wanted.is_empty());
                let paired = match wanted.as_slice() {
                    [] | [_] => true,
                    [(one, _), (_, other)] => other.replaces == Some(**one),
                    _ => false,
                };
                if !paired {
                    violations.push(Violation::Crowded { job: key.clone(), live: wanted.len() });
                }
            }
            let most = job
                .versions
                .values()
                .filter_map(|spec| spec.spec(name))
                .map(|spec| spec.instances)
                .max();
            let wanted = most.unwrap_or(0) as usize;
            if live > wanted {
                violations.push(Violation::TooMany {
                    job: key.clone(),
                    spec: name.clone(),
                    live,
                    wanted,
                });
            }
        }
    }
    violations
}

/// What is derived equals what is rebuilt.
pub fn derived(state: &State) -> Vec<Violation> {
    let mut rebuilt = state.clone();
    rebuilt.derive_all();
    let mut violations = Vec::new();
    let mut differs = |what, differs| {
        if differs {
            violations.push(Violation::Derived(what));
        }
    };
    differs("waiting tasks", rebuilt.waiting != state.waiting);
    differs(
        "slots",
        rebuilt
            .jobs
            .iter()
            .any(|(key, job)| state.jobs.get(key).is_none_or(|other| other.slots != job.slots)),
    );
    differs(
        "tasks of nodes",
        rebuilt.nodes.iter().any(|(name, node)| {
            state.nodes.get(name).is_none_or(|other| other.tasks != node.tasks)
        }),
    );
    differs("ended tasks of nodes", rebuilt.ended_on != state.ended_on);
    differs("commands by time", rebuilt.commands_by_time != state.commands_by_time);
    let pending = state.tasks.values().filter(|task| task.state == TaskState::Pending).count();
    differs(
        "the count of waiting tasks",
        pending != state.waiting.values().map(std::collections::BTreeSet::len).sum(),
    );
    violations
}

/// History stays bounded.
pub fn bounds(state: &State) -> Vec<Violation> {
    let longest = |job: &super::state::Job| {
        job.slots.values().flat_map(BTreeMap::values).map(|ids| ids.len()).max()
    };
    state
        .jobs
        .iter()
        .filter_map(|(key, job)| Some((key, longest(job)?)))
        .filter(|(_, tasks)| *tasks > 6)
        .map(|(key, tasks)| Violation::History { job: key.clone(), tasks })
        .collect()
}
