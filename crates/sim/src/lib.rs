//! The whole cluster in one thread and in virtual time: several managers and dozens of workers with both brains
//! unmodified, and everything round them broken by a seed.
//!
//! ```text
//!   seed ──► World ──► one event after the other, in the order of virtual time
//!              │
//!   Manager ── core::cluster     jetstream, disk, runtime      Chaos: what breaks, and when
//!   Worker  ── core::agent       and the bus between them      Checks: what must hold, after every step
//!   Client
//! ```
//!
//! A run has two parts: while things break, nothing bad may happen; once they no longer do, everything must come
//! right. The same seed gives the same run. `docs/simulation.md` says how to run it and how to read a failure.
//!
//! | module | what lives there |
//! |---|---|
//! | [`run`] | one seed, from beginning to verdict |
//! | [`world`] | every process and everything between them |
//! | [`manager`], [`worker`], [`client`] | shells as state machines, round the brains |
//! | [`ask`] | questions with retries |
//! | [`message`] | who there is, and what is said |
//! | [`jetstream`], [`disk`], [`runtime`] | models of what Longshore rests on |
//! | [`fault`] | everything that can go wrong |
//! | [`check`] | what must hold |
//! | [`sabotage`] | the proof that the checkers bite |
//! | [`trace`], [`time`] | what happened, and when |

pub mod ask;
pub mod check;
pub mod client;
pub mod disk;
pub mod fault;
pub mod jetstream;
pub mod manager;
pub mod message;
pub mod run;
pub mod runtime;
pub mod sabotage;
pub mod servers;
pub mod time;
pub mod trace;
pub mod worker;
pub mod world;
