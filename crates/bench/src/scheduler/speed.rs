//! How fast decisions are, in turn with the plain scan.

use std::hint::black_box;

use longshore_proto::spec::Resources;
use longshore_scheduler::{Demand, Policy};
use longshore_simulate::machines::Host;
use rustix::time::{ClockId, clock_gettime};

use super::world::{PlainWorld, Wish, World, hosts, sizes};
use crate::Failure;
use crate::report::{Figure, median, progress, quantile};

/// How many shapes recur in a mixed stream.
const SHAPES: usize = 64;
/// About how many nodes the plain scan looks at in one round.
const PLAIN_LOOKS: usize = 2_000_000;
/// How many decisions are timed in one round.
const STEPS: usize = 50_000;
/// How many shapes that were never seen before are timed one by one in a round.
const NEW_SHAPES: usize = 1_000;

/// The processor's time that this thread has had, in seconds: what else runs on the machine then counts for less.
pub(super) fn busy_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// How many seconds one of many takes.
fn seconds_each(
    count: usize,
    mut act: impl FnMut() -> Result<(), Failure>,
) -> Result<f64, Failure> {
    let before = busy_seconds();
    for _ in 0..count {
        act()?;
    }
    Ok((busy_seconds() - before) / count as f64)
}

/// How many seconds one decision takes, of the scheduler and of the plain scan, in turn; the middle of the rounds.
fn in_turn(
    rounds: usize,
    hosts: &[Host],
    mut ours: impl FnMut() -> Result<f64, Failure>,
) -> Result<(f64, f64), Failure> {
    let mut plain = PlainWorld::full(hosts, SHAPES);
    let (mut times, mut limits) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        times.push(ours()?);
        limits.push(seconds_each((PLAIN_LOOKS / hosts.len()).max(20), || plain.step())?);
    }
    Ok((median(&times), median(&limits)))
}

/// Decisions per second, of a scheduler and of the plain scan.
fn rate(name: String, (ours, plain): (f64, f64), times: Option<f64>) -> Figure {
    progress(&format!("{name}: {:.2} us, plain {:.1} us", ours * 1e6, plain * 1e6));
    let figure = Figure::rate(name, ours.recip(), "decisions/s", plain.recip());
    match times {
        Some(times) => figure.at_least_times(times),
        None => figure,
    }
}

/// Everything about speed.
pub(super) fn measure(rounds: usize) -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    let mut mixed_10k = f64::NAN;
    for (nodes, target) in
        [(100, None), (1_000, Some(70.0)), (10_000, Some(200.0)), (100_000, Some(1_250.0))]
    {
        let hosts = hosts(nodes);
        let mut world = World::full(&hosts, SHAPES, Wish::Nothing)?;
        let measured = in_turn(rounds, &hosts, || seconds_each(STEPS, || world.step()))?;
        if nodes == 10_000 {
            mixed_10k = measured.0;
        }
        figures.push(rate(
            format!("scheduler/64 shapes with churn, {nodes} nodes"),
            measured,
            target,
        ));
    }
    figures.push(batch(rounds)?);
    figures.extend(new_shapes(rounds)?);
    figures.extend(growth(rounds)?);
    figures.extend(wishes(rounds, mixed_10k)?);
    figures.extend(explanations(rounds)?);
    Ok(figures)
}

/// Many tasks alike on an empty fleet, by one call, and the decision after it, which finds everything changed.
fn batch(rounds: usize) -> Result<Figure, Failure> {
    let hosts = hosts(10_000);
    let measured = in_turn(rounds, &hosts, || {
        let mut world = World::empty(&hosts, 1, Wish::Nothing)?;
        let before = busy_seconds();
        world.place_alike(0, 2 * STEPS - 1)?;
        world.place(0)?;
        Ok((busy_seconds() - before) / (2 * STEPS) as f64)
    })?;
    Ok(rate("scheduler/identical tasks, 10000 nodes".to_owned(), measured, Some(5_000.0)))
}

