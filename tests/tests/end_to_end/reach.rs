//! Reaching into tasks through NATS alone: files both ways, ports, figures, and logs of a task that writes without end.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and the place is told"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use futures_util::StreamExt;
use longshore_proto::codec;
use longshore_proto::metrics::NodeMetrics;
use longshore_proto::permission::Role;
use longshore_proto::subject::{NodeVerb, Pattern};
use longshore_tests::cli::Cli;
use longshore_tests::{Cluster, IMAGE, eventually};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;

use crate::SOON;
use crate::look::{running, sleeper, text, until};
use crate::terminal::Seat;

/// Bytes that no two pieces of are alike.
fn noise(length: usize) -> Vec<u8> {
    let mut word = 88_172_645_463_325_252_u64;
    let words = std::iter::repeat_with(|| {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word
    });
    words.flat_map(u64::to_le_bytes).take(length).collect()
}

/// Runs a verb between two files, untouched by any reading as text.
async fn between(cli: &Cli, words: &[&str], from: Option<&Path>, to: &Path) -> Option<i32> {
    let stdin = from.map_or_else(Stdio::null, |from| fs::File::open(from).unwrap().into());
    let mut command = cli.command(words);
    command.stdin(stdin).stdout(fs::File::create(to).unwrap()).stderr(Stdio::null());
    tokio::task::spawn_blocking(move || command.status().unwrap().code()).await.unwrap()
}

#[tokio::test]
async fn files_go_in_and_come_out_as_they_were() {
    let cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    sleeper(&cli, "web", &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let shown = |name: &str| at(name).to_str().unwrap().to_owned();
    // Far more than is ever under way at once.
    let large = noise(5 << 20);
    fs::create_dir_all(at("tree/deep/er")).unwrap();
    fs::write(at("tree/large"), &large).unwrap();
    fs::write(at("tree/deep/empty"), "").unwrap();
    symlink("../large", at("tree/deep/link")).unwrap();

    // A name that is not there is the new name; a folder takes what comes under its own.
    cli.ok(&["cp", &shown("tree"), "web:/tmp/new"]).await;
    cli.ok(&["cp", &shown("tree"), "web:/tmp"]).await;
    cli.ok(&["cp", &shown("tree/large"), "web:/tmp/one"]).await;
    let script = "cmp /tmp/new/large /tmp/one && cmp /tmp/new/deep/link /tmp/tree/large && \
                  cd /tmp && find tree | sort && stat -c %u:%g tree/large";
    let found = cli.ok(&["exec", "web", "sh", "-c", script]).await;
    let names = "tree\ntree/deep\ntree/deep/empty\ntree/deep/er\ntree/deep/link\ntree/large\n";
    assert_eq!(found, format!("{names}0:0\n"));

    let told = cli.run(&["cp", "web:/tmp/new", &shown("back")]).await.succeeded();
    assert!(told.stderr.contains("copied 6 files and folders"), "{told:?}");
    assert!(fs::read(at("back/large")).unwrap() == large);
    assert!(fs::read(at("back/deep/link")).unwrap() == large);
    assert!(at("back/deep/er").is_dir());
    cli.ok(&["cp", "web:/tmp/new/.", &shown("tree/deep/er")]).await;
    assert!(fs::read(at("tree/deep/er/large")).unwrap() == large);
    cli.ok(&["cp", "web:tmp/one", &shown("tree/large")]).await;

    // As archives, from one place to another.
    assert_eq!(between(&cli, &["cp", "web:/tmp/new", "-"], None, &at("a.tar")).await, Some(0));
    cli.ok(&["exec", "web", "mkdir", "/tmp/third"]).await;
    let words = ["cp", "-", "web:/tmp/third"];
    assert_eq!(between(&cli, &words, Some(&at("a.tar")), &at("out")).await, Some(0));
    cli.ok(&["exec", "web", "cmp", "/tmp/third/new/large", "/tmp/one"]).await;

    for (words, code, told) in [
        (["web:/no/such", "x"], 1, "there is no /no/such in the container"),
        (["web:/tmp/one/.", "x"], 1, "nothing in it"),
        (
            [shown("tree/large").as_str(), "web:/no/such/file"],
            1,
            "there is no /no/such in the container",
        ),
        ([shown("tree").as_str(), "web:/tmp/one"], 1, "a folder cannot take its place"),
        ([shown("nothing").as_str(), "web:/tmp/one"], 1, "cannot read"),
        (["-", "web:/tmp/one"], 1, "an archive is unpacked in one"),
        (["web:/a", "web:/b"], 2, "nothing is copied from container to container"),
        (["a", "b"], 2, "must be in a task's container"),
        (["nobody:/a", "b"], 1, "nobody"),
    ] {
        cli.run(&["cp", words[0], words[1]]).await.exited(code).told(told);
    }
}

#[tokio::test]
async fn nothing_of_a_container_gets_out_of_the_folder_and_the_dead_are_read_too() {
    let cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    sleeper(&cli, "web", &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t").to_str().unwrap().to_owned();
    let script = "mkdir -p /tmp/t/sub && cd /tmp/t && echo fine > file && ln -s / root && \
                  ln -s ../../etc/passwd out && ln -s sub/../../x sly && ln -s ../file sub/in && mkfifo pipe";
    cli.ok(&["exec", "web", "sh", "-c", script]).await;
    let outcome = cli.run(&["cp", "web:/tmp/t", &target]).await.exited(1);
    for told in ["\"t/root\" is a link that leads out", "\"t/sly\"", "\"t/pipe\"", "4 of 8"] {
        assert!(outcome.stderr.contains(told), "{told}: {outcome:?}");
    }
    let at = |name: &str| Path::new(&target).join(name);
    assert_eq!(fs::read_to_string(at("sub/in")).unwrap(), "fine\n");
    assert!(
        ["root", "out", "sly", "pipe"].iter().all(|name| fs::symlink_metadata(at(name)).is_err())
    );
    // A link is followed where that is wished, within the container.
    cli.ok(&["exec", "web", "ln", "-s", "/tmp/t/file", "/tmp/link"]).await;
    let link = folder.path().join("link").to_str().unwrap().to_owned();
    cli.run(&["cp", "web:/tmp/link", &link]).await.exited(1).told("leads out");
    cli.ok(&["cp", "-L", "web:/tmp/link", &link]).await;
    assert_eq!(fs::read_to_string(&link).unwrap(), "fine\n");

    let words = ["run", "--type", "batch", "--name", "dead", "--restart", "never"];
    let script = "echo last words > /tmp/note; exit 3";
    cli.run(&[&words[..], &[IMAGE, "sh", "-c", script]].concat()).await.succeeded();
    let dead = until(&cli, "dead", "it has failed", |tasks| {
        tasks.iter().find(|task| task["state"] == "failed").cloned()
    })
    .await;
    let note = folder.path().join("note").to_str().unwrap().to_owned();
    cli.ok(&["cp", &format!("{}:/tmp/note", text(&dead, "id")), &note]).await;
    assert_eq!(fs::read_to_string(&note).unwrap(), "last words\n");
}

/// Says something on a connection, closes that direction, and hears everything that comes back.
fn exchange(address: &str, words: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut writer = stream.try_clone()?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(words)?;
            writer.shutdown(Shutdown::Write)
        });
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).map(|_| heard)
    })
}

