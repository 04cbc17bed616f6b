//! The NATS server of `longshore dev`: started, watched, started again when it dies, stopped with us.
//!
//! The server writes to a log that is locked before it is handed over, and it inherits that lock with the
//! file. So the lock is free exactly when no server of this folder is left, whoever was killed before, and a
//! second server never works on the same store.

use std::fs::{File, OpenOptions, TryLockError};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde::Deserialize;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::supervise::{WORD, pid};
use crate::failure::{Exit, Failure};
use crate::render::Printer;

/// How long the server may take to be ready; a large store takes a while to read.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the server may take to end, its supervisor's patience included.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server whose `dev` has died gets to notice it, before it is told to end.
const LEFT_OVER_PATIENCE: Duration = Duration::from_secs(3);
/// How often a state is looked at while it is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// The first wait before a server that died is started again; it doubles.
const RESTART_DELAY: Duration = Duration::from_millis(200);
/// The longest such wait.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(10);
/// A server that was up for so long is not dying again and again.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// A log that is larger begins anew at the next start.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// How many lines of the log are told when the server does not start.
const LOG_LINES_TOLD: usize = 4;

/// How the server is started.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// nats-server.
    pub(crate) program: PathBuf,
    /// Its configuration.
    pub(crate) conf: PathBuf,
    /// Where its log, its process number and its port are written.
    pub(crate) folder: PathBuf,
}

/// Which port the server listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// This one, or it is an error.
    Exactly(u16),
    /// This one if it is free, else any.
    Rather(u16),
    /// Any that is free.
    Any,
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    plan: Plan,
    port: u16,
    child: Child,
    /// The supervisor ends with the server when this closes.
    pipe: Option<ChildStdin>,
}

/// What the server writes about where it listens.
#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

impl Plan {
    /// Where the server's log is.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("nats.log")
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("nats.pid")
    }

    fn ports(&self) -> PathBuf {
        self.folder.join("ports")
    }

    /// Starts the server, and returns when it is ready.
    pub(crate) async fn start(self, port: Port) -> Result<Server, Failure> {
        let log = self.locked_log().await?;
        let wanted = match port {
            Port::Any => None,
            Port::Exactly(port) if is_free(port) => Some(port),
            Port::Exactly(port) => {
                return Err(Failure::new(format!("port {port} of 127.0.0.1 is taken")).hint(
                    "end the program that listens there, or leave out --port to take a free one",
                ));
            }
            Port::Rather(port) => Some(port).filter(|port| is_free(*port)),
        };
        let problem = |error: &std::io::Error| {
            Failure::new(format!("cannot start {}", self.program.display())).cause(error)
        };
        let ports = self.ports();
        if ports.exists() {
            std::fs::remove_dir_all(&ports).map_err(|error| problem(&error))?;
        }
        std::fs::create_dir(&ports).map_err(|error| problem(&error))?;
        let copy = log.try_clone().map_err(|error| problem(&error))?;
        let mut child = Command::new(own_program().map_err(|error| problem(&error))?)
            .arg0("longshore")
            .args([WORD, "--"])
            .arg(&self.program)
            .arg("-c")
            .arg(&self.conf)
            .arg(format!("-p={}", wanted.map_or(-1, i32::from)))
            .arg("-P")
            .arg(self.pid_file())
            .arg("--ports_file_dir")
            .arg(&ports)
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(copy)
            // Not in the terminal's group: a Ctrl-C is for us, and the server is the last to end.
            .process_group(0)
            .spawn()
            .map_err(|error| problem(&error))?;
        let pipe = child.stdin.take();
        let mut server = Server { plan: self, port: 0, child, pipe };
        match server.ready().await {
            Ok(port) => {
                server.port = port;
                Ok(server)
            }
            Err(failure) => {
                server.stop().await?;
                Err(failure)
            }
        }
    }

    /// The log, which no server of this folder holds any more.
    async fn locked_log(&self) -> Result<File, Failure> {
        let path = self.log();
        let problem = |error: &std::io::Error| Failure::file("use", &path, error);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| problem(&error))?;
        let begin = Instant::now();
        let mut told = false;
        loop {
            match log.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(problem(&error)),
                Err(TryLockError::WouldBlock) => {}
            }
            if begin.elapsed() > LEFT_OVER_PATIENCE && !told {
                told = true;
                // Its supervisor was killed too. The number is right: who else would hold its log?
                if let Some(pid) = self.left_over().and_then(pid) {
                    let _ = kill_process(pid, Signal::TERM);
                }
            }
            if begin.elapsed() > LEFT_OVER_PATIENCE + STOP_TIMEOUT {
                let who =
                    self.left_over().map_or_else(String::new, |pid| format!(" (process {pid})"));
                return Err(Failure::new(format!(
                    "the nats-server of an earlier `longshore dev`{who} still works in {}",
                    self.folder.display()
                ))
                .hint("end that process, or name another folder with --data-dir"));
            }
            sleep(LOOK_INTERVAL).await;
        }
        if log.metadata().is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
            log.set_len(0).map_err(|error| problem(&error))?;
        }
        Ok(log)
    }

    fn left_over(&self) -> Option<u32> {
        std::fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()
    }
}

