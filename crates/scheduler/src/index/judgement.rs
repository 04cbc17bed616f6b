//! How each node stands to one demand: whether it can take the task and what is in the way, what it costs, and
//! which nodes of a block are best.
//!
//! | module | what lives there |
//! |---|---|
//! | [`company`] | where its own kind and its image are |
//! | [`count`] | how many nodes can take the task, and why the others cannot |
//! | [`rough`] | what a demand does to costs, in figures of half the size |

mod company;
mod count;
mod rough;

use std::sync::Arc;

use longshore_proto::spec::SchedulerKind;

use crate::cost::points::{self, IMAGE_POINTS};
use crate::cost::{Key, STALE_FACTOR, dot};
use crate::demand::{Amounts, DIMENSIONS, Dimension};
use crate::filter::{self, Reason, Verdict};
use crate::fleet::lanes::BLOCK;
use crate::index::Ground;
use crate::index::columns::{self, Figures, Lane64, Room, Summary};
use crate::index::kernel::{self, Factors};
use crate::index::profile::Profile;
use crate::index::subject::{Company, Owned};
use crate::index::tree::Best;
use rough::RoughFactors;

/// How each node stands to one demand.
#[derive(Debug)]
pub(crate) struct Judgement {
    pub(super) demand: Owned,
    /// What is wanted of each dimension, to be compared; what is not wanted is never lacking.
    wanted: [f64; DIMENSIONS],
    /// At least that, in figures of half the size.
    rough_wanted: Room,
    pub(super) company: Company,
    pub(super) profile: Arc<Profile>,
    /// By class of capacity.
    pub(super) factors: Vec<[f64; DIMENSIONS]>,
    /// Of which generation of the profile and of which base they are.
    factors_of: Option<(u64, u32)>,
    /// The same by the groups of the cells that were searched last, and by the kinds of nodes of the domains.
    pub(super) of_cells: RoughFactors,
    pub(super) of_domains: RoughFactors,
    pub(super) verdicts: Vec<u8>,
    /// Which nodes of each block can take the task, as bits: what is asked most lies closest together.
    feasible: Vec<u64>,
    /// How many nodes have each verdict.
    counts: Box<[u32; Verdict::COUNT]>,
    /// The same where they were counted and not judged, and whether they were: see [`Self::count`].
    counted: Option<Box<[u32; Verdict::COUNT]>>,
    is_counted: bool,
    /// How many lanes were counted, with nodes and without.
    lanes: usize,
    /// Which nodes have members of the company, as bits.
    pub(super) members: Vec<u64>,
    /// How many of its kind each node has ([`MANY`] for as many or more), and whether it has the image ([`IMAGE`]):
    /// counts by node are asked for at each change. Empty like `members`.
    company_at: Vec<u8>,
    /// How many of its kind each value of each spread has.
    spread_counts: Vec<Vec<i64>>,
    /// The points against each domain that follow from it; empty where nothing is spread.
    domain_points: Vec<i32>,
    /// The same of the domains with a node that can take the task, close together to be compared; infinite for others.
    crowding: Vec<f64>,
    /// The least of them.
    crowding_least: i32,
    /// How many nodes of each domain can take the task; empty where lanes lie in their own order.
    domain_feasible: Vec<u32>,
}

/// So many of its kind, or more: the fleet knows how many.
const MANY: u8 = 0x7f;
/// The bit that says that a node has the image.
const IMAGE: u8 = 0x80;

impl Judgement {
    /// A judgement of nothing yet, in the memory of one that is not needed any more.
    pub(super) fn new(
        demand: Owned,
        company: Company,
        profile: Arc<Profile>,
        reused: Option<Self>,
    ) -> Self {
        let wanted = wanted(&demand.amounts);
        let new = Self {
            demand,
            wanted,
            rough_wanted: wanted.map(|wanted| -columns::rounded_down(-wanted)),
            company,
            profile,
            factors: Vec::new(),
            factors_of: None,
            of_cells: RoughFactors::default(),
            of_domains: RoughFactors::default(),
            verdicts: Vec::new(),
            feasible: Vec::new(),
            counts: Box::new([0; Verdict::COUNT]),
            counted: None,
            is_counted: false,
            lanes: 0,
            members: Vec::new(),
            company_at: Vec::new(),
            spread_counts: Vec::new(),
            domain_points: Vec::new(),
            crowding: Vec::new(),
            crowding_least: 0,
            domain_feasible: Vec::new(),
        };
        let Some(Self { verdicts, feasible, counts, .. }) = reused else { return new };
        Self { verdicts, feasible, counts, ..new }
    }

