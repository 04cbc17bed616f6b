//! Revisions, changes, whole sets, clusters.

use longshore_proto::node::TaskKnown;

use super::*;

fn always() -> RestartPolicy {
    policy(RestartMode::Always, 5)
}

#[test]
fn joining_stores_the_cluster_and_asks_for_the_whole_set() {
    let mut bench = Bench::new(Saved::default());
    assert_eq!(bench.join(), (vec![Write::Cluster(cluster())], vec![Action::RequestSync]));
    assert_eq!(bench.agent.cluster_id(), Some(cluster()));
}

#[test]
fn a_change_that_fits_is_stored_with_its_first_attempt_before_anything_is_done() {
    let mut bench = Bench::ready();
    let (writes, actions) = bench.delta(1, 2, vec![wants_run(1, 2, always())]);
    let record = TaskRecord {
        task: id(1),
        revision: rev(2),
        run: Some(Box::new(run_task(always()))),
        stop: None,
        superseded: false,
        attempt: 1,
        state: TaskState::Preparing,
        container_id: None,
        restarts_at_ms: vec![],
        ports: Vec::new(),
        health: None,
        pulls_failed: 0,
        end: None,
    };
    let report = TaskReport {
        task: id(1),
        attempt: 1,
        state: TaskState::Preparing,
        boot_id: boot(),
        container_id: None,
        exit_code: None,
        reason: Some("pulling busybox:1 unless it is here".into()),
        ports: Vec::new(),
        health: None,
        pulls_failed: 0,
        at_ms: START_WALL_MS,
    };
    assert_eq!(
        writes,
        [Write::Report { sequence: 1, report }, Write::Revision(rev(2)), Write::Task(record)]
    );
    assert_eq!(actions, [Action::FindImage(busybox())]);
    assert_eq!(bench.agent.revision(), rev(2));
}

#[test]
fn a_leader_that_has_lost_what_was_delivered_is_told_again_by_the_whole_set() {
    let mut bench = Bench::running(always());
    let running = TaskKnown { task: id(1), attempt: 1, state: TaskState::Running };
    let preparing = TaskKnown { state: TaskState::Preparing, ..running };
    let told = |bench: &mut Bench, known| {
        let assignments = vec![wants_run(1, 2, always())];
        let (cluster_id, revision, known) = (cluster(), bench.agent.revision(), vec![known]);
        let set = FullSet { cluster_id, revision, assignments, known };
        let (writes, _) = bench.step(Input::Synced(set));
        reports(&writes)
            .into_iter()
            .map(|(attempt, state, ..)| (attempt, state))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&mut bench, running), vec![]);
    assert_eq!(told(&mut bench, preparing), vec![(1, TaskState::Running)]);
    assert_eq!(told(&mut bench, preparing), vec![], "its report is on its way");
}

#[test]
fn a_change_with_a_gap_changes_nothing_and_asks_for_the_whole_set() {
    let mut bench = Bench::ready();
    assert_eq!(
        bench.delta(2, 3, vec![wants_run(1, 3, always())]),
        (vec![], vec![Action::RequestSync])
    );
    assert_eq!(bench.delta(3, 4, vec![]), (vec![], vec![]), "one sync is under way");
    let (_, actions) = bench.sync(4, vec![wants_run(1, 3, always())]);
    assert!(
        actions.contains(&Action::RequestSync),
        "and another follows, because more was missed: {actions:?}"
    );
    assert_eq!(bench.agent.revision(), rev(4));
}

#[test]
fn a_change_that_was_seen_does_nothing() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, always())]);
    assert_eq!(bench.delta(1, 2, vec![wants_run(1, 2, always())]), (vec![], vec![]));
}

