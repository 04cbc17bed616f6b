//! What a worker takes away from its machine, and what it never does.

use std::time::Duration;

use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::{RemoveImageOptions, RemoveVolumeOptions, TagImageOptionsBuilder};
use longshore_proto::id::ClusterId;
use longshore_proto::node::Want;
use longshore_proto::spec::{Mount, MountSource, PullPolicy, RestartMode};
use longshore_proto::state::TaskState;
use longshore_worker::runtime::{Runtime, RuntimeError};
use longshore_worker::{Keeping, OnShutdown};
use uuid::Uuid;

use crate::leader::{DEADLINE, IMAGE, Leader, Node, Server};
use crate::proxy::{Deed, Proxy};

/// An image and volumes of one test; they go with it.
struct Things {
    image: String,
    /// Made by somebody else, and looked at before the other.
    theirs: String,
    ours: String,
}

impl Things {
    fn new() -> Self {
        let tag = Uuid::new_v4().simple();
        Self {
            image: format!("longshore-test-{tag}:1"),
            theirs: format!("longshore-test-{tag}-1"),
            ours: format!("longshore-test-{tag}-2"),
        }
    }
}

impl Drop for Things {
    fn drop(&mut self) {
        let (image, volumes) = (self.image.clone(), [self.theirs.clone(), self.ours.clone()]);
        beside(async move {
            let docker = bollard::Docker::connect_with_defaults().unwrap();
            let _ = docker.remove_image(&image, None::<RemoveImageOptions>, None).await;
            for volume in volumes {
                let _ = docker.remove_volume(&volume, None::<RemoveVolumeOptions>).await;
            }
        });
    }
}

/// Does something with Docker where a test's own runtime cannot be waited for.
fn beside(work: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::spawn(move || runtime.block_on(work)).join().unwrap();
}

