//! Images: looked for, fetched, and taken away.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::{CreateImageOptionsBuilder, RemoveImageOptionsBuilder};
use futures_util::stream::StreamExt;
use longshore_core::agent::ImageWish;
use longshore_proto::metrics::{PullFigures, PullStep};
use tracing::debug;

use super::RuntimeError;
use super::docker::Docker;
use super::docker_auth;
use super::docker_error::{explain_pull, status};

/// How long a pull may be silent.
const PULL_SILENCE_MAX: Duration = Duration::from_secs(120);
/// What the id of an image begins with, and no reference.
const ID_PREFIX: &str = "sha256:";

/// The id of an image that is here, made for the platform that is meant.
pub(super) async fn find(
    docker: &Docker,
    wish: &ImageWish,
) -> Result<Option<String>, RuntimeError> {
    let client = docker.client()?;
    if let (Some(platform), Some(machine)) = (&wish.platform, docker.platform.get())
        && !platform.runs_on(machine)
    {
        return Err(RuntimeError::Forbidden(format!(
            "it is made for {platform}, and this node runs {machine}"
        )));
    }
    match client.inspect_image(&wish.image).await {
        Ok(found) => Ok(found.id.clone().filter(|_| is_meant(wish, &found))),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(docker.explain(&error, "looking for the image")),
    }
}

/// Whether an image is made for the platform that is meant.
fn is_meant(wish: &ImageWish, found: &ImageInspect) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (os, arch, variant) = (text(&found.os), text(&found.architecture), text(&found.variant));
    wish.platform.as_ref().is_none_or(|platform| platform.is_of_image(&os, &arch, &variant))
}

/// Fetches an image from its registry.
pub(super) async fn fetch(docker: &Docker, wish: &ImageWish) -> Result<(), RuntimeError> {
    let (client, image) = (docker.client()?, wish.image.as_str());
    let shown = docker.progress.begin(image);
    let _place = docker.pulls.acquire().await;
    let platform = wish.platform.as_ref().map(ToString::to_string).unwrap_or_default();
    let options = CreateImageOptionsBuilder::default()
        .from_image(&with_tag(image))
        .platform(&platform)
        .build();
    let login = docker_auth::login_for(docker, wish).await?;
    let has_login = login.is_some();
    let mut progress = client.create_image(Some(options), None, login);
    loop {
        match tokio::time::timeout(PULL_SILENCE_MAX, progress.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(step))) => {
                debug!(image, status = step.status, "pulling");
                shown.take(&step);
            }
            Ok(Some(Err(error))) => {
                return Err(explain_pull(&error, docker.host(), image, has_login));
            }
            Err(_) => {
                return Err(RuntimeError::Refused(format!(
                    "pulling {image} made no progress for {}s",
                    PULL_SILENCE_MAX.as_secs()
                )));
            }
        }
    }
}

/// Takes an image away. By one of its references: who else has given it a name keeps it under that. By its id only
/// where nobody has given it one.
pub(super) async fn remove(docker: &Docker, image: &str) -> Result<(), RuntimeError> {
    let client = docker.client()?;
    if image.starts_with(ID_PREFIX) {
        let names = match client.inspect_image(image).await {
            Ok(found) => found.repo_tags.unwrap_or_default(),
            Err(error) if status(&error) == Some(404) => return Ok(()),
            Err(error) => return Err(docker.explain(&error, "looking at the image")),
        };
        if let Some(name) = names.first() {
            return Err(RuntimeError::Forbidden(format!("it has a name: {name}")));
        }
    }
    let options = RemoveImageOptionsBuilder::default().force(false).build();
    match client.remove_image(image, Some(options), None).await {
        Ok(_) => Ok(()),
        Err(error) if status(&error) == Some(404) => Ok(()),
        Err(error) => Err(docker.explain(&error, "removing the image")),
    }
}

/// How far the pulls have come.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<BTreeMap<String, Pulls>>);

/// The pulls of one image. Mostly it is one; tasks with two logins have it pulled twice.
#[derive(Debug, Default)]
struct Pulls {
    /// How many are under way.
    count: usize,
    layers: Layers,
}

/// What is known of an image's layers, by their ids.
type Layers = BTreeMap<String, Layer>;

#[derive(Debug, Default)]
struct Layer {
    done_bytes: u64,
    total_bytes: u64,
    step: PullStep,
}

/// A pull whose progress is shown, until this goes.
struct Shown<'a> {
    progress: &'a Progress,
    image: &'a str,
}

impl Progress {
    fn begin<'a>(&'a self, image: &'a str) -> Shown<'a> {
        self.lock().entry(image.to_owned()).or_default().count += 1;
        Shown { progress: self, image }
    }

