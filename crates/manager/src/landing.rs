//! Records that stand in the log, on their way to this manager's own disk.
//!
//! While one is written and synced, the next is decided and appended; whatever has been appended meanwhile is written at
//! once, with one sync. Nothing that follows from a record leaves before the record is on the disk, and never before
//! what follows from the records in front of it.
//!
//! A reign that ends drops what is here. It stands in the log, unless the log is broken: the next follower of the log
//! reads it there, and whoever waits for an answer asks again with the same id.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use longshore_core::cluster::{Effect, Proposal, Receipt};
use longshore_proto::event::Event;

use crate::error::ManagerError;
use crate::store::{Batch, Store};

/// The most records that are here, the ones that are being written among them. More would only split what arrives into
/// smaller records: what waits for the disk can wait undecided as well, and becomes one record then.
const RECORDS_MAX: usize = 2;

/// Records on their way to the disk, in order.
pub struct Landing {
    store: Arc<Store>,
    /// The write under way, and its records.
    writing: Option<(Writing, VecDeque<Flight>)>,
    /// What is written next, and its records.
    next: Batch,
    waiting: VecDeque<Flight>,
}

/// Ends when what is written is synced.
type Writing = BoxFuture<'static, Result<(), ManagerError>>;

/// A record that is in the log, and what may leave once it is on the disk.
#[derive(Debug)]
struct Flight {
    proposal: Proposal,
    /// What was decided without a record while this one was the last: it rests on this one.
    after: Vec<Effect>,
}

/// A record that is in the log and on the disk.
#[derive(Debug)]
pub struct Landed(Flight);

impl std::fmt::Debug for Landing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Landing").field("records", &self.records()).finish_non_exhaustive()
    }
}

impl Landing {
    /// Nothing on its way to a store.
    pub fn new(store: &Arc<Store>) -> Self {
        Self {
            store: Arc::clone(store),
            writing: None,
            next: Batch::default(),
            waiting: VecDeque::new(),
        }
    }

    fn records(&self) -> usize {
        self.waiting.len() + self.writing.as_ref().map_or(0, |(_, flights)| flights.len())
    }

    /// Whether everything that was appended is on the disk.
    pub fn is_empty(&self) -> bool {
        self.records() == 0
    }

    /// Whether no other record should be decided before one has landed.
    pub fn is_full(&self) -> bool {
        self.records() >= RECORDS_MAX
    }

    /// Takes a record that was appended, and what is to be stored of it.
    pub fn take(&mut self, proposal: Proposal, batch: Batch) {
        self.next.extend(batch);
        self.waiting.push_back(Flight { proposal, after: Vec::new() });
        self.write();
    }

    /// Takes what was decided without a record. Gives it back when everything that it rests on has landed.
    pub fn hold(&mut self, effects: Vec<Effect>) -> Option<Vec<Effect>> {
        let writing = self.writing.as_mut().map(|(_, flights)| flights);
        let last = self.waiting.back_mut().or_else(|| writing.and_then(VecDeque::back_mut));
        match last {
            Some(last) => {
                last.after.extend(effects);
                None
            }
            None => Some(effects),
        }
    }

    /// Waits for the write under way, for ever where there is none. Whoever does not wait to the end loses nothing.
    ///
    /// # Errors
    /// The disk has failed. What was under way stays unknown, and nothing of it leaves.
    pub async fn landed(&mut self) -> Result<Vec<Landed>, ManagerError> {
        let Some((written, flights)) = &mut self.writing else {
            return std::future::pending().await;
        };
        let written = written.await;
        let flights = std::mem::take(flights);
        self.writing = None;
        written?;
        self.write();
        Ok(flights.into_iter().map(Landed).collect())
    }

    /// Begins to write what waits, where nothing is being written.
    fn write(&mut self) {
        if self.writing.is_some() || self.waiting.is_empty() {
            return;
        }
        let (store, batch) = (Arc::clone(&self.store), std::mem::take(&mut self.next));
        let mut written = async move { store.write(batch).await }.boxed();
        // Begun at once: the next record may be long in the making.
        let written = match (&mut written).now_or_never() {
            Some(written) => std::future::ready(written).boxed(),
            None => written,
        };
        self.writing = Some((written, std::mem::take(&mut self.waiting)));
    }
}

