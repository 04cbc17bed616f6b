//! The rules for how a container is made, and for the variables in a task's texts.
//!
//! What a node's operator must open (privileges, devices, networks) is judged on the node; here stands what no node
//! could carry out.

use crate::container::{
    CAPABILITIES_USUAL, ContainerSpec, Device, Gpus, LogDriver, Network, Ulimit,
};
use crate::error::ApiError;
use crate::health::Probe;
use crate::spec::TaskSpec;
use crate::variable::{self, VariableError};

use super::{BYTES_MAX, DURATION_MS_MAX, MEMORY_BYTES_MIN, PATH_BYTES_MAX, path, refuse};

/// The most entries of any list or table of a container.
const ENTRIES_MAX: usize = 64;
/// The longest text in one, in bytes.
const TEXT_BYTES_MAX: usize = 4096;
/// The most processes that a container may ask for: what Linux can number.
const PIDS_MAX: u32 = 4_194_304;
/// The limits that a process may have. `rtprio` and `nice` are not among them: they take the cpu from others.
const ULIMITS: [&str; 12] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nofile",
    "nproc",
    "rss",
    "sigpending",
    "stack",
];
/// The signals that a container may be asked to end with.
const SIGNALS: [&str; 10] = [
    "SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGKILL",
    "SIGABRT", "SIGPWR",
];

pub(super) fn check(spec: &TaskSpec) -> Result<(), ApiError> {
    sizes(spec)?;
    identity(spec)?;
    connections(spec)?;
    limits(spec)?;
    powers(spec)?;
    health(spec)?;
    variables(spec)
}

fn field(spec: &TaskSpec, name: &str) -> String {
    format!("specs.{}.container.{name}", spec.name)
}

/// No list is long, and no text is odd.
fn sizes(spec: &TaskSpec) -> Result<(), ApiError> {
    let ContainerSpec {
        labels,
        dns,
        dns_search,
        hosts,
        ulimits,
        cap_add,
        cap_drop,
        devices,
        log,
        ..
    } = &spec.container;
    let options = log.as_ref().map_or(0, |log| log.options.len());
    for (name, count) in [
        ("labels", labels.len()),
        ("dns", dns.len()),
        ("dns_search", dns_search.len()),
        ("hosts", hosts.len()),
        ("ulimits", ulimits.len()),
        ("cap_add", cap_add.len()),
        ("cap_drop", cap_drop.len()),
        ("devices", devices.len()),
        ("log.options", options),
    ] {
        if count > ENTRIES_MAX {
            return refuse(
                &field(spec, name),
                format!("has {count} entries"),
                "at most 64 are allowed",
            );
        }
    }
    let log_texts = log.iter().flat_map(|log| log.options.iter());
    let pairs = labels.iter().chain(log_texts).flat_map(|(key, value)| [key, value]);
    for text in pairs.chain(dns_search).chain(hosts.keys()) {
        if text.len() > TEXT_BYTES_MAX || text.contains('\0') {
            return refuse(
                &field(spec, "labels"),
                "has a text that is too long, or has a zero byte".into(),
                "use at most 4096 bytes in each of its texts",
            );
        }
    }
    Ok(())
}

/// Who and where the command is.
fn identity(spec: &TaskSpec) -> Result<(), ApiError> {
    let container = &spec.container;
    if let Some(folder) = &container.working_dir {
        path(folder).or_else(|problem| {
            refuse(
                &field(spec, "working_dir"),
                problem,
                "name a folder of the container by its absolute path, such as /app",
            )
        })?;
    }
    if let Some(user) = &container.user {
        let legal = |c: char| c.is_ascii_alphanumeric() || "_.-:$".contains(c);
        if user.is_empty() || user.len() > 256 || !user.chars().all(legal) {
            return refuse(
                &field(spec, "user"),
                format!("is {user:?}"),
                "write a user or id, with a group or not: app, 1000, app:staff or 1000:1000",
            );
        }
    }
    if let Some(name) = container.labels.keys().find(|name| {
        name.is_empty() || name.starts_with("longshore.") || name.starts_with("com.docker.")
    }) {
        return refuse(
            &field(spec, "labels"),
            format!("has the label {name:?}"),
            "a label has a name, and none of longshore's or Docker's own",
        );
    }
    if let Some(name) = &container.hostname
        && !name.contains("${")
        && !is_host_name(name)
    {
        return refuse(
            &field(spec, "hostname"),
            format!("is {name:?}"),
            "use 1 to 63 of a-z, A-Z, 0-9, '-' and '.'",
        );
    }
    if let Some(signal) = &container.stop_signal
        && !SIGNALS.contains(&signal.as_str())
    {
        return refuse(
            &field(spec, "stop_signal"),
            format!("is {signal:?}"),
            &format!("use one of {}", SIGNALS.join(", ")),
        );
    }
    Ok(())
}

