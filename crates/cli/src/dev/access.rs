//! Where the bus is, and who each member of `longshore dev` is on it.

use std::path::{Path, PathBuf};

use longshore_bus::{Credentials, Options, Tls};
use longshore_proto::name::{Root, UserName};
use longshore_proto::permission::Role;

use super::place::Place;
use crate::auth::{Existing, Folder, ServerConf, shell_word};
use crate::connect::user;
use crate::failure::{Exit, Failure};

/// What the manager, the operator and the observer of a `dev` are called.
const NAME: &str = "dev";

/// The names of the nodes: `dev-1`, `dev-2`, …
pub(crate) fn node_names(workers: u16) -> Result<Vec<UserName>, Failure> {
    (1..=workers).map(|number| user(&format!("{NAME}-{number}"))).collect()
}

/// A credential file, read.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    /// The file.
    pub(crate) path: PathBuf,
    /// What stands in it.
    pub(crate) credentials: Credentials,
}

/// Who each member is. Nobody has a key on a server without users.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    manager_core: Option<Key>,
    manager: Option<Key>,
    workers: Vec<Key>,
    operator: Option<Key>,
    observer: Option<Key>,
}

/// How to reach the bus, and as whom.
#[derive(Debug)]
pub(crate) struct Access {
    /// The servers' addresses.
    pub(crate) servers: String,
    /// The first token of every subject.
    pub(crate) root: Root,
    /// TLS files, for servers that are not ours.
    pub(crate) tls: Tls,
    /// Who each member is.
    pub(crate) keys: Keys,
}

impl Keys {
    /// The keys of a server of our own: those of the last start, or new ones. Writes the server's
    /// configuration too, and gives its path.
    pub(crate) fn own(
        place: &Place,
        root: &Root,
        workers: &[UserName],
    ) -> Result<(Self, PathBuf), Failure> {
        let path = place.auth();
        let mut folder = if path.join("users.toml").exists() {
            Folder::open(&path, Some(root))?
        } else {
            // What stands there without a list was left by a start that did not come this far.
            Folder::create(&path, root.clone(), Existing::Replace)?
        };
        let name = user(NAME)?;
        let mut key = |role, name: &UserName| -> Result<Key, Failure> {
            let credentials = folder.ensure(role, name)?;
            Ok(Key { path: folder.credentials_path(role, name), credentials })
        };
        let keys = Self {
            manager_core: Some(key(Role::ManagerCore, &name)?),
            manager: Some(key(Role::Manager, &name)?),
            workers: workers
                .iter()
                .map(|name| key(Role::Worker, name))
                .collect::<Result<_, _>>()?,
            operator: Some(key(Role::Operator, &name)?),
            observer: Some(key(Role::Observer, &name)?),
        };
        folder.save()?;
        let store = place.store();
        let conf =
            ServerConf { listen: "127.0.0.1:-1", store: &store, monitor: None, membership: None };
        let conf = folder.write_server_conf(&conf)?;
        Ok((keys, conf))
    }

    /// The keys for a server that is there: the manager's as it is named, the others from files beside it.
    pub(crate) fn beside(
        manager: &Path,
        manager_core: Option<&Path>,
        workers: &[UserName],
    ) -> Result<Self, Failure> {
        let key = |path: PathBuf, role| -> Result<Key, Failure> {
            Ok(Key { credentials: Credentials::load_as(&path, role)?, path })
        };
        let manager = key(manager.to_owned(), Role::Manager)?;
        let folder = match manager.path.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let beside = |role: Role, name: &UserName| {
            let path = folder.join(format!("{role}-{name}.creds"));
            if path.exists() {
                return key(path, role);
            }
            let dir = shell_word(&folder);
            Err(Failure::new(format!("there are no credentials {}", path.display()))
                .hint(format!("make them with `longshore auth {role} {name} --dir {dir}`"))
                .exit(Exit::Usage))
        };
        let manager_core = match manager_core {
            Some(path) => key(path.to_owned(), Role::ManagerCore)?,
            None => beside(Role::ManagerCore, &manager.credentials.name).map_err(|failure| {
                failure.hint("name the manager's second credential file with --core-creds")
            })?,
        };
        let workers = workers.iter().map(|name| beside(Role::Worker, name));
        let workers = workers.collect::<Result<_, _>>()?;
        let operator = match first_operator(&folder) {
            Some(path) => key(path, Role::Operator)?,
            None => beside(Role::Operator, &user(NAME)?)?,
        };
        Ok(Self {
            manager_core: Some(manager_core),
            manager: Some(manager),
            workers,
            operator: Some(operator),
            observer: None,
        })
    }

