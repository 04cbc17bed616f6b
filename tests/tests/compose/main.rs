//! `docker-compose.yml`, as an operator uses it: NATS, a manager and two workers in containers that are made
//! from this machine's own programs, because nothing can be pulled where tests run.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bollard::query_parameters::{
    ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, PruneContainersOptionsBuilder,
};
use longshore_bench::port::free_port;
use longshore_tests::cli::Cli;
use longshore_tests::docker::{self, Docker};
use longshore_tests::program::{checkout, command, longshore, optional_tool};
use longshore_tests::{IMAGE, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

/// How long anything may take on a loaded machine.
const SOON: Duration = Duration::from_secs(90);
/// The label of all that Docker Compose makes.
const PROJECT: &str = "com.docker.compose.project";
/// How authentication is made, as the file's comment tells it. The folder is not said.
const AUTH: &str = "auth init --operator admin --workers w1,w2 --listen 0.0.0.0:4222 \
                    --store-dir /var/lib/longshore/nats";

/// Runs a command that must succeed, and gives what it printed.
async fn finish(command: Command) -> String {
    let shown = format!("{command:?}");
    let output =
        tokio::process::Command::from(command).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(SOON, output)
        .await
        .unwrap_or_else(|_| panic!("{shown} does not end within {SOON:?}"))
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}: {}\n{stdout}{stderr}", output.status);
    stdout
}

/// The topology of the file, under a name of its own.
struct Topology {
    program: PathBuf,
    project: String,
    port: u16,
    cluster_id: Option<String>,
    folder: TempDir,
}

impl Topology {
    fn new(program: PathBuf) -> Self {
        let project = format!("longshore-test-{}", Uuid::new_v4().simple());
        let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().unwrap();
        Self { program, project, port: free_port(), cluster_id: None, folder }
    }

    fn auth(&self) -> PathBuf {
        self.folder.path().join("auth")
    }

    /// `docker-compose`, with the variables that the file names.
    fn compose(&self, words: &[&str]) -> Command {
        let mut compose = compose(&self.program, self.folder.path());
        let host = docker::host();
        let socket = host.strip_prefix("unix://");
        let socket = socket.unwrap_or_else(|| panic!("{host} is not on this machine"));
        compose
            .args(["-p", &self.project])
            .args(words)
            .env("LONGSHORE_AUTH", self.auth())
            .env("LONGSHORE_NATS_PORT", self.port.to_string())
            .env("LONGSHORE_DOCKER_SOCKET", socket)
            .env("LONGSHORE_IMAGE", "longshore:local")
            .env("NATS_IMAGE", "longshore-nats:local");
        compose
    }

    /// The operator's command line, on this machine and outside of every container.
    fn cli(&self) -> Cli {
        Cli::bare(self.folder.path())
            .with("LONGSHORE_NATS_URL", format!("nats://127.0.0.1:{}", self.port))
            .with("LONGSHORE_CREDS", self.auth().join("operator-admin.creds"))
            .with("LONGSHORE_TIMEOUT", "2s")
    }

    /// Waits until both workers take tasks.
    async fn is_ready(&self) {
        let cli = self.cli();
        eventually("two nodes are ready", SOON, async || {
            let outcome = cli.run(&["node", "ls", "-o", "json"]).await;
            let nodes: Value = serde_json::from_str(&outcome.stdout).unwrap_or_default();
            let nodes = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
            let ready = nodes.iter().filter(|node| node["status"] == "ready");
            let ready: BTreeSet<_> = ready.map(|node| text(node, "name")).collect();
            if ready == set(&["w1", "w2"]) { Ok(()) } else { Err(format!("{outcome:?}")) }
        })
        .await;
    }

    /// The containers, volumes and networks that Docker Compose made and that are left.
    async fn left(&self) -> Vec<String> {
        let docker = Docker::of_label(PROJECT, &self.project);
        let label = format!("{PROJECT}={}", self.project);
        let filters = HashMap::from([("label", vec![label.as_str()])]);
        let volumes = ListVolumesOptionsBuilder::new().filters(&filters).build();
        let volumes = docker.client().list_volumes(Some(volumes)).await.unwrap();
        let networks = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let networks = docker.client().list_networks(Some(networks)).await.unwrap();
        let containers = docker.all().await.into_iter().filter_map(|container| container.id);
        let volumes = volumes.volumes.unwrap_or_default().into_iter().map(|volume| volume.name);
        containers
            .chain(volumes)
            .chain(networks.into_iter().filter_map(|network| network.name))
            .collect()
    }
}

impl Drop for Topology {
    #[expect(clippy::print_stderr, reason = "the test runner shows it with the failure")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.compose(&["logs", "--no-color", "--tail", "25"]).output();
            let logs = logs.map(|logs| String::from_utf8_lossy(&logs.stdout).into_owned());
            eprintln!("--- the end of the logs ---\n{}", logs.unwrap_or_default());
        }
        // Workers first: nobody must start a container while they are removed. A failure to clean up must not
        // hide the failure of the test.
        let _ = self.compose(&["down", "-v", "-t", "1"]).output();
        if let Some(id) = self.cluster_id.take() {
            docker::remove_all(id);
        }
    }
}

