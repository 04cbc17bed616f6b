//! What a task's container looks like to Docker: its limits, its ports, and how it is hardened.
//!
//! A container gets no privileges that its image does not need in the usual case: no new privileges, the
//! short list of capabilities, a limit of processes, never `--privileged` unless the node's operator has opened
//! that. Docker's own restarts are off, because restarts are the worker's and are counted.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, DeviceMapping, DeviceRequest, HealthConfig, HostConfig,
    HostConfigLogConfig, Mount, PortBinding, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};
use longshore_core::agent::StartContainer;
use longshore_proto::container::{ContainerSpec, CpuMode, Gpus, LogDriver, Network, capabilities};
use longshore_proto::health::Probe;
use longshore_proto::node::fencing_token;
use longshore_proto::spec::Port;
use longshore_proto::variable::fill_in;

/// Three files of ten megabytes are the most that one container's logs take.
const LOG_FILE_SIZE_MAX: &str = "10m";
const LOG_FILES_MAX: &str = "3";
/// What Docker's shares of the cpu are counted from: so many are one core's.
const SHARES_OF_A_CORE: u64 = 1_024;
/// The range of shares that the kernel takes.
const SHARES: (u64, u64) = (2, 262_144);

/// What a container is made on.
#[derive(Debug, Clone, Default)]
pub(super) struct Machine {
    /// What it has: Docker refuses a limit above it.
    pub(super) cores: u64,
    /// How many processes a container may have unless it says otherwise.
    pub(super) pids_max: u32,
    /// What variables of the node stand for.
    pub(super) variables: BTreeMap<String, String>,
}

/// The body of Docker's create call, or what in the task cannot be filled in.
pub(super) fn create_body(
    start: &StartContainer,
    machine: &Machine,
    mounts: Vec<Mount>,
) -> Result<ContainerCreateBody, String> {
    let spec = &start.run.spec;
    let container = &spec.container;
    let fill = |text: &String| {
        fill_in(text, |name| value(start, machine, name))
            .map(std::borrow::Cow::into_owned)
            .map_err(|error| format!("{text:?} cannot be filled in: {error}"))
    };
    let fill_all = |texts: &[String]| texts.iter().map(fill).collect::<Result<Vec<_>, _>>();
    let mut labels: HashMap<String, String> = HashMap::new();
    for (name, text) in &container.labels {
        labels.insert(name.clone(), fill(text)?);
    }
    // Ours last: no task may pass for another.
    labels.extend(start.labels.clone());
    let mut env = Vec::new();
    for (name, text) in &spec.env {
        env.push(format!("{name}={}", fill(text)?));
    }
    env.extend(environment(start, machine));
    let (exposed_ports, port_bindings) = ports(&spec.ports);
    Ok(ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint: spec.entrypoint.as_deref().map(fill_all).transpose()?,
        cmd: (!spec.command.is_empty()).then(|| fill_all(&spec.command)).transpose()?,
        env: Some(env),
        labels: Some(labels),
        working_dir: container.working_dir.clone(),
        user: container.user.clone(),
        hostname: container.hostname.as_ref().map(fill).transpose()?,
        exposed_ports: Some(exposed_ports),
        // A check of ours takes the place of the image's, which would cost a process each time for nothing.
        healthcheck: spec.health.as_ref().filter(|check| check.probe != Probe::Image).map(|_| {
            HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }
        }),
        stop_signal: container.stop_signal.clone(),
        stop_timeout: Some(signed(spec.stop_grace_ms.div_ceil(1_000))),
        host_config: Some(HostConfig {
            port_bindings: (container.network != Network::Host).then_some(port_bindings),
            mounts: (!mounts.is_empty()).then_some(mounts),
            ..host_config(start, machine)
        }),
        ..ContainerCreateBody::default()
    })
}

/// The part of the body that says what the container may use and do.
fn host_config(start: &StartContainer, machine: &Machine) -> HostConfig {
    let spec = &start.run.spec;
    let container = &spec.container;
    let memory_bytes = signed(spec.resources.memory_bytes);
    let cpu_millis = spec.resources.cpu_millis.min(machine.cores.saturating_mul(1_000));
    let shares = spec.resources.cpu_millis.saturating_mul(SHARES_OF_A_CORE) / 1_000;
    let texts = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    HostConfig {
        nano_cpus: (container.cpu_mode == CpuMode::Quota)
            .then(|| signed(cpu_millis.saturating_mul(1_000_000))),
        // When every task wants the cpu at once, each gets it by what it was promised.
        cpu_shares: Some(signed(shares.clamp(SHARES.0, SHARES.1))),
        memory: Some(memory_bytes),
        // As much as memory alone: no swap.
        memory_swap: Some(memory_bytes),
        memory_reservation: container.memory_reservation_bytes.map(signed),
        shm_size: container.shm_bytes.map(signed),
        pids_limit: Some(i64::from(container.pids_max.unwrap_or(machine.pids_max))),
        ulimits: ulimits(container),
        network_mode: Some(container.network.as_str().to_owned()),
        dns: texts(&container.dns.iter().map(ToString::to_string).collect::<Vec<_>>()),
        dns_search: texts(&container.dns_search),
        extra_hosts: texts(
            &container.hosts.iter().map(|(name, ip)| format!("{name}:{ip}")).collect::<Vec<_>>(),
        ),
        privileged: Some(container.privileged),
        security_opt: (!container.new_privileges).then(|| vec!["no-new-privileges".to_owned()]),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(capabilities(container)),
        readonly_rootfs: Some(container.read_only),
        devices: devices(container),
        device_requests: container.gpus.map(|gpus| vec![gpu_request(gpus)]),
        init: container.init.then_some(true),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(log_config(container.log.as_ref())),
        ..HostConfig::default()
    }
}

