//! Containers that are over: a few are kept for their logs, the rest are being removed.
//!
//! A task has at most one kept container, its newest; how many all tasks together have, and for how long, the
//! operator says. A task does not start again while one of its containers is still being removed, because that one might run.

use std::collections::BTreeMap;

use longshore_proto::id::TaskId;

use super::input::Failure;
use super::record::KeptContainer;
use super::settings::Keeping;
use super::step::{Action, Write};

/// How long after a failed removal the next is tried, in milliseconds.
pub(super) const RETRY_MS: u64 = 5_000;

/// Containers that are over.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    kept: BTreeMap<u64, KeptContainer>,
    /// The step in which each was kept, for those of this run.
    kept_at_step: BTreeMap<u64, u64>,
    sequence_next: u64,
    removals: BTreeMap<String, Removal>,
    keeping: Keeping,
}

/// When something happened: in which step, and when by the monotonic and by the wall clock, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moment {
    pub(super) step: u64,
    pub(super) now_ms: u64,
    pub(super) wall_ms: u64,
}

/// A container on its way out.
#[derive(Debug, Clone)]
struct Removal {
    /// The task that must wait for this.
    task: Option<TaskId>,
    grace_ms: u64,
    /// When to ask; absent while the answer is awaited.
    ask_at_ms: Option<u64>,
}

impl Shelf {
    pub(super) fn restore(kept: Vec<KeptContainer>, keeping: Keeping, wall_ms: u64) -> Self {
        let mut kept: BTreeMap<u64, KeptContainer> =
            kept.into_iter().map(|container| (container.sequence, container)).collect();
        for container in kept.values_mut().filter(|container| container.ended_at_ms == 0) {
            // Kept by a worker that did not note when.
            container.ended_at_ms = wall_ms;
        }
        let sequence_next = kept.last_key_value().map_or(1, |(last, _)| last + 1);
        Self {
            kept,
            kept_at_step: BTreeMap::new(),
            sequence_next,
            removals: BTreeMap::new(),
            keeping,
        }
    }

    /// Keeps a container that has ended; older ones give way.
    pub(super) fn keep(
        &mut self,
        task: TaskId,
        attempt: u64,
        container_id: String,
        at: Moment,
        writes: &mut Vec<Write>,
    ) {
        let older: Vec<u64> =
            self.kept.values().filter(|kept| kept.task == task).map(|kept| kept.sequence).collect();
        for sequence in older {
            self.give_up(sequence, at.now_ms, writes);
        }
        let kept = KeptContainer {
            sequence: self.sequence_next,
            task,
            attempt,
            container_id,
            ended_at_ms: at.wall_ms,
        };
        self.sequence_next += 1;
        writes.push(Write::Kept(kept.clone()));
        self.kept_at_step.insert(kept.sequence, at.step);
        self.kept.insert(kept.sequence, kept);
        self.keep_at_most(self.keeping.ended_max, at.now_ms, writes);
    }

    fn keep_at_most(&mut self, most: usize, now_ms: u64, writes: &mut Vec<Write>) {
        while self.kept.len() > most
            && let Some(oldest) = self.kept.keys().next().copied()
        {
            self.give_up(oldest, now_ms, writes);
        }
    }

    /// Gives up what was kept long enough. Times are monotonic and wall-clock milliseconds.
    pub(super) fn expire(&mut self, (now_ms, wall_ms): (u64, u64), writes: &mut Vec<Write>) {
        let age_ms = |kept: &KeptContainer| wall_ms.saturating_sub(kept.ended_at_ms);
        let over: Vec<u64> = self
            .kept
            .values()
            .filter(|kept| age_ms(kept) >= self.keeping.ended_ms)
            .map(|kept| kept.sequence)
            .collect();
        for sequence in over {
            self.give_up(sequence, now_ms, writes);
        }
        self.keep_at_most(self.keeping.ended_max, now_ms, writes);
    }

    /// Makes room: the logs of the older half are worth less than what runs.
    pub(super) fn give_up_older_half(&mut self, now_ms: u64, writes: &mut Vec<Write>) {
        self.keep_at_most(self.kept.len() / 2, now_ms, writes);
    }

    fn give_up(&mut self, sequence: u64, now_ms: u64, writes: &mut Vec<Write>) {
        self.kept_at_step.remove(&sequence);
        if let Some(kept) = self.kept.remove(&sequence) {
            writes.push(Write::KeptDropped(sequence));
            self.remove(kept.container_id, None, 0, now_ms);
        }
    }

    /// Wants a container gone; with a task, that task waits for it.
    pub(super) fn remove(
        &mut self,
        container: String,
        task: Option<TaskId>,
        grace_ms: u64,
        now_ms: u64,
    ) {
        self.removals.entry(container).or_insert(Removal {
            task,
            grace_ms,
            ask_at_ms: Some(now_ms),
        });
    }

    /// The removals that are to be asked for now.
    pub(super) fn poll(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        for (container, removal) in &mut self.removals {
            if removal.ask_at_ms.is_some_and(|at| at <= now_ms) {
                removal.ask_at_ms = None;
                actions.push(Action::RemoveContainer {
                    container: container.clone(),
                    grace_ms: removal.grace_ms,
                });
            }
        }
    }

    /// A removal was answered.
    pub(super) fn removed(&mut self, container: &str, result: &Result<(), Failure>, now_ms: u64) {
        match (result, self.removals.get_mut(container)) {
            (Ok(()), _) => drop(self.removals.remove(container)),
            (Err(_), Some(removal)) => removal.ask_at_ms = Some(now_ms.saturating_add(RETRY_MS)),
            (Err(_), None) => {}
        }
    }

