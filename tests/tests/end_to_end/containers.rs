//! What a task's container looks like from the outside.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use longshore_bench::port::free_port;
use longshore_tests::docker::Docker;
use longshore_tests::{Cluster, IMAGE, eventually};

use crate::SOON;
use crate::look::{sleeper, text};

#[tokio::test]
async fn a_container_has_the_limits_the_command_and_the_environment_that_were_asked_for() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let options = ["--cpus", "0.25", "--memory", "48MiB", "-e", "COLOUR=red", "-e", "EMPTY="];
    let task = sleeper(&cli, "web", &options).await;
    let docker = cluster.docker().await;
    let container = docker.inspect(&text(&task, "container_id")).await;
    let (config, host) = (container.config.unwrap(), container.host_config.unwrap());
    assert_eq!(config.cmd.unwrap(), ["sleep", "1000000"]);
    assert_eq!(host.nano_cpus, Some(250_000_000));
    assert_eq!(host.memory, Some(48 << 20));
    let env = config.env.unwrap();
    let task_id = text(&task, "id");
    for wanted in [
        "COLOUR=red",
        "EMPTY=",
        "LONGSHORE_JOB=web",
        "LONGSHORE_NODE=w1",
        &format!("LONGSHORE_TASK_ID={task_id}"),
    ] {
        assert!(env.iter().any(|variable| variable == wanted), "{wanted} is missing in {env:?}");
    }
    let labels = config.labels.unwrap();
    let cluster_id = cluster.api().await.status().await.unwrap().id.to_string();
    for (label, wanted) in [
        ("longshore.cluster", cluster_id.as_str()),
        ("longshore.node", "w1"),
        ("longshore.task", &task_id),
        ("longshore.attempt", "1"),
    ] {
        assert_eq!(labels[label], wanted);
    }
    // Hardened, and never restarted by Docker itself: restarts are the worker's.
    assert_eq!(host.privileged, Some(false));
    assert!(
        host.security_opt.unwrap().iter().any(|option| option.starts_with("no-new-privileges"))
    );
    assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
    assert!(host.pids_limit.unwrap() > 0);
    let restart = host.restart_policy.and_then(|policy| policy.name).map(|name| name.to_string());
    assert!(matches!(restart.as_deref(), None | Some("" | "no")), "{restart:?}");
    // Nothing of the control plane is inside: no credentials, no address.
    assert!(
        env.iter().all(|variable| !variable.contains("nats") && !variable.contains("CREDS")),
        "{env:?}"
    );
}

/// Asks a container's web server for its page.
fn page(port: u16) -> Result<String, String> {
    let fail = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(fail)?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).map_err(fail)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(fail)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(fail)?;
    if text.contains("200 OK") { Ok(text) } else { Err(text) }
}

#[tokio::test]
async fn a_published_port_is_reached_from_outside() {
    let cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let port = free_port();
    let script =
        "echo \"hello from $LONGSHORE_JOB\" > /tmp/index.html; exec httpd -f -p 8080 -h /tmp";
    let publish = format!("127.0.0.1:{port}:8080");
    cli.ok(&[
        "run",
        "--name",
        "web",
        "--stop-grace",
        "1s",
        "-p",
        &publish,
        "--wait",
        IMAGE,
        "sh",
        "-c",
        script,
    ])
    .await;
    let page = eventually("the page is served", SOON, async || page(port)).await;
    assert!(page.contains("hello from web"), "{page}");
}

#[tokio::test]
async fn containers_of_others_are_left_alone() {
    let mark = uuid::Uuid::new_v4().to_string();
    let foreign = Docker::of_label("longshore-test.foreign", &mark);
    let stranger = foreign.start_foreign(&["sleep", "1000000"]).await;
    // Another cluster on the same machine and the same Docker.
    let mut other = Cluster::with_workers(&["w1"]).await;
    let kept = sleeper(&other.cli(), "kept", &[]).await;

    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    sleeper(&cli, "web", &[]).await;
    cli.ok(&["stop", "--wait", "web"]).await;
    cluster.worker("w1").kill();
    cluster.start_worker("w1", &[]);
    sleeper(&cli, "again", &[]).await;
    cli.ok(&["stop", "--wait", "again"]).await;

    assert_eq!(foreign.running().await, [stranger]);
    assert_eq!(other.docker().await.running().await, [text(&kept, "container_id")]);
    assert_eq!(crate::look::running(&other.cli(), "kept").await["attempt"], 1);
    foreign.clear().await;
}
