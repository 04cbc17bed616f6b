//! The roles that clients of the bus have, and what each may speak and hear.
//!
//! Derived from the one list of subjects, as allow lists only: denials have been broken by wildcards in the
//! field. `longshore auth` writes these lists into the NATS server's configuration, and a test tries each
//! role against each subject on a real server.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::{NodeName, Root, UserName};
use crate::subject::{
    ApiVerb, Level, NodeVerb, Pattern, Scope, Subject, event_stream, lease_stream, lease_subject,
    log_stream, snapshot_stream,
};

/// What a client of the bus is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A manager in the managers' account: log, lease, events.
    ManagerCore,
    /// A manager in everybody's account: it answers and assigns.
    Manager,
    /// A worker, bound to the node of its name.
    Worker,
    /// A person or program that runs the cluster.
    Operator,
    /// A person or program that listens to events.
    Observer,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] =
        [Self::ManagerCore, Self::Manager, Self::Worker, Self::Operator, Self::Observer];

    /// As it is written in inboxes and credentials.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ManagerCore => "manager-core",
            Self::Manager => "manager",
            Self::Worker => "worker",
            Self::Operator => "operator",
            Self::Observer => "observer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The prefix of the subjects that a client's answers go to; nobody else may listen there.
/// One formula for every client.
pub fn inbox_prefix(role: Role, user: &UserName) -> String {
    format!("_INBOX.{role}.{user}")
}

/// The NATS account that a role lives in.
///
/// JetStream answers to whatever reply subject a request names and does not ask whether the asker may publish
/// there, so in an account with JetStream the right to one harmless request is in effect the right to all
/// (tried: a read that answers "404" to a stream's delete subject deletes it). Hence only managers have a
/// user in the account with JetStream; what others may ask of it comes to them by an import, whose answers
/// cannot leave their own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    /// Log, lease, snapshots and events: managers only.
    Core,
    /// Managers, workers and operators: no JetStream.
    Bus,
    /// Observers: events live, and their history by reads that make no state.
    Event,
}

impl Account {
    /// As it is written in the server's configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Core => "CORE",
            Self::Bus => "BUS",
            Self::Event => "EVENT",
        }
    }
}

impl Role {
    /// The account that the role lives in.
    pub fn account(self) -> Account {
        match self {
            Self::ManagerCore => Account::Core,
            Self::Manager | Self::Worker | Self::Operator => Account::Bus,
            Self::Observer => Account::Event,
        }
    }
}

/// Allow lists; whatever they do not name is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// What may be published on.
    pub publish: Vec<String>,
    /// What may be subscribed to.
    pub subscribe: Vec<String>,
}

/// What a user of a role may do.
pub fn permissions(role: Role, user: &UserName, root: &Root) -> Permissions {
    let own_inbox = format!("{}.>", inbox_prefix(role, user));
    match role {
        Role::ManagerCore => {
            Permissions { publish: core_publish(root), subscribe: vec![own_inbox] }
        }
        Role::Manager => Permissions {
            publish: vec![
                Pattern::Node(NodeVerb::Assign).text(root),
                "_INBOX.worker.*.>".to_owned(),
                "_INBOX.operator.*.>".to_owned(),
                // Answers to what observers ask by an import.
                "_R_.>".to_owned(),
            ],
            subscribe: vec![
                Pattern::ApiLevel(Level::Read).text(root),
                Pattern::ApiLevel(Level::Write).text(root),
                Pattern::ApiLevel(Level::Admin).text(root),
                Pattern::Node(NodeVerb::Register).text(root),
                Pattern::Node(NodeVerb::Sync).text(root),
                Pattern::Node(NodeVerb::Heartbeat).text(root),
                Pattern::Node(NodeVerb::Report).text(root),
                "$SRV.>".to_owned(),
                own_inbox,
            ],
        },
        Role::Worker => {
            let node = NodeName::from(user.clone());
            let own = |verb| Pattern::NodeOf(node.clone(), verb).text(root);
            Permissions {
                publish: vec![
                    own(NodeVerb::Register),
                    own(NodeVerb::Sync),
                    own(NodeVerb::Heartbeat),
                    own(NodeVerb::Report),
                    own(NodeVerb::Metrics),
                    Pattern::OutOf(node.clone()).text(root),
                ],
                subscribe: vec![
                    own(NodeVerb::Assign),
                    Pattern::RpcOf(node).text(root),
                    Pattern::MetricsWatch.text(root),
                    own_inbox,
                ],
            }
        }
        Role::Operator => {
            let mut publish = vec![
                Pattern::ApiLevel(Level::Read).text(root),
                Pattern::ApiLevel(Level::Write).text(root),
                Pattern::ApiLevel(Level::Admin).text(root),
                Pattern::Rpc.text(root),
                Subject::MetricsWatch.text(root),
            ];
            for verb in ["PING", "INFO", "STATS"] {
                publish.extend([format!("$SRV.{verb}"), format!("$SRV.{verb}.>")]);
            }
            Permissions {
                publish,
                subscribe: vec![
                    Pattern::OutFor(user.clone()).text(root),
                    Pattern::Node(NodeVerb::Metrics).text(root),
                    Pattern::Events.text(root),
                    own_inbox,
                ],
            }
        }
        Role::Observer => Permissions {
            publish: vec![
                format!("$JS.API.DIRECT.GET.{}", event_stream(root)),
                format!("$JS.API.DIRECT.GET.{}.>", event_stream(root)),
                cluster_status(root),
            ],
            subscribe: vec![
                Pattern::Events.text(root),
                Pattern::Node(NodeVerb::Metrics).text(root),
                own_inbox,
            ],
        },
    }
}

