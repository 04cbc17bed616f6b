//! Options of `longshore auth`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use longshore_proto::name::UserName;
use longshore_proto::permission::Role;

use super::Format;

/// `longshore auth`
#[derive(Debug, Subcommand)]
pub(crate) enum Auth {
    /// Make a folder with the server's configuration, its users and their credential files
    Init(Init),
    /// Add a worker; its name is its node's
    Worker(Add),
    /// Add an operator: somebody who runs the cluster
    Operator(Add),
    /// Add an observer: somebody who follows events
    Observer(Add),
    /// Add a manager, with a credential file for each of its two accounts
    Manager(Add),
    /// Remove a user, so that its credentials open nothing
    Revoke(Revoke),
    /// List the users
    Ls(Ls),
    /// Write accounts.conf anew from the list of users, as after an upgrade of Longshore
    Render(Place),
}

/// Where the folder is.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The folder with the server's configuration and the credential files
    #[arg(long, value_name = "FOLDER", default_value = "nats-auth")]
    pub(crate) dir: PathBuf,
}

/// `longshore auth init`
#[derive(Debug, Args)]
pub(crate) struct Init {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The first manager
    #[arg(long, value_name = "NAME", default_value = "m1")]
    pub(crate) manager: UserName,
    /// The first operator [default: your login name]
    #[arg(long, value_name = "NAME")]
    pub(crate) operator: Option<UserName>,
    /// An observer
    #[arg(long, value_name = "NAME")]
    pub(crate) observer: Option<UserName>,
    /// The workers, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) workers: Vec<UserName>,
    /// Where the server listens
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4222", value_parser = listen)]
    pub(crate) listen: String,
    /// One of three servers that keep every stream together; said once for each [ports: 4222, and 6222 for the
    /// other servers]
    #[arg(
        long = "server", value_name = "NAME=HOST[:PORT[:ROUTE_PORT]]", value_parser = member,
        conflicts_with_all = ["listen", "monitor"]
    )]
    pub(crate) servers: Vec<Member>,
    /// Where the server can be looked at over HTTP, without a password [default: nowhere]
    #[arg(long, value_name = "HOST:PORT", value_parser = listen)]
    pub(crate) monitor: Option<String>,
    /// Where the server keeps its streams [default: `store` in the folder]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) store_dir: Option<PathBuf>,
    /// Make all keys anew where there are some already
    #[arg(long)]
    pub(crate) force: bool,
}

/// One of several servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: UserName,
    /// Where clients reach it, as `HOST:PORT`.
    pub(crate) listen: String,
    /// Where the other servers reach it, as `HOST:PORT`.
    pub(crate) route: String,
}

/// `longshore auth worker` and its like
#[derive(Debug, Args)]
pub(crate) struct Add {
    /// The user's name
    pub(crate) name: UserName,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Give a user that is there already a new key
    #[arg(long)]
    pub(crate) force: bool,
}

/// `longshore auth revoke`
#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// What the user is
    #[arg(value_enum)]
    pub(crate) role: Kind,
    /// The user's name
    pub(crate) name: UserName,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// `longshore auth ls`
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The form of the list
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// What people call users: a manager is one, and has two accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Manager,
    Worker,
    Operator,
    Observer,
}

impl Kind {
    pub(crate) fn roles(self) -> &'static [Role] {
        match self {
            Self::Manager => &[Role::ManagerCore, Role::Manager],
            Self::Worker => &[Role::Worker],
            Self::Operator => &[Role::Operator],
            Self::Observer => &[Role::Observer],
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Worker => "worker",
            Self::Operator => "operator",
            Self::Observer => "observer",
        }
    }
}

/// Reads `HOST:PORT`.
fn listen(text: &str) -> Result<String, String> {
    let legal = |host: &str| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
            }
        }
    };
    match text.rsplit_once(':') {
        Some((host, port)) if legal(host) && port.parse::<u16>().is_ok_and(|port| port > 0) => {
            Ok(text.to_owned())
        }
        _ => Err("write HOST:PORT, such as 127.0.0.1:4222 or [::1]:4222".to_owned()),
    }
}

/// A server as `NAME=HOST[:PORT[:ROUTE_PORT]]`.
pub(crate) fn member(text: &str) -> Result<Member, String> {
    let form = "write NAME=HOST, NAME=HOST:PORT or NAME=HOST:PORT:ROUTE_PORT, such as n1=10.0.0.1";
    let (name, place) = text.split_once('=').ok_or(form)?;
    let name = name.parse::<UserName>().map_err(|error| error.to_string())?;
    // The colons within [...] belong to the address.
    let (host, ports) = match place.find(']') {
        Some(end) => place.split_at(end + 1),
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    if !ports.is_empty() && !ports.starts_with(':') {
        return Err(form.to_owned());
    }
    let mut ports = ports.split(':').skip(1);
    let port = ports.next().unwrap_or("4222");
    let route_port = ports.next().unwrap_or("6222");
    if ports.next().is_some() {
        return Err(form.to_owned());
    }
    let address = |port| listen(&format!("{host}:{port}")).map_err(|_| form.to_owned());
    Ok(Member { name, listen: address(port)?, route: address(route_port)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_a_cluster_are_read() {
        let made = member("n1=10.0.0.1").unwrap();
        assert_eq!((made.listen.as_str(), made.route.as_str()), ("10.0.0.1:4222", "10.0.0.1:6222"));
        let made = member("n1=[::1]:1:2").unwrap();
        assert_eq!((made.listen.as_str(), made.route.as_str()), ("[::1]:1", "[::1]:2"));
        for bad in ["", "n1", "n1=", "=h", "N=h", "n1=h:x", "n1=h:1:0", "n1=h:1:2:3", "n1=[::1]x"] {
            assert!(member(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_to_listen_on_are_checked() {
        for good in ["127.0.0.1:4222", "[::1]:1", "nats.example:65535", "0.0.0.0:4222"] {
            assert_eq!(listen(good).as_deref(), Ok(good));
        }
        for bad in ["", "4222", ":4222", "a:0", "a:65536", "a b:1", "::1:4222", "a\":1", "[x]:1"] {
            assert!(listen(bad).is_err(), "{bad}");
        }
    }
}
