//! Commands in containers for operators: output one way, input and sizes of a terminal the other.
//!
//! Input is written beside the output's being read, so that a command that does both at once (`cat`) never waits for
//! itself. Docker cannot end a command that was started: when the operator goes away its input ends, which most
//! commands take for their end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::StreamExt;
use longshore_core::agent::LogSource;
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::TaskId;
use longshore_proto::name::NodeName;
use longshore_proto::rpc::{ChunkBody, ExecRequest, Input};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

use crate::driver::Message;
use crate::input::{Fed, Terminal, feed};
use crate::logs::gather;
use crate::out::{Gone, Out};
use crate::runtime::{Exec, ExecWish, Runtime, RuntimeError};

/// How many pieces of output that are ready are put together into as few chunks as possible.
const READY_MAX: usize = 64;
/// How long after the end of its output a command may take to have an exit code.
const RESULT_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is asked for meanwhile.
const RESULT_INTERVAL: Duration = Duration::from_millis(20);

/// Runs a command to its end. Gives a refusal where it cannot be run, or not to its end.
pub(crate) async fn serve(
    out: &mut Out,
    request: ExecRequest,
    inputs: mpsc::Receiver<Input>,
    runtime: Arc<dyn Runtime>,
    driver: &mpsc::Sender<Message>,
) -> Result<Option<ApiError>, Gone> {
    let node = out.node().clone();
    let refused = |code, text: String, hint: &str| Ok(Some(ApiError::new(code, text).hint(hint)));
    let failed = |error: RuntimeError| Some(ApiError::new(ErrorCode::Internal, error.to_string()));
    if request.command.is_empty() {
        return refused(ErrorCode::Invalid, "there is no command".into(), "name one");
    }
    let container_id = match running(driver, request.task, &node).await {
        Ok(container_id) => container_id,
        Err(refusal) => return Ok(Some(refusal)),
    };
    // Neither its words nor its variables: they may hold secrets.
    info!(
        task = %request.task, user = %request.user, program = request.command.first(),
        "running a command for an operator"
    );
    let wish = ExecWish {
        container_id,
        command: request.command,
        env: request.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        user: request.run_as,
        working_dir: request.working_dir,
        tty: request.terminal.is_some(),
        stdin: request.stdin,
    };
    let Exec { id, output, input } = match out.unless_gone(runtime.exec(wish)).await? {
        Ok(exec) => exec,
        Err(error) => return Ok(failed(error)),
    };
    if let Some(size) = request.terminal {
        // A command that has ended already has no terminal any more.
        let resized = runtime.exec_resize(id.clone(), (size.columns, size.rows)).await;
        if let Err(error) = resized {
            debug!(%error, "the terminal has no size");
        }
    }
    let (tell, mut fed) = mpsc::channel(READY_MAX);
    let terminal = Terminal { runtime: runtime.clone(), id: id.clone() };
    let feeder = feed(inputs, input, Some(terminal), tell);
    let _feeder = AbortOnDropHandle::new(tokio::spawn(feeder));

    // Says that it has begun: a quiet command may write nothing for long.
    out.send(ChunkBody::Taken(0)).await?;
    let mut output = output.ready_chunks(READY_MAX);
    let mut is_fed = true;
    loop {
        let next = async {
            tokio::select! {
                pieces = output.next() => Ok(pieces),
                told = fed.recv(), if is_fed => Err(told),
            }
        };
        match out.unless_gone(next).await? {
            Ok(Some(pieces)) => {
                for body in gather(pieces.iter().filter_map(|piece| piece.as_ref().ok())) {
                    out.send(body).await?;
                }
                if let Some(error) = pieces.into_iter().find_map(Result::err) {
                    return Ok(failed(error));
                }
            }
            Ok(None) => break,
            Err(Some(Fed::Taken(sequence) | Fed::Ended(sequence))) => {
                out.send(ChunkBody::Taken(sequence)).await?;
            }
            Err(Some(Fed::Lost)) => {
                return refused(
                    ErrorCode::Unavailable,
                    "a part of the input was lost on the way".into(),
                    "run the command again",
                );
            }
            // A command need not read all of its input.
            Err(Some(Fed::Closed)) => {}
            Err(None) => is_fed = false,
        }
    }
    match out.unless_gone(result(&*runtime, &id)).await? {
        Ok(code) => out.send(ChunkBody::Exit(code)).await?,
        Err(error) => return Ok(failed(error)),
    }
    Ok(None)
}

/// The container of a task that runs.
pub(crate) async fn running(
    driver: &mpsc::Sender<Message>,
    task: TaskId,
    node: &NodeName,
) -> Result<String, ApiError> {
    match source_of(driver, task).await {
        Some(LogSource { container_id: Some(container_id), goes_on: true }) => Ok(container_id),
        _ => Err(ApiError::new(
            ErrorCode::NotFound,
            format!("node {node} runs no container of this task ({task})"),
        )
        .hint("`longshore ps` shows where it is and how it stands")),
    }
}

/// The container of a task: the one that runs, or the newest that is kept. `None` for an unknown task.
pub(crate) async fn source_of(driver: &mpsc::Sender<Message>, task: TaskId) -> Option<LogSource> {
    let (answer, source) = oneshot::channel();
    driver.send(Message::LogsOf(task, answer)).await.ok()?;
    source.await.ok().flatten()
}

/// The exit code, which comes a moment after the end of the output.
async fn result(runtime: &dyn Runtime, id: &str) -> Result<i64, RuntimeError> {
    let start = tokio::time::Instant::now();
    loop {
        if let Some(code) = runtime.exec_result(id.to_owned()).await? {
            return Ok(code);
        }
        if start.elapsed() > RESULT_DEADLINE {
            return Err(RuntimeError::Refused(
                "the command has closed its output, and goes on without it".to_owned(),
            ));
        }
        tokio::time::sleep(RESULT_INTERVAL).await;
    }
}
