//! What only a node's labels, attributes and place decide about a demand: constraints, mounts, affinities, and
//! the domains that its kind is spread over. Demands that differ in size alone share one profile, and it
//! holds until a node joins, leaves or says other things of itself.
//!
//! Conditions are tried once for each different value and not once for each node: a thousand nodes with the
//! same label cost one regular expression.

use std::collections::BTreeMap;
use std::sync::Arc;

use longshore_proto::constraint::{Attribute, Constraint, Matcher};
use longshore_proto::name::Datacenter;
use longshore_proto::spec::{Affinity, Mount, Spread};

use crate::cost::points::POINTS_MAX;
use crate::demand::Demand;
use crate::filter::{self, Verdict};
use crate::fleet::lanes::BLOCK;
use crate::fleet::{Fleet, Node};
use crate::index::tree::{NOWHERE, Shape, number};

/// So many nodes are few.
const FEW_MAX: usize = 256;

/// What a profile is of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProfileKey {
    datacenters: Vec<Datacenter>,
    constraints: Vec<Constraint>,
    mounts: Vec<Mount>,
    affinities: Vec<Affinity>,
    spread: Vec<Spread>,
}

impl ProfileKey {
    pub(crate) fn of(demand: &Demand<'_>) -> Self {
        Self {
            datacenters: demand.datacenters.to_vec(),
            constraints: demand.constraints.to_vec(),
            mounts: demand.mounts.to_vec(),
            affinities: demand.affinities.to_vec(),
            spread: demand.spread.to_vec(),
        }
    }
}

/// What only labels, attributes and places decide.
#[derive(Debug)]
pub(crate) struct Profile {
    generation: u64,
    /// By lane; empty when nothing stands in any node's way.
    verdicts: Vec<u8>,
    /// Which lanes nothing stands in the way of, as bits by block; empty likewise.
    allowed: Vec<u64>,
    /// Points against each node, by lane; empty when there are none.
    points: Vec<i16>,
    /// The least points against any node of each block; empty likewise.
    points_least: Vec<i16>,
    /// The least points against any node.
    least: i32,
    /// The lanes that nothing stands in the way of, where they are few of many.
    few: Option<Vec<u32>>,
    /// The texts of the constraints, for explanations.
    texts: Vec<Arc<str>>,
    /// How lanes are grouped into blocks, and blocks into domains.
    shape: Shape,
    /// The domain of each lane, [`NOWHERE`] for none; empty where there is but one.
    domain_of: Vec<u32>,
    /// For each domain, which value of each spread it stands for.
    domain_values: Vec<Vec<u32>>,
    /// How many values each spread has, with none as one of them.
    values: Vec<usize>,
}

