//! Nodes whose workers follow what the log does not have: left alone, mended one by one, or by an operator's choice.

use longshore_proto::alarm::Severity;
use longshore_proto::api::RemoveNode;
use longshore_proto::error::ErrorCode;
use longshore_proto::id::{BootId, NodeId, Revision};
use longshore_proto::node::Sync;
use longshore_proto::state::{Eligibility, NodeStatus};
use uuid::Uuid;

use super::nodes::status;
use super::world::{NODE, World, job, node_name, wish};
use crate::cluster::Input;
use crate::cluster::input::NodeCommand;
use crate::cluster::record::Fact;
use crate::cluster::state::EPOCHS_RESTORED;
use crate::leadership::log::{Broken, check_followed};

/// A heartbeat of a node that follows a revision.
fn follows(world: &World, name: &str, followed: Revision) -> Input {
    let mut beat = world.heartbeat_of(name, 0);
    if let Input::Heartbeat { heartbeat, .. } = &mut beat {
        heartbeat.revision = followed;
    }
    beat
}

fn told(world: &mut World, name: &str) -> bool {
    let sets = std::mem::take(&mut world.told);
    sets.iter().any(|(node, _)| node.as_str() == name)
}

#[test]
fn a_node_that_follows_what_the_log_has_lost_is_left_alone_until_an_operator_has_chosen() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    world.start_all("web");
    world.join("n2", NODE).unwrap();
    let Revision { epoch, index } =
        world.cluster.state().next_revision(world.cluster.state().meta.epoch);
    // What was committed last is nothing to wonder about.
    let last = follows(&world, "n1", Revision { epoch, index: index - 1 });
    world.run([last]);
    assert_eq!(check_followed(world.cluster.state()), Ok(()));

    // It has seen records that this log does not have.
    let revision = Revision { epoch, index: index + 100 };
    let beat = follows(&world, "n1", revision);
    let facts = world.run([beat]);
    assert!(facts.contains(&Fact::NodeAhead { name: node_name("n1"), revision }), "{facts:?}");
    let behind = Broken::Behind { node: node_name("n1"), revision };
    assert_eq!(check_followed(world.cluster.state()), Err(behind));
    let beat = follows(&world, "n1", revision);
    assert_eq!(world.run([beat]), [], "once");
    world.pass(1_000, &["n1", "n2"]);
    let status = world.cluster.cluster_view(0).unwrap();
    assert!(
        status.alarms.iter().any(|text| text.contains(
            "1 of 2 nodes follow revisions of which the log has no record: n1 follows 1."
        )),
        "{status:?}"
    );
    assert!(status.alarms.iter().any(|text| text.contains("--heal-log")), "{status:?}");

    // Others are used as ever. It gets nothing, and hears nothing, by this leader or the next, however far the log goes on.
    told(&mut world, "n1");
    world.submit(job("more", 2));
    world.command(crate::cluster::Command::StopJob(super::world::key("web"))).unwrap();
    for _ in 0..200 {
        world.run([Input::Barrier { ticket: crate::cluster::Ticket(0) }]);
    }
    world.change_leader();
    let beat = follows(&world, "n1", revision);
    world.run([beat]);
    assert_eq!(world.nodes_of("more"), [Some("n2".to_owned()), Some("n2".to_owned())]);
    assert!(!told(&mut world, "n1"));
    let (node_id, boot_id) = world.identity_of("n1");
    let sync = Sync { node_id, boot_id, after: None };
    let refused = world.cluster.state().sync_page(&node_name("n1"), &sync).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable);
    assert!(refused.to_string().contains(&revision.to_string()), "{refused}");

    // An operator has chosen this log: it goes on beyond whatever the node has seen, and the node with it.
    world.restore();
    assert_eq!(check_followed(world.cluster.state()), Ok(()));
    world.cluster.state().sync_page(&node_name("n1"), &sync).unwrap();
    world.pass(1_000, &["n1", "n2"]);
    assert!(world.cluster.cluster_view(0).unwrap().alarms.is_empty());
    world.check_replay();
}

/// A heartbeat under a node's name of a worker whose registration the log does not have.
fn of_another(world: &World, name: &str, id: NodeId, followed: Revision) -> Input {
    let mut beat = follows(world, name, followed);
    if let Input::Heartbeat { heartbeat, .. } = &mut beat {
        (heartbeat.node_id, heartbeat.boot_id) = (id, BootId(id.0));
    }
    beat
}

