//! What becomes of jobs: submitted, placed, counted, replaced, stopped, changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use longshore_proto::api::{DrainNodes, ListTasks, NameNodes};
use longshore_proto::error::ErrorCode;
use longshore_proto::health::{Health, HealthReport};
use longshore_proto::id::{CommandId, TaskId};
use longshore_proto::node::Want;
use longshore_proto::spec::{JobType, Port, Protocol, ReschedulePolicy, Resources, TaskSpec};
use longshore_proto::state::{JobStatus, TaskState};

use super::world::{NODE, World, hasty_job, job, key, node_name};
use crate::cluster::changes::Changes;
use crate::cluster::record::{CommandAnswer, Fact};
use crate::cluster::{Command, NodeCommand, State, persist};

fn status(world: &World, name: &str) -> JobStatus {
    world.cluster.state().jobs[&key(name)].status
}

#[test]
fn a_job_is_stored_created_and_placed_in_one_record() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let records = world.log.len();
    assert_eq!(world.submit(job("web", 2)), 1);
    assert_eq!(world.log.len(), records + 1, "one record for everything");
    let live = world.live("web");
    assert_eq!(live.len(), 2);
    for id in &live {
        assert_eq!(world.task(*id).state, TaskState::Assigned);
        let why = world.task(*id).why().unwrap();
        assert_eq!((why.nodes, why.feasible), (1, 1), "{why:?}");
    }
    let (node, delta) = world.told.last().unwrap();
    assert_eq!(node.as_str(), "n1");
    assert_eq!(delta.changes.len(), 2);
    assert!(
        matches!(&delta.changes[0].want, Want::Run(run) if run.spec.image == "busybox:1" && run.attempt_floor == 0)
    );
    assert_eq!(delta.revision.index, world.log.len() as u64);
    world.check_replay();
}

#[test]
fn what_fits_nowhere_waits_with_its_reason_and_is_placed_when_it_fits() {
    let mut world = World::new();
    world.submit(job("web", 1));
    let id = world.live("web")[0];
    assert_eq!(world.task(id).state, TaskState::Pending);
    let blocked = world.cluster.state().jobs[&key("web")].blocked.values().next().cloned();
    assert_eq!(blocked.as_deref(), Some("no node has joined yet"));
    world.join("small", Resources { memory_bytes: 1 << 20, ..NODE }).unwrap();
    assert_eq!(world.task(id).state, TaskState::Pending);
    let reason = world.cluster.state().jobs[&key("web")].blocked.values().next().cloned().unwrap();
    assert!(reason.contains("memory"), "{reason}");
    world.join("n1", NODE).unwrap();
    assert_eq!(world.task(id).node.as_ref().map(|node| node.as_str()), Some("n1"));
    assert!(world.cluster.state().jobs[&key("web")].blocked.is_empty());
}

#[test]
fn a_repeated_command_gets_the_first_answer_and_changes_nothing() {
    let mut world = World::new();
    let id = world.command_id();
    let submit = |instances| Command::SubmitJob(Box::new(job("web", instances)));
    let first = world.command_with(id, submit(1)).unwrap();
    let records = world.log.len();
    assert_eq!(world.command_with(id, submit(1)).unwrap(), first);
    assert_eq!(world.log.len(), records);
    let reused = world.command_with(id, submit(2)).unwrap_err();
    assert_eq!(reused.code, ErrorCode::CommandReused);
    let random: CommandId = "936da01f-9abd-4d9d-80c7-02af85c822a8".parse().unwrap();
    assert_eq!(world.command_with(random, submit(1)).unwrap_err().code, ErrorCode::Invalid);
}

#[test]
fn an_id_older_than_what_is_remembered_is_refused_as_unknown() {
    let mut world = World::new();
    let id = world.command_id();
    world.submit(job("web", 1));
    world.now_ms += 25 * 3_600_000;
    // What asks now makes the table forget the day before.
    world.submit(job("other", 1));
    let refused = world.command_with(id, Command::StopJob(key("web"))).unwrap_err();
    assert_eq!(refused.code, ErrorCode::CommandReused);
    assert!(refused.message.contains("unknown"), "{refused}");
}

