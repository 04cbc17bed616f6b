//! Answers to questions, by whichever manager hears them. What they show is committed, and each says which
//! index of the log it reflects.

use std::sync::Arc;

use longshore_bus::ApiRequest;
use longshore_core::cluster::Cluster;
use longshore_core::time::Time;
use longshore_proto::INDEX_HEADER;
use longshore_proto::api::{
    Answer, ListEvents, ListJobs, ListNodes, ListTasks, NameJob, NameNode, NameTask, Nothing, Page,
};
use longshore_proto::codec;
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::name::Namespace;
use longshore_proto::subject::{ApiVerb, Scope};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::gateway::{Gateway, unreadable};
use crate::store::Store;

/// A question, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) request: ApiRequest,
    pub(crate) scope: Scope,
    pub(crate) verb: ApiVerb,
}

impl Question {
    /// The index of the log that the answer must reflect at least, because the asker has seen it already.
    pub(crate) fn index_min(&self) -> u64 {
        self.request.header(INDEX_HEADER).and_then(|index| index.parse().ok()).unwrap_or(0)
    }

    /// Sends the asker to another manager.
    pub(crate) fn refuse(self, index: u64) {
        let refusal = unavailable("this manager has not seen yet what the asker has seen");
        answer_api::<()>(self.request, index, Err(refusal));
    }
}

/// Everything that answers are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Desk<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) store: &'a Arc<Store>,
    pub(crate) gateway: &'a Gateway,
    pub(crate) now: Time,
}

impl Desk<'_> {
    /// Answers a question. History is read from the disk, so on a thread of its own.
    pub(crate) fn answer(&self, Question { request, scope, verb }: Question) {
        let (cluster, now) = (self.cluster, self.now);
        let index = cluster.state().meta.index;
        let namespace: Option<Namespace> = match scope {
            Scope::Namespace(namespace) => Some(namespace),
            Scope::Cluster => None,
        };
        let namespace = namespace.as_ref();
        match verb {
            ApiVerb::ClusterStatus => {
                let view = self
                    .payload(&request)
                    .and_then(|Nothing {}| cluster.cluster_view(self.gateway.refused()));
                answer_api(request, index, view);
            }
            ApiVerb::JobList => {
                let page =
                    self.payload(&request).map(|list: ListJobs| cluster.job_page(namespace, &list));
                answer_api(request, index, page);
            }
            ApiVerb::JobGet => {
                let view = self.payload(&request).and_then(|name: NameJob| match namespace {
                    Some(namespace) => cluster.job_get(namespace, &name),
                    None => Err(ApiError::new(
                        ErrorCode::Invalid,
                        "this verb needs a namespace in its subject",
                    )),
                });
                answer_api(request, index, view);
            }
            ApiVerb::TaskList => {
                let page = self
                    .payload(&request)
                    .map(|list: ListTasks| cluster.task_page(namespace, &list));
                answer_api(request, index, page);
            }
            ApiVerb::TaskGet => {
                let view = self
                    .payload(&request)
                    .and_then(|name: NameTask| cluster.task_get(namespace, &name));
                answer_api(request, index, view);
            }
            ApiVerb::NodeList => {
                let page =
                    self.payload(&request).map(|list: ListNodes| cluster.node_page(&list, now));
                answer_api(request, index, page);
            }
            ApiVerb::NodeGet => {
                let view =
                    self.payload(&request).and_then(|name: NameNode| cluster.node_get(&name, now));
                answer_api(request, index, view);
            }
            ApiVerb::EventList => {
                let list: ListEvents = match self.payload(&request) {
                    Ok(list) => list,
                    Err(refusal) => {
                        answer_api::<()>(request, index, Err(refusal));
                        return;
                    }
                };
                // History is read from the disk, so not on this loop.
                let (store, namespace) = (Arc::clone(self.store), namespace.cloned());
                tokio::task::spawn_blocking(move || {
                    let page = store.events(namespace.as_ref(), &list).map_err(|error| {
                        ApiError::new(
                            ErrorCode::Internal,
                            format!("the history cannot be read: {error}"),
                        )
                    });
                    answer_api(request, index, page.map(|(items, more)| Page { items, more }));
                });
            }
            ApiVerb::JobSubmit | ApiVerb::JobStop | ApiVerb::TaskStop => {
                let refusal = ApiError::new(ErrorCode::Invalid, "this verb is no question");
                answer_api::<()>(request, index, Err(refusal));
            }
        }
    }

    fn payload<T: DeserializeOwned>(&self, request: &ApiRequest) -> Result<T, ApiError> {
        read_payload(self.gateway, request)
    }
}

/// Reads what a request carries; counts and tells what cannot be read.
pub(crate) fn read_payload<T: DeserializeOwned>(
    gateway: &Gateway,
    request: &ApiRequest,
) -> Result<T, ApiError> {
    codec::decode(&request.payload).map_err(|error| {
        gateway.refuse();
        warn!(subject = ?request.subject, %error, "a payload cannot be read and is refused");
        unreadable(&error)
    })
}

/// The refusal of what may be granted later, or by another manager.
pub(crate) fn unavailable(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, message)
        .hint("try again with the same id in a moment; `longshore doctor` shows what is wrong if it lasts")
}

/// Answers without waiting until the bus has taken it.
pub(crate) fn answer_api<T: Serialize + Send + Sync + 'static>(
    request: ApiRequest,
    index: u64,
    result: Result<T, ApiError>,
) {
    let answer = Answer::new(index, result);
    tokio::spawn(async move { request.answer(&answer).await });
}
