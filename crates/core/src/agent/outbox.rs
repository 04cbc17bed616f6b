//! Reports on their way to the leader: kept until it has them in its log, delivered in order.
//!
//! They are gathered for a moment, so that a burst of ends becomes one message, and one batch is under way
//! at a time. An answer that comes late or twice changes nothing, because it names a place, not a count.

use std::collections::BTreeMap;

use longshore_proto::id::TaskId;
use longshore_proto::node::{REPORTS_MAX, TaskReport};

use super::step::{Action, Write};

/// How long a report waits for company, in milliseconds.
pub(super) const GATHER_MS: u64 = 10;
/// How long after a failed delivery the next is tried, in milliseconds.
pub(super) const RETRY_MS: u64 = 1_000;
/// How many reports are held before old ones give way to newer ones of the same task: the leader would
/// ignore those anyway, and a worker that is alone for weeks must not fill its disk.
pub(super) const HELD_MAX: usize = 10_000;
/// The longest reason in a report, in bytes: a whole batch stays far below the largest payload.
const REASON_BYTES_MAX: usize = 400;

/// The reports that the leader has not answered for.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    reports: BTreeMap<u64, TaskReport>,
    sequence_next: u64,
    /// The last place of the batch that is under way.
    under_way: Option<u64>,
    /// The highest place that was ever sent: an answer cannot be for more.
    sent: u64,
    send_at_ms: Option<u64>,
}

impl Outbox {
    pub(super) fn restore(reports: Vec<(u64, TaskReport)>, now_ms: u64) -> Self {
        let reports: BTreeMap<u64, TaskReport> = reports.into_iter().collect();
        let sequence_next = reports.last_key_value().map_or(1, |(last, _)| last + 1);
        let send_at_ms = (!reports.is_empty()).then_some(now_ms);
        Self { reports, sequence_next, under_way: None, sent: 0, send_at_ms }
    }

    /// Takes a report in and gives its place.
    pub(super) fn push(
        &mut self,
        mut report: TaskReport,
        now_ms: u64,
        writes: &mut Vec<Write>,
    ) -> u64 {
        if let Some(reason) = &mut report.reason {
            truncate(reason, REASON_BYTES_MAX);
        }
        if self.reports.len() >= HELD_MAX {
            self.thin_out(&report, writes);
        }
        let sequence = self.sequence_next;
        self.sequence_next += 1;
        writes.push(Write::Report { sequence, report: report.clone() });
        self.reports.insert(sequence, report);
        let gathered_at_ms = now_ms.saturating_add(GATHER_MS);
        self.send_at_ms.get_or_insert(gathered_at_ms);
        sequence
    }

    /// Drops the oldest report of the same task that says less than the coming one and is not under way.
    fn thin_out(&mut self, coming: &TaskReport, writes: &mut Vec<Write>) {
        let from = self.under_way.map_or(0, |through| through + 1);
        let old = self
            .reports
            .range(from..)
            .find(|(_, held)| held.task == coming.task && !held.state.is_terminal())
            .map(|(sequence, _)| *sequence);
        if let Some(sequence) = old {
            self.reports.remove(&sequence);
            writes.push(Write::ReportDropped(sequence));
        }
    }

    /// The next batch, when it is time for one.
    pub(super) fn poll(&mut self, now_ms: u64) -> Option<Action> {
        if self.under_way.is_some() || self.send_at_ms.is_none_or(|at| at > now_ms) {
            return None;
        }
        self.send_at_ms = None;
        let batch: Vec<_> = self.reports.iter().take(REPORTS_MAX).collect();
        let through = *batch.last()?.0;
        let reports = batch.into_iter().map(|(_, report)| report.clone()).collect();
        self.under_way = Some(through);
        self.sent = self.sent.max(through);
        Some(Action::SendReports { through, reports })
    }

    /// The reports up to a place are in the log. Gives the place up to which that is believed.
    pub(super) fn acked(&mut self, through: u64, now_ms: u64, writes: &mut Vec<Write>) -> u64 {
        let through = through.min(self.sent);
        let later = self.reports.split_off(&through.saturating_add(1));
        let delivered = std::mem::replace(&mut self.reports, later);
        writes.extend(delivered.into_keys().map(Write::ReportDropped));
        if self.under_way.is_some_and(|last| last <= through) {
            self.under_way = None;
            self.send_at_ms = (!self.reports.is_empty()).then_some(now_ms);
        }
        through
    }

    /// The batch under way was not delivered, as far as known.
    pub(super) fn failed(&mut self, now_ms: u64) {
        if self.under_way.take().is_some() {
            self.send_at_ms = Some(now_ms.saturating_add(RETRY_MS));
        }
    }

    /// The leader is there again: no need to wait.
    pub(super) fn hurry(&mut self, now_ms: u64) {
        if !self.reports.is_empty() {
            self.send_at_ms = Some(now_ms);
        }
    }

