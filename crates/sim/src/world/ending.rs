//! What is looked at once a second: what only time can break, and whether all has settled once faults have stopped.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Checked, Event, LEADER_AFTER_LOSS_WITHIN, LEADER_WITHIN, Loses, QUIET_FOR, SETTLED_WITHIN,
    World,
};
use crate::check::{end, node::Look, violated};
use crate::manager::{Manager, node_name};
use crate::message::Process;
use crate::runtime::Runtime;
use crate::time::{Micros, SECOND};

impl World {
    pub(super) fn tick(&mut self) -> Checked {
        let look = self.look();
        self.checks.tick(&look, self.now)?;
        let tasks: Vec<_> = self.checks.truth.state.tasks.keys().copied().collect();
        for client in &mut self.clients {
            client.tasks_seen = (0..3)
                .filter_map(|_| self.chaos.rng.choice(&tasks))
                .map(ToString::to_string)
                .collect();
        }
        self.look_after_machines()?;
        self.after(SECOND, Event::Tick);
        let Some(calm_at) = self.calm_at else { return Ok(()) };
        self.operate()?;
        // What is late is a fault until it is there: a manager's old word keeps its name from its successor.
        let calm_at = self.operator.calm_at(calm_at).max(self.late_until);
        let calm_for = self.now.saturating_sub(calm_at);
        let leads = self.managers.iter().any(|place| {
            place.process.as_ref().is_some_and(|process| process.settled_state().is_some())
        });
        let within = match self.size.loses {
            Loses::Nothing => LEADER_WITHIN,
            // That another log stands there is doubted before it is looked into.
            Loses::Age => LEADER_WITHIN + self.size.doubt(),
            Loses::Tail | Loses::All => LEADER_AFTER_LOSS_WITHIN,
        };
        if !leads && calm_for >= within && self.settled_at.is_none() {
            let elected = self
                .managers
                .iter()
                .any(|place| place.process.as_ref().is_some_and(Manager::is_listening));
            if !elected {
                let within = within / SECOND;
                return violated("E-3", format!("nobody leads {within} s after the last fault"));
            }
        }
        let asked = self.clients.iter().all(|client| client.questions() == 0);
        let settled = end::settled(&self.checks.truth.state, &self.running());
        let settled = match settled.and_then(|()| self.checks.published()) {
            Ok(()) if leads && asked => Ok(()),
            Ok(()) => violated("E-1", "a client still waits for an answer"),
            Err(violation) => Err(violation),
        };
        // What the cluster is given to come right begins anew when a container ends by itself: that was its work.
        let stirred_at = self.runtimes.iter().map(Runtime::ended_at).fold(calm_at, Micros::max);
        let still_for = self.now.saturating_sub(stirred_at);
        match (settled, self.settled_at) {
            (Err(violation), _) if still_for >= SETTLED_WITHIN => return Err(violation),
            (Err(_), _) => self.settled_at = None,
            (Ok(()), None) => self.settled_at = Some((self.now, stirred_at)),
            (Ok(()), Some((at, stirred))) if self.now - at >= QUIET_FOR => {
                if self.appended_at > at {
                    // What was settled has moved on by itself: it must settle anew.
                    self.settled_at = Some((self.now, stirred_at));
                    if still_for >= SETTLED_WITHIN + QUIET_FOR {
                        return violated(
                            "E-1",
                            "the log goes on being written though all is settled",
                        );
                    }
                    return Ok(());
                }
                self.trace.settled(at.saturating_sub(stirred));
                self.is_over = true;
            }
            (Ok(()), Some(_)) => {}
        }
        Ok(())
    }

    pub(super) fn running(&self) -> end::Running {
        let owners = |runtime: &Runtime| {
            runtime.running().map(|owner| (owner.task, owner.attempt)).collect()
        };
        self.runtimes.iter().map(owners).enumerate().collect()
    }

    /// Names under which two managers with different data directories take part, both of which hear JetStream.
    fn shared_names(&self) -> BTreeSet<String> {
        let mut stores = BTreeMap::new();
        let mut shared = BTreeSet::new();
        for (number, place) in self.managers.iter().enumerate() {
            let hears = !place.paused && self.has_jetstream(number);
            let present = place.process.as_ref().filter(|process| hears && process.is_present());
            let Some(store) = present.map(Manager::store) else { continue };
            if stores.insert(place.name, store).is_some_and(|other| other != store) {
                shared.insert(format!("m{}", place.name));
            }
        }
        shared
    }

    pub(super) fn look(&self) -> Look {
        let mut look =
            Look { lease_is_endless: self.jetstream.lease_is_endless(), ..Look::default() };
        for (number, place) in self.managers.iter().enumerate() {
            if let Some(process) = &place.process {
                look.forgotten.insert(number, process.forgotten());
                let hears = !place.paused && self.has_jetstream(number);
                look.leaders.extend((process.is_listening() && hears).then(|| process.id()));
            }
        }
        look.shared_names = self.shared_names();
        let leaders = self.listeners();
        let leader = match leaders.as_slice() {
            [Process::Manager(number)] => Some(*number),
            _ => None,
        };
        for (number, place) in self.workers.iter().enumerate() {
            let Some(process) = &place.process else { continue };
            look.questions.insert(number, process.questions());
            let Some(leader) = leader else { continue };
            let (m, w) = (Process::Manager(leader), Process::Worker(number));
            let clear = self.has_jetstream(leader)
                && self.can_talk(w)
                && self.share_servers(m, w)
                && !self.cuts.contains(&(m, w))
                && !place.paused
                && !self.managers[leader].paused
                && process.is_registered()
                && !self.jetstream.is_full;
            let state = self.managers[leader].process.as_ref().and_then(Manager::settled_state);
            let node = state.and_then(|state| state.nodes.get(&node_name(number)));
            if let (true, Some(node)) = (clear, node) {
                // What follows what the log has lost is left alone, and known to be: an operator must choose.
                if process.is_joining() {
                    look.joining.insert(number);
                }
                if node.ahead.is_none() {
                    look.clear.insert(number, (node.revision, process.agent().revision()));
                }
            }
        }
        look
    }
}
