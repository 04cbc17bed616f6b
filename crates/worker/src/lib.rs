//! The worker: the shell round [`longshore_core::agent`].
pub mod runtime;
