//! Streams of logs to operators.
//!
//! An operator asks on `rpc.logs` and names itself and a session; the answer goes to this worker's own `out`
//! subject for that user, so that nobody can make a worker publish elsewhere. The worker is at most
//! [`WINDOW_CHUNKS`] chunks ahead of the operator's credit, and ends a session that is not credited in time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::StreamExt;
use longshore_core::agent::LogSource;
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::SessionId;
use longshore_proto::rpc::{
    CHUNK_BYTES_MAX, CREDIT_TIMEOUT_MS, Chunk, ChunkBody, Credit, LogsRequest, WINDOW_CHUNKS,
};
use longshore_proto::subject::{Pattern, RpcVerb, Subject};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::driver::Message;
use crate::runtime::{LogChunk, LogsWish, Runtime};
use crate::session::Session;

/// How many streams a worker serves at once.
const SESSIONS_MAX: usize = 64;
/// How many lines that are ready are put together into as few chunks as possible.
const READY_MAX: usize = 512;
/// How often a follower looks for the next container of its task.
const NEXT_CONTAINER_INTERVAL: Duration = Duration::from_millis(500);
const CREDIT_TIMEOUT: Duration = Duration::from_millis(CREDIT_TIMEOUT_MS);

/// Serves operators, for ever.
pub(crate) async fn serve(
    session: Session,
    runtime: Arc<dyn Runtime>,
    driver: mpsc::Sender<Message>,
) {
    let pattern = Pattern::RpcOf(session.node.clone());
    let mut streams: HashMap<SessionId, watch::Sender<Credit>> = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        let mut questions = match session.bus.subscribe(&pattern).await {
            Ok(questions) => questions,
            Err(error) => {
                warn!("{error}; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        while let Some(incoming) = questions.next().await {
            while running.try_join_next().is_some() {}
            streams.retain(|_, credit| !credit.is_closed());
            match incoming.subject {
                Some(Subject::Rpc { verb: RpcVerb::Logs, .. }) => {
                    let Some(request) = session.read::<LogsRequest>(&incoming.payload, "rpc.logs")
                    else {
                        continue;
                    };
                    if streams.contains_key(&request.session) {
                        continue;
                    }
                    let start = Credit { session: request.session, sequence: 0, end: false };
                    let (to_stream, credit) = watch::channel(start);
                    let mut out = Out::new(session.clone(), request.clone(), credit);
                    if streams.len() >= SESSIONS_MAX {
                        let busy = ApiError::new(
                            ErrorCode::Unavailable,
                            format!("node {} serves {SESSIONS_MAX} streams already", session.node),
                        );
                        running.spawn(async move { out.fail(busy).await });
                        continue;
                    }
                    streams.insert(request.session, to_stream);
                    running.spawn(stream(out, request, runtime.clone(), driver.clone()));
                }
                Some(Subject::Rpc { verb: RpcVerb::Credit, .. }) => {
                    let Some(credit) = session.read::<Credit>(&incoming.payload, "rpc.credit")
                    else {
                        continue;
                    };
                    if let Some(to_stream) = streams.get(&credit.session) {
                        to_stream.send_replace(credit);
                    }
                }
                _ => debug!(
                    subject = incoming.subject_text(),
                    "no question that this worker answers"
                ),
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Why a stream stops early: nobody listens any more.
struct Gone;

/// Serves one stream.
async fn stream(
    mut out: Out,
    request: LogsRequest,
    runtime: Arc<dyn Runtime>,
    driver: mpsc::Sender<Message>,
) {
    let (task, node) = (request.task, out.session.node.clone());
    let refusal = match logs(&mut out, &request, &*runtime, &driver).await {
        Ok(None) => return out.finish().await,
        Ok(Some(refusal)) => refusal,
        Err(Gone) => return debug!(%task, %node, "a stream of logs ends because nobody takes it"),
    };
    out.fail(refusal).await;
}

/// Sends what there is and, for a follower, what is yet to come, over the task's attempts on this node. Gives
/// a refusal where there is nothing to send.
async fn logs(
    out: &mut Out,
    request: &LogsRequest,
    runtime: &dyn Runtime,
    driver: &mpsc::Sender<Message>,
) -> Result<Option<ApiError>, Gone> {
    let mut last: Option<String> = None;
    loop {
        let (answer, source) = oneshot::channel();
        let asked = driver.send(Message::LogsOf(request.task, answer)).await;
        let found = if asked.is_ok() { source.await.ok().flatten() } else { None };
        let Some(LogSource { container_id, goes_on }) = found else {
            return Ok(Some(not_found(
                request,
                out,
                "does not know this task",
                "`longshore ps` shows where it is",
            )));
        };
        match container_id.filter(|container_id| last.as_ref() != Some(container_id)) {
            Some(container_id) => {
                let is_first = last.is_none();
                last = Some(container_id.clone());
                let wish = LogsWish {
                    container_id,
                    follow: request.follow,
                    // What a later attempt writes is wanted whole.
                    tail: request.tail.filter(|_| is_first),
                    timestamps: request.timestamps,
                };
                let mut lines = runtime.logs(wish).ready_chunks(READY_MAX);
                while let Some(ready) = out.unless_gone(lines.next()).await? {
                    for piece in gather(ready.iter().filter_map(|line| line.as_ref().ok())) {
                        out.send(piece).await?;
                    }
                    if let Some(error) = ready.into_iter().find_map(Result::err) {
                        return Ok(Some(ApiError::new(ErrorCode::Internal, error.to_string())));
                    }
                }
                if !request.follow {
                    return Ok(None);
                }
            }
            None if request.follow && goes_on => {
                out.unless_gone(tokio::time::sleep(NEXT_CONTAINER_INTERVAL)).await?;
            }
            None if last.is_some() => return Ok(None),
            None if goes_on => {
                return Ok(Some(not_found(
                    request,
                    out,
                    "has not started this task yet",
                    "try again with --follow",
                )));
            }
            None => {
                let hint = "only the newest ended containers of a node are kept for their logs";
                return Ok(Some(not_found(
                    request,
                    out,
                    "no longer has this task's container",
                    hint,
                )));
            }
        }
    }
}

fn not_found(request: &LogsRequest, out: &Out, what: &str, hint: &str) -> ApiError {
    let text = format!("node {} {what} ({})", out.session.node, request.task);
    ApiError::new(ErrorCode::NotFound, text).hint(hint)
}

/// Puts pieces of one kind that follow each other together, and cuts what is too long.
fn gather<'a>(lines: impl Iterator<Item = &'a LogChunk>) -> Vec<ChunkBody> {
    let mut gathered: Vec<LogChunk> = Vec::new();
    for line in lines {
        let mut rest = line.bytes.clone();
        if let Some(last) = gathered.last_mut()
            && last.is_error == line.is_error
        {
            let room = CHUNK_BYTES_MAX.saturating_sub(last.bytes.len()).min(rest.len());
            last.bytes = Bytes::from([&last.bytes[..], &rest.split_to(room)].concat());
        }
        while !rest.is_empty() {
            let length = rest.len().min(CHUNK_BYTES_MAX);
            gathered.push(LogChunk { is_error: line.is_error, bytes: rest.split_to(length) });
        }
    }
    let body = |chunk: LogChunk| {
        let bytes = chunk.bytes.to_vec();
        if chunk.is_error { ChunkBody::Stderr(bytes) } else { ChunkBody::Stdout(bytes) }
    };
    gathered.into_iter().map(body).collect()
}

/// The way back to one operator.
struct Out {
    session: Session,
    subject: Subject,
    credit: watch::Receiver<Credit>,
    sequence: u64,
    deadline: Instant,
}

impl Out {
    fn new(session: Session, request: LogsRequest, credit: watch::Receiver<Credit>) -> Self {
        let subject = Subject::Out {
            node: session.node.clone(),
            user: request.user,
            session: request.session,
        };
        Self { session, subject, credit, sequence: 0, deadline: Instant::now() + CREDIT_TIMEOUT }
    }

    /// Waits for something, unless the operator goes away meanwhile.
    async fn unless_gone<T>(&mut self, wait: impl Future<Output = T>) -> Result<T, Gone> {
        tokio::pin!(wait);
        loop {
            tokio::select! {
                done = &mut wait => return Ok(done),
                changed = self.credit.changed() => self.credited(changed.is_ok())?,
                () = tokio::time::sleep_until(self.deadline) => return Err(Gone),
            }
        }
    }

    fn credited(&mut self, is_open: bool) -> Result<(), Gone> {
        self.deadline = Instant::now() + CREDIT_TIMEOUT;
        if !is_open || self.credit.borrow_and_update().end { Err(Gone) } else { Ok(()) }
    }

    /// Sends one piece when the window has room for it.
    async fn send(&mut self, body: ChunkBody) -> Result<(), Gone> {
        while self.sequence.saturating_sub(self.credit.borrow().sequence) >= WINDOW_CHUNKS {
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

    async fn finish(mut self) {
        let _ = self.publish(ChunkBody::End).await;
    }

    async fn fail(&mut self, refusal: ApiError) {
        let _ = self.publish(ChunkBody::Failed(refusal)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(is_error: bool, length: usize) -> LogChunk {
        LogChunk { is_error, bytes: vec![b'x'; length].into() }
    }

    fn lengths(bodies: &[ChunkBody]) -> Vec<(bool, usize)> {
        bodies
            .iter()
            .map(|body| match body {
                ChunkBody::Stdout(bytes) => (false, bytes.len()),
                ChunkBody::Stderr(bytes) => (true, bytes.len()),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn lines_of_one_kind_become_one_chunk_and_order_is_kept() {
        let lines = [line(false, 10), line(false, 5), line(true, 3), line(false, 1)];
        assert_eq!(lengths(&gather(lines.iter())), [(false, 15), (true, 3), (false, 1)]);
    }

    #[test]
    fn no_chunk_is_too_long() {
        let lines = [line(false, CHUNK_BYTES_MAX - 1), line(false, 2 * CHUNK_BYTES_MAX + 2)];
        let sizes = lengths(&gather(lines.iter()));
        assert_eq!(
            sizes,
            [
                (false, CHUNK_BYTES_MAX),
                (false, CHUNK_BYTES_MAX),
                (false, CHUNK_BYTES_MAX),
                (false, 1)
            ]
        );
    }
}
