//! A backup: everything that a cluster is, in one file; and back.
//!
//! The leader writes it beside the loop, and the asker reads it part by part, so that it may be larger than a
//! message. One that is still being read stays, however many ask meanwhile; one that nobody reads any more goes soon, for
//! each may be as large as the store. A restored data directory makes its manager begin the log anew, on a server that
//! has none.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use longshore_bus::ApiRequest;
use longshore_proto::COMMAND_HEADER;
use longshore_proto::api::{BackupMade, BackupPart, Nothing, ReadBackup};
use longshore_proto::error::{ApiError, ErrorCode};
use tracing::warn;

use crate::error::ManagerError;
use crate::query::{answer_api, read_payload};
use crate::snapshot::{self, Head};
use crate::store::Store;

/// The largest part that is answered at once, in bytes.
const PART_BYTES_MAX: u64 = 512 << 10;
/// For how long a backup that nobody reads on is kept; and how often it is looked whether there is one.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(60);
/// The file that a backup is written into.
const WRITING: &str = "backup";
/// How many backups there may be that somebody reads: each may be as large as the store.
const READ_MAX: usize = 2;

/// Where the backup of an index is while it is read.
fn place(store: &Store, index: u64) -> PathBuf {
    store.points().passing(&format!("backup-{index}"))
}

/// The backups of a store.
#[derive(Debug, Default)]
pub(crate) struct Backups {
    /// The last one. Held while one is written.
    last: Mutex<LastBackup>,
    /// When each was last read, by its index.
    read: Mutex<BTreeMap<u64, Instant>>,
}

impl Backups {
    /// The last one; `None` while one is written.
    fn last(&self) -> Option<MutexGuard<'_, LastBackup>> {
        match self.last.try_lock() {
            Ok(last) => Some(last),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Somebody reads a backup, or is about to.
    fn note_read(&self, index: u64) {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(index, Instant::now());
    }

    /// Somebody has read a backup to its end.
    fn note_end(&self, index: u64) {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).remove(&index);
    }

    /// The backups that somebody still reads.
    fn in_use(&self) -> Vec<u64> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.retain(|_, at| at.elapsed() < IDLE_MAX);
        read.keys().copied().collect()
    }
}

/// The last backup, and the command that asked for it.
#[derive(Debug, Default)]
struct LastBackup {
    command: Option<String>,
    made: Option<BackupMade>,
}

/// Writes a backup, in the place of those that nobody reads any more. One is written at a time, and once for each command: whoever gets no
/// answer in time asks again, and shall not begin another one into the same file.
pub(crate) fn make(request: ApiRequest, store: &Arc<Store>, refused: &AtomicU64, index: u64) {
    if let Err(refusal) = read_payload::<Nothing>(refused, &request) {
        return answer_api::<()>(request, index, Err(refusal));
    }
    let store = Arc::clone(store);
    tokio::task::spawn_blocking(move || {
        let command = request.header(COMMAND_HEADER).map(str::to_owned);
        let made = match write_once(&store, command) {
            Ok(Some(made)) => Ok(made),
            // Who asks goes on asking, and no thread waits for it.
            Ok(None) => Err(ApiError::new(
                ErrorCode::Unavailable,
                "a backup is being written, or others are being read",
            )
            .hint("ask again in a while, or with a longer --timeout")),
            Err(error) => Err(ApiError::new(
                ErrorCode::Internal,
                format!("the backup was not written: {error}"),
            )
            .hint("look at the space and the state of the leader's disk")),
        };
        answer_api(request, made.as_ref().map_or(index, |made| made.index), made);
    });
}

