//! What containers use, read where the kernel tells it: the files of control groups, of version 1 and 2.
//!
//! A reading is a few small files, where asking Docker costs its daemon milliseconds for each container. Only a worker
//! that does not see the machine's control groups and processes, as one in a container, has to ask.

use std::fs;
use std::path::{Path, PathBuf};

use longshore_proto::metrics::Usage;

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";
/// A limit of memory from here on is none: the kernel writes the largest multiple of a page.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// Where a container's figures are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    groups: Groups,
    /// The list of its network devices; absent where it has the machine's own network.
    devices: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Groups {
    /// A folder for each kind of figure.
    V1 { cpu: PathBuf, memory: PathBuf, pids: PathBuf, disk: PathBuf },
    /// One folder.
    V2(PathBuf),
}

impl Source {
    /// Finds the figures of a container by its first process. `None` where this worker does not see them.
    pub(crate) fn find(container_id: &str, pid: i32, is_on_host_network: bool) -> Option<Self> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let membership = fs::read_to_string(process.join("cgroup")).ok()?;
        // A number that means another process here is noticed by the group, which is named after the container.
        let groups = groups_of(&membership, container_id, Path::new(GROUPS))?;
        let devices = (!is_on_host_network).then(|| process.join("net/dev"));
        Some(Self { groups, devices })
    }

    /// Reads what the container uses. `None` once it is gone.
    pub(crate) fn read(&self) -> Option<Usage> {
        let mut usage = match &self.groups {
            Groups::V1 { cpu, memory, pids, disk } => {
                let in_use = number(&memory.join("memory.usage_in_bytes"))?;
                let stat = text(&memory.join("memory.stat"));
                let cached = stat.as_deref().and_then(|stat| field(stat, "total_inactive_file"));
                let disk = text(&disk.join("blkio.throttle.io_service_bytes"));
                let moved = |what| disk.as_deref().map(|disk| moved_v1(disk, what));
                Usage {
                    cpu_ns: number(&cpu.join("cpuacct.usage")),
                    memory_bytes: Some(in_use.saturating_sub(cached.unwrap_or(0))),
                    memory_limit_bytes: limit(number(&memory.join("memory.limit_in_bytes"))),
                    read_bytes: moved("Read"),
                    written_bytes: moved("Write"),
                    pids: number(&pids.join("pids.current")),
                    ..Usage::default()
                }
            }
            Groups::V2(folder) => {
                let in_use = number(&folder.join("memory.current"))?;
                let stat = text(&folder.join("memory.stat"));
                let cached = stat.as_deref().and_then(|stat| field(stat, "inactive_file"));
                let cpu = text(&folder.join("cpu.stat"));
                let cpu_us = cpu.as_deref().and_then(|cpu| field(cpu, "usage_usec"));
                let disk = text(&folder.join("io.stat"));
                let moved = |what| disk.as_deref().map(|disk| moved_v2(disk, what));
                Usage {
                    cpu_ns: cpu_us.map(|us| us.saturating_mul(1_000)),
                    memory_bytes: Some(in_use.saturating_sub(cached.unwrap_or(0))),
                    memory_limit_bytes: limit(number(&folder.join("memory.max"))),
                    read_bytes: moved("rbytes="),
                    written_bytes: moved("wbytes="),
                    pids: number(&folder.join("pids.current")),
                    ..Usage::default()
                }
            }
        };
        if let Some((received, sent)) =
            self.devices.as_deref().and_then(text).map(|devices| traffic(&devices))
        {
            usage.received_bytes = Some(received);
            usage.sent_bytes = Some(sent);
        }
        Some(usage)
    }
}

/// What has come in and gone out by the machine's networks, but for those that lead to containers, in bytes.
pub(crate) fn machine_traffic() -> Option<(u64, u64)> {
    text(Path::new("/proc/net/dev")).map(|devices| traffic(&devices))
}

/// How many processes wanted to run, on average of the last minute.
pub(crate) fn load_1m() -> Option<f64> {
    text(Path::new("/proc/loadavg"))?.split_whitespace().next()?.parse().ok()
}