/// Asks something on a connection, closes that direction, and hears the head of the answer.
fn begin(address: &str, words: &[u8]) -> std::io::Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(words)?;
    stream.shutdown(Shutdown::Write)?;
    let mut heard = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if heard.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(heard)
}

/// Hears the rest.
fn finish(mut open: BufReader<TcpStream>) -> std::io::Result<Vec<u8>> {
    let mut heard = Vec::new();
    open.read_to_end(&mut heard).map(|_| heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_a_task_are_reached_from_here_by_many_at_once() {
    let cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let script = "head -c 1000000 /dev/urandom > /tmp/noise; echo hello > /tmp/index.html; \
                  nc -ll -p 7000 -e cat & nc -ll -p 7001 -e echo early & exec httpd -f -p 127.0.0.1:8080 -h /tmp";
    cli.ok(&["run", "--name", "web", "--stop-grace", "1s", "--wait", IMAGE, "sh", "-c", script])
        .await;
    let task = running(&cli, "web").await;
    let mut forward =
        cli.stay("forward", &["port-forward", "web", ":7000", ":7001", ":8080", ":9"]);
    let addresses = eventually("it listens", SOON, async || {
        let told = forward.log();
        let lines = told.lines().filter_map(|line| line.split_once(" -> web.main.0:"));
        let lines: Vec<String> = lines.map(|(address, _)| address.to_owned()).collect();
        if lines.len() == 4 { Ok(lines) } else { Err(told) }
    })
    .await;
    let [echo, hasty, http, nothing] = &addresses[..] else { panic!("{addresses:?}") };
    assert!(echo.starts_with("127.0.0.1:"), "{echo}");

    // What listens on the container's own 127.0.0.1 is reached as well: the worker runs as root here.
    let answer = eventually("the task serves", SOON, async || {
        let answer =
            exchange(http, b"GET /index.html HTTP/1.0\r\n\r\n").map_err(|e| e.to_string())?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if answer.ends_with("hello\n") { Ok(answer) } else { Err(answer) }
    })
    .await;
    assert!(answer.starts_with("HTTP/1."), "{answer}");

    // Each way far more than is ever under way; then the end of one direction, which the other outlives. (The echo
    // is one that takes one connection at a time.)
    let words = noise(5 << 20);
    for length in [words.len(), 1, 0] {
        let (address, words) = (echo.clone(), words[..length].to_vec());
        let echoed = move || exchange(&address, &words).unwrap() == words;
        assert!(
            tokio::task::spawn_blocking(echoed).await.unwrap(),
            "{length} bytes came back wrong"
        );
    }
    // One that answers and goes, and reads nothing: what it has said arrives.
    for _ in 0..20 {
        let (address, words) = (hasty.clone(), words[..1 << 20].to_vec());
        let answer = tokio::task::spawn_blocking(move || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            let mut writer = stream.try_clone().unwrap();
            // Nobody takes all of it.
            std::thread::spawn(move || writer.write_all(&words));
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).map(|_| line)
        });
        assert_eq!(answer.await.unwrap().unwrap(), "early\n", "{}", forward.log());
    }
    // Many at once. This server has nine places for those who wait to be let in, and sends others away: it lets in eight
    // at a time, until all are open and none has been read to its end.
    let mut open = Vec::new();
    for _ in 0..5 {
        let asked: Vec<_> = (0..8)
            .map(|_| {
                let address = http.clone();
                tokio::task::spawn_blocking(move || begin(&address, b"GET /noise HTTP/1.0\r\n\r\n"))
            })
            .collect();
        for asked in asked {
            let begun = asked.await.unwrap();
            open.push(
                begun.unwrap_or_else(|error| panic!("no answer ({error}): {}", forward.log())),
            );
        }
    }
    let fetches: Vec<_> =
        open.into_iter().map(|open| tokio::task::spawn_blocking(move || finish(open))).collect();
    let mut first = None;
    for fetched in fetches {
        let fetched = fetched.await.unwrap().unwrap();
        assert_eq!(fetched.len(), 1_000_000, "{}", forward.log());
        assert!(*first.get_or_insert_with(|| fetched.clone()) == fetched, "not what was served");
    }

    assert!(exchange(nothing, b"x").is_ok_and(|heard| heard.is_empty()));
    eventually("it is told that nobody listens there", SOON, async || {
        let told = forward.log();
        if told.contains("nothing answers on port 9") { Ok(()) } else { Err(told) }
    })
    .await;

    cli.ok(&["stop", &text(&task, "id"), "--wait"]).await;
    assert_eq!(forward.ended(SOON).await.code(), Some(1));
    assert!(forward.log().contains("web.main.0 is stopped"), "{}", forward.log());
    cli.run(&["port-forward", &text(&task, "id"), "80"]).await.exited(1).told("no ports to reach");
}

