//! Fenced jobs: of each instance at most one container runs at any time (I-10), whatever becomes of nodes, and each
//! shows a higher token than the one before it. Here machines are modelled, too: what runs on one that is cut off goes
//! on running, and nobody hears of it.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::api::{DrainNodes, ListTasks, NameNode, RemoveNode};
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::{BootId, TaskId};
use longshore_proto::name::NodeName;
use longshore_proto::node::{Want, fencing_token};
use longshore_proto::plan::{Rebalance, WhatIf};
use longshore_proto::spec::{JobSpec, OnNodeLoss, ReschedulePolicy};
use longshore_proto::state::{NodeStatus, TaskState};
use proptest::prelude::*;
use uuid::Uuid;

use super::eligibility::names;
use super::world::{NODE, World, job, key, node_name};
use crate::cluster::record::{CommandAnswer, Fact};
use crate::cluster::{Command, Input, NodeCommand};

fn fenced(instances: u32) -> JobSpec {
    let mut job = JobSpec { fence: true, ..job("db", instances) };
    job.specs[0].reschedule =
        Some(ReschedulePolicy { attempts: None, delay_ms: 1_000, delay_ms_max: 4_000 });
    job
}

/// A fenced job on `n1`, which is lost then, and `n2` empty beside it.
fn lost_world() -> (World, TaskId) {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(fenced(1));
    world.start_all("db");
    world.join("n2", NODE).unwrap();
    let [task] = world.live("db")[..] else { panic!() };
    world.pass(60_000, &["n2"]);
    assert_eq!(world.cluster.state().nodes[&node_name("n1")].status, NodeStatus::Lost);
    (world, task)
}

fn confirm(world: &mut World, node: &str) -> Result<u64, ApiError> {
    let asked = NameNode { name: node_name(node) };
    match world.command(Command::Node(NodeCommand::ConfirmLost(asked)))? {
        CommandAnswer::NodeGone(gone) => Ok(gone.tasks_lost),
        other => panic!("{other:?}"),
    }
}

fn reason(world: &World) -> String {
    let page = world.cluster.task_page(None, &ListTasks::default());
    page.items.into_iter().find_map(|task| task.reason).unwrap_or_default()
}

#[test]
fn time_alone_is_no_proof_and_an_operators_word_is() {
    let (mut world, task) = lost_world();
    world.pass(3_600_000, &["n2"]);
    assert_eq!(world.live("db"), [task], "it waits, however long");
    assert!(reason(&world).ends_with("`longshore node confirm-lost n1`"), "{}", reason(&world));
    let alarms = world.cluster.cluster_view(0).unwrap().alarms;
    assert!(alarms.iter().any(|alarm| alarm.contains("db on n1")), "{alarms:?}");
    world.change_leader();
    world.pass(60_000, &["n2"]);
    assert_eq!(world.live("db"), [task]);
    assert_eq!(confirm(&mut world, "n1").unwrap(), 1);
    assert_eq!(world.task(task).state, TaskState::Lost);
    assert_eq!(world.nodes_of("db"), [Some("n2".to_owned())]);
    assert_eq!(confirm(&mut world, "n1").unwrap(), 0, "once is enough");
    world.pass(1_000, &["n2"]);
    assert_eq!(world.cluster.cluster_view(0).unwrap().alarms, [""; 0]);
    world.check_replay();
    // It was not true: the events say what that may have done.
    let facts = world.pass(500, &["n1", "n2"]);
    let said = facts.iter().any(|fact| {
        matches!(fact, Fact::NodeStatusChanged { reason, .. } if reason.contains("may have run twice"))
    });
    assert!(said, "{facts:#?}");
    world.check_replay();
}

