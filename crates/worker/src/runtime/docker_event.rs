//! What happens to this node's containers, in order.
//!
//! An exit code of 137 says that a container was killed, not by whom, and what was done to it lately tells: it has run
//! out of memory, or somebody has told the daemon to kill it. Only where neither was heard of is the container itself
//! looked at, because the daemon answers that only when it has taken the container's network apart.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptionsBuilder, InspectContainerOptions};
use futures_util::stream::{self, BoxStream, StreamExt};
use longshore_core::agent::{ContainerChange, ContainerEnd, ContainerEvent, labels};
use tracing::warn;

use super::RuntimeError;
use super::docker::Docker;
use super::docker_error::explain;
use super::docker_list::KILLED;

/// How long a look at a container that was killed may take: the events behind it wait.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);
/// What is listened to, in Docker's words and in those that Podman's filter knows.
const ACTIONS: [&str; 7] = ["start", "oom", "kill", "die", "died", "destroy", "remove"];
/// The signal that nothing survives, as events name it.
const SIGKILL: &str = "9";
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
    let (host, sandboxes) = (docker.host().to_owned(), docker.sandboxes.clone());
    let mut filters = docker.filters();
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    filters.insert("event".to_owned(), ACTIONS.map(str::to_owned).to_vec());
    let options =
        EventsOptionsBuilder::default().since(&since_unix_s.to_string()).filters(&filters).build();
    let events = client.events(Some(options));
    let mut done = Done::default();
    events
        .map(move |event| {
            let (client, host) = (client.clone(), host.clone());
            if let Some(sandbox) = event.as_ref().ok().and_then(sandbox_that_ended) {
                sandboxes.ended(sandbox);
            }
            let known = event.as_ref().ok().and_then(|event| done.to(event));
            let id = event.as_ref().ok().and_then(|event| event.actor.as_ref()?.id.as_deref());
            let network_lost = id.is_some_and(|id| sandboxes.has_cut_off(id));
            async move {
                match event {
                    Ok(event) => read(&client, event, known, network_lost).await.map(Ok),
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

/// The sandbox whose end an event tells.
fn sandbox_that_ended(event: &EventMessage) -> Option<&str> {
    let actor = event.actor.as_ref()?;
    let is_sandbox = actor.attributes.as_ref()?.contains_key(labels::SANDBOX);
    let has_ended = matches!(event.action.as_deref()?, "die" | "died");
    actor.id.as_deref().filter(|_| is_sandbox && has_ended)
}

/// What was done to containers that have not ended since.
#[derive(Debug, Default)]
struct Done {
    out_of_memory: BTreeSet<String>,
    killed: BTreeSet<String>,
}

impl Done {
    /// Notes what an event says. Where it is an end, whether memory was the reason, if that can be told.
    fn to(&mut self, event: &EventMessage) -> Option<bool> {
        let actor = event.actor.as_ref()?;
        let id = actor.id.as_ref()?;
        match event.action.as_deref()? {
            "oom" => drop(self.out_of_memory.insert(id.clone())),
            "kill" => {
                let signal = actor.attributes.as_ref().and_then(|found| found.get("signal"));
                if signal.is_some_and(|signal| signal == SIGKILL) {
                    self.killed.insert(id.clone());
                }
            }
            // Whatever was done before was done to an earlier life.
            _ => {
                let (ran_out, was_killed) = (self.out_of_memory.remove(id), self.killed.remove(id));
                return (ran_out || was_killed).then_some(ran_out);
            }
        }
        None
    }
}

/// Reads one of Docker's events, given whether a container that ended by it ran out of memory, where that is known, and
/// whether this worker has killed it because it had lost its network. `None` for what is no business of ours.
async fn read(
    client: &bollard::Docker,
    event: EventMessage,
    out_of_memory: Option<bool>,
    network_lost: bool,
) -> Option<ContainerEvent> {
    let actor = event.actor?;
    let (container_id, attributes) = (actor.id?, actor.attributes?);
    let change = match event.action.as_deref()? {
        "start" => ContainerChange::Started,
        "destroy" | "remove" => ContainerChange::Destroyed,
        "die" | "died" => {
            let exit_code = attributes.get("exitCode").and_then(|code| code.parse().ok());
            let network_lost = network_lost && exit_code == Some(KILLED);
            let out_of_memory = match out_of_memory {
                _ if exit_code != Some(KILLED) || network_lost => false,
                Some(known) => known,
                None => ran_out_of_memory(client, &container_id).await,
            };
            ContainerChange::Died(ContainerEnd { exit_code, out_of_memory, network_lost })
        }
        _ => return None,
    };
    Some(ContainerEvent { container_id, labels: attributes.into_iter().collect(), change })
}

/// What stands in the container itself, for as long as it exists.
async fn ran_out_of_memory(client: &bollard::Docker, container_id: &str) -> bool {
    let look = client.inspect_container(container_id, None::<InspectContainerOptions>);
    let found = tokio::time::timeout(LOOK_DEADLINE, look).await;
    let state = found.ok().and_then(Result::ok).and_then(|found| found.state);
    state.and_then(|state| state.oom_killed).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use bollard::models::EventActor;

    use super::*;

    fn event(action: &str, attributes: &[(&str, &str)]) -> EventMessage {
        let attributes = attributes.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        let actor = EventActor { id: Some("c1".into()), attributes: Some(attributes.collect()) };
        EventMessage { action: Some(action.into()), actor: Some(actor), ..EventMessage::default() }
    }

    #[test]
    fn who_killed_a_container_is_told_by_what_was_done_to_it() {
        let (kill, term) = (event("kill", &[("signal", "9")]), event("kill", &[("signal", "15")]));
        let (oom, die) = (event("oom", &[]), event("die", &[("exitCode", "137")]));
        for (before, told) in [
            (vec![], None),
            (vec![&term], None),
            (vec![&kill], Some(false)),
            (vec![&term, &kill], Some(false)),
            (vec![&oom], Some(true)),
            (vec![&oom, &kill], Some(true)),
        ] {
            let mut done = Done::default();
            for event in before {
                assert_eq!(done.to(event), None);
            }
            assert_eq!(done.to(&die), told);
            assert_eq!(done.to(&die), None, "another life");
        }
    }
}
