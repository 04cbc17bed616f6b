//! What happens to this node's containers, in order.

use std::time::Duration;

use bollard::errors::Error;
use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptionsBuilder, InspectContainerOptions};
use futures_util::stream::{self, BoxStream, StreamExt};
use longshore_core::agent::{ContainerChange, ContainerEnd, ContainerEvent};
use tracing::warn;

use super::RuntimeError;
use super::docker::Docker;
use super::docker_error::explain;
use super::docker_list::KILLED;

/// How long a look at a container that was killed may take: the events behind it wait.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);
/// What is listened to, in Docker's words and in those that Podman's filter knows.
const ACTIONS: [&str; 5] = ["start", "die", "died", "destroy", "remove"];
/// How many of them are looked at once.
const LOOKS_MAX: usize = 32;

/// The events from a moment of the past on.
pub(super) fn events(
    docker: &Docker,
    since_unix_s: u64,
) -> BoxStream<'static, Result<ContainerEvent, RuntimeError>> {
    let client = match docker.client() {
        Ok(client) => client,
        Err(error) => return stream::iter([Err(error)]).boxed(),
    };
    let host = docker.host().to_owned();
    let mut filters = docker.filters();
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    filters.insert("event".to_owned(), ACTIONS.map(str::to_owned).to_vec());
    let options =
        EventsOptionsBuilder::default().since(&since_unix_s.to_string()).filters(&filters).build();
    let events = client.events(Some(options));
    events
        .map(move |event| {
            let (client, host) = (client.clone(), host.clone());
            async move {
                match event {
                    Ok(event) => read(&client, event).await.map(Ok),
                    Err(error @ (Error::JsonDataError { .. } | Error::JsonSerdeError { .. })) => {
                        warn!(%error, "an event of Docker's cannot be read; the next list makes up for it");
                        None
                    }
                    Err(error) => Some(Err(explain(&error, &host, "listening to events"))),
                }
            }
        })
        // In order, but a machine that runs out of memory kills many at once.
        .buffered(LOOKS_MAX)
        .filter_map(std::future::ready)
        .boxed()
}

/// Reads one of Docker's events. `None` for what is no business of ours.
async fn read(client: &bollard::Docker, event: EventMessage) -> Option<ContainerEvent> {
    let actor = event.actor?;
    let (container_id, attributes) = (actor.id?, actor.attributes?);
    let change = match event.action.as_deref()? {
        "start" => ContainerChange::Started,
        "destroy" | "remove" => ContainerChange::Destroyed,
        "die" | "died" => {
            let exit_code = attributes.get("exitCode").and_then(|code| code.parse().ok());
            // Whether memory was the reason stands only in the container itself, for as long as it exists.
            let out_of_memory = exit_code == Some(KILLED) && {
                let look = client.inspect_container(&container_id, None::<InspectContainerOptions>);
                let found = tokio::time::timeout(LOOK_DEADLINE, look).await;
                let state = found.ok().and_then(Result::ok).and_then(|found| found.state);
                state.and_then(|state| state.oom_killed).unwrap_or(false)
            };
            ContainerChange::Died(ContainerEnd { exit_code, out_of_memory })
        }
        _ => return None,
    };
    Some(ContainerEvent { container_id, labels: attributes.into_iter().collect(), change })
}