    /// How far each has come.
    pub(super) fn figures(&self) -> Vec<PullFigures> {
        self.lock().iter().map(|(image, pulls)| figures(image, &pulls.layers)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Pulls>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown<'_> {
    /// Takes in what Docker says of a layer.
    fn take(&self, step: &CreateImageInfo) {
        let (Some(id), Some(status)) = (&step.id, step.status.as_deref()) else { return };
        let mut images = self.progress.lock();
        let Some(Pulls { layers, .. }) = images.get_mut(self.image) else { return };
        let detail = step.progress_detail.as_ref();
        let bytes = |bytes: Option<i64>| bytes.and_then(|bytes| u64::try_from(bytes).ok());
        let current = bytes(detail.and_then(|detail| detail.current));
        let total = bytes(detail.and_then(|detail| detail.total));
        match status {
            "Pulling fs layer" | "Waiting" | "Retrying" => {
                layers.entry(id.clone()).or_default();
            }
            "Downloading" => {
                let layer = layers.entry(id.clone()).or_default();
                layer.step = PullStep::Downloading;
                layer.total_bytes = total.unwrap_or(layer.total_bytes);
                layer.done_bytes = current.unwrap_or(layer.done_bytes);
            }
            "Verifying Checksum" | "Download complete" | "Extracting" | "Pull complete" => {
                let layer = layers.entry(id.clone()).or_default();
                layer.step = PullStep::Unpacking;
                // A small layer never says how large it is.
                layer.done_bytes = layer.total_bytes;
            }
            // What is here already is not pulled; the first and the last lines are about the whole.
            _ => {}
        }
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        let mut images = self.progress.lock();
        let Some(pulls) = images.get_mut(self.image) else { return };
        pulls.count -= 1;
        if pulls.count == 0 {
            images.remove(self.image);
        }
    }
}

/// The sum over an image's layers.
fn figures(image: &str, layers: &Layers) -> PullFigures {
    let any = |step| layers.values().any(|layer| layer.step == step);
    let step = if any(PullStep::Downloading) {
        PullStep::Downloading
    } else if any(PullStep::Unpacking) {
        PullStep::Unpacking
    } else {
        PullStep::Waiting
    };
    PullFigures {
        image: image.to_owned(),
        done_bytes: layers.values().map(|layer| layer.done_bytes).sum(),
        total_bytes: layers.values().map(|layer| layer.total_bytes).sum(),
        step,
    }
}

/// An image reference that names one image: without a tag or digest Docker would pull every tag there is.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    #[test]
    fn progress_is_summed_over_layers_and_goes_with_the_pull() {
        let progress = Progress::default();
        let shown = progress.begin("nginx:1");
        let say = |id: &str, status: &str, bytes: Option<(i64, i64)>| {
            let detail = bytes.map(|(current, total)| ProgressDetail {
                current: Some(current),
                total: Some(total),
            });
            shown.take(&CreateImageInfo {
                id: Some(id.to_owned()),
                status: Some(status.to_owned()),
                progress_detail: detail,
                ..CreateImageInfo::default()
            });
        };
        let told = || {
            let figures = progress.figures().remove(0);
            (figures.done_bytes, figures.total_bytes, figures.step)
        };
        assert_eq!(told(), (0, 0, PullStep::Waiting));
        say("1", "Pulling from library/nginx", None);
        say("a", "Pulling fs layer", None);
        say("b", "Already exists", None);
        assert_eq!(told(), (0, 0, PullStep::Waiting));
        say("a", "Downloading", Some((10, 30)));
        say("c", "Downloading", Some((5, 10)));
        assert_eq!(told(), (15, 40, PullStep::Downloading));
        say("c", "Download complete", None);
        say("a", "Download complete", None);
        say("a", "Extracting", Some((1, 30)));
        assert_eq!(told(), (40, 40, PullStep::Unpacking));
        drop(shown);
        assert!(progress.figures().is_empty());
    }

    #[test]
    fn the_progress_of_an_image_is_shown_until_the_last_of_its_pulls_has_ended() {
        let progress = Progress::default();
        let (first, second) = (progress.begin("nginx:1"), progress.begin("nginx:1"));
        let other = progress.begin("redis:7");
        second.take(&CreateImageInfo {
            id: Some("a".into()),
            status: Some("Downloading".into()),
            progress_detail: Some(ProgressDetail { current: Some(10), total: Some(30) }),
            ..CreateImageInfo::default()
        });
        let told = || {
            let figures = progress.figures().into_iter();
            figures.map(|pull| (pull.image, pull.done_bytes)).collect::<Vec<_>>()
        };
        let both = [("nginx:1".to_owned(), 10), ("redis:7".to_owned(), 0)];
        assert_eq!(told(), both);
        drop(first);
        assert_eq!(told(), both, "the second goes on");
        drop(second);
        assert_eq!(told(), both[1..]);
        drop(other);
        assert!(told().is_empty());
    }

    #[test]
    fn a_reference_without_a_tag_means_the_latest() {
        assert_eq!(with_tag("busybox"), "busybox:latest");
        assert_eq!(with_tag("reg:5000/busybox"), "reg:5000/busybox:latest");
        for exact in ["busybox:1", "reg:5000/a/b:2", "busybox@sha256:abc"] {
            assert_eq!(with_tag(exact), exact);
        }
    }
}
