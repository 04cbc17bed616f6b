//! Faults: each as it begins and as it ends, and the calm after all of them.

use longshore_core::cluster::record::{Fact, Record};

use super::{Checked, Event, Loses, World};
use crate::check::Note;
use crate::disk::{Disk, ManagerContent, WorkerContent};
use crate::fault::Fault;
use crate::manager::{Manager, uuid};
use crate::message::Process;
use crate::runtime::Runtime;
use crate::sabotage::Sabotage;
use crate::servers::LEADS_ALONE;
use crate::time::{MS, Micros, SECOND};
use crate::worker::Worker;

/// For how long a server that is cut off from the others calls itself their leader.
const BEHIND_MAX: Micros = LEADS_ALONE;

impl World {
    pub(super) fn kill(&mut self, process: Process) {
        let (pending, kept) = match process {
            Process::Manager(number) => self.managers[number].kill(&mut self.chaos.rng),
            Process::Worker(number) => self.workers[number].kill(&mut self.chaos.rng),
            Process::Client(_) => return,
        };
        if kept > 0 {
            self.chaos.counts.count(Fault::WriteUnasked);
        }
        if pending > kept {
            self.chaos.counts.count(Fault::WriteTorn);
        }
    }

    pub(super) fn pause(&mut self, process: Process, lasts: Micros) {
        match process {
            Process::Manager(number) => self.managers[number].paused = true,
            Process::Worker(number) => self.workers[number].paused = true,
            Process::Client(_) => return,
        }
        self.after(lasts, Event::Resume(process));
    }

    pub(super) fn resume(&mut self, process: Process) {
        let deferred = match process {
            Process::Manager(number) => {
                self.managers[number].paused = false;
                std::mem::take(&mut self.managers[number].deferred)
            }
            Process::Worker(number) => {
                self.workers[number].paused = false;
                std::mem::take(&mut self.workers[number].deferred)
            }
            Process::Client(_) => return,
        };
        // The order in which a connection broke and came back is not lost meanwhile.
        let is_first = |event: &Event| {
            matches!(
                event,
                Event::Manager { .. }
                    | Event::Worker { .. }
                    | Event::SessionBreaks(..)
                    | Event::SessionBegins(..)
            )
        };
        let (first, others): (Vec<_>, Vec<_>) = deferred.into_iter().partition(is_first);
        for event in first {
            self.at(self.now, event);
        }
        for event in others {
            let wait = self.chaos.rng.u64(400..2 * MS);
            self.after(wait, event);
        }
    }

