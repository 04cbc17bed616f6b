//! How far the images of tasks have come that are waited for: told by their nodes for as long as somebody asks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use longshore_bus::Subscription;
use longshore_proto::api::TaskView;
use longshore_proto::codec;
use longshore_proto::metrics::{METRICS_WATCH_MS, MetricsWatch, NodeMetrics, PullFigures};
use longshore_proto::name::NodeName;
use longshore_proto::quantity::format_bytes;
use longshore_proto::state::TaskState;
use longshore_proto::subject::{NodeVerb, Pattern, Subject};
use tokio::time::Instant;

use crate::client::Client;
use crate::table::one_line;

/// How often a line is said of one image on one node.
const SAY_INTERVAL: Duration = Duration::from_secs(3);
/// How often figures are wanted.
const FIGURES_INTERVAL_MS: u64 = 1_000;

/// What is told of pulls.
pub(crate) struct Pulling {
    client: Client,
    /// There only while something is pulled.
    figures: Option<Subscription>,
    asked_at: Option<Instant>,
    /// The nodes where tasks prepare, with their tasks' reasons, which name the images.
    waiting: BTreeMap<NodeName, BTreeSet<String>>,
    told: BTreeMap<(NodeName, String), (Instant, String)>,
}

impl Pulling {
    pub(crate) fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            figures: None,
            asked_at: None,
            waiting: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// Takes note of the tasks that are waited for, and asks the nodes while any of them prepares.
    pub(crate) async fn look(&mut self, tasks: &[TaskView]) {
        self.waiting.clear();
        for task in tasks.iter().filter(|task| task.state == TaskState::Preparing) {
            if let (Some(node), Some(reason)) = (&task.node, &task.reason) {
                self.waiting.entry(node.clone()).or_default().insert(reason.clone());
            }
        }
        if self.waiting.is_empty() {
            self.figures = None;
            return;
        }
        let bus = self.client.bus();
        if self.figures.is_none() {
            // Without figures there is less to tell, and nothing else.
            self.figures = bus.subscribe(&Pattern::Node(NodeVerb::Metrics)).await.ok();
            self.asked_at = None;
        }
        let again = Duration::from_millis(METRICS_WATCH_MS / 2);
        if self.asked_at.is_none_or(|at| at.elapsed() >= again) {
            self.asked_at = Some(Instant::now());
            let tasks_of = Some(BTreeSet::new());
            let wish = MetricsWatch { interval_ms: FIGURES_INTERVAL_MS, tasks_of };
            let _ = bus.publish(&Subject::MetricsWatch, &wish).await;
        }
    }

    /// The next thing to tell; never, while nothing is pulled.
    pub(crate) async fn next(&mut self) -> String {
        loop {
            let Some(figures) = &mut self.figures else { return std::future::pending().await };
            let Some(incoming) = figures.next().await else {
                self.figures = None;
                continue;
            };
            let Some(Subject::Node { node, .. }) = incoming.subject else { continue };
            let Ok(figures) = codec::decode::<NodeMetrics>(&incoming.payload) else { continue };
            let told = figures.pulls.iter().find_map(|pull| self.news(&node, pull, Instant::now()));
            if let Some(text) = told {
                return text;
            }
        }
    }

    /// A line on a pull that is waited for, unless one was told just now.
    fn news(&mut self, node: &NodeName, pull: &PullFigures, now: Instant) -> Option<String> {
        let reasons = self.waiting.get(node)?;
        if !reasons.iter().any(|reason| reason.contains(&pull.image)) {
            return None;
        }
        let text = format!("pulling {} on {node}: {}", one_line(&pull.image), progress(pull));
        let key = (node.clone(), pull.image.clone());
        let is_news =
            self.told.get(&key).is_none_or(|(at, told)| *told != text && now - *at >= SAY_INTERVAL);
        if is_news {
            self.told.insert(key, (now, text.clone()));
        }
        is_news.then_some(text)
    }
}

/// How far a pull has come, for people.
pub(crate) fn progress(pull: &PullFigures) -> String {
    match pull.done_bytes.saturating_mul(100).checked_div(pull.total_bytes) {
        Some(percent) => format!(
            "{} {percent} % ({} of {})",
            pull.step.as_str(),
            format_bytes(pull.done_bytes),
            format_bytes(pull.total_bytes)
        ),
        None => pull.step.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::metrics::PullStep;

    use super::*;

    #[test]
    fn progress_is_a_part_of_what_is_known() {
        let pull = |done_bytes, total_bytes, step| PullFigures {
            image: "nginx:1".into(),
            done_bytes,
            total_bytes,
            step,
        };
        assert_eq!(progress(&pull(0, 0, PullStep::Waiting)), "waiting");
        let half = pull(15 << 20, 30 << 20, PullStep::Downloading);
        assert_eq!(progress(&half), "downloading 50 % (15MiB of 30MiB)");
    }
}
