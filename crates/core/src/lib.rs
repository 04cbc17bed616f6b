//! The decisions of Longshore, and nothing else.
//!
//! This crate does no I/O, is not async, reads no clock and draws no random numbers: time and randomness
//! come in as arguments, effects go out as values. So the same inputs give the same outputs on every machine,
//! a whole cluster runs in one thread of a test, and a log replays to the same bytes in every later version.
//! `Cargo.toml` and `clippy.toml` keep the promise.
//!
//! ```text
//!            inputs                      facts, as one record            effects
//!  requests, reports, heartbeats ──► cluster::Cluster::propose ──► log ──► commit ──► answers,
//!  and the passing of time                                                            assignments, events
//!
//!  assignments, containers seen,  ──► agent::Agent::handle ──► store ──► actions on containers, reports
//!  and the passing of time
//! ```
//!
//! | module | what lives there |
//! |---|---|
//! | [`cluster`] | the manager's brain |
//! | [`agent`] | the worker's brain |
//! | [`leadership`] | who may lead, and over which log |
//! | [`time`] | time as a value |
//! | [`mint`] | ids from a seed |

pub mod agent;
pub mod cluster;
pub mod leadership;
pub mod mint;
pub mod time;
