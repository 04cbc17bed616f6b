//! This manager's own disk: the present state, the journal of records and the history of events, in fjall.
//!
//! Each record is written as one batch: the state it changed, its bytes and its events, so that a crash leaves
//! all of it or nothing. Every commit is synced: a promise rests on it. All calls block; the driver makes them
//! on threads of their own.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use longshore_core::cluster::persist::{LoadError, Write};
use longshore_core::cluster::state::State;
use longshore_proto::api::{ListEvents, PAGE_MAX};
use longshore_proto::codec;
use longshore_proto::event::Event;
use longshore_proto::name::{JobName, Namespace};
use uuid::Uuid;

use crate::error::ManagerError;

/// The version of the layout: which keyspaces there are and what their keys mean.
const LAYOUT: &[u8] = b"1";

/// This manager's own disk.
pub struct Store {
    database: Database,
    /// Single values: layout, this store's id, the log's identity.
    local: Keyspace,
    /// The present state by kind; keys are the core's.
    state: Keyspace,
    /// Records by index.
    journal: Keyspace,
    /// Events by (index, ordinal), and the index of them by job.
    history: Keyspace,
    id: Uuid,
    path: PathBuf,
}

/// What some records changed, to be written at once. Of several values for one key the last counts.
#[derive(Debug, Default)]
pub struct Batch {
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    records: Vec<(u64, Vec<u8>)>,
    events: Vec<Event>,
}

impl Batch {
    /// Adds a record: its place and bytes, what it changed, and its events.
    pub fn record(&mut self, index: u64, bytes: Vec<u8>, writes: Vec<Write>, events: Vec<Event>) {
        writes.into_iter().for_each(|write| self.write(write));
        self.records.push((index, bytes));
        self.events.extend(events);
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
        let database = Database::builder(&path).open().map_err(fail)?;
        let open = |name| database.keyspace(name, options).map_err(fail);
        let local = open("local")?;
        let store = Self {
            state: open("state")?,
            journal: open("journal")?,
            history: open("history")?,
            id: identity(&database, &local).map_err(fail)?,
            local,
            database,
            path,
        };
        match store.local.get("layout")? {
            Some(found) if *found == *LAYOUT => {}
            Some(found) => {
                let text = format!("layout {}", String::from_utf8_lossy(&found));
                return Err(fail(io::Error::new(io::ErrorKind::InvalidData, text).into()));
            }
            None => store.put_local("layout", LAYOUT)?,
        }
        Ok(store)
    }

    /// This store's own id, made when the directory was.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the state.
    pub fn load(&self) -> Result<State, ManagerError> {
        // The core knows no fjall: what fails to be read is kept aside, and ends the reading.
        let mut failed = None;
        let pairs = self.state.iter().map_while(|guard| match guard.into_inner() {
            Ok((key, value)) => {
                Some(Ok::<_, LoadError>((Cow::Owned(key.to_vec()), Cow::Owned(value.to_vec()))))
            }
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        let state = State::load(pairs)?;
        match failed {
            Some(source) => Err(ManagerError::Store { source }),
            None => Ok(state),
        }
    }

    /// Commits what some records changed, their bytes and their events, all of it or nothing, and synced.
    pub fn commit(&self, changes: Batch) -> Result<(), ManagerError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in changes.writes {
            match value {
                Some(value) => batch.insert(&self.state, key, value),
                None => batch.remove(&self.state, key),
            }
        }
        for (index, bytes) in changes.records {
            batch.insert(&self.journal, index.to_be_bytes(), bytes);
        }
        for event in &changes.events {
            let at = place(event.index, event.ordinal);
            if let (Some(namespace), Some(job)) = (&event.namespace, &event.job) {
                batch.insert(&self.history, job_key(namespace, job, &at), []);
            }
            batch.insert(&self.history, event_key(&at), codec::encode(event));
        }
        Ok(batch.commit()?)
    }

    /// When the log's stream was created, as the server said when this store first saw it.
    pub fn log_created(&self) -> Result<Option<String>, ManagerError> {
        Ok(self.local.get("log-created")?.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    /// Remembers when the log's stream was created.
    pub fn set_log_created(&self, created: &str) -> Result<(), ManagerError> {
        self.put_local("log-created", created.as_bytes())
    }

    /// Events in order, as asked for; and whether there are more.
    pub fn events(
        &self,
        namespace: Option<&Namespace>,
        list: &ListEvents,
    ) -> Result<(Vec<Event>, bool), ManagerError> {
        let limit = list.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX) as usize;
        let after = list.after.map(|(index, ordinal)| place(index, ordinal));
        let mut events = Vec::new();
        let mut more = false;
        let mut take = |event: Option<Event>| {
            let Some(event) = event.filter(|event| {
                // The cluster's and the nodes' events belong to every namespace.
                namespace
                    .is_none_or(|wanted| event.namespace.as_ref().is_none_or(|has| has == wanted))
            }) else {
                return true;
            };
            more = events.len() == limit;
            if !more {
                events.push(event);
            }
            !more
        };
        // By job there is an index; its keys end in the event's place.
        let by_job = list.job.as_ref().zip(namespace);
        let (prefix, from, end) = match by_job {
            Some((job, namespace)) => (
                job_key(namespace, job, &[]),
                job_key(namespace, job, &after.unwrap_or_default()),
                job_key(namespace, job, &[0xff; 12]),
            ),
            None => (event_key(&[]), event_key(&after.unwrap_or_default()), event_key(&[0xff; 12])),
        };
        let range = self.history.range(from..=end);
        let guards: Box<dyn Iterator<Item = fjall::Guard>> =
            if list.newest { Box::new(range.rev()) } else { Box::new(range) };
        for guard in guards {
            let (key, value) = guard.into_inner()?;
            let at = key.get(prefix.len()..).unwrap_or_default();
            if after.is_some_and(|after| at == after) {
                continue;
            }
            let bytes =
                if by_job.is_some() { self.history.get(event_key(at))? } else { Some(value) };
            let event: Option<Event> = bytes.and_then(|bytes| codec::decode_trusted(&bytes).ok());
            if !take(event.filter(|event| list.job.is_none() || event.job == list.job)) {
                break;
            }
        }
        if list.newest {
            events.reverse();
        }
        Ok((events, more))
    }

    fn put_local(&self, key: &str, value: &[u8]) -> Result<(), ManagerError> {
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

/// An event's place in history, in bytes that sort.
fn place(index: u64, ordinal: u32) -> [u8; 12] {
    let mut at = [0; 12];
    let (high, low) = at.split_at_mut(8);
    high.copy_from_slice(&index.to_be_bytes());
    low.copy_from_slice(&ordinal.to_be_bytes());
    at
}

fn event_key(at: &[u8]) -> Vec<u8> {
    [b"e/", at].concat()
}

fn job_key(namespace: &Namespace, job: &JobName, at: &[u8]) -> Vec<u8> {
    [b"j/", namespace.as_str().as_bytes(), b"/", job.as_str().as_bytes(), b"/", at].concat()
}
