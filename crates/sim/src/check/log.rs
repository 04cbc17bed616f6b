//! The log and those who read it: agreement, durability, determinism, epochs, idempotence, forks.

use std::collections::BTreeMap;

use longshore_core::cluster::record::{CommandAnswer, Fact, Hash, Record};
use longshore_core::leadership::mend::Head;
use longshore_proto::id::{CommandId, ManagerId};

use super::{Truth, Violation, violated};

/// What is remembered of the log.
#[derive(Debug, Default)]
pub struct Log {
    epoch: u64,
    writer: Option<ManagerId>,
    granted: BTreeMap<CommandId, (u64, CommandAnswer)>,
    answered: BTreeMap<CommandId, CommandAnswer>,
    applied: BTreeMap<ManagerId, (u64, Hash)>,
}

/// I-22: what is appended follows what stands there; nobody leads who has applied anything else.
pub fn valid(truth: &Truth, record: &Record) -> Result<(), Violation> {
    match truth.state.check_next(record) {
        Ok(()) => Ok(()),
        Err(reason) => violated("I-22", format!("record {} was appended: {reason}", record.index)),
    }
}

impl Log {
    /// I-4: epochs never fall, begin with an election, and have one writer.
    pub fn epochs(&mut self, record: &Record) -> Result<(), Violation> {
        let elected = record.facts.iter().find_map(|fact| match fact {
            Fact::LeaderElected { manager, .. } => Some(*manager),
            _ => None,
        });
        if record.epoch < self.epoch {
            return violated("I-4", format!("epoch {} after {}", record.epoch, self.epoch));
        }
        if (record.epoch > self.epoch) != elected.is_some() {
            return violated(
                "I-4",
                format!("epoch {} does not begin with its election", record.epoch),
            );
        }
        self.epoch = record.epoch;
        if elected.is_some() {
            self.writer = elected;
        }
        if self.writer != Some(record.manager) {
            return violated(
                "I-4",
                format!(
                    "record {} of epoch {} is by another than its leader",
                    record.index, record.epoch
                ),
            );
        }
        Ok(())
    }

    /// I-15: the same command is granted once.
    pub fn fact(&mut self, fact: &Fact, index: u64) -> Result<(), Violation> {
        if let Fact::CommandGranted { key, answer, .. } = fact
            && let Some((before, _)) = self.granted.insert(key.id, (index, answer.clone()))
        {
            return violated(
                "I-15",
                format!("command {} was granted in record {before} and again in {index}", key.id),
            );
        }
        Ok(())
    }

    /// I-1 and I-3: everybody applies the same record at the same place, and writes the same.
    pub fn applied(
        &mut self,
        truth: &Truth,
        manager: ManagerId,
        index: u64,
        chain: Hash,
        writes: Hash,
    ) -> Result<(), Violation> {
        if truth.chains.get(&index) != Some(&chain) {
            return violated(
                "I-1",
                format!("manager {manager} has applied another record {index}"),
            );
        }
        if truth.writes.get(&index) != Some(&writes) {
            return violated(
                "I-3",
                format!("manager {manager} has written something else for record {index}"),
            );
        }
        self.has_applied(manager, index, chain);
        Ok(())
    }

    /// Notes what a manager has applied.
    pub fn has_applied(&mut self, manager: ManagerId, index: u64, chain: Hash) {
        self.applied.insert(manager, (index, chain));
    }

    /// I-22: whoever begins to lead has applied nothing that the log does not hold.
    pub fn leads(&self, truth: &Truth, manager: ManagerId) -> Result<(), Violation> {
        match self.applied.get(&manager) {
            Some((index, chain)) if truth.in_log(*index) != Some(*chain) => violated(
                "I-22",
                format!(
                    "manager {manager} leads and has applied record {index}, which the log does not hold"
                ),
            ),
            _ => Ok(()),
        }
    }

    /// I-1: a snapshot is of what the log holds, or held.
    pub fn joined(
        &mut self,
        truth: &Truth,
        manager: ManagerId,
        head: &Head,
    ) -> Result<(), Violation> {
        if !truth.has_held(head.chain) {
            return violated(
                "I-1",
                format!(
                    "manager {manager} joins from a snapshot of record {}, which was never committed",
                    head.index
                ),
            );
        }
        self.has_applied(manager, head.index, head.chain);
        Ok(())
    }

    /// The records are told once more; what is known of managers and clients outlives that.
    pub fn forget(&mut self) {
        (self.epoch, self.writer) = (0, None);
        self.granted.clear();
    }

    /// I-2: what was acknowledged is still in the log after it was healed.
    pub fn still_granted(&self) -> Result<(), Violation> {
        match self.answered.keys().find(|id| !self.granted.contains_key(id)) {
            Some(id) => violated(
                "I-2",
                format!("command {id} was acknowledged, and healing the log has lost it"),
            ),
            None => Ok(()),
        }
    }

    /// I-2 and I-15: an acknowledged command is in the log, and is always answered alike.
    pub fn answered(
        &mut self,
        truth: &Truth,
        id: CommandId,
        answer: Option<&CommandAnswer>,
    ) -> Result<(), Violation> {
        let Some(answer) = answer else {
            // A clock that jumped by a day may have made it forgotten.
            let forgotten_ms = truth.state.commands_forgotten_ms();
            return match self.answered.get(&id) {
                Some(before) if id.minted_at_ms().is_none_or(|at| at > forgotten_ms) => violated(
                    "I-15",
                    format!("command {id} was answered {before:?} and then refused"),
                ),
                _ => Ok(()),
            };
        };
        match self.granted.get(&id) {
            None => {
                return violated(
                    "I-2",
                    format!("command {id} was acknowledged and is not in the log"),
                );
            }
            Some((_, granted)) if granted != answer => {
                return violated(
                    "I-15",
                    format!("command {id} was answered {answer:?}, and the log says {granted:?}"),
                );
            }
            Some(_) => {}
        }
        match self.answered.insert(id, answer.clone()) {
            Some(before) if before != *answer => violated(
                "I-15",
                format!("command {id} was answered {before:?} and then {answer:?}"),
            ),
            _ => Ok(()),
        }
    }

    /// I-2: at the end everything acknowledged is still remembered.
    pub fn finish(&self, truth: &Truth) -> Result<(), Violation> {
        for id in self.answered.keys() {
            let remembered = truth.state.commands.keys().any(|key| key.id == *id);
            let forgotten_ms = truth.state.commands_forgotten_ms();
            if !remembered && id.minted_at_ms().is_none_or(|at| at > forgotten_ms) {
                return violated("I-2", format!("command {id} was acknowledged and is forgotten"));
            }
        }
        Ok(())
    }
}
