//! Networks that are made before a task wants one.
//!
//! Most of the time that Docker takes to start a container goes into its network. A sandbox is a container that does
//! nothing but have one, and a task's container that joins it starts in a fraction of the time. The worker keeps a few
//! sandboxes that nobody has, makes them while no task waits for a start, and gives each to one task, for all attempts
//! of it; then it is thrown away.
//!
//! What is known of sandboxes comes from Docker's own list, in which a task's container names the one that it has
//! joined, so that a worker that starts anew finds everything again. A sandbox that a task has had is never given to
//! another: one that is empty when a worker starts is removed, because nothing in Docker tells whether a task has had it.
//! (Its name could. But changing a name takes Docker a tenth of the time of a start.)
//!
//! Here is what is done to them; what is known of them, and what follows from that, is in
//! [`sandbox_state`](super::sandbox_state).

use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions,
};
use futures_util::stream::{self, StreamExt};
use longshore_core::agent::labels;
use longshore_proto::container::Network;
use longshore_proto::id::ClusterId;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::docker::{Docker, QUESTION_DEADLINE};
use super::docker_error::status;
use super::sandbox_list::{Listed, new_name};
use super::sandbox_state::Work;
use super::{Runtime, RuntimeError, docker_pause};

/// How long after something went wrong it is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(10);
/// How long making one may take.
const MAKE_DEADLINE: Duration = Duration::from_secs(30);
/// What a sandbox may use: what its start takes, and more than it ever does afterwards.
const MEMORY_BYTES: i64 = 16 << 20;
const PIDS_MAX: i64 = 16;
/// How long a leaving worker waits for containers that have ended to be so in Docker's list, and how often it looks.
const CLEAR_PATIENCE: Duration = Duration::from_secs(10);
const CLEAR_DELAY: Duration = Duration::from_millis(200);
/// How many are removed at once when the worker leaves.
const REMOVALS_MAX: usize = 8;

