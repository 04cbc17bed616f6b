//! What NATS or a disk has lost: noticed at once, and healed from what is left, or refused with a clear word.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream;
use futures_util::TryStreamExt;
use longshore_proto::permission::Role::{ManagerCore, Worker};
use longshore_proto::state::JobStatus;
use longshore_tests::played::Played;
use longshore_tests::program::Program;
use longshore_tests::{Api, Cluster, api, eventually};
use serde_json::Value;

use crate::SOON;

/// A manager that must end by itself, and what it says then.
async fn fails(mut manager: Program) -> String {
    let status = manager.ended(2 * SOON).await;
    assert_eq!(status.code(), Some(1), "{}", manager.log());
    manager.log()
}

fn streams(cluster: &Cluster) -> PathBuf {
    cluster.folder().join("nats/store/jetstream/CORE/streams")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// The server loses everything that the managers keep there.
async fn lose_streams(cluster: &mut Cluster) {
    cluster.nats.kill();
    std::fs::remove_dir_all(streams(cluster)).unwrap();
    cluster.nats.restart().await;
}

/// Copies what the managers keep on the server, which is away meanwhile.
async fn back_up(cluster: &mut Cluster) -> PathBuf {
    let backup = cluster.folder().join("backup");
    cluster.nats.kill();
    copy(&streams(cluster), &backup);
    cluster.nats.restart().await;
    backup
}

/// The server is restored from an old copy of its data.
async fn roll_back(cluster: &mut Cluster, backup: &Path) {
    cluster.nats.kill();
    std::fs::remove_dir_all(streams(cluster)).unwrap();
    copy(backup, &streams(cluster));
    cluster.nats.restart().await;
}

/// Every job is there, and the cluster goes on.
async fn goes_on(api: &Api, jobs: &[&str]) {
    for name in jobs {
        assert_eq!(api.job(name).await.unwrap().version, 1, "{name}");
    }
    let name = format!("after-{}", jobs.len());
    api.submit(&api::service(&name)).await.unwrap();
    assert_eq!(api.job(&name).await.unwrap().version, 1);
}

/// The submit of a job is in the event stream, whatever that holds of a past that was left.
async fn is_published(cluster: &Cluster, job: &str) {
    let core = cluster.bus(ManagerCore, "m2").await;
    let context = jetstream::new(core.client().clone());
    let stream = context.get_stream("longshore-event").await.unwrap();
    let subject = format!("longshore.v1.event.job.default.{job}.submitted");
    eventually("the submit is in the event stream", SOON, async || {
        let found = stream.get_last_raw_message_by_subject(&subject).await;
        found.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

/// The epochs that the stored snapshots go on from.
async fn snapshot_epochs(cluster: &Cluster) -> Vec<u64> {
    let core = cluster.bus(ManagerCore, "m2").await;
    let context = jetstream::new(core.client().clone());
    let bucket = context.get_object_store("longshore-snapshot").await.unwrap();
    let objects: Vec<_> = bucket.list().await.unwrap().try_collect().await.unwrap();
    objects.iter().map(|object| object.metadata["epoch"].parse().unwrap()).collect()
}

#[tokio::test]
async fn a_sole_manager_heals_a_log_that_is_gone_from_its_own_disk_and_others_join() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    api.submit(&api::service("web")).await.unwrap();
    let before = api.status().await.unwrap();
    cluster.manager("m1").kill();
    lose_streams(&mut cluster).await;
    cluster.start_manager("m1", &[]);
    cluster.manager("m1").says("the log is healed", SOON).await;
    let api = cluster.answers().await;
    goes_on(&api, &["web"]).await;
    let after = api.status().await.unwrap();
    assert_eq!((after.id, after.epoch), (before.id, before.epoch + 1));
    let history = api.history().await.unwrap();
    assert!(history.iter().any(|event| event.event_type == "cluster.created"), "{history:?}");
    cluster.start_manager("m2", &[]);
    cluster.manager("m2").says("joining from a snapshot", SOON).await;
    cluster.manager("m2").says("this one stands by", SOON).await;
    cluster.manager("m1").kill();
    goes_on(&api, &["web", "after-1"]).await;
}

#[tokio::test]
async fn a_leader_whose_log_loses_its_end_notices_and_heals_it_with_all_that_was_acknowledged() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    api.submit(&api::service("web")).await.unwrap();
    // The server goes back, while the manager runs on.
    let backup = back_up(&mut cluster).await;
    api.submit(&api::service("later")).await.unwrap();
    roll_back(&mut cluster, &backup).await;
    cluster.manager("m1").says("the log ends at message", SOON).await;
    cluster.manager("m1").says("the log is healed", SOON).await;
    let api = cluster.answers().await;
    goes_on(&api, &["web", "later"]).await;
    assert!(cluster.manager("m1").is_running());
}

/// Two managers that have both led, and a job of each; both killed, and the log lost.
async fn both_have_led() -> Cluster {
    let mut cluster = both_led_and_died().await;
    lose_streams(&mut cluster).await;
    cluster
}

async fn both_led_and_died() -> Cluster {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    cluster.start_standby("m2", &[]).await;
    api.submit(&api::service("web")).await.unwrap();
    cluster.manager("m1").kill();
    cluster.manager("m2").says("this manager leads", SOON).await;
    api.submit(&api::service("second")).await.unwrap();
    cluster.manager("m2").kill();
    cluster
}

/// The server loses the log, and some of its messages are stored under its name anew.
async fn make_log_anew(cluster: &mut Cluster, messages: impl Fn(u64) -> u64) {
    let core = cluster.bus(ManagerCore, "m2").await;
    let context = jetstream::new(core.client().clone());
    let old = context.get_stream("longshore-log").await.unwrap();
    let (config, last) = (old.cached_info().config.clone(), old.cached_info().state.last_sequence);
    let mut kept = Vec::new();
    for sequence in 1..=messages(last) {
        kept.push(old.get_raw_message(sequence).await.unwrap());
    }
    cluster.nats.kill();
    std::fs::remove_dir_all(streams(cluster).join("longshore-log")).unwrap();
    cluster.nats.restart().await;
    let core = cluster.bus(ManagerCore, "m2").await;
    let context = jetstream::new(core.client().clone());
    context.create_stream(config).await.unwrap();
    for message in kept {
        let stored = context.publish(message.subject, message.payload).await.unwrap();
        assert_eq!(stored.await.unwrap().sequence, message.sequence);
    }
}

#[tokio::test]
async fn a_log_that_was_restored_whole_is_read_on_and_one_that_was_not_is_refused_by_whoever_knows_more()
 {
    let mut cluster = both_led_and_died().await;
    make_log_anew(&mut cluster, |last| last).await;
    cluster.start_manager("m1", &[]);
    cluster.start_manager("m2", &[]);
    for name in ["m1", "m2"] {
        cluster.manager(name).says("the log was made anew, and holds all", SOON).await;
    }
    let api = cluster.answers().await;
    goes_on(&api, &["web", "second"]).await;
    for name in ["m1", "m2"] {
        assert!(!cluster.manager(name).log().contains("healing the log"), "{name}");
        cluster.manager(name).kill();
    }
    make_log_anew(&mut cluster, |last| last - 1).await;
    let m2 = cluster.data_dir("m2");
    let said = fails(cluster.spawn_manager("m2", &m2, &[])).await;
    assert!(said.contains("and the store was built from one created at"), "{said}");
}

#[tokio::test]
async fn where_others_have_led_an_operator_chooses_and_the_rest_joins_by_itself() {
    let mut cluster = both_have_led().await;
    let (m1, m2) = (cluster.data_dir("m1"), cluster.data_dir("m2"));
    for (name, data_dir) in [("m1", &m1), ("m2", &m2)] {
        let said = fails(cluster.spawn_manager(name, data_dir, &[])).await;
        assert!(said.contains("longshore-log is gone"), "{said}");
        // By this the one that knows most is found.
        assert!(said.contains(" index="), "{said}");
        assert!(said.contains("--heal-log") && said.contains("docs/operations.md"), "{said}");
    }
    // It was not made anew either.
    let core = cluster.bus(ManagerCore, "m2").await;
    let found = jetstream::new(core.client().clone()).get_stream("longshore-log").await;
    assert!(found.is_err(), "{found:?}");

    cluster.start_manager("m2", &["--heal-log"]);
    let api = cluster.answers().await;
    goes_on(&api, &["web", "second"]).await;
    // The other one is behind, and sees by a hash that the snapshot continues what it holds.
    cluster.start_manager("m1", &[]);
    cluster.manager("m1").says("joining from a snapshot", SOON).await;
    cluster.manager("m1").says("this one stands by", SOON).await;
    cluster.manager("m2").kill();
    goes_on(&api, &["web", "second", "after-2"]).await;
}

#[tokio::test]
async fn a_log_that_was_shortened_and_written_on_is_noticed_and_the_past_that_was_left_is_joined_by_nobody()
 {
    let often = ["--snapshot-records", "20"];
    let mut cluster = Cluster::start_with(&often).await;
    let api = cluster.api().await;
    cluster.start_standby("m2", &often).await;
    api.submit(&api::service("web")).await.unwrap();
    cluster.manager("m1").kill();
    cluster.manager("m2").says("this manager leads", SOON).await;
    api.submit(&api::service("second")).await.unwrap();
    cluster.manager("m2").kill();
    // Only m1 knows what comes now; the server forgets it.
    let backup = back_up(&mut cluster).await;
    cluster.start_manager("m1", &often);
    let api = cluster.answers().await;
    api.submit(&api::service("later")).await.unwrap();
    cluster.manager("m1").kill();
    roll_back(&mut cluster, &backup).await;
    // To m2 nothing is missing. It writes the log on, beyond its old length, and stores a snapshot of that.
    cluster.start_manager("m2", &often);
    let api = cluster.answers().await;
    for count in 0..25 {
        api.submit(&api::service(&format!("other-{count}"))).await.unwrap();
    }
    cluster.manager("m2").says("a snapshot is stored", SOON).await;
    let m1 = cluster.data_dir("m1");
    let said = fails(cluster.spawn_manager("m1", &m1, &often)).await;
    assert!(said.contains("is not the one that the store continues with"), "{said}");
    assert!(said.contains("--heal-log") && said.contains("docs/operations.md"), "{said}");
    // An operator chooses m1. What m2 has stored is of later records, and of a past that is left.
    cluster.manager("m2").kill();
    cluster.start_manager("m1", &["--snapshot-records", "20", "--heal-log"]);
    cluster.manager("m1").says("the log is healed", SOON).await;
    let api = cluster.answers().await;
    goes_on(&api, &["web", "second", "later"]).await;
    // Had it died before its first record, this would keep m2 from leading what was left.
    let epochs = snapshot_epochs(&cluster).await;
    assert!(!epochs.is_empty() && epochs.iter().all(|epoch| *epoch > 1_000), "{epochs:?}");
    is_published(&cluster, "after-3").await;
    std::fs::remove_dir_all(cluster.data_dir("m2")).unwrap();
    cluster.start_manager("m2", &often);
    cluster.manager("m2").says("joining from a snapshot", 2 * SOON).await;
    cluster.manager("m2").says("this one stands by", SOON).await;
    cluster.manager("m1").kill();
    goes_on(&api, &["web", "second", "later", "after-3"]).await;
    assert!(api.job("other-0").await.is_err(), "it has joined the past that was left");
}

#[tokio::test]
async fn workers_that_follow_what_the_log_has_lost_are_left_alone_until_an_operator_chooses() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    cluster.start_standby("m2", &[]).await;
    let node = Played::join(cluster.bus(Worker, "w1").await).await.unwrap();
    api.submit(&api::service("web")).await.unwrap();
    node.wanted_of("web", 1).await;
    cluster.manager("m2").kill();
    // Only m1 knows what comes now, and the worker; the server forgets it, and m1 does not come back.
    let backup = back_up(&mut cluster).await;
    let api = cluster.answers().await;
    api.submit(&api::service("later")).await.unwrap();
    let later = node.wanted_of("later", 1).await[0];
    cluster.manager("m1").kill();
    roll_back(&mut cluster, &backup).await;
    // To m2 nothing is missing. But the worker tells.
    cluster.start_manager("m2", &[]);
    let api = cluster.answers().await;
    let lost = "1 of 1 nodes follow revisions of which the log has no record: w1 follows";
    eventually("it says so", SOON, async || {
        let alarms = api.status().await.map_err(|error| error.to_string())?.alarms;
        if alarms.iter().any(|text| text.contains(lost)) {
            Ok(())
        } else {
            Err(format!("{alarms:?}"))
        }
    })
    .await;
    let said = cluster.cli().run(&["doctor"]).await.exited(1).stdout;
    assert!(said.contains(lost) && said.contains("--heal-log"), "{said}");
    api.submit(&api::service("more")).await.unwrap();
    assert!(api.job("later").await.is_err(), "it is known");
    assert_eq!(api.job("more").await.unwrap().status, JobStatus::Pending);
    assert!(node.wanted().iter().any(|task| task.task == later), "it is told to end what runs");

    cluster.manager("m2").kill();
    cluster.start_manager("m2", &["--heal-log"]);
    cluster.manager("m2").says("the log is healed", SOON).await;
    node.wanted_of("more", 1).await;
    let api = cluster.answers().await;
    eventually("the alarm is over", SOON, async || {
        let alarms = api.status().await.map_err(|error| error.to_string())?.alarms;
        if alarms.is_empty() { Ok(()) } else { Err(format!("{alarms:?}")) }
    })
    .await;
    eventually("the worker has the set of this log", SOON, async || {
        if node.wanted().iter().all(|task| task.task != later) {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    })
    .await;
    goes_on(&api, &["web", "more"]).await;
}

#[tokio::test]
async fn a_manager_that_lost_its_disk_leads_over_no_log_that_ends_before_a_snapshot() {
    const OFTEN: [&str; 2] = ["--snapshot-records", "20"];
    let mut cluster = Cluster::start_with(&OFTEN).await;
    let api = cluster.api().await;
    api.submit(&api::service("web")).await.unwrap();
    let (log, backup) = (streams(&cluster).join("longshore-log"), cluster.folder().join("backup"));
    cluster.nats.kill();
    copy(&log, &backup);
    cluster.nats.restart().await;
    let api = cluster.answers().await;
    for count in 0..30 {
        api.submit(&api::service(&format!("job-{count}"))).await.unwrap();
    }
    cluster.manager("m1").says("a snapshot is stored", SOON).await;
    // The log's end is lost, and the disk of the manager that knew it, too. The log alone seems whole: it begins with the
    // first record. But of what was in it a snapshot is left.
    cluster.manager("m1").kill();
    cluster.nats.kill();
    std::fs::remove_dir_all(&log).unwrap();
    copy(&backup, &log);
    std::fs::remove_dir_all(cluster.data_dir("m1")).unwrap();
    cluster.nats.restart().await;
    let said = fails(cluster.spawn_manager("m1", &cluster.data_dir("m1"), &OFTEN)).await;
    assert!(said.contains("a snapshot of record"), "{said}");
    assert!(said.contains("joining from a snapshot"), "{said}");
    // What came after the snapshot is lost, as far as it can tell.
    assert!(said.contains("choose with --heal-log"), "{said}");
    cluster.start_manager("m1", &[&OFTEN[..], &["--heal-log"]].concat());
    cluster.manager("m1").says("the log is healed", SOON).await;
    let api = cluster.answers().await;
    goes_on(&api, &["web", "job-0", "job-5"]).await;
}

/// How often a follower of events has printed that a job was submitted.
fn submits(follower: &Program, job: &str) -> usize {
    let log = follower.log();
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["type"] == "job.submitted" && event["job"] == job).count()
}

async fn prints(follower: &Program, job: &str) {
    eventually(&format!("the submit of {job} is printed"), SOON, async || {
        if submits(follower, job) > 0 { Ok(()) } else { Err(follower.log()) }
    })
    .await;
}

/// The index of the record that the newest event is of.
async fn newest_index(api: &Api) -> u64 {
    api.history().await.unwrap().last().unwrap().index
}

#[tokio::test]
async fn who_follows_the_events_is_told_of_what_comes_in_the_places_of_a_past_that_was_left() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    cluster.start_standby("m2", &[]).await;
    api.submit(&api::service("web")).await.unwrap();
    let follower = cluster.cli().stay("events", &["events", "--follow", "-o", "json"]);
    prints(&follower, "web").await;
    cluster.manager("m2").kill();
    // Only m1 knows of these, and the follower has printed them.
    for count in 0..20 {
        api.submit(&api::service(&format!("left-{count}"))).await.unwrap();
    }
    prints(&follower, "left-19").await;
    let left = newest_index(&api).await;
    cluster.manager("m1").kill();
    lose_streams(&mut cluster).await;
    cluster.start_manager("m2", &["--heal-log"]);
    cluster.manager("m2").says("the log is healed", SOON).await;
    let api = cluster.answers().await;
    api.submit(&api::service("anew")).await.unwrap();
    let index = newest_index(&api).await;
    assert!(index < left, "record {index} has no place of the past that was left, up to {left}");
    prints(&follower, "anew").await;
    api.submit(&api::service("last")).await.unwrap();
    prints(&follower, "last").await;
    for job in ["web", "left-0", "left-19", "anew", "last"] {
        assert_eq!(submits(&follower, job), 1, "{job}: {}", follower.log());
    }
}

