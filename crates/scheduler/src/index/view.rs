//! Everything known about one demand: how each node stands to it, and which is best.

mod search;

use std::sync::Arc;

use longshore_proto::name::NodeName;
use longshore_proto::spec::SchedulerKind;

use crate::cost::{self, Key, Rank};
use crate::demand::{DIMENSIONS, Demand};
use crate::explain::{CostTerms, Rejected};
use crate::fleet::Fleet;
use crate::fleet::KIN;
use crate::fleet::lanes::BLOCK;
use crate::index::Ground;
use crate::index::judgement::Judgement;
use crate::index::pools::Pooled;
use crate::index::profile::Profile;
use crate::index::subject::{Company, Owned};
use crate::index::tree::{self, Tree};
use search::Found;
pub(crate) use search::Notes;

/// When more nodes have changed than so many for each block, all blocks are scanned instead of looking at each
/// change: that is what a block costs where its nodes are computed side by side, and where one by one.
const CHANGES_PER_BLOCK: usize = 4;
const CHANGES_PER_SLOW_BLOCK: usize = 48;

/// A view so little behind is sooner brought up to date than the best node is searched for.
const BEHIND_MIN: u64 = 8;
/// After a search that gave up, a view is used so often before the next one.
const PATIENCE: u8 = 16;

/// How a view comes to know what has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// Nothing that it knows holds.
    Anew,
    /// So much has changed that all blocks are sooner looked at.
    LookAtAll,
    LookAtChanges,
}

/// Everything known about one demand.
#[derive(Debug)]
pub(crate) struct View {
    hash: u64,
    /// Whether everything must be looked at.
    unknown: bool,
    base_log2: u32,
    /// Up to where the fleet's journal was read.
    read: u64,
    /// Up to where it was read for where the company is, if that is known, and for how many of its kind each domain has.
    heard: Option<u64>,
    heard_spread: Option<u64>,
    /// Whether it is known of the members of the company how they stand.
    knows_company: bool,
    /// Whether some node had no fresh measurement then.
    had_stale: bool,
    /// What was found by a search, which leaves all else as it was.
    found: Option<Found>,
    /// How often it is used before the next search.
    patience: u8,
    nodes: Judgement,
    fresh: Tree,
    /// Nodes without a fresh measurement; empty while there are none.
    stale: Tree,
}

impl View {
    /// A view that knows nothing yet, in the memory of one that is not needed any more.
    pub(crate) fn new(
        demand: Owned,
        company: Company,
        hash: u64,
        profile: Arc<Profile>,
        reused: Option<Self>,
    ) -> Self {
        let (nodes, fresh) = reused.map(|Self { nodes, fresh, .. }| (nodes, fresh)).unzip();
        Self {
            hash,
            unknown: true,
            base_log2: 0,
            read: 0,
            heard: None,
            heard_spread: None,
            knows_company: false,
            found: None,
            patience: 0,
            had_stale: false,
            nodes: Judgement::new(demand, company, profile, nodes),
            fresh: fresh.unwrap_or_default(),
            stale: Tree::default(),
        }
    }

    /// Takes over what another view knows, of the same demand without company: only the nodes of the members
    /// differ.
    pub(crate) fn know_what(&mut self, parent: &Self) {
        if parent.unknown || parent.profile().generation() != self.profile().generation() {
            return;
        }
        self.unknown = parent.unknown;
        self.base_log2 = parent.base_log2;
        self.read = parent.read;
        self.had_stale = parent.had_stale;
        self.nodes.copy(&parent.nodes);
        self.fresh.copy(&parent.fresh);
        self.stale.copy(&parent.stale);
    }

