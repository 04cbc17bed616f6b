//! `longshore exec`: a command in a task's container, wherever that is.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use longshore_proto::api::{ListTasks, TaskView};
use longshore_proto::codec;
use longshore_proto::id::SessionId;
use longshore_proto::name::NodeName;
use longshore_proto::rpc::{
    CHUNK_BYTES_MAX, Chunk, ChunkBody, Credit, ExecRequest, Input, InputBody, WINDOW_CHUNKS,
};
use longshore_proto::state::{NodeStatus, TaskState};
use longshore_proto::subject::{Pattern, RpcVerb, Subject};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::warn;
use uuid::Uuid;

use super::logs::silent_node;
use crate::args::task::Exec;
use crate::client::{Client, Named};
use crate::failure::{Exit, Failure};
use crate::render::Printer;
use crate::signal::interrupted;
use crate::stream::{Creditor, Sequence, Taken};
use crate::table::{state_shown, task_name};
use crate::terminal::{self, Raw};

/// How long a node may take to begin.
const START_MAX: Duration = Duration::from_secs(15);
/// How often the manager is asked for the node while nothing comes.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Runs a command and ends as it does.
pub(crate) async fn run(client: &Client, wish: &Exec, printer: Printer) -> Result<Exit, Failure> {
    let usage = |text: &str, hint: &str| Failure::new(text).hint(hint).exit(Exit::Usage);
    let Some((name, command)) = wish.words.split_first() else {
        return Err(usage("there is no task", "name one, and a command"));
    };
    if wish.tty && !terminal::is_there() {
        return Err(usage("there is no terminal here to give to the command", "leave -t out"));
    }
    let outcome = async {
        let task = one_task(client, name).await?;
        let Some(node) = task.node.clone().filter(|_| !task.state.is_terminal()) else {
            return Err(Failure::new(format!(
                "{} is {} and has no container to run a command in",
                task_name(&task),
                state_shown(&task)
            )));
        };
        let env = wish.env.iter().filter_map(|variable| {
            let value = variable.value.clone().or_else(|| std::env::var(&variable.name).ok())?;
            Some((variable.name.clone(), value))
        });
        let mut env: BTreeMap<String, String> = env.collect();
        if wish.tty
            && let Ok(term) = std::env::var("TERM")
        {
            env.entry("TERM".to_owned()).or_insert(term);
        }
        let request = ExecRequest {
            user: client.bus().user().clone(),
            session: SessionId(Uuid::new_v4()),
            task: task.id,
            command: command.to_vec(),
            env,
            run_as: wish.user.clone(),
            working_dir: wish.workdir.clone(),
            terminal: wish.tty.then(terminal::size),
            stdin: wish.interactive,
        };
        Session::open(client, node, task_name(&task), request).await?.run(printer).await
    };
    outcome.await.map_err(|failure| failure.exit(Exit::NoTaskCode))
}

/// The task that is meant: by its id, or as the only one of its job that runs.
async fn one_task(client: &Client, name: &str) -> Result<TaskView, Failure> {
    let job = match client.named(name).await? {
        Named::Task(task) => return Ok(*task),
        Named::Job(job) => job,
    };
    let question = ListTasks { job: Some(job.name.clone()), ..ListTasks::default() };
    let tasks = client
        .tasks(question)
        .await
        .map_err(|error| Failure::asked(format_args!("list the tasks of {}", job.name), &error))?;
    let mut running: Vec<TaskView> =
        tasks.into_iter().filter(|task| task.state == TaskState::Running).collect();
    let count = running.len();
    match running.pop() {
        Some(task) if count == 1 => Ok(task),
        found => Err(Failure::new(match found {
            Some(_) => format!("the job {} has {count} tasks that run", job.name),
            None => format!("the job {} has no task that runs", job.name),
        })
        .hint(format!("name one of those that `longshore ps --job {}` lists", job.name))),
    }
}

/// A command that runs on a node.
struct Session<'a> {
    client: &'a Client,
    node: NodeName,
    name: String,
    request: ExecRequest,
    chunks: longshore_bus::Subscription,
    creditor: Creditor,
    sequence: Sequence,
    /// Pieces of input that were sent, and that have reached the command.
    sent: u64,
    taken: u64,
    is_started: bool,
    raw: Option<Raw>,
}

impl<'a> Session<'a> {
    async fn open(
        client: &'a Client,
        node: NodeName,
        name: String,
        request: ExecRequest,
    ) -> Result<Self, Failure> {
        let bus = client.bus();
        let pattern = Pattern::OutSession(node.clone(), request.user.clone(), request.session);
        // Listening comes first: one connection keeps the order of what is sent on it.
        let chunks = bus.subscribe(&pattern).await?;
        let creditor = Creditor::start(bus.clone(), node.clone(), request.session);
        let subject = Subject::Rpc { node: node.clone(), verb: RpcVerb::Exec };
        bus.publish(&subject, &request).await?;
        let sequence = Sequence::default();
        let (sent, taken, is_started, raw) = (0, 0, false, None);
        Ok(Self {
            client,
            node,
            name,
            request,
            chunks,
            creditor,
            sequence,
            sent,
            taken,
            is_started,
            raw,
        })
    }

