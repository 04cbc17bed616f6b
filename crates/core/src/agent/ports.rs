//! The ports of this machine that tasks hold, and the range that free ones are taken from.
//!
//! A task keeps the ports that were chosen for it over its restarts, so that whoever knows them need not look again;
//! only when its container could not be started does the next attempt get others, since another program may hold one.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use longshore_proto::id::TaskId;
use longshore_proto::spec::{Port, Protocol};

/// The range that dynamic ports are taken from when the operator says nothing: below the range that Linux gives to
/// outgoing connections. So no client takes a port while whoever listens there starts or is away, and nobody who tries
/// to connect meets itself; servers of tests and measurements are put here, too.
pub const PORT_RANGE_USUAL: RangeInclusive<u16> = 20_000..=32_000;

/// Who holds which port.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    held: BTreeMap<(u16, Protocol), TaskId>,
}

impl Ports {
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, held: BTreeMap::new() }
    }

    /// A task has ports, fixed ones or chosen ones. What is not chosen yet holds nothing.
    pub(super) fn hold<'a>(&mut self, task: TaskId, ports: impl IntoIterator<Item = &'a Port>) {
        for port in ports.into_iter().filter(|port| !port.is_dynamic()) {
            self.held.entry((port.host, port.protocol)).or_insert(task);
        }
    }

    /// A task holds nothing any more.
    pub(super) fn release(&mut self, task: TaskId) {
        self.held.retain(|_, holder| *holder != task);
    }

    /// Takes a free port for each one that is to be chosen. The search begins at a place that `seed` decides, so
    /// that a port which was just given up, or is held by a stranger, is not the first that is tried again.
    ///
    /// # Errors
    /// When the range has none left; then nothing new is held.
    pub(super) fn choose(
        &mut self,
        task: TaskId,
        ports: &[Port],
        seed: u64,
    ) -> Result<Vec<Port>, String> {
        let mut chosen: Vec<Port> = Vec::with_capacity(ports.len());
        for (number, port) in ports.iter().enumerate() {
            if !port.is_dynamic() {
                chosen.push(port.clone());
                continue;
            }
            let offset = u64::try_from(number).unwrap_or(0).wrapping_mul(7_919);
            let is_free = |host: &u16| {
                !self.held.contains_key(&(*host, port.protocol))
                    && !chosen.iter().any(|own| own.host == *host && own.protocol == port.protocol)
            };
            let Some(host) = from(&self.range, seed.wrapping_add(offset)).find(is_free) else {
                return Err(format!(
                    "none of the node's ports {}-{} is free; widen its range with `longshore worker --ports`",
                    self.range.start(),
                    self.range.end()
                ));
            };
            chosen.push(Port { host, ..port.clone() });
        }
        self.hold(task, &chosen);
        Ok(chosen)
    }
}

/// Every port of a range once, from a place that a number decides.
fn from(range: &RangeInclusive<u16>, seed: u64) -> impl Iterator<Item = u16> + use<> {
    let (low, high) = (*range.start(), *range.end());
    let count = u64::from(high.saturating_sub(low)) + 1;
    let first = low.saturating_add(u16::try_from(seed % count).unwrap_or(0));
    (first..=high).chain(low..first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(number: u128) -> TaskId {
        TaskId(uuid::Uuid::from_u128(number))
    }

    fn port(host: u16, protocol: Protocol) -> Port {
        Port { host, container: 80, protocol, host_ip: None, name: None }
    }

    fn any() -> Port {
        port(Port::DYNAMIC, Protocol::Tcp)
    }

    #[test]
    fn each_port_of_the_range_goes_to_one_task() {
        let mut ports = Ports::new(100..=102);
        ports.hold(task(9), &[port(101, Protocol::Tcp)]);
        let first = ports.choose(task(1), &[any()], 1).unwrap();
        assert_eq!(first[0].host, 102);
        let second = ports.choose(task(2), &[any()], 1).unwrap();
        assert_eq!(second[0].host, 100);
        let reason = ports.choose(task(3), &[any()], 1).unwrap_err();
        assert!(reason.contains("100-102") && reason.contains("--ports"), "{reason}");
        // The other transport has ports of its own.
        let other = ports.choose(task(3), &[port(0, Protocol::Udp)], 1).unwrap();
        assert_eq!(other[0].host, 101);
        ports.release(task(1));
        assert_eq!(ports.choose(task(4), &[any()], 0).unwrap()[0].host, 102);
    }

    #[test]
    fn one_task_gets_different_ports_and_keeps_its_fixed_ones() {
        let mut ports = Ports::new(100..=102);
        let wish = [any(), port(80, Protocol::Tcp), any()];
        let chosen = ports.choose(task(1), &wish, 5).unwrap();
        assert_eq!(chosen[1].host, 80);
        assert_ne!(chosen[0].host, chosen[2].host);
        // A wish that cannot be met whole holds nothing.
        assert!(ports.choose(task(2), &[any(), any()], 5).is_err());
        assert!(ports.choose(task(2), &[any()], 5).is_ok());
    }

    #[test]
    fn the_search_goes_all_round() {
        for seed in 0..10 {
            let mut seen: Vec<u16> = from(&(65_530..=65_535), seed).collect();
            assert_eq!(seen.len(), 6);
            seen.sort_unstable();
            assert_eq!(seen, [65_530, 65_531, 65_532, 65_533, 65_534, 65_535]);
        }
    }
}
