//! What must always hold, each property with a checker of its own, and where the others are judged.
//!
//! The checkers are told what every process does, and fold the log themselves. They look after every step, and only
//! at what the step has touched.
//!
//! | id | what must hold | judged in |
//! |---|---|---|
//! | I-1 | all managers apply the same records in the same order | [`log`] |
//! | I-2 | an acknowledged command is in the log, once, for ever | [`log`] |
//! | I-3 | applying a record changes the same bytes everywhere; a store reads back as what was in memory | [`log`], [`end`] |
//! | I-4 | epochs never fall, begin with an election, and have one writer | [`log`] |
//! | I-5 | a worker is told only what was committed before, and its revision never falls | [`node`] |
//! | I-6 | a task has one node; an attempt has one container; one attempt runs at a time | [`decision`], [`node`] |
//! | I-7 | each record only moves tasks as the table of moves allows | [`decision`] |
//! | I-8 | no node promises more than it has, nor a port twice | [`decision`] |
//! | I-9 | no more live instances than wanted, each with one task, or two while it moves | [`decision`] |
//! | I-10 | of each instance of a fenced job one container runs at most, and its token is higher than any before | [`fence`] |
//! | I-11 | a worker that is cut off stops what should stop | elsewhere: no job can ask for it yet |
//! | I-12 | no node is lost while its heartbeats arrive at the leader | [`decision`] |
//! | I-13 | few nodes are lost at a time, and none while most are silent | [`decision`] |
//! | I-14 | the wait before a restart is at least what the policy says | [`node`] |
//! | I-15 | the same command id is granted once and always answered alike | [`log`] |
//! | I-16 | a worker that missed something notices | [`node`] |
//! | I-17 | reads never show what is not committed | elsewhere: `tests/manager` asks real managers |
//! | I-18 | a drain is complete when nothing runs there any more | [`node`] |
//! | I-19 | containers of others are never touched | [`node`] |
//! | I-20 | no container is stopped without a committed reason, however long nothing can be committed | [`node`] |
//! | I-21 | histories, askers and questions stay bounded | [`decision`], [`node`] |
//! | I-22 | whoever has applied what the log does not hold never leads; whoever has not is not refused | [`log`], here |
//! | I-23 | damage is detected | elsewhere: the stores' own tests |
//! | I-24 | the lease always ends by itself; that two hold it breaks nothing | [`node`], and the fault "lease doubled" |
//! | I-25, I-26, I-27 | rights, decoding, secrets | elsewhere: `tests/permissions`, `proto` |
//! | N-1 | of all managers that use one name, one takes part | here |
//! | I-28 | a task is placed on a node that takes tasks | [`decision`] |
//! | P-1 | a task is displaced only for one that waits and is more important by the gap that is set | [`groups`] |
//! | P-2 | tasks that are placed all at once are placed in one record, or none is | [`groups`] |
//! | P-3 | a task that moves goes on until its successor is up, and healthy where that is asked for | [`groups`] |
//! | P-4 | a leader goes back by itself from a version that was never up to one that was, and not back and forth | [`groups`] |
//! | H-1 | a task is called unhealthy only after as many bad answers in a row as its check says | [`node`] |
//! | I-29 | nothing is killed before its grace is over | [`node`] |
//! | V-1 | an event is published only once its record is committed | [`events`] |
//! | V-2 | the event stream holds all events up to its end, in order | [`events`] |
//! | V-3 | a manager's history holds every event from its first one on | [`events`] |
//! | E-1 | when faults stop, every job has what it wants or says why not, and nothing more is written | [`end`] |
//! | E-2 | the containers that run are the tasks that run | [`end`] |
//! | E-3 | when faults stop, somebody leads within 15 s | [`end`] |
//! | E-4 | when faults stop, nothing that fits waits | [`end`] |
//! | E-5 | when faults stop, the event stream holds every event of the log | [`events`] |

pub mod decision;
pub mod end;
pub mod events;
pub mod fence;
pub mod groups;
pub mod log;
pub mod node;
pub mod truth;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use longshore_core::cluster::Settings;
use longshore_core::cluster::record::{CommandAnswer, Hash, Record};
use longshore_core::cluster::state::Meta;
use longshore_core::leadership::mend::Head;
use longshore_proto::id::{BootId, CommandId, ManagerId, NodeId, Revision, TaskId};
use longshore_proto::node::{Assignment, TaskReport};
use longshore_proto::state::TaskState;

