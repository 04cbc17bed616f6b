//! The manager's brain.
//!
//! ```text
//! inputs ─► propose ─► a record ─► (shell: append to the log, write to the store) ─► receipt
//!                                                     receipt ─► release ─► effects
//! ```
//!
//! | module | what lives there |
//! |---|---|
//! | [`input`], [`effect`] | what may arrive; what is wanted done, sealed until a receipt |
//! | [`record`] | the log: facts in chained records |
//! | [`state`] | the fold of the facts; nothing else changes state |
//! | [`parts`](self) | what the state is made of: what stands once, jobs, nodes, commands |
//! | [`task`](self) | a task, in little memory; and as it is stored |
//! | [`shared_map`] | a sorted map in little memory that is copied at once: jobs, and tasks by the million |
//! | [`derived`](self) | what of the state follows from the rest |
//! | [`changes`] | what one record touched |
//! | [`draft`](self) | a record in the making |
//! | [`command`](self), [`node`](self) | decisions on requests; on joining, heartbeats and reports |
//! | [`revise`](self) | a job's next version out of one that is there: scale, restart, roll back |
//! | [`liveness`](self) | silence: suspect, lost, and when to disbelieve it |
//! | [`alarm`](self) | what an operator should know of |
//! | [`reconcile`](self) | wanted against actual tasks, per job |
//! | [`meaning`](self) | what the slots of a part mean for its count, kept up to date |
//! | [`rollout`](self) | how a roll-out goes: when its tasks are well, when it has failed, and the way back |
//! | [`slot`](self) | what the tasks of one slot mean together |
//! | [`place`](self) | waiting tasks to nodes |
//! | [`room`](self) | room for what is more important |
//! | [`moves`] | tasks that are better off elsewhere |
//! | [`eligibility`](self), [`drain`](self) | what operators say of nodes; moving off what a node runs |
//! | [`snapshot`], [`whatif`](self) | a copy to plan on; what would happen if |
//! | [`assign`](self) | what nodes are told |
//! | [`publish`](self) | what the world outside is told |
//! | [`persist`] | state as keys and values |
//! | [`view`](self) | answers to questions |
//! | [`invariant`] | what must always hold, one function a property |

mod alarm;
mod assign;
pub mod changes;
mod command;
mod derived;
mod draft;
mod drain;
pub mod effect;
mod eligibility;
pub mod input;
pub mod invariant;
mod liveness;
mod meaning;
pub mod moves;
mod node;
mod parts;
pub mod persist;
mod place;
mod publish;
mod reconcile;
pub mod record;
mod revise;
mod rollout;
mod room;
pub mod shared_map;
mod slot;
pub mod snapshot;
pub mod state;
mod task;
mod view;
mod whatif;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use longshore_proto::event::Event;
use longshore_proto::id::{ClusterId, ManagerId, Revision, TaskId};
use longshore_proto::name::{JobKey, NodeName, SpecName, UserName};
use longshore_proto::node::Heartbeat;
use longshore_proto::spec::{Resources, SchedulerKind};
use longshore_scheduler::Scheduler;

use crate::time::{Now, Time};
use changes::Slots;
use draft::{ASKED_MS, Draft, PASS_BYTES, PROMPT_BYTES, REPORT_BYTES};
pub use effect::{Effect, Proposal, Receipt, Reply, Step};
pub use input::{Command, Input, NodeCommand, Queue, Ticket};
pub use moves::Balancing;
use reconcile::Outcome;
use record::{Fact, Record};
pub use state::{NotNext, State};

/// How often silence, waits and ends are looked at, in milliseconds.
const TICK_MS: u64 = 500;

/// How the cluster is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The scheduler for jobs that name none.
    pub scheduler: SchedulerKind,
    /// How often workers send a heartbeat, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// How long a node may be silent before it is suspect, in milliseconds.
    pub suspect_after_ms: u64,
    /// How long a node may be silent before it is lost, in milliseconds.
    pub lost_after_ms: u64,
    /// By how much a task must be more important than those that it displaces, 1 to 99; `None`: it displaces none.
    pub preempt_gap: Option<u8>,
    /// How the cluster balances itself; `None`: it does not.
    pub balancing: Option<Balancing>,
}

/// By how much a task must be more important than those that it displaces, unless said otherwise.
pub const PREEMPT_GAP_USUAL: u8 = 20;

