//! When the log and the store do not fit together: join from a snapshot, heal the log from the own disk, or refuse.
//!
//! Which of them is [`longshore_core::leadership::mend`]'s to say.
//!
//! Healing is one procedure, whatever was lost: the own state goes into the bucket as its only snapshot, what still stands
//! in the stream is purged, and the next record is appended behind it. The own store moves there last: whoever dies on
//! the way finds log and store at odds again when it starts, and joins from its own snapshot or heals once more.

use std::sync::Arc;
use std::time::Duration;

use longshore_bus::Bus;
use longshore_core::cluster::record::Record;
use longshore_core::cluster::state::Meta;
use longshore_core::leadership::mend::{
    LOOK_INTERVAL_MS, PATIENCE_MS, Patience, Proof, compared, holds_past, may_heal, may_join,
    may_read_on,
};
use longshore_proto::name::UserName;
use longshore_proto::subject::log_stream;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::Clock;
use crate::bucket::Bucket;
use crate::error::{Broken, ManagerError};
use crate::keeper::Keeping;
use crate::lease::Lease;
use crate::log::Log;
use crate::snapshot;
use crate::store::Store;
use crate::streams::Streams;

/// How often it is said what mending waits for.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Everything that mending needs.
pub(crate) struct Mender<'a> {
    pub(crate) core: &'a Bus,
    pub(crate) store: &'a Arc<Store>,
    pub(crate) streams: &'a Streams,
    pub(crate) keeping: &'a Keeping,
    pub(crate) name: &'a UserName,
    /// Whether an operator has chosen this manager's store as the truth.
    pub(crate) chosen: bool,
    pub(crate) clock: Clock,
}

