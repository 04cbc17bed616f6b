//! `longshore restart`, `longshore job scale` and `longshore job rollback`: what makes a job's next version out of one
//! that is there.

use longshore_bus::AskError;
use longshore_proto::api::{JobSubmitted, RestartJob, RollBackJob, ScaleJob, TaskStopped};
use longshore_proto::subject::ApiVerb;

use crate::args::job::{RollBack, Scale};
use crate::args::task::Restart;
use crate::client::{Client, is_id_beginning, is_not_found, nothing_named};
use crate::failure::{Exit, Failure};
use crate::parse::{self, PartOfJob};
use crate::render::Printer;
use crate::several::Several;
use crate::wait::{self, Until};

/// Restarts jobs by name, tasks by id.
pub(crate) async fn restart(
    client: &Client,
    wish: &Restart,
    printer: Printer,
) -> Result<Exit, Failure> {
    let mut several = Several::new(printer);
    let mut restarting = Vec::new();
    for word in &wish.names {
        let restarted = several.take(restart_one(client, word, printer).await);
        restarting.extend(restarted.flatten());
    }
    if wish.wait {
        for JobSubmitted { name, version, .. } in restarting {
            let ended = wait::for_job(client, printer, &name, version, Until::Done).await;
            if !several.waited(ended) {
                break;
            }
        }
    }
    several.end()
}

async fn restart_one(
    client: &Client,
    word: &str,
    printer: Printer,
) -> Result<Option<JobSubmitted>, Failure> {
    if let Ok(PartOfJob { job: name, part: spec }) = parse::part_of_job(word) {
        let is_part = spec.is_some();
        match client.revise_job(ApiVerb::JobRestart, &RestartJob { name, spec }).await {
            Ok(job) => {
                printer.talk(&format!(
                    "version {} of {}: its tasks begin anew, one after the other",
                    job.version, job.name
                ));
                return Ok(Some(job));
            }
            Err(error) if is_not_found(&error) && !is_part => {}
            Err(error) => {
                return Err(Failure::commanded(format_args!("restart {word}"), &error));
            }
        }
    }
    if !is_id_beginning(word) {
        return Err(nothing_named(word));
    }
    match client.restart_task(word).await {
        Ok(TaskStopped { id, job, spec, .. }) => {
            printer.talk(&format!(
                "the task {id} is stopping; a new one of {job}.{spec} takes its place"
            ));
            Ok(None)
        }
        Err(error) if is_not_found(&error) => Err(nothing_named(word)),
        Err(error) => Err(Failure::commanded(format_args!("restart the task {word}"), &error)),
    }
}

/// Wants another number of instances.
pub(crate) async fn scale(
    client: &Client,
    wish: &Scale,
    printer: Printer,
) -> Result<Exit, Failure> {
    let PartOfJob { job: name, part: spec } = wish.name.clone();
    let asked = ScaleJob { name, spec, instances: wish.instances };
    let scaled = client.revise_job(ApiVerb::JobScale, &asked).await;
    told(client, scaled, format_args!("scale {}", wish.name), wish.wait, printer).await
}

/// Makes a job what it was.
pub(crate) async fn roll_back(
    client: &Client,
    wish: &RollBack,
    printer: Printer,
) -> Result<Exit, Failure> {
    let asked = RollBackJob { name: wish.name.clone(), version: wish.to };
    let stored = client.revise_job(ApiVerb::JobRollBack, &asked).await;
    told(client, stored, format_args!("roll back {}", wish.name), wish.wait, printer).await
}

async fn told(
    client: &Client,
    stored: Result<JobSubmitted, AskError>,
    tried: std::fmt::Arguments<'_>,
    wait: bool,
    printer: Printer,
) -> Result<Exit, Failure> {
    let JobSubmitted { name, version, .. } =
        stored.map_err(|error| Failure::commanded(tried, &error))?;
    printer.line(name.as_str())?;
    printer.talk(&format!("version {version} of {name} is stored"));
    if !wait {
        return Ok(Exit::Done);
    }
    wait::for_job(client, printer, &name, version, Until::Done).await
}
