//! Where a task should run: three stages as pure functions, and the reason for what they decide.
//!
//! | module | what lives there |
//! |---|---|
//! | [`fleet`] | capacity and commitments of every node: the truth that the stages judge by |
//! | [`demand`] | what one task wants of a node |
//! | [`filter`] | stage 1, candidates: the nodes that a task could run on, and why the others not |
//! | [`cost`] | stage 2, score: E-PVM and its rivals |
//! | [`plain`] | all stages in the fewest words: every node is looked at, each time |
//! | `index` | the same answer without looking at what has not changed |
//! | `alike` | many tasks of one demand, placed by one call |
//! | [`explain`] | the reason for a decision, as a value and as a sentence |
//! | [`plan`] | gangs, preemption, rebalancing, and how every node stands to a task |
//!
//! Decisions are pure: no clock, no randomness, no I/O, no map order. The same fleet, demand and policy
//! give the same answer bit for bit on every machine: sums have a fixed order, exponentials come from
//! `libm` and not from the platform, and ties fall by a fixed order of names.
//!
//! Every node is judged, never a sample. Feasibility is decided on integers alone, by committed figures;
//! floating point only ranks what has been found feasible.

use longshore_proto::name::NodeName;
use longshore_proto::spec::SchedulerKind;

mod alike;
pub mod cost;
pub mod demand;
pub mod explain;
pub mod filter;
pub mod fleet;
mod index;
pub mod plain;
pub mod plan;
#[cfg(test)]
mod testing;

pub use demand::Demand;
pub use explain::{CostTerms, Explanation, Rejected, Unplaceable};
pub use filter::Reason;
pub use fleet::{Fleet, GroupId, Machine, Node};

use index::{Ask, Index};

/// How one of the feasible nodes is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy<'a> {
    /// The node whose opportunity cost rises least.
    Epvm,
    /// The node where the fewest future tasks lose their room, and among equals as [`Policy::Epvm`].
    EpvmGuard,
    /// The first feasible node after `last` in the order of names, and then from the beginning.
    RoundRobin {
        /// The node that was picked last; it need not exist any more.
        last: Option<&'a NodeName>,
    },
    /// The emptiest node.
    Spread,
    /// The fullest node.
    Binpack,
    /// The node that the formula of "Build an Orchestrator in Go" names.
    Lieb,
}

impl<'a> Policy<'a> {
    /// The policy that job files name so; `last` is for those who take turns.
    pub fn new(kind: SchedulerKind, last: Option<&'a NodeName>) -> Self {
        match kind {
            SchedulerKind::Epvm => Self::Epvm,
            SchedulerKind::EpvmGuard => Self::EpvmGuard,
            SchedulerKind::RoundRobin => Self::RoundRobin { last },
            SchedulerKind::Spread => Self::Spread,
            SchedulerKind::Binpack => Self::Binpack,
            SchedulerKind::Lieb => Self::Lieb,
        }
    }

    /// The policy as job files name it.
    pub fn kind(self) -> SchedulerKind {
        match self {
            Self::Epvm => SchedulerKind::Epvm,
            Self::EpvmGuard => SchedulerKind::EpvmGuard,
            Self::RoundRobin { .. } => SchedulerKind::RoundRobin,
            Self::Spread => SchedulerKind::Spread,
            Self::Binpack => SchedulerKind::Binpack,
            Self::Lieb => SchedulerKind::Lieb,
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

/// Places tasks on one fleet, and remembers what it found out. Forgetting it all changes no decision.
///
/// It follows one fleet for life: handed another, or a copy that has gone its own way, it would mistake
/// the one's changes for the other's.
#[derive(Debug, Default)]
pub struct Scheduler {
    indexes: Vec<(SchedulerKind, Index)>,
}

impl Scheduler {
    /// Finds a node for one task, as [`plain::place`] does. Nothing is reserved: that is [`Fleet::reserve`],
    /// once the decision is a fact.
    ///
    /// # Errors
    ///
    /// [`Unplaceable`] says what stands in the way at each node when the task fits on none.
    pub fn place(
        &mut self,
        fleet: &Fleet,
        demand: &Demand<'_>,
        policy: Policy<'_>,
    ) -> Result<Placement, Box<Unplaceable>> {
        let ask = asked(policy, Ask::Reason);
        let (view, ground) = self.index(policy.kind()).view(fleet, demand, ask);
        let nodes = u32::try_from(fleet.len()).unwrap_or(u32::MAX);
        let rejected = view.rejected();
        let feasible = view.feasible();
        if let Policy::RoundRobin { last } = policy {
            let next = fleet.in_turn(last).find(|lane| view.is_feasible(*lane));
            return match next.and_then(|lane| fleet.at(lane)) {
                Some(node) => {
                    let (policy, terms, runner_up) = (policy.kind(), None, None);
                    let explanation =
                        Explanation { policy, nodes, feasible, rejected, terms, runner_up };
                    Ok(Placement { node: node.name.clone(), explanation })
                }
                None => Err(Box::new(Unplaceable { nodes, rejected })),
            };
        }
        let best = view.pick(&ground);
        let Some((best, node)) = best.and_then(|best| Some((best, best.name(fleet)?))) else {
            return Err(Box::new(Unplaceable { nodes, rejected }));
        };
        let next = (feasible > 1).then(|| view.next(&ground, &best)).flatten();
        let runner_up =
            next.and_then(|next| Some((next.name(fleet)?.clone(), view.terms(&ground, next))));
        let (policy, terms) = (policy.kind(), Some(view.terms(&ground, best)));
        let explanation = Explanation { policy, nodes, feasible, rejected, terms, runner_up };
        Ok(Placement { node: node.clone(), explanation })
    }

    /// Finds a node for one task, without a reason.
    pub fn pick<'f>(
        &mut self,
        fleet: &'f Fleet,
        demand: &Demand<'_>,
        policy: Policy<'_>,
    ) -> Option<&'f Node> {
        self.pick_lane(fleet, demand, policy).and_then(|lane| fleet.at(lane))
    }

    fn pick_lane(&mut self, fleet: &Fleet, demand: &Demand<'_>, policy: Policy<'_>) -> Option<u32> {
        let ask = asked(policy, Ask::Best);
        let (view, ground) = self.index(policy.kind()).view(fleet, demand, ask);
        match policy {
            Policy::RoundRobin { last } => fleet.in_turn(last).find(|lane| view.is_feasible(*lane)),
            _ => view.pick(&ground).map(|best| best.lane),
        }
    }

    fn index(&mut self, kind: SchedulerKind) -> &mut Index {
        let at = self.indexes.iter().position(|(known, _)| *known == kind).unwrap_or_else(|| {
            self.indexes.push((kind, Index::new(kind)));
            self.indexes.len() - 1
        });
        &mut self.indexes[at].1
    }
}

/// What is asked of a view: who takes turns looks at who can take the task, and not at costs.
fn asked(policy: Policy<'_>, by_cost: Ask) -> Ask {
    if matches!(policy, Policy::RoundRobin { .. }) { Ask::All } else { by_cost }
}
