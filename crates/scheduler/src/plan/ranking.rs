//! How every node stands to one task: the best with their costs, and of the others what is in the way.
//!
//! This is for people who ask why. It looks at every node and remembers nothing, as [`crate::plain`] does, and
//! what it puts first is what would be picked.

use std::collections::BTreeMap;
use std::path::Path;

use longshore_proto::name::NodeName;
use longshore_proto::quantity::{format_bytes, format_cpu};
use longshore_proto::spec::{MountSource, Resources};

use crate::demand::{DIMENSIONS, Demand};
use crate::explain::{CostTerms, Rejected};
use crate::filter::{self, Reason, Verdict};
use crate::fleet::{Fleet, Node};
use crate::{Policy, plain};

/// How every node stands to one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// How many nodes there are.
    pub nodes: u32,
    /// On how many of them it could run.
    pub feasible: u32,
    /// What is in the way on the others, with figures.
    pub rejected: Rejected,
    /// The best, the one that would be picked first.
    pub best: Vec<Ranked>,
    /// Some of the others, in the order of names.
    pub refused: Vec<Refused>,
    /// The node where the least is missing, when it is only room that is missing.
    pub closest: Option<Shortage>,
}

/// A node that could take the task.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// The node.
    pub node: NodeName,
    /// What it would cost there; absent when the policy knows no cost.
    pub terms: Option<CostTerms>,
}

/// A node that cannot take the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The node.
    pub node: NodeName,
    /// What is in the way first.
    pub reason: Reason,
    /// The same for people: "lacks memory: 512MiB of 2GiB wanted are free".
    pub text: String,
}

/// How much more must be free on a node for a task to fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// The node.
    pub node: NodeName,
    /// How much of each is missing.
    pub missing: Resources,
}

/// Ranks every node for a task.
pub fn of(
    fleet: &Fleet,
    demand: &Demand<'_>,
    policy: Policy<'_>,
    best_max: usize,
    refused_max: usize,
) -> Ranking {
    let mut ranking = Ranking {
        nodes: u32::try_from(fleet.len()).unwrap_or(u32::MAX),
        feasible: 0,
        rejected: Rejected::default(),
        best: Vec::new(),
        refused: Vec::new(),
        closest: None,
    };
    let mut feasible = Vec::new();
    let mut closest = None;
    for node in fleet.nodes() {
        let Some(lane) = fleet.lane(&node.name) else { continue };
        let verdict = filter::judge(fleet, lane, node, demand);
        let Some(reason) = verdict.reason() else {
            feasible.push((lane, node));
            continue;
        };
        ranking.rejected.count_in(verdict, demand);
        ranking.rejected.look_closer(verdict, node, demand);
        if ranking.refused.len() < refused_max {
            let (node, text) = (node.name.clone(), in_the_way(node, demand, verdict));
            ranking.refused.push(Refused { node, reason, text });
        }
        if matches!(reason, Reason::Cpu | Reason::Memory | Reason::Disk) {
            let key = (distance(node, demand), node.tie());
            if closest.as_ref().is_none_or(|(least, _)| key < *least) {
                closest = Some((key, node));
            }
        }
    }
    ranking.feasible = u32::try_from(feasible.len()).unwrap_or(u32::MAX);
    ranking.closest = closest.map(|(_, node)| Shortage {
        node: node.name.clone(),
        missing: demand.resources.saturating_sub(node.free()),
    });
    ranking.best = best(fleet, demand, policy, &feasible, best_max);
    ranking
}

fn best(
    fleet: &Fleet,
    demand: &Demand<'_>,
    policy: Policy<'_>,
    feasible: &[(u32, &Node)],
    most: usize,
) -> Vec<Ranked> {
    if let Policy::RoundRobin { last } = policy {
        let feasible: BTreeMap<u32, &Node> = feasible.iter().copied().collect();
        let turns = fleet.in_turn(last).filter_map(|lane| feasible.get(&lane));
        return turns
            .take(most)
            .map(|node| Ranked { node: node.name.clone(), terms: None })
            .collect();
    }
    let mut candidates = plain::score(fleet, feasible, demand, policy.kind());
    let mut best = Vec::new();
    while best.len() < most {
        let Some(next) = plain::pick(&candidates, None) else { break };
        best.push(Ranked { node: next.node.name.clone(), terms: Some(next.terms) });
        candidates.retain(|one| one.rank.key.lane != next.rank.key.lane);
    }
    best
}

