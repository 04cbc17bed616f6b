//! An archive that nobody vouches for, unpacked so that nothing leads out of its folder.
//!
//! Each entry must begin with the name that was asked for, which is replaced by what it shall be called here. Only
//! files, folders and links are made; files are made anew and never written through. What is refused is left out and
//! told; the rest is unpacked all the same.
//!
//! Why no link leads out: a link may only climb (`..`) at its beginning, and no further than from the real place of
//! the folder that it lies in to the target folder; it may not be absolute. Whatever it names from there on is made of
//! names alone, and a link among those stays inside by the same rule. A lexical check of the whole would not do:
//! `a/up -> ..` makes `a/up/..` a way out that looks harmless.

use std::cell::Cell;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use tar::{Archive, Entry, EntryType};

/// The most bytes that may stand between two entries: long names and other attributes, which are kept in memory.
const HEADERS_BYTES_MAX: u64 = 1 << 20;
/// How many of those that are left out are named.
const LEFT_OUT_MAX: usize = 10;

/// Where an archive goes.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The folder, which exists, that nothing leads out of.
    pub(crate) folder: PathBuf,
    /// The name that every entry begins with; nothing for the container's root.
    pub(crate) name: String,
    /// What that is called here; nothing puts what is in it straight into the folder.
    pub(crate) called: PathBuf,
}

/// What was unpacked.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    /// How many files, folders and links.
    pub(crate) entries: u64,
    /// How many entries were left out.
    pub(crate) left_out: u64,
    /// The first of those, with the reason.
    pub(crate) reasons: Vec<String>,
}

/// Unpacks an archive to its end.
pub(crate) fn unpack(archive: impl Read, target: &Target) -> io::Result<Unpacked> {
    let budget = Rc::new(Cell::new(None));
    let mut archive = Archive::new(Metered { inner: archive, budget: Rc::clone(&budget) });
    let target = Target { folder: target.folder.canonicalize()?, ..target.clone() };
    let mut unpacked = Unpacked::default();
    // A folder that may not be written to gets its rights when everything is in it.
    let mut folders = Vec::new();
    let mut entries = archive.entries()?;
    loop {
        budget.set(Some(HEADERS_BYTES_MAX));
        let Some(entry) = entries.next() else { break };
        budget.set(None);
        let mut entry = entry?;
        match place(&mut entry, &target, &mut folders)? {
            Ok(()) => unpacked.entries += 1,
            Err(reason) => {
                unpacked.left_out += 1;
                if unpacked.reasons.len() < LEFT_OUT_MAX {
                    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                    unpacked.reasons.push(format!("{path:?} {reason}"));
                }
            }
        }
        // Here, so that it is not taken for headers.
        io::copy(&mut entry, &mut io::sink())?;
    }
    budget.set(None);
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    for (folder, mode) in folders.into_iter().rev() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode))?;
    }
    Ok(unpacked)
}

/// Makes what one entry says. The inner error is why it is left out.
fn place<R: Read>(
    entry: &mut Entry<'_, R>,
    target: &Target,
    folders: &mut Vec<(PathBuf, u32)>,
) -> io::Result<Result<(), &'static str>> {
    const ELSEWHERE: &str = "is not below what was asked for";
    let Some(inside) = mapped(&entry.path()?, target) else { return Ok(Err(ELSEWHERE)) };
    let kind = entry.header().entry_type();
    let (Some(above), Some(name)) = (inside.parent(), inside.file_name()) else {
        // The target folder itself: it is there, and stays as it is.
        return Ok(if kind.is_dir() { Ok(()) } else { Err(ELSEWHERE) });
    };
    let Some(parent) = entered(&target.folder, above)? else {
        return Ok(Err("lies behind a link that leads out of the target"));
    };
    let depth = parent.components().count() - target.folder.components().count();
    let path = parent.join(name);
    match kind {
        EntryType::Directory => {
            if !fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
                fs::create_dir(&path).map_err(|error| told(&path, &error))?;
            }
            let mode = entry.header().mode().unwrap_or(0o755) & 0o777;
            folders.push((path, mode));
        }
        EntryType::Symlink => {
            let Some(link) = entry.link_name()? else { return Ok(Err("is a link to nothing")) };
            if !stays_inside(&link, depth) {
                return Ok(Err("is a link that leads out of the target"));
            }
            replace(&path, |path| symlink(&link, path))?;
        }
        EntryType::Link => {
            let link = entry.link_name()?.and_then(|link| mapped(&link, target));
            let Some(link) = link else {
                return Ok(Err("is a hard link to what was not asked for"));
            };
            let source = target.folder.join(link);
            let is_inside = fs::symlink_metadata(&source).is_ok_and(|found| found.is_file())
                && source.canonicalize().is_ok_and(|real| real.starts_with(&target.folder));
            if !is_inside {
                return Ok(Err("is a hard link to what is not there, or leads out of the target"));
            }
            if source != path {
                replace(&path, |path| fs::hard_link(&source, path))?;
            }
        }
        EntryType::Regular | EntryType::Continuous => {
            entry.set_preserve_permissions(false);
            entry.set_unpack_xattrs(false);
            entry.unpack(&path).map_err(|error| told(&path, &error))?;
        }
        EntryType::GNUSparse => {
            return Ok(Err("is a file with holes, which may be larger than it says"));
        }
        EntryType::XGlobalHeader => {}
        _ => return Ok(Err("is no file, folder or link")),
    }
    Ok(Ok(()))
}

