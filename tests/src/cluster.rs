//! Server, managers and workers together, each with credentials and a data directory of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use longshore_bus::Bus;
use longshore_proto::name::Root;
use longshore_proto::permission::Role;
use longshore_proto::state::NodeStatus;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::api::{Api, connect};
use crate::cli::Cli;
use crate::docker::{self, Docker};
use crate::eventually::eventually;
use crate::island::Island;
use crate::nats::Nats;
use crate::program::{Program, command, longshore};
use crate::users::Users;

/// How long a cluster may take to answer on a loaded machine.
const START: Duration = Duration::from_secs(30);

/// How many clusters one test program has at once: deadlines are for a machine that is not swamped.
static ROOM: Semaphore = Semaphore::const_new(4);

/// A cluster of the test's own.
#[derive(Debug)]
pub struct Cluster {
    managers: BTreeMap<String, Program>,
    workers: BTreeMap<String, Program>,
    /// The server.
    pub nats: Nats,
    /// Who may log in.
    pub users: Users,
    /// The label of the cluster's containers, once it is known that it may have some.
    cluster_id: Option<String>,
    folder: TempDir,
    _room: SemaphorePermit<'static>,
}

impl Cluster {
    /// A NATS server with everybody's accounts, and nothing else.
    pub async fn server() -> Self {
        Self::server_of(Root::standard()).await
    }

    /// A NATS server whose accounts are of a subject root, and nothing else.
    pub async fn server_of(root: Root) -> Self {
        Self::server_made(root, |_| {}, |conf| conf).await
    }

    /// The same, after its folder was prepared, and with a configuration that differs.
    pub async fn server_made(
        root: Root,
        prepare: impl FnOnce(&Path),
        change: impl FnOnce(String) -> String,
    ) -> Self {
        Self::server_for(&root, 0, prepare, change).await.0
    }

    /// A NATS server that also knows so many more workers, and a manager that answers; and the workers' names.
    pub async fn start_for_many(workers: usize) -> (Self, Vec<String>) {
        let root = Root::standard();
        let (mut cluster, names) = Self::server_for(&root, workers, |_| {}, |conf| conf).await;
        cluster.start_manager("m1", &[]);
        cluster.answers().await;
        (cluster, names)
    }

    async fn server_for(
        root: &Root,
        workers: usize,
        prepare: impl FnOnce(&Path),
        change: impl FnOnce(String) -> String,
    ) -> (Self, Vec<String>) {
        let room = ROOM.acquire().await.unwrap();
        let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().unwrap();
        let mut users = Users::everybody(&folder.path().join("creds"), root);
        let names = users.add_workers(workers);
        let place = folder.path().join("nats");
        prepare(&place);
        let nats = Nats::start_changed(&place, &users.accounts_conf(), change).await;
        let (managers, workers) = (BTreeMap::new(), BTreeMap::new());
        let cluster =
            Self { managers, workers, nats, users, cluster_id: None, folder, _room: room };
        (cluster, names)
    }

    /// A server and a manager that answers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A server and a manager with options of the test's choice, that answers.
    pub async fn start_with(options: &[&str]) -> Self {
        let mut cluster = Self::server().await;
        cluster.start_manager("m1", options);
        cluster.answers().await;
        cluster
    }

    /// A server, a manager and workers that take tasks.
    pub async fn with_workers(names: &[&str]) -> Self {
        let mut cluster = Self::start().await;
        for name in names {
            cluster.start_worker(name, &[]);
        }
        for name in names {
            cluster.node_is(name, NodeStatus::Ready).await;
        }
        cluster
    }

    /// The folder of everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until a manager answers, and gives an operator's connection.
    pub async fn answers(&self) -> Api {
        let api = self.api().await;
        eventually("a manager answers", START, async || {
            api.status().await.map_err(|error| error.to_string())
        })
        .await;
        api
    }

    /// An operator's connection.
    pub async fn api(&self) -> Api {
        Api::new(self.bus(Role::Operator, "alice").await)
    }

    /// A connection as any user.
    pub async fn bus(&self, role: Role, name: &str) -> Bus {
        connect(&self.nats.url(), &self.users, role, name).await
    }

    /// The command line of an operator.
    pub fn cli(&self) -> Cli {
        Cli::bare(self.folder.path())
            .with("LONGSHORE_NATS_URL", self.nats.url())
            .with("LONGSHORE_CREDS", self.users.file(Role::Operator, "alice"))
            .with("LONGSHORE_ROOT", self.users.root().as_str())
    }

