//! Where a task should run: three stages as pure functions, and the reason for what they decide.
//!
//! | module | what lives there |
//! |---|---|
//! | [`fleet`] | capacity and commitments of every node, as the stages see them |
//! | [`filter`] | stage 1, candidates: the nodes that a task could run on, and why the others not |
//! | `epvm` | stages 2 and 3, score and pick, by least marginal opportunity cost |
//! | `round_robin` | stage 3 without a score: the candidates in turn |
//! | [`explain`] | the reason for a decision, as a value and as a sentence |
//!
//! Decisions are pure: no clock, no randomness, no I/O, no map order. The same fleet, demand and policy
//! give the same answer bit for bit on every machine: sums have a fixed order, exponentials come from
//! `libm` and not from the platform, and ties fall by a fixed order of names.
//!
//! Every node is judged, never a sample. Feasibility is decided on integers alone, by committed figures;
//! floating point only ranks what has been found feasible.

use longshore_proto::name::NodeName;
use longshore_proto::spec::SchedulerKind;

mod epvm;
pub mod explain;
pub mod filter;
pub mod fleet;
mod round_robin;
#[cfg(test)]
mod testing;

pub use explain::{CostTerms, Explanation, Rejected, Unplaceable};
pub use filter::Reason;
pub use fleet::{Demand, Fleet, Node};

/// How one of the feasible nodes is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy<'a> {
    /// The node whose opportunity cost rises least.
    Epvm,
    /// The first feasible node after `last` in the order of names, and then from the beginning.
    RoundRobin {
        /// The node that was picked last; it need not exist any more.
        last: Option<&'a NodeName>,
    },
}

impl Policy<'_> {
    /// The policy as job files name it.
    pub fn kind(self) -> SchedulerKind {
        match self {
            Self::Epvm => SchedulerKind::Epvm,
            Self::RoundRobin { .. } => SchedulerKind::RoundRobin,
        }
    }
}

/// A node for a task, and why it was this one.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// Where the task goes.
    pub node: NodeName,
    /// Why.
    pub explanation: Explanation,
}

/// What a policy picked of the candidates.
struct Choice {
    node: NodeName,
    terms: Option<CostTerms>,
    runner_up: Option<(NodeName, f64)>,
}

/// Finds a node for one task. Nothing is reserved: that is [`Fleet::reserve`], once the decision is a fact.
///
/// # Errors
///
/// [`Unplaceable`] says what stands in the way at each node when the task fits on none.
pub fn place(
    fleet: &Fleet,
    demand: &Demand<'_>,
    policy: Policy<'_>,
) -> Result<Placement, Unplaceable> {
    let candidates = filter::candidates(fleet, demand);
    let choice = match policy {
        Policy::Epvm => epvm::pick(&epvm::score(&candidates.nodes, demand)),
        Policy::RoundRobin { last } => round_robin::pick(&candidates.nodes, last),
    };
    let nodes = u32::try_from(fleet.len()).unwrap_or(u32::MAX);
    let Some(Choice { node, terms, runner_up }) = choice else {
        return Err(Unplaceable { nodes, rejected: candidates.rejected });
    };
    let explanation = Explanation {
        policy: policy.kind(),
        nodes,
        feasible: u32::try_from(candidates.nodes.len()).unwrap_or(u32::MAX),
        rejected: candidates.rejected,
        terms,
        runner_up,
    };
    Ok(Placement { node, explanation })
}
