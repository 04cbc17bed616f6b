//! State as keys and values, for a store that the shell owns.
//!
//! One value per object, so that a record writes only what it touched. Each value begins with a byte that
//! names its format; an unknown one is an error, never a guess.

use std::sync::Arc;

use longshore_proto::codec::{self, DecodeError};
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, NameError, NodeName};
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
    all.extend(
        changes
            .jobs
            .iter()
            .map(|key| write(job_key(key), key, state.jobs.get(key).map(Arc::as_ref))),
    );
    all.extend(changes.tasks.iter().map(|id| write(task_key(*id), id, state.tasks.get(id))));
    all.extend(changes.nodes.iter().map(|name| write(node_key(name), name, state.nodes.get(name))));
    all.extend(
        changes.commands.iter().map(|key| write(command_key(key), key, state.commands.get(key))),
    );
    all
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
    /// A job.
    Job(JobKey, Arc<Job>),
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
pub struct Assembly(State);

impl Assembly {
    /// Takes in a piece.
    pub fn add(&mut self, piece: Loaded) {
        let state = &mut self.0;
        match piece {
            Loaded::Meta(meta) => state.meta = *meta,
            Loaded::Job(key, job) => drop(state.jobs.insert(key, job)),
            Loaded::Task(id, task) => drop(state.tasks.insert(id, task)),
            Loaded::Node(name, node) => drop(state.nodes.insert(name, *node)),
            Loaded::Command(key, command) => drop(state.commands.insert(key, *command)),
        }
    }

    /// The state, once there are no more pieces.
    pub fn finish(mut self) -> State {
        self.0.derive_all();
        self.0
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

    /// Everything that is stored, as it would be loaded: for snapshots, and to compare two managers.
    pub fn dump(&self) -> Vec<Write> {
        let all = Changes {
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
