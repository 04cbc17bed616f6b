//! Everything known about one demand: what stands in each node's way, how often, and which node is best.

use std::sync::Arc;

use longshore_proto::constraint::{Attribute, Constraint};
use longshore_proto::name::{Datacenter, NodeName};
use longshore_proto::spec::{Affinity, Mount, Port, Spread};

use crate::cost::points::{IMAGE_POINTS, POINTS_MAX};
use crate::cost::{self, Key, Rank, STALE_FACTOR, dot};
use crate::demand::{Amounts, DIMENSIONS, Demand, Dimension};
use crate::explain::{CostTerms, Rejected};
use crate::filter::{self, Reason, Verdict};
use crate::fleet::lanes::BLOCK;
use crate::fleet::{Change, Fleet, GroupId};
use crate::index::Ground;
use crate::index::columns::{self, Block};
use crate::index::kernel;
use crate::index::profile::Profile;
use crate::index::tree::Tree;

/// When more than this part of the lanes has changed, and more than a few, everything is looked at again.
const REBUILD_PART: usize = 8;
const REBUILD_MIN: usize = 256;
/// When more nodes have changed than this part of the blocks, blocks are scanned as a whole.
const CHANGES_PART: usize = 1000;

/// A demand that owns what a [`Demand`] borrows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Owned {
    amounts: Amounts,
    datacenters: Vec<Datacenter>,
    constraints: Vec<Constraint>,
    mounts: Vec<Mount>,
    ports: Vec<Port>,
    affinities: Vec<Affinity>,
    spread: Vec<Spread>,
    anti_affinity: u8,
    distinct_hosts: bool,
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

    fn is_of(&self, demand: &Demand<'_>) -> bool {
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
    kin: Option<GroupId>,
    image: Option<GroupId>,
}

impl Company {
    pub(crate) fn of(fleet: &Fleet, demand: &Demand<'_>) -> Self {
        let matters =
            demand.anti_affinity > 0 || demand.distinct_hosts || !demand.spread.is_empty();
        let present = |group: &GroupId| !fleet.groups().members(*group).is_empty();
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

    fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.kin.into_iter().chain(self.image)
    }
}

