//! Starting again, runtimes that come and go, containers that are found.

use super::*;

fn always() -> RestartPolicy {
    policy(RestartMode::Always, 5)
}

fn states(writes: &[Write]) -> Vec<(u64, TaskState)> {
    reports(writes).into_iter().map(|report| (report.0, report.1)).collect()
}

#[test]
fn a_running_container_is_adopted_and_never_started_twice() {
    let mut bench = Bench::running(always());
    bench.restart();
    let (writes, actions) = bench.up(vec![container(1, 1, ContainerState::Running)]);
    assert_eq!((writes, actions), (vec![], vec![]), "running was told already");
    assert_eq!(bench.agent.tasks_running(), 1);
}

#[test]
fn a_worker_without_a_manager_goes_on_with_what_it_stored() {
    let mut bench = Bench::running(always());
    bench.restart();
    bench.up(vec![]);
    let (_, actions) = bench.later(2_000);
    assert!(matches!(&actions[..], [Action::FindImage(_)]), "{actions:?}");
}

#[test]
fn a_start_that_was_not_recorded_is_adopted_and_reported() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, always())]);
    bench.pulled();
    bench.restart();
    let (writes, actions) = bench.up(vec![container(1, 1, ContainerState::Running)]);
    assert_eq!(states(&writes), [(1, TaskState::Running)]);
    assert_eq!(actions, []);
}

#[test]
fn an_attempt_that_was_stored_and_never_started_is_started_under_its_name() {
    for found in [vec![], vec![container(1, 1, ContainerState::Created)]] {
        let mut bench = Bench::ready();
        bench.delta(1, 2, vec![wants_run(1, 2, always())]);
        bench.pulled();
        bench.restart();
        let (writes, actions) = bench.up(found);
        assert_eq!(writes, []);
        assert!(matches!(&actions[..], [Action::FindImage(_)]), "{actions:?}");
        let (_, actions) = bench.pulled();
        assert!(
            matches!(&actions[..], [Action::StartContainer(start)] if start.attempt == 1),
            "{actions:?}"
        );
    }
}

#[test]
fn an_end_while_nobody_looked_is_judged_by_the_policy() {
    let mut bench = Bench::running(policy(RestartMode::OnFailure, 5));
    bench.restart();
    let (writes, _) = bench.up(vec![container(1, 1, ContainerState::Ended(exit(3)))]);
    let [(2, TaskState::Preparing, Some(3), reason)] = &reports(&writes)[..] else {
        panic!("{writes:?}")
    };
    assert!(reason.starts_with("attempt 1 exited with code 3; restart in"), "{reason}");

    let mut bench = Bench::running(policy(RestartMode::OnFailure, 5));
    bench.restart();
    let (writes, actions) = bench.up(vec![container(1, 1, ContainerState::Ended(exit(0)))]);
    assert_eq!(states(&writes), [(1, TaskState::Completed)]);
    assert_eq!(actions, []);
}

#[test]
fn a_fenced_task_waits_for_the_leader_after_a_restart_of_the_worker() {
    let fenced = || {
        let mut wants = wants_run(1, 2, always());
        if let Want::Run(run) = &mut wants.want {
            run.epoch = Some(7);
        }
        wants
    };
    let running = || {
        let mut bench = Bench::ready();
        bench.delta(1, 2, vec![fenced()]);
        bench.pulled();
        bench.started(1, 1);
        bench.restart();
        bench
    };
    let pulls =
        |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::FindImage(_)));
    // The machine was off meanwhile, and an operator may have said so: another container may run elsewhere.
    let mut bench = running();
    let (writes, _) = bench.up(vec![container(1, 1, ContainerState::Ended(exit(255)))]);
    assert_eq!(states(&writes), [(2, TaskState::Preparing)]);
    assert!(!pulls(&bench.later(600_000).1));
    bench.join();
    assert!(!pulls(&bench.later(60_000).1));
    assert!(pulls(&bench.sync(2, vec![fenced()]).1), "it is still this worker's");
    // It is not: nothing of it ever starts.
    let mut bench = running();
    bench.up(vec![container(1, 1, ContainerState::Ended(exit(255)))]);
    bench.join();
    bench.sync(3, vec![]);
    assert!(!pulls(&bench.later(600_000).1));
    assert_eq!(bench.agent.tasks_running(), 0);
    // What runs has not ended, whoever says what: it is taken over.
    let mut bench = running();
    let (writes, actions) = bench.up(vec![container(1, 1, ContainerState::Running)]);
    assert_eq!((states(&writes), actions), (vec![], vec![]));
    assert_eq!(bench.agent.tasks_running(), 1);
}

