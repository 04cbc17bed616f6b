//! Options of the verbs that reach into a task: `cp`, `port-forward`.

use std::net::IpAddr;

use clap::Args;

/// `longshore cp`
#[derive(Debug, Args)]
#[command(
    override_usage = "longshore cp [OPTIONS] NAME|ID:PATH LOCAL\n       longshore cp [OPTIONS] LOCAL NAME|ID:PATH",
    after_help = "As docker cp: a folder is copied with everything in it, `FOLDER/.` means only what is in it, and a \
                  target that is a folder gets the source under its own name. `-` is a tar archive on standard input \
                  or output. A local path with a colon is written ./a:b."
)]
pub(crate) struct Cp {
    /// Follow the source where it is a link
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// What to copy
    #[arg(value_name = "SOURCE", value_parser = place)]
    pub(crate) source: Place,
    /// Where to
    #[arg(value_name = "TARGET", value_parser = place)]
    pub(crate) target: Place,
}

/// `longshore port-forward`
#[derive(Debug, Args)]
#[command(
    after_help = "Ports are TCP ports. The task may listen on all of its addresses or on its own 127.0.0.1; for the \
                  latter, its worker must run as root on the machine itself. Ends with the task."
)]
pub(crate) struct PortForward {
    /// Where to listen on this machine
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) address: IpAddr,
    /// A task's id or its beginning, or the name of a job that has one task
    #[arg(value_name = "NAME|ID")]
    pub(crate) name: String,
    /// A port here and one of the task; one number means both, and `:REMOTE` takes a port here that is free
    #[arg(required = true, value_name = "LOCAL:REMOTE", value_parser = forward)]
    pub(crate) ports: Vec<Forward>,
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A path in a task's container.
    There {
        /// The task, or the job that has one.
        name: String,
        /// The path, from the container's root.
        path: String,
    },
    /// A path on this machine.
    Here(String),
    /// A tar archive, on standard input or output.
    Archive,
}

/// A port here, and one of the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forward {
    /// Here; 0 for one that is free.
    pub(crate) local: u16,
    /// The task's.
    pub(crate) remote: u16,
}

/// Why a text cannot be read. Says what is wrong, and the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReachError {
    /// Not an end of a copy.
    #[error(
        "{0:?} names no path; write NAME:PATH for one in a task's container, such as web:/etc/hosts"
    )]
    Place(String),
    /// Not ports to forward.
    #[error(
        "{0:?} are no ports to forward; write LOCAL:REMOTE with ports 1 to 65535, such as 8080:80, or 80 for both"
    )]
    Forward(String),
}

/// Reads one end of a copy. What stands before the first colon is a task, unless it is a path.
pub(crate) fn place(text: &str) -> Result<Place, ReachError> {
    let bad = || ReachError::Place(text.to_owned());
    match text.split_once(':') {
        _ if text == "-" => Ok(Place::Archive),
        _ if text.is_empty() => Err(bad()),
        Some((name, path)) if !name.contains(['/', '.']) => {
            if name.is_empty() || path.is_empty() {
                return Err(bad());
            }
            Ok(Place::There { name: name.to_owned(), path: path.to_owned() })
        }
        _ => Ok(Place::Here(text.to_owned())),
    }
}

/// Reads ports to forward.
pub(crate) fn forward(text: &str) -> Result<Forward, ReachError> {
    let bad = || ReachError::Forward(text.to_owned());
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
    match text.split_once(':') {
        Some(("", remote)) => Ok(Forward { local: 0, remote: number(remote)? }),
        Some((local, remote)) => Ok(Forward { local: number(local)?, remote: number(remote)? }),
        None => number(text).map(|port| Forward { local: port, remote: port }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_tells_a_path_in_a_container_from_one_here() {
        let there = |name: &str, path: &str| Place::There { name: name.into(), path: path.into() };
        assert_eq!(place("web:/etc/hosts"), Ok(there("web", "/etc/hosts")));
        assert_eq!(place("0190a5d2:a:b"), Ok(there("0190a5d2", "a:b")));
        for here in ["file", "./web:1", "/tmp/a:b", "..", "a.b:c"] {
            assert_eq!(place(here), Ok(Place::Here(here.into())));
        }
        assert_eq!(place("-"), Ok(Place::Archive));
        for bad in ["", ":/etc", "web:"] {
            assert!(place(bad).unwrap_err().to_string().contains("write NAME:PATH"), "{bad}");
        }
    }

    #[test]
    fn ports_are_read_in_three_forms() {
        assert_eq!(forward("8080:80"), Ok(Forward { local: 8080, remote: 80 }));
        assert_eq!(forward("80"), Ok(Forward { local: 80, remote: 80 }));
        assert_eq!(forward(":80"), Ok(Forward { local: 0, remote: 80 }));
        for bad in ["", "0", "80:", "x:80", "1:2:3", "70000"] {
            assert!(forward(bad).unwrap_err().to_string().contains("LOCAL:REMOTE"), "{bad}");
        }
    }
}
