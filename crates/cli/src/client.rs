//! Questions to the manager: typed, paged, and with failures worded for people.

use std::fmt;
use std::time::Duration;

use longshore_bus::{Ask, AskError, Bus};
use longshore_proto::api::{
    BackupMade, BackupPart, ClusterView, JobStopped, JobSubmitted, JobVersion, JobView, ListEvents,
    ListJobs, ListNodes, ListTasks, NameJob, NameNode, NameTask, NameVersion, NodeGone, NodeView,
    NodesChanged, Nothing, PAGE_MAX, Page, ReadBackup, RemoveNode, SubmitJob, TaskStopped,
    TaskView,
};
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::event::Event;
use longshore_proto::id::CommandId;
use longshore_proto::name::{JobName, Namespace, NodeName};
use longshore_proto::permission::Role;
use longshore_proto::plan::{Outlook, Rebalance, RebalancePlan, TaskExplained, WhatIf};
use longshore_proto::spec::JobSpec;
use longshore_proto::subject::{ApiVerb, Scope, Subject};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use uuid::Uuid;

use crate::args::Global;
use crate::connect::Target;
use crate::failure::Failure;
use crate::parse::Moment;
use crate::render::Printer;
use crate::table;

/// How long it is looked whether somebody leads.
const LOOK: Duration = Duration::from_secs(1);

/// A connection, and whose things are meant.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    bus: Bus,
    namespace: Namespace,
    timeout: Duration,
    /// Whether questions go to the leader, behind a barrier.
    consistent: bool,
    /// The moment of the past that questions are about.
    at: Option<Moment>,
}

/// What a word of the user's names.
#[derive(Debug, Clone)]
pub(crate) enum Named {
    /// A job.
    Job(JobView),
    /// A task.
    Task(Box<TaskView>),
}

impl Client {
    /// Connects as the options say.
    pub(crate) async fn connect(global: &Global, printer: Printer) -> Result<Self, Failure> {
        let target = Target::of_verb(global, printer)?;
        let options = target.verb_options(global)?;
        let bus = Bus::connect(options)
            .await
            .map_err(|error| Failure::connecting(&error, &target.origin))?;
        Ok(Self::new(bus, global))
    }

    /// A client on a connection that is there.
    pub(crate) fn new(bus: Bus, global: &Global) -> Self {
        let (namespace, timeout) = (global.namespace(), global.timeout);
        Self { bus, namespace, timeout, consistent: global.consistent, at: None }
    }

    /// The same connection for another namespace.
    #[must_use]
    pub(crate) fn in_namespace(&self, namespace: Namespace) -> Self {
        Self { namespace, ..self.clone() }
    }

    /// The same connection for questions about another moment.
    #[must_use]
    pub(crate) fn at(&self, moment: Option<Moment>) -> Self {
        Self { at: moment, ..self.clone() }
    }

    /// The connection.
    pub(crate) fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The namespace that is meant.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// How the cluster stands, as any manager knows it.
    pub(crate) async fn cluster(&self) -> Result<ClusterView, AskError> {
        Ok(self.read(Scope::Cluster, ApiVerb::ClusterStatus, &Nothing {}).await?.1)
    }

    /// How the cluster stands, as its leader knows it: only a leader that can write to the log answers. For who
    /// may not ask it, the same as [`Client::cluster`].
    pub(crate) async fn cluster_of_leader(&self) -> Result<ClusterView, AskError> {
        let leader = Self { consistent: true, ..self.clone() };
        leader.cluster().await
    }

    /// Stores a job and runs it.
    pub(crate) async fn submit_job(&self, job: JobSpec) -> Result<JobSubmitted, AskError> {
        let scope = Scope::Namespace(job.namespace.clone());
        self.write(scope, ApiVerb::JobSubmit, &SubmitJob { job }).await
    }

    /// Stops a job.
    pub(crate) async fn stop_job(&self, name: &JobName) -> Result<JobStopped, AskError> {
        self.write(self.scope(), ApiVerb::JobStop, &NameJob { name: name.clone() }).await
    }

    /// Changes a job in a way that makes a new version of it.
    pub(crate) async fn revise_job(
        &self,
        verb: ApiVerb,
        asked: &impl Serialize,
    ) -> Result<JobSubmitted, AskError> {
        self.write(self.scope(), verb, asked).await
    }

    /// Has a new task take the place of one.
    pub(crate) async fn restart_task(&self, id: &str) -> Result<TaskStopped, AskError> {
        self.write(self.scope(), ApiVerb::TaskRestart, &NameTask { id: id.to_owned() }).await
    }

