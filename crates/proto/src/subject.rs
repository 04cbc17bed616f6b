//! The one list of subjects: every subject of Longshore as a typed value, with its text form both ways.
//!
//! `{root}.v1.` stands before all of them. Messages are published on a [`Subject`]; subscriptions and
//! permissions use a [`Pattern`], which is a subject with some tokens left open.

use std::fmt;

use crate::id::SessionId;
use crate::name::{JobName, Namespace, NodeName, Root, SpecName, UserName};
use crate::state::TaskState;

/// The token that stands in an api subject's place of the namespace when the request is about the cluster
/// as a whole, or about every namespace. It is no legal name, so it cannot collide with one.
pub const CLUSTER_SCOPE: &str = "_";

/// What a request may change; one token of its subject, so that a NATS permission can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    Read,
    /// Jobs and tasks of one namespace.
    Write,
    /// The cluster.
    Admin,
}

impl Level {
    /// As it is written in subjects.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// Whose things a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One namespace's.
    Namespace(Namespace),
    /// The cluster's, or every namespace's.
    Cluster,
}

impl Scope {
    /// As it is written in subjects.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Namespace(namespace) => namespace.as_str(),
            Self::Cluster => CLUSTER_SCOPE,
        }
    }

    fn parse(token: &str) -> Option<Self> {
        if token == CLUSTER_SCOPE {
            Some(Self::Cluster)
        } else {
            token.parse().ok().map(Self::Namespace)
        }
    }
}

/// Everything that can be asked of a manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ApiVerb {
    /// How the cluster stands: [`crate::api::Nothing`] → [`crate::api::ClusterView`].
    ClusterStatus,
    /// Jobs: [`crate::api::ListJobs`] → page of [`crate::api::JobView`].
    JobList,
    /// One job: [`crate::api::NameJob`] → [`crate::api::JobView`].
    JobGet,
    /// Store a job and run it: [`crate::api::SubmitJob`] → [`crate::api::JobSubmitted`].
    JobSubmit,
    /// Stop a job: [`crate::api::NameJob`] → [`crate::api::JobStopped`].
    JobStop,
    /// Another number of instances: [`crate::api::ScaleJob`] → [`crate::api::JobSubmitted`].
    JobScale,
    /// A job's tasks begin anew: [`crate::api::RestartJob`] → [`crate::api::JobSubmitted`].
    JobRestart,
    /// A job becomes what it was: [`crate::api::RollBackJob`] → [`crate::api::JobSubmitted`].
    JobRollBack,
    /// What a version of a job says: [`crate::api::NameVersion`] → [`crate::api::JobVersion`].
    JobVersion,
    /// Tasks: [`crate::api::ListTasks`] → page of [`crate::api::TaskView`].
    TaskList,
    /// One task: [`crate::api::NameTask`] → [`crate::api::TaskView`].
    TaskGet,
    /// Stop a task for good: [`crate::api::NameTask`] → [`crate::api::TaskStopped`].
    TaskStop,
    /// A task makes way for one that begins anew: [`crate::api::NameTask`] → [`crate::api::TaskStopped`].
    TaskRestart,
    /// Nodes: [`crate::api::ListNodes`] → page of [`crate::api::NodeView`].
    NodeList,
    /// One node: [`crate::api::NameNode`] → [`crate::api::NodeView`].
    NodeGet,
    /// Nodes take no new tasks: [`crate::api::NameNodes`] → [`crate::api::NodesChanged`].
    NodeCordon,
    /// Nodes take tasks again: [`crate::api::NameNodes`] → [`crate::api::NodesChanged`].
    NodeUncordon,
    /// Move off what nodes run: [`crate::api::DrainNodes`] → [`crate::api::NodesChanged`].
    NodeDrain,
    /// Change an operator's labels of a node: [`crate::api::LabelNode`] → [`crate::api::NodesChanged`].
    NodeLabel,
    /// Forget a node: [`crate::api::RemoveNode`] → [`crate::api::NodeGone`].
    NodeRemove,
    /// A node has stopped, by an operator's word: [`crate::api::NameNode`] → [`crate::api::NodeGone`].
    NodeConfirmLost,
    /// History: [`crate::api::ListEvents`] → page of [`crate::event::Event`].
    EventList,
    /// Write a backup: [`crate::api::Nothing`] → [`crate::api::BackupMade`].
    BackupMake,
    /// Read it: [`crate::api::ReadBackup`] → [`crate::api::BackupPart`].
    BackupRead,
    /// Why a task is where it is, or waits: [`crate::api::NameTask`] → [`crate::plan::TaskExplained`].
    TaskExplain,
    /// What would happen if: [`crate::plan::WhatIf`] → [`crate::plan::Outlook`].
    ClusterWhatIf,
    /// Which moves would pay: [`crate::plan::Rebalance`] → [`crate::plan::RebalancePlan`].
    RebalancePlan,
    /// Begin the moves that pay: [`crate::plan::Rebalance`] → [`crate::plan::RebalancePlan`].
    RebalanceStart,
}

