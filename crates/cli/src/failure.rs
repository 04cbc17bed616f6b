//! What went wrong, for people: what was tried, the causes, what to do next. And the exit statuses.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::ExitCode;

use longshore_bus::{AskError, BusError, ConnectError, CredentialsError};
use longshore_proto::error::ApiError;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: it was done.
    Done,
    /// 1: it was not.
    Failed,
    /// 2: the command line asks for nothing that can be done.
    Usage,
    /// 3: `job plan` found something that would change.
    WouldChange,
    /// 125: `--wait` was to give a task's exit code, and there is none because Longshore failed.
    NoTaskCode,
    /// 130: Ctrl-C ended the waiting.
    Interrupted,
    /// The exit code of a task that was waited for.
    Task(u8),
}

impl Exit {
    /// The number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::WouldChange => 3,
            Self::NoTaskCode => 125,
            Self::Interrupted => 130,
            Self::Task(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a verb was not done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Whoever read our output has gone (`longshore ps | head`): nothing to tell, and no failure.
    ReaderGone,
    /// Something to tell.
    Told(Box<Problem>),
}

/// What there is to tell of a failure.
#[derive(Debug)]
pub(crate) struct Problem {
    text: String,
    hint: Option<String>,
    exit: Exit,
}

impl Failure {
    /// A failure: what was tried, or what is wrong.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::Told(Box::new(Problem { text: text.into(), hint: None, exit: Exit::Failed }))
    }

    /// Adds what caused it: the error and its sources, each once.
    #[must_use]
    pub(crate) fn cause(self, error: &dyn Error) -> Self {
        let mut failure = self;
        let mut next = Some(error);
        while let Some(error) = next {
            failure = failure.because(&error.to_string());
            next = error.source();
        }
        failure
    }

    /// Adds one cause as text, unless the text has it already (many libraries repeat their sources).
    #[must_use]
    pub(crate) fn because(mut self, cause: &str) -> Self {
        if let Self::Told(problem) = &mut self {
            let cause = cause.trim().trim_end_matches('.');
            let last = problem.text.rsplit(": ").next().unwrap_or_default();
            if !cause.is_empty() && !problem.text.contains(cause) && !cause.ends_with(last) {
                problem.text.push_str(": ");
                problem.text.push_str(cause);
            }
        }
        self
    }

    /// Says what it was part of; the text follows on lines of its own when it has several.
    #[must_use]
    pub(crate) fn within(mut self, whole: impl fmt::Display) -> Self {
        if let Self::Told(problem) = &mut self {
            let separator = if problem.text.contains('\n') { ":\n" } else { ": " };
            problem.text = format!("{whole}{separator}{}", problem.text);
        }
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Told(problem) = &mut self {
            problem.hint = Some(hint.into());
        }
        self
    }

