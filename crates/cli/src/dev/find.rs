//! Which nats-server to start, and whether it is new enough.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use crate::failure::{Exit, Failure};

/// The oldest version that Longshore runs with.
const OLDEST: (u64, u64) = (2, 12);
/// Where `scripts/setup` of a checkout puts it.
const IN_CHECKOUT: &str = ".tools/bin/nats-server";
/// How long the program may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);
/// How to get one.
const CURE: &str = "`scripts/setup` in a checkout of Longshore fetches one; or get 2.12 or newer (best 2.14.5 or newer) \
                    from https://github.com/nats-io/nats-server/releases, and put it on PATH or name it with --nats-server";

/// A nats-server that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NatsServer {
    /// The program.
    pub(crate) path: PathBuf,
    /// Its version.
    pub(crate) version: String,
}

/// Finds a nats-server: the one that is named, else a checkout's, else the first on PATH that is new enough.
pub(crate) async fn nats_server(named: Option<&Path>) -> Result<NatsServer, Failure> {
    if let Some(path) = named {
        return check(path).await.map_err(|problem| {
            Failure::new(format!("{} cannot be used: {problem}", path.display()))
                .hint(CURE)
                .exit(Exit::Usage)
        });
    }
    let places = [std::env::current_exe().ok(), std::env::current_dir().ok()];
    let mut problems = Vec::new();
    for path in candidates(&places, std::env::var_os("PATH").as_deref()) {
        match check(&path).await {
            Ok(found) => return Ok(found),
            Err(problem) => problems.push(format!("{}: {problem}", path.display())),
        }
    }
    let failure = Failure::new("there is no nats-server to start");
    Err(if problems.is_empty() {
        failure.because("none is on PATH").hint(CURE)
    } else {
        failure.because(&problems.join("; ")).hint(CURE)
    })
}

/// Every nats-server that there is: above the places, nearest first, then on PATH.
fn candidates(places: &[Option<PathBuf>], search: Option<&OsStr>) -> Vec<PathBuf> {
    let above = places.iter().flatten().flat_map(|place| place.ancestors());
    let mut found: Vec<PathBuf> =
        above.map(|folder| folder.join(IN_CHECKOUT)).filter(|path| is_ours(path)).collect();
    let folders = search.map(std::env::split_paths).into_iter().flatten();
    found.extend(folders.map(|folder| folder.join("nats-server")).filter(|path| path.is_file()));
    found.dedup();
    found
}

/// Whether a file above us may be run: somebody else's, in a folder that everybody may write, may not.
fn is_ours(path: &Path) -> bool {
    let me = rustix::process::geteuid().as_raw();
    let safe = |owner: u32, mode: u32| (owner == me || owner == 0) && mode & 0o002 == 0;
    let good = |path: &Path| std::fs::metadata(path).is_ok_and(|m| safe(m.uid(), m.mode()));
    path.is_file() && good(path) && path.parent().is_some_and(good)
}

/// Asks a program for its version.
async fn check(path: &Path) -> Result<NatsServer, String> {
    let asked = Command::new(path)
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(VERSION_TIMEOUT, asked).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("it does not say its version within {VERSION_TIMEOUT:?}")),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let Some((version, numbers)) = version(&text) else {
        return Err("it does not say a nats-server's version".to_owned());
    };
    if numbers < OLDEST {
        return Err(format!("it is version {version}, and 2.12 or newer is needed"));
    }
    Ok(NatsServer { path: path.to_owned(), version: version.to_owned() })
}

/// Reads `nats-server: v2.14.6`: the version, and its first two numbers.
fn version(text: &str) -> Option<(&str, (u64, u64))> {
    let version = text.trim().strip_prefix("nats-server: v")?.split_whitespace().next()?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((version, (numbers.next()?.ok()?, numbers.next()?.ok()?)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(path: &Path, says: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn versions_are_read_as_the_server_says_them() {
        assert_eq!(version("nats-server: v2.14.6\n"), Some(("2.14.6", (2, 14))));
        assert_eq!(version("nats-server: v3.0.0-RC.1"), Some(("3.0.0-RC.1", (3, 0))));
        for other in ["", "nats-server: v", "nats-server: vx.y", "redis 2.14.6"] {
            assert_eq!(version(other), None, "{other:?}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_too_old_or_none_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nats-server");
        script(&path, "nats-server: v2.11.9");
        let failure = nats_server(Some(&path)).await.unwrap_err();
        let (text, hint) = failure.told().unwrap();
        assert!(text.contains("version 2.11.9, and 2.12 or newer is needed"), "{text}");
        assert!(hint.unwrap().contains("scripts/setup"));
        script(&path, "hello");
        assert!(nats_server(Some(&path)).await.is_err());
        assert!(nats_server(Some(&folder.path().join("missing"))).await.is_err());
        script(&path, "nats-server: v2.12.0");
        assert_eq!(nats_server(Some(&path)).await.unwrap().version, "2.12.0");
    }

    #[test]
    fn a_checkouts_server_comes_before_that_on_the_path_and_a_strangers_never() {
        let folder = tempfile::tempdir().unwrap();
        let checkout = folder.path().join("checkout");
        let own = checkout.join(IN_CHECKOUT);
        script(&own, "x");
        let on_path = folder.path().join("bin/nats-server");
        script(&on_path, "x");
        let search = on_path.parent().unwrap().as_os_str().to_owned();
        let places = [Some(checkout.join("target/debug/longshore")), Some(checkout.clone())];
        let found = candidates(&places, Some(&search));
        assert_eq!(found, [own.clone(), own.clone(), on_path.clone()][1..]);
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(candidates(&places, Some(&search)), [on_path]);
    }
}