    /// When there is something to do.
    pub(super) fn wakeup(&self) -> Option<u64> {
        if self.under_way.is_some() { None } else { self.send_at_ms }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// Whether a report of the task waits here.
    pub(super) fn has(&self, task: TaskId) -> bool {
        self.reports.values().any(|report| report.task == task)
    }
}

/// Cuts a text to at most `length` bytes, at a character's edge.
fn truncate(text: &mut String, length: usize) {
    if text.len() > length {
        text.truncate(text.floor_char_boundary(length));
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::id::BootId;
    use longshore_proto::state::TaskState;

    use super::*;

    fn report(task: u128, attempt: u64, state: TaskState) -> TaskReport {
        TaskReport {
            task: TaskId(uuid_of(task)),
            attempt,
            state,
            boot_id: BootId(uuid_of(9)),
            container_id: None,
            exit_code: None,
            reason: None,
            ports: Vec::new(),
            health: None,
            pulls_failed: 0,
            at_ms: 0,
        }
    }

    fn uuid_of(number: u128) -> uuid::Uuid {
        uuid::Uuid::from_u128(number)
    }

    fn sent(outbox: &mut Outbox, now_ms: u64) -> Option<(u64, usize)> {
        match outbox.poll(now_ms)? {
            Action::SendReports { through, reports } => Some((through, reports.len())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reports_are_gathered_and_sent_in_batches_one_at_a_time() {
        let mut outbox = Outbox::restore(vec![], 0);
        let mut writes = Vec::new();
        for number in 0..300 {
            outbox.push(report(number, 1, TaskState::Running), 0, &mut writes);
        }
        assert_eq!(sent(&mut outbox, GATHER_MS - 1), None);
        assert_eq!(sent(&mut outbox, GATHER_MS), Some((256, 256)));
        assert_eq!(sent(&mut outbox, GATHER_MS), None, "one batch is under way");
        assert_eq!(outbox.acked(256, 20, &mut writes), 256);
        assert_eq!(sent(&mut outbox, 20), Some((300, 44)));
        outbox.acked(300, 30, &mut writes);
        assert!(outbox.is_empty());
        assert_eq!(outbox.wakeup(), None);
    }

    #[test]
    fn a_batch_that_failed_is_sent_again_and_a_late_answer_does_no_harm() {
        let mut outbox = Outbox::restore(vec![], 0);
        let mut writes = Vec::new();
        outbox.push(report(1, 1, TaskState::Running), 0, &mut writes);
        assert_eq!(sent(&mut outbox, 10), Some((1, 1)));
        outbox.failed(20);
        assert_eq!(sent(&mut outbox, 20), None);
        outbox.push(report(2, 1, TaskState::Running), 20, &mut writes);
        assert_eq!(sent(&mut outbox, 20 + RETRY_MS), Some((2, 2)));
        outbox.acked(1, 1_030, &mut writes);
        assert!(!outbox.is_empty(), "the answer to the first try covers only the first report");
        outbox.acked(2, 1_040, &mut writes);
        assert!(outbox.is_empty());
        outbox.push(report(3, 1, TaskState::Running), 1_050, &mut writes);
        assert_eq!(
            outbox.acked(u64::MAX, 1_051, &mut writes),
            2,
            "what was never sent is not delivered"
        );
        assert!(!outbox.is_empty());
    }

    #[test]
    fn a_full_outbox_keeps_the_newest_of_each_task_and_every_end() {
        let mut outbox = Outbox::restore(vec![], 0);
        let mut writes = Vec::new();
        outbox.push(report(7, 1, TaskState::Completed), 0, &mut writes);
        for attempt in 0..HELD_MAX as u64 + 50 {
            outbox.push(report(1, attempt + 1, TaskState::Running), 0, &mut writes);
        }
        assert_eq!(outbox.reports.len(), HELD_MAX);
        assert!(outbox.has(TaskId(uuid_of(7))));
        let dropped =
            writes.iter().filter(|write| matches!(write, Write::ReportDropped(_))).count();
        assert_eq!(dropped, 51);
    }

    #[test]
    fn what_was_held_is_delivered_first_by_the_next_run() {
        let held =
            vec![(5, report(1, 1, TaskState::Running)), (6, report(1, 1, TaskState::Completed))];
        let mut outbox = Outbox::restore(held, 100);
        assert_eq!(outbox.push(report(2, 1, TaskState::Running), 100, &mut Vec::new()), 7);
        assert_eq!(sent(&mut outbox, 100), Some((7, 3)));
    }

    #[test]
    fn a_long_reason_is_cut() {
        let mut writes = Vec::new();
        let mut long = report(1, 1, TaskState::Failed);
        long.reason = Some("é".repeat(1_000));
        Outbox::restore(vec![], 0).push(long, 0, &mut writes);
        let Some(Write::Report { report, .. }) = writes.first() else { panic!("{writes:?}") };
        assert!(report.reason.as_ref().unwrap().len() <= REASON_BYTES_MAX + 3);
    }
}
