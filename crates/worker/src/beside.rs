//! Work beside the loop: what has ended of it, and what may wait for the disk.

use tokio::task::JoinSet;

use crate::WorkerError;

/// Forgets what has ended beside the loop. What has panicked there answers nothing any more, and the brain would wait for
/// it for ever: the worker ends, and the next one looks at what is there.
pub(crate) fn forget_ended(beside: &mut JoinSet<()>) -> Result<(), WorkerError> {
    while let Some(ended) = beside.try_join_next() {
        ended.map_err(|_| WorkerError::Broken { part: "work beside its loop" })?;
    }
    Ok(())
}

/// Runs what may wait for the disk on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    part: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorkerError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| WorkerError::Broken { part })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_beside_the_loop_ends_the_worker_and_nothing_else_does() {
        let mut beside = JoinSet::new();
        beside.spawn(async {});
        beside.spawn(std::future::pending());
        while beside.len() > 1 {
            forget_ended(&mut beside).unwrap();
            tokio::task::yield_now().await;
        }
        beside.spawn(async { panic!("a bug") });
        let error = loop {
            match forget_ended(&mut beside) {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, WorkerError::Broken { .. }), "{error}");
    }
}
