//! `longshore worker`: from options to a running worker.

use crate::args::{Global, program::Worker};
use crate::failure::{Exit, Failure};
use crate::signal;

/// Runs a worker until it is told to stop.
pub(crate) async fn run(_global: &Global, _wish: Worker) -> Result<Exit, Failure> {
    let _stop = signal::stop_token()?;
    Err(Failure::new("the worker is in the making"))
}
