//! Why tasks are where they are: the reason for a placement, in the form that is kept in the log and shown.
//!
//! It is small whatever the size of the cluster: a count for each reason, the winner's cost by term and the
//! runner-up's.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::NodeName;
use crate::spec::SchedulerKind;

/// Why a node cannot take a task. The order of the variants is the order in which filters are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The node has been silent for a while.
    Suspect,
    /// The node has been silent for too long.
    Lost,
    /// The node said goodbye.
    Left,
    /// An operator lets it take nothing new.
    Cordoned,
    /// An operator has its tasks moved off.
    Draining,
    /// The job may not run where the node stands.
    OtherDatacenter,
    /// Something that must be true of the node is not.
    Constraint,
    /// The node does not let tasks mount a folder that is wanted.
    Mount,
    /// The node has a task of the same kind, and the job wants each on a node of its own.
    OwnKind,
    /// A task of the node holds a port that is wanted.
    PortTaken,
    /// Too little cpu is free.
    Cpu,
    /// Too little memory is free.
    Memory,
    /// Too little disk space is free.
    Disk,
    /// The node has as many tasks as it takes.
    Tasks,
}

impl Reason {
    /// Every reason, in the order in which filters are asked.
    pub const ALL: [Self; 14] = [
        Self::Suspect,
        Self::Lost,
        Self::Left,
        Self::Cordoned,
        Self::Draining,
        Self::OtherDatacenter,
        Self::Constraint,
        Self::Mount,
        Self::OwnKind,
        Self::PortTaken,
        Self::Cpu,
        Self::Memory,
        Self::Disk,
        Self::Tasks,
    ];

    /// As it is written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Suspect => "suspect",
            Self::Lost => "lost",
            Self::Left => "left",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
            Self::OtherDatacenter => "other-datacenter",
            Self::Constraint => "constraint",
            Self::Mount => "mount",
            Self::OwnKind => "own-kind",
            Self::PortTaken => "port-taken",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Tasks => "tasks",
        }
    }

    /// The sentence that begins with a number of nodes: "1 is suspect", "2 lack memory".
    pub fn predicate(self, nodes: u32) -> &'static str {
        let one = nodes == 1;
        match self {
            Self::Suspect if one => "is suspect",
            Self::Suspect => "are suspect",
            Self::Lost if one => "is lost",
            Self::Lost => "are lost",
            Self::Left if one => "has left",
            Self::Left => "have left",
            Self::Cordoned if one => "is cordoned",
            Self::Cordoned => "are cordoned",
            Self::Draining if one => "is draining",
            Self::Draining => "are draining",
            Self::OtherDatacenter if one => "is in another datacenter",
            Self::OtherDatacenter => "are in another datacenter",
            Self::Constraint if one => "does not meet a constraint",
            Self::Constraint => "do not meet a constraint",
            Self::Mount if one => "does not allow a mount",
            Self::Mount => "do not allow a mount",
            Self::OwnKind if one => "has a task of this kind already",
            Self::OwnKind => "have a task of this kind already",
            Self::PortTaken if one => "has a port taken",
            Self::PortTaken => "have a port taken",
            Self::Cpu if one => "lacks cpu",
            Self::Cpu => "lack cpu",
            Self::Memory if one => "lacks memory",
            Self::Memory => "lack memory",
            Self::Disk if one => "lacks disk space",
            Self::Disk => "lack disk space",
            Self::Tasks if one => "takes no more tasks",
            Self::Tasks => "take no more tasks",
        }
    }
}

/// By how much a node's cost rises with a task, by what it rises for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CostTerms {
    /// For its cpu.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cpu: f64,
    /// For its memory.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub memory: f64,
    /// For its disk space.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub disk: f64,
    /// For its places for tasks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tasks: f64,
    /// For the want of a fresh measurement; 0 when there is one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stale_penalty: f64,
    /// What preferences multiply the sum by: below 1 for a node that is liked, 1 for none.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub preference: f64,
}

