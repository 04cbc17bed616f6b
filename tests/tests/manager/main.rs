//! The manager as a process, over a real NATS server, with workers that the test plays.
//!
//! | module | what is shown |
//! |---|---|
//! | [`work`] | from a submit to assignments and committed reports |
//! | [`restarts`] | what `kill -9` of manager or server leaves: everything that was acknowledged |
//! | [`degraded`] | a log that takes no records: refused in words, nothing half done, and on it goes |
//! | [`full`] | what fills is told of in time, and is kept from filling up |
//! | [`names`] | two managers of one name |
//! | [`outages`] | a server that is away at the start, later, or hangs |
//! | [`partition`], [`slow`] | networks that are cut or slow, disks that hang, a server that stutters |
//! | [`readers`] | readers that stall or are left behind, and the lease's own key |
//! | [`plans`] | gangs, displacing, moves, explanations and what would happen if, through the command line |
//! | [`versions`] | jobs that are planned, scaled, restarted and rolled back, through the command line |
//! | [`refusals`] | what cannot be read or granted gets an answer, and stops nothing |
//! | [`snapshots`] | snapshots, the trimmed log, who joins from there, the end of history |
//! | [`healing`] | what NATS or a disk has lost: healed, or refused; backup and restore |
//! | [`past`] | history, the cluster as it was, who asked for what |
//! | [`beginnings`] | what a manager must not start on, and says why |
//! | [`leadership`] | two managers: standing by, taking over, being fenced |
//! | [`stream`] | the event stream and the service as others see them |
//! | [`command_line`] | bad input on the command line |
//! | [`many`] | the load generator of the benchmark, at a size for tests |
//! | [`auth`] | what `longshore auth` writes, on a real server |

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod auth;
mod beginnings;
mod command_line;
mod degraded;
mod full;
mod healing;
mod leadership;
mod many;
mod names;
mod outages;
mod partition;
mod past;
mod plans;
mod readers;
mod refusals;
mod restarts;
mod slow;
mod snapshots;
mod stream;
mod versions;
mod work;

/// How long anything may take on a loaded machine.
const SOON: std::time::Duration = std::time::Duration::from_secs(30);
