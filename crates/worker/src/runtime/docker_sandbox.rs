//! Networks that are made before a task wants one.
//!
//! Most of the time that Docker takes to start a container goes into its network. A sandbox is a container that does
//! nothing but have one, and a task's container that joins it starts in a fraction of the time. The worker keeps a few
//! sandboxes that nobody has, makes them while no task waits for a start, and gives each to one task, for all attempts
//! of it; then it is thrown away.
//!
//! What is known of sandboxes comes from Docker's own list, in which a task's container names the one that it has
//! joined, so that a worker that starts anew finds everything again. Before a task's container starts, its sandbox gets
//! a name that says whose it is: a sandbox that a task has had is never given to another.
//!
//! | a sandbox in the list | what follows |
//! |---|---|
//! | runs, without a task | one of those that are kept, or removed where there are too many |
//! | runs, with a task that has a container in it | its task's |
//! | runs, with a task that has none for a while | removed |
//! | runs, and a start in it was not answered | its task's next attempts go without it, so that it is removed like that |
//! | does not run | removed; a task's container that has joined it has no network, and is ended to be started anew |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerSummary, HostConfig, HostConfigLogConfig, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder, StartContainerOptions,
};
use futures_util::stream::{self, StreamExt};
use longshore_core::agent::labels;
use longshore_proto::container::Network;
use longshore_proto::id::{ClusterId, TaskId};
use longshore_proto::spec::TaskSpec;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::docker::{Docker, QUESTION_DEADLINE};
use super::docker_error::status;
use super::{Runtime, RuntimeError, docker_pause};

/// For how long no task may have waited for a start before something is made or removed.
const CALM: Duration = Duration::from_millis(500);
/// How long a task that has no container keeps its sandbox: until its next attempt, most often.
const EMPTY_MAX: Duration = Duration::from_secs(20);
/// How long after something went wrong it is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(10);
/// What a sandbox may use: what its start takes, and more than it ever does afterwards.
const MEMORY_BYTES: i64 = 16 << 20;
const PIDS_MAX: i64 = 16;
/// How long a leaving worker waits for containers that have ended to be so in Docker's list, and how often it looks.
const CLEAR_PATIENCE: Duration = Duration::from_secs(10);
const CLEAR_DELAY: Duration = Duration::from_millis(200);
/// How many are removed at once when the worker leaves.
const REMOVALS_MAX: usize = 8;

/// The sandboxes of this worker.
#[derive(Debug)]
pub(super) struct Pool {
    /// How many are kept that no task has. None, where there can be none.
    wanted: AtomicUsize,
    state: Mutex<State>,
    /// Something has changed that whoever tends them waits for.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Whose they are, once that is known.
    cluster: Option<ClusterId>,
    /// Those that run, by the ids of their containers.
    sandboxes: BTreeMap<String, Sandbox>,
    /// Those that are to be removed.
    doomed: BTreeSet<String>,
    /// Those that have ended, which Docker's list shows only when it has taken their networks apart.
    ended: BTreeSet<String>,
    /// Containers of tasks that have lost their network, and are to be ended.
    stranded: BTreeSet<String>,
    /// The name of the one that is being made.
    making: Option<String>,
    /// Since when the list is to be looked at before anything else.
    doubted_at: Option<Instant>,
    /// How many starts of tasks are under way, and since when there is none.
    starts: usize,
    calm_since: Instant,
    /// Until when none is made, after one could not be.
    make_after: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Sandbox {
    /// Whose it is, or was.
    task: Option<TaskId>,
    /// Whether a container is being started in it.
    is_starting: bool,
    /// Since when it stands as it does: an older list says nothing of it.
    since: Instant,
    /// Since when it was seen without a container.
    empty_since: Option<Instant>,
    /// Whether a start in it was not answered: it may hang, and there is no other start in it.
    is_suspect: bool,
}

impl Sandbox {
    /// One that stands as it does since now.
    fn new(task: Option<TaskId>, now: Instant) -> Self {
        Self { task, is_starting: false, since: now, empty_since: None, is_suspect: false }
    }
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
enum Work {
    Look,
    End(String),
    Remove(String),
    Make,
    /// Nothing, before something changes or this time comes.
    Wait(Option<Instant>),
}

/// What a list of containers says of sandboxes.
#[derive(Debug, Default)]
struct Listed {
    /// By id: the name, and whether it runs.
    sandboxes: BTreeMap<String, (String, bool)>,
    /// Containers of tasks that have joined one, and have not ended.
    users: Vec<User>,
}

#[derive(Debug)]
struct User {
    container_id: String,
    task: TaskId,
    sandbox: String,
    runs: bool,
}

impl Pool {
    /// Keeps so many that no task has.
    pub(super) fn new(wanted: usize) -> Self {
        let now = Instant::now();
        let state = State {
            cluster: None,
            sandboxes: BTreeMap::new(),
            doomed: BTreeSet::new(),
            ended: BTreeSet::new(),
            stranded: BTreeSet::new(),
            making: None,
            doubted_at: Some(now),
            starts: 0,
            calm_since: now,
            make_after: now,
        };
        Self { wanted: wanted.into(), state: Mutex::new(state), changed: Notify::new() }
    }

