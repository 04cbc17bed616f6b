//! What becomes of nodes: joining, silence, loss, return, and doubt.

use longshore_proto::alarm::Severity;
use longshore_proto::api::NameNode;
use longshore_proto::error::ErrorCode;
use longshore_proto::id::{BootId, ClusterId, ManagerId, NodeId, Revision};
use longshore_proto::node::{Heartbeat, Register, Sync};
use longshore_proto::spec::{OnNodeLoss, Resources};
use longshore_proto::state::{NodeStatus, TaskState};
use uuid::Uuid;

use super::world::{NODE, World, job, node_name, wish};
use crate::cluster::Input;
use crate::cluster::record::Fact;
use crate::time::Time;

pub(super) fn status(world: &World, name: &str) -> NodeStatus {
    world.cluster.state().nodes[&node_name(name)].status
}

fn lost(facts: &[Fact]) -> usize {
    facts
        .iter()
        .filter(|fact| matches!(fact, Fact::NodeStatusChanged { status: NodeStatus::Lost, .. }))
        .count()
}

#[test]
fn a_second_worker_of_a_living_nodes_name_is_refused() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let refused = world.join("n1", NODE).unwrap_err();
    assert_eq!(refused.code, ErrorCode::NameTaken);
    assert!(refused.hint.is_some());
    world.pass(20_000, &[]);
    assert_eq!(status(&world, "n1"), NodeStatus::Lost);
    world.join("n1", NODE).unwrap();
}

#[test]
fn workers_of_another_cluster_are_told_of_until_they_ask_no_more() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let other = ClusterId(Uuid::from_u128(0xbad));
    let foreign = |name: u128| Register {
        cluster_id: Some(other),
        ..wish(NodeId(Uuid::from_u128(name)), BootId(Uuid::from_u128(name + 1)), NODE)
    };
    for (name, id) in [("n2", 20), ("n3", 30), ("n4", 40), ("n5", 50)] {
        let refused = world.register(name, foreign(id)).unwrap_err();
        assert_eq!(refused.code, ErrorCode::WrongCluster);
    }
    let told = |facts: &[Fact]| -> Vec<Severity> {
        let told = facts.iter().filter_map(|fact| match fact {
            Fact::AlarmChanged { about, severity, .. } if about == "foreign" => Some(*severity),
            _ => None,
        });
        told.collect()
    };
    assert_eq!(told(&world.pass(2_000, &["n1"])), [Severity::Alarm]);
    let shown = world.cluster.cluster_view(0).unwrap().alarms;
    let expected = format!("n2 of cluster {other}, n3 of cluster {other}, n4 of cluster {other}");
    assert!(
        matches!(&shown[..], [text] if text.contains(&expected) && text.contains("and 1 more")),
        "{shown:?}"
    );
    // One is given a fresh data directory, and the others go on asking for a while.
    world.join("n2", NODE).unwrap();
    world.pass(60_000, &["n1", "n2"]);
    world.register("n3", foreign(30)).unwrap_err();
    assert_eq!(told(&world.pass(100_000, &["n1", "n2"])), []);
    let shown = world.cluster.cluster_view(0).unwrap().alarms;
    assert!(matches!(&shown[..], [text] if text.contains("refused: n3 of")), "{shown:?}");
    assert_eq!(told(&world.pass(30_000, &["n1", "n2"])), [Severity::Over]);
    // One that stayed connected when this cluster took over does not ask, and is heard.
    let Input::Heartbeat { heartbeat, .. } = world.heartbeat(&node_name("n1")) else { panic!() };
    let beat = |cluster| {
        let heartbeat = Heartbeat {
            node_id: NodeId(Uuid::from_u128(60)),
            cluster_id: cluster,
            ..*heartbeat.clone()
        };
        Input::Heartbeat { node: node_name("n6"), heartbeat: Box::new(heartbeat) }
    };
    let ours = world.cluster.state().meta.cluster;
    for (cluster, expected) in
        [(None, vec![]), (ours, vec![]), (Some(other), vec![Severity::Alarm])]
    {
        world.run([beat(cluster)]);
        assert_eq!(told(&world.pass(1_000, &["n1", "n2"])), expected, "{cluster:?}");
    }
    let shown = world.cluster.cluster_view(0).unwrap().alarms;
    assert!(matches!(&shown[..], [text] if text.contains("refused: n6 of")), "{shown:?}");
    assert_eq!(told(&world.pass(130_000, &["n1", "n2"])), [Severity::Over]);
    world.check_replay();
}