    /// A manager's or worker's data directory.
    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("data-{name}"))
    }

    /// Starts a manager under a user's name, with that name's data directory.
    pub fn start_manager(&mut self, name: &str, options: &[&str]) {
        let program = self.spawn_manager(name, &self.data_dir(name), options);
        self.managers.insert(name.to_owned(), program);
    }

    /// Starts a manager under a user's name on a data directory from elsewhere.
    pub fn start_manager_on(&mut self, name: &str, data_dir: &Path, options: &[&str]) {
        let program = self.spawn_manager(name, data_dir, options);
        self.managers.insert(name.to_owned(), program);
    }

    /// Starts a manager, and stays until it stands by.
    pub async fn start_standby(&mut self, name: &str, options: &[&str]) {
        self.start_manager(name, options);
        self.manager(name).says("this one stands by", START).await;
    }

    /// Starts a manager on an island.
    pub fn start_manager_in(&mut self, island: &Island, name: &str, options: &[&str]) {
        let command = self.manager_command(name, &island.url(), &self.data_dir(name), options);
        let log = self.log_file("manager", name);
        let program = Program::start(&format!("manager {name}"), island.enter(command), &log);
        self.managers.insert(name.to_owned(), program);
    }

    /// Starts a manager that the test holds itself, because it is expected to end.
    pub fn spawn_manager(&self, name: &str, data_dir: &Path, options: &[&str]) -> Program {
        let command = self.manager_command(name, &self.nats.url(), data_dir, options);
        Program::start(&format!("manager {name}"), command, &self.log_file("manager", name))
    }

    fn manager_command(&self, name: &str, url: &str, data_dir: &Path, options: &[&str]) -> Command {
        let mut command = command(&longshore(), self.folder.path());
        command
            .arg("manager")
            .args(["--nats", url, "--root", self.users.root().as_str()])
            .arg("--creds")
            .arg(self.users.file(Role::Manager, name))
            .arg("--core-creds")
            .arg(self.users.file(Role::ManagerCore, name))
            .arg("--data-dir")
            .arg(data_dir)
            .args(options)
            .env("RUST_LOG", "info,longshore_manager=debug");
        command
    }

    /// Starts a worker under a user's name, with that name's data directory and a small capacity.
    pub fn start_worker(&mut self, name: &str, options: &[&str]) {
        let program = self.spawn_worker(name, &self.data_dir(name), options, &[]);
        self.workers.insert(name.to_owned(), program);
    }

    /// Starts a worker whose Docker is elsewhere.
    pub fn start_worker_on(&mut self, name: &str, docker_host: &str) {
        let variables = [("DOCKER_HOST", docker_host)];
        let program = self.spawn_worker(name, &self.data_dir(name), &[], &variables);
        self.workers.insert(name.to_owned(), program);
    }

    /// Starts a worker without Docker that knows these servers.
    pub fn start_worker_at(&mut self, name: &str, servers: &str) {
        let mut command = self.worker_command(name, servers, &self.data_dir(name), &[]);
        command.env("DOCKER_HOST", "unix:///no/such/socket");
        let log = self.log_file("worker", name);
        let program = Program::start(&format!("worker {name}"), command, &log);
        self.workers.insert(name.to_owned(), program);
    }

    /// Starts a worker on an island.
    pub fn start_worker_in(&mut self, island: &Island, name: &str, options: &[&str]) {
        let command = self.worker_command(name, &island.url(), &self.data_dir(name), options);
        let log = self.log_file("worker", name);
        let program = Program::start(&format!("worker {name}"), island.enter(command), &log);
        self.workers.insert(name.to_owned(), program);
    }

    /// Starts a worker that the test holds itself.
    pub fn spawn_worker(
        &self,
        name: &str,
        data_dir: &Path,
        options: &[&str],
        variables: &[(&str, &str)],
    ) -> Program {
        let mut command = self.worker_command(name, &self.nats.url(), data_dir, options);
        command.envs(variables.iter().copied());
        Program::start(&format!("worker {name}"), command, &self.log_file("worker", name))
    }

    fn worker_command(&self, name: &str, url: &str, data_dir: &Path, options: &[&str]) -> Command {
        let mut command = command(&longshore(), self.folder.path());
        command
            .args(["worker", "--name", name, "--nats", url])
            .args(["--root", self.users.root().as_str()])
            .arg("--creds")
            .arg(self.users.file(Role::Worker, name))
            .arg("--data-dir")
            .arg(data_dir);
        if !options.contains(&"--capacity") {
            command.args(["--capacity", "cpu=4,memory=4GiB,disk=10GiB"]);
        }
        command.args(options).env("RUST_LOG", "info,longshore_worker=debug");
        command
    }

    fn log_file(&self, kind: &str, name: &str) -> PathBuf {
        self.folder.path().join(format!("{kind}-{name}.log"))
    }

    /// A manager's process.
    pub fn manager(&mut self, name: &str) -> &mut Program {
        self.managers.get_mut(name).unwrap()
    }

    /// A worker's process.
    pub fn worker(&mut self, name: &str) -> &mut Program {
        self.workers.get_mut(name).unwrap()
    }

    /// Waits until a node has a status.
    pub async fn node_is(&mut self, name: &str, status: NodeStatus) {
        let api = self.api().await;
        let id = api.status().await.unwrap().id.to_string();
        self.cluster_id = Some(id);
        eventually(
            &format!("{name} is {}", status.as_str()),
            Duration::from_secs(60),
            async || {
                let nodes = api.nodes().await.map_err(|error| error.to_string())?;
                match nodes.iter().find(|node| node.name.as_str() == name) {
                    Some(node) if node.status == status => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            },
        )
        .await;
    }

    /// Docker, seen through the label of this cluster.
    pub async fn docker(&mut self) -> Docker {
        let id = match &self.cluster_id {
            Some(id) => id.clone(),
            None => self.api().await.status().await.unwrap().id.to_string(),
        };
        self.cluster_id = Some(id.clone());
        Docker::of_cluster(id)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Workers first: nobody must start a container while they are removed.
        self.workers.clear();
        self.managers.clear();
        if let Some(id) = self.cluster_id.take() {
            docker::remove_all(id);
        }
    }
}
