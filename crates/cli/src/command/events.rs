//! `longshore events`: what happened, and what happens.
//!
//! Following stands on two legs. Live messages come at once, and core NATS may lose any of them; so every few
//! seconds the manager's history is read on from the last place up to which everything is known to be
//! printed. An event is printed once, by its place in the log; after a healing or a restore places come again, with
//! other events, and the times of those that come live tell.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use longshore_bus::Incoming;
use longshore_proto::api::{ListEvents, PAGE_MAX, Page};
use longshore_proto::codec;
use longshore_proto::event::{AUDIT, Event};
use longshore_proto::name::Namespace;
use longshore_proto::permission::Role;
use longshore_proto::subject::{Pattern, Scope};
use tokio::time::MissedTickBehavior;
use tracing::warn;

use crate::args::{Format, cluster::Events};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::json::EventLine;
use crate::render::Printer;
use crate::signal;
use crate::table;

/// How often the history is read on while following.
const CATCH_UP_INTERVAL: Duration = Duration::from_secs(3);
/// How many places an observer remembers, to know what comes twice.
const SEEN_MAX: usize = 10_000;

/// Prints events.
pub(crate) async fn run(client: &Client, wish: &Events, printer: Printer) -> Result<Exit, Failure> {
    let task = match &wish.task {
        Some(id) => {
            let found = client.task(id).await;
            let problem = |error| Failure::asked(format_args!("find the task {id}"), &error);
            Some(found.map_err(problem)?.id)
        }
        None => None,
    };
    if let (Some(since), Some(until)) = (wish.since, wish.until)
        && since >= until
    {
        let text = format!(
            "nothing can be since {} and before {}",
            table::time(since),
            table::time(until)
        );
        let hint = "--since is the earlier of the two: --since 2h --until 1h is the hour before the last one";
        return Err(Failure::new(text).hint(hint).exit(Exit::Usage));
    }
    let wanted = Wanted {
        namespace: (!wish.all_namespaces).then(|| client.namespace().clone()),
        list: ListEvents {
            job: wish.job.clone(),
            task,
            node: wish.node.clone(),
            event_type: wish.event_type.as_deref().map(|kind| full_type(kind, wish.audit)),
            since_ms: wish.since,
            until_ms: wish.until,
            audit: wish.audit,
            ..ListEvents::default()
        },
    };
    if !wish.follow {
        let past = past(client, &wanted, wish, printer).await?;
        explain(client, wish, &past, printer).await;
        return Ok(Exit::Done);
    }
    let following = async {
        if client.bus().role() == Role::Observer {
            observe(client, &wanted, wish.output, printer).await
        } else {
            follow(client, &wanted, wish, printer).await
        }
    };
    tokio::select! {
        outcome = following => outcome,
        () = signal::interrupted() => Ok(Exit::Done),
    }
}

