//! From request to acknowledged, from request to running, and tasks per second from submit to all running and from the
//! word to stop to all ended.

use std::time::Instant;

use bollard::Docker;
use longshore_bus::Credentials;
use longshore_proto::api::{JobStopped, JobSubmitted, NameJob, SubmitJob};
use longshore_proto::subject::ApiVerb;

use crate::cluster::Cluster;
use crate::containers::{self, Swarms};
use crate::job::{job, own, start, stop};
use crate::raw::{self, milliseconds};
use crate::sandboxes;
use longshore_bench::Failure;
use longshore_bench::report::{Figure, median, progress, quantile};

/// How many submits are timed for the acknowledgement.
const SUBMITS: usize = 500;
/// How many tasks are launched together.
const COUNTS: [u32; 4] = [1, 10, 100, 300];
/// From how many tasks on the worker is watched while they idle.
const IDLE_FROM: u32 = 100;

/// Measures, Longshore and raw in turn, and a Docker Swarm service where there is one.
pub(crate) async fn measure(rounds: usize, most: u32) -> Result<Vec<Figure>, Failure> {
    let docker = Docker::connect_with_defaults()?;
    let concurrency = raw::best_concurrency(&docker).await?;
    progress(&format!("the bare Docker API is fastest with {concurrency} starts at once"));
    let cluster = Cluster::start().await?;
    let mut swarms = Swarms::new();
    let measured = launches(&cluster, &docker, rounds, most, concurrency, &mut swarms).await;
    // Whatever came of it, nothing is left behind.
    let ended = cluster.end(&docker).await;
    let mut figures = measured?;
    ended?;
    figures.extend(sandboxes::measure(&docker, rounds, most, concurrency, &swarms).await?);
    Ok(figures)
}

async fn launches(
    cluster: &Cluster,
    docker: &Docker,
    rounds: usize,
    most: u32,
    concurrency: usize,
    swarms: &mut Swarms,
) -> Result<Vec<Figure>, Failure> {
    let mut figures = acknowledged(cluster).await?;
    figures.extend(containers::restarts(cluster, docker).await?);
    figures.extend(containers::idle(cluster, 0).await?);
    for count in COUNTS.into_iter().filter(|count| *count <= most) {
        let (mut ours, mut limit) = (Vec::new(), Vec::new());
        let (mut stop, mut stop_limit) = (Vec::new(), Vec::new());
        let rounds = rounds_of(count, rounds);
        for round in 1..=rounds {
            let raw = || raw::launch(docker, count as usize, concurrency);
            let watched = (round == 1 && count >= IDLE_FROM).then_some(&mut figures);
            let ours_once = once(cluster, format!("launch-{count}-{round}"), count, watched);
            // What was taken down last is still being cleared away: each goes first in turn.
            let ((raw_start, raw_stop), (start_s, stop_s)) = if round % 2 == 1 {
                (raw().await?, ours_once.await?)
            } else {
                let times = ours_once.await?;
                (raw().await?, times)
            };
            progress(&format!(
                "{count} tasks, round {round}: start {start_s:.2} s, raw {raw_start:.2} s; stop {stop_s:.2} s, raw {raw_stop:.2} s"
            ));
            ours.push(start_s);
            limit.push(raw_start);
            stop.push(stop_s);
            stop_limit.push(raw_stop);
        }
        let (ours, limit) = (median(&ours), median(&limit));
        if count == 1 {
            figures.push(
                Figure::time("launch/request to running", ours * 1_000.0, "ms", limit * 1_000.0)
                    .of_rounds(rounds),
            );
            continue;
        }
        let swarm = containers::swarm(docker, count).await;
        let number = f64::from(count);
        let rate = Figure::rate(
            format!("launch/{count} to all running"),
            number / ours,
            "tasks/s",
            number / limit,
        );
        figures.push(rate.at_least_times(0.95).of_rounds(rounds));
        if let Some(swarm) = swarm {
            swarms.insert(count, swarm);
            let name = format!("launch/{count} to all running, beside a Docker Swarm service");
            let rate = Figure::rate(name, number / ours, "tasks/s", swarm);
            figures.push(rate.at_least_times(2.0).of_rounds(rounds));
        }
        figures.push(
            Figure::rate(
                format!("stop/{count} to all ended"),
                number / median(&stop),
                "tasks/s",
                number / median(&stop_limit),
            )
            .of_rounds(rounds),
        );
    }
    Ok(figures)
}

/// The seconds from submit to all running, and from the word to stop to all ended. In between the worker is watched, where
/// that is wanted.
async fn once(
    cluster: &Cluster,
    name: String,
    count: u32,
    watched: Option<&mut Vec<Figure>>,
) -> Result<(f64, f64), Failure> {
    let start_s = start(cluster, job(&name, count)?, count).await?;
    if let Some(figures) = watched {
        figures.extend(containers::idle(cluster, count).await?);
    }
    Ok((start_s, stop(cluster, &name).await?))
}

/// How often a launch of so many is measured: the largest take minutes.
fn rounds_of(count: u32, rounds: usize) -> usize {
    match count {
        0..100 => rounds,
        100..300 => rounds.min(3),
        _ => 1,
    }
}

async fn acknowledged(cluster: &Cluster) -> Result<Vec<Figure>, Failure> {
    let asker = Credentials::load(&cluster.credentials("operator-bench"))?;
    let answerer = Credentials::load(&cluster.credentials("manager-m1"))?;
    // Jobs that no node fits: the decision, the log and the disk are measured, and no container starts.
    let mut times = Vec::with_capacity(SUBMITS);
    let limit = raw::round_trips(&cluster.url, &asker, &answerer, SUBMITS).await?;
    for at in 0..SUBMITS {
        let mut job = job(&format!("ack-{at}"), 1)?;
        job.datacenters = vec!["nowhere".parse()?];
        let start = Instant::now();
        let _: JobSubmitted = cluster.ask(own(), ApiVerb::JobSubmit, &SubmitJob { job }).await?;
        times.push(milliseconds(start.elapsed()));
    }
    for at in 0..SUBMITS {
        let name = NameJob { name: format!("ack-{at}").parse()? };
        let _: JobStopped = cluster.ask(own(), ApiVerb::JobStop, &name).await?;
    }
    progress(&format!("submit to acknowledged: {:.2} ms at the median", median(&times)));
    Ok(vec![
        Figure::time(
            "submit/request to acknowledged, median",
            median(&times),
            "ms",
            median(&limit),
        ),
        Figure::time(
            "submit/request to acknowledged, p99",
            quantile(&times, 0.99),
            "ms",
            quantile(&limit, 0.99),
        ),
    ])
}
