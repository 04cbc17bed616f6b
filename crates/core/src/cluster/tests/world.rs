//! A manager without a shell: a log in memory, a clock that is told, and every step checked.

use std::collections::BTreeMap;

use longshore_proto::error::ApiError;
use longshore_proto::health::HealthReport;
use longshore_proto::id::{BootId, ClusterId, CommandId, ManagerId, NodeId, TaskId};
use longshore_proto::name::{JobKey, Namespace, NodeName};
use longshore_proto::node::{AssignDelta, Heartbeat, Register, Registered, Reports, TaskReport};
use longshore_proto::permission::Role;
use longshore_proto::spec::{JobSpec, JobType, Resources, TaskSpec, UpdatePolicy};
use longshore_proto::state::TaskState;
use uuid::Uuid;

use crate::cluster::record::{CommandAnswer, Fact, RECORD_BYTES_MAX, Record};
use crate::cluster::state::Task;
use crate::cluster::{
    Cluster, Command, Effect, Identity, Input, Queue, Receipt, Reply, Settings, State, Step,
    Ticket, invariant,
};
use crate::leadership::mend::restored;
use crate::time::{Now, Time};

/// A manager without a shell.
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) now_ms: u64,
    /// How far the manager's wall clock is off.
    pub(super) clock_off_ms: i64,
    /// Every record's bytes.
    pub(super) log: Vec<Vec<u8>>,
    /// What the store would hold.
    pub(super) stored: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Answers by ticket.
    pub(super) answers: BTreeMap<u64, Reply>,
    /// What nodes were told, in order.
    pub(super) told: Vec<(NodeName, AssignDelta)>,
    minted: u128,
    tickets: u64,
    boots: BTreeMap<NodeName, (NodeId, BootId, Resources)>,
}

pub(super) fn node_name(name: &str) -> NodeName {
    name.parse().unwrap()
}

pub(super) fn key(name: &str) -> JobKey {
    JobKey { namespace: Namespace::standard(), name: name.parse().unwrap() }
}

pub(super) fn job(name: &str, instances: u32) -> JobSpec {
    let mut spec = TaskSpec::new("main".parse().unwrap(), "busybox:1");
    spec.instances = instances;
    spec.resources = Resources { cpu_millis: 100, memory_bytes: 64 << 20, disk_bytes: 0 };
    JobSpec::new(name.parse().unwrap(), JobType::Service, spec)
}

/// The same, whose tasks count as well as soon as they are up.
pub(super) fn hasty_job(name: &str, instances: u32) -> JobSpec {
    let mut spec = job(name, instances);
    spec.specs[0].update = Some(UpdatePolicy { healthy_for_ms: 0, ..UpdatePolicy::usual() });
    spec
}

pub(super) const NODE: Resources =
    Resources { cpu_millis: 1_000, memory_bytes: 1 << 30, disk_bytes: 10 << 30 };

impl World {
    pub(super) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(super) fn with(settings: Settings) -> Self {
        Self::make(settings, 0)
    }

    /// A manager whose wall clock is off by so many milliseconds.
    pub(super) fn with_clock_off(clock_off_ms: i64) -> Self {
        Self::make(Settings::default(), clock_off_ms)
    }

    fn make(settings: Settings, clock_off_ms: i64) -> Self {
        let identity = Identity {
            manager: ManagerId(Uuid::from_u128(0xa)),
            name: "m1".parse().unwrap(),
            version: "test".into(),
        };
        let cluster = Cluster::new(identity, settings, State::default());
        let mut world = Self {
            cluster,
            now_ms: 1_000,
            clock_off_ms,
            log: Vec::new(),
            stored: BTreeMap::new(),
            answers: BTreeMap::new(),
            told: Vec::new(),
            minted: 0,
            tickets: 0,
            boots: BTreeMap::new(),
        };
        let now = world.now();
        let step = world.cluster.begin_reign(ClusterId(Uuid::from_u128(0xc)), now, [0; 16]);
        world.settle(step);
        world
    }

    pub(super) fn now(&self) -> Now {
        let wall_ms = self.true_wall_ms().saturating_add_signed(self.clock_off_ms);
        Now { time: Time(self.now_ms), wall_ms }
    }