/// Makes and removes sandboxes as they are wanted, for ever.
pub(super) async fn tend(docker: &Docker, cluster: ClusterId) {
    let pool = &docker.sandboxes;
    pool.begin(cluster);
    if !docker_pause::is_possible() {
        pool.switch_off("on this processor");
    }
    // Whether there can be any depends on who answers. That nobody does others say.
    while docker.version().await.is_err() {
        tokio::time::sleep(RETRY_DELAY).await;
    }
    let mut told = String::new();
    loop {
        let done = match pool.next() {
            Work::Wait(until) => {
                pool.changed(until).await;
                continue;
            }
            Work::Look => docker.list().await.map(drop),
            Work::End(container_id) => {
                let doing = "ending a container that has lost its network";
                docker.within(QUESTION_DEADLINE, doing, end(docker, &container_id)).await
            }
            Work::Remove(id) => remove(docker, &id).await,
            Work::Make => make(docker, cluster).await,
        };
        match done {
            Ok(()) => told.clear(),
            Err(error) => {
                let reason = error.to_string();
                // Said once for each reason. That the daemon is away others say.
                if reason != told && !matches!(error, RuntimeError::Away(_)) {
                    warn!("{reason}; tasks start without a sandbox meanwhile");
                }
                told = reason;
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}

/// Ends a task's container that has lost its network, so that the task starts anew, or fails, by its own policy.
async fn end(docker: &Docker, container_id: &str) -> Result<(), RuntimeError> {
    docker.sandboxes.ending(container_id);
    let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
    match docker.client()?.kill_container(container_id, Some(options)).await {
        Ok(()) => {
            warn!(
                container = container_id,
                "the sandbox of this task was ended from outside, so that it has no network: it is killed, and its \
                 restart policy decides"
            );
            Ok(())
        }
        // It has ended meanwhile.
        Err(error) if matches!(status(&error), Some(404 | 409)) => Ok(()),
        Err(error) => Err(docker.explain(&error, "ending a container that has lost its network")),
    }
}

async fn remove(docker: &Docker, id: &str) -> Result<(), RuntimeError> {
    let client = docker.client()?;
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    let removed =
        tokio::time::timeout(RETRY_DELAY, client.remove_container(id, Some(options))).await;
    docker.sandboxes.removed(id);
    match removed {
        Ok(Ok(())) => Ok(()),
        // Gone, or on its way.
        Ok(Err(error)) if matches!(status(&error), Some(404 | 409)) => Ok(()),
        Ok(Err(error)) => Err(docker.explain(&error, "removing a sandbox")),
        Err(_) => Err(RuntimeError::Refused("a sandbox does not let itself be removed".into())),
    }
}

/// Makes one.
async fn make(docker: &Docker, cluster: ClusterId) -> Result<(), RuntimeError> {
    let name = new_name(cluster);
    if !docker.sandboxes.making(&name) {
        return Ok(());
    }
    let made =
        docker.within(MAKE_DEADLINE, "making a sandbox", start(docker, cluster, &name)).await;
    docker.sandboxes.made(made.as_deref().ok());
    made.map(|_| debug!(container = name, "a sandbox is ready"))
}

async fn start(docker: &Docker, cluster: ClusterId, name: &str) -> Result<String, RuntimeError> {
    docker_pause::ensure(docker).await?;
    let client = docker.client()?;
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    let created = client.create_container(Some(options), body(docker, cluster)).await;
    let id = created.map_err(|error| docker.explain(&error, "creating a sandbox"))?.id;
    let started = client.start_container(&id, None::<StartContainerOptions>).await;
    started.map_err(|error| docker.explain(&error, "starting a sandbox"))?;
    Ok(id)
}

fn body(docker: &Docker, cluster: ClusterId) -> ContainerCreateBody {
    let labels = [
        (labels::CLUSTER, cluster.to_string()),
        (labels::NODE, docker.node().to_string()),
        (labels::SANDBOX, "1".to_owned()),
    ];
    ContainerCreateBody {
        image: Some(docker_pause::IMAGE.to_owned()),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
        host_config: Some(HostConfig {
            network_mode: Some(Network::Bridge.as_str().to_owned()),
            memory: Some(MEMORY_BYTES),
            memory_swap: Some(MEMORY_BYTES),
            pids_limit: Some(PIDS_MAX),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            readonly_rootfs: Some(true),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// Removes every sandbox that no container of a task has joined, and makes none any more. A container that has just ended
/// is in the list for a while, and a sandbox that is being made comes to it later.
pub(super) async fn clear(docker: &Docker, cluster: ClusterId) -> Result<(), RuntimeError> {
    let options =
        ListContainersOptionsBuilder::default().all(true).filters(&docker.filters()).build();
    let until = Instant::now() + CLEAR_PATIENCE;
    docker.sandboxes.close();
    let mut is_told = false;
    loop {
        // Asked first: what is made by now is in the list.
        let is_making = docker.sandboxes.is_making();
        let found = docker.client()?.list_containers(Some(options.clone())).await;
        let found = found.map_err(|error| docker.explain(&error, "listing"))?;
        let (used, unused) = Listed::read(&found, cluster).by_use();
        if unused.is_empty() && used.is_empty() && !is_making {
            return Ok(());
        }
        if !unused.is_empty() && !is_told {
            is_told = true;
            info!(sandboxes = unused.len(), "removing the sandboxes");
        }
        let removals = stream::iter(unused).map(|id| async move { remove(docker, &id).await });
        let removed: Vec<_> = removals.buffer_unordered(REMOVALS_MAX).collect().await;
        removed.into_iter().collect::<Result<(), _>>()?;
        if Instant::now() > until {
            return Ok(());
        }
        // What is on its way out is in the list until it is gone.
        tokio::time::sleep(CLEAR_DELAY).await;
    }
}
