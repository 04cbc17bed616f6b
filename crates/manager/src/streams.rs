//! The streams in the managers' account: made when they are missing, changed in place, never made anew.

use std::time::Duration;

use async_nats::jetstream::context::{
    AccountErrorKind, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind,
};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, PersistenceMode, Republish, StorageType, Stream,
};
use async_nats::jetstream::{self, ErrorCode};
use longshore_proto::name::Root;
use longshore_proto::subject::{
    Pattern, Subject, event_stream, lease_stream, live_events, log_stream,
};
use tracing::warn;

use crate::error::ManagerError;

/// The wait between two tries while JetStream does not answer.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// How often it is asked before that is told.
const TRIES: u32 = 5;
/// The largest message that a stream takes: a record is at most half of it.
const MESSAGE_BYTES_MAX: i32 = 512 << 10;

/// How the streams are made.
#[derive(Debug, Clone)]
pub struct Streams {
    /// How many servers hold each stream.
    pub replicas: usize,
    /// How many bytes the log may have.
    pub log_bytes_max: u64,
    /// How long events are kept.
    pub events_age_max: Duration,
    /// How many bytes of events are kept.
    pub events_bytes_max: u64,
}

/// Waits for a moment until JetStream answers. A server that says it has none is an error for good, unless this manager's
/// store comes from a log (`name`): then it had one, and is starting, or cut off from the others.
pub(crate) async fn wait_for_jetstream(
    context: &jetstream::Context,
    name: &str,
    had_log: bool,
) -> Result<(), ManagerError> {
    let mut tries = 0u32;
    loop {
        let Err(error) = context.query_account().await else { return Ok(()) };
        tries += 1;
        // A server that has just started says for a moment that it has none.
        if tries >= TRIES {
            let detail = error.to_string();
            return Err(if has_none(&error.kind(), had_log) {
                ManagerError::NoJetStream { detail }
            } else {
                ManagerError::Unready { stream: name.to_owned(), detail }
            });
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// Whether an answer means that there is no JetStream for this account, and not that it is away just now.
fn has_none(kind: &AccountErrorKind, had_log: bool) -> bool {
    const NONE: [ErrorCode; 3] = [
        ErrorCode::JETSTREAM_NOT_ENABLED,
        ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
        ErrorCode::NO_ACCOUNT,
    ];
    match kind {
        AccountErrorKind::JetStream(error) => NONE.contains(&error.error_code()),
        // Nobody listens where one asks.
        AccountErrorKind::JetStreamUnavailable => !had_log,
        _ => false,
    }
}

/// Finds a stream; `None` when the server says that there is none.
pub(crate) async fn find(
    context: &jetstream::Context,
    name: &str,
) -> Result<Option<Stream>, ManagerError> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if is_missing(&error.kind()) => Ok(None),
        Err(error) => Err(get_error(name, &error)),
    }
}

/// Makes a stream, or changes its settings in place: never by deleting it.
pub(crate) async fn set_up(
    context: &jetstream::Context,
    config: Config,
) -> Result<Stream, ManagerError> {
    let name = config.name.clone();
    if let Err(error) = context.create_or_update_stream(config).await {
        let passes = match error.kind() {
            CreateStreamErrorKind::TimedOut | CreateStreamErrorKind::JetStreamUnavailable => true,
            CreateStreamErrorKind::JetStream(error) => passes(&error),
            _ => false,
        };
        return Err(stream_error(&name, passes, error.to_string()));
    }
    context.get_stream(&name).await.map_err(|error| get_error(&name, &error))
}

/// Makes the event stream, or changes its settings in place. How its messages reach the disk can only be said when it
/// is made: a stream that is there already keeps that.
pub(crate) async fn set_up_events(
    context: &jetstream::Context,
    mut config: Config,
) -> Result<Stream, ManagerError> {
    if let Some(found) = find(context, &config.name).await? {
        let found = &found.cached_info().config;
        config.persist_mode = found.persist_mode;
        if found.persist_mode == Some(PersistenceMode::Async) && config.num_replicas > 1 {
            warn!(
                stream = config.name,
                "the event stream was made for one NATS server and stays on one; to have it on {}, remove it and \
                 restart the managers: they make it anew and fill it from the history",
                config.num_replicas
            );
            config.num_replicas = found.num_replicas;
        }
    }
    set_up(context, config).await
}

/// Why a stream was not found out about.
fn get_error(stream: &str, error: &GetStreamError) -> ManagerError {
    let passes = match error.kind() {
        GetStreamErrorKind::Request => true,
        GetStreamErrorKind::JetStream(error) => passes(&error),
        _ => false,
    };
    stream_error(stream, passes, error.to_string())
}

fn stream_error(stream: &str, passes: bool, detail: String) -> ManagerError {
    let stream = stream.to_owned();
    if passes {
        ManagerError::Unready { stream, detail }
    } else {
        ManagerError::Stream { stream, detail }
    }
}

/// Whether a refusal passes by itself: servers of a cluster that have just started, or lost one of them, elect
/// whom to ask first; and some of those that are to hold a stream may join later.
fn passes(error: &jetstream::Error) -> bool {
    const UNAVAILABLE: usize = 503;
    error.code() == UNAVAILABLE || error.error_code() == ErrorCode::CLUSTER_NO_PEERS
}

pub(crate) fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

pub(crate) fn check_log_settings(name: &str, config: Config) -> Result<(), ManagerError> {
    let refuse = |setting| Err(ManagerError::StreamSetting { stream: name.to_owned(), setting });
    if config.allow_rollup {
        return refuse("allow_rollup_hdrs: false");
    }
    if config.allow_direct {
        return refuse("allow_direct: false");
    }
    if !config.deny_delete {
        return refuse("deny_delete: true");
    }
    if config.discard != DiscardPolicy::New {
        return refuse("discard: new");
    }
    Ok(())
}

pub(crate) fn log_config(root: &Root, streams: &Streams) -> Config {
    Config {
        name: log_stream(root),
        description: Some("Longshore: the log of records. Only managers write here.".into()),
        subjects: vec![Subject::Log.text(root)],
        storage: StorageType::File,
        // A full log refuses; it never drops its head. The server keeps the room for it.
        discard: DiscardPolicy::New,
        max_bytes: i64::try_from(streams.log_bytes_max).unwrap_or(i64::MAX),
        num_replicas: streams.replicas,
        max_message_size: MESSAGE_BYTES_MAX,
        deny_delete: true,
        allow_direct: false,
        duplicate_window: Duration::from_secs(120),
        ..Config::default()
    }
}

pub(crate) fn event_config(root: &Root, streams: &Streams) -> Config {
    Config {
        name: event_stream(root),
        description: Some(
            "Longshore: committed events, for anybody. It can be rebuilt from the log.".into(),
        ),
        subjects: vec![Pattern::Events.text(root)],
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        num_replicas: streams.replicas,
        // A sync for each event would hold up the log's; what a power cut takes is published again from the history.
        // NATS has this for a single server only.
        persist_mode: (streams.replicas == 1).then_some(PersistenceMode::Async),
        max_age: streams.events_age_max,
        max_bytes: i64::try_from(streams.events_bytes_max).unwrap_or(i64::MAX),
        max_message_size: MESSAGE_BYTES_MAX,
        deny_delete: true,
        allow_direct: true,
        republish: Some(Republish {
            source: Pattern::Events.text(root),
            destination: live_events(root),
            headers_only: false,
        }),
        duplicate_window: Duration::from_secs(120),
        ..Config::default()
    }
}

pub(crate) fn lease_config(root: &Root, streams: &Streams) -> Config {
    Config {
        name: lease_stream(root),
        description: Some(
            "Longshore: who tries to lead. Safety rests on the log, not on this.".into(),
        ),
        subjects: vec![format!("$KV.{root}-lease.>")],
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        num_replicas: streams.replicas,
        max_messages_per_subject: 1,
        max_message_size: 16 << 10,
        allow_message_ttl: true,
        // The server sets it with the markers; the same here, so that an update finds nothing to change.
        allow_rollup: true,
        subject_delete_marker_ttl: Some(Duration::from_secs(1)),
        deny_delete: true,
        allow_direct: false,
        // A lease that was somehow written without its own limit still ends.
        max_age: Duration::from_secs(30),
        duplicate_window: Duration::from_secs(30),
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_has_lost_the_others_is_not_taken_for_one_without_jetstream() {
        let said = |code: u64| {
            let text = format!(r#"{{"code":503,"err_code":{code},"description":"no"}}"#);
            AccountErrorKind::JetStream(serde_json::from_str(&text).unwrap())
        };
        for had_log in [false, true] {
            assert!(has_none(&said(10_076), had_log) && has_none(&said(10_039), had_log));
            // "JetStream system temporarily unavailable".
            assert!(!has_none(&said(10_008), had_log));
            assert!(!has_none(&AccountErrorKind::TimedOut, had_log));
            assert_eq!(has_none(&AccountErrorKind::JetStreamUnavailable, had_log), !had_log);
        }
    }
}
