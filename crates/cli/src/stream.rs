//! What every stream from a node needs: credit for the node, and an eye on the numbers of the chunks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use longshore_bus::Bus;
use longshore_proto::id::SessionId;
use longshore_proto::name::NodeName;
use longshore_proto::rpc::{CREDIT_INTERVAL_MS, Credit, WINDOW_CHUNKS};
use longshore_proto::subject::{RpcVerb, Subject};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

/// Renews the credit of a stream, in a task of its own: every so often, and after each half window.
pub(crate) struct Creditor {
    taken: Arc<AtomicU64>,
    credited: u64,
    due: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Creditor {
    /// Begins to credit.
    pub(crate) fn start(bus: Bus, node: NodeName, session: SessionId) -> Self {
        let taken = Arc::new(AtomicU64::new(0));
        let due = Arc::new(Notify::new());
        let (count, wake) = (Arc::clone(&taken), Arc::clone(&due));
        let task = tokio::spawn(async move {
            let subject = Subject::Rpc { node, verb: RpcVerb::Credit };
            loop {
                let pause = tokio::time::sleep(Duration::from_millis(CREDIT_INTERVAL_MS));
                tokio::select! {
                    () = pause => {}
                    () = wake.notified() => {}
                }
                let sequence = count.load(Ordering::Relaxed);
                let credit = Credit { session, sequence, end: false };
                if let Err(error) = bus.publish(&subject, &credit).await {
                    debug!(%error, "a credit was not sent; the next one will do");
                }
            }
        });
        Self { taken, credited: 0, due, _task: AbortOnDropHandle::new(task) }
    }

    /// Everything up to here has been taken.
    pub(crate) fn taken(&mut self, sequence: u64) {
        self.taken.store(sequence, Ordering::Relaxed);
        self.credited = self.credited.min(sequence);
        if sequence >= self.credited + WINDOW_CHUNKS / 2 {
            self.credited = sequence;
            self.due.notify_one();
        }
    }
}

/// Which chunks have come.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    /// The last one.
    pub(crate) last: u64,
    /// Whether that was the end.
    pub(crate) ended: bool,
}

/// What a chunk's number says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It has been here before.
    Again,
    /// It is the next one.
    Next,
    /// So many before it never came.
    After(u64),
    /// The stream begins anew: nothing doubles a message, so it is another first one.
    Anew,
}

impl Sequence {
    /// Takes note of a chunk.
    pub(crate) fn take(&mut self, number: u64) -> Taken {
        if number == 1 && self.last > 0 {
            self.last = 1;
            return Taken::Anew;
        }
        if number <= self.last {
            return Taken::Again;
        }
        let lost = number - self.last - 1;
        self.last = number;
        if lost == 0 { Taken::Next } else { Taken::After(lost) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_and_what_came_twice_is_not_printed_twice() {
        let mut sequence = Sequence::default();
        assert_eq!(sequence.take(1), Taken::Next);
        assert_eq!(sequence.take(2), Taken::Next);
        assert_eq!(sequence.take(2), Taken::Again);
        assert_eq!(sequence.take(5), Taken::After(2));
        assert_eq!(sequence.take(4), Taken::Again);
        assert_eq!(sequence.take(6), Taken::Next);
        assert_eq!(sequence.take(1), Taken::Anew);
        assert_eq!(sequence.take(2), Taken::Next);
    }
}
