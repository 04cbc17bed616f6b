//! Silence: when a node is suspect, when it is lost, and when silence is not to be believed.
//!
//! A node that is declared lost costs restarts, so doubt goes to the node: timers begin anew with each reign
//! and after each loss of this manager's own connection; when over half of five or more nodes are silent,
//! the fault is more likely here, and nobody is declared lost until they return; and at most one node in
//! twenty (one at least) is declared lost within ten seconds. A manager that did not run for a while (it was
//! suspended, or starved) first reads what lies in its sockets. Where another machine asks to join under a silent
//! node's name, there is no doubt: this side hears, and the node is gone.

use longshore_proto::alarm::Severity;
use longshore_proto::name::NodeName;
use longshore_proto::state::NodeStatus;

use super::draft::Draft;
use super::eligibility::unproven;
use super::record::Fact;
use super::{Live, Settings, alarm, node};
use crate::time::Time;

/// The window for the brake, in milliseconds.
const BRAKE_WINDOW_MS: u64 = 10_000;
/// A look that comes so late, in milliseconds, says that this process did not run.
const STALL_MS: u64 = 2_000;
/// For how long it counts that another machine has asked for a node's name, in milliseconds: twice the longest
/// wait between two of its tries.
const CLAIM_MS: u64 = 60_000;
/// For how long it is told that a worker of another cluster has asked to join: longer than who starts it again may wait
/// between two of its tries.
const FOREIGN_MS: u64 = 120_000;
/// From how many nodes on it is believed that a mass silence is this side's fault.
const CROWD: usize = 5;
/// How many nodes or tasks an alarm names.
const SHOWN_MAX: usize = 3;

/// Looks at every node's silence. The look was due so many milliseconds ago.
pub(super) fn tick(draft: &mut Draft<'_>, live: &mut Live, settings: &Settings, late_ms: u64) {
    let now = draft.now.time;
    if late_ms >= STALL_MS {
        // What this process did not hear while it did not run is nobody's silence. A manager whose every record takes so
        // long still sees who is gone, only later.
        live.slept(late_ms - STALL_MS, now);
    }
    // Once only, for the same reason.
    live.stalled = late_ms >= STALL_MS && !live.stalled;
    if live.stalled {
        return;
    }
    live.claimed.retain(|_, at| now - *at < CLAIM_MS);
    fenced(draft, live);
    ahead(draft, live);
    live.foreign.retain(|_, (_, at)| now - *at < FOREIGN_MS);
    foreign(draft, live);
    if live.bus_lost_at.is_some() {
        live.alarms.insert(
            "bus",
            "this manager has lost its connection to NATS; silence of nodes means nothing".into(),
        );
        return;
    }
    live.alarms.remove("bus");
    let since = live.bus_back_at.unwrap_or_default().max(live.elected_at);
    let present: Vec<(NodeName, NodeStatus, u64)> = draft
        .state
        .nodes
        .iter()
        .filter(|(_, node)| matches!(node.status, NodeStatus::Ready | NodeStatus::Suspect))
        .map(|(name, node)| {
            let heard = live.nodes.get(name).map_or(since, |heard| heard.at.max(since));
            (name.clone(), node.status, now - heard)
        })
        .collect();
    let silent = present
        .iter()
        .filter(|(name, _, silence)| {
            *silence >= settings.suspect_after_ms && !live.claimed.contains_key(name)
        })
        .count();
    let frozen = present.len() >= CROWD && silent * 2 > present.len();
    if frozen {
        let text = format!(
            "{silent} of {} nodes fell silent together; none is declared lost until they return",
            present.len()
        );
        alarm::set(draft, live, "silence", Severity::Alarm, text);
    } else {
        let text = "silent nodes are judged again".to_owned();
        alarm::set(draft, live, "silence", Severity::Over, text);
    }
    while live.lost_at.front().is_some_and(|at| now - *at >= BRAKE_WINDOW_MS) {
        live.lost_at.pop_front();
    }
    let lost_max = (present.len() / 20).max(1);
    for (name, status, silence) in present {
        if draft.is_full() {
            return;
        }
        if status == NodeStatus::Ready && silence >= settings.suspect_after_ms {
            draft.state.fleet.set_measured(&name, None);
            let reason = format!("silent for {} s", silence / 1000);
            let status = NodeStatus::Suspect;
            draft.record(Fact::NodeStatusChanged { name: name.clone(), status, reason });
        }
        let believed = !frozen || live.claimed.contains_key(&name);
        if silence >= settings.lost_after_ms && believed && live.lost_at.len() < lost_max {
            live.lost_at.push_back(now);
            let reason = format!("silent for {} s", silence / 1000);
            let status = NodeStatus::Lost;
            draft.record(Fact::NodeStatusChanged { name: name.clone(), status, reason });
            node::touch_tasks(draft, live, &name);
        }
    }
}