#[test]
fn a_completed_task_is_not_run_again_after_a_restart_of_the_worker() {
    let mut bench = Bench::running(policy(RestartMode::Never, 0));
    bench.step(died(1, 1, 0));
    bench.restart();
    assert_eq!(bench.up(vec![container(1, 1, ContainerState::Ended(exit(0)))]), (vec![], vec![]));
    let (_, actions) = bench.join();
    let delivers = |action: &Action| matches!(action, Action::SendReports { reports, .. } if reports[0].state == TaskState::Completed);
    assert!(actions.iter().any(delivers), "what was held is told first: {actions:?}");
}

#[test]
fn a_back_off_begins_anew_and_its_count_is_kept() {
    let mut bench = Bench::running(policy(RestartMode::OnFailure, 2));
    bench.step(died(1, 1, 1));
    bench.restart();
    let (_, actions) = bench.up(vec![container(1, 1, ContainerState::Ended(exit(1)))]);
    assert_eq!(actions, []);
    assert_eq!(bench.record(1).unwrap().attempt, 2, "one end is one end");
    assert_eq!(bench.later(850).1, []);
    assert_eq!(bench.later(250).1.len(), 1);
    bench.pulled();
    bench.started(1, 2);
    bench.step(died(1, 2, 1));
    assert_eq!(bench.record(1).unwrap().restarts_at_ms.len(), 2);
}

#[test]
fn restarts_are_forgiven_across_a_restart_of_the_worker() {
    let mut bench = Bench::running(policy(RestartMode::OnFailure, 1));
    bench.step(died(1, 1, 1));
    bench.later(1_100);
    bench.pulled();
    bench.started(1, 2);
    bench.later(590_000);
    bench.restart();
    bench.up(vec![container(1, 2, ContainerState::Running)]);
    bench.later(20_000);
    let (writes, _) = bench.step(died(1, 2, 1));
    assert_eq!(states(&writes), [(3, TaskState::Preparing)]);
}

#[test]
fn an_old_attempt_that_runs_is_removed_before_the_next_starts() {
    let mut bench = Bench::running(always());
    bench.step(died(1, 1, 1));
    bench.restart();
    let (_, actions) = bench.up(vec![container(1, 1, ContainerState::Ended(exit(1)))]);
    assert_eq!(actions, [], "the kept one stays");
    let mut impostor = container(1, 1, ContainerState::Running);
    impostor.id = "impostor".into();
    let (_, actions) = bench.look(vec![container(1, 1, ContainerState::Ended(exit(1))), impostor]);
    assert!(actions.contains(&remove("impostor".into(), 10_000)), "{actions:?}");
}

#[test]
fn a_worker_that_lost_its_disk_adopts_what_runs_and_counts_on() {
    let mut bench = Bench::new(Saved::default());
    let running = container(1, 7, ContainerState::Running);
    bench.up(vec![running.clone()]);
    let (_, actions) = bench.join();
    let looked = ticket(&actions);
    bench.step(Input::Observed { ticket: looked, containers: vec![running.clone()] });
    let (_, actions) = bench.sync(9, vec![wants_run(1, 2, always())]);
    let looked = ticket(&actions);
    assert!(!actions.iter().any(|action| matches!(action, Action::FindImage(_))), "{actions:?}");
    let (writes, actions) =
        bench.step(Input::Observed { ticket: looked, containers: vec![running] });
    assert_eq!(states(&writes), [(7, TaskState::Running)]);
    assert_eq!(actions, []);
    let (writes, _) = bench.step(died(1, 7, 1));
    assert_eq!(states(&writes), [(8, TaskState::Preparing)]);
}

