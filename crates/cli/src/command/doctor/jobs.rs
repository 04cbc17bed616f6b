//! Jobs that do not run all that they want: what an operator is called for, even where the cluster itself is well.

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
    let live = jobs.iter().filter(|job| !job.status.is_terminal()).count();
    let short: Vec<&JobView> = jobs.iter().filter(|job| is_short(job)).collect();
    if short.is_empty() {
        return Finding::ok("jobs", format!("{live} live, and all that they want runs"));
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
            "{} of {live} live do not run all that they want: {}",
            short.len(),
            named.join(", ")
        ),
        "`longshore job status NAME` says of each task why; what was just submitted takes a moment",
    )
}

/// Whether tasks are wanted that do not run: those on their way, and those of a service that were given up.
fn is_short(job: &JobView) -> bool {
    let given_up = job.specs.iter().any(|spec| spec.failed > 0);
    match job.status {
        JobStatus::Pending => true,
        JobStatus::Running => job.job_type == JobType::Service && given_up,
        JobStatus::Stopping | JobStatus::Stopped | JobStatus::Completed | JobStatus::Failed => {
            false
        }
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
        let well = job(JobType::Service, JobStatus::Running);
        let found = look(std::slice::from_ref(&well));
        assert_eq!((found.level, found.next), (Level::Ok, None));
        let waits = JobView {
            namespace: "shop".parse().unwrap(),
            ..job(JobType::Service, JobStatus::Pending)
        };
        let found = look(&[well, waits, job(JobType::Batch, JobStatus::Failed)]);
        assert_eq!(found.level, Level::Warn);
        let told = "1 of 2 live do not run all that they want: shop/web (1/2 running, 1 pending)";
        assert_eq!(found.detail, told);
        assert!(found.next.unwrap().contains("longshore job status"));
    }

    #[test]
    fn a_service_that_has_given_a_task_up_is_short_and_a_batch_job_is_not() {
        for (job_type, level) in [(JobType::Service, Level::Warn), (JobType::Batch, Level::Ok)] {
            let mut job = job(job_type, JobStatus::Running);
            job.specs[0].failed = 1;
            assert_eq!(look(&[job]).level, level);
        }
    }

    #[test]
    fn of_many_the_first_are_named() {
        let found = look(&vec![job(JobType::Batch, JobStatus::Pending); 9]);
        assert!(found.detail.starts_with("9 of 9 live"), "{}", found.detail);
        assert!(found.detail.ends_with(", 4 more"), "{}", found.detail);
    }
}
