//! Roll-outs that are watched: a task counts once it has been up for long enough, and a version that fails is rolled back
//! where its job says so: once, to the last one that was up, and by one decision that says why.

use std::collections::BTreeSet;

use longshore_proto::id::TaskId;
use longshore_proto::permission::Role;
use longshore_proto::spec::{
    ExchangeOrder, JobSpec, OnFailure, ReschedulePolicy, TaskSpec, UpdatePolicy,
};
use longshore_proto::state::{JobStatus, TaskState};

use super::world::{NODE, World, job, key};
use crate::cluster::record::Fact;
use crate::cluster::state::Job;
use crate::cluster::{Command, Input};

const ALIVE: &[&str] = &["n1", "n2"];
/// How long a task must have been up, and how long a roll-out may take for the next one.
const HEALTHY_FOR_MS: u64 = 10_000;
const DEADLINE_MS: u64 = 60_000;

/// A version of a job, named by its image.
fn web(version: u32, instances: u32, order: ExchangeOrder, on_failure: OnFailure) -> JobSpec {
    let mut spec = job("web", instances);
    spec.specs[0].image = format!("web:{version}");
    spec.specs[0].update = Some(UpdatePolicy {
        order,
        parallel: 1,
        healthy_for_ms: HEALTHY_FOR_MS,
        on_failure,
        progress_deadline_ms: DEADLINE_MS,
    });
    spec.specs[0].reschedule =
        Some(ReschedulePolicy { attempts: None, delay_ms: 5_000, delay_ms_max: 60_000 });
    spec
}

fn back(version: u32) -> JobSpec {
    web(version, 3, ExchangeOrder::StopFirst, OnFailure::Rollback)
}

fn nodes() -> World {
    let mut world = World::new();
    for node in ALIVE {
        world.join(node, NODE).unwrap();
    }
    world
}

/// Two nodes, on which the first version of a job has run for a while.
fn world_with(spec: JobSpec) -> World {
    let mut world = nodes();
    world.submit(spec);
    world.start_all("web");
    world.pass(HEALTHY_FOR_MS + 1_000, ALIVE);
    world
}

fn stored(world: &World) -> &Job {
    &world.cluster.state().jobs[&key("web")]
}

fn image(world: &World, id: TaskId) -> String {
    let spec = world.cluster.state().task_spec(world.task(id));
    spec.map(|spec| spec.image.clone()).unwrap_or_default()
}

/// What runs, by image.
fn running(world: &World) -> Vec<String> {
    let ids = world.live("web").into_iter();
    let ids = ids.filter(|id| world.task(*id).state == TaskState::Running);
    let mut images: Vec<String> = ids.map(|id| image(world, id)).collect();
    images.sort();
    images
}

/// What the nodes do with tasks of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    /// They run.
    Run,
    /// They run for a moment each time, and are started again for ever.
    Crash,
    /// They are given up at once.
    Fail,
    /// They never start.
    Hang,
}

/// Lets seconds pass in which the nodes do what they are told.
fn pass(world: &mut World, seconds: u64, does: impl Fn(&str) -> Does) -> Vec<Fact> {
    let mut facts = Vec::new();
    for second in 0..seconds {
        for id in world.live("web") {
            let task = world.task(id).clone();
            if task.node.is_none() {
                continue;
            }
            let attempt = task.attempt.max(1);
            let does = does(&image(world, id));
            let runs = matches!(does, Does::Run | Does::Crash);
            let (attempt, state, code) = match does {
                _ if task.is_to_stop() => (attempt, TaskState::Stopped, None),
                Does::Fail => (attempt, TaskState::Failed, Some(1)),
                _ if runs && task.state != TaskState::Running => {
                    (attempt, TaskState::Running, None)
                }
                Does::Crash if second % 3 == 0 => (attempt + 1, TaskState::Preparing, None),
                Does::Run | Does::Crash | Does::Hang => continue,
            };
            facts.extend(world.report(id, attempt, state, code));
        }
        facts.extend(world.pass(1_000, ALIVE));
    }
    facts
}

/// All run but those of one image.
fn but(bad: &str, does: Does) -> impl Fn(&str) -> Does + '_ {
    move |image| if image == bad { does } else { Does::Run }
}

