//! What must hold for every fleet and every task, tried on random ones through the public surface.
//!
//! | property | why it matters |
//! |---|---|
//! | nothing infeasible is picked, nothing feasible is missed | no placement may ever exceed capacity |
//! | E-PVM agrees with the formula written down anew | caches and shortcuts must not change a decision |
//! | a release undoes its reserve | speculation that fails is taken back |
//! | the order of facts about different nodes does not matter | all managers must decide alike |
//! | round robin visits every candidate before any again | it is what the name promises |

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::name::{Datacenter, NodeName};
use longshore_proto::spec::{Port, Protocol, Resources};
use longshore_proto::state::{Eligibility, NodeStatus};
use longshore_scheduler::plain::place;
use longshore_scheduler::{Demand, Fleet, Machine as Told, Node, Policy};
use proptest::prelude::*;
use proptest::sample::select;

/// How many tasks a node takes here.
const TASKS_MAX: u32 = 40;

/// A task as generated: owns what a [`Demand`] borrows.
#[derive(Debug, Clone)]
struct Task {
    resources: Resources,
    datacenters: Vec<Datacenter>,
    ports: Vec<Port>,
}

impl Task {
    fn demand(&self) -> Demand<'_> {
        let Self { resources, datacenters, ports } = self;
        Demand { datacenters, ports, ..Demand::of_resources(*resources) }
    }
}

/// A node as generated, with the facts about it in their order.
#[derive(Debug, Clone)]
struct Machine {
    name: NodeName,
    datacenter: Datacenter,
    status: NodeStatus,
    eligibility: Eligibility,
    capacity: Resources,
    held: Vec<Task>,
    heard: Vec<Option<Resources>>,
}

impl Machine {
    fn join(&self, fleet: &mut Fleet) {
        let Self { name, datacenter, status, eligibility, capacity, .. } = self;
        let none = BTreeMap::new();
        let told = Told {
            datacenter,
            labels: &none,
            attributes: &none,
            mount_paths: &[],
            status: *status,
            eligibility: *eligibility,
            capacity: *capacity,
            tasks_max: TASKS_MAX,
        };
        fleet.upsert(name, &told);
    }

    fn tell(&self, fleet: &mut Fleet) {
        self.join(fleet);
        self.held.iter().for_each(|task| fleet.reserve(&self.name, &task.demand()));
        self.heard.iter().for_each(|figure| fleet.set_measured(&self.name, *figure));
    }
}

fn fleet_of(machines: &[Machine]) -> Fleet {
    let mut fleet = Fleet::default();
    machines.iter().for_each(|machine| machine.tell(&mut fleet));
    fleet
}

/// Few distinct figures, so that ties, exact fits and zeros come up all the time.
fn amount(most: u64) -> impl Strategy<Value = Resources> {
    (0..=most, 0..=most, prop_oneof![Just(0), 0..=most]).prop_map(|(cpu, memory, disk)| Resources {
        cpu_millis: cpu * 250,
        memory_bytes: memory * (256 << 20),
        disk_bytes: disk << 30,
    })
}

fn datacenter() -> impl Strategy<Value = Datacenter> {
    select(vec!["dc1", "dc2"]).prop_map(|text| text.parse().unwrap())
}

fn task() -> impl Strategy<Value = Task> {
    let port = (80u16..84, any::<bool>()).prop_map(|(host, tcp)| Port {
        host,
        container: 80,
        protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
        host_ip: None,
        name: None,
    });
    let datacenters = prop_oneof![
        3 => Just(Vec::new()),
        1 => proptest::collection::vec(datacenter(), 1..=2),
    ];
    let ports = prop_oneof![
        3 => Just(Vec::new()),
        1 => proptest::collection::vec(port, 1..=2),
    ];
    (amount(6), datacenters, ports).prop_map(|(resources, datacenters, mut ports)| {
        ports.dedup_by_key(|port| (port.host, port.protocol));
        Task { resources, datacenters, ports }
    })
}