#[tokio::test]
async fn a_task_that_writes_without_end_harms_nobody() {
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    sleeper(&cli, "quiet", &[]).await;
    let script = "yes $(head -c 1000 /dev/zero | tr '\\0' x)";
    let words = ["run", "--name", "chatty", "--cpus", "0.5", "--wait", IMAGE, "sh", "-c", script];
    cli.ok(&words).await;
    running(&cli, "chatty").await;
    // One that reads nothing of it, and one that reads it all.
    let follow = || {
        let mut command = tokio::process::Command::from(cli.command(&["logs", "-f", "chatty"]));
        command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        command.spawn().unwrap()
    };
    let (mut stuck, mut eager) = (follow(), follow());
    let mut output = eager.stdout.take().unwrap();
    let read = tokio::spawn(async move {
        let (mut piece, mut total) = (vec![0; 1 << 16], 0);
        while total < 8 << 20 {
            match output.read(&mut piece).await.unwrap() {
                0 => break,
                length => total += length,
            }
        }
        total
    });
    // Meanwhile the node is there, and others are served.
    for _ in 0..5 {
        let begun = Instant::now();
        assert_eq!(cli.ok(&["exec", "quiet", "echo", "here"]).await, "here\n");
        assert!(begun.elapsed() < SOON / 4, "{:?}", begun.elapsed());
        let node = cli.json(&["node", "status", "w1"]).await;
        assert_eq!(node["status"], "ready", "{node}");
    }
    let total = tokio::time::timeout(SOON, read).await.unwrap().unwrap();
    assert!(total >= 8 << 20, "only {total} bytes came");
    let memory = resident_bytes(cluster.worker("w1").pid());
    assert!(memory < 150 << 20, "the worker has grown to {memory} bytes");
    for child in [&mut stuck, &mut eager] {
        child.kill().await.unwrap();
    }
    cli.ok(&["stop", "chatty", "--wait"]).await;
}

