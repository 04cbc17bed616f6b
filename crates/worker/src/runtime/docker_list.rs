//! What containers there are and how they stand, in one list that no single container can hold up.
//!
//! Docker answers a list from a copy that it keeps in memory, but a closer look waits for the container's own lock,
//! which a container that hangs may hold for ever. So a container is looked at only where the list leaves a question
//! open, and all looks of one list share one deadline: what is not answered by then stays as the list has it.

use std::collections::BTreeMap;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary};
use bollard::query_parameters::ListContainersOptionsBuilder;
use futures_util::future::FutureExt;
use futures_util::stream::{self, StreamExt};
use longshore_core::agent::{Container, ContainerEnd, ContainerState};
use tokio::time::Instant;
use tracing::warn;

use super::RuntimeError;
use super::docker::Docker;

/// How long all closer looks of one list may take together.
const LOOKS_DEADLINE: Duration = Duration::from_secs(5);
/// How often something is asked whose answer cannot be read.
const UNREADABLE_MAX: u32 = 10;
/// How long to wait in between.
const UNREADABLE_DELAY: Duration = Duration::from_millis(200);
/// How many containers are looked at in one list at once.
const LOOKS_MAX: usize = 8;
/// The exit code of what was killed: by whom, only a closer look tells.
pub(super) const KILLED: i64 = 137;

/// Every container of this node, but for the sandboxes, which are no task's.
pub(super) async fn list(docker: &Docker) -> Result<Vec<Container>, RuntimeError> {
    let options =
        ListContainersOptionsBuilder::default().all(true).filters(&docker.filters()).build();
    let (client, asked_at) = (docker.client()?, Instant::now());
    let found = patiently(|| client.list_containers(Some(options.clone())).boxed()).await;
    let found = found.map_err(|error| docker.explain(&error, "listing"))?;
    let found = docker.sandboxes.observe(asked_at, found);
    let end = Instant::now() + LOOKS_DEADLINE;
    let containers: Vec<Result<Option<Container>, RuntimeError>> = stream::iter(found)
        .map(|summary| container(docker, summary, end))
        .buffer_unordered(LOOKS_MAX)
        .collect()
        .await;
    containers.into_iter().filter_map(Result::transpose).collect()
}

/// Asks again where the answer cannot be read: Podman knows a state between running and ended that the library does not,
/// and that passes.
pub(super) async fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    for _ in 1..UNREADABLE_MAX {
        match ask().await {
            Err(Error::JsonDataError { .. } | Error::JsonSerdeError { .. }) => {
                tokio::time::sleep(UNREADABLE_DELAY).await;
            }
            answer => return answer,
        }
    }
    ask().await
}

/// One container of the list. `None` when it has vanished meanwhile.
async fn container(
    docker: &Docker,
    summary: ContainerSummary,
    end: Instant,
) -> Result<Option<Container>, RuntimeError> {
    let (Some(id), Some(labels)) = (summary.id, summary.labels) else { return Ok(None) };
    let labels: BTreeMap<String, String> = labels.into_iter().collect();
    let state = summary.state.map(|state| state.to_string()).unwrap_or_default();
    let state = match state.as_str() {
        "running" | "paused" | "restarting" | "stopping" => ContainerState::Running,
        "created" => ContainerState::Created,
        _ => match exit_code_of(summary.status.as_deref().unwrap_or_default()) {
            Some(code) if code != KILLED => ContainerState::Ended(ContainerEnd::exited(code)),
            exit_code => {
                let looked = tokio::time::timeout_at(end, docker.inspect(&id)).await;
                match looked {
                    Ok(Ok(Some(found))) => state_of(&found),
                    Ok(Ok(None)) => return Ok(None),
                    Ok(Err(error @ RuntimeError::Away(_))) => return Err(error),
                    // That it has ended is known, and often its code.
                    Ok(Err(_)) | Err(_) => {
                        warn!(
                            container = id,
                            "Docker does not answer for this container; going on without"
                        );
                        ContainerState::Ended(ContainerEnd { exit_code, ..ContainerEnd::default() })
                    }
                }
            }
        },
    };
    let state = match state {
        ContainerState::Ended(end) if end.exit_code == Some(KILLED) => {
            let network_lost = docker.sandboxes.has_cut_off(&id);
            ContainerState::Ended(ContainerEnd { network_lost, ..end })
        }
        state => state,
    };
    Ok(Some(Container { id, labels, state }))
}

/// The exit code in the words of Docker's list: `Exited (137) 5 minutes ago`.
fn exit_code_of(status: &str) -> Option<i64> {
    status.strip_prefix("Exited (")?.split(')').next()?.parse().ok()
}

/// How a container stands, by a close look.
pub(super) fn state_of(found: &ContainerInspectResponse) -> ContainerState {
    let Some(state) = &found.state else { return ContainerState::Created };
    match state.status {
        Some(ContainerStateStatusEnum::CREATED) => ContainerState::Created,
        Some(
            ContainerStateStatusEnum::RUNNING
            | ContainerStateStatusEnum::PAUSED
            | ContainerStateStatusEnum::RESTARTING,
        ) => ContainerState::Running,
        _ => ContainerState::Ended(ContainerEnd {
            exit_code: state.exit_code,
            out_of_memory: state.oom_killed.unwrap_or(false),
            network_lost: false,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_read_from_the_list() {
        assert_eq!(exit_code_of("Exited (0) 5 minutes ago"), Some(0));
        assert_eq!(exit_code_of("Exited (137) Less than a second ago"), Some(137));
        for other in ["", "Dead", "Removal In Progress", "Exited", "Exited () ago", "Up 3 seconds"]
        {
            assert_eq!(exit_code_of(other), None, "{other}");
        }
    }
}
