//! How images come to a worker and go from it: shared, limited, tried again, and one that is deleted under its container.
//!
//! There is no registry: a proxy answers pulls, and gives the name to an image that is here where they are to succeed.

use std::sync::{Arc, Mutex};

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateContainerOptions, RemoveImageOptions,
    RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use futures_util::future::join_all;
use longshore_core::agent::ImageWish;
use longshore_proto::platform::Platform;
use longshore_proto::spec::{PullPolicy, RestartMode};
use longshore_proto::state::TaskState;
use longshore_worker::OnShutdown;
use longshore_worker::runtime::docker::Docker;
use longshore_worker::runtime::{Runtime, RuntimeError};
use uuid::Uuid;

use crate::leader::{DEADLINE, IMAGE, Leader, Node, Server};
use crate::proxy::{Deed, Proxy};

/// Does something with Docker where a test's own runtime cannot be waited for.
fn beside(work: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::spawn(move || runtime.block_on(work)).join().unwrap();
}

fn daemon() -> bollard::Docker {
    bollard::Docker::connect_with_defaults().unwrap()
}

/// The name of an image that goes with its test.
struct Name(String);

impl Name {
    fn new() -> Self {
        Self(format!("longshore-test-{}:1", Uuid::new_v4().simple()))
    }

    fn wish(&self) -> ImageWish {
        wish(&self.0)
    }

    /// Gives the name to the image that every test runs.
    fn give(name: &str) {
        let name = name.to_owned();
        beside(async move {
            let (repo, tag) = name.split_once(':').unwrap();
            let options = TagImageOptionsBuilder::default().repo(repo).tag(tag).build();
            daemon().tag_image(IMAGE, Some(options)).await.unwrap();
        });
    }

    /// Gives the name to an image that nobody else has; its id.
    async fn make(&self) -> String {
        let docker = daemon();
        let body = ContainerCreateBody { image: Some(IMAGE.to_owned()), ..Default::default() };
        let made = docker.create_container(None::<CreateContainerOptions>, body).await.unwrap();
        let (repo, tag) = self.0.split_once(':').unwrap();
        let options = CommitContainerOptionsBuilder::default().container(&made.id);
        let options = options.repo(repo).tag(tag).build();
        let change = bollard::config::ContainerConfig {
            labels: Some([("made".to_owned(), Uuid::new_v4().to_string())].into()),
            ..Default::default()
        };
        docker.commit_container(options, change).await.unwrap();
        let gone = docker
            .remove_container(&made.id, None::<bollard::query_parameters::RemoveContainerOptions>);
        gone.await.unwrap();
        docker.inspect_image(&self.0).await.unwrap().id.unwrap()
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let name = self.0.clone();
        beside(async move {
            let _ = daemon().remove_image(&name, None::<RemoveImageOptions>, None).await;
        });
    }
}

fn wish(image: &str) -> ImageWish {
    ImageWish { image: image.to_owned(), platform: None, login: None }
}

/// The image that a call pulls, if it does.
fn pulled(line: &str) -> Option<String> {
    let query = line.strip_prefix("POST /images/create?")?;
    let image = query.split(['&', ' ']).find_map(|pair| pair.strip_prefix("fromImage="))?;
    Some(image.replace("%3A", ":"))
}

