//! Ids and revisions. Ids are minted in the shells (they need randomness); here they only have types.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub Uuid);

        impl TryFrom<String> for $name {
            type Error = uuid::Error;
            fn try_from(text: String) -> Result<Self, uuid::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                Uuid::try_parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id_type!(
    /// One task for its whole life (UUID v7: ids sort by the time of their making).
    TaskId);
id_type!(
    /// One request that changes something; a retry carries the same id (UUID v7).
    CommandId);
id_type!(
    /// One cluster, minted in the first record of its log.
    ClusterId);
id_type!(
    /// One worker's data directory, and with it one node.
    NodeId);
id_type!(
    /// One run of a worker process.
    BootId);
id_type!(
    /// One run of a manager process.
    ManagerId);
id_type!(
    /// One stream from a worker to an operator: logs. Unguessable (UUID v4).
    SessionId);

impl CommandId {
    /// When the id was minted, by the clock of its maker, in milliseconds since the Unix epoch.
    /// `None` for an id that is no UUID v7.
    pub fn minted_at_ms(self) -> Option<u64> {
        if self.0.get_version_num() != 7 {
            return None;
        }
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        Some(seconds.saturating_mul(1000).saturating_add(u64::from(nanos) / 1_000_000))
    }
}

/// A point in the cluster's history: which leader's reign, and which record of the log.
///
/// Ordered; a worker ignores what is older than what it has seen.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Revision {
    /// The leader's epoch: it rises by at least one at each election.
    pub epoch: u64,
    /// The index of the record in the log, counted from 1; 0 means "before the first".
    pub index: u64,
}

impl Revision {
    /// What nothing builds on: a change that names it as `previous` fits no set, so that whoever gets it asks for
    /// the whole one.
    pub const UNCHAINED: Self = Self { epoch: 0, index: u64::MAX };
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_order_by_epoch_first() {
        assert!(Revision { epoch: 2, index: 1 } > Revision { epoch: 1, index: 9 });
        assert!(Revision { epoch: 2, index: 2 } > Revision { epoch: 2, index: 1 });
    }

    #[test]
    fn a_command_id_knows_when_it_was_minted() {
        let id: CommandId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(id.minted_at_ms(), Some(0x0189_0a5d_ac96));
        let random: CommandId = "936da01f-9abd-4d9d-80c7-02af85c822a8".parse().unwrap();
        assert_eq!(random.minted_at_ms(), None);
    }
}
