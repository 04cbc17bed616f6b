//! `longshore exec`: a command in a task's container, wherever that is.

use std::collections::BTreeMap;

use longshore_proto::api::{ListTasks, TaskView};
use longshore_proto::id::SessionId;
use longshore_proto::name::NodeName;
use longshore_proto::rpc::{CHUNK_BYTES_MAX, ChunkBody, ExecRequest, InputBody};
use longshore_proto::state::TaskState;
use longshore_proto::subject::RpcVerb;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::args::task::Exec;
use crate::client::{Client, Named};
use crate::failure::{Exit, Failure};
use crate::render::Printer;
use crate::session::{Broken, Session};
use crate::signal::interrupted;
use crate::table::{state_shown, task_name};
use crate::terminal::{self, Raw};

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
        let command = Command {
            node: node.clone(),
            name: task_name(&task),
            has_terminal: wish.tty,
            input: wish.interactive.then(read_input),
            code: None,
            raw: None,
        };
        let session = Session::open(client, node, RpcVerb::Exec, request.session, &request).await?;
        command.run(session, printer).await
    };
    outcome.await.map_err(|failure| failure.exit(Exit::NoTaskCode))
}

/// The task that is meant: by its id, or as the only one of its job that runs.
pub(super) async fn one_task(client: &Client, name: &str) -> Result<TaskView, Failure> {
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
struct Command {
    node: NodeName,
    name: String,
    has_terminal: bool,
    input: Option<mpsc::Receiver<Vec<u8>>>,
    code: Option<u8>,
    raw: Option<Raw>,
}

impl Command {
    /// Runs it to its end.
    async fn run(mut self, mut session: Session, printer: Printer) -> Result<Exit, Failure> {
        let outcome = self.go_on(&mut session, printer).await;
        self.raw = None;
        session.close().await;
        outcome
    }

    async fn go_on(&mut self, session: &mut Session, printer: Printer) -> Result<Exit, Failure> {
        let problem = |error| Failure::new("cannot listen to signals").cause(&error);
        let mut resized = signal(SignalKind::window_change()).map_err(problem)?;
        loop {
            let may_send = session.may_send();
            tokio::select! {
                body = session.next() => match body.map_err(|broken| self.broken(broken))? {
                    Some(body) => self.take(body, printer)?,
                    None => {
                        let unknown = || self.broken(Broken::Off("its exit code is not known".into()));
                        return self.code.map(Exit::Task).ok_or_else(unknown);
                    }
                },
                piece = next(&mut self.input), if may_send => {
                    let body = match piece {
                        Some(bytes) => InputBody::Bytes(bytes),
                        None => {
                            self.input = None;
                            InputBody::End
                        }
                    };
                    session.send(body).await.map_err(|broken| self.broken(broken))?;
                }
                _ = resized.recv(), if self.has_terminal && may_send => {
                    let size = InputBody::Size(terminal::size());
                    session.send(size).await.map_err(|broken| self.broken(broken))?;
                }
                () = interrupted(), if !self.has_terminal => return Ok(Exit::Interrupted),
            }
        }
    }

    fn take(&mut self, body: ChunkBody, printer: Printer) -> Result<(), Failure> {
        if self.has_terminal && self.raw.is_none() {
            self.raw = Some(Raw::enter()?);
        }
        match body {
            // A reader that stops reading must not stop the credit as well.
            ChunkBody::Stdout(bytes) => tokio::task::block_in_place(|| printer.bytes(&bytes)),
            ChunkBody::Stderr(bytes) => {
                tokio::task::block_in_place(|| printer.bytes_to_stderr(&bytes))
            }
            ChunkBody::Exit(exit) => {
                // What is no exit code of a process is a failure all the same.
                self.code = Some(u8::try_from(exit).unwrap_or(u8::MAX));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn broken(&self, broken: Broken) -> Failure {
        let name = &self.name;
        broken.failure(
            &self.node,
            &format!("run this in {name}"),
            &format!("the command in {name}"),
        )
    }
}

/// What this program reads, piece by piece.
pub(super) fn read_input() -> mpsc::Receiver<Vec<u8>> {
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
