//! The rules that a job must meet before it is stored. Each refusal names the field and the cure.
//!
//! The same function runs in the CLI (early, with the job file at hand) and in the manager (always).

mod container;
mod policy;

use std::collections::BTreeSet;

use crate::codec;
use crate::constraint::ConstraintError;
use crate::error::{ApiError, ErrorCode};
use crate::platform::Platform;
use crate::spec::{Affinity, JobSpec, Mount, MountSource, Spread, TaskSpec};

/// The most instances of one spec.
pub const INSTANCES_MAX: u32 = 100_000;
/// The most specs in one job.
pub const SPECS_MAX: usize = 64;
/// The most environment variables of one spec.
pub const ENV_MAX: usize = 128;
/// The most ports of one spec.
pub const PORTS_MAX: usize = 64;
/// The most constraints of one spec.
pub const CONSTRAINTS_MAX: usize = 32;
/// The most affinities of one spec.
pub const AFFINITIES_MAX: usize = 32;
/// The most things that one spec is spread over.
pub const SPREAD_MAX: usize = 8;
/// The most tasks that are placed all at once: their placements are one record of the log.
pub const ALL_AT_ONCE_MAX: u32 = 300;
/// The most mounts of one spec.
pub const MOUNTS_MAX: usize = 32;
/// The largest encoded job, in bytes: one record of the log holds several.
pub const JOB_BYTES_MAX: usize = 64 << 10;
/// The least memory that Docker starts a container with, in bytes.
pub const MEMORY_BYTES_MIN: u64 = 6 << 20;
/// The least cpu that Docker can limit a container to, in thousandths of a core.
pub const CPU_MILLIS_MIN: u64 = 10;
/// The most of anything that one task may ask for: far beyond any machine, and far from overflow.
const CPU_MILLIS_MAX: u64 = 1_000_000_000;
const BYTES_MAX: u64 = 1 << 50;
/// The longest path that Linux takes, in bytes, and the longest name of a volume: that of a folder.
const PATH_BYTES_MAX: usize = 4096;
const VOLUME_BYTES_MAX: usize = 255;
/// The longest duration in a spec, in milliseconds: a year.
const DURATION_MS_MAX: u64 = 365 * 24 * 3_600_000;

/// Checks a job as submitted.
pub fn job(job: &JobSpec) -> Result<(), ApiError> {
    if !(1..=100).contains(&job.priority) {
        return refuse("priority", format!("is {}", job.priority), "use 1 (least) to 100");
    }
    if job.datacenters.len() > SPECS_MAX {
        return refuse(
            "datacenters",
            "has more than 64 entries".into(),
            "leave it out to mean anywhere",
        );
    }
    if job.specs.is_empty() {
        return refuse("specs", "is empty".into(), "a job needs at least one task spec");
    }
    if job.specs.len() > SPECS_MAX {
        return refuse(
            "specs",
            format!("has {} entries", job.specs.len()),
            "at most 64 fit in one job; make several jobs",
        );
    }
    let mut names = BTreeSet::new();
    for spec in &job.specs {
        if !names.insert(&spec.name) {
            return refuse(
                "specs",
                format!("has two named {:?}", spec.name),
                "give each its own name",
            );
        }
        task_spec(spec)?;
        policy::check_of(job.job_type, spec)?;
    }
    let length = codec::encoded_bytes(job);
    if length > JOB_BYTES_MAX {
        return refuse(
            "job",
            format!("has {length} bytes"),
            "at most 65536 are allowed; move bulky env values or commands into the image",
        );
    }
    Ok(())
}

