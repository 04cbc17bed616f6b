//! Whether the log is still the one that a store was built from: by when its stream was made, by where it begins and
//! ends, and by the record that was applied last.

use longshore_proto::id::Revision;
use longshore_proto::name::NodeName;

use crate::cluster::record::{Hash, Record};
use crate::cluster::state::{Meta, State};
use crate::time::Time;

/// How often a manager looks whether the log is still the one that it has applied, in milliseconds.
pub const LOOK_INTERVAL_MS: u64 = 1_000;
/// For how long it must be told, each time that is asked, that the log is broken, before that is believed: by the
/// one server that has it.
pub const DOUBT_OF_ONE_MS: u64 = 2_000;
/// The same, of whoever of several servers calls itself the leader. One that was asleep, or is cut off from the
/// others, calls itself so for up to ten seconds longer than it is, and knows less than was committed.
pub const DOUBT_OF_SEVERAL_MS: u64 = 12_000;
/// After so long without an answer that the log is broken, in milliseconds, a doubt begins anew: it may have been another
/// server that said so, another time. One look without an answer does not take so long.
const SILENCE_MS: u64 = 8_000;

/// For how long what a manager knows of the log is taken for what stands there, in milliseconds. Nobody else takes the
/// lease in so short a time, cuts the log or finds it cut, and writes on.
const SURE_MS: u64 = 250;

/// How the log and a manager's store do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// There is no stream, and there was one.
    #[error("the stream {stream} is gone, and the store holds a cluster that lived on it")]
    Gone {
        /// Its name.
        stream: String,
    },
    /// There is a stream without a message, and there was one with a cluster.
    #[error("the stream {stream} is empty, and this data directory belonged to a cluster")]
    Empty {
        /// Its name.
        stream: String,
    },
    /// Another stream stands under its name.
    #[error(
        "the stream {stream} was created at {created}, and the store was built from one created at {known}"
    )]
    Replaced {
        /// Its name.
        stream: String,
        /// When this one was created.
        created: String,
        /// When the one that is known was.
        known: String,
    },
    /// The stream has lost its end.
    #[error("the log ends at message {end}, and the store has applied message {known}")]
    Shortened {
        /// Its last message.
        end: u64,
        /// The last one that was applied.
        known: u64,
    },
    /// The stream begins after what the store holds.
    #[error("the log begins at message {first}, and the store ends at message {known}")]
    Begins {
        /// Its first message.
        first: u64,
        /// The last one that was applied.
        known: u64,
        /// Its last message.
        end: u64,
    },
    /// The stream has a hole.
    #[error("the log has lost messages {from} to {to}")]
    Gap {
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
    /// A snapshot is of more than the log and the store hold.
    #[error("a snapshot of record {snapshot} is stored, and the log ends with record {index}")]
    Lacks {
        /// The last record that the snapshot holds.
        snapshot: u64,
        /// The last one that the log has.
        index: u64,
    },
    /// The log was healed from another store, and goes on from there.
    #[error(
        "a snapshot of record {snapshot} is stored that goes on from epoch {healed}, and this log and store know only epoch {epoch}: the log was healed from another manager's store"
    )]
    Left {
        /// The last record that the snapshot holds.
        snapshot: u64,
        /// The epoch that the snapshot goes on from.
        healed: u64,
        /// The last one that the log has.
        epoch: u64,
    },
    /// A node's worker follows what no record of it has.
    #[error("the log has lost records: node {node} follows revision {revision}, which none has")]
    Behind {
        /// The node's name.
        node: NodeName,
        /// What it follows.
        revision: Revision,
    },
    /// Another record stands in a place.
    #[error("record {index} in the log is not the one that the store continues with")]
    Contradicts {
        /// The place.
        index: u64,
    },
}

/// What a server says of the log's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// When it was made, in the server's words.
    pub created: String,
    /// The sequence of its first message.
    pub first: u64,
    /// The sequence of its last message.
    pub last: u64,
}

