//! Disks that forget what was not synced.
//!
//! Both stores of Longshore write whole batches and wait for the sync, and their journals drop a batch that was
//! torn. So a disk is what is durable and the batches whose sync has not returned; a crash keeps a beginning of
//! those, whole batches only.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use longshore_core::agent::{Saved, Write as AgentWrite};
use longshore_core::cluster::persist::{Write as StateWrite, write_meta};
use longshore_core::cluster::record::Hash;
use longshore_core::cluster::state::Meta;
use longshore_core::leadership::mend::{Head, LINKS};
use longshore_core::leadership::publish::Place;
use longshore_proto::event::Event;
use longshore_proto::id::ClusterId;
use uuid::Uuid;

use crate::jetstream::{Bytes, Snapshot};

/// What a disk holds, and how a batch changes it.
pub trait Content: Default {
    /// What is written at once.
    type Batch;
    /// Writes a batch.
    fn write(&mut self, batch: Self::Batch);
}

/// A disk.
#[derive(Debug, Default)]
pub struct Disk<C: Content> {
    durable: C,
    pending: VecDeque<C::Batch>,
    /// Whether it takes nothing more.
    pub is_full: bool,
}

impl<C: Content> Disk<C> {
    /// A disk with something on it.
    pub fn with(content: C) -> Self {
        Self { durable: content, pending: VecDeque::new(), is_full: false }
    }

    /// What survives whatever happens.
    pub fn content(&self) -> &C {
        &self.durable
    }

    /// Writes something small, and waits for it: nothing else goes on meanwhile.
    pub fn note(&mut self, change: impl FnOnce(&mut C)) {
        change(&mut self.durable);
    }

    /// Begins to write a batch. False when the disk is full.
    pub fn begin(&mut self, batch: C::Batch) -> bool {
        if self.is_full {
            return false;
        }
        self.pending.push_back(batch);
        true
    }

    /// Whether the sync of a batch has not returned.
    pub fn is_writing(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The sync of the oldest batch returns.
    pub fn synced(&mut self) {
        if let Some(batch) = self.pending.pop_front() {
            self.durable.write(batch);
        }
    }

    /// The process or its machine dies: of the batches whose sync had not returned, the first `kept` survive.
    /// Gives how many there were.
    pub fn crash(&mut self, kept: usize) -> usize {
        let pending = self.pending.len();
        for _ in 0..kept {
            self.synced();
        }
        self.pending.clear();
        pending
    }
}

/// A manager's store.
#[derive(Debug, Default)]
pub struct ManagerContent {
    /// The state by key.
    pub state: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Records by index.
    pub journal: BTreeMap<u64, Bytes>,
    /// Events by place.
    pub history: BTreeMap<Place, Rc<Event>>,
    /// When the log's stream was created, as first seen.
    pub log_created: Option<String>,
    /// Whether it has belonged to a cluster, and what it held was damaged.
    pub must_join: bool,
    /// Whether its manager ever was about to have the log list another one.
    pub has_company: bool,
    /// The store's own id.
    pub id: Uuid,
}

impl ManagerContent {
    /// The state as a file for others, with what shows that it continues what they hold.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_with(&self.meta(), self.log_created.clone())
    }

    /// The same as it is once the log goes on elsewhere, with what stands once in it then.
    pub fn moved_snapshot(&self, meta: &Meta, log_created: &str) -> Snapshot {
        let mut snapshot = self.snapshot_with(meta, Some(log_created.to_owned()));
        let StateWrite { key, value } = write_meta(meta);
        snapshot.state.insert(key, value.unwrap_or_default());
        snapshot
    }

    fn snapshot_with(&self, meta: &Meta, log_created: Option<String>) -> Snapshot {
        let from = meta.index.saturating_sub(LINKS);
        let links = self.journal.range(from..=meta.index);
        let head = Head {
            cluster: meta.cluster.unwrap_or(ClusterId(Uuid::nil())),
            index: meta.index,
            chain: meta.chain,
            epoch: meta.epoch,
            at_ms: meta.at_ms,
            stream_sequence: meta.stream_sequence,
            log_created,
            links: links.map(|(index, record)| (*index, Hash::of(record))).collect(),
            version: String::new(),
        };
        Snapshot { head, state: self.state.clone(), history: self.history.clone() }
    }
}

/// A batch for a manager's store.
#[derive(Debug)]
pub enum ManagerBatch {
    /// What records changed, and the records.
    Records {
        /// The state's changes.
        writes: Vec<StateWrite>,
        /// The records by index.
        records: Vec<(u64, Bytes)>,
        /// Their events.
        events: Vec<Event>,
    },
    /// The log's identity.
    LogCreated(String),
    /// A snapshot is about to replace the state, which is cleared.
    InstallBegins,
    /// The snapshot's state.
    Install(Rc<Snapshot>),
}

impl Content for ManagerContent {
    type Batch = ManagerBatch;
    fn write(&mut self, batch: ManagerBatch) {
        match batch {
            ManagerBatch::Records { writes, records, events } => {
                for StateWrite { key, value } in writes {
                    match value {
                        Some(value) => drop(self.state.insert(key, value)),
                        None => drop(self.state.remove(&key)),
                    }
                }
                self.journal.extend(records);
                let place = |event: &Event| (event.index, event.ordinal);
                self.history
                    .extend(events.into_iter().map(|event| (place(&event), Rc::new(event))));
            }
            ManagerBatch::LogCreated(created) => self.log_created = Some(created),
            ManagerBatch::InstallBegins => self.state.clear(),
            ManagerBatch::Install(snapshot) => {
                self.state.clone_from(&snapshot.state);
                let events = snapshot.history.iter();
                self.history.extend(events.map(|(place, event)| (*place, Rc::clone(event))));
                self.must_join = false;
            }
        }
    }
}

/// A worker's store.
#[derive(Debug, Default)]
pub struct WorkerContent {
    /// What the brain is restored from.
    pub saved: Saved,
    /// The node's id.
    pub node_id: Uuid,
}

impl Content for WorkerContent {
    type Batch = Vec<AgentWrite>;
    fn write(&mut self, batch: Vec<AgentWrite>) {
        let saved = &mut self.saved;
        for write in batch {
            match write {
                AgentWrite::Cluster(cluster) => saved.cluster_id = Some(cluster),
                AgentWrite::Revision(revision) => saved.revision = revision,
                AgentWrite::Task(record) => {
                    match saved.tasks.binary_search_by_key(&record.task, |known| known.task) {
                        Ok(at) => saved.tasks[at] = record,
                        Err(at) => saved.tasks.insert(at, record),
                    }
                }
                AgentWrite::TaskForgotten(id) => saved.tasks.retain(|record| record.task != id),
                AgentWrite::Tombstone(tombstone) => {
                    saved.tombstones.retain(|known| known.task != tombstone.task);
                    saved.tombstones.push(tombstone);
                }
                AgentWrite::TombstoneDropped(id) => {
                    saved.tombstones.retain(|known| known.task != id);
                }
                AgentWrite::Report { sequence, report } => saved.reports.push((sequence, report)),
                AgentWrite::ReportDropped(place) => {
                    saved.reports.retain(|(sequence, _)| *sequence != place);
                }
                AgentWrite::Kept(kept) => saved.kept.push(kept),
                AgentWrite::KeptDropped(place) => {
                    saved.kept.retain(|kept| kept.sequence != place);
                }
                AgentWrite::Stock(record) => {
                    saved.stock.retain(|known| known.item != record.item);
                    saved.stock.push(record);
                }
                AgentWrite::StockDropped(item) => saved.stock.retain(|known| known.item != item),
            }
        }
    }
}
