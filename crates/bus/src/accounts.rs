//! The accounts, users and rights of a NATS server, as its configuration wants them.
//!
//! `accounts.conf` is written as a whole from a list of users, [`Users`], and from the one list of subjects in
//! `proto`: so nobody has to keep the two alike, and a name that goes is gone everywhere. The list itself is
//! a small TOML file beside it, without secrets. Everything here makes text and reads text; files are the
//! command line's.

use std::fmt::Write as _;

use longshore_proto::name::{Root, UserName};
use longshore_proto::permission::{Account, Role, cluster_status, permissions};
use longshore_proto::subject::{NodeVerb, Pattern, event_stream, live_events};
use serde::{Deserialize, Serialize};

/// Stands at the top of the list of users.
const USERS_HEADER: &str = "\
# The users of a Longshore cluster's NATS server: roles, names and public keys, no secrets.
# Written by `longshore auth`, which makes accounts.conf from it.

";

/// A user of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// What the user is.
    pub role: Role,
    /// The user's own name; a worker's is its node's.
    pub name: UserName,
    /// The public half of the user's nkey.
    pub nkey: String,
}

/// Why a list of users cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The text is no list of users.
    #[error("this is no list of users as `longshore auth` writes it")]
    Shape(#[source] Box<toml::de::Error>),
    /// A role has the name already.
    #[error("there is a {role} {name} already")]
    Taken {
        /// The role.
        role: Role,
        /// The name.
        name: UserName,
    },
    /// A text is no public nkey of a user.
    #[error(
        "the nkey of the {role} {name} is no user's public key; those begin with U and have 56 characters"
    )]
    Key {
        /// The user's role.
        role: Role,
        /// The user's name.
        name: UserName,
    },
    /// Two users have one key, and the server could not tell them apart.
    #[error("the {role} {name} has the nkey of another user; each needs its own")]
    SharedKey {
        /// The role of the second user.
        role: Role,
        /// The name of the second user.
        name: UserName,
    },
}

/// The users of one cluster's server, ordered by role and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Users {
    root: Root,
    list: Vec<User>,
}

/// What stands in the file, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    root: Root,
    #[serde(default, rename = "user")]
    list: Vec<User>,
}

impl Users {
    /// No users yet.
    pub fn new(root: Root) -> Self {
        Self { root, list: Vec::new() }
    }

    /// Reads a list of users, and checks it.
    pub fn parse(text: &str) -> Result<Self, UsersError> {
        let draft: Draft =
            toml::from_str(text).map_err(|error| UsersError::Shape(Box::new(error)))?;
        let mut users = Self::new(draft.root);
        for user in draft.list {
            users.add(user)?;
        }
        Ok(users)
    }

    /// The list as it stands in its file.
    pub fn to_toml(&self) -> String {
        let mut text = format!("{USERS_HEADER}root = \"{}\"\n", self.root);
        for User { role, name, nkey } in &self.list {
            let _ = write!(
                text,
                "\n[[user]]\nrole = \"{role}\"\nname = \"{name}\"\nnkey = \"{nkey}\"\n"
            );
        }
        text
    }

    /// The first token of every subject that the users' rights speak of.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Every user.
    pub fn list(&self) -> &[User] {
        &self.list
    }

    /// One user.
    pub fn get(&self, role: Role, name: &UserName) -> Option<&User> {
        self.list.iter().find(|user| user.role == role && user.name == *name)
    }

    /// Adds a user.
    pub fn add(&mut self, user: User) -> Result<(), UsersError> {
        let User { role, name, nkey } = &user;
        if self.get(*role, name).is_some() {
            return Err(UsersError::Taken { role: *role, name: name.clone() });
        }
        // The text goes into the server's configuration as it is.
        if !nkey.starts_with('U') || nkeys::KeyPair::from_public_key(nkey).is_err() {
            return Err(UsersError::Key { role: *role, name: name.clone() });
        }
        if self.list.iter().any(|other| other.nkey == *nkey) {
            return Err(UsersError::SharedKey { role: *role, name: name.clone() });
        }
        let place =
            self.list.partition_point(|other| (other.role, &other.name) < (user.role, &user.name));
        self.list.insert(place, user);
        Ok(())
    }

