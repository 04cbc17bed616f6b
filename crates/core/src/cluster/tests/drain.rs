//! Drains: what moves, what waits and says why, when a node is drained, and what a cancelled drain leaves.

use longshore_proto::api::{DrainNodes, NameNode, NodeView};
use longshore_proto::id::BootId;
use longshore_proto::plan::WhatIf;
use longshore_proto::spec::{ExchangeOrder, JobSpec, JobType, MigratePolicy, OnNodeLoss};
use longshore_proto::state::{Eligibility, NodeStatus, TaskState};

use super::eligibility::names;
use super::world::{NODE, World, job, key, node_name};
use crate::cluster::record::Fact;
use crate::cluster::{Command, Input, NodeCommand};

const ALIVE: &[&str] = &["n1", "n2"];

/// A job on `n1`, which runs, and `n2` empty beside it.
fn world_with(spec: JobSpec) -> World {
    let name = spec.name.to_string();
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(spec);
    world.start_all(&name);
    world.join("n2", NODE).unwrap();
    world.pass(1_000, ALIVE);
    world
}

fn drain(world: &mut World, nodes: &[&str], deadline_ms: Option<u64>) {
    let asked = DrainNodes { names: names(nodes).names, deadline_ms };
    world.command(Command::Node(NodeCommand::Drain(asked))).unwrap();
}

fn uncordon(world: &mut World, node: &str) {
    world.command(Command::Node(NodeCommand::Uncordon(names(&[node])))).unwrap();
}

fn view(world: &World, node: &str) -> NodeView {
    world.cluster.node_get(&NameNode { name: node_name(node) }, world.now().time).unwrap()
}

fn is_drained(world: &World, node: &str) -> bool {
    view(world, node).drain.is_some_and(|drain| drain.drained)
}

/// Why tasks are still on a node.
fn waits(world: &World, node: &str) -> Vec<String> {
    view(world, node).drain.unwrap().waits.into_iter().map(|wait| wait.reason).collect()
}

/// Everything that is placed runs and everything that is to end ends, second by second.
fn go_on(world: &mut World, job: &str, seconds: u64) -> Vec<Fact> {
    let mut facts = Vec::new();
    for _ in 0..seconds {
        facts.extend(world.pass(1_000, ALIVE));
        world.start_all(job);
        facts.extend(world.end_all(job));
    }
    facts
}

#[test]
fn a_service_moves_one_after_the_other_and_each_runs_there_first() {
    let mut world = world_with(job("web", 3));
    let planned =
        world.cluster.snapshot().whatif(&WhatIf::Drain { nodes: names(&["n1"]).names }).unwrap();
    drain(&mut world, &["n1"], None);
    let mut running_least = 3;
    for _ in 0..30 {
        world.pass(500, ALIVE);
        let tasks: Vec<_> = world.live("web").into_iter().map(|id| world.task(id)).collect();
        assert!(tasks.len() <= 4, "more than one moves at once");
        let running = tasks.iter().filter(|task| task.state == TaskState::Running).count();
        running_least = running_least.min(running);
        world.start_all("web");
        world.end_all("web");
    }
    assert_eq!(running_least, 3, "the service was never short");
    assert_eq!(world.nodes_of("web"), vec![Some("n2".to_owned()); 3]);
    assert!(planned.placed.iter().all(|placed| placed.to.as_str() == "n2"));
    assert_eq!(planned.placed_total, 3, "what was foretold has come");
    assert!(is_drained(&world, "n1"));
    assert_eq!(view(&world, "n1").eligibility, Eligibility::Draining);
    world.check_replay();
    let records = world.log.len();
    world.pass(30_000, ALIVE);
    assert_eq!(world.log.len(), records, "a drained node writes nothing");
}

