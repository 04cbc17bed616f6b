//! Following the log: messages that somebody committed, applied to memory and written to the own store.
//!
//! Which of them are records, which are skipped and over which nothing goes on is
//! [`longshore_core::leadership::follow`]'s to say.

use std::sync::Arc;

use longshore_core::cluster::Cluster;
use longshore_core::cluster::record::RECORD_FORMAT;
use longshore_core::leadership::follow::{self, Followed, Stopped};
use tracing::error;

use crate::error::ManagerError;
use crate::log::Message;
use crate::store::{Batch, Store};

/// Applies messages of the log, in order.
#[derive(Debug)]
pub struct Follower<'a> {
    store: &'a Arc<Store>,
    follower: follow::Follower,
}

impl<'a> Follower<'a> {
    /// Writes to a store.
    pub fn new(store: &'a Arc<Store>) -> Self {
        Self { store, follower: follow::Follower::default() }
    }

    /// Applies messages, and writes what they changed as one batch.
    pub(crate) async fn apply(
        &mut self,
        cluster: &mut Cluster,
        messages: Vec<Message>,
    ) -> Result<(), ManagerError> {
        let mut batch = Batch::default();
        let mut stopped = Ok(());
        for (sequence, payload) in messages {
            match self.follower.take(cluster, sequence, &payload) {
                Ok(Followed::Known) => {}
                Ok(Followed::Record { index, writes, events }) => {
                    batch.record(index, payload.to_vec(), writes, &events);
                }
                Ok(Followed::Skipped { write, reason }) => {
                    error!(sequence, %reason, "a message in the log is skipped; somebody else writes to the log");
                    batch.write(write);
                }
                Err(reason) => {
                    stopped = Err(reason.into());
                    break;
                }
            }
        }
        // What came before is good.
        self.store.write(batch).await?;
        stopped
    }
}

impl From<Stopped> for ManagerError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Broken(broken) => broken.into(),
            Stopped::NewerFormat { found } => Self::NewerFormat { found, known: RECORD_FORMAT },
            Stopped::Unreadable { index, reason } => Self::Unreadable { index, reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use longshore_core::cluster::record::Hash;
    use longshore_core::cluster::{Identity, Settings, State, Step};
    use longshore_core::time::{Now, Time};
    use longshore_proto::codec;
    use longshore_proto::id::{ClusterId, ManagerId};
    use serde::Serialize;
    use uuid::Uuid;

    use super::*;
    use crate::error::Broken;

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