    fn wanted(&self) -> usize {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Does without from now on. Says why, where any were wanted.
    pub(super) fn switch_off(&self, why: &str) {
        if self.wanted.swap(0, Ordering::Relaxed) > 0 {
            warn!("there are no sandboxes {why}: every task gets its network when it starts");
            self.changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a task's container is being started, for as long as the answer lives.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.state().starts += 1;
        Busy(self)
    }

    /// A sandbox for a task: its own, or one that nobody has.
    pub(super) fn claim(&self, task: TaskId, spec: &TaskSpec) -> Option<Claim<'_>> {
        if self.wanted() == 0 || !fits(spec) {
            return None;
        }
        let id = self.state().claim(task)?;
        Some(Claim { pool: self, id, task, is_answered: false })
    }

    /// A sandbox has ended.
    pub(super) fn ended(&self, id: &str) {
        let mut state = self.state();
        // One that is being removed ends by that, and nothing has to be looked at for it.
        if state.cluster.is_some() && !state.doomed.contains(id) {
            state.ended.insert(id.to_owned());
            state.doubted_at = Some(Instant::now());
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Takes in a list that was asked for at that time, and gives what of it is no sandbox.
    pub(super) fn observe(
        &self,
        asked_at: Instant,
        found: Vec<ContainerSummary>,
    ) -> Vec<ContainerSummary> {
        let mut state = self.state();
        if let Some(cluster) = state.cluster {
            state.observe(&Listed::read(&found, cluster), asked_at, Instant::now());
            drop(state);
            self.changed.notify_one();
        }
        let is_sandbox = |summary: &ContainerSummary| {
            summary.labels.as_ref().is_some_and(|labels| labels.contains_key(labels::SANDBOX))
        };
        found.into_iter().filter(|summary| !is_sandbox(summary)).collect()
    }
}

/// As long as it lives a task's container is being started.
pub(super) struct Busy<'a>(&'a Pool);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.starts -= 1;
        state.calm_since = Instant::now();
        drop(state);
        self.0.changed.notify_one();
    }
}

/// A sandbox that a task's container is being started in.
pub(super) struct Claim<'a> {
    pool: &'a Pool,
    id: String,
    task: TaskId,
    /// Whether it is known what became of the start.
    is_answered: bool,
}

impl Claim<'_> {
    /// Makes a container join it.
    pub(super) fn join(&self, body: &mut ContainerCreateBody) {
        // Docker refuses any that is said besides.
        body.exposed_ports = None;
        let config = body.host_config.get_or_insert_default();
        config.port_bindings = None;
        config.network_mode = Some(format!("{NETWORK_OF}{}", self.id));
    }

    /// Gives it a name that says whose it is. An error means that it cannot be used.
    pub(super) async fn name(&self, docker: &Docker) -> Result<(), RuntimeError> {
        let Some(cluster) = self.pool.state().cluster else { return Ok(()) };
        let short = self.id.get(..12).unwrap_or(&self.id);
        let name = format!("{}{}{MARK}{short}", prefix(cluster), self.task);
        let options = RenameContainerOptionsBuilder::default().name(&name).build();
        let client = docker.client()?;
        let rename = async {
            match client.rename_container(&self.id, options).await {
                Ok(()) => Ok(()),
                // It has that name already.
                Err(error) if matches!(status(&error), Some(400 | 409)) => Ok(()),
                Err(error) => Err(docker.explain(&error, "naming a sandbox")),
            }
        };
        docker.within(QUESTION_DEADLINE, "naming a sandbox", rename).await
    }