#[test]
fn more_move_at_once_where_the_job_allows_it_over_all_nodes() {
    let mut spec = job("web", 6);
    spec.specs[0].migrate = Some(MigratePolicy { parallel: 2, ..MigratePolicy::usual() });
    let mut world = World::new();
    for node in ["n1", "n2"] {
        world.join(node, NODE).unwrap();
    }
    world.submit(spec);
    world.start_all("web");
    world.join("n3", NODE).unwrap();
    let alive = ["n1", "n2", "n3"];
    world.pass(1_000, &alive);
    drain(&mut world, &["n1", "n2"], None);
    for _ in 0..20 {
        world.pass(500, &alive);
        assert!(world.live("web").len() <= 8, "two move at once, of both nodes together");
        world.start_all("web");
        world.end_all("web");
    }
    assert_eq!(world.nodes_of("web"), vec![Some("n3".to_owned()); 6]);
    world.pass(1_000, &alive);
    assert!(is_drained(&world, "n1") && is_drained(&world, "n2"));
    world.check_replay();
}

#[test]
fn a_node_is_drained_when_its_worker_has_seen_the_last_container_end() {
    // Nomad has called drains complete while tasks still ran (nomad#14293, #16117).
    let mut world = world_with(job("web", 1));
    drain(&mut world, &["n1"], None);
    world.pass(500, &["n2"]);
    world.start_all("web");
    world.end_all("web");
    assert_eq!(view(&world, "n1").tasks, 0);
    for _ in 0..4 {
        let (one, other) = (world.heartbeat_of("n1", 1), world.heartbeat_of("n2", 1));
        world.now_ms += 1_000;
        world.run([one, other]);
        assert!(!is_drained(&world, "n1"), "a container is left that its books no longer hold");
    }
    // What was heard under the leader before is not what is now.
    world.change_leader();
    world.pass(1_000, &["n2"]);
    assert!(!is_drained(&world, "n1"));
    let beat = world.heartbeat_of("n1", 0);
    world.run([beat]);
    world.pass(500, &["n2"]);
    assert!(is_drained(&world, "n1"));
    world.check_replay();
}

#[test]
fn a_lost_node_is_not_drained_and_one_that_has_left_is() {
    let mut world = world_with(job("web", 1));
    drain(&mut world, &["n1"], None);
    world.pass(40_000, &["n2"]);
    assert_eq!(view(&world, "n1").status, NodeStatus::Lost);
    assert_eq!(world.nodes_of("web"), [Some("n2".to_owned())]);
    assert!(!is_drained(&world, "n1"), "nobody knows what still runs there");
    world.pass(500, ALIVE);
    let mut goodbye = world.heartbeat_of("n1", 0);
    if let Input::Heartbeat { heartbeat, .. } = &mut goodbye {
        heartbeat.leaving = true;
    }
    world.run([goodbye]);
    world.pass(500, &["n2"]);
    assert!(is_drained(&world, "n1"));
    world.check_replay();
}

#[test]
fn a_batch_task_may_finish_until_the_deadline() {
    let mut spec = job("sum", 2);
    spec.job_type = JobType::Batch;
    let mut world = world_with(spec);
    let [one, other] = world.live("sum")[..] else { panic!() };
    drain(&mut world, &["n1"], Some(60_000));
    world.pass(30_000, ALIVE);
    assert_eq!(
        waits(&world, "n1"),
        vec!["a batch task may finish; it is ended at the deadline"; 2]
    );
    let left_ms = view(&world, "n1").drain.unwrap().left_ms.unwrap();
    assert!((29_000..=31_000).contains(&left_ms), "{left_ms}");
    world.report(one, 1, TaskState::Completed, Some(0));
    assert_eq!(world.live("sum"), [other], "what has finished is not done again");
    let facts = world.pass(31_000, ALIVE);
    assert!(facts.contains(&Fact::NodeDrainOverdue { name: node_name("n1") }));
    let stop = world.task(other).stop().unwrap().to_owned();
    assert_eq!(stop, "its node n1 is drained, and the deadline has come");
    world.end_all("sum");
    assert_eq!(world.nodes_of("sum"), [Some("n2".to_owned())], "it begins anew elsewhere");
    world.pass(1_000, ALIVE);
    assert!(is_drained(&world, "n1"));
    world.check_replay();
}

