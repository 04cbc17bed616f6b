//! How much memory a placed task takes in the fleet and in what the scheduler keeps.

use super::world::{Wish, World, hosts};
use crate::Failure;
use crate::report::{Figure, progress};

/// How many nodes and tasks there are.
const NODES: usize = 10_000;
const TASKS: usize = 200_000;

/// The memory that this process has, in bytes.
fn resident_bytes() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix("kB"))
        .ok_or("no VmRSS in /proc/self/status")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

/// The hot part of a task: what placing it adds to the fleet and to the scheduler.
pub(super) fn measure() -> Result<Figure, Failure> {
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
