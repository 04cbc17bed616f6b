//! What one task wants of a node.

use longshore_proto::constraint::Constraint;
use longshore_proto::name::Datacenter;
use longshore_proto::spec::{Affinity, JobSpec, Mount, Port, Resources, Spread, TaskSpec};

use crate::fleet::GroupId;

/// How many kinds of resources are judged alike.
pub(crate) const DIMENSIONS: usize = 4;

/// One figure for each [`Dimension`], in its order.
pub(crate) type Amounts = [u64; DIMENSIONS];

/// The largest figure that is told from larger ones: exact as a floating-point number, with room for a sum.
pub(crate) const AMOUNT_MAX: u64 = 1 << 52;

/// One of the resources that are judged alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dimension {
    Cpu,
    Memory,
    Disk,
    /// Places for tasks: the paper's count of jobs.
    Tasks,
}

impl Dimension {
    /// Every dimension, in the order in which they are asked for and costs are added up.
    pub(crate) const ALL: [Self; DIMENSIONS] = [Self::Cpu, Self::Memory, Self::Disk, Self::Tasks];
}

/// Resources and a number of tasks by dimension.
pub(crate) fn amounts(resources: Resources, tasks: u32) -> Amounts {
    let Resources { cpu_millis, memory_bytes, disk_bytes } = resources;
    [cpu_millis, memory_bytes, disk_bytes, u64::from(tasks)].map(|figure| figure.min(AMOUNT_MAX))
}

/// What one task wants of a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand<'a> {
    /// What it will hold of the node for as long as it lives.
    pub resources: Resources,
    /// Where it may run; empty means anywhere.
    pub datacenters: &'a [Datacenter],
    /// What must be true of the node.
    pub constraints: &'a [Constraint],
    /// What of the node's file system it mounts.
    pub mounts: &'a [Mount],
    /// The ports that it publishes on the node.
    pub ports: &'a [Port],
    /// What is liked and disliked about a node.
    pub affinities: &'a [Affinity],
    /// What its own kind is spread over.
    pub spread: &'a [Spread],
    /// Its own kind: the tasks of the same spec of the same job.
    pub kin: Option<GroupId>,
    /// How many points each task of its own kind counts against a node (see [`crate::cost`]).
    pub anti_affinity: u8,
    /// Whether it refuses a node that has a task of its own kind.
    pub distinct_hosts: bool,
    /// The tasks with the same image: where one is, the image is.
    pub image: Option<GroupId>,
}

impl<'a> Demand<'a> {
    /// The demand of a task that says nothing but how much it needs.
    pub fn of_resources(resources: Resources) -> Self {
        Self {
            resources,
            datacenters: &[],
            constraints: &[],
            mounts: &[],
            ports: &[],
            affinities: &[],
            spread: &[],
            kin: None,
            anti_affinity: 0,
            distinct_hosts: false,
            image: None,
        }
    }

    /// The demand of the tasks of a spec, whose groups are [`GroupId::of_spec`] and [`GroupId::of_image`].
    pub fn of_spec(
        job: &'a JobSpec,
        spec: &'a TaskSpec,
        kin: Option<GroupId>,
        image: Option<GroupId>,
    ) -> Self {
        Self {
            resources: spec.resources,
            datacenters: &job.datacenters,
            constraints: &spec.constraints,
            mounts: &spec.mounts,
            ports: &spec.ports,
            affinities: &spec.affinities,
            spread: &spec.spread,
            kin,
            anti_affinity: spec.anti_affinity.unwrap_or(0),
            distinct_hosts: spec.distinct_hosts,
            image,
        }
    }

    /// What it takes of each dimension.
    pub(crate) fn amounts(&self) -> Amounts {
        amounts(self.resources, 1)
    }
}
