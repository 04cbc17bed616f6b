//! What a worker does with containers, beside a Docker Swarm service and the bare Docker API: how soon it restarts what
//! died, and what it takes for itself while its tasks idle.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{
    Limit, ServiceSpec, ServiceSpecMode, ServiceSpecModeReplicated, SwarmInitRequest, TaskSpec,
    TaskSpecContainerSpec, TaskSpecResources, TaskState,
};
use bollard::query_parameters::{
    EventsOptionsBuilder, KillContainerOptionsBuilder, LeaveSwarmOptionsBuilder,
    ListContainersOptionsBuilder, ListTasksOptionsBuilder, StartContainerOptions,
};
use futures_util::StreamExt;

use crate::cluster::Cluster;
use crate::job::{self, LAUNCH_TIMEOUT};
use crate::raw::{COMMAND, CPU_MILLIS, IMAGE, MEMORY_BYTES};
use longshore_bench::Failure;
use longshore_bench::report::{Figure, median, progress};

/// How often a container is killed.
const KILLS: usize = 10;
/// How long the worker is watched while its tasks idle.
const IDLE_WATCH: Duration = Duration::from_secs(20);
/// How long after a launch it is left alone before that.
const IDLE_SETTLE: Duration = Duration::from_secs(5);
/// For how long a Swarm service is watched.
const SWARM_WATCH: Duration = Duration::from_secs(120);
/// In how many parts of a second Linux counts a process's time, on every machine that we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the worker takes for itself just now, with so many tasks that do nothing.
pub(crate) async fn idle(cluster: &Cluster, tasks: u32) -> Result<Vec<Figure>, Failure> {
    tokio::time::sleep(IDLE_SETTLE).await;
    let pid = cluster.worker_pid()?;
    let (before, start) = (cpu_ticks(pid)?, Instant::now());
    tokio::time::sleep(IDLE_WATCH).await;
    let seconds = (cpu_ticks(pid)? - before) / TICKS_PER_SECOND;
    let percent = seconds / start.elapsed().as_secs_f64() * 100.0;
    let memory = memory_mib(pid)?;
    progress(&format!("idle with {tasks} tasks: {percent:.2} % of a core, {memory:.1} MiB"));
    let cpu = Figure::alone(format!("idle worker/cpu with {tasks} tasks"), percent, "% of a core");
    let memory = Figure::alone(format!("idle worker/memory with {tasks} tasks"), memory, "MiB");
    Ok(match tasks {
        100 => vec![cpu.at_most(1.0), memory.at_most(50.0)],
        _ => vec![cpu, memory],
    })
}

/// The processor's time that a process has used, in ticks.
fn cpu_ticks(pid: u32) -> Result<f64, Failure> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold anything; what follows it does not.
    let (_, rest) = text.rsplit_once(')').ok_or("no name in /proc/…/stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    Ok(field(11).ok_or("no utime")? + field(12).ok_or("no stime")?)
}

/// The memory that a process has resident.
fn memory_mib(pid: u32) -> Result<f64, Failure> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1_024.0)
}

