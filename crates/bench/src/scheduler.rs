//! The scheduler beside the plain full scan: speed, quality and memory, on one thread.
//!
//! Machines are Google's mix of 2011, and tasks are drawn from Google's distributions of 2019, Alibaba's shapes of
//! 2023 and a synthetic mix of both extremes (see `longshore-simulate`). Every decision is exact and is
//! reserved for in the fleet; once there are eight tasks a node, one ends for each that comes.
//!
//! | module | what lives there |
//! |---|---|
//! | [`speed`] | decisions per second, and what wishes and explanations cost |
//! | [`quality`] | machines above the volume bound, stranded capacity |
//! | [`memory`] | bytes a task, and the copy that plans are made on |
//! | [`brain`] | the manager's brain, whole |
//! | [`world`] | the fleet that is measured |
//! | [`powf`] | the plain scan |

mod brain;
mod memory;
mod powf;
mod quality;
mod speed;
mod world;

use crate::Failure;
use crate::report::Figure;

/// Measures all of it. Each figure of speed is the middle of so many rounds.
///
/// # Errors
///
/// A fleet that is too small for its tasks.
pub fn measure(rounds: usize) -> Result<Vec<Figure>, Failure> {
    // Memory first: later this process has enough that was given back to it, and would ask for none.
    let memory = memory::measure()?;
    let mut figures = speed::measure(rounds)?;
    figures.extend(quality::measure()?);
    figures.extend(memory);
    Ok(figures)
}
