//! The life of a task: start, restart, stop, reports.

use super::*;

#[test]
fn from_the_image_to_running() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, policy(RestartMode::Always, 5))]);
    let (writes, actions) = bench.pulled();
    assert_eq!(writes, []);
    let [Action::StartContainer(start)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((start.task, start.attempt), (id(1), 1));
    assert_eq!(start.name, format!("longshore-00c10000-{}-1", id(1)));
    assert_eq!(Owner::read(&start.labels), Some(owner(1, 1)));
    assert_eq!(start.labels.get(labels::REVISION).map(String::as_str), Some("1.2"));
    let (writes, actions) = bench.started(1, 1);
    assert_eq!(reports(&writes), [(1, TaskState::Running, None, String::new())]);
    assert_eq!(actions, []);
    assert_eq!(bench.record(1).unwrap().container_id, Some(container_id(1, 1)));
    assert_eq!(bench.agent.tasks_running(), 1);
    assert_eq!(bench.agent.logs_of(id(1)).unwrap().container_id, Some(container_id(1, 1)));
}

#[test]
fn reports_are_gathered_sent_once_and_forgotten_when_acknowledged() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, policy(RestartMode::Always, 5))]);
    assert_eq!(bench.agent.next_wakeup(), Some(Time(1_010)));
    let (_, actions) = bench.later(10);
    let [Action::SendReports { through: 1, reports: sent }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(sent[0].state, TaskState::Preparing);
    assert_eq!(
        bench.step(Input::ReportsAcked { through: 1, known: None }),
        (vec![Write::ReportDropped(1)], vec![])
    );
    bench.lose_power();
    bench.restart();
    let (_, again) = bench.join();
    assert!(
        again
            .iter()
            .any(|action| matches!(action, Action::SendReports { reports, .. } if reports == sent)),
        "what was not synced is told once more: {again:?}"
    );
}

#[test]
fn a_failure_is_retried_with_a_new_attempt_that_tells_why() {
    let mut bench = Bench::running(policy(RestartMode::OnFailure, 5));
    let (writes, actions) = bench.step(died(1, 1, 137));
    assert_eq!(actions, [], "the container is kept for its logs, and the restart waits");
    let [(2, TaskState::Preparing, Some(137), reason)] = &reports(&writes)[..] else {
        panic!("{writes:?}")
    };
    assert!(reason.starts_with("attempt 1 exited with code 137 (killed); restart in "), "{reason}");
    let record = bench.record(1).unwrap();
    assert_eq!(
        (record.attempt, record.state, record.restarts_at_ms.len()),
        (2, TaskState::Preparing, 1)
    );
    assert!(matches!(&writes[..], [Write::Kept(kept), ..] if kept.attempt == 1), "{writes:?}");
    assert_eq!(bench.agent.logs_of(id(1)).unwrap().container_id, Some(container_id(1, 1)));
    assert_eq!(bench.later(800).1.len(), 1, "only the report is due");
    assert!(bench.later(300).1.iter().any(|action| matches!(action, Action::FindImage(_))));
}

#[test]
fn waits_double_and_the_policy_gives_up() {
    let mut bench = Bench::running(policy(RestartMode::OnFailure, 2));
    for attempt in 1..=2 {
        bench.step(died(1, attempt, 1));
        let (_, actions) = bench.later(if attempt == 1 { 1_100 } else { 2_200 });
        assert!(actions.iter().any(|action| matches!(action, Action::FindImage(_))), "{actions:?}");
        bench.pulled();
        bench.started(1, attempt + 1);
    }
    let (writes, _) = bench.step(died(1, 3, 1));
    let reason = "gave up after 2 restarts in 10m: exited with code 1".to_owned();
    assert_eq!(reports(&writes), [(3, TaskState::Failed, Some(1), reason)]);
    bench.step(Input::ReportsFailed);
    bench.later(outbox::RETRY_MS - outbox::GATHER_MS);
    assert_eq!(bench.deliver().len(), 5);
    assert_eq!(bench.record(1), None);
    assert_eq!(
        bench.agent.next_wakeup().map(|at| at > bench.now.time),
        Some(true),
        "only the slow tick is left"
    );
}

#[test]
fn a_clean_end_completes_unless_the_policy_says_always() {
    for (mode, state) in [
        (RestartMode::Never, TaskState::Completed),
        (RestartMode::OnFailure, TaskState::Completed),
        (RestartMode::Always, TaskState::Preparing),
    ] {
        let mut bench = Bench::running(policy(mode, 5));
        let (writes, _) = bench.step(died(1, 1, 0));
        assert_eq!(reports(&writes)[0].1, state, "{mode:?}");
    }
}

#[test]
fn a_policy_that_never_restarts_fails_at_once() {
    let mut bench = Bench::running(policy(RestartMode::Never, 5));
    let (writes, _) = bench.step(died(1, 1, 139));
    let reason = "exited with code 139 (segmentation fault)".to_owned();
    assert_eq!(reports(&writes), [(1, TaskState::Failed, Some(139), reason)]);
}

