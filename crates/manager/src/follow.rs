//! Following the log: messages that somebody committed, applied to memory and written to the own store.
//!
//! What is no record, or not the next one, is skipped by all managers alike, counted, and raises an alarm. What
//! is skipped must stay a single stray message: a second record that continues a skipped one, or a message that
//! is missing, means that the log is not the one that the store was built from, and nothing goes on.

use std::sync::Arc;

use longshore_core::cluster::Cluster;
use longshore_core::cluster::persist::write_meta;
use longshore_core::cluster::record::{Hash, RECORD_FORMAT, Record};
use tracing::error;

use crate::error::{Broken, ManagerError};
use crate::log::Message;
use crate::store::{Batch, Store};

/// Applies messages of the log, in order.
#[derive(Debug)]
pub struct Follower<'a> {
    store: &'a Arc<Store>,
    /// The record that was skipped last: its index and hash.
    strange: Option<(u64, Hash)>,
}

impl<'a> Follower<'a> {
    /// Writes to a store.
    pub fn new(store: &'a Arc<Store>) -> Self {
        Self { store, strange: None }
    }

    /// Applies messages, and writes what they changed as one batch.
    pub(crate) async fn apply(
        &mut self,
        cluster: &mut Cluster,
        messages: Vec<Message>,
    ) -> Result<(), ManagerError> {
        let mut batch = Batch::default();
        let mut broken = Ok(());
        for (sequence, payload) in messages {
            let expected = cluster.state().meta.stream_sequence + 1;
            if sequence < expected {
                continue;
            }
            broken = if sequence > expected {
                Err(Broken::Gap { from: expected, to: sequence - 1 }.into())
            } else {
                self.follow(cluster, &mut batch, sequence, &payload)
            };
            if broken.is_err() {
                break;
            }
        }
        // What came before the break is good.
        let store = Arc::clone(self.store);
        tokio::task::spawn_blocking(move || store.commit(batch))
            .await
            .map_err(|_| ManagerError::Bug("the store's thread ended"))??;
        broken
    }

    fn follow(
        &mut self,
        cluster: &mut Cluster,
        batch: &mut Batch,
        sequence: u64,
        payload: &[u8],
    ) -> Result<(), ManagerError> {
        match Record::decode(payload) {
            Ok(record) if record.format > RECORD_FORMAT => {
                return Err(ManagerError::NewerFormat {
                    found: record.format,
                    known: RECORD_FORMAT,
                });
            }
            Ok(record) => match cluster.follow(&record, payload, sequence) {
                Ok((writes, events)) => {
                    self.strange = None;
                    batch.record(record.index, payload.to_vec(), writes, events);
                }
                Err(reason) => {
                    let continues = self.strange.is_some_and(|(index, hash)| {
                        record.index == index + 1 && record.previous == hash
                    });
                    if continues {
                        return Err(Broken::Contradicts { index: record.index }.into());
                    }
                    self.strange = Some((record.index, Hash::of(payload)));
                    error!(sequence, %reason, "a message in the log is not the next record and is skipped; somebody else writes to the log");
                    batch.write(write_meta(&cluster.state().meta));
                }
            },
            Err(reason) => {
                error!(sequence, %reason, "a message in the log is no record and is skipped; somebody else writes to the log");
                batch.write(cluster.skip(sequence));
            }
        }
        Ok(())
    }
}
