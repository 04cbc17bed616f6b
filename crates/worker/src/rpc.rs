//! What operators ask of this worker: streams of logs, commands in containers, files, connections to ports.
//!
//! An operator asks on `rpc.<verb>` and names itself and a session; the answer goes to this worker's own `out`
//! subject for that user, so that nobody can make a worker publish elsewhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::SessionId;
use longshore_proto::name::UserName;
use longshore_proto::rpc::{
    CopyFromRequest, CopyToRequest, Credit, ExecRequest, ForwardRequest, Input, LogsRequest,
    WINDOW_CHUNKS,
};
use longshore_proto::subject::{Pattern, RpcVerb, Subject};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::driver::Message;
use crate::out::{Gone, Out};
use crate::runtime::Runtime;
use crate::session::Session;
use crate::{exec, files, forward, logs};

/// How many streams a worker serves at once, connections to ports aside.
const SESSIONS_MAX: usize = 64;
/// How many connections to ports: a page in a browser opens a dozen.
const CONNECTIONS_MAX: usize = 256;
/// How long after its subscription was lost a worker listens again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// A stream that is served.
struct Live {
    kind: Kind,
    credit: watch::Sender<Credit>,
    /// Where input goes, where the stream takes some.
    input: Option<mpsc::Sender<Input>>,
}

/// What a stream is counted as, so that one kind does not take the room of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stream,
    Connection,
}

