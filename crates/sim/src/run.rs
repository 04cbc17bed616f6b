//! One seed, from beginning to verdict.

use crate::check::Violation;
use crate::fault::Counts;
use crate::sabotage::Sabotage;
use crate::time::Micros;
use crate::trace::Trace;
use crate::world::{Size, World};

/// What became of a run.
#[derive(Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How large it was.
    pub size: Size,
    /// What did not hold.
    pub violation: Option<Violation>,
    /// How often each fault happened.
    pub faults: Counts,
    /// How much virtual time passed.
    pub simulated: Micros,
    /// How many records the log had at the end.
    pub records: usize,
    /// What happened.
    pub trace: Trace,
}

/// Runs a seed.
pub fn run(seed: u64, sabotage: Option<Sabotage>, with_log: bool) -> Report {
    let mut world = World::new(seed, sabotage, Trace::new(with_log));
    let violation = world.run().err();
    Report {
        seed,
        size: world.size(),
        violation,
        simulated: world.now(),
        records: world.records(),
        faults: world.chaos.counts,
        trace: world.trace,
    }
}