fn machine(name: NodeName) -> impl Strategy<Value = Machine> {
    let status = prop_oneof![
        8 => Just(NodeStatus::Ready),
        1 => select(vec![NodeStatus::Suspect, NodeStatus::Lost, NodeStatus::Left]),
    ];
    let eligibility = prop_oneof![
        8 => Just(Eligibility::Open),
        1 => select(vec![Eligibility::Cordoned, Eligibility::Draining]),
    ];
    // What is held may exceed the capacity: facts are not refused, and capacities shrink.
    let held = proptest::collection::vec(task(), 0..4);
    let heard = proptest::collection::vec(proptest::option::weighted(0.8, amount(32)), 0..3);
    (datacenter(), status, eligibility, amount(24), held, heard).prop_map(
        move |(datacenter, status, eligibility, capacity, held, heard)| Machine {
            name: name.clone(),
            datacenter,
            status,
            eligibility,
            capacity,
            held,
            heard,
        },
    )
}

/// Up to 20 machines: on both sides of the first change of the base.
fn machines() -> impl Strategy<Value = Vec<Machine>> {
    (0usize..=20).prop_flat_map(|count| {
        (0..count).map(|index| machine(format!("n{index}").parse().unwrap())).collect::<Vec<_>>()
    })
}

/// Feasibility, written down a second time from the books of the test and not from the fleet's.
fn fits(machine: &Machine, task: &Task) -> bool {
    let ports = |task: &Task| -> BTreeSet<(u16, Protocol)> {
        task.ports.iter().map(|port| (port.host, port.protocol)).collect()
    };
    let room = |of: fn(&Resources) -> u64| {
        let held: u64 = machine.held.iter().map(|task| of(&task.resources)).sum();
        let wanted = of(&task.resources);
        wanted == 0 || held + wanted <= of(&machine.capacity)
    };
    machine.status == NodeStatus::Ready
        && machine.eligibility == Eligibility::Open
        && (task.datacenters.is_empty() || task.datacenters.contains(&machine.datacenter))
        && machine.held.iter().all(|held| ports(held).is_disjoint(&ports(task)))
        && room(|r| r.cpu_millis)
        && room(|r| r.memory_bytes)
        && room(|r| r.disk_bytes)
        && machine.held.len() < TASKS_MAX as usize
}

/// The rise of a node's cost by the formula, with and without what is measured.
///
/// Written as the code's product to compare bit for bit, and as the paper's difference of two powers to
/// check the product.
struct Reference {
    cost: f64,
    cost_by_committed: f64,
}

/// What one resource adds.
fn risen(capacity: u64, committed: u64, measured: u64, wanted: u64, base_log2: f64) -> f64 {
    if capacity == 0 || wanted == 0 {
        return 0.0;
    }
    let capacity = capacity as f64;
    // Figures here are far below 2^53: rounding in floating point is exact enough to agree.
    let measured = (measured as f64 * 64.0 / capacity + 0.5).floor() / 64.0;
    let before = (committed as f64 / capacity).max(measured).min(1.5);
    let wanted = wanted as f64 / capacity;
    let product = libm::exp2(before * base_log2) * (libm::exp2(wanted * base_log2) - 1.0);
    let difference = libm::exp2((before + wanted) * base_log2) - libm::exp2(before * base_log2);
    assert!((product - difference).abs() <= 1e-12 * libm::exp2((before + wanted) * base_log2));
    product
}

fn reference(node: &Node, task: &Task, nodes: usize) -> Reference {
    let mut base_log2 = 4.0;
    while libm::exp2(base_log2) < nodes as f64 {
        base_log2 += 1.0;
    }
    let rise = |of: fn(&Resources) -> u64, with_measured: bool| {
        let measured = node.measured.as_ref().filter(|_| with_measured).map_or(0, of);
        risen(of(&node.capacity), of(&node.committed), measured, of(&task.resources), base_log2)
    };
    let tasks = risen(u64::from(node.tasks_max), u64::from(node.tasks), 0, 1, base_log2);
    let sum = |with_measured| {
        let cpu = rise(|r| r.cpu_millis, with_measured);
        let memory = rise(|r| r.memory_bytes, with_measured);
        cpu + memory + rise(|r| r.disk_bytes, with_measured) + tasks
    };
    let penalty = if node.measured.is_some() { 1.0 } else { 2.0 };
    Reference { cost: sum(true) * penalty, cost_by_committed: sum(false) }
}

