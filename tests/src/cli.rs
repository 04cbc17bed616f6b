//! The command line, run as a person would run it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::program::{Program, command, longshore};

/// How long one verb may take, unless a test says otherwise.
const DEADLINE: Duration = Duration::from_secs(90);

/// Where verbs are run, and with which options.
#[derive(Debug, Clone)]
pub struct Cli {
    home: PathBuf,
    variables: Vec<(String, PathBuf)>,
}

/// What came of a verb.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was asked.
    pub words: String,
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Data.
    pub stdout: String,
    /// Talk.
    pub stderr: String,
}

impl Cli {
    /// A command line with a home of its own, and nothing else: it finds the context by itself.
    pub fn bare(home: &Path) -> Self {
        Self { home: home.to_owned(), variables: Vec::new() }
    }

    /// The same with a variable in its environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<PathBuf>) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// The command of a verb, not started.
    pub fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = command(&longshore(), &self.home);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(words);
        command
    }

    /// Runs a verb to its end.
    pub async fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Outcome {
        self.run_with_input(words, None).await
    }

    /// Runs a verb to its end, with something on standard input.
    pub async fn run_with_input<S: AsRef<OsStr>>(
        &self,
        words: &[S],
        input: Option<&str>,
    ) -> Outcome {
        let shown = words.iter().map(|word| word.as_ref().to_string_lossy().into_owned());
        let shown = shown.collect::<Vec<_>>().join(" ");
        let mut child = tokio::process::Command::from(self.command(words))
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        // Beside the reading, or else a verb that writes while it reads would wait for us, and we for it. One that
        // ends before it has read everything is fine.
        let write = async {
            if let (Some(input), Some(mut stdin)) = (input, stdin) {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await;
            }
        };
        let both = async { tokio::join!(child.wait_with_output(), write).0 };
        let output = tokio::time::timeout(DEADLINE, both)
            .await
            .unwrap_or_else(|_| panic!("`longshore {shown}` does not end within {DEADLINE:?}"))
            .unwrap();
        Outcome {
            words: shown,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a verb that must succeed, and gives what it printed.
    pub async fn ok<S: AsRef<OsStr>>(&self, words: &[S]) -> String {
        self.run(words).await.succeeded().stdout
    }

    /// Runs a verb with `-o json` that must succeed, and reads what it printed.
    pub async fn json<S: AsRef<OsStr>>(&self, words: &[S]) -> Value {
        let mut all: Vec<&OsStr> = words.iter().map(AsRef::as_ref).collect();
        all.extend([OsStr::new("-o"), OsStr::new("json")]);
        let outcome = self.run(&all).await.succeeded();
        serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{outcome:?} is no JSON: {error}"))
    }

    /// Starts a verb that stays (`logs -f`, `dev`), with its output in a file of the home.
    pub fn stay<S: AsRef<OsStr>>(&self, name: &str, words: &[S]) -> Program {
        Program::start(name, self.command(words), &self.home.join(format!("{name}.log")))
    }
}

impl Outcome {
    /// The same, after a check that the exit code is 0.
    pub fn succeeded(self) -> Self {
        self.exited(0)
    }

    /// The same, after a check of the exit code.
    pub fn exited(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// The same, after a check that people are told something.
    pub fn told(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "nothing of {text:?} is told: {self:#?}");
        self
    }
}

/// The names of an object's fields.
pub fn fields(value: &Value) -> Vec<&str> {
    let object = value.as_object().unwrap_or_else(|| panic!("{value} is no object"));
    object.keys().map(String::as_str).collect()
}

/// Checks that an object has at least these fields.
pub fn has_fields(value: &Value, wanted: &[&str]) {
    let found = fields(value);
    for name in wanted {
        assert!(found.contains(name), "{name} is missing in {value}");
    }
}