    async fn run(mut self, printer: Printer) -> Result<Exit, Failure> {
        let outcome = self.go_on(printer).await;
        self.raw = None;
        if !self.sequence.ended {
            let (session, sequence) = (self.request.session, self.sequence.last);
            let credit = Credit { session, sequence, end: true };
            let subject = Subject::Rpc { node: self.node, verb: RpcVerb::Credit };
            if self.client.bus().publish(&subject, &credit).await.is_ok() {
                self.client.bus().flush().await;
            }
        }
        outcome
    }

    async fn go_on(&mut self, printer: Printer) -> Result<Exit, Failure> {
        let problem = |error| Failure::new("cannot listen to signals").cause(&error);
        let mut resized = signal(SignalKind::window_change()).map_err(problem)?;
        let has_terminal = self.request.terminal.is_some();
        let mut input = self.request.stdin.then(read_input);
        let mut code = None;
        let begun = tokio::time::Instant::now();
        loop {
            let may_send = self.is_started && self.sent - self.taken < WINDOW_CHUNKS;
            tokio::select! {
                incoming = self.chunks.next() => {
                    let Some(incoming) = incoming else {
                        return Err(self.broke_off("the connection to NATS was closed"));
                    };
                    match codec::decode::<Chunk>(&incoming.payload) {
                        Ok(chunk) => if self.take(chunk, &mut code, printer)? {
                            return code.map(Exit::Task).ok_or_else(|| self.broke_off("its exit code is not known"));
                        },
                        Err(error) => warn!(%error, "a piece of the output that cannot be read"),
                    }
                }
                piece = next(&mut input), if may_send => {
                    let body = match piece {
                        Some(bytes) => InputBody::Bytes(bytes),
                        None => {
                            input = None;
                            InputBody::End
                        }
                    };
                    self.send(body).await?;
                }
                _ = resized.recv(), if has_terminal && may_send => {
                    self.send(InputBody::Size(terminal::size())).await?;
                }
                () = interrupted(), if !has_terminal => return Ok(Exit::Interrupted),
                () = tokio::time::sleep(SILENCE_MAX) => self.silence(begun.elapsed()).await?,
            }
        }
    }

    /// Takes one chunk; true at the end.
    fn take(
        &mut self,
        chunk: Chunk,
        code: &mut Option<u8>,
        printer: Printer,
    ) -> Result<bool, Failure> {
        match self.sequence.take(chunk.sequence) {
            Taken::Again => return Ok(false),
            Taken::Next => {}
            Taken::After(_) => return Err(self.broke_off("some of its output was lost on the way")),
            Taken::Anew => return Err(self.broke_off("the worker has started anew")),
        }
        if !std::mem::replace(&mut self.is_started, true)
            && self.request.terminal.is_some()
            && !matches!(chunk.body, ChunkBody::Failed(_))
        {
            self.raw = Some(Raw::enter()?);
        }
        let written = match chunk.body {
            // A reader that stops reading must not stop the credit as well.
            ChunkBody::Stdout(bytes) => tokio::task::block_in_place(|| printer.bytes(&bytes)),
            ChunkBody::Stderr(bytes) => {
                tokio::task::block_in_place(|| printer.bytes_to_stderr(&bytes))
            }
            ChunkBody::Taken(sequence) => {
                self.taken = self.taken.max(sequence.min(self.sent));
                Ok(())
            }
            ChunkBody::Exit(exit) => {
                // What is no exit code of a process is a failure all the same.
                *code = Some(u8::try_from(exit).unwrap_or(u8::MAX));
                Ok(())
            }
            ChunkBody::End => {
                self.sequence.ended = true;
                return Ok(true);
            }
            ChunkBody::Failed(refusal) => {
                self.sequence.ended = true;
                let text = format!("cannot run this in {} on {}", self.name, self.node);
                return Err(Failure::new(text).refused(&refusal));
            }
        };
        self.creditor.taken(self.sequence.last);
        written.map(|()| false)
    }

    async fn send(&mut self, body: InputBody) -> Result<(), Failure> {
        self.sent += 1;
        let input = Input { session: self.request.session, sequence: self.sent, body };
        let subject = Subject::Rpc { node: self.node.clone(), verb: RpcVerb::Input };
        Ok(self.client.bus().publish(&subject, &input).await?)
    }

    /// Nothing came for a while: that is all right for a quiet command on a node that lives.
    async fn silence(&self, waited: Duration) -> Result<(), Failure> {
        let status = self.client.node(&self.node).await.ok().map(|node| node.status);
        let told = status.map_or("unknown to the manager", NodeStatus::as_str);
        if !self.is_started && waited >= START_MAX {
            return Err(silent_node(&self.node, told));
        }
        if matches!(status, Some(NodeStatus::Lost | NodeStatus::Left)) {
            return Err(self.broke_off(&format!("the node {} is {told}", self.node)));
        }
        Ok(())
    }

    fn broke_off(&self, why: &str) -> Failure {
        Failure::new(format!("the command in {} on {} broke off", self.name, self.node))
            .because(why)
    }
}

/// What this program reads, piece by piece.
fn read_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut stdin = tokio::io::stdin();
        let mut piece = vec![0; CHUNK_BYTES_MAX];
        while let Ok(length @ 1..) = stdin.read(&mut piece).await {
            let bytes = piece.get(..length).unwrap_or_default().to_vec();
            if sender.send(bytes).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// The next piece of input; never, where there is none to come.
async fn next(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}
