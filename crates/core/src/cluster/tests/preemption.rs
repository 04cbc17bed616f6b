//! Tasks that displace less important ones.

use longshore_proto::id::TaskId;
use longshore_proto::spec::{JobSpec, JobType, Resources};
use longshore_proto::state::{JobStatus, TaskState};

use super::world::{NODE, World, job, key};
use crate::cluster::Settings;
use crate::cluster::record::Fact;
use crate::cluster::room::NODES_MAX;

/// Tasks of so many thousandths of a core, of so much importance.
fn tasks(name: &str, instances: u32, cpu_millis: u64, priority: u8) -> JobSpec {
    let mut spec = job(name, instances);
    spec.priority = priority;
    spec.specs[0].resources = Resources { cpu_millis, memory_bytes: 1 << 23, disk_bytes: 0 };
    spec
}

fn told_to_end(world: &World, name: &str) -> Vec<TaskId> {
    let ids = world.live(name).into_iter();
    ids.filter(|id| world.task(*id).is_to_stop()).collect()
}

/// One node that is full of ten tasks of priority 10.
fn full() -> World {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(tasks("low", 10, 100, 10));
    world.start_all("low");
    world
}

#[test]
fn what_waits_is_worth_what_its_job_is_worth_by_now() {
    let mut world = full();
    world.submit(tasks("high", 1, 300, 10));
    assert_eq!(told_to_end(&world, "low"), []);
    world.submit(tasks("high", 1, 300, 90));
    assert_eq!(told_to_end(&world, "low").len(), 3);
    // And the other way round: what was about to be displaced next is not.
    let mut world = full();
    world.submit(tasks("high", 1, 300, 10));
    let waiting = world.live("high");
    world.submit(tasks("high", 1, 300, 11));
    assert_ne!(world.live("high"), waiting);
    world.pass(30_000, &["n1"]);
    assert_eq!(told_to_end(&world, "low"), []);
    world.check_replay();
}

#[test]
fn a_more_important_task_displaces_as_few_as_it_needs_and_they_wait() {
    let mut world = full();
    world.submit(tasks("high", 1, 300, 90));
    let displaced = told_to_end(&world, "low");
    assert_eq!(displaced.len(), 3);
    for id in &displaced {
        let reason = world.task(*id).stop().unwrap().to_owned();
        assert_eq!(reason, "displaced by default/high.main of priority 90");
    }
    let reason = world.waits_because("high");
    assert!(reason.ends_with("; room for 1 is being made by tasks that are ending"), "{reason}");
    // However long they take, nobody else has to go for it.
    world.pass(60_000, &["n1"]);
    assert_eq!(told_to_end(&world, "low"), displaced);

    let high = world.live("high")[0];
    // It may end as it likes: that it had to is no failure.
    world.report(displaced[0], 1, TaskState::Stopped, None);
    world.report(displaced[1], 1, TaskState::Failed, Some(137));
    assert_eq!(world.task(high).state, TaskState::Pending);
    world.report(displaced[2], 1, TaskState::Completed, Some(0));
    assert_eq!(world.task(high).state, TaskState::Assigned);
    let waiting: Vec<TaskId> =
        world.live("low").into_iter().filter(|id| world.task(*id).node.is_none()).collect();
    assert_eq!(waiting.len(), 3, "they are replaced and wait");
    for id in waiting {
        let task = world.task(id);
        assert!(task.replaces.is_some_and(|before| displaced.contains(&before)), "{task:?}");
        assert_eq!(task.failures, 0);
    }
    assert_eq!(world.cluster.state().jobs[&key("low")].status, JobStatus::Running);
    world.pass(60_000, &["n1"]);
    assert_eq!(told_to_end(&world, "low"), [], "nobody flaps");
    world.check_replay();
}

#[test]
fn a_search_that_was_cut_short_goes_on_with_the_next_pass() {
    let mut world = World::new();
    let names: Vec<String> = (0..NODES_MAX + 2).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // On as many nodes as one pass looks at is nobody who could be displaced.
    for (job, nodes, priority) in
        [("important", &names[..NODES_MAX], 80), ("low", &names[NODES_MAX..], 10)]
    {
        for node in nodes {
            world.join(node, NODE).unwrap();
        }
        let instances = u32::try_from(nodes.len()).unwrap();
        world.submit(tasks(job, instances, NODE.cpu_millis, priority));
        world.start_all(job);
    }
    world.submit(tasks("high", 1, NODE.cpu_millis, 95));
    assert_eq!(told_to_end(&world, "low"), [], "one pass does not come so far");
    world.pass(500, &names);
    let displaced = told_to_end(&world, "low");
    assert_eq!(displaced.len(), 1);
    world.pass(30_000, &names);
    assert_eq!(told_to_end(&world, "low"), displaced, "and it is enough");
    world.check_replay();
}

