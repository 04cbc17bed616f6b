//! Roll-outs: tasks are exchanged for those of a newer version as many at a time as the part allows, and no more of them
//! once the new ones do not come up.

use longshore_proto::health::{Health, HealthReport};
use longshore_proto::id::TaskId;
use longshore_proto::spec::{ExchangeOrder, JobSpec, ReschedulePolicy, UpdatePolicy};
use longshore_proto::state::{JobStatus, TaskState};

use super::world::{NODE, World, job, key};
use crate::cluster::Command;

const ALIVE: &[&str] = &["n1", "n2"];

/// A version of a job, named by its image.
fn web(version: u32, instances: u32, order: ExchangeOrder, parallel: u32) -> JobSpec {
    let mut spec = job("web", instances);
    spec.specs[0].image = format!("web:{version}");
    // How long a task has been up is a matter of its own: see `rollout`.
    let usual = UpdatePolicy::usual();
    spec.specs[0].update = Some(UpdatePolicy { order, parallel, healthy_for_ms: 0, ..usual });
    spec.specs[0].reschedule =
        Some(ReschedulePolicy { attempts: Some(3), delay_ms: 4_000, delay_ms_max: 60_000 });
    spec
}

/// Two nodes, on which the first version of a job runs.
fn world_with(spec: JobSpec) -> World {
    let mut world = World::new();
    for node in ALIVE {
        world.join(node, NODE).unwrap();
    }
    world.submit(spec);
    world.start_all("web");
    world.pass(1_000, ALIVE);
    world
}

fn image(world: &World, id: TaskId) -> String {
    let state = world.cluster.state();
    let spec = state.task_spec(world.task(id));
    spec.map(|spec| spec.image.clone()).unwrap_or_default()
}

/// How many tasks run of a version, whether they are to end or not.
fn running(world: &World, version: u32) -> usize {
    let image_wanted = format!("web:{version}");
    let runs = |id: &TaskId| {
        world.task(*id).state == TaskState::Running && image(world, *id) == image_wanted
    };
    world.live("web").iter().filter(|id| runs(id)).count()
}

fn status(world: &World) -> JobStatus {
    world.cluster.state().jobs[&key("web")].status
}

/// The tasks that are to run and do not run yet.
fn on_their_way(world: &World) -> Vec<TaskId> {
    let is_new = |id: &TaskId| {
        let task = world.task(*id);
        task.is_wanted() && task.state != TaskState::Running
    };
    world.live("web").into_iter().filter(is_new).collect()
}

#[test]
fn where_the_start_comes_first_there_is_never_less_than_wanted_and_only_so_many_more() {
    let mut world = world_with(web(1, 5, ExchangeOrder::StartFirst, 2));
    world.submit(web(2, 5, ExchangeOrder::StartFirst, 2));
    for _ in 0..20 {
        world.pass(500, ALIVE);
        let wanted = world.live("web").into_iter().filter(|id| world.task(*id).is_wanted());
        assert!(wanted.count() <= 7, "two at once");
        let old = (running(&world, 1), running(&world, 2));
        assert!(old.0 + old.1 >= 5, "the service was never short: {old:?}");
        world.start_all("web");
        world.pass(500, ALIVE);
        world.end_all("web");
    }
    assert_eq!((running(&world, 1), running(&world, 2)), (0, 5));
    assert_eq!(world.live("web").len(), 5);
    assert_eq!(status(&world), JobStatus::Running);
    world.check_replay();
}

#[test]
fn where_the_end_comes_first_as_many_end_at_once_as_the_part_allows() {
    let mut world = world_with(web(1, 5, ExchangeOrder::StopFirst, 2));
    world.submit(web(2, 5, ExchangeOrder::StopFirst, 2));
    for _ in 0..20 {
        world.pass(500, ALIVE);
        let ending = world.live("web").into_iter().filter(|id| world.task(*id).is_to_stop());
        assert!(ending.count() + on_their_way(&world).len() <= 2);
        world.end_all("web");
        world.start_all("web");
    }
    assert_eq!((running(&world, 1), running(&world, 2)), (0, 5));
    world.check_replay();
}

#[test]
fn a_version_that_does_not_come_up_takes_no_more_instances_than_may_be_under_way() {
    let mut world = world_with(web(1, 3, ExchangeOrder::StopFirst, 1));
    world.submit(web(2, 3, ExchangeOrder::StopFirst, 1));
    world.end_all("web");
    for _ in 0..60 {
        for id in on_their_way(&world) {
            world.report(id, 1, TaskState::Failed, Some(1));
        }
        world.pass(1_000, ALIVE);
    }
    assert_eq!(running(&world, 1), 2, "the others go on");
    assert!(world.live("web").iter().all(|id| world.task(*id).is_wanted()));
    assert_eq!(status(&world), JobStatus::Pending);
    world.submit(web(3, 3, ExchangeOrder::StopFirst, 1));
    for _ in 0..10 {
        world.pass(500, ALIVE);
        world.end_all("web");
        world.start_all("web");
    }
    assert_eq!(running(&world, 3), 3, "one that does takes them all");
    world.check_replay();
}