    /// What a version of a job says.
    pub(crate) async fn job_version(
        &self,
        name: &JobName,
        version: Option<u64>,
    ) -> Result<JobVersion, AskError> {
        let asked = NameVersion { name: name.clone(), version };
        Ok(self.read(self.scope(), ApiVerb::JobVersion, &asked).await?.1)
    }

    /// Stops a task for good.
    pub(crate) async fn stop_task(&self, id: &str) -> Result<TaskStopped, AskError> {
        self.write(self.scope(), ApiVerb::TaskStop, &NameTask { id: id.to_owned() }).await
    }

    /// Why a task is where it is, or waits.
    pub(crate) async fn explain(&self, id: &str) -> Result<TaskExplained, AskError> {
        let question = NameTask { id: id.to_owned() };
        Ok(self.read(self.scope(), ApiVerb::TaskExplain, &question).await?.1)
    }

    /// What would happen if.
    pub(crate) async fn whatif(&self, question: &WhatIf) -> Result<Outlook, AskError> {
        Ok(self.read(Scope::Cluster, ApiVerb::ClusterWhatIf, question).await?.1)
    }

    /// Which moves would pay.
    pub(crate) async fn rebalance_plan(
        &self,
        asked: &Rebalance,
    ) -> Result<RebalancePlan, AskError> {
        Ok(self.read(Scope::Cluster, ApiVerb::RebalancePlan, asked).await?.1)
    }

    /// Begins the moves that pay.
    pub(crate) async fn rebalance(&self, asked: &Rebalance) -> Result<RebalancePlan, AskError> {
        self.write(Scope::Cluster, ApiVerb::RebalanceStart, asked).await
    }

    /// One job.
    pub(crate) async fn job(&self, name: &JobName) -> Result<JobView, AskError> {
        Ok(self.read(self.scope(), ApiVerb::JobGet, &NameJob { name: name.clone() }).await?.1)
    }

    /// One task, by its id or the beginning of it.
    pub(crate) async fn task(&self, id: &str) -> Result<TaskView, AskError> {
        Ok(self.read(self.scope(), ApiVerb::TaskGet, &NameTask { id: id.to_owned() }).await?.1)
    }

    /// One node.
    pub(crate) async fn node(&self, name: &NodeName) -> Result<NodeView, AskError> {
        Ok(self.read(Scope::Cluster, ApiVerb::NodeGet, &NameNode { name: name.clone() }).await?.1)
    }

    /// One node, as the leader knows it: it alone counts deadlines.
    pub(crate) async fn node_of_leader(&self, name: &NodeName) -> Result<NodeView, AskError> {
        let leader = Self { consistent: true, ..self.clone() };
        leader.node(name).await
    }

    /// Changes nodes, or one; gives those that are different now.
    pub(crate) async fn change_nodes(
        &self,
        verb: ApiVerb,
        asked: &impl Serialize,
    ) -> Result<NodesChanged, AskError> {
        self.write(Scope::Cluster, verb, asked).await
    }

    /// Says that a silent node has stopped.
    pub(crate) async fn confirm_lost(&self, name: &NodeName) -> Result<NodeGone, AskError> {
        let asked = NameNode { name: name.clone() };
        self.write(Scope::Cluster, ApiVerb::NodeConfirmLost, &asked).await
    }

    /// Forgets a node.
    pub(crate) async fn remove_node(&self, asked: &RemoveNode) -> Result<NodeGone, AskError> {
        self.write(Scope::Cluster, ApiVerb::NodeRemove, asked).await
    }

    /// Every job, of this namespace or of all.
    pub(crate) async fn jobs(&self, all_namespaces: bool) -> Result<Vec<JobView>, AskError> {
        let scope = if all_namespaces { Scope::Cluster } else { self.scope() };
        let mut question = ListJobs { limit: Some(PAGE_MAX), ..ListJobs::default() };
        let mut all: Vec<JobView> = Vec::new();
        loop {
            let (_, page): (_, Page<JobView>) =
                self.read(scope.clone(), ApiVerb::JobList, &question).await?;
            all.extend(page.items);
            match all.last() {
                Some(last) if page.more => {
                    let after = Some((last.namespace.clone(), last.name.clone()));
                    if question.after == after {
                        return Ok(all);
                    }
                    question.after = after;
                }
                _ => return Ok(all),
            }
        }
    }

