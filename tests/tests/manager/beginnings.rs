//! What a manager must not start on, and says why.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use async_nats::jetstream;
use longshore_proto::name::Root;
use longshore_proto::permission::Role::ManagerCore;
use longshore_tests::nats::Nats;
use longshore_tests::program::{Program, command, longshore};
use longshore_tests::users::Users;
use longshore_tests::{Cluster, api, eventually};

use crate::SOON;

/// A manager that must end by itself, and what it says then.
async fn fails(mut manager: Program) -> String {
    let status = manager.ended(SOON).await;
    assert_eq!(status.code(), Some(1), "{}", manager.log());
    manager.log()
}

/// Starts a manager on a server with users, outside of any [`Cluster`].
fn manager(folder: &Path, url: &str, users: Option<&Users>) -> Program {
    let mut command = command(&longshore(), folder);
    command.args(["manager", "--nats", url]).arg("--data-dir").arg(folder.join("data"));
    if let Some(users) = users {
        command.arg("--creds").arg(users.file(longshore_proto::permission::Role::Manager, "m1"));
        command.arg("--core-creds").arg(users.file(ManagerCore, "m1"));
    }
    Program::start("manager", command, &folder.join("manager.log"))
}

#[tokio::test]
async fn a_server_without_jetstream_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let users = Users::everybody(&folder.path().join("creds"), &Root::standard());
    let account = "    jetstream: { max_streams: 4 }\n";
    let accounts = users.accounts_conf();
    assert!(accounts.contains(account));
    let nats =
        Nats::start_changed(&folder.path().join("nats"), &accounts.replace(account, ""), |conf| {
            let (head, rest) = conf.split_once("\njetstream {").unwrap();
            let (_, tail) = rest.split_once("\n}\n").unwrap();
            format!("{head}\n{tail}")
        })
        .await;
    let said = fails(manager(folder.path(), &nats.url(), Some(&users))).await;
    assert!(said.contains("JetStream") && said.contains("enable"), "{said}");
}

#[tokio::test]
async fn an_account_without_jetstream_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let users = Users::everybody(&folder.path().join("creds"), &Root::standard());
    let accounts = users.accounts_conf().replace("    jetstream: { max_streams: 4 }\n", "");
    let nats = Nats::start(&folder.path().join("nats"), &accounts).await;
    let said = fails(manager(folder.path(), &nats.url(), Some(&users))).await;
    assert!(said.contains("JetStream") && said.contains("enable"), "{said}");
}

/// Answers as a NATS server of an old version would.
fn old_server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let accepting = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        for stream in accepting.incoming() {
            let Ok(stream) = stream else { return };
            std::thread::spawn(move || speak(stream));
        }
    });
    (listener, url)
}

fn speak(mut stream: TcpStream) -> Option<()> {
    let info = r#"INFO {"server_id":"OLD","server_name":"old","version":"2.9.0","proto":1,"go":"go1.19","host":"127.0.0.1","port":4222,"headers":true,"max_payload":1048576,"jetstream":true}"#;
    stream.write_all(format!("{info}\r\n").as_bytes()).ok()?;
    for line in BufReader::new(stream.try_clone().ok()?).lines() {
        if line.ok()?.starts_with("PING") {
            stream.write_all(b"PONG\r\n").ok()?;
        }
    }
    None
}

#[tokio::test]
async fn a_server_that_is_too_old_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let (_listener, url) = old_server();
    let said = fails(manager(folder.path(), &url, None)).await;
    assert!(said.contains("2.9.0") && said.contains("2.12 or newer"), "{said}");
    let cli = longshore_tests::cli::Cli::bare(folder.path());
    cli.run(&["ps", "--nats", &url]).await.exited(1).told("2.9.0").told("2.12 or newer");
}

