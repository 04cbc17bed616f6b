//! The reason for a decision, as a value that can be kept and as a sentence for people.
//!
//! Values are small whatever the size of the fleet: counts per reason, the best of what was refused, the
//! winner's cost by term and the runner-up.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

pub use longshore_proto::explain::CostTerms;
use longshore_proto::explain::{Nodes, RunnerUp, Why, removed_sentence};
use longshore_proto::name::NodeName;
use longshore_proto::quantity::{format_bytes, format_cpu};
use longshore_proto::spec::{Protocol, Resources, SchedulerKind};

use crate::demand::Demand;
use crate::filter::{self, Reason, Verdict};
use crate::fleet::{Fleet, Node};

/// How many nodes were removed, and why. Most often it is nobody, and a reason is kept with every task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rejected {
    removed: Option<Arc<Removed>>,
}

/// The nodes that were removed: at least one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Removed {
    counts: [u32; Reason::ALL.len()],
    /// How many did not meet each constraint, by its place in the spec and its text; only those that removed
    /// a node.
    constraints: Vec<(usize, Arc<str>, u32)>,
    /// What was seen on a closer look.
    detail: Option<Box<Detail>>,
}

/// What a person would ask next: how much is missing, or which port is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Detail {
    /// The most that is free of each resource among the nodes that lack it.
    free_max: Resources,
    wanted: Resources,
    ports_taken: BTreeSet<(u16, Protocol)>,
}

impl Rejected {
    /// How many nodes were removed for this reason.
    pub fn count(&self, reason: Reason) -> u32 {
        self.counts()[reason as usize]
    }

    fn counts(&self) -> [u32; Reason::ALL.len()] {
        self.removed.as_ref().map_or([0; Reason::ALL.len()], |removed| removed.counts)
    }

    fn unmet_constraints(&self) -> &[(usize, Arc<str>, u32)] {
        self.removed.as_ref().map_or(&[], |removed| &removed.constraints)
    }

    fn removed_mut(&mut self) -> &mut Removed {
        Arc::make_mut(self.removed.get_or_insert_default())
    }

    /// The reasons that removed a node, each with its count, in the order in which filters are asked.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u32)> {
        Reason::ALL.into_iter().zip(self.counts()).filter(|&(_, count)| count > 0)
    }

    /// How many nodes were removed in all.
    pub fn total(&self) -> u32 {
        self.counts().iter().sum()
    }

    /// How many did not meet each constraint, by its text.
    pub fn constraints(&self) -> impl Iterator<Item = (&str, u32)> {
        self.unmet_constraints().iter().map(|(_, text, count)| (&**text, *count))
    }

    /// How many did not meet each constraint, by its place in the spec.
    fn unmet(&self) -> Vec<(u32, u32)> {
        let place = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
        let unmet = self.unmet_constraints().iter();
        unmet.map(|(index, _, nodes)| (place(*index), *nodes)).collect()
    }

    /// Counts one node.
    pub(crate) fn count_in(&mut self, verdict: Verdict, demand: &Demand<'_>) {
        let text = |index: usize| {
            Arc::from(demand.constraints.get(index).map(ToString::to_string).unwrap_or_default())
        };
        self.add(verdict, 1, text);
    }

    /// Counts nodes of one verdict. `text` gives a constraint's.
    pub(crate) fn add(
        &mut self,
        verdict: Verdict,
        nodes: u32,
        text: impl FnOnce(usize) -> Arc<str>,
    ) {
        let Some(reason) = verdict.reason() else { return };
        let Removed { counts, constraints, .. } = self.removed_mut();
        counts[reason as usize] += nodes;
        if let Some(index) = verdict.constraint() {
            match constraints.binary_search_by_key(&index, |(known, ..)| *known) {
                Ok(at) => constraints[at].2 += nodes,
                Err(at) => constraints.insert(at, (index, text(index), nodes)),
            }
        }
    }

    /// Notes what a person would ask next about a node that was removed.
    pub(crate) fn look_closer(&mut self, verdict: Verdict, node: &Node, demand: &Demand<'_>) {
        let Some(reason) = verdict.reason() else { return };
        let detail = self.removed_mut().detail.get_or_insert_with(|| {
            let (free_max, wanted) = (Resources::ZERO, demand.resources);
            Box::new(Detail { free_max, wanted, ports_taken: BTreeSet::new() })
        });
        let free = node.free();
        match reason {
            Reason::Cpu => raise(&mut detail.free_max.cpu_millis, free.cpu_millis),
            Reason::Memory => raise(&mut detail.free_max.memory_bytes, free.memory_bytes),
            Reason::Disk => raise(&mut detail.free_max.disk_bytes, free.disk_bytes),
            Reason::PortTaken => {
                let ports = demand.ports.iter().map(|port| (port.host, port.protocol));
                let taken = ports.filter(|&(host, protocol)| node.holds_port(host, protocol));
                detail.ports_taken.extend(taken);
            }
            _ => {}
        }
    }

    /// What is known beyond the count.
    fn detail(&self, reason: Reason) -> Option<String> {
        if reason == Reason::Constraint {
            let each = self.constraints().map(|(text, count)| format!("{text}: {count}"));
            return Some(each.collect::<Vec<_>>().join("; "));
        }
        let Detail { free_max: free, wanted, ports_taken } =
            &**self.removed.as_ref()?.detail.as_ref()?;
        match reason {
            Reason::Cpu => Some(format!(
                "most free: {} of {} cores wanted",
                format_cpu(free.cpu_millis),
                format_cpu(wanted.cpu_millis)
            )),
            Reason::Memory => Some(bytes_of(free.memory_bytes, wanted.memory_bytes)),
            Reason::Disk => Some(bytes_of(free.disk_bytes, wanted.disk_bytes)),
            Reason::PortTaken => {
                let ports = ports_taken.iter();
                let ports = ports.map(|(host, protocol)| format!("{host}/{}", protocol.as_str()));
                Some(ports.collect::<Vec<_>>().join(", "))
            }
            _ => None,
        }
    }
}

