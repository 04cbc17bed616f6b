//! What a cluster stands on, to be measured: a NATS server with accounts, and managers, each a real process.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use longshore_bus::{Ask, AskError, Bus, Credentials, Options, Tls};
use longshore_proto::api::{ClusterView, Nothing};
use longshore_proto::id::CommandId;
use longshore_proto::name::{Namespace, Root};
use longshore_proto::permission::{Role, inbox_prefix};
use longshore_proto::spec::{JobSpec, JobType, Resources, TaskSpec};
use longshore_proto::subject::{ApiVerb, Level, Scope, Subject};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::cluster::{longshore, spawn};
use longshore_bench::Failure;
use longshore_bench::port::free_port;

/// How long one question may take.
const ASK_DEADLINE: Duration = Duration::from_secs(60);
/// How often is looked whether something has come.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A NATS server with accounts; it ends when this is dropped.
pub(crate) struct Ground {
    folder: tempfile::TempDir,
    /// Where the server is.
    pub(crate) url: String,
    server: Child,
    starts: u32,
}

/// A manager; it ends when this is dropped.
pub(crate) struct Manager {
    pub(crate) process: Child,
    /// Where it tells what it does.
    pub(crate) log: PathBuf,
}

impl Ground {
    /// Makes users and starts the server.
    pub(crate) async fn start(workers: &[String]) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let mut init = longshore();
        init.args(["auth", "init", "--operator", "bench", "--listen", &listen]);
        if !workers.is_empty() {
            init.args(["--workers", &workers.join(",")]);
        }
        init.arg("--dir").arg(folder.path().join("auth"));
        if !init.stdout(Stdio::null()).stderr(Stdio::null()).status().await?.success() {
            return Err("`longshore auth init` failed".into());
        }
        let server = launch(folder.path(), 1)?;
        Ok(Self { folder, url: format!("nats://{listen}"), server, starts: 1 })
    }

    /// The folder of everything.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps the folder, and says where it is: for who looks into what went wrong.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// A user's credentials.
    pub(crate) fn credentials(&self, user: &str) -> Result<Credentials, Failure> {
        Ok(Credentials::load(&self.file(user))?)
    }

    /// A user's credential file.
    pub(crate) fn file(&self, user: &str) -> PathBuf {
        self.folder.path().join("auth").join(format!("{user}.creds"))
    }

    /// Starts a manager with a data directory of that name.
    pub(crate) fn manager(&mut self, data: &str) -> Result<Manager, Failure> {
        self.starts += 1;
        let log = self.folder.path().join(format!("{data}-{}.log", self.starts));
        let mut manager = longshore();
        manager
            .args(["manager", "--nats", &self.url, "--creds"])
            .arg(self.file("manager-m1"))
            .arg("--core-creds")
            .arg(self.file("manager-core-m1"))
            .arg("--data-dir")
            .arg(self.folder.path().join(data));
        Ok(Manager { process: spawn(&mut manager, std::fs::File::create(&log)?)?, log })
    }

    /// Stops the server, all at once or in good order, and starts it again on what it had stored.
    pub(crate) async fn restart_server(&mut self) -> Result<(), Failure> {
        self.server.kill().await?;
        self.starts += 1;
        self.server = launch(self.folder.path(), self.starts)?;
        Ok(())
    }

    /// The processor's time that the server has taken since it started.
    pub(crate) fn server_time(&self) -> Result<Duration, Failure> {
        processor_time(self.server.id().ok_or("the server has ended")?)
    }

    /// An operator's connection.
    pub(crate) async fn operator(&self) -> Result<Api, Failure> {
        let credentials = Credentials::load_as(&self.file("operator-bench"), Role::Operator)?;
        let options = Options {
            servers: self.url.clone(),
            root: Root::standard(),
            role: Role::Operator,
            user: credentials.name.clone(),
            credentials: Some(credentials),
            tls: Tls::default(),
            wait_for_server: true,
        };
        Ok(Api(tokio::time::timeout(ASK_DEADLINE, Bus::connect(options)).await??))
    }

    /// JetStream as managers have it.
    pub(crate) async fn jetstream(&self) -> Result<jetstream::Context, Failure> {
        let credentials = self.credentials("manager-core-m1")?;
        let client = async_nats::ConnectOptions::new()
            .nkey(credentials.nkey_seed.reveal().to_owned())
            .custom_inbox_prefix(inbox_prefix(credentials.role, &credentials.name))
            .connect(self.url.clone())
            .await?;
        Ok(jetstream::new(client))
    }
}