/// Where a manager stands in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// The sequence of the last message that was read, a record or not; 0 before the first.
    pub sequence: u64,
    /// The sequence of the last record; 0 where that was not kept.
    pub record_sequence: u64,
    /// That record's index.
    pub index: u64,
    /// That record's hash.
    pub chain: Hash,
}

impl Applied {
    /// Where a state stands.
    pub fn of(meta: &Meta) -> Self {
        let Meta { stream_sequence: sequence, record_sequence, index, chain, .. } = *meta;
        Self { sequence, record_sequence, index, chain }
    }

    /// Which message must still be the record that was applied last.
    pub fn tip(&self) -> Option<u64> {
        let tip = if self.record_sequence > 0 { self.record_sequence } else { self.sequence };
        (tip > 0).then_some(tip)
    }

    /// Compares what stands in the log as [`Self::tip`]; nothing, where the log is trimmed behind it.
    ///
    /// # Errors
    /// Another record stands there: what this manager knows and what the log holds are two different pasts, however
    /// long both are. A log that has lost its end and was written on is noticed by nothing else.
    pub fn check(&self, found: Option<&[u8]>) -> Result<(), Broken> {
        let Some(found) = found else { return Ok(()) };
        let differs = Hash::of(found) != self.chain;
        // A store of before does not say where its last record stands, and a message that was skipped is none.
        let is_record = self.record_sequence > 0
            || Record::decode(found).is_ok_and(|record| record.index == self.index);
        if differs && is_record {
            return Err(Broken::Contradicts { index: self.index });
        }
        Ok(())
    }
}

/// Where the log ends, if it is the one made at `created`, holds the message `known`, and everything after the message
/// `applied`. The first is what was applied before the question, which the log must have held all the time; the second,
/// what is applied when the answer is there: an answer may take seconds, in which messages are read, and cut behind a
/// snapshot.
///
/// # Errors
/// How it is broken.
pub fn end(
    stream: &str,
    info: Option<&Info>,
    created: &str,
    known: u64,
    applied: u64,
) -> Result<u64, Broken> {
    let stream = || stream.to_owned();
    let Some(info) = info else { return Err(Broken::Gone { stream: stream() }) };
    if info.created != created {
        let (known, created) = (created.to_owned(), info.created.clone());
        return Err(Broken::Replaced { stream: stream(), created, known });
    }
    let (first, end) = (info.first, info.last);
    if end < known {
        return Err(Broken::Shortened { end, known });
    }
    if end > applied && first > applied + 1 {
        return Err(Broken::Begins { first, known: applied, end });
    }
    Ok(end)
}

/// Whether workers follow only what is in the log, as far as it says so itself: it notes whoever follows what it has lost.
/// Where an operator has chosen to go on without that, nothing is missing.
///
/// # Errors
/// How it is broken: the first of such nodes.
pub fn check_followed(state: &State) -> Result<(), Broken> {
    let ahead = state.nodes.iter().find_map(|(name, node)| Some((name, node.ahead?)));
    match ahead.filter(|_| !state.meta.is_restored) {
        Some((node, revision)) => Err(Broken::Behind { node: node.clone(), revision }),
        None => Ok(()),
    }
}

/// What is made of a log that is said to be broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Believed(Broken),
    /// It is asked again: one server may know too little.
    Doubted {
        /// What is said.
        broken: Broken,
        /// Whether that is said for the first time.
        is_new: bool,
    },
}

/// For how long it has been told, each time that was asked, that the log is broken.
#[derive(Debug, Clone)]
pub struct Doubt {
    patience_ms: u64,
    /// Since when it is told, and when it was told last.
    told: Option<(Time, Time)>,
}

impl Doubt {
    /// Believes what is told for so long.
    pub fn new(patience_ms: u64) -> Self {
        Self { patience_ms, told: None }
    }

