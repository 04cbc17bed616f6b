//! Measures Longshore beside its physical limits in the same run, and writes `docs/benchmarks.md` and `.json`.
//!
//! `make bench` runs all of it, `make bench ONLY=launch` a part. Each figure stands beside the limit that was
//! measured in turn with it; the ratio of the two is what can be compared between machines.
//!
//! | module | what lives there |
//! |---|---|
//! | [`cluster`] | a cluster of real processes to measure |
//! | [`containers`] | restarts, an idle worker, and a Docker Swarm service to compare with |
//! | [`failover`] | from the end of a leader to the next decision |
//! | [`ground`] | a NATS server and managers to measure on |
//! | [`job`] | a job of so many tasks: submitted, stopped, waited for |
//! | [`launch`] | from request to acknowledged, to running, and tasks per second |
//! | [`log`] | commands, facts and records per second |
//! | [`sandboxes`] | tasks per second where their networks are ready |
//! | [`raw`] | the limits: the NATS round trip, the Docker API |
//! | [`size`] | thousands of workers, a hundred thousand tasks |
//! | [`state`] | start-up, memory and snapshots of up to a million tasks |
//!
//! The parts that need no cluster are in the library, so that `cargo bench` measures them too.

mod cluster;
mod containers;
mod failover;
mod ground;
mod job;
mod launch;
mod log;
mod raw;
mod sandboxes;
mod size;
mod state;

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
    #[arg(long, default_value_t = 300)]
    most: u32,
    /// How many workers are played.
    #[arg(long, default_value_t = 2_000)]
    workers: u32,
    /// How many tasks they run.
    #[arg(long, default_value_t = 100_000)]
    tasks: u32,
    /// The largest state that is measured, in tasks.
    #[arg(long, default_value_t = 1_000_000)]
    state_tasks: u32,
    /// Measure the log with only so many clients at once.
    #[arg(long)]
    in_flight: Option<usize>,
    /// Only show the figures: a trial, or a machine that others load.
    #[arg(long)]
    trial: bool,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// From request to acknowledged, to running, and tasks per second.
    Launch,
    /// From the end of a leader to the next one's first decision.
    Failover,
    /// Commands, facts and records per second through the log.
    Log,
    /// Start-up, memory and snapshots of up to a million tasks.
    State,
    /// Thousands of workers, a hundred thousand tasks.
    Size,
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
    if wanted(Part::Log) {
        figures.extend(log::measure(options.rounds, options.in_flight).await?);
    }
    if wanted(Part::State) {
        figures.extend(state::measure(options.state_tasks).await?);
    }
    // The largest comes last, and what it cannot do takes nothing from the others.
    let sized = if wanted(Part::Size) {
        size::measure(options.workers, options.tasks, &mut figures).await
    } else {
        Ok(())
    };
    if options.trial {
        report::say(&report::table(&figures));
    } else {
        report::write(&figures)?;
    }
    sized
}
