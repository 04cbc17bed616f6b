//! Job files: TOML (or JSON) in people's units. Every refusal names the field, where it stands, and the cure.

#[cfg(test)]
mod docs;
mod field;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use longshore_proto::constraint::Constraint;
use longshore_proto::container::{ContainerSpec, CpuMode, LogDriver, Network};
use longshore_proto::health::{HealthCheck, Probe};
use longshore_proto::name::{Datacenter, JobName, LoginName, Namespace, SpecName};
use longshore_proto::platform::Platform;
use longshore_proto::spec::{
    Affinity, JobSpec, JobType, MigrateOrder, MigratePolicy, Mount, MountSource, OnNodeLoss,
    PullPolicy, ReschedulePolicy, Resources, RestartPolicy, SchedulerKind, Spread, TaskSpec,
};
use longshore_proto::validate;
use serde::Deserialize;

use crate::failure::Failure;

/// How a job file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    /// TOML.
    Toml,
    /// JSON.
    Json,
}

impl Language {
    /// The language of a file, by its name; of standard input, by its first character.
    pub(crate) fn of(path: &Path, text: &str) -> Self {
        let json = if path == Path::new("-") {
            text.trim_start().starts_with('{')
        } else {
            path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
        };
        if json { Self::Json } else { Self::Toml }
    }
}

/// Reads a job file; `namespace` is where the job belongs when the file does not say.
pub(crate) fn read(
    text: &str,
    language: Language,
    namespace: &Namespace,
) -> Result<JobSpec, Failure> {
    let file: JobFile = match language {
        Language::Toml => toml::from_str(text).map_err(|error| {
            // The parser's own text shows the line with a mark under what is wrong.
            Failure::new(error.to_string().trim_end().to_owned())
        }),
        Language::Json => {
            serde_json::from_str(text).map_err(|error| Failure::new(error.to_string()))
        }
    }
    .map_err(|failure| failure.hint("docs/job.md describes every field"))?;
    let job = file.into_spec(namespace);
    match validate::job(&job) {
        Ok(()) => Ok(job),
        Err(refusal) => Err(Failure::new(refusal.message).hint(refusal.hint.unwrap_or_default())),
    }
}

/// A job as people write it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JobFile {
    namespace: Option<Namespace>,
    name: JobName,
    #[serde(rename = "type", default)]
    kind: JobType,
    #[serde(default)]
    datacenters: Vec<Datacenter>,
    #[serde(default = "field::priority_usual", deserialize_with = "field::priority")]
    priority: u8,
    #[serde(default)]
    on_node_loss: OnNodeLoss,
    #[serde(default, deserialize_with = "field::fence")]
    fence: bool,
    scheduler: Option<SchedulerKind>,
    #[serde(default)]
    constraints: Vec<field::ConstraintText>,
    #[serde(rename = "task")]
    tasks: Vec<TaskFile>,
}

/// A part of a job as people write it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskFile {
    #[serde(default = "field::name_usual")]
    name: SpecName,
    image: String,
    #[serde(default = "field::instances_usual", deserialize_with = "field::instances")]
    instances: u32,
    #[serde(default, deserialize_with = "field::entrypoint")]
    entrypoint: Option<Vec<String>>,
    #[serde(default, deserialize_with = "field::command")]
    command: Vec<String>,
    #[serde(default, deserialize_with = "field::cpus")]
    cpus: Option<u64>,
    #[serde(default, deserialize_with = "field::memory")]
    memory: Option<u64>,
    #[serde(default, deserialize_with = "field::disk")]
    disk: Option<u64>,
    #[serde(default, deserialize_with = "field::env")]
    env: BTreeMap<String, String>,
    #[serde(default)]
    ports: Vec<field::PortText>,
    restart: Option<Restart>,
    reschedule: Option<Reschedule>,
    migrate: Option<Migrate>,
    #[serde(default = "field::stop_grace_ms_usual", deserialize_with = "field::stop_grace")]
    stop_grace: u64,
    #[serde(default)]
    pull: PullPolicy,
    #[serde(default)]
    constraints: Vec<field::ConstraintText>,
    #[serde(default)]
    affinities: Vec<AffinityTable>,
    #[serde(default)]
    spread: Vec<SpreadEntry>,
    #[serde(default, deserialize_with = "field::anti_affinity")]
    anti_affinity: Option<u8>,
    #[serde(default, deserialize_with = "field::distinct_hosts")]
    distinct_hosts: bool,
    #[serde(default, deserialize_with = "field::all_at_once")]
    all_at_once: bool,
    #[serde(default)]
    mounts: Vec<MountEntry>,
    platform: Option<Platform>,
    registry_login: Option<LoginName>,
    working_dir: Option<String>,
    user: Option<String>,
    #[serde(default, deserialize_with = "field::labels")]
    labels: BTreeMap<String, String>,
    hostname: Option<String>,
    network: Option<String>,
    #[serde(default)]
    dns: Vec<IpAddr>,
    #[serde(default)]
    dns_search: Vec<String>,
    #[serde(default)]
    hosts: BTreeMap<String, IpAddr>,
    #[serde(default)]
    cpu_mode: CpuMode,
    #[serde(default, deserialize_with = "field::memory_reservation")]
    memory_reservation: Option<u64>,
    #[serde(default, deserialize_with = "field::pids")]
    pids: Option<u32>,
    #[serde(default, deserialize_with = "field::shm_size")]
    shm_size: Option<u64>,
    #[serde(default)]
    ulimits: BTreeMap<String, field::UlimitText>,
    #[serde(default)]
    cap_add: Vec<field::CapabilityText>,
    #[serde(default)]
    cap_drop: Vec<field::CapabilityText>,
    #[serde(default, deserialize_with = "field::new_privileges")]
    new_privileges: bool,
    #[serde(default, deserialize_with = "field::privileged")]
    privileged: bool,
    #[serde(default, deserialize_with = "field::read_only")]
    read_only: bool,
    #[serde(default)]
    devices: Vec<field::DeviceText>,
    gpus: Option<field::GpusText>,
    #[serde(default, deserialize_with = "field::init")]
    init: bool,
    stop_signal: Option<String>,
    log: Option<LogEntry>,
    health: Option<Health>,
}

