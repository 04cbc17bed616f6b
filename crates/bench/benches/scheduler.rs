//! `cargo bench`: the scheduler's figures on the terminal. `make bench ONLY=scheduler` writes them to the docs too.

use std::process::ExitCode;

use longshore_bench::{report, scheduler};

/// How often each figure is measured.
const ROUNDS: usize = 5;

fn main() -> ExitCode {
    match scheduler::measure(ROUNDS) {
        Ok(figures) => {
            report::say(&report::table(&figures));
            ExitCode::SUCCESS
        }
        Err(error) => {
            report::complain(&error);
            ExitCode::FAILURE
        }
    }
}
