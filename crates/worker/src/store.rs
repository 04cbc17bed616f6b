//! The worker's own store: what it must not forget when its process or its machine goes down.
//!
//! One fjall database with one keyspace; a byte before each key says what it is. A step's writes are one
//! atomic batch that is synced before anything of the step is done, unless the brain says that they may be lost: then the
//! next batch that is synced takes them along. Each sync costs Docker time, too, where both have one disk. The database is
//! written by one caller at a time, on a thread that may wait for the disk.
//!
//! | key | value |
//! |---|---|
//! | `m` `format` | the version of this table, as text |
//! | `m` `node` | the node's id |
//! | `m` `name` | the node's name: its containers carry it, so it must not change |
//! | `m` `cluster`, `m` `revision` | as in [`Saved`] |
//! | `t` task id | [`TaskRecord`] |
//! | `x` task id | [`Tombstone`] |
//! | `r` sequence, big-endian | [`TaskReport`] |
//! | `k` sequence, big-endian | [`KeptContainer`] |
//! | `s` its words | [`StockRecord`] |
//!
//! Values are MessagePack maps as on the wire; unknown fields are ignored and new ones have defaults, so the
//! format's version rises only when an old worker could not go on with what a new one wrote.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use longshore_core::agent::{
    KeptContainer, Saved, StockItem, StockRecord, Stored, TaskRecord, Tombstone, Write, Writes,
};
use longshore_proto::codec;
use longshore_proto::id::{NodeId, TaskId};
use longshore_proto::name::NodeName;
use longshore_proto::node::TaskReport;
use longshore_proto::quantity::format_bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version of the table above.
const FORMAT: &str = "1";
/// The database's folder inside the data directory.
const FOLDER: &str = "store";
const CACHE_BYTES: u64 = 8 << 20;
const MEMTABLE_BYTES_MAX: u64 = 4 << 20;
/// How much room there must be at the start: for what is in memory, and for as much again while that is written anew.
const ROOM_BYTES_MIN: u64 = 2 * MEMTABLE_BYTES_MAX;

const META: u8 = b'm';
const TASK: u8 = b't';
const TOMBSTONE: u8 = b'x';
const REPORT: u8 = b'r';
const KEPT: u8 = b'k';
const STOCK: u8 = b's';

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error(
        "another worker uses the data directory {path}; stop it, or give this one its own with --data-dir"
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// The directory cannot be made or read.
    #[error(
        "cannot use the data directory {path}; make it writable for this user, or name another with --data-dir"
    )]
    Directory {
        /// The data directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no room to write. Told before the worker registers, for one that would end at its first write would get tasks
    /// again and again, and start none.
    #[error(
        "the disk of the data directory {path} has {} free, and the worker's store needs {}; make room, then start the \
         worker again: its containers run on",
        format_bytes(*.free), format_bytes(ROOM_BYTES_MIN)
    )]
    NoRoom {
        /// The data directory.
        path: PathBuf,
        /// How many bytes are free.
        free: u64,
    },
    /// The database does not open.
    #[error(
        "the worker's store in {path} does not open; if its disk was damaged, move the directory away: a worker \
         with an empty one joins as a new node once the manager has given this one up, and adopts what runs"
    )]
    Open {
        /// The data directory.
        path: PathBuf,
        /// What the database says.
        source: fjall::Error,
    },
    /// It is another node's.
    #[error(
        "the data directory {path} belongs to the node {found}, whose containers carry that name; start the worker \
         with --name {found}, or give this node its own directory with --data-dir"
    )]
    OtherNode {
        /// The data directory.
        path: PathBuf,
        /// Whose it is.
        found: NodeName,
    },
    /// It was written by a newer worker.
    #[error(
        "the worker's store in {path} has format {found}, and this version reads {FORMAT}; use the newer worker again"
    )]
    Format {
        /// The data directory.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// A value cannot be read.
    #[error(
        "the worker's store in {path} has a value that cannot be read ({key}); move the directory away and start again"
    )]
    Value {
        /// The data directory.
        path: PathBuf,
        /// Which.
        key: String,
        /// What is wrong with it.
        source: codec::DecodeError,
    },
    /// Reading or writing failed.
    #[error(
        "the worker's store in {path} failed; look at the disk (full? damaged?), then start the worker again: its containers run on"
    )]
    Failed {
        /// The data directory.
        path: PathBuf,
        /// What the database says.
        source: fjall::Error,
    },
}