#[test]
fn a_worker_whose_registration_was_lost_with_the_log_is_told_so_once_the_node_that_is_known_is_silent()
 {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.submit(job("web", 1));
    world.start_all("web");
    // It has registered with a fresh data directory, and the log was healed with what was known before.
    world.restore();
    let id = NodeId(Uuid::from_u128(77));
    let followed = Revision { epoch: 1, index: 999 };
    world.pass(7_000, &[]);
    world.told.clear();
    let beat = of_another(&world, "n1", id, followed);
    assert_eq!(world.run([beat.clone()]), []);
    assert!(
        !told(&mut world, "n1"),
        "the known one has just been heard, and would ask anew each time"
    );
    world.pass(2_000, &[]);
    assert_eq!(status(&world, "n1"), NodeStatus::Suspect);
    assert_eq!(world.run([beat]), [], "that is no sign of life of the node that is known");
    let hint = world.told.pop().expect("it is told").1;
    assert_eq!(hint.previous, Revision::UNCHAINED);
    assert!(hint.revision > followed, "it believes that");
    let sync = Sync { node_id: id, boot_id: BootId(id.0), after: None };
    let refused = world.cluster.state().sync_page(&node_name("n1"), &sync).unwrap_err();
    assert_eq!(refused.code, ErrorCode::NotRegistered);
    // It asks to join, and that the other one is gone need not be waited for.
    let again = || wish(id, BootId(id.0), NODE);
    assert_eq!(world.register("n1", again()).unwrap_err().code, ErrorCode::NameTaken);
    world.pass(7_000, &[]);
    world.register("n1", again()).unwrap();
    assert_eq!(status(&world, "n1"), NodeStatus::Ready);
    world.check_replay();
}

#[test]
fn a_worker_that_the_log_does_not_know_and_that_follows_what_it_has_lost_is_left_alone() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    world.pass(16_000, &[]);
    assert_eq!(status(&world, "n1"), NodeStatus::Lost);
    world.told.clear();
    let id = NodeId(Uuid::from_u128(77));
    let revision = Revision { epoch: 1, index: 999 };
    let beat = of_another(&world, "n1", id, revision);
    assert_eq!(world.run([beat.clone()]), [Fact::NodeAhead { name: node_name("n1"), revision }]);
    assert_eq!(world.run([beat.clone()]), [], "once");
    assert!(!told(&mut world, "n1"));
    // An operator has chosen this log.
    world.restore();
    world.told.clear();
    assert_eq!(world.run([beat]), []);
    assert!(told(&mut world, "n1"));
    world.check_replay();
}

fn has_alarm(world: &World) -> bool {
    !world.cluster.cluster_view(0).unwrap().alarms.is_empty()
}

#[test]
fn one_node_that_is_wrong_is_mended_alone() {
    let mut world = World::new();
    for name in ["n1", "n2", "n3"] {
        world.join(name, NODE).unwrap();
    }
    let strange = Revision { epoch: 1, index: 999 };
    let beats = ["n1", "n2"].map(|name| follows(&world, name, strange));
    world.run(beats);
    world.pass(1_000, &["n1", "n2", "n3"]);
    let alarm = world.cluster.cluster_view(0).unwrap().alarms.remove(0);
    assert!(alarm.starts_with("2 of 3 nodes") && alarm.contains("n2 follows 1.999"), "{alarm}");

    // Its worker would only come back as it is.
    let removed = |name: &str, force| {
        let asked = RemoveNode { name: node_name(name), force };
        crate::cluster::Command::Node(NodeCommand::Remove(asked))
    };
    let refused = world.command(removed("n1", true)).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict);
    assert!(refused.hint.unwrap().contains("move its data directory away"));

    // n1 gets a fresh data directory, and the machine of n2 is gone.
    let (id, boot) = (NodeId(Uuid::from_u128(77)), BootId(Uuid::from_u128(78)));
    let taken = world.join_as("n1", id, boot, NODE).unwrap_err();
    assert_eq!(taken.code, ErrorCode::NameTaken);
    world.pass(30_000, &["n3"]);
    assert!(has_alarm(&world));
    world.join_as("n1", id, boot, NODE).unwrap();
    let node = &world.cluster.state().nodes[&node_name("n1")];
    assert_eq!((node.ahead, node.offered()), (None, Eligibility::Open));
    world.pass(1_000, &["n1", "n3"]);
    assert!(has_alarm(&world), "n2 is left");
    world.command(removed("n2", false)).unwrap();
    let facts = world.pass(1_000, &["n1", "n3"]);
    let over = |fact: &Fact| matches!(fact, Fact::AlarmChanged { about, severity: Severity::Over, .. } if about == "ahead");
    assert!(facts.iter().any(over), "{facts:?}");
    assert!(!has_alarm(&world));
    assert_eq!(check_followed(world.cluster.state()), Ok(()));
    world.check_replay();
}

#[test]
fn what_is_of_an_earlier_reign_must_have_been_written_in_it() {
    let mut world = World::new();
    world.join("n1", NODE).unwrap();
    let before = world.cluster.state().next_revision(1);
    world.change_leader();
    let followed = |index| Revision { epoch: before.epoch, index };
    let state = world.cluster.state();
    assert_eq!(state.meta.epoch, before.epoch + 1);
    assert!(!state.has_lost(followed(before.index - 1)), "the last of the reign before");
    assert!(state.has_lost(followed(before.index)), "the next reign has written this");
    assert!(!state.has_lost(Revision::default()), "who has nothing yet");
    world.restore();
    let reigns_later =
        |reigns| Revision { epoch: before.epoch + reigns, index: before.index + 900 };
    for reigns in [0, 1, 2, 999] {
        let state = world.cluster.state();
        assert!(!state.has_lost(reigns_later(reigns)), "of a past that was left");
    }
    assert!(world.cluster.state().has_lost(reigns_later(EPOCHS_RESTORED + 2)), "of this one");
    for _ in 0..20 {
        world.change_leader();
    }
    assert!(world.cluster.state().meta.reigns.len() <= 8);
    world.check_replay();
}