    /// Docker has said what became of the start, be it that it failed: it is not the sandbox that hangs.
    pub(super) fn answered(&mut self) {
        self.is_answered = true;
    }

    /// Throws it away: it is of no use.
    pub(super) fn give_up(self) {
        let mut state = self.pool.state();
        state.sandboxes.remove(&self.id);
        state.doomed.insert(self.id.clone());
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(sandbox) = self.pool.state().sandboxes.get_mut(&self.id) {
            sandbox.is_starting = false;
            sandbox.since = Instant::now();
            // Not thrown away: for all that is known a container runs in it.
            sandbox.is_suspect |= !self.is_answered;
        }
    }
}

impl State {
    fn claim(&mut self, task: TaskId) -> Option<String> {
        let find = |wanted: Option<TaskId>| {
            let mut sound = self
                .sandboxes
                .iter()
                .filter(|(id, sandbox)| !sandbox.is_suspect && !self.ended.contains(*id));
            sound.find(|(_, sandbox)| sandbox.task == wanted)
        };
        let (id, _) = find(Some(task)).or_else(|| find(None))?;
        let id = id.clone();
        let sandbox = self.sandboxes.get_mut(&id).filter(|sandbox| !sandbox.is_starting)?;
        (sandbox.task, sandbox.is_starting) = (Some(task), true);
        sandbox.empty_since = None;
        Some(id)
    }

    /// Compares what is known with a list that was asked for at that time.
    fn observe(&mut self, listed: &Listed, asked_at: Instant, now: Instant) {
        // What an older list does not show may have happened since.
        self.doubted_at = self.doubted_at.filter(|doubted_at| *doubted_at > asked_at);
        let users = |id: &str| listed.users.iter().find(|user| user.sandbox == id);
        for (id, (name, listed_as_running)) in &listed.sandboxes {
            let runs = *listed_as_running && !self.ended.contains(id);
            if self.doomed.contains(id) || self.making.as_ref() == Some(name) {
                continue;
            }
            let known = self.sandboxes.get_mut(id);
            let is_newer = |known: &&mut Sandbox| known.is_starting || known.since > asked_at;
            if runs && known.as_ref().is_some_and(is_newer) {
                continue;
            }
            let user = users(id);
            match known {
                _ if !runs => self.doom(id),
                None => {
                    let task = user.map(|user| user.task).or_else(|| task_in(name));
                    let empty_since = (task.is_some() && user.is_none()).then_some(now);
                    let found = Sandbox { empty_since, ..Sandbox::new(task, now) };
                    self.sandboxes.insert(id.clone(), found);
                }
                Some(known) => match (known.task, user) {
                    (None, None) => {}
                    // Joined by an earlier run of the worker, with its last breath.
                    (_, Some(user)) => (known.task, known.empty_since) = (Some(user.task), None),
                    (Some(_), None) => {
                        let since = *known.empty_since.get_or_insert(now);
                        if now.saturating_duration_since(since) >= EMPTY_MAX {
                            self.doom(id);
                        }
                    }
                },
            }
        }
        self.sandboxes.retain(|id, sandbox| {
            sandbox.is_starting || sandbox.since > asked_at || listed.sandboxes.contains_key(id)
        });
        self.ended.retain(|id| listed.sandboxes.contains_key(id));
        let is_alive = |id: &str| {
            !self.ended.contains(id) && listed.sandboxes.get(id).is_some_and(|(_, runs)| *runs)
        };
        let stranded = listed.users.iter().filter(|user| user.runs && !is_alive(&user.sandbox));
        let stranded: Vec<String> = stranded.map(|user| user.container_id.clone()).collect();
        self.stranded.extend(stranded);
    }

    fn doom(&mut self, id: &str) {
        self.sandboxes.remove(id);
        self.doomed.insert(id.to_owned());
    }