    /// Whether anything is in doubt.
    pub fn is_open(&self) -> bool {
        self.told.is_some()
    }

    /// Judges an answer; no answer is none, and changes nothing unless there is none for long.
    ///
    /// # Errors
    /// What is broken, and whether that is believed.
    pub fn judge(&mut self, told: Result<u64, Broken>, now: Time) -> Result<u64, Verdict> {
        match told {
            Ok(end) => {
                self.told = None;
                Ok(end)
            }
            // That the log was trimmed is no mistake of a server that knows too little.
            Err(broken @ Broken::Begins { .. }) => Err(Verdict::Believed(broken)),
            Err(broken) => {
                let before = self.told.filter(|(_, last)| now - *last < SILENCE_MS);
                let (since, is_new) = (before.map_or(now, |(since, _)| since), before.is_none());
                self.told = Some((since, now));
                if now - since >= self.patience_ms {
                    Err(Verdict::Believed(broken))
                } else {
                    Err(Verdict::Doubted { broken, is_new })
                }
            }
        }
    }
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The record stands at this sequence.
    At(u64),
    /// Something else stands in its place.
    Fenced,
}

/// What became of an append whose acknowledgement did not come, or was a refusal: what stands in the record's place
/// tells. Nothing, while nothing stands there: it must be tried again.
pub fn outcome(place: u64, found: Option<&[u8]>, record: &[u8]) -> Option<Appended> {
    found.map(|found| if found == record { Appended::At(place) } else { Appended::Fenced })
}

