//! A terminal with somebody at it, who types and sees.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and the place is told"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use longshore_tests::eventually;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::SOON;

/// A program at a terminal, and who sits there.
pub(crate) struct Seat {
    pub(crate) child: Child,
    pub(crate) person: Person,
}

/// Who sits there.
pub(crate) struct Person {
    screen: File,
    /// The program's end, kept open so that it can be looked at when the program has ended.
    line: File,
    seen: Arc<Mutex<String>>,
}

impl Seat {
    /// Starts a program at a terminal of so many columns and rows.
    pub(crate) fn take(mut command: Command, columns: u16, rows: u16) -> Self {
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        tcsetwinsize(&screen, size(columns, rows)).unwrap();
        let name = ptsname(&screen, Vec::new()).unwrap().into_string().unwrap();
        let line = || File::options().read(true).write(true).open(&name).unwrap();
        let child = command
            .env("TERM", "xterm-256color")
            .stdin(Stdio::from(line()))
            .stdout(Stdio::from(line()))
            .stderr(Stdio::from(line()))
            .spawn()
            .unwrap();
        let (screen, line) = (File::from(screen), line());
        let seen = Arc::new(Mutex::new(String::new()));
        let mut reader = screen.try_clone().unwrap();
        let shown = Arc::clone(&seen);
        // Ends when the terminal does, or with the test.
        std::thread::spawn(move || {
            let mut piece = [0; 4_096];
            while let Ok(length @ 1..) = reader.read(&mut piece) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..length]));
            }
        });
        Self { child, person: Person { screen, line, seen } }
    }
}

impl Person {
    /// Types.
    pub(crate) fn types(&mut self, keys: &str) {
        self.screen.write_all(keys.as_bytes()).unwrap();
    }

    /// Gives the terminal another size, and has the program told.
    pub(crate) fn resizes(&self, child: &Child, columns: u16, rows: u16) {
        tcsetwinsize(&self.screen, size(columns, rows)).unwrap();
        kill_process(Pid::from_child(child), Signal::WINCH).unwrap();
    }

    /// Everything that has stood on the screen.
    pub(crate) fn seen(&self) -> String {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until something stands on the screen.
    pub(crate) async fn sees(&self, wanted: &str) {
        eventually(&format!("{wanted:?} on the screen"), SOON, async || {
            let seen = self.seen();
            if seen.contains(wanted) { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    /// Whether the terminal is one for lines again: it shows what is typed, and waits for the end of the line.
    pub(crate) fn has_lines(&self) -> bool {
        let modes = tcgetattr(&self.line).unwrap().local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON)
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