    /// Takes over what another knows, of the same demand without company.
    pub(super) fn copy(&mut self, parent: &Self) {
        self.factors.clone_from(&parent.factors);
        (self.factors_of, self.lanes) = (parent.factors_of, parent.lanes);
        self.verdicts.clone_from(&parent.verdicts);
        self.feasible.clone_from(&parent.feasible);
        self.counts.clone_from(&parent.counts);
        self.domain_feasible.clone_from(&parent.domain_feasible);
    }

    pub(super) fn bytes(&self) -> usize {
        self.verdicts.len()
            + self.feasible.len() * 8
            + size_of_val(&*self.counts)
            + self.members.len() * 8
            + self.company_at.len()
    }

    /// Finds out what the demand does to costs, where that is not known yet.
    pub(super) fn fit_factors(&mut self, ground: &Ground<'_>) {
        let of = Some((self.profile.generation(), ground.fleet.base_log2()));
        if self.factors_of == of {
            return;
        }
        self.factors_of = of;
        self.factors = columns::factors(ground.fleet, ground.model, &self.demand.amounts);
        self.of_cells.forget();
        self.of_domains.forget();
    }

    /// Whether blocks are scanned side by side, so that all of them are soon looked at.
    pub(super) fn is_fast(&self, kind: SchedulerKind) -> bool {
        kind != SchedulerKind::EpvmGuard && self.profile.shape().is_in_order()
    }

    /// Whether nothing but costs and room tells nodes apart that can take the task.
    pub(super) fn is_plain(&self, ground: &Ground<'_>) -> bool {
        ground.popular.is_none() && !self.looks_at_company() && !ground.fleet.has_stale()
    }

    /// What a node costs that was and is feasible, where nothing but costs and room counts, with the weight of its
    /// points.
    pub(super) fn cost_if_feasible(
        &self,
        ground: &Ground<'_>,
        lane: usize,
        node: &Figures,
    ) -> Option<(f64, f64)> {
        let is_feasible = self.is_feasible_at(lane)
            && node.standing == Verdict::FEASIBLE
            && self.has_room_at(node);
        is_feasible.then(|| {
            let cost = dot(&node.live, &self.factors[node.class as usize]);
            if self.profile.has_points() || self.company_at.get(lane).is_some_and(|has| *has > 0) {
                let weight = ground.weights.of(self.points(ground, lane));
                (cost * weight, weight)
            } else {
                (cost, 1.0)
            }
        })
    }

    /// Whether blocks are as lanes lie and no labels tell nodes apart that can take the task.
    pub(super) fn is_bare(&self) -> bool {
        self.profile.shape().is_in_order() && !self.profile.has_points()
    }

    /// What a node costs that was and is feasible and has no company, where [`Self::is_bare`]; else infinite.
    #[inline]
    pub(super) fn bare_cost(&self, lane: usize, node: &Figures) -> f64 {
        let has_company = self.company_at.get(lane).is_some_and(|has| *has > 0);
        let has_room = self.has_room_at(node);
        let is_open = node.standing == Verdict::FEASIBLE;
        if has_room & is_open & !has_company && self.is_feasible_at(lane) {
            dot(&node.live, &self.factors[node.class as usize])
        } else {
            f64::INFINITY
        }
    }

    /// Whether a node was and is refused by what it says of itself.
    pub(super) fn stays_refused(&self, lane: u32, node: &Figures) -> bool {
        let stated = self.profile.verdict(lane as usize);
        stated != Verdict::FEASIBLE.0
            && node.standing == Verdict::FEASIBLE
            && self.verdicts[lane as usize] == stated
    }

