//! Tasks that move: started there before they are stopped here.

use longshore_proto::health::{Health, HealthReport};
use longshore_proto::plan::{Rebalance, RebalancePlan};
use longshore_proto::spec::{JobSpec, JobType, Mount, MountSource};
use longshore_proto::state::{JobStatus, TaskState};

use super::world::{NODE, World, job, key};
use crate::cluster::record::{CommandAnswer, Fact};
use crate::cluster::{Balancing, Command, Settings};

const ALIVE: &[&str] = &["n1", "n2"];

/// Six tasks on `n1`, which run, and `n2` empty beside it.
fn crowded(spec: JobSpec) -> World {
    crowded_with(Settings::default(), spec)
}

fn crowded_with(settings: Settings, spec: JobSpec) -> World {
    let name = spec.name.to_string();
    let mut world = World::with(settings);
    world.join("n1", NODE).unwrap();
    world.submit(spec);
    world.start_all(&name);
    world.join("n2", NODE).unwrap();
    world.pass(3_000, ALIVE);
    world
}

fn rebalance(world: &mut World, moves_max: u32) -> RebalancePlan {
    let asked = Rebalance { moves_max: Some(moves_max), gain: None };
    match world.command(Command::Rebalance(asked)) {
        Ok(CommandAnswer::Rebalanced(plan)) => plan,
        other => panic!("{other:?}"),
    }
}

fn status(world: &World, name: &str) -> JobStatus {
    world.cluster.state().jobs[&key(name)].status
}

#[test]
fn a_task_moves_by_a_successor_that_runs_before_it_ends() {
    let mut world = crowded(job("web", 6));
    let planned = world.cluster.snapshot();
    let bounds = world.cluster.rebalance_bounds(&Rebalance::default()).unwrap();
    let planned = planned.rebalance(bounds);
    let dump = world.cluster.state().dump();
    assert_eq!(dump, world.cluster.state().dump(), "a plan changes nothing");
    assert!(!planned.moves.is_empty() && planned.after.cost < planned.before.cost, "{planned:#?}");

    let plan = rebalance(&mut world, 1);
    assert_eq!(plan.moves.len(), 1);
    let (old, new) = (plan.moves[0].task.id.unwrap(), plan.moves[0].successor.unwrap());
    assert_eq!(old, planned.moves[0].task.id.unwrap(), "the plan is what is done");
    assert_eq!(world.live("web").len(), 7);
    let successor = world.task(new);
    assert_eq!(successor.node.as_ref().unwrap().as_str(), "n2");
    assert_eq!((successor.replaces, successor.slot), (Some(old), world.task(old).slot));
    let why = successor.why().unwrap();
    assert!(why.sentence(|_| String::new()).starts_with("moved from n1 to balance"), "{why:?}");
    assert_eq!(world.task(old).stop(), None, "it goes on until the other runs");
    assert_eq!(status(&world, "web"), JobStatus::Running);

    world.report(new, 1, TaskState::Running, None);
    let reason = world.task(old).stop().unwrap().to_owned();
    assert_eq!(reason, "its successor on n2 runs");
    assert_eq!(status(&world, "web"), JobStatus::Running);
    world.report(old, 1, TaskState::Stopped, None);
    assert_eq!(world.live("web").len(), 6);
    world.pass(30_000, ALIVE);
    assert_eq!(world.live("web").len(), 6, "nothing takes the place of what moved");
    world.check_replay();
}

#[test]
fn a_successor_whose_health_is_asked_for_must_be_healthy_first() {
    let mut world = crowded(job("web", 6));
    let plan = rebalance(&mut world, 1);
    let (old, new) = (plan.moves[0].task.id.unwrap(), plan.moves[0].successor.unwrap());
    world.report_health(new, HealthReport { status: Health::Starting, sequence: 1 });
    assert_eq!(world.task(old).stop(), None, "it runs, and nobody knows whether it works");
    assert_eq!(status(&world, "web"), JobStatus::Running);
    world.report_health(new, HealthReport { status: Health::Healthy, sequence: 2 });
    assert!(world.task(old).is_to_stop());
    world.check_replay();
}

#[test]
fn a_successor_that_comes_to_nothing_leaves_everything_as_it_was() {
    let mut world = crowded(job("web", 6));
    for _ in 0..8 {
        let plan = rebalance(&mut world, 1);
        let (old, new) = (plan.moves[0].task.id.unwrap(), plan.moves[0].successor.unwrap());
        world.report(new, 1, TaskState::Failed, Some(1));
        assert_eq!(world.live("web").len(), 6);
        assert_eq!(world.task(old).stop(), None);
        world.pass(20_000, ALIVE);
        assert_eq!(world.live("web").len(), 6, "a failed move is not tried again by itself");
        assert_eq!(status(&world, "web"), JobStatus::Running);
    }
    world.check_replay();
}

