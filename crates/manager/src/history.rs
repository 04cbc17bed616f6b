//! The history of events: its keys and indexes, and how it is searched.
//!
//! Every event stands once, by its place in the log. Indexes by job, task, node and kind hold nothing but places.
//! A search walks the narrowest index that the question allows, and looks at the rest event by event.

use std::ops::Bound;
use std::sync::PoisonError;

use bytes::Bytes;
use longshore_proto::api::{ListEvents, PAGE_MAX};
use longshore_proto::codec;
use longshore_proto::event::{AUDIT, Event};
use longshore_proto::name::Namespace;
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

fn job_of(namespace: &Namespace, job: &longshore_proto::name::JobName) -> String {
    format!("{namespace}/{job}")
}

/// Everything that is stored of an event: itself, and its place in each index.
pub(crate) fn entries(event: &Event) -> Vec<(Vec<u8>, Vec<u8>)> {
    let at = place(event.index, event.ordinal);
    let mut keys = vec![index_key("y", &event.event_type, &at)];
    if let (Some(namespace), Some(job)) = (&event.namespace, &event.job) {
        keys.push(index_key("j", &job_of(namespace, job), &at));
    }
    if let Some(task) = event.task {
        keys.push(index_key("t", &task.to_string(), &at));
    }
    if let Some(node) = &event.node {
        keys.push(index_key("n", node.as_str(), &at));
    }
    let indexed = keys.into_iter().map(|key| (key, Vec::new()));
    std::iter::once((event_key(&at), codec::encode(event))).chain(indexed).collect()
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
            (ListEvents { task: Some(task), .. }, _) => index_key("t", &task.to_string(), &[]),
            (ListEvents { job: Some(job), .. }, Some(namespace)) => {
                index_key("j", &job_of(namespace, job), &[])
            }
            (ListEvents { node: Some(node), .. }, _) => index_key("n", node.as_str(), &[]),
            (ListEvents { event_type: Some(kind), .. }, _) if is_one_type(kind) => {
                index_key("y", kind, &[])
            }
            _ => EVENTS.to_vec(),
        };
        let since = list.since_ms.map(|at_ms| self.first_event_at(at_ms)).transpose()?;
        let until = list.until_ms.map(|at_ms| self.first_event_at(at_ms)).transpose()?;
        let start = after.max(since.map(|index| place(index, 0))).unwrap_or_default();
        let end = until.map_or([0xff; 12], |index| place(index, 0));
        if start > end {
            return Ok((Vec::new(), false));
        }
        let range = self.history.range([&*prefix, &start].concat()..=[&*prefix, &end].concat());
        let guards: Box<dyn Iterator<Item = fjall::Guard>> =
            if list.newest { Box::new(range.rev()) } else { Box::new(range) };
        let (mut events, mut more) = (Vec::new(), false);
        for guard in guards {
            let (key, value) = guard.into_inner()?;
            let at = key.get(prefix.len()..).unwrap_or_default();
            if after.is_some_and(|after| at == after) {
                continue;
            }
            let bytes =
                if prefix == EVENTS { Some(value) } else { self.history.get(event_key(at))? };
            let event = bytes.and_then(|bytes| self.read_event(&event_key(at), &bytes));
            let Some(event) = event.filter(|event| fits(event, namespace, list)) else { continue };
            more = events.len() == limit;
            if more {
                break;
            }
            events.push(event);
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

    fn event(index: u64, kind: &str, job: &str, node: &str) -> Event {
        let json = serde_json::json!({
            "index": index, "ordinal": 0, "at_ms": 1_000 + index / 2, "type": kind,
            "namespace": "default", "job": job, "node": node,
            "task": format!("01970000-0000-7000-8000-{index:012}"),
        });
        serde_json::from_value(json).unwrap()
    }

    fn filled() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut batch = Batch::default();
        for index in 1..=100 {
            let (job, node) = (format!("job-{}", index % 3), format!("n{}", index % 4));
            let kind =
                ["task.running", "task.failed", "audit.job"][usize::try_from(index % 3).unwrap()];
            batch.record(index, vec![0], Vec::<Write>::new(), &[event(index, kind, &job, &node)]);
        }
        store.commit(batch).unwrap();
        (folder, store)
    }

    fn indexes(store: &Store, list: &ListEvents) -> Vec<u64> {
        let namespace = Namespace::standard();
        let (events, _) = store.events(Some(&namespace), list).unwrap();
        events.iter().map(|event| event.index).collect()
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
        assert_eq!(all.len(), 100);
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
            let mut wanted: Vec<u64> = all
                .iter()
                .filter(|event| fits(event, Some(&namespace), &list))
                .map(|event| event.index)
                .collect();
            wanted.sort_unstable();
            assert_eq!(indexes(&store, &list), wanted, "{list:?}");
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
        let whole = indexes(&store, &ListEvents { limit: None, ..list.clone() });
        let mut paged = Vec::new();
        loop {
            let (events, more) = store.events(None, &list).unwrap();
            paged.extend(events.iter().map(|event| event.index));
            if !more {
                break;
            }
            list.after = events.last().map(|event| (event.index, event.ordinal));
        }
        assert_eq!(paged, whole);
        let newest = ListEvents { newest: true, limit: Some(2), after: None, ..list };
        assert_eq!(indexes(&store, &newest), whole[whole.len() - 2..]);
    }

    #[test]
    fn an_event_that_cannot_be_read_is_told_once_and_hides_no_other() {
        let (_folder, store) = filled();
        for index in [1, 2, 50, 100] {
            store.history.insert(event_key(&place(index, 0)), b"no event").unwrap();
        }
        let (events, more) = store.events_after(None, 1_000).unwrap();
        let read: Vec<u64> = events.iter().map(|(event, _)| event.index).collect();
        let wanted: Vec<u64> = (3..100).filter(|index| *index != 50).collect();
        assert_eq!((read, more), (wanted, false));
        let since = |at_ms| {
            let list = ListEvents { since_ms: Some(at_ms), ..ListEvents::default() };
            indexes(&store, &ListEvents { audit: true, ..list.clone() })
                .into_iter()
                .chain(indexes(&store, &list))
                .min()
        };
        // Two records share each millisecond.
        assert_eq!(since(0), Some(3));
        assert_eq!(since(1_020), Some(40));
        assert_eq!(since(1_025), Some(51));
        assert_eq!(since(1_050), None);
        assert_eq!(store.history_reach().unwrap().unwrap().from_index, 3);
        assert_eq!(store.unreadable.lock().unwrap().len(), 4);
    }

    #[test]
    fn a_store_of_the_first_layout_gets_its_indexes() {
        let (folder, store) = filled();
        let list = ListEvents { node: Some("n1".parse().unwrap()), ..ListEvents::default() };
        let whole = indexes(&store, &list);
        for guard in store.history.prefix("n/") {
            store.history.remove(guard.key().unwrap()).unwrap();
        }
        assert_eq!(indexes(&store, &list), Vec::<u64>::new());
        store.put_local("layout", b"1").unwrap();
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(indexes(&store, &list), whole);
    }
}
