//! A folder of authentication: the NATS server's configuration, the list of users, and a credential file for
//! each user. `longshore auth` keeps such a folder, and `longshore dev` has one of its own.
//!
//! | file | what it is |
//! |---|---|
//! | `server.conf` | the server's configuration; written once, and the operator's from then on |
//! | `server-<name>.conf` | that of each server, where there are several; a secret |
//! | `accounts.conf` | accounts, users and rights, included by `server.conf`; always written as a whole |
//! | `users.toml` | the list of users that `accounts.conf` is made from; no secrets |
//! | `<role>-<name>.creds` | what a client proves with who it is; a secret, readable by its owner alone |

mod file;
mod server;

use std::fs::File;
use std::path::{Path, PathBuf};

use longshore_bus::Credentials;
use longshore_bus::accounts::{User, Users};
use longshore_proto::name::{Root, UserName};
use longshore_proto::permission::Role;

use crate::failure::Failure;

pub(crate) use file::shell_word;
pub(crate) use server::{Membership, ServerConf};

/// Files that everybody may read.
const OPEN: u32 = 0o644;
/// Files that hold a secret.
const SECRET: u32 = 0o600;
/// The list of users.
const USERS: &str = "users.toml";
/// The accounts, users and rights.
const ACCOUNTS: &str = "accounts.conf";
/// The server's configuration.
const SERVER: &str = "server.conf";
/// How the names of the configurations begin and end where there are several servers.
const MEMBER_PREFIX: &str = "server-";
const MEMBER_SUFFIX: &str = ".conf";

/// A folder, held for as long as this value lives: two programs that change it take turns.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    users: Users,
    _lock: File,
}

/// What to do with credentials that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Leave them alone: it is an error to ask for them again.
    Refuse,
    /// Make a new key, so that the old one is worthless.
    Replace,
}

impl Folder {
    /// Makes a folder that has no users yet. One that has some is refused, or emptied of them.
    pub(crate) fn create(path: &Path, root: Root, existing: Existing) -> Result<Self, Failure> {
        std::fs::create_dir_all(path)
            .map_err(|error| Failure::file("make the folder", path, &error))?;
        let lock = lock(path)?;
        if let Some(file) = own_files(path)?.first() {
            if existing == Existing::Refuse {
                let folder = shell_word(path);
                return Err(Failure::new(format!(
                    "{} is there already, and is left alone",
                    file.display()
                ))
                .hint(format!(
                    "add users with `longshore auth worker NAME --dir {folder}`, name another folder with --dir, \
                     or make all keys anew with --force (every program then needs its new file)"
                )));
            }
            remove_credentials(path)?;
        }
        Ok(Self { path: path.to_owned(), users: Users::new(root), _lock: lock })
    }

    /// Opens a folder that is there. `root` is what the user says of the cluster, if anything.
    pub(crate) fn open(path: &Path, root: Option<&Root>) -> Result<Self, Failure> {
        let list = path.join(USERS);
        if !list.exists() {
            return Err(Failure::new(format!("there is no list of users {}", list.display()))
                .hint("make the folder with `longshore auth init`, or name it with --dir"));
        }
        let lock = lock(path)?;
        let text =
            std::fs::read_to_string(&list).map_err(|error| Failure::file("read", &list, &error))?;
        let users = Users::parse(&text).map_err(|error| {
            Failure::new(format!("cannot use {}", list.display())).cause(&error).hint(
                "bring it back from a copy, or make everything anew with `longshore auth init --force`",
            )
        })?;
        if let Some(root) = root.filter(|root| *root != users.root()) {
            return Err(Failure::new(format!(
                "{} is of the subject root {}, and {root} was asked for",
                list.display(),
                users.root()
            ))
            .hint("leave out --root and LONGSHORE_ROOT, or use another folder"));
        }
        Ok(Self { path: path.to_owned(), users, _lock: lock })
    }

    /// The list of users.
    pub(crate) fn users(&self) -> &Users {
        &self.users
    }

    /// Where a user's credential file is.
    pub(crate) fn credentials_path(&self, role: Role, name: &UserName) -> PathBuf {
        self.path.join(format!("{role}-{name}.creds"))
    }

    /// Where the server's configuration is.
    pub(crate) fn server_conf_path(&self) -> PathBuf {
        self.path.join(SERVER)
    }

