//! Somebody who submits, changes, restarts and stops jobs without pause, and retries with the same id.

use longshore_core::cluster::input::NodeCommand;
use longshore_core::cluster::record::CommandAnswer;
use longshore_core::cluster::{Command, Reply};
use longshore_proto::api::{DrainNodes, NameNode, NameNodes};
use longshore_proto::health::{HealthCheck, Probe};
use longshore_proto::id::CommandId;
use longshore_proto::name::{JobKey, Namespace};
use longshore_proto::plan::Rebalance;
use longshore_proto::spec::{
    ExchangeOrder, JobSpec, JobType, OnFailure, OnNodeLoss, Port, ReschedulePolicy, Resources,
    RestartMode, RestartPolicy, TaskSpec, UpdatePolicy,
};

use crate::ask::{AskOutput, AskTimer, Asks};
use crate::fault::Fault;
use crate::manager::node_name;
use crate::message::{Answer, Question};
use crate::time::{MS, Micros, SECOND, wall_ms};

const ASK_DEADLINE: Micros = 30 * SECOND;
/// How many jobs there are to choose from: few, so that they meet each other.
const JOBS: u8 = 5;

/// What wakes a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// The next request.
    Next,
    /// For a question.
    Ask(AskTimer),
}

/// What became of a command, as its client knows it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command's id.
    pub id: CommandId,
    /// What was asked for.
    pub command: Command,
    /// The answer, where it was granted.
    pub granted: Option<CommandAnswer>,
}

impl Outcome {
    /// What it counts as, where it was granted.
    pub fn counts_as(&self) -> Option<Fault> {
        self.granted.as_ref()?;
        match self.command {
            Command::ScaleJob { .. } => Some(Fault::Scaled),
            Command::RestartJob { .. } | Command::RestartTask { .. } => Some(Fault::Restarted),
            Command::RollBackJob { .. } => Some(Fault::RolledBack),
            _ => None,
        }
    }
}

/// A client.
#[derive(Debug)]
pub struct Client {
    number: usize,
    asks: Asks<(CommandId, Command)>,
    /// Commands to ask for once more, though they were answered or given up.
    again: Vec<(CommandId, Command)>,
    /// The tasks that it has heard of, to stop them.
    pub tasks_seen: Vec<String>,
    /// How many nodes there are.
    nodes: usize,
}

impl Client {
    /// A client.
    pub fn new(number: usize, nodes: usize) -> Self {
        let (again, tasks_seen) = (Vec::new(), Vec::new());
        Self { number, asks: Asks::default(), again, tasks_seen, nodes }
    }

    /// How many questions are open.
    pub fn questions(&self) -> usize {
        self.asks.open()
    }

    /// Asks for something.
    pub fn next(&mut self, now: Micros, rng: &mut fastrand::Rng, out: &mut Vec<AskOutput>) {
        let (id, command) = match (rng.u8(0..8), self.again.is_empty()) {
            // The same once more, long after.
            (0, false) => self.again.swap_remove(rng.usize(0..self.again.len())),
            _ => (command_id(now, rng), self.command(rng)),
        };
        self.ask(id, command, now, rng, out);
    }

    fn ask(
        &mut self,
        id: CommandId,
        command: Command,
        now: Micros,
        rng: &mut fastrand::Rng,
        out: &mut Vec<AskOutput>,
    ) {
        let question = Question::Command { id, command: command.clone() };
        self.asks.ask((id, command), question, ASK_DEADLINE, now, rng, out);
    }

    /// Says that a node has stopped; gives the command's id.
    pub fn confirm_lost(
        &mut self,
        node: usize,
        now: Micros,
        rng: &mut fastrand::Rng,
        out: &mut Vec<AskOutput>,
    ) -> CommandId {
        let id = command_id(now, rng);
        let asked = NameNode { name: node_name(node) };
        self.ask(id, Command::Node(NodeCommand::ConfirmLost(asked)), now, rng, out);
        id
    }

    /// An answer comes.
    pub fn answer(
        &mut self,
        number: u64,
        answer: Answer,
        now: Micros,
        rng: &mut fastrand::Rng,
        out: &mut Vec<AskOutput>,
    ) -> Option<Outcome> {
        let done = self.asks.answer(number, answer, now, out);
        self.done(done, now, rng, out)
    }

