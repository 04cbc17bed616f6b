//! The history to the event stream, as `events.rs` of the manager does. How far the stream goes, and what is published
//! next, is the core's to say.

use std::ops::Bound;

use longshore_core::leadership::publish::{Names, Place, Progress};

use super::{ACK_TIMEOUT, Context, Manager, Output, Purpose, READ_TIMEOUT, Timer};
use crate::jetstream::{EventMessage, Request, Response};
use crate::sabotage::Sabotage;
use crate::time::MS;

const PUBLISH_RETRY_DELAY: u64 = 500 * MS;

/// How far a leader is with publishing.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    progress: Option<Progress>,
    step: Step,
    /// How many connections there had been when it last looked.
    connections: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Idle,
    Looking,
    Sending {
        last: Place,
        messages: u64,
    },
    /// It waits for the next try.
    Waiting,
}

impl Manager {
    /// A reign begins.
    pub(super) fn publish_from_now(&mut self, ctx: &mut Context<'_>) {
        let meta = self.cluster.as_ref().map(|cluster| &cluster.state().meta);
        self.publishing = Publishing {
            progress: meta.and_then(Names::of).map(Progress::new),
            step: Step::Idle,
            connections: self.connections,
        };
        self.publish(ctx);
    }

    /// Publishes what the history holds, if nothing is under way.
    pub(super) fn publish(&mut self, ctx: &mut Context<'_>) {
        let Publishing { progress: Some(progress), step, connections } = &mut self.publishing
        else {
            return;
        };
        if !self.listening || *step != Step::Idle {
            return;
        }
        if *connections != self.connections {
            *connections = self.connections;
            progress.lose();
        }
        if progress.is_lost() {
            *step = Step::Looking;
            return self.ask(Request::EventsEnd, READ_TIMEOUT, Purpose::Events, ctx);
        }
        let after = progress.after().map_or(Bound::Unbounded, Bound::Excluded);
        let history = &ctx.disk.content().history;
        let page: Vec<_> =
            history.range((after, Bound::Unbounded)).take(progress.batch()).collect();
        let Some((last, _)) = page.last() else { return };
        let known = page.iter().filter(|(_, event)| event.subject().is_some());
        let places: Vec<Place> = known.map(|(place, _)| **place).collect();
        let is_unchained = ctx.sabotage == Some(Sabotage::PublishUnchained);
        let message = |(place, (id, expected)): (&Place, _)| {
            let expected = (!is_unchained).then_some(expected);
            EventMessage { id, place: *place, expected }
        };
        let named = progress.messages(places.iter().copied());
        let mut messages: Vec<_> = places.iter().zip(named).map(message).collect();
        if ctx.sabotage == Some(Sabotage::InventEvents) && messages.len() > 1 {
            let invented = progress.messages(std::iter::once((last.0 + 1_000, 0)));
            messages.extend(invented.into_iter().map(|(id, _)| EventMessage {
                id,
                place: (last.0 + 1_000, 0),
                expected: None,
            }));
        }
        *step = Step::Sending { last: **last, messages: messages.len() as u64 };
        if messages.is_empty() {
            let response = Response::Stored { sequence: 0, duplicate: false };
            return self.published(Some(response), ctx);
        }
        self.ask(Request::Publish(messages), ACK_TIMEOUT, Purpose::Events, ctx);
    }

    /// JetStream has answered, or has not.
    pub(super) fn published(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        let Publishing { progress: Some(progress), step, .. } = &mut self.publishing else {
            return;
        };
        match (std::mem::take(step), response) {
            (Step::Looking, Some(Response::EventsEnd(end))) => progress.found(&end),
            (Step::Sending { last, messages }, Some(Response::Stored { sequence, duplicate })) => {
                progress.published(last, messages, sequence, duplicate)
            }
            (Step::Sending { .. }, Some(Response::WrongLast)) => {
                progress.refused();
                return self.publish_later(ctx);
            }
            (Step::Looking, _) => return self.publish_later(ctx),
            (Step::Sending { .. }, _) => {
                progress.lose();
                return self.publish_later(ctx);
            }
            (step @ (Step::Idle | Step::Waiting), _) => return self.publishing.step = step,
        }
        self.publish(ctx);
    }

    fn publish_later(&mut self, ctx: &mut Context<'_>) {
        self.publishing.step = Step::Waiting;
        ctx.out.push(Output::Wake(ctx.now + PUBLISH_RETRY_DELAY, Timer::Publish(self.opened)));
    }

    /// The wait before another try is over.
    pub(super) fn publish_again(&mut self, ctx: &mut Context<'_>) {
        if self.publishing.step == Step::Waiting {
            self.publishing.step = Step::Idle;
            self.publish(ctx);
        }
    }
}