/// The worker's store. Cheap to clone; writes must not be concurrent.
#[derive(Clone)]
pub struct Store {
    database: Database,
    keyspace: Keyspace,
    path: Arc<Path>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store of a node's data directory, making both where they do not exist. `fresh` is the node's
    /// id if there is none yet. Blocks.
    pub fn open(
        data_dir: &Path,
        name: &NodeName,
        fresh: NodeId,
    ) -> Result<(Self, NodeId), StoreError> {
        let path: Arc<Path> = data_dir.into();
        let folder = data_dir.join(FOLDER);
        make_private(&folder)
            .map_err(|source| StoreError::Directory { path: data_dir.to_owned(), source })?;
        if let Some(free) = room(data_dir) {
            enough(data_dir, free)?;
        }
        let open = || -> fjall::Result<(Database, Keyspace)> {
            let database =
                Database::builder(&folder).cache_size(CACHE_BYTES).worker_threads(1).open()?;
            let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES_MAX);
            let keyspace = database.keyspace("worker", options)?;
            Ok((database, keyspace))
        };
        let (database, keyspace) = open().map_err(|source| match source {
            fjall::Error::Locked => StoreError::Locked { path: data_dir.to_owned() },
            source => StoreError::Open { path: data_dir.to_owned(), source },
        })?;
        let store = Self { database, keyspace, path };
        let node_id = store.identify(name, fresh)?;
        Ok((store, node_id))
    }

    /// Checks whose store it is and gives the node's id; an empty store becomes this node's.
    fn identify(&self, name: &NodeName, fresh: NodeId) -> Result<NodeId, StoreError> {
        let format = self.keyspace.get(meta("format")).map_err(|source| self.failed(source))?;
        match format {
            Some(found) if &*found == FORMAT.as_bytes() => {}
            Some(found) => {
                let found = String::from_utf8_lossy(&found).into_owned();
                return Err(StoreError::Format { path: self.path.to_path_buf(), found });
            }
            None => {
                let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
                batch.insert(&self.keyspace, meta("format"), FORMAT.as_bytes());
                batch.insert(&self.keyspace, meta("node"), codec::encode(&fresh));
                batch.insert(&self.keyspace, meta("name"), codec::encode(name));
                batch.commit().map_err(|source| self.failed(source))?;
            }
        }
        if let Some(found) = self.get::<NodeName>(&meta("name"))?.filter(|found| found != name) {
            return Err(StoreError::OtherNode { path: self.path.to_path_buf(), found });
        }
        Ok(self.get(&meta("node"))?.unwrap_or(fresh))
    }

    /// Everything that is stored. Blocks.
    pub fn load(&self) -> Result<Saved, StoreError> {
        Ok(Saved {
            cluster_id: self.get(&meta("cluster"))?,
            revision: self.get(&meta("revision"))?.unwrap_or_default(),
            tasks: self.all::<TaskRecord>(TASK)?.into_iter().map(|(_, record)| record).collect(),
            reports: self
                .all::<TaskReport>(REPORT)?
                .into_iter()
                .map(|(key, report)| (sequence_of(&key), report))
                .collect(),
            kept: self.all::<KeptContainer>(KEPT)?.into_iter().map(|(_, kept)| kept).collect(),
            tombstones: self
                .all::<Tombstone>(TOMBSTONE)?
                .into_iter()
                .map(|(_, stone)| stone)
                .collect(),
            stock: self.all::<StockRecord>(STOCK)?.into_iter().map(|(_, record)| record).collect(),
        })
    }

    /// Stores the writes of some steps, in order, as one batch that is on disk when this returns, where any of them must
    /// be, and gives their receipts. Blocks.
    pub fn commit(&self, steps: Vec<Writes>) -> Result<Vec<Stored>, StoreError> {
        if steps.iter().any(|writes| !writes.is_empty()) {
            let must_be_synced = steps.iter().any(Writes::must_be_synced);
            let mode = if must_be_synced { PersistMode::SyncData } else { PersistMode::Buffer };
            let mut batch = self.database.batch().durability(Some(mode));
            for write in steps.iter().flat_map(Writes::as_slice) {
                match entry(write) {
                    (key, Some(value)) => batch.insert(&self.keyspace, key, value),
                    (key, None) => batch.remove(&self.keyspace, key),
                }
            }
            batch.commit().map_err(|source| self.failed(source))?;
        }
        Ok(steps.into_iter().map(Writes::stored).collect())
    }

    fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        let found = self.keyspace.get(key).map_err(|source| self.failed(source))?;
        found.map(|value| self.read(key, &value)).transpose()
    }

    fn all<T: DeserializeOwned>(&self, kind: u8) -> Result<Vec<(Vec<u8>, T)>, StoreError> {
        let mut found = Vec::new();
        for guard in self.keyspace.prefix([kind]) {
            let (key, value) = guard.into_inner().map_err(|source| self.failed(source))?;
            found.push((key.to_vec(), self.read(&key, &value)?));
        }
        Ok(found)
    }

    fn read<T: DeserializeOwned>(&self, key: &[u8], value: &[u8]) -> Result<T, StoreError> {
        codec::decode_trusted(value).map_err(|source| StoreError::Value {
            path: self.path.to_path_buf(),
            key: key.escape_ascii().to_string(),
            source,
        })
    }

    fn failed(&self, source: fjall::Error) -> StoreError {
        StoreError::Failed { path: self.path.to_path_buf(), source }
    }
}

