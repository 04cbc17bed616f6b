//! What operators say of nodes: cordons, labels, and that one will not return.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::api::{LabelNode, NameNode, NameNodes, NodeView, RemoveNode};
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::id::{BootId, NodeId};
use longshore_proto::node::Register;
use longshore_proto::spec::OnNodeLoss;
use longshore_proto::state::{Eligibility, NodeStatus, TaskState};
use uuid::Uuid;

use super::world::{NODE, World, job, node_name, wish};
use crate::cluster::record::CommandAnswer;
use crate::cluster::{Command, NodeCommand};
use crate::time::Time;

pub(super) fn names(names: &[&str]) -> NameNodes {
    NameNodes { names: names.iter().map(|name| node_name(name)).collect() }
}

fn ask(world: &mut World, command: NodeCommand) -> Result<CommandAnswer, ApiError> {
    world.command(Command::Node(command))
}

/// Which nodes are different by a request.
fn changed(world: &mut World, command: NodeCommand) -> Vec<String> {
    match ask(world, command) {
        Ok(CommandAnswer::NodesChanged(answer)) => {
            answer.names.iter().map(ToString::to_string).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn view(world: &World, name: &str) -> NodeView {
    world.cluster.node_get(&NameNode { name: node_name(name) }, Time(0)).unwrap()
}

fn label(set: &[(&str, &str)], remove: &[&str]) -> NodeCommand {
    let set: BTreeMap<String, String> =
        set.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
    let remove: BTreeSet<String> = remove.iter().map(|label| (*label).to_owned()).collect();
    NodeCommand::Label(LabelNode { name: node_name("n1"), set, remove })
}

#[test]
fn a_cordoned_node_keeps_what_it_has_and_gets_nothing_new() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 2));
    world.start_all("web");
    assert_eq!(changed(&mut world, NodeCommand::Cordon(names(&["n1"]))), ["n1"]);
    assert_eq!(
        changed(&mut world, NodeCommand::Cordon(names(&["n1"]))),
        [""; 0],
        "it is cordoned already"
    );
    world.submit(job("late", 1));
    assert_eq!(world.live("web").len(), 2);
    assert_eq!(world.waits_because("late"), "no node fits: of 1 node, 1 is cordoned");
    assert_eq!(view(&world, "n1").eligibility, Eligibility::Cordoned);
    world.check_replay();
    world.change_leader();
    assert_eq!(view(&world, "n1").eligibility, Eligibility::Cordoned);
    assert_eq!(changed(&mut world, NodeCommand::Uncordon(names(&["n1"]))), ["n1"]);
    assert_eq!(world.nodes_of("late"), [Some("n1".to_owned())]);
}

#[test]
fn several_nodes_are_changed_together_or_not_at_all() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.join("n2", NODE).unwrap();
    let refused = ask(&mut world, NodeCommand::Cordon(names(&["n1", "n9"]))).unwrap_err();
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (ErrorCode::NotFound, "there is no node n9")
    );
    assert_eq!(view(&world, "n1").eligibility, Eligibility::Open);
    assert_eq!(changed(&mut world, NodeCommand::Cordon(names(&["n2", "n1", "n2"]))), ["n1", "n2"]);
    let refused = ask(&mut world, NodeCommand::Cordon(names(&[]))).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Invalid);
}

