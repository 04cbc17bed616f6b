//! `longshore port-forward`: a task's ports on this machine. Each connection is a session of its own with the node, so
//! that one that is stuck holds up no other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use longshore_proto::api::TaskView;
use longshore_proto::id::SessionId;
use longshore_proto::name::NodeName;
use longshore_proto::rpc::{CHUNK_BYTES_MAX, ChunkBody, ForwardRequest, InputBody};
use longshore_proto::subject::RpcVerb;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::debug;
use uuid::Uuid;

use super::exec::one_task;
use crate::args::reach::{Forward, PortForward};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::render::Printer;
use crate::session::{Broken, Session};
use crate::signal::interrupted;
use crate::table::{state_shown, task_name};

/// How many connections are open at once; more wait to be taken.
const CONNECTIONS_MAX: usize = 200;
/// How often the manager is asked whether the task is still there.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Forwards until the task ends, or somebody does not want it any more.
pub(crate) async fn run(
    client: &Client,
    wish: &PortForward,
    printer: Printer,
) -> Result<Exit, Failure> {
    let task = one_task(client, &wish.name).await?;
    let Some(node) = task.node.clone().filter(|_| !task.state.is_terminal()) else {
        return Err(Failure::new(format!(
            "{} is {} and has no ports to reach",
            task_name(&task),
            state_shown(&task)
        )));
    };
    let mut listeners = Vec::new();
    for forward in &wish.ports {
        listeners.push(listen(wish, *forward, &task, printer).await?);
    }
    let tunnel = Arc::new(Tunnel {
        client: client.clone(),
        node,
        task: task.clone(),
        places: Semaphore::new(CONNECTIONS_MAX),
        printer,
    });
    let mut accepting: FuturesUnordered<_> = listeners
        .into_iter()
        .map(|(listener, port)| accept(Arc::clone(&tunnel), listener, port))
        .collect();
    tokio::select! {
        failure = accepting.select_next_some() => Err(failure),
        failure = ended(client, &task) => Err(failure),
        () = interrupted() => Ok(Exit::Interrupted),
    }
}

/// Listens here, and says so.
async fn listen(
    wish: &PortForward,
    forward: Forward,
    task: &TaskView,
    printer: Printer,
) -> Result<(TcpListener, u16), Failure> {
    let address = SocketAddr::new(wish.address, forward.local);
    let problem = |error| {
        Failure::new(format!("cannot listen on {address}"))
            .cause(&error)
            .hint("choose another port; `:REMOTE` takes one that is free")
    };
    let listener = TcpListener::bind(address).await.map_err(problem)?;
    let address = listener.local_addr().map_err(problem)?;
    printer.line(&format!("{address} -> {}:{}", task_name(task), forward.remote))?;
    Ok((listener, forward.remote))
}

/// Where connections go.
struct Tunnel {
    client: Client,
    node: NodeName,
    task: TaskView,
    places: Semaphore,
    printer: Printer,
}

/// Takes connections for ever; gives why it cannot.
async fn accept(tunnel: Arc<Tunnel>, listener: TcpListener, port: u16) -> Failure {
    let mut running = JoinSet::new();
    loop {
        // One that waits for its place waits with the system.
        let room = tunnel.places.acquire().await;
        if let Ok(room) = room {
            room.forget();
        }
        let stream = match listener.accept().await {
            Ok((stream, peer)) => {
                debug!(%peer, port, "a connection");
                stream
            }
            // Too many open files, mostly: what is open may end meanwhile.
            Err(error) => {
                tunnel.places.add_permits(1);
                tunnel.printer.warning(&format!("a connection was not taken: {error}"));
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let tunnel = Arc::clone(&tunnel);
        running.spawn(async move {
            if let Err(failure) = tunnel.carry(stream, port).await
                && let Some((text, _)) = failure.told()
            {
                tunnel.printer.warning(text);
            }
            tunnel.places.add_permits(1);
        });
        while running.try_join_next().is_some() {}
    }
}

impl Tunnel {
    /// Carries one connection to its end.
    async fn carry(&self, stream: TcpStream, port: u16) -> Result<(), Failure> {
        let request = ForwardRequest {
            user: self.client.bus().user().clone(),
            session: SessionId(Uuid::new_v4()),
            task: self.task.id,
            port,
        };
        let (node, verb, id) = (self.node.clone(), RpcVerb::Forward, request.session);
        let mut session = Session::open(&self.client, node, verb, id, &request).await?;
        let outcome = carry(&mut session, stream).await;
        session.close().await;
        outcome.map_err(|broken| {
            let to = format!("port {port} of {}", task_name(&self.task));
            broken.failure(&self.node, &format!("reach {to}"), &format!("a connection to {to}"))
        })
    }
}

/// Moves bytes both ways until both ways are closed, or one end goes away.
async fn carry(session: &mut Session, stream: TcpStream) -> Result<(), Broken> {
    // Small pieces are passed on as they come: whoever sent them had a reason.
    let _ = stream.set_nodelay(true);
    let (mut from_here, mut to_here) = stream.into_split();
    let mut piece = vec![0; CHUNK_BYTES_MAX];
    let mut may_read = true;
    loop {
        let may_send = may_read && session.may_send();
        tokio::select! {
            body = session.next() => match body? {
                Some(ChunkBody::Stdout(bytes)) => {
                    if to_here.write_all(&bytes).await.is_err() {
                        return Ok(());
                    }
                }
                Some(ChunkBody::OutputEnd) => {
                    let _ = to_here.shutdown().await;
                }
                Some(_) => {}
                None => return Ok(()),
            },
            read = from_here.read(&mut piece), if may_send => match read {
                Ok(0) => {
                    may_read = false;
                    session.send(InputBody::End).await?;
                }
                Ok(length) => {
                    let bytes = piece.get(..length).unwrap_or_default().to_vec();
                    session.send(InputBody::Bytes(bytes)).await?;
                }
                // Whoever connected here has gone, and wants no more of it.
                Err(_) => return Ok(()),
            },
        }
    }
}

/// Returns when the task has ended for good, with a word on it. A task whose node is lost has ended, too; one that is
/// restarted has not: the next connection goes to its next container.
async fn ended(client: &Client, task: &TaskView) -> Failure {
    let name = task_name(task);
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let now = match client.task(&task.id.to_string()).await {
            Ok(now) => now,
            Err(error) => {
                debug!(%error, "the manager does not say how the task stands");
                continue;
            }
        };
        if now.state.is_terminal() {
            let failure = Failure::new(format!("{name} is {}", now.state));
            let hint = format!("`longshore ps --job {}` shows what runs in its place", task.job);
            return match &now.reason {
                Some(reason) => failure.because(reason),
                None => failure,
            }
            .hint(hint);
        }
    }
}
