//! Bad input on the command line: told in words, with exit code 2 before anything is asked, 1 after.

use longshore_tests::Cluster;
use longshore_tests::cli::Cli;

#[tokio::test]
async fn words_that_make_no_sense_are_usage_errors() {
    let folder = tempfile::tempdir().unwrap();
    let cli = Cli::bare(folder.path());
    let long = "n".repeat(300);
    for (words, told) in [
        (&["run", "--memory", "-1", "x:1"][..], "--memory"),
        (&["run", "--memory", "10XB", "x:1"], "--memory"),
        (&["run", "--cpus", "many", "x:1"], "--cpus"),
        (&["run", "-n", "0", "x:1"], "instances"),
        (&["run", "-n", "1000000", "x:1"], "instances"),
        (&["run", "--name", "a.b", "x:1"], "--name"),
        (&["run", "--name", &long, "x:1"], "at most 63"),
        (&["run", "-p", "0:80", "x:1"], "--publish"),
        (&["run", "--type", "daemon", "x:1"], "--type"),
        (&["run", "--restart", "sometimes", "x:1"], "--restart"),
        (&["run", "-e", "=x", "x:1"], "--env"),
        (&["run"], "IMAGE"),
        (&["ps", "--root", "A.B"], "--root"),
        (&["frobnicate"], "frobnicate"),
        (&["worker", "--name", "a_b", "--data-dir", "/nowhere"], "--name"),
        (&["manager"], "--data-dir"),
    ] {
        let outcome = cli.run(words).await.exited(2).told(told);
        assert_eq!(outcome.stdout, "", "errors are talk, not data: {outcome:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let port = longshore_bench::port::free_port();
    let cli =
        Cli::bare(folder.path()).with("LONGSHORE_NATS_URL", format!("nats://127.0.0.1:{port}"));
    for verb in
        [&["ps"][..], &["status"], &["run", "x:1"], &["events"], &["node", "ls"], &["job", "ls"]]
    {
        cli.run(verb).await.exited(1).told("no NATS server answers").told("longshore dev");
    }
    cli.run(&["run", "--wait", "--type", "batch", "x:1"]).await.exited(125);
    let doctor = cli.run(&["doctor"]).await.exited(1);
    assert!(doctor.stdout.contains("no NATS server answers"), "{doctor:?}");
}

#[tokio::test]
async fn a_cluster_without_a_manager_is_told_with_what_to_do() {
    let cluster = Cluster::server().await;
    let cli = cluster.cli();
    cli.run(&["ps", "--timeout", "1s"]).await.exited(1).told("no manager answered");
    let doctor = cli.run(&["doctor", "--timeout", "1s"]).await.exited(1);
    assert!(doctor.stdout.contains("fail"), "{doctor:?}");
}

#[tokio::test]
async fn a_job_file_that_is_wrong_names_the_place_and_the_cure() {
    let cluster = Cluster::start().await;
    let cli = cluster.cli();
    for (text, told) in [
        ("name = \"a.b\"\n[[task]]\nimage = \"x:1\"\n", "a.b"),
        ("name = \"web\"\n", "task"),
        ("name = \"web\"\n[[task]]\nimage = \"x:1\"\ninstances = 0\n", "instances"),
        ("name = \"web\"\n[[task]]\nimage = \"x:1\"\ninstances = 1000000\n", "instances"),
        ("name = \"web\"\n[[task]]\nimage = \"x:1\"\nmemory = \"10XB\"\n", "memory"),
        ("name = \"web\"\n[[task]]\nimage = \"x:1\"\nmemory = \"-1\"\n", "memory"),
        ("name = \"web\"\n[[task]]\nimage = \"x:1\"\ncolour = \"red\"\n", "colour"),
        ("name = ", "name"),
    ] {
        let outcome = cli.run_with_input(&["job", "submit", "-"], Some(text)).await;
        assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
        outcome.told(told);
    }
    cli.run(&["job", "submit", "/nowhere/job.toml"]).await.exited(1).told("/nowhere/job.toml");
    assert_eq!(cli.json(&["job", "ls"]).await, serde_json::json!([]));
}

#[tokio::test]
async fn what_is_not_there_is_told() {
    let cluster = Cluster::start().await;
    let cli = cluster.cli();
    cli.run(&["job", "status", "nothing"]).await.exited(1).told("nothing");
    cli.run(&["status", "nothing"]).await.exited(1).told("nothing");
    cli.run(&["stop", "nothing"]).await.exited(1).told("nothing");
    cli.run(&["logs", "nothing"]).await.exited(1).told("nothing");
    cli.run(&["node", "status", "nothing"]).await.exited(1).told("nothing");
    assert_eq!(cli.json(&["ps"]).await, serde_json::json!([]));
    assert_eq!(cli.json(&["node", "ls"]).await, serde_json::json!([]));
}

#[tokio::test]
async fn a_cluster_of_another_root_is_another_cluster() {
    let mut cluster = Cluster::server_of("blue".parse().unwrap()).await;
    cluster.start_manager("m1", &["--log-format", "json"]);
    cluster.answers().await;
    let cli = cluster.cli();
    cli.ok(&["run", "--name", "web", "x:1"]).await;
    assert_eq!(cli.json(&["job", "ls"]).await[0]["name"], "web");
    // The permissions are of the root, too: nobody there may even ask under another.
    cli.run(&["job", "ls", "--root", "red", "--timeout", "1s"]).await.exited(1);
    // What a program says of itself can be read by programs.
    let log = cluster.manager("m1").log();
    assert!(log.lines().count() > 2);
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["level"].is_string(), "{line}");
    }
}
