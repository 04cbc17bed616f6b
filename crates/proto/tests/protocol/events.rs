//! The events that services outside hear.

use longshore_proto::event::{Event, JobWants};
use longshore_proto::name::Root;

use crate::Examples;
use crate::samples::{event, particular_job};

pub(crate) fn events(examples: &mut Examples) {
    let subject = event().subject().unwrap().text(&Root::standard());
    examples.heading(&format!("A task event (`{subject}`)"));
    examples.message("Payload:", &event());
    let stopped = Event {
        index: 14,
        event_type: "job.stopping".into(),
        spec: None,
        task: None,
        node: None,
        state: None,
        attempt: None,
        actor: Some("operator/alice".into()),
        ..event()
    };
    let subject = stopped.subject().unwrap().text(&Root::standard());
    examples.heading(&format!("A job event (`{subject}`)"));
    examples.message("Payload:", &stopped);
    let submitted = Event {
        index: 10,
        event_type: "job.submitted".into(),
        reason: Some("version 1".into()),
        wants: Some(JobWants::from(&particular_job())),
        ..stopped.clone()
    };
    let subject = submitted.subject().unwrap().text(&Root::standard());
    examples.heading(&format!("A job event that says what is asked of nodes (`{subject}`)"));
    examples.message("Payload:", &submitted);
    let lost = Event {
        index: 15,
        event_type: "node.lost".into(),
        namespace: None,
        job: None,
        state: Some("lost".into()),
        reason: Some("silent for 15 s".into()),
        version: Some(1),
        actor: None,
        node: Some("n1".parse().unwrap()),
        ..stopped
    };
    let subject = lost.subject().unwrap().text(&Root::standard());
    examples.heading(&format!("A node event (`{subject}`)"));
    examples.message("Payload:", &lost);
    let elected = Event {
        index: 16,
        event_type: "cluster.leader-elected".into(),
        node: None,
        state: None,
        reason: Some("manager m1, version 0.1.0, epoch 4".into()),
        ..lost
    };
    let alarm = Event {
        index: 17,
        event_type: "cluster.alarm".into(),
        state: Some("warning".into()),
        reason: Some("the log is 71 % full (728MiB of 1GiB)".into()),
        ..elected.clone()
    };
    for (what, event) in [("A cluster event", elected), ("An alarm", alarm)] {
        let subject = event.subject().unwrap().text(&Root::standard());
        examples.heading(&format!("{what} (`{subject}`)"));
        examples.message("Payload:", &event);
    }
}