#[test]
fn what_a_node_takes_and_lends_is_known_and_bounded() {
    let mut world = World::new();
    let said = |mount_paths: Vec<String>| Register {
        tasks_max: 7,
        mount_paths,
        ..wish(NodeId(Uuid::from_u128(1)), BootId(Uuid::from_u128(2)), NODE)
    };
    world.register("n1", said(vec!["/srv/data".into()])).unwrap();
    let view = world.cluster.node_get(&NameNode { name: node_name("n1") }, Time(0)).unwrap();
    assert_eq!((view.tasks_max, view.mount_paths), (7, vec!["/srv/data".to_owned()]));
    for too_much in [vec!["/a".to_owned(); 65], vec!["/".repeat(513)]] {
        let refused = world.register("n1", said(too_much)).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Invalid);
        assert!(refused.hint.is_some());
    }
}

#[test]
fn a_worker_that_restarts_keeps_its_tasks() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    let before = world.live("web");
    let (id, _) = world.identity_of("n1");
    let registered = world.join_as("n1", id, BootId(Uuid::from_u128(99)), NODE).unwrap();
    assert_eq!(world.live("web"), before);
    assert_eq!(registered.revision, world.cluster.state().nodes[&node_name("n1")].revision);
}

#[test]
fn a_silent_node_is_suspect_then_lost_and_its_tasks_are_replaced_elsewhere() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 2));
    world.start_all("web");
    world.join("n2", NODE).unwrap();
    let before = world.live("web");
    world.pass(8_500, &["n2"]);
    assert_eq!(status(&world, "n1"), NodeStatus::Suspect);
    assert_eq!(world.live("web"), before, "a suspect keeps its tasks");
    world.pass(7_500, &["n2"]);
    assert_eq!(status(&world, "n1"), NodeStatus::Lost);
    let after = world.live("web");
    assert_eq!(after.len(), 2);
    for (old, new) in before.iter().zip(&after) {
        assert_eq!(world.task(*old).state, TaskState::Lost);
        assert_eq!(world.task(*new).replaces, Some(*old));
        assert_eq!(world.task(*new).node, Some(node_name("n2")));
    }
    world.check_replay();
}

#[test]
fn a_blip_changes_nothing() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    world.start_all("web");
    let before = world.live("web");
    for silence in [1_000, 3_000, 7_000] {
        let facts = world.pass(silence, &[]);
        assert!(facts.is_empty(), "{silence} ms: {facts:?}");
        world.pass(1_000, &["n1"]);
    }
    let facts = world.pass(14_000, &[]);
    assert_eq!(lost(&facts), 0);
    world.pass(1_000, &["n1"]);
    assert_eq!(status(&world, "n1"), NodeStatus::Ready);
    assert_eq!(world.live("web"), before);
}

#[test]
fn a_node_that_returns_is_told_to_ask_for_its_set_which_no_longer_holds_what_was_replaced() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    world.start_all("web");
    world.join("n2", NODE).unwrap();
    world.pass(16_000, &["n2"]);
    world.told.clear();
    world.pass(500, &["n1", "n2"]);
    assert_eq!(status(&world, "n1"), NodeStatus::Ready);
    let (_, hint) = world.told.iter().find(|(node, _)| node.as_str() == "n1").expect("n1 is told");
    assert_eq!(hint.previous, Revision::UNCHAINED, "a hint chains to nothing");
    let (node_id, boot_id) = world.identity_of("n1");
    let page = world
        .cluster
        .state()
        .sync_page(&node_name("n1"), &Sync { node_id, boot_id, after: None })
        .unwrap();
    assert!(page.assignments.is_empty() && page.end);
}

#[test]
fn a_change_that_crosses_a_heartbeat_is_on_its_way_and_one_that_the_next_still_lacks_is_lost() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let before = world.heartbeat(&node_name("n1"));
    world.run([before.clone()]);
    world.submit(job("web", 1));
    world.told.clear();
    world.run([before.clone()]);
    assert!(
        world.told.is_empty(),
        "a thousand nodes would else read their whole sets all the time"
    );
    world.run([before]);
    let (_, hint) = world.told.iter().find(|(node, _)| node.as_str() == "n1").expect("n1 is told");
    assert_eq!(hint.previous, Revision::UNCHAINED);
}