#[tokio::test]
async fn a_standby_whose_store_is_damaged_sets_it_aside_and_joins_again() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    cluster.start_standby("m2", &[]).await;
    for count in 0..20 {
        api.submit(&api::service(&format!("job-{count}"))).await.unwrap();
    }
    cluster.manager("m2").kill();
    damage(&cluster.data_dir("m2").join("manager"));
    cluster.start_manager("m2", &[]);
    cluster.manager("m2").says("it is set aside", SOON).await;
    cluster.manager("m2").says("this one stands by", SOON).await;
    cluster.manager("m1").kill();
    let names: Vec<String> = (0..20).map(|count| format!("job-{count}")).collect();
    goes_on(&api, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let kept = std::fs::read_dir(cluster.data_dir("m2"))
        .unwrap()
        .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("manager.damaged-"));
    assert!(kept, "the damaged store is kept");
}

/// Cuts every file of a store to a half.
fn damage(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            damage(&path);
        } else {
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        }
    }
}

#[tokio::test]
async fn a_damaged_store_and_a_lost_log_are_never_taken_for_an_empty_cluster() {
    let mut cluster = Cluster::start().await;
    cluster.api().await.submit(&api::service("web")).await.unwrap();
    cluster.manager("m1").kill();
    cluster.nats.kill();
    std::fs::remove_dir_all(streams(&cluster)).unwrap();
    damage(&cluster.data_dir("m1").join("manager"));
    cluster.nats.restart().await;
    for _ in 0..2 {
        let said = fails(cluster.spawn_manager("m1", &cluster.data_dir("m1"), &[])).await;
        assert!(said.contains("longshore-log is gone"), "{said}");
    }
}

