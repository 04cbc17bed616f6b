//! The operator, who does what `docs/operations.md` says.
//!
//! Of a log that is lost, once faults have stopped: where managers refuse, or workers follow what the log does not have, the
//! manager that knows most is chosen, though another one may lead; whoever refuses after that gets a new data directory, and
//! so does each worker that had joined a cluster which was begun meanwhile, once its containers are removed.
//! Of a lost node whose fenced tasks wait, at any time: its machine is switched off, is said to have stopped, and is switched on again once that word is taken.

use std::collections::{BTreeMap, BTreeSet};

use longshore_core::cluster::State;
use longshore_proto::id::{CommandId, TaskId};
use longshore_proto::state::NodeStatus;

use super::{Checked, Event, World};
use crate::check::Note;
use crate::disk::{Disk, ManagerContent, WorkerContent};
use crate::fault::Fault;
use crate::manager::{Manager, node_name, uuid};
use crate::message::Process;
use crate::runtime::Runtime;
use crate::time::{Micros, SECOND};

/// How long the operator waits before anything is done.
const PATIENCE: Micros = 15 * SECOND;

/// How long fenced tasks wait on a lost node before its machine is switched off.
const PATIENCE_FENCED: Micros = 4 * SECOND;

/// How often the operator acts. What is not right after that does not come right.
const ACTS_MAX: u32 = 6;

/// What the operator knows, and has done.
#[derive(Debug, Default)]
pub(super) struct Operator {
    /// Managers that ended because the log contradicts their store, since it was last looked.
    refused: BTreeSet<usize>,
    /// Since when somebody leads, or nobody does.
    leads_since: Option<(bool, Micros)>,
    /// When something was last done.
    acted_at: Micros,
    acts: u32,
    /// Since when fenced tasks wait on a machine that is lost.
    fenced_since: BTreeMap<usize, Micros>,
    /// Machines that are switched off, each with the command that says so.
    off: BTreeMap<usize, CommandId>,
}

impl Operator {
    /// A manager has ended because the log contradicts its store.
    pub(super) fn refused(&mut self, manager: usize) {
        self.refused.insert(manager);
    }

    /// Whether a machine is switched off.
    pub(super) fn has_switched_off(&self, worker: usize) -> bool {
        self.off.contains_key(&worker)
    }

    /// The log is healed.
    pub(super) fn healed(&mut self, now: Micros) {
        self.acted_at = now;
        self.refused.clear();
    }

    /// From when on everything must come right by itself.
    pub(super) fn calm_at(&self, calm_at: Micros) -> Micros {
        calm_at.max(self.acted_at)
    }
}

impl World {
    /// Looks once a second, once nothing breaks any more.
    pub(super) fn operate(&mut self) -> Checked {
        let leads = self
            .managers
            .iter()
            .any(|place| place.process.as_ref().is_some_and(Manager::is_listening));
        let since = match self.operator.leads_since {
            Some((before, since)) if before == leads => since,
            _ => self.now,
        };
        self.operator.leads_since = Some((leads, since));
        // Until the log is healed, managers that refuse know what it has lost.
        let refused = !self.operator.refused.is_empty();
        let is_unhealed = self.chaos.counts.of(Fault::Healed) == 0;
        let is_behind = self.checks.truth.is_behind_workers();
        let is_lost = is_behind || refused && is_unhealed;
        let strangers = if leads { self.strangers() } else { Vec::new() };
        if !self.size.loses.records()
            || self.now - since < PATIENCE
            || !(refused || is_lost || !strangers.is_empty())
            || self.operator.acts == ACTS_MAX
        {
            return Ok(());
        }
        let refused = std::mem::take(&mut self.operator.refused);
        self.operator.acted_at = self.now;
        self.operator.acts += 1;
        self.operator.leads_since = None;
        if leads && !is_lost {
            for number in refused {
                self.give_new_directory(number);
            }
            for number in strangers {
                self.empty_machine(number)?;
            }
        } else {
            if leads {
                self.chaos.counts.count(Fault::OperatorGoesOn);
            }
            // The log fits the one that leads, and where no worker says otherwise it finds nothing to heal.
            let all = (0..self.size.managers).collect();
            self.choose(if leads && !is_behind { &refused } else { &all });
        }
        Ok(())
    }

    /// Workers that have joined another cluster than the one whose log this is.
    fn strangers(&self) -> Vec<usize> {
        let ours = self.checks.truth.state.meta.cluster;
        let is_stranger = |number: &usize| {
            let theirs = self.workers[*number].disk.content().saved.cluster_id;
            theirs.is_some() && theirs != ours
        };
        (0..self.size.workers).filter(is_stranger).collect()
    }

