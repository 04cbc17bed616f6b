//! Connections to tasks' ports for operators.
//!
//! A task may listen on all of its addresses, or on its own 127.0.0.1 alone, which nobody reaches from outside of its
//! network namespace. So a connection is made from inside of it, by a thread that enters it and ends: a socket stays in
//! the namespace where it was made. That needs the rights of root on the runtime's own machine. A worker without them,
//! or in a container, connects to the container's address instead, and says what it could not reach.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::rpc::{CHUNK_BYTES_MAX, ChunkBody, ForwardRequest, Input};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::driver::Message;
use crate::exec::running;
use crate::input::{Fed, feed};
use crate::out::{Gone, Out};
use crate::runtime::{Look, Runtime};

/// How long a connection may take to open.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How many answers of the side that writes may wait.
const FED_MAX: usize = 64;

/// Serves one connection to its end.
pub(crate) async fn serve(
    out: &mut Out,
    request: ForwardRequest,
    inputs: mpsc::Receiver<Input>,
    runtime: Arc<dyn Runtime>,
    driver: &mpsc::Sender<Message>,
) -> Result<Option<ApiError>, Gone> {
    let node = out.node().clone();
    let container_id = match running(driver, request.task, &node).await {
        Ok(container_id) => container_id,
        Err(refusal) => return Ok(Some(refusal)),
    };
    debug!(task = %request.task, user = %request.user, port = request.port, "connecting for an operator");
    let look = match out.unless_gone(runtime.look(container_id.clone())).await? {
        Ok(look) => look,
        Err(error) => return Ok(Some(ApiError::new(ErrorCode::Internal, error.to_string()))),
    };
    let stream = match out.unless_gone(connect(look, container_id, request.port)).await? {
        Ok(stream) => stream,
        Err(reason) => return Ok(Some(ApiError::new(ErrorCode::Unavailable, reason))),
    };
    // Small pieces are passed on as they come: whoever sent them had a reason.
    let _ = stream.set_nodelay(true);
    let (mut from_task, to_task) = stream.into_split();
    let (tell, mut fed) = mpsc::channel(FED_MAX);
    let _feeder = AbortOnDropHandle::new(tokio::spawn(feed(inputs, Box::pin(to_task), None, tell)));

    out.send(ChunkBody::Taken(0)).await?;
    let mut piece = vec![0; CHUNK_BYTES_MAX];
    let (mut may_read, mut may_write, mut is_cut_off) = (true, true, false);
    while may_read || may_write {
        let next = async {
            tokio::select! {
                read = from_task.read(&mut piece), if may_read => Ok(read),
                told = fed.recv(), if !is_cut_off => Err(told),
            }
        };
        match out.unless_gone(next).await? {
            Ok(Ok(0)) => {
                may_read = false;
                out.send(ChunkBody::OutputEnd).await?;
            }
            Ok(Ok(length)) => {
                let bytes = piece.get(..length).unwrap_or_default().to_vec();
                out.send(ChunkBody::Stdout(bytes)).await?;
            }
            Ok(Err(error)) => return Ok(Some(broken(&error.to_string()))),
            Err(Some(Fed::Taken(sequence))) => out.send(ChunkBody::Taken(sequence)).await?,
            Err(Some(Fed::Ended(sequence))) => {
                may_write = false;
                out.send(ChunkBody::Taken(sequence)).await?;
            }
            Err(Some(Fed::Lost)) => {
                return Ok(Some(broken("a part of what was sent was lost on the way")));
            }
            // What it has answered before is still to be read: a server may answer and close before it has read it all.
            Err(Some(Fed::Closed) | None) => (may_write, is_cut_off) = (false, true),
        }
    }
    Ok(is_cut_off.then(|| broken("the task reads no more")))
}

fn broken(why: &str) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, format!("the connection broke: {why}"))
}

/// Opens a connection to a port, as near to the task as this worker gets.
async fn connect(look: Look, container_id: String, port: u16) -> Result<TcpStream, String> {
    let from_inside = match look.pid {
        Some(pid) => from_inside(pid, container_id, port).await,
        None => Inside::OutOfReach("the container has no process".to_owned()),
    };
    let inside = match from_inside {
        Inside::Open(stream) => return Ok(stream),
        Inside::Refused(error) => format!("at its own 127.0.0.1: {error}"),
        Inside::OutOfReach(why) => {
            format!("its own 127.0.0.1 is out of this worker's reach ({why})")
        }
    };
    let address = if look.is_on_host_network { Some(Ipv4Addr::LOCALHOST.into()) } else { look.ip };
    let outside = match address {
        Some(ip) => match open(ip, port).await {
            Ok(stream) => return Ok(stream),
            Err(error) => format!("at {}: {error}", SocketAddr::new(ip, port)),
        },
        None => "it has no address of its own".to_owned(),
    };
    Err(format!("nothing answers on port {port} of the task: {outside}; {inside}"))
}

async fn open(ip: IpAddr, port: u16) -> io::Result<TcpStream> {
    tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect((ip, port)))
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
}

/// What came of a connection from inside of a container's network.
enum Inside {
    Open(TcpStream),
    /// It was tried there, and nobody listens.
    Refused(io::Error),
    /// This worker does not get in.
    OutOfReach(String),
}

async fn from_inside(pid: i32, container_id: String, port: u16) -> Inside {
    let (answer, connected) = oneshot::channel();
    // A thread of its own, never one of a pool: it stays where it went.
    let thread = std::thread::Builder::new().name("forward".to_owned()).spawn(move || {
        // Whoever asked may have gone meanwhile.
        let _ = answer.send(enter_and_connect(pid, &container_id, port));
    });
    if let Err(error) = thread {
        return Inside::OutOfReach(format!("no thread for it: {error}"));
    }
    match connected.await {
        Ok(Ok(Ok(stream))) => match TcpStream::from_std(stream) {
            Ok(stream) => Inside::Open(stream),
            Err(error) => Inside::Refused(error),
        },
        Ok(Ok(Err(error))) => Inside::Refused(error),
        Ok(Err(why)) => Inside::OutOfReach(why),
        Err(_) => Inside::OutOfReach("its thread has ended".to_owned()),
    }
}

/// Enters the network of a process and connects there. The outer error says why it was not entered.
fn enter_and_connect(
    pid: i32,
    container_id: &str,
    port: u16,
) -> Result<io::Result<std::net::TcpStream>, String> {
    let network =
        File::open(format!("/proc/{pid}/ns/net")).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => "it would have to run as root".to_owned(),
            io::ErrorKind::NotFound => {
                "it would have to run on the runtime's own machine".to_owned()
            }
            _ => error.to_string(),
        })?;
    // After the file was opened: a number that means another process here, or by now, is noticed.
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if !groups.contains(container_id) {
        return Err("it would have to see the runtime's processes".to_owned());
    }
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
        |error| match error {
            rustix::io::Errno::PERM => "it would have to run as root".to_owned(),
            error => error.to_string(),
        },
    )?;
    let connect = |ip: IpAddr| {
        std::net::TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_DEADLINE)
    };
    let stream = connect(Ipv4Addr::LOCALHOST.into())
        .or_else(|first| connect(Ipv6Addr::LOCALHOST.into()).map_err(|_| first));
    Ok(stream.and_then(|stream| stream.set_nonblocking(true).map(|()| stream)))
}