#[test]
fn a_job_that_waits_for_its_node_is_not_replaced() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let mut spec = job("db", 1);
    spec.on_node_loss = OnNodeLoss::Wait;
    world.submit(spec);
    world.start_all("db");
    world.join("n2", NODE).unwrap();
    let before = world.live("db");
    world.pass(60_000, &["n2"]);
    assert_eq!(status(&world, "n1"), NodeStatus::Lost);
    assert_eq!(world.live("db"), before);
    let view = world.cluster.task_page(None, &longshore_proto::api::ListTasks::default());
    assert!(view.items[0].silent, "its state may no longer be true");
    world.pass(500, &["n1", "n2"]);
    assert_eq!(world.live("db"), before);
}

#[test]
fn when_most_nodes_fall_silent_together_nobody_is_lost() {
    let mut world = World::new();
    let names = ["n1", "n2", "n3", "n4", "n5"];
    for name in names {
        world.join(name, NODE).unwrap();
    }
    let facts = world.pass(120_000, &["n1", "n2"]);
    assert_eq!(lost(&facts), 0);
    let alarms = world.cluster.cluster_view(0).unwrap().alarms;
    assert!(alarms.iter().any(|alarm| alarm.contains("3 of 5")), "{alarms:?}");
    world.pass(1_000, &names);
    assert!(world.cluster.cluster_view(0).unwrap().alarms.is_empty());
}

#[test]
fn nodes_are_lost_at_a_bounded_rate() {
    let mut world = World::new();
    let names: Vec<String> = (0..8).map(|n| format!("n{n}")).collect();
    for name in &names {
        world.join(name, NODE).unwrap();
    }
    let alive: Vec<&str> = names[3..].iter().map(String::as_str).collect();
    let facts = world.pass(20_000, &alive);
    assert_eq!(lost(&facts), 1, "one in ten seconds, with eight nodes");
    let facts = world.pass(30_000, &alive);
    assert_eq!(lost(&facts), 2);
}

#[test]
fn silence_means_nothing_while_this_managers_own_connection_is_down() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.run([Input::BusLost]);
    let facts = world.pass(120_000, &[]);
    assert_eq!(lost(&facts), 0);
    assert!(!world.cluster.cluster_view(0).unwrap().alarms.is_empty());
    world.run([Input::BusBack]);
    let facts = world.pass(7_000, &[]);
    assert_eq!(lost(&facts), 0, "timers begin anew");
    let facts = world.pass(10_000, &[]);
    assert_eq!(lost(&facts), 1);
}

#[test]
fn a_goodbye_is_believed_at_once() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    world.start_all("web");
    world.join("n2", NODE).unwrap();
    let Input::Heartbeat { node, mut heartbeat } = world.heartbeat(&node_name("n1")) else {
        unreachable!()
    };
    heartbeat.leaving = true;
    world.run([Input::Heartbeat { node, heartbeat }]);
    assert_eq!(status(&world, "n1"), NodeStatus::Left);
    let live = world.live("web");
    assert_eq!(world.task(live[0]).node, Some(node_name("n2")));
}

#[test]
fn a_node_whose_answered_reports_are_lost_is_told_to_look() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let first = world.cluster.state().next_revision(1);
    world.change_leader();
    let told = |world: &mut World, answered| {
        let Input::Heartbeat { node, mut heartbeat } = world.heartbeat(&node_name("n1")) else {
            unreachable!()
        };
        world.run([Input::Heartbeat { node: node.clone(), heartbeat: heartbeat.clone() }]);
        let before = world.told.len();
        heartbeat.answered = answered;
        world.run([Input::Heartbeat { node, heartbeat }]);
        world.told.len() > before
    };
    // The next reign began where that record had stood.
    assert!(told(&mut world, Some(first)));
    assert!(!told(&mut world, Some(Revision { index: first.index - 1, ..first })), "it is there");
    assert!(!told(&mut world, None));
    let epoch = world.cluster.state().meta.epoch;
    assert!(told(&mut world, Some(Revision { epoch: epoch + 1, index: 1 })), "a lost reign");
}

