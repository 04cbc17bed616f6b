//! Health: when a task is asked, what is told, and what follows.

use longshore_proto::health::{Health, HealthCheck, HealthReport, Probe};

use super::*;

fn wants_check(number: u128, index: u64, restart: RestartPolicy) -> Assignment {
    let mut run = run_task(restart);
    let check = HealthCheck { retries: 2, ..HealthCheck::usual(Probe::Tcp { port: "80".into() }) };
    run.spec.health = Some(check);
    Assignment { task: id(number), revision: rev(index), want: Want::Run(Box::new(run)) }
}

/// A task that runs and has a check.
fn checked(restart: RestartPolicy) -> Bench {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_check(1, 2, restart)]);
    bench.pulled();
    bench.started(1, 1);
    bench
}

fn always() -> RestartPolicy {
    policy(RestartMode::Always, 5)
}

/// Lets the next question come up, and answers it.
fn answer(bench: &mut Bench, attempt: u64, result: Result<(), &str>) -> (Vec<Write>, Vec<Action>) {
    let (_, actions) = bench.later(10_000);
    assert!(actions.iter().any(|action| matches!(action, Action::ProbeTask(_))), "{actions:?}");
    let result = result.map_err(|why| Failure::Refused(why.to_owned()));
    bench.step(Input::Probed { task: id(1), attempt, result })
}

fn health(bench: &Bench) -> Option<HealthReport> {
    bench.record(1).and_then(|record| record.health)
}

#[test]
fn a_task_is_starting_until_it_is_found_to_be_healthy_and_each_change_is_told_once() {
    let mut bench = checked(always());
    assert_eq!(health(&bench), Some(HealthReport { status: Health::Starting, sequence: 1 }));
    let mut told = bench.deliver();
    let (writes, _) = answer(&mut bench, 1, Ok(()));
    assert_eq!(reports(&writes), [(1, TaskState::Running, None, "healthy".to_owned())]);
    assert_eq!(health(&bench), Some(HealthReport { status: Health::Healthy, sequence: 2 }));
    told.extend(bench.deliver());
    let (writes, _) = answer(&mut bench, 1, Ok(()));
    assert_eq!(writes, []);
    let told: Vec<_> = told.iter().filter_map(|report| report.health).collect();
    assert_eq!(told.iter().map(|health| health.sequence).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn an_unhealthy_task_is_ended_and_started_again_however_well_it_ended() {
    let mut bench = checked(policy(RestartMode::OnFailure, 5));
    answer(&mut bench, 1, Ok(()));
    answer(&mut bench, 1, Err("connection refused"));
    let (writes, actions) = answer(&mut bench, 1, Err("connection refused"));
    let reason = "unhealthy (connection refused)".to_owned();
    assert_eq!(
        reports(&writes),
        [(1, TaskState::Running, None, reason.clone()), (1, TaskState::Stopping, None, reason)]
    );
    assert!(actions.iter().any(|action| matches!(action, Action::StopContainer { .. })));
    let stopped = Input::Stopped { container_id: container_id(1, 1), result: Ok(exit(0)) };
    let (writes, _) = bench.step(stopped);
    let (attempt, state, code, reason) = reports(&writes).remove(0);
    assert_eq!((attempt, state, code), (2, TaskState::Preparing, Some(0)));
    assert!(
        reason
            .starts_with("attempt 1 was unhealthy (connection refused), and was ended; restart in")
    );
    assert_eq!(health(&bench), None);
}

#[test]
fn where_the_policy_allows_no_restart_unhealthy_is_failed() {
    let mut bench = checked(policy(RestartMode::Never, 0));
    for _ in 0..2 {
        answer(&mut bench, 1, Err("status 500"));
    }
    let stopped = Input::Stopped { container_id: container_id(1, 1), result: Ok(exit(0)) };
    let (writes, _) = bench.step(stopped);
    let (_, state, _, reason) = reports(&writes).remove(0);
    assert_eq!(state, TaskState::Failed);
    assert_eq!(reason, "was unhealthy (status 500), and was ended");
}

#[test]
fn an_answer_that_comes_too_late_or_says_nothing_changes_nothing() {
    let mut bench = checked(always());
    answer(&mut bench, 1, Ok(()));
    for _ in 0..5 {
        bench.later(10_000);
        let away = Input::Probed { task: id(1), attempt: 1, result: Err(Failure::RuntimeAway) };
        assert_eq!(bench.step(away).0, []);
    }
    bench.step(died(1, 1, 1));
    let late = Input::Probed { task: id(1), attempt: 1, result: Err(Failure::Refused("x".into())) };
    assert_eq!(bench.step(late).0, []);
}

#[test]
fn a_worker_that_went_down_while_it_ended_an_unhealthy_task_goes_on_with_it() {
    let mut bench = checked(always());
    for _ in 0..2 {
        answer(&mut bench, 1, Err("status 500"));
    }
    bench.restart();
    bench.join();
    bench.sync(2, vec![wants_check(1, 2, always())]);
    let (_, actions) = bench.up(vec![container(1, 1, ContainerState::Running)]);
    assert!(
        actions.iter().any(|action| matches!(action, Action::StopContainer { .. })),
        "{actions:?}"
    );
}

#[test]
fn what_was_found_is_known_after_a_restart_of_the_worker() {
    let mut bench = checked(always());
    answer(&mut bench, 1, Ok(()));
    bench.deliver();
    bench.restart();
    bench.join();
    bench.sync(2, vec![wants_check(1, 2, always())]);
    bench.up(vec![container(1, 1, ContainerState::Running)]);
    assert_eq!(health(&bench), Some(HealthReport { status: Health::Healthy, sequence: 2 }));
    assert_eq!(bench.deliver(), []);
    answer(&mut bench, 1, Err("x"));
    answer(&mut bench, 1, Err("x"));
    assert_eq!(health(&bench), Some(HealthReport { status: Health::Unhealthy, sequence: 3 }));
}
