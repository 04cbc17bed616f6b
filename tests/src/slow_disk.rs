//! A disk of the test's own that can be made to hang: every write to it waits until it is let go.

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