    fn next(&mut self, wanted: usize, now: Instant) -> Work {
        if let Some(container_id) = self.stranded.first() {
            return Work::End(container_id.clone());
        }
        if self.doubted_at.is_some() {
            return Work::Look;
        }
        let calm_at = self.calm_since + CALM;
        if self.starts > 0 || calm_at > now {
            // What was started meanwhile is still young.
            return Work::Wait((self.starts == 0).then_some(calm_at));
        }
        let free = self.sandboxes.iter().filter(|(_, sandbox)| sandbox.task.is_none());
        let free: Vec<String> = free.map(|(id, _)| id.clone()).collect();
        for id in free.iter().skip(wanted) {
            self.doom(id);
        }
        match self.doomed.first() {
            Some(id) => Work::Remove(id.clone()),
            None if free.len() >= wanted => Work::Wait(None),
            None if self.make_after > now => Work::Wait(Some(self.make_after)),
            None => Work::Make,
        }
    }
}

impl Listed {
    fn read(found: &[ContainerSummary], cluster: ClusterId) -> Self {
        let mut listed = Self::default();
        let cluster = cluster.to_string();
        for summary in found {
            let (Some(id), Some(labels)) = (&summary.id, &summary.labels) else { continue };
            if labels.get(labels::CLUSTER) != Some(&cluster) {
                continue;
            }
            let state = summary.state.map(|state| state.to_string()).unwrap_or_default();
            let runs = matches!(state.as_str(), "running" | "paused" | "restarting" | "stopping");
            if labels.contains_key(labels::SANDBOX) {
                let name = summary.names.iter().flatten().next();
                let name = name.map(|name| name.trim_start_matches('/').to_owned());
                listed.sandboxes.insert(id.clone(), (name.unwrap_or_default(), runs));
                continue;
            }
            let mode = summary.host_config.as_ref().and_then(|it| it.network_mode.as_deref());
            let sandbox = mode.and_then(|mode| mode.strip_prefix(NETWORK_OF));
            let task = labels.get(labels::TASK).and_then(|task| task.parse().ok());
            if let (Some(sandbox), Some(task), true) = (sandbox, task, runs || state == "created") {
                listed.users.push(User {
                    container_id: id.clone(),
                    task,
                    sandbox: sandbox.to_owned(),
                    runs,
                });
            }
        }
        listed
    }
}

/// How Docker names the network of another container.
const NETWORK_OF: &str = "container:";
/// What stands in the name of each sandbox, after its task where it has one.
const MARK: &str = "-sandbox-";

/// How the names of everything begin that is a cluster's.
fn prefix(cluster: ClusterId) -> String {
    let cluster = cluster.0.simple().to_string();
    format!("longshore-{}-", cluster.get(..8).unwrap_or(&cluster))
}

/// The task in a sandbox's name, if it says one.
fn task_in(name: &str) -> Option<TaskId> {
    let (before, _) = name.split_once(MARK)?;
    before.splitn(3, '-').nth(2)?.parse().ok()
}

/// The sandbox that a container has joined.
pub(super) fn joined(network_mode: Option<&str>) -> Option<&str> {
    network_mode?.strip_prefix(NETWORK_OF)
}

/// Whether a task's network can be made before the task is known: what Docker refuses beside another's network, or
/// takes without a word and forgets, makes a network of its own.
fn fits(spec: &TaskSpec) -> bool {
    let container = &spec.container;
    container.network == Network::Bridge
        && spec.ports.is_empty()
        && container.hostname.is_none()
        && container.dns.is_empty()
        && container.dns_search.is_empty()
        && container.hosts.is_empty()
}