#[test]
fn attempts_count_from_above_the_floor() {
    let mut bench = Bench::ready();
    let mut assignment = wants_run(1, 2, always());
    let Want::Run(run) = &mut assignment.want else { panic!() };
    run.attempt_floor = 41;
    let (writes, _) = bench.delta(1, 2, vec![assignment]);
    assert_eq!(states(&writes), [(42, TaskState::Preparing)]);
}

#[test]
fn containers_of_unknown_tasks_are_removed_only_once_the_whole_set_was_seen() {
    let mut bench = Bench::running(always());
    bench.restart();
    let found =
        || vec![container(1, 1, ContainerState::Running), container(9, 2, ContainerState::Running)];
    assert_eq!(bench.up(found()).1, []);
    bench.join();
    let (_, actions) = bench.sync(2, vec![wants_run(1, 2, always())]);
    let looked = ticket(&actions);
    let (_, actions) = bench.step(Input::Observed { ticket: looked, containers: found() });
    assert_eq!(actions, [remove(container_id(9, 2), 10_000)]);
}

#[test]
fn containers_of_others_are_never_touched() {
    let mut bench = Bench::ready();
    let mut other_cluster = container(9, 1, ContainerState::Running);
    other_cluster.labels.insert(labels::CLUSTER.into(), Uuid::from_u128(7).to_string());
    let mut other_node = container(8, 1, ContainerState::Running);
    other_node.labels.insert(labels::NODE.into(), "n2".into());
    let mut nobodys = container(7, 1, ContainerState::Running);
    nobodys.labels.clear();
    let (writes, actions) = bench.look(vec![other_cluster, other_node, nobodys]);
    assert_eq!((writes, actions), (vec![], vec![]));
}

#[test]
fn while_the_runtime_is_away_nothing_is_judged_dead_and_nothing_is_tried() {
    let mut bench = Bench::running(always());
    let (writes, actions) =
        bench.step(Input::RuntimeDown { reason: "Docker does not answer".into() });
    assert_eq!((writes, actions), (vec![], vec![]));
    assert_eq!(bench.agent.runtime_error(), Some("Docker does not answer"));
    assert_eq!(bench.delta(2, 3, vec![wants_stop(1, 3)]).1, []);
    assert_eq!(bench.agent.next_wakeup(), None);
    let (writes, actions) = bench.up(vec![container(1, 1, ContainerState::Running)]);
    assert_eq!(states(&writes), [(1, TaskState::Stopping)]);
    assert_eq!(actions.len(), 1);
}

#[test]
fn a_runtime_that_lists_nothing_is_told_and_asked_again() {
    let mut bench = Bench::running(always());
    let (_, actions) = bench.later(runtime::OBSERVE_INTERVAL_MS);
    let ticket = ticket(&actions);
    bench.step(Input::ObserveFailed { ticket, reason: "listing took too long".into() });
    assert_eq!(bench.agent.runtime_error(), Some("listing took too long"));
    bench.later(runtime::OBSERVE_RETRY_MS - 1);
    let (_, actions) = bench.later(1);
    assert!(matches!(&actions[..], [Action::ListContainers { .. }]), "{actions:?}");
    bench.up(vec![container(1, 1, ContainerState::Running)]);
    assert_eq!(bench.agent.runtime_error(), None);
}

#[test]
fn a_start_whose_outcome_is_unknown_is_looked_at_again() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, always())]);
    bench.pulled();
    bench.step(Input::RuntimeDown { reason: "Docker does not answer".into() });
    let (writes, _) =
        bench.step(Input::Started { task: id(1), attempt: 1, result: Err(Failure::RuntimeAway) });
    assert_eq!(reports(&writes), [], "nothing is held against it");
    let (writes, actions) = bench.up(vec![container(1, 1, ContainerState::Running)]);
    assert_eq!(states(&writes), [(1, TaskState::Running)]);
    assert_eq!(actions, []);
}

