//! One stream of logs from a node: opening, credit, gaps, the end.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use futures_util::StreamExt;
use longshore_bus::Subscription;
use longshore_proto::api::TaskView;
use longshore_proto::codec;
use longshore_proto::error::ApiError;
use longshore_proto::id::SessionId;
use longshore_proto::name::NodeName;
use longshore_proto::rpc::{Chunk, ChunkBody, Credit, LogsRequest};
use longshore_proto::state::NodeStatus;
use longshore_proto::subject::{Pattern, RpcVerb, Subject};
use tokio::sync::watch;
use tracing::{debug, warn};
use uuid::Uuid;

use super::silent_node;
use crate::args::task::Logs;
use crate::client::Client;
use crate::failure::Failure;
use crate::render::Printer;
use crate::stream::{Creditor, Sequence, Taken};
use crate::table::task_name;

/// How long a node may be silent: for the first chunk, and where the end should follow.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A stream that a node sends.
pub(super) struct Stream {
    client: Client,
    node: NodeName,
    name: String,
    request: LogsRequest,
    chunks: Subscription,
    connections: watch::Receiver<u64>,
    connections_seen: u64,
    creditor: Creditor,
    sequence: Sequence,
    /// How often nothing has come for [`SILENCE_MAX`] since something came.
    quiet_rounds: u32,
    /// Whether it has been said that the node is silent.
    told_silent: bool,
    /// Whether this stream goes on from another one.
    reopened: bool,
}

impl Stream {
    /// Asks a node for a task's logs, and listens.
    pub(super) async fn open(
        client: &Client,
        node: &NodeName,
        task: &TaskView,
        wish: &Logs,
    ) -> Result<Self, Failure> {
        let request = LogsRequest {
            user: client.bus().user().clone(),
            session: SessionId(Uuid::new_v4()),
            task: task.id,
            follow: wish.follow,
            tail: wish.tail,
            since_ms: wish.since,
            timestamps: wish.timestamps,
        };
        Self::start(client.clone(), node.clone(), task_name(task), request).await
    }

    async fn start(
        client: Client,
        node: NodeName,
        name: String,
        request: LogsRequest,
    ) -> Result<Self, Failure> {
        let bus = client.bus();
        let pattern = Pattern::OutSession(node.clone(), request.user.clone(), request.session);
        let mut connections = bus.connections();
        let connections_seen = *connections.borrow_and_update();
        // Listening comes first: one connection keeps the order of what is sent on it.
        let chunks = bus.subscribe(&pattern).await?;
        let creditor = Creditor::start(bus.clone(), node.clone(), request.session);
        let sequence = Sequence::default();
        let stream = Self {
            client,
            node,
            name,
            request,
            chunks,
            connections,
            connections_seen,
            creditor,
            sequence,
            quiet_rounds: 0,
            told_silent: false,
            reopened: false,
        };
        stream.ask().await?;
        Ok(stream)
    }

    /// Prints everything up to the end of the stream.
    pub(super) async fn print(&mut self, output: &mut Output) -> Result<(), Failure> {
        loop {
            tokio::select! {
                incoming = self.chunks.next() => {
                    let Some(incoming) = incoming else {
                        return Err(self.broke_off("the connection to NATS was closed"));
                    };
                    let chunk = match codec::decode::<Chunk>(&incoming.payload) {
                        Ok(chunk) => chunk,
                        Err(error) => {
                            warn!(%error, "a piece of the logs that cannot be read");
                            continue;
                        }
                    };
                    if self.take(chunk, output)? {
                        return output.finish();
                    }
                }
                () = tokio::time::sleep(SILENCE_MAX) => self.silence(output).await?,
                changed = self.connections.changed(), if self.request.follow => {
                    let count = *self.connections.borrow_and_update();
                    // The news of the first connection may come late; it is no reconnection.
                    if changed.is_ok() && count > self.connections_seen.max(1) {
                        self.reopen(output).await?;
                    }
                }
            }
        }
    }

    /// Tells the node that no more is wanted.
    pub(super) async fn close(self) {
        let Self { client, node, request, sequence, creditor, .. } = self;
        drop(creditor);
        if sequence.ended {
            return;
        }
        let credit = Credit { session: request.session, sequence: sequence.last, end: true };
        if client
            .bus()
            .publish(&Subject::Rpc { node, verb: RpcVerb::Credit }, &credit)
            .await
            .is_ok()
        {
            client.bus().flush().await;
        }
    }

