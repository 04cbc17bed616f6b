//! Many tasks alike, placed by one call: the instances of a part, or a batch.

use crate::index::{Ask, Race};
use crate::{Demand, Fleet, Node, Policy, Scheduler};

/// How many nodes may be looked at for each task. To begin a race is to look at every node that can take one, which
/// pays where many of them are given one.
const RUNNERS_PER_TASK: usize = 16;

impl Scheduler {
    /// Finds a node for each of so many tasks alike, as [`Scheduler::pick`] does one after another, each with those
    /// before it in mind, and reserves for all of them. Gives their nodes in that order: fewer than asked for where the
    /// next one fits nowhere. A policy that takes turns goes on from its `last`.
    pub fn place_alike<'f>(
        &mut self,
        fleet: &'f mut Fleet,
        demand: &Demand<'_>,
        policy: Policy<'_>,
        tasks: usize,
    ) -> Vec<&'f Node> {
        let lanes = match self.race(fleet, demand, policy, tasks) {
            Some(lanes) => lanes,
            None => self.one_by_one(fleet, demand, policy, tasks),
        };
        lanes.into_iter().filter_map(|lane| fleet.at(lane)).collect()
    }

    /// All at once. `None` where that cannot be or does not pay.
    fn race(
        &mut self,
        fleet: &mut Fleet,
        demand: &Demand<'_>,
        policy: Policy<'_>,
        tasks: usize,
    ) -> Option<Vec<u32>> {
        let (view, ground) = self.index(policy.kind()).view(fleet, demand, Ask::All);
        if tasks < 2 || view.feasible() as usize > tasks.saturating_mul(RUNNERS_PER_TASK) {
            return None;
        }
        let mut race = Race::new(&ground, view.nodes(), demand)?;
        let lanes: Vec<u32> = race.by_ref().take(tasks).collect();
        let taken: Vec<(u32, u32)> = race.taken().collect();
        for (lane, tasks) in taken {
            fleet.reserve_on(lane, demand, tasks);
        }
        Some(lanes)
    }

    fn one_by_one(
        &mut self,
        fleet: &mut Fleet,
        demand: &Demand<'_>,
        policy: Policy<'_>,
        tasks: usize,
    ) -> Vec<u32> {
        let mut lanes = Vec::new();
        let mut last = None;
        while lanes.len() < tasks {
            let turn = match policy {
                Policy::RoundRobin { last: before } => {
                    Policy::RoundRobin { last: last.as_ref().or(before) }
                }
                other => other,
            };
            let Some(lane) = self.pick_lane(fleet, demand, turn) else { break };
            if matches!(policy, Policy::RoundRobin { .. }) {
                last = fleet.at(lane).map(|node| node.name.clone());
            }
            fleet.reserve_on(lane, demand, 1);
            lanes.push(lane);
        }
        lanes
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::spec::{Resources, Spread};

    use super::*;
    use crate::testing::{demand, join, join_with, name, port, resources};

    /// So many nodes alike, measured to be idle.
    fn fleet(nodes: usize) -> Fleet {
        let mut fleet = Fleet::default();
        for node in 0..nodes {
            let node = format!("n{node}");
            join_with(&mut fleet, &node, resources(4, 4), &[("rack", "r1")]);
            fleet.set_measured(&name(&node), Some(Resources::ZERO));
        }
        fleet
    }

    fn race(fleet: &mut Fleet, demand: &Demand<'_>, policy: Policy<'_>) -> Option<usize> {
        Scheduler::default().race(fleet, demand, policy, 10).map(|lanes| lanes.len())
    }

    #[test]
    fn nodes_race_where_each_task_changes_one_of_them_alone() {
        assert_eq!(race(&mut fleet(2), &demand(1, 1), Policy::Epvm), Some(8), "no more fit");
        let ports = [port(80)];
        let once = Demand { ports: &ports, ..demand(1, 1) };
        assert_eq!(race(&mut fleet(2), &once, Policy::Binpack), Some(2));
        assert_eq!(race(&mut Fleet::default(), &demand(1, 1), Policy::Epvm), Some(0));
        assert_eq!(race(&mut fleet(160), &demand(1, 1), Policy::Epvm), Some(10));
        assert_eq!(race(&mut fleet(161), &demand(1, 1), Policy::Epvm), None, "too many to begin");
        assert_eq!(race(&mut fleet(2), &demand(1, 1), Policy::EpvmGuard), None);
        assert_eq!(race(&mut fleet(2), &demand(1, 1), Policy::RoundRobin { last: None }), None);
        let spread = [Spread::usual("label.rack".parse().unwrap())];
        let apart = Demand { spread: &spread, ..demand(1, 1) };
        assert_eq!(race(&mut fleet(2), &apart, Policy::Epvm), None);
        let mut unheard = fleet(2);
        join(&mut unheard, "unheard", resources(4, 4));
        assert_eq!(race(&mut unheard, &demand(1, 1), Policy::Epvm), None);
        // One that is not heard and could not take the task anyway is in nobody's way.
        assert_eq!(race(&mut unheard, &demand(5, 1), Policy::Epvm), Some(0));
    }

    #[test]
    fn who_takes_turns_goes_on_from_the_last() {
        let mut fleet = fleet(3);
        let (mut scheduler, last) = (Scheduler::default(), name("n0"));
        let policy = Policy::RoundRobin { last: Some(&last) };
        let nodes = scheduler.place_alike(&mut fleet, &demand(1, 1), policy, 5);
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["n1", "n2", "n0", "n1", "n2"]);
    }
}
