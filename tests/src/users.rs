//! The users of a NATS server and their credential files, made as `longshore auth` makes them.

use std::path::{Path, PathBuf};

use longshore_bus::Credentials;
use longshore_bus::accounts::{self, User};
use longshore_proto::name::Root;
use longshore_proto::permission::Role;

/// Everybody that the tests need: two managers with two accounts each, five workers, two operators, an observer.
pub const EVERYBODY: [(Role, &str); 12] = [
    (Role::ManagerCore, "m1"),
    (Role::Manager, "m1"),
    (Role::ManagerCore, "m2"),
    (Role::Manager, "m2"),
    (Role::Worker, "w1"),
    (Role::Worker, "w2"),
    (Role::Worker, "w3"),
    (Role::Worker, "w4"),
    (Role::Worker, "w5"),
    (Role::Operator, "alice"),
    (Role::Operator, "bob"),
    (Role::Observer, "billing"),
];

/// The users of one server.
#[derive(Debug)]
pub struct Users {
    folder: PathBuf,
    list: accounts::Users,
}

impl Users {
    /// Makes everybody, with credential files in a folder.
    pub fn everybody(folder: &Path, root: &Root) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let mut list = accounts::Users::new(root.clone());
        for (role, name) in EVERYBODY {
            let made = Credentials::generate(role, name.parse().unwrap()).unwrap();
            std::fs::write(folder.join(format!("{role}-{name}.creds")), made.to_toml()).unwrap();
            list.add(User { role, name: made.name, nkey: made.nkey }).unwrap();
        }
        Self { folder: folder.to_owned(), list }
    }

    /// Adds so many workers, and gives their names. The server must be told: see [`Users::accounts_conf`].
    pub fn add_workers(&mut self, count: usize) -> Vec<String> {
        let names: Vec<String> = (0..count).map(|number| format!("many-{number}")).collect();
        for name in &names {
            let made = Credentials::generate(Role::Worker, name.parse().unwrap()).unwrap();
            std::fs::write(self.file(Role::Worker, name), made.to_toml()).unwrap();
            let user = User { role: Role::Worker, name: made.name, nkey: made.nkey };
            self.list.add(user).unwrap();
        }
        names
    }

    /// The first token of every subject.
    pub fn root(&self) -> &Root {
        self.list.root()
    }

    /// A user's credential file.
    pub fn file(&self, role: Role, name: &str) -> PathBuf {
        self.folder.join(format!("{role}-{name}.creds"))
    }

    /// A user's credentials.
    pub fn credentials(&self, role: Role, name: &str) -> Credentials {
        Credentials::load_as(&self.file(role, name), role).unwrap()
    }

    /// The server's `accounts.conf`.
    pub fn accounts_conf(&self) -> String {
        self.list.accounts_conf()
    }
}