    /// Prints one chunk; true at the end.
    fn take(&mut self, chunk: Chunk, output: &mut Output) -> Result<bool, Failure> {
        self.quiet_rounds = 0;
        self.told_silent = false;
        match self.sequence.take(chunk.sequence) {
            Taken::Anew => output.printer.warning(&format!(
                "the worker of {} has started anew; some of the output of {} may be missing",
                self.node, self.name
            )),
            Taken::Again => return Ok(false),
            Taken::Next => {}
            Taken::After(lost) => {
                output.printer.warning(&format!(
                    "some of the output of {} was lost on the way ({lost} pieces)",
                    self.name
                ));
            }
        }
        let written = match chunk.body {
            // A reader that stops reading (`| less`) must not stop the credit as well.
            ChunkBody::Stdout(bytes) => tokio::task::block_in_place(|| output.out(&bytes)),
            ChunkBody::Stderr(bytes) => tokio::task::block_in_place(|| output.err(&bytes)),
            ChunkBody::End => {
                self.sequence.ended = true;
                return Ok(true);
            }
            // Only other streams have these.
            ChunkBody::Taken(_)
            | ChunkBody::Exit(_)
            | ChunkBody::Found(_)
            | ChunkBody::OutputEnd => Ok(()),
            ChunkBody::Failed(refusal) => {
                self.sequence.ended = true;
                output.finish()?;
                return Err(self.refused(&refusal));
            }
        };
        self.creditor.taken(self.sequence.last);
        written.map(|()| false)
    }

    fn refused(&self, refusal: &ApiError) -> Failure {
        Failure::new(format!("cannot read the logs of {} from {}", self.name, self.node))
            .refused(refusal)
    }

    fn broke_off(&self, why: &str) -> Failure {
        Failure::new(format!("the logs of {} from {} broke off", self.name, self.node))
            .because(why)
            .hint("ask again; --tail shortens what is repeated")
    }

    /// Nothing came for a while: that is all right for a quiet task that is followed, and else it is not.
    async fn silence(&mut self, output: &mut Output) -> Result<(), Failure> {
        let first = self.sequence.last == 0 && !self.reopened;
        if !self.request.follow {
            return Err(match self.node_status().await {
                status if first => silent_node(&self.node, &status),
                _ => self.broke_off("the node fell silent before the end"),
            });
        }
        // The question may have been lost, or the worker may have started anew since; a worker that knows the
        // session takes no notice.
        self.ask().await?;
        let task = match self.client.task(&self.request.task.to_string()).await {
            Ok(task) => task,
            Err(error) => {
                debug!(%error, "the manager does not say how the task stands");
                return Ok(());
            }
        };
        self.quiet_rounds += 1;
        if task.state.is_terminal() && self.quiet_rounds > 1 {
            return Err(if first {
                silent_node(&self.node, &self.node_status().await)
            } else {
                self.broke_off(&format!("the task is {}, and the end did not come", task.state))
            });
        }
        if task.silent && first {
            return Err(silent_node(&self.node, &self.node_status().await));
        }
        if task.silent && !std::mem::replace(&mut self.told_silent, true) {
            output.printer.warning(&format!("the node {} is silent; waiting for it", self.node));
        }
        Ok(())
    }

    /// Asks for the stream; what has been printed already is not asked for again.
    async fn ask(&self) -> Result<(), Failure> {
        let mut request = self.request.clone();
        if self.sequence.last > 0 {
            request.tail = Some(0);
        }
        let subject = Subject::Rpc { node: self.node.clone(), verb: RpcVerb::Logs };
        Ok(self.client.bus().publish(&subject, &request).await?)
    }

    async fn node_status(&self) -> String {
        match self.client.node(&self.node).await {
            Ok(node) if node.status == NodeStatus::Ready => {
                "ready, as far as the manager knows".to_owned()
            }
            Ok(node) => node.status.as_str().to_owned(),
            Err(_) => "unknown to the manager".to_owned(),
        }
    }

    /// The connection was away, and whatever came meanwhile is lost: the stream starts anew from now.
    async fn reopen(&mut self, output: &mut Output) -> Result<(), Failure> {
        output.printer.warning(&format!(
            "the connection was away; some of the output of {} may be missing",
            self.name
        ));
        let request = LogsRequest {
            session: SessionId(Uuid::new_v4()),
            tail: Some(0),
            ..self.request.clone()
        };
        let old = Credit { session: self.request.session, sequence: self.sequence.last, end: true };
        let credit = Subject::Rpc { node: self.node.clone(), verb: RpcVerb::Credit };
        self.client.bus().publish(&credit, &old).await?;
        let (client, node, name) = (self.client.clone(), self.node.clone(), self.name.clone());
        *self = Self { reopened: true, ..Self::start(client, node, name, request).await? };
        Ok(())
    }
}

