//! Tasks that are placed all together or not at all.
//!
//! Each is placed with the ones before it in mind, tentatively: whatever comes of it, the fleet is left as it
//! was, and the decision is the caller's.

use longshore_proto::name::NodeName;
use longshore_proto::spec::SchedulerKind;

use crate::{Demand, Fleet, Placement, Policy, Scheduler, Unplaceable};

/// Some fit, and not all.
#[derive(Debug, Clone, PartialEq)]
pub struct Short {
    /// How many fit.
    pub fit: usize,
    /// What is in the way of the next one, with those in place.
    pub unplaceable: Box<Unplaceable>,
}

/// Finds a node for each of so many tasks alike. The fleet is the same afterwards. `last` is for policies that
/// take turns. `is_news` is asked whether somebody will read what is in the way, so that it is worth a closer
/// look at every node.
///
/// # Errors
///
/// [`Short`] says how many fit, and what stands in the way of the next one.
pub fn place(
    scheduler: &mut Scheduler,
    fleet: &mut Fleet,
    demand: &Demand<'_>,
    (kind, last): (SchedulerKind, Option<&NodeName>),
    tasks: usize,
    is_news: impl FnOnce(&Unplaceable) -> bool,
) -> Result<Vec<Placement>, Short> {
    let mut placed: Vec<Placement> = Vec::with_capacity(tasks);
    let mut short = None;
    while placed.len() < tasks {
        let last = placed.last().map(|placement| &placement.node).or(last);
        match scheduler.place(fleet, demand, Policy::new(kind, last)) {
            Ok(placement) => {
                fleet.reserve(&placement.node, demand);
                placed.push(placement);
            }
            Err(mut unplaceable) => {
                if is_news(&unplaceable) {
                    unplaceable.look_closer(fleet, demand);
                }
                short = Some(Short { fit: placed.len(), unplaceable });
                break;
            }
        }
    }
    for placement in &placed {
        fleet.release(&placement.node, demand);
    }
    short.map_or(Ok(placed), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{demand, join, name, resources};

    fn fleet() -> Fleet {
        let mut fleet = Fleet::default();
        for node in ["n1", "n2"] {
            join(&mut fleet, node, resources(4, 8));
        }
        fleet
    }

    #[test]
    fn each_is_placed_with_the_others_in_mind_and_nothing_stays_reserved() {
        let (mut fleet, before) = (fleet(), fleet());
        let turn = (SchedulerKind::RoundRobin, Some(&name("n1")));
        let mut scheduler = Scheduler::default();
        let placed = place(&mut scheduler, &mut fleet, &demand(2, 1), turn, 4, |_| true).unwrap();
        let nodes: Vec<&str> = placed.iter().map(|placement| placement.node.as_str()).collect();
        assert_eq!(nodes, ["n2", "n1", "n2", "n1"]);
        assert_eq!(fleet, before);
    }

    #[test]
    fn when_one_does_not_fit_none_is_placed() {
        let (mut fleet, before) = (fleet(), fleet());
        let epvm = (SchedulerKind::Epvm, None);
        let mut scheduler = Scheduler::default();
        let short =
            place(&mut scheduler, &mut fleet, &demand(2, 1), epvm, 5, |_| true).unwrap_err();
        assert_eq!(short.fit, 4);
        assert_eq!(
            short.unplaceable.to_string(),
            "no node fits: of 2 nodes, 2 lack cpu (most free: 0 of 2 cores wanted)"
        );
        assert_eq!(fleet, before);
    }
}
