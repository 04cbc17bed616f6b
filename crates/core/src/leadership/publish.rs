//! How far the event stream holds the history, and what is published next.
//!
//! The stream must hold each event, in order and without a gap, whatever happens to those who publish: servers and
//! connections lose messages in the midst of a batch, and leaders die between a batch and the look whether all of it was
//! stored. So each message says what must be the last before it: the first of a batch a sequence, the others the message
//! before them. What follows a lost one is refused, and where the stream ends is always how far it goes. (A sequence alone
//! would not do: where one message more is there than was known, the first is refused and the second fits. Nor would an id
//! alone: a server that starts anew may not know the last one any more.)
//!
//! On several servers each keeps the last message's id for itself, and one that was away for longer than the window for
//! duplicates has forgotten it: it would refuse what the others store, and differ from them for ever. There each message
//! names a sequence and must be acknowledged; and where one was refused, the batch is gone through again from its
//! beginning: what is there already is known by its id. (A leader that dies before it knows of the refusal leaves the gap.)
//!
//! Where the cluster has gone on from a past that others had left, as a restored backup does, the stream may hold events
//! of that past with the same indexes: message ids tell them apart.

use longshore_proto::id::{ClusterId, ManagerId};

use crate::cluster::state::Meta;

/// How many events are on their way at once.
pub const BATCH: usize = 256;

/// An event's place in the history: the index of its record, and which of that record's events it is.
pub type Place = (u64, u32);

/// What the ids of a cluster's events are made from.
#[derive(Debug, Clone)]
pub struct Names {
    cluster: ClusterId,
    /// Where it has gone on from a past that others had left: the index of the first record then, and the manager that
    /// wrote it; the first time first.
    restorations: Vec<(u64, ManagerId)>,
}

impl Names {
    /// The names of a cluster's events; `None` before it has an id.
    pub fn of(meta: &Meta) -> Option<Self> {
        Some(Self { cluster: meta.cluster?, restorations: meta.restorations.clone() })
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The restoration that an index comes after.
    fn restoration(&self, index: u64) -> Option<(u64, ManagerId)> {
        self.restorations.iter().copied().rfind(|(first, _)| *first <= index)
    }

    /// The message id of the event in a place: the same whoever publishes it, and another one than that of an event in the
    /// same place of a past that was left.
    pub fn id(&self, (index, ordinal): Place) -> String {
        let cluster = self.cluster;
        match self.restoration(index) {
            Some((_, manager)) => format!("{cluster}-{manager}-{index}-{ordinal}"),
            None => format!("{cluster}-{index}-{ordinal}"),
        }
    }

    /// After which place to go on, where the stream ends with an event in some place under some id. Where that is one of a
    /// past that was left, nothing of what came since is known to be there.
    fn after(&self, end: Place, id: Option<&str>) -> Place {
        match self.restoration(end.0) {
            Some((first, _)) if id != Some(self.id(end).as_str()) => {
                (first.saturating_sub(1), u32::MAX)
            }
            _ => end,
        }
    }
}

/// Where the stream ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    /// The sequence of its last message, be that still there or not; 0 where there never was one.
    pub sequence: u64,
    /// The place of its last event, and its message id; `None` where it holds none.
    pub event: Option<(Place, Option<String>)>,
    /// Whether several servers hold it.
    pub is_replicated: bool,
}

/// What must be the last in the stream before a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// The message of a sequence.
    Sequence(u64),
    /// The message with an id.
    Message(String),
}

/// How far the stream is known to hold the history.
#[derive(Debug)]
pub struct Progress {
    names: Names,
    /// The place to go on after; `None` from the beginning of the history.
    at: Option<Place>,
    /// The sequence of the stream's last message.
    sequence: u64,
    /// Whether where the stream ends must be looked up.
    is_lost: bool,
    /// Whether events are published one by one, because some may be there already.
    is_careful: bool,
    /// Whether several servers hold the stream.
    is_replicated: bool,
    /// Whether where the stream ends was looked up before.
    has_looked: bool,
}

impl Progress {
    /// Nothing is known yet.
    pub fn new(names: Names) -> Self {
        Self {
            names,
            at: None,
            sequence: 0,
            is_lost: true,
            is_careful: false,
            is_replicated: false,
            has_looked: false,
        }
    }