impl Manager {
    /// Waits until it says something, and gives the time since its log was made.
    pub(crate) async fn says(&mut self, words: &str, patience: Duration) -> Result<(), Failure> {
        let start = Instant::now();
        while start.elapsed() < patience {
            if std::fs::read_to_string(&self.log)?.contains(words) {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                let log = std::fs::read_to_string(&self.log)?;
                return Err(format!("the manager has ended ({status}):\n{log}").into());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Err(format!("{} does not say {words:?} within {patience:?}", self.log.display()).into())
    }

    /// The memory that it has, and the most that it had, in bytes.
    pub(crate) fn memory(&self) -> Result<Memory, Failure> {
        let pid = self.process.id().ok_or("the manager has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bytes = |name: &str| -> Result<u64, Failure> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
            Ok(kib.ok_or("no such line in /proc/<pid>/status")?.trim().parse::<u64>()? * 1024)
        };
        Ok(Memory { now_bytes: bytes("VmRSS:")?, most_bytes: bytes("VmHWM:")? })
    }

    /// The processor's time that it has taken since it started.
    pub(crate) fn processor_time(&self) -> Result<Duration, Failure> {
        processor_time(self.process.id().ok_or("the manager has ended")?)
    }

    /// Ends it in good order.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        if let Some(pid) = self.process.id() {
            Command::new("kill").arg("-TERM").arg(pid.to_string()).status().await?;
        }
        self.process.wait().await?;
        Ok(())
    }
}

/// A process's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) now_bytes: u64,
    pub(crate) most_bytes: u64,
}

/// The processor's time that a process has taken, all threads together.
pub(crate) fn processor_time(pid: u32) -> Result<Duration, Failure> {
    /// Linux counts in hundredths of a second here, whatever its own clock is.
    const TICK_MS: u64 = 10;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold anything, and stands in parentheses.
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/<pid>/stat")?;
    let mut ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let (Some(user), Some(system)) = (ticks.next(), ticks.next()) else {
        return Err("too few fields in /proc/<pid>/stat".into());
    };
    Ok(Duration::from_millis((user? + system?) * TICK_MS))
}

/// The processor's time that each part has taken: what tells, where all parts share the cores, which of them is slow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) manager: Duration,
    pub(crate) server: Duration,
    /// Of this process, which is all workers and whoever asks.
    pub(crate) workers: Duration,
}

impl Taken {
    pub(crate) fn of(ground: &Ground, manager: &Manager) -> Result<Self, Failure> {
        Ok(Self {
            manager: manager.processor_time()?,
            server: ground.server_time()?,
            workers: processor_time(std::process::id())?,
        })
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            manager: self.manager.saturating_sub(before.manager),
            server: self.server.saturating_sub(before.server),
            workers: self.workers.saturating_sub(before.workers),
        }
    }
}

/// An operator's connection.
#[derive(Debug, Clone)]
pub(crate) struct Api(pub(crate) Bus);

impl Api {
    /// Asks a manager.
    pub(crate) async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        scope: Scope,
        verb: ApiVerb,
        question: &Q,
    ) -> Result<A, Failure> {
        Ok(self.ask_within(ASK_DEADLINE, scope, verb, question).await?)
    }

    /// Asks a manager, for so long.
    pub(crate) async fn ask_within<Q: Serialize, A: DeserializeOwned>(
        &self,
        deadline: Duration,
        scope: Scope,
        verb: ApiVerb,
        question: &Q,
    ) -> Result<A, AskError> {
        let ask = match verb.level() {
            Level::Read => Ask::read(deadline),
            _ => Ask::write(CommandId(Uuid::now_v7()), deadline),
        };
        Ok(self.0.ask(&Subject::Api { scope, verb }, question, ask).await?.1)
    }

    /// How the cluster stands.
    pub(crate) async fn status(&self) -> Result<ClusterView, Failure> {
        self.ask(Scope::Cluster, ApiVerb::ClusterStatus, &Nothing {}).await
    }
}

fn launch(folder: &Path, start: u32) -> Result<Child, Failure> {
    let log = std::fs::File::create(folder.join(format!("nats-{start}.log")))?;
    spawn(Command::new("nats-server").arg("-c").arg(folder.join("auth").join("server.conf")), log)
}

/// The namespace that everything measured is in.
pub(crate) fn own() -> Scope {
    Scope::Namespace(Namespace::standard())
}

/// A service of tasks that take a fifth of a core and 256 MiB each.
pub(crate) fn service(name: &str, instances: u32) -> Result<JobSpec, Failure> {
    let mut spec = TaskSpec::new("main".parse()?, "registry.example/bench/service:1.0");
    spec.instances = instances;
    spec.command = ["serve", "--port", "8080"].map(str::to_owned).to_vec();
    spec.env.insert("LOG_LEVEL".into(), "info".into());
    spec.resources = Resources { cpu_millis: 200, memory_bytes: 256 << 20, disk_bytes: 0 };
    Ok(JobSpec::new(name.parse()?, JobType::Service, spec))
}
