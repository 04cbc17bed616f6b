//! What a task's container looks like to Docker: its limits, its ports, and how it is hardened.
//!
//! A container gets no privileges that its image does not need in the usual case: no new privileges, the
//! short list of capabilities, a limit of processes, never `--privileged`. Docker's own restarts are off,
//! because restarts are the worker's and are counted.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, PortBinding, RestartPolicy,
    RestartPolicyNameEnum,
};
use longshore_core::agent::{StartContainer, labels};

/// How many processes and threads one container may have.
const PIDS_MAX: i64 = 1024;
/// The capabilities that are kept: Docker's list without raw sockets and device nodes.
const CAPABILITIES: [&str; 12] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Three files of ten megabytes are the most that one container's logs take.
const LOG_FILE_SIZE_MAX: &str = "10m";
const LOG_FILES_MAX: &str = "3";

/// The body of Docker's create call. `cores` is what the machine has: Docker refuses a limit above it.
pub(super) fn create_body(
    start: &StartContainer,
    cores: u64,
    mounts: Vec<Mount>,
) -> ContainerCreateBody {
    let run = &start.run;
    let spec = &run.spec;
    let memory_bytes = signed(spec.resources.memory_bytes);
    let cpu_millis = spec.resources.cpu_millis.min(cores.saturating_mul(1_000));
    let mut exposed_ports = Vec::new();
    let mut port_bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in &spec.ports {
        let key = format!("{}/{}", port.container, port.protocol.as_str());
        let binding = PortBinding {
            host_ip: port.host_ip.map(|ip| ip.to_string()),
            host_port: Some(port.host.to_string()),
        };
        port_bindings.entry(key.clone()).or_default().get_or_insert_default().push(binding);
        if !exposed_ports.contains(&key) {
            exposed_ports.push(key);
        }
    }
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint: spec.entrypoint.clone(),
        cmd: (!spec.command.is_empty()).then(|| spec.command.clone()),
        env: Some(environment(start)),
        labels: Some(start.labels.clone().into_iter().collect()),
        exposed_ports: Some(exposed_ports),
        stop_timeout: Some(signed(spec.stop_grace_ms.div_ceil(1_000))),
        host_config: Some(HostConfig {
            nano_cpus: Some(signed(cpu_millis.saturating_mul(1_000_000))),
            memory: Some(memory_bytes),
            // As much as memory alone: no swap.
            memory_swap: Some(memory_bytes),
            pids_limit: Some(PIDS_MAX),
            port_bindings: Some(port_bindings),
            mounts: (!mounts.is_empty()).then_some(mounts),
            privileged: Some(false),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some(HashMap::from([
                    ("max-size".to_owned(), LOG_FILE_SIZE_MAX.to_owned()),
                    ("max-file".to_owned(), LOG_FILES_MAX.to_owned()),
                ])),
            }),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// The user's variables, and after them (the last one counts) who the container is.
fn environment(start: &StartContainer) -> Vec<String> {
    let run = &start.run;
    let node = start.labels.get(labels::NODE).map(String::as_str).unwrap_or_default();
    let users = run.spec.env.iter().map(|(key, value)| format!("{key}={value}"));
    users
        .chain([
            format!("LONGSHORE_TASK_ID={}", start.task),
            format!("LONGSHORE_NAMESPACE={}", run.namespace),
            format!("LONGSHORE_JOB={}", run.job),
            format!("LONGSHORE_SPEC={}", run.spec.name),
            format!("LONGSHORE_SLOT={}", run.slot),
            format!("LONGSHORE_NODE={node}"),
            format!("LONGSHORE_ATTEMPT={}", start.attempt),
        ])
        .collect()
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
