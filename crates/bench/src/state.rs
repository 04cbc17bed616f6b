//! What state costs: start-up time and memory of a manager with ten thousand to a million tasks, and the time of
//! snapshots, backups and restores of them.
//!
//! The state is made by the manager's own brain from submits, registrations and reports, and written by the
//! manager's own store; only the log and the history of events are left out, so that it is there in bounded time.
//! What is measured is a manager as users run it, on a NATS server, started on that store.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use longshore_bench::Failure;
use longshore_bench::report::{Figure, progress};
use longshore_core::cluster::{
    Cluster, Command, Effect, Identity, Input, Queue, Receipt, Settings, State, Step, Ticket,
};
use longshore_core::time::{Now, Time};
use longshore_manager::store::{Batch, Store};
use longshore_proto::id::{BootId, ClusterId, CommandId, ManagerId, NodeId};
use longshore_proto::name::NodeName;
use longshore_proto::node::{Register, Reports, TaskReport, Want};
use longshore_proto::permission::Role;
use longshore_proto::spec::Resources;
use longshore_proto::state::TaskState;
use uuid::Uuid;

use crate::cluster::longshore;
use crate::ground::{Ground, Manager, service};

/// How many tasks there are.
const TASKS: [u32; 3] = [10_000, 100_000, 1_000_000];
/// How many tasks a job has.
const TASKS_PER_JOB: u32 = 1_000;
/// How many tasks a node has.
const TASKS_PER_NODE: u32 = 50;
/// How many changes are written at once.
const CHUNK: usize = 10_000;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// Measures.
pub(crate) async fn measure(most: u32) -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    // What a manager takes that knows nothing, to count a task's part.
    let empty_bytes = empty().await?;
    for tasks in TASKS.into_iter().filter(|tasks| *tasks <= most) {
        let mut ground = Ground::start(&[]).await?;
        let measured = of(&mut ground, tasks, empty_bytes).await;
        figures.extend(measured.map_err(|error| -> Failure {
            let folder = ground.keep();
            format!("{error}; the logs are in {}", folder.display()).into()
        })?);
    }
    Ok(figures)
}

async fn empty() -> Result<u64, Failure> {
    let mut ground = Ground::start(&[]).await?;
    let manager = started(&mut ground, "m1").await?.0;
    Ok(manager.memory()?.now_bytes)
}

