//! The manager asked over the bus, as an operator asks it.

use std::time::Duration;

use longshore_bus::{Ask, AskError, Bus, ConnectError, Options, Tls};
use longshore_proto::api::{
    ClusterView, JobStopped, JobSubmitted, JobView, ListEvents, ListNodes, ListTasks, NameJob,
    NameTask, NodeView, Nothing, Page, SubmitJob, TaskStopped, TaskView,
};
use longshore_proto::event::Event;
use longshore_proto::id::CommandId;
use longshore_proto::name::{JobName, Namespace, Root};
use longshore_proto::permission::Role;
use longshore_proto::spec::{JobSpec, JobType, TaskSpec};
use longshore_proto::subject::{ApiVerb, Level, Scope, Subject};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::users::Users;

/// How long a question may wait, unless a test says otherwise.
const DEADLINE: Duration = Duration::from_secs(20);

/// An operator's connection.
#[derive(Debug, Clone)]
pub struct Api {
    bus: Bus,
}

/// Connects as a user.
pub async fn connect(url: &str, users: &Users, role: Role, name: &str) -> Bus {
    try_connect(url, users, role, name).await.unwrap()
}

/// Connects as a user, perhaps in vain.
pub async fn try_connect(
    url: &str,
    users: &Users,
    role: Role,
    name: &str,
) -> Result<Bus, ConnectError> {
    let credentials = Some(users.credentials(role, name));
    Bus::connect(options(url, users.root(), role, name, credentials)).await
}

/// The options of a connection.
pub fn options(
    url: &str,
    root: &Root,
    role: Role,
    name: &str,
    credentials: Option<longshore_bus::Credentials>,
) -> Options {
    Options {
        servers: url.to_owned(),
        root: root.clone(),
        role,
        user: name.parse().unwrap(),
        credentials,
        tls: Tls::default(),
        wait_for_server: false,
    }
}

/// A fresh id for a command.
pub fn command_id() -> CommandId {
    CommandId(Uuid::now_v7())
}

/// A service of one instance of the test image.
pub fn service(name: &str) -> JobSpec {
    job(name, JobType::Service)
}

/// A batch job of one instance of the test image.
pub fn batch(name: &str) -> JobSpec {
    job(name, JobType::Batch)
}

fn job(name: &str, job_type: JobType) -> JobSpec {
    let mut spec = TaskSpec::new("main".parse().unwrap(), crate::IMAGE);
    spec.command = ["sleep", "1000000"].map(str::to_owned).to_vec();
    spec.stop_grace_ms = 500;
    JobSpec::new(name.parse().unwrap(), job_type, spec)
}

/// The states of the alarms in a history, in order; but for those of the machine's own disk, which is no test's.
pub fn alarm_states(history: &[Event]) -> Vec<&str> {
    let is_of_test = |event: &&Event| {
        let reason = event.reason.as_deref().unwrap_or_default();
        event.event_type == "cluster.alarm" && !reason.starts_with("the disk of this manager")
    };
    history.iter().filter(is_of_test).filter_map(|event| event.state.as_deref()).collect()
}

impl Api {
    /// Asks over a connection.
    pub fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// The connection.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Asks with a deadline, about a scope.
    pub async fn ask<A: DeserializeOwned>(
        &self,
        scope: Scope,
        verb: ApiVerb,
        question: &impl Serialize,
        ask: Ask,
    ) -> Result<A, AskError> {
        let subject = Subject::Api { scope, verb };
        self.bus.ask(&subject, question, ask).await.map(|(_, answer)| answer)
    }

    async fn usual<A: DeserializeOwned>(
        &self,
        verb: ApiVerb,
        question: &impl Serialize,
    ) -> Result<A, AskError> {
        let ask = match verb.level() {
            Level::Read => Ask::read(DEADLINE),
            Level::Write | Level::Admin => Ask::write(command_id(), DEADLINE),
        };
        self.ask(Scope::Namespace(Namespace::standard()), verb, question, ask).await
    }

    /// How the cluster stands.
    pub async fn status(&self) -> Result<ClusterView, AskError> {
        self.ask(Scope::Cluster, ApiVerb::ClusterStatus, &Nothing {}, Ask::read(DEADLINE)).await
    }

    /// Submits a job.
    pub async fn submit(&self, job: &JobSpec) -> Result<JobSubmitted, AskError> {
        self.submit_as(job, command_id()).await
    }

    /// Submits a job with a command id of the test's choice.
    pub async fn submit_as(&self, job: &JobSpec, id: CommandId) -> Result<JobSubmitted, AskError> {
        let scope = Scope::Namespace(job.namespace.clone());
        let question = SubmitJob { job: job.clone() };
        self.ask(scope, ApiVerb::JobSubmit, &question, Ask::write(id, DEADLINE)).await
    }

    /// A job.
    pub async fn job(&self, name: &str) -> Result<JobView, AskError> {
        self.usual(ApiVerb::JobGet, &NameJob { name: name.parse().unwrap() }).await
    }

    /// Stops a job.
    pub async fn stop_job(&self, name: &str) -> Result<JobStopped, AskError> {
        self.usual(ApiVerb::JobStop, &NameJob { name: name.parse().unwrap() }).await
    }

    /// Stops a task.
    pub async fn stop_task(&self, id: &str) -> Result<TaskStopped, AskError> {
        self.usual(ApiVerb::TaskStop, &NameTask { id: id.to_owned() }).await
    }

    /// Every task of a job, the ended ones too.
    pub async fn tasks(&self, job: &str) -> Result<Vec<TaskView>, AskError> {
        let job: Option<JobName> = Some(job.parse().unwrap());
        let question = ListTasks { job, ended: true, ..ListTasks::default() };
        let page: Page<TaskView> = self.usual(ApiVerb::TaskList, &question).await?;
        assert!(!page.more, "a test's job fits in one page");
        Ok(page.items)
    }

    /// Every node.
    pub async fn nodes(&self) -> Result<Vec<NodeView>, AskError> {
        let page: Page<NodeView> = self.usual(ApiVerb::NodeList, &ListNodes::default()).await?;
        Ok(page.items)
    }

    /// The whole history.
    pub async fn history(&self) -> Result<Vec<Event>, AskError> {
        let mut all: Vec<Event> = Vec::new();
        loop {
            let after = all.last().map(|event| (event.index, event.ordinal));
            let question = ListEvents { after, ..ListEvents::default() };
            let ask = Ask::read(DEADLINE);
            let page: Page<Event> =
                self.ask(Scope::Cluster, ApiVerb::EventList, &question, ask).await?;
            all.extend(page.items);
            if !page.more {
                return Ok(all);
            }
        }
    }
}
