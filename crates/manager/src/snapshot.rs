//! A snapshot as a file: the state at one index of the log, compressed, and checked by a hash before a byte of it
//! is believed. The same format carries snapshots in the bucket, points of time travel and backups.
//!
//! ```text
//! "longshore-snapshot\n" | format u16 | LZ4 frame of: head, entries, end mark with their count | SHA-256 of all before
//! ```
//!
//! Lengths are 32-bit and, as the format, big-endian; the head is MessagePack, so that it can grow; an entry is a
//! kind, a key and a value. LZ4, because it is pure Rust without `unsafe` and faster than any disk here.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

pub use longshore_core::leadership::mend::Head;
use longshore_proto::codec;
use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use sha2::{Digest, Sha256};

/// What every snapshot begins with.
const MAGIC: &[u8] = b"longshore-snapshot\n";
/// The version of the format. A newer one is refused; older ones are read for ever.
const FORMAT: u16 = 1;
/// The bytes of the hash at the end.
const HASH_BYTES: u64 = 32;
/// The largest head, key or value that is read, in bytes.
const PART_BYTES_MAX: u32 = 64 << 20;

/// One thing in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A key and value of the state.
    State(Vec<u8>, Vec<u8>),
    /// An event of the history.
    Event(Vec<u8>),
}

/// Why a file is no snapshot that can be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file cannot be read or written.
    #[error("cannot use the file {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is something else.
    #[error("{0} is no snapshot and no backup of Longshore")]
    Stranger(PathBuf),
    /// It is of a newer version.
    #[error(
        "{path} has format {found}, and this version reads up to {FORMAT}; use a newer Longshore"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u16,
    },
    /// Its bytes are not those that were written.
    #[error("{path} is damaged ({detail}); use another copy")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How this was noticed.
        detail: &'static str,
    },
}

/// Writes a snapshot. The file stands under its name only when it is complete and synced.
pub fn write<E: From<SnapshotError>>(
    path: &Path,
    head: &Head,
    entries: impl Iterator<Item = Result<Entry, E>>,
) -> Result<(), E> {
    let fail = |source| E::from(SnapshotError::Io { path: path.to_owned(), source });
    let part = path.with_extension("part");
    let file = File::create(&part).map_err(fail)?;
    let mut hashed = Hashed { inner: BufWriter::new(file), hash: Sha256::new() };
    hashed.write_all(MAGIC).and_then(|()| hashed.write_all(&FORMAT.to_be_bytes())).map_err(fail)?;
    let mut frame = FrameEncoder::new(hashed);
    write_part(&mut frame, &codec::encode(head)).map_err(fail)?;
    let mut count = 0u64;
    for entry in entries {
        let (kind, key, value) = match entry? {
            Entry::State(key, value) => (1, key, value),
            Entry::Event(value) => (2, Vec::new(), value),
        };
        frame
            .write_all(&[kind])
            .and_then(|()| write_part(&mut frame, &key))
            .and_then(|()| write_part(&mut frame, &value))
            .map_err(fail)?;
        count += 1;
    }
    frame.write_all(&[0]).and_then(|()| frame.write_all(&count.to_be_bytes())).map_err(fail)?;
    let Hashed { mut inner, hash } =
        frame.finish().map_err(|error| fail(io::Error::other(error)))?;
    inner.write_all(&hash.finalize()).map_err(fail)?;
    let file = inner.into_inner().map_err(|error| fail(error.into_error()))?;
    file.sync_all().map_err(fail)?;
    std::fs::rename(&part, path).map_err(fail)?;
    // The name must be as durable as what it names.
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)
}