    pub(super) fn fault(&mut self, fault: Fault, lasts: Micros) -> Checked {
        self.trace.say(|| format!("fault: {fault} for {} ms", lasts / MS));
        self.chaos.counts.count(fault);
        let manager = self.chaos.rng.usize(0..self.size.managers);
        let worker = self.chaos.rng.usize(0..self.size.workers);
        let (m, w) = (Process::Manager(manager), Process::Worker(worker));
        let mut other = 0;
        let lasts = if fault == Fault::ServerBehind { lasts.min(BEHIND_MAX) } else { lasts };
        match fault {
            Fault::ManagerKilled => {
                self.kill(m);
                self.after(lasts, Event::Start(m));
            }
            Fault::ManagerPaused => {
                // The leader is the one whose absence matters.
                let leader = self.listeners().first().copied().unwrap_or(m);
                self.pause(leader, lasts);
            }
            Fault::ManagerEnded => {
                let leader = self.listeners().first().copied().unwrap_or(m);
                if let Process::Manager(number) = leader {
                    self.manager(number, Manager::cancel)?;
                }
            }
            Fault::ManagerCutOff => self.sever(m),
            Fault::ManagerDiskFull => self.managers[manager].disk.is_full = true,
            Fault::ManagerDiskLost if self.is_last_to_know(manager) => {}
            Fault::ManagerDiskLost => {
                self.kill(m);
                // Where everything else may be lost as well, it is not forgotten that there was something.
                let must_join = self.size.loses == Loses::All;
                let id = uuid(&mut self.chaos.rng);
                let content = ManagerContent { id, must_join, ..ManagerContent::default() };
                self.managers[manager].disk = Disk::with(content);
                self.after(lasts, Event::Start(m));
            }
            Fault::ClockJumps => {
                let by = self.chaos.rng.i64(-60 * 3_600_000..60 * 3_600_000);
                let skew = &mut self.managers[manager].skew_ms;
                *skew = skew.saturating_add(by);
                let skew = *skew;
                if let Some(process) = &mut self.managers[manager].process {
                    process.clock.skew_ms = skew;
                }
            }
            // Where the log may be lost as well, what a name means decides who may heal it.
            Fault::NameTwice if self.has_namesake || self.size.loses.records() => {}
            Fault::NameTwice => {
                self.has_namesake = true;
                let id = uuid(&mut self.chaos.rng);
                let place = &mut self.managers[self.size.managers];
                place.name = manager;
                place.disk = Disk::with(ManagerContent { id, ..ManagerContent::default() });
                self.start(Process::Manager(self.size.managers))?;
            }
            Fault::WorkerKilled => {
                self.kill(w);
                self.after(lasts, Event::Start(w));
            }
            Fault::WorkerPaused => self.pause(w, lasts),
            Fault::WorkerCutOff => self.sever(w),
            Fault::WorkerDiskFull => self.workers[worker].disk.is_full = true,
            Fault::WorkerDiskLost => {
                self.kill(w);
                let content = WorkerContent {
                    node_id: uuid(&mut self.chaos.rng),
                    ..WorkerContent::default()
                };
                self.workers[worker].disk = Disk::with(content);
                self.notes(&[Note::DiskLost { worker }])?;
                self.after(lasts, Event::Start(w));
            }
            Fault::WorkerLeaves => {
                self.notes(&[Note::Leaves { worker }])?;
                self.worker(worker, Worker::leave)?;
            }
            Fault::MachineReboots | Fault::RuntimeDown => {
                let reboots = fault == Fault::MachineReboots;
                if reboots {
                    self.kill(w);
                    self.after(lasts, Event::Start(w));
                }
                let ends = reboots || self.chaos.rng.bool();
                self.runtime(worker, |runtime, ctx| runtime.down(ends, ctx))?;
            }
            Fault::RuntimeHangs => self.runtimes[worker].hang(self.now + lasts),
            Fault::ContainerLost => {
                self.runtime(worker, Runtime::lose_one)?;
            }
            Fault::PairCut => {
                self.cuts.insert((m, w));
                self.cuts.insert((w, m));
                other = worker;
            }
            Fault::BusDown => {
                self.bus_up = false;
                // Of several servers one that was not down holds them.
                if self.size.servers == 1 && self.chaos.rng.bool() {
                    self.chaos.counts.count(Fault::EventsUnsynced);
                    let lost = self.chaos.rng.usize(1..12);
                    self.jetstream.lose_events(lost);
                    self.checks.events_lost(self.jetstream.events());
                }
                self.everybody().into_iter().for_each(|process| self.hang_up(process));
            }
            Fault::JetStreamDown => self.jetstream_up = false,
            Fault::ServerBehind => self.server_behind = self.size.servers > 1,
            Fault::LeaderMoves => self.servers.move_leader(self.now, &mut self.chaos.rng),
            Fault::ServerKilled => self.kill_server(),
            Fault::ServerCutOff => {
                let log_end = self.jetstream.last();
                self.servers.cut_off(log_end, self.now, &mut self.chaos.rng);
            }
            Fault::LogFull => self.jetstream.is_full = true,
            Fault::LeaseDoubled => self.jetstream.lease_lies = true,
            Fault::CrowdCutOff => {
                for number in 0..self.size.workers {
                    if self.chaos.rng.u8(0..4) > 0 {
                        self.sever(Process::Worker(number));
                    }
                }
            }
            Fault::TailLost => {
                let lost = self.chaos.rng.usize(1..6);
                self.jetstream.lose_tail(lost);
                if self.sabotage == Some(Sabotage::TrustShortLog) {
                    self.lose_reign();
                }
                self.checks.cut(self.jetstream.last(), self.now);
            }
            Fault::LogRestored => self.jetstream.make_log_anew(),
            Fault::LogLost => {
                self.jetstream.lose_all();
                self.checks.events_lost(self.jetstream.events());
                self.checks.cut(0, self.now);
            }
            _ => {}
        }
        let target = match fault {
            Fault::WorkerCutOff
            | Fault::WorkerDiskFull
            | Fault::MachineReboots
            | Fault::RuntimeDown => worker,
            _ => manager,
        };
        self.after(lasts, Event::Heal(fault, target, other));
        Ok(())
    }

    /// A server dies, and whoever is connected to it notices at once.
    fn kill_server(&mut self) {
        let Some(server) = self.servers.kill(self.now, &mut self.chaos.rng) else { return };
        for process in self.everybody() {
            if self.link(process).is_some_and(|link| link.home == server && link.has_session) {
                self.hang_up(process);
            }
        }
    }