    pub(crate) fn is_of(&self, demand: &Demand<'_>, company: &Company) -> bool {
        self.nodes.company == *company && self.nodes.demand.is_of(demand)
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn profile(&self) -> &Arc<Profile> {
        &self.nodes.profile
    }

    pub(crate) fn set_profile(&mut self, profile: Arc<Profile>) {
        self.nodes.profile = profile;
        self.nodes.forget_company();
        (self.unknown, self.heard, self.heard_spread) = (true, None, None);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.nodes.bytes() + self.fresh.bytes() + self.stale.bytes()
    }

    /// How to come to know what has changed since the view was used last.
    pub(crate) fn path(&self, fleet: &Fleet, kind: SchedulerKind) -> Path {
        let known = !self.unknown
            && self.base_log2 == fleet.base_log2()
            && self.nodes.verdicts.len() == fleet.lanes().len()
            && (self.stale.fits(self.profile().shape()) || !fleet.has_stale());
        let is_remembered = fleet.journal().lanes_since(self.read).is_some();
        let behind = usize::try_from(fleet.journal().end() - self.read).unwrap_or(usize::MAX);
        if !known || !is_remembered {
            Path::Anew
        } else if behind > self.changes_max(kind) {
            Path::LookAtAll
        } else {
            Path::LookAtChanges
        }
    }

    /// Whether a search is tried before the view is brought up to date.
    pub(crate) fn is_sooner_searched(&mut self, ground: &Ground<'_>, path: Path) -> bool {
        let behind = ground.fleet.journal().end() - self.read;
        let is_behind = path != Path::LookAtChanges || behind > BEHIND_MIN;
        let is_patient = self.patience > 0;
        self.patience = self.patience.saturating_sub(1);
        is_behind && !is_patient && self.is_searchable(ground)
    }

    /// Finds the best node without bringing the view up to date. For a reason it takes the next one too, and `lacking`:
    /// how many nodes lack what is wanted. False where it is not to be had.
    pub(crate) fn find(
        &mut self,
        ground: &Ground<'_>,
        pooled: Pooled<'_>,
        notes: &mut Notes,
        lacking: Option<[u32; DIMENSIONS]>,
    ) -> bool {
        if let Some(lacking) = lacking {
            self.nodes.count(ground, lacking);
        }
        self.found = self.search(ground, pooled, notes, lacking.is_some());
        if self.found.is_none() {
            self.patience = PATIENCE;
        }
        self.found.is_some()
    }

    /// Looks at what has changed since the view was used last.
    pub(crate) fn catch_up(&mut self, ground: &Ground<'_>, path: Path) {
        self.found = None;
        self.nodes.take_back_count();
        let journal = ground.fleet.journal();
        let read = std::mem::replace(&mut self.read, journal.end());
        let had_stale = std::mem::replace(&mut self.had_stale, ground.fleet.has_stale());
        let Some(lanes) = journal.lanes_since(read).filter(|_| path != Path::Anew) else {
            return self.rebuild(ground);
        };
        self.hear(ground);
        if path == Path::LookAtAll {
            return self.look_at_all(ground);
        }
        // Who was not measured and is now must leave those who are not, wherever it stands among the others.
        let is_plain = !had_stale && self.nodes.is_plain(ground);
        let is_bare = is_plain && self.nodes.is_bare();
        lanes.for_each(|lane| self.look_again(ground, lane, is_plain, is_bare));
        if !self.knows_company {
            self.meet_company(ground);
        }
    }

    /// Hears where the company has come and gone.
    fn hear(&mut self, ground: &Ground<'_>) {
        self.hear_spread(ground);
        if self.nodes.company.is_none() {
            return;
        }
        let journal = ground.fleet.journal();
        let heard = self.heard.replace(journal.end());
        let nodes = &mut self.nodes;
        let is_known = heard.is_some_and(|heard| {
            nodes.company.placed().into_iter().flatten().all(|one| {
                journal.each_since_of(heard, one, |lane, _| nodes.count_company_at(ground, lane))
            })
        });
        if !is_known {
            self.nodes.count_company(ground);
        }
    }

    /// Hears how many of its kind each domain has: all that a search need know of its company.
    fn hear_spread(&mut self, ground: &Ground<'_>) {
        let Some(kin) = self.nodes.company.kin.filter(|_| !self.nodes.demand.spread.is_empty())
        else {
            return;
        };
        let journal = ground.fleet.journal();
        let heard = self.heard_spread.replace(journal.end());
        let nodes = &mut self.nodes;
        let is_known = heard.is_some_and(|heard| {
            journal.each_since_of(heard, (KIN, kin), |lane, by| nodes.add_to_spread(lane, by))
        });
        if !is_known {
            self.nodes.count_spread(ground, kin);
        }
    }

    /// Looks at one node again, no more closely than need be.
    #[inline]
    fn look_again(&mut self, ground: &Ground<'_>, lane: u32, is_plain: bool, is_bare: bool) {
        if is_bare && self.stays_behind(ground, lane) {
            return;
        }
        if !is_plain || !self.touch_plain(ground, lane) {
            self.touch(ground, lane);
        }
    }

    /// Whether a node could and can take the task, and stays behind the best two of its block, where nothing but costs
    /// and room counts: so it is with most, and everything here is at hand.
    #[inline]
    fn stays_behind(&self, ground: &Ground<'_>, lane: u32) -> bool {
        let at = lane as usize;
        let known = self.fresh.glance(at / BLOCK);
        let cost = self.nodes.bare_cost(at, ground.columns.node(at));
        (cost > known.next_first)
            & (cost < f64::INFINITY)
            & (lane != known.best)
            & (lane != known.next)
    }

    /// From how many changes on it is sooner done to look at everything.
    fn changes_max(&self, kind: SchedulerKind) -> usize {
        let is_fast = self.nodes.is_fast(kind);
        self.profile().shape().blocks()
            * if is_fast { CHANGES_PER_BLOCK } else { CHANGES_PER_SLOW_BLOCK }
    }

    /// Looks at the members of the company again, in a view that knew of none.
    fn meet_company(&mut self, ground: &Ground<'_>) {
        self.knows_company = true;
        for group in self.nodes.company.groups() {
            for (lane, _) in ground.fleet.groups().members(group) {
                self.touch(ground, lane);
            }
        }
    }

    /// Looks at one node again that could and can take the task, where nothing but costs and room counts. Most stay
    /// behind the best two of their block, and this tells at a glance. False when it needs a closer look.
    fn touch_plain(&mut self, ground: &Ground<'_>, lane: u32) -> bool {
        let Self { nodes, fresh, .. } = self;
        let (at, shape) = (lane as usize, nodes.profile.shape());
        let node = ground.columns.node(at);
        let Some(block) = shape.block_of(at) else { return false };
        let Some((first, weight)) = nodes.cost_if_feasible(ground, at, node) else { return false };
        let known = fresh.glance(block);
        if lane == known.best || lane == known.next || first <= known.next_first {
            let second = nodes.committed(node) * weight;
            fresh.touch_in(shape, block, lane, Key { first, second, tie: node.tie, lane });
        }
        true
    }

    /// Looks at one node again.
    fn touch(&mut self, ground: &Ground<'_>, lane: u32) {
        let at = lane as usize;
        let node = ground.columns.node(at);
        if self.nodes.stays_refused(lane, node) {
            return;
        }
        let feasible = self.nodes.judge_again(ground, at, node);
        let shape = self.nodes.profile.shape();
        if !self.stale.fits(shape) {
            let Some(block) = shape.block_of(at) else { return };
            let known = self.fresh.glance(block);
            // Most nodes neither were among the first of their block nor are now, and this tells at a glance.
            if lane != known.best
                && lane != known.next
                && (!feasible || self.nodes.first(ground, at, node) > known.next_first)
            {
                return;
            }
            let key = if feasible { self.nodes.key(ground, at, node) } else { Key::NONE };
            self.fresh.touch(shape, lane, key);
            return;
        }
        let key = if feasible { self.nodes.key(ground, at, node) } else { Key::NONE };
        let (to_fresh, to_stale) = if node.is_stale { (Key::NONE, key) } else { (key, Key::NONE) };
        self.fresh.touch(shape, lane, to_fresh);
        self.stale.touch(shape, lane, to_stale);
    }

    /// Looks at everything, with nothing taken for known.
    fn rebuild(&mut self, ground: &Ground<'_>) {
        self.unknown = false;
        self.base_log2 = ground.fleet.base_log2();
        self.nodes.fit_factors(ground);
        self.hear(ground);
        self.look_at_all(ground);
    }

    /// Looks at every node.
    fn look_at_all(&mut self, ground: &Ground<'_>) {
        self.knows_company = true;
        let Self { nodes, fresh, stale, .. } = self;
        let profile = Arc::clone(&nodes.profile);
        let shape = profile.shape();
        fresh.clear(shape);
        // Where blocks are scanned in the order in which they lie, each is judged just before it is scanned.
        let in_order = shape.is_in_order();
        let is_fast = nodes.is_fast(ground.kind);
        nodes.judge_all(ground, |nodes, block| {
            if is_fast {
                fresh.fill(block, nodes.glance(ground, block));
            } else if in_order {
                fresh.fill(block, nodes.scan(ground, block, false, false));
            }
        });
        if is_fast {
            fresh.settle(|block| nodes.scan(ground, block, false, false));
        } else if !in_order {
            for block in 0..shape.blocks() {
                fresh.fill(block, nodes.scan(ground, block, false, false));
            }
        }
        fresh.finish(shape);
        if ground.fleet.has_stale() {
            stale.clear(shape);
            for block in 0..shape.blocks() {
                stale.fill(block, nodes.scan(ground, block, true, false));
            }
            stale.finish(shape);
        } else {
            *stale = Tree::default();
        }
    }

    /// How each node stands.
    pub(crate) fn nodes(&self) -> &Judgement {
        &self.nodes
    }

    /// How many nodes can take the task.
    pub(crate) fn feasible(&self) -> u32 {
        self.nodes.feasible()
    }

    /// Whether the node on a lane can take the task.
    pub(crate) fn is_feasible(&self, lane: u32) -> bool {
        self.nodes.is_feasible(lane)
    }

    /// Why the others cannot.
    pub(crate) fn rejected(&self) -> Rejected {
        self.nodes.rejected()
    }

    /// Stage 3: the best node.
    pub(crate) fn pick(&mut self, ground: &Ground<'_>) -> Option<Pick> {
        if let Some(found) = &self.found {
            return found.best;
        }
        let fresh = self.first(ground, false);
        let stale = self.has_stale().then(|| self.first(ground, true)).flatten();
        self.choose(ground, fresh, stale)
    }

    /// The node that would have been picked were it not for the best one.
    pub(crate) fn next(&mut self, ground: &Ground<'_>, best: &Pick) -> Option<Pick> {
        if let Some(found) = &self.found {
            return found.next;
        }
        let among_stale = ground.columns.node(best.lane as usize).is_stale;
        let of_kind = |view: &mut Self, of_stale| {
            if of_stale == among_stale {
                view.first_but(ground, of_stale, best.lane)
            } else {
                view.first(ground, of_stale)
            }
        };
        let fresh = of_kind(self, false);
        let stale = self.has_stale().then(|| of_kind(self, true)).flatten();
        self.choose(ground, fresh, stale)
    }

    fn has_stale(&self) -> bool {
        self.stale.fits(self.nodes.profile.shape())
    }

    /// Of the best measured node and the best of the others, the one that is picked.
    fn choose(
        &self,
        ground: &Ground<'_>,
        fresh: Option<Pick>,
        stale: Option<Pick>,
    ) -> Option<Pick> {
        let (Some(fresh), Some(stale)) = (fresh, stale) else { return fresh.or(stale) };
        let node = ground.columns.node(fresh.lane as usize);
        let standing = self.nodes.committed(node) * fresh.weight * fresh.apart;
        let cost = self.terms(ground, stale).total();
        Some(if cost < standing { stale } else { fresh })
    }

    /// The best of the nodes with or without a fresh measurement.
    fn first(&mut self, ground: &Ground<'_>, of_stale: bool) -> Option<Pick> {
        self.nodes.weigh_domains();
        let Self { nodes, fresh, stale, .. } = self;
        first_of(ground, nodes, if of_stale { stale } else { fresh }, of_stale, None)
    }

    /// The same but for the one that is the best. How crowded domains are is told by the best of all nodes.
    fn first_but(&mut self, ground: &Ground<'_>, of_stale: bool, best: u32) -> Option<Pick> {
        self.nodes.weigh_domains();
        let Self { nodes, fresh, stale, .. } = self;
        let shape = nodes.profile.shape();
        let block = shape.block_of(best as usize)?;
        let home = shape.domain_of(block);
        let tree = if of_stale { stale } else { fresh };
        let scan = |block| nodes.scan(ground, block, of_stale, true);
        let without = tree.domain_without(shape, block, scan);
        tree.with_domain(home, without, |tree| first_of(ground, nodes, tree, of_stale, Some(home)))
    }

    /// What a picked node costs, by what it costs it for.
    pub(crate) fn terms(&self, ground: &Ground<'_>, pick: Pick) -> CostTerms {
        let node = ground.columns.node(pick.lane as usize);
        let factors = &self.nodes.factors[node.class as usize];
        cost::terms(&node.live, factors, !node.is_stale, pick.weight * pick.apart)
    }
}

/// The best of a tree's domains; of one of them it may be known already.
fn first_of(
    ground: &Ground<'_>,
    nodes: &Judgement,
    tree: &mut Tree,
    of_stale: bool,
    known: Option<usize>,
) -> Option<Pick> {
    let shape = nodes.profile.shape();
    loop {
        let (domain, apart) = first_domain(ground, nodes, tree)?;
        let scan = |block| nodes.scan(ground, block, of_stale, true);
        if known == Some(domain) || tree.make_sure(shape, domain, scan) {
            let lane = tree.domain(domain).lane;
            let weight = ground.weights.of(nodes.points(ground, lane as usize));
            return Some(Pick { lane, apart, weight });
        }
    }
}

/// The domain whose best comes first as far as is known, and what its costs are multiplied by.
fn first_domain(ground: &Ground<'_>, nodes: &Judgement, tree: &Tree) -> Option<(usize, f64)> {
    let firsts = tree.domain_firsts();
    if let [first] = firsts {
        return (*first < f64::INFINITY).then(|| (0, nodes.apart(ground, 0)));
    }
    let (crowding, least) = (nodes.crowding(), nodes.crowding_least());
    // How many places are lost decides first for the guard, and being crowded changes nothing about that.
    let by_cost = ground.kind != SchedulerKind::EpvmGuard && nodes.is_crowded();
    let (bound, apart_min) = if by_cost {
        (tree::least_where(crowding, least, firsts), nodes.apart_min(ground))
    } else {
        (tree::least(firsts), 1.0)
    };
    let mut best: Option<(Rank, usize, f64)> = None;
    for (domain, first) in firsts.iter().enumerate() {
        let is_crowded = by_cost && crowding[domain] != least;
        // Being crowded makes nothing cheaper, so who is behind with the least of it is so.
        let at_least = if is_crowded { first * apart_min } else { *first };
        if at_least > bound || *first == f64::INFINITY {
            continue;
        }
        let apart = nodes.apart(ground, domain);
        let rank = Rank::new(ground.kind, *tree.domain(domain), apart);
        if best.is_none_or(|(best, ..)| rank.order(&best).is_lt()) {
            best = Some((rank, domain, apart));
        }
    }
    best.map(|(_, domain, apart)| (domain, apart))
}

/// A node that was picked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pick {
    pub(crate) lane: u32,
    /// What its cost is multiplied by for the domain that it is in.
    apart: f64,
    /// What it is multiplied by for the points against it.
    weight: f64,
}

impl Pick {
    pub(crate) fn name<'f>(&self, fleet: &'f Fleet) -> Option<&'f NodeName> {
        fleet.at(self.lane).map(|node| &node.name)
    }
}