    /// What was known may hold no longer: the connection broke, so that the server may be another one that has lost the
    /// last events, or nobody has said what became of a batch.
    pub fn lose(&mut self) {
        self.is_lost = true;
    }

    /// Whether where the stream ends must be looked up before anything is published.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Takes in where the stream ends.
    pub fn found(&mut self, end: &End) {
        let before = self.at;
        self.at = end.event.as_ref().map(|(place, id)| self.names.after(*place, id.as_deref()));
        if end.event.is_none() && self.has_looked && end.sequence >= self.sequence {
            // What was there has aged away, and was not lost.
            self.at = before;
        } else if end.is_replicated && self.has_looked {
            // What stands at the end does not tell that what was to be before it is there.
            self.at = self.at.min(before);
        }
        self.has_looked = true;
        self.sequence = end.sequence;
        self.is_replicated = end.is_replicated;
        self.is_lost = false;
    }

    /// The place after which events are to be published.
    pub fn after(&self) -> Option<Place> {
        self.at
    }

    /// How many events to publish at once.
    pub fn batch(&self) -> usize {
        if self.is_careful { 1 } else { BATCH }
    }

    /// Whether each message of a batch must be acknowledged, not the last alone.
    pub fn acknowledges_each(&self) -> bool {
        self.is_replicated
    }

    /// The messages of a batch: the id of each, and what must be the last before it.
    pub fn messages(&self, places: impl Iterator<Item = Place>) -> Vec<(String, Expected)> {
        let mut before = None;
        let message = |(place, sequence): (Place, u64)| {
            let id = self.names.id(place);
            let expected = match before.replace(id.clone()) {
                Some(before) if !self.is_replicated => Expected::Message(before),
                _ => Expected::Sequence(sequence),
            };
            (id, expected)
        };
        places.zip(self.sequence..).map(message).collect()
    }

    /// A batch up to a place was published, with so many messages; the last of them was stored at a sequence, or was there
    /// before.
    pub fn published(&mut self, last: Place, messages: u64, sequence: u64, duplicate: bool) {
        if messages == 0 || messages == 1 && duplicate {
            // It was published under this id, and what stands at the end stands there still.
            self.at = Some(last);
        } else if !duplicate && sequence == self.sequence + messages {
            (self.at, self.sequence) = (Some(last), sequence);
            self.is_careful = false;
        } else {
            self.refused();
        }
    }

