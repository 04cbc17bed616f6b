//! The cluster as it was: the point of time travel before a moment, and the journal from there on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_core::cluster::state::Meta;
use longshore_core::cluster::{Cluster, Identity, Settings};
use longshore_proto::error::{ApiError, ErrorCode};

use tokio::time::Instant;

use crate::error::ManagerError;
use crate::store::Store;

/// For how long a moment is kept that nobody asks for.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// A moment that somebody asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// After the record of this index.
    Index(u64),
    /// After the last record up to this time, in milliseconds since the Unix epoch.
    Time(u64),
}

impl Moment {
    /// Reads what the header says: an index, or `@` and milliseconds.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let parsed = match text.strip_prefix('@') {
            Some(at_ms) => at_ms.parse().map(Self::Time),
            None => text.parse().map(Self::Index),
        };
        parsed.map_err(|_| {
            ApiError::new(ErrorCode::Invalid, format!("{text:?} is no moment"))
                .hint("name an index of the log, or @ and milliseconds since the Unix epoch")
        })
    }
}

/// The way to the past. The moment that was asked for last is kept for a while: lists come in pages.
#[derive(Debug)]
pub(crate) struct Past {
    identity: Identity,
    store: Arc<Store>,
    last: Mutex<Option<Kept>>,
}

/// A moment that is kept.
#[derive(Debug)]
struct Kept {
    cluster: Arc<Cluster>,
    asked_at: Instant,
}

impl Past {
    pub(crate) fn new(identity: &Identity, store: &Arc<Store>) -> Arc<Self> {
        let identity = identity.clone();
        Arc::new(Self { identity, store: Arc::clone(store), last: Mutex::new(None) })
    }

    /// The cluster as it was. Reads the disk: for a thread of its own.
    pub(crate) fn at(self: &Arc<Self>, moment: Moment) -> Result<Arc<Cluster>, ApiError> {
        let internal = |error: ManagerError| {
            ApiError::new(ErrorCode::Internal, format!("the past cannot be read: {error}"))
        };
        let (first, newest) = self.store.reach().map_err(internal)?;
        let index = match moment {
            Moment::Index(index) => Some(index),
            Moment::Time(at_ms) => self.store.index_at(at_ms).map_err(internal)?,
        };
        let Some(index) = index.filter(|index| (first..=newest).contains(index)) else {
            return Err(ApiError::new(
                ErrorCode::NotFound,
                format!("this manager's history reaches from index {first} to {newest}"),
            )
            .hint("`longshore events --all -o json` shows what happened when, with its index"));
        };
        let mut last = self.last();
        if let Some(kept) = last.as_mut() {
            let Meta { index: known, chain, .. } = kept.cluster.state().meta;
            // This manager may have left the past that it was of.
            if known == index && self.store.ends_with(index, chain).map_err(internal)? {
                kept.asked_at = Instant::now();
                return Ok(Arc::clone(&kept.cluster));
            }
        }
        let state = self.store.state_at(index).map_err(internal)?;
        let cluster = Arc::new(Cluster::new(self.identity.clone(), Settings::default(), state));
        if last.replace(Kept { cluster: Arc::clone(&cluster), asked_at: Instant::now() }).is_none()
        {
            tokio::spawn(Arc::clone(self).forget());
        }
        Ok(cluster)
    }

    /// Forgets what is kept once nobody has asked for it for a while: it may be as large as the cluster itself.
    async fn forget(self: Arc<Self>) {
        let mut idle = IDLE_MAX;
        loop {
            tokio::time::sleep(idle).await;
            let mut last = self.last();
            let Some(kept) = last.as_ref() else { return };
            idle = IDLE_MAX.saturating_sub(kept.asked_at.elapsed());
            if idle.is_zero() {
                *last = None;
                return;
            }
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<Kept>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::tests::Going;

    #[tokio::test(start_paused = true)]
    async fn a_moment_is_kept_while_somebody_asks_and_shows_no_past_that_was_left() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path()).unwrap());
        let mut going = Going::new();
        for _ in 0..3 {
            store.commit(going.on()).unwrap();
        }
        let past = Past::new(going.identity(), &store);
        let first = past.at(Moment::Index(2)).unwrap();
        tokio::time::sleep(IDLE_MAX * 2 / 3).await;
        assert!(Arc::ptr_eq(&first, &past.at(Moment::Index(2)).unwrap()), "another page of it");
        tokio::time::sleep(IDLE_MAX * 2 / 3).await;
        assert!(past.last().is_some(), "it was asked for meanwhile");
        tokio::time::sleep(IDLE_MAX).await;
        assert!(past.last().is_none());

        // Another past stands in its place.
        let left = past.at(Moment::Index(2)).unwrap();
        let mut other = Going::of(7);
        for _ in 0..3 {
            store.commit(other.on()).unwrap();
        }
        let now = past.at(Moment::Index(2)).unwrap();
        assert_ne!(now.state().meta.chain, left.state().meta.chain);
    }
}
