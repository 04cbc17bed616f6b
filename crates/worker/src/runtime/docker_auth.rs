//! Logins for registries, from files on the node in the form that `docker login` writes: one for every task, and one
//! under a name for tasks that name it.
//!
//! A file is read for each pull, so that a changed password counts at once. It never leaves the node: neither job
//! nor report, log or error names what is in it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use longshore_core::agent::ImageWish;
use longshore_proto::name::LoginName;
use serde::Deserialize;

use super::RuntimeError;
use super::docker::Docker;

/// The registry of images that name none.
const HUB: &str = "docker.io";
/// The names that `docker login` writes for it.
const HUB_NAMES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// The part of Docker's `config.json` that is read.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

/// A login: `auth` is `user:password` in base64.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default, rename = "identitytoken")]
    identity_token: Option<String>,
}

/// The login that an image's registry is asked with: the one that the task names, or the node's own, if it has one.
pub(super) async fn login_for(
    docker: &Docker,
    wish: &ImageWish,
) -> Result<Option<DockerCredentials>, RuntimeError> {
    let (own, folder) = (docker.registry_auth.clone(), docker.registry_logins.clone());
    let (image, name) = (wish.image.clone(), wish.login.clone());
    let read = tokio::task::spawn_blocking(move || match (name, own) {
        (Some(name), _) => named(folder.as_deref(), &name, &image).map(Some),
        (None, Some(file)) => login(&file, &image).map_err(RuntimeError::Refused),
        (None, None) => Ok(None),
    });
    let broken = |error| RuntimeError::Refused(format!("the logins could not be read: {error}"));
    read.await.unwrap_or_else(|error| Err(broken(error)))
}

/// The login of a name for an image's registry. That the node does not hold it is nothing that passes by itself.
fn named(
    folder: Option<&Path>,
    name: &LoginName,
    image: &str,
) -> Result<DockerCredentials, RuntimeError> {
    let forbid =
        |text: String| RuntimeError::Forbidden(format!("{image} cannot be pulled: {text}"));
    let file = folder.map(|folder| folder.join(name.as_str())).filter(|file| file.is_file());
    let Some(file) = file else {
        return Err(forbid(format!(
            "this node holds no registry login {name}; its operator puts a file of that name, as `docker login` \
             writes it, into the folder of `longshore worker --registry-logins`"
        )));
    };
    match login(&file, image) {
        Ok(Some(login)) => Ok(login),
        Ok(None) => {
            let registry = registry_of(image);
            Err(forbid(format!("this node's registry login {name} has none for {registry}")))
        }
        Err(text) => Err(forbid(text)),
    }
}

/// The login for an image's registry, if the file has one. Looks at the disk.
///
/// # Errors
/// When the file cannot be used; the text says why, and nothing of what is in it.
fn login(file: &Path, image: &str) -> Result<Option<DockerCredentials>, String> {
    let problem =
        |what: &str, cure: &str| format!("the file of logins {} {what}; {cure}", file.display());
    let unread = |error: io::Error| {
        problem(
            &format!("cannot be read ({error})"),
            "look at --registry-auth and --registry-logins of this node's worker",
        )
    };
    let metadata = fs::metadata(file).map_err(unread)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(problem(
            "may be read by others",
            "let only the worker's user read it (chmod 600)",
        ));
    }
    let text = fs::read_to_string(file).map_err(unread)?;
    // Not the parser's own words: they may quote what is in the file.
    let Ok(config) = serde_json::from_str::<Config>(&text) else {
        return Err(problem(
            "is not what `docker login` writes",
            "write {\"auths\": {\"REGISTRY\": {\"auth\": \"…\"}}}",
        ));
    };
    let registry = registry_of(image);
    let Some((server, entry)) = config.auths.into_iter().find(|(name, _)| is_for(name, registry))
    else {
        return Ok(None);
    };
    let (user, password) = match entry.auth.as_deref().filter(|auth| !auth.is_empty()) {
        None => (entry.username, entry.password),
        Some(auth) => {
            let decoded = STANDARD.decode(auth.trim()).ok();
            let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            let Some((user, password)) = decoded.as_deref().and_then(|text| text.split_once(':'))
            else {
                return Err(problem(
                    &format!("has a login for {server} that is no base64 of user:password"),
                    "write it anew with `docker login`",
                ));
            };
            // Docker pads with zero bytes where it keeps it elsewhere.
            (Some(user.to_owned()), Some(password.trim_matches('\0').to_owned()))
        }
    };
    if user.is_none() && entry.identity_token.is_none() {
        let where_it_is =
            config.store.map_or_else(String::new, |store| format!(" (it is kept by {store})"));
        return Err(problem(
            &format!("names {server} and has no login for it{where_it_is}"),
            "log in without a credential store, and take the file that this writes",
        ));
    }
    Ok(Some(DockerCredentials {
        username: user,
        password,
        identitytoken: entry.identity_token,
        serveraddress: Some(server),
        ..DockerCredentials::default()
    }))
}