fn task_spec(spec: &TaskSpec) -> Result<(), ApiError> {
    let field = |name: &str| format!("specs.{}.{name}", spec.name);
    if spec.instances == 0 || spec.instances > INSTANCES_MAX {
        return refuse(
            &field("instances"),
            format!("is {}", spec.instances),
            "use 1 to 100000; stop the job to have none",
        );
    }
    if spec.all_at_once && spec.instances > ALL_AT_ONCE_MAX {
        return refuse(
            &field("instances"),
            format!("is {}, and all_at_once is set", spec.instances),
            "at most 300 tasks are placed all at once; make several parts, or leave all_at_once out",
        );
    }
    image(&spec.image).or_else(|problem| {
        refuse(&field("image"), problem, "write it as for docker run: [REGISTRY/]NAME[:TAG]")
    })?;
    let resources = spec.resources;
    if resources.cpu_millis < CPU_MILLIS_MIN || resources.cpu_millis > CPU_MILLIS_MAX {
        return refuse(
            &field("resources.cpu_millis"),
            format!("is {}", resources.cpu_millis),
            "use at least 10 (0.01 cores)",
        );
    }
    if resources.memory_bytes < MEMORY_BYTES_MIN || resources.memory_bytes > BYTES_MAX {
        return refuse(
            &field("resources.memory_bytes"),
            format!("is {}", resources.memory_bytes),
            "use at least 6MiB, the least that Docker starts a container with",
        );
    }
    if resources.disk_bytes > BYTES_MAX {
        return refuse(
            &field("resources.disk_bytes"),
            format!("is {}", resources.disk_bytes),
            "use at most 1024TiB",
        );
    }
    if spec.env.len() > ENV_MAX {
        return refuse(
            &field("env"),
            format!("has {} variables", spec.env.len()),
            "at most 128 are allowed",
        );
    }
    for (key, value) in &spec.env {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            return refuse(
                &field("env"),
                format!("has the variable {key:?}"),
                "a name is not empty and has no '=', and nothing has a zero byte",
            );
        }
    }
    let words = spec.command.iter().chain(spec.entrypoint.iter().flatten());
    if words.clone().any(|word| word.contains('\0')) {
        return refuse(&field("command"), "has a zero byte".into(), "remove it");
    }
    if spec.ports.len() > PORTS_MAX {
        return refuse(
            &field("ports"),
            format!("has {} entries", spec.ports.len()),
            "at most 64 are allowed",
        );
    }
    let (mut taken, mut named) = (BTreeSet::new(), BTreeSet::new());
    for port in &spec.ports {
        if port.container == 0 {
            return refuse(&field("ports"), "has port 0".into(), "use 1 to 65535");
        }
        if let Some(name) = &port.name {
            let legal =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
            if name.is_empty()
                || name.len() > 32
                || !name.starts_with(|c: char| c.is_ascii_lowercase())
                || !name.chars().all(legal)
            {
                return refuse(
                    &field("ports"),
                    format!("has a port named {name:?}"),
                    "use 1 to 32 of a-z, 0-9, '-' and '_', beginning with a letter, such as web",
                );
            }
        }
        if !named.insert(port.label()) && port.name.is_some() {
            return refuse(
                &field("ports"),
                format!("has two ports named {:?}", port.label()),
                "give each its own name",
            );
        }
        if !port.is_dynamic() && !taken.insert((port.host, port.protocol)) {
            return refuse(
                &field("ports"),
                format!("publishes {}/{} twice", port.host, port.protocol.as_str()),
                "use each port of the node once",
            );
        }
    }
    policy::check(spec)?;
    placement(spec)?;
    mounts(spec)?;
    container::check(spec)
}

/// The rules for where a spec's tasks must, and had better, run.
fn placement(spec: &TaskSpec) -> Result<(), ApiError> {
    let field = |name: &str| format!("specs.{}.{name}", spec.name);
    // What follows from a platform does not count: a stored spec may be submitted again.
    let implied = spec.container.platform.as_ref().map(Platform::constraint);
    let constraints = spec.constraints.iter().filter(|wish| implied.as_ref() != Some(wish));
    for (name, count, most) in [
        ("constraints", constraints.count(), CONSTRAINTS_MAX),
        ("affinities", spec.affinities.len(), AFFINITIES_MAX),
        ("spread", spec.spread.len(), SPREAD_MAX),
    ] {
        if count > most {
            return refuse(
                &field(name),
                format!("has {count} entries"),
                &format!(
                    "at most {most} are allowed; a label of its own for the nodes that are meant says it shorter"
                ),
            );
        }
    }
    let entry =
        |name: &str, number: usize| format!("specs.{}.{name}, entry {}:", spec.name, number + 1);
    let bad = |name: &str, number: usize, error: ConstraintError| {
        refuse(&entry(name, number), error.problem(), error.cure())
    };
    for (number, constraint) in spec.constraints.iter().enumerate() {
        constraint.check().or_else(|error| bad("constraints", number, error))?;
    }
    for (number, Affinity { constraint, weight }) in spec.affinities.iter().enumerate() {
        constraint.check().or_else(|error| bad("affinities", number, error))?;
        if !(-100..=100).contains(weight) || *weight == 0 {
            return refuse(
                &entry("affinities", number),
                format!("its weight is {weight}"),
                "use 1 to 100 to seek such nodes, -1 to -100 to avoid them; leave the entry out for neither",
            );
        }
    }
    for (number, Spread { attribute, weight }) in spec.spread.iter().enumerate() {
        attribute.check().or_else(|error| bad("spread", number, error))?;
        if !(1..=100).contains(weight) {
            return refuse(
                &entry("spread", number),
                format!("its weight is {weight}"),
                "use 1 (hardly) to 100; leave the entry out to spread over nothing",
            );
        }
    }
    if let Some(anti_affinity) = spec.anti_affinity
        && anti_affinity > 100
    {
        return refuse(
            &field("anti_affinity"),
            format!("is {anti_affinity}"),
            "use 0 (tasks of one kind may share a node) to 100",
        );
    }
    Ok(())
}

