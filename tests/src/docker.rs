//! Docker, asked directly: what really runs, whatever Longshore says.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, KillContainerOptionsBuilder,
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
};

/// The label that every container of a cluster has.
const CLUSTER: &str = "longshore.cluster";

/// Docker, seen through the label of one cluster.
#[derive(Debug, Clone)]
pub struct Docker {
    client: bollard::Docker,
    filter: String,
}

/// Where Docker is.
pub fn host() -> String {
    std::env::var("DOCKER_HOST")
        .ok()
        .filter(|host| !host.is_empty())
        .unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned())
}

impl Docker {
    /// The containers of one cluster.
    pub fn of_cluster(id: String) -> Self {
        Self::of_label(CLUSTER, &id)
    }

    /// The containers with a label.
    pub fn of_label(label: &str, value: &str) -> Self {
        let client = bollard::Docker::connect_with_host(&host())
            .unwrap_or_else(|error| panic!("Docker at {}: {error}; run scripts/setup", host()));
        Self { client, filter: format!("{label}={value}") }
    }

    /// The client, for what is not wrapped here.
    pub fn client(&self) -> &bollard::Docker {
        &self.client
    }

    /// Every container, the ended ones too.
    pub async fn all(&self) -> Vec<ContainerSummary> {
        let filters = HashMap::from([("label", vec![self.filter.as_str()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        self.client
            .list_containers(Some(options))
            .await
            .unwrap_or_else(|error| panic!("Docker at {}: {error}; run scripts/setup", host()))
    }

    /// The ids of the containers that run.
    pub async fn running(&self) -> Vec<String> {
        let all = self.all().await.into_iter();
        let running = all.filter(|c| c.state.is_some_and(|state| state.to_string() == "running"));
        running.map(|container| container.id.unwrap()).collect()
    }

    /// The ids of a task's containers that run.
    pub async fn running_of(&self, task: &str) -> Vec<String> {
        let all = self.all().await.into_iter();
        all.filter(|c| c.state.is_some_and(|state| state.to_string() == "running"))
            .filter(|c| {
                c.labels
                    .as_ref()
                    .is_some_and(|l| l.get("longshore.task").is_some_and(|t| t == task))
            })
            .map(|container| container.id.unwrap())
            .collect()
    }

    /// Everything about a container.
    pub async fn inspect(&self, id: &str) -> ContainerInspectResponse {
        self.client.inspect_container(id, None::<InspectContainerOptions>).await.unwrap()
    }

    /// Kills a container's process, as an accident would.
    pub async fn kill(&self, id: &str) {
        let options = KillContainerOptionsBuilder::new().signal("KILL").build();
        self.client.kill_container(id, Some(options)).await.unwrap();
    }

    /// Starts a container that is none of Longshore's.
    pub async fn start_foreign(&self, command: &[&str]) -> String {
        let (label, value) = self.filter.split_once('=').unwrap();
        let body = ContainerCreateBody {
            image: Some(crate::IMAGE.to_owned()),
            cmd: Some(command.iter().map(|word| (*word).to_owned()).collect()),
            labels: Some(HashMap::from([(label.to_owned(), value.to_owned())])),
            ..ContainerCreateBody::default()
        };
        let made =
            self.client.create_container(None::<CreateContainerOptions>, body).await.unwrap();
        self.client.start_container(&made.id, None::<StartContainerOptions>).await.unwrap();
        made.id
    }

    /// Removes every container.
    pub async fn clear(&self) {
        for container in self.all().await {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            // It may be on its way out already.
            let _ = self.client.remove_container(&container.id.unwrap(), Some(options)).await;
        }
    }
}

/// Removes every container of a cluster, from wherever a test ends.
pub fn remove_all(cluster_id: String) {
    blocking(async move { Docker::of_cluster(cluster_id).clear().await });
}

/// Runs something to its end where no runtime can be waited for: while a test is torn down.
pub fn blocking(work: impl Future<Output = ()> + Send + 'static) {
    let thread = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    });
    // A failure to clean up must not hide the failure of the test.
    let _ = thread.join();
}
