//! Managers whose network is cut, or slow: nobody is told that it is, and what is cut off comes back by itself.

use std::time::Duration;

use async_nats::jetstream;
use longshore_proto::permission::Role::{ManagerCore, Worker};
use longshore_proto::state::{NodeStatus, TaskState};
use longshore_proto::subject::lease_stream;
use longshore_tests::load::Load;
use longshore_tests::nats::Nats;
use longshore_tests::played::{Me, Played};
use longshore_tests::{Api, Cluster, Island, always, api, eventually};

use crate::SOON;

/// How many connections a manager makes anew when it comes back: one for each of its accounts, and as many again if the
/// first ones come too early.
const CONNECTIONS_MAX: usize = 4;
/// Longer than a node may be silent before it is lost, in these tests.
const LONG: Duration = Duration::from_secs(10);
const PATIENCE: [&str; 4] = ["--suspect-after", "4s", "--lost-after", "8s"];

/// What `doctor` says to a person on the island, who must see that it fails.
async fn doctor_on(island: &Island, cluster: &Cluster) -> String {
    let cli = cluster.cli().with("LONGSHORE_NATS_URL", island.url());
    let command = island.enter(cli.command(&["doctor", "--timeout", "1s"]));
    let output = tokio::process::Command::from(command).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stdout).unwrap()
}

/// Nothing storms: the manager is back with as many connections as it needs, and makes no more.
async fn is_calm(island: &Island, before: usize) {
    always("few connections are made", Duration::from_secs(5), async || {
        let made = island.connections() - before;
        if made <= CONNECTIONS_MAX { Ok(()) } else { Err(format!("{made} connections")) }
    })
    .await;
}

/// No node was given up, and the task is the one that it was.
async fn nothing_was_lost(api: &Api, job: &str) {
    let history = api.history().await.unwrap();
    assert!(history.iter().all(|event| event.event_type != "node.lost"), "{history:?}");
    let tasks = api.tasks(job).await.unwrap();
    assert_eq!(tasks.len(), 1, "nothing was replaced: {tasks:?}");
    assert_eq!((tasks[0].state, tasks[0].attempt), (TaskState::Running, 1));
    assert_eq!(api.status().await.unwrap().records_skipped, 0);
}

/// A node with a task that runs.
async fn node_with(cluster: &Cluster, api: &Api, job: &str) -> Played {
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    api.submit(&api::service(job)).await.unwrap();
    let task = node.wanted_count(1).await[0].task;
    node.report(task, 1, TaskState::Running).await.unwrap();
    node
}

#[tokio::test]
async fn a_leader_that_is_cut_off_alone_gives_way_and_follows_when_it_is_back() {
    let mut cluster = Cluster::server().await;
    let island = Island::start(cluster.nats.port());
    cluster.start_manager_in(&island, "m1", &PATIENCE);
    let api = cluster.answers().await;
    cluster.start_standby("m2", &PATIENCE).await;
    let _node = node_with(&cluster, &api, "web").await;
    let before = api.status().await.unwrap();

    island.cut();
    let said = doctor_on(&island, &cluster).await;
    assert!(said.contains("no NATS server answers"), "{said}");
    cluster.manager("m2").says("this manager leads", SOON).await;
    api.submit(&api::service("during")).await.unwrap();
    let said = cluster.cli().ok(&["doctor"]).await;
    assert!(said.contains("leader m2"), "{said}");
    // Nobody hears of the cut but by its silence, and the one who is cut off says so, too.
    cluster.manager("m1").says("the connection to NATS broke", SOON).await;
    let connections = island.connections();
    island.heal();
    cluster.manager("m1").says("this one stands by", SOON).await;
    is_calm(&island, connections).await;
    let after = api.status().await.unwrap();
    assert_eq!((after.id, after.epoch), (before.id, before.epoch + 1));
    assert_eq!(api.job("during").await.unwrap().version, 1);
    nothing_was_lost(&api, "web").await;
    // It is good for something again.
    cluster.manager("m2").kill();
    api.submit(&api::service("after")).await.unwrap();
    assert_eq!(api.status().await.unwrap().leader_name.unwrap().as_str(), "m1");
    assert!(cluster.manager("m1").is_running());
}