/// `None` while a backup is being written, or as many others are read as there may be.
fn write_once(store: &Store, command: Option<String>) -> Result<Option<BackupMade>, ManagerError> {
    let Some(mut last) = store.backups.last() else { return Ok(None) };
    if let Some(made) = &last.made
        && command.is_some()
        && last.command == command
    {
        store.backups.note_read(made.index);
        return Ok(Some(made.clone()));
    }
    // One of the present index is what would be written.
    let present = store.load_meta()?.index;
    if store.backups.in_use().iter().filter(|index| **index != present).count() >= READ_MAX {
        return Ok(None);
    }
    *last = LastBackup::default();
    let made = write(store)?;
    *last = LastBackup { command, made: Some(made.clone()) };
    Ok(Some(made))
}

fn write(store: &Store) -> Result<BackupMade, ManagerError> {
    let file = store.points().passing(WRITING);
    let head = store.write_backup(&file)?;
    let to = place(store, head.index);
    let io = |source| snapshot::SnapshotError::Io { path: to.clone(), source };
    // Whoever reads one of the same index goes on reading that: its parts and those of this one do not fit together.
    if store.backups.in_use().contains(&head.index) && to.exists() {
        std::fs::remove_file(&file).map_err(io)?;
    } else {
        std::fs::rename(&file, &to).map_err(io)?;
    }
    store.backups.note_read(head.index);
    remove_idle(store)?;
    let bytes = std::fs::metadata(&to).map_err(io)?.len();
    Ok(BackupMade { index: head.index, bytes })
}

/// Removes the backups that nobody reads any more, and what is left of one that was not written to its end. While none is
/// written.
fn remove_idle(store: &Store) -> Result<(), snapshot::SnapshotError> {
    let in_use = store.backups.in_use();
    let kept: Vec<PathBuf> = in_use.iter().map(|index| place(store, *index)).collect();
    let unfinished = store.points().passing(WRITING);
    let folder = unfinished.parent().unwrap_or_else(|| Path::new("."));
    let io = |source| snapshot::SnapshotError::Io { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path == unfinished || name.starts_with("backup-") && !kept.contains(&path) {
            std::fs::remove_file(&path).map_err(io)?;
        }
    }
    Ok(())
}

/// Removes the backups that nobody reads any more, unless one is being written just now.
pub(crate) async fn tidy(store: &Arc<Store>) {
    let store = Arc::clone(store);
    let tidied = tokio::task::spawn_blocking(move || tidy_now(&store));
    if let Ok(Err(error)) = tidied.await {
        warn!(%error, "backups that nobody reads any more are not removed; trying again later");
    }
}

fn tidy_now(store: &Store) -> Result<(), snapshot::SnapshotError> {
    let Some(mut last) = store.backups.last() else { return Ok(()) };
    remove_idle(store)?;
    if last.made.as_ref().is_some_and(|made| !place(store, made.index).exists()) {
        *last = LastBackup::default();
    }
    Ok(())
}

/// Answers with a part of the backup.
pub(crate) fn read(request: ApiRequest, store: &Arc<Store>, refused: &AtomicU64) {
    let question: ReadBackup = match read_payload(refused, &request) {
        Ok(question) => question,
        Err(refusal) => return answer_api::<()>(request, 0, Err(refusal)),
    };
    let store = Arc::clone(store);
    tokio::task::spawn_blocking(move || {
        let part = read_on(&store, question.index, question.offset).map_err(|error| {
            ApiError::new(ErrorCode::NotFound, format!("that backup is not here: {error}")).hint(
                "another backup was made meanwhile, or another manager leads now; begin again",
            )
        });
        answer_api(request, question.index, part.map(|bytes| BackupPart { bytes }));
    });
}

/// Reads a part of a backup. Whoever has its end reads no more.
fn read_on(store: &Store, index: u64, offset: u64) -> std::io::Result<Vec<u8>> {
    let (bytes, is_last) = read_part(&place(store, index), offset)?;
    if is_last {
        store.backups.note_end(index);
    } else {
        store.backups.note_read(index);
    }
    Ok(bytes)
}