fn raise(most: &mut u64, figure: u64) {
    *most = figure.max(*most);
}

fn bytes_of(free: u64, wanted: u64) -> String {
    let (mut free_text, mut wanted_text) = (format_bytes(free), format_bytes(wanted));
    if free_text == wanted_text {
        // Rounded they look alike, and the sentence would contradict itself.
        (free_text, wanted_text) = (format!("{free}B"), format!("{wanted}B"));
    }
    format!("most free: {free_text} of {wanted_text} wanted")
}

impl fmt::Display for Rejected {
    /// "2 lack memory (most free: 512MiB of 2GiB wanted), 1 is suspect": what removed most comes first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&removed_sentence(self.iter(), |reason| self.detail(reason)))
    }
}

/// Why a task was placed where it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// How it was picked.
    pub policy: SchedulerKind,
    /// How many nodes there were.
    pub nodes: u32,
    /// On how many of them it could have run.
    pub feasible: u32,
    /// Why not on the others.
    pub rejected: Rejected,
    /// What the picked node costs; absent when the policy knows no cost.
    pub terms: Option<CostTerms>,
    /// The node that would have been next, and its cost. The cost is below the winner's only where the
    /// runner-up is not measured and so could not be trusted to be the better one.
    pub runner_up: Option<(NodeName, CostTerms)>,
}

impl Explanation {
    /// The same in the form that is kept with the task.
    pub fn why(&self) -> Why {
        Why {
            scheduler: self.policy,
            nodes: self.nodes,
            feasible: self.feasible,
            removed: self.rejected.iter().collect(),
            unmet: self.rejected.unmet(),
            cost: self.terms,
            runner_up: self
                .runner_up
                .as_ref()
                .map(|(node, cost)| RunnerUp { node: node.clone(), cost: *cost }),
            moved_from: None,
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |index| {
            let known = |(known, ..): &&(usize, Arc<str>, u32)| u32::try_from(*known) == Ok(index);
            let known = self.rejected.unmet_constraints().iter().find(known);
            known.map(|(_, text, _)| text.to_string()).unwrap_or_default()
        };
        f.write_str(&self.why().sentence(text))
    }
}

/// Why a task can be placed nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaceable {
    /// How many nodes there were.
    pub nodes: u32,
    /// Why not on them.
    pub rejected: Rejected,
}

