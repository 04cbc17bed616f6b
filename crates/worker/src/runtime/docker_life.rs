//! One container's life: created and started, or adopted; stopped; removed.

use std::time::Duration;

use bollard::models::Mount;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    StopContainerOptionsBuilder,
};
use longshore_core::agent::{
    ContainerEnd, ContainerState, StartContainer, StartedContainer, labels,
};
use tracing::{debug, warn};

use super::RuntimeError;
use super::docker::Docker;
use super::docker_config::create_body;
use super::docker_error::{explain_start, is_name_taken, is_sandbox_lost, status};
use super::docker_list::state_of;
use super::docker_mount::mounts;
use super::docker_volume::labels_of;
use super::sandbox_list::{join, joined};
use super::sandbox_pool::Claim;

/// How long to wait for a container that is being created or removed just now.
const IN_BETWEEN_DELAY: Duration = Duration::from_millis(50);

/// What became of the wish to create a container.
enum Created {
    /// It is there, and has not ended.
    There(String),
    /// It was there, and has ended.
    Ended(StartedContainer),
    /// Its name is taken and it is not there: it is being created, or removed, just now.
    InBetween,
    /// The sandbox that it was to join is of no use.
    WithoutSandbox,
}

/// Creates and starts. A container that an earlier worker was creating when it went down may still appear,
/// or vanish again, while this goes on: then it is tried anew, for as long as a start may take.
pub(super) async fn start(
    docker: &Docker,
    start: StartContainer,
) -> Result<StartedContainer, RuntimeError> {
    let _busy = docker.sandboxes.busy();
    let mut claim = docker.sandboxes.claim(start.task, &start.run.spec);
    let started = start_in(docker, &start, &mut claim).await;
    if !matches!(started, Err(RuntimeError::Away(_)))
        && let Some(claim) = &mut claim
    {
        claim.answered();
    }
    started
}

/// Starts it, in a sandbox as long as that is of use.
async fn start_in(
    docker: &Docker,
    start: &StartContainer,
    claim: &mut Option<Claim<'_>>,
) -> Result<StartedContainer, RuntimeError> {
    let client = docker.client()?;
    loop {
        let container_id = match create(docker, start, claim.as_ref()).await? {
            Created::There(container_id) => container_id,
            Created::Ended(container) => return Ok(container),
            Created::InBetween => {
                tokio::time::sleep(IN_BETWEEN_DELAY).await;
                continue;
            }
            Created::WithoutSandbox => {
                claim.take().into_iter().for_each(Claim::give_up);
                continue;
            }
        };
        match client.start_container(&container_id, None::<StartContainerOptions>).await {
            Ok(()) => return Ok(StartedContainer { container_id, ended: None }),
            Err(error)
                if status(&error) == Some(404)
                    && docker.inspect(&container_id).await?.is_none() => {}
            // Whether it was made just now or by an earlier worker: another takes its name, with a network of its own.
            Err(error) if is_sandbox_lost(&error) && has_joined(docker, &container_id).await? => {
                claim.take().into_iter().for_each(Claim::give_up);
                remove(docker, &container_id, 0).await?;
            }
            Err(error) => return Err(explain_start(&error, docker.host(), &start.run.spec.ports)),
        }
    }
}

/// Whether a container is in a sandbox.
async fn has_joined(docker: &Docker, container_id: &str) -> Result<bool, RuntimeError> {
    let found = docker.inspect(container_id).await?;
    let config = found.and_then(|found| found.host_config);
    Ok(joined(config.and_then(|config| config.network_mode).as_deref()).is_some())
}

/// Creates it, in a sandbox where there is one.
async fn create(
    docker: &Docker,
    start: &StartContainer,
    claim: Option<&Claim<'_>>,
) -> Result<Created, RuntimeError> {
    let spec = &start.run.spec;
    docker.policy.admit(spec).map_err(RuntimeError::Forbidden)?;
    let platform = spec.container.platform.as_ref().map(ToString::to_string).unwrap_or_default();
    let options =
        CreateContainerOptionsBuilder::default().name(&start.name).platform(&platform).build();
    let mounts = mounts_of(docker, start).await?;
    let mut body = create_body(start, &docker.machine, mounts).map_err(RuntimeError::Forbidden)?;
    if let Some(claim) = claim {
        join(&mut body, claim.id());
    }
    match docker.client()?.create_container(Some(options), body).await {
        Ok(created) => {
            for warning in created.warnings.iter().filter(|warning| !warning.is_empty()) {
                debug!(container = start.name, warning, "Docker warns");
            }
            Ok(Created::There(created.id))
        }
        Err(error) if is_name_taken(&error) => adopt(docker, start).await,
        Err(error) if claim.is_some() && is_sandbox_lost(&error) => Ok(Created::WithoutSandbox),
        Err(error) if status(&error) == Some(404) => {
            Err(RuntimeError::Refused(format!("image {} is not on this node any more", spec.image)))
        }
        Err(error) => Err(docker.explain(&error, "creating the container")),
    }
}