impl Default for Settings {
    fn default() -> Self {
        Self {
            scheduler: SchedulerKind::Epvm,
            heartbeat_interval_ms: 2_000,
            suspect_after_ms: 8_000,
            lost_after_ms: 15_000,
            preempt_gap: Some(PREEMPT_GAP_USUAL),
            balancing: None,
        }
    }
}

/// Who this manager is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// This run of the process.
    pub manager: ManagerId,
    /// Its name.
    pub name: UserName,
    /// Its version.
    pub version: String,
}

/// What the leader knows that is not in the log, because it is not certain or not worth it.
/// It starts anew with each reign.
#[derive(Debug, Default)]
struct Live {
    /// When the reign began: with its first turn, since the record that begins it may be on its way for long, and
    /// nobody is heard meanwhile.
    elected_at: Time,
    /// Whether it has.
    has_begun: bool,
    /// What was heard of each node.
    nodes: BTreeMap<NodeName, Heard>,
    /// Jobs to look at again, and which of their slots.
    reconcile: BTreeMap<JobKey, Slots>,
    /// Jobs among them of which only tasks to create are left that a record had no room for.
    begun: BTreeSet<JobKey>,
    /// The last of those that had its turn.
    begun_last: Option<JobKey>,
    /// What the slots of jobs were found to mean, so that a look costs what has changed and not what there is.
    meanings: BTreeMap<JobKey, Vec<(SpecName, meaning::Part)>>,
    /// Whether waiting tasks may fit now.
    place: bool,
    /// When another machine last asked to join under a node's name.
    claimed: BTreeMap<NodeName, Time>,
    /// When a worker of another cluster was last heard, or asked to join, under a node's name, and of which one it is.
    foreign: BTreeMap<NodeName, (ClusterId, Time)>,
    /// When somebody last asked for something.
    asked_at: Option<Time>,
    /// Whether the last look at silence came too late to judge by.
    stalled: bool,
    /// When ended tasks may be replaced.
    backoff: BTreeMap<TaskId, Time>,
    /// When to look again at jobs that are rolled out, though nothing happens.
    rollouts: BTreeMap<JobKey, Time>,
    /// When nodes were declared lost, lately.
    lost_at: VecDeque<Time>,
    /// When this manager's connection to the bus broke, while it is broken.
    bus_lost_at: Option<Time>,
    /// When it came back.
    bus_back_at: Option<Time>,
    /// When to look at silence, waits and ends again.
    tick_at: Time,
    /// What was found out about placing tasks on the present fleet.
    scheduler: Scheduler,
    /// When and why parts of jobs were last found to fit nowhere.
    blocked: BTreeMap<(JobKey, SpecName), place::Blocked>,
    /// Where room is being made for parts of jobs.
    wishes: BTreeMap<(JobKey, SpecName), room::Wish>,
    /// Whether the next record begins with tasks that are placed all at once.
    gang_waits: bool,
    /// The successors of tasks that are being moved.
    moves: BTreeSet<TaskId>,
    /// Drains under way.
    drains: drain::Drains,
    /// When the cluster last looked for moves by itself.
    balanced_at: Time,
    /// How many of the costliest nodes it has looked at since it last found one.
    balanced_nodes: usize,
    /// What an operator should know of, by what it is about, in the words of now.
    alarms: BTreeMap<&'static str, String>,
}

/// What was heard of one node in this reign.
#[derive(Debug, Clone)]
struct Heard {
    at: Time,
    /// The revision of its set when it was heard last: what it must have by the next time.
    revision: Revision,
    used: Option<Resources>,
    runtime_error: Option<String>,
    /// The digest of its set, as it was worked out last.
    digest: Option<assign::Digest>,
    /// How many heartbeats in a row told of another set than ours at the same revision.
    mismatches: u32,
    /// Whether its worker said last that nothing of ours runs there, and knew that nothing should.
    is_empty: bool,
    /// Whether its worker has said that it leaves, which a run of it never takes back. What it had said before may come
    /// later: a goodbye waits in another lane.
    is_leaving: bool,
}

/// The manager's brain.
#[derive(Debug)]
pub struct Cluster {
    identity: Identity,
    settings: Settings,
    state: State,
    live: Live,
}

impl Cluster {
    /// A brain over the state that the store holds.
    pub fn new(identity: Identity, settings: Settings, state: State) -> Self {
        Self { identity, settings, state, live: Live::default() }
    }

