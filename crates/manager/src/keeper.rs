//! What goes on beside the loop. On every manager: points of time travel, and the end of history by policy. On
//! the leader: snapshots to the bucket, and the log trimmed behind them.

use std::sync::Arc;
use std::time::Duration;

use longshore_bus::Bus;
use tracing::{info, warn};

use crate::Clock;
use crate::bucket::Bucket;
use crate::error::ManagerError;
use crate::log::Look;
use crate::points::Point;
use crate::store::Store;

/// How long the keeper waits before another try of what did not succeed.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// How much is kept.
#[derive(Debug, Clone)]
pub struct Keeping {
    /// After how many records a snapshot is made. As many stay in the log behind it, for who is a little late.
    pub snapshot_records: u64,
    /// How long history is kept.
    pub history_age_max: Duration,
    /// About how many bytes of history are kept.
    pub history_bytes_max: u64,
    /// How many NATS servers hold each snapshot.
    pub replicas: usize,
}

/// Keeps for as long as it is polled. `leader` has the way to the bucket and the log.
pub(crate) async fn keep(
    store: Arc<Store>,
    keeping: Keeping,
    clock: Clock,
    leader: Option<(Bus, Look)>,
) {
    let mut applied = store.applied();
    let mut newest: Option<Point> = store.points().list().ok().and_then(|mut all| all.pop());
    let mut shared = None;
    loop {
        let index = *applied.borrow_and_update();
        let last = newest.as_ref().map_or(0, |point| point.index);
        let mut failed = None;
        if index >= last + keeping.snapshot_records {
            match point(&store, &keeping, clock).await {
                Ok(point) => newest = Some(point),
                Err(error) => failed = Some(error),
            }
        }
        if let (Some((core, look)), Some(point)) = (&leader, &newest)
            && shared != Some(point.index)
        {
            match share(&store, (core, look), &keeping, point).await {
                Ok(()) => shared = Some(point.index),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            warn!(%error, "a snapshot was not made or not stored; trying again soon");
            tokio::time::sleep(RETRY_DELAY).await;
        } else if applied.changed().await.is_err() {
            return;
        }
    }
}

/// Makes a point of the present state, and forgets what the policy does not keep.
async fn point(store: &Arc<Store>, keeping: &Keeping, clock: Clock) -> Result<Point, ManagerError> {
    let (store, keeping, now_ms) = (Arc::clone(store), keeping.clone(), clock.now().wall_ms);
    let made = tokio::task::spawn_blocking(move || {
        let point = store.make_point()?;
        let age_ms = u64::try_from(keeping.history_age_max.as_millis()).unwrap_or(u64::MAX);
        store.forget(now_ms.saturating_sub(age_ms), keeping.history_bytes_max)?;
        Ok(point)
    });
    made.await.map_err(|_| ManagerError::Bug("the thread that makes snapshots ended"))?
}

/// Stores a point in the bucket, unless as good a one is there, and trims the log behind it.
async fn share(
    store: &Arc<Store>,
    (core, look): (&Bus, &Look),
    keeping: &Keeping,
    point: &Point,
) -> Result<(), ManagerError> {
    let bucket = Bucket::open(core, keeping.replicas).await?;
    if bucket.newest().await?.is_some_and(|newest| newest >= point.index) {
        return Ok(());
    }
    let (store, shared) = (Arc::clone(store), point.clone());
    let written = tokio::task::spawn_blocking(move || store.write_shared(&shared)).await;
    let (path, head) =
        written.map_err(|_| ManagerError::Bug("the thread that writes snapshots ended"))??;
    bucket.upload(point.index, &path).await?;
    info!(index = point.index, "a snapshot is stored");
    look.trim(head.stream_sequence.saturating_sub(keeping.snapshot_records)).await
}