/// Makes a folder that only this user may read: what tasks run, with their environment, stands in it.
fn make_private(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Where a write goes, and what is written; without a value the key is removed.
fn entry(write: &Write) -> (Vec<u8>, Option<Vec<u8>>) {
    fn put<T: Serialize>(key: Vec<u8>, value: &T) -> (Vec<u8>, Option<Vec<u8>>) {
        (key, Some(codec::encode(value)))
    }
    match write {
        Write::Cluster(cluster_id) => put(meta("cluster"), cluster_id),
        Write::Revision(revision) => put(meta("revision"), revision),
        Write::Task(record) => put(task_key(TASK, record.task), record),
        Write::TaskForgotten(task) => (task_key(TASK, *task), None),
        Write::Tombstone(tombstone) => put(task_key(TOMBSTONE, tombstone.task), tombstone),
        Write::TombstoneDropped(task) => (task_key(TOMBSTONE, *task), None),
        Write::Report { sequence, report } => put(sequence_key(REPORT, *sequence), report),
        Write::ReportDropped(sequence) => (sequence_key(REPORT, *sequence), None),
        Write::Kept(kept) => put(sequence_key(KEPT, kept.sequence), kept),
        Write::KeptDropped(sequence) => (sequence_key(KEPT, *sequence), None),
        Write::Stock(record) => put(stock_key(&record.item), record),
        Write::StockDropped(item) => (stock_key(item), None),
    }
}

fn meta(name: &str) -> Vec<u8> {
    [&[META], name.as_bytes()].concat()
}

fn task_key(kind: u8, task: TaskId) -> Vec<u8> {
    [&[kind], &task.0.as_bytes()[..]].concat()
}

fn stock_key(item: &StockItem) -> Vec<u8> {
    [&[STOCK], item.to_string().as_bytes()].concat()
}

fn sequence_key(kind: u8, sequence: u64) -> Vec<u8> {
    [&[kind], &sequence.to_be_bytes()[..]].concat()
}

fn sequence_of(key: &[u8]) -> u64 {
    key.iter().skip(1).fold(0, |sequence, byte| sequence << 8 | u64::from(*byte))
}

/// How many bytes are free on the disk of a folder, those among them that only root may write.
fn room(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bfree.saturating_mul(found.f_frsize))
}