#[test]
fn running_out_of_memory_is_said() {
    let mut bench = Bench::running(policy(RestartMode::Never, 5));
    let end = ContainerEnd { exit_code: Some(137), out_of_memory: true, ..ContainerEnd::default() };
    let (writes, _) = bench.step(Input::Container(ContainerEvent {
        container_id: container_id(1, 1),
        labels: labels_of(1, 1),
        change: ContainerChange::Died(end),
    }));
    assert_eq!(reports(&writes)[0].3, "exited with code 137 (out of memory; its limit is 128MiB)");
}

#[test]
fn the_end_of_the_sandbox_that_held_its_network_is_said() {
    let mut bench = Bench::running(policy(RestartMode::Always, 5));
    let end = ContainerEnd { network_lost: true, ..ContainerEnd::exited(137) };
    let (writes, _) = bench.step(Input::Container(ContainerEvent {
        container_id: container_id(1, 1),
        labels: labels_of(1, 1),
        change: ContainerChange::Died(end),
    }));
    let reason = &reports(&writes)[0].3;
    let told = "attempt 1 exited with code 137 (killed by the worker: the sandbox that held its network had ended); restart in ";
    assert!(reason.starts_with(told), "{reason}");
}

#[test]
fn what_the_node_does_not_allow_fails_before_anything_is_fetched_for_it() {
    let mut bench = Bench::ready();
    let mut wish = wants_run(1, 2, policy(RestartMode::Always, 5));
    let Want::Run(run) = &mut wish.want else { panic!("{wish:?}") };
    run.spec.container.privileged = true;
    let (writes, actions) = bench.delta(1, 2, vec![wish]);
    let last = reports(&writes).pop().unwrap();
    assert_eq!((last.0, last.1), (1, TaskState::Failed));
    assert!(
        last.3.contains("could not start: ") && last.3.contains("--allow-privileged"),
        "{last:?}"
    );
    assert_eq!(actions, [], "neither an image nor a container");
    bench.deliver();
    assert_eq!(bench.look(vec![]).1, []);
}

#[test]
fn a_failed_start_is_cleared_away_before_the_next_attempt() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, policy(RestartMode::Always, 5))]);
    bench.pulled();
    let refused = Err(Failure::Refused("port 80/tcp is taken".into()));
    let (writes, actions) = bench.step(Input::Started { task: id(1), attempt: 1, result: refused });
    assert!(
        reports(&writes)[0]
            .3
            .starts_with("attempt 1 could not start: port 80/tcp is taken; restart in")
    );
    let name = owner(1, 1).container_name();
    assert_eq!(actions, [remove(name.clone(), 10_000)]);
    let (_, actions) = bench.later(5_000);
    assert!(!actions.iter().any(|action| matches!(action, Action::FindImage(_))), "{actions:?}");
    let (_, actions) = bench.step(Input::Removed {
        container: name.clone(),
        result: Err(Failure::Refused("busy".into())),
    });
    assert_eq!(actions, []);
    assert_eq!(bench.later(5_000).1, [remove(name.clone(), 10_000)]);
    let (_, actions) = bench.step(Input::Removed { container: name, result: Ok(()) });
    assert!(actions.iter().any(|action| matches!(action, Action::FindImage(_))), "{actions:?}");
}

#[test]
fn a_stop_ends_the_container_and_is_reported_stopped_whatever_the_code() {
    let mut bench = Bench::running(policy(RestartMode::Always, 5));
    let (writes, actions) = bench.delta(2, 3, vec![wants_stop(1, 3)]);
    assert_eq!(reports(&writes), [(1, TaskState::Stopping, None, "job stopped".into())]);
    assert_eq!(
        actions,
        [Action::StopContainer { container_id: container_id(1, 1), grace_ms: 10_000 }]
    );
    let (writes, actions) = bench.step(died(1, 1, 0));
    assert_eq!(reports(&writes), [(1, TaskState::Stopped, Some(0), "job stopped".into())]);
    assert_eq!(actions, []);
    let (writes, _) =
        bench.step(Input::Stopped { container_id: container_id(1, 1), result: Ok(exit(0)) });
    assert_eq!(writes, [], "said once");
}

#[test]
fn a_stop_that_fails_is_repeated() {
    let mut bench = Bench::running(policy(RestartMode::Always, 5));
    bench.delta(2, 3, vec![wants_stop(1, 3)]);
    let refused = Err(Failure::Refused("no answer within 40s".into()));
    bench.step(Input::Stopped { container_id: container_id(1, 1), result: refused });
    let stop = Action::StopContainer { container_id: container_id(1, 1), grace_ms: 10_000 };
    assert!(!bench.later(4_000).1.contains(&stop));
    assert!(bench.later(1_000).1.contains(&stop));
}

