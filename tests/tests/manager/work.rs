//! From a submit to assignments and committed reports.

use longshore_proto::api::TaskView;
use longshore_proto::id::TaskId;
use longshore_proto::node::Want;
use longshore_proto::permission::Role::Worker;
use longshore_proto::spec::{JobSpec, RestartMode, RestartPolicy};
use longshore_proto::state::{JobStatus, NodeStatus, TaskState};
use longshore_tests::played::{Me, Played, wish};
use longshore_tests::{Api, Cluster, api, eventually};

use crate::SOON;

/// Waits until a job has a status.
async fn job_is(api: &Api, name: &str, status: JobStatus) {
    eventually(&format!("{name} is {}", status.as_str()), SOON, async || {
        match api.job(name).await {
            Ok(job) if job.status == status => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

async fn task(api: &Api, job: &str, id: TaskId) -> TaskView {
    let tasks = api.tasks(job).await.unwrap();
    tasks.into_iter().find(|task| task.id == id).unwrap()
}

#[tokio::test]
async fn a_job_becomes_assignments_and_its_reports_are_committed() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    let mut job = api::batch("sum");
    job.specs[0].instances = 2;
    job.specs[0].env.insert("A".into(), "1".into());
    let submitted = api.submit(&job).await.unwrap();
    assert_eq!((submitted.name.as_str(), submitted.version), ("sum", 1));

    let wanted = node.wanted_count(2).await;
    for assignment in &wanted {
        let Want::Run(run) = &assignment.want else { panic!("{assignment:?}") };
        // The worker is told everything, with every policy filled in.
        let resolved = job.clone().resolve();
        assert_eq!((run.job.as_str(), run.version, &run.spec), ("sum", 1, &resolved.specs[0]));
    }
    // A set that was asked for may come before the same is told.
    eventually("it is told live", SOON, async || {
        let deltas = node.deltas();
        let changed: Vec<TaskId> =
            deltas.iter().flat_map(|delta| &delta.changes).map(|change| change.task).collect();
        let all = wanted.iter().all(|assignment| changed.contains(&assignment.task));
        if all { Ok(()) } else { Err(format!("{changed:?}")) }
    })
    .await;

    for assignment in &wanted {
        node.report(assignment.task, 1, TaskState::Running).await.unwrap();
        let view = task(&api, "sum", assignment.task).await;
        assert_eq!((view.state, view.attempt), (TaskState::Running, 1), "answered means committed");
        assert_eq!(view.node.unwrap().as_str(), "w1");
        assert!(view.started_at_ms.is_some() && view.placement.is_some());
    }
    job_is(&api, "sum", JobStatus::Running).await;
    for assignment in &wanted {
        node.report(assignment.task, 1, TaskState::Completed).await.unwrap();
    }
    job_is(&api, "sum", JobStatus::Completed).await;
    // The node is told to forget what has ended, and holds nothing any more.
    let nodes = api.nodes().await.unwrap();
    assert_eq!((nodes[0].tasks, nodes[0].committed.cpu_millis), (0, 0));
}

#[tokio::test]
async fn late_doubled_and_foreign_reports_change_nothing() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    api.submit(&api::service("web")).await.unwrap();
    let id = node.wanted_count(1).await[0].task;
    let other = Played::join(cluster.bus(Worker, "w2").await).await.unwrap();
    node.report(id, 2, TaskState::Running).await.unwrap();
    // Older attempts, earlier states, the same again, another node's word, a task that nobody knows.
    node.report(id, 1, TaskState::Failed).await.unwrap();
    node.report(id, 2, TaskState::Preparing).await.unwrap();
    node.report(id, 2, TaskState::Running).await.unwrap();
    other.report(id, 3, TaskState::Failed).await.unwrap();
    node.report(TaskId(uuid::Uuid::now_v7()), 1, TaskState::Running).await.unwrap();
    let view = task(&api, "web", id).await;
    assert_eq!((view.state, view.attempt), (TaskState::Running, 2));
    assert_eq!(api.tasks("web").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_task_that_fits_nowhere_waits_with_its_reason_and_is_placed_when_it_fits() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let small = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    let mut job = api::service("big");
    job.specs[0].resources.cpu_millis = 3_000;
    job.specs[0].instances = 2;
    api.submit(&job).await.unwrap();
    let first = small.wanted_count(1).await[0].task;
    let waiting = eventually("one waits with its reason", SOON, async || {
        let tasks = api.tasks("big").await.map_err(|error| error.to_string())?;
        let pending = tasks.iter().find(|task| task.state == TaskState::Pending);
        match pending.and_then(|task| task.reason.clone()) {
            Some(reason) => Ok(reason),
            None => Err(format!("{tasks:?}")),
        }
    })
    .await;
    assert!(waiting.contains("cpu"), "the reason names what is lacking: {waiting}");
    let large = Played::join(cluster.bus(Worker, "w2").await).await.unwrap();
    let second = large.wanted_count(1).await[0].task;
    assert_ne!(first, second);
}

#[tokio::test]
async fn a_service_replaces_what_its_worker_has_given_up() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    let mut job: JobSpec = api::service("web");
    job.specs[0].restart = Some(RestartPolicy::usual(RestartMode::Never));
    api.submit(&job).await.unwrap();
    let first = node.wanted_count(1).await[0].task;
    node.report(first, 1, TaskState::Running).await.unwrap();
    node.report(first, 1, TaskState::Failed).await.unwrap();
    let second = eventually("a replacement is wanted", SOON, async || {
        let wanted = node.wanted();
        let new = wanted.iter().find(|assignment| assignment.task != first);
        new.map(|assignment| assignment.task).ok_or_else(|| format!("{wanted:?}"))
    })
    .await;
    let view = task(&api, "web", second).await;
    assert_eq!((view.replaces, view.slot), (Some(first), 0));
    assert_eq!(task(&api, "web", first).await.state, TaskState::Failed);
}

#[tokio::test]
async fn stopping_a_task_lowers_the_count_and_stopping_a_job_ends_the_rest() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    let mut job = api::service("web");
    job.specs[0].instances = 2;
    api.submit(&job).await.unwrap();
    let wanted = node.wanted_count(2).await;
    for assignment in &wanted {
        node.report(assignment.task, 1, TaskState::Running).await.unwrap();
    }
    let short = &wanted[0].task.to_string();
    let stopped = api.stop_task(short).await.unwrap();
    assert_eq!((stopped.id, stopped.instances), (wanted[0].task, 1));
    eventually("the node is told", SOON, async || {
        let told = node.unwanted();
        if told == [wanted[0].task] { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
    node.report(wanted[0].task, 1, TaskState::Stopped).await.unwrap();
    job_is(&api, "web", JobStatus::Running).await;
    assert_eq!(api.stop_job("web").await.unwrap().tasks_live, 1);
    job_is(&api, "web", JobStatus::Stopping).await;
    node.report(wanted[1].task, 1, TaskState::Stopped).await.unwrap();
    job_is(&api, "web", JobStatus::Stopped).await;
    assert_eq!(api.tasks("web").await.unwrap().len(), 2, "nothing was replaced");
}

#[tokio::test]
async fn a_second_worker_of_a_living_nodes_name_is_refused() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let first = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    let second = Played::join(cluster.bus(Worker, "w1").await).await;
    let Err(longshore_bus::AskError::Refused(refusal)) = second else { panic!("{second:?}") };
    assert_eq!(refusal.code, longshore_proto::error::ErrorCode::NameTaken);
    assert!(refusal.hint.is_some());
    assert_eq!(api.nodes().await.unwrap()[0].id, first.me().node_id);
    // The same data directory after a restart is the same node, and is let in.
    let again = Me { boot_id: Me::fresh().boot_id, ..first.me() };
    Played::join_as(cluster.bus(Worker, "w1").await, again).await.unwrap();
}

#[tokio::test]
async fn a_worker_of_another_cluster_is_refused() {
    let cluster = Cluster::start().await;
    let bus = cluster.bus(Worker, "w1").await;
    let mut wish = wish(Me::fresh());
    wish.cluster_id = Some(longshore_proto::id::ClusterId(uuid::Uuid::new_v4()));
    let subject = longshore_proto::subject::Subject::Node {
        node: "w1".parse().unwrap(),
        verb: longshore_proto::subject::NodeVerb::Register,
    };
    let answer: Result<(u64, longshore_proto::node::Registered), _> =
        bus.ask(&subject, &wish, longshore_bus::Ask::read(SOON)).await;
    assert!(
        matches!(&answer, Err(longshore_bus::AskError::Refused(refusal))
            if refusal.code == longshore_proto::error::ErrorCode::WrongCluster),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_silent_node_is_suspect_then_lost_and_its_tasks_are_replaced_elsewhere() {
    let cluster = Cluster::start_with(&["--suspect-after", "3s", "--lost-after", "6s"]).await;
    let api = cluster.api().await;
    let dying = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    api.submit(&api::service("web")).await.unwrap();
    let first = dying.wanted_count(1).await[0].task;
    dying.report(first, 1, TaskState::Running).await.unwrap();
    let (me, other) = (dying.me(), Played::join(cluster.bus(Worker, "w2").await).await.unwrap());
    drop(dying);
    for status in [NodeStatus::Suspect, NodeStatus::Lost] {
        eventually(&format!("w1 is {}", status.as_str()), SOON, async || {
            let nodes = api.nodes().await.map_err(|error| error.to_string())?;
            if nodes[0].status == status { Ok(()) } else { Err(format!("{nodes:?}")) }
        })
        .await;
    }
    let second = other.wanted_count(1).await[0].task;
    let lost = task(&api, "web", first).await;
    assert_eq!(lost.state, TaskState::Lost);
    assert_eq!(task(&api, "web", second).await.replaces, Some(first));
    // It comes back: what was superseded is no longer wanted there.
    let back = Played::join_as(cluster.bus(Worker, "w1").await, me).await.unwrap();
    eventually("w1 is ready again", SOON, async || {
        let nodes = api.nodes().await.map_err(|error| error.to_string())?;
        if nodes[0].status == NodeStatus::Ready { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .await;
    assert!(back.wanted().is_empty(), "{:?}", back.wanted());
}