impl Server {
    /// Where clients find it.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Waits until the server says where it listens, which it does when it is ready.
    async fn ready(&mut self) -> Result<u16, Failure> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(port) = listening(&self.plan.ports()) {
                return Ok(port);
            }
            let told = |what: &str| {
                Failure::new(format!("nats-server {what}"))
                    .because(&last_lines(&self.plan.log()))
                    .hint(format!("its log is {}", self.plan.log().display()))
            };
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => sleep(LOOK_INTERVAL).await,
                Ok(None) => return Err(told(&format!("is not ready after {START_TIMEOUT:?}"))),
                Ok(Some(_)) => return Err(told("does not start")),
                Err(error) => return Err(told("cannot be watched").cause(&error)),
            }
        }
    }

    /// Keeps the server up until it is told to stop, and then stops it.
    pub(crate) async fn keep(
        mut self,
        stop: CancellationToken,
        printer: Printer,
    ) -> Result<(), Failure> {
        let mut delay = RESTART_DELAY;
        loop {
            let up_since = Instant::now();
            let ended = tokio::select! {
                ended = self.child.wait() => ended,
                () = stop.cancelled() => return self.stop().await,
            };
            if up_since.elapsed() > STABLE_AFTER {
                delay = RESTART_DELAY;
            }
            let how = match ended.map(|status| (status.code(), status)) {
                Ok((Some(code), _)) => format!("exit code {code}"),
                Ok((None, status)) => status.to_string(),
                Err(error) => error.to_string(),
            };
            printer.warning(&format!(
                "nats-server has ended ({how}; its log is {}); it is started again",
                self.plan.log().display()
            ));
            self = loop {
                tokio::select! {
                    () = sleep(delay) => {}
                    () = stop.cancelled() => return Ok(()),
                }
                delay = (delay * 2).min(RESTART_DELAY_MAX);
                match self.plan.clone().start(Port::Exactly(self.port)).await {
                    Ok(server) => break server,
                    Err(failure) => {
                        printer.failure(&failure);
                    }
                }
            };
            printer.talk(&format!("nats-server is up again at {}", self.url()));
        }
    }

    async fn stop(mut self) -> Result<(), Failure> {
        drop(self.pipe.take());
        match timeout(STOP_TIMEOUT, self.child.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => {
                Err(Failure::new(format!("nats-server has not ended after {STOP_TIMEOUT:?}"))
                    .hint(format!("its process number is in {}", self.plan.pid_file().display()))
                    .exit(Exit::Failed))
            }
        }
    }
}

/// This very program, even when its file was replaced since it was started.
fn own_program() -> std::io::Result<PathBuf> {
    let own = Path::new("/proc/self/exe");
    if own.exists() || own.is_symlink() { Ok(own.to_owned()) } else { std::env::current_exe() }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The port in the file that the server writes when it listens.
fn listening(folder: &Path) -> Option<u16> {
    let file = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).next()?;
    // Not whole yet, perhaps.
    let ports: Ports = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    ports.nats.first()?.rsplit_once(':')?.1.parse().ok()
}

/// The end of the log, on one line.
fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<&str> = text.lines().rev().take(LOG_LINES_TOLD).map(str::trim).collect();
    lines.reverse();
    lines.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(folder: &Path) -> Plan {
        Plan {
            program: "nats-server".into(),
            conf: "server.conf".into(),
            folder: folder.to_owned(),
        }
    }

    #[test]
    fn the_port_is_read_when_it_is_written_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(listening(folder.path()), None);
        let file = folder.path().join("nats-server_1.ports");
        for (text, port) in [
            ("", None),
            ("{\"nats\":[\"nats://127.0", None),
            ("{\"nats\":[\"nats://127.0.0.1:38861\"]}", Some(38861)),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(listening(folder.path()), port, "{text}");
        }
    }

    #[test]
    fn the_end_of_a_log_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("nats.log");
        assert_eq!(last_lines(&log), "");
        std::fs::write(&log, "1\n2\n3\n4\n5\n").unwrap();
        assert_eq!(last_lines(&log), "2 | 3 | 4 | 5");
    }

    #[tokio::test]
    async fn a_log_is_free_when_its_last_holder_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan(folder.path());
        let held = plan.locked_log().await.unwrap();
        let again = plan.locked_log();
        tokio::pin!(again);
        assert!(timeout(Duration::from_millis(100), &mut again).await.is_err());
        drop(held);
        again.await.unwrap();
    }

    #[tokio::test]
    async fn a_port_that_must_be_and_is_taken_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let failure = plan(folder.path()).start(Port::Exactly(port)).await.unwrap_err();
        assert!(failure.told().unwrap().0.contains("is taken"));
    }
}
