//! Ports that the worker chooses, and what a node never does.

use longshore_proto::spec::{Port, Protocol};

use super::*;
use crate::agent::{PORT_RANGE_USUAL, labels};

fn wants_ports(number: u128, index: u64, hosts: &[u16]) -> Assignment {
    let mut run = run_task(policy(RestartMode::Always, 5));
    run.spec.ports = hosts
        .iter()
        .zip(80..)
        .map(|(host, container)| Port {
            host: *host,
            container,
            protocol: Protocol::Tcp,
            host_ip: None,
            name: None,
        })
        .collect();
    Assignment { task: id(number), revision: rev(index), want: Want::Run(Box::new(run)) }
}

/// The container that was asked for in a step.
fn start_of(actions: &[Action]) -> StartContainer {
    let start = actions.iter().find_map(|action| match action {
        Action::StartContainer(start) => Some((**start).clone()),
        _ => None,
    });
    start.unwrap_or_else(|| panic!("nothing is started: {actions:?}"))
}

fn hosts(start: &StartContainer) -> Vec<u16> {
    start.run.spec.ports.iter().map(|port| port.host).collect()
}

fn refused(number: u128, attempt: u64, failure: Failure) -> Input {
    Input::Started { task: id(number), attempt, result: Err(failure) }
}

#[test]
fn a_port_is_stored_before_it_is_used_kept_over_restarts_and_told() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_ports(1, 2, &[Port::DYNAMIC, 8080])]);
    let (writes, actions) = bench.pulled();
    let first = start_of(&actions);
    let chosen = hosts(&first);
    assert!(PORT_RANGE_USUAL.contains(&chosen[0]), "{chosen:?}");
    assert_eq!(chosen[1], 8080);
    assert!(
        writes.iter().any(
            |write| matches!(write, Write::Task(record) if record.ports == first.run.spec.ports)
        )
    );
    assert_eq!(first.labels.get(labels::PORTS), Some(&format!("{},8080", chosen[0])));

    bench.started(1, 1);
    let told = bench.deliver();
    assert_eq!(told.last().unwrap().ports, first.run.spec.ports);

    bench.step(died(1, 1, 1));
    bench.later(5_000);
    let (_, actions) = bench.pulled();
    assert_eq!(hosts(&start_of(&actions)), chosen);
}

#[test]
fn no_two_tasks_get_the_same_port_not_even_after_a_crash_of_the_worker() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_ports(1, 2, &[0, 0, 0])]);
    let mut taken = hosts(&start_of(&bench.pulled().1));
    bench.started(1, 1);
    bench.restart();
    bench.join();
    bench.sync(2, vec![wants_ports(1, 2, &[0, 0, 0])]);
    bench.up(vec![container(1, 1, ContainerState::Running)]);
    bench.delta(2, 3, (2..50).map(|number| wants_ports(number, 3, &[0])).collect());
    let (_, actions) = bench.pulled();
    for action in &actions {
        if let Action::StartContainer(start) = action {
            taken.extend(hosts(start));
        }
    }
    assert_eq!(taken.len(), 3 + 48);
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 3 + 48);
}

#[test]
fn a_port_that_a_stranger_holds_is_not_tried_for_ever() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_ports(1, 2, &[0])]);
    let first = hosts(&start_of(&bench.pulled().1));
    let taken = Failure::Refused("port 20000/tcp is taken on this node".into());
    let (_, actions) = bench.step(refused(1, 1, taken));
    for action in actions {
        if let Action::RemoveContainer { container, .. } = action {
            bench.step(Input::Removed { container, result: Ok(()) });
        }
    }
    bench.later(5_000);
    let second = hosts(&start_of(&bench.pulled().1));
    assert_ne!(first, second);
}

#[test]
fn ports_are_read_from_a_container_when_the_disk_was_lost() {
    let mut bench = Bench::new(Saved::default());
    bench.join();
    bench.sync(2, vec![wants_ports(1, 2, &[0])]);
    let mut found = container(1, 4, ContainerState::Running);
    found.labels.insert(labels::PORTS.into(), "20077".into());
    bench.up(vec![found]);
    let told = bench.deliver();
    assert_eq!(told.last().unwrap().ports[0].host, 20_077);
    assert_eq!(bench.record(1).unwrap().ports[0].host, 20_077);
}

#[test]
fn what_the_node_never_does_ends_the_task_without_a_restart() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, policy(RestartMode::Always, 5))]);
    bench.pulled();
    let reason = Failure::Forbidden("this node does not allow privileged containers".into());
    let (writes, _) = bench.step(refused(1, 1, reason));
    let reason = "could not start: this node does not allow privileged containers".to_owned();
    assert_eq!(reports(&writes), [(1, TaskState::Failed, None, reason)]);
}
