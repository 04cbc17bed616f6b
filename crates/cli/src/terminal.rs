//! The terminal that this program stands in: raw for as long as a command elsewhere uses it, and its size.

use std::io::IsTerminal;

use longshore_proto::rpc::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::Failure;

/// Whether somebody types.
pub(crate) fn is_there() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// How large it is; a terminal that does not know is as large as the first ones were.
pub(crate) fn size() -> TerminalSize {
    match tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            TerminalSize { columns: size.ws_col, rows: size.ws_row }
        }
        _ => TerminalSize { columns: 80, rows: 24 },
    }
}

/// A terminal that passes every key on and shows nothing by itself; back to what it was when this goes.
#[derive(Debug)]
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes it raw.
    pub(crate) fn enter() -> Result<Self, Failure> {
        let problem =
            |error: rustix::io::Errno| Failure::new("cannot use this terminal").cause(&error);
        let before = tcgetattr(std::io::stdin()).map_err(problem)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(problem)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Where even this fails the terminal is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before);
    }
}