    /// A timer of a question fires.
    pub fn timer(
        &mut self,
        timer: AskTimer,
        now: Micros,
        rng: &mut fastrand::Rng,
        out: &mut Vec<AskOutput>,
    ) -> Option<Outcome> {
        let done = self.asks.timer(timer, now, rng, out);
        self.done(done, now, rng, out)
    }

    fn done(
        &mut self,
        done: Option<((CommandId, Command), Option<Answer>)>,
        now: Micros,
        rng: &mut fastrand::Rng,
        out: &mut Vec<AskOutput>,
    ) -> Option<Outcome> {
        let ((id, command), answer) = done?;
        match answer {
            Some(Answer::Brain(Reply::Command(reply))) => {
                if rng.u8(0..4) == 0 {
                    self.again.push((id, command.clone()));
                }
                Some(Outcome { id, command, granted: reply.ok() })
            }
            // The outcome is unknown: the same id until it is known.
            _ => {
                self.ask(id, command, now, rng, out);
                None
            }
        }
    }

    fn command(&self, rng: &mut fastrand::Rng) -> Command {
        match rng.u8(0..15) {
            0 => Command::StopJob(job_key(rng)),
            11 | 12 => Command::Node(self.node_command(rng)),
            10 => {
                Command::Rebalance(Rebalance { moves_max: Some(rng.u32(1..6)), gain: Some(1.05) })
            }
            13 => revision(rng),
            9 => Command::SubmitJob(Box::new(next_version(rng))),
            1 | 2 | 14 if !self.tasks_seen.is_empty() => {
                let namespace = Namespace::standard();
                let id = self.tasks_seen[rng.usize(0..self.tasks_seen.len())].clone();
                match rng.bool() {
                    true => Command::StopTask { namespace, id },
                    false => Command::RestartTask { namespace, id },
                }
            }
            _ => Command::SubmitJob(Box::new(job(rng))),
        }
    }

    fn node_command(&self, rng: &mut fastrand::Rng) -> NodeCommand {
        let names = vec![node_name(rng.usize(0..self.nodes))];
        match rng.u8(0..6) {
            0 => NodeCommand::Cordon(NameNodes { names }),
            1 => NodeCommand::Drain(DrainNodes { names, deadline_ms: None }),
            2 => {
                let deadline_ms = Some(rng.u64(2_000..20_000));
                NodeCommand::Drain(DrainNodes { names, deadline_ms })
            }
            _ => NodeCommand::Uncordon(NameNodes { names }),
        }
    }

    /// Its number.
    pub fn number(&self) -> usize {
        self.number
    }
}

/// A next version out of one that is there.
fn revision(rng: &mut fastrand::Rng) -> Command {
    let job = job_key(rng);
    match rng.u8(0..3) {
        0 => {
            #[expect(clippy::expect_used, reason = "a letter and a number are a legal name")]
            let spec = Some("s0".parse().expect("a legal name"));
            Command::ScaleJob { job, spec, instances: rng.u32(1..9) }
        }
        1 => Command::RestartJob { job, spec: None },
        _ => Command::RollBackJob { job, version: None },
    }
}

fn job_key(rng: &mut fastrand::Rng) -> JobKey {
    let name = format!("j{}", rng.u8(0..JOBS));
    #[expect(clippy::expect_used, reason = "a letter and a number are a legal name")]
    let name = name.parse().expect("a legal name");
    JobKey { namespace: Namespace::standard(), name }
}

/// The next version of a job that changes in nothing but its image, which is mostly a good one: versions come up, and
/// what follows them fails now and then.
fn next_version(rng: &mut fastrand::Rng) -> JobSpec {
    let kind = ["steady", "steady", "steady", "fail", "missing"][rng.usize(0..5)];
    #[expect(clippy::expect_used, reason = "letters are a legal name")]
    let (name, part) = ("rolled".parse().expect("legal"), "s0".parse().expect("legal"));
    let mut spec = TaskSpec::new(part, format!("{kind}:{}", rng.u8(0..3)));
    spec.instances = 2;
    spec.stop_grace_ms = 1_000;
    spec.resources = Resources { cpu_millis: 100, memory_bytes: 64 << 20, disk_bytes: 0 };
    spec.update = Some(UpdatePolicy {
        healthy_for_ms: 1_000,
        on_failure: OnFailure::Rollback,
        progress_deadline_ms: 20_000,
        ..UpdatePolicy::usual()
    });
    let restart = RestartPolicy { attempts: 1, ..RestartPolicy::usual(RestartMode::Always) };
    spec.restart = Some(restart);
    JobSpec { priority: 80, ..JobSpec::new(name, JobType::Service, spec) }
}

