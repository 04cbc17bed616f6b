//! Options, the connection itself, and what is told when it breaks.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, ServerError};
use bytes::Bytes;
use longshore_proto::codec;
use longshore_proto::name::{Root, UserName};
use longshore_proto::permission::{Role, inbox_prefix};
use longshore_proto::subject::{Pattern, Subject};
use longshore_proto::{PROTOCOL_VERSION, VERSION_HEADER};
use serde::Serialize;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::credentials::Credentials;
use crate::inbox::Inbox;
use crate::servers::Choice;
use crate::subscribe::Subscription;

/// How often the server is asked for a sign of life; two silent ones mean that the connection is dead.
/// The library's own minute would let a hung server go unnoticed for three.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// How long one try to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest wait between two tries to reconnect.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);
/// Of so many tries in vain to reconnect, one is told.
const TRIES_TOLD: u64 = 30;
/// How long a publish may wait for room in the client's queue before it counts as failed.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach the bus, and as whom.
#[derive(Debug, Clone)]
pub struct Options {
    /// The servers' addresses, separated by commas (`nats://…`, `tls://…`).
    pub servers: String,
    /// The first token of every subject.
    pub root: Root,
    /// What this client is, when there are no credentials to say so.
    pub role: Role,
    /// This client's own name, when there are no credentials to say so.
    pub user: UserName,
    /// Proof of who this client is; absent on a server without users.
    pub credentials: Option<Credentials>,
    /// TLS files; the system's roots are used when there are none.
    pub tls: Tls,
    /// Whether the first connect is retried for ever (programs that stay) or fails at once (verbs).
    pub wait_for_server: bool,
}

/// TLS files.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The certificates of the authorities that the server's is checked against.
    pub authorities: Option<PathBuf>,
    /// The client's own certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers.
    #[error(
        "no NATS server answers at {servers}; start one (`longshore dev` starts everything), or name another with --nats or LONGSHORE_NATS_URL"
    )]
    Unreachable {
        /// Where it was tried.
        servers: String,
        /// What the library says.
        source: async_nats::ConnectError,
    },
    /// The server does not know this client.
    #[error(
        "the NATS server at {servers} refuses these credentials; name a credential file that its configuration lists with --creds or LONGSHORE_CREDS"
    )]
    Refused {
        /// Where it was tried.
        servers: String,
        /// What the library says.
        source: async_nats::ConnectError,
    },
    /// The address cannot be read, or TLS cannot be set up.
    #[error("cannot connect to {servers}; check the address and the TLS files")]
    Settings {
        /// Where it was tried.
        servers: String,
        /// What the library says.
        source: async_nats::ConnectError,
    },
    /// The server is older than what the cluster stands on.
    #[error(
        "the NATS server at {servers} is version {version}; Longshore needs 2.12 or newer (2.14.5 or newer is recommended)"
    )]
    TooOld {
        /// Where it is.
        servers: String,
        /// What it is.
        version: String,
    },
    /// The connection was closed as soon as it was made.
    #[error("the connection to {servers} was closed at once; try again")]
    Closed {
        /// Where it was made to.
        servers: String,
        /// What the library says.
        source: async_nats::SubscribeError,
    },
}

/// Why a message could not be handed to the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The queue to the server stayed full: the connection is down.
    #[error(
        "the connection to NATS is down and its queue is full; the message on {subject} was not sent"
    )]
    Stuck {
        /// Where it should have gone.
        subject: String,
    },
    /// The message is larger than the server takes, or the client is closed.
    #[error("cannot publish on {subject}")]
    Publish {
        /// Where it should have gone.
        subject: String,
        /// What the library says.
        source: async_nats::PublishError,
    },
    /// The subscription was not taken.
    #[error("cannot subscribe to {subject}")]
    Subscribe {
        /// What should have been heard.
        subject: String,
        /// What the library says.
        source: async_nats::SubscribeError,
    },
    /// The connection was closed for good.
    #[error("the connection to NATS is closed; there is no answer on {subject}")]
    Closed {
        /// Where was asked.
        subject: String,
    },
}

/// A connection to the bus. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus {
    client: Client,
    root: Root,
    role: Role,
    user: UserName,
    connected: watch::Receiver<u64>,
    choice: Choice,
    /// The highest index of the log that an answer reflected: no later answer may show less, unless the log went back.
    index_seen: Arc<AtomicU64>,
    /// Where questions are answered.
    inbox: Arc<Inbox>,
}

