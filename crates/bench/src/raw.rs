//! The limits: what the parts below Longshore can do on this machine, just now.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    StopContainerOptionsBuilder,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
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
/// What each may use.
pub(crate) const CPU_MILLIS: u64 = 10;

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
    for concurrency in [2, 4, 8, 16] {
        let (seconds, _) = launch(docker, 16, concurrency).await?;
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
) -> Result<String, bollard::errors::Error> {
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(COMMAND.map(str::to_owned).to_vec()),
        labels: Some(labels),
        host_config: Some(HostConfig {
            memory: Some(i64::try_from(MEMORY_BYTES).unwrap_or(i64::MAX)),
            memory_swap: Some(i64::try_from(MEMORY_BYTES).unwrap_or(i64::MAX)),
            nano_cpus: Some(i64::try_from(CPU_MILLIS * 1_000_000).unwrap_or(i64::MAX)),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = name.map(|name| CreateContainerOptionsBuilder::default().name(name).build());
    Ok(docker.create_container(options, body).await?.id)
}

/// Removes a container, whether it runs or not.
pub(crate) async fn remove(docker: &Docker, container: &str) -> Result<(), bollard::errors::Error> {
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container(container, Some(options)).await
}

/// Creates and starts so many containers straight through the Docker API, stops and removes them again, and gives the
/// seconds from the first call to the last start, and those that stopping all took.
pub(crate) async fn launch(
    docker: &Docker,
    count: usize,
    concurrency: usize,
) -> Result<(f64, f64), Failure> {
    let start = Instant::now();
    let names: Vec<String> =
        (0..count).map(|at| format!("longshore-bench-{}-{at}", uuid::Uuid::new_v4())).collect();
    let launched: Vec<Result<(), bollard::errors::Error>> = stream::iter(names.clone())
        .map(|name| async move {
            let labels = HashMap::from([("longshore-bench".to_owned(), String::new())]);
            create(docker, Some(&name), labels).await?;
            docker.start_container(&name, None::<StartContainerOptions>).await
        })
        .buffer_unordered(concurrency)
        .collect()
        .await;
    let started = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let stopped: Vec<Result<(), bollard::errors::Error>> = stream::iter(names.clone())
        .map(|name| async move {
            let options = StopContainerOptionsBuilder::default().t(0).build();
            docker.stop_container(&name, Some(options)).await
        })
        .buffer_unordered(STOPS_AT_ONCE)
        .collect()
        .await;
    let ended = start.elapsed().as_secs_f64();
    stream::iter(names)
        .map(|name| async move { remove(docker, &name).await })
        .buffer_unordered(STOPS_AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    stopped.into_iter().collect::<Result<(), _>>()?;
    launched.into_iter().collect::<Result<(), _>>()?;
    Ok((started, ended))
}

/// A duration in milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
