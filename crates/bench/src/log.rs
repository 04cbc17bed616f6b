//! How much goes through the log: commands, facts and records per second, with more and more clients at once,
//! beside what JetStream itself stores.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::stream::{Config, StorageType, Stream};
use bytes::Bytes;
use futures_util::StreamExt;
use longshore_bench::Failure;
use longshore_bench::port::free_port;
use longshore_bench::report::{Figure, median, progress};
use longshore_core::cluster::record::Record;
use longshore_proto::api::{JobSubmitted, SubmitJob};
use longshore_proto::name::Root;
use longshore_proto::subject::{ApiVerb, log_stream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::spawn;
use crate::ground::{Api, Ground, Taken, own, service};

/// How many clients ask at once.
const CLIENTS: [usize; 4] = [1, 10, 100, 1_000];
/// How long each is measured, a round.
const ROUND: Duration = Duration::from_secs(3);
/// How long a manager may take to lead.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked whether something has come.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// The stream beside the log, and its subject.
const STREAM: &str = "raw";

/// What went through the log in a while.
#[derive(Debug, Default)]
struct Through {
    commands: f64,
    facts: f64,
    records: f64,
    bytes: f64,
}

/// Measures, Longshore and JetStream in turn; where `only` says so, with just so many clients.
pub(crate) async fn measure(rounds: usize, only: Option<usize>) -> Result<Vec<Figure>, Failure> {
    let mut ground = Ground::start(&[]).await?;
    let mut manager = ground.manager("m1")?;
    manager.says("this manager leads", PATIENCE).await?;
    let (api, jetstream) = (ground.operator().await?, ground.jetstream().await?);
    let raw = Raw::start(ground.folder()).await?;
    let mut figures = Vec::new();
    for clients in only.map_or_else(|| CLIENTS.to_vec(), |clients| vec![clients]) {
        let (mut commands, mut facts, mut records) = (Vec::new(), Vec::new(), Vec::new());
        let (mut same, mut one_by_one) = (Vec::new(), Vec::new());
        let (mut bare, mut diskless) = (Vec::new(), Vec::new());
        let before = Taken::of(&ground, &manager)?;
        let mut granted = 0.0;
        for round in 1..=rounds {
            let through = through(&api, &jetstream, clients).await?;
            granted += through.commands;
            commands.push(through.commands / ROUND.as_secs_f64());
            facts.push(through.facts / ROUND.as_secs_f64());
            records.push(through.records / ROUND.as_secs_f64());
            same.push(raw.publish(clients, through.bytes / through.commands).await?);
            one_by_one.push(raw.publish(1, through.bytes / through.records).await?);
            if clients == 1 {
                let bytes = through.bytes / through.commands;
                bare.push(raw.serve(bytes, Disk::Own).await?);
                diskless.push(raw.serve(bytes, Disk::None).await?);
            }
            progress(&format!(
                "log, {clients} clients, round {round} of {rounds}: {:.0} commands/s, {:.0} facts/s in {:.0} records/s of {:.1} KiB; raw {:.0} messages/s, of a record's size one by one {:.0}",
                median(&commands),
                median(&facts),
                median(&records),
                through.bytes / through.records / 1_024.0,
                median(&same),
                median(&one_by_one)
            ));
        }
        let name = |what: &str| format!("log/{clients} in flight: {what}");
        let (same, one_by_one) = (median(&same), median(&one_by_one));
        let figure = Figure::rate(name("commands granted"), median(&commands), "/s", same);
        figures.push(figure.at_least_times(0.7));
        if clients == 1 {
            let (bare, diskless) = (median(&bare), median(&diskless));
            progress(&format!(
                "log, 1 client, a bare service: {bare:.0} requests/s, and {diskless:.0} without a disk of its own"
            ));
            let beside = name("commands granted, beside a bare service");
            figures.push(Figure::rate(beside, median(&commands), "/s", bare));
            figures.push(Figure::rate(name("a bare service's answers"), bare, "/s", same));
            let without = name("a bare service's answers, without a disk of its own");
            figures.push(Figure::rate(without, diskless, "/s", same));
        }
        let taken = Taken::of(&ground, &manager)?.since(before);
        let each_us = |time: Duration| time.as_secs_f64() * 1e6 / granted;
        let mut put = |what: &str, value| figures.push(Figure::alone(name(what), value, "us"));
        put("a command, time of the manager's processor", each_us(taken.manager));
        put("a command, of the NATS server's", each_us(taken.server));
        figures.push(Figure::rate(name("facts committed"), median(&facts), "/s", same));
        figures.push(Figure::rate(name("records committed"), median(&records), "/s", one_by_one));
    }
    manager.stop().await?;
    Ok(figures)
}

/// So many clients submit, each again as soon as it is answered.
async fn through(
    api: &Api,
    jetstream: &jetstream::Context,
    clients: usize,
) -> Result<Through, Failure> {
    let root = Root::standard();
    let mut log = jetstream.get_stream(log_stream(&root)).await?;
    let before = log.info().await?.state.last_sequence;
    let (end, granted) = (Instant::now() + ROUND, Arc::new(AtomicU64::new(0)));
    let mut asking = JoinSet::new();
    for client in 0..clients {
        let (api, granted) = (api.clone(), Arc::clone(&granted));
        asking.spawn(async move {
            let mut turn = 0u64;
            while Instant::now() < end {
                // Each time another version, so that a command is never only a repetition.
                let mut job = service(&format!("log-{client}"), 1)?;
                job.datacenters = vec!["nowhere".parse()?];
                job.specs[0].env.insert("TURN".into(), turn.to_string());
                let _: JobSubmitted =
                    api.ask(own(), ApiVerb::JobSubmit, &SubmitJob { job }).await?;
                turn += 1;
                granted.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(asked) = asking.join_next().await {
        asked??;
    }
    let mut through =
        Through { commands: granted.load(Ordering::Relaxed) as f64, ..Through::default() };
    let last = log.info().await?.state.last_sequence;
    read(&log, before + 1, last, &mut through).await?;
    Ok(through)
}

/// Counts what a stretch of the log holds.
async fn read(log: &Stream, from: u64, last: u64, through: &mut Through) -> Result<(), Failure> {
    let config = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
        ..pull::OrderedConfig::default()
    };
    let mut messages = log.create_consumer(config).await?.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let record = Record::decode(&message.payload)?;
        through.records += 1.0;
        through.facts += record.facts.len() as f64;
        through.bytes += message.payload.len() as f64;
        if message.info()?.stream_sequence >= last {
            return Ok(());
        }
    }
    Err("the log ended early".into())
}

/// A file whose every write is synced.
#[derive(Debug)]
struct Synced(std::fs::File);

impl Synced {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.sync_data()
    }
}

/// A stream like the log's on a server of its own, set up like the cluster's but without users: managers may make
/// no other streams than theirs.
#[derive(Debug)]
pub(crate) struct Raw {
    url: String,
    folder: PathBuf,
    jetstream: jetstream::Context,
    _server: Child,
}

/// Whether a [bare service](Bare) writes each request to a disk of its own before it answers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Disk {
    Own,
    None,
}

/// The least that a command takes where one waits for the other: a service on a connection of its own that publishes
/// each request, waits for the acknowledgement, writes it to its own disk, synced, and answers.
#[derive(Debug)]
pub(crate) struct Bare {
    client: async_nats::Client,
    _serving: AbortOnDropHandle<Result<(), Failure>>,
}

impl Raw {
    /// Starts the server, and makes the stream.
    pub(crate) async fn start(folder: &Path) -> Result<Self, Failure> {
        let port = free_port();
        let (conf, store) = (folder.join("raw.conf"), folder.join("raw"));
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{\n  store_dir: \"{}\"\n  sync_interval: always\n}}\n",
            store.display()
        );
        std::fs::write(&conf, text)?;
        let log = std::fs::File::create(folder.join("raw.log"))?;
        let server = spawn(Command::new("nats-server").arg("-c").arg(conf), log)?;
        let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
        let url = format!("nats://127.0.0.1:{port}");
        let client = options.connect(&url).await?;
        let jetstream = jetstream::new(client);
        let config = Config {
            name: STREAM.into(),
            subjects: vec![STREAM.into()],
            storage: StorageType::File,
            ..Config::default()
        };
        let end = Instant::now() + PATIENCE;
        while let Err(error) = jetstream.create_stream(config.clone()).await {
            if Instant::now() > end {
                return Err(error.into());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(Self { url, folder: folder.to_owned(), jetstream, _server: server })
    }

    /// Gives the requests that one client of a [bare service](Bare) has answered per second, one after the other.
    async fn serve(&self, bytes: f64, disk: Disk) -> Result<f64, Failure> {
        let bare = Bare::start(self, disk).await?;
        let payload = payload(bytes);
        let (start, mut answered) = (Instant::now(), 0.0);
        while start.elapsed() < ROUND {
            bare.ask(payload.clone()).await?;
            answered += 1.0;
        }
        let rate = answered / start.elapsed().as_secs_f64();
        self.jetstream.get_stream(STREAM).await?.purge().await?;
        Ok(rate)
    }

    /// Publishes with so many in flight; gives how many were stored per second.
    async fn publish(&self, in_flight: usize, bytes: f64) -> Result<f64, Failure> {
        let payload = payload(bytes);
        let (start, stored) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let mut publishing = JoinSet::new();
        for _ in 0..in_flight {
            let (jetstream, payload) = (self.jetstream.clone(), payload.clone());
            let stored = Arc::clone(&stored);
            publishing.spawn(async move {
                while start.elapsed() < ROUND {
                    jetstream.publish(STREAM, payload.clone()).await?.await?;
                    stored.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, Failure>(())
            });
        }
        while let Some(published) = publishing.join_next().await {
            published??;
        }
        let stored = stored.load(Ordering::Relaxed) as f64;
        self.jetstream.get_stream(STREAM).await?.purge().await?;
        Ok(stored / start.elapsed().as_secs_f64())
    }
}

impl Bare {
    /// Begins to listen.
    pub(crate) async fn start(raw: &Raw, disk: Disk) -> Result<Self, Failure> {
        let service = async_nats::connect(&raw.url).await?;
        let mut requests = service.subscribe("bare").await?;
        service.flush().await?;
        let mut file = match disk {
            Disk::Own => Some(Synced(std::fs::File::create(raw.folder.join("bare"))?)),
            Disk::None => None,
        };
        let serving = AbortOnDropHandle::new(tokio::spawn(async move {
            let jetstream = jetstream::new(service.clone());
            while let Some(request) = requests.next().await {
                let payload = request.payload.clone();
                jetstream.publish(STREAM, payload.clone()).await?.await?;
                if let Some(mut synced) = file.take() {
                    let written = tokio::task::spawn_blocking(move || {
                        synced.write(&payload)?;
                        Ok::<_, std::io::Error>(synced)
                    });
                    file = Some(written.await??);
                }
                let reply = request.reply.ok_or("no answer is wanted")?;
                service.publish(reply, Bytes::new()).await?;
            }
            Ok::<_, Failure>(())
        }));
        Ok(Self { client: async_nats::connect(&raw.url).await?, _serving: serving })
    }

    /// Waits until a request is answered.
    pub(crate) async fn ask(&self, payload: Bytes) -> Result<(), Failure> {
        self.client.request("bare", payload).await?;
        Ok(())
    }
}

/// A message of a size.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the size of a message"
)]
fn payload(bytes: f64) -> Bytes {
    Bytes::from(vec![7u8; bytes.max(1.0) as usize])
}