/// Kills a task's container again and again: how long until its successor is made, and until it runs, by the daemon's
/// own clock; beside a program that does nothing but wait for the end of a container and start the next.
pub(crate) async fn restarts(cluster: &Cluster, docker: &Docker) -> Result<Vec<Figure>, Failure> {
    let name = "restarts";
    let mut job = job::job(name, 1)?;
    for spec in &mut job.specs {
        let usual =
            longshore_proto::spec::RestartPolicy::usual(longshore_proto::spec::RestartMode::Always);
        spec.restart =
            Some(longshore_proto::spec::RestartPolicy { attempts: 1_000, delay_ms: 0, ..usual });
    }
    job::start(cluster, job, 1).await?;
    let label = format!("longshore.job={name}");
    let (mut made, mut running, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..KILLS {
        let container = only_container(docker, &label).await?;
        let mut moments = Moments::watch(docker, &label);
        kill(docker, &container).await?;
        let [died, created, started] = moments.next().await?;
        made.push(milliseconds_between(died, created));
        running.push(milliseconds_between(died, started));
        raw.push(raw_restart(docker).await?);
    }
    job::stop(cluster, name).await?;
    progress(&format!(
        "restart: made after {:.1} ms, runs after {:.1} ms, raw {:.1} ms",
        median(&made),
        median(&running),
        median(&raw)
    ));
    Ok(vec![
        Figure::alone(
            "restart/death to the next container made, without a delay",
            median(&made),
            "ms",
        )
        .at_most(50.0),
        Figure::time(
            "restart/death to running, without a delay",
            median(&running),
            "ms",
            median(&raw),
        ),
    ])
}

/// The same by the bare API.
async fn raw_restart(docker: &Docker) -> Result<f64, Failure> {
    let id = uuid::Uuid::new_v4().to_string();
    let label = format!("longshore-bench-restart={id}");
    let make = || async {
        let labels = HashMap::from([("longshore-bench-restart".to_owned(), id.clone())]);
        crate::raw::create(docker, None, labels).await
    };
    let first = make().await?;
    docker.start_container(&first, None::<StartContainerOptions>).await?;
    let mut moments = Moments::watch(docker, &label);
    kill(docker, &first).await?;
    let died = moments.until("die").await?;
    let second = make().await?;
    docker.start_container(&second, None::<StartContainerOptions>).await?;
    let started = moments.until("start").await?;
    for container in [first, second] {
        crate::raw::remove(docker, &container).await?;
    }
    Ok(milliseconds_between(died, started))
}

async fn only_container(docker: &Docker, label: &str) -> Result<String, Failure> {
    let filters = HashMap::from([("label", vec![label])]);
    let options = ListContainersOptionsBuilder::default().filters(&filters).build();
    let end = Instant::now() + LAUNCH_TIMEOUT;
    loop {
        let found = docker.list_containers(Some(options.clone())).await?;
        if let [only] = &found[..] {
            return Ok(only.id.clone().unwrap_or_default());
        }
        if Instant::now() > end {
            return Err(format!("{} containers with {label}", found.len()).into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn kill(docker: &Docker, container: &str) -> Result<(), Failure> {
    let options = KillContainerOptionsBuilder::default().signal("KILL").build();
    Ok(docker.kill_container(container, Some(options)).await?)
}

fn milliseconds_between(from_ns: i64, to_ns: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few seconds in nanoseconds")]
    let ns = (to_ns - from_ns) as f64;
    ns / 1_000_000.0
}

/// When things happened to containers with a label, by the daemon's clock.
struct Moments {
    events: futures_util::stream::BoxStream<
        'static,
        Result<bollard::models::EventMessage, bollard::errors::Error>,
    >,
}

impl Moments {
    fn watch(docker: &Docker, label: &str) -> Self {
        let filters = HashMap::from([
            ("type", vec!["container"]),
            ("label", vec![label]),
            ("event", vec!["create", "start", "die"]),
        ]);
        // From now on: the past of the label is full of the same.
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64());
        let options =
            EventsOptionsBuilder::default().since(&format!("{now:.6}")).filters(&filters).build();
        Self { events: docker.events(Some(options)).boxed() }
    }

    /// An end, and the successor's creation and start.
    async fn next(&mut self) -> Result<[i64; 3], Failure> {
        Ok([self.until("die").await?, self.until("create").await?, self.until("start").await?])
    }

    async fn until(&mut self, action: &str) -> Result<i64, Failure> {
        let wait = async {
            while let Some(event) = self.events.next().await {
                let event = event?;
                if event.action.as_deref() == Some(action) {
                    return event.time_nano.ok_or_else(|| "an event without a time".into());
                }
            }
            Err("Docker has closed its events".into())
        };
        tokio::time::timeout(LAUNCH_TIMEOUT, wait).await?
    }
}

/// How many tasks a second a Docker Swarm has brought to running in services of so many.
pub(crate) type Swarms = BTreeMap<u32, f64>;

/// How many tasks a second of a Swarm service run, from its creation until all do, or until it has been watched for long
/// enough; `None` where this daemon cannot, or is part of a swarm that is not ours.
pub(crate) async fn swarm(docker: &Docker, count: u32) -> Option<f64> {
    let init = SwarmInitRequest {
        listen_addr: Some("127.0.0.1".to_owned()),
        advertise_addr: Some("127.0.0.1".to_owned()),
        ..SwarmInitRequest::default()
    };
    if let Err(error) = docker.init_swarm(init).await {
        progress(&format!("no swarm to compare with: {error}"));
        return None;
    }
    let measured = service(docker, count).await;
    let leave = LeaveSwarmOptionsBuilder::default().force(true).build();
    if let Err(error) = docker.leave_swarm(Some(leave)).await {
        progress(&format!(
            "the swarm could not be left, `docker swarm leave --force` does it: {error}"
        ));
    }
    let (running, seconds) = measured
        .inspect_err(|error| progress(&format!("no swarm to compare with: {error}")))
        .ok()?;
    progress(&format!("{count} tasks of a swarm service: {running} run after {seconds:.2} s"));
    Some(f64::from(running) / seconds)
}

/// How many tasks of a service run, and after how many seconds.
async fn service(docker: &Docker, count: u32) -> Result<(u32, f64), Failure> {
    let name = "longshore-bench";
    let container = TaskSpecContainerSpec {
        image: Some(IMAGE.to_owned()),
        command: Some(COMMAND.map(str::to_owned).to_vec()),
        stop_grace_period: Some(0),
        ..TaskSpecContainerSpec::default()
    };
    let limits = Limit {
        nano_cpus: Some(i64::try_from(CPU_MILLIS * 1_000_000).unwrap_or(i64::MAX)),
        memory_bytes: Some(i64::try_from(MEMORY_BYTES).unwrap_or(i64::MAX)),
        ..Limit::default()
    };
    let spec = ServiceSpec {
        name: Some(name.to_owned()),
        task_template: Some(TaskSpec {
            container_spec: Some(container),
            resources: Some(TaskSpecResources {
                limits: Some(limits),
                ..TaskSpecResources::default()
            }),
            ..TaskSpec::default()
        }),
        mode: Some(ServiceSpecMode {
            replicated: Some(ServiceSpecModeReplicated { replicas: Some(i64::from(count)) }),
            ..ServiceSpecMode::default()
        }),
        ..ServiceSpec::default()
    };
    let start = Instant::now();
    docker.create_service(spec, None).await?;
    let filters = HashMap::from([("service", vec![name])]);
    let options = ListTasksOptionsBuilder::default().filters(&filters).build();
    let reached = loop {
        let tasks = docker.list_tasks(Some(options.clone())).await?;
        let runs = |task: &&bollard::models::Task| {
            task.status.as_ref().and_then(|status| status.state.as_ref())
                == Some(&TaskState::RUNNING)
        };
        let running = u32::try_from(tasks.iter().filter(runs).count())?;
        if running >= count || start.elapsed() > SWARM_WATCH {
            break (running, start.elapsed().as_secs_f64());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    docker.delete_service(name).await?;
    let label = HashMap::from([(
        "label".to_owned(),
        vec![format!("com.docker.swarm.service.name={name}")],
    )]);
    let all = ListContainersOptionsBuilder::default().all(true).filters(&label).build();
    while !docker.list_containers(Some(all.clone())).await?.is_empty() {
        if start.elapsed() > LAUNCH_TIMEOUT * 2 {
            return Err("the service does not end".into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(reached)
}
