//! The context: a small file in which `longshore dev` says how to reach it, so that the other verbs find it
//! without options. It holds no secret: of the credentials, only their path.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use longshore_proto::name::Root;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The environment variable that names the file.
const VARIABLE: &str = "LONGSHORE_CONTEXT";

/// How to reach a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// The NATS server's address.
    pub(crate) nats_url: String,
    /// The first token of every subject.
    pub(crate) root: Root,
    /// The operator's credential file, if the server has users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) credentials: Option<PathBuf>,
    /// The process that wrote the file and keeps the cluster up.
    pub(crate) pid: u32,
}

/// What is where the context would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    None,
    /// The context of a cluster that is up, and the file it was read from.
    Live(Context, PathBuf),
    /// The context of a process that is gone.
    Stale(Context, PathBuf),
}

impl Context {
    /// Where the context is: `$LONGSHORE_CONTEXT`, else `longshore/context.toml` in the folder for state.
    pub(crate) fn path() -> Option<PathBuf> {
        let set =
            |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        path_from(set(VARIABLE), set("XDG_STATE_HOME"), set("HOME"))
    }

    /// Reads the context that is there.
    pub(crate) fn read() -> Result<Found, Failure> {
        Self::path().map_or(Ok(Found::None), |path| read_at(&path))
    }

    /// Writes the context where [`Context::read`] looks, in place of another's, and gives the path.
    pub(crate) fn write(&self) -> Result<PathBuf, Failure> {
        let path = Self::path().ok_or_else(|| {
            Failure::new("there is no place for the context file")
                .hint(format!("set HOME, or name a file with {VARIABLE}"))
        })?;
        write_at(&path, self).map_err(|error| {
            Failure::new(format!("cannot write the context file {}", path.display()))
                .cause(&error)
                .hint(format!("name another file with {VARIABLE}"))
        })?;
        Ok(path)
    }

    /// Removes the context, if it is still this one.
    pub(crate) fn remove(&self) {
        if let Some(path) = Self::path() {
            remove_at(&path, self);
        }
    }
}

fn path_from(
    named: Option<PathBuf>,
    state_home: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Option<PathBuf> {
    named.or_else(|| {
        let folder = state_home.or_else(|| home.map(|home| home.join(".local/state")))?;
        Some(folder.join("longshore/context.toml"))
    })
}

fn read_at(path: &Path) -> Result<Found, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Found::None);
        }
        Err(error) => {
            return Err(Failure::new(format!("cannot read the context file {}", path.display()))
                .cause(&error)
                .hint("say where NATS is with --nats, or remove the file"));
        }
    };
    let context: Context = toml::from_str(&text).map_err(|error| {
        Failure::new(format!("the context file {} cannot be read", path.display()))
            .because(error.message())
            .hint("remove it; `longshore dev` writes it anew")
    })?;
    let path = path.to_owned();
    if is_alive(context.pid) {
        Ok(Found::Live(context, path))
    } else {
        Ok(Found::Stale(context, path))
    }
}

/// Whole or not at all: the new file takes the old one's place in one step.
fn write_at(path: &Path, context: &Context) -> io::Result<()> {
    let text = toml::to_string(context).map_err(io::Error::other)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", context.pid));
    let draft = PathBuf::from(name);
    std::fs::write(&draft, format!("# Written by `longshore dev`; removed when it ends.\n{text}"))?;
    std::fs::rename(&draft, path)
}

fn remove_at(path: &Path, context: &Context) {
    if matches!(read_at(path), Ok(Found::Live(other, _) | Found::Stale(other, _)) if other == *context)
    {
        // A context that stays behind is noticed by its process, which is gone.
        let _ = std::fs::remove_file(path);
    }
}

/// Whether a process is there. Where the system does not show its processes as files, it is taken to be.
fn is_alive(pid: u32) -> bool {
    let processes = Path::new("/proc");
    !processes.join("self").exists() || processes.join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pid: u32) -> Context {
        Context {
            nats_url: "nats://127.0.0.1:4333".into(),
            root: "dev".parse().unwrap(),
            credentials: Some("/tmp/operator.creds".into()),
            pid,
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_removed_by_its_writer_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/longshore/context.toml");
        assert_eq!(read_at(&path).unwrap(), Found::None);
        let mine = sample(std::process::id());
        write_at(&path, &mine).unwrap();
        assert_eq!(read_at(&path).unwrap(), Found::Live(mine.clone(), path.clone()));
        remove_at(&path, &Context { pid: 1, ..mine.clone() });
        assert!(path.exists());
        remove_at(&path, &mine);
        assert!(!path.exists());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn the_context_of_a_process_that_is_gone_is_stale() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("context.toml");
        let gone = sample(u32::MAX);
        write_at(&path, &gone).unwrap();
        assert_eq!(read_at(&path).unwrap(), Found::Stale(gone, path));
    }

    #[test]
    fn a_broken_file_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("context.toml");
        std::fs::write(&path, "nats = 1").unwrap();
        let failure = read_at(&path).unwrap_err();
        assert!(failure.told().unwrap().1.unwrap().contains("remove it"));
    }

    #[test]
    fn the_place_follows_the_environment() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(path_from(path("/x/c.toml"), path("/s"), path("/h")), path("/x/c.toml"));
        assert_eq!(path_from(None, path("/s"), path("/h")), path("/s/longshore/context.toml"));
        assert_eq!(
            path_from(None, None, path("/h")),
            path("/h/.local/state/longshore/context.toml")
        );
        assert_eq!(path_from(None, None, None), None);
    }
}
