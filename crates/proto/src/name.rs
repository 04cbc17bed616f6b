//! Names that become subject tokens: validated where they enter, typed from there on.
//!
//! One rule for all of them (`[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`, the DNS label of RFC 1123), so that a
//! name is a legal NATS token, a legal host name and a legal part of a container's name.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// The longest name, in bytes.
pub const NAME_LENGTH_MAX: usize = 63;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("{kind} is empty; use 1 to 63 of a-z, 0-9 and '-'")]
    Empty {
        /// Which kind of name was meant.
        kind: &'static str,
    },
    /// The text is longer than [`NAME_LENGTH_MAX`].
    #[error("{kind} has {length} characters; at most 63 are allowed")]
    TooLong {
        /// Which kind of name was meant.
        kind: &'static str,
        /// How long the text is, in bytes.
        length: usize,
    },
    /// The text has a character that no name may have, or begins or ends with `-`.
    #[error(
        "{kind} {text:?} is not allowed; use a-z, 0-9 and '-', beginning and ending with a letter or digit"
    )]
    Character {
        /// Which kind of name was meant.
        kind: &'static str,
        /// The text as given.
        text: String,
    },
}

fn check(kind: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { kind });
    }
    if text.len() > NAME_LENGTH_MAX {
        return Err(NameError::TooLong { kind, length: text.len() });
    }
    let legal = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !legal || text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::Character { kind, text: text.to_owned() });
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident($text:ty), $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name($text);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;
            fn try_from(text: &str) -> Result<Self, NameError> {
                check($kind, text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::try_from(text.as_str())
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::try_from(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name_type!(
    /// The first token of every subject of one cluster.
    Root(Arc<str>), "the subject root");
name_type!(
    /// Whose work it is.
    Namespace(Arc<str>), "the namespace");
name_type!(
    /// A job's name, unique in its namespace.
    JobName(Arc<str>), "the job name");
name_type!(
    /// A task spec's name, unique in its job.
    SpecName(Arc<str>), "the task spec name");
name_type!(
    /// A node's name, unique in its cluster. Nodes are looked up by it whenever a task comes or goes: up to 23 bytes of it
    /// lie where it is held, and need not be fetched from somewhere else in memory.
    NodeName(SmolStr), "the node name");
name_type!(
    /// Where a node stands and a job may run.
    Datacenter(Arc<str>), "the datacenter");
name_type!(
    /// A login for registries that a node holds.
    LoginName(Arc<str>), "the registry login's name");
name_type!(
    /// A client's own name: of a manager, a worker, an operator or an observer.
    UserName(SmolStr), "the user name");

impl Root {
    /// The root that is meant when none is given.
    pub fn standard() -> Self {
        Self("longshore".into())
    }
}

impl Namespace {
    /// The namespace that is meant when none is given.
    pub fn standard() -> Self {
        Self("default".into())
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::standard()
    }
}

impl Datacenter {
    /// The datacenter that is meant when none is given.
    pub fn standard() -> Self {
        Self("dc1".into())
    }
}

impl From<NodeName> for UserName {
    /// A worker's user is named for its node, so that the server's permissions bind the two.
    fn from(node: NodeName) -> Self {
        Self(node.0)
    }
}

impl From<UserName> for NodeName {
    /// A worker's user is named for its node.
    fn from(user: UserName) -> Self {
        Self(user.0)
    }
}

/// A job's full name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobKey {
    /// The namespace that the job belongs to.
    pub namespace: Namespace,
    /// The job's name in it.
    pub name: JobName,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_names_are_dns_labels() {
        for text in ["a", "0", "web-1", &"a".repeat(63)] {
            assert_eq!(JobName::try_from(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn illegal_names_say_what_is_wrong_with_them() {
        for text in ["-a", "a-", "a.b", "A", "a b", "*", ">", "_", "é"] {
            assert!(
                matches!(JobName::try_from(text), Err(NameError::Character { .. })),
                "{text} must be refused"
            );
        }
        assert!(matches!(JobName::try_from(""), Err(NameError::Empty { .. })));
        let long = "a".repeat(300);
        let error = JobName::try_from(long.as_str()).unwrap_err();
        assert_eq!(error.to_string(), "the job name has 300 characters; at most 63 are allowed");
    }

    #[test]
    fn a_name_from_the_wire_is_checked_too() {
        assert!(serde_json::from_str::<NodeName>("\"n1\"").is_ok());
        assert!(serde_json::from_str::<NodeName>("\"n.1\"").is_err());
    }
}
