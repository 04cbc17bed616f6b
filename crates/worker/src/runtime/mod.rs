//! The seam to the container runtime: a dozen verbs, and errors that tell the daemon's absence from its refusal.
//!
//! The brain never sees a runtime; the driver carries its actions out through this trait. Docker is the one
//! implementation, and a runtime made of memory stands in its place where a test needs one that can be broken.

pub mod docker;
mod docker_auth;
mod docker_config;
mod docker_error;
mod docker_event;
mod docker_exec;
mod docker_files;
mod docker_image;
mod docker_life;
mod docker_list;
mod docker_mount;
mod docker_pause;
mod docker_sandbox;
mod docker_usage;
mod docker_volume;
mod sandbox_list;
mod sandbox_pool;
mod sandbox_state;

use std::collections::BTreeMap;
use std::fmt;
use std::future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::BoxStream;
use longshore_core::agent::{
    Container, ContainerEnd, ContainerEvent, Failure, ImageWish, StartContainer, StartedContainer,
};
use longshore_proto::id::ClusterId;
use longshore_proto::metrics::{PullFigures, Usage};
use longshore_proto::platform::Platform;
use longshore_proto::rpc::FileStat;
use tokio::io::AsyncWrite;

/// The answer to a verb. Every verb answers within a deadline of its own.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, RuntimeError>>;

/// What a worker needs of a container runtime.
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// Who the runtime is; also the question whether it answers at all.
    fn version(&self) -> Answer<'_, RuntimeInfo>;

    /// Every container that has this node's label, whatever its state.
    fn list(&self) -> Answer<'_, Vec<Container>>;

    /// The id of an image that is here, made for the platform that is meant.
    fn find_image(&self, wish: ImageWish) -> Answer<'_, Option<String>>;

    /// Fetches an image from its registry, whether or not it is here. Refused where trying again may help, forbidden
    /// where it does not.
    fn fetch_image(&self, wish: ImageWish) -> Answer<'_, ()>;

    /// Takes an image away, by one of its references, unless any container uses it; or by its id, unless it has a
    /// name, too.
    fn remove_image(&self, image: String) -> Answer<'_, ()>;

    /// Takes a volume away that was made for tasks of this cluster and node, unless any container uses it.
    fn remove_volume(&self, name: String, cluster: ClusterId) -> Answer<'_, ()>;

    /// Creates a container and starts it. A container of this name and with these labels is adopted: started
    /// if it never was, left alone if it runs, told if it has ended.
    fn start(&self, start: StartContainer) -> Answer<'_, StartedContainer>;

    /// Ends a container: stop signal, grace, kill. One that has ended, or is gone, is answered at once.
    fn stop(&self, container_id: String, grace_ms: u64) -> Answer<'_, ContainerEnd>;

    /// Removes a container and its anonymous volumes; one that runs is ended first, with a grace. Answers when
    /// it is gone.
    fn remove(&self, container: String, grace_ms: u64) -> Answer<'_, ()>;

    /// What a container wrote.
    fn logs(&self, wish: LogsWish) -> BoxStream<'static, Result<LogChunk, RuntimeError>>;

    /// A close look at a container that runs.
    fn look(&self, container_id: String) -> Answer<'_, Look>;

    /// Starts a command in a container that runs.
    fn exec(&self, wish: ExecWish) -> Answer<'_, Exec>;

    /// Tells a command's terminal its size, in columns and rows.
    fn exec_resize(&self, id: String, size: (u16, u16)) -> Answer<'_, ()>;

    /// The exit code of a command; absent while it runs.
    fn exec_result(&self, id: String) -> Answer<'_, Option<i64>>;

    /// What a path in a container names; nothing, where nothing has it.
    fn stat(
        &self,
        container_id: String,
        path: String,
        follow_link: bool,
    ) -> Answer<'_, Option<FileStat>>;

    /// A file or folder of a container, as the bytes of a tar archive.
    fn get_files(
        &self,
        container_id: String,
        path: String,
    ) -> BoxStream<'static, Result<Bytes, RuntimeError>>;

    /// Unpacks the bytes of a tar archive in a folder of a container. Has no deadline: the archive comes from
    /// somebody who may take their time.
    fn put_files(
        &self,
        container_id: String,
        folder: String,
        archive: BoxStream<'static, io::Result<Bytes>>,
    ) -> Answer<'_, ()>;

    /// What containers use, by their ids; without those of which nothing is known.
    fn usages(&self, container_ids: Vec<String>) -> BoxFuture<'_, BTreeMap<String, Usage>>;

    /// Keeps ready for a cluster's tasks what can be made before one wants to start, for ever.
    fn tend(&self, _cluster: ClusterId) -> BoxFuture<'_, ()> {
        future::ready(()).boxed()
    }

    /// Takes away what was made so and no task has: the worker leaves.
    fn clear(&self, _cluster: ClusterId) -> Answer<'_, ()> {
        future::ready(Ok(())).boxed()
    }

    /// The images that are being pulled just now, and how far that has come.
    fn pulls(&self) -> Vec<PullFigures>;

    /// What happens to this node's containers, from a moment of the past on, by the machine's clock in seconds
    /// since the Unix epoch. Ends with an error when the runtime goes away.
    fn events(&self, since_unix_s: u64)
    -> BoxStream<'static, Result<ContainerEvent, RuntimeError>>;
}