    /// Judges one node again, and notes it; whether it can take the task.
    pub(super) fn judge_again(&mut self, ground: &Ground<'_>, lane: usize, node: &Figures) -> bool {
        let verdict = self.judge(ground, lane, node);
        let feasible = verdict == Verdict::FEASIBLE;
        let word = &mut self.feasible[lane / BLOCK];
        let was_feasible = *word >> (lane % BLOCK) & 1 == 1;
        if !feasible || !was_feasible {
            *word = *word & !(1 << (lane % BLOCK)) | u64::from(feasible) << (lane % BLOCK);
            let was = std::mem::replace(&mut self.verdicts[lane], verdict.0);
            self.counts[usize::from(was)] -= 1;
            self.counts[usize::from(verdict.0)] += 1;
        }
        if feasible != was_feasible
            && let Some(domain) = self.profile.shape().ordered_domain_of(lane)
        {
            let count = &mut self.domain_feasible[domain];
            *count = *count + u32::from(feasible) - u32::from(was_feasible);
            self.count_in(domain);
        }
        feasible
    }

    fn is_feasible_at(&self, lane: usize) -> bool {
        self.feasible[lane / BLOCK] >> (lane % BLOCK) & 1 == 1
    }

    /// Whether a node has enough of everything.
    #[inline]
    pub(super) fn has_room_at(&self, node: &Figures) -> bool {
        // Where there is plenty, as most often, this tells without what lies further away.
        (0..DIMENSIONS).fold(true, |all, r| all & (self.rough_wanted[r] <= node.room[r]))
            || (0..DIMENSIONS).fold(true, |all, r| all & (self.wanted[r] <= node.free[r]))
    }

    /// Whether every node of a block has enough of everything.
    fn has_room(&self, summary: &Summary) -> bool {
        let wanted = &self.demand.amounts;
        (0..DIMENSIONS).all(|r| wanted[r] as f64 <= summary.free_least[r].max(0.0))
    }

    /// Judges every node, and counts the verdicts; `then` hears of each block.
    pub(super) fn judge_all(&mut self, ground: &Ground<'_>, mut then: impl FnMut(&Self, usize)) {
        let blocks = ground.columns.len();
        self.verdicts.resize(blocks * BLOCK, 0);
        self.feasible.resize(blocks, 0);
        self.counts.fill(0);
        self.lanes = blocks * BLOCK;
        for at in 0..blocks {
            let mut verdicts = [Verdict::FEASIBLE.0; BLOCK];
            let feasible = self.judge_block(ground, at, &mut verdicts);
            self.feasible[at] = feasible;
            self.counts[usize::from(Verdict::FEASIBLE.0)] += feasible.count_ones();
            if feasible != u64::MAX {
                let others = verdicts.iter().filter(|verdict| **verdict != Verdict::FEASIBLE.0);
                others.for_each(|verdict| self.counts[usize::from(*verdict)] += 1);
            }
            self.verdicts[at * BLOCK..(at + 1) * BLOCK].copy_from_slice(&verdicts);
            then(self, at);
        }
        self.domain_feasible.clear();
        self.crowding.clear();
        let shape = self.profile.shape();
        if !shape.is_in_order() {
            self.domain_feasible.resize(self.profile.domains(), 0);
            for lane in 0..blocks * BLOCK {
                if self.is_feasible_at(lane)
                    && let Some(domain) = shape.ordered_domain_of(lane)
                {
                    self.domain_feasible[domain] += 1;
                }
            }
        }
    }

    /// Judges a block; gives those who can take the task, as bits.
    fn judge_block(&self, ground: &Ground<'_>, at: usize, verdicts: &mut [u8; BLOCK]) -> u64 {
        let summary = ground.columns.summary(at);
        let mut feasible = summary.open & self.profile.allowed(at);
        if feasible != u64::MAX {
            *verdicts = ground.columns.block(at).standing;
            if let Some(stated) = self.profile.block_verdicts(at) {
                for (verdict, stated) in verdicts.iter_mut().zip(stated) {
                    *verdict = if *verdict == 0 { *stated } else { *verdict };
                }
            }
        }
        if self.looks_at_company() {
            each_bit(feasible, |bit| {
                let verdict = self.judge_company(ground, at * BLOCK + bit);
                if verdict != Verdict::FEASIBLE {
                    verdicts[bit] = verdict.0;
                    feasible &= !(1 << bit);
                }
            });
        }
        if self.has_room(summary) {
            return feasible;
        }
        let block = ground.columns.block(at);
        let lacking = kernel::lacking(ground.level, block, &self.demand.amounts);
        for (r, lacking) in Dimension::ALL.into_iter().zip(lacking) {
            let lack = Verdict::of(filter::lack_of(r)).0;
            each_bit(feasible & lacking, |bit| verdicts[bit] = lack);
            feasible &= !lacking;
        }
        feasible
    }

