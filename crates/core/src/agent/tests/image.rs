//! How a task comes to its image, and what becomes of it when it cannot be had.

use longshore_proto::spec::PullPolicy;

use super::*;
use crate::agent::task::PULL_TRIES_MAX;

fn wants(number: u128, pull: PullPolicy, mode: RestartMode) -> Assignment {
    let mut wish = wants_run(number, 2, policy(mode, 5));
    let Want::Run(run) = &mut wish.want else { panic!("{wish:?}") };
    run.spec.pull = pull;
    wish
}

fn looks(actions: &[Action]) -> bool {
    actions.contains(&Action::FindImage(busybox()))
}

#[test]
fn many_tasks_share_one_look_and_one_fetch() {
    let mut bench = Bench::ready();
    let tasks = |pull| (1..=3).map(|n| wants(n, pull, RestartMode::Always)).collect();
    let (_, actions) = bench.delta(1, 2, tasks(PullPolicy::IfMissing));
    assert_eq!(actions, [Action::FindImage(busybox())]);
    let (_, actions) = bench.missing();
    assert_eq!(actions, [Action::FetchImage(busybox())]);
    let (_, actions) = bench.fetched(Ok(()));
    assert_eq!(actions.len(), 3, "{actions:?}");
}

#[test]
fn a_task_that_comes_while_its_image_is_fetched_waits_for_that() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants(1, PullPolicy::IfMissing, RestartMode::Always)]);
    bench.missing();
    let mut late = wants_run(2, 3, policy(RestartMode::Always, 5));
    late.revision = rev(3);
    let (_, actions) = bench.delta(2, 3, vec![late]);
    assert_eq!(actions, [Action::FindImage(busybox())]);
    assert_eq!(bench.missing().1, [], "it is under way");
    assert_eq!(bench.fetched(Ok(())).1.len(), 2);
}

#[test]
fn the_same_image_for_another_platform_or_with_another_login_is_another_errand() {
    let mut bench = Bench::ready();
    let mut other = wants(2, PullPolicy::IfMissing, RestartMode::Always);
    let Want::Run(run) = &mut other.want else { panic!("{other:?}") };
    run.spec.container.platform = Some("linux/arm64".parse().unwrap());
    run.spec.container.registry_login = Some("team".parse().unwrap());
    let wish = ImageWish::of(&run.spec);
    let tasks = vec![wants(1, PullPolicy::IfMissing, RestartMode::Always), other];
    let (_, actions) = bench.delta(1, 2, tasks);
    assert_eq!(actions, [Action::FindImage(busybox()), Action::FindImage(wish.clone())]);
    let (_, actions) = bench.pulled();
    assert!(matches!(&actions[..], [Action::StartContainer(start)] if start.task == id(1)));
    let found = Input::ImageLookedFor { wish, result: Ok(Some("sha256:2".into())) };
    let (_, actions) = bench.step(found);
    assert!(matches!(&actions[..], [Action::StartContainer(start)] if start.task == id(2)));
}

#[test]
fn the_pull_policy_says_what_follows_a_look() {
    for (pull, is_here, fetches) in [
        (PullPolicy::IfMissing, true, false),
        (PullPolicy::IfMissing, false, true),
        (PullPolicy::Always, true, true),
        (PullPolicy::Always, false, true),
        (PullPolicy::Never, true, false),
    ] {
        let mut bench = Bench::ready();
        bench.delta(1, 2, vec![wants(1, pull, RestartMode::Always)]);
        let (_, actions) = if is_here { bench.pulled() } else { bench.missing() };
        assert_eq!(actions == [Action::FetchImage(busybox())], fetches, "{pull:?} {is_here}");
        assert_eq!(actions.len(), 1, "{actions:?}");
    }
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants(1, PullPolicy::Never, RestartMode::Always)]);
    let (writes, actions) = bench.missing();
    let [(1, TaskState::Failed, None, reason)] = &reports(&writes)[..] else {
        panic!("{writes:?}")
    };
    assert!(reason.contains("busybox:1 is not on this node"), "{reason}");
    assert_eq!(actions, []);
}

