//! A NATS server of the test's own: the repository's configuration, on a free port of loopback.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use longshore_bench::port::free_port;
use rustix::process::Signal;
use uuid::Uuid;

use crate::eventually::eventually;
use crate::program::{Program, checkout};

/// How long a server may take to start on a loaded machine.
const START: Duration = Duration::from_secs(20);

/// A NATS server.
#[derive(Debug)]
pub struct Nats {
    conf: PathBuf,
    log: PathBuf,
    name: String,
    port: u16,
    program: Option<Program>,
}

impl Nats {
    /// Starts a server with the repository's own configuration and the given accounts.
    pub async fn start(folder: &Path, accounts: &str) -> Self {
        Self::start_changed(folder, accounts, |conf| conf).await
    }

    /// As [`Nats::start`], with a configuration that differs.
    pub async fn start_changed(
        folder: &Path,
        accounts: &str,
        change: impl FnOnce(String) -> String,
    ) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let name = format!("test-{}", Uuid::new_v4());
        let store = folder.join("store").display().to_string();
        let mut text = std::fs::read_to_string(checkout().join("nats/server.conf")).unwrap();
        for (usual, ours) in [
            ("server_name: longshore-1", format!("server_name: {name}")),
            ("\nlisten: \"127.0.0.1:4222\"", String::new()),
            ("\nhttp: \"127.0.0.1:8222\"", String::new()),
            ("/var/lib/longshore/nats", store),
        ] {
            assert!(text.contains(usual), "nats/server.conf has no {usual:?}");
            text = text.replace(usual, &ours);
        }
        let conf = folder.join("server.conf");
        std::fs::write(&conf, change(text)).unwrap();
        std::fs::write(folder.join("accounts.conf"), accounts).unwrap();
        let mut nats =
            Self { conf, log: folder.join("nats.log"), name, port: free_port(), program: None };
        while !nats.launch().await {
            nats.port = free_port();
        }
        nats
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its port of loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.program().pid()
    }

    /// Everything that it has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.program.take().unwrap().kill();
    }

    /// Starts it again on the same port and store, after [`Nats::kill`].
    pub async fn restart(&mut self) {
        assert!(self.launch().await, "the server's port {} was taken meanwhile", self.port);
    }

    /// Stops its time: connections stay, nothing answers.
    pub fn pause(&self) {
        self.program().signal(Signal::STOP);
    }

    /// Lets its time go on.
    pub fn resume(&self) {
        self.program().signal(Signal::CONT);
    }

    fn program(&self) -> &Program {
        self.program.as_ref().unwrap()
    }

    /// Starts it, and stays until it answers. False when its port is taken by somebody else.
    async fn launch(&mut self) -> bool {
        let mut command = Command::new(binary());
        command.arg("-c").arg(&self.conf);
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string()]);
        let mut program = Program::start("nats-server", command, &self.log);
        let answers = eventually("the NATS server answers", START, async || {
            if !program.is_running() {
                return Ok(false);
            }
            match greeting(self.port) {
                Ok(info) if info.contains(&self.name) => Ok(true),
                Ok(info) => Err(format!("somebody else answers: {info}")),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        if !answers {
            let log = program.log();
            assert!(log.contains("address already in use"), "the NATS server ended: {log}");
            return false;
        }
        self.program = Some(program);
        true
    }
}

/// What a server says first.
fn greeting(port: u16) -> std::io::Result<String> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

/// The server that `scripts/setup` got, else the one on PATH.
pub fn binary() -> PathBuf {
    let own = checkout().join(".tools/bin/nats-server");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(own)
        .chain(std::env::split_paths(&path).map(|folder| folder.join("nats-server")))
        .find(|path| path.is_file())
        .expect("there is no nats-server; run scripts/setup")
}
