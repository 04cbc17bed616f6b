//! Whether Docker answers on this machine. Asked by hand: one request over a socket needs no library.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::Finding;

/// Where Docker listens unless `DOCKER_HOST` says otherwise.
const SOCKET_STANDARD: &str = "/var/run/docker.sock";
/// How long it may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Looks whether Docker answers; its absence is no fault, for only workers need it.
pub(super) async fn look() -> Finding {
    let what = "docker";
    let host = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    let socket = match host.as_deref().map(|host| (host, host.strip_prefix("unix://"))) {
        None => PathBuf::from(SOCKET_STANDARD),
        Some((_, Some(path))) => PathBuf::from(path),
        Some((host, None)) => {
            return Finding::ok(what, format!("DOCKER_HOST is {host}: not looked at"));
        }
    };
    if !socket.exists() {
        return Finding::ok(
            what,
            format!(
                "no socket at {}: this machine can run no worker, and need not",
                socket.display()
            ),
        );
    }
    match tokio::time::timeout(TIMEOUT, ping(&socket)).await {
        Ok(Ok(answer)) if answer.contains(" 200 ") => {
            Finding::ok(what, format!("answers at {}", socket.display()))
        }
        Ok(Ok(answer)) => Finding::warn(
            what,
            format!("answers {answer:?} at {}", socket.display()),
            "a worker on this machine needs it: see the daemon's log",
        ),
        Ok(Err(error)) => Finding::warn(
            what,
            format!("cannot be asked at {}: {error}", socket.display()),
            "a worker on this machine needs it: is the daemon running, and may this user use it?",
        ),
        Err(_) => Finding::warn(
            what,
            format!("gives no answer at {}", socket.display()),
            "a worker on this machine needs it: restart the daemon",
        ),
    }
}

/// The first line of the answer.
async fn ping(socket: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn the_first_line_of_the_answer_tells() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 64];
            let count = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nOK").await.unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        assert_eq!(ping(&path).await.unwrap(), "HTTP/1.0 200 OK");
        assert!(server.await.unwrap().starts_with("GET /_ping "));
    }
}
