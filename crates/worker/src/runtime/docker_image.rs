//! Images: looked for, pulled, and taken away.

use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::query_parameters::{CreateImageOptionsBuilder, RemoveImageOptionsBuilder};
use futures_util::stream::StreamExt;
use longshore_core::agent::ImageFound;
use longshore_proto::spec::PullPolicy;
use tracing::debug;

use super::RuntimeError;
use super::docker::{Docker, QUESTION_DEADLINE};
use super::docker_auth;
use super::docker_error::{explain_pull, status};

/// How long a pull may be silent.
const PULL_SILENCE_MAX: Duration = Duration::from_secs(120);

/// Makes an image available, as the policy says.
pub(super) async fn pull(
    docker: &Docker,
    image: &str,
    policy: PullPolicy,
) -> Result<ImageFound, RuntimeError> {
    let client = docker.client()?;
    let present = async {
        match client.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(error) if status(&error) == Some(404) => Ok(false),
            Err(error) => Err(docker.explain(&error, "looking for the image")),
        }
    };
    let was_here = docker.within(QUESTION_DEADLINE, "looking for the image", present).await?;
    if was_here && policy != PullPolicy::Always {
        return Ok(ImageFound::WasHere);
    }
    if policy == PullPolicy::Never {
        return Err(RuntimeError::Refused(format!(
            "image {image} is not on this node, and its pull policy is never; pull it by hand or change the policy"
        )));
    }
    // An image that is here waits for none of the pulls.
    let _place = docker.pulls.acquire().await;
    let options = CreateImageOptionsBuilder::default().from_image(&with_tag(image)).build();
    let login = login(docker, image).await?;
    let has_login = login.is_some();
    let mut progress = client.create_image(Some(options), None, login);
    loop {
        match tokio::time::timeout(PULL_SILENCE_MAX, progress.next()).await {
            Ok(None) if was_here => return Ok(ImageFound::WasHere),
            Ok(None) => return Ok(ImageFound::Fetched),
            Ok(Some(Ok(step))) => debug!(image, status = step.status, "pulling"),
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

/// Takes an image away, by one of its references: who else has given it a name keeps it under that.
pub(super) async fn remove(docker: &Docker, image: &str) -> Result<(), RuntimeError> {
    let options = RemoveImageOptionsBuilder::default().force(false).build();
    match docker.client()?.remove_image(image, Some(options), None).await {
        Ok(_) => Ok(()),
        Err(error) if status(&error) == Some(404) => Ok(()),
        Err(error) => Err(docker.explain(&error, "removing the image")),
    }
}

/// The login for an image's registry, where the node has one.
async fn login(docker: &Docker, image: &str) -> Result<Option<DockerCredentials>, RuntimeError> {
    let Some(file) = docker.registry_auth.clone() else { return Ok(None) };
    let image = image.to_owned();
    let read = tokio::task::spawn_blocking(move || docker_auth::login(&file, &image)).await;
    read.unwrap_or_else(|error| Err(format!("the logins could not be read: {error}")))
        .map_err(RuntimeError::Refused)
}

/// An image reference that names one image: without a tag or digest Docker would pull every tag there is.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_a_tag_means_the_latest() {
        assert_eq!(with_tag("busybox"), "busybox:latest");
        assert_eq!(with_tag("reg:5000/busybox"), "reg:5000/busybox:latest");
        for exact in ["busybox:1", "reg:5000/a/b:2", "busybox@sha256:abc"] {
            assert_eq!(with_tag(exact), exact);
        }
    }
}
