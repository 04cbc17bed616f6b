//! What containers use: from the kernel's files where this worker sees them, else from Docker, which takes longer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::models::ContainerStatsResponse;
use bollard::query_parameters::StatsOptionsBuilder;
use futures_util::stream::{self, StreamExt};
use longshore_proto::metrics::Usage;
use tokio::time::{Instant, timeout_at};

use super::docker::Docker;
use super::docker_exec::look_of;
use crate::usage::Source;

/// How many containers are looked at, or asked for, at once.
const QUESTIONS_MAX: usize = 4;
/// How long Docker is waited for where figures are looked for, and again where they are asked for.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);

/// Where the figures of containers are; `None` for those that Docker is asked for.
#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<HashMap<String, Option<Source>>>);

impl Sources {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Option<Source>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What containers use, without those of which nothing is known.
pub(super) async fn usages(docker: &Docker, ids: Vec<String>) -> BTreeMap<String, Usage> {
    let wanted: BTreeSet<&String> = ids.iter().collect();
    docker.sources.lock().retain(|id, _| wanted.contains(id));
    let new: Vec<String> = {
        let known = docker.sources.lock();
        ids.iter().filter(|id| !known.contains_key(*id)).cloned().collect()
    };
    // One that Docker does not answer for costs the others nothing: there is a time for all, and what was found stays.
    let looked_for = Instant::now() + LOOK_DEADLINE;
    let look = stream::iter(new).for_each_concurrent(QUESTIONS_MAX, |id| async move {
        if let Ok(Some(source)) = timeout_at(looked_for, source_of(docker, &id)).await {
            docker.sources.lock().insert(id, source);
        }
    });
    look.await;

    let (mut files, mut asked) = (Vec::new(), Vec::new());
    {
        let known = docker.sources.lock();
        for id in ids {
            match known.get(&id) {
                Some(Some(source)) => files.push((id, source.clone())),
                Some(None) => asked.push(id),
                None => {}
            }
        }
    }
    // All of them in one go beside the loop: they are many, and small.
    let read = tokio::task::spawn_blocking(move || {
        files.into_iter().map(|(id, source)| (id, source.read())).collect::<Vec<_>>()
    });
    let mut usages = BTreeMap::new();
    for (id, usage) in read.await.unwrap_or_default() {
        match usage {
            Some(usage) => drop(usages.insert(id, usage)),
            // Gone, or started anew: looked for again.
            None => drop(docker.sources.lock().remove(&id)),
        }
    }
    let asked_for = Instant::now() + LOOK_DEADLINE;
    let asked = stream::iter(asked).map(|id| async move {
        let usage = timeout_at(asked_for, ask(docker, &id)).await.ok()??;
        Some((id, usage))
    });
    let asked: Vec<_> = asked.buffer_unordered(QUESTIONS_MAX).collect().await;
    usages.extend(asked.into_iter().flatten());
    usages
}

/// Where a container's figures are. The outer `None` for one that cannot be looked at just now.
async fn source_of(docker: &Docker, id: &str) -> Option<Option<Source>> {
    let look = look_of(&docker.inspect(id).await.ok()??);
    let (id, pid) = (id.to_owned(), look.pid?);
    let find = move || Source::find(&id, pid, look.is_on_host_network);
    tokio::task::spawn_blocking(find).await.ok()
}

/// Asks Docker.
async fn ask(docker: &Docker, id: &str) -> Option<Usage> {
    let options = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
    let mut stats = docker.client().ok()?.stats(id, Some(options));
    let answer = stats.next().await?;
    answer.ok().map(|stats| usage_of(&stats))
}

/// What Docker's answer says.
fn usage_of(stats: &ContainerStatsResponse) -> Usage {
    let memory = stats.memory_stats.as_ref();
    let detail = memory.and_then(|memory| memory.stats.as_ref());
    let cached = ["total_inactive_file", "inactive_file"]
        .into_iter()
        .find_map(|name| detail?.get(name).copied())
        .unwrap_or(0);
    let networks = stats.networks.as_ref();
    let sum = |count: fn(&bollard::models::ContainerNetworkStats) -> Option<u64>| {
        networks.map(|networks| networks.values().filter_map(count).sum::<u64>())
    };
    let moved = |what: &str| {
        let entries = stats.blkio_stats.as_ref()?.io_service_bytes_recursive.as_ref()?;
        let fitting = entries
            .iter()
            .filter(|entry| entry.op.as_deref().is_some_and(|op| op.eq_ignore_ascii_case(what)));
        Some(fitting.filter_map(|entry| entry.value).sum())
    };
    let cpu = stats.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref());
    Usage {
        cpu_ns: cpu.and_then(|cpu| cpu.total_usage),
        cpu_millis: None,
        memory_bytes: memory
            .and_then(|memory| memory.usage)
            .map(|used| used.saturating_sub(cached)),
        memory_limit_bytes: memory.and_then(|memory| memory.limit),
        received_bytes: sum(|network| network.rx_bytes),
        sent_bytes: sum(|network| network.tx_bytes),
        read_bytes: moved("read"),
        written_bytes: moved("write"),
        pids: stats.pids_stats.as_ref().and_then(|pids| pids.current),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &str) -> Usage {
        usage_of(&serde_json::from_str(answer).unwrap())
    }

