//! What Docker's errors mean, in words that help: the daemon is away, the image is missing, a port is taken.
//!
//! Docker tells most of it in free text only, so texts are looked at here and nowhere else; one that is not
//! known is passed on as it is.

use std::error::Error as _;
use std::io;

use bollard::errors::Error;
use longshore_proto::spec::Port;

use super::RuntimeError;

/// The longest text of Docker's that is passed on, in bytes.
const TEXT_BYTES_MAX: usize = 300;

/// What a full disk is to the kernel, and to whoever passes it on.
const DISK_FULL: &str = "no space left on device";
/// What it is to an operator.
const DISK_FULL_TOLD: &str = "the disk that Docker uses on this node is full; make room on it";

/// The HTTP status of a refusal.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Whether a container has the name already. Podman tells it with another status.
pub(super) fn is_name_taken(error: &Error) -> bool {
    match error {
        Error::DockerResponseServerError { status_code, message } => {
            *status_code == 409
                || *status_code == 500
                    && message.contains("container name")
                    && message.contains("is already in use")
        }
        _ => false,
    }
}

/// Whether a container cannot be made or started because the sandbox that it joins is gone, or does not run.
pub(super) fn is_sandbox_lost(error: &Error) -> bool {
    let Error::DockerResponseServerError { message, .. } = error else { return false };
    ["No such container", "cannot join network of", "/ns/net", "network namespace"]
        .iter()
        .any(|text| message.contains(text))
}

/// Any error of Docker's at an address, while `doing` something.
pub(super) fn explain(error: &Error, host: &str, doing: &str) -> RuntimeError {
    match error {
        Error::DockerResponseServerError { message, .. }
        | Error::DockerStreamError { error: message }
            if message.contains(DISK_FULL) =>
        {
            RuntimeError::Refused(format!("{doing} failed: {DISK_FULL_TOLD}"))
        }
        Error::DockerResponseServerError { message, .. }
        | Error::DockerStreamError { error: message } => {
            RuntimeError::Refused(format!("{doing} failed: {}", shorten(message)))
        }
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } => RuntimeError::Refused(
            format!("{doing} failed: Docker's answer cannot be read ({error})"),
        ),
        Error::UnsupportedURISchemeError { uri } => RuntimeError::Away(format!(
            "Docker's address {uri} is not supported; use a socket: unix:///var/run/docker.sock"
        )),
        Error::SocketNotFoundError(_) => RuntimeError::Away(format!(
            "Docker does not answer at {host}: there is no such socket; is the daemon installed and running?"
        )),
        _ if kind(error) == Some(io::ErrorKind::PermissionDenied) => RuntimeError::Away(format!(
            "Docker at {host} refuses this user: add it to the group docker, or run the worker as root"
        )),
        _ => RuntimeError::Away(format!(
            "Docker does not answer at {host}: is the daemon running? ({error})"
        )),
    }
}

/// Why an image cannot be had. What its registry says of it is final; whatever else went wrong may pass.
pub(super) fn explain_pull(
    error: &Error,
    host: &str,
    image: &str,
    has_login: bool,
) -> RuntimeError {
    let (Error::DockerResponseServerError { message: text, .. }
    | Error::DockerStreamError { error: text }) = error
    else {
        return explain(error, host, &format!("pulling {image}"));
    };
    let login = if has_login {
        "the registry refuses this node's login for it"
    } else {
        "the registry wants a login for it, which this node has not: give its worker one with --registry-auth"
    };
    let has = |needles: &[&str]| needles.iter().any(|needle| text.to_lowercase().contains(needle));
    let forbid = |reason: String| RuntimeError::Forbidden(reason);
    if has(&["no matching manifest", "does not match the specified platform"]) {
        return forbid(format!(
            "its registry has no image {image} for that platform; check what it is built for"
        ));
    }
    // As containerd says it, where that keeps Docker's images.
    let is_unresolved = has(&["failed to resolve reference"])
        && text.trim_end().to_lowercase().ends_with(": not found");
    if is_unresolved
        || has(&["manifest unknown", "not found: manifest", "manifest for", "no such image"])
    {
        return forbid(format!(
            "there is no image {image} in its registry; check its name and tag"
        ));
    }
    if has(&["pull access denied", "repository does not exist", "name unknown"]) {
        return forbid(format!("the image {image} does not exist in its registry, or {login}"));
    }
    if has(&["unauthorized", "no basic auth", "denied", "authentication required"]) {
        return forbid(format!("{image} cannot be pulled: {login}"));
    }
    let reason = if has(&[
        "dial tcp",
        "no such host",
        "connection refused",
        "timeout",
        "network is unreachable",
        "deadline exceeded",
    ]) {
        format!("the registry of {image} cannot be reached from this node: {}", shorten(text))
    } else if has(&[DISK_FULL]) {
        format!("{image} cannot be pulled: {DISK_FULL_TOLD}")
    } else {
        format!("pulling {image} failed: {}", shorten(text))
    };
    RuntimeError::Refused(reason)
}