async fn of(ground: &mut Ground, tasks: u32, empty_bytes: u64) -> Result<Vec<Figure>, Failure> {
    let name = |what: &str| format!("state/{tasks} tasks: {what}");
    let (made, backup) = (ground.folder().join("made"), ground.folder().join("backup"));
    let start = Instant::now();
    let snapshot = {
        let (made, backup) = (made.clone(), backup.clone());
        tokio::task::spawn_blocking(move || make(&made, &backup, tasks)).await??
    };
    progress(&format!("{tasks} tasks were made in {:.0} s", start.elapsed().as_secs_f64()));
    let start = Instant::now();
    let restored = longshore()
        .arg("restore")
        .arg(&backup)
        .arg("--data-dir")
        .arg(ground.folder().join("m1"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await?;
    let restore = start.elapsed();
    if !restored.success() {
        return Err("`longshore restore` failed".into());
    }
    // The first start makes the log and its snapshot; the second is what a restart is.
    let (manager, _) = started(ground, "m1").await?;
    manager.stop().await?;
    let (manager, start_up) = started(ground, "m1").await?;
    let loaded = manager.memory()?;
    let start = Instant::now();
    let mut backed = longshore();
    backed.args(["--nats", &ground.url, "--creds"]).arg(ground.file("operator-bench"));
    backed.arg("backup").arg(ground.folder().join("backup-2"));
    let made = backed.stdout(Stdio::null()).stderr(Stdio::null()).status().await?;
    let back_up = start.elapsed();
    if !made.success() {
        return Err("`longshore backup` failed".into());
    }
    manager.stop().await?;
    let each = loaded.now_bytes.saturating_sub(empty_bytes) as f64 / f64::from(tasks);
    progress(&format!(
        "{tasks} tasks: starts in {:.2} s, has {:.0} MiB ({each:.0} B a task), snapshot {:.2} s, backup {:.2} s, restore {:.2} s",
        start_up.as_secs_f64(),
        loaded.now_bytes as f64 / f64::from(1 << 20),
        snapshot.as_secs_f64(),
        back_up.as_secs_f64(),
        restore.as_secs_f64()
    ));
    let seconds = |what: &str, time: Duration| Figure::alone(name(what), time.as_secs_f64(), "s");
    let memory = Figure::alone(name("memory of the manager for each"), each, "B");
    // With fewer, most of it is what the store keeps in memory whatever there is in it: the aim is for the most.
    let memory = if tasks == TASKS[TASKS.len() - 1] { memory.at_most(1_024.0) } else { memory };
    Ok(vec![
        seconds("start of the manager to leading", start_up).at_most(5.0),
        memory,
        seconds("snapshot", snapshot),
        seconds("backup", back_up),
        seconds("restore", restore),
    ])
}

/// Starts a manager, and gives how long it took until it led.
async fn started(ground: &mut Ground, data: &str) -> Result<(Manager, Duration), Failure> {
    let start = Instant::now();
    let mut manager = ground.manager(data)?;
    manager.says("this manager leads", PATIENCE).await?;
    Ok((manager, start.elapsed()))
}

/// Makes a store with so many tasks that run, and a backup of it. Gives how long the backup took: it is a snapshot,
/// for there is no history.
fn make(folder: &Path, backup: &Path, tasks: u32) -> Result<Duration, Failure> {
    let mut maker = Maker::new();
    for number in 0..tasks.div_ceil(TASKS_PER_NODE) {
        maker.queue.push(register(number)?);
    }
    maker.settle();
    for number in 0..tasks.div_ceil(TASKS_PER_JOB) {
        let instances = TASKS_PER_JOB.min(tasks - number * TASKS_PER_JOB);
        maker.submit(number, instances)?;
        maker.settle();
    }
    let running = maker.cluster.state().tasks.values();
    let running = running.filter(|task| task.state == TaskState::Running).count();
    if running != tasks as usize {
        return Err(format!("{running} of {tasks} tasks were brought to run").into());
    }
    let store = Store::open(folder)?;
    let mut batch = Batch::default();
    for (at, write) in maker.cluster.state().dump().into_iter().enumerate() {
        batch.write(write);
        if at % CHUNK == CHUNK - 1 {
            store.commit(std::mem::take(&mut batch))?;
        }
    }
    store.commit(batch)?;
    let start = Instant::now();
    store.write_backup(backup)?;
    Ok(start.elapsed())
}

/// A cluster whose log and nodes are this program.
struct Maker {
    cluster: Cluster,
    queue: Queue,
    now_ms: u64,
}

impl Maker {
    fn new() -> Self {
        let identity = Identity {
            manager: ManagerId(Uuid::new_v4()),
            name: longshore_proto::name::UserName::try_from("m1")
                .unwrap_or_else(|_| unreachable!()),
            version: "bench".to_owned(),
        };
        let mut cluster = Cluster::new(identity, Settings::default(), State::default());
        let now_ms = 1_700_000_000_000;
        let now = Now { time: Time(now_ms), wall_ms: now_ms };
        let step = cluster.begin_reign(ClusterId(Uuid::new_v4()), now, Uuid::new_v4().into_bytes());
        let mut maker = Self { cluster, queue: Queue::default(), now_ms };
        maker.take(step);
        maker
    }

    fn submit(&mut self, number: u32, instances: u32) -> Result<(), Failure> {
        let job = service(&format!("job-{number}"), instances)?;
        self.queue.push(Input::Command {
            ticket: Ticket(0),
            role: Role::Operator,
            user: "bench".parse()?,
            actor: None,
            id: CommandId(Uuid::now_v7()),
            command: Command::SubmitJob(Box::new(job)),
        });
        Ok(())
    }

    /// Proposes until nothing is left to decide and every node has reported what it was told.
    fn settle(&mut self) {
        loop {
            self.now_ms += 1;
            let now = Now { time: Time(self.now_ms), wall_ms: self.now_ms };
            let step = self.cluster.propose(&mut self.queue, now, Uuid::new_v4().into_bytes());
            if !self.take(step) && self.queue.is_empty() {
                return;
            }
        }
    }

    /// Takes what a step wants done; whether there was a record.
    fn take(&mut self, step: Step) -> bool {
        let Step::Record(proposal) = step else { return false };
        let index = proposal.index();
        self.cluster.appended(index);
        let Ok(effects) = proposal.release(&Receipt::durable(index)) else { return false };
        for effect in effects {
            let Effect::Assign { node, delta } = effect else { continue };
            let Some(known) = self.cluster.state().nodes.get(&node) else { continue };
            let (node_id, boot_id) = (known.facts.id, known.facts.boot);
            let runs = delta.changes.iter().filter(|change| matches!(change.want, Want::Run(_)));
            let reports: Vec<TaskReport> = runs
                .map(|change| TaskReport {
                    task: change.task,
                    attempt: 1,
                    state: TaskState::Running,
                    boot_id,
                    container_id: Some(format!("{:032x}{:032x}", change.task.0.as_u128(), 7)),
                    exit_code: None,
                    reason: None,
                    ports: Vec::new(),
                    health: None,
                    pulls_failed: 0,
                    at_ms: self.now_ms,
                })
                .collect();
            if !reports.is_empty() {
                let reports = Reports { node_id, boot_id, reports };
                self.queue.push(Input::Reports { ticket: Ticket(0), node, reports });
            }
        }
        true
    }
}

fn register(number: u32) -> Result<Input, Failure> {
    let node: NodeName = format!("w{number}").parse()?;
    let words =
        [("os", "linux"), ("arch", "x86_64"), ("kernel", "6.1.0"), ("docker.version", "27.0")];
    let words = words.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let register = Register {
        node_id: NodeId(Uuid::new_v4()),
        boot_id: BootId(Uuid::new_v4()),
        cluster_id: None,
        datacenter: "dc1".parse()?,
        labels: Default::default(),
        attributes: words.into_iter().collect(),
        capacity: Resources { cpu_millis: 32_000, memory_bytes: 128 << 30, disk_bytes: 1 << 40 },
        tasks_max: 500,
        mount_paths: Vec::new(),
        version: "bench".to_owned(),
    };
    Ok(Input::Register { ticket: Ticket(0), node, register: Box::new(register) })
}
