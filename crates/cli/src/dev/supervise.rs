//! `longshore internal-supervise -- PROGRAM…`: runs a program for as long as its own stdin is open.
//!
//! Whoever starts it holds the other end of that pipe. A pipe closes with the process that holds it, however
//! that ends, `kill -9` and a full table of memory included; so the program never outlives us, on every Unix
//! and without unsafe code.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Exit, Failure};

/// How long the program may take to end when it is asked to, before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// The first word of the command line. It is no verb: no help and no completion shows it.
pub(super) const WORD: &str = "internal-supervise";

/// The program to run and its arguments, if this is what the command line asks for.
pub(crate) fn asked(mut words: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let asked = words.nth(1)? == WORD && words.next()? == "--";
    asked.then(|| words.collect())
}

/// Runs the program until stdin is closed, and ends with its exit code.
pub(crate) async fn run(words: &[OsString]) -> Result<Exit, Failure> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Failure::new("there is no program to run").exit(Exit::Usage));
    };
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| Failure::new("cannot listen to signals").cause(&error))?;
    let mut command = Command::new(program);
    command.args(arguments);
    let wanted = async {
        tokio::select! {
            () = closed(tokio::io::stdin()) => {}
            _ = terminate.recv() => {}
        }
    };
    let status = supervise(&mut command, wanted)
        .await
        .map_err(|error| Failure::new(format!("cannot run {}", program.display())).cause(&error))?;
    // As a shell says it: a program that a signal ended has no code of its own.
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(Exit::Failed, Exit::Task))
}

/// Runs a program until it ends, or until it is no longer wanted and is stopped.
async fn supervise(
    command: &mut Command,
    no_longer_wanted: impl Future<Output = ()>,
) -> std::io::Result<ExitStatus> {
    let mut child = command.stdin(Stdio::null()).kill_on_drop(true).spawn()?;
    tokio::select! {
        status = child.wait() => return status,
        () = no_longer_wanted => {}
    }
    stop(&mut child).await
}

/// Asks a program to end, and kills it when it does not.
async fn stop(child: &mut Child) -> std::io::Result<ExitStatus> {
    if let Some(pid) = child.id().and_then(pid) {
        // It may have ended by itself, which the wait below will tell.
        let _ = kill_process(pid, Signal::TERM);
    }
    if let Ok(status) = tokio::time::timeout(GRACE, child.wait()).await {
        return status;
    }
    child.start_kill()?;
    child.wait().await
}

/// A process's number, as signals want it.
pub(super) fn pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

/// Returns when the other end is gone.
async fn closed(mut pipe: impl AsyncRead + Unpin) {
    let mut bytes = [0; 64];
    while matches!(pipe.read(&mut bytes).await, Ok(count) if count > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_word_comes_first_or_not_at_all() {
        let asked = |line: &str| asked(line.split(' ').map(OsString::from));
        assert_eq!(
            asked("longshore internal-supervise -- a -b"),
            Some(vec!["a".into(), "-b".into()])
        );
        for other in
            ["longshore", "longshore run internal-supervise -- a", "longshore internal-supervise a"]
        {
            assert_eq!(asked(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn its_end_is_the_programs_end() {
        let status = supervise(&mut shell("exit 7"), std::future::pending()).await.unwrap();
        assert_eq!(status.code(), Some(7));
    }

    #[tokio::test]
    async fn the_program_ends_when_the_pipe_closes() {
        let (ours, theirs) = tokio::io::duplex(8);
        drop(ours);
        let status = supervise(&mut shell("exec sleep 600"), closed(theirs)).await.unwrap();
        assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    }

    #[tokio::test]
    async fn what_is_written_to_the_pipe_does_not_matter() {
        let (mut ours, theirs) = tokio::io::duplex(8);
        let write = async move {
            tokio::io::AsyncWriteExt::write_all(&mut ours, &[1; 300]).await.unwrap();
        };
        tokio::join!(write, closed(theirs));
    }
}