#[test]
fn a_successor_that_fails_is_tried_again_more_and_more_slowly_and_then_no_more() {
    let mut world = world_with(web(1, 2, ExchangeOrder::StartFirst, 1));
    world.submit(web(2, 2, ExchangeOrder::StartFirst, 1));
    let mut tried = Vec::new();
    for second in 0..120_u64 {
        for id in on_their_way(&world) {
            assert_eq!(world.task(id).slot, 0, "no other instance is touched");
            world.report(id, 1, TaskState::Failed, Some(1));
            tried.push(second);
        }
        world.pass(1_000, ALIVE);
    }
    assert_eq!(running(&world, 1), 2, "nothing has ended for it");
    assert_eq!(tried.len(), 4, "{tried:?}");
    let waits: Vec<u64> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, least) in waits.iter().zip([4, 8, 16]) {
        assert!((least..least + 3).contains(wait), "{tried:?}");
    }
    // Another version is another matter.
    world.submit(web(3, 2, ExchangeOrder::StartFirst, 1));
    for _ in 0..10 {
        world.pass(1_000, ALIVE);
        world.start_all("web");
        world.end_all("web");
    }
    assert_eq!((running(&world, 1), running(&world, 3)), (0, 2));
    world.check_replay();
}

#[test]
fn whoever_goes_back_has_the_successors_called_off_and_what_runs_stays() {
    let mut world = world_with(web(1, 3, ExchangeOrder::StartFirst, 2));
    let before = world.live("web");
    world.submit(web(2, 3, ExchangeOrder::StartFirst, 2));
    world.pass(500, ALIVE);
    assert_eq!(on_their_way(&world).len(), 2);
    let back = Command::RollBackJob { job: key("web"), version: None };
    world.command(back).unwrap();
    world.end_all("web");
    world.pass(2_000, ALIVE);
    assert_eq!(world.live("web"), before);
    assert!(before.iter().all(|id| !world.task(*id).is_to_stop()));
    assert_eq!(status(&world), JobStatus::Running);
    world.check_replay();
}

#[test]
fn a_newer_version_takes_over_from_one_that_is_under_way() {
    let mut world = world_with(web(1, 2, ExchangeOrder::StartFirst, 1));
    world.submit(web(2, 2, ExchangeOrder::StartFirst, 1));
    world.pass(500, ALIVE);
    let [second] = on_their_way(&world)[..] else { panic!("one is under way") };
    world.submit(web(3, 2, ExchangeOrder::StartFirst, 1));
    world.pass(500, ALIVE);
    assert!(world.task(second).is_to_stop(), "nobody wants it any more");
    world.change_leader();
    for _ in 0..10 {
        world.pass(1_000, ALIVE);
        world.start_all("web");
        world.end_all("web");
    }
    assert_eq!((running(&world, 1), running(&world, 2), running(&world, 3)), (0, 0, 2));
    world.check_replay();
}

#[test]
fn the_next_instance_has_its_turn_when_the_last_one_is_healthy() {
    for order in [ExchangeOrder::StartFirst, ExchangeOrder::StopFirst] {
        let mut world = world_with(web(1, 2, order, 1));
        world.submit(web(2, 2, order, 1));
        world.pass(500, ALIVE);
        world.end_all("web");
        let [first] = on_their_way(&world)[..] else { panic!("one is under way") };
        let found = |status, sequence| HealthReport { status, sequence };
        world.report_health(first, found(Health::Starting, 1));
        world.pass(20_000, ALIVE);
        assert!(on_their_way(&world).is_empty(), "{order:?}: it runs, and is not healthy yet");
        let old = if order == ExchangeOrder::StartFirst { 2 } else { 1 };
        assert_eq!(running(&world, 1), old);
        world.report_health(first, found(Health::Healthy, 2));
        world.pass(1_000, ALIVE);
        world.end_all("web");
        assert_eq!(on_their_way(&world).len(), 1, "{order:?}: the next one");
        world.check_replay();
    }
}

#[test]
fn fenced_tasks_always_end_first() {
    let fenced = |version| {
        let mut spec = web(version, 2, ExchangeOrder::StartFirst, 1);
        spec.fence = true;
        spec
    };
    let mut world = world_with(fenced(1));
    world.submit(fenced(2));
    world.pass(1_000, ALIVE);
    assert_eq!(world.live("web").len(), 2, "no instance has two tasks");
    assert_eq!(world.live("web").iter().filter(|id| world.task(**id).is_to_stop()).count(), 1);
}