fn enough(path: &Path, free: u64) -> Result<(), StoreError> {
    if free < ROOM_BYTES_MIN {
        return Err(StoreError::NoRoom { path: path.to_owned(), free });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use longshore_core::agent::{Agent, FullSet, Input, Settings};
    use longshore_core::time::Now;
    use longshore_proto::id::{BootId, ClusterId, Revision};
    use longshore_proto::node::{Assignment, RunTask, Want};
    use longshore_proto::spec::{RestartMode, RestartPolicy, TaskSpec};
    use longshore_proto::state::TaskState;
    use uuid::Uuid;

    use super::*;

    fn name() -> NodeName {
        "n1".parse().unwrap()
    }

    fn fresh() -> NodeId {
        NodeId(Uuid::new_v4())
    }

    /// A brain that is given a task, with every write in the store.
    fn assign(store: &Store) -> Agent {
        let saved = store.load().unwrap();
        let mut agent = Agent::restore(
            "n1".parse().unwrap(),
            BootId(Uuid::new_v4()),
            saved,
            Settings::default(),
            Now::default(),
        );
        let cluster_id = ClusterId(Uuid::from_u128(1));
        let run = RunTask {
            namespace: "default".parse().unwrap(),
            job: "web".parse().unwrap(),
            version: 1,
            slot: 0,
            attempt_floor: 0,
            epoch: None,
            node_labels: std::collections::BTreeMap::new(),
            spec: TaskSpec::new("main".parse().unwrap(), "busybox:1"),
        };
        let revision = Revision { epoch: 1, index: 3 };
        let want = Want::Run(Box::new(run));
        let assignments = vec![Assignment { task: TaskId(Uuid::from_u128(7)), revision, want }];
        for input in [
            Input::Registered { cluster_id },
            Input::RuntimeUp,
            Input::Synced(FullSet { cluster_id, revision, assignments, known: vec![] }),
            Input::Observed { ticket: 3, containers: vec![] },
        ] {
            let (writes, held) = agent.handle(input, Now::default()).split();
            let receipt = store.commit(vec![writes]).unwrap().remove(0);
            drop(held.release(receipt));
        }
        agent
    }

    #[test]
    fn what_was_committed_is_loaded_again() {
        let folder = tempfile::tempdir().unwrap();
        let node_id = {
            let (store, node_id) = Store::open(folder.path(), &name(), fresh()).unwrap();
            assign(&store);
            node_id
        };
        let (store, again) = Store::open(folder.path(), &name(), fresh()).unwrap();
        assert_eq!(again, node_id, "a node keeps its id");
        let saved = store.load().unwrap();
        assert_eq!(saved.revision, Revision { epoch: 1, index: 3 });
        assert_eq!(saved.tasks.len(), 1);
        assert_eq!(saved.tasks[0].attempt, 1);
        assert_eq!(saved.reports.len(), 1);
        assert_eq!(saved.reports[0].0, 1);
    }

    /// One of everything, as in `tests/fixtures/store-format-1.txt`.
    fn one_of_everything() -> Saved {
        let (task, boot_id) = (TaskId(Uuid::from_u128(7)), BootId(Uuid::from_u128(8)));
        let revision = Revision { epoch: 2, index: 34 };
        let mut spec = TaskSpec::new("main".parse().unwrap(), "busybox:1");
        spec.command = vec!["sleep".into(), "5".into()];
        spec.restart = Some(RestartPolicy::usual(RestartMode::OnFailure));
        let run = RunTask {
            namespace: "default".parse().unwrap(),
            job: "web".parse().unwrap(),
            version: 3,
            slot: 4,
            attempt_floor: 5,
            epoch: None,
            node_labels: std::collections::BTreeMap::new(),
            spec,
        };
        let report = TaskReport {
            task,
            attempt: 6,
            state: TaskState::Failed,
            boot_id,
            container_id: Some("c6".into()),
            exit_code: Some(1),
            reason: Some("gave up".into()),
            ports: Vec::new(),
            health: None,
            pulls_failed: 0,
            at_ms: 1_700_000_000_000,
        };
        Saved {
            cluster_id: Some(ClusterId(Uuid::from_u128(1))),
            revision,
            tasks: vec![TaskRecord {
                task,
                revision,
                run: Some(Box::new(run)),
                stop: Some("asked".into()),
                superseded: true,
                attempt: 6,
                state: TaskState::Failed,
                container_id: Some("c6".into()),
                restarts_at_ms: vec![1_699_999_999_000],
                ports: Vec::new(),
                health: None,
                pulls_failed: 0,
                end: Some(Box::new((9, report.clone()))),
            }],
            reports: vec![(9, report.clone())],
            kept: vec![KeptContainer {
                sequence: 10,
                task,
                attempt: 6,
                container_id: "c6".into(),
                ended_at_ms: 0,
            }],
            tombstones: vec![Tombstone {
                sequence: 11,
                task: TaskId(Uuid::from_u128(12)),
                attempt: 13,
                end: Some(report),
            }],
            // A kind of its own, which the first workers did not have.
            stock: Vec::new(),
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digits).collect()
    }

    #[test]
    fn a_disk_without_room_is_told_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        assert!(room(folder.path()).unwrap() > ROOM_BYTES_MIN, "these tests write, too");
        enough(folder.path(), ROOM_BYTES_MIN).unwrap();
        let error = enough(Path::new("/data"), 28 << 10).unwrap_err().to_string();
        assert!(
            error.contains("/data has 28KiB free, and the worker's store needs 8MiB"),
            "{error}"
        );
    }

    /// The fixture is kept for ever: a change that breaks this test would lose the stores of workers that run
    /// today. A new format gets a fixture of its own beside it.
    #[test]
    fn what_format_1_wrote_is_read() {
        let fixture = include_str!("../tests/fixtures/store-format-1.txt");
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path(), &name(), fresh()).unwrap();
        for line in fixture.lines() {
            let (key, value) = line.split_once(' ').unwrap();
            store.keyspace.insert(hex(key), hex(value)).unwrap();
        }
        assert_eq!(store.load().unwrap(), one_of_everything());
        assert_eq!(store.get(&meta("node")).unwrap(), Some(NodeId(Uuid::from_u128(2))));
    }

    #[test]
    fn what_was_brought_onto_the_machine_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path(), &name(), fresh()).unwrap();
        let image = |used_at_ms| StockRecord { item: StockItem::Image("a:1".into()), used_at_ms };
        let volume = StockRecord { item: StockItem::Volume("a:1".into()), used_at_ms: 2 };
        for record in [image(1), image(3), volume.clone()] {
            let (key, value) = entry(&Write::Stock(record));
            store.keyspace.insert(key, value.unwrap()).unwrap();
        }
        assert_eq!(store.load().unwrap().stock, [image(3), volume.clone()]);
        let (key, value) = entry(&Write::StockDropped(volume.item));
        assert_eq!(value, None);
        store.keyspace.remove(key).unwrap();
        assert_eq!(store.load().unwrap().stock, [image(3)]);
    }

    #[test]
    fn a_directory_that_is_in_use_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let _open = Store::open(folder.path(), &name(), fresh()).unwrap();
        let error = Store::open(folder.path(), &name(), fresh()).unwrap_err();
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
        assert!(error.to_string().starts_with("another worker uses the data directory"), "{error}");
    }

    #[test]
    fn another_nodes_directory_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(folder.path(), &name(), fresh()).unwrap());
        let error = Store::open(folder.path(), &"n2".parse().unwrap(), fresh()).unwrap_err();
        assert!(
            matches!(&error, StoreError::OtherNode { found, .. } if *found == name()),
            "{error}"
        );
    }

    #[test]
    #[cfg(unix)]
    fn only_this_user_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(folder.path(), &name(), fresh()).unwrap());
        let mode = std::fs::metadata(folder.path().join(FOLDER)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }

    #[test]
    fn a_newer_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        {
            let (store, _) = Store::open(folder.path(), &name(), fresh()).unwrap();
            store.keyspace.insert(meta("format"), "2").unwrap();
        }
        let error = Store::open(folder.path(), &name(), fresh()).unwrap_err();
        assert!(matches!(error, StoreError::Format { .. }), "{error}");
    }

    #[test]
    fn keys_sort_by_sequence() {
        assert!(sequence_key(REPORT, 255) < sequence_key(REPORT, 256));
        assert_eq!(sequence_of(&sequence_key(REPORT, u64::MAX)), u64::MAX);
    }
}
