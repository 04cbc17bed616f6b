//! Stage 3 of the round-robin policy, which needs no score: the feasible nodes in turn, by name.
//!
//! The turn is remembered by the name of the node picked last and not by a position, so that nodes may come
//! and go without anybody being passed over.

use longshore_proto::name::NodeName;

use crate::Choice;
use crate::fleet::Node;

/// The first candidate after `last` in the order of names; after the end, the first of all.
pub(crate) fn pick(candidates: &[(&NodeName, &Node)], last: Option<&NodeName>) -> Option<Choice> {
    let next = last.map_or(0, |last| candidates.partition_point(|(name, _)| *name <= last));
    let (name, _) = candidates.get(next).or_else(|| candidates.first())?;
    Some(Choice { node: (*name).clone(), terms: None, runner_up: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{demand, join, join_as, name, resources};
    use crate::{Fleet, Policy, place};
    use longshore_proto::state::{Eligibility, NodeStatus};

    fn next(fleet: &Fleet, last: Option<&str>) -> NodeName {
        let last = last.map(name);
        place(fleet, &demand(1, 1), Policy::RoundRobin { last: last.as_ref() }).unwrap().node
    }

    #[test]
    fn nodes_take_turns_by_name_and_begin_again() {
        let mut fleet = Fleet::default();
        for node in ["n2", "n1", "n4"] {
            join(&mut fleet, node, resources(4, 4));
        }
        assert_eq!(next(&fleet, None), name("n1"));
        assert_eq!(next(&fleet, Some("n1")), name("n2"));
        assert_eq!(next(&fleet, Some("n2")), name("n4"));
        assert_eq!(next(&fleet, Some("n4")), name("n1"));
    }

    #[test]
    fn a_node_that_is_gone_still_marks_the_turn() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 4));
        join(&mut fleet, "n4", resources(4, 4));
        assert_eq!(next(&fleet, Some("n3")), name("n4"));
        assert_eq!(next(&fleet, Some("n9")), name("n1"));
    }

    #[test]
    fn who_cannot_take_the_task_is_skipped() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 4));
        join(&mut fleet, "n2", resources(0, 4));
        join_as(&mut fleet, "n3", resources(4, 4), NodeStatus::Suspect, Eligibility::Open);
        assert_eq!(next(&fleet, Some("n1")), name("n1"), "the only one comes again");
        join(&mut fleet, "n4", resources(4, 4));
        assert_eq!(next(&fleet, Some("n1")), name("n4"));
    }

    #[test]
    fn load_is_not_looked_at() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(4, 4));
        join(&mut fleet, "n2", resources(4, 4));
        fleet.reserve(&name("n1"), &demand(3, 3));
        assert_eq!(next(&fleet, Some("n2")), name("n1"));
    }
}