#[test]
fn the_memory_of_commands_is_a_day_long_and_no_longer() {
    let mut world = World::new();
    world.submit(job("web", 1));
    assert_eq!(world.cluster.state().commands.len(), 1);
    world.now_ms += 25 * 3_600_000;
    world.submit(job("other", 1));
    assert_eq!(world.cluster.state().commands.len(), 1);
    world.check_replay();
}

#[test]
fn a_wall_clock_that_jumps_neither_grants_twice_nor_refuses_what_is_new() {
    const HOUR_MS: i64 = 3_600_000;
    let mut world = World::with_clock_off(-30 * HOUR_MS);
    let early = world.command_id();
    let first = world.command_with(early, Command::SubmitJob(Box::new(job("web", 1)))).unwrap();
    // The clock is set right: what was granted more than a day ago by the wrong one is as new as its id.
    world.now_ms += 1_000;
    world.clock_off_ms = 0;
    world.submit(job("other", 1));
    let again = world.command_with(early, Command::SubmitJob(Box::new(job("web", 1))));
    assert_eq!(again.unwrap(), first);
    // A jump far ahead, and back: whoever asks afterwards is heard.
    for off in [1_000, 0] {
        world.now_ms += 1_000;
        world.clock_off_ms = off * HOUR_MS;
        world.submit(job("other", 2));
    }
    world.check_replay();
}

#[test]
fn a_client_whose_clock_is_a_year_ahead_makes_nobody_elses_commands_look_old() {
    let mut world = World::new();
    let now_ms = world.command_id().minted_at_ms().unwrap();
    let ahead = uuid::Builder::from_unix_timestamp_millis(now_ms + 365 * 86_400_000, &[7; 10]);
    let ahead = CommandId(ahead.into_uuid());
    let first = world.command_with(ahead, Command::SubmitJob(Box::new(job("web", 1)))).unwrap();
    for _ in 0..3 {
        world.now_ms += 25 * 3_600_000;
        assert_eq!(world.submit(job("other", 1)), 1);
    }
    let again = world.command_with(ahead, Command::SubmitJob(Box::new(job("web", 1))));
    assert_eq!(again.unwrap(), first);
    assert_eq!(world.cluster.state().commands.len(), 2);
    world.check_replay();
}

#[test]
fn the_same_job_again_is_no_new_version() {
    let mut world = World::new();
    assert_eq!(world.submit(job("web", 1)), 1);
    assert_eq!(world.submit(job("web", 1)), 1);
    assert_eq!(world.submit(job("web", 2)), 2);
}

#[test]
fn a_service_is_running_when_all_of_it_runs_and_stays_so_while_one_restarts() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 2));
    assert_eq!(status(&world, "web"), JobStatus::Pending);
    world.start_all("web");
    assert_eq!(status(&world, "web"), JobStatus::Running);
    let id = world.live("web")[0];
    world.report(id, 2, TaskState::Preparing, Some(137));
    assert_eq!(world.task(id).attempt, 2);
    assert_eq!(world.task(id).exit_code(), Some(137));
    assert_eq!(status(&world, "web"), JobStatus::Running);
}

#[test]
fn late_and_doubled_reports_change_nothing() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    let id = world.live("web")[0];
    world.report(id, 1, TaskState::Running, None);
    world.report(id, 2, TaskState::Running, None);
    for (attempt, state) in [
        (1, TaskState::Running),
        (1, TaskState::Failed),
        (2, TaskState::Preparing),
        (2, TaskState::Running),
    ] {
        let facts = world.report(id, attempt, state, None);
        assert!(facts.is_empty(), "({attempt}, {state}) changed {facts:?}");
    }
}