/// `health = { type = "http", port = "web", path = "/healthz", … }`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "HealthTable")]
struct Health(HealthCheck);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthTable {
    #[serde(rename = "type")]
    kind: HealthKind,
    #[serde(default, deserialize_with = "field::health_port")]
    port: Option<String>,
    path: Option<String>,
    #[serde(default, deserialize_with = "field::command")]
    command: Vec<String>,
    #[serde(default, deserialize_with = "field::interval")]
    interval: Option<u64>,
    #[serde(default, deserialize_with = "field::timeout")]
    timeout: Option<u64>,
    #[serde(default, deserialize_with = "field::retries")]
    retries: Option<u32>,
    #[serde(default, deserialize_with = "field::start_period")]
    start_period: Option<u64>,
}

/// What is asked of a task.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum HealthKind {
    Http,
    Tcp,
    Exec,
    Image,
}

impl TryFrom<HealthTable> for Health {
    type Error = String;

    fn try_from(table: HealthTable) -> Result<Self, String> {
        let refuse = |text: &str| Err(format!("health: {text}"));
        let probe = match (table.kind, table.port, table.path, table.command) {
            (HealthKind::Http, Some(port), path, words) if words.is_empty() => {
                Probe::Http { port, path: path.unwrap_or_else(|| "/".to_owned()) }
            }
            (HealthKind::Tcp, Some(port), None, words) if words.is_empty() => Probe::Tcp { port },
            (HealthKind::Exec, None, None, command) if !command.is_empty() => {
                Probe::Exec { command }
            }
            (HealthKind::Image, None, None, words) if words.is_empty() => Probe::Image,
            (HealthKind::Http, ..) => {
                return refuse(
                    "http needs a port, and may have a path; write port = \"web\", path = \"/healthz\"",
                );
            }
            (HealthKind::Tcp, ..) => {
                return refuse("tcp needs a port and nothing else; write port = \"web\"");
            }
            (HealthKind::Exec, ..) => {
                return refuse(
                    "exec needs a command and nothing else; write command = [\"pg_isready\"]",
                );
            }
            (HealthKind::Image, ..) => {
                return refuse("image has neither port, path nor command; leave them out");
            }
        };
        let usual = HealthCheck::usual(probe);
        Ok(Self(HealthCheck {
            interval_ms: table.interval.unwrap_or(usual.interval_ms),
            timeout_ms: table.timeout.unwrap_or(usual.timeout_ms),
            retries: table.retries.unwrap_or(usual.retries),
            start_period_ms: table.start_period.unwrap_or(usual.start_period_ms),
            ..usual
        }))
    }
}

/// `log = "local"` or `log = { driver = "local", options = { max-size = "5m" } }`.
#[derive(Debug, Deserialize)]
#[serde(from = "field::TextOr<String, LogTable>")]
struct LogEntry(LogDriver);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogTable {
    driver: String,
    #[serde(default, deserialize_with = "field::options")]
    options: BTreeMap<String, String>,
}

