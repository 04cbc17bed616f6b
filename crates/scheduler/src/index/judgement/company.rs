//! Where a demand's company is, that is its own kind and its image: by node, and by the domains that its kind is spread
//! over, with what that makes of costs.

use crate::cost::points::{self, IMAGE_POINTS, POINTS_MAX};
use crate::fleet::GroupId;
use crate::fleet::lanes::BLOCK;
use crate::index::Ground;
use crate::index::judgement::{IMAGE, Judgement, MANY};
use crate::index::tree;

impl Judgement {
    /// Counts its company on every node.
    pub(crate) fn count_company(&mut self, ground: &Ground<'_>) {
        let groups = ground.fleet.groups();
        self.members.clear();
        self.members.resize(ground.fleet.lanes().len() / BLOCK, 0);
        self.company_at.clear();
        self.company_at.resize(ground.fleet.lanes().len(), 0);
        if let Some(kin) = self.company.kin {
            let members = groups.members(kin);
            members.for_each(|(lane, tasks)| self.company_at[lane as usize] = up_to_many(tasks));
        }
        if let Some(image) = self.company.image {
            let members = groups.members(image);
            members.for_each(|(lane, _)| self.company_at[lane as usize] |= IMAGE);
        }
        for group in self.company.groups() {
            for (lane, _) in groups.members(group) {
                self.members[lane as usize / BLOCK] |= 1 << (lane as usize % BLOCK);
            }
        }
    }

    /// Counts how many of its kind each domain has.
    pub(crate) fn count_spread(&mut self, ground: &Ground<'_>, kin: GroupId) {
        let values = self.profile.values();
        self.spread_counts = values.iter().map(|values| vec![0; *values]).collect();
        for (lane, count) in ground.fleet.groups().members(kin) {
            self.count_in_domain(lane, i64::from(count));
        }
        self.count_domains();
    }

    /// Takes its company for unknown.
    pub(crate) fn forget_company(&mut self) {
        self.members.clear();
        self.company_at.clear();
        self.spread_counts.clear();
        self.domain_points.clear();
        self.crowding.clear();
    }

    /// Counts tasks of its kind on a node; gives the domain that they crowd. On a node that is gone it is none.
    fn count_in_domain(&mut self, lane: u32, by: i64) -> Option<usize> {
        let domain = self.profile.domain(lane as usize)?;
        let values = self.profile.domain_values(domain);
        for (counts, value) in self.spread_counts.iter_mut().zip(values) {
            counts[*value as usize] += by;
        }
        Some(domain)
    }

    /// Counts tasks of its kind that came to a node.
    pub(crate) fn add_to_spread(&mut self, lane: u32, by: i32) {
        match self.count_in_domain(lane, i64::from(by)) {
            // Each domain is a value of its own.
            Some(domain) if self.spread_counts.len() == 1 => {
                self.domain_points[domain] = self.points_of_domain(domain);
                self.count_in(domain);
            }
            Some(_) => self.count_domains(),
            None => {}
        }
    }

    /// Counts its company on a node where that has changed.
    pub(crate) fn count_company_at(&mut self, ground: &Ground<'_>, lane: u32) {
        let groups = ground.fleet.groups();
        let count = |group: Option<GroupId>| group.map_or(0, |one| groups.count(one, lane));
        let image = if count(self.company.image) > 0 { IMAGE } else { 0 };
        let company = up_to_many(count(self.company.kin)) | image;
        let lane = lane as usize;
        self.company_at[lane] = company;
        let word = &mut self.members[lane / BLOCK];
        *word = *word & !(1 << (lane % BLOCK)) | u64::from(company > 0) << (lane % BLOCK);
    }

