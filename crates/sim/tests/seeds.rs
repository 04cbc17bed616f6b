//! Seeds with debug assertions on, and the promise that a seed is a run. `make sim` runs a thousand in release.

use longshore_sim::run::run;

fn hold(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let report = run(seed, None, false);
        if let Some(violation) = report.violation {
            panic!("seed {seed}: {violation}; `make sim SEED={seed}` leaves a log to step through");
        }
    }
}

#[test]
fn the_first_seeds_hold() {
    hold(0..30);
}

#[test]
fn the_next_seeds_hold() {
    hold(30..60);
}

#[test]
fn the_same_seed_is_the_same_run_byte_for_byte() {
    for seed in [1, 2, 3] {
        let (one, other) = (run(seed, None, true), run(seed, None, true));
        assert_eq!(one.trace.hash(), other.trace.hash());
        assert!(one.trace.log() == other.trace.log(), "seed {seed} was told differently");
        let unlogged = run(seed, None, false);
        assert_eq!(one.trace.hash(), unlogged.trace.hash(), "a log changes nothing");
    }
    assert_ne!(run(1, None, false).trace.hash(), run(2, None, false).trace.hash());
}