impl From<field::TextOr<String, LogTable>> for LogEntry {
    fn from(written: field::TextOr<String, LogTable>) -> Self {
        match written {
            field::TextOr::Text(driver) => Self(LogDriver { driver, options: BTreeMap::new() }),
            field::TextOr::Table(LogTable { driver, options }) => {
                Self(LogDriver { driver, options })
            }
        }
    }
}

/// `{ match = "label.disk = ssd", weight = 50 }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AffinityTable {
    #[serde(rename = "match")]
    constraint: field::ConstraintText,
    #[serde(default = "field::affinity_weight_usual", deserialize_with = "field::affinity_weight")]
    weight: i8,
}

/// `"label.rack"`, `"label.rack:30"` or `{ attribute = "label.rack", weight = 30 }`.
#[derive(Debug, Deserialize)]
#[serde(from = "field::TextOr<field::SpreadText, SpreadTable>")]
struct SpreadEntry(Spread);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpreadTable {
    attribute: field::AttributeText,
    #[serde(default, deserialize_with = "field::spread_weight")]
    weight: Option<u8>,
}

/// `"/srv/data:/data:ro"`, `"cache:/data"` or `{ type = "tmpfs", target = "/tmp", size = "64MiB" }`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "field::TextOr<field::MountText, MountTable>")]
struct MountEntry(Mount);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MountTable {
    #[serde(rename = "type")]
    kind: MountKind,
    target: String,
    source: Option<String>,
    #[serde(default, deserialize_with = "field::read_only")]
    read_only: bool,
    #[serde(default, deserialize_with = "field::size")]
    size: Option<u64>,
}

/// What is mounted.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum MountKind {
    Bind,
    Volume,
    Tmpfs,
}

impl From<field::TextOr<field::SpreadText, SpreadTable>> for SpreadEntry {
    fn from(written: field::TextOr<field::SpreadText, SpreadTable>) -> Self {
        match written {
            field::TextOr::Text(field::SpreadText(spread)) => Self(spread),
            field::TextOr::Table(table) => {
                let usual = Spread::usual(table.attribute.0);
                Self(Spread { weight: table.weight.unwrap_or(usual.weight), ..usual })
            }
        }
    }
}

impl TryFrom<field::TextOr<field::MountText, MountTable>> for MountEntry {
    type Error = String;

    fn try_from(written: field::TextOr<field::MountText, MountTable>) -> Result<Self, String> {
        match written {
            field::TextOr::Text(field::MountText(mount)) => Ok(Self(mount)),
            field::TextOr::Table(table) => table.into_mount().map(Self),
        }
    }
}

impl MountTable {
    fn into_mount(self) -> Result<Mount, String> {
        let refuse = |text: &str| Err(format!("mounts: {text}"));
        let source = match (self.kind, self.source, self.size) {
            (MountKind::Bind, Some(path), None) => MountSource::Bind { path },
            (MountKind::Volume, Some(name), None) => MountSource::Volume { name },
            (MountKind::Tmpfs, None, size_bytes) => MountSource::Tmpfs { size_bytes },
            (MountKind::Bind, None, _) => {
                return refuse(
                    "a bind needs its source; write source = \"/srv/data\", a path of the node",
                );
            }
            (MountKind::Volume, None, _) => {
                return refuse(
                    "a volume needs its source; write source = \"cache\", the volume's name",
                );
            }
            (MountKind::Bind | MountKind::Volume, Some(_), Some(_)) => {
                return refuse("only a tmpfs has a size; leave it out");
            }
            (MountKind::Tmpfs, Some(_), _) => {
                return refuse("a tmpfs is memory and has no source; leave it out");
            }
        };
        Ok(Mount { target: self.target, source, read_only: self.read_only })
    }
}

/// `restart = "never"` or `restart = { mode = "always", … }`.
#[derive(Debug, Deserialize)]
#[serde(from = "field::TextOr<field::RestartText, RestartTable>")]
struct Restart(RestartPolicy);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RestartTable {
    mode: field::RestartText,
    #[serde(default, deserialize_with = "field::attempts")]
    attempts: Option<u32>,
    #[serde(default, deserialize_with = "field::window")]
    window: Option<u64>,
    #[serde(default, deserialize_with = "field::delay")]
    delay: Option<u64>,
    #[serde(default, deserialize_with = "field::max_delay")]
    max_delay: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reschedule {
    #[serde(default, deserialize_with = "field::attempts")]
    attempts: Option<u32>,
    #[serde(default, deserialize_with = "field::delay")]
    delay: Option<u64>,
    #[serde(default, deserialize_with = "field::max_delay")]
    max_delay: Option<u64>,
}

/// `{ order = "stop-first", parallel = 2 }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Migrate {
    #[serde(default)]
    order: MigrateOrder,
    #[serde(default, deserialize_with = "field::parallel")]
    parallel: Option<u32>,
}