    /// Ends the program with another status.
    #[must_use]
    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        if let Self::Told(problem) = &mut self {
            problem.exit = exit;
        }
        self
    }

    /// A file or folder that cannot be used; `tried` completes "cannot …". Says what to do where the kind of error tells.
    pub(crate) fn file(tried: &str, path: &Path, error: &io::Error) -> Self {
        let failure = Self::new(format!("cannot {tried} {}", path.display())).cause(error);
        match step_on(path, error) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// How the program ends with it.
    pub(crate) fn status(&self) -> Exit {
        match self {
            Self::ReaderGone => Exit::Done,
            Self::Told(problem) => problem.exit,
        }
    }

    /// What went wrong, and what to do next; `None` when there is nothing to tell.
    pub(crate) fn told(&self) -> Option<(&str, Option<&str>)> {
        match self {
            Self::ReaderGone => None,
            Self::Told(problem) => Some((&problem.text, problem.hint.as_deref())),
        }
    }

    /// A question that got no answer, or not the one that was wanted; `tried` completes "cannot …".
    pub(crate) fn asked(tried: impl fmt::Display, error: &AskError) -> Self {
        let failure = Self::new(format!("cannot {tried}"));
        match error {
            AskError::Refused(refusal) => failure.refused(refusal),
            AskError::NoResponders { waited, .. } => failure
                .because(&format!("no manager answered for {waited:.0?}"))
                .hint("start one with `longshore manager` or `longshore dev`; `longshore doctor` looks for the cause"),
            AskError::TimedOut { refused: Some(refusal), .. } => failure.refused(refusal),
            AskError::TimedOut { waited, .. } => failure
                .because(&format!("a manager listens, and did not answer within {waited:.0?}"))
                .hint("`longshore doctor` looks for the cause"),
            AskError::Bus { .. } | AskError::Unreadable { .. } => {
                failure.cause(error).hint("`longshore doctor` looks for the cause")
            }
        }
    }

    /// The same for what changes something: silence leaves the outcome open.
    pub(crate) fn commanded(tried: impl fmt::Display, error: &AskError) -> Self {
        let failure = Self::asked(tried, error);
        match error {
            AskError::TimedOut { .. } => failure
                .because("the outcome is unknown")
                .hint("look whether it was done (`longshore job ls`, `longshore ps`) before you repeat it"),
            _ => failure,
        }
    }

    /// No connection; `origin` says who named the server.
    pub(crate) fn connecting(error: &ConnectError, origin: &str) -> Self {
        match error {
            ConnectError::Unreachable { servers, source } => {
                Self::new(format!("no NATS server answers at {servers} ({origin})")).cause(source).hint(
                    "`longshore dev` starts everything; --nats or LONGSHORE_NATS_URL names another server",
                )
            }
            ConnectError::Refused { servers, source } => Self::new(format!(
                "the NATS server at {servers} ({origin}) does not let us in"
            ))
            .cause(source)
            .hint("name a credential file of this server with --creds or LONGSHORE_CREDS; `longshore auth init` writes them"),
            ConnectError::Settings { servers, source } => {
                Self::new(format!("cannot connect to {servers} ({origin})"))
                    .cause(source)
                    .hint("check the address and the TLS files")
            }
            ConnectError::TooOld { servers, version } => Self::new(format!(
                "the NATS server at {servers} ({origin}) is version {version}, and Longshore needs 2.12 or newer"
            ))
            .hint("install nats-server 2.14.5 or newer"),
            ConnectError::Closed { servers, source } => {
                Self::new(format!("the connection to {servers} ({origin}) was closed at once"))
                    .cause(source)
                    .hint("try again; `longshore doctor` looks for the cause")
            }
        }
    }

    /// A refusal by Longshore itself, or by its rules.
    #[must_use]
    pub(crate) fn refused(self, refusal: &ApiError) -> Self {
        let failure = self.because(&refusal.message);
        match &refusal.hint {
            Some(hint) => failure.hint(hint.as_str()),
            None => failure,
        }
    }
}

/// What to do next about an error of the file system at a path.
fn step_on(path: &Path, error: &io::Error) -> Option<String> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let shown = folder.display();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory if !folder.is_dir() => {
            Some(format!("there is no folder {shown}: make it, or name another place"))
        }
        ErrorKind::NotFound => Some(format!("there is none of that name in the folder {shown}")),
        ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            Some("a file and a folder are not the same thing: name another".to_owned())
        }
        ErrorKind::PermissionDenied => Some(format!(
            "this user may not do that there (`ls -ld {shown}` says who may): name another place, or ask as that user"
        )),
        ErrorKind::ReadOnlyFilesystem => {
            Some("nothing can be written on that disk: name a place on another".to_owned())
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(format!(
            "make room there (`df -h {shown}` shows how much is left), or name a place on another disk"
        )),
        _ if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            Some("the disk fails: look at the system's log (`dmesg`)".to_owned())
        }
        _ => None,
    }
}

impl From<BusError> for Failure {
    fn from(error: BusError) -> Self {
        Self::new("the bus did not take a message")
            .cause(&error)
            .hint("`longshore doctor` looks for the cause")
    }
}