#[tokio::test]
async fn managers_that_are_cut_off_from_all_workers_give_up_none_of_them() {
    let mut cluster = Cluster::server().await;
    let island = Island::start(cluster.nats.port());
    for name in ["m1", "m2"] {
        cluster.start_manager_in(&island, name, &PATIENCE);
    }
    let api = cluster.answers().await;
    let node = node_with(&cluster, &api, "web").await;

    island.cut();
    let cli = cluster.cli();
    let said = cli.run(&["--timeout", "2s", "stop", "web"]).await.exited(1);
    // Whoever asks is told that nobody answers, and what that means; nothing is half done.
    assert!(
        said.stderr.contains("nobody answers") || said.stderr.contains("the outcome is unknown"),
        "{said:#?}"
    );
    let said = cli.run(&["doctor", "--timeout", "1s"]).await.exited(1);
    assert!(said.stdout.contains("fail   manager"), "{said:#?}");
    let tasks = node.wanted();
    always("the node goes on", LONG, async || {
        if node.wanted() == tasks { Ok(()) } else { Err(format!("{:?}", node.wanted())) }
    })
    .await;
    let connections = island.connections();
    island.heal();
    cluster.answers().await;
    always("few connections are made", Duration::from_secs(5), async || {
        let made = island.connections() - connections;
        if made <= 2 * CONNECTIONS_MAX { Ok(()) } else { Err(format!("{made} connections")) }
    })
    .await;
    eventually("w1 is ready", SOON, async || {
        let nodes = api.nodes().await.map_err(|error| error.to_string())?;
        if nodes[0].status == NodeStatus::Ready { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .await;
    let history = api.history().await.unwrap();
    assert!(history.iter().all(|event| event.event_type != "node.lost"), "{history:?}");
    api.submit(&api::service("after")).await.unwrap();
    node.wanted_of("after", 1).await;
}

#[tokio::test]
async fn a_slow_network_to_nats_slows_the_leader_down_and_nothing_else() {
    let mut cluster = Cluster::server().await;
    let island = Island::start(cluster.nats.port());
    cluster.start_manager_in(&island, "m1", &PATIENCE);
    let api = cluster.answers().await;
    cluster.start_standby("m2", &PATIENCE).await;
    let _node = node_with(&cluster, &api, "web").await;
    let before = api.status().await.unwrap();
    island.delay(Duration::from_millis(150));
    let load = Load::start(cluster.api().await);
    load.goes_on(10).await;
    load.ends_with_nothing_lost(&api).await;
    let after = api.status().await.unwrap();
    assert_eq!((after.epoch, after.leader), (before.epoch, before.leader), "it leads all the same");
    nothing_was_lost(&api, "web").await;
}

#[tokio::test]
async fn most_workers_that_fall_silent_together_are_told_of_and_none_is_given_up() {
    let mut cluster = Cluster::start_with(&PATIENCE).await;
    let api = cluster.api().await;
    let mut nodes = Vec::new();
    for name in ["w1", "w2", "w3", "w4", "w5"] {
        nodes.push(Played::join(cluster.bus(Worker, name).await).await.unwrap());
    }
    let rest = nodes.split_off(1);
    let who: Vec<Me> = rest.iter().map(Played::me).collect();
    drop(rest);
    let cli = cluster.cli();
    let told = "4 of 5 nodes fell silent together; none is declared lost until they return";
    eventually("doctor says so", SOON, async || {
        let said = cli.run(&["doctor"]).await;
        let says = said.code == Some(1) && said.stdout.contains(told);
        if says { Ok(()) } else { Err(said.stdout) }
    })
    .await;
    assert!(cli.ok(&["status"]).await.contains(&format!("alarm: {told}")));
    // The log tells it once, of as many as were silent by then.
    cluster.manager("m1").says("of 5 nodes fell silent together", SOON).await;
    always("none is lost", LONG, async || {
        let nodes = api.nodes().await.map_err(|error| error.to_string())?;
        let lost = nodes.iter().filter(|node| node.status == NodeStatus::Lost).count();
        if lost == 0 { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .await;
    for (me, name) in who.into_iter().zip(["w2", "w3", "w4", "w5"]) {
        nodes.push(Played::join_as(cluster.bus(Worker, name).await, me).await.unwrap());
    }
    eventually("it is over", SOON, async || {
        let said = cli.run(&["doctor"]).await;
        if said.code == Some(0) { Ok(()) } else { Err(said.stdout) }
    })
    .await;
    let history = api.history().await.unwrap();
    assert_eq!(api::alarm_states(&history), ["alarm", "over"], "{history:?}");
}

#[tokio::test]
async fn a_worker_on_a_server_that_is_cut_off_from_every_leader_goes_to_another_one() {
    let mut cluster = Cluster::start().await;
    let accounts = cluster.folder().join("nats/accounts.conf");
    let accounts = std::fs::read_to_string(accounts).unwrap();
    // It knows the same users, and nobody is there.
    let lonely = Nats::start(&cluster.folder().join("lonely"), &accounts).await;
    cluster.nats.kill();
    cluster.start_worker_at("w1", &format!("{},{}", cluster.nats.url(), lonely.url()));
    cluster.worker("w1").says("connected to NATS", SOON).await;
    cluster.nats.restart().await;
    cluster.node_is("w1", NodeStatus::Ready).await;
    let log = cluster.worker("w1").log();
    assert!(log.contains("which may be cut off from the others; trying another one"), "{log}");
}

#[tokio::test]
async fn a_leader_tells_nodes_that_it_hears_them_and_one_without_a_majority_does_not() {
    let cluster = Cluster::start().await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    let answered = async |before: usize| {
        let now = node.answers();
        if now > before { Ok(now) } else { Err(format!("{now} answers")) }
    };
    let first = eventually("its heartbeats are answered", SOON, async || answered(0).await).await;
    eventually("all of them", SOON, async || answered(first + 2).await).await;
    // Its lease cannot be renewed any more, as where its server is cut off from the others.
    let core = cluster.bus(ManagerCore, "m2").await;
    let context = jetstream::new(core.client().clone());
    let lease = context.get_stream(lease_stream(core.root())).await.unwrap();
    let mut config = lease.cached_info().config.clone();
    config.max_message_size = 1;
    context.update_stream(config).await.unwrap();
    eventually("they are answered no longer", SOON, async || {
        let before = node.answers();
        tokio::time::sleep(Duration::from_secs(3)).await;
        if node.answers() == before { Ok(()) } else { Err(format!("{before} answers")) }
    })
    .await;
}

#[tokio::test]
async fn a_verb_that_comes_to_a_server_without_a_manager_asks_by_way_of_another() {
    let cluster = Cluster::start().await;
    let accounts = std::fs::read_to_string(cluster.folder().join("nats/accounts.conf")).unwrap();
    let lonely = Nats::start(&cluster.folder().join("lonely"), &accounts).await;
    let both = format!("{},{}", cluster.nats.url(), lonely.url());
    let cli = cluster.cli().with("LONGSHORE_NATS_URL", both);
    // Each takes either of them first.
    for _ in 0..8 {
        cli.run(&["--timeout", "8s", "job", "ls"]).await.succeeded();
    }
}
