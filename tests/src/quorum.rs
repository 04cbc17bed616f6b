//! Three NATS servers that keep every stream together, and as many managers: what operators run where one
//! machine may die. Everything is made by `longshore auth`, as they make it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use longshore_bench::port::free_port;
use longshore_bus::{Bus, Credentials};
use longshore_proto::name::Root;
use longshore_proto::permission::Role;
use tempfile::TempDir;

use crate::api::{Api, options};
use crate::cli::Cli;
use crate::eventually::eventually;
use crate::nats::binary;
use crate::program::{Program, command, longshore};

/// The servers and the managers: each pair is a machine.
pub const MACHINES: [&str; 3] = ["a", "b", "c"];
/// How long a quorum may take to form, or to form anew, on a loaded machine.
pub const QUORUM: Duration = Duration::from_secs(60);

/// Servers and managers.
#[derive(Debug)]
pub struct Quorum {
    servers: Vec<Server>,
    managers: Vec<Option<Program>>,
    folder: TempDir,
}

#[derive(Debug)]
struct Server {
    conf: PathBuf,
    url: String,
    program: Option<Program>,
}

impl Quorum {
    /// Makes the users, and starts everything; gives it when a manager answers.
    pub async fn start(workers: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("longshore-quorum-").tempdir().unwrap();
        let auth = folder.path().join("auth");
        let auth = auth.to_str().unwrap();
        let ports: Vec<u16> = std::iter::repeat_with(free_port).take(3).collect();
        let mut init: Vec<String> =
            ["auth", "init", "--dir", auth, "--operator", "alice", "--manager", "a", "--workers"]
                .map(str::to_owned)
                .to_vec();
        init.push(workers.join(","));
        for (name, port) in MACHINES.iter().zip(&ports) {
            init.push("--server".to_owned());
            init.push(format!("{name}=127.0.0.1:{port}:{}", free_port()));
        }
        let cli = Cli::bare(folder.path());
        cli.ok(&init).await;
        for name in &MACHINES[1..] {
            cli.ok(&["auth", "manager", name, "--dir", auth]).await;
        }
        let servers = MACHINES.iter().zip(ports).map(|(name, port)| Server {
            conf: Path::new(auth).join(format!("server-{name}.conf")),
            url: format!("nats://127.0.0.1:{port}"),
            program: None,
        });
        let mut quorum =
            Self { servers: servers.collect(), managers: vec![None, None, None], folder };
        for machine in 0..MACHINES.len() {
            quorum.start_server(machine);
        }
        for machine in 0..MACHINES.len() {
            quorum.start_manager(machine);
        }
        quorum.answers().await;
        quorum
    }

    /// Every server's address.
    pub fn urls(&self) -> String {
        self.servers.iter().map(|server| server.url.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Starts a machine's server.
    pub fn start_server(&mut self, machine: usize) {
        let log = self.folder.path().join(format!("nats-{}.log", MACHINES[machine]));
        let server = &mut self.servers[machine];
        let mut command = Command::new(binary());
        command.arg("-c").arg(&server.conf);
        let name = format!("nats-server {}", MACHINES[machine]);
        server.program = Some(Program::start(&name, command, &log));
    }

    /// Starts a machine's manager.
    pub fn start_manager(&mut self, machine: usize) {
        let name = MACHINES[machine];
        let file = |role| self.credentials(role, name);
        let mut command = command(&longshore(), self.folder.path());
        command
            .args(["manager", "--nats", &self.urls(), "--replicas", "3"])
            .arg("--creds")
            .arg(file(Role::Manager))
            .arg("--core-creds")
            .arg(file(Role::ManagerCore))
            .arg("--data-dir")
            .arg(self.folder.path().join(format!("data-{name}")))
            .env("RUST_LOG", "info,longshore_manager=debug");
        let log = self.folder.path().join(format!("manager-{name}.log"));
        self.managers[machine] = Some(Program::start(&format!("manager {name}"), command, &log));
    }

    fn credentials(&self, role: Role, name: &str) -> PathBuf {
        self.folder.path().join("auth").join(format!("{role}-{name}.creds"))
    }

    /// A machine's server.
    pub fn server(&mut self, machine: usize) -> &mut Program {
        self.servers[machine].program.as_mut().unwrap()
    }

    /// A machine's manager.
    pub fn manager(&mut self, machine: usize) -> &mut Program {
        self.managers[machine].as_mut().unwrap()
    }

    /// A connection as any user, to whichever server is there.
    pub async fn bus(&self, role: Role, name: &str) -> Bus {
        let credentials = Credentials::load_as(&self.credentials(role, name), role).unwrap();
        let mut options = options(&self.urls(), &Root::standard(), role, name, Some(credentials));
        options.wait_for_server = true;
        Bus::connect(options).await.unwrap()
    }

    /// The command line of an operator.
    pub fn cli(&self) -> Cli {
        Cli::bare(self.folder.path())
            .with("LONGSHORE_NATS_URL", self.urls())
            .with("LONGSHORE_CREDS", self.credentials(Role::Operator, "alice"))
    }

    /// An operator's connection.
    pub async fn api(&self) -> Api {
        Api::new(self.bus(Role::Operator, "alice").await)
    }

    /// Waits until a manager answers.
    pub async fn answers(&self) -> Api {
        let api = self.api().await;
        eventually("a manager answers", QUORUM, async || {
            api.status().await.map_err(|error| error.to_string())
        })
        .await;
        api
    }

    /// The machine whose manager leads, by what it says of itself: its log's last word on it.
    pub async fn leader(&mut self) -> usize {
        let managers = &mut self.managers;
        eventually("one manager says that it leads", QUORUM, async || {
            let mut leaders = Vec::new();
            for (machine, manager) in managers.iter_mut().enumerate() {
                let Some(manager) = manager.as_mut() else { continue };
                if !manager.is_running() {
                    continue;
                }
                let log = manager.log();
                let last = |word: &str| log.rfind(word);
                let leads = last("this manager leads");
                if leads > last("no longer leads") && leads > last("this one stands by") {
                    leaders.push(machine);
                }
            }
            match leaders.as_slice() {
                [one] => Ok(*one),
                other => Err(format!("{other:?} say so")),
            }
        })
        .await
    }
}