/// A part of a file, and whether it is the last one.
fn read_part(path: &Path, offset: u64) -> std::io::Result<(Vec<u8>, bool)> {
    let mut file = std::fs::File::open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(PART_BYTES_MAX).read_to_end(&mut bytes)?;
    let is_last = offset.saturating_add(bytes.len() as u64) >= end;
    Ok((bytes, is_last))
}

/// Makes a data directory from a backup. The manager that is started on it makes the log, on a NATS server that
/// has none, and goes on where the backup ends.
///
/// # Errors
/// The file is no backup that can be read, or the directory holds a cluster already.
pub fn restore(file: &Path, data_dir: &Path) -> Result<Head, ManagerError> {
    let (head, entries) = snapshot::open(file)?;
    let store = Store::open(data_dir)?;
    if store.load_meta()?.index > 0 || store.log_created()?.is_some() {
        return Err(ManagerError::NotEmpty { path: data_dir.to_owned() });
    }
    store.install(&head, entries, true)?;
    Ok(head)
}

#[cfg(test)]
pub(crate) mod tests {
    use longshore_core::cluster::{Cluster, Identity, Settings, State, Step};
    use longshore_core::time::{Now, Time};
    use longshore_proto::id::{ClusterId, ManagerId};
    use uuid::Uuid;

    use super::*;
    use crate::store::Batch;

    /// A cluster that goes on in a store, one record at each call.
    pub(crate) struct Going {
        cluster: Cluster,
        index: u64,
    }

    impl Going {
        pub(crate) fn new() -> Self {
            Self::of(1)
        }

        /// The same, of a manager.
        pub(crate) fn of(manager: u128) -> Self {
            let manager = ManagerId(Uuid::from_u128(manager));
            let identity =
                Identity { manager, name: "m1".parse().unwrap(), version: "test".into() };
            Self {
                cluster: Cluster::new(identity, Settings::default(), State::default()),
                index: 0,
            }
        }

        pub(crate) fn identity(&self) -> &Identity {
            self.cluster.identity()
        }

        pub(crate) fn on(&mut self) -> Batch {
            self.index += 1;
            let now = Now { time: Time(self.index), wall_ms: 1_700_000_000_000 };
            let step = self.cluster.begin_reign(ClusterId(Uuid::from_u128(2)), now, [0; 16]);
            let Step::Record(proposal) = step else { panic!("no record") };
            self.cluster.appended(self.index);
            let writes = proposal.writes(self.cluster.state());
            let mut batch = Batch::default();
            batch.record(self.index, proposal.bytes().to_vec(), writes, &[]);
            batch
        }
    }