/// The registry that an image comes from.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => HUB,
    }
}

/// Whether a name in the file means a registry.
fn is_for(name: &str, registry: &str) -> bool {
    let bare = name.trim_start_matches("https://").trim_start_matches("http://");
    let host = bare.split('/').next().unwrap_or(bare);
    host == registry || (HUB_NAMES.contains(&host) && HUB_NAMES.contains(&registry))
}

/// The library writes the login in the usual base64 where Docker reads the one for URLs; Docker takes a login with one
/// of the two letters that differ for none at all.
pub(super) fn mend(client: bollard::Docker) -> bollard::Docker {
    client.with_request_modifier(|mut request| {
        let headers = request.headers_mut();
        let written = headers.get("x-registry-auth").and_then(|value| value.to_str().ok());
        let mended = written.map(|text| text.replace('+', "-").replace('/', "_"));
        if let Some(Ok(mended)) = mended.map(|text| text.parse()) {
            headers.insert("x-registry-auth", mended);
        }
        request
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        // Made for its owner alone.
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        file
    }

    fn user(file: &Path, image: &str) -> Option<(String, String)> {
        let login = login(file, image).unwrap()?;
        Some((login.username?, login.password?))
    }

    #[test]
    fn a_login_is_found_by_the_registry_of_the_image() {
        let text = format!(
            r#"{{"auths": {{"reg.example:5000": {{"auth": "{}"}}, "https://index.docker.io/v1/": {{"auth": "{}"}}}}}}"#,
            STANDARD.encode("ann:a:b"),
            STANDARD.encode("hub:secret\0\0"),
        );
        let file = file(&text);
        let ann = Some(("ann".to_owned(), "a:b".to_owned()));
        let hub = Some(("hub".to_owned(), "secret".to_owned()));
        assert_eq!(user(file.path(), "reg.example:5000/team/app:1"), ann);
        for image in ["busybox", "library/busybox:1", "docker.io/library/busybox"] {
            assert_eq!(user(file.path(), image), hub, "{image}");
        }
        for image in ["reg.example/app", "localhost/app", "other.example:5000/app"] {
            assert_eq!(user(file.path(), image), None, "{image}");
        }
    }

    #[test]
    fn a_login_of_a_name_is_the_file_of_that_name_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("team");
        let auth = STANDARD.encode("ann:secret");
        let text = format!(r#"{{"auths": {{"reg.example": {{"auth": "{auth}"}}}}}}"#);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let ask = |name: &str, image: &str| match named(
            Some(folder.path()),
            &name.parse().unwrap(),
            image,
        ) {
            Ok(login) => login.password.unwrap(),
            Err(RuntimeError::Forbidden(reason)) => reason,
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(ask("team", "reg.example/app:1"), "secret");
        assert!(ask("other", "reg.example/app:1").contains("holds no registry login other"));
        // It is told to no registry but its own.
        let reason = ask("team", "evil.example/app:1");
        assert!(reason.contains("team has none for evil.example"), "{reason}");
        let nowhere = named(None, &"team".parse().unwrap(), "reg.example/app:1");
        assert!(nowhere.unwrap_err().to_string().contains("--registry-logins"));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_told_without_what_is_in_it() {
        let reason = |text: &str| {
            let reason = login(file(text).path(), "r.example/x").unwrap_err();
            assert!(!reason.contains("c2VjcmV0"), "{reason}");
            reason
        };
        assert!(reason("c2VjcmV0").contains("docker login"));
        assert!(
            reason(r#"{"auths": {"r.example": {"auth": "c2VjcmV0"}}}"#).contains("user:password")
        );
        let kept = r#"{"auths": {"r.example": {}}, "credsStore": "desktop"}"#;
        assert!(reason(kept).contains("kept by desktop"));
        let gone = login(Path::new("/no/such/file"), "x").unwrap_err();
        assert!(gone.contains("--registry-auth"), "{gone}");
        let open = file(r#"{"auths": {}}"#);
        fs::set_permissions(open.path(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(login(open.path(), "x").unwrap_err().contains("chmod 600"));
    }
}
