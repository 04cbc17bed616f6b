//! Logins for registries, from a file on the node in the form that `docker login` writes.
//!
//! The file is read for each pull, so that a changed password counts at once. It never leaves the node: neither job
//! nor report, log or error names what is in it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use serde::Deserialize;

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

/// The login for an image's registry, if the file has one. Looks at the disk.
///
/// # Errors
/// When the file cannot be used; the text says why, and nothing of what is in it.
pub(super) fn login(file: &Path, image: &str) -> Result<Option<DockerCredentials>, String> {
    let problem =
        |what: &str, cure: &str| format!("the file of logins {} {what}; {cure}", file.display());
    let unread = |error: io::Error| {
        problem(
            &format!("cannot be read ({error})"),
            "look at --registry-auth of this node's worker",
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
