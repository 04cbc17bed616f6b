//! `longshore run`: a job of one image.

use longshore_proto::name::{JobName, NAME_LENGTH_MAX, Namespace, SpecName};
use longshore_proto::spec::{JobSpec, JobType, Resources, TaskSpec};
use longshore_proto::validate;
use uuid::Uuid;

use super::job;
use crate::args::{Global, task::Run};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::parse::Variable;
use crate::render::Printer;

/// The name of the only part of such a job.
const SPEC_NAME: &str = "main";

/// Makes the job and submits it.
pub(crate) async fn run(global: &Global, wish: Run, printer: Printer) -> Result<Exit, Failure> {
    let wait = wish.wait;
    let spec = spec(wish, global.namespace(), random_digits(), |name| std::env::var(name).ok())?;
    let job_type = spec.job_type;
    let outcome = async {
        let client = Client::connect(global, printer).await?;
        job::submit_spec(&client, spec, wait, printer).await
    };
    job::with_task_code(outcome.await, wait, job_type)
}

/// The job that the options describe.
fn spec(
    wish: Run,
    namespace: Namespace,
    digits: u16,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<JobSpec, Failure> {
    let usage = |failure: Failure| failure.exit(Exit::Usage);
    let mut words = wish.words.into_iter();
    let image = words.next().unwrap_or_default();
    let name = match wish.name {
        Some(name) => name,
        None => name_for(&image, digits)?,
    };
    let usual = Resources::default();
    let spec_name: SpecName = SPEC_NAME
        .parse()
        .map_err(|error| Failure::new("the name of the task spec is wrong").cause(&error))?;
    let task = TaskSpec {
        instances: wish.instances,
        pull: wish.pull.into(),
        entrypoint: wish.entrypoint.map(|program| vec![program]),
        command: words.collect(),
        env: variables(wish.env, environment).collect(),
        resources: Resources {
            cpu_millis: wish.cpus.unwrap_or(usual.cpu_millis),
            memory_bytes: wish.memory.unwrap_or(usual.memory_bytes),
            disk_bytes: wish.disk.unwrap_or(usual.disk_bytes),
        },
        ports: wish.publish,
        restart: wish.restart,
        stop_grace_ms: u64::try_from(wish.stop_grace.as_millis()).unwrap_or(u64::MAX),
        constraints: wish.constraint,
        affinities: wish.affinity,
        spread: wish.spread,
        distinct_hosts: wish.distinct_hosts,
        mounts: wish.mount,
        container: wish.container.into(),
        ..TaskSpec::new(spec_name, image)
    };
    let job = JobSpec {
        namespace,
        datacenters: wish.datacenter,
        priority: wish.priority,
        ..JobSpec::new(name, JobType::from(wish.kind), task)
    };
    match validate::job(&job) {
        Ok(()) => Ok(job),
        Err(refusal) => Err(usage(Failure::new("this cannot be run").refused(&refusal))),
    }
}

/// Variables with their values; one that is to be taken from the environment and is not there is left out,
/// as `docker run` does.
fn variables(
    wishes: Vec<Variable>,
    environment: impl Fn(&str) -> Option<String>,
) -> impl Iterator<Item = (String, String)> {
    wishes.into_iter().filter_map(move |Variable { name, value }| {
        let value = value.or_else(|| environment(&name))?;
        Some((name, value))
    })
}

/// A legal name from an image's: its last part without tag and digest, and four digits against collisions.
fn name_for(image: &str, digits: u16) -> Result<JobName, Failure> {
    let last = image.rsplit('/').next().unwrap_or_default();
    let base = last.split([':', '@']).next().unwrap_or_default();
    let suffix = format!("-{digits:04x}");
    let mut name = String::new();
    for c in base.chars().map(|c| c.to_ascii_lowercase()) {
        let c = if c.is_ascii_alphanumeric() { c } else { '-' };
        if !(c == '-' && (name.is_empty() || name.ends_with('-'))) {
            name.push(c);
        }
    }
    name.truncate(NAME_LENGTH_MAX - suffix.len());
    let base = name.trim_end_matches('-');
    let base = if base.is_empty() { "job" } else { base };
    format!("{base}{suffix}").parse().map_err(|error| {
        Failure::new(format!("cannot make a name from the image {image:?}"))
            .cause(&error)
            .hint("give it one with --name")
    })
}

fn random_digits() -> u16 {
    let bytes = Uuid::new_v4().into_bytes();
    u16::from_be_bytes([bytes[0], bytes[1]])
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use longshore_proto::spec::MountSource;

    use super::*;
    use crate::args::{Cli, Verb};

    fn made(words: &[&str]) -> Result<JobSpec, Failure> {
        let cli = Cli::try_parse_from([&["longshore", "run"], words].concat()).unwrap();
        let Verb::Run(wish) = cli.verb else { panic!("not run") };
        let environment = |name: &str| (name == "HERE").then(|| "from here".to_owned());
        spec(*wish, Namespace::standard(), 0xabc, environment)
    }

    #[test]
    fn names_are_made_from_any_image_and_are_legal() {
        for (image, name) in [
            ("busybox", "busybox-0abc"),
            ("nginx:1.27", "nginx-0abc"),
            ("registry.io:5000/team/My_App.v2:1@sha256:00", "my-app-v2-0abc"),
            ("a@sha256:00", "a-0abc"),
            ("__", "job-0abc"),
            ("", "job-0abc"),
            ("x/", "job-0abc"),
        ] {
            assert_eq!(name_for(image, 0xabc).unwrap().as_str(), name, "{image}");
        }
        let long = name_for(&"a-".repeat(100), 0xffff).unwrap();
        assert_eq!(long.as_str().len(), 62, "the hyphen at the cut is gone: {long}");
    }

    #[test]
    fn the_least_is_an_image() {
        let job = made(&["busybox:1"]).unwrap();
        assert_eq!((job.name.as_str(), job.job_type), ("busybox-0abc", JobType::Service));
        assert_eq!(job.specs, [TaskSpec::new("main".parse().unwrap(), "busybox:1")]);
    }

    #[test]
    fn every_option_arrives() {
        let job = made(&[
            "--type",
            "batch",
            "--name",
            "it",
            "--cpus",
            "0.5",
            "--memory",
            "1GiB",
            "--disk",
            "2GiB",
            "-n",
            "3",
            "-e",
            "A=1",
            "-e",
            "HERE",
            "-e",
            "NOWHERE",
            "-p",
            "8080:80",
            "--restart",
            "on-failure:2",
            "--datacenter",
            "dc1",
            "--datacenter",
            "dc2",
            "--priority",
            "70",
            "--pull",
            "never",
            "--entrypoint",
            "sh",
            "--stop-grace",
            "3s",
            "--constraint",
            "label.rack in r1, r2",
            "--constraint",
            "label.gpu exists",
            "--affinity",
            "label.disk = ssd@-50",
            "--spread",
            "label.rack:30",
            "--distinct-hosts",
            "-v",
            "/srv/data:/data:ro",
            "--mount",
            "cache:/cache",
            "busybox",
            "-c",
            "true",
        ])
        .unwrap();
        assert_eq!((job.name.as_str(), job.job_type, job.priority), ("it", JobType::Batch, 70));
        assert_eq!(job.datacenters.len(), 2);
        let task = &job.specs[0];
        assert_eq!(task.instances, 3);
        assert_eq!(task.resources.cpu_millis, 500);
        assert_eq!(task.resources.memory_bytes, 1 << 30);
        assert_eq!(task.resources.disk_bytes, 2 << 30);
        let env: Vec<(&str, &str)> =
            task.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(env, [("A", "1"), ("HERE", "from here")]);
        assert_eq!(task.ports.len(), 1);
        assert_eq!(task.restart.as_ref().unwrap().attempts, 2);
        assert_eq!(task.entrypoint, Some(vec!["sh".to_owned()]));
        assert_eq!(task.command, ["-c", "true"]);
        assert_eq!(task.stop_grace_ms, 3_000);
        let constraints: Vec<String> = task.constraints.iter().map(ToString::to_string).collect();
        assert_eq!(constraints, ["label.rack in r1, r2", "label.gpu exists"]);
        assert_eq!(task.affinities[0].constraint.to_string(), "label.disk = ssd");
        assert_eq!(task.affinities[0].weight, -50);
        assert_eq!(
            (task.spread[0].attribute.to_string(), task.spread[0].weight),
            ("label.rack".into(), 30)
        );
        assert!(task.distinct_hosts && !task.all_at_once);
        assert_eq!(task.mounts[0].source, MountSource::Bind { path: "/srv/data".into() });
        assert!(task.mounts[0].read_only && !task.mounts[1].read_only);
        assert_eq!(task.mounts[1].source, MountSource::Volume { name: "cache".into() });
    }

    #[test]
    fn what_breaks_a_rule_is_a_wrong_command_line() {
        for words in [
            &["-n", "0", "x"][..],
            &["-n", "1000000", "x"],
            &["--memory", "1", "x"],
            &["a b"],
            &["-v", "v:/x", "x"],
        ] {
            let failure = made(words).unwrap_err();
            assert_eq!(failure.status(), Exit::Usage, "{words:?}");
            assert!(failure.told().unwrap().1.is_some(), "{words:?}");
        }
    }
}
