//! Files of containers for operators: out of them and into them, as tar archives, through the runtime.
//!
//! The runtime resolves paths within the container's root, so that no link in it leads out; the operator's program
//! sees to it that nothing of an archive leads out of the folder where it is unpacked.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use longshore_core::agent::LogSource;
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::TaskId;
use longshore_proto::name::NodeName;
use longshore_proto::rpc::{
    CHUNK_BYTES_MAX, ChunkBody, CopyFromRequest, CopyToRequest, FileKind, Input, InputBody,
};
use tokio::sync::mpsc;
use tracing::info;

use crate::driver::Message;
use crate::exec::source_of;
use crate::input::{Fed, Order};
use crate::out::{Gone, Out};
use crate::runtime::{Runtime, RuntimeError};

/// How long the runtime may take after the last byte of an archive to have unpacked it.
const UNPACK_DEADLINE: Duration = Duration::from_secs(300);
/// How long the runtime may take for one piece of an archive.
const PIECE_DEADLINE: Duration = Duration::from_secs(60);
/// How long it may take to say why it takes no more.
const REASON_DEADLINE: Duration = Duration::from_secs(10);
/// The longest path that Linux knows, in bytes.
const PATH_BYTES_MAX: usize = 4_096;

/// Sends a file or folder of a task's container.
pub(crate) async fn send(
    out: &mut Out,
    request: CopyFromRequest,
    runtime: Arc<dyn Runtime>,
    driver: &mpsc::Sender<Message>,
) -> Result<Option<ApiError>, Gone> {
    let container_id = match container_of(driver, request.task, out.node()).await {
        Ok(container_id) => container_id,
        Err(refusal) => return Ok(Some(refusal)),
    };
    let path = match from_root(&request.path) {
        Ok(path) => path,
        Err(refusal) => return Ok(Some(refusal)),
    };
    info!(task = %request.task, user = %request.user, path, "files are copied to an operator");
    let look = runtime.stat(container_id.clone(), path.clone(), request.follow_link);
    let found = match out.unless_gone(look).await? {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Some(no_path(&path))),
        Err(error) => return Ok(Some(failed(&error))),
    };
    let mut archive = runtime.get_files(container_id, found.path.clone());
    out.send(ChunkBody::Found(Some(found))).await?;
    while let Some(piece) = out.unless_gone(archive.next()).await? {
        let mut piece = match piece {
            Ok(piece) => piece,
            Err(error) => return Ok(Some(failed(&error))),
        };
        while !piece.is_empty() {
            let part = piece.split_to(piece.len().min(CHUNK_BYTES_MAX));
            out.send(ChunkBody::Stdout(part.to_vec())).await?;
        }
    }
    Ok(None)
}

/// Puts files into a task's container.
pub(crate) async fn receive(
    out: &mut Out,
    request: CopyToRequest,
    inputs: mpsc::Receiver<Input>,
    runtime: Arc<dyn Runtime>,
    driver: &mpsc::Sender<Message>,
) -> Result<Option<ApiError>, Gone> {
    let container_id = match container_of(driver, request.task, out.node()).await {
        Ok(container_id) => container_id,
        Err(refusal) => return Ok(Some(refusal)),
    };
    let path = match from_root(&request.path) {
        Ok(path) => path,
        Err(refusal) => return Ok(Some(refusal)),
    };
    let look = runtime.stat(container_id.clone(), path.clone(), true);
    let found = match out.unless_gone(look).await? {
        Ok(found) => found,
        Err(error) => return Ok(Some(failed(&error))),
    };
    let folder = match &found {
        Some(found) if found.kind == FileKind::Folder => found.path.clone(),
        Some(found) => above(&found.path).to_owned(),
        None => {
            let folder = above(&path).to_owned();
            let look = runtime.stat(container_id.clone(), folder.clone(), true);
            match out.unless_gone(look).await? {
                Ok(Some(found)) if found.kind == FileKind::Folder => found.path,
                Ok(_) => return Ok(Some(no_path(&folder))),
                Err(error) => return Ok(Some(failed(&error))),
            }
        }
    };
    info!(task = %request.task, user = %request.user, path, "an operator copies files here");
    out.send(ChunkBody::Found(found)).await?;

    // One piece at a time: what has been taken is with the runtime.
    let (to_archive, archive) = mpsc::channel::<io::Result<Bytes>>(1);
    let archive = stream::unfold(archive, |mut archive| async move {
        archive.recv().await.map(|piece| (piece, archive))
    });
    let mut put = runtime.put_files(container_id, folder, archive.boxed());
    let mut inputs = Pieces { inputs, order: Order::default(), to_archive: Some(to_archive) };
    loop {
        let next = async {
            tokio::select! {
                done = &mut put => Err(done),
                fed = inputs.next() => Ok(fed),
            }
        };
        match out.unless_gone(next).await? {
            Ok(Fed::Taken(sequence)) => out.send(ChunkBody::Taken(sequence)).await?,
            Ok(Fed::Ended(sequence)) => {
                out.send(ChunkBody::Taken(sequence)).await?;
                let rest = tokio::time::timeout(UNPACK_DEADLINE, &mut put);
                return Ok(match out.unless_gone(rest).await? {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(failed(&error)),
                    Err(_) => Some(ApiError::new(
                        ErrorCode::Internal,
                        format!("the files were not written within {}s", UNPACK_DEADLINE.as_secs()),
                    )),
                });
            }
            Ok(Fed::Lost) => {
                let lost = "a part of the files was lost on the way";
                inputs.break_off(lost);
                let refusal = ApiError::new(ErrorCode::Unavailable, lost);
                return Ok(Some(refusal.hint("copy them again: some may be there already")));
            }
            // The runtime takes no more: its answer says why, unless it hangs.
            Ok(Fed::Closed) => {
                let why = tokio::time::timeout(REASON_DEADLINE, &mut put);
                return Ok(match out.unless_gone(why).await? {
                    Ok(result) => result.err().map(|error| failed(&error)),
                    Err(_) => Some(stuck()),
                });
            }
            // Before the end of the input: refused, or an archive that ended earlier than what carried it.
            Err(Err(error)) => return Ok(Some(failed(&error))),
            Err(Ok(())) => return Ok(None),
        }
    }
}

