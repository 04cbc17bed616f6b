//! What operators send to a stream: pieces in order, written to whatever takes them.

use std::pin::Pin;
use std::sync::Arc;

use longshore_proto::rpc::{Input, InputBody};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tracing::debug;

use crate::runtime::Runtime;

/// What became of a piece of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fed {
    /// It has been taken up to here.
    Taken(u64),
    /// Its end has been taken: no more bytes follow.
    Ended(u64),
    /// A piece of it was lost.
    Lost,
    /// Whoever should take it takes no more.
    Closed,
}

/// The order of pieces.
#[derive(Debug, Default)]
pub(crate) struct Order {
    last: u64,
}

impl Order {
    /// Whether a piece is the next one; `None` for one that has been there before, and an error for a gap.
    pub(crate) fn next(&mut self, sequence: u64) -> Option<Result<u64, Fed>> {
        if sequence <= self.last {
            return None;
        }
        if sequence != self.last + 1 {
            return Some(Err(Fed::Lost));
        }
        self.last = sequence;
        Some(Ok(sequence))
    }
}

/// The terminal of a command.
pub(crate) struct Terminal {
    pub(crate) runtime: Arc<dyn Runtime>,
    /// The command's id.
    pub(crate) id: String,
}

/// Writes what comes, in order, and tells how far that has gone.
pub(crate) async fn feed(
    mut inputs: mpsc::Receiver<Input>,
    sink: Pin<Box<dyn AsyncWrite + Send>>,
    terminal: Option<Terminal>,
    tell: mpsc::Sender<Fed>,
) {
    // Closed when it is dropped: that is how a command learns of the end.
    let mut sink = Some(sink);
    let mut order = Order::default();
    while let Some(Input { sequence, body, .. }) = inputs.recv().await {
        let sequence = match order.next(sequence) {
            None => continue,
            Some(Ok(sequence)) => sequence,
            Some(Err(lost)) => {
                let _ = tell.send(lost).await;
                return;
            }
        };
        let mut fed = Fed::Taken(sequence);
        match body {
            InputBody::Bytes(bytes) => {
                if let Some(open) = &mut sink {
                    let written = open.write_all(&bytes).await;
                    if written.is_err() || open.flush().await.is_err() {
                        // It reads no more: what comes is taken all the same, as a pipe into `head` is.
                        sink = None;
                        if tell.send(Fed::Closed).await.is_err() {
                            return;
                        }
                    }
                }
            }
            InputBody::Size(size) => {
                if let Some(Terminal { runtime, id }) = &terminal {
                    let resized = runtime.exec_resize(id.clone(), (size.columns, size.rows)).await;
                    if let Err(error) = resized {
                        debug!(%error, "the terminal keeps its size");
                    }
                }
            }
            InputBody::End => {
                if let Some(mut open) = sink.take() {
                    let _ = open.shutdown().await;
                }
                fed = Fed::Ended(sequence);
            }
        }
        if tell.send(fed).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_twice_is_skipped_and_a_gap_is_noticed() {
        let mut order = Order::default();
        assert_eq!(order.next(1), Some(Ok(1)));
        assert_eq!(order.next(1), None);
        assert_eq!(order.next(2), Some(Ok(2)));
        assert_eq!(order.next(4), Some(Err(Fed::Lost)));
    }
}
