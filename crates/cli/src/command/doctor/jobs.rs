//! Jobs whose tasks do not all run: what an operator is called for, even where the cluster itself is well.

use longshore_proto::api::JobView;
use longshore_proto::name::{JobKey, Namespace};
use longshore_proto::spec::JobType;
use longshore_proto::state::JobStatus;

use super::Finding;
use crate::table;

/// The most jobs that are named.
const NAMED_MAX: usize = 5;

/// What is to be said of all jobs.
pub(super) fn look(jobs: &[JobView]) -> Finding {
    let runs = |job: &JobView| matches!(job.status, JobStatus::Pending | JobStatus::Running);
    let wanted = jobs.iter().filter(|job| runs(job) || is_short(job)).count();
    let short: Vec<&JobView> = jobs.iter().filter(|job| is_short(job)).collect();
    if short.is_empty() {
        return Finding::ok("jobs", format!("{wanted} wanted, and all their tasks run"));
    }
    let named = short.iter().take(NAMED_MAX);
    let mut named: Vec<String> =
        named.map(|job| format!("{} ({})", name(job), table::counts(&job.specs))).collect();
    if let more @ 1.. = short.len() - named.len() {
        named.push(format!("{more} more"));
    }
    Finding::warn(
        "jobs",
        format!(
            "{} of {wanted} wanted are not as they should be: {}",
            short.len(),
            named.join(", ")
        ),
        "`longshore job status NAME` says of each task why; what has just changed takes a moment",
    )
}

/// Whether tasks are wanted that do not run.
fn is_short(job: &JobView) -> bool {
    match (job.job_type, job.status) {
        (_, JobStatus::Stopping | JobStatus::Stopped) => false,
        (JobType::Service, JobStatus::Pending) => true,
        (JobType::Service, _) => job.specs.iter().any(|spec| spec.running < spec.instances),
        (JobType::Batch, status) => status == JobStatus::Pending,
    }
}

/// As it is written at the command line where its namespace is the usual one.
fn name(job: &JobView) -> String {
    if job.namespace == Namespace::standard() {
        return job.name.to_string();
    }
    JobKey { namespace: job.namespace.clone(), name: job.name.clone() }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::Level;
    use crate::json::tests::job;

    #[test]
    fn a_job_that_is_short_of_tasks_is_named() {
        let mut well = job(JobType::Service, JobStatus::Running);
        well.specs[0].running = 2;
        let found = look(std::slice::from_ref(&well));
        assert_eq!((found.level, found.next), (Level::Ok, None));
        let waits = JobView {
            namespace: "shop".parse().unwrap(),
            ..job(JobType::Service, JobStatus::Pending)
        };
        let found = look(&[well, waits, job(JobType::Batch, JobStatus::Failed)]);
        assert_eq!(found.level, Level::Warn);
        let told = "1 of 2 wanted are not as they should be: shop/web (1/2 running, 1 pending)";
        assert_eq!(found.detail, told);
        assert!(found.next.unwrap().contains("longshore job status"));
    }

    #[test]
    fn a_service_is_short_that_has_failed_or_lacks_a_task_and_a_batch_job_is_not() {
        for (job_type, level) in [(JobType::Service, Level::Warn), (JobType::Batch, Level::Ok)] {
            for status in [JobStatus::Running, JobStatus::Failed] {
                assert_eq!(look(&[job(job_type, status)]).level, level);
            }
        }
        assert_eq!(look(&[job(JobType::Service, JobStatus::Stopped)]).level, Level::Ok);
    }

    #[test]
    fn of_many_the_first_are_named() {
        let found = look(&vec![job(JobType::Batch, JobStatus::Pending); 9]);
        assert!(found.detail.starts_with("9 of 9 wanted"), "{}", found.detail);
        assert!(found.detail.ends_with(", 4 more"), "{}", found.detail);
    }
}
