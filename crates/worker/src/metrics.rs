//! What the node and its tasks use, told on a subject of its own: slowly by itself, faster while somebody asks.
//!
//! Nothing of it passes through the log, and nothing depends on its being heard.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::{Stream, StreamExt};
use longshore_core::agent::RunningTask;
use longshore_proto::metrics::{
    METRICS_INTERVAL_MS, METRICS_INTERVAL_MS_MIN, METRICS_TASKS_MAX, METRICS_WATCH_MS,
    MetricsWatch, NodeFigures, NodeMetrics, TaskFigures, Usage,
};
use longshore_proto::name::NodeName;
use longshore_proto::subject::{NodeVerb, Pattern};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::driver::{Message, Standing};
use crate::probe::Probe;
use crate::runtime::Runtime;
use crate::session::Session;
use crate::usage;

/// How long after its subscription was lost a worker listens again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long the figures of tasks are waited for: a runtime that hangs must not hold up those of the node.
const USAGES_DEADLINE: Duration = Duration::from_secs(5);

/// Tells the figures for ever.
pub(crate) async fn publish(
    session: Session,
    runtime: Arc<dyn Runtime>,
    driver: mpsc::Sender<Message>,
    probe: Probe,
) {
    let mut teller =
        Teller { session, runtime, driver, probe: Some(probe), before: HashMap::new() };
    let mut wishes = Wishes::default();
    loop {
        match teller.session.bus.subscribe(&Pattern::MetricsWatch).await {
            Ok(mut asked) => follow(&mut teller, &mut wishes, &mut asked).await,
            Err(error) => warn!("{error}; trying again"),
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn follow(
    teller: &mut Teller,
    wishes: &mut Wishes,
    asked: &mut (impl Stream<Item = longshore_bus::Incoming> + Unpin),
) {
    loop {
        tokio::select! {
            incoming = asked.next() => {
                let Some(incoming) = incoming else { return };
                let wish = teller.session.read::<MetricsWatch>(&incoming.payload, "metrics.watch");
                if let Some(wish) = wish {
                    wishes.take(&wish, &teller.session.node, Instant::now());
                }
            }
            () = tokio::time::sleep_until(wishes.next_at()) => {
                let with_tasks = wishes.told(Instant::now());
                if teller.tell(with_tasks).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// How often figures are wanted, and until when.
#[derive(Debug, Default)]
struct Wishes {
    told_at: Option<Instant>,
    /// The shortest interval that is wanted, until then.
    node: Option<(Duration, Instant)>,
    /// The same for those of the tasks.
    tasks: Option<(Duration, Instant)>,
    /// Whether somebody wants this node's tasks once, and waits for that.
    once: bool,
}

impl Wishes {
    fn take(&mut self, wish: &MetricsWatch, node: &NodeName, now: Instant) {
        let interval = Duration::from_millis(
            wish.interval_ms.clamp(METRICS_INTERVAL_MS_MIN, METRICS_INTERVAL_MS),
        );
        let until = now + Duration::from_millis(METRICS_WATCH_MS);
        let shorter = |known: Option<(Duration, Instant)>| match known {
            Some((known, end)) if end > now && known < interval => Some((known, end)),
            _ => Some((interval, until)),
        };
        let is_new = self.node.is_none_or(|(_, end)| end <= now);
        self.node = shorter(self.node);
        if wish.tasks_of.as_ref().is_none_or(|nodes| nodes.contains(node)) {
            self.tasks = shorter(self.tasks);
        }
        if is_new {
            // The first ones come at once.
            self.told_at = None;
        }
        // No faster than by themselves: who names a node like that looks at it once, whoever else is told already.
        let is_named = wish.tasks_of.as_ref().is_some_and(|nodes| nodes.contains(node));
        self.once |= is_named && wish.interval_ms >= METRICS_INTERVAL_MS;
    }

    /// When the next figures are due.
    fn next_at(&self) -> Instant {
        let Some(told_at) = self.told_at else { return Instant::now() };
        if self.once {
            return told_at + Duration::from_millis(METRICS_INTERVAL_MS_MIN);
        }
        let usual = told_at + Duration::from_millis(METRICS_INTERVAL_MS);
        match self.node {
            Some((interval, end)) if told_at + interval <= end => told_at + interval,
            _ => usual,
        }
    }

    /// Figures are being told: whether those of the tasks are wanted too.
    fn told(&mut self, now: Instant) -> bool {
        self.told_at = Some(now);
        let live = |wish: Option<(Duration, Instant)>| wish.is_some_and(|(_, end)| end > now);
        std::mem::take(&mut self.once) || live(self.tasks) || !live(self.node)
    }
}

/// Reads figures and tells them.
struct Teller {
    session: Session,
    runtime: Arc<dyn Runtime>,
    driver: mpsc::Sender<Message>,
    /// The gauges; elsewhere while they are read.
    probe: Option<Probe>,
    /// The processor time of each container at the reading before.
    before: HashMap<String, (Instant, u64)>,
}

impl Teller {
    /// Tells once. An error means that the worker ends.
    async fn tell(&mut self, with_tasks: bool) -> Result<(), ()> {
        let (answer, standing) = oneshot::channel();
        self.driver.send(Message::StandingOf(answer)).await.map_err(drop)?;
        let Standing { tasks, runtime_error } = standing.await.map_err(drop)?;
        let tasks_running = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
        let node = self.node(tasks_running, runtime_error).await;
        let tasks = if with_tasks { Some(self.tasks(tasks).await) } else { None };
        let message = NodeMetrics {
            boot_id: self.session.boot_id,
            at_ms: unix_ms(),
            node,
            tasks: None,
            pulls: self.runtime.pulls(),
        };
        let subject = self.session.subject(NodeVerb::Metrics);
        for message in pages(message, tasks) {
            if let Err(error) = self.session.bus.publish(&subject, &message).await {
                debug!("{error}");
            }
        }
        Ok(())
    }

    async fn node(&mut self, tasks_running: u32, runtime_error: Option<String>) -> NodeFigures {
        let probe = self.probe.take();
        // Its files are the kernel's, but the size of a disk that hangs is waited for.
        let read = tokio::task::spawn_blocking(move || {
            let mut probe = probe?;
            let (capacity, used) = (probe.capacity(), probe.used());
            Some((probe, capacity, used, usage::machine_traffic(), usage::load_1m()))
        });
        let mut figures = NodeFigures { tasks_running, runtime_error, ..NodeFigures::default() };
        if let Ok(Some((probe, capacity, used, traffic, load))) = read.await {
            self.probe = Some(probe);
            (figures.capacity, figures.used) = (capacity, used);
            (figures.received_bytes, figures.sent_bytes) = traffic.unwrap_or_default();
            figures.load_1m = load.unwrap_or_default();
        }
        figures
    }

    async fn tasks(&mut self, running: Vec<RunningTask>) -> Vec<TaskFigures> {
        let ids = running.iter().map(|task| task.container_id.clone()).collect();
        let read = tokio::time::timeout(USAGES_DEADLINE, self.runtime.usages(ids)).await;
        let mut usages: BTreeMap<String, Usage> = read.unwrap_or_default();
        let now = Instant::now();
        let before = std::mem::take(&mut self.before);
        let mut figures = Vec::with_capacity(running.len());
        for task in running {
            let mut usage = usages.remove(&task.container_id).unwrap_or_default();
            if let Some(cpu_ns) = usage.cpu_ns {
                usage.cpu_millis = before
                    .get(&task.container_id)
                    .and_then(|(then, cpu_before_ns)| rate(now - *then, *cpu_before_ns, cpu_ns));
                self.before.insert(task.container_id, (now, cpu_ns));
            }
            figures.push(TaskFigures {
                task: task.task,
                namespace: task.namespace,
                job: task.job,
                spec: task.spec,
                slot: task.slot,
                attempt: task.attempt,
                usage,
            });
        }
        figures
    }
}

/// Thousandths of a core, from processor time at two moments.
fn rate(span: Duration, before_ns: u64, now_ns: u64) -> Option<u64> {
    let used = u128::from(now_ns.checked_sub(before_ns)?) * 1_000;
    u64::try_from(used.checked_div(span.as_nanos())?).ok()
}

/// The messages that a reading becomes: as many as its tasks need.
fn pages(message: NodeMetrics, tasks: Option<Vec<TaskFigures>>) -> Vec<NodeMetrics> {
    let Some(tasks) = tasks else { return vec![message] };
    if tasks.is_empty() {
        return vec![NodeMetrics { tasks: Some(tasks), ..message }];
    }
    let page =
        |tasks: &[TaskFigures]| NodeMetrics { tasks: Some(tasks.to_vec()), ..message.clone() };
    tasks.chunks(METRICS_TASKS_MAX).map(page).collect()
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn wish(interval_ms: u64, tasks_of: Option<&str>) -> MetricsWatch {
        let tasks_of = tasks_of.map(|node| BTreeSet::from([node.parse().unwrap()]));
        MetricsWatch { interval_ms, tasks_of }
    }

    #[tokio::test(start_paused = true)]
    async fn figures_come_slowly_by_themselves_and_faster_while_they_are_wanted() {
        let node: NodeName = "n1".parse().unwrap();
        let mut wishes = Wishes::default();
        let begun = Instant::now();
        let after = |ms| begun + Duration::from_millis(ms);
        assert_eq!(wishes.next_at(), begun);
        assert!(wishes.told(begun), "by themselves, those of the tasks are told too");
        assert_eq!(wishes.next_at(), after(METRICS_INTERVAL_MS));

        wishes.take(&wish(2_000, Some("n2")), &node, after(5_000));
        assert_eq!(wishes.told_at, None, "the first ones come at once");
        assert!(!wishes.told(after(5_000)), "those of another node's tasks were wanted");
        assert_eq!(wishes.next_at(), after(7_000));
        // Somebody else wants them faster, and all of them; the slower one does not slow them down.
        wishes.take(&wish(1, None), &node, after(6_000));
        wishes.take(&wish(2_000, None), &node, after(6_100));
        assert_eq!(wishes.next_at(), after(5_000 + METRICS_INTERVAL_MS_MIN));
        assert!(wishes.told(after(6_000)));
        // Nobody repeats it.
        let end = 6_000 + METRICS_WATCH_MS;
        wishes.told(after(end));
        assert_eq!(wishes.next_at(), after(end + METRICS_INTERVAL_MS));
    }

    #[tokio::test(start_paused = true)]
    async fn who_looks_at_a_node_once_is_told_although_another_has_just_been() {
        let node: NodeName = "n1".parse().unwrap();
        let mut wishes = Wishes::default();
        let begun = Instant::now();
        let after = |ms| begun + Duration::from_millis(ms);
        let once = |node: &str| wish(METRICS_INTERVAL_MS, Some(node));
        wishes.take(&once("n1"), &node, begun);
        assert!(wishes.told(begun));
        // The first wish is still live.
        wishes.take(&once("n1"), &node, after(3_000));
        assert_eq!(wishes.next_at(), after(METRICS_INTERVAL_MS_MIN), "it is overdue");
        assert!(wishes.told(after(3_000)));
        wishes.take(&once("n1"), &node, after(3_100));
        assert_eq!(wishes.next_at(), after(3_000 + METRICS_INTERVAL_MS_MIN), "not too often");
        assert!(wishes.told(after(3_500)));
        // It was told, and others are not meant.
        assert_eq!(wishes.next_at(), after(3_500 + METRICS_INTERVAL_MS));
        wishes.take(&once("n2"), &node, after(4_000));
        wishes.take(&wish(METRICS_INTERVAL_MS, None), &node, after(4_000));
        assert_eq!(wishes.next_at(), after(3_500 + METRICS_INTERVAL_MS));
    }

    #[test]
    fn processor_time_becomes_a_rate() {
        let second = Duration::from_secs(1);
        assert_eq!(rate(second, 0, 500_000_000), Some(500));
        assert_eq!(rate(second * 2, 1_000, 4_000_001_000), Some(2_000));
        assert_eq!(rate(second, 5, 4), None, "another container's");
        assert_eq!(rate(Duration::ZERO, 0, 4), None);
    }
}
