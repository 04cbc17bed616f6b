//! A backup: everything that a cluster is, in one file; and back.
//!
//! The leader writes it beside the loop, and the asker reads it part by part, so that it may be larger than a
//! message. A restored data directory makes its manager begin the log anew, on a server that has none.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, TryLockError};

use longshore_bus::ApiRequest;
use longshore_core::leadership::mend::EPOCHS_RESTORED;
use longshore_proto::COMMAND_HEADER;
use longshore_proto::api::{BackupMade, BackupPart, Nothing, ReadBackup};
use longshore_proto::error::{ApiError, ErrorCode};

use crate::error::ManagerError;
use crate::query::{answer_api, read_payload};
use crate::snapshot::{self, Head};
use crate::store::Store;

/// The largest part that is answered at once, in bytes.
const PART_BYTES_MAX: u64 = 512 << 10;

/// Where the backup of an index is while it is read.
fn place(store: &Store, index: u64) -> PathBuf {
    store.points().passing(&format!("backup-{index}"))
}

/// The last backup, and the command that asked for it.
#[derive(Debug, Default)]
pub(crate) struct LastBackup {
    command: Option<String>,
    made: Option<BackupMade>,
}

/// Writes a backup, in the place of the last one. One is written at a time, and once for each command: whoever gets no
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
            Ok(None) => Err(ApiError::new(ErrorCode::Unavailable, "a backup is being written")
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

/// `None` while a backup is being written.
fn write_once(store: &Store, command: Option<String>) -> Result<Option<BackupMade>, ManagerError> {
    let mut last = match store.backup.try_lock() {
        Ok(last) => last,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return Ok(None),
    };
    if let Some(made) = &last.made
        && command.is_some()
        && last.command == command
    {
        return Ok(Some(made.clone()));
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
    let io = |source| snapshot::SnapshotError::Io { path: to.clone(), source };
    let folder = to.parent().unwrap_or_else(|| Path::new("."));
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("backup-") && path != to {
            std::fs::remove_file(&path).map_err(io)?;
        }
    }
    std::fs::rename(&file, &to).map_err(io)?;
    let bytes = std::fs::metadata(&to).map_err(io)?.len();
    Ok(BackupMade { index: head.index, bytes })
}

/// Answers with a part of the backup.
pub(crate) fn read(request: ApiRequest, store: &Arc<Store>, refused: &AtomicU64) {
    let question: ReadBackup = match read_payload(refused, &request) {
        Ok(question) => question,
        Err(refusal) => return answer_api::<()>(request, 0, Err(refusal)),
    };
    let path = place(store, question.index);
    tokio::task::spawn_blocking(move || {
        let part = read_part(&path, question.offset).map_err(|error| {
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
    store.install(&head, entries, EPOCHS_RESTORED)?;
    store.set_restored(true)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_heard_again_gets_the_backup_that_was_made_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let made = BackupMade { index: 7, bytes: 9 };
        *store.backup.lock().unwrap() =
            LastBackup { command: Some("c1".into()), made: Some(made.clone()) };
        assert_eq!(write_once(&store, Some("c1".into())).unwrap(), Some(made));
        {
            let _writing = store.backup.lock().unwrap();
            assert_eq!(write_once(&store, Some("c1".into())).unwrap(), None);
        }
        // Another one is written anew; this store has nothing to write yet.
        assert!(matches!(write_once(&store, Some("c2".into())), Err(ManagerError::Empty)));
        assert!(store.backup.lock().unwrap().made.is_none());
        assert!(matches!(write_once(&store, None), Err(ManagerError::Empty)));
    }
}
