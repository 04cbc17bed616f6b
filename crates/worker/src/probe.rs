//! What the machine has and what of it is in use.
//!
//! Capacity is what may be promised: totals minus a reserve for the system, never "what is free just now",
//! which moves. Usage is measured, by whomever it is used. A node whose capacity the operator states stands for
//! that part of the machine, so its usage is the same part of the machine's: several workers share one machine,
//! and each would else look as busy as all of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_proto::platform::{PLATFORM_ATTRIBUTE, Platform};
use longshore_proto::spec::Resources;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use crate::disk::Disk;

/// Memory is kept back for the system: a tenth, but at least and at most this much.
const MEMORY_RESERVE_BYTES: (u64, u64) = (256 << 20, 2 << 30);
/// What is measured is told in whole steps of this much. Machines of one kind differ by a few pages that firmware
/// and kernel keep (and their disks by a few blocks); told exactly, each would look like a kind of its own, and
/// nodes that should tie would be ranked by noise.
const MEMORY_STEP_BYTES: u64 = 64 << 20;
/// The same for the disk.
const DISK_STEP_BYTES: u64 = 1 << 30;

/// Amounts that the operator states instead of what is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapacityOverride {
    /// Thousandths of one core.
    pub cpu_millis: Option<u64>,
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// Disk space.
    pub disk_bytes: Option<u64>,
}

/// The machine's gauges. One for the life of the worker, because cpu usage is a difference of two readings.
#[derive(Debug)]
pub struct Probe {
    system: Option<System>,
    disk: Arc<Disk>,
    cores: u64,
    stated: CapacityOverride,
}

impl Probe {
    /// Gauges of this machine, with the disk that a folder is on. Asks the disk, which may take its time.
    pub fn new(folder: PathBuf, stated: CapacityOverride) -> Self {
        Self::on(Arc::new(Disk::new(folder)), stated)
    }

    fn on(disk: Arc<Disk>, stated: CapacityOverride) -> Self {
        let wanted = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing().with_usage())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        Self {
            // A machine whose gauges cannot be read counts by what the operator states.
            system: System::new_with_specifics(wanted).ok(),
            disk,
            cores: cores(),
            stated,
        }
    }

    /// Other gauges of the same machine: readings of one do not disturb those of the other.
    pub(crate) fn another(&self) -> Self {
        Self::on(self.disk.clone(), self.stated)
    }

    /// Where the containers' disk is, once the runtime has told. Asks the disk, which may take its time.
    pub fn set_folder(&mut self, folder: &Path) {
        self.disk.look_at(folder);
    }

    /// The disk that counts, to be asked anew.
    pub(crate) fn disk(&self) -> Arc<Disk> {
        self.disk.clone()
    }

    /// What may be promised.
    pub fn capacity(&self) -> Resources {
        let memory = self.system.as_ref().map_or(0, System::total_memory);
        let reserve = (memory / 10).clamp(MEMORY_RESERVE_BYTES.0, MEMORY_RESERVE_BYTES.1);
        let disk = self.disk.space().total;
        Resources {
            cpu_millis: self.stated.cpu_millis.unwrap_or(self.cores * 1_000),
            memory_bytes: self
                .stated
                .memory_bytes
                .unwrap_or_else(|| in_steps(memory.saturating_sub(reserve), MEMORY_STEP_BYTES)),
            disk_bytes: self
                .stated
                .disk_bytes
                .unwrap_or_else(|| in_steps(disk - disk / 10, DISK_STEP_BYTES)),
        }
    }

    /// Reads the gauges; of the disk, what it answered last.
    pub fn used(&mut self) -> Resources {
        if let Some(system) = &mut self.system {
            system.refresh_cpu_usage();
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        }
        let (percent, memory_bytes) = self.system.as_ref().map_or((0.0, 0), |system| {
            (
                system.global_cpu_usage(),
                system.total_memory().saturating_sub(system.available_memory()),
            )
        });
        let total_memory = self.system.as_ref().map_or(0, System::total_memory);
        let disk = self.disk.space();
        Resources {
            cpu_millis: part_of(
                millis_of(percent, self.cores),
                self.cores * 1_000,
                self.stated.cpu_millis,
            ),
            memory_bytes: part_of(memory_bytes, total_memory, self.stated.memory_bytes),
            disk_bytes: part_of(disk.used(), disk.total, self.stated.disk_bytes),
        }
    }
}