#[test]
fn a_hint_leads_to_a_sync_only_where_the_revision_differs() {
    let mut bench = Bench::ready();
    assert_eq!(bench.delta(1, 1, vec![]), (vec![], vec![]));
    assert_eq!(bench.delta(9, 9, vec![]), (vec![], vec![Action::RequestSync]));
    // The leader sees another digest at the same revision: it names a revision that cannot be ours.
    let mut bench = Bench::ready();
    assert_eq!(bench.delta(0, 1, vec![]), (vec![], vec![Action::RequestSync]));
}

#[test]
fn another_leaders_answer_leads_to_a_look_at_what_it_knows() {
    let at = |epoch, index| Some(Revision { epoch, index });
    let acked = |known| Input::ReportsAcked { through: 0, known };
    let mut bench = Bench::ready();
    assert_eq!(bench.step(acked(None)), (vec![], vec![]));
    assert_eq!(bench.step(acked(at(1, 7))), (vec![], vec![]));
    assert_eq!(bench.agent.answered(), at(1, 7), "each heartbeat says so");
    assert_eq!(bench.step(acked(at(2, 6))), (vec![], vec![Action::RequestSync]));
    assert_eq!(bench.agent.answered(), at(1, 7), "until it is clear what the new leader knows");
    let set = FullSet {
        cluster_id: cluster(),
        revision: bench.agent.revision(),
        assignments: vec![],
        known: vec![],
    };
    bench.step(Input::Synced(set));
    assert_eq!(bench.agent.answered(), None);
}

#[test]
fn another_cluster_changes_nothing_and_raises_one_alarm() {
    let mut bench = Bench::running(always());
    let other = ClusterId(Uuid::from_u128(7));
    let delta = AssignDelta {
        cluster_id: other,
        previous: rev(2),
        revision: rev(3),
        changes: vec![wants_stop(1, 3)],
    };
    let (writes, actions) = bench.step(Input::Delta(delta.clone()));
    assert_eq!(writes, []);
    assert!(
        matches!(&actions[..], [Action::Alarm(text)] if text.contains("another")),
        "{actions:?}"
    );
    assert_eq!(
        bench.step(Input::Delta(delta)),
        (vec![], vec![]),
        "the alarm is not repeated at once"
    );
    let set = FullSet { cluster_id: other, revision: rev(3), assignments: vec![], known: vec![] };
    assert_eq!(bench.step(Input::Synced(set)), (vec![], vec![]));
    assert_eq!(bench.step(Input::Registered { cluster_id: other }), (vec![], vec![]));
    assert_eq!(bench.agent.tasks_running(), 1);
}

#[test]
fn a_manager_of_the_past_changes_nothing_and_raises_an_alarm() {
    let mut bench = Bench::running(always());
    bench.delta(2, 8, vec![]);
    let (writes, actions) = bench.delta(4, 5, vec![wants_stop(1, 5)]);
    assert_eq!(writes, []);
    assert!(matches!(&actions[..], [Action::Alarm(text)] if text.contains("1.5")), "{actions:?}");
    bench.delta(9, 9, vec![]);
    assert_eq!(bench.sync(3, vec![]), (vec![], vec![]), "a whole set of the past is no set");
    assert_eq!(bench.agent.revision(), rev(8));
    assert_eq!(bench.agent.tasks_running(), 1);
}

#[test]
fn a_set_that_changes_overtook_is_asked_for_again_without_an_alarm() {
    let mut bench = Bench::ready();
    bench.join();
    bench.delta(1, 2, vec![wants_run(1, 2, always())]);
    assert_eq!(bench.sync(1, vec![]), (vec![], vec![Action::RequestSync]));
    assert_eq!(bench.agent.revision(), rev(2));
}

#[test]
fn a_task_ignores_an_older_assignment() {
    let mut bench = Bench::running(always());
    bench.delta(2, 5, vec![wants_run(1, 5, always())]);
    let (_, actions) = bench.delta(5, 6, vec![wants_stop(1, 4)]);
    assert_eq!(actions, []);
    assert_eq!(bench.record(1).unwrap().stop, None);
}

