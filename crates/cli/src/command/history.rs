//! `longshore job history` and `longshore job plan`: what versions of a job say, and what differs between them.

use std::collections::BTreeMap;

use longshore_proto::api::{JobVersion, ListEvents, PAGE_MAX};
use longshore_proto::event::Event;
use longshore_proto::permission::Role;
use longshore_proto::plan::WhatIf;
use longshore_proto::spec::JobSpec;
use longshore_proto::subject::Scope;
use serde_json::{Value, json};

use super::job::read_spec;
use crate::args::job::{History, Plan};
use crate::args::{Format, Global};
use crate::changes::{self, Change, Fields};
use crate::client::{Client, is_not_found};
use crate::failure::{Exit, Failure};
use crate::plan::outlook;
use crate::render::Printer;
use crate::table;

/// A version, and how it came to be.
struct Version {
    number: u64,
    is_current: bool,
    /// When it was stored and by whom, where the manager's history still has it.
    stored: Option<Stored>,
    /// What differs from the one before; nothing for the first that is remembered.
    changes: Option<Vec<Change>>,
}

/// When a version was stored, and by whom.
struct Stored {
    at_ms: u64,
    actor: Option<String>,
    /// Why, where the cluster did it by itself.
    reason: Option<String>,
}

impl From<Event> for Stored {
    fn from(event: Event) -> Self {
        let Event { at_ms, actor, reason, .. } = event;
        let manager = format!("{}/", Role::Manager);
        let is_own = actor.as_ref().is_some_and(|actor| actor.starts_with(&manager));
        Self { at_ms, actor, reason: reason.filter(|_| is_own) }
    }
}

/// Shows a job's versions.
pub(crate) async fn run(
    client: &Client,
    wish: &History,
    printer: Printer,
) -> Result<Exit, Failure> {
    let name = &wish.name;
    let problem = |error| Failure::asked(format_args!("show the versions of {name}"), &error);
    let newest = client.job_version(name, wish.of_version).await.map_err(problem)?;
    if wish.of_version.is_some() {
        return one(&newest, wish, printer);
    }
    let question = ListEvents {
        job: Some(name.clone()),
        event_type: Some("job.submitted".into()),
        newest: true,
        limit: Some(PAGE_MAX),
        ..ListEvents::default()
    };
    let scope = Scope::Namespace(client.namespace().clone());
    let (_, events) = client.events(scope, &question).await.map_err(problem)?;
    let mut stored: BTreeMap<u64, Stored> = events
        .items
        .into_iter()
        .filter_map(|event| Some((event.version?, Stored::from(event))))
        .collect();
    let mut versions = Vec::new();
    let mut before: Option<Fields> = None;
    for number in newest.versions {
        let said = match client.job_version(name, Some(number)).await {
            Ok(said) => said,
            // It was forgotten since the list was made.
            Err(error) if is_not_found(&error) => continue,
            Err(error) => return Err(problem(error)),
        };
        let fields = fields(Some(&said.job))?;
        let changes = before.map(|before| changes::between(&before, &fields, wish.show_env));
        let (is_current, stored) = (number == newest.version, stored.remove(&number));
        versions.push(Version { number, is_current, stored, changes });
        before = Some(fields);
    }
    match wish.output {
        Format::Json => printer.json(&versions.iter().map(Version::json).collect::<Vec<_>>())?,
        Format::Table => printer.data(&text(&versions))?,
    }
    Ok(Exit::Done)
}

/// Everything that one version says.
fn one(said: &JobVersion, wish: &History, printer: Printer) -> Result<Exit, Failure> {
    let rows = fields(Some(&said.job))?.rows(wish.show_env);
    match wish.output {
        Format::Json => {
            let fields = rows.into_iter().filter_map(|row| {
                let [field, value] = <[String; 2]>::try_from(row).ok()?;
                Some((field, Value::String(value)))
            });
            let fields: serde_json::Map<_, _> = fields.collect();
            printer.json(&json!({ "version": said.version, "fields": fields }))?;
        }
        Format::Table => printer.data(&table::lines(&["FIELD", "VALUE"], rows, None))?,
    }
    Ok(Exit::Done)
}

fn fields(job: Option<&JobSpec>) -> Result<Fields, Failure> {
    Fields::of(job)
        .map_err(|error| Failure::new("a version of the job cannot be shown").cause(&error))
}

impl Version {
    fn json(&self) -> Value {
        json!({
            "version": self.number,
            "current": self.is_current,
            "submitted_at": self.stored.as_ref().map(|stored| table::time(stored.at_ms)),
            "actor": self.stored.as_ref().and_then(|stored| stored.actor.as_deref()),
            "reason": self.stored.as_ref().and_then(|stored| stored.reason.as_deref()),
            "changes": self.changes,
        })
    }
}