impl Landed {
    /// Its place in the log.
    pub fn index(&self) -> u64 {
        self.0.proposal.index()
    }

    /// Its events.
    pub fn events(&self) -> &[Event] {
        self.0.proposal.events()
    }

    /// What may be done now.
    ///
    /// # Errors
    /// A bug.
    pub fn release(self) -> Result<Vec<Effect>, ManagerError> {
        let Flight { proposal, after } = self.0;
        let receipt = Receipt::durable(proposal.index());
        let released = proposal.release(&receipt);
        let mut effects =
            released.map_err(|_| ManagerError::Bug("a receipt for another record"))?;
        effects.extend(after);
        Ok(effects)
    }
}

#[cfg(test)]
mod tests {
    use longshore_core::cluster::persist::Write;
    use longshore_core::cluster::record::Record;
    use longshore_core::cluster::{
        Cluster, Identity, Input, Queue, Reply, Settings, State, Step, Ticket,
    };
    use longshore_core::time::{Now, Time};
    use longshore_proto::id::{BootId, ClusterId, ManagerId, NodeId};
    use longshore_proto::node::Register;
    use longshore_proto::spec::Resources;
    use uuid::Uuid;

    use super::*;

    /// A leader without a bus: what it decides is appended at once.
    struct Leader {
        cluster: Cluster,
        landing: Landing,
        store: Arc<Store>,
        log: Vec<Vec<u8>>,
        _folder: tempfile::TempDir,
    }

