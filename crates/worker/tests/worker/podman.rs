//! A worker on Podman, through its socket that speaks Docker's language. Podman is Debian's package `podman`; where it is
//! not installed or cannot run a container, the test says so and passes.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bollard::query_parameters::{
    KillContainerOptionsBuilder, ListImagesOptions, StartContainerOptions,
};
use futures_util::StreamExt;
use longshore_core::agent::ContainerState;
use longshore_proto::container::Network;
use longshore_proto::node::Want;
use longshore_proto::spec::RestartMode;
use longshore_proto::state::TaskState;
use longshore_worker::OnShutdown;
use longshore_worker::runtime::docker::Docker;
use longshore_worker::runtime::{LogsWish, Runtime};

use crate::leader::{DEADLINE, IMAGE, Leader, Node, Server};
use crate::own_daemon::{Memory, lend_image, runtime_is, say};

/// Podman, with its data in memory.
struct Podman {
    memory: Memory,
    child: Child,
}

impl Podman {
    /// `None`, with a word, where that cannot be.
    async fn start() -> Option<Self> {
        let quiet =
            |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let is_there = quiet(Command::new("podman").arg("--version")).is_ok();
        let memory = is_there.then(|| Memory::mount(200)).flatten();
        let Some(memory) = memory else {
            say("no Podman on this machine (it needs the package podman, and root): not tried");
            return None;
        };
        // What the machine grants may be less than Podman's own wish, which it then fails with.
        let limits =
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";
        let settings = memory.path().join("containers.conf");
        std::fs::write(&settings, limits).unwrap();
        let socket = memory.path().join("podman.sock");
        let child = Command::new("podman")
            .env("CONTAINERS_CONF", settings)
            .arg("--root")
            .arg(memory.path().join("root"))
            .arg("--runroot")
            .arg(memory.path().join("run"))
            .args(["--cgroup-manager=cgroupfs", "system", "service", "--time=0"])
            .arg(format!("unix://{}", socket.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let podman = Self { memory, child };
        let start = std::time::Instant::now();
        while !podman.socket().exists() || podman.client().ping().await.is_err() {
            assert!(start.elapsed() < DEADLINE, "Podman does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        lend_image(&podman.client()).await;
        if let Err(error) = podman.try_out().await {
            say(&format!("Podman cannot run containers on this machine ({error}): not tried"));
            return None;
        }
        Some(podman)
    }

    /// Whether it can run a container at all.
    async fn try_out(&self) -> Result<(), bollard::errors::Error> {
        let body = bollard::models::ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            cmd: Some(vec!["true".to_owned()]),
            host_config: Some(bollard::models::HostConfig {
                network_mode: Some("none".to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let client = self.client();
        let none = None::<bollard::query_parameters::CreateContainerOptions>;
        let id = client.create_container(none, body).await?.id;
        client.start_container(&id, None::<StartContainerOptions>).await?;
        client
            .remove_container(&id, None::<bollard::query_parameters::RemoveContainerOptions>)
            .await
            .ok();
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.memory.path().join("podman.sock")
    }

    fn client(&self) -> bollard::Docker {
        let socket = format!("unix://{}", self.socket().display());
        bollard::Docker::connect_with_host(&socket).unwrap()
    }
}

impl Drop for Podman {
    /// Clears up, whether the test has passed or not.
    fn drop(&mut self) {
        let _ = Command::new("podman")
            .arg("--root")
            .arg(self.memory.path().join("root"))
            .arg("--runroot")
            .arg(self.memory.path().join("run"))
            .args(["--cgroup-manager=cgroupfs", "rm", "--all", "--force", "--time=0"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Podman's own mount inside of its folder.
        let _ =
            Command::new("umount").arg("-l").arg(self.memory.path().join("root/overlay")).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_paths_work_on_podman() {
    let Some(podman) = Podman::start().await else { return };
    let (server, mut node) = (Server::start(), Node::new());
    node.sandboxes = 1;
    let leader = Leader::start(&server, node.name.clone()).await;
    let docker = Docker::new(Some(podman.socket().display().to_string()), node.name.clone(), 2);
    let worker = node.start_on(&server, OnShutdown::Keep, Some(&podman.socket()));
    let isolated =
        |spec: &mut longshore_proto::spec::TaskSpec| spec.container.network = Network::None;

    let once = leader.run_as("exit 7", RestartMode::Never, isolated).await;
    let failed = leader.reported(once, 1, TaskState::Failed).await;
    assert_eq!(failed.exit_code, Some(7), "{failed:?}");

    let script = "echo up $LONGSHORE_ATTEMPT; exec sleep 1000";
    let service = leader.run_as(script, RestartMode::Always, isolated).await;
    let first = leader.reported(service, 1, TaskState::Running).await.container_id.unwrap();
    let kill = KillContainerOptionsBuilder::default().signal("KILL").build();
    podman.client().kill_container(&first, Some(kill)).await.unwrap();
    let second = leader.reported(service, 2, TaskState::Running).await.container_id.unwrap();
    assert_ne!(first, second);

    // Another start of the worker takes it on.
    worker.end().await;
    let worker = node.start_on(&server, OnShutdown::Keep, Some(&podman.socket()));
    runtime_is(&leader, None, 1).await;
    assert_eq!(leader.history(service).last(), Some(&(2, TaskState::Running)));
    let listed = docker.list().await.unwrap();
    let running: Vec<_> =
        listed.iter().filter(|found| found.state == ContainerState::Running).collect();
    assert_eq!(running.len(), 1, "{listed:?}");
    assert_eq!(running[0].id, second);

    // What a container has said is in its log a moment after it was said.
    let start = tokio::time::Instant::now();
    loop {
        let wish = LogsWish {
            container_id: second.clone(),
            follow: false,
            tail: None,
            since_ms: None,
            timestamps: false,
        };
        let text: String = docker
            .logs(wish)
            .map(|chunk| String::from_utf8_lossy(&chunk.unwrap().bytes).into_owned())
            .collect::<Vec<_>>()
            .await
            .concat();
        if text == "up 2\n" {
            break;
        }
        assert!(text.is_empty() && start.elapsed() < DEADLINE, "{text:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    leader.assign(service, Want::Stop { reason: "job stopped".into() }).await;
    leader.reported(service, 2, TaskState::Stopped).await;
    worker.end().await;
    // What sandboxes are made of was not even brought here.
    let images = podman.client().list_images(None::<ListImagesOptions>).await.unwrap();
    let names: Vec<String> = images.into_iter().flat_map(|image| image.repo_tags).collect();
    assert!(names.iter().any(|name| name.contains("longshore-busybox")), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("longshore-pause")), "{names:?}");
    for container in docker.list().await.unwrap() {
        docker.remove(container.id, 0).await.unwrap();
    }
    assert_eq!(docker.list().await.unwrap(), vec![]);
}