#[test]
fn a_change_of_health_is_known_once_and_never_goes_back() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    let id = world.live("web")[0];
    world.report(id, 1, TaskState::Running, None);
    let started = world.task(id).started_at_ms;
    let found = |status, sequence| HealthReport { status, sequence };
    assert_eq!(world.report_health(id, found(Health::Healthy, 2)).len(), 1);
    assert_eq!(world.task(id).health, Some(found(Health::Healthy, 2)));
    assert_eq!(world.task(id).started_at_ms, started, "it did not start again");
    assert_eq!(world.report_health(id, found(Health::Healthy, 2)), []);
    assert_eq!(world.report_health(id, found(Health::Starting, 1)), []);
    assert_eq!(world.report_health(id, found(Health::Unhealthy, 3)).len(), 1);
    world.report(id, 2, TaskState::Preparing, Some(1));
    assert_eq!(world.task(id).health, None);
    assert_eq!(world.report_health(id, found(Health::Healthy, 9)), [], "the attempt is over");
    world.check_replay();
}

#[test]
fn why_an_image_cannot_be_had_is_known_once_and_never_goes_back() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    let id = world.live("web")[0];
    world.report(id, 1, TaskState::Preparing, None);
    assert_eq!(world.report_pull_failed(id, 1, "away").len(), 1);
    assert_eq!(world.report_pull_failed(id, 2, "still away").len(), 1);
    assert_eq!(world.report_pull_failed(id, 2, "still away"), []);
    assert_eq!(world.report_pull_failed(id, 1, "away"), []);
    assert_eq!(world.task(id).reason(), Some("still away"));
    world.report(id, 1, TaskState::Running, None);
    assert_eq!(world.report_pull_failed(id, 3, "away"), [], "it has come");
    world.report(id, 2, TaskState::Preparing, Some(1));
    assert_eq!(world.task(id).pulls_failed(), 0);
    world.check_replay();
}

#[test]
fn a_task_goes_only_to_nodes_of_its_platform_and_says_so() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let mut spec = job("web", 1);
    spec.specs[0].container.platform = Some("linux/arm64".parse().unwrap());
    world.submit(spec);
    let id = world.live("web")[0];
    assert_eq!(world.task(id).node, None);
    let why = world.cluster.state().jobs[&key("web")].blocked.values().next().cloned().unwrap();
    assert!(why.contains("attribute.platform = linux/arm64"), "{why}");
}

#[test]
fn a_service_task_that_failed_for_good_is_replaced_after_a_wait_that_doubles() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let mut spec = job("web", 1);
    spec.specs[0].reschedule =
        Some(ReschedulePolicy { attempts: Some(2), delay_ms: 1_000, delay_ms_max: 60_000 });
    world.submit(spec);
    for (failures, wait_ms) in [(0u32, 1_000u64), (1, 2_000)] {
        let id = world.live("web")[0];
        assert_eq!(world.task(id).failures, failures);
        world.report(id, 1, TaskState::Failed, Some(1));
        assert!(world.live("web").is_empty(), "not before the wait");
        let told = format!("another one follows after {}s", wait_ms / 1_000);
        assert_eq!(given_up(&world), [(id, told)], "what its job waits for is listed, and says so");
        world.pass(wait_ms - 500, &["n1"]);
        assert!(world.live("web").is_empty(), "not before the wait is over");
        world.pass(1_000, &["n1"]);
        let next = world.live("web")[0];
        assert_eq!(world.task(next).replaces, Some(id));
        assert_eq!(world.task(next).slot, 0);
    }
    let id = world.live("web")[0];
    world.report(id, 1, TaskState::Failed, Some(1));
    world.pass(120_000, &["n1"]);
    assert!(world.live("web").is_empty(), "the policy allows no third replacement");
    assert_eq!(status(&world, "web"), JobStatus::Failed);
    assert_eq!(given_up(&world), [(id, "none follows: `reschedule` allows 2 in a row".to_owned())]);
    world.command(Command::StopJob(key("web"))).unwrap();
    assert_eq!(given_up(&world), [], "nothing is to run in its place any more");
    assert_eq!(status(&world, "web"), JobStatus::Stopped);
    world.check_replay();
}

