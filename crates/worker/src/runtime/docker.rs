//! Docker behind the seam.
//!
//! Every call has a deadline of ours. Docker's own idempotence is used: starting what runs and stopping what
//! has stopped succeed, and removing what is gone is taken for success. The client is made anew when the
//! socket appears only later.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, EventMessage};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder,
    InspectContainerOptions, ListContainersOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder,
};
use futures_util::future::FutureExt;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use longshore_core::agent::labels;
use longshore_core::agent::{
    Container, ContainerChange, ContainerEnd, ContainerEvent, ContainerState, StartContainer,
    StartedContainer,
};
use longshore_proto::name::NodeName;
use longshore_proto::spec::PullPolicy;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::docker_auth;
use super::docker_config::{Machine, create_body};
use super::docker_error::{explain, explain_pull, explain_start, status};
use super::docker_exec::{self, EXEC_DEADLINE, look_of};
use super::docker_mount::mounts;
use crate::policy::{PIDS_MAX_USUAL, Policy};

use super::{Answer, Exec, ExecWish, LogChunk, LogsWish, Look, Runtime, RuntimeError, RuntimeInfo};

/// Where Docker is when nothing else is said.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// How long a small question may take.
const QUESTION_DEADLINE: Duration = Duration::from_secs(10);
/// How long a list may take.
const LIST_DEADLINE: Duration = Duration::from_secs(30);
/// How long creating and starting may take; a loaded machine takes seconds, a sick one for ever.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// How long ending or removing may take beyond the container's grace.
const END_DEADLINE: Duration = Duration::from_secs(60);
/// How long a pull may be silent.
const PULL_SILENCE_MAX: Duration = Duration::from_secs(120);
/// How long the library waits for an answer: longer than any deadline of ours, which come first.
const LIBRARY_TIMEOUT: Duration = Duration::from_secs(366 * 24 * 3_600);
/// How long to wait for a container that is being created or removed just now.
const IN_BETWEEN_DELAY: Duration = Duration::from_millis(50);
/// How many images are pulled at once.
const PULLS_MAX: usize = 3;
/// How many containers are looked at in one list at once.
const INSPECTS_MAX: usize = 8;

/// Docker on this machine.
pub struct Docker {
    host: String,
    node: NodeName,
    machine: Machine,
    /// What tasks may do beyond a hardened container.
    policy: Policy,
    /// The file with logins for registries.
    registry_auth: Option<PathBuf>,
    client: Mutex<Option<bollard::Docker>>,
    pulls: Semaphore,
    root: OnceLock<Option<String>>,
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
            client: Mutex::new(None),
            pulls: Semaphore::new(PULLS_MAX),
            root: OnceLock::new(),
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

