//! The manager's brain in this process, without a shell: nodes that join, jobs that run on them.

use longshore_core::cluster::{
    Cluster, Command, Identity, Input, Queue, Settings, State, Step, Ticket,
};
use longshore_core::time::{Now, Time};
use longshore_proto::id::{BootId, ClusterId, CommandId, ManagerId, NodeId};
use longshore_proto::name::NodeName;
use longshore_proto::node::{Heartbeat, REPORTS_MAX, Register, Reports, TaskReport};
use longshore_proto::permission::Role;
use longshore_proto::spec::{JobSpec, JobType, Resources, TaskSpec};
use longshore_proto::state::TaskState;
use longshore_simulate::machines::Host;
use uuid::Uuid;

use crate::Failure;

/// When everything here happens, by the wall clock.
const WALL_MS: u64 = 1_700_000_000_000;
/// How many inputs are given at once.
const INPUTS: usize = 1_000;
/// How many tasks a job has.
const INSTANCES: u32 = 10;

/// A manager without a shell.
pub(super) struct Brain {
    pub(super) cluster: Cluster,
    minted: u64,
}

impl Brain {
    /// One that leads over these nodes, each of which was measured to be idle.
    pub(super) fn new(hosts: &[Host]) -> Result<Self, Failure> {
        let identity = Identity {
            manager: ManagerId(Uuid::from_u128(1)),
            name: "m1".parse()?,
            version: "bench".to_owned(),
        };
        let cluster = Cluster::new(identity, Settings::default(), State::default());
        let mut brain = Self { cluster, minted: 1 };
        brain.cluster.begin_reign(ClusterId(Uuid::from_u128(1)), now(), [0; 16]);
        let (joining, beating): (Vec<Input>, Vec<Input>) =
            hosts.iter().zip(1..).map(|(host, number)| signs_of_life(host, number)).unzip();
        brain.decide(joining)?;
        brain.decide(beating)?;
        Ok(brain)
    }

    /// Runs so many tasks more, in jobs that are submitted one by one.
    pub(super) fn run(&mut self, tasks: usize) -> Result<(), Failure> {
        let before = self.cluster.state().tasks.len();
        let jobs = (0..tasks / INSTANCES as usize).map(|_| self.submission());
        let jobs = jobs.collect::<Result<Vec<Input>, Failure>>()?;
        self.decide(jobs)?;
        let reports = self.reports();
        self.decide(reports)?;
        let state = self.cluster.state();
        let running = state.tasks.values().filter(|task| task.state == TaskState::Running).count();
        if running != before + tasks {
            return Err(format!("{running} tasks run instead of {}", before + tasks).into());
        }
        Ok(())
    }

    fn mint(&mut self) -> u64 {
        self.minted += 1;
        self.minted
    }

    fn submission(&mut self) -> Result<Input, Failure> {
        let number = self.mint();
        let mut spec = TaskSpec::new(
            "main".parse()?,
            format!("registry.example.com/team/app:{}", number % 100),
        );
        spec.instances = INSTANCES;
        // Some sixty shapes, as services ask for them.
        spec.resources = Resources {
            cpu_millis: 50 + 25 * (number % 8),
            memory_bytes: (128 + 64 * (number / 8 % 8)) << 20,
            disk_bytes: 0,
        };
        let job = JobSpec::new(format!("job-{number}").parse()?, JobType::Service, spec);
        let mut random = [0; 10];
        random[2..].copy_from_slice(&number.to_be_bytes());
        let id = uuid::Builder::from_unix_timestamp_millis(WALL_MS, &random).into_uuid();
        Ok(Input::Command {
            ticket: Ticket(number),
            role: Role::Operator,
            user: "bench".parse()?,
            actor: None,
            id: CommandId(id),
            command: Command::SubmitJob(Box::new(job)),
        })
    }

    /// Every task that was assigned runs: so say the nodes.
    fn reports(&self) -> Vec<Input> {
        let state = self.cluster.state();
        let of_node = |(name, node): (&NodeName, &longshore_core::cluster::state::Node)| {
            let assigned = node.tasks.iter().filter(|id| {
                state.tasks.get(id).is_some_and(|task| task.state == TaskState::Assigned)
            });
            let reports: Vec<TaskReport> = assigned
                .map(|task| TaskReport {
                    task: *task,
                    attempt: 1,
                    state: TaskState::Running,
                    boot_id: node.facts.boot,
                    container_id: Some(format!("{:064x}", task.0.as_u128())),
                    exit_code: None,
                    reason: None,
                    ports: vec![],
                    health: None,
                    pulls_failed: 0,
                    at_ms: WALL_MS,
                })
                .collect();
            let (node_id, boot_id) = (node.facts.id, node.facts.boot);
            let input = |reports: &[TaskReport]| Input::Reports {
                ticket: Ticket(0),
                node: name.clone(),
                reports: Reports { node_id, boot_id, reports: reports.to_vec() },
            };
            reports.chunks(REPORTS_MAX).map(input).collect::<Vec<Input>>()
        };
        state.nodes.iter().flat_map(of_node).collect()
    }

    /// Decides on inputs, record by record, until nothing is left to do.
    fn decide(&mut self, inputs: Vec<Input>) -> Result<(), Failure> {
        let mut inputs = inputs.into_iter();
        let mut queue = Queue::default();
        loop {
            queue.extend(
                inputs.by_ref().take(INPUTS.saturating_sub(queue.reports() + queue.prompt())),
            );
            let seed = u128::from(self.mint()).to_be_bytes();
            let step = self.cluster.propose(&mut queue, now(), seed);
            let is_idle = self.cluster.next_wakeup() > now().time;
            if queue.is_empty() && inputs.len() == 0 && is_idle && matches!(step, Step::Answers(_))
            {
                return Ok(());
            }
        }
    }
}

/// Time stands still: nobody is silent, and nothing is due.
fn now() -> Now {
    Now { time: Time(1_000), wall_ms: WALL_MS }
}

/// What a node says when it joins, and then.
fn signs_of_life(host: &Host, number: u128) -> (Input, Input) {
    let (node_id, boot_id) = (NodeId(Uuid::from_u128(number)), BootId(Uuid::from_u128(number)));
    let attributes = [
        ("os", "linux"),
        ("arch", "x86_64"),
        ("kernel", "6.1.0-35-amd64"),
        ("docker.version", "28.0.1"),
    ];
    let register = Register {
        node_id,
        boot_id,
        cluster_id: None,
        datacenter: host.datacenter.clone(),
        labels: host.labels.clone(),
        attributes: attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        capacity: host.capacity,
        tasks_max: host.tasks_max,
        mount_paths: vec![],
        version: "1.0.0".to_owned(),
    };
    let heartbeat = Heartbeat {
        node_id,
        boot_id,
        revision: longshore_proto::id::Revision::default(),
        answered: None,
        digest: 0,
        capacity: host.capacity,
        used: Resources::ZERO,
        tasks_running: 0,
        runtime_error: None,
        leaving: false,
        drain_within_ms: None,
        cluster_id: None,
    };
    let node = host.name.clone();
    (
        Input::Register { ticket: Ticket(0), node: node.clone(), register: Box::new(register) },
        Input::Heartbeat { node, heartbeat: Box::new(heartbeat) },
    )
}
