//! Preferences in points: 100 points against a node are worth one whole node of load.

use std::sync::OnceLock;

use crate::cost::BASE_LOG2_MAX;
use crate::demand::Demand;
use crate::fleet::{Fleet, Node};

/// More points than this, for or against, are not told apart.
pub(crate) const POINTS_MAX: i32 = 1000;

/// How many points having the image already is worth. Just enough to decide between nodes that are loaded
/// alike: a pull takes seconds, an imbalance stays.
pub(crate) const IMAGE_POINTS: i32 = 1;

/// What points make of a cost: `base^(points / 100)`, looked up.
#[derive(Debug)]
pub(crate) struct Weights {
    by_points: Vec<f64>,
}

impl Weights {
    /// The weights at a base, made when they are first asked for.
    pub(crate) fn at(base_log2: u32) -> &'static Self {
        static ALL: [OnceLock<Weights>; BASE_LOG2_MAX + 1] =
            [const { OnceLock::new() }; BASE_LOG2_MAX + 1];
        let weight = |points: i32| libm::exp2(f64::from(points) * f64::from(base_log2) / 100.0);
        let make = || Self { by_points: (-POINTS_MAX..=POINTS_MAX).map(weight).collect() };
        ALL[(base_log2 as usize).min(BASE_LOG2_MAX)].get_or_init(make)
    }

    /// What the points make of a cost.
    pub(crate) fn of(&self, points: i32) -> f64 {
        let index = points.clamp(-POINTS_MAX, POINTS_MAX) + POINTS_MAX;
        usize::try_from(index)
            .ok()
            .and_then(|index| self.by_points.get(index))
            .copied()
            .unwrap_or(1.0)
    }
}

/// The points against a node that only its labels and attributes decide.
pub(crate) fn affinity(node: &Node, demand: &Demand<'_>) -> i32 {
    let liked = demand.affinities.iter().filter(|affinity| {
        let constraint = &affinity.constraint;
        constraint.holds(node.attribute(&constraint.attribute))
    });
    liked.map(|affinity| -i32::from(affinity.weight)).sum::<i32>().clamp(-POINTS_MAX, POINTS_MAX)
}

/// The points against a node that its tasks decide: those of the same kind, and those of the same image.
pub(crate) fn company(fleet: &Fleet, lane: u32, demand: &Demand<'_>) -> i32 {
    let count = |group| fleet.groups().count(group, lane);
    let kin = match demand.kin {
        Some(kin) if demand.anti_affinity > 0 => of_kin(demand.anti_affinity, count(kin)),
        _ => 0,
    };
    company_of(kin, demand.image.is_some_and(|image| count(image) > 0))
}

/// The points that so many of the same kind count.
pub(crate) fn of_kin(anti_affinity: u8, tasks: u32) -> i32 {
    let tasks = i32::try_from(tasks).unwrap_or(POINTS_MAX);
    i32::from(anti_affinity).saturating_mul(tasks).min(POINTS_MAX)
}

fn company_of(kin: i32, has_image: bool) -> i32 {
    kin - if has_image { IMAGE_POINTS } else { 0 }
}

/// All points against a node but those for spread, which depend on the other nodes.
pub(crate) fn of_node(fleet: &Fleet, lane: u32, node: &Node, demand: &Demand<'_>) -> i32 {
    (affinity(node, demand) + company(fleet, lane, demand)).clamp(-POINTS_MAX, POINTS_MAX)
}

/// The same, of what they are made of.
pub(crate) fn sum(affinity: i32, kin: i32, has_image: bool) -> i32 {
    (affinity + company_of(kin, has_image)).clamp(-POINTS_MAX, POINTS_MAX)
}

#[cfg(test)]
mod tests {
    use longshore_proto::name::{JobKey, Namespace};
    use longshore_proto::spec::{Affinity, Spread};

    use super::*;
    use crate::plain::place;
    use crate::testing::{demand, join, join_with, name, resources};
    use crate::{GroupId, Policy};

    fn kin() -> Option<GroupId> {
        let job = JobKey { namespace: Namespace::standard(), name: "web".parse().unwrap() };
        Some(GroupId::of_spec(&job, &"main".parse().unwrap()))
    }