/// Why a container does not start.
pub(super) fn explain_start(error: &Error, host: &str, ports: &[Port]) -> RuntimeError {
    let Error::DockerResponseServerError { message, .. } = error else {
        return explain(error, host, "starting the container");
    };
    let taken = ["port is already allocated", "address already in use"]
        .iter()
        .any(|text| message.contains(text));
    if taken {
        let named = ports.iter().find(|port| {
            let address = format!(":{}", port.host);
            message.match_indices(&address).any(|(at, _)| {
                let after = message.get(at + address.len()..).and_then(|rest| rest.chars().next());
                after.is_none_or(|c| !c.is_ascii_digit())
            })
        });
        let port = match named {
            Some(port) => format!("port {}/{}", port.host, port.protocol.as_str()),
            None => "a port that it publishes".to_owned(),
        };
        return RuntimeError::Refused(format!(
            "{port} is taken on this node by another container or program"
        ));
    }
    if message.contains(DISK_FULL) {
        return explain(error, host, "starting the container");
    }
    // Before the next one: what could not be mounted is often "no such file" as well.
    if message.contains("error mounting") {
        return RuntimeError::Refused(format!(
            "one of its mounts could not be made: {}",
            shorten(message)
        ));
    }
    if message.contains("executable file not found")
        || message.contains("no such file or directory")
    {
        return RuntimeError::Refused(format!(
            "its command was not found in the image: {}",
            shorten(message)
        ));
    }
    explain(error, host, "starting the container")
}

/// The kind of the innermost I/O error.
fn kind(error: &Error) -> Option<io::ErrorKind> {
    let mut source = error.source();
    let mut found = match error {
        Error::IOError { err } => Some(err.kind()),
        _ => None,
    };
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            found = Some(io.kind());
        }
        source = inner.source();
    }
    found
}

fn shorten(text: &str) -> String {
    let text = text.trim();
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    format!("{}…", text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use longshore_proto::spec::Protocol;

    use super::*;

    fn refusal(message: &str) -> Error {
        Error::DockerResponseServerError { status_code: 500, message: message.to_owned() }
    }

    fn port(host: u16) -> Port {
        Port { host, container: 80, protocol: Protocol::Tcp, host_ip: None, name: None }
    }

    #[test]
    fn a_taken_port_is_named() {
        for text in [
            "driver failed programming external connectivity on endpoint x: Bind for 0.0.0.0:8080 failed: port is already allocated",
            "driver failed …: Error starting userland proxy: listen tcp4 0.0.0.0:8080: bind: address already in use",
        ] {
            let error = explain_start(&refusal(text), "h", &[port(80), port(8080)]);
            assert_eq!(
                error,
                RuntimeError::Refused(
                    "port 8080/tcp is taken on this node by another container or program".into()
                )
            );
        }
    }

    #[test]
    fn a_mount_that_cannot_be_made_is_no_missing_command() {
        let text = "failed to create task for container: … error mounting \"/srv/a\" to rootfs at \"/etc/hosts/a\": \
                    … no such file or directory: unknown";
        let RuntimeError::Refused(reason) = explain_start(&refusal(text), "h", &[]) else {
            panic!("a refusal was expected");
        };
        assert!(reason.starts_with("one of its mounts could not be made: "), "{reason}");
    }

    #[test]
    fn a_taken_name_is_known_in_docker_and_in_podman() {
        let podman = "creating container storage: the container name \"x\" is already in use by 63fd. You have to …";
        assert!(is_name_taken(&refusal(podman)));
        let docker =
            Error::DockerResponseServerError { status_code: 409, message: "Conflict.".into() };
        assert!(is_name_taken(&docker));
        assert!(!is_name_taken(&refusal("address already in use")));
    }

    #[test]
    fn a_full_disk_is_no_fault_of_the_task() {
        let text = "error mounting \"/var/lib/docker/x\": no such file or directory: … no space left on device";
        for error in
            [explain_start(&refusal(text), "h", &[]), explain(&refusal(text), "h", "creating")]
        {
            assert!(
                error.to_string().contains("disk that Docker uses on this node is full"),
                "{error}"
            );
        }
    }

    #[test]
    fn failed_pulls_are_told_apart() {
        let told = |text: &str| explain_pull(&refusal(text), "h", "busybox:1", false);
        for (text, wanted) in [
            (
                "manifest for busybox:99 not found: manifest unknown: manifest unknown",
                "there is no image",
            ),
            (
                "failed to resolve reference \"docker.io/library/busybox:99\": docker.io/library/busybox:99: not found",
                "there is no image",
            ),
            (
                "pull access denied for x, repository does not exist or may require 'docker login': denied",
                "or the registry wants a login",
            ),
            ("Head \"https://r/v2/\": unauthorized: authentication required", "--registry-auth"),
            (
                "no matching manifest for linux/arm64 in the manifest list entries",
                "for that platform",
            ),
        ] {
            let RuntimeError::Forbidden(reason) = told(text) else { panic!("{text} may not pass") };
            assert!(reason.contains(wanted), "{text}: {reason}");
        }
        for (text, wanted) in [
            ("Get \"https://r/v2/\": dial tcp: lookup r: no such host", "cannot be reached"),
            (
                "write /var/lib/docker/x: no space left on device",
                "Docker uses on this node is full",
            ),
            (
                "failed to resolve reference \"r/x:1\": failed to do request: Head \"https://r/v2/x/manifests/1\": dial tcp: lookup r: no such host",
                "cannot be reached",
            ),
            ("something new", "pulling busybox:1 failed: something new"),
        ] {
            let RuntimeError::Refused(reason) = told(text) else { panic!("{text} may pass") };
            assert!(reason.contains(wanted), "{text}: {reason}");
        }
    }

    #[test]
    fn an_absent_daemon_is_no_refusal() {
        let away = [
            Error::SocketNotFoundError("/run/x".into()),
            Error::IOError { err: io::Error::from(io::ErrorKind::ConnectionRefused) },
            Error::RequestTimeoutError,
        ];
        for error in away {
            let RuntimeError::Away(text) = explain(&error, "unix:///run/x", "listing") else {
                panic!("{error}")
            };
            assert!(text.contains("unix:///run/x"), "{text}");
        }
        let denied = Error::IOError { err: io::Error::from(io::ErrorKind::PermissionDenied) };
        assert!(explain(&denied, "h", "listing").to_string().contains("group docker"));
    }
}