#[test]
fn a_deadline_begins_anew_under_another_leader_and_the_drain_goes_on() {
    let mut spec = job("sum", 1);
    spec.job_type = JobType::Batch;
    let mut world = world_with(spec);
    let [task] = world.live("sum")[..] else { panic!() };
    drain(&mut world, &["n1"], Some(60_000));
    world.pass(50_000, ALIVE);
    world.change_leader();
    world.pass(50_000, ALIVE);
    assert_eq!(world.task(task).stop(), None);
    world.pass(11_000, ALIVE);
    assert!(world.task(task).is_to_stop());
    // Once it has come, it stays come.
    world.change_leader();
    assert!(view(&world, "n1").drain.unwrap().overdue);
    world.check_replay();
}

#[test]
fn what_fits_nowhere_else_stays_and_says_why_until_the_deadline() {
    let mut pinned = job("web", 2);
    pinned.specs[0].constraints = vec!["node.name = n1".parse().unwrap()];
    let mut world = world_with(pinned);
    drain(&mut world, &["n1"], Some(600_000));
    world.pass(5_000, ALIVE);
    let told = waits(&world, "n1");
    assert!(told[0].starts_with("its successor waits for a node: no node fits"), "{told:#?}");
    assert!(
        told[1].starts_with("its turn has not come: 1 of web.main may move at once"),
        "{told:#?}"
    );
    let state = world.cluster.state();
    let running =
        world.live("web").iter().filter(|id| state.tasks[id].state == TaskState::Running).count();
    assert_eq!(running, 2, "nothing ends for nothing");
    go_on(&mut world, "web", 601);
    assert_eq!(world.nodes_of("web"), [None, None]);
    assert!(is_drained(&world, "n1"));
    uncordon(&mut world, "n1");
    assert_eq!(world.nodes_of("web"), vec![Some("n1".to_owned()); 2]);
    world.check_replay();
}

#[test]
fn a_job_that_waits_for_its_nodes_stays_until_the_deadline() {
    let mut patient = job("db", 1);
    patient.on_node_loss = OnNodeLoss::Wait;
    let mut world = world_with(patient);
    drain(&mut world, &["n1"], None);
    go_on(&mut world, "db", 30);
    assert_eq!(world.nodes_of("db"), [Some("n1".to_owned())]);
    let told = waits(&world, "n1");
    assert!(
        told[0].contains("on_node_loss") && told[0].ends_with("without a deadline nothing ends it")
    );
    drain(&mut world, &["n1"], Some(1_000));
    go_on(&mut world, "db", 5);
    assert_eq!(world.nodes_of("db"), [Some("n2".to_owned())]);
    assert!(is_drained(&world, "n1"));
}

#[test]
fn what_must_end_first_ends_when_there_is_a_place_for_it() {
    let mut spec = job("one", 1);
    spec.specs[0].migrate = Some(MigratePolicy { order: ExchangeOrder::StopFirst, parallel: 1 });
    let mut world = world_with(spec);
    world.command(Command::Node(NodeCommand::Cordon(names(&["n2"])))).unwrap();
    drain(&mut world, &["n1"], None);
    world.pass(5_000, ALIVE);
    let [task] = world.live("one")[..] else { panic!() };
    assert_eq!(world.task(task).stop(), None);
    let told = waits(&world, "n1");
    let wanted = "it must end here before it starts elsewhere, and has no place there: no node fits: of 2 nodes, 1 is \
                  cordoned, 1 is draining";
    assert_eq!(told, [wanted]);
    uncordon(&mut world, "n2");
    world.pass(500, ALIVE);
    assert!(world.task(task).is_to_stop());
    assert_eq!(world.live("one"), [task], "nothing starts before it has ended");
    world.end_all("one");
    assert_eq!(world.nodes_of("one"), [Some("n2".to_owned())]);
    world.check_replay();
}