    /// The stream goes on otherwise than was known: somebody else has published as well, or it has lost something.
    pub fn refused(&mut self) {
        (self.is_lost, self.is_careful) = (true, true);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn names(restorations: &[(u64, u128)]) -> Names {
        let restorations = restorations.iter();
        Names {
            cluster: ClusterId(Uuid::from_u128(1)),
            restorations: restorations
                .map(|(first, manager)| (*first, ManagerId(Uuid::from_u128(*manager))))
                .collect(),
        }
    }

    #[test]
    fn ids_tell_pasts_apart_and_nothing_else() {
        let (never, once, twice) = (names(&[]), names(&[(101, 7)]), names(&[(101, 7), (201, 8)]));
        assert_eq!(never.id((5, 2)), "00000000-0000-0000-0000-000000000001-5-2");
        assert_eq!(once.id((100, 0)), never.id((100, 0)), "what all pasts have in common");
        assert_ne!(once.id((101, 0)), never.id((101, 0)));
        assert_eq!(twice.id((200, 0)), once.id((200, 0)), "whoever publishes it, and when");
        assert_ne!(twice.id((201, 0)), once.id((201, 0)));
        assert_ne!(
            names(&[(101, 9)]).id((150, 0)),
            once.id((150, 0)),
            "one backup, restored twice"
        );
    }

    #[test]
    fn events_go_on_where_the_past_was_left_whatever_the_stream_holds_of_it() {
        let (never, once, twice) = (names(&[]), names(&[(101, 7)]), names(&[(101, 7), (201, 8)]));
        let after = |names: &Names, end, told: &Names| names.after(end, Some(&told.id(end)));
        assert_eq!(after(&never, (150, 3), &never), (150, 3));
        assert_eq!(never.after((150, 3), None), (150, 3));
        assert_eq!(after(&once, (90, 3), &never), (90, 3), "of the past that all have in common");
        assert_eq!(after(&once, (150, 3), &never), (100, u32::MAX), "of the past that was left");
        assert_eq!(once.after((150, 3), None), (100, u32::MAX));
        assert_eq!(after(&once, (150, 3), &once), (150, 3));
        assert_eq!(after(&twice, (150, 3), &once), (150, 3));
        assert_eq!(after(&twice, (250, 3), &once), (200, u32::MAX));
        assert_eq!(after(&twice, (150, 3), &never), (100, u32::MAX));
    }

    /// Ten events are there, the last of record 4.
    fn known() -> Progress {
        let mut progress = Progress::new(names(&[]));
        assert!(progress.is_lost());
        let id = progress.names.id((4, 1));
        progress.found(&End {
            sequence: 10,
            event: Some(((4, 1), Some(id))),
            is_replicated: false,
        });
        progress
    }

    /// The sequence that the next batch expects to be the last.
    fn first_after(progress: &Progress) -> u64 {
        match progress.messages(std::iter::once((9, 0))).pop() {
            Some((_, Expected::Sequence(sequence))) => sequence,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_message_names_what_is_before_it() {
        let mut progress = known();
        let messages = progress.messages([(5, 0), (5, 1)].into_iter());
        let [(first, before), (_, then)] = &messages[..] else { panic!("{messages:?}") };
        assert_eq!((before, then), (&Expected::Sequence(10), &Expected::Message(first.clone())));
        progress.published((5, 1), 2, 12, false);
        assert!(!progress.is_lost());
        assert_eq!((progress.after(), first_after(&progress)), (Some((5, 1)), 12));
        progress.published((6, 0), 0, 0, false);
        assert_eq!(progress.after(), Some((6, 0)), "its events are none for the stream");
    }

    #[test]
    fn what_is_not_as_it_was_known_is_looked_up_and_gone_through_one_by_one() {
        let mut progress = known();
        progress.published((5, 1), 2, 14, false);
        assert!(progress.is_lost(), "somebody else has published as well");
        progress.found(&End { sequence: 14, event: Some(((4, 1), None)), is_replicated: false });
        assert_eq!(progress.batch(), 1);
        progress.published((5, 0), 1, 12, true);
        assert!(!progress.is_lost(), "it is there already");
        assert_eq!((progress.after(), first_after(&progress)), (Some((5, 0)), 14));
        progress.published((5, 1), 1, 15, false);
        assert_eq!((progress.after(), progress.batch()), (Some((5, 1)), BATCH));
    }

    #[test]
    fn a_stream_that_has_lost_its_end_gets_it_again() {
        let mut progress = known();
        progress.lose();
        let id = progress.names.id((3, 0));
        progress.found(&End { sequence: 7, event: Some(((3, 0), Some(id))), is_replicated: false });
        assert_eq!((progress.after(), first_after(&progress)), (Some((3, 0)), 7));
        progress.found(&End { sequence: 7, ..End::default() });
        assert_eq!(progress.after(), Some((3, 0)), "what is left has aged away; it goes on");
        assert_eq!(first_after(&progress), 7);
        progress.found(&End::default());
        assert_eq!(progress.after(), None, "it is another stream");
    }

    #[test]
    fn on_several_servers_each_message_names_a_sequence_and_a_batch_that_did_not_fit_is_gone_through_again()
     {
        let mut progress = Progress::new(names(&[]));
        let end = |sequence, place| {
            let id = names(&[]).id(place);
            End { sequence, event: Some((place, Some(id))), is_replicated: true }
        };
        progress.found(&end(10, (4, 1)));
        let places = [(5, 0), (5, 1), (5, 2)];
        let before: Vec<_> =
            progress.messages(places.into_iter()).into_iter().map(|(_, before)| before).collect();
        assert_eq!(before, [10, 11, 12].map(Expected::Sequence));
        // One message more was there: the first was refused, and the others fitted. Their end does not tell.
        assert!(progress.acknowledges_each());
        progress.refused();
        progress.found(&end(13, (5, 2)));
        assert_eq!((progress.after(), progress.batch()), (Some((4, 1)), 1));
        progress.published((5, 0), 1, 14, false);
        assert_eq!((progress.after(), first_after(&progress)), (Some((5, 0)), 14));
        // Nor does it where nobody has said what became of a batch.
        progress.lose();
        progress.found(&end(14, (5, 2)));
        assert_eq!(progress.after(), Some((5, 0)));
    }
}
