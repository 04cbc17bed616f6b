//! The way back to one operator: numbered chunks on this worker's own `out` subject, with flow control.
//!
//! The worker is at most [`WINDOW_CHUNKS`] chunks ahead of the operator's credit, and ends a session that is not
//! credited in time. Where the operator cannot tell a quiet stream from a dead worker by itself, each credit is
//! answered when there is nothing else to say.

use std::time::Duration;

use longshore_proto::error::ApiError;
use longshore_proto::id::SessionId;
use longshore_proto::name::{NodeName, UserName};
use longshore_proto::rpc::{CREDIT_TIMEOUT_MS, Chunk, ChunkBody, Credit, WINDOW_CHUNKS};
use longshore_proto::subject::Subject;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::debug;

use crate::session::Session;

const CREDIT_TIMEOUT: Duration = Duration::from_millis(CREDIT_TIMEOUT_MS);

/// Why a stream stops early: nobody listens any more.
pub(crate) struct Gone;

/// The way back to one operator.
pub(crate) struct Out {
    session: Session,
    subject: Subject,
    credit: watch::Receiver<Credit>,
    sequence: u64,
    deadline: Instant,
    /// The input that has been taken, once it has begun: what is said again to show that the stream lives.
    taken: Option<u64>,
    /// The sequence when the last credit came.
    sequence_at_credit: u64,
}

impl Out {
    pub(crate) fn new(
        session: Session,
        user: UserName,
        id: SessionId,
        credit: watch::Receiver<Credit>,
    ) -> Self {
        let subject = Subject::Out { node: session.node.clone(), user, session: id };
        Self {
            session,
            subject,
            credit,
            sequence: 0,
            deadline: Instant::now() + CREDIT_TIMEOUT,
            taken: None,
            sequence_at_credit: 0,
        }
    }

    /// The node that speaks.
    pub(crate) fn node(&self) -> &NodeName {
        &self.session.node
    }

    /// Waits for something, unless the operator goes away meanwhile.
    pub(crate) async fn unless_gone<T>(
        &mut self,
        wait: impl Future<Output = T>,
    ) -> Result<T, Gone> {
        tokio::pin!(wait);
        loop {
            tokio::select! {
                done = &mut wait => return Ok(done),
                changed = self.credit.changed() => {
                    self.credited(changed.is_ok())?;
                    self.live_on().await?;
                }
                () = tokio::time::sleep_until(self.deadline) => return Err(Gone),
            }
        }
    }

    fn credited(&mut self, is_open: bool) -> Result<(), Gone> {
        self.deadline = Instant::now() + CREDIT_TIMEOUT;
        if !is_open || self.credit.borrow_and_update().end { Err(Gone) } else { Ok(()) }
    }

    /// Answers a credit when nothing has been said since the last one.
    async fn live_on(&mut self) -> Result<(), Gone> {
        if let Some(taken) = self.taken
            && self.sequence == self.sequence_at_credit
            && self.has_room()
        {
            self.publish(ChunkBody::Taken(taken)).await?;
        }
        self.sequence_at_credit = self.sequence;
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.sequence.saturating_sub(self.credit.borrow().sequence) < WINDOW_CHUNKS
    }

    /// Sends one piece when the window has room for it.
    pub(crate) async fn send(&mut self, body: ChunkBody) -> Result<(), Gone> {
        match body {
            ChunkBody::Taken(sequence) => self.taken = Some(sequence),
            ChunkBody::Found(_) => self.taken = Some(0),
            _ => {}
        }
        while !self.has_room() {
            let waited = tokio::time::timeout_at(self.deadline, self.credit.changed()).await;
            self.credited(waited.is_ok_and(|changed| changed.is_ok()))?;
        }
        self.publish(body).await
    }

    async fn publish(&mut self, body: ChunkBody) -> Result<(), Gone> {
        self.sequence += 1;
        let chunk = Chunk { sequence: self.sequence, body };
        // Where the bus is stuck the operator sees a gap, or nothing: either way it asks again.
        self.session.bus.publish(&self.subject, &chunk).await.map_err(|error| {
            debug!("{error}");
            Gone
        })
    }

    pub(crate) async fn finish(mut self) {
        let _ = self.publish(ChunkBody::End).await;
    }

    pub(crate) async fn fail(&mut self, refusal: ApiError) {
        let _ = self.publish(ChunkBody::Failed(refusal)).await;
    }
}
