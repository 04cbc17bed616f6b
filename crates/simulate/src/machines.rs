//! Machines: published mixes, and the nodes of a cluster.
//!
//! The Google traces give capacities as parts of the largest machine. A whole one is taken to be 64 cores and
//! 256 GiB here; only ratios matter, because the workloads ask for parts of the largest machine too. Classes whose
//! share is not published one by one are left out, and the others scaled up to make a whole.
//!
//! | mix | machines | source |
//! |---|---|---|
//! | `google-2011` | 12,500 in one cell | Reiss et al., the 2011 trace; table in Maggioni's thesis |
//! | `google-2019` | eight cells | the 2019 trace; the same thesis. 86 % of the machines |
//! | `alibaba-2023` | 1,523, most of them with GPUs | `openb` of alibaba/clusterdata. 90 % of the machines |

use std::collections::BTreeMap;

use longshore_proto::constraint::Attribute;
use longshore_proto::name::{Datacenter, NodeName};
use longshore_proto::node::TASKS_MAX_USUAL;
use longshore_proto::spec::Resources;
use longshore_proto::state::{Eligibility, NodeStatus};
use longshore_scheduler::{Fleet, Machine};

use crate::random::Random;

/// The label that names a machine's class in its mix.
pub const CLASS_LABEL: &str = "class";
/// The label that names a machine's rack, of [`RACK_MACHINES`] machines.
pub const RACK_LABEL: &str = "rack";
/// The label that names one of [`ZONES`] zones.
pub const ZONE_LABEL: &str = "zone";
/// How many machines stand in one rack.
pub const RACK_MACHINES: usize = 40;
/// How many zones there are.
pub const ZONES: usize = 3;

/// The cores of the largest machine of the Google mixes.
const GOOGLE_CORES: f64 = 64.0;
/// Its memory.
const GOOGLE_MEMORY_BYTES: f64 = (256_u64 << 30) as f64;

/// A published mix of machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// A Google cell of May 2011.
    Google2011,
    /// Google's eight cells of May 2019.
    Google2019,
    /// Alibaba's GPU cluster of 2023 (`openb`), by its cores and memory.
    Alibaba2023,
}

/// Machines alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Class {
    /// What part of all machines they are.
    pub share: f64,
    /// What one of them has. No disk: no mix says how much.
    pub capacity: Resources,
}

/// By parts of all machines in per cent, and parts of the largest machine: cpu, memory.
const GOOGLE_2011: [(f64, f64, f64); 10] = [
    (53.47, 0.5, 0.5),
    (30.74, 0.5, 0.25),
    (7.95, 0.5, 0.75),
    (6.32, 1.0, 1.0),
    (0.99, 0.25, 0.25),
    (0.43, 0.5, 0.12),
    (0.04, 0.5, 0.03),
    (0.03, 0.5, 0.97),
    (0.02, 1.0, 0.5),
    (0.01, 0.5, 0.06),
];

const GOOGLE_2019: [(f64, f64, f64); 7] = [
    (23.3, 1.0, 0.5),
    (19.3, 0.592, 0.333),
    (14.7, 0.259, 0.167),
    (10.5, 0.709, 0.333),
    (6.8, 0.387, 0.333),
    (5.8, 0.959, 0.5),
    (5.6, 0.709, 0.667),
];

/// By parts of all machines in per cent, cores, GiB. Classes that differ in their GPUs alone are one.
const ALIBABA_2023: [(f64, u64, u64); 8] = [
    (38.0, 96, 384),
    (25.4, 104, 512),
    (8.5, 32, 256),
    (7.0, 16, 120),
    (3.9, 96, 512),
    (3.3, 32, 128),
    (2.6, 128, 768),
    (1.4, 64, 256),
];

impl Mix {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Google2011, Self::Google2019, Self::Alibaba2023];

    /// As it is written in options.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Google2011 => "google-2011",
            Self::Google2019 => "google-2019",
            Self::Alibaba2023 => "alibaba-2023",
        }
    }

    /// Its classes, the commonest first.
    pub fn classes(self) -> Vec<Class> {
        let parts = |(share, cpu, memory): &(f64, f64, f64)| Class {
            share: *share,
            capacity: Resources {
                cpu_millis: libm::round(cpu * GOOGLE_CORES * 1000.0) as u64,
                memory_bytes: libm::round(memory * GOOGLE_MEMORY_BYTES) as u64,
                disk_bytes: 0,
            },
        };
        let whole = |(share, cores, gib): &(f64, u64, u64)| Class {
            share: *share,
            capacity: Resources {
                cpu_millis: cores * 1000,
                memory_bytes: gib << 30,
                disk_bytes: 0,
            },
        };
        let mut classes: Vec<Class> = match self {
            Self::Google2011 => GOOGLE_2011.iter().map(parts).collect(),
            Self::Google2019 => GOOGLE_2019.iter().map(parts).collect(),
            Self::Alibaba2023 => ALIBABA_2023.iter().map(whole).collect(),
        };
        let sum: f64 = classes.iter().map(|class| class.share).sum();
        classes.iter_mut().for_each(|class| class.share /= sum);
        classes
    }

    /// So many machines: each class as often as its share says to the nearest one, in a random order.
    pub fn hosts(self, count: usize, seed: u64) -> Vec<Host> {
        let classes = self.classes();
        let mut places: Vec<usize> = apportioned(&classes, count)
            .into_iter()
            .enumerate()
            .flat_map(|(class, count)| std::iter::repeat_n(class, count))
            .collect();
        Random::new(seed, 1).shuffle(&mut places);
        let digits = count.to_string().len();
        let host = |(index, class): (usize, &usize)| {
            let labels = [
                (CLASS_LABEL, format!("c{class}")),
                (RACK_LABEL, format!("r{}", index / RACK_MACHINES)),
                (ZONE_LABEL, format!("z{}", index % ZONES)),
            ];
            // A letter, digits and nothing else: always a name.
            let name = NodeName::try_from(format!("n{:0digits$}", index + 1)).ok()?;
            Some(Host {
                name,
                datacenter: Datacenter::standard(),
                labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
                attributes: BTreeMap::new(),
                capacity: classes[*class].capacity,
                tasks_max: TASKS_MAX_USUAL,
            })
        };
        places.iter().enumerate().filter_map(host).collect()
    }
}

