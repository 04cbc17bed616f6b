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
//! | I-8 | no node promises more than it has | [`decision`] |
//! | I-9 | no more live tasks than wanted | [`decision`] |
//! | I-10 | one at most, for fenced jobs | elsewhere: fenced singletons are judged by their own tests |
//! | I-11 | a worker that is cut off stops what should stop | elsewhere: no job can ask for it yet |
//! | I-12 | no node is lost while its heartbeats arrive at the leader | [`decision`] |
//! | I-13 | few nodes are lost at a time, and none while most are silent | [`decision`] |
//! | I-14 | the wait before a restart is at least what the policy says | [`node`] |
//! | I-15 | the same command id is granted once and always answered alike | [`log`] |
//! | I-16 | a worker that missed something notices | [`node`] |
//! | I-17 | reads never show what is not committed | elsewhere: `tests/manager` asks real managers |
//! | I-18 | a drain is complete when nothing runs any more | elsewhere: decision tests |
//! | I-19 | containers of others are never touched | [`node`] |
//! | I-20 | no container is stopped without a committed reason, however long nothing can be committed | [`node`] |
//! | I-21 | histories, askers and questions stay bounded | [`decision`], [`node`] |
//! | I-22 | whoever has applied what the log does not hold never leads | [`log`] |
//! | I-23 | damage is detected | elsewhere: the stores' own tests |
//! | I-24 | the lease always ends by itself; that two hold it breaks nothing | [`node`], and the fault "lease doubled" |
//! | I-25, I-26, I-27 | rights, decoding, secrets | elsewhere: `tests/permissions`, `proto` |
//! | I-28 | a task is placed on a node that takes tasks | [`decision`] |
//! | I-29 | nothing is killed before its grace is over | [`node`] |
//! | E-1 | when faults stop, every job has what it wants or says why not, and nothing more is written | [`end`] |
//! | E-2 | the containers that run are the tasks that run | [`end`] |
//! | E-3 | when faults stop, somebody leads within 15 s | [`end`] |
//! | E-4 | when faults stop, nothing that fits waits | [`end`] |

pub mod decision;
pub mod end;
pub mod log;
pub mod node;

use std::collections::BTreeMap;
use std::fmt;

use longshore_core::cluster::record::{CommandAnswer, Hash, Record};
use longshore_core::cluster::state::State;
use longshore_core::cluster::{Cluster, Identity, Settings};
use longshore_proto::id::{BootId, CommandId, ManagerId, NodeId, Revision, TaskId};
use longshore_proto::node::{Assignment, TaskReport};
use longshore_proto::state::TaskState;

use crate::jetstream::Bytes;
use crate::manager::node_name;
use crate::time::{Micros, SECOND};