    /// The operator's.
    pub(crate) fn operator(&self) -> Option<&Key> {
        self.operator.as_ref()
    }

    /// The observer's.
    pub(crate) fn observer(&self) -> Option<&Key> {
        self.observer.as_ref()
    }
}

impl Access {
    /// The manager's connections: everybody's account, and the managers' own, if there are accounts.
    pub(crate) fn manager(&self) -> Result<(Options, Option<Options>), Failure> {
        let core = self.keys.manager_core.as_ref();
        let core = core.map(|key| self.options(Role::ManagerCore, Some(key), NAME)).transpose()?;
        Ok((self.options(Role::Manager, self.keys.manager.as_ref(), NAME)?, core))
    }

    /// A worker's connection.
    pub(crate) fn worker(&self, name: &UserName) -> Result<Options, Failure> {
        let key = self.keys.workers.iter().find(|key| key.credentials.name == *name);
        self.options(Role::Worker, key, name.as_str())
    }

    /// The operator's connection.
    pub(crate) fn operator(&self) -> Result<Options, Failure> {
        let options = self.options(Role::Operator, self.keys.operator.as_ref(), NAME)?;
        // The first to connect: a server that is not there is told at once.
        Ok(Options { wait_for_server: false, ..options })
    }

    fn options(&self, role: Role, key: Option<&Key>, name: &str) -> Result<Options, Failure> {
        Ok(Options {
            servers: self.servers.clone(),
            root: self.root.clone(),
            role,
            user: user(name)?,
            credentials: key.map(|key| key.credentials.clone()),
            tls: self.tls.clone(),
            wait_for_server: true,
        })
    }
}

fn first_operator(folder: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("operator-") && name.ends_with(".creds")
        })
        .collect();
    found.sort();
    found.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_has_a_key_of_its_own_and_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::kept(folder.path()).await.unwrap();
        let root = Root::standard();
        let made = |workers| Keys::own(&place, &root, &node_names(workers).unwrap()).unwrap();
        let (first, conf) = made(1);
        let text = std::fs::read_to_string(conf).unwrap();
        assert!(
            text.contains("listen: \"127.0.0.1:-1\"") && text.contains("sync_interval: always")
        );
        let (second, _) = made(2);
        assert_eq!(first.workers[0].credentials, second.workers[0].credentials);
        assert_eq!(second.workers[1].credentials.name.as_str(), "dev-2");
        let access = Access { servers: "nats://x".into(), root, tls: Tls::default(), keys: second };
        let (bus, core) = access.manager().unwrap();
        assert_eq!(bus.credentials.unwrap().role, Role::Manager);
        assert_eq!(core.unwrap().credentials.unwrap().role, Role::ManagerCore);
        let worker = access.worker(&"dev-2".parse().unwrap()).unwrap().credentials.unwrap();
        assert_eq!((worker.role, worker.name.as_str()), (Role::Worker, "dev-2"));
        let accounts = std::fs::read_to_string(place.auth().join("accounts.conf")).unwrap();
        assert!(accounts.contains(&worker.nkey));
    }

    #[test]
    fn the_keys_for_a_server_that_is_there_stand_beside_the_managers() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = Folder::create(place.path(), Root::standard(), Existing::Refuse).unwrap();
        let mut add =
            |role, name: &str| folder.add(role, &name.parse().unwrap(), Existing::Refuse).unwrap();
        let manager = add(Role::Manager, "m1");
        add(Role::ManagerCore, "m1");
        add(Role::Operator, "alice");
        let missing = Keys::beside(&manager, None, &node_names(1).unwrap()).unwrap_err();
        assert!(missing.told().unwrap().1.unwrap().contains("longshore auth worker dev-1"));
        add(Role::Worker, "dev-1");
        let keys = Keys::beside(&manager, None, &node_names(1).unwrap()).unwrap();
        assert_eq!(keys.operator().unwrap().credentials.name.as_str(), "alice");
        assert_eq!(keys.manager_core.unwrap().credentials.role, Role::ManagerCore);
    }

    #[test]
    fn an_open_server_knows_nobody() {
        let access = Access {
            servers: "nats://x".into(),
            root: Root::standard(),
            tls: Tls::default(),
            keys: Keys::default(),
        };
        let (bus, core) = access.manager().unwrap();
        assert!(bus.credentials.is_none() && core.is_none());
        let worker = access.worker(&"dev-1".parse().unwrap()).unwrap();
        assert_eq!((worker.role, worker.user.as_str()), (Role::Worker, "dev-1"));
    }
}
