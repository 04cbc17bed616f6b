//! The fast way and the plain way must name the same node for the same reason, whatever happened before.
//!
//! Random histories: nodes join, leave, fall silent, are measured and relabelled; tasks with every kind of wish
//! come and go under every policy. After each step one scheduler, which has followed all of it, is asked beside
//! [`plain::place`], which remembers nothing. They must agree to the last bit of the last cost, and another
//! scheduler, which is never asked for a reason, on the node. Now and then many tasks
//! alike are placed by one call, beside as many plain decisions one after another.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::constraint::{Attribute, Constraint};
use longshore_proto::name::{Datacenter, JobKey, JobName, Namespace, NodeName, SpecName};
use longshore_proto::spec::{Affinity, Port, Protocol, Resources, SchedulerKind, Spread};
use longshore_proto::state::{Eligibility, NodeStatus};
use longshore_scheduler::{Demand, Fleet, GroupId, Machine, Policy, Scheduler, plain};
use proptest::prelude::*;

/// A small generator of numbers, so that a history is one seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % sides
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[usize::try_from(self.roll(choices.len() as u64)).unwrap()]
    }

    fn happens(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

fn resources(cpu_millis: u64, memory_mib: u64, disk_mib: u64) -> Resources {
    let (memory_bytes, disk_bytes) = (memory_mib << 20, disk_mib << 20);
    Resources { cpu_millis, memory_bytes, disk_bytes }
}

/// Everything that a demand borrows.
#[derive(Debug, Clone)]
struct Kind {
    resources: Resources,
    datacenters: Vec<Datacenter>,
    constraints: Vec<Constraint>,
    ports: Vec<Port>,
    affinities: Vec<Affinity>,
    spread: Vec<Spread>,
    anti_affinity: u8,
    distinct_hosts: bool,
    job: JobKey,
    spec: SpecName,
    image: String,
    policy: SchedulerKind,
}

impl Kind {
    fn random(dice: &mut Dice, number: u64) -> Self {
        let conditions = [
            "label.rack = r1",
            "label.rack != r2",
            "label.disk exists",
            "label.rack in r1, r3",
            "node.name matches ^n[0-9]*1$",
            "attribute.kernel version >= 5.10",
        ];
        let conditions_of = |percent: u64, dice: &mut Dice| -> Vec<Constraint> {
            let count = if dice.happens(percent) { 1 + dice.roll(2) } else { 0 };
            (0..count).map(|_| dice.of(&conditions).parse().unwrap()).collect()
        };
        let constraints = conditions_of(30, dice);
        let affinities = conditions_of(30, dice)
            .into_iter()
            .map(|constraint| Affinity { constraint, weight: *dice.of(&[-100, -7, 30, 100]) });
        let affinities = affinities.collect();
        let attributes = ["node.datacenter", "label.rack", "node.name", "label.none"];
        let spreads = if dice.happens(30) { 1 + dice.roll(2) } else { 0 };
        let spread = (0..spreads).map(|_| Spread {
            attribute: dice.of(&attributes).parse::<Attribute>().unwrap(),
            weight: *dice.of(&[1, 50, 100]),
        });
        let spread = spread.collect();
        let port = |dice: &mut Dice| Port {
            host: 80 + u16::try_from(dice.roll(3)).unwrap(),
            container: 80,
            protocol: Protocol::Tcp,
            host_ip: None,
            name: None,
        };
        let ports = if dice.happens(20) { vec![port(dice)] } else { Vec::new() };
        let datacenters = if dice.happens(20) { vec!["dc2".parse().unwrap()] } else { Vec::new() };
        let policies = [
            SchedulerKind::Epvm,
            SchedulerKind::Epvm,
            SchedulerKind::EpvmGuard,
            SchedulerKind::RoundRobin,
            SchedulerKind::Spread,
            SchedulerKind::Binpack,
            SchedulerKind::Lieb,
        ];
        Self {
            resources: resources(
                250 * dice.roll(6),
                256 * dice.roll(8),
                if dice.happens(70) { 0 } else { 1024 * dice.roll(4) },
            ),
            datacenters,
            constraints,
            ports,
            affinities,
            spread,
            anti_affinity: *dice.of(&[0, 0, 10, 100]),
            distinct_hosts: dice.happens(10),
            job: JobKey {
                namespace: Namespace::standard(),
                name: JobName::try_from(format!("j{number}").as_str()).unwrap(),
            },
            spec: "main".parse().unwrap(),
            image: format!("image-{}", number % 3),
            policy: *dice.of(&policies),
        }
    }

    fn demand(&self) -> Demand<'_> {
        Demand {
            resources: self.resources,
            datacenters: &self.datacenters,
            constraints: &self.constraints,
            mounts: &[],
            ports: &self.ports,
            affinities: &self.affinities,
            spread: &self.spread,
            kin: Some(GroupId::of_spec(&self.job, &self.spec)),
            anti_affinity: self.anti_affinity,
            distinct_hosts: self.distinct_hosts,
            image: Some(GroupId::of_image(&self.image)),
        }
    }
}

