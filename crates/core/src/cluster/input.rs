//! Everything that may arrive at the manager's brain, and the queue that it waits in.

use std::collections::VecDeque;

use longshore_proto::alarm::Severity;
use longshore_proto::api::{DrainNodes, LabelNode, NameNode, NameNodes, RemoveNode};
use longshore_proto::id::CommandId;
use longshore_proto::name::{JobKey, Namespace, NodeName, SpecName, UserName};
use longshore_proto::node::{Heartbeat, Register, Reports};
use longshore_proto::permission::Role;
use longshore_proto::plan::Rebalance;
use longshore_proto::quantity::format_duration;
use longshore_proto::spec::JobSpec;
use serde::Serialize;

/// A handle that the shell gives to a request and finds again in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Something that arrived.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A request that changes something.
    Command {
        /// Where the answer goes.
        ticket: Ticket,
        /// The asker's role, by its inbox.
        role: Role,
        /// The asker's name, by its inbox.
        user: UserName,
        /// Who the asker says it is, for people.
        actor: Option<String>,
        /// The id that a retry repeats.
        id: CommandId,
        /// What is asked.
        command: Command,
    },
    /// A worker wants to join.
    Register {
        /// Where the answer goes.
        ticket: Ticket,
        /// The node, by the subject.
        node: NodeName,
        /// What it says.
        register: Box<Register>,
    },
    /// A node gives a sign of life.
    Heartbeat {
        /// The node, by the subject.
        node: NodeName,
        /// What it says.
        heartbeat: Box<Heartbeat>,
    },
    /// A node speaks of its tasks.
    Reports {
        /// Where the answer goes.
        ticket: Ticket,
        /// The node, by the subject.
        node: NodeName,
        /// What it says.
        reports: Reports,
    },
    /// A manager stands by.
    ManagerSeen {
        /// Its name.
        name: UserName,
    },
    /// How bad something is, as it was just found: what an operator should know of.
    Alarm {
        /// What it is about: one alarm each.
        about: &'static str,
        /// How bad it is.
        severity: Severity,
        /// In words, with what to do.
        text: String,
    },
    /// Somebody wants to know that everything acknowledged so far is seen here, and that this manager still
    /// leads: answered with the receipt of the next record, which is made for it if need be.
    Barrier {
        /// Where the answer goes.
        ticket: Ticket,
    },
    /// This manager's connection to the bus broke: silence means nothing while it is down.
    BusLost,
    /// This manager's connection to the bus is back.
    BusBack,
}

impl Input {
    /// Whether somebody waits for an answer who is no worker that tells of its tasks.
    pub(super) fn is_request(&self) -> bool {
        matches!(self, Self::Command { .. } | Self::Register { .. } | Self::Barrier { .. })
    }
}

/// What waits to be decided on, in two lanes, each in the order of arrival: reports come by the thousand when many tasks
/// start at once, and neither who asks for something nor a sign of life must wait for all of them.
#[derive(Debug, Default)]
pub struct Queue {
    prompt: VecDeque<Input>,
    reports: VecDeque<Input>,
}

impl Queue {
    /// Adds an input to the end of its lane.
    pub fn push(&mut self, input: Input) {
        let is_goodbye = matches!(&input, Input::Heartbeat { heartbeat, .. } if heartbeat.leaving);
        // A goodbye must not overtake the last reports.
        if is_goodbye || matches!(input, Input::Reports { .. }) {
            self.reports.push_back(input);
        } else {
            self.prompt.push_back(input);
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.prompt.is_empty() && self.reports.is_empty()
    }

    /// Whether somebody waits for an answer who is no worker that tells of its tasks.
    pub fn has_requests(&self) -> bool {
        self.prompt.iter().any(Input::is_request)
    }

    /// How many wait in the lane of everything but reports and goodbyes.
    pub fn prompt(&self) -> usize {
        self.prompt.len()
    }

    /// How many reports and goodbyes wait.
    pub fn reports(&self) -> usize {
        self.reports.len()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.prompt.clear();
        self.reports.clear();
    }

    pub(super) fn next_prompt(&mut self) -> Option<Input> {
        self.prompt.pop_front()
    }

    pub(super) fn next_reports(&mut self) -> Option<Input> {
        self.reports.pop_front()
    }
}

impl Extend<Input> for Queue {
    fn extend<I: IntoIterator<Item = Input>>(&mut self, inputs: I) {
        inputs.into_iter().for_each(|input| self.push(input));
    }
}

impl FromIterator<Input> for Queue {
    fn from_iter<I: IntoIterator<Item = Input>>(inputs: I) -> Self {
        let mut queue = Self::default();
        queue.extend(inputs);
        queue
    }
}

impl Command {
    /// The verb, and what it is about, for people who look back.
    pub fn told(&self) -> (&'static str, String) {
        match self {
            Self::SubmitJob(job) => ("job.submit", format!("{}/{}", job.namespace, job.name)),
            Self::StopJob(key) => ("job.stop", format!("{}/{}", key.namespace, key.name)),
            Self::ScaleJob { job, spec, instances } => {
                ("job.scale", format!("{}, to {instances} instances", part(job, spec.as_ref())))
            }
            Self::RestartJob { job, spec } => ("job.restart", part(job, spec.as_ref())),
            Self::RollBackJob { job, version } => {
                let wanted = version.map_or_else(
                    || "back by one version".to_owned(),
                    |version| format!("back to version {version}"),
                );
                ("job.rollback", format!("{}, {wanted}", part(job, None)))
            }
            Self::StopTask { namespace, id } => ("task.stop", format!("{namespace}/{id}")),
            Self::RestartTask { namespace, id } => ("task.restart", format!("{namespace}/{id}")),
            Self::Rebalance(_) => ("rebalance.start", "the cluster".to_owned()),
            Self::Node(command) => command.told(),
        }
    }