/// The groups of a process, by its own list of them.
fn groups_of(membership: &str, container_id: &str, root: &Path) -> Option<Groups> {
    let folder_of = |controller: &str| {
        membership.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let path = group_of(path, container_id)?.trim_start_matches('/');
            match controller {
                "" if controllers.is_empty() => Some(root.join(path)),
                _ if !controller.is_empty()
                    && controllers.split(',').any(|name| name == controller) =>
                {
                    // Mounted by one of its names, or all of them.
                    [controller, controllers]
                        .map(|name| root.join(name).join(path))
                        .into_iter()
                        .find(|path| path.is_dir())
                }
                _ => None,
            }
        })
    };
    if let Some(memory) = folder_of("memory") {
        let cpu = folder_of("cpuacct")?;
        let or_memory = |found: Option<PathBuf>| found.unwrap_or_else(|| memory.clone());
        let (pids, disk) = (or_memory(folder_of("pids")), or_memory(folder_of("blkio")));
        return Some(Groups::V1 { cpu, memory, pids, disk });
    }
    folder_of("").filter(|folder| folder.join("memory.current").is_file()).map(Groups::V2)
}

/// The container's own group, which is named after it: an init in it may have moved itself into one below.
fn group_of<'a>(path: &'a str, container_id: &str) -> Option<&'a str> {
    let named = path.find(container_id)?;
    let rest = path.get(named..)?;
    let end = rest.find('/').map_or(path.len(), |length| named + length);
    path.get(..end)
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.trim().parse().ok()
}

fn limit(bytes: Option<u64>) -> Option<u64> {
    bytes.filter(|bytes| *bytes < NO_LIMIT_BYTES)
}

/// A line `name number`.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(found, _)| *found == name)?.1.trim().parse().ok()
}

/// Lines `8:0 Read 123`, summed over disks.
fn moved_v1(text: &str, what: &str) -> u64 {
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words
        .filter_map(|words| match words.as_slice() {
            [_, found, bytes] if *found == what => bytes.parse::<u64>().ok(),
            _ => None,
        })
        .sum()
}

/// Lines `8:0 rbytes=123 wbytes=…`, summed over disks.
fn moved_v2(text: &str, what: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(what)?.parse::<u64>().ok()).sum()
}

