//! What happened in a run: as one number, to compare runs, and as lines, to step through one.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::check::Note;
use crate::time::{MS, Micros};

/// What happened in a run.
#[derive(Debug)]
pub struct Trace {
    hash: Sha256,
    steps: u64,
    now: Micros,
    log: Option<String>,
    settled_after: Option<Micros>,
}

impl Trace {
    /// An empty trace; with lines, or only the number.
    pub fn new(with_log: bool) -> Self {
        Self {
            hash: Sha256::new(),
            steps: 0,
            now: 0,
            log: with_log.then(String::new),
            settled_after: None,
        }
    }

    pub(crate) fn step(&mut self, now: Micros, describe: impl FnOnce() -> String) {
        self.steps += 1;
        self.now = now;
        self.hash.update(now.to_be_bytes());
        self.say(describe);
    }

    pub(crate) fn say(&mut self, describe: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let (steps, ms) = (self.steps, self.now / MS);
            // Writing to a string cannot fail.
            let _ = writeln!(log, "{steps:>7} {:>4}.{:03} {}", ms / 1_000, ms % 1_000, describe());
        }
    }

    pub(crate) fn note(&mut self, note: &Note) {
        self.say(|| format!("        {note:?}"));
    }

    pub(crate) fn record(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.say(|| match longshore_core::cluster::record::Record::decode(bytes) {
            Ok(record) => {
                format!("    RECORD {} epoch {}: {:?}", record.index, record.epoch, record.facts)
            }
            Err(_) => "    RECORD that cannot be read".into(),
        });
    }

    pub(crate) fn fold(&mut self, number: u64) {
        self.hash.update(number.to_be_bytes());
    }

    pub(crate) fn settled(&mut self, after: Micros) {
        self.settled_after = Some(after);
    }

    /// How long after the last fault everything had settled.
    pub fn settled_after(&self) -> Option<Micros> {
        self.settled_after
    }

    /// How many steps were taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The run as one number, in hexadecimal.
    pub fn hash(&self) -> String {
        let digest = self.hash.clone().finalize();
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The run as lines.
    pub fn log(&self) -> Option<&str> {
        self.log.as_deref()
    }
}
