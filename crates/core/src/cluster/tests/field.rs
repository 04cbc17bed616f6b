//! What has gone wrong in other orchestrators, and must not here: `docs/field-failures.md` says to whom each happened.

use longshore_proto::api::{NameNode, RemoveNode};
use longshore_proto::error::ErrorCode;
use longshore_proto::id::{BootId, ClusterId, NodeId};
use longshore_proto::node::Reports;
use longshore_proto::spec::{JobType, Port, Protocol, ReschedulePolicy, Resources};
use longshore_proto::state::{JobStatus, NodeStatus, TaskState};
use uuid::Uuid;

use super::world::{NODE, World, job, key, node_name};
use crate::cluster::record::{Fact, Record};
use crate::cluster::{Command, Input, NodeCommand, Reply};
use crate::time::Time;

fn node_status(world: &World, name: &str) -> NodeStatus {
    world.cluster.state().nodes[&node_name(name)].status
}

fn job_status(world: &World, name: &str) -> JobStatus {
    world.cluster.state().jobs[&key(name)].status
}

fn is_loss(fact: &Fact) -> bool {
    matches!(fact, Fact::NodeStatusChanged { status: NodeStatus::Lost, .. })
}

/// Numbers that look random, from a seed.
fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

/// Failure 3.
#[test]
fn after_the_whole_cluster_was_restarted_as_many_run_as_are_wanted() {
    for seed in 0..20 {
        let mut number = numbers(seed);
        let mut world = World::new();
        let names: Vec<String> = (0..7).map(|n| format!("n{n}")).collect();
        for name in &names {
            world.join(name, NODE).unwrap();
        }
        world.submit(job("web", 70));
        world.start_all("web");
        world.change_leader();
        // Every machine starts anew, in some order and at some time, and some come late.
        let mut away = names.clone();
        let mut back: Vec<&str> = Vec::new();
        while !away.is_empty() {
            let at = usize::try_from(number(away.len() as u64)).unwrap();
            let name = names.iter().find(|name| **name == away[at]).unwrap();
            away.remove(at);
            let (id, _) = world.identity_of(name);
            let boot = BootId(Uuid::from_u128(1_000 + u128::from(number(1 << 40))));
            world.join_as(name, id, boot, NODE).unwrap();
            back.push(name);
            for task in world.live("web") {
                let is_here = world.task(task).node.as_ref() == Some(&node_name(name));
                if is_here && number(2) == 0 {
                    let attempt = world.task(task).attempt + 1;
                    world.report(task, attempt, TaskState::Running, None);
                }
            }
            world.pass(500 + number(9_000), &back);
            assert!(world.live("web").len() <= 70, "seed {seed}: {}", world.live("web").len());
        }
        world.pass(60_000, &back);
        assert_eq!(world.live("web").len(), 70, "seed {seed}");
        world.check_replay();
    }
}

/// Failure 8.
#[test]
fn a_job_comes_to_its_end_in_whatever_state_its_task_is_stopped() {
    type Bring = fn(&mut World);
    let ways: [(&str, Bring); 7] = [
        ("pending", |_| {}),
        ("assigned", |world| drop(world.join("n1", NODE))),
        ("preparing", |world| {
            world.join("n1", NODE).unwrap();
            let id = world.live("web")[0];
            world.report(id, 1, TaskState::Preparing, None);
        }),
        ("running", |world| {
            world.join("n1", NODE).unwrap();
            world.start_all("web");
        }),
        ("stopping", |world| {
            world.join("n1", NODE).unwrap();
            let id = world.live("web")[0];
            world.report(id, 1, TaskState::Stopping, None);
        }),
        ("failed, and its replacement waits", |world| {
            world.join("n1", NODE).unwrap();
            let id = world.live("web")[0];
            world.report(id, 1, TaskState::Failed, Some(1));
        }),
        ("on a node that is lost", |world| {
            world.join("n1", NODE).unwrap();
            world.start_all("web");
            world.pass(20_000, &[]);
        }),
    ];
    for (what, bring) in ways {
        let mut world = World::new();
        world.submit(job("web", 1));
        bring(&mut world);
        world.command(Command::StopJob(key("web"))).unwrap();
        world.end_all("web");
        assert_eq!(job_status(&world, "web"), JobStatus::Stopped, "{what}");
        assert!(world.live("web").is_empty(), "{what}");
        let alive: &[&str] = if world.cluster.state().nodes.is_empty() { &[] } else { &["n1"] };
        world.pass(120_000, alive);
        assert!(world.live("web").is_empty(), "{what}: nothing comes back");
        world.check_replay();
    }
}

