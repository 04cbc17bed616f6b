//! How much memory a task takes, in the fleet and in the manager's whole brain, and what it costs to copy that brain.

use super::brain::Brain;
use super::speed::busy_seconds;
use super::world::{Wish, World, hosts};
use crate::Failure;
use crate::report::{Figure, median, progress};

/// How many nodes there are.
const NODES: usize = 10_000;
/// How many tasks are placed to find what one takes in the fleet.
const TASKS: usize = 200_000;
/// How many tasks run when the whole brain is looked at.
const RUNNING: [usize; 2] = [100_000, 1_000_000];
/// How many are started at a time, so that what is on its way takes little room.
const STARTED: usize = 25_000;
/// How often the brain is copied.
const COPIES: usize = 9;

/// The memory that this process has, in bytes.
fn resident_bytes() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix("kB"))
        .ok_or("no VmRSS in /proc/self/status")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

/// Everything about memory.
pub(super) fn measure() -> Result<Vec<Figure>, Failure> {
    let mut figures = vec![hot()?];
    figures.extend(all_in()?);
    Ok(figures)
}

/// The hot part of a task: what placing it adds to the fleet and to the scheduler.
fn hot() -> Result<Figure, Failure> {
    let hosts = hosts(NODES);
    let mut world = World::empty(&hosts, 64, Wish::Nothing)?;
    // Everything that is made once is there before it is counted.
    for kind in 0..64 {
        world.place(kind)?;
    }
    let before = resident_bytes()?;
    for task in 0..TASKS {
        world.place(task % 64)?;
    }
    let bytes = resident_bytes()?.saturating_sub(before) as f64 / TASKS as f64;
    progress(&format!("memory of a placed task in the scheduler: {bytes:.0} B"));
    let figure = Figure::alone("scheduler/memory of a placed task, hot part", bytes, "B");
    Ok(figure.at_most(128.0))
}

/// A running task with all that the manager's brain holds of it: its state and why it is where it is, its job and
/// the answer to whoever submitted it, ten tasks a job; and what it takes to copy the brain for a plan.
fn all_in() -> Result<Vec<Figure>, Failure> {
    let mut brain = Brain::new(&hosts(NODES))?;
    // What is on its way for a moment has its room before anything is counted.
    brain.run(STARTED)?;
    let before = resident_bytes()?;
    let mut figures = Vec::new();
    let mut running = 0;
    for tasks in RUNNING {
        while running < tasks {
            brain.run(STARTED)?;
            running += STARTED;
        }
        let bytes = resident_bytes()?.saturating_sub(before) as f64 / running as f64;
        let name = format!(
            "scheduler/memory of a running task in the manager's brain, all in, {tasks} tasks"
        );
        progress(&format!("{name}: {bytes:.0} B"));
        figures.push(Figure::alone(name, bytes, "B").at_most(1024.0));
        if tasks == RUNNING[0] {
            figures.push(copy(&brain));
        }
    }
    Ok(figures)
}

/// How long the manager's loop stands still while the brain is copied for a plan, of the processor's time.
fn copy(brain: &Brain) -> Figure {
    let times_ms: Vec<f64> = (0..COPIES)
        .map(|_| {
            let before = busy_seconds();
            let copy = brain.cluster.snapshot();
            let seconds = busy_seconds() - before;
            drop(copy);
            seconds * 1e3
        })
        .collect();
    let name = format!("scheduler/copy of {NODES} nodes and {} tasks for a plan", RUNNING[0]);
    let time_ms = median(&times_ms);
    progress(&format!("{name}: {time_ms:.1} ms"));
    Figure::alone(name, time_ms, "ms").at_most(10.0)
}
