//! Decision tests: inputs in, exact facts and effects out; and properties over random histories.

mod ahead;
mod alarms;
mod crowd;
mod drain;
mod eligibility;
mod fence;
mod field;
mod gangs;
mod jobs;
mod lists;
mod moves;
mod nodes;
mod preemption;
mod questions;
mod random;
mod revise;
mod rollout;
mod update;
mod world;
