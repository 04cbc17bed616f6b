//! Networks that are kept ready: joined, kept over attempts, found again, made up for when they end, and taken away.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use bollard::models::ContainerSummary;
use bollard::query_parameters::{KillContainerOptions, ListContainersOptionsBuilder};
use longshore_core::agent::labels;
use longshore_proto::id::TaskId;
use longshore_proto::spec::{Port, Protocol, RestartMode};
use longshore_proto::state::TaskState;
use longshore_worker::OnShutdown;
use longshore_worker::runtime::{ExecWish, Runtime};

use crate::leader::{DEADLINE, Leader, Node, Server};

/// Everything in Docker that a node's worker has made, by kind.
struct Seen {
    /// The ids of the sandboxes that run.
    sandboxes: BTreeSet<String>,
    /// Those of the sandboxes that do not.
    halves: BTreeSet<String>,
    /// The networks of the containers of tasks that run, by task and attempt.
    networks: BTreeMap<(TaskId, u64), String>,
}

impl Seen {
    async fn of(node: &Node) -> Self {
        let docker = bollard::Docker::connect_with_defaults().unwrap();
        let label = format!("{}={}", labels::NODE, node.name);
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let mut seen =
            Self { sandboxes: BTreeSet::new(), halves: BTreeSet::new(), networks: BTreeMap::new() };
        let found = soon("a list", docker.list_containers(Some(options))).await.unwrap();
        for found in found {
            let ContainerSummary { id, labels: Some(labels), state, host_config, .. } = found
            else {
                panic!("a container without labels has the label");
            };
            let runs = state.is_some_and(|state| state.to_string() == "running");
            if labels.contains_key(labels::SANDBOX) {
                let kind = if runs { &mut seen.sandboxes } else { &mut seen.halves };
                kind.insert(id.unwrap());
            } else if runs {
                let task = labels[labels::TASK].parse().unwrap();
                let attempt = labels[labels::ATTEMPT].parse().unwrap();
                let network = host_config.unwrap().network_mode.unwrap();
                seen.networks.insert((task, attempt), network);
            }
        }
        seen
    }

    /// The ids of those that no container has joined.
    fn free(&self) -> BTreeSet<String> {
        let is_used = |id: &str| {
            self.networks.values().any(|network| network.strip_prefix("container:") == Some(id))
        };
        self.sandboxes.iter().filter(|id| !is_used(id)).cloned().collect()
    }

    fn sandbox_of(&self, task: TaskId, attempt: u64) -> Option<&str> {
        self.networks.get(&(task, attempt))?.strip_prefix("container:")
    }
}

/// What Docker itself is asked by a test: should it hang, the test says in what.
async fn soon<T>(what: &str, answer: impl Future<Output = T>) -> T {
    let answered = tokio::time::timeout(DEADLINE, answer).await;
    answered.unwrap_or_else(|_| panic!("Docker does not answer in {DEADLINE:?}: {what}"))
}

