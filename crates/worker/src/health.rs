//! Asks tasks for their health: a connection, a request, a command, or what the runtime itself found.
//!
//! A container on a network of its own is asked at its address there, so that a port need not be published to be
//! asked; one on the node's network at the node's own 127.0.0.1.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::stream::StreamExt;
use longshore_core::agent::{Failure, ProbeTask};
use longshore_proto::health::Probe;
use longshore_proto::spec::Port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::runtime::{ExecWish, Runtime};

/// How much of an answer is read: the first line says it all.
const ANSWER_BYTES_MAX: usize = 512;
/// How much of a command's output is told.
const OUTPUT_BYTES_MAX: usize = 200;

/// Asks once. An answer that does not come in time is a bad one.
pub(crate) async fn ask(runtime: &dyn Runtime, probe: ProbeTask) -> Result<(), Failure> {
    let limit = Duration::from_millis(probe.check.timeout_ms);
    match tokio::time::timeout(limit, answer(runtime, &probe)).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::Refused(format!("no answer within {limit:?}"))),
    }
}

async fn answer(runtime: &dyn Runtime, probe: &ProbeTask) -> Result<(), Failure> {
    match &probe.check.probe {
        Probe::Http { port, path } => {
            let (ip, port) = address(runtime, probe, port).await?;
            http(ip, port, path).await.map_err(Failure::Refused)
        }
        Probe::Tcp { port } => {
            let (ip, port) = address(runtime, probe, port).await?;
            connect(ip, port).await.map(drop).map_err(Failure::Refused)
        }
        Probe::Exec { command } => exec(runtime, probe, command).await,
        Probe::Image => match runtime.look(probe.container_id.clone()).await?.health {
            Some(Ok(())) => Ok(()),
            Some(Err(reason)) => Err(Failure::Refused(reason)),
            None => Err(Failure::Refused(
                "the image has no HEALTHCHECK; give the task a check of another type".to_owned(),
            )),
        },
    }
}

/// Where a port of the task is reached from this node.
async fn address(
    runtime: &dyn Runtime,
    probe: &ProbeTask,
    port: &str,
) -> Result<(IpAddr, u16), Failure> {
    let named = probe.ports.iter().find(|known| known.label() == port);
    let number = |port: &Port| if probe.is_on_host_network { port.host } else { port.container };
    let number = named.map(number).or_else(|| port.parse().ok());
    let Some(number) = number else {
        return Err(Failure::Refused(format!("it has no port {port:?}")));
    };
    if probe.is_on_host_network {
        return Ok((Ipv4Addr::LOCALHOST.into(), number));
    }
    match runtime.look(probe.container_id.clone()).await?.ip {
        Some(ip) => Ok((ip, number)),
        None => Err(Failure::Refused("its container has no address".to_owned())),
    }
}

async fn connect(ip: IpAddr, port: u16) -> Result<TcpStream, String> {
    let connected = TcpStream::connect((ip, port)).await;
    connected.map_err(|error| format!("port {port}: {}", io_reason(&error)))
}

/// One request without anything that a server could stumble over.
async fn http(ip: IpAddr, port: u16, path: &str) -> Result<(), String> {
    let mut stream = connect(ip, port).await?;
    let host = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: longshore\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    );
    let what = |error: std::io::Error| format!("GET {path}: {}", io_reason(&error));
    stream.write_all(request.as_bytes()).await.map_err(what)?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < ANSWER_BYTES_MAX {
        if stream.read_buf(&mut answer).await.map_err(what)? == 0 {
            break;
        }
    }
    match status(&answer) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("GET {path}: status {status}")),
        None => Err(format!("GET {path}: the answer is no HTTP")),
    }
}

/// The status in the first line of an answer.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let (version, rest) = line.trim_end().split_once(' ')?;
    let digits = rest.get(..3)?;
    version.starts_with("HTTP/1.").then(|| digits.parse().ok())?
}

async fn exec(runtime: &dyn Runtime, probe: &ProbeTask, command: &[String]) -> Result<(), Failure> {
    let wish = ExecWish {
        container_id: probe.container_id.clone(),
        command: command.to_vec(),
        ..ExecWish::default()
    };
    let mut exec = runtime.exec(wish).await?;
    let mut told = Vec::new();
    while let Some(piece) = exec.output.next().await {
        let piece = piece?;
        let room = OUTPUT_BYTES_MAX.saturating_sub(told.len()).min(piece.bytes.len());
        told.extend_from_slice(piece.bytes.get(..room).unwrap_or_default());
    }
    match runtime.exec_result(exec.id).await? {
        Some(0) => Ok(()),
        code => {
            let code =
                code.map_or_else(|| "an unknown code".to_owned(), |code| format!("code {code}"));
            let told = String::from_utf8_lossy(&told).trim().replace('\n', "; ");
            let told = if told.is_empty() { told } else { format!(": {told}") };
            Err(Failure::Refused(format!("its check ended with {code}{told}")))
        }
    }
}

/// Why a connection failed, without the number that only a kernel understands.
fn io_reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line_alone() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 500\n"), Some(500));
        for odd in
            [&b""[..], b"HTTP/1.1", b"HTTP/1.1 2x4\r\n", b"220 smtp ready\r\n", b"\xff\xfe 200 x\n"]
        {
            assert_eq!(status(odd), None);
        }
    }

    #[tokio::test]
    async fn an_answer_is_judged_by_its_status() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ip, port) = (Ipv4Addr::LOCALHOST.into(), listener.local_addr().unwrap().port());
        let serve = tokio::spawn(async move {
            for answer in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 503 Busy\r\n\r\n", "hello\n", ""] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1_024];
                let length = stream.read(&mut request).await.unwrap();
                assert!(
                    request[..length].starts_with(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:")
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        assert_eq!(http(ip, port, "/healthz").await, Ok(()));
        assert_eq!(http(ip, port, "/healthz").await, Err("GET /healthz: status 503".into()));
        for _ in 0..2 {
            let error = http(ip, port, "/healthz").await.unwrap_err();
            assert_eq!(error, "GET /healthz: the answer is no HTTP");
        }
        serve.await.unwrap();
        let error = connect(ip, port).await.unwrap_err();
        assert_eq!(error, format!("port {port}: connection refused"));
    }
}