    /// Who this manager is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What is known for certain. While a proposal is under way, to the log or from there to the store, it is part of
    /// this.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Follows the log: applies a record that somebody committed. Gives what must be written and its events.
    ///
    /// # Errors
    /// The message is not the next record; nothing was changed but the count of such messages.
    pub fn follow(
        &mut self,
        record: &Record,
        bytes: &[u8],
        stream_sequence: u64,
    ) -> Result<(Vec<persist::Write>, Vec<Event>), NotNext> {
        self.state.follow(record, bytes, stream_sequence)
    }

    /// Takes in a node's sign of life while another manager leads: nothing is decided, but questions are
    /// answered with it, and a reign that begins here knows how busy the nodes are.
    pub fn overhear(&mut self, name: &NodeName, heartbeat: &Heartbeat, now: Time) {
        let Some(node) = self.state.nodes.get(name) else { return };
        if (node.facts.id, node.facts.boot) != (heartbeat.node_id, heartbeat.boot_id) {
            return;
        }
        let heard = Heard {
            at: now,
            revision: Revision::default(),
            used: Some(heartbeat.used),
            runtime_error: heartbeat.runtime_error.clone(),
            digest: None,
            mismatches: 0,
            is_empty: false,
            is_leaving: heartbeat.leaving,
        };
        self.live.nodes.insert(name.clone(), heard);
        self.state.fleet.set_measured(name, Some(heartbeat.used));
    }

    /// Notes where in the stream the record of the present proposal stands.
    pub fn appended(&mut self, stream_sequence: u64) {
        self.state.meta.stream_sequence = stream_sequence;
        self.state.meta.record_sequence = stream_sequence;
    }

    /// Follows the log over a message that is no record at all.
    pub fn skip(&mut self, stream_sequence: u64) -> persist::Write {
        self.state.meta.stream_sequence = stream_sequence;
        self.state.meta.records_skipped += 1;
        persist::write_meta(&self.state.meta)
    }

    /// Begins a reign: the record that fences every leader before. `new_cluster` is the id that the cluster
    /// gets if this is its first record.
    pub fn begin_reign(&mut self, new_cluster: ClusterId, now: Now, seed: [u8; 16]) -> Step {
        self.live = Live {
            elected_at: now.time,
            reconcile: self.state.jobs.keys().map(|key| (key.clone(), Slots::new())).collect(),
            place: true,
            ..Live::default()
        };
        let epoch = self.state.meta.epoch + 1;
        let mut draft = Draft::new(&mut self.state, epoch, now, seed);
        if draft.state.meta.cluster.is_none() {
            draft.record(Fact::ClusterCreated { cluster: new_cluster });
        }
        draft.record(Fact::LeaderElected {
            manager: self.identity.manager,
            name: self.identity.name.clone(),
            version: self.identity.version.clone(),
        });
        draft.finish(&self.identity)
    }

    /// Decides on waiting inputs, as many as one record holds, and on what time and they make due. Inputs that
    /// do not fit stay in the queue. The record before must stand in the log, and what is to be stored of it be known; its
    /// effects, and those of this step, wait until the store has it.
    pub fn propose(&mut self, inputs: &mut Queue, now: Now, seed: [u8; 16]) -> Step {
        let epoch = self.state.meta.epoch;
        let (settings, live) = (&self.settings, &mut self.live);
        let mut draft = Draft::new(&mut self.state, epoch, now, seed);
        if !live.has_begun {
            (live.has_begun, live.elected_at, live.tick_at) = (true, now.time, now.time);
        }
        let mut requests = 0;
        let is_asked = |live: &Live| live.asked_at.is_some_and(|at| now.time < at + ASKED_MS);
        if !std::mem::take(&mut live.gang_waits) {
            draft.begin_share(PROMPT_BYTES);
            while !draft.is_full()
                && let Some(input) = inputs.next_prompt()
            {
                if input.is_request() {
                    live.asked_at = Some(now.time);
                }
                take(&mut draft, live, settings, input);
            }
            requests = draft.bytes();
            draft.begin_share_beside(requests, is_asked(live), REPORT_BYTES);
            while !draft.is_full()
                && let Some(input) = inputs.next_reports()
            {
                take(&mut draft, live, settings, input);
            }
        }
        draft.begin_share_beside(requests, is_asked(live), PASS_BYTES);
        let is_tick = now.time >= live.tick_at;
        if is_tick {
            let late_ms = now.time - live.tick_at;
            live.tick_at = now.time + TICK_MS;
            liveness::tick(&mut draft, live, settings, late_ms);
            reconcile::tick(&mut draft, live);
            moves::tick(&mut draft, live, settings);
            drain::look(&mut draft, live);
            // Where room is being made must be looked at now and then, whatever happens elsewhere.
            live.place |= !live.wishes.is_empty();
        }
        pass(&mut draft, live, settings);
        if live.place && !live.reconcile.is_empty() {
            // Tasks that are still to be created by the thousand keep nobody waiting who is there already.
            draft.begin_share_beside(requests, is_asked(live), PASS_BYTES);
            live.place = !place::waiting(&mut draft, live, settings);
        }
        if is_tick {
            // What has ended has a successor by now, with a node if there is one: no task is told to end for that place.
            draft.begin_share_beside(requests, is_asked(live), PASS_BYTES);
            drain::tick(&mut draft, live, settings);
        }
        // Where placing stopped short it may have displaced tasks: what that means comes with the next record.
        note_changes(&mut draft, live);
        draft.finish(&self.identity)
    }

