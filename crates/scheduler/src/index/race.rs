//! Many tasks alike, one after another, where each changes nothing but the node that it goes to.
//!
//! Where each node stands is computed once, and then, for each task, only where the one stands that was taken. Who
//! comes first is found as in a tournament: every match that the node was in is played again, up to the final.

use crate::cost::points::{self, Weights};
use crate::cost::{Load, Model, dot};
use crate::demand::{Amounts, DIMENSIONS, Demand};
use crate::filter;
use crate::index::Ground;
use crate::index::judgement::Judgement;

/// Where a node stands: what decides first in the upper half, and what decides among equals in the lower one. Costs are
/// never negative, so they are ordered as their bits are.
type Standing = u128;

/// A node that cannot take another task.
const OUT: Standing = Standing::MAX;

/// A node in the race.
#[derive(Debug, Clone, Copy)]
struct Runner {
    lane: u32,
    /// How many tasks it was given here.
    taken: u32,
    state: State,
}

/// What decides where a node stands.
#[derive(Debug, Clone, Copy, PartialEq)]
struct State {
    /// The class of its capacity.
    class: u32,
    /// How many of the tasks' own kind it has.
    kin: u32,
    /// The points against it that its labels and attributes decide.
    affinity: i32,
    has_image: bool,
    committed: Amounts,
    expected: Amounts,
}

/// What all runners have in common.
#[derive(Debug)]
struct Course<'g> {
    model: &'static dyn Model,
    base_log2: u32,
    wanted: Amounts,
    /// How many points each task of their own kind counts.
    anti_affinity: u8,
    /// Whether a node that has one of the tasks has their image.
    brings_image: bool,
    /// Whether a node takes one of them and no more.
    is_once: bool,
    /// Where the state stands that was asked for last: nodes alike come one after another.
    last: Option<(State, Standing)>,
    /// By class of capacity.
    capacities: &'g [Amounts],
    factors: &'g [[f64; DIMENSIONS]],
    weights: &'g Weights,
}

/// Nodes that race for tasks.
#[derive(Debug)]
pub(crate) struct Race<'g> {
    course: Course<'g>,
    /// In the fixed order that breaks ties.
    runners: Vec<Runner>,
    /// Where each stands, and behind them as many who are out as make the matches even.
    standings: Vec<Standing>,
    /// Who won each match: that of the numbers 2n and 2n + 1 is number n, and the final is number 1. Those of the
    /// runners alone come last.
    winners: Vec<u32>,
}

impl<'g> Race<'g> {
    /// A race of all that can take the task. `None` where a placement changes more than the node that it goes to.
    pub(crate) fn new(
        ground: &Ground<'g>,
        nodes: &'g Judgement,
        demand: &Demand<'_>,
    ) -> Option<Self> {
        let model = ground.model?;
        // What the guard counts, how crowded domains are, and which of the measured nodes the others must beat.
        let is_stale = |lane: usize| ground.columns.node(lane).is_stale;
        if ground.popular.is_some()
            || !nodes.profile.shape().is_in_order()
            || ground.fleet.has_stale() && nodes.feasible_lanes().any(is_stale)
        {
            return None;
        }
        let groups = ground.fleet.groups();
        let present = |group: &_| !groups.is_empty(*group);
        let kin = demand.kin.filter(|_| demand.anti_affinity > 0).filter(present);
        let image = demand.image.filter(present);
        let runners: Vec<Runner> = nodes
            .feasible_lanes()
            .filter_map(|at| {
                let lane = u32::try_from(at).ok()?;
                let Load { committed, expected, .. } = ground.fleet.at(lane)?.load();
                Some(Runner {
                    lane,
                    taken: 0,
                    state: State {
                        class: ground.fleet.lanes().class(at),
                        kin: kin.map_or(0, |kin| groups.count(kin, lane)),
                        affinity: nodes.profile.points(at),
                        has_image: image.is_some_and(|image| groups.count(image, lane) > 0),
                        committed,
                        expected,
                    },
                })
            })
            .collect();
        let has_port = demand.ports.iter().any(|port| !port.is_dynamic());
        let mut course = Course {
            model,
            base_log2: ground.fleet.base_log2(),
            wanted: demand.amounts(),
            anti_affinity: if demand.kin.is_some() { demand.anti_affinity } else { 0 },
            brings_image: demand.image.is_some(),
            is_once: has_port || demand.distinct_hosts && demand.kin.is_some(),
            last: None,
            capacities: ground.fleet.lanes().capacities(),
            factors: &nodes.factors,
            weights: ground.weights,
        };
        let runs = runners.iter().map(|runner| (*runner, course.standing(&runner.state)));
        let mut runs: Vec<(Runner, Standing)> = runs.collect();
        let tie = |lane: u32| ground.columns.node(lane as usize).tie;
        runs.sort_by_cached_key(|(runner, _)| (tie(runner.lane), runner.lane));
        let (runners, mut standings): (Vec<Runner>, Vec<Standing>) = runs.into_iter().unzip();
        let size = runners.len().next_power_of_two();
        standings.resize(size, OUT);
        let mut winners = vec![0; size];
        winners.extend((0..).take(size));
        for place in (1..size).rev() {
            let [one, other] = [winners[2 * place], winners[2 * place + 1]];
            let is_other = standings[other as usize] < standings[one as usize];
            winners[place] = if is_other { other } else { one };
        }
        Some(Self { course, runners, standings, winners })
    }