impl ApiVerb {
    /// Every verb.
    pub const ALL: [Self; 28] = [
        Self::ClusterStatus,
        Self::JobList,
        Self::JobGet,
        Self::JobSubmit,
        Self::JobStop,
        Self::JobScale,
        Self::JobRestart,
        Self::JobRollBack,
        Self::JobVersion,
        Self::TaskList,
        Self::TaskGet,
        Self::TaskStop,
        Self::TaskRestart,
        Self::NodeList,
        Self::NodeGet,
        Self::EventList,
        Self::BackupMake,
        Self::BackupRead,
        Self::TaskExplain,
        Self::ClusterWhatIf,
        Self::RebalancePlan,
        Self::RebalanceStart,
        Self::NodeCordon,
        Self::NodeUncordon,
        Self::NodeDrain,
        Self::NodeLabel,
        Self::NodeRemove,
        Self::NodeConfirmLost,
    ];

    /// What it may change.
    pub fn level(self) -> Level {
        match self {
            Self::JobSubmit
            | Self::JobStop
            | Self::JobScale
            | Self::JobRestart
            | Self::JobRollBack
            | Self::TaskStop
            | Self::TaskRestart => Level::Write,
            Self::BackupMake
            | Self::BackupRead
            | Self::RebalanceStart
            | Self::NodeCordon
            | Self::NodeUncordon
            | Self::NodeDrain
            | Self::NodeLabel
            | Self::NodeRemove
            | Self::NodeConfirmLost => Level::Admin,
            Self::ClusterStatus
            | Self::JobList
            | Self::JobGet
            | Self::JobVersion
            | Self::TaskList
            | Self::TaskGet
            | Self::NodeList
            | Self::NodeGet
            | Self::EventList
            | Self::TaskExplain
            | Self::ClusterWhatIf
            | Self::RebalancePlan => Level::Read,
        }
    }

    /// The two last tokens of its subject: noun and verb.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterStatus => "cluster.status",
            Self::JobList => "job.list",
            Self::JobGet => "job.get",
            Self::JobSubmit => "job.submit",
            Self::JobStop => "job.stop",
            Self::JobScale => "job.scale",
            Self::JobRestart => "job.restart",
            Self::JobRollBack => "job.rollback",
            Self::JobVersion => "job.version",
            Self::TaskList => "task.list",
            Self::TaskGet => "task.get",
            Self::TaskStop => "task.stop",
            Self::TaskRestart => "task.restart",
            Self::NodeList => "node.list",
            Self::NodeGet => "node.get",
            Self::EventList => "event.list",
            Self::BackupMake => "backup.make",
            Self::BackupRead => "backup.read",
            Self::TaskExplain => "task.explain",
            Self::ClusterWhatIf => "cluster.whatif",
            Self::RebalancePlan => "rebalance.plan",
            Self::RebalanceStart => "rebalance.start",
            Self::NodeCordon => "node.cordon",
            Self::NodeUncordon => "node.uncordon",
            Self::NodeDrain => "node.drain",
            Self::NodeLabel => "node.label",
            Self::NodeRemove => "node.remove",
            Self::NodeConfirmLost => "node.confirm-lost",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text)
    }
}