#[test]
fn what_a_leaving_node_stops_is_not_replaced_there() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    world.start_all("web");
    let Input::Heartbeat { node, mut heartbeat } = world.heartbeat(&node_name("n1")) else {
        unreachable!()
    };
    heartbeat.leaving = true;
    heartbeat.tasks_running = 1;
    world.run([Input::Heartbeat { node: node.clone(), heartbeat: heartbeat.clone() }]);
    assert_eq!(status(&world, "n1"), NodeStatus::Ready);
    let id = world.live("web")[0];
    world.report(id, 1, TaskState::Stopped, None);
    let next = world.live("web")[0];
    assert_ne!(next, id);
    assert_eq!(world.task(next).node, None, "not on the node that leaves");
    let beat = world.heartbeat(&node);
    world.run([beat.clone()]);
    assert_eq!(world.task(next).node, None, "it was said before the goodbye, and comes late");
    let (id, boot) = world.identity_of("n1");
    world.join_as("n1", id, boot, NODE).unwrap();
    world.run([beat]);
    assert_eq!(world.task(next).node, None, "it was registered before the goodbye, too");
    let boot = BootId(Uuid::from_u128(99));
    world.join_as("n1", id, boot, NODE).unwrap();
    let beat = world.heartbeat(&node);
    world.run([beat]);
    assert_eq!(world.task(next).node, Some(node.clone()), "its worker runs anew");
    (heartbeat.boot_id, heartbeat.tasks_running) = (boot, 0);
    world.run([Input::Heartbeat { node, heartbeat }]);
    assert_eq!(status(&world, "n1"), NodeStatus::Left);
}

#[test]
fn a_goodbye_is_the_last_word_though_older_signs_of_life_come_after_it() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    world.start_all("web");
    let n1 = node_name("n1");
    let older = world.heartbeat(&n1);
    let mut goodbye = older.clone();
    if let Input::Heartbeat { heartbeat, .. } = &mut goodbye {
        heartbeat.leaving = true;
    }
    world.run([goodbye]);
    assert_eq!(status(&world, "n1"), NodeStatus::Left);
    let facts = world.run([older.clone()]);
    assert!(facts.is_empty(), "{facts:?}");
    let (id, boot) = world.identity_of("n1");
    world.join_as("n1", id, boot, NODE).unwrap();
    assert_eq!(status(&world, "n1"), NodeStatus::Left, "what it registered before comes late");
    world.change_leader();
    let facts = world.run([older]);
    assert!(facts.is_empty(), "a later leader knows of it, too: {facts:?}");
    world.join_as("n1", id, boot, NODE).unwrap();
    assert_eq!(status(&world, "n1"), NodeStatus::Left);
    assert_eq!(world.nodes_of("web"), [None], "nothing is placed where no worker is");
    assert_eq!(lost(&world.pass(60_000, &[])), 0, "it has left, and is not lost");
    // The worker is started again.
    world.join_as("n1", id, BootId(Uuid::from_u128(99)), NODE).unwrap();
    let facts = world.pass(1_000, &["n1"]);
    assert!(facts.is_empty(), "{facts:?}");
    assert_eq!(status(&world, "n1"), NodeStatus::Ready);
    assert_eq!(world.nodes_of("web"), [Some("n1".to_owned())]);
    world.check_replay();
}

#[test]
fn a_stranger_under_a_nodes_name_is_not_believed() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    let id = world.live("web")[0];
    let stranger = Heartbeat {
        node_id: NodeId(Uuid::from_u128(0xbad)),
        boot_id: BootId(Uuid::from_u128(0xbad)),
        revision: Revision::default(),
        answered: None,
        digest: 0,
        capacity: Resources::ZERO,
        used: Resources::ZERO,
        tasks_running: 0,
        runtime_error: None,
        leaving: true,
        drain_within_ms: None,
        cluster_id: None,
    };
    let facts =
        world.run([Input::Heartbeat { node: node_name("n1"), heartbeat: Box::new(stranger) }]);
    assert!(facts.is_empty());
    world.join("n2", NODE).unwrap();
    let facts = world.report_from(&node_name("n2"), id, 1, TaskState::Failed, Some(1));
    assert!(facts.is_empty(), "another node's report of a task changes nothing");
}