    /// Who has been given tasks, by lanes, and how many.
    pub(crate) fn taken(&self) -> impl Iterator<Item = (u32, u32)> {
        let taken = self.runners.iter().map(|runner| (runner.lane, runner.taken));
        taken.filter(|(_, taken)| *taken > 0)
    }

    /// Every match of a runner again, who stands elsewhere now.
    fn replay(&mut self, runner: u32) {
        let mut place = self.standings.len() + runner as usize;
        let (mut winner, mut standing) = (runner, self.standings[runner as usize]);
        while place > 1 {
            let rival = self.winners[place ^ 1];
            let other = self.standings[rival as usize];
            if (other < standing) | (other == standing) & (rival < winner) {
                (winner, standing) = (rival, other);
            }
            place /= 2;
            self.winners[place] = winner;
        }
    }
}

impl Iterator for Race<'_> {
    type Item = u32;

    /// Gives the next task to whoever stands first; says on which lane that is.
    fn next(&mut self) -> Option<u32> {
        let first = self.winners[1];
        if self.standings[first as usize] == OUT {
            return None;
        }
        let runner = self.runners.get_mut(first as usize)?;
        runner.taken += 1;
        self.course.give(&mut runner.state);
        let is_out = self.course.is_once;
        self.standings[first as usize] =
            if is_out { OUT } else { self.course.standing(&runner.state) };
        let lane = runner.lane;
        self.replay(first);
        Some(lane)
    }
}

impl Course<'_> {
    /// Gives a task to a node.
    fn give(&self, state: &mut State) {
        let mut load = self.load(state);
        load.add(&self.wanted);
        (state.committed, state.expected) = (load.committed, load.expected);
        state.kin = state.kin.saturating_add(1);
        state.has_image |= self.brings_image;
    }

    fn load(&self, state: &State) -> Load {
        let State { committed, expected, class, .. } = *state;
        Load { capacity: self.capacities[class as usize], committed, expected, is_fresh: true }
    }

    /// Where a node stands.
    fn standing(&mut self, state: &State) -> Standing {
        if let Some((last, standing)) = &self.last
            && last == state
        {
            return *standing;
        }
        let standing = self.compute(state);
        self.last = Some((*state, standing));
        standing
    }

    /// As [`Judgement::key`] does.
    fn compute(&self, state: &State) -> Standing {
        let load = self.load(state);
        let free = load.free();
        if (0..DIMENSIONS).any(|r| filter::lacks(free[r], self.wanted[r])) {
            return OUT;
        }
        let row = self.model.row(&load, self.base_log2);
        let factors = &self.factors[state.class as usize];
        let kin = points::of_kin(self.anti_affinity, state.kin);
        let weight = self.weights.of(points::sum(state.affinity, kin, state.has_image));
        let first = dot(&row.live, factors) * weight;
        let second = dot(&row.committed, factors) * weight;
        Standing::from(first.to_bits()) << 64 | Standing::from(second.to_bits())
    }
}