#[test]
fn a_node_that_is_heard_has_not_stopped() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let refused = confirm(&mut world, "n1").unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict);
    assert!(refused.hint.unwrap().contains("longshore node drain n1"));
    // One that has fallen silent may have: whoever says so need not wait until it is lost.
    world.pass(9_000, &[]);
    assert_eq!(confirm(&mut world, "n1").unwrap(), 0);
    assert_eq!(world.cluster.state().nodes[&node_name("n1")].status, NodeStatus::Lost);
    // What was said of its silence says nothing of the next one.
    world.pass(500, &["n1"]);
    world.submit(fenced(1));
    world.start_all("db");
    world.join("n2", NODE).unwrap();
    let before = world.live("db");
    world.pass(60_000, &["n2"]);
    assert_eq!(world.live("db"), before);
    world.check_replay();
}

#[test]
fn the_word_of_a_suspect_node_counts_what_is_lost_by_it() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(fenced(1));
    world.submit(job("web", 2));
    world.submit(JobSpec { on_node_loss: OnNodeLoss::Wait, ..job("waits", 1) });
    for name in ["db", "web", "waits"] {
        world.start_all(name);
    }
    world.join("n2", NODE).unwrap();
    world.pass(9_000, &["n2"]);
    assert_eq!(world.cluster.state().nodes[&node_name("n1")].status, NodeStatus::Suspect);
    assert_eq!(confirm(&mut world, "n1").unwrap(), 3, "what waits for its node is not lost");
    world.pass(1_000, &["n2"]);
    let on = |world: &World, job| world.nodes_of(job).into_iter().flatten().collect::<Vec<_>>();
    assert_eq!((on(&world, "db"), on(&world, "web")), (vec!["n2".into()], vec!["n2".into(); 2]));
    assert_eq!(on(&world, "waits"), ["n1"]);
    world.check_replay();
}

#[test]
fn neither_removal_nor_another_machine_of_the_name_is_a_proof() {
    let (mut world, task) = lost_world();
    for force in [false, true] {
        let asked = RemoveNode { name: node_name("n1"), force };
        let refused = world.command(Command::Node(NodeCommand::Remove(asked))).unwrap_err();
        assert!(refused.message.contains("the fenced job db"), "{refused:?}");
        assert!(refused.hint.unwrap().contains("longshore node confirm-lost n1"));
    }
    let refused = world.join("n1", NODE).unwrap_err();
    assert_eq!(refused.code, ErrorCode::NameTaken);
    assert!(refused.hint.unwrap().contains("longshore node confirm-lost n1"));
    assert_eq!(world.live("db"), [task]);
    confirm(&mut world, "n1").unwrap();
    world.join("n1", NODE).unwrap();
    world.check_replay();
}

#[test]
fn a_report_or_a_goodbye_of_the_worker_is_a_proof() {
    let (mut world, task) = lost_world();
    world.report(task, 1, TaskState::Failed, Some(1));
    world.pass(10_000, &["n1", "n2"]);
    assert_eq!(world.live("db").len(), 1);
    assert_ne!(world.live("db"), [task]);

    let (mut world, _) = lost_world();
    let mut goodbye = world.heartbeat_of("n1", 0);
    if let Input::Heartbeat { heartbeat, .. } = &mut goodbye {
        heartbeat.leaving = true;
    }
    world.run([goodbye]);
    assert_eq!(world.nodes_of("db"), [Some("n2".to_owned())]);
    world.check_replay();
}

#[test]
fn a_stop_and_a_roll_out_wait_for_the_proof_as_well() {
    let (mut world, task) = lost_world();
    world.command(Command::StopJob(key("db"))).unwrap();
    world.pass(60_000, &["n2"]);
    assert_eq!(world.live("db"), [task]);
    let mut next = fenced(1);
    next.specs[0].image = "busybox:2".into();
    world.submit(next);
    world.pass(60_000, &["n2"]);
    assert_eq!(world.live("db"), [task], "the new version does not start beside the old one");
    confirm(&mut world, "n1").unwrap();
    assert_eq!(world.nodes_of("db"), [Some("n2".to_owned())]);
    world.check_replay();
}

#[test]
fn whoever_lifts_the_fence_lifts_the_wait() {
    let (mut world, task) = lost_world();
    world.submit(job("db", 1));
    assert_eq!(world.task(task).state, TaskState::Lost);
    assert_eq!(world.nodes_of("db"), [Some("n2".to_owned())]);
    world.check_replay();
}

