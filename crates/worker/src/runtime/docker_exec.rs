//! Commands in running containers, and a close look at one container.

use std::net::IpAddr;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{ContainerInspectResponse, HealthStatusEnum};
use futures_util::stream::StreamExt;

use super::docker::Docker;
use super::docker_error::{explain, status};
use super::{Exec, ExecWish, Health, LogChunk, Look, RuntimeError};

/// How long the start of a command may take.
pub(super) const EXEC_DEADLINE: Duration = Duration::from_secs(30);
/// The longest piece of output that is passed on at once, in bytes.
const OUTPUT_BYTES_MAX: usize = 32 << 10;

/// Starts a command.
pub(super) async fn start(docker: &Docker, wish: ExecWish) -> Result<Exec, RuntimeError> {
    let client = docker.client()?;
    let options = CreateExecOptions {
        attach_stdin: Some(wish.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(wish.tty),
        env: (!wish.env.is_empty()).then_some(wish.env),
        cmd: Some(wish.command),
        user: wish.user,
        working_dir: wish.working_dir,
        ..CreateExecOptions::default()
    };
    let created = client.create_exec(&wish.container_id, options).await.map_err(|error| {
        match status(&error) {
            Some(404) => RuntimeError::Refused("its container is gone".to_owned()),
            Some(409) => RuntimeError::Refused("its container does not run".to_owned()),
            _ => explain(&error, docker.host(), "starting the command"),
        }
    })?;
    let options =
        StartExecOptions { detach: false, tty: wish.tty, output_capacity: Some(OUTPUT_BYTES_MAX) };
    let started = client.start_exec(&created.id, Some(options)).await;
    match started.map_err(|error| explain(&error, docker.host(), "starting the command"))? {
        StartExecResults::Attached { output, input } => {
            let host = docker.host().to_owned();
            let output = output.map(move |piece| match piece {
                Ok(LogOutput::StdErr { message }) => {
                    Ok(LogChunk { is_error: true, bytes: message })
                }
                Ok(other) => Ok(LogChunk { is_error: false, bytes: other.into_bytes() }),
                Err(error) => Err(explain(&error, &host, "reading the command's output")),
            });
            Ok(Exec { id: created.id, output: output.boxed(), input })
        }
        StartExecResults::Detached => {
            Err(RuntimeError::Refused("Docker has started the command out of reach".to_owned()))
        }
    }
}

/// Tells a command's terminal its size.
pub(super) async fn resize(
    docker: &Docker,
    id: &str,
    (columns, rows): (u16, u16),
) -> Result<(), RuntimeError> {
    let size = ResizeExecOptions { height: rows, width: columns };
    let resized = docker.client()?.resize_exec(id, size).await;
    resized.map_err(|error| explain(&error, docker.host(), "resizing the terminal"))
}

/// How a command ended; absent while it runs.
pub(super) async fn result(docker: &Docker, id: &str) -> Result<Option<i64>, RuntimeError> {
    let found = docker.client()?.inspect_exec(id).await;
    let found = found.map_err(|error| explain(&error, docker.host(), "looking at the command"))?;
    Ok(found.exit_code.filter(|_| found.running != Some(true)))
}

/// What a close look shows.
pub(super) fn look_of(found: &ContainerInspectResponse) -> Look {
    let networks = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let addresses = networks
        .into_iter()
        .flatten()
        .flat_map(|(_, network)| [&network.ip_address, &network.global_ipv6_address]);
    let ip = addresses.flatten().find_map(|ip| ip.parse::<IpAddr>().ok());
    let health = found.state.as_ref().and_then(|state| state.health.as_ref());
    let last = || {
        let log = health.and_then(|health| health.log.as_ref())?;
        let told = log.last()?.output.as_deref()?.trim().to_owned();
        (!told.is_empty()).then_some(told)
    };
    let health: Option<Health> = match health.and_then(|health| health.status) {
        Some(HealthStatusEnum::HEALTHY) => Some(Ok(())),
        Some(HealthStatusEnum::STARTING) => {
            Some(Err("the image's check has not succeeded yet".to_owned()))
        }
        Some(HealthStatusEnum::UNHEALTHY) => Some(Err(match last() {
            Some(told) => format!("the image's check failed: {told}"),
            None => "the image's check failed".to_owned(),
        })),
        _ => None,
    };
    let mode = found.host_config.as_ref().and_then(|config| config.network_mode.as_deref());
    let pid = found.state.as_ref().and_then(|state| state.pid);
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
    Look { ip, is_on_host_network: mode == Some("host"), pid, health }
}