#[test]
fn what_may_pass_by_itself_is_tried_again_and_told_and_is_no_restart() {
    // Not even a task that is never restarted is given up for it.
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants(1, PullPolicy::IfMissing, RestartMode::Never)]);
    bench.missing();
    for failed in 1..PULL_TRIES_MAX {
        let (writes, actions) = bench.fetched(Err(refused("busybox:1: the registry is away")));
        let reason = format!("busybox:1: the registry is away; trying again, {} of 6", failed + 1);
        assert_eq!(reports(&writes), [(1, TaskState::Preparing, None, reason)]);
        assert!(!looks(&actions), "{actions:?}");
        let record = bench.record(1).unwrap();
        assert_eq!((record.pulls_failed, record.attempt), (failed, 1));
        assert_eq!(record.restarts_at_ms, [0; 0]);
        let wait_ms = 5_000 << (failed - 1);
        let (_, actions) = bench.later(wait_ms - wait_ms / 10 - 100);
        assert!(!looks(&actions), "try {failed} came too early");
        let (_, actions) = bench.later(wait_ms / 5 + 200);
        assert!(looks(&actions), "try {failed} came too late: {actions:?}");
        bench.missing();
    }
    let (writes, _) = bench.fetched(Err(refused("busybox:1: the registry is away")));
    let reason = "could not start: busybox:1: the registry is away (tried 6 times)".to_owned();
    assert_eq!(reports(&writes), [(1, TaskState::Failed, None, reason)]);
}

#[test]
fn an_image_that_comes_late_is_started_in_the_same_attempt_and_the_next_one_counts_anew() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants(1, PullPolicy::IfMissing, RestartMode::Always)]);
    bench.missing();
    bench.fetched(Err(refused("the registry is away")));
    bench.later(6_000);
    bench.missing();
    let (_, actions) = bench.fetched(Ok(()));
    assert!(matches!(&actions[..], [Action::StartContainer(start)] if start.attempt == 1));
    bench.started(1, 1);
    bench.step(died(1, 1, 1));
    let record = bench.record(1).unwrap();
    assert_eq!((record.attempt, record.pulls_failed), (2, 0));
}

#[test]
fn what_does_not_pass_gives_the_task_up_at_once() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants(1, PullPolicy::IfMissing, RestartMode::Always)]);
    bench.missing();
    let gone = Failure::Forbidden("there is no image busybox:1 in its registry".into());
    let (writes, actions) = bench.fetched(Err(gone));
    let reason = "could not start: there is no image busybox:1 in its registry".to_owned();
    assert_eq!(reports(&writes), [(1, TaskState::Failed, None, reason)]);
    assert_eq!(actions, []);
}

#[test]
fn a_task_is_stopped_while_its_image_is_waited_for() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants(1, PullPolicy::IfMissing, RestartMode::Always)]);
    bench.missing();
    bench.fetched(Err(refused("the registry is away")));
    let (writes, _) = bench.delta(2, 3, vec![wants_stop(1, 3)]);
    let last = reports(&writes).pop().unwrap();
    assert_eq!((last.1, last.3.as_str()), (TaskState::Stopped, "job stopped"));
    assert!(!looks(&bench.later(10_000).1));
}

#[test]
fn a_worker_that_starts_again_goes_on_with_the_tries() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants(1, PullPolicy::IfMissing, RestartMode::Always)]);
    bench.missing();
    bench.fetched(Err(refused("the registry is away")));
    bench.restart();
    bench.join();
    let (_, actions) = bench.up(vec![]);
    assert!(!looks(&actions), "{actions:?}");
    assert!(looks(&bench.later(5_500).1));
    assert_eq!(bench.record(1).unwrap().pulls_failed, 1);
}
