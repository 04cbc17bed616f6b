//! A child process: its log in a file, signals, its end.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::eventually::eventually;

/// How many lines of a program's log a failed test shows.
const LINES_SHOWN: usize = 25;

/// A child process. It is killed when this is dropped; a failing test then shows the end of its log.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts a program whose output is appended to a file.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let out: File = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let err = out.try_clone().unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start ({command:?}): {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal)
            .unwrap_or_else(|error| panic!("{} takes no {signal:?}: {error}", self.name));
    }

    /// `kill -9`, and stays until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        let (child, log) = (&mut self.child, &self.log);
        eventually(&what, within, async || {
            child.try_wait().unwrap().ok_or_else(|| {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                format!("it runs; its last line: {}", text.lines().last().unwrap_or("none"))
            })
        })
        .await
    }

    /// Everything that it has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until its log holds a text.
    pub async fn says(&self, text: &str, within: Duration) {
        eventually(&format!("{} says {text:?}", self.name), within, async || {
            let log = self.log();
            if log.contains(text) { Ok(()) } else { Err(tail(&log, 5)) }
        })
        .await;
    }
}

impl Drop for Program {
    #[expect(clippy::print_stderr, reason = "the test runner shows it with the failure")]
    fn drop(&mut self) {
        // It may have ended by itself, or been killed by the test.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- the end of the log of {} ---\n{}", self.name, tail(&log, LINES_SHOWN));
        }
    }
}

/// The last lines of a text.
fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

/// The program under test: `$LONGSHORE_BIN`, or the one that cargo built beside this test.
pub fn longshore() -> PathBuf {
    let path = std::env::var_os("LONGSHORE_BIN").map_or_else(
        || {
            let own = std::env::current_exe().unwrap();
            own.parent().and_then(Path::parent).unwrap().join("longshore")
        },
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "there is no {}: build it with `cargo build -p longshore`, or name one with LONGSHORE_BIN",
        path.display()
    );
    path
}

/// What `scripts/setup --test` gets for tests that want more than Docker. Without it there is nothing to test on a developer's
/// machine; in CI nothing is skipped.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
pub fn optional_tool(name: &str) -> Option<PathBuf> {
    let path = checkout().join(".tools/bin").join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "there is no {}: run scripts/setup --test",
        path.display()
    );
    eprintln!("skipped: there is no {}; scripts/setup --test makes it", path.display());
    None
}

/// A command in an environment of its own: nothing of the person's settings reaches it.
pub fn command(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LONGSHORE_") {
            command.env_remove(name);
        }
    }
    command
        .env_remove("XDG_STATE_HOME")
        .env_remove("RUST_LOG")
        .env("HOME", home)
        .env("LONGSHORE_CONTEXT", home.join("context.toml"));
    command
}

/// The folder of the checkout.
pub fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
