//! The contract for other languages, kept by a client that shares no code with Longshore: Python with `nats-py`
//! and `msgpack`, from docs/protocol.md alone.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use longshore_proto::permission::Role::{Observer, Operator};
use longshore_tests::program::{Program, checkout, optional_tool};
use longshore_tests::{Cluster, IMAGE};
use serde_json::Value;

/// How long anything may take on a loaded machine.
const SOON: Duration = Duration::from_secs(90);

/// Starts a script of `tests/python`.
fn script(
    cluster: &Cluster,
    python: &PathBuf,
    name: &str,
    role: (longshore_proto::permission::Role, &str),
    words: &[&str],
) -> Program {
    let mut command = Command::new(python);
    command
        .arg(checkout().join("tests/python").join(format!("{name}.py")))
        .arg(cluster.nats.url())
        .arg(cluster.users.file(role.0, role.1))
        .args(words)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Program::start(name, command, &cluster.folder().join(format!("{name}.log")))
}

#[tokio::test]
async fn a_client_in_python_starts_a_task_and_another_reads_its_events_live_and_from_history() {
    let Some(python) = optional_tool("python3") else { return };
    let mut cluster = Cluster::with_workers(&["w1"]).await;
    let job = "from-python";
    let mut observer = script(&cluster, &python, "observer", (Observer, "billing"), &[job]);
    observer.says("\"ready\"", SOON).await;
    let mut starter = script(&cluster, &python, "starter", (Operator, "alice"), &[job, IMAGE]);
    assert!(starter.ended(SOON).await.success(), "{}", starter.log());
    assert!(observer.ended(SOON).await.success(), "{}", observer.log());

    let task: Value = serde_json::from_str(starter.log().lines().last().unwrap()).unwrap();
    let docker = cluster.docker().await;
    assert_eq!(docker.running().await, [task["container_id"].as_str().unwrap()]);
    let container = docker.inspect(task["container_id"].as_str().unwrap()).await;
    assert!(
        container.config.unwrap().env.unwrap().iter().any(|variable| variable == "FROM=python")
    );
    let said: Vec<Value> =
        observer.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let running = said.iter().find(|line| line["live"]["type"] == "task.running").unwrap();
    assert_eq!(running["live"]["task"], task["id"]);
    assert_eq!(running["live"]["node"], "w1");
    assert!(said.last().unwrap()["done"].as_bool().unwrap());
}
