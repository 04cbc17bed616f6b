//! Questions that are answered from a copy: why, and what would happen if.

use longshore_proto::api::NameTask;
use longshore_proto::error::ErrorCode;
use longshore_proto::explain::Reason;
use longshore_proto::id::TaskId;
use longshore_proto::name::NodeName;
use longshore_proto::plan::{Displaced, Outlook, TaskExplained, WhatIf};
use longshore_proto::spec::{ExchangeOrder, JobSpec, OnNodeLoss, Resources, UpdatePolicy};
use longshore_proto::state::TaskState;

use super::world::{NODE, World, job, node_name};

fn of_cpu(name: &str, instances: u32, cpu_millis: u64, priority: u8) -> JobSpec {
    let mut spec = job(name, instances);
    spec.priority = priority;
    spec.specs[0].resources = Resources { cpu_millis, memory_bytes: 1 << 23, disk_bytes: 0 };
    spec
}

/// Asks, and checks that nothing has changed.
fn ask(world: &World, question: &WhatIf) -> Outlook {
    let before = world.cluster.state().dump();
    let outlook = world.cluster.snapshot().whatif(question).unwrap();
    assert_eq!(world.cluster.state().dump(), before);
    outlook
}

fn explain(world: &World, name: &str) -> TaskExplained {
    let id = world.live(name)[0].to_string();
    world.cluster.explain(None, &NameTask { id }).unwrap().finish()
}

fn nodes(names: &[&str]) -> Vec<NodeName> {
    names.iter().map(|name| node_name(name)).collect()
}

#[test]
fn draining_moves_what_fits_and_says_what_does_not() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(of_cpu("web", 3, 300, 50));
    world.join("n2", Resources { cpu_millis: 700, ..NODE }).unwrap();
    let outlook = ask(&world, &WhatIf::Drain { nodes: nodes(&["n1"]) });
    assert_eq!(outlook.placed_total, 2);
    for one in &outlook.placed {
        let from = one.from.as_ref().map(|node| node.as_str());
        assert_eq!((from, one.to.as_str()), (Some("n1"), "n2"));
    }
    let [unplaced] = outlook.unplaced.as_slice() else { panic!("{outlook:#?}") };
    assert_eq!((unplaced.tasks, unplaced.placed_now), (1, 1));
    assert!(unplaced.reason.contains("1 is draining"), "{}", unplaced.reason);
    assert_eq!((outlook.before.nodes, outlook.after.nodes), (2, 2));
    assert_eq!(outlook.after.capacity.cpu_millis, 700, "a drained node is no room");
    assert_eq!(outlook.after.free.cpu_millis, 100);

    // What the truth makes of it is what was foretold.
    world.start_all("web");
    world.pass(40_000, &["n2"]);
    let placed = world.nodes_of("web").iter().flatten().count();
    assert_eq!(placed as u64, outlook.placed_total);
}

#[test]
fn an_answer_is_of_the_moment_of_its_question() {
    let mut world = World::new();
    for node in ["n1", "n2"] {
        world.join(node, NODE).unwrap();
    }
    world.submit(of_cpu("web", 3, 300, 50));
    world.start_all("web");
    let question = WhatIf::Drain { nodes: nodes(&["n1"]) };
    let snapshot = world.cluster.snapshot();
    let at_once = ask(&world, &question);
    // It is worked out beside the loop, which goes on.
    world.submit(of_cpu("other", 2, 100, 50));
    world.start_all("other");
    world.submit(of_cpu("web", 1, 200, 60));
    world.pass(5_000, &["n1", "n2"]);
    assert_eq!(snapshot.whatif(&question), Ok(at_once.clone()));
    assert_ne!(ask(&world, &question), at_once);
}

