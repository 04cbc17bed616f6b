//! A disk of the test's own that can be made to hang, so that every write to it waits until it is let go, or to be full.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How large it is.
const SIZE: u64 = 512 << 20;

/// The disk: a file system in a file.
#[derive(Debug)]
pub struct SlowDisk {
    folder: PathBuf,
}

impl SlowDisk {
    /// Makes a disk and mounts it on a folder. `None`, with a word, where that cannot be done: it takes root.
    #[expect(clippy::print_stderr, reason = "the test runner shows it with the test")]
    pub fn mount(image: &Path, folder: &Path) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::File::create(image).unwrap().set_len(SIZE).unwrap();
        let disk = Self { folder: folder.to_owned() };
        let made = run(Command::new("mkfs.ext4").arg("-q").arg(image))
            && run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(folder));
        if !made {
            eprintln!("no disk can be mounted here (it takes root and a loop device): skipped");
        }
        made.then_some(disk)
    }

    /// Lets every write wait.
    pub fn hang(&self) {
        assert!(run(Command::new("fsfreeze").arg("-f").arg(&self.folder)));
    }

    /// Leaves no room on it.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.filling()).unwrap();
        // First the most of it, then what is left.
        for block in [1 << 20, 4 << 10, 1] {
            let block = vec![0; block];
            while file.write_all(&block).is_ok() {}
        }
        assert_eq!(file.sync_all().map_err(|error| error.kind()), Ok(()));
    }

    /// Gives the room back.
    pub fn empty(&self) {
        std::fs::remove_file(self.filling()).unwrap();
    }

    fn filling(&self) -> PathBuf {
        self.folder.join("filling")
    }

    /// Lets them go.
    pub fn let_go(&self) {
        assert!(run(Command::new("fsfreeze").arg("-u").arg(&self.folder)));
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // What hangs could not even be killed.
        run(Command::new("fsfreeze").arg("-u").arg(&self.folder));
        run(Command::new("umount").arg("-l").arg(&self.folder));
    }
}

fn run(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
