//! A client that submits jobs without pause while the cluster is tormented, and what must hold afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use longshore_bus::Ask;
use longshore_proto::api::{JobSubmitted, SubmitJob};
use longshore_proto::name::Namespace;
use longshore_proto::subject::{ApiVerb, Scope};
use tokio::task::JoinHandle;

use crate::api::{self, Api};
use crate::eventually::eventually;

/// How long one submit may be retried, and how long the load may stand still.
const PATIENCE: Duration = Duration::from_secs(90);

/// The client. Each job is retried with its own command id until it is acknowledged.
#[derive(Debug)]
pub struct Load {
    done: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    task: JoinHandle<BTreeMap<String, u64>>,
}

impl Load {
    /// Begins to submit, over a connection of its own.
    pub fn start(api: Api) -> Self {
        let (done, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let task = tokio::spawn(submit(api, Arc::clone(&done), Arc::clone(&count)));
        Self { done, count, task }
    }

    /// Waits until so many more jobs are acknowledged: what was done to the cluster is over.
    pub async fn goes_on(&self, by: usize) {
        let before = self.count.load(Ordering::Relaxed);
        eventually("the load goes on", PATIENCE, async || {
            let now = self.count.load(Ordering::Relaxed);
            if now >= before + by { Ok(()) } else { Err(format!("{now} jobs of {before}")) }
        })
        .await;
    }

    /// Ends it, and checks that everything acknowledged is known, once, and that the history is in order.
    pub async fn ends_with_nothing_lost(self, api: &Api) {
        self.done.store(true, Ordering::Relaxed);
        let acknowledged = self.task.await.unwrap();
        assert!(acknowledged.len() >= 10, "{} jobs show nothing", acknowledged.len());
        for (name, version) in &acknowledged {
            assert_eq!(*version, 1, "{name} was submitted once");
            assert_eq!(api.job(name).await.unwrap().version, 1, "{name}");
        }
        let history = api.history().await.unwrap();
        let mut submits: BTreeMap<String, usize> = BTreeMap::new();
        for event in history.iter().filter(|event| event.event_type == "job.submitted") {
            let job = event.job.as_ref().map(ToString::to_string).unwrap_or_default();
            *submits.entry(job).or_default() += 1;
        }
        for name in acknowledged.keys() {
            assert_eq!(submits.get(name), Some(&1), "{name} is one event");
        }
        let places: Vec<(u64, u32)> =
            history.iter().map(|event| (event.index, event.ordinal)).collect();
        assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
    }
}

async fn submit(api: Api, done: Arc<AtomicBool>, count: Arc<AtomicUsize>) -> BTreeMap<String, u64> {
    let mut acknowledged = BTreeMap::new();
    while !done.load(Ordering::Relaxed) {
        let name = format!("job-{}", acknowledged.len());
        let job = api::service(&name);
        let scope = Scope::Namespace(Namespace::standard());
        let ask = Ask::write(api::command_id(), PATIENCE);
        let answer: JobSubmitted =
            api.ask(scope, ApiVerb::JobSubmit, &SubmitJob { job }, ask).await.unwrap();
        acknowledged.insert(name, answer.version);
        count.fetch_add(1, Ordering::Relaxed);
    }
    acknowledged
}
