//! The history of events: its keys and indexes, and how it is searched.
//!
//! Every event stands once, by its place in the log. Indexes by job, task, node and kind hold nothing but places: one
//! entry for each record and whatever it has events of, by the first of them, with the ordinals of the others as its value.
//! A search walks the narrowest index that the question allows, and looks at the rest event by event.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::PoisonError;

use bytes::Bytes;
use fjall::{UserKey, UserValue};
use longshore_proto::api::{ListEvents, PAGE_MAX};
use longshore_proto::codec;
use longshore_proto::event::{AUDIT, Event};
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobName, Namespace, NodeName};
use tracing::warn;

use crate::error::ManagerError;
use crate::store::Store;

/// What the keys of events begin with.
pub(crate) const EVENTS: &[u8] = b"e/";

/// Of how many events that cannot be read is told.
const UNREADABLE_TOLD_MAX: usize = 100;

/// An event's place in history, in bytes that sort.
pub(crate) fn place(index: u64, ordinal: u32) -> [u8; 12] {
    let mut at = [0; 12];
    let (high, low) = at.split_at_mut(8);
    high.copy_from_slice(&index.to_be_bytes());
    low.copy_from_slice(&ordinal.to_be_bytes());
    at
}

/// The key of an event.
pub(crate) fn event_key(at: &[u8]) -> Vec<u8> {
    [EVENTS, at].concat()
}

/// The index of the record that an event's key names.
fn index_of(key: &[u8]) -> u64 {
    let index = key.get(EVENTS.len()..).and_then(<[u8]>::first_chunk);
    index.copied().map_or(0, u64::from_be_bytes)
}

/// The key of an event in an index.
fn index_key(index: &str, of: &str, at: &[u8]) -> Vec<u8> {
    [index.as_bytes(), b"/", of.as_bytes(), b"/", at].concat()
}

fn job_of(namespace: &Namespace, job: &JobName) -> String {
    format!("{namespace}/{job}")
}

