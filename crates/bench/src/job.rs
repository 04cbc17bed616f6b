//! A job of so many tasks that do nothing: submitted and stopped, and waited for.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use longshore_proto::api::{JobStopped, JobSubmitted, NameJob, SubmitJob};
use longshore_proto::codec;
use longshore_proto::event::Event;
use longshore_proto::name::{JobName, Namespace};
use longshore_proto::spec::{JobSpec, JobType, Resources, TaskSpec};
use longshore_proto::subject::{ApiVerb, Pattern, Scope};

use crate::cluster::Cluster;
use crate::raw::{COMMAND, CPU_MILLIS, IMAGE, MEMORY_BYTES};
use longshore_bench::Failure;

/// How long a launch may take before the bench gives up.
pub(crate) const LAUNCH_TIMEOUT: Duration = Duration::from_secs(300);

/// Submits a job and waits until all of it runs. Gives the seconds from submit to all running.
pub(crate) async fn start(cluster: &Cluster, job: JobSpec, count: u32) -> Result<f64, Failure> {
    let wanted: JobName = job.name.clone();
    let mut events = cluster.bus.subscribe(&Pattern::Events).await?;
    cluster.bus.flush().await;
    let start = Instant::now();
    let _: JobSubmitted = cluster.ask(own(), ApiVerb::JobSubmit, &SubmitJob { job }).await?;
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
    done.map_err(|_| format!("{wanted}: {running} of {count} run after {LAUNCH_TIMEOUT:?}"))?;
    Ok(seconds)
}

/// Stops a job and waits until all of it has ended. Gives the seconds that this took.
pub(crate) async fn stop(cluster: &Cluster, name: &str) -> Result<f64, Failure> {
    let start = Instant::now();
    let job = NameJob { name: name.parse()? };
    let _: JobStopped = cluster.ask(own(), ApiVerb::JobStop, &job).await?;
    while cluster.live_tasks().await? > 0 {
        if start.elapsed() > LAUNCH_TIMEOUT {
            return Err(format!("{name} does not end").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Where the bench has its jobs.
pub(crate) fn own() -> Scope {
    Scope::Namespace(Namespace::standard())
}

/// A job of tasks that do nothing.
pub(crate) fn job(name: &str, instances: u32) -> Result<JobSpec, Failure> {
    let mut spec = TaskSpec::new("main".parse()?, IMAGE);
    spec.instances = instances;
    spec.command = COMMAND.map(str::to_owned).to_vec();
    spec.resources =
        Resources { cpu_millis: CPU_MILLIS, memory_bytes: MEMORY_BYTES, disk_bytes: 0 };
    spec.stop_grace_ms = 0;
    Ok(JobSpec::new(name.parse()?, JobType::Service, spec))
}