fn is_host_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    (1..=63).contains(&name.len())
        && name.chars().all(legal)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// What it is connected to.
fn connections(spec: &TaskSpec) -> Result<(), ApiError> {
    let container = &spec.container;
    if let Network::Named(name) = &container.network {
        let legal = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !starts || name.len() > 128 || !name.chars().all(legal) || name == "container" {
            return refuse(
                &field(spec, "network"),
                format!("is {name:?}"),
                "use bridge, none, host, or the name of a network that was made on the node",
            );
        }
    }
    if container.network == Network::None && !spec.ports.is_empty() {
        return refuse(
            &field(spec, "network"),
            "is none, and the task publishes ports".into(),
            "leave the ports out, or use the bridge",
        );
    }
    if container.network == Network::Host {
        if container.hostname.is_some() {
            return refuse(
                &field(spec, "hostname"),
                "is given, and the network is the host's, which has a name".into(),
                "leave the hostname out, or use the bridge",
            );
        }
        if let Some(port) =
            spec.ports.iter().find(|port| !port.is_dynamic() && port.host != port.container)
        {
            return refuse(
                &format!("specs.{}.ports", spec.name),
                format!(
                    "publishes {} as {}, and the network is the host's, where a port is what it is",
                    port.container, port.host
                ),
                "name the same port twice, or let the worker choose one and listen on ${port.NAME}",
            );
        }
    }
    if let Some(name) = container.hosts.keys().find(|name| !is_host_name(name)) {
        return refuse(
            &field(spec, "hosts"),
            format!("has the name {name:?}"),
            "use 1 to 63 of a-z, A-Z, 0-9, '-' and '.'",
        );
    }
    if let Some(domain) =
        container.dns_search.iter().find(|domain| domain.as_str() != "." && !is_host_name(domain))
    {
        return refuse(
            &field(spec, "dns_search"),
            format!("has {domain:?}"),
            "write domains, such as example.org, or \".\" for none",
        );
    }
    Ok(())
}

/// What it may use up.
fn limits(spec: &TaskSpec) -> Result<(), ApiError> {
    let container = &spec.container;
    let memory = spec.resources.memory_bytes;
    if let Some(reserved) = container.memory_reservation_bytes
        && !(MEMORY_BYTES_MIN..=memory).contains(&reserved)
    {
        return refuse(
            &field(spec, "memory_reservation_bytes"),
            format!("is {reserved}, and the task's memory is {memory}"),
            "use at least 6MiB and at most the task's memory",
        );
    }
    if let Some(pids) = container.pids_max
        && !(1..=PIDS_MAX).contains(&pids)
    {
        return refuse(&field(spec, "pids_max"), format!("is {pids}"), "use 1 to 4194304");
    }
    if let Some(size) = container.shm_bytes
        && (size == 0 || size > BYTES_MAX)
    {
        return refuse(
            &field(spec, "shm_bytes"),
            format!("is {size}"),
            "use at least a byte, or leave it out to have 64MiB",
        );
    }
    for (name, Ulimit { soft, hard }) in &container.ulimits {
        if !ULIMITS.contains(&name.as_str()) {
            return refuse(
                &field(spec, "ulimits"),
                format!("has {name:?}"),
                &format!("use some of {}", ULIMITS.join(", ")),
            );
        }
        let height = |limit: i64| if limit == -1 { i64::MAX } else { limit };
        if *soft < -1 || *hard < -1 || height(*soft) > height(*hard) {
            return refuse(
                &field(spec, "ulimits"),
                format!("has {name} from {soft} to {hard}"),
                "use -1 for no limit, and a soft limit that is not above the hard one",
            );
        }
    }
    Ok(())
}

