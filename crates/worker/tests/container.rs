//! What a task says of its container, carried out by a real Docker; and what a node does not allow, refused.
//!
//! Needs a Docker daemon with the image `longshore-busybox:1`; `scripts/setup` provides both.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and the place is told"
)]

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, NetworkCreateRequest};
use bollard::query_parameters::InspectContainerOptions;
use futures_util::StreamExt;
use longshore_core::agent::StartContainer;
use longshore_core::agent::labels::Owner;
use longshore_proto::container::{
    ContainerSpec, CpuMode, Device, Gpus, LogDriver, Network, Ulimit,
};
use longshore_proto::id::{ClusterId, Revision, TaskId};
use longshore_proto::name::NodeName;
use longshore_proto::node::RunTask;
use longshore_proto::spec::{Port, Protocol, TaskSpec};
use longshore_worker::PORT_RANGE_USUAL;
use longshore_worker::policy::Policy;
use longshore_worker::runtime::docker::Docker;
use longshore_worker::runtime::{LogsWish, Runtime, RuntimeError};
use uuid::Uuid;

const IMAGE: &str = "longshore-busybox:1";
/// Longer than any healthy daemon takes for one step, even under load.
const DEADLINE: Duration = Duration::from_secs(60);

struct Bench {
    docker: Docker,
    node: NodeName,
}