#[test]
fn a_task_that_the_whole_set_does_not_have_is_ended_and_forgotten_without_a_word() {
    let mut bench = Bench::running(always());
    let (writes, actions) = bench.sync(3, vec![]);
    assert_eq!(reports(&writes), []);
    assert_eq!(
        actions,
        [Action::StopContainer { container_id: container_id(1, 1), grace_ms: 10_000 }]
    );
    assert_eq!(bench.agent.digest(), 0, "it is no member any more");
    let (writes, actions) =
        bench.step(Input::Stopped { container_id: container_id(1, 1), result: Ok(exit(143)) });
    assert_eq!(reports(&writes), []);
    assert!(writes.contains(&Write::TaskForgotten(id(1))));
    assert_eq!(actions, []);
}

#[test]
fn a_superseded_task_that_is_assigned_anew_waits_for_its_old_container() {
    let mut bench = Bench::running(always());
    bench.sync(3, vec![]);
    let (_, actions) = bench.delta(3, 4, vec![wants_run(1, 4, always())]);
    assert_eq!(actions, [], "the first attempt is still being ended");
    let (writes, actions) = bench.step(died(1, 1, 143));
    assert_eq!(actions, []);
    assert_eq!(reports(&writes)[0].0, 2, "and the second follows it");
    // Forgotten already, its attempts count on all the same.
    let mut bench = Bench::running(always());
    bench.sync(3, vec![]);
    bench.step(died(1, 1, 143));
    let (writes, _) = bench.delta(3, 4, vec![wants_run(1, 4, always())]);
    assert!(reports(&writes)[0].0 > 1, "{writes:?}");
}

#[test]
fn a_stop_of_an_unknown_task_is_answered() {
    let mut bench = Bench::ready();
    let (writes, actions) = bench.delta(1, 2, vec![wants_stop(1, 2)]);
    assert_eq!(reports(&writes), [(1, TaskState::Stopped, None, "job stopped".into())]);
    assert_eq!(actions, []);
    bench.deliver();
    assert_eq!(bench.record(1), None);
}

#[test]
fn a_task_that_has_ended_is_not_run_again_by_a_late_message() {
    let mut bench = Bench::running(policy(RestartMode::Never, 0));
    bench.step(died(1, 1, 0));
    assert_eq!(bench.deliver().len(), 1);
    let (writes, actions) = bench.sync(2, vec![wants_run(1, 2, always())]);
    assert_eq!(actions, []);
    assert_eq!(reports(&writes), [(1, TaskState::Completed, Some(0), "exited with code 0".into())]);
    let (writes, _) = bench.sync(2, vec![wants_run(1, 2, always())]);
    assert_eq!(reports(&writes), [], "its end is on its way");
    bench.deliver();
    bench.restart();
    bench.up(vec![]);
    bench.join();
    let (writes, actions) = bench.sync(2, vec![wants_run(1, 2, always())]);
    assert_eq!(reports(&writes).len(), 1);
    assert!(!actions.iter().any(|action| matches!(action, Action::FindImage(_))), "{actions:?}");
}

#[test]
fn the_digest_covers_what_has_not_ended_as_far_as_the_leader_knows() {
    let mut bench = Bench::running(policy(RestartMode::Never, 0));
    let one = set_digest([(&id(1), rev(2))]);
    assert_eq!(bench.agent.digest(), one);
    bench.step(died(1, 1, 0));
    assert_eq!(bench.agent.digest(), one, "its end is not told yet");
    bench.deliver();
    assert_eq!(bench.agent.digest(), 0);
}

#[test]
fn a_failed_sync_is_tried_again() {
    let mut bench = Bench::new(Saved::default());
    bench.join();
    assert_eq!(bench.step(Input::SyncFailed).1, []);
    assert_eq!(bench.agent.next_wakeup(), Some(Time(2_000)));
    assert_eq!(bench.later(1_000).1, [Action::RequestSync]);
}
