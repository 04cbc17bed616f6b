//! The manager's api as a NATS micro service, so that `nats micro ls` and `nats micro stats` show it.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_nats::service::{Request, Service, ServiceExt, endpoint::Endpoint};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{SelectAll, Stream, StreamExt};
use longshore_proto::codec;
use longshore_proto::name::UserName;
use longshore_proto::permission::Role;
use longshore_proto::subject::{ApiVerb, Pattern, Subject};
use serde::Serialize;
use tracing::warn;

use crate::connect::{Bus, headers};
use crate::subscribe::asker;

/// The service's name.
pub const SERVICE: &str = "longshore";
/// Of a service's metadata: which cluster it is of, by the first token of its subjects.
pub const ROOT: &str = "root";
/// Of a service's metadata: the manager's name.
pub const MANAGER: &str = "manager";
/// Of a service's metadata: what the manager is, [`LEADER`] or [`STANDBY`].
pub const PART: &str = "part";
/// The manager that leads.
pub const LEADER: &str = "leader";
/// A manager that stands by.
pub const STANDBY: &str = "standby";

/// The api's verbs as endpoints of one service, and the requests that come in on them.
pub struct Api {
    bus: Bus,
    service: Option<Service>,
    endpoints: SelectAll<Endpoint>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("endpoints", &self.endpoints.len()).finish_non_exhaustive()
    }
}

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
#[error("the api cannot be offered as a NATS service: {0}")]
pub struct ServiceError(String);

impl Api {
    /// Offers the given verbs, and what else only a leader answers. Who asks which services there are is told of whose it is:
    /// the cluster's root, the manager's name, and whether it leads.
    pub async fn start(
        bus: &Bus,
        version: &str,
        verbs: &[ApiVerb],
        leader: bool,
    ) -> Result<Self, ServiceError> {
        let service = bus
            .client()
            .service_builder()
            .description("Longshore's manager: jobs, tasks, nodes, events")
            .metadata(HashMap::from([
                (ROOT.to_owned(), bus.root().to_string()),
                (MANAGER.to_owned(), bus.user().to_string()),
                (PART.to_owned(), if leader { LEADER } else { STANDBY }.to_owned()),
            ]))
            .start(SERVICE, version)
            .await
            .map_err(|error| ServiceError(error.to_string()))?;
        let mut offers: Vec<(String, Pattern)> = verbs
            .iter()
            .map(|verb| (verb.as_str().replace('.', "-"), Pattern::Api(*verb)))
            .collect();
        if leader {
            offers.push(("leader-reads".to_owned(), Pattern::LeaderReads));
        }
        let mut endpoints = SelectAll::new();
        for (name, pattern) in offers {
            let endpoint = service
                .endpoint_builder()
                .name(name)
                .add(pattern.text(bus.root()))
                .await
                .map_err(|error| ServiceError(error.to_string()))?;
            endpoints.push(endpoint);
        }
        Ok(Self { bus: bus.clone(), service: Some(service), endpoints })
    }
}

impl Drop for Api {
    /// The library's own task for discovery would live on with the connection if the service were only dropped.
    fn drop(&mut self) {
        if let Some(service) = self.service.take()
            && let Some(Err(error)) = service.stop().now_or_never()
        {
            warn!(%error, "the api's service did not stop cleanly");
        }
    }
}

impl Stream for Api {
    type Item = ApiRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ApiRequest>> {
        let root = self.bus.root().clone();
        self.endpoints.poll_next_unpin(context).map(|next| {
            next.map(|request| ApiRequest {
                subject: Subject::parse(&root, &request.message.subject),
                payload: request.message.payload.clone(),
                request,
            })
        })
    }
}

/// A request to the api.
#[derive(Debug)]
pub struct ApiRequest {
    /// What is asked; `None` when the scope is no legal name.
    pub subject: Option<Subject>,
    /// Its bytes, not to be trusted.
    pub payload: Bytes,
    request: Request,
}

impl ApiRequest {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.request.message.headers.as_ref()?.get(name).map(|value| value.as_str())
    }

    /// Who asks, by its inbox; `None` when the answer is wanted anywhere else, and will be withheld. Only operators
    /// and observers ask the api: an answer in the inbox of anybody else would be a lie to them.
    pub fn asker(&self) -> Option<(Role, UserName)> {
        asker(self.request.message.reply.as_deref()?)
            .filter(|(role, _)| matches!(role, Role::Operator | Role::Observer))
    }

    /// Answers into the asker's own inbox, or not at all (see [`crate::Incoming::answer`]).
    pub async fn answer<T: Serialize>(&self, answer: &T) {
        if self.asker().is_none() {
            warn!(
                subject = %self.request.message.subject, reply = ?self.request.message.reply,
                "an answer was wanted on a subject that is no client's inbox, and was withheld"
            );
            return;
        }
        let payload = Bytes::from(codec::encode(answer));
        if let Err(error) = self.request.respond_with_headers(Ok(payload), headers()).await {
            warn!(subject = %self.request.message.subject, %error, "an answer was not sent; the asker will ask again");
        }
    }
}
