//! What the store writes into files for others and for later, and what it takes over from them: points of time travel,
//! backups, snapshots to join from, and those that a healed log goes on behind.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use fjall::{PersistMode, Readable};
use longshore_core::cluster::persist::{
    Write, is_version, read_meta, split, versions_of, whole, write_meta,
};
use longshore_core::cluster::record::Hash;
use longshore_core::cluster::state::Meta;
use longshore_core::leadership::mend::{Head, LINKS, moved, restored};
use longshore_proto::codec;
use longshore_proto::event::Event;
use tracing::warn;

use super::{CHUNK, Store, number};
use crate::error::ManagerError;
use crate::history;
use crate::points::Point;
use crate::snapshot::{self, Entries, Entry};

/// How many bytes of history a snapshot for others carries.
const SHARED_HISTORY_BYTES: usize = 64 << 20;

impl Store {
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
        let Write { key: meta_key, value: Some(value) } = write_meta(&meta) else {
            return Err(ManagerError::Bug("what stands once is never removed"));
        };
        let entries = self.state_entries(&view).map(|entry| match entry {
            Ok(Entry::State(key, _)) if key == meta_key => Ok(Entry::State(key, value.clone())),
            other => other,
        });
        // No point of time travel: should the healing come to nothing, the state has never been this.
        let path = self.points.passing("moving");
        snapshot::write(&path, &head, entries)?;
        self.write_shared(&path)
    }

    /// Notes that the log goes on behind another message of a stream that was made then. None of its records stands
    /// there any more.
    pub(crate) fn move_to(
        &self,
        end: u64,
        chosen: bool,
        created: &str,
    ) -> Result<(), ManagerError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        self.put(&mut batch, [write_meta(&moved(self.load_meta()?, end, chosen))]);
        batch.insert(&self.local, "log-created", created.as_bytes());
        batch.remove(&self.local, "restored");
        batch.commit()?;
        self.make_point()?;
        Ok(())
    }

    /// Takes over a snapshot: its state replaces the present one, and its history joins the present one. A store
    /// that is restored from a backup moves on by some epochs, and is marked as restored; one that joins must not.
    pub fn install(
        &self,
        head: &Head,
        entries: Entries,
        restores: bool,
    ) -> Result<(), ManagerError> {
        self.put_local("installing", b"1")?;
        self.state.clear()?;
        let mut batch = self.database.batch();
        let (mut state, mut unreadable) = (Vec::new(), 0_u64);
        for (at, entry) in entries.enumerate() {
            match entry? {
                Entry::State(key, value) if key == b"meta" => state.push((key, value)),
                Entry::State(key, value) => match split(&key, &value)? {
                    Some(writes) => self.put(&mut batch, writes),
                    None => batch.insert(&self.state, key, value),
                },
                Entry::Event(bytes) => {
                    if let Ok(event) = codec::decode_trusted::<Event>(&bytes) {
                        for (key, value) in history::entries(std::slice::from_ref(&event)) {
                            batch.insert(&self.history, key, value);
                        }
                    } else {
                        unreadable += 1;
                    }
                }
            }
            if at % CHUNK == CHUNK - 1 {
                std::mem::replace(&mut batch, self.database.batch()).commit()?;
            }
        }
        batch.commit()?;
        if unreadable > 0 {
            warn!(
                unreadable,
                "the snapshot has events that cannot be read; the history goes on without them"
            );
        }
        let (_, meta) = state.pop().ok_or(ManagerError::Empty)?;
        let meta = read_meta(&meta)?;
        let meta = if restores { restored(meta) } else { meta };
        // The end: from here on the state is whole.
        let mut last = self.database.batch().durability(Some(PersistMode::SyncAll));
        self.put(&mut last, [write_meta(&meta)]);
        // A store that is marked as restored and heals the log may join from its own snapshot, where it died on the way.
        if restores {
            last.insert(&self.local, "restored", b"1");
        } else {
            last.insert(&self.local, "joined", head.index.to_be_bytes());
            last.remove(&self.local, "restored");
        }
        last.remove(&self.local, "installing");
        last.remove(&self.local, "must-join");
        last.commit()?;
        self.applied.send_replace(head.index);
        // Time travel begins here.
        self.make_point()?;
        Ok(())
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
}
