//! The one place that prints: data on stdout, talk on stderr, colours only on a terminal.

use std::io::{self, ErrorKind, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::failure::{Exit, Failure};

/// How errors are marked.
const ERROR: Style = AnsiColor::Red.on_default().bold();
/// How warnings are marked.
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// How advice is marked.
const HINT: Style = AnsiColor::Cyan.on_default().bold();

/// Prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer;

impl Printer {
    /// Prints data as it is, styles and all; styles are left out when nobody sees them.
    pub(crate) fn data(self, text: &str) -> Result<(), Failure> {
        let mut stream = anstream::stdout().lock();
        check(stream.write_all(text.as_bytes()).and_then(|()| stream.flush()))
    }

    /// Prints one line of data.
    pub(crate) fn line(self, text: &str) -> Result<(), Failure> {
        self.data(&format!("{text}\n"))
    }

    /// Prints a value as JSON over several lines.
    pub(crate) fn json<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.bytes(format!("{text}\n").as_bytes()),
            Err(error) => Err(Failure::new("cannot write JSON").cause(&error)),
        }
    }

    /// Prints a value as one line of JSON.
    pub(crate) fn json_line<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        match serde_json::to_string(value) {
            Ok(text) => self.bytes(format!("{text}\n").as_bytes()),
            Err(error) => Err(Failure::new("cannot write JSON").cause(&error)),
        }
    }

    /// Prints bytes on stdout, untouched.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stream = io::stdout().lock();
        check(stream.write_all(bytes).and_then(|()| stream.flush()))
    }

    /// Whether styles are seen on stdout, and on stderr: on a terminal, where `NO_COLOR` and its like do not forbid it.
    pub(crate) fn is_coloured(self) -> (bool, bool) {
        let seen = |choice| choice != anstream::ColorChoice::Never;
        (
            seen(anstream::AutoStream::choice(&io::stdout())),
            seen(anstream::AutoStream::choice(&io::stderr())),
        )
    }

    /// Prints bytes on stderr, untouched: what a task wrote to its own.
    pub(crate) fn bytes_to_stderr(self, bytes: &[u8]) -> Result<(), Failure> {
        check(io::stderr().lock().write_all(bytes))
    }

    /// Says something to the person at the terminal.
    pub(crate) fn talk(self, text: &str) {
        say(&format!("{text}\n"));
    }

    /// Says something that needs attention.
    pub(crate) fn warning(self, text: &str) {
        say(&format!("{WARNING}warning:{WARNING:#} {text}\n"));
    }

    /// Says what went wrong, and gives the exit status that follows.
    pub(crate) fn failure(self, failure: &Failure) -> Exit {
        if let Some((text, hint)) = failure.told() {
            say(&format!("{ERROR}error:{ERROR:#} {text}\n"));
            if let Some(hint) = hint {
                say(&format!("{HINT}hint:{HINT:#} {hint}\n"));
            }
        }
        failure.status()
    }

    /// Says what is wrong with the command line, or prints the help or version that was asked for.
    pub(crate) fn usage(self, error: &clap::Error) -> Exit {
        let text = error.render().ansi().to_string();
        if error.use_stderr() {
            say(&text);
            Exit::Usage
        } else {
            self.data(&text).map_or_else(|failure| self.failure(&failure), |()| Exit::Done)
        }
    }
}

/// Talk that nobody can hear is no reason to stop.
fn say(text: &str) {
    let _ = anstream::stderr().lock().write_all(text.as_bytes());
}

fn check(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::ReaderGone),
        Err(error) => Err(Failure::new("cannot write the output").cause(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let gone = check(Err(io::Error::from(ErrorKind::BrokenPipe))).unwrap_err();
        assert!(matches!(gone, Failure::ReaderGone));
        assert_eq!(gone.status(), Exit::Done);
        let full = check(Err(io::Error::from(ErrorKind::StorageFull))).unwrap_err();
        assert_eq!(full.status(), Exit::Failed);
    }
}
