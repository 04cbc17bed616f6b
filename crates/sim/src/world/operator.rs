//! The operator, who does what `docs/operations.md` says of a log that is lost, once faults have stopped: of several
//! managers that all refuse, the one that knows most is chosen; whoever refuses though another leads gets a new data
//! directory.

use std::collections::BTreeSet;

use super::{Event, Loses, World};
use crate::disk::{Disk, ManagerContent};
use crate::fault::Fault;
use crate::manager::{Manager, uuid};
use crate::message::Process;
use crate::time::{Micros, SECOND};

/// How long the operator waits before anything is done.
const PATIENCE: Micros = 15 * SECOND;

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
}

impl Operator {
    /// A manager has ended because the log contradicts its store.
    pub(super) fn refused(&mut self, manager: usize) {
        self.refused.insert(manager);
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
    pub(super) fn operate(&mut self) {
        let leads = self
            .managers
            .iter()
            .any(|place| place.process.as_ref().is_some_and(Manager::is_listening));
        let since = match self.operator.leads_since {
            Some((before, since)) if before == leads => since,
            _ => self.now,
        };
        self.operator.leads_since = Some((leads, since));
        if self.size.loses == Loses::Nothing
            || self.now - since < PATIENCE
            || self.operator.refused.is_empty()
            || self.operator.acts == ACTS_MAX
        {
            return;
        }
        let refused = std::mem::take(&mut self.operator.refused);
        self.operator.acted_at = self.now;
        self.operator.acts += 1;
        self.operator.leads_since = None;
        if leads {
            for number in refused {
                self.give_new_directory(number);
            }
        } else {
            self.choose();
        }
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

    /// Starts the manager that knows most with `--heal-log`.
    fn choose(&mut self) {
        let known = |number: &usize| self.managers[*number].disk.content().meta().index;
        let Some(most) = (0..self.size.managers).max_by_key(known) else { return };
        if known(&most) == 0 {
            // Nothing was ever written: there is nothing to heal from, and nothing to lose.
            return (0..self.size.managers).for_each(|number| self.give_new_directory(number));
        }
        self.trace.say(|| format!("operator: m{most} heals the log"));
        self.chaos.counts.count(Fault::OperatorHeals);
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