async fn follow(
    client: &Client,
    wanted: &Wanted,
    wish: &Events,
    printer: Printer,
) -> Result<Exit, Failure> {
    // Listening starts before the history is read, so that nothing falls between the two.
    let mut live = client.bus().subscribe(&Pattern::Events).await?.fuse();
    let mut progress = past(client, wanted, wish, printer).await?.progress;
    let mut ticks = tokio::time::interval(CATCH_UP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // At most one page of the history is under way; what comes live does not wait for it.
    let mut pages = FuturesUnordered::new();
    let mut silent = false;
    loop {
        tokio::select! {
            incoming = live.select_next_some() => {
                let Some(event) = read(&incoming) else { continue };
                if progress.begins_again(&event) {
                    // No manager can show what was seen of the past that was left; what was asked for is of further on.
                    client.bus().went_back(event.index);
                    pages.clear();
                }
                if wanted.fits(&event) && progress.is_new(&event) {
                    print(&event, wish.output, printer)?;
                }
            }
            _ = ticks.tick(), if pages.is_empty() => {
                pages.push(page_after(client, wanted, progress.complete_to));
            }
            Some(page) = pages.next() => match page {
                Ok(page) => {
                    let before = progress.complete_to;
                    for event in &page.items {
                        if progress.is_next(event) {
                            print(event, wish.output, printer)?;
                        }
                    }
                    if page.more && progress.complete_to != before {
                        pages.push(page_after(client, wanted, progress.complete_to));
                    }
                    if std::mem::take(&mut silent) {
                        printer.talk("the manager answers again");
                    }
                }
                Err(failure) if !silent => {
                    silent = true;
                    printer.failure(&failure);
                    printer.talk("going on with what comes; what is missed is printed when the manager answers");
                }
                Err(_) => {}
            },
        }
    }
}

/// What was printed of the past.
struct Printed {
    progress: Progress,
    /// How many events that were.
    count: usize,
    /// Whether older ones fit, too.
    more: bool,
}

/// Prints what is wanted of the past.
async fn past(
    client: &Client,
    wanted: &Wanted,
    wish: &Events,
    printer: Printer,
) -> Result<Printed, Failure> {
    if !wish.all {
        let (Page { items: events, more }, index) = newest(client, wanted, wish.number).await?;
        // An answer holds one event at least, even if none is to be printed.
        let skipped = events.len().saturating_sub(wish.number as usize);
        for event in events.iter().skip(skipped) {
            print(event, wish.output, printer)?;
        }
        let count = events.len() - skipped;
        let more = more || skipped > 0;
        return Ok(Printed { progress: Progress::after(&events, index), count, more });
    }
    let (mut progress, mut count) = (Progress::from_the_beginning(), 0);
    loop {
        let page = page_after(client, wanted, progress.complete_to).await?;
        for event in &page.items {
            if progress.is_next(event) {
                print(event, wish.output, printer)?;
                count += 1;
            }
        }
        if !page.more || page.items.is_empty() {
            return Ok(Printed { progress, count, more: false });
        }
    }
}

/// Says what the lines alone do not: that there are none, that there are more, or that more is not remembered.
async fn explain(client: &Client, wish: &Events, past: &Printed, printer: Printer) {
    if past.more {
        printer.talk(&format!(
            "these are the newest {}; older ones fit, too: -n COUNT prints more, --all prints every one",
            past.count
        ));
        return;
    }
    if past.count == 0 {
        let asks_for_type = wish.event_type.is_some();
        let types = if asks_for_type {
            "; types are such as task.failed, job.submitted, node.lost and cluster.alarm, or with --audit job.stop and node.drain"
        } else {
            ""
        };
        printer.talk(&format!("no event fits{types}"));
    }
    // An observer may not ask; a manager that does not answer any more has said the rest.
    let (Some(since), Ok(cluster)) = (wish.since, client.cluster().await) else { return };
    if let Some(reach) =
        cluster.history.filter(|reach| reach.from_index > 1 && reach.from_ms > since)
    {
        printer.talk(&format!(
            "the managers remember what happened since {} (index {}): what was before is not in their history",
            table::time(reach.from_ms),
            reach.from_index
        ));
    }
}

/// The type as events have it. Those that say who asked for what may be named by the verb alone: `job.stop`.
fn full_type(kind: &str, audit: bool) -> String {
    let is_full = kind.starts_with(AUDIT) || kind == AUDIT.trim_end_matches('.');
    if audit && !is_full { format!("{AUDIT}{kind}") } else { kind.to_owned() }
}

/// An observer hears events, and may not ask the manager for those that it missed.
async fn observe(
    client: &Client,
    wanted: &Wanted,
    format: Format,
    printer: Printer,
) -> Result<Exit, Failure> {
    let mut live = client.bus().subscribe(&Pattern::Events).await?.fuse();
    let mut progress = Progress::after(&[], 0);
    printer.talk("an observer hears what happens from now on; what is lost on the way stays so");
    loop {
        let incoming = live.select_next_some().await;
        let Some(event) = read(&incoming) else { continue };
        progress.begins_again(&event);
        if wanted.fits(&event) && progress.is_new(&event) {
            print(&event, format, printer)?;
        }
        progress.forget_all_but(SEEN_MAX);
    }
}

/// An event that came; `None`, and a line in the log, for anything else.
fn read(incoming: &Incoming) -> Option<Event> {
    match codec::decode::<Event>(&incoming.payload) {
        Ok(event) => Some(event),
        Err(error) => {
            warn!(subject = incoming.subject_text(), %error, "an event that cannot be read");
            None
        }
    }
}

/// The last events, oldest first, and the index of the log that they reflect.
async fn newest(
    client: &Client,
    wanted: &Wanted,
    number: u32,
) -> Result<(Page<Event>, u64), Failure> {
    let limit = Some(number.min(PAGE_MAX));
    let question = ListEvents { newest: true, limit, ..wanted.list.clone() };
    let (index, page) = client
        .events(wanted.scope(), &question)
        .await
        .map_err(|error| Failure::asked("list the events", &error))?;
    Ok((page, index))
}

/// The history on from a place.
async fn page_after(
    client: &Client,
    wanted: &Wanted,
    after: Place,
) -> Result<Page<Event>, Failure> {
    let question = ListEvents { after: Some(after), limit: Some(PAGE_MAX), ..wanted.list.clone() };
    let answer = client.events(wanted.scope(), &question).await;
    Ok(answer.map_err(|error| Failure::asked("read the events on", &error))?.1)
}

fn print(event: &Event, format: Format, printer: Printer) -> Result<(), Failure> {
    match format {
        Format::Json => printer.json_line(&EventLine::from(event)),
        Format::Table => printer.line(&table::event(event)),
    }
}

/// Which events are wanted.
#[derive(Debug)]
struct Wanted {
    /// Those of one namespace, and those of no namespace at all; absent means everything.
    namespace: Option<Namespace>,
    /// What else; its place and number are not looked at here.
    list: ListEvents,
}

impl Wanted {
    fn scope(&self) -> Scope {
        self.namespace.clone().map_or(Scope::Cluster, Scope::Namespace)
    }

    fn fits(&self, event: &Event) -> bool {
        let elsewhere = self.namespace.is_some() && event.namespace.is_some();
        (!elsewhere || event.namespace == self.namespace) && self.list.fits(event)
    }
}

/// An event's place in the history.
type Place = (u64, u32);

fn place(event: &Event) -> Place {
    (event.index, event.ordinal)
}

/// What has been printed: everything up to a place, and some beyond it.
#[derive(Debug)]
struct Progress {
    complete_to: Place,
    beyond: BTreeSet<Place>,
    /// The time of the newest of these, in Unix milliseconds; zero while there is none.
    last_at_ms: u64,
}

impl Progress {
    /// Everything up to the last of these has been printed; without any, up to what the answer reflects.
    fn after(events: &[Event], index: u64) -> Self {
        let complete_to = events.last().map_or((index, u32::MAX), place);
        let last_at_ms = events.last().map_or(0, |event| event.at_ms);
        Self { complete_to, beyond: BTreeSet::new(), last_at_ms }
    }

    /// Nothing has been printed.
    fn from_the_beginning() -> Self {
        Self { complete_to: (0, 0), beyond: BTreeSet::new(), last_at_ms: 0 }
    }

    /// Whether an event that came live tells that the cluster goes on from a place before, since a log was healed or a
    /// cluster restored: what was printed from that place on was of a past that was left.
    ///
    /// Within one past times never fall from place to place. So an event that is newer than everything printed, in a
    /// place no further on, is of another past; one of the same past that is published again is no newer. Where the clock
    /// of the new leader is behind, the events of as long as it is behind are taken for published again, and missed.
    fn begins_again(&mut self, event: &Event) -> bool {
        let place = place(event);
        let last = self.beyond.last().map_or(self.complete_to, |last| self.complete_to.max(*last));
        if place > last || event.at_ms <= self.last_at_ms {
            return false;
        }
        let (index, ordinal) = place;
        let before = ordinal
            .checked_sub(1)
            .map_or_else(|| (index.saturating_sub(1), u32::MAX), |before| (index, before));
        self.complete_to = self.complete_to.min(before);
        self.beyond.retain(|beyond| *beyond < place);
        true
    }

    /// Whether a live event has not been printed yet; from now on it has.
    fn is_new(&mut self, event: &Event) -> bool {
        let place = place(event);
        self.last_at_ms = self.last_at_ms.max(event.at_ms);
        place > self.complete_to && self.beyond.insert(place)
    }

    /// Forgets all but the newest: for who can never ask what lies between.
    fn forget_all_but(&mut self, count: usize) {
        while self.beyond.len() > count {
            if let Some(oldest) = self.beyond.pop_first() {
                self.complete_to = oldest;
            }
        }
    }

    /// The same as [`Progress::is_new`] for the next event of the history, before which nothing is missing.
    fn is_next(&mut self, event: &Event) -> bool {
        let place = place(event);
        self.last_at_ms = self.last_at_ms.max(event.at_ms);
        let new = place > self.complete_to && !self.beyond.contains(&place);
        self.complete_to = self.complete_to.max(place);
        self.beyond.retain(|beyond| *beyond > place);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(index: u64, ordinal: u32, job: Option<&str>) -> Event {
        Event {
            namespace: job.map(|_| Namespace::standard()),
            job: job.map(|job| job.parse().unwrap()),
            ..Event::bare(index, ordinal, 0, "task.running")
        }
    }

    /// An event of a time in milliseconds.
    fn at(index: u64, ordinal: u32, at_ms: u64) -> Event {
        Event::bare(index, ordinal, at_ms, "task.running")
    }

    #[test]
    fn each_event_is_printed_once_whatever_is_lost_or_doubled() {
        let mut progress = Progress::after(&[event(5, 0, None), event(5, 1, None)], 9);
        assert!(!progress.is_new(&event(5, 1, None)), "the history had it");
        assert!(progress.is_new(&event(7, 0, None)), "6 was lost on the way");
        assert!(!progress.is_new(&event(7, 0, None)), "published again by the next leader");
        assert!(progress.is_next(&event(6, 0, None)), "the history brings it");
        assert!(!progress.is_next(&event(7, 0, None)));
        assert!(progress.is_next(&event(7, 1, None)));
        assert!(!progress.is_new(&event(6, 0, None)), "it came late after all");
        assert!(progress.beyond.is_empty());
        assert_eq!(progress.complete_to, (7, 1));
    }

    #[test]
    fn what_happens_after_the_log_was_healed_is_printed_though_its_places_come_again() {
        let mut progress = Progress::after(&[at(90, 0, 900)], 90);
        for further in [at(91, 0, 910), at(120, 3, 1_200)] {
            assert!(!progress.begins_again(&further) && progress.is_next(&further));
        }
        for further in [at(130, 0, 1_300), at(131, 0, 1_310)] {
            assert!(!progress.begins_again(&further) && progress.is_new(&further));
        }
        let first = at(125, 0, 2_000);
        assert!(progress.begins_again(&first), "healed to 124, beyond what the history had");
        assert!(progress.is_new(&first));
        assert_eq!((progress.complete_to, progress.beyond.len()), ((120, 3), 1));
        let first = at(101, 2, 3_000);
        assert!(progress.begins_again(&first), "and once more");
        assert_eq!(progress.complete_to, (101, 1));
        assert!(progress.is_new(&first));
        let further = at(103, 1, 3_020);
        assert!(!progress.begins_again(&further) && progress.is_new(&further));
        assert!(progress.is_next(&at(102, 0, 3_010)), "lost on the way, and the history brings it");
        // The end of the past that all have in common may be published again.
        assert!(!progress.begins_again(&at(99, 0, 990)) && !progress.is_new(&at(99, 0, 990)));
    }

    #[test]
    fn the_first_event_heard_may_already_be_of_another_past() {
        let mut progress = Progress::after(&[at(130, 0, 1_300)], 130);
        let first = at(101, 0, 2_000);
        assert!(progress.begins_again(&first) && progress.is_new(&first));
        assert!(!progress.begins_again(&first) && !progress.is_new(&first), "doubled");
        // Nothing wanted was in the history.
        let mut progress = Progress::after(&[], 130);
        assert!(progress.begins_again(&first) && progress.is_new(&first));
    }

    #[test]
    fn what_a_restored_cluster_publishes_again_is_printed_once() {
        // A backup came onto a fresh server: its history is published while it is read, with that of a healing in it.
        let mut progress = Progress::from_the_beginning();
        for index in 1..=150 {
            assert!(progress.is_next(&at(index, 0, index * 10)));
        }
        for index in 99..=150 {
            let again = at(index, 0, index * 10);
            assert!(!progress.begins_again(&again) && !progress.is_new(&again), "{index}");
        }
        let further = at(151, 0, 1_500);
        assert!(!progress.begins_again(&further) && progress.is_new(&further));
    }

    #[test]
    fn a_new_leader_whose_clock_is_behind_is_missed_until_it_has_caught_up() {
        let mut progress = Progress::after(&[at(130, 0, 1_300)], 130);
        let early = at(101, 0, 1_250);
        assert!(!progress.begins_again(&early) && !progress.is_new(&early));
        let later = at(104, 0, 1_301);
        assert!(progress.begins_again(&later) && progress.is_new(&later));
    }

    #[test]
    fn an_empty_history_starts_at_what_the_answer_reflects() {
        let mut progress = Progress::after(&[], 9);
        assert!(!progress.is_new(&event(9, 3, None)));
        assert!(progress.is_new(&event(10, 0, None)));
    }

    #[test]
    fn an_audit_is_named_by_its_verb_or_in_full() {
        assert_eq!(full_type("job.stop", true), "audit.job.stop");
        assert_eq!(full_type("job", true), "audit.job");
        for kind in ["audit", "audit.job", "audit.job.stop"] {
            assert_eq!(full_type(kind, true), kind);
        }
        assert_eq!(full_type("job.stopped", false), "job.stopped");
    }

    #[test]
    fn only_what_is_wanted_fits() {
        let all = Wanted { namespace: None, list: ListEvents::default() };
        assert!(all.fits(&event(1, 0, None)) && all.fits(&event(1, 0, Some("web"))));
        let list = ListEvents { job: Some("web".parse().unwrap()), ..ListEvents::default() };
        let web = Wanted { namespace: Some(Namespace::standard()), list };
        assert!(web.fits(&event(1, 0, Some("web"))));
        assert!(!web.fits(&event(1, 0, Some("db"))) && !web.fits(&event(1, 0, None)));
        let team =
            Wanted { namespace: Some("team-a".parse().unwrap()), list: ListEvents::default() };
        assert!(team.fits(&event(1, 0, None)), "a node's event is everybody's");
        assert!(!team.fits(&event(1, 0, Some("web"))));
    }
}