    /// Every task that the question fits.
    pub(crate) async fn tasks(&self, mut question: ListTasks) -> Result<Vec<TaskView>, AskError> {
        question.limit = Some(PAGE_MAX);
        let mut all: Vec<TaskView> = Vec::new();
        loop {
            let (_, page): (_, Page<TaskView>) =
                self.read(self.scope(), ApiVerb::TaskList, &question).await?;
            all.extend(page.items);
            let after = all.last().map(|task| task.id);
            if !page.more || after.is_none() || after == question.after {
                return Ok(all);
            }
            question.after = after;
        }
    }

    /// Every node.
    pub(crate) async fn nodes(&self) -> Result<Vec<NodeView>, AskError> {
        let mut question = ListNodes { limit: Some(PAGE_MAX), after: None };
        let mut all: Vec<NodeView> = Vec::new();
        loop {
            let (_, page): (_, Page<NodeView>) =
                self.read(Scope::Cluster, ApiVerb::NodeList, &question).await?;
            all.extend(page.items);
            let after = all.last().map(|node| node.name.clone());
            if !page.more || after.is_none() || after == question.after {
                return Ok(all);
            }
            question.after = after;
        }
    }

    /// One page of events, and the index of the log that it reflects.
    pub(crate) async fn events(
        &self,
        scope: Scope,
        question: &ListEvents,
    ) -> Result<(u64, Page<Event>), AskError> {
        self.read(scope, ApiVerb::EventList, question).await
    }

    /// When what is shown was so, in Unix milliseconds: now, or at the moment that is asked about. Of an index this is the
    /// time of its events, or of the next ones.
    pub(crate) async fn shown_at_ms(&self) -> Result<u64, AskError> {
        let now_ms = table::now_ms();
        match self.at {
            None => Ok(now_ms),
            Some(Moment::Time(at_ms)) => Ok(at_ms.min(now_ms)),
            Some(Moment::Index(index)) => {
                let after = Some((index.saturating_sub(1), u32::MAX));
                let question = ListEvents { after, limit: Some(1), ..ListEvents::default() };
                let (_, page) = self.at(None).events(Scope::Cluster, &question).await?;
                Ok(page.items.first().map_or(now_ms, |event| event.at_ms))
            }
        }
    }

    /// What a word names: a job by its exact name, else a task by the beginning of its id.
    pub(crate) async fn named(&self, word: &str) -> Result<Named, Failure> {
        if let Ok(name) = word.parse::<JobName>() {
            match self.job(&name).await {
                Ok(job) => return Ok(Named::Job(job)),
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(Failure::asked(format_args!("find {word}"), &error)),
            }
        }
        if !is_id_beginning(word) {
            return Err(nothing_named(word));
        }
        match self.task(word).await {
            Ok(task) => Ok(Named::Task(Box::new(task))),
            Err(error) if is_not_found(&error) => Err(nothing_named(word)),
            Err(error) => Err(Failure::asked(format_args!("find {word}"), &error)),
        }
    }