    impl Leader {
        /// Its first record has landed.
        async fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(folder.path()).unwrap());
            let identity = Identity {
                manager: ManagerId(Uuid::from_u128(1)),
                name: "m1".parse().unwrap(),
                version: "test".into(),
            };
            let cluster = Cluster::new(identity, Settings::default(), State::default());
            let landing = Landing::new(&store);
            let mut leader = Self { cluster, landing, store, log: Vec::new(), _folder: folder };
            let now = leader.now();
            let step = leader.cluster.begin_reign(ClusterId(Uuid::from_u128(2)), now, [1; 16]);
            leader.append(step, None);
            assert_eq!(leader.landed().await, [(1, vec![])]);
            leader
        }

        fn now(&self) -> Now {
            let turn = self.log.len() as u64 + 1;
            Now { time: Time(turn), wall_ms: 1_700_000_000_000 + turn }
        }

        /// A node joins: the next record is in the log, and given to the disk.
        fn join(&mut self, number: u64) {
            self.join_with(number, None);
        }

        fn join_with(&mut self, number: u64, poison: Option<Write>) {
            let register = Register {
                node_id: NodeId(Uuid::from_u128(u128::from(number))),
                boot_id: BootId(Uuid::from_u128(9)),
                cluster_id: None,
                datacenter: "dc1".parse().unwrap(),
                labels: Default::default(),
                attributes: Default::default(),
                capacity: Resources { cpu_millis: 1_000, memory_bytes: 1 << 30, disk_bytes: 0 },
                tasks_max: 10,
                mount_paths: vec![],
                version: "test".into(),
            };
            let (ticket, node) = (Ticket(number), format!("n{number}").parse().unwrap());
            let register = Box::new(register);
            let mut queue = Queue::from_iter([Input::Register { ticket, node, register }]);
            let step = self.cluster.propose(&mut queue, self.now(), [2; 16]);
            self.append(step, poison);
        }

        fn append(&mut self, step: Step, poison: Option<Write>) {
            let Step::Record(proposal) = step else { panic!("no record") };
            self.log.push(proposal.bytes().to_vec());
            self.cluster.appended(proposal.index());
            let mut batch = Batch::default();
            let writes = proposal.writes(self.cluster.state());
            batch.record(proposal.index(), proposal.bytes().to_vec(), writes, proposal.events());
            poison.into_iter().for_each(|write| batch.write(write));
            self.landing.take(*proposal, batch);
        }

        /// The next records that land, and who is answered by each.
        async fn landed(&mut self) -> Vec<(u64, Vec<u64>)> {
            let landed = self.landing.landed().await.unwrap();
            let stored = self.store.load_meta().unwrap().index;
            assert!(landed.iter().all(|landed| landed.index() <= stored), "before it is stored");
            let mut all = Vec::new();
            for landed in landed {
                let (index, effects) = (landed.index(), landed.release().unwrap());
                all.push((index, effects.iter().filter_map(answered).collect()));
            }
            all
        }
    }

    fn answered(effect: &Effect) -> Option<u64> {
        match effect {
            Effect::Answer { ticket, .. } => Some(ticket.0),
            Effect::Assign { .. } => None,
        }
    }

    fn answer(number: u64) -> Effect {
        Effect::Answer { ticket: Ticket(number), reply: Reply::Barrier }
    }

    #[tokio::test]
    async fn records_land_in_order_and_what_rests_on_them_leaves_with_them() {
        let mut leader = Leader::start().await;
        assert_eq!(leader.landing.hold(vec![answer(50)]), Some(vec![answer(50)]));
        leader.join(2);
        assert!(!leader.landing.is_full(), "another record may be decided meanwhile");
        assert_eq!(leader.landing.hold(vec![answer(51)]), None);
        leader.join(3);
        assert!(leader.landing.is_full(), "and not a third");
        assert_eq!(leader.landing.hold(vec![answer(52)]), None);
        assert_eq!(leader.landed().await, [(2, vec![2, 51])]);
        assert!(!leader.landing.is_empty());
        assert_eq!(leader.landed().await, [(3, vec![3, 52])]);
        assert!(leader.landing.is_empty());
        assert_eq!(leader.store.load().unwrap().dump(), leader.cluster.state().dump());
    }

    #[tokio::test]
    async fn what_was_appended_while_the_disk_was_busy_is_written_at_once() {
        let mut leader = Leader::start().await;
        for number in 2..=5 {
            leader.join(number);
        }
        assert_eq!(leader.landed().await, [(2, vec![2])]);
        assert_eq!(leader.landed().await, [(3, vec![3]), (4, vec![4]), (5, vec![5])]);
        assert_eq!(leader.store.load().unwrap().dump(), leader.cluster.state().dump());
        for (bytes, index) in leader.log.iter().zip(1..) {
            assert!(leader.store.holds(index, bytes).unwrap(), "record {index}");
        }
    }

    #[tokio::test]
    async fn whoever_does_not_wait_to_the_end_loses_nothing() {
        let mut leader = Leader::start().await;
        let busy = leader.store.busy().await;
        leader.join(2);
        leader.join(3);
        assert!(leader.landing.landed().now_or_never().is_none(), "the disk takes a while");
        drop(busy);
        assert_eq!(leader.landed().await, [(2, vec![2])]);
        assert_eq!(leader.landed().await, [(3, vec![3])]);
        assert!(leader.landing.landed().now_or_never().is_none(), "nothing is on its way");
    }

    #[tokio::test]
    async fn a_reign_that_ends_leaves_whole_records_and_the_rest_is_followed_in_the_log() {
        let mut leader = Leader::start().await;
        leader.join(2);
        leader.join(3);
        let Leader { cluster, landing, store, log, .. } = leader;
        drop(landing);
        store.settled().await;
        let mut stored = store.load().unwrap();
        assert_eq!(stored.meta.index, 2, "what was being written, and no more");
        stored.follow(&Record::decode(&log[2]).unwrap(), &log[2], 3).unwrap();
        assert_eq!(stored.dump(), cluster.state().dump());
    }

    #[tokio::test]
    async fn nothing_leaves_of_a_record_that_the_disk_did_not_take_nor_of_those_behind_it() {
        let mut leader = Leader::start().await;
        // The store's thread ends over a key that is too long.
        let poison = Write { key: vec![b'x'; 1 << 17], value: Some(vec![]) };
        leader.join_with(2, Some(poison));
        leader.join(3);
        leader.landing.landed().await.unwrap_err();
        assert_eq!(leader.landing.hold(vec![answer(50)]), None, "it rests on what is not stored");
        assert!(leader.landing.landed().now_or_never().is_none());
        leader.store.settled().await;
        assert_eq!(leader.store.load_meta().unwrap().index, 1);
    }
}
