//! Snapshots in NATS: an object store in the managers' account, with room for two of them.
//!
//! All but the newest are removed before the next one is stored, so that one whole snapshot stands at every moment. Each has a
//! name of its own: what a manager that has been overtaken stores late comes beside the newest, and not in its place, behind
//! which the log is trimmed already.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::object_store::{Config, ObjectInfo, ObjectMetadata, ObjectStore};
use async_nats::jetstream::stream::{StorageType, Stream};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use futures_util::StreamExt;
use longshore_bus::Bus;
use longshore_core::leadership::mend::{Head, Listed, SNAPSHOTS_PATIENCE_MS};
use longshore_proto::subject::snapshot_stream;
use tracing::{debug, error, warn};

use crate::error::ManagerError;

/// How long one answer of the bucket may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The wait before the bucket is asked again.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// The keys of the metadata that name the epoch, and the message of the log that the state goes on behind. The index is the
/// description.
const EPOCH: &str = "epoch";
const STREAM_SEQUENCE: &str = "stream-sequence";

/// The bucket.
pub(crate) struct Bucket {
    objects: ObjectStore,
    /// What it is kept in.
    stream: Stream<()>,
}

impl Bucket {
    /// Opens the bucket, and makes it when it is missing.
    pub(crate) async fn open(core: &Bus, replicas: usize) -> Result<Self, ManagerError> {
        let context = jetstream::new(core.client().clone());
        let stream = snapshot_stream(core.root());
        let name = stream.strip_prefix("OBJ_").unwrap_or(&stream);
        let of = async |objects| {
            let stream = context.get_stream_no_info(&stream).await;
            let stream = stream.map_err(|error| failed(&error))?;
            Ok(Self { objects, stream })
        };
        if let Ok(objects) = context.get_object_store(name).await {
            return of(objects).await;
        }
        let config = Config {
            bucket: name.to_owned(),
            description: Some("Longshore: snapshots of the state behind the log".into()),
            storage: StorageType::File,
            num_replicas: replicas,
            ..Config::default()
        };
        let made = context.create_object_store(config).await;
        let objects = made.map_err(|error| ManagerError::Stream {
            stream: stream.clone(),
            detail: error.to_string(),
        })?;
        of(objects).await
    }

    /// What is there, the newest first.
    async fn list(&self) -> Result<Vec<(Listed, ObjectInfo)>, ManagerError> {
        let mut listing = self.objects.list().await.map_err(|error| failed(&error))?;
        let mut found = Vec::new();
        while let Some(object) = listing.next().await {
            let object = object.map_err(|error| failed(&error))?;
            let index = object.description.as_deref().and_then(|index| index.parse().ok());
            // A manager of before has stored none.
            let number = |key| object.metadata.get(key).and_then(|number| number.parse().ok());
            let (epoch, stream_sequence) = (number(EPOCH), number(STREAM_SEQUENCE));
            found.extend(index.map(|index| (Listed { index, epoch, stream_sequence }, object)));
        }
        found.sort_unstable_by(|(one, _), (other, _)| other.compare(one));
        Ok(found)
    }

    /// The newest snapshot.
    pub(crate) async fn newest(&self) -> Result<Option<Listed>, ManagerError> {
        Ok(self.list().await?.first().map(|(listed, _)| *listed))
    }

    /// The newest snapshot, for whoever is about to lead: asked for until it is told, but not for so long that
    /// nobody leads because of the bucket alone. None is what a bucket is taken for that cannot be read.
    pub(crate) async fn newest_told(core: &Bus, replicas: usize) -> Option<Listed> {
        let told = async {
            let mut complained = false;
            loop {
                let newest = async { Self::open(core, replicas).await?.newest().await };
                match tokio::time::timeout(ANSWER_TIMEOUT, newest).await {
                    Ok(Ok(newest)) => return newest,
                    Ok(Err(error)) => debug!(%error, "the bucket of snapshots is asked again"),
                    Err(_) => debug!("the bucket of snapshots does not answer, and is asked again"),
                }
                if !std::mem::replace(&mut complained, true) {
                    warn!(
                        "the bucket of snapshots cannot be read: before this manager leads it waits for up to {} s, to be \
                         sure that the log has not lost what a snapshot holds",
                        SNAPSHOTS_PATIENCE_MS / 1_000
                    );
                }
                tokio::time::sleep(RETRY_DELAY).await;
            }
        };
        let newest = tokio::time::timeout(Duration::from_millis(SNAPSHOTS_PATIENCE_MS), told).await;
        newest.unwrap_or_else(|_| {
            error!(
                "the bucket of snapshots could not be read for {} s; this manager leads without knowing whether a snapshot \
                 holds more than the log",
                SNAPSHOTS_PATIENCE_MS / 1_000
            );
            None
        })
    }

    /// Fetches the newest snapshot into a file; false when there is none. The library checks its digest.
    pub(crate) async fn download(&self, to: &Path) -> Result<bool, ManagerError> {
        let Some((_, newest)) = self.list().await?.into_iter().next() else { return Ok(false) };
        let mut object = self.objects.get(&newest.name).await.map_err(|error| failed(&error))?;
        let mut file = tokio::fs::File::create(to).await.map_err(|error| failed(&error))?;
        tokio::io::copy(&mut object, &mut file).await.map_err(|error| failed(&error))?;
        file.sync_all().await.map_err(|error| failed(&error))?;
        Ok(true)
    }

    /// Stores a snapshot beside the newest one, and removes all others. Gives its name.
    pub(crate) async fn upload(&self, head: &Head, from: &Path) -> Result<String, ManagerError> {
        for (_, older) in self.list().await?.into_iter().skip(1) {
            self.remove(&older).await?;
        }
        let name = format!("snapshot-{}-{}-{}", head.epoch, head.index, head.stream_sequence);
        let metadata = ObjectMetadata {
            name: name.clone(),
            description: Some(head.index.to_string()),
            metadata: HashMap::from([
                (EPOCH.to_owned(), head.epoch.to_string()),
                (STREAM_SEQUENCE.to_owned(), head.stream_sequence.to_string()),
            ]),
            ..ObjectMetadata::default()
        };
        let mut file = tokio::fs::File::open(from).await.map_err(|error| failed(&error))?;
        self.objects.put(metadata, &mut file).await.map_err(|error| failed(&error))?;
        Ok(name)
    }

    /// Removes every snapshot but one: those of a past that was left may be of later records, and whoever
    /// joins would take them for the newest.
    pub(crate) async fn keep_only(&self, name: &str) -> Result<(), ManagerError> {
        for (_, object) in self.list().await? {
            if object.name != name {
                self.remove(&object).await?;
            }
        }
        Ok(())
    }

    /// Removes a snapshot, its name first, so that nobody finds one that is no longer whole. The library's way leaves a word of
    /// each behind for ever, which every listing would read.
    async fn remove(&self, object: &ObjectInfo) -> Result<(), ManagerError> {
        let name = URL_SAFE.encode(&object.name);
        for part in [format!("M.{name}"), format!("C.{}", object.nuid)] {
            let subject = format!("$O.{}.{part}", object.bucket);
            let purged = self.stream.purge().filter(subject).await;
            purged.map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}

fn failed(error: &dyn std::fmt::Display) -> ManagerError {
    ManagerError::Bucket { detail: error.to_string() }
}