fn job(rng: &mut fastrand::Rng) -> JobSpec {
    let job_type = if rng.u8(0..4) == 0 { JobType::Batch } else { JobType::Service };
    let kinds: &[&str] = match job_type {
        JobType::Service => &["steady", "steady", "steady", "flaky", "stubborn", "fail", "missing"],
        JobType::Batch => &["batch", "batch", "unfit", "missing"],
    };
    let parts = rng.usize(1..3);
    let specs = (0..parts)
        .map(|part| {
            let image = format!("{}:{}", kinds[rng.usize(0..kinds.len())], rng.u8(0..3));
            #[expect(clippy::expect_used, reason = "a letter and a number are a legal name")]
            let name = format!("s{part}").parse().expect("a legal name");
            let mut spec = TaskSpec::new(name, &image);
            spec.instances = rng.u32(1..9);
            spec.stop_grace_ms = rng.u64(500..8_000);
            spec.resources = Resources {
                cpu_millis: rng.u64(1..6) * 100,
                memory_bytes: rng.u64(1..6) * (64 << 20),
                disk_bytes: 0,
            };
            let mode = match (job_type, rng.u8(0..3)) {
                (JobType::Service, _) => RestartMode::Always,
                (JobType::Batch, 0) => RestartMode::Never,
                (JobType::Batch, _) => RestartMode::OnFailure,
            };
            spec.restart = Some(RestartPolicy {
                mode,
                attempts: rng.u32(1..5),
                window_ms: 60_000,
                delay_ms: rng.u64(200..2_000),
                delay_ms_max: 5_000,
            });
            spec.all_at_once = rng.u8(0..5) == 0;
            spec.distinct_hosts = rng.u8(0..12) == 0;
            spec.health = (rng.u8(0..4) == 0).then(|| HealthCheck {
                probe: Probe::Exec { command: vec!["well".into()] },
                interval_ms: rng.u64(1_000..4_000),
                timeout_ms: 1_000,
                retries: rng.u32(1..4),
                start_period_ms: rng.u64(0..4_000),
            });
            if rng.u8(0..6) == 0 {
                let host = 8_000 + u16::from(rng.u8(0..3));
                let port = Port {
                    host,
                    container: 80,
                    protocol: Default::default(),
                    host_ip: None,
                    name: None,
                };
                spec.ports = vec![port];
            }
            spec.update = rng.bool().then(|| UpdatePolicy {
                order: if rng.bool() {
                    ExchangeOrder::StartFirst
                } else {
                    ExchangeOrder::StopFirst
                },
                parallel: rng.u32(1..4),
                healthy_for_ms: rng.u64(0..6_000),
                on_failure: match job_type {
                    JobType::Service if rng.bool() => OnFailure::Rollback,
                    JobType::Service | JobType::Batch => OnFailure::Pause,
                },
                progress_deadline_ms: rng.u64(10_000..60_000),
            });
            spec.reschedule = rng.bool().then(|| ReschedulePolicy {
                attempts: Some(rng.u32(0..3)),
                delay_ms: rng.u64(500..3_000),
                delay_ms_max: 5_000,
            });
            spec
        })
        .collect();
    JobSpec {
        namespace: Namespace::standard(),
        name: job_key(rng).name,
        job_type,
        datacenters: vec![],
        priority: rng.u8(1..100),
        on_node_loss: if rng.u8(0..4) == 0 { OnNodeLoss::Wait } else { OnNodeLoss::Replace },
        fence: rng.u8(0..4) == 0,
        scheduler: None,
        specs,
    }
}

fn command_id(now: Micros, rng: &mut fastrand::Rng) -> CommandId {
    let random = rng.u128(..).to_be_bytes();
    let mut ten = [0; 10];
    ten.copy_from_slice(&random[..10]);
    CommandId(uuid::Builder::from_unix_timestamp_millis(wall_ms(now), &ten).into_uuid())
}

/// How long a client waits between two requests.
pub fn pause(rng: &mut fastrand::Rng) -> Micros {
    rng.u64(200 * MS..12 * SECOND)
}