#[tokio::test]
async fn three_images_are_pulled_at_once_and_the_next_when_one_of_them_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let proxy = Proxy::start(&socket);
    let docker = Docker::new(Some(socket.display().to_string()), "n1".parse().unwrap(), 2);
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let pulls = seen.clone();
    proxy.set(move |line| match pulled(line) {
        Some(image) => {
            pulls.lock().unwrap().push(image);
            Deed::Hang
        }
        None => Deed::Pass,
    });
    let docker = Arc::new(docker);
    let mut fetches: Vec<_> = (1..=5)
        .map(|number| {
            let docker = docker.clone();
            tokio::spawn(
                async move { docker.fetch_image(wish(&format!("image-{number}:1"))).await },
            )
        })
        .collect();
    let at_least = async |count: usize| {
        let start = tokio::time::Instant::now();
        while seen.lock().unwrap().len() < count || docker.pulls().len() < 8 - count {
            assert!(start.elapsed() < DEADLINE, "{:?}", seen.lock().unwrap());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        // Whatever else was asked for by then has come before this.
        docker.version().await.unwrap();
        seen.lock().unwrap().len()
    };
    assert_eq!(at_least(3).await, 3);
    assert_eq!(docker.pulls().len(), 5, "those that wait are told, too");
    let first = seen.lock().unwrap()[0].clone();
    let number: usize = first.trim_start_matches("image-").trim_end_matches(":1").parse().unwrap();
    fetches.remove(number - 1).abort();
    assert_eq!(at_least(4).await, 4);
    for fetch in &fetches {
        fetch.abort();
    }
    join_all(fetches).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tasks_of_one_image_wait_for_one_pull_and_a_registry_that_comes_back_costs_no_attempt()
{
    let (server, node, name) = (Server::start(), Node::new(), Name::new());
    let socket = node.data_dir.path().join("docker.sock");
    let proxy = Proxy::start(&socket);
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let (pulls, image) = (seen.clone(), name.0.clone());
    proxy.set(move |line| {
        let Some(pulled) = pulled(line) else { return Deed::Pass };
        let mut pulls = pulls.lock().unwrap();
        pulls.push(pulled);
        if pulls.len() == 1 {
            let text = r#"{"message": "Get https://r/v2/: dial tcp: connection refused"}"#;
            return Deed::Answer(500, text.to_owned());
        }
        Name::give(&image);
        Deed::Answer(200, "{\"status\":\"pulled\"}".to_owned())
    });
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start_on(&server, OnShutdown::Stop, Some(&socket));
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let run = leader.run_as("exec sleep 1000", RestartMode::Never, |spec| {
            spec.image.clone_from(&name.0);
            spec.pull = PullPolicy::IfMissing;
        });
        tasks.push(run.await);
    }
    for task in tasks {
        let told = leader.until("that its image cannot be had", |known| {
            let mut reports = known.reports.iter();
            reports.find(|report| report.task == task && report.pulls_failed == 1).cloned()
        });
        let told = told.await;
        assert_eq!((told.attempt, told.state), (1, TaskState::Preparing));
        let reason = told.reason.unwrap();
        assert!(reason.contains("cannot be reached") && reason.ends_with("2 of 6"), "{reason}");
        // Though it is never restarted.
        leader.reported(task, 1, TaskState::Running).await;
    }
    let seen = seen.lock().unwrap().clone();
    // Their waits differ a little, and who comes late finds the image.
    assert_eq!(seen, [name.0.clone(), name.0.clone()]);
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_deleted_under_a_stopped_container_is_fetched_for_the_next_attempt() {
    let (server, node, name) = (Server::start(), Node::new(), Name::new());
    let socket = node.data_dir.path().join("docker.sock");
    let proxy = Proxy::start(&socket);
    let (pulls, image) = (Arc::new(Mutex::new(0)), name.0.clone());
    let count = pulls.clone();
    proxy.set(move |line| {
        if pulled(line).is_none() {
            return Deed::Pass;
        }
        *count.lock().unwrap() += 1;
        Name::give(&image);
        Deed::Answer(200, "{\"status\":\"pulled\"}".to_owned())
    });
    let made = name.make().await;
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start_on(&server, OnShutdown::Stop, Some(&socket));
    let run = leader.run_as("sleep 1; exit 3", RestartMode::OnFailure, |spec| {
        spec.image.clone_from(&name.0);
        spec.pull = PullPolicy::IfMissing;
        if let Some(restart) = &mut spec.restart {
            restart.delay_ms = 2_000;
        }
    });
    let task = run.await;
    leader.reported(task, 1, TaskState::Running).await;
    let ended = leader.reported(task, 2, TaskState::Preparing).await;
    assert_eq!(ended.exit_code, Some(3));
    // The ended container is kept, and its image goes by force.
    let force = RemoveImageOptionsBuilder::default().force(true).build();
    daemon().remove_image(&name.0, Some(force), None).await.unwrap();
    assert!(daemon().inspect_image(&made).await.is_err());
    leader.reported(task, 2, TaskState::Running).await;
    assert_eq!(*pulls.lock().unwrap(), 1);
    assert_eq!(node.docker.list().await.unwrap().len(), 2, "both are still known");
    worker.end().await;
}

#[tokio::test]
async fn an_image_goes_by_its_id_only_when_it_has_no_name_left() {
    let (node, name) = (Node::new(), Name::new());
    let first = name.make().await;
    assert_eq!(node.docker.find_image(name.wish()).await.unwrap(), Some(first.clone()));
    let refused = node.docker.remove_image(first.clone()).await;
    assert!(matches!(refused, Err(RuntimeError::Forbidden(_))), "{refused:?}");
    // The name moves on.
    let second = name.make().await;
    assert_ne!(first, second);
    daemon().inspect_image(&first).await.unwrap();
    node.docker.remove_image(first.clone()).await.unwrap();
    assert!(daemon().inspect_image(&first).await.is_err());
    node.docker.remove_image(first).await.unwrap();
    daemon().inspect_image(&second).await.unwrap();
}

#[tokio::test]
async fn an_image_for_another_platform_is_neither_found_nor_run() {
    let node = Node::new();
    let of = |platform: &Platform| ImageWish { platform: Some(platform.clone()), ..wish(IMAGE) };
    let here = daemon().version().await.unwrap();
    let here = Platform::of(&here.os.unwrap(), &here.arch.unwrap()).unwrap();
    let other: Platform = "linux/s390x".parse().unwrap();
    // Before the daemon has said what it runs, the image tells.
    assert_eq!(node.docker.find_image(of(&other)).await.unwrap(), None);
    assert!(node.docker.find_image(of(&here)).await.unwrap().is_some());
    assert_eq!(node.docker.version().await.unwrap().platform, Some(here.clone()));
    let refused = node.docker.find_image(of(&other)).await;
    let wanted = format!("it is made for {other}, and this node runs {here}");
    assert_eq!(refused, Err(RuntimeError::Forbidden(wanted)));
    assert!(node.docker.find_image(of(&here)).await.unwrap().is_some());
}
