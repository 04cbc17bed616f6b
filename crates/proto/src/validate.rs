//! The rules that a job must meet before it is stored. Each refusal names the field and the cure.
//!
//! The same function runs in the CLI (early, with the job file at hand) and in the manager (always).

use std::collections::BTreeSet;

use crate::codec;
use crate::error::{ApiError, ErrorCode};
use crate::spec::{JobSpec, ReschedulePolicy, RestartPolicy, TaskSpec};

/// The most instances of one spec.
pub const INSTANCES_MAX: u32 = 100_000;
/// The most specs in one job.
pub const SPECS_MAX: usize = 64;
/// The most environment variables of one spec.
pub const ENV_MAX: usize = 128;
/// The most ports of one spec.
pub const PORTS_MAX: usize = 64;
/// The largest encoded job, in bytes: one record of the log holds several.
pub const JOB_BYTES_MAX: usize = 64 << 10;
/// The least memory that Docker starts a container with, in bytes.
pub const MEMORY_BYTES_MIN: u64 = 6 << 20;
/// The least cpu that Docker can limit a container to, in thousandths of a core.
pub const CPU_MILLIS_MIN: u64 = 10;
/// The most of anything that one task may ask for: far beyond any machine, and far from overflow.
const CPU_MILLIS_MAX: u64 = 1_000_000_000;
const BYTES_MAX: u64 = 1 << 50;
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
    }
    let length = codec::encode(job).len();
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
    let mut taken = BTreeSet::new();
    for port in &spec.ports {
        if port.host == 0 || port.container == 0 {
            return refuse(&field("ports"), "has port 0".into(), "use 1 to 65535");
        }
        if !taken.insert((port.host, port.protocol)) {
            return refuse(
                &field("ports"),
                format!("publishes {}/{} twice", port.host, port.protocol.as_str()),
                "use each port of the node once",
            );
        }
    }
    if spec.stop_grace_ms > DURATION_MS_MAX {
        return refuse(
            &field("stop_grace_ms"),
            format!("is {}", spec.stop_grace_ms),
            "use at most a year",
        );
    }
    if let Some(RestartPolicy { window_ms, delay_ms, delay_ms_max, .. }) = spec.restart
        && [window_ms, delay_ms, delay_ms_max].into_iter().any(|ms| ms > DURATION_MS_MAX)
    {
        return refuse(
            &field("restart"),
            "has a duration of over a year".into(),
            "use at most a year",
        );
    }
    if let Some(ReschedulePolicy { delay_ms, delay_ms_max, .. }) = spec.reschedule
        && [delay_ms, delay_ms_max].into_iter().any(|ms| ms > DURATION_MS_MAX)
    {
        return refuse(
            &field("reschedule"),
            "has a duration of over a year".into(),
            "use at most a year",
        );
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
    use crate::name::Namespace;
    use crate::spec::{JobType, OnNodeLoss, Port, Protocol};

    fn sample() -> JobSpec {
        JobSpec {
            namespace: Namespace::standard(),
            name: "web".parse().unwrap(),
            job_type: JobType::Service,
            datacenters: vec![],
            priority: 50,
            on_node_loss: OnNodeLoss::Replace,
            scheduler: None,
            specs: vec![TaskSpec::new("main".parse().unwrap(), "busybox:1")],
        }
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
            refused(|j| j.specs[0].instances = 1_000_000)
                .starts_with("specs.main.instances is 1000000")
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
        let port = Port { host: 80, container: 80, protocol: Protocol::Tcp, host_ip: None };
        assert!(refused(|j| j.specs[0].ports = vec![port.clone(), port]).contains("80/tcp twice"));
        assert!(refused(|j| j.specs[0].command = vec!["x".repeat(100_000)]).starts_with("job has"));
    }
}
