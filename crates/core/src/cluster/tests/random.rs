//! Properties over random histories: whatever comes in, the invariants hold after every step (the world checks
//! them), the store and a replay give what is in memory, and time makes the cluster settle.

use longshore_proto::api::{DrainNodes, RemoveNode};
use longshore_proto::id::TaskId;
use longshore_proto::plan::Rebalance;
use longshore_proto::spec::{
    ExchangeOrder, JobType, OnFailure, OnNodeLoss, ReschedulePolicy, UpdatePolicy,
};
use longshore_proto::state::TaskState;
use proptest::prelude::*;

use super::eligibility::names;
use super::world::{NODE, World, job, key, node_name};
use crate::cluster::{Command, Input, NodeCommand};

#[derive(Debug, Clone)]
enum Move {
    Join(u8),
    Beat(u8),
    Leave(u8),
    Submit { job: u8, instances: u32, batch: bool, image: u8, wait: bool, gang: bool, priority: u8 },
    Rebalance,
    StopJob(u8),
    StopTask(u16),
    Scale { job: u8, instances: u32 },
    Restart(u8),
    RollBack { job: u8, version: Option<u64> },
    RestartTask(u16),
    Report { task: u16, attempt: u64, state: u8 },
    Pass(u64),
    BusLost,
    BusBack,
    Cordon(u8),
    Uncordon(u8),
    Drain { node: u8, deadline_ms: Option<u64> },
    Remove(u8),
    ChangeLeader,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        2 => (0..6u8).prop_map(Move::Join),
        6 => (0..6u8).prop_map(Move::Beat),
        1 => (0..6u8).prop_map(Move::Leave),
        4 => (0..4u8, 1..14u32, any::<bool>(), 0..3u8, any::<bool>(), (any::<bool>(), 1..=100u8))
            .prop_map(|(job, instances, batch, image, wait, (gang, priority))| {
                Move::Submit { job, instances, batch, image, wait, gang, priority }
            }),
        2 => Just(Move::Rebalance),
        1 => (0..4u8).prop_map(Move::StopJob),
        2 => any::<u16>().prop_map(Move::StopTask),
        2 => (0..4u8, 0..14u32).prop_map(|(job, instances)| Move::Scale { job, instances }),
        1 => (0..4u8).prop_map(Move::Restart),
        1 => (0..4u8, proptest::option::of(0..12u64))
            .prop_map(|(job, version)| Move::RollBack { job, version }),
        1 => any::<u16>().prop_map(Move::RestartTask),
        16 => (any::<u16>(), 0..4u64, 0..9u8).prop_map(|(task, attempt, state)| Move::Report { task, attempt, state }),
        6 => (1..20_000u64).prop_map(Move::Pass),
        1 => Just(Move::BusLost),
        2 => Just(Move::BusBack),
        1 => (0..6u8).prop_map(Move::Cordon),
        2 => (0..6u8).prop_map(Move::Uncordon),
        3 => (0..6u8, proptest::option::of(0..30_000u64))
            .prop_map(|(node, deadline_ms)| Move::Drain { node, deadline_ms }),
        1 => (0..6u8).prop_map(Move::Remove),
        1 => Just(Move::ChangeLeader),
    ];
    proptest::collection::vec(one, 1..80)
}

fn some_task(world: &World, choice: u16) -> Option<TaskId> {
    let tasks = &world.cluster.state().tasks;
    let at = usize::from(choice).checked_rem(tasks.len())?;
    tasks.keys().nth(at).copied()
}

