//! The folder that everything of one `longshore dev` is in: keys, NATS's store, the manager's and the workers'.
//!
//! A temporary one is removed at the end. One that is named lasts: the next start finds the same keys, the
//! same port, the same jobs.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::auth::shell_word;
use crate::failure::Failure;

/// The folder holds keys.
const MODE: u32 = 0o700;

/// How long a folder that is in use is waited for.
const LEAVING_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked at meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The folder of one `longshore dev`, held for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    temporary: bool,
    _lock: File,
}

impl Place {
    /// A new folder of its own, in the system's place for temporary ones.
    pub(crate) async fn temporary() -> Result<Self, Failure> {
        let name = format!("longshore-dev-{}", Uuid::new_v4().simple());
        let path = std::env::temp_dir().join(name);
        // Not with its parents: it must not be there already.
        DirBuilder::new().mode(MODE).create(&path).map_err(|error| {
            Failure::new(format!("cannot make the folder {}", path.display()))
                .cause(&error)
                .hint("name a folder with --data-dir, or another place with TMPDIR")
        })?;
        Self::hold(path, true).await
    }

    /// The folder that is named.
    pub(crate) async fn kept(path: &Path) -> Result<Self, Failure> {
        let problem = |error| {
            Failure::new(format!("cannot make the folder {}", path.display()))
                .cause(&error)
                .hint("name another with --data-dir")
        };
        // Absolute, because others read the path elsewhere: nats-server, and who reads the context.
        let path = std::path::absolute(path).map_err(problem)?;
        DirBuilder::new().recursive(true).mode(MODE).create(&path).map_err(problem)?;
        Self::hold(path, false).await
    }

    async fn hold(path: PathBuf, temporary: bool) -> Result<Self, Failure> {
        let file = path.join("lock");
        let problem = |error: &std::io::Error| Failure::file("lock", &file, error);
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .map_err(|error| problem(&error))?;
        // One that was killed a moment ago may still be going.
        let deadline = Instant::now() + LEAVING_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { path, temporary, _lock: lock }),
                Err(TryLockError::Error(error)) => return Err(problem(&error)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    sleep(LOOK_INTERVAL).await;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Failure::new(format!(
                        "another `longshore dev` is using {}",
                        path.display()
                    ))
                    .hint("end that one, or name another folder with --data-dir"));
                }
            }
        }
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the folder goes at the end.
    pub(crate) fn is_temporary(&self) -> bool {
        self.temporary
    }

    /// Keys, users and the server's configuration.
    pub(crate) fn auth(&self) -> PathBuf {
        self.path.join("auth")
    }

    /// What JetStream stores.
    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("nats")
    }

    /// The manager's own.
    pub(crate) fn manager(&self) -> PathBuf {
        self.path.join("manager")
    }

    /// One worker's own.
    pub(crate) fn worker(&self, name: &str) -> PathBuf {
        self.path.join(format!("worker-{name}"))
    }

    /// The port that NATS had at the last start.
    pub(crate) fn port(&self) -> Option<u16> {
        std::fs::read_to_string(self.path.join("port")).ok()?.trim().parse().ok()
    }

    /// Remembers the port, for the next start. A start without it only takes another.
    pub(crate) fn remember_port(&self, port: u16) {
        let _ = std::fs::write(self.path.join("port"), format!("{port}\n"));
    }

    /// Removes the folder, if it is a temporary one.
    pub(crate) fn clear(&self) -> Result<(), Failure> {
        if !self.temporary {
            return Ok(());
        }
        std::fs::remove_dir_all(&self.path).map_err(|error| {
            Failure::new(format!("cannot remove the folder {}", self.path.display()))
                .cause(&error)
                .hint(format!("remove it yourself: rm -r {}", shell_word(&self.path)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_temporary_place_is_private_and_goes() {
        let place = Place::temporary().await.unwrap();
        let mode = std::fs::metadata(place.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        std::fs::write(place.path().join("x"), "x").unwrap();
        place.clear().unwrap();
        assert!(!place.path().exists());
    }

    #[tokio::test]
    async fn a_place_that_is_named_stays_and_is_used_by_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let place = Place::kept(&path).await.unwrap();
        assert_eq!(place.port(), None);
        place.remember_port(4333);
        let refused = Place::kept(&path).await.unwrap_err();
        assert!(refused.told().unwrap().0.contains("another `longshore dev`"));
        place.clear().unwrap();
        drop(place);
        assert_eq!(Place::kept(&path).await.unwrap().port(), Some(4333));
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "").unwrap();
        assert!(Place::kept(&path).await.unwrap_err().told().unwrap().1.is_some());
    }
}
