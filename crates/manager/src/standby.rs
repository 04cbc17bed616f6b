//! Standing by: following the log into the own store all the time, so as to be ready to lead at once, and
//! answering questions meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use longshore_bus::Bus;
use longshore_core::cluster::Cluster;
use longshore_core::leadership::log::{Applied, LOOK_INTERVAL_MS, check_followed};
use longshore_core::leadership::mend::{Listed, check_shared, cut_before};
use longshore_proto::error::{ApiError, ErrorCode};
use longshore_proto::subject::{Level, Subject};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use crate::Clock;
use crate::bucket::Bucket;
use crate::driver::refuse;
use crate::error::ManagerError;
use crate::follow::Follower;
use crate::gateway::{Arrival, Gateway, Part};
use crate::lease::{Held, Lease};
use crate::log::Log;
use crate::past::Past;
use crate::query::{Desk, Question, answer_api, unavailable};
use crate::store::Store;

/// After so many checks without a message, though the log goes on, another reader is made.
const CHECKS_BEHIND_MAX: u32 = 5;
/// How long a question may wait for what its asker has seen already.
const QUESTION_PATIENCE: Duration = Duration::from_secs(1);

/// Follows the log until the lease is free and taken; `None` when cancelled. What is returned with has applied
/// everything up to some moment after the lease was taken.
#[expect(clippy::too_many_arguments, reason = "they are the parts that this loop joins, each once")]
pub(crate) async fn stand_by(
    cluster: &mut Cluster,
    log: &mut Log,
    store: &Arc<Store>,
    past: &Arc<Past>,
    bus: &Bus,
    lease: Lease,
    core: &Bus,
    replicas: usize,
    heal: &mut bool,
    clock: Clock,
    cancel: &CancellationToken,
) -> Result<Option<Held>, ManagerError> {
    let mut follower = Follower::new(store);
    let opening = async {
        if !*heal {
            return log.catch_up(cluster, &mut follower).await;
        }
        catch_up_all(cluster, log, &mut follower, core, replicas).await?;
        check_followed(cluster.state())?;
        info!("log, store and workers fit together: there is nothing to heal, or it is healed");
        *heal = false;
        Ok(())
    };
    tokio::select! {
        done = opening => done?,
        () = cancel.cancelled() => return Ok(None),
    }
    let name = cluster.identity().name.clone();
    // The first manager of all lists itself by its first record.
    let is_listed = |cluster: &Cluster| {
        let managers = &cluster.state().meta.managers;
        managers.is_empty() || managers.contains(&name)
    };
    let lease = if is_listed(cluster) {
        match lease.attempt().await {
            Ok(held) => {
                take_over(cluster, log, &mut follower, core, replicas).await?;
                return Ok(Some(held));
            }
            Err(lease) => lease,
        }
    } else {
        lease
    };
    let (listed, listing) = watch::channel(is_listed(cluster));
    let mut tail = log.tail(cluster.state().meta.stream_sequence + 1).await?;
    let mut standby = Standby {
        cluster,
        store,
        past,
        clock,
        gateway: Gateway::start(bus, None).await?,
        early: VecDeque::new(),
    };
    let mut acquire = AbortOnDropHandle::new(tokio::spawn(lease.acquire(listing)));
    let mut checks = tokio::time::interval(Duration::from_millis(LOOK_INTERVAL_MS));
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut behind = 0;
    let held = loop {
        tokio::select! {
            () = cancel.cancelled() => {
                standby.close();
                return Ok(None);
            }
            held = &mut acquire => {
                break held.map_err(|_| ManagerError::Bug("nobody waits for the lease any more"))?;
            }
            messages = tail.next() => match messages {
                Ok(messages) => {
                    behind = 0;
                    follower.apply(standby.cluster, messages).await?;
                    listed.send_replace(is_listed(standby.cluster));
                    standby.answer_early();
                }
                Err(error) => {
                    debug!(%error, "the log is read on by another reader");
                    tail = log.tail(standby.known() + 1).await?;
                }
            },
            arrival = standby.gateway.next() => match arrival {
                Some(arrival) => standby.take(arrival),
                None => return Err(ManagerError::Bug("something of this manager listens no more")),
            },
            _ = checks.tick() => {
                standby.answer_early();
                match log.check(Applied::of(&standby.cluster.state().meta)).await {
                    Ok(end) if end > standby.known() => behind += 1,
                    Ok(_) => behind = 0,
                    Err(error @ ManagerError::Broken(_)) => return Err(error),
                    Err(error) => debug!(%error, "the log cannot be looked at"),
                }
                if behind >= CHECKS_BEHIND_MAX {
                    warn!("the log goes on and nothing is read; making another reader");
                    behind = 0;
                    tail = log.tail(standby.known() + 1).await?;
                }
            }
        }
    };
    standby.close();
    take_over(standby.cluster, log, &mut follower, core, replicas).await?;
    Ok(Some(held))
}