/// Where a task's output goes: as it is, or line by line behind the task's name when there are several.
pub(super) struct Output {
    printer: Printer,
    out: Lines,
    err: Lines,
}

impl Output {
    pub(super) fn new(printer: Printer, name: Option<String>) -> Self {
        let (out, err) = printer.is_coloured();
        Self { printer, out: Lines::new(name.clone(), out), err: Lines::new(name, err) }
    }

    fn out(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.printer.bytes(&self.out.add(bytes))
    }

    fn err(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.printer.bytes_to_stderr(&self.err.add(bytes))
    }

    /// Prints what has no end of line yet.
    fn finish(&mut self) -> Result<(), Failure> {
        let (out, err) = (self.out.rest(), self.err.rest());
        if !out.is_empty() {
            self.printer.bytes(&out)?;
        }
        if !err.is_empty() {
            self.printer.bytes_to_stderr(&err)?;
        }
        Ok(())
    }
}

/// Bytes, made into whole lines with a prefix when there is one.
#[derive(Debug)]
struct Lines {
    prefix: Option<Vec<u8>>,
    begun: Vec<u8>,
}

impl Lines {
    fn new(name: Option<String>, is_coloured: bool) -> Self {
        let prefix = name.map(|name| {
            let style = if is_coloured { colour_of(&name) } else { Style::new() };
            format!("{style}{name} |{style:#} ").into_bytes()
        });
        Self { prefix, begun: Vec::new() }
    }

    fn add(&mut self, bytes: &[u8]) -> Vec<u8> {
        let Some(prefix) = &self.prefix else { return bytes.to_vec() };
        let mut whole = Vec::with_capacity(bytes.len() + prefix.len());
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part);
            if part.ends_with(b"\n") {
                whole.extend_from_slice(prefix);
                whole.append(&mut self.begun);
            }
        }
        whole
    }

    fn rest(&mut self) -> Vec<u8> {
        match &self.prefix {
            Some(prefix) if !self.begun.is_empty() => {
                let mut line = prefix.clone();
                line.append(&mut self.begun);
                line.push(b'\n');
                line
            }
            _ => Vec::new(),
        }
    }
}

/// The colour of a task: the same one every time, and mostly not its neighbour's.
fn colour_of(name: &str) -> Style {
    const COLOURS: [AnsiColor; 10] = [
        AnsiColor::Cyan,
        AnsiColor::Yellow,
        AnsiColor::Green,
        AnsiColor::Magenta,
        AnsiColor::Blue,
        AnsiColor::BrightCyan,
        AnsiColor::BrightYellow,
        AnsiColor::BrightGreen,
        AnsiColor::BrightMagenta,
        AnsiColor::BrightBlue,
    ];
    // The slots of one part follow each other, and so do their colours.
    let sum = name.bytes().fold(0_usize, |sum, byte| sum.wrapping_add(usize::from(byte)));
    COLOURS[sum % COLOURS.len()].on_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_keeps_its_colour_and_neighbours_differ() {
        assert_eq!(colour_of("web.main.0"), colour_of("web.main.0"));
        assert_ne!(colour_of("web.main.0"), colour_of("web.main.1"));
        let mut lines = Lines::new(Some("web.main.0".into()), true);
        let line = String::from_utf8(lines.add(b"\x1b[31mits own\n")).unwrap();
        let plain = anstream::adapter::strip_str(&line).to_string();
        assert_eq!(plain, "web.main.0 | its own\n");
        // What the task wrote itself is untouched, and is not coloured by ours.
        assert!(
            line.starts_with('\x1b') && line.ends_with("|\x1b[0m \x1b[31mits own\n"),
            "{line:?}"
        );
    }

    #[test]
    fn several_tasks_are_told_apart_line_by_line() {
        let mut lines = Lines::new(Some("web.main.0".into()), false);
        assert_eq!(lines.add(b"one\ntw"), b"web.main.0 | one\n");
        assert_eq!(lines.add(b"o"), b"");
        assert_eq!(lines.add(b"\n"), b"web.main.0 | two\n");
        assert_eq!(lines.add(b"three"), b"");
        assert_eq!(lines.rest(), b"web.main.0 | three\n");
        assert_eq!(lines.rest(), b"");
    }

    #[test]
    fn one_task_alone_passes_untouched() {
        let mut lines = Lines::new(None, false);
        assert_eq!(lines.add(b"\x00no end"), b"\x00no end");
        assert_eq!(lines.rest(), b"");
    }
}
