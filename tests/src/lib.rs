//! The harness of the tests that need real processes: a NATS server with every permission on, managers and
//! workers as the programs that operators run, the command line, Docker.
//!
//! | module | what lives there |
//! |---|---|
//! | [`mod@eventually`] | waiting for a state, with a deadline and the last state seen in the failure |
//! | [`program`] | a child process: its log, signals, its end |
//! | [`users`] | the users of a NATS server and their credential files |
//! | [`nats`] | a NATS server of the test's own |
//! | [`cluster`] | server, managers and workers together |
//! | [`quorum`] | three servers and three managers |
//! | [`api`] | the manager asked over the bus, as an operator |
//! | [`load`] | a client that submits without pause, and what must hold afterwards |
//! | [`played`] | a worker that the test plays, without containers |
//! | [`cli`] | the command line, run as a person would |
//! | [`docker`] | Docker, asked directly: what really runs |
//! | [`island`] | a program on a network that a test can cut |
//! | [`slow_disk`] | a disk that a test can make hang |
//! | [`proxy`] | a socket in front of Docker that a test can shut |
//!
//! Nothing here sleeps to let something happen: a test waits for the state that it needs. What a test started
//! ends with it, by its process id; containers are removed by the label of the test's own cluster.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a harness fails loudly, and a panic is how a test fails"
)]

pub mod api;
pub mod cli;
pub mod cluster;
pub mod docker;
pub mod eventually;
pub mod island;
pub mod load;
pub mod nats;
pub mod played;
pub mod program;
pub mod proxy;
pub mod quorum;
pub mod slow_disk;
pub mod users;

pub use api::Api;
pub use cluster::Cluster;
pub use eventually::{always, eventually};
pub use island::Island;
pub use quorum::Quorum;
pub use slow_disk::SlowDisk;

/// The image that `scripts/setup` makes from the machine's own busybox.
pub const IMAGE: &str = "longshore-busybox:1";