fn node_name(number: u64) -> NodeName {
    format!("n{number}").parse().unwrap()
}

fn join(fleet: &mut Fleet, dice: &mut Dice, number: u64, plain: bool) {
    let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let labels = match dice.roll(4) {
        0 => pairs(&[]),
        1 => pairs(&[("rack", "r1"), ("disk", "ssd")]),
        2 => pairs(&[("rack", "r2")]),
        _ => pairs(&[("rack", "r3")]),
    };
    let attributes = pairs(&[("kernel", *dice.of(&["5.9.1", "6.1.0-amd64"]))]);
    let capacities =
        [resources(4000, 8192, 10_240), resources(8000, 4096, 10_240), resources(2000, 2048, 0)];
    let odd = resources(1000 + dice.roll(5000), 4096, 1024);
    let capacity = if dice.happens(90) { *dice.of(&capacities) } else { odd };
    let ready = plain || dice.happens(80);
    fleet.upsert(
        &node_name(number),
        &Machine {
            datacenter: &(if dice.happens(50) { "dc1" } else { "dc2" }).parse().unwrap(),
            labels: &labels,
            attributes: &attributes,
            mount_paths: &[],
            status: if ready {
                NodeStatus::Ready
            } else {
                *dice.of(&[NodeStatus::Suspect, NodeStatus::Lost, NodeStatus::Left])
            },
            eligibility: if plain || dice.happens(90) {
                Eligibility::Open
            } else {
                *dice.of(&[Eligibility::Cordoned, Eligibility::Draining])
            },
            capacity: if plain { capacities[0] } else { capacity },
            tasks_max: *dice.of(&[4, 20]),
        },
    );
}

/// The nodes of so many tasks alike as plain decisions find them, and the fleet with them in place.
fn one_by_one(
    fleet: &Fleet,
    kind: &Kind,
    mut last: Option<NodeName>,
    tasks: usize,
) -> (Vec<NodeName>, Fleet) {
    let (mut fleet, demand) = (fleet.clone(), kind.demand());
    let mut names = Vec::new();
    while names.len() < tasks {
        let policy = Policy::new(kind.policy, last.as_ref());
        let Ok(placement) = plain::place(&fleet, &demand, policy) else { break };
        fleet.reserve(&placement.node, &demand);
        last = Some(placement.node.clone());
        names.push(placement.node);
    }
    (names, fleet)
}

