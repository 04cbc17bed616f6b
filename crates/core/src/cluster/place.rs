//! Waiting tasks to nodes: in the order of priority, then the largest first.
//!
//! E-PVM places best when large tasks come first, so what waits is drained in that order and not in the order
//! of arrival. Tasks of one spec and version are alike: when one does not fit, none of them does, and the rest
//! of the group is not tried.

use longshore_scheduler::{Demand, Policy, Reason, Unplaceable};

use super::draft::Draft;
use super::record::Fact;
use super::state::WaitingKey;
use super::{Live, Settings};
use crate::time::Time;

/// How often a reason is told anew of which only the figures have changed, in milliseconds: what waits is looked
/// at whenever something ends, and the log is not for counting along.
const RETELL_MS: u64 = 10_000;

/// Why something waits, as it was told last.
#[derive(Debug)]
pub(super) struct Blocked {
    at: Time,
    reasons: Vec<Reason>,
}

/// Places what fits. False when the record is full and something was left untried.
pub(super) fn waiting(draft: &mut Draft<'_>, live: &mut Live, settings: &Settings) -> bool {
    let groups: Vec<WaitingKey> = draft.state.waiting.keys().cloned().collect();
    for key in groups {
        let (_, _, job_key, spec_name, version) = &key;
        while let Some(id) = draft.state.waiting.get(&key).and_then(|group| group.first().copied())
        {
            if draft.is_full() {
                return false;
            }
            let state = &*draft.state;
            let Some(job) = state.jobs.get(job_key) else { break };
            let Some(job_spec) = job.versions.get(version) else { break };
            let Some(spec) = job_spec.spec(spec_name) else { break };
            let kind = job_spec.scheduler.unwrap_or(settings.scheduler);
            let policy = Policy::new(kind, state.meta.round_robin_last.as_ref());
            let kin = state.fleet.find_kin(job_key, spec_name);
            let image = state.fleet.find_image(&spec.image);
            let demand = Demand::of_spec(job_spec, spec, kin, image);
            match live.scheduler.place(&state.fleet, &demand, policy) {
                Ok(placement) => {
                    let explanation = placement.explanation.to_string();
                    draft.record(Fact::TaskPlaced { task: id, node: placement.node, explanation });
                }
                Err(mut unplaceable) => {
                    let group = (job_key.clone(), spec_name.clone());
                    let told = job.blocked.contains_key(spec_name);
                    let before = live.blocked.get(&group).filter(|_| told);
                    if is_news(before, &unplaceable, draft.now.time) {
                        unplaceable.look_closer(&state.fleet, &demand);
                        let reasons = reasons(&unplaceable);
                        live.blocked.insert(group.clone(), Blocked { at: draft.now.time, reasons });
                        let reason = unplaceable.to_string();
                        if job.blocked.get(spec_name) != Some(&reason) {
                            let (job, spec) = group;
                            draft.record(Fact::PlacementBlocked { job, spec, reason });
                        }
                    }
                    break;
                }
            }
        }
    }
    let waits = &draft.state.waiting;
    if waits.is_empty() {
        live.blocked.clear();
    }
    true
}

/// Whether a reason is worth telling.
fn is_news(before: Option<&Blocked>, unplaceable: &Unplaceable, now: Time) -> bool {
    before
        .is_none_or(|before| before.reasons != reasons(unplaceable) || now >= before.at + RETELL_MS)
}

fn reasons(unplaceable: &Unplaceable) -> Vec<Reason> {
    unplaceable.rejected.iter().map(|(reason, _)| reason).collect()
}
