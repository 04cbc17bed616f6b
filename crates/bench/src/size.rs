//! The cluster at size: thousands of workers and a hundred thousand tasks over a real NATS server.
//!
//! The manager is a process of its own, as is NATS; all workers are in this one ([`longshore_bench::load`]), each
//! with a connection and a user of its own. All of them share this machine: what is measured is a floor.

use std::time::{Duration, Instant};

use bytes::Bytes;
use longshore_bench::Failure;
use longshore_bench::load::{Place, Workers};
use longshore_bench::report::{Figure, progress, quantile};
use longshore_bus::Credentials;
use longshore_proto::api::{
    EventPage, JobStopped, JobSubmitted, ListEvents, ListNodes, NameJob, NodeView, Page, SubmitJob,
};
use longshore_proto::codec;
use longshore_proto::event::Event;
use longshore_proto::name::{JobName, Root};
use longshore_proto::state::{NodeStatus, TaskState};
use longshore_proto::subject::{ApiVerb, Pattern, Scope, event_stream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::ground::{Api, Ground, Manager, Taken, own, service};
use crate::log::{Bare, Disk, Raw};
use crate::raw::milliseconds;

/// How many tasks a job has.
const TASKS_PER_JOB: u32 = 1_000;
/// How often a decision is asked for while something else goes on.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// How many bytes a request to the bare service has: about what the record of a small job has.
const BARE_BYTES: usize = 1_200;
/// How long the cluster is watched when everything runs.
const CALM: Duration = Duration::from_secs(30);
/// How long any part may take.
const PATIENCE: Duration = Duration::from_secs(240);
/// How often what is waited for is told.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// How often is looked whether something has come.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Measures.
///
/// # Errors
/// A part that did not come to its end; what was measured before it is among the figures.
pub(crate) async fn measure(
    workers: u32,
    tasks: u32,
    figures: &mut Vec<Figure>,
) -> Result<(), Failure> {
    let names: Vec<String> = (1..=workers).map(|number| format!("w{number}")).collect();
    let mut ground = Ground::start(&names).await?;
    let measured = measure_on(&mut ground, &names, tasks, figures).await;
    measured.map_err(|error| {
        let folder = ground.keep();
        format!("{error}; the logs are in {}", folder.display()).into()
    })
}

async fn measure_on(
    ground: &mut Ground,
    names: &[String],
    tasks: u32,
    figures: &mut Vec<Figure>,
) -> Result<(), Failure> {
    let what = format!("{} workers, {tasks} tasks", names.len());
    let mut put = |name: &str, figure: fn(String, f64) -> Figure, value: f64| {
        figures.push(figure(format!("size/{what}: {name}"), value));
    };
    let mut manager = ground.manager("m1")?;
    manager.says("this manager leads", PATIENCE).await?;
    let api = ground.operator().await?;

    // Workers have disks of their own: theirs here is memory, so that they do not wait for the manager's.
    let data = tempfile::tempdir_in(memory_folder())?;
    let users = names.iter().map(|name| ground.credentials(&format!("worker-{name}")));
    let users: Vec<Credentials> = users.collect::<Result<_, _>>()?;
    let place =
        Place { url: ground.url.clone(), root: Root::standard(), data: data.path().to_owned() };
    let start = Instant::now();
    let mut fleet = Workers::start(&place, users)?;
    let count = names.len() as u64;
    until("all workers are ready", &mut fleet, async |_| {
        let status = api.status().await?;
        let ready = status.nodes.get("ready").copied().unwrap_or(0);
        Ok(if ready == count { Ok(()) } else { Err(format!("{ready} of {count}")) })
    })
    .await?;
    put("all workers joined", seconds, start.elapsed().as_secs_f64());
    progress(&format!("{count} workers joined in {:.1} s", start.elapsed().as_secs_f64()));

    // What the least that could decide would wait meanwhile is the machine's own share of that.
    let raw = Raw::start(ground.folder()).await?;
    let bare = Bare::start(&raw, Disk::Own).await?;

    // Everything is submitted at once; a stream of small jobs beside it shows what others would wait meanwhile.
    let wanted = u64::from(tasks);
    let start = Instant::now();
    let before = Taken::of(ground, &manager)?;
    let probe = Probe::start(&api, "loaded");
    let beside = Beside::start(bare);
    for at in 0..tasks.div_ceil(TASKS_PER_JOB) {
        let instances = TASKS_PER_JOB.min(tasks - at * TASKS_PER_JOB);
        submit(&api, &format!("size-{at}"), instances).await?;
    }
    progress(&format!("submitted in {:.2} s", start.elapsed().as_secs_f64()));
    until("all containers run", &mut fleet, async |fleet| {
        let running = fleet.running();
        Ok(if running >= wanted { Ok(()) } else { Err(format!("{running} of {wanted}")) })
    })
    .await?;
    let containers = start.elapsed();
    until("the manager knows that all tasks run", &mut fleet, async |_| {
        let running = api.status().await?.tasks.get(&TaskState::Running).copied().unwrap_or(0);
        Ok(if running >= wanted { Ok(()) } else { Err(format!("{running} of {wanted}")) })
    })
    .await?;
    let known = start.elapsed();
    let loaded = probe.end(&fleet).await?;
    let bare_ms = beside.end().await?;
    drop(raw);
    put("submit to all running", seconds, known.as_secs_f64());
    put("tasks brought to running", rate, f64::from(tasks) / known.as_secs_f64());
    put("decision while they start, median", milli, quantile(&loaded.decided_ms, 0.5));
    put("decision while they start, p99", milli_100, quantile(&loaded.decided_ms, 0.99));
    put("a bare service while they start, median", milli, quantile(&bare_ms, 0.5));
    put("a bare service while they start, p99", milli, quantile(&bare_ms, 0.99));
    put("decision to container while they start, p99", milli, quantile(&loaded.started_ms, 0.99));
    progress(&format!(
        "{tasks} containers in {:.1} s, known to run in {:.1} s; decisions meanwhile {:.1} ms at the median, {:.1} ms at p99, and a bare service's answers {:.1} and {:.1} ms",
        containers.as_secs_f64(),
        known.as_secs_f64(),
        quantile(&loaded.decided_ms, 0.5),
        quantile(&loaded.decided_ms, 0.99),
        quantile(&bare_ms, 0.5),
        quantile(&bare_ms, 0.99)
    ));
    until("the event stream has everything", &mut fleet, async |_| {
        let (stored, told) = (newest(&api).await?, published(ground).await?);
        Ok(if stored == told { Ok(()) } else { Err(format!("{told:?} of {stored:?}")) })
    })
    .await?;
    put("submit to all events published", seconds, start.elapsed().as_secs_f64());
    progress(&format!("events published in {:.1} s", start.elapsed().as_secs_f64()));
    let taken = Taken::of(ground, &manager)?.since(before);
    let each_us = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(tasks);
    put("a task until then, time of the manager's processor", micro, each_us(taken.manager));
    put("a task until then, of the NATS server's", micro, each_us(taken.server));
    put("a task until then, of all workers'", micro, each_us(taken.workers));
    progress(&format!(
        "the manager took {:.1} s of the processor, NATS {:.1} s, the workers {:.1} s",
        taken.manager.as_secs_f64(),
        taken.server.as_secs_f64(),
        taken.workers.as_secs_f64()
    ));

    // Nothing but heartbeats, and now and then a job.
    let probe = Probe::start(&api, "calm");
    tokio::time::sleep(CALM).await;
    let calm = probe.end(&fleet).await?;
    put("decision when all run, median", milli, quantile(&calm.decided_ms, 0.5));
    put("decision when all run, p99", milli_100, quantile(&calm.decided_ms, 0.99));
    put("decision to container when all run, p99", milli, quantile(&calm.started_ms, 0.99));
    progress(&format!(
        "decisions when all run: {:.1} ms at the median, {:.1} ms at p99",
        quantile(&calm.decided_ms, 0.5),
        quantile(&calm.decided_ms, 0.99)
    ));
    let memory = manager.memory()?;
    put("manager's memory", mib, mebibytes(memory.now_bytes));
    put("manager's memory, the most it had", mib_2048, mebibytes(memory.most_bytes));
    progress(&format!(
        "the manager has {:.0} MiB, at most {:.0} MiB",
        mebibytes(memory.now_bytes),
        mebibytes(memory.most_bytes)
    ));
    let doubted = doubted(&api).await?;
    put("nodes that were ever suspect", none, doubted as f64);
    progress(&format!("{doubted} nodes were suspect at some time"));

    let (heard, decided) = reconnect(ground, &api, &mut fleet, &mut manager, wanted).await?;
    put("server killed to all workers heard again", seconds_30, heard.as_secs_f64());
    put("server killed to the next decision", seconds, decided.as_secs_f64());
    progress(&format!("all are back in {:.1} s", heard.as_secs_f64()));
    fleet.end().await
}

/// Kills the NATS server and starts it again: until every worker was heard, and until a decision is granted.
async fn reconnect(
    ground: &mut Ground,
    api: &Api,
    fleet: &mut Workers,
    manager: &mut Manager,
    tasks: u64,
) -> Result<(Duration, Duration), Failure> {
    let (start, started) = (Instant::now(), fleet.started());
    ground.restart_server().await?;
    let name = "after-restart";
    let deciding: JoinHandle<Result<Duration, String>> = tokio::spawn({
        let api = api.clone();
        async move {
            while start.elapsed() < PATIENCE {
                let job = service(name, 1).map_err(|error| error.to_string())?;
                let limit = Duration::from_secs(1);
                let question = SubmitJob { job };
                let asked: Result<JobSubmitted, _> =
                    api.ask_within(limit, own(), ApiVerb::JobSubmit, &question).await;
                if asked.is_ok() {
                    return Ok(start.elapsed());
                }
            }
            Err("no decision after the server's restart".into())
        }
    });
    let count = fleet.alive();
    until("every worker is heard again", fleet, async |_| {
        let elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Meanwhile the manager itself may be away.
        let Ok(nodes) = nodes(api).await else { return Ok(Err("no answer".into())) };
        let back = nodes.iter().filter(|node| {
            node.status == NodeStatus::Ready && node.heard_ms_ago.is_some_and(|ms| ms < elapsed_ms)
        });
        let back = back.count();
        Ok(if back == count { Ok(()) } else { Err(format!("{back} of {count}")) })
    })
    .await?;
    let heard = start.elapsed();
    let decided = deciding.await??;
    if let Some(status) = manager.process.try_wait()? {
        return Err(format!("the manager has ended: {status}").into());
    }
    let _: JobStopped = api.ask(own(), ApiVerb::JobStop, &NameJob { name: name.parse()? }).await?;
    until("everything runs as before", fleet, async |_| {
        let running = api.status().await?.tasks.get(&TaskState::Running).copied().unwrap_or(0);
        Ok(if running == tasks { Ok(()) } else { Err(format!("{running} of {tasks}")) })
    })
    .await?;
    let more = fleet.started() - started;
    if more > 1 {
        return Err(format!("{more} containers were started anew by a restart of NATS").into());
    }
    Ok((heard, decided))
}

/// Small jobs, one after the other, while something else goes on.
struct Probe {
    enough: CancellationToken,
    asking: JoinHandle<Result<Vec<Asked>, String>>,
    api: Api,
}

/// A small job that was asked for.
struct Asked {
    job: JobName,
    at: Instant,
    decided: Duration,
}

/// What small jobs had to wait, in milliseconds each.
struct Waits {
    decided_ms: Vec<f64>,
    started_ms: Vec<f64>,
}

impl Probe {
    fn start(api: &Api, name: &'static str) -> Self {
        let enough = CancellationToken::new();
        let asking = tokio::spawn({
            let (api, enough) = (api.clone(), enough.clone());
            async move {
                let mut asked = Vec::new();
                while !enough.is_cancelled() {
                    let text = format!("probe-{name}-{}", asked.len());
                    let job: JobName = text.parse().map_err(|error| format!("{error}"))?;
                    let at = Instant::now();
                    submit(&api, &text, 1).await.map_err(|error| error.to_string())?;
                    asked.push(Asked { job, at, decided: at.elapsed() });
                    tokio::time::sleep_until((at + PROBE_INTERVAL).into()).await;
                }
                Ok(asked)
            }
        });
        Self { enough, asking, api: api.clone() }
    }

    /// Stops them, and tells what they had to wait.
    async fn end(self, fleet: &Workers) -> Result<Waits, Failure> {
        self.enough.cancel();
        let asked = self.asking.await??;
        let mut waits = Waits { decided_ms: Vec::new(), started_ms: Vec::new() };
        for Asked { job, at, decided } in &asked {
            waits.decided_ms.push(milliseconds(*decided));
            let end = Instant::now() + PATIENCE;
            let started = loop {
                match fleet.first_start(job) {
                    Some(started) => break started,
                    None if Instant::now() > end => return Err(format!("{job} never ran").into()),
                    None => tokio::time::sleep(LOOK_INTERVAL).await,
                }
            };
            waits.started_ms.push(milliseconds(started.duration_since(*at)));
        }
        for Asked { job, .. } in asked {
            let _: JobStopped =
                self.api.ask(own(), ApiVerb::JobStop, &NameJob { name: job }).await?;
        }
        Ok(waits)
    }
}

/// Requests to a bare service, as often as small jobs are asked for.
struct Beside {
    enough: CancellationToken,
    asking: JoinHandle<Result<Vec<f64>, String>>,
}

impl Beside {
    fn start(bare: Bare) -> Self {
        let enough = CancellationToken::new();
        let asking = tokio::spawn({
            let enough = enough.clone();
            async move {
                let payload = Bytes::from(vec![7u8; BARE_BYTES]);
                let mut answered_ms = Vec::new();
                while !enough.is_cancelled() {
                    let at = Instant::now();
                    bare.ask(payload.clone()).await.map_err(|error| error.to_string())?;
                    answered_ms.push(milliseconds(at.elapsed()));
                    tokio::time::sleep_until((at + PROBE_INTERVAL).into()).await;
                }
                Ok(answered_ms)
            }
        });
        Self { enough, asking }
    }

    /// Stops them, and tells what each had to wait, in milliseconds.
    async fn end(self) -> Result<Vec<f64>, Failure> {
        self.enough.cancel();
        Ok(self.asking.await??)
    }
}

async fn submit(api: &Api, name: &str, instances: u32) -> Result<(), Failure> {
    let job = service(name, instances)?;
    let _: JobSubmitted = api.ask(own(), ApiVerb::JobSubmit, &SubmitJob { job }).await?;
    Ok(())
}

/// Every node.
async fn nodes(api: &Api) -> Result<Vec<NodeView>, Failure> {
    let mut all: Vec<NodeView> = Vec::new();
    loop {
        let after = all.last().map(|node| node.name.clone());
        let list = ListNodes { after, ..ListNodes::default() };
        let limit = Duration::from_secs(5);
        let page: Page<NodeView> =
            api.ask_within(limit, Scope::Cluster, ApiVerb::NodeList, &list).await?;
        all.extend(page.items);
        if !page.more {
            return Ok(all);
        }
    }
}

/// How often a node was taken for silent.
async fn doubted(api: &Api) -> Result<usize, Failure> {
    let mut doubted = 0;
    for kind in ["node.suspect", "node.lost"] {
        let list = ListEvents { event_type: Some(kind.into()), ..ListEvents::default() };
        let page: EventPage = api.ask(Scope::Cluster, ApiVerb::EventList, &list).await?;
        doubted += page.items.len();
    }
    Ok(doubted)
}

/// The place of the last event in the manager's history.
async fn newest(api: &Api) -> Result<Option<(u64, u32)>, Failure> {
    let list = ListEvents { newest: true, limit: Some(1), ..ListEvents::default() };
    let page: EventPage = api.ask(Scope::Cluster, ApiVerb::EventList, &list).await?;
    Ok(page.items.last().map(|event| (event.index, event.ordinal)))
}

/// The place of the last event in the event stream.
async fn published(ground: &Ground) -> Result<Option<(u64, u32)>, Failure> {
    let root = Root::standard();
    let stream = ground.jetstream().await?.get_stream(event_stream(&root)).await?;
    // Audit events are in the history alone; those that the stream has come in the history's order.
    let last = stream.get_last_raw_message_by_subject(&Pattern::Events.text(&root)).await?;
    let event: Event = codec::decode(&last.payload)?;
    Ok(Some((event.index, event.ordinal)))
}

/// Waits for a state. A worker that ends meanwhile, or a state that does not come, is an error.
async fn until(
    what: &str,
    fleet: &mut Workers,
    mut look: impl AsyncFnMut(&Workers) -> Result<Result<(), String>, Failure>,
) -> Result<(), Failure> {
    let start = Instant::now();
    let mut told = Duration::ZERO;
    loop {
        if let Some(error) = fleet.fallen() {
            return Err(error);
        }
        match look(fleet).await? {
            Ok(()) => return Ok(()),
            Err(seen) if start.elapsed() > PATIENCE => {
                return Err(format!("not within {PATIENCE:?}: {what}; {seen}").into());
            }
            Err(seen) if start.elapsed() > told + TELL_INTERVAL => {
                told = start.elapsed();
                progress(&format!("after {:.0} s: {what}: {seen}", told.as_secs_f64()));
            }
            Err(_) => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}

/// A folder in memory, where there is one.
fn memory_folder() -> std::path::PathBuf {
    let shared = std::path::PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

fn seconds(name: String, value: f64) -> Figure {
    Figure::alone(name, value, "s")
}

fn seconds_30(name: String, value: f64) -> Figure {
    seconds(name, value).at_most(30.0)
}

fn milli(name: String, value: f64) -> Figure {
    Figure::alone(name, value, "ms")
}

fn micro(name: String, value: f64) -> Figure {
    Figure::alone(name, value, "us")
}

fn milli_100(name: String, value: f64) -> Figure {
    milli(name, value).at_most(100.0)
}

fn mib(name: String, value: f64) -> Figure {
    Figure::alone(name, value, "MiB")
}

fn mib_2048(name: String, value: f64) -> Figure {
    mib(name, value).at_most(2_048.0)
}

fn rate(name: String, value: f64) -> Figure {
    Figure::alone(name, value, "tasks/s")
}

fn none(name: String, value: f64) -> Figure {
    Figure::alone(name, value, "nodes").at_most(0.0)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