#[test]
fn absence_in_a_list_that_is_older_than_the_start_proves_nothing() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, always())]);
    let (_, actions) = bench.later(runtime::OBSERVE_INTERVAL_MS);
    let old = ticket(&actions);
    bench.pulled();
    bench.started(1, 1);
    let (writes, _) = bench.step(Input::Observed { ticket: old, containers: vec![] });
    assert_eq!(reports(&writes), []);
    let (writes, _) = bench.look(vec![]);
    assert_eq!(states(&writes), [(2, TaskState::Preparing)], "in a newer one it does");
}

#[test]
fn a_list_from_before_the_runtime_came_back_does_not_count() {
    let mut bench = Bench::running(always());
    let (_, actions) = bench.step(Input::RuntimeUp);
    let old = ticket(&actions);
    bench.step(Input::RuntimeDown { reason: "events broke off".into() });
    bench.step(Input::RuntimeUp);
    assert_eq!(bench.step(Input::Observed { ticket: old, containers: vec![] }), (vec![], vec![]));
    assert_eq!(bench.agent.tasks_running(), 1);
}

#[test]
fn a_start_that_finds_its_container_ended_is_an_end_not_a_second_run() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, policy(RestartMode::Never, 0))]);
    bench.pulled();
    let found = StartedContainer { container_id: container_id(1, 1), ended: Some(exit(0)) };
    let (writes, actions) =
        bench.step(Input::Started { task: id(1), attempt: 1, result: Ok(found) });
    assert_eq!(states(&writes), [(1, TaskState::Running), (1, TaskState::Completed)]);
    assert_eq!(actions, []);
}

#[test]
fn an_end_of_another_container_of_the_same_attempt_is_not_this_ones() {
    let mut bench = Bench::running(always());
    let event = ContainerEvent {
        container_id: "removed-before".into(),
        labels: labels_of(1, 1),
        change: ContainerChange::Died(exit(137)),
    };
    assert_eq!(bench.step(Input::Container(event)), (vec![], vec![]));
    assert_eq!(bench.agent.tasks_running(), 1);
}

#[test]
fn what_was_created_and_is_no_longer_wanted_is_removed() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, always())]);
    bench.pulled();
    bench.restart();
    bench.up(vec![container(1, 1, ContainerState::Created)]);
    let (writes, actions) = bench.delta(2, 3, vec![wants_stop(1, 3)]);
    assert_eq!(states(&writes), [(1, TaskState::Stopped)]);
    assert_eq!(actions, [remove(owner(1, 1).container_name(), 10_000)]);
}

#[test]
fn a_list_that_is_older_than_an_end_does_not_lose_the_logs() {
    let mut bench = Bench::ready();
    let (_, actions) = bench.later(runtime::OBSERVE_INTERVAL_MS);
    let old = ticket(&actions);
    bench.delta(1, 2, vec![wants_run(1, 2, policy(RestartMode::Never, 0))]);
    bench.pulled();
    bench.started(1, 1);
    bench.step(died(1, 1, 0));
    // Whether it saw nothing yet, or saw it run.
    let mut other = Bench {
        agent: bench.agent.clone(),
        now: bench.now,
        store: bench.store.clone(),
        synced: bench.store.clone(),
    };
    bench.step(Input::Observed { ticket: old, containers: vec![] });
    let running = vec![container(1, 1, ContainerState::Running)];
    let (_, actions) = other.step(Input::Observed { ticket: old, containers: running });
    assert_eq!(actions, []);
    for mut bench in [bench, other] {
        assert_eq!(bench.agent.logs_of(id(1)).unwrap().container_id, Some(container_id(1, 1)));
        let (_, actions) = bench.look(vec![container(1, 1, ContainerState::Ended(exit(0)))]);
        assert!(
            !actions.iter().any(|action| matches!(action, Action::RemoveContainer { .. })),
            "{actions:?}"
        );
    }
}