use crate::disk::ManagerContent;
use crate::jetstream::{Bytes, EventMessage};
use crate::manager::node_name;
use crate::time::{Micros, SECOND};
use crate::worker::Probed;
pub use truth::Truth;

/// Something that a process did, as the checkers are told of it.
#[derive(Debug, Clone)]
pub enum Note {
    /// A manager begins a reign: its election is decided.
    Elected {
        /// The manager's run.
        manager: ManagerId,
    },
    /// A manager takes a snapshot over.
    Joined {
        /// The manager's run.
        manager: ManagerId,
        /// What it is of.
        head: Head,
    },
    /// A manager begins to heal the log from its own store.
    Heals {
        /// Which manager.
        manager: usize,
    },
    /// A manager's election is committed, and it listens.
    Listens {
        /// The manager's run.
        manager: ManagerId,
    },
    /// A manager has decided a record.
    Proposed {
        /// The manager's run.
        manager: ManagerId,
        /// The record's index.
        index: u64,
        /// The record's hash.
        hash: Hash,
    },
    /// A manager has applied a record that it takes for committed.
    Applied {
        /// The manager's run.
        manager: ManagerId,
        /// The record's index.
        index: u64,
        /// The record's hash.
        chain: Hash,
        /// The hash of what it wrote.
        writes: Hash,
    },
    /// A sign of life of a node has reached a leader's machine.
    Heard {
        /// The manager's run.
        manager: ManagerId,
        /// Which node.
        node: usize,
        /// The machine, and the run of its worker.
        from: (NodeId, BootId),
        /// Whether it was a heartbeat; else a report.
        beats: bool,
        /// Whether it said that the worker leaves.
        leaves: bool,
    },
    /// A worker has started.
    WorkerStarted {
        /// Which worker.
        worker: usize,
        /// The revision that its store holds.
        revision: Revision,
    },
    /// A worker's brain has handled something.
    Revision {
        /// Which worker.
        worker: usize,
        /// The newest assignments that it has seen.
        revision: Revision,
    },
    /// A worker was told of assignments.
    Told {
        /// Which worker.
        worker: usize,
        /// Which.
        assignments: Vec<Assignment>,
    },
    /// A worker wants something reported.
    Reported {
        /// Which worker.
        worker: usize,
        /// What.
        report: TaskReport,
    },
    /// A worker is told how a task does that it has asked.
    Probed {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: u64,
        /// What it says.
        answer: Probed,
    },
    /// A worker was told that its reports are in the log.
    Delivered {
        /// Which worker.
        worker: usize,
        /// Tasks, attempts and states.
        told: Vec<(TaskId, u64, TaskState)>,
    },
    /// Another machine asks to join under a node's name.
    Claimed {
        /// The run of the manager that is asked.
        manager: ManagerId,
        /// Which node.
        node: usize,
        /// The machine.
        node_id: NodeId,
    },
    /// A worker has its runtime start a container.
    Starts {
        /// Which worker.
        worker: usize,
        /// For which task.
        task: TaskId,
    },
    /// A worker tells its operator, loudly.
    Alarm {
        /// Which worker.
        worker: usize,
        /// What.
        text: String,
    },
    /// A worker has lost its disk.
    DiskLost {
        /// Which worker.
        worker: usize,
    },
    /// A worker is to leave together with its tasks.
    Leaves {
        /// Which worker.
        worker: usize,
    },
    /// A container was created.
    Created {
        /// On which worker's machine.
        worker: usize,
        /// For which task.
        task: TaskId,
        /// For which attempt.
        attempt: u64,
    },
    /// A container has started.
    Started {
        /// On which worker's machine.
        worker: usize,
        /// For which task.
        task: TaskId,
        /// For which attempt.
        attempt: u64,
        /// Its fencing token, of a fenced job.
        token: Option<u64>,
    },
    /// The start of a container was said to have failed.
    Disowned {
        /// For which task.
        task: TaskId,
        /// For which attempt.
        attempt: u64,
    },
    /// A container was asked to end.
    AskedToEnd {
        /// On which worker's machine.
        worker: usize,
        /// For which task.
        task: TaskId,
        /// For which attempt.
        attempt: u64,
        /// Its start was said to have failed.
        disowned: bool,
    },
    /// A container has ended.
    Ended {
        /// On which worker's machine.
        worker: usize,
        /// For which task.
        task: TaskId,
        /// For which attempt.
        attempt: u64,
        /// Its start was said to have failed.
        disowned: bool,
    },
    /// A container is gone.
    Destroyed {
        /// On which worker's machine.
        worker: usize,
        /// For which task.
        task: TaskId,
        /// For which attempt.
        attempt: u64,
    },
    /// A container was killed that did not end by itself.
    Killed {
        /// On which worker's machine.
        worker: usize,
        /// For which task.
        task: Option<TaskId>,
        /// How long it was given.
        waited_ms: u64,
        /// How long its job gives it.
        grace_ms: u64,
    },
    /// A container of somebody else was stopped or removed.
    TouchedStranger {
        /// On which worker's machine.
        worker: usize,
        /// Which.
        container: String,
    },
}