/// Failure 9.
#[test]
fn the_count_of_failures_outlives_leaders_and_ends_with_its_version() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let mut spec = job("web", 1);
    spec.specs[0].reschedule =
        Some(ReschedulePolicy { attempts: Some(2), delay_ms: 4_000, delay_ms_max: 60_000 });
    world.submit(spec.clone());
    for (failures, wait_ms) in [(0, 4_000), (1, 8_000)] {
        let id = world.live("web")[0];
        assert_eq!(world.task(id).failures, failures);
        world.report(id, 1, TaskState::Failed, Some(1));
        world.pass(1_000, &["n1"]);
        world.change_leader();
        world.pass(wait_ms - 1_500, &["n1"]);
        assert!(world.live("web").is_empty(), "the new leader waits, too");
        world.pass(wait_ms, &["n1"]);
        assert_eq!(world.live("web").len(), 1);
    }
    let last = world.live("web")[0];
    world.report(last, 1, TaskState::Failed, Some(1));
    world.change_leader();
    world.pass(120_000, &["n1"]);
    assert_eq!(job_status(&world, "web"), JobStatus::Failed, "the policy is spent, whoever leads");
    spec.specs[0].image = "busybox:2".into();
    world.submit(spec);
    let next = world.live("web")[0];
    assert_eq!(world.task(next).failures, 0, "a new version begins anew");
    world.check_replay();
}

/// Failure 10.
#[test]
fn a_port_is_held_by_one_task_whoever_leads_and_free_when_it_ended() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let with_port = |name| {
        let mut spec = job(name, 1);
        spec.specs[0].ports = vec![Port {
            host: 8080,
            container: 80,
            protocol: Protocol::Tcp,
            host_ip: None,
            name: None,
        }];
        spec
    };
    world.submit(with_port("first"));
    world.start_all("first");
    world.change_leader();
    world.submit(with_port("second"));
    world.pass(30_000, &["n1"]);
    assert_eq!(world.nodes_of("second"), [None]);
    assert!(world.waits_because("second").contains("8080"), "{}", world.waits_because("second"));
    world.command(Command::StopJob(key("first"))).unwrap();
    assert_eq!(world.nodes_of("second"), [None], "it is held until its task has ended");
    world.change_leader();
    world.end_all("first");
    assert_eq!(world.nodes_of("second"), [Some("n1".to_owned())]);
    world.check_replay();
}

/// Failure 13.
#[test]
fn nothing_brings_a_task_back_that_has_ended() {
    for end in [TaskState::Completed, TaskState::Failed, TaskState::Stopped, TaskState::Lost] {
        let mut world = World::new();
        world.join("n1", NODE).unwrap();
        let mut spec = job("sum", 1);
        spec.job_type = JobType::Batch;
        spec.specs[0].reschedule =
            Some(ReschedulePolicy { attempts: Some(0), delay_ms: 1_000, delay_ms_max: 1_000 });
        world.submit(spec.clone());
        let id = world.live("sum")[0];
        if end == TaskState::Lost {
            world.start_all("sum");
            world.pass(20_000, &[]);
            world.pass(1_000, &["n1"]);
        } else {
            world.report(id, 1, end, Some(0));
        }
        assert_eq!(world.task(id).state, end);
        let ended = world.task(id).clone();
        let namespace = key("sum").namespace;
        let stop = Command::StopTask { namespace, id: id.to_string() };
        for command in [Command::SubmitJob(Box::new(spec)), stop, Command::StopJob(key("sum"))] {
            // Granted or refused: the task is what it was.
            let _ = world.command(command);
            assert_eq!(world.task(id), &ended);
        }
        for state in [TaskState::Preparing, TaskState::Running, TaskState::Completed] {
            world.report_from(&node_name("n1"), id, 7, state, None);
            assert_eq!(world.task(id), &ended, "a late report");
        }
        world.change_leader();
        world.pass(60_000, &["n1"]);
        assert_eq!(world.task(id), &ended);
    }
}