    /// A container no longer exists.
    pub(super) fn destroyed(&mut self, container_id: &str, writes: &mut Vec<Write>) {
        self.kept.retain(|sequence, kept| {
            let stays = kept.container_id != container_id;
            if !stays {
                self.kept_at_step.remove(sequence);
                writes.push(Write::KeptDropped(*sequence));
            }
            stays
        });
    }

    /// Forgets what is kept and not in a list of everything that exists, unless the list is older.
    pub(super) fn only(
        &mut self,
        ticket: u64,
        exists: impl Fn(&str) -> bool,
        writes: &mut Vec<Write>,
    ) {
        let at_step = |sequence: &u64| self.kept_at_step.get(sequence).copied().unwrap_or(0);
        let gone: Vec<String> = self
            .kept
            .values()
            .filter(|kept| at_step(&kept.sequence) <= ticket && !exists(&kept.container_id))
            .map(|kept| kept.container_id.clone())
            .collect();
        for container_id in gone {
            self.destroyed(&container_id, writes);
        }
    }

    /// Whether the container is kept.
    pub(super) fn is_kept(&self, container_id: &str) -> bool {
        self.kept.values().any(|kept| kept.container_id == container_id)
    }

    /// The step in which the container was kept, if it is; 0 for one of an earlier run.
    pub(super) fn kept_at_step(&self, container_id: &str) -> Option<u64> {
        let kept = self.kept.values().find(|kept| kept.container_id == container_id)?;
        Some(self.kept_at_step.get(&kept.sequence).copied().unwrap_or(0))
    }

    /// The task's kept container.
    pub(super) fn kept_of(&self, task: TaskId) -> Option<&KeptContainer> {
        self.kept.values().find(|kept| kept.task == task)
    }

    /// Whether the task must wait for a removal.
    pub(super) fn blocks(&self, task: TaskId) -> bool {
        self.removals.values().any(|removal| removal.task == Some(task))
    }

    /// When there is something to ask.
    pub(super) fn wakeup(&self) -> Option<u64> {
        self.removals.values().filter_map(|removal| removal.ask_at_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(number: u128) -> TaskId {
        TaskId(uuid::Uuid::from_u128(number))
    }

    #[test]
    fn the_newest_of_a_task_and_twenty_in_all_are_kept() {
        let (mut shelf, mut writes, mut actions) =
            (Shelf::restore(vec![], Keeping::default(), 0), Vec::new(), Vec::new());
        shelf.keep(task(1), 1, "a".into(), Moment::default(), &mut writes);
        shelf.keep(task(1), 2, "b".into(), Moment::default(), &mut writes);
        assert!(!shelf.is_kept("a") && shelf.is_kept("b"));
        for number in 2..=21 {
            shelf.keep(task(number), 1, format!("c{number}"), Moment::default(), &mut writes);
        }
        assert!(!shelf.is_kept("b"));
        assert_eq!(shelf.kept.len(), Keeping::default().ended_max);
        shelf.poll(0, &mut actions);
        let removed: Vec<_> = actions
            .iter()
            .map(|action| match action {
                Action::RemoveContainer { container, .. } => container.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(removed, ["a", "b"]);
    }

    #[test]
    fn what_was_kept_long_enough_goes_and_half_of_it_when_room_is_needed() {
        let (keeping, mut writes) = (Keeping { ended_ms: 100, ..Keeping::default() }, Vec::new());
        // Of before workers noted when.
        let old = KeptContainer {
            sequence: 1,
            task: task(1),
            attempt: 1,
            container_id: "old".into(),
            ended_at_ms: 0,
        };
        let mut shelf = Shelf::restore(vec![old], keeping, 1_000);
        let at = |wall_ms| Moment { wall_ms, ..Moment::default() };
        shelf.keep(task(2), 1, "a".into(), at(1_010), &mut writes);
        shelf.expire((0, 1_099), &mut writes);
        assert!(shelf.is_kept("old"));
        shelf.expire((0, 1_100), &mut writes);
        assert!(!shelf.is_kept("old") && shelf.is_kept("a"));
        for number in 3..=5 {
            shelf.keep(task(number), 1, format!("c{number}"), at(1_020), &mut writes);
        }
        shelf.give_up_older_half(0, &mut writes);
        assert!(
            !shelf.is_kept("a")
                && !shelf.is_kept("c3")
                && shelf.is_kept("c4")
                && shelf.is_kept("c5")
        );
        // Fewer than before, by a new setting.
        shelf.keeping.ended_max = 1;
        shelf.expire((0, 1_021), &mut writes);
        assert!(!shelf.is_kept("c4") && shelf.is_kept("c5"));
    }

    #[test]
    fn a_removal_is_asked_once_and_again_after_a_failure() {
        let (mut shelf, mut actions) = (Shelf::restore(vec![], Keeping::default(), 0), Vec::new());
        shelf.remove("x".into(), Some(task(1)), 0, 0);
        shelf.remove("x".into(), Some(task(1)), 0, 0);
        shelf.poll(0, &mut actions);
        shelf.poll(1, &mut actions);
        assert_eq!(actions.len(), 1);
        assert!(shelf.blocks(task(1)));
        shelf.removed("x", &Err(Failure::RuntimeAway), 1);
        assert_eq!(shelf.wakeup(), Some(1 + RETRY_MS));
        shelf.poll(1 + RETRY_MS, &mut actions);
        assert_eq!(actions.len(), 2);
        shelf.removed("x", &Ok(()), 7_000);
        assert!(!shelf.blocks(task(1)));
    }
}
