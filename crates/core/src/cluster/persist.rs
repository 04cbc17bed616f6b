//! State as keys and values, for a store that the shell owns.
//!
//! One value per object, so that a record writes only what it touched: a job's versions are objects of their own, for they
//! are large and never change. Each value begins with a byte that names its format; an unknown one is an error, never a
//! guess.
//!
//! In files that others read (snapshots, backups) a job is one value with its versions in it, as every version of
//! Longshore reads it: [`whole`] makes it, and [`split`] takes it apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use longshore_proto::api::RolledBack;
use longshore_proto::codec::{self, DecodeError};
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, NameError, NodeName, SpecName};
use longshore_proto::spec::JobSpec;
use longshore_proto::state::JobStatus;
use serde::{Deserialize, Serialize};

use super::changes::Changes;
use super::record::CommandKey;
use super::state::{Command, Job, Meta, Node, State, Task};
pub use super::task::Names;
use super::task::Stored;

/// The format of every value.
const VALUE_FORMAT: u8 = 1;

/// One change to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: Vec<u8>,
    /// The value; `None` deletes the key.
    pub value: Option<Vec<u8>>,
}

/// Why a stored value cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The value was written by a newer version, or is damaged.
    #[error("a stored {kind} has the unknown format {found:?}; was it written by a newer version?")]
    Format {
        /// What it should be.
        kind: &'static str,
        /// The first byte; absent for an empty value.
        found: Option<u8>,
    },
    /// The value does not decode.
    #[error("a stored {kind} cannot be read")]
    Value {
        /// What it should be.
        kind: &'static str,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The key is none of ours.
    #[error("the store has the unknown key {0:?}")]
    Key(String),
}

/// A stored object with its own key, so that keys need no parsing.
#[derive(Serialize, Deserialize)]
struct Entry<K, V> {
    key: K,
    value: V,
}

#[derive(Serialize)]
struct EntryRef<'a, K, V> {
    key: &'a K,
    value: &'a V,
}

fn meta_key() -> Vec<u8> {
    b"meta".to_vec()
}

fn job_key(key: &JobKey) -> Vec<u8> {
    format!("job/{}/{}", key.namespace, key.name).into_bytes()
}

/// What the keys of a job's versions begin with.
fn version_keys(key: &JobKey) -> String {
    format!("version/{}/{}/", key.namespace, key.name)
}

fn version_key((key, version): &(JobKey, u64)) -> Vec<u8> {
    format!("{}{version:020}", version_keys(key)).into_bytes()
}

fn task_key(id: TaskId) -> Vec<u8> {
    format!("task/{id}").into_bytes()
}

fn node_key(name: &NodeName) -> Vec<u8> {
    format!("node/{name}").into_bytes()
}

fn command_key(key: &CommandKey) -> Vec<u8> {
    format!("command/{}/{}/{}", key.role, key.user, key.id).into_bytes()
}

fn write<K: Serialize, V: Serialize>(at: Vec<u8>, key: &K, value: Option<&V>) -> Write {
    let value = value.map(|value| {
        let mut bytes = vec![VALUE_FORMAT];
        bytes.extend(codec::encode(&EntryRef { key, value }));
        bytes
    });
    Write { key: at, value }
}

fn read<'a, K: Deserialize<'a>, V: Deserialize<'a>>(
    kind: &'static str,
    value: &'a [u8],
) -> Result<(K, V), LoadError> {
    match value.split_first() {
        Some((&VALUE_FORMAT, bytes)) => {
            let entry: Entry<K, V> =
                codec::decode_trusted(bytes).map_err(|source| LoadError::Value { kind, source })?;
            Ok((entry.key, entry.value))
        }
        other => Err(LoadError::Format { kind, found: other.map(|(format, _)| *format) }),
    }
}

