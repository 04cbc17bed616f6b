//! The store's layout on the disk, and how one of an earlier version becomes the present one.

use fjall::PersistMode;
use longshore_core::cluster::persist::split;
use tracing::info;

use super::{CHUNK, Store};
use crate::error::ManagerError;
use crate::history;

/// The version of the layout: which keyspaces there are and what their keys mean. 2 has more indexes of the
/// history than 1; 3 has keys of their own for the versions of jobs; 4 has one entry in an index for all that a record
/// says of the same, and reads those of before as they are.
const LAYOUT: &str = "4";

impl Store {
    /// Marks a new store as of the present layout, and brings one of an earlier layout to it.
    ///
    /// # Errors
    /// It is of a newer layout, or the disk fails.
    pub(super) fn bring_to_layout(&self) -> Result<(), ManagerError> {
        match self.local.get("layout")? {
            Some(found) if *found == *LAYOUT.as_bytes() => {}
            Some(found) if matches!(&*found, b"1" | b"2" | b"3") => {
                // First of all: an earlier version must not take a part of the new layout for the whole of its own.
                let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
                // What an earlier version has left half done begins where that began.
                let from = self.local.get("upgrading")?.unwrap_or(found);
                batch.insert(&self.local, "upgrading", from);
                batch.insert(&self.local, "layout", LAYOUT);
                batch.commit()?;
            }
            Some(found) => {
                let found = String::from_utf8_lossy(&found).into_owned();
                return Err(ManagerError::Layout { found, known: LAYOUT });
            }
            None => self.put_local("layout", LAYOUT.as_bytes())?,
        }
        if let Some(from) = self.local.get("upgrading")? {
            self.upgrade(&from)?;
        }
        Ok(())
    }

    /// Brings what is there of an earlier layout to the present one. It may have been cut short before: each step leaves
    /// alone what it has done already.
    fn upgrade(&self, from: &[u8]) -> Result<(), ManagerError> {
        if from == b"1" {
            info!("the history gets new indexes; this happens once");
            self.index_history()?;
        }
        if from != b"3" {
            info!("the versions of jobs get keys of their own; this happens once");
            self.split_jobs()?;
        }
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        batch.remove(&self.local, "upgrading");
        Ok(batch.commit()?)
    }

    /// Writes every index of the history anew.
    fn index_history(&self) -> Result<(), ManagerError> {
        let mut batch = self.database.batch();
        for (at, guard) in self.history.prefix(history::EVENTS).enumerate() {
            let (key, value) = guard.into_inner()?;
            if let Some(event) = self.read_event(&key, &value) {
                for (key, value) in history::entries(std::slice::from_ref(&event)) {
                    batch.insert(&self.history, key, value);
                }
            }
            if at % CHUNK == CHUNK - 1 {
                std::mem::replace(&mut batch, self.database.batch()).commit()?;
            }
        }
        Ok(batch.durability(Some(PersistMode::SyncAll)).commit()?)
    }

    /// Gives the versions of jobs keys of their own.
    fn split_jobs(&self) -> Result<(), ManagerError> {
        let mut batch = self.database.batch();
        for (at, guard) in self.state.prefix("job/").enumerate() {
            let (key, value) = guard.into_inner()?;
            self.put(&mut batch, split(&key, &value)?.into_iter().flatten());
            if at % CHUNK == CHUNK - 1 {
                std::mem::replace(&mut batch, self.database.batch()).commit()?;
            }
        }
        Ok(batch.durability(Some(PersistMode::SyncAll)).commit()?)
    }
}