    /// Judges one node, as [`filter::judge`] does.
    fn judge(&self, ground: &Ground<'_>, lane: usize, node: &Figures) -> Verdict {
        if node.standing != Verdict::FEASIBLE {
            return node.standing;
        }
        let stated = self.profile.verdict(lane);
        if stated != Verdict::FEASIBLE.0 {
            return Verdict(stated);
        }
        if self.looks_at_company() {
            let verdict = self.judge_company(ground, lane);
            if verdict != Verdict::FEASIBLE {
                return verdict;
            }
        }
        if self.has_room_at(node) {
            return Verdict::FEASIBLE;
        }
        let lacks =
            |r: &Dimension| filter::lacks(node.free[*r as usize], self.demand.amounts[*r as usize]);
        let lacking = Dimension::ALL.into_iter().find(lacks);
        lacking.map_or(Verdict::FEASIBLE, |r| Verdict::of(filter::lack_of(r)))
    }

    /// Whether the tasks that are there may stand in the way.
    pub(super) fn looks_at_company(&self) -> bool {
        !self.demand.ports.is_empty() || self.demand.distinct_hosts
    }

    /// Judges by the tasks that are there: their kind and their ports.
    fn judge_company(&self, ground: &Ground<'_>, lane: usize) -> Verdict {
        if self.demand.distinct_hosts
            && self.company_at.get(lane).is_some_and(|has| has & !IMAGE > 0)
        {
            return Verdict::of(Reason::OwnKind);
        }
        if !self.demand.ports.is_empty()
            && let Some(node) = u32::try_from(lane).ok().and_then(|lane| ground.fleet.at(lane))
            && node.holds_any_port()
            && self.demand.ports.iter().any(|port| node.holds_port(port.host, port.protocol))
        {
            return Verdict::of(Reason::PortTaken);
        }
        Verdict::FEASIBLE
    }

    /// The points against a node, but for spread.
    pub(super) fn points(&self, ground: &Ground<'_>, lane: usize) -> i32 {
        let affinity = self.profile.points(lane);
        let company = self.company_at.get(lane).copied().unwrap_or(0);
        if company == 0 {
            return affinity;
        }
        let tasks = match (company & !IMAGE, self.company.kin) {
            (MANY, Some(kin)) => {
                let lane = u32::try_from(lane).unwrap_or(u32::MAX);
                ground.fleet.groups().count(kin, lane)
            }
            (count, _) => u32::from(count),
        };
        let kin = points::of_kin(self.demand.anti_affinity, tasks);
        points::sum(affinity, kin, company & IMAGE > 0)
    }

    /// The cost of a feasible node, with the weight of its points.
    pub(super) fn adjusted(&self, node: &Figures, weight: f64) -> f64 {
        let penalty = if node.is_stale { STALE_FACTOR } else { 1.0 };
        dot(&node.live, &self.factors[node.class as usize]) * penalty * weight
    }

    fn cost(&self, ground: &Ground<'_>, lane: usize, node: &Figures) -> f64 {
        self.adjusted(node, ground.weights.of(self.points(ground, lane)))
    }

    /// What decides first about a feasible node.
    pub(super) fn first(&self, ground: &Ground<'_>, lane: usize, node: &Figures) -> f64 {
        match ground.popular {
            Some(popular) => popular.lost_of(node.free, &self.demand.amounts),
            None => self.cost(ground, lane, node),
        }
    }

