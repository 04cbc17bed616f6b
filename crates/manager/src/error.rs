//! Why a manager cannot go on.

use std::io;
use std::path::PathBuf;

use longshore_bus::{BusError, ConnectError};
use longshore_core::cluster::persist::LoadError;
pub use longshore_core::leadership::log::Broken;
use longshore_proto::codec::DecodeError;
use longshore_proto::name::UserName;

use crate::snapshot::SnapshotError;

/// Why a manager cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// The bus cannot be reached, or refuses this manager.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The bus does not take a subscription.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Another process has the data directory.
    #[error(
        "the data directory {path} is in use by another process; stop the other manager, or give this one its own --data-dir"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// Another manager has this one's name.
    #[error(
        "another manager named {name} is at work, on another data directory, and the log lists managers by name; give this one a name and credentials of its own (`longshore auth manager NAME`, or --name on an open server), or stop the other one"
    )]
    NameTaken {
        /// The name.
        name: UserName,
    },
    /// The data directory cannot be made or opened.
    #[error("cannot open the store in {path}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the store says.
        source: fjall::Error,
    },
    /// The store fails while it is used. It takes no more writes; a restart reads what is on the disk.
    #[error(
        "the store in the data directory failed; restart the manager, and look at the disk if it happens again"
    )]
    Store {
        /// What the store says.
        #[from]
        source: fjall::Error,
    },
    /// The stored state cannot be read.
    #[error(
        "the state in the data directory cannot be read; with a damaged store, move the directory away and let the manager rebuild it from the log"
    )]
    Load {
        /// What is wrong with it.
        #[from]
        source: LoadError,
    },
    /// The server has no JetStream, or refuses its use.
    #[error(
        "the NATS server offers no JetStream to this manager; enable `jetstream` in its configuration, in the account of --core-creds ({detail})"
    )]
    NoJetStream {
        /// What the server says.
        detail: String,
    },
    /// A stream cannot be made or changed.
    #[error(
        "the stream {stream} cannot be set up: {detail}; look at the server's log, its limits and this manager's permissions"
    )]
    Stream {
        /// Which one.
        stream: String,
        /// What the server says.
        detail: String,
    },
    /// Nobody answers for a stream just now.
    #[error(
        "the stream {stream} is not ready: {detail}; if it lasts, see that a majority of the NATS servers is up, and what this manager may do there"
    )]
    Unready {
        /// Which one.
        stream: String,
        /// What the server says.
        detail: String,
    },
    /// The server dropped settings that safety rests on.
    #[error(
        "the NATS server does not keep the setting {setting} of stream {stream}; it is too old: use nats-server 2.12 or newer"
    )]
    StreamSetting {
        /// Which stream.
        stream: String,
        /// Which setting.
        setting: &'static str,
    },
    /// The log is not the one that the store was built from, or has lost a part.
    #[error(
        "the log contradicts this manager's store: {0}; nothing is changed. Restore the NATS server's own data, or, if that is lost for good, choose with --heal-log which manager's store is the truth: see docs/operations.md, \"A lost log\""
    )]
    Broken(#[from] Broken),
    /// A journal that does not end with what the state reflects.
    #[error("the journal in the data directory does not fit the state at record {index}")]
    Torn {
        /// The record.
        index: u64,
    },
    /// A data directory without a cluster.
    #[error("there is nothing to write: the data directory holds no cluster yet")]
    Empty,
    /// A data directory of a newer version.
    #[error(
        "the store in the data directory has layout {found}, and this version reads up to {known}; use a newer Longshore"
    )]
    Layout {
        /// What was found.
        found: String,
        /// The newest that is known.
        known: &'static str,
    },
    /// A file that is no snapshot that can be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A data directory that a backup cannot be restored into.
    #[error("the data directory {path} holds a cluster already; restore into a fresh one")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A restored data directory on a server that has a cluster already.
    #[error(
        "the stream {stream} holds the log of a cluster, and this data directory was restored from a backup; nothing is changed. Start it on a NATS server, or under a --root, that has none"
    )]
    LogInUse {
        /// The log.
        stream: String,
    },
    /// The bucket of snapshots cannot be used.
    #[error("the bucket of snapshots cannot be used: {detail}")]
    Bucket {
        /// What the server or the disk says.
        detail: String,
    },
    /// The log cannot be read.
    #[error("the log cannot be read: {detail}")]
    Read {
        /// What the server says.
        detail: String,
    },
    /// A record that follows by its hash, and says what this version does not know.
    #[error(
        "record {index} in the log follows and cannot be read: a newer version has written it; upgrade this manager ({reason})"
    )]
    Unreadable {
        /// Its place.
        index: u64,
        /// What cannot be read.
        reason: DecodeError,
    },
    /// A record of a newer version.
    #[error(
        "the log holds records of format {found}, and this version reads up to {known}; upgrade this manager"
    )]
    NewerFormat {
        /// What was found.
        found: u16,
        /// What is known.
        known: u16,
    },
    /// Another manager leads.
    #[error("another manager leads: {by}")]
    Fenced {
        /// How this was noticed.
        by: String,
    },
    /// The api cannot be offered.
    #[error(transparent)]
    Service(#[from] longshore_bus::service::ServiceError),
    /// A bug.
    #[error("a bug in the manager: {0}; please report it")]
    Bug(&'static str),
}

impl ManagerError {
    /// Whether waiting mends it.
    pub(crate) fn passes(&self) -> bool {
        matches!(self, Self::Unready { .. } | Self::Read { .. })
    }

    /// Whether the store itself is broken, so that it must be rebuilt from elsewhere. A disk that is full or fails,
    /// a folder that may not be read and a store of a newer version are not that.
    pub(crate) fn is_damage(&self) -> bool {
        let source = match self {
            Self::Torn { .. } | Self::Load { source: LoadError::Value { .. } } => return true,
            Self::Open { source, .. } | Self::Store { source } => source,
            _ => return false,
        };
        if matches!(source, fjall::Error::Locked | fjall::Error::InvalidVersion(Some(_))) {
            return false;
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(source);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                use io::ErrorKind::{InvalidData, InvalidInput, NotFound, Other, UnexpectedEof};
                let kinds = [InvalidData, InvalidInput, NotFound, Other, UnexpectedEof];
                return kinds.contains(&error.kind());
            }
            cause = error.source();
        }
        true
    }
}
