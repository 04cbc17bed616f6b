//! Tasks per second from submit to all running where their networks are ready, beside the bare Docker API: once making
//! each network when its container starts, once joining networks that were made beforehand, as the tasks do.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::ListContainersOptions;
use longshore_core::agent::labels;

use crate::cluster::Cluster;
use crate::containers::Swarms;
use crate::job::{self, LAUNCH_TIMEOUT};
use crate::raw;
use longshore_bench::Failure;
use longshore_bench::report::{Figure, median, progress};

/// How many tasks are launched together, each time with as many sandboxes.
const COUNTS: [u32; 2] = [10, 100];
/// How often is looked whether they are ready.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Measures, Longshore and raw in turn.
pub(crate) async fn measure(
    docker: &Docker,
    rounds: usize,
    most: u32,
    concurrency: usize,
    swarms: &Swarms,
) -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    let joined_at_once = raw::best_concurrency_joined(docker).await?;
    progress(&format!(
        "the bare Docker API joins networks the fastest with {joined_at_once} starts at once"
    ));
    for count in COUNTS.into_iter().filter(|count| *count <= most) {
        let before = ready(docker, &BTreeSet::new()).await?;
        let wanted = count.to_string();
        let options = ["--sandboxes", &wanted, "--on-shutdown", "stop"];
        let cluster = Cluster::start_with(&options).await?;
        let measured =
            rounds_of(&cluster, docker, count, rounds, [concurrency, joined_at_once], before);
        let measured = measured.await;
        // Whatever came of it, nothing is left behind.
        let ended = cluster.end(docker).await;
        let [ours, limit, joined] = measured?;
        ended?;
        let (number, rounds) = (f64::from(count), ours.len());
        let rate = |beside: &str, limit: f64| {
            let name = format!("launch/{count} to all running, with sandboxes{beside}");
            Figure::rate(name, number / median(&ours), "tasks/s", limit).of_rounds(rounds)
        };
        figures.push(rate("", number / median(&limit)).at_least_times(2.0));
        let joined = number / median(&joined);
        figures.push(rate(", beside bare joins", joined).at_least_times(0.95));
        if let Some(swarm) = swarms.get(&count) {
            figures.push(rate(", beside a Docker Swarm service", *swarm).at_least_times(2.0));
        }
    }
    Ok(figures)
}

/// The seconds of each launch: ours, one straight through the API with networks of their own, and one that joins.
async fn rounds_of(
    cluster: &Cluster,
    docker: &Docker,
    count: u32,
    rounds: usize,
    [own_at_once, joined_at_once]: [usize; 2],
    before: usize,
) -> Result<[Vec<f64>; 3], Failure> {
    let (mut ours, mut limit, mut joined) = (Vec::new(), Vec::new(), Vec::new());
    let mut had = BTreeSet::new();
    for round in 1..=if count < 100 { rounds } else { 1 } {
        let start = Instant::now();
        while ready(docker, &had).await? < before + count as usize {
            if start.elapsed() > LAUNCH_TIMEOUT {
                return Err(format!("{count} sandboxes are not ready in {LAUNCH_TIMEOUT:?}").into());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        let waited_s = start.elapsed().as_secs_f64();
        let (raw_s, _) = raw::launch(docker, count as usize, own_at_once).await?;
        let joined_s = raw::launch_joined(docker, count as usize, joined_at_once).await?;
        let name = format!("sandboxes-{count}-{round}");
        let start_s = job::start(cluster, job::job(&name, count)?, count).await?;
        had.extend(seen(docker).await?.1);
        job::stop(cluster, &name).await?;
        progress(&format!(
            "{count} tasks with sandboxes, round {round}: ready after {waited_s:.1} s, start {start_s:.2} s, raw {raw_s:.2} s, raw with networks that are ready {joined_s:.2} s"
        ));
        ours.push(start_s);
        limit.push(raw_s);
        joined.push(joined_s);
    }
    Ok([ours, limit, joined])
}

/// The sandboxes that run, and the networks of what runs.
async fn seen(docker: &Docker) -> Result<(BTreeSet<String>, BTreeSet<String>), Failure> {
    let found = docker.list_containers(None::<ListContainersOptions>).await?;
    let is_sandbox = |found: &&ContainerSummary| {
        found.labels.as_ref().is_some_and(|labels| labels.contains_key(labels::SANDBOX))
    };
    let network = |found: &ContainerSummary| found.host_config.as_ref()?.network_mode.clone();
    let sandboxes = found.iter().filter(is_sandbox).filter_map(|found| found.id.clone());
    Ok((
        sandboxes.map(|id| format!("container:{id}")).collect(),
        found.iter().filter_map(network).collect(),
    ))
}

/// How many sandboxes run that no container has joined, and none has had: a task keeps its own for a while.
async fn ready(docker: &Docker, had: &BTreeSet<String>) -> Result<usize, Failure> {
    let (sandboxes, networks) = seen(docker).await?;
    Ok(sandboxes.iter().filter(|id| !networks.contains(*id) && !had.contains(*id)).count())
}
