//! The program's own log: on stderr, for programs that stay in more detail than for verbs.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::args::{Cli, LogFormat, Verb};
use crate::failure::{Exit, Failure};

/// Starts the log. `RUST_LOG` decides what it holds, if set.
pub(crate) fn start(cli: &Cli) -> Result<(), Failure> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            Failure::new(format!("RUST_LOG is {text:?}"))
                .cause(&error)
                .hint("write a level (warn, info, debug), or levels by module: info,longshore_bus=debug")
                .exit(Exit::Usage)
        })?,
        _ => EnvFilter::new(default_filter(&cli.verb)),
    };
    let colours = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colours);
    let started = match cli.global.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::new("cannot start the log").because(&error.to_string()))
}

/// The NATS library tells in its own words what the bus crate tells in ours.
fn default_filter(verb: &Verb) -> &'static str {
    if verb.stays() { "info,async_nats=warn" } else { "warn,async_nats=off" }
}
