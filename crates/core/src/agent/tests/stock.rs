//! When images and volumes go that were brought for tasks, and when ended containers do.

use longshore_proto::container::ContainerSpec;
use longshore_proto::spec::{Mount, MountSource, PullPolicy};

use super::*;
use crate::agent::stock::ROUND_MS;

const DAY_MS: u64 = 24 * 3_600_000;

fn image() -> StockItem {
    StockItem::Image("busybox:1".into())
}

fn volume() -> StockItem {
    StockItem::Volume("cache".into())
}

/// A task that ran with an image that was fetched for it, and a volume, and has ended.
fn over(keeping: Keeping) -> Bench {
    let mut bench = Bench::with(Settings { keeping, ..Settings::default() });
    let mut wish = wants_run(1, 2, policy(RestartMode::Never, 0));
    let Want::Run(run) = &mut wish.want else { panic!("{wish:?}") };
    let source = MountSource::Volume { name: "cache".into() };
    run.spec.mounts = vec![Mount { target: "/cache".into(), source, read_only: false }];
    bench.delta(1, 2, vec![wish]);
    bench.missing();
    bench.fetched(Ok(()));
    bench.started(1, 1);
    bench.deliver();
    assert_eq!(
        measured(&mut bench, 99),
        [],
        "a running task's image stays however full the disk is"
    );
    bench.step(died(1, 1, 0));
    bench.deliver();
    bench
}

/// The disk is measured: what is to be removed.
fn measured(bench: &mut Bench, used_percent: u8) -> Vec<StockItem> {
    let (_, actions) = bench.step(Input::DiskMeasured { used_percent });
    actions
        .into_iter()
        .filter_map(|action| match action {
            Action::RemoveStock { item, .. } => Some(item),
            _ => None,
        })
        .collect()
}

fn removed(bench: &mut Bench, item: StockItem, result: Result<(), Failure>) -> Vec<Action> {
    bench.step(Input::StockRemoved { item, result }).1
}

#[test]
fn the_disk_is_looked_at_once_a_minute() {
    let mut bench = Bench::ready();
    let looks = |actions: &[Action]| actions.contains(&Action::MeasureDisk);
    assert!(!looks(&bench.later(ROUND_MS - 1_000).1));
    assert!(looks(&bench.later(1_000).1));
    assert!(!looks(&bench.later(ROUND_MS - 1).1));
    assert!(looks(&bench.later(1).1));
}

#[test]
fn an_image_goes_when_it_was_not_needed_for_long_and_a_volume_only_where_that_is_said() {
    let mut bench = over(Keeping::default());
    assert_eq!(measured(&mut bench, 10), []);
    bench.later(7 * DAY_MS - 1_000);
    assert_eq!(measured(&mut bench, 10), []);
    bench.later(1_000);
    assert_eq!(measured(&mut bench, 10), [image()]);
    assert_eq!(measured(&mut bench, 10), [], "one at a time");
    assert_eq!(removed(&mut bench, image(), Ok(())), [Action::MeasureDisk]);
    assert_eq!(measured(&mut bench, 99), []);
    bench.later(1_000 * DAY_MS);
    assert_eq!(measured(&mut bench, 99), [], "a volume holds data");
    assert_eq!(bench.saved().stock.len(), 1);

    let mut bench =
        over(Keeping { volumes_ms: Some(DAY_MS), images_ms: None, ..Keeping::default() });
    bench.later(DAY_MS);
    assert_eq!(measured(&mut bench, 10), [volume()]);
    let not_ours = Err(Failure::Forbidden("it was not made for this cluster".into()));
    removed(&mut bench, volume(), not_ours);
    assert_eq!(measured(&mut bench, 10), [], "and is not thought of again");
    assert_eq!(bench.saved().stock.len(), 1, "the image stays until the disk is full");
}

#[test]
fn what_was_here_before_is_never_removed() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, policy(RestartMode::Never, 0))]);
    bench.pulled();
    bench.started(1, 1);
    bench.step(died(1, 1, 0));
    bench.deliver();
    bench.later(1_000 * DAY_MS);
    assert_eq!(measured(&mut bench, 99), []);
}

#[test]
fn an_image_is_noted_before_it_is_fetched_so_that_a_crash_does_not_disown_it() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, policy(RestartMode::Never, 0))]);
    let (writes, actions) = bench.missing();
    assert!(matches!(&writes[..], [Write::Stock(record)] if record.item == image()), "{writes:?}");
    assert_eq!(actions, [Action::FetchImage(busybox())]);
    // The fetch ends while the worker is down.
    bench.restart();
    bench.join();
    bench.sync(3, vec![wants_stop(1, 3)]);
    bench.up(vec![]);
    bench.deliver();
    bench.later(7 * DAY_MS);
    assert_eq!(measured(&mut bench, 10), [image()]);
}