impl Unplaceable {
    /// Looks at every node for what a person would ask next: how much is missing, which port is taken. That
    /// is not worth its time where nobody reads it, so it is asked for.
    pub fn look_closer(&mut self, fleet: &Fleet, demand: &Demand<'_>) {
        for node in fleet.nodes() {
            if let Some(lane) = fleet.lane(&node.name) {
                let verdict = filter::judge(fleet, lane, node, demand);
                self.rejected.look_closer(verdict, node, demand);
            }
        }
    }
}

impl fmt::Display for Unplaceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no node has joined yet");
        }
        write!(f, "no node fits: of {}, {}", Nodes(self.nodes), self.rejected)
    }
}

impl std::error::Error for Unplaceable {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plain::place;
    use crate::testing::{demand, join, join_as, name, resources};
    use crate::{Fleet, Policy};
    use longshore_proto::state::{Eligibility, NodeStatus};

    #[test]
    fn an_empty_fleet_says_so() {
        let refused = place(&Fleet::default(), &demand(1, 1), Policy::Epvm).unwrap_err();
        assert_eq!(refused.to_string(), "no node has joined yet");
    }

    #[test]
    fn a_waiting_task_hears_the_commonest_reason_first() {
        let mut fleet = Fleet::default();
        join_as(&mut fleet, "n1", resources(4, 4), NodeStatus::Suspect, Eligibility::Open);
        join(&mut fleet, "n2", resources(4, 1));
        join(&mut fleet, "n3", Resources { memory_bytes: 3 << 29, ..resources(4, 0) });
        let mut refused = place(&fleet, &demand(1, 2), Policy::Epvm).unwrap_err();
        refused.look_closer(&fleet, &demand(1, 2));
        assert_eq!(
            refused.to_string(),
            "no node fits: of 3 nodes, 2 lack memory (most free: 1.5GiB of 2GiB wanted), 1 is suspect"
        );
    }

    #[test]
    fn figures_that_round_alike_are_written_out() {
        assert_eq!(
            bytes_of((2 << 30) + 1, (2 << 30) + 2),
            "most free: 2147483649B of 2147483650B wanted"
        );
        assert_eq!(bytes_of(0, 1 << 20), "most free: 0B of 1MiB wanted");
    }

    #[test]
    fn a_placed_task_hears_its_cost_the_next_best_and_who_was_removed() {
        let mut fleet = Fleet::default();
        for (node, cores) in [("n1", 8), ("n2", 4), ("n3", 1)] {
            join(&mut fleet, node, resources(cores, 8));
            fleet.set_measured(&name(node), Some(Resources::ZERO));
        }
        let placed = place(&fleet, &demand(2, 1), Policy::Epvm).unwrap();
        assert_eq!(placed.node, name("n1"));
        assert_eq!(
            placed.explanation.to_string(),
            "chosen of 2 feasible of 3 nodes: cost 1.42 (cpu 1.00, memory 0.41, disk 0, \
             tasks 0.0028); next n2 at 3.42; removed: 1 lacks cpu"
        );
        let only = place(&fleet, &demand(5, 1), Policy::Epvm).unwrap();
        assert!(only.explanation.to_string().starts_with("the only feasible of 3 nodes: cost "));
        let turn = place(&fleet, &demand(1, 1), Policy::RoundRobin { last: None }).unwrap();
        let sentence = "chosen of 3 feasible of 3 nodes: the next in turn";
        assert_eq!(turn.explanation.to_string(), sentence);
    }

    #[test]
    fn a_node_that_is_not_measured_is_spoken_of_as_such() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 4));
        join(&mut fleet, "n2", resources(4, 4));
        fleet.set_measured(&name("n2"), Some(resources(3, 0)));
        let placed = place(&fleet, &demand(1, 1), Policy::Epvm).unwrap();
        assert_eq!(placed.node, name("n2"));
        assert_eq!(
            placed.explanation.to_string(),
            "chosen of 2 feasible of 2 nodes: cost 9.00 (cpu 8.00, memory 1.00, disk 0, \
             tasks 0.0028); next n1 at 4.01 but not measured"
        );
        fleet.remove(&name("n2"));
        let placed = place(&fleet, &demand(1, 1), Policy::Epvm).unwrap();
        assert_eq!(
            placed.explanation.to_string(),
            "the only feasible of 1 node: cost 4.01 (cpu 1.00, memory 1.00, disk 0, \
             tasks 0.0028, not measured 2.00)"
        );
    }
}
