//! What a worker's operator sets, as far as its brain decides by it.

use std::ops::RangeInclusive;

use super::policy::Policy;
use super::ports::PORT_RANGE_USUAL;

/// A worker's settings; the default is what a worker does when nothing is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The ports that tasks get which leave the choice to the node. What was chosen before stays, wherever it lies.
    pub ports: RangeInclusive<u16>,
    /// What tasks may do beyond a hardened container.
    pub policy: Policy,
    /// How long what is over stays on the machine.
    pub keeping: Keeping,
}

impl Default for Settings {
    fn default() -> Self {
        Self { ports: PORT_RANGE_USUAL, policy: Policy::default(), keeping: Keeping::default() }
    }
}

/// How long what is over stays on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// How many ended containers are kept for their logs, the newest of each task.
    pub ended_max: usize,
    /// How long each of them is kept, in milliseconds.
    pub ended_ms: u64,
    /// How long an image that the worker pulled is kept while no task needs it, in milliseconds; absent means until
    /// the disk is too full.
    pub images_ms: Option<u64>,
    /// How long a volume is kept while no task needs it, in milliseconds; absent means for ever.
    pub volumes_ms: Option<u64>,
    /// From how many per cent on the disk is too full. Above 100 means never.
    pub disk_percent_max: u8,
}

impl Default for Keeping {
    fn default() -> Self {
        const HOUR_MS: u64 = 3_600_000;
        Self {
            ended_max: 20,
            ended_ms: 24 * HOUR_MS,
            images_ms: Some(7 * 24 * HOUR_MS),
            volumes_ms: None,
            disk_percent_max: 85,
        }
    }
}