#[test]
fn a_kept_container_that_runs_after_all_is_removed() {
    let mut bench = Bench::running(policy(RestartMode::Never, 0));
    bench.step(died(1, 1, 0));
    bench.deliver();
    let (_, actions) = bench.look(vec![container(1, 1, ContainerState::Running)]);
    assert_eq!(actions, [remove(container_id(1, 1), 10_000)]);
}

#[test]
fn kept_containers_that_are_gone_are_forgotten() {
    let mut bench = Bench::running(policy(RestartMode::Never, 0));
    bench.step(died(1, 1, 0));
    let (writes, _) = bench.look(vec![]);
    assert_eq!(writes, [Write::KeptDropped(1)]);
    bench.deliver();
    assert_eq!(bench.agent.logs_of(id(1)), Some(LogSource { container_id: None, goes_on: false }));
    assert_eq!(bench.agent.logs_of(id(2)), None);
}

#[test]
fn what_an_earlier_run_is_still_starting_is_neither_removed_nor_doubled() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, always())]);
    bench.pulled();
    bench.restart();
    bench.up(vec![container(1, 1, ContainerState::Created)]);
    let (writes, actions) = bench.up(vec![container(1, 1, ContainerState::Created)]);
    assert_eq!((writes, actions), (vec![], vec![]), "it is left where it is");
    let (writes, actions) = bench.up(vec![container(1, 1, ContainerState::Running)]);
    assert_eq!(states(&writes), [(1, TaskState::Running)], "and adopted when it runs");
    assert_eq!(actions, []);
    assert_eq!(bench.pulled(), (vec![], vec![]));
}

#[test]
fn an_end_that_a_list_has_not_seen_yet_is_not_lost() {
    let mut bench = Bench::running(policy(RestartMode::Never, 0));
    bench.restart();
    let (_, actions) = bench.step(Input::RuntimeUp);
    let looked = ticket(&actions);
    bench.step(died(1, 1, 3));
    let containers = vec![container(1, 1, ContainerState::Running)];
    let (writes, _) = bench.step(Input::Observed { ticket: looked, containers });
    assert_eq!(states(&writes), [(1, TaskState::Failed)]);
}

#[test]
fn a_container_that_was_started_again_from_outside_is_looked_for_and_removed() {
    let mut bench = Bench::running(always());
    bench.step(died(1, 1, 1));
    let started = |number, attempt| {
        Input::Container(ContainerEvent {
            container_id: container_id(number, attempt),
            labels: labels_of(number, attempt),
            change: ContainerChange::Started,
        })
    };
    // The first attempt's, while the second waits for its turn.
    bench.step(started(1, 1));
    let (_, actions) = bench.later(runtime::OBSERVE_RETRY_MS);
    let ticket = ticket(&actions);
    let runs = container(1, 1, ContainerState::Running);
    let (_, actions) = bench.step(Input::Observed { ticket, containers: vec![runs] });
    assert!(actions.contains(&remove(container_id(1, 1), 10_000)), "{actions:?}");
    let starts = |action: &Action| matches!(action, Action::StartContainer(_));
    assert!(!actions.iter().any(starts), "never two at once: {actions:?}");
}

#[test]
fn a_start_that_is_under_way_is_no_reason_to_look() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, always())]);
    bench.pulled();
    bench.step(Input::Container(ContainerEvent {
        container_id: container_id(1, 1),
        labels: labels_of(1, 1),
        change: ContainerChange::Started,
    }));
    bench.started(1, 1);
    let (_, actions) = bench.later(runtime::OBSERVE_RETRY_MS);
    let lists = |action: &Action| matches!(action, Action::ListContainers { .. });
    assert!(!actions.iter().any(lists), "{actions:?}");
}
