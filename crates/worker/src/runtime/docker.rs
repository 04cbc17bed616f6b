//! Docker behind the seam: the connection, its deadlines, and the verbs.
//!
//! Every call has a deadline of ours. Docker's own idempotence is used: starting what runs and stopping what
//! has stopped succeed, and removing what is gone is taken for success. The client is made anew when the
//! socket appears only later.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, SystemVersion};
use bollard::query_parameters::{InspectContainerOptions, LogsOptionsBuilder};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, BoxStream, StreamExt};
use longshore_core::agent::labels;
use longshore_core::agent::{
    Container, ContainerEnd, ContainerEvent, ImageWish, StartContainer, StartedContainer,
};
use longshore_proto::id::ClusterId;
use longshore_proto::metrics::{PullFigures, Usage};
use longshore_proto::name::NodeName;
use longshore_proto::platform::Platform;
use longshore_proto::rpc::FileStat;
use tokio::sync::Semaphore;

use super::docker_config::Machine;
use super::docker_error::{explain, status};
use super::docker_exec::{self, EXEC_DEADLINE, look_of};
use super::{
    docker_auth, docker_event, docker_files, docker_image, docker_life, docker_list,
    docker_sandbox, docker_usage, docker_volume, sandbox_list, sandbox_pool,
};
use crate::policy::{PIDS_MAX_USUAL, Policy};

use super::{Answer, Exec, ExecWish, LogChunk, LogsWish, Look, Runtime, RuntimeError, RuntimeInfo};

/// Where Docker is when nothing else is said.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// How long a small question may take.
pub(super) const QUESTION_DEADLINE: Duration = Duration::from_secs(10);
/// How long a list may take.
const LIST_DEADLINE: Duration = Duration::from_secs(30);
/// How long creating and starting may take; a loaded machine takes seconds, a sick one for ever.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// How long ending or removing may take beyond the container's grace.
const END_DEADLINE: Duration = Duration::from_secs(60);
/// How long the library waits for an answer: longer than any deadline of ours, which come first.
const LIBRARY_TIMEOUT: Duration = Duration::from_secs(366 * 24 * 3_600);
/// How many images are pulled at once.
const PULLS_MAX: usize = 3;

/// Docker on this machine.
pub struct Docker {
    host: String,
    node: NodeName,
    pub(super) machine: Machine,
    /// What tasks may do beyond a hardened container.
    pub(super) policy: Policy,
    /// The file with logins for registries.
    pub(super) registry_auth: Option<PathBuf>,
    /// The folder with logins for registries that tasks name, a file each.
    pub(super) registry_logins: Option<PathBuf>,
    client: Mutex<Option<bollard::Docker>>,
    pub(super) pulls: Semaphore,
    pub(super) progress: docker_image::Progress,
    /// Networks that are made before tasks want them.
    pub(super) sandboxes: Arc<sandbox_pool::Pool>,
    /// Where the figures of containers are.
    pub(super) sources: docker_usage::Sources,
    root: OnceLock<Option<String>>,
    /// What its containers run on, once it has told.
    pub(super) platform: OnceLock<Platform>,
}

