//! What the api is asked, and what it answers.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::api::{
    Answer, BackupMade, BackupPart, ClusterView, DrainNodes, HistoryView, JobStopped, JobSubmitted,
    JobVersion, LabelNode, ListEvents, ListJobs, ListNodes, ListTasks, NameJob, NameNode,
    NameNodes, NameTask, NameVersion, NodeGone, NodesChanged, Nothing, Page, ReadBackup,
    RemoveNode, RestartJob, RollBackJob, ScaleJob, SubmitJob, TaskStopped,
};
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::{ClusterId, ManagerId, TaskId};
use longshore_proto::name::{Namespace, NodeName, Root};
use longshore_proto::state::TaskState;
use longshore_proto::subject::{ApiVerb, Scope, Subject};

use crate::samples::{
    draining_view, event, job, job_view, node_view, particular_job, task_view, uuid,
};
use crate::{Examples, ok};

pub(crate) fn api(examples: &mut Examples) {
    let subject = |scope: Scope, verb| Subject::Api { scope, verb }.text(&Root::standard());
    let own = || Scope::Namespace(Namespace::standard());
    let title = |verb: ApiVerb, scope| format!("{} (`{}`)", verb.as_str(), subject(scope, verb));

    examples.heading(&title(ApiVerb::ClusterStatus, Scope::Cluster));
    examples.message("Request:", &Nothing {});
    let view = ClusterView {
        id: ClusterId(uuid(1)),
        epoch: 3,
        leader: ManagerId(uuid(3)),
        leader_name: Some("m1".parse().unwrap()),
        manager_version: "0.1.0".into(),
        jobs: 1,
        tasks: BTreeMap::from([(TaskState::Running, 2)]),
        nodes: BTreeMap::from([("ready".to_owned(), 1)]),
        records_skipped: 0,
        payloads_refused: 0,
        alarms: vec![],
        warnings: vec!["the log is 71 % full (728MiB of 1GiB)".into()],
        history: Some(HistoryView {
            from_index: 1,
            from_ms: 1_763_800_000_000,
            joined_index: Some(9),
        }),
    };
    examples.message("Answer:", &ok(view));

    examples.heading(&title(ApiVerb::JobSubmit, own()));
    examples.message("Request:", &SubmitJob { job: job() });
    examples.message(
        "Request, with what may be said of where tasks run and what is mounted:",
        &SubmitJob { job: particular_job() },
    );
    let submitted =
        JobSubmitted { namespace: Namespace::standard(), name: "web".parse().unwrap(), version: 1 };
    examples.message("Answer:", &ok(submitted));
    let refusal = ApiError::new(ErrorCode::Invalid, "specs.main.instances is 0")
        .hint("use 1 to 100000; stop the job to have none");
    examples.message("Refusal:", &Answer::<JobSubmitted>::new(12, Err(refusal)));

    examples.heading(&title(ApiVerb::JobStop, own()));
    examples.message("Request:", &NameJob { name: "web".parse().unwrap() });
    examples.message("Answer:", &ok(JobStopped { name: "web".parse().unwrap(), tasks_live: 2 }));

    examples.heading(&title(ApiVerb::JobScale, own()));
    let (name, main) = ("web".parse().unwrap(), Some("main".parse().unwrap()));
    examples.message("Request:", &ScaleJob { name, spec: main.clone(), instances: 4 });
    let version = |version| JobSubmitted {
        namespace: Namespace::standard(),
        name: "web".parse().unwrap(),
        version,
    };
    examples.message("Answer:", &ok(version(2)));

    examples.heading(&title(ApiVerb::JobRestart, own()));
    examples.message("Request:", &RestartJob { name: "web".parse().unwrap(), spec: main });
    examples.message("Answer:", &ok(version(3)));

    examples.heading(&title(ApiVerb::JobRollBack, own()));
    examples.message("Request:", &RollBackJob { name: "web".parse().unwrap(), version: Some(1) });
    examples.message("Answer:", &ok(version(4)));

    examples.heading(&title(ApiVerb::JobVersion, own()));
    examples.message("Request:", &NameVersion { name: "web".parse().unwrap(), version: Some(1) });
    let said = JobVersion { version: 1, versions: vec![1, 2, 3, 4], job: job() };
    examples.message("Answer:", &ok(said));

    examples.heading(&title(ApiVerb::JobGet, own()));
    examples.message("Request:", &NameJob { name: "web".parse().unwrap() });
    examples.message("Answer:", &ok(job_view()));

    examples.heading(&title(ApiVerb::JobList, own()));
    examples.message("Request:", &ListJobs { after: None, limit: Some(100) });
    examples.message("Answer:", &ok(Page { items: vec![job_view()], more: false }));

    examples.heading(&title(ApiVerb::TaskStop, own()));
    examples.message("Request:", &NameTask { id: "01970000".into() });
    let stopped = TaskStopped {
        id: TaskId(uuid(7)),
        job: "web".parse().unwrap(),
        spec: "main".parse().unwrap(),
        instances: 1,
    };
    examples.message("Answer:", &ok(stopped.clone()));

    examples.heading(&title(ApiVerb::TaskRestart, own()));
    examples.message("Request:", &NameTask { id: "01970000".into() });
    examples.message("Answer:", &ok(TaskStopped { instances: 2, ..stopped }));

    examples.heading(&title(ApiVerb::TaskGet, own()));
    examples.message("Request:", &NameTask { id: "01970000".into() });
    examples.message("Answer:", &ok(task_view()));

    examples.heading(&title(ApiVerb::TaskList, own()));
    let list = ListTasks {
        job: Some("web".parse().unwrap()),
        ended: true,
        limit: Some(100),
        ..ListTasks::default()
    };
    examples.message("Request:", &list);
    examples.message("Answer:", &ok(Page { items: vec![task_view()], more: false }));

    examples.heading(&title(ApiVerb::NodeGet, Scope::Cluster));
    examples.message("Request:", &NameNode { name: "n1".parse().unwrap() });
    examples.message("Answer:", &ok(node_view()));
    examples.message("Answer, of a node that is draining:", &ok(draining_view()));

    examples.heading(&title(ApiVerb::NodeList, Scope::Cluster));
    examples.message("Request:", &ListNodes::default());
    examples.message("Answer:", &ok(Page { items: vec![node_view()], more: false }));

    examples.heading(&title(ApiVerb::EventList, own()));
    examples.message(
        "Request:",
        &ListEvents {
            after: Some((11, 3)),
            limit: Some(100),
            node: Some("n1".parse().unwrap()),
            event_type: Some("task.running".into()),
            since_ms: Some(1_763_800_000_000),
            ..ListEvents::default()
        },
    );
    examples.message("Answer:", &ok(Page { items: vec![event()], more: false }));

    examples.heading(&title(ApiVerb::BackupMake, Scope::Cluster));
    examples.message("Request:", &Nothing {});
    examples.message("Answer:", &ok(BackupMade { index: 4_711, bytes: 52_000 }));

    examples.heading(&title(ApiVerb::BackupRead, Scope::Cluster));
    examples.message("Request:", &ReadBackup { index: 4_711, offset: 51_996 });
    examples.message("Answer:", &ok(BackupPart { bytes: vec![1, 2, 3, 4] }));
}

