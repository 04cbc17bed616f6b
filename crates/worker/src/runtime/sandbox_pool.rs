//! The sandboxes of this worker, as those share them who start tasks, hear of what happens, and tend sandboxes. What is
//! decided about them is in [`sandbox_state`](super::sandbox_state), what is done to them in
//! [`docker_sandbox`](super::docker_sandbox).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bollard::models::ContainerSummary;
use longshore_core::agent::labels;
use longshore_proto::container::Network;
use longshore_proto::id::{ClusterId, TaskId};
use longshore_proto::spec::TaskSpec;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

use super::sandbox_list::Listed;
use super::sandbox_state::{State, Work};

/// The sandboxes of this worker.
#[derive(Debug)]
pub(super) struct Pool {
    /// How many are kept that no task has. None, where there can be none.
    wanted: AtomicUsize,
    state: Mutex<State>,
    /// Something has changed that whoever tends them waits for.
    changed: Notify,
}

impl Pool {
    /// Keeps so many that no task has.
    pub(super) fn new(wanted: usize) -> Self {
        let state = State::new(Instant::now());
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
        let mut state = self.state();
        let ending = state.stranded.take(container_id);
        state.cut_off.extend(ending);
    }

    /// Whether this worker has ended a container because it had lost its network.
    pub(super) fn has_cut_off(&self, container_id: &str) -> bool {
        self.state().cut_off.contains(container_id)
    }

    /// Makes none from now on, and removes none: somebody takes them all away.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
    }

    /// Whether one is being made.
    pub(super) fn is_making(&self) -> bool {
        self.state().making.is_some()
    }

    /// A removal is over. Where it came to nothing the next list shows the sandbox again.
    pub(super) fn removed(&self, id: &str) {
        self.state().doomed.remove(id);
    }

    /// One of that name is to be made from now on. `false` where none is made any more.
    pub(super) fn making(&self, name: &str) -> bool {
        let mut state = self.state();
        if !state.is_closed {
            state.making = Some(name.to_owned());
        }
        !state.is_closed
    }

    /// It was made, and has that id, or it could not be.
    pub(super) fn made(&self, id: Option<&str>) {
        self.state().made(id, Instant::now());
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
        Some(Claim { pool: self, id, is_answered: false })
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
            let is_there = |id: &String| found.iter().any(|found| found.id.as_ref() == Some(id));
            state.cut_off.retain(is_there);
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
    /// Whether it is known what became of the start.
    is_answered: bool,
}

impl Claim<'_> {
    /// Its container.
    pub(super) fn id(&self) -> &str {
        &self.id
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

    use super::super::sandbox_state::Sandbox;
    use super::super::sandbox_state::tests::{after, having, listed, task};
    use super::*;

    fn pool(state: State) -> Pool {
        let pool = Pool::new(2);
        *pool.state() = state;
        pool
    }

    #[test]
    fn a_pool_that_is_switched_off_gives_none_and_lets_go_of_what_it_has() {
        let pool = pool(having(&["s1"]));
        let spec = TaskSpec::new("main".parse().unwrap(), "image");
        assert!(pool.claim(task(1), &spec).is_some());
        pool.switch_off("here");
        assert!(pool.claim(task(2), &spec).is_none());
        pool.state().sandboxes.insert("s2".into(), Sandbox::new(None, after(1)));
        let next = pool.state().next(pool.wanted(), after(2));
        assert_eq!(next, Work::Remove("s2".into()));
    }

    #[test]
    fn a_sandbox_in_which_a_start_was_not_answered_gets_no_other_and_goes_when_it_is_empty() {
        let pool = pool(having(&["s1", "s2"]));
        let spec = TaskSpec::new("main".parse().unwrap(), "image");
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
        let found = listed(&["s1", "s2"], &[("c1", task(1), "s1")]);
        pool.state().observe(&found, after(100), after(100));
        pool.state().observe(&found, after(130), after(130));
        let state = pool.state();
        assert_eq!(state.doomed, ["s2".to_owned()].into());
        assert!(state.stranded.is_empty() && state.sandboxes.contains_key("s1"));
    }

    #[test]
    fn the_end_of_what_is_being_removed_asks_for_no_list() {
        let pool = pool(having(&["s1", "s2"]));
        pool.state().doom("s1");
        pool.ended("s1");
        assert_ne!(pool.state().next(2, after(2)), Work::Look);
        assert!(pool.state().ended.is_empty());
        pool.ended("s2");
        assert_eq!(pool.state().next(2, after(2)), Work::Look);
    }

    #[test]
    fn who_takes_them_away_sees_whether_one_is_being_made() {
        let pool = pool(having(&["s1"]));
        assert!(pool.making("s2"));
        pool.close();
        assert!(pool.is_making());
        pool.made(Some("s2"));
        assert!(!pool.is_making());
        assert!(!pool.making("s3") && !pool.is_making(), "that was decided before");
        assert_eq!(pool.state().next(0, after(60)), Work::Wait(None));
    }

    #[test]
    fn it_is_known_which_containers_were_ended_because_their_sandbox_had() {
        let pool = pool(having(&["s1"]));
        pool.state().stranded.insert("c1".into());
        assert!(!pool.has_cut_off("c1"), "it may still end by itself");
        pool.ending("c1");
        assert!(pool.has_cut_off("c1"));
        assert_ne!(pool.state().next(1, after(60)), Work::End("c1".into()));
        let there = ContainerSummary { id: Some("c1".into()), ..ContainerSummary::default() };
        pool.observe(after(1), vec![there]);
        assert!(pool.has_cut_off("c1"), "a list may show its end, too");
        pool.observe(after(2), vec![]);
        assert!(!pool.has_cut_off("c1"));
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
