//! What a list of all containers means for the tasks: adopted, ended, gone, left over.
//!
//! | in the list | the task | what follows |
//! |---|---|---|
//! | runs, the newest attempt | not seen yet | adopted |
//! | has ended, the newest attempt | not seen yet, or thought to run | its end, judged by the restart policy |
//! | nothing | thought to run before the list was asked for | its end, without an exit code |
//! | nothing, or created only | minted, never started | started, under the same name |
//! | anything else of a task that is known | | removed, and the next attempt waits for that |
//! | anything of a task that is unknown | | removed, but only once the leader's whole set was seen |
//! | without labels of this cluster and node | | never touched |

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::id::TaskId;
use longshore_proto::state::TaskState;

use super::Agent;
use super::context::Context;
use super::input::{Container, ContainerChange, ContainerEnd, ContainerEvent, ContainerState};
use super::labels::Owner;
use super::task::{Phase, STOP_GRACE_MS, Task};

/// A container of ours: which attempt it is, and how it stands.
type Found<'a> = (u64, &'a Container);

impl Agent {
    /// A list of everything has come.
    pub(super) fn observed(&mut self, ticket: u64, containers: &[Container]) {
        if !self.ctx.runtime.listed(ticket, self.ctx.now_ms) {
            return;
        }
        let mut found: BTreeMap<TaskId, Vec<Found<'_>>> = BTreeMap::new();
        for container in containers {
            if let Some(owner) = self.ours(&container.labels) {
                found.entry(owner.task).or_default().push((owner.attempt, container));
            }
        }
        let exists: BTreeSet<&str> =
            containers.iter().map(|container| container.id.as_str()).collect();
        self.ctx.shelf.only(
            ticket,
            |container_id| exists.contains(container_id),
            &mut self.ctx.writes,
        );
        for (id, task) in &mut self.tasks {
            let mine = found.remove(id).unwrap_or_default();
            observe(task, &mut self.ctx, ticket, &mine);
        }
        // What is left belongs to tasks that no record knows, or is kept.
        if self.ctx.cluster_id.is_some() {
            let shelf = &self.ctx.shelf;
            let is_stray = |mine: &[Found<'_>]| {
                mine.iter().any(|(_, container)| !shelf.is_kept(&container.id))
            };
            self.ctx.runtime.strays =
                found.iter().filter(|(_, mine)| is_stray(mine)).map(|(id, _)| *id).collect();
            self.ctx.runtime.strays_known = true;
            let runs = |(_, container): &&Found<'_>| container.state == ContainerState::Running;
            self.ctx.runtime.strays_running = found.values().flatten().filter(runs).count();
        }
        if self.ctx.synced {
            for (id, mine) in &found {
                for (_, container) in mine {
                    clear(&mut self.ctx, ticket, *id, container, STOP_GRACE_MS);
                }
            }
        }
    }

    /// Something happened to a container.
    pub(super) fn container_event(&mut self, event: &ContainerEvent) {
        let Some(owner) = self.ours(&event.labels) else { return };
        if event.change == ContainerChange::Destroyed {
            self.ctx.shelf.destroyed(&event.container_id, &mut self.ctx.writes);
        }
        let has_started = event.change == ContainerChange::Started;
        let Some(task) = self.tasks.get_mut(&owner.task) else {
            // Somebody has started a container of ours that is over.
            if has_started {
                self.ctx.runtime.doubt(self.ctx.now_ms);
            }
            return;
        };
        // One attempt may have had two containers, when the first was removed from outside.
        let known = task.record().container_id.as_ref();
        if task.record().attempt != owner.attempt
            || known.is_some_and(|known| *known != event.container_id)
        {
            if has_started {
                self.ctx.runtime.doubt(self.ctx.now_ms);
            }
            return;
        }
        match (event.change, task.phase) {
            (ContainerChange::Died(end), Phase::Running | Phase::Stopping { .. }) => {
                task.container_ended(&mut self.ctx, end);
            }
            (ContainerChange::Destroyed, Phase::Running | Phase::Stopping { .. }) => {
                task.container_ended(&mut self.ctx, ContainerEnd::default());
            }
            // Whether it is this attempt's container, the answer to the start or a list will tell.
            (ContainerChange::Died(end), _) => task.set_early_end(event.container_id.clone(), end),
            // What runs is told by the same two, unless nobody here has started it.
            (
                ContainerChange::Started,
                Phase::Waiting { .. } | Phase::Looking | Phase::Pulling | Phase::Ended,
            ) => {
                self.ctx.runtime.doubt(self.ctx.now_ms);
            }
            _ => {}
        }
    }

