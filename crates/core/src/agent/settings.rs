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
}

impl Default for Settings {
    fn default() -> Self {
        Self { ports: PORT_RANGE_USUAL, policy: Policy::default() }
    }
}
