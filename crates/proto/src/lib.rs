//! The words of Longshore: everything that crosses a wire or outlives a process.
//!
//! | module | what lives there |
//! |---|---|
//! | [`name`] | names that become subject tokens, validated once and typed for ever |
//! | [`id`] | ids: tasks, commands, clusters, nodes, boots, sessions; revisions |
//! | [`quantity`] | cpu, memory and durations as people write them |
//! | [`constraint`] | what a node must be, or had better be, to get a task |
//! | [`spec`] | what the user wants: job, task spec, resources, policies |
//! | [`container`] | how a task's container is made, beyond image, command and resources |
//! | [`health`] | health checks, and what they find |
//! | [`variable`] | variables in a task's texts, filled in on its node |
//! | [`validate`] | the rules a spec must meet, each refusal naming the field and the cure |
//! | [`state`] | states of tasks, nodes and jobs, and the one table of legal moves |
//! | [`node`] | what workers and the manager say to each other |
//! | [`alarm`] | how bad it is, of what an operator should know |
//! | [`api`] | what clients ask of the manager, and its answers |
//! | [`rpc`] | what operators ask of a worker: logs, commands, files, connections |
//! | [`metrics`] | what nodes and tasks use, told to whoever listens |
//! | [`event`] | what is published for anybody |
//! | [`explain`] | why tasks are where they are |
//! | [`plan`] | plans as they are asked for and answered: explanations, moves, what would happen if |
//! | [`error`] | the one error that crosses the wire |
//! | [`subject`] | the one list of subjects, as typed values with their text form both ways |
//! | [`permission`] | who may speak on which subject, derived from that list |
//! | [`codec`] | MessagePack both ways, with bounds |
//!
//! This crate has no clock, no randomness, no I/O and no async.
//!
//! **Compatibility.** Payloads are MessagePack maps with field names. A field is never removed or
//! retyped; a new one has a default. Unknown fields are ignored. Enums travel as text.

pub mod alarm;
pub mod api;
pub mod codec;
pub mod constraint;
pub mod container;
pub mod error;
pub mod event;
pub mod explain;
pub mod health;
pub mod id;
pub mod metrics;
pub mod name;
pub mod node;
pub mod permission;
pub mod plan;
pub mod platform;
pub mod quantity;
pub mod rpc;
pub mod spec;
pub mod state;
pub mod subject;
pub mod validate;
pub mod variable;

/// The version of the wire contract; it stands in every subject and in the [`VERSION_HEADER`].
pub const PROTOCOL_VERSION: u16 = 1;

/// The NATS header that carries [`PROTOCOL_VERSION`] on every message of ours.
pub const VERSION_HEADER: &str = "Longshore-Version";

/// The NATS header that carries the id of the command, so that a retry is recognised.
pub const COMMAND_HEADER: &str = "Longshore-Command";

/// The NATS header that names who asks, as the client says it (the NATS identity is in the inbox prefix).
pub const ACTOR_HEADER: &str = "Longshore-Actor";

/// The NATS header of a question that says which index of the log its answer must reflect at least: whoever
/// asks never sees the cluster go back, whichever manager answers.
pub const INDEX_HEADER: &str = "Longshore-Index";

/// The NATS header of a question about the past: the index of a record of the log, or `@` and a time in
/// milliseconds since the Unix epoch. The answer shows the cluster as it was after that record.
pub const MOMENT_HEADER: &str = "Longshore-At";

/// The NATS header that carries the id of the task an event speaks of.
pub const TASK_HEADER: &str = "Longshore-Task";