#[test]
fn a_fence_that_is_put_up_exchanges_the_container_for_one_with_a_token() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("db", 1));
    world.start_all("db");
    let [before] = world.live("db")[..] else { panic!() };
    world.told.clear();
    world.submit(fenced(1));
    assert!(world.task(before).is_to_stop());
    world.end_all("db");
    let [after] = world.live("db")[..] else { panic!() };
    let epochs: Vec<Option<u64>> = world
        .told
        .iter()
        .flat_map(|(_, delta)| &delta.changes)
        .filter_map(|change| match &change.want {
            Want::Run(run) if change.task == after => Some(run.epoch),
            _ => None,
        })
        .collect();
    assert_eq!(epochs, [Some(world.task(after).created_index)]);
}

#[test]
fn it_is_told_beforehand_what_a_loss_would_leave_waiting() {
    let (world, _) = lost_world();
    let nodes = names(&["n1"]).names;
    let outlook = world.cluster.snapshot().whatif(&WhatIf::Lose { nodes }).unwrap();
    assert!(outlook.unplaced[0].reason.contains("confirm-lost"), "{outlook:#?}");
    assert_eq!(outlook.placed_total, 0);
}

/// A machine, whatever the manager thinks of it.
#[derive(Debug, Default)]
struct Machine {
    is_off: bool,
    is_cut_off: bool,
    running: BTreeSet<TaskId>,
}

/// Machines beside the manager.
struct Machines {
    world: World,
    machines: BTreeMap<NodeName, Machine>,
    /// What runs on machines whose names others have by now.
    replaced: Vec<Machine>,
    /// The last token of each instance.
    tokens: BTreeMap<u32, u64>,
    boots: u128,
}

#[derive(Debug, Clone)]
enum Blow {
    CutOff(u8),
    Heal(u8),
    PowerOff(u8),
    PowerOn(u8),
    /// An operator who looks first, and says what is true.
    Confirm(u8),
    Remove(u8),
    Replace(u8),
    Goodbye(u8),
    Drain(u8, Option<u64>),
    Uncordon(u8),
    RollOut(u8),
    Scale(u32),
    StopJob,
    Rebalance,
    Fail(u8),
    ChangeLeader,
    Pass(u64),
}

const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn blows() -> impl Strategy<Value = Vec<Blow>> {
    let node = || 0..3u8;
    let one = prop_oneof![
        3 => node().prop_map(Blow::CutOff),
        4 => node().prop_map(Blow::Heal),
        2 => node().prop_map(Blow::PowerOff),
        3 => node().prop_map(Blow::PowerOn),
        2 => node().prop_map(Blow::Confirm),
        1 => node().prop_map(Blow::Remove),
        1 => node().prop_map(Blow::Replace),
        1 => node().prop_map(Blow::Goodbye),
        2 => (node(), proptest::option::of(0..20_000u64)).prop_map(|(n, ms)| Blow::Drain(n, ms)),
        2 => node().prop_map(Blow::Uncordon),
        2 => any::<u8>().prop_map(Blow::RollOut),
        1 => (1..4u32).prop_map(Blow::Scale),
        1 => Just(Blow::StopJob),
        1 => Just(Blow::Rebalance),
        2 => any::<u8>().prop_map(Blow::Fail),
        1 => Just(Blow::ChangeLeader),
        6 => (500..12_000u64).prop_map(Blow::Pass),
    ];
    proptest::collection::vec(one, 1..40)
}

impl Machines {
    fn new() -> Self {
        let mut world = World::new();
        let mut machines = BTreeMap::new();
        for name in NODES {
            world.join(name, NODE).unwrap();
            machines.insert(node_name(name), Machine::default());
        }
        world.submit(fenced(2));
        Self { world, machines, replaced: Vec::new(), tokens: BTreeMap::new(), boots: 0 }
    }