/// Waits until so many wait for a task.
async fn ready(node: &Node, wanted: usize) -> Seen {
    let start = tokio::time::Instant::now();
    loop {
        let seen = Seen::of(node).await;
        if seen.free().len() == wanted {
            return seen;
        }
        assert!(start.elapsed() < DEADLINE, "{:?}, {wanted} wanted", seen.sandboxes);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn with(sandboxes: usize) -> Node {
    let mut node = Node::new();
    node.sandboxes = sandboxes;
    node
}

async fn kill(container: &str) {
    let docker = bollard::Docker::connect_with_defaults().unwrap();
    let kill = docker.kill_container(container, None::<KillContainerOptions>);
    soon("a kill", kill).await.unwrap();
}

/// Runs a command in a container, and gives what it wrote.
async fn run_in(node: &Node, container_id: &str, command: &[&str]) -> String {
    use futures_util::StreamExt;
    let wish = ExecWish {
        container_id: container_id.to_owned(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        ..ExecWish::default()
    };
    let exec = node.docker.exec(wish).await.unwrap();
    let pieces: Vec<_> = soon("the end of a command", exec.output.collect()).await;
    let pieces = pieces.into_iter().map(|piece| piece.unwrap().bytes.to_vec());
    String::from_utf8(pieces.flatten().collect()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_gets_a_network_that_is_ready_and_keeps_it_for_its_next_attempt() {
    let (server, node) = (Server::start(), with(1));
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start(&server, OnShutdown::Stop);
    let first = ready(&node, 1).await.free().pop_first().unwrap();
    let listed = node.docker.list().await.unwrap();
    assert_eq!(listed, vec![], "a sandbox is no task's");

    let task = leader.run("exec sleep 1000", RestartMode::Always).await;
    let container = leader.reported(task, 1, TaskState::Running).await.container_id.unwrap();
    // Another takes the place of the one that was given away.
    let seen = ready(&node, 1).await;
    assert_eq!(seen.sandbox_of(task, 1), Some(first.as_str()));
    assert!(!seen.free().contains(&first));
    assert_eq!(node.docker.list().await.unwrap().len(), 1);

    // Its address is where it is asked for its health, and the one that it has itself.
    let look = node.docker.look(container.clone()).await.unwrap();
    let ip: IpAddr = look.ip.unwrap();
    let addresses = run_in(&node, &container, &["ip", "-4", "addr", "show", "dev", "eth0"]).await;
    assert!(addresses.contains(&format!("inet {ip}/")), "{addresses}");
    let usages = node.docker.usages(vec![container.clone()]).await;
    assert!(usages[&container].received_bytes.is_some(), "{usages:?}");

    // The same network, whoever else would have it.
    kill(&container).await;
    leader.reported(task, 2, TaskState::Running).await;
    let seen = Seen::of(&node).await;
    assert_eq!(seen.sandbox_of(task, 2), Some(first.as_str()));

    // What it publishes Docker must know when it makes the network.
    let published = leader
        .run_as("exec sleep 1000", RestartMode::Always, |spec| {
            spec.ports = vec![Port {
                host: 0,
                container: 80,
                protocol: Protocol::Tcp,
                host_ip: None,
                name: Some("web".into()),
            }];
        })
        .await;
    leader.reported(published, 1, TaskState::Running).await;
    assert_eq!(Seen::of(&node).await.networks[&(published, 1)], "bridge");

    worker.end().await;
    let left = Seen::of(&node).await;
    assert!(left.sandboxes.is_empty() && left.networks.is_empty(), "{:?}", left.sandboxes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_again_keeps_what_its_tasks_use_and_makes_the_others_anew() {
    let (server, mut node) = (Server::start(), with(2));
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start(&server, OnShutdown::Stop);
    ready(&node, 2).await;
    let task = leader.run("exec sleep 1000", RestartMode::Always).await;
    let container = leader.reported(task, 1, TaskState::Running).await.container_id.unwrap();
    let before = ready(&node, 2).await;
    worker.kill(&node).await;

    let worker = node.start(&server, OnShutdown::Stop);
    let boots = |known: &crate::leader::Known| (known.registers.len() > 1).then_some(());
    leader.until("it registers again", boots).await;
    // For all that it knows a task has had the others. That they are gone proves that it has seen the container run.
    let start = tokio::time::Instant::now();
    while !ready(&node, 2).await.free().is_disjoint(&before.free()) {
        assert!(start.elapsed() < DEADLINE, "{:?} are kept", before.free());
    }
    kill(&container).await;
    leader.reported(task, 2, TaskState::Running).await;
    let after = Seen::of(&node).await;
    assert_eq!(after.sandbox_of(task, 2), before.sandbox_of(task, 1));
    worker.kill(&node).await;

    // One that is to keep none takes away what nobody has, and leaves the task its own.
    node.sandboxes = 0;
    let worker = node.start(&server, OnShutdown::Stop);
    let seen = ready(&node, 0).await;
    assert_eq!(seen.sandbox_of(task, 2), before.sandbox_of(task, 1));
    assert_eq!(seen.sandboxes.len(), 1);
    let runs_it = |known: &crate::leader::Known| {
        let boot = (known.registers.len() > 2).then(|| known.registers.last())??.boot_id;
        let beat = known.heartbeats.last()?;
        (beat.boot_id == boot && beat.tasks_running == 1).then_some(())
    };
    leader.until("it has taken the task on", runs_it).await;
    worker.end().await;
    let left = Seen::of(&node).await;
    assert!(left.sandboxes.is_empty() && left.networks.is_empty(), "{:?}", left.sandboxes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_sandbox_ends_is_started_anew_with_a_network() {
    let (server, node) = (Server::start(), with(1));
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start(&server, OnShutdown::Stop);
    ready(&node, 1).await;
    let task = leader.run("exec sleep 1000", RestartMode::Always).await;
    leader.reported(task, 1, TaskState::Running).await;
    let lost = ready(&node, 1).await.sandbox_of(task, 1).unwrap().to_owned();
    kill(&lost).await;
    let report = leader.reported(task, 2, TaskState::Preparing).await;
    assert_eq!(report.exit_code, Some(137));
    let reason = report.reason.unwrap();
    assert!(reason.contains("the sandbox that held its network had ended"), "{reason}");
    let container = leader.reported(task, 2, TaskState::Running).await.container_id.unwrap();
    let seen = Seen::of(&node).await;
    assert_ne!(seen.sandbox_of(task, 2), Some(lost.as_str()));
    let addresses = run_in(&node, &container, &["ip", "-4", "addr", "show", "dev", "eth0"]).await;
    assert!(addresses.contains("inet "), "{addresses}");

    // One that nobody has is made up for; one that is gone when a task wants it costs the task nothing.
    let free = ready(&node, 1).await.free().pop_first().unwrap();
    kill(&free).await;
    let other = leader.run("exec sleep 1000", RestartMode::Never).await;
    leader.reported(other, 1, TaskState::Running).await;
    assert_eq!(leader.history(other), [(1, TaskState::Preparing), (1, TaskState::Running)]);
    let seen = ready(&node, 1).await;
    assert!(!seen.free().contains(&free));
    worker.end().await;
    assert!(Seen::of(&node).await.sandboxes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_while_it_makes_one_leaves_nothing_behind() {
    let (server, mut node) = (Server::start(), with(20));
    let leader = Leader::start(&server, node.name.clone()).await;
    let registered = |known: &crate::leader::Known| (!known.registers.is_empty()).then_some(());
    let worker = node.start(&server, OnShutdown::Stop);
    leader.until("it registers", registered).await;
    // One has been created and does not run yet.
    let start = tokio::time::Instant::now();
    while Seen::of(&node).await.halves.is_empty() {
        assert!(start.elapsed() < DEADLINE, "none was seen while it was made");
    }
    worker.end().await;
    let left = Seen::of(&node).await;
    assert!(left.sandboxes.is_empty() && left.halves.is_empty(), "{:?}", left.halves);

    // One that is killed there leaves it to the next.
    let worker = node.start(&server, OnShutdown::Stop);
    let start = tokio::time::Instant::now();
    while Seen::of(&node).await.halves.is_empty() {
        assert!(start.elapsed() < DEADLINE, "none was seen while it was made");
    }
    worker.kill(&node).await;
    node.sandboxes = 1;
    let worker = node.start(&server, OnShutdown::Stop);
    while !ready(&node, 1).await.halves.is_empty() {
        assert!(start.elapsed() < DEADLINE * 2, "what was left is not removed");
    }
    worker.end().await;
    let left = Seen::of(&node).await;
    assert!(left.sandboxes.is_empty() && left.halves.is_empty(), "{:?}", left.halves);
}
