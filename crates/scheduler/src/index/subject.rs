//! What a view is of: one demand, and the groups of tasks that count for it.

use longshore_proto::constraint::{Attribute, Constraint};
use longshore_proto::name::Datacenter;
use longshore_proto::spec::{Affinity, Mount, Port, Spread};

use crate::demand::{Amounts, Demand};
use crate::fleet::{Fleet, GroupId, IMAGE, KIN};

/// A demand that owns what a [`Demand`] borrows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Owned {
    pub(super) amounts: Amounts,
    datacenters: Vec<Datacenter>,
    constraints: Vec<Constraint>,
    mounts: Vec<Mount>,
    pub(super) ports: Vec<Port>,
    affinities: Vec<Affinity>,
    pub(super) spread: Vec<Spread>,
    pub(super) anti_affinity: u8,
    pub(super) distinct_hosts: bool,
}

impl Owned {
    pub(crate) fn of(demand: &Demand<'_>) -> Self {
        Self {
            amounts: demand.amounts(),
            datacenters: demand.datacenters.to_vec(),
            constraints: demand.constraints.to_vec(),
            mounts: demand.mounts.to_vec(),
            ports: demand.ports.to_vec(),
            affinities: demand.affinities.to_vec(),
            spread: demand.spread.to_vec(),
            anti_affinity: demand.anti_affinity,
            distinct_hosts: demand.distinct_hosts,
        }
    }

    pub(super) fn is_of(&self, demand: &Demand<'_>) -> bool {
        self.amounts == demand.amounts()
            && self.anti_affinity == demand.anti_affinity
            && self.distinct_hosts == demand.distinct_hosts
            && self.datacenters == demand.datacenters
            && self.constraints == demand.constraints
            && self.mounts == demand.mounts
            && self.ports == demand.ports
            && self.affinities == demand.affinities
            && self.spread == demand.spread
    }
}

/// The groups whose members count for a demand. A group without members counts for nobody, so demands that
/// are alike but for it share a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Company {
    pub(super) kin: Option<GroupId>,
    pub(super) image: Option<GroupId>,
}

impl Company {
    pub(crate) fn of(fleet: &Fleet, demand: &Demand<'_>) -> Self {
        let matters =
            demand.anti_affinity > 0 || demand.distinct_hosts || !demand.spread.is_empty();
        let present = |group: &GroupId| !fleet.groups().is_empty(*group);
        Self {
            kin: demand.kin.filter(|_| matters).filter(present),
            image: demand.image.filter(present),
        }
    }

    pub(crate) fn none() -> Self {
        Self { kin: None, image: None }
    }

    pub(crate) fn is_none(&self) -> bool {
        *self == Self::none()
    }

    /// Its groups with the places in which changes name them.
    pub(super) fn placed(self) -> [Option<(usize, GroupId)>; 2] {
        [self.kin.map(|kin| (KIN, kin)), self.image.map(|image| (IMAGE, image))]
    }

    pub(super) fn groups(self) -> impl Iterator<Item = GroupId> {
        self.kin.into_iter().chain(self.image)
    }
}

/// A number for a demand: equal for equal ones, and seldom for others.
pub(crate) fn hash(demand: &Demand<'_>, company: &Company) -> u64 {
    let mut hash = Hasher(0x9e37_79b9_7f4a_7c15);
    demand.amounts().into_iter().for_each(|amount| hash.word(amount));
    // Each is a hash already, of which a half will do.
    let group = |group: Option<GroupId>| group.map_or(0, |group| group.0.get() as u64);
    hash.word(group(company.kin));
    hash.word(group(company.image));
    hash.word(u64::from(demand.anti_affinity) << 1 | u64::from(demand.distinct_hosts));
    demand.datacenters.iter().for_each(|datacenter| hash.text(datacenter.as_str()));
    for Constraint { attribute, operator, values } in demand.constraints {
        hash.attribute(attribute);
        hash.text(operator.as_str());
        values.iter().for_each(|value| hash.text(value));
    }
    demand.mounts.iter().for_each(|mount| hash.text(&mount.target));
    demand.ports.iter().for_each(|port| hash.word(u64::from(port.host)));
    for affinity in demand.affinities {
        hash.attribute(&affinity.constraint.attribute);
        affinity.constraint.values.iter().for_each(|value| hash.text(value));
    }
    demand.spread.iter().for_each(|spread| hash.attribute(&spread.attribute));
    hash.0
}

struct Hasher(u64);

impl Hasher {
    fn word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        self.0 = mixed ^ mixed >> 29;
    }

    fn text(&mut self, text: &str) {
        text.bytes().for_each(|byte| self.word(u64::from(byte)));
        self.word(u64::MAX);
    }

    fn attribute(&mut self, attribute: &Attribute) {
        match attribute {
            Attribute::NodeName => self.word(1),
            Attribute::Datacenter => self.word(2),
            Attribute::Label(key) => self.text(key),
            Attribute::Machine(key) => {
                self.word(3);
                self.text(key);
            }
        }
    }
}
