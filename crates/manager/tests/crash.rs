//! `kill -9` at any moment: what the store then holds is exactly what some beginning of the log says, and never
//! less than was acknowledged.
//!
//! The writer is this test program itself, started with a folder in its environment. It leads a cluster without a
//! bus: its log is its standard output, on which it first writes each record and then, once the store has it, its
//! acknowledgement; the next record is written there meanwhile. The test kills it, opens the store, and folds the log
//! anew.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;

use longshore_core::cluster::record::Record;
use longshore_core::cluster::{
    Cluster, Command, Identity, Input, Queue, Settings, State, Step, Ticket,
};
use longshore_core::time::{Now, Time};
use longshore_manager::landing::Landing;
use longshore_manager::store::{Batch, Store};
use longshore_proto::id::{BootId, ClusterId, CommandId, ManagerId, NodeId};
use longshore_proto::name::{JobKey, Namespace};
use longshore_proto::node::{Register, Reports, TaskReport};
use longshore_proto::permission::Role;
use longshore_proto::spec::{JobSpec, JobType, Resources, TaskSpec};
use longshore_proto::state::TaskState;
use uuid::Uuid;

/// How often the writer is killed.
const ROUNDS: u64 = 200;
/// The writer's folder and the seed of its moves.
const FOLDER: &str = "LONGSHORE_TEST_CRASH_FOLDER";
const SEED: &str = "LONGSHORE_TEST_CRASH_SEED";
/// What the lines on the writer's standard output begin with; the test runner writes there, too.
const APPENDED: &str = "appended ";
const STORED: &str = "stored ";

#[test]
fn whenever_it_is_killed_the_store_is_what_the_log_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut dice = Dice(1);
    // What the log holds: a record that was appended and not stored stays in it if the store has it after all.
    let mut log: Vec<Vec<u8>> = Vec::new();
    // What the log says, up to where the last round left it.
    let mut told = Cluster::new(identity(), Settings::default(), State::default());
    for round in 1..=ROUNDS {
        let mut writer = Process::new(std::env::current_exe().unwrap())
            .args(["a_writer_that_is_left_alone_goes_on_where_it_was", "--exact", "--nocapture"])
            .env(FOLDER, folder.path())
            .env(SEED, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        // Now right after a record was appended, now right after it was stored, now in between.
        let enough = 1 + dice.roll(16);
        let (mut seen, mut acknowledged) = (0, 0);
        for line in lines.map_while(Result::ok) {
            if let Some(record) = line.strip_prefix(APPENDED) {
                log.push(from_hex(record));
            } else if let Some(index) = line.strip_prefix(STORED) {
                acknowledged = index.parse().unwrap();
            } else {
                continue;
            }
            seen += 1;
            if seen == enough {
                (0..dice.roll(60_000)).for_each(|_| std::hint::spin_loop());
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        assert!(seen >= enough, "round {round}: the writer ended by itself after {seen} lines");
        let stored = Store::open(folder.path()).unwrap().load().unwrap();
        let index = usize::try_from(stored.meta.index).unwrap();
        assert!(stored.meta.index >= acknowledged, "round {round}: {index} of {acknowledged}");
        assert!(index <= log.len(), "round {round}: {index} of {}", log.len());
        log.truncate(index);
        let known = usize::try_from(told.state().meta.index).unwrap();
        for (bytes, sequence) in log.iter().zip(1..).skip(known) {
            told.follow(&Record::decode(bytes).unwrap(), bytes, sequence).unwrap();
        }
        let same = dump(told.state()) == dump(&stored);
        assert!(same, "round {round}: the store differs from the log at record {index}");
    }
    assert!(log.len() > 500, "{} records show little", log.len());
}

/// The writer. Told of no folder it writes a while into one of its own, and must find the same when it comes back.
#[test]
fn a_writer_that_is_left_alone_goes_on_where_it_was() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let seed = std::env::var(SEED).unwrap().parse().unwrap();
        Writer::start(Path::new(&folder), seed).write(usize::MAX);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for seed in 1..4 {
        let mut writer = Writer::start(folder.path(), seed);
        writer.write(50);
        let before = dump(writer.cluster.state());
        drop(writer);
        assert_eq!(dump(&Store::open(folder.path()).unwrap().load().unwrap()), before);
    }
}

/// The state as keys and values.
fn dump(state: &State) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    state.dump().into_iter().map(|write| (write.key, write.value)).collect()
}

fn identity() -> Identity {
    Identity {
        manager: ManagerId(Uuid::from_u128(1)),
        name: "m1".parse().unwrap(),
        version: "test".to_owned(),
    }
}

/// A leader whose log is its standard output. As in a manager, the disk has one record while the next is appended.
struct Writer {
    cluster: Cluster,
    landing: Landing,
    runtime: tokio::runtime::Runtime,
    dice: Dice,
    now_ms: u64,
}

impl Writer {
    fn start(folder: &Path, seed: u64) -> Self {
        let store = Arc::new(Store::open(folder).unwrap());
        let state = store.load().unwrap();
        let now_ms = state.meta.at_ms.max(1_700_000_000_000);
        let mut writer = Self {
            cluster: Cluster::new(identity(), Settings::default(), state),
            landing: Landing::new(&store),
            runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap(),
            dice: Dice(seed),
            now_ms,
        };
        let (now, seed) = (writer.now(), writer.seed());
        let step = writer.cluster.begin_reign(ClusterId(Uuid::from_u128(2)), now, seed);
        writer.commit(step);
        for number in 0..3 {
            writer.propose(vec![register(number)]);
        }
        writer
    }