/// Shapes that nobody has asked for before.
fn new_shapes(rounds: usize) -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    for (nodes, most_us) in [(10_000, 30.0), (100_000, 300.0)] {
        let hosts = hosts(nodes);
        let mut world = World::full(&hosts, SHAPES, Wish::Nothing)?;
        let mut shapes = sizes(&hosts).skip(SHAPES);
        let mut plain_times = Vec::new();
        let mut times_us = Vec::new();
        let mut plain = PlainWorld::full(&hosts, SHAPES);
        for _ in 0..rounds {
            let round: Vec<Resources> = shapes.by_ref().take(NEW_SHAPES).collect();
            let mut round_us = Vec::with_capacity(round.len());
            for size in round {
                let demand = Demand::of_resources(size);
                let before = busy_seconds();
                black_box(world.scheduler.pick(&world.fleet, &demand, Policy::Epvm));
                round_us.push((busy_seconds() - before) * 1e6);
            }
            times_us.push(quantile(&round_us, 0.99));
            plain_times.push(seconds_each((PLAIN_LOOKS / nodes).max(20), || plain.step())?);
        }
        let name = format!("scheduler/a shape never seen, p99, {nodes} nodes");
        let (p99_us, plain_us) = (median(&times_us), median(&plain_times) * 1e6);
        progress(&format!("{name}: {p99_us:.1} us"));
        let figure = Figure::time(name, p99_us, "us", plain_us);
        figures.push(figure.at_most(most_us));
    }
    Ok(figures)
}

/// What a hundred times as many nodes cost, with shapes that recur.
fn growth(rounds: usize) -> Result<Vec<Figure>, Failure> {
    let recurring = 16;
    let (few, many) = (hosts(1_000), hosts(100_000));
    let mut small = World::full(&few, recurring, Wish::Nothing)?;
    let mut large = World::full(&many, recurring, Wish::Nothing)?;
    let (mut small_times, mut large_times) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        small_times.push(seconds_each(STEPS, || small.step())?);
        large_times.push(seconds_each(STEPS, || large.step())?);
    }
    let times = median(&large_times) / median(&small_times);
    progress(&format!("growth from 1000 to 100000 nodes, {recurring} shapes: {times:.2}"));
    let name = "scheduler/time at 100000 nodes over that at 1000, 16 shapes";
    let (large_us, small_us) = (median(&large_times) * 1e6, median(&small_times) * 1e6);
    Ok(vec![
        Figure::alone(name, times, "times").at_most(3.0),
        Figure::time("scheduler/decision of 16 shapes, 100000 nodes", large_us, "us", small_us),
    ])
}

/// What constraints and preferences cost, against none.
fn wishes(rounds: usize, without: f64) -> Result<Vec<Figure>, Failure> {
    let hosts = hosts(10_000);
    let all = [
        (Wish::TwoThirds, "a constraint that leaves 67 %"),
        (Wish::Hundredth, "a constraint that leaves 1 %"),
        (Wish::SpreadZones, "spread over 3 zones"),
        (Wish::SpreadRacks, "spread over 250 racks"),
        (Wish::Affinity, "affinity"),
        (Wish::AntiAffinity, "anti-affinity"),
    ];
    let mut figures = Vec::new();
    for (wish, text) in all {
        // With one node of a hundred to choose from, the tasks of eight on each would not fit.
        let mut world = if wish == Wish::Hundredth {
            World::empty(&hosts, SHAPES, wish)?
        } else {
            World::full(&hosts, SHAPES, wish)?
        };
        let mut times = Vec::new();
        for _ in 0..rounds {
            let steps = if wish == Wish::Hundredth { STEPS / 100 } else { STEPS };
            times.push(seconds_each(steps, || world.step())?);
        }
        let slower = median(&times) / without;
        progress(&format!("{text}: {:.2} us, {slower:.2} times", median(&times) * 1e6));
        let figure =
            Figure::alone(format!("scheduler/time with {text} over that without"), slower, "times");
        figures.push(figure.at_most(2.0));
        let name = format!("scheduler/decision with {text}, 10000 nodes");
        figures.push(Figure::time(name, median(&times) * 1e6, "us", without * 1e6));
    }
    Ok(figures)
}

/// What it costs to keep the reason of every placement.
fn explanations(rounds: usize) -> Result<Vec<Figure>, Failure> {
    let hosts = hosts(10_000);
    let mut world = World::full(&hosts, SHAPES, Wish::Nothing)?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut kept = Vec::with_capacity(STEPS);
        without.push(seconds_each(STEPS, || world.step())?);
        with.push(seconds_each(STEPS, || {
            kept.push(world.step_explained()?);
            Ok(())
        })?);
        black_box(&kept);
    }
    let part = (1.0 - median(&without) / median(&with)) * 100.0;
    progress(&format!("explanations: {part:.1} % of the throughput"));
    let name = "scheduler/throughput lost to an explanation kept for every placement";
    let (with_us, without_us) = (median(&with) * 1e6, median(&without) * 1e6);
    Ok(vec![
        Figure::alone(name, part, "%").at_most(5.0),
        Figure::time(
            "scheduler/decision with its explanation kept, 10000 nodes",
            with_us,
            "us",
            without_us,
        ),
    ])
}