    /// Where a feasible node stands.
    pub(super) fn key(&self, ground: &Ground<'_>, lane: usize, node: &Figures) -> Key {
        // Counted once: it is what costs most where tasks of a kind keep apart.
        self.key_weighing(ground, lane, node, ground.weights.of(self.points(ground, lane)))
    }

    /// The same, with what points make of its cost.
    pub(super) fn key_weighing(
        &self,
        ground: &Ground<'_>,
        lane: usize,
        node: &Figures,
        weight: f64,
    ) -> Key {
        let cost = self.adjusted(node, weight);
        let (first, second) = match ground.popular {
            Some(popular) => (popular.lost_of(node.free, &self.demand.amounts), cost),
            None => (cost, self.committed(node) * weight),
        };
        Key { first, second, tie: node.tie, lane: u32::try_from(lane).unwrap_or(u32::MAX) }
    }

    /// The cost of a node if nothing were measured anywhere, without preferences.
    pub(super) fn committed(&self, node: &Figures) -> f64 {
        dot(&node.committed, &self.factors[node.class as usize])
    }

    /// The best feasible nodes of a block, of those with or without a fresh measurement. Which one is next is
    /// looked for only where that is asked.
    pub(super) fn scan(
        &self,
        ground: &Ground<'_>,
        block: usize,
        of_stale: bool,
        with_next: bool,
    ) -> Best {
        let shape = self.profile.shape();
        if let Some(lanes) = shape.lanes(block) {
            let lanes = lanes.iter().map(|lane| *lane as usize);
            return self.scan_lanes(ground, lanes, of_stale);
        }
        if ground.popular.is_some() {
            let feasible = self.feasible[block];
            let lanes = (0..BLOCK).filter(|bit| feasible >> bit & 1 == 1);
            return self.scan_lanes(ground, lanes.map(|bit| block * BLOCK + bit), of_stale);
        }
        let lanes = ground.fleet.lanes();
        if let Some(class) = lanes.block_class(block) {
            let factors = Factors::Alike(&self.factors[class]);
            return self.scan_alike(ground, block, factors, of_stale, with_next);
        }
        let mut each = [[0.0; BLOCK]; DIMENSIONS];
        for (bit, class) in lanes.classes(block).iter().enumerate() {
            // A vacant lane may bear a class that is gone.
            let factors = self.factors.get(*class as usize).copied().unwrap_or_default();
            for r in 0..DIMENSIONS {
                each[r][bit] = factors[r];
            }
        }
        self.scan_alike(ground, block, Factors::Each(&each), of_stale, with_next)
    }

    /// What a block's summary says of its best node: at least a bound on what it costs.
    pub(super) fn glance(&self, ground: &Ground<'_>, block: usize) -> Best {
        if self.feasible[block] == 0 {
            return Best::NONE;
        }
        let Some(class) = ground.fleet.lanes().block_class(block) else {
            return self.scan(ground, block, false, false);
        };
        // Rounded sums and products rise with what goes into them, so nobody's is below that of the least.
        let lowest = &ground.columns.summary(block).live_least;
        let cost = dot(lowest, &self.factors[class]);
        let image = if self.company.image.is_some() { IMAGE_POINTS } else { 0 };
        let points = self.profile.points_least(block) - image;
        Best::bounded(if points == 0 { cost } else { cost * ground.weights.of(points) })
    }

    /// Scans node by node.
    fn scan_lanes(
        &self,
        ground: &Ground<'_>,
        lanes: impl Iterator<Item = usize>,
        of_stale: bool,
    ) -> Best {
        let mut best = Best::NONE;
        for lane in lanes {
            let node = ground.columns.node(lane);
            let counts = self.is_feasible_at(lane) && node.is_stale == of_stale;
            // Who is behind the best two need not be looked at more closely.
            if !counts
                || ground.popular.is_none() && self.cost(ground, lane, node) > best.next.first
            {
                continue;
            }
            best.add(self.key(ground, lane, node));
        }
        best
    }

