//! `longshore completion`: a script for a shell.

use clap::CommandFactory;

use crate::args::{Cli, cluster::Completion};
use crate::failure::{Exit, Failure};
use crate::render::Printer;

/// Prints the script.
pub(crate) fn run(wish: &Completion, printer: Printer) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(wish.shell, &mut Cli::command(), "longshore", &mut script);
    printer.bytes(&script)?;
    Ok(Exit::Done)
}