    /// Whose container it is, when it is this worker's.
    fn ours(&self, labels: &BTreeMap<String, String>) -> Option<Owner> {
        let owner = Owner::read(labels)?;
        (Some(owner.cluster_id) == self.ctx.cluster_id && owner.node == self.ctx.node)
            .then_some(owner)
    }
}

/// Compares a task with its containers in a list.
fn observe(task: &mut Task, ctx: &mut Context, ticket: u64, mine: &[Found<'_>]) {
    if task.phase == Phase::Unseen {
        take_over_lost(task, mine);
    }
    let attempt = task.record().attempt;
    let current =
        mine.iter().find(|(number, _)| *number == attempt).map(|(_, container)| *container);
    let wanted = match task.phase {
        Phase::Unseen => {
            first_look(task, ctx, current);
            // Where its attempt is over, or never was, what was created for it is left over.
            let goes_on = task.record().attempt == attempt && task.phase != Phase::Ended;
            if goes_on { current } else { None }
        }
        // A list that is older than what is known proves nothing.
        Phase::Running | Phase::Stopping { .. } if ticket < task.known_since_step => current,
        Phase::Running | Phase::Stopping { .. } => {
            match current.map(|container| container.state) {
                Some(ContainerState::Running) => {}
                Some(ContainerState::Ended(end)) => task.container_ended(ctx, end),
                Some(ContainerState::Created) | None => {
                    task.container_ended(ctx, ContainerEnd::default())
                }
            }
            current
        }
        // The answer to the start tells.
        Phase::Starting => current,
        Phase::Waiting { .. } | Phase::Looking | Phase::Pulling => {
            late_look(task, ctx, current);
            current
        }
        Phase::Ended => None,
    };
    for (_, container) in mine {
        if wanted.is_none_or(|wanted| wanted.id != container.id) {
            clear(ctx, ticket, task.id(), container, task.grace_ms());
        }
    }
}

/// Counts on from the attempts that the runtime knows where the record has none: the disk was lost.
fn take_over_lost(task: &mut Task, mine: &[Found<'_>]) {
    let record = task.record();
    let floor = record.run.as_ref().map_or(0, |run| run.attempt_floor);
    let newest = mine.iter().map(|(attempt, _)| *attempt).max().unwrap_or(0);
    if newest > record.attempt && newest >= floor {
        task.take_over(newest);
    }
}

/// Decides about a task that this process has not seen yet.
fn first_look(task: &mut Task, ctx: &mut Context, current: Option<&Container>) {
    if late_look(task, ctx, current) {
        return;
    }
    match task.record().state {
        TaskState::Running | TaskState::Stopping => {
            task.container_ended(ctx, ContainerEnd::default())
        }
        // Under the same name, so that a container that was created is found.
        TaskState::Preparing if !task.is_to_end() => task.resume(ctx),
        _ => task.begin(ctx),
    }
}

/// Adopts a container that runs or ran although this process did not start it: an earlier one did, perhaps
/// with its last breath. Tells whether there was one.
fn late_look(task: &mut Task, ctx: &mut Context, current: Option<&Container>) -> bool {
    match current.map(|container| (container, container.state)) {
        Some((container, ContainerState::Running)) => {
            task.take_over_ports(ctx, container);
            task.found_running(ctx, container.id.clone());
        }
        Some((container, ContainerState::Ended(end))) => {
            task.found_ended(ctx, container.id.clone(), end);
        }
        Some((_, ContainerState::Created)) => {
            task.is_created = true;
            return false;
        }
        None => return false,
    }
    true
}

/// Removes a container that nobody needs, unless it is kept for its logs.
fn clear(ctx: &mut Context, ticket: u64, task: TaskId, container: &Container, grace_ms: u64) {
    let runs = container.state == ContainerState::Running;
    // What is kept has ended; where a list that was asked for later says otherwise, the list is right.
    let kept_at_step = ctx.shelf.kept_at_step(&container.id);
    if kept_at_step.is_some_and(|step| !runs || step > ticket) {
        return;
    }
    // One that was only created may be started yet, by an order that is on its way.
    let has_ended = matches!(container.state, ContainerState::Ended(_));
    ctx.remove(container.id.clone(), Some(task), if has_ended { 0 } else { grace_ms });
}
