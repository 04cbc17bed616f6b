//! What is known of sandboxes, and what follows from it: which of them there are, whose they are, and what is to be done
//! next. Decisions over values alone; what they lead to is in [`docker_sandbox`](super::docker_sandbox).
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

use bollard::models::{ContainerCreateBody, ContainerSummary};
use longshore_core::agent::labels;
use longshore_proto::container::Network;
use longshore_proto::id::{ClusterId, TaskId};
use longshore_proto::spec::TaskSpec;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

/// For how long no task may have waited for a start before something is made or removed.
const CALM: Duration = Duration::from_millis(500);
/// How long a task that has no container keeps its sandbox: until its next attempt, most often.
const EMPTY_MAX: Duration = Duration::from_secs(20);
/// How long none is made after one could not be.
const MAKE_DELAY: Duration = Duration::from_secs(30);

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
pub(super) enum Work {
    /// Ask for a list.
    Look,
    /// End a task's container, which has lost its network.
    End(String),
    /// Remove a sandbox.
    Remove(String),
    /// Make one.
    Make,
    /// Nothing, before something changes or this time comes.
    Wait(Option<Instant>),
}

/// What a list of containers says of sandboxes.
#[derive(Debug, Default)]
pub(super) struct Listed {
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

    /// Begins to keep those of a cluster.
    pub(super) fn begin(&self, cluster: ClusterId) {
        self.state().cluster = Some(cluster);
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

    /// What is to be done next.
    pub(super) fn next(&self) -> Work {
        let wanted = self.wanted();
        self.state().next(wanted, Instant::now())
    }

    /// Waits until something has changed, or for that time.
    pub(super) async fn changed(&self, until: Option<Instant>) {
        let changed = self.changed.notified();
        match until {
            Some(until) => drop(tokio::time::timeout_at(until, changed).await),
            None => changed.await,
        }
    }

    /// A task's container that has lost its network is being ended.
    pub(super) fn ending(&self, container_id: &str) {
        self.state().stranded.remove(container_id);
    }

    /// A removal is over. Where it came to nothing the next list shows the sandbox again.
    pub(super) fn removed(&self, id: &str) {
        self.state().doomed.remove(id);
    }

    /// One of that name is being made.
    pub(super) fn making(&self, name: &str) {
        self.state().making = Some(name.to_owned());
    }

    /// It was made, and has that id, or it could not be.
    pub(super) fn made(&self, id: Option<&str>) {
        let now = Instant::now();
        let mut state = self.state();
        state.making = None;
        match id {
            Some(id) => drop(state.sandboxes.insert(id.to_owned(), Sandbox::new(None, now))),
            None => {
                // What there is of it the next list shows.
                state.doubted_at = Some(now);
                state.make_after = now + MAKE_DELAY;
            }
        }
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

    /// Its container.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The name that says whose it is, once the cluster is known.
    pub(super) fn name(&self) -> Option<String> {
        let cluster = self.pool.state().cluster?;
        Some(format!("{}{}{MARK}{}", prefix(cluster), self.task, short(&self.id)))
    }

    /// Docker has said what became of the start, be it that it failed: it is not the sandbox that hangs.
    pub(super) fn answered(&mut self) {
        self.is_answered = true;
    }

    /// Throws it away: it is of no use.
    pub(super) fn give_up(self) {
        self.pool.state().doom(&self.id);
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
    /// Reads what a list says of a cluster's.
    pub(super) fn read(found: &[ContainerSummary], cluster: ClusterId) -> Self {
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

    /// The ids of the sandboxes that a task's container has joined, and those of the others.
    pub(super) fn by_use(self) -> (Vec<String>, Vec<String>) {
        let Self { sandboxes, users } = self;
        let is_used = |id: &String| users.iter().any(|user| user.sandbox == *id);
        sandboxes.into_keys().partition(is_used)
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

/// A name for one that is to be made.
pub(super) fn new_name(cluster: ClusterId) -> String {
    let number = uuid::Uuid::new_v4().simple().to_string();
    format!("{}{}{}", prefix(cluster), MARK.trim_start_matches('-'), short(&number))
}

/// As much of an id as is shown.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
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