/// Failure 15.
#[test]
fn a_leader_that_slept_and_leads_again_fires_no_old_timer() {
    let mut world = World::new();
    let names = ["n1", "n2", "n3"];
    for name in names {
        world.join(name, NODE).unwrap();
    }
    world.submit(job("web", 9));
    world.start_all("web");
    let before = world.live("web");
    for round in 0..5 {
        // Three leases long, and it takes the lease again before anybody has.
        world.now_ms += 45_000;
        let now = world.now();
        let step = world.cluster.begin_reign(ClusterId(Uuid::nil()), now, [round; 16]);
        world.settle(step);
        let facts = world.run([]);
        assert_eq!(facts, [], "round {round}");
        let facts = world.pass(7_000, &names);
        assert!(!facts.iter().any(is_loss), "round {round}: {facts:?}");
    }
    assert_eq!(world.live("web"), before);
}

/// Failure 18.
#[test]
fn timers_of_what_is_gone_do_nothing() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.join("n2", NODE).unwrap();
    world.submit(job("web", 2));
    let id = world.live("web")[0];
    world.report(id, 1, TaskState::Failed, Some(1));
    // Armed: the wait of a replacement, the silence of two nodes, the end of a job.
    world.pass(9_000, &[]);
    world.command(Command::StopJob(key("web"))).unwrap();
    world.end_all("web");
    world.pass(60_000, &[]);
    assert_eq!(node_status(&world, "n1"), NodeStatus::Lost);
    world.now_ms += 48 * 3_600_000;
    let facts = world.pass(5_000, &[]);
    assert!(facts.contains(&Fact::JobForgotten { job: key("web") }), "{facts:?}");
    assert_eq!(world.pass(120_000, &[]), []);
    // A node that is removed while its silence and its tasks' ends are looked for.
    world.join("n3", NODE).unwrap();
    world.submit(job("db", 2));
    world.start_all("db");
    let id = world.live("db")[0];
    world.report(id, 1, TaskState::Failed, Some(1));
    world.pass(9_000, &[]);
    let remove = RemoveNode { name: node_name("n3"), force: true };
    world.command(Command::Node(NodeCommand::Remove(remove))).unwrap();
    world.pass(300_000, &[]);
    assert!(!world.cluster.state().nodes.contains_key(&node_name("n3")));
    world.check_replay();
}

/// Failure 20.
#[test]
fn a_failure_after_a_flap_is_seen_like_any_other() {
    for silence_ms in [5_000, 9_000, 14_000, 20_000] {
        let mut world = World::new();
        world.join("n1", NODE).unwrap();
        world.submit(job("web", 1));
        world.start_all("web");
        world.pass(silence_ms, &[]);
        world.pass(2_000, &["n1"]);
        world.start_all("web");
        for _ in 0..3 {
            let id = world.live("web")[0];
            world.report(id, 1, TaskState::Running, None);
            world.report(id, 1, TaskState::Failed, Some(1));
            world.pass(300_000, &["n1"]);
            let next = world.live("web");
            assert_eq!(next.len(), 1, "after {silence_ms} ms of silence");
            assert_eq!(world.task(next[0]).replaces, Some(id), "after {silence_ms} ms of silence");
        }
        world.check_replay();
    }
}

/// Failure 21.
#[test]
fn what_silence_took_from_a_node_it_has_again_when_it_is_heard() {
    for silence_ms in [9_000, 14_500, 20_000] {
        let mut world = World::new();
        world.join("n1", NODE).unwrap();
        world.pass(silence_ms, &[]);
        assert_ne!(node_status(&world, "n1"), NodeStatus::Ready);
        world.submit(job("web", 1));
        assert_eq!(world.nodes_of("web"), [None], "a silent node gets nothing");
        world.pass(1_000, &["n1"]);
        assert_eq!(node_status(&world, "n1"), NodeStatus::Ready);
        assert_eq!(world.nodes_of("web"), [Some("n1".to_owned())]);
        let name = NameNode { name: node_name("n1") };
        let view = world.cluster.node_get(&name, Time(world.now_ms)).unwrap();
        assert_eq!(view.used, Some(Resources::ZERO), "it is measured again");
        world.check_replay();
    }
}