    /// When to propose again though nothing arrives.
    pub fn next_wakeup(&self) -> Time {
        if self.live.place || !self.live.reconcile.is_empty() {
            return Time::default();
        }
        self.live.tick_at
    }
}

/// Decides what is due by itself, until nothing is or the share of the record is full. What one step decides may make
/// another due: a task that is lost is replaced, a task that is created waits for a node. Each step only ever brings
/// tasks closer to what is wanted, so this ends.
fn pass(draft: &mut Draft<'_>, live: &mut Live, settings: &Settings) {
    loop {
        note_changes(draft, live);
        if draft.is_full() {
            return;
        }
        if let Some((job, slots)) = next_job(live) {
            match reconcile::job(draft, live, &job, &slots) {
                Outcome::Done => {}
                // It did not fit: what is left of it comes with a later record.
                Outcome::Creating => {
                    live.begun.insert(job.clone());
                    live.begun_last = Some(job.clone());
                    live.reconcile.insert(job, slots);
                    return;
                }
                Outcome::Full => {
                    live.reconcile.insert(job, slots);
                    return;
                }
            }
        } else if live.place {
            live.place = !place::waiting(draft, live, settings);
            if live.place {
                return;
            }
        } else {
            return;
        }
    }
}

/// Takes out the next job to look at. Those with many tasks to create take turns when all others have had theirs.
fn next_job(live: &mut Live) -> Option<(JobKey, Slots)> {
    let mut others = live.reconcile.keys().filter(|job| !live.begun.contains(job));
    let job = others.next().or_else(|| {
        let after = live.begun_last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let next = live.begun.range::<JobKey, _>((after, Bound::Unbounded)).next();
        next.or_else(|| live.begun.first())
    });
    let job = job.cloned()?;
    live.begun.remove(&job);
    live.reconcile.remove_entry(&job)
}

/// The slots whose tasks have changed are to be looked at again, and what waits where room became free.
fn note_changes(draft: &mut Draft<'_>, live: &mut Live) {
    live.place |= std::mem::take(&mut draft.changes.freed);
    for (job, mut slots) in std::mem::take(&mut draft.changes.reconcile) {
        live.reconcile.entry(job).or_default().append(&mut slots);
    }
}

/// Decides on one input.
fn take(draft: &mut Draft<'_>, live: &mut Live, settings: &Settings, input: Input) {
    match input {
        Input::Command { ticket, role, user, actor, id, command } => {
            command::decide(draft, live, ticket, (role, user), actor, id, &command);
        }
        Input::Register { ticket, node, register } => {
            node::register(draft, live, settings, ticket, &node, &register);
        }
        Input::Heartbeat { node, heartbeat } => node::heartbeat(draft, live, &node, &heartbeat),
        Input::Reports { ticket, node, reports } => {
            node::reports(draft, live, ticket, &node, &reports);
        }
        Input::ManagerSeen { name } => {
            if !draft.state.meta.managers.contains(&name) {
                draft.record(Fact::ManagerJoined { name });
            }
        }
        Input::Alarm { about, severity, text } => alarm::set(draft, live, about, severity, text),
        Input::Barrier { ticket } => draft.barrier(ticket),
        Input::BusLost => live.bus_lost_at = Some(draft.now.time),
        Input::BusBack => {
            live.bus_lost_at = None;
            live.bus_back_at = Some(draft.now.time);
        }
    }
}
