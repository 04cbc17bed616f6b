//! Tasks per second from submit to all running where their networks are ready, beside the bare Docker API, which makes
//! each when its container starts.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::ListContainersOptionsBuilder;

use crate::cluster::Cluster;
use crate::launch::{self, LAUNCH_TIMEOUT};
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
) -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    for count in COUNTS.into_iter().filter(|count| *count <= most) {
        let before = ready(docker).await?;
        let wanted = count.to_string();
        let options = ["--sandboxes", &wanted, "--on-shutdown", "stop"];
        let cluster = Cluster::start_with(&options).await?;
        let (mut ours, mut limit) = (Vec::new(), Vec::new());
        for round in 1..=if count < 100 { rounds } else { 1 } {
            let start = Instant::now();
            while ready(docker).await? < before + count as usize {
                if start.elapsed() > LAUNCH_TIMEOUT {
                    return Err(
                        format!("{count} sandboxes are not ready in {LAUNCH_TIMEOUT:?}").into()
                    );
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            let waited_s = start.elapsed().as_secs_f64();
            let (raw_s, _) = raw::launch(docker, count as usize, concurrency).await?;
            let name = format!("sandboxes-{count}-{round}");
            let start_s = launch::start(&cluster, launch::job(&name, count)?, count).await?;
            launch::stop(&cluster, &name).await?;
            progress(&format!(
                "{count} tasks with sandboxes, round {round}: ready after {waited_s:.1} s, start {start_s:.2} s, raw {raw_s:.2} s"
            ));
            ours.push(start_s);
            limit.push(raw_s);
        }
        cluster.end_worker().await?;
        let (count, ours, limit) = (f64::from(count), median(&ours), median(&limit));
        let name = format!("launch/{count} to all running, with sandboxes");
        let rate = Figure::rate(name, count / ours, "tasks/s", count / limit);
        figures.push(rate.at_least_times(2.0));
    }
    Ok(figures)
}

/// How many sandboxes run that no task has: their names say no task.
async fn ready(docker: &Docker) -> Result<usize, Failure> {
    let filters = HashMap::from([("label", vec!["longshore.sandbox"])]);
    let options = ListContainersOptionsBuilder::default().filters(&filters).build();
    let found = docker.list_containers(Some(options)).await?;
    // longshore-CLUSTER-sandbox-NUMBER, and a task's id between the second and the third where it has one.
    let is_free = |name: &String| name.split('-').nth(2) == Some("sandbox");
    Ok(found.iter().filter(|found| found.names.iter().flatten().any(is_free)).count())
}