#[test]
fn a_set_that_differs_at_the_same_revision_is_asked_for_anew() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    world.told.clear();
    for beats in 1..=3 {
        let Input::Heartbeat { node, mut heartbeat } = world.heartbeat(&node_name("n1")) else {
            unreachable!()
        };
        heartbeat.digest ^= 1;
        world.run([Input::Heartbeat { node, heartbeat }]);
        assert_eq!(world.told.len(), usize::from(beats == 3), "after {beats} heartbeats");
    }
}

#[test]
fn a_set_comes_in_pages() {
    let mut world = World::new();
    world.join("n1", Resources { cpu_millis: 1_000_000, memory_bytes: 1 << 50, ..NODE }).unwrap();
    world.submit(job("web", 1_200));
    let (node_id, boot_id) = world.identity_of("n1");
    let (mut after, mut seen, mut pages) = (None, 0, 0);
    loop {
        let page = world
            .cluster
            .state()
            .sync_page(&node_name("n1"), &Sync { node_id, boot_id, after })
            .unwrap();
        assert_eq!(page.count, 1_200);
        seen += page.assignments.len();
        pages += 1;
        after = page.assignments.last().map(|assignment| assignment.task);
        if page.end {
            break;
        }
    }
    assert_eq!(seen, 1_200);
    assert!(pages > 1);
    let wrong = Sync { node_id: NodeId(Uuid::from_u128(1)), boot_id, after: None };
    let refused = world.cluster.state().sync_page(&node_name("n1"), &wrong).unwrap_err();
    assert_eq!(refused.code, ErrorCode::NotRegistered);
}

#[test]
fn a_barrier_is_passed_by_a_record_even_if_nothing_else_happened() {
    let mut world = World::new();
    let before = world.cluster.state().meta.index;
    let ticket = world.ticket();
    let facts = world.run([Input::Barrier { ticket }]);
    assert_eq!((facts, world.cluster.state().meta.index), (vec![], before + 1));
    assert_eq!(world.answers.remove(&ticket.0), Some(crate::cluster::Reply::Barrier));
}

#[test]
fn who_only_listens_knows_how_busy_a_node_is_and_decides_nothing() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let name = node_name("n1");
    let Input::Heartbeat { heartbeat, .. } = world.heartbeat(&name) else { panic!("no heartbeat") };
    let mut follower = world.replayed();
    let question = NameNode { name: name.clone() };
    assert_eq!(follower.node_get(&question, Time(5_000)).unwrap().used, None);
    follower.overhear(&name, &heartbeat, Time(5_000));
    let view = follower.node_get(&question, Time(5_400)).unwrap();
    assert_eq!((view.used, view.heard_ms_ago), (Some(heartbeat.used), Some(400)));
    let stranger = Heartbeat { boot_id: BootId(Uuid::from_u128(99)), ..*heartbeat };
    follower.overhear(&name, &stranger, Time(9_000));
    assert_eq!(follower.node_get(&question, Time(9_000)).unwrap().heard_ms_ago, Some(4_000));
}

#[test]
fn that_a_task_is_unknown_is_believed_only_with_a_record() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    let mut overtaken = world.replayed();
    let (id, n1) = (world.live("web")[0], node_name("n1"));
    world.report(id, 1, TaskState::Running, None);
    // What is known to be late is answered at once, because the log has it for sure.
    let before = world.cluster.state().meta.index;
    world.report(id, 1, TaskState::Preparing, None);
    assert_eq!(world.cluster.state().meta.index, before);
    // A manager that was overtaken knows no task of the leader's: it must commit to say so, and cannot.
    let (node_id, boot_id) = world.identity_of("n1");
    let unknown = longshore_proto::id::TaskId(Uuid::from_u128(77));
    let report = longshore_proto::node::TaskReport {
        task: unknown,
        attempt: 1,
        state: TaskState::Running,
        boot_id,
        container_id: None,
        exit_code: None,
        reason: None,
        ports: Default::default(),
        health: None,
        pulls_failed: 0,
        at_ms: 0,
    };
    let reports = longshore_proto::node::Reports { node_id, boot_id, reports: vec![report] };
    let input = Input::Reports { ticket: world.ticket(), node: n1, reports };
    let step = overtaken.propose(&mut [input].into_iter().collect(), world.now(), [0; 16]);
    assert!(matches!(step, crate::cluster::Step::Record(_)), "{step:?}");
}

