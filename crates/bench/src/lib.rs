//! What is measured without a cluster, and where figures go: shared by `make bench` and `cargo bench`.
//!
//! | module | what lives there |
//! |---|---|
//! | [`load`] | workers by the thousand, with containers made of memory |
//! | [`port`] | ports for servers, of tests too
//! | [`scheduler`] | the scheduler beside the plain scan |
//! | [`report`] | figures to files |

pub mod load;
pub mod port;
pub mod report;
pub mod scheduler;

/// Why there are no figures.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