/// A property that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which property.
    pub id: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.what)
    }
}

/// Says that a property does not hold.
pub(crate) fn violated<T>(id: &'static str, what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { id, what: what.into() })
}

/// How soon a manager must notice that the log is not the one that it has applied, once it no longer doubts that.
const NOTICED_AFTER_DOUBT: Micros = 3 * SECOND;

/// For how long two managers may take part under one name: one that slept while the other came notices at its next
/// word, of which some in a row may be lost.
const SHARED_AT_MOST: Micros = 12 * SECOND;

/// All checkers.
#[derive(Debug)]
pub struct Checks {
    /// What they know in common.
    pub truth: Truth,
    log: log::Log,
    decision: decision::Decision,
    groups: groups::Groups,
    fence: fence::Fence,
    node: node::Node,
    events: events::Events,
    /// When the log last lost something, if it ever did.
    cut_at: Option<Micros>,
    /// Whether something was lost that was acknowledged: what rested on that cannot be judged any more.
    is_lossy: bool,
    /// How soon a manager must notice that the log is not the one that it has applied.
    noticed_within: Micros,
    /// Managers that have appended what does not follow, and when: they must notice.
    strays: BTreeMap<ManagerId, Micros>,
    /// Runs of workers that have told a run of a manager that they leave.
    leaving: BTreeSet<(ManagerId, BootId)>,
    /// Since when two take part under one name.
    shared: BTreeMap<String, Micros>,
}

impl Checks {
    /// For a run that has not begun.
    pub fn new(settings: &Settings, doubt: Micros) -> Self {
        Self {
            truth: Truth::default(),
            log: log::Log::default(),
            decision: decision::Decision::new(settings),
            groups: groups::Groups::new(settings),
            fence: fence::Fence::default(),
            node: node::Node::default(),
            events: events::Events::default(),
            cut_at: None,
            is_lossy: false,
            noticed_within: doubt + NOTICED_AFTER_DOUBT,
            strays: BTreeMap::new(),
            leaving: BTreeSet::new(),
            shared: BTreeMap::new(),
        }
    }

    /// Whether something was lost that was acknowledged.
    pub fn is_lossy(&self) -> bool {
        self.is_lossy
    }

    /// I-22: a manager has ended because the log contradicts its store, which it does only where something was lost.
    pub fn refused(&self, manager: usize) -> Result<(), Violation> {
        match self.cut_at {
            Some(_) => Ok(()),
            None => violated("I-22", format!("m{manager} refuses a log that has lost nothing")),
        }
    }

    /// What leaders have decided of tasks that stand together, as often as they did.
    pub fn seen(&self) -> groups::Seen {
        self.groups.seen()
    }

    /// How often a fenced task was replaced on an operator's word.
    pub fn fenced_replaced(&self) -> u64 {
        self.fence.replaced()
    }