/// Docker's two lists of ports.
fn ports(ports: &[Port]) -> (Vec<String>, HashMap<String, Option<Vec<PortBinding>>>) {
    let mut exposed = Vec::new();
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in ports {
        let key = format!("{}/{}", port.container, port.protocol.as_str());
        let binding = PortBinding {
            host_ip: port.host_ip.map(|ip| ip.to_string()),
            host_port: Some(port.host.to_string()),
        };
        bindings.entry(key.clone()).or_default().get_or_insert_default().push(binding);
        if !exposed.contains(&key) {
            exposed.push(key);
        }
    }
    (exposed, bindings)
}

fn ulimits(container: &ContainerSpec) -> Option<Vec<ResourcesUlimits>> {
    let limits = container.ulimits.iter().map(|(name, limit)| ResourcesUlimits {
        name: Some(name.clone()),
        soft: Some(limit.soft),
        hard: Some(limit.hard),
    });
    (!container.ulimits.is_empty()).then(|| limits.collect())
}

fn devices(container: &ContainerSpec) -> Option<Vec<DeviceMapping>> {
    let devices = container.devices.iter().map(|device| DeviceMapping {
        path_on_host: Some(device.host.clone()),
        path_in_container: Some(device.container.clone().unwrap_or_else(|| device.host.clone())),
        cgroup_permissions: Some(device.permissions.clone()),
    });
    (!container.devices.is_empty()).then(|| devices.collect())
}

/// What `docker run --gpus` asks for.
fn gpu_request(gpus: Gpus) -> DeviceRequest {
    DeviceRequest {
        count: Some(match gpus {
            Gpus::All => -1,
            Gpus::Count(count) => i64::from(count),
        }),
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..DeviceRequest::default()
    }
}

/// Where the output goes; files have a limit unless the task sets its own.
fn log_config(wish: Option<&LogDriver>) -> HostConfigLogConfig {
    let driver = wish.map_or("json-file", |log| log.driver.as_str());
    let mut options: HashMap<String, String> = HashMap::new();
    if matches!(driver, "json-file" | "local") {
        options.insert("max-size".to_owned(), LOG_FILE_SIZE_MAX.to_owned());
        options.insert("max-file".to_owned(), LOG_FILES_MAX.to_owned());
    }
    options.extend(wish.into_iter().flat_map(|log| log.options.clone()));
    HostConfigLogConfig { typ: Some(driver.to_owned()), config: Some(options) }
}

/// What a variable of a task's texts stands for on this node.
fn value(start: &StartContainer, machine: &Machine, name: &str) -> Option<String> {
    let run = &start.run;
    Some(match name {
        "task.id" => start.task.to_string(),
        "task.index" => run.slot.to_string(),
        "task.attempt" => start.attempt.to_string(),
        "task.epoch" => fencing_token(run.epoch?, start.attempt)?.to_string(),
        "task.name" => run.spec.name.to_string(),
        "job.name" => run.job.to_string(),
        "job.namespace" => run.namespace.to_string(),
        "job.version" => run.version.to_string(),
        _ => match name.strip_prefix("port.") {
            Some(label) => {
                run.spec.ports.iter().find(|port| port.label() == label)?.host.to_string()
            }
            // A label that this node does not have is empty, as in a constraint it is absent.
            None if name.starts_with("node.label.") => {
                let set =
                    name.strip_prefix("node.label.").and_then(|label| run.node_labels.get(label));
                set.or_else(|| machine.variables.get(name)).cloned().unwrap_or_default()
            }
            None => machine.variables.get(name)?.clone(),
        },
    })
}

/// Who the container is, after the user's variables: of two with one name the last counts.
fn environment(start: &StartContainer, machine: &Machine) -> Vec<String> {
    let run = &start.run;
    let node = machine.variables.get("node.name").map(String::as_str).unwrap_or_default();
    let mut variables = vec![
        format!("LONGSHORE_TASK_ID={}", start.task),
        format!("LONGSHORE_NAMESPACE={}", run.namespace),
        format!("LONGSHORE_JOB={}", run.job),
        format!("LONGSHORE_SPEC={}", run.spec.name),
        format!("LONGSHORE_SLOT={}", run.slot),
        format!("LONGSHORE_NODE={node}"),
        format!("LONGSHORE_ATTEMPT={}", start.attempt),
    ];
    let token = run.epoch.and_then(|epoch| fencing_token(epoch, start.attempt));
    variables.extend(token.map(|token| format!("LONGSHORE_EPOCH={token}")));
    variables.extend(run.spec.ports.iter().map(|port| {
        let label = port.label().to_uppercase().replace('-', "_");
        format!("LONGSHORE_PORT_{label}={}", port.host)
    }));
    variables
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
