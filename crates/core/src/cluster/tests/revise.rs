//! A job's next version out of one that is there: scaled, restarted, rolled back; and tasks that begin anew.

use longshore_proto::api::{DrainNodes, NameVersion, TaskStopped};
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::TaskId;
use longshore_proto::plan::WhatIf;
use longshore_proto::spec::{JobType, TaskSpec};
use longshore_proto::state::{JobStatus, TaskState};

use super::eligibility::names;
use super::world::{NODE, World, hasty_job as job, key};
use crate::cluster::record::CommandAnswer;
use crate::cluster::{Command, NodeCommand};

fn scale(name: &str, spec: Option<&str>, instances: u32) -> Command {
    let spec = spec.map(|spec| spec.parse().unwrap());
    Command::ScaleJob { job: key(name), spec, instances }
}

fn restart(name: &str) -> Command {
    Command::RestartJob { job: key(name), spec: None }
}

fn roll_back(name: &str, version: Option<u64>) -> Command {
    Command::RollBackJob { job: key(name), version }
}

fn restart_task(id: TaskId) -> Command {
    Command::RestartTask { namespace: key("x").namespace, id: id.to_string() }
}

fn version(answer: Result<CommandAnswer, ApiError>) -> u64 {
    match answer.unwrap() {
        CommandAnswer::Submitted(stored) => stored.version,
        other => panic!("{other:?}"),
    }
}

fn refused(answer: Result<CommandAnswer, ApiError>) -> ErrorCode {
    let refusal = answer.unwrap_err();
    assert!(refusal.hint.is_some(), "{refusal:?} says what to do");
    refusal.code
}

fn status(world: &World, name: &str) -> JobStatus {
    world.cluster.state().jobs[&key(name)].status
}

/// A job of so many instances that run.
fn running(name: &str, instances: u32) -> World {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job(name, instances));
    world.start_all(name);
    assert_eq!(status(&world, name), JobStatus::Running);
    world
}

/// Plays the worker until nothing is told to end any more; how many tasks ended, at most one at a time.
fn exchange_all(world: &mut World, name: &str) -> usize {
    let mut ended = 0;
    loop {
        let live = world.live(name);
        let stopping: Vec<_> = live.into_iter().filter(|id| world.task(*id).is_to_stop()).collect();
        let Some(id) = stopping.first() else { return ended };
        assert_eq!(stopping.len(), 1, "one at a time");
        world.report(*id, 1, TaskState::Stopped, None);
        world.start_all(name);
        ended += 1;
    }
}

#[test]
fn scaling_keeps_what_runs_and_adds_or_ends_the_rest() {
    let mut world = running("web", 2);
    let before = world.live("web");
    assert_eq!(version(world.command(scale("web", None, 4))), 2);
    assert_eq!(world.live("web")[..2], before, "those that run stay");
    assert_eq!(world.live("web").len(), 4);
    world.start_all("web");
    assert_eq!(version(world.command(scale("web", Some("main"), 4))), 2, "nothing differs");
    assert_eq!(version(world.command(scale("web", None, 1))), 3);
    let stopping = |id: &&TaskId| world.task(**id).is_to_stop();
    assert_eq!(world.live("web").iter().filter(stopping).count(), 3);
    world.end_all("web");
    assert_eq!((world.live("web").len(), status(&world, "web")), (1, JobStatus::Running));
    world.check_replay();
}

#[test]
fn scaling_says_what_is_wrong() {
    let mut world = running("web", 1);
    assert_eq!(refused(world.command(scale("other", None, 2))), ErrorCode::NotFound);
    assert_eq!(refused(world.command(scale("web", Some("side"), 2))), ErrorCode::NotFound);
    assert_eq!(refused(world.command(scale("web", None, 0))), ErrorCode::Invalid);
    assert_eq!(refused(world.command(scale("web", None, 100_001))), ErrorCode::Invalid);
    let mut two = job("two", 1);
    two.specs.push(TaskSpec::new("side".parse().unwrap(), "redis:7"));
    world.submit(two);
    assert_eq!(refused(world.command(scale("two", None, 2))), ErrorCode::Ambiguous);
    assert_eq!(version(world.command(scale("two", Some("side"), 3))), 2);
    world.command(Command::StopJob(key("web"))).unwrap();
    assert_eq!(refused(world.command(scale("web", None, 2))), ErrorCode::Conflict);
    world.check_replay();
}