/// Opens a snapshot, after a check of its hash.
pub fn open(path: &Path) -> Result<(Head, Entries), SnapshotError> {
    let fail = |source| SnapshotError::Io { path: path.to_owned(), source };
    let damaged = |detail| SnapshotError::Damaged { path: path.to_owned(), detail };
    let mut file = File::open(path).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    let mut start = vec![0; MAGIC.len() + 2];
    let stranger = || SnapshotError::Stranger(path.to_owned());
    file.read_exact(&mut start).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => stranger(),
        _ => fail(error),
    })?;
    let Some((MAGIC, format)) = start.split_at_checked(MAGIC.len()) else {
        return Err(stranger());
    };
    let found = format.iter().fold(0, |all, byte| all << 8 | u16::from(*byte));
    if found > FORMAT {
        return Err(SnapshotError::Newer { path: path.to_owned(), found });
    }
    file.rewind().map_err(fail)?;
    let body = length.checked_sub(HASH_BYTES).ok_or_else(stranger)?;
    let mut hash = Sha256::new();
    let mut left = BufReader::with_capacity(1 << 16, (&mut file).take(body));
    loop {
        let bytes = left.fill_buf().map_err(fail)?;
        if bytes.is_empty() {
            break;
        }
        hash.update(bytes);
        let length = bytes.len();
        left.consume(length);
    }
    drop(left);
    let mut stored = [0; HASH_BYTES as usize];
    file.read_exact(&mut stored).map_err(fail)?;
    if hash.finalize().as_slice() != stored {
        return Err(damaged("its hash is another"));
    }
    file.seek(io::SeekFrom::Start(start.len() as u64)).map_err(fail)?;
    let limited = BufReader::new(file).take(body - start.len() as u64);
    let mut entries = Entries {
        path: path.to_owned(),
        frame: FrameDecoder::new(limited),
        count: 0,
        ended: false,
    };
    let head = entries.part().map_err(|_| damaged("it has no head"))?;
    let head = codec::decode_trusted(&head).map_err(|_| damaged("its head cannot be read"))?;
    Ok((head, entries))
}

/// The entries of a snapshot, in order.
pub struct Entries {
    path: PathBuf,
    frame: FrameDecoder<io::Take<BufReader<File>>>,
    count: u64,
    ended: bool,
}

impl Entries {
    fn part(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.frame.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > PART_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut part = Vec::new();
        (&mut self.frame).take(u64::from(length)).read_to_end(&mut part)?;
        if part.len() as u64 == u64::from(length) {
            Ok(part)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn entry(&mut self) -> io::Result<Option<Entry>> {
        let mut kind = [0];
        self.frame.read_exact(&mut kind)?;
        if kind == [0] {
            let mut count = [0; 8];
            self.frame.read_exact(&mut count)?;
            let complete = u64::from_be_bytes(count) == self.count;
            return if complete { Ok(None) } else { Err(io::ErrorKind::InvalidData.into()) };
        }
        self.count += 1;
        let (key, value) = (self.part()?, self.part()?);
        match kind {
            [1] => Ok(Some(Entry::State(key, value))),
            [2] => Ok(Some(Entry::Event(value))),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.entry();
        self.ended = !matches!(next, Ok(Some(_)));
        let damaged = SnapshotError::Damaged { path: self.path.clone(), detail: "it ends early" };
        next.map_err(|_| damaged).transpose()
    }
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A writer that hashes what passes.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn write_part(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_be_bytes())?;
    to.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use longshore_core::cluster::record::Hash;
    use longshore_proto::id::ClusterId;

    use super::*;

    fn head() -> Head {
        Head {
            cluster: ClusterId(uuid::Uuid::from_u128(1)),
            index: 7,
            chain: Hash::of(b"seven"),
            epoch: 2,
            at_ms: 1_763_800_000_000,
            stream_sequence: 9,
            log_created: Some("2026-01-01".into()),
            links: vec![(6, Hash::of(b"six"))],
            version: "0.1.0".into(),
        }
    }

    fn entries() -> Vec<Entry> {
        let value = |byte: u8| vec![byte; usize::from(byte) * 100];
        let state = (0..200).map(|n| Entry::State(vec![n], value(n)));
        state.chain([Entry::Event(b"event".to_vec())]).collect()
    }

    fn made(folder: &Path) -> PathBuf {
        let path = folder.join("7.snapshot");
        write::<SnapshotError>(&path, &head(), entries().into_iter().map(Ok)).unwrap();
        path
    }

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = made(folder.path());
        let (found, rest) = open(&path).unwrap();
        assert_eq!(found, head());
        assert_eq!(rest.collect::<Result<Vec<_>, _>>().unwrap(), entries());
        assert!(std::fs::metadata(&path).unwrap().len() < 100_000, "it is compressed");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn any_flipped_or_missing_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = made(folder.path());
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(97) {
            let mut bad = whole.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            open(&path).unwrap_err();
            std::fs::write(&path, &whole[..at]).unwrap();
            open(&path).unwrap_err();
        }
        std::fs::write(&path, "something else entirely, and long enough to be looked at").unwrap();
        assert!(matches!(open(&path), Err(SnapshotError::Stranger(_))));
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = made(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[MAGIC.len() + 1] = 2;
        std::fs::write(&path, &bytes).unwrap();
        let said = open(&path).unwrap_err().to_string();
        assert!(said.contains("format 2") && said.contains("newer"), "{said}");
    }
}
