//! Roll-outs on real containers: a version that is not healthy goes no further, and a good one replaces everything.

use std::collections::BTreeSet;

use longshore_proto::container::Network;
use longshore_proto::health::{HealthCheck, Probe};
use longshore_proto::spec::{ExchangeOrder, JobSpec, UpdatePolicy};
use longshore_tests::api::service;
use longshore_tests::{Cluster, eventually};
use serde_json::Value;

use crate::SOON;
use crate::look::{text, until};

/// A version of a service of two, which is healthy or not.
fn version(number: u32, is_healthy: bool) -> JobSpec {
    let mut job = service("web");
    let spec = &mut job.specs[0];
    spec.instances = 2;
    spec.container.network = Network::None;
    spec.env.insert("VERSION".to_owned(), number.to_string());
    spec.update = Some(UpdatePolicy { order: ExchangeOrder::StartFirst, parallel: 1 });
    let command = vec![if is_healthy { "true" } else { "false" }.to_owned()];
    spec.health = Some(HealthCheck {
        probe: Probe::Exec { command },
        interval_ms: 300,
        timeout_ms: 5_000,
        retries: 2,
        start_period_ms: 0,
    });
    job
}

/// The containers of the tasks of a version that are healthy.
fn healthy(tasks: &[Value], version: u64) -> BTreeSet<String> {
    let well =
        tasks.iter().filter(|task| task["version"] == version && task["health"] == "healthy");
    well.filter(|task| task["state"] == "running").map(|task| text(task, "container_id")).collect()
}

#[tokio::test]
async fn a_version_that_is_not_healthy_takes_nothing_from_the_one_that_is() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let (cli, api) = (cluster.cli(), cluster.api().await);
    api.submit(&version(1, true)).await.unwrap();
    let both =
        |number| move |tasks: &[Value]| Some(healthy(tasks, number)).filter(|well| well.len() == 2);
    let first = until(&cli, "web", "both are healthy", both(1)).await;

    api.submit(&version(2, false)).await.unwrap();
    let given_up = |tasks: &[Value]| {
        let reason = |task: &Value| task["reason"].as_str().unwrap_or_default().to_owned();
        let second = tasks.iter().filter(|task| task["version"] == 2);
        second.map(reason).find(|reason| reason.contains("unhealthy"))
    };
    until(&cli, "web", "the second version is found unhealthy", given_up).await;
    let tasks = crate::look::tasks(&cli, "web").await;
    let slots: BTreeSet<u64> = tasks
        .iter()
        .filter(|task| task["version"] == 2)
        .filter_map(|task| task["slot"].as_u64())
        .collect();
    assert_eq!(slots, BTreeSet::from([0]), "the other instance is not touched");
    assert_eq!(healthy(&tasks, 1), first);
    for (words, told) in [
        (&["job", "status", "web"][..], "unhealthy"),
        (&["job", "ls"], "2/2 running"),
        (&["doctor"], "2 of an older version"),
    ] {
        let printed = cli.run(words).await.succeeded().stdout;
        assert!(printed.contains(told), "{words:?} does not tell {told:?}:\n{printed}");
    }

    cli.ok(&["job", "rollback", "web", "--wait"]).await;
    let docker = cluster.docker().await;
    eventually("the first version alone is left", SOON, async || {
        let running: BTreeSet<String> = docker.running().await.into_iter().collect();
        if running == first { Ok(()) } else { Err(format!("{running:?}, not {first:?}")) }
    })
    .await;

    api.submit(&version(4, true)).await.unwrap();
    let fourth = until(&cli, "web", "a good version replaces both", both(4)).await;
    eventually("its predecessors have ended", SOON, async || {
        let running: BTreeSet<String> = docker.running().await.into_iter().collect();
        if running == fourth { Ok(()) } else { Err(format!("{running:?}, not {fourth:?}")) }
    })
    .await;
}