/// The real place of a folder below another one, made where it is missing; `None` where a link leads out.
fn entered(folder: &Path, below: &Path) -> io::Result<Option<PathBuf>> {
    let mut place = folder.to_owned();
    for name in below.components() {
        place.push(name);
        if fs::symlink_metadata(&place).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            fs::create_dir(&place).map_err(|error| told(&place, &error))?;
        }
        place = place.canonicalize().map_err(|error| told(&place, &error))?;
        if !place.starts_with(folder) {
            return Ok(None);
        }
    }
    Ok(Some(place))
}

/// Makes a link where something may be already.
fn replace(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let made = match make(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path).and_then(|()| make(path))
        }
        made => made,
    };
    made.map_err(|error| told(path, &error))
}

fn told(path: &Path, error: &io::Error) -> io::Error {
    let mut text = error.to_string();
    // The library names the path too, and hides the reason behind it.
    if let Some(source) = std::error::Error::source(error) {
        text = source.to_string();
    }
    io::Error::new(error.kind(), format!("{}: {text}", path.display()))
}

/// The place of an entry below the target folder; `None` for one that does not begin with the name, or climbs.
fn mapped(path: &Path, target: &Target) -> Option<PathBuf> {
    let mut inside = target.called.clone();
    let mut names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(Some(name)),
        Component::CurDir | Component::RootDir => None,
        Component::ParentDir | Component::Prefix(_) => Some(None),
    });
    if !target.name.is_empty() && names.next()?? != target.name.as_str() {
        return None;
    }
    for name in names {
        inside.push(name?);
    }
    Some(inside)
}