/// What reaches beyond it.
fn powers(spec: &TaskSpec) -> Result<(), ApiError> {
    let container = &spec.container;
    let legal = |name: &str| {
        !name.is_empty()
            && name.len() <= 32
            && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
            && !name.starts_with("CAP_")
    };
    if let Some(name) = container.cap_add.iter().find(|name| !legal(name) || *name == "ALL") {
        return refuse(
            &field(spec, "cap_add"),
            format!("has {name:?}"),
            "write each capability by itself, as NET_ADMIN",
        );
    }
    if let Some(name) = container
        .cap_drop
        .iter()
        .find(|name| *name != "ALL" && !CAPABILITIES_USUAL.contains(&name.as_str()))
    {
        return refuse(
            &field(spec, "cap_drop"),
            format!("has {name:?}, which no container has by itself"),
            &format!("write ALL, or some of {}", CAPABILITIES_USUAL.join(", ")),
        );
    }
    for Device { host, container, permissions } in &container.devices {
        let inside = container.as_ref().unwrap_or(host);
        for text in [host, inside] {
            let is_device = path(text).is_ok() && text.len() < PATH_BYTES_MAX && text.len() > 1;
            if !is_device {
                return refuse(
                    &field(spec, "devices"),
                    format!("has {text:?}"),
                    "name a device by its absolute path, such as /dev/kvm",
                );
            }
        }
        let odd = permissions.is_empty() || permissions.len() > 3;
        if odd || !permissions.chars().all(|c| "rwm".contains(c)) {
            return refuse(
                &field(spec, "devices"),
                format!("has {host} with {permissions:?}"),
                "use some of r (read), w (write) and m (make nodes), such as rw",
            );
        }
    }
    if container.gpus == Some(Gpus::Count(0)) {
        return refuse(&field(spec, "gpus"), "is 0".into(), "leave it out to have none");
    }
    if let Some(LogDriver { driver, .. }) = &container.log
        && (driver.is_empty()
            || driver.len() > 128
            || !driver.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:".contains(c)))
    {
        return refuse(
            &field(spec, "log.driver"),
            format!("is {driver:?}"),
            "use json-file, local or none, or one that the node allows",
        );
    }
    Ok(())
}

/// How its health is asked for.
fn health(spec: &TaskSpec) -> Result<(), ApiError> {
    let Some(check) = &spec.health else { return Ok(()) };
    let name = |field: &str| format!("specs.{}.health.{field}", spec.name);
    let is_port = |port: &String| {
        spec.ports.iter().any(|known| known.label() == *port)
            || port.parse::<u16>().is_ok_and(|number| number > 0)
    };
    match &check.probe {
        Probe::Http { port, .. } | Probe::Tcp { port } if !is_port(port) => {
            return refuse(
                &name("port"),
                format!("is {port:?}"),
                "use the name of one of the task's ports, or the number of a port of the container",
            );
        }
        Probe::Http { .. } | Probe::Tcp { .. } if spec.container.network == Network::None => {
            return refuse(
                &name("port"),
                "is given, and the network is none".into(),
                "use a check of the type exec, or another network",
            );
        }
        Probe::Http { path, .. } => {
            let is_path = path.starts_with('/') && path.len() <= PATH_BYTES_MAX;
            if !is_path || path.contains(|c: char| c.is_control() || c == ' ') {
                return refuse(
                    &name("path"),
                    format!("is {path:?}"),
                    "use a path from / on without spaces, such as /healthz",
                );
            }
        }
        Probe::Exec { command }
            if command.is_empty() || command.iter().any(|word| word.contains('\0')) =>
        {
            return refuse(
                &name("command"),
                "is empty, or has a zero byte".into(),
                "write the words of a command, such as [\"pg_isready\"]",
            );
        }
        Probe::Tcp { .. } | Probe::Exec { .. } | Probe::Image => {}
    }
    for (field, ms) in [("interval_ms", check.interval_ms), ("timeout_ms", check.timeout_ms)] {
        if !(100..=DURATION_MS_MAX).contains(&ms) {
            return refuse(&name(field), format!("is {ms}"), "use at least 100ms");
        }
    }
    if check.start_period_ms > DURATION_MS_MAX {
        return refuse(&name("start_period_ms"), "is over a year".into(), "use at most a year");
    }
    if check.retries == 0 {
        return refuse(&name("retries"), "is 0".into(), "use at least 1");
    }
    Ok(())
}

/// Every variable in a text is one that a node can fill in.
fn variables(spec: &TaskSpec) -> Result<(), ApiError> {
    let container = &spec.container;
    let words = spec.command.iter().chain(spec.entrypoint.iter().flatten());
    let texts = spec
        .env
        .values()
        .map(|text| ("env", text))
        .chain(words.map(|text| ("command", text)))
        .chain(container.labels.values().map(|text| ("container.labels", text)))
        .chain(container.hostname.iter().map(|text| ("container.hostname", text)));
    for (name, text) in texts {
        let known = |name: &str| match name.strip_prefix("port.") {
            Some(port) => spec.ports.iter().any(|known| known.label() == port).then(String::new),
            None => variable::is_known(name).then(String::new),
        };
        if let Err(error) = variable::fill_in(text, known) {
            let cure = match &error {
                VariableError::Unknown(name) if name.starts_with("port.") => {
                    "name the port in the task's ports, as web=8080:80 or web=80".to_owned()
                }
                _ => "use node.name, node.datacenter, node.label.KEY, task.id, task.index, task.attempt, task.name, \
                      job.name, job.namespace, job.version or port.NAME; write $${ for what is meant literally"
                    .to_owned(),
            };
            return refuse(
                &format!("specs.{}.{name}", spec.name),
                format!("cannot be filled in: {error}"),
                &cure,
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::CpuMode;
    use crate::health::HealthCheck;
    use crate::spec::{Port, Protocol};

    fn spec(container: ContainerSpec) -> TaskSpec {
        TaskSpec { container, ..TaskSpec::new("main".parse().unwrap(), "x") }
    }

    fn usual() -> ContainerSpec {
        ContainerSpec::default()
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn port(host: u16, name: Option<&str>) -> Port {
        let name = name.map(str::to_owned);
        Port { host, container: 80, protocol: Protocol::Tcp, host_ip: None, name }
    }

    #[test]
    fn what_can_be_carried_out_is_taken() {
        let whole = ContainerSpec {
            platform: Some("linux/arm64".parse().unwrap()),
            registry_login: Some("team".parse().unwrap()),
            working_dir: Some("/app".into()),
            user: Some("1000:staff".into()),
            labels: [("team".to_owned(), "${job.name}-${task.index}".to_owned())].into(),
            hostname: Some("web-${task.index}".into()),
            network: Network::Named("backend".into()),
            dns: vec!["9.9.9.9".parse().unwrap()],
            dns_search: texts(&["example.org", "."]),
            hosts: [("db".to_owned(), "10.0.0.1".parse().unwrap())].into(),
            cpu_mode: CpuMode::Shares,
            memory_reservation_bytes: Some(64 << 20),
            pids_max: Some(50),
            shm_bytes: Some(1 << 20),
            ulimits: [("nofile".to_owned(), Ulimit { soft: 1024, hard: -1 })].into(),
            cap_add: texts(&["NET_ADMIN"]),
            cap_drop: texts(&["ALL"]),
            new_privileges: true,
            privileged: true,
            read_only: true,
            devices: vec![Device {
                host: "/dev/kvm".into(),
                container: None,
                permissions: "rwm".into(),
            }],
            gpus: Some(Gpus::All),
            init: true,
            stop_signal: Some("SIGQUIT".into()),
            log: Some(LogDriver { driver: "local".into(), options: Default::default() }),
        };
        let mut spec = spec(whole);
        spec.ports = vec![port(Port::DYNAMIC, Some("web")), port(8080, None)];
        spec.env = [("PORT".to_owned(), "${port.web} ${port.80} ${HOME}".to_owned())].into();
        check(&spec).unwrap();
    }

    #[test]
    fn what_no_node_could_carry_out_is_refused_with_its_field() {
        let device = |host: &str, permissions: &str| ContainerSpec {
            devices: vec![Device {
                host: host.into(),
                container: None,
                permissions: permissions.into(),
            }],
            ..usual()
        };
        let ulimit = |name: &str, soft, hard| ContainerSpec {
            ulimits: [(name.to_owned(), Ulimit { soft, hard })].into(),
            ..usual()
        };
        let some = |text: &str| Some(text.to_owned());
        for (container, field) in [
            (ContainerSpec { working_dir: some("app"), ..usual() }, "working_dir"),
            (ContainerSpec { user: some("a b"), ..usual() }, "user"),
            (
                ContainerSpec { labels: [("longshore.task".into(), "x".into())].into(), ..usual() },
                "labels",
            ),
            (ContainerSpec { hostname: some("a_b"), ..usual() }, "hostname"),
            (ContainerSpec { hostname: some("a"), network: Network::Host, ..usual() }, "hostname"),
            (ContainerSpec { stop_signal: some("TERM"), ..usual() }, "stop_signal"),
            (ContainerSpec { network: Network::Named("container:x".into()), ..usual() }, "network"),
            (
                ContainerSpec { hosts: [("".into(), "::1".parse().unwrap())].into(), ..usual() },
                "hosts",
            ),
            (ContainerSpec { dns_search: texts(&["a b"]), ..usual() }, "dns_search"),
            (
                ContainerSpec { memory_reservation_bytes: Some(1 << 40), ..usual() },
                "memory_reservation_bytes",
            ),
            (ContainerSpec { pids_max: Some(0), ..usual() }, "pids_max"),
            (ContainerSpec { shm_bytes: Some(0), ..usual() }, "shm_bytes"),
            (ulimit("rtprio", 1, 1), "ulimits"),
            (ulimit("nofile", 2, 1), "ulimits"),
            (ulimit("nofile", -1, 1), "ulimits"),
            (ContainerSpec { cap_add: texts(&["CAP_SYS_ADMIN"]), ..usual() }, "cap_add"),
            (ContainerSpec { cap_add: texts(&["ALL"]), ..usual() }, "cap_add"),
            (ContainerSpec { cap_drop: texts(&["SYS_ADMIN"]), ..usual() }, "cap_drop"),
            (device("kvm", "rw"), "devices"),
            (device("/dev/../etc", "rw"), "devices"),
            (device("/dev/kvm", "x"), "devices"),
            (ContainerSpec { gpus: Some(Gpus::Count(0)), ..usual() }, "gpus"),
            (ContainerSpec { dns_search: texts(&["a"; 65]), ..usual() }, "dns_search"),
        ] {
            let error = check(&spec(container)).unwrap_err();
            let wanted = format!("specs.main.container.{field} ");
            assert!(error.message.starts_with(&wanted), "{}", error.message);
            assert!(error.hint.is_some());
        }
    }

    #[test]
    fn a_variable_without_a_value_is_refused_before_it_is_stored() {
        let mut wish = spec(usual());
        wish.env = [("A".to_owned(), "${port.web}".to_owned())].into();
        assert!(check(&wish).unwrap_err().message.contains("${port.web}"));
        wish.ports = vec![port(Port::DYNAMIC, Some("web"))];
        check(&wish).unwrap();
        wish.command = texts(&["echo", "${task.number}"]);
        let error = check(&wish).unwrap_err();
        assert!(error.message.contains("${task.number}"), "{error}");
    }

    #[test]
    fn a_check_that_could_never_be_asked_is_refused() {
        let http = |port: &str, path: &str| {
            HealthCheck::usual(Probe::Http { port: port.into(), path: path.into() })
        };
        let exec = || HealthCheck::usual(Probe::Exec { command: texts(&["true"]) });
        let empty = HealthCheck::usual(Probe::Exec { command: vec![] });
        let refused = |check, network| {
            let container = ContainerSpec { network, ..usual() };
            check_error(&TaskSpec { health: Some(check), ..spec(container) })
        };
        for (check, network, field) in [
            (http("web", "/"), Network::Bridge, "port"),
            (http("80", "/"), Network::None, "port"),
            (http("80", "x"), Network::Bridge, "path"),
            (http("80", "/a b"), Network::Bridge, "path"),
            (empty, Network::Bridge, "command"),
            (HealthCheck { interval_ms: 10, ..exec() }, Network::Bridge, "interval_ms"),
            (HealthCheck { timeout_ms: 0, ..exec() }, Network::Bridge, "timeout_ms"),
            (HealthCheck { retries: 0, ..exec() }, Network::Bridge, "retries"),
        ] {
            let message = refused(check, network).unwrap_or_default();
            assert!(
                message.starts_with(&format!("specs.main.health.{field} ")),
                "{field}: {message}"
            );
        }
        assert_eq!(refused(exec(), Network::None), None);
        assert_eq!(refused(http("80", "/"), Network::Bridge), None);
    }

    fn check_error(spec: &TaskSpec) -> Option<String> {
        check(spec).err().map(|error| error.message)
    }

    #[test]
    fn ports_and_networks_agree() {
        let mut none = spec(ContainerSpec { network: Network::None, ..usual() });
        none.ports = vec![port(8080, None)];
        assert!(check(&none).unwrap_err().message.contains("publishes ports"));
        let mut host = spec(ContainerSpec { network: Network::Host, ..usual() });
        host.ports = vec![port(8080, None)];
        assert!(check(&host).unwrap_err().message.contains("publishes 80 as 8080"));
        host.ports = vec![port(80, None), port(Port::DYNAMIC, Some("web"))];
        check(&host).unwrap();
    }
}