/// Makes and removes sandboxes as they are wanted, for ever.
pub(super) async fn tend(docker: &Docker, cluster: ClusterId) {
    let pool = &docker.sandboxes;
    pool.state().cluster = Some(cluster);
    if !docker_pause::is_possible() {
        pool.switch_off("on this processor");
    }
    // Whether there can be any depends on who answers. That nobody does others say.
    while docker.version().await.is_err() {
        tokio::time::sleep(RETRY_DELAY).await;
    }
    let mut told = String::new();
    loop {
        let wanted = pool.wanted();
        let work = pool.state().next(wanted, Instant::now());
        let done = match work {
            Work::Wait(until) => {
                let changed = pool.changed.notified();
                match until {
                    Some(until) => drop(tokio::time::timeout_at(until, changed).await),
                    None => changed.await,
                }
                continue;
            }
            Work::Look => docker.list().await.map(drop),
            Work::End(container_id) => {
                let doing = "ending a container that has lost its network";
                docker.within(QUESTION_DEADLINE, doing, end(docker, &container_id)).await
            }
            Work::Remove(id) => remove(docker, &id).await,
            Work::Make => make(docker, cluster).await,
        };
        match done {
            Ok(()) => told.clear(),
            Err(error) => {
                let reason = error.to_string();
                // Said once for each reason. That the daemon is away others say.
                if reason != told && !matches!(error, RuntimeError::Away(_)) {
                    warn!("{reason}; tasks start without a sandbox meanwhile");
                }
                told = reason;
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}

/// Ends a task's container that has lost its network, so that the task starts anew, or fails, by its own policy.
async fn end(docker: &Docker, container_id: &str) -> Result<(), RuntimeError> {
    docker.sandboxes.state().stranded.remove(container_id);
    let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
    match docker.client()?.kill_container(container_id, Some(options)).await {
        Ok(()) => {
            warn!(
                container = container_id,
                "the sandbox of this task was ended from outside, so that it has no network: it is killed, and its \
                 restart policy decides"
            );
            Ok(())
        }
        // It has ended meanwhile.
        Err(error) if matches!(status(&error), Some(404 | 409)) => Ok(()),
        Err(error) => Err(docker.explain(&error, "ending a container that has lost its network")),
    }
}

async fn remove(docker: &Docker, id: &str) -> Result<(), RuntimeError> {
    let client = docker.client()?;
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    let removed =
        tokio::time::timeout(RETRY_DELAY, client.remove_container(id, Some(options))).await;
    // Where that came to nothing the next list shows it again.
    docker.sandboxes.state().doomed.remove(id);
    match removed {
        Ok(Ok(())) => Ok(()),
        // Gone, or on its way.
        Ok(Err(error)) if matches!(status(&error), Some(404 | 409)) => Ok(()),
        Ok(Err(error)) => Err(docker.explain(&error, "removing a sandbox")),
        Err(_) => Err(RuntimeError::Refused("a sandbox does not let itself be removed".into())),
    }
}

/// Makes one.
async fn make(docker: &Docker, cluster: ClusterId) -> Result<(), RuntimeError> {
    let number = uuid::Uuid::new_v4().simple().to_string();
    let short = number.get(..12).unwrap_or(&number);
    let name = format!("{}{}{short}", prefix(cluster), MARK.trim_start_matches('-'));
    docker.sandboxes.state().making = Some(name.clone());
    let made =
        docker.within(RETRY_DELAY * 3, "making a sandbox", start(docker, cluster, &name)).await;
    let mut state = docker.sandboxes.state();
    state.making = None;
    match made {
        Ok(id) => {
            debug!(container = name, "a sandbox is ready");
            state.sandboxes.insert(id, Sandbox::new(None, Instant::now()));
            Ok(())
        }
        Err(error) => {
            // What there is of it the next list shows.
            state.doubted_at = Some(Instant::now());
            state.make_after = Instant::now() + RETRY_DELAY * 3;
            Err(error)
        }
    }
}

async fn start(docker: &Docker, cluster: ClusterId, name: &str) -> Result<String, RuntimeError> {
    docker_pause::ensure(docker).await?;
    let client = docker.client()?;
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    let created = client.create_container(Some(options), body(docker, cluster)).await;
    let id = created.map_err(|error| docker.explain(&error, "creating a sandbox"))?.id;
    let started = client.start_container(&id, None::<StartContainerOptions>).await;
    started.map_err(|error| docker.explain(&error, "starting a sandbox"))?;
    Ok(id)
}

fn body(docker: &Docker, cluster: ClusterId) -> ContainerCreateBody {
    let labels = [
        (labels::CLUSTER, cluster.to_string()),
        (labels::NODE, docker.node().to_string()),
        (labels::SANDBOX, "1".to_owned()),
    ];
    ContainerCreateBody {
        image: Some(docker_pause::IMAGE.to_owned()),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
        host_config: Some(HostConfig {
            network_mode: Some(Network::Bridge.as_str().to_owned()),
            memory: Some(MEMORY_BYTES),
            memory_swap: Some(MEMORY_BYTES),
            pids_limit: Some(PIDS_MAX),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            readonly_rootfs: Some(true),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// Removes every sandbox that no container of a task has joined. One that has just ended is in the list for a while.
pub(super) async fn clear(docker: &Docker, cluster: ClusterId) -> Result<(), RuntimeError> {
    let options =
        ListContainersOptionsBuilder::default().all(true).filters(&docker.filters()).build();
    let until = Instant::now() + CLEAR_PATIENCE;
    loop {
        let found = docker.client()?.list_containers(Some(options.clone())).await;
        let found = found.map_err(|error| docker.explain(&error, "listing"))?;
        let listed = Listed::read(&found, cluster);
        let is_used = |id: &String| listed.users.iter().any(|user| user.sandbox == *id);
        let (used, unused): (Vec<_>, Vec<_>) = listed.sandboxes.into_keys().partition(is_used);
        if !unused.is_empty() {
            info!(sandboxes = unused.len(), "removing the sandboxes");
        }
        let removals = stream::iter(unused).map(|id| async move { remove(docker, &id).await });
        let removed: Vec<_> = removals.buffer_unordered(REMOVALS_MAX).collect().await;
        removed.into_iter().collect::<Result<(), _>>()?;
        if used.is_empty() || Instant::now() > until {
            return Ok(());
        }
        tokio::time::sleep(CLEAR_DELAY).await;
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::spec::{Port, Protocol};

    use super::*;

    const CLUSTER: ClusterId = ClusterId(uuid::Uuid::from_u128(7));

    fn task(number: u128) -> TaskId {
        TaskId(uuid::Uuid::from_u128(number))
    }

    fn after(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    fn free_name(number: u32) -> String {
        format!("{}sandbox-{number}", prefix(CLUSTER))
    }

    /// Sandboxes that run, with their tasks, and containers that have joined them.
    fn listed(sandboxes: &[(&str, Option<TaskId>)], users: &[(&str, TaskId, &str)]) -> Listed {
        let name = |task: &Option<TaskId>| match task {
            Some(task) => format!("{}{task}{MARK}1", prefix(CLUSTER)),
            None => free_name(1),
        };
        let users = users.iter().map(|(id, task, sandbox)| User {
            container_id: (*id).to_owned(),
            task: *task,
            sandbox: (*sandbox).to_owned(),
            runs: true,
        });
        Listed {
            sandboxes: sandboxes
                .iter()
                .map(|(id, task)| ((*id).to_owned(), (name(task), true)))
                .collect(),
            users: users.collect(),
        }
    }

    fn state(now: Instant) -> State {
        let pool = Pool::new(2);
        let mut state = pool.state.into_inner().unwrap();
        (state.cluster, state.calm_since, state.make_after) = (Some(CLUSTER), now, now);
        state
    }

    fn pool(state: State) -> Pool {
        let pool = Pool::new(2);
        *pool.state() = state;
        pool
    }

    #[test]
    fn names_say_whose_a_sandbox_is() {
        let id = task(0x0198_0000_0000_7000_8000_0000_0000_0001);
        assert_eq!(task_in(&format!("{}{id}{MARK}0123456789ab", prefix(CLUSTER))), Some(id));
        assert_eq!(task_in(&free_name(1)), None);
        assert_eq!(task_in("somebody-elses"), None);
    }

    #[test]
    fn nothing_is_made_before_the_list_was_seen_or_while_a_task_starts() {
        let now = after(0);
        let mut state = state(now);
        assert_eq!(state.next(2, now), Work::Look);
        state.observe(&listed(&[("s1", None)], &[]), after(1), after(1));
        assert_eq!(state.next(2, now), Work::Wait(Some(now + CALM)));
        assert_eq!(state.next(2, now + CALM), Work::Make);
        state.starts = 1;
        assert_eq!(state.next(2, now + CALM), Work::Wait(None));
        state.starts = 0;
        state.make_after = now + CALM * 2;
        assert_eq!(state.next(2, now + CALM), Work::Wait(Some(now + CALM * 2)));
        assert_eq!(state.next(1, now + CALM), Work::Wait(None), "there is one");
        assert_eq!(state.next(0, now + CALM), Work::Remove("s1".into()), "there is one too many");
    }

    #[test]
    fn a_task_keeps_its_sandbox_and_no_other_task_gets_it() {
        let mut state = state(after(0));
        state.observe(&listed(&[("s1", None), ("s2", None)], &[]), after(1), after(1));
        assert_eq!(state.claim(task(1)).as_deref(), Some("s1"));
        assert_eq!(state.claim(task(1)), None, "one start of a task at a time");
        let started = |state: &mut State, id: &str, since| {
            let sandbox = state.sandboxes.get_mut(id).unwrap();
            (sandbox.is_starting, sandbox.since) = (false, since);
        };
        started(&mut state, "s1", after(2));
        assert_eq!(state.claim(task(2)).as_deref(), Some("s2"));
        started(&mut state, "s2", after(2));
        assert_eq!(state.claim(task(3)), None, "none is left");
        assert_eq!(state.claim(task(1)).as_deref(), Some("s1"), "its next attempt");
        started(&mut state, "s1", after(3));
        state.ended.insert("s1".into());
        assert_eq!(state.claim(task(1)), None, "it has ended");
    }

    #[test]
    fn a_pool_that_is_switched_off_gives_none_and_lets_go_of_what_it_has() {
        let pool = pool(state(after(0)));
        let spec = TaskSpec::new("main".parse().unwrap(), "image");
        pool.state().observe(&listed(&[("s1", None)], &[]), after(1), after(1));
        assert!(pool.claim(task(1), &spec).is_some());
        pool.switch_off("here");
        assert!(pool.claim(task(2), &spec).is_none());
        pool.state().sandboxes.insert("s2".into(), Sandbox::new(None, after(1)));
        let next = pool.state().next(pool.wanted(), after(2));
        assert_eq!(next, Work::Remove("s2".into()));
    }

    #[test]
    fn a_sandbox_in_which_a_start_was_not_answered_gets_no_other_and_goes_when_it_is_empty() {
        let pool = pool(state(after(0)));
        let spec = TaskSpec::new("main".parse().unwrap(), "image");
        let two = [("s1", None), ("s2", None)];
        pool.state().observe(&listed(&two, &[]), after(1), after(1));
        let mut claim = pool.claim(task(1), &spec).unwrap();
        assert_eq!(claim.id, "s1");
        claim.answered();
        drop(claim);
        let claim = pool.claim(task(1), &spec).unwrap();
        assert_eq!(claim.id, "s1", "a start that was answered says nothing against it");
        // Its time is over.
        drop(claim);
        let claim = pool.claim(task(1), &spec).unwrap();
        assert_eq!(claim.id, "s2");
        drop(claim);
        assert!(pool.claim(task(1), &spec).is_none(), "it starts with a network of its own");
        // The first of them has come up after all.
        let both = [("s1", Some(task(1))), ("s2", Some(task(1)))];
        let found = listed(&both, &[("c1", task(1), "s1")]);
        pool.state().observe(&found, after(100), after(100));
        pool.state().observe(&found, after(130), after(130));
        let state = pool.state();
        assert_eq!(state.doomed, ["s2".to_owned()].into());
        assert!(state.stranded.is_empty() && state.sandboxes.contains_key("s1"));
    }

    #[test]
    fn a_sandbox_that_its_task_has_left_goes_but_not_by_an_older_list() {
        let mut state = state(after(0));
        state.observe(&listed(&[("s1", None)], &[]), after(1), after(1));
        state.claim(task(1)).unwrap();
        let empty = || listed(&[("s1", Some(task(1)))], &[]);
        // While its container starts a list does not show it yet.
        state.observe(&empty(), after(100), after(100));
        let sandbox = state.sandboxes.get_mut("s1").unwrap();
        (sandbox.is_starting, sandbox.since) = (false, after(102));
        // Asked for before it started, answered afterwards.
        state.observe(&empty(), after(101), after(200));
        assert_eq!(state.sandboxes["s1"].empty_since, None);
        let used = listed(&[("s1", Some(task(1)))], &[("c1", task(1), "s1")]);
        state.observe(&used, after(300), after(300));
        assert_eq!(state.sandboxes["s1"].empty_since, None);
        state.observe(&empty(), after(330), after(330));
        assert!(state.doomed.is_empty(), "its next attempt may come");
        state.observe(&empty(), after(360), after(360));
        assert_eq!(state.doomed, ["s1".to_owned()].into());
        assert_eq!(state.claim(task(1)), None);
        // Until it is removed the lists show it.
        state.observe(&empty(), after(361), after(361));
        assert!(state.sandboxes.is_empty());
    }

    #[test]
    fn a_worker_that_starts_anew_finds_what_it_had() {
        let mut state = state(after(0));
        let found = listed(
            &[("free", None), ("used", Some(task(1))), ("left", Some(task(2))), ("last", None)],
            // Joined by the worker before, which had no time left to name it.
            &[("c1", task(1), "used"), ("c3", task(3), "last")],
        );
        state.observe(&found, after(1), after(1));
        let of = |id: &str| state.sandboxes[id].task;
        assert_eq!((of("free"), of("used")), (None, Some(task(1))));
        assert_eq!((of("left"), of("last")), (Some(task(2)), Some(task(3))));
        assert!(state.sandboxes["left"].empty_since.is_some());
        state.observe(&found, after(60), after(60));
        assert_eq!(state.doomed, ["left".to_owned()].into());
    }

    #[test]
    fn a_container_whose_sandbox_has_ended_is_ended() {
        let mut state = state(after(0));
        let users = [("c1", task(1), "s1"), ("c2", task(2), "gone"), ("c3", task(3), "s3")];
        let mut found = listed(&[("s1", Some(task(1))), ("s3", Some(task(3)))], &users);
        found.sandboxes.get_mut("s1").unwrap().1 = false;
        state.observe(&found, after(1), after(1));
        assert_eq!(state.doomed, ["s1".to_owned()].into());
        assert_eq!(state.stranded, ["c1".to_owned(), "c2".to_owned()].into());
        assert_eq!(state.next(2, after(1)), Work::End("c1".into()));
    }

    #[test]
    fn what_an_event_says_of_an_end_counts_before_the_list_shows_it() {
        let mut state = state(after(0));
        let found = listed(&[("s1", Some(task(1)))], &[("c1", task(1), "s1")]);
        state.observe(&found, after(1), after(1));
        assert!(state.stranded.is_empty());
        state.ended.insert("s1".into());
        // Even while the next container of its task starts in it: that fails, or ends like this one.
        state.sandboxes.get_mut("s1").unwrap().is_starting = true;
        state.observe(&found, after(2), after(2));
        assert_eq!(state.stranded, ["c1".to_owned()].into());
        assert_eq!(state.doomed, ["s1".to_owned()].into());
        state.observe(&listed(&[], &[]), after(3), after(3));
        assert!(state.ended.is_empty(), "it is forgotten when it is gone");
    }

    #[test]
    fn the_end_of_what_is_being_removed_asks_for_no_list() {
        let pool = pool(state(after(0)));
        pool.state().observe(&listed(&[("s1", None), ("s2", None)], &[]), after(1), after(1));
        pool.state().doom("s1");
        pool.ended("s1");
        assert_ne!(pool.state().next(2, after(2)), Work::Look);
        assert!(pool.state().ended.is_empty());
        pool.ended("s2");
        assert_eq!(pool.state().next(2, after(2)), Work::Look);
    }

    #[test]
    fn what_is_being_made_is_left_alone() {
        let mut state = state(after(0));
        state.making = Some(free_name(1));
        let mut found = listed(&[("s1", None)], &[]);
        found.sandboxes.get_mut("s1").unwrap().1 = false;
        state.observe(&found, after(1), after(1));
        assert!(state.doomed.is_empty() && state.sandboxes.is_empty());
        // The one that made it has gone.
        state.making = None;
        state.observe(&found, after(2), after(2));
        assert_eq!(state.doomed, ["s1".to_owned()].into());
    }

    #[test]
    fn what_docker_refuses_beside_anothers_network_makes_one_of_its_own() {
        let usual = || TaskSpec::new("main".parse().unwrap(), "image");
        assert!(fits(&usual()));
        let mut published = usual();
        published.ports = vec![Port {
            host: 0,
            container: 80,
            protocol: Protocol::Tcp,
            host_ip: None,
            name: None,
        }];
        assert!(!fits(&published));
        let unlike: [fn(&mut TaskSpec); 5] = [
            |spec| spec.container.network = Network::None,
            |spec| spec.container.hostname = Some("web".into()),
            |spec| spec.container.dns = vec!["192.0.2.1".parse().unwrap()],
            |spec| spec.container.dns_search = vec!["example.org".into()],
            |spec| {
                spec.container.hosts.insert("db".into(), "192.0.2.1".parse().unwrap());
            },
        ];
        for change in unlike {
            let mut spec = usual();
            change(&mut spec);
            assert!(!fits(&spec), "{:?}", spec.container);
        }
    }
}