    #[test]
    fn a_backup_that_is_being_read_stays_when_another_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut going = Going::new();
        let mut ask = |command: &str, goes_on: bool| {
            if goes_on {
                store.commit(going.on()).unwrap();
            }
            write_once(&store, Some(command.into())).unwrap()
        };
        let part = |index| read_part(&place(&store, index), 0).map(|(bytes, _)| bytes);
        let first = ask("c1", true).unwrap();
        let bytes = part(first.index).unwrap();
        // Of the same record, and of a later one.
        assert_eq!(ask("c2", false).unwrap().index, first.index);
        assert!(!store.points().passing(WRITING).exists(), "the one that is there serves both");
        let second = ask("c3", true).unwrap();
        assert!(second.index > first.index);
        assert_eq!(ask("c4", false).unwrap().index, second.index, "no other one is needed");
        assert_eq!(part(first.index).unwrap(), bytes, "the first asker reads on");
        part(second.index).unwrap();
        assert_eq!(ask("c5", true), None, "as many as may be");
        assert_eq!(read_on(&store, first.index, 0).unwrap(), bytes, "the first asker has it all");
        let third = ask("c6", false).unwrap();
        part(third.index).unwrap();
        part(first.index).unwrap_err();
        part(second.index).unwrap();
    }

    #[test]
    fn what_was_read_to_its_end_keeps_nobody_from_another_and_goes_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let unfinished = store.points().passing(WRITING);
        let files = || std::fs::read_dir(unfinished.parent().unwrap()).unwrap().count();
        let mut going = Going::new();
        for count in 0..5 {
            store.commit(going.on()).unwrap();
            let made = write_once(&store, Some(format!("c{count}"))).unwrap().expect("a backup");
            let bytes = read_on(&store, made.index, 0).unwrap();
            assert_eq!(bytes.len() as u64, made.bytes);
            assert_eq!(files(), 1);
        }
        tidy_now(&store).unwrap();
        assert_eq!(files(), 0);
        let made = write_once(&store, Some("c4".into())).unwrap().expect("it is written anew");
        tidy_now(&store).unwrap();
        read_part(&place(&store, made.index), 0).expect("somebody is about to read it");
        // What a manager left that died while it wrote one.
        std::fs::write(&unfinished, "half of it").unwrap();
        {
            let _writing = store.backups.last.lock().unwrap();
            tidy_now(&store).unwrap();
            assert!(unfinished.exists(), "it may be another one that is written just now");
        }
        tidy_now(&store).unwrap();
        assert_eq!(files(), 1);
    }

    #[tokio::test]
    async fn what_was_being_written_is_written_to_the_end_whoever_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path()).unwrap());
        let mut going = Going::new();
        for index in 1..=20 {
            let batch = going.on();
            let writing = store.write(batch);
            // Whoever waits is polled once, and gone then: a reign that ends over a log that is broken.
            let mut writing = Box::pin(writing);
            tokio::select! {
                biased;
                written = &mut writing => written.unwrap(),
                () = std::future::ready(()) => {}
            }
            drop(writing);
            store.settled().await;
            assert_eq!(store.load_meta().unwrap().index, index);
        }
    }

    #[test]
    fn a_restore_is_whole_and_marked_as_one_or_it_is_no_cluster_that_may_begin_anew() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("from")).unwrap();
        store.commit(Going::new().on()).unwrap();
        let file = folder.path().join("monday.backup");
        let written = store.write_backup(&file).unwrap();
        drop(store);

        let to = folder.path().join("to");
        let restored = Store::open(&to).unwrap();
        let (head, entries) = snapshot::open(&file).unwrap();
        restored.install(&head, entries, true).unwrap();
        assert!(restored.is_restored().unwrap() && !restored.must_join().unwrap());
        assert_eq!(restored.load_meta().unwrap().index, written.index);

        // The process ends in the midst of it.
        restored.put_local("installing", b"1").unwrap();
        drop(restored);
        let cut_short = Store::open(&to).unwrap();
        assert_eq!(cut_short.load_meta().unwrap().index, 0);
        assert!(cut_short.must_join().unwrap());
        drop(cut_short);
        restore(&file, &to).unwrap();
        let again = Store::open(&to).unwrap();
        assert!(again.is_restored().unwrap() && !again.must_join().unwrap());
        let into_a_cluster = restore(&file, &folder.path().join("from"));
        assert!(matches!(into_a_cluster, Err(ManagerError::NotEmpty { .. })), "{into_a_cluster:?}");
    }

    #[test]
    fn a_command_that_is_heard_again_gets_the_backup_that_was_made_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let made = BackupMade { index: 7, bytes: 9 };
        *store.backups.last.lock().unwrap() =
            LastBackup { command: Some("c1".into()), made: Some(made.clone()) };
        assert_eq!(write_once(&store, Some("c1".into())).unwrap(), Some(made));
        {
            let _writing = store.backups.last.lock().unwrap();
            assert_eq!(write_once(&store, Some("c1".into())).unwrap(), None);
        }
        // Another one is written anew; this store has nothing to write yet.
        assert!(matches!(write_once(&store, Some("c2".into())), Err(ManagerError::Empty)));
        assert!(store.backups.last.lock().unwrap().made.is_none());
        assert!(matches!(write_once(&store, None), Err(ManagerError::Empty)));
    }
}