/// The images of a job's versions, in their order.
fn images(world: &World) -> Vec<&str> {
    stored(world).versions.values().map(|job| job.specs[0].image.as_str()).collect()
}

#[test]
fn a_version_that_runs_for_a_moment_each_time_takes_one_instance_and_with_start_first_none() {
    for (order, left) in [(ExchangeOrder::StopFirst, 2), (ExchangeOrder::StartFirst, 3)] {
        let mut world = world_with(web(1, 3, order, OnFailure::Pause));
        world.submit(web(2, 3, order, OnFailure::Pause));
        for _ in 0..120 {
            pass(&mut world, 1, but("web:2", Does::Crash));
            let old = running(&world).into_iter().filter(|image| image == "web:1").count();
            assert!(old >= left, "{order:?}: {:?}", running(&world));
        }
        assert_eq!(stored(&world).status, JobStatus::Pending, "{order:?}");
        assert_eq!(stored(&world).version, 2, "nobody said that it goes back");
        world.check_replay();
    }
}

#[test]
fn the_next_instance_has_its_turn_when_the_last_one_has_been_up_for_long_enough() {
    for order in [ExchangeOrder::StopFirst, ExchangeOrder::StartFirst] {
        let mut world = world_with(web(1, 3, order, OnFailure::Pause));
        world.submit(web(2, 3, order, OnFailure::Pause));
        let began_ms = world.now_ms;
        let mut seen = Vec::new();
        while stored(&world).status != JobStatus::Running {
            pass(&mut world, 1, |_| Does::Run);
            let new = running(&world).into_iter().filter(|image| image == "web:2").count();
            if seen.len() < new {
                seen.push((world.now_ms - began_ms) / 1_000);
            }
            assert!(world.now_ms - began_ms < 60_000, "{order:?}: {seen:?}");
        }
        for pair in seen.windows(2) {
            assert!((10..15).contains(&(pair[1] - pair[0])), "{order:?}: {seen:?}");
        }
        let end = (world.now_ms - began_ms) / 1_000;
        assert!((9..14).contains(&(end - seen[2])), "the last one settles, too: {seen:?}, {end}");
        pass(&mut world, 1, |_| Does::Run);
        assert_eq!(running(&world), ["web:2"; 3]);
        let records = world.log.len();
        world.pass(60_000, ALIVE);
        assert_eq!(world.log.len(), records, "all is quiet");
    }
}

#[test]
fn a_version_that_is_given_up_is_rolled_back_and_everything_says_why() {
    let mut world = world_with(back(1));
    world.submit(back(2));
    let facts = pass(&mut world, 60, but("web:2", Does::Fail));
    assert_eq!(images(&world), ["web:1", "web:2", "web:1"], "once");
    assert_eq!(running(&world), ["web:1"; 3]);
    assert_eq!(stored(&world).status, JobStatus::Running);
    let submitted = facts.iter().filter_map(|fact| match fact {
        Fact::JobSubmitted { version, actor, rolled_back, .. } => {
            Some((*version, actor.clone(), rolled_back.clone()))
        }
        _ => None,
    });
    let [(3, actor, Some(why))] = &submitted.collect::<Vec<_>>()[..] else { panic!("{facts:#?}") };
    assert_eq!(actor, "manager/m1 (version 2 has failed)");
    assert_eq!((why.failed, why.to), (2, 1));
    let tasks = &world.cluster.state().tasks;
    let failed = tasks.iter().find(|(_, task)| task.state == TaskState::Failed).unwrap().0;
    assert!(why.reason.contains(&failed.to_string()), "{}", why.reason);
    assert_eq!(stored(&world).rolled_back.as_ref(), Some(&**why));
    let audits = facts.iter().filter_map(|fact| match fact {
        Fact::CommandGranted { key, audit: Some(audit), .. } => Some((key.role, audit.clone())),
        _ => None,
    });
    let [(Role::Manager, audit)] = &audits.collect::<Vec<_>>()[..] else { panic!("{facts:#?}") };
    assert_eq!((audit.verb.as_str(), &audit.actor), ("job.rollback", actor));
    assert!(audit.of.starts_with("default/web, back to version 1"), "{}", audit.of);
    world.check_replay();
    // Somebody else's word takes its place.
    world.submit(back(4));
    assert_eq!(stored(&world).rolled_back, None);
}