    #[test]
    fn an_affinity_outweighs_as_much_load_as_it_says() {
        let mut fleet = Fleet::default();
        join_with(&mut fleet, "liked", resources(100, 100), &[("disk", "ssd")]);
        join(&mut fleet, "other", resources(100, 100));
        let affinities = [Affinity { constraint: "label.disk = ssd".parse().unwrap(), weight: 30 }];
        let wanted = Demand { affinities: &affinities, ..demand(1, 1) };
        for percent in 0..100 {
            let picked = place(&fleet, &wanted, Policy::Epvm).unwrap().node;
            let expected = if percent <= 29 { "liked" } else { "other" };
            if percent != 30 {
                assert_eq!(picked, name(expected), "{percent} % fuller");
            }
            fleet.reserve(&name("liked"), &demand(1, 1));
            if percent == 40 {
                break;
            }
        }
        let dislikes = [Affinity { weight: -30, ..affinities[0].clone() }];
        let mut fleet = Fleet::default();
        join_with(&mut fleet, "disliked", resources(100, 100), &[("disk", "ssd")]);
        join(&mut fleet, "other", resources(100, 100));
        fleet.reserve(&name("other"), &demand(20, 20));
        let wanted = Demand { affinities: &dislikes, ..wanted };
        assert_eq!(place(&fleet, &wanted, Policy::Epvm).unwrap().node, name("other"));
    }

    #[test]
    fn ones_own_kind_is_kept_apart_until_load_says_otherwise() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "large", resources(64, 64));
        join(&mut fleet, "small", resources(8, 8));
        let wanted = Demand { kin: kin(), anti_affinity: 100, ..demand(1, 1) };
        let mut picked = Vec::new();
        for _ in 0..2 {
            let node = place(&fleet, &wanted, Policy::Epvm).unwrap().node;
            fleet.reserve(&node, &wanted);
            picked.push(node);
        }
        assert_eq!(picked, [name("large"), name("small")]);
        let indifferent = Demand { anti_affinity: 0, ..wanted };
        assert_eq!(place(&fleet, &indifferent, Policy::Epvm).unwrap().node, name("large"));
    }

    #[test]
    fn a_kind_is_spread_over_the_values_of_a_label() {
        let mut fleet = Fleet::default();
        for (node, rack) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")] {
            join_with(&mut fleet, node, resources(16, 16), &[("rack", rack)]);
        }
        let spread = [Spread::usual("label.rack".parse().unwrap())];
        let wanted = Demand { kin: kin(), spread: &spread, ..demand(1, 1) };
        for _ in 0..8 {
            let node = place(&fleet, &wanted, Policy::Epvm).unwrap().node;
            fleet.reserve(&node, &wanted);
        }
        assert_eq!(fleet.node(&name("b1")).unwrap().tasks, 4, "half of them in either rack");
    }

    #[test]
    fn a_spread_over_a_label_that_no_node_has_changes_nothing() {
        let mut fleet = Fleet::default();
        join(&mut fleet, "n1", resources(16, 16));
        join(&mut fleet, "n2", resources(8, 8));
        let spread = [Spread::usual("label.none".parse().unwrap())];
        let wanted = Demand { kin: kin(), spread: &spread, ..demand(1, 1) };
        fleet.reserve(&name("n1"), &wanted);
        let (with, without) = (wanted, Demand { spread: &[], ..wanted });
        let node = |demand| place(&fleet, demand, Policy::Epvm).unwrap().node;
        assert_eq!(node(&with), node(&without));
    }

    #[test]
    fn the_image_decides_between_nodes_that_are_loaded_alike() {
        let mut fleet = Fleet::default();
        for node in ["n1", "n2", "n3", "n4"] {
            join(&mut fleet, node, resources(1000, 1000));
        }
        let image = Some(GroupId::of_image("web:1"));
        let wanted = Demand { image, ..demand(1, 1) };
        let first = place(&fleet, &wanted, Policy::Epvm).unwrap().node;
        fleet.reserve(&first, &wanted);
        assert_eq!(place(&fleet, &wanted, Policy::Epvm).unwrap().node, first);
        (0..20).for_each(|_| fleet.reserve(&first, &demand(1, 1)));
        assert_ne!(place(&fleet, &wanted, Policy::Epvm).unwrap().node, first, "2 % is too much");
    }
}
