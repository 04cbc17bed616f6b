//! Ids from a seed: the shell draws the randomness, the core only spreads it.

use longshore_proto::id::{CommandId, TaskId};
use sha2::{Digest, Sha256};
use uuid::Builder;

/// Mints task ids (UUID v7) from a seed, the same ones for the same seed.
#[derive(Debug)]
pub struct Minter {
    seed: [u8; 16],
    wall_ms: u64,
    minted: u64,
}

impl Minter {
    /// A minter for one step. Each step needs a fresh seed from a good source of randomness.
    pub fn new(seed: [u8; 16], wall_ms: u64) -> Self {
        Self { seed, wall_ms, minted: 0 }
    }

    /// An id for a command that the leader gives to itself.
    pub fn command_id(&mut self) -> CommandId {
        CommandId(self.task_id().0)
    }

    /// The next task id. Ids of one minter rise, so that tasks sort in the order of their making.
    pub fn task_id(&mut self) -> TaskId {
        let digest = Sha256::new()
            .chain_update(self.seed)
            .chain_update(self.minted.to_be_bytes())
            .finalize();
        let mut random = [0u8; 10];
        for (to, from) in random.iter_mut().zip(digest.iter()) {
            *to = *from;
        }
        // The first 12 of the 74 random bits count up (RFC 9562, 6.2, method 1), so that ids minted within
        // one millisecond keep their order.
        let counter = u16::try_from(self.minted & 0x0fff).unwrap_or(0);
        let [high, low] = counter.to_be_bytes();
        random[0] = high;
        random[1] = low;
        let overflow_ms = self.minted >> 12;
        self.minted += 1;
        TaskId(Builder::from_unix_timestamp_millis(self.wall_ms + overflow_ms, &random).into_uuid())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_distinct_rise_and_repeat_for_the_same_seed() {
        let mint = |seed| {
            let mut minter = Minter::new([seed; 16], 1_700_000_000_000);
            (0..10_000).map(|_| minter.task_id()).collect::<Vec<_>>()
        };
        let ids = mint(1);
        assert!(ids.is_sorted());
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        assert_eq!(ids, mint(1));
        assert_ne!(ids, mint(2));
        assert_eq!(ids[0].0.get_version_num(), 7);
    }
}