proptest! {
    #[test]
    fn what_is_picked_fits_and_what_fits_is_counted(
        machines in machines(),
        task in task(),
        last in 0usize..20,
    ) {
        let fleet = fleet_of(&machines);
        let fitting = machines.iter().filter(|machine| fits(machine, &task)).count();
        let last: NodeName = format!("n{last}").parse().unwrap();
        for policy in [Policy::Epvm, Policy::RoundRobin { last: Some(&last) }] {
            match place(&fleet, &task.demand(), policy) {
                Ok(placed) => {
                    let machine = machines.iter().find(|machine| machine.name == placed.node);
                    prop_assert!(fits(machine.unwrap(), &task));
                    let why = placed.explanation;
                    prop_assert_eq!(why.feasible as usize, fitting);
                    prop_assert_eq!(why.feasible + why.rejected.total(), why.nodes);
                    prop_assert_eq!(why.policy, policy.kind());
                }
                Err(refused) => {
                    prop_assert_eq!(fitting, 0);
                    prop_assert_eq!(refused.rejected.total(), refused.nodes);
                    prop_assert_eq!(refused.nodes as usize, machines.len());
                }
            }
        }
    }

    #[test]
    fn epvm_agrees_with_the_formula(machines in machines(), task in task()) {
        let fleet = fleet_of(&machines);
        let references: BTreeMap<&NodeName, Reference> = machines
            .iter()
            .filter(|machine| fits(machine, &task))
            .map(|machine| {
                let node = fleet.node(&machine.name).unwrap();
                (&machine.name, reference(node, &task, machines.len()))
            })
            .collect();
        let Ok(placed) = place(&fleet, &task.demand(), Policy::Epvm) else {
            prop_assert!(references.is_empty());
            return Ok(());
        };

        // The cheapest measured node, unless one that is not measured beats it on committed figures alone.
        let cheapest = |but: Option<&NodeName>| {
            let best = |measured: bool| {
                let of_kind = references.iter().filter(|(name, _)| {
                    fleet.node(name).unwrap().measured.is_some() == measured && Some(**name) != but
                });
                of_kind.map(|(_, reference)| reference).min_by(|one, other| {
                    (one.cost.total_cmp(&other.cost))
                        .then(one.cost_by_committed.total_cmp(&other.cost_by_committed))
                })
            };
            match (best(true), best(false)) {
                (Some(heard), Some(silent)) if silent.cost < heard.cost_by_committed => Some(silent.cost),
                (Some(heard), _) => Some(heard.cost),
                (None, silent) => silent.map(|silent| silent.cost),
            }
        };
        let cost = placed.explanation.terms.unwrap().total();
        prop_assert_eq!(cost.to_bits(), references[&placed.node].cost.to_bits());
        prop_assert_eq!(Some(cost), cheapest(None));
        let next = cheapest(Some(&placed.node));
        match (&placed.explanation.runner_up, next) {
            (None, None) => {}
            (Some((name, cost)), Some(second)) => {
                prop_assert_ne!(name, &placed.node);
                prop_assert_eq!(cost.total().to_bits(), second.to_bits());
            }
            _ => prop_assert!(false, "a runner-up and only one candidate, or the reverse"),
        }
    }

    #[test]
    fn a_node_without_a_figure_never_beats_its_measured_twin(
        machines in machines(),
        task in task(),
        figure in amount(32),
    ) {
        // A pair alone: among several measured nodes it is the best of them that must be beaten, and that
        // need not be the twin.
        for machine in &machines {
            let mut fleet = Fleet::default();
            let silent = Machine { heard: vec![], ..machine.clone() };
            let twin: NodeName = format!("{}-twin", machine.name).parse().unwrap();
            silent.tell(&mut fleet);
            Machine { name: twin, heard: vec![Some(figure)], ..silent }.tell(&mut fleet);
            if let Ok(placed) = place(&fleet, &task.demand(), Policy::Epvm) {
                prop_assert!(placed.node.as_str().ends_with("-twin"), "{} won", placed.node);
            }
        }
    }

    #[test]
    fn a_release_undoes_its_reserve(
        machines in machines(),
        task in task(),
        other in task(),
        index in 0usize..20,
    ) {
        let fleet = fleet_of(&machines);
        // The name may be of no node at all.
        let name: NodeName = format!("n{index}").parse().unwrap();
        let mut changed = fleet.clone();
        changed.reserve(&name, &other.demand());
        changed.release(&name, &other.demand());
        prop_assert_eq!(&changed, &fleet);
        let placed = |fleet: &Fleet| place(fleet, &task.demand(), Policy::Epvm);
        prop_assert_eq!(placed(&changed), placed(&fleet));
    }

    #[test]
    fn the_order_of_facts_does_not_matter(
        (machines, shuffled) in machines()
            .prop_flat_map(|machines| (Just(machines.clone()), Just(machines).prop_shuffle())),
        task in task(),
    ) {
        let fleet = fleet_of(&machines);
        // The same facts otherwise: other nodes first, tasks before their nodes and in reverse, and more
        // nodes for a while, so that the base has been another one.
        let mut other = Fleet::default();
        for machine in &shuffled {
            machine.held.iter().rev().for_each(|task| other.reserve(&machine.name, &task.demand()));
        }
        let passing: Vec<Machine> = (0..20)
            .filter_map(|index| machines.first().map(|machine| Machine {
                name: format!("passing-{index}").parse().unwrap(),
                ..machine.clone()
            }))
            .collect();
        passing.iter().for_each(|machine| machine.join(&mut other));
        shuffled.iter().for_each(|machine| machine.join(&mut other));
        for machine in &shuffled {
            machine.heard.iter().for_each(|figure| other.set_measured(&machine.name, *figure));
        }
        passing.iter().for_each(|machine| other.remove(&machine.name));
        prop_assert_eq!(&other, &fleet);
        let placed = |fleet: &Fleet| place(fleet, &task.demand(), Policy::Epvm);
        prop_assert_eq!(placed(&other), placed(&fleet));
    }

    #[test]
    fn capacity_is_never_exceeded_however_many_come(
        machines in machines(),
        tasks in proptest::collection::vec(task(), 1..60),
        epvm in any::<bool>(),
    ) {
        let mut machines: Vec<Machine> =
            machines.into_iter().map(|machine| Machine { held: vec![], ..machine }).collect();
        let mut fleet = fleet_of(&machines);
        let mut last: Option<NodeName> = None;
        for task in tasks {
            let policy =
                if epvm { Policy::Epvm } else { Policy::RoundRobin { last: last.as_ref() } };
            let Ok(placed) = place(&fleet, &task.demand(), policy) else {
                prop_assert!(!machines.iter().any(|machine| fits(machine, &task)));
                continue;
            };
            fleet.reserve(&placed.node, &task.demand());
            let machine = machines.iter_mut().find(|machine| machine.name == placed.node).unwrap();
            prop_assert!(fits(machine, &task));
            machine.held.push(task);
            let node = fleet.node(&placed.node).unwrap();
            prop_assert!(node.committed.fits_in(node.capacity));
            last = Some(placed.node);
        }
    }

    #[test]
    fn round_robin_visits_every_candidate_before_any_again(machines in machines(), task in task()) {
        let fleet = fleet_of(&machines);
        let fitting: Vec<&NodeName> =
            fleet.nodes().map(|node| &node.name).filter(|name| {
                machines.iter().any(|machine| machine.name == **name && fits(machine, &task))
            }).collect();
        let mut last: Option<NodeName> = None;
        for expected in fitting.iter().chain(&fitting) {
            let policy = Policy::RoundRobin { last: last.as_ref() };
            let placed = place(&fleet, &task.demand(), policy).unwrap();
            prop_assert_eq!(&placed.node, *expected);
            last = Some(placed.node);
        }
    }
}