/// Whether a record that was stored in its place stands on what this manager has applied, judged by when an append before
/// it was sent that is known to, or a look that has found it there. Else what stands below it must be looked at: others may
/// have led meanwhile over a log that was cut, and have written it to its old length.
pub fn is_sure(known: Option<Time>, now: Time) -> bool {
    known.is_some_and(|known| now - known < SURE_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(first: u64, last: u64) -> Info {
        Info { created: "monday".into(), first, last }
    }

    fn told(info: &Info, known: u64) -> Result<u64, Broken> {
        end("log", Some(info), "monday", known, known)
    }

    #[test]
    fn a_log_is_the_same_while_it_was_made_at_the_same_time_and_holds_what_is_next() {
        assert_eq!(told(&info(1, 9), 7), Ok(9));
        assert_eq!(told(&info(8, 9), 7), Ok(9), "trimmed up to what was applied");
        assert_eq!(told(&info(8, 7), 7), Ok(7), "trimmed whole");
        assert_eq!(told(&info(9, 9), 7), Err(Broken::Begins { first: 9, known: 7, end: 9 }));
        assert_eq!(told(&info(1, 6), 7), Err(Broken::Shortened { end: 6, known: 7 }));
        assert!(matches!(end("log", None, "monday", 7, 7), Err(Broken::Gone { .. })));
        assert!(matches!(
            end("log", Some(&info(1, 9)), "tuesday", 7, 7),
            Err(Broken::Replaced { .. })
        ));
    }

    #[test]
    fn a_log_that_was_read_and_trimmed_while_the_answer_was_on_its_way_is_whole() {
        let told = |info: Info, applied| end("log", Some(&info), "monday", 7, applied);
        assert_eq!(told(info(9, 12), 12), Ok(12));
        assert_eq!(told(info(9, 12), 8), Ok(12), "up to what is applied now");
        let begins = Err(Broken::Begins { first: 10, known: 8, end: 12 });
        assert_eq!(told(info(10, 12), 8), begins);
        // What was written since the question may be missing in an answer that was given before.
        assert_eq!(told(info(1, 8), 12), Ok(8));
    }

    #[test]
    fn who_was_away_looks_at_what_the_own_record_stands_on() {
        let known = Some(Time(5_000));
        assert!(is_sure(known, Time(5_000)) && is_sure(known, Time(5_249)));
        assert!(!is_sure(known, Time(5_250)));
        assert!(!is_sure(None, Time(5_000)), "the first record of a reign");
    }

    #[test]
    fn what_is_told_once_is_doubted_and_what_is_told_for_long_enough_is_believed() {
        let mut doubt = Doubt::new(2_000);
        let broken = Broken::Shortened { end: 6, known: 7 };
        let short = || Err(broken.clone());
        let doubted = |is_new| Err(Verdict::Doubted { broken: broken.clone(), is_new });
        assert_eq!(doubt.judge(short(), Time(1_000)), doubted(true));
        assert!(doubt.is_open());
        assert_eq!(doubt.judge(short(), Time(2_999)), doubted(false));
        assert_eq!(doubt.judge(short(), Time(3_000)), Err(Verdict::Believed(broken.clone())));
        // A server that knows all of it ends the doubt, and the next one begins anew.
        assert_eq!(doubt.judge(Ok(7), Time(3_100)), Ok(7));
        assert!(!doubt.is_open());
        assert_eq!(doubt.judge(short(), Time(9_000)), doubted(true));
    }

    #[test]
    fn what_was_told_before_a_long_silence_is_not_believed_for_that() {
        let mut doubt = Doubt::new(12_000);
        let short = || Err(Broken::Shortened { end: 6, known: 7 });
        let is_new = |verdict| matches!(verdict, Err(Verdict::Doubted { is_new: true, .. }));
        assert!(is_new(doubt.judge(short(), Time(1_000))));
        assert!(!is_new(doubt.judge(short(), Time(8_000))), "one look had no answer");
        assert!(
            is_new(doubt.judge(short(), Time(17_000))),
            "the manager slept, or nobody answered"
        );
        for at in [22_000, 27_000] {
            assert!(matches!(doubt.judge(short(), Time(at)), Err(Verdict::Doubted { .. })));
        }
        assert!(matches!(doubt.judge(short(), Time(29_000)), Err(Verdict::Believed(_))));
    }

    #[test]
    fn that_the_log_was_trimmed_is_believed_at_once_and_ends_no_doubt() {
        let mut doubt = Doubt::new(2_000);
        let begins = Broken::Begins { first: 9, known: 7, end: 9 };
        let believed = Err(Verdict::Believed(begins.clone()));
        assert_eq!(doubt.judge(Err(begins.clone()), Time(5)), believed);
        assert!(!doubt.is_open());
        let gone = Broken::Gone { stream: "log".into() };
        doubt.judge(Err(gone), Time(10)).unwrap_err();
        assert_eq!(doubt.judge(Err(begins), Time(20)), believed);
        assert!(doubt.is_open(), "it says nothing of whether the stream was there a moment ago");
    }

    #[test]
    fn a_log_that_was_cut_and_written_on_contradicts_by_the_record_that_was_applied_last() {
        let ours = b"ours".as_slice();
        let mut applied =
            Applied { sequence: 9, record_sequence: 7, index: 6, chain: Hash::of(ours) };
        assert_eq!(applied.tip(), Some(7), "8 and 9 were no records");
        assert_eq!(applied.check(Some(ours)), Ok(()));
        assert_eq!(applied.check(None), Ok(()), "trimmed");
        assert_eq!(applied.check(Some(b"theirs")), Err(Broken::Contradicts { index: 6 }));
        // A store of before knows only where the last message stands, which may have been none.
        applied.record_sequence = 0;
        assert_eq!(applied.tip(), Some(9));
        assert_eq!(applied.check(Some(b"no record")), Ok(()));
        assert_eq!(Applied::default().tip(), None);
    }

    #[test]
    fn what_stands_in_its_place_tells_what_became_of_a_record() {
        assert_eq!(outcome(5, Some(b"ours"), b"ours"), Some(Appended::At(5)));
        assert_eq!(outcome(5, Some(b"theirs"), b"ours"), Some(Appended::Fenced));
        assert_eq!(outcome(5, None, b"ours"), None);
    }
}
