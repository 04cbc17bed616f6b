//! A socket in front of Docker that a test can shut, as if the daemon were away.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::docker;

/// The socket.
#[derive(Debug)]
pub struct Proxy {
    path: PathBuf,
    target: Arc<PathBuf>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    shut: watch::Sender<()>,
    listener: AbortHandle,
}

impl Proxy {
    /// Opens a socket at a path, in front of the machine's Docker.
    pub fn start(path: &Path) -> Self {
        let host = docker::host();
        let target = host.strip_prefix("unix://").unwrap_or(&host);
        assert!(target.starts_with('/'), "this test needs Docker at a local socket, not at {host}");
        let mut proxy = Self { path: path.to_owned(), target: Arc::new(target.into()), open: None };
        proxy.open();
        proxy
    }

    /// As `DOCKER_HOST` wants it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Lets everybody in again.
    pub fn open(&mut self) {
        let listener = UnixListener::bind(&self.path).unwrap();
        let (shut, shutting) = watch::channel(());
        let target = Arc::clone(&self.target);
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (target, mut shutting) = (Arc::clone(&target), shutting.clone());
                tokio::spawn(async move {
                    let Ok(mut daemon) = UnixStream::connect(target.as_path()).await else {
                        return;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut daemon) => {}
                        // Resolves when the sender goes: the connection breaks in the middle.
                        _ = shutting.changed() => {}
                    }
                });
            }
        });
        self.open = Some(Open { shut, listener: task.abort_handle() });
    }

    /// Breaks every connection and refuses new ones.
    pub fn shut(&mut self) {
        if let Some(Open { shut, listener }) = self.open.take() {
            listener.abort();
            drop(shut);
            std::fs::remove_file(&self.path).unwrap();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shut();
    }
}
