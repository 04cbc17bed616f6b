//! What earlier versions have written is read for ever: records of the log, and snapshots.
//!
//! The files in `tests/formats` were written by the versions that their names count, and are never written anew.
//! When a format gets a new version, `WRITE_FORMATS=1 cargo test -p longshore-manager --test formats` adds a file
//! for it, and leaves those that are there alone.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use longshore_core::cluster::persist;
use longshore_core::cluster::record::{RECORD_FORMAT, Record};
use longshore_core::cluster::{
    Cluster, Command, Identity, Input, Proposal, Queue, Settings, State, Step, Ticket,
};
use longshore_core::time::{Now, Time};
use longshore_manager::snapshot::{self, Entry};
use longshore_manager::store::{Batch, Store};
use longshore_proto::id::{BootId, ClusterId, CommandId, ManagerId, NodeId};
use longshore_proto::name::{JobKey, Namespace, NodeName};
use longshore_proto::node::{Register, Reports, TaskReport};
use longshore_proto::permission::Role;
use longshore_proto::spec::{JobSpec, Resources};
use longshore_proto::state::{JobStatus, TaskState};
use uuid::Uuid;

/// The newest version of each format.
const SNAPSHOT_FORMAT: u16 = 1;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name)
}

/// A small cluster that has lived a little, and the records of it.
struct Life {
    cluster: Cluster,
    records: Vec<Vec<u8>>,
    step: u64,
}

impl Life {
    fn begin() -> Self {
        let identity = Identity {
            manager: ManagerId(Uuid::from_u128(0xa)),
            name: "m1".parse().unwrap(),
            version: "0.1.0".into(),
        };
        let cluster = Cluster::new(identity, Settings::default(), State::default());
        let mut life = Self { cluster, records: Vec::new(), step: 0 };
        let now = life.now();
        let first = life.cluster.begin_reign(ClusterId(Uuid::from_u128(0xc)), now, [1; 16]);
        let Step::Record(proposal) = first else { panic!("no record") };
        life.keep(&proposal);
        life
    }

    fn now(&mut self) -> Now {
        self.step += 1;
        Now { time: Time(self.step * 200), wall_ms: 1_763_800_000_000 + self.step * 200 }
    }

    fn keep(&mut self, proposal: &Proposal) {
        self.records.push(proposal.bytes().to_vec());
        self.cluster.appended(self.records.len() as u64);
    }

    fn input(&mut self, input: Input) {
        let mut queue = Queue::from_iter([input]);
        for round in 0..5u8 {
            let now = self.now();
            let seed = [round.wrapping_add(u8::try_from(self.step % 251).unwrap()); 16];
            match self.cluster.propose(&mut queue, now, seed) {
                Step::Record(proposal) => self.keep(&proposal),
                Step::Answers(_) => {}
            }
        }
    }

    fn command(&mut self, command: Command) {
        let minted = 1_763_800_000_000 + self.step * 200;
        let id = uuid::Builder::from_unix_timestamp_millis(minted, &[7; 10]).into_uuid();
        self.input(Input::Command {
            ticket: Ticket(1),
            role: Role::Operator,
            user: "alice".parse().unwrap(),
            actor: Some("carol".into()),
            id: CommandId(id),
            command,
        });
    }
}

fn job(name: &str) -> JobSpec {
    serde_json::from_value(serde_json::json!({
        "namespace": "default", "name": name, "type": "service",
        "specs": [{ "name": "main", "image": "busybox:1", "instances": 2 }],
    }))
    .unwrap()
}

fn lived() -> Life {
    let mut life = Life::begin();
    let (node_id, boot_id) = (NodeId(Uuid::from_u128(1)), BootId(Uuid::from_u128(2)));
    let node: NodeName = "n1".parse().unwrap();
    let register: Register = serde_json::from_value(serde_json::json!({
        "node_id": node_id, "boot_id": boot_id, "datacenter": "dc1", "labels": {"rack": "r1"},
        "attributes": {}, "version": "0.1.0",
        "capacity": Resources { cpu_millis: 4_000, memory_bytes: 8 << 30, disk_bytes: 0 },
    }))
    .unwrap();
    let register = Box::new(register);
    life.input(Input::Register { ticket: Ticket(2), node: node.clone(), register });
    life.command(Command::SubmitJob(Box::new(job("web"))));
    life.command(Command::SubmitJob(Box::new(job("gone"))));
    let tasks: Vec<_> = life.cluster.state().tasks.keys().copied().collect();
    for task in tasks {
        let report = TaskReport {
            task,
            attempt: 1,
            state: TaskState::Running,
            boot_id,
            container_id: Some("c0ffee".into()),
            exit_code: None,
            reason: None,
            ports: Vec::new(),
            health: None,
            pulls_failed: 0,
            at_ms: 1_763_800_000_000,
        };
        let reports = Reports { node_id, boot_id, reports: vec![report] };
        life.input(Input::Reports { ticket: Ticket(3), node: node.clone(), reports });
    }
    let gone = JobKey { namespace: Namespace::standard(), name: "gone".parse().unwrap() };
    life.command(Command::StopJob(gone));
    life
}