#[test]
fn a_gang_is_searched_room_for_over_several_passes() {
    let mut world = World::new();
    let names: Vec<String> = (0..2 * NODES_MAX).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for node in &names {
        world.join(node, NODE).unwrap();
    }
    let nodes = u32::try_from(names.len()).unwrap();
    world.submit(tasks("low", nodes, NODE.cpu_millis, 10));
    world.start_all("low");
    let mut gang = tasks("gang", nodes / 2 + 2, NODE.cpu_millis, 90);
    gang.specs[0].all_at_once = true;
    world.submit(gang);
    assert_eq!(told_to_end(&world, "low"), [], "one pass finds room for too few");
    world.pass(500, &names);
    assert_eq!(told_to_end(&world, "low").len(), names.len() / 2 + 2);
    world.end_all("low");
    assert!(world.nodes_of("gang").iter().all(Option::is_some), "they are placed together");
    world.check_replay();
}

#[test]
fn near_priorities_and_the_switch_keep_everybody_in_place() {
    let mut world = full();
    world.submit(tasks("near", 1, 300, 29));
    assert_eq!(told_to_end(&world, "low"), []);
    world.submit(tasks("far", 1, 300, 30));
    assert_eq!(told_to_end(&world, "low").len(), 3);

    let mut world = World::with(Settings { preempt_gap: None, ..Settings::default() });
    world.join("n1", NODE).unwrap();
    world.submit(tasks("low", 10, 100, 1));
    world.submit(tasks("high", 1, 300, 100));
    assert_eq!(told_to_end(&world, "low"), []);
    assert!(world.waits_because("high").starts_with("no node fits"));
}

#[test]
fn room_that_is_being_made_is_kept_for_whom_it_is_made() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(tasks("low", 8, 100, 10));
    world.start_all("low");
    world.submit(tasks("high", 1, 500, 90));
    assert_eq!(told_to_end(&world, "low").len(), 3);
    world.submit(tasks("small", 2, 100, 20));
    assert_eq!(world.nodes_of("small"), [None, None], "the 200 that are free are spoken for");
    world.end_all("low");
    assert_eq!(world.nodes_of("high"), [Some("n1".to_owned())]);
    world.pass(20_000, &["n1"]);
    assert_eq!(world.nodes_of("small"), [None, None], "they are not important enough");
    assert_eq!(told_to_end(&world, "low"), []);
    world.check_replay();
}

#[test]
fn what_cannot_be_made_whole_displaces_nobody() {
    let mut world = full();
    let mut gang = tasks("gang", 3, 400, 90);
    gang.specs[0].all_at_once = true;
    world.submit(gang.clone());
    assert_eq!(told_to_end(&world, "low"), [], "two of three would be no use");
    gang.specs[0].instances = 2;
    world.submit(gang);
    assert_eq!(told_to_end(&world, "low").len(), 8);
    world.end_all("low");
    assert_eq!(world.nodes_of("gang"), vec![Some("n1".to_owned()); 2]);
    world.submit(tasks("huge", 1, 1_001, 100));
    assert_eq!(told_to_end(&world, "gang"), [], "it fits on no node, whoever goes");
    world.check_replay();
}

#[test]
fn when_the_room_does_not_come_another_is_made() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(tasks("low", 10, 100, 10));
    world.start_all("low");
    world.submit(tasks("high", 1, 1_000, 90));
    assert_eq!(told_to_end(&world, "low").len(), 10);
    world.join("n2", NODE).unwrap();
    // The new node is empty: it is simply placed there.
    assert_eq!(world.nodes_of("high"), [Some("n2".to_owned())]);

    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.join("n2", NODE).unwrap();
    world.submit(tasks("low", 20, 100, 10));
    world.start_all("low");
    world.submit(tasks("high", 1, 1_000, 90));
    let first = told_to_end(&world, "low");
    assert_eq!(first.len(), 10);
    let node = world.task(first[0]).node.clone().unwrap().to_string();
    let other = if node == "n1" { "n2" } else { "n1" };
    world.pass(12_000, &[other]);
    let second = told_to_end(&world, "low");
    assert!(second.len() > 10, "the node fell silent, so room is made on the other: {second:?}");
    world.end_all("low");
    world.check_replay();
}

#[test]
fn a_new_leader_displaces_nobody_again() {
    let mut world = full();
    world.submit(tasks("high", 1, 300, 90));
    let displaced = told_to_end(&world, "low");
    let now = world.now();
    let step =
        world.cluster.begin_reign(longshore_proto::id::ClusterId(uuid::Uuid::nil()), now, [7; 16]);
    world.settle(step);
    let facts = world.run([]);
    let again = facts.iter().any(|fact| matches!(fact, Fact::TaskStopRequested { .. }));
    assert!(!again, "{facts:#?}");
    assert_eq!(told_to_end(&world, "low"), displaced);
}

#[test]
fn a_displaced_batch_task_runs_again_from_the_beginning() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let mut batch = tasks("sum", 1, 800, 10);
    batch.job_type = JobType::Batch;
    world.submit(batch);
    world.start_all("sum");
    world.submit(tasks("high", 1, 800, 90));
    world.end_all("sum");
    assert_eq!(world.nodes_of("sum"), [None]);
    assert_ne!(world.cluster.state().jobs[&key("sum")].status, JobStatus::Failed);
    world.command(crate::cluster::Command::StopJob(key("high"))).unwrap();
    world.start_all("high");
    world.end_all("high");
    assert_eq!(world.nodes_of("sum"), [Some("n1".to_owned())]);
    world.check_replay();
}
