//! Events: nobody hears of what is not committed, the stream has no gap, and nothing is missing in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use longshore_core::cluster::state::Meta;
use longshore_core::leadership::publish::{Names, Place};
use longshore_proto::event::Event;

use super::{Violation, violated};
use crate::disk::ManagerContent;
use crate::jetstream::EventMessage;

/// What is remembered of events.
#[derive(Debug, Default)]
pub struct Events {
    /// Each event that ever was committed, by its message id: the id of the one before it.
    known: BTreeMap<String, Option<String>>,
    /// The events of the log as it is.
    history: BTreeMap<Place, Rc<Event>>,
    /// Those of them that the stream is to hold: their ids.
    due: BTreeMap<Place, String>,
    /// How often the stream holds each message id.
    stream: BTreeMap<String, u32>,
    /// Those that are due and that the stream does not hold.
    missing: BTreeSet<Place>,
}

impl Events {
    /// A record is committed.
    pub fn committed(&mut self, meta: &Meta, events: Vec<Event>) {
        let Some(names) = Names::of(meta) else { return };
        for event in events {
            let place = (event.index, event.ordinal);
            if event.subject().is_some() {
                let id = names.id(place);
                let before = self.due.last_key_value().map(|(_, id)| id.clone());
                self.known.insert(id.clone(), before);
                if !self.stream.contains_key(&id) {
                    self.missing.insert(place);
                }
                self.due.insert(place, id);
            }
            self.history.insert(place, Rc::new(event));
        }
    }

    /// The records are told once more.
    pub fn forget(&mut self) {
        self.history.clear();
        self.due.clear();
        self.missing.clear();
    }

    /// V-1, V-2: what the stream has stored was committed, and follows what was committed before it.
    pub fn stored(&mut self, message: &EventMessage) -> Result<(), Violation> {
        let EventMessage { id, place, .. } = message;
        let Some(before) = self.known.get(id) else {
            return violated("V-1", format!("event {id} is published and was never committed"));
        };
        if let Some(before) = before.as_ref().filter(|before| !self.stream.contains_key(*before)) {
            return violated(
                "V-2",
                format!("event {id} is published, and {before} before it is not"),
            );
        }
        self.has_stored(id, place);
        Ok(())
    }

    /// Notes what the stream has stored.
    pub fn has_stored(&mut self, id: &str, place: &Place) {
        *self.stream.entry(id.to_owned()).or_default() += 1;
        if self.due.get(place).is_some_and(|due| due == id) {
            self.missing.remove(place);
        }
    }

    /// The stream has lost some: it holds these.
    pub fn lost<'a>(&mut self, left: impl Iterator<Item = &'a str>) {
        self.stream.clear();
        for id in left {
            *self.stream.entry(id.to_owned()).or_default() += 1;
        }
        let is_missing = |(_, id): &(&Place, &String)| !self.stream.contains_key(*id);
        self.missing = self.due.iter().filter(is_missing).map(|(place, _)| *place).collect();
    }

    /// E-5: the stream holds everything.
    pub fn published(&self) -> Result<(), Violation> {
        match self.missing.first() {
            Some((index, ordinal)) => violated(
                "E-5",
                format!(
                    "{} events are not in the stream, the first of them event {ordinal} of record {index}",
                    self.missing.len()
                ),
            ),
            None => Ok(()),
        }
    }

    /// V-3: a manager's history holds every event from its first one on.
    pub fn kept(&self, number: usize, content: &ManagerContent) -> Result<(), Violation> {
        let Some((first, _)) = content.history.first_key_value() else { return Ok(()) };
        let last = (content.meta().index, u32::MAX);
        for (place, event) in self.history.range(*first..=last) {
            if content.history.get(place).is_none_or(|kept| kept != event) {
                let (index, ordinal) = place;
                return violated(
                    "V-3",
                    format!("m{number}'s history lacks event {ordinal} of record {index}"),
                );
            }
        }
        let kept = content.history.range(*first..=last).count();
        if kept == self.history.range(*first..=last).count() {
            return Ok(());
        }
        violated("V-3", format!("m{number}'s history holds events that no record has"))
    }
}
