//! What an operator should know of: told when it begins, is worse and is over, and not in between.

use longshore_proto::alarm::Severity;

use super::world::{NODE, World};
use crate::cluster::Input;
use crate::cluster::record::Fact;

fn alarms(facts: &[Fact]) -> Vec<(&str, Severity)> {
    let alarm = |fact| match fact {
        &Fact::AlarmChanged { ref about, severity, .. } => Some((about.as_str(), severity)),
        _ => None,
    };
    facts.iter().filter_map(alarm).collect()
}

fn full(severity: Severity, text: &str) -> Input {
    Input::Alarm { about: "log", severity, text: text.to_owned() }
}

#[test]
fn what_fills_is_an_event_at_each_step_and_shown_in_the_words_of_now() {
    let mut world = World::new();
    for (severity, text, told) in [
        (Severity::Over, "10 %", false),
        (Severity::Warning, "70 %", true),
        (Severity::Warning, "71 %", false),
        (Severity::Critical, "96 %", true),
        (Severity::Alarm, "90 %", true),
        (Severity::Over, "10 %", true),
        (Severity::Over, "11 %", false),
    ] {
        let facts = world.run([full(severity, text)]);
        assert_eq!(!alarms(&facts).is_empty(), told, "{text}: {facts:?}");
        let view = world.cluster.cluster_view(0).unwrap();
        let shown = |wanted| if wanted { vec![text.to_owned()] } else { vec![] };
        assert_eq!(view.warnings, shown(severity == Severity::Warning), "{text}");
        assert_eq!(view.alarms, shown(severity > Severity::Warning), "{text}");
    }
    world.check_replay();
}

#[test]
fn who_follows_knows_of_an_alarm_and_the_next_leader_ends_it() {
    let mut world = World::new();
    world.run([full(Severity::Alarm, "90 %")]);
    world.change_leader();
    assert_eq!(world.cluster.cluster_view(0).unwrap().alarms, ["90 %"]);
    let facts = world.run([full(Severity::Alarm, "91 %")]);
    assert_eq!(alarms(&facts), [], "it goes on");
    let facts = world.run([full(Severity::Over, "10 %")]);
    assert_eq!(alarms(&facts), [("log", Severity::Over)]);
    world.check_replay();
}

#[test]
fn that_silence_is_not_believed_is_told_once_and_when_it_is_over() {
    let mut world = World::new();
    let names = ["n1", "n2", "n3", "n4", "n5"];
    for name in names {
        world.join(name, NODE).unwrap();
    }
    let facts = world.pass(30_000, &names[..2]);
    assert_eq!(alarms(&facts), [("silence", Severity::Alarm)]);
    let facts = world.pass(10_000, &names);
    assert_eq!(alarms(&facts), [("silence", Severity::Over)]);
}
