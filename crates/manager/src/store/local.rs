//! What this store knows of itself: its id, the stream that its log is in, and how it came to what it holds.
//!
//! Single values under short names, each synced as it is written.

use fjall::{Database, Keyspace, PersistMode};
use uuid::Uuid;

use super::Store;
use crate::error::ManagerError;

impl Store {
    /// This store's own id, made when the directory was.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// When the log's stream was created, as the server said when this store first saw it.
    pub fn log_created(&self) -> Result<Option<String>, ManagerError> {
        Ok(self.local.get("log-created")?.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    /// Remembers when the log's stream was created.
    pub fn set_log_created(&self, created: &str) -> Result<(), ManagerError> {
        self.put_local("log-created", created.as_bytes())
    }

    /// Whether a stream must be there already: this data directory has belonged to a cluster.
    pub fn must_join(&self) -> Result<bool, ManagerError> {
        Ok(self.local.get("must-join")?.is_some())
    }

    /// Whether this store was restored from a backup, and no log was made from it yet.
    pub fn is_restored(&self) -> Result<bool, ManagerError> {
        Ok(self.local.get("restored")?.is_some())
    }

    /// Whether this manager ever was about to have the log list another one.
    pub(crate) fn has_company(&self) -> Result<bool, ManagerError> {
        Ok(self.local.get("company")?.is_some())
    }

    /// Remembers, for good, that this manager is about to have the log list another one.
    pub(crate) fn note_company(&self) -> Result<(), ManagerError> {
        if self.has_company()? { Ok(()) } else { self.put_local("company", b"1") }
    }

    /// Whether history before the snapshot that this store joined from may be missing here, and be known to others.
    pub(crate) fn is_partial(&self) -> Result<bool, ManagerError> {
        Ok(self.local.get("joined")?.is_some())
    }

    pub(crate) fn put_local(&self, key: &str, value: &[u8]) -> Result<(), ManagerError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        batch.insert(&self.local, key, value);
        Ok(batch.commit()?)
    }
}

/// The id of a store: made when there is none yet.
pub(super) fn identity(database: &Database, local: &Keyspace) -> Result<Uuid, fjall::Error> {
    if let Some(bytes) = local.get("id")?
        && let Ok(id) = Uuid::from_slice(&bytes)
    {
        return Ok(id);
    }
    let id = Uuid::new_v4();
    let mut batch = database.batch().durability(Some(PersistMode::SyncData));
    batch.insert(local, "id", id.as_bytes().as_slice());
    batch.commit()?;
    Ok(id)
}
