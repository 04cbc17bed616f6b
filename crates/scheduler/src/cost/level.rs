//! Policies to compare with: by how full a node is, and the formula of a well-known book.

use crate::cost::{Load, Model, Row, share};
use crate::demand::{Amounts, DIMENSIONS};

/// The policy `spread`: the node that is emptiest with the task on it, as the least sum of `10^utilisation` of
/// cpu and memory.
#[derive(Debug)]
pub(crate) struct Spread;

/// The policy `binpack`: the node that is fullest with the task on it, as the least sum of `10^free` of cpu and
/// memory. It is the measure that Nomad's scheduler packs by.
#[derive(Debug)]
pub(crate) struct Binpack;

/// The policy `lieb`: the formula of "Build an Orchestrator in Go" (chapter 10), for comparison.
///
/// Its base is Lieb's square ice constant and not the number of machines, its cpu term stands in it with both
/// signs and cancels out, and a machine counts as full of jobs at four. What is left is
/// `L^memory' - L^memory + 2 * (L^((tasks + 1) / 4) - L^(tasks / 4))`.
#[derive(Debug)]
pub(crate) struct Lieb;

/// `log2(10)`.
const LOG2_10: f64 = std::f64::consts::LOG2_10;
/// `log2((4 / 3)^(3 / 2))`, of Lieb's square ice constant.
const LOG2_LIEB: f64 = 0.622_556_248_918_265_6;
/// What the book takes for the most jobs on a machine.
const LIEB_JOBS_MAX: f64 = 4.0;
/// Beyond any real figure, and small enough for its power to stay finite.
const EXPONENT_MAX: f64 = 256.0;

fn power(base_log2: f64, exponent: f64) -> f64 {
    libm::exp2((base_log2 * exponent).min(EXPONENT_MAX))
}

/// A figure for cpu and one for memory, nothing for the rest.
fn of_both(mut figure: impl FnMut(usize) -> f64) -> [f64; DIMENSIONS] {
    [figure(0), figure(1), 0.0, 0.0]
}

impl Model for Spread {
    fn row(&self, load: &Load, _: u32) -> Row {
        let Load { capacity, committed, .. } = load;
        let row = of_both(|r| power(LOG2_10, share(committed[r], capacity[r])));
        Row { live: row, committed: row }
    }

    fn factors(&self, capacity: &Amounts, demand: &Amounts, _: u32) -> [f64; DIMENSIONS] {
        of_both(|r| power(LOG2_10, share(demand[r], capacity[r])))
    }
}

impl Model for Binpack {
    fn row(&self, load: &Load, _: u32) -> Row {
        let Load { capacity, committed, .. } = load;
        let row = of_both(|r| power(LOG2_10, 1.0 - share(committed[r], capacity[r])));
        Row { live: row, committed: row }
    }

    fn factors(&self, capacity: &Amounts, demand: &Amounts, _: u32) -> [f64; DIMENSIONS] {
        of_both(|r| power(LOG2_10, -share(demand[r], capacity[r])))
    }
}

impl Model for Lieb {
    fn row(&self, load: &Load, _: u32) -> Row {
        let Load { capacity, committed, .. } = load;
        let memory = power(LOG2_LIEB, share(committed[1], capacity[1]));
        let tasks = power(LOG2_LIEB, committed[3] as f64 / LIEB_JOBS_MAX);
        let row = [0.0, memory, 0.0, tasks];
        Row { live: row, committed: row }
    }

    fn factors(&self, capacity: &Amounts, demand: &Amounts, _: u32) -> [f64; DIMENSIONS] {
        let memory = power(LOG2_LIEB, share(demand[1], capacity[1])) - 1.0;
        let tasks = 2.0 * (power(LOG2_LIEB, 1.0 / LIEB_JOBS_MAX) - 1.0);
        [0.0, memory, 0.0, tasks]
    }
}

#[cfg(test)]
mod tests {
    use crate::plain::place;
    use crate::testing::{demand, join, name, resources};
    use crate::{Fleet, Policy};

    /// Three nodes alike, with none, one and two of four cores taken.
    fn fleet() -> Fleet {
        let mut fleet = Fleet::default();
        for (node, taken) in [("empty", 0), ("middle", 1), ("full", 2)] {
            join(&mut fleet, node, resources(4, 4));
            (0..taken).for_each(|_| fleet.reserve(&name(node), &demand(1, 1)));
        }
        fleet
    }

    #[test]
    fn spread_takes_the_emptiest_and_binpack_the_fullest_that_fits() {
        let mut fleet = fleet();
        let picked = |fleet: &Fleet, policy| place(fleet, &demand(2, 2), policy).unwrap().node;
        assert_eq!(picked(&fleet, Policy::Spread), name("empty"));
        assert_eq!(picked(&fleet, Policy::Binpack), name("full"));
        fleet.reserve(&name("full"), &demand(1, 1));
        assert_eq!(picked(&fleet, Policy::Binpack), name("middle"));
    }

    #[test]
    fn the_books_formula_never_looks_at_cpu() {
        let mut fleet = Fleet::default();
        for node in ["busy", "idle"] {
            join(&mut fleet, node, resources(16, 16));
        }
        fleet.reserve(&name("busy"), &demand(14, 0));
        fleet.reserve(&name("idle"), &demand(0, 1));
        let picked = |policy| place(&fleet, &demand(1, 1), policy).unwrap().node;
        assert_eq!(picked(Policy::Lieb), name("busy"), "a little memory outweighs 14 busy cores");
        assert_eq!(picked(Policy::Epvm), name("idle"));
    }
}
