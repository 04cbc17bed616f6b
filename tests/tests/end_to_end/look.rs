//! Looking at tasks through the command line, as a program would: `-o json`.

use longshore_tests::cli::Cli;
use longshore_tests::eventually;
use serde_json::Value;

use crate::SOON;

/// Every task of a job, the ended ones too; the oldest first.
pub(crate) async fn tasks(cli: &Cli, job: &str) -> Vec<Value> {
    match cli.json(&["ps", "-a", "--job", job]).await {
        Value::Array(tasks) => tasks,
        other => panic!("{other} is no list"),
    }
}

/// Waits until the tasks of a job are as wanted. The look says what it wants to keep, or nothing.
pub(crate) async fn until<T>(
    cli: &Cli,
    job: &str,
    what: &str,
    look: impl Fn(&[Value]) -> Option<T>,
) -> T {
    eventually(&format!("{job}: {what}"), SOON, async || {
        let tasks = tasks(cli, job).await;
        look(&tasks).ok_or_else(|| Value::Array(tasks).to_string())
    })
    .await
}

/// Waits until one task of a job runs, and gives it.
pub(crate) async fn running(cli: &Cli, job: &str) -> Value {
    until(cli, job, "it runs", |tasks| {
        tasks.iter().find(|task| task["state"] == "running").cloned()
    })
    .await
}

/// A field's text.
pub(crate) fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is no text in {value}")).to_owned()
}

/// Starts a service of `sleep` and waits until it runs.
pub(crate) async fn sleeper(cli: &Cli, name: &str, options: &[&str]) -> Value {
    let words = [
        &["run", "--name", name, "--stop-grace", "1s", "--wait"][..],
        options,
        &[longshore_tests::IMAGE, "sleep", "1000000"],
    ]
    .concat();
    cli.ok(&words).await;
    running(cli, name).await
}