#[test]
fn a_name_that_another_machine_asks_for_is_given_up_even_while_most_are_silent() {
    let mut world = World::new();
    let names = ["n1", "n2", "n3", "n4", "n5"];
    for name in names {
        world.join(name, NODE).unwrap();
    }
    // Three machines of five are replaced at once, and ask for the names of those before them.
    for _ in 0..4 {
        world.pass(5_000, &["n4", "n5"]);
        for name in ["n1", "n2", "n3"] {
            if status(&world, name) != NodeStatus::Lost {
                assert_eq!(world.join(name, NODE).unwrap_err().code, ErrorCode::NameTaken);
            }
        }
    }
    world.pass(30_000, &["n4", "n5"]);
    for name in ["n1", "n2", "n3"] {
        assert_eq!(status(&world, name), NodeStatus::Lost);
        world.join(name, NODE).unwrap();
    }
}

#[test]
fn a_manager_that_did_not_run_reads_what_lies_there_before_it_judges_silence() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.join("n2", NODE).unwrap();
    world.pass(5_000, &["n1", "n2"]);
    // Suspended for a minute: the first turn after it finds nothing read yet.
    world.now_ms += 60_000;
    assert_eq!(lost(&world.run([])), 0);
    // Then the heartbeats that lay in the socket are there, of n1 alone.
    let facts = world.pass(2_000, &["n1"]);
    assert_eq!((status(&world, "n1"), lost(&facts)), (NodeStatus::Ready, 0));
    // What it slept through was not n2's silence; what follows is.
    let facts = world.pass(15_000, &["n1"]);
    assert_eq!((status(&world, "n2"), lost(&facts)), (NodeStatus::Lost, 1));
}

#[test]
fn a_manager_that_is_suspended_again_and_again_declares_nobody_lost() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.join("n2", NODE).unwrap();
    world.pass(5_000, &["n1", "n2"]);
    for _ in 0..4 {
        world.now_ms += 30_000;
        assert_eq!(lost(&world.run([])), 0, "nothing of what lies in its sockets was read");
    }
    // One whose every record takes five seconds does see who is gone.
    let mut lost_after_ms = 0;
    while status(&world, "n2") != NodeStatus::Lost {
        world.now_ms += 5_000;
        lost_after_ms += 5_000;
        let beat = world.heartbeat(&node_name("n1"));
        world.run([beat]);
        assert!(lost_after_ms <= 60_000, "{:?}", status(&world, "n2"));
    }
    assert_eq!(status(&world, "n1"), NodeStatus::Ready);
}

#[test]
fn a_reign_judges_silence_from_its_first_turn_on() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.pass(5_000, &["n1"]);
    // Its election is on its way for half a minute: nobody was heard meanwhile.
    world.begin_reign_that_takes(30_000);
    assert_eq!(lost(&world.pass(2_000, &[])), 0);
    assert_eq!(status(&world, "n1"), NodeStatus::Ready);
    assert_eq!(lost(&world.pass(15_000, &[])), 1);
}

#[test]
fn after_a_restore_every_node_is_asked_for_what_it_knows() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    let task = world.live("web")[0];
    let n1 = node_name("n1");
    // What it has seen is what is known here, but its report that the task runs was taken in by a reign that is forgotten.
    let before = world.heartbeat(&n1);
    let Input::Heartbeat { heartbeat, .. } = &before else { panic!("{before:?}") };
    let seen = heartbeat.revision;
    let first = world.log.len() as u64 + 1;
    world.restore();
    assert!(world.cluster.state().nodes[&n1].revision > seen);
    let meta = &world.cluster.state().meta;
    assert!(!meta.is_restored, "once");
    assert_eq!(meta.restorations, [(first, ManagerId(Uuid::from_u128(0xa)))]);
    world.told.clear();
    world.run([before]);
    let [(to, hint)] = &world.told[..] else { panic!("{:#?}", world.told) };
    assert_eq!((to, hint.changes.len()), (&n1, 0));
    assert!(
        hint.revision > seen,
        "its worker asks for its set, sees that it lacks what runs, and says so"
    );
    assert_eq!(world.task(task).state, TaskState::Assigned);
    let registered = world.join("n2", NODE).unwrap();
    assert!(registered.revision > seen, "one that registered in the past that was left");
    world.check_replay();
}