#[test]
fn the_place_that_a_task_ends_for_is_kept_until_it_has_ended() {
    let first = |name: &str, priority| {
        let mut spec = job(name, 1);
        let usual = MigratePolicy::usual();
        spec.specs[0].migrate = Some(MigratePolicy { order: ExchangeOrder::StopFirst, ..usual });
        spec.specs[0].resources = NODE;
        spec.priority = priority;
        spec
    };
    let alive = &["n1", "n2", "n3"];
    let mut world = World::new();
    for (node, name) in [("n1", "a"), ("n2", "b")] {
        world.join(node, NODE).unwrap();
        world.submit(first(name, 50));
        world.start_all(name);
    }
    world.pass(1_000, ALIVE);
    // One place for two that are to end first: only one of them counts on it.
    world.join("n3", NODE).unwrap();
    drain(&mut world, &["n1", "n2"], None);
    world.pass(1_000, alive);
    world.pass(1_000, alive);
    let (a, b) = (world.live("a")[0], world.live("b")[0]);
    assert!(world.task(a).is_to_stop() && !world.task(b).is_to_stop());
    assert!(waits(&world, "n2")[0].contains("has no place there"), "{:?}", waits(&world, "n2"));
    // Neither does what comes meanwhile, unless it is more important.
    // By its name alone it would come first.
    world.submit(first("0-late", 50));
    world.pass(1_000, alive);
    assert_eq!(world.nodes_of("0-late"), [None]);
    world.change_leader();
    world.pass(1_000, alive);
    assert_eq!(world.nodes_of("0-late"), [None], "another leader keeps it, too");
    // Its end comes when drains are due to be looked at, too.
    world.now_ms += 10_000;
    world.end_all("a");
    assert_eq!(world.nodes_of("a"), [Some("n3".to_owned())]);
    assert_eq!(world.nodes_of("0-late"), [None]);
    assert!(!world.task(b).is_to_stop(), "it counts on no place that another one ended for");
    world.check_replay();
}

#[test]
fn what_is_more_important_takes_the_place_that_a_task_ends_for() {
    let mut spec = job("one", 1);
    spec.specs[0].migrate = Some(MigratePolicy { order: ExchangeOrder::StopFirst, parallel: 1 });
    spec.specs[0].resources = NODE;
    spec.priority = 50;
    let mut world = world_with(spec);
    drain(&mut world, &["n1"], None);
    world.pass(1_000, ALIVE);
    assert!(world.task(world.live("one")[0]).is_to_stop());
    let mut urgent = job("urgent", 1);
    urgent.priority = 60;
    world.submit(urgent);
    world.pass(1_000, ALIVE);
    assert_eq!(world.nodes_of("urgent"), [Some("n2".to_owned())]);
    world.end_all("one");
    world.pass(1_000, ALIVE);
    assert_eq!(world.nodes_of("one"), [None]);
    world.check_replay();
}

#[test]
fn slots_that_are_not_wanted_any_more_hold_no_turn() {
    let stop_first = |instances| {
        let mut spec = job("db", instances);
        let usual = MigratePolicy::usual();
        spec.specs[0].migrate = Some(MigratePolicy { order: ExchangeOrder::StopFirst, ..usual });
        spec
    };
    let mut world = world_with(stop_first(3));
    world.submit(stop_first(1));
    go_on(&mut world, "db", 5);
    assert_eq!(world.live("db").len(), 1);
    drain(&mut world, &["n1"], None);
    go_on(&mut world, "db", 5);
    assert_eq!(world.nodes_of("db"), [Some("n2".to_owned())]);
    world.check_replay();
}

#[test]
fn a_successor_that_fails_is_tried_again_more_and_more_slowly_and_the_service_goes_on() {
    let mut world = world_with(job("web", 1));
    let [old] = world.live("web")[..] else { panic!() };
    drain(&mut world, &["n1"], None);
    let mut tries = 0;
    for _ in 0..600 {
        world.pass(500, ALIVE);
        for id in world.live("web") {
            if id != old && world.task(id).state == TaskState::Assigned {
                world.report(id, 1, TaskState::Failed, Some(1));
                tries += 1;
            }
        }
        assert_eq!(world.task(old).stop(), None);
    }
    assert!((4..=8).contains(&tries), "{tries} tries in five minutes");
    let told = waits(&world, "n1");
    assert!(told[0].starts_with("its last successor failed"), "{told:?}");
    world.check_replay();
}