/// What a node and the manager say to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeVerb {
    /// Worker → leader, answered: [`crate::node::Register`] → [`crate::node::Registered`].
    Register,
    /// Worker → leader, answered: [`crate::node::Sync`] → [`crate::node::SyncPage`].
    Sync,
    /// Worker → managers: [`crate::node::Heartbeat`].
    Heartbeat,
    /// Worker → leader, answered after the commit: [`crate::node::Reports`] → [`crate::node::ReportsCommitted`].
    Report,
    /// Leader → worker: [`crate::node::AssignDelta`].
    Assign,
    /// Worker → whoever listens: [`crate::metrics::NodeMetrics`].
    Metrics,
}

impl NodeVerb {
    /// Every verb.
    pub const ALL: [Self; 6] =
        [Self::Register, Self::Sync, Self::Heartbeat, Self::Report, Self::Assign, Self::Metrics];

    /// The last token of its subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Sync => "sync",
            Self::Heartbeat => "heartbeat",
            Self::Report => "report",
            Self::Assign => "assign",
            Self::Metrics => "metrics",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text)
    }
}

/// What an operator asks of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RpcVerb {
    /// [`crate::rpc::LogsRequest`] → a stream of [`crate::rpc::Chunk`].
    Logs,
    /// [`crate::rpc::ExecRequest`] → a stream of [`crate::rpc::Chunk`].
    Exec,
    /// [`crate::rpc::CopyFromRequest`] → a stream of [`crate::rpc::Chunk`].
    CopyFrom,
    /// [`crate::rpc::CopyToRequest`] → a stream of [`crate::rpc::Chunk`].
    CopyTo,
    /// [`crate::rpc::ForwardRequest`] → a stream of [`crate::rpc::Chunk`].
    Forward,
    /// [`crate::rpc::Input`].
    Input,
    /// [`crate::rpc::Credit`].
    Credit,
}

impl RpcVerb {
    /// Every verb.
    pub const ALL: [Self; 7] = [
        Self::Logs,
        Self::Exec,
        Self::CopyFrom,
        Self::CopyTo,
        Self::Forward,
        Self::Input,
        Self::Credit,
    ];

    /// The last token of its subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Exec => "exec",
            Self::CopyFrom => "copy-from",
            Self::CopyTo => "copy-to",
            Self::Forward => "forward",
            Self::Input => "input",
            Self::Credit => "credit",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text)
    }
}

/// A subject that a message is published on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// `{root}.v1.api.<read|write|admin>.<namespace>.<noun>.<verb>`
    Api {
        /// Whose things it is about.
        scope: Scope,
        /// What is asked; it knows its level.
        verb: ApiVerb,
    },
    /// `{root}.v1.api.read.<namespace>.<noun>.<verb>.leader`: a question that only the leader answers, after a
    /// barrier, so that the answer shows everything that was acknowledged before it was asked.
    LeaderRead {
        /// Whose things it is about.
        scope: Scope,
        /// What is asked; a verb that changes nothing.
        verb: ApiVerb,
    },
    /// `{root}.v1.node.<node>.<verb>`
    Node {
        /// The node that speaks or is spoken to.
        node: NodeName,
        /// What is said.
        verb: NodeVerb,
    },
    /// `{root}.v1.node.<node>.rpc.<verb>`
    Rpc {
        /// The node that is asked.
        node: NodeName,
        /// What is asked.
        verb: RpcVerb,
    },
    /// `{root}.v1.node.<node>.out.<user>.<session>`
    Out {
        /// The node that answers.
        node: NodeName,
        /// The user that asked; only this user may listen.
        user: UserName,
        /// The stream.
        session: SessionId,
    },
    /// `{root}.v1.metrics.watch`: a wish for fresher figures, to all workers.
    MetricsWatch,
    /// `{root}.v1.log`
    Log,
    /// `{root}.v1.event.task.<namespace>.<job>.<spec>.<state>`
    TaskEvent {
        /// The job's namespace.
        namespace: Namespace,
        /// The job.
        job: JobName,
        /// The part of the job.
        spec: SpecName,
        /// The state that was reached.
        state: TaskState,
    },
    /// `{root}.v1.event.job.<namespace>.<job>.<change>`
    JobEvent {
        /// The job's namespace.
        namespace: Namespace,
        /// The job.
        job: JobName,
        /// What happened to it.
        change: &'static str,
    },
    /// `{root}.v1.event.node.<node>.<change>`
    NodeEvent {
        /// The node.
        node: NodeName,
        /// What happened to it.
        change: &'static str,
    },
    /// `{root}.v1.event.cluster.<change>`
    ClusterEvent {
        /// What happened.
        change: &'static str,
    },
}

