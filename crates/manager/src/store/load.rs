//! How the state is read back from the disk when a manager starts, or takes back what it could not append.

use std::collections::BTreeMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use fjall::{UserKey, UserValue};
use longshore_core::cluster::persist::{Assembly, LoadError, Loaded, Names, read_meta};
use longshore_core::cluster::state::{Meta, State};

use super::Store;
use crate::error::ManagerError;

/// How many entries are read at once when the state is loaded: the fewer, the less memory is used beside it.
const LOAD_CHUNK: usize = 500;

impl Store {
    /// Reads what stands once.
    pub fn load_meta(&self) -> Result<Meta, ManagerError> {
        let stored = self.state.get("meta")?;
        Ok(stored.map(|value| read_meta(&value)).transpose()?.unwrap_or_default())
    }

    /// Reads the state: one thread walks through the store, some read what it finds, and this one puts it together in
    /// the order of keys. Only a few chunks are on their way at any time.
    pub fn load(&self) -> Result<State, ManagerError> {
        type Pairs = Vec<(UserKey, UserValue)>;
        let readers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (sender, receiver) = sync_channel::<(usize, Result<Pairs, fjall::Error>)>(readers);
        let receiver = Mutex::new(receiver);
        let next = || receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let (out, pieces) = sync_channel(readers);
        let read = |out: SyncSender<(usize, Result<Vec<Loaded>, ManagerError>)>| {
            let mut names = Names::default();
            // To the end, whatever is found: whoever sends waits for somebody who takes.
            let mut wanted = true;
            while let Ok((at, pairs)) = next() {
                if !wanted {
                    continue;
                }
                let loaded = pairs.map_err(ManagerError::from).and_then(|pairs| {
                    let read =
                        pairs.iter().map(|(key, value)| Loaded::read(key, value, &mut names));
                    Ok(read.collect::<Result<Vec<Loaded>, LoadError>>()?)
                });
                wanted = out.send((at, loaded)).is_ok();
            }
        };
        let walk = |sender: SyncSender<(usize, Result<Pairs, fjall::Error>)>| {
            let mut pairs = self.state.iter().map(fjall::Guard::into_inner).peekable();
            for at in 0.. {
                let chunk = pairs.by_ref().take(LOAD_CHUNK).collect();
                if sender.send((at, chunk)).is_err() || pairs.peek().is_none() {
                    break;
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(move || walk(sender));
            for _ in 0..readers {
                let out = out.clone();
                scope.spawn(move || read(out));
            }
            drop(out);
            let mut assembly = Assembly::default();
            let (mut due, mut early) = (0, BTreeMap::new());
            for (at, loaded) in pieces {
                early.insert(at, loaded?);
                while let Some(loaded) = early.remove(&due) {
                    loaded.into_iter().for_each(|piece| assembly.add(piece));
                    due += 1;
                }
            }
            if !early.is_empty() {
                return Err(ManagerError::Bug("a reading thread ended"));
            }
            Ok(assembly.finish())
        })
    }
}