/// What an event is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Index<'a> {
    Kind(&'a str),
    Job(&'a Namespace, &'a JobName),
    Task(TaskId),
    Node(&'a NodeName),
}

impl<'a> Index<'a> {
    /// All that an event is found by.
    fn of(event: &'a Event) -> impl Iterator<Item = Self> {
        let job = event.namespace.as_ref().zip(event.job.as_ref());
        std::iter::once(Self::Kind(&event.event_type))
            .chain(job.map(|(namespace, job)| Self::Job(namespace, job)))
            .chain(event.task.map(Self::Task))
            .chain(event.node.as_ref().into_iter().chain(&event.nodes).map(Self::Node))
    }

    fn key(self, at: &[u8]) -> Vec<u8> {
        match self {
            Self::Kind(kind) => index_key("y", kind, at),
            Self::Job(namespace, job) => index_key("j", &job_of(namespace, job), at),
            Self::Task(task) => index_key("t", &task.to_string(), at),
            Self::Node(node) => index_key("n", node.as_str(), at),
        }
    }
}

/// Everything that is stored of the events of a record: themselves, and their places in each index. Most of a record's
/// events share kind or job, and what one entry says of them need not be written, kept and merged event by event.
pub(crate) fn entries(events: &[Event]) -> Vec<(UserKey, UserValue)> {
    let mut indexed: BTreeMap<Index<'_>, ([u8; 12], Vec<u8>)> = BTreeMap::new();
    let mut entries = Vec::with_capacity(events.len() * 2);
    for event in events {
        let at = place(event.index, event.ordinal);
        for index in Index::of(event) {
            let known = indexed.get_mut(&index);
            match known {
                Some((_, others)) => others.extend(event.ordinal.to_be_bytes()),
                None => drop(indexed.insert(index, (at, Vec::new()))),
            }
        }
        entries.push((event_key(&at).into(), codec::encode_into(event)));
    }
    let indexed = indexed.into_iter();
    entries.extend(indexed.map(|(index, (at, others))| (index.key(&at).into(), others.into())));
    entries
}

/// The places that an entry of an index stands for.
fn places(at: [u8; 12], others: &[u8]) -> Vec<[u8; 12]> {
    let (others, _) = others.as_chunks::<4>();
    let other = |ordinal: &[u8; 4]| {
        let mut other = at;
        other[8..].copy_from_slice(ordinal);
        other
    };
    std::iter::once(at).chain(others.iter().map(other)).collect()
}

/// Whether one type of events is named, and not all that begin with it: `task.failed`, `audit.job.stop`. A whole kind, such as
/// `task` or `audit.job`, has no index of its own: only what it is made of.
fn is_one_type(kind: &str) -> bool {
    kind.strip_prefix(AUDIT).unwrap_or(kind).contains('.')
}

/// Whether an event is one that is asked for.
fn fits(event: &Event, namespace: Option<&Namespace>, list: &ListEvents) -> bool {
    // The cluster's and the nodes' events belong to every namespace.
    namespace.is_none_or(|wanted| event.namespace.as_ref().is_none_or(|has| has == wanted))
        && list.fits(event)
}

impl Store {
    /// Events in order, as asked for; and whether there are more.
    pub fn events(
        &self,
        namespace: Option<&Namespace>,
        list: &ListEvents,
    ) -> Result<(Vec<Event>, bool), ManagerError> {
        let limit = list.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX) as usize;
        let after = list.after.map(|(index, ordinal)| place(index, ordinal));
        let prefix = match (list, namespace) {
            (ListEvents { task: Some(task), .. }, _) => Index::Task(*task).key(&[]),
            (ListEvents { job: Some(job), .. }, Some(namespace)) => {
                Index::Job(namespace, job).key(&[])
            }
            (ListEvents { node: Some(node), .. }, _) => Index::Node(node).key(&[]),
            (ListEvents { event_type: Some(kind), .. }, _) if is_one_type(kind) => {
                Index::Kind(kind).key(&[])
            }
            _ => EVENTS.to_vec(),
        };
        let since = list.since_ms.map(|at_ms| self.first_event_at(at_ms)).transpose()?;
        let until = list.until_ms.map(|at_ms| self.first_event_at(at_ms)).transpose()?;
        // An entry of an index may begin before a place and go on behind it.
        let start = list.after.map(|(index, _)| index).max(since).unwrap_or_default();
        let (start, end) = (place(start, 0), until.map_or([0xff; 12], |index| place(index, 0)));
        if start > end {
            return Ok((Vec::new(), false));
        }
        let range = self.history.range([&*prefix, &start].concat()..=[&*prefix, &end].concat());
        let guards: Box<dyn Iterator<Item = fjall::Guard>> =
            if list.newest { Box::new(range.rev()) } else { Box::new(range) };
        let (mut events, mut more) = (Vec::new(), false);
        let mut last = None;
        'all: for guard in guards {
            let (key, value) = guard.into_inner()?;
            let Some(at) = key.get(prefix.len()..).and_then(|at| at.try_into().ok()) else {
                continue;
            };
            let is_index = prefix != EVENTS;
            let mut found = places(at, if is_index { &value } else { &[] });
            if list.newest {
                found.reverse();
            }
            for at in found {
                // A record that was taken over from a snapshot in part has entries of its own for that part.
                let is_known =
                    last.is_some_and(|last| if list.newest { at >= last } else { at <= last });
                if is_known || after.is_some_and(|after| at <= after) {
                    continue;
                }
                last = Some(at);
                let key = event_key(&at);
                let indexed = is_index.then(|| self.history.get(&key)).transpose()?;
                let bytes = indexed.unwrap_or_else(|| Some(value.clone()));
                let event = bytes.and_then(|bytes| self.read_event(&key, &bytes));
                let event = event.filter(|event| fits(event, namespace, list));
                let Some(event) = event else { continue };
                more = events.len() == limit;
                if more {
                    break 'all;
                }
                events.push(event);
            }
        }
        if list.newest {
            events.reverse();
        }
        Ok((events, more))
    }

    /// The events that follow a place, in order, and the bytes of each as they stand here; and whether there are more.
    pub(crate) fn events_after(
        &self,
        after: Option<(u64, u32)>,
        limit: usize,
    ) -> Result<(Vec<(Event, Bytes)>, bool), ManagerError> {
        let first = match after {
            Some((index, ordinal)) => Bound::Excluded(event_key(&place(index, ordinal))),
            None => Bound::Included(EVENTS.to_vec()),
        };
        let mut events = Vec::new();
        for guard in self.history.range((first, Bound::Included(event_key(&[0xff; 12])))) {
            let (key, value) = guard.into_inner()?;
            let Some(event) = self.read_event(&key, &value) else { continue };
            if events.len() == limit {
                return Ok((events, true));
            }
            events.push((event, Bytes::copy_from_slice(&value)));
        }
        Ok((events, false))
    }

    /// The first event at a key or behind it that can be read.
    pub(crate) fn first_readable(&self, from: Vec<u8>) -> Result<Option<Event>, ManagerError> {
        for guard in self.history.range(from..=event_key(&[0xff; 12])) {
            let (key, value) = guard.into_inner()?;
            if let Some(event) = self.read_event(&key, &value) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// An event as it stands under its key. `None` where it cannot be read, which is told once.
    pub(crate) fn read_event(&self, key: &[u8], value: &[u8]) -> Option<Event> {
        let error = match codec::decode_trusted(value) {
            Ok(event) => return Some(event),
            Err(error) => error,
        };
        let mut told = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < UNREADABLE_TOLD_MAX && told.insert(key.to_vec()) {
            warn!(
                index = index_of(key), %error,
                "an event of the history cannot be read; lists and the event stream go on without it"
            );
            if told.len() == UNREADABLE_TOLD_MAX {
                warn!("of further events that cannot be read nothing is said");
            }
        }
        None
    }

    /// The index of the first event at a time or later: beyond the last when there is none. Times never fall.
    fn first_event_at(&self, at_ms: u64) -> Result<u64, ManagerError> {
        let end = event_key(&[0xff; 12]);
        let first = self.history.range(EVENTS.to_vec()..=end.clone()).next();
        let last = self.history.range(EVENTS.to_vec()..=end).next_back();
        let (Some(first), Some(last)) = (first, last) else { return Ok(u64::MAX) };
        // Low is never beyond the answer, and everything from high on is late enough.
        let (mut low, mut high) = (index_of(&first.key()?), index_of(&last.key()?) + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.first_readable(event_key(&place(middle, 0)))? {
                Some(event) if event.at_ms < at_ms => low = event.index + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }
}

#[cfg(test)]
mod tests {
    use longshore_core::cluster::persist::Write;

    use super::*;
    use crate::store::Batch;

    fn event(index: u64, ordinal: u32) -> Event {
        let turn = index + u64::from(ordinal);
        let kind = ["task.running", "task.failed", "audit.job"][usize::try_from(turn % 3).unwrap()];
        let json = serde_json::json!({
            "index": index, "ordinal": ordinal, "at_ms": 1_000 + index / 2, "type": kind,
            "namespace": "default", "job": format!("job-{}", (index + u64::from(ordinal) / 2) % 3),
            "node": format!("n{}", turn % 4), "task": format!("01970000-0000-7000-8000-{turn:012}"),
        });
        let mut event: Event = serde_json::from_value(json).unwrap();
        if kind.starts_with(AUDIT) {
            // What is asked of nodes may be asked of several at once.
            event.nodes = event.node.take().into_iter().chain(["n3".parse().unwrap()]).collect();
        }
        event
    }

    /// The events of a record: it has several of some jobs, kinds, nodes and tasks, and shares tasks with the next ones.
    fn events(index: u64) -> Vec<Event> {
        (0..5).map(|ordinal| event(index, ordinal)).collect()
    }

    fn filled() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut batch = Batch::default();
        for index in 1..=100 {
            batch.record(index, vec![0], Vec::<Write>::new(), &events(index));
        }
        store.commit(batch).unwrap();
        (folder, store)
    }

    fn found(store: &Store, list: &ListEvents) -> Vec<(u64, u32)> {
        let namespace = Namespace::standard();
        let (events, _) = store.events(Some(&namespace), list).unwrap();
        events.iter().map(|event| (event.index, event.ordinal)).collect()
    }

    #[test]
    fn every_question_finds_what_a_look_at_each_event_finds() {
        let (_folder, store) = filled();
        let all: Vec<Event> = [false, true]
            .into_iter()
            .flat_map(|audit| {
                let list = ListEvents { audit, ..ListEvents::default() };
                store.events(None, &list).unwrap().0
            })
            .collect();
        assert_eq!(all.len(), 500);
        let questions = [
            ListEvents { job: Some("job-1".parse().unwrap()), ..ListEvents::default() },
            ListEvents { node: Some("n2".parse().unwrap()), ..ListEvents::default() },
            ListEvents { event_type: Some("task.failed".into()), ..ListEvents::default() },
            ListEvents { event_type: Some("task".into()), ..ListEvents::default() },
            ListEvents { event_type: Some("tas".into()), ..ListEvents::default() },
            ListEvents { since_ms: Some(1_020), until_ms: Some(1_030), ..ListEvents::default() },
            ListEvents { since_ms: Some(9_999), ..ListEvents::default() },
            ListEvents { until_ms: Some(1), ..ListEvents::default() },
            ListEvents { audit: true, ..ListEvents::default() },
            ListEvents { audit: true, node: Some("n3".parse().unwrap()), ..ListEvents::default() },
            ListEvents {
                node: Some("n1".parse().unwrap()),
                event_type: Some("task.running".into()),
                since_ms: Some(1_010),
                ..ListEvents::default()
            },
            ListEvents { task: all[7].task, ..ListEvents::default() },
        ];
        let namespace = Namespace::standard();
        for list in questions {
            let mut wanted: Vec<(u64, u32)> = all
                .iter()
                .filter(|event| fits(event, Some(&namespace), &list))
                .map(|event| (event.index, event.ordinal))
                .collect();
            wanted.sort_unstable();
            assert_eq!(found(&store, &list), wanted, "{list:?}");
        }
    }

    #[test]
    fn pages_go_on_where_the_last_one_ended() {
        let (_folder, store) = filled();
        let mut list = ListEvents {
            limit: Some(7),
            node: Some("n3".parse().unwrap()),
            ..ListEvents::default()
        };
        let whole = found(&store, &ListEvents { limit: None, ..list.clone() });
        let mut paged = Vec::new();
        loop {
            let (events, more) = store.events(None, &list).unwrap();
            paged.extend(events.iter().map(|event| (event.index, event.ordinal)));
            if !more {
                break;
            }
            list.after = events.last().map(|event| (event.index, event.ordinal));
        }
        assert_eq!(paged, whole);
        for limit in 1..20 {
            let newest =
                ListEvents { newest: true, limit: Some(limit), after: None, ..list.clone() };
            assert_eq!(found(&store, &newest), whole[whole.len() - limit as usize..]);
        }
    }

    #[test]
    fn an_event_that_cannot_be_read_is_told_once_and_hides_no_other() {
        let (_folder, store) = filled();
        for index in [1, 2, 50, 100] {
            for ordinal in 0..5 {
                store.history.insert(event_key(&place(index, ordinal)), b"no event").unwrap();
            }
        }
        let (events, more) = store.events_after(None, 1_000).unwrap();
        let read: Vec<u64> = events.iter().map(|(event, _)| event.index).collect();
        let wanted = (3..100).filter(|index| *index != 50).flat_map(|index| [index; 5]);
        let wanted: Vec<u64> = wanted.collect();
        assert_eq!((read, more), (wanted, false));
        let since = |at_ms| {
            let list = ListEvents { since_ms: Some(at_ms), ..ListEvents::default() };
            found(&store, &ListEvents { audit: true, ..list.clone() })
                .into_iter()
                .chain(found(&store, &list))
                .map(|(index, _)| index)
                .min()
        };
        // Two records share each millisecond.
        assert_eq!(since(0), Some(3));
        assert_eq!(since(1_020), Some(40));
        assert_eq!(since(1_025), Some(51));
        assert_eq!(since(1_050), None);
        assert_eq!(store.history_reach().unwrap().unwrap().from_index, 3);
        assert_eq!(store.unreadable.lock().unwrap().len(), 20);
    }

    #[test]
    fn what_a_record_says_of_the_same_has_one_entry() {
        let events = events(7);
        let keys: Vec<UserKey> = entries(&events).into_iter().map(|(key, _)| key).collect();
        let count =
            |index: &str| keys.iter().filter(|key| key.starts_with(index.as_bytes())).count();
        assert_eq!(["e/", "y/", "j/", "t/", "n/"].map(count), [5, 3, 3, 5, 4]);
        let kind = entries(&events).into_iter().find(|(key, _)| key.starts_with(b"y/task.failed/"));
        let (key, others) = kind.unwrap();
        assert_eq!((&key[key.len() - 12..], &*others), (&place(7, 0)[..], &[0, 0, 0, 3][..]));
        assert_eq!(places(place(7, 0), &others), [place(7, 0), place(7, 3)]);
    }

    /// Gives events of a record entries of their own.
    fn part(store: &Store, events: &[Event]) {
        for (key, value) in events.iter().flat_map(|event| entries(std::slice::from_ref(event))) {
            store.history.insert(key, value).unwrap();
        }
    }

    #[test]
    fn a_part_of_a_record_that_is_taken_over_again_is_found_once() {
        let (_folder, store) = filled();
        let lists = ["n0", "n1", "n2", "n3"]
            .map(|node| ListEvents { node: Some(node.parse().unwrap()), ..ListEvents::default() });
        let whole = lists.clone().map(|list| found(&store, &list));
        for index in [1, 2, 50, 100] {
            part(&store, &events(index)[2..]);
        }
        assert_eq!(lists.clone().map(|list| found(&store, &list)), whole);
        let newest = lists.map(|list| found(&store, &ListEvents { newest: true, ..list }));
        assert_eq!(newest, whole);
    }

    #[test]
    fn a_store_of_the_third_layout_is_read_as_it_is() {
        let (folder, store) = filled();
        let list = ListEvents { job: Some("job-1".parse().unwrap()), ..ListEvents::default() };
        let whole = found(&store, &list);
        for guard in store.history.prefix("j/") {
            store.history.remove(guard.key().unwrap()).unwrap();
        }
        (1..=100).for_each(|index| part(&store, &events(index)));
        store.put_local("layout", b"3").unwrap();
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(found(&store, &list), whole);
        let layout = store.history.prefix("j/").count();
        assert_eq!(layout, 500, "it was left alone");
    }

    #[test]
    fn a_store_of_the_first_layout_gets_its_indexes() {
        // As it is, and half way to the layout of an earlier version.
        for marks in [&[("layout", "1")][..], &[("layout", "3"), ("upgrading", "1")]] {
            let (folder, store) = filled();
            let list = ListEvents { node: Some("n1".parse().unwrap()), ..ListEvents::default() };
            let whole = found(&store, &list);
            for guard in store.history.prefix("n/") {
                store.history.remove(guard.key().unwrap()).unwrap();
            }
            assert_eq!(found(&store, &list), []);
            for (key, value) in marks {
                store.put_local(key, value.as_bytes()).unwrap();
            }
            drop(store);
            let store = Store::open(folder.path()).unwrap();
            assert_eq!(found(&store, &list), whole);
        }
    }
}