/// The tasks that were given up with something still to run in their places, and why.
fn given_up(world: &World) -> Vec<(TaskId, String)> {
    let list = ListTasks { given_up: true, ..ListTasks::default() };
    let page = world.cluster.task_page(None, &list);
    let ended = page.items.into_iter().filter(|task| task.state.is_terminal());
    ended.map(|task| (task.id, task.reason.unwrap_or_default())).collect()
}

#[test]
fn a_batch_job_says_so_when_it_has_finished() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let mut spec = job("sums", 2);
    spec.job_type = JobType::Batch;
    world.submit(spec.clone());
    world.start_all("sums");
    for id in world.live("sums") {
        world.report(id, 1, TaskState::Completed, Some(0));
    }
    assert_eq!(status(&world, "sums"), JobStatus::Completed);
    world.pass(60_000, &["n1"]);
    assert!(world.live("sums").is_empty(), "what has completed is not run again");
    assert_eq!(world.submit(spec), 2, "submitted again, it runs again");
    assert_eq!(world.live("sums").len(), 2);
    world.check_replay();
}

#[test]
fn a_batch_job_with_a_task_that_failed_for_good_has_failed() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let mut spec = job("sums", 2);
    spec.job_type = JobType::Batch;
    world.submit(spec);
    let ids = world.live("sums");
    world.report(ids[0], 1, TaskState::Failed, Some(3));
    assert_eq!(status(&world, "sums"), JobStatus::Pending);
    assert_eq!(given_up(&world), [(ids[0], "none follows: `reschedule` allows none".to_owned())]);
    world.report(ids[1], 1, TaskState::Completed, Some(0));
    assert_eq!(status(&world, "sums"), JobStatus::Failed);
    assert_eq!(given_up(&world), [], "a job that has ended waits for nothing");
}

#[test]
fn a_stopped_job_ends_all_its_tasks_and_then_is_stopped() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 12));
    assert_eq!(
        world.live("web").iter().filter(|id| world.task(**id).node.is_none()).count(),
        2,
        "10 fit"
    );
    let answer = world.command(Command::StopJob(key("web"))).unwrap();
    assert!(matches!(answer, CommandAnswer::JobStopped(stopped) if stopped.tasks_live == 12));
    assert_eq!(status(&world, "web"), JobStatus::Stopping);
    let (_, delta) = world.told.last().unwrap();
    assert_eq!(
        delta.changes.iter().filter(|change| matches!(change.want, Want::Stop { .. })).count(),
        10
    );
    for id in world.live("web") {
        world.report(id, 0, TaskState::Stopped, None);
    }
    assert_eq!(status(&world, "web"), JobStatus::Stopped);
    assert_eq!(
        world.cluster.state().fleet.node(&node_name("n1")).unwrap().committed,
        Resources::ZERO
    );
    world.check_replay();
}

#[test]
fn stopping_one_task_lowers_the_count_and_leaves_the_others_alone() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 3));
    world.start_all("web");
    let ids = world.live("web");
    let stop = Command::StopTask { namespace: key("web").namespace, id: ids[1].to_string() };
    let answer = world.command(stop).unwrap();
    assert!(matches!(answer, CommandAnswer::TaskStopped(stopped) if stopped.instances == 2));
    world.report(ids[1], 1, TaskState::Stopped, Some(143));
    assert_eq!(world.live("web"), [ids[0], ids[2]]);
    assert_eq!(status(&world, "web"), JobStatus::Running);
    for id in [ids[0], ids[2]] {
        let stop = Command::StopTask { namespace: key("web").namespace, id: id.to_string() };
        world.command(stop).unwrap();
        world.report(id, 1, TaskState::Stopped, None);
    }
    assert_eq!(status(&world, "web"), JobStatus::Stopped, "the last task's stop stops the job");
    world.check_replay();
}

