//! Who may say and hear what, on a real NATS server with the configuration that `longshore auth` writes.
//!
//! | module | what is tried |
//! |---|---|
//! | [`probe`] | a client that notices what the server refuses it |
//! | [`matrix`] | each role against each kind of subject, against a table written by hand |
//! | [`attacks`] | the ways round the matrix: reply subjects, deliver subjects, acknowledgements |

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod attacks;
mod matrix;
mod probe;