/// How far a node is from having room: the largest part that is missing of anything that is wanted, in
/// millionths.
fn distance(node: &Node, demand: &Demand<'_>) -> u64 {
    let (free, wanted) = (node.free_amounts(), demand.amounts());
    let missing = |r: usize| {
        let part = (wanted[r] as f64 - free[r]) / (wanted[r].max(1)) as f64;
        (part.max(0.0) * 1e6) as u64
    };
    (0..DIMENSIONS).map(missing).max().unwrap_or(0)
}

/// What is in the way of a task on a node, as the rest of a sentence that begins with the node's name.
fn in_the_way(node: &Node, demand: &Demand<'_>, verdict: Verdict) -> String {
    let Some(reason) = verdict.reason() else { return String::new() };
    let (free, wanted) = (node.free(), demand.resources);
    let lacks_bytes = |what: &str, free: u64, wanted: u64| {
        let (mut has, mut wants) = (format_bytes(free), format_bytes(wanted));
        if has == wants {
            // Rounded they look alike, and the sentence would contradict itself.
            (has, wants) = (format!("{free}B"), format!("{wanted}B"));
        }
        format!("lacks {what}: {has} of {wants} wanted are free")
    };
    match reason {
        Reason::OtherDatacenter => {
            let may: Vec<&str> = demand.datacenters.iter().map(|name| name.as_str()).collect();
            format!("is in {}, and the job runs in {}", node.datacenter, may.join(", "))
        }
        Reason::Constraint => {
            let constraint = verdict.constraint().and_then(|index| demand.constraints.get(index));
            constraint.map_or_else(
                || reason.predicate(1).to_owned(),
                |constraint| match node.attribute(&constraint.attribute) {
                    Some(value) => format!("does not meet {constraint} (it has {value:?})"),
                    None => format!("does not meet {constraint} (it has none)"),
                },
            )
        }
        Reason::Mount => {
            let refused = demand.mounts.iter().find_map(|mount| match &mount.source {
                MountSource::Bind { path } if !lends(node, path) => Some(path),
                _ => None,
            });
            refused.map_or_else(
                || reason.predicate(1).to_owned(),
                |path| format!("does not allow tasks to mount {path}"),
            )
        }
        Reason::PortTaken => {
            let ports = demand.ports.iter();
            let taken = ports.filter(|port| node.holds_port(port.host, port.protocol));
            let taken: Vec<String> =
                taken.map(|port| format!("{}/{}", port.host, port.protocol.as_str())).collect();
            format!("has {} taken by another task", taken.join(", "))
        }
        Reason::Cpu => format!(
            "lacks cpu: {} of {} cores wanted are free",
            format_cpu(free.cpu_millis),
            format_cpu(wanted.cpu_millis)
        ),
        Reason::Memory => lacks_bytes("memory", free.memory_bytes, wanted.memory_bytes),
        Reason::Disk => lacks_bytes("disk space", free.disk_bytes, wanted.disk_bytes),
        Reason::Tasks => format!("has {} tasks and takes no more", node.tasks),
        Reason::Suspect
        | Reason::Lost
        | Reason::Left
        | Reason::Cordoned
        | Reason::Draining
        | Reason::OwnKind => reason.predicate(1).to_owned(),
    }
}

/// Whether a node lets tasks mount a path, as [`filter::mounts`] judges it.
fn lends(node: &Node, path: &str) -> bool {
    node.mount_paths.iter().any(|allowed| Path::new(path).starts_with(allowed))
}

#[cfg(test)]
mod tests {
    use longshore_proto::constraint::Constraint;
    use longshore_proto::name::Datacenter;
    use longshore_proto::spec::Mount;
    use longshore_proto::state::{Eligibility, NodeStatus};

    use super::*;
    use crate::testing::{demand, join, join_as, join_with, name, port, resources};

