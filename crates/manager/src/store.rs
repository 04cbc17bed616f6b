//! This manager's own disk: the present state, the journal of records and the history of events, in fjall.
//!
//! Each record is written as one batch: the state it changed, its bytes and its events, so that a crash leaves
//! all of it or nothing. Every commit is synced: a promise rests on it. All calls block; the driver makes them
//! on threads of their own.

mod layout;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, UserKey, UserValue};
use longshore_core::cluster::persist::{
    Assembly, LoadError, Loaded, Names, Write, is_version, read_meta, split, versions_of, whole,
    write_meta,
};
use longshore_core::cluster::record::{Hash, Record};
use longshore_core::cluster::state::{Meta, State};
use longshore_core::leadership::mend::{Head, LINKS, moved, restored};
use longshore_proto::api::HistoryView;
use longshore_proto::codec;
use longshore_proto::event::Event;
use tokio::sync::watch;
use tracing::info;
use uuid::Uuid;

use crate::backup::Backups;
use crate::error::ManagerError;
use crate::history;
use crate::points::{Point, Points};
use crate::snapshot::{self, Entries, Entry};

/// How many bytes of history a snapshot for others carries.
const SHARED_HISTORY_BYTES: usize = 64 << 20;
/// How many keys are written or removed at once where many are.
const CHUNK: usize = 5_000;
/// How many entries are read at once when the state is loaded: the fewer, the less memory is used beside it.
const LOAD_CHUNK: usize = 500;
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
    history: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Batch {
    /// Adds a record: its place and bytes, what it changed, and its events.
    pub fn record(&mut self, index: u64, bytes: Vec<u8>, writes: Vec<Write>, events: &[Event]) {
        writes.into_iter().for_each(|write| self.write(write));
        self.records.push((index, bytes));
        self.history.extend(events.iter().flat_map(history::entries));
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
            id: identity(&database, &local).map_err(fail)?,
            points: Points::open(data_dir).map_err(|error| fail(error.into()))?,
            applied: watch::Sender::new(0),
            written: AtomicU64::new(0),
            backups: Backups::default(),
            writing: Arc::default(),
            local,
            database,
            path,
        };
        store.bring_to_layout()?;
        if store.local.get("installing")?.is_some() {
            // A snapshot was being taken over when the process ended: what is there is a part of a state.
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

    /// This store's own id, made when the directory was.
    pub fn id(&self) -> Uuid {
        self.id
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

    /// Reads what stands once.
    pub fn load_meta(&self) -> Result<Meta, ManagerError> {
        let stored = self.state.get("meta")?;
        Ok(stored.map(|value| read_meta(&value)).transpose()?.unwrap_or_default())
    }

    /// Reads the state: one thread walks through the store, some read what it finds, and this one puts it together in
    /// the order of keys. Only a few chunks are on their way at any time.
    pub fn load(&self) -> Result<State, ManagerError> {
        type Pairs = Vec<(UserKey, UserValue)>;
        let readers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (sender, receiver) = sync_channel::<(usize, Result<Pairs, fjall::Error>)>(readers);
        let receiver = Mutex::new(receiver);
        let next = || receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let (out, pieces) = sync_channel(readers);
        let read = |out: SyncSender<(usize, Result<Vec<Loaded>, ManagerError>)>| {
            let mut names = Names::default();
            // To the end, whatever is found: whoever sends waits for somebody who takes.
            let mut wanted = true;
            while let Ok((at, pairs)) = next() {
                if !wanted {
                    continue;
                }
                let loaded = pairs.map_err(ManagerError::from).and_then(|pairs| {
                    let read =
                        pairs.iter().map(|(key, value)| Loaded::read(key, value, &mut names));
                    Ok(read.collect::<Result<Vec<Loaded>, LoadError>>()?)
                });
                wanted = out.send((at, loaded)).is_ok();
            }
        };
        let walk = |sender: SyncSender<(usize, Result<Pairs, fjall::Error>)>| {
            let mut pairs = self.state.iter().map(fjall::Guard::into_inner).peekable();
            for at in 0.. {
                let chunk = pairs.by_ref().take(LOAD_CHUNK).collect();
                if sender.send((at, chunk)).is_err() || pairs.peek().is_none() {
                    break;
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(move || walk(sender));
            for _ in 0..readers {
                let out = out.clone();
                scope.spawn(move || read(out));
            }
            drop(out);
            let mut assembly = Assembly::default();
            let (mut due, mut early) = (0, BTreeMap::new());
            for (at, loaded) in pieces {
                early.insert(at, loaded?);
                while let Some(loaded) = early.remove(&due) {
                    loaded.into_iter().for_each(|piece| assembly.add(piece));
                    due += 1;
                }
            }
            if !early.is_empty() {
                return Err(ManagerError::Bug("a reading thread ended"));
            }
            Ok(assembly.finish())
        })
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

    /// When the log's stream was created, as the server said when this store first saw it.
    pub fn log_created(&self) -> Result<Option<String>, ManagerError> {
        Ok(self.local.get("log-created")?.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    /// Remembers when the log's stream was created.
    pub fn set_log_created(&self, created: &str) -> Result<(), ManagerError> {
        self.put_local("log-created", created.as_bytes())
    }

    /// Whether a stream must be there already: this data directory has belonged to a cluster.
    pub fn must_join(&self) -> Result<bool, ManagerError> {
        Ok(self.local.get("must-join")?.is_some())
    }

    /// Whether this store was restored from a backup, and no log was made from it yet.
    pub fn is_restored(&self) -> Result<bool, ManagerError> {
        Ok(self.local.get("restored")?.is_some())
    }

    /// Remembers whether this store was restored from a backup, and no log was made from it yet.
    pub fn set_restored(&self, restored: bool) -> Result<(), ManagerError> {
        if restored {
            return self.put_local("restored", b"1");
        }
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        batch.remove(&self.local, "restored");
        Ok(batch.commit()?)
    }

    /// Whether this manager ever was about to have the log list another one.
    pub(crate) fn has_company(&self) -> Result<bool, ManagerError> {
        Ok(self.local.get("company")?.is_some())
    }

    /// Remembers, for good, that this manager is about to have the log list another one.
    pub(crate) fn note_company(&self) -> Result<(), ManagerError> {
        if self.has_company()? { Ok(()) } else { self.put_local("company", b"1") }
    }

    /// Whether a record of the log is the one that the journal holds in its place.
    pub(crate) fn holds(&self, index: u64, bytes: &[u8]) -> Result<bool, ManagerError> {
        Ok(self.journal.get(index.to_be_bytes())?.is_some_and(|known| *known == *bytes))
    }

    /// Whether the journal holds a record.
    pub(crate) fn has_record(&self, index: u64) -> Result<bool, ManagerError> {
        Ok(self.journal.contains_key(index.to_be_bytes())?)
    }

    /// Notes that the log goes on behind another message of a stream that was made then. None of its records stands
    /// there any more.
    pub(crate) fn move_to(
        &self,
        end: u64,
        chosen: bool,
        created: &str,
    ) -> Result<(), ManagerError> {
        let Write { key, value } = write_meta(&moved(self.load_meta()?, end, chosen));
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.state, key, value.unwrap_or_default());
        batch.insert(&self.local, "log-created", created.as_bytes());
        batch.remove(&self.local, "restored");
        batch.commit()?;
        self.make_point()?;
        Ok(())
    }

    /// Writes what others join from once this store has [moved](Self::move_to), while it has not moved yet.
    pub(crate) fn write_moved(
        &self,
        end: u64,
        chosen: bool,
        created: &str,
    ) -> Result<(PathBuf, Head), ManagerError> {
        let view = self.database.snapshot();
        let meta = moved(self.load_meta()?, end, chosen);
        let head = Head { log_created: Some(created.to_owned()), ..self.head_of(&view, &meta)? };
        let Write { key: meta_key, value } = write_meta(&meta);
        let value = value.unwrap_or_default();
        let entries = self.state_entries(&view).map(|entry| match entry {
            Ok(Entry::State(key, _)) if key == meta_key => Ok(Entry::State(key, value.clone())),
            other => other,
        });
        // No point of time travel: should the healing come to nothing, the state has never been this.
        let path = self.points.passing("moving");
        snapshot::write(&path, &head, entries)?;
        self.write_shared(&path)
    }

    /// Writes the present state as a point of time travel.
    pub(crate) fn make_point(&self) -> Result<Point, ManagerError> {
        let view = self.database.snapshot();
        let head = self.head(&view)?;
        let bytes = self.written.swap(0, Ordering::Relaxed);
        let point = self.points.place(head.index, head.at_ms, bytes);
        snapshot::write(&point.path, &head, self.state_entries(&view))?;
        Ok(point)
    }

    /// Writes everything that a backup holds: the present state, and the history.
    pub fn write_backup(&self, path: &Path) -> Result<Head, ManagerError> {
        let view = self.database.snapshot();
        let head = self.head(&view)?;
        let events = view.prefix(&self.history, history::EVENTS).map(|guard| {
            let (_, value) = guard.into_inner()?;
            Ok(Entry::Event(value.to_vec()))
        });
        snapshot::write(path, &head, self.state_entries(&view).chain(events))?;
        Ok(head)
    }

    /// Writes what others join from: a state from a file, and the newest part of the history up to it.
    pub(crate) fn write_shared(&self, state: &Path) -> Result<(PathBuf, Head), ManagerError> {
        let (head, entries) = snapshot::open(state)?;
        let (mut bytes, mut events) = (0, Vec::new());
        let end = history::event_key(&history::place(head.index, u32::MAX));
        for guard in self.history.range(history::EVENTS.to_vec()..=end).rev() {
            let value = guard.value()?.to_vec();
            bytes += value.len();
            events.push(Ok(Entry::Event(value)));
            if bytes >= SHARED_HISTORY_BYTES {
                break;
            }
        }
        let path = self.points.passing("outgoing");
        let entries = entries.map(|entry| entry.map_err(ManagerError::from));
        snapshot::write(&path, &head, entries.chain(events))?;
        Ok((path, head))
    }

    /// Whether history before the snapshot that this store joined from may be missing here, and be known to others.
    pub(crate) fn is_partial(&self) -> Result<bool, ManagerError> {
        Ok(self.local.get("joined")?.is_some())
    }

    /// How far back the history reaches; `None` where there is none yet.
    pub(crate) fn history_reach(&self) -> Result<Option<HistoryView>, ManagerError> {
        let Some(first) = self.history.prefix(history::EVENTS).next() else { return Ok(None) };
        let joined_index = self.local.get("joined")?.map(|joined| number(&joined));
        let event = codec::decode_trusted::<Event>(&first.value()?).ok();
        Ok(event.map(|event| HistoryView {
            from_index: event.index,
            from_ms: event.at_ms,
            joined_index,
        }))
    }

    fn head(&self, view: &fjall::Snapshot) -> Result<Head, ManagerError> {
        let stored = view.get(&self.state, "meta")?;
        let meta = stored.map(|value| read_meta(&value)).transpose()?.unwrap_or_default();
        self.head_of(view, &meta)
    }

    fn head_of(&self, view: &fjall::Snapshot, meta: &Meta) -> Result<Head, ManagerError> {
        let cluster = meta.cluster.ok_or(ManagerError::Empty)?;
        let mut links = Vec::new();
        let from = meta.index.saturating_sub(LINKS).to_be_bytes();
        for guard in view.range(&self.journal, from..=meta.index.to_be_bytes()) {
            let (key, value) = guard.into_inner()?;
            links.push((number(&key), Hash::of(&value)));
        }
        Ok(Head {
            cluster,
            index: meta.index,
            chain: meta.chain,
            epoch: meta.epoch,
            at_ms: meta.at_ms,
            stream_sequence: meta.stream_sequence,
            log_created: self.log_created()?,
            links,
            version: crate::VERSION.to_owned(),
        })
    }

    /// The state as files for others hold it: with the versions of a job in its value.
    fn state_entries<'a>(
        &'a self,
        view: &'a fjall::Snapshot,
    ) -> impl Iterator<Item = Result<Entry, ManagerError>> + 'a {
        let pairs = view.iter(&self.state).map(fjall::Guard::into_inner);
        let pairs = pairs.filter(|pair| !pair.as_ref().is_ok_and(|(key, _)| is_version(key)));
        pairs.map(|pair| {
            let (key, value) = pair?;
            let Some(prefix) = versions_of(&key) else {
                return Ok(Entry::State(key.to_vec(), value.to_vec()));
            };
            let versions = view.prefix(&self.state, prefix).map(fjall::Guard::value);
            let versions = versions.collect::<Result<Vec<_>, _>>()?;
            Ok(Entry::State(key.to_vec(), whole(&value, versions)?))
        })
    }

    /// Takes over a snapshot: its state replaces the present one, and its history joins the present one. A store
    /// that is restored from a backup moves on by some epochs; one that joins must not.
    pub fn install(
        &self,
        head: &Head,
        entries: Entries,
        restores: bool,
    ) -> Result<(), ManagerError> {
        self.put_local("installing", b"1")?;
        self.state.clear()?;
        let mut batch = self.database.batch();
        let mut state = Vec::new();
        for (at, entry) in entries.enumerate() {
            match entry? {
                Entry::State(key, value) if key == b"meta" => state.push((key, value)),
                Entry::State(key, value) => match split(&key, &value)? {
                    Some(writes) => self.put(&mut batch, writes),
                    None => batch.insert(&self.state, key, value),
                },
                Entry::Event(bytes) => {
                    if let Ok(event) = codec::decode_trusted::<Event>(&bytes) {
                        for (key, value) in history::entries(&event) {
                            batch.insert(&self.history, key, value);
                        }
                    }
                }
            }
            if at % CHUNK == CHUNK - 1 {
                std::mem::replace(&mut batch, self.database.batch()).commit()?;
            }
        }
        batch.commit()?;
        let (_, meta) = state.pop().ok_or(ManagerError::Empty)?;
        let meta = read_meta(&meta)?;
        let meta = if restores { restored(meta) } else { meta };
        // The end: from here on the state is whole.
        let mut last = self.database.batch().durability(Some(PersistMode::SyncAll));
        let Write { key, value } = write_meta(&meta);
        last.insert(&self.state, key, value.unwrap_or_default());
        if !restores {
            last.insert(&self.local, "joined", head.index.to_be_bytes());
        }
        last.remove(&self.local, "installing");
        last.remove(&self.local, "must-join");
        // A restored store that heals the log may join from its own snapshot, where it died on the way.
        last.remove(&self.local, "restored");
        last.commit()?;
        self.applied.send_replace(head.index);
        // Time travel begins here.
        self.make_point()?;
        Ok(())
    }

    /// How far back the past reaches, and how far on: indexes of the log.
    pub(crate) fn reach(&self) -> Result<(u64, u64), ManagerError> {
        let newest = self.load_meta()?.index;
        let whole = self.journal.contains_key(1u64.to_be_bytes())?;
        let oldest = self.points.list()?.first().map_or(newest, |point| point.index);
        Ok((if whole { 1 } else { oldest }, newest))
    }

    /// The index of the last record up to a time, in milliseconds since the Unix epoch. Times of records never fall.
    pub(crate) fn index_at(&self, at_ms: u64) -> Result<u64, ManagerError> {
        let (mut low, mut high) = self.reach()?;
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let bytes = self.journal.get(middle.to_be_bytes())?;
            let record = bytes.and_then(|bytes| Record::decode(&bytes).ok());
            match record {
                Some(record) if record.at_ms > at_ms => high = middle - 1,
                _ => low = middle,
            }
        }
        Ok(low)
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
            if let Ok(event) = codec::decode_trusted::<Event>(&value) {
                for (key, _) in history::entries(&event) {
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

    pub(crate) fn put_local(&self, key: &str, value: &[u8]) -> Result<(), ManagerError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        batch.insert(&self.local, key, value);
        Ok(batch.commit()?)
    }
}

fn identity(database: &Database, local: &Keyspace) -> Result<Uuid, fjall::Error> {
    if let Some(bytes) = local.get("id")?
        && let Ok(id) = Uuid::from_slice(&bytes)
    {
        return Ok(id);
    }
    let id = Uuid::new_v4();
    let mut batch = database.batch().durability(Some(PersistMode::SyncData));
    batch.insert(local, "id", id.as_bytes().as_slice());
    batch.commit()?;
    Ok(id)
}

/// A key that is a number.
fn number(key: &[u8]) -> u64 {
    key.iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
}
