//! Decision tests: inputs in, exact facts and effects out; and properties over random histories.

mod jobs;
mod nodes;
mod random;
mod world;
