//! `longshore worker`: from options to a running worker.

use std::collections::BTreeMap;

use longshore_bus::Credentials;
use longshore_proto::name::{NodeName, UserName};
use longshore_proto::permission::Role;
use longshore_worker::{Options, PORT_RANGE_USUAL};

use crate::args::{Global, program::Worker};
use crate::connect::Target;
use crate::failure::{Exit, Failure};
use crate::parse::Label;
use crate::signal;

/// Runs a worker until it is told to stop.
pub(crate) async fn run(global: &Global, wish: Worker) -> Result<Exit, Failure> {
    let options = options(global, wish)?;
    let stop = signal::stop_token()?;
    match longshore_worker::run(options, stop).await {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(Failure::new("the worker cannot go on").cause(&error)),
    }
}

/// How the worker is to be run.
fn options(global: &Global, wish: Worker) -> Result<Options, Failure> {
    let target = Target::from_options(global);
    let credentials = target.credentials.as_deref();
    let holder = credentials
        .map(|path| Credentials::load_as(path, Role::Worker))
        .transpose()?
        .map(|credentials| credentials.name);
    let name = name(wish.name, holder)?;
    let user = UserName::from(name.clone());
    Ok(Options {
        bus: target.program_options(global, Role::Worker, user, credentials)?,
        name,
        data_dir: wish.data_dir,
        datacenter: wish.datacenter,
        labels: labels(wish.label)?,
        capacity: wish.capacity.unwrap_or_default(),
        tasks_max: wish.tasks_max,
        policy: wish.allow.into(),
        keeping: wish.keep.into(),
        registry_auth: wish.registry_auth,
        sandboxes: usize::from(wish.sandboxes),
        registry_logins: wish.registry_logins,
        ports: wish.ports.unwrap_or(PORT_RANGE_USUAL),
        on_shutdown: wish.on_shutdown.within(wish.drain_deadline),
        docker: None,
    })
}

/// The node's name: NATS lets the holder of credentials speak for the node of that name alone.
fn name(wish: Option<NodeName>, holder: Option<UserName>) -> Result<NodeName, Failure> {
    let usage = |text: String, hint: &str| Failure::new(text).hint(hint).exit(Exit::Usage);
    match (wish, holder) {
        (Some(name), None) => Ok(name),
        (Some(name), Some(holder)) if name.as_str() == holder.as_str() => Ok(name),
        (Some(name), Some(holder)) => Err(usage(
            format!(
                "these credentials are those of the worker {holder}, and the node's name is {name}"
            ),
            "give the worker its own credentials (`longshore auth worker NAME` makes them), or leave --name out",
        )),
        (None, Some(holder)) => holder
            .as_str()
            .parse()
            .map_err(|error| Failure::new("the credentials have no node's name").cause(&error)),
        (None, None) => Err(usage("the node has no name".to_owned(), "give it one with --name")),
    }
}

fn labels(wishes: Vec<Label>) -> Result<BTreeMap<String, String>, Failure> {
    let mut labels = BTreeMap::new();
    for Label { name, value } in wishes {
        if labels.contains_key(&name) {
            return Err(Failure::new(format!("the label {name} is said twice"))
                .hint("say it once")
                .exit(Exit::Usage));
        }
        labels.insert(name, value);
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use longshore_worker::policy::Policy;
    use longshore_worker::{Keeping, OnShutdown};

    use super::*;
    use crate::args::{Cli, Verb};

    fn made(words: &[&str]) -> Result<Options, Failure> {
        let cli = Cli::try_parse_from(
            [&["longshore", "worker", "--data-dir", "/d", "--nats", "nats://a"], words].concat(),
        )
        .unwrap();
        let Verb::Worker(wish) = cli.verb else { panic!("not worker") };
        options(&cli.global, wish)
    }

    #[test]
    fn the_options_arrive() {
        let options = made(&[
            "--name",
            "n1",
            "--datacenter",
            "dc2",
            "--label",
            "rack=a",
            "--label",
            "disk=ssd",
            "--capacity",
            "cpu=2,memory=1GiB",
            "--tasks-max",
            "20",
            "--allow-mount",
            "/srv/data",
            "--allow-mount",
            "/srv/more",
            "--ports",
            "30000-30100",
            "--allow-network",
            "host",
            "--allow-cap",
            "cap_net_admin",
            "--keep-ended",
            "5",
            "--keep-images-for",
            "off",
            "--keep-volumes-for",
            "2h",
            "--on-shutdown",
            "stop",
        ])
        .unwrap();
        assert_eq!((options.name.as_str(), options.datacenter.as_str()), ("n1", "dc2"));
        assert_eq!(options.labels.len(), 2);
        assert_eq!(options.capacity.cpu_millis, Some(2_000));
        assert_eq!(options.capacity.disk_bytes, None);
        assert_eq!(options.tasks_max, 20);
        assert_eq!(options.policy.mount_paths, ["/srv/data", "/srv/more"]);
        assert_eq!(options.ports, 30_000..=30_100);
        assert!(options.policy.networks.contains("host") && !options.policy.privileged);
        assert!(options.policy.capabilities.contains("NET_ADMIN"));
        let keeping = Keeping {
            ended_max: 5,
            images_ms: None,
            volumes_ms: Some(7_200_000),
            ..Keeping::default()
        };
        assert_eq!(options.keeping, keeping);
        assert_eq!(options.on_shutdown, OnShutdown::Stop);
        assert_eq!(options.bus.user.as_str(), "n1");
        assert!(options.bus.wait_for_server);
    }

    #[test]
    fn a_node_takes_the_usual_number_of_tasks_and_lends_nothing() {
        let options = made(&["--name", "n1"]).unwrap();
        assert_eq!((options.tasks_max, options.policy), (500, Policy::default()));
        assert_eq!(options.keeping, Keeping::default());
    }

    #[test]
    fn the_name_and_the_credentials_must_agree() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w1.creds");
        let w1 = Credentials::generate(Role::Worker, "w1".parse().unwrap()).unwrap();
        std::fs::write(&path, w1.to_toml()).unwrap();
        let path = path.display().to_string();
        assert_eq!(made(&["--creds", &path]).unwrap().name.as_str(), "w1");
        assert!(made(&["--creds", &path, "--name", "w1"]).is_ok());
        let failure = made(&["--creds", &path, "--name", "w2"]).unwrap_err();
        assert_eq!(failure.status(), Exit::Usage);
        assert_eq!(made(&[]).unwrap_err().status(), Exit::Usage);
    }

    #[test]
    fn a_label_is_said_once() {
        let failure = made(&["--name", "n1", "--label", "a=1", "--label", "a=2"]).unwrap_err();
        assert_eq!(failure.told().unwrap().0, "the label a is said twice");
    }
}
