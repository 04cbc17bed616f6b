//! From `longshore run` to a real container and back: the programs as operators run them, with real Docker,
//! a real NATS server and every permission on.
//!
//! | module | what is shown |
//! |---|---|
//! | [`verbs`] | what each verb prints, for people and for programs |
//! | [`containers`] | what a task's container looks like from the outside |
//! | [`ends`] | exit codes, failures and their reasons, restarts, stops |
//! | [`exec`] | commands in containers, and what a node chooses, refuses and finds |
//! | [`reach`] | files out of tasks and into them, their ports, and logs without end |
//! | [`rollout`] | versions that replace each other, and one that does not come up |
//! | [`survival`] | programs that die and come back, and containers that do not notice |
//! | [`nodes`] | nodes that die, return, or cannot use Docker |
//! | [`cut`] | a node whose network is cut |
//! | [`terminal`] | a terminal with somebody at it |
//! | [`maintenance`] | machines that are taken down by plan, and fenced jobs whose machines are gone |
//! | [`look`] | looking at tasks through the command line |

mod containers;
mod cut;
mod ends;
mod exec;
mod look;
mod maintenance;
mod nodes;
mod reach;
mod rollout;
mod survival;
mod terminal;
mod verbs;

/// How long anything may take on a loaded machine.
const SOON: std::time::Duration = std::time::Duration::from_secs(60);