#[test]
fn an_operators_label_stands_before_the_workers_and_leaves_it_there() {
    let mut world = World::new();
    let stated = Register {
        labels: BTreeMap::from([("rack".to_owned(), "r1".to_owned())]),
        ..wish(NodeId(Uuid::from_u128(1)), BootId(Uuid::from_u128(2)), NODE)
    };
    world.register("n1", stated.clone()).unwrap();
    let mut spec = job("web", 1);
    spec.specs[0].constraints = vec!["label.rack = r2".parse().unwrap()];
    world.submit(spec);
    assert_eq!(world.nodes_of("web"), [None]);
    assert_eq!(changed(&mut world, label(&[("rack", "r2"), ("disk", "ssd")], &[])), ["n1"]);
    assert_eq!(world.nodes_of("web"), [Some("n1".to_owned())], "what waited is looked at again");
    let shown = view(&world, "n1");
    assert_eq!((shown.labels["rack"].as_str(), shown.labels["disk"].as_str()), ("r2", "ssd"));
    assert_eq!(shown.labels_set.len(), 2);
    assert_eq!(changed(&mut world, label(&[("disk", "ssd")], &[])), [""; 0]);

    // A new run of the worker leaves it as it is; taken away, the worker's own shows again.
    let again = Register { boot_id: BootId(Uuid::from_u128(3)), ..stated };
    world.register("n1", again).unwrap();
    assert_eq!(view(&world, "n1").labels["rack"], "r2");
    assert_eq!(changed(&mut world, label(&[], &["rack"])), ["n1"]);
    assert_eq!(view(&world, "n1").labels["rack"], "r1");
    world.check_replay();

    let refused = ask(&mut world, label(&[], &["rack"])).unwrap_err();
    assert_eq!(refused.message, "the label rack of n1 is stated by its worker");
    for bad in [label(&[("", "x")], &[]), label(&[("a", "b\n")], &[]), label(&[("a", "b")], &["a"])]
    {
        assert_eq!(ask(&mut world, bad).unwrap_err().code, ErrorCode::Invalid);
    }
    let many: Vec<String> = (0..127).map(|number| format!("l{number}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|label| (label.as_str(), "x")).collect();
    assert_eq!(ask(&mut world, label(&many, &[])).unwrap_err().code, ErrorCode::Invalid);
}

#[test]
fn the_log_keeps_nothing_of_labels_that_are_taken_away_and_were_not_set() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    changed(&mut world, label(&[("rack", "r1")], &[]));
    let junk: Vec<String> = (0..2_000).map(|number| format!("{number:0300}")).collect();
    let remove: Vec<&str> = junk.iter().map(String::as_str).chain(["rack"]).collect();
    assert_eq!(changed(&mut world, label(&[], &remove)), ["n1"]);
    let record = world.log.last().unwrap();
    assert!(record.len() < 1_024, "{} bytes", record.len());
    assert!(!view(&world, "n1").labels.contains_key("rack"));
    world.check_replay();
}

#[test]
fn another_machine_of_the_name_is_open_and_has_no_labels_of_operators() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    changed(&mut world, label(&[("disk", "ssd")], &[]));
    changed(&mut world, NodeCommand::Cordon(names(&["n1"])));
    world.pass(20_000, &[]);
    world.join("n1", NODE).unwrap();
    let shown = view(&world, "n1");
    assert_eq!((shown.eligibility, shown.labels.len()), (Eligibility::Open, 0));
    world.check_replay();
}

fn remove(world: &mut World, force: bool) -> Result<u64, ApiError> {
    let asked = RemoveNode { name: node_name("n1"), force };
    match ask(world, NodeCommand::Remove(asked))? {
        CommandAnswer::NodeGone(answer) => Ok(answer.tasks_lost),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_that_is_heard_is_not_removed_unless_by_force() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 2));
    world.start_all("web");
    let refused = remove(&mut world, false).unwrap_err();
    assert_eq!(refused.message, "node n1 is ready");
    assert!(refused.hint.unwrap().contains("longshore node drain n1"));
    world.join("n2", NODE).unwrap();
    let (id, boot) = world.identity_of("n1");
    assert_eq!(remove(&mut world, true).unwrap(), 2);
    assert_eq!(world.nodes_of("web"), vec![Some("n2".to_owned()); 2], "they are replaced at once");
    assert_eq!(remove(&mut world, true).unwrap_err().code, ErrorCode::NotFound);
    world.check_replay();
    // Its worker runs on, and joins again: as a node that has nothing.
    world.join_as("n1", id, boot, NODE).unwrap();
    assert_eq!(view(&world, "n1").tasks, 0);
    world.check_replay();
}

#[test]
fn a_lost_node_is_removed_with_the_tasks_that_waited_for_it() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let mut patient = job("db", 1);
    patient.on_node_loss = OnNodeLoss::Wait;
    world.submit(patient);
    world.start_all("db");
    world.join("n2", NODE).unwrap();
    world.pass(30_000, &["n2"]);
    assert_eq!(view(&world, "n1").status, NodeStatus::Lost);
    let [waiting] = world.live("db")[..] else { panic!() };
    assert_eq!(remove(&mut world, false).unwrap(), 1);
    assert_eq!(world.task(waiting).state, TaskState::Lost);
    assert_eq!(world.nodes_of("db"), [Some("n2".to_owned())]);
    world.check_replay();
}
