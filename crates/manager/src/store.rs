//! This manager's own disk: the present state, the journal of records and the history of events, in fjall.
//!
//! Each record is written as one batch: the state it changed, its bytes and its events, so that a crash leaves
//! all of it or nothing. Every commit is synced: a promise rests on it. All calls block; the driver makes them
//! on threads of their own.

mod layout;
mod load;
mod local;
mod past;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, UserKey, UserValue};
use longshore_core::cluster::persist::Write;
use longshore_core::cluster::record::Hash;
use longshore_core::cluster::state::{Meta, State};
use longshore_proto::event::Event;
use tokio::sync::watch;
use uuid::Uuid;

use crate::backup::Backups;
use crate::error::ManagerError;
use crate::history;
use crate::points::Points;

/// How many keys are written or removed at once where many are.
const CHUNK: usize = 5_000;
/// How many threads write out what is in memory and merge what is on the disk. Of several, fjall 3.1 has the first only
/// write out: what there is to merge it hands on, again and again, for as long as the others are merging, and so takes a
/// core for nothing. Nobody waits for one thread, unless it falls behind by four memtables.
const STORE_THREADS: usize = 1;
/// How many bytes of the store's blocks are kept in memory: the state is there anyway, and the history is seldom asked
/// for.
const CACHE_BYTES: u64 = 4 << 20;

/// This manager's own disk.
pub struct Store {
    database: Database,
    /// Single values: layout, this store's id, the log's identity.
    local: Keyspace,
    /// The present state by kind; keys are the core's.
    state: Keyspace,
    /// Records by index.
    journal: Keyspace,
    /// Events, and the indexes of them; keys are [`history`]'s.
    pub(crate) history: Keyspace,
    id: Uuid,
    path: PathBuf,
    points: Points,
    /// The index of the last record that was committed.
    applied: watch::Sender<u64>,
    /// About how many bytes of journal and history were written since the last point.
    written: AtomicU64,
    /// The events that could not be read, as far as they were told.
    pub(crate) unreadable: Mutex<BTreeSet<Vec<u8>>>,
    /// What was written for askers to read.
    pub(crate) backups: Backups,
    /// Held while records are written.
    writing: Arc<tokio::sync::Mutex<()>>,
}

/// What some records changed, to be written at once. Of several values for one key the last counts.
#[derive(Debug, Default)]
pub struct Batch {
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    records: Vec<(u64, Vec<u8>)>,
    /// Events and their places in the indexes.
    history: Vec<(UserKey, UserValue)>,
}

impl Batch {
    /// Adds a record: its place and bytes, what it changed, and its events.
    pub fn record(&mut self, index: u64, bytes: Vec<u8>, writes: Vec<Write>, events: &[Event]) {
        writes.into_iter().for_each(|write| self.write(write));
        self.records.push((index, bytes));
        self.history.extend(history::entries(events));
    }

    /// Adds what later records changed.
    pub fn extend(&mut self, later: Self) {
        self.writes.extend(later.writes);
        self.records.extend(later.records);
        self.history.extend(later.history);
    }