#[test]
fn an_image_that_could_not_be_fetched_is_not_ours_when_somebody_else_brings_it() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, policy(RestartMode::Never, 0))]);
    bench.missing();
    let (writes, _) = bench.fetched(Err(refused("the registry is away")));
    assert!(writes.contains(&Write::StockDropped(image())), "{writes:?}");
    assert_eq!(bench.saved().stock, []);
}

#[test]
fn a_fetch_that_a_crash_cut_short_makes_nothing_ours_that_somebody_else_brings() {
    let refused = || Err(refused("the registry is away"));
    let wants = || wants_run(1, 2, policy(RestartMode::Never, 0));
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants()]);
    bench.missing();
    bench.restart();
    bench.join();
    bench.sync(2, vec![wants()]);
    bench.up(vec![]);
    assert_eq!(noted(&bench), [image()], "it may have come to its end");
    // It has not, and the next one does not either.
    bench.missing();
    assert_eq!(noted(&bench), [image()], "it is under way again");
    bench.fetched(refused());
    assert_eq!(noted(&bench), []);

    // What was brought is ours, whatever else fails; also where a look is answered late.
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants()]);
    bench.missing();
    bench.fetched(Ok(()));
    let (other, wish) =
        wants_image(2, 3, |container| container.registry_login = Some("team".parse().unwrap()));
    bench.delta(2, 3, vec![other]);
    bench.step(Input::ImageLookedFor { wish: wish.clone(), result: Ok(None) });
    bench.step(Input::ImageFetched { wish, result: refused() });
    assert_eq!(noted(&bench), [image()]);
}

/// A task that wants the usual image as nobody else does.
fn wants_image(
    number: u128,
    index: u64,
    change: impl Fn(&mut ContainerSpec),
) -> (Assignment, ImageWish) {
    let mut wants = wants_run(number, index, policy(RestartMode::Never, 0));
    let Want::Run(run) = &mut wants.want else { panic!("{wants:?}") };
    change(&mut run.spec.container);
    let wish = ImageWish::of(&run.spec);
    (wants, wish)
}

fn noted(bench: &Bench) -> Vec<StockItem> {
    bench.saved().stock.into_iter().map(|record| record.item).collect()
}

#[test]
fn a_fetch_that_fails_does_not_disown_what_another_brings() {
    let (own, wish) = wants_image(1, 2, |_| {});
    let (with_login, wish_with_login) =
        wants_image(2, 2, |container| container.registry_login = Some("team".parse().unwrap()));
    let in_order = [wish.clone(), wish_with_login.clone()];
    let turned = [wish_with_login.clone(), wish.clone()];
    for answered in [&in_order, &turned] {
        for comes in [Some(&wish), Some(&wish_with_login), None] {
            let mut bench = Bench::ready();
            bench.delta(1, 2, vec![own.clone(), with_login.clone()]);
            for wish in &in_order {
                bench.step(Input::ImageLookedFor { wish: wish.clone(), result: Ok(None) });
            }
            for wish in answered {
                // A worker that dies here must know what the fetch brings that is still under way.
                assert_eq!(noted(&bench), [image()], "{answered:?}, {comes:?} comes");
                let refused = Failure::Forbidden("the registry refuses this node's login".into());
                let result = if comes == Some(wish) { Ok(()) } else { Err(refused) };
                bench.step(Input::ImageFetched { wish: wish.clone(), result });
            }
            let ours = if comes.is_some() { vec![image()] } else { vec![] };
            assert_eq!(noted(&bench), ours, "{answered:?}, {comes:?} comes");
        }
    }
}

#[test]
fn a_fetch_for_another_platform_that_fails_does_not_disown_what_is_here() {
    let mut bench = Bench::ready();
    let (own, _) = wants_image(1, 2, |_| {});
    bench.delta(1, 2, vec![own]);
    bench.missing();
    bench.fetched(Ok(()));
    bench.started(1, 1);
    let (other, wish) =
        wants_image(2, 3, |container| container.platform = Some("linux/arm64".parse().unwrap()));
    bench.delta(2, 3, vec![other]);
    bench.step(Input::ImageLookedFor { wish: wish.clone(), result: Ok(None) });
    let gone = Failure::Forbidden("its registry has no such image for that platform".into());
    bench.step(Input::ImageFetched { wish, result: Err(gone) });
    assert_eq!(noted(&bench), [image()]);
}