impl From<Migrate> for MigratePolicy {
    fn from(table: Migrate) -> Self {
        let usual = Self::usual();
        Self { order: table.order, parallel: table.parallel.unwrap_or(usual.parallel) }
    }
}

impl From<field::TextOr<field::RestartText, RestartTable>> for Restart {
    fn from(written: field::TextOr<field::RestartText, RestartTable>) -> Self {
        match written {
            field::TextOr::Text(field::RestartText(policy)) => Self(policy),
            field::TextOr::Table(table) => {
                let usual = table.mode.0;
                Self(RestartPolicy {
                    mode: usual.mode,
                    attempts: table.attempts.unwrap_or(usual.attempts),
                    window_ms: table.window.unwrap_or(usual.window_ms),
                    delay_ms: table.delay.unwrap_or(usual.delay_ms),
                    delay_ms_max: table.max_delay.unwrap_or(usual.delay_ms_max),
                })
            }
        }
    }
}

impl From<Reschedule> for ReschedulePolicy {
    fn from(table: Reschedule) -> Self {
        Self {
            attempts: table.attempts,
            delay_ms: table.delay.unwrap_or(5_000),
            delay_ms_max: table.max_delay.unwrap_or(300_000),
        }
    }
}

impl JobFile {
    fn into_spec(self, namespace: &Namespace) -> JobSpec {
        let common: Vec<Constraint> =
            self.constraints.into_iter().map(|constraint| constraint.0).collect();
        JobSpec {
            namespace: self.namespace.unwrap_or_else(|| namespace.clone()),
            name: self.name,
            job_type: self.kind,
            datacenters: self.datacenters,
            priority: self.priority,
            on_node_loss: self.on_node_loss,
            fence: self.fence,
            scheduler: self.scheduler,
            specs: self.tasks.into_iter().map(|task| task.into_spec(&common)).collect(),
        }
    }
}

