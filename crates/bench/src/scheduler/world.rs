//! A fleet with tasks that come and go, for the scheduler and for the plain scan alike.

use std::collections::VecDeque;
use std::hint::black_box;

use longshore_proto::constraint::Constraint;
use longshore_proto::name::{JobKey, Namespace, NodeName, SpecName};
use longshore_proto::spec::{Affinity, Resources, Spread};
use longshore_scheduler::{Demand, Explanation, Fleet, GroupId, Policy, Scheduler};
use longshore_simulate::machines::{self, Host, Mix};
use longshore_simulate::random::Random;
use longshore_simulate::workload::{Shapes, Source};

use super::powf::PlainScan;
use crate::Failure;

/// How many tasks a node has on average before one ends for each that comes.
const TASKS_PER_NODE: usize = 8;
/// The disk of every machine: no published mix says how much.
const DISK_BYTES: u64 = 2 << 40;
/// How much disk a task wants for each byte of memory: no trace says that either.
const DISK_PER_MEMORY: u64 = 4;
/// The labels by which a third and a hundredth of the nodes are told from the others.
const THIRD_LABEL: &str = "third";
const HUNDREDTH_LABEL: &str = "hundredth";
/// The seed of everything that is drawn here.
const SEED: u64 = 1;

/// What the tasks of a measurement say besides their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    /// A constraint that two nodes of three meet.
    TwoThirds,
    /// A constraint that one node of a hundred meets.
    Hundredth,
    /// Spread over three zones.
    SpreadZones,
    /// Spread over racks of 40 nodes.
    SpreadRacks,
    /// A third of the nodes is liked.
    Affinity,
    /// Tasks of one kind keep apart.
    AntiAffinity,
}

/// A kind of task: what a [`Demand`] borrows.
#[derive(Debug, Clone)]
pub(super) struct Kind {
    pub(super) resources: Resources,
    constraints: Vec<Constraint>,
    affinities: Vec<Affinity>,
    spread: Vec<Spread>,
    kin: GroupId,
    anti_affinity: u8,
}

impl Kind {
    pub(super) fn demand(&self) -> Demand<'_> {
        Demand {
            constraints: &self.constraints,
            affinities: &self.affinities,
            spread: &self.spread,
            kin: Some(self.kin),
            anti_affinity: self.anti_affinity,
            ..Demand::of_resources(self.resources)
        }
    }
}

/// Machines of the published mix, each with a disk and with labels to choose by.
pub(super) fn hosts(nodes: usize) -> Vec<Host> {
    let mut hosts = Mix::Google2011.hosts(nodes, SEED);
    let mut random = Random::new(SEED, 100);
    for host in &mut hosts {
        host.capacity.disk_bytes = DISK_BYTES;
        for (label, sides) in [(THIRD_LABEL, 3), (HUNDREDTH_LABEL, 100)] {
            host.labels.insert(label.to_owned(), random.below(sides).to_string());
        }
    }
    hosts
}

/// Sizes of tasks from the published distribution.
pub(super) fn sizes(hosts: &[Host]) -> impl Iterator<Item = Resources> {
    Shapes::new(Source::Google2019, hosts, SEED)
        .map(|size| Resources { disk_bytes: size.memory_bytes * DISK_PER_MEMORY, ..size })
}

/// A fleet, its scheduler, and the tasks that run.
pub(super) struct World {
    pub(super) fleet: Fleet,
    pub(super) scheduler: Scheduler,
    kinds: Vec<Kind>,
    running: VecDeque<(usize, NodeName)>,
    random: Random,
}

impl World {
    /// A fleet without tasks, and kinds of tasks.
    pub(super) fn empty(hosts: &[Host], kinds: usize, wish: Wish) -> Result<Self, Failure> {
        let fleet = machines::fleet(hosts);
        let kinds = sizes(hosts).take(kinds).enumerate();
        let kinds = kinds.map(|(number, size)| kind(number, size, wish));
        let kinds = kinds.collect::<Result<_, _>>()?;
        let (scheduler, random) = (Scheduler::default(), Random::new(SEED, 101));
        Ok(Self { fleet, scheduler, kinds, running: VecDeque::new(), random })
    }

    /// The same with as many tasks as there will be from then on.
    pub(super) fn full(hosts: &[Host], kinds: usize, wish: Wish) -> Result<Self, Failure> {
        let mut world = Self::empty(hosts, kinds, wish)?;
        while world.running.len() < TASKS_PER_NODE * hosts.len() {
            let kind = world.any_kind();
            // Several of a kind at a time: the same mixture, sooner there.
            for _ in 0..16 {
                world.place(kind)?;
            }
        }
        Ok(world)
    }

    /// One of the kinds, at random.
    fn any_kind(&mut self) -> usize {
        usize::try_from(self.random.below(self.kinds.len() as u64)).unwrap_or(0)
    }