/// Failure 30.
#[test]
fn a_month_of_jobs_and_crashes_leaves_no_more_than_two_days_did() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let mut crashing = job("web", 1);
    crashing.specs[0].reschedule =
        Some(ReschedulePolicy { attempts: None, delay_ms: 1_000, delay_ms_max: 1_000 });
    world.submit(crashing);
    let mut sizes = Vec::new();
    for hour in 0..30 * 24 {
        let name = format!("sum-{hour}");
        let mut sum = job(&name, 2);
        sum.job_type = JobType::Batch;
        world.submit(sum);
        for id in world.live(&name) {
            world.report(id, 1, TaskState::Completed, Some(0));
        }
        for id in world.live("web") {
            world.report(id, 1, TaskState::Failed, Some(1));
        }
        world.now_ms += 3_600_000;
        let beat = world.heartbeat(&node_name("n1"));
        world.run([beat]);
        world.pass(1_000, &["n1"]);
        let state = world.cluster.state();
        sizes.push((state.jobs.len(), state.tasks.len(), state.commands.len(), world.stored.len()));
    }
    let after = |hours: usize| sizes[hours - 1];
    assert!(after(48).0 > 20, "there is something to forget: {:?}", after(48));
    assert_eq!(after(30 * 24), after(48));
}

/// Failure 31.
#[test]
fn neither_jumping_clocks_nor_half_an_hour_of_sleep_makes_a_node_flap() {
    const TWO_YEARS_MS: i64 = 2 * 365 * 24 * 3_600_000;
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.join("n2", NODE).unwrap();
    world.submit(job("web", 2));
    world.start_all("web");
    for clock_off_ms in [TWO_YEARS_MS, -TWO_YEARS_MS, 0] {
        world.clock_off_ms = clock_off_ms;
        let facts = world.pass(60_000, &["n1", "n2"]);
        assert_eq!(facts, [], "off by {clock_off_ms} ms");
    }
    let times: Vec<u64> =
        world.log.iter().map(|bytes| Record::decode(bytes).unwrap().at_ms).collect();
    assert!(times.is_sorted(), "{times:?}");
    world.pass(30 * 60_000, &["n2"]);
    assert_eq!(node_status(&world, "n1"), NodeStatus::Lost);
    world.pass(2_000, &["n1", "n2"]);
    assert_eq!(node_status(&world, "n1"), NodeStatus::Ready);
    world.start_all("web");
    assert_eq!(world.pass(600_000, &["n1", "n2"]), [], "once back, it stays");
    world.check_replay();
}

/// Failure 33.
#[test]
fn who_has_not_joined_is_no_node_and_who_joins_twice_is_one() {
    let mut world = World::new();
    world.submit(job("web", 3));
    world.join("n1", NODE).unwrap();
    let (id, boot) = world.identity_of("n1");
    // A phantom: it beats and reports under a name that never joined.
    let ghost = node_name("ghost");
    let Input::Heartbeat { heartbeat, .. } = world.heartbeat(&node_name("n1")) else {
        panic!("no heartbeat")
    };
    world.run([Input::Heartbeat { node: ghost.clone(), heartbeat }]);
    let ticket = world.ticket();
    let reports = Reports { node_id: NodeId(Uuid::nil()), boot_id: boot, reports: vec![] };
    world.run([Input::Reports { ticket, node: ghost.clone(), reports }]);
    let answer = world.answers.remove(&ticket.0);
    let refused = matches!(
        &answer,
        Some(Reply::Reports(Err(refusal))) if refusal.code == ErrorCode::NotRegistered
    );
    assert!(refused, "{answer:?}");
    assert!(!world.cluster.state().nodes.contains_key(&ghost));
    let before = world.nodes_of("web");
    assert_eq!(before, vec![Some("n1".to_owned()); 3]);
    for _ in 0..3 {
        world.join_as("n1", id, boot, NODE).unwrap();
    }
    assert_eq!(world.cluster.state().nodes.len(), 1);
    assert_eq!(world.nodes_of("web"), before);
    world.check_replay();
}
