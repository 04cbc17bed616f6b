//! `longshore`: the one binary. It reads what is asked (`args`), does it (`command`), and maps what comes of
//! it to output (`render`) and an exit status (`failure`).
//!
//! | module | what lives there |
//! |---|---|
//! | `args` | every option, validated and nothing more |
//! | `auth` | folders of NATS users and their credentials |
//! | `command` | every verb, one file per noun |
//! | `client` | questions to the manager, paged and with their failures worded |
//! | `context` | where `longshore dev` says how to reach it |
//! | `connect` | how to reach the bus, from options, environment and context |
//! | `dev` | what `longshore dev` is made of |
//! | `failure` | what went wrong, for people; exit statuses |
//! | `jobfile` | job files: TOML or JSON in people's units |
//! | `json` | what `-o json` prints: stable names |
//! | `logging` | the program's own log, on stderr |
//! | `plan` | what plans and explanations look like |
//! | `parse` | small texts in options and job files |
//! | `render` | the one place that prints |
//! | `several` | verbs that take several names |
//! | `signal` | Ctrl-C and SIGTERM |
//! | `table` | tables, times and sentences for people |
//! | `wait` | `--wait`: staying until a job runs or has ended |

mod archive;
mod args;
mod auth;
mod changes;
mod client;
mod command;
mod connect;
mod context;
mod dev;
mod failure;
mod figures;
mod jobfile;
mod json;
mod logging;
mod parse;
mod plan;
mod pulling;
mod render;
mod session;
mod several;
mod signal;
mod stream;
mod table;
mod terminal;
mod wait;

use std::process::ExitCode;

use clap::Parser;

use crate::failure::{Exit, Failure};
use crate::render::Printer;

/// The manager makes and drops small pieces all the time, on several threads: events, keys, values.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    do_without_huge_pages();
    let printer = Printer;
    let outcome = match dev::supervise::asked(std::env::args_os()) {
        Some(words) => in_runtime(dev::supervise::run(&words)),
        None => match args::Cli::try_parse() {
            Ok(cli) => logging::start(&cli).and_then(|()| in_runtime(command::run(cli, printer))),
            Err(error) => Ok(printer.usage(&error)),
        },
    };
    outcome.unwrap_or_else(|failure| printer.failure(&failure)).into()
}

/// Takes memory from the kernel by pages of the usual size, where it would give huge ones unasked. Each thread has many kinds
/// of small pieces, and would hold whole huge pages of them, most of them empty: a third of a manager's memory, half of a
/// worker's, and no time is won by it.
fn do_without_huge_pages() {
    #[cfg(target_os = "linux")]
    // Where the kernel has none there is nothing to do without.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

fn in_runtime(verb: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new("cannot start the runtime").cause(&error))?;
    let outcome = runtime.block_on(verb);
    // A read of stdin that never returns must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    outcome
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn no_memory_comes_in_huge_pages() {
        super::do_without_huge_pages();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        // Kernels before 5.0 do not tell.
        let told = status.lines().find_map(|line| line.strip_prefix("THP_enabled:"));
        assert!(told.is_none_or(|told| told.trim() == "0"), "{status}");
    }
}