#[test]
fn a_job_is_not_running_again_before_its_last_task_is_exchanged() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(hasty_job("web", 3));
    world.start_all("web");
    // The one too many ends first; meanwhile as many run as are wanted, but not what is wanted.
    let mut changed = hasty_job("web", 2);
    changed.specs[0].image = "busybox:2".into();
    world.submit(changed);
    for _ in 0..3 {
        assert_eq!(status(&world, "web"), JobStatus::Pending);
        world.end_all("web");
        world.start_all("web");
    }
    assert_eq!(status(&world, "web"), JobStatus::Running);
    world.check_replay();
}

#[test]
fn a_task_that_ends_without_being_asked_is_replaced() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    let id = world.live("web")[0];
    world.report(id, 1, TaskState::Stopped, None);
    assert_eq!(world.live("web").len(), 1);
    assert_ne!(world.live("web")[0], id);
}

#[test]
fn a_change_is_rolled_out_one_task_at_a_time_in_its_own_slot() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(hasty_job("web", 3));
    world.start_all("web");
    let mut changed = hasty_job("web", 3);
    changed.specs[0].image = "busybox:2".into();
    assert_eq!(world.submit(changed), 2);
    for slot in 0..3 {
        let stopping: Vec<_> =
            world.live("web").into_iter().filter(|id| world.task(*id).is_to_stop()).collect();
        assert_eq!(stopping.len(), 1, "one at a time");
        assert_eq!(world.task(stopping[0]).slot, slot);
        world.report(stopping[0], 1, TaskState::Stopped, None);
        let next = world.live("web")[slot as usize];
        assert_eq!((world.task(next).slot, world.task(next).version), (slot, 2));
        world.report(next, 1, TaskState::Running, None);
    }
    assert!(
        world
            .live("web")
            .iter()
            .all(|id| world.task(*id).version == 2 && !world.task(*id).is_to_stop())
    );
    world.check_replay();
}

#[test]
fn more_instances_leave_what_runs_alone() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 2));
    world.start_all("web");
    let before = world.live("web");
    world.submit(job("web", 4));
    let after = world.live("web");
    assert_eq!(after.len(), 4);
    assert!(before.iter().all(|id| after.contains(id) && !world.task(*id).is_to_stop()));
    world.submit(job("web", 1));
    let stopping = world.live("web").into_iter().filter(|id| world.task(*id).is_to_stop()).count();
    assert_eq!(stopping, 3, "the highest slots go");
    assert!(!world.task(before[0]).is_to_stop());
}

#[test]
fn a_port_is_given_once_per_node() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.join("n2", NODE).unwrap();
    let mut spec = job("web", 3);
    spec.specs[0].ports = vec![Port {
        host: 8080,
        container: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
        name: None,
    }];
    world.submit(spec);
    let placed = world.live("web").into_iter().filter(|id| world.task(*id).node.is_some()).count();
    assert_eq!(placed, 2);
    let reason = world.cluster.state().jobs[&key("web")].blocked.values().next().cloned().unwrap();
    assert!(reason.contains("8080"), "{reason}");
}

#[test]
fn higher_priority_is_placed_first() {
    let mut world = World::new();
    let mut low = job("low", 10);
    low.priority = 10;
    let mut high = job("high", 5);
    high.priority = 90;
    world.submit(low);
    world.submit(high);
    world.join("n1", NODE).unwrap();
    let placed = |world: &World, name| {
        world.live(name).into_iter().filter(|id| world.task(*id).node.is_some()).count()
    };
    assert_eq!((placed(&world, "high"), placed(&world, "low")), (5, 5));
}

#[test]
fn what_waits_follows_the_newest_version_and_what_is_only_scaled_goes_on_waiting() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let mut pinned = job("web", 2);
    pinned.specs[0].constraints = vec!["node.name = n9".parse().unwrap()];
    world.submit(pinned.clone());
    let before = world.live("web");
    pinned.specs[0].instances = 3;
    world.submit(pinned.clone());
    let scaled = world.live("web");
    assert_eq!((scaled.len(), &scaled[..2]), (3, &before[..]));
    // Its operator sees the mistake.
    pinned.specs[0].constraints = Vec::new();
    world.submit(pinned);
    let after = world.live("web");
    assert!(after.iter().all(|id| !scaled.contains(id) && world.task(*id).node.is_some()));
    assert_eq!(after.len(), 3);
    world.check_replay();
}