/// What can happen to a job.
pub const JOB_CHANGES: [&str; 7] =
    ["submitted", "stopping", "stopped", "running", "pending", "completed", "failed"];
/// What can happen to a node.
pub const NODE_CHANGES: [&str; 16] = [
    "registered",
    "updated",
    "ready",
    "suspect",
    "lost",
    "left",
    "cordoned",
    "uncordoned",
    "draining",
    "drain-blocked",
    "drain-overdue",
    "drained",
    "labelled",
    "removed",
    "confirmed-lost",
    "ahead",
];
/// What can happen to a cluster.
pub const CLUSTER_CHANGES: [&str; 4] = ["created", "leader-elected", "manager-joined", "alarm"];

impl Subject {
    /// The subject as text, under a root.
    pub fn text(&self, root: &Root) -> String {
        format!("{root}.v1.{}", Rest(self))
    }

    /// Reads a subject back. `None` when it is not one of ours.
    pub fn parse(root: &Root, text: &str) -> Option<Self> {
        let rest = text.strip_prefix(root.as_str())?.strip_prefix(".v1.")?;
        let tokens: Vec<&str> = rest.split('.').collect();
        match tokens.as_slice() {
            ["api", level, scope, noun, verb] => {
                let verb = ApiVerb::parse(&format!("{noun}.{verb}"))?;
                (verb.level().as_str() == *level).then_some(())?;
                Some(Self::Api { scope: Scope::parse(scope)?, verb })
            }
            ["api", "read", scope, noun, verb, "leader"] => {
                let verb = ApiVerb::parse(&format!("{noun}.{verb}"))?;
                (verb.level() == Level::Read).then_some(())?;
                Some(Self::LeaderRead { scope: Scope::parse(scope)?, verb })
            }
            ["node", node, verb] => {
                Some(Self::Node { node: node.parse().ok()?, verb: NodeVerb::parse(verb)? })
            }
            ["node", node, "rpc", verb] => {
                Some(Self::Rpc { node: node.parse().ok()?, verb: RpcVerb::parse(verb)? })
            }
            ["node", node, "out", user, session] => Some(Self::Out {
                node: node.parse().ok()?,
                user: user.parse().ok()?,
                session: session.parse().ok()?,
            }),
            ["metrics", "watch"] => Some(Self::MetricsWatch),
            ["log"] => Some(Self::Log),
            ["event", "task", namespace, job, spec, state] => Some(Self::TaskEvent {
                namespace: namespace.parse().ok()?,
                job: job.parse().ok()?,
                spec: spec.parse().ok()?,
                state: TaskState::parse(state)?,
            }),
            ["event", "job", namespace, job, change] => Some(Self::JobEvent {
                namespace: namespace.parse().ok()?,
                job: job.parse().ok()?,
                change: known(&JOB_CHANGES, change)?,
            }),
            ["event", "node", node, change] => Some(Self::NodeEvent {
                node: node.parse().ok()?,
                change: known(&NODE_CHANGES, change)?,
            }),
            ["event", "cluster", change] => {
                Some(Self::ClusterEvent { change: known(&CLUSTER_CHANGES, change)? })
            }
            _ => None,
        }
    }
}