impl Bench {
    fn new(policy: Policy) -> Self {
        let node: NodeName = format!("test-{}", Uuid::new_v4().simple()).parse().unwrap();
        let variables = [("node.label.rack", "r1"), ("node.datacenter", "dc1")];
        let docker = Docker::new(None, node.clone(), 2)
            .with_policy(policy)
            .with_variables(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Self { docker, node }
    }

    fn start_of(&self, container: ContainerSpec, script: &str) -> StartContainer {
        let mut spec = TaskSpec::new("main".parse().unwrap(), IMAGE);
        spec.command = ["sh", "-c", script].map(str::to_owned).to_vec();
        spec.container = container;
        let run = RunTask {
            namespace: "team".parse().unwrap(),
            job: "web".parse().unwrap(),
            version: 7,
            slot: 3,
            attempt_floor: 0,
            epoch: None,
            node_labels: BTreeMap::new(),
            spec,
        };
        let owner = Owner {
            cluster_id: ClusterId(Uuid::new_v4()),
            node: self.node.clone(),
            task: TaskId(Uuid::now_v7()),
            attempt: 2,
        };
        StartContainer {
            task: owner.task,
            attempt: owner.attempt,
            name: owner.container_name(),
            labels: owner.labels(Revision { epoch: 1, index: 2 }, &run),
            run,
        }
    }

    /// Runs a script to its end and gives what it wrote.
    async fn output(&self, start: StartContainer) -> String {
        let id = self.docker.start(start).await.unwrap().container_id;
        let wish = LogsWish {
            container_id: id,
            follow: true,
            tail: None,
            since_ms: None,
            timestamps: false,
        };
        let lines = tokio::time::timeout(DEADLINE, self.docker.logs(wish).collect::<Vec<_>>());
        let lines = lines.await.unwrap();
        lines
            .iter()
            .map(|line| String::from_utf8_lossy(&line.as_ref().unwrap().bytes).into_owned())
            .collect()
    }

    async fn inspect(&self, start: StartContainer) -> ContainerInspectResponse {
        let id = self.docker.start(start).await.unwrap().container_id;
        let client = bollard::Docker::connect_with_local_defaults().unwrap();
        client.inspect_container(&id, None::<InspectContainerOptions>).await.unwrap()
    }
}

impl Drop for Bench {
    /// Clears up, whether the test has passed or not: a test's own runtime cannot be waited for in a `drop`.
    fn drop(&mut self) {
        let node = self.node.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let clear = async move {
            let docker = Docker::new(None, node, 2);
            for container in docker.list().await.unwrap_or_default() {
                let _ = docker.remove(container.id, 0).await;
            }
        };
        let _ = std::thread::spawn(move || runtime.block_on(clear)).join();
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test]
async fn what_a_hardened_container_may_say_of_itself_is_so() {
    let bench = Bench::new(Policy::default());
    let container = ContainerSpec {
        working_dir: Some("/tmp".into()),
        user: Some("1000:2000".into()),
        hostname: Some("web-${task.index}".into()),
        labels: [("team".to_owned(), "${job.namespace}/${job.name}".to_owned())].into(),
        dns: vec!["127.0.0.53".parse().unwrap()],
        dns_search: texts(&["example.org"]),
        hosts: [("db".to_owned(), "10.1.2.3".parse().unwrap())].into(),
        cpu_mode: CpuMode::Shares,
        memory_reservation_bytes: Some(16 << 20),
        pids_max: Some(20),
        shm_bytes: Some(1 << 20),
        ulimits: [("nofile".to_owned(), Ulimit { soft: 100, hard: 200 })].into(),
        cap_drop: texts(&["ALL"]),
        cap_add: texts(&["KILL"]),
        read_only: true,
        init: true,
        ..ContainerSpec::default()
    };
    let script = "pwd; id -u; id -g; hostname; ulimit -Sn; ulimit -Hn; cat /etc/hosts /etc/resolv.conf; \
                  grep CapBnd /proc/self/status; df -k /dev/shm; cat /proc/1/comm; \
                  touch /x 2>/dev/null || echo read-only; echo \"$NODE $HOME_LEFT\"";
    let mut start = bench.start_of(container, script);
    start.run.spec.env = [
        (
            "NODE",
            "${node.name} ${node.datacenter} ${node.label.rack}${node.label.none} ${task.attempt}",
        ),
        ("HOME_LEFT", "${HOME} $${node.name}"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let output = bench.output(start.clone()).await;
    assert!(output.starts_with("/tmp\n1000\n2000\nweb-3\n100\n200\n"), "{output}");
    for wanted in [
        "10.1.2.3\tdb",
        "nameserver 127.0.0.53",
        "search example.org",
        "CapBnd:\t0000000000000020",
        " 1024 ",
        "docker-init",
        "read-only",
    ] {
        assert!(output.contains(wanted), "{wanted}: {output}");
    }
    let wanted = format!("{} dc1 r1 2 ${{HOME}} ${{node.name}}\n", bench.node);
    assert!(output.ends_with(&wanted), "{output}");

    let client = bollard::Docker::connect_with_local_defaults().unwrap();
    let found =
        client.inspect_container(&start.name, None::<InspectContainerOptions>).await.unwrap();
    let host = found.host_config.unwrap();
    assert_eq!((host.nano_cpus, host.cpu_shares), (Some(0), Some(102)));
    assert_eq!((host.memory_reservation, host.pids_limit), (Some(16 << 20), Some(20)));
    let labels = found.config.unwrap().labels.unwrap();
    assert_eq!(labels.get("team").map(String::as_str), Some("team/web"));
    assert_eq!(labels.get("longshore.job").map(String::as_str), Some("web"));
}

#[tokio::test]
async fn the_stop_signal_and_the_log_driver_are_as_wished() {
    let bench = Bench::new(Policy::default());
    let options = [("max-size".to_owned(), "1m".to_owned())].into();
    let container = ContainerSpec {
        stop_signal: Some("SIGUSR1".into()),
        log: Some(LogDriver { driver: "local".into(), options }),
        ..ContainerSpec::default()
    };
    let start =
        bench.start_of(container, "trap 'exit 42' USR1; echo ready; while :; do sleep 0.1; done");
    let found = bench.inspect(start).await;
    let log = found.host_config.unwrap().log_config.unwrap();
    let options = log.config.unwrap();
    assert_eq!(log.typ.as_deref(), Some("local"));
    assert_eq!(options.get("max-size").map(String::as_str), Some("1m"));
    assert_eq!(options.get("max-file").map(String::as_str), Some("3"));
    let id = found.id.unwrap();
    // Only once the trap is set does the signal mean anything.
    let wish = LogsWish {
        container_id: id.clone(),
        follow: true,
        tail: None,
        since_ms: None,
        timestamps: false,
    };
    let mut lines = bench.docker.logs(wish);
    tokio::time::timeout(DEADLINE, lines.next()).await.unwrap();
    let end = bench.docker.stop(id, 10_000).await.unwrap();
    assert_eq!(end.exit_code, Some(42));
}

#[tokio::test]
async fn what_the_node_does_not_allow_is_refused_before_anything_is_made() {
    let bench = Bench::new(Policy::default());
    let usual = ContainerSpec::default;
    let device = Device { host: "/dev/null".into(), container: None, permissions: "rw".into() };
    for (wish, option) in [
        (ContainerSpec { privileged: true, ..usual() }, "--allow-privileged"),
        (ContainerSpec { new_privileges: true, ..usual() }, "--allow-new-privileges"),
        (ContainerSpec { cap_add: texts(&["SYS_ADMIN"]), ..usual() }, "--allow-cap SYS_ADMIN"),
        (ContainerSpec { network: Network::Host, ..usual() }, "--allow-network host"),
        (ContainerSpec { devices: vec![device], ..usual() }, "--allow-device /dev/null"),
        (ContainerSpec { gpus: Some(Gpus::All), ..usual() }, "--allow-gpus"),
        (ContainerSpec { pids_max: Some(5_000), ..usual() }, "--pids-max 5000"),
    ] {
        match bench.docker.start(bench.start_of(wish, "true")).await {
            Err(RuntimeError::Forbidden(reason)) => assert!(reason.contains(option), "{reason}"),
            other => panic!("{option}: {other:?}"),
        }
    }
    assert_eq!(bench.docker.list().await.unwrap(), vec![]);
}

#[tokio::test]
async fn what_the_node_allows_is_granted() {
    let bench = Bench::new(Policy {
        networks: ["host".to_owned()].into(),
        capabilities: ["NET_ADMIN".to_owned()].into(),
        devices: ["/dev/null".to_owned()].into(),
        new_privileges: true,
        privileged: true,
        ..Policy::default()
    });
    let container = ContainerSpec {
        network: Network::Host,
        cap_add: texts(&["NET_ADMIN"]),
        devices: vec![Device {
            host: "/dev/null".into(),
            container: Some("/dev/nothing".into()),
            permissions: "r".into(),
        }],
        new_privileges: true,
        ..ContainerSpec::default()
    };
    let script = "grep -E 'NoNewPrivs|CapBnd' /proc/self/status; ls /dev/nothing; hostname";
    let output = bench.output(bench.start_of(container, script)).await;
    // NET_ADMIN (bit 12) beside the usual ones.
    assert!(output.contains("CapBnd:\t00000000a00415fb"), "{output}");
    assert!(output.contains("NoNewPrivs:\t0") && output.contains("/dev/nothing"), "{output}");

    let mighty = ContainerSpec { privileged: true, ..ContainerSpec::default() };
    let start = bench.start_of(mighty, "true");
    // A machine that is not all-mighty itself cannot start it; what was asked for shows all the same.
    let _ = bench.docker.start(start.clone()).await;
    let client = bollard::Docker::connect_with_local_defaults().unwrap();
    let found =
        client.inspect_container(&start.name, None::<InspectContainerOptions>).await.unwrap();
    assert_eq!(found.host_config.unwrap().privileged, Some(true));
}

#[tokio::test]
async fn networks_of_the_node_and_none_are_joined() {
    let name = format!("longshore-test-{}", Uuid::new_v4().simple());
    let client = bollard::Docker::connect_with_local_defaults().unwrap();
    let made = NetworkCreateRequest { name: name.clone(), ..NetworkCreateRequest::default() };
    client.create_network(made).await.unwrap();
    let bench = Bench::new(Policy { networks: [name.clone()].into(), ..Policy::default() });
    let on = |network| ContainerSpec { network, ..ContainerSpec::default() };
    let found = bench.inspect(bench.start_of(on(Network::Named(name.clone())), "sleep 100")).await;
    let networks = found.network_settings.unwrap().networks.unwrap();
    assert!(networks.contains_key(&name), "{networks:?}");
    let output = bench.output(bench.start_of(on(Network::None), "ls /sys/class/net")).await;
    assert_eq!(output, "lo\n");
    drop(bench);
    client.remove_network(&name).await.unwrap();
}

/// A port of this machine that is free just now, and that no client takes while Docker makes the container.
fn free_port() -> u16 {
    loop {
        let port = rand::random_range(PORT_RANGE_USUAL);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

#[tokio::test]
async fn a_port_is_published_and_known_to_the_task() {
    let bench = Bench::new(Policy::default());
    let host = free_port();
    let script =
        "echo \"port $WEB $LONGSHORE_PORT_WEB_UI\" > /tmp/x; exec nc -ll -p 80 -e cat /tmp/x";
    let mut start = bench.start_of(ContainerSpec::default(), script);
    let ip = Some("127.0.0.1".parse().unwrap());
    let name = Some("web-ui".to_owned());
    start.run.spec.ports =
        vec![Port { host, container: 80, protocol: Protocol::Tcp, host_ip: ip, name }];
    start.run.spec.env = [("WEB".to_owned(), "${port.web-ui}".to_owned())].into();
    bench.docker.start(start).await.unwrap();
    let begin = std::time::Instant::now();
    let heard = loop {
        let mut heard = String::new();
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", host)) {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let _ = stream.read_to_string(&mut heard);
        }
        if !heard.is_empty() {
            break heard;
        }
        assert!(begin.elapsed() < DEADLINE, "nothing answers at {host}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(heard, format!("port {host} {host}\n"));
}