#[test]
fn a_stop_before_the_start_or_in_the_back_off_ends_at_once() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, policy(RestartMode::Always, 5))]);
    let (writes, actions) = bench.delta(2, 3, vec![wants_stop(1, 3)]);
    assert_eq!(reports(&writes), [(1, TaskState::Stopped, None, "job stopped".into())]);
    assert_eq!(actions, []);
    assert_eq!(bench.pulled().1, []);

    let mut bench = Bench::running(policy(RestartMode::Always, 5));
    bench.step(died(1, 1, 1));
    let (writes, _) = bench.delta(2, 3, vec![wants_stop(1, 3)]);
    assert_eq!(reports(&writes), [(2, TaskState::Stopped, None, "job stopped".into())]);
}

#[test]
fn a_stop_during_the_start_follows_it() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, policy(RestartMode::Always, 5))]);
    bench.pulled();
    assert_eq!(bench.delta(2, 3, vec![wants_stop(1, 3)]).1, []);
    let (writes, actions) = bench.started(1, 1);
    let states: Vec<_> = reports(&writes).into_iter().map(|report| report.1).collect();
    assert_eq!(states, [TaskState::Running, TaskState::Stopping]);
    assert_eq!(
        actions,
        [Action::StopContainer { container_id: container_id(1, 1), grace_ms: 10_000 }]
    );
}

#[test]
fn a_stop_is_not_taken_back() {
    let mut bench = Bench::running(policy(RestartMode::Always, 5));
    bench.delta(2, 3, vec![wants_stop(1, 3)]);
    bench.delta(3, 4, vec![wants_run(1, 4, policy(RestartMode::Always, 5))]);
    let (writes, _) = bench.step(died(1, 1, 143));
    assert_eq!(reports(&writes)[0].1, TaskState::Stopped);
}

#[test]
fn an_end_before_the_answer_to_the_start_counts_once() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, policy(RestartMode::Never, 0))]);
    bench.pulled();
    assert_eq!(
        bench.step(died(1, 1, 0)),
        (vec![], vec![]),
        "whose container that is the answer tells"
    );
    let (writes, _) = bench.started(1, 1);
    let states: Vec<_> = reports(&writes).into_iter().map(|report| report.1).collect();
    assert_eq!(states, [TaskState::Running, TaskState::Completed]);
    assert_eq!(bench.step(died(1, 1, 0)), (vec![], vec![]));
}

#[test]
fn an_end_of_an_earlier_container_does_not_end_the_one_that_starts() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, policy(RestartMode::Never, 0))]);
    bench.pulled();
    bench.step(Input::Container(ContainerEvent {
        container_id: "removed-before".into(),
        labels: labels_of(1, 1),
        change: ContainerChange::Died(exit(137)),
    }));
    bench.started(1, 1);
    assert_eq!(bench.agent.tasks_running(), 1);
}

#[test]
fn a_container_that_was_removed_from_outside_is_a_failed_attempt() {
    let mut bench = Bench::running(policy(RestartMode::Never, 0));
    let (writes, _) = bench.step(Input::Container(ContainerEvent {
        container_id: container_id(1, 1),
        labels: labels_of(1, 1),
        change: ContainerChange::Destroyed,
    }));
    let reason =
        "lost its container: it was removed from outside, or the runtime lost it".to_owned();
    assert_eq!(reports(&writes), [(1, TaskState::Failed, None, reason)]);
}

#[test]
fn the_container_of_a_forgotten_task_is_kept_for_its_logs() {
    let mut bench = Bench::running(policy(RestartMode::Never, 0));
    bench.step(died(1, 1, 0));
    bench.deliver();
    assert_eq!(bench.record(1), None);
    assert_eq!(bench.agent.logs_of(id(1)).unwrap().container_id, Some(container_id(1, 1)));
    let (_, actions) = bench.look(vec![container(1, 1, ContainerState::Ended(exit(0)))]);
    assert_eq!(actions, [], "and is not taken for a stray");
}

#[test]
fn leaving_ends_everything_tells_it_and_starts_nothing() {
    let mut bench = Bench::running(policy(RestartMode::Always, 5));
    assert!(!(bench.agent.is_quiet() && bench.agent.is_told()));
    let (writes, actions) = bench.step(Input::Leave);
    assert_eq!(reports(&writes)[0].1, TaskState::Stopping);
    assert_eq!(actions.len(), 1);
    let (writes, _) = bench.step(died(1, 1, 143));
    let reason = "its worker was shut down together with its tasks".to_owned();
    assert_eq!(reports(&writes), [(1, TaskState::Stopped, Some(143), reason)]);
    let (writes, actions) =
        bench.delta(2, 3, vec![wants_run(2, 3, policy(RestartMode::Always, 5))]);
    assert_eq!(reports(&writes)[0].1, TaskState::Stopped);
    assert_eq!(actions, []);
    assert!(!(bench.agent.is_quiet() && bench.agent.is_told()), "not before it is told");
    bench.deliver();
    assert!(bench.agent.is_quiet() && bench.agent.is_told());
}