/// Reads the log to its end, and makes sure that no snapshot holds more. Gives the newest snapshot.
async fn catch_up_all(
    cluster: &mut Cluster,
    log: &mut Log,
    follower: &mut Follower<'_>,
    core: &Bus,
    replicas: usize,
) -> Result<Option<Listed>, ManagerError> {
    // First: what a snapshot holds was in the log before.
    let newest = Bucket::newest_told(core, replicas).await;
    log.catch_up(cluster, follower).await?;
    check_shared(newest, &cluster.state().meta)?;
    Ok(newest)
}

/// The lease is held: makes sure that this manager knows whatever anybody was told.
async fn take_over(
    cluster: &mut Cluster,
    log: &mut Log,
    follower: &mut Follower<'_>,
    core: &Bus,
    replicas: usize,
) -> Result<(), ManagerError> {
    let newest = catch_up_all(cluster, log, follower, core, replicas).await?;
    if let Some(before) = cut_before(newest, &cluster.state().meta) {
        // Whoever reads it from its beginning would not find what comes now to follow.
        log.look().trim(before).await?;
    }
    Ok(())
}

/// What a manager that stands by answers with.
struct Standby<'a> {
    cluster: &'a mut Cluster,
    store: &'a Arc<Store>,
    past: &'a Arc<Past>,
    clock: Clock,
    gateway: Gateway,
    /// Questions whose askers have seen more than this manager, and until when they may wait.
    early: VecDeque<(Question, Instant)>,
}

impl Standby<'_> {
    fn known(&self) -> u64 {
        self.cluster.state().meta.stream_sequence
    }

    fn index(&self) -> u64 {
        self.cluster.state().meta.index
    }

    fn take(&mut self, arrival: Arrival) {
        let now = self.clock.time();
        match arrival {
            Arrival::Heartbeat(node, heartbeat) => self.cluster.overhear(&node, &heartbeat, now),
            Arrival::Api(request) => match request.subject.clone() {
                Some(Subject::Api { scope, verb }) if verb.level() == Level::Read => {
                    let question = Question { request, scope, verb };
                    if let Some(moment) = question.moment() {
                        let refused = self.gateway.refused();
                        let part = Part::Standby;
                        question.answer_from(self.past, self.store, refused, part, moment);
                    } else if question.index_min() > self.index() {
                        self.early.push_back((question, Instant::now() + QUESTION_PATIENCE));
                    } else {
                        self.answer(question);
                    }
                }
                _ => {
                    let refusal =
                        ApiError::new(ErrorCode::Invalid, "the subject names no legal namespace")
                            .hint("a namespace is made of a-z, 0-9 and '-'; '_' means the cluster");
                    answer_api::<()>(request, self.index(), Err(refusal));
                }
            },
            other => refuse(other, self.index(), &unavailable("this manager does not lead")),
        }
    }

    fn answer(&self, question: Question) {
        let desk = Desk {
            cluster: self.cluster,
            store: self.store,
            refused: self.gateway.refused(),
            part: Part::Standby,
            now: self.clock.time(),
        };
        desk.answer(question);
    }

    /// Answers the questions that can be answered by now, and sends away those that have waited too long.
    fn answer_early(&mut self) {
        let (index, now) = (self.index(), Instant::now());
        for (question, until) in std::mem::take(&mut self.early) {
            if question.index_min() <= index {
                self.answer(question);
            } else if now >= until {
                question.refuse(index);
            } else {
                self.early.push_back((question, until));
            }
        }
    }

    /// Hears nothing any more, and sends everybody who waits to another manager.
    fn close(&mut self) {
        self.gateway.close();
        let (index, refusal) =
            (self.index(), unavailable("this manager does not stand by any more"));
        while let Some(arrival) = self.gateway.waiting() {
            refuse(arrival, index, &refusal);
        }
        for (question, _) in std::mem::take(&mut self.early) {
            question.refuse(index);
        }
    }
}
