//! NATS with types: everything that Longshore's programs need of the bus, and nothing of what they decide.
//!
//! | module | what lives there |
//! |---|---|
//! | [`accounts`] | the server's accounts, users and rights, as its configuration |
//! | [`connect`] | options, the connection, what is told when it breaks |
//! | [`credentials`] | the file that proves who a client is |
//! | `inbox` | where all questions of a connection are answered |
//! | `servers` | another server in the place of one that is of no use |
//! | [`request`] | questions with a deadline, an id and retries |
//! | [`subscribe`] | typed messages in, answers out, each to its asker's own inbox only |
//! | [`service`] | the manager's api as a NATS micro service |
//!
//! Facts about the client library that this crate absorbs (tried; see ARCHITECTURE.md): its request timeout
//! does not cover a full queue, an unanswered request through its shared inbox is remembered for ever, a
//! request that timed out while disconnected may still arrive later, and a refused publish shows as silence.

pub mod accounts;
pub mod connect;
pub mod credentials;
mod inbox;
pub mod request;
mod servers;
pub mod service;
pub mod subscribe;

pub use connect::{Bus, BusError, ConnectError, Options, Tls};
pub use credentials::{Credentials, CredentialsError, Secret};
pub use request::{Ask, AskError};
pub use service::{Api, ApiRequest};
pub use subscribe::{Incoming, Subscription};