    /// Adds a change without a record.
    pub fn write(&mut self, Write { key, value }: Write) {
        self.writes.insert(key, value);
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or makes the store below a data directory.
    ///
    /// # Errors
    /// Another process has it, it is of a newer layout, or the disk fails.
    pub fn open(data_dir: &Path) -> Result<Self, ManagerError> {
        let path = data_dir.join("manager");
        let fail = |source: fjall::Error| match source {
            fjall::Error::Locked => ManagerError::Locked { path: data_dir.to_owned() },
            source => ManagerError::Open { path: data_dir.to_owned(), source },
        };
        std::fs::create_dir_all(&path).map_err(|error| fail(error.into()))?;
        // Memtables are small because the journal is kept until every keyspace has flushed.
        let options = || KeyspaceCreateOptions::default().max_memtable_size(16 << 20);
        let database = Database::builder(&path)
            .cache_size(CACHE_BYTES)
            .worker_threads(STORE_THREADS)
            .open()
            .map_err(fail)?;
        let open = |name| database.keyspace(name, options).map_err(fail);
        let local = open("local")?;
        let store = Self {
            state: open("state")?,
            journal: open("journal")?,
            history: open("history")?,
            id: local::identity(&database, &local).map_err(fail)?,
            points: Points::open(data_dir).map_err(|error| fail(error.into()))?,
            applied: watch::Sender::new(0),
            written: AtomicU64::new(0),
            unreadable: Mutex::default(),
            backups: Backups::default(),
            writing: Arc::default(),
            local,
            database,
            path,
        };
        store.bring_to_layout()?;
        if store.local.get("installing")?.is_some() {
            // A snapshot was being taken over when the process ended: what is there is a part of a state. Where its log is not
            // found either, a cluster is lost, and none is begun in its place.
            store.put_local("must-join", b"1")?;
            store.state.clear()?;
        }
        store.applied.send_replace(store.load_meta()?.index);
        Ok(store)
    }

    /// Opens the store, and looks whether what it holds fits together. A store that is damaged is set aside, and an
    /// empty one opened in its place, which must join a cluster that is there already and never begins one.
    pub fn open_sound(data_dir: &Path) -> Result<(Self, State), ManagerError> {
        let opened = Self::open(data_dir).and_then(|store| {
            let state = store.load_checked()?;
            Ok((store, state))
        });
        let error = match opened {
            Err(error) if error.is_damage() => error,
            other => return other,
        };
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let name = format!("manager.damaged-{}", since_epoch.unwrap_or_default().as_millis());
        let aside = data_dir.join(name);
        tracing::error!(
            error = &error as &dyn std::error::Error, aside = %aside.display(),
            "the store is damaged; it is set aside, and rebuilt from the log"
        );
        std::fs::rename(data_dir.join("manager"), &aside).map_err(|source| ManagerError::Open {
            path: data_dir.to_owned(),
            source: source.into(),
        })?;
        let store = Self::open(data_dir)?;
        store.put_local("must-join", b"1")?;
        Ok((store, State::default()))
    }

    /// The state, after a check that the journal ends with the record that it reflects.
    fn load_checked(&self) -> Result<State, ManagerError> {
        let state = self.load()?;
        let Meta { index, chain, .. } = state.meta;
        match self.journal.get(index.to_be_bytes())? {
            Some(bytes) if Hash::of(&bytes) != chain => Err(ManagerError::Torn { index }),
            _ => Ok(state),
        }
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The points of time travel.
    pub(crate) fn points(&self) -> &Points {
        &self.points
    }

    /// The index of the last record that was committed, as it moves.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// [Commits](Self::commit) on a thread of its own. Whoever no longer waits for it cannot call it back: see
    /// [`Self::settled`].
    pub(crate) async fn write(self: &Arc<Self>, changes: Batch) -> Result<(), ManagerError> {
        let turn = Arc::clone(&self.writing).lock_owned().await;
        let store = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || {
            let written = store.commit(changes);
            drop(turn);
            written
        });
        written.await.map_err(|_| ManagerError::Bug("the store's thread ended"))?
    }

    /// Waits until nothing is being written any more.
    pub(crate) async fn settled(&self) {
        drop(self.writing.lock().await);
    }

    /// A disk that takes a while: nothing is written for as long as this is held.
    #[cfg(test)]
    pub(crate) async fn busy(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.writing).lock_owned().await
    }

    /// Commits what some records changed, their bytes and their events, all of it or nothing, and synced.
    pub fn commit(&self, changes: Batch) -> Result<(), ManagerError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        let writes = changes.writes.into_iter();
        self.put(&mut batch, writes.map(|(key, value)| Write { key, value }));
        let mut written = 0;
        let last = changes.records.last().map(|(index, _)| *index);
        for (index, bytes) in changes.records {
            written += bytes.len();
            batch.insert(&self.journal, index.to_be_bytes(), bytes);
        }
        for (key, value) in changes.history {
            written += key.len() + value.len();
            batch.insert(&self.history, key, value);
        }
        batch.commit()?;
        self.written.fetch_add(written as u64, Ordering::Relaxed);
        if let Some(index) = last {
            self.applied.send_replace(index);
        }
        Ok(())
    }

    fn put(&self, batch: &mut fjall::OwnedWriteBatch, writes: impl IntoIterator<Item = Write>) {
        for Write { key, value } in writes {
            match value {
                Some(value) => batch.insert(&self.state, key, value),
                None => batch.remove(&self.state, key),
            }
        }
    }

    /// Whether a record of the log is the one that the journal holds in its place.
    pub(crate) fn holds(&self, index: u64, bytes: &[u8]) -> Result<bool, ManagerError> {
        Ok(self.journal.get(index.to_be_bytes())?.is_some_and(|known| *known == *bytes))
    }

    /// Whether the journal holds a record of this hash in a place.
    pub(crate) fn ends_with(&self, index: u64, chain: Hash) -> Result<bool, ManagerError> {
        let bytes = self.journal.get(index.to_be_bytes())?;
        Ok(bytes.is_some_and(|bytes| Hash::of(&bytes) == chain))
    }

    /// Whether the journal holds a record.
    pub(crate) fn has_record(&self, index: u64) -> Result<bool, ManagerError> {
        Ok(self.journal.contains_key(index.to_be_bytes())?)
    }
}

/// A key that is a number.
fn number(key: &[u8]) -> u64 {
    key.iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
}
