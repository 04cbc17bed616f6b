//! Answers to questions, by whichever manager hears them. What they show is committed, and each says which
//! index of the log it reflects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longshore_bus::ApiRequest;
use longshore_core::cluster::{Cluster, State};
use longshore_core::time::Time;
use longshore_proto::api::{
    Answer, ClusterView, ListEvents, ListJobs, ListNodes, ListTasks, NameJob, NameNode, NameTask,
    NameVersion, Nothing, Page,
};
use longshore_proto::codec;
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::name::{JobKey, Namespace};
use longshore_proto::plan::{Rebalance, WhatIf};
use longshore_proto::subject::{ApiVerb, Scope};
use longshore_proto::{INDEX_HEADER, MOMENT_HEADER};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tracing::warn;

use crate::gateway::{Part, unreadable};
use crate::past::{Moment, Past};
use crate::store::Store;

/// Questions that take a while are worked out two at a time, each on a copy of what it needs: copies take memory.
static STUDIES: Semaphore = Semaphore::const_new(2);

/// Through so many tasks a question may look while everybody's decisions wait: a few milliseconds' worth.
const TASKS_ON_LOOP_MAX: usize = 5_000;
/// Looks through more are made beside the loop, so many at a time, in copies, which take memory. Whoever comes while all are
/// under way is answered on the loop.
static LOOKS: Semaphore = Semaphore::const_new(4);

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

    /// The moment of the past that is asked about, when one is.
    pub(crate) fn moment(&self) -> Option<Result<Moment, ApiError>> {
        self.request.header(MOMENT_HEADER).map(Moment::parse)
    }

    /// Answers from the past, on a thread of its own: the disk is read.
    pub(crate) fn answer_from(
        self,
        past: &Arc<Past>,
        store: &Arc<Store>,
        refused: &Arc<AtomicU64>,
        part: Part,
        moment: Result<Moment, ApiError>,
    ) {
        let (past, store, refused) = (Arc::clone(past), Arc::clone(store), Arc::clone(refused));
        tokio::task::spawn_blocking(move || match moment.and_then(|moment| past.at(moment)) {
            Ok(cluster) => {
                let now = Time::default();
                Desk { cluster: &cluster, store: &store, refused: &refused, part, now }
                    .answer(self);
            }
            // Another manager may reach further back.
            Err(refusal) if part == Part::Standby && refusal.code == ErrorCode::NotFound => {
                answer_api::<()>(self.request, 0, Err(unavailable(&refusal.message)));
            }
            Err(refusal) => answer_api::<()>(self.request, 0, Err(refusal)),
        });
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
    /// How many payloads could not be read.
    pub(crate) refused: &'a AtomicU64,
    /// What this manager is.
    pub(crate) part: Part,
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
                let view = self.payload(&request).and_then(|Nothing {}| {
                    cluster.cluster_view(self.refused.load(Ordering::Relaxed))
                });
                let tasks = self.look(cluster.state().tasks.len(), State::count_tasks);
                // History is read from the disk, so not on this loop.
                let store = Arc::clone(self.store);
                tokio::task::spawn_blocking(move || {
                    let tasks = tasks.finish();
                    let history = store.history_reach().unwrap_or_else(|error| {
                        warn!(%error, "how far back the history reaches cannot be read");
                        None
                    });
                    let view = view.map(|view| ClusterView { tasks, history, ..view });
                    answer_api(request, index, view);
                });
            }
            ApiVerb::JobList => {
                let (list, namespace) = (self.payload::<ListJobs>(&request), namespace.cloned());
                let page = self.look(cluster.state().tasks.len(), move |state| {
                    list.map(|list| state.job_page(namespace.as_ref(), &list))
                });
                page.answer(request, index);
            }
            ApiVerb::JobGet => {
                let key = self.payload(&request).and_then(|NameJob { name }| {
                    Ok(JobKey { namespace: needed(namespace)?.clone(), name })
                });
                let tasks = key.as_ref().map_or(0, |key| cluster.state().tasks_of(key));
                self.look(tasks, move |state| state.job_get(&key?)).answer(request, index);
            }
            ApiVerb::JobVersion => {
                let version = self
                    .payload(&request)
                    .and_then(|asked: NameVersion| cluster.job_version(needed(namespace)?, &asked));
                answer_api(request, index, version);
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
                let part = self.part;
                tokio::task::spawn_blocking(move || {
                    if part == Part::Standby && store.is_partial().unwrap_or(true) {
                        let refusal = unavailable("this manager joined later than history begins");
                        return answer_api::<()>(request, index, Err(refusal));
                    }
                    let page = store.events(namespace.as_ref(), &list).map_err(|error| {
                        ApiError::new(
                            ErrorCode::Internal,
                            format!("the history cannot be read: {error}"),
                        )
                    });
                    answer_api(request, index, page.map(|(items, more)| Page { items, more }));
                });
            }
            ApiVerb::TaskExplain => {
                let namespace = namespace.cloned();
                self.study(request, |name: NameTask| {
                    let explaining = cluster.explain(namespace.as_ref(), &name)?;
                    Ok(move || Ok(explaining.finish()))
                });
            }
            ApiVerb::ClusterWhatIf => self.study(request, |question: WhatIf| {
                let snapshot = cluster.snapshot();
                Ok(move || snapshot.whatif(&question))
            }),
            ApiVerb::RebalancePlan => self.study(request, |asked: Rebalance| {
                let bounds = cluster.rebalance_bounds(&asked)?;
                let snapshot = cluster.snapshot();
                Ok(move || Ok(snapshot.rebalance(bounds)))
            }),
            _ => {
                let refusal = ApiError::new(ErrorCode::Invalid, "this verb is no question");
                answer_api::<()>(request, index, Err(refusal));
            }
        }
    }

    /// Looks through so many tasks: on this loop where they are few, and in a copy beside it where they are not.
    fn look<A>(&self, tasks: usize, work: impl FnOnce(&State) -> A + Send + 'static) -> Look<A> {
        let state = self.cluster.state();
        if tasks > TASKS_ON_LOOP_MAX
            && let Ok(permit) = LOOKS.try_acquire()
        {
            let copy = state.copy_of_jobs();
            return Look::Beside(Box::new(move || {
                let _permit = permit;
                work(&copy)
            }));
        }
        Look::Done(work(state))
    }

    /// Answers a question that takes a while: `copy` copies what it needs on this loop, and what that gives works it
    /// out beside the loop.
    fn study<Q, A, W>(&self, request: ApiRequest, copy: impl FnOnce(Q) -> Result<W, ApiError>)
    where
        Q: DeserializeOwned,
        A: Serialize + Send + Sync + 'static,
        W: FnOnce() -> Result<A, ApiError> + Send + 'static,
    {
        let index = self.cluster.state().meta.index;
        let question = match self.payload(&request) {
            Ok(question) => question,
            Err(refusal) => return answer_api::<()>(request, index, Err(refusal)),
        };
        let Ok(permit) = STUDIES.try_acquire() else {
            let refusal = unavailable("this manager is working out other plans and explanations");
            return answer_api::<()>(request, index, Err(refusal));
        };
        match copy(question) {
            Ok(work) => drop(tokio::task::spawn_blocking(move || {
                let answer = work();
                drop(permit);
                answer_api(request, index, answer);
            })),
            Err(refusal) => answer_api::<()>(request, index, Err(refusal)),
        }
    }

    fn payload<T: DeserializeOwned>(&self, request: &ApiRequest) -> Result<T, ApiError> {
        read_payload(self.refused, request)
    }
}

