//! The rules for what follows when a task ends, moves or is exchanged.

use crate::error::ApiError;
use crate::spec::{JobType, OnFailure, TaskSpec};

use super::{DURATION_MS_MAX, refuse};

pub(super) fn check(spec: &TaskSpec) -> Result<(), ApiError> {
    let field = |name: &str| format!("specs.{}.{name}", spec.name);
    let parallel = [
        ("migrate.parallel", spec.migrate.map(|migrate| migrate.parallel)),
        ("update.parallel", spec.update.map(|update| update.parallel)),
    ];
    if let Some((name, _)) = parallel.into_iter().find(|(_, parallel)| *parallel == Some(0)) {
        return refuse(&field(name), "is 0".into(), "use 1 or more");
    }
    let restart = spec.restart.as_ref();
    let reschedule = spec.reschedule.as_ref();
    let durations = [
        ("stop_grace_ms", vec![spec.stop_grace_ms]),
        ("restart", restart.map_or(vec![], |of| vec![of.window_ms, of.delay_ms, of.delay_ms_max])),
        ("reschedule", reschedule.map_or(vec![], |of| vec![of.delay_ms, of.delay_ms_max])),
        (
            "update",
            spec.update.map_or(vec![], |of| vec![of.healthy_for_ms, of.progress_deadline_ms]),
        ),
    ];
    let is_long = |durations: &Vec<u64>| durations.iter().any(|ms| *ms > DURATION_MS_MAX);
    if let Some((name, _)) = durations.iter().find(|(_, durations)| is_long(durations)) {
        let problem = "has a duration of over a year".to_owned();
        return refuse(&field(name), problem, "use at most a year");
    }
    match spec.update {
        Some(update) if update.progress_deadline_ms <= update.healthy_for_ms => refuse(
            &field("update.progress_deadline_ms"),
            format!(
                "is {}, and healthy_for_ms is {}",
                update.progress_deadline_ms, update.healthy_for_ms
            ),
            "a task counts as well only after that: make the deadline longer",
        ),
        _ => Ok(()),
    }
}

/// What goes together with how long a job lives.
pub(super) fn check_of(job_type: JobType, spec: &TaskSpec) -> Result<(), ApiError> {
    let goes_back = spec.update.is_some_and(|update| update.on_failure == OnFailure::Rollback);
    if goes_back && job_type == JobType::Batch {
        return refuse(
            &format!("specs.{}.update.on_failure", spec.name),
            "is rollback, in a batch job".into(),
            "leave it out: a batch task that fails has failed at its own work",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::UpdatePolicy;

    #[test]
    fn a_deadline_that_cannot_be_met_and_a_batch_job_that_goes_back_are_refused() {
        let mut spec = TaskSpec::new("main".parse().unwrap(), "web:1");
        let usual = UpdatePolicy { on_failure: OnFailure::Rollback, ..UpdatePolicy::usual() };
        spec.update = Some(usual);
        assert!(check(&spec).is_ok() && check_of(JobType::Service, &spec).is_ok());
        let refused = check_of(JobType::Batch, &spec).unwrap_err();
        assert!(refused.message.contains("update.on_failure"), "{refused}");
        for (healthy_for_ms, progress_deadline_ms, field) in
            [(600_000, 600_000, "progress_deadline_ms"), (0, u64::MAX, "specs.main.update")]
        {
            spec.update = Some(UpdatePolicy { healthy_for_ms, progress_deadline_ms, ..usual });
            let refused = check(&spec).unwrap_err();
            assert!(refused.message.contains(field), "{refused}");
        }
    }
}