#[test]
fn a_part_that_waits_in_two_versions_does_not_fill_the_log() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.join("n2", NODE).unwrap();
    world.join("small", Resources { cpu_millis: 500, ..NODE }).unwrap();
    let mut web = job("web", 2);
    web.specs[0].resources.cpu_millis = 600;
    world.submit(web.clone());
    world.start_all("web");
    // What moves waits for a place, and so does what is wanted since, one after the other.
    let last = world.live("web").into_iter().find(|id| world.task(*id).slot == 1).unwrap();
    let names = vec![world.task(last).node.clone().unwrap()];
    let drain = DrainNodes { names, deadline_ms: None };
    world.command(Command::Node(NodeCommand::Drain(drain))).unwrap();
    let first = world.live("web").into_iter().find(|id| world.task(*id).slot == 0).unwrap();
    let names = vec![world.task(first).node.clone().unwrap()];
    world.command(Command::Node(NodeCommand::Cordon(NameNodes { names }))).unwrap();
    world.pass(1_000, &["n1", "n2", "small"]);
    web.specs[0].instances = 3;
    world.submit(web);
    let versions: BTreeSet<u64> = world
        .live("web")
        .into_iter()
        .map(|id| world.task(id))
        .filter(|task| task.state == TaskState::Pending)
        .map(|task| task.version)
        .collect();
    assert_eq!(versions, BTreeSet::from([1, 2]));
    let facts = world.pass(30_000, &["n1", "n2", "small"]);
    assert!(facts.len() <= 1, "{facts:#?}");
    world.check_replay();
}

#[test]
fn a_large_job_comes_in_chunks_that_each_fit_a_record() {
    let mut world = World::new();
    world.join("n1", Resources { cpu_millis: 10_000_000, memory_bytes: 1 << 50, ..NODE }).unwrap();
    let ticket = world.log.len();
    world.submit(job("web", 5_000));
    assert_eq!(world.live("web").len(), 5_000);
    assert!(world.live("web").iter().all(|id| world.task(*id).node.is_some()));
    assert!(world.log.len() - ticket > 5, "in several records");
    world.check_replay();
}

#[test]
fn a_job_that_ended_a_day_ago_is_forgotten() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let mut spec = job("sums", 1);
    spec.job_type = JobType::Batch;
    world.submit(spec);
    let id = world.live("sums")[0];
    world.report(id, 1, TaskState::Completed, Some(0));
    world.now_ms += 25 * 3_600_000;
    let beat = world.heartbeat(&node_name("n1"));
    let facts = world.run([beat]);
    assert!(facts.contains(&Fact::JobForgotten { job: key("sums") }), "{facts:?}");
    assert!(world.cluster.state().tasks.is_empty());
    world.check_replay();
}