#[test]
fn what_a_tag_of_ours_has_left_behind_goes_like_any_image() {
    let always = |number, index| {
        let mut wish = wants_run(number, index, policy(RestartMode::Never, 0));
        let Want::Run(run) = &mut wish.want else { panic!("{wish:?}") };
        run.spec.pull = PullPolicy::Always;
        wish
    };
    let before = StockItem::Image("sha256:1".into());
    // The tag was somebody else's: so is what it leaves.
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![always(1, 2)]);
    let (_, actions) = bench.pulled();
    assert_eq!(actions, [Action::FetchImage(busybox())]);
    assert_eq!(bench.saved().stock, []);
    // And here it is ours.
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![always(1, 2)]);
    bench.missing();
    bench.fetched(Ok(()));
    bench.started(1, 1);
    bench.delta(2, 3, vec![always(2, 3)]);
    bench.pulled();
    assert_eq!(measured(&mut bench, 99), [], "until the fetch is over it has its name");
    bench.fetched(Ok(()));
    bench.started(2, 1);
    let items: Vec<StockItem> = bench.saved().stock.into_iter().map(|known| known.item).collect();
    assert_eq!(items, [image(), before.clone()]);
    let taken = measured(&mut bench, 99);
    assert_eq!(taken, std::slice::from_ref(&before), "the tag's own is needed");
    // Its tag has not moved on, so that it has a name and is not ours to take.
    removed(&mut bench, before, Err(Failure::Forbidden("it has a name".into())));
    assert_eq!(measured(&mut bench, 99), []);
}

#[test]
fn what_is_being_fetched_stays_although_its_task_has_gone() {
    let mut bench = Bench::ready();
    bench.delta(1, 2, vec![wants_run(1, 2, policy(RestartMode::Never, 0))]);
    bench.missing();
    bench.delta(2, 3, vec![wants_stop(1, 3)]);
    assert_eq!(measured(&mut bench, 99), []);
    bench.fetched(Ok(()));
    assert_eq!(measured(&mut bench, 99), [image()]);
}

#[test]
fn on_a_full_disk_images_go_at_once_and_then_the_older_ended_containers() {
    let mut bench = over(Keeping::default());
    assert_eq!(measured(&mut bench, 84), []);
    assert_eq!(measured(&mut bench, 85), [image()]);
    // Somebody else's container uses it: it is left alone for a while, and others get their turn.
    removed(&mut bench, image(), Err(Failure::Refused("in use".into())));
    let (writes, actions) = bench.step(Input::DiskMeasured { used_percent: 85 });
    assert_eq!(actions, [remove(container_id(1, 1), 0)]);
    assert!(matches!(writes[..], [Write::KeptDropped(_)]), "{writes:?}");
    assert_eq!(measured(&mut bench, 85), []);
    bench.later(5 * ROUND_MS);
    assert_eq!(measured(&mut bench, 85), [image()]);
    // What the runtime did not answer is asked again.
    assert_eq!(removed(&mut bench, image(), Err(Failure::RuntimeAway)), []);
    assert_eq!(measured(&mut bench, 85), [image()]);
}

#[test]
fn a_task_that_needs_an_image_which_is_leaving_waits_and_has_it_fetched_anew() {
    let mut bench = over(Keeping::default());
    assert_eq!(measured(&mut bench, 99), [image()]);
    let (_, actions) = bench.delta(2, 3, vec![wants_run(2, 3, policy(RestartMode::Never, 0))]);
    let pulls = |action: &Action| matches!(action, Action::FindImage(_));
    assert!(!actions.iter().any(pulls), "{actions:?}");
    let actions = removed(&mut bench, image(), Ok(()));
    assert!(actions.iter().any(pulls), "{actions:?}");
    assert_eq!(measured(&mut bench, 99), [], "it is needed again");
}

#[test]
fn a_worker_that_starts_again_knows_what_it_brought_and_when_it_was_needed() {
    let mut bench = over(Keeping::default());
    measured(&mut bench, 10);
    bench.restart();
    bench.join();
    bench.up(vec![]);
    bench.later(7 * DAY_MS - 1_000_000);
    assert_eq!(measured(&mut bench, 10), []);
    bench.later(1_000_000);
    assert_eq!(measured(&mut bench, 10), [image()]);
}

#[test]
fn ended_containers_are_kept_for_a_day() {
    let mut bench = over(Keeping::default());
    bench.later(DAY_MS - 1_000);
    bench.step(Input::DiskMeasured { used_percent: 10 });
    assert_eq!(bench.saved().kept.len(), 1);
    bench.later(1_000);
    let (_, actions) = bench.step(Input::DiskMeasured { used_percent: 10 });
    assert_eq!(actions, [remove(container_id(1, 1), 0)]);
    assert_eq!(bench.saved().kept.len(), 0);
}
