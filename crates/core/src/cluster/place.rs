//! Waiting tasks to nodes: in the order of priority, then the largest first.
//!
//! E-PVM places best when large tasks come first, so what waits is drained in that order and not in the order
//! of arrival. Tasks of one spec and version are alike: when one does not fit, none of them does, and the rest
//! of the group is not tried.

use longshore_proto::spec::SchedulerKind;
use longshore_scheduler::{Demand, Policy, place};

use super::Settings;
use super::draft::Draft;
use super::record::Fact;
use super::state::WaitingKey;

/// Places what fits. False when the record is full and something was left untried.
pub(super) fn waiting(draft: &mut Draft<'_>, settings: &Settings) -> bool {
    let groups: Vec<WaitingKey> = draft.state.waiting.keys().cloned().collect();
    for key in groups {
        let (_, _, job_key, spec_name, version) = &key;
        while let Some(id) = draft.state.waiting.get(&key).and_then(|group| group.first().copied())
        {
            if draft.is_full() {
                return false;
            }
            let Some(job) = draft.state.jobs.get(job_key) else { break };
            let Some(job_spec) = job.versions.get(version) else { break };
            let Some(spec) = job_spec.spec(spec_name) else { break };
            let policy = match job_spec.scheduler.unwrap_or(settings.scheduler) {
                SchedulerKind::Epvm => Policy::Epvm,
                SchedulerKind::RoundRobin => {
                    Policy::RoundRobin { last: draft.state.meta.round_robin_last.as_ref() }
                }
            };
            let demand = Demand {
                resources: spec.resources,
                datacenters: &job_spec.datacenters,
                ports: &spec.ports,
            };
            match place(&draft.state.fleet, &demand, policy) {
                Ok(placement) => {
                    let explanation = placement.explanation.to_string();
                    draft.record(Fact::TaskPlaced { task: id, node: placement.node, explanation });
                }
                Err(unplaceable) => {
                    let reason = unplaceable.to_string();
                    if job.blocked.get(spec_name) != Some(&reason) {
                        let (job, spec) = (job_key.clone(), spec_name.clone());
                        draft.record(Fact::PlacementBlocked { job, spec, reason });
                    }
                    break;
                }
            }
        }
    }
    true
}
