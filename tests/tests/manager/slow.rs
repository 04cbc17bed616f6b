//! Disks that hang or are full and a server that stutters: what waits is said in words, and nothing is lost or doubled.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use longshore_bus::Ask;
use longshore_proto::COMMAND_HEADER;
use longshore_proto::api::{Answer, JobStopped, JobSubmitted, SubmitJob};
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::TaskId;
use longshore_proto::name::{Namespace, Root};
use longshore_proto::permission::Role::{Manager, Worker};
use longshore_proto::state::TaskState;
use longshore_proto::subject::{ApiVerb, Scope};
use longshore_tests::load::Load;
use longshore_tests::played::Played;
use longshore_tests::{Api, Cluster, SlowDisk, always, api, eventually};

use crate::SOON;

const PATIENCE: [&str; 4] = ["--suspect-after", "4s", "--lost-after", "8s"];
const SMALL: [&str; 4] = ["--log-size", "16MiB", "--events-size", "16MiB"];

/// A NATS server on a disk of its own, with a manager; nothing where such a disk cannot be had.
async fn on_a_disk_of_its_own() -> Option<(Cluster, SlowDisk)> {
    let mut disk = None;
    let prepare = |place: &std::path::Path| {
        let folder = place.parent().unwrap();
        disk = SlowDisk::mount(&folder.join("disk.img"), &place.join("store"));
    };
    let mut cluster = Cluster::server_made(Root::standard(), prepare, |conf| conf).await;
    let disk = disk?;
    cluster.start_manager("m1", &[&PATIENCE[..], &SMALL].concat());
    Some((cluster, disk))
}

/// A node on which the task of a job runs.
async fn runs(cluster: &mut Cluster) -> (Api, Played, TaskId) {
    let api = cluster.answers().await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    api.submit(&api::service("web")).await.unwrap();
    let task = node.wanted_count(1).await[0].task;
    node.report(task, 1, TaskState::Running).await.unwrap();
    (api, node, task)
}

#[tokio::test]
async fn a_disk_of_nats_that_hangs_is_said_in_words_and_costs_no_node_and_no_task() {
    let Some((mut cluster, disk)) = on_a_disk_of_its_own().await else { return };
    let (api, node, task) = runs(&mut cluster).await;

    disk.hang();
    let start = Instant::now();
    let cli = cluster.cli();
    let said = cli.run(&["--timeout", "8s", "stop", "web"]).await.exited(1);
    said.told("the log cannot be written just now: NATS does not acknowledge");
    let said = cli.run(&["doctor", "--timeout", "5s"]).await.exited(1);
    assert!(said.stdout.contains("the leader cannot write"), "{said:#?}");
    assert!(said.stdout.contains("its disk or network is slow"), "{said:#?}");
    always("the manager and the node stay", Duration::from_secs(10), async || {
        if cluster.manager("m1").is_running() { Ok(()) } else { Err("the manager ended".into()) }
    })
    .await;
    assert!(start.elapsed() > Duration::from_secs(8), "longer than a node may be silent");
    disk.let_go();
    api.submit(&api::service("after")).await.unwrap();
    node.wanted_of("after", 1).await;
    let history = api.history().await.unwrap();
    assert!(history.iter().all(|event| event.event_type != "node.lost"), "{history:?}");
    // The stop was refused, and a refusal after an unknown outcome may still have been granted: once, or not at all.
    let tasks = api.tasks("web").await.unwrap();
    assert_eq!((tasks.len(), tasks[0].id), (1, task));
    let stops = history.iter().filter(|event| event.event_type == "job.stopping").count();
    assert!(stops <= 1, "{history:?}");
}

#[tokio::test]
async fn a_disk_of_nats_that_is_full_is_said_in_words_and_all_goes_on_after_room_and_a_restart() {
    let Some((mut cluster, disk)) = on_a_disk_of_its_own().await else { return };
    let (api, node, task) = runs(&mut cluster).await;

    disk.fill();
    let cli = cluster.cli();
    let full = "NATS answers and does not store: its disk is full";
    eventually("doctor says that the disk is full", SOON, async || {
        // A little still goes into blocks that are there.
        for verb in ["cordon", "uncordon"] {
            cli.run(&["--timeout", "2s", "node", verb, "w1"]).await;
        }
        let said = cli.run(&["doctor", "--timeout", "5s"]).await;
        if said.stdout.contains(full) { Ok(()) } else { Err(said.stdout) }
    })
    .await;
    assert!(cluster.manager("m1").log().contains(full), "and so does the log");
    disk.empty();
    cluster.nats.kill();
    cluster.nats.restart().await;
    api.submit(&api::service("after")).await.unwrap();
    node.wanted_of("after", 1).await;
    assert!(cluster.manager("m1").log().contains("the log takes records again"));
    let history = api.history().await.unwrap();
    assert!(history.iter().all(|event| event.event_type != "node.lost"), "{history:?}");
    let tasks = api.tasks("web").await.unwrap();
    assert_eq!((tasks.len(), tasks[0].id), (1, task));
}