impl Mender<'_> {
    /// Mends what is broken, or gives it back as the reason why this manager cannot go on.
    pub(crate) async fn mend(&self, broken: Broken, lease: Lease) -> Result<(), ManagerError> {
        // What the reign that ended was writing is part of what this store holds.
        self.store.settled().await;
        let meta = self.store.load_meta()?;
        if self.store.is_restored()? && matches!(broken, Broken::Gone { .. }) {
            info!(
                index = meta.index,
                "this store was restored from a backup, and begins its log anew"
            );
        } else {
            // By the index an operator finds the manager that knows most.
            error!(%broken, index = meta.index, "the log and this manager's store do not fit together");
        }
        let mut patience = Patience::default();
        let mut complain_at = Instant::now();
        let mut lease = Some(lease);
        loop {
            // Only who has seen that there is nothing to join from may heal, or gives up.
            let may_join_later = match self.join(&meta, &broken).await {
                Ok(true) => return Ok(()),
                Ok(false) => false,
                Err(error) if error.passes() || matches!(error, ManagerError::Bucket { .. }) => {
                    // Again and again, because nobody else can tell: who mends answers nothing, and `doctor` names this log.
                    if complain_at <= Instant::now() {
                        warn!(
                            "it is not known whether there is a snapshot to join from: {error}; trying again until it is, \
                             and nothing is healed before that"
                        );
                        complain_at = Instant::now() + COMPLAINT_INTERVAL;
                    }
                    true
                }
                Err(error) => return Err(error),
            };
            if !may_join_later
                && may_heal(&meta, self.name, self.chosen, &self.proof(&meta).await?)
                && let Some(lease) = lease.take()
            {
                return self.heal(&meta, broken, lease).await;
            }
            if patience.is_over(!may_join_later, self.clock.time()) {
                return Err(broken.into());
            }
            tokio::time::sleep(Duration::from_millis(LOOK_INTERVAL_MS)).await;
        }
    }

    async fn proof(&self, meta: &Meta) -> Result<Proof, ManagerError> {
        // Where an operator has chosen, nothing is to be proven, and the log may be one that cannot be read.
        let holds_end = self.chosen || self.holds_end().await?;
        Ok(Proof {
            has_company: self.store.has_company()?,
            holds_last: self.store.has_record(meta.index)?,
            holds_end,
        })
    }

    /// Whether what still stands in the log, if anything does, ends with a record of this manager's journal.
    async fn holds_end(&self) -> Result<bool, ManagerError> {
        let Some(tip) = Log::tip(self.core).await? else { return Ok(true) };
        match Record::decode(&tip) {
            Ok(record) => self.store.holds(record.index, &tip),
            Err(_) => Ok(false),
        }
    }

    /// Takes over the snapshot in the bucket, if there is one that continues what this store holds. True, too, where that
    /// is not needed, because the log is whole.
    async fn join(&self, meta: &Meta, broken: &Broken) -> Result<bool, ManagerError> {
        if matches!(broken, Broken::Replaced { .. }) && self.recognises(meta).await? {
            return Ok(true);
        }
        let bucket = Bucket::open(self.core, self.keeping.replicas).await?;
        let file = self.store.points().passing("incoming");
        if !bucket.download(&file).await? {
            return Ok(false);
        }
        // Without a stream, records after the snapshot would be lost unseen.
        let Some(log) = Log::told(self.core).await? else { return Ok(false) };
        if may_read_on(meta, broken, self.store.log_created()?.as_deref(), &log) {
            info!(
                end = log.last,
                "the log goes on behind the end that a NATS server had told; reading it on"
            );
            tokio::time::sleep(Duration::from_millis(LOOK_INTERVAL_MS)).await;
            return Ok(true);
        }
        let (store, meta, broken) = (Arc::clone(self.store), meta.clone(), broken.clone());
        let joined = tokio::task::spawn_blocking(move || {
            let (head, entries) = snapshot::open(&file)?;
            let known = store.log_created()?;
            if !may_join(&meta, &broken, &head, known.as_deref(), &log) {
                return Ok(false);
            }
            info!(index = head.index, "joining from a snapshot");
            store.install(&head, entries, false)?;
            store.set_log_created(&log.created)?;
            Ok(true)
        });
        joined.await.map_err(|_| ManagerError::Bug("the thread that reads snapshots ended"))?
    }

    /// Whether another log than the known one holds all that this store does. Then it is the store's own from now on.
    async fn recognises(&self, meta: &Meta) -> Result<bool, ManagerError> {
        let Some(log) = Log::told(self.core).await? else { return Ok(false) };
        let mut found = Vec::new();
        for sequence in compared(meta) {
            found.push(Log::message_at(self.core, sequence).await?);
        }
        if !holds_past(meta, &log, &found) {
            return Ok(false);
        }
        info!(
            index = meta.index,
            created = log.created,
            "the log was made anew, and holds all that this store does; reading it on"
        );
        self.store.set_log_created(&log.created)?;
        Ok(true)
    }

    /// Makes the own store the truth.
    async fn heal(&self, meta: &Meta, broken: Broken, lease: Lease) -> Result<(), ManagerError> {
        warn!(index = meta.index, "healing the log from this manager's own store");
        let log = Log::make(self.core, self.streams).await?;
        // Two managers must not heal at once, and nobody heals over one that leads.
        let listed = watch::Sender::new(true).subscribe();
        let patience = Duration::from_millis(PATIENCE_MS);
        let Ok(held) = tokio::time::timeout(patience, lease.acquire(listed)).await else {
            warn!("another manager holds the lease; the log is not healed");
            return Err(broken.into());
        };
        // A server that said that there is no log may not have known; whoever has made it does.
        if self.store.is_restored()? && log.end().await? > 0 {
            return Err(ManagerError::LogInUse { stream: log_stream(self.core.root()) });
        }
        let (created, chosen) = (log.created_at(), self.chosen);
        let end = loop {
            let end = log.end().await?;
            let store = Arc::clone(self.store);
            let shared = tokio::task::spawn_blocking({
                let created = created.clone();
                move || store.write_moved(end, chosen, &created)
            });
            let (path, head) = shared
                .await
                .map_err(|_| ManagerError::Bug("the thread that writes snapshots ended"))??;
            let bucket = Bucket::open(self.core, self.keeping.replicas).await?;
            let name = bucket.upload(&head, &path).await?;
            bucket.keep_only(&name).await?;
            // Only now, because what stands in the stream may be the only copy until then.
            log.look().trim(end + 1).await?;
            // A server that knew too little may have told the end: behind it old records would stand still.
            if log.is_cut_behind(end).await? {
                break end;
            }
            warn!(
                end,
                "the log did not end where a NATS server said; healing it behind its true end"
            );
            tokio::time::sleep(Duration::from_millis(LOOK_INTERVAL_MS)).await;
        };
        let store = Arc::clone(self.store);
        let moved = tokio::task::spawn_blocking(move || store.move_to(end, chosen, &created));
        moved
            .await
            .map_err(|_| ManagerError::Bug("the thread that moves the store on ended"))??;
        held.release().await;
        warn!(index = meta.index, "the log is healed: it goes on behind a snapshot of this store");
        Ok(())
    }
}