impl Live {
    /// Moves on when everybody was heard last, by what this process has slept through.
    fn slept(&mut self, slept_ms: u64, now: Time) {
        let heard = self.nodes.values_mut().map(|heard| &mut heard.at);
        for at in heard.chain(self.bus_back_at.as_mut()).chain([&mut self.elected_at]) {
            *at = (*at + slept_ms).min(now);
        }
    }
}

/// Says that the log has lost records that nodes follow.
fn ahead(draft: &mut Draft<'_>, live: &mut Live) {
    let nodes = draft.state.nodes.iter();
    let ahead: Vec<_> =
        nodes.filter_map(|(name, node)| Some(format!("{name} follows {}", node.ahead?))).collect();
    if ahead.is_empty() {
        let text = "no node follows what the log has lost".to_owned();
        return alarm::set(draft, live, "ahead", Severity::Over, text);
    }
    let (count, known) = (ahead.len(), draft.state.nodes.len());
    let shown = ahead.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
    let more = count.saturating_sub(SHOWN_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let text = format!(
        "{count} of {known} nodes follow revisions of which the log has no record: {shown}{more}; they run on as they were \
         told, and are told nothing until you choose. Either the log has lost records: heal it with the manager that knows \
         more, if there is one, or go on from what this log holds: stop all managers, and start the one that leads now with \
         --heal-log first. Or a node is wrong, if it is that one alone: stop its worker, move its data directory away and \
         start it again, or, if the machine is gone, `longshore node rm NODE` (docs/operations.md, \"A lost log\")"
    );
    alarm::set(draft, live, "ahead", Severity::Critical, text);
}

/// Says that workers of another cluster are heard, or ask to join: perhaps this one was begun because the log of theirs was lost.
fn foreign(draft: &mut Draft<'_>, live: &mut Live) {
    let shown = live.foreign.iter().take(SHOWN_MAX);
    let shown: Vec<_> =
        shown.map(|(name, (cluster, _))| format!("{name} of cluster {cluster}")).collect();
    let count = live.foreign.len();
    if count == 0 {
        let text = "no worker of another cluster is heard".to_owned();
        return alarm::set(draft, live, "foreign", Severity::Over, text);
    }
    let more = count.saturating_sub(SHOWN_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let text = format!(
        "workers of another cluster are heard, and refused: {}{more}; what they run runs on. If this cluster was begun \
         because the log of theirs was lost, choose which is the truth (docs/operations.md, \"A lost log\"). Else point them \
         to their own cluster, or give each a fresh data directory",
        shown.join(", ")
    );
    alarm::set(draft, live, "foreign", Severity::Alarm, text);
}

/// Says that fenced jobs wait for an operator's word.
fn fenced(draft: &Draft<'_>, live: &mut Live) {
    let state = &*draft.state;
    let lost = state.nodes.iter().filter(|(_, node)| node.status == NodeStatus::Lost);
    let waiting: Vec<String> = lost
        .filter_map(|(name, node)| Some(format!("{} on {name}", unproven(state, node)?)))
        .collect();
    if waiting.is_empty() {
        live.alarms.remove("fence");
        return;
    }
    let (shown, more) = (
        waiting.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>(),
        waiting.len().saturating_sub(SHOWN_MAX),
    );
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let text = format!(
        "fenced tasks are on nodes that are lost, and wait for a proof that they have ended: {}{more}; make sure that the \
         machines have stopped, then `longshore node confirm-lost NODE`",
        shown.join(", ")
    );
    live.alarms.insert("fence", text);
}