    /// Places a task of a kind, and reserves for it.
    pub(super) fn place(&mut self, kind: usize) -> Result<(), Failure> {
        let demand = self.kinds[kind].demand();
        let picked = self.scheduler.pick(&self.fleet, &demand, Policy::Epvm);
        let node = picked.ok_or("a task fits nowhere: the fleet is too small for the bench")?;
        let node = node.name.clone();
        self.fleet.reserve(&node, &demand);
        self.running.push_back((kind, node));
        Ok(())
    }

    /// Places so many tasks of a kind by one call, which reserves for them.
    pub(super) fn place_alike(&mut self, kind: usize, tasks: usize) -> Result<(), Failure> {
        let demand = self.kinds[kind].demand();
        let nodes = self.scheduler.place_alike(&mut self.fleet, &demand, Policy::Epvm, tasks);
        if nodes.len() < tasks {
            return Err("tasks fit nowhere: the fleet is too small for the bench".into());
        }
        black_box(&nodes);
        Ok(())
    }

    /// Places a task of any kind, and ends one.
    pub(super) fn step(&mut self) -> Result<(), Failure> {
        let kind = self.any_kind();
        self.place(kind)?;
        self.end_one();
        Ok(())
    }

    /// The same, with the reason given.
    pub(super) fn step_explained(&mut self) -> Result<Explanation, Failure> {
        let kind = self.any_kind();
        let demand = self.kinds[kind].demand();
        let placement = self.scheduler.place(&self.fleet, &demand, Policy::Epvm)?;
        self.fleet.reserve(&placement.node, &demand);
        self.running.push_back((kind, placement.node));
        self.end_one();
        Ok(placement.explanation)
    }

    /// Ends the task that has run for longest, once there are as many as there should be.
    fn end_one(&mut self) {
        if self.running.len() > TASKS_PER_NODE * self.fleet.len()
            && let Some((kind, node)) = self.running.pop_front()
        {
            self.fleet.release(&node, &self.kinds[kind].demand());
        }
    }
}

fn kind(number: usize, size: Resources, wish: Wish) -> Result<Kind, Failure> {
    let job = JobKey { namespace: Namespace::standard(), name: format!("job-{number}").parse()? };
    let spec: SpecName = "main".parse()?;
    let mut kind = Kind {
        resources: size,
        constraints: Vec::new(),
        affinities: Vec::new(),
        spread: Vec::new(),
        kin: GroupId::of_spec(&job, &spec),
        anti_affinity: 0,
    };
    match wish {
        Wish::Nothing => {}
        Wish::TwoThirds => kind.constraints.push("label.third != 0".parse()?),
        Wish::Hundredth => kind.constraints.push("label.hundredth = 0".parse()?),
        Wish::SpreadZones => kind.spread.push(Spread::usual("label.zone".parse()?)),
        Wish::SpreadRacks => kind.spread.push(Spread::usual("label.rack".parse()?)),
        Wish::Affinity => {
            let constraint = "label.third = 0".parse()?;
            kind.affinities.push(Affinity { constraint, weight: 30 });
        }
        Wish::AntiAffinity => kind.anti_affinity = 50,
    }
    Ok(kind)
}

/// The same for the plain scan.
pub(super) struct PlainWorld {
    scan: PlainScan,
    kinds: Vec<Resources>,
    running: VecDeque<(usize, usize)>,
    random: Random,
    nodes: usize,
}

impl PlainWorld {
    /// A fleet with as many tasks as there will be from then on. They are dealt out and not chosen for, which
    /// would take as long as the measurement.
    pub(super) fn full(hosts: &[Host], kinds: usize) -> Self {
        let mut scan = PlainScan::default();
        hosts.iter().for_each(|host| scan.join(host.capacity, host.tasks_max));
        let mut world = Self {
            scan,
            kinds: sizes(hosts).take(kinds).collect(),
            running: VecDeque::new(),
            random: Random::new(SEED, 101),
            nodes: hosts.len(),
        };
        for task in 0..TASKS_PER_NODE * hosts.len() {
            let (kind, node) = (world.any_kind(), task % hosts.len());
            world.scan.reserve(node, world.kinds[kind]);
            world.running.push_back((kind, node));
        }
        world
    }

    fn any_kind(&mut self) -> usize {
        usize::try_from(self.random.below(self.kinds.len() as u64)).unwrap_or(0)
    }

    /// Places a task of any kind, and ends one.
    pub(super) fn step(&mut self) -> Result<(), Failure> {
        let kind = self.any_kind();
        let node = self.scan.pick(self.kinds[kind]);
        let node = node.ok_or("a task fits nowhere: the fleet is too small for the bench")?;
        self.scan.reserve(node, self.kinds[kind]);
        self.running.push_back((kind, node));
        if self.running.len() > TASKS_PER_NODE * self.nodes
            && let Some((kind, node)) = self.running.pop_front()
        {
            self.scan.release(node, self.kinds[kind]);
        }
        Ok(())
    }
}
