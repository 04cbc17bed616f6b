//! Following the log: messages that somebody committed, applied to memory and written to the own store.
//!
//! What is no record, or not the next one, is skipped by all managers alike, counted, and raises an alarm. What
//! is skipped must stay a single stray message: a second record that continues a skipped one, or a message that
//! is missing, means that the log is not the one that the store was built from, and nothing goes on. Nor does
//! anything go on over a record that follows by its hash and cannot be read: a newer version has written it.

use std::sync::Arc;

use longshore_core::cluster::Cluster;
use longshore_core::cluster::persist::write_meta;
use longshore_core::cluster::record::{Hash, Place, RECORD_FORMAT, Record};
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

    fn is_next(&self, cluster: &Cluster, payload: &[u8]) -> bool {
        let meta = &cluster.state().meta;
        let next = Place { index: meta.index + 1, previous: meta.chain };
        Place::decode(payload).is_ok_and(|place| place == next)
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
            // What follows the last record by its hash is the next one, and skipping it would be a lie.
            Err(reason) if self.is_next(cluster, payload) => {
                let index = cluster.state().meta.index + 1;
                return Err(ManagerError::Unreadable { index, reason });
            }
            Err(reason) => {
                error!(sequence, %reason, "a message in the log is no record and is skipped; somebody else writes to the log");
                batch.write(cluster.skip(sequence));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use longshore_core::cluster::{Identity, Settings, State, Step};
    use longshore_core::time::{Now, Time};
    use longshore_proto::codec;
    use longshore_proto::id::{ClusterId, ManagerId};
    use serde::Serialize;
    use uuid::Uuid;

    use super::*;

    /// A record with facts that this version does not know.
    #[derive(Serialize)]
    struct FromLater {
        format: u16,
        index: u64,
        epoch: u64,
        manager: ManagerId,
        previous: Hash,
        at_ms: u64,
        facts: Vec<&'static str>,
    }

    fn cluster() -> Cluster {
        let manager = ManagerId(Uuid::from_u128(1));
        let name = "m1".parse().unwrap();
        let identity = Identity { manager, name, version: "test".into() };
        Cluster::new(identity, Settings::default(), State::default())
    }

    #[tokio::test]
    async fn a_stray_message_is_skipped_and_a_record_of_a_newer_version_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path()).unwrap());
        let now = Now { time: Time(1), wall_ms: 1_700_000_000_000 };
        let step = cluster().begin_reign(ClusterId(Uuid::from_u128(2)), now, [0; 16]);
        let Step::Record(first) = step else { panic!("no record") };
        let later = |index, previous| {
            let record = FromLater {
                format: RECORD_FORMAT,
                index,
                epoch: 1,
                manager: ManagerId(Uuid::from_u128(1)),
                previous,
                at_ms: 1_700_000_000_001,
                facts: vec!["something-new"],
            };
            codec::encode(&record).into()
        };
        let (mut cluster, mut follower) = (cluster(), Follower::new(&store));
        let strays = vec![
            (1, first.bytes().to_vec().into()),
            (2, later(2, Hash::of(b"elsewhere"))),
            (3, b"nothing".as_slice().into()),
        ];
        follower.apply(&mut cluster, strays).await.unwrap();
        let meta = &cluster.state().meta;
        assert_eq!((meta.index, meta.stream_sequence, meta.records_skipped), (1, 3, 2));
        let next = vec![(4, later(2, Hash::of(first.bytes())))];
        let error = follower.apply(&mut cluster, next).await.unwrap_err();
        assert!(matches!(error, ManagerError::Unreadable { index: 2, .. }), "{error}");
        let stored = store.load_meta().unwrap();
        assert_eq!(
            (stored.index, stored.stream_sequence),
            (1, 3),
            "it is read again after an upgrade"
        );
    }

    #[tokio::test]
    async fn a_hole_in_the_log_is_not_stepped_over() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path()).unwrap());
        let (mut cluster, mut follower) = (cluster(), Follower::new(&store));
        let messages = vec![(1, b"stray".as_slice().into()), (3, b"stray".as_slice().into())];
        let error = follower.apply(&mut cluster, messages).await.unwrap_err();
        assert!(matches!(error, ManagerError::Broken(Broken::Gap { from: 2, to: 2 })), "{error}");
        assert_eq!(store.load_meta().unwrap().stream_sequence, 1, "what came before is kept");
    }
}
