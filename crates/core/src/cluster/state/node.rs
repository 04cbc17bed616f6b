//! What facts about nodes change: who they are, whether they get work, and the set of what they are to run.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::id::{Revision, TaskId};
use longshore_proto::name::NodeName;
use longshore_proto::state::{Eligibility, NodeStatus};

use super::{Drain, Node, State};
use crate::cluster::changes::{Changes, touch_slot};
use crate::cluster::record::NodeFacts;

impl State {
    pub(super) fn apply_register(
        &mut self,
        name: &NodeName,
        facts: &NodeFacts,
        revision: Revision,
        changes: &mut Changes,
    ) {
        match self.nodes.get_mut(name) {
            Some(node) => {
                if node.facts.id != facts.id {
                    // Another machine: what was said of the one before does not hold for it.
                    node.ahead = None;
                    node.labels_set.clear();
                    node.eligibility = Eligibility::Open;
                    node.drain = None;
                }
                let is_back = node.facts.boot != facts.boot
                    && node.drain.as_ref().is_some_and(|drain| drain.by_worker);
                if is_back {
                    let was_cordoned = node.drain.as_ref().is_some_and(|drain| drain.was_cordoned);
                    node.eligibility =
                        if was_cordoned { Eligibility::Cordoned } else { Eligibility::Open };
                    node.drain = None;
                    // Its tasks may have successors that wait, which are not wanted any more.
                    for task in node.tasks.iter().filter_map(|id| self.tasks.get(id)) {
                        touch_slot(&mut changes.reconcile, task);
                    }
                }
                node.facts = facts.clone();
                node.status = NodeStatus::Ready;
                node.is_confirmed_lost = false;
            }
            None => {
                let node = Node {
                    facts: facts.clone(),
                    status: NodeStatus::Ready,
                    eligibility: Eligibility::Open,
                    labels_set: BTreeMap::new(),
                    drain: None,
                    is_confirmed_lost: false,
                    ahead: None,
                    // In a past that was left it may have seen more.
                    revision: if self.meta.restorations.is_empty() {
                        Revision::default()
                    } else {
                        revision
                    },
                    labels: BTreeMap::new(),
                    tasks: BTreeSet::new(),
                };
                self.nodes.insert(name.clone(), node);
            }
        }
        self.derive_node(name);
        changes.touch_node(name);
    }

    pub(super) fn apply_eligibility(
        &mut self,
        name: &NodeName,
        eligibility: Eligibility,
        drain: Option<Drain>,
        changes: &mut Changes,
    ) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.eligibility = eligibility;
        node.drain = drain;
        // Its tasks may have successors that wait, which are not wanted any more.
        for task in node.tasks.iter().filter_map(|id| self.tasks.get(id)) {
            touch_slot(&mut changes.reconcile, task);
        }
        self.derive_node(name);
        changes.touch_node(name);
    }

    pub(super) fn apply_drain(
        &mut self,
        name: &NodeName,
        changes: &mut Changes,
        change: impl FnOnce(&mut Drain),
    ) {
        let drain = self.nodes.get_mut(name).and_then(|node| node.drain.as_mut());
        if let Some(drain) = drain {
            change(drain);
            changes.nodes.insert(name.clone());
        }
    }

    /// A node's set of assignments changes with the present record.
    pub(super) fn touch_node_set(
        &mut self,
        name: &NodeName,
        revision: Revision,
        task: Option<TaskId>,
        changes: &mut Changes,
    ) {
        if let Some(node) = self.nodes.get_mut(name) {
            changes.touch_set(name, node.revision, task);
            node.revision = revision;
            changes.nodes.insert(name.clone());
        }
    }
}