#[tokio::test]
async fn credentials_that_the_server_does_not_know_are_a_clear_error() {
    let cluster = Cluster::server().await;
    let strangers = Users::everybody(&cluster.folder().join("strangers"), &Root::standard());
    let said = fails(manager(cluster.folder(), &cluster.nats.url(), Some(&strangers))).await;
    assert!(said.contains("refuses these credentials"), "{said}");
}

#[tokio::test]
async fn a_data_directory_that_another_manager_holds_is_a_clear_error() {
    let mut cluster = Cluster::start().await;
    let second = cluster.spawn_manager("m2", &cluster.data_dir("m1"), &[]);
    let said = fails(second).await;
    assert!(said.contains("in use by another process") && said.contains("--data-dir"), "{said}");
    assert!(cluster.manager("m1").is_running());
    cluster.answers().await;
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_made_is_a_clear_error() {
    let cluster = Cluster::server().await;
    let file = cluster.folder().join("a-file");
    std::fs::write(&file, "x").unwrap();
    let said = fails(cluster.spawn_manager("m1", &file.join("below"), &[])).await;
    assert!(said.contains("cannot open the store in"), "{said}");
}

/// A cluster with a job, whose manager is then killed, with the server down: its store may be changed.
async fn asleep() -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.api().await.submit(&api::service("web")).await.unwrap();
    cluster.manager("m1").kill();
    cluster.nats.kill();
    cluster
}

fn store(cluster: &Cluster) -> std::path::PathBuf {
    cluster.folder().join("nats/store/jetstream/CORE/streams")
}

#[tokio::test]
async fn a_log_that_another_cluster_began_is_refused() {
    let mut cluster = asleep().await;
    std::fs::remove_dir_all(store(&cluster)).unwrap();
    cluster.nats.restart().await;
    // A manager without a past begins a new cluster on the empty server.
    cluster.start_manager("m2", &[]);
    cluster.answers().await;
    cluster.manager("m2").kill();
    let said = fails(cluster.spawn_manager("m1", &cluster.data_dir("m1"), &[])).await;
    assert!(said.contains("the log contradicts this manager's store"), "{said}");
}

#[tokio::test]
async fn a_manager_that_lost_its_own_disk_rebuilds_it_from_the_log() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    api.submit(&api::service("web")).await.unwrap();
    let before = api.status().await.unwrap();
    cluster.manager("m1").kill();
    std::fs::remove_dir_all(cluster.data_dir("m1")).unwrap();
    cluster.start_manager("m1", &[]);
    let after = cluster.answers().await;
    assert_eq!(after.status().await.unwrap().id, before.id);
    assert_eq!(after.job("web").await.unwrap().version, 1);
    let history = after.history().await.unwrap();
    assert!(history.iter().any(|event| event.event_type == "job.submitted"));
}

#[tokio::test]
async fn a_message_in_the_log_that_is_no_record_is_skipped_and_raises_an_alarm() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api().await;
    api.submit(&api::service("before")).await.unwrap();
    let core = cluster.bus(ManagerCore, "m2").await;
    let context = jetstream::new(core.client().clone());
    let junk = |text: &'static str| {
        let context = context.clone();
        async move { context.publish("longshore.v1.log", text.into()).await.unwrap().await.unwrap() }
    };
    // While it leads: its next record is refused, and it finds out why.
    junk("not a record").await;
    api.submit(&api::service("after")).await.unwrap();
    let status = eventually("the message is skipped", SOON, async || {
        let status = api.status().await.map_err(|error| error.to_string())?;
        if status.records_skipped == 1 { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(status.alarms.len(), 1, "{status:?}");
    // And while it is away.
    cluster.manager("m1").kill();
    junk("nor this").await;
    junk("").await;
    cluster.start_manager("m1", &[]);
    let api = cluster.answers().await;
    let status = api.status().await.unwrap();
    assert_eq!((status.records_skipped, status.alarms.len()), (3, 1), "{status:?}");
    for name in ["before", "after"] {
        assert_eq!(api.job(name).await.unwrap().version, 1);
    }
    api.submit(&api::service("at-last")).await.unwrap();
}