/// What must be written after a record: the present values of everything it touched.
pub(super) fn writes(state: &State, changes: &Changes) -> Vec<Write> {
    let mut all = Vec::new();
    if changes.meta {
        all.push(write(meta_key(), &(), Some(&state.meta)));
    }
    let jobs = &state.jobs;
    all.extend(changes.jobs.iter().map(|key| {
        let job = jobs.get(key).map(|job| JobAlone::of(job));
        write(job_key(key), key, job.as_ref())
    }));
    all.extend(changes.versions.iter().map(|at| {
        let spec = jobs.get(&at.0).and_then(|job| job.versions.get(&at.1));
        write(version_key(at), at, spec.map(Arc::as_ref))
    }));
    all.extend(changes.tasks.iter().map(|id| write(task_key(*id), id, state.tasks.get(id))));
    all.extend(changes.nodes.iter().map(|name| write(node_key(name), name, state.nodes.get(name))));
    all.extend(
        changes.commands.iter().map(|key| write(command_key(key), key, state.commands.get(key))),
    );
    all
}

/// A job without its versions, by the names of [`Job`].
#[derive(Serialize)]
struct JobAlone<'a> {
    version: u64,
    run_version: u64,
    status: JobStatus,
    stop_requested: bool,
    blocked: &'a BTreeMap<SpecName, String>,
    created_at_ms: u64,
    changed_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reached: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rolled_back: Option<&'a RolledBack>,
}

impl<'a> JobAlone<'a> {
    fn of(job: &'a Job) -> Self {
        let Job {
            version,
            run_version,
            status,
            stop_requested,
            created_at_ms,
            changed_at_ms,
            reached,
            ..
        } = *job;
        let (blocked, rolled_back) = (&job.blocked, job.rolled_back.as_ref());
        Self {
            version,
            run_version,
            status,
            stop_requested,
            blocked,
            created_at_ms,
            changed_at_ms,
            reached,
            rolled_back,
        }
    }
}

/// Whether a key is that of a job's version, which files for others hold in the job's value.
pub fn is_version(key: &[u8]) -> bool {
    key.starts_with(b"version/")
}

/// What the keys of a job's versions begin with, where a key is that of a job.
pub fn versions_of(key: &[u8]) -> Option<Vec<u8>> {
    let job = key.strip_prefix(b"job/")?;
    Some([b"version/", job, b"/"].concat())
}

/// A job's value with its versions in it.
///
/// # Errors
/// A value does not decode.
pub fn whole<V: AsRef<[u8]>>(
    job: &[u8],
    versions: impl IntoIterator<Item = V>,
) -> Result<Vec<u8>, LoadError> {
    let (key, mut job) = read::<JobKey, Job>("job", job)?;
    for value in versions {
        let ((_, version), spec) = read::<(JobKey, u64), JobSpec>("version", value.as_ref())?;
        job.versions.insert(version, Arc::new(spec));
    }
    Ok(write(Vec::new(), &key, Some(&job)).value.unwrap_or_default())
}

/// What is stored in the place of a job's value with its versions in it; `None` where that is what it is already, or it is
/// no job.
///
/// # Errors
/// The value does not decode.
pub fn split(key: &[u8], value: &[u8]) -> Result<Option<Vec<Write>>, LoadError> {
    if !key.starts_with(b"job/") {
        return Ok(None);
    }
    let (key, job) = read::<JobKey, Job>("job", value)?;
    if job.versions.is_empty() {
        return Ok(None);
    }
    let mut all = vec![write(job_key(&key), &key, Some(&JobAlone::of(&job)))];
    all.extend(job.versions.iter().map(|(version, spec)| {
        let at = (key.clone(), *version);
        write(version_key(&at), &at, Some(spec.as_ref()))
    }));
    Ok(Some(all))
}

/// What stands once, as a write of its own: for a skipped message, which changes nothing else.
pub fn write_meta(meta: &Meta) -> Write {
    write(meta_key(), &(), Some(meta))
}

/// Reads what stands once.
pub fn read_meta(value: &[u8]) -> Result<Meta, LoadError> {
    Ok(read::<(), Meta>("meta", value)?.1)
}

/// A stored object that was read: many can be read side by side.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most are tasks, and each would be an allocation more"
)]
pub enum Loaded {
    /// What stands once.
    Meta(Box<Meta>),
    /// A job, with its versions or without.
    Job(JobKey, Arc<Job>),
    /// A version of a job.
    Version(JobKey, u64, Arc<JobSpec>),
    /// A task.
    Task(TaskId, Task),
    /// A node.
    Node(NodeName, Box<Node>),
    /// A command.
    Command(CommandKey, Box<Command>),
}