/// Whether a link in a folder so deep below the target folder names something in there.
fn stays_inside(link: &Path, depth: usize) -> bool {
    let mut climbs = 0;
    let mut has_name = false;
    for part in link.components() {
        match part {
            Component::ParentDir if !has_name => climbs += 1,
            Component::Normal(_) => has_name = true,
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    climbs <= depth
}

/// A reader that limits how much is read while a limit is set.
struct Metered<R> {
    inner: R,
    budget: Rc<Cell<Option<u64>>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(into)?;
        if let Some(left) = self.budget.get() {
            let left = left.checked_sub(u64::try_from(length).unwrap_or(u64::MAX));
            let left =
                left.ok_or_else(|| io::Error::other("the archive has a name without end"))?;
            self.budget.set(Some(left));
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use tar::{Builder, Header};

    use super::*;

    /// An archive by hand: the library's own builder refuses the names that are of interest here.
    fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (kind, name, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            let is_link = kind.is_symlink() || kind.is_hard_link();
            if is_link {
                let link = &mut header.as_gnu_mut().unwrap().linkname;
                link[..content.len()].copy_from_slice(content.as_bytes());
            }
            let content = if is_link { "" } else { content };
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    const FILE: EntryType = EntryType::Regular;
    const FOLDER: EntryType = EntryType::Directory;
    const LINK: EntryType = EntryType::Symlink;
    const HARD: EntryType = EntryType::Link;

    /// Unpacks into a folder beside which there is something to lose.
    fn unpacked(entries: &[(EntryType, &str, &str)]) -> (tempfile::TempDir, Unpacked) {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("in")).unwrap();
        fs::write(place.path().join("secret"), "mine").unwrap();
        let target =
            Target { folder: place.path().join("in"), name: "d".into(), called: "copy".into() };
        let unpacked = unpack(&archive(entries)[..], &target).unwrap();
        assert_eq!(fs::read_to_string(place.path().join("secret")).unwrap(), "mine");
        let names = fs::read_dir(place.path()).unwrap().count();
        assert_eq!(names, 2, "nothing is made beside the folder");
        (place, unpacked)
    }

    #[test]
    fn a_tree_comes_out_under_its_new_name_without_set_user_id() {
        let (place, done) = unpacked(&[
            (FOLDER, "d/", ""),
            (FILE, "d/a", "hello"),
            (FOLDER, "d/sub", ""),
            (LINK, "d/sub/up", "../a"),
            (HARD, "d/b", "d/a"),
        ]);
        assert_eq!((done.entries, done.left_out), (5, 0), "{done:?}");
        let at = |name: &str| place.path().join("in/copy").join(name);
        assert_eq!(fs::read_to_string(at("sub/up")).unwrap(), "hello");
        assert_eq!(fs::read_to_string(at("b")).unwrap(), "hello");
        assert_eq!(fs::metadata(at("a")).unwrap().permissions().mode() & 0o7777, 0o755);
    }

    #[test]
    fn what_leads_out_is_left_out_and_the_rest_is_not() {
        let (place, done) = unpacked(&[
            (FILE, "d/../../secret", "theirs"),
            (FILE, "../secret", "theirs"),
            (FILE, "/secret", "theirs"),
            (FILE, "other/file", "theirs"),
            (LINK, "d/absolute", "/etc/passwd"),
            (LINK, "d/climbs", "../../secret"),
            (HARD, "d/hard", "../secret"),
            (HARD, "d/hard", "d/../../secret"),
            (EntryType::Fifo, "d/fifo", ""),
            (EntryType::Block, "d/disk", ""),
            (FILE, "d/fine", "ours"),
        ]);
        assert_eq!((done.entries, done.left_out), (1, 10), "{done:?}");
        assert_eq!(fs::read_to_string(place.path().join("in/copy/fine")).unwrap(), "ours");
    }

    #[test]
    fn links_do_not_lead_out_together_either() {
        let (place, done) = unpacked(&[
            (FOLDER, "d/a/b", ""),
            // Each of these is inside; what climbs behind them would not be.
            (LINK, "d/a/b/top", "../.."),
            (LINK, "d/out", "a/b/top/../.."),
            (LINK, "d/a/b/top/out", ".."),
            (LINK, "d/a/b/top/out2", "../.."),
            (FILE, "d/out2/secret", "theirs"),
            (FILE, "d/a/b/top/file", "ours"),
        ]);
        // `d/a/b/top/out` lies in `copy` itself, from where one step up is still inside of the folder.
        assert_eq!((done.entries, done.left_out), (5, 2), "{done:?}");
        assert_eq!(fs::read_to_string(place.path().join("in/copy/file")).unwrap(), "ours");
    }

    #[test]
    fn a_link_that_is_there_is_replaced_and_not_written_through() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("secret"), "mine").unwrap();
        fs::create_dir(place.path().join("in")).unwrap();
        symlink("../secret", place.path().join("in/a")).unwrap();
        symlink("..", place.path().join("in/up")).unwrap();
        let bytes = archive(&[
            (FILE, "d/a", "theirs"),
            (FILE, "d/up/secret", "theirs"),
            (FILE, "d/up/x/y", "theirs"),
        ]);
        let target =
            Target { folder: place.path().join("in"), name: "d".into(), called: PathBuf::new() };
        let done = unpack(&bytes[..], &target).unwrap();
        assert_eq!((done.entries, done.left_out), (1, 2), "{done:?}");
        assert!(!place.path().join("x").exists());
        assert_eq!(fs::read_to_string(place.path().join("secret")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(place.path().join("in/a")).unwrap(), "theirs");
    }

    #[test]
    fn a_name_without_end_does_not_fill_the_memory() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let bytes = header.as_bytes().chain(io::repeat(b'x'));
        let place = tempfile::tempdir().unwrap();
        let target = Target { folder: place.path().into(), name: "d".into(), called: "d".into() };
        let error = unpack(bytes, &target).unwrap_err();
        assert!(error.to_string().contains("without end"), "{error}");
    }

    #[test]
    fn an_archive_that_breaks_off_is_an_error() {
        let bytes = archive(&[(FILE, "d/a", "hello")]);
        let place = tempfile::tempdir().unwrap();
        let target = Target { folder: place.path().into(), name: "d".into(), called: "d".into() };
        assert!(unpack(&bytes[..514], &target).is_err());
    }
}