#[tokio::test]
async fn a_backup_of_a_running_cluster_becomes_a_cluster_again_and_nothing_is_overwritten() {
    let cluster = Cluster::start().await;
    let api = cluster.api().await;
    let cli = cluster.cli();
    for count in 0..30 {
        api.submit(&api::service(&format!("job-{count}"))).await.unwrap();
    }
    let before = api.status().await.unwrap();
    let file = cluster.folder().join("monday.backup");
    let shown = file.display().to_string();
    assert_eq!(cli.ok(&["backup", &shown]).await.trim(), shown);
    cli.run(&["backup", &shown]).await.exited(1).told("is there already");
    let nowhere = cluster.folder().join("nowhere/monday.backup").display().to_string();
    cli.run(&["backup", &nowhere]).await.exited(1).told("nowhere: make it, or name another");
    // What cannot be written to its end leaves nothing behind.
    let full = Path::new("/dev/full");
    let linked = cluster.folder().join("full.backup");
    std::os::unix::fs::symlink(full, cluster.folder().join("full.backup.part")).unwrap();
    let linked = linked.display().to_string();
    cli.run(&["backup", &linked]).await.exited(1).told("make room there (`df -h ");
    assert!(!cluster.folder().join("full.backup.part").is_symlink(), "it is gone");
    api.submit(&api::service("too-late")).await.unwrap();

    let restored = cluster.folder().join("restored").display().to_string();
    let cut = cluster.folder().join("cut.backup");
    let whole = std::fs::read(&file).unwrap();
    for (bytes, told) in [
        (None, "there is none of that name"),
        (Some(&whole[..whole.len() - 1]), "cut short or changed"),
        (Some(&b"apples"[..]), "name a file that `longshore backup FILE` has written"),
    ] {
        if let Some(bytes) = bytes {
            std::fs::write(&cut, bytes).unwrap();
        }
        let cut = cut.display().to_string();
        cli.run(&["restore", &cut, "--data-dir", &restored]).await.exited(1).told(told);
    }
    cli.run(&["restore", &shown, "--data-dir", "/dev/null/data"])
        .await
        .exited(1)
        .told("there is no folder /dev/null: make it, or name another place");
    cli.run(&["restore", &shown, "--data-dir", &restored]).await.succeeded().told("index");
    cli.run(&["restore", &shown, "--data-dir", &restored]).await.exited(1).told("already");
    // Not over a cluster that is there.
    let said = fails(cluster.spawn_manager("m2", Path::new(&restored), &[])).await;
    assert!(
        said.contains("holds the log of a cluster") && said.contains("nothing is changed"),
        "{said}"
    );
    goes_on(&api, &["job-0", "too-late"]).await;

    let mut other = Cluster::server().await;
    other.start_manager_on("m1", Path::new(&restored), &[]);
    let api = other.answers().await;
    let after = api.status().await.unwrap();
    assert_eq!((after.id, after.jobs), (before.id, 30));
    assert!(after.epoch > before.epoch + 100, "beyond every reign that the backup has missed");
    let said = other.manager("m1").log();
    assert!(said.contains("begins its log anew") && !said.contains("it is asked again"), "{said}");
    goes_on(&api, &["job-0", "job-29"]).await;
    let history = api.history().await.unwrap();
    let submits = history.iter().filter(|event| event.event_type == "job.submitted").count();
    assert_eq!(submits, 31, "the history came along");
    // Events came along, and no earlier moment: it is not shown as the one of the backup.
    let cli = other.cli();
    cli.run(&["ps", "--at", "1h"]).await.exited(1).told("history reaches from index");
    assert!(cli.ok(&["ps", "--at", "0s"]).await.contains("job-29"));
    other.start_standby("m2", &[]).await;
    other.manager("m1").kill();
    goes_on(&api, &["job-0", "job-29", "after-2"]).await;
    tokio::time::timeout(Duration::from_secs(10), api.status()).await.unwrap().unwrap();
}
