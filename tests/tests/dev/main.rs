//! `longshore dev`: a whole cluster in one process, which leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use longshore_tests::cli::Cli;
use longshore_tests::docker::{self, Docker};
use longshore_tests::program::Program;
use longshore_tests::{IMAGE, eventually};
use rustix::process::Signal;
use serde_json::json;

/// How long anything may take on a loaded machine.
const SOON: Duration = Duration::from_secs(60);

/// A `longshore dev`, and what must not outlive the test.
struct Dev {
    program: Program,
    cli: Cli,
    cluster_id: String,
    servers: BTreeSet<u32>,
}

impl Dev {
    /// Starts it, and stays until the command line finds it by itself.
    async fn start(home: &Path, options: &[&str]) -> Self {
        let cli = Cli::bare(home).with("TMPDIR", home);
        let program = cli.stay("dev", &[&["dev"], options].concat());
        eventually("the context is written", SOON, async || {
            let found = std::fs::read_to_string(home.join("context.toml")).unwrap_or_default();
            let own = format!("pid = {}", program.pid());
            if found.contains(&own) { Ok(()) } else { Err(format!("{found:?}; {}", program.log())) }
        })
        .await;
        let cluster_id = cli.json(&["status"]).await["id"].as_str().unwrap().to_owned();
        let servers = servers_below(home);
        assert_eq!(servers.len(), 1, "it has a nats-server of its own");
        Self { program, cli, cluster_id, servers }
    }

    fn docker(&self) -> Docker {
        Docker::of_cluster(self.cluster_id.clone())
    }

    /// Waits until its server is gone.
    async fn server_is_gone(&self) {
        eventually("its nats-server is gone", SOON, async || {
            let left: Vec<u32> =
                self.servers.iter().copied().filter(|pid| is_alive(*pid)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        docker::remove_all(self.cluster_id.clone());
    }
}

/// Whether a process is there and no zombie.
fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The nats-servers whose configuration is below a folder.
fn servers_below(home: &Path) -> BTreeSet<u32> {
    let home = home.display().to_string();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let words = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = words.split('\0');
        let is_server = words.next().is_some_and(|program| program.ends_with("nats-server"));
        if is_server && words.any(|word| word.contains(&home)) {
            found.insert(pid);
        }
    }
    found
}

async fn run(cli: &Cli, name: &str) {
    let words = ["run", "--wait", "--name", name, "--stop-grace", "1s", IMAGE, "sleep", "1000000"];
    cli.run(&words).await.succeeded();
}

#[tokio::test]
async fn ctrl_c_stops_everything_that_dev_started() {
    let home = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(home.path(), &["--workers", "2"]).await;
    let nodes = dev.cli.json(&["node", "ls"]).await;
    let nodes = nodes.as_array().unwrap();
    assert_eq!(nodes.len(), 2);
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    let offered: u64 =
        nodes.iter().map(|node| node["capacity"]["cpu_millis"].as_u64().unwrap()).sum();
    assert!(offered <= cores * 1_000, "workers share the machine: {offered} of {cores} cores");

    run(&dev.cli, "web").await;
    assert_eq!(dev.docker().running().await.len(), 1);
    let batch =
        ["run", "--type", "batch", "--restart", "never", "--wait", IMAGE, "sh", "-c", "exit 4"];
    dev.cli.run(&batch).await.exited(4);
    dev.cli.run(&["doctor"]).await.succeeded();

    dev.program.signal(Signal::INT);
    assert!(dev.program.ended(SOON).await.success(), "{}", dev.program.log());
    dev.server_is_gone().await;
    assert!(dev.docker().all().await.is_empty(), "no container is left");
    assert!(!home.path().join("context.toml").exists(), "the context is removed");
    dev.cli.run(&["ps", "--nats", "nats://127.0.0.1:1"]).await.exited(1);
}

#[tokio::test]
async fn sigterm_with_keep_leaves_the_containers() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let mut dev = Dev::start(home.path(), &["--keep", "--data-dir", data.to_str().unwrap()]).await;
    run(&dev.cli, "web").await;
    let container = dev.docker().running().await;
    dev.program.signal(Signal::TERM);
    assert!(dev.program.ended(SOON).await.success(), "{}", dev.program.log());
    dev.server_is_gone().await;
    assert_eq!(dev.docker().running().await, container);
    assert_eq!(container.len(), 1);
}

#[tokio::test]
async fn killed_it_leaves_no_server_and_its_data_directory_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let options = ["--data-dir", data.to_str().unwrap()];
    let mut dev = Dev::start(home.path(), &options).await;
    run(&dev.cli, "web").await;
    let before = dev.cli.json(&["ps"]).await;
    dev.program.kill();
    dev.server_is_gone().await;
    // A context that was left behind does not lead anybody astray.
    dev.cli.run(&["ps"]).await.exited(1).told("longshore dev");

    let mut again = Dev::start(home.path(), &options).await;
    assert_eq!(again.cluster_id, dev.cluster_id);
    let after = eventually("the task is known to run", SOON, async || {
        let tasks = again.cli.json(&["ps"]).await;
        if tasks[0]["state"] == "running" { Ok(tasks) } else { Err(tasks.to_string()) }
    })
    .await;
    for field in ["id", "container_id", "attempt"] {
        assert_eq!(before[0][field], after[0][field], "{field}");
    }
    assert_eq!(again.docker().running().await, [after[0]["container_id"].as_str().unwrap()]);
    again.cli.run(&["stop", "--wait", "web"]).await.succeeded();
    assert_eq!(again.cli.json(&["ps"]).await, json!([]));
    again.program.signal(Signal::INT);
    assert!(again.program.ended(SOON).await.success(), "{}", again.program.log());
    again.server_is_gone().await;
}

#[tokio::test]
async fn a_server_of_ones_own_can_be_used() {
    let home = tempfile::tempdir().unwrap();
    // A server without users: the cluster is open, and dev says nothing of its own.
    let open = longshore_tests::nats::Nats::start(&home.path().join("nats"), "").await;
    let cli = Cli::bare(home.path()).with("TMPDIR", home.path());
    let mut program = cli.stay("dev", &["dev", "--nats", &open.url()]);
    program.says("The cluster is up", SOON).await;
    run(&cli, "web").await;
    let id = cli.json(&["status"]).await["id"].as_str().unwrap().to_owned();
    program.signal(Signal::INT);
    assert!(program.ended(SOON).await.success(), "{}", program.log());
    assert!(Docker::of_cluster(id).all().await.is_empty());
}