/// What every version finds in the files.
fn check(state: &State) {
    assert_eq!(state.meta.cluster, Some(ClusterId(Uuid::from_u128(0xc))));
    assert_eq!((state.meta.epoch, state.meta.records_skipped), (1, 0));
    let jobs: Vec<_> =
        state.jobs.iter().map(|(key, job)| (key.name.as_str(), job.version, job.status)).collect();
    assert_eq!(jobs, [("gone", 1, JobStatus::Stopping), ("web", 1, JobStatus::Running)]);
    let web = state.tasks.values().filter(|task| task.job.name.as_str() == "web");
    let web: Vec<_> = web.map(|task| (task.state, task.node.as_ref().unwrap().as_str())).collect();
    assert_eq!(web, [(TaskState::Running, "n1"); 2]);
    assert_eq!(state.tasks.len(), 4);
    assert_eq!(state.nodes.len(), 1);
    assert_eq!(state.commands.len(), 3);
    assert_eq!(longshore_core::cluster::invariant::check(state), vec![]);
}

/// Writes what is not there yet, when that is wanted.
fn write_new() {
    if std::env::var_os("WRITE_FORMATS").is_none() {
        return;
    }
    let life = lived();
    let log = file(&format!("log-{RECORD_FORMAT}.records"));
    if !log.exists() {
        let mut bytes = Vec::new();
        for record in &life.records {
            bytes.extend(u32::try_from(record.len()).unwrap().to_be_bytes());
            bytes.extend(record);
        }
        std::fs::write(log, bytes).unwrap();
    }
    let backup = file(&format!("backup-{SNAPSHOT_FORMAT}.snapshot"));
    if !backup.exists() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut follower = State::default();
        for (at, bytes) in life.records.iter().enumerate() {
            let record = Record::decode(bytes).unwrap();
            let (writes, events) = follower.follow(&record, bytes, at as u64 + 1).unwrap();
            let mut batch = Batch::default();
            batch.record(record.index, bytes.clone(), writes, &events);
            store.commit(batch).unwrap();
        }
        store.write_backup(&backup).unwrap();
    }
}

#[test]
fn records_of_every_version_are_replayed() {
    write_new();
    for version in 1..=RECORD_FORMAT {
        let bytes = std::fs::read(file(&format!("log-{version}.records"))).unwrap();
        let (mut rest, mut state, mut sequence) = (&bytes[..], State::default(), 0);
        while let Some((length, more)) = rest.split_first_chunk() {
            let (bytes, more) = more.split_at(u32::from_be_bytes(*length) as usize);
            let record = Record::decode(bytes).unwrap();
            sequence += 1;
            state.follow(&record, bytes, sequence).unwrap();
            rest = more;
        }
        check(&state);
    }
}

#[test]
fn backups_of_every_version_are_restored() {
    write_new();
    for version in 1..=SNAPSHOT_FORMAT {
        let path = file(&format!("backup-{version}.snapshot"));
        let (head, entries) = snapshot::open(&path).unwrap();
        let (mut events, mut tasks) = (0, BTreeMap::new());
        for entry in entries {
            match entry.unwrap() {
                Entry::Event(_) => events += 1,
                Entry::State(key, value) if key.starts_with(b"task/") => {
                    tasks.insert(key, Some(value));
                }
                Entry::State(..) => {}
            }
        }
        assert!(events > 10, "{events} events");
        let folder = tempfile::tempdir().unwrap();
        let restored = longshore_manager::restore(&path, folder.path()).unwrap();
        assert_eq!(restored, head);
        let store = Store::open(folder.path()).unwrap();
        let mut state = store.load().unwrap();
        // However tasks are kept in memory, they are stored as they were, byte for byte.
        let stored = state.dump().into_iter().filter(|write| write.key.starts_with(b"task/"));
        assert_eq!(stored.map(|write| (write.key, write.value)).collect::<BTreeMap<_, _>>(), tasks);
        assert_eq!((state.meta.index, state.meta.chain), (head.index, head.chain));
        assert!(state.meta.epoch > head.epoch, "beyond every reign that the backup has missed");
        state.meta.epoch = head.epoch;
        check(&state);
        let everything = longshore_proto::api::ListEvents::default();
        assert!(store.events(None, &everything).unwrap().0.len() > 10);
    }
}

/// The jobs of a snapshot, as files for others hold them.
fn jobs_in(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let (_, entries) = snapshot::open(path).unwrap();
    let state = entries.map(|entry| match entry.unwrap() {
        Entry::State(key, value) => Some((key, value)),
        Entry::Event(_) => None,
    });
    let state: BTreeMap<_, _> = state.flatten().collect();
    assert!(!state.keys().any(|key| persist::is_version(key)), "no version of before reads it");
    state.into_iter().filter(|(key, _)| key.starts_with(b"job/")).collect()
}

