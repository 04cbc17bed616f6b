//! From request to acknowledged, from request to running, and tasks per second from submit to all running.

use std::time::{Duration, Instant};

use bollard::Docker;
use futures_util::StreamExt;
use longshore_bus::Credentials;
use longshore_proto::api::{JobStopped, JobSubmitted, NameJob, SubmitJob};
use longshore_proto::codec;
use longshore_proto::event::Event;
use longshore_proto::name::{JobName, Namespace};
use longshore_proto::spec::{JobSpec, JobType, OnNodeLoss, Resources, TaskSpec};
use longshore_proto::subject::{ApiVerb, Pattern, Scope};

use crate::cluster::Cluster;
use crate::raw::{self, COMMAND, CPU_MILLIS, IMAGE, MEMORY_BYTES, milliseconds};
use longshore_bench::Failure;
use longshore_bench::report::{Figure, median, progress, quantile};

/// How many submits are timed for the acknowledgement.
const SUBMITS: usize = 500;
/// How many tasks are launched together.
const COUNTS: [u32; 3] = [1, 10, 100];
/// How long a launch may take before the bench gives up.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(180);

/// Measures, Longshore and raw in turn.
pub(crate) async fn measure(rounds: usize, most: u32) -> Result<Vec<Figure>, Failure> {
    let cluster = Cluster::start().await?;
    let mut figures = acknowledged(&cluster).await?;
    let docker = Docker::connect_with_defaults()?;
    let concurrency =
        std::thread::available_parallelism().map_or(4, |cores| (cores.get() * 2).max(4));
    for count in COUNTS.into_iter().filter(|count| *count <= most) {
        let (mut ours, mut limit) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            limit.push(raw::launch(&docker, count as usize, concurrency).await?);
            ours.push(launch(&cluster, count, round).await?);
            progress(&format!(
                "launch of {count}, round {round} of {rounds}: {:.2} s, raw {:.2} s",
                ours.last().copied().unwrap_or(f64::NAN),
                limit.last().copied().unwrap_or(f64::NAN)
            ));
        }
        let (ours, limit) = (median(&ours), median(&limit));
        if count == 1 {
            figures.push(Figure::time(
                "launch/request to running",
                ours * 1_000.0,
                "ms",
                limit * 1_000.0,
            ));
        }
        let count = f64::from(count);
        figures.push(Figure::rate(
            format!("launch/{count} to all running"),
            count / ours,
            "tasks/s",
            count / limit,
        ));
    }
    Ok(figures)
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

/// Submits a job, waits until all of it runs, and stops it. Gives the seconds from submit to all running.
async fn launch(cluster: &Cluster, count: u32, round: usize) -> Result<f64, Failure> {
    let name = format!("launch-{count}-{round}");
    let mut events = cluster.bus.subscribe(&Pattern::Events).await?;
    cluster.bus.flush().await;
    let start = Instant::now();
    let job = job(&name, count)?;
    let _: JobSubmitted = cluster.ask(own(), ApiVerb::JobSubmit, &SubmitJob { job }).await?;
    let wanted: JobName = name.parse()?;
    let mut running = 0;
    let all_running = async {
        while running < count {
            let Some(message) = events.next().await else { return };
            let event: Option<Event> = codec::decode(&message.payload).ok();
            let ours = |event: &Event| {
                event.job.as_ref() == Some(&wanted) && event.event_type == "task.running"
            };
            running += u32::from(event.as_ref().is_some_and(ours));
        }
    };
    let done = tokio::time::timeout(LAUNCH_TIMEOUT, all_running).await;
    let seconds = start.elapsed().as_secs_f64();
    done.map_err(|_| format!("{name}: {running} of {count} run after {LAUNCH_TIMEOUT:?}"))?;
    let _: JobStopped = cluster.ask(own(), ApiVerb::JobStop, &NameJob { name: wanted }).await?;
    let end = Instant::now() + LAUNCH_TIMEOUT;
    while cluster.live_tasks().await? > 0 {
        if Instant::now() > end {
            return Err(format!("{name} does not end").into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(seconds)
}

fn own() -> Scope {
    Scope::Namespace(Namespace::standard())
}

fn job(name: &str, instances: u32) -> Result<JobSpec, Failure> {
    let mut spec = TaskSpec::new("main".parse()?, IMAGE);
    spec.instances = instances;
    spec.command = COMMAND.map(str::to_owned).to_vec();
    spec.resources =
        Resources { cpu_millis: CPU_MILLIS, memory_bytes: MEMORY_BYTES, disk_bytes: 0 };
    spec.stop_grace_ms = 0;
    Ok(JobSpec {
        namespace: Namespace::standard(),
        name: name.parse()?,
        job_type: JobType::Service,
        datacenters: Vec::new(),
        priority: 50,
        on_node_loss: OnNodeLoss::Replace,
        scheduler: None,
        specs: vec![spec],
    })
}