impl TaskFile {
    /// The part; `common` is what the job says for all of its parts.
    fn into_spec(self, common: &[Constraint]) -> TaskSpec {
        let usual = Resources::default();
        let own = self.constraints.into_iter().map(|constraint| constraint.0);
        let mut constraints = common.to_vec();
        constraints.extend(own.filter(|constraint| !common.contains(constraint)));
        let affinities = self
            .affinities
            .into_iter()
            .map(|table| Affinity { constraint: table.constraint.0, weight: table.weight });
        let container = ContainerSpec {
            platform: self.platform,
            registry_login: self.registry_login,
            working_dir: self.working_dir,
            user: self.user,
            labels: self.labels,
            hostname: self.hostname,
            network: self.network.as_deref().map(Network::of).unwrap_or_default(),
            dns: self.dns,
            dns_search: self.dns_search,
            hosts: self.hosts,
            cpu_mode: self.cpu_mode,
            memory_reservation_bytes: self.memory_reservation,
            pids_max: self.pids,
            shm_bytes: self.shm_size,
            ulimits: self.ulimits.into_iter().map(|(name, limit)| (name, limit.0)).collect(),
            cap_add: self.cap_add.into_iter().map(|name| name.0).collect(),
            cap_drop: self.cap_drop.into_iter().map(|name| name.0).collect(),
            new_privileges: self.new_privileges,
            privileged: self.privileged,
            read_only: self.read_only,
            devices: self.devices.into_iter().map(|device| device.0).collect(),
            gpus: self.gpus.map(|gpus| gpus.0),
            init: self.init,
            stop_signal: self.stop_signal,
            log: self.log.map(|log| log.0),
        };
        TaskSpec {
            container,
            health: self.health.map(|health| health.0),
            instances: self.instances,
            pull: self.pull,
            entrypoint: self.entrypoint,
            command: self.command,
            env: self.env,
            resources: Resources {
                cpu_millis: self.cpus.unwrap_or(usual.cpu_millis),
                memory_bytes: self.memory.unwrap_or(usual.memory_bytes),
                disk_bytes: self.disk.unwrap_or(usual.disk_bytes),
            },
            ports: self.ports.into_iter().map(|port| port.0).collect(),
            restart: self.restart.map(|restart| restart.0),
            reschedule: self.reschedule.map(ReschedulePolicy::from),
            migrate: self.migrate.map(MigratePolicy::from),
            stop_grace_ms: self.stop_grace,
            constraints,
            affinities: affinities.collect(),
            spread: self.spread.into_iter().map(|entry| entry.0).collect(),
            anti_affinity: self.anti_affinity,
            distinct_hosts: self.distinct_hosts,
            all_at_once: self.all_at_once,
            mounts: self.mounts.into_iter().map(|entry| entry.0).collect(),
            ..TaskSpec::new(self.name, self.image)
        }
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::container::{Device, Gpus, Ulimit};
    use longshore_proto::spec::{Port, Protocol, RestartMode};

    use super::*;

    const WHOLE: &str = r#"
        name = "web"
        type = "service"          # or "batch"
        datacenters = ["dc1"]
        priority = 60
        on_node_loss = "wait"
        fence = true
        scheduler = "round-robin"
        constraints = ["attribute.os = linux"]
        [[task]]
        name = "server"
        image = "nginx:1.27"
        instances = 3
        entrypoint = ["/entry"]
        command = ["nginx", "-g", "daemon off;"]
        cpus = 0.5
        memory = "256MiB"
        disk = "1GiB"
        env = { A = "b" }
        ports = ["8080:80", "127.0.0.1:53:53/udp", "web=8080"]
        restart = { mode = "always", attempts = 5, window = "10m", delay = "1s", max_delay = "5m" }
        reschedule = { attempts = 3, delay = "5s", max_delay = "5m" }
        migrate = { order = "stop-first", parallel = 2 }
        stop_grace = "10s"
        pull = "never"
        constraints = ["label.rack in r1, r2", "attribute.os = linux"]
        affinities = [
            { match = "label.disk = ssd", weight = -20 },
            { match = 'node.name matches "^web-\d+$"' },
        ]
        spread = ["node.datacenter", "label.rack:30", { attribute = "label.row", weight = 1 }]
        anti_affinity = 0
        distinct_hosts = true
        all_at_once = true
        mounts = [
            "/srv/data:/var/lib/app:ro",
            "cache:/var/cache",
            { type = "bind", source = "/srv/a:b", target = "/a:b", read_only = true },
            { type = "volume", source = "more", target = "/more" },
            { type = "tmpfs", target = "/tmp", size = "64MiB" },
            { type = "tmpfs", target = "/run" },
        ]
        platform = "linux/x86_64"
        registry_login = "team"
        working_dir = "/app"
        user = "1000:1000"
        labels = { team = "${job.name}" }
        hostname = "web-${task.index}"
        network = "backend"
        dns = ["9.9.9.9"]
        dns_search = ["example.org"]
        hosts = { db = "10.0.0.1" }
        cpu_mode = "shares"
        memory_reservation = "64MiB"
        pids = 200
        shm_size = "1MiB"
        ulimits = { nofile = "1024:4096", core = 0 }
        cap_add = ["net_admin"]
        cap_drop = ["ALL"]
        new_privileges = true
        privileged = true
        read_only = true
        devices = ["/dev/kvm:/dev/vm:r"]
        gpus = 1
        init = true
        stop_signal = "SIGQUIT"
        log = { driver = "local", options = { max-size = "1m" } }
        health = { type = "http", port = "web", path = "/up", interval = "2s", timeout = "1s", retries = 2, start_period = "1m" }
    "#;

    fn toml(text: &str) -> Result<JobSpec, Failure> {
        read(text, Language::Toml, &Namespace::standard())
    }

    fn refused(text: &str) -> String {
        let failure = toml(text).unwrap_err();
        let (text, hint) = failure.told().unwrap();
        assert!(hint.is_some_and(|hint| !hint.is_empty()), "{text}");
        text.to_owned()
    }

    /// A job file with one line in its task changed.
    fn with(line: &str) -> String {
        format!("name = \"web\"\n[[task]]\nimage = \"x\"\n{line}\n")
    }

    #[test]
    fn every_field_is_read() {
        let job = toml(WHOLE).unwrap();
        assert_eq!((job.name.as_str(), job.priority), ("web", 60));
        assert_eq!(job.job_type, JobType::Service);
        assert_eq!((job.on_node_loss, job.fence), (OnNodeLoss::Wait, true));
        assert_eq!(job.scheduler, Some(SchedulerKind::RoundRobin));
        let spec = &job.specs[0];
        let expected = TaskSpec {
            instances: 3,
            pull: PullPolicy::Never,
            entrypoint: Some(vec!["/entry".into()]),
            command: ["nginx", "-g", "daemon off;"].map(String::from).to_vec(),
            env: BTreeMap::from([("A".into(), "b".into())]),
            resources: Resources { cpu_millis: 500, memory_bytes: 256 << 20, disk_bytes: 1 << 30 },
            ports: vec![
                Port {
                    host: 8080,
                    container: 80,
                    protocol: Protocol::Tcp,
                    host_ip: None,
                    name: None,
                },
                Port {
                    host: 53,
                    container: 53,
                    protocol: Protocol::Udp,
                    host_ip: Some("127.0.0.1".parse().unwrap()),
                    name: None,
                },
                Port {
                    host: Port::DYNAMIC,
                    container: 8080,
                    protocol: Protocol::Tcp,
                    host_ip: None,
                    name: Some("web".into()),
                },
            ],
            restart: Some(RestartPolicy {
                mode: RestartMode::Always,
                attempts: 5,
                window_ms: 600_000,
                delay_ms: 1_000,
                delay_ms_max: 300_000,
            }),
            reschedule: Some(ReschedulePolicy {
                attempts: Some(3),
                delay_ms: 5_000,
                delay_ms_max: 300_000,
            }),
            migrate: Some(MigratePolicy { order: MigrateOrder::StopFirst, parallel: 2 }),
            stop_grace_ms: 10_000,
            // The job's first, and each once.
            constraints: ["attribute.os = linux", "label.rack in r1, r2"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
            affinities: [("label.disk = ssd", -20), ("node.name matches ^web-\\d+$", 50)]
                .map(|(text, weight)| Affinity { constraint: text.parse().unwrap(), weight })
                .to_vec(),
            spread: [("node.datacenter", 50), ("label.rack", 30), ("label.row", 1)]
                .map(|(text, weight)| Spread { attribute: text.parse().unwrap(), weight })
                .to_vec(),
            anti_affinity: Some(0),
            distinct_hosts: true,
            all_at_once: true,
            mounts: [
                ("/var/lib/app", MountSource::Bind { path: "/srv/data".into() }, true),
                ("/var/cache", MountSource::Volume { name: "cache".into() }, false),
                ("/a:b", MountSource::Bind { path: "/srv/a:b".into() }, true),
                ("/more", MountSource::Volume { name: "more".into() }, false),
                ("/tmp", MountSource::Tmpfs { size_bytes: Some(64 << 20) }, false),
                ("/run", MountSource::Tmpfs { size_bytes: None }, false),
            ]
            .map(|(target, source, read_only)| Mount { target: target.into(), source, read_only })
            .to_vec(),
            health: Some(HealthCheck {
                probe: Probe::Http { port: "web".into(), path: "/up".into() },
                interval_ms: 2_000,
                timeout_ms: 1_000,
                retries: 2,
                start_period_ms: 60_000,
            }),
            container: ContainerSpec {
                platform: Some("linux/amd64".parse().unwrap()),
                registry_login: Some("team".parse().unwrap()),
                working_dir: Some("/app".into()),
                user: Some("1000:1000".into()),
                labels: [("team".to_owned(), "${job.name}".to_owned())].into(),
                hostname: Some("web-${task.index}".into()),
                network: Network::Named("backend".into()),
                dns: vec!["9.9.9.9".parse().unwrap()],
                dns_search: vec!["example.org".into()],
                hosts: [("db".to_owned(), "10.0.0.1".parse().unwrap())].into(),
                cpu_mode: CpuMode::Shares,
                memory_reservation_bytes: Some(64 << 20),
                pids_max: Some(200),
                shm_bytes: Some(1 << 20),
                ulimits: [("nofile", 1024, 4096), ("core", 0, 0)]
                    .map(|(name, soft, hard)| (name.to_owned(), Ulimit { soft, hard }))
                    .into(),
                cap_add: vec!["NET_ADMIN".into()],
                cap_drop: vec!["ALL".into()],
                new_privileges: true,
                privileged: true,
                read_only: true,
                devices: vec![Device {
                    host: "/dev/kvm".into(),
                    container: Some("/dev/vm".into()),
                    permissions: "r".into(),
                }],
                gpus: Some(Gpus::Count(1)),
                init: true,
                stop_signal: Some("SIGQUIT".into()),
                log: Some(LogDriver {
                    driver: "local".into(),
                    options: [("max-size".to_owned(), "1m".to_owned())].into(),
                }),
            },
            ..TaskSpec::new("server".parse().unwrap(), "nginx:1.27")
        };
        assert_eq!(*spec, expected);
    }

    #[test]
    fn the_least_is_a_name_and_an_image() {
        let job = toml("name = \"web\"\ntask = [{ image = \"x\" }]").unwrap();
        assert_eq!(job.specs, [TaskSpec::new("main".parse().unwrap(), "x")]);
        assert_eq!((job.priority, job.job_type), (50, JobType::Service));
        assert_eq!(job.namespace, Namespace::standard());
    }

    #[test]
    fn json_is_read_as_well() {
        let text = r#"{"name": "web", "namespace": "team-a", "task": [{"image": "x", "cpus": 2, "restart": "on-failure:7"}]}"#;
        let job = read(text, Language::Json, &Namespace::standard()).unwrap();
        assert_eq!(job.namespace.as_str(), "team-a");
        assert_eq!(job.specs[0].resources.cpu_millis, 2000);
        assert_eq!(job.specs[0].restart.as_ref().unwrap().attempts, 7);
        let failure = read(
            r#"{"name": "web", "task": [{"image": "x", "memory": -1}]}"#,
            Language::Json,
            &Namespace::standard(),
        );
        let failure = failure.unwrap_err();
        let text = failure.told().unwrap().0;
        assert!(
            text.contains("memory") && text.contains("write 256MiB") && text.contains("line 1")
        );
    }

    #[test]
    fn the_language_follows_the_name_or_the_text() {
        assert_eq!(Language::of(Path::new("a.json"), ""), Language::Json);
        assert_eq!(Language::of(Path::new("a.toml"), "{"), Language::Toml);
        assert_eq!(Language::of(Path::new("-"), " {}"), Language::Json);
        assert_eq!(Language::of(Path::new("-"), "name = 1"), Language::Toml);
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_line() {
        let text = refused(&with("memroy = \"1GiB\""));
        assert!(text.contains("line 4") && text.contains("unknown field `memroy`"), "{text}");
        let text = refused("nmae = \"web\"");
        assert!(text.contains("line 1") && text.contains("unknown field `nmae`"), "{text}");
        let text = refused(&with("restart = { mode = \"always\", tries = 1 }"));
        assert!(text.contains("line 4") && text.contains("unknown field `tries`"), "{text}");
    }

    #[test]
    fn odd_values_name_the_field_the_line_and_the_cure() {
        for (line, field, cure) in [
            ("memory = -1", "memory", "write 256MiB"),
            ("memory = \"-1\"", "memory", "write 256MiB"),
            ("memory = \"10XB\"", "memory", "write 256MiB"),
            ("memory = 1.5", "memory", "write 256MiB"),
            ("memory = true", "memory", "write 256MiB"),
            ("disk = \"1 Gig\"", "disk", "write 256MiB"),
            ("cpus = -0.5", "cpus", "write cores as 0.5"),
            ("cpus = \"many\"", "cpus", "write cores as 0.5"),
            ("cpus = nan", "cpus", "write cores as 0.5"),
            ("stop_grace = \"soon\"", "stop_grace", "write 500ms"),
            ("stop_grace = 10", "stop_grace", "write 500ms"),
            ("instances = -1", "instances", "1 to 100000"),
            ("instances = 1.5", "instances", "1 to 100000"),
            ("instances = 99999999999", "instances", "1 to 100000"),
            ("command = \"sleep 1\"", "command", "[\"sleep\", \"60\"]"),
            ("entrypoint = \"sh\"", "entrypoint", "[\"sleep\", \"60\"]"),
            ("ports = [\"80:\"]", "ports", "8080:80"),
            ("ports = [0]", "ports", "8080:80"),
            ("platform = \"arm\"", "platform", "linux/arm64"),
            ("registry_login = \"../x\"", "registry_login", "registry login"),
            ("pids = \"many\"", "pids", "whole number"),
            ("shm_size = \"big\"", "shm_size", "write 256MiB"),
            ("memory_reservation = -1", "memory_reservation", "write 256MiB"),
            ("cpu_mode = \"all\"", "cpu_mode", "`quota`"),
            ("ulimits = { nofile = \"x\" }", "ulimits", "1024:4096"),
            ("cap_add = [\"a b\"]", "capability", "NET_ADMIN"),
            ("devices = [\"kvm\"]", "devices", "/dev/kvm"),
            ("gpus = 0", "gpus", "write all"),
            ("health = { type = \"http\" }", "health", "port = \"web\""),
            ("health = { type = \"exec\" }", "health", "pg_isready"),
            ("health = { type = \"image\", port = 1 }", "health", "leave them out"),
            ("health = { type = \"tcp\", port = 1, timeout = 5 }", "timeout", "write 500ms"),
            ("health = { type = \"tcp\", port = 1, retries = -1 }", "retries", "whole number"),
            ("init = 1", "init", "write true or false"),
            ("privileged = \"yes\"", "privileged", "write true or false"),
            ("labels = { a = 1 }", "labels", "in quotes"),
            ("dns = [\"x\"]", "dns", "IP address"),
            ("log = { driver = \"x\", options = { a = 1 } }", "options", "in quotes"),
            ("restart = \"sometimes\"", "restart", "on-failure:5"),
            ("restart = { mode = \"sometimes\" }", "restart", "on-failure:5"),
            ("restart = { mode = \"always\", delay = \"-1s\" }", "delay", "write 500ms"),
            ("restart = { mode = \"always\", attempts = -1 }", "attempts", "whole number"),
            ("migrate = { parallel = \"x\" }", "parallel", "write a whole number from 1"),
            ("migrate = { parallel = 0 }", "parallel", "write a whole number from 1"),
            ("reschedule = { max_delay = 5 }", "max_delay", "write 500ms"),
            ("env = { A = 1 }", "env", "in quotes"),
            ("pull = \"daily\"", "pull", "if-missing"),
            ("name = \"a.b\"", "name", "use a-z"),
            ("constraints = [\"rack = r1\"]", "constraints", "label.KEY"),
            ("constraints = [\"label.rack ~ r1\"]", "constraints", "not-in"),
            ("constraints = [\"node.name matches (\"]", "constraints", "brackets"),
            ("constraints = [\"node.name matches ((a{99}){99}){99}\"]", "constraints", "small"),
            ("constraints = [7]", "constraints", "label.KEY"),
            ("constraints = \"label.gpu exists\"", "constraints", "expected a sequence"),
            ("affinities = [{ match = \"disk\" }]", "affinities", "label.KEY"),
            ("affinities = [{ match = \"label.a exists\", weight = 0 }]", "weight", "1 to 100"),
            ("affinities = [{ match = \"label.a exists\", weight = 101 }]", "weight", "1 to 100"),
            ("affinities = [{ match = \"label.a exists\", weight = nan }]", "weight", "1 to 100"),
            ("affinities = [{ weight = 1 }]", "affinities", "missing field `match`"),
            ("spread = [\"\"]", "spread", "node.datacenter"),
            ("spread = [\"label.\"]", "spread", "label.KEY"),
            ("spread = [\"label.rack:101\"]", "spread", "label.rack:30"),
            ("spread = [{ attribute = \"rack\" }]", "spread", "label.KEY"),
            ("spread = [{ attribute = \"label.a\", weight = 101 }]", "weight", "1 (hardly) to 100"),
            ("anti_affinity = 101", "anti_affinity", "to 100"),
            ("anti_affinity = nan", "anti_affinity", "to 100"),
            ("distinct_hosts = \"yes\"", "distinct_hosts", "write true or false"),
            ("all_at_once = 1", "all_at_once", "write true or false"),
            ("mounts = [\"/data\"]", "mounts", "SOURCE:TARGET[:ro]"),
            ("mounts = [\"./data:/data\"]", "mounts", "SOURCE:TARGET[:ro]"),
            ("mounts = [{ type = \"nfs\", target = \"/x\" }]", "mounts", "`tmpfs`"),
            ("mounts = [{ type = \"bind\", target = \"/x\" }]", "mounts", "source = \"/srv/data\""),
            ("mounts = [{ type = \"volume\", target = \"/x\" }]", "mounts", "source = \"cache\""),
            (
                "mounts = [{ type = \"tmpfs\", target = \"/x\", source = \"a\" }]",
                "mounts",
                "leave it out",
            ),
            (
                "mounts = [{ type = \"volume\", target = \"/x\", source = \"ab\", size = 1 }]",
                "mounts",
                "leave it out",
            ),
            (
                "mounts = [{ type = \"tmpfs\", target = \"/x\", size = \"big\" }]",
                "size",
                "write 256MiB",
            ),
            (
                "mounts = [{ type = \"tmpfs\", target = \"/x\", read_only = 1 }]",
                "read_only",
                "write true or false",
            ),
        ] {
            let text = refused(&with(line));
            assert!(text.contains("line 4"), "{line}: {text}");
            assert!(text.contains(field) && text.contains(cure), "{line}: {text}");
        }
    }

    #[test]
    fn the_rules_for_jobs_hold_before_anything_is_sent() {
        assert!(refused(&with("instances = 0")).contains("specs.main.instances is 0"));
        assert!(refused(&with("instances = 1000000")).contains("specs.main.instances is 1000000"));
        assert!(refused(&with("memory = 0")).contains("specs.main.resources.memory_bytes"));
        assert!(refused("name = \"web\"\ntask = []").contains("specs is empty"));
        let text = refused(&with("mounts = [\"ab:/x\", \"/a:/x/\"]"));
        assert!(text.contains("specs.main.mounts, entry 2"), "{text}");
        assert!(refused(&with("mounts = [\"a,b:/x\"]")).contains("specs.main.mounts, entry 1"));
        let many = vec!["\"label.a exists\""; 33].join(",");
        assert!(refused(&with(&format!("constraints = [{many}]"))).contains("has 33 entries"));
        let text = refused("name = \"web\"\npriority = 1000\ntask = [{ image = \"x\" }]");
        assert!(text.contains("line 2") && text.contains("1 (least) to 100"), "{text}");
        let text = refused("name = \"web\"\n");
        assert!(text.contains("missing field `task`"), "{text}");
    }
}