/// Something that a process did, as the checkers are told of it.
#[derive(Debug, Clone)]
pub enum Note {
    /// A manager begins a reign: its election is decided.
    Elected {
        /// The manager's run.
        manager: ManagerId,
    },
    /// A manager's election is committed, and it listens.
    Listens {
        /// Which manager.
        manager: usize,
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

/// What the checkers know in common: the log, folded once more.
#[derive(Debug)]
pub struct Truth {
    /// The state after the last record, before the fact that is being looked at.
    pub state: State,
    /// Each record's hash, by index.
    pub chains: BTreeMap<u64, Hash>,
    /// The hash of what each record writes, by index.
    pub writes: BTreeMap<u64, Hash>,
    /// When each record was decided, by its hash.
    pub decided: BTreeMap<[u8; 8], Micros>,
    follower: Cluster,
}

impl Truth {
    fn new() -> Self {
        Self {
            state: State::default(),
            chains: BTreeMap::new(),
            writes: BTreeMap::new(),
            decided: BTreeMap::new(),
            follower: follower(),
        }
    }

    /// When a record was decided.
    pub fn decided_at(&self, chain: Hash, now: Micros) -> Micros {
        self.decided.get(&short(chain)).copied().unwrap_or(now)
    }
}

fn short(hash: Hash) -> [u8; 8] {
    let text = hash.to_string();
    let mut short = [0; 8];
    short.copy_from_slice(&text.as_bytes()[..8]);
    short
}

fn follower() -> Cluster {
    let identity = Identity {
        manager: ManagerId(uuid::Uuid::nil()),
        #[expect(clippy::expect_used, reason = "a word is a legal name")]
        name: "truth".parse().expect("a legal name"),
        version: String::new(),
    };
    Cluster::new(identity, Settings::default(), State::default())
}

/// All checkers.
#[derive(Debug)]
pub struct Checks {
    /// What they know in common.
    pub truth: Truth,
    log: log::Log,
    decision: decision::Decision,
    node: node::Node,
    /// Whether the log has lost its tail: what rested on that cannot be judged any more.
    is_cut: bool,
    /// When it last did.
    cut_at: Micros,
    /// Managers that have appended what does not follow, and when: they must notice.
    strays: BTreeMap<ManagerId, Micros>,
}

/// How soon a manager must notice that the log is not the one that it has applied.
const NOTICED_WITHIN: Micros = 5 * SECOND;

impl Checks {
    /// For a run that has not begun.
    pub fn new(settings: &Settings) -> Self {
        Self {
            truth: Truth::new(),
            log: log::Log::default(),
            decision: decision::Decision::new(settings),
            node: node::Node::default(),
            is_cut: false,
            cut_at: 0,
            strays: BTreeMap::new(),
        }
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
            if !self.is_cut {
                return Err(violation);
            }
            self.strays.entry(record.manager).or_insert(now);
            self.truth.state.meta.stream_sequence = sequence;
            self.truth.state.meta.records_skipped += 1;
            // It is skipped, by all alike.
            drop(self.truth.follower.follow(&record, payload, sequence));
            return Ok(());
        }
        self.log.epochs(&record)?;
        self.decision.begin(&self.truth, &record, chain, now);
        let truth = &mut self.truth;
        let revision = truth.state.next_revision(record.epoch);
        let mut changes = Default::default();
        for fact in &record.facts {
            self.log.fact(fact, record.index)?;
            self.decision.fact(&truth.state, fact, &record)?;
            self.node.fact(fact, revision);
            truth.state.apply(fact, revision, record.at_ms, &mut changes);
        }
        truth.state.meta.stream_sequence = sequence;
        truth.state.seal(record.index, chain, record.at_ms, &mut changes);
        self.decision.end(&truth.state, &changes)?;
        truth.chains.insert(record.index, chain);
        let (writes, _) = match truth.follower.follow(&record, payload, sequence) {
            Ok(followed) => followed,
            Err(reason) => return violated("I-22", format!("record {}: {reason}", record.index)),
        };
        truth.writes.insert(record.index, crate::manager::hash_writes(&writes));
        Ok(())
    }

    /// The log has lost everything behind a sequence: begins anew with what is left.
    pub fn truncated(
        &mut self,
        log: &[Bytes],
        settings: &Settings,
        now: Micros,
    ) -> Result<(), Violation> {
        let decided = std::mem::take(&mut self.truth.decided);
        let kept = std::mem::take(&mut self.log);
        let node = std::mem::take(&mut self.node);
        let decision = std::mem::replace(&mut self.decision, decision::Decision::new(settings));
        *self = Self::new(settings);
        self.truth.decided = decided;
        self.node = node;
        self.decision = decision;
        (self.is_cut, self.cut_at) = (true, now);
        self.decision.is_retold = true;
        for (at, payload) in log.iter().enumerate() {
            self.appended(payload, at as u64 + 1, 0)?;
        }
        self.decision.is_retold = false;
        self.log.keep_applied(kept);
        Ok(())
    }

    /// A process did something.
    pub fn note(&mut self, note: &Note, now: Micros) -> Result<(), Violation> {
        match note {
            Note::Proposed { hash, .. } => {
                self.truth.decided.insert(short(*hash), now);
            }
            // What was acknowledged a moment before the log lost it is for I-22 to judge.
            Note::Applied { manager, index, chain, .. } if self.is_cut => {
                self.log.has_applied(*manager, *index, *chain);
            }
            Note::Applied { manager, index, chain, writes } => {
                self.log.applied(&self.truth, *manager, *index, *chain, *writes)?;
            }
            Note::Elected { manager } => {
                // Its first record may have been lost a moment after it was acknowledged.
                if !self.is_cut || now - self.cut_at > NOTICED_WITHIN {
                    self.log.leads(&self.truth, *manager)?;
                }
                self.decision.elected(*manager, now);
            }
            Note::Heard { manager, node, from, beats } => {
                // A stranger's, or another run's, is no sign of life of the node that is known.
                let known = self.truth.state.nodes.get(&node_name(*node));
                if known.is_some_and(|known| (known.facts.id, known.facts.boot) == *from) {
                    self.decision.heard((*manager, *node), *beats, now);
                }
            }
            Note::Claimed { manager, node, node_id } => {
                self.decision.claimed(&self.truth.state, (*manager, *node), *node_id, now);
            }
            Note::Listens { .. } | Note::Alarm { .. } => {}
            // What rests on a decision that was lost may be decided anew, and otherwise.
            Note::Told { .. }
            | Note::AskedToEnd { .. }
            | Note::Delivered { .. }
            | Note::Created { .. }
            | Note::Started { .. }
                if self.is_cut => {}
            other => self.node.note(&self.truth, other, now)?,
        }
        Ok(())
    }

    /// A client was answered.
    pub fn answered(
        &mut self,
        id: CommandId,
        answer: Option<&CommandAnswer>,
    ) -> Result<(), Violation> {
        if self.is_cut { Ok(()) } else { self.log.answered(&self.truth, id, answer) }
    }

    /// A second has passed; what only time can break is looked at.
    pub fn tick(&mut self, look: &node::Look, now: Micros) -> Result<(), Violation> {
        for manager in &look.leaders {
            if self.strays.get(manager).is_some_and(|since| now - since > NOTICED_WITHIN) {
                return violated(
                    "I-22",
                    format!("manager {manager} leads on over a log that it does not follow"),
                );
            }
        }
        self.node.tick(look, now)
    }

    /// The run is over: what was acknowledged must still be there.
    pub fn finish(&self) -> Result<(), Violation> {
        if self.is_cut { Ok(()) } else { self.log.finish(&self.truth) }
    }
}