#[test]
fn a_restarted_job_exchanges_each_of_its_tasks_once() {
    let mut world = running("web", 3);
    let before = world.live("web");
    assert_eq!(version(world.command(restart("web"))), 2);
    let ending = world.task(before[0]).stop().map(str::to_owned);
    assert_eq!(ending.as_deref(), Some("its job is restarted"));
    assert_eq!(exchange_all(&mut world, "web"), 3);
    let after = world.live("web");
    assert!(after.len() == 3 && after.iter().all(|id| !before.contains(id)));
    assert_eq!(status(&world, "web"), JobStatus::Running);
    // The same job file as before is no reason to begin anew again, nor to forget that it was done.
    assert_eq!(world.submit(job("web", 3)), 2);
    let outlook = world.cluster.snapshot().whatif(&WhatIf::Submit { job: Box::new(job("web", 3)) });
    assert_eq!(outlook.unwrap().placed_total, 0);
    assert_eq!(version(world.command(restart("web"))), 3, "and once more");
    assert_eq!(exchange_all(&mut world, "web"), 3);
    world.check_replay();
}

#[test]
fn only_the_part_that_is_named_begins_anew() {
    let mut two = job("two", 1);
    two.specs.push(TaskSpec::new("side".parse().unwrap(), "redis:7"));
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(two);
    world.start_all("two");
    let spec = Some("side".parse().unwrap());
    world.command(Command::RestartJob { job: key("two"), spec }).unwrap();
    let stopping: Vec<String> = world
        .live("two")
        .into_iter()
        .filter(|id| world.task(*id).is_to_stop())
        .map(|id| world.task(id).spec.to_string())
        .collect();
    assert_eq!(stopping, ["side"]);
    let spec = Some("none".parse().unwrap());
    let answer = world.command(Command::RestartJob { job: key("two"), spec });
    assert_eq!(refused(answer), ErrorCode::NotFound);
}

#[test]
fn a_restart_runs_what_has_ended_or_was_given_up() {
    let mut batch = job("once", 1);
    batch.job_type = JobType::Batch;
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(batch);
    world.start_all("once");
    world.report(world.live("once")[0], 1, TaskState::Completed, Some(0));
    assert_eq!(status(&world, "once"), JobStatus::Completed);
    assert_eq!(version(world.command(restart("once"))), 2);
    assert_eq!(world.live("once").len(), 1);
    world.start_all("once");
    world.report(world.live("once")[0], 1, TaskState::Failed, Some(1));
    assert_eq!(status(&world, "once"), JobStatus::Failed);
    world.command(restart("once")).unwrap();
    assert_eq!(world.live("once").len(), 1, "and after a failure");
    world.command(Command::StopJob(key("once"))).unwrap();
    world.end_all("once");
    world.command(restart("once")).unwrap();
    assert_eq!(world.live("once").len(), 1, "and after a stop");
    world.check_replay();
}