    /// What Docker 20.10 said of a container on groups of version 1, in short.
    const V1: &str = r#"{
        "read": "2026-11-26T10:00:00.000000000Z", "preread": "0001-01-01T00:00:00Z", "num_procs": 0,
        "pids_stats": { "current": 3, "limit": 1024 },
        "blkio_stats": {
            "io_service_bytes_recursive": [
                { "major": 8, "minor": 0, "op": "Read", "value": 100 },
                { "major": 8, "minor": 0, "op": "Write", "value": 7 },
                { "major": 8, "minor": 16, "op": "Read", "value": 1 },
                { "major": 8, "minor": 0, "op": "Total", "value": 107 }
            ],
            "io_serviced_recursive": []
        },
        "cpu_stats": {
            "cpu_usage": { "total_usage": 5000000, "usage_in_kernelmode": 0, "usage_in_usermode": 0 },
            "system_cpu_usage": 9, "online_cpus": 2
        },
        "memory_stats": {
            "usage": 1000, "max_usage": 2000, "limit": 4096,
            "stats": { "cache": 500, "inactive_file": 200, "total_inactive_file": 300 }
        },
        "networks": {
            "eth0": { "rx_bytes": 10, "rx_packets": 1, "tx_bytes": 20, "tx_packets": 2 },
            "eth1": { "rx_bytes": 1, "rx_packets": 1, "tx_bytes": 2, "tx_packets": 2 }
        }
    }"#;

    /// The same on version 2: other names, operations in lower case, no network of its own.
    const V2: &str = r#"{
        "read": "2026-11-26T10:00:00.000000000Z",
        "pids_stats": { "current": 3, "limit": 1024 },
        "blkio_stats": {
            "io_service_bytes_recursive": [
                { "major": 8, "minor": 0, "op": "read", "value": 100 },
                { "major": 8, "minor": 0, "op": "write", "value": 7 }
            ],
            "io_serviced_recursive": null
        },
        "cpu_stats": { "cpu_usage": { "total_usage": 5000000 }, "online_cpus": 2 },
        "memory_stats": { "usage": 1000, "limit": 4096, "stats": { "anon": 1, "inactive_file": 300 } }
    }"#;

    #[test]
    fn dockers_own_figures_are_read_of_both_versions_of_groups() {
        let wanted = Usage {
            cpu_ns: Some(5_000_000),
            memory_bytes: Some(700),
            memory_limit_bytes: Some(4_096),
            received_bytes: Some(11),
            sent_bytes: Some(22),
            read_bytes: Some(101),
            written_bytes: Some(7),
            pids: Some(3),
            ..Usage::default()
        };
        assert_eq!(read(V1), wanted);
        let wanted =
            Usage { received_bytes: None, sent_bytes: None, read_bytes: Some(100), ..wanted };
        assert_eq!(read(V2), wanted);
    }

    #[test]
    fn what_the_runtime_does_not_say_is_left_out() {
        // A container that has just ended, and Podman without the io controller.
        assert_eq!(read("{}"), Usage::default());
        let few =
            read(r#"{ "blkio_stats": { "io_service_bytes_recursive": null }, "pids_stats": {} }"#);
        assert_eq!(few, Usage::default());
    }
}