    /// What points make of a node's cost, as its company is now and not as it was heard of. `kin` is its own kind where
    /// that counts.
    pub(crate) fn weight_now(&self, ground: &Ground<'_>, lane: u32, kin: Option<GroupId>) -> f64 {
        let image = self.company.image;
        if kin.is_none() && image.is_none() && !self.profile.has_points() {
            return 1.0;
        }
        let count = |group: GroupId| ground.fleet.groups().count(group, lane);
        let kin = kin.map_or(0, |kin| points::of_kin(self.demand.anti_affinity, count(kin)));
        let has_image = image.is_some_and(|image| count(image) > 0);
        ground.weights.of(points::sum(self.profile.points(lane as usize), kin, has_image))
    }

    /// At least what points make of any node's cost: but for those that are told apart beforehand.
    pub(crate) fn weight_least(&self, ground: &Ground<'_>, tells_apart: bool) -> f64 {
        let image = if self.company.image.is_some() { IMAGE_POINTS } else { 0 };
        let labels = if tells_apart { 0 } else { self.profile.least_points() };
        ground.weights.of(labels - image)
    }

    /// The points against each domain; empty where none is crowded.
    pub(crate) fn domain_points(&self) -> &[i32] {
        &self.domain_points
    }

    /// Whether some domains may be more crowded than others.
    pub(crate) fn is_crowded(&self) -> bool {
        !self.domain_points.is_empty()
    }

    /// The points against each domain that has a node that can take the task; infinite for others.
    pub(crate) fn crowding(&self) -> &[f64] {
        &self.crowding
    }

    /// The least of them.
    pub(crate) fn crowding_least(&self) -> f64 {
        f64::from(self.crowding_least)
    }

    /// What costs in a domain are multiplied by for being more crowded than the least crowded one.
    pub(crate) fn apart(&self, ground: &Ground<'_>, domain: usize) -> f64 {
        let points = self.domain_points.get(domain);
        points.map_or(1.0, |points| ground.weights.of(points - self.crowding_least))
    }

    /// At least what costs are multiplied by in any domain that is more crowded than the least crowded one.
    pub(crate) fn apart_min(&self, ground: &Ground<'_>) -> f64 {
        let step = match self.demand.spread.as_slice() {
            // Each task of its kind counts for as much.
            [spread] => i32::from(spread.weight),
            _ => 1,
        };
        ground.weights.of(step.max(1))
    }

    /// Finds out how crowded the least crowded domain is.
    pub(crate) fn weigh_domains(&mut self) {
        if self.crowding.len() != self.domain_points.len() {
            self.crowding.resize(self.domain_points.len(), f64::INFINITY);
            (0..self.domain_points.len()).for_each(|domain| self.count_in(domain));
        }
        let least = tree::least(&self.crowding);
        self.crowding_least = if least == f64::INFINITY { 0 } else { least as i32 };
    }

    /// Notes how crowded a domain is for its points, or that nobody there can take the task.
    pub(super) fn count_in(&mut self, domain: usize) {
        let points = self.domain_points.get(domain).copied();
        if let (Some(points), Some(crowding)) = (points, self.crowding.get_mut(domain)) {
            let counts = self.domain_feasible.get(domain).is_some_and(|nodes| *nodes > 0);
            *crowding = if counts { f64::from(points) } else { f64::INFINITY };
        }
    }

    fn points_of_domain(&self, domain: usize) -> i32 {
        let values = self.profile.domain_values(domain);
        let each = self.demand.spread.iter().zip(&self.spread_counts).zip(values);
        let points: i64 = each
            .map(|((spread, counts), value)| i64::from(spread.weight) * counts[*value as usize])
            .sum();
        i32::try_from(points).unwrap_or(i32::MAX - POINTS_MAX)
    }

    /// Counts the points against every domain anew.
    fn count_domains(&mut self) {
        let domains = 0..self.profile.domains();
        self.domain_points = domains.map(|domain| self.points_of_domain(domain)).collect();
        self.crowding.clear();
    }
}

/// A count as a node's company has it.
fn up_to_many(tasks: u32) -> u8 {
    u8::try_from(tasks).unwrap_or(MANY).min(MANY)
}
