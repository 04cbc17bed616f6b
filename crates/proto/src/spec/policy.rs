//! What follows when a task ends or has to move: restarts on its node, replacements, and moves.

use serde::{Deserialize, Serialize};

/// When and how often the worker starts a task again on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// After which ends.
    pub mode: RestartMode,
    /// How many restarts are allowed within the window before the worker gives the task up.
    #[serde(default = "RestartPolicy::default_attempts")]
    pub attempts: u32,
    /// The window that restarts are counted in, in milliseconds.
    #[serde(default = "RestartPolicy::default_window_ms")]
    pub window_ms: u64,
    /// The wait before the first restart, in milliseconds; it doubles with each one in the window.
    #[serde(default = "RestartPolicy::default_delay_ms")]
    pub delay_ms: u64,
    /// The longest wait, in milliseconds.
    #[serde(default = "RestartPolicy::default_delay_ms_max")]
    pub delay_ms_max: u64,
}

/// After which ends a task is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    /// After none.
    Never,
    /// After every end but exit code 0.
    OnFailure,
    /// After every end.
    Always,
}

impl RestartPolicy {
    /// The mode with every figure as usual.
    pub fn usual(mode: RestartMode) -> Self {
        Self {
            mode,
            attempts: Self::default_attempts(),
            window_ms: Self::default_window_ms(),
            delay_ms: Self::default_delay_ms(),
            delay_ms_max: Self::default_delay_ms_max(),
        }
    }

    fn default_attempts() -> u32 {
        5
    }

    fn default_window_ms() -> u64 {
        600_000
    }

    fn default_delay_ms() -> u64 {
        1_000
    }

    fn default_delay_ms_max() -> u64 {
        300_000
    }
}

/// What follows when the worker has given a task up: a replacement, perhaps on another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReschedulePolicy {
    /// How many replacements in a row a slot may have that fail; absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// The wait before the first replacement, in milliseconds; it doubles with each in a row.
    pub delay_ms: u64,
    /// The longest wait, in milliseconds.
    pub delay_ms_max: u64,
}

/// How tasks move to another node, for an operator's sake: a drain, or a better balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigratePolicy {
    /// Which of the two comes first.
    #[serde(default)]
    pub order: ExchangeOrder,
    /// How many of the part move at once, at least 1; all drains share it.
    #[serde(default = "MigratePolicy::default_parallel")]
    pub parallel: u32,
}

/// What comes first when a task takes the place of another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExchangeOrder {
    /// The start of the new one: both run for a while.
    #[default]
    StartFirst,
    /// The end of the old one: neither runs for a while.
    StopFirst,
}

/// How the tasks of a service are exchanged for those of a newer version of their spec. As soon as that many are under
/// way, are not well, or have come to nothing, no other one is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdatePolicy {
    /// Which of the two comes first. Batch tasks and those of fenced jobs always end first.
    #[serde(default = "UpdatePolicy::default_order")]
    pub order: ExchangeOrder,
    /// How many of the part are exchanged at once, at least 1.
    #[serde(default = "UpdatePolicy::default_parallel")]
    pub parallel: u32,
    /// How long a new task must have been up before it counts as well, in milliseconds; of a batch job that does not
    /// matter.
    #[serde(
        default = "UpdatePolicy::default_healthy_for_ms",
        skip_serializing_if = "UpdatePolicy::is_default_healthy_for"
    )]
    pub healthy_for_ms: u64,
    /// What follows when the new tasks do not come up.
    #[serde(default, skip_serializing_if = "OnFailure::is_default")]
    pub on_failure: OnFailure,
    /// After how long without another task that is well the version has failed, in milliseconds; only matters where it is
    /// rolled back then.
    #[serde(
        default = "UpdatePolicy::default_progress_deadline_ms",
        skip_serializing_if = "UpdatePolicy::is_default_progress_deadline"
    )]
    pub progress_deadline_ms: u64,
}

/// What follows when the tasks of a newer version do not come up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// It goes no further, until somebody submits another one.
    #[default]
    Pause,
    /// The last version whose tasks were all up is stored again, as the next one.
    Rollback,
}

impl OnFailure {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl UpdatePolicy {
    /// One after the other, each ended before the next one is started: needs no room beside it.
    pub fn usual() -> Self {
        Self {
            order: Self::default_order(),
            parallel: Self::default_parallel(),
            healthy_for_ms: Self::default_healthy_for_ms(),
            on_failure: OnFailure::default(),
            progress_deadline_ms: Self::default_progress_deadline_ms(),
        }
    }

    fn default_order() -> ExchangeOrder {
        ExchangeOrder::StopFirst
    }

    fn default_parallel() -> u32 {
        1
    }

    fn default_healthy_for_ms() -> u64 {
        10_000
    }

    fn default_progress_deadline_ms() -> u64 {
        600_000
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
    fn is_default_healthy_for(ms: &u64) -> bool {
        *ms == Self::default_healthy_for_ms()
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
    fn is_default_progress_deadline(ms: &u64) -> bool {
        *ms == Self::default_progress_deadline_ms()
    }
}

impl MigratePolicy {
    /// One after the other, each started there before it is stopped here.
    pub fn usual() -> Self {
        Self { order: ExchangeOrder::default(), parallel: Self::default_parallel() }
    }

    fn default_parallel() -> u32 {
        1
    }
}