impl Bus {
    /// Connects. With `wait_for_server`, tries until a server answers; a server that refuses the credentials
    /// or is too old is an error all the same, since waiting mends neither.
    pub async fn connect(options: Options) -> Result<Self, ConnectError> {
        let (role, user) = match &options.credentials {
            Some(credentials) => (credentials.role, credentials.name.clone()),
            None => (options.role, options.user.clone()),
        };
        let (connections, connected) = watch::channel(0u64);
        let choice = Choice::new();
        let mut tries = 0u32;
        let client = loop {
            match connect_once(&options, role, &user, connections.clone(), choice.clone()).await {
                Ok(client) => break client,
                Err(error @ ConnectError::Unreachable { .. }) if options.wait_for_server => {
                    tries += 1;
                    if tries == 1 || tries.is_multiple_of(15) {
                        warn!(servers = %options.servers, tries, "{error}; trying again until one does");
                    }
                    tokio::time::sleep(reconnect_delay(tries as usize)).await;
                }
                Err(error) => return Err(error),
            }
        };
        if !client.is_server_compatible(2, 12, 0) {
            return Err(ConnectError::TooOld {
                servers: options.servers,
                version: client.server_info().version,
            });
        }
        let inbox = match Inbox::open(&client).await {
            Ok(inbox) => Arc::new(inbox),
            Err(source) => return Err(ConnectError::Closed { servers: options.servers, source }),
        };
        let index_seen = Arc::default();
        Ok(Self { client, root: options.root, role, user, connected, choice, index_seen, inbox })
    }

    /// The first token of every subject.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// What this client is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// This client's own name.
    pub fn user(&self) -> &UserName {
        &self.user
    }

    /// The library's client, for what is not wrapped here (JetStream).
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A count of the connections made so far; it changes after each reconnect.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connected.clone()
    }

    /// The highest index of the log that an answer reflected so far.
    pub(crate) fn index_seen(&self) -> &AtomicU64 {
        &self.index_seen
    }

    /// Where questions are answered.
    pub(crate) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Says that the log goes on from an index, whatever was seen beyond it: it was healed, or the cluster restored.
    /// Questions of from now on are answered as soon as that much is reflected.
    pub fn went_back(&self, index: u64) {
        self.index_seen.store(index, Ordering::Relaxed);
    }

    /// Publishes a message. It may be lost: nothing may depend on its arrival.
    pub async fn publish<T: Serialize>(
        &self,
        subject: &Subject,
        message: &T,
    ) -> Result<(), BusError> {
        self.publish_bytes(subject.text(&self.root), headers(), codec::encode(message).into()).await
    }

    /// The same, for whom an answer into an inbox of this client is welcome.
    pub async fn publish_asking<T: Serialize>(
        &self,
        subject: &Subject,
        message: &T,
        inbox: &str,
    ) -> Result<(), BusError> {
        let (subject, payload) = (subject.text(&self.root), codec::encode(message).into());
        let inbox = inbox.to_owned();
        let client = &self.client;
        let publish =
            client.publish_with_reply_and_headers(subject.clone(), inbox, headers(), payload);
        match tokio::time::timeout(PUBLISH_TIMEOUT, publish).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(BusError::Publish { subject, source }),
            Err(_) => Err(BusError::Stuck { subject }),
        }
    }

    pub(crate) fn choice(&self) -> &Choice {
        &self.choice
    }

    pub(crate) async fn publish_bytes(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), BusError> {
        let publish = self.client.publish_with_headers(subject.clone(), headers, payload);
        match tokio::time::timeout(PUBLISH_TIMEOUT, publish).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(BusError::Publish { subject, source }),
            Err(_) => Err(BusError::Stuck { subject }),
        }
    }

    /// Listens to a pattern.
    pub async fn subscribe(&self, pattern: &Pattern) -> Result<Subscription, BusError> {
        let subject = pattern.text(&self.root);
        match self.client.subscribe(subject.clone()).await {
            Ok(subscriber) => Ok(Subscription::new(self.clone(), subscriber)),
            Err(source) => Err(BusError::Subscribe { subject, source }),
        }
    }

    /// Sends what is queued, for at most two seconds: the last thing that a program does.
    pub async fn flush(&self) {
        if tokio::time::timeout(Duration::from_secs(2), self.client.flush()).await.is_err() {
            warn!("the connection to NATS did not take the last messages in time");
        }
    }
}

