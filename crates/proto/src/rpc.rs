//! What operators ask of a worker directly, as a stream: the logs of a task, a command in its container, files out of
//! it or into it, a connection to one of its ports.
//!
//! The operator names a session (unguessable) and itself; the worker answers on
//! `node.<node>.out.<user>.<session>`, never on a subject that the asker names. The stream has flow
//! control: the worker sends at most [`WINDOW_CHUNKS`] chunks beyond the last one that was credited, and ends
//! a session that has not been credited for [`CREDIT_TIMEOUT_MS`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::ApiError;
use crate::id::{SessionId, TaskId};
use crate::name::UserName;

/// How many chunks may be under way without a credit.
pub const WINDOW_CHUNKS: u64 = 64;
/// How long a session lives without a credit, in milliseconds.
pub const CREDIT_TIMEOUT_MS: u64 = 15_000;
/// How often the asker renews its credit, even when nothing came, in milliseconds.
pub const CREDIT_INTERVAL_MS: u64 = 4_000;
/// The most bytes in one chunk.
pub const CHUNK_BYTES_MAX: usize = 32 << 10;

/// A wish for a task's logs, on `node.<node>.rpc.logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsRequest {
    /// Who asks: the answer goes to this user's `out` subject.
    pub user: UserName,
    /// The stream's name.
    pub session: SessionId,
    /// Whose logs.
    pub task: TaskId,
    /// Whether to go on with what is yet to come.
    #[serde(default)]
    pub follow: bool,
    /// Only so many lines from the end; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    /// Only what was written from this time on, by the node's clock, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Whether each line begins with the time that it was written at (RFC 3339).
    #[serde(default)]
    pub timestamps: bool,
}

/// A wish to run a command in a task's container, on `node.<node>.rpc.exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Who asks: the answer goes to this user's `out` subject.
    pub user: UserName,
    /// The stream's name.
    pub session: SessionId,
    /// In whose container.
    pub task: TaskId,
    /// The command's words.
    pub command: Vec<String>,
    /// Variables beyond the container's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Who runs it, as for `docker exec`; absent means the container's own user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as: Option<String>,
    /// Where it begins; absent means the container's own folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// The size of its terminal; absent means that it gets none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
    /// Whether it gets an input ([`Input`]).
    #[serde(default)]
    pub stdin: bool,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Its width.
    pub columns: u16,
    /// Its height.
    pub rows: u16,
}

/// A wish for a file or folder of a task's container, on `node.<node>.rpc.copy-from`. The first chunk is
/// [`ChunkBody::Found`]; the bytes of a tar archive follow as [`ChunkBody::Stdout`], whose entries begin with the last
/// part of the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyFromRequest {
    /// Who asks: the answer goes to this user's `out` subject.
    pub user: UserName,
    /// The stream's name.
    pub session: SessionId,
    /// From whose container: the one that runs, or the newest that is kept.
    pub task: TaskId,
    /// The file or folder, from the container's root.
    pub path: String,
    /// Whether a link is followed; else it is copied as a link.
    #[serde(default)]
    pub follow_link: bool,
}

/// A wish to put files into a task's container, on `node.<node>.rpc.copy-to`. The first chunk is [`ChunkBody::Found`];
/// then the bytes of a tar archive are expected as [`Input`]. It is unpacked in the folder that the path names, or else
/// in the folder above it; [`ChunkBody::End`] says that everything is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyToRequest {
    /// Who asks: the answer goes to this user's `out` subject.
    pub user: UserName,
    /// The stream's name.
    pub session: SessionId,
    /// Into whose container.
    pub task: TaskId,
    /// Where to, from the container's root.
    pub path: String,
}

/// A wish for a connection to a port of a task, on `node.<node>.rpc.forward`: one session is one connection. The first
/// chunk, [`ChunkBody::Taken`], says that it is open; [`ChunkBody::Stdout`] and [`Input`] carry the bytes.
/// [`InputBody::End`] and [`ChunkBody::OutputEnd`] each close one direction, [`ChunkBody::End`] follows both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardRequest {
    /// Who asks: the answer goes to this user's `out` subject.
    pub user: UserName,
    /// The stream's name.
    pub session: SessionId,
    /// To whose container.
    pub task: TaskId,
    /// The TCP port that the task listens on, as it knows it itself.
    pub port: u16,
}

/// What a path in a container names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// The path, after links were followed where that was wanted.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// How large it is; only a file's tells anything.
    pub size_bytes: u64,
}

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, a socket, a pipe.
    Other,
}

/// One piece of what a command reads, on `node.<node>.rpc.input`. At most [`WINDOW_CHUNKS`] are under way beyond the
/// last one that [`ChunkBody::Taken`] named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The stream.
    pub session: SessionId,
    /// Counted from 1; a gap ends the session, because a command must not read half of what was meant.
    pub sequence: u64,
    /// What it carries.
    pub body: InputBody,
}

/// What a piece of input carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputBody {
    /// Bytes for the command; at most [`CHUNK_BYTES_MAX`].
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The terminal has another size.
    Size(TerminalSize),
    /// There is no more.
    End,
}

/// The asker has taken everything up to a chunk, on `node.<node>.rpc.credit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// The stream.
    pub session: SessionId,
    /// The last sequence that was taken; 0 for none yet.
    pub sequence: u64,
    /// Whether the asker wants no more.
    #[serde(default)]
    pub end: bool,
}

/// One piece of a stream, on `node.<node>.out.<user>.<session>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Counted from 1; a gap means that a message was lost.
    pub sequence: u64,
    /// What it carries.
    pub body: ChunkBody,
}

/// What a chunk carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChunkBody {
    /// Bytes of standard output.
    Stdout(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Bytes of standard error.
    Stderr(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The input up to this piece has reached the command. The same number again says that the stream lives: a worker
    /// answers each credit so when it has nothing else to say.
    Taken(u64),
    /// What the path names; nothing where nothing has it. The first chunk of what copies files.
    Found(Option<FileStat>),
    /// The other end of a connection writes no more, and may go on reading.
    OutputEnd,
    /// The command has ended with this code. Only of a command; [`ChunkBody::End`] follows.
    Exit(i64),
    /// The stream is over.
    End,
    /// The stream is over because of this.
    Failed(ApiError),
}