/// A number for a demand: equal for equal ones, and seldom for others.
pub(crate) fn hash(demand: &Demand<'_>, company: &Company) -> u64 {
    let mut hash = Hasher(0x9e37_79b9_7f4a_7c15);
    demand.amounts().into_iter().for_each(|amount| hash.word(amount));
    let group = |group: Option<GroupId>| group.map_or(0, |group| u64::from(group.0) + 1);
    hash.word(group(company.kin) << 32 | group(company.image));
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

/// Everything known about one demand.
#[derive(Debug)]
pub(crate) struct View {
    demand: Owned,
    company: Company,
    hash: u64,
    profile: Arc<Profile>,
    /// Whether everything must be looked at.
    unknown: bool,
    /// Whether so many nodes have changed that whole blocks are scanned instead of looking at each.
    by_block: bool,
    base_log2: u32,
    read: u64,
    used_at: u64,
    factors: Vec<[f64; DIMENSIONS]>,
    verdicts: Vec<u8>,
    /// Which nodes of each block can take the task, as bits: what is asked most lies closest together.
    feasible: Vec<u64>,
    /// How many nodes have each verdict.
    counts: Box<[u32; Verdict::COUNT]>,
    /// Which nodes have members of the company, as bits.
    members: Vec<u64>,
    /// How many of its kind each value of each spread has.
    spread_counts: Vec<Vec<i64>>,
    fresh: Tree,
    /// Nodes without a fresh measurement; empty while there are none.
    stale: Tree,
}

impl View {
    pub(crate) fn new(demand: Owned, company: Company, hash: u64, profile: Arc<Profile>) -> Self {
        Self {
            demand,
            company,
            hash,
            profile,
            unknown: true,
            by_block: false,
            base_log2: 0,
            read: 0,
            used_at: 0,
            factors: Vec::new(),
            verdicts: Vec::new(),
            feasible: Vec::new(),
            counts: Box::new([0; Verdict::COUNT]),
            members: Vec::new(),
            spread_counts: Vec::new(),
            fresh: Tree::default(),
            stale: Tree::default(),
        }
    }

    /// The view of the same demand in company, which differs at the nodes of its members alone.
    pub(crate) fn child(&self, demand: Owned, company: Company, hash: u64) -> Self {
        Self {
            demand,
            company,
            hash,
            profile: Arc::clone(&self.profile),
            unknown: self.unknown,
            by_block: false,
            base_log2: self.base_log2,
            read: self.read,
            used_at: self.used_at,
            factors: self.factors.clone(),
            verdicts: self.verdicts.clone(),
            feasible: self.feasible.clone(),
            counts: self.counts.clone(),
            members: Vec::new(),
            spread_counts: Vec::new(),
            fresh: self.fresh.clone(),
            stale: self.stale.clone(),
        }
    }

    pub(crate) fn is_of(&self, demand: &Demand<'_>, company: &Company) -> bool {
        self.company == *company && self.demand.is_of(demand)
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn used_at(&self) -> u64 {
        self.used_at
    }

    pub(crate) fn profile(&self) -> &Profile {
        &self.profile
    }

    pub(crate) fn set_profile(&mut self, profile: Arc<Profile>) {
        self.profile = profile;
        self.unknown = true;
    }

    pub(crate) fn bytes(&self) -> usize {
        let counts = size_of::<[u32; Verdict::COUNT]>();
        let trees = self.fresh.bytes() + self.stale.bytes();
        self.verdicts.len() + counts + trees + self.members.len() * 8
    }

    /// Looks at what has changed since the view was used last.
    pub(crate) fn catch_up(&mut self, ground: &Ground<'_>, clock: u64) {
        self.used_at = clock;
        let journal = ground.fleet.journal();
        let (read, end) = (self.read, journal.end());
        let lanes = ground.fleet.lanes().len();
        self.read = end;
        let behind = usize::try_from(end - read).unwrap_or(usize::MAX);
        let known = !self.unknown
            && self.base_log2 == ground.fleet.base_log2()
            && self.verdicts.len() == lanes
            && (self.stale.fits(self.profile.shape()) || !ground.fleet.has_stale())
            && behind < lanes / REBUILD_PART + REBUILD_MIN;
        self.by_block = behind > self.profile.shape().blocks() / CHANGES_PART;
        match journal.since(read).filter(|_| known) {
            Some(changes) => {
                if self.members.is_empty() && !self.company.is_none() {
                    // What its members did meanwhile is in the count of them that follows.
                    changes.for_each(|change| self.touch(ground, change.lane));
                    self.meet_company(ground);
                } else {
                    changes.for_each(|change| self.hear(ground, change));
                }
                self.mend(ground);
            }
            None => self.rebuild(ground),
        }
    }

    /// Notes where the company is, in a view that knew of none, and looks at its members again.
    fn meet_company(&mut self, ground: &Ground<'_>) {
        self.count_company(ground);
        let members: Vec<u32> = self
            .company
            .groups()
            .flat_map(|group| ground.fleet.groups().members(group).keys().copied())
            .collect();
        members.into_iter().for_each(|lane| self.touch(ground, lane));
    }

    fn count_company(&mut self, ground: &Ground<'_>) {
        let groups = ground.fleet.groups();
        self.members.clear();
        self.members.resize(ground.fleet.lanes().len() / BLOCK, 0);
        for group in self.company.groups() {
            for lane in groups.members(group).keys() {
                self.members[*lane as usize / BLOCK] |= 1 << (*lane as usize % BLOCK);
            }
        }
        let values = self.profile.values();
        self.spread_counts = values.iter().map(|values| vec![0; *values]).collect();
        if let Some(kin) = self.company.kin
            && !values.is_empty()
        {
            let members = groups.members(kin).iter();
            members.for_each(|(lane, count)| self.count_spread(*lane, i64::from(*count)));
        }
    }

    fn count_spread(&mut self, lane: u32, by: i64) {
        let shape = self.profile.shape();
        // Tasks on a node that is gone crowd nobody.
        let Some(block) = shape.block_of(lane as usize) else { return };
        let values = self.profile.domain_values(shape.domain_of(block));
        for (counts, value) in self.spread_counts.iter_mut().zip(values) {
            counts[*value as usize] += by;
        }
    }

    fn hear(&mut self, ground: &Ground<'_>, change: &Change) {
        if change.by != 0 && !self.company.is_none() {
            let concerns =
                |group: Option<GroupId>| group.is_some() && change.groups.contains(&group);
            if concerns(self.company.kin) && !self.spread_counts.is_empty() {
                self.count_spread(change.lane, i64::from(change.by));
            }
            if concerns(self.company.kin) || concerns(self.company.image) {
                let lane = change.lane as usize;
                let groups = ground.fleet.groups();
                let present =
                    self.company.groups().any(|group| groups.count(group, change.lane) > 0);
                let word = &mut self.members[lane / BLOCK];
                *word = *word & !(1 << (lane % BLOCK)) | u64::from(present) << (lane % BLOCK);
            }
        }
        self.touch(ground, change.lane);
    }

    /// Looks at one node again.
    fn touch(&mut self, ground: &Ground<'_>, lane: u32) {
        let at = lane as usize;
        let feasible = self.judge_again(ground, at);
        let shape = self.profile.shape();
        if self.by_block {
            self.fresh.doubt(shape, at);
            if self.stale.fits(shape) {
                self.stale.doubt(shape, at);
            }
            return;
        }
        if !ground.fleet.has_stale() && !self.stale.fits(shape) {
            let Some(block) = shape.block_of(at) else { return };
            let best = self.fresh.best_of(block);
            // Most nodes neither were the best of their block nor become it, and this tells at a glance.
            if best.lane != lane && (!feasible || self.first(ground, at) > best.first) {
                return;
            }
            let key = if feasible { self.key(ground, at) } else { Key::NONE };
            self.fresh.touch(shape, lane, key);
            return;
        }
        let key = if feasible { self.key(ground, at) } else { Key::NONE };
        let is_stale = is_stale(ground.columns.block(at / BLOCK), at % BLOCK);
        let (to_fresh, to_stale) = if is_stale { (Key::NONE, key) } else { (key, Key::NONE) };
        self.fresh.touch(shape, lane, to_fresh);
        self.stale.touch(shape, lane, to_stale);
    }

    /// Judges one node again, and notes it; whether it can take the task.
    fn judge_again(&mut self, ground: &Ground<'_>, lane: usize) -> bool {
        let (at, bit) = (lane / BLOCK, lane % BLOCK);
        let known = self.feasible[at] >> bit & 1 == 1;
        let block = ground.columns.block(at);
        let open = block.open & self.profile.allowed(at);
        if known && open >> bit & 1 == 1 && !self.looks_at_company() && self.has_room(block) {
            return true;
        }
        let verdict = self.judge(ground, lane);
        let feasible = verdict == Verdict::FEASIBLE;
        if !feasible || !known {
            let word = &mut self.feasible[at];
            *word = *word & !(1 << bit) | u64::from(feasible) << bit;
            let was = std::mem::replace(&mut self.verdicts[lane], verdict.0);
            self.counts[usize::from(was)] -= 1;
            self.counts[usize::from(verdict.0)] += 1;
        }
        feasible
    }

    /// Whether every node of a block has enough of everything.
    fn has_room(&self, block: &Block) -> bool {
        let wanted = &self.demand.amounts;
        (0..DIMENSIONS).all(|r| wanted[r] as f64 <= block.free_least[r].max(0.0))
    }

    fn mend(&mut self, ground: &Ground<'_>) {
        let profile = Arc::clone(&self.profile);
        for is_stale in [false, true] {
            let mut tree = std::mem::take(if is_stale { &mut self.stale } else { &mut self.fresh });
            if tree.fits(profile.shape()) {
                tree.mend(profile.shape(), |block| self.scan(ground, block, is_stale, None));
            }
            *(if is_stale { &mut self.stale } else { &mut self.fresh }) = tree;
        }
    }

    /// Looks at everything.
    fn rebuild(&mut self, ground: &Ground<'_>) {
        self.unknown = false;
        self.base_log2 = ground.fleet.base_log2();
        self.factors = columns::factors(ground.fleet, ground.model, &self.demand.amounts);
        self.members.clear();
        self.spread_counts.clear();
        if !self.company.is_none() {
            self.count_company(ground);
        }
        let profile = Arc::clone(&self.profile);
        let shape = profile.shape();
        let (mut fresh, mut stale) = (std::mem::take(&mut self.fresh), Tree::default());
        fresh.clear(shape);
        if ground.fleet.has_stale() {
            stale.clear(shape);
        }
        // Where blocks are scanned in the order in which they lie, each is judged just before it is scanned.
        let in_order = shape.is_in_order();
        self.judge_all(ground, |view, block| {
            if in_order {
                fresh.fill(block, view.scan(ground, block, false, None));
            }
        });
        if !in_order {
            for block in 0..shape.blocks() {
                fresh.fill(block, self.scan(ground, block, false, None));
            }
        }
        fresh.finish(shape);
        if ground.fleet.has_stale() {
            for block in 0..shape.blocks() {
                stale.fill(block, self.scan(ground, block, true, None));
            }
            stale.finish(shape);
        }
        (self.fresh, self.stale) = (fresh, stale);
    }

    /// Judges every node, and counts the verdicts; `then` hears of each block.
    fn judge_all(&mut self, ground: &Ground<'_>, mut then: impl FnMut(&Self, usize)) {
        let blocks = ground.columns.len();
        self.verdicts.resize(blocks * BLOCK, 0);
        self.feasible.resize(blocks, 0);
        self.counts.fill(0);
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
    }

    /// Judges a block; gives those who can take the task, as bits.
    fn judge_block(&self, ground: &Ground<'_>, at: usize, verdicts: &mut [u8; BLOCK]) -> u64 {
        let block = ground.columns.block(at);
        let mut feasible = block.open & self.profile.allowed(at);
        if feasible != u64::MAX {
            *verdicts = block.standing;
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
        if self.has_room(block) {
            return feasible;
        }
        let lacking = kernel::lacking(ground.level, block, &self.demand.amounts);
        for (r, lacking) in Dimension::ALL.into_iter().zip(lacking) {
            let lack = Verdict::of(filter::lack_of(r)).0;
            each_bit(feasible & lacking, |bit| verdicts[bit] = lack);
            feasible &= !lacking;
        }
        feasible
    }

    /// Judges one node, as [`filter::judge`] does.
    fn judge(&self, ground: &Ground<'_>, lane: usize) -> Verdict {
        let block = ground.columns.block(lane / BLOCK);
        let bit = lane % BLOCK;
        let standing = block.standing[bit];
        if standing != 0 {
            return Verdict(standing);
        }
        let stated = self.profile.verdict(lane);
        if stated != 0 {
            return Verdict(stated);
        }
        if self.looks_at_company() {
            let verdict = self.judge_company(ground, lane);
            if verdict != Verdict::FEASIBLE {
                return verdict;
            }
        }
        for r in Dimension::ALL {
            if filter::lacks(block.free[r as usize][bit], self.demand.amounts[r as usize]) {
                return Verdict::of(filter::lack_of(r));
            }
        }
        Verdict::FEASIBLE
    }

    /// Whether the tasks that are there may stand in the way.
    fn looks_at_company(&self) -> bool {
        !self.demand.ports.is_empty() || self.demand.distinct_hosts
    }

    /// Judges by the tasks that are there: their kind and their ports.
    fn judge_company(&self, ground: &Ground<'_>, lane: usize) -> Verdict {
        if self.demand.distinct_hosts
            && self.is_member(lane)
            && let (Some(kin), Ok(lane)) = (self.company.kin, u32::try_from(lane))
            && ground.fleet.groups().count(kin, lane) > 0
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

    fn is_member(&self, lane: usize) -> bool {
        self.members.get(lane / BLOCK).is_some_and(|word| word >> (lane % BLOCK) & 1 == 1)
    }

    /// The points against a node, but for spread.
    fn points(&self, ground: &Ground<'_>, lane: usize) -> i32 {
        let mut points = self.profile.points(lane);
        if !self.members.is_empty() && self.is_member(lane) {
            let lane = u32::try_from(lane).unwrap_or(u32::MAX);
            let count = |group| {
                i32::try_from(ground.fleet.groups().count(group, lane)).unwrap_or(POINTS_MAX)
            };
            let kin = match self.company.kin {
                Some(kin) if self.demand.anti_affinity > 0 => {
                    i32::from(self.demand.anti_affinity).saturating_mul(count(kin))
                }
                _ => 0,
            };
            let image = self.company.image.is_some_and(|image| count(image) > 0);
            points += kin.min(POINTS_MAX) - if image { IMAGE_POINTS } else { 0 };
        }
        points.clamp(-POINTS_MAX, POINTS_MAX)
    }

    /// The cost of a feasible node.
    fn adjusted(&self, ground: &Ground<'_>, lane: usize) -> f64 {
        let (block, bit) = (ground.columns.block(lane / BLOCK), lane % BLOCK);
        let factors = &self.factors[ground.fleet.lanes().class(lane)];
        let live: [f64; DIMENSIONS] = std::array::from_fn(|r| block.live[r][bit]);
        let penalty = if is_stale(block, bit) { STALE_FACTOR } else { 1.0 };
        dot(&live, factors) * penalty * ground.weights.of(self.points(ground, lane))
    }

    /// What decides first about a feasible node.
    fn first(&self, ground: &Ground<'_>, lane: usize) -> f64 {
        match ground.popular {
            Some(popular) => {
                let (block, bit) = (ground.columns.block(lane / BLOCK), lane % BLOCK);
                let free = std::array::from_fn(|r| block.free[r][bit]);
                popular.lost_of(free, &self.demand.amounts)
            }
            None => self.adjusted(ground, lane),
        }
    }

    /// Where a feasible node stands.
    fn key(&self, ground: &Ground<'_>, lane: usize) -> Key {
        let first = self.first(ground, lane);
        let second = match ground.popular {
            Some(_) => self.adjusted(ground, lane),
            None => {
                let weight = ground.weights.of(self.points(ground, lane));
                self.committed(ground, lane) * weight
            }
        };
        let tie = ground.columns.block(lane / BLOCK).tie[lane % BLOCK];
        Key { first, second, tie, lane: u32::try_from(lane).unwrap_or(u32::MAX) }
    }

    /// The cost of a node if nothing were measured anywhere, without preferences.
    fn committed(&self, ground: &Ground<'_>, lane: usize) -> f64 {
        let (block, bit) = (ground.columns.block(lane / BLOCK), lane % BLOCK);
        let factors = &self.factors[ground.fleet.lanes().class(lane)];
        dot(&std::array::from_fn(|r| block.committed[r][bit]), factors)
    }

    /// The best feasible node of a block, of those with or without a fresh measurement.
    fn scan(&self, ground: &Ground<'_>, block: usize, is_stale: bool, but: Option<u32>) -> Key {
        let shape = self.profile.shape();
        if let Some(lanes) = shape.lanes(block) {
            let lanes = lanes.iter().map(|lane| *lane as usize);
            return self.scan_lanes(ground, lanes, is_stale, but);
        }
        let figures = ground.columns.block(block);
        let simple = ground.popular.is_none()
            && !self.profile.has_points()
            && self.members.get(block).is_none_or(|members| *members == 0);
        let alike = if is_stale { !figures.stale } else { figures.stale } == 0;
        match ground.fleet.lanes().block_class(block) {
            Some(class) if simple && alike => {
                self.scan_alike(ground, block, &self.factors[class], is_stale, but)
            }
            _ => {
                let feasible = self.feasible[block];
                let lanes = (0..BLOCK).filter(|bit| feasible >> bit & 1 == 1);
                self.scan_lanes(ground, lanes.map(|bit| block * BLOCK + bit), is_stale, but)
            }
        }
    }

    /// Scans node by node.
    fn scan_lanes(
        &self,
        ground: &Ground<'_>,
        lanes: impl Iterator<Item = usize>,
        of_stale: bool,
        but: Option<u32>,
    ) -> Key {
        let mut best = Key::NONE;
        for lane in lanes {
            let wanted = self.feasible[lane / BLOCK] >> (lane % BLOCK) & 1 == 1
                && is_stale(ground.columns.block(lane / BLOCK), lane % BLOCK) == of_stale
                && but.is_none_or(|but| but as usize != lane);
            if wanted {
                let key = self.key(ground, lane);
                if key.is_before(&best) {
                    best = key;
                }
            }
        }
        best
    }

    /// Scans a block of one class, to which nothing applies but costs: all of them side by side.
    fn scan_alike(
        &self,
        ground: &Ground<'_>,
        at: usize,
        factors: &[f64; DIMENSIONS],
        is_stale: bool,
        but: Option<u32>,
    ) -> Key {
        let block = ground.columns.block(at);
        let mut feasible = self.feasible[at];
        if let Some(but) = but.map(|lane| lane as usize).filter(|lane| lane / BLOCK == at) {
            feasible &= !(1 << (but % BLOCK));
        }
        if feasible == 0 {
            return Key::NONE;
        }
        let (least, ties) = kernel::least_cost(ground.level, block, factors, feasible);
        let penalty = if is_stale { STALE_FACTOR } else { 1.0 };
        let mut best = Key::NONE;
        each_bit(ties, |bit| {
            let lane = u32::try_from(at * BLOCK + bit).unwrap_or(u32::MAX);
            let second = dot(&std::array::from_fn(|r| block.committed[r][bit]), factors);
            let key = Key { first: least * penalty, second, tie: block.tie[bit], lane };
            if key.is_before(&best) {
                best = key;
            }
        });
        best
    }

    /// How many nodes can take the task.
    pub(crate) fn feasible(&self) -> u32 {
        self.counts[usize::from(Verdict::FEASIBLE.0)]
    }

    /// Whether the node on a lane can take the task.
    pub(crate) fn is_feasible(&self, lane: u32) -> bool {
        let (block, bit) = (lane as usize / BLOCK, lane as usize % BLOCK);
        self.feasible.get(block).is_some_and(|word| word >> bit & 1 == 1)
    }

    /// Why the others cannot.
    pub(crate) fn rejected(&self) -> Rejected {
        let mut rejected = Rejected::default();
        for (verdict, &count) in (0..=u8::MAX).zip(self.counts.iter()) {
            if count > 0 {
                rejected.add(Verdict(verdict), count, |index| self.profile.text(index));
            }
        }
        rejected
    }

    /// The points against each domain.
    fn domain_points(&self, domain: usize) -> i32 {
        if self.spread_counts.is_empty() {
            return 0;
        }
        let values = self.profile.domain_values(domain);
        let each = self.demand.spread.iter().zip(&self.spread_counts).zip(values);
        let points: i64 = each
            .map(|((spread, counts), value)| i64::from(spread.weight) * counts[*value as usize])
            .sum();
        i32::try_from(points).unwrap_or(i32::MAX - POINTS_MAX)
    }

    /// Stage 3: the best node, and the one that would have been next where that is asked for.
    pub(crate) fn pick(&self, ground: &Ground<'_>, but: Option<u32>) -> Option<Pick> {
        let shape = self.profile.shape();
        let without = but.and_then(|lane| {
            let block = shape.block_of(lane as usize)?;
            Some((shape.domain_of(block), block, lane))
        });
        let key = |tree: &Tree, is_stale: bool, domain: usize| match without {
            Some((of, block, lane)) if of == domain => {
                tree.domain_with(shape, block, self.scan(ground, block, is_stale, Some(lane)))
            }
            _ => tree.domains()[domain],
        };
        let has_stale = self.stale.fits(shape);
        let least = if self.spread_counts.is_empty() {
            0
        } else {
            // As if the excluded node were there: what is next is asked of the same state.
            let present = (0..self.profile.domains()).filter(|domain| {
                self.fresh.domains()[*domain].is_some()
                    || has_stale && self.stale.domains()[*domain].is_some()
            });
            present.map(|domain| self.domain_points(domain)).min().unwrap_or(0)
        };
        let best = |tree: &Tree, is_stale: bool| {
            let mut best: Option<(Rank, f64)> = None;
            for domain in 0..self.profile.domains() {
                let key = key(tree, is_stale, domain);
                if !key.is_some() {
                    continue;
                }
                let apart = ground.weights.of(self.domain_points(domain) - least);
                let rank = Rank::new(ground.kind, key, apart);
                if best.is_none_or(|(best, _)| rank.order(&best).is_lt()) {
                    best = Some((rank, apart));
                }
            }
            best.map(|(rank, apart)| Pick { lane: rank.key.lane, apart })
        };
        let fresh = best(&self.fresh, false);
        if !has_stale {
            return fresh;
        }
        match (fresh, best(&self.stale, true)) {
            (Some(fresh), Some(stale)) => {
                let lane = fresh.lane as usize;
                let weight = ground.weights.of(self.points(ground, lane));
                let standing = self.committed(ground, lane) * weight * fresh.apart;
                let cost = self.terms(ground, stale).total();
                Some(if cost < standing { stale } else { fresh })
            }
            (fresh, stale) => fresh.or(stale),
        }
    }

    /// What a picked node costs, by what it costs it for.
    pub(crate) fn terms(&self, ground: &Ground<'_>, pick: Pick) -> CostTerms {
        let lane = pick.lane as usize;
        let (block, bit) = (ground.columns.block(lane / BLOCK), lane % BLOCK);
        let live = std::array::from_fn(|r| block.live[r][bit]);
        let factors = &self.factors[ground.fleet.lanes().class(lane)];
        let weight = ground.weights.of(self.points(ground, lane));
        cost::terms(&live, factors, !is_stale(block, bit), weight * pick.apart)
    }
}

/// A node that was picked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pick {
    pub(crate) lane: u32,
    /// What its cost is multiplied by for the domain that it is in.
    apart: f64,
}

impl Pick {
    pub(crate) fn name<'f>(&self, fleet: &'f Fleet) -> Option<&'f NodeName> {
        fleet.at(self.lane).map(|node| &node.name)
    }
}

fn is_stale(block: &Block, bit: usize) -> bool {
    block.stale >> bit & 1 == 1
}

/// Calls with the number of each bit that is set, the lowest first.
fn each_bit(mut bits: u64, mut act: impl FnMut(usize)) {
    while bits != 0 {
        act(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}
