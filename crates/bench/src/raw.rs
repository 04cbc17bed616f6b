//! The limits: what the parts below Longshore can do on this machine, just now.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions, StopContainerOptionsBuilder,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use longshore_bus::Credentials;
use longshore_proto::permission::inbox_prefix;

use longshore_bench::Failure;

/// The image that everything runs; made by `scripts/setup`.
pub(crate) const IMAGE: &str = "longshore-busybox:1";
/// What the containers do: nothing, for long.
pub(crate) const COMMAND: [&str; 2] = ["sleep", "100000"];
/// How many containers are stopped or removed at once.
const STOPS_AT_ONCE: usize = 16;
/// What each may use.
pub(crate) const MEMORY_BYTES: u64 = 16 << 20;
/// What each may use. The runtime's own work in a container counts as the container's: of much less than this a start
/// waits most of the time for the next share of it, whoever asks for the start.
pub(crate) const CPU_MILLIS: u64 = 500;
/// How many starts are tried at once.
const CONCURRENCIES: [usize; 4] = [2, 4, 8, 16];
/// How many containers are started to find that out.
const TRIED: usize = 16;

/// Requests and answers of a submit's size over NATS alone, between two users that may speak to each other as a
/// submit's do; the time of each in milliseconds.
pub(crate) async fn round_trips(
    url: &str,
    asker: &Credentials,
    answerer: &Credentials,
    count: usize,
) -> Result<Vec<f64>, Failure> {
    let connect = |credentials: &Credentials| {
        async_nats::ConnectOptions::new()
            .nkey(credentials.nkey_seed.reveal().to_owned())
            .custom_inbox_prefix(inbox_prefix(credentials.role, &credentials.name))
            .connect(url.to_owned())
    };
    let (asker, echo) = (connect(asker).await?, connect(answerer).await?);
    // No verb of ours, but a subject that an operator may speak on and a manager may hear.
    let subject = "longshore.v1.api.read.default.bench.echo";
    let mut questions = echo.subscribe(subject).await?;
    echo.flush().await?;
    let echo_task = tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            if let Some(reply) = question.reply
                && echo.publish(reply, question.payload).await.is_err()
            {
                return;
            }
        }
    });
    let payload = Bytes::from(vec![7u8; 512]);
    // A flush only empties the client's buffer; that the server has taken the subscription shows by an answer.
    let end = Instant::now() + Duration::from_secs(10);
    while asker.request(subject, payload.clone()).await.is_err() {
        if Instant::now() > end {
            return Err("the echo does not answer".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        asker.request(subject, payload.clone()).await?;
        times.push(milliseconds(start.elapsed()));
    }
    echo_task.abort();
    Ok(times)
}

/// At how many calls at once the bare Docker API starts containers the fastest, just now.
pub(crate) async fn best_concurrency(docker: &Docker) -> Result<usize, Failure> {
    let mut best = (f64::INFINITY, 4);
    for concurrency in CONCURRENCIES {
        let (seconds, _) = launch(docker, TRIED, concurrency).await?;
        if seconds < best.0 {
            best = (seconds, concurrency);
        }
    }
    Ok(best.1)
}

/// The same for containers that join the networks of others.
pub(crate) async fn best_concurrency_joined(docker: &Docker) -> Result<usize, Failure> {
    let mut best = (f64::INFINITY, 4);
    for concurrency in CONCURRENCIES {
        let seconds = launch_joined(docker, TRIED, concurrency).await?;
        if seconds < best.0 {
            best = (seconds, concurrency);
        }
    }
    Ok(best.1)
}

/// Creates a container like those of the tasks that are measured.
pub(crate) async fn create(
    docker: &Docker,
    name: Option<&str>,
    labels: HashMap<String, String>,
) -> Result<String, Error> {
    create_in(docker, name, labels, None).await
}

/// The same in the network of another.
async fn create_in(
    docker: &Docker,
    name: Option<&str>,
    labels: HashMap<String, String>,
    joined: Option<&str>,
) -> Result<String, Error> {
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(COMMAND.map(str::to_owned).to_vec()),
        labels: Some(labels),
        host_config: Some(HostConfig {
            memory: Some(i64::try_from(MEMORY_BYTES).unwrap_or(i64::MAX)),
            memory_swap: Some(i64::try_from(MEMORY_BYTES).unwrap_or(i64::MAX)),
            nano_cpus: Some(i64::try_from(CPU_MILLIS * 1_000_000).unwrap_or(i64::MAX)),
            network_mode: joined.map(|other| format!("container:{other}")),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = name.map(|name| CreateContainerOptionsBuilder::default().name(name).build());
    Ok(docker.create_container(options, body).await?.id)
}

/// Removes a container, whether it runs or not. One that is gone, or on its way, is all right.
pub(crate) async fn remove(docker: &Docker, container: &str) -> Result<(), Error> {
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    match docker.remove_container(container, Some(options)).await {
        Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
        removed => removed,
    }
}

/// Creates and starts so many containers straight through the Docker API, stops and removes them again, and gives the
/// seconds from the first call to the last start, and those that stopping all took.
pub(crate) async fn launch(
    docker: &Docker,
    count: usize,
    concurrency: usize,
) -> Result<(f64, f64), Failure> {
    let start = Instant::now();
    let names = new_names(count);
    let launched = start_all(docker, &names, concurrency, None).await;
    let started = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let stopped: Vec<Result<(), Error>> = stream::iter(names.clone())
        .map(|name| async move {
            let options = StopContainerOptionsBuilder::default().t(0).build();
            docker.stop_container(&name, Some(options)).await
        })
        .buffer_unordered(STOPS_AT_ONCE)
        .collect()
        .await;
    let ended = start.elapsed().as_secs_f64();
    remove_all(docker, names).await?;
    stopped.into_iter().collect::<Result<(), _>>()?;
    launched?;
    Ok((started, ended))
}

/// Creates and starts so many containers that each join the network of another, made beforehand, and gives the seconds
/// from the first call to the last start.
pub(crate) async fn launch_joined(
    docker: &Docker,
    count: usize,
    concurrency: usize,
) -> Result<f64, Failure> {
    let (others, names) = (new_names(count), new_names(count));
    let made = start_all(docker, &others, concurrency, None).await;
    let start = Instant::now();
    let launched = match &made {
        Ok(()) => start_all(docker, &names, concurrency, Some(&others)).await,
        Err(_) => Ok(()),
    };
    let seconds = start.elapsed().as_secs_f64();
    for all in [names, others] {
        remove_all(docker, all).await?;
    }
    made.and(launched)?;
    Ok(seconds)
}

fn new_names(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("longshore-bench-{}-{at}", uuid::Uuid::new_v4())).collect()
}

/// Creates and starts containers of these names, each in the network of the one beside it where there are others.
async fn start_all(
    docker: &Docker,
    names: &[String],
    concurrency: usize,
    others: Option<&[String]>,
) -> Result<(), Error> {
    let pairs: Vec<(String, Option<String>)> = names
        .iter()
        .enumerate()
        .map(|(at, name)| (name.clone(), others.and_then(|others| others.get(at)).cloned()))
        .collect();
    let started: Vec<Result<(), Error>> = stream::iter(pairs)
        .map(|(name, other)| async move {
            let labels = HashMap::from([("longshore-bench".to_owned(), String::new())]);
            create_in(docker, Some(&name), labels, other.as_deref()).await?;
            docker.start_container(&name, None::<StartContainerOptions>).await
        })
        .buffer_unordered(concurrency)
        .collect()
        .await;
    started.into_iter().collect()
}

/// Removes all of them that there are.
async fn remove_all(docker: &Docker, names: Vec<String>) -> Result<(), Error> {
    let removed: Vec<Result<(), Error>> = stream::iter(names)
        .map(|name| async move { remove(docker, &name).await })
        .buffer_unordered(STOPS_AT_ONCE)
        .collect()
        .await;
    removed.into_iter().collect()
}

/// Removes every container that has a label, whether it runs or not, which is how what a measurement leaves behind is taken away.
pub(crate) async fn remove_labelled(docker: &Docker, label: &str) -> Result<(), Failure> {
    let filters = HashMap::from([("label", vec![label])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let found = docker.list_containers(Some(options)).await?;
    remove_all(docker, found.into_iter().filter_map(|found| found.id).collect()).await?;
    Ok(())
}

/// A duration in milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
