//! `longshore top`: what nodes and tasks use, live in the terminal or once.
//!
//! | module | what lives there |
//! |---|---|
//! | [`model`] | what is known, how it is ordered, and what keys do to it: pure |
//! | [`view`] | how that looks in a terminal of any size: pure |
//! | [`once`] | the same for programs and scripts: a table or JSON |
//! | [`screen`] | the terminal, and that it is what it was before when this ends, whatever ends it |

mod model;
mod once;
mod screen;
mod view;

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use longshore_bus::Subscription;
use longshore_proto::codec;
use longshore_proto::metrics::{METRICS_WATCH_MS, MetricsWatch, NodeMetrics};
use longshore_proto::name::NodeName;
use longshore_proto::subject::{NodeVerb, Pattern, Subject};
use tokio::time::Instant;
use tracing::warn;

use crate::args::cluster::Top;
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::render::Printer;
use model::Model;

/// With more nodes than this the figures of tasks come from the chosen node alone: all of them would be more than a
/// connection carries.
const NODES_WITH_TASKS_MAX: usize = 50;

/// Shows what is used until it is left.
pub(crate) async fn run(client: &Client, wish: &Top, printer: Printer) -> Result<Exit, Failure> {
    let source = Source::open(client).await?;
    let mut model = Model::new(wish.sort, wish.filter.clone().unwrap_or_default());
    if wish.once {
        once::run(client, source, &mut model, wish.output, printer).await
    } else {
        screen::run(client, source, model, wish.interval).await
    }
}

/// Where figures come from.
struct Source {
    client: Client,
    figures: Subscription,
    begun_at: Instant,
}

impl Source {
    async fn open(client: &Client) -> Result<Self, Failure> {
        let figures = client.bus().subscribe(&Pattern::Node(NodeVerb::Metrics)).await?;
        Ok(Self { client: client.clone(), figures, begun_at: Instant::now() })
    }

    /// This program's own clock, in milliseconds.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The next figures of a node; `None` when the connection is closed.
    async fn next(&mut self) -> Option<(NodeName, NodeMetrics)> {
        loop {
            let incoming = self.figures.next().await?;
            let Some(Subject::Node { node, .. }) = incoming.subject else { continue };
            match codec::decode::<NodeMetrics>(&incoming.payload) {
                Ok(figures) => return Some((node, figures)),
                Err(error) => warn!(%error, "figures that cannot be read"),
            }
        }
    }

    /// Asks the workers for figures; to be repeated within [`METRICS_WATCH_MS`].
    async fn watch(&self, interval: Duration, model: &Model) -> Result<(), Failure> {
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        let tasks_of = (model.nodes_count() > NODES_WITH_TASKS_MAX)
            .then(|| model.chosen_node().into_iter().collect::<BTreeSet<_>>());
        let wish = MetricsWatch { interval_ms, tasks_of };
        Ok(self.client.bus().publish(&Subject::MetricsWatch, &wish).await?)
    }
}

/// How often a wish is repeated.
const WATCH_INTERVAL: Duration = Duration::from_millis(METRICS_WATCH_MS / 3);
