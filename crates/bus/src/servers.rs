//! Leaving a server that is of no use for another one that is known.
//!
//! The library takes any server when it connects again, those first that have not failed it, so that one which was away when
//! the first connection was made would never be tried. So each in turn is named to it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{ReconnectToServer, Server, ServerAddr};

use crate::connect::Bus;

/// How many servers are tried at most until one is had.
const CHANGES_MAX: usize = 8;
/// How long a change may take.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(3);

/// Which server is to be tried next.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    next: Arc<Mutex<Option<ServerAddr>>>,
    turn: Arc<AtomicUsize>,
}

impl Choice {
    /// The library chooses. Whose turn it is first is left to chance, so that not all clients go to the same server.
    pub(crate) fn new() -> Self {
        let turn = Arc::new(AtomicUsize::new(rand::random_range(0..1_000)));
        Self { next: Arc::default(), turn }
    }

    /// What the library asks when it is about to connect; nothing where it is to choose.
    pub(crate) fn take(&self, servers: &[Server]) -> Option<ReconnectToServer> {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let is_known = servers.iter().any(|server| server.addr == next);
        is_known.then_some(ReconnectToServer { addr: next, delay: Some(Duration::ZERO) })
    }

    /// Whether the connection is left on purpose.
    pub(crate) fn is_made(&self) -> bool {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn set(&self, next: ServerAddr) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
    }
}

impl Bus {
    /// Whether more than one server is known: those that were named, and those that they have told of.
    pub async fn has_choice(&self) -> bool {
        self.client().server_pool().await.is_ok_and(|servers| servers.len() > 1)
    }

    /// Leaves the server for another one. False where none could be had.
    pub async fn change_server(&self) -> bool {
        let client = self.client();
        let left = client.server_info().server_id;
        let Ok(servers) = client.server_pool().await else { return false };
        // The one that is left has its turn, too: which of them it is only its answer tells.
        for _ in 0..servers.len().min(CHANGES_MAX) {
            let turn = self.choice().turn.fetch_add(1, Ordering::Relaxed);
            let Some(server) = servers.get(turn % servers.len()) else { return false };
            self.choice().set(server.addr.clone());
            let mut connections = self.connections();
            connections.mark_unchanged();
            if client.force_reconnect().await.is_err() {
                return false;
            }
            let changed = tokio::time::timeout(CHANGE_TIMEOUT, connections.changed()).await;
            if changed.is_ok() && client.server_info().server_id != left {
                return true;
            }
        }
        false
    }
}
