//! Volumes: whose they are, and when they are taken away.

use std::collections::{BTreeMap, HashMap};

use bollard::query_parameters::RemoveVolumeOptionsBuilder;
use longshore_core::agent::labels;
use longshore_proto::id::ClusterId;

use super::RuntimeError;
use super::docker::Docker;
use super::docker_error::status;

/// The labels of a volume that is made for a container with these: whose it is, not which task's, because any task of
/// the node may mount it.
pub(super) fn labels_of(container: &BTreeMap<String, String>) -> HashMap<String, String> {
    [labels::CLUSTER, labels::NODE]
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), container.get(key)?.clone())))
        .collect()
}

/// Takes a volume away that was made for tasks of this cluster and node, unless any container uses it.
pub(super) async fn remove(
    docker: &Docker,
    name: &str,
    cluster: ClusterId,
) -> Result<(), RuntimeError> {
    let client = docker.client()?;
    let found = match client.inspect_volume(name).await {
        Ok(found) => found,
        Err(error) if status(&error) == Some(404) => return Ok(()),
        Err(error) => return Err(docker.explain(&error, "looking at the volume")),
    };
    // Another cluster may have a node of this name beside this one, and its data is not ours to judge.
    let is_of_cluster =
        found.labels.get(labels::CLUSTER).is_some_and(|of| *of == cluster.to_string());
    if !is_of_cluster || !docker.is_ours(&found.labels) {
        return Err(RuntimeError::Forbidden(format!(
            "the volume {name} was not made for tasks of this cluster and node; it is left alone"
        )));
    }
    let options = RemoveVolumeOptionsBuilder::default().force(false).build();
    match client.remove_volume(name, Some(options)).await {
        Ok(()) => Ok(()),
        Err(error) if status(&error) == Some(404) => Ok(()),
        Err(error) => Err(docker.explain(&error, "removing the volume")),
    }
}