impl Profile {
    pub(crate) fn of(fleet: &Fleet, demand: &Demand<'_>) -> Self {
        let (shape, domain_values, values) = if demand.spread.is_empty() {
            (Shape::plain(fleet.lanes().len() / BLOCK), vec![Vec::new()], Vec::new())
        } else {
            domains(fleet, demand.spread)
        };
        let verdicts = verdicts(fleet, demand);
        let blocks = verdicts.as_chunks::<BLOCK>().0;
        let points = points(fleet, demand.affinities);
        let least = |block: &[i16; BLOCK]| block.iter().copied().min().unwrap_or(0);
        let domain = |lane| shape.ordered_domain_of(lane).map_or(NOWHERE, number);
        Self {
            generation: fleet.generation(),
            allowed: blocks.iter().map(allowed).collect(),
            few: few(fleet, &verdicts),
            verdicts,
            least: points.iter().copied().min().map_or(0, i32::from),
            points_least: points.as_chunks::<BLOCK>().0.iter().map(least).collect(),
            points,
            domain_of: if shape.is_in_order() {
                Vec::new()
            } else {
                (0..fleet.lanes().len()).map(domain).collect()
            },
            texts: demand.constraints.iter().map(|one| Arc::from(one.to_string())).collect(),
            shape,
            domain_values,
            values,
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What the profile says of a node.
    pub(crate) fn verdict(&self, lane: usize) -> u8 {
        self.verdicts.get(lane).copied().unwrap_or(Verdict::FEASIBLE.0)
    }

    /// What it says of a block of nodes; `None` when nothing stands in any node's way.
    pub(crate) fn block_verdicts(&self, block: usize) -> Option<&[u8; BLOCK]> {
        self.verdicts.get(block * BLOCK..(block + 1) * BLOCK)?.as_array()
    }

    /// Which nodes of a block it lets through, as bits.
    pub(crate) fn allowed(&self, block: usize) -> u64 {
        self.allowed.get(block).copied().unwrap_or(u64::MAX)
    }

    /// The points against a node.
    pub(crate) fn points(&self, lane: usize) -> i32 {
        self.points.get(lane).copied().map_or(0, i32::from)
    }

    /// The least points against any node of a block.
    pub(crate) fn points_least(&self, block: usize) -> i32 {
        self.points_least.get(block).copied().map_or(0, i32::from)
    }

    /// The least points against any node at all.
    pub(crate) fn least_points(&self) -> i32 {
        self.least
    }

    /// Whether something stands in the way of some nodes.
    pub(crate) fn has_verdicts(&self) -> bool {
        !self.verdicts.is_empty()
    }

    /// The points against a node that nothing stands in the way of.
    pub(crate) fn points_if_allowed(&self, lane: usize) -> Option<i32> {
        (self.verdict(lane) == Verdict::FEASIBLE.0).then(|| self.points(lane))
    }

    /// All lanes that nothing stands in the way of, where they are few of many.
    pub(crate) fn few(&self) -> Option<&[u32]> {
        self.few.as_deref()
    }

    /// The domain that a lane is in, where tasks are spread.
    pub(crate) fn domain(&self, lane: usize) -> Option<usize> {
        self.domain_of.get(lane).filter(|domain| **domain != NOWHERE).map(|one| *one as usize)
    }

    pub(crate) fn has_points(&self) -> bool {
        !self.points.is_empty()
    }

    /// How many constraints there are.
    pub(crate) fn constraints(&self) -> usize {
        self.texts.len()
    }

    pub(crate) fn text(&self, constraint: usize) -> Arc<str> {
        self.texts.get(constraint).cloned().unwrap_or_else(|| Arc::from(""))
    }

    /// For each spread, how many values it has.
    pub(crate) fn values(&self) -> &[usize] {
        &self.values
    }

    /// Which value of each spread a domain stands for.
    pub(crate) fn domain_values(&self, domain: usize) -> &[u32] {
        &self.domain_values[domain]
    }

    pub(crate) fn domains(&self) -> usize {
        self.domain_values.len()
    }
}

fn allowed(verdicts: &[u8; BLOCK]) -> u64 {
    let feasible = Verdict::FEASIBLE.0;
    (0..BLOCK).fold(0, |bits, bit| bits | u64::from(verdicts[bit] == feasible) << bit)
}

/// The lanes of the nodes that nothing stands in the way of, if they are few of many.
fn few(fleet: &Fleet, verdicts: &[u8]) -> Option<Vec<u32>> {
    let allowed = verdicts.iter().zip(0..).filter(|(verdict, _)| **verdict == Verdict::FEASIBLE.0);
    // On a vacant lane nothing stands in the way of nobody.
    let nodes = allowed.map(|(_, lane)| lane).filter(|lane| fleet.at(*lane).is_some());
    let few: Vec<u32> = nodes.take(FEW_MAX + 1).collect();
    (!verdicts.is_empty() && few.len() <= FEW_MAX).then_some(few)
}

/// Answers for each different value once.
struct Remembered<'f, T> {
    answers: BTreeMap<Option<&'f str>, T>,
}

impl<'f, T: Copy> Remembered<'f, T> {
    fn new() -> Self {
        Self { answers: BTreeMap::new() }
    }

