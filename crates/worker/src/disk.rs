//! How large the disk is that a folder is on, and how much of it is free.
//!
//! A disk that hangs, as one over a network may, lets whoever asks wait for ever. So it is asked on a thread beside,
//! one question at a time, and what it answered last is what counts meanwhile.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as Turn;
use tracing::warn;

/// How long an answer is waited for.
const DEADLINE: Duration = Duration::from_secs(5);

/// The disk of a folder.
#[derive(Debug)]
pub(crate) struct Disk {
    known: Mutex<Known>,
    /// Held while the disk is asked, for as long as that takes.
    turn: Arc<Turn<()>>,
}

#[derive(Debug)]
struct Known {
    folder: PathBuf,
    space: Space,
    /// Whether the last answer did not come in time.
    hangs: bool,
}

/// What a disk has, in bytes; nothing where that is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) total: u64,
    /// What those may write who are not root.
    pub(crate) free: u64,
}

impl Space {
    pub(crate) fn used(self) -> u64 {
        self.total.saturating_sub(self.free)
    }

    /// How full it is, in per cent, rounded down; 0 where that is not known.
    pub(crate) fn percent(self) -> u8 {
        let percent = u128::from(self.used()) * 100 / u128::from(self.total.max(1));
        u8::try_from(percent.min(100)).unwrap_or(100)
    }
}

impl Disk {
    /// The disk of a folder, asked here and now.
    pub(crate) fn new(folder: PathBuf) -> Self {
        let space = ask(&folder).unwrap_or_default();
        let known = Known { folder, space, hangs: false };
        Self { known: Mutex::new(known), turn: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it answered last.
    pub(crate) fn space(&self) -> Space {
        self.known().space
    }

    /// Looks at another folder from now on, unless there is none of that name.
    pub(crate) fn look_at(&self, folder: &Path) {
        if let Some(space) = ask(folder) {
            let mut known = self.known();
            (known.folder, known.space) = (folder.to_owned(), space);
        }
    }

    /// The same on a thread beside, for as long as one may wait.
    pub(crate) async fn look_at_beside(self: Arc<Self>, folder: PathBuf) {
        self.beside(move |disk| disk.look_at(&folder)).await;
    }

    /// Asks it on a thread beside. What it answered last, where it does not answer in time.
    pub(crate) async fn read(self: Arc<Self>) -> Space {
        let read = |disk: &Self| {
            let folder = disk.known().folder.clone();
            if let Some(space) = ask(&folder) {
                disk.known().space = space;
            }
        };
        self.clone().beside(read).await;
        self.space()
    }

    async fn beside(self: Arc<Self>, work: impl FnOnce(&Self) + Send + 'static) {
        let disk = self.clone();
        let worked = async move {
            let turn = disk.turn.clone().lock_owned().await;
            let work = move || {
                work(&disk);
                drop(turn);
            };
            // A panic leaves what was known, as a disk does that does not answer.
            let _ = tokio::task::spawn_blocking(work).await;
        };
        let hangs = tokio::time::timeout(DEADLINE, worked).await.is_err();
        let mut known = self.known();
        if hangs && !known.hangs {
            warn!(
                folder = %known.folder.display(),
                "the disk of this folder does not answer: its last known size counts until it does"
            );
        }
        known.hangs = hangs;
    }
}

fn ask(folder: &Path) -> Option<Space> {
    let found = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Some(Space { total: bytes(found.f_blocks), free: bytes(found.f_bavail) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_to_the_per_cent() {
        let percent = |used, total| Space { total, free: total - used }.percent();
        assert_eq!((percent(849, 1_000), percent(850, 1_000), percent(5, 5)), (84, 85, 100));
        assert_eq!(Space::default().percent(), 0);
    }

    #[tokio::test]
    async fn the_disk_of_a_folder_is_read_and_one_that_is_not_there_changes_nothing() {
        let disk = Arc::new(Disk::new(std::env::temp_dir()));
        let space = disk.clone().read().await;
        assert!(space.total > space.free && space.free > 0, "{space:?}");
        disk.clone().look_at_beside("/no/such/folder".into()).await;
        assert_eq!(disk.known().folder, std::env::temp_dir());
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_asked_once_and_its_last_size_counts() {
        let disk = Arc::new(Disk::new(std::env::temp_dir()));
        let before = disk.space();
        // As if a thread were waiting for it.
        let hung = disk.turn.clone().lock_owned().await;
        assert_eq!(disk.clone().read().await, before);
        assert!(disk.known().hangs);
        drop(hung);
        disk.clone().read().await;
        assert!(!disk.known().hangs);
    }
}