pub(crate) fn operated_nodes(examples: &mut Examples, title: &dyn Fn(ApiVerb, Scope) -> String) {
    let n1: NodeName = "n1".parse().unwrap();
    let names = vec![n1.clone(), "n2".parse().unwrap()];
    let changed = || ok(NodesChanged { names: vec![n1.clone()] });
    for verb in [ApiVerb::NodeCordon, ApiVerb::NodeUncordon] {
        examples.heading(&title(verb, Scope::Cluster));
        examples.message("Request:", &NameNodes { names: names.clone() });
        examples.message("Answer, when `n2` was like that already:", &changed());
    }
    examples.heading(&title(ApiVerb::NodeDrain, Scope::Cluster));
    examples.message("Request:", &DrainNodes { names, deadline_ms: Some(600_000) });
    examples.message("Answer:", &changed());

    examples.heading(&title(ApiVerb::NodeLabel, Scope::Cluster));
    let asked = LabelNode {
        name: n1.clone(),
        set: BTreeMap::from([("rack".to_owned(), "r1".to_owned())]),
        remove: BTreeSet::from(["disk".to_owned()]),
    };
    examples.message("Request:", &asked);
    examples.message("Answer:", &changed());

    examples.heading(&title(ApiVerb::NodeConfirmLost, Scope::Cluster));
    examples.message("Request:", &NameNode { name: n1.clone() });
    examples.message("Answer:", &ok(NodeGone { name: n1.clone(), tasks_lost: 1 }));

    examples.heading(&title(ApiVerb::NodeRemove, Scope::Cluster));
    examples.message("Request:", &RemoveNode { name: n1.clone(), force: false });
    examples.message("Answer:", &ok(NodeGone { name: n1.clone(), tasks_lost: 2 }));
}
