//! How to reach the bus: from options and the environment, else from the context of `longshore dev`, else
//! the usual address.

use std::path::{Path, PathBuf};

use longshore_bus::{Credentials, Options, Tls};
use longshore_proto::name::{Root, UserName};
use longshore_proto::permission::Role;

use crate::args::Global;
use crate::context::{Context, Found};
use crate::failure::Failure;
use crate::render::Printer;

/// Where NATS is when nothing says so.
pub(crate) const SERVERS_STANDARD: &str = "nats://127.0.0.1:4222";

/// Where the bus is, and with which credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The servers.
    pub(crate) servers: String,
    /// The first token of every subject.
    pub(crate) root: Root,
    /// The credential file, if any.
    pub(crate) credentials: Option<PathBuf>,
    /// Who said so, for people.
    pub(crate) origin: String,
}

impl Target {
    /// The target of a verb: the context counts.
    pub(crate) fn of_verb(global: &Global, printer: Printer) -> Result<Self, Failure> {
        if given(global) {
            return Ok(Self::from_options(global));
        }
        match Context::read()? {
            Found::Live(context, path) => Ok(Self::from_context(global, context, &path)),
            Found::Stale(context, path) => {
                printer.talk(&format!(
                    "note: {} is of a `longshore dev` that has ended (process {}); not used",
                    path.display(),
                    context.pid
                ));
                Ok(Self::from_options(global))
            }
            Found::None => Ok(Self::from_options(global)),
        }
    }

    /// The target of a program that stays: options alone, since a manager or worker must not join somebody's
    /// `longshore dev` by chance.
    pub(crate) fn from_options(global: &Global) -> Self {
        let (servers, origin) = match servers(global) {
            Some(servers) => (servers.to_owned(), "given by --nats or LONGSHORE_NATS_URL"),
            None => (SERVERS_STANDARD.to_owned(), "the usual address"),
        };
        Self {
            servers,
            root: global.root.clone().unwrap_or_else(Root::standard),
            credentials: global.creds.clone(),
            origin: origin.to_owned(),
        }
    }

    fn from_context(global: &Global, context: Context, path: &Path) -> Self {
        Self {
            servers: context.nats_url,
            root: global.root.clone().unwrap_or(context.root),
            credentials: context.credentials,
            origin: format!("from the context {}", path.display()),
        }
    }

    /// Options for the connection of a verb.
    pub(crate) fn verb_options(&self, global: &Global) -> Result<Options, Failure> {
        let credentials = self.credentials.as_deref().map(Credentials::load).transpose()?;
        if let Some(Credentials { role, .. }) = &credentials
            && !matches!(role, Role::Operator | Role::Observer)
        {
            return Err(Failure::new(format!("these credentials belong to a {role}"))
                .hint("verbs need an operator's (or, to look only, an observer's): name them with --creds"));
        }
        Ok(Options {
            servers: self.servers.clone(),
            root: self.root.clone(),
            role: Role::Operator,
            user: user("operator")?,
            credentials,
            tls: tls(global),
            wait_for_server: false,
        })
    }

    /// Options for the connection of a program that stays, in a role of its own.
    pub(crate) fn program_options(
        &self,
        global: &Global,
        role: Role,
        user: UserName,
        credentials: Option<&Path>,
    ) -> Result<Options, Failure> {
        let credentials = credentials.map(|path| Credentials::load_as(path, role)).transpose()?;
        Ok(Options {
            servers: self.servers.clone(),
            root: self.root.clone(),
            role,
            user,
            credentials,
            tls: tls(global),
            wait_for_server: true,
        })
    }
}

/// A name of our own making.
pub(crate) fn user(name: &str) -> Result<UserName, Failure> {
    name.parse().map_err(|error| Failure::new(format!("{name:?} is no user name")).cause(&error))
}

fn tls(global: &Global) -> Tls {
    Tls {
        authorities: global.tls_ca.clone(),
        client: global.tls_cert.clone().zip(global.tls_key.clone()),
    }
}

fn servers(global: &Global) -> Option<&str> {
    global.nats.as_deref().map(str::trim).filter(|servers| !servers.is_empty())
}

fn given(global: &Global) -> bool {
    servers(global).is_some() || global.creds.is_some()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn global(words: &[&str]) -> Global {
        Cli::try_parse_from([&["longshore", "ps"], words].concat()).unwrap().global
    }

    #[test]
    fn options_come_before_the_usual() {
        let target = Target::from_options(&global(&["--nats", "nats://a:1", "--root", "r"]));
        assert_eq!((target.servers.as_str(), target.root.as_str()), ("nats://a:1", "r"));
        let target = Target::from_options(&global(&[]));
        assert_eq!(
            (target.servers.as_str(), target.root.as_str()),
            (SERVERS_STANDARD, "longshore")
        );
    }

    #[test]
    fn a_root_that_is_said_comes_before_the_contexts() {
        let context = Context {
            nats_url: "nats://b:2".into(),
            root: "dev".parse().unwrap(),
            credentials: Some("/c".into()),
            pid: 1,
        };
        let path = Path::new("/context.toml");
        let target = Target::from_context(&global(&[]), context.clone(), path);
        assert_eq!((target.servers.as_str(), target.root.as_str()), ("nats://b:2", "dev"));
        assert_eq!(target.credentials, Some("/c".into()));
        let target = Target::from_context(&global(&["--root", "mine"]), context, path);
        assert_eq!(target.root.as_str(), "mine");
    }

    #[test]
    fn an_empty_address_is_no_address() {
        assert!(!given(&global(&["--nats", ""])));
        assert!(given(&global(&["--creds", "/x"])));
    }
}
