//! Two managers: standing by, taking over, being fenced.

use std::time::{Duration, Instant};

use longshore_bus::{Ask, AskError, Bus};
use longshore_proto::api::{JobView, NameJob};
use longshore_proto::codec;
use longshore_proto::id::ManagerId;
use longshore_proto::name::Namespace;
use longshore_proto::permission::Role::{ManagerCore, Operator, Worker};
use longshore_proto::state::TaskState;
use longshore_proto::subject::{ApiVerb, Scope, Subject, lease_subject};
use longshore_tests::played::Played;
use longshore_tests::{Api, Cluster, api, eventually};
use rustix::process::Signal;

use crate::SOON;

/// How long a cluster may be without a leader after a leader's death, on a loaded machine. `make bench ONLY=failover`
/// measures how long it is.
const TAKEOVER: Duration = Duration::from_secs(6);

#[tokio::test]
async fn a_second_manager_stands_by_and_takes_over() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    cluster.start_standby("m2", &[]).await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    api.submit(&api::service("web")).await.unwrap();
    let task = node.wanted_count(1).await[0].task;
    node.report(task, 1, TaskState::Running).await.unwrap();
    let first = api.status().await.unwrap();

    cluster.manager("m1").kill();
    let start = Instant::now();
    api.submit(&api::service("second")).await.unwrap();
    assert!(start.elapsed() < TAKEOVER, "{:?}", start.elapsed());
    let second = api.status().await.unwrap();
    assert_eq!((second.id, second.epoch), (first.id, first.epoch + 1));
    let tasks = api.tasks("web").await.unwrap();
    assert_eq!((tasks.len(), tasks[0].id, tasks[0].state), (1, task, TaskState::Running));
    node.wanted_count(2).await;

    let cli = cluster.cli();
    let doctor = async || cli.run(&["doctor"]).await.stdout;
    assert!(doctor().await.contains("m2 leads, no other one stands by"));
    // The first comes back as the second, and takes over in its turn.
    cluster.start_standby("m1", &[]).await;
    assert!(doctor().await.contains("m2 leads, m1 stands by"));
    assert_eq!(api.status().await.unwrap().leader, second.leader);
    cluster.manager("m2").kill();
    assert_eq!(api.submit(&api::service("third")).await.unwrap().version, 1);
    for name in ["web", "second", "third"] {
        assert_eq!(api.job(name).await.unwrap().version, 1);
    }
    assert_eq!(api.status().await.unwrap().records_skipped, 0);
}

#[tokio::test]
async fn a_leader_that_slept_is_fenced_and_steps_down() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    cluster.start_standby("m2", &[]).await;
    api.submit(&api::service("before")).await.unwrap();
    let first = api.status().await.unwrap();
    cluster.manager("m1").signal(Signal::STOP);
    cluster.manager("m2").says("this manager leads", SOON).await;
    api.submit(&api::service("during")).await.unwrap();
    cluster.manager("m1").signal(Signal::CONT);
    cluster.manager("m1").says("no longer leads", SOON).await;
    let after = api.status().await.unwrap();
    assert_eq!((after.epoch, after.records_skipped), (first.epoch + 1, 0));
    for name in ["before", "during"] {
        assert_eq!(api.job(name).await.unwrap().version, 1);
    }
    api.submit(&api::service("after")).await.unwrap();
    assert!(cluster.manager("m1").is_running() && cluster.manager("m2").is_running());
}

#[tokio::test]
async fn a_manager_that_is_told_to_stop_hands_over_at_once() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    cluster.start_standby("m2", &[]).await;
    cluster.manager("m1").signal(Signal::TERM);
    let status = cluster.manager("m1").ended(SOON).await;
    assert!(status.success(), "{}", cluster.manager("m1").log());
    let start = Instant::now();
    api.submit(&api::service("web")).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

/// A job, as the leader knows it behind a barrier.
async fn job_of_leader(api: &Api, name: &str, deadline: Duration) -> Result<JobView, AskError> {
    let scope = Scope::Namespace(Namespace::standard());
    let subject = Subject::LeaderRead { scope, verb: ApiVerb::JobGet };
    let question = NameJob { name: name.parse().unwrap() };
    Ok(api.bus().ask(&subject, &question, Ask::read(deadline)).await?.1)
}

/// Holds the lease in the name of a manager that there is not, until it is dropped: nobody can lead.
fn usurp(core: Bus) -> AbortOnDrop {
    #[derive(serde::Serialize)]
    struct Holder {
        manager: ManagerId,
        name: &'static str,
        store: &'static str,
    }
    let task = tokio::spawn(async move {
        let manager = ManagerId(uuid::Uuid::new_v4());
        let payload = codec::encode(&Holder { manager, name: "nobody", store: "nowhere" });
        let subject = lease_subject(core.root());
        loop {
            core.client().publish(subject.clone(), payload.clone().into()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    AbortOnDrop(task.abort_handle())
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn without_a_leader_questions_are_answered_and_nothing_else_and_doctor_says_so() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    cluster.start_standby("m2", &[]).await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    api.submit(&api::service("web")).await.unwrap();
    node.wanted_count(1).await;
    assert_eq!(job_of_leader(&api, "web", SOON).await.unwrap().version, 1);
    cluster.cli().run(&["doctor"]).await.succeeded();

    let usurper = usurp(cluster.bus(ManagerCore, "m2").await);
    cluster.manager("m1").says("no longer leads", SOON).await;
    eventually("nobody answers as the leader", SOON, async || {
        match job_of_leader(&api, "web", Duration::from_millis(200)).await {
            Err(AskError::NoResponders { .. }) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(api.job("web").await.unwrap().version, 1);
    eventually("how busy the node is, is known to those who only listen", SOON, async || {
        let nodes = api.nodes().await.map_err(|error| error.to_string())?;
        if nodes[0].used.is_some() { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .await;
    let said = cluster.cli().run(&["doctor", "--timeout", "500ms"]).await.exited(1);
    assert!(said.stdout.contains("none leads"), "{said:#?}");
    let said = cluster.cli().run(&["status", "--timeout", "500ms"]).await.succeeded();
    said.told("what another manager knows");

    drop(usurper);
    api.submit(&api::service("second")).await.unwrap();
    assert_eq!(job_of_leader(&api, "second", SOON).await.unwrap().version, 1);
}

#[tokio::test]
async fn nobody_sees_the_cluster_go_back_whichever_manager_answers() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    cluster.start_standby("m2", &[]).await;
    for round in 0..40 {
        let name = format!("job-{round}");
        api.submit(&api::service(&name)).await.unwrap();
        // What one client was told, it sees; and what anybody was told, everybody sees who asks the leader.
        assert_eq!(api.job(&name).await.unwrap().version, 1);
        if round % 8 == 0 {
            let other = Api::new(cluster.bus(Operator, "bob").await);
            assert_eq!(job_of_leader(&other, &name, SOON).await.unwrap().version, 1);
        }
    }
    let cli = cluster.cli();
    assert!(cli.ok(&["job", "ls", "--consistent"]).await.contains("job-39"));
}