    fn write(&mut self, steps: usize) {
        for _ in 0..steps {
            let moves = 1 + self.dice.roll(4);
            let inputs = (0..moves).filter_map(|_| self.input()).collect();
            self.propose(inputs);
            self.now_ms += self.dice.roll(2_000);
        }
        while !self.landing.is_empty() {
            self.land();
        }
    }

    fn now(&self) -> Now {
        Now { time: Time(self.now_ms), wall_ms: self.now_ms }
    }

    fn seed(&mut self) -> [u8; 16] {
        let (high, low) = (self.dice.roll(u64::MAX), self.dice.roll(u64::MAX));
        (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
    }

    fn propose(&mut self, inputs: Vec<Input>) {
        let mut queue = Queue::from_iter(inputs);
        loop {
            let (now, seed) = (self.now(), self.seed());
            let step = self.cluster.propose(&mut queue, now, seed);
            if !self.commit(step) && queue.is_empty() {
                return;
            }
        }
    }

    /// Appends, and gives to the disk. Whether there was a record.
    fn commit(&mut self, step: Step) -> bool {
        let Step::Record(proposal) = step else { return false };
        let index = proposal.index();
        say(APPENDED, &to_hex(proposal.bytes()));
        self.cluster.appended(index);
        let writes = proposal.writes(self.cluster.state());
        let mut batch = Batch::default();
        batch.record(index, proposal.bytes().to_vec(), writes, proposal.events());
        let runtime = self.runtime.handle().clone();
        let _guard = runtime.enter();
        self.landing.take(*proposal, batch);
        while self.landing.is_full() {
            self.land();
        }
        true
    }

    /// Says what is stored, once it is.
    fn land(&mut self) {
        for landed in self.runtime.block_on(self.landing.landed()).unwrap() {
            say(STORED, &landed.index().to_string());
            landed.release().unwrap();
        }
    }

    /// Something that may happen.
    fn input(&mut self) -> Option<Input> {
        let key = JobKey {
            namespace: Namespace::standard(),
            name: format!("j{}", self.dice.roll(12)).parse().unwrap(),
        };
        let command = match self.dice.roll(10) {
            0..3 => Command::SubmitJob(Box::new(self.job(key))),
            3 => Command::StopJob(key),
            _ => return self.report(),
        };
        let id = u128::from(self.now_ms) << 80 | 7 << 76 | 2 << 62;
        let id = id | u128::from(self.dice.roll(1 << 60));
        Some(Input::Command {
            ticket: Ticket(0),
            role: Role::Operator,
            user: "alice".parse().unwrap(),
            actor: None,
            id: CommandId(Uuid::from_u128(id)),
            command,
        })
    }

    fn job(&mut self, key: JobKey) -> JobSpec {
        let mut spec = TaskSpec::new("main".parse().unwrap(), "busybox:1");
        spec.instances = 1 + u32::try_from(self.dice.roll(6)).unwrap();
        spec.resources = Resources { cpu_millis: 100, memory_bytes: 64 << 20, disk_bytes: 0 };
        spec.env.insert("ROUND".to_owned(), self.dice.roll(1000).to_string());
        let job_type = if self.dice.roll(2) == 0 { JobType::Batch } else { JobType::Service };
        JobSpec { namespace: key.namespace, ..JobSpec::new(key.name, job_type, spec) }
    }

    /// A node says that one of its tasks goes on, or ends.
    fn report(&mut self) -> Option<Input> {
        let tasks = &self.cluster.state().tasks;
        let at = usize::try_from(self.dice.roll(tasks.len().max(1) as u64)).unwrap();
        let (task, known) = tasks.iter().nth(at)?;
        let node = known.node.clone()?;
        let facts = &self.cluster.state().nodes.get(&node)?.facts;
        let (node_id, boot_id) = (facts.id, facts.boot);
        let (task, attempt) = (*task, known.attempt.max(1));
        let states =
            [TaskState::Running, TaskState::Completed, TaskState::Failed, TaskState::Stopped];
        let state = states[usize::try_from(self.dice.roll(4)).unwrap()];
        let report = TaskReport {
            task,
            attempt,
            state,
            boot_id,
            container_id: Some("c1".to_owned()),
            exit_code: None,
            reason: None,
            ports: vec![],
            health: None,
            pulls_failed: 0,
            at_ms: self.now_ms,
        };
        let reports = Reports { node_id, boot_id, reports: vec![report] };
        Some(Input::Reports { ticket: Ticket(0), node, reports })
    }
}

fn register(number: u128) -> Input {
    let register = Register {
        node_id: NodeId(Uuid::from_u128(10 + number)),
        boot_id: BootId(Uuid::from_u128(20 + number)),
        cluster_id: None,
        datacenter: "dc1".parse().unwrap(),
        labels: Default::default(),
        attributes: Default::default(),
        capacity: Resources { cpu_millis: 4_000, memory_bytes: 8 << 30, disk_bytes: 1 << 40 },
        tasks_max: 500,
        mount_paths: vec![],
        version: "test".to_owned(),
    };
    let node = format!("n{number}").parse().unwrap();
    Input::Register { ticket: Ticket(0), node, register: Box::new(register) }
}

/// Writes a line, at once.
fn say(what: &str, text: &str) {
    let mut out = std::io::stdout().lock();
    // The reader is gone when this process is about to be killed.
    let _ = writeln!(out, "{what}{text}").and_then(|()| out.flush());
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks_exact(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

/// A small generator of numbers, so that a round is its number.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % sides.max(1)
    }
}