    /// Removes the containers of a worker of another cluster, and gives it a new data directory.
    fn empty_machine(&mut self, worker: usize) -> Checked {
        self.trace.say(|| format!("operator: n{worker} gets a new data directory"));
        let process = Process::Worker(worker);
        self.kill(process);
        self.runtime(worker, Runtime::lose_all)?;
        let node_id = uuid(&mut self.chaos.rng);
        let content = WorkerContent { node_id, ..WorkerContent::default() };
        self.workers[worker].disk = Disk::with(content);
        self.after(SECOND, Event::Start(process));
        self.notes(&[Note::DiskLost { worker }])
    }

    /// Looks once a second for machines that fenced tasks wait for.
    pub(super) fn look_after_machines(&mut self) -> Checked {
        for worker in 0..self.size.workers {
            if !awaits_proof(&self.checks.truth.state, worker) {
                self.operator.fenced_since.remove(&worker);
                continue;
            }
            let since = *self.operator.fenced_since.entry(worker).or_insert(self.now);
            if self.now - since >= PATIENCE_FENCED && !self.operator.has_switched_off(worker) {
                self.switch_off(worker)?;
            }
        }
        Ok(())
    }

    fn switch_off(&mut self, worker: usize) -> Checked {
        self.trace.say(|| format!("operator: the machine of n{worker} is switched off"));
        self.kill(Process::Worker(worker));
        self.runtime(worker, |runtime, ctx| runtime.down(true, ctx))?;
        let mut out = Vec::new();
        let (client, now) = (self.size.clients, self.now);
        let rng = &mut self.chaos.rng;
        let id = self.clients[client].confirm_lost(worker, now, rng, &mut out);
        self.operator.off.insert(worker, id);
        self.client_out(client, out);
        Ok(())
    }

    /// A command was answered: the operator's word counts, or the node is heard after all.
    pub(super) fn word_taken(&mut self, id: CommandId) {
        let off = self.operator.off.iter().find(|(_, command)| **command == id);
        let Some(worker) = off.map(|(worker, _)| *worker) else { return };
        self.chaos.counts.count(Fault::OperatorConfirms);
        let wait = self.chaos.rng.u64(SECOND..6 * SECOND);
        self.after(wait, Event::SwitchOn(worker));
    }

    pub(super) fn switch_on(&mut self, worker: usize) -> Checked {
        self.operator.off.remove(&worker);
        self.operator.fenced_since.remove(&worker);
        self.operator.acted_at = self.now;
        self.runtime(worker, |runtime, _| Runtime::up(runtime))?;
        self.start(Process::Worker(worker))
    }

    fn give_new_directory(&mut self, number: usize) {
        let listening = self.managers[number].process.as_ref().is_some_and(Manager::is_listening);
        if listening {
            return;
        }
        self.trace.say(|| format!("operator: m{number} gets a new data directory"));
        self.chaos.counts.count(Fault::OperatorWipes);
        self.restart(number, |disk, rng| {
            let id = uuid(rng);
            *disk = Disk::with(ManagerContent { id, ..ManagerContent::default() });
        });
    }

    /// Stops all managers, and starts the one of these that knows most with `--heal-log`; the others later.
    fn choose(&mut self, among: &BTreeSet<usize>) {
        let known = |number: &usize| self.managers[*number].disk.content().meta().index;
        let Some(most) = among.iter().copied().max_by_key(known) else { return };
        if known(&most) == 0 {
            // Nothing was ever written: there is nothing to heal from, and nothing to lose.
            return (0..self.size.managers).for_each(|number| self.give_new_directory(number));
        }
        self.trace.say(|| format!("operator: m{most} heals the log"));
        self.chaos.counts.count(Fault::OperatorHeals);
        for number in (0..self.size.managers).filter(|number| *number != most) {
            self.kill(Process::Manager(number));
            self.after(PATIENCE, Event::Start(Process::Manager(number)));
        }
        self.restart(most, |_, _| {});
        self.managers[most].chosen = true;
    }

    fn restart(
        &mut self,
        number: usize,
        change: impl FnOnce(&mut Disk<ManagerContent>, &mut fastrand::Rng),
    ) {
        let process = Process::Manager(number);
        self.kill(process);
        change(&mut self.managers[number].disk, &mut self.chaos.rng);
        self.after(SECOND, Event::Start(process));
    }
}

/// Whether fenced tasks wait for a proof that they have ended on a machine.
fn awaits_proof(state: &State, worker: usize) -> bool {
    let is_fenced = |id: &TaskId| {
        let job = state.tasks.get(id).and_then(|task| state.jobs.get(&task.job)?.spec());
        job.is_some_and(|job| job.fence)
    };
    state.nodes.get(&node_name(worker)).is_some_and(|node| {
        node.status == NodeStatus::Lost
            && !node.is_confirmed_lost
            && node.tasks.iter().any(is_fenced)
    })
}