#[test]
fn a_version_of_a_job_is_stored_once_and_goes_with_it() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let stored = |world: &World| -> Vec<Vec<u8>> {
        world.stored.keys().filter(|key| persist::is_version(key)).cloned().collect()
    };
    for turn in 0..15 {
        let mut spec = job("web", 1);
        spec.specs[0].env.insert("TURN".into(), turn.to_string());
        world.submit(spec);
        world.start_all("web");
        world.pass(1_000, &["n1"]);
    }
    let versions = world.cluster.state().jobs.get(&key("web")).unwrap().versions.len();
    assert_eq!(stored(&world).len(), versions, "those that are pruned are gone");
    world.check_replay();
    // What else becomes of the job writes none of them.
    let (mut state, mut changes) = (world.cluster.state().clone(), Changes::default());
    let status = Fact::JobStatusChanged { job: key("web"), status: JobStatus::Pending };
    state.apply(&status, state.next_revision(1), 1, &mut changes);
    let writes = persist::writes(&state, &changes);
    assert_eq!(writes.len(), 1);
    assert!(writes[0].value.as_ref().is_some_and(|value| value.len() < 256));
    // A file for others holds the job as one value, and it is taken apart as it was.
    let (at, alone) = world.stored.iter().find(|(key, _)| key.starts_with(b"job/")).unwrap();
    assert_eq!(persist::split(at, alone).unwrap(), None);
    let prefix = persist::versions_of(at).unwrap();
    let parts = world.stored.iter().filter(|(key, _)| key.starts_with(&prefix));
    let whole = persist::whole(alone, parts.map(|(_, value)| value)).unwrap();
    let split = persist::split(at, &whole).unwrap().unwrap();
    assert_eq!(split.len(), 1 + versions);
    assert!(split.iter().all(|write| world.stored.get(&write.key) == write.value.as_ref()));
    let pairs = [(at.as_slice().into(), whole.as_slice().into())];
    let loaded = State::load(pairs.into_iter().map(Ok)).unwrap();
    assert_eq!(loaded.jobs.get(&key("web")).unwrap().versions.len(), versions, "as of before");
    // With the job they go.
    world.command(Command::StopJob(key("web"))).unwrap();
    world.end_all("web");
    world.now_ms += 25 * 3_600_000;
    world.pass(1_000, &["n1"]);
    assert!(world.cluster.state().jobs.get(&key("web")).is_none());
    assert_eq!(stored(&world), Vec::<Vec<u8>>::new());
    world.check_replay();
}

#[test]
fn a_job_of_several_parts_counts_each() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let mut spec = job("shop", 2);
    spec.specs.push(TaskSpec {
        instances: 1,
        resources: spec.specs[0].resources,
        ..TaskSpec::new("db".parse().unwrap(), "busybox:1")
    });
    world.submit(spec.clone());
    assert_eq!(world.live("shop").len(), 3);
    world.start_all("shop");
    spec.specs.pop();
    world.submit(spec);
    let stopping: Vec<_> =
        world.live("shop").into_iter().filter(|id| world.task(*id).is_to_stop()).collect();
    assert_eq!(stopping.len(), 1, "the part that is gone is stopped");
    assert_eq!(world.task(stopping[0]).spec.as_str(), "db");
}

#[test]
fn tasks_are_found_by_a_unique_beginning() {
    let mut world = World::new();
    world.submit(job("web", 2));
    let ids = world.live("web");
    let state = world.cluster.state();
    assert_eq!(state.find_task(None, &ids[0].to_string()), Ok(ids[0]));
    assert_eq!(state.find_task(None, &ids[0].to_string().to_uppercase()[..36]), Ok(ids[0]));
    assert_eq!(
        state.find_task(None, &ids[0].to_string()[..4]).unwrap_err().code,
        ErrorCode::Ambiguous
    );
    assert_eq!(state.find_task(None, "ffff").unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(state.find_task(None, "xyz").unwrap_err().code, ErrorCode::Invalid);
    assert_eq!(state.find_task(None, "").unwrap_err().code, ErrorCode::Invalid);
}

#[test]
fn a_job_that_does_not_change_is_not_copied_for_a_plan() {
    let mut world = World::new();
    world.submit(job("web", 1));
    let id = world.live("web")[0];
    let mut state = world.replayed().state;
    let web = key("web");
    let is_copied = |state: &mut State| {
        let plan = state.jobs.clone();
        let (revision, mut changes) = (state.next_revision(state.meta.epoch), Changes::default());
        let withdrawn = Fact::TaskWithdrawn { task: id, reason: "it is not wanted".into() };
        state.apply(&withdrawn, revision, state.meta.at_ms, &mut changes);
        assert_eq!(state.tasks[&id].state, TaskState::Stopped);
        !Arc::ptr_eq(&plan[&web], &state.jobs[&web])
    };
    assert!(is_copied(&mut state), "nothing waits any more: the reason why goes");
    let mut state = world.replayed().state;
    state.jobs.get_mut(&web).map(Arc::make_mut).unwrap().blocked.clear();
    assert!(!is_copied(&mut state));
}
