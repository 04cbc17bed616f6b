//! States of tasks, nodes and jobs, and the one table of legal moves.
//!
//! A task's state is ordered together with its attempt: `(attempt, state)` never goes back, so a report
//! that comes late or twice changes nothing. Restarts on a node raise the attempt; a replacement elsewhere
//! is a new task.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a task stands in its life. The order of the variants is the order of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// Wanted, and on no node yet.
    Pending,
    /// Placed; its node has not spoken of it yet.
    Assigned,
    /// Its node fetches the image, waits out a back-off or creates the container.
    Preparing,
    /// Its container runs.
    Running,
    /// It has been asked to end.
    Stopping,
    /// It ended by itself with exit code 0.
    Completed,
    /// It ended otherwise, and its node has given it up.
    Failed,
    /// It ended because it was asked to.
    Stopped,
    /// Its node is gone, and it was replaced.
    Lost,
}

impl TaskState {
    /// Every state, in the order of life.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Assigned,
        Self::Preparing,
        Self::Running,
        Self::Stopping,
        Self::Completed,
        Self::Failed,
        Self::Stopped,
        Self::Lost,
    ];

    /// Whether this is the end of the task.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Stopped | Self::Lost)
    }

    /// Whether a task in this state holds its node's resources.
    pub fn holds_resources(self) -> bool {
        matches!(self, Self::Assigned | Self::Preparing | Self::Running | Self::Stopping)
    }

    /// As it is written in subjects and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
        }
    }

    /// Reads what [`TaskState::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who may make a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mover {
    /// The manager: it places, stops what was never placed, and gives up what is gone.
    Manager,
    /// The worker: everything between the assignment and the end.
    Worker,
}

/// The table of legal moves **within one attempt**, and who makes them.
#[rustfmt::skip]
const MOVES: &[(TaskState, TaskState, Mover)] = {
    use Mover::{Manager, Worker};
    use TaskState::{Assigned, Completed, Failed, Lost, Pending, Preparing, Running, Stopped, Stopping};
    &[
        (Pending,   Assigned,  Manager),
        (Pending,   Stopped,   Manager),
        (Assigned,  Lost,      Manager),
        (Preparing, Lost,      Manager),
        (Running,   Lost,      Manager),
        (Stopping,  Lost,      Manager),

        (Assigned,  Preparing, Worker),
        (Assigned,  Running,   Worker),
        (Assigned,  Stopping,  Worker),
        (Assigned,  Completed, Worker),
        (Assigned,  Failed,    Worker),
        (Assigned,  Stopped,   Worker),
        (Preparing, Running,   Worker),
        (Preparing, Stopping,  Worker),
        (Preparing, Completed, Worker),
        (Preparing, Failed,    Worker),
        (Preparing, Stopped,   Worker),
        (Running,   Stopping,  Worker),
        (Running,   Completed, Worker),
        (Running,   Failed,    Worker),
        (Running,   Stopped,   Worker),
        (Stopping,  Completed, Worker),
        (Stopping,  Failed,    Worker),
        (Stopping,  Stopped,   Worker),
    ]
};

/// Whether `mover` may take a task from `(attempt, state)` to `(attempt, state)`.
///
/// Within an attempt the table decides. A higher attempt begins the worker's part anew, from any state that
/// is neither an end nor `pending` (a worker that lost its disk counts on, so attempts may be skipped). An
/// end is final whatever the attempt.
pub fn is_legal_move(from: (u64, TaskState), to: (u64, TaskState), mover: Mover) -> bool {
    if from.1.is_terminal() || to.0 < from.0 {
        return false;
    }
    if to.0 == from.0 {
        return MOVES.contains(&(from.1, to.1, mover));
    }
    mover == Mover::Worker
        && from.1 != TaskState::Pending
        && MOVES.contains(&(TaskState::Assigned, to.1, Mover::Worker))
}

/// What the manager thinks of a node, by its silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeStatus {
    /// It is heard.
    Ready,
    /// It has been silent for a while; it gets no new tasks.
    Suspect,
    /// It has been silent for too long; its tasks are replaced.
    Lost,
    /// It said goodbye.
    Left,
}

impl NodeStatus {
    /// As it is written in subjects and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Suspect => "suspect",
            Self::Lost => "lost",
            Self::Left => "left",
        }
    }
}

/// Whether a node takes new tasks, by an operator's word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Eligibility {
    /// It takes new tasks.
    #[default]
    Open,
    /// It keeps what it has and takes nothing new.
    Cordoned,
    /// What it has is being moved off.
    Draining,
}

impl Eligibility {
    /// As it is written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
        }
    }
}

/// How a job as a whole stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobStatus {
    /// Not every task that is wanted runs yet.
    Pending,
    /// Every task that is wanted runs (service), or has run or runs (batch).
    Running,
    /// It was told to stop, and some tasks have not ended yet.
    Stopping,
    /// It was told to stop, and every task has ended.
    Stopped,
    /// A batch job whose every task completed.
    Completed,
    /// Nothing of it runs or follows any more, and a task failed for good.
    Failed,
}

impl JobStatus {
    /// As it is written in subjects and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// Whether the job has come to its end.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Stopped | Self::Completed | Self::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_an_attempt_every_legal_move_goes_forward() {
        for &(from, to, _) in MOVES {
            assert!(from < to, "{from} to {to} goes back");
            assert!(!from.is_terminal(), "{from} is an end and must be final");
        }
    }

    #[test]
    fn an_end_is_final_at_any_attempt() {
        for from in TaskState::ALL.into_iter().filter(|state| state.is_terminal()) {
            for to in TaskState::ALL {
                for mover in [Mover::Manager, Mover::Worker] {
                    assert!(!is_legal_move((1, from), (1, to), mover));
                    assert!(!is_legal_move((1, from), (2, to), mover));
                }
            }
        }
    }

    #[test]
    fn a_restart_begins_again_with_a_higher_attempt() {
        let from = (1, TaskState::Running);
        assert!(is_legal_move(from, (2, TaskState::Preparing), Mover::Worker));
        assert!(is_legal_move(from, (7, TaskState::Running), Mover::Worker));
        assert!(!is_legal_move(from, (1, TaskState::Preparing), Mover::Worker));
        assert!(!is_legal_move((2, TaskState::Preparing), (1, TaskState::Running), Mover::Worker));
        assert!(!is_legal_move(from, (2, TaskState::Preparing), Mover::Manager));
    }

    #[test]
    fn a_pending_task_belongs_to_the_manager() {
        for to in TaskState::ALL {
            assert!(!is_legal_move((0, TaskState::Pending), (1, to), Mover::Worker));
        }
    }

    #[test]
    fn states_are_read_back_from_their_text() {
        for state in TaskState::ALL {
            assert_eq!(TaskState::parse(state.as_str()), Some(state));
        }
    }
}