/// Received and sent bytes of all devices but the loopback and those that lead to containers.
fn traffic(devices: &str) -> (u64, u64) {
    let inner = ["lo", "veth", "docker", "br-", "virbr", "cni", "ifb", "dummy"];
    let counted = devices.lines().filter_map(|line| {
        let (name, counts) = line.split_once(':')?;
        let name = name.trim();
        if inner.iter().any(|inner| name.starts_with(inner)) {
            return None;
        }
        let counts: Vec<u64> =
            counts.split_whitespace().filter_map(|count| count.parse().ok()).collect();
        Some((*counts.first()?, *counts.get(8)?))
    });
    counted.fold((0, 0), |sum, (received, sent)| (sum.0 + received, sum.1 + sent))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f5e6d";

    fn write(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, content) in files {
            fs::write(folder.join(name), content).unwrap();
        }
    }

    #[test]
    fn groups_of_version_1_are_read() {
        let root = tempfile::tempdir().unwrap();
        let at = |controller: &str| root.path().join(controller).join("docker").join(ID);
        write(&at("cpu,cpuacct"), &[("cpuacct.usage", "5000000\n")]);
        write(
            &at("memory"),
            &[
                ("memory.usage_in_bytes", "1000\n"),
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory.stat", "cache 5\ntotal_inactive_file 300\n"),
            ],
        );
        write(&at("pids"), &[("pids.current", "3\n")]);
        let disk = "8:0 Read 100\n8:0 Write 7\n8:0 Total 107\n8:16 Read 1\nTotal 108\n";
        write(&at("blkio"), &[("blkio.throttle.io_service_bytes", disk)]);
        let membership = format!(
            "9:pids:/docker/{ID}\n7:blkio:/docker/{ID}\n5:memory:/docker/{ID}\n4:cpu,cpuacct:/docker/{ID}\n0::/docker/{ID}\n"
        );
        let groups = groups_of(&membership, ID, root.path()).unwrap();
        let usage = Source { groups, devices: None }.read().unwrap();
        let wanted = Usage {
            cpu_ns: Some(5_000_000),
            memory_bytes: Some(700),
            read_bytes: Some(101),
            written_bytes: Some(7),
            pids: Some(3),
            ..Usage::default()
        };
        assert_eq!(usage, wanted);
        assert_eq!(groups_of(&membership, "another", root.path()), None);
    }

    #[test]
    fn groups_of_version_2_are_read() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(format!("system.slice/docker-{ID}.scope"));
        write(
            &folder,
            &[
                ("cpu.stat", "usage_usec 5000\nuser_usec 4000\n"),
                ("memory.current", "1000\n"),
                ("memory.max", "4096\n"),
                ("memory.stat", "anon 1\ninactive_file 300\n"),
                ("io.stat", "8:0 rbytes=100 wbytes=7 rios=1\n8:16 rbytes=1 wbytes=0\n"),
                ("pids.current", "3\n"),
            ],
        );
        let devices = root.path().join("dev");
        let list = "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 9 0 0 0 0 0 0 0 9 0\n  eth0: 10 1 0 0 0 0 0 0 20 2 0\n";
        fs::write(&devices, list).unwrap();
        let membership = format!("0::/system.slice/docker-{ID}.scope\n");
        let groups = groups_of(&membership, ID, root.path()).unwrap();
        let usage = Source { groups, devices: Some(devices) }.read().unwrap();
        let wanted = Usage {
            cpu_ns: Some(5_000_000),
            memory_bytes: Some(700),
            memory_limit_bytes: Some(4_096),
            received_bytes: Some(10),
            sent_bytes: Some(20),
            read_bytes: Some(101),
            written_bytes: Some(7),
            pids: Some(3),
            ..Usage::default()
        };
        assert_eq!(usage, wanted);
        fs::remove_file(folder.join("memory.current")).unwrap();
        let groups = Groups::V2(folder);
        assert_eq!(Source { groups, devices: None }.read(), None, "it is gone");
    }

    #[test]
    fn the_group_of_the_container_is_read_and_not_that_of_its_init_alone() {
        for (path, group) in [
            (format!("/docker/{ID}"), Some(format!("/docker/{ID}"))),
            (format!("/docker/{ID}/init.scope"), Some(format!("/docker/{ID}"))),
            (
                format!("/user.slice/libpod-{ID}.scope/container/a"),
                Some(format!("/user.slice/libpod-{ID}.scope")),
            ),
            ("/docker/another".to_owned(), None),
        ] {
            assert_eq!(group_of(&path, ID).map(str::to_owned), group, "{path}");
        }
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("docker").join(ID);
        write(&folder, &[("memory.current", "7\n")]);
        let membership = format!("0::/docker/{ID}/init.scope\n");
        assert_eq!(groups_of(&membership, ID, root.path()), Some(Groups::V2(folder)));
    }

    #[test]
    fn files_that_a_kernel_leaves_out_leave_their_figures_out() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(format!("docker-{ID}.scope"));
        // Of a kernel 6.1 whose io controller is not delegated, as with rootless Podman; no limit is `max`.
        write(
            &folder,
            &[
                (
                    "cpu.stat",
                    "usage_usec 482561\nuser_usec 301224\nsystem_usec 181336\nnr_periods 0\nnr_throttled 0\n\
                     throttled_usec 0\nnr_bursts 0\nburst_usec 0\n",
                ),
                ("memory.current", "25165824\n"),
                ("memory.max", "max\n"),
                (
                    "memory.stat",
                    "anon 4468736\nfile 19832832\nkernel 692224\ninactive_anon 4427776\nactive_anon 20480\n\
                     inactive_file 12582912\nactive_file 7249920\n",
                ),
                ("pids.current", "11\n"),
            ],
        );
        let usage = Source { groups: Groups::V2(folder), devices: None }.read().unwrap();
        let wanted = Usage {
            cpu_ns: Some(482_561_000),
            memory_bytes: Some(12_582_912),
            pids: Some(11),
            ..Usage::default()
        };
        assert_eq!(usage, wanted);
    }

    #[test]
    fn this_machine_tells_its_load_and_its_traffic() {
        assert!(load_1m().is_some_and(|load| load >= 0.0));
        assert!(machine_traffic().is_some());
    }
}