    fn true_wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.now_ms
    }

    pub(super) fn seed(&mut self) -> [u8; 16] {
        self.minted += 1;
        self.minted.to_be_bytes()
    }

    pub(super) fn settle(&mut self, step: Step) -> Vec<Fact> {
        let (effects, facts) = match step {
            Step::Answers(effects) => (effects, Vec::new()),
            Step::Record(proposal) => {
                assert!(
                    proposal.bytes().len() <= RECORD_BYTES_MAX,
                    "a record of {} bytes",
                    proposal.bytes().len()
                );
                self.log.push(proposal.bytes().to_vec());
                self.cluster.appended(self.log.len() as u64);
                for write in proposal.writes(self.cluster.state()) {
                    match write.value {
                        Some(value) => drop(self.stored.insert(write.key, value)),
                        None => drop(self.stored.remove(&write.key)),
                    }
                }
                let facts = Record::decode(proposal.bytes()).unwrap().facts;
                let receipt = Receipt::durable(proposal.index());
                (proposal.release(&receipt).unwrap(), facts)
            }
        };
        for effect in effects {
            match effect {
                Effect::Answer { ticket, reply } => drop(self.answers.insert(ticket.0, reply)),
                Effect::Assign { node, delta } => self.told.push((node, delta)),
            }
        }
        for fact in &facts {
            if let Fact::NodeDrained { name } = fact {
                let node = self.cluster.state().nodes.get(name);
                assert!(node.is_some_and(|node| node.tasks.is_empty()), "{name} is not drained");
            }
        }
        let violations = invariant::check(self.cluster.state());
        assert!(violations.is_empty(), "{violations:#?}");
        facts
    }

    /// Proposes until nothing is left to do at this instant. Gives every fact.
    pub(super) fn run(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Fact> {
        let mut queue: Queue = inputs.into_iter().collect();
        let mut all = Vec::new();
        for _ in 0..10_000 {
            let (now, seed) = (self.now(), self.seed());
            let step = self.cluster.propose(&mut queue, now, seed);
            let facts = self.settle(step);
            let idle = facts.is_empty() && queue.is_empty();
            all.extend(facts);
            if idle {
                return all;
            }
        }
        panic!(
            "the cluster does not settle; the last facts: {:#?}",
            &all[all.len().saturating_sub(5)..]
        );
    }

    /// Lets time pass, tick by tick, with heartbeats of the given nodes.
    pub(super) fn pass(&mut self, milliseconds: u64, alive: &[&str]) -> Vec<Fact> {
        let end = self.now_ms + milliseconds;
        let mut all = Vec::new();
        while self.now_ms < end {
            self.now_ms = (self.now_ms + 500).min(end);
            let beats: Vec<Input> =
                alive.iter().map(|name| self.heartbeat(&node_name(name))).collect();
            all.extend(self.run(beats));
        }
        all
    }

    /// Another manager, which has followed the log, leads from now on.
    pub(super) fn change_leader(&mut self) {
        self.begin_reign_that_takes(0);
    }

    /// The same, and its election is on its way for so long.
    pub(super) fn begin_reign_that_takes(&mut self, milliseconds: u64) {
        self.cluster = self.replayed();
        let (now, seed) = (self.now(), self.seed());
        let step = self.cluster.begin_reign(ClusterId(Uuid::nil()), now, seed);
        self.now_ms += milliseconds;
        self.settle(step);
        self.run([]);
    }

    /// This manager goes on from what it knows, though others may have known more.
    pub(super) fn restore(&mut self) {
        let meta = std::mem::take(&mut self.cluster.state.meta);
        self.cluster.state.meta = restored(meta);
        let (now, seed) = (self.now(), self.seed());
        let step = self.cluster.begin_reign(ClusterId(Uuid::nil()), now, seed);
        self.settle(step);
        self.run([]);
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    pub(super) fn command_id(&mut self) -> CommandId {
        self.minted += 1;
        let counter = u64::try_from(self.minted).unwrap().to_be_bytes();
        let mut random = [0u8; 10];
        random[2..].copy_from_slice(&counter);
        CommandId(
            uuid::Builder::from_unix_timestamp_millis(self.true_wall_ms(), &random).into_uuid(),
        )
    }

    pub(super) fn command(&mut self, command: Command) -> Result<CommandAnswer, ApiError> {
        let id = self.command_id();
        self.command_with(id, command)
    }

    pub(super) fn command_with(
        &mut self,
        id: CommandId,
        command: Command,
    ) -> Result<CommandAnswer, ApiError> {
        let ticket = self.ticket();
        let user = "alice".parse().unwrap();
        self.run([Input::Command { ticket, role: Role::Operator, user, actor: None, id, command }]);
        match self.answers.remove(&ticket.0) {
            Some(Reply::Command(answer)) => answer,
            other => panic!("not an answer to a command: {other:?}"),
        }
    }

    pub(super) fn submit(&mut self, job: JobSpec) -> u64 {
        match self.command(Command::SubmitJob(Box::new(job))) {
            Ok(CommandAnswer::Submitted(answer)) => answer.version,
            other => panic!("not submitted: {other:?}"),
        }
    }

    pub(super) fn join(&mut self, name: &str, capacity: Resources) -> Result<Registered, ApiError> {
        self.minted += 2;
        let (id, boot) =
            (NodeId(Uuid::from_u128(self.minted)), BootId(Uuid::from_u128(self.minted + 1)));
        self.join_as(name, id, boot, capacity)
    }

    pub(super) fn join_as(
        &mut self,
        name: &str,
        node_id: NodeId,
        boot_id: BootId,
        capacity: Resources,
    ) -> Result<Registered, ApiError> {
        self.register(name, wish(node_id, boot_id, capacity))
    }

    pub(super) fn register(
        &mut self,
        name: &str,
        register: Register,
    ) -> Result<Registered, ApiError> {
        let ticket = self.ticket();
        let node = node_name(name);
        let known = (register.node_id, register.boot_id, register.capacity);
        self.run([Input::Register { ticket, node: node.clone(), register: Box::new(register) }]);
        match self.answers.remove(&ticket.0) {
            Some(Reply::Registered(answer)) => {
                if answer.is_ok() {
                    self.boots.insert(node, known);
                }
                answer
            }
            other => panic!("not an answer to a registration: {other:?}"),
        }
    }

    pub(super) fn identity_of(&self, name: &str) -> (NodeId, BootId) {
        let (id, boot, _) = self.boots[&node_name(name)];
        (id, boot)
    }

    /// A heartbeat of a node that has everything it was told, and runs so many containers.
    pub(super) fn heartbeat_of(&self, name: &str, containers: u32) -> Input {
        let mut beat = self.heartbeat(&node_name(name));
        if let Input::Heartbeat { heartbeat, .. } = &mut beat {
            heartbeat.tasks_running = containers;
        }
        beat
    }

    /// A heartbeat of a node that has everything it was told.
    pub(super) fn heartbeat(&self, name: &NodeName) -> Input {
        let (node_id, boot_id, capacity) = self.boots[name];
        let node = &self.cluster.state().nodes[name];
        let set = node.tasks.iter().map(|id| (id, self.cluster.state().tasks[id].revision));
        let heartbeat = Heartbeat {
            node_id,
            boot_id,
            revision: node.revision,
            answered: None,
            digest: longshore_proto::node::set_digest(set),
            capacity,
            used: Resources::ZERO,
            tasks_running: 0,
            runtime_error: None,
            leaving: false,
            drain_within_ms: None,
            cluster_id: None,
        };
        Input::Heartbeat { node: name.clone(), heartbeat: Box::new(heartbeat) }
    }

    /// A report of the node that a task is on.
    pub(super) fn report(
        &mut self,
        task: TaskId,
        attempt: u64,
        state: TaskState,
        exit_code: Option<i64>,
    ) -> Vec<Fact> {
        let node = self.task(task).node.clone().expect("the task has a node");
        self.report_from(&node, task, attempt, state, exit_code)
    }

    /// A node says what it found of a task's health in its first attempt.
    pub(super) fn report_health(&mut self, task: TaskId, health: HealthReport) -> Vec<Fact> {
        let node = self.task(task).node.clone().expect("the task has a node");
        self.report_as(&node, task, 1, TaskState::Running, |report| report.health = Some(health))
    }

    /// A node says that a task's image could not be had in its first attempt.
    pub(super) fn report_pull_failed(&mut self, task: TaskId, failed: u32, why: &str) -> Vec<Fact> {
        let node = self.task(task).node.clone().expect("the task has a node");
        self.report_as(&node, task, 1, TaskState::Preparing, |report| {
            report.pulls_failed = failed;
            report.reason = Some(why.to_owned());
        })
    }

    pub(super) fn report_from(
        &mut self,
        node: &NodeName,
        task: TaskId,
        attempt: u64,
        state: TaskState,
        exit_code: Option<i64>,
    ) -> Vec<Fact> {
        self.report_as(node, task, attempt, state, |report| report.exit_code = exit_code)
    }

    fn report_as(
        &mut self,
        node: &NodeName,
        task: TaskId,
        attempt: u64,
        state: TaskState,
        change: impl FnOnce(&mut TaskReport),
    ) -> Vec<Fact> {
        let (node_id, boot_id, _) = self.boots[node];
        let mut report = TaskReport {
            task,
            attempt,
            state,
            boot_id,
            container_id: None,
            exit_code: None,
            reason: None,
            ports: Vec::new(),
            health: None,
            pulls_failed: 0,
            at_ms: self.now().wall_ms,
        };
        change(&mut report);
        let ticket = self.ticket();
        let reports = Reports { node_id, boot_id, reports: vec![report] };
        let facts = self.run([Input::Reports { ticket, node: node.clone(), reports }]);
        assert!(
            matches!(self.answers.remove(&ticket.0), Some(Reply::Reports(Ok(_)))),
            "a report is answered"
        );
        facts
    }

    pub(super) fn task(&self, id: TaskId) -> &Task {
        &self.cluster.state().tasks[&id]
    }

    /// A job's tasks that have not ended, by slot.
    pub(super) fn live(&self, name: &str) -> Vec<TaskId> {
        let key = key(name);
        let mut live: Vec<_> = self
            .cluster
            .state()
            .tasks
            .iter()
            .filter(|(_, task)| task.job == key && !task.state.is_terminal())
            .map(|(id, task)| (task.slot, *id))
            .collect();
        live.sort_unstable();
        live.into_iter().map(|(_, id)| id).collect()
    }

    /// Why tasks of a job wait.
    pub(super) fn waits_because(&self, name: &str) -> String {
        let blocked = &self.cluster.state().jobs[&key(name)].blocked;
        blocked.values().next().cloned().unwrap_or_default()
    }

    /// Every live task of a job that was told to end has ended.
    pub(super) fn end_all(&mut self, name: &str) -> Vec<Fact> {
        let mut facts = Vec::new();
        for id in self.live(name) {
            let task = self.task(id);
            if task.is_to_stop() {
                facts.extend(self.report(id, task.attempt.max(1), TaskState::Stopped, None));
            }
        }
        facts
    }

    /// The nodes of a job's live tasks.
    pub(super) fn nodes_of(&self, name: &str) -> Vec<Option<String>> {
        let node = |id| self.task(id).node.as_ref().map(ToString::to_string);
        self.live(name).into_iter().map(node).collect()
    }

    /// Every live task of a job that has a node starts to run.
    pub(super) fn start_all(&mut self, name: &str) {
        for id in self.live(name) {
            if self.task(id).state == TaskState::Assigned {
                self.report(id, 1, TaskState::Running, None);
            }
        }
    }

    /// What a restart finds: state from the store, and state from the log alone.
    pub(super) fn check_replay(&self) {
        let pairs = self.stored.iter().map(|(key, value)| Ok((key.into(), value.into())));
        let loaded = State::load(pairs).unwrap();
        let live = self.cluster.state();
        assert_eq!(loaded.dump(), live.dump(), "the store holds what is in memory");
        assert_eq!(invariant::check(&loaded), vec![]);

        assert_eq!(self.replayed().state().dump(), live.dump(), "replay gives what is in memory");
    }

    /// Another manager that has followed the whole log.
    pub(super) fn replayed(&self) -> Cluster {
        let identity = Identity {
            manager: ManagerId(Uuid::from_u128(0xb)),
            name: "m2".parse().unwrap(),
            version: "other".into(),
        };
        let mut follower = Cluster::new(identity, Settings::default(), State::default());
        for (at, bytes) in self.log.iter().enumerate() {
            let record = Record::decode(bytes).unwrap();
            follower.follow(&record, bytes, at as u64 + 1).unwrap();
        }
        follower
    }
}

/// A worker's wish to join.
pub(super) fn wish(node_id: NodeId, boot_id: BootId, capacity: Resources) -> Register {
    Register {
        node_id,
        boot_id,
        cluster_id: None,
        datacenter: "dc1".parse().unwrap(),
        labels: BTreeMap::new(),
        attributes: BTreeMap::new(),
        capacity,
        tasks_max: 10_000,
        mount_paths: Vec::new(),
        version: "test".into(),
    }
}
