//! The cluster as it was: the point of time travel before a moment, and the journal from there on.

use std::sync::{Arc, Mutex, PoisonError};

use longshore_core::cluster::{Cluster, Identity, Settings};
use longshore_proto::error::{ApiError, ErrorCode};

use crate::error::ManagerError;
use crate::store::Store;

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

/// The way to the past. The moment that was asked for last is kept: lists come in pages.
#[derive(Debug)]
pub(crate) struct Past {
    identity: Identity,
    store: Arc<Store>,
    last: Mutex<Option<Arc<Cluster>>>,
}

impl Past {
    pub(crate) fn new(identity: &Identity, store: &Arc<Store>) -> Arc<Self> {
        let identity = identity.clone();
        Arc::new(Self { identity, store: Arc::clone(store), last: Mutex::new(None) })
    }

    /// The cluster as it was. Reads the disk: for a thread of its own.
    pub(crate) fn at(&self, moment: Moment) -> Result<Arc<Cluster>, ApiError> {
        let internal = |error: ManagerError| {
            ApiError::new(ErrorCode::Internal, format!("the past cannot be read: {error}"))
        };
        let (first, newest) = self.store.reach().map_err(internal)?;
        let index = match moment {
            Moment::Index(index) => index,
            Moment::Time(at_ms) => self.store.index_at(at_ms).map_err(internal)?,
        };
        if index < first || index > newest {
            return Err(ApiError::new(
                ErrorCode::NotFound,
                format!("this manager's history reaches from index {first} to {newest}"),
            )
            .hint("`longshore events -n 500` shows what happened when, with its index"));
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = last.as_ref().filter(|known| known.state().meta.index == index) {
            return Ok(Arc::clone(cluster));
        }
        let state = self.store.state_at(index).map_err(internal)?;
        let cluster = Arc::new(Cluster::new(self.identity.clone(), Settings::default(), state));
        *last = Some(Arc::clone(&cluster));
        Ok(cluster)
    }
}
