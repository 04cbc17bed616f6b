//! Small texts in options and job files: variables, ports, policies, labels, capacities.

use longshore_proto::quantity::{self, QuantityError};
use longshore_proto::spec::{Port, Protocol, RestartMode, RestartPolicy};
use longshore_worker::CapacityOverride;

/// Why a text cannot be read. Says what is wrong, and the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    /// Not an environment variable.
    #[error("{0:?} is no variable; write NAME=VALUE, or NAME to take it from this environment")]
    Variable(String),
    /// Not a port to publish.
    #[error(
        "{0:?} is no port to publish; write [IP:]HOST:CONTAINER[/tcp|/udp] with ports 1 to 65535, such as 8080:80"
    )]
    Publish(String),
    /// Not a restart policy.
    #[error("{0:?} is no restart policy; write never, on-failure, on-failure:5 or always")]
    Restart(String),
    /// Not a label.
    #[error("{0:?} is no label; write NAME=VALUE")]
    Label(String),
    /// Not a number of instances.
    #[error("{0:?} is no number of instances; use 1 to 100000")]
    Instances(String),
    /// Not a capacity.
    #[error("{0:?} is no capacity; write cpu=4,memory=8GiB,disk=100GiB or a part of it")]
    Capacity(String),
    /// A capacity's part is said twice.
    #[error("{0} is said twice; say it once")]
    Twice(&'static str),
    /// A quantity within it cannot be read.
    #[error(transparent)]
    Quantity(#[from] QuantityError),
}

/// An environment variable of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    /// Its name.
    pub(crate) name: String,
    /// Its value; absent means the one in this program's environment.
    pub(crate) value: Option<String>,
}

/// Reads `NAME=VALUE` or `NAME`.
pub(crate) fn variable(text: &str) -> Result<Variable, ParseError> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if name.is_empty() || text.contains('\0') {
        return Err(ParseError::Variable(text.to_owned()));
    }
    Ok(Variable { name: name.to_owned(), value })
}

/// Reads `[IP:]HOST:CONTAINER[/tcp|/udp]`; an IPv6 address stands in brackets.
pub(crate) fn publish(text: &str) -> Result<Port, ParseError> {
    let refuse = || ParseError::Publish(text.to_owned());
    let (addresses, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((addresses, "tcp")) => (addresses, Protocol::Tcp),
        Some((addresses, "udp")) => (addresses, Protocol::Udp),
        Some(_) => return Err(refuse()),
    };
    let (rest, container) = addresses.rsplit_once(':').ok_or_else(refuse)?;
    let (host_ip, host) = match rest.rsplit_once(':') {
        None => (None, rest),
        Some((ip, host)) => {
            let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
            (Some(bare.parse().map_err(|_| refuse())?), host)
        }
    };
    let port = |digits: &str| match digits.parse::<u16>() {
        Ok(port) if port > 0 && !digits.starts_with('+') => Ok(port),
        _ => Err(refuse()),
    };
    Ok(Port { host: port(host)?, container: port(container)?, protocol, host_ip })
}

/// Reads `never`, `on-failure`, `on-failure:N` or `always`.
pub(crate) fn restart(text: &str) -> Result<RestartPolicy, ParseError> {
    let refuse = || ParseError::Restart(text.to_owned());
    match text.split_once(':') {
        None => match text {
            "never" => Ok(RestartPolicy::usual(RestartMode::Never)),
            "on-failure" => Ok(RestartPolicy::usual(RestartMode::OnFailure)),
            "always" => Ok(RestartPolicy::usual(RestartMode::Always)),
            _ => Err(refuse()),
        },
        Some(("on-failure", attempts)) => {
            let attempts = attempts.parse().map_err(|_| refuse())?;
            Ok(RestartPolicy { attempts, ..RestartPolicy::usual(RestartMode::OnFailure) })
        }
        Some(_) => Err(refuse()),
    }
}

/// Reads a number of instances; whether it is small enough, the rules for jobs tell.
pub(crate) fn instances(text: &str) -> Result<u32, ParseError> {
    text.parse().map_err(|_| ParseError::Instances(text.to_owned()))
}

/// What an operator says of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    /// What is said.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: String,
}

/// Reads `NAME=VALUE`.
pub(crate) fn label(text: &str) -> Result<Label, ParseError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            Ok(Label { name: name.to_owned(), value: value.to_owned() })
        }
        _ => Err(ParseError::Label(text.to_owned())),
    }
}