/// Serves operators, for ever.
pub(crate) async fn serve(
    session: Session,
    runtime: Arc<dyn Runtime>,
    driver: mpsc::Sender<Message>,
) {
    let pattern = Pattern::RpcOf(session.node.clone());
    let mut desk = Desk { session, runtime, driver, live: HashMap::new(), running: JoinSet::new() };
    loop {
        match desk.session.bus.subscribe(&pattern).await {
            Ok(mut questions) => {
                while let Some(incoming) = futures_util::StreamExt::next(&mut questions).await {
                    while desk.running.try_join_next().is_some() {}
                    desk.live.retain(|_, live| !live.credit.is_closed());
                    match incoming.subject {
                        Some(Subject::Rpc { verb, .. }) => desk.take(verb, &incoming.payload),
                        _ => debug!(
                            subject = incoming.subject_text(),
                            "no question that this worker answers"
                        ),
                    }
                }
            }
            Err(error) => warn!("{error}; trying again"),
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// Where questions come in.
struct Desk {
    session: Session,
    runtime: Arc<dyn Runtime>,
    driver: mpsc::Sender<Message>,
    live: HashMap<SessionId, Live>,
    running: JoinSet<()>,
}

impl Desk {
    fn take(&mut self, verb: RpcVerb, payload: &[u8]) {
        match verb {
            RpcVerb::Logs => {
                let Some(request) = self.session.read::<LogsRequest>(payload, "rpc.logs") else {
                    return;
                };
                let opened = self.open(&request.user, request.session, Kind::Stream, None);
                let Some(mut out) = opened else { return };
                let (runtime, driver) = (self.runtime.clone(), self.driver.clone());
                self.running.spawn(async move {
                    let served = logs::serve(&mut out, &request, &*runtime, &driver).await;
                    conclude(out, served).await;
                });
            }
            RpcVerb::Exec => {
                let Some(request) = self.session.read::<ExecRequest>(payload, "rpc.exec") else {
                    return;
                };
                let Some((mut out, input)) =
                    self.open_with_input(&request.user, request.session, Kind::Stream)
                else {
                    return;
                };
                let (runtime, driver) = (self.runtime.clone(), self.driver.clone());
                self.running.spawn(async move {
                    let served = exec::serve(&mut out, request, input, runtime, &driver).await;
                    conclude(out, served).await;
                });
            }
            RpcVerb::CopyFrom => {
                let read = self.session.read::<CopyFromRequest>(payload, "rpc.copy-from");
                let Some(request) = read else { return };
                let opened = self.open(&request.user, request.session, Kind::Stream, None);
                let Some(mut out) = opened else { return };
                let (runtime, driver) = (self.runtime.clone(), self.driver.clone());
                self.running.spawn(async move {
                    let served = files::send(&mut out, request, runtime, &driver).await;
                    conclude(out, served).await;
                });
            }
            RpcVerb::CopyTo => {
                let Some(request) = self.session.read::<CopyToRequest>(payload, "rpc.copy-to")
                else {
                    return;
                };
                let Some((mut out, input)) =
                    self.open_with_input(&request.user, request.session, Kind::Stream)
                else {
                    return;
                };
                let (runtime, driver) = (self.runtime.clone(), self.driver.clone());
                self.running.spawn(async move {
                    let served = files::receive(&mut out, request, input, runtime, &driver).await;
                    conclude(out, served).await;
                });
            }
            RpcVerb::Forward => {
                let Some(request) = self.session.read::<ForwardRequest>(payload, "rpc.forward")
                else {
                    return;
                };
                let Some((mut out, input)) =
                    self.open_with_input(&request.user, request.session, Kind::Connection)
                else {
                    return;
                };
                let (runtime, driver) = (self.runtime.clone(), self.driver.clone());
                self.running.spawn(async move {
                    let served = forward::serve(&mut out, request, input, runtime, &driver).await;
                    conclude(out, served).await;
                });
            }
            RpcVerb::Input => {
                let Some(input) = self.session.read::<Input>(payload, "rpc.input") else { return };
                if let Some(Live { input: Some(to_stream), .. }) = self.live.get(&input.session) {
                    // What does not fit was sent against the rule; the gap that it leaves ends the session.
                    let _ = to_stream.try_send(input);
                }
            }
            RpcVerb::Credit => {
                let Some(credit) = self.session.read::<Credit>(payload, "rpc.credit") else {
                    return;
                };
                if let Some(live) = self.live.get(&credit.session) {
                    live.credit.send_replace(credit);
                }
            }
        }
    }

    /// Opens a stream that takes input; `None` as of [`Self::open`].
    fn open_with_input(
        &mut self,
        user: &UserName,
        id: SessionId,
        kind: Kind,
    ) -> Option<(Out, mpsc::Receiver<Input>)> {
        // As many as an operator may have under way, so that none is turned away.
        let window = usize::try_from(WINDOW_CHUNKS).unwrap_or(usize::MAX);
        let (to_stream, input) = mpsc::channel(window);
        Some((self.open(user, id, kind, Some(to_stream))?, input))
    }

    /// Opens a stream; `None` for one that is open already, or when there are too many.
    fn open(
        &mut self,
        user: &UserName,
        id: SessionId,
        kind: Kind,
        input: Option<mpsc::Sender<Input>>,
    ) -> Option<Out> {
        if self.live.contains_key(&id) {
            return None;
        }
        let (credit, credits) = watch::channel(Credit { session: id, sequence: 0, end: false });
        let mut out = Out::new(self.session.clone(), user.clone(), id, credits);
        let (most, what) = match kind {
            Kind::Stream => (SESSIONS_MAX, "streams"),
            Kind::Connection => (CONNECTIONS_MAX, "connections to ports"),
        };
        if self.live.values().filter(|live| live.kind == kind).count() >= most {
            let busy = format!("node {} serves {most} {what} already", self.session.node);
            let busy = ApiError::new(ErrorCode::Unavailable, busy).hint("try again in a while");
            self.running.spawn(async move { out.fail(busy).await });
            return None;
        }
        self.live.insert(id, Live { kind, credit, input });
        Some(out)
    }
}

/// Says how a stream has ended.
async fn conclude(mut out: Out, served: Result<Option<ApiError>, Gone>) {
    match served {
        Ok(None) => out.finish().await,
        Ok(Some(refusal)) => out.fail(refusal).await,
        Err(Gone) => debug!(node = %out.node(), "a stream ends because nobody takes it"),
    }
}
