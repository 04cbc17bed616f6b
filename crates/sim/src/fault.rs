//! Everything that can go wrong, how often it does in one run, and how often it did.

use std::fmt;

use crate::time::{MS, Micros, SECOND};

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident $text:literal $kind:ident,)+) => {
        /// Something that goes wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $name,)+ }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)+ }
            }
        }
    };
}

/// How a fault comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// At each occasion with some likelihood.
    Chance,
    /// At times that the seed chooses.
    Planned,
    /// Only in runs of its own.
    Special,
    /// As a consequence of others.
    Consequence,
}

faults! {
    /// A message of core NATS is lost.
    MessageLost "message lost" Chance,
    /// A message comes twice.
    MessageTwice "message twice" Chance,
    /// A message comes seconds late, after later ones.
    MessageLate "message late" Chance,
    /// A question to JetStream is lost.
    QuestionLost "JetStream question lost" Chance,
    /// JetStream's answer is lost: the outcome is unknown.
    AcknowledgementLost "JetStream answer lost" Chance,
    /// A question to JetStream arrives after its asker has given it up.
    QuestionLate "JetStream question late" Chance,
    /// JetStream refuses an append whose expectation is right.
    RefusedWrongly "append refused wrongly" Chance,
    /// Some of a batch of events are lost on their way.
    EventsDropped "events dropped" Chance,
    /// A sync of the disk takes seconds.
    SlowDisk "slow disk" Chance,
    /// An image cannot be pulled.
    PullFails "pull fails" Chance,
    /// A container cannot be created.
    CreateFails "create fails" Chance,
    /// A container was created and cannot be started.
    StartFails "start fails" Chance,
    /// A start is said to have failed, and the container runs all the same.
    StartLies "start lies" Chance,
    /// The runtime's answer to a start breaks off, and it goes on.
    AnswerLost "start answer lost" Chance,
    /// A container cannot be stopped.
    StopFails "stop fails" Chance,
    /// A container cannot be removed.
    RemoveFails "remove fails" Chance,
    /// An event of the runtime is lost.
    EventLost "runtime event lost" Chance,
    /// An event of the runtime comes twice.
    EventTwice "runtime event twice" Chance,
    /// A task says that it does not do its work.
    ProbeFails "probe fails" Chance,
    /// The runtime cannot ask a task how it does.
    ProbeLost "probe lost" Chance,
    /// A manager is killed.
    ManagerKilled "manager killed" Planned,
    /// A manager is suspended for a while.
    ManagerPaused "manager paused" Planned,
    /// A manager is ended in good order.
    ManagerEnded "manager ended" Planned,
    /// A manager is cut off from the bus.
    ManagerCutOff "manager cut off" Planned,
    /// A manager's disk is full.
    ManagerDiskFull "manager disk full" Planned,
    /// A manager's disk is lost.
    ManagerDiskLost "manager disk lost" Planned,
    /// A second manager is started under one name.
    NameTwice "name twice" Planned,
    /// A manager's wall clock jumps.
    ClockJumps "wall clock jumps" Planned,
    /// A worker's process is killed.
    WorkerKilled "worker killed" Planned,
    /// A worker's process is suspended for a while.
    WorkerPaused "worker paused" Planned,
    /// A worker is cut off from the bus.
    WorkerCutOff "worker cut off" Planned,
    /// A worker's disk is full.
    WorkerDiskFull "worker disk full" Planned,
    /// A worker's disk is lost.
    WorkerDiskLost "worker disk lost" Planned,
    /// A worker leaves together with its tasks, and comes back.
    WorkerLeaves "worker leaves" Planned,
    /// A machine starts anew.
    MachineReboots "machine reboots" Planned,
    /// A container runtime goes away and comes back.
    RuntimeDown "runtime down" Planned,
    /// A container runtime does not answer for a while.
    RuntimeHangs "runtime hangs" Planned,
    /// Somebody removes a container by force.
    ContainerLost "container lost" Planned,
    /// A manager and a worker cannot hear each other, though both reach the bus.
    PairCut "pair cut" Planned,
    /// The NATS servers go away and come back.
    BusDown "bus down" Planned,
    /// JetStream has no quorum for a while.
    JetStreamDown "JetStream down" Planned,
    /// The log is full for a while.
    LogFull "log full" Planned,
    /// Everybody may hold the lease at once.
    LeaseDoubled "lease doubled" Planned,
    /// Most workers are cut off at once.
    CrowdCutOff "crowd cut off" Planned,
    /// One of several servers calls itself the leader, and knows less than was committed.
    ServerBehind "server behind" Planned,
    /// The leader of one stream gives that up, and another one is elected.
    LeaderMoves "leader of stream moves" Planned,
    /// One of several servers dies; whoever is connected to it connects to another one.
    ServerKilled "server killed" Planned,
    /// One of several servers is cut off from the others, with whoever is connected to it.
    ServerCutOff "server cut off" Planned,
    /// The log loses its newest messages.
    TailLost "log tail lost" Special,
    /// The log is deleted, and restored with all that was in it.
    LogRestored "log restored" Special,
    /// The log is gone, and the snapshots with it.
    LogLost "log lost" Special,
    /// The server dies, and has not synced the newest events.
    EventsUnsynced "events not synced" Consequence,
    /// A server that is cut off answers for the log from what it knew.
    AnsweredStale "answered by a server cut off" Consequence,
    /// A manager ends because another one has its name.
    NameTaken "name taken" Consequence,
    /// The log is trimmed behind a snapshot.
    LogTrimmed "log trimmed" Consequence,
    /// A manager joins from a snapshot.
    Joined "joined from snapshot" Consequence,
    /// A manager heals the log from its own store.
    Healed "log healed" Consequence,
    /// A gang is placed.
    GangPlaced "gang placed" Consequence,
    /// A task is displaced by a more important one.
    Displaced "task displaced" Consequence,
    /// A task is moved to where it is better off.
    Moved "task moved" Consequence,
    /// A node is drained.
    Drained "node drained" Consequence,
    /// A client changes how many instances a job has.
    Scaled "job scaled" Consequence,
    /// A client has a job or a task begin anew.
    Restarted "job or task restarted" Consequence,
    /// A client goes back to an earlier version of a job.
    RolledBack "job rolled back" Consequence,
    /// A version fails, and the leader goes back to an earlier one by itself.
    RolledBackAlone "version rolled back by itself" Consequence,
    /// A task is found unhealthy.
    FoundIll "task unhealthy" Consequence,
    /// An operator chooses the manager that heals the log.
    OperatorHeals "operator heals log" Consequence,
    /// An operator goes on without what workers follow and no manager knows.
    OperatorGoesOn "operator goes on" Consequence,
    /// An operator switches a lost machine off, and says that it has stopped.
    OperatorConfirms "operator confirms lost" Consequence,
    /// A fenced task takes the place of one on a node that an operator said has stopped.
    FencedReplaced "fenced task replaced" Consequence,
    /// An operator gives a manager that refuses a new data directory.
    OperatorWipes "operator wipes manager" Consequence,
    /// A batch that was being written when the process died is not there.
    WriteTorn "write torn" Consequence,
    /// A batch whose sync had not returned is there all the same.
    WriteUnasked "write there unacknowledged" Consequence,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How often each fault happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(std::collections::BTreeMap<Fault, u64>);

impl Counts {
    /// Counts one.
    pub fn count(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }

    /// Counts some.
    pub fn count_many(&mut self, fault: Fault, times: u64) {
        *self.0.entry(fault).or_default() += times;
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (fault, count) in &other.0 {
            *self.0.entry(*fault).or_default() += count;
        }
    }

    /// How often a fault happened.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }

    /// How many faults happened in all.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Chance, and what it breaks in this run.
#[derive(Debug)]
pub struct Chaos {
    /// The one source of randomness of a run.
    pub rng: fastrand::Rng,
    /// How likely each fault is at each occasion, in millionths.
    rates: std::collections::BTreeMap<Fault, u32>,
    on: bool,
    /// What happened so far.
    pub counts: Counts,
}

impl Chaos {
    /// What a seed chooses: about half of the faults, each at a rate of its own.
    pub fn new(mut rng: fastrand::Rng) -> Self {
        let mut rates = std::collections::BTreeMap::new();
        for fault in Fault::ALL.iter().filter(|fault| fault.kind() == Kind::Chance) {
            if rng.bool() {
                rates.insert(*fault, rng.u32(1_000..60_000));
            }
        }
        Self { rng, rates, on: true, counts: Counts::default() }
    }

    /// Whether a fault happens at this occasion.
    pub fn strikes(&mut self, fault: Fault) -> bool {
        let Some(rate) = self.rates.get(&fault).filter(|_| self.on) else { return false };
        let strikes = self.rng.u32(0..1_000_000) < *rate;
        if strikes {
            self.counts.count(fault);
        }
        strikes
    }

    /// Whether things still break.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Nothing breaks any more.
    pub fn stop(&mut self) {
        self.on = false;
    }

    /// The faults with times of their own: when each begins, and for how long.
    pub fn plan(&mut self, length: Micros) -> Vec<(Micros, Fault, Micros)> {
        let mut planned = Vec::new();
        for fault in Fault::ALL.iter().filter(|fault| fault.kind() == Kind::Planned) {
            if self.rng.bool() {
                continue;
            }
            for _ in 0..self.rng.u32(1..5) {
                let at = self.rng.u64(3 * SECOND..length);
                // Mostly short, now and then long enough for every limit to pass.
                let lasts = match self.rng.u8(0..10) {
                    0..4 => self.rng.u64(100 * MS..4 * SECOND),
                    4..8 => self.rng.u64(4 * SECOND..16 * SECOND),
                    _ => self.rng.u64(16 * SECOND..45 * SECOND),
                };
                planned.push((at, *fault, lasts));
            }
        }
        planned
    }
}