/// Reads `cpu=CORES,memory=SIZE,disk=SIZE` or a part of it.
pub(crate) fn capacity(text: &str) -> Result<CapacityOverride, ParseError> {
    let mut capacity = CapacityOverride::default();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let before = match part.split_once('=') {
            Some(("cpu", value)) => {
                ("cpu", capacity.cpu_millis.replace(quantity::parse_cpu_millis(value)?))
            }
            Some(("memory", value)) => {
                ("memory", capacity.memory_bytes.replace(quantity::parse_bytes(value)?))
            }
            Some(("disk", value)) => {
                ("disk", capacity.disk_bytes.replace(quantity::parse_bytes(value)?))
            }
            _ => return Err(ParseError::Capacity(part.to_owned())),
        };
        if let (name, Some(_)) = before {
            return Err(ParseError::Twice(name));
        }
    }
    Ok(capacity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_set_or_taken() {
        assert_eq!(variable("A=b=c"), Ok(Variable { name: "A".into(), value: Some("b=c".into()) }));
        assert_eq!(variable("A="), Ok(Variable { name: "A".into(), value: Some(String::new()) }));
        assert_eq!(variable("A"), Ok(Variable { name: "A".into(), value: None }));
        for bad in ["", "=x", "A=\0"] {
            assert!(variable(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn ports_are_read_as_docker_writes_them() {
        let tcp =
            |host, container| Port { host, container, protocol: Protocol::Tcp, host_ip: None };
        assert_eq!(publish("8080:80"), Ok(tcp(8080, 80)));
        assert_eq!(publish("8080:80/tcp"), Ok(tcp(8080, 80)));
        assert_eq!(publish("53:53/udp"), Ok(Port { protocol: Protocol::Udp, ..tcp(53, 53) }));
        assert_eq!(
            publish("127.0.0.1:8080:80"),
            Ok(Port { host_ip: Some("127.0.0.1".parse().unwrap()), ..tcp(8080, 80) })
        );
        assert_eq!(
            publish("[::1]:8080:80"),
            Ok(Port { host_ip: Some("::1".parse().unwrap()), ..tcp(8080, 80) })
        );
    }

    #[test]
    fn odd_ports_are_refused_with_the_cure() {
        for bad in [
            "",
            "80",
            "0:80",
            "80:0",
            "80:65536",
            "-1:80",
            "+1:80",
            "a:80",
            "80:80/sctp",
            "x:1:2",
            ":",
        ] {
            let text = publish(bad).unwrap_err().to_string();
            assert!(text.contains("such as 8080:80"), "{bad}: {text}");
        }
    }

    #[test]
    fn restart_policies_are_read() {
        assert_eq!(restart("never"), Ok(RestartPolicy::usual(RestartMode::Never)));
        assert_eq!(restart("always"), Ok(RestartPolicy::usual(RestartMode::Always)));
        assert_eq!(restart("on-failure:7").unwrap().attempts, 7);
        assert_eq!(restart("on-failure").unwrap().mode, RestartMode::OnFailure);
        for bad in ["", "no", "always:3", "on-failure:", "on-failure:-1", "unless-stopped"] {
            assert!(restart(bad).unwrap_err().to_string().contains("on-failure:5"), "{bad}");
        }
    }

    #[test]
    fn capacity_is_given_in_part_or_whole() {
        assert_eq!(capacity(""), Ok(CapacityOverride::default()));
        assert_eq!(
            capacity("cpu=0.5, memory=1GiB"),
            Ok(CapacityOverride {
                cpu_millis: Some(500),
                memory_bytes: Some(1 << 30),
                disk_bytes: None,
            })
        );
        for bad in ["cpu", "gpu=1", "cpu=-1", "memory=10XB", "cpu=1,cpu=2"] {
            assert!(capacity(bad).is_err(), "{bad} must be refused");
        }
    }

    #[test]
    fn labels_need_a_name_and_a_value() {
        assert_eq!(label("a=b=c"), Ok(Label { name: "a".into(), value: "b=c".into() }));
        assert_eq!(label("a="), Ok(Label { name: "a".into(), value: String::new() }));
        assert!(label("a").is_err() && label("=b").is_err());
    }
}