    /// Says what variables of the node stand for in tasks' texts.
    #[must_use]
    pub fn with_variables(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.machine.variables.extend(variables);
        self
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

    fn explain(&self, error: &Error, doing: &str) -> RuntimeError {
        explain(error, &self.host, doing)
    }

    /// A call that must be answered in time. One that is late is a refusal, unless only an absent daemon can
    /// be so late.
    async fn within<T>(
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
    fn filters(&self) -> HashMap<String, Vec<String>> {
        let node = format!("{}={}", labels::NODE, self.node);
        HashMap::from([("label".to_owned(), vec![labels::CLUSTER.to_owned(), node])])
    }

    async fn inspect(
        &self,
        container: &str,
    ) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
        let client = self.client()?;
        let call = async {
            match client.inspect_container(container, None::<InspectContainerOptions>).await {
                Ok(found) => Ok(Some(found)),
                Err(error) if status(&error) == Some(404) => Ok(None),
                Err(error) => Err(self.explain(&error, "looking at the container")),
            }
        };
        self.within(QUESTION_DEADLINE, "looking at the container", call).await
    }

    async fn list_now(&self) -> Result<Vec<Container>, RuntimeError> {
        let client = self.client()?;
        let options =
            ListContainersOptionsBuilder::default().all(true).filters(&self.filters()).build();
        let found = client
            .list_containers(Some(options))
            .await
            .map_err(|error| self.explain(&error, "listing"))?;
        let looked_at = found.into_iter().map(|summary| async move {
            let (Some(id), Some(labels)) = (summary.id, summary.labels) else { return Ok(None) };
            let labels: BTreeMap<String, String> = labels.into_iter().collect();
            let state = summary.state.map(|state| state.to_string()).unwrap_or_default();
            let state = match state.as_str() {
                "running" | "paused" | "restarting" | "stopping" => ContainerState::Running,
                "created" => ContainerState::Created,
                // How it ended only a closer look tells; meanwhile it may be gone.
                _ => match self.inspect(&id).await {
                    Ok(Some(found)) => state_of(&found),
                    Ok(None) => return Ok(None),
                    // One container that is stuck must not hide all the others; that it has ended is known.
                    Err(RuntimeError::Refused(_)) => ContainerState::Ended(ContainerEnd::default()),
                    Err(error) => return Err(error),
                },
            };
            Ok(Some(Container { id, labels, state }))
        });
        let containers: Vec<Option<Container>> =
            stream::iter(looked_at).buffer_unordered(INSPECTS_MAX).try_collect().await?;
        Ok(containers.into_iter().flatten().collect())
    }

    async fn pull_now(&self, image: &str, policy: PullPolicy) -> Result<(), RuntimeError> {
        let client = self.client()?;
        if policy != PullPolicy::Always {
            let present = async {
                match client.inspect_image(image).await {
                    Ok(_) => Ok(true),
                    Err(error) if status(&error) == Some(404) => Ok(false),
                    Err(error) => Err(self.explain(&error, "looking for the image")),
                }
            };
            if self.within(QUESTION_DEADLINE, "looking for the image", present).await? {
                return Ok(());
            }
        }
        if policy == PullPolicy::Never {
            return Err(RuntimeError::Refused(format!(
                "image {image} is not on this node, and its pull policy is never; pull it by hand or change the policy"
            )));
        }
        // An image that is here waits for none of the pulls.
        let _place = self.pulls.acquire().await;
        let options = CreateImageOptionsBuilder::default().from_image(&with_tag(image)).build();
        let login = self.login(image).await?;
        let has_login = login.is_some();
        let mut progress = client.create_image(Some(options), None, login);
        loop {
            match tokio::time::timeout(PULL_SILENCE_MAX, progress.next()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(step))) => debug!(image, status = step.status, "pulling"),
                Ok(Some(Err(error))) => {
                    return Err(explain_pull(&error, &self.host, image, has_login));
                }
                Err(_) => {
                    return Err(RuntimeError::Refused(format!(
                        "pulling {image} made no progress for {}s",
                        PULL_SILENCE_MAX.as_secs()
                    )));
                }
            }
        }
    }

    /// The login for an image's registry, where the node has one.
    async fn login(&self, image: &str) -> Result<Option<DockerCredentials>, RuntimeError> {
        let Some(file) = self.registry_auth.clone() else { return Ok(None) };
        let image = image.to_owned();
        let read = tokio::task::spawn_blocking(move || docker_auth::login(&file, &image)).await;
        read.unwrap_or_else(|error| Err(format!("the logins could not be read: {error}")))
            .map_err(RuntimeError::Refused)
    }

    /// Creates and starts. A container that an earlier worker was creating when it went down may still appear,
    /// or vanish again, while this goes on: then it is tried anew, for as long as a start may take.
    async fn start_now(&self, start: StartContainer) -> Result<StartedContainer, RuntimeError> {
        let client = self.client()?;
        loop {
            let container_id = match self.create_now(&start).await? {
                Created::There(container_id) => container_id,
                Created::Ended(container) => return Ok(container),
                Created::InBetween => {
                    tokio::time::sleep(IN_BETWEEN_DELAY).await;
                    continue;
                }
            };
            match client.start_container(&container_id, None::<StartContainerOptions>).await {
                Ok(()) => return Ok(StartedContainer { container_id, ended: None }),
                Err(error)
                    if status(&error) == Some(404)
                        && self.inspect(&container_id).await?.is_none() => {}
                Err(error) => return Err(explain_start(&error, &self.host, &start.run.spec.ports)),
            }
        }
    }

    async fn create_now(&self, start: &StartContainer) -> Result<Created, RuntimeError> {
        let spec = &start.run.spec;
        self.policy.admit(&spec.container).map_err(RuntimeError::Forbidden)?;
        let options = CreateContainerOptionsBuilder::default().name(&start.name).build();
        let mounts = self.mounts_of(start).await?;
        let body = create_body(start, &self.machine, mounts).map_err(RuntimeError::Forbidden)?;
        match self.client()?.create_container(Some(options), body).await {
            Ok(created) => {
                for warning in created.warnings.iter().filter(|warning| !warning.is_empty()) {
                    debug!(container = start.name, warning, "Docker warns");
                }
                Ok(Created::There(created.id))
            }
            Err(error) if status(&error) == Some(409) => self.adopt(start).await,
            Err(error) if status(&error) == Some(404) => Err(RuntimeError::Refused(format!(
                "image {} is not on this node any more",
                spec.image
            ))),
            Err(error) => Err(self.explain(&error, "creating the container")),
        }
    }

    /// What the task mounts, when this node allows it.
    async fn mounts_of(
        &self,
        start: &StartContainer,
    ) -> Result<Vec<bollard::models::Mount>, RuntimeError> {
        let wishes = start.run.spec.mounts.clone();
        if wishes.is_empty() {
            return Ok(Vec::new());
        }
        // A path may be on a file system that does not answer.
        let allowed = self.policy.mount_paths.clone();
        let looked = tokio::task::spawn_blocking(move || mounts(&wishes, &allowed)).await;
        looked
            .unwrap_or_else(|error| Err(format!("its mounts could not be looked at: {error}")))
            .map_err(RuntimeError::Refused)
    }

    /// A container has the name already: ours from an earlier try, or a stranger.
    async fn adopt(&self, start: &StartContainer) -> Result<Created, RuntimeError> {
        let Some(found) = self.inspect(&start.name).await? else { return Ok(Created::InBetween) };
        let found_labels =
            found.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default();
        let is_ours = [labels::CLUSTER, labels::NODE, labels::TASK, labels::ATTEMPT]
            .iter()
            .all(|key| found_labels.get(*key) == start.labels.get(*key));
        let Some(container_id) = found.id.clone().filter(|_| is_ours) else {
            return Err(RuntimeError::Refused(format!(
                "a container that is not ours has the name {}; rename or remove it",
                start.name
            )));
        };
        Ok(match state_of(&found) {
            ContainerState::Ended(end) => {
                Created::Ended(StartedContainer { container_id, ended: Some(end) })
            }
            ContainerState::Created | ContainerState::Running => Created::There(container_id),
        })
    }

    async fn stop_now(
        &self,
        container_id: &str,
        grace_ms: u64,
    ) -> Result<ContainerEnd, RuntimeError> {
        let client = self.client()?;
        let grace_s = i32::try_from(grace_ms.div_ceil(1_000)).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(grace_s).build();
        match client.stop_container(container_id, Some(options)).await {
            Ok(()) => {}
            Err(error) if status(&error) == Some(404) => return Ok(ContainerEnd::default()),
            Err(error) => return Err(self.explain(&error, "stopping the container")),
        }
        match self.inspect(container_id).await?.as_ref().map(state_of) {
            Some(ContainerState::Ended(end)) => Ok(end),
            Some(ContainerState::Running) => Err(RuntimeError::Refused(
                "Docker says that it stopped the container, but it runs".into(),
            )),
            Some(ContainerState::Created) | None => Ok(ContainerEnd::default()),
        }
    }

    async fn remove_now(&self, container: &str, grace_ms: u64) -> Result<(), RuntimeError> {
        if grace_ms > 0 {
            self.stop_now(container, grace_ms).await?;
        }
        let client = self.client()?;
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match client.remove_container(container, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if status(&error) == Some(404) => Ok(()),
            // Somebody else removes it just now: it is gone when they are done.
            Err(error) if status(&error) == Some(409) => {
                while self.inspect(container).await?.is_some() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(())
            }
            Err(error) => Err(self.explain(&error, "removing the container")),
        }
    }

    /// Reads one of Docker's events. `None` for what is no business of ours.
    async fn read_event(client: &bollard::Docker, event: EventMessage) -> Option<ContainerEvent> {
        let actor = event.actor?;
        let (container_id, attributes) = (actor.id?, actor.attributes?);
        let change = match event.action.as_deref()? {
            "start" => ContainerChange::Started,
            "destroy" => ContainerChange::Destroyed,
            "die" => {
                let exit_code = attributes.get("exitCode").and_then(|code| code.parse().ok());
                // Whether memory was the reason stands only in the container itself, for as long as it exists.
                let out_of_memory = exit_code == Some(137) && {
                    let look =
                        client.inspect_container(&container_id, None::<InspectContainerOptions>);
                    let found = tokio::time::timeout(QUESTION_DEADLINE, look).await;
                    let state = found.ok().and_then(Result::ok).and_then(|found| found.state);
                    state.and_then(|state| state.oom_killed).unwrap_or(false)
                };
                ContainerChange::Died(ContainerEnd { exit_code, out_of_memory })
            }
            _ => return None,
        };
        Some(ContainerEvent { container_id, labels: attributes.into_iter().collect(), change })
    }
}