/// The pieces of an archive on their way to the runtime.
struct Pieces {
    inputs: mpsc::Receiver<Input>,
    order: Order,
    /// Where they go; nowhere, once they have ended.
    to_archive: Option<mpsc::Sender<io::Result<Bytes>>>,
}

impl Pieces {
    /// Passes the next piece on.
    async fn next(&mut self) -> Fed {
        loop {
            let Some(Input { sequence, body, .. }) = self.inputs.recv().await else {
                // The worker ends the stream elsewhere.
                return std::future::pending().await;
            };
            let sequence = match self.order.next(sequence) {
                None => continue,
                Some(Ok(sequence)) => sequence,
                Some(Err(lost)) => return lost,
            };
            match body {
                InputBody::Bytes(bytes) => {
                    let Some(to_archive) = &self.to_archive else { return Fed::Closed };
                    let sent = to_archive.send(Ok(bytes.into()));
                    return match tokio::time::timeout(PIECE_DEADLINE, sent).await {
                        Ok(Ok(())) => Fed::Taken(sequence),
                        Ok(Err(_)) | Err(_) => Fed::Closed,
                    };
                }
                InputBody::Size(_) => return Fed::Taken(sequence),
                InputBody::End => {
                    self.to_archive = None;
                    return Fed::Ended(sequence);
                }
            }
        }
    }

    /// Lets the runtime know that the archive is not whole. One that takes nothing just now learns it from its
    /// connection, which is given up next.
    fn break_off(&mut self, why: &'static str) {
        if let Some(to_archive) = self.to_archive.take() {
            let _ = to_archive.try_send(Err(io::Error::other(why)));
        }
    }
}

/// The container whose files are meant: the one that runs, or the newest that is kept.
async fn container_of(
    driver: &mpsc::Sender<Message>,
    task: TaskId,
    node: &NodeName,
) -> Result<String, ApiError> {
    match source_of(driver, task).await {
        Some(LogSource { container_id: Some(container_id), .. }) => Ok(container_id),
        _ => Err(ApiError::new(
            ErrorCode::NotFound,
            format!("node {node} has no container of this task ({task})"),
        )
        .hint("`longshore ps -a` shows where it is; only the newest ended containers are kept")),
    }
}

/// A path from the container's root, without what stands for nothing at its end.
fn from_root(path: &str) -> Result<String, ApiError> {
    if path.is_empty() || path.len() > PATH_BYTES_MAX || path.contains('\0') {
        let text = format!("a path in a container has 1 to {PATH_BYTES_MAX} bytes, none of them 0");
        return Err(ApiError::new(ErrorCode::Invalid, text));
    }
    let mut path = format!("/{}", path.trim_start_matches('/'));
    loop {
        let shorter = path.strip_suffix('/').or_else(|| path.strip_suffix("/."));
        match shorter {
            Some(shorter) if !shorter.is_empty() => path.truncate(shorter.len()),
            Some(_) => return Ok("/".to_owned()),
            None => return Ok(path),
        }
    }
}

/// The folder that a path lies in.
fn above(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((above, _)) => above,
    }
}

fn no_path(path: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no {path} in the container"))
}

/// The runtime has taken nothing for too long.
fn stuck() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "the container runtime takes no more of the files")
        .hint("look at the node's Docker daemon and its disk; some files may be there already")
}

fn failed(error: &RuntimeError) -> ApiError {
    ApiError::new(ErrorCode::Internal, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_takes_nothing_is_not_waited_for_for_ever() {
        let session = longshore_proto::id::SessionId(Default::default());
        let (operator, inputs) = mpsc::channel(4);
        let (to_archive, _nobody_reads) = mpsc::channel(1);
        let mut pieces = Pieces { inputs, order: Order::default(), to_archive: Some(to_archive) };
        for sequence in 1..=2 {
            let body = InputBody::Bytes(vec![1]);
            operator.send(Input { session, sequence, body }).await.unwrap();
        }
        assert_eq!(pieces.next().await, Fed::Taken(1));
        assert_eq!(pieces.next().await, Fed::Closed);
        pieces.break_off("a part was lost");
        assert!(pieces.to_archive.is_none());
    }

    #[test]
    fn paths_begin_at_the_root_and_end_with_a_name() {
        for (given, wanted) in [
            ("etc", "/etc"),
            ("//etc/", "/etc"),
            ("/etc/.", "/etc"),
            ("/etc/./", "/etc"),
            ("/", "/"),
            ("/.", "/"),
            (".", "/"),
            ("/a.", "/a."),
        ] {
            assert_eq!(from_root(given).unwrap(), wanted, "{given}");
        }
        assert!(from_root("").is_err() && from_root("a\0b").is_err());
        assert_eq!((above("/a/b"), above("/a"), above("/")), ("/a", "/", "/"));
    }
}