impl fmt::Debug for Docker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Docker").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Docker {
    /// Docker at an address (`unix://…` or a path), or where `DOCKER_HOST` says, or at the usual place. Nothing
    /// is connected yet.
    pub fn new(host: Option<String>, node: NodeName, cores: u64) -> Self {
        let host = host
            .or_else(|| std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()))
            .map(
                |host| if Path::new(&host).is_absolute() { format!("unix://{host}") } else { host },
            )
            .unwrap_or_else(|| DEFAULT_HOST.to_owned());
        Self {
            host,
            machine: Machine {
                cores,
                pids_max: PIDS_MAX_USUAL,
                variables: [("node.name".to_owned(), node.to_string())].into(),
            },
            node,
            policy: Policy::default(),
            registry_auth: None,
            registry_logins: None,
            client: Mutex::new(None),
            pulls: Semaphore::new(PULLS_MAX),
            progress: docker_image::Progress::default(),
            sandboxes: Arc::new(sandbox_pool::Pool::new(0)),
            sources: docker_usage::Sources::default(),
            root: OnceLock::new(),
            platform: OnceLock::new(),
        }
    }

    /// Lets tasks do what a policy allows.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.machine.pids_max = policy.pids_max.min(PIDS_MAX_USUAL);
        self.policy = policy;
        self
    }

    /// Takes logins for registries from a file in the form that `docker login` writes.
    #[must_use]
    pub fn with_registry_auth(self, registry_auth: Option<PathBuf>) -> Self {
        Self { registry_auth, ..self }
    }

    /// Keeps so many networks ready for tasks that publish no ports.
    #[must_use]
    pub fn with_sandboxes(self, sandboxes: usize) -> Self {
        Self { sandboxes: Arc::new(sandbox_pool::Pool::new(sandboxes)), ..self }
    }

    /// Takes the logins for registries that tasks name from a folder: a file of that name each, in the same form.
    #[must_use]
    pub fn with_registry_logins(self, registry_logins: Option<PathBuf>) -> Self {
        Self { registry_logins, ..self }
    }

    /// Says what variables of the node stand for in tasks' texts.
    #[must_use]
    pub fn with_variables(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.machine.variables.extend(variables);
        self
    }

    /// The node that it stands for.
    pub(super) fn node(&self) -> &NodeName {
        &self.node
    }

    /// Where it is.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The client; made when it is first possible.
    pub(super) fn client(&self) -> Result<bollard::Docker, RuntimeError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = client.as_ref() {
            return Ok(client.clone());
        }
        let made = bollard::Docker::connect_with_host(&self.host)
            .map_err(|error| self.explain(&error, "connecting"))?
            .with_timeout(LIBRARY_TIMEOUT);
        let made = docker_auth::mend(made);
        *client = Some(made.clone());
        Ok(made)
    }

    pub(super) fn explain(&self, error: &Error, doing: &str) -> RuntimeError {
        explain(error, &self.host, doing)
    }

    /// A call that must be answered in time. One that is late is a refusal, unless only an absent daemon can
    /// be so late.
    pub(super) async fn within<T>(
        &self,
        deadline: Duration,
        doing: &str,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        let late =
            || RuntimeError::Refused(format!("{doing} took longer than {}s", deadline.as_secs()));
        tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| Err(late()))
    }

    /// A small question: a daemon that does not answer it is away.
    async fn question<T>(
        &self,
        deadline: Duration,
        doing: &str,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        let (host, late) = (&self.host, deadline.as_secs());
        let away = || {
            RuntimeError::Away(format!(
                "Docker at {host} takes the connection but does not answer ({doing}, {late}s): is the daemon hung?"
            ))
        };
        tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| Err(away()))
    }

    /// The labels that this node's containers have.
    pub(super) fn filters(&self) -> HashMap<String, Vec<String>> {
        let node = format!("{}={}", labels::NODE, self.node);
        HashMap::from([("label".to_owned(), vec![labels::CLUSTER.to_owned(), node])])
    }

    /// Whether labels are those of one of this node's containers.
    pub(super) fn is_ours(&self, found: &HashMap<String, String>) -> bool {
        found.contains_key(labels::CLUSTER)
            && found.get(labels::NODE).is_some_and(|node| *node == self.node.as_str())
    }

    /// A close look. `None` when there is no such container.
    pub(super) async fn inspect(
        &self,
        container: &str,
    ) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
        let client = self.client()?;
        let call = async {
            let ask =
                || client.inspect_container(container, None::<InspectContainerOptions>).boxed();
            match docker_list::patiently(ask).await {
                Ok(found) => Ok(Some(found)),
                Err(error) if status(&error) == Some(404) => Ok(None),
                Err(error) => Err(self.explain(&error, "looking at the container")),
            }
        };
        self.within(QUESTION_DEADLINE, "looking at the container", call).await
    }
}