    fn get(&mut self, value: Option<&'f str>, answer: impl FnOnce(Option<&str>) -> T) -> T {
        *self.answers.entry(value).or_insert_with(|| answer(value))
    }
}

/// A condition in the form that is quick to ask. One that cannot be compiled, which validation has kept out,
/// holds nowhere.
fn compiled(constraint: &Constraint) -> impl Fn(Option<&str>) -> bool {
    let matcher: Option<Matcher> = constraint.compile().ok();
    move |value| matcher.as_ref().is_some_and(|matcher| matcher.holds(value))
}

fn verdicts(fleet: &Fleet, demand: &Demand<'_>) -> Vec<u8> {
    let Demand { datacenters, constraints, mounts, .. } = demand;
    if datacenters.is_empty() && constraints.is_empty() && mounts.is_empty() {
        return Vec::new();
    }
    let mut verdicts = vec![Verdict::FEASIBLE.0; fleet.lanes().len()];
    // The last filter first: what an earlier one says stands in the end.
    if !mounts.is_empty() {
        each(fleet, &mut verdicts, |node| filter::mounts(node, demand).map(Verdict::of));
    }
    for (index, constraint) in constraints.iter().enumerate().rev() {
        let holds = compiled(constraint);
        let mut known = Remembered::new();
        each(fleet, &mut verdicts, |node| {
            let value = node.attribute(&constraint.attribute);
            (!known.get(value, &holds)).then_some(Verdict::of_constraint(index))
        });
    }
    if !datacenters.is_empty() {
        each(fleet, &mut verdicts, |node| filter::datacenter(node, demand).map(Verdict::of));
    }
    verdicts
}

fn each<'f>(
    fleet: &'f Fleet,
    verdicts: &mut [u8],
    mut verdict: impl FnMut(&'f Node) -> Option<Verdict>,
) {
    for (entry, lane) in verdicts.iter_mut().zip(0..) {
        if let Some(verdict) = fleet.at(lane).and_then(&mut verdict) {
            *entry = verdict.0;
        }
    }
}

fn points(fleet: &Fleet, affinities: &[Affinity]) -> Vec<i16> {
    if affinities.is_empty() {
        return Vec::new();
    }
    let mut points = vec![0i32; fleet.lanes().len()];
    for affinity in affinities {
        let holds = compiled(&affinity.constraint);
        let mut known = Remembered::new();
        for (entry, lane) in points.iter_mut().zip(0..) {
            let Some(node) = fleet.at(lane) else { continue };
            let value = node.attribute(&affinity.constraint.attribute);
            if known.get(value, &holds) {
                *entry -= i32::from(affinity.weight);
            }
        }
    }
    let clamped =
        |points: i32| i16::try_from(points.clamp(-POINTS_MAX, POINTS_MAX)).unwrap_or_default();
    points.into_iter().map(clamped).collect()
}

/// The domains that a kind is spread over: nodes with the same values of every attribute.
fn domains(fleet: &Fleet, spread: &[Spread]) -> (Shape, Vec<Vec<u32>>, Vec<usize>) {
    let mut numbers: Vec<BTreeMap<Option<&str>, u32>> = vec![BTreeMap::new(); spread.len()];
    let mut lanes_of: BTreeMap<Vec<u32>, Vec<u32>> = BTreeMap::new();
    for lane in (0..fleet.lanes().len()).zip(0..).map(|(_, lane)| lane) {
        let Some(node) = fleet.at(lane) else { continue };
        let values = spread.iter().zip(&mut numbers);
        let values: Vec<u32> =
            values.map(|(spread, numbers)| number_of(numbers, node, &spread.attribute)).collect();
        lanes_of.entry(values).or_default().push(lane);
    }
    let (domain_values, lanes): (Vec<_>, Vec<_>) = lanes_of.into_iter().unzip();
    let shape = Shape::of_domains(&lanes, fleet.lanes().len());
    (shape, domain_values, numbers.iter().map(BTreeMap::len).collect())
}

fn number_of<'f>(
    numbers: &mut BTreeMap<Option<&'f str>, u32>,
    node: &'f Node,
    attribute: &Attribute,
) -> u32 {
    let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
    *numbers.entry(node.attribute(attribute)).or_insert(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{demand, join_with, resources};

    #[test]
    fn few_nodes_are_few_however_many_lanes_are_vacant() {
        let mut fleet = Fleet::default();
        for class in 1..=8 {
            for node in 0..9 {
                let (named, third) = (format!("n{class}-{node}"), (node % 3).to_string());
                join_with(&mut fleet, &named, resources(class, 8), &[("third", &third)]);
            }
        }
        assert!(fleet.lanes().len() > fleet.len() + FEW_MAX, "each capacity has a block");
        let constraints = ["label.third = 0".parse().unwrap()];
        let bound = Demand { constraints: &constraints, ..demand(1, 1) };
        let profile = Profile::of(&fleet, &bound);
        let few = profile.few().unwrap();
        assert_eq!(few.len(), 24);
        let meets = |lane: &u32| fleet.at(*lane).unwrap().labels["third"] == "0";
        assert!(few.iter().all(meets));
        assert_eq!(Profile::of(&fleet, &demand(1, 1)).few(), None, "nobody is left out");
    }
}
