//! Workers by the thousand in one process: real brains in real shells, over a container runtime made of memory.
//!
//! Each has a connection, a user and a store of its own, as on a machine of its own; only its containers are no
//! more than an entry in a map. `make bench ONLY=size` plays 2,000 of them, and a test in `tests/` plays twenty, so
//! that the generator itself stays true.

mod runtime;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use longshore_bus::{Credentials, Tls};
use longshore_proto::name::{Datacenter, JobName, NodeName, Root};
use longshore_proto::node::tasks_max_usual;
use longshore_proto::permission::Role;
use longshore_worker::policy::Policy;
use longshore_worker::{
    CapacityOverride, Keeping, OnShutdown, Options, PORT_RANGE_USUAL, WorkerError,
};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Failure;
use runtime::MemoryRuntime;

/// What each worker offers: 32 cores, 128 GiB of memory, 1 TiB of disk.
const CAPACITY: CapacityOverride = CapacityOverride {
    cpu_millis: Some(32_000),
    memory_bytes: Some(128 << 30),
    disk_bytes: Some(1 << 40),
};

/// What all of them did, together.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Containers that run now.
    running: AtomicU64,
    /// Containers that were ever started.
    started: AtomicU64,
    /// When the first container of each job started.
    first: Mutex<BTreeMap<JobName, Instant>>,
}

/// Workers at work; they end when this is dropped, or in good order by [`Workers::end`].
#[derive(Debug)]
pub struct Workers {
    counters: Arc<Counters>,
    cancel: CancellationToken,
    shells: JoinSet<Result<(), WorkerError>>,
    /// Threads of their own, so that whoever measures does not wait for them.
    threads: Option<Runtime>,
}

/// Where workers find the cluster, and what is theirs.
#[derive(Debug, Clone)]
pub struct Place {
    /// The server.
    pub url: String,
    /// The first token of every subject.
    pub root: Root,
    /// Where each worker has a data directory.
    pub data: PathBuf,
}

impl Workers {
    /// Starts a worker for each of some users.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn start(
        place: &Place,
        users: impl IntoIterator<Item = Credentials>,
    ) -> Result<Self, Failure> {
        let threads = Builder::new_multi_thread().enable_all().build()?;
        let (counters, cancel) = (Arc::<Counters>::default(), CancellationToken::new());
        let mut shells = JoinSet::new();
        for user in users {
            let runtime = Arc::new(MemoryRuntime::new(Arc::clone(&counters)));
            let options = options(place, user);
            let shell = longshore_worker::run_with(options, runtime, cancel.clone());
            shells.spawn_on(shell, threads.handle());
        }
        Ok(Self { counters, cancel, shells, threads: Some(threads) })
    }

    /// How many containers run.
    pub fn running(&self) -> u64 {
        self.counters.running.load(Ordering::Relaxed)
    }

    /// How many containers were ever started.
    pub fn started(&self) -> u64 {
        self.counters.started.load(Ordering::Relaxed)
    }

    /// When the first container of a job started.
    pub fn first_start(&self, job: &JobName) -> Option<Instant> {
        self.counters.first.lock().unwrap_or_else(PoisonError::into_inner).get(job).copied()
    }

    /// How many workers are at work.
    pub fn alive(&self) -> usize {
        self.shells.len()
    }

    /// Why a worker has ended, if one has: none should before [`Workers::end`].
    pub fn fallen(&mut self) -> Option<Failure> {
        match self.shells.try_join_next()? {
            Ok(Ok(())) => Some("a worker has ended by itself".into()),
            Ok(Err(error)) => Some(error.into()),
            Err(error) => Some(error.into()),
        }
    }

    /// Ends them all; what they ran counts as running on.
    ///
    /// # Errors
    /// The first worker that could not end in good order says why.
    pub async fn end(mut self) -> Result<(), Failure> {
        self.cancel.cancel();
        while let Some(ended) = self.shells.join_next().await {
            ended??;
        }
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // To wait for threads is not allowed where this may be dropped.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

fn options(place: &Place, user: Credentials) -> Options {
    let name = NodeName::from(user.name.clone());
    Options {
        data_dir: data_dir(&place.data, &name),
        bus: longshore_bus::Options {
            servers: place.url.clone(),
            root: place.root.clone(),
            role: Role::Worker,
            user: user.name.clone(),
            credentials: Some(user),
            tls: Tls::default(),
            wait_for_server: true,
        },
        name,
        datacenter: Datacenter::standard(),
        labels: BTreeMap::new(),
        capacity: CAPACITY,
        tasks_max: tasks_max_usual(),
        policy: Policy::default(),
        keeping: Keeping::default(),
        registry_auth: None,
        sandboxes: 0,
        registry_logins: None,
        ports: PORT_RANGE_USUAL,
        on_shutdown: OnShutdown::Keep,
        docker: None,
    }
}

fn data_dir(folder: &Path, name: &NodeName) -> PathBuf {
    folder.join(name.as_str())
}
