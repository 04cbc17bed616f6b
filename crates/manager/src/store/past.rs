//! What the store knows of the past: how far it reaches, the state as it was, and what is forgotten of it.

use std::borrow::Cow;

use fjall::PersistMode;
use longshore_core::cluster::record::Record;
use longshore_core::cluster::state::State;
use longshore_proto::api::HistoryView;
use tracing::info;

use super::{Store, number};
use crate::error::ManagerError;
use crate::history;
use crate::points::Point;
use crate::snapshot::{self, Entry};

impl Store {
    /// How far back the past reaches, and how far on: indexes of the log.
    pub(crate) fn reach(&self) -> Result<(u64, u64), ManagerError> {
        let newest = self.load_meta()?.index;
        let whole = self.journal.contains_key(1u64.to_be_bytes())?;
        let oldest = self.points.list()?.first().map_or(newest, |point| point.index);
        Ok((if whole { 1 } else { oldest }, newest))
    }

    /// How far back the history reaches; `None` where there is none yet.
    pub(crate) fn history_reach(&self) -> Result<Option<HistoryView>, ManagerError> {
        let joined_index = self.local.get("joined")?.map(|joined| number(&joined));
        let first = self.first_readable(history::EVENTS.to_vec())?;
        Ok(first.map(|event| HistoryView {
            from_index: event.index,
            from_ms: event.at_ms,
            joined_index,
        }))
    }

    /// The index of the last record up to a time, in milliseconds since the Unix epoch; nothing for a time before all that
    /// is kept, which the oldest moment that is kept knows nothing of. Times of records never fall.
    pub(crate) fn index_at(&self, at_ms: u64) -> Result<Option<u64>, ManagerError> {
        let (mut low, mut high) = self.reach()?;
        let oldest = self.points.list()?.into_iter().find(|point| point.index == low && low > 1);
        if oldest.is_some_and(|point| at_ms < point.at_ms) {
            return Ok(None);
        }
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let bytes = self.journal.get(middle.to_be_bytes())?;
            let record = bytes.and_then(|bytes| Record::decode(&bytes).ok());
            match record {
                Some(record) if record.at_ms > at_ms => high = middle - 1,
                _ => low = middle,
            }
        }
        Ok(Some(low))
    }

    /// The state as it was after a record: the newest point before, and the journal from there on.
    pub(crate) fn state_at(&self, index: u64) -> Result<State, ManagerError> {
        let point = self.points.list()?.into_iter().rev().find(|point| point.index <= index);
        let base = match &point {
            Some(point) => {
                let (head, entries) = snapshot::open(&point.path)?;
                if self.load_meta()?.cluster != Some(head.cluster) {
                    // The folder was used for another cluster before.
                    return Err(ManagerError::Torn { index });
                }
                let mut damaged = None;
                let pairs = entries.map_while(|entry| match entry {
                    Ok(Entry::State(key, value)) => Some(Ok((Cow::Owned(key), Cow::Owned(value)))),
                    Ok(Entry::Event(_)) => None,
                    Err(error) => {
                        damaged = Some(error);
                        None
                    }
                });
                let state = State::load(pairs)?;
                match damaged {
                    Some(error) => return Err(error.into()),
                    None => state,
                }
            }
            None => State::default(),
        };
        let mut state = base;
        let from = state.meta.index + 1;
        for guard in self.journal.range(from.to_be_bytes()..=index.to_be_bytes()) {
            let (_, bytes) = guard.into_inner()?;
            let record = Record::decode(&bytes)
                .map_err(|_| ManagerError::Torn { index: state.meta.index + 1 })?;
            state
                .follow(&record, &bytes, 0)
                .map_err(|_| ManagerError::Torn { index: record.index })?;
        }
        Ok(state)
    }

    /// Forgets what is older than a time, and the oldest stretches beyond so many bytes, point by point: journal,
    /// history and points. What lies behind the newest point stays.
    pub(crate) fn forget(&self, oldest_ms: u64, bytes_max: u64) -> Result<(), ManagerError> {
        let points = self.points.list()?;
        let mut bytes: u64 = points.iter().map(|point| point.bytes).sum();
        let mut base: Option<&Point> = None;
        for point in points.iter().rev().skip(1).rev() {
            if point.at_ms < oldest_ms || bytes > bytes_max {
                bytes = bytes.saturating_sub(point.bytes);
                base = Some(point);
            }
        }
        let Some(base) = base else { return Ok(()) };
        info!(index = base.index, "forgetting history up to here, by the policy");
        for guard in self.journal.range(..=base.index.to_be_bytes()) {
            let key = guard.key()?;
            self.journal.remove(key)?;
        }
        let end = history::event_key(&history::place(base.index, u32::MAX));
        for guard in self.history.range(history::EVENTS.to_vec()..=end) {
            let (key, value) = guard.into_inner()?;
            // What cannot be read leaves its places in the indexes behind, which lead nowhere and are passed over.
            if let Some(event) = self.read_event(&key, &value) {
                // As if each had entries of its own: of those that share one the first takes it along.
                for (key, _) in history::entries(std::slice::from_ref(&event)) {
                    self.history.remove(key)?;
                }
            }
            self.history.remove(key)?;
        }
        if self.local.get("joined")?.is_some_and(|joined| number(&joined) <= base.index) {
            self.local.remove("joined")?;
        }
        self.database.persist(PersistMode::SyncData)?;
        for point in points.iter().take_while(|point| point.index < base.index) {
            self.points.remove(point)?;
        }
        Ok(())
    }
}