#[test]
fn losing_nodes_leaves_what_waits_for_them() {
    let mut world = World::new();
    for node in ["n1", "n2", "n3"] {
        world.join(node, NODE).unwrap();
    }
    let mut pet = of_cpu("pet", 3, 300, 50);
    pet.on_node_loss = OnNodeLoss::Wait;
    pet.specs[0].distinct_hosts = true;
    world.submit(pet);
    world.submit(of_cpu("web", 3, 300, 50));
    let outlook = ask(&world, &WhatIf::Lose { nodes: nodes(&["n1", "n2"]) });
    let pet = outlook.unplaced.iter().find(|one| one.job.as_str() == "pet").unwrap();
    assert_eq!((pet.tasks, pet.reason.as_str()), (2, "its job waits for nodes that are lost"));
    assert_eq!(outlook.after.nodes, 1);
    assert!(outlook.placed.iter().all(|one| one.to.as_str() == "n3"));
    let unknown = world.cluster.snapshot().whatif(&WhatIf::Lose { nodes: nodes(&["n9"]) });
    assert_eq!(unknown.unwrap_err().code, ErrorCode::NotFound);
}

#[test]
fn adding_nodes_says_what_would_no_longer_wait() {
    let mut world = World::new();
    world.join("new-1", NODE).unwrap();
    world.submit(of_cpu("web", 5, 400, 50));
    let add =
        |nodes| WhatIf::Add { nodes, capacity: NODE, datacenter: None, labels: Default::default() };
    let outlook = ask(&world, &add(1));
    assert_eq!(outlook.placed_total, 2);
    assert!(outlook.placed.iter().all(|one| one.from.is_none() && one.to.as_str() == "new-2"));
    assert_eq!(outlook.unplaced[0].tasks, 1);
    let outlook = ask(&world, &add(2));
    assert_eq!((outlook.placed_total, outlook.unplaced.len()), (3, 0));
    assert!(world.cluster.snapshot().whatif(&add(0)).is_err());
    assert!(world.cluster.snapshot().whatif(&add(10_001)).is_err());
}

#[test]
fn submitting_says_who_goes_where_and_who_is_displaced() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(of_cpu("low", 2, 400, 10));
    let high = WhatIf::Submit { job: Box::new(of_cpu("high", 1, 500, 90)) };
    let outlook = ask(&world, &high);
    assert_eq!((outlook.displaced_total, outlook.placed_total), (1, 1));
    assert_eq!(outlook.displaced[0].task.job.as_str(), "low");
    assert_eq!((outlook.unplaced[0].job.as_str(), outlook.unplaced[0].placed_now), ("low", 1));
    let places = |outlook: &Outlook| {
        let Displaced { node, to, .. } = outlook.displaced[0].clone();
        (node.map(|node| node.to_string()), to.map(|to| to.to_string()))
    };
    assert_eq!(places(&outlook), (Some("n1".into()), None));
    // It would wait, unless there is room for it where the more important one has none.
    let mut picky = of_cpu("high", 1, 500, 90);
    picky.specs[0].constraints = vec!["node.name = n1".parse().unwrap()];
    world.join("n2", Resources { cpu_millis: 450, ..NODE }).unwrap();
    let outlook = ask(&world, &WhatIf::Submit { job: Box::new(picky) });
    assert_eq!(places(&outlook), (Some("n1".into()), Some("n2".into())));
    assert_eq!(outlook.unplaced_total, 0, "{outlook:#?}");
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(of_cpu("low", 2, 400, 10));

    // A new version of what is there: the rest ends, the changed ones are exchanged, the new ones come.
    let fewer = WhatIf::Submit { job: Box::new(of_cpu("low", 1, 400, 10)) };
    let outlook = ask(&world, &fewer);
    assert_eq!((outlook.ended_total, outlook.placed_total), (1, 0));
    let mut changed = of_cpu("low", 2, 400, 10);
    changed.specs[0].image = "busybox:2".into();
    let outlook = ask(&world, &WhatIf::Submit { job: Box::new(changed) });
    assert_eq!((outlook.ended_total, outlook.placed_total), (0, 2));
    let mut gang = of_cpu("gang", 2, 400, 10);
    gang.specs[0].all_at_once = true;
    let outlook = ask(&world, &WhatIf::Submit { job: Box::new(gang) });
    assert!(outlook.unplaced[0].reason.starts_with("0 of 2 would fit"), "{outlook:#?}");
    let mut illegal = job("x", 1);
    illegal.priority = 0;
    let refused = world.cluster.snapshot().whatif(&WhatIf::Submit { job: Box::new(illegal) });
    assert_eq!(refused.unwrap_err().code, ErrorCode::Invalid);
}

