//! The archive of a local file or folder. Everything in it belongs to root, as `docker cp` has it: who owns a file here
//! means nothing in a container.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header, HeaderMode};

/// What was left out of an archive, and why.
pub(crate) type LeftOut = Vec<String>;

/// Writes the archive of a path to the end. Its entries begin with a name; without one, a folder's own entries begin
/// with nothing, and so does what it holds.
pub(crate) fn pack<W: Write>(path: &Path, name: Option<&str>, into: W) -> io::Result<LeftOut> {
    let mut builder = Builder::new(into);
    let mut left_out = Vec::new();
    // Folders that are yet to be read: a stack of our own, however deep they lie.
    let mut waiting = vec![(path.to_owned(), name.map(PathBuf::from).unwrap_or_default())];
    while let Some((path, name)) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path).map_err(|error| at(&path, &error))?;
        let kind = metadata.file_type();
        let mut header = Header::new_gnu();
        header.set_metadata_in_mode(&metadata, HeaderMode::Complete);
        header.set_uid(0);
        header.set_gid(0);
        if kind.is_dir() {
            if !name.as_os_str().is_empty() {
                header.set_size(0);
                builder.append_data(&mut header, &name, io::empty())?;
            }
            let mut inside: Vec<_> = fs::read_dir(&path)
                .and_then(Iterator::collect::<io::Result<Vec<_>>>)
                .map_err(|error| at(&path, &error))?;
            inside.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
            waiting.extend(
                inside.into_iter().map(|entry| (entry.path(), name.join(entry.file_name()))),
            );
        } else if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            let target = fs::read_link(&path).map_err(|error| at(&path, &error))?;
            builder.append_link(&mut header, &name, target)?;
        } else if kind.is_file() {
            let file = File::open(&path).map_err(|error| at(&path, &error))?;
            let mut exactly = Exactly { file, left: metadata.len() };
            builder
                .append_data(&mut header, &name, &mut exactly)
                .map_err(|error| at(&path, &error))?;
        } else {
            left_out.push(format!("{} is no file, folder or link", path.display()));
        }
    }
    builder.into_inner()?.flush()?;
    Ok(left_out)
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    // A pipe that closed says all by itself, and is told apart by its kind.
    if error.kind() == io::ErrorKind::BrokenPipe {
        return io::Error::from(io::ErrorKind::BrokenPipe);
    }
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// As many bytes of a file as its header says, whatever is written to it meanwhile.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let length = self.file.read(&mut into[..most])?;
        if length == 0 && most > 0 {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        self.left -= u64::try_from(length).unwrap_or(0);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_wished_and_everything_belongs_to_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("there");
        fs::create_dir_all(root.join("deep/er")).unwrap();
        fs::write(root.join("a"), "hello").unwrap();
        fs::write(root.join("deep/b"), "").unwrap();
        std::os::unix::fs::symlink("../a", root.join("deep/link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        for (name, prefix) in [(Some("here"), "here/"), (None, "")] {
            let mut bytes = Vec::new();
            let left_out = pack(&root, name, &mut bytes).unwrap();
            assert_eq!(left_out.len(), 1, "{left_out:?}");
            let mut found = Vec::new();
            for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
                let entry = entry.unwrap();
                assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
                found.push(entry.path().unwrap().to_string_lossy().into_owned());
            }
            let inside = ["a", "deep", "deep/b", "deep/er", "deep/link"];
            let mut wanted: Vec<String> =
                inside.iter().map(|name| format!("{prefix}{name}")).collect();
            if name.is_some() {
                wanted.insert(0, "here".to_owned());
            }
            let found: Vec<&str> = found.iter().map(|name| name.trim_end_matches('/')).collect();
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn a_file_that_shrinks_meanwhile_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "abc").unwrap();
        let mut exactly = Exactly { file: File::open(&path).unwrap(), left: 5 };
        let error = io::copy(&mut exactly, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("shorter"), "{error}");
    }
}