#[tokio::test]
async fn what_nodes_and_tasks_use_is_shown_once_and_heard_by_anybody_who_may() {
    let cluster = Cluster::with_workers(&["w1"]).await;
    let cli = cluster.cli();
    let script = "dd if=/dev/zero of=/tmp/file bs=1M count=4 2>&1; while :; do :; done";
    let words = [
        "run",
        "--name",
        "busy",
        "--cpus",
        "0.2",
        "--memory",
        "64MiB",
        "--stop-grace",
        "1s",
        "--wait",
    ];
    cli.ok(&[&words[..], &[IMAGE, "sh", "-c", script]].concat()).await;
    let task = running(&cli, "busy").await;
    let listener = cluster.bus(Role::Observer, "billing").await;
    let mut heard = listener.subscribe(&Pattern::Node(NodeVerb::Metrics)).await.unwrap();

    let shown = eventually("the task's figures", SOON, async || {
        let shown = cli.json(&["top", "--once"]).await;
        let figures = &shown["tasks"][0];
        if figures["cpu_millis"].as_u64() > Some(50) { Ok(shown) } else { Err(shown.to_string()) }
    })
    .await;
    let (node, figures) = (&shown["nodes"][0], &shown["tasks"][0]);
    assert_eq!((&node["name"], &node["status"]), (&"w1".into(), &"ready".into()), "{node}");
    assert!(node["figures"]["used"]["memory_bytes"].as_u64() > Some(1 << 20), "{node}");
    assert!(node["figures"]["load_1m"].as_f64() > Some(0.0), "{node}");
    assert_eq!(node["figures"]["tasks_running"], 1, "{node}");
    assert_eq!((&figures["job"], &figures["node"]), (&"busy".into(), &"w1".into()));
    assert_eq!(figures["task"], task["id"]);
    assert_eq!(figures["memory_limit_bytes"], 64 << 20, "{figures}");
    assert!((10_000..64 << 20).contains(&figures["memory_bytes"].as_u64().unwrap()), "{figures}");
    assert!(figures["cpu_millis"].as_u64() < Some(400), "it may use 200: {figures}");
    assert!(figures["pids"].as_u64() >= Some(1), "{figures}");
    assert!(figures["received_bytes"].is_u64() && figures["read_bytes"].is_u64(), "{figures}");
    let one = cli.json(&["status", &text(&task, "id")]).await;
    assert_eq!(one["usage"]["memory_limit_bytes"], 64 << 20, "{one}");
    assert_eq!((&one["state"], &one["pull"]), (&"running".into(), &serde_json::Value::Null));
    let table = cli.ok(&["top", "--once", "--sort", "name", "--filter", "busy"]).await;
    assert!(table.contains("w1") && table.contains("busy.main.0"), "{table}");
    cli.run(&["top"]).await.exited(2).told("--once");

    // Live, and the terminal is what it was afterwards, however it ends.
    for end in ["q", "\x03", "SIGTERM"] {
        let Seat { mut child, mut person } = Seat::take(cli.command(&["top"]), 80, 24);
        person.sees("busy.main.0").await;
        person.types("s");
        person.sees("memory").await;
        assert!(!person.has_lines());
        if end == "SIGTERM" {
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        } else {
            person.types(end);
        }
        let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
        let wanted = if end == "SIGTERM" { 130 } else { 0 };
        assert_eq!(status.code(), Some(wanted), "{end:?}");
        assert!(person.has_lines(), "{end:?}");
        // It has left the screen that was its own, and shows the cursor.
        person.sees("\x1b[?1049l").await;
        person.sees("\x1b[?25h").await;
    }

    // A service outside hears the same.
    let incoming = tokio::time::timeout(SOON, heard.next()).await.unwrap().unwrap();
    let figures: NodeMetrics = codec::decode(&incoming.payload).unwrap();
    assert!(figures.at_ms > 0);
    cli.ok(&["stop", "busy", "--wait"]).await;
    eventually("the task is no longer shown", SOON, async || {
        let shown = cli.json(&["top", "--once"]).await;
        if shown["tasks"] == serde_json::json!([]) { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
}

/// How much memory a process has.
fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1_024
}
