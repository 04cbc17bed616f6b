//! Measures Longshore beside its physical limits in the same run, and writes `docs/benchmarks.md` and `.json`.
//!
//! `make bench` runs all of it, `make bench ONLY=launch` a part. Each figure stands beside the limit that was
//! measured in turn with it; the ratio of the two is what can be compared between machines.
//!
//! | module | what lives there |
//! |---|---|
//! | [`cluster`] | a cluster of real processes to measure |
//! | [`failover`] | from the end of a leader to the next decision |
//! | [`launch`] | from request to acknowledged, to running, and tasks per second |
//! | [`raw`] | the limits: the NATS round trip, the Docker API |
//!
//! The parts that need no cluster are in the library, so that `cargo bench` measures them too.

mod cluster;
mod failover;
mod launch;
mod raw;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use longshore_bench::{Failure, report, scheduler};

/// Measure Longshore.
#[derive(Debug, Parser)]
struct Options {
    /// Only this part.
    #[arg(long)]
    only: Option<Part>,
    /// How often each figure is measured; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Launch at most so many tasks together.
    #[arg(long, default_value_t = 100)]
    most: u32,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// From request to acknowledged, to running, and tasks per second.
    Launch,
    /// From the end of a leader to the next one's first decision.
    Failover,
    /// Decisions per second, how well they pack, and what a task takes.
    Scheduler,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match measure(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::complain(&error);
            ExitCode::FAILURE
        }
    }
}

async fn measure(options: &Options) -> Result<(), Failure> {
    let wanted = |part| options.only.is_none_or(|only| only == part);
    let mut figures = Vec::new();
    if wanted(Part::Scheduler) {
        figures.extend(scheduler::measure(options.rounds)?);
    }
    if wanted(Part::Launch) {
        figures.extend(launch::measure(options.rounds, options.most).await?);
    }
    if wanted(Part::Failover) {
        figures.extend(failover::measure().await?);
    }
    report::write(&figures)
}