impl CostTerms {
    /// The whole cost, added up in a fixed order.
    pub fn total(&self) -> f64 {
        let sum = ((self.cpu + self.memory) + self.disk) + self.tasks;
        (sum + self.stale_penalty) * self.preference
    }
}

impl Default for CostTerms {
    fn default() -> Self {
        Self { cpu: 0.0, memory: 0.0, disk: 0.0, tasks: 0.0, stale_penalty: 0.0, preference: 1.0 }
    }
}

fn one() -> f64 {
    1.0
}

fn is_one(figure: &f64) -> bool {
    *figure == 1.0
}

fn is_zero(figure: &f64) -> bool {
    *figure == 0.0
}

/// Why a task was placed where it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// How the node was picked.
    pub scheduler: SchedulerKind,
    /// How many nodes there were.
    pub nodes: u32,
    /// On how many of them the task could have run.
    pub feasible: u32,
    /// How many were removed for each reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub removed: BTreeMap<Reason, u32>,
    /// How many did not meet each constraint, as `(place in the spec, nodes)`; only those that removed a node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmet: Vec<(u32, u32)>,
    /// What the picked node costs; absent when the scheduler knows no cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostTerms>,
    /// The node that would have been next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_up: Option<RunnerUp>,
    /// Where the task's predecessor is, when it was moved for the sake of balance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_from: Option<MovedFrom>,
}

/// The node that would have been next. It costs less than the winner only where it is not measured and so
/// could not be trusted to be the better one, or where cost is not what comes first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunnerUp {
    /// The node.
    pub node: NodeName,
    /// What it would have cost there.
    pub cost: CostTerms,
}

/// Where a task was that was moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MovedFrom {
    /// The node.
    pub node: NodeName,
    /// What it cost there.
    pub cost: f64,
    /// What it costs where it is now.
    pub cost_now: f64,
}

impl Why {
    /// The reason as a sentence. `constraint` gives the text of a constraint by its place in the spec.
    pub fn sentence(&self, constraint: impl Fn(u32) -> String) -> String {
        let mut text = String::new();
        if let Some(MovedFrom { node, cost, cost_now }) = &self.moved_from {
            let (cost, now) = (Cost(*cost), Cost(*cost_now));
            text =
                format!("moved from {node} to balance the cluster: cost {now} instead of {cost}");
            return text;
        }
        text += &match self.feasible {
            1 => format!("the only feasible of {}", Nodes(self.nodes)),
            feasible => format!("chosen of {feasible} feasible of {}", Nodes(self.nodes)),
        };
        if let Some(cost) = &self.cost {
            text += &format!(": cost {cost}");
            if let Some(RunnerUp { node, cost: next }) = &self.runner_up {
                text += &format!("; next {node} at {}", Cost(next.total()));
                if next.total() < cost.total() && self.scheduler != SchedulerKind::EpvmGuard {
                    text += " but not measured";
                }
            }
        } else if self.feasible > 1 {
            text += ": the next in turn";
        }
        if !self.removed.is_empty() {
            let removed = self.removed.iter().map(|(reason, nodes)| (*reason, *nodes));
            let unmet = self.unmet.iter();
            let unmet: Vec<String> =
                unmet.map(|(place, nodes)| format!("{}: {nodes}", constraint(*place))).collect();
            text += "; removed: ";
            text += &removed_sentence(removed, |reason| {
                (reason == Reason::Constraint && !unmet.is_empty()).then(|| unmet.join("; "))
            });
        }
        text
    }
}

impl fmt::Display for CostTerms {
    /// "1.42 (cpu 1.00, memory 0.41, disk 0, tasks 0.0028)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [cpu, memory, disk, tasks] = [self.cpu, self.memory, self.disk, self.tasks].map(Cost);
        write!(
            f,
            "{} (cpu {cpu}, memory {memory}, disk {disk}, tasks {tasks}",
            Cost(self.total())
        )?;
        if self.stale_penalty > 0.0 {
            write!(f, ", not measured {}", Cost(self.stale_penalty))?;
        }
        f.write_str(")")?;
        if self.preference != 1.0 {
            write!(f, " with preferences times {}", Cost(self.preference))?;
        }
        Ok(())
    }
}

