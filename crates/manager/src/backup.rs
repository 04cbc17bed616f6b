//! A backup: everything that a cluster is, in one file; and back.
//!
//! The leader writes it beside the loop, and the asker reads it part by part, so that it may be larger than a
//! message. One that is still being read stays, however many ask meanwhile. A restored data directory makes its manager begin the log anew, on a server that has none.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use longshore_bus::ApiRequest;
use longshore_proto::COMMAND_HEADER;
use longshore_proto::api::{BackupMade, BackupPart, Nothing, ReadBackup};
use longshore_proto::error::{ApiError, ErrorCode};

use crate::error::ManagerError;
use crate::query::{answer_api, read_payload};
use crate::snapshot::{self, Head};
use crate::store::Store;

/// The largest part that is answered at once, in bytes.
const PART_BYTES_MAX: u64 = 512 << 10;
/// For how long a backup that nobody reads on is kept.
const IDLE_MAX: Duration = Duration::from_secs(60);
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
    /// Somebody reads a backup, or is about to.
    fn note_read(&self, index: u64) {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(index, Instant::now());
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

/// `None` while a backup is being written, or as many are read as there may be.
fn write_once(store: &Store, command: Option<String>) -> Result<Option<BackupMade>, ManagerError> {
    let mut last = match store.backups.last.try_lock() {
        Ok(last) => last,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return Ok(None),
    };
    if let Some(made) = &last.made
        && command.is_some()
        && last.command == command
    {
        store.backups.note_read(made.index);
        return Ok(Some(made.clone()));
    }
    if store.backups.in_use().len() >= READ_MAX {
        return Ok(None);
    }
    *last = LastBackup::default();
    let made = write(store)?;
    *last = LastBackup { command, made: Some(made.clone()) };
    Ok(Some(made))
}

fn write(store: &Store) -> Result<BackupMade, ManagerError> {
    let file = store.points().passing("backup");
    let head = store.write_backup(&file)?;
    let to = place(store, head.index);
    let in_use = store.backups.in_use();
    let kept: Vec<PathBuf> = in_use.iter().map(|index| place(store, *index)).collect();
    let io = |source| snapshot::SnapshotError::Io { path: to.clone(), source };
    let folder = to.parent().unwrap_or_else(|| Path::new("."));
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("backup-") && path != to && !kept.contains(&path) {
            std::fs::remove_file(&path).map_err(io)?;
        }
    }
    // Whoever reads one of the same index goes on reading that: its parts and those of this one do not fit together.
    if !in_use.contains(&head.index) || !to.exists() {
        std::fs::rename(&file, &to).map_err(io)?;
    }
    store.backups.note_read(head.index);
    let bytes = std::fs::metadata(&to).map_err(io)?.len();
    Ok(BackupMade { index: head.index, bytes })
}

/// Answers with a part of the backup.
pub(crate) fn read(request: ApiRequest, store: &Arc<Store>, refused: &AtomicU64) {
    let question: ReadBackup = match read_payload(refused, &request) {
        Ok(question) => question,
        Err(refusal) => return answer_api::<()>(request, 0, Err(refusal)),
    };
    let store = Arc::clone(store);
    tokio::task::spawn_blocking(move || {
        let read = read_part(&place(&store, question.index), question.offset);
        if read.is_ok() {
            store.backups.note_read(question.index);
        }
        let part = read.map_err(|error| {
            ApiError::new(ErrorCode::NotFound, format!("that backup is not here: {error}")).hint(
                "another backup was made meanwhile, or another manager leads now; begin again",
            )
        });
        answer_api(request, question.index, part.map(|bytes| BackupPart { bytes }));
    });
}

fn read_part(path: &Path, offset: u64) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(PART_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
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
    store.set_restored(true)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use longshore_core::cluster::{Cluster, Identity, Settings, State, Step};
    use longshore_core::time::{Now, Time};
    use longshore_proto::id::{ClusterId, ManagerId};
    use uuid::Uuid;

    use super::*;
    use crate::store::Batch;

    /// A cluster that goes on in a store, one record at each call.
    struct Going {
        cluster: Cluster,
        index: u64,
    }

    impl Going {
        fn new() -> Self {
            let manager = ManagerId(Uuid::from_u128(1));
            let identity =
                Identity { manager, name: "m1".parse().unwrap(), version: "test".into() };
            Self {
                cluster: Cluster::new(identity, Settings::default(), State::default()),
                index: 0,
            }
        }

        fn on(&mut self) -> Batch {
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
        let part = |index| read_part(&place(&store, index), 0);
        let first = ask("c1", true).unwrap();
        let bytes = part(first.index).unwrap();
        // Of the same record, and of a later one.
        assert_eq!(ask("c2", false).unwrap().index, first.index);
        let second = ask("c3", true).unwrap();
        assert!(second.index > first.index);
        assert_eq!(part(first.index).unwrap(), bytes, "the first asker reads on");
        part(second.index).unwrap();
        assert_eq!(ask("c4", true), None, "as many as may be");
        store.backups.read.lock().unwrap().remove(&first.index);
        let third = ask("c5", false).unwrap();
        part(third.index).unwrap();
        part(first.index).unwrap_err();
        part(second.index).unwrap();
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
