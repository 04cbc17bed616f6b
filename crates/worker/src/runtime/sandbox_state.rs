//! What is known of sandboxes, and what follows from it: which of them there are, whose they are, and what is to be done
//! next. Decisions over values alone.
//!
//! | a sandbox in the list | what follows |
//! |---|---|
//! | runs, made by this run of the worker, and no task has had it | one of those that are kept, or removed where there are too many |
//! | runs, and a task has a container in it | its task's |
//! | runs, and its task has had none in it for a while | removed |
//! | runs, is not known from this run, and is empty | removed: a task may have had it |
//! | runs, and a start in it was not answered | its task's next attempts go without it, so that it is removed like that |
//! | does not run | removed; a task's container that has joined it has no network, and is ended to be started anew |

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_proto::id::{ClusterId, TaskId};
use tokio::time::Instant;

use super::sandbox_list::Listed;

/// For how long no task may have waited for a start before something is made or removed.
const CALM: Duration = Duration::from_millis(500);
/// How long a task that has no container keeps its sandbox: until its next attempt, most often.
const EMPTY_MAX: Duration = Duration::from_secs(20);
/// How long none is made after one could not be.
const MAKE_DELAY: Duration = Duration::from_secs(30);

/// What is known.
#[derive(Debug)]
pub(super) struct State {
    /// Whose they are, once that is known.
    pub(super) cluster: Option<ClusterId>,
    /// Those that run, by the ids of their containers.
    pub(super) sandboxes: BTreeMap<String, Sandbox>,
    /// Those that are to be removed.
    pub(super) doomed: BTreeSet<String>,
    /// Those that have ended, which Docker's list shows only when it has taken their networks apart.
    pub(super) ended: BTreeSet<String>,
    /// Containers of tasks that have lost their network, and are to be ended.
    pub(super) stranded: BTreeSet<String>,
    /// Those of them that this worker has ended, for as long as they are in Docker's list.
    pub(super) cut_off: BTreeSet<String>,
    /// Whether none is made any more, and none removed: somebody takes them all away.
    pub(super) is_closed: bool,
    /// The name of the one that is being made.
    pub(super) making: Option<String>,
    /// Since when the list is to be looked at before anything else.
    pub(super) doubted_at: Option<Instant>,
    /// How many starts of tasks are under way, and since when there is none.
    pub(super) starts: usize,
    pub(super) calm_since: Instant,
    /// Until when none is made, after one could not be.
    pub(super) make_after: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sandbox {
    /// Whose it is, or was.
    pub(super) task: Option<TaskId>,
    /// Whether a container is being started in it.
    pub(super) is_starting: bool,
    /// Since when it stands as it does: an older list says nothing of it.
    pub(super) since: Instant,
    /// Since when it was seen without a container.
    pub(super) empty_since: Option<Instant>,
    /// Whether a start in it was not answered: it may hang, and there is no other start in it.
    pub(super) is_suspect: bool,
}

impl Sandbox {
    /// One that stands as it does since now.
    pub(super) fn new(task: Option<TaskId>, now: Instant) -> Self {
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

impl State {
    /// Nothing is known yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            cluster: None,
            sandboxes: BTreeMap::new(),
            doomed: BTreeSet::new(),
            ended: BTreeSet::new(),
            stranded: BTreeSet::new(),
            cut_off: BTreeSet::new(),
            is_closed: false,
            making: None,
            doubted_at: Some(now),
            starts: 0,
            calm_since: now,
            make_after: now,
        }
    }