/// What the task mounts, when this node allows it.
async fn mounts_of(docker: &Docker, start: &StartContainer) -> Result<Vec<Mount>, RuntimeError> {
    let wishes = start.run.spec.mounts.clone();
    if wishes.is_empty() {
        return Ok(Vec::new());
    }
    // A path may be on a file system that does not answer.
    let allowed = docker.policy.mount_paths.clone();
    let labels = labels_of(&start.labels);
    let looked = tokio::task::spawn_blocking(move || mounts(&wishes, &allowed, &labels)).await;
    looked
        .unwrap_or_else(|error| Err(format!("its mounts could not be looked at: {error}")))
        .map_err(RuntimeError::Refused)
}

/// A container has the name already: ours from an earlier try, or a stranger.
async fn adopt(docker: &Docker, start: &StartContainer) -> Result<Created, RuntimeError> {
    let Some(found) = docker.inspect(&start.name).await? else { return Ok(Created::InBetween) };
    let found_labels =
        found.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default();
    let is_ours = [labels::CLUSTER, labels::NODE, labels::TASK, labels::ATTEMPT]
        .iter()
        .all(|key| found_labels.get(*key) == start.labels.get(*key));
    let Some(container_id) = found.id.clone().filter(|_| is_ours) else {
        return Err(RuntimeError::Refused(format!(
            "a container that is not ours has the name {}; rename or remove it",
            start.name
        )));
    };
    Ok(match state_of(&found) {
        ContainerState::Ended(end) => {
            Created::Ended(StartedContainer { container_id, ended: Some(end) })
        }
        ContainerState::Created | ContainerState::Running => Created::There(container_id),
    })
}

pub(super) async fn stop(
    docker: &Docker,
    container_id: &str,
    grace_ms: u64,
) -> Result<ContainerEnd, RuntimeError> {
    let client = docker.client()?;
    let grace_s = i32::try_from(grace_ms.div_ceil(1_000)).unwrap_or(i32::MAX);
    let options = StopContainerOptionsBuilder::default().t(grace_s).build();
    match client.stop_container(container_id, Some(options)).await {
        Ok(()) => {}
        Err(error) if status(&error) == Some(404) => return Ok(ContainerEnd::default()),
        Err(error) => return Err(docker.explain(&error, "stopping the container")),
    }
    match docker.inspect(container_id).await?.as_ref().map(state_of) {
        Some(ContainerState::Ended(end)) => Ok(end),
        Some(ContainerState::Running) => Err(RuntimeError::Refused(
            "Docker says that it stopped the container, but it runs".into(),
        )),
        Some(ContainerState::Created) | None => Ok(ContainerEnd::default()),
    }
}

/// Removes a container of ours; whoever else has the name stays.
pub(super) async fn remove(
    docker: &Docker,
    container: &str,
    grace_ms: u64,
) -> Result<(), RuntimeError> {
    let Some(found) = docker.inspect(container).await? else { return Ok(()) };
    let found_labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    let Some(id) = found.id.filter(|_| docker.is_ours(&found_labels)) else {
        warn!(container, "a container that is not ours has this name; it is left alone");
        return Ok(());
    };
    if grace_ms > 0 {
        stop(docker, &id, grace_ms).await?;
    }
    let client = docker.client()?;
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match client.remove_container(&id, Some(options)).await {
        Ok(()) => Ok(()),
        Err(error) if status(&error) == Some(404) => Ok(()),
        // Somebody else removes it just now: it is gone when they are done.
        Err(error) if status(&error) == Some(409) => {
            while docker.inspect(&id).await?.is_some() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        }
        Err(error) => Err(docker.explain(&error, "removing the container")),
    }
}