    /// The nodes that it is about.
    pub fn nodes(&self) -> &[NodeName] {
        match self {
            Self::Node(command) => command.nodes(),
            _ => &[],
        }
    }
}

/// A job, or a part of it, by its whole name.
fn part(job: &JobKey, spec: Option<&SpecName>) -> String {
    let spec = spec.map(|spec| format!(".{spec}"));
    format!("{}/{}{}", job.namespace, job.name, spec.unwrap_or_default())
}

impl NodeCommand {
    fn nodes(&self) -> &[NodeName] {
        match self {
            Self::Cordon(asked) | Self::Uncordon(asked) => &asked.names,
            Self::Drain(asked) => &asked.names,
            Self::Label(asked) => std::slice::from_ref(&asked.name),
            Self::ConfirmLost(asked) => std::slice::from_ref(&asked.name),
            Self::Remove(asked) => std::slice::from_ref(&asked.name),
        }
    }

    fn told(&self) -> (&'static str, String) {
        let names = self.nodes().iter().map(NodeName::as_str).take(NAMES_TOLD);
        let nodes = format!("node {}", names.collect::<Vec<_>>().join(", "));
        match self {
            Self::Cordon(_) => ("node.cordon", nodes),
            Self::Uncordon(_) => ("node.uncordon", nodes),
            Self::Drain(asked) => {
                let deadline = asked.deadline_ms.map(format_duration);
                let deadline = deadline.map(|deadline| format!("; deadline {deadline}"));
                ("node.drain", nodes + &deadline.unwrap_or_default())
            }
            Self::Label(asked) => {
                let set = asked.set.keys().take(NAMES_TOLD).map(|name| format!("{name} set"));
                // Counted and not named: they may be any number of words that the log has nothing of.
                let removed = match asked.remove.len() {
                    0 => None,
                    count => Some(format!("{count} taken away")),
                };
                let labels: Vec<String> = set.chain(removed).collect();
                ("node.label", format!("{nodes}; {}", labels.join(", ")))
            }
            Self::ConfirmLost(_) => ("node.confirm-lost", nodes),
            Self::Remove(asked) => {
                let force = if asked.force { "; though it is heard" } else { "" };
                ("node.remove", nodes + force)
            }
        }
    }
}

/// How many nodes or labels an audit names.
const NAMES_TOLD: usize = 10;

/// What can be asked for that changes something.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Command {
    /// Store a job and run it.
    SubmitJob(Box<JobSpec>),
    /// Stop a job.
    StopJob(JobKey),
    /// Want another number of instances of a part of a job.
    ScaleJob {
        /// The job.
        job: JobKey,
        /// The part; may be left out where there is only one.
        spec: Option<SpecName>,
        /// How many.
        instances: u32,
    },
    /// Have a job's tasks begin anew.
    RestartJob {
        /// The job.
        job: JobKey,
        /// Only this part.
        spec: Option<SpecName>,
    },
    /// Make a job what it was.
    RollBackJob {
        /// The job.
        job: JobKey,
        /// The version that it is to be like; the latest before the current one when left out.
        version: Option<u64>,
    },
    /// Stop one task for good.
    StopTask {
        /// The namespace that it must be in.
        namespace: Namespace,
        /// Its id, or a unique beginning.
        id: String,
    },
    /// Have a new task take the place of one.
    RestartTask {
        /// The namespace that it must be in.
        namespace: Namespace,
        /// Its id, or a unique beginning.
        id: String,
    },
    /// Begin the moves that pay.
    Rebalance(Rebalance),
    /// Change how nodes are used.
    Node(NodeCommand),
}

/// What can be asked of nodes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum NodeCommand {
    /// Give them no new tasks.
    Cordon(NameNodes),
    /// Give them tasks again.
    Uncordon(NameNodes),
    /// Move off what they run.
    Drain(DrainNodes),
    /// Change what an operator says of one.
    Label(LabelNode),
    /// Take an operator's word that one has stopped.
    ConfirmLost(NameNode),
    /// Forget one.
    Remove(RemoveNode),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_says_what_was_asked_for_and_not_only_of_what() {
        let job = JobKey { namespace: Namespace::standard(), name: "web".parse().unwrap() };
        let spec: SpecName = "db".parse().unwrap();
        let node: NodeName = "n1".parse().unwrap();
        let scale =
            |spec: Option<SpecName>| Command::ScaleJob { job: job.clone(), spec, instances: 7 };
        let back = |version| Command::RollBackJob { job: job.clone(), version };
        let drain = |deadline_ms| {
            let names = vec![node.clone(), "n2".parse().unwrap()];
            Command::Node(NodeCommand::Drain(DrainNodes { names, deadline_ms }))
        };
        let label = LabelNode {
            name: node.clone(),
            set: [("rack".to_owned(), "r1".to_owned())].into(),
            remove: ["disk".to_owned()].into(),
        };
        let remove = RemoveNode { name: node.clone(), force: true };
        for (command, told) in [
            (scale(None), "default/web, to 7 instances"),
            (scale(Some(spec.clone())), "default/web.db, to 7 instances"),
            (Command::RestartJob { job: job.clone(), spec: Some(spec) }, "default/web.db"),
            (back(None), "default/web, back by one version"),
            (back(Some(3)), "default/web, back to version 3"),
            (drain(None), "node n1, n2"),
            (drain(Some(600_000)), "node n1, n2; deadline 10m"),
            (Command::Node(NodeCommand::Label(label)), "node n1; rack set, 1 taken away"),
            (Command::Node(NodeCommand::Remove(remove)), "node n1; though it is heard"),
        ] {
            assert_eq!(command.told().1, told);
        }
    }
}