/// The newest first, each change in a line of its own.
fn text(versions: &[Version]) -> String {
    let nothing = || "-".to_owned();
    let mut rows = Vec::new();
    for version in versions.iter().rev() {
        let lines = match &version.changes {
            None => vec!["the first that is remembered".to_owned()],
            Some(changes) if changes.is_empty() => vec!["nothing differs".to_owned()],
            Some(changes) => changes.iter().map(Change::line).collect(),
        };
        let stored = version.stored.as_ref();
        let reason = stored.and_then(|stored| stored.reason.as_deref()).map(table::one_line);
        let lines = reason.into_iter().chain(lines);
        let mark = if version.is_current { " (now)" } else { "" };
        let mut head = vec![
            format!("{}{mark}", version.number),
            stored.map_or_else(nothing, |stored| table::time(stored.at_ms)),
            stored.and_then(|stored| stored.actor.clone()).unwrap_or_else(nothing),
        ];
        for line in lines {
            head.push(line);
            rows.push(std::mem::replace(&mut head, vec![String::new(); 3]));
        }
    }
    table::lines(&["VERSION", "WHEN", "WHO", "WHAT"], rows, None)
}

/// Says what a job file would change.
pub(crate) async fn plan(global: &Global, wish: &Plan, printer: Printer) -> Result<Exit, Failure> {
    let job = read_spec(global, &wish.file)?;
    let client = Client::connect(global, printer).await?.in_namespace(job.namespace.clone());
    let problem =
        |error| Failure::asked(format_args!("compare {} with what is there", job.name), &error);
    let present = match client.job_version(&job.name, None).await {
        Ok(present) => Some(present),
        Err(error) if is_not_found(&error) => None,
        Err(error) => return Err(problem(error)),
    };
    let has_ended = match &present {
        Some(_) => client.job(&job.name).await.map_err(problem)?.status.is_terminal(),
        None => false,
    };
    let before = present.as_ref().map(|present| &present.job);
    let after = job.clone().resolve().following(before);
    let changes = changes::between(&fields(before)?, &fields(Some(&after))?, wish.show_env);
    let question = WhatIf::Submit { job: Box::new(job.clone()) };
    let answer = client.whatif(&question).await.map_err(problem)?;
    // The order of parts is no field, and yet makes a version.
    let would_change = has_ended || before.is_none_or(|before| *before != after);
    match wish.output {
        Format::Json => {
            let version = present.as_ref().map(|present| present.version);
            printer.json(&json!({
                "job": job.name.as_str(),
                "version": version,
                "would_change": would_change,
                "would_run_again": has_ended,
                "changes": changes,
                "outlook": outlook::json(&answer),
            }))?;
        }
        Format::Table => {
            match (&present, has_ended) {
                (None, _) => printer.line(&format!("{} is new", job.name))?,
                (Some(_), true) => {
                    printer.line(&format!("{} has ended, and would run again", job.name))?
                }
                (Some(_), false) => {}
            }
            // Of a job that is new everything is: its file says that better.
            for change in changes.iter().filter(|_| present.is_some()) {
                printer.line(&change.line())?;
            }
            if would_change && changes.is_empty() && !has_ended {
                printer.line("~ the order of its parts")?;
            }
            if would_change {
                printer.data(&format!("\n{}", outlook::text(&answer)))?;
            } else {
                printer.talk("nothing would change");
            }
        }
    }
    Ok(if would_change { Exit::WouldChange } else { Exit::Done })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_shown_newest_first_with_each_change_on_its_own_line() {
        let change = |field: &str| Change {
            field: field.into(),
            before: Some("1".into()),
            after: Some("2".into()),
        };
        let stored = |actor: &str, reason: &str| {
            let mut event = Event::bare(1, 0, 1_763_800_000_000, "job.submitted");
            (event.actor, event.reason) = (Some(actor.into()), Some(reason.into()));
            Stored::from(event)
        };
        let versions = [
            Version { number: 1, is_current: false, stored: None, changes: None },
            Version {
                number: 2,
                is_current: true,
                stored: Some(stored("operator/ann", "version 2")),
                changes: Some(vec![change("main.image"), change("main.instances")]),
            },
            Version {
                number: 3,
                is_current: false,
                stored: Some(stored("manager/m1 (version 2 has failed)", "version 3: back")),
                changes: Some(vec![change("main.image")]),
            },
        ];
        let shown = text(&versions);
        let lines: Vec<Vec<&str>> =
            shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][0], "3");
        assert_eq!(lines[1][lines[1].len() - 3..], ["version", "3:", "back"]);
        assert_eq!(lines[2], ["~", "main.image:", "1", "->", "2"]);
        assert_eq!(lines[3][..2], ["2", "(now)"]);
        assert!(lines[3].contains(&"operator/ann") && lines[3].contains(&"main.image:"));
        assert_eq!(lines[4], ["~", "main.instances:", "1", "->", "2"]);
        assert_eq!(lines[5][..3], ["1", "-", "-"]);
        let value = versions[1].json();
        assert_eq!(value["submitted_at"], "2025-11-22T08:26:40.000Z");
        assert_eq!(value["changes"][0]["after"], "2");
        assert_eq!(versions[0].json()["changes"], Value::Null);
    }
}