fn known(list: &[&'static str], text: &str) -> Option<&'static str> {
    list.iter().copied().find(|item| *item == text)
}

/// What stands after `{root}.v1.`.
struct Rest<'a>(&'a Subject);

impl fmt::Display for Rest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Subject::Api { scope, verb } => {
                write!(f, "api.{}.{}.{}", verb.level().as_str(), scope.as_str(), verb.as_str())
            }
            Subject::LeaderRead { scope, verb } => {
                write!(f, "api.read.{}.{}.leader", scope.as_str(), verb.as_str())
            }
            Subject::Node { node, verb } => write!(f, "node.{node}.{}", verb.as_str()),
            Subject::Rpc { node, verb } => write!(f, "node.{node}.rpc.{}", verb.as_str()),
            Subject::Out { node, user, session } => write!(f, "node.{node}.out.{user}.{session}"),
            Subject::MetricsWatch => f.write_str("metrics.watch"),
            Subject::Log => f.write_str("log"),
            Subject::TaskEvent { namespace, job, spec, state } => {
                write!(f, "event.task.{namespace}.{job}.{spec}.{state}")
            }
            Subject::JobEvent { namespace, job, change } => {
                write!(f, "event.job.{namespace}.{job}.{change}")
            }
            Subject::NodeEvent { node, change } => write!(f, "event.node.{node}.{change}"),
            Subject::ClusterEvent { change } => write!(f, "event.cluster.{change}"),
        }
    }
}

/// A subject with open tokens, to subscribe to or to allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// One verb of the api, for every scope.
    Api(ApiVerb),
    /// Every question that only the leader answers, for every scope.
    LeaderReads,
    /// Every verb of a level, for every scope.
    ApiLevel(Level),
    /// One verb of every node.
    Node(NodeVerb),
    /// One verb of one node: the subject itself.
    NodeOf(NodeName, NodeVerb),
    /// Every question to one node.
    RpcOf(NodeName),
    /// Every question to every node.
    Rpc,
    /// Every answer of one node.
    OutOf(NodeName),
    /// Every node's answers to one user.
    OutFor(UserName),
    /// The answers of one stream of one node.
    OutSession(NodeName, UserName, SessionId),
    /// Wishes for fresher figures: the subject itself.
    MetricsWatch,
    /// Every event.
    Events,
}

impl Pattern {
    /// The pattern as text, under a root.
    pub fn text(&self, root: &Root) -> String {
        let rest = match self {
            Self::Api(verb) => format!("api.{}.*.{}", verb.level().as_str(), verb.as_str()),
            Self::LeaderReads => "api.read.*.*.*.leader".to_owned(),
            Self::ApiLevel(level) => format!("api.{}.>", level.as_str()),
            Self::Node(verb) => format!("node.*.{}", verb.as_str()),
            Self::NodeOf(node, verb) => format!("node.{node}.{}", verb.as_str()),
            Self::RpcOf(node) => format!("node.{node}.rpc.*"),
            Self::Rpc => "node.*.rpc.*".to_owned(),
            Self::OutOf(node) => format!("node.{node}.out.*.*"),
            Self::OutFor(user) => format!("node.*.out.{user}.*"),
            Self::OutSession(node, user, session) => format!("node.{node}.out.{user}.{session}"),
            Self::MetricsWatch => "metrics.watch".to_owned(),
            Self::Events => "event.>".to_owned(),
        };
        format!("{root}.v1.{rest}")
    }
}

/// The stream that holds the log, in the managers' account.
pub fn log_stream(root: &Root) -> String {
    format!("{root}-log")
}

/// The stream that holds the events, in the managers' account.
pub fn event_stream(root: &Root) -> String {
    format!("{root}-event")
}