/// Waits until something is so; on failure says what was seen last.
async fn until<T: std::fmt::Debug, F: Future<Output = Result<(), T>>>(look: impl Fn() -> F) {
    let start = tokio::time::Instant::now();
    while let Err(seen) = look().await {
        assert!(start.elapsed() < DEADLINE, "still {seen:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_brought_for_tasks_goes_when_nobody_needs_it_and_nothing_else() {
    let (server, mut node, things) = (Server::start(), Node::new(), Things::new());
    node.keeping = Keeping {
        ended_ms: 1_000,
        images_ms: Some(1_000),
        volumes_ms: Some(1_000),
        disk_percent_max: 101,
        ..Keeping::default()
    };
    let docker = bollard::Docker::connect_with_defaults().unwrap();
    let made = VolumeCreateRequest { name: Some(things.theirs.clone()), ..Default::default() };
    docker.create_volume(made).await.unwrap();
    let socket = node.data_dir.path().join("docker.sock");
    let proxy = Proxy::start(&socket);
    // There is no registry: a pull gives the name to an image that is here.
    let pulled = things.image.clone();
    proxy.set(move |line| {
        if !line.starts_with("POST /images/create") {
            return Deed::Pass;
        }
        let name = pulled.clone();
        beside(async move {
            let docker = bollard::Docker::connect_with_defaults().unwrap();
            let (repo, tag) = name.split_once(':').unwrap();
            let options = TagImageOptionsBuilder::default().repo(repo).tag(tag).build();
            docker.tag_image(IMAGE, Some(options)).await.unwrap();
        });
        Deed::Answer(200, "{\"status\":\"pulled\"}".to_owned())
    });
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start_on(&server, OnShutdown::Keep, Some(&socket));
    let volume = |name: &String, target: &str| Mount {
        target: target.to_owned(),
        source: MountSource::Volume { name: name.clone() },
        read_only: false,
    };
    let needs = leader
        .run_as("exec sleep 1000", RestartMode::Always, |spec| {
            spec.image.clone_from(&things.image);
            spec.pull = PullPolicy::IfMissing;
            spec.mounts = vec![volume(&things.theirs, "/theirs"), volume(&things.ours, "/ours")];
        })
        .await;
    leader.reported(needs, 1, TaskState::Running).await;
    let short = leader.run("exit 0", RestartMode::Never).await;
    let ended = leader.reported(short, 1, TaskState::Completed).await.container_id.unwrap();
    // That the ended container goes shows that it was looked at what may go, while a task ran.
    until(|| async {
        let listed = node.docker.list().await.unwrap();
        if listed.iter().any(|container| container.id == ended) { Err(listed) } else { Ok(()) }
    })
    .await;
    docker.inspect_image(&things.image).await.unwrap();
    docker.inspect_volume(&things.ours).await.unwrap();

    leader.assign(needs, Want::Stop { reason: "job stopped".into() }).await;
    leader.reported(needs, 1, TaskState::Stopped).await;
    until(|| async { docker.inspect_image(&things.image).await.map_or(Ok(()), Err) }).await;
    until(|| async { docker.inspect_volume(&things.ours).await.map_or(Ok(()), Err) }).await;
    docker.inspect_volume(&things.theirs).await.unwrap();
    docker.inspect_image(IMAGE).await.unwrap();
    assert_eq!(node.docker.list().await.unwrap(), vec![]);
    worker.end().await;
}

#[tokio::test]
async fn what_a_container_uses_or_others_have_made_stays() {
    let (node, things) = (Node::new(), Things::new());
    let docker = bollard::Docker::connect_with_defaults().unwrap();
    // The only name that this image has, and a container that has ended.
    let mut options = bollard::query_parameters::CommitContainerOptionsBuilder::default();
    let (repo, tag) = things.image.split_once(':').unwrap();
    options = options.repo(repo).tag(tag);
    let body = |image: &str| bollard::models::ContainerCreateBody {
        image: Some(image.to_owned()),
        labels: Some(
            [
                ("longshore.node".to_owned(), node.name.to_string()),
                ("longshore.cluster".to_owned(), "test".to_owned()),
            ]
            .into(),
        ),
        ..Default::default()
    };
    let create = |body| {
        docker.create_container(None::<bollard::query_parameters::CreateContainerOptions>, body)
    };
    let first = create(body(IMAGE)).await.unwrap().id;
    let options = options.container(&first).build();
    docker.commit_container(options, bollard::config::ContainerConfig::default()).await.unwrap();
    let second = create(body(&things.image)).await.unwrap().id;
    let refused = node.docker.remove_image(things.image.clone()).await;
    assert!(matches!(refused, Err(RuntimeError::Refused(_))), "{refused:?}");
    node.docker.remove(second, 0).await.unwrap();
    node.docker.remove_image(things.image.clone()).await.unwrap();
    node.docker.remove_image(things.image.clone()).await.unwrap();
    assert!(docker.inspect_image(&things.image).await.is_err());

    let made = VolumeCreateRequest { name: Some(things.theirs.clone()), ..Default::default() };
    docker.create_volume(made).await.unwrap();
    let (cluster, other) = (ClusterId(Uuid::new_v4()), ClusterId(Uuid::new_v4()));
    let refused = node.docker.remove_volume(things.theirs.clone(), cluster).await;
    assert!(matches!(refused, Err(RuntimeError::Forbidden(_))), "{refused:?}");
    // Of a node of this name in another cluster on this machine.
    let labels = [
        ("longshore.node".to_owned(), node.name.to_string()),
        ("longshore.cluster".to_owned(), other.to_string()),
    ];
    let made = VolumeCreateRequest {
        name: Some(things.ours.clone()),
        labels: Some(labels.into()),
        ..Default::default()
    };
    docker.create_volume(made).await.unwrap();
    let refused = node.docker.remove_volume(things.ours.clone(), cluster).await;
    assert!(matches!(refused, Err(RuntimeError::Forbidden(_))), "{refused:?}");
    node.docker.remove_volume(things.ours.clone(), other).await.unwrap();
    node.docker.remove_volume(things.ours.clone(), cluster).await.unwrap();
}
