//! A cluster of real processes to measure: NATS with accounts, a manager and a worker, as users run them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bollard::Docker;
use longshore_bus::{Ask, Bus, Credentials, Options, Tls};
use longshore_core::agent::labels;
use longshore_proto::api::{ClusterView, ListNodes, ListTasks, NodeView, Nothing, Page, TaskView};
use longshore_proto::id::{ClusterId, CommandId};
use longshore_proto::name::Root;
use longshore_proto::permission::Role;
use longshore_proto::state::NodeStatus;
use longshore_proto::subject::{ApiVerb, Scope, Subject};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::raw;
use longshore_bench::Failure;
use longshore_bench::port::free_port;

/// How long a worker may take to end, with all that it runs.
const END_TIMEOUT: Duration = Duration::from_secs(120);

/// A cluster of real processes; they end when it is dropped.
pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    /// An operator's connection.
    pub(crate) bus: Bus,
    /// Where NATS is.
    pub(crate) url: String,
    /// What its containers are labelled with; known from the beginning, since at the end nobody may be there to ask.
    id: ClusterId,
    /// The worker among them is the last.
    processes: Vec<Child>,
}

impl Cluster {
    /// Starts one with a worker that offers far more than the machine has, so that nothing waits for room.
    pub(crate) async fn start() -> Result<Self, Failure> {
        Self::start_with(&[]).await
    }

    /// The same with more to say to its worker.
    pub(crate) async fn start_with(worker_options: &[&str]) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let port = free_port();
        let (auth, listen) = (folder.path().join("auth"), format!("127.0.0.1:{port}"));
        let made = longshore()
            .args([
                "auth",
                "init",
                "--operator",
                "bench",
                "--workers",
                "w1",
                "--listen",
                &listen,
                "--dir",
            ])
            .arg(&auth)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await?;
        if !made.success() {
            return Err("`longshore auth init` failed".into());
        }
        let url = format!("nats://{listen}");
        let log = |name: &str| std::fs::File::create(folder.path().join(format!("{name}.log")));
        let mut processes = Vec::new();
        processes.push(spawn(
            Command::new("nats-server").arg("-c").arg(auth.join("server.conf")),
            log("nats")?,
        )?);
        let creds = |name: &str| auth.join(format!("{name}.creds"));
        let mut manager = longshore();
        manager
            .args(["--nats", &url, "--creds"])
            .arg(creds("manager-m1"))
            .args(["manager", "--core-creds"])
            .arg(creds("manager-core-m1"))
            .arg("--data-dir")
            .arg(folder.path().join("m1"));
        processes.push(spawn(&mut manager, log("manager")?)?);
        let mut worker = longshore();
        worker
            .args(["--nats", &url, "--creds"])
            .arg(creds("worker-w1"))
            .args([
                "worker",
                "--name",
                "w1",
                "--capacity",
                "cpu=1000,memory=1TiB,disk=1TiB",
                "--data-dir",
            ])
            .arg(folder.path().join("w1"))
            .args(worker_options);
        processes.push(spawn(&mut worker, log("worker")?)?);
        let credentials = Credentials::load_as(&creds("operator-bench"), Role::Operator)?;
        let options = Options {
            servers: url.clone(),
            root: Root::standard(),
            role: Role::Operator,
            user: credentials.name.clone(),
            credentials: Some(credentials),
            tls: Tls::default(),
            wait_for_server: true,
        };
        let bus = tokio::time::timeout(Duration::from_secs(20), Bus::connect(options)).await??;
        let end = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(Some(id)) = joined(&bus).await {
                return Ok(Self { folder, bus, url, id, processes });
            }
            if tokio::time::Instant::now() > end {
                let logs = folder.keep();
                return Err(format!("no worker joined; the logs are in {}", logs.display()).into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The worker's process.
    pub(crate) fn worker_pid(&self) -> Result<u32, Failure> {
        self.processes.last().and_then(Child::id).ok_or_else(|| "the worker has ended".into())
    }

    /// Ends the worker in good order, as it was told to end, and removes what it keeps for people to look at. Each
    /// is done whatever became of the one before: after a failure containers are left, too. Gives the first error.
    pub(crate) async fn end(mut self, docker: &Docker) -> Result<(), Failure> {
        let told = self.terminate_worker().await;
        let ended = self.worker_ended().await;
        let label = format!("{}={}", labels::CLUSTER, self.id);
        let removed = raw::remove_labelled(docker, &label).await;
        told.and(ended).and(removed)
    }

    async fn terminate_worker(&self) -> Result<(), Failure> {
        let pid = self.worker_pid()?.to_string();
        Command::new("kill").arg("-TERM").arg(pid).status().await?;
        Ok(())
    }

    /// Waits until the worker has ended, and ends it if that takes too long: it would go on making containers.
    async fn worker_ended(&mut self) -> Result<(), Failure> {
        let Some(mut worker) = self.processes.pop() else { return Ok(()) };
        if let Ok(waited) = tokio::time::timeout(END_TIMEOUT, worker.wait()).await {
            waited?;
            return Ok(());
        }
        worker.kill().await?;
        Err(format!("the worker did not end within {END_TIMEOUT:?}").into())
    }

    /// A user's credential file.
    pub(crate) fn credentials(&self, user: &str) -> PathBuf {
        self.folder.path().join("auth").join(format!("{user}.creds"))
    }

    /// Asks the manager.
    pub(crate) async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        scope: Scope,
        verb: ApiVerb,
        question: &Q,
    ) -> Result<A, Failure> {
        ask(&self.bus, scope, verb, question).await
    }

    /// The tasks that have not ended.
    pub(crate) async fn live_tasks(&self) -> Result<usize, Failure> {
        let list = ListTasks { limit: Some(500), ..ListTasks::default() };
        let page: Page<TaskView> = self.ask(Scope::Cluster, ApiVerb::TaskList, &list).await?;
        Ok(page.items.len())
    }
}

/// The cluster's id, once a worker is ready.
async fn joined(bus: &Bus) -> Result<Option<ClusterId>, Failure> {
    let all = ListNodes::default();
    let nodes: Page<NodeView> = ask(bus, Scope::Cluster, ApiVerb::NodeList, &all).await?;
    if !nodes.items.iter().any(|node| node.status == NodeStatus::Ready) {
        return Ok(None);
    }
    let status: ClusterView = ask(bus, Scope::Cluster, ApiVerb::ClusterStatus, &Nothing {}).await?;
    Ok(Some(status.id))
}

async fn ask<Q: Serialize, A: DeserializeOwned>(
    bus: &Bus,
    scope: Scope,
    verb: ApiVerb,
    question: &Q,
) -> Result<A, Failure> {
    let ask = Ask::write(CommandId(Uuid::now_v7()), Duration::from_secs(10));
    Ok(bus.ask(&Subject::Api { scope, verb }, question, ask).await?.1)
}

/// The binary, built beside this one.
pub(crate) fn longshore() -> Command {
    let beside =
        std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("longshore")));
    let path: PathBuf =
        beside.filter(|path: &PathBuf| Path::exists(path)).unwrap_or_else(|| "longshore".into());
    Command::new(path)
}

/// Starts a process whose output goes into a file; it is killed when it is dropped.
pub(crate) fn spawn(command: &mut Command, log: std::fs::File) -> Result<Child, Failure> {
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn();
    child.map_err(|error| {
        format!(
            "cannot start a process ({error}); run `make bench`, which builds and finds everything"
        )
        .into()
    })
}
