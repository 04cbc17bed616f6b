//! Roll-outs on real containers: a version that is not healthy goes no further, a good one replaces everything, and one
//! that crashes again and again is rolled back where its job says so.

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
    spec.update = Some(UpdatePolicy {
        order: ExchangeOrder::StartFirst,
        healthy_for_ms: 500,
        ..UpdatePolicy::usual()
    });
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

/// How many tasks of a version run.
fn running_of(tasks: &[Value], version: u64) -> usize {
    tasks.iter().filter(|task| task["version"] == version && task["state"] == "running").count()
}

#[tokio::test]
async fn a_version_that_crashes_again_and_again_takes_one_instance_and_is_rolled_back() {
    let cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let folder = tempfile::tempdir().unwrap();
    // A job file of a service of three: what its tasks run, and how it is rolled out.
    let file = |script: &str, update: &str| {
        let path = folder.path().join("web.toml");
        let text = format!(
            "name = 'web'\n[[task]]\nimage = '{}'\ninstances = 3\nnetwork = 'none'\nstop_grace = '1s'\n\
             command = ['sh', '-c', \"{script}\"]\nupdate = {{ {update} }}\n\
             restart = {{ mode = 'always', attempts = 3, delay = '200ms' }}\n",
            longshore_tests::IMAGE
        );
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let runs = |pause: &str| format!("trap 'exit 0' TERM; while true; do sleep {pause}; done");
    let crashes = "sleep 1; exit 3";
    let update = "healthy_for = '3s', on_failure = 'rollback'";
    cli.ok(&["job", "submit", &file(&runs("0.1"), update), "--wait"]).await;
    let all = |version| move |tasks: &[Value]| (running_of(tasks, version) == 3).then_some(());
    until(&cli, "web", "all run", all(1)).await;

    // By itself it goes no further, however often it runs for a moment.
    cli.ok(&["job", "submit", &file(crashes, "healthy_for = '3s'")]).await;
    let twice = |tasks: &[Value]| {
        let of_second = tasks.iter().filter(|task| task["version"] == 2);
        of_second.into_iter().any(|task| task["attempt"].as_u64() >= Some(3)).then_some(())
    };
    until(&cli, "web", "the second version is started again", twice).await;
    assert_eq!(running_of(&crate::look::tasks(&cli, "web").await, 1), 2);
    cli.ok(&["job", "submit", &file(&runs("0.2"), update), "--wait"]).await;
    until(&cli, "web", "all run again", all(3)).await;

    // With a word in its file it goes back, and who waits is told.
    let wait = cli.run(&["job", "submit", &file(crashes, update), "--wait"]).await;
    assert_eq!(wait.code, Some(1), "{wait:?}");
    for told in ["back to version 3", "version 4 has failed", "exited with code 3"] {
        assert!(wait.stderr.contains(told), "{told:?} is not told:\n{}", wait.stderr);
    }
    let status = |job: &Value| job["status"] == "running" && job["version"] == 5;
    eventually("it runs as before", SOON, async || {
        let job = cli.json(&["job", "status", "web"]).await;
        if status(&job) { Ok(()) } else { Err(job.to_string()) }
    })
    .await;
    let tasks = crate::look::tasks(&cli, "web").await;
    let (kept, new) = (running_of(&tasks, 3), running_of(&tasks, 5));
    assert_eq!((kept, new), (2, 1), "one instance was touched");
    for (words, told) in [
        (&["job", "status", "web"][..], "back to version 3, because version 4 has failed: task"),
        (&["job", "history", "web"], "(version 4 has failed)"),
        (&["events", "--audit"], "job.rollback"),
    ] {
        let printed = cli.run(words).await.succeeded().stdout;
        assert!(printed.contains(told), "{words:?} does not tell {told:?}:\n{printed}");
    }
}
