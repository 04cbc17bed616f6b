//! Bytes between asynchronous code, which moves pieces, and blocking code, which reads and writes.

use std::io::{self, Read, Write};

use longshore_proto::rpc::CHUNK_BYTES_MAX;
use tokio::sync::mpsc;

/// How many pieces wait in a pipe.
const PIECES_MAX: usize = 16;

/// A pipe whose pieces blocking code reads. Its end is an end only when `finish` was said; else reading fails, so that
/// half an archive is never taken for a whole one.
pub(crate) fn to_reader() -> (mpsc::Sender<Option<Vec<u8>>>, Reader) {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    (sender, Reader { pieces, piece: Vec::new(), at: 0, is_finished: false })
}

/// Where blocking code reads pieces; `None` is the end.
pub(crate) struct Reader {
    pieces: mpsc::Receiver<Option<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
    is_finished: bool,
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() && !self.is_finished {
            match self.pieces.blocking_recv() {
                Some(Some(piece)) => (self.piece, self.at) = (piece, 0),
                Some(None) => self.is_finished = true,
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let length = rest.len().min(into.len());
        into[..length].copy_from_slice(&rest[..length]);
        self.at += length;
        Ok(length)
    }
}

/// A pipe into which blocking code writes. Pieces have the size of a chunk, but for the last one.
pub(crate) fn from_writer() -> (Writer, mpsc::Receiver<Vec<u8>>) {
    let (pieces, receiver) = mpsc::channel(PIECES_MAX);
    (Writer { pieces, piece: Vec::with_capacity(CHUNK_BYTES_MAX) }, receiver)
}

/// Where blocking code writes; what is left is passed on by `flush`.
pub(crate) struct Writer {
    pieces: mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(CHUNK_BYTES_MAX - self.piece.len());
        self.piece.extend_from_slice(&bytes[..length]);
        if self.piece.len() == CHUNK_BYTES_MAX {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(CHUNK_BYTES_MAX));
        self.pieces.blocking_send(piece).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_off_is_no_end() {
        let (sender, mut reader) = to_reader();
        sender.blocking_send(Some(b"ab".to_vec())).unwrap();
        sender.blocking_send(Some(Vec::new())).unwrap();
        sender.blocking_send(Some(b"c".to_vec())).unwrap();
        sender.blocking_send(None).unwrap();
        let mut all = String::new();
        assert_eq!(reader.read_to_string(&mut all).unwrap(), 3);
        assert_eq!(all, "abc");

        let (sender, mut reader) = to_reader();
        sender.blocking_send(Some(b"ab".to_vec())).unwrap();
        drop(sender);
        let error = reader.read_to_string(&mut String::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn pieces_are_as_large_as_a_chunk() {
        let (mut writer, mut pieces) = from_writer();
        writer.write_all(&vec![7; CHUNK_BYTES_MAX + 3]).unwrap();
        writer.flush().unwrap();
        drop(writer);
        let lengths: Vec<usize> =
            std::iter::from_fn(|| pieces.blocking_recv()).map(|piece| piece.len()).collect();
        assert_eq!(lengths, [CHUNK_BYTES_MAX, 3]);
    }
}
