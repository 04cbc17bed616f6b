//! What `longshore auth` writes, on a real server: everybody gets in who should, and nobody else.

use std::path::Path;
use std::process::Command;

use longshore_bench::port::free_port;
use longshore_tests::cli::Cli;
use longshore_tests::eventually;
use longshore_tests::nats::binary;
use longshore_tests::program::{Program, command, longshore};
use rustix::process::Signal;

use crate::SOON;

/// A manager or worker with credentials of the folder.
fn start(folder: &Path, name: &str, words: &[&str]) -> Program {
    let mut command = command(&longshore(), folder);
    command.args(words).arg("--data-dir").arg(folder.join(name)).current_dir(folder);
    Program::start(name, command, &folder.join(format!("{name}.log")))
}

#[tokio::test]
async fn the_folder_that_auth_writes_closes_a_server_and_opens_it_to_its_users() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let port = free_port().to_string();
    let (listen, url) = (format!("127.0.0.1:{port}"), format!("nats://127.0.0.1:{port}"));
    let dir = path.join("nats-auth").display().to_string();
    let bare = Cli::bare(path).with("LONGSHORE_NATS_URL", &url);
    let init = [
        "auth",
        "init",
        "--dir",
        &dir,
        "--listen",
        &listen,
        "--operator",
        "alice",
        "--workers",
        "w1",
    ];
    let made = bare.ok(&init).await;
    for file in made.lines() {
        assert!(Path::new(file).is_file(), "{file} is named and not there");
    }
    bare.run(&init).await.exited(1).told("--force");

    // Monitoring has its own port; tests run side by side.
    let conf = path.join("nats-auth/server.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with("http:"))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(&conf, text).unwrap();
    let mut server = Command::new(binary());
    server.arg("-c").arg(&conf);
    let server = Program::start("nats-server", server, &path.join("server.log"));
    server.says("Server is ready", SOON).await;

    let creds = |user: &str| format!("{dir}/{user}.creds");
    let _manager = start(
        path,
        "manager",
        &[
            "manager",
            "--nats",
            &url,
            "--creds",
            &creds("manager-m1"),
            "--core-creds",
            &creds("manager-core-m1"),
        ],
    );
    let cli = bare.clone().with("LONGSHORE_CREDS", creds("operator-alice"));
    eventually("the manager answers", SOON, async || {
        let outcome = cli.run(&["status", "--timeout", "1s"]).await;
        if outcome.code == Some(0) { Ok(()) } else { Err(format!("{outcome:?}")) }
    })
    .await;
    bare.run(&["ps"]).await.exited(1).told("credential file");

    // A worker who was there from the start, and one who is added to a running server.
    let node_is_there = async |name: &str| {
        eventually(&format!("{name} is there"), SOON, async || {
            let outcome = cli.run(&["node", "status", name]).await;
            if outcome.code == Some(0) { Ok(()) } else { Err(format!("{outcome:?}")) }
        })
        .await;
    };
    let w1 = creds("worker-w1");
    let _w1 = start(path, "w1", &["worker", "--nats", &url, "--name", "w1", "--creds", &w1]);
    node_is_there("w1").await;
    bare.ok(&["auth", "worker", "w9", "--dir", &dir]).await;
    server.signal(Signal::HUP);
    server.says("Reloaded", SOON).await;
    let w9 = creds("worker-w9");
    let words = ["worker", "--nats", &url, "--name", "w9", "--creds", &w9];
    let mut running = start(path, "w9", &words);
    node_is_there("w9").await;
    running.kill();

    // Revoked, its credentials open nothing: not even those of somebody who kept a copy.
    let kept = path.join("kept.creds");
    std::fs::copy(&w9, &kept).unwrap();
    bare.ok(&["auth", "revoke", "worker", "w9", "--dir", &dir]).await;
    let reloads = || server.log().matches("Reloaded server configuration").count();
    let before = reloads();
    server.signal(Signal::HUP);
    eventually("the server has read it", SOON, async || {
        if reloads() > before { Ok(()) } else { Err("no further reload".to_owned()) }
    })
    .await;
    let users = bare.ok(&["auth", "ls", "--dir", &dir]).await;
    assert!(users.contains("w1") && !users.contains("w9"), "{users}");
    let kept = kept.display().to_string();
    let words = ["worker", "--nats", &url, "--name", "w9", "--creds", &kept];
    let mut refused = start(path, "w9", &words);
    assert_eq!(refused.ended(SOON).await.code(), Some(1), "{}", refused.log());
    assert!(refused.log().contains("refuses these credentials"), "{}", refused.log());
}
