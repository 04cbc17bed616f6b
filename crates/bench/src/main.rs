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
//! | [`report`] | figures to files |

mod cluster;
mod failover;
mod launch;
mod raw;
mod report;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

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
}

/// Why there are no figures.
type Failure = Box<dyn std::error::Error + Send + Sync>;

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
    let mut figures = Vec::new();
    if options.only.is_none_or(|part| part == Part::Launch) {
        figures.extend(launch::measure(options.rounds, options.most).await?);
    }
    if options.only.is_none_or(|part| part == Part::Failover) {
        figures.extend(failover::measure().await?);
    }
    report::write(&figures)
}
