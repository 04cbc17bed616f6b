//! Ctrl-C and SIGTERM, as a token that is cancelled.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::failure::Failure;

/// A token that the first Ctrl-C or SIGTERM cancels: the way to stop a program that stays.
pub(crate) fn stop_token() -> Result<CancellationToken, Failure> {
    let problem = |error| Failure::new("cannot listen to signals").cause(&error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(problem)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(problem)?;
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        info!(signal = name, "stopping");
        cancel.cancel();
    });
    Ok(token)
}

/// Returns at Ctrl-C; never, when signals cannot be heard (the default then ends the program anyway).
pub(crate) async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