impl From<CredentialsError> for Failure {
    fn from(error: CredentialsError) -> Self {
        match &error {
            CredentialsError::Io { path, source } => {
                Self::new(format!("cannot read the credential file {}", path.display()))
                    .cause(source)
                    .hint("`longshore auth init` writes credential files; --creds or LONGSHORE_CREDS names one")
            }
            _ => Self::new("cannot use the credentials").cause(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use longshore_proto::error::ErrorCode;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the outer thing broke")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("the inner thing broke")]
    struct Inner;

    #[test]
    fn exit_codes_are_as_documented() {
        let codes = [
            (Exit::Done, 0),
            (Exit::Failed, 1),
            (Exit::Usage, 2),
            (Exit::NoTaskCode, 125),
            (Exit::Interrupted, 130),
            (Exit::Task(42), 42),
        ];
        for (exit, code) in codes {
            assert_eq!(exit.code(), code);
        }
        assert_eq!(Failure::ReaderGone.status(), Exit::Done);
        assert_eq!(Failure::new("x").status(), Exit::Failed);
        assert_eq!(Failure::new("x").exit(Exit::Usage).status(), Exit::Usage);
    }

    #[test]
    fn each_cause_is_told_once() {
        let failure = Failure::new("cannot do it").cause(&Outer(Inner)).cause(&Inner);
        assert_eq!(
            failure.told(),
            Some(("cannot do it: the outer thing broke: the inner thing broke", None))
        );
    }

    #[test]
    fn a_refusal_keeps_its_hint() {
        let refusal = ApiError::new(ErrorCode::NotFound, "there is no job web").hint("submit one");
        let failure = Failure::asked("stop the job web", &AskError::Refused(refusal));
        assert_eq!(
            failure.told(),
            Some(("cannot stop the job web: there is no job web", Some("submit one")))
        );
    }

    #[test]
    fn a_command_without_an_answer_may_have_been_done() {
        let error = AskError::TimedOut {
            subject: "s".into(),
            waited: Duration::from_secs(10),
            refused: None,
        };
        let failure = Failure::commanded("stop the job web", &error);
        let (text, hint) = failure.told().unwrap();
        assert!(text.ends_with("did not answer within 10s: the outcome is unknown"), "{text}");
        assert!(hint.unwrap().contains("before you repeat it"));
        assert!(!Failure::asked("list", &error).told().unwrap().0.contains("unknown"));
        // What another try was refused with tells why, and leaves the first try's outcome open.
        let error = AskError::TimedOut {
            subject: "s".into(),
            waited: Duration::from_secs(10),
            refused: Some(ApiError::new(ErrorCode::Unavailable, "the log is full")),
        };
        let failure = Failure::commanded("stop the job web", &error);
        let (text, _) = failure.told().unwrap();
        assert_eq!(text, "cannot stop the job web: the log is full: the outcome is unknown");
    }

    #[test]
    fn files_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("there");
        std::fs::write(&there, "x").unwrap();
        let hint = |path: &Path, error: io::Error| {
            let failure = Failure::file("write", path, &error);
            let (text, hint) = failure.told().unwrap();
            assert!(text.starts_with(&format!("cannot write {}: ", path.display())), "{text}");
            hint.map(str::to_owned)
        };
        let missing = folder.path().join("nowhere").join("file");
        let read = |path: &Path| hint(path, std::fs::read(path).unwrap_err()).unwrap();
        assert!(read(&missing).contains("nowhere: make it"));
        assert!(read(&folder.path().join("file")).contains("none of that name in the folder"));
        assert!(read(&there.join("below")).contains("there: make it, or name another place"));
        assert!(read(folder.path()).contains("a file and a folder"));
        for (number, said) in
            [(13, "`ls -ld .` says who"), (28, "`df -h .`"), (30, "on another"), (5, "`dmesg`")]
        {
            let told = hint(Path::new("file"), io::Error::from_raw_os_error(number)).unwrap();
            assert!(told.contains(said), "{told}");
        }
        assert_eq!(hint(&there, ErrorKind::InvalidData.into()), None);
    }

    #[test]
    fn silence_says_what_to_do() {
        let error = AskError::NoResponders { subject: "s".into(), waited: Duration::from_secs(10) };
        let failure = Failure::asked("list the nodes", &error);
        let (text, hint) = failure.told().unwrap();
        assert_eq!(text, "cannot list the nodes: no manager answered for 10s");
        assert!(hint.unwrap().contains("longshore doctor"));
    }
}