/// The headers of every message of ours.
pub(crate) fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(VERSION_HEADER, PROTOCOL_VERSION.to_string());
    headers
}

async fn connect_once(
    options: &Options,
    role: Role,
    user: &UserName,
    connections: watch::Sender<u64>,
    choice: Choice,
) -> Result<Client, ConnectError> {
    let tries = AtomicU64::new(0);
    let leaving = choice.clone();
    let mut connect = ConnectOptions::new()
        .name(format!("longshore-{role}-{user}"))
        .custom_inbox_prefix(inbox_prefix(role, user))
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .reconnect_delay_callback(reconnect_delay)
        .reconnect_to_server_callback(move |servers, _| std::future::ready(choice.take(&servers)))
        .event_callback(move |event| {
            tell(&event, &connections, &leaving, &tries);
            std::future::ready(())
        });
    if let Some(credentials) = &options.credentials {
        connect = connect.nkey(credentials.nkey_seed.reveal().to_owned());
    }
    if let Some(authorities) = &options.tls.authorities {
        connect = connect.add_root_certificates(authorities.clone()).require_tls(true);
    }
    if let Some((certificate, key)) = &options.tls.client {
        connect = connect.add_client_certificate(certificate.clone(), key.clone());
    }
    let servers = options.servers.clone();
    let addresses: Vec<&str> =
        servers.split(',').map(str::trim).filter(|s| !s.is_empty()).collect();
    connect.connect(addresses).await.map_err(|source| {
        let servers = options.servers.clone();
        match source.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                ConnectError::Refused { servers, source }
            }
            ConnectErrorKind::ServerParse | ConnectErrorKind::Tls => {
                ConnectError::Settings { servers, source }
            }
            _ => ConnectError::Unreachable { servers, source },
        }
    })
}

/// Doubles from 100 ms to [`RECONNECT_DELAY_MAX`], then takes a random part of it, so that a thousand
/// clients of one server do not come back in step.
fn reconnect_delay(tries: usize) -> Duration {
    let exponent = u32::try_from(tries.min(8)).unwrap_or(8);
    let whole = Duration::from_millis(100).saturating_mul(1 << exponent).min(RECONNECT_DELAY_MAX);
    jittered(whole)
}

/// A wait that is as long only at most: who waits for the same thing does not come back in step.
pub(crate) fn jittered(whole: Duration) -> Duration {
    whole.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

/// Puts what happens to a connection into words. `tries` counts those in vain, each of which the library tells.
fn tell(event: &Event, connections: &watch::Sender<u64>, choice: &Choice, tries: &AtomicU64) {
    match event {
        Event::Connected => {
            connections.send_modify(|count| *count += 1);
            tries.store(0, Ordering::Relaxed);
            info!("connected to NATS");
        }
        Event::Disconnected if choice.is_made() => {
            info!("leaving this NATS server for another one")
        }
        Event::Disconnected => warn!("the connection to NATS broke; reconnecting until it is back"),
        Event::ServerError(ServerError::Other(text)) if text.contains("ermissions") => {
            // The only trace of a publish or subscription that the server refused.
            error!("NATS refuses it: {text}; the server's permissions and this role do not fit");
        }
        Event::ClientError(problem) => {
            let tries = tries.fetch_add(1, Ordering::Relaxed) + 1;
            if tries == 1 || tries.is_multiple_of(TRIES_TOLD) {
                warn!(tries, "NATS cannot be reached: {problem}; trying again until it can");
            } else {
                debug!(tries, "NATS cannot be reached: {problem}");
            }
        }
        Event::SlowConsumer(_) => {
            error!("messages came faster than they were read, and some were dropped")
        }
        Event::Closed | Event::Draining => info!("{event}"),
        other => warn!("{other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn reconnects_are_spread_and_never_far_between() {
        for tries in [0, 1, 3, 8, 1_000_000] {
            let delays: BTreeSet<Duration> = (0..1_000).map(|_| reconnect_delay(tries)).collect();
            let (first, last) = (delays.first().unwrap(), delays.last().unwrap());
            assert!(*last <= RECONNECT_DELAY_MAX, "try {tries}: {last:?}");
            assert!(*first >= Duration::from_millis(50), "try {tries}: {first:?}");
            assert!(*last >= first.mul_f64(1.5), "try {tries}: all within {first:?} to {last:?}");
            assert!(delays.len() > 900, "try {tries}: {} different ones", delays.len());
        }
    }
}
