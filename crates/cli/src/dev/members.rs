//! The manager and the workers of `longshore dev`, as tasks of this process.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use longshore_core::agent::labels::{CLUSTER, Owner};
use longshore_proto::id::ClusterId;
use longshore_proto::name::{Datacenter, NodeName, UserName};
use longshore_proto::node::TASKS_MAX_USUAL;
use longshore_worker::policy::Policy;
use longshore_worker::probe::{CapacityOverride, Probe, cores};
use longshore_worker::runtime::{Runtime, docker::Docker};
use longshore_worker::{Keeping, PORT_RANGE_USUAL};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::place::Place;
use crate::connect::user;
use crate::failure::Failure;
use crate::render::Printer;

/// How long the event stream keeps events.
const EVENTS_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// How many bytes of events the event stream keeps.
const EVENTS_BYTES_MAX: u64 = 1 << 30;
/// How large the log may be.
const LOG_BYTES_MAX: u64 = 1 << 30;
/// How long the manager may take to stop.
const MANAGER_STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How many containers are removed at a time.
const REMOVALS_MAX: usize = 8;
/// Where Docker's containers are, usually: the disk that counts.
const DOCKER_FOLDER: &str = "/var/lib/docker";

/// Everybody who runs.
#[derive(Debug)]
pub(crate) struct Members {
    manager: JoinSet<Result<(), Failure>>,
    manager_stop: CancellationToken,
    workers: JoinSet<Result<(), Failure>>,
    workers_stop: CancellationToken,
}

impl Members {
    /// Starts a manager and the workers. They wait for each other by themselves.
    pub(crate) fn start(
        access: &Access,
        place: &Place,
        nodes: &[UserName],
        keep: bool,
        mount_paths: &[String],
    ) -> Result<Self, Failure> {
        let (bus, core) = access.manager()?;
        let manager = longshore_manager::Options {
            bus,
            core,
            data_dir: place.manager(),
            name: user("dev")?,
            settings: Default::default(),
            keeping: longshore_manager::Keeping {
                snapshot_records: 10_000,
                history_age_max: EVENTS_AGE_MAX,
                history_bytes_max: EVENTS_BYTES_MAX,
                replicas: 1,
            },
            heal_log: false,
            log_bytes_max: LOG_BYTES_MAX,
            events_age_max: EVENTS_AGE_MAX,
            events_bytes_max: EVENTS_BYTES_MAX,
        };
        let capacity = share(place.path(), nodes.len());
        let on_shutdown = if keep {
            longshore_worker::OnShutdown::Keep
        } else {
            longshore_worker::OnShutdown::Stop
        };
        let mut options = Vec::new();
        for (number, name) in nodes.iter().enumerate() {
            options.push(longshore_worker::Options {
                bus: access.worker(name)?,
                name: NodeName::from(name.clone()),
                data_dir: place.worker(name.as_str()),
                datacenter: Datacenter::standard(),
                labels: Default::default(),
                capacity,
                tasks_max: TASKS_MAX_USUAL,
                policy: Policy { mount_paths: mount_paths.to_vec(), ..Policy::default() },
                keeping: Keeping::default(),
                registry_auth: None,
                sandboxes: 0,
                registry_logins: None,
                ports: part_of(PORT_RANGE_USUAL, number, nodes.len()),
                on_shutdown,
                docker: None,
            });
        }
        let mut members = Self {
            manager: JoinSet::new(),
            manager_stop: CancellationToken::new(),
            workers: JoinSet::new(),
            workers_stop: CancellationToken::new(),
        };
        let stop = members.manager_stop.clone();
        members.manager.spawn(async move {
            longshore_manager::run(manager, stop)
                .await
                .map_err(|error| Failure::new("the manager cannot go on").cause(&error))
        });
        for options in options {
            let stop = members.workers_stop.clone();
            let name = options.name.clone();
            members.workers.spawn(async move {
                longshore_worker::run(options, stop).await.map_err(|error| {
                    Failure::new(format!("the worker {name} cannot go on")).cause(&error)
                })
            });
        }
        Ok(members)
    }

    /// Returns when somebody has ended who should not have.
    pub(crate) async fn ended(&mut self) -> Failure {
        let (who, ended) = tokio::select! {
            Some(ended) = self.manager.join_next() => ("the manager", ended),
            Some(ended) = self.workers.join_next() => ("a worker", ended),
            else => std::future::pending().await,
        };
        failure_of(who, ended).unwrap_or_else(|| Failure::new(format!("{who} has ended by itself")))
    }

