//! Tasks that are placed all together or not at all.

use longshore_proto::spec::{JobSpec, JobType, Resources};
use longshore_proto::state::{JobStatus, TaskState};

use super::world::{NODE, World, job, key};
use crate::cluster::record::{Fact, Record};
use crate::cluster::{Command, Input};
use longshore_proto::permission::Role;

/// Tasks of so many thousandths of a core that are placed all at once.
fn gang(name: &str, instances: u32, cpu_millis: u64) -> JobSpec {
    let mut gang = job(name, instances);
    gang.specs[0].all_at_once = true;
    gang.specs[0].resources = Resources { cpu_millis, memory_bytes: 1 << 23, disk_bytes: 0 };
    gang
}

fn placed_in(record: &[u8]) -> usize {
    let facts = Record::decode(record).unwrap().facts;
    facts.iter().filter(|fact| matches!(fact, Fact::TaskPlaced { .. })).count()
}

#[test]
fn a_gang_waits_whole_with_its_reason_and_is_placed_in_one_record() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(gang("mpi", 5, 400));
    assert_eq!(world.nodes_of("mpi"), vec![None; 5], "two would fit, and none is placed");
    assert_eq!(
        world.waits_because("mpi"),
        "2 of 5 would fit, and they are placed all at once; no node fits: of 1 node, 1 lacks cpu \
         (most free: 0.2 of 0.4 cores wanted)"
    );
    world.join("n2", NODE).unwrap();
    assert_eq!(world.nodes_of("mpi"), vec![None; 5]);
    world.join("n3", NODE).unwrap();
    assert!(world.nodes_of("mpi").iter().all(Option::is_some));
    assert_eq!(world.log.iter().map(|record| placed_in(record)).max(), Some(5));
    assert_eq!(world.waits_because("mpi"), "");
    world.check_replay();
}

#[test]
fn a_lost_member_is_replaced_as_one_task() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.join("n2", NODE).unwrap();
    world.submit(gang("mpi", 2, 600));
    world.start_all("mpi");
    world.pass(40_000, &["n1"]);
    let nodes = world.nodes_of("mpi");
    assert_eq!(nodes.iter().flatten().collect::<Vec<_>>(), ["n1"], "{nodes:?}");
    let reason = world.waits_because("mpi");
    assert!(reason.starts_with("no node fits"), "one task waits for one place: {reason}");
    world.join("n3", NODE).unwrap();
    assert!(world.nodes_of("mpi").iter().all(Option::is_some));
    world.check_replay();
}

#[test]
fn a_gang_that_waits_takes_over_its_new_size_and_the_rest_of_a_larger_one_is_a_gang() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(gang("mpi", 3, 400));
    assert_eq!(world.nodes_of("mpi"), vec![None; 3]);
    // As many as before at first, in a version of their own; then as many as fit.
    let mut other = gang("mpi", 4, 400);
    other.specs[0].constraints = vec!["node.name != n9".parse().unwrap()];
    world.submit(other.clone());
    let versions: Vec<u64> = world.live("mpi").iter().map(|id| world.task(*id).version).collect();
    assert_eq!(versions, [2; 4], "what waits together is of one version");
    other.specs[0].instances = 2;
    world.submit(other.clone());
    assert!(world.nodes_of("mpi").iter().all(Option::is_some));
    world.start_all("mpi");
    other.specs[0].instances = 5;
    world.submit(other);
    let waiting = world.nodes_of("mpi").iter().filter(|node| node.is_none()).count();
    assert_eq!(waiting, 3);
    assert!(world.waits_because("mpi").starts_with("0 of 3 would fit"));
    world.join("n2", NODE).unwrap();
    let waiting = world.nodes_of("mpi").iter().filter(|node| node.is_none()).count();
    assert_eq!(waiting, 3, "two of them would fit");
    world.join("n3", NODE).unwrap();
    assert!(world.nodes_of("mpi").iter().all(Option::is_some));
    world.check_replay();
}

#[test]
fn a_gang_of_a_job_that_is_still_stopping_waits_until_it_is_whole() {
    let mut world = World::new();
    world.join("n1", Resources { cpu_millis: 8_000, ..NODE }).unwrap();
    world.submit(gang("mpi", 2, 400));
    world.start_all("mpi");
    world.command(Command::StopJob(key("mpi"))).unwrap();
    let old = world.live("mpi");
    world.submit(gang("mpi", 2, 400));
    world.report(old[0], 1, TaskState::Stopped, None);
    let new: Vec<_> = world.live("mpi").into_iter().filter(|id| !old.contains(id)).collect();
    assert_eq!(new.len(), 1);
    assert_eq!(world.task(new[0]).node, None, "one of two is not the whole");
    assert!(world.waits_because("mpi").contains("1 of 2 are there"));
    world.report(old[1], 1, TaskState::Stopped, None);
    assert_eq!(world.live("mpi").len(), 2);
    assert!(world.nodes_of("mpi").iter().all(Option::is_some));
    world.check_replay();
}

#[test]
fn members_of_a_batch_that_have_completed_count_as_placed() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let mut batch = gang("sum", 2, 400);
    batch.job_type = JobType::Batch;
    world.submit(batch);
    world.start_all("sum");
    let ids = world.live("sum");
    world.report(ids[0], 1, TaskState::Completed, Some(0));
    world.report(ids[1], 1, TaskState::Completed, Some(0));
    assert_eq!(world.cluster.state().jobs[&key("sum")].status, JobStatus::Completed);
    world.check_replay();
}

#[test]
fn the_largest_gang_is_one_record_whatever_else_there_is_to_do() {
    let mut world = World::new();
    let large = Resources { cpu_millis: 100_000, memory_bytes: 1 << 40, disk_bytes: 0 };
    for node in 0..40 {
        world
            .join(&format!("a-node-with-quite-a-long-name-as-people-have-them-{node}"), large)
            .unwrap();
    }
    world.join("n1", NODE).unwrap();
    let before = world.log.len();
    let mut inputs = Vec::new();
    for spec in [job("many", 1_500), gang("mpi", 300, 100), job("more", 1_500)] {
        inputs.push(Input::Command {
            ticket: world.ticket(),
            role: Role::Operator,
            user: "alice".parse().unwrap(),
            actor: None,
            id: world.command_id(),
            command: Command::SubmitJob(Box::new(spec)),
        });
    }
    world.run(inputs);
    let of_gang = |record: &Vec<u8>| {
        let facts = Record::decode(record).unwrap().facts;
        let members = facts.iter().filter(|fact| {
            matches!(fact, Fact::TaskPlaced { task, .. } if world.task(*task).job == key("mpi"))
        });
        members.count()
    };
    let counts: Vec<usize> = world.log[before..].iter().map(of_gang).collect();
    assert!(counts.len() > 3, "there is more than one record to do: {counts:?}");
    assert_eq!(counts.iter().copied().filter(|count| *count > 0).collect::<Vec<_>>(), [300]);
    world.check_replay();
}