/// The rules for what stands in a container's file system.
fn mounts(spec: &TaskSpec) -> Result<(), ApiError> {
    if spec.mounts.len() > MOUNTS_MAX {
        return refuse(
            &format!("specs.{}.mounts", spec.name),
            format!("has {} entries", spec.mounts.len()),
            "at most 32 are allowed; mount a folder that holds several",
        );
    }
    let mut taken = BTreeSet::new();
    for (number, Mount { target, source, .. }) in spec.mounts.iter().enumerate() {
        let field = format!("specs.{}.mounts, entry {}:", spec.name, number + 1);
        path(target).or_else(|problem| {
            refuse(
                &field,
                format!("its target {problem}"),
                "name a place in the container by its absolute path, such as /var/lib/app",
            )
        })?;
        let parts: Vec<&str> = parts(target).collect();
        if parts.is_empty() {
            return refuse(
                &field,
                "its target is the root of the container".into(),
                "mount onto a folder in it, such as /data",
            );
        }
        if !taken.insert(parts) {
            return refuse(
                &field,
                format!("its target {target:?} is that of another entry"),
                "mount one thing at each place",
            );
        }
        match source {
            MountSource::Bind { path: source } => path(source).or_else(|problem| {
                refuse(
                    &field,
                    format!("its path on the node {problem}"),
                    "name a folder or file of the node by its absolute path, such as /srv/data",
                )
            })?,
            MountSource::Volume { name } => volume(name).or_else(|problem| {
                refuse(
                    &field,
                    format!("its volume's name {problem}"),
                    "use 2 to 255 of a-z, A-Z, 0-9, '_', '.' and '-', beginning with a letter or digit",
                )
            })?,
            MountSource::Tmpfs { size_bytes: Some(size) } if *size == 0 || *size > BYTES_MAX => {
                return refuse(
                    &field,
                    format!("its size is {size}"),
                    "use at least a byte, or leave it out to have as much as the task's memory allows",
                );
            }
            MountSource::Tmpfs { .. } => {}
        }
    }
    Ok(())
}

/// What makes a path impossible, or not the one that it seems to be.
fn path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("is empty".into());
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(format!("has {} bytes", path.len()));
    }
    if path.contains(char::is_control) {
        return Err("has a control character".into());
    }
    if !path.starts_with('/') {
        return Err(format!("{path:?} is not absolute"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("{path:?} goes up with '..'"));
    }
    Ok(())
}

/// The names that a path goes through: two paths with the same ones are the same place.
fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

/// What makes a volume's name one that the container runtime refuses, or takes for something else.
fn volume(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if name.len() > VOLUME_BYTES_MAX {
        return Err(format!("has {} characters", name.len()));
    }
    if name.len() < 2
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !name.chars().all(legal)
    {
        return Err(format!("is {name:?}"));
    }
    Ok(())
}

/// What makes an image reference impossible; Docker and the registry judge the rest.
fn image(image: &str) -> Result<(), String> {
    if image.is_empty() {
        return Err("is empty".into());
    }
    if image.len() > 512 {
        return Err(format!("has {} characters", image.len()));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if !image.chars().all(legal) || !image.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(format!("is {image:?}"));
    }
    Ok(())
}