    /// Stops the workers, which stop their containers unless told otherwise, and then the manager, so that it
    /// hears of it.
    pub(crate) async fn stop(mut self, printer: Printer) -> Result<(), Failure> {
        let mut worst = Ok(());
        self.workers_stop.cancel();
        while let Some(ended) = self.workers.join_next().await {
            note(failure_of("a worker", ended), &mut worst, printer);
        }
        self.manager_stop.cancel();
        match timeout(MANAGER_STOP_TIMEOUT, self.manager.join_next()).await {
            Ok(Some(ended)) => note(failure_of("the manager", ended), &mut worst, printer),
            Ok(None) => {}
            Err(_) => {
                // Whatever it had acknowledged is on the disk.
                let text = format!("the manager has not stopped after {MANAGER_STOP_TIMEOUT:?}");
                note(Some(Failure::new(text)), &mut worst, printer);
            }
        }
        worst
    }
}

fn failure_of(who: &str, ended: Result<Result<(), Failure>, JoinError>) -> Option<Failure> {
    match ended {
        Ok(outcome) => outcome.err(),
        Err(error) => Some(Failure::new(format!("{who} has crashed")).cause(&error)),
    }
}

/// The first failure is the outcome; the others are told on the way.
fn note(failure: Option<Failure>, worst: &mut Result<(), Failure>, printer: Printer) {
    match failure {
        Some(failure) if worst.is_ok() => *worst = Err(failure),
        Some(failure) => {
            printer.failure(&failure);
        }
        None => {}
    }
}

/// Removes what the workers have stopped: nobody will ever ask for those containers again.
pub(crate) async fn clear_containers(cluster: ClusterId, nodes: &[UserName], printer: Printer) {
    let mut problems = BTreeSet::new();
    for name in nodes {
        let docker = Docker::new(None, NodeName::from(name.clone()), cores());
        let containers = docker.list().await.unwrap_or_else(|error| {
            problems.insert(error.to_string());
            Vec::new()
        });
        let ours = containers.into_iter().filter(|container| {
            Owner::read(&container.labels).is_some_and(|owner| owner.cluster_id == cluster)
        });
        let removed = ours.map(|container| docker.remove(container.id, 0));
        let mut removed = stream::iter(removed).buffer_unordered(REMOVALS_MAX);
        while let Some(removed) = removed.next().await {
            problems.extend(removed.err().map(|error| error.to_string()));
        }
    }
    if !problems.is_empty() {
        let problems = Vec::from_iter(problems).join("; ");
        printer.warning(&format!(
            "stopped containers may be left ({problems}); \
             `docker rm $(docker ps -aq --filter label={CLUSTER}={cluster})` removes them"
        ));
    }
}

/// One worker's part of the machine. One alone finds out for itself.
fn share(folder: &Path, workers: usize) -> CapacityOverride {
    let Some(workers) = u64::try_from(workers).ok().filter(|workers| *workers > 1) else {
        return CapacityOverride::default();
    };
    let mut probe = Probe::new(folder.to_owned(), CapacityOverride::default());
    probe.set_folder(Path::new(DOCKER_FOLDER));
    let machine = probe.capacity();
    CapacityOverride {
        cpu_millis: Some(machine.cpu_millis / workers),
        memory_bytes: Some(machine.memory_bytes / workers),
        disk_bytes: Some(machine.disk_bytes / workers),
    }
}

/// One worker's part of a range of ports, so that two on one machine do not choose the same.
fn part_of(range: RangeInclusive<u16>, number: usize, workers: usize) -> RangeInclusive<u16> {
    let workers = u16::try_from(workers).unwrap_or(u16::MAX).max(1);
    let each = (range.end() - range.start()) / workers;
    let number = u16::try_from(number).unwrap_or(0).min(workers - 1);
    let first = range.start() + number * each;
    first..=first + each.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_of_one_machine_choose_different_ports() {
        assert_eq!(part_of(20_000..=32_000, 0, 1), 20_000..=31_999);
        assert_eq!(part_of(20_000..=32_000, 0, 3), 20_000..=23_999);
        assert_eq!(part_of(20_000..=32_000, 2, 3), 28_000..=31_999);
    }

    #[test]
    fn workers_of_one_machine_share_what_it_has() {
        let folder = std::env::temp_dir();
        assert_eq!(share(&folder, 1), CapacityOverride::default());
        let (half, quarter) = (share(&folder, 2), share(&folder, 4));
        let cpu = |share: CapacityOverride| share.cpu_millis.unwrap();
        assert_eq!(cpu(half) / 2, cpu(quarter));
        assert!(half.memory_bytes.unwrap() >= 2 * quarter.memory_bytes.unwrap());
    }
}
