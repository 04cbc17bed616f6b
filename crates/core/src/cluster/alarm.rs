//! What an operator should know of: an alarm for each thing, from when it began until it is over.
//!
//! That it began, or is worse, is a fact and so an event, once; how it stands just now (a count, a percentage) is in
//! the words that the leader shows, and costs no record.

use longshore_proto::alarm::Severity;

use super::draft::Draft;
use super::record::Fact;
use super::{Cluster, Live};

/// Notes how bad something is.
pub(super) fn set(
    draft: &mut Draft<'_>,
    live: &mut Live,
    about: &'static str,
    severity: Severity,
    text: String,
) {
    let known = draft.state.meta.alarms.get(about).map_or(Severity::Over, |(known, _)| *known);
    if severity == Severity::Over {
        live.alarms.remove(about);
    } else {
        live.alarms.insert(about, text.clone());
    }
    if severity != known {
        draft.record(Fact::AlarmChanged { about: about.to_owned(), severity, text });
    }
}

impl Cluster {
    /// What to look at soon, and what to look at now, in words. A manager that only follows knows the words of when
    /// each began.
    pub(super) fn alarms(&self) -> (Vec<String>, Vec<String>) {
        let recorded = &self.state.meta.alarms;
        let mut all: Vec<(Severity, String)> = Vec::new();
        for (about, text) in &self.live.alarms {
            let severity = recorded.get(*about).map_or(Severity::Alarm, |(severity, _)| *severity);
            all.push((severity, text.clone()));
        }
        let only_recorded =
            recorded.iter().filter(|(about, _)| !self.live.alarms.contains_key(about.as_str()));
        all.extend(only_recorded.map(|(_, alarm)| alarm.clone()));
        let (warnings, alarms): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(severity, _)| *severity <= Severity::Warning);
        let words = |all: Vec<(Severity, String)>| all.into_iter().map(|(_, text)| text).collect();
        (words(warnings), words(alarms))
    }
}