/// Who the runtime is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// Its version.
    pub version: String,
    /// What its containers run on.
    pub platform: Option<Platform>,
    /// Where it keeps images and containers, as a path on its machine.
    pub root: Option<String>,
}

/// Which logs are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogsWish {
    /// The container.
    pub container_id: String,
    /// Whether to go on until it ends.
    pub follow: bool,
    /// Only so many lines from the end; absent means all.
    pub tail: Option<u32>,
    /// Only what was written from this time on, in milliseconds since the Unix epoch; to the second.
    pub since_ms: Option<u64>,
    /// Whether each line begins with its time.
    pub timestamps: bool,
}

/// What a close look at a container shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Its address on a network of its own.
    pub ip: Option<IpAddr>,
    /// Whether it has the machine's own network.
    pub is_on_host_network: bool,
    /// Its first process, as the runtime's machine numbers it; absent where it does not run.
    pub pid: Option<i32>,
    /// What the runtime itself found of its health, where the image says how.
    pub health: Option<Health>,
}

/// Whether a container is healthy, or why not.
pub type Health = Result<(), String>;

/// A command that is to run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecWish {
    /// The container.
    pub container_id: String,
    /// The command's words.
    pub command: Vec<String>,
    /// Variables beyond the container's own, as `NAME=VALUE`.
    pub env: Vec<String>,
    /// Who runs it; absent means the container's own user.
    pub user: Option<String>,
    /// Where it begins; absent means the container's own folder.
    pub working_dir: Option<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether it gets an input.
    pub stdin: bool,
}

/// A command that runs in a container.
pub struct Exec {
    /// The runtime's id.
    pub id: String,
    /// What it writes; ends when it ends.
    pub output: BoxStream<'static, Result<LogChunk, RuntimeError>>,
    /// What it reads.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A piece of a container's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Whether it is standard error.
    pub is_error: bool,
    /// The bytes.
    pub bytes: Bytes,
}

/// Why a verb failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// The daemon does not answer: nothing is known of the outcome.
    #[error("{0}")]
    Away(String),
    /// The daemon refused, or did not finish in time: for people.
    #[error("{0}")]
    Refused(String),
    /// This node does not do such a thing, however often it is tried: for people.
    #[error("{0}")]
    Forbidden(String),
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        match error {
            RuntimeError::Away(_) => Self::RuntimeAway,
            RuntimeError::Refused(reason) => Self::Refused(reason),
            RuntimeError::Forbidden(reason) => Self::Forbidden(reason),
        }
    }
}