/// What became of the wish to create a container.
enum Created {
    /// It is there, and has not ended.
    There(String),
    /// It was there, and has ended.
    Ended(StartedContainer),
    /// Its name is taken and it is not there: it is being created, or removed, just now.
    InBetween,
}

impl Runtime for Docker {
    fn version(&self) -> Answer<'_, RuntimeInfo> {
        let call = async {
            let client = self.client()?;
            let version = client
                .version()
                .await
                .map_err(|error| self.explain(&error, "asking for its version"))?;
            // Asked once: it costs the daemon more, and does not change while it runs.
            if self.root.get().is_none() {
                let info = client.info().await;
                let info = info.map_err(|error| self.explain(&error, "asking for its settings"))?;
                let _ = self.root.set(info.docker_root_dir);
            }
            Ok(RuntimeInfo {
                version: version.version.unwrap_or_else(|| "unknown".to_owned()),
                root: self.root.get().cloned().flatten(),
            })
        };
        self.question(QUESTION_DEADLINE, "asking for its version", call).boxed()
    }

    fn list(&self) -> Answer<'_, Vec<Container>> {
        self.question(LIST_DEADLINE, "listing containers", self.list_now()).boxed()
    }

    fn pull(&self, image: String, policy: PullPolicy) -> Answer<'_, ()> {
        async move { self.pull_now(&image, policy).await }.boxed()
    }

    fn start(&self, start: StartContainer) -> Answer<'_, StartedContainer> {
        self.within(START_DEADLINE, "starting the container", self.start_now(start)).boxed()
    }

    fn stop(&self, container_id: String, grace_ms: u64) -> Answer<'_, ContainerEnd> {
        async move {
            let deadline = END_DEADLINE.saturating_add(Duration::from_millis(grace_ms));
            self.within(deadline, "stopping the container", self.stop_now(&container_id, grace_ms))
                .await
        }
        .boxed()
    }

    fn remove(&self, container: String, grace_ms: u64) -> Answer<'_, ()> {
        async move {
            let deadline = END_DEADLINE.saturating_add(Duration::from_millis(grace_ms));
            self.within(deadline, "removing the container", self.remove_now(&container, grace_ms))
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
            match self.inspect(&container_id).await? {
                Some(found) => Ok(look_of(&found)),
                None => Err(RuntimeError::Refused("its container is gone".to_owned())),
            }
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

    fn events(
        &self,
        since_unix_s: u64,
    ) -> BoxStream<'static, Result<ContainerEvent, RuntimeError>> {
        let client = match self.client() {
            Ok(client) => client,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let host = self.host.clone();
        let mut filters = self.filters();
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        filters.insert("event".to_owned(), ["start", "die", "destroy"].map(str::to_owned).to_vec());
        let options = EventsOptionsBuilder::default()
            .since(&since_unix_s.to_string())
            .filters(&filters)
            .build();
        let events = client.events(Some(options));
        events
            .filter_map(move |event| {
                let (client, host) = (client.clone(), host.clone());
                async move {
                    match event {
                        Ok(event) => Self::read_event(&client, event).await.map(Ok),
                        Err(error @ (Error::JsonDataError { .. } | Error::JsonSerdeError { .. })) => {
                            warn!(%error, "an event of Docker's cannot be read; the next list makes up for it");
                            None
                        }
                        Err(error) => Some(Err(explain(&error, &host, "listening to events"))),
                    }
                }
            })
            .boxed()
    }
}

