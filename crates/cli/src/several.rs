//! Verbs that take several names: each is tried whatever becomes of the others, and the first failure is told at the end.

use crate::failure::{Exit, Failure};
use crate::render::Printer;

/// What has become of several names so far.
#[derive(Debug)]
pub(crate) struct Several {
    printer: Printer,
    failed: Option<Failure>,
    exit: Exit,
}

impl Several {
    /// Nothing yet.
    pub(crate) fn new(printer: Printer) -> Self {
        Self { printer, failed: None, exit: Exit::Done }
    }

    /// What was done for one of them, if it was.
    pub(crate) fn take<T>(&mut self, outcome: Result<T, Failure>) -> Option<T> {
        match outcome {
            Ok(done) => return Some(done),
            Err(failure) if self.failed.is_none() => self.failed = Some(failure),
            Err(failure) => {
                self.printer.failure(&failure);
            }
        }
        None
    }

    /// How waiting for one of them has ended. False when nobody wants to wait for the others either.
    pub(crate) fn waited(&mut self, outcome: Result<Exit, Failure>) -> bool {
        match self.take(outcome) {
            None | Some(Exit::Done) => {}
            Some(exit) => self.exit = exit,
        }
        self.exit != Exit::Interrupted
    }

    /// How the verb ends.
    pub(crate) fn end(self) -> Result<Exit, Failure> {
        self.failed.map_or(Ok(self.exit), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_hides_no_other_and_waiting_goes_on_until_it_is_interrupted() {
        let mut several = Several::new(Printer);
        assert_eq!(several.take(Ok(1)), Some(1));
        assert_eq!(several.take::<u8>(Err(Failure::new("one"))), None);
        assert_eq!(several.take::<u8>(Err(Failure::new("other"))), None);
        assert_eq!(several.end().unwrap_err().told().unwrap().0, "one");

        let mut several = Several::new(Printer);
        assert!(several.waited(Ok(Exit::Failed)));
        assert!(several.waited(Ok(Exit::Done)));
        assert_eq!(several.exit, Exit::Failed);
        assert!(!several.waited(Ok(Exit::Interrupted)));
        assert_eq!(several.end().unwrap(), Exit::Interrupted);
    }
}
