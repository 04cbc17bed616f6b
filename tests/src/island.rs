//! A program on a network of its own, that a test can cut.
//!
//! Where namespaces can be made (root on Linux), an island is one: its programs have a loopback that nobody else has,
//! and on it a bridge to one server outside. Cutting takes that loopback down, so that packets are lost as in a network
//! that has failed: nothing is closed, nobody is told. Elsewhere the bridge alone stops to carry; the test's output says
//! so.

use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use uuid::Uuid;

/// An island.
#[derive(Debug)]
pub struct Island {
    /// The namespace's name; none where there is no namespace.
    namespace: Option<String>,
    port: u16,
    /// How long each piece waits in the bridge; `None` while it carries nothing.
    pace: watch::Sender<Option<Duration>>,
    connections: Arc<AtomicUsize>,
    bridge: AbortHandle,
}

impl Island {
    /// An island with a bridge to a server on this machine's loopback.
    pub fn start(server: u16) -> Self {
        let namespace = make_namespace();
        let listener = match &namespace {
            Some(name) => {
                let name = name.clone();
                // Sockets belong to the namespace that their thread was in when it made them.
                let made = std::thread::spawn(move || {
                    let link = File::open(format!("/run/netns/{name}")).unwrap();
                    let kind = Some(LinkNameSpaceType::Network);
                    move_into_link_name_space(link.as_fd(), kind).unwrap();
                    TcpListener::bind("127.0.0.1:0").unwrap()
                });
                made.join().unwrap()
            }
            None => TcpListener::bind("127.0.0.1:0").unwrap(),
        };
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (pace, paced) = watch::channel(Some(Duration::ZERO));
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        let bridge = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let paced = paced.clone();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
                        return;
                    };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = carry(from_client, to_server, paced.clone()) => {}
                        () = carry(from_server, to_client, paced) => {}
                    }
                });
            }
        });
        Self { namespace, port, pace, connections, bridge: bridge.abort_handle() }
    }

    /// The server's address, as it is on the island.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The same command, to be run on the island.
    pub fn enter(&self, command: Command) -> Command {
        let Some(name) = &self.namespace else { return command };
        let mut entering = Command::new("nsenter");
        entering.arg(format!("--net=/run/netns/{name}")).arg(command.get_program());
        entering.args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => entering.env(variable, value),
                None => entering.env_remove(variable),
            };
        }
        entering
    }

    /// Nothing gets in or out, and nobody is told.
    pub fn cut(&self) {
        match &self.namespace {
            Some(name) => ip(["-n", name, "link", "set", "lo", "down"]),
            None => drop(self.pace.send_replace(None)),
        }
    }

    /// Everything gets through again.
    pub fn heal(&self) {
        if let Some(name) = &self.namespace {
            ip(["-n", name, "link", "set", "lo", "up"]);
        }
        self.pace.send_replace(Some(Duration::ZERO));
    }

    /// Everything waits so long in the bridge, each way.
    pub fn delay(&self, by: Duration) {
        self.pace.send_replace(Some(by));
    }

    /// How many connections were made over the bridge.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        self.bridge.abort();
        if let Some(name) = &self.namespace {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Carries bytes one way, in order, each piece as late as the pace says.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut pace: watch::Receiver<Option<Duration>>,
) {
    let mut piece = vec![0; 64 << 10];
    loop {
        let Ok(length @ 1..) = from.read(&mut piece).await else { return };
        let Ok(wait) = pace.wait_for(Option::is_some).await.map(|pace| pace.unwrap_or_default())
        else {
            return;
        };
        tokio::time::sleep(wait).await;
        if to.write_all(piece.get(..length).unwrap_or_default()).await.is_err() {
            return;
        }
    }
}

#[expect(clippy::print_stderr, reason = "the test runner shows it with the test")]
fn make_namespace() -> Option<String> {
    let name = format!("longshore-{}", &Uuid::new_v4().simple().to_string()[..8]);
    let made = Command::new("ip").args(["netns", "add", &name]).output();
    if made.is_ok_and(|made| made.status.success()) {
        ip(["-n", &name, "link", "set", "lo", "up"]);
        return Some(name);
    }
    eprintln!("no network namespace can be made here: the network is cut in the bridge instead");
    None
}

fn ip<S: AsRef<OsStr>, const N: usize>(words: [S; N]) {
    let done = Command::new("ip").args(words).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