/// How a container stands, by a close look.
fn state_of(found: &ContainerInspectResponse) -> ContainerState {
    let Some(state) = &found.state else { return ContainerState::Created };
    match state.status {
        Some(ContainerStateStatusEnum::CREATED) => ContainerState::Created,
        Some(
            ContainerStateStatusEnum::RUNNING
            | ContainerStateStatusEnum::PAUSED
            | ContainerStateStatusEnum::RESTARTING,
        ) => ContainerState::Running,
        _ => ContainerState::Ended(ContainerEnd {
            exit_code: state.exit_code,
            out_of_memory: state.oom_killed.unwrap_or(false),
        }),
    }
}

/// An image reference that names one image: without a tag or digest Docker would pull every tag there is.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_a_tag_means_the_latest() {
        assert_eq!(with_tag("busybox"), "busybox:latest");
        assert_eq!(with_tag("reg:5000/busybox"), "reg:5000/busybox:latest");
        for exact in ["busybox:1", "reg:5000/a/b:2", "busybox@sha256:abc"] {
            assert_eq!(with_tag(exact), exact);
        }
    }

    #[test]
    fn an_address_may_be_a_path() {
        let docker = Docker::new(Some("/run/other.sock".into()), "n1".parse().unwrap(), 2);
        assert_eq!(docker.host, "unix:///run/other.sock");
    }
}