    /// The log has taken a message.
    pub fn appended(
        &mut self,
        payload: &Bytes,
        sequence: u64,
        now: Micros,
    ) -> Result<(), Violation> {
        let Ok(record) = Record::decode(payload) else {
            return violated("I-22", format!("message {sequence} is no record"));
        };
        let chain = Hash::of(payload);
        if let Err(violation) = log::valid(&self.truth, &record) {
            if self.cut_at.is_none() {
                return Err(violation);
            }
            if self.truth.stands_before(&record) {
                // Somebody leads over what is left of the log: what was lost stays lost.
                self.rebuild(record.previous)?;
                self.is_lossy = true;
            }
        }
        if !self.truth.stands_before(&record) || log::valid(&self.truth, &record).is_err() {
            if self.cut_at.is_none() {
                return violated(
                    "I-22",
                    format!("record {} does not follow the log", record.index),
                );
            }
            self.strays.entry(record.manager).or_insert(now);
            // It is skipped, by all who have noticed what the log has lost.
            self.truth.strayed(payload, sequence);
            return Ok(());
        }
        self.log.epochs(&record)?;
        self.decision.begin(&self.truth, chain, now);
        self.groups.begin();
        let truth = &mut self.truth;
        let revision = truth.state.next_revision(record.epoch);
        let mut changes = Default::default();
        for fact in &record.facts {
            self.log.fact(fact, record.index)?;
            self.decision.fact(&truth.state, fact, &record)?;
            self.groups.fact(&truth.state, fact)?;
            self.fence.fact(&truth.state, fact);
            self.node.fact(fact, revision, self.is_lossy)?;
            truth.state.apply(fact, revision, record.at_ms, &mut changes);
        }
        let events = truth.sealed(&record, payload, sequence, &mut changes)?;
        self.events.committed(&truth.state.meta, events);
        self.groups.end(&truth.state)?;
        self.decision.end(&truth.state, &changes)
    }

    /// The log has lost everything behind a sequence.
    pub fn cut(&mut self, last: u64, now: Micros) {
        self.cut_at = Some(now);
        self.truth.cut(last);
    }

    /// The event stream has stored an event.
    pub fn event_stored(&mut self, message: &EventMessage) -> Result<(), Violation> {
        if self.cut_at.is_none() {
            return self.events.stored(message);
        }
        // What was published a moment before the log lost it is for I-22 to judge.
        self.events.has_stored(&message.id, &message.place);
        Ok(())
    }

