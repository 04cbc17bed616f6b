//! Streams of logs to operators.

use std::time::Duration;

use futures_util::stream::StreamExt;
use longshore_core::agent::LogSource;
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::rpc::{CHUNK_BYTES_MAX, ChunkBody, LogsRequest};
use tokio::sync::mpsc;

use crate::driver::Message;
use crate::exec::source_of;
use crate::out::{Gone, Out};
use crate::runtime::{LogChunk, LogsWish, Runtime};

/// How many lines that are ready are put together into as few chunks as possible.
const READY_MAX: usize = 512;
/// How often a follower looks for the next container of its task.
const NEXT_CONTAINER_INTERVAL: Duration = Duration::from_millis(500);

/// Sends what there is and, for a follower, what is yet to come, over the task's attempts on this node. Gives
/// a refusal where there is nothing to send.
pub(crate) async fn serve(
    out: &mut Out,
    request: &LogsRequest,
    runtime: &dyn Runtime,
    driver: &mpsc::Sender<Message>,
) -> Result<Option<ApiError>, Gone> {
    let mut last: Option<String> = None;
    loop {
        let found = source_of(driver, request.task).await;
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
                    since_ms: request.since_ms,
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
    let text = format!("node {} {what} ({})", out.node(), request.task);
    ApiError::new(ErrorCode::NotFound, text).hint(hint)
}

/// Puts pieces of one kind that follow each other together, and cuts what is too long.
pub(crate) fn gather<'a>(lines: impl Iterator<Item = &'a LogChunk>) -> Vec<ChunkBody> {
    let mut gathered: Vec<(bool, Vec<u8>)> = Vec::new();
    for line in lines {
        let mut rest = &line.bytes[..];
        while !rest.is_empty() {
            let open = gathered.last_mut().filter(|(is_error, bytes)| {
                *is_error == line.is_error && bytes.len() < CHUNK_BYTES_MAX
            });
            let Some((_, bytes)) = open else {
                gathered.push((line.is_error, Vec::new()));
                continue;
            };
            let (now, later) = rest.split_at(rest.len().min(CHUNK_BYTES_MAX - bytes.len()));
            bytes.extend_from_slice(now);
            rest = later;
        }
    }
    let body = |(is_error, bytes)| {
        if is_error { ChunkBody::Stderr(bytes) } else { ChunkBody::Stdout(bytes) }
    };
    gathered.into_iter().map(body).collect()
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
