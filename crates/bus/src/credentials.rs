//! The file that proves who a client is: a role, a name and the seed of an nkey, as TOML.
//!
//! Role and name stand in the file because the client needs them before it connects: its answers go to
//! `_INBOX.<role>.<name>.`, the only inbox that the server lets it hear.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use longshore_proto::name::UserName;
use longshore_proto::permission::Role;
use serde::{Deserialize, Serialize};

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself; for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Who a client is, with the proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// What the client is.
    pub role: Role,
    /// Its own name; a worker's is its node's.
    pub name: UserName,
    /// The public half of the nkey, as the server's configuration lists it.
    pub nkey: String,
    /// The secret half.
    pub nkey_seed: Secret,
}

/// Why a credential file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read or written.
    #[error("cannot use the credential file {path}; make one with `longshore auth init`")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is no credential file of ours.
    #[error(
        "{path} is no credential file; it needs role, name, nkey and nkey_seed as `longshore auth` writes them"
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never the content.
        source: Box<toml::de::Error>,
    },
    /// The seed is no nkey seed.
    #[error("the nkey_seed in {path} is no user seed; make new credentials with `longshore auth`")]
    Seed {
        /// The file.
        path: PathBuf,
    },
    /// The file is of another role than the program that was given it.
    #[error("{path} belongs to a {actual}, and a {wanted} is needed here")]
    WrongRole {
        /// The file.
        path: PathBuf,
        /// What it is.
        actual: Role,
        /// What was needed.
        wanted: Role,
    },
}

impl Credentials {
    /// Reads a credential file.
    pub fn load(path: &Path) -> Result<Self, CredentialsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| CredentialsError::Io { path: path.to_owned(), source })?;
        let credentials: Self = toml::from_str(&text).map_err(|mut source| {
            // The parser would quote the line, which may be the seed.
            source.set_input(None);
            CredentialsError::Shape { path: path.to_owned(), source: Box::new(source) }
        })?;
        let pair = nkeys::KeyPair::from_seed(credentials.nkey_seed.reveal())
            .map_err(|_| CredentialsError::Seed { path: path.to_owned() })?;
        if pair.public_key() != credentials.nkey {
            return Err(CredentialsError::Seed { path: path.to_owned() });
        }
        Ok(credentials)
    }

    /// Reads a credential file that must be of one role.
    pub fn load_as(path: &Path, wanted: Role) -> Result<Self, CredentialsError> {
        let credentials = Self::load(path)?;
        if credentials.role != wanted {
            return Err(CredentialsError::WrongRole {
                path: path.to_owned(),
                actual: credentials.role,
                wanted,
            });
        }
        Ok(credentials)
    }

    /// Makes new credentials with a fresh key.
    pub fn generate(role: Role, name: UserName) -> Result<Self, nkeys::error::Error> {
        let pair = nkeys::KeyPair::new_user();
        Ok(Self { role, name, nkey: pair.public_key(), nkey_seed: Secret::new(pair.seed()?) })
    }

    /// The content of the file.
    pub fn to_toml(&self) -> String {
        format!(
            "# Longshore credentials: keep this file readable by its owner alone.\n\
             role = \"{}\"\nname = \"{}\"\nnkey = \"{}\"\nnkey_seed = \"{}\"\n",
            self.role,
            self.name,
            self.nkey,
            self.nkey_seed.reveal()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_secrets_stay_out_of_debug() {
        let made = Credentials::generate(Role::Worker, "w1".parse().unwrap()).unwrap();
        let path = std::env::temp_dir().join(format!("longshore-{}.creds", made.nkey));
        std::fs::write(&path, made.to_toml()).unwrap();
        let read = Credentials::load_as(&path, Role::Worker).unwrap();
        assert_eq!(read, made);
        assert!(matches!(
            Credentials::load_as(&path, Role::Operator),
            Err(CredentialsError::WrongRole { .. })
        ));
        std::fs::remove_file(&path).unwrap();
        assert!(!format!("{made:?}").contains(made.nkey_seed.reveal()));
    }
}