/// A store as fjall has it: single values, and the state.
fn keyspaces(folder: &Path) -> (fjall::Database, fjall::Keyspace, fjall::Keyspace) {
    let database = fjall::Database::builder(folder.join("manager")).open().unwrap();
    let keyspace = |name| database.keyspace(name, Default::default).unwrap();
    let (local, state) = (keyspace("local"), keyspace("state"));
    (database, local, state)
}

#[test]
fn a_store_of_layout_2_gets_a_key_for_each_version_and_its_files_stay_as_they_were() {
    let path = file("backup-1.snapshot");
    let whole = jobs_in(&path);
    assert!(whole.len() > 1);
    let folder = tempfile::tempdir().unwrap();
    let head = longshore_manager::restore(&path, folder.path()).unwrap();
    let written = folder.path().join("written");
    Store::open(folder.path()).unwrap().write_backup(&written).unwrap();
    assert_eq!(jobs_in(&written), whole, "as restored");
    // As the version before left it.
    let (database, local, state) = keyspaces(folder.path());
    let versions: Vec<_> =
        state.prefix("version/").map(|guard| guard.key().unwrap().to_vec()).collect();
    assert!(versions.len() >= whole.len());
    for key in &versions {
        state.remove(key.as_slice()).unwrap();
    }
    for (key, value) in &whole {
        state.insert(key.as_slice(), value.as_slice()).unwrap();
    }
    local.insert("layout", b"2").unwrap();
    database.persist(fjall::PersistMode::SyncAll).unwrap();
    drop((database, local, state));
    let store = Store::open(folder.path()).unwrap();
    let mut state = store.load().unwrap();
    state.meta.epoch = head.epoch;
    check(&state);
    store.write_backup(&written).unwrap();
    assert_eq!(jobs_in(&written), whole, "as upgraded");
    drop(store);
    let (_, local, state) = keyspaces(folder.path());
    assert_eq!(*local.get("layout").unwrap().unwrap(), *b"4");
    let split = state.prefix("version/").map(|guard| guard.key().unwrap().to_vec());
    assert_eq!(split.collect::<Vec<_>>(), versions);
    for (key, value) in &whole {
        assert!(state.get(key.as_slice()).unwrap().unwrap().len() < value.len());
    }
}

#[test]
fn an_upgrade_of_a_store_that_was_cut_short_is_told_from_a_store_of_before_and_goes_on() {
    let mut life = Life::begin();
    for name in ["a", "y"] {
        life.command(Command::SubmitJob(Box::new(job(name))));
    }
    let dump = life.cluster.state().dump();
    let stored: BTreeMap<_, _> =
        dump.iter().map(|write| (write.key.clone(), write.value.clone().unwrap())).collect();

    // As the version before stored it. Between the two jobs are more than are split at once, and behind them is one that
    // cannot be read.
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path()).unwrap());
    let (database, local, state) = keyspaces(folder.path());
    let mut batch = database.batch();
    for (key, value) in stored.iter().filter(|(key, _)| !persist::is_version(key)) {
        let value = match persist::versions_of(key) {
            Some(prefix) => {
                let versions = stored.iter().filter(|(key, _)| key.starts_with(&prefix));
                persist::whole(value, versions.map(|(_, value)| value)).unwrap()
            }
            None => value.clone(),
        };
        batch.insert(&state, key.as_slice(), value);
    }
    let between: Vec<_> =
        (0..5_000).map(|number| format!("job/default/between-{number}")).collect();
    for key in &between {
        batch.insert(&state, key.as_str(), stored[&b"job/default/a"[..]].as_slice());
    }
    batch.insert(&state, "job/default/z", [1, 0xc1]);
    batch.insert(&local, "layout", b"2");
    batch.commit().unwrap();
    database.persist(fjall::PersistMode::SyncAll).unwrap();
    drop((database, local, state));
    for _ in 0..2 {
        Store::open(folder.path()).unwrap_err();
    }

    let (database, local, state) = keyspaces(folder.path());
    assert_eq!(*local.get("layout").unwrap().unwrap(), *b"4", "no version of before opens it");
    let split = |job: &str| state.prefix(format!("version/default/{job}/")).count();
    assert_eq!((split("a"), split("y")), (1, 0), "it is half done");
    let mut batch = database.batch();
    for key in between.iter().map(String::as_str).chain(["job/default/z"]) {
        batch.remove(&state, key);
    }
    batch.commit().unwrap();
    database.persist(fjall::PersistMode::SyncAll).unwrap();
    drop((database, local, state));

    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.load().unwrap().dump(), dump);
    drop(store);
    let (_, local, state) = keyspaces(folder.path());
    assert_eq!(state.prefix("version/default/y/").count(), 1);
    assert!(local.get("upgrading").unwrap().is_none(), "that was once");
}
