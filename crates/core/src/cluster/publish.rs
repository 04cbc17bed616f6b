//! What a fact looks like to the world outside: its event.

use longshore_proto::event::{AUDIT, Event, JobWants};
use longshore_proto::id::TaskId;
use longshore_proto::name::{JobKey, NodeName};
use longshore_proto::quantity::format_duration;
use longshore_proto::state::{JobStatus, TaskState};

use super::record::{CommandAnswer, Fact};
use super::state::State;

/// The event of a fact that was just applied; `None` for facts that are nobody else's business.
pub(super) fn event(
    state: &State,
    fact: &Fact,
    index: u64,
    ordinal: u32,
    at_ms: u64,
) -> Option<Event> {
    let blank = Event::bare(index, ordinal, at_ms, String::new());
    let job = |key: &JobKey, change: &'static str| Event {
        event_type: format!("job.{change}"),
        namespace: Some(key.namespace.clone()),
        job: Some(key.name.clone()),
        ..blank.clone()
    };
    let task = |id: TaskId| task_event(state, &blank, id);
    let node =
        |name: &NodeName, change: &str, reason: Option<String>, actor: Option<&String>| Event {
            event_type: format!("node.{change}"),
            node: Some(name.clone()),
            reason,
            actor: actor.cloned(),
            ..blank.clone()
        };
    match fact {
        Fact::ClusterCreated { .. } => {
            Some(Event { event_type: "cluster.created".into(), ..blank })
        }
        Fact::LeaderElected { name, version, .. } => Some(Event {
            event_type: "cluster.leader-elected".into(),
            reason: Some(format!("manager {name}, version {version}, epoch {}", state.meta.epoch)),
            ..blank
        }),
        Fact::ManagerJoined { name } => Some(Event {
            event_type: "cluster.manager-joined".into(),
            reason: Some(format!("manager {name}")),
            ..blank
        }),
        Fact::AlarmChanged { severity, text, .. } => Some(Event {
            event_type: "cluster.alarm".into(),
            state: Some(severity.as_str().to_owned()),
            reason: Some(text.clone()),
            ..blank
        }),
        Fact::CommandGranted { key, answer, audit, .. } => {
            let audit = audit.as_ref()?;
            let version = match answer {
                CommandAnswer::Submitted(answer) => Some(answer.version),
                _ => None,
            };
            let stored = version.map(|version| format!(", version {version}"));
            let (job, task) = match answer {
                CommandAnswer::Submitted(answer) => (Some(answer.name.clone()), None),
                CommandAnswer::JobStopped(answer) => (Some(answer.name.clone()), None),
                CommandAnswer::TaskStopped(answer) => (Some(answer.job.clone()), Some(answer.id)),
                CommandAnswer::Rebalanced(_)
                | CommandAnswer::NodesChanged(_)
                | CommandAnswer::NodeGone(_) => (None, None),
            };
            Some(Event {
                event_type: format!("{AUDIT}{}", audit.verb),
                namespace: audit.of.split('/').next().and_then(|name| name.parse().ok()),
                job,
                task,
                nodes: audit.nodes.clone(),
                reason: Some(format!(
                    "{}{}, command {}",
                    audit.of,
                    stored.unwrap_or_default(),
                    key.id
                )),
                actor: Some(audit.actor.clone()),
                ..blank
            })
        }
        Fact::TaskStopRequested { .. } | Fact::JobForgotten { .. } => None,
        Fact::JobSubmitted { version, job: spec, actor, rolled_back } => {
            let mut event = job(&spec.key(), "submitted");
            event.version = Some(*version);
            event.reason = Some(match rolled_back.as_deref() {
                Some(back) => format!("version {version}: {back}"),
                None => format!("version {version}"),
            });
            event.actor = Some(actor.clone());
            event.wants = Some(JobWants::from(&**spec));
            Some(event)
        }
        Fact::JobScaled { job: key, version, spec, instances, actor } => {
            let mut event = job(key, "submitted");
            event.spec = Some(spec.clone());
            event.version = Some(*version);
            event.reason = Some(format!("version {version}: {instances} instances of {spec}"));
            event.actor = Some(actor.clone());
            Some(event)
        }
        Fact::JobStopRequested { job: key, actor } => {
            let mut event = job(key, "stopping");
            event.actor = Some(actor.clone());
            Some(event)
        }
        Fact::JobStatusChanged { status: JobStatus::Stopping, .. } => None,
        Fact::JobStatusChanged { job: key, status } => {
            let mut event = job(key, status.as_str());
            event.state = Some(status.as_str().to_owned());
            Some(event)
        }
        Fact::PlacementBlocked { job: key, spec, reason } => {
            let mut event = job(key, "pending");
            event.spec = Some(spec.clone());
            event.reason = Some(reason.clone());
            Some(event)
        }
        Fact::TaskCreated { task: id, .. }
        | Fact::TaskPlaced { task: id, .. }
        | Fact::TaskWithdrawn { task: id, .. }
        | Fact::TaskLost { task: id, .. } => {
            let mut event = task(*id)?;
            if matches!(fact, Fact::TaskPlaced { .. }) {
                event.reason = state.tasks.get(id).and_then(|task| state.placement(task));
            }
            Some(event)
        }
        Fact::TaskReported { report } => {
            let mut event = task(report.task)?;
            event.exit_code = report.exit_code;
            Some(event)
        }
        Fact::NodeRegistered { name, node } => Some(Event {
            event_type: "node.registered".into(),
            node: Some(name.clone()),
            reason: Some(format!("worker version {}", node.version)),
            ..blank
        }),
        Fact::NodeResized { name, .. } => Some(Event {
            event_type: "node.updated".into(),
            node: Some(name.clone()),
            reason: Some("its capacity changed".into()),
            ..blank
        }),
        Fact::NodeStatusChanged { name, status, reason } => Some(Event {
            event_type: format!("node.{}", status.as_str()),
            node: Some(name.clone()),
            state: Some(status.as_str().to_owned()),
            reason: Some(reason.clone()),
            ..blank
        }),
        Fact::NodeCordoned { name, actor } => Some(node(name, "cordoned", None, Some(actor))),
        Fact::NodeUncordoned { name, actor } => Some(node(name, "uncordoned", None, Some(actor))),
        Fact::NodeDrainRequested { name, deadline_ms, actor, .. } => {
            let within = deadline_ms.as_ref().map(|ms| format!("within {}", format_duration(*ms)));
            Some(node(name, "draining", within, Some(actor)))
        }
        Fact::NodeDrainBlocked { name, job, spec, reason } => {
            let mut event = node(name, "drain-blocked", Some(reason.clone()), None);
            event.namespace = Some(job.namespace.clone());
            event.job = Some(job.name.clone());
            event.spec = Some(spec.clone());
            Some(event)
        }
        Fact::NodeDrainOverdue { name } => {
            let reason = "the deadline has come; what is left is ended".to_owned();
            Some(node(name, "drain-overdue", Some(reason), None))
        }
        Fact::NodeDrained { name } => Some(node(name, "drained", None, None)),
        Fact::NodeLabelled { name, set, remove, actor } => {
            let set = set.iter().map(|(label, value)| format!("{label}={value}"));
            let removed = remove.iter().map(|label| format!("{label}-"));
            let reason = set.chain(removed).collect::<Vec<_>>().join(" ");
            Some(node(name, "labelled", Some(reason), Some(actor)))
        }
        Fact::NodeConfirmedLost { name, actor } => {
            Some(node(name, "confirmed-lost", None, Some(actor)))
        }
        Fact::NodeAhead { name, revision } => {
            let reason =
                format!("its worker follows revision {revision}, which no record of this log has");
            Some(node(name, "ahead", Some(reason), None))
        }
        Fact::NodeRemoved { name, actor } => Some(node(name, "removed", None, Some(actor))),
    }
}

fn task_event(state: &State, blank: &Event, id: TaskId) -> Option<Event> {
    let task = state.tasks.get(&id)?;
    let reached: TaskState = task.state;
    Some(Event {
        event_type: format!("task.{reached}"),
        namespace: Some(task.job.namespace.clone()),
        job: Some(task.job.name.clone()),
        spec: Some(task.spec.clone()),
        task: Some(id),
        node: task.node.clone(),
        state: Some(reached.as_str().to_owned()),
        attempt: Some(task.attempt),
        reason: task.reason().map(str::to_owned),
        ..blank.clone()
    })
}