/// How many cores this process may use, a quota included.
pub fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| u64::try_from(cores.get()).unwrap_or(1))
}

/// What the worker tells of its machine.
pub fn attributes() -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::from([
        ("os".to_owned(), std::env::consts::OS.to_owned()),
        ("arch".to_owned(), std::env::consts::ARCH.to_owned()),
    ]);
    if let Some(platform) = Platform::of(std::env::consts::OS, std::env::consts::ARCH) {
        attributes.insert(PLATFORM_ATTRIBUTE.to_owned(), platform.to_string());
    }
    if let Ok(kernel) = System::kernel_version() {
        attributes.insert("kernel".to_owned(), kernel);
    }
    if let Ok(hostname) = System::host_name() {
        attributes.insert("hostname".to_owned(), hostname);
    }
    attributes
}

/// An amount rounded down to whole steps.
fn in_steps(amount: u64, step: u64) -> u64 {
    amount - amount % step
}

/// What is used of a part of the machine, when it is used as the whole is.
fn part_of(used: u64, whole: u64, stated: Option<u64>) -> u64 {
    match stated {
        Some(part) if whole > 0 => {
            let scaled = u128::from(used) * u128::from(part) / u128::from(whole);
            u64::try_from(scaled).unwrap_or(u64::MAX)
        }
        _ => used,
    }
}

/// Per cent of all cores as thousandths of one.
fn millis_of(percent: f32, cores: u64) -> u64 {
    let millis = f64::from(percent.clamp(0.0, 100.0)) * 10.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0 to 1000 above"
    )]
    let millis = millis.round() as u64;
    millis * cores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something_to_offer() {
        let mut probe = Probe::new(std::env::temp_dir(), CapacityOverride::default());
        let (capacity, used) = (probe.capacity(), probe.used());
        assert!(capacity.cpu_millis >= 1_000, "{capacity:?}");
        assert!(capacity.memory_bytes > 64 << 20, "{capacity:?}");
        assert!(used.memory_bytes > 0, "{used:?}");
        assert!(used.cpu_millis <= cores() * 1_000, "{used:?}");
    }

    #[test]
    fn what_the_operator_states_counts() {
        let stated =
            CapacityOverride { cpu_millis: Some(1), memory_bytes: Some(2), disk_bytes: Some(3) };
        let capacity = Probe::new(std::env::temp_dir(), stated).capacity();
        assert_eq!(capacity, Resources { cpu_millis: 1, memory_bytes: 2, disk_bytes: 3 });
    }

    #[test]
    fn what_is_measured_is_told_in_steps_so_that_like_machines_look_alike() {
        let capacity = Probe::new(std::env::temp_dir(), CapacityOverride::default()).capacity();
        assert_eq!(capacity.memory_bytes % (64 << 20), 0, "{capacity:?}");
        assert_eq!(capacity.disk_bytes % (1 << 30), 0, "{capacity:?}");
        let (one, other) = (8_330_616_832, 8_330_612_736);
        assert_eq!(in_steps(one, MEMORY_STEP_BYTES), in_steps(other, MEMORY_STEP_BYTES));
        assert_eq!(in_steps((64 << 20) - 1, MEMORY_STEP_BYTES), 0);
        assert_eq!(in_steps(64 << 20, MEMORY_STEP_BYTES), 64 << 20);
    }

    #[test]
    fn a_part_of_the_machine_is_as_busy_as_the_whole() {
        assert_eq!(part_of(600, 1_000, None), 600);
        assert_eq!(part_of(600, 1_000, Some(500)), 300);
        assert_eq!(part_of(600, 1_000, Some(2_000)), 1_200);
        assert_eq!(part_of(600, 0, Some(500)), 600);
    }

    #[test]
    fn per_cent_become_millis() {
        assert_eq!(millis_of(50.0, 4), 2_000);
        assert_eq!(millis_of(250.0, 1), 1_000);
        assert_eq!(millis_of(f32::NAN, 1), 0);
        assert_eq!(millis_of(f32::INFINITY, 2), 2_000);
        assert_eq!(millis_of(-5.0, 2), 0);
    }
}