fn refuse(field: &str, problem: String, cure: &str) -> Result<(), ApiError> {
    Err(ApiError::new(ErrorCode::Invalid, format!("{field} {problem}")).hint(cure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::{Attribute, Constraint, Operator};
    use crate::spec::{JobType, Port, Protocol};

    fn sample() -> JobSpec {
        JobSpec::new(
            "web".parse().unwrap(),
            JobType::Service,
            TaskSpec::new("main".parse().unwrap(), "busybox:1"),
        )
    }

    fn refused(change: impl FnOnce(&mut JobSpec)) -> String {
        let mut sample = sample();
        change(&mut sample);
        let error = job(&sample).unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid);
        assert!(error.hint.is_some(), "a refusal says what to do: {error}");
        error.message
    }

    #[test]
    fn a_plain_job_passes() {
        assert_eq!(job(&sample()), Ok(()));
        assert_eq!(job(&sample().resolve()), Ok(()));
    }

    #[test]
    fn each_rule_names_its_field() {
        assert!(refused(|j| j.specs.clear()).starts_with("specs is empty"));
        assert!(refused(|j| j.priority = 0).starts_with("priority is 0"));
        assert!(refused(|j| j.specs[0].instances = 0).starts_with("specs.main.instances is 0"));
        assert!(
            refused(|j| j.specs[0].instances = 100_001)
                .starts_with("specs.main.instances is 100001")
        );
        assert!(
            refused(|j| j.specs[0].resources.memory_bytes = 1)
                .starts_with("specs.main.resources.memory_bytes")
        );
        assert!(
            refused(|j| j.specs[0].resources.cpu_millis = 0)
                .starts_with("specs.main.resources.cpu_millis")
        );
        assert!(refused(|j| j.specs[0].image = "a b".into()).starts_with("specs.main.image is"));
        assert!(
            refused(|j| j.specs[0].image = String::new()).starts_with("specs.main.image is empty")
        );
        assert!(
            refused(|j| drop(j.specs[0].env.insert("A=B".into(), String::new())))
                .starts_with("specs.main.env")
        );
        assert!(refused(|j| j.specs.push(j.specs[0].clone())).starts_with("specs has two named"));
        let port =
            Port { host: 80, container: 80, protocol: Protocol::Tcp, host_ip: None, name: None };
        assert!(refused(|j| j.specs[0].ports = vec![port.clone(), port]).contains("80/tcp twice"));
        assert!(refused(|j| j.specs[0].command = vec!["x".repeat(100_000)]).starts_with("job has"));
    }

    fn spec_refused(change: impl FnOnce(&mut TaskSpec)) -> String {
        refused(|job| change(&mut job.specs[0]))
    }

    fn constraint(text: &str) -> Constraint {
        text.parse().unwrap()
    }

    #[test]
    fn preferences_within_the_limits_pass() {
        let mut job = sample();
        let spec = &mut job.specs[0];
        spec.constraints = vec![constraint("label.rack in r1, r2"); CONSTRAINTS_MAX];
        spec.affinities = [-100, -1, 1, 100]
            .map(|weight| Affinity { constraint: constraint("label.disk = ssd"), weight })
            .to_vec();
        spec.spread = vec![Spread { attribute: Attribute::Datacenter, weight: 100 }; SPREAD_MAX];
        spec.anti_affinity = Some(100);
        spec.distinct_hosts = true;
        spec.all_at_once = true;
        spec.instances = ALL_AT_ONCE_MAX;
        assert_eq!(super::job(&job), Ok(()));
    }

    #[test]
    fn preferences_beyond_the_limits_are_named() {
        let affinity = |weight| Affinity { constraint: constraint("label.disk = ssd"), weight };
        let gang = spec_refused(|spec| (spec.instances, spec.all_at_once) = (301, true));
        assert_eq!(gang, "specs.main.instances is 301, and all_at_once is set");
        assert_eq!(
            spec_refused(|spec| spec.constraints = vec![constraint("label.a exists"); 33]),
            "specs.main.constraints has 33 entries"
        );
        assert_eq!(
            spec_refused(|spec| spec.affinities = vec![affinity(1); 33]),
            "specs.main.affinities has 33 entries"
        );
        let spread = |weight| Spread { attribute: Attribute::Datacenter, weight };
        assert_eq!(
            spec_refused(|spec| spec.spread = vec![spread(1); 9]),
            "specs.main.spread has 9 entries"
        );
        for weight in [0, 101, -101, i8::MAX, i8::MIN] {
            assert_eq!(
                spec_refused(|spec| spec.affinities = vec![affinity(1), affinity(weight)]),
                format!("specs.main.affinities, entry 2: its weight is {weight}")
            );
        }
        for weight in [0, 101, u8::MAX] {
            assert_eq!(
                spec_refused(|spec| spec.spread = vec![spread(weight)]),
                format!("specs.main.spread, entry 1: its weight is {weight}")
            );
        }
        let nothing = Spread { attribute: Attribute::Label(String::new()), weight: 50 };
        assert_eq!(
            spec_refused(|spec| spec.spread = vec![nothing]),
            "specs.main.spread, entry 1: \"label.\" is nothing that a node has"
        );
        assert_eq!(
            spec_refused(|spec| spec.anti_affinity = Some(101)),
            "specs.main.anti_affinity is 101"
        );
    }

    #[test]
    fn constraints_of_another_client_are_checked_like_our_own() {
        let made_up = |operator, values: &[&str]| Constraint {
            attribute: Attribute::Label("a".into()),
            operator,
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        for (nonsense, problem) in [
            (made_up(Operator::Equal, &[]), "nothing stands after ="),
            (made_up(Operator::Exists, &["x"]), "exists has more values than it takes"),
            (made_up(Operator::In, &["x"; 65]), "it has 65 values"),
            (made_up(Operator::Matches, &["((a{100}){100}){100}"]), "the regular expression"),
            (made_up(Operator::VersionAbove, &["new"]), "the version \"new\""),
        ] {
            let text = spec_refused(|spec| spec.constraints = vec![nonsense.clone()]);
            assert!(
                text.starts_with(&format!("specs.main.constraints, entry 1: {problem}")),
                "{text}"
            );
            let affinity = Affinity { constraint: nonsense, weight: 1 };
            let text = spec_refused(|spec| spec.affinities = vec![affinity]);
            assert!(
                text.starts_with(&format!("specs.main.affinities, entry 1: {problem}")),
                "{text}"
            );
        }
    }

    #[test]
    fn each_mount_stands_at_its_own_absolute_place() {
        let mount =
            |target: &str, source| Mount { target: target.into(), source, read_only: false };
        let tmpfs = || MountSource::Tmpfs { size_bytes: None };
        let bind = |path: &str| MountSource::Bind { path: path.into() };
        let volume = |name: &str| MountSource::Volume { name: name.into() };
        let mut job = sample();
        job.specs[0].mounts = vec![
            mount("/a", tmpfs()),
            mount("/a/b..c", bind("/srv/..data")),
            mount("/a:b", volume("Cache_1.2-x")),
            mount("/d", MountSource::Tmpfs { size_bytes: Some(1) }),
        ];
        assert_eq!(super::job(&job), Ok(()));
        for (mount, problem) in [
            (mount("", tmpfs()), "its target is empty"),
            (mount("data", tmpfs()), "its target \"data\" is not absolute"),
            (mount("/data/../etc", tmpfs()), "its target \"/data/../etc\" goes up with '..'"),
            (mount("/", tmpfs()), "its target is the root of the container"),
            (mount("//.//", tmpfs()), "its target is the root of the container"),
            (mount("/a\0b", tmpfs()), "its target has a control character"),
            (mount(&format!("/{}", "x".repeat(4096)), tmpfs()), "its target has 4097 bytes"),
            (mount("/x", bind("data")), "its path on the node \"data\" is not absolute"),
            (mount("/x", bind("/srv/..")), "its path on the node \"/srv/..\" goes up with '..'"),
            (mount("/x", bind("")), "its path on the node is empty"),
            (mount("/x", volume("")), "its volume's name is \"\""),
            (mount("/x", volume("v")), "its volume's name is \"v\""),
            (mount("/x", volume("/srv")), "its volume's name is \"/srv\""),
            (mount("/x", volume("-v")), "its volume's name is \"-v\""),
            (mount("/x", volume("a,b")), "its volume's name is \"a,b\""),
            (mount("/x", volume(&"v".repeat(256))), "its volume's name has 256 characters"),
            (mount("/x", MountSource::Tmpfs { size_bytes: Some(0) }), "its size is 0"),
            (mount("/x", MountSource::Tmpfs { size_bytes: Some(u64::MAX) }), "its size is 184"),
        ] {
            let text = spec_refused(|spec| spec.mounts = vec![mount]);
            assert!(text.starts_with(&format!("specs.main.mounts, entry 1: {problem}")), "{text}");
        }
        for same in ["/data", "/data/", "//data", "/./data"] {
            let text = spec_refused(|spec| {
                spec.mounts = vec![mount("/data", tmpfs()), mount(same, tmpfs())];
            });
            assert!(
                text.contains("entry 2: its target") && text.contains("of another entry"),
                "{text}"
            );
        }
        let many = (0..33).map(|number| mount(&format!("/m{number}"), tmpfs())).collect();
        assert_eq!(spec_refused(|spec| spec.mounts = many), "specs.main.mounts has 33 entries");
    }
}