    fn hears(&self, name: &NodeName) -> bool {
        let machine = &self.machines[name];
        !machine.is_off
            && !machine.is_cut_off
            && self.world.cluster.state().nodes.contains_key(name)
    }

    /// Workers that hear the manager do what it wants: first whatever starts, then whatever ends, so that two of one
    /// instance would be seen.
    fn work(&mut self) {
        let names: Vec<NodeName> = self.machines.keys().cloned().collect();
        let heard: Vec<NodeName> = names.into_iter().filter(|name| self.hears(name)).collect();
        for name in &heard {
            let beat = self.world.heartbeat(name);
            self.world.run([beat]);
        }
        for name in &heard {
            let tasks = &self.world.cluster.state().nodes[name].tasks;
            for id in tasks.iter().copied().collect::<Vec<_>>() {
                let task = self.world.task(id).clone();
                let runs = self.machines[name].running.contains(&id);
                if !task.is_to_stop() && !runs {
                    // One that ran before the machine went down is restarted: an attempt is another holder.
                    let attempt = task.attempt + 1;
                    self.start(name, id, attempt);
                    self.world.report(id, attempt, TaskState::Running, None);
                }
            }
        }
        for name in &heard {
            let state = self.world.cluster.state();
            let wanted: BTreeSet<TaskId> = state.nodes[name].tasks.iter().copied().collect();
            let ending: Vec<TaskId> =
                wanted.iter().copied().filter(|id| state.tasks[id].is_to_stop()).collect();
            let machine = self.machines.get_mut(name).unwrap();
            machine.running.retain(|id| wanted.contains(id) && !ending.contains(id));
            for id in ending {
                let attempt = self.world.task(id).attempt.max(1);
                self.world.report(id, attempt, TaskState::Stopped, None);
            }
        }
    }

    fn start(&mut self, name: &NodeName, id: TaskId, attempt: u64) {
        let task = self.world.task(id).clone();
        let token = fencing_token(task.created_index, attempt).unwrap();
        let last = self.tokens.insert(task.slot, token);
        assert!(
            last < Some(token),
            "the token of instance {} went from {last:?} to {token}",
            task.slot
        );
        self.machines.get_mut(name).unwrap().running.insert(id);
        self.check();
    }

    /// I-10.
    fn check(&self) {
        let mut holders: BTreeMap<u32, Vec<TaskId>> = BTreeMap::new();
        let machines = self.machines.values().chain(&self.replaced);
        for id in machines.flat_map(|machine| &machine.running) {
            if let Some(task) = self.world.cluster.state().tasks.get(id) {
                holders.entry(task.slot).or_default().push(*id);
            }
        }
        for (slot, holders) in holders {
            assert!(
                holders.len() <= 1,
                "instance {slot} runs {} times: {holders:?}",
                holders.len()
            );
        }
    }

    fn ask(&mut self, command: NodeCommand) -> bool {
        self.world.command(Command::Node(command)).is_ok()
    }

