//! A cluster in virtual time: what a scheduler makes of machines and of jobs as they arrive.
//!
//! Nothing here looks at a clock, draws a random number that is not of the seed, or does I/O: the same settings
//! give the same bytes on every machine.
//!
//! | module | what lives there |
//! |---|---|
//! | [`machines`] | published mixes of machines |
//! | [`workload`] | jobs, generated from published distributions |
//! | [`random`] | numbers from a seed |

pub mod machines;
pub mod random;
pub mod workload;