#[test]
fn a_version_that_does_not_come_up_in_time_is_rolled_back_by_another_leader_too() {
    for does in [Does::Hang, Does::Crash] {
        for change_leader in [false, true] {
            let mut world = world_with(back(1));
            world.submit(back(2));
            pass(&mut world, DEADLINE_MS / 1_000 - 10, but("web:2", does));
            assert_eq!(stored(&world).version, 2);
            if change_leader {
                world.change_leader();
                pass(&mut world, DEADLINE_MS / 1_000 - 10, but("web:2", does));
                assert_eq!(stored(&world).version, 2, "it begins to count anew");
            }
            pass(&mut world, 60, but("web:2", does));
            assert_eq!(images(&world), ["web:1", "web:2", "web:1"]);
            assert_eq!(running(&world), ["web:1"; 3]);
            let why = stored(&world).rolled_back.clone().unwrap().reason;
            assert!(why.starts_with("no more of main has come up for 1m: task "), "{why}");
            world.check_replay();
        }
    }
}

#[test]
fn who_does_not_hear_the_nodes_does_not_judge() {
    let mut world = world_with(back(1));
    world.submit(back(2));
    pass(&mut world, 30, but("web:2", Does::Hang));
    world.run([Input::BusLost]);
    pass(&mut world, 120, but("web:2", Does::Hang));
    world.run([Input::BusBack]);
    pass(&mut world, 50, but("web:2", Does::Hang));
    assert_eq!(stored(&world).version, 2);
    pass(&mut world, 30, but("web:2", Does::Hang));
    assert_eq!(stored(&world).version, 3);
}

#[test]
fn between_two_versions_that_fail_nobody_goes_back_and_forth() {
    let mut world = world_with(back(1));
    world.submit(back(2));
    let facts = pass(&mut world, 300, |_| Does::Fail);
    let versions = facts.iter().filter(|fact| matches!(fact, Fact::JobSubmitted { .. })).count();
    assert_eq!((versions, stored(&world).version), (1, 3));
    world.change_leader();
    pass(&mut world, 120, |_| Does::Fail);
    assert_eq!(stored(&world).version, 3);
    // What fails as well is no reason to go back to what has failed.
    world.submit(back(4));
    pass(&mut world, 300, |_| Does::Fail);
    assert_eq!(images(&world), ["web:1", "web:2", "web:1", "web:4", "web:1"]);
}

#[test]
fn where_no_version_was_ever_up_there_is_none_to_go_back_to() {
    for does in [Does::Fail, Does::Crash, Does::Hang] {
        let mut world = nodes();
        world.submit(back(1));
        pass(&mut world, 40, |_| does);
        world.submit(back(2));
        pass(&mut world, 200, |_| does);
        assert_eq!(stored(&world).version, 2);
        // Of those that follow, the first that is up is one.
        world.submit(back(3));
        pass(&mut world, 120, |_| Does::Run);
        world.submit(back(4));
        pass(&mut world, 120, but("web:4", does));
        assert_eq!(images(&world), ["web:1", "web:2", "web:3", "web:4", "web:3"]);
        assert_eq!(running(&world), ["web:3"; 3]);
        world.check_replay();
    }
}

#[test]
fn versions_that_never_were_up_are_left_out() {
    let mut world = world_with(back(1));
    for version in 2..=4 {
        world.submit(back(version));
        pass(&mut world, 5, |image| if image == "web:1" { Does::Run } else { Does::Hang });
    }
    pass(&mut world, 120, |image| if image == "web:1" { Does::Run } else { Does::Fail });
    assert_eq!(images(&world), ["web:1", "web:2", "web:3", "web:4", "web:1"]);
    assert_eq!(running(&world), ["web:1"; 3]);
}

#[test]
fn a_version_that_was_up_and_fails_later_stays_what_it_is() {
    let mut world = world_with(back(1));
    world.submit(back(2));
    pass(&mut world, 60, |_| Does::Run);
    assert_eq!(stored(&world).status, JobStatus::Running);
    for change_leader in [false, true] {
        if change_leader {
            world.change_leader();
        }
        pass(&mut world, 200, |_| Does::Fail);
        assert_eq!(stored(&world).version, 2, "its roll-out is over");
    }
    // It is what a later one goes back to, all the same.
    world.submit(back(3));
    pass(&mut world, 200, but("web:3", Does::Fail));
    assert_eq!(images(&world), ["web:1", "web:2", "web:3", "web:2"]);
}

