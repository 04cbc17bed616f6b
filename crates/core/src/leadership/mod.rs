//! What a manager concludes from what the servers say of the log and the lease: who may lead, over which log, and
//! what is done where log and store do not fit together.
//!
//! Nothing here asks a server or waits. The manager asks NATS and hands the answers in; the simulation asks its model
//! of NATS and hands in the same. So what is simulated is what runs.
//!
//! | module | what lives there |
//! |---|---|
//! | [`log`] | whether the log is still the one that the store was built from |
//! | [`follow`] | messages of the log to records, and which are skipped |
//! | [`lease`] | when to take the lease, and when it is lost |
//! | [`mend`] | joining from a snapshot, and who may heal the log |
//! | [`publish`] | how far the event stream holds the history, and what is published next |
//! | [`hearing`] | whether the silence of nodes is this manager's own |

pub mod follow;
pub mod hearing;
pub mod lease;
pub mod log;
pub mod mend;
pub mod publish;
