//! Job files: TOML (or JSON) in people's units. Every refusal names the field, where it stands, and the cure.

#[cfg(test)]
mod docs;
mod field;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use longshore_proto::constraint::Constraint;
use longshore_proto::container::{ContainerSpec, CpuMode, LogDriver, Network};
use longshore_proto::health::{HealthCheck, Probe};
use longshore_proto::name::{Datacenter, JobName, LoginName, Namespace, SpecName};
use longshore_proto::platform::Platform;
use longshore_proto::spec::{
    Affinity, ExchangeOrder, JobSpec, JobType, MigratePolicy, Mount, MountSource, OnFailure,
    OnNodeLoss, PullPolicy, ReschedulePolicy, Resources, RestartPolicy, SchedulerKind, Spread,
    TaskSpec, UpdatePolicy,
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
    update: Option<Update>,
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
    order: ExchangeOrder,
    #[serde(default, deserialize_with = "field::parallel")]
    parallel: Option<u32>,
}

impl From<Migrate> for MigratePolicy {
    fn from(table: Migrate) -> Self {
        let usual = Self::usual();
        Self { order: table.order, parallel: table.parallel.unwrap_or(usual.parallel) }
    }
}

/// `{ order = "start-first", parallel = 2 }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    order: Option<ExchangeOrder>,
    #[serde(default, deserialize_with = "field::parallel")]
    parallel: Option<u32>,
    #[serde(default, deserialize_with = "field::healthy_for")]
    healthy_for: Option<u64>,
    #[serde(default)]
    on_failure: OnFailure,
    #[serde(default, deserialize_with = "field::progress_deadline")]
    progress_deadline: Option<u64>,
}

impl From<Update> for UpdatePolicy {
    fn from(table: Update) -> Self {
        let usual = Self::usual();
        Self {
            order: table.order.unwrap_or(usual.order),
            parallel: table.parallel.unwrap_or(usual.parallel),
            healthy_for_ms: table.healthy_for.unwrap_or(usual.healthy_for_ms),
            on_failure: table.on_failure,
            progress_deadline_ms: table.progress_deadline.unwrap_or(usual.progress_deadline_ms),
        }
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
            update: self.update.map(UpdatePolicy::from),
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