    /// Removes a user, and says whether there was one.
    pub fn remove(&mut self, role: Role, name: &UserName) -> bool {
        let before = self.list.len();
        self.list.retain(|user| user.role != role || user.name != *name);
        self.list.len() < before
    }

    /// The text of `accounts.conf`.
    pub fn accounts_conf(&self) -> String {
        let root = &self.root;
        let (core, bus, event) =
            (self.account(Account::Core), self.account(Account::Bus), self.account(Account::Event));
        let (live, events) = (live_events(root), Pattern::Events.text(root));
        let history = format!("$JS.API.DIRECT.GET.{}", event_stream(root));
        let status = cluster_status(root);
        let metrics = Pattern::Node(NodeVerb::Metrics).text(root);
        format!(
            r#"# The accounts, users and rights of a Longshore cluster with the subject root "{root}".
#
# Written as a whole, from the list of users and the one list of subjects in `proto`. Do not edit: a change by hand is
# lost at the next run. After a change: `nats-server --signal reload`. A user who is gone is disconnected at once, the
# others notice nothing.
#
# Why three accounts. JetStream answers to whatever reply subject a request names, and does not ask whether the asker may
# publish there. So in an account with JetStream, the right to one harmless request (read a message) is in effect the
# right to all of them: a read that answers "404" to `$JS.API.STREAM.DELETE.x` deletes x (tried). Hence the rule: only
# managers have a user in an account with JetStream, and what others may ask of it comes to them by an import, whose
# answers cannot leave their own account.
#
# Only allow lists: what is not named is refused.

accounts {{
  # The log, the lease, the snapshots and the event stream. Managers only.
  CORE {{
    jetstream: {{ max_streams: 4 }}
{core}
    exports: [
      # Committed events, live: the event stream republishes each message after it is stored, with its sequence.
      {{ stream: "{live}", accounts: [BUS, EVENT] }}
      # Committed events, history: read by sequence or subject. Makes no state and can change nothing.
      {{ service: "{history}", accounts: [EVENT], response_type: stream }}
      {{ service: "{history}.>", accounts: [EVENT] }}
    ]
  }}

  # Managers, workers and operators. No JetStream: nobody here can reach a stream, by any subject.
  BUS {{
{bus}
    imports: [
      {{ stream: {{ account: CORE, subject: "{live}" }}, to: "{events}" }}
    ]
    exports: [
      {{ service: "{status}", accounts: [EVENT] }}
      # What nodes and tasks use, as workers tell it.
      {{ stream: "{metrics}", accounts: [EVENT] }}
    ]
  }}

  # Observers: services outside that follow events. No JetStream here either.
  EVENT {{
{event}
    imports: [
      {{ stream: {{ account: CORE, subject: "{live}" }}, to: "{events}" }}
      {{ service: {{ account: CORE, subject: "{history}" }} }}
      {{ service: {{ account: CORE, subject: "{history}.>" }} }}
      {{ service: {{ account: BUS, subject: "{status}" }} }}
      {{ stream: {{ account: BUS, subject: "{metrics}" }} }}
    ]
  }}
}}
"#
        )
    }

    /// The users of one account, with what each may publish and hear.
    fn account(&self, account: Account) -> String {
        let mut text = "    users: [\n".to_owned();
        for User { role, name, nkey } in self.list.iter().filter(|u| u.role.account() == account) {
            let rights = permissions(*role, name, &self.root);
            let _ = write!(
                text,
                "      {{ # {role} {name}\n        nkey: {nkey}\n        permissions: {{\n          \
                 publish: {{ allow: [\n{}          ] }}\n          \
                 subscribe: {{ allow: [\n{}          ] }}\n        }}\n      }}\n",
                quoted(&rights.publish),
                quoted(&rights.subscribe),
            );
        }
        text.push_str("    ]");
        text
    }
}