    /// Makes a user, and gives its credential file. [`Folder::save`] makes the server know it.
    pub(crate) fn add(
        &mut self,
        role: Role,
        name: &UserName,
        existing: Existing,
    ) -> Result<PathBuf, Failure> {
        if matches!(role, Role::Manager | Role::ManagerCore) && name.as_str().starts_with("core-") {
            // Its file would have the name of another manager's second file.
            return Err(Failure::new(format!("a manager cannot be named {name}"))
                .hint("choose a name that does not begin with core-"));
        }
        let path = self.credentials_path(role, name);
        if existing == Existing::Refuse && (self.users.get(role, name).is_some() || path.exists()) {
            return Err(Failure::new(format!("there is a {role} {name} already"))
                .hint("choose another name, or give it a new key with --force (the old one then opens nothing)"));
        }
        let made = Credentials::generate(role, name.clone()).map_err(|error| {
            Failure::new(format!("cannot make a key for the {role} {name}")).cause(&error)
        })?;
        file::write(&path, &made.to_toml(), SECRET)?;
        self.users.remove(role, name);
        self.users
            .add(User { role, name: name.clone(), nkey: made.nkey })
            .map_err(|error| Failure::new(format!("cannot add the {role} {name}")).cause(&error))?;
        Ok(path)
    }

    /// Makes a user unless it is there with its credentials, and gives its credentials.
    pub(crate) fn ensure(&mut self, role: Role, name: &UserName) -> Result<Credentials, Failure> {
        let path = self.credentials_path(role, name);
        if let Ok(found) = Credentials::load_as(&path, role)
            && self.users.get(role, name).is_some_and(|user| user.nkey == found.nkey)
        {
            return Ok(found);
        }
        self.add(role, name, Existing::Replace)?;
        Ok(Credentials::load_as(&path, role)?)
    }

    /// Removes a user and its credential file, and says whether there was one. [`Folder::save`] makes the
    /// server know it.
    pub(crate) fn revoke(&mut self, role: Role, name: &UserName) -> Result<bool, Failure> {
        let was_there = self.users.remove(role, name);
        if was_there {
            file::remove(&self.credentials_path(role, name))?;
        }
        Ok(was_there)
    }

    /// Writes the list of users, and the accounts that are made from it.
    pub(crate) fn save(&self) -> Result<[PathBuf; 2], Failure> {
        let (accounts, list) = (self.path.join(ACCOUNTS), self.path.join(USERS));
        file::write(&list, &self.users.to_toml(), OPEN)?;
        file::write(&accounts, &self.users.accounts_conf(), OPEN)?;
        Ok([accounts, list])
    }

    /// Writes the server's configuration. One that was there stays beside it: it may have been changed by hand.
    pub(crate) fn write_server_conf(&self, conf: &ServerConf<'_>) -> Result<PathBuf, Failure> {
        let (path, mode) = match conf.membership {
            None => (self.server_conf_path(), OPEN),
            Some(Membership { name, .. }) => {
                (self.path.join(format!("{MEMBER_PREFIX}{name}{MEMBER_SUFFIX}")), SECRET)
            }
        };
        let text = conf.text()?;
        match std::fs::read_to_string(&path) {
            Ok(before) if before != text => {
                let mut old = path.as_os_str().to_owned();
                old.push(".old");
                file::write(Path::new(&old), &before, mode)?;
            }
            _ => {}
        }
        file::write(&path, &text, mode)?;
        Ok(path)
    }

    /// Whether the accounts on disk are what the list of users gives: not after an upgrade that changed the
    /// rights, nor after a change by hand.
    pub(crate) fn accounts_are_current(&self) -> bool {
        std::fs::read_to_string(self.path.join(ACCOUNTS))
            .is_ok_and(|text| text == self.users.accounts_conf())
    }
}

/// Waits for whoever changes the folder now.
fn lock(path: &Path) -> Result<File, Failure> {
    File::open(path)
        .and_then(|folder| folder.lock().map(|()| folder))
        .map_err(|error| Failure::file("lock the folder", path, &error))
}

/// The files in a folder that are ours.
fn own_files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files: Vec<PathBuf> = [SERVER, ACCOUNTS, USERS]
        .iter()
        .map(|name| path.join(name))
        .filter(|f| f.exists())
        .collect();
    let is_of_member =
        |name: &str| name.starts_with(MEMBER_PREFIX) && name.ends_with(MEMBER_SUFFIX);
    files.extend(files_named(path, |name| is_of_member(name) || is_credential(name))?);
    Ok(files)
}