impl Loaded {
    /// Reads a key and its value. Tasks read with the same names share them.
    ///
    /// # Errors
    /// The key is none of ours, or the value does not decode.
    pub fn read(key: &[u8], value: &[u8], names: &mut Names) -> Result<Self, LoadError> {
        let kind = key.split(|byte| *byte == b'/').next().unwrap_or_default();
        Ok(match kind {
            b"meta" => Self::Meta(Box::new(read_meta(value)?)),
            b"job" => {
                let (key, job) = read::<JobKey, Job>("job", value)?;
                Self::Job(key, Arc::new(job))
            }
            b"version" => {
                let ((key, version), spec) = read::<(JobKey, u64), JobSpec>("version", value)?;
                Self::Version(key, version, Arc::new(spec))
            }
            b"task" => {
                let (id, stored) = read::<TaskId, Stored<'_>>("task", value)?;
                let shape = |error: NameError| LoadError::Value {
                    kind: "task",
                    source: DecodeError::Shape(error.to_string()),
                };
                Self::Task(id, stored.read(names).map_err(shape)?)
            }
            b"node" => {
                let (name, node) = read::<NodeName, Node>("node", value)?;
                Self::Node(name, Box::new(node))
            }
            b"command" => {
                let (key, command) = read::<CommandKey, Command>("command", value)?;
                Self::Command(key, Box::new(command))
            }
            _ => return Err(LoadError::Key(String::from_utf8_lossy(key).into_owned())),
        })
    }
}

/// State that is being rebuilt from what was read, piece by piece, so that nothing of it is there twice. Pieces may come
/// in any order; tasks in the order of their ids take the least time and room.
#[derive(Debug, Default)]
pub struct Assembly {
    state: State,
    /// Of jobs that are not there yet, too.
    versions: Vec<(JobKey, u64, Arc<JobSpec>)>,
}

impl Assembly {
    /// Takes in a piece.
    pub fn add(&mut self, piece: Loaded) {
        let state = &mut self.state;
        match piece {
            Loaded::Meta(meta) => state.meta = *meta,
            Loaded::Job(key, job) => drop(state.jobs.insert(key, job)),
            Loaded::Version(key, version, spec) => self.versions.push((key, version, spec)),
            Loaded::Task(id, task) => drop(state.tasks.insert(id, task)),
            Loaded::Node(name, node) => drop(state.nodes.insert(name, *node)),
            Loaded::Command(key, command) => drop(state.commands.insert(key, *command)),
        }
    }

    /// The state, once there are no more pieces.
    pub fn finish(mut self) -> State {
        for (key, version, spec) in self.versions {
            if let Some(job) = self.state.jobs.get_mut(&key).map(Arc::make_mut) {
                job.versions.insert(version, spec);
            }
        }
        self.state.derive_all();
        self.state
    }
}

impl State {
    /// Rebuilds state from everything that is stored, in any order.
    pub fn load<'a>(
        stored: impl IntoIterator<
            Item = Result<(std::borrow::Cow<'a, [u8]>, std::borrow::Cow<'a, [u8]>), LoadError>,
        >,
    ) -> Result<Self, LoadError> {
        let (mut names, mut assembly) = (Names::default(), Assembly::default());
        for pair in stored {
            let (key, value) = pair?;
            assembly.add(Loaded::read(&key, &value, &mut names)?);
        }
        Ok(assembly.finish())
    }

    /// Everything that is stored, as it would be loaded: to compare two managers.
    pub fn dump(&self) -> Vec<Write> {
        let versions = self
            .jobs
            .iter()
            .flat_map(|(key, job)| job.versions.keys().map(move |version| (key.clone(), *version)));
        let all = Changes {
            versions: versions.collect(),
            meta: true,
            jobs: self.jobs.keys().cloned().collect(),
            tasks: self.tasks.keys().copied().collect(),
            nodes: self.nodes.keys().cloned().collect(),
            commands: self.commands.keys().cloned().collect(),
            ..Changes::default()
        };
        writes(self, &all)
    }
}