impl Runtime for Docker {
    fn version(&self) -> Answer<'_, RuntimeInfo> {
        let call = async {
            let client = self.client()?;
            let version = client
                .version()
                .await
                .map_err(|error| self.explain(&error, "asking for its version"))?;
            if is_podman(&version) {
                // Its list does not tell which network a container has joined: those in use would look unused.
                self.sandboxes.switch_off("on Podman");
            }
            // Asked once: it costs the daemon more, and does not change while it runs.
            if self.root.get().is_none() {
                let info = client.info().await;
                let info = info.map_err(|error| self.explain(&error, "asking for its settings"))?;
                let _ = self.root.set(info.docker_root_dir);
            }
            if let (Some(os), Some(arch)) = (&version.os, &version.arch)
                && let Some(platform) = Platform::of(os, arch)
            {
                let _ = self.platform.set(platform);
            }
            Ok(RuntimeInfo {
                platform: self.platform.get().cloned(),
                version: version.version.unwrap_or_else(|| "unknown".to_owned()),
                root: self.root.get().cloned().flatten(),
            })
        };
        self.question(QUESTION_DEADLINE, "asking for its version", call).boxed()
    }

    fn list(&self) -> Answer<'_, Vec<Container>> {
        self.question(LIST_DEADLINE, "listing containers", docker_list::list(self)).boxed()
    }

    fn find_image(&self, wish: ImageWish) -> Answer<'_, Option<String>> {
        let look = async move { docker_image::find(self, &wish).await };
        self.within(QUESTION_DEADLINE, "looking for the image", look).boxed()
    }

    fn fetch_image(&self, wish: ImageWish) -> Answer<'_, ()> {
        async move { docker_image::fetch(self, &wish).await }.boxed()
    }

    fn remove_image(&self, image: String) -> Answer<'_, ()> {
        let remove = async move { docker_image::remove(self, &image).await };
        self.within(END_DEADLINE, "removing the image", remove).boxed()
    }

    fn remove_volume(&self, name: String, cluster: ClusterId) -> Answer<'_, ()> {
        let remove = async move { docker_volume::remove(self, &name, cluster).await };
        self.within(END_DEADLINE, "removing the volume", remove).boxed()
    }

    fn start(&self, start: StartContainer) -> Answer<'_, StartedContainer> {
        self.within(START_DEADLINE, "starting the container", docker_life::start(self, start))
            .boxed()
    }

    fn stop(&self, container_id: String, grace_ms: u64) -> Answer<'_, ContainerEnd> {
        async move {
            let deadline = END_DEADLINE.saturating_add(Duration::from_millis(grace_ms));
            self.within(
                deadline,
                "stopping the container",
                docker_life::stop(self, &container_id, grace_ms).boxed(),
            )
            .await
        }
        .boxed()
    }

    fn remove(&self, container: String, grace_ms: u64) -> Answer<'_, ()> {
        async move {
            let deadline = END_DEADLINE.saturating_add(Duration::from_millis(grace_ms));
            self.within(
                deadline,
                "removing the container",
                docker_life::remove(self, &container, grace_ms).boxed(),
            )
            .await
        }
        .boxed()
    }

    fn logs(&self, wish: LogsWish) -> BoxStream<'static, Result<LogChunk, RuntimeError>> {
        let client = match self.client() {
            Ok(client) => client,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let host = self.host.clone();
        // Docker takes whole seconds; 0 is the beginning of time.
        let since_s = wish.since_ms.map_or(0, |at| i32::try_from(at / 1_000).unwrap_or(i32::MAX));
        let tail = wish.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(wish.follow)
            .timestamps(wish.timestamps)
            .since(since_s)
            .tail(&tail)
            .build();
        client
            .logs(&wish.container_id, Some(options))
            .map(move |chunk| match chunk {
                Ok(LogOutput::StdErr { message }) => {
                    Ok(LogChunk { is_error: true, bytes: message })
                }
                Ok(other) => Ok(LogChunk { is_error: false, bytes: other.into_bytes() }),
                Err(error) => Err(explain(&error, &host, "reading the logs")),
            })
            .boxed()
    }

    fn look(&self, container_id: String) -> Answer<'_, Look> {
        async move {
            let Some(found) = self.inspect(&container_id).await? else {
                return Err(RuntimeError::Refused("its container is gone".to_owned()));
            };
            let mut look = look_of(&found);
            let mode = found.host_config.as_ref().and_then(|it| it.network_mode.as_deref());
            if let Some(sandbox) = sandbox_list::joined(mode) {
                look.ip = self.inspect(sandbox).await?.and_then(|sandbox| look_of(&sandbox).ip);
            }
            Ok(look)
        }
        .boxed()
    }

    fn exec(&self, wish: ExecWish) -> Answer<'_, Exec> {
        let doing = "starting a command in the container";
        self.within(EXEC_DEADLINE, doing, docker_exec::start(self, wish)).boxed()
    }

    fn exec_resize(&self, id: String, size: (u16, u16)) -> Answer<'_, ()> {
        let resize = async move { docker_exec::resize(self, &id, size).await };
        self.within(QUESTION_DEADLINE, "resizing the terminal", resize).boxed()
    }

    fn exec_result(&self, id: String) -> Answer<'_, Option<i64>> {
        let look = async move { docker_exec::result(self, &id).await };
        self.within(QUESTION_DEADLINE, "looking at the command", look).boxed()
    }

    fn stat(
        &self,
        container_id: String,
        path: String,
        follow_link: bool,
    ) -> Answer<'_, Option<FileStat>> {
        let look = async move { docker_files::stat(self, &container_id, &path, follow_link).await };
        self.within(QUESTION_DEADLINE, "looking at the path", look).boxed()
    }

    fn get_files(
        &self,
        container_id: String,
        path: String,
    ) -> BoxStream<'static, Result<Bytes, RuntimeError>> {
        docker_files::get(self, &container_id, &path)
    }

    fn put_files(
        &self,
        container_id: String,
        folder: String,
        archive: BoxStream<'static, io::Result<Bytes>>,
    ) -> Answer<'_, ()> {
        async move { docker_files::put(self, &container_id, &folder, archive).await }.boxed()
    }

    fn usages(&self, container_ids: Vec<String>) -> BoxFuture<'_, BTreeMap<String, Usage>> {
        docker_usage::usages(self, container_ids).boxed()
    }

    fn tend(&self, cluster: ClusterId) -> BoxFuture<'_, ()> {
        docker_sandbox::tend(self, cluster).boxed()
    }

    fn clear(&self, cluster: ClusterId) -> Answer<'_, ()> {
        let clear = docker_sandbox::clear(self, cluster);
        self.within(END_DEADLINE, "removing the sandboxes", clear).boxed()
    }

    fn pulls(&self) -> Vec<PullFigures> {
        self.progress.figures()
    }

    fn events(
        &self,
        since_unix_s: u64,
    ) -> BoxStream<'static, Result<ContainerEvent, RuntimeError>> {
        docker_event::events(self, since_unix_s)
    }
}

/// Whether it is Podman that answers in Docker's words.
fn is_podman(version: &SystemVersion) -> bool {
    let mut parts = version.components.iter().flatten();
    parts.any(|part| part.name == "Podman Engine")
}

#[cfg(test)]
mod tests {
    use bollard::models::SystemVersionComponents;

    use super::*;

    #[test]
    fn podman_is_known_by_its_engine() {
        let of = |names: &[&str]| {
            let part = |name: &&str| SystemVersionComponents {
                name: (*name).to_owned(),
                ..SystemVersionComponents::default()
            };
            let components = Some(names.iter().map(part).collect());
            SystemVersion { components, ..SystemVersion::default() }
        };
        assert!(is_podman(&of(&["Podman Engine", "Conmon", "OCI Runtime (crun)"])));
        assert!(!is_podman(&of(&["Engine", "containerd", "runc", "docker-init"])));
        assert!(!is_podman(&SystemVersion::default()));
    }

    #[test]
    fn an_address_may_be_a_path() {
        let docker = Docker::new(Some("/run/other.sock".into()), "n1".parse().unwrap(), 2);
        assert_eq!(docker.host, "unix:///run/other.sock");
    }
}
