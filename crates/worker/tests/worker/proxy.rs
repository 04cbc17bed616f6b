//! Stands between a worker and Docker, and does to each call what the test says: passes it on, delays it, leaves it
//! without an answer, cuts it, or answers in Docker's place.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// What is done to a call.
#[derive(Debug, Clone)]
pub(crate) enum Deed {
    /// It reaches Docker.
    Pass,
    /// The connection is taken, and nothing is ever answered.
    Hang,
    /// It reaches Docker, which does it, and the answer is lost.
    LoseAnswer,
    /// It never reaches Docker: this is the answer, with a status and a body of JSON.
    Answer(u16, String),
}

/// Decides by the first line of a request: `GET /containers/json?all=true HTTP/1.1`.
type Rule = Box<dyn Fn(&str) -> Deed + Send>;

/// A socket in Docker's place.
pub(crate) struct Proxy {
    socket: PathBuf,
    rule: Arc<Mutex<Rule>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens at a path that does not exist yet, and passes everything on to the Docker of this machine.
    pub(crate) fn start(socket: &Path) -> Self {
        let host = std::env::var("DOCKER_HOST")
            .unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
        let docker = PathBuf::from(host.trim_start_matches("unix://"));
        let listener = UnixListener::bind(socket).unwrap();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_| Deed::Pass)));
        let shared = rule.clone();
        let accepting = tokio::spawn(async move {
            // Dropped with this task, and with it every connection.
            let mut connections = JoinSet::new();
            while let Ok((worker, _)) = listener.accept().await {
                connections.spawn(serve(worker, docker.clone(), shared.clone()));
            }
        });
        Self { socket: socket.to_owned(), rule, accepting }
    }

    /// From now on, calls that begin are treated like this.
    pub(crate) fn set(&self, rule: impl Fn(&str) -> Deed + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// Docker goes away.
    pub(crate) fn stop(self) {
        std::fs::remove_file(&self.socket).unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One call: bollard makes a connection for each.
async fn serve(mut worker: UnixStream, docker: PathBuf, rule: Arc<Mutex<Rule>>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX
            || !worker.read_buf(&mut head).await.is_ok_and(|read| read > 0)
        {
            return;
        }
    }
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    let deed = (rule.lock().unwrap())(&line);
    match deed {
        Deed::Pass => {
            let mut docker = UnixStream::connect(docker).await.unwrap();
            docker.write_all(&head).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut worker, &mut docker).await;
        }
        Deed::Hang => {
            // Until the caller gives up.
            while worker.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                head.clear();
            }
        }
        Deed::LoseAnswer => {
            let mut docker = UnixStream::connect(docker).await.unwrap();
            docker.write_all(&head).await.unwrap();
            let mut answer = [0; 1];
            let (mut from_worker, mut to_docker) = (worker, docker);
            let mut body = [0; 4_096];
            loop {
                tokio::select! {
                    read = from_worker.read(&mut body) => match read {
                        Ok(length) if length > 0 => to_docker.write_all(&body[..length]).await.unwrap(),
                        _ => return,
                    },
                    _ = to_docker.read(&mut answer) => return,
                }
            }
        }
        Deed::Answer(status, body) => {
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status} As told\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
                 Connection: close\r\n\r\n{body}"
            );
            let _ = worker.write_all(answer.as_bytes()).await;
        }
    }
}
