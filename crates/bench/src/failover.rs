//! From the death of a leader to the first decision of the next one, and from its goodbye.
//!
//! Two managers and a NATS server, as users run them. The one that leads is killed again and again; a client asks
//! for a decision every few milliseconds, and the first one that is granted ends the time.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use longshore_bus::{Ask, AskError, Bus, Credentials, Options, Tls};
use longshore_proto::api::{JobSubmitted, SubmitJob};
use longshore_proto::id::CommandId;
use longshore_proto::name::{Namespace, Root};
use longshore_proto::permission::Role;
use longshore_proto::spec::{JobSpec, JobType, TaskSpec};
use longshore_proto::subject::{ApiVerb, Scope, Subject};
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::cluster::{longshore, spawn};
use crate::raw::milliseconds;
use longshore_bench::Failure;
use longshore_bench::port::free_port;
use longshore_bench::report::{Figure, median, progress, quantile};

/// How often a leader is killed, and how often one is told to stop.
const KILLS: usize = 50;
const STOPS: usize = 20;
/// How often a decision is asked for.
const ASK_INTERVAL: Duration = Duration::from_millis(10);
/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures.
pub(crate) async fn measure() -> Result<Vec<Figure>, Failure> {
    let mut pair = Pair::start().await?;
    let mut figures = Vec::new();
    for (name, rounds, way) in [("kill -9", KILLS, End::Kill), ("stop", STOPS, End::Stop)] {
        let mut times = Vec::with_capacity(rounds);
        for round in 1..=rounds {
            times.push(milliseconds(pair.round(way).await?));
            if round % 10 == 0 {
                progress(&format!(
                    "failover after {name}, {round} of {rounds}: {:.0} ms at the median",
                    median(&times)
                ));
            }
        }
        for (part, value) in [("median", median(&times)), ("p99", quantile(&times, 0.99))] {
            let name = format!("failover/{name} of the leader to the next decision, {part}");
            figures.push(Figure::alone(name, value, "ms"));
        }
    }
    Ok(figures)
}

/// How a leader ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Kill,
    Stop,
}

/// A server and two managers; the first of them leads.
struct Pair {
    folder: tempfile::TempDir,
    url: String,
    bus: Bus,
    managers: Vec<(&'static str, Child)>,
    starts: usize,
    _server: Child,
}

impl Pair {
    async fn start() -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let port = free_port();
        let auth = folder.path().join("auth");
        let listen = format!("127.0.0.1:{port}");
        for words in [
            ["init", "--operator", "bench", "--listen", &listen].as_slice(),
            ["manager", "m2"].as_slice(),
        ] {
            let mut command = longshore();
            command.arg("auth").args(words).arg("--dir").arg(&auth);
            let made = command.stdout(Stdio::null()).stderr(Stdio::null()).status().await?;
            if !made.success() {
                return Err(format!("`longshore auth {}` failed", words.join(" ")).into());
            }
        }
        let log = std::fs::File::create(folder.path().join("nats.log"))?;
        let conf = auth.join("server.conf");
        let server = spawn(Command::new("nats-server").arg("-c").arg(conf), log)?;
        let url = format!("nats://{listen}");
        let bus = connect(&url, &auth).await?;
        let mut pair = Self { folder, url, bus, managers: Vec::new(), starts: 0, _server: server };
        pair.start_manager("m1").await?;
        pair.decision().await?;
        pair.start_manager("m2").await?;
        Ok(pair)
    }

    /// Starts a manager, and waits until it stands by; the first one leads.
    async fn start_manager(&mut self, name: &'static str) -> Result<(), Failure> {
        self.starts += 1;
        let path = self.folder.path().join(format!("{name}-{}.log", self.starts));
        let creds = |user: &str| self.folder.path().join("auth").join(format!("{user}.creds"));
        let mut manager = longshore();
        manager
            .args(["manager", "--nats", &self.url, "--creds"])
            .arg(creds(&format!("manager-{name}")))
            .arg("--core-creds")
            .arg(creds(&format!("manager-core-{name}")))
            .arg("--data-dir")
            .arg(self.folder.path().join(name));
        let child = spawn(&mut manager, std::fs::File::create(&path)?)?;
        self.managers.push((name, child));
        let words =
            if self.managers.len() == 1 { "this manager leads" } else { "this one stands by" };
        says(&path, words).await
    }

    /// Ends the leader, and gives the time to the next one's first decision.
    async fn round(&mut self, way: End) -> Result<Duration, Failure> {
        let (name, mut leader) = self.managers.remove(0);
        let start = Instant::now();
        match (way, leader.id()) {
            (End::Stop, Some(pid)) => {
                Command::new("kill").arg("-TERM").arg(pid.to_string()).status().await?;
            }
            _ => leader.start_kill()?,
        }
        self.decision().await?;
        let time = start.elapsed();
        leader.wait().await?;
        self.start_manager(name).await?;
        Ok(time)
    }

    /// Asks for a decision until one is granted.
    async fn decision(&self) -> Result<(), Failure> {
        let start = Instant::now();
        let subject = Subject::Api {
            scope: Scope::Namespace(Namespace::standard()),
            verb: ApiVerb::JobSubmit,
        };
        let mut spec = TaskSpec::new("main".parse()?, "busybox:1");
        spec.instances = 1;
        let job = JobSpec {
            datacenters: vec!["nowhere".parse()?],
            ..JobSpec::new("failover".parse()?, JobType::Service, spec)
        };
        let question = SubmitJob { job };
        let id = CommandId(Uuid::now_v7());
        while start.elapsed() < PATIENCE {
            let ask = Ask::write(id, Duration::from_millis(100));
            let asked: Result<(u64, JobSubmitted), AskError> =
                self.bus.ask(&subject, &question, ask).await;
            if asked.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
        Err(format!("no decision; the logs are in {}", self.folder.path().display()).into())
    }
}

async fn connect(url: &str, auth: &Path) -> Result<Bus, Failure> {
    let file: PathBuf = auth.join("operator-bench.creds");
    let credentials = Credentials::load_as(&file, Role::Operator)?;
    let options = Options {
        servers: url.to_owned(),
        root: Root::standard(),
        role: Role::Operator,
        user: credentials.name.clone(),
        credentials: Some(credentials),
        tls: Tls::default(),
        wait_for_server: true,
    };
    Ok(tokio::time::timeout(PATIENCE, Bus::connect(options)).await??)
}

/// Waits until a log holds a text.
async fn says(log: &Path, text: &str) -> Result<(), Failure> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if std::fs::read_to_string(log)?.contains(text) {
            return Ok(());
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
    Err(format!("{} does not say {text:?}", log.display()).into())
}