fn play(world: &mut World, one: Move) {
    let name = |n: u8| format!("n{n}");
    match one {
        Move::Join(n) => drop(world.join(&name(n), NODE)),
        Move::Beat(n) | Move::Leave(n) => {
            let node = node_name(&name(n));
            if world.cluster.state().nodes.contains_key(&node) {
                let mut beat = world.heartbeat(&node);
                if let (Move::Leave(_), Input::Heartbeat { heartbeat, .. }) = (&one, &mut beat) {
                    heartbeat.leaving = true;
                }
                world.run([beat]);
            }
        }
        Move::Submit { job: number, instances, batch, image, wait, gang, priority } => {
            let mut spec = job(&format!("j{number}"), instances);
            spec.job_type = if batch { JobType::Batch } else { JobType::Service };
            spec.on_node_loss = if wait { OnNodeLoss::Wait } else { OnNodeLoss::Replace };
            spec.priority = priority;
            spec.specs[0].all_at_once = gang;
            spec.specs[0].image = format!("busybox:{image}");
            let order =
                if image % 2 == 0 { ExchangeOrder::StartFirst } else { ExchangeOrder::StopFirst };
            spec.specs[0].update = Some(UpdatePolicy {
                order,
                parallel: 1 + instances % 3,
                healthy_for_ms: u64::from(image) * 1_500,
                on_failure: if batch || priority % 2 == 0 {
                    OnFailure::Pause
                } else {
                    OnFailure::Rollback
                },
                progress_deadline_ms: 20_000,
            });
            spec.specs[0].reschedule =
                Some(ReschedulePolicy { attempts: Some(1), delay_ms: 1_000, delay_ms_max: 4_000 });
            world.submit(spec);
        }
        Move::Rebalance => {
            let asked = Rebalance { moves_max: Some(3), gain: Some(1.1) };
            world.command(Command::Rebalance(asked)).unwrap();
        }
        Move::StopJob(number) => drop(world.command(Command::StopJob(key(&format!("j{number}"))))),
        Move::StopTask(choice) => {
            if let Some(id) = some_task(world, choice) {
                let stop = Command::StopTask { namespace: key("x").namespace, id: id.to_string() };
                drop(world.command(stop));
            }
        }
        Move::Scale { job: number, instances } => {
            let (job, spec) = (key(&format!("j{number}")), None);
            drop(world.command(Command::ScaleJob { job, spec, instances }));
        }
        Move::Restart(number) => {
            let job = key(&format!("j{number}"));
            drop(world.command(Command::RestartJob { job, spec: None }));
        }
        Move::RollBack { job: number, version } => {
            let job = key(&format!("j{number}"));
            drop(world.command(Command::RollBackJob { job, version }));
        }
        Move::RestartTask(choice) => {
            if let Some(id) = some_task(world, choice) {
                let namespace = key("x").namespace;
                drop(world.command(Command::RestartTask { namespace, id: id.to_string() }));
            }
        }
        Move::Report { task, attempt, state } => {
            if let Some(id) = some_task(world, task)
                && let Some(node) = world.task(id).node.clone()
                && world.cluster.state().nodes.contains_key(&node)
            {
                let before = (world.task(id).attempt, world.task(id).state);
                let state = TaskState::ALL[usize::from(state)];
                world.report_from(&node, id, attempt, state, None);
                if let Some(task) = world.cluster.state().tasks.get(&id) {
                    assert!((task.attempt, task.state) >= before, "a task went back");
                }
            }
        }
        Move::Pass(milliseconds) => drop(world.pass(milliseconds, &[])),
        Move::BusLost => drop(world.run([Input::BusLost])),
        Move::BusBack => drop(world.run([Input::BusBack])),
        Move::Cordon(n) => node_command(world, NodeCommand::Cordon(names(&[&name(n)]))),
        Move::Uncordon(n) => node_command(world, NodeCommand::Uncordon(names(&[&name(n)]))),
        Move::Drain { node, deadline_ms } => {
            let names = names(&[&name(node)]).names;
            node_command(world, NodeCommand::Drain(DrainNodes { names, deadline_ms }));
        }
        Move::Remove(n) => {
            let asked = RemoveNode { name: node_name(&name(n)), force: true };
            node_command(world, NodeCommand::Remove(asked));
        }
        Move::ChangeLeader => world.change_leader(),
    }
}

/// A request about a node; one that does not exist is refused.
fn node_command(world: &mut World, command: NodeCommand) {
    drop(world.command(Command::Node(command)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_in_the_invariants_hold_and_replay_equals_live(moves in moves()) {
        let mut world = World::new();
        for one in moves {
            play(&mut world, one);
        }
        world.check_replay();
        // Drains are over: what they began is settled, and leaves no extra copy.
        let names: Vec<String> = world.cluster.state().nodes.keys().map(ToString::to_string).collect();
        for name in &names {
            node_command(&mut world, NodeCommand::Uncordon(super::eligibility::names(&[name.as_str()])));
        }
        // Faults stop: the bus is back, every node beats, every stop is obeyed and every task runs. Then each
        // job has what it wants, or says why not, and nothing more is written.
        world.run([Input::BusBack]);
        let alive: Vec<&str> = names.iter().map(String::as_str).collect();
        for _ in 0..200 {
            world.pass(1_000, &alive);
            let tasks: Vec<_> = world.cluster.state().tasks.iter().map(|(id, task)| (*id, task.clone())).collect();
            for (id, task) in tasks {
                if task.node.is_none() || task.state.is_terminal() {
                    continue;
                }
                let attempt = task.attempt.max(1);
                if task.is_to_stop() {
                    world.report(id, attempt, TaskState::Stopped, None);
                } else if task.state < TaskState::Running {
                    world.report(id, attempt, TaskState::Running, None);
                } else if task.state == TaskState::Stopping {
                    // A worker that stops what nobody asked to stop ends it, too.
                    world.report(id, attempt, TaskState::Stopped, None);
                }
            }
        }
        let records = world.log.len();
        world.pass(30_000, &alive);
        prop_assert_eq!(world.log.len(), records, "the cluster is quiet");
        let state = world.cluster.state();
        for (job, part, ids) in state.jobs.values().flat_map(|job| {
            let slots = job.slots.iter().flat_map(|(part, slots)| slots.values().map(move |ids| (part, ids)));
            slots.map(move |(part, ids)| (job, part, ids))
        }) {
            // Who is to follow a task that runs on may wait for room, and says so.
            let waits = |state| state == TaskState::Pending && job.blocked.contains_key(part);
            let states = ids.iter().map(|id| state.tasks[id].state);
            let live = states.filter(|state| !state.is_terminal() && !waits(*state)).count();
            prop_assert!(live <= 1, "a slot has {live} living tasks");
        }
        for (key, job) in &state.jobs {
            if job.stop_requested || job.status.is_terminal() {
                continue;
            }
            let spec = job.spec().unwrap();
            for part in &spec.specs {
                let settled = job.slots[&part.name]
                    .values()
                    .filter_map(|ids| state.tasks.get(&state.current(ids)?))
                    .filter(|task| match task.state {
                        TaskState::Running => true,
                        TaskState::Completed | TaskState::Failed => task.version >= job.run_version,
                        TaskState::Pending => job.blocked.contains_key(&part.name),
                        _ => false,
                    })
                    .count();
                prop_assert!(
                    settled >= part.instances as usize,
                    "{key}: {settled} of {} are settled; {:#?}", part.instances, job
                );
            }
        }
    }
}