#[test]
fn a_cancelled_drain_leaves_no_extra_copy() {
    // Nomad has left an extra copy behind a drain that was cancelled midway (nomad#28018).
    for cancelled_after in 0..12u64 {
        let mut world = world_with(job("web", 3));
        drain(&mut world, &["n1"], None);
        go_on(&mut world, "web", cancelled_after / 2);
        world.pass(500 * (cancelled_after % 2), ALIVE);
        uncordon(&mut world, "n1");
        go_on(&mut world, "web", 5);
        assert_eq!(world.live("web").len(), 3, "cancelled after {cancelled_after}");
        assert_eq!(view(&world, "n1").drain, None);
        world.check_replay();
    }
}

#[test]
fn a_successor_that_still_waits_is_called_off_with_the_drain() {
    let mut pinned = job("web", 1);
    pinned.specs[0].constraints = vec!["node.name = n1".parse().unwrap()];
    let mut world = world_with(pinned);
    let before = world.live("web");
    drain(&mut world, &["n1"], None);
    world.pass(1_000, ALIVE);
    assert_eq!(world.live("web").len(), 2);
    uncordon(&mut world, "n1");
    assert_eq!(world.live("web"), before);
    assert!(world.cluster.state().jobs[&key("web")].blocked.is_empty(), "nothing waits any more");
    world.check_replay();
}

/// A heartbeat of a worker that is to end, and asks for its tasks to be moved off.
fn asks_for_drain(world: &World, node: &str, within_ms: u64) -> Input {
    let mut beat = world.heartbeat_of(node, 1);
    if let Input::Heartbeat { heartbeat, .. } = &mut beat {
        heartbeat.drain_within_ms = Some(within_ms);
    }
    beat
}

#[test]
fn a_worker_that_is_to_end_has_its_tasks_moved_off_and_its_next_run_is_open() {
    let mut world = world_with(job("web", 1));
    let beat = asks_for_drain(&world, "n1", 60_000);
    world.run([beat]);
    let drain = view(&world, "n1").drain.unwrap();
    assert_eq!(
        (drain.actor.as_str(), drain.deadline_ms),
        ("its worker, which is to end", Some(60_000))
    );
    let records = world.log.len();
    let beat = asks_for_drain(&world, "n1", 60_000);
    world.run([beat]);
    assert_eq!(world.log.len(), records, "it is asked again and again, and begun once");
    go_on(&mut world, "web", 5);
    assert_eq!(world.nodes_of("web"), [Some("n2".to_owned())]);
    let (id, _) = world.identity_of("n1");
    world.join_as("n1", id, BootId(uuid::Uuid::from_u128(77)), NODE).unwrap();
    assert_eq!(view(&world, "n1").eligibility, Eligibility::Open);
    world.check_replay();
}

#[test]
fn a_cordon_outlives_the_drain_that_a_worker_asked_for() {
    let mut world = world_with(job("web", 1));
    world.command(Command::Node(NodeCommand::Cordon(names(&["n1"])))).unwrap();
    let beat = asks_for_drain(&world, "n1", 60_000);
    world.run([beat]);
    assert_eq!(view(&world, "n1").eligibility, Eligibility::Draining);
    go_on(&mut world, "web", 5);
    let (id, _) = world.identity_of("n1");
    world.join_as("n1", id, BootId(uuid::Uuid::from_u128(77)), NODE).unwrap();
    assert_eq!(view(&world, "n1").eligibility, Eligibility::Cordoned, "nobody has uncordoned it");
    world.check_replay();
}

#[test]
fn an_operators_drain_outlives_the_worker() {
    let mut world = world_with(job("web", 1));
    drain(&mut world, &["n1"], None);
    let beat = asks_for_drain(&world, "n1", 60_000);
    world.run([beat]);
    assert_eq!(view(&world, "n1").drain.unwrap().deadline_ms, None, "who asked first is heard");
    let (id, _) = world.identity_of("n1");
    world.join_as("n1", id, BootId(uuid::Uuid::from_u128(77)), NODE).unwrap();
    assert_eq!(view(&world, "n1").eligibility, Eligibility::Draining);
    world.check_replay();
}