#[test]
fn a_start_first_change_is_reckoned_beside_what_runs_as_many_at_a_time_as_is_allowed() {
    let version = |image: &str, cpu_millis, parallel, order| {
        let mut spec = of_cpu("web", 3, cpu_millis, 50);
        spec.specs[0].image = image.to_owned();
        let usual = UpdatePolicy::usual();
        spec.specs[0].update = Some(UpdatePolicy { order, parallel, healthy_for_ms: 0, ..usual });
        spec
    };
    let (start, stop) = (ExchangeOrder::StartFirst, ExchangeOrder::StopFirst);
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(version("busybox:1", 250, 1, start));
    world.start_all("web");
    // There are 250 left: room for one beside those that run, and never for two; what is larger fits nowhere at first.
    for (cpu_millis, parallel, order, placed, lacking) in [
        (250, 1, start, 3, 0),
        (250, 2, start, 3, 0),
        (300, 1, start, 0, 3),
        (300, 1, stop, 3, 0),
        (400, 3, stop, 2, 1),
    ] {
        let job = version("busybox:2", cpu_millis, parallel, order);
        let outlook = ask(&world, &WhatIf::Submit { job: Box::new(job.clone()) });
        let told = (outlook.placed_total, outlook.unplaced_total);
        assert_eq!(told, (placed, lacking), "{cpu_millis} {parallel} {order:?}");
        if lacking == 3 {
            let [lack] = &outlook.unplaced[..] else { panic!("{outlook:#?}") };
            assert!(lack.reason.starts_with("beside what runs, which goes on: "), "{lack:?}");
            assert_eq!(lack.placed_now, 3);
        }
        // As it is reckoned, so it comes.
        let mut real = World::new();
        real.join("n1", NODE).unwrap();
        real.submit(version("busybox:1", 250, 1, start));
        real.start_all("web");
        real.submit(job);
        for _ in 0..10 {
            real.start_all("web");
            real.pass(500, &["n1"]);
            real.end_all("web");
        }
        let state = real.cluster.state();
        let is_new = |id: &TaskId| {
            let task = real.task(*id);
            task.version == 2 && task.state == TaskState::Running
        };
        let new = real.live("web").iter().filter(|id| is_new(id)).count() as u64;
        assert_eq!(new, placed, "{cpu_millis} {parallel} {order:?}: {:#?}", state.jobs);
    }
}

#[test]
fn a_placed_task_is_explained_as_it_was_decided_and_as_it_stands_now() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.join("n2", NODE).unwrap();
    world.join("tiny", Resources { cpu_millis: 50, ..NODE }).unwrap();
    world.pass(1_000, &["n1", "n2", "tiny"]);
    world.submit(of_cpu("web", 1, 500, 50));
    let explained = explain(&world, "web");
    let why = explained.why.clone().unwrap();
    assert_eq!((why.nodes, why.feasible), (3, 2));
    assert_eq!(why.removed.get(&Reason::Cpu), Some(&1));
    assert!(why.cost.is_some() && why.runner_up.is_some());
    assert!(explained.placement.clone().unwrap().contains("; removed: 1 lacks cpu"));
    let now = explained.now.clone().unwrap();
    assert_eq!((now.nodes, now.feasible, now.best.len()), (3, 2, 2));
    assert_eq!(Some(&now.best[0].node), explained.node.as_ref(), "it would be put there again");
    assert_eq!(now.refused[0].node.as_str(), "tiny");
    assert_eq!(explained.room, []);
}

#[test]
fn a_waiting_task_is_explained_with_what_would_be_displaced() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(of_cpu("low", 2, 400, 10));
    world.submit(of_cpu("near", 1, 500, 29));
    let explained = explain(&world, "near");
    assert!(explained.reason.clone().unwrap().starts_with("no node fits"));
    assert_eq!(explained.room, []);
    let now = explained.now.unwrap();
    assert_eq!((now.feasible, now.best.len()), (0, 0));
    assert_eq!(now.closest.unwrap().missing.cpu_millis, 300);
    world.submit(of_cpu("high", 1, 500, 90));
    let explained = explain(&world, "high");
    let [seat] = explained.room.as_slice() else { panic!("{explained:#?}") };
    assert_eq!(seat.displaced, [], "what has to go is ending already");
    assert!(explained.reason.unwrap().contains("room for 1 is being made"));
}