/// Plays one history; in a calm one nodes neither come nor go, and few kinds of tasks recur often.
fn play(seed: u64, nodes: u64, steps: u64, is_calm: bool) -> Result<(), TestCaseError> {
    let mut dice = Dice(seed);
    let mut fleet = Fleet::default();
    let (mut scheduler, mut reasonless) = (Scheduler::default(), Scheduler::default());
    let plain_fleet = dice.happens(40);
    let measured = dice.happens(70);
    let always_measured = measured && dice.happens(50);
    for number in 0..nodes {
        join(&mut fleet, &mut dice, number, plain_fleet);
        if measured {
            fleet.set_measured(&node_name(number), Some(Resources::ZERO));
        }
    }
    let kinds: Vec<Kind> =
        (0..if is_calm { 2 } else { 6 }).map(|number| Kind::random(&mut dice, number)).collect();
    let mut held: Vec<(usize, NodeName)> = Vec::new();
    let mut last: Option<NodeName> = None;
    for step in 0..steps {
        let number = dice.roll(nodes);
        match dice.roll(100) {
            0..4 if !is_calm => {
                join(&mut fleet, &mut dice, number, false);
                if always_measured {
                    fleet.set_measured(&node_name(number), Some(Resources::ZERO));
                }
            }
            4..6 if !is_calm => fleet.remove(&node_name(number)),
            6..12 => {
                let figure = resources(dice.roll(6000), dice.roll(9000), 0);
                fleet.set_measured(
                    &node_name(number),
                    (always_measured || dice.happens(90)).then_some(figure),
                );
            }
            12..35 if !held.is_empty() => {
                let at = usize::try_from(dice.roll(held.len() as u64)).unwrap();
                let (kind, node) = held.swap_remove(at);
                let demand = kinds[kind].demand();
                fleet.release(&node, &demand);
            }
            _ => {}
        }
        let at = usize::try_from(dice.roll(kinds.len() as u64)).unwrap();
        let kind = &kinds[at];
        let demand = kind.demand();
        // On a small fleet more often: plain decisions are slow.
        if dice.happens(if nodes < 100 { 15 } else { 2 }) {
            let tasks = usize::try_from(dice.roll(60)).unwrap();
            let (expected, after) = one_by_one(&fleet, kind, last.clone(), tasks);
            let policy = Policy::new(kind.policy, last.as_ref());
            let nodes = scheduler.place_alike(&mut fleet, &demand, policy, tasks);
            let names: Vec<NodeName> = nodes.into_iter().map(|node| node.name.clone()).collect();
            prop_assert_eq!(&names, &expected, "step {} of seed {}: {:?}", step, seed, kind);
            prop_assert_eq!(&fleet, &after, "step {} of seed {}: {:?}", step, seed, kind);
            last = names.last().cloned().or(last);
            held.extend(names.into_iter().map(|node| (at, node)));
        }
        let policy = Policy::new(kind.policy, last.as_ref());
        let fast = scheduler.place(&fleet, &demand, policy);
        let slow = plain::place(&fleet, &demand, policy);
        prop_assert_eq!(&fast, &slow, "step {} of seed {}: {:?}", step, seed, kind);
        let picked = reasonless.pick(&fleet, &demand, policy).map(|node| &node.name);
        let node = slow.as_ref().ok().map(|placement| &placement.node);
        prop_assert_eq!(picked, node, "step {} of seed {}: {:?}", step, seed, kind);
        if let Ok(placement) = fast {
            fleet.reserve(&placement.node, &demand);
            last = Some(placement.node.clone());
            held.push((at, placement.node));
        }
        // What is remembered of groups is what the tasks need that are on nodes of the fleet.
        let on_nodes = held.iter().filter(|(_, node)| fleet.node(node).is_some());
        let groups: BTreeSet<Option<GroupId>> = on_nodes
            .map(|(kind, _)| kinds[*kind].demand())
            .flat_map(|demand| [demand.kin, demand.image])
            .collect();
        prop_assert_eq!(fleet.groups_counted(), groups.len(), "step {} of seed {}", step, seed);
    }
    for (kind, node) in held {
        fleet.release(&node, &kinds[kind].demand());
    }
    prop_assert_eq!(fleet.groups_counted(), 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn both_ways_agree_on_fleets_that_stay(seed: u64, nodes in 20u64..150) {
        play(seed, nodes, 250, true)?;
    }

    #[test]
    fn both_ways_agree_on_small_fleets(seed: u64, nodes in 1u64..40) {
        play(seed, nodes, 120, false)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn both_ways_agree_on_fleets_of_many_blocks(seed: u64, nodes in 300u64..700) {
        play(seed, nodes, 150, false)?;
    }
}

/// Spread over many racks, of which most are crowded and some have no room: a node of a crowded one may be the best.
fn play_racks(seed: u64, racks: u64, weight: u8) -> Result<(), TestCaseError> {
    let mut dice = Dice(seed);
    let mut fleet = Fleet::default();
    let (mut scheduler, mut reasonless) = (Scheduler::default(), Scheduler::default());
    let (capacities, none) =
        ([resources(4000, 8192, 0), resources(8000, 4096, 0)], BTreeMap::new());
    let nodes = 4 * racks;
    // Some tasks like a third of the nodes, or may not run there.
    let condition: Constraint = "label.disk = 0".parse().unwrap();
    let affinities = vec![Affinity { constraint: condition, weight: *dice.of(&[-7, 30]) }];
    let constraints: Vec<Constraint> = vec!["label.disk != 0".parse().unwrap()];
    let wish = dice.roll(4);
    for number in 0..nodes {
        let machine = Machine {
            datacenter: &Datacenter::standard(),
            labels: &BTreeMap::from([
                ("rack".to_owned(), (number / 4).to_string()),
                ("disk".to_owned(), (number % 3).to_string()),
            ]),
            attributes: &none,
            mount_paths: &[],
            status: NodeStatus::Ready,
            eligibility: Eligibility::Open,
            capacity: *dice.of(&capacities),
            tasks_max: 8,
        };
        fleet.upsert(&node_name(number), &machine);
        fleet.set_measured(&node_name(number), Some(Resources::ZERO));
        // Whole racks are used alike, so that some are cheap and others are full.
        let cpu_millis = 450 * (number / 4 % 9) + dice.roll(400);
        fleet.reserve(&node_name(number), &Demand::of_resources(resources(cpu_millis, 512, 0)));
    }
    let spread = [Spread { attribute: "label.rack".parse().unwrap(), weight }];
    let kinds: Vec<Kind> = (0..2).map(|number| Kind::random(&mut dice, number)).collect();
    let demands = [(250, 256), (700, 1024)].into_iter().zip(&kinds).map(|((cpu, memory), kind)| {
        let kin = Some(GroupId::of_spec(&kind.job, &kind.spec));
        Demand {
            spread: &spread,
            kin,
            affinities: if wish == 1 { &affinities } else { &[] },
            constraints: if wish == 2 { &constraints } else { &[] },
            image: (wish == 3).then(|| GroupId::of_image(&kind.image)),
            ..Demand::of_resources(resources(cpu, memory, 0))
        }
    });
    let demands: Vec<Demand<'_>> = demands.collect();
    let mut held: Vec<(usize, NodeName)> = Vec::new();
    for step in 0..400 {
        if dice.happens(45) && !held.is_empty() {
            let at = usize::try_from(dice.roll(held.len() as u64)).unwrap();
            let (kind, node) = held.swap_remove(at);
            fleet.release(&node, &demands[kind]);
        }
        if dice.happens(5) {
            let busy = resources(dice.roll(3000), dice.roll(3000), 0);
            fleet.set_measured(&node_name(dice.roll(nodes)), Some(busy));
        }
        let at = usize::try_from(dice.roll(2)).unwrap();
        let fast = scheduler.place(&fleet, &demands[at], Policy::Epvm);
        let slow = plain::place(&fleet, &demands[at], Policy::Epvm);
        prop_assert_eq!(&fast, &slow, "step {} of seed {}", step, seed);
        let picked = reasonless.pick(&fleet, &demands[at], Policy::Epvm).map(|node| &node.name);
        prop_assert_eq!(picked, slow.as_ref().ok().map(|one| &one.node), "step {}", step);
        if let Ok(placement) = fast {
            fleet.reserve(&placement.node, &demands[at]);
            held.push((at, placement.node));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn both_ways_agree_on_spread_over_racks(
        seed: u64,
        racks in 3u64..90,
        weight in prop::sample::select(vec![1u8, 3, 10, 50, 100]),
    ) {
        play_racks(seed, racks, weight)?;
    }
}

/// More of a kind on one node than a view counts by itself.
#[test]
fn both_ways_agree_on_crowds_of_a_kind() {
    let mut dice = Dice(7);
    let mut fleet = Fleet::default();
    let mut scheduler = Scheduler::default();
    let labels = BTreeMap::new();
    for number in 0..2 {
        let machine = Machine {
            datacenter: &Datacenter::standard(),
            labels: &labels,
            attributes: &labels,
            mount_paths: &[],
            status: NodeStatus::Ready,
            eligibility: Eligibility::Open,
            capacity: resources(1_000_000, 1_000_000, 0),
            tasks_max: 1_000,
        };
        fleet.upsert(&node_name(number), &machine);
        fleet.set_measured(&node_name(number), Some(Resources::ZERO));
    }
    let kind = Kind {
        resources: resources(1, 1, 0),
        datacenters: Vec::new(),
        constraints: Vec::new(),
        ports: Vec::new(),
        affinities: Vec::new(),
        spread: Vec::new(),
        anti_affinity: 1,
        distinct_hosts: false,
        policy: SchedulerKind::Epvm,
        ..Kind::random(&mut dice, 1)
    };
    let demand = kind.demand();
    let policy = Policy::Epvm;
    let mut held = Vec::new();
    for step in 0..600 {
        let fast = scheduler.place(&fleet, &demand, policy).unwrap();
        assert_eq!(fast, plain::place(&fleet, &demand, policy).unwrap(), "step {step}");
        fleet.reserve(&fast.node, &demand);
        held.push(fast.node);
    }
    let most = fleet.nodes().map(|node| node.tasks).max().unwrap();
    assert!(most > 200, "{most}");
    while let Some(node) = held.pop() {
        fleet.release(&node, &demand);
        let fast = scheduler.place(&fleet, &demand, policy).unwrap();
        assert_eq!(fast, plain::place(&fleet, &demand, policy).unwrap(), "{} left", held.len());
    }
}
