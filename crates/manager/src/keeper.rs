//! What goes on beside the loop. On every manager: points of time travel, the end of history by policy, and that of
//! backups which nobody reads any more. On the leader: snapshots to the bucket, and the log trimmed behind them.

use std::sync::Arc;
use std::time::Duration;

use longshore_bus::Bus;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::bucket::Bucket;
use crate::error::ManagerError;
use crate::log::Look;
use crate::points::Point;
use crate::store::Store;
use crate::{Clock, backup};

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

/// What only a leader has: the way to the bucket and the log, and word of when the log had better be shorter.
pub(crate) struct Shared {
    pub(crate) core: Bus,
    pub(crate) look: Look,
    pub(crate) relieve: watch::Receiver<u64>,
}

/// Keeps for as long as it is polled.
pub(crate) async fn keep(
    store: Arc<Store>,
    keeping: Keeping,
    clock: Clock,
    mut leader: Option<Shared>,
) {
    let mut applied = store.applied();
    // Where the folder cannot be read, one more is made, or that it cannot be is told.
    let mut newest: Option<Point> = store.points().list().ok().and_then(|mut all| all.pop());
    let mut shared = None;
    let mut pressing = false;
    let mut tidy = tokio::time::interval(backup::IDLE_MAX);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let index = *applied.borrow_and_update();
        let last = newest.as_ref().map_or(0, |point| point.index);
        let mut failed = None;
        let is_full = std::mem::take(&mut pressing);
        if index >= last + keeping.snapshot_records || is_full && index > last {
            match point(&store, &keeping, clock).await {
                Ok(point) => newest = Some(point),
                Err(error) => failed = Some(error),
            }
        }
        if let (Some(leader), Some(point)) = (&mut leader, &newest)
            && (shared != Some(point.index) || is_full)
        {
            // Those who are a little late then join from the snapshot; the log must go on for all.
            let kept = if is_full { 0 } else { keeping.snapshot_records };
            match share(&store, &*leader, keeping.replicas, point, kept).await {
                Ok(()) => {
                    shared = Some(point.index);
                    // What was told while it was made shorter is answered; a log that is still too long is told of again.
                    leader.relieve.mark_unchanged();
                }
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            warn!(%error, "a snapshot was not made or not stored; trying again soon");
            // A disk that is full may be so of them.
            backup::tidy(&store).await;
            tokio::time::sleep(RETRY_DELAY).await;
            continue;
        }
        let relieved = async {
            match &mut leader {
                Some(leader) => leader.relieve.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            wanted = relieved => if wanted { pressing = true } else { return },
            _ = tidy.tick() => backup::tidy(&store).await,
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

/// Stores a point in the bucket, unless as good a one is there, and trims the log behind it but for some messages.
async fn share(
    store: &Arc<Store>,
    Shared { core, look, .. }: &Shared,
    replicas: usize,
    point: &Point,
    kept: u64,
) -> Result<(), ManagerError> {
    let bucket = Bucket::open(core, replicas).await?;
    let newest = bucket.newest().await?.map(|newest| newest.index);
    if newest.is_some_and(|newest| newest > point.index || newest == point.index && kept > 0) {
        return Ok(());
    }
    let (store, shared) = (Arc::clone(store), point.clone());
    let written = tokio::task::spawn_blocking(move || store.write_shared(&shared.path)).await;
    let (path, head) =
        written.map_err(|_| ManagerError::Bug("the thread that writes snapshots ended"))??;
    if newest != Some(point.index) {
        bucket.upload(&head, &path).await?;
        info!(index = point.index, "a snapshot is stored");
    }
    look.trim(head.stream_sequence.saturating_sub(kept)).await
}
