//! A cluster in virtual time: what a scheduler makes of machines and of jobs as they arrive.
//!
//! Nothing here looks at a clock, draws a random number that is not of the seed, or does I/O: the same settings
//! give the same bytes on every machine.
//!
//! | module | what lives there |
//! |---|---|
//! | [`machines`] | published mixes of machines |
//! | [`workload`] | jobs, generated from published distributions |
//! | [`history`] | jobs, from a cluster's own events |
//! | [`engine`] | virtual time: jobs arrive, are placed, and end |
//! | [`measure`] | what comes of it in figures |
//! | [`compact`] | how many machines a workload needs, and how full a fleet gets |
//! | [`plot`] | figures as SVG |
//! | [`random`] | numbers from a seed |

pub mod compact;
pub mod engine;
pub mod history;
pub mod machines;
pub mod measure;
pub mod plot;
pub mod random;
pub mod workload;