/// What a look through tasks has found, or will find.
enum Look<A> {
    Done(A),
    Beside(Box<dyn FnOnce() -> A + Send>),
}

impl<A> Look<A> {
    /// What there is to find. Where it is yet to be found this takes a while.
    fn finish(self) -> A {
        match self {
            Self::Done(answer) => answer,
            Self::Beside(work) => work(),
        }
    }
}

impl<A: Serialize + Send + Sync + 'static> Look<Result<A, ApiError>> {
    /// Answers whoever asked for it.
    fn answer(self, request: ApiRequest, index: u64) {
        match self {
            Self::Done(answer) => answer_api(request, index, answer),
            Self::Beside(work) => {
                tokio::task::spawn_blocking(move || answer_api(request, index, work()));
            }
        }
    }
}

/// The namespace of a question that is about one.
fn needed(namespace: Option<&Namespace>) -> Result<&Namespace, ApiError> {
    namespace.ok_or_else(|| {
        ApiError::new(ErrorCode::Invalid, "this verb needs a namespace in its subject")
    })
}

/// Reads what a request carries; counts and tells what cannot be read.
pub(crate) fn read_payload<T: DeserializeOwned>(
    refused: &AtomicU64,
    request: &ApiRequest,
) -> Result<T, ApiError> {
    codec::decode(&request.payload).map_err(|error| {
        refused.fetch_add(1, Ordering::Relaxed);
        warn!(subject = ?request.subject, %error, "a payload cannot be read and is refused");
        unreadable(&error)
    })
}

/// The refusal of what may be granted later, or by another manager.
pub(crate) fn unavailable(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, message)
        .hint("try again in a moment (a program with the same id); `longshore doctor` shows what is wrong if it lasts")
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