    /// A process's server ends its connection.
    fn hang_up(&mut self, process: Process) {
        if let Some(link) = self.link_mut(process) {
            link.serial += 1;
            link.held.clear();
        }
        let serial = self.link(process).map_or(0, |link| link.serial);
        self.after(0, Event::SessionBreaks(process, serial));
    }

    /// The log loses all of the last reign, and whoever knew of that loses its disk. Workers know, and nobody asks them.
    fn lose_reign(&mut self) {
        let elects = |sequence: &u64| {
            let payload = self.jetstream.message(*sequence);
            let record = payload.and_then(|payload| Record::decode(&payload).ok());
            record.is_some_and(|record| {
                record.facts.iter().any(|fact| matches!(fact, Fact::LeaderElected { .. }))
            })
        };
        let last = self.jetstream.last();
        let Some(begins) = (2..=last).rev().find(elects) else { return };
        self.jetstream.lose_tail((begins..=last).count());
        for number in 0..self.size.managers {
            let process = Process::Manager(number);
            self.kill(process);
            if self.managers[number].disk.content().meta().stream_sequence >= begins {
                let id = uuid(&mut self.chaos.rng);
                let content = ManagerContent { id, ..ManagerContent::default() };
                self.managers[number].disk = Disk::with(content);
                self.chaos.counts.count(Fault::ManagerDiskLost);
            }
            self.after(SECOND, Event::Start(process));
        }
    }

    /// Whether the log is lost, or will be, and nobody but this manager has anything to heal it from: only a backup
    /// would help then.
    fn is_last_to_know(&self, manager: usize) -> bool {
        let knows = |number: &usize| self.managers[*number].disk.content().meta().index > 0;
        let mut others = (0..self.size.managers).filter(|number| *number != manager);
        self.size.loses == Loses::All && !others.any(|number| knows(&number))
    }

    pub(super) fn heal(&mut self, fault: Fault, target: usize, other: usize) {
        match fault {
            Fault::ManagerCutOff => self.restore(Process::Manager(target)),
            Fault::ManagerDiskFull => self.managers[target].disk.is_full = false,
            Fault::NameTwice => self.end_namesake(),
            Fault::WorkerCutOff => self.restore(Process::Worker(target)),
            Fault::WorkerDiskFull => self.workers[target].disk.is_full = false,
            Fault::MachineReboots | Fault::RuntimeDown => self.runtimes[target].up(),
            Fault::PairCut => {
                let (m, w) = (Process::Manager(target), Process::Worker(other));
                self.cuts.remove(&(m, w));
                self.cuts.remove(&(w, m));
            }
            Fault::BusDown => {
                self.bus_up = true;
                for process in self.everybody() {
                    self.restore(process);
                }
            }
            Fault::JetStreamDown => self.jetstream_up = true,
            Fault::ServerBehind => self.server_behind = false,
            Fault::ServerKilled => self.servers.restart(self.now, &mut self.chaos.rng),
            Fault::ServerCutOff => self.servers.join(self.now, &mut self.chaos.rng),
            Fault::LogFull => self.jetstream.is_full = false,
            Fault::LeaseDoubled => self.jetstream.lease_lies = false,
            Fault::CrowdCutOff => {
                for number in 0..self.size.workers {
                    self.restore(Process::Worker(number));
                }
            }
            _ => {}
        }
    }

    /// The operator notices that two managers have one name, and ends the second.
    fn end_namesake(&mut self) {
        self.has_namesake = false;
        self.kill(Process::Manager(self.size.managers));
    }

    pub(super) fn everybody(&self) -> Vec<Process> {
        let managers = (0..self.managers.len()).map(Process::Manager);
        managers.chain((0..self.size.workers).map(Process::Worker)).collect()
    }

    /// Faults stop: everything that was broken is whole again.
    pub(super) fn calm(&mut self) {
        self.trace.say(|| "calm: nothing breaks any more".into());
        self.chaos.stop();
        self.end_namesake();
        self.calm_at = Some(self.now);
        self.jetstream_up = true;
        self.server_behind = false;
        self.servers.calm();
        self.jetstream.is_full = false;
        self.jetstream.lease_lies = false;
        self.cuts.clear();
        self.bus_up = true;
        for number in 0..self.size.workers {
            self.runtimes[number].up();
            self.runtimes[number].hang(self.now);
            self.workers[number].disk.is_full = false;
        }
        for number in 0..self.size.managers {
            self.managers[number].disk.is_full = false;
        }
        for process in self.everybody() {
            self.restore(process);
            self.resume(process);
            self.after(SECOND, Event::Start(process));
        }
    }
}
