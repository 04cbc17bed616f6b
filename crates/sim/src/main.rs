//! `longshore-sim`: many seeds, or one to step through.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use longshore_sim::fault::{Counts, Fault};
use longshore_sim::run::{Report, run};
use longshore_sim::time::{MS, SECOND};

/// Simulates whole clusters, one for each seed.
#[derive(Debug, Parser)]
#[command(name = "longshore-sim")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// One seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Where the log of a single seed goes, or that of the one that fails.
    #[arg(long)]
    log: Option<std::path::PathBuf>,
    /// Fail unless every kind of fault has happened.
    #[arg(long)]
    cover: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (first, seeds) = match arguments.seed {
        Some(seed) => (seed, 1),
        None => (arguments.first, arguments.seeds),
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "the speed of the simulation is shown, not simulated"
    )]
    let started = Instant::now();
    let mut sum = Sum::default();
    for seed in first..first.saturating_add(seeds) {
        let report = run(seed, None, arguments.seed.is_some());
        let failed = report.violation.is_some();
        sum.add(&report);
        if failed || arguments.seed.is_some() {
            tell(&report, arguments.log.as_deref());
        }
        if failed {
            return ExitCode::FAILURE;
        }
    }
    sum.tell(started.elapsed());
    let missing: Vec<&Fault> =
        Fault::ALL.iter().filter(|fault| sum.faults.of(**fault) == 0).collect();
    if arguments.cover && !missing.is_empty() {
        say(&format!("faults that never happened: {missing:?}"));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[derive(Default)]
struct Sum {
    runs: u64,
    simulated_s: u64,
    steps: u64,
    records: u64,
    settled_ms: Vec<u64>,
    faults: Counts,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.simulated_s += report.simulated / SECOND;
        self.steps += report.trace.steps();
        self.records += report.records as u64;
        self.settled_ms.extend(report.trace.settled_after().map(|after| after / MS));
        self.faults.add(&report.faults);
    }

    fn tell(&mut self, took: std::time::Duration) {
        let seconds = took.as_secs_f64().max(0.001);
        let times = self.simulated_s as f64 / seconds;
        say(&format!(
            "{} seeds in {seconds:.1} s ({:.1} a second): {} h simulated ({times:.0} times as fast), {} steps, {} records, {} faults",
            self.runs,
            self.runs as f64 / seconds,
            self.simulated_s / 3_600,
            self.steps,
            self.records,
            self.faults.total(),
        ));
        self.settled_ms.sort_unstable();
        let of = |percent: usize| self.settled_ms.get(self.settled_ms.len() * percent / 100);
        if let (Some(half), Some(most), Some(last)) = (of(50), of(99), self.settled_ms.last()) {
            say(&format!(
                "settled after the last fault or end of a container: median {half} ms, 99 of 100 {most} ms, at most {last} ms"
            ));
        }
        for fault in Fault::ALL {
            say(&format!("  {:<28} {:>9}", fault.name(), self.faults.of(*fault)));
        }
    }
}

fn tell(report: &Report, log: Option<&std::path::Path>) {
    let size = report.size;
    say(&format!(
        "seed {}: {} managers, {} workers, {} clients, {} s of faults; {} steps, {} records, trace {}",
        report.seed,
        size.managers,
        size.workers,
        size.clients,
        size.chaos / SECOND,
        report.trace.steps(),
        report.records,
        report.trace.hash(),
    ));
    let end = report.violation.as_ref().map(|violation| format!("\nFAILED: {violation}\n"));
    if let Some(violation) = &report.violation {
        say(&format!(
            "FAILED at step {} ({} ms): {violation}",
            report.trace.steps(),
            report.simulated / MS
        ));
    } else if log.is_none() {
        return;
    }
    let path = match log {
        Some(path) => path.to_owned(),
        None => std::env::temp_dir().join(format!("longshore-sim-{}.log", report.seed)),
    };
    // A run that was not logged is run again: it is the same one.
    let again = report.trace.log().is_none().then(|| run(report.seed, None, true));
    let text = again.as_ref().unwrap_or(report).trace.log().unwrap_or_default();
    match std::fs::write(&path, format!("{text}{}", end.unwrap_or_default())) {
        Ok(()) => say(&format!("step through it: {}", path.display())),
        Err(error) => say(&format!("the log cannot be written to {}: {error}", path.display())),
    }
}

/// Prints a line. Whoever reads no further, such as `head`, is told by the exit code all the same how it went.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