/// Where the event stream republishes each event once it is stored, `{root}.v1.live.>`; the other accounts
/// import it under the events' own subjects. So what is heard live is stored, and nobody else can say it.
pub fn live_events(root: &Root) -> String {
    format!("{root}.v1.live.>")
}

/// The stream behind the bucket of snapshots, in the managers' account.
pub fn snapshot_stream(root: &Root) -> String {
    format!("OBJ_{root}-snapshot")
}

/// The stream behind the bucket that holds the leader's lease, in the managers' account.
pub fn lease_stream(root: &Root) -> String {
    format!("KV_{root}-lease")
}

/// The key that holds the leader's lease, as the subject of its bucket.
pub fn lease_subject(root: &Root) -> String {
    format!("$KV.{root}-lease.leader")
}

/// The key by which a manager says that it stands by, as the subject of the lease's bucket.
pub fn member_subject(root: &Root, manager: &UserName) -> String {
    format!("$KV.{root}-lease.manager.{manager}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_subject() -> Vec<Subject> {
        let node: NodeName = "n1".parse().unwrap();
        let namespace: Namespace = "team-a".parse().unwrap();
        let job: JobName = "web".parse().unwrap();
        let mut all = vec![Subject::Log, Subject::MetricsWatch];
        for verb in ApiVerb::ALL {
            all.push(Subject::Api { scope: Scope::Cluster, verb });
            all.push(Subject::Api { scope: Scope::Namespace(namespace.clone()), verb });
            if verb.level() == Level::Read {
                all.push(Subject::LeaderRead { scope: Scope::Cluster, verb });
            }
        }
        all.extend(NodeVerb::ALL.map(|verb| Subject::Node { node: node.clone(), verb }));
        all.extend(RpcVerb::ALL.map(|verb| Subject::Rpc { node: node.clone(), verb }));
        all.push(Subject::Out {
            node: node.clone(),
            user: "alice".parse().unwrap(),
            session: SessionId(uuid::Uuid::from_u128(7)),
        });
        all.extend(TaskState::ALL.map(|state| Subject::TaskEvent {
            namespace: namespace.clone(),
            job: job.clone(),
            spec: "main".parse().unwrap(),
            state,
        }));
        all.extend(JOB_CHANGES.map(|change| Subject::JobEvent {
            namespace: namespace.clone(),
            job: job.clone(),
            change,
        }));
        all.extend(NODE_CHANGES.map(|change| Subject::NodeEvent { node: node.clone(), change }));
        all.extend(CLUSTER_CHANGES.map(|change| Subject::ClusterEvent { change }));
        all
    }

    #[test]
    fn every_subject_is_read_back_from_its_text() {
        let root = Root::standard();
        for subject in every_subject() {
            let text = subject.text(&root);
            assert_eq!(Subject::parse(&root, &text), Some(subject), "{text}");
        }
    }

    #[test]
    fn subjects_of_others_are_not_ours() {
        let root = Root::standard();
        for text in [
            "longshore.v1.api.read.default.job.submit", // the level is the verb's, not the asker's choice
            "longshore.v1.api.write.a.b.job.submit",
            "longshore.v1.api.write.default.job.submit.leader", // what changes something is the leader's anyway
            "longshore.v2.log",
            "other.v1.log",
            "longshore.v1.node.n1.unknown",
            "longshore.v1.node.N1.assign",
            "longshore.v1.event.task.a.b.c.flying",
            "",
        ] {
            assert_eq!(Subject::parse(&root, text), None, "{text}");
        }
    }

    #[test]
    fn patterns_read_as_documented() {
        let root = Root::standard();
        assert_eq!(
            Pattern::Api(ApiVerb::JobSubmit).text(&root),
            "longshore.v1.api.write.*.job.submit"
        );
        assert_eq!(Pattern::Node(NodeVerb::Heartbeat).text(&root), "longshore.v1.node.*.heartbeat");
        assert_eq!(
            Pattern::OutFor("alice".parse().unwrap()).text(&root),
            "longshore.v1.node.*.out.alice.*"
        );
    }
}
