//! `longshore backup` and `longshore restore`: everything that a cluster is, into a file and back.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use longshore_manager::ManagerError;
use longshore_manager::snapshot::{Head, SnapshotError};
use longshore_proto::api::{BackupMade, ReadBackup};
use longshore_proto::quantity::format_bytes;

use crate::args::cluster::{Backup, Restore};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::render::Printer;
use crate::table;

/// Fetches a backup part by part, and checks it. The file stands under its name only when it is complete.
pub(crate) async fn make(
    client: &Client,
    wish: &Backup,
    printer: Printer,
) -> Result<Exit, Failure> {
    let file = &wish.file;
    let shown = file.display();
    if file.exists() {
        return Err(Failure::new(format!("{shown} is there already"))
            .hint("name another file; nothing is overwritten"));
    }
    let mut part = file.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let to = File::create(&part).map_err(|error| Failure::file("write", &part, &error))?;
    let fetched = fetch(client, to, &part).await.and_then(|fetched| {
        std::fs::rename(&part, file).map_err(|error| Failure::file("write", file, &error))?;
        Ok(fetched)
    });
    let (head, made) = fetched.inspect_err(|_| {
        // Half a backup is of no use, and may be what fills the disk.
        let _ = std::fs::remove_file(&part);
    })?;
    printer.line(&shown.to_string())?;
    printer.talk(&format!(
        "cluster {} as of index {} ({}), {}",
        head.cluster,
        head.index,
        table::time(head.at_ms),
        format_bytes(made.bytes)
    ));
    Ok(Exit::Done)
}

/// Has a backup made, and writes all of it.
async fn fetch(client: &Client, to: File, path: &Path) -> Result<(Head, BackupMade), Failure> {
    let problem = |error: io::Error| Failure::file("write", path, &error);
    let mut to = to;
    let made = client.make_backup().await;
    let made = made.map_err(|error| Failure::asked("make a backup", &error))?;
    let mut offset = 0;
    while offset < made.bytes {
        let question = ReadBackup { index: made.index, offset };
        let bytes = client.read_backup(&question).await;
        let bytes = bytes.map_err(|error| Failure::asked("read the backup", &error))?;
        if bytes.is_empty() {
            break;
        }
        to.write_all(&bytes).map_err(problem)?;
        offset += bytes.len() as u64;
    }
    to.sync_all().map_err(problem)?;
    let (head, _) = longshore_manager::snapshot::open(path).map_err(|error| {
        Failure::new("the backup did not arrive whole")
            .cause(&error)
            .hint("ask for it again; if it happens again, look at this machine's disk")
    })?;
    Ok((head, made))
}

/// Makes a data directory.
pub(crate) fn restore(wish: &Restore, printer: Printer) -> Result<Exit, Failure> {
    let head = longshore_manager::restore(&wish.file, &wish.data_dir)
        .map_err(|error| not_restored(&error, wish))?;
    printer.talk(&format!(
        "cluster {} as of index {} ({}) is in {}; start `longshore manager --data-dir {}` on a NATS server without a \
         cluster",
        head.cluster,
        head.index,
        table::time(head.at_ms),
        wish.data_dir.display(),
        wish.data_dir.display()
    ));
    Ok(Exit::Done)
}

/// Why nothing was restored, and what to do about it.
fn not_restored(error: &ManagerError, wish: &Restore) -> Failure {
    let failure = match error {
        ManagerError::Snapshot(SnapshotError::Io { path, source }) => {
            Failure::file("read", path, source)
        }
        ManagerError::Snapshot(SnapshotError::Stranger(_)) => Failure::new(error.to_string())
            .hint("name a file that `longshore backup FILE` has written"),
        ManagerError::Snapshot(SnapshotError::Damaged { .. }) => Failure::new(error.to_string())
            .hint("it was cut short or changed since it was written: compare its length with that of another copy"),
        _ => match of_file_system(error) {
            Some(cause) => Failure::file("write the data directory", &wish.data_dir, cause),
            None => Failure::new(error.to_string()).cause(error),
        },
    };
    failure.within("the backup is not restored")
}

/// What the file system said, if that is what is behind an error.
fn of_file_system(error: &ManagerError) -> Option<&io::Error> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}