/// How many of each class there are among so many machines: the whole parts, and one more for the largest
/// remainders.
fn apportioned(classes: &[Class], count: usize) -> Vec<usize> {
    let quotas: Vec<f64> = classes.iter().map(|class| class.share * count as f64).collect();
    let mut counts: Vec<usize> = quotas.iter().map(|quota| *quota as usize).collect();
    let missing = count.saturating_sub(counts.iter().sum());
    let mut order: Vec<usize> = (0..classes.len()).collect();
    order.sort_by(|one, other| quotas[*other].fract().total_cmp(&quotas[*one].fract()));
    order.into_iter().take(missing).for_each(|at| counts[at] += 1);
    counts
}

/// A machine of a simulated cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Its name.
    pub name: NodeName,
    /// Where it stands.
    pub datacenter: Datacenter,
    /// What its operator says of it.
    pub labels: BTreeMap<String, String>,
    /// What its worker found out about it.
    pub attributes: BTreeMap<String, String>,
    /// What it offers.
    pub capacity: Resources,
    /// How many tasks it takes.
    pub tasks_max: u32,
}

impl Host {
    /// The machine as the scheduler is told of it, ready or lost.
    pub fn machine(&self, status: NodeStatus) -> Machine<'_> {
        Machine {
            datacenter: &self.datacenter,
            labels: &self.labels,
            attributes: &self.attributes,
            mount_paths: &[],
            status,
            eligibility: Eligibility::Open,
            capacity: self.capacity,
            tasks_max: self.tasks_max,
        }
    }

    /// What it has of an attribute.
    pub(crate) fn attribute(&self, attribute: &Attribute) -> Option<&str> {
        match attribute {
            Attribute::NodeName => Some(self.name.as_str()),
            Attribute::Datacenter => Some(self.datacenter.as_str()),
            Attribute::Label(key) => self.labels.get(key).map(String::as_str),
            Attribute::Machine(key) => self.attributes.get(key).map(String::as_str),
        }
    }
}

/// A fleet of these machines, all of them ready and measured to be idle.
pub fn fleet(hosts: &[Host]) -> Fleet {
    let mut fleet = Fleet::default();
    for host in hosts {
        fleet.upsert(&host.name, &host.machine(NodeStatus::Ready));
        fleet.set_measured(&host.name, Some(Resources::ZERO));
    }
    fleet
}

/// What machines have together.
pub fn capacity(hosts: &[Host]) -> Resources {
    hosts.iter().fold(Resources::ZERO, |sum, host| sum.saturating_add(host.capacity))
}

/// The most that one machine has of each resource: not always the same machine.
pub fn largest(hosts: &[Host]) -> Resources {
    hosts.iter().fold(Resources::ZERO, |most, host| Resources {
        cpu_millis: most.cpu_millis.max(host.capacity.cpu_millis),
        memory_bytes: most.memory_bytes.max(host.capacity.memory_bytes),
        disk_bytes: most.disk_bytes.max(host.capacity.disk_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(hosts: &[Host], cores: u64, gib: u64) -> usize {
        let shape = (cores * 1000, gib << 30);
        hosts
            .iter()
            .filter(|host| (host.capacity.cpu_millis, host.capacity.memory_bytes) == shape)
            .count()
    }

    #[test]
    fn each_class_is_as_common_as_published() {
        let hosts = Mix::Google2011.hosts(10_000, 1);
        assert_eq!(hosts.len(), 10_000);
        assert_eq!(count(&hosts, 32, 128), 5347);
        assert_eq!(count(&hosts, 32, 64), 3074);
        assert_eq!(count(&hosts, 64, 256), 632);
        let hosts = Mix::Alibaba2023.hosts(1523, 1);
        let share = count(&hosts, 96, 384) as f64 / 1523.0;
        assert!((share - 38.0 / 90.1).abs() < 0.001, "{share}");
        for mix in Mix::ALL {
            let sum: f64 = mix.classes().iter().map(|class| class.share).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{mix:?}");
        }
    }

    #[test]
    fn any_number_of_machines_is_met_exactly() {
        for mix in Mix::ALL {
            for count in [0, 1, 2, 7, 99, 1000] {
                assert_eq!(mix.hosts(count, 3).len(), count, "{mix:?}");
            }
        }
    }

    #[test]
    fn the_seed_changes_the_order_and_nothing_else() {
        let (one, other) = (Mix::Google2019.hosts(100, 1), Mix::Google2019.hosts(100, 2));
        assert_eq!(one, Mix::Google2019.hosts(100, 1));
        assert_ne!(one, other);
        assert_eq!(capacity(&one), capacity(&other));
    }

    #[test]
    fn the_scheduler_sees_them_all() {
        let hosts = Mix::Google2011.hosts(100, 1);
        let fleet = fleet(&hosts);
        assert_eq!(fleet.len(), 100);
        let seen = fleet.nodes().fold(Resources::ZERO, |sum, node| sum.saturating_add(node.free()));
        assert_eq!(seen, capacity(&hosts));
        assert_eq!(largest(&hosts).cpu_millis, 64_000);
    }
}
