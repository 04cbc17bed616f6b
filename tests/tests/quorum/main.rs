//! Three NATS servers and three managers, of which any one may die, sleep or be cut off, while a client submits
//! without pause: whatever was acknowledged is there afterwards, once.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream;
use longshore_bus::Ask;
use longshore_proto::api::{JobSubmitted, SubmitJob};
use longshore_proto::codec;
use longshore_proto::event::Event;
use longshore_proto::name::Namespace;
use longshore_proto::permission::Role::{ManagerCore, Worker};
use longshore_proto::state::NodeStatus;
use longshore_proto::subject::{ApiVerb, Scope};
use longshore_tests::cli::Cli;
use longshore_tests::load::Load;
use longshore_tests::played::Played;
use longshore_tests::quorum::{MACHINES, QUORUM};
use longshore_tests::{Api, Quorum, api, eventually};
use rustix::process::Signal;

/// So many jobs more mean that the cluster works again.
const SOME: usize = 5;

/// The event stream holds each event of the history, whatever servers and leaders it went through.
async fn events_are_whole(quorum: &Quorum, api: &Api) {
    let core = quorum.bus(ManagerCore, MACHINES[0]).await;
    let context = jetstream::new(core.client().clone());
    let history = api.history().await.unwrap();
    let told = history.iter().filter(|event| event.subject().is_some());
    let mut missing: BTreeSet<_> = told.map(|event| (event.index, event.ordinal)).collect();
    let mut read = 0;
    eventually("the event stream holds the history", QUORUM, async || {
        let stream =
            context.get_stream("longshore-event").await.map_err(|error| error.to_string())?;
        for sequence in read + 1..=stream.cached_info().state.last_sequence {
            let message =
                stream.get_raw_message(sequence).await.map_err(|error| error.to_string())?;
            let event: Event = codec::decode(&message.payload).unwrap();
            missing.remove(&(event.index, event.ordinal));
            read = sequence;
        }
        match missing.first() {
            None => Ok(()),
            Some(first) => Err(format!("{} are missing, the first {first:?}", missing.len())),
        }
    })
    .await;
}

#[tokio::test]
async fn each_manager_and_each_server_may_die_under_load() {
    let mut quorum = Quorum::start(&["w1"]).await;
    let node = Played::join(quorum.bus(Worker, "w1").await).await.unwrap();
    let load = Load::start(quorum.api().await);
    load.goes_on(SOME).await;
    for _ in 0..MACHINES.len() {
        let leader = quorum.leader().await;
        quorum.manager(leader).kill();
        load.goes_on(SOME).await;
        quorum.start_manager(leader);
    }
    for machine in 0..MACHINES.len() {
        quorum.server(machine).kill();
        load.goes_on(SOME).await;
        quorum.start_server(machine);
        load.goes_on(SOME).await;
    }
    // A whole machine: the leader's manager and the server beside it.
    let leader = quorum.leader().await;
    quorum.manager(leader).kill();
    quorum.server(leader).kill();
    load.goes_on(SOME).await;
    quorum.start_server(leader);
    quorum.start_manager(leader);
    let api = quorum.answers().await;
    load.ends_with_nothing_lost(&api).await;
    events_are_whole(&quorum, &api).await;
    assert_eq!(api.status().await.unwrap().records_skipped, 0);
    let nodes = api.nodes().await.unwrap();
    assert_eq!(nodes.iter().map(|node| node.status).collect::<Vec<_>>(), [NodeStatus::Ready]);
    drop(node);
}

#[tokio::test]
async fn a_leader_or_a_server_that_sleeps_and_wakes_breaks_nothing() {
    let mut quorum = Quorum::start(&["w1"]).await;
    let load = Load::start(quorum.api().await);
    load.goes_on(SOME).await;
    // Past its lease: another one leads meanwhile, and the sleeper wakes as somebody who was fenced.
    let sleeper = quorum.leader().await;
    quorum.manager(sleeper).signal(Signal::STOP);
    load.goes_on(SOME).await;
    quorum.manager(sleeper).signal(Signal::CONT);
    load.goes_on(SOME).await;
    for machine in 0..MACHINES.len() {
        quorum.server(machine).signal(Signal::STOP);
        load.goes_on(SOME).await;
        quorum.server(machine).signal(Signal::CONT);
        load.goes_on(SOME).await;
    }
    let api = quorum.answers().await;
    load.ends_with_nothing_lost(&api).await;
    events_are_whole(&quorum, &api).await;
    let mut running = 0;
    for machine in 0..MACHINES.len() {
        running += usize::from(quorum.manager(machine).is_running());
    }
    assert_eq!(running, MACHINES.len(), "no manager gave up");
}

/// Waits until `doctor` shows a warning of servers that are away, or none.
async fn doctor_misses(cli: &Cli, server: Option<&str>) {
    let text =
        server.map(|name| format!("1 of the 3 NATS servers that keep the log is away ({name})"));
    eventually("doctor tells of servers that are away", QUORUM, async || {
        let said = cli.run(&["doctor"]).await.stdout;
        let is_told = text.as_ref().map_or_else(
            || said.contains("ok     manager") && !said.contains("NATS servers that keep the log"),
            |text| said.contains(text),
        );
        if is_told { Ok(()) } else { Err(said) }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_stays_away_is_told_of_before_another_one_goes() {
    let mut quorum = Quorum::start(&["w1"]).await;
    let cli = quorum.cli();
    doctor_misses(&cli, None).await;
    quorum.server(2).kill();
    doctor_misses(&cli, Some(MACHINES[2])).await;
    quorum.start_server(2);
    doctor_misses(&cli, None).await;
}

#[tokio::test]
async fn without_a_quorum_nothing_is_acknowledged_and_afterwards_everything_goes_on() {
    let mut quorum = Quorum::start(&["w1"]).await;
    let load = Load::start(quorum.api().await);
    load.goes_on(SOME).await;
    quorum.server(0).kill();
    quorum.server(1).kill();
    // The server that is left may still be believed for a moment to have the others with it.
    let api = quorum.api().await;
    eventually("a submit is not acknowledged", QUORUM, async || {
        let question = SubmitJob { job: api::service("without-quorum") };
        let ask = Ask::write(api::command_id(), Duration::from_secs(3));
        let scope = Scope::Namespace(Namespace::standard());
        let answer: Result<JobSubmitted, _> =
            api.ask(scope, ApiVerb::JobSubmit, &question, ask).await;
        answer.map_or(Ok(()), |answer| Err(format!("{answer:?}")))
    })
    .await;
    // A person is told what is the matter, and that nothing was changed.
    let cli = quorum.cli();
    eventually("doctor says what is the matter", QUORUM, async || {
        let said = cli.run(&["doctor", "--timeout", "5s"]).await;
        let wanted = "the leader cannot write: the log cannot be written just now";
        let next = "see that a majority of the NATS servers is up";
        let says =
            said.code == Some(1) && [wanted, next].iter().all(|text| said.stdout.contains(text));
        if says { Ok(()) } else { Err(said.stdout) }
    })
    .await;
    quorum.start_server(0);
    quorum.start_server(1);
    load.goes_on(SOME).await;
    let api = quorum.answers().await;
    load.ends_with_nothing_lost(&api).await;
    events_are_whole(&quorum, &api).await;
}