/// "2 lack memory (most free: 512MiB of 2GiB wanted), 1 is suspect": what removed most comes first. `detail` is
/// what is known beyond a count.
pub fn removed_sentence(
    removed: impl Iterator<Item = (Reason, u32)>,
    detail: impl Fn(Reason) -> Option<String>,
) -> String {
    let mut counts: Vec<(Reason, u32)> = removed.collect();
    counts.sort_by_key(|&(reason, count)| (std::cmp::Reverse(count), reason));
    let each = counts.into_iter().map(|(reason, count)| match detail(reason) {
        Some(detail) => format!("{count} {} ({detail})", reason.predicate(count)),
        None => format!("{count} {}", reason.predicate(count)),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// "1 node", "5 nodes".
#[derive(Debug, Clone, Copy)]
pub struct Nodes(pub u32);

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, if self.0 == 1 { "node" } else { "nodes" })
    }
}

/// A cost with two digits that say something: 12, 0.42, 0.0043.
#[derive(Debug, Clone, Copy)]
pub struct Cost(pub f64);

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut decimals = 2;
        let mut scaled = self.0 * 100.0;
        while scaled > 0.0 && scaled < 10.0 && decimals < 9 {
            decimals += 1;
            scaled *= 10.0;
        }
        if self.0 == 0.0 { f.write_str("0") } else { write!(f, "{:.decimals$}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};

    fn why() -> Why {
        Why {
            scheduler: SchedulerKind::Epvm,
            nodes: 5,
            feasible: 2,
            removed: BTreeMap::from([(Reason::Constraint, 2), (Reason::Cpu, 1)]),
            unmet: vec![(1, 2)],
            cost: Some(CostTerms { cpu: 1.0, preference: 0.5, ..CostTerms::default() }),
            runner_up: Some(RunnerUp {
                node: "n2".parse().unwrap(),
                cost: CostTerms { cpu: 2.0, stale_penalty: 1.0, ..CostTerms::default() },
            }),
            moved_from: None,
        }
    }

    #[test]
    fn a_reason_is_a_sentence() {
        let sentence = why().sentence(|place| format!("constraint {place}"));
        assert_eq!(
            sentence,
            "chosen of 2 feasible of 5 nodes: cost 0.50 (cpu 1.00, memory 0, disk 0, tasks 0) with \
             preferences times 0.50; next n2 at 3.00; removed: 2 do not meet a constraint (constraint 1: 2), \
             1 lacks cpu"
        );
        let from = MovedFrom { node: "n1".parse().unwrap(), cost: 4.0, cost_now: 1.0 };
        let moved = Why { moved_from: Some(from), ..why() };
        assert_eq!(
            moved.sentence(|_| String::new()),
            "moved from n1 to balance the cluster: cost 1.00 instead of 4.00"
        );
    }

    #[test]
    fn a_reason_travels_and_leaves_out_what_says_nothing() {
        assert_eq!(decode::<Why>(&encode(&why())), Ok(why()));
        let short =
            Why { removed: BTreeMap::new(), unmet: vec![], cost: None, runner_up: None, ..why() };
        let value = serde_json::to_value(&short).unwrap();
        let wanted = serde_json::json!({ "scheduler": "epvm", "nodes": 5, "feasible": 2 });
        assert_eq!(value, wanted);
    }

    #[test]
    fn small_costs_keep_two_digits() {
        let texts = [12.345, 0.42, 0.0043, 0.0].map(|cost| Cost(cost).to_string());
        assert_eq!(texts, ["12.35", "0.42", "0.0043", "0"]);
    }

    #[test]
    fn reasons_travel_under_the_name_that_is_written() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
