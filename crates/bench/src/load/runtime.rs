//! A container runtime made of memory: containers start at once, run for ever, and end when they are told to.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use longshore_core::agent::{
    Container, ContainerChange, ContainerEnd, ContainerEvent, ContainerState, ImageWish,
    StartContainer, StartedContainer,
};
use longshore_proto::id::ClusterId;
use longshore_proto::metrics::{PullFigures, Usage};
use longshore_proto::rpc::FileStat;
use longshore_worker::runtime::{
    Answer, Exec, ExecWish, LogChunk, LogsWish, Look, Runtime, RuntimeError, RuntimeInfo,
};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use uuid::Uuid;

use super::Counters;

/// How many events a reader may be behind before it must list anew, as with a daemon's.
const EVENTS_MAX: usize = 256;
/// How a container ends that is told to.
const ENDED: ContainerEnd = ContainerEnd::exited(143);

/// The containers of one worker.
#[derive(Debug)]
pub(super) struct MemoryRuntime {
    containers: Mutex<BTreeMap<String, Container>>,
    events: broadcast::Sender<ContainerEvent>,
    counters: Arc<Counters>,
}

impl MemoryRuntime {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self { containers: Mutex::default(), events: broadcast::Sender::new(EVENTS_MAX), counters }
    }

    fn containers(&self) -> MutexGuard<'_, BTreeMap<String, Container>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever listens; that may be nobody.
    fn tell(&self, container: &Container, change: ContainerChange) {
        let (container_id, labels) = (container.id.clone(), container.labels.clone());
        let _ = self.events.send(ContainerEvent { container_id, labels, change });
    }

    /// Ends a container by its id or name.
    fn end(&self, name: &str) -> Option<ContainerEnd> {
        let mut containers = self.containers();
        let mut all = containers.iter_mut();
        let (_, container) = all.find(|(key, one)| *key == name || one.id == name)?;
        if container.state == ContainerState::Running {
            container.state = ContainerState::Ended(ENDED);
            self.counters.running.fetch_sub(1, Ordering::Relaxed);
            self.tell(container, ContainerChange::Died(ENDED));
        }
        match container.state {
            ContainerState::Ended(end) => Some(end),
            _ => None,
        }
    }
}

fn none_such<T>() -> Result<T, RuntimeError> {
    Err(RuntimeError::Refused("a container made of memory does nothing".into()))
}

impl Runtime for MemoryRuntime {
    fn version(&self) -> Answer<'_, RuntimeInfo> {
        let info = RuntimeInfo { version: "0.0.0-memory".into(), root: None, platform: None };
        std::future::ready(Ok(info)).boxed()
    }

    fn list(&self) -> Answer<'_, Vec<Container>> {
        std::future::ready(Ok(self.containers().values().cloned().collect())).boxed()
    }

    fn find_image(&self, _: ImageWish) -> Answer<'_, Option<String>> {
        std::future::ready(Ok(Some("sha256:0".to_owned()))).boxed()
    }

    fn fetch_image(&self, _: ImageWish) -> Answer<'_, ()> {
        std::future::ready(Ok(())).boxed()
    }

    fn remove_image(&self, _: String) -> Answer<'_, ()> {
        std::future::ready(Ok(())).boxed()
    }

    fn remove_volume(&self, _: String, _: ClusterId) -> Answer<'_, ()> {
        std::future::ready(Ok(())).boxed()
    }

    fn start(&self, start: StartContainer) -> Answer<'_, StartedContainer> {
        let mut containers = self.containers();
        let (name, labels) = (start.name, start.labels);
        let container = containers.entry(name).or_insert_with(|| {
            // As long as Docker's.
            let id = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
            let container = Container { id, labels, state: ContainerState::Running };
            self.counters.running.fetch_add(1, Ordering::Relaxed);
            self.counters.started.fetch_add(1, Ordering::Relaxed);
            let mut first = self.counters.first.lock().unwrap_or_else(PoisonError::into_inner);
            first.entry(start.run.job).or_insert_with(Instant::now);
            self.tell(&container, ContainerChange::Started);
            container
        });
        let ended = match container.state {
            ContainerState::Ended(end) => Some(end),
            _ => None,
        };
        let started = StartedContainer { container_id: container.id.clone(), ended };
        std::future::ready(Ok(started)).boxed()
    }

    fn stop(&self, container_id: String, _: u64) -> Answer<'_, ContainerEnd> {
        std::future::ready(Ok(self.end(&container_id).unwrap_or_default())).boxed()
    }

    fn remove(&self, container: String, _: u64) -> Answer<'_, ()> {
        self.end(&container);
        let mut containers = self.containers();
        let mut gone = Vec::new();
        containers.retain(|name, one| {
            let stays = *name != container && one.id != container;
            if !stays {
                gone.push(one.clone());
            }
            stays
        });
        gone.iter().for_each(|one| self.tell(one, ContainerChange::Destroyed));
        std::future::ready(Ok(())).boxed()
    }

    fn logs(&self, _: LogsWish) -> BoxStream<'static, Result<LogChunk, RuntimeError>> {
        stream::empty().boxed()
    }

    fn look(&self, _: String) -> Answer<'_, Look> {
        std::future::ready(Ok(Look::default())).boxed()
    }

    fn exec(&self, _: ExecWish) -> Answer<'_, Exec> {
        std::future::ready(none_such()).boxed()
    }

    fn exec_resize(&self, _: String, _: (u16, u16)) -> Answer<'_, ()> {
        std::future::ready(none_such()).boxed()
    }

    fn exec_result(&self, _: String) -> Answer<'_, Option<i64>> {
        std::future::ready(none_such()).boxed()
    }

    fn stat(&self, _: String, _: String, _: bool) -> Answer<'_, Option<FileStat>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn get_files(&self, _: String, _: String) -> BoxStream<'static, Result<Bytes, RuntimeError>> {
        stream::empty().boxed()
    }

    fn put_files(
        &self,
        _: String,
        _: String,
        _: BoxStream<'static, io::Result<Bytes>>,
    ) -> Answer<'_, ()> {
        std::future::ready(none_such()).boxed()
    }

    fn usages(&self, _: Vec<String>) -> BoxFuture<'_, BTreeMap<String, Usage>> {
        std::future::ready(BTreeMap::new()).boxed()
    }

    fn pulls(&self) -> Vec<PullFigures> {
        Vec::new()
    }

    fn events(&self, _: u64) -> BoxStream<'static, Result<ContainerEvent, RuntimeError>> {
        stream::unfold(self.events.subscribe(), |mut events| async move {
            let event = match events.recv().await {
                Ok(event) => Ok(event),
                Err(RecvError::Lagged(_)) => {
                    Err(RuntimeError::Away("events were lost; list anew".into()))
                }
                Err(RecvError::Closed) => return None,
            };
            Some((event, events))
        })
        .boxed()
    }
}
