//! Pulls from a registry that wants a login, is missing, or has no such image: each is told apart. The registry is a
//! small one of our own on 127.0.0.1, which Docker takes without TLS.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and the place is told"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use longshore_core::agent::ImageWish;
use longshore_worker::runtime::docker::Docker;
use longshore_worker::runtime::{Runtime, RuntimeError};

/// `ann` with a password whose login has both letters that differ between the two kinds of base64.
const LOGIN: &str = "ann:~~~???>>>~~~";
const LOGIN_BASE64: &str = "YW5uOn5+fj8/Pz4+Pn5+fg==";

/// A registry that knows one user and no image.
struct Registry {
    port: u16,
    /// The logins that came, as they came.
    logins: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let logins = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&logins);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || answer(stream, &seen));
            }
        });
        Self { port, logins }
    }
}

/// Answers requests until the other end has gone.
fn answer(mut stream: TcpStream, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    loop {
        let request = lines.next()?.ok()?;
        let mut login = None;
        loop {
            let line = lines.next()?.ok()?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("authorization")
            {
                login = Some(value.to_owned());
            }
        }
        let is_known = login.as_deref() == Some(&format!("Basic {LOGIN_BASE64}"));
        if let Some(login) = login {
            seen.lock().unwrap().push(login);
        }
        let (status, header, body) = if !is_known {
            let body =
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
            ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"test\"\r\n", body)
        } else if request.starts_with("GET /v2/ ") {
            ("200 OK", "", "{}")
        } else {
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            ("404 Not Found", "", body)
        };
        let length = if request.starts_with("HEAD ") { "" } else { body };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nDocker-Distribution-Api-Version: registry/2.0\r\n{header}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{length}",
            body.len()
        )
        .ok()?;
    }
}

fn docker() -> Docker {
    Docker::new(None, "registry-test".parse().unwrap(), 2)
}

/// Why an image cannot be had, for good.
async fn refusal(docker: &Docker, image: String) -> String {
    match docker.fetch_image(wish(image)).await {
        Err(RuntimeError::Forbidden(reason)) => reason,
        other => panic!("a refusal was expected: {other:?}"),
    }
}

fn wish(image: String) -> ImageWish {
    ImageWish { image, platform: None, login: None }
}

fn file_of_logins(port: u16, login: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!(r#"{{"auths": {{"127.0.0.1:{port}": {{"auth": "{login}"}}}}}}"#);
    std::fs::write(file.path(), text).unwrap();
    file
}

#[tokio::test]
async fn a_login_from_the_nodes_file_reaches_the_registry_whatever_its_letters() {
    let registry = Registry::start();
    let image = format!("127.0.0.1:{}/team/app:1", registry.port);

    let reason = refusal(&docker(), image.clone()).await;
    assert!(reason.contains("login"), "{reason}");
    assert_eq!(registry.logins.lock().unwrap().len(), 0);

    let file = file_of_logins(registry.port, LOGIN_BASE64);
    let known = docker().with_registry_auth(Some(file.path().to_owned()));
    let reason = refusal(&known, image.clone()).await;
    let missing = format!("there is no image {image} in its registry; check its name and tag");
    assert_eq!(reason, missing);
    let login = format!("Basic {LOGIN_BASE64}");
    assert!(registry.logins.lock().unwrap().iter().all(|seen| *seen == login));
    assert!(!registry.logins.lock().unwrap().is_empty());

    // The file is read anew: another password counts at once.
    std::fs::write(
        file.path(),
        format!(r#"{{"auths": {{"127.0.0.1:{}": {{"auth": "YW5uOng="}}}}}}"#, registry.port),
    )
    .unwrap();
    let reason = refusal(&known, image).await;
    assert!(reason.contains("refuses this node's login"), "{reason}");
    for secret in [LOGIN, LOGIN_BASE64, "YW5uOng="] {
        assert!(!reason.contains(secret), "{reason}");
    }
}

#[tokio::test]
async fn a_login_that_a_task_names_reaches_the_registry_and_no_other_is_used_for_it() {
    let registry = Registry::start();
    let folder = tempfile::tempdir().unwrap();
    // As this node would log in by itself, which the registry does not know.
    let own = file_of_logins(registry.port, "YW5uOng=");
    let file = file_of_logins(registry.port, LOGIN_BASE64);
    std::fs::copy(file.path(), folder.path().join("team")).unwrap();
    let docker = docker()
        .with_registry_auth(Some(own.path().to_owned()))
        .with_registry_logins(Some(folder.path().to_owned()));
    let image = format!("127.0.0.1:{}/team/app:1", registry.port);
    let with = |name: &str| ImageWish { login: Some(name.parse().unwrap()), ..wish(image.clone()) };
    let missing = RuntimeError::Forbidden(format!(
        "there is no image {image} in its registry; check its name and tag"
    ));
    assert_eq!(docker.fetch_image(with("team")).await, Err(missing));
    let login = format!("Basic {LOGIN_BASE64}");
    assert!(registry.logins.lock().unwrap().iter().all(|seen| *seen == login));
    let count = registry.logins.lock().unwrap().len();
    assert!(count > 0);

    let refused = docker.fetch_image(with("other")).await;
    let Err(RuntimeError::Forbidden(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("holds no registry login other"), "{reason}");
    assert_eq!(registry.logins.lock().unwrap().len(), count, "nothing was asked");
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_told_as_such() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // That may pass.
    let refused = docker().fetch_image(wish(format!("127.0.0.1:{port}/app:1"))).await;
    let Err(RuntimeError::Refused(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("cannot be reached from this node"), "{reason}");
}