#[test]
fn an_earlier_version_comes_again_as_the_next() {
    let mut world = running("web", 2);
    assert_eq!(refused(world.command(roll_back("web", None))), ErrorCode::Conflict);
    let mut changed = job("web", 2);
    changed.specs[0].image = "busybox:2".into();
    assert_eq!(world.submit(changed), 2);
    exchange_all(&mut world, "web");
    assert_eq!(version(world.command(roll_back("web", None))), 3);
    assert_eq!(exchange_all(&mut world, "web"), 2);
    // A restart is no version to go back from.
    let mut restarted = running("web", 1);
    let mut changed = job("web", 1);
    changed.specs[0].image = "busybox:2".into();
    restarted.submit(changed);
    exchange_all(&mut restarted, "web");
    assert_eq!(version(restarted.command(restart("web"))), 3);
    exchange_all(&mut restarted, "web");
    assert_eq!(version(restarted.command(roll_back("web", None))), 4);
    let spec = restarted.cluster.state().jobs[&key("web")].spec().unwrap();
    assert_eq!((spec.specs[0].image.as_str(), spec.specs[0].restarts), ("busybox:1", 1));
    let image = |world: &World| {
        let state = world.cluster.state();
        let images: Vec<_> = world
            .live("web")
            .iter()
            .map(|id| state.task_spec(world.task(*id)).unwrap().image.clone())
            .collect();
        images
    };
    assert_eq!(image(&world), ["busybox:1", "busybox:1"]);
    assert_eq!(version(world.command(roll_back("web", Some(2)))), 4);
    assert_eq!(refused(world.command(roll_back("web", Some(4)))), ErrorCode::Conflict);
    assert_eq!(refused(world.command(roll_back("web", Some(9)))), ErrorCode::NotFound);
    assert_eq!(refused(world.command(roll_back("none", None))), ErrorCode::NotFound);
    let asked = NameVersion { name: key("web").name, version: Some(3) };
    let said = world.cluster.job_version(&key("web").namespace, &asked).unwrap();
    assert_eq!((said.version, said.versions), (3, vec![1, 2, 3, 4]));
    assert_eq!(said.job.specs[0].image, "busybox:1");
    let asked = NameVersion { version: Some(9), ..asked };
    let refusal = world.cluster.job_version(&key("web").namespace, &asked).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::NotFound);
    world.check_replay();
}

#[test]
fn a_restarted_task_is_followed_by_a_new_one_in_its_slot() {
    let mut world = running("web", 2);
    let [first, second] = world.live("web")[..] else { panic!("two run") };
    let answer = world.command(restart_task(first)).unwrap();
    let CommandAnswer::TaskStopped(TaskStopped { id, instances, .. }) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((id, instances), (first, 2), "the count stays");
    assert!(world.task(first).is_to_stop() && !world.task(second).is_to_stop());
    world.report(first, 1, TaskState::Stopped, Some(143));
    let live = world.live("web");
    assert_eq!((live.len(), live[1]), (2, second));
    assert_eq!(world.task(live[0]).slot, 0);
    assert_eq!(refused(world.command(restart_task(first))), ErrorCode::Conflict, "it has ended");
    let drain = NodeCommand::Drain(DrainNodes { names: names(&["n1"]).names, deadline_ms: None });
    world.join("n2", NODE).unwrap();
    world.command(Command::Node(drain)).unwrap();
    world.start_all("web");
    world.pass(1_000, &["n1", "n2"]);
    let main = "main".parse().unwrap();
    let slots = (0..2).map(|slot| world.cluster.state().slot(&key("web"), &main, slot).to_vec());
    let moves = |ids: &Vec<TaskId>| {
        ids.iter().filter(|id| !world.task(**id).state.is_terminal()).count() == 2
    };
    let moving = slots.filter(moves).map(|ids| ids[ids.len() - 2]).next().unwrap();
    assert_eq!(refused(world.command(restart_task(moving))), ErrorCode::Conflict);
    assert!(!world.task(moving).is_to_stop(), "it goes on until its successor is up");
    world.submit(job("big", 30));
    let waiting = world.live("big").into_iter().find(|id| world.task(*id).node.is_none()).unwrap();
    assert_eq!(refused(world.command(restart_task(waiting))), ErrorCode::Conflict);
    world.command(Command::StopJob(key("web"))).unwrap();
    assert_eq!(refused(world.command(restart_task(second))), ErrorCode::Conflict);
    world.check_replay();
}