#[test]
fn another_version_submitted_meanwhile_counts() {
    let mut world = world_with(back(1));
    world.submit(back(2));
    pass(&mut world, 20, but("web:2", Does::Hang));
    world.submit(back(3));
    pass(&mut world, 120, but("web:2", Does::Fail));
    assert_eq!(images(&world), ["web:1", "web:2", "web:3"], "of the last one no task has failed");
    assert_eq!(running(&world), ["web:3"; 3]);
}

#[test]
fn what_was_scaled_meanwhile_stays_so_and_what_was_stopped_stopped() {
    let mut world = world_with(back(1));
    let (web, scale) =
        (key("web"), |instances| Command::ScaleJob { job: key("web"), spec: None, instances });
    world.command(scale(2)).unwrap();
    pass(&mut world, 30, |_| Does::Run);
    // What a file says of the count goes with the file.
    let mut second = back(2);
    second.specs[0].instances = 5;
    world.submit(second.clone());
    pass(&mut world, 120, but("web:2", Does::Fail));
    assert_eq!(running(&world), ["web:1"; 2]);
    world.submit(second.clone());
    world.command(scale(4)).unwrap();
    pass(&mut world, 120, but("web:2", Does::Fail));
    assert_eq!(running(&world), ["web:1"; 4]);

    world.submit(second);
    let version = stored(&world).version;
    world.command(Command::StopJob(web)).unwrap();
    pass(&mut world, 120, but("web:2", Does::Fail));
    assert_eq!((stored(&world).version, stored(&world).status), (version, JobStatus::Stopped));
    // Run again it is another run: what ran before is not missed.
    world.submit(back(3));
    pass(&mut world, 120, |_| Does::Fail);
    assert_eq!(stored(&world).version, version + 1);
}

#[test]
fn all_parts_go_back_when_one_fails_and_those_that_pause_do_not() {
    let parts = |version: u32, on_failure| {
        let mut spec = web(version, 2, ExchangeOrder::StopFirst, on_failure);
        let mut other = TaskSpec { name: "other".parse().unwrap(), ..spec.specs[0].clone() };
        other.update =
            Some(UpdatePolicy { on_failure: OnFailure::Rollback, ..other.update.unwrap() });
        other.image = format!("other:{version}");
        other.resources.cpu_millis = 10;
        spec.specs.push(other);
        spec
    };
    let mut world = world_with(parts(1, OnFailure::Rollback));
    world.submit(parts(2, OnFailure::Rollback));
    pass(&mut world, 180, but("web:2", Does::Fail));
    assert_eq!(running(&world), ["other:1", "other:1", "web:1", "web:1"]);
    world.submit(parts(3, OnFailure::Pause));
    pass(&mut world, 180, but("web:3", Does::Fail));
    assert_eq!(running(&world), ["other:3", "other:3", "web:1"]);
    world.submit(parts(4, OnFailure::Pause));
    pass(&mut world, 180, but("other:4", Does::Fail));
    let left: BTreeSet<String> = running(&world).into_iter().collect();
    assert_eq!(left, BTreeSet::from(["other:1".into(), "web:1".into()]), "all of it");
}

#[test]
fn a_job_that_says_so_for_the_first_time_goes_back_to_what_has_run() {
    let usual = |version| {
        let mut spec = back(version);
        spec.specs[0].update = None;
        spec
    };
    let mut world = world_with(usual(1));
    world.submit(usual(2));
    pass(&mut world, 60, |_| Does::Run);
    world.submit(back(3));
    pass(&mut world, 60, but("web:3", Does::Fail));
    assert_eq!(images(&world), ["web:1", "web:2", "web:3", "web:2"]);
    assert_eq!(running(&world), ["web:2"; 3]);
}

#[test]
fn what_is_restarted_and_fails_has_nothing_to_go_back_to() {
    let mut world = world_with(back(1));
    world.command(Command::RestartJob { job: key("web"), spec: None }).unwrap();
    pass(&mut world, 120, |_| Does::Fail);
    assert_eq!(stored(&world).version, 2);
}