#[test]
fn when_the_predecessor_goes_first_the_successor_has_its_place() {
    let mut world = crowded(job("web", 6));
    let plan = rebalance(&mut world, 1);
    let (old, new) = (plan.moves[0].task.id.unwrap(), plan.moves[0].successor.unwrap());
    world.report(old, 1, TaskState::Failed, Some(1));
    world.pass(30_000, ALIVE);
    assert_eq!(world.live("web").len(), 6);
    assert!(world.live("web").contains(&new));
    // And when both are gone, one takes their place.
    world.report(new, 1, TaskState::Failed, Some(1));
    world.pass(30_000, ALIVE);
    assert_eq!(world.live("web").len(), 6);
    world.check_replay();
}

#[test]
fn a_lost_node_takes_its_half_of_a_move_alone() {
    let mut world = crowded(job("web", 6));
    let plan = rebalance(&mut world, 1);
    let new = plan.moves[0].successor.unwrap();
    world.pass(40_000, &["n1"]);
    assert_eq!(world.task(new).state, TaskState::Lost);
    assert_eq!(world.live("web").len(), 6);
    assert!(world.nodes_of("web").iter().all(|node| node.as_deref() == Some("n1")));
    world.check_replay();
}

#[test]
fn who_stops_an_instance_that_moves_stops_both() {
    let mut world = crowded(job("web", 6));
    let plan = rebalance(&mut world, 1);
    let (old, new) = (plan.moves[0].task.id.unwrap(), plan.moves[0].successor.unwrap());
    let stop = Command::StopTask { namespace: key("web").namespace, id: new.to_string() };
    world.command(stop).unwrap();
    assert!(world.task(old).is_to_stop() && world.task(new).is_to_stop());
    world.end_all("web");
    assert_eq!(world.live("web").len(), 5);

    rebalance(&mut world, 2);
    assert!(world.live("web").len() > 5);
    world.command(Command::StopJob(key("web"))).unwrap();
    assert_eq!(status(&world, "web"), JobStatus::Stopping);
    world.end_all("web");
    assert_eq!(status(&world, "web"), JobStatus::Stopped);
    world.check_replay();
}

#[test]
fn what_a_move_would_harm_is_left_alone() {
    let mut batch = job("sum", 6);
    batch.job_type = JobType::Batch;
    let mut keeper = job("db", 6);
    let source = MountSource::Volume { name: "data".into() };
    keeper.specs[0].mounts = vec![Mount { target: "/data".into(), source, read_only: false }];
    let mut patient = job("pet", 6);
    patient.on_node_loss = longshore_proto::spec::OnNodeLoss::Wait;
    for spec in [batch, keeper, patient] {
        let mut world = crowded(spec);
        assert_eq!(rebalance(&mut world, 9).moves, []);
    }
    for asked in [
        Rebalance { moves_max: Some(0), gain: None },
        Rebalance { moves_max: Some(101), gain: None },
        Rebalance { moves_max: None, gain: Some(0.5) },
        Rebalance { moves_max: None, gain: Some(f64::NAN) },
    ] {
        assert!(World::new().command(Command::Rebalance(asked)).is_err(), "{asked:?}");
    }
}

#[test]
fn a_cluster_that_balances_itself_makes_so_many_moves_a_window_and_then_rests() {
    let balancing = Balancing { moves_max: 1, window_ms: 10_000, gain: 2.0 };
    let settings = Settings { balancing: Some(balancing), ..Settings::default() };
    let mut world = crowded_with(settings, job("web", 6));
    let mut begun = Vec::new();
    for _ in 0..12 {
        let facts = world.pass(10_000, ALIVE);
        let moves = facts.iter().filter(|fact| {
            matches!(fact, Fact::TaskPlaced { why: Some(why), .. } if why.moved_from.is_some())
        });
        begun.push(moves.count());
        world.start_all("web");
        world.end_all("web");
    }
    assert!(begun.iter().all(|count| *count <= 1), "{begun:?}");
    let moved: usize = begun.iter().sum();
    assert!((1..=3).contains(&moved), "{begun:?}");
    assert_eq!(begun[9..], [0, 0, 0], "nothing goes to and fro");
    assert_eq!(world.live("web").len(), 6);
    world.check_replay();
}