    /// Scans a block to which nothing applies but costs: all of them side by side.
    fn scan_alike(
        &self,
        ground: &Ground<'_>,
        at: usize,
        factors: Factors<'_>,
        of_stale: bool,
        with_next: bool,
    ) -> Best {
        let (block, summary) = (ground.columns.block(at), ground.columns.summary(at));
        let of_kind = if of_stale { summary.stale } else { !summary.stale };
        let feasible = self.feasible[at] & of_kind;
        if feasible == 0 {
            return Best::NONE;
        }
        let weights = self.weights(ground, at);
        let weights = weights.as_ref();
        let least = kernel::least_costs(ground.level, block, factors, weights, feasible, with_next);
        let penalty = if of_stale { STALE_FACTOR } else { 1.0 };
        let mut best = Best::NONE;
        if least.ties.count_ones() > 2 && least.ties & summary.measured == 0 && weights.is_none() {
            // On nodes alike, which are many where a fleet is new, only the fixed order tells.
            let ties = earliest_two(&block.tie, least.ties);
            ties.into_iter().for_each(|bit| {
                let (first, tie) = (least.least * penalty, block.tie[bit]);
                let lane = u32::try_from(at * BLOCK + bit).unwrap_or(u32::MAX);
                best.add(Key { first, second: least.least, tie, lane });
            });
            return best;
        }
        let mut add = |first: f64, ties: u64| {
            each_bit(ties, |bit| {
                let tie = block.tie[bit];
                // Where nothing more is measured than committed, both costs are the same sum.
                let second = if summary.measured >> bit & 1 == 0 {
                    first
                } else {
                    let committed = self.committed(ground.columns.node(at * BLOCK + bit));
                    weights.map_or(committed, |weights| committed * weights[bit])
                };
                let lane = u32::try_from(at * BLOCK + bit).unwrap_or(u32::MAX);
                best.add(Key { first: first * penalty, second, tie, lane });
            });
        };
        add(least.least, least.ties);
        if least.ties.count_ones() > 1 {
            return best;
        }
        if with_next {
            add(least.next, least.next_ties);
            return best;
        }
        Best::only(best.best)
    }

    /// What points make of the costs of a block; `None` where there are none.
    fn weights(&self, ground: &Ground<'_>, block: usize) -> Option<Lane64> {
        let members = self.members.get(block).copied().unwrap_or(0);
        let weighed = if self.profile.has_points() { u64::MAX } else { members };
        if weighed == 0 {
            return None;
        }
        let mut weights = [1.0; BLOCK];
        each_bit(weighed, |bit| {
            weights[bit] = ground.weights.of(self.points(ground, block * BLOCK + bit));
        });
        Some(weights)
    }

    /// Whether the node on a lane can take the task.
    pub(crate) fn is_feasible(&self, lane: u32) -> bool {
        let (block, bit) = (lane as usize / BLOCK, lane as usize % BLOCK);
        self.feasible.get(block).is_some_and(|word| word >> bit & 1 == 1)
    }

    /// The lanes of those who can.
    pub(super) fn feasible_lanes(&self) -> impl Iterator<Item = usize> {
        let lanes = |(block, bits): (usize, &u64)| {
            let bits = *bits;
            let lanes = (0..BLOCK).filter(move |bit| bits >> bit & 1 == 1);
            lanes.map(move |bit| block * BLOCK + bit)
        };
        self.feasible.iter().enumerate().flat_map(lanes)
    }
}

/// What is wanted, to be compared with what is free.
fn wanted(amounts: &Amounts) -> [f64; DIMENSIONS] {
    amounts.map(|amount| if amount == 0 { f64::NEG_INFINITY } else { amount as f64 })
}

/// The two whose place in the fixed order is earliest, of those whose bit is set; at least two are.
fn earliest_two(ties: &[u64; BLOCK], bits: u64) -> [usize; 2] {
    let (mut first, mut second) = ((u64::MAX, 0), (u64::MAX, 0));
    each_bit(bits, |bit| {
        let one = (ties[bit], bit);
        if one < first {
            second = std::mem::replace(&mut first, one);
        } else if one < second {
            second = one;
        }
    });
    [first.1, second.1]
}

/// Calls with the number of each bit that is set, the lowest first.
fn each_bit(mut bits: u64, mut act: impl FnMut(usize)) {
    while bits != 0 {
        act(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}