#[tokio::test]
async fn a_leader_whose_own_disk_hangs_does_not_keep_others_from_leading() {
    let mut cluster = Cluster::server().await;
    let image = cluster.folder().join("disk.img");
    let Some(disk) = SlowDisk::mount(&image, &cluster.data_dir("m1")) else { return };
    cluster.start_manager("m1", &[]);
    let api = cluster.answers().await;
    cluster.start_standby("m2", &[]).await;
    api.submit(&api::service("before")).await.unwrap();
    disk.hang();
    // The record is in the log, and the leader cannot store it: its process lives, and its connections, and only its
    // loop does not move.
    let submit = tokio::spawn(async move {
        let scope = Scope::Namespace(Namespace::standard());
        let question = SubmitJob { job: api::service("during") };
        let ask = Ask::write(api::command_id(), Duration::from_secs(90));
        api.ask::<JobSubmitted>(scope, ApiVerb::JobSubmit, &question, ask).await
    });
    cluster.manager("m1").says("its lease is not renewed", SOON).await;
    cluster.manager("m2").says("this manager leads", SOON).await;
    assert_eq!(submit.await.unwrap().unwrap().version, 1);
    disk.let_go();
    let api = cluster.api().await;
    cluster.manager("m1").says("no longer leads", SOON).await;
    cluster.manager("m1").says("this one stands by", SOON).await;
    for name in ["before", "during"] {
        assert_eq!(api.job(name).await.unwrap().version, 1);
    }
    assert_eq!(api.status().await.unwrap().records_skipped, 0);
}

#[tokio::test]
async fn a_server_that_stutters_under_load_loses_and_doubles_nothing_and_nothing_storms() {
    let mut cluster = Cluster::start_with(&PATIENCE).await;
    let api = cluster.api().await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    api.submit(&api::service("web")).await.unwrap();
    let task = node.wanted_count(1).await[0].task;
    node.report(task, 1, TaskState::Running).await.unwrap();
    let load = Load::start(cluster.api().await);
    load.goes_on(5).await;
    for pause_ms in [300, 1_000, 2_500, 5_000, 1_500, 700] {
        cluster.nats.pause();
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        cluster.nats.resume();
        load.goes_on(3).await;
    }
    load.ends_with_nothing_lost(&api).await;
    let tasks = api.tasks("web").await.unwrap();
    assert_eq!((tasks.len(), tasks[0].id, tasks[0].state), (1, task, TaskState::Running));
    let history = api.history().await.unwrap();
    assert!(history.iter().all(|event| event.event_type != "node.lost"), "{history:?}");
    // Only the longest pause is long enough to be taken for a dead server.
    let log = cluster.manager("m1").log();
    let breaks = log.matches("the connection to NATS broke").count();
    assert!(breaks <= 4, "{breaks} breaks of two connections: {log}");
    eventually("the manager is well", SOON, async || {
        let said = cluster.cli().run(&["doctor"]).await;
        if said.code == Some(0) { Ok(()) } else { Err(said.stdout) }
    })
    .await;
}

/// A manager of the test's own that listens to one question.
async fn listener(cluster: &Cluster) -> longshore_bus::Api {
    let bus = cluster.bus(Manager, "m1").await;
    longshore_bus::Api::start(&bus, "1.0.0", &[ApiVerb::JobStop], false).await.unwrap()
}

fn stopped() -> Answer<JobStopped> {
    Answer::new(1, Ok(JobStopped { name: "web".parse().unwrap(), tasks_live: 1 }))
}

#[tokio::test]
async fn an_answer_that_takes_long_is_the_answer_although_it_was_asked_again() {
    let cluster = Cluster::server().await;
    let mut listener = listener(&cluster).await;
    let api = cluster.api().await;
    let answering = async {
        let first = listener.next().await.unwrap();
        let second = listener.next().await.unwrap();
        let ids = [&first, &second].map(|request| request.header(COMMAND_HEADER).unwrap());
        assert_eq!(ids[0], ids[1], "it is known again");
        first.answer(&stopped()).await;
    };
    let (answer, ()) = tokio::join!(api.stop_job("web"), answering);
    assert_eq!(answer.unwrap().tasks_live, 1);
}

#[tokio::test]
async fn who_listens_and_never_answers_keeps_nobody_from_an_answer() {
    let cluster = Cluster::server().await;
    // As a manager that is cut off, of which the server does not know yet.
    let mut silent = listener(&cluster).await;
    let api = cluster.api().await;
    let answering = async {
        silent.next().await.unwrap();
        let mut listener = listener(&cluster).await;
        while let Some(request) = listener.next().await {
            request.answer(&stopped()).await;
        }
    };
    tokio::select! {
        // Its first try is swallowed for certain, and some of those that follow.
        answer = api.stop_job("web") => assert_eq!(answer.unwrap().tasks_live, 1),
        () = answering => panic!("the listener ended"),
    }
}

#[tokio::test]
async fn what_a_leader_that_died_may_have_done_is_not_told_as_undone() {
    let cluster = Cluster::server().await;
    let mut dying = listener(&cluster).await;
    let cli = cluster.cli();
    let answering = async {
        let request = dying.next().await.unwrap();
        let refusal = ApiError::new(ErrorCode::Unavailable, "this manager no longer leads");
        request.answer(&Answer::<JobStopped>::new(0, Err(refusal.outcome_unknown()))).await;
        drop(dying);
    };
    // Afterwards nobody is there to ask.
    let (said, ()) = tokio::join!(cli.run(&["--timeout", "4s", "job", "stop", "web"]), answering);
    said.exited(1).told("this manager no longer leads: the outcome is unknown");
}
