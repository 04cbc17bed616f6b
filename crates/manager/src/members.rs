//! Who is there. A manager says so in the lease's bucket, and the leader has the log list it ([`Members`]).
//!
//! A manager leads only once the log lists it, so whoever finds the log lost knows whether somebody else may hold
//! records that it does not. The log lists managers by name, so a name must mean one data directory: whoever comes
//! second to a name that is in use does not begin ([`crate::presence`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use futures_util::StreamExt;
use longshore_bus::Bus;
use longshore_proto::name::{Root, UserName};
use longshore_proto::subject::lease_stream;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::store::Store;

/// How often a leader looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// The managers' keys in the lease's bucket.
#[derive(Debug)]
pub(crate) struct Members {
    context: jetstream::Context,
    root: Root,
    /// This manager's own name, and its store.
    own: UserName,
    store: Arc<Store>,
}

impl Members {
    pub(crate) fn new(core: &Bus, own: UserName, store: Arc<Store>) -> Self {
        let mut context = jetstream::new(core.client().clone());
        context.set_timeout(Duration::from_secs(2));
        Self { context, root: core.root().clone(), own, store }
    }

    /// Tells of every manager that says that it is there, once.
    pub(crate) async fn watch(&self, seen: mpsc::UnboundedSender<UserName>) {
        let mut told = BTreeSet::new();
        loop {
            let found = self.look().await.unwrap_or_else(|error| {
                debug!(%error, "it is not known which managers are there");
                Vec::new()
            });
            for name in found {
                if told.contains(&name) || !self.is_noted(&name).await {
                    continue;
                }
                told.insert(name.clone());
                if seen.send(name).is_err() {
                    return;
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Notes in the own store that another manager is about to be listed. Before it is: should the log be lost together
    /// with the word whether that record was committed, this store must not pass for the only one.
    async fn is_noted(&self, name: &UserName) -> bool {
        if *name == self.own {
            return true;
        }
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || store.note_company()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                warn!(%error, manager = %name, "another manager is not listed yet: this one's store cannot be written");
                false
            }
            Err(_) => false,
        }
    }

    async fn look(&self) -> Result<Vec<UserName>, String> {
        let prefix = format!("$KV.{}-lease.manager.", self.root);
        let stream = self.context.get_stream_no_info(lease_stream(&self.root)).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let subjects = stream.info_builder().subjects(format!("{prefix}*")).fetch().await;
        let mut subjects = subjects.map_err(|error| error.to_string())?;
        let mut names = Vec::new();
        while let Some(subject) = subjects.next().await {
            let (subject, _) = subject.map_err(|error| error.to_string())?;
            // A key that is no name is nobody's.
            names.extend(subject.strip_prefix(&prefix).and_then(|name| name.parse().ok()));
        }
        Ok(names)
    }
}
