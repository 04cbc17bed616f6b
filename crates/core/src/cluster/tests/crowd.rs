//! Thousands of everything at once: nobody keeps the others waiting.

use longshore_proto::id::TaskId;
use longshore_proto::node::{Reports, TaskReport};
use longshore_proto::permission::Role;
use longshore_proto::spec::{JobSpec, Resources};
use longshore_proto::state::TaskState;

use super::world::{World, job, key, node_name};
use crate::cluster::draft::ASKED_MS;
use crate::cluster::record::Fact;
use crate::cluster::{Command, Input, Queue};

/// Has room for everything here.
const ROOMY: Resources =
    Resources { cpu_millis: 10_000_000, memory_bytes: 1 << 50, disk_bytes: 10 << 30 };

fn submit(world: &mut World, job: JobSpec) -> Input {
    let (ticket, id, user) = (world.ticket(), world.command_id(), "alice".parse().unwrap());
    let command = Command::SubmitJob(Box::new(job));
    Input::Command { ticket, role: Role::Operator, user, actor: None, id, command }
}

fn report(world: &mut World, node: &str, tasks: &[TaskId]) -> Input {
    let (node_id, boot_id) = world.identity_of(node);
    let report = |task: &TaskId| TaskReport {
        task: *task,
        attempt: 1,
        state: TaskState::Running,
        boot_id,
        container_id: Some("0123456789abcdef".repeat(4)),
        exit_code: None,
        reason: None,
        ports: Vec::new(),
        health: None,
        pulls_failed: 0,
        at_ms: 0,
    };
    let reports = Reports { node_id, boot_id, reports: tasks.iter().map(report).collect() };
    Input::Reports { ticket: world.ticket(), node: node_name(node), reports }
}

/// One record.
fn step(world: &mut World, queue: &mut Queue) -> Vec<Fact> {
    let (now, seed) = (world.now(), world.seed());
    let step = world.cluster.propose(queue, now, seed);
    world.settle(step)
}

/// How many facts of a record are of a kind.
fn count(facts: &[Fact], of_kind: impl Fn(&Fact) -> bool) -> usize {
    facts.iter().filter(|fact| of_kind(fact)).count()
}

#[test]
fn requests_reports_and_placing_go_on_side_by_side() {
    let mut world = World::new();
    world.join("n1", ROOMY).unwrap();
    world.submit(job("old", 600));
    // Everybody wants something at once: 600 tasks say that they run, and two jobs are to be created.
    let tasks = world.live("old");
    let mut queue: Queue = tasks
        .chunks(10)
        .map(|tasks| report(&mut world, "n1", tasks))
        .collect::<Vec<_>>()
        .into_iter()
        .collect();
    queue.push(submit(&mut world, job("big", 600)));
    queue.push(submit(&mut world, job("huge", 600)));
    let mut busy = 0;
    while queue.reports() > 0 {
        let facts = step(&mut world, &mut queue);
        let bytes = world.log.last().unwrap().len();
        assert!(bytes < 80 << 10, "whoever asks now waits for {bytes} bytes");
        assert_eq!(queue.prompt(), 0, "requests are not kept waiting");
        assert!(count(&facts, |fact| matches!(fact, Fact::TaskReported { .. })) > 0);
        assert!(count(&facts, |fact| matches!(fact, Fact::TaskCreated { .. })) > 0);
        assert!(count(&facts, |fact| matches!(fact, Fact::TaskPlaced { .. })) > 0);
        busy += 1;
        if busy == 2 {
            // A small job amid all that has its task at once, before those that were begun go on.
            queue.push(submit(&mut world, job("small", 1)));
            assert!(queue.has_requests());
            let facts = step(&mut world, &mut queue);
            assert_eq!(world.live("small").len(), 1);
            let bytes = world.log.last().unwrap().len();
            assert!(bytes < 20 << 10, "whoever asks for little is in a record of {bytes} bytes");
            assert!(count(&facts, |fact| matches!(fact, Fact::TaskReported { .. })) > 0);
            assert!(!queue.has_requests() && queue.reports() > 0, "reports are no requests");
            step(&mut world, &mut queue);
            let bytes = world.log.last().unwrap().len();
            assert!(bytes < 20 << 10, "whoever asks next waits for one of {bytes} bytes");
            world.now_ms += ASKED_MS;
            step(&mut world, &mut queue);
            let bytes = world.log.last().unwrap().len();
            assert!(bytes > 40 << 10, "where nobody asks, records are filled: {bytes} bytes");
        }
    }
    assert!(busy >= 3, "only {busy} records: the test asks for too little");
    world.run([]);
    for name in ["big", "huge"] {
        let tasks = world.live(name);
        assert_eq!(tasks.len(), 600);
        assert!(tasks.iter().all(|id| world.task(*id).node.is_some()), "{}", key(name));
    }
    world.check_replay();
}
