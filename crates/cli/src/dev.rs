//! What `longshore dev` is made of: a cluster for one machine in one process, beside a NATS server of its own.
//!
//! | module | what lives there |
//! |---|---|
//! | `place` | the folder that everything of one `dev` is in |
//! | `find` | which nats-server to start, and whether it is new enough |
//! | `server` | the NATS server: started, watched, started again, stopped |
//! | `stops` | Ctrl-C, once and twice |
//! | `supervise` | the small process between us and the server, so that it never outlives us |
//! | `access` | where the bus is and who each member is on it |
//! | `members` | the manager and the workers |

pub(crate) mod access;
pub(crate) mod find;
pub(crate) mod members;
pub(crate) mod place;
pub(crate) mod server;
pub(crate) mod stops;
pub(crate) mod supervise;
