//! Commands in containers, through NATS alone: with and without a terminal.

use std::fmt::Write as _;

use longshore_tests::{Cluster, IMAGE, eventually};

use crate::SOON;
use crate::look::{sleeper, text};
use crate::terminal::Seat;

async fn cluster() -> Cluster {
    let mut cluster = Cluster::server().await;
    cluster.start_manager("m1", &[]);
    cluster.answers().await;
    cluster.start_worker("w1", &[]);
    cluster.node_is("w1", longshore_proto::state::NodeStatus::Ready).await;
    cluster
}

#[tokio::test]
async fn a_command_has_its_input_its_outputs_and_its_exit_code() {
    let cluster = cluster().await;
    let cli = cluster.cli();
    let task = sleeper(&cli, "web", &["--env", "COLOUR=blue"]).await;
    let id = text(&task, "id");

    let script = "echo $COLOUR $SIZE; pwd; id -u; echo oops >&2; exit 42";
    let words = ["exec", "-e", "SIZE=3", "-w", "/tmp", "-u", "1000", &id[..13], "sh", "-c", script];
    let outcome = cli.run(&words).await.exited(42);
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("blue 3\n/tmp\n1000\n", "oops\n")
    );

    // Far more than is ever under way at once, there and back.
    let mut input = String::new();
    for number in 0..400_000 {
        let _ = writeln!(input, "line {number}");
    }
    let outcome = cli.run_with_input(&["exec", "-i", "web", "cat"], Some(&input)).await.exited(0);
    assert!(outcome.stdout == input, "{} bytes of {} came back", outcome.stdout.len(), input.len());
    // A command that does not read all of it ends all the same.
    let outcome = cli.run_with_input(&["exec", "-i", "web", "head", "-n", "1"], Some(&input)).await;
    assert_eq!(outcome.exited(0).stdout, "line 0\n");
    // Without -i there is nothing to read.
    assert_eq!(cli.run_with_input(&["exec", "web", "cat"], Some("x")).await.exited(0).stdout, "");

    let missing = cli.run(&["exec", "web", "no-such-command"]).await.exited(126);
    assert!(
        missing.stdout.contains("not found"),
        "Docker tells it where the command would: {missing:?}"
    );
    cli.run(&["exec", "nothing", "ls"]).await.exited(125).told("nothing");
    cli.run(&["exec", "-t", "web", "sh"]).await.exited(2).told("no terminal");
    cli.ok(&["stop", "web", "--wait"]).await;
    cli.run(&["exec", &id, "ls"]).await.exited(125).told("stopped");
}

#[tokio::test]
async fn a_shell_has_a_real_terminal() {
    let cluster = cluster().await;
    let cli = cluster.cli();
    sleeper(&cli, "web", &[]).await;

    let command = cli.command(&["exec", "-it", "web", "sh"]);
    let Seat { mut child, mut person } = Seat::take(command, 100, 30);

    person.sees("# ").await;
    person.types("tty; stty size\n");
    person.sees("/dev/pts/").await;
    person.sees("30 100").await;
    person.resizes(&child, 120, 40);
    eventually("the new size", SOON, async || {
        person.types("stty size\n");
        let seen = person.seen();
        if seen.contains("40 120") { Ok(()) } else { Err(seen) }
    })
    .await;
    // Ctrl-C is the command's, not ours.
    person.types("sleep 1000\n");
    person.sees("sleep 1000").await;
    person.types("\x03echo still $((40 + 2))\n");
    person.sees("still 42").await;
    person.types("exit 7\n");
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(7));
}

#[tokio::test]
async fn what_the_node_chooses_refuses_and_finds_is_shown() {
    let cluster = cluster().await;
    let cli = cluster.cli();
    let task = sleeper(
        &cli,
        "web",
        &["--publish", "ui=127.0.0.1::80", "--env", "AT=${node.name}:${port.ui}"],
    )
    .await;
    let port = task["ports"][0]["host"].as_u64().unwrap();
    assert!((20_000..=32_000).contains(&port), "{task}");
    assert_eq!(cli.ok(&["exec", "web", "sh", "-c", "echo $AT"]).await, format!("w1:{port}\n"));
    let shown = cli.ok(&["status", &text(&task, "id")]).await;
    assert!(shown.contains(&format!("ui=127.0.0.1:{port}->80/tcp")), "{shown}");

    let mighty =
        ["run", "--name", "mighty", "--type", "batch", "--privileged", "--wait", IMAGE, "true"];
    let outcome = cli.run(&mighty).await;
    assert_eq!(outcome.code, Some(125), "{outcome:#?}");
    let refused = crate::look::tasks(&cli, "mighty").await;
    let reason = text(&refused[0], "reason");
    assert!(reason.contains("--allow-privileged"), "{reason}");
    assert_eq!((&refused[0]["state"], &refused[0]["attempt"]), (&"failed".into(), &1.into()));

    let job = "name = \"checked\"\n[[task]]\nimage = \"longshore-busybox:1\"\npull = \"never\"\n\
               command = [\"sleep\", \"1000\"]\nstop_grace = \"1s\"\n\
               health = { type = \"exec\", command = [\"true\"], interval = \"500ms\" }\n";
    let submit = cli.run_with_input(&["job", "submit", "-"], Some(job)).await;
    submit.succeeded();
    let healthy = |tasks: &[serde_json::Value]| {
        tasks.iter().find(|task| task["health"] == "healthy").cloned()
    };
    crate::look::until(&cli, "checked", "it is healthy", healthy).await;
}