    /// The event stream has lost its newest events: it holds these.
    pub fn events_lost<'a>(&mut self, left: impl Iterator<Item = &'a str>) {
        self.events.lost(left);
    }

    /// E-5: everything is published.
    pub fn published(&self) -> Result<(), Violation> {
        if self.is_lossy { Ok(()) } else { self.events.published() }
    }

    /// The run is over: what a manager's history must hold is there.
    pub fn history(&self, number: usize, content: &ManagerContent) -> Result<(), Violation> {
        if self.is_lossy { Ok(()) } else { self.events.kept(number, content) }
    }

    /// A manager has healed the log with what its store holds: a snapshot to go on from lies in the bucket. `may_lose`
    /// says whether what others knew may be lost, `left` what still stands in the log behind its end as it was told.
    pub fn healed(
        &mut self,
        meta: &Meta,
        may_lose: bool,
        left: impl Iterator<Item = u64>,
    ) -> Result<(), Violation> {
        if self.truth.goes_on_from(meta) {
            // The snapshot has come late: it was healed already.
            return Ok(());
        }
        if meta.chain != self.truth.state.meta.chain {
            self.is_lossy |= may_lose;
            self.rebuild(meta.chain)?;
        }
        self.truth.healed(meta)?;
        // A server that knew too little has told the end. Whoever healed it does so again; or it dies, and these are read.
        left.for_each(|sequence| self.truth.skipped(sequence));
        if self.is_lossy { Ok(()) } else { self.log.still_granted() }
    }

    /// Goes back to another past: that of the record with this hash.
    fn rebuild(&mut self, tip: Hash) -> Result<(), Violation> {
        let records = self.truth.past(tip)?;
        let (skipped, sequence) = self.truth.standing();
        self.truth.forget();
        self.log.forget();
        self.events.forget();
        for (payload, sequence) in records {
            let Ok(record) = Record::decode(&payload) else { continue };
            self.log.epochs(&record)?;
            let revision = self.truth.state.next_revision(record.epoch);
            let mut changes = Default::default();
            for fact in &record.facts {
                self.log.fact(fact, record.index)?;
                self.truth.state.apply(fact, revision, record.at_ms, &mut changes);
            }
            let events = self.truth.sealed(&record, &payload, sequence, &mut changes)?;
            self.events.committed(&self.truth.state.meta, events);
        }
        self.truth.resume(skipped, sequence);
        Ok(())
    }

    /// A process did something.
    pub fn note(&mut self, note: &Note, now: Micros) -> Result<(), Violation> {
        match note {
            Note::Proposed { hash, .. } => {
                self.truth.proposed(*hash, now);
            }
            // What was acknowledged a moment before the log lost it is for I-22 to judge.
            Note::Applied { manager, index, chain, .. } if self.cut_at.is_some() => {
                self.log.has_applied(*manager, *index, *chain);
            }
            Note::Applied { manager, index, chain, writes } => {
                self.log.applied(&self.truth, *manager, *index, *chain, *writes)?;
            }
            Note::Elected { manager } => {
                // Its first record may have been lost a moment after it was acknowledged.
                if self.cut_at.is_none_or(|at| now - at > self.noticed_within) {
                    self.log.leads(&self.truth, *manager)?;
                }
            }
            Note::Listens { manager } => self.decision.elected(*manager, now),
            Note::Heard { manager, node, from, beats, leaves } => {
                if *leaves {
                    self.leaving.insert((*manager, from.1));
                }
                // What was said before the worker's word that it leaves is no sign of life after that word.
                let is_older = *beats && !leaves && self.leaving.contains(&(*manager, from.1));
                // A stranger's, or another run's, is no sign of life of the node that is known.
                let known = self.truth.state.nodes.get(&node_name(*node)).filter(|_| !is_older);
                if known.is_some_and(|known| (known.facts.id, known.facts.boot) == *from) {
                    self.decision.heard((*manager, *node), *beats, now);
                }
            }
            Note::Claimed { manager, node, node_id } => {
                self.decision.claimed(&self.truth.state, (*manager, *node), *node_id, now);
            }
            Note::Joined { manager, head } => {
                self.log.joined(&self.truth, *manager, head)?;
            }
            Note::Heals { .. } | Note::Alarm { .. } => {}
            // What rests on a decision that was lost may be decided anew, and otherwise.
            Note::Told { .. }
            | Note::AskedToEnd { .. }
            | Note::Delivered { .. }
            | Note::Created { .. }
            | Note::Started { .. }
                if self.is_lossy => {}
            other => {
                self.node.note(&self.truth, other, now)?;
                self.fence.note(&self.truth, other)?;
            }
        }
        Ok(())
    }

    /// A client was answered.
    pub fn answered(
        &mut self,
        id: CommandId,
        answer: Option<&CommandAnswer>,
    ) -> Result<(), Violation> {
        if self.is_lossy { Ok(()) } else { self.log.answered(&self.truth, id, answer) }
    }

    /// A second has passed; what only time can break is looked at.
    pub fn tick(&mut self, look: &node::Look, now: Micros) -> Result<(), Violation> {
        for (manager, since) in &mut self.strays {
            // Whoever hears nothing of the log cannot notice anything.
            if !look.leaders.contains(manager) {
                *since = now;
            } else if now - *since > self.noticed_within {
                return violated(
                    "I-22",
                    format!("manager {manager} leads on over a log that it does not follow"),
                );
            }
        }
        self.shared.retain(|name, _| look.shared_names.contains(name));
        for name in &look.shared_names {
            if now - *self.shared.entry(name.clone()).or_insert(now) > SHARED_AT_MOST {
                return violated("N-1", format!("two managers take part as {name}"));
            }
        }
        self.node.tick(look, now)
    }

    /// The run is over: what was acknowledged must still be there.
    pub fn finish(&self) -> Result<(), Violation> {
        if self.is_lossy { Ok(()) } else { self.log.finish(&self.truth) }
    }
}