/// `docker-compose` on the file, with nothing of the person's settings.
fn compose(program: &Path, home: &Path) -> Command {
    let mut compose = command(program, home);
    for name in ["COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME", "NATS_IMAGE"] {
        compose.env_remove(name);
    }
    compose.arg("-f").arg(checkout().join("docker-compose.yml"));
    compose
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is no text in {value}")).to_owned()
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A field of each of the tasks that run.
async fn running(cli: &Cli, field: &str) -> BTreeSet<String> {
    let tasks = cli.json(&["ps"]).await;
    let running = tasks.as_array().unwrap().iter().filter(|task| task["state"] == "running");
    running.map(|task| text(task, field)).collect()
}

#[tokio::test]
async fn the_file_is_valid_with_nothing_set() {
    let Some(program) = optional_tool("docker-compose") else { return };
    let home = tempfile::tempdir().unwrap();
    let mut services = compose(&program, home.path());
    services.args(["config", "--services"]);
    let services = finish(services).await;
    let services: BTreeSet<String> = services.lines().map(str::to_owned).collect();
    assert_eq!(services, set(&["manager", "nats", "w1", "w2"]));
    let mut whole = compose(&program, home.path());
    whole.arg("config");
    let whole = finish(whole).await;
    assert!(whole.contains("127.0.0.1"), "the server's port is for this host alone: {whole}");
    // What the file's comment tells is what the other test does.
    let file = std::fs::read_to_string(checkout().join("docker-compose.yml")).unwrap();
    let (verb, options) = AUTH.split_once(" --").unwrap();
    assert!(file.contains(&format!("longshore {verb} --dir auth --{options}\n")), "{AUTH}");
}

#[tokio::test]
async fn the_topology_runs_containers_survives_an_upgrade_and_leaves_nothing() {
    let Some(program) = optional_tool("docker-compose") else { return };
    let mut topology = Topology::new(program);
    let mut images = Command::new(checkout().join("scripts/local-images"));
    images.arg(longshore());
    finish(images).await;
    let auth = topology.auth();
    let words = AUTH.split_whitespace().chain(["--dir", auth.to_str().unwrap()]);
    Cli::bare(topology.folder.path()).run(&words.collect::<Vec<_>>()).await.succeeded();

    finish(topology.compose(&["config"])).await;
    finish(topology.compose(&["up", "-d"])).await;
    topology.is_ready().await;
    let cli = topology.cli();
    let cluster_id = text(&cli.json(&["status"]).await, "id");
    topology.cluster_id = Some(cluster_id.clone());
    let docker = Docker::of_cluster(cluster_id.clone());

    // Two of them are too much for one worker.
    let service = ["run", "--wait", "--name", "web", "-n", "2", "--cpus", "0.6"];
    let sleep = ["--stop-grace", "1s", IMAGE, "sleep", "1000000"];
    cli.run(&[&service[..], &sleep].concat()).await.succeeded();
    assert_eq!(running(&cli, "node").await, set(&["w1", "w2"]));
    let containers = running(&cli, "container_id").await;
    assert_eq!(docker.running().await.into_iter().collect::<BTreeSet<_>>(), containers);
    let batch = ["run", "--type", "batch", "--name", "sums", "--wait", "--restart", "never"];
    let script = [IMAGE, "sh", "-c", "echo it is $((6 * 7)); exit 5"];
    cli.run(&[&batch[..], &script].concat()).await.exited(5);
    assert_eq!(cli.ok(&["logs", "sums"]).await, "it is 42\n");

    // As an upgrade does it: new containers on the volumes of the old ones. The tasks do not notice.
    let again = ["up", "-d", "--force-recreate", "-t", "5", "nats", "manager", "w1", "w2"];
    finish(topology.compose(&again)).await;
    topology.is_ready().await;
    assert_eq!(text(&cli.json(&["status"]).await, "id"), cluster_id);
    eventually("the tasks are known to run", SOON, async || {
        let known = running(&cli, "container_id").await;
        if known == containers { Ok(()) } else { Err(format!("{known:?}")) }
    })
    .await;
    assert_eq!(docker.running().await.into_iter().collect::<BTreeSet<_>>(), containers);

    // The end, as the file's comment tells it.
    cli.run(&["stop", "--wait", "web"]).await.succeeded();
    assert_eq!(cli.json(&["ps"]).await, json!([]));
    assert!(docker.running().await.is_empty(), "the service's containers are stopped");
    finish(topology.compose(&["down", "-v"])).await;
    assert!(topology.left().await.is_empty(), "{:?}", topology.left().await);
    let label = format!("longshore.cluster={cluster_id}");
    let filters = HashMap::from([("label", vec![label.as_str()])]);
    let ended = PruneContainersOptionsBuilder::new().filters(&filters).build();
    docker.client().prune_containers(Some(ended)).await.unwrap();
    assert!(docker.all().await.is_empty(), "no container of the cluster is left");
}