    fn suffer(&mut self, blow: Blow) {
        let name = |n: u8| node_name(NODES[usize::from(n)]);
        match blow {
            Blow::CutOff(n) => self.machines.get_mut(&name(n)).unwrap().is_cut_off = true,
            Blow::Heal(n) => {
                let machine = self.machines.get_mut(&name(n)).unwrap();
                machine.is_cut_off = false;
                if !machine.is_off {
                    self.register(&name(n));
                }
            }
            Blow::PowerOff(n) => {
                let machine = self.machines.get_mut(&name(n)).unwrap();
                machine.is_off = true;
                machine.running.clear();
            }
            Blow::PowerOn(n) => {
                let machine = self.machines.get_mut(&name(n)).unwrap();
                if std::mem::take(&mut machine.is_off) && !machine.is_cut_off {
                    self.register(&name(n));
                }
            }
            Blow::Confirm(n) => {
                if self.machines[&name(n)].is_off {
                    self.ask(NodeCommand::ConfirmLost(NameNode { name: name(n) }));
                }
            }
            Blow::Remove(n) => {
                let asked = RemoveNode { name: name(n), force: true };
                if self.ask(NodeCommand::Remove(asked)) && self.machines[&name(n)].is_cut_off {
                    // Its worker joins again only when it hears; what it runs, it runs until then.
                    self.check();
                }
            }
            Blow::Replace(n) => {
                if !self.hears(&name(n)) && self.world.join(NODES[usize::from(n)], NODE).is_ok() {
                    let before = self.machines.insert(name(n), Machine::default()).unwrap();
                    self.replaced.push(before);
                }
            }
            Blow::Goodbye(n) => {
                if self.hears(&name(n)) {
                    let mut beat = self.world.heartbeat_of(NODES[usize::from(n)], 0);
                    if let Input::Heartbeat { heartbeat, .. } = &mut beat {
                        heartbeat.leaving = true;
                    }
                    let machine = self.machines.get_mut(&name(n)).unwrap();
                    machine.running.clear();
                    machine.is_off = true;
                    self.world.run([beat]);
                }
            }
            Blow::Drain(n, deadline_ms) => {
                self.ask(NodeCommand::Drain(DrainNodes { names: vec![name(n)], deadline_ms }));
            }
            Blow::Uncordon(n) => {
                self.ask(NodeCommand::Uncordon(names(&[NODES[usize::from(n)]])));
            }
            Blow::RollOut(image) => {
                let mut next = fenced(2);
                next.specs[0].image = format!("busybox:{image}");
                self.world.submit(next);
            }
            Blow::Scale(instances) => drop(self.world.submit(fenced(instances))),
            Blow::StopJob => drop(self.world.command(Command::StopJob(key("db")))),
            Blow::Rebalance => {
                let asked = Rebalance { moves_max: Some(3), gain: Some(1.0) };
                drop(self.world.command(Command::Rebalance(asked)));
            }
            Blow::Fail(choice) => {
                let running: Vec<(NodeName, TaskId)> = self
                    .machines
                    .iter()
                    .filter(|(name, _)| self.hears(name))
                    .flat_map(|(name, machine)| {
                        machine.running.iter().map(|id| (name.clone(), *id))
                    })
                    .collect();
                if let Some(at) = usize::from(choice).checked_rem(running.len()) {
                    let (name, id) = running[at].clone();
                    self.machines.get_mut(&name).unwrap().running.remove(&id);
                    if self.world.cluster.state().nodes[&name].tasks.contains(&id) {
                        let attempt = self.world.task(id).attempt;
                        self.world.report(id, attempt, TaskState::Failed, Some(1));
                    }
                }
            }
            Blow::ChangeLeader => self.world.change_leader(),
            Blow::Pass(ms) => {
                let end = self.world.now_ms + ms;
                while self.world.now_ms < end {
                    self.work();
                    self.world.pass(1_000, &[]);
                }
            }
        }
        self.work();
        self.check();
    }

    /// A worker begins another run, or is heard again.
    fn register(&mut self, name: &NodeName) {
        let (id, _) = self.world.identity_of(name.as_str());
        self.boots += 1;
        let boot = BootId(Uuid::from_u128(0xb007_0000 + self.boots));
        // Refused where another machine has the name by now; it tries again then.
        drop(self.world.join_as(name.as_str(), id, boot, NODE));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn of_each_instance_at_most_one_runs_whatever_happens(blows in blows()) {
        let mut machines = Machines::new();
        machines.work();
        for blow in blows {
            machines.suffer(blow);
        }
        machines.world.check_replay();
        // Faults stop, and operators say what is true: the job runs in full.
        for n in 0..3 {
            machines.suffer(Blow::Heal(n));
            machines.suffer(Blow::PowerOn(n));
            machines.suffer(Blow::Heal(n));
            machines.suffer(Blow::Uncordon(n));
        }
        machines.suffer(Blow::Scale(2));
        machines.suffer(Blow::Pass(60_000));
        let running: usize = machines.machines.values().map(|machine| machine.running.len()).sum();
        prop_assert_eq!(running, 2, "{:#?}", machines.machines);
    }
}
