//! A whole worker: real NATS, real Docker, and a leader played by the test; and its Docker, on its worst days.
//!
//! Needs `nats-server` (in `.tools/bin`, or on `PATH`) and a Docker daemon with the image
//! `longshore-busybox:1`; `scripts/setup` provides all of it.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and the place is told"
)]

mod adopting;
mod bad_daemon;
mod garbage;
mod images;
mod leader;
mod living;
mod logs;
mod own_daemon;
mod podman;
mod proxy;
mod sandboxes;