fn is_credential(name: &str) -> bool {
    let stem = name.strip_suffix(".creds").unwrap_or_default();
    Role::ALL.iter().any(|role| stem.starts_with(&format!("{role}-")))
}

/// The files in a folder whose names fit, in order.
fn files_named(path: &Path, fits: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, Failure> {
    let problem = |error| Failure::file("list", path, &error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(problem)? {
        let file = entry.map_err(problem)?.path();
        if file.file_name().and_then(|name| name.to_str()).is_some_and(&fits) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Their keys are in no list any more, and open nothing.
fn remove_credentials(path: &Path) -> Result<(), Failure> {
    files_named(path, is_credential)?.iter().try_for_each(|file| file::remove(file))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn name(text: &str) -> UserName {
        text.parse().unwrap()
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_added_is_in_the_list_and_in_the_accounts() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("auth");
        let mut folder = Folder::create(&path, Root::standard(), Existing::Refuse).unwrap();
        let worker = folder.add(Role::Worker, &name("w1"), Existing::Refuse).unwrap();
        folder.save().unwrap();
        drop(folder);
        let made = Credentials::load_as(&worker, Role::Worker).unwrap();
        assert_eq!(mode(&worker), 0o600);
        let accounts = std::fs::read_to_string(path.join(ACCOUNTS)).unwrap();
        assert!(accounts.contains(&made.nkey));
        for file in [ACCOUNTS, USERS] {
            let text = std::fs::read_to_string(path.join(file)).unwrap();
            assert!(!text.contains(made.nkey_seed.reveal()), "{file} holds a secret");
        }
        let mut folder = Folder::open(&path, None).unwrap();
        assert!(folder.accounts_are_current());
        assert!(folder.revoke(Role::Worker, &name("w1")).unwrap());
        assert!(!folder.revoke(Role::Worker, &name("w1")).unwrap());
        assert!(!worker.exists() && !folder.accounts_are_current());
    }

    #[test]
    fn credentials_are_replaced_only_when_asked() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = Folder::create(place.path(), Root::standard(), Existing::Refuse).unwrap();
        let path = folder.add(Role::Operator, &name("alice"), Existing::Refuse).unwrap();
        let first = std::fs::read_to_string(&path).unwrap();
        let refused = folder.add(Role::Operator, &name("alice"), Existing::Refuse).unwrap_err();
        assert!(refused.told().unwrap().1.unwrap().contains("--force"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        folder.add(Role::Operator, &name("alice"), Existing::Replace).unwrap();
        assert_ne!(std::fs::read_to_string(&path).unwrap(), first);
        assert_eq!(folder.users().list().len(), 1);
        drop(folder);
        // Even without a list: a credential file is a secret that somebody may still need.
        let again = Folder::create(place.path(), Root::standard(), Existing::Refuse).unwrap_err();
        assert!(again.told().unwrap().0.contains("left alone"));
        assert!(path.exists());
        Folder::create(place.path(), Root::standard(), Existing::Replace).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_there_is_used_again() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = Folder::create(place.path(), Root::standard(), Existing::Refuse).unwrap();
        let first = folder.ensure(Role::Worker, &name("dev-1")).unwrap();
        assert_eq!(folder.ensure(Role::Worker, &name("dev-1")).unwrap(), first);
        std::fs::remove_file(folder.credentials_path(Role::Worker, &name("dev-1"))).unwrap();
        assert_ne!(folder.ensure(Role::Worker, &name("dev-1")).unwrap(), first);
        assert_eq!(folder.users().list().len(), 1);
    }

    #[test]
    fn a_folder_of_another_root_or_none_is_told() {
        let place = tempfile::tempdir().unwrap();
        let missing = Folder::open(place.path(), None).unwrap_err();
        assert!(missing.told().unwrap().1.unwrap().contains("auth init"));
        let folder = Folder::create(place.path(), Root::standard(), Existing::Refuse).unwrap();
        folder.save().unwrap();
        drop(folder);
        let other: Root = "blue".parse().unwrap();
        assert!(Folder::open(place.path(), Some(&other)).is_err());
        assert!(Folder::open(place.path(), Some(&Root::standard())).is_ok());
    }
}