    /// A sandbox for a task: its own, or one that nobody has.
    pub(super) fn claim(&mut self, task: TaskId) -> Option<String> {
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
    pub(super) fn observe(&mut self, listed: &Listed, asked_at: Instant, now: Instant) {
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
                // Of an earlier run of the worker.
                None => match user {
                    Some(user) => {
                        self.sandboxes.insert(id.clone(), Sandbox::new(Some(user.task), now));
                    }
                    None => self.doom(id),
                },
                Some(known) => match (known.task, user) {
                    (None, None) => {}
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

    /// The one that was being made has this id, or could not be made.
    pub(super) fn made(&mut self, id: Option<&str>, now: Instant) {
        self.making = None;
        match id {
            Some(id) => drop(self.sandboxes.insert(id.to_owned(), Sandbox::new(None, now))),
            None => {
                // What there is of it the next list shows.
                self.doubted_at = Some(now);
                self.make_after = now + MAKE_DELAY;
            }
        }
    }

    /// It is to be removed.
    pub(super) fn doom(&mut self, id: &str) {
        self.sandboxes.remove(id);
        self.doomed.insert(id.to_owned());
    }

    /// What is to be done next, where so many are wanted that no task has.
    pub(super) fn next(&mut self, wanted: usize, now: Instant) -> Work {
        if self.is_closed {
            return Work::Wait(None);
        }
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

#[cfg(test)]
pub(in crate::runtime) mod tests {
    use super::super::sandbox_list::User;
    use super::*;

    pub(in crate::runtime) fn task(number: u128) -> TaskId {
        TaskId(uuid::Uuid::from_u128(number))
    }

    pub(in crate::runtime) fn after(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    /// Sandboxes that run, and containers that have joined them.
    pub(in crate::runtime) fn listed(sandboxes: &[&str], users: &[(&str, TaskId, &str)]) -> Listed {
        let users = users.iter().map(|(id, task, sandbox)| User {
            container_id: (*id).to_owned(),
            task: *task,
            sandbox: (*sandbox).to_owned(),
            runs: true,
        });
        let named = |id: &&str| ((*id).to_owned(), (format!("name-of-{id}"), true));
        Listed { sandboxes: sandboxes.iter().map(named).collect(), users: users.collect() }
    }

    /// One that has seen the list, and has made these since.
    pub(in crate::runtime) fn having(sandboxes: &[&str]) -> State {
        let now = Instant::now();
        let mut state = State::new(now);
        state.cluster = Some(ClusterId(uuid::Uuid::from_u128(7)));
        state.observe(&Listed::default(), now, now);
        state.doubted_at = None;
        for id in sandboxes {
            state.made(Some(id), now);
        }
        state
    }

    #[test]
    fn nothing_is_made_before_the_list_was_seen_or_while_a_task_starts() {
        let now = after(0);
        assert_eq!(State::new(now).next(2, now), Work::Look);
        let mut state = having(&["s1"]);
        let now = state.calm_since;
        assert_eq!(state.next(2, now), Work::Wait(Some(now + CALM)));
        assert_eq!(state.next(2, now + CALM), Work::Make);
        state.starts = 1;
        assert_eq!(state.next(2, now + CALM), Work::Wait(None));
        state.starts = 0;
        state.make_after = now + CALM * 2;
        assert_eq!(state.next(2, now + CALM), Work::Wait(Some(now + CALM * 2)));
        assert_eq!(state.next(1, now + CALM), Work::Wait(None), "there is one");
        state.is_closed = true;
        assert_eq!(state.next(0, now + CALM), Work::Wait(None), "somebody else takes it away");
        state.is_closed = false;
        assert_eq!(state.next(0, now + CALM), Work::Remove("s1".into()), "there is one too many");
    }

    #[test]
    fn a_task_keeps_its_sandbox_and_no_other_task_gets_it() {
        let mut state = having(&["s1", "s2"]);
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
    fn a_sandbox_that_its_task_has_left_goes_but_not_by_an_older_list() {
        let mut state = having(&["s1"]);
        state.claim(task(1)).unwrap();
        let empty = || listed(&["s1"], &[]);
        // While its container starts a list does not show it yet.
        state.observe(&empty(), after(100), after(100));
        let sandbox = state.sandboxes.get_mut("s1").unwrap();
        (sandbox.is_starting, sandbox.since) = (false, after(102));
        // Asked for before it started, answered afterwards.
        state.observe(&empty(), after(101), after(200));
        assert_eq!(state.sandboxes["s1"].empty_since, None);
        let used = listed(&["s1"], &[("c1", task(1), "s1")]);
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
    fn a_worker_that_starts_anew_keeps_what_tasks_use_and_gives_nothing_away_that_one_may_have_had()
    {
        let mut state = having(&[]);
        let found = listed(&["empty", "used"], &[("c1", task(1), "used")]);
        state.observe(&found, after(1), after(1));
        assert_eq!(state.sandboxes["used"].task, Some(task(1)));
        assert_eq!(state.doomed, ["empty".to_owned()].into());
        assert_eq!(state.claim(task(2)), None);
        assert_eq!(state.claim(task(1)).as_deref(), Some("used"), "its next attempt");
    }

    #[test]
    fn a_container_whose_sandbox_has_ended_is_ended() {
        let mut state = having(&[]);
        let users = [("c1", task(1), "s1"), ("c2", task(2), "gone"), ("c3", task(3), "s3")];
        let mut found = listed(&["s1", "s3"], &users);
        found.sandboxes.get_mut("s1").unwrap().1 = false;
        state.observe(&found, after(1), after(1));
        assert_eq!(state.doomed, ["s1".to_owned()].into());
        assert_eq!(state.stranded, ["c1".to_owned(), "c2".to_owned()].into());
        assert_eq!(state.next(2, after(1)), Work::End("c1".into()));
    }

    #[test]
    fn what_an_event_says_of_an_end_counts_before_the_list_shows_it() {
        let mut state = having(&[]);
        let found = listed(&["s1"], &[("c1", task(1), "s1")]);
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
    fn what_is_being_made_is_left_alone() {
        let mut state = having(&[]);
        state.making = Some("name-of-s1".into());
        let mut found = listed(&["s1"], &[]);
        found.sandboxes.get_mut("s1").unwrap().1 = false;
        state.observe(&found, after(1), after(1));
        assert!(state.doomed.is_empty() && state.sandboxes.is_empty());
        // Whoever made it has gone, or could not.
        state.made(None, after(1));
        assert_eq!(state.next(2, after(1)), Work::Look);
        state.observe(&found, after(2), after(2));
        assert_eq!(state.doomed, ["s1".to_owned()].into());
    }
}