fn quoted(subjects: &[String]) -> String {
    subjects.iter().map(|subject| format!("            \"{subject}\"\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Credentials;

    /// Stands above what is rendered in the example only.
    const EXAMPLE_NOTE: &str = "\
# An example of what `longshore auth init` and `longshore auth worker NAME` write, made from users.toml. The keys are real
# but their seeds were thrown away: nobody can log in with this file. Make your own; README.md says how.
#
";

    fn user(role: Role, name: &str) -> User {
        let made = Credentials::generate(role, name.parse().unwrap()).unwrap();
        User { role, name: made.name, nkey: made.nkey }
    }

    #[test]
    fn the_example_is_what_is_rendered_for_its_users() {
        let nats = concat!(env!("CARGO_MANIFEST_DIR"), "/../../nats");
        let list = std::fs::read_to_string(format!("{nats}/users.toml")).unwrap();
        let users = Users::parse(&list).unwrap();
        let wanted = format!("{EXAMPLE_NOTE}{}", users.accounts_conf());
        let path = format!("{nats}/accounts.conf");
        if std::env::var_os("LONGSHORE_RENDER").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap();
        let differing = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
        assert!(
            found == wanted,
            "nats/accounts.conf is out of date, first at {differing:?}; \
             LONGSHORE_RENDER=1 cargo test -p longshore-bus accounts writes it anew"
        );
        assert_eq!(users.list().len(), 6);
    }

    #[test]
    fn a_list_is_read_back_in_order() {
        let mut users = Users::new("blue".parse().unwrap());
        for (role, name) in [
            (Role::Observer, "billing"),
            (Role::Worker, "w2"),
            (Role::ManagerCore, "m1"),
            (Role::Worker, "w1"),
            (Role::Manager, "m1"),
        ] {
            users.add(user(role, name)).unwrap();
        }
        let names: Vec<&str> = users.list().iter().map(|user| user.name.as_str()).collect();
        assert_eq!(names, ["m1", "m1", "w1", "w2", "billing"]);
        assert_eq!(Users::parse(&users.to_toml()).unwrap(), users);
        assert_eq!(Users::parse("root = \"blue\"").unwrap(), Users::new("blue".parse().unwrap()));
    }

    #[test]
    fn names_and_keys_are_used_once() {
        let mut users = Users::new(Root::standard());
        let first = user(Role::Worker, "w1");
        users.add(first.clone()).unwrap();
        let again = users.add(user(Role::Worker, "w1"));
        assert!(matches!(again, Err(UsersError::Taken { .. })));
        let shared = users.add(User { name: "w2".parse().unwrap(), ..first });
        assert!(matches!(shared, Err(UsersError::SharedKey { .. })));
        users.add(user(Role::Operator, "w1")).unwrap();
        assert!(users.remove(Role::Worker, &"w1".parse().unwrap()));
        assert!(!users.remove(Role::Worker, &"w1".parse().unwrap()));
        assert!(users.get(Role::Operator, &"w1".parse().unwrap()).is_some());
    }

    #[test]
    fn nothing_but_a_users_public_key_gets_into_the_configuration() {
        let seed = Credentials::generate(Role::Worker, "w1".parse().unwrap()).unwrap().nkey_seed;
        let account = nkeys::KeyPair::new_account().public_key();
        for nkey in ["", "U } evil {", seed.reveal(), &account] {
            let name = "w1".parse().unwrap();
            let added = Users::new(Root::standard()).add(User {
                role: Role::Worker,
                name,
                nkey: nkey.to_owned(),
            });
            assert!(matches!(added, Err(UsersError::Key { .. })), "{nkey:?}");
        }
    }

    #[test]
    fn a_revoked_user_and_another_root_leave_no_trace() {
        let mut users = Users::new("blue".parse().unwrap());
        let gone = user(Role::Worker, "w1");
        users.add(gone.clone()).unwrap();
        assert!(users.accounts_conf().contains(&gone.nkey));
        users.remove(gone.role, &gone.name);
        let text = users.accounts_conf();
        assert!(!text.contains(&gone.nkey) && !text.contains("longshore.v1"));
        assert!(text.contains("{ stream: \"blue.v1.live.>\", accounts: [BUS, EVENT] }"));
        assert!(text.contains("subject: \"$JS.API.DIRECT.GET.blue-event.>\""));
    }
}