/// The one question that observers may ask of a manager.
pub fn cluster_status(root: &Root) -> String {
    Subject::Api { scope: Scope::Cluster, verb: ApiVerb::ClusterStatus }.text(root)
}

fn core_publish(root: &Root) -> Vec<String> {
    let mut publish = vec![
        Subject::Log.text(root),
        Pattern::Events.text(root),
        lease_subject(root),
        format!("$KV.{root}-lease.manager.*"),
        format!("$O.{root}-snapshot.>"),
        "$JS.API.INFO".to_owned(),
    ];
    let snapshots = snapshot_stream(root);
    for stream in [&log_stream(root), &event_stream(root), &lease_stream(root), &snapshots] {
        publish.extend([
            format!("$JS.API.STREAM.CREATE.{stream}"),
            format!("$JS.API.STREAM.UPDATE.{stream}"),
            format!("$JS.API.STREAM.INFO.{stream}"),
            format!("$JS.API.STREAM.MSG.GET.{stream}"),
            // Ordered consumers are made without a name.
            format!("$JS.API.CONSUMER.CREATE.{stream}"),
            format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
            format!("$JS.API.CONSUMER.INFO.{stream}.*"),
            format!("$JS.API.CONSUMER.DELETE.{stream}.*"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.*"),
        ]);
    }
    publish.extend([
        // The log is trimmed behind a snapshot.
        format!("$JS.API.STREAM.PURGE.{}", log_stream(root)),
        format!("$JS.API.STREAM.PURGE.{snapshots}"),
        format!("$JS.API.DIRECT.GET.{snapshots}.>"),
        "$JS.ACK.>".to_owned(),
        "$JS.FC.>".to_owned(),
    ]);
    publish
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a NATS pattern covers a subject.
    fn covers(pattern: &str, subject: &str) -> bool {
        let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
        loop {
            match (pattern.next(), subject.next()) {
                (Some(">"), Some(_)) => return true,
                (Some("*"), Some(_)) => {}
                (Some(wanted), Some(token)) if wanted == token => {}
                (None, None) => return true,
                _ => return false,
            }
        }
    }

    fn may_publish(role: Role, user: &str, subject: &str) -> bool {
        let permissions = permissions(role, &user.parse().unwrap(), &Root::standard());
        permissions.publish.iter().any(|pattern| covers(pattern, subject))
    }

    fn may_subscribe(role: Role, user: &str, subject: &str) -> bool {
        let permissions = permissions(role, &user.parse().unwrap(), &Root::standard());
        permissions.subscribe.iter().any(|pattern| covers(pattern, subject))
    }

    #[test]
    fn a_worker_speaks_only_for_its_own_node() {
        assert!(may_publish(Role::Worker, "w1", "longshore.v1.node.w1.report"));
        assert!(!may_publish(Role::Worker, "w1", "longshore.v1.node.w2.report"));
        assert!(!may_publish(Role::Worker, "w1", "longshore.v1.node.w1.assign"));
        assert!(!may_subscribe(Role::Worker, "w1", "longshore.v1.node.w2.assign"));
    }

    #[test]
    fn only_managers_touch_jetstream_but_for_an_observers_reads() {
        for role in [Role::Manager, Role::Worker, Role::Operator] {
            let permissions = permissions(role, &"x".parse().unwrap(), &Root::standard());
            assert!(
                !permissions
                    .publish
                    .iter()
                    .any(|subject| subject.starts_with("$JS") || subject == ">")
            );
            assert!(!may_publish(role, "x", "longshore.v1.log"));
            assert!(!may_publish(role, "x", "longshore.v1.event.cluster.created"));
        }
        assert!(!may_publish(Role::Observer, "x", "$JS.API.STREAM.DELETE.longshore-event"));
        assert!(!may_publish(Role::Observer, "x", "longshore.v1.api.write.default.job.submit"));
    }

    #[test]
    fn everybody_hears_its_own_inbox_and_nobody_elses() {
        for role in Role::ALL {
            assert!(may_subscribe(role, "a", &format!("_INBOX.{role}.a.x.1")));
            assert!(!may_subscribe(role, "a", &format!("_INBOX.{role}.b.x.1")));
        }
    }
}