    /// NATS drops what a user may not say, and the silence would be taken for an absent manager.
    fn allowed(&self, verb: ApiVerb) -> Result<(), ApiError> {
        if self.bus.role() != Role::Observer || verb == ApiVerb::ClusterStatus {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::Invalid,
            "an observer may only ask how the cluster stands, and follow events",
        )
        .hint("use an operator's credentials, or `longshore events -f`"))
    }

    fn scope(&self) -> Scope {
        Scope::Namespace(self.namespace.clone())
    }

    async fn read<Q: Serialize, A: DeserializeOwned>(
        &self,
        scope: Scope,
        verb: ApiVerb,
        question: &Q,
    ) -> Result<(u64, A), AskError> {
        self.allowed(verb)?;
        // An observer's import holds one subject, and that is every manager's; and every manager has the past.
        let behind_barrier = self.consistent && self.at.is_none();
        let subject = if behind_barrier && self.bus.role() != Role::Observer {
            Subject::LeaderRead { scope, verb }
        } else {
            Subject::Api { scope, verb }
        };
        let mut ask = Ask::read(self.timeout);
        ask.at = self.at.as_ref().map(ToString::to_string);
        self.ask(&subject, verb, question, ask).await
    }

    /// Has the leader write a backup.
    pub(crate) async fn make_backup(&self) -> Result<BackupMade, AskError> {
        self.write(Scope::Cluster, ApiVerb::BackupMake, &Nothing {}).await
    }

    /// A part of a backup; empty at its end.
    pub(crate) async fn read_backup(&self, part: &ReadBackup) -> Result<Vec<u8>, AskError> {
        let part: BackupPart = self.write(Scope::Cluster, ApiVerb::BackupRead, part).await?;
        Ok(part.bytes)
    }

    async fn write<Q: Serialize, A: DeserializeOwned>(
        &self,
        scope: Scope,
        verb: ApiVerb,
        question: &Q,
    ) -> Result<A, AskError> {
        self.allowed(verb)?;
        let mut ask = Ask::write(CommandId(Uuid::now_v7()), self.timeout);
        ask.actor = actor();
        Ok(self.ask(&Subject::Api { scope, verb }, verb, question, ask).await?.1)
    }

    /// Asks by way of this server for half of the time, and by way of another one for the rest: this one may be cut off from the
    /// others, and from who leads.
    async fn ask_either<Q: Serialize, A: DeserializeOwned>(
        &self,
        subject: &Subject,
        question: &Q,
        ask: &Ask,
    ) -> Result<(u64, A), AskError> {
        let whole = ask.deadline;
        let of_time = |deadline| Ask { deadline, ..ask.clone() };
        if !self.bus.has_choice().await {
            return self.bus.ask(subject, question, of_time(whole)).await;
        }
        let start = Instant::now();
        let first = self.bus.ask(subject, question, of_time(whole / 2)).await;
        let Err(failure) = &first else { return first };
        if !is_silence(failure) {
            return first;
        }
        // Where no other one can be had, this one gets the rest of the time.
        let _ = tokio::time::timeout(whole / 4, self.bus.change_server()).await;
        let rest = whole.saturating_sub(start.elapsed());
        match self.bus.ask(subject, question, of_time(rest)).await {
            // What was heard there and not answered may have been done.
            Err(other) if is_silence(&other) && matches!(failure, AskError::TimedOut { .. }) => {
                first
            }
            second => second,
        }
    }

    /// Asks; and where nobody listens for this, finds out whether that is because it is unknown to the manager that leads.
    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        subject: &Subject,
        verb: ApiVerb,
        question: &Q,
        ask: Ask,
    ) -> Result<(u64, A), AskError> {
        let answered = self.ask_either(subject, question, &ask).await;
        let nobody_listens = matches!(answered, Err(AskError::NoResponders { .. }));
        if !nobody_listens || self.bus.role() == Role::Observer {
            return answered;
        }
        let status = Subject::LeaderRead { scope: Scope::Cluster, verb: ApiVerb::ClusterStatus };
        let leader = self.bus.ask::<_, ClusterView>(&status, &Nothing {}, Ask::read(LOOK)).await;
        let Ok((_, leader)) = leader else { return answered };
        // It may have begun to lead just now.
        match self.bus.ask(subject, question, Ask { deadline: LOOK, ..ask }).await {
            Err(AskError::NoResponders { .. }) => {
                let name = leader.leader_name.map_or_else(String::new, |name| format!(" {name}"));
                let version = leader.manager_version;
                let text = format!(
                    "the manager{name} leads, and does not know {}: it is of another version ({version})",
                    verb.as_str()
                );
                Err(ApiError::new(ErrorCode::Invalid, text)
                    .hint("upgrade the managers, or use the program of their version")
                    .into())
            }
            answered => answered,
        }
    }
}

/// Whether nobody answers who could, so that another server may lead to one who does.
fn is_silence(error: &AskError) -> bool {
    match error {
        AskError::NoResponders { .. } | AskError::TimedOut { .. } => true,
        AskError::Refused(refusal) => refusal.code.is_retryable(),
        _ => false,
    }
}

/// Whether the answer is that there is no such thing.
pub(crate) fn is_not_found(error: &AskError) -> bool {
    matches!(error, AskError::Refused(refusal) if refusal.code == ErrorCode::NotFound)
}

/// Whether a word may be the beginning of a task's id.
pub(crate) fn is_id_beginning(word: &str) -> bool {
    !word.is_empty()
        && word.len() <= 36
        && word.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// The failure that nothing has the name.
pub(crate) fn nothing_named(word: impl fmt::Display) -> Failure {
    Failure::new(format!("there is no job and no task {word}")).hint(
        "`longshore job ls` and `longshore ps -a` list them; --namespace names another namespace",
    )
}

/// Who asks, as the system says it.
fn actor() -> Option<String> {
    ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|n| !n.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hexadecimal_words_are_looked_up_as_tasks() {
        for id in ["0190a5d2", "0190A5D2-1c3f", "01890a5d-ac96-774b-bcce-b302099a8057"] {
            assert!(is_id_beginning(id), "{id}");
        }
        for word in ["", "web", "0190g", "01890a5d-ac96-774b-bcce-b302099a8057-1"] {
            assert!(!is_id_beginning(word), "{word}");
        }
    }
}