    #[test]
    fn the_best_come_in_the_order_of_picking() {
        let mut fleet = Fleet::default();
        for (node, cores) in [("n1", 4), ("n2", 16), ("n3", 8), ("n4", 1)] {
            join(&mut fleet, node, resources(cores, 64));
            fleet.set_measured(&name(node), Some(Resources::ZERO));
        }
        let ranking = of(&fleet, &demand(2, 1), Policy::Epvm, 2, 20);
        let best: Vec<&str> = ranking.best.iter().map(|one| one.node.as_str()).collect();
        assert_eq!((ranking.nodes, ranking.feasible, best), (4, 3, vec!["n2", "n3"]));
        let placed = plain::place(&fleet, &demand(2, 1), Policy::Epvm).unwrap();
        assert_eq!(ranking.best[0].terms, placed.explanation.terms);
        assert_eq!(placed.node, ranking.best[0].node);
        let last = name("n2");
        let turn = of(&fleet, &demand(2, 1), Policy::RoundRobin { last: Some(&last) }, 9, 0);
        let turn: Vec<&str> = turn.best.iter().map(|one| one.node.as_str()).collect();
        assert_eq!(turn, ["n3", "n1", "n2"]);
    }

    #[test]
    fn each_node_says_what_is_in_the_way() {
        let mut fleet = Fleet::default();
        join_as(&mut fleet, "a1", resources(4, 4), NodeStatus::Suspect, Eligibility::Open);
        join_with(&mut fleet, "b1", resources(4, 4), &[("rack", "r2")]);
        join(&mut fleet, "b2", resources(4, 4));
        for node in ["c1", "c2", "c3", "c4"] {
            join_with(&mut fleet, node, resources(4, 4), &[("rack", "r1")]);
        }
        let ports = [port(80)];
        fleet.reserve(&name("c1"), &Demand { ports: &ports, ..demand(0, 0) });
        fleet.reserve(&name("c2"), &demand(3, 0));
        fleet.reserve(&name("c3"), &demand(0, 3));
        fleet.reserve(
            &name("c4"),
            &Demand::of_resources(Resources { memory_bytes: (2 << 30) + 1, ..Resources::ZERO }),
        );
        let constraints: [Constraint; 1] = ["label.rack = r1".parse().unwrap()];
        let wanted = Demand { ports: &ports, constraints: &constraints, ..demand(2, 2) };
        let ranking = of(&fleet, &wanted, Policy::Epvm, 5, 20);
        let texts: Vec<String> =
            ranking.refused.iter().map(|one| format!("{} {}", one.node, one.text)).collect();
        assert_eq!(
            texts,
            [
                "a1 is suspect",
                "b1 does not meet label.rack = r1 (it has \"r2\")",
                "b2 does not meet label.rack = r1 (it has none)",
                "c1 has 80/tcp taken by another task",
                "c2 lacks cpu: 1 of 2 cores wanted are free",
                "c3 lacks memory: 1GiB of 2GiB wanted are free",
                "c4 lacks memory: 1.9GiB of 2GiB wanted are free",
            ]
        );
        let closest = ranking.closest.unwrap();
        assert_eq!((closest.node.as_str(), closest.missing.memory_bytes), ("c4", 1));
        assert_eq!(of(&fleet, &wanted, Policy::Epvm, 5, 2).refused.len(), 2);
        join(&mut fleet, "d1", Resources { memory_bytes: (1 << 30) + 1, ..Resources::ZERO });
        let hair = Resources { memory_bytes: (1 << 30) + 2, ..Resources::ZERO };
        let ranking = of(&fleet, &Demand::of_resources(hair), Policy::Epvm, 5, 20);
        let text = &ranking.refused.last().unwrap().text;
        assert_eq!(text, "lacks memory: 1073741825B of 1073741826B wanted are free");
        let elsewhere: [Datacenter; 1] = ["dc9".parse().unwrap()];
        let wanted = Demand { datacenters: &elsewhere, ..demand(1, 1) };
        let ranking = of(&fleet, &wanted, Policy::Epvm, 5, 20);
        assert_eq!(ranking.refused[1].text, "is in dc1, and the job runs in dc9");
        assert_eq!(ranking.closest, None, "room is not what is missing");
    }

    #[test]
    fn a_folder_that_is_not_lent_and_a_full_node_are_named() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 4));
        let source = MountSource::Bind { path: "/srv/data".into() };
        let mounts = [Mount { target: "/data".into(), source, read_only: true }];
        let wanted = Demand { mounts: &mounts, ..demand(1, 1) };
        let ranking = of(&fleet, &wanted, Policy::Epvm, 5, 20);
        assert_eq!(ranking.refused[0].text, "does not allow tasks to mount /srv/data");
        for _ in 0..1000 {
            fleet.reserve(&name("n1"), &demand(0, 0));
        }
        let ranking = of(&fleet, &demand(1, 1), Policy::Epvm, 5, 20);
        assert_eq!(ranking.refused[0].text, "has 1000 tasks and takes no more");
    }
}
